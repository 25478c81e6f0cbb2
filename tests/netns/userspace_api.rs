//! The WireGuard socket of `privnet-wg`, spoken to without `wg`: it answers as
//! wireguard-go's does, takes requests of any size, and no client is another's
//! trouble. On the pair drawn at `wireguard_pair`.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use privnet_model::key::PrivateKey;
use privnet_tests::process::wait_until;

use crate::wireguard_pair::{PATIENCE, Pair, Program, THEIRS};

/// Prefixes of one request: as many as the whole internet's routes may be.
const MANY: u32 = 130_000;

fn pair() -> Result<Pair> {
    Pair::of(
        Program::PrivnetWg { workers: 2 },
        Program::WireguardGo,
        1500,
    )
}

/// The same requests to both, in order, each on a connection of its own.
pub(crate) fn every_request_has_the_answer_and_the_effect_that_wireguard_go_gives_it() -> Result<()>
{
    let pair = pair()?;
    let [a, b, own] = [21, 22, 1].map(hex_key);
    let secret = "5".repeat(64);
    let zero = "0".repeat(64);
    let private = PrivateKey::from_random([1; 32]).to_hex().to_string();
    let other_private = PrivateKey::from_random([61; 32]).to_hex().to_string();
    let requests = [
        // The two must begin alike.
        format!("set=1\nprivate_key={private}\nlisten_port=51820"),
        format!("set=1\npublic_key={a}\nendpoint=192.0.2.9:1\nallowed_ip=10.1.2.3/16"),
        format!(
            "set=1\npublic_key={a}\nprotocol_version=1\nallowed_ip=10.2.0.0/16\nallowed_ip=fd00:1::/32"
        ),
        format!("set=1\npublic_key={b}\nallowed_ip=10.2.0.0/16\npersistent_keepalive_interval=7"),
        format!("set=1\npublic_key={b}\npreshared_key={secret}\nendpoint=[2001:db8::9]:65535"),
        format!(
            "set=1\npublic_key={b}\nreplace_allowed_ips=true\nallowed_ip=10.3.0.0/24\nallowed_ip=10.4.0.0/24"
        ),
        format!("set=1\npublic_key={b}\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0"),
        format!("set=1\npublic_key={b}\npreshared_key={zero}\npersistent_keepalive_interval=0"),
        format!("set=1\npublic_key={a}\nupdate_only=true\nallowed_ip=10.5.0.0/16"),
        format!(
            "set=1\npublic_key={}\nupdate_only=true\nallowed_ip=10.6.0.0/16",
            hex_key(23)
        ),
        format!("set=1\npublic_key={}\nallowed_ip=10.7.0.0/16", hex_key(24)),
        format!("set=1\npublic_key={}\nremove=true", hex_key(24)),
        format!("set=1\npublic_key={}\nremove=true", hex_key(25)),
        // Nobody is their own peer.
        format!("set=1\npublic_key={own}\nallowed_ip=10.8.0.0/16"),
        // Mentioned twice, it is changed twice.
        format!(
            "set=1\npublic_key={a}\nallowed_ip=10.9.0.0/16\npublic_key={a}\nreplace_allowed_ips=true\nallowed_ip=10.10.0.0/16"
        ),
        "set=1\nfwmark=4660".to_owned(),
        "set=1\nfwmark=0".to_owned(),
        "set=1\nlisten_port=51821".to_owned(),
        // What is wrong, and why.
        "set=1\nlisten_port=65536".to_owned(),
        "set=1\nlisten_port=-1".to_owned(),
        "set=1\nlisten_port=".to_owned(),
        "set=1\nfwmark=4294967296".to_owned(),
        "set=1\nfwmark=red".to_owned(),
        "set=1\nprivate_key=00".to_owned(),
        "set=1\nreplace_peers=false".to_owned(),
        "set=1\ncolour=blue".to_owned(),
        "set=1\nallowed_ip=10.0.0.0/8".to_owned(),
        "set=1\npublic_key=abc".to_owned(),
        "set=1\nnothing".to_owned(),
        format!("set=1\npublic_key={a}\nendpoint=localhost:1"),
        format!("set=1\npublic_key={a}\nendpoint=192.0.2.1"),
        format!("set=1\npublic_key={a}\nendpoint=192.0.2.1:65536"),
        format!("set=1\npublic_key={a}\nendpoint=2001:db8::1:1"),
        format!("set=1\npublic_key={a}\nallowed_ip=10.0.0.0/33"),
        format!("set=1\npublic_key={a}\nallowed_ip=10.0.0.0"),
        format!("set=1\npublic_key={a}\npersistent_keepalive_interval=65536"),
        format!("set=1\npublic_key={a}\npreshared_key=zz"),
        format!("set=1\npublic_key={a}\nprotocol_version=2"),
        format!("set=1\npublic_key={a}\nremove=yes"),
        format!("set=1\npublic_key={a}\nupdate_only=1"),
        format!("set=1\npublic_key={a}\nreplace_allowed_ips=false"),
        format!("set=1\npublic_key={a}\nlisten_port=1"),
        // A new key; then all at once, in one request.
        format!("set=1\nprivate_key={other_private}"),
        format!(
            "set=1\nprivate_key={private}\nlisten_port=51822\nfwmark=1\nreplace_peers=true\npublic_key={b}\nallowed_ip=10.11.0.0/16"
        ),
        "set=1\nreplace_peers=true".to_owned(),
        format!("set=1\nprivate_key={zero}"),
    ];
    for request in &requests {
        let answers = [
            pair.ours.client()?.ask(request)?,
            pair.theirs.client()?.ask(request)?,
        ];
        let [ours, theirs] = &answers;
        ensure!(ours == theirs, "{request}\nours {ours}, theirs {theirs}");
        let [ours, theirs] = [configuration(&pair.ours)?, configuration(&pair.theirs)?];
        ensure!(
            ours == theirs,
            "{request}\nours\n{ours:#?}\ntheirs\n{theirs:#?}"
        );
    }
    Ok(())
}

/// All that a device tells of its configuration: its own lines, then each peer's,
/// the peers and their allowed IPs in order.
fn configuration(
    side: &crate::wireguard_pair::Side,
) -> Result<(Vec<String>, BTreeSet<Vec<String>>)> {
    let answer = side.client()?.ask("get=1")?;
    let mut device: Vec<String> = Vec::new();
    let mut peers: Vec<Vec<String>> = Vec::new();
    for line in answer.lines() {
        // Only one of the two was spoken to by anybody.
        let moves = ["last_handshake_time", "tx_bytes", "rx_bytes"];
        if moves.iter().any(|prefix| line.starts_with(prefix)) {
            continue;
        }
        if line.starts_with("public_key=") {
            peers.push(Vec::new());
        }
        peers
            .last_mut()
            .unwrap_or(&mut device)
            .push(line.to_owned());
    }
    for peer in &mut peers {
        peer.sort();
    }
    // The end of the answer follows the last peer, whichever that is.
    for peer in &mut peers {
        peer.retain(|line| line != "errno=0");
    }
    device.retain(|line| line != "errno=0");
    ensure!(answer.ends_with("errno=0"), "{answer}");
    Ok((device, peers.into_iter().collect()))
}

fn hex_key(seed: u8) -> String {
    PrivateKey::from_random([seed; 32]).public().to_hex()
}

pub(crate) fn one_request_sets_130_000_allowed_ips_under_traffic_and_get_returns_all() -> Result<()>
{
    let pair = pair()?;
    pair.introduce()?;
    pair.theirs.namespace.ip(&[
        "addr add 100.64.253.7/32 dev lo",
        "addr add fd64::fd07/128 dev lo",
        "addr add 100.127.0.1/32 dev lo",
    ])?;
    pair.ours.namespace.ip(&[
        "route add 100.64.0.0/10 dev wg0",
        "route add fd64::/64 dev wg0",
    ])?;
    let pings = [
        pair.ours.keeps_pinging(&pair.theirs)?,
        pair.theirs.keeps_pinging(&pair.ours)?,
    ];
    let prefixes: BTreeSet<String> = (1..=MANY / 2)
        .flat_map(|number| {
            let (high, low) = (number >> 8, number & 255);
            [
                format!("100.64.{high}.{low}/32"),
                format!("fd64::{number:x}/128"),
            ]
        })
        .chain(["10.99.0.2/32".to_owned(), "fd99::2/128".to_owned()])
        .collect();
    ensure!(prefixes.len() >= MANY as usize);
    let key = pair.theirs.key.public().to_hex();
    let lines: String = prefixes
        .iter()
        .map(|prefix| format!("allowed_ip={prefix}\n"))
        .collect();
    let mut client = pair.ours.client()?;
    let start = Instant::now();
    let answer = client.ask(&format!(
        "set=1\npublic_key={key}\nreplace_allowed_ips=true\n{lines}"
    ))?;
    let set = start.elapsed();
    ensure!(answer == "errno=0", "{answer}");
    let start = Instant::now();
    let answer = client.ask("get=1")?;
    let got = start.elapsed();
    let told: BTreeSet<String> = answer
        .lines()
        .filter_map(|line| line.strip_prefix("allowed_ip="))
        .map(str::to_owned)
        .collect();
    ensure!(
        told == prefixes,
        "{} of {} told",
        told.len(),
        prefixes.len()
    );
    for address in ["100.64.253.7", "fd64::fd07"] {
        pair.ours.reaches_address(address)?;
    }
    pair.ours.is_cut_off_from("100.127.0.1")?;
    // `wg` itself takes and tells as many.
    let shown = pair
        .ours
        .namespace
        .run("wg", ["show", "wg0", "allowed-ips"])?;
    ensure!(shown.split_whitespace().count() == prefixes.len() + 1);

    let start = Instant::now();
    pair.ours
        .set_peer(&pair.theirs, &["allowed-ips", &pair.theirs.networks])?;
    println!(
        "{} prefixes: set {set:.1?}, get {got:.1?}, replaced {:.1?}",
        prefixes.len(),
        start.elapsed()
    );
    pair.ours.is_cut_off_from("100.64.253.7")?;
    for ping in pings {
        ping.has_lost_nothing()?;
    }
    Ok(())
}

pub(crate) fn clients_at_one_time_each_get_what_they_asked_for() -> Result<()> {
    const CLIENTS: u8 = 8;
    const ROUNDS: u8 = 250;
    let pair = pair()?;
    pair.introduce()?;
    let ping = pair.ours.keeps_pinging(&pair.theirs)?;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let ours = &pair.ours;
                scope.spawn(move || -> Result<()> {
                    let key = hex_key(100 + client);
                    let mut connection = ours.client()?;
                    for round in 0..ROUNDS {
                        let prefix = format!("10.{client}.{round}.0/24");
                        let answer = connection.ask(&format!(
                            "set=1\npublic_key={key}\nreplace_allowed_ips=true\nallowed_ip={prefix}"
                        ))?;
                        ensure!(answer == "errno=0", "{answer}");
                        let all = connection.ask("get=1")?;
                        let (_, own) = all.split_once(&key).context("the peer is not told")?;
                        let own = own.split("public_key=").next().unwrap_or_default();
                        ensure!(own.contains(&format!("allowed_ip={prefix}\n")), "{own}");
                    }
                    Ok(())
                })
            })
            .collect();
        for client in clients {
            client
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        anyhow::Ok(())
    })?;
    let peers = pair.ours.namespace.run("wg", ["show", "wg0", "peers"])?;
    ensure!(peers.lines().count() == usize::from(CLIENTS) + 1, "{peers}");
    ping.has_lost_nothing()
}

pub(crate) fn clients_that_never_read_or_never_finish_hold_up_nobody() -> Result<()> {
    let pair = pair()?;
    pair.introduce()?;
    // An answer larger than any socket's buffer.
    let key = pair.theirs.key.public().to_hex();
    let lines: String = (0..20_000_u32)
        .map(|number| format!("allowed_ip=fd64::{number:x}/128\n"))
        .collect();
    let answer = pair
        .ours
        .client()?
        .ask(&format!("set=1\npublic_key={key}\n{lines}"))?;
    ensure!(answer == "errno=0", "{answer}");

    let ping = pair.ours.keeps_pinging(&pair.theirs)?;
    let mut stuck = Vec::new();
    for number in 0..12 {
        let mut client = pair.ours.client()?;
        match number % 3 {
            0 => client.send("get=1")?,
            // Half a request, with what would be a change if it ended here.
            1 => client.begin(&format!("set=1\npublic_key={key}\nremove=true\n"))?,
            _ => {}
        }
        stuck.push(client);
    }
    pair.ours.show("endpoints")?;
    pair.ours
        .set_peer(&pair.theirs, &["persistent-keepalive", "3"])?;
    ensure!(pair.ours.show("persistent-keepalive")? == "3");
    // More than there is room for: the stuck ones are let go after a while.
    for _ in 0..12 {
        stuck.push(pair.ours.client()?);
    }
    wait_until("a place for another client", PATIENCE, || {
        pair.ours.show("persistent-keepalive").map(Some)
    })?;
    drop(stuck);
    ping.has_lost_nothing()?;
    ensure!(
        pair.ours.namespace.ping(THEIRS, 3)? == 3,
        "the torn request removed the peer"
    );
    Ok(())
}

pub(crate) fn a_line_or_a_request_without_end_is_given_up() -> Result<()> {
    let mut pair = pair()?;
    pair.introduce()?;
    for endless in ["x".repeat(1 << 20), "a=b\n".repeat(32 << 20)] {
        // It hangs up, perhaps while we still send.
        let answer = pair.ours.client()?.ask(&endless).unwrap_or_default();
        ensure!(answer.is_empty(), "{answer}");
    }
    pair.ours.process.check()?;
    let (resident, _) = pair.ours.process.memory_bytes()?;
    ensure!(resident < 64 << 20, "{resident} bytes resident");
    pair.ours.reaches(&pair.theirs)
}
