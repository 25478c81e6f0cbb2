//! How the AWS SDK is set up: one HTTP client, one cache of credentials, one
//! policy of retries and timeouts, shared by all regions.
//!
//! Endpoints and credentials come from where every AWS tool takes them (the
//! environment, the profile files, the instance's role); nothing here invents
//! another way to configure them, and nothing here sends a request.

use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, ConfigLoader, SdkConfig};
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_ec2::config::SharedHttpClient;
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::interceptors::SharedInterceptor;
use privnet_model::id::Region;

use crate::clock::AwsClock;
use crate::completeness::{Completeness, RetryCutShort};
use crate::signed::Service;

/// Tries per request, the first included. With adaptive mode's back-off (up to
/// 1, 2, 4 and 8 s) they span what EC2's throttling usually lasts.
const ATTEMPTS: u32 = 5;

/// EC2 endpoints accept within milliseconds, those of far regions within 0.3 s.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The SDK, set up. Cheap to clone; clones share connections and credentials.
#[derive(Debug, Clone)]
pub struct SdkContext {
    config: SdkConfig,
    clock: Option<AwsClock>,
}

impl SdkContext {
    /// Reads the configuration of the environment: `AWS_ENDPOINT_URL`,
    /// `AWS_ENDPOINT_URL_EC2`, profile files, and the default chain of
    /// credentials, which ends at the role of the instance.
    ///
    /// `home` is the region of this host; the SDK would otherwise ask the
    /// metadata service for one. Sends no request: missing credentials show at
    /// the first call.
    pub async fn load(home: &Region) -> Self {
        Self::from_loader(loader(home, http_client())).await
    }

    async fn from_loader(loader: ConfigLoader) -> Self {
        Self {
            config: loader.load().await,
            clock: None,
        }
    }

    /// The same, but that each answer of EC2 tells this clock the time.
    #[must_use]
    pub fn telling(self, clock: &AwsClock) -> Self {
        Self {
            clock: Some(clock.clone()),
            ..self
        }
    }

    /// The name of the host by which EC2 is reached in this region, with its port;
    /// `configured` is the endpoint of the config file, if that names one.
    pub fn ec2_host(&self, region: &Region, configured: Option<&str>) -> String {
        match configured {
            Some(url) => host_of(&url.replace("{region}", region.as_str())),
            None => host_of(&self.endpoint(Service::Ec2, region).0),
        }
    }

    /// A client for one region, whose caller gives up after `timeout`. One try
    /// may take half of that: a connection that hangs gets a second chance, and
    /// an endpoint that is merely slow is not hurried.
    pub(crate) fn ec2(&self, region: &Region, timeout: Duration) -> aws_sdk_ec2::Client {
        aws_sdk_ec2::Client::from_conf(self.ec2_config(region, timeout).build())
    }

    /// The configuration of such a client.
    pub(crate) fn ec2_config(
        &self,
        region: &Region,
        timeout: Duration,
    ) -> aws_sdk_ec2::config::Builder {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(timeout / 2)
            .build();
        let mut config = aws_sdk_ec2::config::Builder::from(&self.config)
            .region(aws_config::Region::new(region.as_str().to_owned()))
            .timeout_config(timeouts)
            .interceptor(Completeness)
            .retry_classifier(RetryCutShort);
        if let Some(clock) = &self.clock {
            config.push_interceptor(SharedInterceptor::new(clock.clone()));
        }
        config
    }

    /// The same with other credentials, which may take `patience` to come.
    pub(crate) fn with_credentials(
        &self,
        credentials: impl ProvideCredentials + 'static,
        patience: Duration,
    ) -> Self {
        let config = self
            .config
            .to_builder()
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .identity_cache(IdentityCache::lazy().load_timeout(patience).build())
            .build();
        Self {
            config,
            clock: self.clock.clone(),
        }
    }

    /// The same by new connections: those that were made from an address that this host
    /// has no more end nowhere, and each is found out only by waiting.
    #[must_use]
    pub fn with_new_connections(&self) -> Self {
        let config = self.config.to_builder().http_client(http_client());
        Self {
            config: config.build(),
            clock: self.clock.clone(),
        }
    }

    /// What other services of AWS are asked with, by their FIPS 140 endpoints if
    /// so wanted; a request may take `timeout` with all its retries.
    pub(crate) fn sdk(&self, fips: bool, timeout: Duration) -> SdkConfig {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_timeout(timeout)
            .build();
        let config = self.config.to_builder().timeout_config(timeouts);
        if fips {
            config.use_fips(true).build()
        } else {
            config.build()
        }
    }
}

impl SdkContext {
    /// The settings, for requests that no SDK crate makes.
    pub(crate) fn config(&self) -> &SdkConfig {
        &self.config
    }
}

/// `HOST:PORT` of a URL.
fn host_of(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let host = rest.split('/').next().unwrap_or(rest);
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match (has_port, scheme) {
        (true, _) => host.to_owned(),
        (false, "http") => format!("{host}:80"),
        (false, _) => format!("{host}:443"),
    }
}

/// TLS by rustls on ring, which boringtun brings anyway. Speaks plain HTTP too,
/// for the metadata service and for test endpoints.
pub(crate) fn http_client() -> SharedHttpClient {
    Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https()
}

fn loader(home: &Region, http: SharedHttpClient) -> ConfigLoader {
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .region(aws_config::Region::new(home.as_str().to_owned()))
        .retry_config(RetryConfig::adaptive().with_max_attempts(ATTEMPTS))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .build(),
        );
    match AppName::new("privnet") {
        Ok(name) => loader.app_name(name),
        Err(_) => loader,
    }
}

#[cfg(test)]
use aws_smithy_runtime_api::client::http::HttpClient;

#[cfg(test)]
impl SdkContext {
    /// For one endpoint, with credentials that mean nothing and short back-off.
    pub(crate) async fn for_test(endpoint: &str, attempts: u32) -> Self {
        Self::for_test_with(endpoint, attempts, "AKIAPRIVNETTEST").await
    }

    pub(crate) async fn for_test_with(endpoint: &str, attempts: u32, access_key: &str) -> Self {
        let credentials = aws_credential_types::Credentials::new(
            access_key,
            "secret",
            None,
            None,
            "privnet-ec2 tests",
        );
        Self::from_loader(test_loader(endpoint, attempts).credentials_provider(credentials)).await
    }

    /// For AWS's own endpoints, whose answers `http` makes up; one try.
    pub(crate) async fn for_test_through(http: impl HttpClient + 'static) -> Self {
        Self::for_test_through_in(http, "eu-west-1").await
    }

    pub(crate) async fn for_test_through_in(
        http: impl HttpClient + 'static,
        home: &'static str,
    ) -> Self {
        let credentials =
            aws_credential_types::Credentials::new("AKIAHUB", "secret", None, None, "tests");
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .region(aws_config::Region::new(home))
            .retry_config(RetryConfig::disabled())
            .credentials_provider(credentials);
        Self::from_loader(loader).await
    }

    pub(crate) async fn for_test_as(
        endpoint: &str,
        credentials: aws_credential_types::Credentials,
    ) -> Self {
        Self::from_loader(test_loader(endpoint, 1).credentials_provider(credentials)).await
    }

    /// For one endpoint, with nowhere to take credentials from.
    pub(crate) async fn for_test_without_credentials(endpoint: &str) -> Self {
        let nowhere = aws_config::meta::credentials::CredentialsProviderChain::first_try(
            "nowhere",
            aws_config::environment::EnvironmentVariableCredentialsProvider::new(),
        );
        Self::from_loader(test_loader(endpoint, 1).credentials_provider(nowhere)).await
    }
}

#[cfg(test)]
fn test_loader(endpoint: &str, attempts: u32) -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client())
        .region(aws_config::Region::new("eu-west-1"))
        .endpoint_url(endpoint)
        .retry_config(
            RetryConfig::adaptive()
                .with_max_attempts(attempts)
                .with_initial_backoff(Duration::from_millis(20)),
        )
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .build(),
        )
}
