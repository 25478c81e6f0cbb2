//! XFRM interfaces: where the packets of tunnels come out and go in for which the kernel
//! does ESP. Each tunnel has one, tied to its SAs and policies by a number.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;

use privnet_model::ipsec::ConnectionName;

use crate::interface::{InterfaceName, InterfacePattern};

/// Nobody else's begin so.
const PREFIX: &str = "pnesp-";

/// An XFRM interface of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct XfrmInterface {
    /// The number that its SAs and policies have.
    pub if_id: NonZeroU32,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
}

impl XfrmInterface {
    /// One as it should be.
    pub fn new(if_id: NonZeroU32) -> Self {
        Self {
            if_id,
            mtu: crate::gateway::ESP_MTU.into(),
            up: true,
        }
    }

    /// What the one of this number is called.
    pub fn name(if_id: NonZeroU32) -> InterfaceName {
        named(format!("{PREFIX}{if_id:08x}"))
    }

    /// What one is called that is only tried; no number's.
    pub fn probe() -> InterfaceName {
        named(format!("{PREFIX}probe"))
    }

    /// All of them.
    pub fn pattern() -> InterfacePattern {
        InterfacePattern::beginning(PREFIX)
    }
}

fn named(name: String) -> InterfaceName {
    match InterfaceName::new(name) {
        Ok(name) => name,
        Err(error) => unreachable!("{error}"),
    }
}

/// In the operator's words.
impl fmt::Display for XfrmInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::name(self.if_id);
        write!(f, "{name} type xfrm if_id {} mtu {}", self.if_id, self.mtu)
    }
}

/// A number for each connection that follows from its name, so that a restart finds
/// the interfaces and SAs as they are: FNV-1a, and the next free one where two names
/// meet.
pub fn if_ids<'a>(
    names: impl IntoIterator<Item = &'a ConnectionName>,
) -> BTreeMap<ConnectionName, NonZeroU32> {
    let mut taken = BTreeSet::new();
    let mut numbers = BTreeMap::new();
    let ordered: BTreeSet<&ConnectionName> = names.into_iter().collect();
    for name in ordered {
        let mut number = hash(name.as_str());
        while !taken.insert(number) {
            number = number.checked_add(1).unwrap_or(NonZeroU32::MIN);
        }
        numbers.insert(name.clone(), number);
    }
    numbers
}

fn hash(name: &str) -> NonZeroU32 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    NonZeroU32::new(hash).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn a_tunnels_number_follows_from_its_name_and_is_its_own() {
        let name = |number: u32| ConnectionName::of(&format!("site-{number}")).unwrap();
        let names: Vec<ConnectionName> = (0..5_000).map(name).collect();
        let numbers = if_ids(&names);
        let distinct: BTreeSet<_> = numbers.values().collect();
        assert_eq!(distinct.len(), names.len());
        let alone = if_ids(&names[..1]);
        assert_eq!(alone[&names[0]], numbers[&names[0]]);
        // FNV-1a's own test vector.
        assert_eq!(hash("a").get(), 0xe40c_292c);
        let interface = XfrmInterface::new(hash("a"));
        assert_eq!(
            interface.to_string(),
            "pnesp-e40c292c type xfrm if_id 3826002220 mtu 1400"
        );
    }
}
