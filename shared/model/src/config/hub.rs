//! `hub.toml`: the hub's configuration and how it is read.
//!
//! Each key is defined where it is read: its kind, its default and the checks
//! against others. `ami/hub.toml` explains it to the operator.

mod discovery;
mod policy;
mod site;
mod trust;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::document::{self, ConfigErrors, Located, Section};
use super::ipsec::{self, IpsecConfig};
use super::value;
use crate::id::{AccountId, Region};
use crate::ipsec::{IkeId, IkeRole, Proposals, Times};
use crate::key::PublicKey;
use crate::net::Supernet;
use crate::offload::Offloads;

/// The hub's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// The private network.
    pub privnet: Supernet,
    /// The UDP port of the tunnels.
    pub listen_port: u16,
    /// The file of the private key, made at first start.
    pub private_key: PathBuf,
    /// The SSM parameter that has the key when the file is not there, so that an
    /// instance that replaces the hub is the same hub. Nothing is made then.
    pub private_key_parameter: Option<String>,
    /// The tunnel interface's name.
    pub interface: String,
    /// The MTU inside the tunnels.
    pub mtu: u16,
    /// Worker threads; `None` is one per core, less one on big machines.
    pub workers: Option<std::num::NonZeroUsize>,
    /// The offloads to use, where the kernel has them.
    pub offloads: Offloads,
    /// The state cache.
    pub state: PathBuf,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// Where metrics are served beside the admin socket: a loopback address.
    pub metrics: Option<SocketAddr>,
    /// The log filter, in `tracing`'s syntax; the environment's `PRIVNET_LOG` wins.
    pub log: String,
    /// How spokes are found.
    pub discovery: DiscoveryConfig,
    /// Which of them are let in.
    pub trust: TrustConfig,
    /// Who may talk to whom: the first rule that fits decides.
    pub policy: Vec<PolicyRule>,
    /// What all IPsec tunnels have in common.
    pub ipsec: IpsecConfig,
    /// The static sites.
    pub sites: Vec<SiteConfig>,
}

/// How spokes are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryConfig {
    /// Time between polls.
    pub interval: Duration,
    /// The regions polled.
    pub regions: Regions,
    /// Whether the hub's own account is polled, as the instance's own role.
    pub own_account: bool,
    /// The other accounts that are polled, each by a role in it.
    pub accounts: Vec<AccountConfig>,
    /// Where EC2's API is, when not where AWS has it. `{region}` in it stands for
    /// the region that is asked.
    pub endpoint: Option<String>,
    /// Whether the endpoints validated by FIPS 140 are used.
    pub fips: bool,
    /// A spoke has all of these tags.
    pub tags: BTreeMap<String, String>,
    /// How long one poll of one region may take, retries included.
    pub timeout: Duration,
}

/// Which regions are polled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Regions {
    /// These, without duplicates, in the order written.
    Listed(Vec<Region>),
    /// All that the account is opted into, as EC2 lists them.
    All,
}

/// Another account that is polled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountConfig {
    /// The account, as its role's ARN names it.
    pub account: AccountId,
    /// The role to assume.
    pub role_arn: String,
    /// The external id that the role's trust policy asks for.
    pub external_id: Option<String>,
}

/// Which spokes are let in. An empty list lets in any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustConfig {
    /// The accounts of instances.
    pub accounts: Vec<AccountId>,
    /// The ARNs of instance profiles.
    pub instance_profiles: Vec<Glob>,
    /// VPC ids.
    pub vpcs: Vec<Glob>,
    /// Image ids.
    pub amis: Vec<Glob>,
    /// The fleet's secret, of which each tunnel gets a preshared key of its own.
    pub preshared_key: Option<SecretSource>,
    /// Whether a spoke proves by STS which instance it is.
    pub proof: ProofMode,
    /// The names of the roles whose credentials prove it.
    pub proof_roles: Vec<Glob>,
}

/// Whether spokes prove which instance they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProofMode {
    /// Nobody asks.
    #[default]
    Off,
    /// They are asked, and shown if they do not; nothing else follows.
    Ask,
    /// Nothing is routed to one that has not.
    Require,
}

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// In the SSM Parameter Store, under this name.
    Ssm(String),
}

/// A pattern: `*` is any text, `?` any one character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Takes a pattern as it is.
    pub fn new(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    /// Whether all of the text fits.
    pub fn matches(&self, text: &str) -> bool {
        wildmatch::WildMatch::new(&self.0).matches(text)
    }

    /// Whether an ARN fits, as IAM's `ArnLike` has it: each of its six parts between
    /// colons by itself, so that no `*` reaches into the next. A pattern that is not
    /// of six parts is compared as a whole.
    pub fn matches_arn(&self, arn: &str) -> bool {
        let pattern: Vec<&str> = self.0.splitn(6, ':').collect();
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        if pattern.len() < 6 {
            return self.matches(arn);
        }
        pattern.len() == parts.len()
            && pattern
                .iter()
                .zip(parts)
                .all(|(pattern, part)| wildmatch::WildMatch::new(pattern).matches(part))
    }

    /// The pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One rule of the policy. It fits traffic between the two sides, whichever of
/// them began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// Whether such traffic goes on.
    pub allow: bool,
    /// One side: what any of these selects.
    pub between: Vec<Selector>,
    /// The other.
    pub and: Vec<Selector>,
}

/// Selects addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// Everything.
    Any,
    /// The hub's own VPC.
    Hub,
    /// The sites whose name fits: a static site's, a VPC's id or a spoke's `Name`.
    Site(Glob),
    /// The sites whose spokes have a tag with a value that fits.
    Tag {
        /// The tag's key.
        key: String,
        /// Its value.
        value: Glob,
    },
    /// These addresses.
    Cidr(IpNet),
}

/// As in `deny between tag:env=dev* and site:dc-east, hub`.
impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |side: &[Selector]| {
            let side: Vec<String> = side.iter().map(ToString::to_string).collect();
            side.join(", ")
        };
        let action = if self.allow { "allow" } else { "deny" };
        let (between, and) = (side(&self.between), side(&self.and));
        write!(f, "{action} between {between} and {and}")
    }
}

/// As it is written in the config.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Hub => f.write_str("hub"),
            Self::Site(name) => write!(f, "site:{}", name.as_str()),
            Self::Tag { key, value } => write!(f, "tag:{key}={}", value.as_str()),
            Self::Cidr(net) => write!(f, "{net}"),
        }
    }
}

/// A static site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteConfig {
    /// Its name, unique.
    pub name: String,
    /// What lies behind it, inside the privnet.
    pub cidrs: Vec<IpNet>,
    /// How it is reached.
    pub link: SiteLink,
}

/// How a static site is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SiteLink {
    /// By WireGuard.
    Wireguard(WireguardSite),
    /// By IPsec.
    Ipsec(IpsecSite),
}

/// A static site that speaks WireGuard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardSite {
    /// Where it is; `None` when it calls us.
    pub endpoint: Option<SocketAddr>,
    /// Its key, unique among the sites.
    pub public_key: PublicKey,
    /// Where a preshared key is, as base64.
    pub preshared_key: Option<SecretSource>,
    /// Persistent keepalive; `None` is off.
    pub keepalive: Option<Duration>,
}

/// A static site that speaks IPsec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpsecSite {
    /// Where it is; `None` when it calls us from wherever it is.
    pub endpoint: Option<IpAddr>,
    /// Who it says it is.
    pub remote_id: IkeId,
    /// Who we say we are, when not what `[ipsec]` says.
    pub local_id: Option<IkeId>,
    /// What it may reach here, when not all of the privnet.
    pub local_cidrs: Vec<IpNet>,
    /// How both prove who they are.
    pub credentials: IkeCredentials,
    /// Which ciphers.
    pub proposals: Proposals,
    /// Who begins.
    pub role: IkeRole,
    /// When keys are changed and silence is noticed.
    pub times: Times,
}

/// Where what proves who the ends are is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IkeCredentials {
    /// A preshared key: one line of text.
    PresharedKey(SecretSource),
    /// Files of X.509 certificates and of our private key, in PEM.
    Certificate {
        /// Our certificate.
        certificate: PathBuf,
        /// Its private key.
        private_key: PathBuf,
        /// The authority that must have signed the peer's certificate.
        authority: PathBuf,
    },
}

impl SiteLink {
    /// The SSM parameter of its preshared key, where that is in one.
    pub fn parameter(&self) -> Option<&str> {
        let source = match self {
            Self::Wireguard(link) => link.preshared_key.as_ref(),
            Self::Ipsec(link) => match &link.credentials {
                IkeCredentials::PresharedKey(source) => Some(source),
                IkeCredentials::Certificate { .. } => None,
            },
        };
        match source? {
            SecretSource::Ssm(name) => Some(name),
            SecretSource::File(_) => None,
        }
    }
}

impl HubConfig {
    /// Reads the text of a config file; `file` is its name in the messages.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, at once.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigErrors> {
        document::parse(file, text, read)
    }
}

const DEFAULT_PRIVATE_KEY: &str = "/var/lib/privnet/hub.key";
const DEFAULT_STATE: &str = "/var/lib/privnet/hub.state.json";
const DEFAULT_ADMIN_SOCKET: &str = "/run/privnet/hub.sock";

pub(super) fn read(top: &mut Section<'_>) -> Option<HubConfig> {
    let privnet = value::privnet(top);
    let listen_port = top.with_default("listen_port", &value::PORT, value::DEFAULT_PORT);
    let (private_key, private_key_parameter) =
        value::key_source(top, "private_key").unwrap_or_default();
    let interface = value::DEFAULT_INTERFACE.to_owned();
    let interface = top.with_default("interface", &value::INTERFACE, interface);
    let mtu = top.with_default("mtu", &value::MTU, value::DEFAULT_MTU);
    let workers = top.optional("workers", &value::WORKERS);
    let state = top.optional("state", &value::PATH);
    let admin_socket = top.with_default(
        "admin_socket",
        &value::SOCKET_PATH,
        DEFAULT_ADMIN_SOCKET.into(),
    );
    let metrics = top.optional("metrics", &value::LOOPBACK);
    let log = top.with_default("log", &value::LOG, value::DEFAULT_LOG.to_owned());
    let offloads = value::offloads(top);
    let expected = "a [discovery] section that tells `regions` and `tags`";
    let discovery = top.required_table("discovery", expected, discovery::read);
    let trust = top.table("trust", "a [trust] section", trust::read);
    let policy = policy::read(top, privnet.as_ref());
    let ipsec = ipsec::of_hub(top);
    let sites = site::read(top, privnet.as_ref());

    let place = state.as_ref().map(|state| state.place.clone());
    let config = HubConfig {
        privnet: privnet?,
        listen_port,
        private_key: path_or(private_key, DEFAULT_PRIVATE_KEY),
        private_key_parameter,
        interface,
        mtu,
        workers: workers.map(|workers| workers.value),
        offloads,
        state: path_or(state, DEFAULT_STATE),
        admin_socket,
        metrics: metrics.map(|address| address.value),
        log,
        discovery: discovery?,
        trust: trust.unwrap_or_default(),
        policy,
        ipsec,
        sites,
    };
    if let Some(place) = place.filter(|_| config.state == config.private_key) {
        top.reject(
            &place,
            "the file of the private key",
            Some("another file".to_owned()),
        );
    }
    Some(config)
}

fn path_or(path: Option<Located<PathBuf>>, default: &str) -> PathBuf {
    path.map_or_else(|| default.into(), |path| path.value)
}
