//! Privnet as an operator deploys it on the demo network, and what everybody
//! checks there: the demo and the namespace tests share these words.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use privnet_model::admin::HUB_SOCKET;
use privnet_model::inventory::PUBLIC_KEY_TAG;
use privnet_model::status::Status;

use crate::charon::Charon;
use crate::daemon::{self, hub_config, hub_public_key, nat_hub_config, spoke_config};
use crate::process::{run, wait_until};
use crate::topology::{self, HUB_PUBLIC, PORT, PRIVNET, Role, WEB};
use crate::world::World;

/// How long a step of the control plane may take before it counts as broken.
/// Generous: the machine may have two cores and much else to do.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The demo network with every daemon running and both tunnels up.
pub fn demo() -> Result<World> {
    let mut world = World::build(&topology::demo())?;
    start_spokes(&mut world)?;
    start_hub(&mut world)?;
    Ok(world)
}

/// Starts nat-hub and every spoke, and waits until the spokes' keys are in EC2.
pub fn start_spokes(world: &mut World) -> Result<()> {
    let names: Vec<(&'static str, Role)> = world
        .hosts()
        .map(|host| (host.instance.name, host.instance.role))
        .collect();
    for (name, role) in &names {
        if matches!(role, Role::Spoke | Role::NatHub) {
            start_spoke(world, name)?;
        }
    }
    for (name, role) in names {
        if role == Role::Spoke {
            wait_for_published_key(world, name)?;
        }
    }
    Ok(())
}

/// Starts the spoke daemon of one instance, with its tunnel to the demo's hub.
pub fn start_spoke(world: &mut World, name: &str) -> Result<()> {
    let host = world.host(name)?;
    let config = if host.instance.role == Role::NatHub {
        nat_hub_config(host)
    } else {
        let key = hub_public_key(world.host("hub")?)?;
        spoke_config(host, &format!("{HUB_PUBLIC}:{PORT}"), &key)
    };
    world.start(name, &config).map(drop)
}

/// Starts a spoke by IPsec with a charon of its own, which it returns, and waits until EC2
/// has its tags: a hub that polls before that does not know it until the next poll.
pub fn start_spoke_by_ipsec(world: &mut World, name: &str, hubs: &[Ipv4Addr]) -> Result<Charon> {
    start_spoke_by_ipsec_with(world, name, hubs, "")
}

/// The same with more sections in its config file.
pub fn start_spoke_by_ipsec_with(
    world: &mut World,
    name: &str,
    hubs: &[Ipv4Addr],
    more: &str,
) -> Result<Charon> {
    let charon = Charon::of_instance(world.namespace(name)?)?;
    let secret = fleet_secret(world, name)?;
    let mut config = format!(
        "privnet = \"{PRIVNET}\"\ntransport = \"ipsec\"\n{secret}[ipsec]\nsocket = {:?}\n\
         [nat]\negress = true\n",
        charon.socket()
    );
    for hub in hubs {
        writeln!(config, "[[hub]]\nendpoint = \"{hub}\"")?;
    }
    config.push_str(more);
    world.start(name, &config)?;
    wait_until(&format!("{name} to tag itself"), PATIENCE, || {
        let log = world.daemon(name)?.process.log();
        Ok(log.contains("tags published").then_some(()))
    })?;
    Ok(charon)
}

/// Starts the hub.
pub fn start_hub(world: &mut World) -> Result<()> {
    let config = hub_config(world.host("hub")?);
    world.start("hub", &config).map(drop)
}

/// The fleet's secret of the tests.
pub const FLEET_SECRET: &str = "the fleet's secret of the tests, long enough";

/// Gives an instance the fleet's secret in a file, and returns the line that names it.
pub fn fleet_secret(world: &World, name: &str) -> Result<String> {
    let file = world.namespace(name)?.directory().join("fleet.secret");
    std::fs::write(&file, FLEET_SECRET)?;
    Ok(format!("preshared_key = {{ file = {file:?} }}\n"))
}

/// Starts the hub and these spokes of one VPC, each of which serves the route tables of
/// its zone and stands in for the others; `more` is the end of the spokes' config files.
/// Waits until their tunnels are up.
pub fn start_siblings(world: &mut World, spokes: &[&str], more: &str) -> Result<()> {
    for name in ["hub"].iter().chain(spokes) {
        let config = sibling_config(world, name, "", more)?;
        world.start(name, &config)?;
    }
    wait_until_up(world, spokes, PATIENCE).map(drop)
}

/// The config file that [`start_siblings`] gives the hub, or one of these spokes, with more
/// keys in its `[routes]` and `more` at the end; the fleet's secret is beside it.
pub fn sibling_config(world: &World, name: &str, routes: &str, more: &str) -> Result<String> {
    let host = world.host(name)?;
    let secret = fleet_secret(world, name)?;
    Ok(match host.instance.role {
        Role::Hub => format!("{}\n[trust]\n{secret}", hub_config(host)),
        Role::Spoke | Role::NatHub | Role::Host => {
            let key = hub_public_key(world.host("hub")?)?;
            let config = spoke_config(host, &format!("{HUB_PUBLIC}:{PORT}"), &key);
            format!(
                "{secret}{config}\n[routes]\ntables = \"zone\"\nsource_dest_check = \"off\"\n\
                 siblings = {{ service = \"nat\", env = \"prod\" }}\n{routes}\
                 [self_test]\ntargets = [\"{WEB}:80\"]\n{more}"
            )
        }
    })
}

/// Waits until a spoke has published its key as a tag of its instance.
pub fn wait_for_published_key(world: &mut World, name: &str) -> Result<()> {
    wait_until(&format!("{name} to publish its key"), PATIENCE, || {
        if let Err(ended) = world.check() {
            return Ok(Some(Err(ended)));
        }
        let metadata = &world.host(name)?.metadata;
        let key = world.ec2.in_account(metadata.account.as_str()).tag_of(
            &metadata.region,
            &metadata.instance,
            PUBLIC_KEY_TAG,
        )?;
        Ok(key.map(|_| Ok(())))
    })?
}

/// Waits until the hub says that these tunnels are up.
pub fn wait_until_up(world: &World, spokes: &[&str], patience: Duration) -> Result<Status> {
    world.daemon("hub")?.wait_until_up(spokes, patience)
}

/// Launches the VPC that joins late, with its spoke running.
pub fn launch_latecomer(world: &mut World) -> Result<()> {
    world.add_vpc(&topology::latecomer())?;
    start_spoke(world, "spoke-c")?;
    wait_for_published_key(world, "spoke-c")
}

/// Runs the operator's command on the hub and returns what it printed.
pub fn tunnels(world: &World, arguments: &[&str]) -> Result<String> {
    let mut command = daemon::command(world.namespace("hub")?, "tunnels")?;
    // As a person would see it on a terminal of this width.
    command.env("COLUMNS", "96");
    run(command.args(["--socket", HUB_SOCKET]).args(arguments))
}

/// An error unless the web server at `to`, asked from `from`, saw `expected`.
/// The first packets of a flow may find a tunnel that is just coming up, so it
/// is asked until it answers.
pub fn sees(world: &World, from: &str, to: Ipv4Addr, expected: Ipv4Addr) -> Result<()> {
    let host = world.namespace(from)?;
    let url = format!("http://{to}/");
    let seen = wait_until(
        &format!("{from} to reach {to}"),
        Duration::from_secs(15),
        || host.fetch(&url).map(Some),
    )?;
    ensure!(
        seen == expected.to_string(),
        "{to} saw {from} as {seen}, not as {expected}"
    );
    Ok(())
}

/// An error unless two private hosts reach each other and see each other's
/// private address, in both directions.
pub fn reach_each_other(world: &World, one: &str, other: &str) -> Result<()> {
    let address = |name| Ok::<_, anyhow::Error>(world.host(name)?.instance.address);
    sees(world, one, address(other)?, address(one)?)?;
    sees(world, other, address(one)?, address(other)?)
}

/// An error if any of `count` pings is lost.
pub fn ping_without_loss(world: &World, from: &str, to: &str, count: u32) -> Result<()> {
    let address = world.host(to)?.instance.address;
    let answered = world.namespace(from)?.ping(address, count)?;
    ensure!(
        answered == count,
        "{} of {count} pings from {from} to {to} were lost",
        count - answered
    );
    Ok(())
}

/// An error if a packet of the privnet ever reached an internet gateway in clear, or is
/// in what was captured.
pub fn nothing_leaked(world: &World) -> Result<()> {
    // First what says which packets.
    world.captures_are_clean()?;
    let leaked = world.leaked_packets()?;
    ensure!(
        leaked == 0,
        "{leaked} packets of the privnet left a VPC in clear"
    );
    Ok(())
}

/// The public address of an instance.
pub fn public_address(world: &World, name: &str) -> Result<Ipv4Addr> {
    world
        .host(name)?
        .instance
        .public
        .with_context(|| format!("{name} has no public address"))
}
