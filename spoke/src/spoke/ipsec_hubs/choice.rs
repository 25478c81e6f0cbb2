//! Which of several hubs a spoke by IPsec uses. All its spokes should meet at one hub:
//! there is no way from hub to hub. So each goes back to the first one that can be used,
//! but not before that one has lasted, and ever later where it does not last.

use std::time::{Duration, Instant};

/// How long a hub may be down before another one's turn comes. One that lives has
/// answered by then, unless packets are lost: charon repeats its first message after a
/// second.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long a hub must have answered before it is used again.
const LASTS: Duration = Duration::from_secs(30);
/// The same of one that did not last, at most.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// A hub that was up for so long after a return lasts.
const PROVED: Duration = Duration::from_secs(10 * 60);

/// What is known of the hubs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// How many there are.
    pub(super) hubs: usize,
    /// Whether another one could be used.
    pub(super) may_change: bool,
    /// Whether the tunnel to the one in use is up.
    pub(super) is_up: bool,
    /// The first one before it that answers and lets us in.
    pub(super) ready: Option<usize>,
}

/// Why another hub is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The one in use is down.
    Next,
    /// One before it is back.
    Back,
}

/// Which hub is used.
#[derive(Debug)]
pub(in super::super) struct Choice {
    /// Its place in the config.
    in_use: usize,
    /// Since when it is down, or began to be tried.
    down_since: Option<Instant>,
    /// The first one before it that is ready, and since when.
    ready: Option<(usize, Instant)>,
    /// How long one must be ready.
    lasts: Duration,
    /// When a hub was returned to.
    returned: Option<Instant>,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            in_use: 0,
            down_since: None,
            ready: None,
            lasts: LASTS,
            returned: None,
        }
    }
}

impl Choice {
    /// The place in the config of the hub in use.
    pub(super) fn in_use(&self) -> usize {
        self.in_use
    }

    /// Takes in what is known now; says if another hub is used from now on.
    pub(super) fn look(&mut self, seen: Seen, now: Instant) -> Option<Change> {
        if seen.hubs < 2 || !seen.may_change {
            self.down_since = None;
            self.ready = None;
            return None;
        }
        let known = self.ready.filter(|(hub, _)| Some(*hub) == seen.ready);
        self.ready = known.or(seen.ready.map(|hub| (hub, now)));
        if seen.is_up {
            self.down_since = None;
            if self.returned.is_some_and(|at| now - at >= PROVED) {
                self.returned = None;
                self.lasts = LASTS;
            }
            let (hub, _) = self.ready.filter(|(_, since)| now - *since >= self.lasts)?;
            self.returned = Some(now);
            return Some(self.use_hub(hub, Change::Back, now));
        }
        let since = *self.down_since.get_or_insert(now);
        if now - since < PATIENCE {
            return None;
        }
        if self.returned.take().is_some() {
            self.lasts = (self.lasts * 2).min(LONGEST);
        }
        let next = seen.ready.unwrap_or((self.in_use + 1) % seen.hubs);
        Some(self.use_hub(next, Change::Next, now))
    }

    fn use_hub(&mut self, hub: usize, change: Change, now: Instant) -> Change {
        self.in_use = hub;
        self.down_since = Some(now);
        self.ready = None;
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A spoke's choice among hubs that are up or down, looked at each second. Its tunnel
    /// is up a second after its hub is.
    fn changes(hubs: usize, seconds: u64, up: impl Fn(usize, u64) -> bool) -> Vec<(u64, usize)> {
        let (start, mut choice) = (Instant::now(), Choice::default());
        let mut changes = Vec::new();
        let mut connected = false;
        for second in 0..seconds {
            let is_up = |hub| up(hub, second);
            let seen = Seen {
                hubs,
                may_change: true,
                is_up: connected && is_up(choice.in_use()),
                ready: (0..choice.in_use()).find(|hub| is_up(*hub)),
            };
            let changed = choice.look(seen, start + Duration::from_secs(second));
            connected = changed.is_none() && is_up(choice.in_use());
            if changed.is_some() {
                changes.push((second, choice.in_use()));
            }
        }
        changes
    }

    #[test]
    fn a_spoke_uses_the_first_hub_and_nothing_else_while_it_is_up() {
        assert!(changes(3, 10_000, |_, _| true).is_empty());
    }

    #[test]
    fn the_next_hub_serves_while_the_first_is_down_and_a_while_longer() {
        let up = |hub, second| hub == 1 || !(100..200).contains(&second);
        assert_eq!(changes(2, 10_000, up), [(104, 1), (230, 0)]);
    }

    #[test]
    fn a_hub_that_comes_and_goes_is_returned_to_ever_more_rarely() {
        // Never up for as long as it takes.
        let up = |hub, second| hub == 1 || second % 30 < 25;
        assert_eq!(changes(2, 10_000, up), [(29, 1)]);
        // Up for a minute, down for one.
        let up = |hub, second| hub == 1 || second % 120 < 60;
        assert_eq!(changes(2, 10_000, up), [(64, 1), (150, 0), (184, 1)]);
        // Up for half an hour, then down for five minutes.
        let up = |hub, second| hub == 1 || second % 2100 < 1800;
        let expected = [(1804, 1), (2130, 0), (3904, 1), (4230, 0), (6004, 1)];
        assert_eq!(changes(2, 6_100, up), expected);
    }

    #[test]
    fn all_are_tried_in_turn_and_any_that_is_back_is_next() {
        let up = |_, second| second < 10;
        let expected = [(14, 1), (18, 2), (22, 0), (26, 1)];
        assert_eq!(changes(3, 30, up), expected);
        let up = |hub, second| hub == 2 && second < 100 || hub == 1 && second >= 98;
        let expected = [(4, 1), (8, 2), (104, 1)];
        assert_eq!(changes(3, 200, up), expected);
    }

    #[test]
    fn without_strongswan_no_hub_is_better_than_another() {
        let (start, mut choice) = (Instant::now(), Choice::default());
        for second in 0..100 {
            let seen = Seen {
                hubs: 2,
                may_change: false,
                is_up: false,
                ready: None,
            };
            let changed = choice.look(seen, start + Duration::from_secs(second));
            assert_eq!(changed, None);
        }
    }
}
