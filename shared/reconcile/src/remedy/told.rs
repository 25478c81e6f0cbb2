//! What is told of it, in words.

use std::collections::BTreeSet;

use jiff::Timestamp;
use privnet_model::id::InstanceId;
use privnet_model::status::SiblingRemedy;

use super::{Remedy, STUCK, since};

impl Remedy {
    /// Each sibling that is lost, or about which something was done.
    pub fn told(&self) -> Vec<SiblingRemedy> {
        let records = self.journal.records.iter();
        let touched =
            records.filter(|(_, record)| record.stop.is_some() || !record.tries.is_empty());
        let touched = touched.map(|(id, _)| id);
        let all: BTreeSet<&InstanceId> = self.obstacles.keys().chain(touched).collect();
        let told = all.into_iter().map(|id| {
            let record = self.journal.records.get(id);
            let tries = record.map_or(&[][..], |record| &record.tries);
            SiblingRemedy {
                instance: id.clone(),
                tries: u32::try_from(tries.len()).unwrap_or(u32::MAX),
                last: tries.last().copied(),
                state: self.state(id),
            }
        });
        told.collect()
    }

    fn state(&self, id: &InstanceId) -> String {
        let record = self.journal.records.get(id);
        if let Some(stop) = record.and_then(|record| record.stop.as_ref()) {
            let asked = stop.asked;
            return format!("stopped by this spoke at {asked:.0}, and to be started again");
        }
        match self.obstacles.get(id) {
            Some(obstacle) => format!("lost: {obstacle}"),
            None if self.well.contains_key(id) => "well again".to_owned(),
            None if self.lost.contains_key(id) => "lost: its turn has come".to_owned(),
            None => "has not answered since".to_owned(),
        }
    }

    /// What somebody should look at.
    pub fn problems(&self, wall: Timestamp) -> Vec<String> {
        let lost = self.journal.lost.map(|at| {
            format!(
                "what this spoke did about siblings that stay lost could not be read at {at:.0}: \
                 start whom it may have left stopped"
            )
        });
        let stuck = self.journal.records.iter().filter_map(|(id, record)| {
            let stop = record.stop.as_ref()?;
            let asked = stop.asked;
            let what = match stop.relapses {
                0 if since(asked, wall) < STUCK => return None,
                0 => "not started again yet".to_owned(),
                times => format!(
                    "stopped again {times} times after EC2 took the start (an encrypted volume \
                     needs kms:CreateGrant, see ami/README.md)"
                ),
            };
            Some(format!(
                "{id}: stopped by this spoke at {asked:.0} and {what}: EC2 tells why \
                 (`aws ec2 describe-instances --instance-ids {id}`)"
            ))
        });
        let obstacles = self.obstacles.iter();
        let obstacles = obstacles.filter(|(_, obstacle)| obstacle.needs_people());
        let obstacles = obstacles.map(|(id, why)| format!("{id} is lost: {why}"));
        lost.into_iter().chain(stuck).chain(obstacles).collect()
    }
}
