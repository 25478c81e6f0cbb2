//! The data plane (`privnet-wg`) against wireguard-go, each in both roles.
//!
//! ```text
//!   ours  privnet-wg                            wireguard-go  theirs
//!   wg0   10.99.0.1  fd99::1        10.99.0.2  fd99::2           wg0
//!   wire  192.0.2.1 ─────────────────────────────── 192.0.2.2   wire
//!         2001:db8::1                         2001:db8::2
//! ```

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use privnet_model::key::PrivateKey;
use privnet_tests::namespace::Namespace;
use privnet_tests::process::{Process, wait_until};
use privnet_tests::programs;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn handshakes_and_traffic_when_we_call() -> Result<()> {
    let pair = Pair::start()?;
    pair.ours
        .add_peer(&pair.theirs, &["endpoint", "192.0.2.2:51820"])?;
    pair.theirs.add_peer(&pair.ours, &[])?;
    pair.carries_everything()
}

pub(crate) fn handshakes_and_traffic_when_they_call() -> Result<()> {
    let pair = Pair::start()?;
    pair.ours.add_peer(&pair.theirs, &[])?;
    pair.theirs
        .add_peer(&pair.ours, &["endpoint", "192.0.2.1:51820"])?;
    // Who calls must send first.
    pair.theirs.reaches(&pair.ours)?;
    pair.carries_everything()
}

pub(crate) fn handshakes_and_traffic_over_ipv6() -> Result<()> {
    let pair = Pair::start()?;
    pair.ours
        .add_peer(&pair.theirs, &["endpoint", "[2001:db8::2]:51820"])?;
    pair.theirs
        .add_peer(&pair.ours, &["endpoint", "[2001:db8::1]:51820"])?;
    pair.carries_everything()
}

pub(crate) fn traffic_goes_on_without_loss_across_several_rekeys() -> Result<()> {
    let pair = Pair::start()?;
    pair.ours
        .add_peer(&pair.theirs, &["endpoint", "192.0.2.2:51820"])?;
    pair.theirs
        .add_peer(&pair.ours, &["endpoint", "192.0.2.1:51820"])?;
    pair.ours.reaches(&pair.theirs)?;
    // Sessions are renewed every 120 s: within 270 s at least twice.
    let length = Duration::from_secs(270);
    let pings = [&pair.ours, &pair.theirs].map(|from| {
        let to = if from.address == OURS { THEIRS } else { OURS };
        let count = (length.as_secs() * 10).to_string();
        let arguments = ["-n", "-q", "-i", "0.1", "-c", &count, to];
        from.namespace.start("ping", "ping", arguments)
    });
    let start = Instant::now();
    let mut handshakes = BTreeSet::new();
    wait_until("the rekeys", length + PATIENCE, || {
        handshakes.insert(pair.ours.latest_handshake()?);
        Ok((start.elapsed() > length).then_some(()))
    })?;
    for ping in pings {
        let mut ping = ping?;
        ping.wait(PATIENCE)?;
        let log = ping.log();
        ensure!(log.contains(" 0% packet loss"), "{log}");
    }
    ensure!(handshakes.len() >= 3, "handshakes seen: {handshakes:?}");
    println!(
        "{} handshakes, no ping lost in {} s",
        handshakes.len(),
        length.as_secs()
    );
    Ok(())
}

pub(crate) fn both_follow_a_peer_to_its_new_address() -> Result<()> {
    let pair = Pair::start()?;
    pair.ours
        .add_peer(&pair.theirs, &["endpoint", "192.0.2.2:51820"])?;
    pair.theirs
        .add_peer(&pair.ours, &["endpoint", "192.0.2.1:51820"])?;
    pair.ours.reaches(&pair.theirs)?;

    pair.theirs.namespace.ip(&[
        "addr del 192.0.2.2/24 dev wire",
        "addr add 192.0.2.22/24 dev wire",
    ])?;
    pair.theirs.reaches(&pair.ours)?;
    pair.ours.reaches(&pair.theirs)?;
    let endpoint = pair.ours.show("endpoints")?;
    ensure!(
        endpoint == "192.0.2.22:51820",
        "we still send to {endpoint}"
    );

    pair.ours.namespace.ip(&[
        "addr del 192.0.2.1/24 dev wire",
        "addr add 192.0.2.11/24 dev wire",
    ])?;
    pair.ours.reaches(&pair.theirs)?;
    pair.theirs.reaches(&pair.ours)?;
    let endpoint = pair.theirs.show("endpoints")?;
    ensure!(
        endpoint == "192.0.2.11:51820",
        "they still send to {endpoint}"
    );
    Ok(())
}

pub(crate) fn an_idle_tunnel_is_kept_alive_by_either_side() -> Result<()> {
    let pair = Pair::start()?;
    let keepalive = ["persistent-keepalive", "1"];
    pair.ours.add_peer(
        &pair.theirs,
        &[&["endpoint", "192.0.2.2:51820"], &keepalive[..]].concat(),
    )?;
    pair.theirs.add_peer(&pair.ours, &keepalive)?;
    // Nothing is sent into the tunnel: the keepalive itself brings it up.
    wait_until("a handshake", PATIENCE, || pair.ours.has_handshake())?;
    for side in [&pair.ours, &pair.theirs] {
        let before = side.received_bytes()?;
        wait_until("keepalives to arrive", PATIENCE, || {
            // Each is 32 bytes long.
            Ok((side.received_bytes()? >= before + 96).then_some(()))
        })?;
    }
    Ok(())
}

pub(crate) fn a_preshared_key_must_be_the_same_on_both_sides() -> Result<()> {
    let pair = Pair::start()?;
    let right = pair.ours.secret("psk", [9; 32])?;
    let wrong = pair.ours.secret("wrong-psk", [8; 32])?;
    let (right, wrong) = (path(&right)?, path(&wrong)?);
    pair.ours.add_peer(
        &pair.theirs,
        &["endpoint", "192.0.2.2:51820", "preshared-key", wrong],
    )?;
    pair.theirs
        .add_peer(&pair.ours, &["preshared-key", right])?;
    ensure!(pair.ours.namespace.ping(THEIRS, 3)? == 0);
    ensure!(pair.ours.has_handshake()?.is_none());
    pair.ours
        .add_peer(&pair.theirs, &["preshared-key", right])?;
    pair.carries_everything()
}

pub(crate) fn a_packet_from_an_address_that_is_not_the_peers_is_dropped() -> Result<()> {
    let pair = Pair::start()?;
    pair.ours
        .add_peer(&pair.theirs, &["endpoint", "192.0.2.2:51820"])?;
    pair.theirs.add_peer(&pair.ours, &[])?;
    pair.ours.reaches(&pair.theirs)?;
    pair.theirs
        .namespace
        .ip(&["addr add 10.99.0.66/32 dev lo"])?;
    pair.ours
        .namespace
        .ip(&["route add 10.99.0.66/32 dev wg0"])?;
    pair.ours.namespace.nft(
        "table ip count {
    counter forged { }
    chain input {
        type filter hook input priority filter
        ip saddr 10.99.0.66 counter name forged
    }
}
",
    )?;
    let forged = [
        "-n",
        "-q",
        "-c",
        "3",
        "-i",
        "0.05",
        "-W",
        "1",
        "-I",
        "10.99.0.66",
        OURS,
    ];
    pair.theirs
        .namespace
        .command("ping")
        .args(forged)
        .output()?;
    let counter = pair
        .ours
        .namespace
        .run("nft", ["list", "counter", "ip", "count", "forged"])?;
    ensure!(counter.contains("packets 0 "), "{counter}");
    pair.ours.reaches(&pair.theirs)
}

pub(crate) fn garbage_at_the_port_is_dropped_and_harms_nothing() -> Result<()> {
    let mut pair = Pair::start()?;
    pair.ours
        .add_peer(&pair.theirs, &["endpoint", "192.0.2.2:51820"])?;
    pair.theirs.add_peer(&pair.ours, &[])?;
    pair.ours.reaches(&pair.theirs)?;
    // Random bytes of every length that a message has, and around; then with a type in front.
    let script = r"
        for type in '' '\001\000\000\000' '\002\000\000\000' '\003\000\000\000' '\004\000\000\000'; do
            for length in 0 1 4 16 28 31 32 33 60 64 88 92 93 144 148 149 1400 9000; do
                { printf $type; head -c $length /dev/urandom; } | dd bs=65536 iflag=fullblock status=none >/dev/udp/192.0.2.1/51820
            done
        done";
    pair.theirs.namespace.run("bash", ["-c", script])?;
    pair.ours.process.check()?;
    pair.carries_everything()
}

pub(crate) fn a_peer_that_is_removed_is_cut_off_at_once() -> Result<()> {
    let pair = Pair::start()?;
    pair.ours
        .add_peer(&pair.theirs, &["endpoint", "192.0.2.2:51820"])?;
    pair.theirs.add_peer(&pair.ours, &[])?;
    pair.ours.reaches(&pair.theirs)?;
    pair.ours
        .wg(&["peer", &pair.theirs.public_key(), "remove"])?;
    ensure!(
        pair.ours
            .namespace
            .run("wg", ["show", "wg0", "peers"])?
            .is_empty()
    );
    ensure!(pair.theirs.namespace.ping(OURS, 3)? == 0);
    Ok(())
}

pub(crate) fn the_program_ends_when_its_interface_is_deleted() -> Result<()> {
    let mut pair = Pair::start()?;
    pair.ours.namespace.ip(&["link del wg0"])?;
    pair.ours.process.wait(PATIENCE)?;
    ensure!(!pair.ours.socket().exists(), "its socket is still there");
    Ok(())
}

const OURS: &str = "10.99.0.1";
const THEIRS: &str = "10.99.0.2";

/// Our data plane and wireguard-go, linked, with keys, without peers.
struct Pair {
    ours: Side,
    theirs: Side,
}

struct Side {
    process: Process,
    namespace: Namespace,
    key: PrivateKey,
    address: &'static str,
    networks: &'static str,
}

impl Pair {
    fn start() -> Result<Self> {
        programs::require_tools(&["wg", "wireguard-go", "ping", "bash"])?;
        let ours = Namespace::add("ours")?;
        let theirs = Namespace::add("theirs")?;
        ours.link("wire", &theirs, "wire", 1500)?;
        let own = programs::ours("privnet-wg")?;
        let pair = Self {
            ours: Side::start(ours, 1, own)?,
            theirs: Side::start(theirs, 2, "wireguard-go".into())?,
        };
        Ok(pair)
    }

    fn carries_everything(&self) -> Result<()> {
        for (from, to) in [(&self.ours, &self.theirs), (&self.theirs, &self.ours)] {
            from.reaches(to)?;
            let number = if to.address == OURS { 1 } else { 2 };
            for address in [to.address.to_owned(), format!("fd99::{number}")] {
                let answered = from.namespace.ping(&address, 100)?;
                ensure!(
                    answered == 100,
                    "{answered} of 100 pings to {address} answered"
                );
            }
            let large = [
                "-n", "-q", "-c", "5", "-i", "0.05", "-W", "1", "-s", "8000", to.address,
            ];
            from.namespace.run("ping", large)?;
            ensure!(from.has_handshake()?.is_some());
        }
        Ok(())
    }
}

impl Side {
    fn start(namespace: Namespace, number: u8, program: PathBuf) -> Result<Self> {
        namespace.ip(&[
            format!("addr add 192.0.2.{number}/24 dev wire"),
            format!("addr add 2001:db8::{number}/64 dev wire nodad"),
        ])?;
        let process = namespace.start("wg", program, ["-f", "wg0"])?;
        let mut side = Self {
            process,
            namespace,
            key: PrivateKey::from_random([number; 32]),
            address: if number == 1 { OURS } else { THEIRS },
            networks: if number == 1 {
                "10.99.0.1/32,fd99::1/128"
            } else {
                "10.99.0.2/32,fd99::2/128"
            },
        };
        wait_until("the WireGuard socket", PATIENCE, || {
            side.process.check()?;
            Ok(side.socket().exists().then_some(()))
        })?;
        let file = side.secret("key", *side.key.as_bytes())?;
        side.wg(&["private-key", path(&file)?, "listen-port", "51820"])?;
        side.namespace.ip(&[
            format!("addr add {}/24 dev wg0", side.address),
            format!("addr add fd99::{number}/64 dev wg0 nodad"),
            "link set wg0 up".to_owned(),
        ])?;
        Ok(side)
    }

    fn socket(&self) -> PathBuf {
        self.namespace.directory().join("wireguard/wg0.sock")
    }

    fn public_key(&self) -> String {
        self.key.public().to_string()
    }

    /// A file with 32 bytes as `wg` reads them.
    fn secret(&self, name: &str, bytes: [u8; 32]) -> Result<PathBuf> {
        let file = self.namespace.directory().join(name);
        std::fs::write(&file, PrivateKey::from_random(bytes).to_base64().as_str())?;
        std::fs::set_permissions(&file, Permissions::from_mode(0o600))?;
        Ok(file)
    }

    fn wg(&self, arguments: &[&str]) -> Result<()> {
        let all = ["set", "wg0"].iter().chain(arguments);
        self.namespace.run("wg", all).map(drop)
    }

    fn add_peer(&self, peer: &Self, more: &[&str]) -> Result<()> {
        let key = peer.public_key();
        let basic = ["peer", &key, "allowed-ips", peer.networks];
        self.wg(&[&basic, more].concat())
    }

    /// What `wg show wg0 WHAT` tells of the only peer.
    fn show(&self, what: &str) -> Result<String> {
        let text = self.namespace.run("wg", ["show", "wg0", what])?;
        let (_, value) = text.trim().split_once('\t').context("no peer")?;
        Ok(value.to_owned())
    }

    fn latest_handshake(&self) -> Result<u64> {
        Ok(self.show("latest-handshakes")?.parse()?)
    }

    fn has_handshake(&self) -> Result<Option<()>> {
        Ok((self.latest_handshake()? != 0).then_some(()))
    }

    fn received_bytes(&self) -> Result<u64> {
        let transfer = self.show("transfer")?;
        let received = transfer.split('\t').next().unwrap_or_default();
        Ok(received.parse()?)
    }

    /// Waits until a ping is answered: the first may be lost to the handshake.
    fn reaches(&self, other: &Self) -> Result<()> {
        wait_until(&format!("a ping to {}", other.address), PATIENCE, || {
            if self.namespace.ping(other.address, 1)? == 1 {
                return Ok(Some(()));
            }
            bail!("no answer\n{}", self.process.log_tail(10))
        })
    }
}

fn path(file: &std::path::Path) -> Result<&str> {
    file.to_str().context("not a text")
}
