//! A spoke of the simulated VPC: the state machine under test, and what a daemon does
//! around it, no more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use privnet_model::config::spoke::{RemedyConfig, RemedyKind, TableSelection};
use privnet_model::health::HealthReport;
use privnet_model::id::{InstanceId, InterfaceId, Zone};
use privnet_model::vpc;
use privnet_reconcile::remedy::{Journal, Remedy};
use privnet_reconcile::takeover::asking::Asking;
use privnet_reconcile::takeover::{Decision, Memory, Move, Setup, Takeover};

use crate::event::Ec2;
use crate::world::{DESTINATIONS, PRIVNET};

/// Between two self-tests, and two beats of the loop.
const SELF_TEST: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(200);

/// The shortest silence after which the config lets something be done.
pub(crate) const REMEDY_AFTER: Duration = Duration::from_secs(30);

/// A request to EC2 that is under way.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Look,
    Change(Move),
}

pub(crate) struct Spoke {
    pub(crate) instance: u32,
    pub(crate) zone: u8,
    /// It exists, and what it forwards is forwarded.
    pub(crate) up: bool,
    pub(crate) hung: bool,
    /// Whether its egress works.
    pub(crate) egress: bool,
    /// Whether its tunnel is up, as far as it knows, and something comes out of it.
    pub(crate) tunnel: bool,
    pub(crate) hub: bool,
    /// When both became so.
    pub(crate) tunnel_since: Instant,
    heard: Instant,
    pub(crate) ec2: Ec2,
    /// What its last self-test said, and when that became so.
    pub(crate) verdict: Option<bool>,
    pub(crate) verdict_since: Instant,
    failures: u32,
    pub(crate) machine: Takeover,
    pub(crate) memory: Memory,
    pub(crate) stopping: Option<Instant>,
    /// When it starts again after a planned stop.
    pub(crate) starts: Option<Instant>,
    tests: Instant,
    /// When it asks whom it has just come to know.
    pub(crate) asks: Instant,
    /// The questions to each sibling, known by when they were asked.
    pub(crate) asking: BTreeMap<InstanceId, Asking<Instant>>,
    ticks: Instant,
    pub(crate) request: Option<(Request, Instant)>,
    pub(crate) waiting: Vec<Move>,
    pub(crate) discovers: Instant,
    pub(crate) remedy: Remedy,
}

pub(crate) fn instance(number: u32) -> InstanceId {
    format!("i-{number:08x}").parse().unwrap()
}

pub(crate) fn interface(number: u32) -> InterfaceId {
    format!("eni-{number:08x}").parse().unwrap()
}

pub(crate) fn zone(number: u8) -> Zone {
    let letter = char::from(b'a' + number);
    format!("eu-west-1{letter}").parse().unwrap()
}

pub(crate) fn described(number: u32, zone_number: u8) -> vpc::Sibling {
    vpc::Sibling {
        instance: instance(number),
        launched: Timestamp::from_second(1_700_000_000 + i64::from(number)).unwrap(),
        zone: zone(zone_number),
        address: std::net::IpAddr::from([10, 0, zone_number, number as u8]),
        interface: interface(number),
        instance_profile: None,
        tags: Default::default(),
    }
}

fn machine(number: u32, zone: u8, memory: &Memory, now: Instant, wall: Timestamp) -> Takeover {
    let setup = Setup {
        me: described(number, zone),
        tables: TableSelection::Zone,
        destinations: DESTINATIONS
            .iter()
            .map(|net| net.parse().unwrap())
            .collect(),
        tunnelled: [DESTINATIONS[PRIVNET].parse().unwrap()].into(),
        takeover: true,
        test_interval: SELF_TEST,
    };
    Takeover::new(setup, memory, now, wall)
}

fn remedy(number: u32, journal: Journal) -> Remedy {
    let config = RemedyConfig {
        kind: RemedyKind::Unhealthy,
        after: REMEDY_AFTER,
    };
    Remedy::new(instance(number), Some(config), journal)
}

impl Spoke {
    /// One that does what it does that much after each full second.
    pub(crate) fn new(
        number: u32,
        zone: u8,
        phase: Duration,
        now: Instant,
        wall: Timestamp,
    ) -> Self {
        let memory = Memory::default();
        Self {
            instance: number,
            zone,
            up: true,
            hung: false,
            egress: true,
            tunnel: true,
            hub: true,
            tunnel_since: now,
            heard: now,
            ec2: Ec2::Fine,
            verdict: None,
            verdict_since: now,
            failures: 0,
            machine: machine(number, zone, &memory, now, wall),
            memory,
            stopping: None,
            starts: None,
            tests: now + phase,
            asks: now + phase,
            asking: BTreeMap::new(),
            ticks: now + phase,
            request: None,
            waiting: Vec::new(),
            discovers: now,
            remedy: remedy(number, Journal::default()),
        }
    }

    /// Whether its daemon does anything.
    pub(crate) fn runs(&self) -> bool {
        self.up && !self.hung
    }

    pub(crate) fn start(&mut self, now: Instant, wall: Timestamp) {
        self.up = true;
        self.starts = None;
        self.stopping = None;
        self.hung = false;
        self.machine = machine(self.instance, self.zone, &self.memory, now, wall);
        self.set_verdict(None, now);
        self.failures = 0;
        self.tests = now + Duration::from_millis(300);
        self.asks = now;
        self.asking.clear();
        self.ticks = now;
        self.discovers = now;
        self.remedy = remedy(self.instance, self.remedy.journal().clone());
        self.forget_requests();
    }

    /// The process ends, with whatever it was about to do.
    pub(crate) fn die(&mut self, now: Instant) {
        self.up = false;
        self.hung = false;
        self.stopping = None;
        self.set_verdict(None, now);
        self.forget_requests();
    }

    fn forget_requests(&mut self) {
        self.request = None;
        self.waiting.clear();
    }

    pub(crate) fn set_tunnel(&mut self, up: bool, now: Instant) {
        if self.tunnel != up || self.hub != up {
            self.tunnel_since = now;
        }
        self.tunnel = up;
        self.hub = up;
    }

    fn set_verdict(&mut self, verdict: Option<bool>, now: Instant) {
        if self.verdict != verdict {
            self.verdict = verdict;
            self.verdict_since = now;
        }
    }

    /// What its daemon does by itself at this moment; `true` when it asks for a look.
    pub(crate) fn beat(&mut self, now: Instant, wall: Timestamp) -> bool {
        if now >= self.tests {
            self.tests = now + SELF_TEST;
            self.failures = if self.egress { 0 } else { self.failures + 1 };
            match self.failures {
                0 => {
                    self.set_verdict(Some(true), now);
                    self.machine.tested(Ok(()), now);
                }
                1 if self.verdict.is_some() => {
                    let known = self.verdict == Some(true);
                    let result = if known {
                        Ok(())
                    } else {
                        Err("no egress".to_owned())
                    };
                    self.machine.tested(result, now);
                }
                _ => {
                    self.set_verdict(Some(false), now);
                    self.machine.tested(Err("no egress".to_owned()), now);
                }
            }
        }
        if now < self.ticks {
            return false;
        }
        self.ticks = now + TICK;
        if self.hub {
            self.heard = now;
        }
        self.machine.tunnel(self.tunnel.then_some(self.heard), now);
        let look = self.machine.tick(now);
        self.memory = self.machine.memory(now, wall);
        look && self.request.is_none()
    }

    pub(crate) fn report(&self, now: Instant) -> HealthReport {
        self.machine.report(now)
    }

    /// One change after the other.
    pub(crate) fn take(&mut self, decision: Decision) {
        self.waiting = decision.moves;
        self.waiting.reverse();
    }
}
