//! The VPC with a spoke in each of three zones, in which some tests begin (drawn at
//! `privnet_tests::topology::three_gateways`), and what its spokes say of each other.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use privnet_model::status::RoutesStatus;
use privnet_tests::deployment::{PATIENCE, sibling_config, wait_until_up};
use privnet_tests::process::wait_until;
use privnet_tests::topology;
use privnet_tests::vpc_fabric::{Fabric, Follower};
use privnet_tests::world::World;

/// A spoke, the host of its zone, and the number of the host's subnet.
pub(crate) const ZONES: [(&str, &str, usize); 3] = [
    ("spoke-d1", "host-d1", 1),
    ("spoke-d2", "host-d2", 3),
    ("spoke-d3", "host-d3", 5),
];
/// Where each spoke serves its metrics.
pub(crate) const METRICS: &str = "127.0.0.1:9587";

/// The world, in which nothing of ours runs, and the VPC's route tables.
pub(crate) fn build() -> Result<(World, Fabric)> {
    let mut network = topology::demo();
    network.vpcs.push(topology::three_gateways());
    let world = World::build(&network)?;
    let followers = ZONES.map(|(_, host, subnet)| Follower { host, subnet });
    let spokes = ZONES.map(|(spoke, ..)| spoke);
    let fabric = Fabric::start(&world, "vpc-d", &followers, &spokes)?;
    Ok((world, fabric))
}

/// The same with the hub and the spokes, which have these keys more in `[routes]`, and
/// with their tunnels up.
pub(crate) fn start(routes: &str) -> Result<(World, Fabric)> {
    let (mut world, fabric) = build()?;
    let spokes = ZONES.map(|(spoke, ..)| spoke);
    let hub = sibling_config(&world, "hub", "", "")?;
    world.start("hub", &hub)?;
    for spoke in spokes {
        let config = sibling_config(&world, spoke, routes, "")?;
        world.start(spoke, &format!("metrics = \"{METRICS}\"\n{config}"))?;
    }
    wait_until_up(&world, &spokes, PATIENCE)?;
    Ok((world, fabric))
}

/// What a spoke says of the routes and of its siblings.
pub(crate) fn routes(world: &World, spoke: &str) -> Result<RoutesStatus> {
    let routes = world.daemon(spoke)?.status()?.routes;
    routes.with_context(|| format!("{spoke} tells nothing of routes"))
}

/// How a spoke says that another is, if it knows it.
pub(crate) fn state_of(world: &World, by: &str, of: &str) -> Result<Option<String>> {
    let instance = &world.host(of)?.metadata.instance;
    let mut siblings = routes(world, by)?.siblings.into_iter();
    let found = siblings.find(|one| one.instance == *instance);
    Ok(found.map(|one| one.state))
}

/// Waits until a spoke says so of another, with these words first.
pub(crate) fn wait_for_state(world: &World, by: &str, of: &str, words: &str) -> Result<()> {
    wait_until(&format!("{of} to be {words} for {by}"), PATIENCE, || {
        let state = state_of(world, by, of)?;
        let so = state.as_ref().is_some_and(|state| state.starts_with(words));
        ensure!(so, "{state:?}");
        Ok(Some(()))
    })
}

/// Waits until a spoke knows of another that it is well, but does not hear it.
pub(crate) fn wait_until_only_others_hear(world: &World, by: &str, of: &str) -> Result<()> {
    let instance = &world.host(of)?.metadata.instance;
    let what = format!("{of} to be heard by others than {by} alone");
    wait_until(&what, PATIENCE, || {
        let told = routes(world, by)?.siblings.into_iter();
        let told: Vec<_> = told.filter(|one| one.instance == *instance).collect();
        let so = told
            .iter()
            .any(|one| one.only_others_hear && one.state == "well");
        ensure!(so, "{told:?}");
        Ok(Some(()))
    })
}

/// Waits until a spoke is well, and knows that its siblings are.
pub(crate) fn wait_until_well(world: &World, spoke: &str, patience: Duration) -> Result<()> {
    wait_until(&format!("all to be well for {spoke}"), patience, || {
        let routes = routes(world, spoke)?;
        let well = routes.siblings.iter().all(|one| one.state == "well");
        ensure!(
            routes.sick.is_none() && well && routes.siblings.len() == 2,
            "{routes:?}"
        );
        Ok(Some(()))
    })
}
