//! What is missed while a program is replaced by a newer one, on the demo network
//! (drawn at `privnet_tests::topology::demo`). Which version it is makes no
//! difference here; how long an instance takes to boot comes on top where
//! the instance is replaced as well.

use std::time::Duration;

use anyhow::{Result, ensure};
use privnet_tests::deployment::{self, PATIENCE, nothing_leaked, reach_each_other, wait_until_up};
use privnet_tests::long_ping::LongPing;
use privnet_tests::topology::WEB;
use privnet_tests::world::World;

/// An answer that came later than this was not there when it was wanted.
const LATE: Duration = Duration::from_secs(1);
/// What may be missed at most: measured is 0.2 to 0.5 s, on a busy machine.
const GOAL: Duration = Duration::from_secs(3);

/// Does something to a daemon under pings from site to site and to the internet; how
/// long there was no answer from site to site. To the internet there always is.
fn missed(world: &mut World, change: impl FnOnce(&mut World) -> Result<()>) -> Result<Duration> {
    let (from, to) = (world.namespace("host-a")?, world.host("host-b")?);
    let privnet = LongPing::start(from, to.instance.address)?;
    let internet = LongPing::start(from, WEB)?;
    privnet.answers(10, PATIENCE)?;
    internet.answers(10, PATIENCE)?;
    change(world)?;
    privnet.answers(10, PATIENCE)?;
    internet.answers(10, PATIENCE)?;
    internet.end()?.without_loss()?;
    Ok(privnet.end()?.longest_gap(LATE))
}

pub(crate) fn a_hub_that_is_upgraded_is_missed_for_less_than_three_seconds() -> Result<()> {
    let mut world = deployment::demo()?;
    wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;
    reach_each_other(&world, "host-a", "host-b")?;
    for (how, empty_disk) in [("in place", false), ("by an empty instance", true)] {
        let gap = missed(&mut world, |world| {
            world.stop("hub")?;
            if empty_disk {
                // Its key is the same, as it is with one in SSM.
                let directory = world.namespace("hub")?.directory();
                std::fs::remove_file(directory.join("hub.state.json"))?;
            }
            world.start_again("hub").map(drop)
        })?;
        println!("the hub upgraded {how}: {gap:?} without an answer from site to site");
        ensure!(gap <= GOAL, "{how}: {gap:?}");
    }
    nothing_leaked(&world)?;
    world.check()
}

pub(crate) fn a_spoke_that_is_upgraded_in_place_goes_on_with_nat() -> Result<()> {
    let mut world = deployment::demo()?;
    wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;
    reach_each_other(&world, "host-a", "host-b")?;
    let gap = missed(&mut world, |world| {
        world.stop("spoke-a")?;
        world.start_again("spoke-a").map(drop)
    })?;
    println!("a spoke upgraded in place: {gap:?} without an answer from site to site");
    ensure!(gap <= GOAL, "{gap:?}");
    nothing_leaked(&world)?;
    world.check()
}
