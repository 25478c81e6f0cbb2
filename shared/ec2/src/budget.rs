//! How many requests one poll may send to EC2 in one partition.
//!
//! EC2 grants an account 100 Describe calls at once in a region and 20 more per
//! second (EC2 API reference, "Request throttling"), and everything else in that
//! account lives on the same. So every request is counted, retries included, and
//! a poll that does not come to an end by itself (pages that go on for ever, a
//! retry storm) is ended here.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_ec2::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_ec2::error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef,
};

use crate::error::Reason;

/// The most requests of one poll in one partition: half a million instances, as
/// EC2 pages them, or 20 s of all that EC2 grants the account there.
pub(crate) const MAX_CALLS: u32 = 500;

/// The requests of a poll are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_CALLS} requests")]
pub(crate) struct Exhausted;

/// The requests sent so far; clones count together. As an interceptor it sees
/// each attempt before it is sent, and its answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Budget {
    sent: Arc<AtomicU32>,
    refused: Arc<Mutex<Option<Reason>>>,
}

impl Budget {
    /// How many requests were sent.
    pub(crate) fn calls(&self) -> u32 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Why EC2 refused the last attempt, if it did. The SDK tries again so slowly
    /// (18 s after each throttled answer, measured, of the five that it takes
    /// for final) that the time of a poll is over first, and nobody learns why.
    pub(crate) fn refused(&self) -> Option<Reason> {
        let refused = self.refused.lock();
        refused.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take(&self) -> Result<(), Exhausted> {
        let more = |sent| (sent < MAX_CALLS).then_some(sent + 1);
        self.sent
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map(drop)
            .map_err(|_| Exhausted)
    }
}

impl Intercept for Budget {
    fn name(&self) -> &'static str {
        "Budget"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        Ok(self.take()?)
    }

    fn read_after_attempt(
        &self,
        attempt: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let refused = attempt
            .response()
            .filter(|answer| !answer.status().is_success())
            .map(|answer| {
                let body = answer.body().bytes().unwrap_or_default();
                Reason::of_refusal(answer.status().as_u16(), body)
            });
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_count_together_and_what_was_not_sent_does_not_count() {
        let budget = Budget::default();
        for _ in 0..MAX_CALLS {
            assert_eq!(budget.clone().take(), Ok(()));
        }
        assert_eq!(budget.take(), Err(Exhausted));
        assert_eq!(budget.calls(), MAX_CALLS);
    }
}
