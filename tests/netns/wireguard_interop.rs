//! The data plane (`privnet-wg`) against wireguard-go, each in both roles: the
//! pair drawn at `wireguard_pair`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use privnet_tests::process::wait_until;

use crate::wireguard_pair::{OURS, PATIENCE, Pair, THEIRS, path};

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
