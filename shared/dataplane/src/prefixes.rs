//! A peer's allowed IPs. Most peers have one; a tree takes two hundred bytes for that,
//! two megabytes for ten thousand of them.

use std::collections::BTreeSet;

use ipnet::IpNet;

/// Some prefixes, in order.
#[derive(Debug, Clone, Default)]
pub(crate) enum Prefixes {
    /// None.
    #[default]
    None,
    /// A single one.
    One(IpNet),
    /// Several; fewer when some were taken away.
    Several(BTreeSet<IpNet>),
}

impl Prefixes {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &IpNet> {
        let (one, several) = match self {
            Self::None => (None, None),
            Self::One(prefix) => (Some(prefix), None),
            Self::Several(prefixes) => (None, Some(prefixes)),
        };
        one.into_iter().chain(several.into_iter().flatten())
    }

    pub(crate) fn insert(&mut self, prefix: IpNet) {
        match self {
            Self::None => *self = Self::One(prefix),
            Self::One(first) if *first == prefix => {}
            Self::One(first) => *self = Self::Several(BTreeSet::from([*first, prefix])),
            Self::Several(prefixes) => {
                prefixes.insert(prefix);
            }
        }
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, prefix: &IpNet) -> bool {
        match self {
            Self::One(one) if one == prefix => {
                *self = Self::None;
                true
            }
            Self::None | Self::One(_) => false,
            Self::Several(prefixes) => prefixes.remove(prefix),
        }
    }

    /// Removes all but those to keep, and returns them.
    pub(crate) fn keep_only(&mut self, keep: impl Fn(&IpNet) -> bool) -> Vec<IpNet> {
        let gone: Vec<IpNet> = self
            .iter()
            .filter(|prefix| !keep(prefix))
            .copied()
            .collect();
        for prefix in &gone {
            self.remove(prefix);
        }
        gone
    }
}
