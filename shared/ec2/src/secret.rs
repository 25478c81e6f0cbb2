//! The fleet's secret, the hub's key, static sites' keys and an instance's configuration,
//! where they are parameters of SSM's Parameter Store.
//!
//! One GetParameter; what is secret has to be a SecureString. It is asked for once
//! and not retried: who asks keeps what was known before, and comes again.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use privnet_model::id::Region;
use privnet_model::ipsec::{IkeSecret, IkeSecretError};
use privnet_model::key::{KeyError, PresharedKey, PrivateKey};
use privnet_model::secret::{FleetSecret, SecretError};
use serde::Deserialize;
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use crate::context::SdkContext;
use crate::imds::{Imds, ImdsError};
use crate::signed::{Answer, CallError, Request, Service};

/// SSM answers in some 10 ms, 30 with the decryption by KMS.
const PATIENCE: Duration = Duration::from_secs(10);
/// An advanced parameter has 8 KB, escaped as JSON at most twice that, and its
/// description around it.
const MOST_BYTES: usize = 32 * 1024;
/// The only type that SSM encrypts, and the answer's name of it.
const SECURE_STRING: &str = "SecureString";
/// The other type that is one text.
const STRING: &str = "String";

/// The Parameter Store of a region.
#[derive(Debug, Clone)]
pub struct ParameterStore {
    /// Set up at the first question: that reads files.
    context: Arc<OnceCell<SdkContext>>,
    region: Region,
}

/// A secret that is being read.
pub type SecretRead = Pin<Box<dyn Future<Output = Result<FleetSecret, String>> + Send>>;

/// The text of a parameter in this instance's region, which the metadata service tells.
///
/// # Errors
/// It cannot be had now, or never: [`TextError::is_temporary`].
pub async fn parameter_text(name: &str) -> Result<String, TextError> {
    let region = Imds::from_env()?.region().await?;
    Ok(ParameterStore::from_env(&region).text(name).await?)
}

/// Why there is no text of a parameter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The metadata service does not say in which region this is.
    #[error(transparent)]
    Metadata(#[from] ImdsError),
    /// SSM does not give it.
    #[error(transparent)]
    Parameter(#[from] SecretFetchError),
}

impl TextError {
    /// Whether asking again may help without anybody changing the parameter or the
    /// instance. A permission counts as such: IAM takes some seconds until one that was
    /// made with the instance is in force.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Metadata(error) => error.is_temporary(),
            Self::Parameter(error) => error.reason.is_temporary(),
        }
    }
}

/// Why a parameter could not be had from the Parameter Store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFetchError {
    /// The parameter's name.
    pub name: String,
    /// The region asked.
    pub region: Region,
    /// What went wrong.
    pub reason: SecretFetchReason,
}

/// Why the parameter could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretFetchReason {
    /// SSM did not answer.
    Call(CallError),
    /// The role lacks a permission, for the parameter or for its key.
    NotAllowed {
        /// SSM's code.
        code: String,
    },
    /// There is no such parameter, or no such version of it.
    NotFound,
    /// SSM refused or failed.
    Failed {
        /// SSM's code, or the HTTP status.
        code: String,
        /// SSM's explanation, or empty.
        message: String,
    },
    /// The parameter is there, and not encrypted.
    NotSecure {
        /// Its type.
        kind: String,
    },
    /// The parameter is there, and not one text.
    NotText {
        /// Its type.
        kind: String,
    },
    /// The parameter holds no fleet secret.
    NoSecret(SecretError),
    /// The parameter holds no private key.
    NoKey(KeyError),
    /// The parameter holds no preshared key for WireGuard.
    NoPresharedKey(KeyError),
    /// The parameter holds no preshared key for IPsec.
    NoIkeSecret(IkeSecretError),
    /// The answer makes no sense.
    Unreadable,
}

impl SecretFetchReason {
    /// Whether SSM may say otherwise the next time without anybody changing the parameter.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Call(CallError::Unmade { .. } | CallError::TooLong { .. })
            | Self::NotFound
            | Self::NotSecure { .. }
            | Self::NotText { .. }
            | Self::NoSecret(_)
            | Self::NoKey(_)
            | Self::NoPresharedKey(_)
            | Self::NoIkeSecret(_) => false,
            Self::Call(
                CallError::NoCredentials { .. }
                | CallError::Unreachable { .. }
                | CallError::NoAnswer { .. }
                | CallError::Unreadable { .. },
            )
            | Self::NotAllowed { .. }
            | Self::Unreadable => true,
            // Throttled, or of a clock that is not right yet; but not a name that is none.
            Self::Failed { code, .. } => code != "ValidationException",
        }
    }
}

impl ParameterStore {
    /// That of this region. Sends no request.
    pub fn new(context: &SdkContext, region: &Region) -> Self {
        Self {
            context: Arc::new(OnceCell::new_with(Some(context.clone()))),
            region: region.clone(),
        }
    }

    /// As [`ParameterStore::new`], with what [`SdkContext::load`] gives, for those
    /// who may need neither.
    pub fn from_env(region: &Region) -> Self {
        Self {
            context: Arc::default(),
            region: region.clone(),
        }
    }

    /// Reads secrets by name, for those who know nothing of AWS; an error is one
    /// sentence.
    pub fn reader(self) -> impl Fn(String) -> SecretRead + Send + Sync + 'static {
        move |name| {
            let store = self.clone();
            Box::pin(async move {
                let secret = store.fleet_secret(&name).await;
                secret.map_err(|error| error.to_string())
            })
        }
    }

    /// The fleet's secret under this name, within 10 s.
    ///
    /// # Errors
    /// There is none, or it cannot be had now. The text never holds any of it.
    pub async fn fleet_secret(&self, name: &str) -> Result<FleetSecret, SecretFetchError> {
        let parse = |value: &str| value.parse().map_err(SecretFetchReason::NoSecret);
        let value = self.fetch(name).await.and_then(Found::secret);
        let secret = value.and_then(|value| parse(&value));
        secret.map_err(|reason| self.error(name, reason))
    }

    /// The private key under this name, as `wg genkey` writes it, within 10 s.
    ///
    /// # Errors
    /// There is none, or it cannot be had now. The text never holds any of it.
    pub async fn private_key(&self, name: &str) -> Result<PrivateKey, SecretFetchError> {
        let parse = |value: &str| value.trim_end().parse().map_err(SecretFetchReason::NoKey);
        let value = self.fetch(name).await.and_then(Found::secret);
        let key = value.and_then(|value| parse(&value));
        key.map_err(|reason| self.error(name, reason))
    }

    /// WireGuard's preshared key under this name, as `wg genpsk` writes it, within 10 s.
    ///
    /// # Errors
    /// There is none, or it cannot be had now. The text never holds any of it.
    pub async fn preshared_key(&self, name: &str) -> Result<PresharedKey, SecretFetchError> {
        let parse = |value: &str| value.parse().map_err(SecretFetchReason::NoPresharedKey);
        let value = self.fetch(name).await.and_then(Found::secret);
        let key = value.and_then(|value| parse(&value));
        key.map_err(|reason| self.error(name, reason))
    }

    /// The preshared key of an IPsec tunnel under this name, one line, within 10 s.
    ///
    /// # Errors
    /// There is none, or it cannot be had now. The text never holds any of it.
    pub async fn ike_secret(&self, name: &str) -> Result<IkeSecret, SecretFetchError> {
        let parse = |value: &str| IkeSecret::new(value).map_err(SecretFetchReason::NoIkeSecret);
        let value = self.fetch(name).await.and_then(Found::secret);
        let key = value.and_then(|value| parse(&value));
        key.map_err(|reason| self.error(name, reason))
    }

    /// The text under this name, encrypted or not, as it was put there, within 10 s. SSM
    /// takes 8 KB at most, above 4 KB as an advanced parameter.
    ///
    /// # Errors
    /// There is none, or it cannot be had now.
    pub async fn text(&self, name: &str) -> Result<String, SecretFetchError> {
        let text = self.fetch(name).await.and_then(Found::text);
        text.map_err(|reason| self.error(name, reason))
    }

    fn error(&self, name: &str, reason: SecretFetchReason) -> SecretFetchError {
        SecretFetchError {
            name: name.to_owned(),
            region: self.region.clone(),
            reason,
        }
    }

    async fn fetch(&self, name: &str) -> Result<Found, SecretFetchReason> {
        let load = || SdkContext::load(&self.region);
        let context = self.context.get_or_init(load).await;
        let (url, _) = context.endpoint(Service::Ssm, &self.region);
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut request = Request {
            url,
            headers: vec![
                header("content-type", "application/x-amz-json-1.1"),
                header("x-amz-target", "AmazonSSM.GetParameter"),
            ],
            body: serde_json::json!({ "Name": name, "WithDecryption": true }).to_string(),
        };
        let signed = context.sign(Service::Ssm, &self.region, &mut request, SystemTime::now());
        signed.await.map_err(SecretFetchReason::Call)?;
        let answer = context.send(request, PATIENCE, MOST_BYTES).await;
        read(&answer.map_err(SecretFetchReason::Call)?)
    }
}

/// Only what is asked for is read; no error repeats any of the rest.
fn read(answer: &Answer) -> Result<Found, SecretFetchReason> {
    if answer.status != 200 {
        return Err(refusal(answer));
    }
    let Ok(GetParameter { parameter }) = serde_json::from_slice(&answer.body) else {
        return Err(SecretFetchReason::Unreadable);
    };
    Ok(Found {
        kind: parameter.kind.chars().take(32).collect(),
        value: Zeroizing::new(parameter.value),
    })
}

/// A parameter as it is in the store.
struct Found {
    kind: String,
    value: Zeroizing<String>,
}

impl Found {
    fn secret(self) -> Result<Zeroizing<String>, SecretFetchReason> {
        match self.kind == SECURE_STRING {
            true => Ok(self.value),
            false => Err(SecretFetchReason::NotSecure { kind: self.kind }),
        }
    }

    fn text(mut self) -> Result<String, SecretFetchReason> {
        match [STRING, SECURE_STRING].contains(&self.kind.as_str()) {
            true => Ok(std::mem::take(&mut *self.value)),
            false => Err(SecretFetchReason::NotText { kind: self.kind }),
        }
    }
}

fn refusal(answer: &Answer) -> SecretFetchReason {
    let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let part = |name: &str| said[name].as_str().unwrap_or_default();
    // Both spellings occur, moto writes both at once.
    let message = match part("message") {
        "" => part("Message"),
        message => message,
    };
    let code = part("__type");
    // `com.amazonaws.ssm#ParameterNotFound`, or the last part alone.
    let code = code.rsplit('#').next().unwrap_or_default();
    match code {
        "AccessDenied" | "AccessDeniedException" => SecretFetchReason::NotAllowed {
            code: code.to_owned(),
        },
        "ParameterNotFound" | "ParameterVersionNotFound" => SecretFetchReason::NotFound,
        "" => SecretFetchReason::Failed {
            code: format!("HTTP status {}", answer.status),
            message: String::new(),
        },
        _ => SecretFetchReason::Failed {
            code: code.chars().take(64).collect(),
            message: message.chars().take(256).collect(),
        },
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetParameter {
    parameter: Parameter,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Parameter {
    #[serde(rename = "Type")]
    kind: String,
    value: String,
}

impl fmt::Display for SecretFetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            region,
            reason,
        } = self;
        write!(f, "SSM parameter {name} in {region}: ")?;
        match reason {
            SecretFetchReason::Call(error) => error.fmt(f),
            SecretFetchReason::NotAllowed { code } => write!(
                f,
                "not allowed: the role needs ssm:GetParameter on it, and kms:Decrypt on its key \
                 where that is not AWS's own ({code})"
            ),
            SecretFetchReason::NotFound => f.write_str("there is none"),
            SecretFetchReason::Failed { code, message } if message.is_empty() => {
                write!(f, "SSM did not give it ({code})")
            }
            SecretFetchReason::Failed { code, message } => {
                write!(f, "SSM did not give it: {message} ({code})")
            }
            SecretFetchReason::NotSecure { kind } => write!(
                f,
                "it is a {kind}, expected a {SECURE_STRING}: put it there anew, encrypted, under \
                 another name"
            ),
            SecretFetchReason::NotText { kind } => {
                write!(
                    f,
                    "it is a {kind}, expected a {STRING} or a {SECURE_STRING}"
                )
            }
            SecretFetchReason::NoSecret(error) => write!(f, "it holds no fleet secret: {error}"),
            SecretFetchReason::NoKey(error) => write!(
                f,
                "it holds no private key, as `wg genkey` writes one: {error}"
            ),
            SecretFetchReason::NoPresharedKey(error) => write!(
                f,
                "it holds no preshared key, as `wg genpsk` writes one: {error}"
            ),
            SecretFetchReason::NoIkeSecret(error) => {
                write!(f, "it holds no preshared key for IPsec: {error}")
            }
            SecretFetchReason::Unreadable => f.write_str("the answer makes no sense"),
        }
    }
}

impl std::error::Error for SecretFetchError {}
