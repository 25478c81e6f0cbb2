//! How much of one sender, and of all together, is looked at.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Senders remembered at once. Where there are more, they share what is left to all.
const SENDERS: usize = 1024;
/// How often those are forgotten that were silent: looking for them costs more than
/// the datagram that asks for room.
const SWEEP: Duration = Duration::from_millis(200);

/// So much a second, and at most that at once.
#[derive(Debug)]
pub(super) struct Allowance {
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Allowance {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            left: per_second,
            at: now,
        }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let one = self.left >= 1.0;
        if one {
            self.left -= 1.0;
        }
        one
    }

    fn fill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.left = (self.left + gained).min(self.per_second);
        self.at = now;
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.left >= self.per_second
    }
}

/// An allowance for each sender, and one for all.
#[derive(Debug)]
pub(super) struct Allowances {
    each: u32,
    all: Allowance,
    senders: BTreeMap<IpAddr, Allowance>,
    swept: Instant,
}

impl Allowances {
    pub(super) fn new(each: u32, all: u32, now: Instant) -> Self {
        Self {
            each,
            all: Allowance::new(all, now),
            senders: BTreeMap::new(),
            swept: now,
        }
    }

    /// Takes one of the sender's, and of all senders'.
    pub(super) fn take(&mut self, sender: IpAddr, now: Instant) -> bool {
        let each = self.each;
        if self.senders.len() >= SENDERS && !self.senders.contains_key(&sender) {
            if now.saturating_duration_since(self.swept) >= SWEEP {
                self.swept = now;
                // Those that have been silent for a second are as good as new.
                self.senders.retain(|_, allowance| !allowance.is_full(now));
            }
            if self.senders.len() >= SENDERS {
                return self.all.take(now);
            }
        }
        let sender = self.senders.entry(sender);
        sender
            .or_insert_with(|| Allowance::new(each, now))
            .take(now)
            && self.all.take(now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn one_sender_gets_no_more_than_its_share_and_leaves_the_others_theirs() {
        let start = Instant::now();
        let mut allowances = Allowances::new(5, 200, start);
        let mut taken = 0;
        for millisecond in 0..10_000 {
            let now = start + Duration::from_millis(millisecond);
            for _ in 0..10 {
                taken += u32::from(allowances.take(address(1), now));
            }
            if millisecond % 1000 == 999 {
                assert!(allowances.take(address(2), now));
            }
        }
        assert!((50..=56).contains(&taken), "{taken}");
    }

    #[test]
    fn however_many_senders_there_are_the_sum_and_the_memory_are_bounded() {
        let start = Instant::now();
        let mut allowances = Allowances::new(5, 200, start);
        let mut taken = 0;
        for number in 0..100_000 {
            let now = start + Duration::from_micros(u64::from(number) * 100);
            taken += u32::from(allowances.take(address(number), now));
        }
        assert!((2000..=2210).contains(&taken), "{taken}");
        assert!(allowances.senders.len() <= SENDERS);
    }
}
