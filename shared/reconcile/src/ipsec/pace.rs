//! How often a tunnel is begun that does not come up: at once, and then ever less
//! often. A peer that refuses us would see a storm otherwise, and charon gives up by
//! itself after an authentication that failed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use privnet_model::ipsec::ConnectionName;

const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// When each tunnel may be begun again.
#[derive(Debug, Default)]
pub struct Pace {
    next: BTreeMap<ConnectionName, (Instant, Duration)>,
}

impl Pace {
    /// Whether the tunnel may be begun now; if so, it counts as begun.
    pub fn may_begin(&mut self, name: &ConnectionName, longest: Duration, now: Instant) -> bool {
        let (at, pause) = self.next.get(name).copied().unwrap_or((now, FIRST_PAUSE));
        if now < at {
            return false;
        }
        let longer = (pause * 2).min(longest);
        self.next.insert(name.clone(), (now + pause, longer));
        true
    }

    /// It is up, or another tunnel now: the next time it is begun at once.
    pub fn forget(&mut self, name: &ConnectionName) {
        self.next.remove(name);
    }

    /// Nothing that was tried before says anything now.
    pub fn forget_all(&mut self) {
        self.next.clear();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant does for a start")]
    fn a_tunnel_that_stays_down_is_begun_less_and_less_often() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let name = ConnectionName::of("dc").unwrap();
        let begin = |pace: &mut Pace, second| {
            pace.may_begin(&name, LONGEST_PAUSE, start + Duration::from_secs(second))
        };
        let begun: Vec<u64> = (0..200)
            .filter(|second| begin(&mut pace, *second))
            .collect();
        assert_eq!(begun, [0, 1, 3, 7, 15, 31, 61, 91, 121, 151, 181]);
        pace.forget(&name);
        assert!(begin(&mut pace, 182));
    }
}
