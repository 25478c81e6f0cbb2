//! The queue in front of the handshakes, and in which order they have their turn.
//!
//! A handshake costs a quarter of a millisecond, a flood of them the whole core.
//! So a message waits here after a cheap check of its MAC, and a worker takes a
//! few per turn, between batches of packets. Nothing here computes a handshake.
//!
//! Two things can fill the queue. A *flood*: senders whom nobody asked for, from
//! addresses that may not be theirs. And a *storm*: after a restart of a hub all
//! its peers at once, perhaps behind one address. At the MAC they look the same.
//! So nobody is turned away while there is room: when many wait, a sender gets a
//! cookie (WireGuard paper, section 5.3) and its message waits in the common line
//! all the same. Whoever comes back with the cookie has proved its address and
//! overtakes that line, as often per second as one address may. A storm is thus
//! worked off in one go, where the protocol's own way would send everybody home
//! for five seconds; and a flood delays its own like, not those who proved to be
//! somebody. What waited for too long is not worth the work: its sender has long
//! sent another.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::counters::{Counter, Counters};
use crate::identity::{COOKIE_REPLY, Identity, Verified};
use crate::index::PeerIndex;
use crate::path::Path;

/// The longest handshake message: an initiation.
pub(crate) const INITIATION: usize = 148;

/// As many messages can wait in each line however few peers there are, and no
/// more (3 MB) however many there are. Between these: one of every peer.
const CAPACITY: usize = 1024;
const MAX_CAPACITY: usize = 1 << 14;

/// From this many waiting messages on, senders get cookies: about 60 ms of work.
const LOADED_AT: usize = 256;

/// Load lasts this long after the queue was last that long, so that it does not
/// flap (the kernel's WireGuard does the same).
const LOADED_FOR: Duration = Duration::from_secs(1);

/// A sender without an answer sends another initiation, with other keys, after
/// 5 s (WireGuard paper, section 6.4), and the answer needs time for its way. To
/// work on older ones would, when there are more than can be worked on, mean to
/// answer each of them too late.
const STALE_AFTER: Duration = Duration::from_secs(4);

/// A handshake message that waits for its turn.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) from: Path,
    /// The peer it is for, where that is known without a Diffie-Hellman.
    pub(crate) peer: Option<PeerIndex>,
    since: Instant,
    message: [u8; INITIATION],
    length: usize,
}

impl Waiting {
    fn new(from: Path, peer: Option<PeerIndex>, message: &[u8], since: Instant) -> Self {
        let length = message.len().min(INITIATION);
        let mut copy = [0; INITIATION];
        copy[..length].copy_from_slice(&message[..length]);
        Self {
            from,
            peer,
            since,
            message: copy,
            length,
        }
    }

    pub(crate) fn message(&self) -> &[u8] {
        &self.message[..self.length]
    }
}

/// What became of a handshake message.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It waits.
    Queued,
    /// Its sender gets this cookie reply. It waits as well, if there was room.
    Cookie([u8; COOKIE_REPLY]),
    /// It is dropped.
    Dropped(Counter),
}

/// The handshake messages that wait, of one worker.
#[derive(Debug, Default)]
pub(crate) struct HandshakeQueue {
    initiations: Lines,
    responses: Lines,
    /// Whose turn it is, when both wait.
    is_initiations_turn: bool,
    capacity: usize,
}

impl HandshakeQueue {
    /// Makes room for a message of every peer.
    pub(crate) fn expect_peers(&mut self, peers: usize) {
        self.capacity = peers;
    }

    /// Lets an initiation in, or not. `peer` is known when another worker has
    /// checked it already.
    pub(crate) fn admit_initiation(
        &mut self,
        identity: &Identity,
        from: Path,
        peer: Option<PeerIndex>,
        message: &[u8],
        now: Instant,
    ) -> Admission {
        let capacity = self.line_capacity();
        let waiting = Waiting::new(from, peer, message, now);
        if peer.is_some() {
            return self.initiations.push_proven(waiting, capacity);
        }
        self.initiations.admit(identity, waiting, capacity)
    }

    /// Lets a response in, or not. The caller knows that the peer waits for one
    /// with just this index; but indexes are small numbers, so a flood can guess.
    pub(crate) fn admit_response(
        &mut self,
        identity: &Identity,
        from: Path,
        peer: PeerIndex,
        message: &[u8],
        now: Instant,
    ) -> Admission {
        let capacity = self.line_capacity();
        let waiting = Waiting::new(from, Some(peer), message, now);
        self.responses.admit(identity, waiting, capacity)
    }

    /// The next message to work on: by turns, so that a flood of one kind does
    /// not keep the other from its turn.
    pub(crate) fn next(&mut self, now: Instant, counters: &Counters) -> Option<Waiting> {
        let (first, second) = if self.is_initiations_turn {
            (&mut self.initiations, &mut self.responses)
        } else {
            (&mut self.responses, &mut self.initiations)
        };
        self.is_initiations_turn = !self.is_initiations_turn;
        first
            .next(now, counters)
            .or_else(|| second.next(now, counters))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.responses.len() + self.initiations.len() == 0
    }

    fn line_capacity(&self) -> usize {
        self.capacity.clamp(CAPACITY, MAX_CAPACITY)
    }
}

/// The messages of one kind that wait: those whose sender's address is proved, and
/// the others. Each line has its own room.
#[derive(Debug, Default)]
struct Lines {
    proven: VecDeque<Waiting>,
    common: VecDeque<Waiting>,
    loaded_until: Option<Instant>,
    addresses: AddressLimiter,
}

impl Lines {
    fn admit(&mut self, identity: &Identity, waiting: Waiting, capacity: usize) -> Admission {
        let (from, now) = (waiting.from.remote.ip(), waiting.since);
        let loaded = self.is_loaded(now);
        match identity.verify(from, waiting.message(), loaded) {
            Verified::No(reason) => Admission::Dropped(reason),
            Verified::NeedsCookie(reply) => {
                if self.common.len() < capacity {
                    self.common.push_back(waiting);
                }
                Admission::Cookie(reply)
            }
            Verified::Yes if loaded && self.addresses.allow(from, now) => {
                self.push_proven(waiting, capacity)
            }
            Verified::Yes if self.common.len() < capacity => {
                self.common.push_back(waiting);
                Admission::Queued
            }
            Verified::Yes => Admission::Dropped(Counter::HandshakeRate),
        }
    }

    fn push_proven(&mut self, waiting: Waiting, capacity: usize) -> Admission {
        if self.proven.len() >= capacity {
            return Admission::Dropped(Counter::HandshakeQueueFull);
        }
        self.proven.push_back(waiting);
        Admission::Queued
    }

    fn next(&mut self, now: Instant, counters: &Counters) -> Option<Waiting> {
        for line in [&mut self.proven, &mut self.common] {
            while let Some(waiting) = line.pop_front() {
                if now.saturating_duration_since(waiting.since) < STALE_AFTER {
                    return Some(waiting);
                }
                counters.count(Counter::HandshakeQueueFull);
            }
            // The memory of a storm is given back.
            line.shrink_to(CAPACITY);
        }
        None
    }

    fn len(&self) -> usize {
        self.proven.len() + self.common.len()
    }

    fn is_loaded(&mut self, now: Instant) -> bool {
        if self.len() >= LOADED_AT {
            self.loaded_until = Some(now + LOADED_FOR);
        }
        self.loaded_until.is_some_and(|until| now < until)
    }
}

/// How many handshakes per second one address may have worked on before all that
/// wait without proof. An address is an IPv4 address or an IPv6 /64, which one
/// host can have whole.
#[derive(Debug, Default)]
struct AddressLimiter {
    /// For each address, when its budget will be whole again (the generic cell
    /// rate algorithm): one instant says it all.
    whole_at: HashMap<IpAddr, Instant>,
    /// The same of the time before. A budget is whole again after `BURST` without
    /// use, so what was not used for that long can be forgotten without looking.
    before: HashMap<IpAddr, Instant>,
    forget_at: Option<Instant>,
}

impl AddressLimiter {
    /// 200 per second: many spokes may stand behind one NAT.
    const INTERVAL: Duration = Duration::from_millis(5);
    const BURST: Duration = Duration::from_millis(500);
    /// Addresses remembered of each `BURST`; when so many are active, new ones wait.
    const CAPACITY: usize = 4096;

    fn allow(&mut self, address: IpAddr, now: Instant) -> bool {
        let address = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => {
                Ipv6Addr::from(u128::from(address) & !(u128::from(u64::MAX))).into()
            }
        };
        if self.forget_at.is_none_or(|at| now >= at) {
            std::mem::swap(&mut self.before, &mut self.whole_at);
            self.whole_at.clear();
            self.forget_at = Some(now + Self::BURST);
        }
        let known = self.whole_at.get(&address);
        if known.is_none() && self.whole_at.len() >= Self::CAPACITY {
            return false;
        }
        let whole_at = known.or_else(|| self.before.get(&address));
        let next = whole_at.map_or(now, |at| now.max(*at)) + Self::INTERVAL;
        let allowed = next <= now + Self::BURST;
        if allowed {
            self.whole_at.insert(address, next);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    #![expect(clippy::disallowed_methods, reason = "a test begins at some time")]
    use std::net::SocketAddr;

    use boringtun::noise::{Tunn, TunnResult};
    use privnet_model::key::PrivateKey;

    use super::*;

    fn initiation(to: &Identity, seed: u8) -> Vec<u8> {
        let sender = Identity::new(&PrivateKey::from_random([seed; 32]));
        let mut tunnel = sender.tunnel_to(&to.public_key(), None, 1);
        let mut buffer = [0; INITIATION];
        match tunnel.format_handshake_initiation(&mut buffer, false) {
            TunnResult::WriteToNetwork(message) => message.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn address(host: u8) -> Path {
        SocketAddr::from(([192, 0, 2, host], 51820)).into()
    }

    #[test]
    fn what_is_not_meant_for_our_key_does_not_wait() {
        let identity = Identity::new(&PrivateKey::from_random([1; 32]));
        let other = Identity::new(&PrivateKey::from_random([2; 32]));
        let mut queue = HandshakeQueue::default();
        let admission = queue.admit_initiation(
            &identity,
            address(1),
            None,
            &initiation(&other, 3),
            Instant::now(),
        );
        assert!(matches!(admission, Admission::Dropped(Counter::WrongMac)));
        assert!(queue.is_empty());
    }

    /// A queue with so many initiations waiting that senders get cookies.
    fn loaded(identity: &Identity, message: &[u8], now: Instant) -> HandshakeQueue {
        let mut queue = HandshakeQueue::default();
        for _ in 0..LOADED_AT {
            assert!(matches!(
                queue.admit_initiation(identity, address(1), None, message, now),
                Admission::Queued
            ));
        }
        queue
    }

    /// A sender's initiations: without a cookie, and with the one it is given.
    fn initiations_with_cookie(
        to: &Identity,
        from: Path,
        queue: &mut HandshakeQueue,
        now: Instant,
    ) -> [Vec<u8>; 2] {
        let sender = Identity::new(&PrivateKey::from_random([7; 32]));
        let mut tunnel = sender.tunnel_to(&to.public_key(), None, 1);
        let first = initiate(&mut tunnel);
        let Admission::Cookie(reply) = queue.admit_initiation(to, from, None, &first, now) else {
            panic!("no cookie");
        };
        tunnel.decapsulate(None, &reply, &mut [0; INITIATION]);
        [first, initiate(&mut tunnel)]
    }

    fn initiate(tunnel: &mut Tunn) -> Vec<u8> {
        match tunnel.format_handshake_initiation(&mut [0; INITIATION], true) {
            TunnResult::WriteToNetwork(message) => message.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn drain(queue: &mut HandshakeQueue, now: Instant) -> Vec<Waiting> {
        let counters = Counters::default();
        std::iter::from_fn(|| queue.next(now, &counters)).collect()
    }

    #[test]
    fn under_load_a_sender_gets_a_cookie_and_calm_returns() {
        let identity = Identity::new(&PrivateKey::from_random([1; 32]));
        let message = initiation(&identity, 3);
        let now = Instant::now();
        let mut queue = loaded(&identity, &message, now);
        assert!(matches!(
            queue.admit_initiation(&identity, address(1), None, &message, now),
            Admission::Cookie(_)
        ));
        drain(&mut queue, now);
        assert!(matches!(
            queue.admit_initiation(&identity, address(1), None, &message, now),
            Admission::Cookie(_)
        ));
        let later = now + LOADED_FOR;
        assert!(matches!(
            queue.admit_initiation(&identity, address(1), None, &message, later),
            Admission::Queued
        ));
    }

    #[test]
    fn who_comes_back_with_the_cookie_overtakes_those_who_did_not() {
        let identity = Identity::new(&PrivateKey::from_random([1; 32]));
        let now = Instant::now();
        let mut queue = loaded(&identity, &initiation(&identity, 3), now);
        let from = address(9);
        let [_, proved] = initiations_with_cookie(&identity, from, &mut queue, now);
        assert!(matches!(
            queue.admit_initiation(&identity, from, None, &proved, now),
            Admission::Queued
        ));
        let order = drain(&mut queue, now);
        assert_eq!(order[0].message(), proved);
        assert_eq!(order.len(), LOADED_AT + 2);
    }

    #[test]
    fn a_cookie_is_of_use_at_its_own_address_only() {
        let identity = Identity::new(&PrivateKey::from_random([1; 32]));
        let now = Instant::now();
        let mut queue = loaded(&identity, &initiation(&identity, 3), now);
        let [_, proved] = initiations_with_cookie(&identity, address(9), &mut queue, now);
        assert!(matches!(
            queue.admit_initiation(&identity, address(8), None, &proved, now),
            Admission::Cookie(_)
        ));
    }

    #[test]
    fn an_address_beyond_its_budget_waits_with_the_others() {
        let identity = Identity::new(&PrivateKey::from_random([1; 32]));
        let now = Instant::now();
        let mut queue = loaded(&identity, &initiation(&identity, 3), now);
        let from = address(9);
        let [_, proved] = initiations_with_cookie(&identity, from, &mut queue, now);
        for _ in 0..150 {
            queue.admit_initiation(&identity, from, None, &proved, now);
        }
        assert_eq!(queue.initiations.proven.len(), 100);
        assert_eq!(queue.initiations.common.len(), LOADED_AT + 1 + 50);
    }

    #[test]
    fn a_storm_of_all_peers_finds_room_and_more_does_not() {
        let identity = Identity::new(&PrivateKey::from_random([1; 32]));
        let message = initiation(&identity, 3);
        let now = Instant::now();
        for (peers, room) in [(1, CAPACITY), (3000, 3000), (1 << 20, MAX_CAPACITY)] {
            let mut queue = HandshakeQueue::default();
            queue.expect_peers(peers);
            for _ in 0..room + 10 {
                queue.admit_initiation(&identity, address(1), None, &message, now);
            }
            assert_eq!(drain(&mut queue, now).len(), room);
        }
    }

    #[test]
    fn what_other_workers_checked_has_bounded_room_too() {
        let identity = Identity::new(&PrivateKey::from_random([1; 32]));
        let message = initiation(&identity, 3);
        let mut queue = HandshakeQueue::default();
        let known = Some(PeerIndex::new(0, 0));
        let now = Instant::now();
        for _ in 0..CAPACITY {
            queue.admit_initiation(&identity, address(1), known, &message, now);
        }
        assert!(matches!(
            queue.admit_initiation(&identity, address(1), known, &message, now),
            Admission::Dropped(Counter::HandshakeQueueFull)
        ));
    }

    #[test]
    fn what_waited_until_its_sender_sent_another_is_left_out() {
        let identity = Identity::new(&PrivateKey::from_random([1; 32]));
        let message = initiation(&identity, 3);
        let mut queue = HandshakeQueue::default();
        let counters = Counters::default();
        let now = Instant::now();
        queue.admit_initiation(&identity, address(1), None, &message, now);
        let later = now + STALE_AFTER;
        queue.admit_initiation(&identity, address(2), None, &message, later);
        let next = queue.next(later, &counters).unwrap();
        assert_eq!(next.from, address(2));
        assert_eq!(counters.get(Counter::HandshakeQueueFull), 1);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_flood_of_responses_holds_no_initiation_up_and_meets_cookies() {
        let identity = Identity::new(&PrivateKey::from_random([1; 32]));
        // An initiation stands in for a response: only its MACs are looked at here.
        let message = initiation(&identity, 3);
        let mut queue = HandshakeQueue::default();
        let peer = PeerIndex::new(0, 0);
        let now = Instant::now();
        for _ in 0..LOADED_AT {
            assert!(matches!(
                queue.admit_response(&identity, address(1), peer, &message, now),
                Admission::Queued
            ));
        }
        assert!(matches!(
            queue.admit_response(&identity, address(1), peer, &message, now),
            Admission::Cookie(_)
        ));
        queue.admit_initiation(&identity, address(2), None, &message, now);
        let first: Vec<_> = drain(&mut queue, now)[..2]
            .iter()
            .map(|waiting| waiting.from)
            .collect();
        assert!(first.contains(&address(2)), "{first:?}");
    }

    #[test]
    fn one_address_has_a_budget_that_fills_again() {
        let mut limiter = AddressLimiter::default();
        let now = Instant::now();
        let burst = (0..1000)
            .filter(|_| limiter.allow(address(1).remote.ip(), now))
            .count();
        assert_eq!(burst, 100);
        assert!(limiter.allow(address(2).remote.ip(), now));
        let later = now + Duration::from_millis(50);
        let refilled = (0..1000)
            .filter(|_| limiter.allow(address(1).remote.ip(), later))
            .count();
        assert_eq!(refilled, 10);
    }

    #[test]
    fn a_whole_v6_network_of_a_host_counts_as_one_address() {
        let mut limiter = AddressLimiter::default();
        let now = Instant::now();
        let allowed = (0..1000u16)
            .filter(|host| {
                let address: IpAddr = format!("2001:db8::{host:x}").parse().unwrap();
                limiter.allow(address, now)
            })
            .count();
        assert_eq!(allowed, 100);
    }

    #[test]
    fn a_budget_in_use_is_not_forgotten() {
        let mut limiter = AddressLimiter::default();
        let start = Instant::now();
        // Asked for without a pause, an address has its burst once and its rate.
        let allowed = (0..3000)
            .filter(|tick| {
                limiter.allow(address(1).remote.ip(), start + Duration::from_millis(*tick))
            })
            .count();
        assert_eq!(allowed, 100 + 600 - 1);
    }

    #[test]
    fn the_memory_for_addresses_is_bounded() {
        let mut limiter = AddressLimiter::default();
        let now = Instant::now();
        for host in 0..10_000u32 {
            limiter.allow(IpAddr::V4(host.into()), now);
        }
        assert_eq!(limiter.whole_at.len(), AddressLimiter::CAPACITY);
        assert!(!limiter.allow(address(1).remote.ip(), now));
        let later = now + AddressLimiter::BURST;
        assert!(limiter.allow(address(1).remote.ip(), later));
    }
}
