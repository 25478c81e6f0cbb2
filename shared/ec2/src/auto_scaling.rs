//! Telling an Auto Scaling group that one of its instances is not healthy: the group
//! terminates and replaces it. One call, for which there is no SDK crate here (see
//! `signed`).

use std::fmt;
use std::time::{Duration, SystemTime};

use privnet_model::id::{InstanceId, Region};

use crate::context::SdkContext;
use crate::error::written;
use crate::signed::{Answer, CallError, Request, Service};

/// Where `ami/iam` allows this.
const POLICY: &str = "remedy-policy.json";
/// It answers in some 100 ms.
const PATIENCE: Duration = Duration::from_secs(4);
/// An answer has about 300 bytes.
const MOST_BYTES: usize = 16 * 1024;
const CONTENT_TYPE: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// The Auto Scaling groups of a region.
#[derive(Debug, Clone)]
pub struct AutoScaling {
    context: SdkContext,
    region: Region,
}

/// A group was not told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoScalingError {
    /// About which instance.
    pub instance: InstanceId,
    /// Where.
    pub region: Region,
    /// Why.
    pub reason: AutoScalingReason,
}

/// Why a group was not told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AutoScalingReason {
    /// Auto Scaling did not answer.
    Call(CallError),
    /// The role lacks the permission.
    NotAllowed {
        /// Auto Scaling's code.
        code: String,
    },
    /// Auto Scaling refused or failed.
    Failed {
        /// The HTTP status.
        status: u16,
        /// Its code, or empty.
        code: String,
        /// Its explanation, or empty.
        message: String,
    },
}

impl AutoScaling {
    /// Those of this region. Sends no request.
    pub fn new(context: &SdkContext, region: &Region) -> Self {
        Self {
            context: context.clone(),
            region: region.clone(),
        }
    }

    /// Has the instance's group take it for unhealthy. The group's grace period for health
    /// checks is respected: within it the group does nothing, and Auto Scaling does not say so.
    ///
    /// # Errors
    /// If [`AutoScalingError::may_be_done`] the group may know it all the same.
    pub async fn report_unhealthy(&self, instance: &InstanceId) -> Result<(), AutoScalingError> {
        let answer = self.ask(instance).await.map_err(AutoScalingReason::Call);
        let told = answer.and_then(|answer| read(&answer));
        told.map_err(|reason| AutoScalingError {
            instance: instance.clone(),
            region: self.region.clone(),
            reason,
        })
    }

    async fn ask(&self, instance: &InstanceId) -> Result<Answer, CallError> {
        let (url, _) = self.context.endpoint(Service::AutoScaling, &self.region);
        let mut request = Request {
            url,
            headers: vec![("content-type".to_owned(), CONTENT_TYPE.to_owned())],
            // An id has no character that would have to be escaped.
            body: format!(
                "Action=SetInstanceHealth&Version=2011-01-01&InstanceId={instance}\
                 &HealthStatus=Unhealthy&ShouldRespectGracePeriod=true"
            ),
        };
        let context = &self.context;
        let now = SystemTime::now();
        context
            .sign(Service::AutoScaling, &self.region, &mut request, now)
            .await?;
        context.send(request, PATIENCE, MOST_BYTES).await
    }
}

fn read(answer: &Answer) -> Result<(), AutoScalingReason> {
    if answer.status == 200 {
        return Ok(());
    }
    let part = |element, most| {
        let text = written(&answer.body, element).unwrap_or_default();
        text.chars().take(most).collect::<String>()
    };
    let code = part("Code", 64);
    Err(match code.as_str() {
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => {
            AutoScalingReason::NotAllowed { code }
        }
        _ => AutoScalingReason::Failed {
            status: answer.status,
            message: part("Message", 256),
            code,
        },
    })
}

impl AutoScalingError {
    /// Whether the group may have been told, though that is not known.
    pub fn may_be_done(&self) -> bool {
        match &self.reason {
            AutoScalingReason::Call(error) => match error {
                CallError::NoAnswer { .. }
                | CallError::TooLong { .. }
                | CallError::Unreadable { .. } => true,
                CallError::NoCredentials { .. }
                | CallError::Unmade { .. }
                | CallError::Unreachable { .. } => false,
            },
            AutoScalingReason::NotAllowed { .. } => false,
            AutoScalingReason::Failed { status, .. } => *status >= 500,
        }
    }
}

impl fmt::Display for AutoScalingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            instance,
            region,
            reason,
        } = self;
        match reason {
            AutoScalingReason::Call(error) => {
                write!(
                    f,
                    "Auto Scaling in {region}, SetInstanceHealth of {instance}: {error}"
                )
            }
            AutoScalingReason::NotAllowed { code } => write!(
                f,
                "not allowed: the role needs autoscaling:SetInstanceHealth on the group of \
                 instance {instance} in {region}, as in ami/iam/{POLICY} ({code})"
            ),
            AutoScalingReason::Failed {
                status,
                code,
                message,
            } => {
                write!(
                    f,
                    "Auto Scaling in {region} refused SetInstanceHealth of {instance}"
                )?;
                match message.trim().trim_end_matches('.') {
                    "" => {}
                    message => write!(f, ": {message}")?,
                }
                match code.as_str() {
                    "" => write!(f, " (HTTP status {status})"),
                    code => write!(f, " ({code})"),
                }
            }
        }
    }
}

impl std::error::Error for AutoScalingError {}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn told(status: u16, body: &str) -> Result<(), AutoScalingReason> {
        read(&Answer {
            status,
            body: Zeroizing::new(body.as_bytes().to_vec()),
        })
    }

    fn refusal(code: &str) -> String {
        format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code>\
             <Message>Why.</Message></Error><RequestId>x</RequestId></ErrorResponse>"
        )
    }

    fn text(reason: AutoScalingReason) -> String {
        let instance = "i-0123456789abcdef0".parse().expect("an instance");
        let region = "eu-west-1".parse().expect("a region");
        AutoScalingError {
            instance,
            region,
            reason,
        }
        .to_string()
    }

    #[test]
    fn a_refusal_names_the_permission_or_says_why() {
        assert_eq!(told(200, "<SetInstanceHealthResponse/>"), Ok(()));
        let denied = told(403, &refusal("AccessDenied")).map_err(text);
        assert_eq!(
            denied,
            Err(
                "not allowed: the role needs autoscaling:SetInstanceHealth on the group of \
                 instance i-0123456789abcdef0 in eu-west-1, as in ami/iam/remedy-policy.json \
                 (AccessDenied)"
                    .to_owned()
            )
        );
        let refused = told(400, &refusal("ValidationError")).map_err(text);
        assert_eq!(
            refused,
            Err(
                "Auto Scaling in eu-west-1 refused SetInstanceHealth of i-0123456789abcdef0: Why \
                 (ValidationError)"
                    .to_owned()
            )
        );
        let failed = told(502, "<html>").map_err(text);
        assert!(failed.is_err_and(|text| text.ends_with("(HTTP status 502)")));
    }
}
