//! What a daemon says of itself: the admin API's answer, and so what
//! `tunnels list` prints. The states and reasons are enums that print
//! themselves, so that logs, tables and JSON say the same words.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::config::spoke::Protocol;
use crate::health::HealthError;
use crate::id::{AccountId, AllocationId, InstanceId, Region, RouteTableId, VpcId, Zone};
use crate::inventory::{Fate, HeldRemovals, Partition, TagProblem, Transport};
use crate::ipsec::IkeFailure;
use crate::key::PublicKey;
use crate::net::Supernet;
use crate::offload::OffloadReport;

/// Which of the two daemons answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// `privnet-hub`.
    Hub,
    /// `privnet-spoke`.
    Spoke,
}

impl Role {
    /// The daemon's program name.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Hub => "privnet-hub",
            Self::Spoke => "privnet-spoke",
        }
    }
}

/// Everything a daemon tells of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Which daemon.
    pub role: Role,
    /// Its version.
    pub version: String,
    /// When it started.
    pub started: Timestamp,
    /// When this was put together.
    pub now: Timestamp,
    /// The instance it runs on, once known.
    pub instance: Option<InstanceId>,
    /// The private network.
    pub privnet: Supernet,
    /// The tunnel interface; `None` with `transport = "none"`.
    pub interface: Option<InterfaceStatus>,
    /// strongSwan; `None` where no tunnel needs it.
    #[serde(default)]
    pub charon: Option<CharonStatus>,
    /// NAT, on a spoke.
    pub nat: Option<NatStatus>,
    /// Every tunnel, also those that are not up, with the reason.
    pub tunnels: Vec<Tunnel>,
    /// Every partition polled, on a hub.
    pub partitions: Vec<PartitionStatus>,
    /// When the next poll is due, on a hub.
    pub next_poll: Option<Timestamp>,
    /// Removals that a hub holds until the operator accepts them.
    #[serde(default)]
    pub held_removals: Option<HeldRemovals>,
    /// The rules of the policy, on a hub, in their order.
    #[serde(default)]
    pub policy: Vec<RuleStatus>,
    /// The VPC routes that a spoke serves; `None` when its config names none.
    #[serde(default)]
    pub routes: Option<RoutesStatus>,
    /// What is wrong with the daemon itself, in plain sentences.
    pub problems: Vec<String>,
}

/// How a spoke serves VPC routes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutesStatus {
    /// What keeps it from serving any: its own self-test, above all. Nothing while it is
    /// well.
    pub sick: Option<String>,
    /// How each other spoke of the VPC is.
    pub siblings: Vec<SiblingStatus>,
    /// The routes that lead to a spoke of the VPC, or should.
    pub routes: Vec<RouteStatus>,
    /// Routes that it had moved since it started: created, taken over, taken back,
    /// handed over.
    pub moved: u64,
    /// Those of them that were taken over from another.
    pub taken_over: u64,
    /// How long that took in all: of each route from when that other was last known to be
    /// well until EC2 had changed it.
    #[serde(default)]
    pub takeover_time: SignedDuration,
    /// The same of the last one; `None` when there was none.
    #[serde(default)]
    pub last_takeover: Option<SignedDuration>,
    /// The Elastic IP; `None` when the config names none.
    #[serde(default)]
    pub address: Option<AddressStatus>,
    /// What was done about siblings that stay lost; `None` when the config asks for no
    /// remedy, and none that was begun is to be ended.
    #[serde(default)]
    pub remedy: Option<RemedyStatus>,
}

/// What a spoke does about siblings that stay lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemedyStatus {
    /// Siblings that it had restarted since it started.
    pub restarted: u64,
    /// Siblings that it reported to their Auto Scaling group since it started.
    pub reported: u64,
    /// How often that failed.
    pub failed: u64,
    /// Each sibling that is lost, or about which something was done not long ago.
    pub siblings: Vec<SiblingRemedy>,
}

/// What was done about one sibling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiblingRemedy {
    /// The sibling.
    pub instance: InstanceId,
    /// How often something was done about it since it was well for long.
    pub tries: u32,
    /// When last.
    pub last: Option<Timestamp>,
    /// What is done now, or why nothing is, in words.
    pub state: String,
}

/// The Elastic IP that a spoke has, or is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressStatus {
    /// Which the config names, in words.
    pub wanted: String,
    /// The one that is here.
    pub allocation: Option<AllocationId>,
    /// The address itself.
    pub address: Option<IpAddr>,
    /// Since when it is known to be here.
    pub since: Option<Timestamp>,
    /// The instance that has the one address that several spokes name.
    pub at: Option<InstanceId>,
    /// What is in the way.
    pub problem: Option<String>,
    /// How often this spoke took one or gave one away since it started.
    pub moved: u64,
    /// The connections that go along when it moves; `None` when the config does not ask
    /// for it.
    #[serde(default)]
    pub connections: Option<ConnectionsStatus>,
}

/// The connections of the address that several spokes name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionsStatus {
    /// Those of this spoke that its siblings are told of; none while the address is not
    /// here.
    pub told: u64,
    /// What the siblings told of theirs.
    pub kept: Vec<KeptConnections>,
    /// How many this spoke took over with the address since it started.
    pub taken_over: u64,
    /// How many it could not, because their port was another's or the table full.
    pub refused: u64,
}

/// What one sibling told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptConnections {
    /// The sibling.
    pub sibling: InstanceId,
    /// How many connections.
    pub connections: u64,
}

/// Another spoke of the VPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiblingStatus {
    /// The instance.
    pub instance: InstanceId,
    /// How it is, in words.
    pub state: String,
    /// Whether it is well, but says that its tunnel to the hub is down.
    #[serde(default)]
    pub tunnel_down: bool,
    /// Whether it does not answer this spoke, and is not lost because another spoke hears it
    /// say that it is well.
    #[serde(default)]
    pub only_others_hear: bool,
    /// Why what comes from it does not count, if something does come.
    #[serde(default)]
    pub refused: Option<Refusal>,
}

/// Why what a sibling says does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Refusal {
    /// The signature is wrong: mostly it has another secret.
    Signature,
    /// It means another instance, which it takes for the one that has our address.
    NotForMe,
    /// It cannot be read: another version wrote it, or another program.
    Unreadable {
        /// What is wrong with it.
        problem: String,
    },
}

impl From<HealthError> for Refusal {
    fn from(error: HealthError) -> Self {
        match error {
            HealthError::Signature => Self::Signature,
            HealthError::NotForMe => Self::NotForMe,
            HealthError::Foreign | HealthError::Malformed(_) => Self::Unreadable {
                problem: error.to_string(),
            },
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature => write!(f, "{}", HealthError::Signature),
            Self::NotForMe => write!(f, "{}", HealthError::NotForMe),
            Self::Unreadable { problem } => f.write_str(problem),
        }
    }
}

/// A route of a VPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// Its table.
    pub table: RouteTableId,
    /// Its destination.
    pub destination: IpNet,
    /// The spoke that it leads to.
    pub spoke: Option<InstanceId>,
    /// Whether the table is one of this spoke's own.
    pub home: bool,
}

/// The tunnel interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// The daemon's public key.
    pub public_key: PublicKey,
    /// The UDP port.
    pub listen_port: u16,
    /// The MTU inside the tunnel.
    pub mtu: u32,
    /// Which offloads are on, and why the others are not.
    pub offloads: OffloadReport,
    /// What the data plane counted since the daemon started, by name.
    pub counters: BTreeMap<String, u64>,
    /// Packets and messages that it dropped since then, by reason; every reason
    /// is there.
    pub drops: BTreeMap<String, u64>,
}

/// A rule of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// What it says.
    pub rule: String,
    /// Packets that it denied since the daemon started, or since it was another rule, in
    /// the data plane and in nftables.
    pub denied: u64,
}

/// NAT on a spoke: egress, forwards, redirects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatStatus {
    /// Whether the rules are in place (as read back from the kernel).
    pub active: bool,
    /// The interface towards the internet.
    pub interface: String,
    /// The CIDRs that are masqueraded; none without egress.
    pub sources: Vec<IpNet>,
    /// The forwards that are wanted, as the config says them.
    #[serde(default)]
    pub forwards: Vec<String>,
    /// The redirects that are wanted, as the config says them.
    #[serde(default)]
    pub redirects: Vec<String>,
    /// Whether established connections take the kernel's short cut.
    #[serde(default)]
    pub flowtable: FlowtableState,
    /// The connection table; `None` until it was read.
    #[serde(default)]
    pub connections: Option<ConnectionUse>,
    /// The destinations whose source ports are used up most, the first first; none until
    /// they were counted.
    #[serde(default)]
    pub destinations: Vec<DestinationUse>,
}

/// How many translated connections of one range of source ports there are to one
/// destination. Each needs a port of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationUse {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The destination.
    pub destination: SocketAddr,
    /// How many connections.
    pub connections: u64,
    /// How many there can be.
    pub ports: u64,
    /// Whose the source ports are; `None` is everybody's who has none to themselves.
    #[serde(default)]
    pub from: Option<Ipv4Net>,
}

/// Whether established connections take the kernel's short cut.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum FlowtableState {
    /// They do.
    On,
    /// The config does not want it.
    #[default]
    Configured,
    /// The kernel refused it, or has none.
    Unsupported {
        /// What it said.
        error: String,
    },
}

impl fmt::Display for FlowtableState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On => f.write_str("on"),
            Self::Configured => f.write_str("off: switched off in the config"),
            Self::Unsupported { error } => {
                write!(f, "off: this kernel lacks or refuses it ({error})")
            }
        }
    }
}

/// The kernel's connection table. It counts since the machine started, all
/// connections of this network namespace together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionUse {
    /// Connections remembered now.
    pub tracked: u64,
    /// How many there can be.
    pub limit: u64,
    /// Packets dropped, because the table was full or a place in it taken.
    pub dropped: u64,
    /// New connections whose place in the table was taken: no source port was
    /// free for them.
    pub insert_failed: u64,
    /// Connections forgotten early to make room for new ones.
    pub early_dropped: u64,
}

/// Where a tunnel comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A spoke that EC2 told of.
    Discovered,
    /// A `[[site]]` of the config.
    Static,
    /// A `[[hub]]` of a spoke's config.
    Hub,
}

/// One tunnel, in whatever state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tunnel {
    /// The name to call it by: the instance's `Name` tag (or its id), or the site's name.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
    /// The account, of a discovered spoke.
    pub account: Option<AccountId>,
    /// The region, of a discovered spoke.
    pub region: Option<Region>,
    /// The availability zone, of a discovered spoke.
    pub zone: Option<Zone>,
    /// The VPC, of a discovered spoke.
    pub vpc: Option<VpcId>,
    /// The instance, of a discovered spoke.
    pub instance: Option<InstanceId>,
    /// When that was launched.
    pub launched: Option<Timestamp>,
    /// The CIDRs that go through this tunnel.
    pub cidrs: Vec<IpNet>,
    /// CIDRs of the site that do not, with the reason.
    pub excluded: Vec<ExcludedCidr>,
    /// The transport.
    pub transport: Transport,
    /// The far end: as heard last, else as configured.
    pub endpoint: Option<SocketAddr>,
    /// The far end's private address, where known.
    pub private_address: Option<IpAddr>,
    /// The far end's key.
    pub public_key: Option<PublicKey>,
    /// How it is.
    pub state: TunnelState,
    /// Why it is not up.
    pub reason: Option<Reason>,
    /// How it shares its site with others; `None` where the site has no other gateway.
    #[serde(default)]
    pub gateway: Option<GatewayStatus>,
    /// What else there is to know about it.
    #[serde(default)]
    pub notes: Vec<Note>,
    /// When the last handshake completed.
    pub last_handshake: Option<Timestamp>,
    /// Bytes received since the daemon started.
    pub rx_bytes: u64,
    /// Bytes sent since the daemon started.
    pub tx_bytes: u64,
    /// Bytes per second received, over the last few seconds.
    pub rx_rate: f64,
    /// Bytes per second sent, over the last few seconds.
    pub tx_rate: f64,
    /// What there is to know of an IPsec tunnel's SAs.
    #[serde(default)]
    pub ipsec: Option<IpsecStatus>,
}

/// The security associations of an IPsec tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpsecStatus {
    /// Who we say we are.
    pub local_id: Option<String>,
    /// Who the peer is to be, and says it is once it is there.
    pub remote_id: Option<String>,
    /// IKE's ciphers, once agreed upon.
    pub ike: Option<String>,
    /// ESP's ciphers, once agreed upon.
    pub esp: Option<String>,
    /// Whether we are behind a NAT.
    pub behind_nat: bool,
    /// What may be sent from here, as agreed upon.
    pub local_selectors: Vec<String>,
    /// What may be sent from there.
    pub remote_selectors: Vec<String>,
    /// When ESP's keys are changed next.
    pub rekey: Option<Timestamp>,
    /// Packets received since the daemon started.
    pub rx_packets: u64,
    /// Packets sent since the daemon started.
    pub tx_packets: u64,
}

/// strongSwan, as far as the daemon uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CharonStatus {
    /// Its program and version; `None` while it cannot be reached.
    pub version: Option<String>,
    /// Who does ESP.
    pub esp: Option<EspStatus>,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

/// Who does ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EspStatus {
    /// The kernel.
    Kernel,
    /// strongSwan itself.
    Userspace,
}

impl fmt::Display for EspStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kernel => "kernel ESP",
            Self::Userspace => "userspace ESP (strongSwan's kernel-libipsec)",
        })
    }
}

/// A CIDR that belongs to a site but does not go through its tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExcludedCidr {
    /// The CIDR.
    pub cidr: IpNet,
    /// Why.
    pub why: Exclusion,
}

/// Why a CIDR is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Exclusion {
    /// It lies outside the privnet.
    OutsidePrivnet,
    /// It overlaps the VPC that the hub itself is in.
    OverlapsHubVpc {
        /// The hub VPC's CIDR.
        cidr: IpNet,
    },
    /// It overlaps what another site has.
    OverlapsSite {
        /// That site (a VPC id or a static site's name).
        site: String,
        /// Its CIDR.
        cidr: IpNet,
    },
    /// Another spoke of the same VPC carries it.
    CarriedBy {
        /// That spoke's tunnel.
        tunnel: String,
    },
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutsidePrivnet => f.write_str("outside the privnet"),
            Self::OverlapsHubVpc { cidr } => write!(f, "overlaps the hub's own VPC ({cidr})"),
            Self::OverlapsSite { site, cidr } => write!(f, "overlaps {cidr} of {site}"),
            Self::CarriedBy { tunnel } => write!(f, "carried by {tunnel}"),
        }
    }
}

/// How a tunnel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelState {
    /// A handshake completed within the last three minutes.
    Up,
    /// Configured, but no handshake so far.
    Connecting,
    /// Configured, and the last handshake is too old to carry traffic.
    Down,
    /// Not configured yet: the spoke lacks something.
    Pending,
    /// Not configured on purpose: the reason says which rule it met.
    Rejected,
}

impl TunnelState {
    /// All of them, as the filter of `tunnels list` takes them.
    pub const ALL: [Self; 5] = [
        Self::Up,
        Self::Connecting,
        Self::Down,
        Self::Pending,
        Self::Rejected,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Connecting => "connecting",
            Self::Down => "down",
            Self::Pending => "pending",
            Self::Rejected => "rejected",
        }
    }
}

impl fmt::Display for TunnelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a tunnel is not up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Reason {
    /// The spoke has not published a key.
    NoPublicKey,
    /// The spoke has no public address.
    NoPublicAddress,
    /// EC2 names no VPC for the instance.
    NoVpc,
    /// EC2 names no CIDR for the VPC.
    NoCidrs,
    /// A tag of ours makes no sense.
    BadTag {
        /// Which, and what was expected.
        problem: TagProblem,
    },
    /// The spoke is a plain NAT gateway.
    NoTransport,
    /// Every CIDR was left out; `excluded` says why.
    NothingLeft,
    /// Another tunnel uses the same key.
    DuplicateKey {
        /// That tunnel.
        tunnel: String,
    },
    /// A rule of `[trust]` does not let it in.
    NotTrusted {
        /// The key of the rule: `accounts`, `instance_profiles`, `vpcs`, `amis`.
        rule: String,
        /// What the spoke has; `None` when EC2 does not say.
        found: Option<String>,
    },
    /// It has not proved who it is yet.
    NoProof {
        /// Why its proof was not accepted, when there was one.
        problem: Option<String>,
    },
    /// Configured, and nothing was heard of the far end so far.
    NoAnswer,
    /// Nothing was heard of the far end for too long.
    Silent,
    /// It has a session, and does not answer what is sent through it, or has not done so
    /// again for long enough.
    Unresponsive,
    /// Only one hub is used at a time, and another one is.
    StandsBy,
    /// The same of one that would let us in.
    StandsByReady,
    /// The IPsec key of a spoke is made of the fleet's secret, which is not known.
    NoFleetSecret,
    /// The preshared key of a site is a parameter of SSM, which has yet to give it.
    NoSiteKey {
        /// What it said so far.
        problem: String,
    },
    /// It cannot be set up as it is configured.
    Misconfigured {
        /// What is wrong.
        problem: String,
    },
    /// strongSwan does not run, or cannot be used.
    NoCharon {
        /// Why.
        problem: String,
    },
    /// The kernel is to do ESP, and the tunnel's XFRM interface is not there.
    NoXfrmInterface,
    /// IKE or ESP failed.
    Ike {
        /// How.
        failure: IkeFailure,
    },
    /// IKE is up, and no ESP: nothing can be sent.
    IkeOnly,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPublicKey => write!(f, "no {} tag", crate::inventory::PUBLIC_KEY_TAG),
            Self::NoPublicAddress => f.write_str("no public address"),
            Self::NoVpc => f.write_str("no VPC"),
            Self::NoCidrs => f.write_str("its VPC has no CIDR"),
            Self::BadTag { problem } => write!(f, "{problem}"),
            Self::NoTransport => f.write_str("NAT gateway only (transport none)"),
            Self::NothingLeft => f.write_str("none of its CIDRs can be used"),
            Self::DuplicateKey { tunnel } => write!(f, "same public key as {tunnel}"),
            Self::NotTrusted { rule, found } => match found {
                Some(found) => write!(f, "{found} is not in trust.{rule}"),
                None => write!(f, "EC2 names nothing that trust.{rule} could match"),
            },
            Self::NoProof { problem } => match problem {
                Some(problem) => write!(f, "proof of identity not accepted: {problem}"),
                None => f.write_str("no proof of identity yet"),
            },
            Self::NoAnswer => f.write_str("no handshake yet"),
            Self::Silent => f.write_str("no handshake for over 3 minutes"),
            Self::Unresponsive => {
                f.write_str("probes through the tunnel are not answered reliably")
            }
            Self::StandsBy => f.write_str("stands by: one hub is used at a time"),
            Self::StandsByReady => {
                f.write_str("stands by: it answers, and is used again when it has lasted")
            }
            Self::NoFleetSecret => f.write_str(
                "no fleet secret (trust.preshared_key), of which an IPsec spoke's key is made",
            ),
            Self::NoSiteKey { problem } | Self::Misconfigured { problem } => f.write_str(problem),
            Self::NoCharon { problem } => write!(f, "strongSwan cannot be used: {problem}"),
            Self::NoXfrmInterface => f.write_str("its XFRM interface is not there"),
            Self::Ike { failure } => write!(f, "{failure}"),
            Self::IkeOnly => f.write_str(
                "IKE is up, and ESP is not: no packet can be sent (a spoke that uses another hub \
                 for now keeps such a tunnel)",
            ),
        }
    }
}

/// One of the several gateways of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Whether it carries any of the site's CIDRs now, or of its zone's.
    pub role: GatewayRole,
    /// Whether it answers probes through its tunnel.
    pub health: GatewayHealth,
    /// How often the site's CIDRs were taken from it because it did not reliably, since
    /// the daemon started.
    pub failovers: u64,
}

/// What a gateway does for its site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayRole {
    /// It carries CIDRs of the site.
    Active,
    /// It carries nothing but its own address, ready to take over.
    Standby,
}

impl fmt::Display for GatewayRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Active => "active",
            Self::Standby => "standby",
        })
    }
}

/// How a gateway answers probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayHealth {
    /// It was not probed long enough to tell, and has not failed meanwhile.
    Unknown,
    /// It answers.
    Healthy,
    /// It does not.
    Down,
    /// It did not, and does so again, not for long enough.
    Recovering,
}

impl fmt::Display for GatewayHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "not known yet whether it answers probes",
            Self::Healthy => "healthy",
            Self::Down => "down: it does not answer probes through its tunnel",
            Self::Recovering => "recovering: it answers probes again, not for long enough",
        })
    }
}

/// Something about a tunnel that does not keep it from being up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Note {
    /// EC2 no longer names it; it is kept for now.
    Absent {
        /// What EC2 says of it.
        fate: Fate,
        /// Since when.
        since: Timestamp,
        /// What keeps it.
        kept: Kept,
    },
    /// It published another key, which is not used while this one is.
    KeyQuarantined {
        /// The other key.
        key: PublicKey,
    },
    /// It changes its key, as its holder announced.
    KeyRotating {
        /// The next key.
        key: PublicKey,
    },
    /// It was asked to prove which instance it is, and has not.
    Unproven {
        /// What was wrong with what it sent, if it sent anything.
        problem: Option<String>,
    },
    /// Its partition does not answer; what is known of it is as old as that.
    PartitionFailing {
        /// Since when.
        since: Timestamp,
    },
}

/// What keeps the tunnel of a spoke that EC2 no longer names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// One more complete answer without it.
    SecondAnswer,
    /// It still handshakes.
    Handshakes,
    /// What EC2 says of it proves nothing: it left the tags out, or tells no clear state.
    TagsMissing,
    /// More would go at once than may.
    TooMany,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::SecondAnswer => "goes if the next answer lacks it, too",
            Self::Handshakes => "kept because it still handshakes",
            Self::TagsMissing => "kept because that proves nothing",
            Self::TooMany => "held: too many would go at once",
        })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { fate, since, kept } => {
                let who = match fate {
                    Fate::Unconfigured => "",
                    _ => "EC2 says ",
                };
                write!(f, "{who}{fate} since {since:.0}; {kept}")
            }
            Self::KeyQuarantined { key } => {
                write!(
                    f,
                    "published another key ({key}), not used while this one is"
                )
            }
            Self::KeyRotating { key } => write!(f, "changes to its next key ({key})"),
            Self::Unproven { problem: None } => f.write_str("has not proved which instance it is"),
            Self::Unproven {
                problem: Some(problem),
            } => {
                write!(f, "has not proved which instance it is: {problem}")
            }
            Self::PartitionFailing { since } => {
                write!(f, "EC2 does not answer for its region since {since:.0}")
            }
        }
    }
}

/// How the polling of one partition goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Which.
    pub partition: Partition,
    /// How many spokes its last complete answer held.
    pub spokes: usize,
    /// When that was.
    pub answered_at: Option<Timestamp>,
    /// Why the newest poll failed; `None` when it did not.
    pub error: Option<String>,
    /// Since when every poll failed.
    pub failing_since: Option<Timestamp>,
    /// How often it was polled since the daemon started.
    pub polls: u64,
    /// How many of these polls failed.
    pub failures: u64,
    /// API requests of the last poll, retries included.
    #[serde(default)]
    pub calls: u32,
}
