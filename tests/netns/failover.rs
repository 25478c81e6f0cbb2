//! Several spokes in one VPC: one site with several gateways (drawn at
//! `privnet_tests::topology::two_gateways`).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use nix::sys::signal::Signal;
use privnet_model::status::{Status, Tunnel, TunnelState};
use privnet_tests::deployment::{
    PATIENCE, nothing_leaked, ping_without_loss, reach_each_other, start_hub, start_spokes,
    wait_until_up,
};
use privnet_tests::long_ping::LongPing;
use privnet_tests::process::wait_until;
use privnet_tests::topology;
use privnet_tests::world::World;

/// What the issue asks of a failover; a busy machine gets three times as long
/// before the test fails, and the time is printed.
const FAILOVER_GOAL: Duration = Duration::from_secs(3);

fn world() -> Result<World> {
    let mut network = topology::demo();
    network.vpcs.push(topology::two_gateways());
    let mut world = World::build(&network)?;
    start_spokes(&mut world)?;
    start_hub(&mut world)?;
    wait_until_up(&world, &["spoke-a", "spoke-d1", "spoke-d2"], PATIENCE)?;
    Ok(world)
}

fn tunnel<'a>(status: &'a Status, name: &str) -> Result<&'a Tunnel> {
    let mut tunnels = status.tunnels.iter();
    tunnels
        .find(|tunnel| tunnel.name == name)
        .with_context(|| format!("no tunnel {name}"))
}

/// Whether the tunnel carries this subnet: it has the longest prefix that holds it.
fn carries(status: &Status, name: &str, subnet: &str) -> Result<bool> {
    let subnet: IpNet = subnet.parse()?;
    let owner = status
        .tunnels
        .iter()
        .flat_map(|tunnel| tunnel.cidrs.iter().map(move |cidr| (cidr, &tunnel.name)))
        .filter(|(cidr, _)| cidr.contains(&subnet))
        .max_by_key(|(cidr, _)| cidr.prefix_len());
    Ok(owner.is_some_and(|(_, owner)| owner == name))
}

fn wait_until_carried(world: &World, by: &str, subnet: &str) -> Result<()> {
    wait_until(
        &format!("{subnet} to go through {by}"),
        PATIENCE * 3,
        || {
            let status = world.daemon("hub")?.status()?;
            Ok(carries(&status, by, subnet)?.then_some(()))
        },
    )
}

pub(crate) fn each_zone_of_a_vpc_is_reached_through_its_own_spoke() -> Result<()> {
    let mut world = world()?;
    wait_until_carried(&world, "spoke-d1", "10.4.1.0/24")?;
    wait_until_carried(&world, "spoke-d2", "10.4.3.0/24")?;
    for host in ["host-d1", "host-d2"] {
        reach_each_other(&world, "host-a", host)?;
        reach_each_other(&world, "host-hub", host)?;
        ping_without_loss(&world, "host-a", host, 50)?;
    }
    nothing_leaked(&world)?;
    world.check()
}

pub(crate) fn a_gateway_that_hangs_is_replaced_within_seconds_and_comes_back() -> Result<()> {
    let mut world = world()?;
    wait_until_carried(&world, "spoke-d2", "10.4.3.0/24")?;
    reach_each_other(&world, "host-a", "host-d2")?;
    let target = world.host("host-d2")?.instance.address;
    let ping = LongPing::start(world.namespace("host-a")?, target)?;
    ping.answers(20, PATIENCE)?;

    // Its process hangs: the session is fresh, and nothing goes through.
    world.daemon("spoke-d2")?.process.signal(Signal::SIGSTOP)?;
    wait_until_carried(&world, "spoke-d1", "10.4.3.0/24")?;
    ping.answers(20, PATIENCE)?;
    let status = world.daemon("hub")?.status()?;
    let sick = tunnel(&status, "spoke-d2")?;
    ensure!(
        sick.state == TunnelState::Down,
        "spoke-d2 is {} ({:?}) and answers nothing",
        sick.state,
        sick.reason
    );
    let first = tunnel(&status, "spoke-d1")?;
    ensure!(
        first.state == TunnelState::Up,
        "spoke-d1 is {}",
        first.state
    );

    // It wakes up, proves itself, and gets its zone back: without a loss.
    world.daemon("spoke-d2")?.process.signal(Signal::SIGCONT)?;
    wait_until_carried(&world, "spoke-d2", "10.4.3.0/24")?;
    ping.answers(20, PATIENCE)?;
    let answered = ping.end()?;
    // What waited in the sleeper's buffers is answered when it wakes: too late.
    let gap = answered.longest_gap(Duration::from_secs(1));
    println!(
        "no answer for {:.1} s (goal {} s), of {} pings",
        gap.as_secs_f32(),
        FAILOVER_GOAL.as_secs(),
        answered.requests()
    );
    ensure!(gap <= FAILOVER_GOAL * 3, "no answer for {gap:?}");
    ensure!(
        gap >= Duration::from_millis(500),
        "the gateway was asleep, and nobody missed it"
    );
    nothing_leaked(&world)?;
    world.check()
}
