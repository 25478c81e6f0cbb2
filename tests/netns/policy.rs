//! Who may talk to whom, on the demo network (drawn at
//! `privnet_tests::topology::demo`).

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use privnet_model::status::Status;
use privnet_tests::daemon::{config_file, hub_config};
use privnet_tests::deployment::{
    PATIENCE, nothing_leaked, reach_each_other, start_spokes, tunnels, wait_until_up,
};
use privnet_tests::process::wait_until;
use privnet_tests::topology;
use privnet_tests::world::World;

/// How many of a few pings are answered.
fn pings(world: &World, from: &str, to: &str) -> Result<u32> {
    let to = world.host(to)?.instance.address;
    world.namespace(from)?.ping(to, 4)
}

pub(crate) fn sites_that_may_not_talk_do_not_and_the_operator_is_told_why() -> Result<()> {
    let mut world = World::build(&topology::demo())?;
    start_spokes(&mut world)?;
    let rule =
        "\n[[policy]]\naction = \"deny\"\nbetween = [\"site:spoke-a\"]\nand = [\"10.2.0.0/16\"]\n";
    let open = hub_config(world.host("hub")?);
    world.start("hub", &format!("{open}{rule}"))?;
    wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;
    // The other CIDR of b's VPC, and the hub's own VPC, are not meant.
    reach_each_other(&world, "host-a", "host-b2")?;
    reach_each_other(&world, "host-a", "host-hub")?;
    reach_each_other(&world, "host-b", "host-hub")?;
    for (from, to) in [("host-a", "host-b"), ("host-b", "host-a")] {
        let answered = pings(&world, from, to)?;
        ensure!(answered == 0, "{from} got {answered} answers of {to}");
    }
    let status = world.daemon("hub")?.status()?;
    let denied = status.policy.first().map(|rule| rule.denied);
    ensure!(denied >= Some(8), "{:?}", status.policy);
    let shown = tunnels(&world, &["show"])?;
    ensure!(shown.contains("site:spoke-a"), "{shown}");
    // Not connected is an exit code of its own, so the command fails.
    let why = tunnels(&world, &["why", "10.1.1.10", "10.2.1.10"]);
    let text = format!(
        "{:#}",
        why.err().unwrap_or_else(|| anyhow::anyhow!("connected"))
    );
    ensure!(text.contains("rule"), "{text}");
    let why = tunnels(&world, &["why", "10.1.1.10", "10.20.1.10"])?;
    ensure!(why.contains("spoke-a") && why.contains("spoke-b"), "{why}");

    // Taken back while packets flow.
    std::fs::write(config_file(world.host("hub")?), &open)?;
    world.daemon("hub")?.process.signal(Signal::SIGHUP)?;
    wait_until("host-a to reach host-b", PATIENCE, || {
        Ok((pings(&world, "host-a", "host-b")? == 4).then_some(()))
    })?;
    reach_each_other(&world, "host-a", "host-b")?;
    nothing_leaked(&world)?;
    world.check()
}

/// The first policy there is tells more kinds of addresses apart than a table holds.
pub(crate) fn a_first_policy_that_cannot_be_closes_the_hub_until_it_is_removed() -> Result<()> {
    let mut world = World::build(&topology::demo())?;
    start_spokes(&mut world)?;
    let addresses =
        (0..2100).map(|number| format!("\"10.99.{}.{}/32\"", number / 256, number % 256));
    let addresses: Vec<String> = addresses.collect();
    let rule = format!(
        "\n[[policy]]\naction = \"deny\"\nbetween = [{}]\nand = [\"hub\"]\n",
        addresses.join(", ")
    );
    let open = hub_config(world.host("hub")?);
    world.start("hub", &format!("{open}{rule}"))?;
    let status = wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;
    let told = |status: &Status| {
        let mut problems = status.problems.iter();
        problems.any(|problem| problem.contains("nothing may pass between sites"))
    };
    ensure!(told(&status), "{:?}", status.problems);
    for (from, to) in [("host-a", "host-b"), ("host-b", "host-a")] {
        let answered = pings(&world, from, to)?;
        ensure!(answered == 0, "{from} got {answered} answers of {to}");
    }
    std::fs::write(config_file(world.host("hub")?), &open)?;
    world.daemon("hub")?.process.signal(Signal::SIGHUP)?;
    wait_until("host-a to reach host-b", PATIENCE, || {
        Ok((pings(&world, "host-a", "host-b")? == 4).then_some(()))
    })?;
    let status = world.daemon("hub")?.status()?;
    ensure!(!told(&status), "{:?}", status.problems);
    nothing_leaked(&world)?;
    world.check()
}
