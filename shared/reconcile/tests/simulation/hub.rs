//! The hub's main loop, without the machine around it: it keeps what the real one keeps,
//! and calls this crate as the real one does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use jiff::Timestamp;
use privnet_model::config::hub::{Glob, SiteConfig, SiteLink, TrustConfig, WireguardSite};
use privnet_model::id::InstanceId;
use privnet_model::inventory::{Inventory, PartitionAnswer};
use privnet_model::key::PublicKey;
use privnet_model::net::Supernet;
use privnet_model::peer::{PeerConfig, PeerStatus};
use privnet_reconcile::fleet::{
    Carried, Fleet, FleetInput, IpsecInput, Site, SiteSecret, TunnelId,
};
use privnet_reconcile::health::Health;
use privnet_reconcile::inventory::{Absorbed, Accepted, Sweep};
use privnet_reconcile::memory::Memory;
use privnet_reconcile::{alive, pin};

use crate::event::Poll;
use crate::truth::{TRUSTED_PROFILE, Truth, partition};

pub(crate) const HUB_CIDR: &str = "10.0.0.0/16";
pub(crate) const STATIC_CIDR: &str = "10.200.0.0/16";
pub(crate) const STATIC_KEY: PublicKey = PublicKey::from_bytes([8; 32]);

#[derive(Clone)]
pub(crate) struct Hub {
    pub(crate) inventory: Inventory,
    pub(crate) fleet: Fleet,
    carried: Carried,
    pub(crate) health: BTreeMap<TunnelId, Health>,
    started: i64,
    alive_before: BTreeSet<PublicKey>,
    /// The last handshake with each peer.
    pub(crate) handshakes: BTreeMap<PublicKey, i64>,
    /// The state file.
    file: String,
}

impl Hub {
    pub(crate) fn new(now: i64) -> Self {
        let mut hub = Self {
            inventory: Inventory::default(),
            fleet: Fleet::default(),
            carried: Carried::default(),
            health: BTreeMap::new(),
            started: now,
            alive_before: BTreeSet::new(),
            handshakes: BTreeMap::new(),
            file: String::new(),
        };
        hub.settle(now);
        hub.save(now);
        hub
    }

    pub(crate) fn alive(&self, now: i64) -> BTreeSet<PublicKey> {
        let at = |second: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(second as u64);
        let peers: Vec<PeerStatus> = self
            .handshakes
            .iter()
            .map(|(key, handshake)| PeerStatus {
                key: *key,
                config: PeerConfig::default(),
                last_handshake: Some(at(*handshake)),
                rx_bytes: 0,
                tx_bytes: 0,
            })
            .collect();
        alive::keys(&peers, &self.alive_before, at(self.started), at(now))
    }

    /// What the operator lets go at this poll.
    pub(crate) fn accepted(&self, poll: &Poll) -> Accepted {
        let missing = self.inventory.partitions.values();
        let missing = missing.flat_map(|view| view.absent.keys().cloned());
        Accepted {
            held: poll.accept_removals,
            instances: missing.filter(|_| poll.remove).collect(),
        }
    }

    pub(crate) fn known(&self, region: usize) -> BTreeSet<InstanceId> {
        let view = self.inventory.partitions.get(&partition(region));
        view.map(|view| view.spokes.keys().cloned().collect())
            .unwrap_or_default()
    }

    pub(crate) fn absorb(
        &self,
        sweep: &mut Sweep,
        answers: Vec<PartitionAnswer>,
        now: i64,
    ) -> Absorbed {
        let at = Timestamp::from_second(now).unwrap();
        sweep.absorb(self.inventory.clone(), answers, &self.alive(now), at)
    }

    pub(crate) fn decide(&self, inventory: &Inventory, now: i64) -> Fleet {
        Fleet::decide(FleetInput {
            privnet: &Supernet::new(["10.0.0.0/8".parse().unwrap()]).unwrap(),
            hub_keys: &[PublicKey::from_bytes([9; 32])],
            hub_vpc: &"vpc-ffffffff".parse().unwrap(),
            hub_cidrs: &[HUB_CIDR.parse::<IpNet>().unwrap()],
            sites: &[static_site()],
            inventory,
            trust: &TrustConfig {
                instance_profiles: vec![Glob::new(TRUSTED_PROFILE)],
                ..TrustConfig::default()
            },
            carried: &self.carried,
            alive: &self.alive(now),
            health: &self.health,
            preshared: &|_| None,
            ipsec: IpsecInput {
                address: "10.0.0.10".parse().unwrap(),
                id: &"192.0.2.1".parse().unwrap(),
                secret: &|_| None,
                up: &BTreeSet::new(),
                esp: None,
            },
        })
    }

    /// Settles the keys and decides, as after every poll and at each beat; what that
    /// changes is saved, or a hub that is killed would go back to it.
    pub(crate) fn settle(&mut self, now: i64) {
        let alive = self.alive(now);
        let keys = pin::settle_all(&mut self.inventory, &alive);
        self.fleet = self.decide(&self.inventory, now);
        let before = std::mem::replace(&mut self.carried, self.fleet.carried());
        if !keys.is_empty() || before != self.carried {
            self.save(now);
        }
        let peers = self.fleet.peers();
        self.handshakes.retain(|key, _| peers.contains_key(key));
    }

    /// Whoever can, handshakes; whoever is probed and cannot, is down.
    pub(crate) fn hear(&mut self, truth: &Truth) {
        let peers = self.fleet.peers();
        for instance in truth.instances.iter().filter(|instance| instance.reaches()) {
            if peers.contains_key(&instance.key) {
                self.handshakes.insert(instance.key, truth.now);
            }
        }
        let mut health = BTreeMap::new();
        for (id, _) in self.fleet.probed(None) {
            let TunnelId::Spoke(_, instance) = id else {
                continue;
            };
            let answers = truth.instance(instance).is_some_and(|instance| {
                let heard = self.handshakes.contains_key(&instance.key);
                instance.reaches() && instance.answers_probes && heard
            });
            // It takes a while to be good, and no time to be down.
            let now = match (answers, self.health.get(id)) {
                (false, _) => Health::Down,
                (true, None) => Health::Untried,
                (true, Some(_)) => Health::Up,
            };
            health.insert(id.clone(), now);
        }
        self.health = health;
    }

    pub(crate) fn save(&mut self, now: i64) {
        let memory = Memory::new(&self.inventory, &self.fleet, &self.alive(now));
        self.file = serde_json::to_string(&memory).unwrap();
    }

    /// Starts anew from the state file alone.
    pub(crate) fn restart(&mut self, now: i64) {
        let memory: Memory = serde_json::from_str(&self.file).unwrap();
        *self = Self {
            inventory: memory.inventory(),
            carried: memory.carried,
            alive_before: memory.alive,
            file: std::mem::take(&mut self.file),
            ..Self::new(now)
        };
        self.settle(now);
    }
}

fn static_site() -> Site {
    Site {
        config: SiteConfig {
            name: "dc".to_owned(),
            cidrs: vec![STATIC_CIDR.parse().unwrap()],
            link: SiteLink::Wireguard(WireguardSite {
                endpoint: None,
                public_key: STATIC_KEY,
                preshared_key: None,
                keepalive: None,
            }),
        },
        secret: SiteSecret::Wireguard(None),
    }
}
