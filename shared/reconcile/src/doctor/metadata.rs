//! The instance metadata service: whether it answers, to whom, and what role it gives.

use privnet_model::doctor::{Area, Finding};
use privnet_model::instance::MetadataOptions;
use privnet_model::inventory::Identity;

use super::Known;

const AREA: Area = Area::Metadata;

/// A container on the instance is one router away, so its answers need two.
const MOST_HOPS: i32 = 2;

/// Whether the service says who this is.
pub fn identity(identity: &Known<Identity>) -> Finding {
    let check = "identity";
    match identity {
        Ok(identity) => {
            let Identity {
                instance,
                vpc,
                region,
                ..
            } = identity;
            let cidrs = identity.vpc_cidrs.len();
            let found = format!("{instance} in {vpc} ({region}), {cidrs} CIDRs");
            Finding::ok(AREA, check, found)
        }
        Err(why) => Finding::wrong(AREA, check, why.clone())
            .mend(
                "aws ec2 modify-instance-metadata-options --region $REGION --instance-id \
                 $INSTANCE --http-endpoint enabled --http-tokens required --http-put-response-hop-limit 2",
            )
            .mend("ip route get 169.254.169.254   # from here: it must leave by the uplink"),
    }
}

/// Whether the service also answers who has no session token (IMDSv1): then whatever on
/// this host can be talked into one request has the role's credentials.
pub fn tokens(open: &Known<bool>) -> Finding {
    let check = "IMDSv2";
    match open {
        Ok(false) => Finding::ok(AREA, check, "required"),
        Ok(true) => {
            let found = "it also answers without a session token (IMDSv1)";
            Finding::warning(AREA, check, found).mend(
                "aws ec2 modify-instance-metadata-options --region $REGION --instance-id \
                 $INSTANCE --http-tokens required",
            )
        }
        Err(why) => Finding::not_checked(AREA, check, why.clone()),
    }
}

/// How far the service's answers go.
pub fn hop_limit(options: &Known<MetadataOptions>) -> Finding {
    let check = "hop limit";
    let hops = match options {
        Ok(MetadataOptions { hop_limit, .. }) => hop_limit,
        Err(why) => return Finding::not_checked(AREA, check, why.clone()),
    };
    match hops {
        None => Finding::not_checked(AREA, check, "EC2 does not tell it"),
        Some(hops @ ..=MOST_HOPS) => Finding::ok(AREA, check, hops.to_string()),
        Some(hops) => {
            let found = format!(
                "{hops}: tokens travel farther than the containers of this host, which need 2"
            );
            Finding::warning(AREA, check, found).mend(format!(
                "aws ec2 modify-instance-metadata-options --region $REGION --instance-id \
                 $INSTANCE --http-put-response-hop-limit {MOST_HOPS}"
            ))
        }
    }
}

/// Whether the instance has a role; `needed` says for what the config wants one.
pub fn role(profile: &Known<Option<String>>, needed: bool, policy: &str) -> Finding {
    let check = "role";
    match profile {
        Ok(Some(profile)) => Finding::ok(AREA, check, profile.clone()),
        Ok(None) if needed => Finding::wrong(
            AREA,
            check,
            "the instance has none, so EC2 refuses all it asks",
        )
        .mend(format!(
            "aws ec2 associate-iam-instance-profile --region $REGION --instance-id \
                     $INSTANCE --iam-instance-profile Name=PROFILE   # with ami/iam/{policy}"
        )),
        Ok(None) => Finding::ok(AREA, check, "none, and the config needs none"),
        Err(why) => Finding::not_checked(AREA, check, why.clone()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use privnet_model::doctor::Verdict;

    use super::*;

    fn unknown<T>() -> Known<T> {
        Err("no answer within 3 s".to_owned())
    }

    #[test]
    fn without_metadata_nobody_knows_who_this_is() {
        let known = Identity {
            account: "111122223333".parse().unwrap(),
            region: "eu-west-1".parse().unwrap(),
            zone: None,
            instance: "i-0123456789abcdef0".parse().unwrap(),
            vpc: "vpc-0123456789abcdef0".parse().unwrap(),
            vpc_cidrs: vec!["10.1.0.0/16".parse().unwrap()],
            subnet_cidr: None,
            private_address: "10.1.0.10".parse().unwrap(),
            public_address: None,
            mac: "0a:00:00:00:00:01".to_owned(),
        };
        assert_eq!(identity(&Ok(known)).verdict, Verdict::Ok);
        let finding = identity(&unknown());
        assert_eq!(finding.verdict, Verdict::Wrong);
        assert!(finding.remedy[0].contains("--http-endpoint enabled"));
    }

    #[test]
    fn metadata_for_anybody_is_a_warning() {
        assert_eq!(tokens(&Ok(false)).verdict, Verdict::Ok);
        let open = tokens(&Ok(true));
        assert_eq!(open.verdict, Verdict::Warning);
        assert!(open.remedy[0].contains("$INSTANCE --http-tokens required"));
        assert_eq!(tokens(&unknown()).verdict, Verdict::NotChecked);
    }

    #[test]
    fn tokens_need_not_travel_farther_than_a_container() {
        let hops = |hops| {
            hop_limit(&Ok(MetadataOptions {
                tokens_required: true,
                hop_limit: hops,
            }))
        };
        assert_eq!(hops(Some(1)).verdict, Verdict::Ok);
        assert_eq!(hops(Some(2)).verdict, Verdict::Ok);
        let far = hops(Some(64));
        assert_eq!(far.verdict, Verdict::Warning);
        assert!(far.remedy[0].contains("--http-put-response-hop-limit 2"));
        assert_eq!(hops(None).verdict, Verdict::NotChecked);
        assert_eq!(hop_limit(&unknown()).verdict, Verdict::NotChecked);
    }

    #[test]
    fn a_role_is_wrong_only_where_one_is_needed() {
        let judged = |profile, needed| role(&profile, needed, "spoke-policy.json");
        let arn = "arn:aws:iam::111122223333:instance-profile/privnet-spoke";
        assert_eq!(judged(Ok(Some(arn.to_owned())), true).verdict, Verdict::Ok);
        assert_eq!(judged(Ok(None), false).verdict, Verdict::Ok);
        let missing = judged(Ok(None), true);
        assert_eq!(missing.verdict, Verdict::Wrong);
        assert!(missing.remedy[0].contains("spoke-policy.json"));
        assert_eq!(judged(unknown(), true).verdict, Verdict::NotChecked);
    }
}
