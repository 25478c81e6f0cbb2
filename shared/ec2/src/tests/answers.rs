//! EC2's answers, in the XML that it sends.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use privnet_model::config::hub::{DiscoveryConfig, Regions};
use privnet_model::id::{AccountId, InstanceId, Region};
use privnet_model::inventory::{Identity, Partition, PartitionAnswer};

use crate::{Discovery, Known, SdkContext};

/// The tag that the tests' spokes have.
pub(super) const TAG: (&str, &str) = ("service", "nat");

/// An instance with the tag, in a VPC of the same number.
pub(super) fn instance(number: u32) -> String {
    let tags = format!("<item><key>{}</key><value>{}</value></item>", TAG.0, TAG.1);
    instance_with(number, "running", &tags)
}

pub(super) fn instance_with(number: u32, state: &str, tags: &str) -> String {
    described(
        number,
        &format!(
            "<instanceState><code>16</code><name>{state}</name></instanceState>\
             <vpcId>vpc-{number:017x}</vpcId><ipAddress>198.51.100.{}</ipAddress>\
             <tagSet>{tags}</tagSet>",
            number % 250 + 1
        ),
    )
}

/// A spoke in a VPC and a zone.
pub(super) fn gateway(number: u32, vpc: u32, zone: &str) -> String {
    described(
        number,
        &format!(
            "<instanceState><name>running</name></instanceState><vpcId>vpc-{vpc:017x}</vpcId>\
             <placement><availabilityZone>{zone}</availabilityZone></placement>\
             <tagSet><item><key>{}</key><value>{}</value></item></tagSet>",
            TAG.0, TAG.1
        ),
    )
}

/// An instance, and what EC2 says of it besides its id.
pub(super) fn described(number: u32, fields: &str) -> String {
    format!(
        "<item><reservationId>r-{number:017x}</reservationId><instancesSet><item>\
         <instanceId>i-{number:017x}</instanceId>{fields}</item></instancesSet></item>"
    )
}

/// A whole answer to DescribeInstances.
pub(super) fn instances(items: impl IntoIterator<Item = String>, next: Option<&str>) -> String {
    let items: String = items.into_iter().collect();
    whole(
        "DescribeInstances",
        &format!("<reservationSet>{items}</reservationSet>"),
        next,
    )
}

/// A whole answer to DescribeVpcs.
pub(super) fn vpcs(numbers: impl IntoIterator<Item = u32>, next: Option<&str>) -> String {
    let mut items = String::new();
    for number in numbers {
        write!(
            items,
            "<item><vpcId>vpc-{number:017x}</vpcId><cidrBlock>10.{number}.0.0/16</cidrBlock></item>"
        )
        .unwrap();
    }
    whole("DescribeVpcs", &format!("<vpcSet>{items}</vpcSet>"), next)
}

/// A whole answer to DescribeSubnets: of each the number of its VPC, its zone and
/// its CIDR.
pub(super) fn subnets<'a>(subnets: impl IntoIterator<Item = (u32, &'a str, &'a str)>) -> String {
    let mut items = String::new();
    for (vpc, zone, cidr) in subnets {
        write!(
            items,
            "<item><vpcId>vpc-{vpc:017x}</vpcId><availabilityZone>{zone}</availabilityZone>\
             <cidrBlock>{cidr}</cidrBlock></item>"
        )
        .unwrap();
    }
    whole(
        "DescribeSubnets",
        &format!("<subnetSet>{items}</subnetSet>"),
        None,
    )
}

/// A whole answer to DescribeRegions: the regions and whether they are opted into.
pub(super) fn regions<'a>(regions: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut items = String::new();
    for (name, status) in regions {
        write!(
            items,
            "<item><regionName>{name}</regionName><optInStatus>{status}</optInStatus></item>"
        )
        .unwrap();
    }
    whole(
        "DescribeRegions",
        &format!("<regionInfo>{items}</regionInfo>"),
        None,
    )
}

pub(super) fn whole(operation: &str, set: &str, next: Option<&str>) -> String {
    let next = next.map_or_else(String::new, |token| {
        format!("<nextToken>{token}</nextToken>")
    });
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <{operation}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
         <requestId>6d0e8a2e-0000</requestId>{set}{next}</{operation}Response>\n"
    )
}

/// A refusal, as EC2 writes it.
pub(super) fn refusal(code: &str, message: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code>\
         <Message>{message}</Message></Error></Errors><RequestID>ea966190</RequestID></Response>"
    )
}

pub(super) fn account() -> AccountId {
    "123456789012".parse().unwrap()
}

pub(super) fn region(name: &str) -> Region {
    name.parse().unwrap()
}

/// The hub that asks.
pub(super) fn hub() -> Identity {
    Identity {
        account: account(),
        region: region("eu-west-1"),
        zone: None,
        instance: "i-0123456789abcdef0".parse().unwrap(),
        vpc: "vpc-0123456789abcdef0".parse().unwrap(),
        vpc_cidrs: Vec::new(),
        subnet_cidr: None,
        private_address: "10.0.0.1".parse().unwrap(),
        public_address: None,
        mac: "02:00:00:00:00:01".to_owned(),
    }
}

/// The config of a hub that asks for the tests' tag in its own account.
pub(super) fn config(regions: &[&str], timeout: Duration) -> DiscoveryConfig {
    DiscoveryConfig {
        interval: Duration::from_secs(3600),
        regions: Regions::Listed(regions.iter().map(|name| region(name)).collect()),
        own_account: false,
        accounts: Vec::new(),
        endpoint: None,
        fips: false,
        tags: BTreeMap::from([(TAG.0.to_owned(), TAG.1.to_owned())]),
        timeout,
    }
}

/// Discovery by that config.
pub(super) fn discovery(context: &SdkContext, regions: &[&str], timeout: Duration) -> Discovery {
    Discovery::new(context, &hub(), &config(regions, timeout))
}

/// What is known of a partition of the hub's account: these instances.
pub(super) fn known(name: &str, numbers: impl IntoIterator<Item = u32>) -> Known {
    let partition = Partition {
        account: account(),
        region: region(name),
    };
    Known::from([(partition, numbers.into_iter().map(id).collect())])
}

/// The id of an instance.
pub(super) fn id(number: u32) -> InstanceId {
    format!("i-{number:017x}").parse().unwrap()
}

/// What a single region answered: the instances' numbers, or the error.
pub(super) fn only(answers: Vec<PartitionAnswer>) -> Result<Vec<u32>, String> {
    let [answer] = <[PartitionAnswer; 1]>::try_from(answers).unwrap();
    numbers(answer)
}

pub(super) fn numbers(answer: PartitionAnswer) -> Result<Vec<u32>, String> {
    let number = |id: &str| u32::from_str_radix(&id[2..], 16).unwrap();
    answer.answer.map(|answer| {
        answer
            .spokes
            .iter()
            .map(|spoke| number(spoke.instance.as_str()))
            .collect()
    })
}
