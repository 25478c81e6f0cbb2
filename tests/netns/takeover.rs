//! Whatever happens to the spokes of a VPC in three zones: outages as its private hosts
//! see them, each of which asks a web server on the internet for something every 50 ms.
//! Routes follow what the spokes write into the VPC's route tables (drawn at
//! `privnet_tests::topology::three_gateways`). Here is how that is measured, and what is
//! planned; below, what fails by itself, what EC2 fails to do, and the way to the hub.

mod ec2;
mod faults;
mod tunnel;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use privnet_tests::deployment::PATIENCE;
use privnet_tests::fault_proxy::delay_millis;
use privnet_tests::heartbeat::Heartbeat;
use privnet_tests::process::wait_until;
use privnet_tests::requests::{Requests, length, lost, outages};
use privnet_tests::topology::WEB;
use privnet_tests::vpc_fabric::{Fabric, Moved};
use privnet_tests::vpc_router::INTERFACE;
use privnet_tests::world::World;

use crate::three_zones::{self, ZONES};

pub(crate) use ec2::{
    a_helper_that_ec2_refuses_is_stepped_in_for_by_the_next,
    a_missing_permission_is_named_and_everything_else_goes_on,
    a_split_while_ec2_is_away_ends_in_no_fight_and_with_every_table_at_home,
    a_throttled_or_absent_ec2_delays_a_takeover_and_breaks_nothing,
};
pub(crate) use faults::{
    a_daemon_that_crashes_and_is_back_at_once_keeps_its_routes,
    a_split_between_siblings_costs_nothing_and_two_losses_at_once_are_covered,
    a_spoke_that_flaps_loses_its_routes_for_longer_each_time,
    an_instance_that_fails_or_hangs_is_stood_in_for,
    what_breaks_beneath_a_spoke_that_lives_is_noticed,
};
pub(crate) use tunnel::a_spoke_whose_tunnel_dies_leaves_the_privnet_to_a_sibling;

/// The longest that any outage may be while a sibling is well, less what was not the
/// spokes' doing ([`Running::not_ours`]).
const GOAL: Duration = Duration::from_secs(5);
/// The same with all that a busy machine adds; and while EC2 refuses what it is told to.
const MOST: Duration = Duration::from_secs(15);
/// What a busy machine takes for a request or two.
const BRIEF: Duration = Duration::from_secs(1);
/// So many requests of a host have answers before something happens, and after.
pub(crate) const ANSWERS: usize = 20;
/// What EC2 takes for a look or a change: that is part of a takeover, and only what this
/// world's takes beyond it is not.
const EC2_TAKES: Duration = Duration::from_millis(300);
/// As long as a spoke that was lost once waits before it takes its routes back, and
/// what a busy machine needs beside.
const GIVE_BACK: Duration = Duration::from_secs(60);
/// How many routes lead to a spoke in each table: everywhere, and to the privnet.
const DESTINATIONS: usize = 2;
/// How often one route may change within a minute.
const CHANGES: usize = 12;

/// The world, with each spoke serving its own zone.
struct Running {
    world: World,
    fabric: Fabric,
    /// What happened, and what a host went without.
    cases: Vec<(String, &'static str, Asked)>,
}

impl Running {
    fn start() -> Result<Self> {
        let (world, fabric) = three_zones::start("")?;
        let running = Self {
            world,
            fabric,
            cases: Vec::new(),
        };
        running.is_at_home()?;
        Ok(running)
    }

    /// Every host is served by the spoke of its zone, and all know that all are well.
    fn is_at_home(&self) -> Result<()> {
        for (spoke, host, _) in ZONES {
            wait_until(&format!("{host} to be led home"), GIVE_BACK, || {
                let led = self.led(host);
                let home = led.len() == DESTINATIONS && led.values().all(|to| *to == spoke);
                ensure!(home, "{host} is led to {led:?}");
                Ok(Some(()))
            })?;
        }
        for (spoke, ..) in ZONES {
            three_zones::wait_until_well(&self.world, spoke, PATIENCE)?;
        }
        Ok(())
    }

    /// The spoke that each of a host's routes leads to, by destination.
    fn led(&self, host: &str) -> BTreeMap<String, &'static str> {
        let moves = self.fabric.moves().into_iter();
        let of_host = moves.filter(|moved| moved.host == host);
        of_host.map(|moved| (moved.destination, moved.to)).collect()
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
            let mut each = asking.values();
            each.try_for_each(|requests| requests.answers(ANSWERS))
        };
        answered(&asking)?;
        let heartbeat = Heartbeat::start();
        let moves = self.fabric.moves().len();
        event(self)?;
        answered(&asking)?;
        let mut seen = Outages::default();
        for (host, requests) in asking {
            let made = requests.end()?;
            let lost = lost(&made);
            let mut asked = Asked {
                lost: lost.len(),
                lost_standing_still: lost
                    .iter()
                    .filter(|time| heartbeat.stood_still(time))
                    .count(),
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
        for moved in self.fabric.moves().split_off(moves) {
            let Moved {
                host,
                destination,
                to,
                ..
            } = moved;
            println!("{what}: {destination} of {host} to {to}");
        }
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
        Ok(stalled.max(self.delayed(ended.to, outage)?))
    }

    /// How long this world's EC2 kept a spoke waiting that looks at the tables and changes
    /// routes, beyond what AWS's takes.
    fn delayed(&self, spoke: &str, time: &Range<Instant>) -> Result<Duration> {
        let asker = self.world.access_key(spoke)?;
        let clock = self.world.faults.clock()?;
        let mut calls = self.world.faults.calls()?;
        let waited_for = ["DescribeRouteTables", "DescribeSubnets", "ReplaceRoute"];
        calls.retain(|call| {
            waited_for.contains(&call.action.as_str())
                && call.access_key == asker
                && time.contains(&clock.at(call.from_millis))
        });
        Ok(Duration::from_millis(delay_millis(&calls, EC2_TAKES)))
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
    ) -> Result<Outages> {
        self.stands_in_within(GOAL, what, at, fault)
    }

    /// The same, where it may take longer.
    fn stands_in_within(
        &mut self,
        goal: Duration,
        what: &str,
        (spoke, host): (&'static str, &'static str),
        fault: impl FnOnce(&mut World) -> Result<()>,
    ) -> Result<Outages> {
        let from = self.fabric.moves().len();
        let outages = self.during(what, |running| {
            let before = running.fabric.moves().split_off(from);
            ensure!(
                before.is_empty(),
                "moved before anything happened: {before:?}"
            );
            fault(&mut running.world)?;
            running.is_led_away(host, &[spoke])
        })?;
        outages.only_of_within(&[host], goal)?;
        self.none_led_to(&[spoke], from)?;
        Ok(outages)
    }

    /// No route has led to any of these since there were so many moves.
    fn none_led_to(&self, spokes: &[&str], from: usize) -> Result<()> {
        let moves = self.fabric.moves().split_off(from);
        let to_one = moves.iter().find(|moved| spokes.contains(&moved.to));
        ensure!(to_one.is_none(), "{to_one:?}");
        Ok(())
    }

    /// No route of any other host has moved since there were so many moves.
    fn moved_only_of(&self, host: &str, from: usize) -> Result<()> {
        let moves = self.fabric.moves().split_off(from);
        let of_another = moves.iter().find(|moved| moved.host != host);
        ensure!(of_another.is_none(), "{of_another:?}");
        Ok(())
    }

    /// The instance stops to do anything, as when its hardware fails.
    fn dies(world: &mut World, spoke: &str) -> Result<()> {
        world.crash(spoke)?;
        unplug(world, spoke)
    }

    /// Rules for the VPC's router by which a spoke and others do not hear each other.
    fn split(&self, one: &str, others: &[&str]) -> Result<String> {
        let one = self.world.host(one)?.instance.address;
        let others = others.iter().map(|other| {
            let other = self.world.host(other)?.instance.address;
            Ok(format!(
                "        ip saddr {one} ip daddr {other} drop
        ip saddr {other} ip daddr {one} drop
"
            ))
        });
        let others = others.collect::<Result<String>>()?;
        Ok(format!(
            "table ip split {{
    chain forward {{
        type filter hook forward priority -10
{others}    }}
}}
"
        ))
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
    /// Those of them in whose time the machine stood still.
    lost_standing_still: usize,
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

    fn is_not_worth_mentioning(&self) -> Result<()> {
        self.each_is_within(BRIEF)
    }

    /// What was not the spokes' doing of all its outages.
    fn not_ours(&self) -> Duration {
        self.outages.iter().map(|outage| outage.not_ours).sum()
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

    /// Each host lost so many requests at most because of the spokes, and none for long.
    fn requests_lost_at_most(&self, most: usize) -> Result<()> {
        for (host, asked) in &self.0 {
            let lost = asked.lost - asked.lost_standing_still;
            ensure!(lost <= most, "{host}: {lost} requests lost: {asked:?}");
            asked.is_not_worth_mentioning().context(*host)?;
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

pub(crate) fn a_planned_stop_loses_one_request_at_most() -> Result<()> {
    let mut running = Running::start()?;
    let outages = running.during("planned stop", |running| {
        running.world.stop("spoke-d1")?;
        unplug(&running.world, "spoke-d1")?;
        running.is_led_away("host-d1", &["spoke-d1"])
    })?;
    outages.requests_lost_at_most(1)?;
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
        outages.requests_lost_at_most(1).context(told)?;
        running.world.change_metadata("spoke-d1", |metadata| {
            metadata.spot_notice = None;
            metadata.target_lifecycle_state = Some("InService".to_owned());
        })?;
        running.is_at_home()?;
    }
    running.moved_little()?;
    running.world.check()
}
