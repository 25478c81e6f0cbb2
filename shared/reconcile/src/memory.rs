//! What must outlive a restart so that the restart changes nothing.

use std::collections::BTreeSet;

use privnet_model::inventory::{HeldRemovals, Inventory, Partition, PartitionView};
use privnet_model::key::PublicKey;
use serde::{Deserialize, Serialize};

use crate::fleet::{Carried, Fleet};

/// What the hub's state file keeps of discovery and of the last decision. EC2 is
/// the source of truth: to lose this costs one poll, and lets an older launch have
/// what a younger one carried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    partitions: Vec<(Partition, PartitionView)>,
    #[serde(default)]
    held_removals: Option<HeldRemovals>,
    /// Who carried what.
    #[serde(default)]
    pub carried: Carried,
    /// Whose tunnels were alive.
    #[serde(default)]
    pub alive: BTreeSet<PublicKey>,
    /// Which tunnels by IPsec were up, as charon calls them.
    #[serde(default)]
    pub connected: BTreeSet<String>,
}

impl Memory {
    /// What is to be kept.
    pub fn new(inventory: &Inventory, fleet: &Fleet, alive: &BTreeSet<PublicKey>) -> Self {
        Self {
            partitions: inventory.partitions.clone().into_iter().collect(),
            held_removals: inventory.held_removals,
            carried: fleet.carried(),
            alive: alive.clone(),
            connected: BTreeSet::new(),
        }
    }

    /// The inventory that was kept.
    pub fn inventory(&self) -> Inventory {
        Inventory {
            partitions: self.partitions.iter().cloned().collect(),
            held_removals: self.held_removals,
        }
    }
}
