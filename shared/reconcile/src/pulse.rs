//! Whether somebody answers: numbered probes, what is late, and what is silence. What
//! the hub asks of gateways and what spokes ask of their siblings goes by the same clock.
//!
//! A second between probes, and a quarter of one as soon as an answer is late: who is
//! lost is known to be after 2.5 s, and by at least four probes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Between two probes.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
/// Between two probes while an answer is late.
const HURRIED: Duration = Duration::from_millis(250);
/// An answer that took longer is late. (Between the farthest regions it takes 0.4 s.)
const LATE: Duration = Duration::from_millis(500);
/// So long without any answer is silence.
pub(crate) const SILENCE: Duration = Duration::from_millis(2500);
/// And not before so many probes were lost: who slept himself has sent none.
const LOST: usize = 4;
/// Probes remembered: more than go out before there is silence.
const MOST_WAITING: usize = 16;

/// The probes to one, and its answers.
#[derive(Debug, Clone)]
pub(crate) struct Pulse {
    next: Instant,
    sequence: u16,
    /// Probes without an answer, none younger than one that was answered.
    waiting: VecDeque<Sent>,
    /// When it answered last; before that, when the first probe went out.
    heard: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    sequence: u16,
    at: Instant,
}

impl Pulse {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            next: now,
            sequence: 0,
            waiting: VecDeque::new(),
            heard: None,
        }
    }

    /// When the next probe is due.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// A probe goes out, and this is its number. The next one follows soon if there is
    /// a hurry.
    pub(crate) fn send(&mut self, hurry: bool, now: Instant) -> u16 {
        self.heard.get_or_insert(now);
        self.sequence = self.sequence.wrapping_add(1);
        if self.waiting.len() == MOST_WAITING {
            self.waiting.pop_front();
        }
        let sequence = self.sequence;
        self.waiting.push_back(Sent { sequence, at: now });
        self.next = now + if hurry { HURRIED } else { INTERVAL };
        sequence
    }

    /// An answer came. `None` if it is to none of the last few probes; else whether
    /// the one before it was answered as well.
    pub(crate) fn answered(&mut self, sequence: u16, now: Instant) -> Option<bool> {
        let mut waiting = self.waiting.iter();
        let position = waiting.position(|sent| sent.sequence == sequence)?;
        let broken = self
            .waiting
            .drain(..=position)
            .any(|sent| now - sent.at >= INTERVAL);
        self.heard = Some(now);
        Some(!broken)
    }

    /// Whether an answer is late.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        let first = self.waiting.front();
        first.is_some_and(|first| now - first.at >= LATE)
    }

    /// The next probe is due as soon as one is in a hurry.
    pub(crate) fn hurry(&mut self, now: Instant) {
        let hurried = self.waiting.back().map(|last| last.at + HURRIED);
        let hurried = hurried.map_or(now, |hurried| hurried.max(now));
        self.next = self.next.min(hurried);
    }

    /// Whether it has been silent for so long that it must be lost.
    pub(crate) fn is_silent(&self, now: Instant) -> bool {
        let silent = self.heard.is_some_and(|heard| now - heard >= SILENCE);
        silent && self.waiting.len() >= LOST
    }

    /// Whoever probes was away himself: what was not answered meanwhile says nothing.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.waiting.clear();
        self.heard = None;
        self.next = now;
    }
}
