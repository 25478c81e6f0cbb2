//! A hub with very many spokes that exist in the EC2 API alone: each in a VPC of
//! its own, with a key that nobody holds, so every tunnel is set up and none
//! comes up. What a poll costs then.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipnet::Ipv4Net;
use privnet_model::id::{InstanceId, Region};
use privnet_model::key::PublicKey;
use serde::Serialize;

use crate::cpu;
use crate::daemon::hub_config;
use crate::deployment::tunnels;
use crate::fault_proxy::busy_millis;
use crate::moto::Ec2;
use crate::process::wait_until;
use crate::topology::{self, ACCOUNT, REGIONS, SPOKE_TAGS};
use crate::world::World;

/// Regions to spread them over.
const MANY_REGIONS: [&str; 20] = [
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ca-central-1",
    "sa-east-1",
];

/// Accounts to spread them over; the first is the hub's own.
const ACCOUNTS: [&str; 3] = [ACCOUNT, "222222222222", "333333333333"];

/// How long the API may take for one poll.
const PATIENCE: Duration = Duration::from_secs(600);

/// How large.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Size {
    /// Spokes, at most 7,000: a `/21` each, from 10.32.0.0 on.
    pub spokes: u32,
    /// Regions, at most 20.
    pub regions: usize,
    /// Accounts, at most 3.
    pub accounts: usize,
}

/// What it costs.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// How large.
    pub size: Size,
    /// Seconds to fill moto.
    pub seeding: f64,
    /// From the hub's start until the data plane has every peer.
    pub first: Poll,
    /// A poll that finds all as it was.
    pub unchanged: Poll,
    /// The same, and only told what would change.
    pub dry_run: Poll,
    /// Of the hub, afterwards.
    pub rss_megabytes: f64,
    /// Of the hub, at most.
    pub peak_megabytes: f64,
}

/// One poll.
#[derive(Debug, Serialize)]
pub struct Poll {
    /// How long it took, in seconds.
    pub seconds: f64,
    /// In how many of them there was a request for moto to answer.
    pub waiting: f64,
    /// CPU seconds of moto.
    pub moto_cpu: f64,
    /// CPU seconds of the hub.
    pub hub_cpu: f64,
    /// Requests by action.
    pub requests: BTreeMap<String, usize>,
    /// The most requests that one region of one account had.
    pub busiest: usize,
}

impl Poll {
    /// What the hub took for itself: the time in which it waited for no answer.
    pub fn own(&self) -> f64 {
        self.seconds - self.waiting
    }

    /// All requests.
    pub fn total(&self) -> usize {
        self.requests.values().sum()
    }
}

/// Fills a world's moto, starts the hub, polls, and counts.
pub fn measure(size: Size) -> Result<Cost> {
    let mut network = topology::demo();
    network.vpcs.truncate(1);
    let mut world = World::build(&network)?;
    let start = Instant::now();
    seed(&world.ec2, size)?;
    let seeding = start.elapsed().as_secs_f64();

    let config = config(&world, size)?;
    let meter = Meter::start(&world, 0.0)?;
    world.start("hub", &config)?;
    // `wg` reads what the data plane really has.
    let hub = world.namespace("hub")?;
    wait_until("all peers", PATIENCE, || {
        let peers = hub.run("wg", ["show", "privnet0", "peers"])?;
        let count = peers.lines().count();
        ensure!(count == size.spokes as usize, "there are {count}");
        Ok(Some(()))
    })?;
    let first = meter.stop(&world)?;
    let network = cidr(size.spokes - 1)?.to_string();
    wait_until("the routes", PATIENCE, || {
        let routes = hub.run("ip", ["route"])?;
        Ok(routes.contains(&network).then_some(()))
    })?;

    let poll = |arguments: &[&str]| {
        let meter = Meter::start(&world, hub_cpu(&world)?)?;
        let said = tunnels(&world, arguments)?;
        let poll = meter.stop(&world)?;
        Ok::<_, anyhow::Error>((said, poll))
    };
    let (_, unchanged) = poll(&["refresh"])?;
    let (said, dry_run) = poll(&["refresh", "--dry-run"])?;
    ensure!(!said.contains("spoke-"), "something would change:\n{said}");
    let status = world.daemon("hub")?.status()?;
    ensure!(status.partitions.len() == size.regions * size.accounts);
    for partition in &status.partitions {
        ensure!(partition.error.is_none(), "{partition:?}");
    }
    let (rss, peak) = world.daemon("hub")?.process.memory_bytes()?;
    world.check()?;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    Ok(Cost {
        size,
        seeding,
        first,
        unchanged,
        dry_run,
        rss_megabytes: megabytes(rss),
        peak_megabytes: megabytes(peak),
    })
}

/// Evenly over all partitions.
fn seed(ec2: &Ec2, size: Size) -> Result<()> {
    let partitions: Vec<(Ec2, Region)> = ACCOUNTS[..size.accounts]
        .iter()
        .flat_map(|account| {
            MANY_REGIONS[..size.regions]
                .iter()
                .map(move |r| (account, r))
        })
        .map(|(account, region)| Ok((ec2.in_account(account), region.parse()?)))
        .collect::<Result<_>>()?;
    for number in 0..size.spokes {
        let (ec2, region) = &partitions[number as usize % partitions.len()];
        seed_spoke(ec2, region, number).with_context(|| format!("spoke {number}"))?;
    }
    Ok(())
}

/// Makes a VPC with a spoke, `spoke-` and this number, that has a public address
/// and has published a key.
pub fn seed_spoke(ec2: &Ec2, region: &Region, number: u32) -> Result<InstanceId> {
    let cidr = cidr(number)?;
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
    let address = u32::from(cidr.network()) + 10;
    Ok(ec2.launch(region, &subnet, address.into(), &tags)?.id)
}

fn cidr(number: u32) -> Result<Ipv4Net> {
    let base = u32::from_be_bytes([10, 32, 0, 0]) + (number << 11);
    Ok(Ipv4Net::new(base.into(), 21)?)
}

fn config(world: &World, size: Size) -> Result<String> {
    let roles = ACCOUNTS[1..size.accounts].iter().map(|account| {
        format!("{{ role_arn = \"arn:aws:iam::{account}:role/privnet-discovery\", external_id = \"scale\" }}")
    });
    let accounts: Vec<String> = std::iter::once("\"own\"".to_owned()).chain(roles).collect();
    let listed = |regions: &[&str]| format!("regions  = {regions:?}");
    let plain = hub_config(world.host("hub")?);
    let config = plain
        .replace(
            &listed(&REGIONS),
            &format!(
                "{}\naccounts = [{}]",
                listed(&MANY_REGIONS[..size.regions]),
                accounts.join(", ")
            ),
        )
        .replace("timeout  = \"20s\"", "timeout  = \"10m\"");
    ensure!(config.contains("own") && config.contains("10m"), "{config}");
    Ok(config)
}

/// What is counted at the beginning of a poll.
struct Meter {
    start: Instant,
    calls: usize,
    moto_cpu: f64,
    hub_cpu: f64,
}

impl Meter {
    fn start(world: &World, hub_cpu: f64) -> Result<Self> {
        Ok(Self {
            calls: world.faults.calls()?.len(),
            moto_cpu: cpu::process_seconds(world.moto_id())?,
            hub_cpu,
            start: Instant::now(),
        })
    }

    fn stop(self, world: &World) -> Result<Poll> {
        let seconds = self.start.elapsed().as_secs_f64();
        let all = world.faults.calls()?;
        let calls = &all[self.calls..];
        let mut requests = BTreeMap::new();
        let mut places: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for call in calls {
            *requests.entry(call.action.clone()).or_default() += 1;
            *places.entry((&call.access_key, &call.region)).or_default() += 1;
        }
        Ok(Poll {
            seconds,
            waiting: busy_millis(calls) as f64 / 1e3,
            moto_cpu: cpu::process_seconds(world.moto_id())? - self.moto_cpu,
            hub_cpu: hub_cpu(world)? - self.hub_cpu,
            requests,
            busiest: places.into_values().max().unwrap_or_default(),
        })
    }
}

fn hub_cpu(world: &World) -> Result<f64> {
    cpu::process_seconds(world.daemon("hub")?.process.id())
}
