//! AWS's clock, as its answers tell it: every one of them, also a refusal, has a `Date`.
//! Whoever signs requests must not be five minutes away from it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_sdk_ec2::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_ec2::error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

/// What the clocks of both sides said at one moment. AWS tells whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToldTime {
    /// That of AWS.
    pub told: SystemTime,
    /// That of this host when it heard so.
    pub heard: SystemTime,
}

/// Remembers what the last answer told. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct AwsClock(Arc<Mutex<Option<ToldTime>>>);

impl AwsClock {
    /// The time that the last answer told, if there was one.
    pub fn last(&self) -> Option<ToldTime> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a `Date` header told, heard just now.
pub(crate) fn told(date: &str) -> Option<ToldTime> {
    let told = DateTime::from_str(date.trim(), Format::HttpDate).ok()?;
    Some(ToldTime {
        told: SystemTime::try_from(told).ok()?,
        heard: SystemTime::now(),
    })
}

impl Intercept for AwsClock {
    fn name(&self) -> &'static str {
        "AwsClock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        if let Some(told) = date.and_then(told) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_date_is_read_as_http_writes_it() {
        let read = |date| told(date).map(|time| time.told);
        let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(expected));
        assert_eq!(read(""), None);
        assert_eq!(read("yesterday"), None);
    }
}
