//! From EC2's description of an instance or a VPC to our own records.
//!
//! A hole in a description is a hole in the record; a tag that makes no sense
//! is a problem noted in it. Only what makes the record useless or the answer
//! untrustworthy is an error: an instance without a name, a CIDR that is none.
//! Nothing here asks EC2.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use aws_sdk_ec2::types::{
    Instance, InstanceStateName, Subnet, SubnetCidrBlockStateCode, Vpc, VpcCidrBlockStateCode,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use privnet_model::id::{IdError, InstanceId, VpcId, Zone};
use privnet_model::inventory::{
    PORT_TAG, PUBLIC_KEY_TAG, SpokeRecord, TRANSPORT_TAG, TagProblem, Transport,
};
use privnet_model::key::PublicKey;
use privnet_model::net::overlap;

/// What an instance's state means to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It runs.
    Running,
    /// It is stopped or about to be; it may be started again.
    Stopped,
    /// It is gone for good or about to be.
    Terminated,
    /// The description does not say.
    Untold,
    /// It is starting, or in a state that EC2 did not have when this was written.
    Other,
}

/// The state of an instance.
pub(crate) fn state(instance: &Instance) -> State {
    match instance.state().and_then(|state| state.name()) {
        Some(InstanceStateName::Running) => State::Running,
        Some(InstanceStateName::Stopping | InstanceStateName::Stopped) => State::Stopped,
        Some(InstanceStateName::ShuttingDown | InstanceStateName::Terminated) => State::Terminated,
        Some(_) => State::Other,
        None => State::Untold,
    }
}

/// The record of an instance, still without the CIDRs of its VPC. The one error
/// is an instance that does not say which it is.
pub(crate) fn spoke(instance: &Instance) -> Result<SpokeRecord, IdError> {
    let id = instance
        .instance_id()
        .unwrap_or_default()
        .parse::<InstanceId>()?;
    let mut tags = BTreeMap::new();
    for tag in instance.tags() {
        if let Some(key) = tag.key() {
            // A key is there once. Were it there twice, the first would count for all.
            tags.entry(key.to_owned())
                .or_insert_with(|| tag.value().unwrap_or_default().to_owned());
        }
    }
    let mut tag_problems = Vec::new();
    let public_key = read_tag(
        &tags,
        PUBLIC_KEY_TAG,
        PUBLIC_KEY,
        &mut tag_problems,
        |text| PublicKey::from_str(text).ok(),
    );
    let port = read_tag(&tags, PORT_TAG, PORT, &mut tag_problems, |text| {
        text.parse::<u16>().ok().filter(|port| *port != 0)
    });
    let transport = read_tag(
        &tags,
        TRANSPORT_TAG,
        Transport::EXPECTED,
        &mut tag_problems,
        |text| Transport::from_str(text).ok(),
    );
    Ok(SpokeRecord {
        name: tags.get("Name").filter(|name| !name.is_empty()).cloned(),
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
        public_address: address(&id, "public address", instance.public_ip_address()),
        private_address: address(&id, "private address", instance.private_ip_address()),
        public_key,
        port,
        transport: transport.unwrap_or_default(),
        instance_profile: instance
            .iam_instance_profile()
            .and_then(|profile| profile.arn())
            .map(str::to_owned),
        image: instance.image_id().map(str::to_owned),
        zone_cidrs: Vec::new(),
        tags,
        tag_problems,
        instance: id,
    })
}

/// All CIDRs that are associated with a VPC, the primary one first, then IPv4,
/// then IPv6, each as EC2 orders them. Those on their way in or out are left
/// out. The error is what EC2 took for a CIDR of a VPC.
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
        let cidr = network(text).ok_or_else(|| text.to_owned())?;
        if !cidrs.contains(&cidr) {
            cidrs.push(cidr);
        }
    }
    Ok(cidrs)
}

/// Where a subnet is, and its CIDRs of both families. A subnet that makes no
/// sense is left out: no traffic is lost for want of it, it only takes the longer way.
pub(crate) fn subnet(subnet: &Subnet) -> Option<((VpcId, Zone), Vec<IpNet>)> {
    let place = subnet.vpc_id().and_then(|vpc| vpc.parse().ok()).zip(
        subnet
            .availability_zone()
            .and_then(|zone| zone.parse().ok()),
    );
    let ipv6 = subnet
        .ipv6_cidr_block_association_set()
        .iter()
        .filter_map(|association| {
            let state = association.ipv6_cidr_block_state()?.state()?;
            association
                .ipv6_cidr_block()
                .filter(|_| *state == SubnetCidrBlockStateCode::Associated)
        });
    let cidrs: Option<Vec<IpNet>> = subnet
        .cidr_block()
        .into_iter()
        .chain(ipv6)
        .map(network)
        .collect();
    let found = place.zip(cidrs);
    if found.is_none() {
        tracing::warn!(
            subnet = subnet.subnet_id(),
            vpc = subnet.vpc_id(),
            zone = subnet.availability_zone(),
            cidr = subnet.cidr_block(),
            "EC2 describes a subnet that makes no sense"
        );
    }
    found
}

/// The id of a VPC.
pub(crate) fn vpc_id(vpc: &Vpc) -> Result<VpcId, IdError> {
    vpc.vpc_id().unwrap_or_default().parse()
}

const PUBLIC_KEY: &str = "a WireGuard public key (base64 of 32 bytes)";
const PORT: &str = "a UDP port from 1 to 65535";

/// What no host, and no VPC, has: this network, loopback, link-local, multicast
/// and broadcast (RFC 6890), and the IPv6 forms of IPv4 addresses (RFC 4291,
/// section 2.5.5), which would slip past rules about the latter.
const RESERVED: [IpNet; 8] = [
    reserved_v4([0, 0, 0, 0], 8),
    reserved_v4([127, 0, 0, 0], 8),
    reserved_v4([169, 254, 0, 0], 16),
    reserved_v4([224, 0, 0, 0], 4),
    reserved_v4([255, 255, 255, 255], 32),
    // Unspecified, loopback, and IPv4-compatible and -mapped addresses.
    reserved_v6(0, 80),
    reserved_v6(0xfe80, 10),
    reserved_v6(0xff00, 8),
];

const fn reserved_v4([a, b, c, d]: [u8; 4], length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn reserved_v6(first: u16, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(
        Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0),
        length,
    ))
}

/// A CIDR that a VPC may have, its host bits cleared.
fn network(text: &str) -> Option<IpNet> {
    let cidr = text.parse::<IpNet>().ok()?.trunc();
    (!RESERVED.iter().any(|reserved| overlap(reserved, &cidr))).then_some(cidr)
}

/// An address that a host may have; another one is as good as missing.
fn address(instance: &InstanceId, what: &'static str, text: Option<&str>) -> Option<IpAddr> {
    let address = field::<IpAddr>(instance, what, text)?;
    let usable = !RESERVED.iter().any(|reserved| reserved.contains(&address));
    if !usable {
        tracing::warn!(%instance, field = what, value = %address, "EC2 describes an instance with an address that no host can have");
    }
    usable.then_some(address)
}

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
    tags: &BTreeMap<String, String>,
    key: &str,
    expected: &str,
    problems: &mut Vec<TagProblem>,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    let text = tags.get(key)?;
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

    use aws_sdk_ec2::primitives::DateTime;
    use aws_sdk_ec2::types::{
        InstanceState, SubnetCidrBlockState, SubnetIpv6CidrBlockAssociation, Tag,
        VpcCidrBlockAssociation, VpcCidrBlockState, VpcIpv6CidrBlockAssociation,
    };

    use super::*;
    use aws_sdk_ec2::types::builders::InstanceBuilder;

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
    fn a_state_is_told_from_none() {
        let in_state = |name| {
            let state = InstanceState::builder().name(name).build();
            state_of(Instance::builder().state(state))
        };
        assert_eq!(in_state(InstanceStateName::Running), State::Running);
        assert_eq!(in_state(InstanceStateName::Stopping), State::Stopped);
        assert_eq!(in_state(InstanceStateName::ShuttingDown), State::Terminated);
        assert_eq!(in_state(InstanceStateName::Pending), State::Other);
        assert_eq!(in_state("dreaming".into()), State::Other);
        assert_eq!(state_of(Instance::builder()), State::Untold);
        let nameless = InstanceState::builder().code(16).build();
        assert_eq!(state_of(Instance::builder().state(nameless)), State::Untold);
    }

    fn state_of(instance: InstanceBuilder) -> State {
        state(&instance.build())
    }

    #[test]
    fn an_address_that_no_host_has_is_a_hole() {
        let address = |text: &str| {
            let instance = Instance::builder().instance_id(ID).public_ip_address(text);
            spoke(&instance.build()).unwrap().public_address
        };
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "239.255.255.255",
            "255.255.255.255",
            "::",
            "::1",
            "::198.51.100.1",
            "::ffff:198.51.100.1",
            "fe80::1",
            "ff02::1",
            "198.51.100.1/32",
            "198.51.100.1:51820",
            "0x7f.1",
            "",
        ] {
            assert_eq!(address(text), None, "{text}");
        }
        for text in ["198.51.100.1", "10.1.2.3", "2001:db8::1"] {
            assert_eq!(address(text), Some(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_tag_that_is_there_twice_counts_as_it_is_first() {
        let tag = |value: &str| Tag::builder().key(PORT_TAG).value(value).build();
        let instance = Instance::builder().instance_id(ID);
        let record = spoke(&instance.tags(tag("1")).tags(tag("2")).build()).unwrap();
        assert_eq!(record.port, Some(1));
        assert_eq!(record.tags[PORT_TAG], "1");
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
    fn a_cidr_that_is_none_or_no_vpcs_is_an_error_and_not_a_smaller_vpc() {
        for text in [
            "10.1.0.0/99",
            "10.1.0.0",
            "",
            "0.0.0.0/0",
            "127.0.0.0/16",
            "169.254.0.0/24",
            "::/0",
            "224.0.0.0/16",
            "::ffff:10.0.0.0/104",
            "fe80::/64",
        ] {
            let vpc = Vpc::builder().cidr_block(text).build();
            assert_eq!(cidrs(&vpc), Err(text.to_owned()));
        }
    }

    #[test]
    fn a_subnet_has_its_place_and_its_associated_cidrs() {
        let ipv6 = |cidr: &str, state| {
            SubnetIpv6CidrBlockAssociation::builder()
                .ipv6_cidr_block(cidr)
                .ipv6_cidr_block_state(SubnetCidrBlockState::builder().state(state).build())
                .build()
        };
        let whole = Subnet::builder()
            .vpc_id("vpc-01234567")
            .availability_zone("eu-west-1a")
            .cidr_block("10.1.2.0/24")
            .ipv6_cidr_block_association_set(ipv6(
                "2001:db8::/64",
                SubnetCidrBlockStateCode::Associated,
            ))
            .ipv6_cidr_block_association_set(ipv6(
                "2001:db8:0:1::/64",
                SubnetCidrBlockStateCode::Disassociated,
            ));
        let place = (
            "vpc-01234567".parse().unwrap(),
            "eu-west-1a".parse().unwrap(),
        );
        let cidrs = ["10.1.2.0/24", "2001:db8::/64"].map(|cidr| cidr.parse().unwrap());
        assert_eq!(
            subnet(&whole.clone().build()),
            Some((place, cidrs.to_vec()))
        );
        assert_eq!(subnet(&whole.clone().vpc_id("vpc").build()), None);
        assert_eq!(subnet(&whole.clone().availability_zone("").build()), None);
        assert_eq!(subnet(&whole.cidr_block("10.1.2.0/42").build()), None);
    }
}
