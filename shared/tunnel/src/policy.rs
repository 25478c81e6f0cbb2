//! Which sites may talk to each other, as the packet path asks it: two lookups by
//! longest prefix and one in a table. It reads addresses only, so a fragment is
//! judged as its packet is, and it remembers no connection.
//!
//! A denied packet is dropped without a word. A router may answer with ICMP
//! ("administratively prohibited"), but here the kernel writes all ICMP, and it
//! would route what it is given rather than refuse it; and silence is what an
//! operator knows from the security groups around us.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use privnet_model::policy::{PolicyTable, Verdict};

use crate::prefix_map::PrefixMap;

/// A policy in force, with what it denied so far.
pub struct Policy {
    table: PolicyTable,
    classes: PrefixMap<u16>,
    /// For each worker, by the number of the rule. A worker is the only writer of
    /// its own, as with `Counters`.
    denied: Vec<Vec<AtomicU64>>,
}

impl Policy {
    /// Puts the policy in force for so many workers.
    pub fn new(table: PolicyTable, workers: usize) -> Self {
        let rules = usize::from(table.rules());
        let zeros = || std::iter::repeat_with(AtomicU64::default).take(rules);
        Self {
            classes: PrefixMap::new(table.prefixes().iter().copied()),
            denied: (0..workers).map(|_| zeros().collect()).collect(),
            table,
        }
    }

    /// What it was made of.
    pub fn table(&self) -> &PolicyTable {
        &self.table
    }

    /// Packets denied, by the number of the rule.
    pub fn denied(&self) -> Vec<u64> {
        let mut sums = vec![0; usize::from(self.table.rules())];
        for worker in &self.denied {
            for (sum, count) in sums.iter_mut().zip(worker) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        sums
    }

    pub(crate) fn verdict(&self, source: IpAddr, destination: IpAddr) -> Verdict {
        let class = |address| self.classes.lookup(address).unwrap_or(0);
        self.table.verdict(class(source), class(destination))
    }

    /// Counts a packet that a rule denied.
    pub(crate) fn count(&self, worker: usize, rule: u16) {
        let counts = self.denied.get(worker);
        if let Some(count) = counts.and_then(|counts| counts.get(usize::from(rule))) {
            // One writer: no read-modify-write instruction is needed.
            let next = count.load(Ordering::Relaxed).wrapping_add(1);
            count.store(next, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("table", &self.table)
            .field("denied", &self.denied())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::*;

    const CLASSES: u16 = 4;

    /// Few distinct bits, so that prefixes nest and collide.
    fn address() -> impl Strategy<Value = IpAddr> {
        (any::<bool>(), 0u8..32).prop_map(|(is_v4, bits)| {
            let (high, low) = (bits & 3, bits >> 2);
            if is_v4 {
                Ipv4Addr::new(10, high, 0, low).into()
            } else {
                Ipv6Addr::new(0xfd00, high.into(), 0, 0, 0, 0, 0, low.into()).into()
            }
        })
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        let lengths = prop::sample::select(vec![0u8, 8, 14, 16, 30, 31, 32, 64, 126, 128]);
        (address(), lengths).prop_map(|(address, length)| {
            let longest = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new_assert(address, length.min(longest)).trunc()
        })
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        prop_oneof![Just(Verdict::Allow), (0u16..3).prop_map(Verdict::Deny)]
    }

    /// The class by trying every prefix.
    fn class(prefixes: &[(IpNet, u16)], address: IpAddr) -> u16 {
        prefixes
            .iter()
            .filter(|(prefix, _)| prefix.contains(&address))
            .max_by_key(|(prefix, _)| prefix.prefix_len())
            .map_or(0, |(_, class)| *class)
    }

    proptest! {
        #[test]
        fn a_pair_of_addresses_has_the_verdict_of_its_classes(
            prefixes in prop::collection::btree_map(prefix(), 0..CLASSES, 0..12),
            verdicts in prop::collection::vec(verdict(), usize::from(CLASSES * CLASSES)),
            pairs in prop::collection::vec((address(), address()), 1..30),
        ) {
            let of = |from: u16, to: u16| verdicts[usize::from(from * CLASSES + to)];
            let prefixes: Vec<_> = prefixes.into_iter().collect();
            let policy = Policy::new(PolicyTable::new(prefixes.clone(), CLASSES, 3, of), 1);
            for (from, to) in pairs {
                let expected = of(class(&prefixes, from), class(&prefixes, to));
                prop_assert_eq!(policy.verdict(from, to), expected);
            }
        }
    }

    #[test]
    fn what_workers_count_is_added_up_by_rule() {
        let table = PolicyTable::new(Vec::new(), 1, 2, |_, _| Verdict::Allow);
        let policy = Policy::new(table, 2);
        policy.count(0, 1);
        policy.count(1, 1);
        policy.count(1, 0);
        assert_eq!(policy.denied(), [1, 2]);
    }
}
