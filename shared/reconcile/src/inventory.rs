//! What the answers of a poll make of what was known: an error never removes
//! anything, only a partition's own complete answer changes that partition, and
//! what is missing from one goes by these rules alone:
//!
//! | EC2, asked by id, says | the spoke goes |
//! |---|---|
//! | terminated | now |
//! | stopped, no longer tagged as a spoke, unknown | at the second complete answer in a row that lacks it, and not while its tunnel handshakes |
//! | that it runs, without a single tag | not: EC2 has been seen to leave tags out |
//! | nothing | not |
//!
//! The operator may let go of one by its id, whatever its tunnel does, if EC2 says that
//! it is stopped, untagged or unknown.
//!
//! If one poll would take more than two spokes and more than a quarter of all,
//! it takes none: they are held until they are back or the operator accepts it. The same
//! goes for what a change of the config takes: a region that is mistyped, or left out.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use privnet_model::id::InstanceId;
use privnet_model::inventory::{
    Absence, Answer, Fate, HeldRemovals, Inventory, Partition, PartitionAnswer, PartitionView, Pin,
    SpokeRecord,
};
use privnet_model::key::PublicKey;
use privnet_model::status::Kept;

use crate::pin::{self, KeyCause, KeyChange};

/// This many may always go at once: small fleets lose a spoke or two by themselves.
const ALWAYS_ALLOWED: usize = 2;
/// Otherwise one of so many.
const ALLOWED_SHARE: usize = 4;

/// The taking in of one poll's answers, all at once or partition by partition as
/// they come. The limit on removals counts over the whole of it.
#[derive(Debug, Clone)]
pub struct Sweep {
    accepted: Accepted,
    /// Spokes known when the poll began.
    of: usize,
    /// Removals that this poll asked for so far.
    asked: usize,
}

/// What the operator lets go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accepted {
    /// All that go by the rules, however many they are.
    pub held: bool,
    /// These, though their tunnels handshake.
    pub instances: BTreeSet<InstanceId>,
}

/// What a sweep made of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Absorbed {
    /// What is known now.
    pub inventory: Inventory,
    /// The spokes that went.
    pub removed: Vec<Removed>,
    /// The spokes whose key is another now.
    pub keys: Vec<KeyChange>,
}

/// A spoke that went, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Its partition.
    pub partition: Partition,
    /// The instance.
    pub instance: InstanceId,
    /// What EC2 said of it.
    pub fate: Fate,
    /// Since when it was missing.
    pub since: Timestamp,
    /// Whether it went because the operator named it.
    pub accepted: bool,
}

impl Sweep {
    /// Begins to take in a poll's answers.
    pub fn begin(inventory: &Inventory, accepted: Accepted) -> Self {
        Self {
            accepted,
            of: inventory.spokes().count(),
            asked: 0,
        }
    }

    /// Takes answers in, in whatever order. A partition that failed keeps its
    /// spokes and remembers why and since when; one that did not answer yet stays
    /// as it is. `alive` are the keys whose tunnels carry traffic
    /// ([`crate::alive`]).
    pub fn absorb(
        &mut self,
        mut inventory: Inventory,
        answers: Vec<PartitionAnswer>,
        alive: &BTreeSet<PublicKey>,
        now: Timestamp,
    ) -> Absorbed {
        let mut due: Vec<Removed> = Vec::new();
        let mut keys = Vec::new();
        for PartitionAnswer {
            partition, answer, ..
        } in answers
        {
            let view = inventory.partitions.entry(partition.clone()).or_default();
            match answer {
                Ok(answer) => {
                    let mut taken = TakenIn {
                        partition: &partition,
                        view,
                        alive,
                        accepted: &self.accepted.instances,
                        now,
                    };
                    taken.answer(answer, &mut due, &mut keys);
                    view.answered_at = Some(now);
                    view.error = None;
                    view.failing_since = None;
                }
                Err(error) => {
                    view.error = Some(error);
                    view.failing_since.get_or_insert(now);
                }
            }
        }
        let removed = self.remove(&mut inventory, due, now);
        Absorbed {
            inventory,
            removed,
            keys,
        }
    }

    /// Forgets the partitions that the config no longer names. It needs no answer, as
    /// the operator asked for it, but he may have mistyped: the limit holds here, too.
    pub fn keep_configured(
        &mut self,
        mut inventory: Inventory,
        configured: &BTreeSet<Partition>,
        now: Timestamp,
    ) -> (Inventory, Vec<Removed>) {
        let mut due = Vec::new();
        for (partition, view) in &mut inventory.partitions {
            if configured.contains(partition) {
                let back = |absence: &mut Absence| absence.fate != Fate::Unconfigured;
                view.absent.retain(|_, absence| back(absence));
                continue;
            }
            for instance in view.spokes.keys() {
                let since = view.absent.get(instance).map_or(now, |before| before.since);
                let absence = Absence {
                    fate: Fate::Unconfigured,
                    since,
                    answers: 0,
                    kept: Kept::TooMany,
                };
                view.absent.insert(instance.clone(), absence);
                due.push(Removed {
                    partition: partition.clone(),
                    instance: instance.clone(),
                    fate: Fate::Unconfigured,
                    since,
                    accepted: false,
                });
            }
        }
        let removed = self.remove(&mut inventory, due, now);
        let empty = |view: &PartitionView| view.spokes.is_empty();
        inventory
            .partitions
            .retain(|partition, view| configured.contains(partition) || !empty(view));
        (inventory, removed)
    }

    /// Takes out what is due, if that is not too much: then all of it is held.
    fn remove(
        &mut self,
        inventory: &mut Inventory,
        mut due: Vec<Removed>,
        now: Timestamp,
    ) -> Vec<Removed> {
        // Whom the operator named, he looked at.
        self.asked += due.iter().filter(|gone| !gone.accepted).count();
        if self.too_many() {
            due.retain(|gone| gone.accepted);
        }
        for gone in &due {
            if let Some(view) = inventory.partitions.get_mut(&gone.partition) {
                view.spokes.remove(&gone.instance);
                view.absent.remove(&gone.instance);
                view.pins.remove(&gone.instance);
            }
        }
        inventory.held_removals = self.held(inventory, now);
        due
    }

    fn too_many(&self) -> bool {
        !self.accepted.held && self.asked > ALWAYS_ALLOWED && self.asked * ALLOWED_SHARE > self.of
    }

    /// Those that are held are marked so one by one; the alarm counts the marks,
    /// and so outlives polls in which their partitions fail.
    fn held(&self, inventory: &Inventory, now: Timestamp) -> Option<HeldRemovals> {
        let absences = inventory.partitions.values().flat_map(|view| &view.absent);
        let count = absences
            .filter(|(_, absence)| absence.kept == Kept::TooMany)
            .count();
        let before = inventory.held_removals.unwrap_or(HeldRemovals {
            count,
            of: self.of,
            since: now,
        });
        (count > 0).then_some(HeldRemovals { count, ..before })
    }
}

/// One partition that answered completely.
struct TakenIn<'a> {
    partition: &'a Partition,
    view: &'a mut PartitionView,
    alive: &'a BTreeSet<PublicKey>,
    accepted: &'a BTreeSet<InstanceId>,
    now: Timestamp,
}

impl TakenIn<'_> {
    fn answer(&mut self, answer: Answer, due: &mut Vec<Removed>, keys: &mut Vec<KeyChange>) {
        let mut before = std::mem::take(&mut self.view.spokes);
        let mut vpcs = known_cidrs(before.values());
        let described = known_cidrs(answer.spokes.iter());
        vpcs.extend(described.clone());
        for record in answer.spokes {
            let known = before.remove(&record.instance);
            self.view.absent.remove(&record.instance);
            let record = self.complete(record, known, &vpcs);
            if let Some(change) = self.settle_key(&record) {
                keys.push(change);
            }
            self.view.spokes.insert(record.instance.clone(), record);
        }
        // Whatever is left was known, and is not in the answer.
        for (instance, mut record) in before {
            // Its VPC may have grown meanwhile, as another spoke there shows.
            if let Some(cidrs) = record.vpc.as_ref().and_then(|vpc| described.get(vpc)) {
                record.cidrs.clone_from(cidrs);
            }
            if let Some(fate) = answer.absent.get(&instance) {
                due.extend(self.missing(&instance, *fate));
            }
            // One whose fate the answer does not tell was not asked about: it was
            // found only after the poll began.
            self.view.spokes.insert(instance, record);
        }
    }

    /// Counts a spoke's absence, and tells whether it is due to go.
    fn missing(&mut self, instance: &InstanceId, fate: Fate) -> Option<Removed> {
        let before = self.view.absent.get(instance);
        let since = before.map_or(self.now, |absence| absence.since);
        let proves_nothing = matches!(fate, Fate::Tagless | Fate::Unclear);
        let answers = match proves_nothing {
            true => 0,
            false => before.map_or(0, |before| before.answers).saturating_add(1),
        };
        let pin = self.view.pins.get(instance);
        let handshakes = pin.is_some_and(|pin| pin::is_alive(pin, self.alive));
        let kept = match fate {
            Fate::Terminated => None,
            _ if proves_nothing => Some(Kept::TagsMissing),
            _ if handshakes => Some(Kept::Handshakes),
            _ => (answers < 2).then_some(Kept::SecondAnswer),
        };
        let absence = Absence {
            fate,
            since,
            answers,
            // What is due and does not go is held.
            kept: kept.unwrap_or(Kept::TooMany),
        };
        self.view.absent.insert(instance.clone(), absence);
        let accepted = !proves_nothing && self.accepted.contains(instance);
        (kept.is_none() || accepted).then(|| Removed {
            partition: self.partition.clone(),
            instance: instance.clone(),
            fate,
            since,
            accepted,
        })
    }

    /// The record with what EC2 left out this time and cannot have changed.
    ///
    /// And while the spoke's tunnel handshakes, what only a tag says, or what is
    /// only missing, changes nothing about it: a slip of the pen in a tag must not
    /// cut off a VPC. It is taken at the first poll that finds the tunnel silent.
    fn complete(
        &self,
        mut record: SpokeRecord,
        known: Option<SpokeRecord>,
        vpcs: &BTreeMap<privnet_model::id::VpcId, Vec<ipnet::IpNet>>,
    ) -> SpokeRecord {
        if let Some(known) = known {
            // An instance lives and dies in one VPC, zone and image, with one
            // primary private address.
            record.vpc = record.vpc.or(known.vpc);
            record.zone = record.zone.or(known.zone);
            record.image = record.image.or(known.image);
            record.private_address = record.private_address.or(known.private_address);
            let same_launch = record.launched.is_none() || record.launched == known.launched;
            record.launched = record.launched.or(known.launched);
            // Its own subnet is in its zone, so none at all is no answer.
            if record.zone_cidrs.is_empty() {
                record.zone_cidrs = known.zone_cidrs;
            }
            let pin = self.view.pins.get(&record.instance);
            if same_launch && pin.is_some_and(|pin| pin::is_alive(pin, self.alive)) {
                record.public_address = record.public_address.or(known.public_address);
                record.instance_profile = record.instance_profile.or(known.instance_profile);
                record.port = known.port;
                record.transport = known.transport;
                record.tag_problems = known.tag_problems;
            }
        }
        // A VPC always has a CIDR: that its description is missing says nothing.
        if record.cidrs.is_empty()
            && let Some(cidrs) = record.vpc.as_ref().and_then(|vpc| vpcs.get(vpc))
        {
            record.cidrs.clone_from(cidrs);
        }
        record
    }

    fn settle_key(&mut self, record: &SpokeRecord) -> Option<KeyChange> {
        let known: Option<&Pin> = self.view.pins.get(&record.instance);
        let (pin, cause) = pin::settle(known, record, self.alive)?;
        let change = known
            .zip(cause)
            .map(|(known, cause): (&Pin, KeyCause)| KeyChange {
                partition: self.partition.clone(),
                instance: record.instance.clone(),
                from: known.key,
                to: pin.key,
                cause,
            });
        self.view.pins.insert(record.instance.clone(), pin);
        change
    }
}

/// The CIDRs of each VPC, as told by these spokes.
fn known_cidrs<'a>(
    spokes: impl Iterator<Item = &'a SpokeRecord>,
) -> BTreeMap<privnet_model::id::VpcId, Vec<ipnet::IpNet>> {
    spokes
        .filter(|spoke| !spoke.cidrs.is_empty())
        .filter_map(|spoke| Some((spoke.vpc.clone()?, spoke.cidrs.clone())))
        .collect()
}

#[cfg(test)]
mod tests;
