//! A ping that runs while something else happens, and what became of each request.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::capture::ping_pattern;
use crate::namespace::{Namespace, logs};
use crate::process::{Process, wait_until};

/// From one request to the next, where a test wants no other.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// A ping under way.
#[derive(Debug)]
pub struct LongPing {
    process: Process,
    interval: Duration,
}

/// What became of its requests, in their order.
#[derive(Debug)]
pub struct Answered {
    answers: Vec<Option<Answer>>,
    interval: Duration,
}

/// The first answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    /// When it came, since 1970.
    at: Duration,
    /// How long it took.
    took: Duration,
}

impl LongPing {
    /// Pings `to` from there until it is ended.
    pub fn start(from: &Namespace, to: impl Display) -> Result<Self> {
        Self::start_every(INTERVAL, from, to)
    }

    /// The same, with this time from one request to the next.
    pub fn start_every(interval: Duration, from: &Namespace, to: impl Display) -> Result<Self> {
        let mut command = from.command("ping");
        let seconds = interval.as_secs_f32().to_string();
        command.args(["-n", "-D", "-i", &seconds, "-p", &ping_pattern()]);
        command.arg(to.to_string());
        // A log of its own: two of them to one address number from one each.
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("ping-{number}-{to}");
        let process = Process::start(&name, &logs(), command)?;
        Ok(Self { process, interval })
    }

    /// Waits until that many more requests than now are answered.
    pub fn answers(&self, count: usize, patience: Duration) -> Result<()> {
        let before = self.seen()?.len();
        wait_until("answers to a ping", patience, || {
            Ok((self.seen()?.len() >= before + count).then_some(()))
        })
    }

    /// An error if a request that was sent until now stays without an answer.
    /// Returns how many were answered.
    pub fn has_lost_nothing(&mut self, patience: Duration) -> Result<usize> {
        self.process.check()?;
        // The next but one that is answered was sent after this call began.
        let goal = self.last()? + 2;
        let mut last = 0;
        wait_until("a further answer to a ping", patience, || {
            last = self.last()?;
            Ok((last >= goal).then_some(()))
        })?;
        wait_until("late answers to pings", patience, || {
            let seen = self.seen()?;
            let lost: Vec<u64> = (1..=last).filter(|n| !seen.contains_key(n)).collect();
            ensure!(lost.is_empty(), "of {last} pings these were lost: {lost:?}");
            Ok(Some(seen.len()))
        })
    }

    /// Ends it.
    pub fn end(self) -> Result<Answered> {
        let seen = self.seen()?;
        let last = *seen.keys().next_back().context("no ping was answered")?;
        self.process.stop(Duration::from_secs(20))?;
        Ok(Answered {
            answers: (1..=last).map(|n| seen.get(&n).copied()).collect(),
            interval: self.interval,
        })
    }

    /// The number of the last request that was answered; they begin at one.
    fn last(&self) -> Result<u64> {
        Ok(self.seen()?.keys().next_back().copied().unwrap_or_default())
    }

    /// The numbers of the requests answered, each with its first answer.
    fn seen(&self) -> Result<BTreeMap<u64, Answer>> {
        answers(&self.process.log())
    }
}

/// What `ping -D` printed of answers.
fn answers(log: &str) -> Result<BTreeMap<u64, Answer>> {
    let mut seen = BTreeMap::new();
    // The last line may not be whole yet.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for line in whole.lines() {
        let Some((_, rest)) = line.split_once("icmp_seq=") else {
            continue;
        };
        // Where no tunnel is, a gateway says so: that is no answer.
        if line.ends_with("Unreachable") {
            continue;
        }
        ensure!(line.contains("bytes from"), "{line}");
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let (_, time) = line.split_once("time=").with_context(|| line.to_owned())?;
        let millis: f64 = time.trim_end_matches(" ms").parse()?;
        let stamp = line.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (stamp, _) = stamp.with_context(|| line.to_owned())?;
        let answer = Answer {
            at: Duration::try_from_secs_f64(stamp.parse()?)?,
            took: Duration::try_from_secs_f64(millis / 1000.0)?,
        };
        seen.entry(number.parse()?).or_insert(answer);
    }
    Ok(seen)
}

impl Answered {
    /// An error if any was lost before the last that was answered. Late answers
    /// count: a busy machine is slow, and loses nothing by that.
    pub fn without_loss(&self) -> Result<()> {
        let lost = self.lost();
        ensure!(lost == 0, "{lost} of {} pings were lost", self.requests());
        Ok(())
    }

    /// How many were lost before the last that was answered.
    pub fn lost(&self) -> usize {
        self.answers
            .iter()
            .filter(|answer| answer.is_none())
            .count()
    }

    /// The longest time without an answer that was not `late`, by the clock: from one such
    /// answer to the next, less the time that there always is between two.
    pub fn longest_gap(&self, late: Duration) -> Duration {
        let in_time = self.answers.iter().flatten();
        let in_time = in_time.filter(|answer| answer.took <= late);
        let mut times: Vec<Duration> = in_time.map(|answer| answer.at).collect();
        times.sort_unstable();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        let longest = gaps.max().unwrap_or_default();
        longest.saturating_sub(self.interval)
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.answers.len()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    /// Two are lost, one comes late, one is refused by a router; the last line is not whole.
    const LOG: &str = "\
PATTERN: 0x70
PING 203.0.113.80 (203.0.113.80) 56(84) bytes of data.
[1700000000.000000] 64 bytes from 203.0.113.80: icmp_seq=1 ttl=61 time=0.500 ms
[1700000000.100000] 64 bytes from 203.0.113.80: icmp_seq=2 ttl=61 time=1.00 ms
[1700000000.900000] From 10.1.0.10 icmp_seq=4 Destination Host Unreachable
[1700000003.100000] 64 bytes from 203.0.113.80: icmp_seq=5 ttl=61 time=2500 ms
[1700000003.700000] 64 bytes from 203.0.113.80: icmp_seq=6 ttl=61 time=0.500 ms
[1700000003.8";

    #[test]
    fn a_gap_is_as_long_as_the_clock_says() {
        let seen = answers(LOG).unwrap();
        assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [1, 2, 5, 6]);
        assert_eq!(seen[&5].took, Duration::from_millis(2500));
        let answered = Answered {
            answers: (1..=6).map(|n| seen.get(&n).copied()).collect(),
            interval: INTERVAL,
        };
        assert_eq!((answered.requests(), answered.lost()), (6, 2));
        // The clock's fractions are not exact.
        let gap = |late| answered.longest_gap(late).as_secs_f64();
        let after = |late, seconds: f64| (gap(late) - seconds).abs() < 0.001;
        assert!(
            after(Duration::from_secs(1), 3.5),
            "by three requests 0.3 s"
        );
        assert!(after(Duration::from_secs(5), 2.9), "a late answer is one");
    }

    #[test]
    fn without_a_loss_there_is_no_gap() {
        let answer = |n: u32| Answer {
            at: INTERVAL * n,
            took: Duration::from_millis(1),
        };
        let answered = Answered {
            answers: (1..9).map(|n| Some(answer(n))).collect(),
            interval: INTERVAL,
        };
        assert_eq!(answered.longest_gap(Duration::from_secs(1)), Duration::ZERO);
    }
}
