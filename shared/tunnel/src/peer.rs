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
//!   given is soon answered no oftener than an honest one asks.
//!
//! A peer says when it must be ticked next ([`Peer::deadline`]): one with nothing
//! to wait for never is. While data moves it is ticked every few seconds, because
//! boringtun dates what it sees by the tick before.
//!
//! A peer's address moves only when a message proves that the sender holds the
//! session's keys and that it is new. An initiation alone does not: after a
//! change of the preshared key an old one could be replayed.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};
use privnet_model::key::{PresharedKey, PublicKey};

use crate::batch::DatagramBatch;
use crate::counters::{Counter, Counters};
use crate::ecn::Ecn;
use crate::handshake::INITIATION;
use crate::identity::Identity;
use crate::index::PeerIndex;
use crate::packet;
use crate::path::{Outer, Path};
use crate::{MESSAGE_OVERHEAD, PADDING};

mod stats;
mod timers;

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

/// Sessions that boringtun keeps of a peer.
const SESSIONS: usize = 8;

/// Initiations answered at any pace before one of the sessions is used: half of
/// those that boringtun keeps.
const ANSWERS: u8 = 4;

/// Packets that wait for a session, at most; the oldest goes first.
const QUEUE: usize = 16;

/// A peer's key material and handshake state, made by whoever configures the
/// device: it costs a Diffie-Hellman, which is no work for a packet thread.
pub struct Tunnel(Box<Tunn>);

impl Tunnel {
    /// Key material towards one peer.
    pub fn new(
        identity: &Identity,
        peer: &PublicKey,
        preshared: Option<&PresharedKey>,
        index: PeerIndex,
    ) -> Self {
        let preshared = preshared.map(|key| *key.as_bytes());
        Self(Box::new(identity.tunnel_to(peer, preshared, index.bits())))
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tunnel(…)")
    }
}

/// What changes about a peer that exists. What is `None` stays.
#[derive(Debug, Default)]
pub struct PeerUpdate {
    /// Send here from now on.
    pub endpoint: Option<SocketAddr>,
    /// The persistent keepalive, or none.
    pub keepalive: Option<Option<Duration>>,
    /// New key material, after a change of our private or of the preshared key;
    /// without any when the device has no key. Sessions end.
    pub tunnel: Option<Option<Tunnel>>,
}

/// One peer of a worker.
#[derive(Debug)]
pub struct Peer {
    index: PeerIndex,
    tunnel: Option<Tunnel>,
    path: Option<Path>,
    keepalive: Option<Duration>,
    queue: VecDeque<Vec<u8>>,
    /// Whether there is a session to send with. Asking boringtun costs a reading
    /// of the clock, so the answer is kept.
    has_session: bool,
    /// The session that we answered for and that its initiator has not used yet.
    unconfirmed: Option<Answer>,
    /// When our last initiation went out, while it has no answer.
    pending: Option<Instant>,
    /// When the sessions that there are end, the first to end first.
    session_ends: VecDeque<Instant>,
    /// The receiver indexes of our last two initiations: boringtun takes an
    /// answer to either.
    initiations: [Option<u32>; 2],
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

/// An answer to an initiation.
#[derive(Debug, Clone, Copy)]
struct Answer {
    /// Our receiver index of the session.
    receiver: u32,
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
            tunnel,
            path: endpoint.map(Path::from),
            keepalive,
            queue: VecDeque::new(),
            has_session: false,
            unconfirmed: None,
            pending: None,
            session_ends: VecDeque::new(),
            initiations: [None; 2],
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

    pub(crate) fn update(&mut self, update: PeerUpdate) {
        self.is_deadline_stale = true;
        if let Some(endpoint) = update.endpoint {
            self.move_to(endpoint.into());
        }
        if let Some(keepalive) = update.keepalive {
            self.keepalive = keepalive;
        }
        if let Some(tunnel) = update.tunnel {
            self.tunnel = tunnel;
            self.has_session = false;
            self.unconfirmed = None;
            self.pending = None;
            self.session_ends.clear();
            self.initiations = [None; 2];
            self.established = None;
            self.last_attempt = None;
            self.keepalive_due = None;
            self.answer_due = None;
            self.active_tick = None;
            self.has_expired = false;
        }
    }

    /// Whether a handshake should begin now: there is no session, somewhere to
    /// send to and a reason to. Not sooner after the last try than the protocol
    /// allows; boringtun repeats an unanswered one by itself.
    pub(crate) fn wants_session(&self, now: Instant) -> bool {
        !self.has_session && self.needs_session() && self.may_attempt(now)
    }

    fn needs_session(&self) -> bool {
        self.tunnel.is_some()
            && self.path.is_some()
            && self.pending.is_none()
            && (!self.queue.is_empty() || self.keepalive.is_some())
    }

    /// Seals the packet at the start of `buffer` and puts it out, or keeps it
    /// until there is a session. `PADDING` bytes of room follow the packet.
    pub(crate) fn send(&mut self, buffer: &mut [u8], length: usize, context: &mut Context<'_>) {
        if self.path.is_none() {
            context.counters.count(Counter::NoEndpoint);
        } else if self.has_session {
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
        while self.has_session
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
        let Some(tunnel) = &mut self.tunnel else {
            return Opened::Dropped(Counter::Undecryptable);
        };
        // boringtun adds to this number without a check.
        if number_at::<8>(message, 8).is_none_or(|n| u64::from_le_bytes(n) >= REJECT_AFTER_MESSAGES)
        {
            return Opened::Dropped(Counter::Undecryptable);
        }
        let opened = match tunnel.0.decapsulate(None, message, room) {
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
        if self
            .unconfirmed
            .is_some_and(|answer| Some(answer.receiver) == receiver_at(message, 4))
        {
            self.unconfirmed = None;
            self.established(Role::Responder, now, counters);
        }
        if !self.has_session {
            self.refresh_session();
        }
        opened
    }

    /// Takes an initiation or a response whose MACs are verified.
    pub(crate) fn handshake(&mut self, from: Path, message: &[u8], context: &mut Context<'_>) {
        let is_initiation = message.len() == INITIATION;
        if is_initiation && !self.may_answer(context.now) {
            context.counters.count(Counter::HandshakeRate);
            return;
        }
        self.is_deadline_stale = true;
        self.run_timers(context);
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        let room = context.out.space(INITIATION);
        let TunnResult::WriteToNetwork(reply) =
            tunnel.0.decapsulate(Some(from.remote.ip()), message, room)
        else {
            context.counters.count(Counter::HandshakeFailed);
            return;
        };
        let length = reply.len();
        let answered = receiver_at(reply, 4);
        self.pending = None;
        if self.session_ends.len() == SESSIONS {
            self.session_ends.pop_front();
        }
        self.session_ends
            .push_back(context.now + REJECT_AFTER_TIME + CLOCK_SLACK);
        if is_initiation {
            // The answer goes to where the initiation came from, and nothing else
            // does until the initiator has shown that it got the answer.
            self.stats.add_received(message.len());
            let before = self.unconfirmed.map_or(0, |answer| answer.in_a_row);
            self.unconfirmed = answered.map(|receiver| Answer {
                receiver,
                at: context.now,
                in_a_row: before.saturating_add(1),
            });
            self.last_attempt = Some(context.now);
            self.stats.add_sent(length);
            context.out.commit(length, from.into());
        } else {
            // boringtun's reply is the keepalive that confirms the session.
            self.heard(from, message.len());
            self.emit(length, Ecn::NOT_ECT, context);
            self.established(Role::Initiator, context.now, context.counters);
        }
        self.refresh_session();
        self.drain_boringtun(context);
        self.flush(context);
    }

    /// Takes a cookie; our next try carries it.
    pub(crate) fn cookie(&mut self, message: &[u8]) -> bool {
        let mut room = [0; INITIATION];
        self.tunnel.as_mut().is_some_and(|tunnel| {
            matches!(
                tunnel.0.decapsulate(None, message, &mut room),
                TunnResult::Done
            )
        })
    }

    /// Whether the peer waits for a response to this index of ours.
    pub(crate) fn awaits_response(&self, receiver: u32) -> bool {
        self.initiations.contains(&Some(receiver))
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

    /// Begins a handshake, unless one is under way.
    pub(crate) fn start_handshake(&mut self, context: &mut Context<'_>) {
        self.is_deadline_stale = true;
        if self.path.is_none() {
            return;
        }
        self.run_timers(context);
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        self.last_attempt = Some(context.now);
        let room = context.out.space(INITIATION);
        if let TunnResult::WriteToNetwork(message) =
            tunnel.0.format_handshake_initiation(room, false)
        {
            let length = message.len();
            self.emit(length, Ecn::NOT_ECT, context);
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
        }
        while self.session_ends.front().is_some_and(|end| now >= *end) {
            self.session_ends.pop_front();
        }
        if self.has_session && self.session_ends.is_empty() {
            // By boringtun's clock its time has not come yet.
            self.session_ends.push_back(now + REKEY_TIMEOUT);
        }
        if !self.has_session {
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
        (unanswered || aged) && self.path.is_some() && self.may_attempt(now)
    }

    /// boringtun's timers. It repeats a handshake without an answer every 5 s,
    /// gives up after 90 s (then [`Self::wants_session`] begins anew), drops
    /// sessions after 180 s.
    fn run_timers(&mut self, context: &mut Context<'_>) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        let room = context.out.space(INITIATION);
        match tunnel.0.update_timers(room) {
            TunnResult::WriteToNetwork(message) => {
                let length = message.len();
                self.emit(length, Ecn::NOT_ECT, context);
            }
            TunnResult::Err(WireGuardError::ConnectionExpired) if !self.has_expired => {
                self.has_expired = true;
                // What waited for an answer for 90 s is stale, and a new packet begins
                // anew. But it also expires of silence, and may be told so only now
                // that a packet is there.
                if self.pending.take().is_some() {
                    self.queue.clear();
                }
            }
            _ => {}
        }
        self.refresh_session();
    }

    fn seal(&mut self, buffer: &mut [u8], length: usize, context: &mut Context<'_>) {
        let ecn = packet::ecn(&buffer[..length]);
        let Some(tunnel) = &mut self.tunnel else {
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
        if let TunnResult::WriteToNetwork(message) = tunnel.0.encapsulate(&buffer[..padded], room) {
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
            self.initiations = [
                receiver_at(context.out.space(length), 4),
                self.initiations[0],
            ];
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

    /// Calls until done, as boringtun asks: a keepalive may have got into its
    /// queue at the moment when a session ended.
    fn drain_boringtun(&mut self, context: &mut Context<'_>) {
        while self.has_session
            && let Some(tunnel) = &mut self.tunnel
            && let TunnResult::WriteToNetwork(message) =
                tunnel
                    .0
                    .decapsulate(None, &[], context.out.space(MAX_QUEUED_BY_BORINGTUN))
        {
            let length = message.len();
            self.emit(length, Ecn::NOT_ECT, context);
        }
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

    fn refresh_session(&mut self) {
        let had_session = self.has_session;
        self.has_session = self
            .tunnel
            .as_ref()
            .is_some_and(|tunnel| tunnel.0.time_since_last_handshake().is_some());
        self.is_deadline_stale |= self.has_session != had_session;
    }
}

/// Only empty packets ever get into boringtun's queue.
const MAX_QUEUED_BY_BORINGTUN: usize = INITIATION;

/// The index at an offset of a message.
pub(crate) fn receiver_at(message: &[u8], offset: usize) -> Option<u32> {
    number_at::<4>(message, offset).map(u32::from_le_bytes)
}

fn number_at<const N: usize>(message: &[u8], offset: usize) -> Option<[u8; N]> {
    message.get(offset..offset + N)?.try_into().ok()
}
