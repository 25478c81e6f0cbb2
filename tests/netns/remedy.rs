//! What is done about a spoke that stays lost, where the config asks for it: by the one
//! that stands in for it, once, and never to one that answers or was stopped by somebody.
//! In the VPC with a spoke in each of three zones (drawn at
//! `privnet_tests::topology::three_gateways`).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use privnet_model::status::{RemedyStatus, SiblingRemedy};
use privnet_tests::fault_proxy::{Fault, FaultKind};
use privnet_tests::moto::text_of;
use privnet_tests::process::wait_until;
use privnet_tests::vpc_fabric::Fabric;
use privnet_tests::world::World;

use crate::three_zones::{self, ZONES};

/// The shortest silence that the config takes, and what a busy machine needs beside.
const REMEDY: Duration = Duration::from_secs(150);
/// As long as nothing may happen, and something would: 5 s until one is lost, the silence,
/// and a look.
const NOTHING: Duration = Duration::from_secs(42);
/// As long as a spoke that was lost waits before it takes its routes back.
const GIVE_BACK: Duration = Duration::from_secs(60);

struct Running {
    world: World,
    _fabric: Fabric,
}

impl Running {
    fn start(remedy: &str) -> Result<Self> {
        let keys = format!("remedy = \"{remedy}\"\nremedy_after = \"30s\"\n");
        let (world, fabric) = three_zones::start(&keys)?;
        let running = Self {
            world,
            _fabric: fabric,
        };
        running.is_at_home()?;
        Ok(running)
    }

    fn remedy(&self, spoke: &str) -> Result<RemedyStatus> {
        let routes = three_zones::routes(&self.world, spoke)?;
        routes.remedy.context("no remedy")
    }

    /// Every spoke has its own routes, and knows that all are well.
    fn is_at_home(&self) -> Result<()> {
        self.is_well()?;
        for (spoke, ..) in ZONES {
            let me = &self.world.host(spoke)?.metadata.instance;
            wait_until(&format!("{spoke} to be at home"), GIVE_BACK * 2, || {
                let routes = three_zones::routes(&self.world, spoke)?.routes;
                let mut home = routes.iter().filter(|route| route.home);
                let at_home = home.all(|route| route.spoke.as_ref() == Some(me));
                ensure!(at_home && !routes.is_empty(), "{routes:?}");
                Ok(Some(()))
            })?;
        }
        Ok(())
    }

    /// All are well for each other, wherever the routes lead.
    fn is_well(&self) -> Result<()> {
        for (spoke, ..) in ZONES {
            three_zones::wait_until_well(&self.world, spoke, GIVE_BACK * 2)?;
        }
        Ok(())
    }

    /// One of the spokes says so of another.
    fn wait_for_state(&self, by: &[&str], of: &str, words: &str) -> Result<()> {
        let instance = &self.world.host(of)?.metadata.instance;
        wait_until(&format!("{of}: {words}"), REMEDY, || {
            let mut all = Vec::new();
            for spoke in by {
                all.extend(self.remedy(spoke)?.siblings);
            }
            let said = |one: &SiblingRemedy| one.instance == *instance && one.state.contains(words);
            ensure!(all.iter().any(said), "{all:?}");
            Ok(Some(()))
        })
    }

    /// How often the daemons asked for this.
    fn asked(&self, action: &str) -> Result<usize> {
        let calls = self.world.faults.calls()?;
        let calls = calls.iter().filter(|call| call.action == action);
        Ok(calls.count())
    }

    /// How often they met this fault there.
    fn met(&self, action: &str, fault: FaultKind) -> Result<usize> {
        let calls = self.world.faults.calls()?;
        let calls = calls.iter().filter(|call| call.action == action);
        Ok(calls.filter(|call| call.fault == Some(fault)).count())
    }

    /// What EC2 says that an instance does.
    fn state(&self, spoke: &str) -> Result<String> {
        let metadata = &self.world.host(spoke)?.metadata;
        let one = [("InstanceId.1", metadata.instance.as_str())];
        let region = &metadata.region;
        let answer = self.world.ec2.call(region, "DescribeInstances", &one)?;
        let (_, state) = answer
            .split_once("<instanceState>")
            .context("no state of the instance")?;
        let (state, _) = state
            .split_once("</instanceState>")
            .context("no end of the state")?;
        text_of(&format!("<state>{state}</state>"), "name")
    }

    fn restarted(&self, by: &[&str]) -> Result<u64> {
        let counts = by.iter().map(|spoke| Ok(self.remedy(spoke)?.restarted));
        counts.sum()
    }

    /// A spoke tells of a problem with all these words.
    fn wait_for_problem(&self, by: &[&str], words: &[&str]) -> Result<()> {
        wait_until(&format!("{words:?}"), REMEDY, || {
            let mut all = Vec::new();
            for spoke in by {
                all.extend(self.world.daemon(spoke)?.status()?.problems);
            }
            let named = |problem: &String| words.iter().all(|word| problem.contains(word));
            ensure!(all.iter().any(named), "{all:?}");
            Ok(Some(()))
        })
    }
}

pub(crate) fn one_that_stays_lost_is_restarted_once_and_no_other_ever() -> Result<()> {
    let mut running = Running::start("restart")?;

    // One that answers that it is sick, for longer than it might be silent; and one that
    // stops as planned.
    let address = running.world.host("spoke-d3")?.instance.address;
    let router = running.world.router("vpc-d")?;
    router.nft(&format!(
        "table ip broken {{
    chain forward {{
        type filter hook forward priority -10
        oifname uplink ip saddr {address} drop
    }}
}}
"
    ))?;
    running.world.stop("spoke-d2")?;
    running.wait_for_state(&["spoke-d1"], "spoke-d2", "lost: ")?;
    three_zones::wait_for_state(&running.world, "spoke-d1", "spoke-d3", "sick")?;
    std::thread::sleep(NOTHING);
    let state = three_zones::state_of(&running.world, "spoke-d1", "spoke-d3")?;
    let sick = state
        .as_ref()
        .is_some_and(|state| state.starts_with("sick"));
    ensure!(sick, "spoke-d3 is {state:?}");
    ensure!(running.asked("StopInstances")? == 0, "a sick one, or left");
    running
        .world
        .router("vpc-d")?
        .nft("delete table ip broken\n")?;
    running.world.start_again("spoke-d2")?;
    running.is_well()?;

    // One that dies.
    running.world.crash("spoke-d1")?;
    let others = ["spoke-d2", "spoke-d3"];
    wait_until("spoke-d1 to be restarted", REMEDY, || {
        Ok((running.restarted(&others)? == 1).then_some(()))
    })?;
    running.wait_for_state(&others, "spoke-d1", "something is done again after")?;
    // Whether it may was asked before.
    ensure!(running.asked("StartInstances")? == 2, "more than once");
    ensure!(running.state("spoke-d1")? == "running");
    running.world.start_again("spoke-d1")?;
    running.is_well()?;

    // One that somebody stopped. It is lost until the next search for siblings, within
    // 15 s, and forgotten then, which is sooner than anything would be done about it; nor
    // is it about the one before it once more. That EC2's word keeps it so while it is
    // known is the unit tests'.
    let metadata = &running.world.host("spoke-d2")?.metadata;
    let (region, instance) = (&metadata.region, &metadata.instance);
    running.world.ec2.stop(region, instance)?;
    running.world.crash("spoke-d2")?;
    for spoke in ["spoke-d1", "spoke-d3"] {
        wait_until(&format!("{spoke} to forget spoke-d2"), REMEDY, || {
            let state = three_zones::state_of(&running.world, spoke, "spoke-d2")?;
            ensure!(state.is_none(), "{state:?}");
            Ok(Some(()))
        })?;
    }
    ensure!(running.asked("StopInstances")? == 1, "more than once");
    ensure!(running.asked("StartInstances")? == 2, "more than once");
    ensure!(running.state("spoke-d2")? == "stopped");
    running.world.check()
}

pub(crate) fn a_restart_that_is_not_permitted_is_named_and_nothing_is_stopped_for_good()
-> Result<()> {
    let mut running = Running::start("restart")?;
    let others = ["spoke-d2", "spoke-d3"];
    running
        .world
        .faults
        .set(&[Fault::of_action("StartInstances", FaultKind::Denied)])?;
    running.world.crash("spoke-d1")?;
    let words = ["the role needs ec2:StartInstances", "remedy-policy.json"];
    running.wait_for_problem(&others, &words)?;
    ensure!(
        running.asked("StopInstances")? == 0,
        "it could not start it"
    );
    running
        .world
        .faults
        .set(&[Fault::of_action("StopInstances", FaultKind::Denied)])?;
    let words = ["the role needs ec2:StopInstances", "remedy-policy.json"];
    running.wait_for_problem(&others, &words)?;
    ensure!(running.state("spoke-d1")? == "running");

    // The start in earnest fails, and who asked for it is started anew: what it stopped it
    // starts. The dry run before the stop is let pass.
    let dry_run = Fault {
        containing: Some("DryRun=true".to_owned()),
        ..Fault::of_action("StartInstances", FaultKind::Slow(0))
    };
    let refused = running.met("StartInstances", FaultKind::Denied)?;
    let no_start = Fault::of_action("StartInstances", FaultKind::Denied);
    running.world.faults.set(&[dry_run, no_start])?;
    wait_until("spoke-d1 to be stopped, and not started", REMEDY, || {
        let stopped = running.state("spoke-d1")? == "stopped";
        let failed = running.met("StartInstances", FaultKind::Denied)? > refused;
        Ok((stopped && failed).then_some(()))
    })?;
    for spoke in others {
        running.world.crash(spoke)?;
    }
    ensure!(running.state("spoke-d1")? == "stopped");
    running.world.faults.clear()?;
    for spoke in others {
        running.world.start_again(spoke)?;
    }
    wait_until("spoke-d1 to run again", REMEDY, || {
        Ok((running.state("spoke-d1")? == "running").then_some(()))
    })?;
    running.world.check()
}

pub(crate) fn one_of_an_auto_scaling_group_is_reported_to_it_once() -> Result<()> {
    let mut running = Running::start("unhealthy")?;
    let others = ["spoke-d2", "spoke-d3"];
    let world = &running.world;
    let members = ZONES
        .iter()
        .map(|(spoke, ..)| Ok(&world.host(spoke)?.metadata))
        .collect::<Result<Vec<_>>>()?;
    let instances: Vec<_> = members.iter().map(|member| &member.instance).collect();
    let region = members[0].region.clone();
    let health = |running: &Running| {
        let of = |(spoke, ..): &(&str, &str, usize)| {
            let world = &running.world;
            let instance = &world.host(spoke)?.metadata.instance;
            world.ec2.health_of(&region, instance)
        };
        ZONES.iter().map(of).collect::<Result<Vec<_>>>()
    };

    running
        .world
        .faults
        .set(&[Fault::of_action("SetInstanceHealth", FaultKind::Denied)])?;
    let subnet = members[0].subnet.clone();
    world
        .ec2
        .create_group(&region, "spokes", &subnet, &instances)?;
    ensure!(health(&running)? == ["Healthy"; 3]);
    running.world.crash("spoke-d1")?;
    let words = [
        "the role needs autoscaling:SetInstanceHealth",
        "remedy-policy.json",
    ];
    running.wait_for_problem(&others, &words)?;
    ensure!(health(&running)? == ["Healthy"; 3]);
    running.world.faults.clear()?;
    wait_until("spoke-d1 to be reported", REMEDY, || {
        let reported = health(&running)? == ["Unhealthy", "Healthy", "Healthy"];
        Ok(reported.then_some(()))
    })?;
    let before = running.asked("SetInstanceHealth")?;
    running.wait_for_state(&others, "spoke-d1", "something is done again after")?;
    ensure!(running.asked("SetInstanceHealth")? == before, "once more");
    ensure!(running.asked("StopInstances")? == 0);
    let reported = others.map(|spoke| running.remedy(spoke).map(|one| one.reported));
    let reported: u64 = reported.into_iter().sum::<Result<u64>>()?;
    ensure!(reported == 1, "{reported}");
    running.world.check()
}
