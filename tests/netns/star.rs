//! A hub and its spokes, each with a host behind it, all running `privnet-wg` with
//! its own relay: both ways that packets take, through one tunnel to the hub's
//! host and through two to another spoke's. The interfaces and links stay while
//! the programs are started anew with other settings.
//!
//! ```text
//!   host-2 ── gateway-2 ═══╗
//!   host-3 ── gateway-3 ═══╬══ gateway-1 ── host-1
//!   host-4 ── gateway-4 ═══╝   (the hub)
//!
//!   ─ a link    10.N.0.2 and fd00:N::2 are host-N, .1 and ::1 its gateway
//!   ═ a tunnel  over a link to-N of the hub, 192.0.2.(4N+1) and 2001:db8:N::1,
//!               to wan of gateway-N, 192.0.2.(4N+2) and 2001:db8:N::2
//! ```

use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use privnet_model::key::PrivateKey;
use privnet_model::offload::{Offload, Offloads};
use privnet_tests::namespace::Namespace;
use privnet_tests::process::{Process, wait_until};
use privnet_tests::programs;

/// Generous: several tests share the cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The tunnels' MTU, and that of the links to hosts: no packet has to find it out.
pub(crate) const MTU: u32 = 1420;

const PORT: u16 = 51820;
const HUB: usize = 1;

/// The family of the addresses between two gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outer {
    V4,
    V6,
}

/// The link between a spoke and the hub.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Underlay {
    pub(crate) outer: Outer,
    pub(crate) mtu: u32,
}

/// What the programs are told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) workers: u8,
    pub(crate) offloads: Offloads,
}

/// The hosts and gateways, the hub's first.
pub(crate) struct Star {
    sites: Vec<Site>,
}

struct Site {
    number: usize,
    key: PrivateKey,
    host: Namespace,
    gateway: Namespace,
    underlay: Option<Underlay>,
}

/// The star with its tunnels up.
pub(crate) struct Tunnels<'a> {
    star: &'a Star,
    programs: Vec<Process>,
}

impl Star {
    /// Makes it, with a spoke for each underlay, numbered from 2 on.
    pub(crate) fn build(underlays: &[Underlay]) -> Result<Self> {
        programs::require_tools(&["wg", "ping", "ethtool"])?;
        let none = std::iter::once(None);
        let sites = (HUB..)
            .zip(none.chain(underlays.iter().copied().map(Some)))
            .map(|(number, underlay)| Site::add(number, underlay))
            .collect::<Result<Vec<_>>>()?;
        let hub = sites.first().context("no hub")?;
        for spoke in &sites {
            if let Some(underlay) = spoke.underlay {
                spoke.link(hub, underlay)?;
            }
        }
        Ok(Self { sites })
    }

    /// The numbers of all hosts, the hub's first.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = usize> {
        HUB..HUB + self.sites.len()
    }

    /// A host by its number.
    pub(crate) fn host(&self, number: usize) -> Result<&Namespace> {
        Ok(&self.site(number)?.host)
    }

    /// A gateway by its number.
    pub(crate) fn gateway(&self, number: usize) -> Result<&Namespace> {
        Ok(&self.site(number)?.gateway)
    }

    /// The MTU of a spoke's link to the hub.
    pub(crate) fn link_mtu(&self, spoke: usize) -> Result<u32> {
        let underlay = self.site(spoke)?.underlay;
        Ok(underlay.context("the hub has no link to itself")?.mtu)
    }

    fn site(&self, number: usize) -> Result<&Site> {
        let site = self.sites.iter().find(|site| site.number == number);
        site.with_context(|| format!("no site {number}"))
    }

    /// Starts all programs, and waits until every spoke's host reaches the hub's.
    /// The name is for their logs.
    pub(crate) fn start(&self, name: &str, settings: Settings) -> Result<Tunnels<'_>> {
        let programs = self
            .sites
            .iter()
            .map(|site| site.start(name, settings))
            .collect::<Result<_>>()?;
        let mut tunnels = Tunnels {
            star: self,
            programs,
        };
        for (site, program) in self.sites.iter().zip(&mut tunnels.programs) {
            site.configure(program, &self.sites)?;
        }
        // The hub hears of a spoke's address only when that calls.
        for site in self.sites.iter().filter(|site| site.underlay.is_some()) {
            wait_until(
                &format!("host-{} to be heard", site.number),
                PATIENCE,
                || {
                    tunnels.programs.iter_mut().try_for_each(Process::check)?;
                    let [to, _] = addresses(HUB);
                    Ok((site.host.ping(to, 1)? == 1).then_some(()))
                },
            )
            .map_err(|error| error.context(tunnels.log_tails()))?;
        }
        Ok(tunnels)
    }
}

impl Tunnels<'_> {
    /// Ends the programs and returns each one's gateway and log, the hub's first.
    pub(crate) fn stop(self) -> Result<Vec<(String, String)>> {
        let mut logs = Vec::new();
        for (site, mut program) in self.star.sites.iter().zip(self.programs) {
            program.signal(Signal::SIGTERM)?;
            let (status, log) = (program.wait(PATIENCE)?, program.log());
            let gateway = site.gateway.name();
            ensure!(status.success(), "{gateway}: {status}\n{log}");
            logs.push((gateway.to_owned(), log));
        }
        Ok(logs)
    }

    /// The ends of all logs.
    pub(crate) fn log_tails(&self) -> String {
        let tails: Vec<_> = self.programs.iter().map(|one| one.log_tail(10)).collect();
        tails.join("\n")
    }
}

impl Site {
    fn add(number: usize, underlay: Option<Underlay>) -> Result<Self> {
        let host = Namespace::add(&format!("host-{number}"))?;
        let gateway = Namespace::add(&format!("gateway-{number}"))?;
        gateway.sysctl(&["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
        gateway.link("lan", &host, "lan", MTU)?;
        gateway.ip(&[
            format!("addr add 10.{number}.0.1/24 dev lan"),
            format!("addr add fd00:{number}::1/64 dev lan nodad"),
        ])?;
        host.ip(&[
            format!("addr add 10.{number}.0.2/24 dev lan"),
            format!("addr add fd00:{number}::2/64 dev lan nodad"),
            format!("route add default via 10.{number}.0.1"),
            format!("route add default via fd00:{number}::1"),
        ])?;
        let byte = u8::try_from(number)?;
        Ok(Self {
            number,
            key: PrivateKey::from_random([byte; 32]),
            host,
            gateway,
            underlay,
        })
    }

    fn link(&self, hub: &Self, underlay: Underlay) -> Result<()> {
        let (number, last) = (self.number, 4 * self.number);
        let interface = hub_interface(number);
        self.gateway
            .link("wan", &hub.gateway, &interface, underlay.mtu)?;
        for (gateway, interface, end) in [
            (&hub.gateway, interface.as_str(), 1),
            (&self.gateway, "wan", 2),
        ] {
            gateway.ip(&[
                format!("addr add 192.0.2.{}/30 dev {interface}", last + end),
                format!("addr add 2001:db8:{number}::{end}/64 dev {interface} nodad"),
            ])?;
        }
        Ok(())
    }

    fn start(&self, name: &str, settings: Settings) -> Result<Process> {
        let mut arguments = vec!["-f".to_owned(), format!("--workers={}", settings.workers)];
        let off = Offload::ALL
            .into_iter()
            .filter(|offload| !settings.offloads.contains(*offload));
        arguments.extend(off.map(|offload| format!("--without={offload}")));
        if self.underlay.is_none() {
            arguments.push("--relay".to_owned());
        }
        arguments.push("wg0".to_owned());
        let program = programs::ours("privnet-wg")?;
        self.gateway.start(name, program, arguments)
    }

    /// Gives the interface its key, its peers and the routes to them.
    fn configure(&self, program: &mut Process, sites: &[Self]) -> Result<()> {
        let directory = self.gateway.directory();
        wait_until("the WireGuard socket", PATIENCE, || {
            program.check()?;
            // A file alone may be that of a program which has ended.
            let socket = directory.join("wireguard/wg0.sock");
            Ok(std::os::unix::net::UnixStream::connect(socket).map(Some)?)
        })?;
        let key = directory.join("key");
        std::fs::write(&key, self.key.to_base64().as_str())?;
        std::fs::set_permissions(&key, Permissions::from_mode(0o600))?;
        let mut wg: Vec<String> = ["set", "wg0", "private-key"].map(String::from).into();
        wg.push(key.to_str().context("not a text")?.to_owned());
        wg.extend(["listen-port".to_owned(), PORT.to_string()]);
        let mut ip = vec![format!("link set wg0 mtu {MTU} up")];
        for peer in sites {
            let (networks, endpoint) = match (self.underlay, peer.underlay) {
                (None, Some(_)) => {
                    let number = peer.number;
                    (
                        [format!("10.{number}.0.0/16"), format!("fd00:{number}::/32")],
                        None,
                    )
                }
                (Some(underlay), None) => {
                    let networks = ["10.0.0.0/8", "fd00::/16"].map(String::from);
                    (networks, Some(self.hub_endpoint(underlay.outer)))
                }
                _ => continue,
            };
            wg.extend(["peer".to_owned(), peer.key.public().to_string()]);
            wg.extend(["allowed-ips".to_owned(), networks.join(",")]);
            if let Some(endpoint) = endpoint {
                wg.extend(["endpoint".to_owned(), endpoint]);
            }
            let [v4, v6] = networks;
            ip.push(format!("route add {v4} dev wg0"));
            ip.push(format!("route add {v6} dev wg0"));
        }
        self.gateway.run("wg", wg)?;
        self.gateway.ip(&ip)
    }

    fn hub_endpoint(&self, outer: Outer) -> String {
        match outer {
            Outer::V4 => format!("192.0.2.{}:{PORT}", 4 * self.number + 1),
            Outer::V6 => format!("[2001:db8:{}::1]:{PORT}", self.number),
        }
    }
}

/// The hub's interface to a spoke.
pub(crate) fn hub_interface(number: usize) -> String {
    format!("to-{number}")
}

/// A host's addresses, IPv4 first.
pub(crate) fn addresses(number: usize) -> [IpAddr; 2] {
    let number = u8::try_from(number).unwrap_or(u8::MAX);
    [
        IpAddr::from([10, number, 0, 2]),
        // In hexadecimal as in the drawing, where the number is the text.
        IpAddr::from([0xfd00, u16::from(number), 0, 0, 0, 0, 0, 2]),
    ]
}
