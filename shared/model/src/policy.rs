//! Which sites may talk to each other, compiled for the data plane: every
//! address has a class, and every pair of classes a verdict.
//!
//! Verdicts are without memory of connections, so who may talk to somebody may
//! also be answered: rules hold in both directions.

use ipnet::IpNet;

/// A compiled policy. Empty, it allows everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyTable {
    /// The class of the addresses in a prefix, the longest that matches; an
    /// address that none matches has class 0. Each prefix once.
    prefixes: Vec<(IpNet, u16)>,
    /// How many classes there are.
    classes: u16,
    /// Row by row: the verdict on traffic between the classes of row and column.
    verdicts: Vec<Verdict>,
    /// How many rules there are: what a denial may name.
    rules: u16,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    #[default]
    Allow,
    /// It is dropped, because of the rule of this number (from 0).
    Deny(u16),
}

impl PolicyTable {
    /// Puts a table together: `verdict` is asked once for each pair of classes.
    pub fn new(
        prefixes: Vec<(IpNet, u16)>,
        classes: u16,
        rules: u16,
        verdict: impl Fn(u16, u16) -> Verdict,
    ) -> Self {
        let pairs = (0..classes).flat_map(|a| (0..classes).map(move |b| (a, b)));
        let verdicts = pairs.map(|(a, b)| verdict(a, b)).collect();
        Self {
            prefixes,
            classes,
            verdicts,
            rules,
        }
    }

    /// Whether everything is allowed.
    pub fn is_empty(&self) -> bool {
        self.verdicts
            .iter()
            .all(|verdict| *verdict == Verdict::Allow)
    }

    /// Each prefix with its class.
    pub fn prefixes(&self) -> &[(IpNet, u16)] {
        &self.prefixes
    }

    /// How many rules there are.
    pub fn rules(&self) -> u16 {
        self.rules
    }

    /// The verdict on traffic from one class to another.
    pub fn verdict(&self, from: u16, to: u16) -> Verdict {
        let index = usize::from(from) * usize::from(self.classes) + usize::from(to);
        self.verdicts.get(index).copied().unwrap_or_default()
    }
}
