//! A peer's part in handshakes: what begins one, what answers one, what ends one.

use boringtun::noise::TunnResult;
use boringtun::noise::errors::WireGuardError;

use super::{Answers, Context, Peer, Role, receiver_at};
use crate::counters::Counter;
use crate::ecn::Ecn;
use crate::handshake::INITIATION;
use crate::path::Path;

/// Only empty packets ever get into boringtun's queue.
const MAX_QUEUED_BY_BORINGTUN: usize = INITIATION;

impl Peer {
    /// Takes an initiation or a response whose MACs are verified.
    pub(crate) fn handshake(&mut self, from: Path, message: &[u8], context: &mut Context<'_>) {
        let is_initiation = message.len() == INITIATION;
        if is_initiation && !self.may_answer(context.now) {
            context.counters.count(Counter::HandshakeRate);
            return;
        }
        self.is_deadline_stale = true;
        self.run_timers(context);
        let place = if is_initiation {
            self.answer(from, message, context)
        } else {
            self.complete(from, message, context)
        };
        let Some(place) = place else {
            context.counters.count(Counter::HandshakeFailed);
            return;
        };
        self.pending = None;
        self.drain_boringtun(place, context);
        self.flush(context);
    }

    /// Answers an initiation, and says where the keys are that took it. The answer
    /// goes to where the initiation came from, and nothing else does until the
    /// initiator has shown that it got the answer.
    fn answer(&mut self, from: Path, message: &[u8], context: &mut Context<'_>) -> Option<usize> {
        let now = context.now;
        let mut taken = None;
        for place in self.keyring.answering(self.unused.is_some()) {
            self.keyring.move_clock(place);
            self.keyring.save_session(place, now);
            let room = context.out.space(INITIATION);
            let keys = self.keyring.at(place)?;
            let TunnResult::WriteToNetwork(reply) =
                keys.tunn.decapsulate(Some(from.remote.ip()), message, room)
            else {
                // The keys that worked know best what is a replay.
                break;
            };
            let length = reply.len();
            keys.answered(reply, now);
            self.stats.add_sent(length);
            context.out.commit(length, from.into());
            taken.get_or_insert(place);
        }
        if taken.is_some() {
            self.stats.add_received(message.len());
            let before = self.unused.map_or(0, |unused| unused.in_a_row);
            self.unused = Some(Answers {
                at: now,
                in_a_row: before.saturating_add(1),
            });
            self.last_attempt = Some(now);
        }
        taken
    }

    /// Takes the response to an initiation of ours, and says where the keys are that
    /// it is for.
    fn complete(&mut self, from: Path, message: &[u8], context: &mut Context<'_>) -> Option<usize> {
        let receiver = receiver_at(message, 8)?;
        let place = self.keyring.find(receiver)?;
        self.keyring.move_clock(place);
        let room = context.out.space(INITIATION);
        let keys = self.keyring.at(place)?;
        let TunnResult::WriteToNetwork(reply) =
            keys.tunn.decapsulate(Some(from.remote.ip()), message, room)
        else {
            return None;
        };
        let length = reply.len();
        keys.completed(receiver, context.now);
        self.keyring.confirm(place, context.now);
        // boringtun's reply is the keepalive that confirms the session.
        self.heard(from, message.len());
        self.emit(length, Ecn::NOT_ECT, context);
        self.established(Role::Initiator, context.now, context.counters);
        Some(place)
    }

    /// Takes a cookie; our next try carries it.
    pub(crate) fn cookie(&mut self, message: &[u8]) -> bool {
        let mut room = [0; INITIATION];
        let place = receiver_at(message, 4).and_then(|receiver| self.keyring.find(receiver));
        place
            .and_then(|place| self.keyring.at(place))
            .is_some_and(|keys| {
                matches!(
                    keys.tunn.decapsulate(None, message, &mut room),
                    TunnResult::Done
                )
            })
    }

    /// Whether the peer waits for a response to this index of ours.
    pub(crate) fn awaits_response(&self, receiver: u32) -> bool {
        self.keyring.awaits_response(receiver)
    }

    /// Begins a handshake.
    pub(crate) fn start_handshake(&mut self, context: &mut Context<'_>) {
        self.is_deadline_stale = true;
        if self.path.is_none() {
            return;
        }
        self.run_timers(context);
        if self.pending != Some(context.now) {
            self.initiate(context);
        }
    }

    /// Sends an initiation, whatever is under way. boringtun's clock was moved.
    fn initiate(&mut self, context: &mut Context<'_>) {
        let Some(keys) = self.keyring.trying() else {
            return;
        };
        self.last_attempt = Some(context.now);
        let room = context.out.space(INITIATION);
        if let TunnResult::WriteToNetwork(message) =
            keys.tunn.format_handshake_initiation(room, true)
        {
            let length = message.len();
            self.emit(length, Ecn::NOT_ECT, context);
        }
    }

    /// boringtun's timers. It repeats a handshake without an answer every 5 s,
    /// gives up after 90 s (then [`Self::wants_session`] begins anew), drops
    /// sessions after 180 s.
    pub(super) fn run_timers(&mut self, context: &mut Context<'_>) {
        let Some(keys) = self.keyring.trying() else {
            return;
        };
        let room = context.out.space(INITIATION);
        let due = match keys.run_timers(room) {
            TunnResult::WriteToNetwork(message) => Some(message.len()),
            TunnResult::Err(WireGuardError::ConnectionExpired) if !self.has_expired => {
                self.has_expired = true;
                // What waited for an answer for 90 s is stale, and a new packet begins
                // anew. But it also expires of silence, and may be told so only now
                // that a packet is there.
                if self.pending.take().is_some() {
                    self.queue.clear();
                }
                None
            }
            _ => None,
        };
        self.is_deadline_stale |= keys.refresh();
        match due {
            // What had no answer had perhaps the wrong key.
            Some(INITIATION) if self.pending.is_some() && self.keyring.try_other() => {
                self.initiate(context);
            }
            Some(length) => self.emit(length, Ecn::NOT_ECT, context),
            None => {}
        }
    }

    /// Calls until done, as boringtun asks: a keepalive may have got into its
    /// queue at the moment when a session ended.
    fn drain_boringtun(&mut self, place: usize, context: &mut Context<'_>) {
        while self.keyring.has_session()
            && let Some(keys) = self.keyring.at(place)
            && let TunnResult::WriteToNetwork(message) =
                keys.tunn
                    .decapsulate(None, &[], context.out.space(MAX_QUEUED_BY_BORINGTUN))
        {
            let length = message.len();
            self.emit(length, Ecn::NOT_ECT, context);
        }
    }
}
