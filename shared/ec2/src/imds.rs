//! Who this instance is, from its metadata service (IMDSv2 only).
//!
//! It asks with a session token, as the AWS SDK's client does, and takes
//! nothing on trust: every value becomes a type of ours or an error that names
//! the key. Whether and when to ask again is the caller's to decide;
//! [`ImdsError::is_temporary`] says whether there is a point. It never falls
//! back to IMDSv1.

use std::env;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use aws_config::imds::client::Client;
use aws_config::imds::client::error as sdk;
use aws_config::provider_config::ProviderConfig;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::SdkError;
use ipnet::IpNet;
use privnet_model::id::{AccountId, InstanceId, Region, VpcId, Zone};
use privnet_model::inventory::Identity;
use serde::Deserialize;

use crate::context::http_client;
use crate::departure::{Departure, LifecycleState, SpotNotice};
use crate::error::{chain, in_chain, innermost};

/// The service is on the host next door: it answers in milliseconds or not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const READ_TIMEOUT: Duration = Duration::from_secs(2);
const KEY_TIMEOUT: Duration = Duration::from_secs(8);

/// Tries per key where the service is there and fails.
const ATTEMPTS: u32 = 3;

/// Lists the name of the role, alone.
const ROLE: &str = "meta-data/iam/security-credentials/";
const DOCUMENT: &str = "dynamic/instance-identity/document";
const TOKEN: &str = "api/token";
/// There only while there is a notice.
const SPOT_NOTICE: &str = "meta-data/spot/instance-action";
/// There only in an Auto Scaling group.
const LIFECYCLE_STATE: &str = "meta-data/autoscaling/target-lifecycle-state";

/// The environment variable that moves the service elsewhere.
const ENDPOINT: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";

/// The metadata service of this instance.
#[derive(Debug, Clone)]
pub struct Imds {
    client: Client,
    endpoint: String,
}

impl Imds {
    /// At 169.254.169.254, or where the environment says
    /// (`AWS_EC2_METADATA_SERVICE_ENDPOINT`, `…_ENDPOINT_MODE`). Sends no
    /// request.
    ///
    /// # Errors
    /// [`ImdsError::SwitchedOff`] when the environment forbids the service
    /// (`AWS_EC2_METADATA_DISABLED`) and names no other.
    pub fn from_env() -> Result<Self, ImdsError> {
        if let Ok(endpoint) = env::var(ENDPOINT) {
            return Self::at(&endpoint);
        }
        let is = |variable: &str, value: &str| {
            env::var(variable).is_ok_and(|given| given.eq_ignore_ascii_case(value))
        };
        if is("AWS_EC2_METADATA_DISABLED", "true") {
            return Err(ImdsError::SwitchedOff);
        }
        Self::at(if is("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ipv6") {
            "http://[fd00:ec2::254]"
        } else {
            "http://169.254.169.254"
        })
    }

    /// [`Imds::identity`], asked again while there is a point in it, for as long
    /// as `patience`: at boot the network may not be up yet.
    ///
    /// # Errors
    /// What the last try said.
    pub async fn identity_within(&self, patience: Duration) -> Result<Identity, ImdsError> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut pause = Duration::from_millis(500);
        loop {
            let error = match self.identity().await {
                Ok(identity) => return Ok(identity),
                Err(error) => error,
            };
            if !error.is_temporary() || tokio::time::Instant::now() + pause > deadline {
                return Err(error);
            }
            tracing::warn!(%error, retry_in = ?pause, "instance metadata is not there yet");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    pub(crate) fn at(endpoint: &str) -> Result<Self, ImdsError> {
        let invalid = |detail: String| ImdsError::BadEndpoint {
            endpoint: endpoint.to_owned(),
            detail,
        };
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(invalid("it must start with http://".to_owned()));
        }
        let client = Client::builder()
            .configure(&ProviderConfig::without_region().with_http_client(http_client()))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .operation_attempt_timeout(CONNECT_TIMEOUT + READ_TIMEOUT)
            .operation_timeout(KEY_TIMEOUT)
            .max_attempts(ATTEMPTS)
            .endpoint(endpoint)
            .map_err(|error| invalid(error.to_string()))?
            .build();
        let shown = endpoint.strip_prefix("http://").unwrap_or(endpoint);
        Ok(Self {
            client,
            endpoint: shown.trim_end_matches('/').to_owned(),
        })
    }

    /// Asks who and where this instance is: a dozen small requests, each within
    /// 8 s; off EC2 the first fails within 3 s. Ask again to see an address or
    /// a CIDR that was associated since.
    ///
    /// # Errors
    /// The first key that could not be had or made no sense. A key that an
    /// instance need not have (a public address, IPv6) is no error.
    pub async fn identity(&self) -> Result<Identity, ImdsError> {
        let document: Document = self.document().await?;
        let mac = self.require::<Mac>("meta-data/mac").await?.0;
        let interface = format!("meta-data/network/interfaces/macs/{mac}");
        let key = |name: &str| format!("{interface}/{name}");
        let mut vpc_cidrs = self.list::<IpNet>(&key("vpc-ipv4-cidr-blocks")).await?;
        if vpc_cidrs.is_empty() {
            return Err(ImdsError::Missing {
                endpoint: self.endpoint.clone(),
                key: key("vpc-ipv4-cidr-blocks"),
            });
        }
        vpc_cidrs.extend(self.list::<IpNet>(&key("vpc-ipv6-cidr-blocks")).await?);
        Ok(Identity {
            account: parse::<AccountId>(DOCUMENT, &document.account_id)?,
            region: parse::<Region>(DOCUMENT, &document.region)?,
            zone: document
                .availability_zone
                .map(|zone| parse::<Zone>(DOCUMENT, &zone))
                .transpose()?,
            instance: parse::<InstanceId>(DOCUMENT, &document.instance_id)?,
            vpc: self.require::<VpcId>(&key("vpc-id")).await?,
            vpc_cidrs,
            subnet_cidr: self.optional(&key("subnet-ipv4-cidr-block")).await?,
            private_address: self.require::<IpAddr>("meta-data/local-ipv4").await?,
            public_address: self.optional("meta-data/public-ipv4").await?,
            mac,
        })
    }

    /// Asks in which region this instance is: one small request, within 8 s.
    ///
    /// # Errors
    /// It could not be had, or makes no sense.
    pub async fn region(&self) -> Result<Region, ImdsError> {
        let document = self.document().await?;
        parse::<Region>(DOCUMENT, &document.region)
    }

    /// Asks whether this instance is about to go: two small requests, each within 8 s.
    /// Where it is told both, the spot notice counts: it has a time.
    ///
    /// # Errors
    /// One could not be had or made no sense, and the other says nothing of going.
    pub async fn departure(&self) -> Result<Option<Departure>, ImdsError> {
        let notice = self.optional::<SpotNotice>(SPOT_NOTICE).await;
        if let Ok(Some(notice)) = notice {
            return Ok(Some(notice.into()));
        }
        let target = self.optional::<LifecycleState>(LIFECYCLE_STATE).await?;
        if let Some(target) = target.filter(|target| target.is_out_of_service()) {
            return Ok(Some(Departure::AutoScaling { target }));
        }
        notice.map(|_| None)
    }

    /// The name of the role that the instance has, if it has one.
    ///
    /// # Errors
    /// It could not be asked for, or is no name.
    pub async fn role(&self) -> Result<Option<String>, ImdsError> {
        let role = self.optional::<RoleName>(ROLE).await?;
        Ok(role.map(|role| role.0))
    }

    /// Where it is: host and, if it is not 80, port.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    async fn document(&self) -> Result<Document, ImdsError> {
        let text = self.text(DOCUMENT).await?;
        serde_json::from_str(&text).map_err(|error| ImdsError::Unreadable {
            key: DOCUMENT.to_owned(),
            detail: error.to_string(),
        })
    }

    async fn require<T: Value>(&self, key: &str) -> Result<T, ImdsError> {
        parse(key, self.text(key).await?.trim())
    }

    /// `None` when the service does not have the key, or has it empty.
    async fn optional<T: Value>(&self, key: &str) -> Result<Option<T>, ImdsError> {
        match self.text(key).await {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => parse(key, text.trim()).map(Some),
            Err(ImdsError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One value per line.
    async fn list<T: Value>(&self, key: &str) -> Result<Vec<T>, ImdsError> {
        match self.text(key).await {
            Ok(text) => text
                .split_whitespace()
                .map(|value| parse(key, value))
                .collect(),
            Err(ImdsError::Missing { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn text(&self, key: &str) -> Result<String, ImdsError> {
        match self.client.get(format!("/latest/{key}")).await {
            Ok(text) => Ok(text.into()),
            Err(error) => Err(self.explain(key, &error)),
        }
    }

    fn explain(&self, key: &str, error: &sdk::ImdsError) -> ImdsError {
        if let sdk::ImdsError::ErrorResponse(context) = error {
            return self.answered(key, context.response().status().as_u16());
        }
        // The error of the token's own request hides in the sources.
        if let Some(token) = in_chain::<SdkError<sdk::TokenError, HttpResponse>>(error)
            && let SdkError::ServiceError(context) = token
        {
            let status = context.raw().status();
            return if status.is_success() {
                self.not_metadata(context.err().to_string())
            } else {
                self.answered(TOKEN, status.as_u16())
            };
        }
        if chain(error).any(|source| source.to_string().contains("UTF-8")) {
            return ImdsError::Unreadable {
                key: key.to_owned(),
                detail: "it is not UTF-8".to_owned(),
            };
        }
        ImdsError::Unreachable {
            endpoint: self.endpoint.clone(),
            detail: innermost(error),
        }
    }

    fn answered(&self, key: &str, status: u16) -> ImdsError {
        let (endpoint, key) = (self.endpoint.clone(), key.to_owned());
        match status {
            401 | 403 => ImdsError::Refused {
                endpoint,
                key,
                status,
            },
            404 if key == TOKEN => self.not_metadata("HTTP status 404 for a token".to_owned()),
            404 => ImdsError::Missing { endpoint, key },
            _ => ImdsError::Failing {
                endpoint,
                key,
                status,
            },
        }
    }

    fn not_metadata(&self, detail: String) -> ImdsError {
        ImdsError::NotMetadata {
            endpoint: self.endpoint.clone(),
            detail,
        }
    }
}

/// Why the metadata service did not say who we are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImdsError {
    /// The environment forbids asking.
    #[error(
        "instance metadata is switched off by AWS_EC2_METADATA_DISABLED: Privnet runs on EC2 \
         instances; unset it, or set {ENDPOINT}"
    )]
    SwitchedOff,
    /// The environment names an endpoint that is none.
    #[error("{ENDPOINT} is `{endpoint}`: {detail}")]
    BadEndpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Nobody answers there: not an EC2 instance, a network not yet up, or a
    /// container behind one hop too many.
    #[error(
        "no instance metadata at {endpoint} ({detail}): Privnet runs on EC2 instances, in a \
         container with a metadata hop limit of 2; elsewhere set {ENDPOINT}"
    )]
    Unreachable {
        /// Where.
        endpoint: String,
        /// What the system said.
        detail: String,
    },
    /// Somebody answers who is no metadata service.
    #[error("what answers at {endpoint} is not an IMDSv2 metadata service ({detail})")]
    NotMetadata {
        /// Where.
        endpoint: String,
        /// What gave it away.
        detail: String,
    },
    /// The service refuses: switched off for this instance, or by a policy.
    #[error(
        "instance metadata at {endpoint} refuses {key} (HTTP status {status}): enable the \
         metadata service in the instance's metadata options"
    )]
    Refused {
        /// Where.
        endpoint: String,
        /// What was asked for.
        key: String,
        /// The HTTP status, 401 or 403.
        status: u16,
    },
    /// The service fails, also after retries.
    #[error("instance metadata at {endpoint} fails at {key} (HTTP status {status})")]
    Failing {
        /// Where.
        endpoint: String,
        /// What was asked for.
        key: String,
        /// The HTTP status.
        status: u16,
    },
    /// The service lacks a key that every EC2 instance in a VPC has.
    #[error("instance metadata at {endpoint} has no {key}")]
    Missing {
        /// Where.
        endpoint: String,
        /// What was asked for.
        key: String,
    },
    /// A value is not even text, or the document not JSON.
    #[error("instance metadata {key} could not be read: {detail}")]
    Unreadable {
        /// What was asked for.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A value makes no sense.
    #[error("instance metadata {key} is `{value}`, expected {expected}")]
    Invalid {
        /// What was asked for.
        key: String,
        /// The value, at most its first 64 characters.
        value: String,
        /// What was expected instead.
        expected: &'static str,
    },
}

impl ImdsError {
    /// Whether asking again may help without anybody changing anything: at boot
    /// the network may not be up yet, and the service limits its rate.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Failing { .. } => true,
            Self::SwitchedOff
            | Self::BadEndpoint { .. }
            | Self::NotMetadata { .. }
            | Self::Refused { .. }
            | Self::Missing { .. }
            | Self::Unreadable { .. }
            | Self::Invalid { .. } => false,
        }
    }
}

/// The instance identity document, of which AWS adds fields as it likes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    account_id: String,
    region: String,
    availability_zone: Option<String>,
    instance_id: String,
}

/// The MAC address of an interface, as the service writes it in its paths.
struct Mac(String);

impl FromStr for Mac {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_octet =
            |octet: &str| octet.len() == 2 && octet.bytes().all(|byte| byte.is_ascii_hexdigit());
        let octets: Vec<_> = text.split(':').collect();
        if octets.len() == 6 && octets.into_iter().all(is_octet) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(())
        }
    }
}

/// The name of a role. It is shown in commands to be copied, so nothing else passes.
struct RoleName(String);

impl FromStr for RoleName {
    type Err = ();

    /// By the IAM API reference, CreateRole.
    fn from_str(text: &str) -> Result<Self, ()> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte);
        let valid = (1..=64).contains(&text.len()) && text.bytes().all(valid);
        valid.then(|| Self(text.to_owned())).ok_or(())
    }
}

/// A type that a metadata value can be, and how to call it in an error.
trait Value: FromStr {
    const EXPECTED: &'static str;
}

impl Value for AccountId {
    const EXPECTED: &'static str = Self::EXPECTED;
}
impl Value for Region {
    const EXPECTED: &'static str = Self::EXPECTED;
}
impl Value for Zone {
    const EXPECTED: &'static str = Self::EXPECTED;
}
impl Value for InstanceId {
    const EXPECTED: &'static str = Self::EXPECTED;
}
impl Value for VpcId {
    const EXPECTED: &'static str = Self::EXPECTED;
}
impl Value for RoleName {
    const EXPECTED: &'static str = "the name of a role";
}
impl Value for Mac {
    const EXPECTED: &'static str = "a MAC address";
}
impl Value for IpAddr {
    const EXPECTED: &'static str = "an IP address";
}
impl Value for SpotNotice {
    const EXPECTED: &'static str = "an action (terminate, stop, hibernate) and a time, as JSON";
}
impl Value for LifecycleState {
    const EXPECTED: &'static str = "a lifecycle state such as InService or Terminated";
}
impl Value for IpNet {
    const EXPECTED: &'static str = "a CIDR such as 10.1.0.0/16";
}

fn parse<T: Value>(key: &str, text: &str) -> Result<T, ImdsError> {
    text.parse().map_err(|_| ImdsError::Invalid {
        key: key.to_owned(),
        value: text.chars().take(64).collect(),
        expected: T::EXPECTED,
    })
}
