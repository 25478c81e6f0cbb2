//! How often each partition was asked since the hub started, and how often in
//! vain: two counters for monitoring. Nothing is decided by them.

use std::collections::{BTreeMap, BTreeSet};

use privnet_model::inventory::{Partition, PartitionAnswer};

/// The counters of every partition asked so far.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<Partition, Count>);

/// The counters of one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// How often it was asked.
    pub(crate) polls: u64,
    /// How often it gave no complete answer.
    pub(crate) failures: u64,
}

impl Tally {
    /// Counts what a poll brought.
    pub(crate) fn answered(&mut self, answers: &[PartitionAnswer]) {
        for answer in answers {
            let count = self.0.entry(answer.partition.clone()).or_default();
            count.polls += 1;
            count.failures += u64::from(answer.answer.is_err());
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

    /// The counters of a partition.
    pub(crate) fn of(&self, partition: &Partition) -> Count {
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
            calls: 1,
        };
        let mut tally = Tally::default();
        tally.answered(&[answer("us-west-2", false), answer("eu-west-1", true)]);
        tally.answered(&[answer("us-west-2", true), answer("eu-west-1", true)]);
        tally.broke_off(BTreeSet::from([partition("us-west-2")]));
        let count = |region| tally.of(&partition(region));
        let (polls, failures) = (3, 2);
        assert_eq!(count("us-west-2"), Count { polls, failures });
        let (polls, failures) = (2, 2);
        assert_eq!(count("eu-west-1"), Count { polls, failures });
        assert_eq!(count("eu-west-2"), Count::default());
    }
}
