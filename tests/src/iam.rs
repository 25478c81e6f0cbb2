//! The IAM policies of `ami/iam`, and what they mean: an evaluator of the part of
//! IAM's language that they use, because the simulated AWS enforces actions only
//! and reads no condition. What it does not know is an error, never a guess.
//!
//! From the IAM user guide, "Policy evaluation logic" and "IAM JSON policy
//! elements: Condition operators": values of one key are alternatives, keys and
//! operators must all hold; a missing key fails a condition, but satisfies a
//! negated one and `ForAllValues`; the segments of an ARN are compared one by one.

mod comparison;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use privnet_model::config::hub::Glob;
use serde_json::Value;

pub use comparison::says_the_same;

/// The hub's permissions.
pub const HUB: &str = include_str!("../../ami/iam/hub-policy.json");
/// A spoke's permissions.
pub const SPOKE: &str = include_str!("../../ami/iam/spoke-policy.json");
/// What a spoke needs in addition to serve route tables.
pub const ROUTES: &str = include_str!("../../ami/iam/routes-policy.json");
/// What it needs in addition to switch off its source/destination check.
pub const SOURCE_DEST_CHECK: &str = include_str!("../../ami/iam/source-dest-check-policy.json");
/// What it needs in addition to have an Elastic IP.
pub const ADDRESS: &str = include_str!("../../ami/iam/address-policy.json");
/// What it needs in addition to restart siblings or report them.
pub const REMEDY: &str = include_str!("../../ami/iam/remedy-policy.json");
/// What both need in addition to read the fleet's secret in SSM.
pub const SECRET: &str = include_str!("../../ami/iam/secret-policy.json");
/// What the hub needs in addition to read its private key there.
pub const HUB_KEY: &str = include_str!("../../ami/iam/hub-key-policy.json");
/// What the hub needs in addition to read its static sites' keys there.
pub const SITE_SECRET: &str = include_str!("../../ami/iam/site-secret-policy.json");
/// What both need in addition to read their configuration there.
pub const CONFIG: &str = include_str!("../../ami/iam/config-policy.json");
/// What hub and spokes need in addition for all that `doctor` looks at.
pub const DOCTOR: &str = include_str!("../../ami/iam/doctor-policy.json");
/// Who may have the hub's and the spokes' role.
pub const TRUST: &str = include_str!("../../ami/iam/trust-policy.json");
/// What the hub may do in another account.
pub const DISCOVERY: &str = include_str!("../../ami/iam/discovery-policy.json");
/// Who may have the role for that.
pub const DISCOVERY_TRUST: &str = include_str!("../../ami/iam/discovery-trust-policy.json");
/// What nobody else may do.
pub const ORGANIZATION: &str = include_str!("../../ami/iam/organization-policy.json");

/// What somebody asks AWS to do.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `service:Action`.
    pub action: String,
    /// The ARN that it is done to; `*` where the action has none.
    pub resource: String,
    /// The condition keys, in small letters, with their values.
    pub context: BTreeMap<String, Vec<String>>,
}

impl Request {
    /// An action on a resource.
    pub fn new(action: &str, resource: &str) -> Self {
        Self {
            action: action.to_owned(),
            resource: resource.to_owned(),
            context: BTreeMap::new(),
        }
    }

    /// The same with a condition key.
    #[must_use]
    pub fn with(mut self, key: &str, values: &[&str]) -> Self {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        self.context.insert(key.to_lowercase(), values);
        self
    }
}

/// What one policy says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A statement allows it, and none denies it.
    Allowed,
    /// A statement denies it.
    Denied,
    /// No statement is about it; where nothing else allows it, it is refused.
    Silent,
}

/// What a policy says of a request.
pub fn judge(policy: &str, request: &Request) -> Result<Verdict> {
    let policy: Value = serde_json::from_str(policy).context("the policy is no JSON")?;
    let mut verdict = Verdict::Silent;
    for statement in statements(&policy)? {
        if !applies(statement, request).with_context(|| statement.to_string())? {
            continue;
        }
        match statement.get("Effect").and_then(Value::as_str) {
            Some("Deny") => return Ok(Verdict::Denied),
            Some("Allow") => verdict = Verdict::Allowed,
            other => bail!("the effect is {other:?}"),
        }
    }
    Ok(verdict)
}

/// The actions that a policy allows or denies, `service:Action` each.
pub fn actions(policy: &str) -> Result<BTreeSet<String>> {
    let policy: Value = serde_json::from_str(policy).context("the policy is no JSON")?;
    let mut actions = BTreeSet::new();
    for statement in statements(&policy)? {
        let of_it = texts(statement.get("Action").context("no Action")?)?;
        actions.extend(of_it.into_iter().map(str::to_owned));
    }
    Ok(actions)
}

/// The actions that the policies of ours allow somebody.
pub fn all_actions() -> Result<BTreeSet<String>> {
    let all = [
        HUB,
        HUB_KEY,
        SPOKE,
        ROUTES,
        SOURCE_DEST_CHECK,
        ADDRESS,
        REMEDY,
        SECRET,
        SITE_SECRET,
        CONFIG,
        DOCTOR,
        DISCOVERY,
    ];
    let all = all.into_iter().map(actions).collect::<Result<Vec<_>>>()?;
    Ok(all.into_iter().flatten().collect())
}

fn statements(policy: &Value) -> Result<&Vec<Value>> {
    policy
        .get("Statement")
        .and_then(Value::as_array)
        .context("the policy has no list of statements")
}

fn applies(statement: &Value, request: &Request) -> Result<bool> {
    let elements = statement.as_object().context("a statement is an object")?;
    let mut applies = true;
    for (element, value) in elements {
        applies &= match element.as_str() {
            "Sid" | "Effect" => true,
            "Action" => texts(value)?.iter().any(|pattern| {
                Glob::new(&pattern.to_lowercase()).matches(&request.action.to_lowercase())
            }),
            "Resource" => texts(value)?
                .iter()
                .any(|pattern| *pattern == "*" || arn_matches(pattern, &request.resource)),
            "Principal" => principal_matches(value, request)?,
            "Condition" => conditions_hold(value, request)?,
            other => bail!("the element {other} is not known here"),
        };
    }
    Ok(applies)
}

fn principal_matches(principal: &Value, request: &Request) -> Result<bool> {
    let (kind, name) = principal
        .as_object()
        .and_then(|object| object.iter().next())
        .context("a principal is an object")?;
    let key = match kind.as_str() {
        "AWS" => "aws:principalarn",
        "Service" => "aws:principalservicename",
        other => bail!("a principal of kind {other} is not known here"),
    };
    let asks = request.context.get(key).map_or(&[][..], Vec::as_slice);
    Ok(texts(name)?
        .iter()
        .any(|name| asks.iter().any(|who| who == name)))
}

fn conditions_hold(conditions: &Value, request: &Request) -> Result<bool> {
    let operators = conditions.as_object().context("conditions are an object")?;
    let mut hold = true;
    for (operator, keys) in operators {
        let keys = keys.as_object().context("an operator has keys")?;
        for (key, expected) in keys {
            let expected: Vec<String> = texts(expected)?
                .into_iter()
                .map(|text| with_variables(text, request))
                .collect::<Result<_>>()?;
            let actual = request.context.get(&key.to_lowercase());
            hold &= condition_holds(operator, &expected, actual.map(Vec::as_slice))?;
        }
    }
    Ok(hold)
}

fn condition_holds(operator: &str, expected: &[String], actual: Option<&[String]>) -> Result<bool> {
    let (quantifier, comparison) = operator.split_once(':').unwrap_or(("", operator));
    let matches = |value: &String| -> Result<bool> {
        Ok(match comparison {
            "StringEquals" => expected.contains(value),
            "StringLike" => expected
                .iter()
                .any(|pattern| Glob::new(pattern).matches(value)),
            "ArnEquals" | "ArnLike" | "ArnNotLike" => {
                expected.iter().any(|pattern| arn_matches(pattern, value))
            }
            other => bail!("the operator {other} is not known here"),
        })
    };
    let matching = actual
        .unwrap_or_default()
        .iter()
        .map(matches)
        .collect::<Result<Vec<_>>>()?;
    Ok(match (quantifier, comparison) {
        ("", "ArnNotLike") => !matching.contains(&true),
        ("", _) => matching.contains(&true),
        ("ForAnyValue", "StringEquals" | "StringLike") => matching.contains(&true),
        ("ForAllValues", "StringEquals" | "StringLike") => !matching.contains(&false),
        _ => bail!("the operator {operator} is not known here"),
    })
}

/// The text with the values of the policy variables in it.
fn with_variables(text: &str, request: &Request) -> Result<String> {
    let Some((before, rest)) = text.split_once("${") else {
        return Ok(text.to_owned());
    };
    let (name, after) = rest.split_once('}').context("a variable without an end")?;
    let value = match request.context.get(&name.to_lowercase()).map(Vec::as_slice) {
        Some([value]) => value,
        // As IAM has it: a condition with a variable of no value never holds.
        _ => "\u{0}",
    };
    Ok(format!(
        "{before}{value}{}",
        with_variables(after, request)?
    ))
}

fn arn_matches(pattern: &str, arn: &str) -> bool {
    let pattern: Vec<&str> = pattern.splitn(6, ':').collect();
    let arn: Vec<&str> = arn.splitn(6, ':').collect();
    pattern.len() == arn.len()
        && pattern
            .iter()
            .zip(arn)
            .all(|(pattern, part)| Glob::new(pattern).matches(part))
}

/// A text or a list of texts.
fn texts(value: &Value) -> Result<Vec<&str>> {
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(values) => values
            .iter()
            .map(|value| {
                value
                    .as_str()
                    .context("a list holds something else than texts")
            })
            .collect(),
        other => bail!("{other} is neither a text nor a list"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    const SPOKE_A: &str = "arn:aws:ec2:us-west-2:111122223333:instance/i-0a";
    const SPOKE_B: &str = "arn:aws:ec2:us-west-2:111122223333:instance/i-0b";
    const SPOKE_ROLE: &str = "arn:aws:iam::111122223333:role/privnet-spoke";
    const PIPELINE: &str = "arn:aws:iam::111122223333:role/privnet-launch";
    const DEVELOPER: &str = "arn:aws:iam::111122223333:role/developer";

    fn verdict(policy: &str, request: &Request) -> Verdict {
        judge(policy, request).unwrap()
    }

    /// Spoke A's own credentials, used to tag this instance with these keys.
    fn spoke_a_tags(instance: &str, keys: &[&str]) -> Request {
        let (_, id) = instance.split_once('/').unwrap();
        Request::new("ec2:CreateTags", instance)
            .with("ec2:SourceInstanceARN", &[SPOKE_A])
            .with("ec2:InstanceID", &[id])
            .with("aws:TagKeys", keys)
    }

    #[test]
    fn a_spoke_tags_itself_and_nothing_else() {
        let ours = ["privnet:public-key", "privnet:port", "privnet:transport"];
        let judge = |request: &Request| verdict(SPOKE, request);
        assert_eq!(judge(&spoke_a_tags(SPOKE_A, &ours)), Verdict::Allowed);
        assert_eq!(judge(&spoke_a_tags(SPOKE_A, &ours[..1])), Verdict::Allowed);
        assert_eq!(judge(&spoke_a_tags(SPOKE_B, &ours)), Verdict::Silent);
        assert_eq!(
            judge(&spoke_a_tags(SPOKE_A, &["privnet:public-key", "service"])),
            Verdict::Silent
        );
        let mut elsewhere = spoke_a_tags(SPOKE_A, &ours);
        elsewhere.context.remove("ec2:sourceinstancearn");
        assert_eq!(judge(&elsewhere), Verdict::Silent, "not from an instance");
        for action in [
            "ec2:DeleteTags",
            "ec2:DescribeInstances",
            "ec2:RunInstances",
        ] {
            let request = Request {
                action: action.to_owned(),
                ..spoke_a_tags(SPOKE_A, &ours)
            };
            assert_eq!(judge(&request), Verdict::Silent, "{action}");
        }
    }

    #[test]
    fn the_tags_of_the_spokes_policy_are_those_that_spokes_write() {
        use privnet_model::inventory::{PORT_TAG, PUBLIC_KEY_TAG, TRANSPORT_TAG};
        let all = spoke_a_tags(SPOKE_A, &[PUBLIC_KEY_TAG, PORT_TAG, TRANSPORT_TAG]);
        assert_eq!(verdict(SPOKE, &all), Verdict::Allowed);
    }

    const EC2: &str = "arn:aws:ec2:us-west-2:111122223333";

    fn describes(policy: &str, action: &str, region: &str) -> Verdict {
        let request = Request::new(action, "*").with("aws:RequestedRegion", &[region]);
        verdict(policy, &request)
    }

    #[test]
    fn a_spoke_sees_its_vpc_and_changes_routes_of_the_named_tables_only() {
        for action in [
            "DescribeInstances",
            "DescribeSubnets",
            "DescribeRouteTables",
        ] {
            let judge = |region| describes(ROUTES, &format!("ec2:{action}"), region);
            assert_eq!(judge("us-west-2"), Verdict::Allowed, "{action}");
            assert_eq!(judge("eu-west-1"), Verdict::Silent, "{action}");
        }
        let judge = |action: &str, table: &str| {
            let table = format!("{EC2}:route-table/{table}");
            verdict(ROUTES, &Request::new(action, &table))
        };
        for action in ["ec2:CreateRoute", "ec2:ReplaceRoute"] {
            for table in [
                "rtb-0aaaaaaaaaaaaaaaa",
                "rtb-0bbbbbbbbbbbbbbbb",
                "rtb-0cccccccccccccccc",
            ] {
                assert_eq!(judge(action, table), Verdict::Allowed, "{action} {table}");
            }
            assert_eq!(judge(action, "rtb-0dddddddddddddddd"), Verdict::Silent);
        }
        for action in [
            "ec2:DeleteRoute",
            "ec2:DeleteRouteTable",
            "ec2:AssociateRouteTable",
        ] {
            assert_eq!(
                judge(action, "rtb-0aaaaaaaaaaaaaaaa"),
                Verdict::Silent,
                "{action}"
            );
        }
    }

    /// The interface of a spoke, or of something else.
    fn at_interface(action: &str, vpc: &str, service: &str) -> Request {
        Request::new(action, &format!("{EC2}:network-interface/eni-0a"))
            .with("ec2:Vpc", &[&format!("{EC2}:vpc/{vpc}")])
            .with("ec2:ResourceTag/service", &[service])
    }

    #[test]
    fn a_spoke_stops_and_reports_spokes_only() {
        let profile = |name: &str| format!("arn:aws:iam::111122223333:instance-profile/{name}");
        let judge = |action: &str, name: &str, service: &str| {
            let request = Request::new(action, SPOKE_B)
                .with("ec2:InstanceProfile", &[&profile(name)])
                .with("ec2:ResourceTag/service", &[service]);
            verdict(REMEDY, &request)
        };
        for action in ["ec2:StopInstances", "ec2:StartInstances"] {
            assert_eq!(judge(action, "privnet-spoke", "nat"), Verdict::Allowed);
            assert_eq!(judge(action, "privnet-hub", "nat"), Verdict::Silent);
            assert_eq!(judge(action, "privnet-spoke", "web"), Verdict::Silent);
            let bare = Request::new(action, SPOKE_B);
            assert_eq!(verdict(REMEDY, &bare), Verdict::Silent, "{action}");
        }
        for action in [
            "ec2:TerminateInstances",
            "ec2:RebootInstances",
            "ec2:RunInstances",
        ] {
            assert_eq!(judge(action, "privnet-spoke", "nat"), Verdict::Silent);
        }
        let group = |action: &str, service: &str| {
            let group = "arn:aws:autoscaling:us-west-2:111122223333:autoScalingGroup:7:\
                         autoScalingGroupName/spokes";
            let request = Request::new(action, group);
            verdict(
                REMEDY,
                &request.with("autoscaling:ResourceTag/service", &[service]),
            )
        };
        let report = "autoscaling:SetInstanceHealth";
        assert_eq!(group(report, "nat"), Verdict::Allowed);
        assert_eq!(group(report, "web"), Verdict::Silent);
        let other = "autoscaling:SetDesiredCapacity";
        assert_eq!(group(other, "nat"), Verdict::Silent);
    }

    #[test]
    fn a_spoke_changes_the_check_of_spokes_interfaces_in_its_vpc_only() {
        let describe = "ec2:DescribeNetworkInterfaces";
        assert_eq!(
            describes(SOURCE_DEST_CHECK, describe, "us-west-2"),
            Verdict::Allowed
        );
        assert_eq!(
            describes(SOURCE_DEST_CHECK, describe, "eu-west-1"),
            Verdict::Silent
        );
        let own = "vpc-0123456789abcdef0";
        let modify = "ec2:ModifyNetworkInterfaceAttribute";
        let judge =
            |action, vpc, service| verdict(SOURCE_DEST_CHECK, &at_interface(action, vpc, service));
        assert_eq!(judge(modify, own, "nat"), Verdict::Allowed);
        assert_eq!(judge(modify, own, "web"), Verdict::Silent);
        assert_eq!(
            judge(modify, "vpc-0fedcba9876543210", "nat"),
            Verdict::Silent
        );
        assert_eq!(
            judge("ec2:DetachNetworkInterface", own, "nat"),
            Verdict::Silent
        );
        // EC2 asks for this, too, when the interface's groups are to change.
        let group = Request::new(modify, &format!("{EC2}:security-group/sg-0a"));
        assert_eq!(verdict(SOURCE_DEST_CHECK, &group), Verdict::Silent);
    }

    /// EC2 asks for the permission on the address and on the interface.
    #[test]
    fn a_spoke_has_the_named_addresses_at_spokes_interfaces_only() {
        assert_eq!(
            describes(ADDRESS, "ec2:DescribeAddresses", "us-west-2"),
            Verdict::Allowed
        );
        assert_eq!(
            describes(ADDRESS, "ec2:DescribeAddresses", "eu-west-1"),
            Verdict::Silent
        );
        let address = |action: &str, id: &str| {
            verdict(
                ADDRESS,
                &Request::new(action, &format!("{EC2}:elastic-ip/{id}")),
            )
        };
        let (associate, named) = ("ec2:AssociateAddress", "eipalloc-0123456789abcdef0");
        assert_eq!(address(associate, named), Verdict::Allowed);
        assert_eq!(
            address(associate, "eipalloc-0fedcba9876543210"),
            Verdict::Silent
        );
        assert_eq!(address("ec2:ReleaseAddress", named), Verdict::Silent);
        let own = "vpc-0123456789abcdef0";
        let judge = |vpc, service| verdict(ADDRESS, &at_interface(associate, vpc, service));
        assert_eq!(judge(own, "nat"), Verdict::Allowed);
        assert_eq!(judge(own, "web"), Verdict::Silent);
        assert_eq!(judge("vpc-0fedcba9876543210", "nat"), Verdict::Silent);
    }

    #[test]
    fn the_hub_and_the_discovery_role_describe_in_their_regions_and_change_nothing() {
        for policy in [HUB, DISCOVERY] {
            let judge = |action: &str, region: &str| {
                let request = Request::new(action, "*").with("aws:RequestedRegion", &[region]);
                verdict(policy, &request)
            };
            for action in ["DescribeInstances", "DescribeVpcs", "DescribeSubnets"] {
                let action = format!("ec2:{action}");
                assert_eq!(judge(&action, "eu-west-1"), Verdict::Allowed, "{action}");
                assert_eq!(judge(&action, "sa-east-1"), Verdict::Silent, "{action}");
            }
            assert_eq!(judge("ec2:DescribeRegions", "us-west-2"), Verdict::Allowed);
            for action in ["ec2:CreateTags", "ec2:DescribeImages", "iam:ListRoles"] {
                assert_eq!(judge(action, "us-west-2"), Verdict::Silent, "{action}");
            }
        }
    }

    #[test]
    fn the_doctor_sees_in_its_region_what_surrounds_an_instance_and_changes_nothing() {
        for action in [
            "DescribeInstances",
            "DescribeSecurityGroups",
            "DescribeNetworkAcls",
            "DescribeRouteTables",
            "DescribeSubnets",
        ] {
            let action = &format!("ec2:{action}");
            assert_eq!(describes(DOCTOR, action, "us-west-2"), Verdict::Allowed);
            assert_eq!(describes(DOCTOR, action, "eu-west-1"), Verdict::Silent);
        }
        for action in [
            "AuthorizeSecurityGroupIngress",
            "CreateTags",
            "DescribeImages",
        ] {
            let action = &format!("ec2:{action}");
            assert_eq!(describes(DOCTOR, action, "us-west-2"), Verdict::Silent);
        }
    }

    #[test]
    fn the_hub_assumes_the_roles_that_are_named_and_no_other() {
        let assume = |role: &str| verdict(HUB, &Request::new("sts:AssumeRole", role));
        assert_eq!(
            assume("arn:aws:iam::222222222222:role/privnet-discovery"),
            Verdict::Allowed
        );
        assert_eq!(
            assume("arn:aws:iam::222222222222:role/admin"),
            Verdict::Silent
        );
        assert_eq!(
            assume("arn:aws:iam::333333333333:role/privnet-discovery"),
            Verdict::Silent
        );
        let elsewhere = Request::new(
            "sts:AssumeRole",
            "arn:aws:iam::222222222222:role/privnet-discovery",
        );
        assert_eq!(verdict(DISCOVERY, &elsewhere), Verdict::Silent);
    }

    #[test]
    fn the_discovery_role_is_for_the_hubs_role_with_the_external_id() {
        let judge = |who: &str, id: Option<&str>| {
            let request = Request::new("sts:AssumeRole", "*").with("aws:PrincipalArn", &[who]);
            let request = match id {
                Some(id) => request.with("sts:ExternalId", &[id]),
                None => request,
            };
            verdict(DISCOVERY_TRUST, &request)
        };
        let hub = "arn:aws:iam::111122223333:role/privnet-hub";
        let id = Some("put-a-long-random-text-here");
        assert_eq!(judge(hub, id), Verdict::Allowed);
        assert_eq!(judge(hub, None), Verdict::Silent);
        assert_eq!(judge(hub, Some("another")), Verdict::Silent);
        assert_eq!(judge(SPOKE_ROLE, id), Verdict::Silent);
    }

    #[test]
    fn instances_may_have_the_roles() {
        let judge = |service: &str| {
            let request =
                Request::new("sts:AssumeRole", "*").with("aws:PrincipalServiceName", &[service]);
            verdict(TRUST, &request)
        };
        assert_eq!(judge("ec2.amazonaws.com"), Verdict::Allowed);
        assert_eq!(judge("lambda.amazonaws.com"), Verdict::Silent);
    }

    /// What the organisation's policy says when somebody tags an instance so.
    fn organization(who: &str, action: &str, context: &[(&str, &[&str])]) -> Verdict {
        let mut request = Request::new(action, SPOKE_A).with("aws:PrincipalArn", &[who]);
        for (key, values) in context {
            request = request.with(key, values);
        }
        verdict(ORGANIZATION, &request)
    }

    #[test]
    fn nobody_but_spokes_and_the_pipeline_sets_our_tags() {
        for keys in [
            &["privnet:public-key"][..],
            &["Name", "privnet:port"],
            &["privnet:anything"],
        ] {
            for action in ["ec2:CreateTags", "ec2:DeleteTags"] {
                let judge = |who| organization(who, action, &[("aws:TagKeys", keys)]);
                assert_eq!(judge(DEVELOPER), Verdict::Denied, "{action} {keys:?}");
                assert_eq!(judge(SPOKE_ROLE), Verdict::Silent);
                // As the deployment templates name it.
                let named = format!("{SPOKE_ROLE}-us-west-2-a");
                assert_eq!(judge(&named), Verdict::Silent);
                assert_eq!(judge(PIPELINE), Verdict::Silent);
                assert_eq!(
                    judge("arn:aws:iam::111122223333:role/team/privnet-launch"),
                    Verdict::Denied,
                    "a role that only ends like the pipeline's"
                );
            }
        }
        assert_eq!(
            organization(DEVELOPER, "ec2:CreateTags", &[("aws:TagKeys", &["Name"])]),
            Verdict::Silent
        );
    }

    #[test]
    fn nobody_but_the_pipeline_makes_a_spoke() {
        let make = |who, value: &'static str| {
            let context = [
                ("aws:TagKeys", &["Name", "service", "env"][..]),
                ("aws:RequestTag/service", &[value]),
            ];
            organization(who, "ec2:CreateTags", &context)
        };
        assert_eq!(make(DEVELOPER, "nat"), Verdict::Denied);
        assert_eq!(make(SPOKE_ROLE, "nat"), Verdict::Denied);
        assert_eq!(make(PIPELINE, "nat"), Verdict::Silent);
        assert_eq!(make(DEVELOPER, "web"), Verdict::Silent);

        let group =
            "arn:aws:autoscaling:us-west-2:111122223333:autoScalingGroup:7:autoScalingGroupName/x";
        let request = Request::new("autoscaling:CreateAutoScalingGroup", group)
            .with("aws:PrincipalArn", &[DEVELOPER])
            .with("aws:RequestTag/service", &["nat"]);
        assert_eq!(verdict(ORGANIZATION, &request), Verdict::Denied);
    }

    #[test]
    fn nobody_but_the_pipeline_unmakes_a_spoke() {
        let spoke = ("aws:ResourceTag/service", &["nat"][..]);
        let tag = [("aws:TagKeys", &["env"][..]), spoke];
        assert_eq!(
            organization(DEVELOPER, "ec2:CreateTags", &tag),
            Verdict::Denied
        );
        // DeleteTags without a key removes them all.
        for context in [&tag[..], &[spoke]] {
            let judge = |who| organization(who, "ec2:DeleteTags", context);
            assert_eq!(judge(DEVELOPER), Verdict::Denied);
            assert_eq!(judge(PIPELINE), Verdict::Silent);
        }
        let other = [("aws:ResourceTag/service", &["web"][..])];
        assert_eq!(
            organization(DEVELOPER, "ec2:DeleteTags", &other),
            Verdict::Silent
        );
    }

    #[test]
    fn nobody_but_the_pipeline_gives_or_changes_the_roles() {
        let judge = |who: &str, action: &str, resource: &str| {
            let request = Request::new(action, resource).with("aws:PrincipalArn", &[who]);
            verdict(ORGANIZATION, &request)
        };
        let profile = "arn:aws:iam::111122223333:instance-profile/privnet-spoke";
        for (action, resource) in [
            ("iam:PassRole", SPOKE_ROLE),
            ("iam:CreateRole", PIPELINE),
            ("iam:UpdateAssumeRolePolicy", PIPELINE),
            ("iam:AttachRolePolicy", SPOKE_ROLE),
            ("iam:PutRolePolicy", SPOKE_ROLE),
            ("iam:CreateInstanceProfile", profile),
            ("iam:AddRoleToInstanceProfile", profile),
            ("iam:DeleteRole", SPOKE_ROLE),
        ] {
            assert_eq!(
                judge(DEVELOPER, action, resource),
                Verdict::Denied,
                "{action}"
            );
            assert_eq!(
                judge(PIPELINE, action, resource),
                Verdict::Silent,
                "{action}"
            );
            assert_eq!(
                judge(DEVELOPER, action, DEVELOPER),
                Verdict::Silent,
                "{action}"
            );
        }
        assert_eq!(judge(DEVELOPER, "iam:GetRole", SPOKE_ROLE), Verdict::Silent);
    }

    #[test]
    fn the_organisations_policy_fits_and_only_denies() {
        // AWS Organizations' quota for a service control policy, with all its blanks.
        assert!(ORGANIZATION.len() <= 5120, "{}", ORGANIZATION.len());
        let policy: Value = serde_json::from_str(ORGANIZATION).unwrap();
        for statement in policy["Statement"].as_array().unwrap() {
            assert_eq!(statement["Effect"], "Deny");
            let text = statement.to_string();
            // In a denial it would hold for requests without any key.
            assert!(!text.contains("ForAllValues"), "{text}");
        }
    }

    #[test]
    fn what_the_evaluator_does_not_know_is_an_error() {
        let policy = r#"{"Statement": [{"Effect": "Allow", "NotAction": "ec2:*"}]}"#;
        assert!(judge(policy, &Request::new("ec2:X", "*")).is_err());
        let policy = r#"{"Statement": [{"Effect": "Allow", "Action": "ec2:*",
            "Condition": {"DateLessThan": {"aws:CurrentTime": "2030"}}}]}"#;
        let request = Request::new("ec2:X", "*").with("aws:CurrentTime", &["2026"]);
        assert!(judge(policy, &request).is_err());
    }
}
