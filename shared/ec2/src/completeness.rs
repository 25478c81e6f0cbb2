//! The check that an answer of EC2 arrived whole.
//!
//! The SDK takes an XML document that stops in the middle for one that ends
//! there: of five instances it reports one, two or three, and no error
//! (measured; see the tests). Here every successful answer must have as many
//! bytes as its header promised and must end with its closing root element,
//! else the call fails, is retried, and at last is an error of its region.
//! Nothing here looks at what the answer says.

use aws_sdk_ec2::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_ec2::error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    AfterDeserializationInterceptorContextRef, InterceptorContext,
};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction};

use crate::error::in_chain;

/// An answer that stops before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer stops after {received_bytes} bytes")]
pub(crate) struct CutShort {
    /// How many bytes came.
    pub(crate) received_bytes: usize,
}

/// The interceptor that fails a call whose answer is not whole.
#[derive(Debug)]
pub(crate) struct Completeness;

impl Intercept for Completeness {
    fn name(&self) -> &'static str {
        "Completeness"
    }

    /// Not before deserialization: the body is read from the network only then.
    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        // An error is an error however much of its text came.
        if !response.status().is_success() {
            return Ok(());
        }
        // A body that could not be read to its end has failed the call already.
        let Some(body) = response.body().bytes() else {
            return Ok(());
        };
        let operation = cfg.load::<Metadata>().map(Metadata::name);
        let promised = response
            .headers()
            .get("content-length")
            .and_then(|length| length.parse().ok());
        check(body, promised, operation)?;
        Ok(())
    }
}

/// `operation` is the name of the call, `DescribeInstances`, by which EC2 names
/// the root element of the answer: `DescribeInstancesResponse`.
fn check(body: &[u8], promised: Option<usize>, operation: Option<&str>) -> Result<(), CutShort> {
    let cut_short = CutShort {
        received_bytes: body.len(),
    };
    if promised.is_some_and(|promised| promised != body.len()) {
        return Err(cut_short);
    }
    let ends_whole = body
        .trim_ascii_end()
        .strip_suffix(b">")
        .map(<[u8]>::trim_ascii_end)
        .and_then(|rest| rest.strip_suffix(b"Response"))
        .and_then(|rest| rest.strip_suffix(operation.unwrap_or_default().as_bytes()))
        .is_some_and(|rest| operation.is_none() || rest.ends_with(b"</"));
    if ends_whole { Ok(()) } else { Err(cut_short) }
}

/// Lets the SDK try again after an answer that was cut short, which it would
/// otherwise count among the errors of its user's own making.
#[derive(Debug)]
pub(crate) struct RetryCutShort;

impl ClassifyRetry for RetryCutShort {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.output_or_error() {
            Some(Err(error)) if in_chain::<CutShort>(error).is_some() => {
                RetryAction::transient_error()
            }
            Some(_) | None => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "RetryCutShort"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = b"<?xml version=\"1.0\"?><DescribeVpcsResponse xmlns=\"x\"><vpcSet/></DescribeVpcsResponse>\n";

    #[test]
    fn a_whole_answer_passes() {
        let operation = Some("DescribeVpcs");
        assert_eq!(check(WHOLE, Some(WHOLE.len()), operation), Ok(()));
        assert_eq!(check(WHOLE, None, operation), Ok(()));
        assert_eq!(check(WHOLE, None, None), Ok(()));
    }

    #[test]
    fn an_answer_cut_anywhere_fails() {
        let end = WHOLE.trim_ascii_end().len();
        for received_bytes in 0..end {
            assert_eq!(
                check(&WHOLE[..received_bytes], None, Some("DescribeVpcs")),
                Err(CutShort { received_bytes })
            );
        }
    }

    #[test]
    fn the_closing_element_of_another_operation_is_not_the_end() {
        assert!(check(WHOLE, None, Some("Vpcs")).is_err());
        assert!(check(WHOLE, None, Some("DescribeInstances")).is_err());
    }

    #[test]
    fn a_length_other_than_promised_fails() {
        assert!(check(WHOLE, Some(WHOLE.len() + 1), Some("DescribeVpcs")).is_err());
        assert!(check(WHOLE, Some(0), Some("DescribeVpcs")).is_err());
    }
}
