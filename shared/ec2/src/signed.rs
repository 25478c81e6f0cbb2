//! Requests to services of which no SDK crate is here: one POST, signed with
//! `aws-sigv4`, sent once, its answer read up to a limit.
//!
//! `aws-sdk-ssm` has 348,000 lines, which would lengthen every build by a quarter
//! of what `aws-sdk-ec2` takes, for one call; and what a spoke proves itself with
//! must be signed and not sent, which no SDK crate does. Signing, TLS and
//! credentials are the SDK's own all the same. Redirects are not followed, and
//! nothing is tried twice: whoever calls comes again later.

use std::convert::Infallible;
use std::fmt;
use std::time::{Duration, SystemTime};

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_ec2::config::SharedHttpClient;
use aws_sdk_ec2::config::http::{HttpRequest, HttpResponse};
use aws_sdk_ec2::error::{BoxError, SdkError};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use aws_smithy_runtime::client::orchestrator::operation::Operation;
use aws_smithy_runtime_api::client::interceptors::context::{Error, Output};
use aws_smithy_runtime_api::client::orchestrator::OrchestratorError;
use aws_smithy_runtime_api::client::ser_de::DeserializeResponse;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use aws_types::service_config::ServiceConfigKey;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use privnet_model::id::Region;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::context::{CONNECT_TIMEOUT, SdkContext};
use crate::error::innermost;

/// A service of AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// EC2 Auto Scaling.
    AutoScaling,
    /// EC2 itself, of which only the endpoint is asked for here.
    Ec2,
    /// The Systems Manager, of which the Parameter Store is a part.
    Ssm,
    /// The Security Token Service.
    Sts,
}

impl Service {
    /// The name by which requests are signed and endpoints are called.
    const fn name(self) -> &'static str {
        match self {
            Self::AutoScaling => "autoscaling",
            Self::Ec2 => "ec2",
            Self::Ssm => "ssm",
            Self::Sts => "sts",
        }
    }

    /// The name by which the SDK's settings call it, as in `AWS_ENDPOINT_URL_SSM`.
    const fn id(self) -> &'static str {
        match self {
            Self::AutoScaling => "Auto Scaling",
            Self::Ec2 => "EC2",
            Self::Ssm => "SSM",
            Self::Sts => "STS",
        }
    }

    /// Where AWS has it.
    fn url(self, region: &Region, fips: bool) -> String {
        let name = self.name();
        let fips = if fips { "-fips" } else { "" };
        let china = if region.as_str().starts_with("cn-") {
            ".cn"
        } else {
            ""
        };
        format!("https://{name}{fips}.{region}.amazonaws.com{china}/")
    }
}

/// A request: a POST to the root of an endpoint.
#[derive(Clone)]
pub(crate) struct Request {
    /// The endpoint, with a slash at its end.
    pub(crate) url: String,
    /// Names in lower case, without `host`, which the URL tells.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// Its headers and body may hold credentials.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request(POST {})", self.url)
    }
}

/// An answer, whatever its status.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Zeroized when dropped, as it may be a secret.
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There are no credentials to sign with.
    #[error("no AWS credentials: give the instance a role ({detail})")]
    NoCredentials {
        /// What the chain of credentials said last.
        detail: String,
    },
    /// The request cannot be signed or sent as it is.
    #[error("the request cannot be made: {detail}")]
    Unmade {
        /// Why.
        detail: String,
    },
    /// No connection.
    #[error("cannot be reached: {detail}")]
    Unreachable {
        /// What the system said.
        detail: String,
    },
    /// No answer, or not all of it, within the time.
    #[error("no answer within {after:?}")]
    NoAnswer {
        /// How long it was waited for.
        after: Duration,
    },
    /// More of an answer than there can be.
    #[error("an answer of more than {most} bytes")]
    TooLong {
        /// The limit.
        most: usize,
    },
    /// The answer broke off, or is no HTTP.
    #[error("the answer cannot be read: {detail}")]
    Unreadable {
        /// What went wrong.
        detail: String,
    },
}

impl SdkContext {
    /// The endpoint of the service in this region, with a slash at its end, and
    /// whether the environment or a profile names it (`AWS_ENDPOINT_URL_STS`,
    /// `AWS_ENDPOINT_URL`) as for all of AWS's tools.
    pub(crate) fn endpoint(&self, service: Service, region: &Region) -> (String, bool) {
        match configured(self.config(), service) {
            Some(url) => (format!("{}/", url.trim_end_matches('/')), true),
            None => {
                let fips = self.config().use_fips().unwrap_or(false);
                (service.url(region, fips), false)
            }
        }
    }

    /// Signs the request, with the credentials that the SDK would use.
    pub(crate) async fn sign(
        &self,
        service: Service,
        region: &Region,
        request: &mut Request,
        now: SystemTime,
    ) -> Result<(), CallError> {
        let no_credentials = |detail: String| CallError::NoCredentials { detail };
        let provider = self.config().credentials_provider();
        let provider = provider.ok_or_else(|| no_credentials("none configured".to_owned()))?;
        let credentials = provider.provide_credentials().await;
        let credentials = credentials.map_err(|error| no_credentials(innermost(&error)))?;
        sign_with(credentials, service, region, request, now)
    }

    /// Sends a request and waits for its answer, of which it reads at most so
    /// many bytes.
    pub(crate) async fn send(
        &self,
        request: Request,
        patience: Duration,
        most: usize,
    ) -> Result<Answer, CallError> {
        let Some(http) = self.config().http_client() else {
            let detail = "no HTTP client".to_owned();
            return Err(CallError::Unmade { detail });
        };
        timeout(patience, exchange(http, request, patience, most))
            .await
            .unwrap_or(Err(CallError::NoAnswer { after: patience }))
    }
}

/// The endpoint that the environment or a profile names. In the order of the SDK.
fn configured(config: &SdkConfig, service: Service) -> Option<String> {
    let general = || config.endpoint_url().map(str::to_owned);
    if config.get_origin("endpoint_url").is_client_config() {
        return general();
    }
    let key = ServiceConfigKey::builder()
        .service_id(service.id())
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .ok()?;
    let special = config.service_config();
    special
        .and_then(|config| config.load_config(key))
        .or_else(general)
}

pub(crate) fn sign_with(
    credentials: Credentials,
    service: Service,
    region: &Region,
    request: &mut Request,
    now: SystemTime,
) -> Result<(), CallError> {
    let unmade = |error: &dyn std::error::Error| CallError::Unmade {
        detail: error.to_string(),
    };
    let identity = credentials.into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(region.as_str())
        .name(service.name())
        .time(now)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| unmade(&error))?
        .into();
    let headers = request.headers.iter();
    let signable = SignableRequest::new(
        "POST",
        request.url.as_str(),
        headers.map(|(name, value)| (name.as_str(), value.as_str())),
        SignableBody::Bytes(request.body.as_bytes()),
    )
    .map_err(|error| unmade(&error))?;
    let (signed, _) = sign(signable, &params)
        .map_err(|error| unmade(&error))?
        .into_parts();
    let added = signed.headers();
    let added: Vec<_> = added
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    request.headers.extend(added);
    Ok(())
}

async fn exchange(
    http: SharedHttpClient,
    request: Request,
    patience: Duration,
    most: usize,
) -> Result<Answer, CallError> {
    let operation = Operation::builder()
        .service_name("privnet")
        .operation_name("call")
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .endpoint_url(request.url.trim_end_matches('/'))
        .no_auth()
        .no_retry()
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .build(),
        )
        .serializer(to_http)
        .deserializer_impl::<Unread, Infallible>(Untouched)
        .build();
    let Unread { status, body } = match operation.invoke(request).await {
        Ok(unread) => unread,
        Err(SdkError::TimeoutError(_)) => return Err(CallError::NoAnswer { after: patience }),
        Err(SdkError::DispatchFailure(failure)) => {
            let detail = failure.as_connector_error().map(|error| innermost(error));
            return Err(CallError::Unreachable {
                detail: detail.unwrap_or_else(|| "no connection".to_owned()),
            });
        }
        Err(SdkError::ConstructionFailure(failure)) => {
            let detail = innermost(&SdkError::<Infallible>::ConstructionFailure(failure));
            return Err(CallError::Unmade { detail });
        }
        Err(error) => {
            let detail = innermost(&error);
            return Err(CallError::Unreadable { detail });
        }
    };
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok(Answer {
            status,
            body: Zeroizing::new(body.to_bytes().to_vec()),
        }),
        Err(error) if error.is::<LengthLimitError>() => Err(CallError::TooLong { most }),
        Err(error) => Err(CallError::Unreadable {
            detail: error.to_string(),
        }),
    }
}

fn to_http(request: Request) -> Result<HttpRequest, BoxError> {
    let mut http = HttpRequest::new(SdkBody::from(request.body));
    http.set_method("POST")?;
    http.set_uri("/")?;
    for (name, value) in request.headers {
        http.headers_mut().try_insert(name, value)?;
    }
    Ok(http)
}

/// An answer whose body is still on the wire.
#[derive(Debug)]
struct Unread {
    status: u16,
    body: SdkBody,
}

/// Leaves the body alone: the SDK would read it whole, however long it is, and
/// log it.
#[derive(Debug)]
struct Untouched;

impl DeserializeResponse for Untouched {
    fn deserialize_streaming_with_config(
        &self,
        response: &mut HttpResponse,
        _: &ConfigBag,
    ) -> Option<Result<Output, OrchestratorError<Error>>> {
        Some(Ok(Output::erase(Unread {
            status: response.status().as_u16(),
            body: response.take_body(),
        })))
    }

    fn deserialize_nonstreaming_with_config(
        &self,
        _: &HttpResponse,
        _: &ConfigBag,
    ) -> Result<Output, OrchestratorError<Error>> {
        Err(OrchestratorError::other(
            "the body was read before its time",
        ))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    fn region(name: &str) -> Region {
        name.parse().unwrap()
    }

    #[test]
    fn each_partition_of_aws_has_its_own_domain() {
        for (service, name, fips, url) in [
            (
                Service::Sts,
                "eu-west-1",
                false,
                "https://sts.eu-west-1.amazonaws.com/",
            ),
            (
                Service::AutoScaling,
                "eu-west-1",
                false,
                "https://autoscaling.eu-west-1.amazonaws.com/",
            ),
            (
                Service::Ssm,
                "us-east-1",
                true,
                "https://ssm-fips.us-east-1.amazonaws.com/",
            ),
            (
                Service::Sts,
                "us-gov-west-1",
                false,
                "https://sts.us-gov-west-1.amazonaws.com/",
            ),
            (
                Service::Ssm,
                "cn-north-1",
                false,
                "https://ssm.cn-north-1.amazonaws.com.cn/",
            ),
        ] {
            assert_eq!(service.url(&region(name), fips), url);
        }
    }

    #[test]
    fn a_request_does_not_show_what_it_carries() {
        let request = Request {
            url: "https://sts.eu-west-1.amazonaws.com/".to_owned(),
            headers: vec![("x-amz-security-token".to_owned(), "c2Vj".to_owned())],
            body: "secret".to_owned(),
        };
        let shown = format!("{request:?}");
        assert!(shown.contains("sts.eu-west-1"), "{shown}");
        assert!(
            !shown.contains("c2Vj") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
