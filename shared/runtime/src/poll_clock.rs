//! When to poll next: at once, then every interval with a little jitter, and
//! sooner while polls fail.
//!
//! The jitter keeps a fleet that was started together from asking EC2
//! together. This never polls by itself and never bursts: a poll that was
//! missed is not made up for.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// A poll comes up to this fraction of the interval earlier or later.
const JITTER: f64 = 0.05;
/// The wait after the first failed poll; it doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(10);

/// The clock of one repeated poll; the first is due at once.
#[derive(Debug)]
pub struct PollClock {
    interval: Duration,
    failures: u32,
    due: Instant,
    due_at: Timestamp,
}

impl PollClock {
    /// A clock that is due now.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            failures: 0,
            due: Instant::now(),
            due_at: Timestamp::now(),
        }
    }

    /// Waits until the next poll is due. Cancel-safe; keeps returning at once
    /// until the poll's outcome is told.
    pub async fn due(&self) {
        tokio::time::sleep_until(self.due).await;
    }

    /// When that is, for the status.
    pub fn due_at(&self) -> Timestamp {
        self.due_at
    }

    /// A poll went well, whoever asked for it: the next one is an interval away.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.schedule();
    }

    /// A poll failed (or a part of it did): the next one comes sooner, the
    /// first time after about 10 s, and ever later while failures go on.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.schedule();
    }

    /// A poll was started: none is due until it is told how that one ended.
    pub fn started(&mut self) {
        self.schedule();
    }

    fn schedule(&mut self) {
        let delay = delay(self.interval, self.failures, rand::random());
        self.due = Instant::now() + delay;
        self.due_at = Timestamp::now() + delay;
    }
}

/// The wait until the next poll after so many failures in a row. `random` is
/// in 0..1.
fn delay(interval: Duration, failures: u32, random: f64) -> Duration {
    let base = match failures {
        0 => interval,
        // Past 2^20 times ten seconds, any interval is shorter.
        _ => (FIRST_RETRY * 2_u32.pow((failures - 1).min(20))).min(interval),
    };
    base.mul_f64(1.0 + JITTER * (2.0 * random - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_jitter_is_five_percent_either_way() {
        assert_eq!(delay(HOUR, 0, 0.0), Duration::from_secs(3420));
        assert_eq!(delay(HOUR, 0, 0.5), HOUR);
        assert!(delay(HOUR, 0, 0.999_999) <= Duration::from_secs(3780));
    }

    #[test]
    fn failures_come_back_sooner_and_back_off_to_the_interval() {
        let waits: Vec<u64> = [1, 2, 3, 9, 10, u32::MAX]
            .map(|failures| delay(HOUR, failures, 0.5).as_secs())
            .to_vec();
        assert_eq!(waits, [10, 20, 40, 2560, 3600, 3600]);
    }

    #[tokio::test]
    async fn a_start_between_failures_does_not_forget_them() {
        let mut clock = PollClock::new(HOUR);
        for _ in 0..3 {
            clock.started();
            clock.failed();
        }
        let away = clock.due_at().duration_since(Timestamp::now()).as_secs();
        assert!((37..43).contains(&away), "{away}");
    }

    #[test]
    fn a_short_interval_is_never_made_longer_by_a_failure() {
        let interval = Duration::from_secs(2);
        assert_eq!(delay(interval, 5, 0.5), interval);
    }

    #[tokio::test]
    async fn the_first_poll_is_due_at_once_and_the_next_an_interval_later() {
        let mut clock = PollClock::new(HOUR);
        clock.due().await;
        clock.due().await;
        clock.succeeded();
        let waited = tokio::time::timeout(Duration::from_millis(20), clock.due()).await;
        assert!(waited.is_err());
        let away = clock.due_at().duration_since(Timestamp::now()).as_secs();
        assert!((3400..3800).contains(&away), "{away}");
    }
}
