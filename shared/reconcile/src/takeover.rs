//! Which spoke of a VPC serves which route table: how spokes stand in for each other.
//! A pure state machine in each of them; nobody is the leader, and what they have in
//! common is what they hear of each other and what EC2 says that the routes are.
//!
//! It is told what came of the questions to siblings; it says when to look at the route tables, and, told what
//! they are, which routes to change. So each change rests on tables that were
//! described just before it:
//!
//! 1. Only who passes its own self-test takes a route; who is about to stop gives its
//!    routes to a sibling that is well. If there is none, routes stay where they are.
//! 2. A sibling is asked each second, and twice as often as soon as an answer is missing
//!    ([`asking`]). It is lost when it answers none of three questions in a row, and for
//!    2.5 s, which is known 2 to 3 s after it died; it is sick or leaving when it says so itself, and after a restart when it
//!    has not been well again for 3.5 s. Each answer says which others the one that answers heard, and
//!    when: whom only this spoke does not hear is not lost. Of the others that are well the first in an order that all
//!    know moves its routes at once; the next one does if nothing happened
//!    [`STEP`] later.
//! 3. A spoke takes its home tables back when it has been well for 10 s: 20 s, 40 s …
//!    600 s if it was lost or sick more than once within 10 minutes.
//! 4. Who took a route from a lost sibling and learns that this was well all along
//!    (it takes the route back, or tells later that it was well) has a broken path to
//!    it: its silence must last 5 s longer the next time, 10 s, 20 s … 600 s, until it has been
//!    heard for twelve times that, or 600 s. Homes do
//!    not wait longer for that reason, so that a table settles at home.
//! 5. Where several have the same home tables their routes stay with one of them, as a
//!    shared address is in one place: who has the first makes those that are missing, and
//!    takes the others from who is well by the rule of 3. If nobody has any, the one that was
//!    launched first makes them.
//! 6. Of a route to the privnet it matters, too, whether the tunnel is up (`tunnel`): who has
//!    none does not take it from who has one, and comes last in every order; of one whose
//!    tunnel is down, and who is well otherwise, those take it that have heard of the hub
//!    since. If nobody has, it stays where it is.
//!
//! Nothing here changes anything; `vpc_route` alone says whose a route is.

pub mod asking;

mod around;
mod decide;
mod memory;
mod outlook;
mod own;
mod sibling;
mod tunnel;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use jiff::Timestamp;
use privnet_model::config::spoke::TableSelection;
use privnet_model::health::{Condition, HealthReport};
use privnet_model::id::{InstanceId, InterfaceId, RouteTableId};
use privnet_model::vpc::{self, RouteAction, RouteChange, RouteOutcome, RouteTable, Siblings};

use crate::vpc_route::{Holder, Place, Spokes, holder, home_tables};
use around::Keeps;
use own::{CALM, Own};
use sibling::Sibling;
use tunnel::Tunnel;

pub use decide::{Decision, Move, Reason};
pub use memory::{Memory, Remembered};
pub use outlook::{Outlook, Seen};
pub use own::HOLD;
pub use sibling::SiblingState;

/// How much later than the one before it the next in the order moves a route. Two spokes
/// learn of a loss up to a second apart, and a look and two changes take EC2 some tenths
/// of a second each: who is first has done it by then. If it were less, two would change
/// the same route (`tests/takeover` counts none); it is also how much longer a takeover
/// takes for each that is before in the order and cannot reach EC2, while nobody knows.
pub const STEP: Duration = Duration::from_secs(2);
/// Between two looks at the tables while all is well: somebody may change them.
const CALM_LOOK: Duration = Duration::from_secs(30);
/// While something is not as it should be for long.
const UNEASY_LOOK: Duration = Duration::from_secs(5);
/// While something may be about to happen, and between looks that lead to nothing.
const HASTY_LOOK: Duration = Duration::from_secs(1);
/// A look or change of which nobody told the end for so long has none. Requests to EC2
/// have deadlines below this.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// After a change failed, the next try in that place; doubled each time.
const RETRY: Duration = Duration::from_secs(1);
/// The longest that this grows to.
const MOST_RETRY: Duration = Duration::from_secs(8);
/// Who failed to change a route says so for so long: others go first.
pub const UNABLE: Duration = Duration::from_secs(30);
/// A look that takes longer may never end: others go first meanwhile.
const STUCK: Duration = Duration::from_millis(1100);
/// What moved between two looks that lie farther apart may have moved long ago.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// How long before a look something that it shows for the first time may have been.
const SINCE: Duration = Duration::from_secs(1);
/// Spokes remembered that EC2 does not describe any more.
const MOST_REMEMBERED: usize = 64;

/// What a spoke must know of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// This spoke, as EC2 describes it.
    pub me: vpc::Sibling,
    /// Which tables are its home tables.
    pub tables: TableSelection,
    /// The destinations that it serves.
    pub destinations: BTreeSet<IpNet>,
    /// Those of them to which the way is the tunnel.
    pub tunnelled: BTreeSet<IpNet>,
    /// Whether it stands in for siblings.
    pub takeover: bool,
    /// How often its self-test ends.
    pub test_interval: Duration,
}

/// Routes that were taken over from siblings that could not carry them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// How many.
    pub routes: u64,
    /// How long that took in all: of each route from when its spoke was last known to be
    /// well, or was given it later, until EC2 had changed it. One that died served somewhat
    /// longer than that; of one that is sick the self-test had to learn it first.
    pub time: Duration,
    /// The same of the last one.
    pub last: Option<Duration>,
}

/// The state of one spoke. Every method takes the time; all are cheap.
#[derive(Debug, Clone)]
pub struct Takeover {
    setup: Setup,
    own: Own,
    tunnel: Tunnel,
    siblings: BTreeMap<InstanceId, Sibling>,
    /// Since when it is about to stop.
    leaving: Option<Instant>,
    /// Whether it was killed before it started, and what became of its tables then is
    /// not known yet.
    killed: bool,
    /// The tables as they were described last.
    tables: Vec<RouteTable>,
    home: BTreeSet<RouteTableId>,
    /// Whose each route was, less what we changed since.
    holders: BTreeMap<Place, InstanceId>,
    /// When a place was first seen to lead there; nothing if it did at the first look.
    led: BTreeMap<Place, Instant>,
    /// Since when a home route does not lead here, or, if that is later, to nobody any more.
    missed: BTreeMap<Place, Instant>,
    /// When a look was asked for of which the end is not known.
    looking: Option<Instant>,
    looked: Option<Instant>,
    /// When the last look that succeeded was asked for.
    seen: Option<Instant>,
    tried: Option<Instant>,
    sees: bool,
    /// Since when no look has failed.
    sees_since: Instant,
    unable: Option<Instant>,
    /// Changes of which the end is not known, and why they are made.
    moving: Vec<(Move, Instant)>,
    failures: BTreeMap<Place, (u32, Instant)>,
    keeps: Keeps,
    /// Places that were taken from a sibling because it was lost, and lead here since.
    taken: BTreeMap<InstanceId, BTreeSet<Place>>,
    taken_over: TakenOver,
    /// Whether somebody waits for the next look.
    hastened: bool,
}

impl Takeover {
    /// A spoke that starts, and what it remembers of `wall`'s past.
    pub fn new(setup: Setup, memory: &Memory, now: Instant, wall: Timestamp) -> Self {
        let mut own = Own::new(setup.test_interval, now);
        if let Some(lost) = memory.lost {
            let ago = Duration::try_from(wall.duration_since(lost)).unwrap_or_default();
            if let Some(lost) = now.checked_sub(ago).filter(|_| ago < CALM) {
                own.remember(Duration::from_secs(memory.hold_seconds), lost);
            }
        }
        let kept = memory.spokes.iter().take(MOST_REMEMBERED);
        let kept = kept.filter(|kept| kept.instance != setup.me.instance);
        let siblings = kept
            .map(|kept| (kept.instance.clone(), Sibling::remembered(kept, now)))
            .collect();
        Self {
            setup,
            own,
            tunnel: Tunnel::default(),
            siblings,
            leaving: None,
            killed: memory.running,
            tables: Vec::new(),
            home: BTreeSet::new(),
            holders: BTreeMap::new(),
            led: BTreeMap::new(),
            missed: BTreeMap::new(),
            looking: None,
            looked: None,
            seen: None,
            tried: None,
            sees: true,
            sees_since: now,
            unable: None,
            moving: Vec::new(),
            failures: BTreeMap::new(),
            keeps: Keeps::Nobody,
            taken: BTreeMap::new(),
            taken_over: TakenOver::default(),
            hastened: false,
        }
    }

    /// What is to be kept for the next start.
    pub fn memory(&self, now: Instant, wall: Timestamp) -> Memory {
        let lost = self.own.lost().map(|lost| wall - (now - lost));
        Memory {
            spokes: self.siblings.values().map(Sibling::remember).collect(),
            hold_seconds: self.own.hold().as_secs(),
            lost,
            running: self.leaving.is_none(),
        }
    }

    /// EC2 told which spokes run in the VPC: a complete answer.
    pub fn discovered(&mut self, found: &Siblings, now: Instant) {
        self.wake(now);
        for (id, sibling) in &mut self.siblings {
            let there = found.spokes.contains_key(id) || found.incomplete.contains_key(id);
            match there {
                true => sibling.gone = None,
                false => drop(sibling.gone.get_or_insert(now)),
            }
        }
        for (id, spoke) in &found.spokes {
            if *id == self.setup.me.instance {
                continue;
            }
            match self.siblings.get_mut(id) {
                Some(known) => known.found(spoke, now),
                None => {
                    self.siblings.insert(id.clone(), Sibling::new(spoke, now));
                }
            }
        }
        self.guess_homes();
        self.forget();
    }

    /// Whom to ask how they are: those that run, and those to which a route still leads.
    pub fn asked(&self) -> BTreeMap<InstanceId, IpAddr> {
        let siblings = self.siblings.iter().filter(|_| self.setup.takeover);
        siblings
            .map(|(id, one)| (id.clone(), one.address))
            .collect()
    }

    /// What came of a question to a sibling that was asked at this time: a report, or
    /// nothing that counts. That it could not even be sent is not to be told here: it
    /// says nothing of the sibling.
    pub fn observed(
        &mut self,
        instance: &InstanceId,
        asked: Instant,
        answer: Option<HealthReport>,
        now: Instant,
    ) {
        self.wake(now);
        let Some(sibling) = self.siblings.get_mut(instance) else {
            return;
        };
        match answer {
            Some(report) => {
                self.taken.remove(instance);
                let hears = report.hears.clone();
                sibling.answered(asked, report, now);
                for (other, ago) in hears.iter().filter(|(other, _)| *other != instance) {
                    let then = asked.checked_sub(*ago);
                    if let Some((other, then)) = self.siblings.get_mut(other).zip(then) {
                        other.vouched_for(then, now);
                    }
                }
            }
            None => sibling.unanswered(asked, now),
        }
    }

    /// A self-test ended. A reason is one of a spoke that is sick; what counts as one
    /// failure too many is the self-test's to say.
    pub fn tested(&mut self, result: Result<(), String>, now: Instant) {
        self.wake(now);
        let was_well = self.own.is_well();
        self.own.tested(result, now);
        if !was_well && self.own.is_well() {
            // What was not heard meanwhile may have been our own network's fault.
            let missed = self.siblings.values_mut().filter(|one| one.is_missed());
            missed.for_each(|sibling| sibling.restart(now));
        }
    }

    /// The spoke is about to stop: it takes nothing more, and gives away what it has.
    pub fn leave(&mut self, now: Instant) {
        self.wake(now);
        self.leaving.get_or_insert(now);
    }

    /// It does not stop after all.
    pub fn stay(&mut self) {
        self.leaving = None;
    }

    /// Whether nothing is left to hand over: no route leads here by tables described
    /// since it was told to leave, or nobody is there to take it.
    pub fn has_left(&self) -> bool {
        let mine = |place: &Place| self.holders.get(place) == Some(&self.setup.me.instance);
        let heir = |place: &Place| self.heir(place).is_some();
        let alone = !self.setup.takeover || self.siblings.is_empty();
        self.leaving.is_some()
            && self.moving.is_empty()
            && (alone || self.has_seen_since_leaving())
            && !self.holders.keys().any(|place| mine(place) && heir(place))
    }

    /// A sibling that left a moment before may have handed its routes over to us since
    /// the last calm look.
    fn has_seen_since_leaving(&self) -> bool {
        self.leaving
            .is_some_and(|since| self.seen.is_some_and(|seen| seen >= since))
    }

    /// Judges. To be called at least four times a second. `true` asks for a look at the
    /// tables, of which [`Self::looked`] or [`Self::look_failed`] is to tell the end.
    pub fn tick(&mut self, now: Instant) -> bool {
        self.wake(now);
        self.own.judge(now);
        for sibling in self.siblings.values_mut() {
            sibling.judge(now);
        }
        self.moving.retain(|(_, at)| now - *at < FORGOTTEN);
        let busy = self.looking.is_some_and(|at| now - at < FORGOTTEN);
        if busy || !self.moving.is_empty() {
            return false;
        }
        let since = |at: Option<Instant>| at.map_or(Duration::MAX, |at| now - at);
        let pause = self.pause(now);
        let look = since(self.looked.max(self.tried)) >= pause;
        if look {
            self.looking = Some(now);
        }
        look
    }

    /// How long after the last look the next one is due.
    fn pause(&self, now: Instant) -> Duration {
        if self.leaving.is_some() && !self.has_seen_since_leaving() {
            return match self.sees {
                true => Duration::ZERO,
                false => HASTY_LOOK,
            };
        }
        if self.hastened {
            return HASTY_LOOK;
        }
        // What it has may be more than what it had at the last look.
        let bad = self
            .siblings
            .values()
            .filter_map(Sibling::less_than_well_since);
        let bad = bad.max();
        let unseen = bad.is_some_and(|since| self.seen.is_none_or(|seen| seen < since));
        let bad = bad.is_some();
        let leaving = self.leaving.is_some();
        let may_act = (self.own.is_well() || leaving) && self.looked.is_some();
        let reason = bad || leaving || !self.missed.is_empty();
        if may_act && (unseen || reason && !self.decide(&self.tables, now).moves.is_empty()) {
            // What we would do by what we saw last. Looks that failed are not repeated
            // faster for it.
            return match self.sees {
                true => Duration::from_millis(200),
                false => HASTY_LOOK,
            };
        }
        let mut siblings = self.siblings.values();
        if self.looked.is_none() || !self.sees || siblings.any(Sibling::is_suspect) {
            return HASTY_LOOK;
        }
        let me = &self.setup.me.instance;
        let mut holders = self.holders.iter();
        let guest = holders.any(|(place, at)| at == me && !self.home.contains(&place.table));
        match guest || bad || self.is_without_tunnel() || !self.missed.is_empty() {
            true => UNEASY_LOOK,
            false => CALM_LOOK,
        }
    }

    /// The tables, described since the look was asked for.
    pub fn looked(&mut self, tables: Vec<RouteTable>, now: Instant) -> Decision {
        self.wake(now);
        let before = self.looked.replace(now);
        self.seen = self.looking.take().or(Some(now));
        self.tried = Some(now);
        self.hastened = false;
        if !std::mem::replace(&mut self.sees, true) {
            self.sees_since = now;
        }
        self.tables = tables;
        self.home = home_tables(&self.setup.tables, &self.tables, &self.setup.me.zone);
        self.guess_homes();
        self.note_holders(before, now);
        self.forget();
        self.own.judge(now);
        let decision = self.decide(&self.tables, now);
        self.moving = decision
            .moves
            .iter()
            .map(|one| (one.clone(), now))
            .collect();
        decision
    }

    /// EC2 did not tell the tables.
    pub fn look_failed(&mut self, now: Instant) {
        self.wake(now);
        self.looking = None;
        self.tried = Some(now);
        self.sees = false;
    }

    /// Whether a change that [`Self::looked`] asked for may still be made: to be asked
    /// before any of them is begun. If not, it is off.
    pub fn still(&mut self, change: &RouteChange, now: Instant) -> bool {
        let still = self.is_wanted(change, now);
        if !still {
            self.moving.retain(|(one, _)| one.change != *change);
        }
        still
    }

    /// The same by what is known so far, of a change that was begun: to be asked just
    /// before EC2 is, as those before it take their time.
    pub fn is_wanted(&mut self, change: &RouteChange, now: Instant) -> bool {
        self.wake(now);
        self.own.judge(now);
        let mut moving = self.moving.iter();
        let found = moving.find(|(one, _)| one.change == *change);
        found.is_some_and(|(one, _)| match &one.why {
            Reason::HandOver { to } => self.siblings.get(to).is_some_and(Sibling::is_sure),
            Reason::Missing
            | Reason::Takeover { .. }
            | Reason::Tunnel { .. }
            | Reason::GiveBack { .. }
            | Reason::Gather { .. } => self.own.is_well() && self.leaving.is_none(),
        })
    }

    /// How a change ended that [`Self::looked`] asked for; `None` is an error of EC2's.
    pub fn applied(&mut self, change: &RouteChange, outcome: Option<&RouteOutcome>, now: Instant) {
        self.wake(now);
        let Some(at) = self
            .moving
            .iter()
            .position(|(one, _)| one.change == *change)
        else {
            return;
        };
        let (done, begun) = self.moving.remove(at);
        let place = Place {
            table: change.table.clone(),
            destination: change.destination,
        };
        match outcome {
            Some(RouteOutcome::Done) => {
                self.failures.remove(&place);
                self.unable = None;
                self.done(done, begun, place, now);
            }
            // Somebody was faster: the next look tells what is there now.
            Some(
                RouteOutcome::Conflict { .. } | RouteOutcome::NoTable | RouteOutcome::Withdrawn,
            ) => {}
            None => {
                self.unable = Some(now);
                let (count, _) = self.failures.get(&place).copied().unwrap_or((0, now));
                let pause = (RETRY * (1 << count.min(3))).min(MOST_RETRY);
                self.failures
                    .insert(place, (count.saturating_add(1), now + pause));
            }
        }
    }

    fn done(&mut self, done: Move, begun: Instant, place: Place, now: Instant) {
        let to = match &done.why {
            Reason::HandOver { to } => to.clone(),
            Reason::Takeover { from, state } => {
                self.count(from, &place, begun, now);
                let from = self.siblings.get_mut(from);
                if let Some(from) = from.filter(|_| *state == SiblingState::Lost) {
                    from.taken(now);
                    let taken = self.taken.entry(from.instance.clone());
                    taken.or_default().insert(place.clone());
                }
                self.setup.me.instance.clone()
            }
            Reason::Missing
            | Reason::Tunnel { .. }
            | Reason::GiveBack { .. }
            | Reason::Gather { .. } => self.setup.me.instance.clone(),
        };
        let (RouteAction::Create { to: interface } | RouteAction::Replace { to: interface, .. }) =
            &done.change.action;
        // What we know is what the next decision to look again rests on.
        let table = self.tables.iter_mut().find(|table| table.id == place.table);
        if let Some(table) = table {
            set_route(table, place.destination, interface, &to);
        }
        self.missed.remove(&place);
        self.led.insert(place.clone(), now);
        self.holders.insert(place, to);
    }

    /// The route in a place, which led to this sibling, leads here.
    fn count(&mut self, from: &InstanceId, place: &Place, begun: Instant, now: Instant) {
        let well = self.siblings.get(from).map(Sibling::last_well);
        // Somebody may have led it to one that had long been lost.
        let since = well.max(self.led.get(place).copied());
        // It may have become well while EC2 changed the route.
        let since = since.map_or(begun, |since| since.min(begun));
        let took = now.saturating_duration_since(since);
        self.taken_over.routes += 1;
        self.taken_over.time += took;
        self.taken_over.last = Some(took);
    }

    /// What this spoke says of itself to those that ask.
    pub fn report(&self, now: Instant) -> HealthReport {
        let unable = self.unable.is_some_and(|at| now - at < UNABLE);
        let stuck = self.looking.is_some_and(|at| now - at >= STUCK);
        HealthReport {
            condition: match self.leaving.is_some() {
                true => Condition::Leaving,
                false => self.own.condition(),
            },
            well_for: self.own.well_for(now),
            changes_routes: self.sees && !unable && !stuck,
            has_tunnel: !self.is_without_tunnel(),
            tables: self.home.clone(),
            hears: {
                let siblings = self.siblings.iter();
                let heard = siblings.filter_map(|(id, one)| Some((id, one.heard_well(now)?)));
                heard.map(|(id, ago)| (id.clone(), ago)).collect()
            },
        }
    }

    /// This spoke.
    pub fn me(&self) -> &vpc::Sibling {
        &self.setup.me
    }

    /// How each sibling is.
    pub fn siblings(&self) -> impl Iterator<Item = (&InstanceId, SiblingState)> {
        self.siblings.iter().map(|(id, one)| (id, one.state()))
    }

    /// Whether a sibling does not answer this spoke, and is well all the same, as another hears.
    pub fn only_others_hear(&self, sibling: &InstanceId) -> bool {
        let sibling = self.siblings.get(sibling);
        sibling.is_some_and(Sibling::is_only_unheard)
    }

    /// Which spoke each route led to at the last look, less what was changed since.
    pub fn holders(&self) -> &BTreeMap<Place, InstanceId> {
        &self.holders
    }

    /// What was taken over since the start.
    pub fn taken_over(&self) -> TakenOver {
        self.taken_over
    }

    /// The home tables, as of the last look.
    pub fn home(&self) -> &BTreeSet<RouteTableId> {
        &self.home
    }

    /// How long this spoke must be well before it takes its tables back, and for how
    /// long it has been.
    pub fn hold(&self, now: Instant) -> (Duration, Duration) {
        (self.own.hold(), self.own.well_for(now))
    }

    fn wake(&mut self, now: Instant) {
        if self.own.wake(now) {
            for sibling in self.siblings.values_mut() {
                sibling.restart(now);
            }
        }
    }

    fn spokes(&self) -> Spokes {
        let me = &self.setup.me;
        let siblings = self.siblings.values();
        let siblings = siblings.map(|one| (one.instance.clone(), one.interface.clone()));
        Spokes::new(siblings.chain([(me.instance.clone(), me.interface.clone())]))
    }

    fn guess_homes(&mut self) {
        for sibling in self.siblings.values_mut() {
            sibling.guess = home_tables(&self.setup.tables, &self.tables, &sibling.zone);
        }
    }

    /// Takes over whose each route is, and what follows from who moved it.
    fn note_holders(&mut self, before: Option<Instant>, now: Instant) {
        let spokes = self.spokes();
        let me = self.setup.me.instance.clone();
        let mut holders = BTreeMap::new();
        let mut blackholes = BTreeSet::new();
        for table in &self.tables {
            for destination in &self.setup.destinations {
                let place = Place {
                    table: table.id.clone(),
                    destination: *destination,
                };
                if let Holder::Spoke {
                    instance,
                    blackhole,
                } = holder(table, destination, &spokes)
                {
                    if blackhole {
                        blackholes.insert(instance.clone());
                    }
                    holders.insert(place, instance);
                }
            }
        }
        for (id, sibling) in &mut self.siblings {
            sibling.blackhole = blackholes.contains(id);
        }
        let before_this = before.filter(|before| now - *before <= SIGN_OF_LIFE);
        // It may have died since: a sibling that stops hands over to one that it heard just before.
        let lived = before_this.map(|before| now - (now - before).min(SINCE));
        for (place, at) in holders.iter().filter(|_| lived.is_some()) {
            let held = self.holders.get(place);
            // It may be gone since, and then EC2 says so.
            let led = |one: &&mut Sibling| held != Some(at) && !one.blackhole;
            let Some(sibling) = self.siblings.get_mut(at).filter(led) else {
                continue;
            };
            sibling.claims(now);
            if let Some(lived) = lived.filter(|_| held.is_some()) {
                sibling.shows_life(lived, now);
            }
        }
        self.note_takings(&holders, before, now);
        let home = self.home.iter().flat_map(|table| {
            let destinations = self.setup.destinations.iter();
            destinations.map(|destination| Place {
                table: table.clone(),
                destination: *destination,
            })
        });
        let missed = home.filter(|place| holders.get(place) != Some(&me));
        let missed = missed.map(|place| {
            // What somebody had until now is missing since now.
            let gone = self.holders.contains_key(&place) && !holders.contains_key(&place);
            let since = self.missed.get(&place).filter(|_| !gone);
            let since = since.copied().unwrap_or(now);
            (place, since)
        });
        self.missed = missed.collect();
        let led = holders.iter().filter_map(|(place, at)| {
            let since = match self.holders.get(place) == Some(at) {
                true => self.led.get(place).copied(),
                false => before.map(|_| now),
            };
            Some((place.clone(), since?))
        });
        self.led = led.collect();
        self.holders = holders;
        // It came back so late that others serve its tables: that is being lost.
        let stood_in = self
            .missed
            .keys()
            .any(|place| self.holders.contains_key(place));
        if std::mem::take(&mut self.killed) && stood_in {
            self.own.lose(now);
        }
    }

    /// Of those that EC2 does not describe any more only who still has a route is
    /// worth knowing.
    fn forget(&mut self) {
        // Before the next look nobody knows who has one.
        let seen = self.seen;
        let is_gone = |one: &Sibling| {
            one.gone
                .is_some_and(|gone| seen.is_some_and(|seen| seen >= gone))
        };
        let holds: BTreeSet<&InstanceId> = self.holders.values().collect();
        let keeps = &self.keeps;
        self.siblings.retain(|id, one| {
            let kept = match keeps {
                Keeps::Nobody => false,
                Keeps::Untold => true,
                Keeps::One(interface) => one.interface == *interface,
            };
            !is_gone(one) || kept || holds.contains(id)
        });
    }
}

fn set_route(
    table: &mut RouteTable,
    destination: IpNet,
    interface: &InterfaceId,
    instance: &InstanceId,
) {
    let wanted = vpc::Destination::Cidr(destination);
    table.routes.retain(|route| route.destination != wanted);
    table.routes.push(vpc::Route {
        destination: wanted,
        target: vpc::RouteTarget::Interface {
            interface: interface.clone(),
            instance: Some(instance.clone()),
        },
        state: vpc::RouteState::Active,
        origin: vpc::RouteOrigin::CreateRoute,
    });
}

#[cfg(test)]
mod tests;
