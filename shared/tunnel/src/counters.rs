//! What the data plane counts, and why it dropped what it dropped.
//!
//! Each worker has one [`Counters`] and is its only writer, so counting is a
//! plain load and store; readers sum over the workers. Nothing is ever reset.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// One thing that the data plane counts.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Counter {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Counter {
            /// Every counter, in the order of declaration.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The counter's name in metrics and in `--json` output.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// What it counts, in one sentence for an operator.
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

counters! {
    /// Handshakes that completed, in either role.
    Handshakes = "handshakes",
    /// Initiations that we sent, retries included.
    InitiationsSent = "initiations_sent",
    /// Packets relayed from one peer to another without the TUN.
    Relayed = "relayed",
    /// Valid initiations by keys that are no peer of ours.
    Knocks = "knocks",
    /// Handshake messages answered with a cookie, because of load.
    CookiesSent = "cookies_sent",
    // From here on, what was dropped, and why: see `Counter::is_drop`.
    /// Datagrams that are no WireGuard message, or a truncated one.
    Malformed = "malformed",
    /// Handshake messages whose first MAC is wrong: not meant for our key.
    WrongMac = "wrong_mac",
    /// Handshake messages that did not verify or came out of order.
    HandshakeFailed = "handshake_failed",
    /// Handshake messages dropped because one address sent too many under load, or
    /// because one peer does not use the sessions that it is given.
    HandshakeRate = "handshake_rate",
    /// Handshake messages dropped because too many were waiting.
    HandshakeQueueFull = "handshake_queue_full",
    /// Messages to a receiver index that no peer has, or that only a removed peer had.
    UnknownIndex = "unknown_index",
    /// Data messages that did not decrypt, or for which there was no session.
    Undecryptable = "undecryptable",
    /// Data messages seen before, or too old to tell.
    Replayed = "replayed",
    /// Packets whose source address is not the sending peer's.
    SourceMismatch = "source_mismatch",
    /// Packets that would have gone back to the peer they came from.
    Hairpin = "hairpin",
    /// Packets that the policy denies.
    DeniedByPolicy = "denied_by_policy",
    /// Packets that met congestion outside and whose sender would not hear of it.
    Congested = "congested",
    /// Packets that are not well-formed IP.
    NotIp = "not_ip",
    /// Packets from the TUN to a destination that no peer has.
    NoRoute = "no_route",
    /// Packets to a peer whose address is not known yet.
    NoEndpoint = "no_endpoint",
    /// Packets pushed out of a peer's queue while its handshake took too long.
    QueueOverflow = "queue_overflow",
    /// Items dropped because another worker's ring was full.
    RingFull = "ring_full",
    /// Datagrams that the kernel refused to send.
    SendFailed = "send_failed",
    /// Packets that the TUN refused.
    TunFailed = "tun_failed",
}

impl Counter {
    /// Whether it counts what was dropped for one reason, which is its name.
    pub const fn is_drop(self) -> bool {
        self as usize >= Self::Malformed as usize
    }
}

/// The counters of one worker. Only that worker adds to them.
#[derive(Debug)]
pub struct Counters([AtomicU64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Counter::ALL.len()])
    }
}

impl Counters {
    /// Adds to a counter.
    pub fn add(&self, counter: Counter, count: u64) {
        // One writer: no read-modify-write instruction is needed.
        let cell = &self.0[counter as usize];
        cell.store(
            cell.load(Ordering::Relaxed).wrapping_add(count),
            Ordering::Relaxed,
        );
    }

    /// Adds one to a counter.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// The counter's value now.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }
}

/// The counters of a whole device at one moment: the sum over its workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceCounters([u64; Counter::ALL.len()]);

impl DeviceCounters {
    /// Sums the workers' counters.
    pub fn sum<'a>(workers: impl IntoIterator<Item = &'a Counters>) -> Self {
        let mut totals = [0; Counter::ALL.len()];
        for worker in workers {
            for (total, counter) in totals.iter_mut().zip(Counter::ALL) {
                *total += worker.get(*counter);
            }
        }
        Self(totals)
    }

    /// One counter's value.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// All counters with their values, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL
            .iter()
            .map(|counter| (*counter, self.get(*counter)))
    }
}
