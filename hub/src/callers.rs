//! Spokes by IPsec that call and are refused, because another one of their VPC has its
//! tunnel. Who calls while nobody of the VPC has been connected for a while takes its place.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use privnet_model::id::InstanceId;

/// How long nobody must have been connected. Longer than it takes a refused spoke to try
/// again: who is given the place has the time to connect before another one is.
const PATIENCE: Duration = Duration::from_secs(35);
/// Who has not called for so long does not call any more.
const GONE: Duration = Duration::from_secs(40);

/// Those that wait, since when, and when they called last.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    waiting: BTreeMap<InstanceId, (Instant, Option<Instant>)>,
}

impl Callers {
    /// Takes in who was refused, and who waits: nobody of its VPC is connected, and it is
    /// not its turn. Gives those whose turn it is now.
    pub(crate) fn hear(
        &mut self,
        refused: &[InstanceId],
        waiting: &BTreeSet<InstanceId>,
        now: Instant,
    ) -> BTreeSet<InstanceId> {
        self.waiting.retain(|who, _| waiting.contains(who));
        for who in waiting {
            let (_, called) = self.waiting.entry(who.clone()).or_insert((now, None));
            if refused.contains(who) {
                *called = Some(now);
            }
        }
        let turn = self.waiting.iter().filter(|(_, (since, called))| {
            let calls = called.is_some_and(|at| now - at < GONE);
            calls && now - *since >= PATIENCE
        });
        turn.map(|(who, _)| who.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    fn id(n: u32) -> InstanceId {
        format!("i-{n:017x}").parse().unwrap()
    }

    #[test]
    fn who_keeps_calling_while_nobody_is_connected_takes_the_place() {
        let (start, mut callers) = (Instant::now(), Callers::default());
        let mut hear = |second: u64, refused: &[u32], waiting: &[u32]| -> Vec<InstanceId> {
            let refused: Vec<InstanceId> = refused.iter().map(|n| id(*n)).collect();
            let waiting = waiting.iter().map(|n| id(*n)).collect();
            let now = start + Duration::from_secs(second);
            callers.hear(&refused, &waiting, now).into_iter().collect()
        };
        // Another is connected.
        assert!(hear(0, &[2], &[]).is_empty());
        assert!(hear(60, &[2], &[]).is_empty());
        // It died. Strangers do not count.
        assert!(hear(90, &[], &[2]).is_empty());
        assert!(hear(100, &[2, 3], &[2]).is_empty());
        assert_eq!(hear(125, &[], &[2]), [id(2)]);
        // It has the place; it may be taken from it, if it does not come.
        assert!(hear(126, &[], &[1]).is_empty());
        assert!(hear(150, &[1], &[1]).is_empty());
        assert_eq!(hear(165, &[1], &[1]), [id(1)]);
        // Who does not call is not there.
        assert!(hear(200, &[], &[2]).is_empty());
        assert!(hear(250, &[], &[2]).is_empty());
        assert_eq!(hear(260, &[2], &[2]), [id(2)]);
        assert!(hear(301, &[], &[2]).is_empty());
    }
}
