//! `hub.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::id::Region;
use crate::inventory::Transport;
use crate::key::PublicKey;
use crate::net::Supernet;

/// The hub's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// The private network.
    pub privnet: Supernet,
    /// The UDP port of the tunnels.
    pub listen_port: u16,
    /// The file of the private key, made at first start.
    pub private_key: PathBuf,
    /// The tunnel interface's name.
    pub interface: String,
    /// The MTU inside the tunnels.
    pub mtu: u16,
    /// Worker threads; `None` is one per core, less one on big machines.
    pub workers: Option<std::num::NonZeroUsize>,
    /// The state cache.
    pub state: PathBuf,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// The log filter, in `tracing`'s syntax; the environment's `PRIVNET_LOG` wins.
    pub log: String,
    /// How spokes are found.
    pub discovery: DiscoveryConfig,
    /// The static sites.
    pub sites: Vec<SiteConfig>,
}

/// How spokes are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryConfig {
    /// Time between polls.
    pub interval: Duration,
    /// The regions polled, without duplicates, in the order written.
    pub regions: Vec<Region>,
    /// A spoke has all of these tags.
    pub tags: BTreeMap<String, String>,
    /// How long one poll of one region may take, retries included.
    pub timeout: Duration,
}

/// A static site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteConfig {
    /// Its name, unique.
    pub name: String,
    /// What lies behind it, inside the privnet.
    pub cidrs: Vec<IpNet>,
    /// How it is reached.
    pub transport: Transport,
    /// Where it is; `None` when it calls us.
    pub endpoint: Option<SocketAddr>,
    /// Its key.
    pub public_key: PublicKey,
    /// The file of a preshared key, as base64.
    pub preshared_key: Option<PathBuf>,
    /// Persistent keepalive; `None` is off.
    pub keepalive: Option<Duration>,
}
