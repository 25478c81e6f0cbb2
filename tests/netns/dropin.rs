//! `privnet-wg` where another WireGuard was: whatever may happen to an interface
//! while it carries traffic. On the pair drawn at `wireguard_pair`, with more
//! where a test says so. Two workers, since more of them must not show.

use anyhow::{Context, Result, ensure};
use privnet_tests::namespace::Namespace;
use privnet_tests::process::{Process, wait_until};
use privnet_tests::programs;

use crate::wireguard_pair::{OURS, PATIENCE, Pair, Program, Side, THEIRS, path};

const PRIVNET_WG: Program = Program::PrivnetWg { workers: 2 };

/// The MTU that wireguard-go, too, allows at most: two of them fit into 65,535
/// with all headers.
const LARGEST_MTU: u32 = 34_736;

fn pair() -> Result<Pair> {
    Pair::of(PRIVNET_WG, Program::WireguardGo, 1500)
}

pub(crate) fn another_listen_port_takes_the_peers_along() -> Result<()> {
    let pair = pair()?;
    pair.introduce()?;
    for port in ["51999", "52000"] {
        pair.ours.wg(&["listen-port", port])?;
        // We send nothing of our own accord but the word of the new port.
        pair.theirs.reaches(&pair.ours)?;
        let endpoint = pair.theirs.show("endpoints")?;
        ensure!(endpoint == format!("192.0.2.1:{port}"), "{endpoint}");
        let sockets = pair.ours.namespace.run("ss", ["-Huln"])?;
        ensure!(
            sockets
                .lines()
                .all(|line| line.contains(&format!(":{port} "))),
            "a port stayed open:\n{sockets}"
        );
    }
    pair.carries_everything()
}

pub(crate) fn a_port_that_is_taken_is_refused_and_the_old_one_stays() -> Result<()> {
    let pair = pair()?;
    pair.introduce()?;
    let holder = &pair.ours.namespace;
    let taken = holder.enter(|| Ok(std::net::UdpSocket::bind("0.0.0.0:52001")?))?;
    let refused = pair.ours.wg(&["listen-port", "52001"]);
    let error = format!("{:#}", refused.err().context("it was not refused")?);
    ensure!(error.contains("Address already in use"), "{error}");
    ensure!(
        pair.ours
            .namespace
            .run("wg", ["show", "wg0", "listen-port"])?
            .trim()
            == "51820"
    );
    pair.theirs.reaches(&pair.ours)?;
    drop(taken);
    pair.ours.wg(&["listen-port", "52001"])?;
    pair.theirs.reaches(&pair.ours)
}

pub(crate) fn peers_endpoints_keepalives_and_allowed_ips_change_without_a_lost_packet() -> Result<()>
{
    let pair = pair()?;
    pair.theirs.namespace.ip(&[
        "addr add 192.0.2.22/24 dev wire",
        "addr add 10.77.0.2/32 dev lo",
    ])?;
    pair.ours
        .namespace
        .ip(&["route add 10.77.0.0/16 dev wg0"])?;
    pair.introduce()?;
    let pings = [
        pair.ours.keeps_pinging(&pair.theirs)?,
        pair.theirs.keeps_pinging(&pair.ours)?,
    ];
    for round in 0..10_u8 {
        for other in 0..20_u8 {
            let key = privnet_model::key::PrivateKey::from_random([100 + other; 32]).public();
            let network = format!("10.88.{other}.0/24,fd88:{other}::/32");
            let endpoint = format!("192.0.2.{}:51820", 100 + other);
            let key = key.to_string();
            let change: &[&str] = match (round + other) % 3 {
                0 => &["allowed-ips", &network],
                1 => &["endpoint", &endpoint, "persistent-keepalive", "1"],
                _ => &["remove"],
            };
            pair.ours.wg(&[&["peer", &key], change].concat())?;
        }
        let more = format!("{},10.77.0.0/16", pair.theirs.networks);
        let endpoint = ["192.0.2.2:51820", "192.0.2.22:51820"][usize::from(round % 2)];
        let keepalive = (round % 3).to_string();
        let theirs = &pair.theirs;
        pair.ours.set_peer(theirs, &["allowed-ips", &more])?;
        pair.ours.set_peer(theirs, &["endpoint", endpoint])?;
        pair.ours
            .set_peer(theirs, &["persistent-keepalive", &keepalive])?;
        pair.ours.reaches_address("10.77.0.2")?;
        pair.ours
            .set_peer(theirs, &["allowed-ips", &theirs.networks])?;
        pair.ours.is_cut_off_from("10.77.0.2")?;
    }
    for ping in pings {
        ping.has_lost_nothing()?;
    }
    Ok(())
}

pub(crate) fn a_preshared_key_comes_changes_and_goes() -> Result<()> {
    let pair = pair()?;
    pair.introduce()?;
    let keys = [[9; 32], [8; 32]];
    for (number, key) in keys.into_iter().enumerate() {
        let name = format!("psk{number}");
        let [ours, theirs] = [
            pair.ours.secret(&name, key)?,
            pair.theirs.secret(&name, key)?,
        ];
        pair.ours
            .set_peer(&pair.theirs, &["preshared-key", path(&ours)?])?;
        // Their sessions go on with the old key until they learn of the new one.
        pair.ours.is_cut_off_from(THEIRS)?;
        pair.theirs
            .set_peer(&pair.ours, &["preshared-key", path(&theirs)?])?;
        pair.ours.reaches(&pair.theirs)?;
        pair.theirs.reaches(&pair.ours)?;
    }
    for side in [&pair.ours, &pair.theirs] {
        let other = if std::ptr::eq(side, &pair.ours) {
            &pair.theirs
        } else {
            &pair.ours
        };
        side.set_peer(other, &["preshared-key", "/dev/null"])?;
        ensure!(side.show("preshared-keys")? == "(none)");
    }
    pair.ours.reaches(&pair.theirs)?;
    pair.theirs.reaches(&pair.ours)
}

pub(crate) fn another_private_key_is_another_peer() -> Result<()> {
    let mut pair = pair()?;
    pair.introduce()?;
    let file = pair.ours.secret("other-key", [77; 32])?;
    pair.ours.wg(&["private-key", path(&file)?])?;
    pair.ours.is_cut_off_from(THEIRS)?;
    pair.theirs.set_peer(&pair.ours, &["remove"])?;
    pair.ours.key = privnet_model::key::PrivateKey::from_random([77; 32]);
    pair.theirs.add_peer(&pair.ours, &[])?;
    pair.ours.reaches(&pair.theirs)?;
    pair.carries_everything()
}

pub(crate) fn the_firewall_mark_is_on_what_is_sent_in_both_families() -> Result<()> {
    let pair = pair()?;
    pair.ours.namespace.nft(
        "table inet count {
    counter marked { }
    counter plain { }
    chain output {
        type filter hook output priority filter
        udp sport 51820 meta mark 0x4242 counter name marked
        udp sport 51820 meta mark 0 counter name plain
    }
}
",
    )?;
    let count = |counter: &str| -> Result<u64> {
        let text = pair
            .ours
            .namespace
            .run("nft", ["list", "counter", "inet", "count", counter])?;
        let (_, rest) = text.split_once("packets ").context("no counter")?;
        Ok(rest.split(' ').next().unwrap_or_default().parse()?)
    };
    pair.introduce()?;
    for endpoint in ["192.0.2.2:51820", "[2001:db8::2]:51820"] {
        pair.ours.set_peer(&pair.theirs, &["endpoint", endpoint])?;
        for (mark, counter, shown) in [("0x4242", "marked", "0x4242"), ("off", "plain", "off")] {
            pair.ours.wg(&["fwmark", mark])?;
            let before = count(counter)?;
            pair.ours.reaches(&pair.theirs)?;
            wait_until("marked packets", PATIENCE, || {
                ensure!(pair.ours.namespace.ping(THEIRS, 1)? == 1);
                Ok((count(counter)? > before).then_some(()))
            })?;
            let said = pair.ours.namespace.run("wg", ["show", "wg0", "fwmark"])?;
            ensure!(said.trim() == shown, "{said}");
        }
    }
    Ok(())
}

/// A third host hangs on a wire of its own:
///
/// ```text
///   theirs  192.0.2.2 ─── wire   ours  wire2 ─── 192.0.2.3  others
///   10.0.0.0/8, 10.50.1.0/24             10.50.0.0/16, 10.50.1.1/32
/// ```
pub(crate) fn the_most_specific_allowed_ips_win() -> Result<()> {
    let pair = pair()?;
    let others = Namespace::add("others")?;
    pair.ours.namespace.link("wire2", &others, "wire", 1500)?;
    pair.ours
        .namespace
        .ip(&["route add 192.0.2.3/32 dev wire2"])?;
    let others = Side::start(others, 3, Program::WireguardGo)?;
    // Each address is on both: who answers is who got the packet.
    for side in [&pair.theirs, &others] {
        let mut commands = vec!["route add 10.99.0.1/32 dev wg0".to_owned()];
        for address in [
            "10.1.0.1/32",
            "10.50.0.1/32",
            "10.50.1.1/32",
            "10.50.1.2/32",
            "fd50::1/128",
            "fd50:1::1/128",
        ] {
            commands.push(format!("addr add {address} dev lo"));
        }
        side.namespace.ip(&commands)?;
        side.namespace.nft(
            "table inet count {
    chain input {
        type filter hook input priority filter
        iifname wg0 ip daddr 10.0.0.0/8 counter
        iifname wg0 ip6 daddr fd50::/15 counter
    }
}
",
        )?;
    }
    pair.ours.namespace.ip(&[
        "route add 10.0.0.0/8 dev wg0",
        "route add fd50::/15 dev wg0",
    ])?;
    let [to_theirs, to_others] = [
        format!("{},10.0.0.0/8,10.50.1.0/24,fd50::/15", pair.theirs.networks),
        format!("{},10.50.0.0/16,10.50.1.1/32,fd50:1::/32", others.networks),
    ];
    pair.introduce()?;
    pair.ours
        .set_peer(&pair.theirs, &["allowed-ips", &to_theirs])?;
    pair.ours.wg(&[
        "peer",
        &others.public_key(),
        "endpoint",
        "192.0.2.3:51820",
        "allowed-ips",
        &to_others,
    ])?;
    others.add_peer(&pair.ours, &[])?;
    pair.ours.reaches(&others)?;

    let goes_to = |address: &str, side: &Side| -> Result<()> {
        let received = |side: &Side| -> Result<u64> {
            let text = side.namespace.run("nft", ["list", "ruleset"])?;
            Ok(text
                .split("packets ")
                .skip(1)
                .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok())
                .sum())
        };
        let before = received(side)?;
        let answered = pair.ours.namespace.ping(address, 5)?;
        ensure!(answered == 5, "{answered} of 5 pings to {address} answered");
        let after = received(side)?;
        ensure!(
            after == before + 5,
            "{} of 5 packets to {address} went to {}",
            after - before,
            side.namespace.name()
        );
        Ok(())
    };
    goes_to("10.1.0.1", &pair.theirs)?;
    goes_to("10.50.0.1", &others)?;
    goes_to("10.50.1.2", &pair.theirs)?;
    goes_to("10.50.1.1", &others)?;
    goes_to("fd50::1", &pair.theirs)?;
    goes_to("fd50:1::1", &others)?;
    // What one loses falls to the next longer prefix, and what moves, moves whole.
    pair.ours.set_peer(
        &others,
        &["allowed-ips", &format!("{},10.50.1.0/24", others.networks)],
    )?;
    goes_to("10.50.0.1", &pair.theirs)?;
    goes_to("10.50.1.1", &others)?;
    goes_to("10.50.1.2", &others)?;
    goes_to("fd50:1::1", &pair.theirs)
}

/// The interface moves into a namespace without any other; the process, its UDP
/// sockets and its WireGuard socket stay behind.
///
/// ```text
///   inside  wg0 ┄┄┄┄ ours  privnet-wg ── wire ── theirs
/// ```
pub(crate) fn the_interface_works_in_another_namespace_while_the_sockets_stay() -> Result<()> {
    let mut pair = pair()?;
    let inside = Namespace::add("inside")?;
    pair.introduce()?;
    pair.ours.namespace.ip(&["link set wg0 netns inside"])?;
    // It comes there without addresses and down.
    inside.ip(&pair.ours.interface_commands())?;
    inside_reaches(&inside, &pair)?;
    ensure!(pair.ours.show("endpoints")? == "192.0.2.2:51820");
    pair.ours
        .set_peer(&pair.theirs, &["persistent-keepalive", "1"])?;
    ensure!(pair.ours.show("persistent-keepalive")? == "1");
    pair.ours.wg(&["listen-port", "51999"])?;
    wait_until("their answer to the new port", PATIENCE, || {
        Ok((pair.theirs.show("endpoints")? == "192.0.2.1:51999").then_some(()))
    })?;

    // Down and up again.
    inside.ip(&["link set wg0 down"])?;
    pair.theirs.is_cut_off_from(OURS)?;
    inside.ip(&["link set wg0 up"])?;
    pair.theirs.reaches(&pair.ours)?;

    // Deleted there, it ends here.
    inside.ip(&["link del wg0"])?;
    pair.ours.process.wait(PATIENCE)?;
    ensure!(!pair.ours.socket().exists(), "its socket is still there");
    Ok(())
}

pub(crate) fn the_device_ends_with_the_namespace_that_its_interface_moved_to() -> Result<()> {
    let mut pair = pair()?;
    let inside = Namespace::add("inside")?;
    pair.introduce()?;
    pair.ours.namespace.ip(&["link set wg0 netns inside"])?;
    inside.ip(&pair.ours.interface_commands())?;
    inside_reaches(&inside, &pair)?;
    drop(inside);
    pair.ours.process.wait(PATIENCE)?;
    ensure!(!pair.ours.socket().exists(), "its socket is still there");
    Ok(())
}

fn inside_reaches(inside: &Namespace, pair: &Pair) -> Result<()> {
    wait_until("a ping from inside", PATIENCE, || {
        Ok((inside.ping(THEIRS, 1)? == 1).then_some(()))
    })?;
    let answered = inside.ping(THEIRS, 50)?;
    ensure!(answered == 50, "{answered} of 50 pings answered");
    let answered = pair.theirs.namespace.ping(OURS, 50)?;
    ensure!(answered == 50, "{answered} of 50 pings answered");
    Ok(())
}

/// A packet is padded to a multiple of 16 bytes, but not beyond the MTU: so the
/// length of what is sent tells the MTU that `privnet-wg` knows of.
pub(crate) fn a_new_mtu_is_noticed_here_and_in_another_namespace() -> Result<()> {
    let pair = pair()?;
    pair.introduce()?;
    pair.ours.namespace.nft(
        "table inet count {
    counter whole { }
    chain output {
        type filter hook output priority filter
        oifname wire udp length 1445 counter name whole
    }
}
",
    )?;
    let whole = || -> Result<bool> {
        let text = pair
            .ours
            .namespace
            .run("nft", ["list", "counter", "inet", "count", "whole"])?;
        Ok(!text.contains("packets 0 "))
    };
    // 1405 bytes in all: 1445 when the MTU is 1405, with UDP's and WireGuard's
    // headers, and 1448 when it is more.
    let ping = ["-n", "-q", "-c", "1", "-W", "1", "-s", "1377", THEIRS];
    let padded_to_the_mtu = |namespace: &Namespace| {
        wait_until("a packet that is padded to the new MTU", PATIENCE, || {
            namespace.run("ping", ping)?;
            Ok(whole()?.then_some(()))
        })
    };
    pair.ours.namespace.run("ping", ping)?;
    ensure!(!whole()?, "padded as if the MTU were 1405");
    pair.ours.namespace.ip(&["link set wg0 mtu 1405"])?;
    padded_to_the_mtu(&pair.ours.namespace)?;

    let inside = Namespace::add("inside")?;
    pair.ours
        .namespace
        .ip(&["link set wg0 mtu 1420", "link set wg0 netns inside"])?;
    inside.ip(&pair.ours.interface_commands())?;
    // Another of its name is no business of ours.
    pair.ours
        .namespace
        .ip(&["link add wg0 mtu 1405 type veth peer name wg9 mtu 1405"])?;
    wait_until("packets that are padded to more", PATIENCE, || {
        pair.ours
            .namespace
            .run("nft", ["reset", "counter", "inet", "count", "whole"])?;
        inside.run("ping", ping)?;
        Ok((!whole()?).then_some(()))
    })?;
    inside.ip(&["link set wg0 down", "link set wg0 name wg7 mtu 1405 up"])?;
    padded_to_the_mtu(&inside)
}

pub(crate) fn packets_as_large_as_an_interface_can_have_cross_whole_in_both_directions()
-> Result<()> {
    for (theirs, endpoints) in [
        (PRIVNET_WG, ["192.0.2.2:51820", "192.0.2.1:51820"]),
        (PRIVNET_WG, ["[2001:db8::2]:51820", "[2001:db8::1]:51820"]),
        (Program::WireguardGo, ["192.0.2.2:51820", "192.0.2.1:51820"]),
    ] {
        let pair = Pair::of(PRIVNET_WG, theirs, 65_535)?;
        let sides = [(&pair.ours, &pair.theirs), (&pair.theirs, &pair.ours)];
        for ((side, other), endpoint) in sides.into_iter().zip(endpoints) {
            let mtu = format!("link set wg0 mtu {LARGEST_MTU}");
            side.namespace.ip(&[mtu])?;
            side.add_peer(other, &["endpoint", endpoint])?;
        }
        pair.ours.reaches(&pair.theirs)?;
        pair.theirs.reaches(&pair.ours)?;
        for (side, other) in sides {
            for size in [1_392, 16_000, LARGEST_MTU - 28] {
                let size = size.to_string();
                let ping = ["-n", "-q", "-M", "do", "-c", "5", "-i", "0.05", "-W", "2"];
                let arguments = [&ping[..], &["-s", &size, &other.address]].concat();
                let said = side.namespace.run("ping", arguments)?;
                ensure!(said.contains(" 0% packet loss"), "{size}: {said}");
            }
            serve_and_fetch(side, other)?;
        }
    }
    Ok(())
}

/// 20 MB over TCP come as they went.
fn serve_and_fetch(from: &Side, to: &Side) -> Result<()> {
    let program = programs::ours("privnet-sim")?;
    let _server: Process = from
        .namespace
        .start("web", program, ["web", "0.0.0.0:80"])?;
    let url = format!("http://{}/bytes/20000000", from.address);
    let fetch = format!("curl -sS --fail --max-time 60 {url} | sha256sum");
    wait_until("the web server", PATIENCE, || {
        from.namespace.fetch(&format!("http://{}/", from.address))?;
        Ok(Some(()))
    })?;
    let sent = from
        .namespace
        .run("bash", ["-o", "pipefail", "-c", &fetch])?;
    let received = to.namespace.run("bash", ["-o", "pipefail", "-c", &fetch])?;
    ensure!(sent == received, "sent {sent}, received {received}");
    Ok(())
}

pub(crate) fn a_deleted_interface_ends_the_device_under_load() -> Result<()> {
    for workers in [1, 2, 4] {
        let mut pair = Pair::of(Program::PrivnetWg { workers }, Program::WireguardGo, 1500)?;
        pair.introduce()?;
        let _load =
            pair.theirs
                .namespace
                .start("flood", "ping", ["-f", "-q", "-s", "1300", OURS])?;
        pair.ours.reaches(&pair.theirs)?;
        pair.ours.namespace.ip(&["link del wg0"])?;
        pair.ours.process.wait(PATIENCE)?;
        ensure!(!pair.ours.socket().exists(), "its socket is still there");
    }
    Ok(())
}

pub(crate) fn a_peer_that_roams_between_families_and_ports_is_followed() -> Result<()> {
    let pair = pair()?;
    pair.introduce()?;
    let follows = |endpoint: &str| -> Result<()> {
        pair.theirs.reaches(&pair.ours)?;
        pair.ours.reaches(&pair.theirs)?;
        let known = pair.ours.show("endpoints")?;
        ensure!(known == endpoint, "{known} instead of {endpoint}");
        Ok(())
    };
    // To IPv6, behind another port as after a NAT's rebinding, and back.
    pair.theirs
        .set_peer(&pair.ours, &["endpoint", "[2001:db8::1]:51820"])?;
    follows("[2001:db8::2]:51820")?;
    pair.theirs.wg(&["listen-port", "51822"])?;
    follows("[2001:db8::2]:51822")?;
    pair.theirs
        .set_peer(&pair.ours, &["endpoint", "192.0.2.1:51820"])?;
    follows("192.0.2.2:51822")?;
    // And we to where it was configured anew, which it then follows.
    pair.ours
        .set_peer(&pair.theirs, &["endpoint", "[2001:db8::2]:51822"])?;
    pair.ours.reaches(&pair.theirs)?;
    wait_until("them to follow", PATIENCE, || {
        pair.ours.reaches(&pair.theirs)?;
        Ok((pair.theirs.show("endpoints")? == "[2001:db8::1]:51820").then_some(()))
    })
}

pub(crate) fn a_link_local_endpoint_is_on_the_interface_that_it_names() -> Result<()> {
    let pair = pair()?;
    for (side, number) in [(&pair.ours, 1), (&pair.theirs, 2)] {
        side.namespace
            .ip(&[format!("addr add fe80::{number}/64 dev wire nodad")])?;
    }
    let endpoint = ["endpoint", "[fe80::2%wire]:51820"];
    pair.ours.add_peer(&pair.theirs, &endpoint)?;
    pair.theirs.add_peer(&pair.ours, &[])?;
    pair.ours.reaches(&pair.theirs)?;
    pair.theirs.reaches(&pair.ours)?;
    let endpoint = pair.ours.show("endpoints")?;
    ensure!(endpoint == "[fe80::2%wire]:51820", "{endpoint}");
    // The interface is not there: refused, and the old endpoint stays.
    let mut client = pair.ours.client()?;
    let request = format!(
        "set=1\npublic_key={}\nendpoint=[fe80::2%nowhere]:51820",
        pair.theirs.key.public().to_hex()
    );
    let answer = client.ask(&request)?;
    ensure!(answer == "errno=-22", "{answer}");
    pair.ours.reaches(&pair.theirs)
}

/// The peer knows us by our second address, and takes nothing from the first:
///
/// ```text
///   ours  192.0.2.1 (first), 192.0.2.101        192.0.2.2  theirs
///         2001:db8::1 (first), 2001:db8::101    2001:db8::2
/// ```
pub(crate) fn answers_come_from_the_address_that_was_asked_until_it_is_gone() -> Result<()> {
    for (first, second, prefix, remote) in [
        ("192.0.2.1", "192.0.2.101", "192.0.2.101/24", "192.0.2.2"),
        (
            "[2001:db8::1]",
            "[2001:db8::101]",
            "2001:db8::101/128",
            "[2001:db8::2]",
        ),
    ] {
        let pair = pair()?;
        // Deprecated: the kernel would choose the first for whatever does not choose.
        let add = match first.starts_with('[') {
            true => format!("addr add {prefix} dev wire nodad preferred_lft 0"),
            false => format!("addr add {prefix} dev wire"),
        };
        pair.ours.namespace.ip(&[add])?;
        let family = if first.starts_with('[') { "ip6" } else { "ip" };
        let bare = |address: &str| {
            address
                .trim_matches(|bracket| bracket == '[' || bracket == ']')
                .to_owned()
        };
        pair.theirs.namespace.nft(&format!(
            "table {family} filter {{
    chain input {{
        type filter hook input priority filter
        {family} saddr {} udp sport 51820 drop
    }}
}}
",
            bare(first)
        ))?;
        pair.ours.add_peer(&pair.theirs, &[])?;
        pair.theirs
            .add_peer(&pair.ours, &["endpoint", &format!("{second}:51820")])?;
        pair.theirs.reaches(&pair.ours)?;
        for (from, to) in [(&pair.theirs, OURS), (&pair.ours, THEIRS)] {
            let answered = from.namespace.ping(to, 20)?;
            ensure!(answered == 20, "{answered} of 20 pings to {to} answered");
        }
        let endpoint = pair.theirs.show("endpoints")?;
        ensure!(endpoint == format!("{second}:51820"), "{endpoint}");

        // The address goes, under traffic; the session goes on from the other.
        pair.theirs
            .namespace
            .nft(&format!("delete table {family} filter\n"))?;
        let load = ["-n", "-q", "-i", "0.02", THEIRS];
        let _load = pair.ours.namespace.start("load", "ping", load)?;
        pair.ours
            .namespace
            .ip(&[format!("addr del {prefix} dev wire")])?;
        wait_until("them to follow us to the first address", PATIENCE, || {
            Ok((pair.theirs.show("endpoints")? == format!("{first}:51820")).then_some(()))
        })?;
        pair.ours.reaches(&pair.theirs)?;
        pair.theirs.reaches(&pair.ours)?;
        let endpoint = pair.ours.show("endpoints")?;
        ensure!(endpoint == format!("{remote}:51820"), "{endpoint}");
    }
    Ok(())
}
