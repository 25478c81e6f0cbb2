//! Answers of the EC2 API that are complete, successful and untrue, or true only
//! because somebody wrote a tag who should not: what works goes on working, while
//! pings go through the tunnels and none is lost. On the demo network (drawn at
//! `privnet_tests::topology::demo`); the hub polls every five seconds.

use anyhow::{Context, Result, ensure};
use privnet_model::id::Region;
use privnet_model::inventory::{Fate, PORT_TAG, PUBLIC_KEY_TAG, TRANSPORT_TAG};
use privnet_model::status::{Kept, Note, Status};
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

pub(crate) fn many_removals_at_once_wait_for_the_operator() -> Result<()> {
    const MANY: u32 = 6;
    let mut running = Running::start("12s")?;
    let region: Region = "ap-southeast-2".parse()?;
    let seeded = (0..MANY)
        .map(|number| seed_spoke(&running.world.ec2, &region, number))
        .collect::<Result<Vec<_>>>()?;
    let listed = |status: &Status| {
        let seeded = |name: &str| name.starts_with("spoke-0");
        let listed = status.tunnels.iter().filter(|tunnel| seeded(&tunnel.name));
        listed.count()
    };
    wait_until("the spokes to be found", POLLS, || {
        let status = running.status()?;
        Ok((listed(&status) == seeded.len()).then_some(()))
    })?;
    for spoke in &seeded {
        running.world.ec2.untag(&region, spoke.as_str(), &["env"])?;
    }
    wait_until("the removals to be held", POLLS, || {
        let status = running.status()?;
        let held = (0..MANY)
            .map(|number| absence(&status, &format!("spoke-{number:04}")))
            .collect::<Result<Vec<_>>>()?;
        let expected = Some((Fate::Untagged, Kept::TooMany));
        ensure!(held.iter().all(|held| *held == expected), "{held:?}");
        ensure!(status.held_removals.is_some(), "there is no alarm");
        Ok(Some(()))
    })?;
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
