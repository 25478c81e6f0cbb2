//! A WireGuard peer as it should be, as it is, and the changes between them:
//! what the reconciler plans and the data plane carries out.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use crate::key::{PresharedKey, PublicKey};

/// How one peer is configured. The key names it and is not part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerConfig {
    /// The second factor, when there is one.
    pub preshared_key: Option<PresharedKey>,
    /// Another one that the peer may use instead, while a change of it is under way:
    /// the previous one, or the next. (A key of zeros is WireGuard's "none".)
    pub also_preshared_key: Option<PresharedKey>,
    /// Where the peer is first looked for; it may roam from there.
    pub endpoint: Option<SocketAddr>,
    /// Persistent keepalive; `None` is off.
    pub keepalive: Option<Duration>,
    /// Destinations sent to this peer, and sources accepted from it.
    pub allowed_ips: BTreeSet<IpNet>,
    /// The site whose gateways this peer is one of; `None` when it is alone. What
    /// comes from a site's addresses is accepted from each of its gateways (but for
    /// single addresses, which are one peer's own), and nothing that came from one
    /// is sent to another.
    pub site: Option<String>,
    /// Which gateway the peer is, where one has several peers: while its key changes,
    /// it has one of each key. They share its single addresses.
    pub gateway: Option<String>,
}

/// One change to the peers of a device. A list of them is applied in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerChange {
    /// Adds the peer, or makes an existing one look like this. Its session and
    /// its counters survive; after a change of the preshared keys the session does
    /// until there is one with the new keys, or its time is over. A prefix that
    /// another peer had moves to this one. An endpoint that is the one set
    /// before does not move a peer that has roamed since.
    Set {
        /// The peer.
        key: PublicKey,
        /// What it should look like.
        config: PeerConfig,
    },
    /// Removes the peer and its sessions.
    Remove {
        /// The peer.
        key: PublicKey,
    },
}

/// What the data plane knows of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub key: PublicKey,
    /// Its configuration as applied; `endpoint` is where it was last heard from.
    pub config: PeerConfig,
    /// When the last handshake completed.
    pub last_handshake: Option<SystemTime>,
    /// Bytes received, as WireGuard counts them (encrypted payloads with overhead).
    pub rx_bytes: u64,
    /// Bytes sent, likewise.
    pub tx_bytes: u64,
}
