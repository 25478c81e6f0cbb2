//! One sibling, as this spoke sees it: what it says, whether it answers, and how far
//! its silence is to be believed.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use privnet_model::health::{Condition, HealthReport};
use privnet_model::id::{InstanceId, InterfaceId, RouteTableId, Zone};
use privnet_model::vpc;
use serde::{Deserialize, Serialize};

use super::Remembered;
use super::own::{CALM, HOLD};

/// So many questions in a row without an answer are a loss,
const LOST: u32 = 3;
/// if there was none for so long, however fast they are asked.
const SILENCE: Duration = Duration::from_millis(2500);
/// Who says that it is starting is given so long from when it said last that it was
/// well: a restart takes less, and what it served is back sooner than EC2 could move it.
const STARTING: Duration = Duration::from_millis(3500);
/// How much longer than usual one must be silent that was taken for lost by mistake.
const DOUBT: Duration = Duration::from_secs(5);
/// The longest that this grows to, doubled with each mistake.
const MOST_DOUBT: Duration = Duration::from_secs(600);
/// What only others hear comes up to so much later, and may be lost twice on its way.
const RELAYED: Duration = Duration::from_secs(1);
/// Who is heard for so many times that, or ten minutes, is doubted no more.
const SETTLED: u32 = 12;
/// Reports tell whole seconds, and take some time on the way.
const SKEW: Duration = Duration::from_secs(2);

/// How a sibling is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum SiblingState {
    /// It has not answered yet, and not failed to for long enough.
    Unheard,
    /// It can carry traffic.
    Well,
    /// It says that it cannot.
    Sick {
        /// Why.
        why: String,
    },
    /// It says that it has just started, and cannot yet.
    Starting {
        /// Why not.
        why: String,
    },
    /// It says that it is about to stop.
    Leaving,
    /// It does not answer.
    Lost,
}

impl fmt::Display for SiblingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unheard => f.pad("unheard"),
            Self::Well => f.pad("well"),
            Self::Sick { why } => f.pad(&format!("sick: {why}")),
            Self::Starting { why } => f.pad(&format!("starting: {why}")),
            Self::Leaving => f.pad("leaving"),
            Self::Lost => f.pad("lost"),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Sibling {
    pub(super) instance: InstanceId,
    pub(super) zone: Zone,
    pub(super) launched: Timestamp,
    pub(super) interface: InterfaceId,
    pub(super) address: IpAddr,
    /// Since when EC2 does not say any more that it runs.
    pub(super) gone: Option<Instant>,
    /// Its home tables by our own config, until it says so itself.
    pub(super) guess: BTreeSet<RouteTableId>,
    /// Whether a route to it is a black hole.
    pub(super) blackhole: bool,
    /// Questions without an answer since the last one that had one.
    unanswered: u32,
    /// Whether the last question that counts had an answer.
    sure: bool,
    /// Questions from before this say nothing (any more).
    since: Instant,
    report: Option<HealthReport>,
    /// When it last said that it is well, or could have said so for the first time.
    said_well: Instant,
    /// Since when it says that its tunnel is down.
    lacks_tunnel_since: Option<Instant>,
    /// When it was asked last that answered that it is well, and nothing else since.
    heard_well: Option<Instant>,
    /// When it last showed that it lives: by an answer, or by taking a route.
    life: Option<Instant>,
    /// The same of another, as that one says, while this spoke hears nothing: it was well then.
    vouched: Option<Instant>,
    /// When it was last seen to take a route.
    claimed: Option<Instant>,
    lost: bool,
    bad_since: Option<Instant>,
    /// When we took a route from it because it was lost.
    taken: Option<Instant>,
    /// How often it was taken for lost by mistake, until it has been heard for long.
    mistakes: u32,
    /// Since when it is heard, with no silence between that would be a loss.
    heard_since: Option<Instant>,
    /// When it last asked how we are: signed, and so by itself.
    asked_us: Option<Instant>,
    /// When its silence, or ours to it, was last shown to be the network's.
    contradicted: Option<Instant>,
}

impl Sibling {
    pub(super) fn new(found: &vpc::Sibling, now: Instant) -> Self {
        Self {
            instance: found.instance.clone(),
            zone: found.zone.clone(),
            launched: found.launched,
            interface: found.interface.clone(),
            address: found.address,
            gone: None,
            guess: BTreeSet::new(),
            blackhole: false,
            unanswered: 0,
            sure: false,
            since: now,
            report: None,
            said_well: now,
            lacks_tunnel_since: None,
            heard_well: None,
            life: None,
            vouched: None,
            claimed: None,
            lost: false,
            bad_since: None,
            taken: None,
            mistakes: 0,
            heard_since: None,
            asked_us: None,
            contradicted: None,
        }
    }

    pub(super) fn remembered(kept: &Remembered, now: Instant) -> Self {
        let found = vpc::Sibling {
            instance: kept.instance.clone(),
            launched: kept.launched,
            zone: kept.zone.clone(),
            address: kept.address,
            interface: kept.interface.clone(),
            instance_profile: None,
            tags: Default::default(),
        };
        Self {
            gone: Some(now),
            ..Self::new(&found, now)
        }
    }

    /// EC2 describes it (again): one that started anew begins anew.
    pub(super) fn found(&mut self, found: &vpc::Sibling, now: Instant) {
        let same = self.launched == found.launched
            && self.interface == found.interface
            && self.address == found.address;
        match same {
            true => {
                self.zone = found.zone.clone();
            }
            false => *self = Self::new(found, now),
        }
    }

    pub(super) fn unanswered(&mut self, asked: Instant, now: Instant) {
        if asked >= self.since {
            self.unanswered = self.unanswered.saturating_add(1);
            self.sure = false;
        }
        self.judge(now);
    }

    pub(super) fn answered(&mut self, asked: Instant, report: HealthReport, now: Instant) {
        if asked < self.since {
            return;
        }
        self.since = asked;
        self.unanswered = 0;
        self.sure = true;
        if let Some(taken) = self.taken.take()
            && now - taken + SKEW < report.well_for
        {
            // It was well when we took its route: the way between us is broken, not it.
            self.mistake(now);
        }
        self.heard_well = None;
        if report.condition == Condition::Well {
            self.said_well = now;
            self.heard_well = Some(asked);
        }
        match report.has_tunnel {
            true => self.lacks_tunnel_since = None,
            false => drop(self.lacks_tunnel_since.get_or_insert(now)),
        }
        self.report = Some(report);
        if self.life.is_none_or(|life| now - life > SILENCE) {
            self.heard_since = Some(now);
        }
        self.life = Some(now);
        self.lost = false;
        let settled = (self.doubt() * SETTLED).min(CALM);
        if self.heard_since.is_some_and(|since| now - since > settled) {
            self.mistakes = 0;
        }
        self.judge(now);
    }

    /// It took a route then, or was given one by somebody who hears it.
    pub(super) fn shows_life(&mut self, then: Instant, now: Instant) {
        self.life = self.life.max(Some(then));
        self.lost = false;
        // Another may have vouched for it meanwhile.
        if self.taken.take().is_some() {
            self.mistake(now);
        }
        self.judge(now);
    }

    /// How long ago it was asked that answered that it is well, if it is to be heard.
    pub(super) fn heard_well(&self, now: Instant) -> Option<Duration> {
        let ago = now.saturating_duration_since(self.heard_well?);
        (ago < SILENCE).then_some(ago)
    }

    /// It was well then, as another says that it told it.
    pub(super) fn vouched_for(&mut self, then: Instant, now: Instant) {
        let fresh = now.saturating_duration_since(then) < SILENCE;
        if self.unanswered == 0 || !fresh || self.vouched.max(Some(self.heard())) >= Some(then) {
            return;
        }
        self.vouched = Some(then);
        // Whether it was wrong to say so, its own answer tells some time.
        self.lost = false;
        if self.is_only_unheard() {
            // The way between us is broken, not it.
            self.contradicted = Some(now);
        }
        self.judge(now);
    }

    /// Whether another heard it say that it is well when it had been silent to us for so long
    /// that it would be lost.
    pub(super) fn is_only_unheard(&self) -> bool {
        let missed = self.unanswered > 0 && !self.lost;
        missed
            && self
                .vouched
                .is_some_and(|vouched| vouched >= self.heard() + SILENCE)
    }

    /// When we heard it last, or began to listen.
    fn heard(&self) -> Instant {
        self.life.map_or(self.since, |life| life.max(self.since))
    }

    /// We took a route from it because it was lost.
    pub(super) fn taken(&mut self, now: Instant) {
        self.taken = Some(now);
    }

    /// It asked how we are. Whether we hear its answers is another matter.
    pub(super) fn asks(&mut self, now: Instant) {
        self.asked_us = Some(now);
    }

    /// It took a route from us though we were well: it does not hear us.
    pub(super) fn robs(&mut self, now: Instant) {
        self.contradicted = Some(now);
    }

    fn mistake(&mut self, now: Instant) {
        self.contradicted = Some(now);
        self.mistakes = self.mistakes.saturating_add(1);
    }

    fn doubt(&self) -> Duration {
        match self.mistakes {
            0 => Duration::ZERO,
            // 5 s × 2^7 is more than the most.
            mistakes => (DOUBT * (1 << (mistakes - 1).min(7))).min(MOST_DOUBT),
        }
    }

    pub(super) fn judge(&mut self, now: Instant) {
        // A black hole leaves no doubt.
        let doubt = match self.blackhole {
            true => Duration::ZERO,
            false => self.doubt(),
        };
        let life = self
            .vouched
            .map_or(self.heard(), |then| then.max(self.heard()));
        let relayed = match self.is_only_unheard() {
            true => RELAYED,
            false => Duration::ZERO,
        };
        self.lost |= self.unanswered >= LOST && now - life >= SILENCE + doubt + relayed;
        let condition = self.report.as_ref().map(|report| &report.condition);
        let sick = match condition {
            None | Some(Condition::Well) => false,
            Some(Condition::Starting { .. }) => now - self.said_well >= STARTING,
            Some(Condition::Sick { .. } | Condition::Leaving) => true,
        };
        // Only who is well takes a route: it was not any more what it had said before.
        let outdated = self.claimed.max(self.vouched) >= Some(self.since);
        match self.lost || (sick && !outdated) {
            true => {
                self.bad_since.get_or_insert(now);
            }
            false => self.bad_since = None,
        }
    }

    /// Whether an answer is missing.
    pub(super) fn is_missed(&self) -> bool {
        self.unanswered > 0
    }

    /// We were away ourselves: what we did not hear says nothing.
    pub(super) fn restart(&mut self, now: Instant) {
        self.unanswered = 0;
        self.sure = false;
        self.since = now;
        self.said_well = now;
        self.lost = false;
        self.taken = None;
        self.judge(now);
    }

    /// It was seen to take a route.
    pub(super) fn claims(&mut self, now: Instant) {
        self.claimed = Some(now);
        self.judge(now);
    }

    /// Whether an answer is missing, or says that it is not well yet.
    pub(super) fn is_suspect(&self) -> bool {
        let starting = matches!(self.state(), SiblingState::Starting { .. });
        let missed = self.unanswered > 0 && !self.is_only_unheard();
        (missed || starting) && self.bad_since.is_none()
    }

    /// Since when it cannot be relied on.
    pub(super) fn bad_since(&self) -> Option<Instant> {
        self.bad_since
    }

    pub(super) fn state(&self) -> SiblingState {
        match self.report.as_ref().map(|report| &report.condition) {
            _ if self.lost => SiblingState::Lost,
            // What it told us is older than what it told another.
            _ if self.is_only_unheard() => SiblingState::Well,
            None => SiblingState::Unheard,
            Some(Condition::Well) => SiblingState::Well,
            Some(Condition::Sick { why }) => SiblingState::Sick { why: why.clone() },
            Some(Condition::Starting { why }) => SiblingState::Starting { why: why.clone() },
            Some(Condition::Leaving) => SiblingState::Leaving,
        }
    }

    pub(super) fn is_well(&self) -> bool {
        let report = self.report.as_ref();
        let well = report.is_some_and(|report| report.condition == Condition::Well);
        well && !self.lost
    }

    /// Whether it is well beyond doubt: it answered the last question.
    pub(super) fn is_sure(&self) -> bool {
        self.is_well() && self.sure
    }

    /// Whether it could take a route.
    pub(super) fn can_take(&self) -> bool {
        self.is_well()
            && self
                .report
                .as_ref()
                .is_some_and(|report| report.changes_routes)
    }

    /// Since when its tunnel is down, if it is well otherwise.
    pub(super) fn lacks_tunnel_since(&self) -> Option<Instant> {
        self.lacks_tunnel_since.filter(|_| self.is_well())
    }

    /// Since when it cannot carry everything.
    pub(super) fn less_than_well_since(&self) -> Option<Instant> {
        self.bad_since.or_else(|| self.lacks_tunnel_since())
    }

    /// When it was last known to be well: it said so, or took a route, which nobody does
    /// who is not.
    pub(super) fn last_well(&self) -> Instant {
        let told = self.claimed.max(self.vouched);
        told.map_or(self.said_well, |told| told.max(self.said_well))
    }

    /// Whether it has been well for long, when it said so last.
    pub(super) fn is_settled(&self) -> bool {
        self.report
            .as_ref()
            .is_some_and(|report| report.well_for >= HOLD)
    }

    pub(super) fn is_home(&self, table: &RouteTableId) -> bool {
        match &self.report {
            Some(report) => report.tables.contains(table),
            None => self.guess.contains(table),
        }
    }

    /// Whether it says that exactly these tables are its home.
    pub(super) fn has_homes(&self, tables: &BTreeSet<RouteTableId>) -> bool {
        let report = self.report.as_ref();
        report.is_some_and(|report| report.tables == *tables)
    }

    /// The same of these or some of them: it may not have seen the others yet.
    pub(super) fn has_homes_within(&self, tables: &BTreeSet<RouteTableId>) -> bool {
        let report = self.report.as_ref();
        report.is_some_and(|report| report.tables.is_subset(tables))
    }

    /// Since when nothing at all was heard or seen of it.
    pub(super) fn silent_since(&self) -> Instant {
        let signs = [self.life, self.asked_us, self.claimed, self.vouched];
        let last = signs.into_iter().flatten().max();
        last.map_or(self.since, |last| last.max(self.since))
    }

    /// Whether it has said how it is since it was launched.
    pub(super) fn was_heard(&self) -> bool {
        self.report.is_some()
    }

    /// Whether that it is about to stop was the last that it said.
    pub(super) fn has_left(&self) -> bool {
        let report = self.report.as_ref();
        report.is_some_and(|report| report.condition == Condition::Leaving)
    }

    pub(super) fn contradicted(&self) -> Option<Instant> {
        self.contradicted
    }

    pub(super) fn remember(&self) -> Remembered {
        Remembered {
            instance: self.instance.clone(),
            interface: self.interface.clone(),
            zone: self.zone.clone(),
            launched: self.launched,
            address: self.address,
        }
    }
}
