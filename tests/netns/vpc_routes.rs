//! The spokes of a VPC stand in for each other: measured from a private host, whose
//! default route follows what the spokes write into the VPC's route tables (drawn at
//! `privnet_tests::topology::two_gateways`).

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use privnet_model::status::RoutesStatus;
use privnet_tests::deployment::{PATIENCE, public_address, sees, start_siblings};
use privnet_tests::long_ping::LongPing;
use privnet_tests::process::wait_until;
use privnet_tests::topology::{self, WEB};
use privnet_tests::vpc_fabric::{Fabric, Follower};
use privnet_tests::world::World;

/// What is asked of a takeover; a busy machine gets three times as long before a test
/// fails, and the time is printed. `takeover` tells the machine's part from the spokes'.
const GOAL: Duration = Duration::from_secs(5);

const HOSTS: [Follower; 2] = [
    Follower {
        host: "host-d1",
        subnet: 1,
    },
    Follower {
        host: "host-d2",
        subnet: 3,
    },
];

/// The world, with both spokes serving their own zone.
pub(crate) struct Running {
    pub(crate) world: World,
    pub(crate) fabric: Fabric,
}

impl Running {
    fn start() -> Result<Self> {
        let running = Self::start_with(|_| Ok(String::new()))?;
        running.is_seen_as("host-d1", "spoke-d1")?;
        running.is_seen_as("host-d2", "spoke-d2")?;
        Ok(running)
    }

    /// With more at the end of the spokes' config files.
    pub(crate) fn start_with(more: impl FnOnce(&World) -> Result<String>) -> Result<Self> {
        let mut network = topology::demo();
        network.vpcs.push(topology::two_gateways());
        let mut world = World::build(&network)?;
        let fabric = Fabric::start(&world, "vpc-d", &HOSTS, &["spoke-d1", "spoke-d2"])?;
        let more = more(&world)?;
        start_siblings(&mut world, &["spoke-d1", "spoke-d2"], &more)?;
        let running = Self { world, fabric };
        running.wait_until_led("host-d1", "spoke-d1")?;
        running.wait_until_led("host-d2", "spoke-d2")?;
        Ok(running)
    }

    pub(crate) fn wait_until_led(&self, host: &str, spoke: &str) -> Result<()> {
        wait_until(
            &format!("{host} to be led to {spoke}"),
            PATIENCE * 3,
            || {
                let now = self.fabric.egress_of(host);
                ensure!(now == Some(spoke), "{host} is led to {now:?}");
                Ok(Some(()))
            },
        )
    }

    fn is_seen_as(&self, host: &str, spoke: &str) -> Result<()> {
        sees(&self.world, host, WEB, public_address(&self.world, spoke)?)
    }

    pub(crate) fn routes(&self, spoke: &str) -> Result<RoutesStatus> {
        let status = self.world.daemon(spoke)?.status()?;
        Ok(status.routes.unwrap_or_default())
    }

    /// Every spoke knows that the other is well.
    pub(crate) fn wait_until_all_is_well(&self) -> Result<()> {
        for spoke in ["spoke-d1", "spoke-d2"] {
            wait_until(&format!("all to be well for {spoke}"), PATIENCE, || {
                let routes = self.routes(spoke)?;
                let well = routes.siblings.iter().all(|one| one.state == "well");
                ensure!(
                    routes.sick.is_none() && well && routes.siblings.len() == 1,
                    "{routes:?}"
                );
                Ok(Some(()))
            })?;
        }
        Ok(())
    }

    /// Something happens to the spoke of host-d2, and the other stands in.
    fn fails_over(
        &mut self,
        what: &str,
        fault: impl FnOnce(&mut World) -> Result<()>,
    ) -> Result<()> {
        self.wait_until_all_is_well()?;
        let ping = LongPing::start(self.world.namespace("host-d2")?, WEB)?;
        ping.answers(10, PATIENCE)?;
        fault(&mut self.world)?;
        self.wait_until_led("host-d2", "spoke-d1")?;
        ping.answers(10, PATIENCE)?;
        let gap = ping.end()?.longest_gap(Duration::from_secs(1));
        println!("{what}: no answer for {:.2} s", gap.as_secs_f32());
        ensure!(gap <= GOAL * 3, "{what}: no answer for {gap:?}");
        self.is_seen_as("host-d2", "spoke-d1")
    }

    fn is_given_back(&self) -> Result<()> {
        self.wait_until_led("host-d2", "spoke-d2")?;
        self.is_seen_as("host-d2", "spoke-d2")
    }
}

pub(crate) fn a_spoke_that_hangs_or_dies_is_stood_in_for() -> Result<()> {
    let mut running = Running::start()?;
    let ids = |world: &World| -> Result<_> { Ok(world.host("spoke-d2")?.metadata.clone()) };
    let metadata = ids(&running.world)?;
    let check = running.world.ec2.call(
        &metadata.region,
        "DescribeNetworkInterfaces",
        &[("NetworkInterfaceId.1", metadata.interface.as_str())],
    )?;
    ensure!(check.contains("<sourceDestCheck>false"), "{check}");

    running.fails_over("the daemon hangs", |world| {
        world.daemon("spoke-d2")?.process.signal(Signal::SIGSTOP)
    })?;
    let daemon = running.world.daemon("spoke-d2")?;
    daemon.process.signal(Signal::SIGCONT)?;
    running.is_given_back()?;

    running.fails_over("the daemon is killed", |world| world.crash("spoke-d2"))?;
    running.world.start_again("spoke-d2")?;
    running.is_given_back()?;
    let routes = running.routes("spoke-d1")?;
    let took = routes.last_takeover;
    ensure!(routes.taken_over >= 2 && took.is_some(), "{routes:?}");
    running.world.check()
}

pub(crate) fn a_spoke_without_egress_serves_nothing_until_it_has_it_again() -> Result<()> {
    let mut running = Running::start()?;
    let address = running.world.host("spoke-d2")?.instance.address;
    running.fails_over("no way out upstream", |world| {
        world.router("vpc-d")?.nft(&format!(
            "table ip broken {{
    chain forward {{
        type filter hook forward priority -10
        oifname uplink ip saddr {address} drop
    }}
}}
"
        ))
    })?;
    let sick = running.routes("spoke-d2")?.sick;
    ensure!(sick.is_some_and(|why| why.contains("no way to the internet")));
    running
        .world
        .router("vpc-d")?
        .nft("delete table ip broken\n")?;
    running.is_given_back()?;

    // What a stranger takes away is put back, mostly before anybody stands in.
    running.wait_until_all_is_well()?;
    let before = running.fabric.moves().len();
    let ping = LongPing::start(running.world.namespace("host-d2")?, WEB)?;
    ping.answers(10, PATIENCE)?;
    let spoke = running.world.namespace("spoke-d2")?;
    spoke.nft("delete table inet privnet\n")?;
    wait_until("the rules to be back", PATIENCE, || {
        let rules = spoke.run("nft", ["list", "tables"])?;
        Ok(rules.contains("inet privnet").then_some(()))
    })?;
    ping.answers(10, PATIENCE)?;
    let gap = ping.end()?.longest_gap(Duration::from_secs(1));
    println!("rules deleted: no answer for {:.2} s", gap.as_secs_f32());
    ensure!(gap <= GOAL * 3, "rules deleted: no answer for {gap:?}");
    let moves = running.fabric.moves().len() - before;
    println!("rules deleted: {moves} routes moved");
    running.world.check()
}

pub(crate) fn a_spoke_that_stops_hands_its_routes_over_first() -> Result<()> {
    let mut running = Running::start()?;
    running.fails_over("planned stop", |world| world.stop("spoke-d2"))?;
    running.world.start_again("spoke-d2")?;
    running.is_given_back()?;
    // One that is only started anew keeps them.
    running.wait_until_all_is_well()?;
    let before = running.fabric.moves().len();
    let daemon = running.world.daemon("spoke-d2")?;
    daemon.process.signal(Signal::SIGINT)?;
    wait_until("the daemon to end", PATIENCE, || {
        Ok(running
            .world
            .daemon("spoke-d2")?
            .status()
            .is_err()
            .then_some(()))
    })?;
    running.world.start_again("spoke-d2")?;
    running.wait_until_all_is_well()?;
    ensure!(running.fabric.moves().len() == before, "routes were moved");
    running.is_seen_as("host-d2", "spoke-d2")?;
    let Running { world, fabric } = running;
    drop(world);
    let moves = fabric.end().unwrap_or_default();
    let bound = 20;
    ensure!(moves.len() <= bound, "{} moves: {moves:?}", moves.len());
    Ok(())
}
