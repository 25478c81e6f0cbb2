//! Whatever happens to the spokes of a VPC in three zones: outages as its private hosts
//! see them, each of which asks a web server on the internet for something every 50 ms.
//! Routes follow what the spokes write into the VPC's route tables (drawn at
//! `privnet_tests::topology::three_gateways`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use privnet_model::status::RoutesStatus;
use privnet_reconcile::takeover::STEP;
use privnet_tests::deployment::{PATIENCE, start_siblings, wait_until_up};
use privnet_tests::fault_proxy::{Fault, FaultKind, delay_millis};
use privnet_tests::heartbeat::Heartbeat;
use privnet_tests::moto::text_of;
use privnet_tests::process::wait_until;
use privnet_tests::requests::{INTERVAL, Requests, length, lost, outages};
use privnet_tests::topology::{self, WEB};
use privnet_tests::vpc_fabric::{Fabric, Follower};
use privnet_tests::vpc_router::INTERFACE;
use privnet_tests::world::World;

/// The longest that any outage may be while a sibling is well, less what was not the
/// spokes' doing ([`Running::not_ours`]).
const GOAL: Duration = Duration::from_secs(5);
/// The same with all that a busy machine adds; and while EC2 refuses what it is told to.
const MOST: Duration = Duration::from_secs(15);
/// What EC2 takes for a look or a change: that is part of a takeover, and only what this
/// world's takes beyond it is not.
const EC2_TAKES: Duration = Duration::from_millis(300);
/// As long as a spoke that was lost once waits before it takes its routes back, and
/// what a busy machine needs beside.
const GIVE_BACK: Duration = Duration::from_secs(60);
/// A change that was asked for when the spoke still passed its self-test, or a moment
/// later, has been made and followed after so long.
const UNDER_WAY: Duration = Duration::from_secs(3);
/// How often one route may change within a minute.
const CHANGES: usize = 12;

/// A spoke, the host of its zone, and the number of the host's subnet.
const ZONES: [(&str, &str, usize); 3] = [
    ("spoke-d1", "host-d1", 1),
    ("spoke-d2", "host-d2", 3),
    ("spoke-d3", "host-d3", 5),
];

/// The world, with each spoke serving its own zone.
struct Running {
    world: World,
    fabric: Fabric,
    /// What happened, and what a host went without.
    cases: Vec<(String, &'static str, Asked)>,
}

impl Running {
    fn start() -> Result<Self> {
        let mut network = topology::demo();
        network.vpcs.push(topology::three_gateways());
        let mut world = World::build(&network)?;
        let followers = ZONES.map(|(_, host, subnet)| Follower { host, subnet });
        let spokes = ZONES.map(|(spoke, ..)| spoke);
        let fabric = Fabric::start(&world, "vpc-d", &followers, &spokes)?;
        start_siblings(&mut world, &spokes, "")?;
        let running = Self {
            world,
            fabric,
            cases: Vec::new(),
        };
        running.is_at_home()?;
        Ok(running)
    }

    fn routes(&self, spoke: &str) -> Result<RoutesStatus> {
        let status = self.world.daemon(spoke)?.status()?;
        Ok(status.routes.unwrap_or_default())
    }

    /// Every host is served by the spoke of its zone, and all know that all are well.
    fn is_at_home(&self) -> Result<()> {
        for (spoke, host, _) in ZONES {
            wait_until(&format!("{host} to be led home"), GIVE_BACK, || {
                let now = self.fabric.egress_of(host);
                ensure!(now == Some(spoke), "{host} is led to {now:?}");
                Ok(Some(()))
            })?;
        }
        for (spoke, ..) in ZONES {
            wait_until(&format!("all to be well for {spoke}"), PATIENCE, || {
                let routes = self.routes(spoke)?;
                let well = routes.siblings.iter().all(|one| one.state == "well");
                ensure!(
                    routes.sick.is_none() && well && routes.siblings.len() == 2,
                    "{routes:?}"
                );
                Ok(Some(()))
            })?;
        }
        Ok(())
    }

    /// Something happens and ends; hosts ask all the while.
    fn during(
        &mut self,
        what: &str,
        event: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Outages> {
        let mut asking = BTreeMap::new();
        for (_, host, _) in ZONES {
            asking.insert(host, Requests::start(self.world.namespace(host)?, WEB));
        }
        let answered = |asking: &BTreeMap<_, Requests>| {
            let since = Instant::now();
            wait_until("each host to have answers", PATIENCE, || {
                let each = asking.values().all(|requests| {
                    let made = requests.made();
                    let new = made.iter().filter(|one| one.at >= since);
                    new.filter(|one| one.seen_as.is_some()).count() >= 20
                });
                Ok(each.then_some(()))
            })
        };
        answered(&asking)?;
        let heartbeat = Heartbeat::start();
        let moves = self.fabric.moves().len();
        event(self)?;
        answered(&asking)?;
        let mut seen = Outages::default();
        for (host, requests) in asking {
            let made = requests.end()?;
            let mut asked = Asked {
                lost: lost(&made),
                asked: made.len(),
                outages: Vec::new(),
            };
            for time in outages(&made) {
                asked.outages.push(Outage {
                    whole: length(&time),
                    not_ours: self.not_ours(host, &time, &heartbeat)?,
                });
            }
            self.cases.push((what.to_owned(), host, asked.clone()));
            seen.0.insert(host, asked);
        }
        println!("{what}: {} routes moved", self.fabric.moves().len() - moves);
        Ok(seen)
    }

    /// How much of an outage was the machine's, which let nobody go on, or the EC2's of
    /// this world, which is slower than AWS's, for the spoke that ended it. Whichever is
    /// more, as both may be at the same time. What it refuses because a test says so is
    /// what the spokes are to cope with.
    fn not_ours(
        &self,
        host: &str,
        outage: &Range<Instant>,
        heartbeat: &Heartbeat,
    ) -> Result<Duration> {
        let stalled = heartbeat.stalled(outage);
        let moves = self.fabric.moves();
        let ended = moves.iter().rfind(|moved| {
            moved.host == host && moved.destination == "0.0.0.0/0" && outage.contains(&moved.at)
        });
        let Some(ended) = ended else {
            return Ok(stalled);
        };
        let asker = self.world.access_key(ended.to)?;
        let clock = self.world.faults.clock()?;
        let mut calls = self.world.faults.calls()?;
        let waited_for = ["DescribeRouteTables", "DescribeSubnets", "ReplaceRoute"];
        calls.retain(|call| {
            waited_for.contains(&call.action.as_str())
                && call.access_key == asker
                && outage.contains(&clock.at(call.from_millis))
        });
        let delayed = Duration::from_millis(delay_millis(&calls, EC2_TAKES));
        Ok(stalled.max(delayed))
    }

    /// Waits until a host is led to another spoke than these.
    fn is_led_away(&self, host: &str, from: &[&str]) -> Result<()> {
        wait_until(&format!("{host} to be led elsewhere"), PATIENCE * 2, || {
            let now = self.fabric.egress_of(host);
            let away = now.is_some_and(|now| !from.contains(&now));
            Ok(away.then_some(()))
        })
    }

    /// A fault of one spoke, until another stands in. Nothing moves to it meanwhile.
    fn stands_in(
        &mut self,
        what: &str,
        at: (&'static str, &'static str),
        fault: impl FnOnce(&mut World) -> Result<()>,
    ) -> Result<()> {
        self.stands_in_within(GOAL, what, at, fault)
    }

    /// The same, where it may take longer.
    fn stands_in_within(
        &mut self,
        goal: Duration,
        what: &str,
        (spoke, host): (&'static str, &'static str),
        fault: impl FnOnce(&mut World) -> Result<()>,
    ) -> Result<()> {
        let from = self.fabric.moves().len();
        let outages = self.during(what, |running| {
            fault(&mut running.world)?;
            running.is_led_away(host, &[spoke])
        })?;
        outages.only_of_within(&[host], goal)?;
        self.none_led_to(&[spoke], from)
    }

    /// No route has led to any of these since there were so many moves.
    fn none_led_to(&self, spokes: &[&str], from: usize) -> Result<()> {
        let moves = self.fabric.moves().split_off(from);
        let to_one = moves.iter().find(|moved| spokes.contains(&moved.to));
        ensure!(to_one.is_none(), "{to_one:?}");
        Ok(())
    }

    /// The instance stops to do anything, as when its hardware fails.
    fn dies(world: &mut World, spoke: &str) -> Result<()> {
        world.crash(spoke)?;
        unplug(world, spoke)
    }

    /// Rules for the VPC's router by which two spokes do not hear each other.
    fn split(&self, one: &str, two: &str) -> Result<String> {
        let one = self.world.host(one)?.instance.address;
        let two = self.world.host(two)?.instance.address;
        Ok(format!(
            "table ip split {{
    chain forward {{
        type filter hook forward priority -10
        ip saddr {one} ip daddr {two} drop
        ip saddr {two} ip daddr {one} drop
    }}
}}
"
        ))
    }

    /// A spoke says so of another.
    fn wait_for_state(&self, by: &str, of: &str, state: &str) -> Result<()> {
        let instance = &self.world.host(of)?.metadata.instance;
        wait_until(&format!("{of} to be {state} for {by}"), PATIENCE, || {
            let siblings = self.routes(by)?.siblings;
            let mut told = siblings.iter().filter(|one| one.instance == *instance);
            let so = told.any(|one| one.state.starts_with(state));
            ensure!(so, "{siblings:?}");
            Ok(Some(()))
        })
    }

    fn is_started(&mut self, spoke: &str) -> Result<()> {
        plug_in(&self.world, spoke)?;
        self.world.start_again(spoke).map(drop)
    }

    /// Nobody fought over a route.
    fn moved_little(&self) -> Result<()> {
        let moves = self.fabric.moves();
        for (number, moved) in moves.iter().enumerate() {
            let same = moves[number..].iter().filter(|later| {
                later.host == moved.host
                    && later.destination == moved.destination
                    && later.at - moved.at <= Duration::from_secs(60)
            });
            let count = same.count();
            ensure!(count <= CHANGES, "{count} changes in a minute: {moves:?}");
        }
        Ok(())
    }
}

/// At the end of a test, however it ends.
impl Drop for Running {
    fn drop(&mut self) {
        let row = |what: &str, host: &str, times: [String; 3], lost: &str| {
            let [whole, not_ours, ours] = times;
            println!("{what:<34} {host:<8} {whole:>8} {not_ours:>8} {ours:>8}  {lost}");
        };
        // Of each host the outage that was most the spokes' doing.
        let titles = ["outage", "not ours", "ours"].map(str::to_owned);
        row("case", "host", titles, "requests lost");
        for (what, host, asked) in &self.cases {
            let outage = asked.outages.iter().max_by_key(|outage| outage.ours());
            let outage = outage.copied().unwrap_or_default();
            let times = [outage.whole, outage.not_ours, outage.ours()];
            let times = times.map(|time| format!("{:.2} s", time.as_secs_f32()));
            let count = asked.outages.len();
            let lost = format!("{} of {}, {count} outages", asked.lost, asked.asked);
            row(what, host, times, &lost);
        }
    }
}

/// A time without an answer.
#[derive(Debug, Clone, Copy, Default)]
struct Outage {
    whole: Duration,
    /// What of that was not the spokes' doing.
    not_ours: Duration,
}

impl Outage {
    fn ours(&self) -> Duration {
        self.whole.saturating_sub(self.not_ours)
    }
}

/// What became of a host's requests.
#[derive(Debug, Clone, Default)]
struct Asked {
    /// Those without an answer.
    lost: usize,
    /// All of them.
    asked: usize,
    /// Each time without an answer.
    outages: Vec<Outage>,
}

impl Asked {
    fn each_is_within(&self, goal: Duration) -> Result<()> {
        for outage in &self.outages {
            let short = outage.ours() <= goal && outage.whole <= goal.max(MOST);
            ensure!(short, "longer than {goal:?}: {outage:?}");
        }
        Ok(())
    }

    /// What a busy machine takes for a request or two.
    fn is_not_worth_mentioning(&self) -> Result<()> {
        let longest = self.outages.iter().map(|outage| outage.whole).max();
        let short = longest.is_none_or(|longest| longest <= Duration::from_secs(1));
        ensure!(short, "{:?}", self.outages);
        Ok(())
    }
}

/// What each host went without.
#[derive(Debug, Default)]
struct Outages(BTreeMap<&'static str, Asked>);

impl Outages {
    fn of(&self, host: &str) -> Result<&Asked> {
        self.0.get(host).context("not a host that asked")
    }

    /// These hosts had outages that are each short enough, or none; the others none to
    /// speak of.
    fn only_of(&self, hosts: &[&str]) -> Result<()> {
        self.only_of_within(hosts, GOAL)
    }

    fn only_of_within(&self, hosts: &[&str], goal: Duration) -> Result<()> {
        for (host, asked) in &self.0 {
            let judged = match hosts.contains(host) {
                true => asked.each_is_within(goal),
                false => asked.is_not_worth_mentioning(),
            };
            judged.with_context(|| (*host).to_owned())?;
        }
        Ok(())
    }

    /// As when somebody stopped as planned.
    fn one_request_each_at_most(&self) -> Result<()> {
        for (host, Asked { lost, .. }) in &self.0 {
            ensure!(*lost <= 1, "{host}: {lost} requests lost");
        }
        Ok(())
    }
}

pub(crate) fn unplug(world: &World, spoke: &str) -> Result<()> {
    let down = format!("link set {INTERFACE} down");
    world.namespace(spoke)?.ip(&[down])
}

/// The kernel has forgotten the way out, which DHCP would tell it again.
pub(crate) fn plug_in(world: &World, spoke: &str) -> Result<()> {
    let host = world.host(spoke)?;
    let [a, b, c, _] = host.instance.address.octets();
    host.namespace.ip(&[
        format!("link set {INTERFACE} up"),
        format!("route replace default via {a}.{b}.{c}.1"),
    ])
}

pub(crate) fn an_instance_that_fails_or_hangs_is_stood_in_for() -> Result<()> {
    let mut running = Running::start()?;
    running.stands_in("instance fails", ("spoke-d1", "host-d1"), |world| {
        Running::dies(world, "spoke-d1")
    })?;
    running.is_started("spoke-d1")?;
    running.is_at_home()?;

    running.stands_in("interface down", ("spoke-d2", "host-d2"), |world| {
        unplug(world, "spoke-d2")
    })?;
    plug_in(&running.world, "spoke-d2")?;
    running.is_at_home()?;

    running.stands_in("daemon hangs", ("spoke-d3", "host-d3"), |world| {
        world.daemon("spoke-d3")?.process.signal(Signal::SIGSTOP)
    })?;
    let hung = running.world.daemon("spoke-d3")?;
    hung.process.signal(Signal::SIGCONT)?;
    running.is_at_home()?;

    running.stands_in("daemon killed", ("spoke-d3", "host-d3"), |world| {
        world.crash("spoke-d3")
    })?;
    running.world.start_again("spoke-d3")?;
    running.is_at_home()?;
    running.moved_little()?;
    running.world.check()
}

pub(crate) fn what_breaks_beneath_a_spoke_that_lives_is_noticed() -> Result<()> {
    let mut running = Running::start()?;
    let address = running.world.host("spoke-d1")?.instance.address;
    let broken = format!(
        "table ip broken {{
    chain forward {{
        type filter hook forward priority -10
        oifname uplink ip saddr {address} drop
    }}
}}
"
    );
    running.stands_in("egress broken", ("spoke-d1", "host-d1"), |world| {
        world.router("vpc-d")?.nft(&broken)
    })?;
    let sick = running.routes("spoke-d1")?.sick;
    ensure!(sick.is_some_and(|why| why.contains("no way to the internet")));
    let router = running.world.router("vpc-d")?;
    router.nft("delete table ip broken\n")?;
    running.is_at_home()?;

    // What a stranger takes away is put back; nobody needs to stand in.
    let before = running.fabric.moves().len();
    let outages = running.during("rules deleted", |running| {
        let spoke = running.world.namespace("spoke-d2")?;
        spoke.nft("delete table inet privnet\n")?;
        wait_until("the rules to be back", PATIENCE, || {
            let rules = spoke.run("nft", ["list", "tables"])?;
            Ok(rules.contains("inet privnet").then_some(()))
        })
    })?;
    outages.only_of(&["host-d2"])?;
    let moved = running.fabric.moves().len() - before;
    println!("rules deleted: {moved} routes moved");
    running.moved_little()?;
    running.world.check()
}

pub(crate) fn a_throttled_or_absent_ec2_delays_a_takeover_and_breaks_nothing() -> Result<()> {
    let mut running = Running::start()?;
    // The first six of each kind are refused, whoever asks.
    let throttled = ["DescribeRouteTables", "ReplaceRoute"].map(|action| Fault {
        times: Some(6),
        ..Fault::of_action(action, FaultKind::Throttled)
    });
    let at = ("spoke-d1", "host-d1");
    running.stands_in_within(MOST, "EC2 throttled", at, |world| {
        world.faults.set(&throttled)?;
        Running::dies(world, "spoke-d1")
    })?;
    running.world.faults.clear()?;
    running.is_started("spoke-d1")?;
    running.is_at_home()?;

    // Without EC2 nobody can help; nothing else happens, and it is quick afterwards.
    let absent = Duration::from_secs(8);
    let before = running.fabric.moves().len();
    let outages = running.during("EC2 absent for 8 s", |running| {
        let down = Fault::everywhere(FaultKind::Unavailable);
        running.world.faults.set(&[down])?;
        Running::dies(&mut running.world, "spoke-d2")?;
        std::thread::sleep(absent);
        ensure!(running.fabric.moves().len() == before, "without EC2?");
        running.world.faults.clear()?;
        running.is_led_away("host-d2", &["spoke-d2"])
    })?;
    outages.only_of_within(&["host-d2"], absent + GOAL)?;
    running.is_started("spoke-d2")?;
    running.is_at_home()?;
    running.moved_little()?;
    running.world.check()
}

/// EC2 refuses the first in the order to stand in: whatever it asks for, or the changes
/// alone, of which nobody can know before it tries.
pub(crate) fn a_helper_that_ec2_refuses_is_stepped_in_for_by_the_next() -> Result<()> {
    let mut running = Running::start()?;
    // Who has been well for ten seconds comes before who has not.
    std::thread::sleep(Duration::from_secs(12));
    let at = ("spoke-d1", "host-d1");
    running.stands_in("instance fails", at, |world| {
        Running::dies(world, "spoke-d1")
    })?;
    let first = running.fabric.egress_of("host-d1");
    let first = first.context("host-d1 is led nowhere")?;
    running.is_started("spoke-d1")?;
    running.is_at_home()?;

    let key = running.world.access_key(first)?.to_owned();
    let everything = Fault::by_caller(&key, FaultKind::Unavailable);
    let changes = Fault {
        action: Some("ReplaceRoute".to_owned()),
        ..everything.clone()
    };
    for (what, refused) in [
        ("EC2 refuses the first helper", everything),
        ("EC2 refuses its changes", changes),
    ] {
        running.stands_in_within(GOAL + STEP, what, at, |world| {
            world.faults.set(&[refused])?;
            Running::dies(world, "spoke-d1")
        })?;
        let next = running.fabric.egress_of("host-d1");
        ensure!(next != Some(first), "{what}: {next:?} moved it");
        running.world.faults.clear()?;
        running.is_started("spoke-d1")?;
        running.is_at_home()?;
        // A spoke that failed to change a route lets others go first for half a minute.
        std::thread::sleep(Duration::from_secs(35));
    }
    running.moved_little()?;
    running.world.check()
}

pub(crate) fn a_split_between_siblings_costs_nothing_and_two_losses_at_once_are_covered()
-> Result<()> {
    let mut running = Running::start()?;
    // Two do not hear each other; both work.
    let split = running.split("spoke-d1", "spoke-d2")?;
    let outages = running.during("two siblings split for 30 s", |running| {
        running.world.router("vpc-d")?.nft(&split)?;
        std::thread::sleep(Duration::from_secs(30));
        let router = running.world.router("vpc-d")?;
        router.nft("delete table ip split\n")
    })?;
    outages.only_of(&[])?;
    running.is_at_home()?;
    running.moved_little()?;

    let before = running.fabric.moves().len();
    let outages = running.during("two of three fail at once", |running| {
        Running::dies(&mut running.world, "spoke-d1")?;
        Running::dies(&mut running.world, "spoke-d2")?;
        for host in ["host-d1", "host-d2"] {
            running.is_led_away(host, &["spoke-d1", "spoke-d2"])?;
        }
        Ok(())
    })?;
    outages.only_of(&["host-d1", "host-d2"])?;
    running.none_led_to(&["spoke-d1", "spoke-d2"], before)?;
    running.is_started("spoke-d1")?;
    running.is_started("spoke-d2")?;
    running.is_at_home()?;
    running.world.check()
}

/// Two do not hear each other, the third fails, and EC2 is away: each of the two wants the
/// routes of the third, and takes the other for lost. Then EC2 is back, then the network,
/// then the third.
pub(crate) fn a_split_while_ec2_is_away_ends_in_no_fight_and_with_every_table_at_home() -> Result<()>
{
    let mut running = Running::start()?;
    let split = running.split("spoke-d1", "spoke-d2")?;
    let address = running.world.host("spoke-d3")?.instance.address;
    // It reaches EC2, and nobody behind it the internet.
    let broken = format!(
        "table ip broken {{
    chain forward {{
        type filter hook forward priority -10
        oifname uplink ip saddr {address} ip daddr {WEB} drop
    }}
}}
"
    );
    let before = running.fabric.moves().len();
    let outages = running.during("split, one sick, EC2 away", |running| {
        let down = Fault::everywhere(FaultKind::Unavailable);
        running.world.faults.set(&[down])?;
        let router = running.world.router("vpc-d")?;
        router.nft(&split)?;
        router.nft(&broken)?;
        for (spoke, other) in [("spoke-d1", "spoke-d2"), ("spoke-d2", "spoke-d1")] {
            running.wait_for_state(spoke, other, "lost")?;
            running.wait_for_state(spoke, "spoke-d3", "sick")?;
        }
        // For as long as a look that fails takes, and the next one.
        std::thread::sleep(Duration::from_secs(5));
        ensure!(running.fabric.moves().len() == before, "without EC2?");
        running.world.faults.clear()?;
        running.is_led_away("host-d3", &["spoke-d3"])?;
        // Time to fight, if they do.
        std::thread::sleep(Duration::from_secs(30));
        Ok(())
    })?;
    for host in ["host-d1", "host-d2"] {
        let asked = outages.of(host)?;
        asked.is_not_worth_mentioning().context(host)?;
    }
    let router = running.world.router("vpc-d")?;
    router.nft("delete table ip split\n")?;
    // The third serves nothing until it is well, whoever has its table meanwhile.
    running.wait_for_state("spoke-d1", "spoke-d2", "well")?;
    running.wait_for_state("spoke-d2", "spoke-d1", "well")?;
    running.none_led_to(&["spoke-d3"], before)?;
    let router = running.world.router("vpc-d")?;
    router.nft("delete table ip broken\n")?;
    running.is_at_home()?;
    running.moved_little()?;
    running.world.check()
}

/// Ten seconds without egress, ten with, for five minutes. While it fails its self-test
/// nothing is led to it.
pub(crate) fn a_spoke_that_flaps_loses_its_routes_for_longer_each_time() -> Result<()> {
    let mut running = Running::start()?;
    let address = running.world.host("spoke-d1")?.instance.address;
    let before = running.fabric.moves().len();
    let mut failing: Vec<Range<Instant>> = Vec::new();
    let outages = running.during("flapping for five minutes", |running| {
        let router = running.world.router("vpc-d")?;
        router.nft(
            "table ip broken { chain forward { type filter hook forward priority -10; }; }\n",
        )?;
        let beginning = Instant::now();
        while beginning.elapsed() < Duration::from_secs(300) {
            router.nft(&format!(
                "add rule ip broken forward oifname uplink ip saddr {address} drop\n"
            ))?;
            let broken = Instant::now();
            wait_until("spoke-d1 to know that it is sick", PATIENCE, || {
                let sick = running.routes("spoke-d1")?.sick;
                Ok(sick.map(drop))
            })?;
            let known = Instant::now() + UNDER_WAY;
            std::thread::sleep(Duration::from_secs(10).saturating_sub(broken.elapsed()));
            failing.push(known..Instant::now());
            router.nft("flush chain ip broken forward\n")?;
            std::thread::sleep(Duration::from_secs(10));
        }
        Ok(())
    })?;
    outages.only_of(&["host-d1"])?;
    // Two destinations: away, perhaps back once or twice, and away again.
    let moves = running.fabric.moves().split_off(before);
    ensure!(moves.len() <= 16, "in five minutes: {moves:?}");
    ensure!(failing.iter().any(|time| !time.is_empty()), "{failing:?}");
    let to_it = moves.iter().find(|moved| {
        let failed = failing.iter().any(|time| time.contains(&moved.at));
        moved.to == "spoke-d1" && failed
    });
    ensure!(to_it.is_none(), "it fails its self-test: {to_it:?}");
    running.moved_little()?;
    let lost = outages.of("host-d1")?.lost;
    let ceiling = MOST * 3;
    ensure!(INTERVAL * u32::try_from(lost)? <= ceiling, "{lost} lost");
    running.world.check()
}

pub(crate) fn a_planned_stop_loses_one_request_at_most() -> Result<()> {
    let mut running = Running::start()?;
    let outages = running.during("planned stop", |running| {
        running.world.stop("spoke-d1")?;
        unplug(&running.world, "spoke-d1")?;
        running.is_led_away("host-d1", &["spoke-d1"])
    })?;
    outages.one_request_each_at_most()?;
    running.is_started("spoke-d1")?;
    running.is_at_home()?;
    running.world.check()
}

/// By spot, or by its Auto Scaling group: the routes leave before it does, and come home
/// when it is to stay after all.
pub(crate) fn who_is_told_that_it_will_go_hands_over_before() -> Result<()> {
    let mut running = Running::start()?;
    let notice = r#"{"action": "terminate", "time": "2030-01-01T00:00:00Z"}"#;
    for told in ["spot notice", "lifecycle state Terminated"] {
        let outages = running.during(told, |running| {
            running
                .world
                .change_metadata("spoke-d1", |metadata| match told {
                    "spot notice" => metadata.spot_notice = Some(notice.to_owned()),
                    _ => metadata.target_lifecycle_state = Some("Terminated".to_owned()),
                })?;
            running.is_led_away("host-d1", &["spoke-d1"])
        })?;
        outages.one_request_each_at_most().context(told)?;
        running.world.change_metadata("spoke-d1", |metadata| {
            metadata.spot_notice = None;
            metadata.target_lifecycle_state = Some("InService".to_owned());
        })?;
        running.is_at_home()?;
    }
    running.moved_little()?;
    running.world.check()
}

/// What the role of a spoke may be without, and the change that makes the spoke ask for it.
const PERMISSIONS: [(&str, Need); 8] = [
    ("CreateTags", Need::Tag),
    ("DescribeInstances", Need::Nothing),
    ("DescribeRouteTables", Need::Nothing),
    ("DescribeSubnets", Need::Nothing),
    ("CreateRoute", Need::NoRoute),
    ("ReplaceRoute", Need::SiblingsRoute),
    ("DescribeNetworkInterfaces", Need::Nothing),
    ("ModifyNetworkInterfaceAttribute", Need::SourceDestCheck),
];

#[derive(Debug, Clone, Copy)]
enum Need {
    Nothing,
    Tag,
    NoRoute,
    SiblingsRoute,
    SourceDestCheck,
}

impl Need {
    /// Has EC2 say what the spoke of the first zone has to change.
    fn arise(self, world: &World) -> Result<()> {
        let spoke = &world.host("spoke-d1")?.metadata;
        let subnet = world.host("host-d1")?.metadata.subnet.clone();
        let (ec2, region) = (&world.ec2, &spoke.region);
        let of_subnet = [
            ("Filter.1.Name", "association.subnet-id"),
            ("Filter.1.Value.1", subnet.as_str()),
        ];
        let table = ec2.call(region, "DescribeRouteTables", &of_subnet)?;
        let table = text_of(&table, "routeTableId")?;
        let route = [
            ("RouteTableId", table.as_str()),
            ("DestinationCidrBlock", "0.0.0.0/0"),
        ];
        match self {
            Self::Nothing => Ok(()),
            Self::Tag => {
                let tag = [
                    ("ResourceId.1", spoke.instance.as_str()),
                    ("Tag.1.Key", privnet_model::inventory::PUBLIC_KEY_TAG),
                ];
                ec2.call(region, "DeleteTags", &tag).map(drop)
            }
            Self::NoRoute => ec2.call(region, "DeleteRoute", &route).map(drop),
            Self::SiblingsRoute => {
                let sibling = &world.host("spoke-d2")?.metadata.interface;
                let to = ("NetworkInterfaceId", sibling.as_str());
                let route = [route[0], route[1], to];
                ec2.call(region, "ReplaceRoute", &route).map(drop)
            }
            Self::SourceDestCheck => {
                let on = [
                    ("NetworkInterfaceId", spoke.interface.as_str()),
                    ("SourceDestCheck.Value", "true"),
                ];
                ec2.call(region, "ModifyNetworkInterfaceAttribute", &on)
                    .map(drop)
            }
        }
    }
}

pub(crate) fn a_missing_permission_is_named_and_everything_else_goes_on() -> Result<()> {
    let mut running = Running::start()?;
    for (action, need) in PERMISSIONS {
        let denied = Fault::of_action(action, FaultKind::Denied);
        running.world.faults.set(&[denied])?;
        need.arise(&running.world)?;
        // A new start asks for everything at once.
        running.world.crash("spoke-d1")?;
        running.world.start_again("spoke-d1")?;
        let words = format!("the role needs ec2:{action}");
        wait_until(&format!("a problem with {action}"), PATIENCE * 2, || {
            let status = running.world.daemon("spoke-d1")?.status()?;
            let named = status
                .problems
                .iter()
                .any(|problem| problem.contains(&words));
            ensure!(named, "{:?}", status.problems);
            Ok(Some(()))
        })?;
        // The tunnel, the sibling, and NAT itself.
        wait_until_up(&running.world, &["spoke-d1", "spoke-d2"], PATIENCE)?;
        let nat = running.world.daemon("spoke-d1")?.status()?.nat;
        ensure!(nat.is_some_and(|nat| nat.active), "{action}: no NAT");
        running
            .world
            .namespace("host-d2")?
            .fetch(&format!("http://{WEB}/"))?;
        running.world.faults.clear()?;
        running
            .world
            .daemon("spoke-d1")?
            .process
            .signal(Signal::SIGHUP)?;
        wait_until(&format!("{action} to be forgotten"), GIVE_BACK, || {
            let status = running.world.daemon("spoke-d1")?.status()?;
            let named = status
                .problems
                .iter()
                .any(|problem| problem.contains(&words));
            ensure!(!named, "{:?}", status.problems);
            Ok(Some(()))
        })?;
        println!("{action}: named, and forgotten when it was allowed");
    }
    running.world.check()
}
