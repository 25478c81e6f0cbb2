//! What can go wrong between us and EC2, as one sentence each that tells an
//! operator what to do about it.
//!
//! The SDK's own errors nest five deep and differ by call; nothing outside
//! this crate sees them.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::RequestId;
use privnet_model::id::Region;

use crate::budget::{Exhausted, MAX_CALLS};
use crate::completeness::CutShort;
use crate::role::RoleProblem;

/// What was asked of EC2. The role needs the IAM action `ec2:` and this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Which instances run.
    DescribeInstances,
    /// Which CIDRs a VPC has.
    DescribeVpcs,
    /// Which CIDRs lie in a zone.
    DescribeSubnets,
    /// Which regions the account may use.
    DescribeRegions,
    /// Tagging an instance.
    CreateTags,
    /// Which routes a VPC has.
    DescribeRouteTables,
    /// A route where none was.
    CreateRoute,
    /// Another target for a route.
    ReplaceRoute,
    /// Whether an interface's source/destination check is on.
    DescribeNetworkInterfaces,
    /// Switching that check off.
    ModifyNetworkInterfaceAttribute,
    /// Where Elastic IPs are.
    DescribeAddresses,
    /// Having an Elastic IP.
    AssociateAddress,
    /// Having an instance stop.
    StopInstances,
    /// Having it start.
    StartInstances,
    /// What a security group lets through.
    DescribeSecurityGroups,
    /// What a network ACL lets through.
    DescribeNetworkAcls,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::DescribeInstances => "DescribeInstances",
            Self::DescribeVpcs => "DescribeVpcs",
            Self::DescribeSubnets => "DescribeSubnets",
            Self::DescribeRegions => "DescribeRegions",
            Self::CreateTags => "CreateTags",
            Self::DescribeRouteTables => "DescribeRouteTables",
            Self::CreateRoute => "CreateRoute",
            Self::ReplaceRoute => "ReplaceRoute",
            Self::DescribeNetworkInterfaces => "DescribeNetworkInterfaces",
            Self::ModifyNetworkInterfaceAttribute => "ModifyNetworkInterfaceAttribute",
            Self::DescribeAddresses => "DescribeAddresses",
            Self::AssociateAddress => "AssociateAddress",
            Self::StopInstances => "StopInstances",
            Self::StartInstances => "StartInstances",
            Self::DescribeSecurityGroups => "DescribeSecurityGroups",
            Self::DescribeNetworkAcls => "DescribeNetworkAcls",
        })
    }
}

/// A call to EC2 that failed. Its text is one sentence with EC2's code and
/// request id where there are any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ec2Error {
    /// What was asked.
    pub operation: Operation,
    /// Where.
    pub region: Region,
    /// What it was about, where that is more than the region.
    pub subject: Option<Box<Subject>>,
    /// EC2's id of the request, which AWS support asks for.
    pub request_id: Option<String>,
    /// What went wrong.
    pub reason: Reason,
}

/// What a call was about, and which policy allows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// With its kind: "route table rtb-…".
    pub object: String,
    /// The file in `ami/iam` that has the permission.
    pub policy: &'static str,
}

/// Why a call to EC2 failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The role lacks the permission.
    NotAllowed {
        /// EC2's code.
        code: String,
    },
    /// There are no credentials to sign with.
    NoCredentials {
        /// What the chain of credentials said last.
        detail: String,
    },
    /// EC2 does not accept the credentials, or not in this region.
    CredentialsRejected {
        /// EC2's code.
        code: String,
        /// EC2's explanation.
        message: String,
    },
    /// Too many requests in this account and region, also after all retries.
    Throttled {
        /// EC2's code.
        code: String,
    },
    /// EC2 is there, and fails.
    ServerFault {
        /// EC2's code, or the HTTP status.
        code: String,
        /// EC2's explanation, or empty.
        message: String,
    },
    /// A route table has as many routes as it may have.
    TableFull {
        /// EC2's code.
        code: String,
    },
    /// EC2 refused for another reason.
    Refused {
        /// EC2's code, or the HTTP status.
        code: String,
        /// EC2's explanation, or empty.
        message: String,
    },
    /// No connection.
    Unreachable {
        /// What the system said.
        detail: String,
    },
    /// A connection, but no answer within the time of one try, at every try.
    NoAnswer,
    /// The answer stopped before its end.
    CutShort {
        /// How many bytes came.
        received_bytes: usize,
    },
    /// The answer came, and makes no sense.
    Unreadable {
        /// What was wrong with it.
        detail: String,
    },
    /// All pages together took longer than they may.
    Deadline {
        /// How long they may take.
        after: Duration,
    },
    /// EC2 gave the same page token twice.
    RepeatedPage,
    /// The requests that a poll may send are used up.
    Exhausted,
    /// STS refused to let us have the role of the account.
    RoleRefused {
        /// The role.
        role: Box<str>,
        /// STS's code.
        code: String,
        /// STS's explanation.
        message: String,
    },
    /// STS could not be asked for the role of the account.
    RoleUnanswered {
        /// The role.
        role: Box<str>,
        /// What happened instead.
        detail: String,
    },
    /// Credentials of one AWS partition are worth nothing in another.
    OtherAwsPartition {
        /// What is elsewhere: the region or a role.
        what: String,
        /// The AWS partition where it is.
        is_in: String,
        /// The AWS partition of the hub.
        hub_in: &'static str,
    },
}

impl Reason {
    /// An answer in which this makes no sense.
    pub(crate) fn unreadable(error: impl fmt::Display) -> Self {
        Self::Unreadable {
            detail: error.to_string(),
        }
    }
}

impl Ec2Error {
    /// Whether the same call may succeed later without anybody changing
    /// anything.
    pub fn is_temporary(&self) -> bool {
        match &self.reason {
            Reason::NotAllowed { .. }
            | Reason::NoCredentials { .. }
            | Reason::CredentialsRejected { .. }
            | Reason::TableFull { .. }
            | Reason::Refused { .. }
            | Reason::RoleRefused { .. }
            | Reason::OtherAwsPartition { .. } => false,
            Reason::Throttled { .. }
            | Reason::ServerFault { .. }
            | Reason::Unreachable { .. }
            | Reason::NoAnswer
            | Reason::CutShort { .. }
            | Reason::Unreadable { .. }
            | Reason::Deadline { .. }
            | Reason::RepeatedPage
            | Reason::Exhausted
            | Reason::RoleUnanswered { .. } => true,
        }
    }

    /// Whether a change that was asked for may be made, though that is not known.
    pub fn may_be_done(&self) -> bool {
        match &self.reason {
            Reason::NotAllowed { .. }
            | Reason::NoCredentials { .. }
            | Reason::CredentialsRejected { .. }
            | Reason::Throttled { .. }
            | Reason::TableFull { .. }
            | Reason::Refused { .. }
            | Reason::RoleRefused { .. }
            | Reason::RoleUnanswered { .. }
            | Reason::OtherAwsPartition { .. } => false,
            // A connection that broke after the request is told as one that never was.
            Reason::Unreachable { .. }
            | Reason::ServerFault { .. }
            | Reason::NoAnswer
            | Reason::CutShort { .. }
            | Reason::Unreadable { .. }
            | Reason::Deadline { .. }
            | Reason::RepeatedPage
            | Reason::Exhausted => true,
        }
    }

    /// Whether the role lacks the permission.
    pub fn is_not_allowed(&self) -> bool {
        matches!(self.reason, Reason::NotAllowed { .. })
    }

    /// An error that we found ourselves in an answer without fault.
    pub(crate) fn found(operation: Operation, region: &Region, reason: Reason) -> Self {
        Self {
            operation,
            region: region.clone(),
            subject: None,
            request_id: None,
            reason,
        }
    }

    pub(crate) fn from_sdk<E>(operation: Operation, region: &Region, error: &SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let request_id = error
            .request_id()
            .or_else(|| written_request_id(error.raw_response()?.body().bytes()?))
            .map(str::to_owned);
        Self {
            operation,
            region: region.clone(),
            subject: None,
            request_id,
            reason: reason(error),
        }
    }

    /// The same with what the call was about.
    #[must_use]
    pub(crate) fn about(mut self, object: impl Into<String>, policy: &'static str) -> Self {
        let object = object.into();
        self.subject = Some(Box::new(Subject { object, policy }));
        self
    }

    /// EC2's code, if it refused with one that has no reason of its own.
    pub(crate) fn refused_with(&self) -> Option<&str> {
        match &self.reason {
            Reason::Refused { code, .. } => Some(code),
            _ => None,
        }
    }
}

impl Reason {
    /// What a refusal says that the SDK has not told us of, since it goes on trying.
    pub(crate) fn of_refusal(status: u16, body: &[u8]) -> Self {
        let code = written(body, "Code").map_or_else(
            || format!("HTTP status {status}"),
            |code| code.chars().take(64).collect(),
        );
        refusal(status, code, String::new())
    }
}

/// The text of the first such element, if it is one of EC2's refusals.
pub(crate) fn written<'a>(body: &'a [u8], element: &str) -> Option<&'a str> {
    let (_, rest) = str::from_utf8(body)
        .ok()?
        .split_once(&format!("<{element}>"))?;
    let (text, _) = rest.split_once(&format!("</{element}>"))?;
    Some(text)
}

/// EC2 writes the request's id into its refusals; a header with it, the only
/// place where the SDK looks, is not always there.
fn written_request_id(body: &[u8]) -> Option<&str> {
    written(body, "RequestID").filter(|id| id.len() <= 64)
}

fn reason<E>(error: &SdkError<E>) -> Reason
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if let Some(cut_short) = in_chain::<CutShort>(error) {
        return Reason::CutShort {
            received_bytes: cut_short.received_bytes,
        };
    }
    if in_chain::<Exhausted>(error).is_some() {
        return Reason::Exhausted;
    }
    if let Some(problem) = in_chain::<RoleProblem>(error) {
        return problem.clone().into();
    }
    if in_chain::<CredentialsError>(error).is_some() {
        return Reason::NoCredentials {
            detail: innermost(error),
        };
    }
    match error {
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            let answer = context.err();
            let code = match answer.code() {
                Some(code) => code.to_owned(),
                None => format!("HTTP status {status}"),
            };
            refusal(
                status,
                code,
                answer.message().unwrap_or_default().to_owned(),
            )
        }
        SdkError::TimeoutError(_) => Reason::NoAnswer,
        SdkError::DispatchFailure(_) => Reason::Unreachable {
            detail: innermost(error),
        },
        // ResponseError, ConstructionFailure and what later versions may add.
        _ => Reason::Unreadable {
            detail: innermost(error),
        },
    }
}

/// The kind of a refusal, by its code. From the table "Common client error
/// codes" and "Server error codes" of the EC2 API reference; `AccessDenied…` is
/// what other services and moto say.
fn refusal(status: u16, code: String, message: String) -> Reason {
    match code.as_str() {
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => {
            Reason::NotAllowed { code }
        }
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "RequestThrottled"
        | "EC2ThrottledException"
        | "BandwidthLimitExceeded"
        | "TooManyRequestsException" => Reason::Throttled { code },
        "AuthFailure"
        | "Blocked"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "InvalidClientTokenId"
        | "OptInRequired"
        | "PendingVerification"
        | "RequestExpired"
        | "SignatureDoesNotMatch"
        | "UnrecognizedClientException" => Reason::CredentialsRejected { code, message },
        "RouteLimitExceeded" => Reason::TableFull { code },
        _ if status >= 500 => Reason::ServerFault { code, message },
        _ => Reason::Refused { code, message },
    }
}

/// An error and its sources, the outermost first.
pub(crate) fn chain<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The first error of type `T` among an error and its sources.
pub(crate) fn in_chain<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// The text of the last source, which is the one that says what happened; the
/// ones before it say "dispatch failure" and "error sending request".
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    chain(error).last().unwrap_or(error).to_string()
}

impl fmt::Display for Ec2Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let region = &self.region;
        let operation = match &self.subject {
            Some(subject) => format!("{} on {}", self.operation, subject.object),
            None => self.operation.to_string(),
        };
        let mut code = None;
        match &self.reason {
            Reason::NotAllowed { code: given } => {
                code = Some(given);
                write!(f, "not allowed: the role needs ec2:{operation} in {region}")?;
                if let Some(subject) = &self.subject {
                    write!(f, ", as in ami/iam/{}", subject.policy)?;
                }
            }
            Reason::NoCredentials { detail } => write!(
                f,
                "no AWS credentials for {operation} in {region}: give the instance a role ({detail})"
            )?,
            Reason::CredentialsRejected {
                code: given,
                message,
            } => {
                code = Some(given);
                write!(
                    f,
                    "EC2 in {region} does not accept these credentials for {operation}, \
                     or the account has not enabled the region"
                )?;
                explain(f, message)?;
            }
            Reason::Throttled { code: given } => {
                code = Some(given);
                write!(f, "EC2 throttles {operation} in {region}")?;
            }
            Reason::ServerFault {
                code: given,
                message,
            } => {
                code = Some(given);
                write!(f, "EC2 in {region} fails at {operation}")?;
                explain(f, message)?;
            }
            Reason::Refused {
                code: given,
                message,
            } => {
                code = Some(given);
                write!(f, "EC2 in {region} refused {operation}")?;
                explain(f, message)?;
            }
            Reason::TableFull { code: given } => {
                code = Some(given);
                write!(
                    f,
                    "{operation} in {region}: the table has as many routes as it may have; remove \
                     some, or have the quota \"Routes per route table\" raised"
                )?;
            }
            Reason::Unreachable { detail } => {
                write!(f, "cannot reach EC2 in {region} for {operation}: {detail}")?;
            }
            Reason::NoAnswer => write!(f, "EC2 in {region} did not answer {operation} in time")?,
            Reason::CutShort { received_bytes } => write!(
                f,
                "EC2's answer to {operation} in {region} was cut short after {received_bytes} bytes"
            )?,
            Reason::Unreadable { detail } => write!(
                f,
                "EC2's answer to {operation} in {region} could not be read: {detail}"
            )?,
            Reason::Deadline { after } => write!(
                f,
                "EC2 in {region} had not completed its answer to {operation} after {after:?}"
            )?,
            Reason::RepeatedPage => {
                write!(f, "EC2 in {region} gave the same page of {operation} twice")?
            }
            Reason::Exhausted => write!(
                f,
                "EC2's answer in {region} took more than {MAX_CALLS} requests: given up at {operation}"
            )?,
            Reason::RoleRefused {
                role,
                code: given,
                message,
            } => {
                code = Some(given);
                write!(f, "STS refused the role {role} for {region}")?;
                explain(f, message)?;
                f.write_str(
                    "; check that this hub's role may do sts:AssumeRole on it, and that its trust \
                     policy names this hub's role and the configured external_id",
                )?;
            }
            Reason::RoleUnanswered { role, detail } => write!(
                f,
                "no credentials of the role {role} for {region}: STS could not be asked: {detail}"
            )?,
            Reason::OtherAwsPartition {
                what,
                is_in,
                hub_in,
            } => write!(
                f,
                "{what} is in the AWS partition {is_in}, this hub in {hub_in}: \
                 credentials of one are worth nothing in the other"
            )?,
        }
        match (code, &self.request_id) {
            (Some(code), Some(id)) => write!(f, " ({code}, request {id})"),
            (Some(code), None) => write!(f, " ({code})"),
            (None, Some(id)) => write!(f, " (request {id})"),
            (None, None) => Ok(()),
        }
    }
}

/// EC2's explanations end with a full stop; ours go on.
fn explain(f: &mut fmt::Formatter<'_>, message: &str) -> fmt::Result {
    match message.trim().trim_end_matches('.') {
        "" => Ok(()),
        message => write!(f, ": {message}"),
    }
}

impl Error for Ec2Error {}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(reason: Reason, request_id: Option<&str>) -> String {
        Ec2Error {
            operation: Operation::DescribeInstances,
            region: "eu-west-1".parse().expect("a region"),
            subject: None,
            request_id: request_id.map(str::to_owned),
            reason,
        }
        .to_string()
    }

    #[test]
    fn a_missing_permission_names_the_iam_action_and_the_request() {
        let reason = refusal(403, "UnauthorizedOperation".into(), "You are not …".into());
        assert_eq!(
            text(reason, Some("7a62")),
            "not allowed: the role needs ec2:DescribeInstances in eu-west-1 \
             (UnauthorizedOperation, request 7a62)"
        );
    }

    #[test]
    fn what_a_call_was_about_is_told_with_the_policy_that_allows_it() {
        let text = |code: &str| {
            let region = "eu-west-1".parse().expect("a region");
            let reason = refusal(400, code.into(), "Why.".into());
            Ec2Error::found(Operation::CreateRoute, &region, reason)
                .about("route table rtb-00000001", "routes-policy.json")
                .to_string()
        };
        assert_eq!(
            text("UnauthorizedOperation"),
            "not allowed: the role needs ec2:CreateRoute on route table rtb-00000001 in eu-west-1, \
             as in ami/iam/routes-policy.json (UnauthorizedOperation)"
        );
        assert_eq!(
            text("RouteLimitExceeded"),
            "CreateRoute on route table rtb-00000001 in eu-west-1: the table has as many routes as \
             it may have; remove some, or have the quota \"Routes per route table\" raised \
             (RouteLimitExceeded)"
        );
        assert_eq!(
            text("InvalidParameterValue"),
            "EC2 in eu-west-1 refused CreateRoute on route table rtb-00000001: Why \
             (InvalidParameterValue)"
        );
    }

    #[test]
    fn refusals_are_told_apart_by_code_and_status() {
        let kind = |status, code: &str| refusal(status, code.into(), "Why.".into());
        assert!(matches!(
            kind(503, "RequestLimitExceeded"),
            Reason::Throttled { .. }
        ));
        assert!(matches!(
            kind(401, "AuthFailure"),
            Reason::CredentialsRejected { .. }
        ));
        assert!(matches!(
            kind(500, "InternalError"),
            Reason::ServerFault { .. }
        ));
        assert_eq!(
            text(kind(400, "InvalidParameterValue"), None),
            "EC2 in eu-west-1 refused DescribeInstances: Why (InvalidParameterValue)"
        );
    }

    #[test]
    fn a_refusal_that_is_tried_again_until_the_time_is_over_is_named() {
        let body = b"<Response><Errors><Error><Code>RequestLimitExceeded</Code>\
            <Message>Slow down.</Message></Error></Errors></Response>";
        assert!(matches!(
            Reason::of_refusal(503, body),
            Reason::Throttled { code } if code == "RequestLimitExceeded"
        ));
        assert!(matches!(
            Reason::of_refusal(502, b"<html>"),
            Reason::ServerFault { code, .. } if code == "HTTP status 502"
        ));
    }

    #[test]
    fn a_change_that_ec2_did_not_take_is_not_made() {
        let may_be_done = |reason| {
            let region = &"eu-west-1".parse().expect("a region");
            Ec2Error::found(Operation::StopInstances, region, reason).may_be_done()
        };
        let throttled = refusal(503, "RequestLimitExceeded".into(), String::new());
        assert!(!may_be_done(throttled));
        let detail = "connection reset by peer".to_owned();
        assert!(may_be_done(Reason::Unreachable { detail }));
        assert!(may_be_done(Reason::NoAnswer));
        let fault = refusal(503, "Unavailable".into(), String::new());
        assert!(may_be_done(fault));
    }

    #[test]
    fn what_time_may_heal_is_temporary() {
        let temporary = |reason| {
            Ec2Error::found(
                Operation::DescribeVpcs,
                &"eu-west-1".parse().expect("a region"),
                reason,
            )
            .is_temporary()
        };
        assert!(temporary(Reason::NoAnswer));
        assert!(temporary(refusal(503, "Unavailable".into(), String::new())));
        assert!(!temporary(refusal(
            403,
            "UnauthorizedOperation".into(),
            String::new()
        )));
    }
}
