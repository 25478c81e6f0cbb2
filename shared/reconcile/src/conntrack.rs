//! The kernel's connection tracking, on which all NAT rests: how many
//! connections it should remember, and whether that goes well.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use privnet_model::config::spoke::{NatConfig, PortRange, Protocol, SourcePorts};
pub use privnet_model::status::{ConnectionUse, DestinationUse};

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

/// What masquerading chooses from for whoever came from an unprivileged port: those from
/// 1024 on (`nf_nat_l4proto_unique_tuple`).
const KERNEL_PORTS: u64 = 64_512;

/// How often connections are counted by destination.
const COUNT_INTERVAL: Duration = Duration::from_secs(15);

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
        /// The destination with the largest part of its ports in use when the last of them
        /// failed, if they had been counted: most likely the one whose ports were used up.
        /// The kernel does not tell.
        busiest: Option<DestinationUse>,
    },
    /// Nine tenths of the source ports towards a destination are in use.
    PortsNearlyUsedUp {
        /// The destination with the largest part of them in use.
        destination: DestinationUse,
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
            Self::PortsUsedUp {
                connections,
                busiest,
            } => {
                write!(
                    f,
                    "{connections} new connections failed because their source port was taken, \
                     the last within {minutes} minutes: the ports towards a destination are used \
                     up"
                )?;
                if let Some(one) = busiest {
                    write!(
                        f,
                        " (the busiest was {} {} with {} of {} ports{})",
                        one.protocol,
                        one.destination,
                        one.connections,
                        one.ports,
                        owner(one)
                    )?;
                }
                let key = busiest.as_ref().map_or(ALL_PORTS, key);
                write!(
                    f,
                    "; spread them over more destinations or spokes, or widen {key}"
                )
            }
            Self::PortsNearlyUsedUp { destination } => write!(
                f,
                "{} of {} source ports{} towards {} {} are in use: when all are, new connections \
                 there fail; spread them over more destinations or spokes, lower \
                 nat.idle_timeout, or widen {}",
                destination.connections,
                destination.ports,
                owner(destination),
                destination.protocol,
                destination.destination,
                key(destination)
            ),
        }
    }
}

/// Whose ports they are, where they are not everybody's.
fn owner(one: &DestinationUse) -> String {
    one.from
        .map_or_else(String::new, |from| format!(" of {from}"))
}

const ALL_PORTS: &str = "nat.ports";

/// Where the config says how many ports there are.
fn key(one: &DestinationUse) -> &'static str {
    match one.from {
        None => ALL_PORTS,
        Some(_) => "nat.source_ports",
    }
}

/// Counts the translated connections to each destination, those of each range of source
/// ports by themselves.
#[derive(Debug, Default)]
pub struct Destinations {
    ports: Option<PortRange>,
    source_ports: Vec<SourcePorts>,
    counts: HashMap<(Protocol, SocketAddr, Option<SourcePorts>), u64>,
}

impl Destinations {
    /// So many are told of.
    const TOLD: usize = 5;

    /// None yet, where NAT may choose from these ports.
    pub fn of(nat: &NatConfig) -> Self {
        Self {
            ports: nat.ports,
            source_ports: nat.source_ports.clone(),
            counts: HashMap::new(),
        }
    }

    /// One more connection there, which has this source port.
    pub fn add(&mut self, protocol: Protocol, destination: SocketAddr, port: u16) {
        let mut owned = self.source_ports.iter();
        let owned = owned.find(|one| one.ports.contains(port)).copied();
        let counted = self.counts.entry((protocol, destination, owned));
        *counted.or_default() += 1;
    }

    /// Those with the largest part of their ports in use, the first first.
    pub fn busiest(self) -> Vec<DestinationUse> {
        let count = |ports: PortRange| ports.count() as u64;
        let all = self.counts.into_iter();
        let mut all: Vec<DestinationUse> = all
            .map(|((protocol, destination, owned), connections)| {
                let ports = owned.map(|one| one.ports).or(self.ports);
                DestinationUse {
                    protocol,
                    destination,
                    connections,
                    ports: ports.map_or(KERNEL_PORTS, count),
                    from: owned.map(|one| one.from),
                }
            })
            .collect();
        let rank = |one: &DestinationUse| {
            // In parts so small that one connection more always counts.
            let part = one.connections.saturating_mul(1 << 20) / one.ports;
            let most = std::cmp::Reverse((part, one.connections));
            (most, one.protocol, one.destination, one.from)
        };
        if all.len() > Self::TOLD {
            all.select_nth_unstable_by_key(Self::TOLD, rank);
            all.truncate(Self::TOLD);
        }
        all.sort_by_key(rank);
        all
    }
}

/// When to count them: that takes the longer the more there are.
#[derive(Debug, Clone, Copy, Default)]
pub struct CountClock {
    due: Option<Instant>,
}

impl CountClock {
    /// Whether it is time to.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| now >= due)
    }

    /// It is done, and took so long: a fiftieth of one core at most goes into it.
    pub fn done(&mut self, took: Duration, now: Instant) {
        self.due = Some(now + COUNT_INTERVAL.max(took * 50));
    }
}

/// Looks at the table again and again, and tells what is wrong with it. The
/// kernel counts since it started, so what matters is what is added.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    last: Option<ConnectionUse>,
    full: Growth,
    ports: Growth,
    /// The busiest destination when a connection failed last for want of a port.
    used_up: Option<DestinationUse>,
    busiest: Vec<DestinationUse>,
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
            if not_inserted > 0 {
                self.used_up = self.busiest.first().copied();
            }
        }
        self.last = Some(is);
    }

    /// Takes what [`Destinations`] counted.
    pub fn counted(&mut self, busiest: Vec<DestinationUse>) {
        self.busiest = busiest;
    }

    /// The destinations whose ports are used up most, when they were counted last.
    pub fn busiest(&self) -> &[DestinationUse] {
        &self.busiest
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
        let busiest = self.busiest.first();
        let busy = busiest.filter(|one| one.connections * 10 >= one.ports * 9);
        [
            nearly_full,
            full.map(|packets| Trouble::Full { packets }),
            ports.map(|connections| Trouble::PortsUsedUp {
                connections,
                busiest: self.used_up,
            }),
            busy.map(|one| Trouble::PortsNearlyUsedUp { destination: *one }),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::net::Ipv4Addr;

    use ipnet::Ipv4Net;

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

    fn ports(ports: Option<PortRange>) -> NatConfig {
        NatConfig {
            ports,
            ..NatConfig::default()
        }
    }

    #[test]
    fn the_busiest_destinations_are_told_and_one_that_is_nearly_used_up_is_trouble() {
        let mut destinations = Destinations::of(&ports(PortRange::new(2000, 2021)));
        let to = |n: u16| SocketAddr::from(([192, 0, 2, 1], n));
        for n in 1..=20 {
            for port in 0..n {
                destinations.add(Protocol::Tcp, to(n), 2000 + port);
            }
        }
        destinations.add(Protocol::Udp, to(20), 2000);
        let busiest = destinations.busiest();
        let told: Vec<(SocketAddr, u64)> = busiest
            .iter()
            .map(|one| (one.destination, one.connections))
            .collect();
        let expected = [20, 19, 18, 17, 16].map(|n| (to(n), u64::from(n)));
        assert_eq!(told, expected);
        let mut watch = Watch::default();
        watch.counted(busiest);
        let troubles = watch.troubles(start());
        assert_eq!(
            troubles[0].to_string(),
            "20 of 22 source ports towards tcp 192.0.2.1:20 are in use: when all are, new \
             connections there fail; spread them over more destinations or spokes, lower \
             nat.idle_timeout, or widen nat.ports"
        );
        watch.counted(Destinations::default().busiest());
        assert_eq!(watch.troubles(start()), []);
    }

    #[test]
    fn each_range_of_source_ports_is_used_up_by_itself() {
        let nat = NatConfig {
            source_ports: vec![SourcePorts {
                from: Ipv4Net::from(Ipv4Addr::new(10, 1, 1, 10)),
                ports: PortRange::new(3000, 3009).unwrap(),
            }],
            ..ports(PortRange::new(2000, 2099))
        };
        let mut destinations = Destinations::of(&nat);
        let to = SocketAddr::from(([192, 0, 2, 1], 443));
        // The last came before the ranges were configured.
        for port in (2000..2050).chain(3000..3009).chain([40_000]) {
            destinations.add(Protocol::Tcp, to, port);
        }
        let busiest = destinations.busiest();
        let told: Vec<_> = busiest
            .iter()
            .map(|one| (one.connections, one.ports, one.from.is_some()))
            .collect();
        assert_eq!(told, [(9, 10, true), (51, 100, false)]);
        let mut watch = Watch::default();
        watch.counted(busiest);
        let now = start();
        watch.sample(now, used(60, 0, 0));
        watch.sample(now, used(60, 1, 1));
        let troubles: Vec<String> = watch.troubles(now).iter().map(Trouble::to_string).collect();
        assert_eq!(
            troubles,
            [
                "1 new connections failed because their source port was taken, the last within 10 \
                 minutes: the ports towards a destination are used up (the busiest was tcp \
                 192.0.2.1:443 with 9 of 10 ports of 10.1.1.10/32); spread them over more \
                 destinations or spokes, or widen nat.source_ports",
                "9 of 10 source ports of 10.1.1.10/32 towards tcp 192.0.2.1:443 are in use: when \
                 all are, new connections there fail; spread them over more destinations or \
                 spokes, lower nat.idle_timeout, or widen nat.source_ports",
            ]
        );
    }

    #[test]
    fn counting_takes_a_fiftieth_of_the_time_at_most() {
        let now = start();
        let mut clock = CountClock::default();
        assert!(clock.is_due(now));
        clock.done(Duration::from_millis(10), now);
        assert!(!clock.is_due(now + Duration::from_secs(14)));
        assert!(clock.is_due(now + COUNT_INTERVAL));
        clock.done(Duration::from_secs(2), now);
        assert!(!clock.is_due(now + Duration::from_secs(99)));
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
        let expected = Trouble::PortsUsedUp {
            connections: 3,
            busiest: None,
        };
        assert_eq!(troubles, [expected]);
        assert!(!troubles[0].is_like(&Trouble::Full { packets: 3 }));
        // Counters that start again (another kernel's count) are no trouble.
        watch.sample(now, used(1, 0, 0));
        assert_eq!(watch.troubles(now), troubles);
    }

    #[test]
    fn where_ports_are_used_up_the_busiest_destination_of_that_moment_is_told() {
        let mut watch = Watch::default();
        let now = start();
        let counted = |port: u16, connections| {
            let mut destinations = Destinations::of(&ports(PortRange::new(2000, 2007)));
            let to = SocketAddr::from(([192, 0, 2, 1], port));
            for more in 0..connections {
                destinations.add(Protocol::Tcp, to, 2000 + more);
            }
            destinations.busiest()
        };
        watch.counted(counted(443, 7));
        watch.sample(now, used(7, 0, 0));
        watch.sample(now, used(7, 2, 2));
        // What comes later is another matter.
        watch.counted(counted(80, 3));
        watch.sample(now, used(3, 2, 2));
        let [trouble] = watch.troubles(now)[..] else {
            panic!("{:?}", watch.troubles(now));
        };
        assert_eq!(
            trouble.to_string(),
            "2 new connections failed because their source port was taken, the last within 10 \
             minutes: the ports towards a destination are used up (the busiest was tcp \
             192.0.2.1:443 with 7 of 8 ports); spread them over more destinations or spokes, or \
             widen nat.ports"
        );
    }
}
