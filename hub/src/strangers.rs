//! Who knocks and is not known: each may cause an early poll, but one that EC2 does not
//! know either must not cause one for ever.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use privnet_model::id::InstanceId;
use privnet_model::ipsec::IkeFailure;
use privnet_model::key::PublicKey;

/// At most one early poll in this time, however many unknown spokes knock.
const PAUSE: Duration = Duration::from_secs(10);
/// The same of a poll that asks only where spokes are known to lack a key: a request or
/// two.
const KEYLESS_PAUSE: Duration = Duration::from_secs(3);
/// The longest pause between polls because of one stranger.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The same because of those who say nothing of themselves.
const LONGEST_PAUSE_NAMELESS: Duration = Duration::from_secs(600);
/// Strangers remembered: whoever makes up more of them gains one poll per ten
/// seconds, which is what the hub allows anyway.
const MOST: usize = 1024;

/// One who knocks. What it says of itself may not be true.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stranger {
    /// By WireGuard.
    Key(PublicKey),
    /// By IPsec.
    Instance(InstanceId),
    /// Likewise, and refused before it could say who it is, as is who scans the internet:
    /// all such count as one.
    Nameless,
}

impl Stranger {
    /// The one who was refused by IPsec, if it may be a spoke.
    pub(crate) fn refused(failure: IkeFailure) -> Option<Self> {
        match failure {
            IkeFailure::UnknownIdentity { peer, .. } => peer.parse().ok().map(Self::Instance),
            IkeFailure::NoConnection { .. } => Some(Self::Nameless),
            _ => None,
        }
    }
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "{key}"),
            Self::Instance(instance) => write!(f, "{instance}"),
            Self::Nameless => f.write_str("an unknown address by IPsec"),
        }
    }
}

/// Those that knocked, and when a poll may be asked for again because of each.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    asked: BTreeMap<Stranger, Asked>,
    everywhere: Option<Instant>,
    keyless: Option<Instant>,
}

#[derive(Debug)]
struct Asked {
    at: Instant,
    pause: Duration,
}

/// What a knock is worth.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A poll, because of these.
    Everywhere(Vec<Stranger>),
    /// A poll of the partitions where a spoke waits for its key.
    Keyless,
    /// Nothing.
    Nothing,
}

impl Strangers {
    /// Whether a knock could be worth anything now; `keyless` is whether a spoke is
    /// known that has not published its key yet.
    pub(crate) fn may_ask(&self, keyless: bool, now: Instant) -> bool {
        rested(self.everywhere, PAUSE, now) || keyless && rested(self.keyless, KEYLESS_PAUSE, now)
    }

    /// Takes in who knocked and is not known; `keyless` is whether one of them may be a
    /// spoke that is known and has not published its key yet.
    pub(crate) fn knocked(&mut self, who: &[Stranger], keyless: bool, now: Instant) -> Ask {
        if rested(self.everywhere, PAUSE, now) {
            let who = who.iter().cloned();
            let news: Vec<_> = who.filter(|it| self.may_ask_for(it, now)).collect();
            if !news.is_empty() {
                self.everywhere = Some(now);
                return Ask::Everywhere(news);
            }
        }
        if keyless && rested(self.keyless, KEYLESS_PAUSE, now) {
            self.keyless = Some(now);
            return Ask::Keyless;
        }
        Ask::Nothing
    }

    /// Whether this one is worth a poll of everything: its first knock is, and then
    /// one after pauses that double up to a minute.
    fn may_ask_for(&mut self, who: &Stranger, now: Instant) -> bool {
        if let Some(asked) = self.asked.get_mut(who) {
            if now.duration_since(asked.at) < asked.pause {
                return false;
            }
            asked.at = now;
            let longest = match who {
                Stranger::Key(_) | Stranger::Instance(_) => LONGEST_PAUSE,
                Stranger::Nameless => LONGEST_PAUSE_NAMELESS,
            };
            asked.pause = (asked.pause * 2).min(longest);
            return true;
        }
        if self.asked.len() >= MOST {
            self.asked
                .retain(|_, asked| now.duration_since(asked.at) < asked.pause);
        }
        if self.asked.len() < MOST {
            let pause = PAUSE;
            self.asked.insert(who.clone(), Asked { at: now, pause });
        }
        true
    }
}

fn rested(last: Option<Instant>, pause: Duration, now: Instant) -> bool {
    last.is_none_or(|last| now.duration_since(last) >= pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Stranger {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        Stranger::Key(PublicKey::from_bytes(key))
    }

    fn refused(peer: &str) -> Option<Stranger> {
        let (ours, peer) = ("198.51.100.1".to_owned(), peer.to_owned());
        Stranger::refused(IkeFailure::UnknownIdentity { ours, peer })
    }

    /// The seconds in which these keys, knocking each second, are worth a poll.
    fn polls(keys: &[Stranger], keyless: bool, seconds: u64) -> (Vec<u64>, Vec<u64>) {
        let start = Instant::now();
        let mut strangers = Strangers::default();
        let (mut everywhere, mut there) = (Vec::new(), Vec::new());
        for second in 0..seconds {
            let now = start + Duration::from_secs(second);
            if !strangers.may_ask(keyless, now) {
                continue;
            }
            match strangers.knocked(keys, keyless, now) {
                Ask::Everywhere(_) => everywhere.push(second),
                Ask::Keyless => there.push(second),
                Ask::Nothing => {}
            }
        }
        (everywhere, there)
    }

    #[test]
    fn a_key_asks_at_once_and_then_ever_more_rarely() {
        let (everywhere, there) = polls(&[key(1)], false, 200);
        assert_eq!(everywhere, [0, 10, 30, 70, 130, 190]);
        assert!(there.is_empty(), "{there:?}");
    }

    #[test]
    fn while_a_spoke_lacks_its_key_it_is_asked_for_every_few_seconds() {
        let (everywhere, there) = polls(&[key(1)], true, 16);
        assert_eq!(everywhere, [0, 10]);
        assert_eq!(there, [1, 4, 7, 11, 14]);
    }

    #[test]
    fn many_keys_cause_a_poll_in_ten_seconds_and_not_more() {
        let keys: Vec<Stranger> = (0..100).map(key).collect();
        let start = Instant::now();
        let mut strangers = Strangers::default();
        let asked = (0..100).filter(|second| {
            let now = start + Duration::from_secs(*second);
            let one = &keys[*second as usize..][..1];
            strangers.knocked(one, false, now) != Ask::Nothing
        });
        assert_eq!(asked.count(), 10);
        assert_eq!(strangers.knocked(&[], false, start), Ask::Nothing);
    }

    #[test]
    fn who_is_refused_by_ipsec_knocks_where_it_may_be_a_spoke() {
        assert_eq!(refused("fw.example"), None);
        assert_eq!(Stranger::refused(IkeFailure::PeerDead), None);
        let instance = refused("i-0123456789abcdef0").into_iter();
        // Scanners from anywhere are one of many.
        let from = |n: u32| format!("198.51.100.{n}");
        let nameless = |n| Stranger::refused(IkeFailure::NoConnection { from: from(n) });
        let nameless: Vec<_> = (0..50).filter_map(nameless).collect();
        let asked = polls(&nameless, false, 3000).0;
        assert_eq!(asked, [0, 10, 30, 70, 150, 310, 630, 1230, 1830, 2430]);
        let both: Vec<_> = nameless.into_iter().chain(instance).collect();
        assert_eq!(polls(&both, false, 20).0, [0, 10]);
    }

    #[test]
    fn made_up_keys_do_not_fill_the_memory() {
        let now = Instant::now();
        let mut strangers = Strangers::default();
        for number in 0..10_000 {
            strangers.may_ask_for(&key(number), now);
        }
        assert_eq!(strangers.asked.len(), MOST);
    }
}
