//! Where it is measured: hosts, links and tunnels of one implementation in one
//! topology.
//!
//! ```text
//! gateway   client ─── spoke ═══════ hub ─── server
//! relay     client ─── spoke ═══════ hub ═══════ far spoke ─── server
//! ```
//!
//! ─ is a link, ═ a link with a tunnel over it (without one for plain routing).
//! Clients and servers are behind gateways, as in a VPC: whatever crosses is
//! forwarded by the kernel into the tunnel and out of it. At a relay our hub
//! passes packets on by itself; the others leave it to the kernel's routing.

use std::fmt;
use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use privnet_model::key::PrivateKey;
use privnet_tests::charon::{Charon, Esp};
use privnet_tests::namespace::Namespace;
use privnet_tests::process::{Process, wait_until};
use serde::Serialize;

use crate::implementation::{Implementation, Program, Tunnel};

/// The tunnels' MTU, and the private links', so that TCP never has to find out.
pub(crate) const MTU: u32 = 1420;
/// The links' between gateways.
const LINK_MTU: u32 = 1500;

const TUNNEL: &str = "wg0";
const PORT: u16 = 51820;
const PRIVNET: &str = "10.0.0.0/8";
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
const PATIENCE: Duration = Duration::from_secs(20);

/// The shape of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Topology {
    /// client - spoke = hub - server
    Gateway,
    /// client - spoke = hub = spoke - server
    Relay,
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gateway => "gateway",
            Self::Relay => "relay",
        })
    }
}

/// A network in which the client reaches the server.
#[derive(Debug)]
pub(crate) struct Network {
    // Dropped in this order: programs before the namespaces that they run in.
    tunnels: Vec<Process>,
    _others: Vec<Process>,
    client: Namespace,
    server: Namespace,
    _gateways: Vec<Gateway>,
}

/// A host that routes between a tunnel and what is behind it.
#[derive(Debug)]
struct Gateway {
    namespace: Namespace,
    key: PrivateKey,
}

/// A tunnel by IPsec, as one gateway is told of it.
struct Sa<'a> {
    own: Ipv4Addr,
    peer: Ipv4Addr,
    behind_own: &'a str,
    behind_peer: &'a str,
}

impl<'a> Sa<'a> {
    fn of_spoke([spoke, hub]: [Ipv4Addr; 2], networks: &'a str) -> Self {
        Self {
            own: spoke,
            peer: hub,
            behind_own: networks,
            behind_peer: PRIVNET,
        }
    }

    fn of_hub([spoke, hub]: [Ipv4Addr; 2], networks: &'a str) -> Self {
        Self {
            own: hub,
            peer: spoke,
            behind_own: PRIVNET,
            behind_peer: networks,
        }
    }
}

/// The other end of a tunnel, as one gateway is told of it.
struct Peer<'a> {
    gateway: &'a Gateway,
    networks: &'a str,
    /// Only a spoke knows where its hub is; it keeps the tunnel alive.
    endpoint: Option<Ipv4Addr>,
}

impl Network {
    /// Builds it, and waits until the client reaches the server.
    pub(crate) fn start(topology: Topology, implementation: &Implementation) -> Result<Self> {
        let made = match topology {
            Topology::Gateway => Self::gateway(implementation),
            Topology::Relay => Self::relay(implementation),
        };
        let network =
            made.with_context(|| format!("the {topology} network of {}", implementation.name()))?;
        network
            .settle()
            .with_context(|| implementation.name().to_owned())?;
        Ok(network)
    }

    fn gateway(implementation: &Implementation) -> Result<Self> {
        let name = |host: &str| format!("{}-gateway-{host}", implementation.name());
        let (client, server) = (
            Namespace::add(&name("client"))?,
            Namespace::add(&name("server"))?,
        );
        let spoke = Gateway::add(&name("spoke"), 1)?;
        let hub = Gateway::add(&name("hub"), 2)?;
        spoke.serve(&client, CLIENT)?;
        hub.serve(&server, SERVER)?;
        let (near, far) = spoke.connect("wan", &hub, "wan", [192, 0, 2])?;

        let mut tunnels = Vec::new();
        let mut others = Vec::new();
        match implementation.tunnel() {
            Tunnel::Wireguard(program) => {
                // The side that is called first: its answer must not be lost.
                let called = hub.start(program, program.relay)?;
                hub.add_peer(&Peer {
                    gateway: &spoke,
                    networks: "10.1.0.0/16",
                    endpoint: None,
                })?;
                tunnels.push(spoke.start(program, &[])?);
                tunnels.push(called);
                spoke.add_peer(&Peer {
                    gateway: &hub,
                    networks: PRIVNET,
                    endpoint: Some(far),
                })?;
            }
            Tunnel::Ipsec(esp) => {
                let both = [near, far];
                let called = hub.start_ipsec(*esp, &[Sa::of_hub(both, "10.1.0.0/16")])?;
                let calls = spoke.start_ipsec(*esp, &[Sa::of_spoke(both, "10.1.0.0/16")])?;
                calls.swanctl(&["--initiate", "--child", "sa0"])?;
                let processes = [calls, called].map(Charon::into_process);
                match esp {
                    Esp::Userspace => tunnels.extend(processes),
                    Esp::Kernel => others.extend(processes),
                }
            }
            Tunnel::None => {
                spoke.route(PRIVNET, far)?;
                hub.route("10.1.0.0/16", near)?;
            }
        }
        Ok(Self {
            tunnels,
            _others: others,
            client,
            server,
            _gateways: vec![spoke, hub],
        })
    }

    fn relay(implementation: &Implementation) -> Result<Self> {
        let name = |host: &str| format!("{}-relay-{host}", implementation.name());
        let (client, server) = (
            Namespace::add(&name("client"))?,
            Namespace::add(&name("server"))?,
        );
        let spoke = Gateway::add(&name("spoke"), 1)?;
        let hub = Gateway::add(&name("hub"), 2)?;
        let far_spoke = Gateway::add(&name("far-spoke"), 3)?;
        spoke.serve(&client, CLIENT)?;
        far_spoke.serve(&server, SERVER)?;
        let (near, hub_near) = spoke.connect("wan", &hub, "near", [192, 0, 2])?;
        let (far, hub_far) = far_spoke.connect("wan", &hub, "far", [198, 51, 100])?;

        let mut tunnels = Vec::new();
        let mut others = Vec::new();
        match implementation.tunnel() {
            Tunnel::Wireguard(program) => {
                let called = hub.start(program, program.relay)?;
                for (gateway, networks) in [(&spoke, "10.1.0.0/16"), (&far_spoke, "10.2.0.0/16")] {
                    hub.add_peer(&Peer {
                        gateway,
                        networks,
                        endpoint: None,
                    })?;
                }
                tunnels.push(spoke.start(program, &[])?);
                tunnels.push(called);
                tunnels.push(far_spoke.start(program, &[])?);
                for (gateway, endpoint) in [(&spoke, hub_near), (&far_spoke, hub_far)] {
                    gateway.add_peer(&Peer {
                        gateway: &hub,
                        networks: PRIVNET,
                        endpoint: Some(endpoint),
                    })?;
                }
            }
            Tunnel::Ipsec(esp) => {
                // charon makes routes only where it finds an address of its own side.
                hub.namespace.ip(&["addr add 10.9.0.1/32 dev lo"])?;
                let near = [near, hub_near];
                let far = [far, hub_far];
                let called = hub.start_ipsec(
                    *esp,
                    &[
                        Sa::of_hub(near, "10.1.0.0/16"),
                        Sa::of_hub(far, "10.2.0.0/16"),
                    ],
                )?;
                let calls = spoke.start_ipsec(*esp, &[Sa::of_spoke(near, "10.1.0.0/16")])?;
                let also = far_spoke.start_ipsec(*esp, &[Sa::of_spoke(far, "10.2.0.0/16")])?;
                for spoke in [&calls, &also] {
                    spoke.swanctl(&["--initiate", "--child", "sa0"])?;
                }
                let processes = [calls, called, also].map(Charon::into_process);
                match esp {
                    Esp::Userspace => tunnels.extend(processes),
                    Esp::Kernel => others.extend(processes),
                }
            }
            Tunnel::None => {
                spoke.route(PRIVNET, hub_near)?;
                far_spoke.route(PRIVNET, hub_far)?;
                hub.route("10.1.0.0/16", near)?;
                hub.route("10.2.0.0/16", far)?;
            }
        }
        Ok(Self {
            tunnels,
            _others: others,
            client,
            server,
            _gateways: vec![spoke, hub, far_spoke],
        })
    }

    /// Waits until packets pass both ways.
    pub(crate) fn settle(&self) -> Result<()> {
        let passed = wait_until("a ping from the client to the server", PATIENCE, || {
            if self.client.ping(SERVER, 1)? == 1 {
                return Ok(Some(()));
            }
            // A hub does not know where a spoke is that has not called, and some call
            // only when there is something to send.
            self.server.ping(CLIENT, 1)?;
            Ok(None)
        });
        passed.with_context(|| {
            let logs: Vec<String> = self.tunnels.iter().map(|one| one.log_tail(15)).collect();
            logs.join("\n")
        })
    }

    /// Where traffic starts.
    pub(crate) fn client(&self) -> &Namespace {
        &self.client
    }

    /// Where it is for.
    pub(crate) fn server(&self) -> &Namespace {
        &self.server
    }

    /// The server's address.
    pub(crate) fn server_address(&self) -> Ipv4Addr {
        SERVER
    }

    /// The tunnels' processes, the spoke's first; none for plain routing, and where the
    /// kernel does the work.
    pub(crate) fn tunnels(&self) -> &[Process] {
        &self.tunnels
    }

    /// An error if a tunnel's process has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.tunnels.iter_mut().try_for_each(Process::check)
    }

    /// The largest memory that the spoke's tunnel has had so far.
    pub(crate) fn spoke_peak_bytes(&self) -> Result<Option<u64>> {
        let Some(spoke) = self.tunnels.first() else {
            return Ok(None);
        };
        let (_, peak) = spoke.memory_bytes()?;
        Ok(Some(peak))
    }
}

impl Gateway {
    fn add(name: &str, number: u8) -> Result<Self> {
        let namespace = Namespace::add(name)?;
        namespace.sysctl(&["net.ipv4.ip_forward=1"])?;
        Ok(Self {
            namespace,
            key: PrivateKey::from_random([number; 32]),
        })
    }

    /// Becomes the default gateway of a host with this address.
    fn serve(&self, host: &Namespace, address: Ipv4Addr) -> Result<()> {
        self.namespace.link("lan", host, "lan", MTU)?;
        let [a, b, c, _] = address.octets();
        let own = Ipv4Addr::new(a, b, c, 1);
        self.namespace.ip(&[format!("addr add {own}/24 dev lan")])?;
        host.ip(&[
            format!("addr add {address}/24 dev lan"),
            format!("route add default via {own}"),
        ])
    }

    /// Links this gateway to another; returns both addresses.
    fn connect(
        &self,
        interface: &str,
        other: &Self,
        other_interface: &str,
        [a, b, c]: [u8; 3],
    ) -> Result<(Ipv4Addr, Ipv4Addr)> {
        let (own, others) = (Ipv4Addr::new(a, b, c, 1), Ipv4Addr::new(a, b, c, 2));
        self.namespace
            .link(interface, &other.namespace, other_interface, LINK_MTU)?;
        self.namespace
            .ip(&[format!("addr add {own}/24 dev {interface}")])?;
        other
            .namespace
            .ip(&[format!("addr add {others}/24 dev {other_interface}")])?;
        Ok((own, others))
    }

    fn route(&self, networks: &str, via: Ipv4Addr) -> Result<()> {
        self.namespace
            .ip(&[format!("route add {networks} via {via}")])
    }

    /// Starts a tunnel's process, with its interface up and without peers.
    fn start(&self, program: &Program, more: &[&str]) -> Result<Process> {
        let arguments = program.arguments.iter().chain(more).chain(&[TUNNEL]);
        let socket = self.namespace.directory().join("wireguard/wg0.sock");
        // A predecessor that was killed leaves its own.
        if socket.exists() {
            std::fs::remove_file(&socket)?;
        }
        let mut process = self.namespace.start("wg", &program.path, arguments)?;
        wait_until("the WireGuard socket", PATIENCE, || {
            process.check()?;
            Ok(socket.exists().then_some(()))
        })?;
        let file = self.namespace.directory().join("key");
        write_secret(&file, &self.key)?;
        let file = file.to_str().context("not a text")?;
        self.wg(&["private-key", file, "listen-port", &PORT.to_string()])?;
        self.namespace
            .ip(&[format!("link set {TUNNEL} mtu {MTU} up")])?;
        Ok(process)
    }

    fn add_peer(&self, peer: &Peer<'_>) -> Result<()> {
        let key = peer.gateway.key.public().to_string();
        let mut arguments = vec!["peer", &key, "allowed-ips", peer.networks];
        let endpoint = peer.endpoint.map(|address| format!("{address}:{PORT}"));
        if let Some(endpoint) = &endpoint {
            arguments.extend(["endpoint", endpoint, "persistent-keepalive", "25"]);
        }
        self.wg(&arguments)?;
        self.namespace
            .ip(&[format!("route add {} dev {TUNNEL}", peer.networks)])
    }

    /// Starts strongSwan with these SAs, in the images' proposals. Each has an XFRM
    /// interface where the kernel does ESP.
    fn start_ipsec(&self, esp: Esp, sas: &[Sa<'_>]) -> Result<Charon> {
        let mut connections = String::new();
        let mut secrets = String::new();
        for (number, sa) in (0..).zip(sas) {
            let Sa {
                own,
                peer,
                behind_own,
                behind_peer,
            } = sa;
            let number: u32 = number;
            let mut interface = String::new();
            if esp == Esp::Kernel {
                let id = number + 1;
                interface = format!("if_id_in = {id}\nif_id_out = {id}");
                self.namespace.ip(&[
                    format!("link add esp{number} mtu 1400 type xfrm if_id {id}"),
                    format!("link set esp{number} up"),
                    format!("route add {behind_peer} dev esp{number}"),
                ])?;
            }
            connections += &format!(
                "c{number} {{
                   version = 2
                   local_addrs = {own}
                   remote_addrs = {peer}
                   encap = yes
                   mobike = no
                   proposals = aes256gcm16-prfsha384-ecp384
                   local {{
                     auth = psk
                     id = {own}
                   }}
                   remote {{
                     auth = psk
                     id = {peer}
                   }}
                   children {{
                     sa{number} {{
                       local_ts = {behind_own}
                       remote_ts = {behind_peer}
                       esp_proposals = aes256gcm16-ecp384
                       {interface}
                     }}
                   }}
                 }}\n"
            );
            secrets +=
                &format!("ike-{number} {{\nid-1 = {own}\nid-2 = {peer}\nsecret = bench\n}}\n");
        }
        let swanctl = format!("connections {{\n{connections}}}\nsecrets {{\n{secrets}}}\n");
        Charon::of_firewall_with(&self.namespace, &swanctl, esp)
    }

    fn wg(&self, arguments: &[&str]) -> Result<()> {
        let all = ["set", TUNNEL].iter().chain(arguments);
        let said = self.namespace.run("wg", all)?;
        ensure!(said.is_empty(), "wg: {said}");
        Ok(())
    }
}

fn write_secret(file: &Path, key: &PrivateKey) -> Result<()> {
    std::fs::write(file, key.to_base64().as_str())?;
    std::fs::set_permissions(file, Permissions::from_mode(0o600))?;
    Ok(())
}
