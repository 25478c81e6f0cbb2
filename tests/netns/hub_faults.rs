//! What makes the hub poll, what it starts from, and what it makes of instances
//! that lack something. What it makes of an API that fails is in `faults.rs`. On
//! the demo network (drawn at `privnet_tests::topology::demo`).

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;
use privnet_model::status::{Reason, Status};
use privnet_tests::daemon::hub_config;
use privnet_tests::deployment::{
    self, PATIENCE, launch_latecomer, reach_each_other, start_hub, start_spoke, start_spokes,
    tunnels, wait_for_published_key, wait_until_up,
};
use privnet_tests::fault_proxy::{Fault, FaultKind};
use privnet_tests::process::wait_until;
use privnet_tests::topology;
use privnet_tests::world::World;

const SPOKES: [&str; 2] = ["spoke-a", "spoke-b"];

pub(crate) fn a_hub_that_starts_without_the_api_finds_the_spokes_when_it_is_back() -> Result<()> {
    let mut world = World::build(&topology::demo())?;
    start_spokes(&mut world)?;
    world
        .faults
        .set(&[Fault::everywhere(FaultKind::Unavailable)])?;
    start_hub(&mut world)?;
    wait_until("the hub to answer", PATIENCE, || {
        world.daemon("hub")?.status().map(Some)
    })?;
    world.faults.clear()?;
    // The hub may be at its first poll still; what it is asked for comes after that.
    wait_until("a poll that succeeds", PATIENCE, || {
        tunnels(&world, &["refresh"])?;
        wait_until_up(&world, &SPOKES, std::time::Duration::from_secs(1)).map(Some)
    })?;
    reach_each_other(&world, "host-a", "host-b")
}

pub(crate) fn a_hangup_signal_asks_for_a_poll() -> Result<()> {
    let mut world = running()?;
    launch_latecomer(&mut world)?;
    world.daemon("hub")?.process.signal(Signal::SIGHUP)?;
    wait_until_up(&world, &["spoke-c"], PATIENCE)?;
    world.check()
}

pub(crate) fn the_interval_asks_for_a_poll() -> Result<()> {
    let mut world = World::build(&topology::demo())?;
    start_spokes(&mut world)?;
    let config = hub_config(world.host("hub")?).replace("\"1h\"", "\"5s\"");
    world.start("hub", &config)?;
    wait_until_up(&world, &SPOKES, PATIENCE)?;
    launch_latecomer(&mut world)?;
    wait_until_up(&world, &["spoke-c"], PATIENCE)?;
    Ok(())
}

pub(crate) fn a_region_that_hangs_at_the_first_poll_holds_up_no_other() -> Result<()> {
    let mut world = World::build(&topology::demo())?;
    start_spokes(&mut world)?;
    let hangs = Fault::in_region("eu-west-1", FaultKind::Hang);
    world.faults.set(&[hangs])?;
    let config = hub_config(world.host("hub")?).replace("\"20s\"", "\"60s\"");
    world.start("hub", &config)?;
    let status = wait_until_up(&world, &["spoke-a"], PATIENCE)?;
    for partition in &status.partitions {
        let hangs = partition.partition.region.as_str() == "eu-west-1";
        let polls = u64::from(!hangs);
        ensure!(partition.polls == polls, "{partition:?}");
    }
    world.faults.clear()?;
    wait_until_up(&world, &SPOKES, std::time::Duration::from_secs(120))?;
    reach_each_other(&world, "host-a", "host-b")
}

pub(crate) fn a_new_spoke_is_up_within_seconds_though_the_hub_polls_by_the_hour() -> Result<()> {
    let mut world = running()?;
    launch_latecomer(&mut world)?;
    let published = Instant::now();
    wait_until_up(&world, &["spoke-c"], PATIENCE)?;
    println!("up {:.1?} after it published its key", published.elapsed());
    world.check()
}

pub(crate) fn a_spoke_that_knocks_for_long_before_it_publishes_is_up_within_seconds_then()
-> Result<()> {
    let mut world = running()?;
    let denied = Fault::of_action("CreateTags", FaultKind::Denied);
    world.faults.set(&[denied])?;
    world.add_vpc(&topology::latecomer())?;
    start_spoke(&mut world, "spoke-c")?;
    let region = &world.host("spoke-c")?.metadata.region;
    // It knocks until a key of its own would be worth a poll by the minute only, and
    // by then its region is asked more often than that.
    let polls = |status: &Status| {
        let mut partitions = status.partitions.iter();
        let partition = partitions.find(|one| one.partition.region == *region);
        partition.map_or(0, |partition| partition.polls)
    };
    let others = |status: &Status| {
        let others = status.partitions.iter();
        let others = others.filter(|one| one.partition.region != *region);
        others.map(|one| one.polls).max().unwrap_or_default()
    };
    let knocking = wait_until("many polls of one region", PATIENCE * 3, || {
        let status = world.daemon("hub")?.status()?;
        Ok((polls(&status) >= others(&status) + 8).then_some(status))
    })?;
    let spoke = knocking.tunnels.iter().find(|one| one.name == "spoke-c");
    let reason = spoke.and_then(|spoke| spoke.reason.as_ref());
    ensure!(matches!(reason, Some(Reason::NoPublicKey)), "{reason:?}");
    world.faults.clear()?;
    world.daemon("spoke-c")?.process.signal(Signal::SIGHUP)?;
    wait_for_published_key(&mut world, "spoke-c")?;
    let published = Instant::now();
    wait_until_up(&world, &["spoke-c"], PATIENCE)?;
    println!("up {:.1?} after it published its key", published.elapsed());
    world.check()
}

pub(crate) fn a_damaged_state_cache_is_kept_aside_and_rebuilt() -> Result<()> {
    let mut world = running()?;
    for damage in ["{\"version\":1,\"partit", "", "{\"version\":4294967295}"] {
        world.stop("hub")?;
        let directory = world.namespace("hub")?.directory();
        let state = directory.join("hub.state.json");
        ensure!(
            std::fs::metadata(&state)?.len() > 0,
            "there is no state cache"
        );
        std::fs::write(&state, damage)?;
        world.start_again("hub")?;
        wait_until_up(&world, &SPOKES, PATIENCE)?;
        reach_each_other(&world, "host-a", "host-b")?;
        let mut kept = false;
        for entry in std::fs::read_dir(&directory)? {
            let file = entry?.path();
            let aside = file != state && file.to_string_lossy().contains("hub.state.json");
            kept |= aside && std::fs::read_to_string(&file)? == damage;
        }
        ensure!(kept, "the damaged cache {damage:?} was not kept aside");
        let rebuilt = wait_until("a new state cache", PATIENCE, || {
            let text = std::fs::read_to_string(&state)?;
            Ok((text != damage).then_some(text))
        })?;
        ensure!(rebuilt.contains("10.20.0.0/16"), "{rebuilt}");
    }
    Ok(())
}

pub(crate) fn instances_that_lack_something_are_listed_with_the_reason() -> Result<()> {
    let world = running()?;
    let (region, vpc) = world.vpc_id("vpc-b")?;
    let subnet = world
        .ec2
        .create_subnet(region, vpc, "10.2.77.0/24".parse()?, 'a')?;
    let spoke = |name: &'static str, address: &str, more: &[(&'static str, &'static str)]| {
        let mut tags = vec![("Name", name)];
        tags.extend(topology::SPOKE_TAGS);
        tags.extend(more);
        world.ec2.launch(region, &subnet, address.parse()?, &tags)
    };
    // A real key, of nobody.
    let key = (
        "privnet:public-key",
        "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
    );
    let no_key = spoke("no-key", "10.2.77.11", &[])?;
    world
        .ec2
        .give_address(region, &no_key.id, "203.0.113.201".parse()?)?;
    spoke("no-address", "10.2.77.12", &[key])?;
    let bad_key = spoke(
        "bad-key",
        "10.2.77.13",
        &[("privnet:public-key", "nonsense")],
    )?;
    world
        .ec2
        .give_address(region, &bad_key.id, "203.0.113.203".parse()?)?;
    // No tags at all: not a spoke, and no reason to stumble.
    world
        .ec2
        .launch(region, &subnet, "10.2.77.14".parse()?, &[])?;
    tunnels(&world, &["refresh"])?;
    let status = all_there(&world)?;
    for name in ["no-key", "no-address", "bad-key"] {
        let tunnel = status.tunnels.iter().find(|tunnel| tunnel.name == name);
        let Some(tunnel) = tunnel else {
            bail!("{name} is not listed");
        };
        ensure!(
            tunnel.reason.is_some(),
            "{name} is {} without a reason",
            tunnel.state
        );
    }
    reach_each_other(&world, "host-a", "host-b")
}

/// The demo network with both tunnels up.
fn running() -> Result<World> {
    let world = deployment::demo()?;
    wait_until_up(&world, &SPOKES, PATIENCE)?;
    reach_each_other(&world, "host-a", "host-b")?;
    Ok(world)
}

/// Both tunnels are there, and up.
fn all_there(world: &World) -> Result<Status> {
    wait_until_up(world, &SPOKES, std::time::Duration::ZERO)
}
