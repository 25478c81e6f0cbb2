//! Spokes, sites and inventories for the tests of this crate.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use privnet_model::config::hub::{SiteConfig, SiteLink, TrustConfig, WireguardSite};
use privnet_model::inventory::{Inventory, Partition, SpokeRecord, Transport};
use privnet_model::ipsec::{ConnectionName, IkeSecret};
use privnet_model::key::PublicKey;
use privnet_model::net::Supernet;
use privnet_model::secret::FleetSecret;
use privnet_model::status::EspStatus;

use super::{Carried, Fleet, FleetInput, IpsecInput, Site, SiteSecret, TunnelId};
use crate::health::Health;

pub(crate) fn partition(region: &str) -> Partition {
    Partition {
        account: "111122223333".parse().unwrap(),
        region: region.parse().unwrap(),
    }
}

/// Spoke number `n`, launched `n` seconds after the epoch in a VPC of its own.
pub(crate) fn spoke(n: u32, cidr: &str) -> SpokeRecord {
    SpokeRecord {
        instance: format!("i-{n:017x}").parse().unwrap(),
        name: Some(format!("spoke-{n}")),
        launched: Some(Timestamp::from_second(i64::from(n)).unwrap()),
        zone: Some("eu-west-1a".parse().unwrap()),
        vpc: Some(format!("vpc-{n:017x}").parse().unwrap()),
        cidrs: vec![cidr.parse().unwrap()],
        public_address: Some(IpAddr::from(std::net::Ipv4Addr::from(0xcb00_7100 + n))),
        private_address: None,
        public_key: Some(key(n)),
        port: Some(51820),
        transport: Transport::Wireguard,
        instance_profile: None,
        image: None,
        zone_cidrs: Vec::new(),
        tags: BTreeMap::new(),
        tag_problems: Vec::new(),
    }
}

pub(crate) fn inventory(spokes: impl IntoIterator<Item = SpokeRecord>) -> Inventory {
    let mut inventory = Inventory::default();
    inventory
        .partitions
        .entry(partition("eu-west-1"))
        .or_default()
        .spokes = spokes
        .into_iter()
        .map(|spoke| (spoke.instance.clone(), spoke))
        .collect();
    inventory
}

/// The world that a test decides in: everything about it that is not the inventory.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) sites: Vec<Site>,
    pub(crate) trust: TrustConfig,
    pub(crate) carried: Carried,
    pub(crate) alive: BTreeSet<PublicKey>,
    pub(crate) health: BTreeMap<TunnelId, Health>,
    pub(crate) fleet_secret: Option<FleetSecret>,
    pub(crate) connected: BTreeSet<ConnectionName>,
    pub(crate) esp: Option<EspStatus>,
}

impl World {
    pub(crate) fn decide(&self, inventory: &Inventory) -> Fleet {
        Fleet::decide(FleetInput {
            privnet: &Supernet::new(["10.0.0.0/8".parse().unwrap()]).unwrap(),
            hub_keys: &[PublicKey::from_bytes([9; 32])],
            hub_vpc: &"vpc-ffffffff".parse().unwrap(),
            hub_cidrs: &["10.0.0.0/16".parse().unwrap()],
            sites: &self.sites,
            inventory,
            trust: &self.trust,
            carried: &self.carried,
            alive: &self.alive,
            health: &self.health,
            preshared: &|_| None,
            ipsec: IpsecInput {
                address: "10.0.0.10".parse().unwrap(),
                id: &"192.0.2.1".parse().unwrap(),
                secret: &|spoke| {
                    let secret = self.fleet_secret.as_ref()?;
                    let hub = "192.0.2.1".parse().unwrap();
                    IkeSecret::derive(secret, spoke, &hub).into_iter().next()
                },
                up: &self.connected,
                esp: self.esp,
            },
        })
    }

    /// Decides, and remembers who carries what.
    pub(crate) fn next(&mut self, inventory: &Inventory) -> Fleet {
        let fleet = self.decide(inventory);
        self.carried = fleet.carried();
        fleet
    }
}

pub(crate) fn decide(inventory: &Inventory, sites: &[Site]) -> Fleet {
    World {
        sites: sites.to_vec(),
        ..World::default()
    }
    .decide(inventory)
}

pub(crate) fn key(n: u32) -> PublicKey {
    let mut key = [1; 32];
    key[..4].copy_from_slice(&n.to_be_bytes());
    PublicKey::from_bytes(key)
}

pub(crate) fn id(n: u32) -> TunnelId {
    let instance = format!("i-{n:017x}").parse().unwrap();
    TunnelId::Spoke(partition("eu-west-1"), instance)
}

pub(crate) fn site(name: &str, cidr: &str) -> Site {
    Site {
        config: SiteConfig {
            name: name.to_owned(),
            cidrs: vec![cidr.parse().unwrap()],
            link: SiteLink::Wireguard(WireguardSite {
                endpoint: None,
                public_key: PublicKey::from_bytes([name.as_bytes()[0]; 32]),
                preshared_key: None,
                keepalive: None,
            }),
        },
        secret: SiteSecret::Wireguard(None),
    }
}
