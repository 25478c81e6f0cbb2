//! Answers of the EC2 API that are complete, successful and untrue, or true only
//! because somebody wrote a tag who should not: what works goes on working, while
//! pings go through the tunnels and none is lost. On the demo network (drawn at
//! `privnet_tests::topology::demo`); the hub polls every five seconds.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use privnet_model::id::{InstanceId, Region};
use privnet_model::inventory::{Fate, PORT_TAG, PUBLIC_KEY_TAG, TRANSPORT_TAG};
use privnet_model::status::{Kept, Note, Status};
use privnet_tests::daemon::config_file;
use privnet_tests::deployment::tunnels;
use privnet_tests::fault_proxy::{Fault, FaultKind};
use privnet_tests::process::wait_until;
use privnet_tests::scale::seed_spoke;

use crate::faults::{POLLS, Running};

/// A real key, of nobody.
const NOBODY: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

pub(crate) fn an_empty_list_takes_no_tunnel_that_works() -> Result<()> {
    let mut running = Running::start("12s")?;
    let nothing = Fault::of_action("DescribeInstances", FaultKind::NothingListed);
    running.world.faults.set(&[nothing])?;
    // Also after the second such answer, at which a spoke would go.
    for _ in 0..2 {
        let status = running.shows(&[])?;
        running.is_unharmed()?;
        for name in ["spoke-a", "spoke-b"] {
            let (fate, kept) = absence(&status, name)?.context("it is said to be there")?;
            ensure!(fate == Fate::NotFound, "{fate:?}");
            ensure!(
                matches!(kept, Kept::Handshakes | Kept::SecondAnswer),
                "{kept:?}"
            );
        }
    }
    heals(&mut running)
}

pub(crate) fn a_spoke_that_only_a_search_misses_is_not_missed() -> Result<()> {
    let mut running = Running::start("12s")?;
    let missed = Fault::of_searches(FaultKind::NothingListed);
    running.world.faults.set(&[missed])?;
    let status = running.shows(&[])?;
    for name in ["spoke-a", "spoke-b"] {
        ensure!(
            absence(&status, name)?.is_none(),
            "{name} is said to be away"
        );
    }
    heals(&mut running)
}

pub(crate) fn instances_without_tags_prove_nothing() -> Result<()> {
    let mut running = Running::start("12s")?;
    let untagged = Fault::of_action("DescribeInstances", FaultKind::Untagged);
    running.world.faults.set(&[untagged])?;
    for _ in 0..2 {
        let status = running.shows(&[])?;
        running.is_unharmed()?;
        for name in ["spoke-a", "spoke-b"] {
            let absence = absence(&status, name)?;
            ensure!(
                absence == Some((Fate::Tagless, Kept::TagsMissing)),
                "{absence:?}"
            );
        }
    }
    heals(&mut running)
}

pub(crate) fn what_somebody_else_wrote_into_a_tag_takes_no_tunnel_that_works() -> Result<()> {
    let mut running = Running::start("12s")?;
    let metadata = running.world.host("spoke-b")?.metadata.clone();
    let (region, spoke) = (&metadata.region, metadata.instance.as_str());
    for (tag, value) in [
        (PUBLIC_KEY_TAG, NOBODY),
        (PUBLIC_KEY_TAG, "nonsense"),
        (PORT_TAG, "1"),
        (PORT_TAG, "nonsense"),
        (TRANSPORT_TAG, "none"),
        ("env", "no longer prod"),
    ] {
        let ec2 = &running.world.ec2;
        let before = ec2.tag_of(region, &metadata.instance, tag)?;
        let before = before.with_context(|| format!("no tag {tag}"))?;
        ec2.tag(region, spoke, &[(tag, value)])?;
        let status = running.shows(&[])?;
        let what = || format!("{tag} = {value}");
        running.is_unharmed().with_context(what)?;
        if value == NOBODY {
            let notes = notes(&status, "spoke-b")?;
            let quarantined = notes.iter().any(
                |note| matches!(note, Note::KeyQuarantined { key } if key.to_string() == NOBODY),
            );
            ensure!(quarantined, "{notes:?}");
        }
        running.world.ec2.tag(region, spoke, &[(tag, &before)])?;
        running.shows(&[])?;
        running.is_unharmed().with_context(what)?;
    }
    running.world.check()
}

/// Spokes that are tags and nothing else, in the region that has no other.
const MANY: u32 = 6;
const THEIRS: &str = "ap-southeast-2";

fn seed(running: &Running) -> Result<Vec<InstanceId>> {
    let region: Region = THEIRS.parse()?;
    let seeded = (0..MANY)
        .map(|number| seed_spoke(&running.world.ec2, &region, number))
        .collect::<Result<Vec<_>>>()?;
    wait_until("the spokes to be found", POLLS, || {
        let status = running.status()?;
        Ok((listed(&status) == seeded.len()).then_some(()))
    })?;
    Ok(seeded)
}

fn listed(status: &Status) -> usize {
    let seeded = |name: &str| name.starts_with("spoke-0");
    let listed = status.tunnels.iter().filter(|tunnel| seeded(&tunnel.name));
    listed.count()
}

fn wait_until_held(running: &Running, fate: Fate) -> Result<()> {
    wait_until("the removals to be held", POLLS, || {
        let status = running.status()?;
        let held = (0..MANY)
            .map(|number| absence(&status, &format!("spoke-{number:04}")))
            .collect::<Result<Vec<_>>>()?;
        let expected = Some((fate, Kept::TooMany));
        ensure!(held.iter().all(|held| *held == expected), "{held:?}");
        ensure!(status.held_removals.is_some(), "there is no alarm");
        Ok(Some(()))
    })
}

pub(crate) fn a_region_that_is_mistyped_in_the_config_takes_no_tunnel() -> Result<()> {
    let running = Running::start("12s")?;
    let seeded = seed(&running)?;
    let file = config_file(running.world.host("hub")?);
    let right = std::fs::read_to_string(&file)?;
    let reload = |config: &str| -> Result<()> {
        std::fs::write(&file, config)?;
        running.world.daemon("hub")?.process.signal(Signal::SIGHUP)
    };
    let wrong = right.replace(THEIRS, "ap-southeast-1");
    ensure!(wrong != right, "{right}");
    reload(&wrong)?;
    wait_until_held(&running, Fate::Unconfigured)?;
    // Mended, it is as if nothing had happened.
    reload(&right)?;
    wait_until("the alarm to end", POLLS, || {
        let status = running.status()?;
        ensure!(listed(&status) == seeded.len(), "{:?}", status.tunnels);
        Ok(status.held_removals.is_none().then_some(()))
    })?;
    ensure!(absence(&running.status()?, "spoke-0000")?.is_none());
    // Meant, it is accepted.
    reload(&wrong)?;
    wait_until_held(&running, Fate::Unconfigured)?;
    tunnels(&running.world, &["refresh", "--accept-removals"])?;
    let status = running.status()?;
    ensure!(listed(&status) == 0 && status.held_removals.is_none());
    Ok(())
}

pub(crate) fn a_spoke_that_is_untagged_and_handshakes_goes_when_the_operator_names_it() -> Result<()>
{
    let running = Running::start("12s")?;
    let spoke = running.world.host("spoke-b")?.metadata.clone();
    let id = spoke.instance.as_str();
    running.world.ec2.untag(&spoke.region, id, &["env"])?;
    wait_until("its absence to be noticed", POLLS, || {
        let absence = absence(&running.status()?, "spoke-b")?;
        Ok((absence == Some((Fate::Untagged, Kept::Handshakes))).then_some(()))
    })?;
    // That is for what is held, and it is not.
    tunnels(&running.world, &["refresh", "--accept-removals"])?;
    absence(&running.status()?, "spoke-b")?.context("it went")?;
    let told = tunnels(&running.world, &["refresh", "--remove", id, "--dry-run"])?;
    ensure!(told.contains("no longer tagged"), "{told}");
    tunnels(&running.world, &["refresh", "--remove", id])?;
    let status = running.status()?;
    let left = status.tunnels.iter().find(|one| one.name == "spoke-b");
    ensure!(left.is_none(), "{left:?}");
    Ok(())
}

pub(crate) fn many_removals_at_once_wait_for_the_operator() -> Result<()> {
    let mut running = Running::start("12s")?;
    let seeded = seed(&running)?;
    let region: Region = THEIRS.parse()?;
    for spoke in &seeded {
        running.world.ec2.untag(&region, spoke.as_str(), &["env"])?;
    }
    wait_until_held(&running, Fate::Untagged)?;
    // However often it is asked.
    let status = running.shows(&[])?;
    ensure!(listed(&status) == seeded.len());
    running.is_unharmed()?;

    let table = tunnels(&running.world, &["list"])?;
    ensure!(table.contains("accept-removals"), "{table}");
    tunnels(&running.world, &["refresh", "--accept-removals"])?;
    let status = running.status()?;
    ensure!(listed(&status) == 0, "{:?}", status.tunnels);
    ensure!(status.held_removals.is_none());
    running.is_unharmed()?;
    running.world.check()
}

/// After the faults: nothing is left of them.
fn heals(running: &mut Running) -> Result<()> {
    running.is_unharmed()?;
    running.world.faults.clear()?;
    let status = running.shows(&[])?;
    for name in ["spoke-a", "spoke-b"] {
        let notes = notes(&status, name)?;
        ensure!(notes.is_empty(), "{name}: {notes:?}");
    }
    running.is_unharmed()?;
    running.world.check()
}

/// What is said of a tunnel whose spoke the answers lack.
fn absence(status: &Status, name: &str) -> Result<Option<(Fate, Kept)>> {
    Ok(notes(status, name)?.iter().find_map(|note| match note {
        Note::Absent { fate, kept, .. } => Some((*fate, *kept)),
        _ => None,
    }))
}

fn notes<'a>(status: &'a Status, name: &str) -> Result<&'a [Note]> {
    let tunnel = status.tunnels.iter().find(|tunnel| tunnel.name == name);
    Ok(&tunnel.with_context(|| format!("no tunnel {name}"))?.notes)
}
