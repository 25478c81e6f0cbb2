//! What discovery says exists: the spokes of each partition, as EC2 describes them.
//!
//! Every field that EC2 or a tag may leave out is optional here. An instance
//! without tags, address or VPC is a record with holes, shown to the operator;
//! it is never an error of the whole answer and never silently dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{AccountId, InstanceId, Region, VpcId, Zone};
use crate::key::PublicKey;
use crate::status::Kept;

/// The tag that carries a spoke's public key, base64.
pub const PUBLIC_KEY_TAG: &str = "privnet:public-key";
/// The tag that carries the UDP port of a spoke's tunnel.
pub const PORT_TAG: &str = "privnet:port";
/// The tag that carries a spoke's transport.
pub const TRANSPORT_TAG: &str = "privnet:transport";

/// One (account, region) pair: the unit in which discovery succeeds or fails.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Partition {
    /// The account asked.
    pub account: AccountId,
    /// The region asked.
    pub region: Region,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.account, self.region)
    }
}

/// How a tunnel is secured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// WireGuard, the default.
    #[default]
    Wireguard,
    /// IPsec: IKEv2 and ESP by strongSwan.
    Ipsec,
    /// No tunnel: NAT egress only, as the hub VPC's own NAT gateway does.
    None,
}

impl Transport {
    /// What a valid one looks like, for messages.
    pub const EXPECTED: &'static str = "`wireguard`, `ipsec` or `none`";

    /// The word for it in files, tags and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wireguard => "wireguard",
            Self::Ipsec => "ipsec",
            Self::None => "none",
        }
    }
}

impl std::str::FromStr for Transport {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "wireguard" => Ok(Self::Wireguard),
            "ipsec" => Ok(Self::Ipsec),
            "none" => Ok(Self::None),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A tag of ours whose value makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagProblem {
    /// The tag's key.
    pub tag: String,
    /// Its value, at most the first 64 characters.
    pub value: String,
    /// What was expected instead.
    pub expected: String,
}

impl fmt::Display for TagProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tag {} is `{}`, expected {}",
            self.tag, self.value, self.expected
        )
    }
}

/// One instance that EC2 says is a running spoke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpokeRecord {
    /// The instance.
    pub instance: InstanceId,
    /// Its `Name` tag.
    pub name: Option<String>,
    /// When it was launched.
    pub launched: Option<Timestamp>,
    /// Its availability zone.
    pub zone: Option<Zone>,
    /// Its VPC.
    pub vpc: Option<VpcId>,
    /// All CIDRs associated with that VPC, of both families, in order. From
    /// EC2's own description of the VPC, never from a tag.
    pub cidrs: Vec<IpNet>,
    /// Its public (or Elastic) address.
    pub public_address: Option<IpAddr>,
    /// Its primary private address.
    pub private_address: Option<IpAddr>,
    /// The key it published.
    pub public_key: Option<PublicKey>,
    /// The UDP port it published.
    pub port: Option<u16>,
    /// The transport it published; a spoke that says nothing speaks WireGuard.
    pub transport: Transport,
    /// The ARN of its instance profile.
    pub instance_profile: Option<String>,
    /// The image it was launched from.
    #[serde(default)]
    pub image: Option<String>,
    /// The CIDRs of its VPC's subnets that are in its own zone. Asked for where a
    /// VPC has several spokes; otherwise empty, and when EC2 would not tell: as
    /// every spoke is in a subnet itself, none never means that there are none.
    #[serde(default)]
    pub zone_cidrs: Vec<IpNet>,
    /// All its tags, for policies that choose by tag.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Tags of ours that could not be understood.
    pub tag_problems: Vec<TagProblem>,
}

/// What one poll learned of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionAnswer {
    /// Which partition.
    pub partition: Partition,
    /// The complete answer, or why there is none. There is no third case: an
    /// answer of which a page is missing or cut short is an error.
    pub answer: Result<Answer, String>,
    /// Requests to EC2 that it took, retries included: what counts against the
    /// account's limits in the region.
    pub calls: u32,
}

/// A complete answer about one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The spokes that run.
    pub spokes: Vec<SpokeRecord>,
    /// What became of the known spokes that are not among them: each was
    /// described once more by its id.
    pub absent: BTreeMap<InstanceId, Fate>,
}

/// What EC2 says, asked by id, of a spoke that is missing from its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It is terminated, or shutting down to be.
    Terminated,
    /// It is stopped, or stopping.
    Stopped,
    /// It runs, and has tags, but no longer those of a spoke.
    Untagged,
    /// It runs, and is described without a single tag, or without the tags by which
    /// the same poll found it. EC2 has been seen to leave tags out, so that says
    /// nothing.
    Tagless,
    /// It is starting, or its state is one that we do not know, is not told or is
    /// told in two ways. That says nothing either.
    Unclear,
    /// EC2 does not know it. (It forgets a terminated instance after an hour.)
    NotFound,
    /// EC2 was not asked: the config no longer names its account or region.
    Unconfigured,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Terminated => "terminated",
            Self::Stopped => "stopped",
            Self::Untagged => "no longer tagged as a spoke",
            Self::Tagless => "described without its tags",
            Self::Unclear => "in no clear state",
            Self::NotFound => "unknown to EC2",
            Self::Unconfigured => "in a region or account that the config no longer names",
        })
    }
}

/// A spoke that is missing from its partition's complete answers, and is kept for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absence {
    /// What EC2 said of it last.
    pub fate: Fate,
    /// When it was missing first.
    pub since: Timestamp,
    /// How many complete answers in a row lacked it. One that says nothing
    /// ([`Fate::Tagless`]) begins the count anew.
    pub answers: u32,
    /// What keeps it.
    pub kept: Kept,
}

/// The key that a spoke is known by, which does not change because a tag does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The key in use.
    pub key: PublicKey,
    /// The key that its holder named as the next one, through its own tunnel.
    pub next: Option<PublicKey>,
    /// Whether the holder of the key has proved that it is this instance. The next
    /// key inherits it: it was announced through the tunnel of this one.
    #[serde(default)]
    pub proof: Proof,
}

/// What is known of a spoke's proof of identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Proof {
    /// None came so far.
    #[default]
    Missing,
    /// The last one was not accepted.
    Refused {
        /// Why.
        problem: String,
    },
    /// One was accepted.
    Accepted {
        /// When.
        at: Timestamp,
    },
}

/// What is known of one partition: its last complete answer, and what went
/// wrong since.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionView {
    /// The spokes of the last complete answer, and those that are missing from it
    /// and kept for now.
    pub spokes: BTreeMap<InstanceId, SpokeRecord>,
    /// Which of them are missing.
    #[serde(default)]
    pub absent: BTreeMap<InstanceId, Absence>,
    /// Their keys.
    #[serde(default)]
    pub pins: BTreeMap<InstanceId, Pin>,
    /// When that answer came.
    pub answered_at: Option<Timestamp>,
    /// Why the newest poll brought no complete answer; `None` when it did.
    pub error: Option<String>,
    /// Since when every poll failed.
    pub failing_since: Option<Timestamp>,
}

/// Everything discovery knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// By partition.
    pub partitions: BTreeMap<Partition, PartitionView>,
    /// Removals that the last poll asked for and that are too many to be made
    /// without the operator. It stays until each of these spokes is back or gone.
    pub held_removals: Option<HeldRemovals>,
}

/// More removals at once than a fleet loses by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRemovals {
    /// How many tunnels would go.
    pub count: usize,
    /// Of how many.
    pub of: usize,
    /// Since when.
    pub since: Timestamp,
}

impl fmt::Display for HeldRemovals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, of, since } = self;
        write!(
            f,
            "{count} of {of} tunnels would go at once, so all are kept since {since:.0}; if they are \
             meant to go: `tunnels refresh --accept-removals`"
        )
    }
}

impl Inventory {
    /// Every spoke with its partition, in the order of partition and instance id.
    pub fn spokes(&self) -> impl Iterator<Item = (&Partition, &SpokeRecord)> {
        self.partitions
            .iter()
            .flat_map(|(partition, view)| view.spokes.values().map(move |spoke| (partition, spoke)))
    }
}

/// Who and where this instance is, as its metadata service says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The account it runs in.
    pub account: AccountId,
    /// Its region.
    pub region: Region,
    /// Its availability zone.
    pub zone: Option<Zone>,
    /// The instance.
    pub instance: InstanceId,
    /// Its VPC.
    pub vpc: VpcId,
    /// All CIDRs of that VPC.
    pub vpc_cidrs: Vec<IpNet>,
    /// The CIDR of the primary interface's subnet.
    pub subnet_cidr: Option<IpNet>,
    /// Its primary private address.
    pub private_address: IpAddr,
    /// Its public address, if it has one.
    pub public_address: Option<IpAddr>,
    /// The MAC address of the primary interface: what names it on the host.
    pub mac: String,
}
