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
//! 5. EC2 says that it runs, and has for [`PAUSE`]. Whoever is stopped was stopped by
//!    somebody, and stays so, unless that was us: what we stopped is written down first and
//!    started again until it runs, also after a restart, also without a config that asks
//!    for it. Whose stop it is EC2's dates tell, compared with EC2's.
//! 6. [`MOST_TRIES`] times in all, [`PAUSE`] apart and then twice that; and as often a day
//!    in one Auto Scaling group, where each is about another instance.
//! 7. All of it is still so when EC2 is asked ([`Remedy::is_wanted`]), within [`EXPIRES`].

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
/// One that was launched not longer ago, and is not well, may be starting.
pub const BOOT: Duration = Duration::from_secs(600);
/// For how long silence is not believed after it was shown to be the network's: longer
/// than two spokes that mistake each other wait for one another (`takeover`: 600 s each).
pub const DOUBT: Duration = Duration::from_secs(30 * 60);
/// Who is well for so long had nothing done about it.
const CALM: Duration = Duration::from_secs(3600);
/// Within this an Auto Scaling group is told of [`MOST_TRIES`] instances at most.
const DAY: Duration = Duration::from_secs(86_400);
/// One that has not stopped and started by then is worth an alarm. (EC2 itself forces one
/// that does not shut down, after some minutes.)
const STUCK: Duration = Duration::from_secs(900);
/// EC2 may describe an instance for so long as it was before it was told to stop or start.
const LAG: Duration = Duration::from_secs(60);
/// A stop of which EC2's answer was lost is ours if EC2 dates it within this of it.
const SAME_STOP: Duration = Duration::from_secs(120);
/// An instance that EC2 has not described for so long is gone.
const GONE: Duration = Duration::from_secs(3600);
/// Between two looks at the instances.
const LOOK: Duration = Duration::from_secs(5);
/// What was decided longer ago, or by a look that was asked for longer ago, is not done.
pub const EXPIRES: Duration = Duration::from_secs(10);
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
    /// When each Auto Scaling group was told of an instance, within the last day.
    #[serde(default)]
    pub groups: BTreeMap<String, Vec<Timestamp>>,
    /// When a journal was found that could not be read.
    #[serde(default)]
    pub lost: Option<Timestamp>,
}

impl Journal {
    /// The beginning after one that cannot be read.
    pub fn anew(wall: Timestamp) -> Self {
        Self {
            lost: Some(wall),
            ..Self::default()
        }
    }

    /// Whom this spoke stopped, or was about to, and has not started.
    pub fn owed(&self) -> Option<&InstanceId> {
        let mut records = self.records.iter();
        let (instance, _) = records.find(|(_, record)| record.stop.is_some())?;
        Some(instance)
    }
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
    /// When EC2 says that it was launched, since this spoke had it started.
    #[serde(default)]
    pub launched: Option<Timestamp>,
    /// When its silence, or ours to it, was last shown to be the network's.
    #[serde(default)]
    pub contradicted: Option<Timestamp>,
}

/// A stop of ours. Written down before EC2 is asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// When EC2 was to be asked, by our clock.
    pub asked: Timestamp,
    /// When the instance had been launched, by EC2's.
    pub launched: Timestamp,
    /// Whether EC2 said that the instance ran, and stops because of this.
    #[serde(default)]
    pub confirmed: bool,
    /// How EC2 dates the stop, once it is confirmed.
    #[serde(default)]
    pub told: Option<Timestamp>,
    /// When EC2 was asked to start it, and did not refuse.
    #[serde(default)]
    pub started: Option<Timestamp>,
    /// How often it stopped again after that.
    #[serde(default)]
    pub relapses: u32,
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
            Self::Stop { instance } | Self::Start { instance } | Self::Report { instance } => {
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
    /// It was not asked for, as it was not wanted any more.
    Withdrawn,
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
        self.lost.is_empty() && self.acting.is_none() && self.journal.owed().is_none()
    }

    /// Whether the end of an action is awaited.
    pub fn is_acting(&self) -> bool {
        self.acting.is_some()
    }

    /// Judges. To be called every second or so. Asks for a look at instances, of which
    /// [`Self::looked`] or [`Self::look_failed`] is to tell the end.
    pub fn tick(&mut self, outlook: &Outlook, now: Instant, wall: Timestamp) -> Option<Look> {
        self.note(outlook, now, wall);
        if let Some((action, _)) = self.acting.take_if(|(_, at)| now - *at >= FORGOTTEN) {
            self.done(&action, Outcome::Unknown, now);
        }
        self.looking.take_if(|(_, at)| now - *at >= FORGOTTEN);
        let candidates = self.judge_all(outlook, wall);
        let due = self.tried.is_none_or(|tried| now - tried >= LOOK);
        let held = self.refused.is_some_and(|(_, until)| now < until);
        if self.acting.is_some() || self.looking.is_some() || !due || held {
            return None;
        }
        let look = match self.journal.owed() {
            Some(instance) => Look::One(instance.clone()),
            None if candidates.is_empty() => return None,
            None => Look::Siblings,
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
    /// be told by [`Self::acted`]; until then [`Self::is_wanted`] is to be asked.
    pub fn looked(
        &mut self,
        machines: &BTreeMap<InstanceId, Machine>,
        outlook: &Outlook,
        now: Instant,
        wall: Timestamp,
    ) -> Option<Action> {
        let (look, asked) = self.looking.take()?;
        self.tried = Some(now);
        self.note(outlook, now, wall);
        if now.saturating_duration_since(asked) >= EXPIRES {
            return None;
        }
        let action = match look {
            Look::One(instance) => self.go_on(instance.clone(), machines.get(&instance), now, wall),
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

    /// Whether what is being done is still to be asked for: to be asked all the time until
    /// EC2 is, as the disk and EC2 take theirs. What is owed always is.
    pub fn is_wanted(&mut self, outlook: &Outlook, now: Instant, wall: Timestamp) -> bool {
        self.note(outlook, now, wall);
        let Some((action, at)) = &self.acting else {
            return false;
        };
        let holds = match action {
            Action::Start { .. } => true,
            Action::Stop { instance } | Action::Report { instance } => {
                let seen = outlook.siblings.get(instance);
                seen.is_some_and(|seen| self.is_beyond_doubt(instance, seen, outlook, wall).is_ok())
            }
        };
        holds && now.saturating_duration_since(*at) < EXPIRES
    }

    fn begin(
        &mut self,
        machines: &BTreeMap<InstanceId, Machine>,
        outlook: &Outlook,
        wall: Timestamp,
    ) -> Option<Action> {
        let config = self.config?;
        for instance in self.judge_all(outlook, wall) {
            let (launched, group) =
                match self.judge_machine(&instance, &config, machines, outlook, wall) {
                    Ok(found) => found,
                    Err(obstacle) => {
                        self.obstacles.insert(instance, obstacle);
                        continue;
                    }
                };
            self.obstacles.remove(&instance);
            let record = self.journal.records.entry(instance.clone()).or_default();
            record.tries.push(wall);
            if let Some(group) = group {
                self.journal.groups.entry(group).or_default().push(wall);
            }
            return Some(match config.kind {
                RemedyKind::Restart => {
                    record.stop = Some(Stop {
                        asked: wall,
                        launched,
                        confirmed: false,
                        told: None,
                        started: None,
                        relapses: 0,
                    });
                    Action::Stop { instance }
                }
                RemedyKind::Unhealthy => Action::Report { instance },
            });
        }
        None
    }

    /// What is next with an instance that we stopped.
    fn go_on(
        &mut self,
        instance: InstanceId,
        machine: Option<&Machine>,
        now: Instant,
        wall: Timestamp,
    ) -> Option<Action> {
        let record = self.journal.records.get_mut(&instance)?;
        let stop = record.stop.as_mut()?;
        let ago = since(stop.asked, wall);
        let Some(machine) = machine else {
            // Terminated an hour ago; or EC2 is late to tell of it.
            if ago >= GONE {
                record.stop = None;
            }
            return None;
        };
        match machine.state {
            MachineState::Terminated => {
                record.stop = None;
                None
            }
            MachineState::Running => {
                let restarted = stop.started.is_some();
                let by_others = machine.launched.is_some_and(|at| at > stop.launched);
                // Not stopped at all, unless EC2 said that it stops: then this is old.
                let never = !stop.confirmed && ago >= LAG;
                if restarted {
                    self.counts.restarted += 1;
                    self.refused = None;
                    record.launched = machine.launched;
                }
                if restarted || by_others || never {
                    record.stop = None;
                }
                None
            }
            MachineState::Pending | MachineState::Unclear => None,
            MachineState::Stopping => {
                date(stop, machine);
                None
            }
            MachineState::Stopped => {
                if let Some(started) = stop.started {
                    if since(started, wall) < LAG {
                        return None;
                    }
                    // Nobody stopped it: it did not come up, of which EC2 has no date.
                    if machine.told.is_none() || machine.told == stop.told {
                        stop.started = None;
                        stop.launched = machine.launched.unwrap_or(stop.launched);
                        stop.relapses = stop.relapses.saturating_add(1);
                        self.fail(now);
                        return None;
                    }
                } else {
                    date(stop, machine);
                    if is_ours(stop, machine) {
                        stop.started = Some(wall);
                        return Some(Action::Start { instance });
                    }
                }
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
        match (action, outcome) {
            (
                Action::Stop { .. } | Action::Report { .. },
                Outcome::Refused | Outcome::Withdrawn,
            ) => {
                record.stop = None;
                if let Some(at) = record.tries.pop() {
                    self.journal.groups.retain(|_, tries| {
                        tries.retain(|other| *other != at);
                        !tries.is_empty()
                    });
                }
            }
            (Action::Stop { .. }, Outcome::Done) => {
                if let Some(stop) = &mut record.stop {
                    stop.confirmed = true;
                }
            }
            (Action::Stop { .. }, Outcome::Overtaken) => record.stop = None,
            (Action::Report { .. }, Outcome::Done) => self.counts.reported += 1,
            (Action::Start { .. }, Outcome::Refused | Outcome::Withdrawn | Outcome::Overtaken) => {
                if let Some(stop) = &mut record.stop {
                    stop.started = None;
                }
            }
            // Whether it runs the next looks tell.
            (Action::Start { .. }, Outcome::Done | Outcome::Unknown) => return,
            (Action::Stop { .. }, Outcome::Unknown)
            | (Action::Report { .. }, Outcome::Overtaken | Outcome::Unknown) => {}
        }
        match outcome {
            Outcome::Refused | Outcome::Unknown => self.fail(now),
            Outcome::Done | Outcome::Overtaken | Outcome::Withdrawn => self.refused = None,
        }
    }

    fn fail(&mut self, now: Instant) {
        self.counts.failed += 1;
        let (count, _) = self.refused.unwrap_or((0, now));
        let pause = (AGAIN * (1 << count.min(6))).min(MOST_AGAIN);
        self.refused = Some((count.saturating_add(1), now + pause));
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
        self.journal.groups.retain(|_, tries| {
            tries.retain(|at| since(*at, wall) < DAY);
            !tries.is_empty()
        });
        self.journal.lost.take_if(|at| since(*at, wall) >= DAY);
    }
}

/// Takes in how EC2 dates the stop. Of one of which the answer was lost that is the only
/// sign that it is ours, and the only time that our clock is compared with EC2's.
fn date(stop: &mut Stop, machine: &Machine) {
    let near = |told: Timestamp| told.duration_since(stop.asked).unsigned_abs() <= SAME_STOP;
    stop.confirmed |= machine.told.is_some_and(near);
    if stop.confirmed {
        stop.told = stop.told.or(machine.told);
    }
}

/// Whether an instance that is stopped was stopped by us, and neither started since nor
/// told to stop once more.
fn is_ours(stop: &Stop, machine: &Machine) -> bool {
    let same = machine.told.is_none() || machine.told == stop.told;
    stop.confirmed && same && machine.launched == Some(stop.launched)
}

/// How long ago this was; nothing if it is in the future.
fn since(then: Timestamp, wall: Timestamp) -> Duration {
    Duration::try_from(wall.duration_since(then)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
