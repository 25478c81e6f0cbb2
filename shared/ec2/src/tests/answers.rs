//! EC2's answers, in the XML that it sends.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use privnet_model::id::{AccountId, Region};
use privnet_model::inventory::PartitionAnswer;

use crate::{Discovery, SdkContext};

/// The tag that the tests' spokes have.
pub(super) const TAG: (&str, &str) = ("service", "nat");

/// An instance with the tag, in a VPC of the same number.
pub(super) fn instance(number: u32) -> String {
    let tags = format!("<item><key>{}</key><value>{}</value></item>", TAG.0, TAG.1);
    instance_with(number, "running", &tags)
}

pub(super) fn instance_with(number: u32, state: &str, tags: &str) -> String {
    format!(
        "<item><reservationId>r-{number:017x}</reservationId><instancesSet><item>\
         <instanceId>i-{number:017x}</instanceId>\
         <instanceState><code>16</code><name>{state}</name></instanceState>\
         <vpcId>vpc-{number:017x}</vpcId><ipAddress>198.51.100.{}</ipAddress>\
         <tagSet>{tags}</tagSet></item></instancesSet></item>",
        number % 250 + 1
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

fn whole(operation: &str, set: &str, next: Option<&str>) -> String {
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

/// Discovery of the tests' tag.
pub(super) fn discovery(context: &SdkContext, regions: &[&str], timeout: Duration) -> Discovery {
    let regions: Vec<_> = regions.iter().map(|name| region(name)).collect();
    let tags = BTreeMap::from([(TAG.0.to_owned(), TAG.1.to_owned())]);
    Discovery::new(context, &account(), &regions, tags, timeout)
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
