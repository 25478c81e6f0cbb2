//! Every way in which the EC2 API can fail, while pings go through the tunnels:
//! not one is lost, what is shown is what is so, and all heals by itself. On the
//! demo network (drawn at `privnet_tests::topology::demo`).
//!
//! Nobody asks the hub for anything here: it polls every five seconds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use nix::sys::signal::Signal;
use privnet_model::key::PublicKey;
use privnet_model::status::{PartitionStatus, Status, TunnelState};
use privnet_tests::daemon::hub_config;
use privnet_tests::deployment::{
    PATIENCE, launch_latecomer, reach_each_other, start_spokes, tunnels, wait_until_up,
};
use privnet_tests::fault_proxy::{Fault, FaultKind, Rules};
use privnet_tests::long_ping::LongPing;
use privnet_tests::process::wait_until;
use privnet_tests::topology::{self, API_PORT, HUB_PUBLIC, Network, OTHER_ACCOUNT};
use privnet_tests::world::World;

const SPOKES: [&str; 2] = ["spoke-a", "spoke-b"];
const WEST: &str = "us-west-2";
const EUROPE: &str = "eu-west-1";

/// Who pings whom: through the relay, and through the hub's own interface.
const PINGS: [(&str, &str); 2] = [("host-a", "host-b"), ("host-hub", "host-b2")];

/// Some polls that hang to their end, the pauses between them, and a busy machine.
pub(crate) const POLLS: Duration = Duration::from_secs(120);

/// How long `tunnels` may take, whatever EC2 does: a poll has 12 s.
const PROMPT: Duration = Duration::from_secs(6);

pub(crate) fn whatever_way_the_api_fails_no_packet_is_lost_and_it_heals() -> Result<()> {
    let mut running = Running::start("12s")?;
    for faults in [
        Faults::both(
            (FaultKind::InternalError, &["InternalError"]),
            (FaultKind::Denied, &["needs ec2:DescribeInstances"]),
        ),
        Faults::both(
            (FaultKind::Unavailable, &["Unavailable"]),
            (FaultKind::Hang, &["EC2 in eu-west-1", "DescribeInstances"]),
        ),
        Faults::both(
            (FaultKind::Expired, &["credentials", "RequestExpired"]),
            (FaultKind::Abort, &["EC2 in eu-west-1", "DescribeInstances"]),
        ),
        Faults::both(
            (FaultKind::Cut, &["cut short"]),
            (FaultKind::Slow(7_000), &["EC2 in eu-west-1"]),
        ),
        Faults::both(
            (FaultKind::Empty, &["EC2", "DescribeInstances"]),
            (FaultKind::Unavailable, &["Unavailable"]),
        ),
    ] {
        running.meet(&faults)?;
    }
    running.world.check()
}

/// The SDK slows down the more it is throttled: the poll has time for its last try.
pub(crate) fn a_throttled_api_costs_no_packet_and_is_named() -> Result<()> {
    let mut running = Running::start("60s")?;
    running.meet(&Faults::both(
        (FaultKind::Throttled, &["RequestLimitExceeded"]),
        (FaultKind::Throttled, &["RequestLimitExceeded"]),
    ))?;
    running.world.check()
}

pub(crate) fn a_slow_api_costs_no_packet_and_is_waited_for() -> Result<()> {
    let mut running = Running::start("12s")?;
    running.meet(&Faults {
        rules: Rules {
            faults: vec![Fault::everywhere(FaultKind::Slow(2_000))],
            page_size: None,
        },
        failing: vec![],
    })?;
    running.world.check()
}

pub(crate) fn an_answer_that_stops_between_its_pages_costs_no_packet() -> Result<()> {
    let mut running = Running::start("12s")?;
    // One instance a page: us-west-2 has two spokes, and so two pages.
    for (kind, says) in [
        (FaultKind::Unavailable, "Unavailable"),
        (FaultKind::Cut, "cut short"),
        (FaultKind::Abort, "DescribeInstances"),
        (FaultKind::Empty, "DescribeInstances"),
    ] {
        running.meet(&Faults {
            rules: Rules {
                faults: vec![Fault::everywhere(kind).after_the_first_page()],
                page_size: Some(1),
            },
            failing: vec![(WEST, vec![says])],
        })?;
    }
    // And many pages that all come are one answer.
    running.meet(&Faults {
        rules: Rules {
            faults: vec![],
            page_size: Some(1),
        },
        failing: vec![],
    })?;
    running.world.check()
}

pub(crate) fn an_api_that_resets_or_swallows_connections_costs_no_packet() -> Result<()> {
    let mut running = Running::start("12s")?;
    for (verdict, says) in [
        ("reject with tcp reset", vec!["cannot reach EC2"]),
        ("drop", vec!["EC2", "DescribeInstances"]),
    ] {
        let api = &running.world.api;
        api.nft(&format!(
            "table inet faults {{\n chain input {{\n type filter hook input priority filter\n \
             ip saddr {HUB_PUBLIC} tcp dport {API_PORT} counter {verdict}\n }}\n}}\n"
        ))?;
        let regions = topology::REGIONS.map(|region| (region, says.clone()));
        running.shows(&regions).context(verdict)?;
        running.is_unharmed().context(verdict)?;
        let api = &running.world.api;
        let rules = api.run("nft", ["list", "table", "inet", "faults"])?;
        ensure!(!rules.contains("packets 0 "), "nothing met it:\n{rules}");
        api.nft("delete table inet faults\n")?;
        running.shows(&[]).context(verdict)?;
        running.is_unharmed().context(verdict)?;
    }
    running.world.check()
}

pub(crate) fn a_region_that_is_down_for_long_keeps_its_tunnels_while_others_change() -> Result<()> {
    let mut running = Running::start("12s")?;
    let down = Fault::in_region(EUROPE, FaultKind::Unavailable);
    running.world.faults.set(&[down])?;
    let europe_down = [(EUROPE, vec!["Unavailable"])];
    let status = running.shows(&europe_down)?;
    let since = partition(&status, EUROPE)?.failing_since;
    ensure!(since.is_some(), "since when is not told");

    // Others join and leave meanwhile.
    launch_latecomer(&mut running.world)?;
    wait_until_up(&running.world, &["spoke-a", "spoke-b", "spoke-c"], POLLS)?;
    reach_each_other(&running.world, "host-c", "host-b")?;
    running.is_unharmed()?;
    running.world.terminate("spoke-c")?;
    wait_until("spoke-c to be gone", POLLS, || {
        let status = running.status()?;
        let there = status.tunnels.iter().any(|tunnel| tunnel.name == "spoke-c");
        Ok((!there).then_some(()))
    })?;

    // And it goes on failing.
    let failures = partition(&status, EUROPE)?.failures;
    wait_until("more failures", POLLS, || {
        let europe = partition(&running.status()?, EUROPE)?.clone();
        Ok((europe.failures >= failures + 3).then_some(()))
    })?;
    let status = running.shows(&europe_down)?;
    let europe = partition(&status, EUROPE)?;
    ensure!(europe.failing_since == since, "{europe:?}");
    ensure!(europe.spokes == 1, "{europe:?}");
    running.is_unharmed()?;

    // A hub that restarts meanwhile has the tunnels, and has not forgotten since when.
    running.pings.clear();
    running.world.stop("hub")?;
    running.world.start_again("hub")?;
    wait_until_up(&running.world, &SPOKES, PATIENCE)?;
    running.ping()?;
    let status = running.shows(&europe_down)?;
    let europe = partition(&status, EUROPE)?;
    ensure!(europe.failing_since == since, "{europe:?}");

    running.world.faults.clear()?;
    let status = running.shows(&[])?;
    ensure!(partition(&status, EUROPE)?.failing_since.is_none());
    running.is_unharmed()?;
    running.world.check()
}

/// A role that STS gives no longer: its account's partitions keep what they have.
pub(crate) fn a_role_that_is_refused_costs_no_packet_and_only_its_own_account() -> Result<()> {
    let mut network = topology::demo();
    for vpc in &mut network.vpcs {
        if vpc.name == "vpc-b" {
            vpc.account = OTHER_ACCOUNT;
        }
    }
    let role = format!("arn:aws:iam::{OTHER_ACCOUNT}:role/privnet-discovery");
    let accounts =
        format!("accounts = [\"own\", {{ role_arn = {role:?}, external_id = \"demo\" }}]");
    let mut running = Running::build(&network, "12s", &accounts)?;
    let status = running.shows(&[])?;
    ensure!(status.partitions.len() == 2 * topology::REGIONS.len());
    for kind in [FaultKind::Denied, FaultKind::Hang] {
        running
            .world
            .faults
            .set(&[Fault::of_action("AssumeRole", kind)])?;
        // The credentials that the hub has are good for an hour: a new configuration
        // asks for others.
        running
            .world
            .daemon("hub")?
            .process
            .signal(Signal::SIGHUP)?;
        let status = running.shows(&[(OTHER_ACCOUNT, vec![&role])])?;
        let failing = status
            .partitions
            .iter()
            .filter(|partition| partition.error.is_some());
        ensure!(failing.count() == topology::REGIONS.len());
        running.is_unharmed()?;
        running.world.faults.clear()?;
        running.shows(&[])?;
        running.is_unharmed()?;
    }
    running.world.check()
}

/// What breaks, and which regions then fail with what in their error.
struct Faults {
    rules: Rules,
    /// By region or account.
    failing: Vec<(&'static str, Vec<&'static str>)>,
}

impl Faults {
    /// One in each of two regions; the third is well.
    fn both(west: (FaultKind, &[&'static str]), europe: (FaultKind, &[&'static str])) -> Self {
        Self {
            rules: Rules {
                faults: vec![
                    Fault::in_region(WEST, west.0),
                    Fault::in_region(EUROPE, europe.0),
                ],
                page_size: None,
            },
            failing: vec![(WEST, west.1.to_vec()), (EUROPE, europe.1.to_vec())],
        }
    }
}

/// The demo network with both tunnels up, and pings through them.
pub(crate) struct Running {
    pub(crate) world: World,
    pings: Vec<LongPing>,
    carried: Carried,
}

/// The networks and the key of each tunnel that is up.
type Carried = BTreeMap<String, (Vec<IpNet>, Option<PublicKey>)>;

impl Running {
    /// With so much time for a poll of one region.
    pub(crate) fn start(timeout: &str) -> Result<Self> {
        Self::build(&topology::demo(), timeout, "")
    }

    /// On another network, with more in the section `[discovery]`.
    fn build(network: &Network, timeout: &str, discovery: &str) -> Result<Self> {
        let mut world = World::build(network)?;
        start_spokes(&mut world)?;
        let config = hub_config(world.host("hub")?)
            .replace("\"1h\"", "\"5s\"")
            .replace(
                "timeout  = \"20s\"",
                &format!("timeout  = {timeout:?}\n{discovery}"),
            );
        ensure!(
            config.contains("5s") && config.contains(timeout),
            "{config}"
        );
        world.start("hub", &config)?;
        let status = wait_until_up(&world, &SPOKES, PATIENCE)?;
        reach_each_other(&world, "host-a", "host-b")?;
        let mut running = Self {
            world,
            pings: vec![],
            carried: carried(&status),
        };
        running.ping()?;
        Ok(running)
    }

    fn ping(&mut self) -> Result<()> {
        for (from, to) in PINGS {
            let to = self.world.host(to)?.instance.address;
            let ping = LongPing::start(self.world.namespace(from)?, to)?;
            ping.answers(1, PATIENCE)?;
            self.pings.push(ping);
        }
        Ok(())
    }

    /// Goes through the faults, and through their end.
    fn meet(&mut self, faults: &Faults) -> Result<()> {
        let start = Instant::now();
        let before = self.world.faults.calls()?.len();
        self.world.faults.set_rules(&faults.rules)?;
        let during = self.shows(&faults.failing);
        let unharmed = self.is_unharmed();
        self.world.faults.clear()?;
        let what = || format!("during {:?}", faults.rules);
        during.with_context(what)?;
        unharmed.with_context(what)?;
        for rule in &faults.rules.faults {
            let met = self.world.faults.calls()?[before..].iter().any(|call| {
                call.fault == Some(rule.kind)
                    && rule
                        .region
                        .as_ref()
                        .is_none_or(|region| *region == call.region)
            });
            ensure!(met, "the hub never met {rule:?}");
        }
        let what = || format!("after {:?}", faults.rules);
        self.shows(&[]).with_context(what)?;
        self.is_unharmed().with_context(what)?;
        println!(
            "{:5.1} s  {:?}",
            start.elapsed().as_secs_f32(),
            faults
                .rules
                .faults
                .iter()
                .map(|rule| rule.kind)
                .collect::<Vec<_>>(),
        );
        Ok(())
    }

    /// Waits until these regions, and no others, fail, each with an error that says
    /// this; and `tunnels list` tells.
    pub(crate) fn shows(&self, failing: &[(&str, Vec<&str>)]) -> Result<Status> {
        let before = self.status()?;
        // Of two polls without an error the first may have begun before the fault.
        let more = if failing.is_empty() { 2 } else { 1 };
        wait_until("what the last poll showed", POLLS, || {
            let status = self.status()?;
            let mut failed = 0;
            for (partition, before) in status.partitions.iter().zip(&before.partitions) {
                let polls = before.polls + more;
                ensure!(partition.polls >= polls, "it polls: {partition:?}");
                let name = partition.partition.to_string();
                let expected = failing.iter().find(|(failing, _)| name.contains(failing));
                check(partition, expected.map(|(_, says)| &says[..]))?;
                failed += usize::from(expected.is_some());
            }
            let table = tunnels(&self.world, &["list"])?;
            let warned = table.matches("no answer from ").count();
            ensure!(warned == failed, "{table}");
            Ok(Some(status))
        })
    }

    /// What the operator sees.
    pub(crate) fn status(&self) -> Result<Status> {
        let start = Instant::now();
        let text = tunnels(&self.world, &["list", "--json"])?;
        let took = start.elapsed();
        ensure!(took < PROMPT, "`tunnels list` took {took:?}");
        serde_json::from_str(&text).context(text)
    }

    /// An error if a ping was lost or a tunnel is not as it was.
    pub(crate) fn is_unharmed(&mut self) -> Result<()> {
        for ping in &mut self.pings {
            ping.has_lost_nothing(PATIENCE)?;
        }
        let now = carried(&self.status()?);
        for (name, before) in &self.carried {
            let now = now.get(name);
            ensure!(now == Some(before), "{name} was {before:?} and is {now:?}");
            let shown = tunnels(&self.world, &["show", name])?;
            ensure!(shown.contains("up"), "{shown}");
        }
        Ok(())
    }
}

/// An error unless the partition fails with these words, or does not fail.
fn check(partition: &PartitionStatus, says: Option<&[&str]>) -> Result<()> {
    let (Some(says), Some(error)) = (says, &partition.error) else {
        ensure!(says.is_some() == partition.error.is_some(), "{partition:?}");
        ensure!(partition.failing_since.is_none(), "{partition:?}");
        return Ok(());
    };
    for text in says {
        ensure!(error.contains(text), "it says {error}, and not `{text}`");
    }
    ensure!(partition.failing_since.is_some(), "{partition:?}");
    ensure!(partition.answered_at.is_some(), "{partition:?}");
    Ok(())
}

fn carried(status: &Status) -> Carried {
    let up = status
        .tunnels
        .iter()
        .filter(|tunnel| tunnel.state == TunnelState::Up);
    up.map(|tunnel| {
        let carries = (tunnel.cidrs.clone(), tunnel.public_key);
        (tunnel.name.clone(), carries)
    })
    .collect()
}

fn partition<'a>(status: &'a Status, region: &str) -> Result<&'a PartitionStatus> {
    status
        .partitions
        .iter()
        .find(|partition| partition.partition.region.as_str() == region)
        .with_context(|| format!("no partition in {region}"))
}
