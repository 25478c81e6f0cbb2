//! IPsec between the hub and firewalls that somebody else administers, beside the demo
//! network (drawn at `privnet_tests::topology::demo`):
//!
//! ```text
//!   firewall 203.0.113.90 (10.200.0.1)  ═══ IKEv2, ESP ═══  hub ═══ WireGuard ═══ spoke-a ─── host-a
//!   branch   203.0.113.91 (10.201.0.1)  ══════════════════╝
//! ```
//! The firewalls are strongSwan with a `swanctl.conf` written by hand. The hub is behind
//! a NAT as every instance is: the internet gateway's.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use privnet_model::inventory::Transport;
use privnet_model::status::{Status, Tunnel, TunnelState};
use privnet_tests::charon::{Charon, Esp};
use privnet_tests::daemon::{config_file, hub_config};
use privnet_tests::deployment::{PATIENCE, nothing_leaked, start_spokes, tunnels, wait_until_up};
use privnet_tests::fault_proxy::{Fault, FaultKind};
use privnet_tests::firewall::{BRANCH, EAST, Firewall, SECRET, Settings};
use privnet_tests::long_ping::LongPing;
use privnet_tests::namespace::Namespace;
use privnet_tests::process::wait_until;
use privnet_tests::programs;
use privnet_tests::topology::{self, HUB_PUBLIC};
use privnet_tests::world::World;

/// DPD and charon's retransmissions at both ends, and a machine that is slow.
pub(crate) const SLOW: Duration = Duration::from_secs(60);

/// Where the site's key is, when it is in SSM.
const PARAMETER: &str = "/privnet/site/dc-east";

/// The hub's section about a site.
fn site(world: &World, name: &str, cidr: &str, more: &str) -> Result<String> {
    let key = world.namespace("hub")?.directory().join("site.psk");
    std::fs::write(&key, format!("{SECRET}\n"))?;
    Ok(format!(
        "\n[[site]]\nname = {name:?}\ntransport = \"ipsec\"\ncidrs = [{cidr:?}]\n\
         preshared_key = {{ file = {key:?} }}\ndead_peer_delay = \"2s\"\n{more}\n"
    ))
}

fn calls(settings: &Settings) -> String {
    format!("endpoint = \"{}\"", settings.public)
}

/// What a hub's config begins with where its charon is.
pub(crate) fn with_charon(world: &World, charon: &Charon) -> Result<String> {
    let config = hub_config(world.host("hub")?);
    Ok(format!(
        "{config}\n[ipsec]\nsocket = {:?}\n",
        charon.socket()
    ))
}

/// The demo network, with all captured that its gateways send.
pub(crate) fn watched() -> Result<World> {
    let network = topology::demo();
    let mut world = World::build(&network)?;
    world.capture(&network, &["hub", "spoke-a", "spoke-b"])?;
    Ok(world)
}

/// The demo network with its spokes, the hub's charon and one firewall.
fn start(settings: &Settings) -> Result<(World, Charon, Firewall)> {
    let mut world = watched()?;
    let charon = Charon::of_instance(world.namespace("hub")?)?;
    let firewall = Firewall::start(&mut world, "firewall", settings)?;
    start_spokes(&mut world)?;
    Ok((world, charon, firewall))
}

pub(crate) fn tunnel(status: &Status, name: &str) -> Result<Tunnel> {
    let tunnel = status.tunnels.iter().find(|tunnel| tunnel.name == name);
    tunnel.cloned().with_context(|| format!("no tunnel {name}"))
}

/// The SPIs of what `swanctl --list-sas` printed.
fn spis(listed: &str) -> Vec<String> {
    let lines = listed.lines().map(str::trim);
    lines
        .filter(|line| line.starts_with("in ") || line.starts_with("out"))
        .filter_map(|line| line.split([' ', ',']).find(|word| word.len() == 8))
        .map(str::to_owned)
        .collect()
}

/// The name of a connection's child, which ends in a fingerprint.
fn child_of(charon: &Charon, connection: &str) -> Result<String> {
    let listed = charon.swanctl(&["--list-conns"])?;
    let children = listed.lines().map(str::trim);
    let mut children = children.filter(|line| line.starts_with(&format!("{connection}-")));
    let child = children.next().and_then(|line| line.split(':').next());
    child.map(str::to_owned).with_context(|| listed.clone())
}

/// Waits until the hub gives this reason for a tunnel.
fn reason(world: &World, name: &str, words: &str) -> Result<()> {
    wait_until(&format!("{name}: {words}"), SLOW, || {
        let tunnel = tunnel(&world.daemon("hub")?.status()?, name)?;
        let reason = tunnel.reason.map(|reason| reason.to_string());
        ensure!(
            reason.as_ref().is_some_and(|reason| reason.contains(words)),
            "it is {} because of {reason:?}",
            tunnel.state
        );
        ensure!(tunnel.state != TunnelState::Up, "it is up");
        Ok(Some(()))
    })
}

/// What `tunnels` says, on one line, of what is not connected: an exit code of its own.
fn not_connected(world: &World, arguments: &[&str]) -> Result<String> {
    match tunnels(world, arguments) {
        Ok(said) => anyhow::bail!("it is connected: {said}"),
        Err(said) => {
            let said = format!("{said:#}");
            Ok(said.split_whitespace().collect::<Vec<_>>().join(" "))
        }
    }
}

fn reaches(from: &Namespace, to: Ipv4Addr) -> Result<()> {
    wait_until(
        &format!("a ping from {} to {to}", from.name()),
        PATIENCE,
        || Ok((from.ping(to, 1)? == 1).then_some(())),
    )
}

/// Packets both ways between a site and a host behind a WireGuard spoke, and the hub's
/// own VPC.
fn both_ways(world: &World, firewall: &Firewall, settings: &Settings) -> Result<()> {
    let inside = settings.inside()?;
    for host in ["host-a", "host-b", "host-hub"] {
        reaches(world.namespace(host)?, inside)?;
        reaches(&firewall.namespace, world.host(host)?.instance.address)?;
    }
    Ok(())
}

fn checksum(from: &Namespace, url: &str) -> Result<String> {
    let command = format!("curl -sS --fail --max-time 120 {url} | sha256sum");
    from.run("sh", ["-c", &command])
}

pub(crate) fn a_firewall_and_wireguard_spokes_reach_each_other() -> Result<()> {
    let (mut world, charon, firewall) = start(&EAST)?;
    let config =
        with_charon(&world, &charon)? + &site(&world, "dc-east", EAST.cidr, &calls(&EAST))?;
    world.start("hub", &config)?;
    let status = wait_until_up(&world, &["spoke-a", "spoke-b", "dc-east"], PATIENCE)?;
    let east = tunnel(&status, "dc-east")?;
    ensure!(east.transport == Transport::Ipsec, "{east:?}");
    let ipsec = east.ipsec.context("nothing of its SAs")?;
    ensure!(ipsec.ike.as_deref() == Some("AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384"));
    ensure!(
        ipsec.behind_nat,
        "the hub is behind the internet gateway's NAT"
    );
    ensure!(ipsec.remote_selectors == [EAST.cidr], "{ipsec:?}");
    both_ways(&world, &firewall, &EAST)?;

    // A transfer, byte for byte, through both kinds of tunnel.
    let address = world.host("host-a")?.instance.address;
    let url = format!("http://{address}/bytes/20000000");
    let sent = checksum(world.namespace("host-a")?, &url)?;
    let received = checksum(&firewall.namespace, &url)?;
    ensure!(sent == received, "sent {sent}, received {received}");
    let seen = firewall.namespace.fetch(&format!("http://{address}/"))?;
    ensure!(seen == EAST.inside()?.to_string(), "host-a saw {seen}");
    // And the other way.
    let inside = format!("{}:80", EAST.inside()?);
    let simulator = programs::ours("privnet-sim")?;
    let _web = firewall
        .namespace
        .start("web", simulator, ["web", &inside])?;
    let url = format!("http://{inside}/bytes/20000000");
    let received = wait_until("the firewall's web server", PATIENCE, || {
        Ok(checksum(world.namespace("host-a")?, &url).ok())
    })?;
    ensure!(sent == received, "sent {sent}, received {received}");

    // New keys of both kinds while packets go on, and none is lost; counters go on, too.
    let before = tunnel(&world.daemon("hub")?.status()?, "dc-east")?;
    let mut pings = LongPing::start(world.namespace("host-a")?, EAST.inside()?)?;
    pings.answers(10, PATIENCE)?;
    firewall.rekey_under(&mut pings, PATIENCE)?;
    // Begun by the hub's end, too.
    let child = child_of(&charon, "privnet-dc-east")?;
    for (kind, name) in [("--child", child.as_str()), ("--ike", "privnet-dc-east")] {
        charon.swanctl(&["--rekey", kind, name])?;
        pings.answers(20, PATIENCE)?;
    }
    pings.has_lost_nothing(PATIENCE)?;
    let after = wait_until("more bytes than before the rekeys", PATIENCE, || {
        let now = tunnel(&world.daemon("hub")?.status()?, "dc-east")?;
        Ok((now.rx_bytes > before.rx_bytes).then_some(now))
    })?;
    ensure!(after.last_handshake > before.last_handshake, "{after:?}");

    let listed = tunnels(&world, &["list", "--wide"])?;
    let line = listed.lines().find(|line| line.starts_with("dc-east"));
    ensure!(
        line.is_some_and(|line| line.contains("ipsec") && line.contains("up")),
        "{listed}"
    );
    let shown = tunnels(&world, &["show"])?;
    ensure!(shown.contains("userspace ESP"), "{shown}");
    let why = tunnels(&world, &["why", "dc-east"])?;
    ensure!(why.contains("up") && why.contains("IPsec"), "{why}");
    nothing_leaked(&world)?;
    world.check()
}

/// What this section about a site is when the site's key is in SSM, and in no file.
fn in_ssm(world: &World, in_file: &str) -> Result<String> {
    let key = world.namespace("hub")?.directory().join("site.psk");
    std::fs::remove_file(&key)?;
    let in_ssm = in_file.replace(&format!("file = {key:?}"), &format!("ssm = {PARAMETER:?}"));
    ensure!(in_ssm.contains("ssm ="), "{in_ssm}");
    Ok(in_ssm)
}

pub(crate) fn a_key_in_ssm_is_taken_when_it_is_there() -> Result<()> {
    let (mut world, charon, firewall) = start(&EAST)?;
    let in_file = site(&world, "dc-east", EAST.cidr, &calls(&EAST))?;
    let in_ssm = in_ssm(&world, &in_file)?;
    world.start("hub", &(with_charon(&world, &charon)? + &in_ssm))?;
    wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;
    reason(&world, "dc-east", "there is none")?;
    let why = not_connected(&world, &["why", "dc-east"])?;
    ensure!(why.contains(PARAMETER), "{why}");

    let region = world.host("hub")?.metadata.region.clone();
    world
        .ec2
        .put_secret(&region, PARAMETER, &format!("{SECRET}\n"))?;
    // What was asked for in vain is asked for again within a minute.
    wait_until_up(&world, &["dc-east"], 2 * SLOW)?;
    both_ways(&world, &firewall, &EAST)?;

    // A restart takes over what runs, as it does with a file: nothing is lost over it.
    let spi = || -> Result<Vec<String>> { Ok(spis(&charon.swanctl(&["--list-sas"])?)) };
    let before = spi()?;
    ensure!(!before.is_empty(), "no SPI is listed");
    world.crash("hub")?;
    world.start_again("hub")?;
    wait_until_up(&world, &["dc-east"], PATIENCE)?;
    both_ways(&world, &firewall, &EAST)?;
    let after = spi()?;
    ensure!(after == before, "{before:?} became {after:?}");
    nothing_leaked(&world)?;
    world.check()
}

/// A key that moves from a file to SSM with a restart: no copy of it is kept yet.
pub(crate) fn what_runs_goes_on_while_ssm_does_not_give_the_key() -> Result<()> {
    let (mut world, charon, firewall) = start(&EAST)?;
    let in_file = site(&world, "dc-east", EAST.cidr, &calls(&EAST))?;
    world.start("hub", &(with_charon(&world, &charon)? + &in_file))?;
    wait_until_up(&world, &["spoke-a", "spoke-b", "dc-east"], PATIENCE)?;
    both_ways(&world, &firewall, &EAST)?;
    let spi = || -> Result<Vec<String>> { Ok(spis(&charon.swanctl(&["--list-sas"])?)) };
    let before = spi()?;
    ensure!(!before.is_empty(), "no SPI is listed");

    let region = world.host("hub")?.metadata.region.clone();
    world.ec2.put_secret(&region, PARAMETER, SECRET)?;
    let denied = Fault::of_action("GetParameter", FaultKind::Denied);
    world.faults.set(&[denied])?;
    world.crash("hub")?;
    let in_ssm = in_ssm(&world, &in_file)?;
    world.start("hub", &(with_charon(&world, &charon)? + &in_ssm))?;
    reason(&world, "dc-east", "ssm:GetParameter")?;
    let east = tunnel(&world.daemon("hub")?.status()?, "dc-east")?;
    ensure!(east.state == TunnelState::Pending, "it is {}", east.state);
    both_ways(&world, &firewall, &EAST)?;
    // Longer than from one look at charon to the next but one.
    let mut pings = LongPing::start(world.namespace("host-a")?, EAST.inside()?)?;
    pings.answers(60, PATIENCE)?;
    pings.has_lost_nothing(PATIENCE)?;
    let after = spi()?;
    ensure!(after == before, "{before:?} became {after:?}");

    world.faults.clear()?;
    wait_until_up(&world, &["dc-east"], 2 * SLOW)?;
    pings.has_lost_nothing(PATIENCE)?;
    let after = spi()?;
    ensure!(after == before, "{before:?} became {after:?}");
    nothing_leaked(&world)?;
    world.check()
}

/// As in the images, where the kernel has it. Where it has not, nothing is called up
/// that carries nothing, the operator is told why, and what is advised then helps.
pub(crate) fn the_kernel_does_esp_or_its_lack_is_explained() -> Result<()> {
    let mut world = watched()?;
    let charon = Charon::of_instance_with(world.namespace("hub")?, Esp::Kernel)?;
    let firewall = Firewall::start(&mut world, "firewall", &EAST)?;
    start_spokes(&mut world)?;
    let config =
        with_charon(&world, &charon)? + &site(&world, "dc-east", EAST.cidr, &calls(&EAST))?;
    world.start("hub", &config)?;
    let probe = "link add probe type xfrm if_id 1";
    let (charon, esp) = if firewall.namespace.ip(&[probe]).is_ok() {
        (charon, "kernel ESP")
    } else {
        reason(&world, "dc-east", "XFRM interface")?;
        let said = tunnels(&world, &["show"])? + &tunnels(&world, &["list"])?;
        let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in ["kernel ESP", "no XFRM interfaces", "kernel-libipsec"] {
            ensure!(words.contains(part), "{part} is not in {said}");
        }
        ensure!(
            !words.contains("rp_filter"),
            "one cause is told twice: {said}"
        );
        charon.kill()?;
        let other = Charon::of_instance(world.namespace("hub")?)?;
        (other, "userspace ESP")
    };
    wait_until_up(&world, &["spoke-a", "spoke-b", "dc-east"], SLOW)?;
    let shown = tunnels(&world, &["show"])?;
    ensure!(shown.contains(esp), "{shown}");
    both_ways(&world, &firewall, &EAST)?;
    nothing_leaked(&world)?;
    drop(charon);
    world.check()
}

pub(crate) fn a_firewall_behind_a_nat_calls_the_hub() -> Result<()> {
    let mut world = watched()?;
    let charon = Charon::of_instance(world.namespace("hub")?)?;
    start_spokes(&mut world)?;
    // The office has an address that its provider shares with others.
    let nat = world.add_internet_host("provider", Ipv4Addr::new(203, 0, 113, 92))?;
    nat.sysctl(&["net.ipv4.ip_forward=1"])?;
    nat.nft("table ip nat { chain out { type nat hook postrouting priority srcnat; oifname uplink masquerade; }; }")?;
    let office = Namespace::add("office")?;
    nat.link("office", &office, "uplink", 1500)?;
    nat.ip(&["addr add 192.168.7.1/24 dev office"])?;
    office.ip(&[
        "addr add 192.168.7.2/24 dev uplink",
        "route add default via 192.168.7.1",
        "addr add 10.200.0.1/32 dev lo",
    ])?;
    let settings = EAST.swanctl();
    let public = EAST.public.to_string();
    let settings = settings
        .replace(
            &format!("local_addrs = {public}"),
            "local_addrs = 192.168.7.2",
        )
        .replace(&public, "office.example.com");
    let office = Firewall {
        name: "office",
        charon: Charon::of_firewall(&office, &settings)?,
        namespace: office,
    };
    let known = "remote_id = \"office.example.com\"";
    let config = with_charon(&world, &charon)? + &site(&world, office.name, EAST.cidr, known)?;
    world.start("hub", &config)?;
    reason(&world, "office", "no handshake yet")?;
    office.initiate()?;
    wait_until_up(&world, &["office"], PATIENCE)?;
    both_ways(&world, &office, &EAST)?;
    nothing_leaked(&world)?;
    world.check()
}

pub(crate) fn what_is_wrong_is_told_in_plain_words() -> Result<()> {
    let wrong_key = Settings {
        secret: "another secret altogether",
        ..EAST
    };
    let (mut world, charon, firewall) = start(&wrong_key)?;
    let config =
        with_charon(&world, &charon)? + &site(&world, "dc-east", EAST.cidr, &calls(&EAST))?;
    world.start("hub", &config)?;
    let from_spoke = LongPing::start(world.namespace("host-a")?, EAST.inside()?)?;
    let from_vpc = LongPing::start(world.namespace("host-hub")?, EAST.inside()?)?;
    reason(
        &world,
        "dc-east",
        "the preshared key or certificate is not the one",
    )?;
    let why = not_connected(&world, &["why", "dc-east"])?;
    ensure!(why.contains("preshared key"), "{why}");

    let old = Settings {
        proposals: ["aes128-sha1-modp2048", "aes128-sha1-modp2048"],
        ..EAST
    };
    firewall.charon.load(&old.swanctl())?;
    reason(
        &world,
        "dc-east",
        "no matching proposal for IKE: we offered aes256gcm16-prfsha384-ecp384, and the peer took none",
    )?;

    let elsewhere = Settings {
        reaches: "10.77.0.0/16",
        cidr: "10.222.0.0/16",
        ..EAST
    };
    firewall.charon.load(&elsewhere.swanctl())?;
    reason(&world, "dc-east", "selectors rejected")?;
    nothing_leaked(&world)?;

    // As the firewall's administrator puts it right, so it comes up.
    firewall.charon.load(&EAST.swanctl())?;
    wait_until_up(&world, &["dc-east"], SLOW)?;
    both_ways(&world, &firewall, &EAST)?;

    // Somebody talked to it all the time.
    for pings in [from_spoke, from_vpc] {
        pings.answers(5, PATIENCE)?;
    }

    // And an old firewall, when the hub is told that it may be one.
    firewall.charon.load(&old.swanctl())?;
    let legacy = format!("{}\nproposals = \"legacy\"", calls(&EAST));
    let config = with_charon(&world, &charon)? + &site(&world, "dc-east", EAST.cidr, &legacy)?;
    std::fs::write(config_file(world.host("hub")?), config)?;
    world.daemon("hub")?.process.signal(Signal::SIGHUP)?;
    wait_until("the legacy proposal", SLOW, || {
        let tunnel = tunnel(&world.daemon("hub")?.status()?, "dc-east")?;
        let ike = tunnel.ipsec.and_then(|ipsec| ipsec.ike);
        Ok(ike.filter(|ike| ike.contains("MODP_2048")))
    })?;
    both_ways(&world, &firewall, &EAST)?;
    nothing_leaked(&world)?;
    world.check()
}

/// The hub waits for the site, which calls and is refused: what is said before charon knows
/// who it is, is told of the site that is there.
pub(crate) fn what_is_wrong_with_one_who_calls_is_told() -> Result<()> {
    let old = Settings {
        proposals: ["aes128-sha1-modp2048", "aes128-sha1-modp2048"],
        ..EAST
    };
    let (mut world, charon, firewall) = start(&old)?;
    let waits = format!("{}\ninitiate = false", calls(&EAST));
    let config = with_charon(&world, &charon)? + &site(&world, "dc-east", EAST.cidr, &waits)?;
    // Without its key it alone has no tunnel.
    let key = world.namespace("hub")?.directory().join("site.psk");
    std::fs::rename(&key, key.with_extension("away"))?;
    world.start("hub", &config)?;
    wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;
    reason(&world, "dc-east", "site.psk")?;
    std::fs::rename(key.with_extension("away"), &key)?;
    world.daemon("hub")?.process.signal(Signal::SIGHUP)?;
    reason(&world, "dc-east", "no handshake yet")?;
    let refused = |words: &str| -> Result<()> {
        ensure!(firewall.initiate().is_err(), "it was let in");
        reason(&world, "dc-east", words)
    };
    refused("no matching proposal for IKE: the peer offered IKE:AES_CBC_128")?;
    let why = not_connected(&world, &["why", "dc-east"])?;
    ensure!(
        why.contains("the peer offered") && why.contains("we have"),
        "{why}"
    );
    let wrong_key = Settings {
        secret: "another secret altogether",
        ..EAST
    };
    firewall.charon.load(&wrong_key.swanctl())?;
    refused("wrong preshared key: 203.0.113.")?;
    let public = EAST.public.to_string();
    let named = |text: &str, key: &str| {
        text.replace(
            &format!("{key} = {public}"),
            &format!("{key} = stranger.example.com"),
        )
    };
    let stranger = named(&named(&EAST.swanctl(), "id"), "id-1");
    firewall.charon.load(&stranger)?;
    refused("the peer says it is stranger.example.com")?;
    nothing_leaked(&world)?;
    firewall.charon.load(&EAST.swanctl())?;
    firewall.initiate()?;
    wait_until_up(&world, &["dc-east"], SLOW)?;
    both_ways(&world, &firewall, &EAST)?;
    nothing_leaked(&world)?;
    world.check()
}

pub(crate) fn nothing_leaves_in_clear_whatever_dies() -> Result<()> {
    let (mut world, charon, firewall) = start(&EAST)?;
    let config =
        with_charon(&world, &charon)? + &site(&world, "dc-east", EAST.cidr, &calls(&EAST))?;
    world.start("hub", &config)?;
    wait_until_up(&world, &["spoke-a", "spoke-b", "dc-east"], PATIENCE)?;
    both_ways(&world, &firewall, &EAST)?;
    // Somebody talks to the site all the time, from everywhere.
    let from_spoke = LongPing::start(world.namespace("host-a")?, EAST.inside()?)?;
    let from_vpc = LongPing::start(world.namespace("host-hub")?, EAST.inside()?)?;

    let firewall = firewall.restart(&EAST, || {
        reason(&world, "dc-east", "peer does not answer any more")?;
        let tunnel = tunnel(&world.daemon("hub")?.status()?, "dc-east")?;
        ensure!(tunnel.state == TunnelState::Down, "{tunnel:?}");
        nothing_leaked(&world)
    })?;
    wait_until("the hub to see that the firewall is back", SLOW, || {
        Ok((world.namespace("host-a")?.ping(EAST.inside()?, 1)? == 1).then_some(()))
    })?;
    nothing_leaked(&world)?;

    // charon of the hub: with userspace ESP no tunnel is left, and the hub says why.
    charon.kill()?;
    reason(&world, "dc-east", "strongSwan cannot be used")?;
    let answered = world.namespace("host-a")?.ping(EAST.inside()?, 2)?;
    ensure!(answered == 0, "the site is reached without a tunnel");
    nothing_leaked(&world)?;
    let charon = Charon::of_instance(world.namespace("hub")?)?;
    wait_until_up(&world, &["dc-east"], SLOW)?;
    both_ways(&world, &firewall, &EAST)?;

    // Our daemon: what charon has goes on without it, and it takes over what it finds.
    let before = charon.swanctl(&["--list-sas"])?;
    world.crash("hub")?;
    reaches(world.namespace("host-hub")?, EAST.inside()?)?;
    world.start_again("hub")?;
    wait_until_up(&world, &["spoke-a", "spoke-b", "dc-east"], PATIENCE)?;
    let after = charon.swanctl(&["--list-sas"])?;
    ensure!(
        !spis(&before).is_empty() && spis(&before) == spis(&after),
        "not adopted:\n{before}\n{after}"
    );
    // charon hangs: in userspace nothing is carried then.
    charon.signal(Signal::SIGSTOP)?;
    reason(&world, "dc-east", "strongSwan cannot be used")?;
    nothing_leaked(&world)?;
    charon.signal(Signal::SIGCONT)?;
    wait_until_up(&world, &["dc-east"], SLOW)?;
    both_ways(&world, &firewall, &EAST)?;
    for pings in [from_spoke, from_vpc] {
        pings.answers(5, PATIENCE)?;
    }
    nothing_leaked(&world)?;
    world.check()
}

pub(crate) fn a_change_of_one_site_leaves_the_other_alone() -> Result<()> {
    let (mut world, charon, firewall) = start(&EAST)?;
    let branch = Firewall::start(&mut world, "branch", &BRANCH)?;
    let east = site(&world, "dc-east", EAST.cidr, &calls(&EAST))?;
    let other = site(&world, "branch", BRANCH.cidr, &calls(&BRANCH))?;
    let begin = with_charon(&world, &charon)?;
    world.start("hub", &format!("{begin}{east}{other}"))?;
    wait_until_up(&world, &["spoke-a", "dc-east", "branch"], PATIENCE)?;
    both_ways(&world, &firewall, &EAST)?;
    // From site to site, both by IPsec.
    reaches(&branch.namespace, EAST.inside()?)?;

    let mut pings = LongPing::start(world.namespace("host-a")?, EAST.inside()?)?;
    pings.answers(5, PATIENCE)?;
    let before = tunnel(&world.daemon("hub")?.status()?, "dc-east")?;
    let of_east = || -> Result<Vec<String>> {
        let listed = charon.swanctl(&["--list-sas", "--ike", "privnet-dc-east"])?;
        ensure!(!spis(&listed).is_empty(), "{listed}");
        Ok(spis(&listed))
    };
    let same_spis = of_east()?;
    let reload = |config: String| -> Result<()> {
        std::fs::write(config_file(world.host("hub")?), config)?;
        world.daemon("hub")?.process.signal(Signal::SIGHUP)
    };
    let changed = site(
        &world,
        "branch",
        BRANCH.cidr,
        &format!("{}\nchild_lifetime = \"10m\"", calls(&BRANCH)),
    )?;
    reload(format!("{begin}{east}{changed}"))?;
    wait_until("the branch to be set up anew", SLOW, || {
        let log = world.daemon("hub")?.process.log();
        Ok((log.matches("load connection privnet-branch").count() == 2).then_some(()))
    })?;
    wait_until_up(&world, &["branch"], SLOW)?;
    reload(format!("{begin}{east}"))?;
    wait_until("the branch to leave", SLOW, || {
        let status = world.daemon("hub")?.status()?;
        let gone = status.tunnels.iter().all(|tunnel| tunnel.name != "branch");
        let listed = charon.swanctl(&["--list-sas"])?;
        Ok((gone && !listed.contains("privnet-branch")).then_some(()))
    })?;
    pings.has_lost_nothing(PATIENCE)?;
    let after = tunnel(&world.daemon("hub")?.status()?, "dc-east")?;
    ensure!(after.rx_bytes > before.rx_bytes, "{before:?} {after:?}");
    ensure!(of_east()? == same_spis, "its SAs were made anew");
    let log = world.daemon("hub")?.process.log();
    ensure!(
        log.matches("load connection privnet-dc-east").count() == 1,
        "{log}"
    );
    for host in ["host-a", "host-hub"] {
        let answered = world.namespace(host)?.ping(BRANCH.inside()?, 2)?;
        ensure!(answered == 0, "the branch is reached without a tunnel");
    }

    // A file in which two sites have the same addresses changes nothing.
    let twice = site(&world, "branch", "10.200.7.0/24", &calls(&BRANCH))?;
    reload(format!("{begin}{east}{twice}"))?;
    wait_until("a word about the overlap", PATIENCE, || {
        let log = world.daemon("hub")?.process.log();
        Ok(log.contains("overlaps 10.200.0.0/16").then_some(()))
    })?;
    pings.has_lost_nothing(PATIENCE)?;
    nothing_leaked(&world)?;
    world.check()
}

pub(crate) fn the_policy_holds_between_ipsec_sites() -> Result<()> {
    let (mut world, charon, firewall) = start(&EAST)?;
    let branch = Firewall::start(&mut world, "branch", &BRANCH)?;
    let rule = |a: &str, b: &str| {
        format!("[[policy]]\naction = \"deny\"\nbetween = [\"{a}\"]\nand = [\"{b}\"]\n")
    };
    let config = with_charon(&world, &charon)?
        + &rule("site:dc-east", "site:branch")
        + &rule("site:branch", "hub")
        + &rule("site:branch", "site:spoke-b")
        + &site(&world, "dc-east", EAST.cidr, &calls(&EAST))?
        + &site(&world, "branch", BRANCH.cidr, &calls(&BRANCH))?;
    world.start("hub", &config)?;
    wait_until_up(&world, &["spoke-a", "spoke-b", "dc-east", "branch"], SLOW)?;
    // What is allowed works, so that what does not is the policy's doing.
    both_ways(&world, &firewall, &EAST)?;
    let address = |name: &str| Ok::<_, anyhow::Error>(world.host(name)?.instance.address);
    reaches(&branch.namespace, address("host-a")?)?;
    for (from, to) in [
        (&branch.namespace, EAST.inside()?),
        (&firewall.namespace, BRANCH.inside()?),
        (&branch.namespace, address("host-hub")?),
        (&branch.namespace, address("hub")?),
        (world.namespace("host-hub")?, BRANCH.inside()?),
        (&branch.namespace, address("host-b")?),
        (world.namespace("host-b")?, BRANCH.inside()?),
    ] {
        let answered = from.ping(to, 2)?;
        ensure!(
            answered == 0,
            "{} reaches {to}, which the policy denies",
            from.name()
        );
    }
    let from = EAST.inside()?.to_string();
    let why = not_connected(&world, &["why", &from, &BRANCH.inside()?.to_string()])?;
    ensure!(
        why.contains("deny between site:dc-east and site:branch"),
        "{why}"
    );
    // Two pings each time: the first two rules in nftables, the third in the data plane.
    let denied = || -> Result<Vec<u64>> {
        let status = world.daemon("hub")?.status()?;
        Ok(status.policy.iter().map(|rule| rule.denied).collect())
    };
    // The hub reads nftables' counters now and then, and not because it is asked.
    let at_least = |expected: &[u64]| {
        wait_until(&format!("{expected:?} denied packets"), PATIENCE, || {
            let denied = denied()?;
            let counted = denied.iter().zip(expected).all(|(is, least)| is >= least);
            ensure!(denied.len() == expected.len() && counted, "{denied:?}");
            Ok(Some(denied))
        })
    };
    let before = at_least(&[4, 6, 4])?;
    let shown = tunnels(&world, &["show"])?;
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(words.matches(" packets denied").count() == 3, "{shown}");
    // One rule more: nftables and the data plane begin to count anew, the sums go on.
    let config = config + &rule("site:dc-east", "site:spoke-b");
    std::fs::write(config_file(world.host("hub")?), config)?;
    world.daemon("hub")?.process.signal(Signal::SIGHUP)?;
    wait_until("the fourth rule to be in force", PATIENCE, || {
        Ok((denied()?.len() == 4).then_some(()))
    })?;
    ensure!(branch.namespace.ping(EAST.inside()?, 2)? == 0);
    at_least(&[before[0] + 2, before[1], before[2], 0])?;
    nothing_leaked(&world)?;
    world.check()
}

/// Two firewalls that both say that a site's addresses are behind them.
pub(crate) fn who_asks_for_anothers_addresses_gets_none_of_them() -> Result<()> {
    let (mut world, charon, firewall) = start(&EAST)?;
    let thief = Settings {
        cidr: EAST.cidr,
        ..BRANCH
    };
    let branch = world.add_internet_host("branch", BRANCH.public)?;
    branch.ip(&[
        "addr add 10.200.0.1/32 dev lo",
        "addr add 10.201.0.1/32 dev lo",
    ])?;
    let branch = Firewall {
        name: "branch",
        charon: Charon::of_firewall(&branch, &thief.swanctl())?,
        namespace: branch,
    };
    // The hub waits for the branch to call.
    let known = format!("remote_id = \"{}\"", BRANCH.public);
    let config = with_charon(&world, &charon)?
        + &site(&world, "dc-east", EAST.cidr, &calls(&EAST))?
        + &site(&world, "branch", BRANCH.cidr, &known)?;
    world.start("hub", &config)?;
    wait_until_up(&world, &["spoke-a", "dc-east"], SLOW)?;
    both_ways(&world, &firewall, &EAST)?;
    let mut pings = LongPing::start(world.namespace("host-a")?, EAST.inside()?)?;
    pings.answers(5, PATIENCE)?;
    let of_east = || charon.swanctl(&["--list-sas", "--ike", "privnet-dc-east"]);
    let before = spis(&of_east()?);

    ensure!(
        branch.initiate().is_err(),
        "the branch got dc-east's addresses"
    );
    reason(&world, "branch", "selectors")?;
    // All of both: it gets its own.
    let greedy = Settings {
        cidr: "10.200.0.0/15",
        ..BRANCH
    };
    branch.charon.load(&greedy.swanctl())?;
    branch.initiate()?;
    let status = wait_until_up(&world, &["dc-east", "branch"], SLOW)?;
    let got = tunnel(&status, "branch")?
        .ipsec
        .context("nothing of its SAs")?;
    ensure!(got.remote_selectors == [BRANCH.cidr], "{got:?}");
    reaches(world.namespace("host-hub")?, BRANCH.inside()?)?;

    pings.has_lost_nothing(PATIENCE)?;
    let after = spis(&of_east()?);
    ensure!(
        !before.is_empty() && before == after,
        "{before:?} {after:?}"
    );
    nothing_leaked(&world)?;
    world.check()
}

/// As most rekeys happen: by the clock of one end, again and again, while packets go on.
pub(crate) fn rekeys_by_the_clock_lose_nothing() -> Result<()> {
    let impatient = Settings {
        more: "rekey_time = 6s\n        rand_time = 0s\n        life_time = 60s",
        ..EAST
    };
    let (mut world, charon, firewall) = start(&impatient)?;
    let settings = impatient.swanctl().replace(
        "    dpd_delay = 2s\n",
        "    dpd_delay = 2s\n    rekey_time = 10s\n    rand_time = 0s\n    over_time = 60s\n",
    );
    firewall.charon.load(&settings)?;
    let config =
        with_charon(&world, &charon)? + &site(&world, "dc-east", EAST.cidr, &calls(&EAST))?;
    world.start("hub", &config)?;
    wait_until_up(&world, &["spoke-a", "dc-east"], SLOW)?;
    reaches(world.namespace("host-a")?, EAST.inside()?)?;
    let mut pings = LongPing::start(world.namespace("host-a")?, EAST.inside()?)?;
    pings.answers(5, PATIENCE)?;
    // A child of each number, of an IKE SA of each number, as the firewall counts them.
    let (mut children, mut ikes) = (BTreeSet::new(), BTreeSet::new());
    wait_until("three rekeys of the child and two of IKE", SLOW, || {
        for line in firewall.charon.swanctl(&["--list-sas"])?.lines() {
            let number = line.split_once(": #").map(|(_, rest)| rest);
            let number = number.and_then(|rest| rest.split(',').next());
            let Some(number) = number.map(str::to_owned) else {
                continue;
            };
            match line.starts_with(' ') {
                true => children.insert(number),
                false => ikes.insert(number),
            };
        }
        Ok((children.len() > 3 && ikes.len() > 2).then_some(()))
    })?;
    pings.has_lost_nothing(PATIENCE)?;
    let status = world.daemon("hub")?.status()?;
    ensure!(
        tunnel(&status, "dc-east")?.state == TunnelState::Up,
        "{status:?}"
    );
    both_ways(&world, &firewall, &EAST)?;
    nothing_leaked(&world)?;
    world.check()
}

/// Made as ami/IPSEC.md says.
pub(crate) fn a_firewall_and_the_hub_prove_themselves_by_certificates() -> Result<()> {
    let mut world = watched()?;
    let charon = Charon::of_instance(world.namespace("hub")?)?;
    start_spokes(&mut world)?;
    let pki = world.namespace("hub")?.directory().join("pki");
    std::fs::create_dir(&pki)?;
    let made = Command::new("sh")
        .args(["-euc", &authority()?])
        .current_dir(&pki)
        .output()?;
    ensure!(made.status.success(), "{made:?}");
    let file = |name: &str| pki.join(name).display().to_string();
    let replaced = [
        (
            format!("auth = psk\n      id = {}", EAST.public),
            format!(
                "auth = pubkey\n      certs = {}\n      id = fw.example.com",
                file("fw.example.com.crt")
            ),
        ),
        (
            format!("auth = psk\n      id = {HUB_PUBLIC}"),
            format!(
                "auth = pubkey\n      cacerts = {}\n      id = hub.example.com",
                file("ca.crt")
            ),
        ),
    ];
    let mut swanctl = EAST.swanctl();
    for (preshared, certificate) in replaced {
        ensure!(swanctl.contains(&preshared), "{swanctl}");
        swanctl = swanctl.replace(&preshared, &certificate);
    }
    let firewall = Firewall::start(&mut world, "firewall", &EAST)?;
    firewall
        .charon
        .keep_private_key(&pki.join("fw.example.com.key"))?;
    firewall.charon.load(&swanctl)?;

    let site = format!(
        "\n[[site]]\nname = \"dc-east\"\ntransport = \"ipsec\"\ncidrs = [\"{}\"]\n{}\n\
         local_id = \"hub.example.com\"\nremote_id = \"fw.example.com\"\n\
         certificate = {:?}\ncertificate_key = {{ file = {:?} }}\nauthority = {:?}\n",
        EAST.cidr,
        calls(&EAST),
        file("hub.example.com.crt"),
        file("hub.example.com.key"),
        file("ca.crt"),
    );
    let config = with_charon(&world, &charon)? + &site;
    world.start("hub", &config)?;
    wait_until_up(&world, &["spoke-a", "spoke-b", "dc-east"], SLOW)?;
    both_ways(&world, &firewall, &EAST)?;
    nothing_leaked(&world)?;
    world.check()
}

/// The commands that make an authority and two certificates, of ami/IPSEC.md.
fn authority() -> Result<String> {
    let page = include_str!("../../ami/IPSEC.md");
    let (_, section) = page
        .split_once("## Certificates")
        .context("no such section")?;
    let (_, commands) = section.split_once("```sh\n").context("no commands")?;
    let (commands, _) = commands.split_once("```").context("no end of them")?;
    Ok(commands.to_owned())
}
