//! Which of several hubs a spoke by IPsec uses. All its spokes should meet at one hub:
//! there is no way from hub to hub. So each goes back to the first one that can be used,
//! but not before that one has lasted, and later where it did not last.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a hub may be down before another one's turn comes. One that lives has
/// answered by then, unless packets are lost: charon repeats its first message after a
/// second.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long a hub must have answered before it is used again.
const LASTS: Duration = Duration::from_secs(30);
/// The same of one that did not last, at most. Spokes that waited for different times
/// are parted for as long.
const LONGEST: Duration = Duration::from_secs(5 * 60);
/// A hub that was up for so long after a return lasts.
const PROVED: Duration = Duration::from_secs(10 * 60);

/// What is known of the hubs, which are numbered as in the config.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// How many there are.
    pub(super) hubs: usize,
    /// Whether another one could be used.
    pub(super) may_change: bool,
    /// Whether the tunnel to the one in use is up.
    pub(super) is_up: bool,
    /// Those before it that answer and let us in.
    pub(super) ready: BTreeSet<usize>,
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
    in_use: usize,
    /// Since when it is down, or began to be tried.
    down_since: Option<Instant>,
    /// Those before it that are ready, and since when.
    ready: BTreeMap<usize, Instant>,
    /// How long one must be ready.
    lasts: Duration,
    /// When the one in use was returned to, and whether it was up since then.
    returned: Option<(Instant, bool)>,
    /// Those that were ready and gave no tunnel, and whether they were ready again since:
    /// they are not believed before they have been gone.
    deceptive: BTreeMap<usize, bool>,
}

impl Choice {
    /// This one is used to begin with.
    pub(in super::super) fn beginning_with(hub: usize) -> Self {
        Self {
            in_use: hub,
            down_since: None,
            ready: BTreeMap::new(),
            lasts: LASTS,
            returned: None,
            deceptive: BTreeMap::new(),
        }
    }

    /// The hub in use.
    pub(in super::super) fn in_use(&self) -> usize {
        self.in_use
    }

    /// Takes in what is known now; says if another hub is used from now on.
    pub(super) fn look(&mut self, seen: &Seen, now: Instant) -> Option<Change> {
        if seen.hubs < 2 || !seen.may_change {
            self.down_since = None;
            self.ready.clear();
            return None;
        }
        self.hear(&seen.ready, now);
        let lasting = self
            .ready
            .iter()
            .filter(|(hub, _)| !self.deceptive.contains_key(*hub))
            .find(|(_, since)| now - **since >= self.lasts)
            .map(|(hub, _)| *hub);
        if seen.is_up {
            self.down_since = None;
            if let Some((at, was_up)) = &mut self.returned {
                *was_up = true;
                if now - *at >= PROVED {
                    self.returned = None;
                    self.lasts = LASTS;
                }
            }
            let hub = lasting?;
            self.returned = Some((now, false));
            return Some(self.use_hub(hub, Change::Back, now));
        }
        let since = *self.down_since.get_or_insert(now);
        if now - since < PATIENCE {
            return None;
        }
        match self.returned.take() {
            Some((_, true)) => self.lasts = (self.lasts * 2).min(LONGEST),
            Some((_, false)) => {
                self.deceptive.insert(self.in_use, false);
            }
            None => {}
        }
        let next = lasting.unwrap_or((self.in_use + 1) % seen.hubs);
        Some(self.use_hub(next, Change::Next, now))
    }

    fn hear(&mut self, ready: &BTreeSet<usize>, now: Instant) {
        self.ready.retain(|hub, _| ready.contains(hub));
        for hub in ready {
            self.ready.entry(*hub).or_insert(now);
        }
        self.deceptive
            .retain(|hub, again| ready.contains(hub) || !*again);
        for (hub, again) in &mut self.deceptive {
            *again |= ready.contains(hub);
        }
    }

    fn use_hub(&mut self, hub: usize, change: Change, now: Instant) -> Change {
        self.in_use = hub;
        self.down_since = Some(now);
        self.ready.clear();
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a hub is.
    #[derive(Clone, Copy, PartialEq)]
    enum Hub {
        Up,
        Down,
        /// It lets us in, and gives no tunnel.
        Deceptive,
    }

    /// A spoke's choice among hubs, looked at each second. Its tunnel is up a second after
    /// its hub is.
    fn changes(hubs: usize, seconds: u64, hub: impl Fn(usize, u64) -> Hub) -> Vec<(u64, usize)> {
        let (start, mut choice) = (Instant::now(), Choice::beginning_with(0));
        let mut changes = Vec::new();
        let mut connected = false;
        for second in 0..seconds {
            let is_up = |number| hub(number, second) == Hub::Up;
            let seen = Seen {
                hubs,
                may_change: true,
                is_up: connected && is_up(choice.in_use()),
                ready: (0..choice.in_use())
                    .filter(|number| hub(*number, second) != Hub::Down)
                    .collect(),
            };
            let changed = choice.look(&seen, start + Duration::from_secs(second));
            connected = changed.is_none() && is_up(choice.in_use());
            if changed.is_some() {
                changes.push((second, choice.in_use()));
            }
        }
        changes
    }

    fn up_if(up: bool) -> Hub {
        if up { Hub::Up } else { Hub::Down }
    }

    #[test]
    fn a_spoke_uses_the_first_hub_and_nothing_else_while_it_is_up() {
        assert!(changes(3, 10_000, |_, _| Hub::Up).is_empty());
    }

    #[test]
    fn the_next_hub_serves_while_the_first_is_down_and_a_while_longer() {
        let hub = |hub, second| up_if(hub == 1 || !(100..200).contains(&second));
        assert_eq!(changes(2, 10_000, hub), [(104, 1), (230, 0)]);
    }

    #[test]
    fn a_hub_that_comes_and_goes_is_returned_to_later_each_time() {
        // Never up for as long as it takes.
        let hub = |hub, second| up_if(hub == 1 || second % 30 < 25);
        assert_eq!(changes(2, 10_000, hub), [(29, 1)]);
        // Up for a minute, down for one.
        let hub = |hub, second| up_if(hub == 1 || second % 120 < 60);
        assert_eq!(changes(2, 10_000, hub), [(64, 1), (150, 0), (184, 1)]);
        // Up for half an hour, then down for five minutes.
        let hub = |hub, second| up_if(hub == 1 || second % 2100 < 1800);
        let expected = [(1804, 1), (2130, 0), (3904, 1), (4230, 0), (6004, 1)];
        assert_eq!(changes(2, 6_100, hub), expected);
    }

    #[test]
    fn all_are_tried_in_turn_and_one_that_lasts_is_next() {
        let hub = |_, second| up_if(second < 10);
        let expected = [(14, 1), (18, 2), (22, 0), (26, 1)];
        assert_eq!(changes(3, 30, hub), expected);
        let hub = |hub, second| up_if(hub == 2 && second < 100 || hub == 1 && second >= 60);
        assert_eq!(changes(3, 200, hub), [(4, 1), (8, 2), (90, 1)]);
    }

    #[test]
    fn a_hub_that_flaps_does_not_keep_a_spoke_from_one_that_lasts() {
        let hub = |hub, second| match hub {
            0 => up_if(second < 5 || second >= 20 && second % 40 < 20),
            1 => up_if(second >= 60),
            _ => Hub::Up,
        };
        assert_eq!(changes(3, 10_000, hub), [(9, 1), (13, 2), (90, 1)]);
    }

    #[test]
    fn a_hub_that_lets_us_in_and_gives_no_tunnel_is_tried_once() {
        let hub = |hub, _| [Hub::Deceptive, Hub::Down, Hub::Up][hub];
        let expected = [(4, 1), (8, 2), (39, 0), (43, 1), (47, 2)];
        assert_eq!(changes(3, 100_000, hub), expected);
        // And again when it has been gone.
        let hub = |hub, second| match (hub, second) {
            (0, 0..1000) => Hub::Deceptive,
            (0, 1000..1100) => Hub::Down,
            _ => Hub::Up,
        };
        let expected = [(4, 1), (35, 0), (39, 1), (1130, 0)];
        assert_eq!(changes(2, 100_000, hub), expected);
    }

    #[test]
    fn without_strongswan_no_hub_is_better_than_another() {
        let (start, mut choice) = (Instant::now(), Choice::beginning_with(0));
        for second in 0..100 {
            let seen = Seen {
                hubs: 2,
                may_change: false,
                is_up: false,
                ready: BTreeSet::new(),
            };
            let changed = choice.look(&seen, start + Duration::from_secs(second));
            assert_eq!(changed, None);
        }
    }
}
