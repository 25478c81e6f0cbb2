//! Each offload on and off, with one worker and with several, on the star drawn at
//! `star`: all traffic arrives whole, nothing is lost by a fault of ours, and an
//! offload that is off is not used. And what a kernel refuses while it runs.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use privnet_model::offload::{Offload, Offloads};
use privnet_tests::namespace::Namespace;
use privnet_tunnel::Counter;

use crate::star::{MTU, Outer, Settings, Star, Tunnels, Underlay, hub_interface};
use crate::traffic::{self, Route};

const LINK_MTU: u32 = 1500;

/// Of each stream in each direction.
const BYTES: usize = 1_000_000;

/// Through one tunnel to the hub's host and from it, and through two.
const ROUTES: [Route; 6] = [(2, 1), (1, 3), (4, 1), (2, 3), (3, 4), (4, 2)];

pub(crate) fn every_offload_on_and_off_with_one_worker() -> Result<()> {
    every_offload_on_and_off(1)
}

pub(crate) fn every_offload_on_and_off_with_two_workers() -> Result<()> {
    every_offload_on_and_off(2)
}

pub(crate) fn every_offload_on_and_off_with_four_workers() -> Result<()> {
    every_offload_on_and_off(4)
}

fn every_offload_on_and_off(workers: u8) -> Result<()> {
    let star = Star::build(&[link(Outer::V4), link(Outer::V6), link(Outer::V4)])?;
    watch(&star)?;
    let mut cells = vec![("all".to_owned(), Offloads::ALL)];
    let one_off = Offload::ALL.map(|offload| {
        let name = format!("all-but-{offload}");
        (name, Offloads::ALL.without(offload))
    });
    cells.extend(one_off);
    cells.push(("none".to_owned(), Offloads::NONE));
    for (name, offloads) in cells {
        let settings = Settings { workers, offloads };
        cell(&star, &name, settings).with_context(|| format!("{name}, {workers} workers"))?;
    }
    Ok(())
}

/// One way to set it up: everything crosses, and the counters tell of no fault.
fn cell(star: &Star, name: &str, settings: Settings) -> Result<()> {
    let tunnels = star.start(name, settings)?;
    forget_seen(star)?;
    let carried = everything_crosses(star, &ROUTES);
    let used = Used::at(star)?;
    let logs = ended_without_fault(tunnels, carried)?;
    used.agrees_with(settings.offloads)?;
    for (gateway, log) in &logs {
        ensure!(!log.contains(REFUSED), "{gateway}:\n{log}");
    }
    Ok(())
}

pub(crate) fn a_link_without_checksum_offload_carries_everything() -> Result<()> {
    let star = Star::build(&[link(Outer::V4), link(Outer::V6)])?;
    watch(&star)?;
    let mut refuses = BTreeSet::new();
    for (gateway, interface, to) in [
        (1, hub_interface(2), "192.0.2.10:9"),
        (1, hub_interface(3), "[2001:db8:3::2]:9"),
        (2, "wan".to_owned(), "192.0.2.9:9"),
        (3, "wan".to_owned(), "[2001:db8:3::1]:9"),
    ] {
        let host = star.gateway(gateway)?;
        host.run("ethtool", ["-K", &interface, "tx", "off"])?;
        let features = host.run("ethtool", ["-k", &interface])?;
        ensure!(features.contains("tx-checksumming: off"), "{features}");
        // Kernels before 6.11 have a device's offload for this, later ones do it themselves.
        if !traffic::can_be_cut_up(host, to.parse()?)? {
            refuses.insert(gateway);
        }
    }
    println!("gateways whose kernel refuses segmentation here: {refuses:?}");
    let settings = Settings {
        workers: 2,
        offloads: Offloads::ALL,
    };
    let tunnels = star.start("wg", settings)?;
    let carried = everything_crosses(&star, &[(2, 1), (1, 3), (2, 3)]);
    let used = Used::at(&star)?;
    let logs = ended_without_fault(tunnels, carried)?;
    for (number, (gateway, log)) in (1..).zip(&logs) {
        let refused = log.contains(REFUSED) && log.contains("offload=udp_gso");
        ensure!(refused == refuses.contains(&number), "{gateway}:\n{log}");
    }
    ensure!(
        (used.datagram_runs == 0) == refuses.contains(&1),
        "{used:?}"
    );
    Ok(())
}

pub(crate) fn a_link_narrower_than_the_tunnel_loses_segmentation_and_no_other_does() -> Result<()> {
    const NARROW: u32 = 1400;
    let narrow = |outer| Underlay { outer, mtu: NARROW };
    let star = Star::build(&[
        narrow(Outer::V4),
        narrow(Outer::V6),
        link(Outer::V4),
        link(Outer::V6),
    ])?;
    watch(&star)?;
    let routes = [(1, 2), (1, 3), (1, 4), (1, 5), (2, 3), (4, 5), (2, 5)];
    let settings = Settings {
        workers: 2,
        offloads: Offloads::ALL,
    };
    let tunnels = star.start("wg", settings)?;
    // What comes first finds out; then it is known.
    let met = traffic::streams(&star, &routes, BYTES);
    forget_seen(&star)?;
    let carried = met.and_then(|()| everything_crosses(&star, &routes));
    let hub = star.gateway(1)?;
    let seen = [2, 3, 4, 5].map(|spoke| {
        anyhow::Ok((
            packets(hub, &format!("runs_{spoke}"))?,
            packets(hub, &format!("fragmented_{spoke}"))?,
        ))
    });
    let logs = ended_without_fault(tunnels, carried)?;
    for (gateway, log) in &logs {
        ensure!(!log.contains(REFUSED), "{gateway}:\n{log}");
    }
    for (spoke, seen) in (2..).zip(seen) {
        let (runs, fragmented) = seen?;
        let is_narrow = spoke < 4;
        ensure!(
            (runs == 0) == is_narrow && (fragmented > 0) == is_narrow,
            "{runs} runs and {fragmented} datagrams in fragments to gateway-{spoke}"
        );
    }
    Ok(())
}

fn link(outer: Outer) -> Underlay {
    Underlay {
        outer,
        mtu: LINK_MTU,
    }
}

fn everything_crosses(star: &Star, routes: &[Route]) -> Result<()> {
    traffic::streams(star, routes, BYTES)?;
    traffic::datagrams(star, routes)?;
    traffic::pings(star, routes)
}

/// Ends the programs and returns their logs: an error if the traffic met one, if
/// a program dropped something by a fault of its own, or if the hub relayed nothing.
fn ended_without_fault(tunnels: Tunnels<'_>, carried: Result<()>) -> Result<Vec<(String, String)>> {
    let logs = tunnels.stop()?;
    carried.with_context(|| {
        let all = logs
            .iter()
            .map(|(gateway, log)| format!("{gateway}\n{log}"));
        all.collect::<String>()
    })?;
    for (gateway, log) in &logs {
        tells_of_no_fault(log).with_context(|| gateway.clone())?;
    }
    let hub = logs.first().map(|(_, log)| counter(log, Counter::Relayed));
    ensure!(hub.context("no hub")?? > 0, "the hub relayed nothing");
    Ok(logs)
}

/// What is seen of the offloads at the hub from outside the program.
#[derive(Debug)]
struct Used {
    /// The kernel may give the TUN super-packets of TCP, and of UDP.
    tso: bool,
    uso: bool,
    /// Super-packets of TCP and of UDP that came out of the TUN.
    tcp_runs: u64,
    udp_runs: u64,
    /// Runs of datagrams that were sent as one.
    datagram_runs: u64,
}

/// Counts super-packets at the hub, each at a hook where it still is one.
fn watch(star: &Star) -> Result<()> {
    let (mut counters, mut rules) = (String::new(), String::new());
    for spoke in star.numbers().skip(1) {
        let interface = hub_interface(spoke);
        let mtu = star.link_mtu(spoke)?;
        counters += &format!("counter runs_{spoke} {{ }}\ncounter fragmented_{spoke} {{ }}\n");
        rules += &format!(
            "oifname {interface} meta length > {LINK_MTU} counter name runs_{spoke}\n\
             oifname {interface} meta length > {mtu} meta length <= {LINK_MTU} counter name fragmented_{spoke}\n"
        );
    }
    star.gateway(1)?.nft(&format!(
        r#"table inet seen {{
    counter tcp_runs {{ }}
    counter udp_runs {{ }}
    {counters}
    chain forward {{
        type filter hook forward priority filter
        iifname "wg0" meta length > {MTU} meta l4proto tcp counter name tcp_runs
        iifname "wg0" meta length > {MTU} meta l4proto udp counter name udp_runs
    }}
    chain output {{
        type filter hook output priority filter
        {rules}
    }}
}}
"#
    ))
}

fn forget_seen(star: &Star) -> Result<()> {
    let arguments = ["reset", "counters", "table", "inet", "seen"];
    star.gateway(1)?.run("nft", arguments).map(drop)
}

impl Used {
    fn at(star: &Star) -> Result<Self> {
        let hub = star.gateway(1)?;
        let features = hub.run("ethtool", ["-k", "wg0"])?;
        let feature = |name: &str| {
            let line = features.lines().find(|line| line.trim().starts_with(name));
            let line = line.with_context(|| format!("no {name} in:\n{features}"))?;
            anyhow::Ok(line.contains(": on"))
        };
        Ok(Self {
            tso: feature("tx-tcp-segmentation:")? && feature("tx-tcp6-segmentation:")?,
            uso: feature("tx-udp-segmentation:")?,
            tcp_runs: packets(hub, "tcp_runs")?,
            udp_runs: packets(hub, "udp_runs")?,
            datagram_runs: star
                .numbers()
                .skip(1)
                .map(|spoke| packets(hub, &format!("runs_{spoke}")))
                .sum::<Result<u64>>()?,
        })
    }

    /// What is on is used, but for what this kernel lacks; what is off is not.
    fn agrees_with(&self, offloads: Offloads) -> Result<()> {
        let on = |offload| offloads.contains(offload);
        let uso = on(Offload::TunUso) && self.uso;
        let agrees = self.tso == on(Offload::TunTso)
            && (self.tcp_runs > 0) == on(Offload::TunGro)
            && (self.udp_runs > 0) == (on(Offload::TunGro) && uso)
            && (self.datagram_runs > 0) == on(Offload::UdpGso)
            && (on(Offload::TunUso) || !self.uso);
        ensure!(agrees, "{offloads:?} wanted, {self:?}");
        Ok(())
    }
}

fn packets(host: &Namespace, counter: &str) -> Result<u64> {
    let text = host.run("nft", ["list", "counter", "inet", "seen", counter])?;
    let (_, rest) = text.split_once("packets ").context("no packets")?;
    let number = rest.split_whitespace().next().unwrap_or_default();
    Ok(number.parse()?)
}

/// What a program says when the kernel refuses an offload at run time.
const REFUSED: &str = "the kernel refuses this offload";

/// The counters that the programs log at their end: those that are zero are not in it.
fn counter(log: &str, counter: Counter) -> Result<u64> {
    let name = format!(" {} value=", counter.name());
    match log.lines().find_map(|line| line.split_once(&name)) {
        Some((_, value)) => Ok(value.trim().parse()?),
        None => Ok(0),
    }
}

/// Drops that are no fault: the kernel's own multicast, on every interface with
/// IPv6, is for nobody; and a worker that waits for its turn on a busy machine is
/// what streams take for congestion. (Datagrams and pings come when it is quiet,
/// and none of them may be missing.)
const NO_FAULT: [Counter; 2] = [Counter::NoRoute, Counter::RingFull];

/// An error if a program counts a drop that is nobody else's doing.
fn tells_of_no_fault(log: &str) -> Result<()> {
    // Without this there would be nothing to go by.
    if counter(log, Counter::Handshakes)? == 0 {
        bail!("no counters in:\n{log}");
    }
    for drop in Counter::ALL.iter().filter(|counter| counter.is_drop()) {
        if !NO_FAULT.contains(drop) {
            let value = counter(log, *drop)?;
            ensure!(value == 0, "{} {value}:\n{log}", drop.name());
        }
    }
    Ok(())
}
