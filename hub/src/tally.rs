//! How often each partition was asked since the hub started, how often in vain,
//! and at what cost: figures for monitoring. Nothing is decided by them.

use std::collections::{BTreeMap, BTreeSet};

use privnet_model::inventory::{Inventory, Partition, PartitionAnswer};
use privnet_model::status::PartitionStatus;

/// The counters of every partition asked so far.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<Partition, Count>);

/// The counters of one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    /// How often it was asked.
    polls: u64,
    /// How often it gave no complete answer.
    failures: u64,
    /// API requests of the last poll.
    calls: u32,
}

impl Tally {
    /// Counts what a poll brought.
    pub(crate) fn answered(&mut self, answers: &[PartitionAnswer]) {
        for answer in answers {
            let count = self.0.entry(answer.partition.clone()).or_default();
            count.polls += 1;
            count.failures += u64::from(answer.answer.is_err());
            count.calls = answer.calls;
        }
    }

    /// Counts a poll of these partitions that broke off.
    pub(crate) fn broke_off(&mut self, partitions: BTreeSet<Partition>) {
        for partition in partitions {
            let count = self.0.entry(partition).or_default();
            count.polls += 1;
            count.failures += 1;
        }
    }

    /// How the polling of every partition goes.
    pub(crate) fn status(&self, inventory: &Inventory) -> Vec<PartitionStatus> {
        let partitions = inventory.partitions.iter();
        partitions
            .map(|(partition, view)| {
                let Count {
                    polls,
                    failures,
                    calls,
                } = self.of(partition);
                PartitionStatus {
                    partition: partition.clone(),
                    spokes: view.spokes.len(),
                    answered_at: view.answered_at,
                    error: view.error.clone(),
                    failing_since: view.failing_since,
                    polls,
                    failures,
                    calls,
                }
            })
            .collect()
    }

    fn of(&self, partition: &Partition) -> Count {
        self.0.get(partition).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;
    use privnet_model::inventory::Answer;

    fn partition(region: &str) -> Partition {
        Partition {
            account: "111122223333".parse().unwrap(),
            region: region.parse().unwrap(),
        }
    }

    #[test]
    fn polls_and_failures_are_counted_for_each_partition() {
        let answer = |region: &str, failed: bool| PartitionAnswer {
            partition: partition(region),
            answer: match failed {
                true => Err("throttled".to_owned()),
                false => Ok(Answer::default()),
            },
            calls: match failed {
                true => 9,
                false => 2,
            },
        };
        let mut tally = Tally::default();
        tally.answered(&[answer("us-west-2", false), answer("eu-west-1", true)]);
        tally.answered(&[answer("us-west-2", true), answer("eu-west-1", true)]);
        tally.broke_off(BTreeSet::from([partition("us-west-2")]));
        let count = |region| tally.of(&partition(region));
        let told = |region| {
            let count = count(region);
            (count.polls, count.failures, count.calls)
        };
        assert_eq!(told("us-west-2"), (3, 2, 9));
        assert_eq!(told("eu-west-1"), (2, 2, 9));
        tally.answered(&[answer("us-west-2", false)]);
        assert_eq!(tally.of(&partition("us-west-2")).calls, 2);
        assert_eq!(tally.of(&partition("eu-west-2")), Count::default());
    }
}
