//! A data centre with a plain WireGuard router (wireguard-go) as a static site of
//! the hub, beside the demo network (drawn at `privnet_tests::topology::demo`):
//!
//! ```text
//!   web (203.0.113.80)                                  hub
//!   wireguard-go dc0, 10.200.0.1/16  ═══ tunnel ═══  privnet0 ═══ spoke-a ─── host-a
//! ```
//! The router has no fixed address as far as the hub knows: it calls the hub.

use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use privnet_model::key::PrivateKey;
use privnet_model::status::Origin;
use privnet_tests::daemon::{config_file, hub_config, hub_public_key};
use privnet_tests::deployment::{
    PATIENCE, nothing_leaked, sees, start_spokes, tunnels, wait_until_up,
};
use privnet_tests::fault_proxy::{Fault, FaultKind};
use privnet_tests::process::{Process, wait_until};
use privnet_tests::programs;
use privnet_tests::topology::{self, HUB_PUBLIC, PORT};
use privnet_tests::world::World;

const SITE: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
const PARAMETER: &str = "/privnet/site/dc-east";
/// What was asked for in vain is asked for again within a minute.
const ASKED_AGAIN: Duration = Duration::from_secs(120);

pub(crate) fn a_data_centre_that_calls_the_hub_reaches_every_spoke() -> Result<()> {
    let mut world = World::build(&topology::demo())?;
    let keys = Keys::new();
    let _router = keys.start_router(&world)?;
    start_spokes(&mut world)?;
    let config = keys.hub_config(&world)?;
    world.start("hub", &config)?;
    let status = wait_until_up(&world, &["spoke-a", "spoke-b", "dc-east"], PATIENCE)?;
    let site = status
        .tunnels
        .iter()
        .find(|tunnel| tunnel.name == "dc-east");
    let site = site.context("no dc-east")?;
    ensure!(site.origin == Origin::Static, "{site:?}");
    ensure!(
        site.endpoint.is_some(),
        "the hub does not tell where the site was heard"
    );
    both_ways(&world)?;

    // After a restart the hub calls the site where it was heard last.
    world.stop("hub")?;
    world.start_again("hub")?;
    both_ways(&world)?;
    nothing_leaked(&world)?;
    world.check()
}

pub(crate) fn a_site_comes_and_goes_with_the_config_file_and_a_hangup() -> Result<()> {
    let mut world = World::build(&topology::demo())?;
    let keys = Keys::new();
    let _router = keys.start_router(&world)?;
    start_spokes(&mut world)?;
    let without = hub_config(world.host("hub")?);
    let with = keys.hub_config(&world)?;
    world.start("hub", &without)?;
    wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;

    reload(&world, &with)?;
    wait_until_up(&world, &["dc-east"], PATIENCE)?;
    both_ways(&world)?;

    // A file with a mistake changes nothing.
    reload(&world, &format!("{with}\ncolour = \"blue\"\n"))?;
    wait_until("a word about the mistake", PATIENCE, || {
        let log = world.daemon("hub")?.process.log();
        Ok(log.contains("colour").then_some(()))
    })?;
    both_ways(&world)?;

    reload(&world, &without)?;
    wait_until("the site to leave", PATIENCE, || {
        let status = world.daemon("hub")?.status()?;
        let gone = status.tunnels.iter().all(|tunnel| tunnel.name != "dc-east");
        Ok(gone.then_some(()))
    })?;
    wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;
    let answered = world.namespace("host-a")?.ping(SITE, 1)?;
    ensure!(answered == 0, "the site is reached without a tunnel");
    nothing_leaked(&world)?;
    world.check()
}

/// As an instance has it that was launched in another's place: no file is brought to it.
pub(crate) fn a_key_in_ssm_is_taken_when_it_is_there_and_kept_when_ssm_is_away() -> Result<()> {
    let mut world = World::build(&topology::demo())?;
    let keys = Keys::new();
    let _router = keys.start_router(&world)?;
    start_spokes(&mut world)?;
    let config = keys.config(&world, &format!("{{ ssm = {PARAMETER:?} }}"))?;
    world.start("hub", &config)?;
    // The others do not wait for it.
    wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;
    wait_until("a word about the parameter", PATIENCE, || {
        let listed = tunnels(&world, &["list"])?;
        let said = listed.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok((said.contains(PARAMETER) && said.contains("there is none")).then_some(()))
    })?;
    let answered = world.namespace("host-a")?.ping(SITE, 1)?;
    ensure!(answered == 0, "the site is reached without its key");

    let key = keys.preshared.to_base64();
    let region = world.host("hub")?.metadata.region.clone();
    world
        .ec2
        .put_secret(&region, PARAMETER, &format!("{}\n", *key))?;
    wait_until_up(&world, &["dc-east"], ASKED_AGAIN)?;
    both_ways(&world)?;
    let log = world.daemon("hub")?.process.log();
    ensure!(!log.contains(key.as_str()), "the key is in the log");

    // A restart does not need SSM.
    world.stop("hub")?;
    let away = Fault::of_action("GetParameter", FaultKind::Unavailable);
    world.faults.set(&[away])?;
    world.start_again("hub")?;
    both_ways(&world)?;
    wait_until("a word about SSM", PATIENCE, || {
        let problems = world.daemon("hub")?.status()?.problems;
        let told = |it: &String| it.contains("dc-east") && it.contains("SSM did not give it");
        Ok(problems.iter().any(told).then_some(()))
    })?;
    world.faults.clear()?;
    wait_until("no word about SSM", ASKED_AGAIN, || {
        let problems = world.daemon("hub")?.status()?.problems;
        let told = |it: &String| it.contains("dc-east");
        Ok((!problems.iter().any(told)).then_some(()))
    })?;

    // And an instance that has nothing of this one's has the key from there.
    world.stop("hub")?;
    let copy = world.namespace("hub")?.directory().join("hub.site-keys");
    std::fs::remove_file(&copy).with_context(|| copy.display().to_string())?;
    world.start_again("hub")?;
    both_ways(&world)?;
    ensure!(copy.exists());
    nothing_leaked(&world)?;
    world.check()
}

fn reload(world: &World, config: &str) -> Result<()> {
    std::fs::write(config_file(world.host("hub")?), config)?;
    world.daemon("hub")?.process.signal(Signal::SIGHUP)
}

fn both_ways(world: &World) -> Result<()> {
    let host = world.host("host-a")?.instance.address;
    let pings = |from: &str, to: Ipv4Addr| -> Result<()> {
        let namespace = if from == "dc-east" {
            &world.web
        } else {
            world.namespace(from)?
        };
        wait_until(&format!("a ping from {from} to {to}"), PATIENCE, || {
            Ok((namespace.ping(to, 1)? == 1).then_some(()))
        })
    };
    pings("host-a", SITE)?;
    pings("dc-east", host)?;
    // And the far end sees the site's own address.
    let url = format!("http://{host}/");
    let seen = world.web.fetch(&url)?;
    ensure!(seen == SITE.to_string(), "host-a saw the site as {seen}");
    // The spokes go on.
    sees(
        world,
        "host-a",
        world.host("host-b")?.instance.address,
        host,
    )
}

/// The secrets of both ends.
struct Keys {
    site: PrivateKey,
    preshared: PrivateKey,
}

impl Keys {
    fn new() -> Self {
        Self {
            site: PrivateKey::from_random([5; 32]),
            preshared: PrivateKey::from_random([6; 32]),
        }
    }

    fn hub_config(&self, world: &World) -> Result<String> {
        let hub = world.host("hub")?;
        let preshared = secret(&hub.namespace.directory(), "dc-east.psk", &self.preshared)?;
        self.config(world, &format!("{{ file = {preshared:?} }}"))
    }

    fn config(&self, world: &World, preshared: &str) -> Result<String> {
        let hub = world.host("hub")?;
        Ok(format!(
            r#"{}
[[site]]
name          = "dc-east"
cidrs         = ["10.200.0.0/16"]
public_key    = "{}"
preshared_key = {preshared}
"#,
            hub_config(hub),
            self.site.public(),
        ))
    }

    /// The site's router, set up by hand as its administrator would.
    fn start_router(&self, world: &World) -> Result<Process> {
        programs::require_tools(&["wireguard-go", "wg"])?;
        let hub_key = hub_public_key(world.host("hub")?)?;
        let router = &world.web;
        let directory = router.directory();
        let key = secret(&directory, "site.key", &self.site)?;
        let preshared = secret(&directory, "site.psk", &self.preshared)?;
        let process = router.start("dc-east", "wireguard-go", ["-f", "dc0"])?;
        let endpoint = format!("{HUB_PUBLIC}:{PORT}");
        wait_until("the router's interface", PATIENCE, || {
            let private = ["set", "dc0", "private-key", text(&key)?];
            let peer = ["peer", &hub_key, "preshared-key", text(&preshared)?];
            let to = ["endpoint", &endpoint, "persistent-keepalive", "5"];
            let allowed = ["allowed-ips", "10.0.0.0/8"];
            let all = [&private[..], &peer, &to, &allowed].concat();
            router.run("wg", all).map(Some)
        })?;
        router.ip(&[
            format!("addr add {SITE}/16 dev dc0"),
            "link set dc0 mtu 1420 up".to_owned(),
            "route add 10.0.0.0/8 dev dc0".to_owned(),
        ])?;
        Ok(process)
    }
}

fn secret(directory: &Path, name: &str, key: &PrivateKey) -> Result<PathBuf> {
    let file = directory.join(name);
    std::fs::write(&file, key.to_base64().as_str())?;
    std::fs::set_permissions(&file, Permissions::from_mode(0o600))?;
    Ok(file)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("not a text")
}
