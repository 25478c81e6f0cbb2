//! Keys that nobody knows and that knock: each may cause an early poll, but one
//! that EC2 does not know either must not cause one for ever.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use privnet_model::key::PublicKey;

const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// A spoke whose role was mended is not to wait much longer than for a poll.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Keys remembered: whoever makes up more of them gains one poll per ten
/// seconds, which is what the hub allows anyway.
const MOST: usize = 1024;

/// The keys that knocked, and when a poll may be asked for again because of each.
#[derive(Debug, Default)]
pub(crate) struct Strangers(BTreeMap<PublicKey, Asked>);

#[derive(Debug)]
struct Asked {
    at: Instant,
    pause: Duration,
}

impl Strangers {
    /// Whether this knock is worth a poll: the first of a key is, and then one
    /// after pauses that double up to a minute.
    pub(crate) fn may_ask_for(&mut self, key: PublicKey) -> bool {
        self.may_ask_at(key, Instant::now())
    }

    fn may_ask_at(&mut self, key: PublicKey, now: Instant) -> bool {
        if let Some(asked) = self.0.get_mut(&key) {
            if now.duration_since(asked.at) < asked.pause {
                return false;
            }
            asked.at = now;
            asked.pause = (asked.pause * 2).min(LONGEST_PAUSE);
            return true;
        }
        if self.0.len() >= MOST {
            self.0
                .retain(|_, asked| now.duration_since(asked.at) < asked.pause);
        }
        if self.0.len() < MOST {
            let pause = FIRST_PAUSE;
            self.0.insert(key, Asked { at: now, pause });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_asks_at_once_and_then_ever_more_rarely() {
        let key = PublicKey::from_bytes([1; 32]);
        let start = Instant::now();
        let mut strangers = Strangers::default();
        let polls: Vec<u64> = (0..200)
            .filter(|second| strangers.may_ask_at(key, start + Duration::from_secs(*second)))
            .collect();
        assert_eq!(polls, [0, 10, 30, 70, 130, 190]);
    }

    #[test]
    fn another_key_is_not_held_back() {
        let now = Instant::now();
        let mut strangers = Strangers::default();
        assert!(strangers.may_ask_at(PublicKey::from_bytes([1; 32]), now));
        assert!(strangers.may_ask_at(PublicKey::from_bytes([2; 32]), now));
    }

    #[test]
    fn made_up_keys_do_not_fill_the_memory() {
        let now = Instant::now();
        let mut strangers = Strangers::default();
        for number in 0..10_000_u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_be_bytes());
            strangers.may_ask_at(PublicKey::from_bytes(key), now);
        }
        assert_eq!(strangers.0.len(), MOST);
    }
}
