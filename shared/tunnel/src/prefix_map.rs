//! A value for each prefix, found by the longest that contains an address: an
//! immutable snapshot. What the values mean, its users know.
//!
//! Prefixes nest, so they cut the address space into stretches, each with one
//! longest prefix. A lookup is a search for the stretch, in a flat B-tree: one
//! cache line per level for IPv4, five levels for 100,000 prefixes, one for ten,
//! and no more for long prefixes than for short ones, as a trie would have.

use std::array;
use std::fmt::Debug;
use std::net::IpAddr;

use ipnet::IpNet;

/// Values by longest prefix.
#[derive(Debug)]
pub(crate) struct PrefixMap<T> {
    v4: Stretches<u32, T>,
    v6: Stretches<u128, T>,
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self {
            v4: Stretches::default(),
            v6: Stretches::default(),
        }
    }
}

impl<T: Copy + PartialEq> PrefixMap<T> {
    /// Builds the snapshot. Of equal prefixes the last one holds.
    pub(crate) fn new(prefixes: impl IntoIterator<Item = (IpNet, T)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (prefix, value) in prefixes {
            match prefix {
                IpNet::V4(prefix) => {
                    v4.push((prefix.network().into(), prefix.broadcast().into(), value));
                }
                IpNet::V6(prefix) => {
                    v6.push((prefix.network().into(), prefix.broadcast().into(), value));
                }
            }
        }
        Self {
            v4: Stretches::new(v4),
            v6: Stretches::new(v6),
        }
    }

    /// The value of the longest prefix that contains the address.
    pub(crate) fn lookup(&self, address: IpAddr) -> Option<T> {
        match address {
            IpAddr::V4(address) => self.v4.lookup(address.into()),
            IpAddr::V6(address) => self.v6.lookup(address.into()),
        }
    }
}

/// How many keys a node of the tree has.
const KEYS: usize = 16;

/// An address as a number, and as a node holds many of them.
trait Address: Copy + Ord {
    /// Keys in order. What the last node of a level has no keys for is filled with
    /// the last address.
    type Node: Debug;

    fn next(self) -> Option<Self>;
    fn node(keys: &[Self]) -> Self::Node;
    /// How many keys are not beyond this address.
    fn place(self, node: &Self::Node) -> usize;
}

impl Address for u32 {
    /// A cache line, compared as a whole by four vector instructions.
    type Node = [Self; KEYS];

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn node(keys: &[Self]) -> Self::Node {
        array::from_fn(|at| keys.get(at).copied().unwrap_or(Self::MAX))
    }

    fn place(self, node: &Self::Node) -> usize {
        node.iter().filter(|key| **key <= self).count()
    }
}

impl Address for u128 {
    /// Upper halves and lower halves: most prefixes differ in the upper ones, and
    /// 64 bits compare three times as fast as 128.
    type Node = ([u64; KEYS], [u64; KEYS]);

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn node(keys: &[Self]) -> Self::Node {
        let key = |at: usize| keys.get(at).copied().unwrap_or(Self::MAX);
        let upper = array::from_fn(|at| (key(at) >> 64) as u64);
        (upper, array::from_fn(|at| key(at) as u64))
    }

    fn place(self, (uppers, lowers): &Self::Node) -> usize {
        let (upper, lower) = ((self >> 64) as u64, self as u64);
        let smaller = uppers.iter().filter(|key| **key < upper).count();
        let equal = uppers[smaller..].iter().zip(&lowers[smaller..]);
        smaller
            + equal
                .take_while(|(key, low)| **key == upper && **low <= lower)
                .count()
    }
}

/// The address space of one family, cut wherever the longest prefix changes.
#[derive(Debug)]
struct Stretches<A: Address, T> {
    /// Where each stretch begins, in order, on the last level; on each level above
    /// it the first key of every node below.
    levels: Vec<Vec<A::Node>>,
    /// What holds in each stretch.
    values: Vec<Option<T>>,
}

impl<A: Address, T> Default for Stretches<A, T> {
    fn default() -> Self {
        Self {
            levels: Vec::new(),
            values: Vec::new(),
        }
    }
}

impl<A: Address, T: Copy + PartialEq> Stretches<A, T> {
    /// From the first and last address of each prefix.
    fn new(mut prefixes: Vec<(A, A, T)>) -> Self {
        if prefixes.is_empty() {
            return Self::default();
        }
        // A prefix comes after those that contain it, and of equals the last wins.
        prefixes.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        let mut stretches = Vec::with_capacity(prefixes.len() * 2 + 1);
        let mut around: Vec<(A, T)> = Vec::new();
        let mut begin = |at: A, value: Option<T>| match stretches.last_mut() {
            Some((last, old)) if *last == at => *old = value,
            _ => stretches.push((at, value)),
        };
        for (first, last, value) in prefixes {
            leave(&mut around, Some(first), &mut begin);
            begin(first, Some(value));
            around.push((last, value));
        }
        leave(&mut around, None, &mut begin);
        stretches.dedup_by_key(|stretch| stretch.1);
        Self::tree(stretches)
    }

    fn tree(stretches: Vec<(A, Option<T>)>) -> Self {
        let mut levels = Vec::new();
        let (mut keys, values): (Vec<A>, Vec<_>) = stretches.into_iter().unzip();
        loop {
            levels.push(keys.chunks(KEYS).map(A::node).collect::<Vec<_>>());
            keys = keys.chunks(KEYS).map(|keys| keys[0]).collect();
            if keys.len() <= 1 {
                break;
            }
        }
        levels.reverse();
        Self { levels, values }
    }

    fn lookup(&self, address: A) -> Option<T> {
        let mut place = 0;
        for level in &self.levels {
            // The filling, too, is not beyond the last address of all.
            let number = place.min(level.len() - 1);
            let before = address.place(&level[number]);
            // Only on the first level can there be none, before all prefixes.
            place = number * KEYS + before.checked_sub(1)?;
        }
        self.values.get(place).or(self.values.last()).copied()?
    }
}

/// Ends the innermost prefixes that do not reach the address, or all: after each
/// it is the one around it that holds.
fn leave<A: Address, T: Copy>(
    around: &mut Vec<(A, T)>,
    address: Option<A>,
    begin: &mut impl FnMut(A, Option<T>),
) {
    while let Some((last, _)) = around.pop_if(|(last, _)| address.is_none_or(|at| *last < at)) {
        if let Some(next) = last.next() {
            begin(next, around.last().map(|(_, value)| *value));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;

    use super::*;

    /// The same by trying every prefix.
    fn naive(prefixes: &[(IpNet, u8)], address: IpAddr) -> Option<u8> {
        prefixes
            .iter()
            .rev()
            .filter(|(prefix, _)| prefix.contains(&address))
            // `max_by_key` takes the last of equals, which after `rev` is the first:
            // find the longest first, then the last inserted with it.
            .map(|(prefix, value)| (prefix.prefix_len(), *value))
            .fold(None, |best: Option<(u8, u8)>, next| match best {
                Some((length, _)) if length >= next.0 => best,
                _ => Some(next),
            })
            .map(|(_, value)| value)
    }

    /// Few distinct bits, so that prefixes nest and collide.
    fn v4() -> impl Strategy<Value = Ipv4Addr> {
        (0u32..64).prop_map(|bits| Ipv4Addr::from(0x0a00_0000 | (bits & 7) << 16 | bits >> 3))
    }

    fn v6() -> impl Strategy<Value = Ipv6Addr> {
        (0u128..64).prop_map(|bits| Ipv6Addr::from((0xfd00 << 112) | (bits & 7) << 64 | bits >> 3))
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (v4(), 0u8..=32)
                .prop_map(|(address, length)| IpNet::new_assert(address.into(), length)),
            (v6(), 0u8..=128)
                .prop_map(|(address, length)| IpNet::new_assert(address.into(), length)),
        ]
    }

    #[test]
    fn the_ends_of_the_address_space_belong_to_their_prefixes() {
        let ends = ["0.0.0.0", "255.255.255.255", "::"];
        let ends = ends.map(|end| end.parse::<IpAddr>().ok());
        let ends = ends
            .into_iter()
            .flatten()
            .chain([Ipv6Addr::from(u128::MAX).into()]);
        for end in ends {
            assert_eq!(PrefixMap::<u8>::default().lookup(end), None);
            let whole = IpNet::new_assert(end, 0).trunc();
            let table = PrefixMap::new([(whole, 1)]);
            assert_eq!(table.lookup(end), Some(1));
            let table = PrefixMap::new([(end.into(), 2), (whole, 3)]);
            assert_eq!(table.lookup(end), Some(2));
            let table = PrefixMap::new([(end.into(), 3)]);
            assert_eq!(table.lookup(end), Some(3));
        }
    }

    #[test]
    fn many_prefixes_make_levels_that_all_lead_to_the_right_one() {
        // Every second network, up to the last address there is.
        for count in [15u32, 16, 17, 129, 2_049, 40_000] {
            let spacing = (1u64 << 32) / u64::from(count);
            let network = |number: u32| (u64::from(number) * spacing) as u32;
            let table = PrefixMap::new((0..count).flat_map(|number| {
                let v4 = Ipv4Net::new_assert(network(number).into(), 32);
                let v6 = Ipv6Net::new_assert((u128::from(network(number)) << 96).into(), 64);
                [(v4.into(), number), (v6.into(), number)]
            }));
            for number in 0..count {
                let at = network(number);
                let v4 = |at: u32| table.lookup(Ipv4Addr::from(at).into());
                assert_eq!(v4(at), Some(number));
                assert_eq!(v4(at.wrapping_add(1)), None);
                assert_eq!(v4(at.wrapping_sub(1)), None);
                let v6 = |at: u128| table.lookup(Ipv6Addr::from(at).into());
                let at = u128::from(at) << 96;
                assert_eq!(v6(at), Some(number));
                assert_eq!(v6(at | u128::from(u64::MAX)), Some(number));
                assert_eq!(v6(at + (1 << 64)), None);
                assert_eq!(v6(at.wrapping_sub(1)), None);
            }
        }
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_trying_every_prefix(
            prefixes in prop::collection::vec((prefix(), 0u8..9), 0..40),
            addresses in prop::collection::vec(
                prop_oneof![v4().prop_map(IpAddr::V4), v6().prop_map(IpAddr::V6)], 1..20),
        ) {
            let table = PrefixMap::new(prefixes.iter().copied());
            for address in addresses {
                prop_assert_eq!(table.lookup(address), naive(&prefixes, address));
            }
        }
    }
}
