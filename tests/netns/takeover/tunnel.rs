//! The way to the hub ends for one spoke, and it alone.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use privnet_tests::process::wait_until;
use privnet_tests::topology::{PORT, PRIVNET};

use super::Running;
use crate::three_zones;

/// A tunnel counts as down when the last handshake is three minutes old.
const DOWN: Duration = Duration::from_secs(180);
/// What is left of the takeover then: the spoke's next look at its peers, the siblings' next
/// question, who has heard of the hub since, a look, a change.
const TAKEOVER: Duration = Duration::from_secs(20);

pub(crate) fn a_spoke_whose_tunnel_dies_leaves_the_privnet_to_a_sibling() -> Result<()> {
    let mut running = Running::start()?;
    let hub = running.world.host("host-hub")?.instance.address;
    let spoke = running.world.host("spoke-d1")?.instance.address;
    let reaches = |running: &Running| -> Result<bool> {
        Ok(running.world.namespace("host-d1")?.ping(hub, 1)? == 1)
    };
    wait_until("host-d1 to reach the privnet", TAKEOVER, || {
        Ok(reaches(&running)?.then_some(()))
    })?;
    let blocked = format!(
        "table ip blocked {{
    chain forward {{
        type filter hook forward priority -10
        ip saddr {spoke} udp dport {PORT} drop
        ip daddr {spoke} udp sport {PORT} drop
    }}
}}
"
    );
    let outages = running.during("tunnel of one spoke ends", |running| {
        running.world.router("vpc-d")?.nft(&blocked)?;
        let began = Instant::now();
        ensure!(!reaches(running)?, "its tunnel goes on");
        wait_until("another to have the privnet", DOWN + TAKEOVER, || {
            let led = running.led("host-d1");
            let away = led.get(PRIVNET).is_some_and(|to| *to != "spoke-d1");
            Ok(away.then_some(()))
        })?;
        let took = began.elapsed();
        wait_until("host-d1 to reach the privnet again", TAKEOVER, || {
            Ok(reaches(running)?.then_some(()))
        })?;
        let whole = began.elapsed();
        println!("the route moved after {took:.1?}, the privnet was back after {whole:.1?}");
        Ok(())
    })?;
    // The internet was never away, and is where it was.
    outages.only_of(&[])?;
    let led = running.led("host-d1");
    let internet: Vec<_> = led.iter().filter(|(net, _)| *net != PRIVNET).collect();
    let at_home = internet.iter().all(|(_, to)| **to == "spoke-d1");
    ensure!(internet.len() == 1 && at_home, "{led:?}");
    // Whoever asks is told.
    let routes = three_zones::routes(&running.world, "spoke-d2")?;
    let instance = &running.world.host("spoke-d1")?.metadata.instance;
    let told = routes.siblings.iter().find(|one| one.instance == *instance);
    ensure!(
        told.is_some_and(|one| one.state == "well" && one.tunnel_down),
        "{told:?}"
    );
    let problems = running.world.daemon("spoke-d1")?.status()?.problems;
    let told = problems
        .iter()
        .any(|problem| problem.contains("the tunnel to the hub is down"));
    ensure!(told, "{problems:?}");

    running
        .world
        .router("vpc-d")?
        .nft("delete table ip blocked\n")?;
    running.is_at_home()?;
    wait_until("host-d1 to reach the privnet", TAKEOVER, || {
        Ok(reaches(&running)?.then_some(()))
    })?;
    running.moved_little()?;
    running.world.check()
}
