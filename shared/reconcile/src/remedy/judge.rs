//! What speaks against doing something about a sibling.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use privnet_model::config::spoke::{RemedyConfig, RemedyKind};
use privnet_model::id::InstanceId;
use privnet_model::vpc::{Machine, MachineState};

use super::{BOOT, DAY, DOUBT, MOST_TRIES, PAUSE, Record, Remedy, SETTLE, since};
use crate::takeover::{Outlook, Seen, SiblingState};

/// Why nothing is done about a sibling that is lost, as it fits behind "it is lost:".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// It has not been silent for long enough.
    NotYet,
    /// It said that it would stop.
    Left,
    /// Another spoke stands in for it, or it served nothing.
    NotStoodInFor,
    /// It has never answered: the way to it may be closed.
    NeverHeard,
    /// One of the two was taken for lost by mistake not long ago.
    NetworkInDoubt,
    /// What this spoke did before it cannot know.
    JournalLost,
    /// This spoke is not well, or has not been for long enough.
    OwnHealth,
    /// EC2 does not tell this spoke where the routes lead.
    Blind,
    /// Another sibling is lost or changes.
    OthersFirst,
    /// Something was done about it not long ago.
    TooSoon {
        /// From when on it may be done again.
        until: Timestamp,
    },
    /// Whatever was done did not help.
    GivenUp,
    /// The group was told of so many.
    GroupGivenUp {
        /// The group.
        group: String,
    },
    /// EC2 says that it does not run.
    DoesNotRun(MachineState),
    /// EC2 does not know it as a sibling any more.
    Gone,
    /// It was launched not long ago, by whomever.
    Young,
    /// It is to be restarted, and its Auto Scaling group would replace it for that.
    InGroup {
        /// The group.
        group: String,
    },
    /// It is to be reported to its group, and has none.
    NoGroup,
    /// It is to be restarted, and cannot stop.
    InstanceStore,
    /// It was to be started again, but somebody else has stopped it since.
    StoppedByOthers,
}

impl Obstacle {
    /// Whether it stays until somebody does something about it.
    pub fn needs_people(&self) -> bool {
        match self {
            Self::GivenUp
            | Self::GroupGivenUp { .. }
            | Self::InGroup { .. }
            | Self::NoGroup
            | Self::InstanceStore
            | Self::StoppedByOthers => true,
            Self::NotYet
            | Self::Left
            | Self::NotStoodInFor
            | Self::NeverHeard
            | Self::NetworkInDoubt
            | Self::JournalLost
            | Self::OwnHealth
            | Self::Blind
            | Self::OthersFirst
            | Self::TooSoon { .. }
            | Self::DoesNotRun(_)
            | Self::Gone
            | Self::Young => false,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYet => f.write_str("not for long enough yet"),
            Self::Left => f.write_str("it said that it would stop"),
            Self::NotStoodInFor => f.write_str("this spoke does not stand in for it"),
            Self::NeverHeard => f.write_str("it has not answered since this spoke started"),
            Self::NetworkInDoubt => {
                f.write_str("it may be the network: one of the two was thought lost by mistake")
            }
            Self::JournalLost => f.write_str("this spoke does not know what it did before"),
            Self::OwnHealth => f.write_str("this spoke has not been well itself for as long"),
            Self::Blind => f.write_str("EC2 does not tell where the routes lead"),
            Self::OthersFirst => f.write_str("another sibling is lost, or starts or stops just now"),
            Self::TooSoon { until } => write!(f, "something is done again after {until:.0}"),
            Self::GivenUp => write!(
                f,
                "given up after {MOST_TRIES} remedies: see what is wrong with it, or replace it"
            ),
            Self::GroupGivenUp { group } => write!(
                f,
                "given up after its Auto Scaling group {group} was told of {MOST_TRIES} instances \
                 within a day: see what is wrong with them"
            ),
            Self::DoesNotRun(state) => write!(f, "EC2 says that it is {state}"),
            Self::Gone => f.write_str("EC2 does not describe it as a sibling any more"),
            Self::Young => write!(
                f,
                "it was launched less than {} minutes ago",
                PAUSE.as_secs() / 60
            ),
            Self::InGroup { group } => write!(
                f,
                "its Auto Scaling group {group} would replace it if it were stopped: set \
                 routes.remedy = \"unhealthy\""
            ),
            Self::NoGroup => f.write_str(
                "no Auto Scaling group has it: set routes.remedy = \"restart\", or attach it to one",
            ),
            Self::InstanceStore => f.write_str(
                "its root is an instance store, so that it cannot be stopped: replace it",
            ),
            Self::StoppedByOthers => f.write_str(
                "it was to be started again, but somebody else has stopped it since: start it \
                 when it may run",
            ),
        }
    }
}

impl Remedy {
    /// Whose turn it is, if nothing but EC2 could still speak against it. Notes why it is
    /// nobody else's.
    pub(super) fn judge_all(&mut self, outlook: &Outlook, wall: Timestamp) -> Vec<InstanceId> {
        let mut chosen = Vec::new();
        let lost = |id: &InstanceId| {
            let seen = outlook.siblings.get(id);
            seen.is_some_and(|seen| seen.state == SiblingState::Lost)
        };
        self.obstacles
            .retain(|id, why| lost(id) || *why == Obstacle::StoppedByOthers);
        for (id, seen) in outlook.siblings.iter().filter(|(id, _)| lost(id)) {
            match self.judge(id, seen, outlook, wall) {
                Err(obstacle) => drop(self.obstacles.insert(id.clone(), obstacle)),
                Ok(()) => chosen.push(id.clone()),
            }
        }
        for (id, seen) in &outlook.siblings {
            if seen.state == SiblingState::Well {
                self.obstacles.remove(id);
            }
        }
        chosen
    }

    fn judge(
        &self,
        id: &InstanceId,
        seen: &Seen,
        outlook: &Outlook,
        wall: Timestamp,
    ) -> Result<(), Obstacle> {
        let config = self.config.ok_or(Obstacle::NotYet)?;
        self.is_beyond_doubt(id, seen, outlook, wall)?;
        let record = self.journal.records.get(id);
        let tries = record.map_or(&[][..], |record| &record.tries);
        // One that runs because we had it started was heard before.
        let ours = record.is_some_and(|record| record.launched == Some(seen.launched));
        if !seen.heard && !ours {
            return Err(Obstacle::NeverHeard);
        }
        // Others see the same ones lost, and have their turns by the same order.
        let before = self.lost.range(..id).count();
        let turn = config.after + SETTLE * u32::try_from(before).unwrap_or(u32::MAX);
        if seen.silent < turn || self.is_busy_with_another(id, wall) {
            return Err(Obstacle::OthersFirst);
        }
        let Some(last) = tries.last() else {
            return Ok(());
        };
        let count = u32::try_from(tries.len()).unwrap_or(u32::MAX);
        if count >= MOST_TRIES {
            return Err(Obstacle::GivenUp);
        }
        let until = *last + PAUSE * (1 << (count - 1));
        match wall < until {
            true => Err(Obstacle::TooSoon { until }),
            false => Ok(()),
        }
    }

    /// Whether it is lost, by all that this spoke sees: what must still be so when EC2 is
    /// asked to do something about it.
    pub(super) fn is_beyond_doubt(
        &self,
        id: &InstanceId,
        seen: &Seen,
        outlook: &Outlook,
        wall: Timestamp,
    ) -> Result<(), Obstacle> {
        let config = self.config.ok_or(Obstacle::NotYet)?;
        let record = self.journal.records.get(id);
        let doubted = record.and_then(|record| record.contradicted);
        let recent = |at: Option<Timestamp>| at.is_some_and(|at| since(at, wall) < DOUBT);
        if seen.left {
            return Err(Obstacle::Left);
        }
        if !seen.stood_in_for {
            return Err(Obstacle::NotStoodInFor);
        }
        if recent(doubted) {
            return Err(Obstacle::NetworkInDoubt);
        }
        if recent(self.journal.lost) {
            return Err(Obstacle::JournalLost);
        }
        if seen.state != SiblingState::Lost || seen.silent < config.after {
            return Err(Obstacle::NotYet);
        }
        if outlook.leaving || outlook.well_for < config.after {
            return Err(Obstacle::OwnHealth);
        }
        match outlook.sees {
            true => Ok(()),
            false => Err(Obstacle::Blind),
        }
    }

    /// Whether this spoke did something about another, which may not have worked yet.
    fn is_busy_with_another(&self, id: &InstanceId, wall: Timestamp) -> bool {
        let is_recent = |record: &Record| {
            let last = record.tries.last();
            record.stop.is_some() || last.is_some_and(|last| since(*last, wall) < SETTLE)
        };
        let mut others = self
            .journal
            .records
            .iter()
            .filter(|(other, _)| *other != id);
        others.any(|(other, record)| is_recent(record) && !self.well.contains_key(other))
    }

    /// What EC2 says of it and of the others: when it was launched, and which group is to be
    /// told.
    pub(super) fn judge_machine(
        &self,
        id: &InstanceId,
        config: &RemedyConfig,
        machines: &BTreeMap<InstanceId, Machine>,
        outlook: &Outlook,
        wall: Timestamp,
    ) -> Result<(Timestamp, Option<String>), Obstacle> {
        let machine = machines.get(id).ok_or(Obstacle::Gone)?;
        if machine.state != MachineState::Running {
            return Err(Obstacle::DoesNotRun(machine.state));
        }
        // That another spoke had it started or replaced only EC2 remembers for all.
        let launched = machine.launched.filter(|at| since(*at, wall) >= PAUSE);
        let launched = launched.ok_or(Obstacle::Young)?;
        let mut others = machines.iter().filter(|(other, _)| *other != id);
        if others.any(|(other, machine)| self.changes(other, machine, outlook, wall)) {
            return Err(Obstacle::OthersFirst);
        }
        match (config.kind, machine.group.clone()) {
            (RemedyKind::Restart, Some(group)) => Err(Obstacle::InGroup { group }),
            (RemedyKind::Restart, None) if machine.instance_store => Err(Obstacle::InstanceStore),
            (RemedyKind::Restart, None) => Ok((launched, None)),
            (RemedyKind::Unhealthy, None) => Err(Obstacle::NoGroup),
            (RemedyKind::Unhealthy, Some(group)) => {
                let tries = self.journal.groups.get(&group).into_iter().flatten();
                let tries = tries.filter(|at| since(**at, wall) < DAY);
                match tries.count() < MOST_TRIES as usize {
                    true => Ok((launched, Some(group))),
                    false => Err(Obstacle::GroupGivenUp { group }),
                }
            }
        }
    }

    /// Whether somebody does something to this instance, or did just now.
    fn changes(
        &self,
        id: &InstanceId,
        machine: &Machine,
        outlook: &Outlook,
        wall: Timestamp,
    ) -> bool {
        let well = || {
            let seen = outlook.siblings.get(id);
            *id == self.me || seen.is_some_and(|seen| seen.state == SiblingState::Well)
        };
        let told = || machine.told.is_some_and(|at| since(at, wall) < SETTLE);
        match machine.state {
            MachineState::Pending | MachineState::Stopping | MachineState::Unclear => true,
            MachineState::Stopped | MachineState::Terminated => told(),
            MachineState::Running => {
                let young = machine.launched.is_none_or(|at| since(at, wall) < BOOT);
                young && !well()
            }
        }
    }
}
