//! The instance metadata service, version 2 only, as an instance sees it at
//! 169.254.169.254: a session token first, then the tree.
//!
//! Like the real one it answers 401 without a valid token, 400 to a token
//! request without a lifetime, 403 to one that was forwarded, 404 to paths that
//! do not exist, and lists a directory when asked for it. The document is read
//! again at every request, so a test changes an instance by writing the file.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use ipnet::Ipv4Net;
use privnet_model::id::{AccountId, InstanceId, Region, VpcId, Zone};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// Where every instance finds it.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
const LIFETIME_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const LONGEST_LIFETIME: u64 = 21_600;

/// What the service knows of its instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The instance.
    pub instance: InstanceId,
    /// Its account.
    pub account: AccountId,
    /// Its region.
    pub region: Region,
    /// Its availability zone.
    pub zone: Zone,
    /// Its VPC.
    pub vpc: VpcId,
    /// The CIDRs of that VPC, the primary one first.
    pub vpc_cidrs: Vec<Ipv4Net>,
    /// Its subnet.
    pub subnet: String,
    /// The CIDR of that.
    pub subnet_cidr: Ipv4Net,
    /// Its only interface.
    pub interface: String,
    /// The MAC address of that.
    pub mac: String,
    /// Its private address.
    pub private_address: Ipv4Addr,
    /// Its public address.
    pub public_address: Option<Ipv4Addr>,
    /// The role of its instance profile; without one there are no credentials.
    pub iam_role: Option<IamRole>,
    /// What a spot instance is told before it is taken back: JSON.
    pub spot_notice: Option<String>,
    /// What its Auto Scaling group, if it is in one, has it become.
    pub target_lifecycle_state: Option<String>,
    /// What it was launched with.
    pub user_data: Option<String>,
}

/// A role, and the credentials that EC2 gives an instance of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IamRole {
    /// Its name.
    pub name: String,
    /// The access key, which names the instance to STS.
    pub access_key: String,
    /// The secret key.
    pub secret_key: String,
    /// The session token.
    pub token: String,
}

impl Metadata {
    /// Writes the file that [`serve`] reads. The change is seen whole or not at all.
    pub fn write(&self, file: &Path) -> Result<()> {
        let new = file.with_extension("new");
        std::fs::write(&new, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(&new, file).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Every leaf of the tree below `/latest/`.
    fn leaves(&self) -> BTreeMap<String, String> {
        let mut leaves = BTreeMap::new();
        let mut put = |path: &str, value: String| {
            leaves.insert(path.to_owned(), value);
        };
        let cidrs = lines(&self.vpc_cidrs);
        let primary = self.vpc_cidrs.first().map(ToString::to_string);
        put("meta-data/instance-id", self.instance.to_string());
        put("meta-data/local-ipv4", self.private_address.to_string());
        put("meta-data/local-hostname", self.host_name());
        put("meta-data/mac", self.mac.clone());
        put(
            "meta-data/placement/availability-zone",
            self.zone.to_string(),
        );
        put("meta-data/placement/region", self.region.to_string());
        put("meta-data/services/domain", "amazonaws.com".to_owned());
        put("meta-data/services/partition", "aws".to_owned());
        if let Some(public) = self.public_address {
            put("meta-data/public-ipv4", public.to_string());
        }
        if let Some(data) = &self.user_data {
            put("user-data", data.clone());
        }
        if let Some(notice) = &self.spot_notice {
            put("meta-data/spot/instance-action", notice.clone());
        }
        if let Some(state) = &self.target_lifecycle_state {
            put(
                "meta-data/autoscaling/target-lifecycle-state",
                state.clone(),
            );
        }
        let mut put_interface = |key: &str, value: String| {
            put(
                &format!("meta-data/network/interfaces/macs/{}/{key}", self.mac),
                value,
            );
        };
        put_interface("device-number", "0".to_owned());
        put_interface("interface-id", self.interface.clone());
        put_interface("local-ipv4s", self.private_address.to_string());
        put_interface("mac", self.mac.clone());
        put_interface("owner-id", self.account.to_string());
        put_interface("subnet-id", self.subnet.clone());
        put_interface("subnet-ipv4-cidr-block", self.subnet_cidr.to_string());
        put_interface("vpc-id", self.vpc.to_string());
        put_interface("vpc-ipv4-cidr-block", primary.unwrap_or_default());
        put_interface("vpc-ipv4-cidr-blocks", cidrs);
        if let Some(public) = self.public_address {
            put_interface("public-ipv4s", public.to_string());
            put_interface(
                &format!("ipv4-associations/{public}"),
                self.private_address.to_string(),
            );
        }
        if let Some(role) = &self.iam_role {
            put("meta-data/iam/info", self.iam_info(&role.name).to_string());
            put(
                &format!("meta-data/iam/security-credentials/{}", role.name),
                role.credentials().to_string(),
            );
        }
        put(
            "dynamic/instance-identity/document",
            format!("{:#}", self.identity_document()),
        );
        leaves
    }

    /// As EC2 makes it of the private address.
    fn host_name(&self) -> String {
        let address = self.private_address.to_string().replace('.', "-");
        format!("ip-{address}.{}.compute.internal", self.region)
    }

    fn iam_info(&self, role: &str) -> serde_json::Value {
        serde_json::json!({
            "Code": "Success",
            "LastUpdated": "2026-01-01T00:00:00Z",
            "InstanceProfileArn": format!("arn:aws:iam::{}:instance-profile/{role}", self.account),
            "InstanceProfileId": "AIPA00000000000000000",
        })
    }

    fn identity_document(&self) -> serde_json::Value {
        serde_json::json!({
            "accountId": self.account,
            "architecture": "x86_64",
            "availabilityZone": self.zone,
            "imageId": "ami-12c6146b",
            "instanceId": self.instance,
            "instanceType": "t4g.nano",
            "pendingTime": "2026-01-01T00:00:00Z",
            "privateIp": self.private_address,
            "region": self.region,
            "version": "2017-09-30",
        })
    }
}

impl IamRole {
    fn credentials(&self) -> serde_json::Value {
        serde_json::json!({
            "Code": "Success",
            "LastUpdated": "2026-01-01T00:00:00Z",
            "Type": "AWS-HMAC",
            "AccessKeyId": self.access_key,
            "SecretAccessKey": self.secret_key,
            "Token": self.token,
            "Expiration": "2099-01-01T00:00:00Z",
        })
    }
}

fn lines<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join("\n")
}

/// Serves the metadata in `file` until the process ends.
pub async fn serve(file: PathBuf, listen: SocketAddr) -> Result<()> {
    let service = Arc::new(Service {
        file,
        tokens: Mutex::default(),
    });
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen at {listen}"))?;
    let app = Router::new().fallback(answer).with_state(service);
    axum::serve(listener, app).await?;
    Ok(())
}

struct Service {
    file: PathBuf,
    /// Every token given out, and when it ends to be good.
    tokens: Mutex<Vec<(String, Instant)>>,
}

async fn answer(State(service): State<Arc<Service>>, request: Request) -> Response {
    let outcome = if request.uri().path() == "/latest/api/token" {
        service.token(request.method(), request.headers())
    } else {
        service.tree(request.uri().path(), request.method(), request.headers())
    };
    outcome.unwrap_or_else(IntoResponse::into_response)
}

impl Service {
    fn token(&self, method: &Method, headers: &HeaderMap) -> Result<Response, StatusCode> {
        if method != Method::PUT {
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        if headers.contains_key("x-forwarded-for") {
            return Err(StatusCode::FORBIDDEN);
        }
        let lifetime = headers
            .get(LIFETIME_HEADER)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse::<u64>().ok())
            .filter(|seconds| (1..=LONGEST_LIFETIME).contains(seconds))
            .ok_or(StatusCode::BAD_REQUEST)?;
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let token = format!("simulated-token-{}==", tokens.len());
        tokens.push((
            token.clone(),
            Instant::now() + Duration::from_secs(lifetime),
        ));
        Ok(([(LIFETIME_HEADER, lifetime.to_string())], token).into_response())
    }

    fn tree(
        &self,
        path: &str,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Response, StatusCode> {
        if method != Method::GET && method != Method::HEAD {
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        let token = headers
            .get(TOKEN_HEADER)
            .and_then(|value| value.to_str().ok())
            .ok_or(StatusCode::UNAUTHORIZED)?;
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if !tokens.iter().any(|(good, end)| good == token && now < *end) {
            return Err(StatusCode::UNAUTHORIZED);
        }
        let metadata: Metadata = std::fs::read(&self.file)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
        let path = path.strip_prefix("/latest/").ok_or(StatusCode::NOT_FOUND)?;
        lookup(&metadata.leaves(), path)
            .map(IntoResponse::into_response)
            .ok_or(StatusCode::NOT_FOUND)
    }
}

/// A leaf's value, or the listing of a directory.
fn lookup(leaves: &BTreeMap<String, String>, path: &str) -> Option<String> {
    let path = path.trim_end_matches('/');
    if let Some(value) = leaves.get(path) {
        return Some(value.clone());
    }
    let mut entries: Vec<String> = leaves
        .keys()
        .filter_map(|leaf| leaf.strip_prefix(path)?.strip_prefix('/'))
        .map(|rest| match rest.split_once('/') {
            // Role names, unlike other directories, are listed bare; they are leaves here.
            Some((directory, _)) => format!("{directory}/"),
            None => rest.to_owned(),
        })
        .collect();
    entries.dedup();
    (!entries.is_empty()).then(|| entries.join("\n"))
}

/// The address that [`serve`] listens at in an instance.
pub fn socket() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(ADDRESS), 80)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    fn metadata() -> Metadata {
        Metadata {
            instance: "i-0123456789abcdef0".parse().unwrap(),
            account: "123456789012".parse().unwrap(),
            region: "eu-west-1".parse().unwrap(),
            zone: "eu-west-1a".parse().unwrap(),
            vpc: "vpc-0123456789abcdef0".parse().unwrap(),
            vpc_cidrs: vec![
                "10.2.0.0/16".parse().unwrap(),
                "10.20.0.0/16".parse().unwrap(),
            ],
            subnet: "subnet-1".to_owned(),
            subnet_cidr: "10.2.0.0/24".parse().unwrap(),
            interface: "eni-1".to_owned(),
            mac: "06:00:0a:02:00:0a".to_owned(),
            private_address: "10.2.0.10".parse().unwrap(),
            public_address: None,
            iam_role: Some(IamRole {
                name: "privnet-spoke".to_owned(),
                access_key: "ASIAIOSFODNN7EXAMPLE".to_owned(),
                secret_key: "secret".to_owned(),
                token: "token".to_owned(),
            }),
            spot_notice: None,
            target_lifecycle_state: None,
            user_data: None,
        }
    }

    #[test]
    fn all_cidrs_of_the_vpc_are_listed_one_a_line() {
        let path = "meta-data/network/interfaces/macs/06:00:0a:02:00:0a/vpc-ipv4-cidr-blocks";
        let value = lookup(&metadata().leaves(), path);
        assert_eq!(value.as_deref(), Some("10.2.0.0/16\n10.20.0.0/16"));
    }

    #[test]
    fn a_directory_is_listed_with_slashes_behind_directories() {
        let leaves = metadata().leaves();
        let macs = lookup(&leaves, "meta-data/network/interfaces/macs/");
        assert_eq!(macs.as_deref(), Some("06:00:0a:02:00:0a/"));
        let roles = lookup(&leaves, "meta-data/iam/security-credentials/");
        assert_eq!(roles.as_deref(), Some("privnet-spoke"));
    }

    #[test]
    fn notices_are_there_only_when_there_is_one() {
        let spot = "meta-data/spot/instance-action";
        let lifecycle = "meta-data/autoscaling/target-lifecycle-state";
        let mut metadata = metadata();
        for path in [spot, lifecycle] {
            assert_eq!(lookup(&metadata.leaves(), path), None);
        }
        metadata.spot_notice = Some("{}".to_owned());
        metadata.target_lifecycle_state = Some("Terminated".to_owned());
        let leaves = metadata.leaves();
        assert_eq!(lookup(&leaves, spot).as_deref(), Some("{}"));
        assert_eq!(lookup(&leaves, lifecycle).as_deref(), Some("Terminated"));
    }

    #[test]
    fn user_data_is_beside_the_metadata() {
        let mut metadata = metadata();
        assert_eq!(lookup(&metadata.leaves(), "user-data"), None);
        metadata.user_data = Some("privnet = 1\n".to_owned());
        let data = lookup(&metadata.leaves(), "user-data");
        assert_eq!(data.as_deref(), Some("privnet = 1\n"));
    }

    #[test]
    fn without_a_public_address_there_is_no_such_path() {
        assert_eq!(lookup(&metadata().leaves(), "meta-data/public-ipv4"), None);
    }
}
