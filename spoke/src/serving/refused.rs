//! Siblings from which something comes that does not count, and why not: for whoever looks
//! for what is wrong.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use privnet_model::health::{HealthError, HealthReport};
use privnet_model::id::InstanceId;
use privnet_runtime::health_port::Silence;

/// For how long it is told. One with another secret answers nothing: what does not count
/// are its own questions, and not each of ours that goes without an answer has one of them
/// beside it.
const TOLD: Duration = Duration::from_secs(5);

/// What did not count, by who sent it.
#[derive(Debug, Default)]
pub(super) struct Refused(BTreeMap<InstanceId, (HealthError, Instant)>);

impl Refused {
    /// What came of a question to a sibling.
    pub(super) fn hear(
        &mut self,
        sibling: &InstanceId,
        answer: &Result<HealthReport, Silence>,
        now: Instant,
    ) {
        match answer {
            Ok(_) => {
                self.0.remove(sibling);
            }
            Err(Silence::Rejected(why)) => {
                self.0.insert(sibling.clone(), (*why, now));
            }
            Err(Silence::NoAnswer | Silence::Unsent(_) | Silence::NoSecret) => {}
        }
    }

    /// Forgets what is too old, and who is not asked any more.
    pub(super) fn forget(&mut self, asked: &BTreeMap<InstanceId, IpAddr>, now: Instant) {
        self.0.retain(|sibling, (_, at)| {
            asked.contains_key(sibling) && now.saturating_duration_since(*at) < TOLD
        });
    }

    /// Why what comes from this sibling does not count, if something does come.
    pub(super) fn why(&self, sibling: &InstanceId) -> Option<HealthError> {
        self.0.get(sibling).map(|(why, _)| *why)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::collections::{BTreeMap, BTreeSet};

    use privnet_model::health::Condition;

    use super::*;

    fn rejected() -> Result<HealthReport, Silence> {
        Err(Silence::Rejected(HealthError::Signature))
    }

    fn well() -> Result<HealthReport, Silence> {
        Ok(HealthReport {
            condition: Condition::Well,
            well_for: Duration::ZERO,
            changes_routes: true,
            has_tunnel: true,
            tables: BTreeSet::new(),
            hears: BTreeMap::new(),
        })
    }

    #[test]
    fn what_does_not_count_is_told_until_something_does_or_nothing_came_for_long() {
        let sibling: InstanceId = "i-00000001".parse().unwrap();
        let asked = BTreeMap::from([(sibling.clone(), IpAddr::from([10, 0, 0, 1]))]);
        let start = Instant::now();
        let mut refused = Refused::default();
        let after = |refused: &mut Refused, seconds: u64, answer: &Result<_, _>| {
            let now = start + Duration::from_secs(seconds);
            refused.hear(&sibling, answer, now);
            refused.forget(&asked, now);
            refused.why(&sibling)
        };
        let wrong = Some(HealthError::Signature);
        let silent = Err(Silence::NoAnswer);
        assert_eq!(after(&mut refused, 0, &silent), None);
        assert_eq!(after(&mut refused, 1, &rejected()), wrong);
        // It asks more seldom than it is asked.
        assert_eq!(after(&mut refused, 2, &silent), wrong);
        assert_eq!(after(&mut refused, 3, &rejected()), wrong);
        assert_eq!(after(&mut refused, 4, &Err(Silence::NoSecret)), wrong);
        assert_eq!(after(&mut refused, 7, &silent), wrong);
        assert_eq!(after(&mut refused, 8, &silent), None);
        assert_eq!(after(&mut refused, 9, &rejected()), wrong);
        assert_eq!(after(&mut refused, 10, &well()), None);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let sibling: InstanceId = "i-00000001".parse().unwrap();
        let start = Instant::now();
        let mut refused = Refused::default();
        refused.hear(&sibling, &rejected(), start);
        refused.forget(&BTreeMap::new(), start);
        assert_eq!(refused.why(&sibling), None);
    }
}
