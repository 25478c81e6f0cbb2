//! WireGuard without IO: peers, handshakes, sessions, allowed IPs and the rules
//! of the relay, as state machines that take bytes and the time and return bytes.
//!
//! It exists so that everything a data plane decides can be tested by plain
//! function calls. It owns no socket, no thread and no device, and asks nobody
//! for the time: `now` comes in. One exception is not ours to lift: boringtun,
//! which does the Noise handshake and the ciphers, reads the system's clock by
//! itself, so its own timers (retry, rekey, expiry) run on real time.
//!
//! [`Shard`] is the entry: the peers of one worker thread. [`Directory`] is what
//! all shards of a device share, immutable, replaced as a whole.

#![forbid(unsafe_code)]

mod allowed_ips;
mod batch;
pub mod checksum;
mod coalesce;
mod counters;
mod deadlines;
mod directory;
mod ecn;
mod handshake;
mod identity;
mod index;
mod offload;
mod packet;
mod path;
mod peer;
mod policy;
mod prefix_map;
#[cfg(test)]
mod reference;
mod relay;
mod segment;
mod shard;
mod site;
pub mod uapi;

pub use allowed_ips::{AllowedIps, Target};
pub use batch::{DatagramBatch, DatagramRun, Outputs, PacketBatch, Parcel};
pub use coalesce::{Coalescer, Merge, Write};
pub use counters::{Counter, Counters, DeviceCounters};
pub use directory::Directory;
pub use ecn::Ecn;
pub use identity::Identity;
pub use index::{IndexAllocator, MAX_PEERS, PeerIndex};
pub use offload::{Malformed, PacketOffload, PartialChecksum, Segmentation, VNET_HEADER};
pub use packet::IpPacket;
pub use path::{Outer, Path};
pub use peer::{Peer, PeerReport, PeerStats, PeerUpdate, Rekey, Tunnel};
pub use policy::Policy;
pub use segment::Segments;
pub use shard::{Shard, ShardConfig};
pub use site::{Member, Sites};

/// What a WireGuard data message adds to the packet inside it: 16 bytes of
/// header and 16 of authentication tag.
pub const MESSAGE_OVERHEAD: usize = 32;

/// Room that must follow a packet in its buffer, so that it can be padded to a
/// multiple of 16 bytes where it lies (WireGuard paper, section 5.4.6).
pub const PADDING: usize = 16;
