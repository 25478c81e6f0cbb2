//! One peer: its session, its address, its timers.
//!
//! The ciphers and the handshake are boringtun's; around it stands what it
//! leaves out or gets wrong for a gateway that must never go deaf:
//!
//! - Its clock moves only in `update_timers`, so that is called right before each
//!   handshake step, else a new session would be born old and dropped at once.
//! - It gives up for good after 90 s without an answer, and forgets a peer after
//!   540 s of silence. Here a peer with something to send, or with a persistent
//!   keepalive, starts again for as long as that holds.
//! - Without a session it queues up to 256 packets. Here a few wait in our own
//!   queue, and it is never asked to seal without a session.
//! - Its keepalive and no-answer rules compare times of its own coarse clock, and
//!   miss when two events fall between two ticks. Ours use the worker's clock and
//!   come on top.
//! - A session that carries only keepalives would expire. Ours is renewed in time.
//! - It puts a session into its ring for every initiation that it answers, eight in
//!   all, the one in use included. Here an initiator that does not use what it is
//!   given is soon answered no oftener than an honest one asks, and before the one in
//!   use would be lost it is set aside.
//! - Its sessions end with their keys. Here a peer has a keyring.
//!
//! A peer says when it must be ticked next ([`Peer::deadline`]): one with nothing
//! to wait for never is. While data moves it is ticked every few seconds, because
//! boringtun dates what it sees by the tick before.
//!
//! A peer's address moves only when a message proves that the sender holds the
//! session's keys and that it is new. An initiation alone does not: after a
//! change of the preshared key an old one could be replayed, which boringtun, with
//! new keys, does not remember.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::TunnResult;
use boringtun::noise::errors::WireGuardError;

use crate::batch::DatagramBatch;
use crate::counters::{Counter, Counters};
use crate::ecn::Ecn;
use crate::handshake::INITIATION;
use crate::index::PeerIndex;
use crate::packet;
use crate::path::{Outer, Path};
use crate::{MESSAGE_OVERHEAD, PADDING};

mod exchange;
mod keyring;
mod stats;
mod timers;

use keyring::Keyring;

pub use keyring::Tunnel;
pub use stats::{PeerReport, PeerStats};

// WireGuard paper, section 6.1, and the kernel's messages.h.
const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// How much later boringtun, which reads the clock by itself, may date what we
/// date: a turn of the worker. A tick that is to find its time passed comes this
/// much later.
const CLOCK_SLACK: Duration = Duration::from_millis(100);

/// While data moves, a peer is ticked this often.
const ACTIVE_TICK: Duration = Duration::from_secs(5);

/// Initiations answered at any pace before one of the sessions is used: half of
/// those that boringtun keeps.
const ANSWERS: u8 = 4;

/// Packets that wait for a session, at most; the oldest goes first.
const QUEUE: usize = 16;

/// What changes about a peer that exists. What is `None` stays.
#[derive(Debug, Default)]
pub struct PeerUpdate {
    /// Send here from now on.
    pub endpoint: Option<SocketAddr>,
    /// The persistent keepalive, or none.
    pub keepalive: Option<Option<Duration>>,
    /// Other key material, after a change of our private or of a preshared key.
    pub keys: Option<Rekey>,
}

/// How a peer comes to other keys.
#[derive(Debug)]
pub enum Rekey {
    /// What is in use stays in use until the new keys work in both directions, or
    /// its time is over. All handshakes are made with the new ones from now on.
    MakeBeforeBreak(Tunnel),
    /// All sessions end; without new keys the peer is cut off.
    AtOnce(Option<Tunnel>),
}

/// One peer of a worker.
#[derive(Debug)]
pub struct Peer {
    index: PeerIndex,
    keyring: Keyring,
    path: Option<Path>,
    keepalive: Option<Duration>,
    queue: VecDeque<Vec<u8>>,
    /// Our last answers, while their initiator has not used one.
    unused: Option<Answers>,
    /// When our last initiation went out, while it has no answer.
    pending: Option<Instant>,
    /// When the session in use was made, and whether by us: then we renew it.
    established: Option<(Instant, Role)>,
    /// When a handshake was last tried by either side.
    last_attempt: Option<Instant>,
    last_sent: Option<Instant>,
    /// Data came and nothing went back: until then something must.
    keepalive_due: Option<Instant>,
    /// Data went out and nothing came back: from then on the session is in doubt.
    answer_due: Option<Instant>,
    /// Data moved since the last tick: then the next one comes then.
    active_tick: Option<Instant>,
    /// boringtun has given up on the peer, and we have not begun anew since.
    has_expired: bool,
    /// The peer may have to be ticked sooner than it said.
    is_deadline_stale: bool,
    /// Whether the peer waits in the worker's line of handshakes to start.
    pub(crate) is_starting: bool,
    stats: Arc<PeerStats>,
}

/// Answers to initiations.
#[derive(Debug, Clone, Copy)]
struct Answers {
    /// The time of the last.
    at: Instant,
    /// How many there were since the initiator last used one.
    in_a_row: u8,
}

/// Who began the handshake of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Initiator,
    Responder,
}

/// What became of a data message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    /// A packet of that many bytes lies in the room given.
    Packet(usize),
    /// A keepalive: nothing to pass on.
    Keepalive,
    /// Not accepted.
    Dropped(Counter),
}

/// The worker's surroundings, for one call.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) mtu: usize,
    pub(crate) counters: &'a Counters,
    pub(crate) out: &'a mut DatagramBatch,
}

impl Peer {
    /// A new peer, with `stats` shared with whoever reports on it.
    pub fn new(
        index: PeerIndex,
        tunnel: Option<Tunnel>,
        endpoint: Option<SocketAddr>,
        keepalive: Option<Duration>,
        stats: Arc<PeerStats>,
    ) -> Self {
        stats.set_endpoint(endpoint);
        Self {
            index,
            keyring: Keyring::new(tunnel),
            path: endpoint.map(Path::from),
            keepalive,
            queue: VecDeque::new(),
            unused: None,
            pending: None,
            established: None,
            last_attempt: None,
            last_sent: None,
            keepalive_due: None,
            answer_due: None,
            active_tick: None,
            has_expired: false,
            is_deadline_stale: true,
            is_starting: false,
            stats,
        }
    }

    /// The index that names the peer.
    pub fn index(&self) -> PeerIndex {
        self.index
    }

    pub(crate) fn update(&mut self, update: PeerUpdate, now: Instant) {
        self.is_deadline_stale = true;
        if let Some(endpoint) = update.endpoint {
            self.move_to(endpoint.into());
        }
        if let Some(keepalive) = update.keepalive {
            self.keepalive = keepalive;
        }
        match update.keys {
            Some(Rekey::MakeBeforeBreak(tunnel)) => self.keyring.replace(tunnel, now),
            Some(Rekey::AtOnce(tunnel)) => self.keyring = Keyring::new(tunnel),
            None => return,
        }
        self.unused = None;
        self.pending = None;
        self.last_attempt = None;
        self.has_expired = false;
        if !self.keyring.has_session() {
            self.established = None;
            self.keepalive_due = None;
            self.answer_due = None;
            self.active_tick = None;
        }
    }

    /// How many sets of keys there are.
    #[cfg(test)]
    pub(crate) fn key_sets(&self) -> usize {
        self.keyring.len()
    }

    /// Whether a handshake should begin now: there is no session, or only one with
    /// keys of before, somewhere to send to and a reason to. Not sooner after the
    /// last try than the protocol allows; boringtun repeats an unanswered one by
    /// itself.
    pub(crate) fn wants_session(&self, now: Instant) -> bool {
        self.needs_session() && self.may_attempt(now)
    }

    fn needs_session(&self) -> bool {
        !self.keyring.is_settled()
            && !self.keyring.is_empty()
            && self.path.is_some()
            && self.pending.is_none()
            && (!self.queue.is_empty() || self.keepalive.is_some() || self.keyring.has_session())
    }

    /// Seals the packet at the start of `buffer` and puts it out, or keeps it
    /// until there is a session. `PADDING` bytes of room follow the packet.
    pub(crate) fn send(&mut self, buffer: &mut [u8], length: usize, context: &mut Context<'_>) {
        if self.path.is_none() {
            context.counters.count(Counter::NoEndpoint);
        } else if self.keyring.has_session() {
            self.seal(buffer, length, context);
        } else {
            if self.queue.len() >= QUEUE {
                self.queue.pop_front();
                context.counters.count(Counter::QueueOverflow);
            }
            self.queue.push_back(buffer[..length].to_vec());
            self.is_deadline_stale = true;
        }
    }

    /// Sends what waited for a session, now that there is one.
    pub(crate) fn flush(&mut self, context: &mut Context<'_>) {
        while self.keyring.has_session()
            && let Some(mut packet) = self.queue.pop_front()
        {
            let length = packet.len();
            packet.resize(length + PADDING, 0);
            self.seal(&mut packet, length, context);
        }
    }

    /// Opens a data message into `room`, which is at least as long.
    pub(crate) fn open(
        &mut self,
        from: Path,
        message: &[u8],
        room: &mut [u8],
        now: Instant,
        counters: &Counters,
    ) -> Opened {
        let receiver = receiver_at(message, 4).unwrap_or_default();
        let place = self.keyring.find(receiver);
        let Some((place, keys)) = place.and_then(|place| Some((place, self.keyring.at(place)?)))
        else {
            return Opened::Dropped(Counter::UnknownIndex);
        };
        // boringtun adds to this number without a check.
        if number_at::<8>(message, 8).is_none_or(|n| u64::from_le_bytes(n) >= REJECT_AFTER_MESSAGES)
        {
            return Opened::Dropped(Counter::Undecryptable);
        }
        let opened = match keys.tunn.decapsulate(None, message, room) {
            TunnResult::WriteToTunnelV4(packet, _) => Opened::Packet(packet.len()),
            TunnResult::WriteToTunnelV6(packet, _) => Opened::Packet(packet.len()),
            TunnResult::Done | TunnResult::WriteToNetwork(_) => Opened::Keepalive,
            TunnResult::Err(WireGuardError::DuplicateCounter | WireGuardError::InvalidCounter) => {
                return Opened::Dropped(Counter::Replayed);
            }
            TunnResult::Err(WireGuardError::InvalidPacket) => {
                return Opened::Dropped(Counter::NotIp);
            }
            TunnResult::Err(_) => return Opened::Dropped(Counter::Undecryptable),
        };
        self.heard(from, message.len());
        if matches!(opened, Opened::Packet(_)) {
            self.keepalive_due.get_or_insert(now + KEEPALIVE_TIMEOUT);
            self.stay_active(now);
        }
        let had_session = self.keyring.has_session();
        if self.keyring.heard(place, receiver, now) {
            self.unused = None;
            self.is_deadline_stale = true;
            self.established(Role::Responder, now, counters);
        }
        self.is_deadline_stale |= self.keyring.has_session() != had_session;
        opened
    }

    /// Has the next tick send at least a keepalive.
    pub(crate) fn announce(&mut self, now: Instant) {
        self.keepalive_due = Some(now);
        self.is_deadline_stale = true;
    }

    /// An address of ours is gone: the kernel chooses another from here on, until
    /// the peer writes to one.
    pub(crate) fn forget_local(&mut self, address: IpAddr) {
        if let Some(path) = &mut self.path
            && path.local == Some(address)
        {
            path.local = None;
        }
    }

    /// Lets time pass. Says whether a handshake should begin.
    pub(crate) fn tick(&mut self, context: &mut Context<'_>) -> bool {
        let now = context.now;
        self.is_deadline_stale = true;
        self.active_tick = None;
        let pending = self.pending;
        self.run_timers(context);
        if self.pending == pending && pending.is_some_and(|at| now >= at + self.retry_after()) {
            // boringtun did not repeat it, so it does not wait for an answer any more.
            self.pending = None;
            self.keyring.try_other();
        }
        self.keyring.expire(now);
        if !self.keyring.has_session() {
            return self.wants_session(now);
        }
        if self.keepalive_at().is_some_and(|at| now >= at)
            || self.keepalive_due.is_some_and(|due| now >= due)
        {
            self.seal(&mut [0; PADDING], 0, context);
        }
        let unanswered = self.answer_due.is_some_and(|due| now >= due);
        if unanswered {
            self.answer_due = None;
        }
        let aged = self.renewal_at().is_some_and(|at| now >= at);
        let is_in_doubt = unanswered || aged;
        is_in_doubt && self.path.is_some() && self.may_attempt(now) || self.wants_session(now)
    }

    fn seal(&mut self, buffer: &mut [u8], length: usize, context: &mut Context<'_>) {
        let ecn = packet::ecn(&buffer[..length]);
        let Some(keys) = self.keyring.sealing() else {
            return;
        };
        // To a multiple of 16, but not beyond the MTU (the kernel's WireGuard does
        // so too): the length tells less, and many routers decrypt faster.
        let padded = length
            .next_multiple_of(PADDING)
            .min(context.mtu.max(length))
            .min(buffer.len());
        buffer[length..padded].fill(0);
        let room = context
            .out
            .space((padded + MESSAGE_OVERHEAD).max(INITIATION));
        if let TunnResult::WriteToNetwork(message) = keys.tunn.encapsulate(&buffer[..padded], room)
        {
            let sealed = message.len();
            self.emit(sealed, ecn, context);
            if length > 0 {
                self.answer_due
                    .get_or_insert(context.now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT);
                self.stay_active(context.now);
            }
        }
    }

    /// Puts out the message that lies in the room of the batch.
    fn emit(&mut self, length: usize, ecn: Ecn, context: &mut Context<'_>) {
        let Some(path) = self.path else {
            return;
        };
        if length == INITIATION && context.out.space(length)[0] == 1 {
            if let Some(keys) = self.keyring.trying() {
                keys.initiated(&context.out.space(length)[..length]);
            }
            self.last_attempt = Some(context.now);
            self.pending = Some(context.now);
            self.has_expired = false;
            context.counters.count(Counter::InitiationsSent);
        }
        context.out.commit(length, Outer { path, ecn });
        self.stats.add_sent(length);
        self.last_sent = Some(context.now);
        self.keepalive_due = None;
    }

    fn established(&mut self, role: Role, now: Instant, counters: &Counters) {
        self.established = Some((now, role));
        self.has_expired = false;
        self.stats.set_last_handshake(now);
        counters.count(Counter::Handshakes);
    }

    /// A new and authentic message came from there.
    fn heard(&mut self, from: Path, length: usize) {
        self.stats.add_received(length);
        self.answer_due = None;
        if self.path != Some(from) {
            self.move_to(from);
        }
    }

    fn move_to(&mut self, path: Path) {
        if self.path.is_none_or(|before| before.remote != path.remote) {
            self.stats.set_endpoint(Some(path.remote));
        }
        self.path = Some(path);
    }
}

/// The index at an offset of a message.
pub(crate) fn receiver_at(message: &[u8], offset: usize) -> Option<u32> {
    number_at::<4>(message, offset).map(u32::from_le_bytes)
}

fn number_at<const N: usize>(message: &[u8], offset: usize) -> Option<[u8; N]> {
    message.get(offset..offset + N)?.try_into().ok()
}
