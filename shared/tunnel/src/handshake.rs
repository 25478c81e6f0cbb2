//! The queue in front of the handshakes, and who gets into it.
//!
//! A handshake costs a quarter of a millisecond, a flood of them the whole core.
//! So a message waits here after a cheap check of its MAC, and a worker takes a
//! few per turn, between batches of packets. When many wait, a sender must first
//! prove its address with a cookie (WireGuard paper, section 5.3), and an address
//! that did gets only so many per second. Nothing here computes a handshake.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::counters::Counter;
use crate::identity::{COOKIE_REPLY, Identity, Verified};
use crate::index::PeerIndex;
use crate::path::Path;

/// The longest handshake message: an initiation.
pub(crate) const INITIATION: usize = 148;

/// As many initiations, and as many responses, wait at most.
const CAPACITY: usize = 1024;

/// From this many waiting initiations on, or responses, senders need a cookie:
/// about 60 ms of work.
const LOADED_AT: usize = 256;

/// Load lasts this long after the queue was last that long, so that it does not
/// flap (the kernel's WireGuard does the same).
const LOADED_FOR: Duration = Duration::from_secs(1);

/// A handshake message that waits for its turn.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) from: Path,
    /// The peer it is for, where that is known without a Diffie-Hellman.
    pub(crate) peer: Option<PeerIndex>,
    message: [u8; INITIATION],
    length: usize,
}

impl Waiting {
    fn new(from: Path, peer: Option<PeerIndex>, message: &[u8]) -> Self {
        let length = message.len().min(INITIATION);
        let mut copy = [0; INITIATION];
        copy[..length].copy_from_slice(&message[..length]);
        Self {
            from,
            peer,
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
    /// Its sender gets this cookie reply instead.
    Cookie([u8; COOKIE_REPLY]),
    /// It is dropped.
    Dropped(Counter),
}

/// The handshake messages that wait, of one worker.
#[derive(Debug, Default)]
pub(crate) struct HandshakeQueue {
    initiations: VecDeque<Waiting>,
    responses: VecDeque<Waiting>,
    /// Whose turn it is, when both wait.
    is_initiations_turn: bool,
    loaded_until: Option<Instant>,
    addresses: AddressLimiter,
}

impl HandshakeQueue {
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
        if self.initiations.len() >= CAPACITY {
            return Admission::Dropped(Counter::HandshakeQueueFull);
        }
        if peer.is_none() {
            let loaded = self.is_loaded(now);
            match identity.verify(from.remote.ip(), message, loaded) {
                Verified::Yes => {}
                Verified::NeedsCookie(reply) => return Admission::Cookie(reply),
                Verified::No(reason) => return Admission::Dropped(reason),
            }
            if loaded && !self.addresses.allow(from.remote.ip(), now) {
                return Admission::Dropped(Counter::HandshakeRate);
            }
        }
        self.initiations
            .push_back(Waiting::new(from, peer, message));
        Admission::Queued
    }

    /// Lets a response in, or not. The caller knows that the peer waits for one
    /// with just this index; but indexes are small numbers, so a flood can guess.
    pub(crate) fn admit_response(
        &mut self,
        identity: &Identity,
        from: Path,
        peer: PeerIndex,
        message: &[u8],
    ) -> Admission {
        if self.responses.len() >= CAPACITY {
            return Admission::Dropped(Counter::HandshakeQueueFull);
        }
        let loaded = self.responses.len() >= LOADED_AT;
        match identity.verify(from.remote.ip(), message, loaded) {
            Verified::Yes => {}
            Verified::NeedsCookie(reply) => return Admission::Cookie(reply),
            Verified::No(reason) => return Admission::Dropped(reason),
        }
        self.responses
            .push_back(Waiting::new(from, Some(peer), message));
        Admission::Queued
    }

    /// The next message to work on: by turns, so that a flood of one kind does
    /// not keep the other from its turn.
    pub(crate) fn next(&mut self) -> Option<Waiting> {
        let (first, second) = if self.is_initiations_turn {
            (&mut self.initiations, &mut self.responses)
        } else {
            (&mut self.responses, &mut self.initiations)
        };
        self.is_initiations_turn = !self.is_initiations_turn;
        first.pop_front().or_else(|| second.pop_front())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.responses.is_empty() && self.initiations.is_empty()
    }

    fn is_loaded(&mut self, now: Instant) -> bool {
        if self.initiations.len() >= LOADED_AT {
            self.loaded_until = Some(now + LOADED_FOR);
        }
        self.loaded_until.is_some_and(|until| now < until)
    }
}

/// How many handshakes per second one address may start under load. An address
/// is an IPv4 address or an IPv6 /64, which one host can have whole.
#[derive(Debug, Default)]
struct AddressLimiter {
    /// For each address, when its budget will be whole again (the generic cell
    /// rate algorithm): one instant says it all.
    whole_at: HashMap<IpAddr, Instant>,
}

impl AddressLimiter {
    /// 200 per second: many spokes may stand behind one NAT.
    const INTERVAL: Duration = Duration::from_millis(5);
    const BURST: Duration = Duration::from_millis(500);
    /// Addresses remembered; when so many are active, new ones wait.
    const CAPACITY: usize = 4096;

    fn allow(&mut self, address: IpAddr, now: Instant) -> bool {
        let address = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => {
                Ipv6Addr::from(u128::from(address) & !(u128::from(u64::MAX))).into()
            }
        };
        if self.whole_at.len() >= Self::CAPACITY && !self.whole_at.contains_key(&address) {
            self.whole_at.retain(|_, whole_at| *whole_at > now);
            if self.whole_at.len() >= Self::CAPACITY {
                return false;
            }
        }
        let whole_at = self.whole_at.entry(address).or_insert(now);
        let next = (*whole_at).max(now) + Self::INTERVAL;
        let allowed = next <= now + Self::BURST;
        if allowed {
            *whole_at = next;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    #![expect(clippy::disallowed_methods, reason = "a test begins at some time")]
    use std::net::SocketAddr;

    use boringtun::noise::TunnResult;
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

    #[test]
    fn under_load_a_sender_gets_a_cookie_and_calm_returns() {
        let identity = Identity::new(&PrivateKey::from_random([1; 32]));
        let message = initiation(&identity, 3);
        let mut queue = HandshakeQueue::default();
        let now = Instant::now();
        for _ in 0..LOADED_AT {
            assert!(matches!(
                queue.admit_initiation(&identity, address(1), None, &message, now),
                Admission::Queued
            ));
        }
        assert!(matches!(
            queue.admit_initiation(&identity, address(1), None, &message, now),
            Admission::Cookie(_)
        ));
        while queue.next().is_some() {}
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
    fn the_queue_is_bounded() {
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
    fn a_flood_of_responses_holds_no_initiation_up_and_needs_cookies() {
        let identity = Identity::new(&PrivateKey::from_random([1; 32]));
        // An initiation stands in for a response: only its MACs are looked at here.
        let message = initiation(&identity, 3);
        let mut queue = HandshakeQueue::default();
        let peer = PeerIndex::new(0, 0);
        for _ in 0..LOADED_AT {
            assert!(matches!(
                queue.admit_response(&identity, address(1), peer, &message),
                Admission::Queued
            ));
        }
        assert!(matches!(
            queue.admit_response(&identity, address(1), peer, &message),
            Admission::Cookie(_)
        ));
        queue
            .initiations
            .push_back(Waiting::new(address(2), None, &message));
        let first = [queue.next().unwrap().from, queue.next().unwrap().from];
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
    fn the_memory_for_addresses_is_bounded() {
        let mut limiter = AddressLimiter::default();
        let now = Instant::now();
        for host in 0..10_000u32 {
            limiter.allow(IpAddr::V4(host.into()), now);
        }
        assert_eq!(limiter.whole_at.len(), AddressLimiter::CAPACITY);
        let later = now + AddressLimiter::INTERVAL;
        assert!(limiter.allow(address(1).remote.ip(), later));
    }
}
