//! Routes: those of ours in the main table, to and from netlink's form.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use privnet_reconcile::interface::InterfaceName;
use privnet_reconcile::route::{ROUTE_PROTOCOL, Route, RouteTarget};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

use crate::error::HostError;
use crate::link::Links;
use crate::netlink::{Netlink, RequestError};

/// All routes of ours.
pub(crate) async fn fetch(netlink: &Netlink, links: &Links) -> Result<BTreeSet<Route>, HostError> {
    let messages = dump_main_table(netlink).await?;
    let ours = messages
        .iter()
        .filter(|message| message.header.protocol == RouteProtocol::from(ROUTE_PROTOCOL));
    Ok(ours.filter_map(|message| route(message, links)).collect())
}

/// The router of the default route through `interface`: IPv4's, else IPv6's.
pub(crate) async fn default_gateway(
    netlink: &Netlink,
    links: &Links,
    interface: &InterfaceName,
) -> Result<Option<IpAddr>, HostError> {
    links.find(interface)?;
    let messages = dump_main_table(netlink).await?;
    let gateways = messages.iter().filter_map(|message| {
        let route = route(message, links)?;
        match route.target {
            RouteTarget::Gateway {
                address,
                interface: through,
            } if through == *interface && route.destination.prefix_len() == 0 => {
                let six = matches!(route.destination, IpNet::V6(_));
                Some((six, route.metric, address))
            }
            RouteTarget::Gateway { .. }
            | RouteTarget::Interface(_)
            | RouteTarget::Unreachable
            | RouteTarget::Unrecognised => None,
        }
    });
    Ok(gateways.min().map(|(_, _, address)| address))
}

/// The interface of the default route that is used: IPv4's, else IPv6's.
pub(crate) async fn default_interface(
    netlink: &Netlink,
    links: &Links,
) -> Result<Option<InterfaceName>, HostError> {
    let messages = dump_main_table(netlink).await?;
    let interfaces = messages.iter().filter_map(|message| {
        let route = route(message, links)?;
        match route.target {
            RouteTarget::Gateway { interface, .. } | RouteTarget::Interface(interface)
                if route.destination.prefix_len() == 0 =>
            {
                let six = matches!(route.destination, IpNet::V6(_));
                Some((six, route.metric, interface))
            }
            RouteTarget::Gateway { .. }
            | RouteTarget::Interface(_)
            | RouteTarget::Unreachable
            | RouteTarget::Unrecognised => None,
        }
    });
    Ok(interfaces.min().map(|(_, _, interface)| interface))
}

async fn dump_main_table(netlink: &Netlink) -> Result<Vec<RouteMessage>, HostError> {
    let mut messages = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let request = RouteNetlinkMessage::GetRoute(request);
        let objects = netlink.dump(request, "list routes").await?;
        messages.extend(objects.into_iter().filter_map(|object| match object {
            RouteNetlinkMessage::NewRoute(message) if is_in_main_table(&message) => Some(message),
            _ => None,
        }));
    }
    Ok(messages)
}

fn is_in_main_table(message: &RouteMessage) -> bool {
    // Numbers over 255 stand only in the attribute.
    let table = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    let table = table.unwrap_or_else(|| message.header.table.into());
    let cached = message.header.flags.contains(RouteFlags::Cloned);
    table == u32::from(RouteHeader::RT_TABLE_MAIN) && !cached
}

/// `None` only for what is no route of IPv4 or IPv6.
fn route(message: &RouteMessage, links: &Links) -> Option<Route> {
    let unspecified: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut destination = unspecified;
    let mut metric = 0;
    let mut source = None;
    let mut gateway = None;
    let mut interface = None;
    let mut strange = false;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some((*address).into()),
            RouteAttribute::Oif(index) => interface = links.name(*index).cloned(),
            RouteAttribute::MultiPath(_)
            | RouteAttribute::Encap(_)
            | RouteAttribute::NhId(_)
            | RouteAttribute::Source(_)
            | RouteAttribute::Metrics(_) => strange = true,
            _ => {}
        }
    }
    let target = match (message.header.kind, interface, gateway) {
        _ if strange => RouteTarget::Unrecognised,
        (RouteType::Unreachable, _, _) => RouteTarget::Unreachable,
        (RouteType::Unicast, Some(interface), Some(address)) => {
            RouteTarget::Gateway { address, interface }
        }
        (RouteType::Unicast, Some(interface), None) => RouteTarget::Interface(interface),
        _ => RouteTarget::Unrecognised,
    };
    Some(Route {
        destination: IpNet::new(destination, message.header.destination_prefix_length).ok()?,
        target,
        metric,
        source,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// Never takes a place that another route has: the kernel's "replace" does not
/// look at the protocol and would put ours over somebody else's.
pub(crate) async fn add(netlink: &Netlink, links: &Links, route: &Route) -> Result<(), HostError> {
    let operation = format!("add {route}");
    let request = RouteNetlinkMessage::NewRoute(wanted(route, links)?);
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    match netlink.request(request, flags, &operation).await {
        Ok(()) => Ok(()),
        Err(RequestError::Refused(error)) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(HostError::RouteTaken {
                route: Box::new(route.clone()),
            })
        }
        Err(error) => Err(error.into_host(operation)),
    }
}

/// Only for a place that a route of ours has.
pub(crate) async fn replace(
    netlink: &Netlink,
    links: &Links,
    route: &Route,
) -> Result<(), HostError> {
    let operation = format!("replace {route}");
    let request = RouteNetlinkMessage::NewRoute(wanted(route, links)?);
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    let result = netlink.request(request, flags, &operation).await;
    result.map_err(|error| error.into_host(operation))
}

/// The kernel matches the protocol as well, so it never hits somebody else's.
pub(crate) async fn remove(
    netlink: &Netlink,
    links: &Links,
    route: &Route,
) -> Result<(), HostError> {
    let operation = format!("remove {route}");
    let request = RouteNetlinkMessage::DelRoute(unwanted(route, links));
    match netlink.request(request, 0, &operation).await {
        Ok(()) => Ok(()),
        Err(RequestError::Refused(error)) if is_gone(&error) => Ok(()),
        Err(error) => Err(error.into_host(operation)),
    }
}

/// `ESRCH`: the kernel's word for a route that is not there.
fn is_gone(error: &io::Error) -> bool {
    const ESRCH: i32 = 3;
    error.raw_os_error() == Some(ESRCH)
}

fn wanted(route: &Route, links: &Links) -> Result<RouteMessage, HostError> {
    let mut message = place(route);
    message.header.kind = RouteType::Unicast;
    match &route.target {
        RouteTarget::Interface(interface) => {
            message.header.scope = RouteScope::Link;
            let index = links.find(interface)?.index;
            message.attributes.push(RouteAttribute::Oif(index));
        }
        RouteTarget::Gateway { address, interface } => {
            let index = links.find(interface)?.index;
            message.attributes.push(RouteAttribute::Oif(index));
            message.attributes.push(gateway(route, *address));
        }
        RouteTarget::Unreachable => message.header.kind = RouteType::Unreachable,
        RouteTarget::Unrecognised => {
            return Err(HostError::UnusableRoute {
                route: Box::new(route.clone()),
            });
        }
    }
    if let Some(source) = route.source {
        let source = RouteAttribute::PrefSource(source.into());
        message.attributes.push(source);
    }
    Ok(message)
}

/// As much as is known of it, so that of several in one place the right one
/// goes. An interface that has gone took its routes along.
fn unwanted(route: &Route, links: &Links) -> RouteMessage {
    let mut message = place(route);
    message.header.scope = RouteScope::NoWhere; // any
    message.header.kind = match route.target {
        RouteTarget::Interface(_) | RouteTarget::Gateway { .. } => RouteType::Unicast,
        RouteTarget::Unreachable => RouteType::Unreachable,
        RouteTarget::Unrecognised => RouteType::Unspec, // any
    };
    if let Some(Ok(link)) = route.target.interface().map(|name| links.find(name)) {
        message.attributes.push(RouteAttribute::Oif(link.index));
    }
    if let RouteTarget::Gateway { address, .. } = route.target {
        message.attributes.push(gateway(route, address));
    }
    message
}

/// Our mark, destination and metric.
fn place(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = match route.destination {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.attributes = vec![
        RouteAttribute::Destination(route.destination.network().into()),
        RouteAttribute::Priority(route.metric),
    ];
    message
}

fn gateway(route: &Route, address: IpAddr) -> RouteAttribute {
    match (route.destination, address) {
        (IpNet::V4(_), IpAddr::V6(address)) => RouteAttribute::Via(RouteVia::Inet6(address)),
        (IpNet::V4(_) | IpNet::V6(_), address) => RouteAttribute::Gateway(address.into()),
    }
}
