//! Credentials of a role in another account, from STS.
//!
//! The SDK caches them and renews them in time. A refusal it would not cache:
//! each region of the account would ask STS again, so one is remembered here for
//! as long as a poll of many regions needs to hear of it.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use privnet_model::id::InstanceId;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::{Reason, in_chain, innermost};

/// How long STS is not asked again after it refused. Shorter than any pause
/// between two polls: an operator who mends the role need not wait.
const REFUSAL_STANDS: Duration = Duration::from_secs(5);

/// Why there are no credentials of a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no credentials of the role {role}: {detail}")]
pub(crate) struct RoleProblem {
    role: Box<str>,
    /// STS's code, if STS answered.
    code: Option<String>,
    detail: String,
}

impl From<RoleProblem> for Reason {
    fn from(problem: RoleProblem) -> Self {
        let RoleProblem { role, code, detail } = problem;
        match code {
            Some(code) => Self::RoleRefused {
                role,
                code,
                message: detail,
            },
            None => Self::RoleUnanswered { role, detail },
        }
    }
}

/// A role that the hub assumes.
#[derive(Debug)]
pub(crate) struct AssumedRole {
    arn: String,
    external_id: Option<String>,
    session: String,
    /// Whose region's STS is asked, with the hub's own credentials. Credentials
    /// of a region's own STS count in every region, those of the global endpoint
    /// not in the ones that an account opts into (IAM user guide, "Manage AWS STS
    /// in an AWS Region").
    sdk: SdkConfig,
    refused: Mutex<Option<(Instant, RoleProblem)>>,
}

impl AssumedRole {
    /// Sends no request. In the account's logs the hub shows up under its own
    /// instance id.
    pub(crate) fn new(
        arn: &str,
        external_id: Option<&str>,
        hub: &InstanceId,
        sdk: SdkConfig,
    ) -> Self {
        Self {
            arn: arn.to_owned(),
            external_id: external_id.map(str::to_owned),
            session: format!("privnet-hub-{hub}"),
            sdk,
            refused: Mutex::new(None),
        }
    }

    async fn assume(&self) -> provider::Result {
        // Held while STS is asked: others want the same answer.
        let mut refused = self.refused.lock().await;
        if let Some((when, problem)) = &*refused
            && when.elapsed() < REFUSAL_STANDS
        {
            return Err(CredentialsError::provider_error(problem.clone()));
        }
        let mut role = AssumeRoleProvider::builder(&self.arn)
            .session_name(&self.session)
            .configure(&self.sdk);
        if let Some(id) = &self.external_id {
            role = role.external_id(id);
        }
        match role.build().await.provide_credentials().await {
            Ok(credentials) => {
                *refused = None;
                Ok(credentials)
            }
            Err(error) => {
                let problem = self.problem(&error);
                *refused = Some((Instant::now(), problem.clone()));
                Err(CredentialsError::provider_error(problem))
            }
        }
    }

    fn problem(&self, error: &CredentialsError) -> RoleProblem {
        let (code, detail) = match in_chain::<SdkError<AssumeRoleError>>(error) {
            Some(SdkError::ServiceError(context)) => {
                let answer = context.err();
                let status = context.raw().status().as_u16();
                let code = answer.code().map(str::to_owned);
                (
                    Some(code.unwrap_or_else(|| format!("HTTP status {status}"))),
                    answer.message().unwrap_or_default().to_owned(),
                )
            }
            Some(SdkError::TimeoutError(_)) => (None, "no answer in time".to_owned()),
            Some(_) | None => (None, innermost(error)),
        };
        RoleProblem {
            role: self.arn.as_str().into(),
            code,
            detail,
        }
    }
}

impl ProvideCredentials for AssumedRole {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.assume())
    }
}
