//! The keys of a peer: those that handshakes are made with, and those that are
//! only still in use.
//!
//! boringtun binds a tunnel to its keys for good, and with it the sessions. So a
//! change of keys means another tunnel of boringtun's, and for a while a peer has
//! several: the old ones go on sealing and opening until one with the new keys
//! works in both directions. They answer no handshake and begin none, their clock
//! stands still (boringtun's would have them begin one), and when they have been
//! silent since, or are as old as a session may get, they are gone.
//!
//! Each has an index of its own, so a message tells which one it is for.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use boringtun::noise::{Tunn, TunnResult};
use privnet_model::key::{PresharedKey, PublicKey};

use super::{CLOCK_SLACK, KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_TIMEOUT, receiver_at};
use crate::handshake::INITIATION;
use crate::identity::Identity;
use crate::index::{KEY_SETS, PeerIndex};

/// Sessions that boringtun keeps of one tunnel.
const SESSIONS: u32 = 8;

/// A peer's key material and handshake state, made by whoever configures the
/// device: it costs a Diffie-Hellman, which is no work for a packet thread.
pub struct Tunnel(Vec<KeySet>);

impl Tunnel {
    /// Key material towards one peer.
    pub fn new(
        identity: &Arc<Identity>,
        peer: &PublicKey,
        preshared: Option<&PresharedKey>,
        index: PeerIndex,
    ) -> Self {
        let identity = Arc::clone(identity);
        Self(vec![KeySet::new(
            identity,
            *peer,
            preshared.cloned(),
            index,
        )])
    }

    /// The same, towards a peer that may have this preshared key instead. Handshakes
    /// try one after the other; the one that worked is kept.
    pub fn or(mut self, preshared: &PresharedKey) -> Self {
        if let Some(first) = self.0.first() {
            let also = KeySet::new(
                Arc::clone(&first.identity),
                first.peer,
                Some(preshared.clone()),
                first.index.with_keys(first.index.keys() + 1),
            );
            self.0.push(also);
        }
        self
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tunnel(…)")
    }
}

/// One set of keys, with the handshakes and sessions made of it.
pub(super) struct KeySet {
    index: PeerIndex,
    pub(super) tunn: Box<Tunn>,
    /// Whether there is a session to send with. Asking boringtun costs a reading
    /// of the clock, so the answer is kept.
    has_session: bool,
    /// The session in use.
    current: Option<Session>,
    /// The last index that boringtun gave to a handshake of either side.
    last: u32,
    /// The session that we answered for and that its initiator has not used yet.
    unconfirmed: Option<Session>,
    /// When the sessions that there are end, the first to end first.
    session_ends: VecDeque<Instant>,
    /// The receiver indexes of our last two initiations: boringtun takes an
    /// answer to either.
    initiations: [Option<u32>; 2],
    /// Set once no handshake is made with these keys any more.
    retired: Option<Retired>,
    // What the same again is made of.
    identity: Arc<Identity>,
    peer: PublicKey,
    preshared: Option<PresharedKey>,
}

/// What a handshake leads to.
#[derive(Debug, Clone, Copy)]
struct Session {
    /// Our receiver index.
    receiver: u32,
    end: Instant,
}

impl Session {
    fn new(receiver: u32, now: Instant) -> Self {
        let end = now + REJECT_AFTER_TIME + CLOCK_SLACK;
        Self { receiver, end }
    }
}

/// Keys that are only still in use.
#[derive(Debug, Clone, Copy)]
struct Retired {
    /// Since when newer ones work in both directions.
    superseded: Option<Instant>,
    /// When these were last used by the peer, or since when they are retired.
    heard: Instant,
}

impl KeySet {
    fn new(
        identity: Arc<Identity>,
        peer: PublicKey,
        preshared: Option<PresharedKey>,
        index: PeerIndex,
    ) -> Self {
        let secret = preshared.as_ref().map(|key| *key.as_bytes());
        Self {
            index,
            tunn: Box::new(identity.tunnel_to(&peer, secret, index.bits())),
            has_session: false,
            current: None,
            last: index.bits() << 8,
            unconfirmed: None,
            session_ends: VecDeque::new(),
            initiations: [None; 2],
            retired: None,
            identity,
            peer,
            preshared,
        }
    }

    /// The same keys, without sessions, and with no memory of handshakes.
    fn anew(&self, index: PeerIndex) -> Self {
        let identity = Arc::clone(&self.identity);
        Self::new(identity, self.peer, self.preshared.clone(), index)
    }

    /// Moves boringtun's clock, and lets it drop the sessions whose time is over.
    /// What it would like to send besides, it does not get to.
    fn move_clock(&mut self) {
        self.run_timers(&mut [0; INITIATION]);
        self.refresh();
    }

    /// boringtun's timers.
    pub(super) fn run_timers<'a>(&mut self, room: &'a mut [u8]) -> TunnResult<'a> {
        let result = self.tunn.update_timers(room);
        if let TunnResult::WriteToNetwork(message) = &result
            && message.len() == INITIATION
        {
            self.last = receiver_at(message, 4).unwrap_or(self.last);
        }
        result
    }

    /// Asks boringtun again whether there is a session.
    pub(super) fn refresh(&mut self) -> bool {
        let before = self.has_session;
        self.has_session = self.tunn.time_since_last_handshake().is_some();
        self.has_session != before
    }

    /// Notes an initiation that went out.
    pub(super) fn initiated(&mut self, message: &[u8]) {
        let sender = receiver_at(message, 4);
        self.initiations = [sender, self.initiations[0]];
        self.last = sender.unwrap_or(self.last);
    }

    /// Notes our answer to an initiation: a session that its initiator may use.
    pub(super) fn answered(&mut self, message: &[u8], now: Instant) {
        let sender = receiver_at(message, 4).unwrap_or(self.last);
        self.last = sender;
        self.unconfirmed = Some(self.session_begins(sender, now));
    }

    /// Notes a response that we took: a session in use.
    pub(super) fn completed(&mut self, receiver: u32, now: Instant) {
        self.current = Some(self.session_begins(receiver, now));
    }

    fn session_begins(&mut self, receiver: u32, now: Instant) -> Session {
        let session = Session::new(receiver, now);
        if self.session_ends.len() == SESSIONS as usize {
            self.session_ends.pop_front();
        }
        self.session_ends.push_back(session.end);
        self.refresh();
        session
    }

    /// Whether one more answer would take the place of the session in use in
    /// boringtun's ring.
    fn would_lose_session(&self) -> bool {
        let next = self.last.wrapping_add(1);
        let is_next =
            |current: Session| next.wrapping_sub(current.receiver).is_multiple_of(SESSIONS);
        self.has_session && self.current.is_some_and(is_next)
    }

    /// No handshake is made with these keys from now on.
    fn retire(&mut self, now: Instant) {
        self.initiations = [None; 2];
        self.retired.get_or_insert(Retired {
            superseded: None,
            heard: now,
        });
    }

    /// When keys that are only still in use are gone.
    fn gone_at(&self) -> Option<Instant> {
        let retired = self.retired?;
        // Whatever the peer had under way when it got the new keys has arrived, and
        // if it did not hear of them it has heard since: data is answered within 10 s.
        let silent = retired
            .superseded
            .map(|at| at.max(retired.heard) + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT);
        let ends =
            [self.current, self.unconfirmed].map(|session| session.map(|session| session.end));
        let end = ends.into_iter().max().flatten().unwrap_or(retired.heard);
        Some(silent.map_or(end, |silent| silent.min(end)))
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet")
            .field("index", &self.index)
            .field("has_session", &self.has_session)
            .field("retired", &self.retired)
            .finish_non_exhaustive()
    }
}

/// All sets of keys of a peer.
#[derive(Debug, Default)]
pub(super) struct Keyring {
    /// Those that handshakes are made with first, then what is only still in use,
    /// the latest first.
    sets: Vec<KeySet>,
    /// How many handshakes are made with.
    live: usize,
    /// The one that seals.
    sealing: usize,
    /// The one that the next handshake is made with: the one that worked last.
    trying: usize,
    /// Whether one of those that handshakes are made with has ever worked.
    is_proven: bool,
}

impl Keyring {
    pub(super) fn new(tunnel: Option<Tunnel>) -> Self {
        let sets = tunnel.map_or_else(Vec::new, |tunnel| tunnel.0);
        Self {
            live: sets.len(),
            sets,
            ..Self::default()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.sets.len()
    }

    /// Takes other keys for all handshakes from now on. What is in use stays in use
    /// until they work.
    pub(super) fn replace(&mut self, tunnel: Tunnel, now: Instant) {
        let sealing = self.sealing_set().map(|set| set.index);
        let before = std::mem::take(self);
        let mut retired: Vec<_> = before
            .sets
            .into_iter()
            .filter(|set| set.has_session || set.unconfirmed.is_some())
            .collect();
        for set in &mut retired {
            set.retire(now);
        }
        *self = Self::new(Some(tunnel));
        // One number stays free, for keys made anew.
        let room = usize::from(KEY_SETS) - 1 - self.live;
        while retired.len() > room
            && let Some(place) = retired.iter().rposition(|set| Some(set.index) != sealing)
        {
            retired.remove(place);
        }
        self.sets.append(&mut retired);
        self.renumber();
        self.sealing = self
            .sets
            .iter()
            .position(|set| Some(set.index) == sealing)
            .unwrap_or(0);
    }

    /// Makes keys that came with a number in use anew, with another. Whoever
    /// configures the device counts its changes and knows nothing of ours.
    fn renumber(&mut self) {
        for place in 0..self.live {
            let index = self.sets[place].index;
            let others = self.sets.iter().filter(|set| set.index == index);
            if others.count() > 1 {
                let free = self.free_index(index);
                self.sets[place] = self.sets[place].anew(free);
            }
        }
    }

    /// An index of the same peer's that none of its keys has, the next if possible.
    fn free_index(&self, index: PeerIndex) -> PeerIndex {
        let mut others = (1..KEY_SETS).map(|step| index.with_keys(index.keys() + step));
        others
            .find(|next| self.sets.iter().all(|set| set.index != *next))
            .unwrap_or(index)
    }

    pub(super) fn has_session(&self) -> bool {
        self.sealing_set().is_some_and(|set| set.has_session)
    }

    /// Whether there is a session, and with keys that are there to stay.
    pub(super) fn is_settled(&self) -> bool {
        self.sealing < self.live && self.has_session()
    }

    fn sealing_set(&self) -> Option<&KeySet> {
        self.sets.get(self.sealing)
    }

    /// The one to seal with.
    pub(super) fn sealing(&mut self) -> Option<&mut KeySet> {
        self.sets.get_mut(self.sealing)
    }

    /// The one to begin a handshake with.
    pub(super) fn trying(&mut self) -> Option<&mut KeySet> {
        self.sets[..self.live].get_mut(self.trying)
    }

    /// Has the next handshake made with the other keys, where there are others.
    pub(super) fn try_other(&mut self) -> bool {
        let others = self.live > 1;
        if others {
            self.trying = (self.trying + 1) % self.live;
            self.move_clock(self.trying);
        }
        others
    }

    /// The places of those that answer an initiation: the one that worked, and all
    /// where it is not known which one will. An initiation does not tell which
    /// preshared key its sender has, but only one of the answers is of use to it.
    pub(super) fn answering(&self, is_in_doubt: bool) -> impl Iterator<Item = usize> + use<> {
        let (trying, live) = (self.trying, self.live);
        let all = is_in_doubt || !self.is_proven;
        (0..live)
            .map(move |step| (trying + step) % live)
            .take(if all { live } else { 1 })
    }

    /// Where the set of keys is that a message names.
    pub(super) fn find(&self, receiver: u32) -> Option<usize> {
        let index = PeerIndex::of_receiver(receiver);
        if self.sealing_set().is_some_and(|set| set.index == index) {
            return Some(self.sealing);
        }
        self.sets.iter().position(|set| set.index == index)
    }

    pub(super) fn at(&mut self, place: usize) -> Option<&mut KeySet> {
        self.sets.get_mut(place)
    }

    /// Whether one of our handshakes waits for a response to this index of ours.
    pub(super) fn awaits_response(&self, receiver: u32) -> bool {
        self.sets
            .iter()
            .any(|set| set.initiations.contains(&Some(receiver)))
    }

    /// Moves the clock of one before a step of a handshake.
    pub(super) fn move_clock(&mut self, place: usize) {
        if let Some(set) = self.sets.get_mut(place) {
            set.move_clock();
        }
    }

    /// Where one more answer would cost the session in use its place in boringtun's
    /// ring: sets that session aside and answers with the same keys anew.
    pub(super) fn save_session(&mut self, place: usize, now: Instant) {
        let Some(set) = self.sets.get(place) else {
            return;
        };
        if !set.would_lose_session() || self.sets.len() >= usize::from(KEY_SETS) {
            return;
        }
        let anew = set.anew(self.free_index(set.index));
        let mut aside = std::mem::replace(&mut self.sets[place], anew);
        aside.retire(now);
        self.sets.insert(self.live, aside);
        if self.sealing >= self.live {
            self.sealing += 1;
        } else if self.sealing == place {
            self.sealing = self.live;
        }
    }

    /// The peer has used a set of keys. True when it is the first time that it uses
    /// the session that we answered for: then this is the one to seal with.
    pub(super) fn heard(&mut self, place: usize, receiver: u32, now: Instant) -> bool {
        let Some(set) = self.sets.get_mut(place) else {
            return false;
        };
        if let Some(retired) = &mut set.retired {
            retired.heard = now;
        }
        let confirmed = set
            .unconfirmed
            .take_if(|session| session.receiver == receiver);
        if let Some(session) = confirmed {
            set.current = Some(session);
            set.refresh();
            self.confirm(place, now);
        } else if !set.has_session && set.refresh() {
            self.seal_with_another();
        }
        confirmed.is_some()
    }

    /// A set of keys works in both directions.
    pub(super) fn confirm(&mut self, place: usize, now: Instant) {
        let is_live = place < self.live;
        if is_live {
            self.trying = place;
            self.is_proven = true;
        }
        // Of two that are only still in use, the later one.
        if is_live || self.sealing >= place || !self.has_session() {
            self.sealing = place;
        }
        let older = self.live.max(self.sealing + 1);
        for set in &mut self.sets[older..] {
            if let Some(retired) = &mut set.retired {
                retired.superseded.get_or_insert(now);
            }
        }
    }

    /// When [`Self::expire`] must be called next.
    pub(super) fn next_end(&self) -> Option<Instant> {
        let ends = self.sets.iter().filter_map(|set| match set.retired {
            Some(_) => set.gone_at(),
            None => set.session_ends.front().copied(),
        });
        ends.min()
    }

    /// Lets go of what is not in use any more.
    pub(super) fn expire(&mut self, now: Instant) {
        let sealing = self.sealing_set().map(|set| set.index);
        for set in &mut self.sets[self.live..] {
            set.has_session &= set.current.is_some_and(|session| now < session.end);
        }
        self.sets
            .retain(|set| set.gone_at().is_none_or(|end| now < end));
        let sealing = self.sets.iter().position(|set| Some(set.index) == sealing);
        let trying = self.trying;
        for (place, set) in self.sets[..self.live].iter_mut().enumerate() {
            let mut has_ended = false;
            while set.session_ends.front().is_some_and(|end| now >= *end) {
                set.session_ends.pop_front();
                has_ended = true;
            }
            // The clock of the other one moves at every tick.
            if has_ended && place != trying {
                set.move_clock();
            }
            if set.has_session && set.session_ends.is_empty() {
                // By boringtun's clock its time has not come yet.
                set.session_ends.push_back(now + REKEY_TIMEOUT);
            }
        }
        self.sealing = sealing.unwrap_or(0);
        self.seal_with_another();
    }

    /// Where the one to seal with has no session any more: one that has.
    fn seal_with_another(&mut self) {
        if !self.has_session() {
            let other = self.sets.iter().position(|set| set.has_session);
            self.sealing = other.unwrap_or(self.sealing);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    #![expect(clippy::disallowed_methods, reason = "a test begins at some time")]
    use privnet_model::key::PrivateKey;

    use super::*;

    const PEER: PeerIndex = PeerIndex::new(5, 3);

    fn tunnel(number: u8) -> Tunnel {
        let identity = Arc::new(Identity::new(&PrivateKey::from_random([1; 32])));
        let peer = PrivateKey::from_random([2; 32]).public();
        Tunnel::new(&identity, &peer, None, PEER.with_keys(number))
    }

    /// A message of a handshake, as far as its sender's index.
    fn from(receiver: u32) -> Vec<u8> {
        [&[1, 0, 0, 0], &receiver.to_le_bytes()[..]].concat()
    }

    fn receiver(number: u8, session: u32) -> u32 {
        PEER.with_keys(number).bits() << 8 | session
    }

    /// With keys of that number, which have answered an initiation.
    fn in_use(number: u8, now: Instant) -> Keyring {
        let mut keyring = Keyring::new(Some(tunnel(number)));
        let keys = keyring.at(0).unwrap();
        keys.answered(&from(receiver(number, 1)), now);
        keyring
    }

    #[test]
    fn keys_that_are_only_still_in_use_await_no_response() {
        let now = Instant::now();
        let mut keyring = in_use(0, now);
        keyring.at(0).unwrap().initiated(&from(receiver(0, 2)));
        assert!(keyring.awaits_response(receiver(0, 2)));
        keyring.replace(tunnel(2), now);
        assert_eq!(keyring.len(), 2);
        assert!(!keyring.awaits_response(receiver(0, 2)));
    }

    #[test]
    fn a_number_in_use_is_not_given_twice() {
        let now = Instant::now();
        let mut keyring = in_use(2, now);
        for changes in 1..20 {
            let old = keyring.at(0).unwrap().index;
            keyring.replace(tunnel(2), now);
            assert_eq!(keyring.len(), (changes + 1).min(usize::from(KEY_SETS) - 1));
            let new = keyring.at(0).unwrap();
            assert_eq!((new.index.peer(), new.index != old), (PEER, true));
            let next = new.index.bits() << 8 | 1;
            new.answered(&from(next), now);
            let mut numbers: Vec<_> = keyring.sets.iter().map(|set| set.index).collect();
            numbers.sort();
            numbers.dedup();
            assert_eq!(numbers.len(), keyring.len());
        }
    }

    #[test]
    fn keys_that_nobody_ever_used_go_with_their_session() {
        let now = Instant::now();
        let mut keyring = in_use(0, now);
        keyring.replace(tunnel(2), now);
        let end = keyring.next_end().unwrap();
        assert_eq!(end, now + REJECT_AFTER_TIME + CLOCK_SLACK);
        keyring.expire(end - CLOCK_SLACK);
        assert_eq!(keyring.len(), 2);
        keyring.expire(end);
        assert_eq!(keyring.len(), 1);
        assert_eq!(keyring.find(receiver(0, 1)), None);
    }
}
