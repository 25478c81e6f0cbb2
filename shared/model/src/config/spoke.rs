//! `spoke.toml`: a spoke's configuration and how it is read.
//!
//! Each key is defined where it is read: its kind, its default and the checks
//! against others. `ami/spoke.toml` explains it to the operator.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::document::{self, ConfigErrors, Section};
use super::hub::SecretSource;
use super::ipsec::{self, IpsecConfig};
use super::value;
use crate::inventory::Transport;
use crate::ipsec::IkeId;
use crate::key::PublicKey;
use crate::net::Supernet;
use crate::offload::Offloads;

mod address;
mod nat;
mod routes;

pub use address::AddressConfig;
pub use nat::{Forward, NatConfig, PortRange, Protocol, Redirect, SourcePorts};
pub use routes::{
    OWN_ZONE, RemedyConfig, RemedyKind, RoutesConfig, SelfTestConfig, SourceDestCheck,
    TableSelection, TakeoverConfig,
};

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
    /// The fleet's secret, of which each tunnel gets a preshared key of its own.
    pub preshared_key: Option<SecretSource>,
    /// Whether to prove to a hub that wants it, by STS, which instance this is.
    pub prove: bool,
    /// The tunnel interface's name.
    pub interface: String,
    /// The MTU inside the tunnel.
    pub mtu: u16,
    /// Worker threads; `None` is one per core, less one on big machines.
    pub workers: Option<std::num::NonZeroUsize>,
    /// The offloads to use, where the kernel has them.
    pub offloads: Offloads,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// Where metrics are served beside the admin socket: a loopback address.
    pub metrics: Option<SocketAddr>,
    /// The log filter, in `tracing`'s syntax; the environment's `PRIVNET_LOG` wins.
    pub log: String,
    /// The hub of `transport = "wireguard"`: exactly one then.
    pub hubs: Vec<HubPeerConfig>,
    /// The hubs of `transport = "ipsec"`, the preferred one first.
    pub ipsec_hubs: Vec<IpsecHubConfig>,
    /// What all IPsec tunnels have in common.
    pub ipsec: IpsecConfig,
    /// NAT: egress, forwards, redirects.
    pub nat: NatConfig,
    /// The VPC routes that it serves; `None` is none.
    pub routes: Option<RoutesConfig>,
    /// The Elastic IP that it takes; `None` is none.
    pub address: Option<AddressConfig>,
    /// Whether connections go along when that address moves to another spoke.
    pub keeps_connections: bool,
    /// How it knows that it works.
    pub self_test: SelfTestConfig,
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
    /// The key that it will use next, when it is about to change it.
    pub next_public_key: Option<PublicKey>,
    /// Persistent keepalive; security groups forget UDP flows after 180 s.
    pub keepalive: Option<Duration>,
}

/// A hub, as a spoke that speaks IPsec knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpsecHubConfig {
    /// Its address.
    pub endpoint: IpAddr,
    /// Who it says it is.
    pub id: IkeId,
}

impl SpokeConfig {
    /// Reads the text of a config file; `file` is its name in the messages.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, at once.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigErrors> {
        document::parse(file, text, read)
    }
}

const DEFAULT_PRIVATE_KEY: &str = "/var/lib/privnet/spoke.key";
const DEFAULT_ADMIN_SOCKET: &str = "/run/privnet/spoke.sock";

pub(super) fn read(top: &mut Section<'_>) -> Option<SpokeConfig> {
    let privnet = value::privnet(top);
    let transport = top.optional("transport", &value::TRANSPORT);
    let listen_port = top.with_default("listen_port", &value::PORT, value::DEFAULT_PORT);
    let private_key = value::key_file(top, "private_key");
    let preshared_key = value::secret_source(top, "preshared_key");
    let prove = top.with_default("prove", &value::FLAG, true);
    let interface = value::DEFAULT_INTERFACE.to_owned();
    let interface = top.with_default("interface", &value::INTERFACE, interface);
    let mtu = top.with_default("mtu", &value::MTU, value::DEFAULT_MTU);
    let workers = top.optional("workers", &value::WORKERS);
    let admin_socket = top.with_default(
        "admin_socket",
        &value::SOCKET_PATH,
        DEFAULT_ADMIN_SOCKET.into(),
    );
    let metrics = top.optional("metrics", &value::LOOPBACK);
    let log = top.with_default("log", &value::LOG, value::DEFAULT_LOG.to_owned());
    let publish = top.with_default("publish", &value::FLAG, true);
    let offloads = value::offloads(top);
    // With a transport that is wrong, nobody knows how many hubs are right.
    let transport = match transport {
        Some(transport) => Some(transport.value),
        None => (!top.has("transport")).then(Transport::default),
    };
    let (mut hubs, mut ipsec_hubs) = (Vec::new(), Vec::new());
    match transport {
        Some(Transport::Ipsec) => ipsec_hubs = read_ipsec_hubs(top),
        _ => hubs = read_hubs(top, transport),
    }
    let ipsec = ipsec::of_spoke(top);
    if transport == Some(Transport::Ipsec) && !top.has("preshared_key") {
        let expected = "the fleet's secret, as { file = \"/an/absolute/path\" } or { ssm = \
                        \"/a/parameter\" }: the tunnel's key is made of it";
        top.missing("preshared_key", expected);
    }
    let has_tunnel = transport == Some(Transport::Wireguard);
    let tunnel_port = has_tunnel.then_some(listen_port);
    let nat = top.table("nat", "a [nat] section", |nat| {
        Some(nat::read(nat, tunnel_port))
    });
    let nat = nat.unwrap_or_default();
    let mut targets = false;
    let mut tested = None;
    let self_test = top.table("self_test", "a [self_test] section", |section| {
        targets = section.has("targets");
        tested = Some(section.place().clone());
        Some(routes::read_self_test(
            section,
            privnet.as_ref(),
            &nat.exclude,
        ))
    });
    if let Some(place) = tested.filter(|_| !top.has("routes")) {
        let expected = "a [routes] section, for which it is, or no [self_test]".to_owned();
        top.reject(
            &place,
            "a self-test of which nothing follows",
            Some(expected),
        );
    }
    let rest = routes::Context {
        privnet: privnet.as_ref(),
        transport,
        listen_port,
        egress: nat.egress,
        excluded: &nat.exclude,
        secret: top.has("preshared_key"),
        targets,
    };
    let routes = top.table("routes", "a [routes] section", |section| {
        routes::read(section, &rest)
    });
    let address = top.table("address", "an [address] section", |section| {
        address::read(section, &rest, routes.as_ref())
    });
    let keeps_connections = address.as_ref().is_some_and(|read| read.connections);
    let address = address.map(|read| read.address);

    Some(SpokeConfig {
        privnet: privnet?,
        transport: transport?,
        listen_port,
        private_key: private_key.map_or_else(|| DEFAULT_PRIVATE_KEY.into(), |path| path.value),
        preshared_key,
        prove,
        interface,
        mtu,
        workers: workers.map(|workers| workers.value),
        offloads,
        admin_socket,
        metrics: metrics.map(|address| address.value),
        log,
        hubs,
        ipsec_hubs,
        ipsec,
        nat,
        routes,
        address,
        keeps_connections,
        self_test: self_test.unwrap_or_default(),
        publish,
    })
}

fn read_hubs(top: &mut Section<'_>, transport: Option<Transport>) -> Vec<HubPeerConfig> {
    if transport == Some(Transport::Wireguard) && !top.has("hub") {
        let expected = "a [[hub]] with `endpoint` and `public_key`, or transport = \"none\"";
        top.missing("hub", expected);
    }
    let hubs = top.tables("hub", |hub| {
        let endpoint = hub.required("endpoint", &value::ENDPOINT);
        let public_key = hub.required("public_key", &value::PUBLIC_KEY);
        let next = hub.optional("next_public_key", &value::PUBLIC_KEY);
        let twice = next.as_ref().zip(public_key.as_ref());
        if let Some((next, _)) = twice.filter(|(next, key)| next.value == key.value) {
            let expected = "the key that comes after it, or no `next_public_key`".to_owned();
            hub.reject(&next.place, "the same as `public_key`", Some(expected));
        }
        let default = Some(value::DEFAULT_KEEPALIVE);
        let keepalive = hub.with_default("keepalive", &value::KEEPALIVE, default);
        Some(HubPeerConfig {
            endpoint: endpoint?.value,
            public_key: public_key?.value,
            next_public_key: next.map(|next| next.value),
            keepalive,
        })
    });
    let (allowed, problem, expected) = match transport {
        Some(Transport::None) => (
            0,
            "a hub, though transport is \"none\"",
            "no [[hub]], or transport = \"wireguard\"",
        ),
        Some(_) => (1, "one hub too many", "one hub in this version"),
        None => (usize::MAX, "", ""),
    };
    for hub in hubs.iter().skip(allowed) {
        top.reject(&hub.place, problem, Some(expected.to_owned()));
    }
    hubs.into_iter().filter_map(|hub| hub.value).collect()
}

/// Several hubs are for one at a time: only one tunnel can have the privnet.
fn read_ipsec_hubs(top: &mut Section<'_>) -> Vec<IpsecHubConfig> {
    if !top.has("hub") {
        top.missing("hub", "a [[hub]] with `endpoint`, or transport = \"none\"");
    }
    let hubs = top.tables("hub", |hub| {
        let endpoint = hub.required("endpoint", &ipsec::ADDRESS)?.value;
        let id = hub.optional("id", &ipsec::IKE_ID).map(|id| id.value);
        let id = id.unwrap_or_else(|| IkeId::from(endpoint));
        Some(IpsecHubConfig { endpoint, id })
    });
    hubs.into_iter().filter_map(|hub| hub.value).collect()
}
