//! The simulated VPC: spokes, the network between them, and EC2 with its route tables.
//! What must hold is asked of it after each step (`check`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use privnet_model::health::HealthReport;
use privnet_model::id::{InstanceId, InterfaceId, RouteTableId};
use privnet_model::vpc::{
    Destination, Machine, MachineState, Route, RouteAction, RouteChange, RouteOrigin, RouteOutcome,
    RouteState, RouteTable, RouteTarget, Siblings,
};
use privnet_reconcile::remedy::Outcome;
use privnet_reconcile::takeover::asking::Asking;
use privnet_reconcile::takeover::{Move, Reason, SiblingState};

use crate::check::Check;
use crate::event::{Ec2, Event};
use crate::spoke::{REMEDY_AFTER, Request, Spoke, described, instance, interface, zone};

pub(crate) const DESTINATIONS: [&str; 2] = ["0.0.0.0/0", "10.0.0.0/8"];
/// The number of the one that goes through the tunnel.
pub(crate) const PRIVNET: usize = 1;
pub(crate) const STEP: Duration = Duration::from_millis(50);
pub(crate) const DISCOVERY: Duration = Duration::from_secs(15);
/// What a sibling said may be that old: a question's interval, and the next one's answer
/// waited for.
const NEWS: Duration = Duration::from_millis(1900);
/// A planned stop takes no longer.
const STOP: Duration = Duration::from_secs(10);

/// A place of the simulation: the table of a zone, and a destination's number.
pub(crate) type Spot = (u8, usize);

/// What a route leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leads {
    Spoke(u32),
    NatGateway,
}

/// An answer that is on its way.
struct Coming {
    at: Instant,
    /// Who asked whom, and when.
    to: u32,
    from: InstanceId,
    asked: Instant,
    report: HealthReport,
}

pub(crate) struct World {
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) zones: u8,
    pub(crate) spokes: Vec<Spoke>,
    pub(crate) routes: BTreeMap<Spot, Leads>,
    /// Datagrams from the one to the other are lost.
    cuts: BTreeSet<(usize, usize)>,
    coming: Vec<Coming>,
    /// How long an answer to a sibling takes.
    pub(crate) round_trip: Duration,
    /// How long EC2 takes, if always the same.
    pub(crate) ec2_takes: Option<Duration>,
    /// How far apart within a second any two do what they do.
    apart: Duration,
    dice: u64,
    launched: u32,
    /// When an instance was terminated last.
    replaced: Instant,
    pub(crate) check: Check,
    pub(crate) reached: BTreeSet<&'static str>,
}

impl World {
    /// So many spokes in three zones: the fourth shares the first one's.
    pub(crate) fn new(spokes: u8, apart: Duration, now: Instant) -> Self {
        let zones = spokes.min(3);
        let mut world = Self {
            start: now,
            now,
            zones,
            spokes: Vec::new(),
            routes: BTreeMap::new(),
            cuts: BTreeSet::new(),
            coming: Vec::new(),
            round_trip: Duration::ZERO,
            ec2_takes: None,
            apart,
            dice: 1,
            launched: 0,
            replaced: now,
            check: Check::default(),
            reached: BTreeSet::new(),
        };
        for number in 0..spokes {
            let spoke = world.launch(number % 3);
            world.spokes.push(spoke);
        }
        world
    }

    fn launch(&mut self, zone: u8) -> Spoke {
        self.launched += 1;
        let phase = (self.apart * self.launched).as_millis() % 1000;
        let phase = Duration::from_millis(phase as u64);
        Spoke::new(self.launched, zone, phase, self.now, self.wall())
    }

    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap() + (self.now - self.start)
    }

    pub(crate) fn seconds(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }

    fn random(&mut self, below: u64) -> u64 {
        // SplitMix64.
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    pub(crate) fn live(&mut self, event: &Event) -> Result<(), String> {
        let count = self.spokes.len();
        let of = |number: &u8| usize::from(*number) % count;
        let (now, wall) = (self.now, self.wall());
        match event {
            Event::Kill(n) => self.spokes[of(n)].die(now),
            Event::Start(n) => {
                let spoke = &mut self.spokes[of(n)];
                if !spoke.up {
                    spoke.start(now, wall);
                }
            }
            Event::Replace(n) => {
                let zone = self.spokes[of(n)].zone;
                self.spokes[of(n)] = self.launch(zone);
                self.check.replaced(of(n));
                self.replaced = now;
            }
            Event::Hang(n) => self.spokes[of(n)].hung |= self.spokes[of(n)].up,
            Event::Resume(n) => self.spokes[of(n)].hung = false,
            Event::Sicken(n) => self.spokes[of(n)].egress = false,
            Event::Heal(n) => self.spokes[of(n)].egress = true,
            Event::Mute(n) => self.spokes[of(n)].hub = false,
            Event::Unlink(n) => self.spokes[of(n)].set_tunnel(false, now),
            Event::Link(n) => self.spokes[of(n)].set_tunnel(true, now),
            Event::Cut(from, to) => self.cut(of(from), of(to)),
            Event::Mend(from, to) => drop(self.cuts.remove(&(of(from), of(to)))),
            Event::Split(n) => {
                for other in 0..count {
                    self.cut(of(n), other);
                    self.cut(other, of(n));
                }
            }
            Event::Join(n) => self
                .cuts
                .retain(|(from, to)| *from != of(n) && *to != of(n)),
            Event::Ec2(n, ec2) => {
                self.spokes[of(n)].ec2 = *ec2;
                self.check.ec2(of(n), *ec2, now);
            }
            Event::Stop(n) => {
                let spoke = &mut self.spokes[of(n)];
                if spoke.runs() && spoke.stopping.is_none() {
                    spoke.stopping = Some(now);
                    spoke.machine.leave(now);
                    self.reached.insert("a planned stop");
                }
            }
            Event::Delete(n) => {
                let spot = (n % self.zones, usize::from(n / 16) % DESTINATIONS.len());
                self.routes.remove(&spot);
            }
            Event::Steal(n) => {
                let spot = (n % self.zones, usize::from(n / 16) % DESTINATIONS.len());
                self.routes.insert(spot, Leads::NatGateway);
            }
            Event::Wait { tenths } => {
                return self.pass(Duration::from_millis(100) * u32::from(*tenths));
            }
        }
        Ok(())
    }

    fn cut(&mut self, from: usize, to: usize) {
        if from != to {
            self.cuts.insert((from, to));
            self.check.cut(from, to);
        }
    }

    /// Lets time pass, and asks after each step whether all is as it must be.
    pub(crate) fn pass(&mut self, time: Duration) -> Result<(), String> {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        let (now, wall) = (self.now, self.wall());
        for (from, to) in &self.cuts {
            self.check.deaf(*from, *to, now);
        }
        self.deliver();
        for n in 0..self.spokes.len() {
            if self.spokes[n].starts.is_some_and(|at| now >= at) {
                self.spokes[n].start(now, wall);
            }
            if !self.spokes[n].runs() {
                continue;
            }
            self.discover(n);
            self.give_up(n);
            self.ask(n);
            if self.spokes[n].beat(now, wall) {
                self.request(n, Request::Look);
            }
            self.finish(n)?;
            self.mend(n)?;
            self.end_stop(n);
        }
        self.check_state()
    }

    /// Each spoke reports whoever stays lost to its Auto Scaling group, which does nothing.
    /// None may be reported that lives and could have shown it, nor by two spokes.
    fn mend(&mut self, n: usize) -> Result<(), String> {
        let (now, wall) = (self.now, self.wall());
        // Once a second.
        if !(now - self.start).as_millis().is_multiple_of(1000) {
            return Ok(());
        }
        let spoke = &mut self.spokes[n];
        let outlook = spoke.machine.outlook(now);
        if spoke.remedy.tick(&outlook, now, wall).is_none() {
            return Ok(());
        }
        let machines = self.spokes.iter().map(running).collect();
        let spoke = &mut self.spokes[n];
        let Some(action) = spoke.remedy.looked(&machines, &outlook, now, wall) else {
            return Ok(());
        };
        spoke.remedy.acted(Outcome::Done, now);
        let by = spoke.instance;
        let victim = number(action.instance().as_str());
        let at = self.spokes.iter().position(|one| one.instance == victim);
        let at = at.ok_or_else(|| format!("{victim} is gone"))?;
        let why = format!("{:.2} s: {by} reports {victim}", self.seconds());
        if self.check.able_for(at, now) >= REMEDY_AFTER {
            return Err(format!("{why}, which lives"));
        }
        if self.spokes[at].starts.is_some() && !self.check.were_cut_off(n, at) {
            return Err(format!("{why}, which was stopped as planned"));
        }
        if self
            .check
            .reported
            .insert(victim, by)
            .is_some_and(|one| one != by)
        {
            return Err(format!("{why}, which another did before"));
        }
        self.reached.insert("a remedy");
        Ok(())
    }

    fn discover(&mut self, n: usize) {
        if self.now < self.spokes[n].discovers {
            return;
        }
        let running = self
            .spokes
            .iter()
            .filter(|spoke| spoke.up || spoke.starts.is_some());
        // A failed instance is still described for a while.
        let running = running.chain(self.spokes.iter().filter(|spoke| !spoke.up));
        let spokes = running
            .map(|spoke| {
                (
                    instance(spoke.instance),
                    described(spoke.instance, spoke.zone),
                )
            })
            .collect();
        let found = Siblings {
            spokes,
            incomplete: BTreeMap::new(),
        };
        let now = self.now;
        self.spokes[n].machine.discovered(&found, now);
        self.spokes[n].discovers = now + DISCOVERY;
    }

    /// Asks each sibling whose turn it is.
    fn ask(&mut self, n: usize) {
        let now = self.now;
        let siblings = self.spokes[n].machine.asked();
        self.spokes[n]
            .asking
            .retain(|id, _| siblings.contains_key(id));
        let me = instance(self.spokes[n].instance);
        for id in siblings.into_keys() {
            let spoke = &mut self.spokes[n];
            let first = spoke.asks.max(now);
            let asking = spoke.asking.entry(id.clone());
            let asking = asking.or_insert_with(|| Asking::new(first));
            if now < asking.due() {
                continue;
            }
            asking.asked(Some(now), now);
            let mut spokes = self.spokes.iter();
            let Some(other) = spokes.position(|one| instance(one.instance) == id) else {
                continue;
            };
            if !self.cuts.contains(&(n, other)) && self.spokes[other].runs() {
                self.spokes[other].machine.asked_by(&me, now);
            }
            if let Some(report) = self.answer(n, other) {
                self.coming.push(Coming {
                    at: now + self.round_trip,
                    to: self.spokes[n].instance,
                    from: id,
                    asked: now,
                    report,
                });
                // What takes no time is there now.
                self.deliver();
            }
        }
    }

    /// Answers arrive.
    fn deliver(&mut self) {
        let now = self.now;
        for one in self.coming.extract_if(.., |one| now >= one.at) {
            let mut spokes = self.spokes.iter_mut();
            let Some(spoke) = spokes.find(|spoke| spoke.instance == one.to && spoke.runs()) else {
                continue;
            };
            let asking = spoke.asking.get_mut(&one.from);
            let asked = asking.and_then(|asking| asking.answered(|at| *at == one.asked, now));
            if let Some(asked) = asked {
                let report = Some(one.report);
                spoke.machine.observed(&one.from, asked, report, now);
            }
        }
    }

    fn answer(&self, from: usize, to: usize) -> Option<HealthReport> {
        let way = !self.cuts.contains(&(from, to)) && !self.cuts.contains(&(to, from));
        (way && self.spokes[to].runs()).then(|| self.spokes[to].report(self.now))
    }

    fn give_up(&mut self, n: usize) {
        let now = self.now;
        let spoke = &mut self.spokes[n];
        for (id, asking) in &mut spoke.asking {
            while let Some(asked) = asking.give_up(now) {
                spoke.machine.observed(id, asked, None, now);
            }
        }
    }

    fn request(&mut self, n: usize, request: Request) {
        let time = match self.spokes[n].ec2 {
            Ec2::Fine | Ec2::Flaky | Ec2::ReadOnly => {
                let usual = Duration::from_millis(50 + self.random(150));
                self.ec2_takes.unwrap_or(usual)
            }
            Ec2::Slow | Ec2::Down => Duration::from_secs(1),
            Ec2::Hanging => Duration::from_secs(4),
        };
        self.spokes[n].request = Some((request, self.now + time));
    }

    /// A request to EC2 comes to its end.
    fn finish(&mut self, n: usize) -> Result<(), String> {
        let now = self.now;
        let Some((request, _)) = self.spokes[n].request.clone().filter(|(_, at)| now >= *at) else {
            return Ok(());
        };
        self.spokes[n].request = None;
        let fails = match self.spokes[n].ec2 {
            Ec2::Fine | Ec2::Slow => false,
            Ec2::Flaky => self.random(2) == 0,
            Ec2::Down | Ec2::Hanging => true,
            Ec2::ReadOnly => matches!(request, Request::Change(_)),
        };
        match request {
            Request::Look if fails => self.spokes[n].machine.look_failed(now),
            Request::Look => {
                let tables = self.describe();
                let decision = self.spokes[n].machine.looked(tables, now);
                self.spokes[n].take(decision);
            }
            Request::Change(one) => {
                let outcome = (!fails).then(|| self.change(&one.change));
                let spoke = &mut self.spokes[n];
                spoke.machine.applied(&one.change, outcome.as_ref(), now);
            }
        }
        while let Some(next) = self.spokes[n].waiting.pop() {
            if !self.spokes[n].machine.still(&next.change, now) {
                continue;
            }
            self.may_ask_for(n, &next.why)?;
            self.may_rob(n, &next.why)?;
            self.may_carry(n, &next)?;
            self.note(&next.why);
            self.request(n, Request::Change(next));
            break;
        }
        Ok(())
    }

    /// Who asks for a change passes its own self-test, or gives away to one that does.
    fn may_ask_for(&self, n: usize, why: &Reason) -> Result<(), String> {
        let taker = match why {
            Reason::HandOver { to } => {
                let found = self.spokes.iter().find(|one| instance(one.instance) == *to);
                match found {
                    Some(found) => found,
                    None if self.now - self.replaced <= NEWS => return Ok(()),
                    None => return Err(format!("handed over to {to}, which is gone")),
                }
            }
            Reason::Missing
            | Reason::Takeover { .. }
            | Reason::Tunnel { .. }
            | Reason::GiveBack { .. }
            | Reason::Gather { .. } => &self.spokes[n],
        };
        let just = self.now - taker.verdict_since <= NEWS;
        let heard = matches!(why, Reason::HandOver { .. }) && just;
        match taker.verdict == Some(true) || heard {
            true => Ok(()),
            false => Err(format!(
                "{:.2} s: a route moves to {}, which fails its self-test ({why})",
                self.seconds(),
                taker.instance
            )),
        }
    }

    /// Nobody is taken for lost whom a third hears.
    fn may_rob(&mut self, n: usize, why: &Reason) -> Result<(), String> {
        let Reason::Takeover { from, state } = why else {
            return Ok(());
        };
        let mut spokes = self.spokes.iter();
        let from = spokes.position(|one| instance(one.instance) == *from);
        let Some(from) = from.filter(|_| *state == SiblingState::Lost) else {
            return Ok(());
        };
        let count = self.spokes.len();
        match self.check.witness(n, from, count, self.now) {
            None => Ok(()),
            Some(third) => Err(format!(
                "{:.2} s: {} takes {} for lost, which is well, as {} hears",
                self.seconds(),
                self.spokes[n].instance,
                self.spokes[from].instance,
                self.spokes[third].instance,
            )),
        }
    }

    /// Who takes a route to the privnet from one that is well has a tunnel, or neither has, as
    /// far as it can hear.
    fn may_carry(&self, n: usize, what: &Move) -> Result<(), String> {
        let from = match &what.why {
            Reason::Tunnel { from } | Reason::GiveBack { from } | Reason::Gather { from } => from,
            Reason::Missing | Reason::Takeover { .. } | Reason::HandOver { .. } => return Ok(()),
        };
        let tunnelled = what.change.destination.to_string() == DESTINATIONS[PRIVNET];
        let had = |one: &Spoke| one.tunnel || self.now - one.tunnel_since <= NEWS;
        let lacked = |one: &Spoke| !one.tunnel || self.now - one.tunnel_since <= NEWS;
        let mut spokes = self.spokes.iter();
        let from = spokes.position(|one| instance(one.instance) == *from);
        let deaf = |from: usize| self.cuts.contains(&(n, from)) || self.cuts.contains(&(from, n));
        let allowed = |from: usize| lacked(&self.spokes[from]) || deaf(from);
        match !tunnelled || had(&self.spokes[n]) || from.is_none_or(allowed) {
            true => Ok(()),
            false => Err(format!(
                "{:.2} s: {} has no tunnel, and takes a route to the privnet ({})",
                self.seconds(),
                self.spokes[n].instance,
                what.why
            )),
        }
    }

    fn note(&mut self, why: &Reason) {
        self.reached.insert(match why {
            Reason::Missing => "a missing route",
            Reason::Takeover { state, .. } => match state {
                SiblingState::Lost => "a lost sibling",
                SiblingState::Leaving => "a leaving sibling",
                SiblingState::Starting { .. } => "a sibling that starts for too long",
                SiblingState::Sick { .. } => "a sick sibling",
                SiblingState::Unheard | SiblingState::Well => "a sibling without fault",
            },
            Reason::Tunnel { .. } => "a sibling without a tunnel",
            Reason::GiveBack { .. } | Reason::Gather { .. } => "a table given back",
            Reason::HandOver { .. } => "a table handed over",
        });
    }

    fn end_stop(&mut self, n: usize) {
        let now = self.now;
        let spoke = &mut self.spokes[n];
        let Some(since) = spoke.stopping else {
            return;
        };
        let idle = spoke.request.is_none() && spoke.waiting.is_empty();
        if (idle && spoke.machine.has_left()) || now - since >= STOP {
            spoke.die(now);
            spoke.starts = Some(now + Duration::from_secs(8));
        }
    }

    pub(crate) fn describe(&self) -> Vec<RouteTable> {
        let table = |n: u8| {
            let routes = self.routes.iter().filter(|((at, _), _)| *at == n);
            let routes = routes.map(|((_, destination), leads)| self.route(*destination, leads));
            let local = Route {
                destination: Destination::Cidr("10.0.0.0/16".parse().unwrap()),
                target: RouteTarget::Local,
                state: RouteState::Active,
                origin: RouteOrigin::CreateRouteTable,
            };
            RouteTable {
                id: table_id(n),
                vpc: "vpc-00000001".parse().unwrap(),
                main: false,
                tags: BTreeMap::new(),
                subnets: [(format!("subnet-{n:08x}").parse().unwrap(), zone(n))].into(),
                routes: routes.chain([local]).collect(),
            }
        };
        (0..self.zones).map(table).collect()
    }

    fn route(&self, destination: usize, leads: &Leads) -> Route {
        let (target, state) = match leads {
            Leads::NatGateway => (
                RouteTarget::NatGateway("nat-1".to_owned()),
                RouteState::Active,
            ),
            Leads::Spoke(number) => {
                let exists = self.spokes.iter().any(|spoke| spoke.instance == *number);
                let target = RouteTarget::Interface {
                    interface: interface(*number),
                    instance: exists.then(|| instance(*number)),
                };
                match exists {
                    true => (target, RouteState::Active),
                    false => (target, RouteState::Blackhole),
                }
            }
        };
        Route {
            destination: Destination::Cidr(DESTINATIONS[destination].parse().unwrap()),
            target,
            state,
            origin: RouteOrigin::CreateRoute,
        }
    }

    /// What EC2 makes of a change, compared with what was seen as the client does.
    fn change(&mut self, change: &RouteChange) -> RouteOutcome {
        let table = number(change.table.as_str());
        let net = change.destination.to_string();
        let destination = DESTINATIONS.iter().position(|one| *one == net).unwrap();
        let spot = (table as u8, destination);
        let there = self.routes.get(&spot).cloned();
        let target = there
            .as_ref()
            .map(|leads| self.route(destination, leads).target);
        let (as_seen, to) = match &change.action {
            RouteAction::Create { to } => (target.is_none(), to),
            RouteAction::Replace { seen, to } => {
                let same = target.as_ref().is_some_and(|now| now.is_same(seen));
                (same, to)
            }
        };
        if !as_seen {
            self.check.races += 1;
            return RouteOutcome::Conflict { now: target };
        }
        assert_ne!(there, Some(Leads::NatGateway), "{change:?}");
        let to = number(InterfaceId::as_str(to));
        self.check.moved(spot, self.now);
        self.routes.insert(spot, Leads::Spoke(to));
        RouteOutcome::Done
    }

    /// Everything is well again.
    pub(crate) fn heal(&mut self) {
        let (now, wall) = (self.now, self.wall());
        self.cuts.clear();
        // The operator sees to what nobody here may touch.
        let exists = |number: &u32| self.spokes.iter().any(|one| one.instance == *number);
        self.routes.retain(|_, leads| match leads {
            Leads::NatGateway => false,
            Leads::Spoke(number) => exists(number),
        });
        for n in 0..self.spokes.len() {
            self.check.ec2(n, Ec2::Fine, now);
            let spoke = &mut self.spokes[n];
            spoke.egress = true;
            spoke.set_tunnel(true, now);
            spoke.hung = false;
            spoke.ec2 = Ec2::Fine;
            if !spoke.up {
                spoke.start(now, wall);
            }
        }
    }
}

fn running(spoke: &Spoke) -> (InstanceId, Machine) {
    let machine = Machine {
        state: MachineState::Running,
        told: None,
        launched: Some(described(spoke.instance, spoke.zone).launched),
        group: Some("spokes".to_owned()),
        instance_store: false,
    };
    (instance(spoke.instance), machine)
}

pub(crate) fn table_id(n: u8) -> RouteTableId {
    format!("rtb-{n:08x}").parse().unwrap()
}

/// The number that an id was made of.
pub(crate) fn number(id: &str) -> u32 {
    let (_, digits) = id.rsplit_once('-').unwrap();
    u32::from_str_radix(digits, 16).unwrap()
}
