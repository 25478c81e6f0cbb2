//! The hub's decision: which tunnel each spoke and static site gets, and which CIDRs
//! go through it. A pure function of inventory, config, who carries what, and who
//! is alive and well.
//!
//! A VPC is one site, and its spokes are the gateways of it. First keys are settled
//! (no two tunnels have the same), then CIDRs between sites (`claims`), then what a
//! site has is shared among its gateways (`gateways`). Nothing of it depends on
//! when anything was heard of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use privnet_model::config::hub::{SiteConfig, TrustConfig};
use privnet_model::id::{InstanceId, VpcId, Zone};
use privnet_model::inventory::{Inventory, Partition, Transport};
use privnet_model::ipsec::{
    Authentication, ConnectionName, IkeCredential, IkeId, IkeSecret, IpsecTunnel,
};
use privnet_model::key::{PresharedKey, PublicKey};
use privnet_model::net::Supernet;
use privnet_model::peer::PeerConfig;
use privnet_model::status::{EspStatus, ExcludedCidr, Exclusion, Note, Origin, Reason};
use serde::{Deserialize, Serialize};

use crate::health::Health;

mod claims;
mod decide;
#[cfg(test)]
pub(crate) mod fixtures;
mod gateways;
mod ipsec;
mod spoke;

pub use ipsec::own_tunnel;

/// The UDP port of a spoke that published none.
pub const DEFAULT_PORT: u16 = 51820;

/// The keepalive towards discovered spokes. EC2's security groups forget an
/// idle UDP flow after 180 s (one-way ones after 30 s); 25 s fits both, and it
/// makes a restarted hub call its spokes at once.
pub const KEEPALIVE: Duration = Duration::from_secs(25);

/// All that the decision depends on.
#[derive(Clone, Copy)]
pub struct FleetInput<'a> {
    /// The private network.
    pub privnet: &'a Supernet,
    /// The hub's own keys, the one in use and the next: nobody else may use them.
    pub hub_keys: &'a [PublicKey],
    /// The VPC that the hub is in; it is reached without a tunnel.
    pub hub_vpc: &'a VpcId,
    /// The CIDRs of that VPC.
    pub hub_cidrs: &'a [IpNet],
    /// The static sites, with their preshared keys as read from their files.
    pub sites: &'a [Site],
    /// What discovery knows.
    pub inventory: &'a Inventory,
    /// Which spokes are let in.
    pub trust: &'a TrustConfig,
    /// Who carried what after the decision before ([`Fleet::carried`]).
    pub carried: &'a Carried,
    /// The keys whose tunnels carry traffic ([`crate::alive::keys`]).
    pub alive: &'a BTreeSet<PublicKey>,
    /// How gateways answer probes ([`crate::health::Probes`]).
    pub health: &'a BTreeMap<TunnelId, Health>,
    /// The preshared key of a spoke with this public key, where there is one.
    pub preshared: &'a dyn Fn(&PublicKey) -> Option<PresharedKey>,
    /// What IPsec tunnels follow from.
    pub ipsec: IpsecInput<'a>,
}

/// What the hub's IPsec tunnels follow from.
#[derive(Clone, Copy)]
pub struct IpsecInput<'a> {
    /// Our address, as charon sees it.
    pub address: IpAddr,
    /// Who we say we are, where a site does not tell otherwise.
    pub id: &'a IkeId,
    /// The preshared key of a spoke of this identity; `None` without a fleet secret.
    pub secret: &'a dyn Fn(&IkeId) -> Option<IkeSecret>,
    /// The tunnels that can carry packets now.
    pub up: &'a BTreeSet<ConnectionName>,
    /// Who does ESP, where that is known.
    pub esp: Option<EspStatus>,
}

/// An IPsec tunnel as it is to be, with what proves that we are ourselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedIpsec {
    /// The tunnel. Who does ESP, only charon's side knows.
    pub tunnel: IpsecTunnel,
    /// The key.
    pub credential: IkeCredential,
    /// What is routed into it where the kernel does ESP. Its selectors may be wider: they
    /// are what may pass, and stay while gateways take turns.
    pub routed: BTreeSet<IpNet>,
}

impl PlannedIpsec {
    /// The same without anything routed into it.
    pub fn standing_by(self) -> Self {
        Self {
            routed: BTreeSet::new(),
            ..self
        }
    }
}

/// A static site and its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its section of the config.
    pub config: SiteConfig,
    /// What is in the files and in the parameter of SSM that it names.
    pub secret: SiteSecret,
}

/// What a static site's section names, and does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SiteSecret {
    /// WireGuard's preshared key, when it has one.
    Wireguard(Option<PresharedKey>),
    /// IPsec's credentials.
    Ipsec {
        /// How both ends prove who they are.
        authentication: Authentication,
        /// Our part of that.
        credential: IkeCredential,
    },
    /// A parameter was not read so far, and asking again may be all it needs: the site has
    /// no tunnel yet.
    Awaited {
        /// Which, and what came of asking.
        problem: String,
    },
    /// A file or a parameter cannot be read, or holds no key: the site has no tunnel, the
    /// others have theirs.
    Unreadable {
        /// Which, and why.
        problem: String,
    },
}

/// Every tunnel there should be, and every one there cannot be, with the reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet {
    /// In the order of [`TunnelId`].
    pub tunnels: BTreeMap<TunnelId, PlannedTunnel>,
    /// The sites that have a tunnel.
    pub sites: BTreeMap<SiteId, PlannedSite>,
}

/// What names a tunnel for as long as it exists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TunnelId {
    /// A static site, by name.
    Site(String),
    /// A discovered spoke.
    Spoke(Partition, InstanceId),
}

/// What names a site.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SiteId {
    /// A static site, by name.
    Static(String),
    /// A VPC.
    Vpc(VpcId),
}

impl SiteId {
    /// The name or id.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Static(name) => name,
            Self::Vpc(vpc) => vpc.as_str(),
        }
    }
}

/// What lies behind one or more tunnels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlannedSite {
    /// The CIDRs that are its own: no other site shares an address with them.
    pub cidrs: BTreeSet<IpNet>,
    /// Its tunnels, older launch first.
    pub gateways: Vec<TunnelId>,
}

/// Who carries what: the memory that a decision needs of the one before, so that
/// nobody loses what it carries to somebody older who came later.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The VPC that has each CIDR.
    cidrs: BTreeMap<IpNet, VpcId>,
    /// The spoke that it goes through; also what goes through that of its zone.
    via: BTreeMap<IpNet, InstanceId>,
    /// The spoke that has each key.
    keys: BTreeMap<PublicKey, InstanceId>,
}

/// One tunnel, configured or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTunnel {
    /// What to call it.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
    /// The partition of a discovered spoke.
    pub partition: Option<Partition>,
    /// Its zone.
    pub zone: Option<Zone>,
    /// Its VPC.
    pub vpc: Option<VpcId>,
    /// Its instance.
    pub instance: Option<InstanceId>,
    /// When that was launched.
    pub launched: Option<Timestamp>,
    /// Its private address.
    pub private_address: Option<IpAddr>,
    /// The CIDRs through this tunnel.
    pub cidrs: Vec<IpNet>,
    /// CIDRs of its site that are not, with the reason.
    pub excluded: Vec<ExcludedCidr>,
    /// The single address that is its own: sent to it, and accepted from it, alone.
    pub address: Option<IpAddr>,
    /// The site whose gateways it is one of; `None` when it can be the only one.
    pub site: Option<String>,
    /// The transport.
    pub transport: Transport,
    /// The endpoint as known from EC2 or the config.
    pub endpoint: Option<SocketAddr>,
    /// The far end's key.
    pub public_key: Option<PublicKey>,
    /// The second factor.
    pub preshared_key: Option<PresharedKey>,
    /// The far end's other key, while it changes: the next one that is not in use
    /// yet, or the one before that is not silent yet.
    pub beside: Option<KeyBeside>,
    /// The keepalive.
    pub keepalive: Option<Duration>,
    /// The tunnel by IPsec.
    pub ipsec: Option<PlannedIpsec>,
    /// How it answers probes; `None` when it is the only one of its site.
    pub health: Option<Health>,
    /// Why there is no tunnel; `None` when there is one.
    pub obstacle: Option<Obstacle>,
    /// What else there is to know.
    pub notes: Vec<Note>,
}

/// A key beside the one in use, with its second factor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyBeside {
    /// The key.
    pub public_key: PublicKey,
    /// The second factor.
    pub preshared_key: Option<PresharedKey>,
}

/// Why a tunnel is not configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Something is missing that may yet come.
    Pending(Reason),
    /// It has not proved yet who it is. It has a peer, of its own address alone, so
    /// that it can: the policy lets it talk to the hub's control endpoint only.
    Unproven(Reason),
    /// A rule forbids it.
    Rejected(Reason),
}

impl Obstacle {
    /// The reason.
    pub fn reason(&self) -> &Reason {
        match self {
            Self::Pending(reason) | Self::Unproven(reason) | Self::Rejected(reason) => reason,
        }
    }
}

impl Fleet {
    /// Decides. The time is that of sorting the spokes (times the length of a
    /// prefix): `tests/benches/plan.rs` holds it under 50 ms for 10,000 of them.
    pub fn decide(input: FleetInput<'_>) -> Self {
        decide::decide(input)
    }

    /// The peers of the data plane.
    pub fn peers(&self) -> BTreeMap<PublicKey, PeerConfig> {
        self.tunnels
            .values()
            .filter(|tunnel| tunnel.has_peer())
            .flat_map(PlannedTunnel::peers)
            .collect()
    }

    /// Every CIDR that is behind a WireGuard tunnel: what the host routes to the
    /// tunnel interface. It does not change when a site's gateways take turns, as
    /// long as they speak WireGuard.
    pub fn cidrs(&self) -> impl Iterator<Item = IpNet> {
        let by_ipsec: BTreeSet<IpNet> = self
            .ipsec()
            .flat_map(|tunnel| &tunnel.cidrs)
            .copied()
            .collect();
        let sites = self.sites.values().flat_map(|site| &site.cidrs).copied();
        let sites = sites.filter(move |cidr| !by_ipsec.contains(cidr));
        let unproven = self
            .tunnels
            .values()
            .filter(|tunnel| matches!(tunnel.obstacle, Some(Obstacle::Unproven(_))));
        sites.chain(unproven.filter_map(|tunnel| tunnel.address.map(IpNet::from)))
    }

    /// The tunnels that IPsec is to set up.
    pub fn ipsec(&self) -> impl Iterator<Item = &PlannedTunnel> {
        let tunnels = self.tunnels.values();
        tunnels.filter(|tunnel| tunnel.obstacle.is_none() && tunnel.ipsec.is_some())
    }

    /// Who carries what, for the next decision and for the state file.
    pub fn carried(&self) -> Carried {
        let mut carried = Carried::default();
        for (id, site) in &self.sites {
            if let SiteId::Vpc(vpc) = id {
                carried
                    .cidrs
                    .extend(site.cidrs.iter().map(|cidr| (*cidr, vpc.clone())));
            }
        }
        let is_set_up = |tunnel: &&PlannedTunnel| {
            tunnel.has_peer() || (tunnel.obstacle.is_none() && tunnel.ipsec.is_some())
        };
        for tunnel in self.tunnels.values().filter(is_set_up) {
            let Some(instance) = &tunnel.instance else {
                continue;
            };
            carried
                .via
                .extend(tunnel.cidrs.iter().map(|cidr| (*cidr, instance.clone())));
            carried
                .keys
                .extend(tunnel.keys().map(|key| (key, instance.clone())));
        }
        carried
    }

    /// The tunnel that a single address is of: who speaks from it, as WireGuard
    /// has checked. Linear in the number of tunnels.
    pub fn speaker(&self, address: IpAddr) -> Option<(&TunnelId, &PlannedTunnel)> {
        self.tunnels
            .iter()
            .find(|(_, tunnel)| tunnel.has_peer() && tunnel.address == Some(address))
    }

    /// The gateways to probe, with the address that answers: those of sites that
    /// have more than one. Those by IPsec only where the kernel does ESP: strongSwan's own
    /// sends what is for a site through any of its tunnels.
    pub fn probed(&self, esp: Option<EspStatus>) -> impl Iterator<Item = (&TunnelId, IpAddr)> {
        let can_be = move |tunnel: &&PlannedTunnel| {
            tunnel.transport != Transport::Ipsec || esp == Some(EspStatus::Kernel)
        };
        self.sites
            .values()
            .filter(|site| site.gateways.len() > 1)
            .flat_map(|site| &site.gateways)
            .filter_map(move |id| {
                let tunnel = self.tunnels.get(id).filter(can_be)?;
                Some((id, tunnel.address?))
            })
    }
}

impl PlannedTunnel {
    /// One of a config file, of which nothing but the name is known.
    pub fn named(name: String, origin: Origin) -> Self {
        Self {
            name,
            origin,
            partition: None,
            zone: None,
            vpc: None,
            instance: None,
            launched: None,
            private_address: None,
            cidrs: Vec::new(),
            excluded: Vec::new(),
            address: None,
            site: None,
            transport: Transport::Wireguard,
            endpoint: None,
            public_key: None,
            preshared_key: None,
            beside: None,
            keepalive: None,
            ipsec: None,
            health: None,
            obstacle: None,
            notes: Vec::new(),
        }
    }

    /// Whether the data plane has a peer for it.
    pub fn has_peer(&self) -> bool {
        match &self.obstacle {
            None | Some(Obstacle::Unproven(_)) => self.public_key.is_some(),
            Some(Obstacle::Pending(_) | Obstacle::Rejected(_)) => false,
        }
    }

    /// Whether it waits for nothing but the spoke's key.
    pub fn lacks_key(&self) -> bool {
        matches!(self.obstacle, Some(Obstacle::Pending(Reason::NoPublicKey)))
    }

    /// Whether it is ready, and another gateway of its site carries everything.
    pub fn is_standby(&self) -> bool {
        let carried = |excluded: &ExcludedCidr| matches!(excluded.why, Exclusion::CarriedBy { .. });
        self.obstacle.is_none() && self.cidrs.is_empty() && self.excluded.iter().any(carried)
    }

    fn keys(&self) -> impl Iterator<Item = PublicKey> {
        let beside = self.beside.as_ref().map(|beside| beside.public_key);
        self.public_key.into_iter().chain(beside)
    }

    fn peers(&self) -> impl Iterator<Item = (PublicKey, PeerConfig)> {
        let own = self.address.map(IpNet::from);
        let both = self.instance.as_ref().filter(|_| self.beside.is_some());
        let peer = |preshared_key: &Option<PresharedKey>| PeerConfig {
            preshared_key: preshared_key.clone(),
            also_preshared_key: None,
            endpoint: self.endpoint,
            keepalive: self.keepalive,
            allowed_ips: BTreeSet::new(),
            // Who has not proved who it is may send as itself alone.
            site: self.site.clone().filter(|_| self.obstacle.is_none()),
            gateway: both.map(InstanceId::to_string),
        };
        let main = self.public_key.map(|key| {
            let allowed_ips = self.cidrs.iter().copied().chain(own).collect();
            (
                key,
                PeerConfig {
                    allowed_ips,
                    ..peer(&self.preshared_key)
                },
            )
        });
        // Nothing is sent to it, so it is the far end that calls.
        let beside = self.beside.as_ref().map(|beside| {
            let config = PeerConfig {
                keepalive: None,
                ..peer(&beside.preshared_key)
            };
            (beside.public_key, config)
        });
        main.into_iter().chain(beside)
    }
}

#[cfg(test)]
mod tests;
