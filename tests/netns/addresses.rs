//! The Elastic IPs of the spokes of a VPC, as the internet sees them: the VPC's
//! internet gateway does what EC2's API says (`privnet_tests::address_fabric`).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use privnet_model::doctor::Verdict;
use privnet_model::status::AddressStatus;
use privnet_tests::address_fabric::{AddressFabric, allocate};
use privnet_tests::daemon::config_file;
use privnet_tests::deployment::{PATIENCE, public_address, reach_each_other, sees, wait_until_up};
use privnet_tests::fault_proxy::{Fault, FaultKind};
use privnet_tests::heartbeat::Heartbeat;
use privnet_tests::process::wait_until;
use privnet_tests::requests::{Requests, length, lost, outages};
use privnet_tests::topology::WEB;

use crate::doctor::{checkup, tells};
use crate::takeover::ANSWERS;
use crate::vpc_routes::Running;

pub(crate) const FIRST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 50);
const SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 51);
const THIRD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 52);
/// An allocation that nobody has made.
const NONE: &str = "eipalloc-0123456789abcdef0";
const SPOKES: [&str; 2] = ["spoke-d1", "spoke-d2"];
/// One in the zone of each.
const HOSTS: [&str; 2] = ["host-d1", "host-d2"];
/// What a host may go without while its spoke has no address, on a busy machine: until
/// another stands in for it.
const STOOD_IN_FOR: Duration = Duration::from_secs(15);
const POOL: [(&str, &str); 1] = [("privnet:pool", "nat")];
const OF_POOL: &str = "[address]\ntag = { \"privnet:pool\" = \"nat\" }\n";

/// Both spokes, and the internet gateway of their VPC.
pub(crate) struct Addressed {
    pub(crate) running: Running,
    pub(crate) public: AddressFabric,
}

impl Addressed {
    /// With these addresses allocated; the config is made of the allocations.
    pub(crate) fn start(
        addresses: &[Ipv4Addr],
        config: impl FnOnce(&[String]) -> String,
    ) -> Result<Self> {
        let mut public = None;
        let running = Running::start_with(|world| {
            let each = addresses.iter();
            let each = each.map(|address| allocate(world, "vpc-d", *address, &POOL));
            let allocations = each.collect::<Result<Vec<_>>>()?;
            public = Some(AddressFabric::start(world, "vpc-d", &SPOKES)?);
            Ok(config(&allocations))
        })?;
        let public = public.context("the world was made without it")?;
        Ok(Self { running, public })
    }

    pub(crate) fn status(&self, spoke: &str) -> Result<AddressStatus> {
        let address = self.running.routes(spoke)?.address;
        address.with_context(|| format!("{spoke} tells nothing of an address"))
    }

    /// EC2 says so, and the spoke knows.
    pub(crate) fn wait_until_at(&self, spoke: &str, address: Ipv4Addr) -> Result<()> {
        let what = format!("{spoke} to have {address}");
        wait_until(&what, PATIENCE * 3, || {
            let now = self.public.of(spoke)?;
            ensure!(now == Some(address), "the internet knows it as {now:?}");
            let told = self.status(spoke)?;
            ensure!(told.address == Some(address.into()), "{told:?}");
            Ok(Some(()))
        })
    }

    /// Something happens and ends; a host of each zone asks the web server for something
    /// all the while.
    fn during(
        &mut self,
        what: &str,
        event: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<BTreeMap<&'static str, Asked>> {
        let mut asking = BTreeMap::new();
        for host in HOSTS {
            let namespace = self.running.world.namespace(host)?;
            asking.insert(host, Requests::start(namespace, WEB));
        }
        let answered = |asking: &BTreeMap<_, Requests>| {
            let mut each = asking.values();
            each.try_for_each(|requests| requests.answers(ANSWERS))
        };
        answered(&asking)?;
        let heartbeat = Heartbeat::start();
        event(self)?;
        answered(&asking)?;
        let mut seen = BTreeMap::new();
        for (host, requests) in asking {
            let made = requests.end()?;
            let lost = lost(&made);
            let asked = Asked {
                lost: lost.len(),
                lost_standing_still: lost
                    .iter()
                    .filter(|time| heartbeat.stood_still(time))
                    .count(),
                longest: outages(&made).iter().map(length).max().unwrap_or_default(),
            };
            println!(
                "{what}: {host}: {} of {} requests lost, {} of them while the machine stood \
                 still; {:.2} s at most without an answer",
                asked.lost,
                made.len(),
                asked.lost_standing_still,
                asked.longest.as_secs_f32()
            );
            seen.insert(host, asked);
        }
        Ok(seen)
    }

    fn wait_for_problem(&self, spoke: &str, problem: &str) -> Result<()> {
        let what = format!("{spoke} to tell: {problem}");
        wait_until(&what, PATIENCE * 3, || {
            let status = self.running.world.daemon(spoke)?.status()?;
            let mut told = status.problems.iter();
            ensure!(
                told.any(|told| told.contains(problem)),
                "{:?}",
                status.problems
            );
            Ok(Some(()))
        })
    }
}

/// What became of a host's requests.
struct Asked {
    lost: usize,
    /// Those in whose time the machine stood still.
    lost_standing_still: usize,
    /// The longest time without an answer.
    longest: Duration,
}

impl Asked {
    fn one_lost_at_most(&self) -> Result<()> {
        let lost = self.lost - self.lost_standing_still;
        ensure!(lost <= 1, "{lost} requests lost");
        Ok(())
    }
}

pub(crate) fn the_address_that_two_spokes_name_goes_along_with_their_routes() -> Result<()> {
    let mut world = Addressed::start(&[FIRST], |allocations| {
        format!("[address]\nallocation = {:?}\n", allocations[0])
    })?;
    // The spoke whose table has the lowest id, which moto draws.
    let (home, host, other) = match world.running.fabric.first() {
        "host-d1" => ("spoke-d1", "host-d1", "spoke-d2"),
        host => ("spoke-d2", host, "spoke-d1"),
    };
    let others_own = public_address(&world.running.world, other)?;
    world.wait_until_at(home, FIRST)?;
    sees(&world.running.world, host, WEB, FIRST)?;
    let at = &world.running.world.host(home)?.metadata.instance;
    wait_until("the other to know who has it", PATIENCE, || {
        let told = world.status(other)?;
        ensure!(
            told.address.is_none() && told.at.as_ref() == Some(at),
            "{told:?}"
        );
        Ok(Some(()))
    })?;

    world.running.wait_until_all_is_well()?;
    let killed = Instant::now();
    world.running.world.crash(home)?;
    world.running.wait_until_led(host, other)?;
    println!(
        "killed: the routes moved in {:.2} s",
        killed.elapsed().as_secs_f32()
    );
    world.wait_until_at(other, FIRST)?;
    println!(
        "killed: the address moved in {:.2} s",
        killed.elapsed().as_secs_f32()
    );
    sees(&world.running.world, host, WEB, FIRST)?;
    // The tunnel ends where the spoke's new address is.
    reach_each_other(&world.running.world, "host-hub", host)?;
    println!(
        "killed: the tunnel works after {:.2} s",
        killed.elapsed().as_secs_f32()
    );

    world.running.world.start_again(home)?;
    world.running.wait_until_led(host, home)?;
    let back = Instant::now();
    world.wait_until_at(home, FIRST)?;
    println!(
        "back: the address came {:.2} s after the routes",
        back.elapsed().as_secs_f32()
    );
    sees(&world.running.world, host, WEB, FIRST)?;
    // EC2 gives the other its own again, in time.
    wait_until("its own address", PATIENCE * 3, || {
        let now = world.public.of(other)?;
        Ok((now == Some(others_own)).then_some(()))
    })?;
    reach_each_other(&world.running.world, "host-hub", host)?;

    // A planned stop gives away the routes, then the address, then ends.
    world.running.wait_until_all_is_well()?;
    let seen = world.during("planned stop", |world| {
        world.running.world.stop(home)?;
        let at = &world.running.world.host(other)?.metadata.interface;
        let (region, _) = world.running.world.vpc_id("vpc-d")?;
        let filter = [
            ("Filter.1.Name", "public-ip"),
            ("Filter.1.Value.1", &FIRST.to_string()),
        ];
        let ec2 = &world.running.world.ec2;
        let described = ec2.call(region, "DescribeAddresses", &filter)?;
        ensure!(
            described.contains(at.as_str()),
            "{home} stopped with it: {described}"
        );
        world.wait_until_at(other, FIRST)
    })?;
    for (host, asked) in &seen {
        asked.one_lost_at_most().context(*host)?;
    }
    sees(&world.running.world, host, WEB, FIRST)?;

    // It comes back, and the address with the routes. The other one has none until EC2 gives
    // it another, and is stood in for.
    let seen = world.during("back after a planned stop", |world| {
        world.running.world.start_again(home)?;
        world.running.wait_until_led(host, home)?;
        world.wait_until_at(home, FIRST)?;
        wait_until("its own address", PATIENCE * 3, || {
            let now = world.public.of(other)?;
            Ok((now == Some(others_own)).then_some(()))
        })
    })?;
    for (name, asked) in &seen {
        if *name == host {
            asked.one_lost_at_most().context(*name)?;
        }
        ensure!(asked.longest <= STOOD_IN_FOR, "{name}: {:?}", asked.longest);
    }
    sees(&world.running.world, host, WEB, FIRST)?;
    world.running.world.check()?;
    world.public.end()
}

pub(crate) fn of_a_pool_each_spoke_takes_one_and_keeps_it() -> Result<()> {
    let mut world = Addressed::start(&[FIRST, SECOND], |_| OF_POOL.to_owned())?;
    let has = |world: &Addressed, spoke: &str| -> Result<Ipv4Addr> {
        wait_until(&format!("{spoke} to have an address"), PATIENCE * 3, || {
            let address = world.public.of(spoke)?;
            let pooled = address.filter(|address| [FIRST, SECOND].contains(address));
            ensure!(world.status(spoke)?.address == pooled.map(Into::into));
            Ok(pooled)
        })
    };
    let (one, two) = (has(&world, "spoke-d1")?, has(&world, "spoke-d2")?);
    ensure!(one != two, "both have {one}");
    sees(&world.running.world, "host-d1", WEB, one)?;
    sees(&world.running.world, "host-d2", WEB, two)?;

    // Who stands in does so by its own: what the pool's addresses are is known outside.
    world.running.wait_until_all_is_well()?;
    world.running.world.crash("spoke-d2")?;
    world.running.wait_until_led("host-d2", "spoke-d1")?;
    sees(&world.running.world, "host-d2", WEB, one)?;
    world.running.world.start_again("spoke-d2")?;
    world.running.wait_until_led("host-d2", "spoke-d2")?;
    sees(&world.running.world, "host-d2", WEB, two)?;
    ensure!(world.public.of("spoke-d2")? == Some(two), "it kept its own");
    world.running.world.check()?;
    world.public.end()
}

pub(crate) fn what_is_in_the_way_is_named_and_everything_else_works() -> Result<()> {
    let mut world = Addressed::start(&[], |_| OF_POOL.to_owned())?;
    let none = "there is no Elastic IP of the pool privnet:pool=nat";
    for spoke in SPOKES {
        world.wait_for_problem(spoke, none)?;
    }
    // The routes are served all the same.
    let own = public_address(&world.running.world, "spoke-d1")?;
    sees(&world.running.world, "host-d1", WEB, own)?;

    // Whoever may not look knows of none, and keeps what it has.
    let denied = Fault::of_action("DescribeAddresses", FaultKind::Denied);
    world.running.world.faults.set(&[denied])?;
    for spoke in SPOKES {
        world.wait_for_problem(spoke, "the role needs ec2:DescribeAddresses")?;
        world.wait_for_problem(spoke, "address-policy.json")?;
    }
    world.running.wait_until_all_is_well()?;
    wait_until_up(&world.running.world, &SPOKES, PATIENCE)?;
    for host in ["host-d1", "host-d2"] {
        let spoke = world.running.fabric.egress_of(host);
        let spoke = spoke.context("a host that is led nowhere")?;
        let public = public_address(&world.running.world, spoke)?;
        sees(&world.running.world, host, WEB, public)?;
    }

    let denied = Fault::of_action("AssociateAddress", FaultKind::Denied);
    world.running.world.faults.set(&[denied])?;
    allocate(&world.running.world, "vpc-d", FIRST, &POOL)?;
    for spoke in SPOKES {
        world.wait_for_problem(spoke, "ec2:AssociateAddress")?;
        world.wait_for_problem(spoke, "address-policy.json")?;
    }
    sees(&world.running.world, "host-d1", WEB, own)?;

    world.running.world.faults.clear()?;
    let only = "all 1 Elastic IPs of the pool privnet:pool=nat are in use";
    let taken = wait_until("one of them to have it", PATIENCE * 3, || {
        for spoke in SPOKES {
            if world.public.of(spoke)? == Some(FIRST) {
                return Ok(Some(spoke));
            }
        }
        Ok(None)
    })?;
    let [one, two] = SPOKES;
    let late = if taken == one { two } else { one };
    world.wait_until_at(taken, FIRST)?;
    world.wait_for_problem(late, only)?;
    allocate(&world.running.world, "vpc-d", SECOND, &POOL)?;
    world.wait_until_at(late, SECOND)?;
    for spoke in SPOKES {
        let problems = world.running.world.daemon(spoke)?.status()?.problems;
        ensure!(problems.is_empty(), "{spoke}: {problems:?}");
    }
    the_doctor_names_what_is_in_the_way(&world)?;
    world.running.world.check()?;
    world.public.end()
}

/// Of a config file that names an address which is not there, or somebody else's.
fn the_doctor_names_what_is_in_the_way(world: &Addressed) -> Result<()> {
    let world = &world.running.world;
    let theirs = allocate(world, "vpc-d", THIRD, &[])?;
    let metadata = &world.host("host-d1")?.metadata;
    let at = [
        ("AllocationId", theirs.as_str()),
        ("NetworkInterfaceId", metadata.interface.as_str()),
    ];
    world.ec2.call(&metadata.region, "AssociateAddress", &at)?;
    let file = config_file(world.host("spoke-d1")?);
    let pool = std::fs::read_to_string(&file)?;
    ensure!(pool.contains(OF_POOL), "{pool}");
    let missing = format!("there is no {NONE} in this account and region");
    for (allocation, found, remedy) in [
        (NONE, missing.as_str(), "aws ec2 describe-addresses"),
        (
            theirs.as_str(),
            "which is no spoke that runs in this VPC",
            "aws ec2 disassociate-address",
        ),
    ] {
        let one = format!("[address]\nallocation = {allocation:?}\n");
        std::fs::write(&file, pool.replace(OF_POOL, &one))?;
        let told = checkup(world, "spoke-d1")?;
        tells(&told, Verdict::Wrong, "Elastic IP", found, remedy)?;
    }
    std::fs::write(&file, pool)?;
    Ok(())
}
