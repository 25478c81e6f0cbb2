//! The hub's image, in the demo network: it is the hub, a guest; the spokes are the same
//! programs in namespaces.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use privnet_model::status::{Status, TunnelState};
use privnet_tests::daemon::{hub_config, spoke_config};
use privnet_tests::deployment::{
    PATIENCE, nothing_leaked, reach_each_other, wait_for_published_key,
};
use privnet_tests::guest::{Disk, Guest, LoginKey, private_directory};
use privnet_tests::process::wait_until;
use privnet_tests::topology::{self, API, API_PORT, HUB_PUBLIC, PORT};
use privnet_tests::world::World;

use crate::report::Figures;
use crate::{BOOT, machine};

const NAME: &str = "hub";

pub(crate) fn test(image: &Path, figures: &mut Figures) -> Result<()> {
    let mut world = World::build_with_guests(&topology::demo(), &[NAME])?;
    let files = world.namespace(NAME)?.directory();
    private_directory(&files)?;
    let login = LoginKey::make(&files)?;
    let work = tempfile::tempdir()?;
    let disk = Disk::copy_of(image, work.path(), machine::VOLUME)?;
    let api = format!("http://{API}:{API_PORT}");
    let user_data = format!(
        "{}{}",
        config(&world)?,
        machine::instance_section(&login, "10.0.0.1", &api)
    );
    world.change_metadata(NAME, |metadata| metadata.user_data = Some(user_data))?;

    let instance = &world.host(NAME)?.instance;
    let mut guest = Guest::boot(world.router("vpc-hub")?, instance, &disk, "good")?;
    guest.wait_for_login(&login, BOOT)?;
    wait_until("privnet-hub to be ready", BOOT, || {
        guest
            .run(&login, "systemctl is-active privnet-hub")
            .map(Some)
    })
    .with_context(|| guest.console_tail(40))?;
    figures.row(
        "hub ready after power on",
        format!("{:.0} s", guest.started.elapsed().as_secs_f64()),
    );
    machine::inspect(&guest, &login, "privnet-hub", "ip-10-0-0-10", figures)?;

    let key = guest.run(
        &login,
        "runuser -u privnet -- privnet-hub public-key /etc/privnet/hub.toml",
    )?;
    for name in ["spoke-a", "spoke-b"] {
        let config = spoke_config(world.host(name)?, &format!("{HUB_PUBLIC}:{PORT}"), &key);
        world.start(name, &config)?;
        wait_for_published_key(&mut world, name)?;
    }
    guest.run(&login, "tunnels refresh")?;
    wait_until_up(&guest, &login, &["spoke-a", "spoke-b"])?;
    figures.quote("`tunnels list` on it", &guest.run(&login, "tunnels list")?);
    reach_each_other(&world, "host-a", "host-b")?;
    reach_each_other(&world, "host-hub", "host-a")?;
    figures.row(
        "hosts behind two spokes, and its own VPC's, through it",
        "all ways, no NAT",
    );
    nothing_leaked(&world)?;
    guest.check()?;
    world.check()?;
    guest.shut_down(&login, Duration::from_secs(120))
}

/// What an operator gives a hub: without the paths that a namespace needs.
fn config(world: &World) -> Result<String> {
    let config = hub_config(world.host(NAME)?);
    let ours = |line: &&str| !line.starts_with("private_key") && !line.starts_with("state");
    Ok(config
        .lines()
        .filter(ours)
        .map(|line| format!("{line}\n"))
        .collect())
}

fn wait_until_up(guest: &Guest, login: &LoginKey, names: &[&str]) -> Result<()> {
    wait_until("both tunnels up at the guest", PATIENCE * 2, || {
        let answer = guest.run(
            login,
            "curl -sS --unix-socket /run/privnet/hub.sock http://privnet/v1/status",
        )?;
        let status: Status = serde_json::from_str(&answer)?;
        let up = |name: &str| {
            status
                .tunnels
                .iter()
                .any(|tunnel| tunnel.name == name && tunnel.state == TunnelState::Up)
        };
        if names.iter().all(|name| up(name)) {
            return Ok(Some(()));
        }
        bail!("it has {answer}")
    })
}
