//! Two spokes by IPsec of one VPC, drawn at `privnet_tests::topology::two_gateways`, at the
//! hub's image: its kernel does ESP, and sends through each what is for its zone. When one
//! dies the other one has all. They are the same programs in namespaces, where
//! strongSwan does ESP.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use privnet_model::inventory::Transport;
use privnet_model::status::{GatewayHealth, GatewayRole, TunnelState};
use privnet_tests::deployment::{
    FLEET_SECRET, PATIENCE, nothing_leaked, reach_each_other, start_spoke_by_ipsec,
};
use privnet_tests::guest::{Guest, LoginKey};
use privnet_tests::long_ping::LongPing;
use privnet_tests::process::wait_until;
use privnet_tests::topology::{self, HUB_PUBLIC};
use privnet_tests::world::World;

use crate::hub::{give, status, wait_until_up};
use crate::report::Figures;
use crate::spoke::SECRET_PARAMETER;
use crate::upgrade::LATE;

const SPOKES: [&str; 2] = ["spoke-d1", "spoke-d2"];
/// A host in the zone of the first.
const HOST: &str = "host-d1";
/// The VPC's router has the route table of that host's subnet, the second one, as this.
const ROUTE_TABLE: u32 = 1001;
/// How long the way there may be gone when the one that carries it dies.
const STOOD_IN_FOR: Duration = Duration::from_secs(10);

pub(crate) fn by_ipsec(
    world: &mut World,
    guest: &Guest,
    login: &LoginKey,
    user_data: &str,
    figures: &mut Figures,
) -> Result<()> {
    world.add_vpc(&topology::two_gateways())?;
    let region = world.host("hub")?.metadata.region.clone();
    world
        .ec2
        .put_secret(&region, SECRET_PARAMETER, FLEET_SECRET)?;
    let more = format!("\n[ipsec]\n[trust]\npreshared_key = {{ ssm = \"{SECRET_PARAMETER}\" }}\n");
    give(world, guest, login, &format!("{user_data}{more}"))?;
    let mut charons = BTreeMap::new();
    for spoke in SPOKES {
        charons.insert(spoke, start_spoke_by_ipsec(world, spoke, &[HUB_PUBLIC])?);
    }
    guest.run(login, "tunnels refresh")?;
    // Who called before the hub knew it calls again after half a minute.
    wait_until("both to carry their zones", PATIENCE * 4, || {
        Ok(carry(guest, login)?.eq(&SPOKES).then_some(()))
    })?;
    figures.row(
        "two spokes by IPsec of one VPC, each carries its zone",
        "both tunnels up, and answer probes through the kernel's XFRM interfaces",
    );
    let [active, standby] = SPOKES;
    // Route tables are not what this is about: the operator's point to the one that serves.
    let route_by = |world: &World, spoke: &str| -> Result<()> {
        let address = world.host(spoke)?.instance.address;
        let route = format!("route replace default via {address} table {ROUTE_TABLE}");
        world.router("vpc-d")?.ip(&[route])
    };
    route_by(world, active)?;
    reach_each_other(world, "host-hub", HOST)?;

    let inside = world.host(HOST)?.instance.address;
    let pings = LongPing::start(world.namespace("host-hub")?, inside)?;
    pings.answers(10, PATIENCE)?;
    world.crash(active)?;
    charons.remove(active).context("no charon")?.kill()?;
    route_by(world, standby)?;
    pings.answers(20, PATIENCE)?;
    let answered = pings.end()?;
    let gap = answered.longest_gap(LATE);
    ensure!(gap <= STOOD_IN_FOR, "{gap:?} without an answer");
    wait_until("the other one alone to be told", PATIENCE, || {
        Ok(carry(guest, login)?.eq(&[standby]).then_some(()))
    })?;
    reach_each_other(world, "host-hub", HOST)?;
    figures.row(
        "one of them killed, daemon and charon: hosts of its zone without an answer",
        format!(
            "{:.1} s, of {} s at most ({} of {} pings lost)",
            gap.as_secs_f64(),
            STOOD_IN_FOR.as_secs(),
            answered.lost(),
            answered.requests()
        ),
    );
    nothing_leaked(world)?;

    // The other spokes do not have the secret.
    drop(charons);
    for spoke in SPOKES {
        world.terminate(spoke)?;
    }
    give(world, guest, login, user_data)?;
    guest.run(login, "tunnels refresh")?;
    wait_until_up(guest, login, &["spoke-a", "spoke-b"])
}

/// Those of the two that are up, carry something and answer probes.
fn carry(guest: &Guest, login: &LoginKey) -> Result<Vec<&'static str>> {
    let tunnels = status(guest, login)?.tunnels;
    let carries = |spoke: &&str| {
        tunnels.iter().any(|tunnel| {
            let gateway = tunnel.gateway.as_ref();
            let is_active = gateway.is_some_and(|gateway| {
                gateway.role == GatewayRole::Active && gateway.health == GatewayHealth::Healthy
            });
            tunnel.name == *spoke
                && tunnel.transport == Transport::Ipsec
                && tunnel.state == TunnelState::Up
                && is_active
        })
    };
    Ok(SPOKES.into_iter().filter(carries).collect())
}
