//! What the answers of a poll make of what was known: an error never removes
//! anything, and only a partition's own complete answer changes that partition.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use privnet_model::id::InstanceId;
use privnet_model::inventory::{Answer, Inventory, Partition, PartitionAnswer, SpokeRecord};

/// Takes the answers of one poll into the inventory.
///
/// A partition that answered completely becomes what it answered. One that
/// failed keeps its spokes, and remembers why and since when. One that was not
/// asked stays as it is.
pub fn absorb(
    mut inventory: Inventory,
    answers: Vec<PartitionAnswer>,
    now: Timestamp,
) -> Inventory {
    for PartitionAnswer {
        partition, answer, ..
    } in answers
    {
        let view = inventory.partitions.entry(partition).or_default();
        match answer {
            Ok(Answer { spokes, .. }) => {
                let before = std::mem::take(&mut view.spokes);
                view.spokes = spokes
                    .into_iter()
                    .map(|spoke| keep_cidrs(spoke, &before))
                    .map(|spoke| (spoke.instance.clone(), spoke))
                    .collect();
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
    inventory
}

/// A VPC always has a CIDR. One that EC2 does not describe this time has those
/// that it had: that its description is missing says nothing about it.
fn keep_cidrs(mut spoke: SpokeRecord, before: &BTreeMap<InstanceId, SpokeRecord>) -> SpokeRecord {
    if spoke.cidrs.is_empty()
        && spoke.vpc.is_some()
        && let Some(known) = before.values().find(|known| known.vpc == spoke.vpc)
    {
        spoke.cidrs.clone_from(&known.cidrs);
    }
    spoke
}

/// Forgets the partitions that the config no longer names. This is the one
/// removal that needs no answer: the operator asked for it.
pub fn keep_configured(
    mut inventory: Inventory,
    configured: &BTreeSet<Partition>,
) -> (Inventory, Vec<Partition>) {
    let dropped = inventory
        .partitions
        .keys()
        .filter(|partition| !configured.contains(partition))
        .cloned()
        .collect();
    inventory
        .partitions
        .retain(|partition, _| configured.contains(partition));
    (inventory, dropped)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;
    use crate::fleet::fixtures::{partition, spoke};

    fn answer(region: &str, spokes: Result<Vec<SpokeRecord>, &str>) -> PartitionAnswer {
        PartitionAnswer {
            partition: partition(region),
            answer: spokes
                .map(|spokes| Answer {
                    spokes,
                    ..Answer::default()
                })
                .map_err(str::to_owned),
            calls: 1,
        }
    }

    fn count(inventory: &Inventory, region: &str) -> usize {
        inventory.partitions[&partition(region)].spokes.len()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_region_that_fails_keeps_its_spokes_and_says_since_when() {
        let first = absorb(
            Inventory::default(),
            vec![
                answer("eu-west-1", Ok(vec![spoke(1, "10.1.0.0/16")])),
                answer("us-west-2", Ok(vec![spoke(2, "10.2.0.0/16")])),
            ],
            at(100),
        );
        let second = absorb(
            first,
            vec![
                answer("eu-west-1", Err("throttled")),
                answer("us-west-2", Ok(vec![])),
            ],
            at(200),
        );
        let third = absorb(second, vec![answer("eu-west-1", Err("down"))], at(300));
        assert_eq!(count(&third, "eu-west-1"), 1);
        assert_eq!(count(&third, "us-west-2"), 0);
        let view = &third.partitions[&partition("eu-west-1")];
        assert_eq!(view.error.as_deref(), Some("down"));
        assert_eq!(view.failing_since, Some(at(200)));
        assert_eq!(view.answered_at, Some(at(100)));
    }

    #[test]
    fn a_complete_answer_ends_the_failure() {
        let failing = absorb(
            Inventory::default(),
            vec![answer("eu-west-1", Err("down"))],
            at(1),
        );
        let well = absorb(failing, vec![answer("eu-west-1", Ok(vec![]))], at(2));
        let view = &well.partitions[&partition("eu-west-1")];
        assert_eq!((view.error.as_ref(), view.failing_since), (None, None));
    }

    #[test]
    fn a_vpc_that_ec2_does_not_describe_keeps_its_cidrs() {
        let mut bare = spoke(1, "10.1.0.0/16");
        let known = absorb(
            Inventory::default(),
            vec![answer("eu-west-1", Ok(vec![bare.clone()]))],
            at(1),
        );
        bare.cidrs.clear();
        let after = absorb(known, vec![answer("eu-west-1", Ok(vec![bare]))], at(2));
        let (_, record) = after.spokes().next().unwrap();
        assert_eq!(record.cidrs, spoke(1, "10.1.0.0/16").cidrs);
    }

    #[test]
    fn a_region_taken_out_of_the_config_goes_with_its_spokes() {
        let known = absorb(
            Inventory::default(),
            vec![answer("eu-west-1", Ok(vec![spoke(1, "10.1.0.0/16")]))],
            at(1),
        );
        let (kept, dropped) = keep_configured(known, &BTreeSet::from([partition("us-west-2")]));
        assert!(kept.partitions.is_empty());
        assert_eq!(dropped, vec![partition("eu-west-1")]);
    }
}
