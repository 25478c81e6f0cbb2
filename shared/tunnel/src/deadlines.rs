//! When each peer of a worker must be ticked next, so that a peer with nothing to
//! do costs nothing.
//!
//! A peer with its key material fills eleven kilobytes; to look at ten thousand
//! of them four times a second only to find that there is nothing to do took
//! nearly two per cent of a core. Here each has eight bytes, one after another. A
//! pass over them all takes microseconds, begins only when the earliest deadline
//! has come, and ends before it may begin again after a pause. A wheel of timers
//! would save the pass and cost a list per peer; nothing here allocates but for
//! new places. It knows places and times, not peers.

use std::time::{Duration, Instant};

/// From the end of one pass to the beginning of the next, at least: how late a
/// peer may be ticked. What is due together goes out in one system call.
const PAUSE: u64 = 100;

const NEVER: u64 = u64::MAX;

/// The deadlines of the places of a table. Times inside are milliseconds since
/// the first call.
#[derive(Debug)]
pub(crate) struct Deadlines {
    epoch: Option<Instant>,
    at: Vec<u64>,
    /// No deadline is earlier; but while a pass is under way, that is said only of
    /// the places that it has passed and of those that were set meanwhile.
    earliest: u64,
    /// Where the pass that is under way goes on.
    pass: Option<usize>,
    next_pass: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            epoch: None,
            at: Vec::new(),
            earliest: NEVER,
            pass: None,
            next_pass: 0,
        }
    }
}

impl Deadlines {
    /// Sets a place's deadline, or takes it away.
    pub(crate) fn set(&mut self, place: usize, deadline: Option<Instant>, now: Instant) {
        let epoch = *self.epoch.get_or_insert(now);
        let at = deadline.map_or(NEVER, |deadline| {
            // Rounded up, as the present is rounded down: nobody is ticked early.
            let since = deadline.saturating_duration_since(epoch);
            (since + Duration::from_nanos(999_999)).as_millis() as u64
        });
        if place >= self.at.len() {
            self.at.resize(place + 1, NEVER);
        }
        self.at[place] = at;
        self.earliest = self.earliest.min(at);
    }

    /// A place whose deadline has come, if there is one. Whoever asks sets it
    /// anew, later than `now`; until then it has none. A pass in which nothing
    /// more is found is over.
    pub(crate) fn next_due(&mut self, now: Instant) -> Option<usize> {
        let now = self.milliseconds(now)?;
        let start = match self.pass {
            Some(place) => place,
            None if now < self.earliest.max(self.next_pass) => return None,
            None => {
                self.earliest = NEVER;
                0
            }
        };
        for (place, at) in self.at.iter_mut().enumerate().skip(start) {
            if *at <= now {
                *at = NEVER;
                self.pass = Some(place + 1);
                return Some(place);
            }
            self.earliest = self.earliest.min(*at);
        }
        self.pass = None;
        self.next_pass = now + PAUSE;
        None
    }

    /// When to ask again: at once in the middle of a pass.
    pub(crate) fn next_at(&self, now: Instant) -> Option<Instant> {
        if self.pass.is_some() {
            return Some(now);
        }
        if self.earliest == NEVER {
            return None;
        }
        let at = Duration::from_millis(self.earliest.max(self.next_pass));
        self.epoch.map(|epoch| epoch + at)
    }

    fn milliseconds(&self, now: Instant) -> Option<u64> {
        let since = now.saturating_duration_since(self.epoch?);
        Some(since.as_millis() as u64)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test begins at some time")]
    use proptest::prelude::*;

    use super::*;

    fn after(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    fn due(deadlines: &mut Deadlines, now: Instant) -> Vec<usize> {
        std::iter::from_fn(|| deadlines.next_due(now)).collect()
    }

    #[test]
    fn without_deadlines_nobody_is_woken() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        assert_eq!(deadlines.next_at(start), None);
        deadlines.set(3, Some(after(start, 100)), start);
        deadlines.set(3, None, start);
        assert_eq!(due(&mut deadlines, after(start, 1000)), []);
        assert_eq!(deadlines.next_at(after(start, 1000)), None);
    }

    #[test]
    fn the_earliest_deadline_tells_when_to_ask() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.set(7, Some(after(start, 5000)), start);
        deadlines.set(2, Some(after(start, 3000)), start);
        assert_eq!(deadlines.next_at(start), Some(after(start, 3000)));
        assert_eq!(due(&mut deadlines, after(start, 2999)), []);
        assert_eq!(due(&mut deadlines, after(start, 3000)), [2]);
        assert_eq!(
            deadlines.next_at(after(start, 3000)),
            Some(after(start, 5000))
        );
    }

    #[test]
    fn passes_pause_however_many_deadlines_come() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.set(0, Some(start), start);
        assert_eq!(due(&mut deadlines, start), [0]);
        deadlines.set(1, Some(after(start, 1)), start);
        assert_eq!(due(&mut deadlines, after(start, 1)), []);
        assert_eq!(deadlines.next_at(start), Some(after(start, PAUSE)));
        assert_eq!(due(&mut deadlines, after(start, PAUSE)), [1]);
    }

    #[test]
    fn a_pass_that_stops_halfway_goes_on_at_once_where_it_stopped() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        for place in 0..4 {
            deadlines.set(place, Some(start), start);
        }
        assert_eq!(deadlines.next_due(start), Some(0));
        // Set again behind the pass: its turn comes with the next one.
        deadlines.set(0, Some(after(start, 1)), start);
        let later = after(start, 2);
        assert_eq!(deadlines.next_at(later), Some(later));
        assert_eq!(due(&mut deadlines, later), [1, 2, 3]);
        assert_eq!(deadlines.next_at(later), Some(after(later, PAUSE)));
        assert_eq!(due(&mut deadlines, after(later, PAUSE)), [0]);
    }

    proptest! {
        #[test]
        fn every_place_has_its_turn_in_time_and_none_before(
            sets in prop::collection::vec((0usize..20, 0u64..400, 0u64..60), 1..60),
        ) {
            let start = Instant::now();
            let mut deadlines = Deadlines::default();
            let mut model = [None; 20];
            let mut now = start;
            for (place, ahead, step) in sets {
                let deadline = now + Duration::from_millis(ahead);
                deadlines.set(place, Some(deadline), now);
                model[place] = Some(deadline);
                now += Duration::from_millis(step);
                while let Some(at) = deadlines.next_at(now).filter(|at| *at <= now) {
                    prop_assert!(at <= now);
                    for place in due(&mut deadlines, now) {
                        prop_assert!(model[place].take().is_some_and(|at| at <= now));
                    }
                }
                let late = Duration::from_millis(PAUSE);
                for deadline in model.iter().flatten() {
                    prop_assert!(*deadline + late > now);
                }
            }
        }
    }
}
