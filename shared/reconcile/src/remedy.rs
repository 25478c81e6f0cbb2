//! What a spoke does about a sibling that stays lost, if its config asks for it: has it
//! stopped and started, or tells its Auto Scaling group. A pure state machine beside
//! `takeover`, of which it hears how the siblings are.
//!
//! An instance that is well must never be hit, least of all by one that only cannot hear
//! it. Two that do not hear each other would hit each other if silence were enough, so
//! nothing is done unless all of this is so:
//!
//! 1. It was heard, and has been silent ever since: it neither answered nor asked (one way
//!    may be broken, not the other) nor took a route. Who lives and is only not heard
//!    takes its routes back within some 15 s, which EC2 shows; that is why a silence counts
//!    after [`RemedyConfig::after`] alone, and never if that it leaves was its last word.
//! 2. This spoke stands in for it: it has the first of its routes, which is so of one spoke
//!    at most. It has been well itself for as long as the other was silent, and EC2
//!    tells it where the routes lead.
//! 3. Neither was taken for lost by mistake by the other within [`DOUBT`]. Both wait up to
//!    ten minutes after mistakes, and do not show that they live meanwhile.
//! 4. Of several that are lost only one has its turn, and nobody else's instance starts,
//!    stops or ends just now, by EC2's own word.
//! 5. EC2 says that it runs. Whoever is stopped was stopped by somebody, and stays so,
//!    unless that was us: what we stopped is written down first and started again,
//!    also after a restart, also without a config that asks for it.
//! 6. [`MOST_TRIES`] times in all, [`PAUSE`] apart and then twice that.

mod judge;
mod told;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use privnet_model::config::spoke::{RemedyConfig, RemedyKind};
use privnet_model::id::InstanceId;
use privnet_model::vpc::{Machine, MachineState};
use serde::{Deserialize, Serialize};

use crate::takeover::{Outlook, SiblingState};

pub use judge::Obstacle;

/// Between two remedies of one sibling; doubled after the second.
pub const PAUSE: Duration = Duration::from_secs(30 * 60);
/// After so many it is left to people.
pub const MOST_TRIES: u32 = 3;
/// How long a remedy may take to work: nothing is done about another sibling meanwhile.
pub const SETTLE: Duration = Duration::from_secs(600);
/// An instance that was not heard yet may be starting for so long.
pub const BOOT: Duration = Duration::from_secs(600);
/// For how long silence is not believed after it was shown to be the network's: longer
/// than two spokes that mistake each other wait for one another (`takeover`: 600 s each).
pub const DOUBT: Duration = Duration::from_secs(30 * 60);
/// Who is well for so long had nothing done about it.
const CALM: Duration = Duration::from_secs(3600);
/// An instance that does not stop within this is forced to. (EC2 lets its system shut down
/// first in either case, and takes some minutes at most to give that up.)
const FORCE: Duration = Duration::from_secs(300);
/// One that has not stopped or started by then is worth an alarm.
const STUCK: Duration = Duration::from_secs(900);
/// EC2 may describe an instance for so long as it was before it was told to stop.
const LAG: Duration = Duration::from_secs(60);
/// A stop that EC2 dates farther than this from ours was somebody else's.
const SAME_STOP: Duration = Duration::from_secs(120);
/// Where EC2 dates nothing, a stop that we know of is ours for so long.
const UNDATED: Duration = Duration::from_secs(3600);
/// Between two looks at the instances.
const LOOK: Duration = Duration::from_secs(5);
/// A look or an action of which nobody told the end for so long has none.
const FORGOTTEN: Duration = Duration::from_secs(30);
/// After something was refused; doubled each time.
const AGAIN: Duration = Duration::from_secs(15);
/// The longest that this grows to.
const MOST_AGAIN: Duration = Duration::from_secs(600);
/// What was done longer ago, about an instance that was not seen since, is forgotten.
const MOST_AGE: Duration = Duration::from_secs(30 * 86_400);

/// What must outlive a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// What was done about each sibling.
    #[serde(default)]
    pub records: BTreeMap<InstanceId, Record>,
}

/// What was done about one sibling.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When something was done, oldest first.
    #[serde(default)]
    pub tries: Vec<Timestamp>,
    /// That it is stopped because of us, and is to be started.
    #[serde(default)]
    pub stop: Option<Stop>,
    /// When its silence, or ours to it, was last shown to be the network's.
    #[serde(default)]
    pub contradicted: Option<Timestamp>,
}

/// A stop of ours. Written down before EC2 is asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// When EC2 was to be asked.
    pub asked: Timestamp,
    /// Whether EC2 said that the instance ran, and stops because of this.
    #[serde(default)]
    pub confirmed: bool,
    /// When it was forced.
    #[serde(default)]
    pub forced: Option<Timestamp>,
}

/// Which instances are to be described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// All that have the siblings' tags, in whatever state.
    Siblings,
    /// This one, whatever its tags are.
    One(InstanceId),
}

/// What is to be done now. The journal is to be kept first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Have it stop, if this role may start it as well.
    Stop {
        /// The sibling.
        instance: InstanceId,
        /// Whether it was asked to before, in vain.
        force: bool,
    },
    /// Have it start.
    Start {
        /// The sibling.
        instance: InstanceId,
    },
    /// Tell its Auto Scaling group that it is not healthy.
    Report {
        /// The sibling.
        instance: InstanceId,
    },
}

impl Action {
    /// Whom it is done to.
    pub fn instance(&self) -> &InstanceId {
        match self {
            Self::Stop { instance, .. } | Self::Start { instance } | Self::Report { instance } => {
                instance
            }
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// Somebody else stopped it just before.
    Overtaken,
    /// It was not done.
    Refused,
    /// It may have been done.
    Unknown,
}

/// How often what was done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Siblings stopped and started.
    pub restarted: u64,
    /// Siblings reported to their group.
    pub reported: u64,
    /// What was refused, or has no known end.
    pub failed: u64,
}

/// The state of one spoke. Every method takes the time; all are cheap.
#[derive(Debug, Clone)]
pub struct Remedy {
    me: InstanceId,
    config: Option<RemedyConfig>,
    journal: Journal,
    /// When each sibling was seen to be lost last; nobody who was well since.
    lost: BTreeMap<InstanceId, Instant>,
    /// Since when each has been well.
    well: BTreeMap<InstanceId, Instant>,
    looking: Option<(Look, Instant)>,
    tried: Option<Instant>,
    acting: Option<(Action, Instant)>,
    /// How often something was refused in a row, and until when nothing is tried.
    refused: Option<(u32, Instant)>,
    /// Why nothing is done about those that are lost.
    obstacles: BTreeMap<InstanceId, Obstacle>,
    counts: Counts,
}

impl Remedy {
    /// A spoke that starts, and what it did before. Without a config it only ends what it
    /// has begun.
    pub fn new(me: InstanceId, config: Option<RemedyConfig>, journal: Journal) -> Self {
        Self {
            me,
            config,
            journal,
            lost: BTreeMap::new(),
            well: BTreeMap::new(),
            looking: None,
            tried: None,
            acting: None,
            refused: None,
            obstacles: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    /// What is to be kept for the next start.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// What was done since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether nobody is lost, and nothing is owed.
    pub fn is_idle(&self) -> bool {
        self.lost.is_empty() && self.acting.is_none() && self.stopped().is_none()
    }

    /// Judges. To be called every second or so. Asks for a look at instances, of which
    /// [`Self::looked`] or [`Self::look_failed`] is to tell the end.
    pub fn tick(&mut self, outlook: &Outlook, now: Instant, wall: Timestamp) -> Option<Look> {
        self.note(outlook, now, wall);
        if let Some((action, _)) = self.acting.take_if(|(_, at)| now - *at >= FORGOTTEN) {
            self.done(&action, Outcome::Unknown, now);
        }
        self.looking.take_if(|(_, at)| now - *at >= FORGOTTEN);
        let candidate = self.judge_all(outlook, wall);
        let due = self.tried.is_none_or(|tried| now - tried >= LOOK);
        let held = self.refused.is_some_and(|(_, until)| now < until);
        if self.acting.is_some() || self.looking.is_some() || !due || held {
            return None;
        }
        let look = match (self.stopped(), candidate) {
            (Some(instance), _) => Look::One(instance),
            (None, Some(_)) => Look::Siblings,
            (None, None) => return None,
        };
        self.looking = Some((look.clone(), now));
        Some(look)
    }

    /// EC2 did not tell.
    pub fn look_failed(&mut self, now: Instant) {
        self.looking = None;
        self.tried = Some(now);
    }

    /// The instances that the look was for: a complete answer. The end of the action is to
    /// be told by [`Self::acted`].
    pub fn looked(
        &mut self,
        machines: &BTreeMap<InstanceId, Machine>,
        outlook: &Outlook,
        now: Instant,
        wall: Timestamp,
    ) -> Option<Action> {
        let (look, _) = self.looking.take()?;
        self.tried = Some(now);
        self.note(outlook, now, wall);
        let action = match look {
            Look::One(instance) => self.go_on(instance.clone(), machines.get(&instance), wall),
            Look::Siblings => self.begin(machines, outlook, wall),
        };
        self.acting = action.clone().map(|action| (action, now));
        action
    }

    /// How an action ended.
    pub fn acted(&mut self, outcome: Outcome, now: Instant) {
        if let Some((action, _)) = self.acting.take() {
            self.done(&action, outcome, now);
        }
    }

    /// Whom we stopped, or were about to, and have not started.
    fn stopped(&self) -> Option<InstanceId> {
        let mut records = self.journal.records.iter();
        let (instance, _) = records.find(|(_, record)| record.stop.is_some())?;
        Some(instance.clone())
    }

    fn begin(
        &mut self,
        machines: &BTreeMap<InstanceId, Machine>,
        outlook: &Outlook,
        wall: Timestamp,
    ) -> Option<Action> {
        let config = self.config?;
        let instance = self.judge_all(outlook, wall)?;
        if let Err(obstacle) = self.judge_machine(&instance, machines, outlook, wall) {
            self.obstacles.insert(instance, obstacle);
            return None;
        }
        self.obstacles.remove(&instance);
        let record = self.journal.records.entry(instance.clone()).or_default();
        record.tries.push(wall);
        Some(match config.kind {
            RemedyKind::Restart => {
                record.stop = Some(Stop {
                    asked: wall,
                    confirmed: false,
                    forced: None,
                });
                let force = false;
                Action::Stop { instance, force }
            }
            RemedyKind::Unhealthy => Action::Report { instance },
        })
    }

    /// What is next with an instance that we stopped.
    fn go_on(
        &mut self,
        instance: InstanceId,
        machine: Option<&Machine>,
        wall: Timestamp,
    ) -> Option<Action> {
        let record = self.journal.records.get_mut(&instance)?;
        let stop = record.stop.as_mut()?;
        let ago = since(stop.asked, wall);
        let Some(machine) = machine else {
            // Terminated an hour ago; or EC2 is late to tell of it.
            if ago >= UNDATED {
                record.stop = None;
            }
            return None;
        };
        match machine.state {
            MachineState::Terminated => {
                record.stop = None;
                None
            }
            // Started by somebody, or not stopped at all.
            MachineState::Running => {
                let new = machine.launched.is_some_and(|at| at > stop.asked);
                if new || ago >= LAG {
                    record.stop = None;
                }
                None
            }
            MachineState::Pending | MachineState::Unclear => None,
            MachineState::Stopping if ago >= FORCE && stop.forced.is_none() => {
                stop.forced = Some(wall);
                let force = true;
                Some(Action::Stop { instance, force })
            }
            MachineState::Stopping => None,
            MachineState::Stopped if is_ours(stop, machine, wall) => {
                Some(Action::Start { instance })
            }
            MachineState::Stopped => {
                record.stop = None;
                self.obstacles.insert(instance, Obstacle::StoppedByOthers);
                None
            }
        }
    }

    fn done(&mut self, action: &Action, outcome: Outcome, now: Instant) {
        let Some(record) = self.journal.records.get_mut(action.instance()) else {
            return;
        };
        let failed = matches!(outcome, Outcome::Refused | Outcome::Unknown);
        self.counts.failed += u64::from(failed);
        match (action, outcome) {
            (Action::Stop { force: false, .. }, Outcome::Done) => {
                if let Some(stop) = &mut record.stop {
                    stop.confirmed = true;
                }
            }
            (Action::Stop { force: false, .. }, Outcome::Overtaken) => {
                record.stop = None;
            }
            (Action::Stop { force: false, .. }, Outcome::Refused) => {
                record.stop = None;
                record.tries.pop();
            }
            // The next look tells.
            (Action::Stop { .. }, _) => {}
            (Action::Start { .. }, Outcome::Done) => {
                record.stop = None;
                self.counts.restarted += 1;
            }
            (Action::Report { .. }, Outcome::Done) => self.counts.reported += 1,
            (Action::Report { .. }, Outcome::Refused) => drop(record.tries.pop()),
            (Action::Start { .. } | Action::Report { .. }, _) => {}
        }
        self.refused = failed.then(|| {
            let (count, _) = self.refused.unwrap_or((0, now));
            let pause = (AGAIN * (1 << count.min(6))).min(MOST_AGAIN);
            (count.saturating_add(1), now + pause)
        });
    }

    /// Takes in how the siblings are, and forgets what has no meaning any more.
    fn note(&mut self, outlook: &Outlook, now: Instant, wall: Timestamp) {
        for (id, seen) in &outlook.siblings {
            match seen.state {
                SiblingState::Lost => {
                    self.lost.insert(id.clone(), now);
                    self.well.remove(id);
                }
                SiblingState::Well => {
                    self.lost.remove(id);
                    self.well.entry(id.clone()).or_insert(now);
                }
                SiblingState::Unheard
                | SiblingState::Sick { .. }
                | SiblingState::Starting { .. }
                | SiblingState::Leaving => drop(self.well.remove(id)),
            }
            if let Some(at) = seen.contradicted {
                let at = wall - now.saturating_duration_since(at);
                let record = self.journal.records.entry(id.clone()).or_default();
                // A clock that is read twice does not tell the same.
                let news = record.contradicted.is_none_or(|old| since(old, at) >= LAG);
                if news {
                    record.contradicted = Some(at);
                }
            }
        }
        self.well.retain(|id, _| outlook.siblings.contains_key(id));
        self.lost.retain(|_, at| now - *at < SETTLE);
        let well = &self.well;
        self.journal.records.retain(|id, record| {
            let calm = well.get(id).is_some_and(|at| now - *at >= CALM);
            let last = record.tries.last();
            let old = last.is_none_or(|last| calm || since(*last, wall) >= MOST_AGE);
            let doubted = record
                .contradicted
                .is_some_and(|at| since(at, wall) < DOUBT + LAG);
            record.stop.is_some() || !old || doubted
        });
    }
}

/// Whether an instance that is stopped was stopped by us, and not later by somebody.
fn is_ours(stop: &Stop, machine: &Machine, wall: Timestamp) -> bool {
    let Some(told) = machine.told else {
        return stop.confirmed && since(stop.asked, wall) < UNDATED;
    };
    let mut asked = [Some(stop.asked), stop.forced].into_iter().flatten();
    asked.any(|asked| told.duration_since(asked).unsigned_abs() <= SAME_STOP)
}

/// How long ago this was; nothing if it is in the future.
fn since(then: Timestamp, wall: Timestamp) -> Duration {
    Duration::try_from(wall.duration_since(then)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
