//! What is missed while the hub of the image becomes another version: in place, by its
//! packages, or by an instance in its place. `netns/upgrades` measures the daemon's part
//! alone; here are what a package does besides, and a boot. Which version it is makes no
//! difference.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use privnet_tests::deployment::PATIENCE;
use privnet_tests::guest::{Architecture, Disk, Guest, LoginKey};
use privnet_tests::long_ping::{Answered, LongPing};
use privnet_tests::world::World;

use crate::report::Figures;
use crate::{BOOT, machine};

/// From one ping to the next.
const INTERVAL: Duration = Duration::from_millis(50);
/// An answer that came later than this was not there when it was wanted.
pub(crate) const LATE: Duration = Duration::from_secs(1);
/// What may be missed in place at most: the daemon's end and start, emulated.
const IN_PLACE: Duration = Duration::from_secs(15);
/// What a first handshake, and spokes that tried in vain before, may add to a boot.
const HANDSHAKES: Duration = Duration::from_secs(15);
/// Where the templates keep the hub's private key.
const KEY_PARAMETER: &str = "/privnet/hub/private-key";

/// Its packages are installed while a host pings another one through the hub: over the
/// image's own files, which no package brought, and once more over themselves.
pub(crate) fn in_place(
    world: &World,
    guest: &Guest,
    login: &LoginKey,
    packages: &[PathBuf],
    figures: &mut Figures,
) -> Result<()> {
    const PLACE: &str = "/var/tmp/packages";
    let files: Vec<&Path> = packages.iter().map(PathBuf::as_path).collect();
    guest.copy(login, &files, PLACE)?;
    for over in ["the image's own files", "the same package"] {
        let before = guest.run(login, "systemctl show -P MainPID privnet-hub")?;
        let pings = from_site_to_site(world)?;
        let began = Instant::now();
        guest.run(
            login,
            &format!(
                "DEBIAN_FRONTEND=noninteractive apt-get install --yes --reinstall {PLACE}/*.deb"
            ),
        )?;
        let took = began.elapsed();
        pings.answers(20, PATIENCE)?;
        let answered = pings.end()?;
        let installed = guest.run(login, "dpkg-query -W -f '${Status}\\n' privnet-hub")?;
        ensure!(installed == "install ok installed", "{installed}");
        let after = guest.run(login, "systemctl show -P MainPID privnet-hub")?;
        ensure!(before != after, "privnet-hub was not started anew");
        let gap = answered.longest_gap(LATE);
        ensure!(gap <= IN_PLACE, "over {over}: {gap:?} without an answer");
        figures.row(
            &format!("hub upgraded in place, over {over}: site to site without an answer"),
            format!(
                "{}; apt-get took {:.0} s",
                missed(&answered),
                took.as_secs_f64()
            ),
        );
    }
    Ok(())
}

/// Its power is taken away while a host pings another one through it, and an instance with
/// an empty disk and the same key, which is in SSM, is switched on in its place: returns
/// that. EC2's own time for a launch comes on top.
pub(crate) fn by_another_instance(
    world: &mut World,
    guest: Guest,
    login: &LoginKey,
    disk: &Disk,
    user_data: &str,
    figures: &mut Figures,
) -> Result<Guest> {
    let key = guest.run(login, "cat /var/lib/privnet/hub.key")?;
    let metadata = world.host("hub")?.metadata.clone();
    world
        .ec2
        .put_secret(&metadata.region, KEY_PARAMETER, &format!("{key}\n"))?;
    let user_data = format!("private_key = {{ ssm = \"{KEY_PARAMETER}\" }}\n{user_data}");
    world.change_metadata("hub", |metadata| metadata.user_data = Some(user_data))?;

    let pings = from_site_to_site(world)?;
    guest.switch_off()?;
    let instance = &world.host("hub")?.instance;
    let mut next = Guest::boot(world.router("vpc-hub")?, instance, disk, "replaced")?;
    // One that was under way when the power went does not count.
    pings
        .answers(20, BOOT)
        .with_context(|| next.console_tail(40))?;
    let answered = pings.end()?;
    let gap = answered.longest_gap(LATE);
    let most = machine::IN_SERVICE + HANDSHAKES;
    ensure!(gap <= most, "{gap:?} without an answer, {most:?} at most");
    figures.row(
        "hub replaced by an empty instance, key from SSM: site to site without an answer from power off",
        missed(&answered),
    );
    next.wait_for_login(login, BOOT)?;
    let again = next.run(login, "cat /var/lib/privnet/hub.key")?;
    ensure!(again == key, "the key is not that of SSM");
    Ok(next)
}

/// The packages of a hub among those of this directory, in which `make packages` leaves one
/// version of each.
pub(crate) fn of_hub(architecture: Architecture, directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("{}: make packages first", directory.display()))?;
    let files: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    let end = format!("_{}.deb", architecture.name());
    let of = |name: &str| {
        let is_it = |file: &&PathBuf| {
            let file = file.file_name().unwrap_or_default().to_string_lossy();
            file.starts_with(&format!("{name}_")) && file.ends_with(&end)
        };
        let mut found = files.iter().filter(is_it);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one.clone()),
            _ => bail!("{}: not one package {name}", directory.display()),
        }
    };
    ["privnet-tunnels", "privnet-hub"]
        .map(of)
        .into_iter()
        .collect()
}

/// Pings that are answered.
fn from_site_to_site(world: &World) -> Result<LongPing> {
    let to = world.host("host-b")?.instance.address;
    let pings = LongPing::start_every(INTERVAL, world.namespace("host-a")?, to)?;
    pings.answers(20, PATIENCE)?;
    Ok(pings)
}

/// The longest time without an answer, for the report.
fn missed(answered: &Answered) -> String {
    format!(
        "{:.2} s ({} of {} pings lost, one every {} ms)",
        answered.longest_gap(LATE).as_secs_f64(),
        answered.lost(),
        answered.requests(),
        INTERVAL.as_millis()
    )
}
