//! The hub's decision: which tunnel each spoke and site gets, and which CIDRs
//! go through it. A pure function of inventory and config.
//!
//! Claims are settled before anything is applied, in an order that does not
//! depend on when anything was heard of: the hub's own VPC, then the static
//! sites as the config lists them, then discovered spokes, older launch first.
//! Whoever comes later in that order loses the CIDR, and is shown with the reason.
//! (That a tunnel which carries traffic keeps its CIDR against an older launch
//! tagged later is not decided here yet: it needs to know what carries traffic.)

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use prefix_trie::joint::JointPrefixMap;
use privnet_model::config::hub::SiteConfig;
use privnet_model::id::{InstanceId, VpcId, Zone};
use privnet_model::inventory::{Inventory, Partition, SpokeRecord, Transport};
use privnet_model::key::{PresharedKey, PublicKey};
use privnet_model::net::Supernet;
use privnet_model::peer::PeerConfig;
use privnet_model::status::{ExcludedCidr, Exclusion, Origin, Reason};

/// The UDP port of a spoke that published none.
pub const DEFAULT_PORT: u16 = 51820;

/// The keepalive towards discovered spokes. EC2's security groups forget an
/// idle UDP flow after 180 s (one-way ones after 30 s); 25 s fits both, and it
/// makes a restarted hub call its spokes at once.
pub const KEEPALIVE: Duration = Duration::from_secs(25);

/// All that the decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct FleetInput<'a> {
    /// The private network.
    pub privnet: &'a Supernet,
    /// The hub's own key: nobody else may use it.
    pub hub_key: &'a PublicKey,
    /// The VPC that the hub is in; it is reached without a tunnel.
    pub hub_vpc: &'a VpcId,
    /// The CIDRs of that VPC.
    pub hub_cidrs: &'a [IpNet],
    /// The static sites, with their preshared keys as read from their files.
    pub sites: &'a [Site],
    /// What discovery knows.
    pub inventory: &'a Inventory,
}

/// A static site and its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its section of the config.
    pub config: SiteConfig,
    /// The preshared key, when it has one.
    pub preshared_key: Option<PresharedKey>,
}

/// Every tunnel there should be, and every one there cannot be, with the reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet {
    /// In the order of [`TunnelId`].
    pub tunnels: BTreeMap<TunnelId, PlannedTunnel>,
}

/// What names a tunnel for as long as it exists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TunnelId {
    /// A static site, by name.
    Site(String),
    /// A discovered spoke.
    Spoke(Partition, InstanceId),
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
    /// CIDRs through this tunnel.
    pub cidrs: Vec<IpNet>,
    /// CIDRs that are not, with the reason.
    pub excluded: Vec<ExcludedCidr>,
    /// The transport.
    pub transport: Transport,
    /// The endpoint as known from EC2 or the config.
    pub endpoint: Option<SocketAddr>,
    /// The far end's key.
    pub public_key: Option<PublicKey>,
    /// The second factor.
    pub preshared_key: Option<PresharedKey>,
    /// The keepalive.
    pub keepalive: Option<Duration>,
    /// Why there is no tunnel; `None` when there is one.
    pub obstacle: Option<Obstacle>,
}

/// Why a tunnel is not configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Something is missing that may yet come.
    Pending(Reason),
    /// A rule forbids it.
    Rejected(Reason),
}

impl Fleet {
    /// Decides. The time is linear in the number of spokes (times the length
    /// of a prefix): a benchmark holds it under 50 ms for 10,000 of them.
    pub fn decide(input: FleetInput<'_>) -> Self {
        let mut claims = Claims::new(input);
        let mut tunnels = BTreeMap::new();
        for site in input.sites {
            let tunnel = claims.settle(site_tunnel(site), &site.config.name);
            tunnels.insert(TunnelId::Site(site.config.name.clone()), tunnel);
        }
        let mut spokes: Vec<(&Partition, &SpokeRecord)> = input
            .inventory
            .spokes()
            .filter(|(_, spoke)| spoke.vpc.as_ref() != Some(input.hub_vpc))
            .collect();
        spokes.sort_by(|(_, a), (_, b)| seniority(a).cmp(&seniority(b)));
        for (partition, spoke) in spokes {
            let site = spoke
                .vpc
                .as_ref()
                .map_or(spoke.instance.as_str(), VpcId::as_str);
            let tunnel = claims.settle(spoke_tunnel(partition, spoke), site);
            let id = TunnelId::Spoke(partition.clone(), spoke.instance.clone());
            tunnels.insert(id, tunnel);
        }
        Self { tunnels }
    }

    /// The peers of the data plane.
    pub fn peers(&self) -> BTreeMap<PublicKey, PeerConfig> {
        self.tunnels
            .values()
            .filter(|tunnel| tunnel.obstacle.is_none())
            .filter_map(|tunnel| Some((tunnel.public_key?, tunnel.peer())))
            .collect()
    }

    /// Every CIDR that goes through a tunnel: what the host routes to the
    /// tunnel interface.
    pub fn cidrs(&self) -> impl Iterator<Item = IpNet> {
        self.tunnels
            .values()
            .filter(|tunnel| tunnel.obstacle.is_none())
            .flat_map(|tunnel| tunnel.cidrs.iter().copied())
    }
}

impl PlannedTunnel {
    fn peer(&self) -> PeerConfig {
        PeerConfig {
            preshared_key: self.preshared_key.clone(),
            endpoint: self.endpoint,
            keepalive: self.keepalive,
            allowed_ips: self.cidrs.iter().copied().collect(),
            ..PeerConfig::default()
        }
    }
}

/// Older first; an instance whose launch time EC2 does not tell comes last.
fn seniority(spoke: &SpokeRecord) -> (bool, Option<Timestamp>, &InstanceId) {
    (spoke.launched.is_none(), spoke.launched, &spoke.instance)
}

fn site_tunnel(site: &Site) -> PlannedTunnel {
    let config = &site.config;
    PlannedTunnel {
        name: config.name.clone(),
        origin: Origin::Static,
        partition: None,
        zone: None,
        vpc: None,
        instance: None,
        launched: None,
        private_address: None,
        cidrs: config.cidrs.clone(),
        excluded: Vec::new(),
        transport: config.transport,
        endpoint: config.endpoint,
        public_key: Some(config.public_key),
        preshared_key: site.preshared_key.clone(),
        keepalive: config.keepalive,
        obstacle: None,
    }
}

fn spoke_tunnel(partition: &Partition, spoke: &SpokeRecord) -> PlannedTunnel {
    PlannedTunnel {
        name: spoke
            .name
            .clone()
            .unwrap_or_else(|| spoke.instance.to_string()),
        origin: Origin::Discovered,
        partition: Some(partition.clone()),
        zone: spoke.zone.clone(),
        vpc: spoke.vpc.clone(),
        instance: Some(spoke.instance.clone()),
        launched: spoke.launched,
        private_address: spoke.private_address,
        cidrs: spoke.cidrs.clone(),
        excluded: Vec::new(),
        transport: spoke.transport,
        endpoint: spoke
            .public_address
            .map(|address| SocketAddr::new(address, spoke.port.unwrap_or(DEFAULT_PORT))),
        public_key: spoke.public_key,
        preshared_key: None,
        keepalive: Some(KEEPALIVE),
        obstacle: missing(spoke),
    }
}

/// What keeps a spoke from having a tunnel, the most telling thing first.
fn missing(spoke: &SpokeRecord) -> Option<Obstacle> {
    if let Some(problem) = spoke.tag_problems.first() {
        return Some(Obstacle::Pending(Reason::BadTag {
            problem: problem.clone(),
        }));
    }
    match spoke.transport {
        Transport::Wireguard => {}
        Transport::None => return Some(Obstacle::Rejected(Reason::NoTransport)),
        transport @ Transport::Ipsec => {
            return Some(Obstacle::Rejected(Reason::TransportUnsupported {
                transport,
            }));
        }
    }
    let reason = if spoke.vpc.is_none() {
        Reason::NoVpc
    } else if spoke.public_key.is_none() {
        Reason::NoPublicKey
    } else if spoke.public_address.is_none() {
        Reason::NoPublicAddress
    } else if spoke.cidrs.is_empty() {
        Reason::NoCidrs
    } else {
        return None;
    };
    Some(Obstacle::Pending(reason))
}

/// Who has which CIDR and which key, so far.
struct Claims<'a> {
    privnet: &'a Supernet,
    cidrs: JointPrefixMap<IpNet, Claim>,
    keys: BTreeMap<PublicKey, String>,
}

enum Claim {
    HubVpc,
    Tunnel { site: String, tunnel: String },
}

impl<'a> Claims<'a> {
    fn new(input: FleetInput<'a>) -> Self {
        let mut cidrs = JointPrefixMap::new();
        for cidr in input.hub_cidrs {
            cidrs.insert(*cidr, Claim::HubVpc);
        }
        Self {
            privnet: input.privnet,
            cidrs,
            keys: BTreeMap::from([(*input.hub_key, "the hub itself".to_owned())]),
        }
    }

    /// Gives the tunnel what is still free. A tunnel that has an obstacle
    /// claims nothing: it carries no traffic, so it must not keep another
    /// from carrying it.
    fn settle(&mut self, mut tunnel: PlannedTunnel, site: &str) -> PlannedTunnel {
        if tunnel.obstacle.is_some() {
            return tunnel;
        }
        if let Some(key) = tunnel.public_key {
            if let Some(owner) = self.keys.get(&key) {
                tunnel.obstacle = Some(Obstacle::Rejected(Reason::DuplicateKey {
                    tunnel: owner.clone(),
                }));
                return tunnel;
            }
            self.keys.insert(key, tunnel.name.clone());
        }
        let wanted: BTreeSet<IpNet> = tunnel.cidrs.drain(..).collect();
        for cidr in wanted {
            match self.objection(&cidr, site) {
                Some(why) => tunnel.excluded.push(ExcludedCidr { cidr, why }),
                None => tunnel.cidrs.push(cidr),
            }
        }
        for cidr in &tunnel.cidrs {
            let claim = Claim::Tunnel {
                site: site.to_owned(),
                tunnel: tunnel.name.clone(),
            };
            self.cidrs.insert(*cidr, claim);
        }
        // A spoke whose CIDRs are all carried by another spoke of its VPC is a
        // standby: it keeps its tunnel, so that it is ready.
        let standby = tunnel
            .excluded
            .iter()
            .any(|excluded| matches!(excluded.why, Exclusion::CarriedBy { .. }));
        if tunnel.cidrs.is_empty() && !standby {
            tunnel.obstacle = Some(Obstacle::Rejected(Reason::NothingLeft));
        }
        tunnel
    }

    fn objection(&self, cidr: &IpNet, site: &str) -> Option<Exclusion> {
        if !self.privnet.contains(cidr) {
            return Some(Exclusion::OutsidePrivnet);
        }
        let (taken, claim) = match self.cidrs.get_lpm(cidr) {
            Some((taken, claim)) => (taken, claim),
            None => self.cidrs.children(cidr).next()?,
        };
        Some(match claim {
            Claim::HubVpc => Exclusion::OverlapsHubVpc { cidr: taken },
            Claim::Tunnel {
                site: other,
                tunnel,
            } if other == site => Exclusion::CarriedBy {
                tunnel: tunnel.clone(),
            },
            Claim::Tunnel { site: other, .. } => Exclusion::OverlapsSite {
                site: other.clone(),
                cidr: taken,
            },
        })
    }
}

#[cfg(test)]
pub(crate) mod fixtures {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    pub(crate) fn partition(region: &str) -> Partition {
        Partition {
            account: "111122223333".parse().unwrap(),
            region: region.parse().unwrap(),
        }
    }

    /// Spoke number `n`, launched `n` seconds after the epoch in a VPC of its own.
    pub(crate) fn spoke(n: u32, cidr: &str) -> SpokeRecord {
        let mut key = [1; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        SpokeRecord {
            instance: format!("i-{n:017x}").parse().unwrap(),
            name: Some(format!("spoke-{n}")),
            launched: Some(Timestamp::from_second(i64::from(n)).unwrap()),
            zone: Some("eu-west-1a".parse().unwrap()),
            vpc: Some(format!("vpc-{n:017x}").parse().unwrap()),
            cidrs: vec![cidr.parse().unwrap()],
            public_address: Some(IpAddr::from(std::net::Ipv4Addr::from(0xcb00_7100 + n))),
            private_address: None,
            public_key: Some(PublicKey::from_bytes(key)),
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

    pub(crate) fn decide(inventory: &Inventory, sites: &[Site]) -> Fleet {
        Fleet::decide(FleetInput {
            privnet: &Supernet::new(["10.0.0.0/8".parse().unwrap()]).unwrap(),
            hub_key: &PublicKey::from_bytes([9; 32]),
            hub_vpc: &"vpc-ffffffff".parse().unwrap(),
            hub_cidrs: &["10.0.0.0/16".parse().unwrap()],
            sites,
            inventory,
        })
    }

    pub(crate) fn site(name: &str, cidr: &str) -> Site {
        Site {
            config: SiteConfig {
                name: name.to_owned(),
                cidrs: vec![cidr.parse().unwrap()],
                transport: Transport::Wireguard,
                endpoint: None,
                public_key: PublicKey::from_bytes([name.as_bytes()[0]; 32]),
                preshared_key: None,
                keepalive: None,
            },
            preshared_key: None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::fixtures::{decide, inventory, site, spoke};
    use super::*;
    use privnet_model::inventory::TagProblem;
    use proptest::prelude::*;

    fn tunnel<'a>(fleet: &'a Fleet, name: &str) -> &'a PlannedTunnel {
        fleet
            .tunnels
            .values()
            .find(|tunnel| tunnel.name == name)
            .unwrap()
    }

    fn reason(fleet: &Fleet, name: &str) -> String {
        match tunnel(fleet, name).obstacle.as_ref().unwrap() {
            Obstacle::Pending(reason) => format!("pending: {reason}"),
            Obstacle::Rejected(reason) => format!("rejected: {reason}"),
        }
    }

    #[test]
    fn a_spoke_gets_every_cidr_of_its_vpc() {
        let mut two = spoke(1, "10.1.0.0/16");
        two.cidrs.push("10.20.0.0/16".parse().unwrap());
        let fleet = decide(&inventory([two]), &[]);
        let (_, peer) = fleet.peers().pop_first().unwrap();
        assert_eq!(peer.allowed_ips.len(), 2);
        assert_eq!(peer.endpoint.unwrap().to_string(), "203.0.113.1:51820");
        assert_eq!(fleet.cidrs().count(), 2);
    }

    #[test]
    fn the_hubs_own_vpc_is_no_site() {
        let mut own = spoke(1, "10.0.0.0/16");
        own.vpc = Some("vpc-ffffffff".parse().unwrap());
        assert_eq!(decide(&inventory([own]), &[]), Fleet::default());
    }

    #[test]
    fn a_spoke_that_lacks_something_is_pending_with_the_reason() {
        type Case = (&'static str, fn(&mut SpokeRecord));
        let cases: [Case; 6] = [
            ("pending: no privnet:public-key tag", |spoke| {
                spoke.public_key = None;
            }),
            ("pending: no public address", |spoke| {
                spoke.public_address = None;
            }),
            ("pending: no VPC", |spoke| spoke.vpc = None),
            ("pending: its VPC has no CIDR", |spoke| spoke.cidrs.clear()),
            ("rejected: NAT gateway only (transport none)", |spoke| {
                spoke.transport = Transport::None
            }),
            (
                "pending: tag privnet:port is `x`, expected a UDP port",
                |spoke| {
                    spoke.tag_problems.push(TagProblem {
                        tag: "privnet:port".to_owned(),
                        value: "x".to_owned(),
                        expected: "a UDP port".to_owned(),
                    });
                },
            ),
        ];
        for (expected, change) in cases {
            let mut record = spoke(1, "10.1.0.0/16");
            change(&mut record);
            let fleet = decide(&inventory([record]), &[]);
            assert_eq!(reason(&fleet, "spoke-1"), expected);
            assert!(fleet.peers().is_empty());
            assert_eq!(fleet.cidrs().count(), 0);
        }
    }

    #[test]
    fn a_cidr_outside_the_privnet_or_in_the_hubs_vpc_is_left_out() {
        let mut outside = spoke(1, "192.168.0.0/16");
        outside.cidrs.push("10.1.0.0/16".parse().unwrap());
        outside.cidrs.push("10.0.128.0/17".parse().unwrap());
        let fleet = decide(&inventory([outside]), &[]);
        let tunnel = tunnel(&fleet, "spoke-1");
        assert_eq!(tunnel.cidrs, vec!["10.1.0.0/16".parse().unwrap()]);
        let why: Vec<String> = tunnel
            .excluded
            .iter()
            .map(|excluded| format!("{} {}", excluded.cidr, excluded.why))
            .collect();
        assert_eq!(
            why,
            [
                "10.0.128.0/17 overlaps the hub's own VPC (10.0.0.0/16)",
                "192.168.0.0/16 outside the privnet"
            ]
        );
    }

    #[test]
    fn the_older_launch_keeps_an_overlapping_cidr_in_either_direction() {
        for (older, younger) in [
            ("10.1.0.0/16", "10.1.0.0/24"),
            ("10.1.0.0/24", "10.1.0.0/16"),
            ("10.1.0.0/16", "10.1.0.0/16"),
        ] {
            let fleet = decide(&inventory([spoke(2, younger), spoke(1, older)]), &[]);
            assert!(tunnel(&fleet, "spoke-1").obstacle.is_none());
            assert_eq!(
                reason(&fleet, "spoke-2"),
                "rejected: none of its CIDRs can be used"
            );
        }
    }

    #[test]
    fn a_static_site_wins_over_a_discovered_spoke() {
        let sites = [site("dc", "10.1.0.0/16")];
        let fleet = decide(&inventory([spoke(1, "10.1.0.0/16")]), &sites);
        assert!(tunnel(&fleet, "dc").obstacle.is_none());
        assert_eq!(
            tunnel(&fleet, "spoke-1").excluded[0].why.to_string(),
            "overlaps 10.1.0.0/16 of dc"
        );
    }

    #[test]
    fn a_second_spoke_of_a_vpc_stands_by_with_a_tunnel_and_no_cidrs() {
        let mut second = spoke(2, "10.1.0.0/16");
        second.vpc = spoke(1, "10.1.0.0/16").vpc;
        let fleet = decide(&inventory([spoke(1, "10.1.0.0/16"), second]), &[]);
        assert_eq!(fleet.peers().len(), 2);
        let standby = tunnel(&fleet, "spoke-2");
        assert!(standby.cidrs.is_empty());
        assert_eq!(standby.excluded[0].why.to_string(), "carried by spoke-1");
    }

    #[test]
    fn a_key_that_two_spokes_publish_stays_with_the_older() {
        let mut copy = spoke(2, "10.2.0.0/16");
        copy.public_key = spoke(1, "10.1.0.0/16").public_key;
        let fleet = decide(&inventory([spoke(1, "10.1.0.0/16"), copy]), &[]);
        assert_eq!(
            reason(&fleet, "spoke-2"),
            "rejected: same public key as spoke-1"
        );
    }

    #[test]
    fn a_spoke_that_publishes_the_hubs_key_is_rejected() {
        let mut thief = spoke(1, "10.1.0.0/16");
        thief.public_key = Some(PublicKey::from_bytes([9; 32]));
        let fleet = decide(&inventory([thief]), &[]);
        assert_eq!(
            reason(&fleet, "spoke-1"),
            "rejected: same public key as the hub itself"
        );
    }

    #[test]
    fn a_pending_spoke_blocks_nobody() {
        let mut pending = spoke(1, "10.1.0.0/16");
        pending.public_key = None;
        let fleet = decide(&inventory([pending, spoke(2, "10.1.0.0/16")]), &[]);
        assert!(tunnel(&fleet, "spoke-2").obstacle.is_none());
    }

    proptest! {
        #[test]
        fn no_two_tunnels_share_an_address(
            cidrs in proptest::collection::vec((any::<u16>(), 8u8..=28), 1..40),
        ) {
            let spokes = cidrs.iter().zip(1..).map(|((bits, length), n)| {
                let address = std::net::Ipv4Addr::from(0x0a00_0000 | u32::from(*bits) << 8);
                let net = ipnet::Ipv4Net::new(address, *length).unwrap().trunc();
                spoke(n, &net.to_string())
            });
            let fleet = decide(&inventory(spokes), &[]);
            let carried: Vec<IpNet> = fleet.cidrs().collect();
            for (position, a) in carried.iter().enumerate() {
                for b in &carried[position + 1..] {
                    prop_assert!(!privnet_model::net::overlap(a, b), "{a} and {b}");
                }
            }
        }
    }
}
