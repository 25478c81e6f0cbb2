//! From EC2's description of an instance or a VPC to our own records.
//!
//! A hole in a description is a hole in the record; a tag that makes no sense
//! is a problem noted in it. Only what makes the record useless or the answer
//! untrustworthy is an error: an instance without a name, a CIDR that is none.
//! Nothing here asks EC2.

use std::net::IpAddr;
use std::str::FromStr;

use aws_sdk_ec2::types::{Instance, InstanceStateName, Tag, Vpc, VpcCidrBlockStateCode};
use ipnet::IpNet;
use jiff::Timestamp;
use privnet_model::id::{IdError, InstanceId, VpcId};
use privnet_model::inventory::{
    PORT_TAG, PUBLIC_KEY_TAG, SpokeRecord, TRANSPORT_TAG, TagProblem, Transport,
};
use privnet_model::key::PublicKey;

/// Whether the instance runs. EC2 was asked for running ones only, so one that
/// says nothing of its state counts.
pub(crate) fn is_running(instance: &Instance) -> bool {
    instance
        .state()
        .and_then(|state| state.name())
        .is_none_or(|name| *name == InstanceStateName::Running)
}

/// The record of an instance, still without the CIDRs of its VPC. The one error
/// is an instance that does not say which it is.
pub(crate) fn spoke(instance: &Instance) -> Result<SpokeRecord, IdError> {
    let id = instance
        .instance_id()
        .unwrap_or_default()
        .parse::<InstanceId>()?;
    let tags = instance.tags();
    let mut tag_problems = Vec::new();
    let public_key = read_tag(
        tags,
        PUBLIC_KEY_TAG,
        PUBLIC_KEY,
        &mut tag_problems,
        |text| PublicKey::from_str(text).ok(),
    );
    let port = read_tag(tags, PORT_TAG, PORT, &mut tag_problems, |text| {
        text.parse::<u16>().ok().filter(|port| *port != 0)
    });
    let transport = read_tag(
        tags,
        TRANSPORT_TAG,
        Transport::EXPECTED,
        &mut tag_problems,
        |text| Transport::from_str(text).ok(),
    );
    Ok(SpokeRecord {
        name: value(tags, "Name")
            .filter(|name| !name.is_empty())
            .map(str::to_owned),
        launched: instance.launch_time().and_then(|time| {
            Timestamp::new(time.secs(), i32::try_from(time.subsec_nanos()).ok()?).ok()
        }),
        zone: field(
            &id,
            "availability zone",
            instance
                .placement()
                .and_then(|place| place.availability_zone()),
        ),
        vpc: field(&id, "VPC", instance.vpc_id()),
        cidrs: Vec::new(),
        public_address: field::<IpAddr>(&id, "public address", instance.public_ip_address()),
        private_address: field::<IpAddr>(&id, "private address", instance.private_ip_address()),
        public_key,
        port,
        transport: transport.unwrap_or_default(),
        instance_profile: instance
            .iam_instance_profile()
            .and_then(|profile| profile.arn())
            .map(str::to_owned),
        image: instance.image_id().map(str::to_owned),
        zone_cidrs: Vec::new(),
        tags: tags
            .iter()
            .filter_map(|tag| Some((tag.key()?.to_owned(), tag.value()?.to_owned())))
            .collect(),
        tag_problems,
        instance: id,
    })
}

/// All CIDRs that are associated with a VPC, the primary one first, then IPv4,
/// then IPv6, each as EC2 orders them. Those on their way in or out are left
/// out. The error is what EC2 took for a CIDR.
pub(crate) fn cidrs(vpc: &Vpc) -> Result<Vec<IpNet>, String> {
    let primary = vpc.cidr_block();
    let ipv4 = vpc
        .cidr_block_association_set()
        .iter()
        .filter_map(|association| {
            let state = association.cidr_block_state()?.state()?;
            association
                .cidr_block()
                .filter(|_| *state == VpcCidrBlockStateCode::Associated)
        });
    let ipv6 = vpc
        .ipv6_cidr_block_association_set()
        .iter()
        .filter_map(|association| {
            let state = association.ipv6_cidr_block_state()?.state()?;
            association
                .ipv6_cidr_block()
                .filter(|_| *state == VpcCidrBlockStateCode::Associated)
        });
    let mut cidrs = Vec::new();
    for text in primary.into_iter().chain(ipv4).chain(ipv6) {
        let cidr = text.parse::<IpNet>().map_err(|_| text.to_owned())?.trunc();
        if !cidrs.contains(&cidr) {
            cidrs.push(cidr);
        }
    }
    Ok(cidrs)
}

/// The id of a VPC.
pub(crate) fn vpc_id(vpc: &Vpc) -> Result<VpcId, IdError> {
    vpc.vpc_id().unwrap_or_default().parse()
}

const PUBLIC_KEY: &str = "a WireGuard public key (base64 of 32 bytes)";
const PORT: &str = "a UDP port from 1 to 65535";

/// A field that may be missing; nonsense is as good as missing, and logged.
fn field<T: FromStr>(instance: &InstanceId, what: &'static str, text: Option<&str>) -> Option<T> {
    let text = text.filter(|text| !text.is_empty())?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        tracing::warn!(%instance, field = what, value = text, "EC2 describes an instance with a field that makes no sense");
    }
    parsed
}

/// A tag of ours; one that makes no sense becomes a problem.
fn read_tag<T>(
    tags: &[Tag],
    key: &str,
    expected: &str,
    problems: &mut Vec<TagProblem>,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    let text = value(tags, key)?;
    let parsed = parse(text);
    if parsed.is_none() {
        problems.push(TagProblem {
            tag: key.to_owned(),
            value: text.chars().take(64).collect(),
            expected: expected.to_owned(),
        });
    }
    parsed
}

fn value<'a>(tags: &'a [Tag], key: &str) -> Option<&'a str> {
    tags.iter()
        .find(|tag| tag.key() == Some(key))
        .map(|tag| tag.value().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

    use aws_sdk_ec2::primitives::DateTime;
    use aws_sdk_ec2::types::{
        InstanceState, VpcCidrBlockAssociation, VpcCidrBlockState, VpcIpv6CidrBlockAssociation,
    };

    use super::*;

    const ID: &str = "i-0123456789abcdef0";

    #[test]
    fn an_instance_that_says_nothing_but_its_id_is_a_record_with_holes() {
        let record = spoke(&Instance::builder().instance_id(ID).build()).unwrap();
        assert_eq!(record.instance.as_str(), ID);
        assert_eq!(record.launched, None);
        assert_eq!(record.vpc, None);
        assert_eq!(record.public_address, None);
        assert_eq!(record.public_key, None);
        assert_eq!(record.transport, Transport::Wireguard);
        assert_eq!(record.tag_problems, []);
    }

    #[test]
    fn an_instance_without_an_id_is_an_error() {
        assert!(spoke(&Instance::builder().build()).is_err());
        assert!(spoke(&Instance::builder().instance_id("i-?").build()).is_err());
    }

    #[test]
    fn nonsense_in_fields_is_a_hole_and_in_tags_a_problem() {
        let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
        let record = spoke(
            &Instance::builder()
                .instance_id(ID)
                .public_ip_address("nowhere")
                .vpc_id("vpc-?")
                .launch_time(DateTime::from_secs(i64::MAX))
                .tags(tag(PUBLIC_KEY_TAG, &"x".repeat(256)))
                .tags(tag(PORT_TAG, "0"))
                .tags(tag(TRANSPORT_TAG, "pigeon"))
                .tags(Tag::builder().key("Name").build())
                .tags(Tag::builder().build())
                .build(),
        )
        .unwrap();
        assert_eq!(record.public_address, None);
        assert_eq!(record.vpc, None);
        assert_eq!(record.launched, None);
        assert_eq!(record.name, None);
        let problems: Vec<_> = record
            .tag_problems
            .iter()
            .map(|problem| problem.tag.as_str())
            .collect();
        assert_eq!(problems, [PUBLIC_KEY_TAG, PORT_TAG, TRANSPORT_TAG]);
        assert_eq!(record.tag_problems[0].value.len(), 64);
    }

    #[test]
    fn only_running_instances_count_and_those_that_do_not_say() {
        let in_state = |name| {
            let state = InstanceState::builder().name(name).build();
            is_running(&Instance::builder().state(state).build())
        };
        assert!(in_state(InstanceStateName::Running));
        assert!(!in_state(InstanceStateName::ShuttingDown));
        assert!(!in_state(InstanceStateName::Terminated));
        assert!(is_running(&Instance::builder().build()));
    }

    #[test]
    fn a_vpc_has_all_its_associated_cidrs_of_both_families() {
        let ipv4 = |cidr: &str, state| {
            VpcCidrBlockAssociation::builder()
                .cidr_block(cidr)
                .cidr_block_state(VpcCidrBlockState::builder().state(state).build())
                .build()
        };
        let vpc = Vpc::builder()
            .cidr_block("10.1.0.0/16")
            .cidr_block_association_set(ipv4("10.1.0.0/16", VpcCidrBlockStateCode::Associated))
            .cidr_block_association_set(ipv4("10.2.0.0/16", VpcCidrBlockStateCode::Disassociated))
            .cidr_block_association_set(ipv4("10.3.0.0/16", VpcCidrBlockStateCode::Associated))
            .ipv6_cidr_block_association_set(
                VpcIpv6CidrBlockAssociation::builder()
                    .ipv6_cidr_block("2001:db8::/56")
                    .ipv6_cidr_block_state(
                        VpcCidrBlockState::builder()
                            .state(VpcCidrBlockStateCode::Associated)
                            .build(),
                    )
                    .build(),
            )
            .build();
        let cidrs: Vec<_> = cidrs(&vpc)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(cidrs, ["10.1.0.0/16", "10.3.0.0/16", "2001:db8::/56"]);
    }

    #[test]
    fn a_cidr_that_is_none_is_an_error_and_not_a_smaller_vpc() {
        let vpc = Vpc::builder().cidr_block("10.1.0.0/99").build();
        assert_eq!(cidrs(&vpc), Err("10.1.0.0/99".to_owned()));
    }
}
