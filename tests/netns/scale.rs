//! Many spokes. Only the hub is real: the spokes are instances in moto with keys
//! that nobody holds, so every tunnel is set up and none comes up.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ipnet::Ipv4Net;
use privnet_model::id::Region;
use privnet_model::key::PublicKey;
use privnet_tests::daemon::hub_config;
use privnet_tests::fault_proxy::busy_millis;
use privnet_tests::moto::Ec2;
use privnet_tests::process::wait_until;
use privnet_tests::topology::{self, REGIONS, SPOKE_TAGS};
use privnet_tests::world::World;

const SPOKES: usize = 2000;

const MANY_REGIONS: [&str; 10] = [
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
    "eu-west-1",
    "eu-west-2",
    "eu-central-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-northeast-1",
];

/// From the start of the hub until every tunnel is configured, without the
/// time in which the hub waited for moto.
const GOAL: Duration = Duration::from_secs(20);

pub(crate) fn two_thousand_spokes_in_ten_regions_are_configured_at_the_first_poll() -> Result<()> {
    let mut network = topology::demo();
    network.vpcs.truncate(1);
    let mut world = World::build(&network)?;
    let start = Instant::now();
    for number in 0..SPOKES {
        let region = MANY_REGIONS[number % MANY_REGIONS.len()].parse()?;
        seed_spoke(&world.ec2, &region, u32::try_from(number)?)?;
    }
    println!("seeding moto took {:.1} s", start.elapsed().as_secs_f32());

    let quoted = |regions: &[&str]| format!("{regions:?}");
    let config = hub_config(world.host("hub")?)
        .replace(&quoted(&REGIONS), &quoted(&MANY_REGIONS))
        .replace("timeout  = \"20s\"", "timeout  = \"5m\"");
    ensure!(
        config.contains("ap-northeast-1") && config.contains("5m"),
        "{config}"
    );
    let before = world.faults.calls()?.len();
    let start = Instant::now();
    world.start("hub", &config)?;
    // `wg` reads what the data plane really has.
    let hub = world.namespace("hub")?;
    wait_until("all peers", Duration::from_secs(300), || {
        let peers = hub.run("wg", ["show", "privnet0", "peers"])?;
        Ok((peers.lines().count() == SPOKES).then_some(()))
    })?;
    let took = start.elapsed();
    let calls = world.faults.calls()?;
    let moto = Duration::from_millis(busy_millis(&calls[before..]));
    let (memory, peak) = world.daemon("hub")?.process.memory_bytes()?;
    println!(
        "{SPOKES} spokes configured in {:.1} s, of which moto took {:.1} s; \
         the hub has {} MiB in memory, at most {} MiB",
        took.as_secs_f32(),
        moto.as_secs_f32(),
        memory >> 20,
        peak >> 20,
    );
    let own = took.saturating_sub(moto);
    // Three times the goal: the machine may be busy.
    ensure!(own < GOAL * 3, "{:.1} s without moto", own.as_secs_f32());
    let routes = hub.run("ip", ["route"])?;
    ensure!(
        routes.contains("10.32.0.0/21"),
        "no route to the first spoke:\n{routes}"
    );
    Ok(())
}

/// A VPC with a spoke that has a public address and has published a key.
fn seed_spoke(ec2: &Ec2, region: &Region, number: u32) -> Result<()> {
    let base = u32::from_be_bytes([10, 32, 0, 0]) + (number << 11);
    let cidr = Ipv4Net::new(base.into(), 21)?;
    let name = format!("spoke-{number:04}");
    let vpc = ec2.create_vpc(region, &name, &[cidr])?;
    let subnet = ec2.create_subnet(region, &vpc, cidr, 'a')?;
    ec2.call(
        region,
        "ModifySubnetAttribute",
        &[
            ("SubnetId", &subnet.0),
            ("MapPublicIpOnLaunch.Value", "true"),
        ],
    )?;
    let mut key = [7_u8; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    let key = PublicKey::from_bytes(key).to_string();
    let mut tags = vec![("Name", name.as_str()), ("privnet:public-key", &key)];
    tags.extend(SPOKE_TAGS);
    ec2.launch(region, &subnet, (base + 10).into(), &tags)
        .map(drop)
}
