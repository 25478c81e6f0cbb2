//! Addresses of the tunnel interface.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use privnet_reconcile::interface::InterfaceName;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use crate::error::HostError;
use crate::link::Links;
use crate::netlink::{Netlink, RequestError};

/// The addresses of `interface`; none when it does not exist. Without IPv6's
/// link-local ones, which the kernel gives to itself.
pub(crate) async fn fetch(
    netlink: &Netlink,
    links: &Links,
    interface: &InterfaceName,
) -> Result<BTreeSet<(InterfaceName, IpNet)>, HostError> {
    let Ok(link) = links.find(interface) else {
        return Ok(BTreeSet::new());
    };
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let objects = netlink.dump(request, "list addresses").await?;
    let addresses = objects.iter().filter_map(|object| match object {
        RouteNetlinkMessage::NewAddress(message) if message.header.index == link.index => {
            address(message)
        }
        _ => None,
    });
    Ok(addresses
        .map(|address| (interface.clone(), address))
        .collect())
}

fn address(message: &AddressMessage) -> Option<IpNet> {
    let mut local = None;
    let mut other = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            _ => {}
        }
    }
    // On a point-to-point interface IPv4's `Address` is the far end.
    let address = local.or(other)?;
    let automatic = address.is_ipv6() && message.header.scope == AddressScope::Link;
    if automatic {
        return None;
    }
    IpNet::new(address, message.header.prefix_len).ok()
}

pub(crate) async fn add(
    netlink: &Netlink,
    links: &Links,
    interface: &InterfaceName,
    address: IpNet,
) -> Result<(), HostError> {
    let mut message = request(links, interface, address)?;
    // No neighbour can have the address: do not wait a second to find out.
    let flags = AddressAttribute::Flags(AddressFlags::Nodad);
    message.attributes.push(flags);
    let operation = format!("add address {address} dev {interface}");
    let request = RouteNetlinkMessage::NewAddress(message);
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    match netlink.request(request, flags, &operation).await {
        Ok(()) => Ok(()),
        Err(RequestError::Refused(error)) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.into_host(operation)),
    }
}

pub(crate) async fn remove(
    netlink: &Netlink,
    links: &Links,
    interface: &InterfaceName,
    address: IpNet,
) -> Result<(), HostError> {
    let message = request(links, interface, address)?;
    let operation = format!("remove address {address} dev {interface}");
    let request = RouteNetlinkMessage::DelAddress(message);
    match netlink.request(request, 0, &operation).await {
        Ok(()) => Ok(()),
        Err(RequestError::Refused(error)) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            Ok(())
        }
        Err(error) => Err(error.into_host(operation)),
    }
}

fn request(
    links: &Links,
    interface: &InterfaceName,
    address: IpNet,
) -> Result<AddressMessage, HostError> {
    let mut message = AddressMessage::default();
    message.header.index = links.find(interface)?.index;
    message.header.prefix_len = address.prefix_len();
    message.header.family = match address {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    let address: IpAddr = address.addr();
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    Ok(message)
}
