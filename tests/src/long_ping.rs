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

/// What became of its requests, in their order: how long each answer took.
#[derive(Debug)]
pub struct Answered {
    answers: Vec<Option<Duration>>,
    interval: Duration,
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
        command.args(["-n", "-i", &seconds, "-p", &ping_pattern()]);
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

    /// The numbers of the requests answered, and how long the first answer took.
    fn seen(&self) -> Result<BTreeMap<u64, Duration>> {
        let mut seen = BTreeMap::new();
        let log = self.process.log();
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
            seen.entry(number.parse()?)
                .or_insert(Duration::from_secs_f64(millis / 1000.0));
        }
        Ok(seen)
    }
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

    /// The longest time in which no request was answered before it was `late`.
    pub fn longest_gap(&self, late: Duration) -> Duration {
        let missed = |answer: &Option<Duration>| answer.is_none_or(|took| took > late);
        let runs = self.answers.chunk_by(|a, b| missed(a) == missed(b));
        let longest = runs.filter(|run| missed(&run[0])).map(<[_]>::len).max();
        self.interval * u32::try_from(longest.unwrap_or(0)).unwrap_or(u32::MAX)
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.answers.len()
    }
}
