//! What spoke and hub tell each other inside the tunnel, on the demo network
//! (drawn at `privnet_tests::topology::demo`): who may speak there, the fleet's
//! secret, and the proof of identity.

use anyhow::{Context, Result, ensure};
use privnet_tests::daemon::{hub_config, hub_public_key, spoke_config};
use privnet_tests::deployment::{
    self, PATIENCE, nothing_leaked, ping_without_loss, reach_each_other, start_spokes,
    wait_for_published_key, wait_until_up,
};
use privnet_tests::process::wait_until;
use privnet_tests::topology::{self, HUB_PUBLIC, PORT};
use privnet_tests::world::World;

const ME: &str = "http://169.254.77.1:51821/v1/me";
const SECRET: &str = "correct horse battery staple, and some more";
const NEXT: &str = "what the fleet has in common from today on";

/// The hub's answer to a GET from a host, with its status behind it.
fn ask(world: &World, host: &str, options: &[&str]) -> Result<String> {
    let command = ["-sS", "--max-time", "3", "-w", " %{http_code}"];
    let arguments = command.iter().chain(options).chain(&[ME]);
    world.namespace(host)?.run("curl", arguments)
}

/// An error if the hub answers.
fn silent(world: &World, host: &str, options: &[&str]) -> Result<()> {
    match ask(world, host, options) {
        Err(_) => Ok(()),
        Ok(answer) => anyhow::bail!("{host} with {options:?} was answered: {answer}"),
    }
}

pub(crate) fn the_hub_answers_inside_its_tunnels_alone_and_knows_who_asks() -> Result<()> {
    let world = deployment::demo()?;
    let status = wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;
    for spoke in ["spoke-a", "spoke-b"] {
        let tunnel = status.tunnels.iter().find(|tunnel| tunnel.name == spoke);
        let key = tunnel.and_then(|tunnel| tunnel.public_key);
        let key = key.context("a tunnel without a key")?;
        let answer = wait_until("the hub to answer", PATIENCE, || {
            ask(&world, spoke, &[]).map(Some)
        })?;
        ensure!(
            answer.contains(&key.to_string()) && answer.contains("\"not_wanted\""),
            "{spoke} ({key}) was told {answer}"
        );
        ensure!(answer.ends_with(" 200"), "{answer}");
    }
    // A host behind a spoke is not the spoke.
    let answer = ask(&world, "host-a", &[])?;
    ensure!(
        answer.contains("no spoke of this hub has the address 10.1.1.10")
            && answer.ends_with(" 404"),
        "{answer}"
    );
    // In the hub's VPC the address can be reached, and the port cannot: nobody
    // there has been checked.
    let vpc = world.router("vpc-hub")?;
    vpc.ip(&["route add 169.254.77.1/32 via 10.0.0.10"])?;
    let hub = std::net::Ipv4Addr::new(169, 254, 77, 1);
    ensure!(vpc.ping(hub, 3)? == 3, "the VPC's router does not reach it");
    let told = vpc.run("curl", ["-sS", "--max-time", "3", ME]);
    ensure!(told.is_err(), "the hub's VPC was answered: {told:?}");
    // A program on the hub itself reaches it, and is nobody there either.
    let answer = ask(&world, "hub", &[])?;
    ensure!(answer.ends_with(" 404"), "{answer}");
    // A spoke does not reach it past the tunnel.
    silent(&world, "spoke-a", &["--interface", "ens5"])?;
    nothing_leaked(&world)
}

/// Writes the fleet's secret to a file of a host, and tells the line that names it.
fn secret_file(world: &World, host: &str, text: &str) -> Result<String> {
    let file = world.namespace(host)?.directory().join("fleet.secret");
    std::fs::write(&file, text)?;
    Ok(format!("preshared_key = {{ file = {file:?} }}\n"))
}

fn hangup(world: &World, host: &str) -> Result<()> {
    let process = &world.daemon(host)?.process;
    process.signal(nix::sys::signal::Signal::SIGHUP)
}

/// Starts the daemons, in this order, each with its secret.
fn start_with(world: &mut World, secrets: &[(&str, &str)]) -> Result<()> {
    for (name, secret) in secrets {
        let line = secret_file(world, name, secret)?;
        let host = world.host(name)?;
        let config = if *name == "hub" {
            format!("{}\n[trust]\n{line}", hub_config(host))
        } else {
            let key = hub_public_key(world.host("hub")?)?;
            let config = spoke_config(host, &format!("{HUB_PUBLIC}:{PORT}"), &key);
            format!("{line}{config}")
        };
        world.start(name, &config)?;
        if *name != "hub" {
            wait_for_published_key(world, name)?;
        }
    }
    Ok(())
}

pub(crate) fn a_fleet_secret_lets_in_who_has_it_and_changes_without_a_lost_packet() -> Result<()> {
    let mut world = World::build(&topology::demo())?;
    let stranger = "a secret of somebody else, of the same length";
    let with = [("spoke-a", SECRET), ("spoke-b", stranger), ("hub", SECRET)];
    start_with(&mut world, &with)?;
    wait_until_up(&world, &["spoke-a"], PATIENCE)?;
    // Both call from the start on, and the one with another secret is not let in.
    let b = world.host("host-b")?.instance.address;
    let answered = world.namespace("host-a")?.ping(b, 20)?;
    ensure!(
        answered == 0,
        "{answered} of 20 pings to host-b were answered"
    );
    let status = world.daemon("hub")?.status()?;
    let b = status
        .tunnels
        .iter()
        .find(|tunnel| tunnel.name == "spoke-b");
    let handshake = b.and_then(|tunnel| tunnel.last_handshake);
    ensure!(handshake.is_none(), "spoke-b has {b:?}");
    // With the right one it is.
    secret_file(&world, "spoke-b", SECRET)?;
    hangup(&world, "spoke-b")?;
    wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;
    reach_each_other(&world, "host-a", "host-b")?;

    // The next secret, one host after the other, under a ping.
    let to = world.host("host-b")?.instance.address.to_string();
    let ping = ["-n", "-i", "0.02", "-W", "2", &to];
    let mut pings = world.namespace("host-a")?.start("rotation", "ping", ping)?;
    for host in ["spoke-a", "hub", "spoke-b"] {
        secret_file(&world, host, &format!("{NEXT}\n{SECRET}\n"))?;
        hangup(&world, host)?;
        ping_without_loss(&world, "host-a", "host-b", 100)?;
    }
    pings.signal(nix::sys::signal::Signal::SIGINT)?;
    pings.wait(PATIENCE)?;
    let log = pings.log();
    ensure!(log.contains(" 0% packet loss"), "{}", pings.log_tail(5));
    world.check()
}

pub(crate) fn a_hub_that_wants_proofs_lets_in_who_gives_one() -> Result<()> {
    let mut world = World::build(&topology::demo())?;
    start_spokes(&mut world)?;
    let config = format!(
        "{}\n[trust]\nproof = \"require\"\n",
        hub_config(world.host("hub")?)
    );
    world.start("hub", &config)?;
    wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;
    reach_each_other(&world, "host-a", "host-b")?;
    let answer = ask(&world, "spoke-a", &[])?;
    ensure!(answer.contains("\"accepted\""), "{answer}");
    // It is remembered: no new proof is needed after a restart.
    world.stop("hub")?;
    world.start_again("hub")?;
    wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;
    world.check()
}

pub(crate) fn a_spoke_that_gives_no_proof_is_kept_out() -> Result<()> {
    let mut world = World::build(&topology::demo())?;
    start_spokes(&mut world)?;
    world.stop("spoke-b")?;
    let key = hub_public_key(world.host("hub")?)?;
    let config = spoke_config(
        world.host("spoke-b")?,
        &format!("{HUB_PUBLIC}:{PORT}"),
        &key,
    );
    world.start("spoke-b", &format!("prove = false\n{config}"))?;
    let config = format!(
        "{}\n[trust]\nproof = \"require\"\n",
        hub_config(world.host("hub")?)
    );
    world.start("hub", &config)?;
    let status = wait_until_up(&world, &["spoke-a"], PATIENCE)?;
    let b = status
        .tunnels
        .iter()
        .find(|tunnel| tunnel.name == "spoke-b");
    let b = b.context("spoke-b is not listed")?;
    let reason = b.reason.as_ref().map(ToString::to_string);
    ensure!(
        reason.as_deref() == Some("no proof of identity yet"),
        "spoke-b: {reason:?}"
    );
    // It may ask, and nothing behind it goes through.
    let answer = wait_until("the hub to answer", PATIENCE, || {
        ask(&world, "spoke-b", &[]).map(Some)
    })?;
    ensure!(answer.contains("\"wanted\""), "{answer}");
    let b = world.host("host-b")?.instance.address;
    let answered = world.namespace("host-a")?.ping(b, 3)?;
    ensure!(
        answered == 0,
        "{answered} of 3 pings to host-b were answered"
    );
    nothing_leaked(&world)
}
