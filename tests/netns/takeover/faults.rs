//! What fails by itself: instances, daemons, what is beneath them, and the way between
//! two spokes.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use privnet_reconcile::takeover::STEP;
use privnet_tests::deployment::PATIENCE;
use privnet_tests::process::wait_until;
use privnet_tests::requests::INTERVAL;

use super::{MOST, Running, plug_in, unplug};
use crate::offloads::sample;
use crate::three_zones::{self, METRICS, ZONES};

/// What a takeover may take by the metrics: they count from when the spoke was last known to
/// be well, up to a second before it failed.
const BY_METRICS: Duration = Duration::from_secs(6);
/// Within so long after a spoke died another has found it lost.
const FOUND_LOST: Duration = Duration::from_secs(3);
/// A change that was asked for when the spoke still passed its self-test, or a moment
/// later, has been made and followed after so long.
const UNDER_WAY: Duration = Duration::from_secs(3);
/// How long two siblings do not hear each other, after both know it: time to fight over
/// routes, if they do.
const SPLIT: Duration = Duration::from_secs(30);
/// How long one flaps.
const FLAPPING: Duration = Duration::from_secs(300);
/// How long it is without egress each time, and how long with it.
const PHASE: Duration = Duration::from_secs(10);

pub(crate) fn an_instance_that_fails_or_hangs_is_stood_in_for() -> Result<()> {
    let mut running = Running::start()?;
    for (spoke, ..) in ZONES {
        tells_of_its_routes(&running, spoke)?;
    }
    let began = Instant::now();
    let outages = running.stands_in("instance fails", ("spoke-d1", "host-d1"), |world| {
        Running::dies(world, "spoke-d1")
    })?;
    let helper = running.fabric.egress_of("host-d1");
    let helper = helper.context("host-d1 is led nowhere")?;
    let not_ours = outages.of("host-d1")?.not_ours();
    tells_of_a_takeover(&running, helper, began, not_ours)?;
    running.is_started("spoke-d1")?;
    running.is_at_home()?;
    tells_of_its_routes(&running, helper)?;

    running.stands_in("interface down", ("spoke-d2", "host-d2"), |world| {
        unplug(world, "spoke-d2")
    })?;
    plug_in(&running.world, "spoke-d2")?;
    running.is_at_home()?;

    running.stands_in("daemon hangs", ("spoke-d3", "host-d3"), |world| {
        world.daemon("spoke-d3")?.process.signal(Signal::SIGSTOP)
    })?;
    let hung = running.world.daemon("spoke-d3")?;
    hung.process.signal(Signal::SIGCONT)?;
    running.is_at_home()?;

    running.stands_in("daemon killed", ("spoke-d3", "host-d3"), |world| {
        world.crash("spoke-d3")
    })?;
    running.world.start_again("spoke-d3")?;
    running.is_at_home()?;
    running.moved_little()?;
    running.world.check()
}

/// What Prometheus reads at a spoke.
fn metrics(running: &Running, spoke: &str) -> Result<String> {
    let namespace = running.world.namespace(spoke)?;
    namespace.fetch(&format!("http://{METRICS}/metrics"))
}

/// By its metrics a spoke has the two routes of its own table, and no other.
fn tells_of_its_routes(running: &Running, spoke: &str) -> Result<()> {
    wait_until(&format!("{spoke} to tell of its routes"), PATIENCE, || {
        let page = metrics(running, spoke)?;
        let of = |series: &str| sample(&page, series);
        let (here, away) = (of("privnet_vpc_routes")?, of("privnet_vpc_routes_away")?);
        ensure!(here == 2.0 && away == 0.0, "{here} here, {away} away");
        Ok(Some(()))
    })
}

/// By its metrics a spoke has stood in for another since it began, in time but for what was
/// not the spokes' doing, and is well.
fn tells_of_a_takeover(
    running: &Running,
    spoke: &str,
    began: Instant,
    not_ours: Duration,
) -> Result<()> {
    let delayed = running.delayed(spoke, &(began..Instant::now()))?;
    let most = (BY_METRICS + not_ours + delayed).as_secs_f64();
    wait_until(&format!("{spoke} to tell of a takeover"), PATIENCE, || {
        let page = metrics(running, spoke)?;
        let of = |series: &str| sample(&page, series);
        let count = of("privnet_vpc_routes_taken_over_total")?;
        ensure!(count >= 1.0, "{count} routes taken over");
        let moved = of("privnet_vpc_routes_moved_total")?;
        ensure!(moved >= count, "{moved} moved, {count} of them taken over");
        let last = of("privnet_takeover_last_seconds")?;
        ensure!(last > 0.0 && last < most, "{last} s, {most} s at most");
        let mean = of("privnet_takeover_seconds_total")? / count;
        ensure!(mean > 0.0 && mean < most, "{mean} s, {most} s at most");
        let (here, away) = (of("privnet_vpc_routes")?, of("privnet_vpc_routes_away")?);
        ensure!(here >= 3.0 && away == 0.0, "{here} here, {away} away");
        ensure!(of("privnet_self_test_passed")? == 1.0, "its self-test");
        ensure!(of("privnet_siblings_well")? == 1.0, "its siblings");
        let tracked = of("privnet_nat_connections")?;
        let limit = of("privnet_nat_connections_limit")?;
        ensure!(tracked > 0.0 && tracked <= limit, "{tracked} of {limit}");
        println!("{spoke}: a takeover took {last:.2} s by its metrics");
        Ok(Some(()))
    })
}

/// As when it is started again at once: the kernel goes on with NAT, and it is well again
/// before its siblings have taken it for lost.
pub(crate) fn a_daemon_that_crashes_and_is_back_at_once_keeps_its_routes() -> Result<()> {
    let mut running = Running::start()?;
    let before = running.fabric.moves().len();
    let outages = running.during("daemon killed, and back", |running| {
        running.world.crash("spoke-d1")?;
        running.world.start_again("spoke-d1")?;
        three_zones::wait_until_well(&running.world, "spoke-d1", PATIENCE)?;
        // Whoever took it for lost moves its routes by now, and the next in the order.
        std::thread::sleep(FOUND_LOST + STEP + UNDER_WAY);
        Ok(())
    })?;
    outages.requests_lost_at_most(2)?;
    let moves = running.fabric.moves().split_off(before);
    ensure!(moves.is_empty(), "{moves:?}");
    running.is_at_home()?;
    running.world.check()
}

pub(crate) fn what_breaks_beneath_a_spoke_that_lives_is_noticed() -> Result<()> {
    let mut running = Running::start()?;
    let address = running.world.host("spoke-d1")?.instance.address;
    let broken = format!(
        "table ip broken {{
    chain forward {{
        type filter hook forward priority -10
        oifname uplink ip saddr {address} drop
    }}
}}
"
    );
    running.stands_in("egress broken", ("spoke-d1", "host-d1"), |world| {
        world.router("vpc-d")?.nft(&broken)
    })?;
    let sick = three_zones::routes(&running.world, "spoke-d1")?.sick;
    ensure!(sick.is_some_and(|why| why.contains("no way to the internet")));
    let router = running.world.router("vpc-d")?;
    router.nft("delete table ip broken\n")?;
    running.is_at_home()?;

    // What a stranger takes away is put back when a round of the self-test has failed. The
    // next one may have failed by then, on a busy machine: then another stands in.
    let before = running.fabric.moves().len();
    let outages = running.during("rules deleted", |running| {
        let spoke = running.world.namespace("spoke-d2")?;
        spoke.nft("delete table inet privnet\n")?;
        wait_until("the rules to be back", PATIENCE, || {
            let rules = spoke.run("nft", ["list", "tables"])?;
            Ok(rules.contains("inet privnet").then_some(()))
        })
    })?;
    outages.only_of(&["host-d2"])?;
    running.moved_only_of("host-d2", before)?;
    running.moved_little()?;
    running.world.check()
}

pub(crate) fn a_split_between_siblings_costs_nothing_and_two_losses_at_once_are_covered()
-> Result<()> {
    let mut running = Running::start()?;
    // Two do not hear each other, as the third does.
    let split = running.split("spoke-d1", &["spoke-d2"])?;
    let before = running.fabric.moves().len();
    let outages = running.during("two siblings split for 30 s", |running| {
        running.world.router("vpc-d")?.nft(&split)?;
        for (spoke, other) in [("spoke-d1", "spoke-d2"), ("spoke-d2", "spoke-d1")] {
            three_zones::wait_until_only_others_hear(&running.world, spoke, other)?;
        }
        std::thread::sleep(SPLIT);
        let router = running.world.router("vpc-d")?;
        router.nft("delete table ip split\n")
    })?;
    outages.only_of(&[])?;
    let moves = running.fabric.moves().split_off(before);
    ensure!(moves.is_empty(), "none is lost: {moves:?}");
    running.is_at_home()?;

    // Nor is any doubted afterwards.
    let before = running.fabric.moves().len();
    let outages = running.during("two of three fail at once", |running| {
        Running::dies(&mut running.world, "spoke-d1")?;
        Running::dies(&mut running.world, "spoke-d2")?;
        for host in ["host-d1", "host-d2"] {
            running.is_led_away(host, &["spoke-d1", "spoke-d2"])?;
        }
        Ok(())
    })?;
    outages.only_of(&["host-d1", "host-d2"])?;
    running.none_led_to(&["spoke-d1", "spoke-d2"], before)?;
    running.is_started("spoke-d1")?;
    running.is_started("spoke-d2")?;
    running.is_at_home()?;

    // One and the others take each other for lost; all work.
    let split = running.split("spoke-d1", &["spoke-d2", "spoke-d3"])?;
    let outages = running.during("one split from both others for 30 s", |running| {
        running.world.router("vpc-d")?.nft(&split)?;
        for (spoke, other) in [("spoke-d1", "spoke-d2"), ("spoke-d2", "spoke-d1")] {
            three_zones::wait_for_state(&running.world, spoke, other, "lost")?;
        }
        std::thread::sleep(SPLIT);
        let router = running.world.router("vpc-d")?;
        router.nft("delete table ip split\n")
    })?;
    outages.only_of(&[])?;
    running.is_at_home()?;
    running.moved_little()?;
    running.world.check()
}

/// Ten seconds without egress, ten with, for five minutes. While it fails its self-test
/// nothing is led to it.
pub(crate) fn a_spoke_that_flaps_loses_its_routes_for_longer_each_time() -> Result<()> {
    let mut running = Running::start()?;
    let address = running.world.host("spoke-d1")?.instance.address;
    let before = running.fabric.moves().len();
    let mut failing: Vec<Range<Instant>> = Vec::new();
    let outages = running.during("flapping for five minutes", |running| {
        let router = running.world.router("vpc-d")?;
        router.nft(
            "table ip broken { chain forward { type filter hook forward priority -10; }; }\n",
        )?;
        let beginning = Instant::now();
        while beginning.elapsed() < FLAPPING {
            router.nft(&format!(
                "add rule ip broken forward oifname uplink ip saddr {address} drop\n"
            ))?;
            let broken = Instant::now();
            wait_until("spoke-d1 to know that it is sick", PATIENCE, || {
                let sick = three_zones::routes(&running.world, "spoke-d1")?.sick;
                Ok(sick.map(drop))
            })?;
            let known = Instant::now() + UNDER_WAY;
            std::thread::sleep(PHASE.saturating_sub(broken.elapsed()));
            failing.push(known..Instant::now());
            router.nft("flush chain ip broken forward\n")?;
            std::thread::sleep(PHASE);
        }
        Ok(())
    })?;
    outages.only_of(&["host-d1"])?;
    // Two destinations: away, perhaps back once or twice, and away again.
    let moves = running.fabric.moves().split_off(before);
    ensure!(moves.len() <= 16, "in five minutes: {moves:?}");
    ensure!(failing.iter().any(|time| !time.is_empty()), "{failing:?}");
    let to_it = moves.iter().find(|moved| {
        let failed = failing.iter().any(|time| time.contains(&moved.at));
        moved.to == "spoke-d1" && failed
    });
    ensure!(to_it.is_none(), "it fails its self-test: {to_it:?}");
    running.moved_little()?;
    let lost = outages.of("host-d1")?.lost;
    let ceiling = MOST * 3;
    ensure!(INTERVAL * u32::try_from(lost)? <= ceiling, "{lost} lost");
    running.world.check()
}
