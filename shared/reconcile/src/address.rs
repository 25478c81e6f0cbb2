//! Which Elastic IP a spoke has: what it takes, and what it gives away. A pure state
//! machine in each spoke, beside `takeover`, of which it hears where the routes lead and
//! how the siblings are. It says when to look at the addresses and, told where they are,
//! what to move; whoever moves one looks once more just before.
//!
//! Of a **pool** a spoke that has none takes a free one, the first by its id, and keeps
//! it. Nobody's is ever taken. Two that want the same one learn by EC2's refusal who came
//! second, and that one takes the next.
//!
//! **One address** that several spokes name belongs where the first of the routes leads
//! (by table, then destination): all spokes see that alike, so they agree without
//! talking. It moves after the routes have, and so not more often than they do:
//!
//! 1. Who has it and is well, or about to stop, gives it away itself when the first
//!    route leads to a sibling that is well. That is how it comes home, and how it is
//!    handed over. Nobody takes it from a spoke that says that it is well.
//! 2. Who has the first route takes it if it is free, or from a sibling that
//!    `takeover` finds lost or sick. From one that is about to stop only `takeover::STEP` later:
//!    that one gives it away itself, if it can.
//! 3. From what is no spoke of the VPC it is never taken.
//!
//! Only who passes its own self-test takes any.

mod choice;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use privnet_model::config::spoke::AddressConfig;
use privnet_model::id::{AllocationId, InstanceId, InterfaceId};
use privnet_model::vpc::{AddressHolder, AddressOutcome, ElasticAddress};

use crate::takeover::SiblingState;
use choice::Choice;

/// Between two looks while all is well: somebody may move an address by hand.
const CALM_LOOK: Duration = Duration::from_secs(30);
/// While an address is missing, or is where it should not be.
const UNEASY_LOOK: Duration = Duration::from_secs(5);
/// Between looks that failed while there is no more time than that.
const HASTY_LOOK: Duration = Duration::from_secs(1);
/// For so long after somebody said that an address moved: with its address a spoke loses its
/// connections to EC2.
const HASTENED: Duration = Duration::from_secs(15);
/// A look or move of which nobody told the end for so long has none.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// Between two times that a spoke gives the address away, unless it is about to stop:
/// two that see the routes differently must not throw it to and fro.
const GIVES: Duration = Duration::from_secs(10);
/// After a move failed, the next try with this address; doubled each time.
const RETRY: Duration = Duration::from_secs(1);
/// The longest that this grows to.
const MOST_RETRY: Duration = Duration::from_secs(60);

/// What is known of the routes and the siblings at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Around {
    /// This spoke.
    pub instance: InstanceId,
    /// Its interface.
    pub interface: InterfaceId,
    /// Whether it is well, and does not stop.
    pub may_take: bool,
    /// Since when it is about to stop.
    pub leaving: Option<Instant>,
    /// The spoke that the first of the routes leads to.
    pub first: Option<InstanceId>,
    /// Whether that was seen a moment ago.
    pub recent: bool,
    /// Whether this spoke changes routes, or is about to.
    pub moving: bool,
    /// The siblings.
    pub spokes: BTreeMap<InterfaceId, Other>,
}

/// A sibling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// The instance.
    pub instance: InstanceId,
    /// How it is.
    pub state: OtherState,
}

/// How a sibling is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OtherState {
    /// Well: it answered the last question.
    Well,
    /// It has not been heard yet, or an answer is missing.
    Unclear,
    /// It cannot be relied on.
    Bad {
        /// Since when.
        since: Instant,
        /// Whether it says that it is about to stop.
        leaving: bool,
        /// How it is.
        state: SiblingState,
    },
}

/// An address to move now, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressMove {
    /// Which.
    pub allocation: AllocationId,
    /// The address itself.
    pub address: IpAddr,
    /// The interface that is to have it.
    pub to: InterfaceId,
    /// Who has it, if anybody does.
    pub from: Option<AddressHolder>,
    /// Why.
    pub why: AddressReason,
}

/// Why an address is moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressReason {
    /// Nobody has it.
    Free,
    /// Who has it cannot be relied on, and its routes lead here.
    Takeover {
        /// Who has it.
        from: InstanceId,
        /// How it is.
        state: SiblingState,
    },
    /// It belongs where the first route leads.
    GoesAlong {
        /// There.
        to: InstanceId,
    },
}

impl fmt::Display for AddressReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free => f.write_str("nobody had it"),
            Self::Takeover { from, state } => write!(f, "it was at {from}, which is {state}"),
            Self::GoesAlong { to } => write!(f, "the routes lead to {to}"),
        }
    }
}

/// The address that this spoke has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub allocation: AllocationId,
    /// The address itself.
    pub address: IpAddr,
    /// When it was first seen to be here.
    pub since: Timestamp,
}

/// What the machine waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// A look at the addresses, now.
    pub look: bool,
    /// A look at the routes, soon.
    pub routes: bool,
}

/// The state of one spoke. Every method takes the time.
#[derive(Debug, Clone)]
pub struct Address {
    config: AddressConfig,
    seen: Vec<ElasticAddress>,
    /// When the last look that succeeded was asked for.
    seen_at: Option<Instant>,
    looking: Option<Instant>,
    tried: Option<Instant>,
    hastened: Option<Instant>,
    sees: bool,
    moving: Option<(AddressMove, Instant)>,
    gave: Option<Instant>,
    failures: BTreeMap<AllocationId, (u32, Instant)>,
    held: Option<Held>,
    moved: u64,
}

impl Address {
    /// Nothing is known yet.
    pub fn new(config: AddressConfig) -> Self {
        Self {
            config,
            seen: Vec::new(),
            seen_at: None,
            looking: None,
            tried: None,
            hastened: None,
            sees: true,
            moving: None,
            gave: None,
            failures: BTreeMap::new(),
            held: None,
            moved: 0,
        }
    }

    /// To be called several times a second. Of a look that it asks for [`Self::looked`]
    /// or [`Self::look_failed`] is to tell the end.
    pub fn tick(&mut self, around: &Around, now: Instant) -> Needs {
        let alive = |at: &Instant| now - *at < FORGOTTEN;
        self.looking = self.looking.filter(alive);
        self.moving.take_if(|(_, at)| !alive(at));
        if self.looking.is_some() || self.moving.is_some() {
            return Needs::default();
        }
        let choice = self.choose(around, now);
        let pause = match &choice {
            _ if !self.sees && around.leaving.is_some() => HASTY_LOOK,
            _ if !self.sees && self.hastened.is_some_and(|at| now - at < HASTENED) => HASTY_LOOK,
            _ if !self.sees => UNEASY_LOOK,
            _ if self.seen_at.is_none() || !self.has_seen_since_leaving(around) => Duration::ZERO,
            Choice::Move(_) => Duration::ZERO,
            Choice::Wait | Choice::SeeRoutes => UNEASY_LOOK,
            Choice::Nothing if self.is_where_it_should_be(around) => CALM_LOOK,
            Choice::Nothing => UNEASY_LOOK,
        };
        let look = self.tried.is_none_or(|at| now - at >= pause);
        if look {
            self.looking = Some(now);
        }
        let routes = matches!(choice, Choice::SeeRoutes);
        Needs { look, routes }
    }

    /// Where the addresses are, described since the look was asked for: what to move
    /// now. [`Self::applied`] is to tell what came of it.
    pub fn looked(
        &mut self,
        addresses: Vec<ElasticAddress>,
        around: &Around,
        now: Instant,
        wall: Timestamp,
    ) -> Option<AddressMove> {
        self.seen_at = self.looking.take().or(Some(now));
        self.tried = Some(now);
        self.sees = true;
        self.seen = addresses;
        let mine = |address: &&ElasticAddress| holds(address, &around.interface);
        let here = self.seen.iter().find(mine);
        self.held = here.map(|here| {
            let known = self.held.take();
            let known = known.filter(|held| held.allocation == here.allocation);
            known.unwrap_or_else(|| Held {
                allocation: here.allocation.clone(),
                address: here.address,
                since: wall,
            })
        });
        match self.choose(around, now) {
            Choice::Move(one) => {
                self.moving = Some(((*one).clone(), now));
                Some(*one)
            }
            Choice::Nothing => {
                self.failures.clear();
                None
            }
            Choice::Wait | Choice::SeeRoutes => None,
        }
    }

    /// Whether a move that failed is still to be made.
    pub fn is_failing(&self) -> bool {
        !self.failures.is_empty()
    }

    /// Somebody says that they have moved: they are looked at at once.
    pub fn look_soon(&mut self, now: Instant) {
        self.tried = None;
        self.hastened = Some(now);
    }

    /// EC2 did not tell where they are.
    pub fn look_failed(&mut self, now: Instant) {
        self.looking = None;
        self.tried = Some(now);
        self.sees = false;
    }

    /// What came of the move that [`Self::looked`] asked for; `None` is an error of
    /// EC2's. The next look follows at once.
    pub fn applied(&mut self, outcome: Option<&AddressOutcome>, now: Instant, wall: Timestamp) {
        let Some((done, _)) = self.moving.take() else {
            return;
        };
        self.tried = None;
        let gives = matches!(done.why, AddressReason::GoesAlong { .. });
        if gives {
            self.gave = Some(now);
        }
        match outcome {
            Some(AddressOutcome::Done) => {
                self.failures.remove(&done.allocation);
                self.moved += 1;
                self.held = (!gives).then_some(Held {
                    allocation: done.allocation,
                    address: done.address,
                    since: wall,
                });
            }
            // Somebody was faster, or it is gone: the next look tells.
            Some(AddressOutcome::Conflict { now: Some(_) } | AddressOutcome::NoAddress) => {}
            Some(AddressOutcome::Conflict { now: None }) | None => {
                let failed = self.failures.get(&done.allocation);
                let (count, _) = failed.copied().unwrap_or((0, now));
                let pause = (RETRY * (1 << count.min(6))).min(MOST_RETRY);
                let next = (count.saturating_add(1), now + pause);
                self.failures.insert(done.allocation, next);
            }
        }
    }

    /// Whether nothing is to be given away any more before this spoke stops.
    pub fn has_left(&self, around: &Around, now: Instant) -> bool {
        let alone = around.spokes.is_empty() || matches!(self.config, AddressConfig::Pool(_));
        // What failed is not waited for: whoever stops has little time.
        let failed = || self.seen.iter().any(|one| self.has_failed(one, now));
        let done = || match self.choose(around, now) {
            Choice::Nothing => true,
            Choice::Wait => failed(),
            Choice::SeeRoutes | Choice::Move(_) => false,
        };
        alone || (self.moving.is_none() && self.has_seen_since_leaving(around) && done())
    }

    /// The address that this spoke has.
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Which interface has the one address, at the last look; of a pool that matters to
    /// nobody else.
    pub fn holder(&self) -> Option<&AddressHolder> {
        match self.config {
            AddressConfig::Allocation(_) => self.seen.first()?.holder.as_ref(),
            AddressConfig::Pool(_) => None,
        }
    }

    /// Whether there was a look yet.
    pub fn has_looked(&self) -> bool {
        self.seen_at.is_some()
    }

    /// How many addresses this spoke took or gave away.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    fn has_seen_since_leaving(&self, around: &Around) -> bool {
        let seen = |since| self.seen_at.is_some_and(|seen| seen >= since);
        around.leaving.is_none_or(seen)
    }
}

fn holds(one: &ElasticAddress, interface: &InterfaceId) -> bool {
    let holder = one.holder.as_ref();
    holder.is_some_and(|holder| holder.interface.as_ref() == Some(interface))
}

#[cfg(test)]
mod tests;
