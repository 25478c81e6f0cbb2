//! What becomes of the routes when EC2 refuses what a spoke asks of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use privnet_reconcile::takeover::{HOLD, STEP, UNABLE};
use privnet_tests::deployment::{PATIENCE, wait_until_up};
use privnet_tests::fault_proxy::{Fault, FaultKind};
use privnet_tests::moto::text_of;
use privnet_tests::process::wait_until;
use privnet_tests::topology::WEB;
use privnet_tests::world::World;

use super::{GIVE_BACK, GOAL, MOST, Running};
use crate::three_zones;

/// How long EC2 is away.
const ABSENT: Duration = Duration::from_secs(8);
/// A look at the tables is three requests when EC2 refuses it: so many are more than one look.
const REFUSED: usize = 4;
/// How long two siblings that do not hear each other have to fight over routes, if they do.
const FIGHT: Duration = Duration::from_secs(30);

impl Running {
    /// Waits until each of these spokes has looked at the tables in vain, and looked again,
    /// since EC2 was asked so many things.
    fn look_in_vain(&self, spokes: &[&str], since: usize) -> Result<()> {
        for spoke in spokes {
            let key = self.world.access_key(spoke)?;
            wait_until(&format!("EC2 to refuse {spoke}"), PATIENCE, || {
                let calls = self.world.faults.calls()?;
                let refused = calls.iter().skip(since).filter(|call| {
                    let look = call.action == "DescribeRouteTables";
                    look && call.access_key == key && call.fault.is_some()
                });
                let count = refused.count();
                ensure!(count >= REFUSED, "{count} requests refused");
                Ok(Some(()))
            })?;
        }
        Ok(())
    }
}

pub(crate) fn a_throttled_or_absent_ec2_delays_a_takeover_and_breaks_nothing() -> Result<()> {
    let mut running = Running::start()?;
    // The first six of each kind are refused, whoever asks.
    let throttled = ["DescribeRouteTables", "ReplaceRoute"].map(|action| Fault {
        times: Some(6),
        ..Fault::of_action(action, FaultKind::Throttled)
    });
    let at = ("spoke-d1", "host-d1");
    running.stands_in_within(MOST, "EC2 throttled", at, |world| {
        world.faults.set(&throttled)?;
        Running::dies(world, "spoke-d1")
    })?;
    running.world.faults.clear()?;
    running.is_started("spoke-d1")?;
    running.is_at_home()?;

    // Without EC2 nobody can help; nothing else happens, and it is quick afterwards.
    let before = running.fabric.moves().len();
    let outages = running.during("EC2 absent for 8 s", |running| {
        let down = Fault::everywhere(FaultKind::Unavailable);
        let asked = running.world.faults.calls()?.len();
        running.world.faults.set(&[down])?;
        Running::dies(&mut running.world, "spoke-d2")?;
        std::thread::sleep(ABSENT);
        running.look_in_vain(&["spoke-d1", "spoke-d3"], asked)?;
        running.world.faults.clear()?;
        running.is_led_away("host-d2", &["spoke-d2"])
    })?;
    outages.only_of_within(&["host-d2"], ABSENT + GOAL)?;
    running.moved_only_of("host-d2", before)?;
    running.is_started("spoke-d2")?;
    running.is_at_home()?;
    running.moved_little()?;
    running.world.check()
}

/// EC2 refuses the first in the order to stand in: whatever it asks for, or the changes
/// alone, of which nobody can know before it tries.
pub(crate) fn a_helper_that_ec2_refuses_is_stepped_in_for_by_the_next() -> Result<()> {
    let mut running = Running::start()?;
    // Who has been well for so long comes before who has not.
    std::thread::sleep(HOLD + STEP);
    let at = ("spoke-d1", "host-d1");
    running.stands_in("instance fails", at, |world| {
        Running::dies(world, "spoke-d1")
    })?;
    let first = running.fabric.egress_of("host-d1");
    let first = first.context("host-d1 is led nowhere")?;
    running.is_started("spoke-d1")?;
    running.is_at_home()?;

    let key = running.world.access_key(first)?.to_owned();
    let everything = Fault::by_caller(&key, FaultKind::Unavailable);
    let changes = Fault {
        action: Some("ReplaceRoute".to_owned()),
        ..everything.clone()
    };
    let cases = [
        ("EC2 refuses the first helper", everything),
        ("EC2 refuses its changes", changes),
    ];
    for (number, (what, refused)) in cases.into_iter().enumerate() {
        if number > 0 {
            // A spoke that failed to change a route lets others go first for so long.
            std::thread::sleep(UNABLE + STEP);
        }
        running.stands_in_within(GOAL + STEP, what, at, |world| {
            world.faults.set(&[refused])?;
            Running::dies(world, "spoke-d1")
        })?;
        let next = running.fabric.egress_of("host-d1");
        ensure!(next != Some(first), "{what}: {next:?} moved it");
        running.world.faults.clear()?;
        running.is_started("spoke-d1")?;
        running.is_at_home()?;
    }
    running.moved_little()?;
    running.world.check()
}

/// One hears neither of the others, the third fails, and EC2 is away: each of the two that work
/// wants the routes of the third, and takes the other for lost. Then EC2 is back, then the
/// network, then the third.
pub(crate) fn a_split_while_ec2_is_away_ends_in_no_fight_and_with_every_table_at_home() -> Result<()>
{
    let mut running = Running::start()?;
    let split = running.split("spoke-d1", &["spoke-d2", "spoke-d3"])?;
    let address = running.world.host("spoke-d3")?.instance.address;
    // It reaches EC2, and nobody behind it the internet.
    let broken = format!(
        "table ip broken {{
    chain forward {{
        type filter hook forward priority -10
        oifname uplink ip saddr {address} ip daddr {WEB} drop
    }}
}}
"
    );
    let before = running.fabric.moves().len();
    let outages = running.during("split, one sick, EC2 away", |running| {
        let down = Fault::everywhere(FaultKind::Unavailable);
        running.world.faults.set(&[down])?;
        let router = running.world.router("vpc-d")?;
        router.nft(&split)?;
        router.nft(&broken)?;
        for (spoke, other) in [("spoke-d1", "spoke-d2"), ("spoke-d2", "spoke-d1")] {
            three_zones::wait_for_state(&running.world, spoke, other, "lost")?;
        }
        three_zones::wait_for_state(&running.world, "spoke-d2", "spoke-d3", "sick")?;
        three_zones::wait_for_state(&running.world, "spoke-d1", "spoke-d3", "lost")?;
        let asked = running.world.faults.calls()?.len();
        running.look_in_vain(&["spoke-d1", "spoke-d2"], asked)?;
        running.world.faults.clear()?;
        running.is_led_away("host-d3", &["spoke-d3"])?;
        std::thread::sleep(FIGHT);
        Ok(())
    })?;
    for host in ["host-d1", "host-d2"] {
        let asked = outages.of(host)?;
        asked.is_not_worth_mentioning().context(host)?;
    }
    let router = running.world.router("vpc-d")?;
    router.nft("delete table ip split\n")?;
    // The third serves nothing until it is well, whoever has its table meanwhile.
    three_zones::wait_for_state(&running.world, "spoke-d1", "spoke-d2", "well")?;
    three_zones::wait_for_state(&running.world, "spoke-d2", "spoke-d1", "well")?;
    running.none_led_to(&["spoke-d3"], before)?;
    let router = running.world.router("vpc-d")?;
    router.nft("delete table ip broken\n")?;
    running.is_at_home()?;
    running.moved_little()?;
    running.world.check()
}

/// What the role of a spoke may be without, and the change that makes the spoke ask for it.
const PERMISSIONS: [(&str, Need); 8] = [
    ("CreateTags", Need::Tag),
    ("DescribeInstances", Need::Nothing),
    ("DescribeRouteTables", Need::Nothing),
    ("DescribeSubnets", Need::Nothing),
    ("CreateRoute", Need::NoRoute),
    ("ReplaceRoute", Need::SiblingsRoute),
    ("DescribeNetworkInterfaces", Need::Nothing),
    ("ModifyNetworkInterfaceAttribute", Need::SourceDestCheck),
];

#[derive(Debug, Clone, Copy)]
enum Need {
    Nothing,
    Tag,
    NoRoute,
    SiblingsRoute,
    SourceDestCheck,
}

impl Need {
    /// Has EC2 say what the spoke of the first zone has to change.
    fn arise(self, world: &World) -> Result<()> {
        let spoke = &world.host("spoke-d1")?.metadata;
        let subnet = world.host("host-d1")?.metadata.subnet.clone();
        let (ec2, region) = (&world.ec2, &spoke.region);
        let of_subnet = [
            ("Filter.1.Name", "association.subnet-id"),
            ("Filter.1.Value.1", subnet.as_str()),
        ];
        let table = ec2.call(region, "DescribeRouteTables", &of_subnet)?;
        let table = text_of(&table, "routeTableId")?;
        let route = [
            ("RouteTableId", table.as_str()),
            ("DestinationCidrBlock", "0.0.0.0/0"),
        ];
        match self {
            Self::Nothing => Ok(()),
            Self::Tag => {
                let tag = [
                    ("ResourceId.1", spoke.instance.as_str()),
                    ("Tag.1.Key", privnet_model::inventory::PUBLIC_KEY_TAG),
                ];
                ec2.call(region, "DeleteTags", &tag).map(drop)
            }
            Self::NoRoute => ec2.call(region, "DeleteRoute", &route).map(drop),
            Self::SiblingsRoute => {
                let sibling = &world.host("spoke-d2")?.metadata.interface;
                let to = ("NetworkInterfaceId", sibling.as_str());
                let route = [route[0], route[1], to];
                ec2.call(region, "ReplaceRoute", &route).map(drop)
            }
            Self::SourceDestCheck => {
                let on = [
                    ("NetworkInterfaceId", spoke.interface.as_str()),
                    ("SourceDestCheck.Value", "true"),
                ];
                ec2.call(region, "ModifyNetworkInterfaceAttribute", &on)
                    .map(drop)
            }
        }
    }
}

pub(crate) fn a_missing_permission_is_named_and_everything_else_goes_on() -> Result<()> {
    let mut running = Running::start()?;
    for (action, need) in PERMISSIONS {
        let denied = Fault::of_action(action, FaultKind::Denied);
        running.world.faults.set(&[denied])?;
        need.arise(&running.world)?;
        // A new start asks for everything at once.
        running.world.crash("spoke-d1")?;
        running.world.start_again("spoke-d1")?;
        let words = format!("the role needs ec2:{action}");
        wait_until(&format!("a problem with {action}"), PATIENCE * 2, || {
            let status = running.world.daemon("spoke-d1")?.status()?;
            let named = status
                .problems
                .iter()
                .any(|problem| problem.contains(&words));
            ensure!(named, "{:?}", status.problems);
            Ok(Some(()))
        })?;
        // The tunnel, the sibling, and NAT itself.
        wait_until_up(&running.world, &["spoke-d1", "spoke-d2"], PATIENCE)?;
        let nat = running.world.daemon("spoke-d1")?.status()?.nat;
        ensure!(nat.is_some_and(|nat| nat.active), "{action}: no NAT");
        running
            .world
            .namespace("host-d2")?
            .fetch(&format!("http://{WEB}/"))?;
        running.world.faults.clear()?;
        running
            .world
            .daemon("spoke-d1")?
            .process
            .signal(Signal::SIGHUP)?;
        wait_until(&format!("{action} to be forgotten"), GIVE_BACK, || {
            let status = running.world.daemon("spoke-d1")?.status()?;
            let named = status
                .problems
                .iter()
                .any(|problem| problem.contains(&words));
            ensure!(!named, "{:?}", status.problems);
            Ok(Some(()))
        })?;
        println!("{action}: named, and forgotten when it was allowed");
    }
    running.world.check()
}
