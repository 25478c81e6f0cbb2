//! Spokes by IPsec in the demo network (drawn at `privnet_tests::topology::demo`), each
//! with a strongSwan of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use privnet_model::inventory::Transport;
use privnet_model::ipsec::{IkeId, IkeSecret};
use privnet_model::secret::FleetSecret;
use privnet_model::status::{GatewayRole, TunnelState};
use privnet_tests::charon::Charon;
use privnet_tests::daemon::{hub_config, hub_public_key, spoke_config};
use privnet_tests::deployment::{
    FLEET_SECRET, PATIENCE, fleet_secret, nothing_leaked, public_address, reach_each_other, sees,
    start_spoke_by_ipsec, start_spoke_by_ipsec_with, tunnels, wait_for_published_key,
    wait_until_up,
};
use privnet_tests::firewall::{EAST, SECRET};
use privnet_tests::heartbeat::Heartbeat;
use privnet_tests::long_ping::LongPing;
use privnet_tests::process::wait_until;
use privnet_tests::requests::{Requests, length, outages};
use privnet_tests::topology::{self, HUB_PUBLIC, Network, PORT, PRIVNET, SECOND_HUB_PUBLIC, WEB};
use privnet_tests::vpc_fabric::{Fabric, Follower, Moved};
use privnet_tests::world::World;

use crate::ipsec::{SLOW, tunnel, watched, with_charon};
use crate::takeover::{plug_in, unplug};

pub(crate) fn a_spoke_by_ipsec_is_discovered_listed_and_removed() -> Result<()> {
    let mut world = watched()?;
    let hub = Charon::of_instance(world.namespace("hub")?)?;
    // One spoke by IPsec, the other by WireGuard; the hub tells them apart by their tags.
    let charon = start_spoke_by_ipsec(&mut world, "spoke-a", &[HUB_PUBLIC])?;
    start_spoke_with_secret(&mut world, "spoke-b")?;
    let secret = fleet_secret(&world, "hub")?;
    let config = with_charon(&world, &hub)? + &format!("[trust]\n{secret}");
    world.start("hub", &config)?;
    let status = wait_until_up(&world, &["spoke-a", "spoke-b"], SLOW)?;
    let spoke = tunnel(&status, "spoke-a")?;
    ensure!(spoke.transport == Transport::Ipsec, "{spoke:?}");
    ensure!(spoke.instance.is_some() && spoke.vpc.is_some(), "{spoke:?}");
    reach_each_other(&world, "host-a", "host-b")?;
    reach_each_other(&world, "host-a", "host-hub")?;
    // Egress is NAT as ever.
    sees(&world, "host-a", WEB, public_address(&world, "spoke-a")?)?;
    let own = world.daemon("spoke-a")?.wait_until_up(&["hub"], PATIENCE)?;
    ensure!(own.charon.is_some(), "{own:?}");

    // The spoke's own charon dies: its privnet is unreachable, its egress is not.
    charon.kill()?;
    wait_until("the spoke to see it", SLOW, || {
        let tunnel = tunnel(&world.daemon("spoke-a")?.status()?, "hub")?;
        Ok((tunnel.state != TunnelState::Up).then_some(()))
    })?;
    let host_b = world.host("host-b")?.instance.address;
    ensure!(world.namespace("host-a")?.ping(host_b, 1)? == 0);
    sees(&world, "host-a", WEB, public_address(&world, "spoke-a")?)?;
    nothing_leaked(&world)?;
    let charon = Charon::of_instance(world.namespace("spoke-a")?)?;
    wait_until("the tunnel to be back", SLOW, || {
        Ok((world.namespace("host-a")?.ping(host_b, 1)? == 1).then_some(()))
    })?;

    // Gone from EC2, gone from charon.
    world.terminate("spoke-a")?;
    drop(charon);
    tunnels(&world, &["refresh"])?;
    wait_until("the spoke to leave", SLOW, || {
        let status = world.daemon("hub")?.status()?;
        let gone = status.tunnels.iter().all(|tunnel| tunnel.name != "spoke-a");
        let left = hub.swanctl(&["--list-conns"])?;
        Ok((gone && !left.contains("privnet-i-")).then_some(()))
    })?;
    nothing_leaked(&world)?;
    world.check()
}

fn start_spoke_with_secret(world: &mut World, name: &str) -> Result<()> {
    let key = hub_public_key(world.host("hub")?)?;
    let secret = fleet_secret(world, name)?;
    let config = spoke_config(world.host(name)?, &format!("{HUB_PUBLIC}:{PORT}"), &key);
    world.start(name, &format!("{secret}{config}"))?;
    wait_for_published_key(world, name)
}

pub(crate) fn a_spoke_by_ipsec_goes_to_the_next_hub_when_one_dies() -> Result<()> {
    let mut world = watched()?;
    let first = Charon::of_instance(world.namespace("hub")?)?;
    // The second hub is a firewall of somebody else's to the test: it is given the
    // spoke's key by hand, and has the privnet's address that is asked for.
    let secret: FleetSecret = FLEET_SECRET.parse()?;
    let spoke = world.host("spoke-a")?.metadata.instance.to_string();
    let second = IkeId::from(IpAddr::from(EAST.public));
    let key = IkeSecret::derive(&secret, &spoke.parse()?, &second);
    let key = key.first().context("no key")?;
    let key = std::str::from_utf8(key.as_bytes())?;
    let settings = EAST
        .swanctl()
        .replace(SECRET, key)
        .replace(
            &format!("remote_addrs = {HUB_PUBLIC}"),
            "remote_addrs = %any",
        )
        .replace(&HUB_PUBLIC.to_string(), &spoke)
        .replace("local_ts = 10.200.0.0/16", "local_ts = 10.0.0.0/8")
        .replace("remote_ts = 10.0.0.0/8", "remote_ts = 10.1.0.0/16");
    let namespace = world.add_internet_host("second-hub", EAST.public)?;
    namespace.ip(&["addr add 10.200.0.1/32 dev lo"])?;
    let _second = Charon::of_firewall(&namespace, &settings)?;

    let secret = fleet_secret(&world, "hub")?;
    let config = with_charon(&world, &first)? + &format!("[trust]\n{secret}");
    let _charon = start_spoke_by_ipsec(&mut world, "spoke-a", &[HUB_PUBLIC, EAST.public])?;
    world.start("hub", &config)?;
    let host_hub = world.host("host-hub")?.instance.address;
    wait_until("the first hub", SLOW, || {
        Ok((world.namespace("host-a")?.ping(host_hub, 1)? == 1).then_some(()))
    })?;

    world.crash("hub")?;
    first.kill()?;
    let start = Instant::now();
    wait_until("the second hub", SLOW, || {
        let answered = world.namespace("host-a")?.ping(EAST.inside()?, 1)?;
        Ok((answered == 1).then_some(()))
    })?;
    println!(
        "by the next hub after {:.1} s",
        start.elapsed().as_secs_f32()
    );
    let spoke = world.daemon("spoke-a")?;
    let status = spoke.wait_until_up(&["hub-2"], PATIENCE)?;
    ensure!(
        tunnel(&status, "hub-1")?.state == TunnelState::Pending,
        "{status:?}"
    );
    nothing_leaked(&world)
}

pub(crate) fn a_spoke_without_its_secret_sends_nothing_in_clear() -> Result<()> {
    let mut world = watched()?;
    let charon = Charon::of_instance(world.namespace("spoke-a")?)?;
    let secret = world.namespace("spoke-a")?.directory().join("fleet.secret");
    let config = format!(
        "privnet = \"{PRIVNET}\"\ntransport = \"ipsec\"\npreshared_key = {{ file = {secret:?} }}\n\
         [ipsec]\nsocket = {:?}\n[nat]\negress = true\n[[hub]]\nendpoint = \"{HUB_PUBLIC}\"\n",
        charon.socket()
    );
    world.start("spoke-a", &config)?;
    wait_until("a word about the secret", PATIENCE, || {
        let tunnel = tunnel(&world.daemon("spoke-a")?.status()?, "hub")?;
        let reason = tunnel.reason.map(|reason| reason.to_string());
        Ok(reason.filter(|reason| reason.contains("no fleet secret")))
    })?;
    // Its own internet is there, and the privnet is nowhere.
    sees(&world, "host-a", WEB, public_address(&world, "spoke-a")?)?;
    let host_b = world.host("host-b")?.instance.address;
    ensure!(world.namespace("host-a")?.ping(host_b, 3)? == 0);
    nothing_leaked(&world)?;
    world.check()
}

/// What only the kernel's ESP can do is told where strongSwan does ESP.
pub(crate) fn a_cidr_that_strongswans_own_esp_cannot_serve_is_told() -> Result<()> {
    let mut world = watched()?;
    let hub = Charon::of_instance(world.namespace("hub")?)?;
    let _charon = start_spoke_by_ipsec(&mut world, "spoke-b", &[HUB_PUBLIC])?;
    let secret = fleet_secret(&world, "hub")?;
    let config = with_charon(&world, &hub)? + &format!("[trust]\n{secret}");
    world.start("hub", &config)?;
    wait_until("a word about the second CIDR", SLOW, || {
        let tunnel = tunnel(&world.daemon("spoke-b")?.status()?, "hub")?;
        let reason = tunnel.reason.map(|reason| reason.to_string());
        let about = "strongSwan's own ESP needs an address of this host in 10.20.0.0/16";
        Ok(reason.filter(|reason| reason.contains(about)))
    })?;
    nothing_leaked(&world)?;
    world.check()
}

fn start_hub(world: &mut World, name: &str, charon: &Charon) -> Result<()> {
    let secret = fleet_secret(world, name)?;
    let config = hub_config(world.host(name)?);
    let socket = charon.socket();
    let config = format!("{config}[ipsec]\nsocket = {socket:?}\n[trust]\n{secret}");
    world.start(name, &config).map(drop)
}

/// What `ami/IPSEC.md` says of the next hub's turn; a busy machine gets twice as long.
const FAILOVER: Duration = Duration::from_secs(15);

/// The same of the way back: 30 s, in which the first hub must answer, after it is there.
const RETURN: Duration = Duration::from_secs(60);

/// Both spokes change hubs, each when it saw the first one last, and are not connected
/// meanwhile.
const RETURN_GAP: Duration = Duration::from_secs(20);

/// The demo network, with one CIDR for each VPC: strongSwan's own ESP, which the tests have,
/// wants an address of the host in each.
fn with_single_cidrs() -> Result<Network> {
    let mut network = topology::demo();
    let with_two_cidrs = network.vpcs.iter_mut().find(|vpc| vpc.name == "vpc-b");
    let with_two_cidrs = with_two_cidrs.context("no vpc-b")?;
    with_two_cidrs.cidrs.truncate(1);
    with_two_cidrs.subnets.truncate(2);
    Ok(network)
}

/// The hub polls once an hour: that it knows a new spoke before is because it calls.
pub(crate) fn a_new_spoke_by_ipsec_joins_when_it_calls() -> Result<()> {
    let network = with_single_cidrs()?;
    let mut world = World::build(&network)?;
    world.capture(&network, &["hub", "spoke-a", "spoke-b"])?;
    let charon = Charon::of_instance(world.namespace("hub")?)?;
    start_hub(&mut world, "hub", &charon)?;
    wait_until("the hub's first poll", PATIENCE, || {
        let status = world.daemon("hub")?.status()?;
        let polled = status.partitions.iter().all(|it| it.polls > 0);
        Ok((polled && !status.partitions.is_empty()).then_some(()))
    })?;
    let _a = start_spoke_by_ipsec(&mut world, "spoke-a", &[HUB_PUBLIC])?;
    wait_until_up(&world, &["spoke-a"], SLOW)?;
    let _b = start_spoke_by_ipsec(&mut world, "spoke-b", &[HUB_PUBLIC])?;
    wait_until_up(&world, &["spoke-a", "spoke-b"], SLOW)?;
    reach_each_other(&world, "host-a", "host-b")?;
    // The first one was refused before it could say who it is.
    let log = world.daemon("hub")?.process.log();
    let early = |line: &str| line.contains("asking EC2 early");
    ensure!(log.lines().any(early), "{log}");
    nothing_leaked(&world)?;
    world.check()
}

/// The longest that a host may be without the internet while a sibling is well, less what
/// was the machine's; and with that.
const STANDS_IN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15));

/// The same without the privnet: strongSwan, which does ESP itself here, sends to a spoke
/// until it knows that it is dead. A busy machine gets twice as long.
const DEAD_PEER: Duration = Duration::from_secs(15);

/// Two zones of a VPC, each with a spoke by IPsec of its own: both have tunnels at once,
/// and one stands in for the other as by WireGuard.
pub(crate) fn spokes_by_ipsec_serve_a_zone_each_and_stand_in_for_each_other() -> Result<()> {
    let zones = [("spoke-d1", "host-d1", 1), ("spoke-d2", "host-d2", 3)];
    let spokes = zones.map(|(spoke, ..)| spoke);
    let mut network = topology::demo();
    network.vpcs.push(topology::two_gateways());
    let mut world = World::build(&network)?;
    world.capture(&network, &["hub", "spoke-d1", "spoke-d2"])?;
    let followers = zones.map(|(_, host, subnet)| Follower { host, subnet });
    let fabric = Fabric::start(&world, "vpc-d", &followers, &spokes)?;
    let hub = Charon::of_instance(world.namespace("hub")?)?;
    let serves = format!(
        "[routes]\ntables = \"zone\"\nsource_dest_check = \"off\"\n\
         siblings = {{ service = \"nat\", env = \"prod\" }}\n\
         [self_test]\ntargets = [\"{WEB}:80\"]\n"
    );
    let mut charons = BTreeMap::new();
    for spoke in spokes {
        let charon = start_spoke_by_ipsec_with(&mut world, spoke, &[HUB_PUBLIC], &serves)?;
        charons.insert(spoke, charon);
    }
    start_hub(&mut world, "hub", &hub)?;
    let at_home = |world: &World| -> Result<()> {
        let status = wait_until_up(world, &spokes, SLOW)?;
        let mut roles = Vec::new();
        for spoke in spokes {
            roles.push(tunnel(&status, spoke)?.gateway.map(|it| it.role));
        }
        ensure!(roles.contains(&Some(GatewayRole::Active)), "{roles:?}");
        for (spoke, host, _) in zones {
            wait_until(&format!("{host} to be led home"), SLOW, || {
                let now = fabric.egress_of(host);
                ensure!(now == Some(spoke), "{host} is led to {now:?}");
                Ok(Some(()))
            })?;
            wait_until(&format!("{host} to reach the hub's VPC"), SLOW, || {
                let host_hub = world.host("host-hub")?.instance.address;
                Ok((world.namespace(host)?.ping(host_hub, 1)? == 1).then_some(()))
            })?;
            reach_each_other(world, "host-hub", host)?;
        }
        Ok(())
    };
    at_home(&world)?;

    // The last time it is the one through which strongSwan sends, whose tunnel is newest.
    for (spoke, host, _) in [zones[0], zones[1], zones[1]] {
        let host_hub = world.host("host-hub")?.instance.address;
        let heartbeat = Heartbeat::start();
        let mut asking = Vec::new();
        for (_, host, _) in zones {
            let namespace = world.namespace(host)?;
            let pings = LongPing::start(namespace, host_hub)?;
            asking.push((host, Requests::start(namespace, WEB), pings));
        }
        for (.., pings) in &asking {
            pings.answers(5, PATIENCE)?;
        }
        // As when its hardware fails.
        world.crash(spoke)?;
        unplug(&world, spoke)?;
        let charon = charons.remove(spoke).context("killed twice")?;
        charon.kill()?;
        wait_until(&format!("{host} to be led elsewhere"), PATIENCE, || {
            Ok((fabric.egress_of(host) != Some(spoke)).then_some(()))
        })?;
        for (.., pings) in &asking {
            pings.answers(20, SLOW)?;
        }
        for (asker, requests, pings) in asking {
            let made = requests.end()?;
            let ours = |time: &Range<Instant>| length(time).saturating_sub(heartbeat.stalled(time));
            let outages = outages(&made);
            let whole = outages.iter().map(length).max().unwrap_or_default();
            let worst = outages.iter().map(ours).max().unwrap_or_default();
            let gap = pings.end()?.longest_gap(Duration::from_secs(1));
            println!(
                "{spoke} killed: {asker} without internet {:.2} s, {:.2} s of it ours; without \
                 privnet {:.1} s",
                whole.as_secs_f32(),
                worst.as_secs_f32(),
                gap.as_secs_f32()
            );
            ensure!(
                worst <= STANDS_IN.0 && whole <= STANDS_IN.1,
                "{asker}: {outages:?}"
            );
            ensure!(gap <= DEAD_PEER * 2, "{asker}: {gap:?} without the privnet");
        }
        // The other way as well, by the one that is left.
        reach_each_other(&world, "host-hub", host)?;
        wait_until("the hub to know that it is dead", SLOW, || {
            let told = tunnel(&world.daemon("hub")?.status()?, spoke)?;
            Ok((told.state == TunnelState::Down).then_some(()))
        })?;

        plug_in(&world, spoke)?;
        let charon = Charon::of_instance(world.namespace(spoke)?)?;
        charons.insert(spoke, charon);
        world.start_again(spoke)?;
        at_home(&world)?;
    }

    // Its strongSwan alone dies: a sibling has the privnet, the internet stays where it is.
    let (spoke, host, _) = zones[0];
    let has_privnet = |by: &str| {
        wait_until(&format!("{by} to have {host}'s privnet"), SLOW, || {
            let moves = fabric.moves();
            let of_host = |one: &&Moved| one.host == host && one.destination == PRIVNET;
            let now = moves.iter().rfind(of_host).map(|one| one.to);
            ensure!(now == Some(by), "{now:?} has it");
            Ok(Some(()))
        })
    };
    has_privnet(spoke)?;
    let namespace = world.namespace(host)?;
    let heartbeat = Heartbeat::start();
    let requests = Requests::start(namespace, WEB);
    let pings = LongPing::start(namespace, world.host("host-hub")?.instance.address)?;
    pings.answers(5, PATIENCE)?;
    charons.remove(spoke).context("killed twice")?.kill()?;
    has_privnet("spoke-d2")?;
    pings.answers(20, SLOW)?;
    ensure!(fabric.egress_of(host) == Some(spoke), "the internet moved");
    let outages = outages(&requests.end()?);
    let ours = |time: &Range<Instant>| length(time).saturating_sub(heartbeat.stalled(time));
    let worst = outages.iter().map(ours).max().unwrap_or_default();
    ensure!(worst < Duration::from_secs(1), "{outages:?}");
    let gap = pings.end()?.longest_gap(Duration::from_secs(1));
    println!("charon of {spoke} killed: {host} without privnet {gap:.1?}");
    ensure!(gap <= DEAD_PEER * 2, "{gap:?} without the privnet");
    let charon = Charon::of_instance(world.namespace(spoke)?)?;
    charons.insert(spoke, charon);
    has_privnet(spoke)?;
    at_home(&world)?;
    fabric.end()?;
    nothing_leaked(&world)
}

/// Two hubs of ours, in VPCs of their own, that both find the spokes.
pub(crate) fn of_two_hubs_the_next_serves_its_private_network_when_one_dies() -> Result<()> {
    let mut network = with_single_cidrs()?;
    network.vpcs.push(topology::second_hub());
    let mut world = World::build(&network)?;
    world.capture(&network, &["hub", "hub-2", "spoke-a", "spoke-b"])?;
    let first = Charon::of_instance(world.namespace("hub")?)?;
    let second = Charon::of_instance(world.namespace("hub-2")?)?;
    let hubs = [HUB_PUBLIC, SECOND_HUB_PUBLIC];
    let _a = start_spoke_by_ipsec(&mut world, "spoke-a", &hubs)?;
    let _b = start_spoke_by_ipsec(&mut world, "spoke-b", &hubs)?;
    // The first one first: a spoke stays with the hub that takes it.
    start_hub(&mut world, "hub", &first)?;
    wait_until_up(&world, &["spoke-a", "spoke-b"], SLOW)?;
    start_hub(&mut world, "hub-2", &second)?;
    wait_until("the second hub to know both", SLOW, || {
        let known = second.swanctl(&["--list-conns"])?;
        Ok((known.matches("privnet-i-").count() >= 2).then_some(()))
    })?;
    reach_each_other(&world, "host-a", "host-b")?;
    let idle = world.daemon("hub-2")?.status()?;
    for spoke in ["spoke-a", "spoke-b"] {
        ensure!(tunnel(&idle, spoke)?.state != TunnelState::Up, "{idle:?}");
    }

    let pings = LongPing::start(
        world.namespace("host-a")?,
        world.host("host-b")?.instance.address,
    )?;
    pings.answers(5, PATIENCE)?;
    world.crash("hub")?;
    first.kill()?;
    let start = Instant::now();
    world
        .daemon("hub-2")?
        .wait_until_up(&["spoke-a", "spoke-b"], SLOW)?;
    pings.answers(5, PATIENCE)?;
    let took = start.elapsed();
    println!("by the second hub after {:.1} s", took.as_secs_f32());
    ensure!(took < FAILOVER * 2, "by the second hub after {took:?}");
    reach_each_other(&world, "host-b", "host-a")?;
    drop(pings);
    for spoke in ["spoke-a", "spoke-b"] {
        let about = format!("{spoke}: a word about the first hub");
        wait_until(&about, SLOW, || {
            let first = tunnel(&world.daemon(spoke)?.status()?, "hub-1")?;
            ensure!(first.state == TunnelState::Pending, "{first:?}");
            let reason = first.reason.map(|reason| reason.to_string());
            Ok(reason.filter(|reason| reason.contains("does not answer")))
        })?;
    }

    // The first hub comes back, and lasts: both go back to it.
    let first = Charon::of_instance(world.namespace("hub")?)?;
    world.start_again("hub")?;
    let pings = LongPing::start(
        world.namespace("host-a")?,
        world.host("host-b")?.instance.address,
    )?;
    let start = Instant::now();
    world
        .daemon("hub")?
        .wait_until_up(&["spoke-a", "spoke-b"], RETURN * 2)?;
    println!("back after {:.1} s", start.elapsed().as_secs_f32());
    ensure!(
        start.elapsed() >= Duration::from_secs(30),
        "the hub had no time to prove that it lasts"
    );
    pings.answers(5, PATIENCE)?;
    let answered = pings.end()?;
    let gap = answered.longest_gap(Duration::from_secs(1));
    println!(
        "the way back took {:.1} s without packets",
        gap.as_secs_f32()
    );
    ensure!(gap < RETURN_GAP, "{gap:?} without packets");
    for spoke in ["spoke-a", "spoke-b"] {
        let own = world.daemon(spoke)?.wait_until_up(&["hub-1"], PATIENCE)?;
        ensure!(
            tunnel(&own, "hub-2")?.state == TunnelState::Pending,
            "{own:?}"
        );
    }
    reach_each_other(&world, "host-b", "host-a")?;
    drop(first);
    nothing_leaked(&world)
}
