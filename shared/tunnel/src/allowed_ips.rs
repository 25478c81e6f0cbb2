//! Allowed IPs: which peer a destination goes to, and which peer a source may
//! come from. An immutable snapshot over all peers, looked up by the longest
//! prefix; a change builds a new one. It knows nothing of peers but their index.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use crate::index::PeerIndex;

/// Whose a prefix is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A peer's allowed IPs.
    Peer(PeerIndex),
    /// This host's side: never sent to a peer, never accepted from one.
    Local,
}

/// The longest-prefix snapshot of a device.
#[derive(Debug, Default)]
pub struct AllowedIps {
    v4: PrefixMap<Ipv4Net, Target>,
    v6: PrefixMap<Ipv6Net, Target>,
}

impl AllowedIps {
    /// Builds the snapshot. Of equal prefixes the last one holds.
    pub fn new(prefixes: impl IntoIterator<Item = (IpNet, Target)>) -> Self {
        let mut table = Self::default();
        for (prefix, target) in prefixes {
            match prefix {
                IpNet::V4(prefix) => table.v4.insert(prefix.trunc(), target),
                IpNet::V6(prefix) => table.v6.insert(prefix.trunc(), target),
            };
        }
        table
    }

    /// Whose the address is, by the longest prefix that contains it.
    pub fn lookup(&self, address: IpAddr) -> Option<Target> {
        match address {
            IpAddr::V4(address) => self.v4.get_lpm(&Ipv4Net::from(address)).map(|hit| *hit.1),
            IpAddr::V6(address) => self.v6.get_lpm(&Ipv6Net::from(address)).map(|hit| *hit.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    /// The same by trying every prefix.
    fn naive(prefixes: &[(IpNet, Target)], address: IpAddr) -> Option<Target> {
        prefixes
            .iter()
            .rev()
            .filter(|(prefix, _)| prefix.contains(&address))
            // `max_by_key` takes the last of equals, which after `rev` is the first:
            // find the longest first, then the last inserted with it.
            .map(|(prefix, target)| (prefix.prefix_len(), *target))
            .fold(None, |best: Option<(u8, Target)>, next| match best {
                Some((length, _)) if length >= next.0 => best,
                _ => Some(next),
            })
            .map(|(_, target)| target)
    }

    fn target() -> impl Strategy<Value = Target> {
        prop_oneof![
            4 => (0u16..8).prop_map(|slot| Target::Peer(PeerIndex::new(slot, 0))),
            1 => Just(Target::Local),
        ]
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

    proptest! {
        #[test]
        fn lookup_agrees_with_trying_every_prefix(
            prefixes in prop::collection::vec((prefix(), target()), 0..40),
            addresses in prop::collection::vec(
                prop_oneof![v4().prop_map(IpAddr::V4), v6().prop_map(IpAddr::V6)], 1..20),
        ) {
            let table = AllowedIps::new(prefixes.iter().copied());
            for address in addresses {
                prop_assert_eq!(table.lookup(address), naive(&prefixes, address));
            }
        }
    }
}
