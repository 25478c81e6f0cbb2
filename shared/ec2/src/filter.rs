//! What EC2 is asked to leave out of its answer, and the check that it did.
//!
//! EC2 takes `*`, `?` and `\` in a filter's value for wildcards and their
//! escape (EC2 user guide, "Filtering considerations"); a tag's value is meant
//! literally here, so they are escaped.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::Filter;
use privnet_model::id::{
    AllocationId, InstanceId, InterfaceId, RouteTableId, SecurityGroupId, SubnetId, VpcId, Zone,
};

/// The filters by which only running instances with all these tags are returned.
pub(crate) fn running_with(tags: &BTreeMap<String, String>) -> Vec<Filter> {
    let running = filter("instance-state-name", ["running".to_owned()]);
    with(tags).into_iter().chain([running]).collect()
}

/// The filters by which only what has all these tags is returned.
pub(crate) fn with(tags: &BTreeMap<String, String>) -> Vec<Filter> {
    tags.iter()
        .map(|(key, value)| filter(&format!("tag:{key}"), [literal(value)]))
        .collect()
}

/// The filter by which only these route tables are returned.
pub(crate) fn route_tables<'a>(ids: impl IntoIterator<Item = &'a RouteTableId>) -> Filter {
    let ids = ids.into_iter().map(|id| id.as_str().to_owned());
    filter("route-table-id", ids)
}

/// The filter by which only this network interface is returned.
pub(crate) fn interface(id: &InterfaceId) -> Filter {
    filter("network-interface-id", [id.as_str().to_owned()])
}

/// The filter by which only these Elastic IPs are returned.
pub(crate) fn allocations<'a>(ids: impl IntoIterator<Item = &'a AllocationId>) -> Filter {
    let ids = ids.into_iter().map(|id| id.as_str().to_owned());
    filter("allocation-id", ids)
}

/// The filter by which only these security groups are returned.
pub(crate) fn security_groups<'a>(ids: impl IntoIterator<Item = &'a SecurityGroupId>) -> Filter {
    let ids = ids.into_iter().map(|id| id.as_str().to_owned());
    filter("group-id", ids)
}

/// The filter by which only the network ACL of this subnet is returned.
pub(crate) fn acl_of(subnet: &SubnetId) -> Filter {
    filter("association.subnet-id", [subnet.as_str().to_owned()])
}

/// The filter by which only these instances are returned, in whatever state. As a
/// filter, unlike as a list of ids, it does not fail because one of them is unknown.
pub(crate) fn instances<'a>(ids: impl IntoIterator<Item = &'a InstanceId>) -> Filter {
    filter(
        "instance-id",
        ids.into_iter().map(|id| id.as_str().to_owned()),
    )
}

/// The filter by which only what is in these zones is returned.
pub(crate) fn zones<'a>(zones: impl IntoIterator<Item = &'a Zone>) -> Filter {
    let zones = zones.into_iter().map(|zone| zone.as_str().to_owned());
    filter("availability-zone", zones)
}

/// The filter by which only regions that the account may use are returned.
pub(crate) fn usable_regions() -> Filter {
    filter("opt-in-status", USABLE.map(str::to_owned))
}

/// Whether this is what EC2 says of a region that the account may use.
pub(crate) fn is_usable(opt_in_status: &str) -> bool {
    USABLE.contains(&opt_in_status)
}

const USABLE: [&str; 2] = ["opt-in-not-required", "opted-in"];

/// The filter by which only these VPCs, or what is in them, is returned.
pub(crate) fn vpcs<'a>(ids: impl IntoIterator<Item = &'a VpcId>) -> Filter {
    filter("vpc-id", ids.into_iter().map(|id| id.as_str().to_owned()))
}

/// Whether an instance's tags are what was asked for.
pub(crate) fn has_all(tags: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| tags.get(key) == Some(value))
}

fn filter(name: &str, values: impl IntoIterator<Item = String>) -> Filter {
    Filter::builder()
        .name(name)
        .set_values(Some(values.into_iter().collect()))
        .build()
}

fn literal(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for char in value.chars() {
        if matches!(char, '*' | '?' | '\\') {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_in_a_tag_value_are_escaped() {
        assert_eq!(literal(r"a*b?c\d"), r"a\*b\?c\\d");
        assert_eq!(literal("plain value-1"), "plain value-1");
    }

    #[test]
    fn every_tag_is_a_filter_and_only_running_instances_are_asked_for() {
        let tags = [("service", "nat"), ("env", "pr*d")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let filters: Vec<_> = running_with(&tags)
            .into_iter()
            .map(|filter| {
                (
                    filter.name().unwrap_or_default().to_owned(),
                    filter.values().to_vec(),
                )
            })
            .collect();
        assert_eq!(
            filters,
            [
                ("tag:env".to_owned(), vec![r"pr\*d".to_owned()]),
                ("tag:service".to_owned(), vec!["nat".to_owned()]),
                ("instance-state-name".to_owned(), vec!["running".to_owned()]),
            ]
        );
    }

    #[test]
    fn an_instance_that_lacks_one_of_the_tags_does_not_match() {
        let tags = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let wanted = tags(&[("a", "1"), ("b", "")]);
        assert!(has_all(
            &tags(&[("b", ""), ("c", "x"), ("a", "1")]),
            &wanted
        ));
        assert!(!has_all(&tags(&[("a", "1")]), &wanted));
        assert!(!has_all(&tags(&[("a", "2"), ("b", "")]), &wanted));
        assert!(!has_all(&tags(&[]), &wanted));
    }
}
