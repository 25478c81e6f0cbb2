//! When a peer must be ticked, and when it may try what again. Everything here only
//! reads the peer, or notes that its deadline may have moved.

use std::time::{Duration, Instant};

use super::{
    ACTIVE_TICK, ANSWERS, CLOCK_SLACK, KEEPALIVE_TIMEOUT, Peer, REJECT_AFTER_TIME,
    REKEY_AFTER_TIME, REKEY_TIMEOUT, Role,
};

impl Peer {
    /// When the peer must be ticked next, if ever. Anything but a tick may move it.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.keyring.is_empty() {
            return None;
        }
        let attempt = self.needs_session().then(|| self.next_attempt(now));
        let wanted = if self.keyring.has_session() {
            [
                attempt,
                self.keepalive_at(),
                self.keepalive_due,
                self.answer_due,
                self.renewal_at().map(|at| at.max(self.next_attempt(now))),
                self.renewal_by_boringtun(now),
            ]
            .into_iter()
            .flatten()
            .min()
        } else {
            attempt
        };
        [
            // What waits in the worker's line has its turn without a tick.
            wanted.filter(|_| !self.is_starting),
            self.pending.map(|at| at + self.retry_after()),
            self.keyring.next_end(),
            self.active_tick,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The deadline, where it may be another than the last one told.
    pub(crate) fn new_deadline(&mut self, now: Instant) -> Option<Option<Instant>> {
        std::mem::take(&mut self.is_deadline_stale).then(|| self.deadline(now))
    }

    /// Data has moved.
    pub(super) fn stay_active(&mut self, now: Instant) {
        if self.active_tick.is_none() {
            self.active_tick = Some(now + ACTIVE_TICK);
            self.is_deadline_stale = true;
        }
    }

    /// When the persistent keepalive is to be sent.
    pub(super) fn keepalive_at(&self) -> Option<Instant> {
        let interval = self.keepalive.filter(|_| self.path.is_some())?;
        let last = self
            .last_sent
            .or(self.established.map(|(since, _)| since))?;
        Some(last + interval)
    }

    /// When we renew a session that a persistent keepalive keeps in use: boringtun
    /// does it only when data went through it.
    pub(super) fn renewal_at(&self) -> Option<Instant> {
        match self.established {
            Some((since, Role::Initiator)) if self.keepalive.is_some() => {
                Some(since + REKEY_AFTER_TIME)
            }
            _ => None,
        }
    }

    /// When boringtun's own rules may find that data went through an old session:
    /// sent after two minutes, received shortly before its end. What comes in
    /// between is met by the ticks of an active peer.
    pub(super) fn renewal_by_boringtun(&self, now: Instant) -> Option<Instant> {
        let (since, Role::Initiator) = self.established? else {
            return None;
        };
        [
            REKEY_AFTER_TIME,
            REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT,
        ]
        .into_iter()
        .map(|age| since + age + CLOCK_SLACK)
        .find(|at| *at > now)
    }

    /// Whether an initiation may be answered: an honest initiator that does not
    /// use the session asks again after 5 s, or at once after a restart. Whoever
    /// held back a number of a peer's initiations, and lets them all go, would
    /// else drive the session in use out of boringtun's ring.
    pub(super) fn may_answer(&self, now: Instant) -> bool {
        self.unused.is_none_or(|unused| {
            unused.in_a_row < ANSWERS || now.duration_since(unused.at) >= REKEY_TIMEOUT
        })
    }

    pub(super) fn may_attempt(&self, now: Instant) -> bool {
        now >= self.next_attempt(now)
    }

    /// When the protocol lets us try again, or `now`.
    pub(super) fn next_attempt(&self, now: Instant) -> Instant {
        let Some(last) = self.last_attempt else {
            return now;
        };
        let mut wait = REKEY_TIMEOUT;
        if self.has_expired {
            // Peers that gave up at one moment (a hub was away) do not all come
            // back at one moment: each has its own place in a second.
            wait += self.spread(1000);
        }
        now.max(last + wait)
    }

    /// When boringtun finds that an initiation has no answer: peers that lost
    /// theirs at one moment do not all repeat them at one moment (WireGuard paper,
    /// section 6.1: a jitter of up to a third of a second).
    pub(super) fn retry_after(&self) -> Duration {
        REKEY_TIMEOUT + CLOCK_SLACK + self.spread(333)
    }

    /// The peer's place in so many milliseconds.
    pub(super) fn spread(&self, milliseconds: u32) -> Duration {
        Duration::from_millis((self.index.bits().wrapping_mul(37) % milliseconds).into())
    }
}
