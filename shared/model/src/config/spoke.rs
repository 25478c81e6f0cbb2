//! `spoke.toml`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::inventory::Transport;
use crate::key::PublicKey;
use crate::net::Supernet;

/// A spoke's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpokeConfig {
    /// The private network.
    pub privnet: Supernet,
    /// How the privnet is reached.
    pub transport: Transport,
    /// The UDP port of the tunnel.
    pub listen_port: u16,
    /// The file of the private key, made at first start.
    pub private_key: PathBuf,
    /// The tunnel interface's name.
    pub interface: String,
    /// The MTU inside the tunnel.
    pub mtu: u16,
    /// Worker threads; `None` is one per core, less one on big machines.
    pub workers: Option<std::num::NonZeroUsize>,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// The log filter, in `tracing`'s syntax; the environment's `PRIVNET_LOG` wins.
    pub log: String,
    /// The hubs; exactly one with `wireguard`, none with `none`.
    pub hubs: Vec<HubPeerConfig>,
    /// NAT egress.
    pub nat: NatConfig,
    /// Whether to publish key, port and transport as tags on the own instance.
    pub publish: bool,
}

/// A hub, as a spoke knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubPeerConfig {
    /// Its address and port.
    pub endpoint: SocketAddr,
    /// Its key.
    pub public_key: PublicKey,
    /// Persistent keepalive; security groups forget UDP flows after 180 s.
    pub keepalive: Option<Duration>,
}

/// NAT egress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatConfig {
    /// Whether to masquerade everything that is not privnet.
    pub egress: bool,
    /// The interface towards the internet; `None` is the one with the instance's primary address.
    pub interface: Option<String>,
    /// Whose traffic is masqueraded; empty is all CIDRs of the own VPC.
    pub sources: Vec<IpNet>,
    /// Destinations beside the privnet that are never masqueraded.
    pub exclude: Vec<IpNet>,
}
