//! NAT egress on the demo network (drawn at `privnet_tests::topology::demo`):
//! it goes on while the daemon is down, and touches nothing that is not its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::RangeInclusive;

use anyhow::{Context, Result, ensure};
use privnet_tests::deployment::{self, PATIENCE, public_address, sees, wait_until_up};
use privnet_tests::process::wait_until;
use privnet_tests::topology::WEB;
use privnet_tests::world::World;

pub(crate) fn egress_never_stops_while_the_daemon_is_down() -> Result<()> {
    let mut world = deployment::demo()?;
    for (host, gateway) in [("host-a", "spoke-a"), ("host-hub", "nat-hub")] {
        let public = public_address(&world, gateway)?;
        sees(&world, host, WEB, public)?;
        for crash in [false, true] {
            // One ping after the other, through the stop and the start.
            let pings = world.namespace(host)?.start(
                "egress",
                "ping",
                ["-n", "-i", "0.02", "-W", "1", &WEB.to_string()],
            )?;
            if crash {
                world.crash(gateway)?;
            } else {
                world.stop(gateway)?;
            }
            sees(&world, host, WEB, public)?;
            world.start_again(gateway)?;
            wait_until("the daemon to answer", PATIENCE, || {
                world.daemon(gateway)?.status().map(Some)
            })?;
            sees(&world, host, WEB, public)?;
            pings.signal(nix::sys::signal::Signal::SIGINT)?;
            let mut pings = pings;
            pings.wait(PATIENCE)?;
            let log = pings.log();
            ensure!(log.contains(" 0% packet loss"), "{}", pings.log_tail(5));
        }
    }
    Ok(())
}

/// Two downloads that take as long as both restarts do, one through NAT and one through
/// the tunnel.
pub(crate) fn established_connections_outlive_the_daemon() -> Result<()> {
    const BYTES: usize = 24 << 20;
    let mut world = deployment::demo()?;
    wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;
    let far = world.host("host-b")?.instance.address;
    let mut downloads = Vec::new();
    for server in [WEB, far] {
        let url = format!("http://{server}/bytes/{BYTES}");
        let arguments = ["-sS", "--fail", "--limit-rate", "2M", "-o", "/dev/null"];
        let told = ["-w", "downloaded %{size_download}", &url];
        let name = format!("download-{server}");
        let host = world.namespace("host-a")?;
        downloads.push(host.start(&name, "curl", arguments.iter().chain(&told))?);
        wait_until("the download to begin", PATIENCE, || {
            let to_it = [
                "-H",
                "-t",
                "-n",
                "state",
                "established",
                "dst",
                &server.to_string(),
            ];
            let connected = !host.run("ss", to_it)?.trim().is_empty();
            Ok(connected.then_some(()))
        })?;
    }
    for crash in [false, true] {
        match crash {
            true => world.crash("spoke-a")?,
            false => world.stop("spoke-a")?,
        }
        world.start_again("spoke-a")?;
        wait_until_up(&world, &["spoke-a"], PATIENCE)?;
        // They go on: neither has ended by itself.
        downloads.iter_mut().try_for_each(|one| one.check())?;
    }
    for mut download in downloads {
        download.wait(PATIENCE * 2)?;
        let log = download.log();
        ensure!(log.contains(&format!("downloaded {BYTES}")), "{log}");
    }
    Ok(())
}

pub(crate) fn what_others_configured_is_left_alone() -> Result<()> {
    let mut world = World::build(&privnet_tests::topology::demo())?;
    let foreign = "table inet operators {
    chain input {
        type filter hook input priority filter
        tcp dport 8080 counter accept
    }
}
";
    let spoke = world.namespace("spoke-a")?;
    spoke.nft(foreign)?;
    spoke.ip(&["route add 192.0.2.200/32 via 10.1.0.1 proto static"])?;
    deployment::start_spokes(&mut world)?;
    deployment::start_hub(&mut world)?;
    wait_until_up(&world, &["spoke-a"], PATIENCE)?;
    world.stop("spoke-a")?;
    world.start_again("spoke-a")?;
    wait_until_up(&world, &["spoke-a"], PATIENCE)?;
    let spoke = world.namespace("spoke-a")?;
    let rules = spoke.run("nft", ["list", "table", "inet", "operators"])?;
    ensure!(rules.contains("tcp dport 8080"), "{rules}");
    let routes = spoke.run("ip", ["route"])?;
    ensure!(routes.contains("192.0.2.200 via 10.1.0.1"), "{routes}");
    Ok(())
}

pub(crate) fn a_rule_that_somebody_removed_comes_back() -> Result<()> {
    let world = deployment::demo()?;
    let public = public_address(&world, "spoke-a")?;
    sees(&world, "host-a", WEB, public)?;
    let spoke = world.namespace("spoke-a")?;
    let tables = spoke.run("nft", ["list", "tables"])?;
    let table = tables
        .lines()
        .find(|line| line.ends_with(" privnet"))
        .with_context(|| format!("no table privnet in {tables}"))?;
    spoke.nft(&format!("delete {table}\n"))?;
    world
        .daemon("spoke-a")?
        .process
        .signal(nix::sys::signal::Signal::SIGHUP)?;
    sees(&world, "host-a", WEB, public)
}

pub(crate) fn inside_the_privnet_nothing_is_translated() -> Result<()> {
    let world = deployment::demo()?;
    wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;
    deployment::reach_each_other(&world, "host-a", "host-b")?;
    let host_a = world.host("host-a")?.instance.address;
    // Also for what the far side begins, and to the secondary CIDR.
    deployment::sees(
        &world,
        "host-b2",
        host_a,
        world.host("host-b2")?.instance.address,
    )?;
    // And inside the own VPC.
    let b2 = world.host("host-b2")?.instance.address;
    deployment::sees(&world, "host-b", b2, world.host("host-b")?.instance.address)
}

/// On spoke-b: its own port 8080 leads to host-b2 for callers that spoke-a's
/// address stands for and for the VPC's primary CIDR; web traffic of the VPC gets
/// host-b's web server instead of the internet's.
const FORWARD_AND_REDIRECT: &str = r#"
[[nat.forward]]
proto = "tcp"
port = 8080
to = "10.20.1.10:80"
from = ["198.51.100.11/32", "10.2.0.0/16"]

[[nat.forward]]
proto = "tcp"
port = 8081
to = "10.9.9.9:80"
from = ["0.0.0.0/0"]

[[nat.redirect]]
proto = "tcp"
port = 80
to = "10.2.1.10:80"
"#;

pub(crate) fn a_forward_and_a_redirect_lead_through_the_spoke() -> Result<()> {
    let mut world = World::build(&privnet_tests::topology::demo())?;
    deployment::start_spokes(&mut world)?;
    let public_a = public_address(&world, "spoke-a")?;
    let public_b = public_address(&world, "spoke-b")?;
    let spoke_b = world.host("spoke-b")?.instance.address;
    // Without the config nobody answers there, and the web is the web.
    let forwarded = format!("http://{public_b}:8080/");
    let inside = format!("http://{spoke_b}:8080/");
    ensure!(world.namespace("host-a")?.fetch(&forwarded).is_err());
    sees(&world, "host-b2", WEB, public_b)?;

    let config = privnet_tests::daemon::config_file(world.host("spoke-b")?);
    let text = std::fs::read_to_string(&config)?;
    let good = text + FORWARD_AND_REDIRECT;
    std::fs::write(&config, &good)?;
    let spoke = world.daemon("spoke-b")?;
    spoke.process.signal(nix::sys::signal::Signal::SIGHUP)?;
    let status = wait_until("the spoke to take its config", PATIENCE, || {
        let status = spoke.status()?;
        let taken = status
            .nat
            .as_ref()
            .is_some_and(|nat| nat.active && nat.forwards.len() == 2 && nat.redirects.len() == 1);
        let told = status
            .problems
            .iter()
            .any(|it| it.contains("10.9.9.9 is not in this VPC"));
        Ok((taken && told).then_some(status))
    })?;
    ensure!(status.problems.len() == 1, "{:?}", status.problems);

    let fetch = |from: &str, url: &str| world.namespace(from)?.fetch(url);
    // Who is let in is seen as itself, also by the answer's way back.
    ensure!(fetch("host-a", &forwarded)? == public_a.to_string());
    ensure!(fetch("host-hub", &forwarded).is_err());
    ensure!(fetch("host-a", &forwarded.replace("8080", "8081")).is_err());
    // From inside, by the public and the private address.
    for url in [&forwarded, &inside] {
        ensure!(fetch("host-b", url)? == spoke_b.to_string());
        ensure!(fetch("host-b2", url).is_err(), "10.20.0.0/16 is no caller");
    }
    // host-b is the proxy: it sees the spoke, and its own traffic goes out.
    sees(&world, "host-b2", WEB, spoke_b)?;
    sees(&world, "host-b", WEB, public_b)?;
    let daemon = world.daemon("spoke-b")?;
    let connections = wait_until("figures of connection tracking", PATIENCE, || {
        Ok(daemon.status()?.nat.and_then(|nat| nat.connections))
    })?;
    ensure!(connections.tracked > 0 && connections.limit >= connections.tracked);

    // What is wrong is named, and what there was goes on.
    for (wrong, told) in [
        (
            "port = 8090\n",
            "nat.forward[2].from: missing; expected a list of at least one",
        ),
        (
            "port = '8000-8100'\nfrom = ['198.51.100.0/24']\n",
            "nat.forward[2]: shares tcp ports with the forward in line",
        ),
    ] {
        let forward = "\n[[nat.forward]]\nproto = \"tcp\"\nto = \"10.20.1.10:80\"\n";
        std::fs::write(&config, format!("{good}{forward}{wrong}"))?;
        daemon.process.signal(nix::sys::signal::Signal::SIGHUP)?;
        wait_until("the spoke to name what is wrong", PATIENCE, || {
            let log = daemon.process.log();
            let line = log.lines().rfind(|line| line.contains(told));
            let stays = line.is_some_and(|line| line.contains("the one before stays in force"));
            ensure!(stays, "{log}");
            Ok(Some(()))
        })?;
        let nat = daemon.status()?.nat.context("no NAT")?;
        ensure!(nat.active && nat.forwards.len() == 2, "{nat:?}");
        ensure!(fetch("host-a", &forwarded)? == public_a.to_string());
        sees(&world, "host-b2", WEB, spoke_b)?;
    }
    std::fs::write(&config, &good)?;

    // A daemon that is gone leaves all that in place.
    world.crash("spoke-b")?;
    let fetch = |from: &str, url: &str| world.namespace(from)?.fetch(url);
    ensure!(fetch("host-a", &forwarded)? == public_a.to_string());
    sees(&world, "host-b2", WEB, spoke_b)
}

/// None of those that hosts commonly call from.
const PORTS: RangeInclusive<u16> = 20_000..=20_099;
/// Connections of each protocol: few enough that each finds a port of its own.
const CONNECTIONS: usize = 40;

pub(crate) fn a_server_sees_no_source_ports_but_the_configured_ones() -> Result<()> {
    let mut world = World::build(&privnet_tests::topology::demo())?;
    deployment::start_spokes(&mut world)?;
    let public = public_address(&world, "spoke-a")?;
    sees(&world, "host-a", WEB, public)?;
    let mut server = Server::start(&world)?;

    // As the clients have them, from 32768 on, as long as nothing is configured.
    let ports = server.sees_ports(&world, "host-a")?;
    ensure!(ports.iter().all(|port| !PORTS.contains(port)), "{ports:?}");

    let config = privnet_tests::daemon::config_file(world.host("spoke-a")?);
    let text = std::fs::read_to_string(&config)?;
    let (first, last) = (*PORTS.start(), *PORTS.end());
    std::fs::write(&config, format!("{text}ports = \"{first}-{last}\"\n"))?;
    let range = format!("masquerade to :{first}-{last}");
    reload(&world, "spoke-a", &[("", range.as_str())])?;
    let ports = server.sees_ports(&world, "host-a")?;
    ensure!(ports.iter().all(|port| PORTS.contains(port)), "{ports:?}");
    sees(&world, "host-a", WEB, public)
}

/// Two hosts behind spoke-b, and then the other way round.
pub(crate) fn a_server_tells_the_hosts_apart_by_their_source_ports() -> Result<()> {
    const OTHERS: RangeInclusive<u16> = 21_000..=21_099;
    let mut world = World::build(&privnet_tests::topology::demo())?;
    deployment::start_spokes(&mut world)?;
    let public = public_address(&world, "spoke-b")?;
    let hosts = ["host-b", "host-b2"];
    for host in hosts {
        sees(&world, host, WEB, public)?;
    }
    let mut server = Server::start(&world)?;
    let config = privnet_tests::daemon::config_file(world.host("spoke-b")?);
    let text = std::fs::read_to_string(&config)?;
    let words = |range: &RangeInclusive<u16>| format!("{}-{}", range.start(), range.end());
    for ranges in [[PORTS, OTHERS], [OTHERS, PORTS]] {
        let [b, b2] = ranges.each_ref().map(words);
        // The wider one that host-b2 is in as well is not its own.
        let lines = format!(
            "ports = \"23000-23099\"\n\
             [[nat.source_ports]]\nfrom = \"10.2.0.0/16\"\nports = \"{b}\"\n\
             [[nat.source_ports]]\nfrom = \"10.20.0.0/16\"\nports = \"22000-22099\"\n\
             [[nat.source_ports]]\nfrom = \"10.20.1.10\"\nports = \"{b2}\"\n"
        );
        std::fs::write(&config, format!("{text}{lines}"))?;
        let rules = [
            ("ip saddr 10.2.0.0/16 ", format!("masquerade to :{b}")),
            ("ip saddr 10.20.1.10 ", format!("masquerade to :{b2}")),
        ];
        let rules = rules.each_ref().map(|(who, what)| (*who, what.as_str()));
        reload(&world, "spoke-b", &rules)?;
        for (host, range) in hosts.iter().zip(&ranges) {
            let ports = server.sees_ports(&world, host)?;
            ensure!(
                ports.iter().all(|port| range.contains(port)),
                "{host} has {ports:?} instead of {range:?}"
            );
            // Also what has no ports.
            let ping = ["-n", "-c", "1", "-W", "5", &WEB.to_string()];
            world.namespace(host)?.run("ping", ping)?;
        }
    }
    let status = world.daemon("spoke-b")?.status()?;
    let nobodys = status.problems.iter().find(|it| it.contains("nobody has"));
    ensure!(nobodys.is_none(), "{nobodys:?}");
    Ok(())
}

/// Has a spoke read its config again, until each of `rules` is there: by what it holds and
/// by its end.
fn reload(world: &World, spoke: &str, rules: &[(&str, &str)]) -> Result<()> {
    let daemon = world.daemon(spoke)?;
    daemon.process.signal(nix::sys::signal::Signal::SIGHUP)?;
    wait_until("the rules to be as configured", PATIENCE, || {
        let list = ["list", "table", "inet", "privnet"];
        let listing = world.namespace(spoke)?.run("nft", list)?;
        for (who, what) in rules {
            let is_it = |line: &str| line.contains(who) && line.ends_with(what);
            ensure!(
                listing.lines().any(is_it),
                "no {who:?} … {what:?} in {listing}"
            );
        }
        Ok(Some(()))
    })
}

/// A server on the internet that notes from which ports it is called.
struct Server {
    tcp: TcpListener,
    udp: UdpSocket,
    /// Of the clients. NAT remembers UDP for a while, so no other is to have their ports.
    sockets: Vec<UdpSocket>,
}

impl Server {
    fn start(world: &World) -> Result<Self> {
        const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(WEB), 7000);
        let (tcp, udp) = world.web.enter(|| {
            let udp = UdpSocket::bind(ADDRESS)?;
            udp.set_read_timeout(Some(PATIENCE))?;
            Ok((TcpListener::bind(ADDRESS)?, udp))
        })?;
        let sockets = Vec::new();
        Ok(Self { tcp, udp, sockets })
    }

    /// The source ports of new connections of a host's, all of which are open at once.
    fn sees_ports(&mut self, world: &World, host: &str) -> Result<BTreeSet<u16>> {
        let (server, host) = (self.tcp.local_addr()?, world.host(host)?);
        let mut ports = BTreeSet::new();
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            let connect = || Ok(TcpStream::connect_timeout(&server, PATIENCE)?);
            let client = host.namespace.enter(connect)?;
            let (accepted, from) = self.tcp.accept()?;
            ports.insert(from.port());
            open.push((client, accepted));
        }
        ensure!(ports.len() == CONNECTIONS, "a port twice: {ports:?}");
        let own = SocketAddr::from((host.instance.address, 0));
        let mut datagrams = BTreeSet::new();
        for _ in 0..CONNECTIONS {
            let socket = host.namespace.enter(|| Ok(UdpSocket::bind(own)?))?;
            socket.send_to(b"hello", server)?;
            let (_, from) = self.udp.recv_from(&mut [0; 16])?;
            datagrams.insert(from.port());
            self.sockets.push(socket);
        }
        ensure!(
            datagrams.len() == CONNECTIONS,
            "a port twice: {datagrams:?}"
        );
        ports.append(&mut datagrams);
        Ok(ports)
    }
}
