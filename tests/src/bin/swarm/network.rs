//! The namespaces of the swarm, and who has which address.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use privnet_tests::namespace::Namespace;

/// The hub's port, at each of its addresses.
pub(crate) const PORT: u16 = 51820;

/// The hub as the crowd, the busy peer and the flood see it.
pub(crate) const HUB_FOR_CROWD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 0);
pub(crate) const HUB_FOR_BUSY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(crate) const HUB_FOR_FLOOD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 4);

/// The hub inside the tunnel, where the busy peer's data goes.
pub(crate) const HUB_INSIDE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 9);
pub(crate) const BUSY_INSIDE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);

/// The namespaces.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) hub: Namespace,
    pub(crate) crowd: Namespace,
    pub(crate) busy: Namespace,
    pub(crate) flood: Namespace,
}

impl Network {
    pub(crate) fn build() -> Result<Self> {
        let [hub, crowd, busy, flood] = ["hub", "crowd", "busy", "flood"].map(Namespace::add);
        let network = Self {
            hub: hub?,
            crowd: crowd?,
            busy: busy?,
            flood: flood?,
        };
        for (number, other) in [&network.crowd, &network.busy, &network.flood]
            .into_iter()
            .enumerate()
        {
            let (name, subnet) = (other.name(), 2 * number);
            network.hub.link(name, other, "hub", 1500)?;
            network
                .hub
                .ip(&[format!("addr add 192.0.2.{subnet}/31 dev {name}")])?;
            other.ip(&[format!("addr add 192.0.2.{}/31 dev hub", subnet + 1)])?;
        }
        // Every address of these networks is one of the crowd's, and of the flood's.
        network.hub.ip(&[
            "route add 198.18.0.0/16 via 192.0.2.1",
            "route add 198.19.0.0/16 via 192.0.2.5",
        ])?;
        network
            .crowd
            .ip(&["route add local 198.18.0.0/16 dev lo"])?;
        network
            .flood
            .ip(&["route add local 198.19.0.0/16 dev lo"])?;
        Ok(network)
    }
}

/// Where a peer of the crowd is: at an address of its own, or at a port of the
/// one address of them all.
pub(crate) fn peer_address(number: u32, one_address: bool) -> SocketAddr {
    if one_address {
        return (Ipv4Addr::new(198, 18, 255, 254), 2000 + number as u16).into();
    }
    let host = (number + 1) as u16;
    let [high, low] = host.to_be_bytes();
    (Ipv4Addr::new(198, 18, high, low), PORT).into()
}

/// What lies behind a peer of the crowd.
pub(crate) fn peer_prefix(number: u32) -> String {
    let [high, low] = (number as u16).to_be_bytes();
    format!("10.{high}.{low}.0/24")
}
