//! The main job, on the demo network (drawn at `privnet_tests::topology::demo`):
//! discovery, tunnels, routing, NAT, joining, leaving, restarts.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use privnet_tests::deployment::{
    self, PATIENCE, launch_latecomer, nothing_leaked, ping_without_loss, public_address,
    reach_each_other, sees, start_hub, start_spoke, start_spokes, tunnels, wait_for_published_key,
    wait_until_up,
};
use privnet_tests::fault_proxy::{Fault, FaultKind};
use privnet_tests::process::wait_until;
use privnet_tests::topology::{self, WEB};
use privnet_tests::world::World;

const SPOKES: [&str; 2] = ["spoke-a", "spoke-b"];

/// What the issue asks of a restart; a busy machine gets three times as long
/// before the test fails, and the time is printed.
const RESTART_GOAL: Duration = Duration::from_secs(5);

pub(crate) fn the_hub_finds_every_spoke_at_boot_and_routes_between_them() -> Result<()> {
    let mut world = World::build(&topology::demo())?;
    start_spokes(&mut world)?;
    start_hub(&mut world)?;
    let status = wait_until_up(&world, &SPOKES, PATIENCE)?;
    ensure!(status.partitions.len() == topology::REGIONS.len());
    ensure!(status.problems.is_empty(), "{:?}", status.problems);
    let b = status
        .tunnels
        .iter()
        .find(|tunnel| tunnel.name == "spoke-b");
    let cidrs: Vec<String> = b
        .map(|tunnel| tunnel.cidrs.iter().map(ToString::to_string).collect())
        .unwrap_or_default();
    ensure!(
        cidrs == ["10.2.0.0/16", "10.20.0.0/16"],
        "spoke-b has {cidrs:?}"
    );

    reach_each_other(&world, "host-a", "host-b")?;
    reach_each_other(&world, "host-a", "host-b2")?;
    reach_each_other(&world, "host-hub", "host-a")?;
    reach_each_other(&world, "host-hub", "host-b2")?;
    for (from, to) in [
        ("host-a", "host-b"),
        ("host-b2", "host-a"),
        ("host-hub", "host-b"),
    ] {
        ping_without_loss(&world, from, to, 200)?;
    }
    nothing_leaked(&world)?;
    world.check()
}

pub(crate) fn private_hosts_reach_the_internet_as_their_gateway() -> Result<()> {
    let world = deployment::demo()?;
    for (host, gateway) in [
        ("host-a", "spoke-a"),
        ("host-b", "spoke-b"),
        ("host-b2", "spoke-b"),
        ("host-hub", "nat-hub"),
    ] {
        sees(&world, host, WEB, public_address(&world, gateway)?)?;
    }
    Ok(())
}

pub(crate) fn a_spoke_launched_later_joins_and_a_terminated_one_leaves() -> Result<()> {
    let mut world = deployment::demo()?;
    wait_until_up(&world, &SPOKES, PATIENCE)?;
    launch_latecomer(&mut world)?;
    tunnels(&world, &["refresh"])?;
    wait_until_up(&world, &["spoke-a", "spoke-b", "spoke-c"], PATIENCE)?;
    reach_each_other(&world, "host-c", "host-a")?;
    reach_each_other(&world, "host-c", "host-hub")?;

    world.terminate("spoke-c")?;
    tunnels(&world, &["refresh"])?;
    wait_until("spoke-c to leave", PATIENCE, || {
        let status = world.daemon("hub")?.status()?;
        let gone = status.tunnels.iter().all(|tunnel| tunnel.name != "spoke-c");
        Ok(gone.then_some(()))
    })?;
    let routes = world.namespace("hub")?.run("ip", ["route"])?;
    ensure!(
        !routes.contains("10.3.0.0/16"),
        "its route is still there:\n{routes}"
    );
    reach_each_other(&world, "host-a", "host-b")?;
    world.check()
}

pub(crate) fn a_gigabyte_crosses_the_relay_with_its_checksum() -> Result<()> {
    let world = deployment::demo()?;
    wait_until_up(&world, &SPOKES, PATIENCE)?;
    let checksum = |host: &str| {
        let command =
            "curl -sS --fail --max-time 600 http://10.2.1.10/bytes/1000000000 | sha256sum";
        world.namespace(host)?.run("sh", ["-c", command])
    };
    reach_each_other(&world, "host-a", "host-b")?;
    let sent = checksum("host-b")?;
    let start = Instant::now();
    let received = checksum("host-a")?;
    ensure!(sent == received, "sent {sent}, received {received}");
    println!("1 GB in {:.1} s", start.elapsed().as_secs_f32());
    Ok(())
}

pub(crate) fn a_hub_restarted_while_the_api_is_down_restores_every_tunnel() -> Result<()> {
    let mut world = deployment::demo()?;
    wait_until_up(&world, &SPOKES, PATIENCE)?;
    reach_each_other(&world, "host-a", "host-b")?;
    for crash in [false, true] {
        world.faults.set(&[Fault::everywhere(FaultKind::Hang)])?;
        if crash {
            world.crash("hub")?;
        } else {
            world.stop("hub")?;
        }
        let start = Instant::now();
        world.start_again("hub")?;
        for (from, to) in [
            ("host-a", "host-b"),
            ("host-b2", "host-a"),
            ("host-hub", "host-b"),
        ] {
            carries_within(&world, from, to, RESTART_GOAL * 3)?;
        }
        println!(
            "traffic again {:.1} s after the {} (goal {} s)",
            start.elapsed().as_secs_f32(),
            if crash { "crash" } else { "restart" },
            RESTART_GOAL.as_secs()
        );
        world.check()?;
    }
    Ok(())
}

pub(crate) fn a_restarted_spoke_carries_traffic_again() -> Result<()> {
    let mut world = deployment::demo()?;
    wait_until_up(&world, &SPOKES, PATIENCE)?;
    reach_each_other(&world, "host-a", "host-b")?;
    for crash in [false, true] {
        if crash {
            world.crash("spoke-a")?;
        } else {
            world.stop("spoke-a")?;
        }
        let start = Instant::now();
        world.start_again("spoke-a")?;
        carries_within(&world, "host-a", "host-b", RESTART_GOAL * 3)?;
        println!(
            "traffic again {:.1} s after the {} (goal {} s)",
            start.elapsed().as_secs_f32(),
            if crash { "crash" } else { "restart" },
            RESTART_GOAL.as_secs()
        );
        reach_each_other(&world, "host-b", "host-a")?;
    }
    Ok(())
}

pub(crate) fn tunnels_tells_of_a_daemon_that_does_not_run_in_one_line() -> Result<()> {
    let world = World::build(&topology::demo())?;
    let output = privnet_tests::daemon::command(world.namespace("hub")?, "tunnels")?
        .arg("list")
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.stdout.is_empty() && said.lines().count() == 1,
        "{said}"
    );
    // 0 is success and 1 a failure; not to find the daemon is something else.
    let code = output.status.code();
    ensure!(code.is_some_and(|code| code > 1), "exit code {code:?}");
    Ok(())
}

pub(crate) fn a_dry_run_tells_what_would_change_and_changes_nothing() -> Result<()> {
    let mut world = deployment::demo()?;
    wait_until_up(&world, &SPOKES, PATIENCE)?;
    world.add_vpc(&topology::latecomer())?;
    // If it knocked, an early poll could have it join before it is asked.
    world.namespace("spoke-c")?.nft(
        "table inet silence { chain out { type filter hook output priority 0; udp dport 51820 drop; }; }",
    )?;
    start_spoke(&mut world, "spoke-c")?;
    wait_for_published_key(&mut world, "spoke-c")?;
    let told = tunnels(&world, &["refresh", "--dry-run"])?;
    ensure!(told.contains("spoke-c"), "{told}");
    let status = world.daemon("hub")?.status()?;
    ensure!(status.tunnels.iter().all(|tunnel| tunnel.name != "spoke-c"));
    Ok(())
}

fn carries_within(world: &World, from: &str, to: &str, patience: Duration) -> Result<()> {
    let address = world.host(to)?.instance.address;
    let namespace = world.namespace(from)?;
    wait_until(
        &format!("{from} to reach {to}"),
        patience,
        || match namespace.ping(address, 1)? {
            0 => bail!("no answer"),
            _ => Ok(Some(())),
        },
    )
}
