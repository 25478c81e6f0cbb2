//! Whether NAT egress works, found out as a host behind it would: by connections to
//! the internet. A pure state machine: it says which packets to send into the kernel
//! when, is told what comes back, and draws the conclusion.
//!
//! Its packets come from an address that is not this host's, through an interface of
//! its own ([`INTERFACE`]). So the kernel forwards them like anybody's: routing,
//! the forward chain, masquerading, connection tracking, the uplink, and the same
//! way back. A connection that the host opened itself would pass none of the first
//! three, and would work while nobody behind it gets anywhere.
//!
//! A target is asked for a connection and told at once that it is not wanted (`SYN`,
//! `SYN-ACK`, `RST`): both directions are proved, and its program never hears of it,
//! however many spokes ask every second.
//!
//! The figures: a round of all targets a second, which may take a second, with two
//! repetitions in it, so that a lost packet is no fault. One answer makes a round
//! good, two bad ones in a row make the spoke sick. While a round has no answer after
//! half a second the next one begins: so a fault is known at most 2.5 s after it came.

use std::collections::VecDeque;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use self::packet::{Answer, Connection};
use crate::interface::InterfaceName;

mod packet;
#[cfg(test)]
mod tests;

/// The interface that the packets come in by.
pub const INTERFACE: &str = "privnet-test";
/// Where they come from: link-local (RFC 3927), so it is in no VPC and no privnet, and
/// clear of those that AWS uses and of the hub's own ([`privnet_model::enrol`]).
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(169, 254, 78, 2);

/// [`INTERFACE`], checked.
pub fn interface() -> InterfaceName {
    match InterfaceName::new(INTERFACE) {
        Ok(name) => name,
        Err(error) => unreachable!("{error}"),
    }
}

/// Targets that prove nothing, in words: the VPC's own addresses, which no NAT leads
/// to. The config file cannot be asked that, as it does not name the VPC.
pub fn inside_vpc(targets: &[SocketAddr], vpc_cidrs: &[IpNet]) -> Vec<String> {
    let inside = targets.iter().filter_map(|target| {
        let mut cidrs = vpc_cidrs.iter();
        let cidr = cidrs.find(|cidr| cidr.contains(&target.ip()))?;
        Some(format!(
            "self_test.targets: {target} is inside {cidr} of the VPC, which is not masqueraded; \
             expected an address of the internet"
        ))
    });
    inside.collect()
}

/// A target that takes longer does not answer.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// When the first packet of a connection is sent again.
const REPEATS: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(600)];
/// A round without an answer for so long has the next one begin.
const LATE: Duration = Duration::from_millis(500);
/// So many bad rounds in a row are a fault.
const BAD_ROUNDS: u32 = 2;
/// Where the client's ports begin: those above are what hosts commonly use.
const FIRST_PORT: u16 = 32_768;

/// The conclusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing is known yet: no round was good, and not enough were bad.
    Untested,
    /// The last round was good, or only the last was bad.
    Well,
    /// The last rounds were bad.
    Sick,
}

/// What became of one target in the last round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was not asked yet.
    Unasked,
    /// It accepted the connection, after so long.
    Accepted(Duration),
    /// It refused the connection, after so long: the way there and back works.
    Refused(Duration),
    /// There was no answer within [`PATIENCE`].
    Silent,
    /// A router said that it cannot be reached.
    Undelivered {
        /// Which one: this host, perhaps.
        router: Ipv4Addr,
        /// Its reason.
        why: &'static str,
    },
    /// The packet could not even be handed to the kernel.
    Unsent(String),
}

/// How it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The conclusion.
    pub verdict: Verdict,
    /// Since when it is that.
    pub since: Instant,
    /// How many rounds were bad since the last good one.
    pub bad_rounds: u32,
    /// Each target in the round that ended last.
    pub targets: Vec<(SocketAddrV4, Outcome)>,
}

/// The test.
#[derive(Debug)]
pub struct SelfTest {
    targets: Vec<SocketAddrV4>,
    interval: Duration,
    /// Under way, oldest first.
    rounds: VecDeque<Round>,
    last: LastRound,
    report: Report,
}

/// The round that began last.
#[derive(Debug, Clone, Copy)]
enum LastRound {
    /// The first is yet to begin, now.
    None(Instant),
    /// No target has answered so far.
    Unanswered(Instant),
    /// One has.
    Answered(Instant),
}

#[derive(Debug)]
struct Round {
    started: Instant,
    repeats: usize,
    attempts: Vec<Attempt>,
}

#[derive(Debug)]
struct Attempt {
    connection: Connection,
    /// `None` while it is waited for.
    outcome: Option<Outcome>,
}

impl SelfTest {
    /// A test of these targets, the first round now. Without targets it stays
    /// [`Verdict::Untested`] for ever.
    pub fn new(targets: Vec<SocketAddrV4>, interval: Duration, now: Instant) -> Self {
        Self {
            report: Report {
                verdict: Verdict::Untested,
                since: now,
                bad_rounds: 0,
                targets: targets
                    .iter()
                    .map(|target| (*target, Outcome::Unasked))
                    .collect(),
            },
            targets,
            interval,
            rounds: VecDeque::new(),
            last: LastRound::None(now),
        }
    }

    /// How it stands.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The packets to send now. `random` gives any number: ports and sequence
    /// numbers that nobody can guess keep others from answering.
    pub fn due(&mut self, now: Instant, mut random: impl FnMut() -> u64) -> Vec<Vec<u8>> {
        self.end_rounds(now);
        let mut packets = Vec::new();
        for round in &mut self.rounds {
            packets.extend(round.repeat(now));
        }
        if now >= self.next_begin() && !self.targets.is_empty() {
            let round = Round::new(&self.targets, now, &mut random);
            packets.extend(round.unanswered());
            self.rounds.push_back(round);
            self.last = LastRound::Unanswered(now);
        }
        packets
    }

    /// When [`SelfTest::due`] has something to do next.
    pub fn next(&self) -> Instant {
        let rounds = self.rounds.iter().map(Round::next_event);
        rounds.fold(self.next_begin(), Instant::min)
    }

    /// Takes a packet that the kernel sent to the client. Gives the one to send back,
    /// if there is one.
    pub fn receive(&mut self, packet: &[u8], now: Instant) -> Option<Vec<u8>> {
        let answer = packet::answer(CLIENT, packet)?;
        let (connection, good) = match &answer {
            Answer::Accepted(connection) | Answer::Refused(connection) => (*connection, true),
            Answer::Undelivered { connection, .. } => (*connection, false),
        };
        let round = self.rounds.iter().position(|round| {
            round
                .attempts
                .iter()
                .any(|attempt| attempt.connection == connection)
        });
        if let Some(mut index) = round {
            if good {
                if index + 1 == self.rounds.len()
                    && let LastRound::Unanswered(started) = self.last
                {
                    self.last = LastRound::Answered(started);
                }
                // Whatever became of the rounds before it: that it works is newer.
                self.rounds.drain(..index);
                index = 0;
                self.good(now);
            }
            if let Some(round) = self.rounds.get_mut(index) {
                round.take(connection, answer, now);
            }
            self.end_rounds(now);
        }
        // As any host resets what it knows nothing of: an answer that comes late
        // would be sent again and again.
        let asked = self.targets.contains(&connection.target);
        (matches!(answer, Answer::Accepted(_)) && asked).then(|| connection.reset())
    }

    /// Takes note that the packets of the last [`SelfTest::due`] could not be sent.
    pub fn unsent(&mut self, why: &str, now: Instant) {
        if let Some(round) = self.rounds.back_mut() {
            for attempt in &mut round.attempts {
                attempt
                    .outcome
                    .get_or_insert_with(|| Outcome::Unsent(why.to_owned()));
            }
        }
        self.end_rounds(now);
    }

    /// When the next round begins: sooner where the last one has no answer so far, or
    /// has failed, and it is not known yet what that means.
    fn next_begin(&self) -> Instant {
        match self.last {
            LastRound::None(now) => now,
            LastRound::Unanswered(started) if self.report.verdict != Verdict::Sick => {
                started + self.interval.min(LATE)
            }
            LastRound::Unanswered(started) | LastRound::Answered(started) => {
                started + self.interval
            }
        }
    }

    fn good(&mut self, now: Instant) {
        self.report.bad_rounds = 0;
        self.conclude(Verdict::Well, now);
    }

    fn conclude(&mut self, verdict: Verdict, now: Instant) {
        if self.report.verdict != verdict {
            self.report.verdict = verdict;
            self.report.since = now;
        }
    }

    /// Ends the rounds of which all is known, and those whose time is over.
    fn end_rounds(&mut self, now: Instant) {
        while let Some(round) = self.rounds.pop_front_if(|round| round.is_over(now)) {
            let good = round.is_good();
            self.report.targets = round.outcomes();
            if good {
                self.good(now);
            } else {
                self.report.bad_rounds = self.report.bad_rounds.saturating_add(1);
                if self.report.bad_rounds >= BAD_ROUNDS {
                    self.conclude(Verdict::Sick, now);
                }
            }
        }
    }
}

impl Round {
    fn new(targets: &[SocketAddrV4], now: Instant, random: &mut impl FnMut() -> u64) -> Self {
        let attempts = targets.iter().map(|target| {
            let [a, b, c, d, e, f, ..] = random().to_ne_bytes();
            Attempt {
                connection: Connection {
                    client: SocketAddrV4::new(CLIENT, FIRST_PORT | u16::from_ne_bytes([a, b])),
                    target: *target,
                    sequence: u32::from_ne_bytes([c, d, e, f]),
                },
                outcome: None,
            }
        });
        Self {
            started: now,
            repeats: 0,
            attempts: attempts.collect(),
        }
    }

    /// The packets for the targets that are waited for.
    fn unanswered(&self) -> Vec<Vec<u8>> {
        let waiting = self.attempts.iter().filter(|one| one.outcome.is_none());
        waiting.map(|one| one.connection.syn()).collect()
    }

    fn repeat(&mut self, now: Instant) -> Vec<Vec<u8>> {
        match REPEATS.get(self.repeats) {
            Some(after) if now >= self.started + *after => {
                self.repeats += 1;
                self.unanswered()
            }
            _ => Vec::new(),
        }
    }

    fn next_event(&self) -> Instant {
        let after = REPEATS.get(self.repeats).unwrap_or(&PATIENCE);
        self.started + *after
    }

    fn take(&mut self, connection: Connection, answer: Answer, now: Instant) {
        let after = now.saturating_duration_since(self.started);
        let outcome = match answer {
            Answer::Accepted(_) => Outcome::Accepted(after),
            Answer::Refused(_) => Outcome::Refused(after),
            Answer::Undelivered { router, why, .. } => Outcome::Undelivered { router, why },
        };
        for attempt in &mut self.attempts {
            let known = attempt.outcome.as_ref().is_some_and(Outcome::is_good);
            if attempt.connection == connection && !known {
                attempt.outcome = Some(outcome.clone());
            }
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.started + PATIENCE || self.attempts.iter().all(|one| one.outcome.is_some())
    }

    fn is_good(&self) -> bool {
        let mut outcomes = self.attempts.iter().filter_map(|one| one.outcome.as_ref());
        outcomes.any(Outcome::is_good)
    }

    fn outcomes(self) -> Vec<(SocketAddrV4, Outcome)> {
        let attempts = self.attempts.into_iter();
        attempts
            .map(|one| {
                (
                    one.connection.target,
                    one.outcome.unwrap_or(Outcome::Silent),
                )
            })
            .collect()
    }
}

impl Outcome {
    /// Whether packets got there and back.
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Accepted(_) | Self::Refused(_))
    }
}

impl Report {
    /// What is wrong, in one line; nothing while the spoke is well.
    pub fn problem(&self) -> Option<String> {
        match self.verdict {
            Verdict::Well => None,
            Verdict::Untested => Some("egress has not been tested yet".to_owned()),
            Verdict::Sick => {
                let targets = self.targets.iter();
                let each = targets.map(|(target, outcome)| format!("{target}: {outcome}"));
                let each: Vec<String> = each.collect();
                Some(format!(
                    "no way to the internet through this spoke's NAT ({})",
                    each.join("; ")
                ))
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Untested => "untested",
            Self::Well => "well",
            Self::Sick => "sick",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |after: &Duration| after.as_secs_f64() * 1000.0;
        match self {
            Self::Unasked => f.write_str("not asked yet"),
            Self::Accepted(after) => write!(f, "answered in {:.1} ms", milliseconds(after)),
            Self::Refused(after) => {
                write!(
                    f,
                    "refused, which is an answer, in {:.1} ms",
                    milliseconds(after)
                )
            }
            Self::Silent => write!(f, "no answer within {PATIENCE:?}"),
            Self::Undelivered { router, why } => write!(f, "{why}, says {router}"),
            Self::Unsent(why) => write!(f, "nothing could be sent: {why}"),
        }
    }
}
