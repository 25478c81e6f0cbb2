//! What route tables may have in the way of a spoke that is to serve them: it is named,
//! and left as it is, and everything else works. And a public subnet's, of which a spoke
//! serves some destinations alone.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use privnet_tests::daemon::{config_file, nat_hub_config};
use privnet_tests::deployment::{PATIENCE, public_address, sees, wait_until_up};
use privnet_tests::fault_proxy::{Fault, FaultKind};
use privnet_tests::process::wait_until;
use privnet_tests::programs;
use privnet_tests::topology::{self, PRIVNET, WEB};
use privnet_tests::vpc_fabric::{Fabric, Follower};
use privnet_tests::world::World;

use crate::vpc_routes::Running;

/// No table of anybody.
const UNKNOWN: &str = "rtb-0123456789abcdef0";
/// A destination for which a table has no room.
const EXTRA: &str = "192.0.2.128/25";
const TABLES: &str = "tables = \"zone\"\n";

pub(crate) fn what_is_in_the_way_in_a_table_is_named_and_left_alone() -> Result<()> {
    let mut running = Running::start_with(|_| Ok(String::new()))?;
    running.wait_until_all_is_well()?;
    let table = running.fabric.table_of("host-d1")?.to_owned();
    let gateway = running.fabric.gateway().to_owned();

    // One table that does not exist, one route that infrastructure code has made since, and
    // one for which there is no room.
    let spoke = running.world.host("spoke-d1")?;
    let region = spoke.metadata.region.clone();
    let config = std::fs::read_to_string(config_file(spoke))?;
    ensure!(config.contains(TABLES), "{config}");
    let tables = format!("tables = [{UNKNOWN:?}, {table:?}]\nextra = [{EXTRA:?}]\n");
    let config = config.replace(TABLES, &tables);
    let full = Fault::of_action("CreateRoute", FaultKind::TableFull);
    running.world.faults.set(&[full])?;
    running.world.crash("spoke-d1")?;
    let theirs = [
        ("RouteTableId", table.as_str()),
        ("DestinationCidrBlock", PRIVNET),
        ("GatewayId", gateway.as_str()),
    ];
    running.world.ec2.call(&region, "ReplaceRoute", &theirs)?;
    running.world.start("spoke-d1", &config)?;

    let unknown = format!("{UNKNOWN} is no route table of this VPC; check routes.tables");
    let foreign = format!(
        "{table}: the route to {PRIVNET} leads to internet gateway {gateway} and is left alone"
    );
    let no_room = format!("{table}: the route to {EXTRA} stays: CreateRoute");
    let why = "the table has as many routes as it may have".to_owned();
    let problems = |running: &Running| -> Result<Vec<String>> {
        Ok(running.world.daemon("spoke-d1")?.status()?.problems)
    };
    wait_until("all of them to be named", PATIENCE * 2, || {
        let problems = problems(&running)?;
        for words in [&unknown, &foreign, &no_room, &why] {
            let mut told = problems.iter();
            let told = told.any(|problem| problem.contains(words.as_str()));
            ensure!(told, "not {words}: {problems:?}");
        }
        Ok(Some(()))
    })?;

    // Its default route, its sibling, its tunnel.
    running.wait_until_all_is_well()?;
    for (host, spoke) in [("host-d1", "spoke-d1"), ("host-d2", "spoke-d2")] {
        running.wait_until_led(host, spoke)?;
        let public = public_address(&running.world, spoke)?;
        sees(&running.world, host, WEB, public)?;
    }
    wait_until_up(&running.world, &["spoke-d1", "spoke-d2"], PATIENCE)?;

    // With room for it the route is made; theirs stays theirs.
    running.world.faults.clear()?;
    wait_until("the route to be made", PATIENCE * 2, || {
        let moves = running.fabric.moves();
        let made = moves.iter().any(|moved| moved.destination == EXTRA);
        ensure!(made, "{moves:?}");
        let problems = problems(&running)?;
        let full = problems.iter().any(|problem| problem.contains(EXTRA));
        ensure!(!full, "{problems:?}");
        Ok(Some(()))
    })?;
    let problems = problems(&running)?;
    let told = problems.iter().any(|problem| problem.contains(&foreign));
    ensure!(told, "{problems:?}");
    let one = [("RouteTableId.1", table.as_str())];
    let answer = running
        .world
        .ec2
        .call(&region, "DescribeRouteTables", &one)?;
    ensure!(answer.contains(&gateway), "{answer}");
    running.world.check()
}

/// A web server that is in no data centre.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);

/// The host has a public address of its own, which a data centre does not know: that is
/// [`WEB`]'s network.
pub(crate) fn a_host_in_a_public_subnet_is_known_to_a_data_centre_by_the_spokes_address()
-> Result<()> {
    const OWN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 61);
    let mut vpc = topology::two_gateways();
    let host = vpc.subnets.iter_mut().flat_map(|one| &mut one.instances);
    let mut host = host.filter(|instance| instance.name == "host-d1");
    host.next().context("host-d1")?.public = Some(OWN);
    let mut network = topology::demo();
    network.vpcs.push(vpc);
    let mut world = World::build(&network)?;
    let elsewhere = world.add_internet_host("elsewhere", ELSEWHERE)?;
    let listen = format!("{ELSEWHERE}:80");
    let simulator = programs::ours("privnet-sim")?;
    let _server = elsewhere.start("web", simulator, ["web", &listen])?;

    let follower = Follower {
        host: "host-d1",
        subnet: 1,
    };
    let fabric = Fabric::start(&world, "vpc-d", &[follower], &["spoke-d1"])?;
    let table = fabric.table_of("host-d1")?.to_owned();
    let region = world.host("host-d1")?.metadata.region.clone();
    let public = [
        ("RouteTableId", table.as_str()),
        ("DestinationCidrBlock", "0.0.0.0/0"),
        ("GatewayId", fabric.gateway()),
    ];
    world.ec2.call(&region, "CreateRoute", &public)?;
    // The other end of the router's link is the address before its own.
    let internet = Ipv4Addr::from_bits(world.uplink("vpc-d")?.to_bits() - 1);
    let way = format!("route add default via {internet} table 1001");
    world.router("vpc-d")?.ip(&[way])?;
    for server in [WEB, ELSEWHERE] {
        sees(&world, "host-d1", server, OWN)?;
    }

    let config = format!(
        "{}\n[routes]\ntables = [{table:?}]\ndefault = false\nprivnet = false\n\
         extra = [\"203.0.113.80/28\"]\nsource_dest_check = \"off\"\ntakeover = false\n\
         [self_test]\ntargets = [\"{WEB}:80\"]\n",
        nat_hub_config(world.host("spoke-d1")?)
    );
    world.start("spoke-d1", &config)?;
    let spoke = public_address(&world, "spoke-d1")?;
    wait_until("the data centre to see the spoke", PATIENCE * 2, || {
        let seen = world
            .namespace("host-d1")?
            .fetch(&format!("http://{WEB}/"))?;
        ensure!(seen == spoke.to_string(), "it sees {seen}");
        Ok(Some(()))
    })?;
    sees(&world, "host-d1", ELSEWHERE, OWN)?;
    let moves = fabric.moves();
    let only = moves
        .iter()
        .all(|moved| moved.destination == "203.0.113.80/28");
    ensure!(only && moves.len() == 1, "{moves:?}");
    wait_until("nothing to be wrong", PATIENCE, || {
        let problems = world.daemon("spoke-d1")?.status()?.problems;
        ensure!(problems.is_empty(), "{problems:?}");
        Ok(Some(()))
    })?;
    world.check()
}
