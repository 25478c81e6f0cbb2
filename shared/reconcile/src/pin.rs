//! Which key a spoke is known by. A key is pinned to an instance; that a tag says
//! another does not change it while the pinned one is in use.
//!
//! There are two ways to another key: the pinned key is silent, and the tag names
//! another; or its holder announced the next one through its own tunnel, and now uses
//! that. That an instance was stopped and started is none: it has its disk, and so its
//! key, and whoever may write tags could wait for it.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use privnet_model::id::InstanceId;
use privnet_model::inventory::{Inventory, Partition, PartitionView, Pin, Proof, SpokeRecord};
use privnet_model::key::PublicKey;

/// A spoke whose key is another now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// Its partition.
    pub partition: Partition,
    /// The instance.
    pub instance: InstanceId,
    /// The key it had.
    pub from: PublicKey,
    /// The key it has.
    pub to: PublicKey,
    /// Why.
    pub cause: KeyCause,
}

/// Why a spoke's key is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyCause {
    /// It published another key, and the one before is silent.
    Silent,
    /// The holder of the one before announced it, and uses it.
    Announced,
}

impl fmt::Display for KeyCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Silent => "it published another key, and the one before is silent",
            Self::Announced => "the holder of the one before announced it, and uses it now",
        })
    }
}

/// Whether any of the spoke's keys carries traffic.
pub fn is_alive(pin: &Pin, alive: &BTreeSet<PublicKey>) -> bool {
    alive.contains(&pin.key) || pin.next.is_some_and(|next| alive.contains(&next))
}

/// The key that the tunnel uses now, and the other one beside it while they change.
pub fn in_use(pin: &Pin, alive: &BTreeSet<PublicKey>) -> (PublicKey, Option<PublicKey>) {
    match pin.next {
        Some(next) if alive.contains(&next) => (next, Some(pin.key)),
        next => (pin.key, next),
    }
}

/// The key that was published and is not used.
pub fn quarantined(pin: &Pin, record: &SpokeRecord) -> Option<PublicKey> {
    record
        .public_key
        .filter(|published| *published != pin.key && Some(*published) != pin.next)
}

/// The pin of a spoke as described, when it differs from the known one.
pub(crate) fn settle(
    known: Option<&Pin>,
    record: &SpokeRecord,
    alive: &BTreeSet<PublicKey>,
) -> Option<(Pin, Option<KeyCause>)> {
    let fresh = |key| Pin {
        key,
        next: None,
        proof: Proof::Missing,
    };
    let Some(known) = known else {
        return record.public_key.map(|key| (fresh(key), None));
    };
    if let Some(key) = quarantined(known, record)
        && !is_alive(known, alive)
    {
        return Some((fresh(key), Some(KeyCause::Silent)));
    }
    let next = known.next?;
    (alive.contains(&next) && !alive.contains(&known.key)).then(|| {
        let pin = Pin {
            key: next,
            next: None,
            proof: known.proof.clone(),
        };
        (pin, Some(KeyCause::Announced))
    })
}

/// Settles every key by what carries traffic now: between polls, too, a spoke
/// whose key is silent gets the one it published. Cheap when nothing changes.
pub fn settle_all(inventory: &mut Inventory, alive: &BTreeSet<PublicKey>) -> Vec<KeyChange> {
    let mut changes = Vec::new();
    for (partition, view) in &mut inventory.partitions {
        let PartitionView { spokes, pins, .. } = view;
        for (instance, pin) in pins {
            let Some(record) = spokes.get(instance) else {
                continue;
            };
            let Some((settled, cause)) = settle(Some(pin), record, alive) else {
                continue;
            };
            let from = std::mem::replace(pin, settled).key;
            changes.extend(cause.map(|cause| KeyChange {
                partition: partition.clone(),
                instance: instance.clone(),
                from,
                to: pin.key,
                cause,
            }));
        }
    }
    changes
}

/// Why an announced key is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// The instance has no tunnel.
    #[error("{0} is no spoke that is known here")]
    Unknown(InstanceId),
    /// Somebody else's key.
    #[error("the key is that of {0}")]
    Taken(String),
}

/// Notes the key that a spoke announced through its own tunnel as its next one.
/// `used` is the key that the announcement came by. One that was announced before and is
/// used already stays: then the one before that goes. To announce the key in use takes an
/// earlier announcement back.
///
/// # Errors
///
/// When there is no such spoke, or the key is another's.
pub fn announce(
    inventory: &mut Inventory,
    partition: &Partition,
    instance: &InstanceId,
    used: PublicKey,
    next: PublicKey,
) -> Result<(), AnnounceError> {
    let others = inventory.partitions.values().flat_map(|view| &view.pins);
    for (other, pin) in others {
        if other != instance && (pin.key == next || pin.next == Some(next)) {
            return Err(AnnounceError::Taken(other.to_string()));
        }
    }
    let pin = inventory
        .partitions
        .get_mut(partition)
        .and_then(|view| view.pins.get_mut(instance))
        .ok_or_else(|| AnnounceError::Unknown(instance.clone()))?;
    if pin.next == Some(used) {
        pin.key = used;
    }
    pin.next = (pin.key != next).then_some(next);
    Ok(())
}

/// Notes what came of a proof of identity for this key. `false` when the spoke is
/// not known by the key any more.
pub fn judged(
    inventory: &mut Inventory,
    partition: &Partition,
    instance: &InstanceId,
    key: PublicKey,
    result: Result<Timestamp, String>,
) -> bool {
    let view = inventory.partitions.get_mut(partition);
    let Some(pin) = view.and_then(|view| view.pins.get_mut(instance)) else {
        return false;
    };
    if pin.key != key && pin.next != Some(key) {
        return false;
    }
    pin.proof = match (result, &pin.proof) {
        (Ok(at), _) => Proof::Accepted { at },
        // Whoever has proved it once does not lose it by a bad letter.
        (Err(_), Proof::Accepted { at }) => Proof::Accepted { at: *at },
        (Err(problem), Proof::Missing | Proof::Refused { .. }) => Proof::Refused { problem },
    };
    true
}

#[cfg(test)]
mod tests;
