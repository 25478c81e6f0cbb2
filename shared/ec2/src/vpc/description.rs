//! From EC2's descriptions to the words of `privnet_model::vpc`.
//!
//! Routes and addresses are changed by what is read here, so an id or a destination
//! that makes no sense is an error of the whole answer. What EC2 has beyond our words
//! becomes a target or a state that belongs to somebody else. Nothing here asks EC2.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use aws_sdk_ec2::types::{
    self, Address, Instance, InstanceNetworkInterface, RouteTableAssociation,
    RouteTableAssociationStateCode, Subnet, Tag,
};
use ipnet::IpNet;
use privnet_model::id::{InstanceId, InterfaceId, SubnetId, VpcId, Zone};
use privnet_model::vpc::{
    AddressHolder, Destination, ElasticAddress, Route, RouteOrigin, RouteState, RouteTable,
    RouteTarget, Sibling,
};

use crate::error::Reason;
use crate::filter;
use crate::record;

/// A running instance of the VPC as a sibling, or what it lacks to be one.
pub(super) fn sibling(
    instance: &Instance,
    vpc: &VpcId,
    wanted: &BTreeMap<String, String>,
) -> Result<(InstanceId, Result<Sibling, &'static str>), Reason> {
    let spoke = record::spoke(instance).map_err(Reason::unreadable)?;
    if let Some(other) = spoke.vpc.as_ref().filter(|other| *other != vpc) {
        let id = &spoke.instance;
        return Err(Reason::unreadable(format_args!("{id} is in {other}")));
    }
    let interface = primary_interface(instance);
    let id = spoke.instance.clone();
    let sibling = || {
        // EC2 has been seen to describe instances for a while without the tags by
        // which it finds them.
        if !filter::has_all(&spoke.tags, wanted) {
            return Err("its tags");
        }
        spoke.vpc.ok_or("its VPC")?;
        Ok(Sibling {
            instance: spoke.instance,
            launched: spoke.launched.ok_or("its launch time")?,
            zone: spoke.zone.ok_or("its availability zone")?,
            address: spoke.private_address.ok_or("its private address")?,
            interface: interface.ok_or("its primary network interface")?,
            instance_profile: spoke.instance_profile,
            tags: spoke.tags,
        })
    };
    Ok((id, sibling()))
}

/// The interface with which the instance was launched, and which it keeps: device 0
/// of its first network card.
fn primary_interface(instance: &Instance) -> Option<InterfaceId> {
    primary(instance)?.network_interface_id()?.parse().ok()
}

/// The same with all that EC2 says of it.
pub(super) fn primary(instance: &Instance) -> Option<&InstanceNetworkInterface> {
    instance.network_interfaces().iter().find(|interface| {
        interface.attachment().is_some_and(|attachment| {
            attachment.device_index() == Some(0)
                && attachment.network_card_index().unwrap_or(0) == 0
        })
    })
}

/// A subnet and its zone.
pub(super) fn subnet(subnet: &Subnet) -> Result<(SubnetId, Zone), Reason> {
    Ok((
        required(subnet.subnet_id())?,
        required(subnet.availability_zone())?,
    ))
}

/// A route table, still without its subnets, and the ids of those that are associated
/// with it.
pub(super) fn route_table(
    table: &types::RouteTable,
) -> Result<(RouteTable, BTreeSet<SubnetId>), Reason> {
    let id = required(table.route_table_id())?;
    let in_table = |detail: Reason| match detail {
        Reason::Unreadable { detail } => Reason::unreadable(format_args!("{detail} (of {id})")),
        other => other,
    };
    let associations = || table.associations().iter().filter(|one| holds(one));
    let subnets = associations()
        .filter_map(|one| filled(one.subnet_id()))
        .map(parsed)
        .collect::<Result<_, _>>()
        .map_err(in_table)?;
    let routes = table
        .routes()
        .iter()
        .filter_map(|one| route(one).transpose())
        .collect::<Result<_, _>>()
        .map_err(in_table)?;
    let vpc = required(table.vpc_id()).map_err(in_table)?;
    let table = RouteTable {
        vpc,
        main: associations().any(|one| one.main() == Some(true)),
        tags: tags(table.tags()),
        subnets: BTreeMap::new(),
        routes,
        id,
    };
    Ok((table, subnets))
}

/// Whether an association counts, also while EC2 still makes it.
fn holds(association: &RouteTableAssociation) -> bool {
    let state = association.association_state();
    !matches!(
        state.and_then(|state| state.state()),
        Some(
            RouteTableAssociationStateCode::Disassociating
                | RouteTableAssociationStateCode::Disassociated
                | RouteTableAssociationStateCode::Failed
        )
    )
}

/// A route; `None` for one whose kind of destination we do not know, and which is
/// therefore none of ours.
fn route(route: &types::Route) -> Result<Option<Route>, Reason> {
    let cidr = filled(route.destination_cidr_block())
        .or_else(|| filled(route.destination_ipv6_cidr_block()));
    let destination = match (cidr, filled(route.destination_prefix_list_id())) {
        (Some(cidr), _) => Destination::Cidr(parsed::<IpNet>(cidr)?.trunc()),
        (None, Some(list)) => Destination::PrefixList(parsed(list)?),
        (None, None) => return Ok(None),
    };
    Ok(Some(Route {
        destination,
        target: target(route),
        state: match route.state() {
            Some(types::RouteState::Active) => RouteState::Active,
            Some(types::RouteState::Blackhole) => RouteState::Blackhole,
            Some(_) | None => RouteState::Unclear,
        },
        origin: match route.origin() {
            Some(types::RouteOrigin::CreateRouteTable) => RouteOrigin::CreateRouteTable,
            Some(types::RouteOrigin::CreateRoute) => RouteOrigin::CreateRoute,
            Some(types::RouteOrigin::EnableVgwRoutePropagation) => RouteOrigin::Propagated,
            Some(_) | None => RouteOrigin::Unclear,
        },
    }))
}

/// Where a route leads. EC2 names one target; of an interface also its instance. Were
/// there several, none may pass for an interface, which could be taken for ours.
fn target(route: &types::Route) -> RouteTarget {
    let gateway = |id: &str| match id {
        "local" => RouteTarget::Local,
        id if id.starts_with("igw-") => RouteTarget::InternetGateway(id.to_owned()),
        id => RouteTarget::Other(id.to_owned()),
    };
    let others = [
        route.egress_only_internet_gateway_id(),
        route.local_gateway_id(),
        route.carrier_gateway_id(),
        route.core_network_arn(),
        route.odb_network_arn(),
        route.ip_address(),
    ];
    let instance = filled(route.instance_id());
    let elsewhere = filled(route.gateway_id())
        .map(gateway)
        .or_else(|| of(route.nat_gateway_id(), RouteTarget::NatGateway))
        .or_else(|| of(route.transit_gateway_id(), RouteTarget::TransitGateway))
        .or_else(|| of(route.vpc_peering_connection_id(), RouteTarget::Peering))
        .or_else(|| {
            let other = others.into_iter().find_map(filled)?;
            Some(RouteTarget::Other(other.to_owned()))
        });
    elsewhere
        .or_else(|| {
            let id = filled(route.network_interface_id())?;
            Some(match id.parse() {
                Ok(interface) => RouteTarget::Interface {
                    interface,
                    instance: instance.and_then(|id| id.parse().ok()),
                },
                Err(_) => RouteTarget::Other(id.to_owned()),
            })
        })
        .or_else(|| {
            let parsed = instance?.parse().map(RouteTarget::Instance);
            parsed.ok()
        })
        .unwrap_or_else(|| RouteTarget::Other("a target that EC2 does not tell".to_owned()))
}

fn of(id: Option<&str>, kind: fn(String) -> RouteTarget) -> Option<RouteTarget> {
    filled(id).map(|id| kind(id.to_owned()))
}

/// An Elastic IP.
pub(super) fn address(address: &Address) -> Result<ElasticAddress, Reason> {
    let anywhere = [
        address.association_id(),
        address.instance_id(),
        address.network_interface_id(),
    ];
    // One of which the association is not told could be taken from its holder.
    let holder = if anywhere.into_iter().any(|id| filled(id).is_some()) {
        Some(AddressHolder {
            association: required(address.association_id())?,
            instance: optional(address.instance_id())?,
            interface: optional(address.network_interface_id())?,
            private_address: optional::<IpAddr>(address.private_ip_address())?,
        })
    } else {
        None
    };
    Ok(ElasticAddress {
        allocation: required(address.allocation_id())?,
        address: required(address.public_ip())?,
        tags: tags(address.tags()),
        holder,
    })
}

/// A key is there once. Were it there twice, the first would count.
pub(super) fn tags(tags: &[Tag]) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    for tag in tags {
        if let Some(key) = tag.key() {
            let value = || tag.value().unwrap_or_default().to_owned();
            map.entry(key.to_owned()).or_insert_with(value);
        }
    }
    map
}

/// EC2 writes an empty element for what is not there.
fn filled(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn required<T: FromStr<Err: Display>>(text: Option<&str>) -> Result<T, Reason> {
    parsed(text.unwrap_or_default())
}

fn optional<T: FromStr<Err: Display>>(text: Option<&str>) -> Result<Option<T>, Reason> {
    filled(text).map(parsed).transpose()
}

fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, Reason> {
    text.parse().map_err(|error| {
        let text: String = text.chars().take(64).collect();
        Reason::unreadable(format_args!("`{text}`: {error}"))
    })
}
