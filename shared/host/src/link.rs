//! The host's interfaces: names, indexes, hardware addresses.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use privnet_reconcile::interface::InterfaceName;

use crate::error::HostError;
use crate::netlink::Netlink;
use crate::xfrm;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number for it; another one when it is made anew.
    pub index: u32,
    /// Its name.
    pub name: InterfaceName,
    /// Its hardware address, if it is of a kind that has one.
    pub mac: Option<MacAddress>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// An XFRM interface's number.
    pub(crate) xfrm: Option<NonZeroU32>,
}

/// A hardware address of six bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

/// All interfaces by index.
pub(crate) struct Links(BTreeMap<u32, Interface>);

impl Links {
    pub(crate) async fn fetch(netlink: &Netlink) -> Result<Self, HostError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let objects = netlink.dump(request, "list interfaces").await?;
        let links = objects.iter().filter_map(|object| match object {
            RouteNetlinkMessage::NewLink(link) => interface(link),
            _ => None,
        });
        Ok(Self(links.map(|link| (link.index, link)).collect()))
    }

    pub(crate) fn name(&self, index: u32) -> Option<&InterfaceName> {
        self.0.get(&index).map(|link| &link.name)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Interface> {
        self.0.values()
    }

    pub(crate) fn find(&self, name: &InterfaceName) -> Result<&Interface, HostError> {
        let found = self.0.values().find(|link| link.name == *name);
        found.ok_or_else(|| HostError::NoInterface { name: name.clone() })
    }

    pub(crate) fn find_mac(&self, mac: MacAddress) -> Result<Interface, HostError> {
        // A VLAN or a macvlan repeats the address of the interface it stands
        // on; that one was there first and has the lower index.
        let found = self.0.values().find(|link| link.mac == Some(mac));
        found.cloned().ok_or_else(|| HostError::NoSuchMac {
            mac,
            present: self.0.values().cloned().collect(),
        })
    }
}

/// `None` for an interface whose name we would not use anywhere.
fn interface(link: &LinkMessage) -> Option<Interface> {
    let mut name = None;
    let mut mac = None;
    let mut mtu = 0;
    let mut number = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = InterfaceName::new(text.as_str()).ok(),
            LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(value) => mtu = *value,
            LinkAttribute::LinkInfo(info) => number = xfrm::number(info),
            _ => {}
        }
    }
    let loopback = link.header.flags.contains(LinkFlags::Loopback);
    Some(Interface {
        index: link.header.index,
        name: name?,
        mac: mac.filter(|_| !loopback).map(MacAddress),
        mtu,
        up: link.header.flags.contains(LinkFlags::Up),
        xfrm: number,
    })
}

/// Why a string is no hardware address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a hardware address: expected six bytes such as 0a:1b:2c:3d:4e:5f")]
pub struct InvalidMacAddress {
    text: String,
}

impl FromStr for MacAddress {
    type Err = InvalidMacAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let byte = |part: &str| {
            let hex = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            hex.then(|| u8::from_str_radix(part, 16).ok()).flatten()
        };
        // The instance metadata has been seen with a line end behind it.
        let bytes: Option<Vec<u8>> = text.trim().split(':').map(byte).collect();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| InvalidMacAddress {
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn a_hardware_address_is_read_and_written() {
        let mac: MacAddress = "0A:1b:2c:3d:4e:5f\n".parse().unwrap();
        assert_eq!(mac.to_string(), "0a:1b:2c:3d:4e:5f");
    }

    #[test]
    fn what_is_not_six_bytes_is_refused() {
        for text in [
            "",
            "0a:1b:2c:3d:4e",
            "0a:1b:2c:3d:4e:5f:60",
            "+a:1b:2c:3d:4e:5f",
            "a1b2c3d4e5f6",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }
}
