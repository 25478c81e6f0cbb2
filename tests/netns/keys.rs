//! Keys that change while packets flow, on the demo network (drawn at
//! `privnet_tests::topology::demo`).

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use privnet_model::inventory::PUBLIC_KEY_TAG;
use privnet_model::key::PublicKey;
use privnet_tests::daemon::{self, config_file};
use privnet_tests::deployment::{self, PATIENCE, nothing_leaked, reach_each_other, wait_until_up};
use privnet_tests::long_ping::LongPing;
use privnet_tests::process::{run, wait_until};
use privnet_tests::world::World;

const SPOKES: [&str; 2] = ["spoke-a", "spoke-b"];

/// Runs `rotate-key` on a host, as its operator would, and returns what it printed.
fn rotate_key(world: &World, host: &str, arguments: &[&str]) -> Result<String> {
    let program = if host == "hub" {
        "privnet-hub"
    } else {
        "privnet-spoke"
    };
    let host = world.host(host)?;
    let mut command = daemon::command(&host.namespace, program)?;
    run(command
        .arg("rotate-key")
        .arg(config_file(host))
        .args(arguments))
}

/// The key of a tunnel, as the daemon on `at` shows it.
fn key_of(world: &World, at: &str, tunnel: &str) -> Result<PublicKey> {
    let status = world.daemon(at)?.status()?;
    let mut tunnels = status.tunnels.iter();
    let tunnel = tunnels.find(|candidate| candidate.name == tunnel);
    tunnel
        .and_then(|tunnel| tunnel.public_key)
        .with_context(|| format!("{at} shows no such tunnel with a key"))
}

pub(crate) fn a_spoke_changes_its_key_without_losing_a_packet() -> Result<()> {
    let mut world = deployment::demo()?;
    wait_until_up(&world, &SPOKES, PATIENCE)?;
    reach_each_other(&world, "host-a", "host-b")?;
    let to = world.host("host-b")?.instance.address;
    let ping = LongPing::start(world.namespace("host-a")?, to)?;
    ping.answers(20, PATIENCE)?;
    let old = key_of(&world, "hub", "spoke-a")?;
    for round in 0..2 {
        let before = key_of(&world, "hub", "spoke-a")?;
        let told = rotate_key(&world, "spoke-a", &[])?;
        let status = world.daemon("spoke-a")?.status()?;
        let new = status.interface.context("no interface")?.public_key;
        ensure!(
            new != before && told.contains(&new.to_string()),
            "round {round}: {told}"
        );
        wait_until("the hub to use the new key", PATIENCE, || {
            Ok((key_of(&world, "hub", "spoke-a")? == new).then_some(()))
        })?;
        let metadata = &world.host("spoke-a")?.metadata;
        let tag = || {
            world
                .ec2
                .tag_of(&metadata.region, &metadata.instance, PUBLIC_KEY_TAG)
        };
        wait_until("the tag to tell the new key", PATIENCE, || {
            Ok((tag()? == Some(new.to_string())).then_some(()))
        })?;
        // A poll that finds the new key in the tag changes nothing.
        deployment::tunnels(&world, &["refresh"])?;
        ensure!(key_of(&world, "hub", "spoke-a")? == new);
        ping.answers(30, PATIENCE)?;
    }
    ping.end()?.without_loss()?;
    // A restart starts with the new key, and that is the hub's.
    let new = key_of(&world, "hub", "spoke-a")?;
    ensure!(new != old);
    world.stop("spoke-a")?;
    world.start_again("spoke-a")?;
    reach_each_other(&world, "host-a", "host-b")?;
    ensure!(key_of(&world, "hub", "spoke-a")? == new);
    nothing_leaked(&world)?;
    world.check()
}

pub(crate) fn the_hub_changes_its_key_without_losing_a_packet() -> Result<()> {
    let mut world = deployment::demo()?;
    wait_until_up(&world, &SPOKES, PATIENCE)?;
    reach_each_other(&world, "host-a", "host-b")?;
    let to = world.host("host-b")?.instance.address;
    let ping = LongPing::start(world.namespace("host-a")?, to)?;
    ping.answers(20, PATIENCE)?;

    // There is nothing to use yet.
    ensure!(rotate_key(&world, "hub", &["--commit"]).is_err());
    let told = rotate_key(&world, "hub", &[])?;
    let next: PublicKey = told
        .lines()
        .find_map(|line| line.strip_prefix("next public key: "))
        .context("no next key is told")?
        .parse()?;
    ensure!(rotate_key(&world, "hub", &[])? == told, "asked twice");
    for spoke in SPOKES {
        let file = config_file(world.host(spoke)?);
        let config = std::fs::read_to_string(&file)?;
        let with_next = config.replace(
            "public_key = ",
            &format!("next_public_key = \"{next}\"\npublic_key = "),
        );
        std::fs::write(&file, with_next)?;
        world.daemon(spoke)?.process.signal(Signal::SIGHUP)?;
    }
    ping.answers(30, PATIENCE)?;
    rotate_key(&world, "hub", &["--commit"])?;
    let status = world.daemon("hub")?.status()?;
    ensure!(status.interface.is_some_and(|own| own.public_key == next));
    for spoke in SPOKES {
        wait_until(&format!("{spoke} to follow"), PATIENCE, || {
            Ok((key_of(&world, spoke, "hub")? == next).then_some(()))
        })?;
    }
    ping.answers(30, PATIENCE)?;
    ping.end()?.without_loss()?;
    // Once both know it, it is the key like any other.
    for spoke in SPOKES {
        world.stop(spoke)?;
        world.start_again(spoke)?;
    }
    world.stop("hub")?;
    world.start_again("hub")?;
    wait_until_up(&world, &SPOKES, PATIENCE)?;
    reach_each_other(&world, "host-a", "host-b")?;
    nothing_leaked(&world)?;
    world.check()
}
