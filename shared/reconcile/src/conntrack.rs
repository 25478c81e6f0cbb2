//! The kernel's connection tracking, on which all NAT rests: how many
//! connections it should remember, and whether that goes well.

use std::fmt;
use std::time::{Duration, Instant};

use privnet_model::config::spoke::NatConfig;
pub use privnet_model::status::ConnectionUse;

use crate::kernel::Kernel;

/// Memory of the host, in bytes, for which one connection is remembered.
///
/// One takes some 400 bytes: `nf_conn` with its extension for NAT (320, in
/// slabs), its share of the hash table (8) and, while it takes the short cut, its
/// flow (some 256 more). With an entry for each 4096 bytes a full table is a
/// tenth to an eighth of the memory, and a machine of 1 GiB remembers 262,144. The
/// kernel's own default is one for each 128 KiB up to 1 GiB, 65,536 up to 4 GiB
/// and 262,144 above (`nf_conntrack_init_start`; Debian's 6.1 says 8192 on 1 GiB):
/// meant for hosts, and less than the 55,000 connections that AWS's NAT gateway
/// has for a single destination.
const MEMORY_PER_CONNECTION: u64 = 4096;

/// More than one destination's ports, also on the smallest instance.
const FEWEST: u32 = 65_536;

/// Some 800 MB. More is for whoever measured that it is needed.
const MOST: u32 = 2_097_152;

/// How long trouble that came and went is still told of.
const REMEMBERED: Duration = Duration::from_secs(600);

/// How many connections to remember at most.
pub fn capacity(nat: &NatConfig, kernel: &Kernel) -> u32 {
    let by_memory = || {
        let count = kernel.memory / MEMORY_PER_CONNECTION;
        u32::try_from(count).map_or(MOST, |count| count.clamp(FEWEST, MOST))
    };
    nat.connections.unwrap_or_else(by_memory)
}

/// What is wrong with the connection table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nine tenths of it are in use.
    NearlyFull {
        /// Connections remembered.
        tracked: u64,
        /// How many there can be.
        limit: u64,
    },
    /// Packets of new connections were dropped because it is full.
    Full {
        /// How many packets.
        packets: u64,
    },
    /// New connections failed because no source port was left for them.
    PortsUsedUp {
        /// How many.
        connections: u64,
    },
}

impl Trouble {
    /// Whether it is the same kind of trouble, whatever the figures.
    pub fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// In the operator's words.
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = REMEMBERED.as_secs() / 60;
        match self {
            Self::NearlyFull { tracked, limit } => write!(
                f,
                "NAT remembers {tracked} connections of at most {limit}: when the table is full, \
                 new connections are dropped; raise nat.connections, lower nat.idle_timeout, or \
                 take a larger instance"
            ),
            Self::Full { packets } => write!(
                f,
                "the NAT table was full: {packets} packets of new connections were dropped, the \
                 last within {minutes} minutes; raise nat.connections, lower nat.idle_timeout, or \
                 take a larger instance"
            ),
            Self::PortsUsedUp { connections } => write!(
                f,
                "{connections} new connections failed because their source port was taken, the \
                 last within {minutes} minutes: the ports towards a destination are used up; \
                 spread them over more destinations or spokes, or widen nat.ports"
            ),
        }
    }
}

/// Looks at the table again and again, and tells what is wrong with it. The
/// kernel counts since it started, so what matters is what is added.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    last: Option<ConnectionUse>,
    full: Growth,
    ports: Growth,
}

/// What was added to a counter since the trouble began.
#[derive(Debug, Clone, Copy, Default)]
struct Growth {
    sum: u64,
    last: Option<Instant>,
}

impl Growth {
    fn add(&mut self, added: u64, now: Instant) {
        if self.told(now).is_none() {
            self.sum = 0;
        }
        if added > 0 {
            self.sum = self.sum.saturating_add(added);
            self.last = Some(now);
        }
    }

    fn told(&self, now: Instant) -> Option<u64> {
        let last = self.last?;
        (now.saturating_duration_since(last) < REMEMBERED).then_some(self.sum)
    }
}

impl Watch {
    /// Takes a look.
    pub fn sample(&mut self, now: Instant, is: ConnectionUse) {
        if let Some(was) = self.last {
            // Who finds its place in the table taken counts as both, dropped and
            // not inserted (nf_ct_resolve_clash); who finds no place at all as
            // dropped alone (nf_conntrack_in).
            let not_inserted = is.insert_failed.saturating_sub(was.insert_failed);
            let dropped = is.dropped.saturating_sub(was.dropped);
            self.full.add(dropped.saturating_sub(not_inserted), now);
            self.ports.add(not_inserted, now);
        }
        self.last = Some(is);
    }

    /// The table at the last look.
    pub fn last(&self) -> Option<ConnectionUse> {
        self.last
    }

    /// What is wrong.
    pub fn troubles(&self, now: Instant) -> Vec<Trouble> {
        let nearly_full = self.last.filter(|is| is.tracked * 10 >= is.limit * 9);
        let nearly_full = nearly_full.map(|is| Trouble::NearlyFull {
            tracked: is.tracked,
            limit: is.limit,
        });
        let full = self.full.told(now);
        let ports = self.ports.told(now);
        [
            nearly_full,
            full.map(|packets| Trouble::Full { packets }),
            ports.map(|connections| Trouble::PortsUsedUp { connections }),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant does for a start")]
    fn start() -> Instant {
        Instant::now()
    }

    fn kernel(memory: u64) -> Kernel {
        Kernel {
            memory,
            sets_conntrack_size: true,
            flowtable: Ok(()),
        }
    }

    #[test]
    fn the_table_grows_with_the_memory_within_bounds() {
        let nat = NatConfig::default();
        let gib = 1 << 30;
        assert_eq!(capacity(&nat, &kernel(gib)), 262_144);
        assert_eq!(capacity(&nat, &kernel(gib / 2)), 131_072);
        assert_eq!(capacity(&nat, &kernel(0)), FEWEST);
        assert_eq!(capacity(&nat, &kernel(64 * gib)), MOST);
        assert_eq!(capacity(&nat, &kernel(u64::MAX)), MOST);
        let chosen = NatConfig {
            connections: Some(5_000),
            ..nat
        };
        assert_eq!(capacity(&chosen, &kernel(gib)), 5_000);
    }

    fn used(tracked: u64, dropped: u64, insert_failed: u64) -> ConnectionUse {
        ConnectionUse {
            tracked,
            limit: 1_000,
            dropped,
            insert_failed,
            early_dropped: 0,
        }
    }

    #[test]
    fn nine_tenths_are_too_many() {
        let mut watch = Watch::default();
        let now = start();
        watch.sample(now, used(899, 0, 0));
        assert_eq!(watch.troubles(now), []);
        watch.sample(now, used(900, 0, 0));
        let [trouble] = watch.troubles(now)[..] else {
            panic!("{:?}", watch.troubles(now));
        };
        assert!(
            trouble
                .to_string()
                .contains("900 connections of at most 1000")
        );
        watch.sample(now, used(10, 0, 0));
        assert_eq!(watch.troubles(now), []);
    }

    #[test]
    fn what_was_dropped_before_we_looked_is_no_trouble_and_what_comes_is_for_a_while() {
        let mut watch = Watch::default();
        let start = start();
        let after = |seconds| start + Duration::from_secs(seconds);
        watch.sample(start, used(1, 500, 100));
        assert_eq!(watch.troubles(start), []);
        watch.sample(after(2), used(1, 507, 100));
        watch.sample(after(4), used(1, 510, 100));
        watch.sample(after(6), used(1, 510, 100));
        assert_eq!(watch.troubles(after(6)), [Trouble::Full { packets: 10 }]);
        assert_eq!(watch.troubles(after(604)), []);
        // Later trouble is counted anew.
        watch.sample(after(700), used(1, 511, 100));
        assert_eq!(watch.troubles(after(700)), [Trouble::Full { packets: 1 }]);
    }

    #[test]
    fn a_port_that_is_taken_is_not_a_full_table() {
        let mut watch = Watch::default();
        let now = start();
        watch.sample(now, used(1, 0, 0));
        watch.sample(now, used(1, 3, 3));
        let troubles = watch.troubles(now);
        assert_eq!(troubles, [Trouble::PortsUsedUp { connections: 3 }]);
        assert!(!troubles[0].is_like(&Trouble::Full { packets: 3 }));
        // Counters that start again (another kernel's count) are no trouble.
        watch.sample(now, used(1, 0, 0));
        assert_eq!(watch.troubles(now), troubles);
    }
}
