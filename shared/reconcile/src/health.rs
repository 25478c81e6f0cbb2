//! How gateways answer the echoes that the hub sends through their own tunnels. A
//! pure state machine: it says which probe is due, and is told what came back.
//!
//! Only gateways of sites that have more than one are probed: where there is no
//! alternative, the answer would change nothing.
//!
//! The figures: a second between probes, and a quarter of one as soon as an answer
//! is late; so a gateway that is lost is known to be after 2.5 s, and at least four
//! probes, which leaves half a second of the three to change the routes. That ten
//! answers in a row bring it back, and twice as many each time that it fails
//! again soon, up to five minutes, keeps one that comes and goes from taking the
//! traffic with it. Where no gateway of the site answers, the first that does so three
//! times in a row is better than none.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use privnet_model::status::EspStatus;
use serde::{Deserialize, Serialize};

use crate::fleet::{Fleet, TunnelId};

/// Between two probes.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// Between two probes while an answer is late.
const HURRIED: Duration = Duration::from_millis(250);
/// An answer that took longer is late. (Between the farthest regions it takes 0.4 s.)
const LATE: Duration = Duration::from_millis(500);
/// After so long without any answer a gateway is down.
const SILENCE: Duration = Duration::from_millis(2500);
/// And not before so many probes were lost: a hub that slept itself has sent none.
const LOST: usize = 4;
/// Probes remembered: more than go out in the silence that means "down".
const MOST_WAITING: usize = 16;
/// So many answers in a row bring a gateway back.
const ANSWERS: u32 = 10;
/// After so many it is no worse than one that was never tried.
const BACK: u32 = 3;
/// Five minutes of answers, the most that are asked for.
const MOST_ANSWERS: u32 = 300;
/// Whoever was up for so long before it failed does not flap.
const CALM: Duration = Duration::from_secs(600);

/// How a gateway is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It has not answered for long enough since it is probed, nor failed to.
    Untried,
    /// It answers.
    Up,
    /// It does not answer.
    Down,
    /// It was down and answers again, not for long enough to be up.
    Recovering,
}

impl Health {
    /// Whether it was down last, and is not up again: it may answer now and then.
    pub fn has_failed(self) -> bool {
        matches!(self, Self::Down | Self::Recovering)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Untried => "untried",
            Self::Up => "up",
            Self::Down => "down",
            Self::Recovering => "recovering",
        })
    }
}

/// One echo request to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Through which tunnel.
    pub tunnel: TunnelId,
    /// To which address.
    pub address: IpAddr,
    /// Its number: the answer has the same.
    pub sequence: u16,
}

/// A gateway whose health is another now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthChange {
    /// The gateway.
    pub tunnel: TunnelId,
    /// How it was.
    pub from: Health,
    /// How it is.
    pub to: Health,
}

/// All gateways that are probed.
#[derive(Debug, Clone, Default)]
pub struct Probes {
    gateways: BTreeMap<TunnelId, Gateway>,
    by_address: BTreeMap<IpAddr, TunnelId>,
    health: BTreeMap<TunnelId, Health>,
}

#[derive(Debug, Clone)]
struct Gateway {
    address: IpAddr,
    health: Health,
    /// When it became up or down, whichever was last.
    since: Instant,
    next_probe: Instant,
    sequence: u16,
    /// Probes without an answer, none younger than one that was answered.
    waiting: VecDeque<Sent>,
    /// When it answered last; before that, when the first probe went out.
    heard: Option<Instant>,
    /// Answers in a row, and how many are asked for.
    answers: u32,
    asked: u32,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    sequence: u16,
    at: Instant,
}

impl Probes {
    /// Takes over who is to be probed, where this does ESP. Gateways that stay keep their
    /// health.
    pub fn watch(&mut self, fleet: &Fleet, esp: Option<EspStatus>, now: Instant) {
        let mut before = std::mem::take(&mut self.gateways);
        for (id, address) in fleet.probed(esp) {
            let known = before.remove(id).filter(|known| known.address == address);
            let gateway = known.unwrap_or_else(|| Gateway::new(address, now));
            self.gateways.insert(id.clone(), gateway);
        }
        self.by_address = self
            .gateways
            .iter()
            .map(|(id, gateway)| (gateway.address, id.clone()))
            .collect();
        self.health = self
            .gateways
            .iter()
            .map(|(id, gateway)| (id.clone(), gateway.health))
            .collect();
    }

    /// The probes to send now.
    pub fn due(&mut self, now: Instant) -> Vec<Probe> {
        let mut due = Vec::new();
        for (id, gateway) in &mut self.gateways {
            if gateway.next_probe <= now {
                due.push(Probe {
                    tunnel: id.clone(),
                    address: gateway.address,
                    sequence: gateway.send(now),
                });
            }
        }
        due
    }

    /// An answer came, from this address. One that is not to any of the last few
    /// probes is ignored.
    pub fn answered(&mut self, address: IpAddr, sequence: u16, now: Instant) {
        let id = self.by_address.get(&address);
        if let Some(gateway) = id.and_then(|id| self.gateways.get_mut(id)) {
            gateway.answered(sequence, now);
        }
    }

    /// Judges. To be called at least four times a second; whoever is in the answer
    /// needs a new decision.
    pub fn judge(&mut self, now: Instant) -> Vec<HealthChange> {
        let mut changes = Vec::new();
        for (id, gateway) in &mut self.gateways {
            let from = gateway.health;
            gateway.judge(now);
            if gateway.health != from {
                self.health.insert(id.clone(), gateway.health);
                changes.push(HealthChange {
                    tunnel: id.clone(),
                    from,
                    to: gateway.health,
                });
            }
        }
        changes
    }

    /// How every gateway is, for the decision.
    pub fn health(&self) -> &BTreeMap<TunnelId, Health> {
        &self.health
    }

    /// When the next probe is due; `None` when there is nobody to probe.
    pub fn next(&self) -> Option<Instant> {
        self.gateways
            .values()
            .map(|gateway| gateway.next_probe)
            .min()
    }

    /// How many answers in a row a gateway has given, of how many that it takes.
    pub fn progress(&self, tunnel: &TunnelId) -> Option<(u32, u32)> {
        let gateway = self.gateways.get(tunnel)?;
        Some((gateway.answers.min(gateway.asked), gateway.asked))
    }
}

impl Gateway {
    fn new(address: IpAddr, now: Instant) -> Self {
        Self {
            address,
            health: Health::Untried,
            since: now,
            next_probe: now,
            sequence: 0,
            waiting: VecDeque::new(),
            heard: None,
            answers: 0,
            asked: ANSWERS,
        }
    }

    fn send(&mut self, now: Instant) -> u16 {
        self.heard.get_or_insert(now);
        self.sequence = self.sequence.wrapping_add(1);
        if self.waiting.len() == MOST_WAITING {
            self.waiting.pop_front();
        }
        let sequence = self.sequence;
        self.waiting.push_back(Sent { sequence, at: now });
        let pause = if self.is_late(now) { HURRIED } else { INTERVAL };
        self.next_probe = now + pause;
        sequence
    }

    /// Whether an answer is late that matters: one that is down is asked without hurry.
    fn is_late(&self, now: Instant) -> bool {
        let first = self.waiting.front();
        self.health != Health::Down && first.is_some_and(|first| now - first.at >= LATE)
    }

    fn answered(&mut self, sequence: u16, now: Instant) {
        let mut waiting = self.waiting.iter();
        let Some(position) = waiting.position(|sent| sent.sequence == sequence) else {
            return;
        };
        let broken = self
            .waiting
            .drain(..=position)
            .any(|sent| now - sent.at >= INTERVAL);
        self.answers = if broken { 1 } else { self.answers + 1 };
        self.heard = Some(now);
    }

    fn judge(&mut self, now: Instant) {
        if self.is_late(now) {
            let hurried = self.waiting.back().map(|last| last.at + HURRIED);
            let hurried = hurried.map_or(now, |hurried| hurried.max(now));
            self.next_probe = self.next_probe.min(hurried);
        }
        let silent = self.heard.is_some_and(|heard| now - heard >= SILENCE);
        if silent && self.waiting.len() >= LOST {
            self.answers = 0;
            self.becomes_down(now);
        } else if self.health != Health::Up && self.answers >= self.asked {
            self.health = Health::Up;
            self.since = now;
        } else if self.health == Health::Down && self.answers >= BACK {
            self.health = Health::Recovering;
        }
    }

    fn becomes_down(&mut self, now: Instant) {
        match self.health {
            Health::Down => return,
            Health::Untried | Health::Recovering => {}
            Health::Up if now - self.since < CALM => {
                self.asked = (self.asked * 2).min(MOST_ANSWERS);
            }
            Health::Up => self.asked = ANSWERS,
        }
        self.health = Health::Down;
        self.since = now;
    }
}

#[cfg(test)]
mod tests;
