//! What makes the hub poll, what it starts from, and what it makes of instances
//! that lack something. What it makes of an API that fails is in `faults.rs`. On
//! the demo network (drawn at `privnet_tests::topology::demo`).

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;
use privnet_model::status::Status;
use privnet_tests::daemon::hub_config;
use privnet_tests::deployment::{
    self, PATIENCE, launch_latecomer, reach_each_other, start_hub, start_spokes, tunnels,
    wait_until_up,
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
