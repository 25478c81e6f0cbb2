//! How long the machine lets a thread wait that has something to do: what a program took
//! because of that is no fault of the program.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// From one beat to the next.
const INTERVAL: Duration = Duration::from_millis(20);
/// An idle machine is as late.
const USUAL: Duration = Duration::from_millis(2);
/// A request may be lost because the machine stood still for so long in its time: a fifth of
/// what its connection may take, and ten times what a busy machine is late as a rule.
const STOOD_STILL: Duration = Duration::from_millis(200);

/// A thread that does nothing but look at the clock. It ends when this is dropped.
#[derive(Debug)]
pub struct Heartbeat {
    stop: Arc<AtomicBool>,
    late: Arc<Mutex<Vec<Range<Instant>>>>,
}

impl Heartbeat {
    /// Begins.
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let late = Arc::new(Mutex::new(Vec::new()));
        let (stopped, record) = (Arc::clone(&stop), Arc::clone(&late));
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let due = Instant::now() + INTERVAL;
                std::thread::sleep(INTERVAL);
                let now = Instant::now();
                if now - due > USUAL {
                    let record = record.lock();
                    let mut record = record.unwrap_or_else(PoisonError::into_inner);
                    record.push(due..now);
                }
            }
        });
        Self { stop, late }
    }

    /// How much of this time it should have beaten, and could not.
    pub fn stalled(&self, time: &Range<Instant>) -> Duration {
        let late = self.late.lock();
        let late = late.unwrap_or_else(PoisonError::into_inner);
        late.iter().map(|one| overlap(one, time)).sum()
    }

    /// Whether that was so much that a request may have been lost by it.
    pub fn stood_still(&self, time: &Range<Instant>) -> bool {
        self.stalled(time) >= STOOD_STILL
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn overlap(one: &Range<Instant>, other: &Range<Instant>) -> Duration {
    let (from, to) = (one.start.max(other.start), one.end.min(other.end));
    to.saturating_duration_since(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_stall_counts_what_lies_within_the_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let stalls = |from, to| {
            let late = Arc::new(Mutex::new(vec![at(1)..at(3), at(7)..at(8)]));
            let stop = Arc::default();
            let heartbeat = Heartbeat { stop, late };
            heartbeat.stalled(&(at(from)..at(to))).as_secs()
        };
        assert_eq!(stalls(0, 10), 3);
        assert_eq!(stalls(2, 7), 1);
        assert_eq!(stalls(3, 7), 0);
        assert_eq!(stalls(2, 2), 0);
    }
}
