//! NAT egress on the demo network (drawn at `privnet_tests::topology::demo`):
//! it goes on while the daemon is down, and touches nothing that is not its own.

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
