//! `hub.toml`: the hub's configuration and how it is read.
//!
//! Each key is defined where it is read: its kind, its default and the checks
//! against others. `ami/hub.toml` explains it to the operator.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use super::document::{self, ConfigErrors, Located, Section};
use super::value::{self, Kind, Rejection, duration, text};
use crate::id::{AccountId, Region};
use crate::inventory::Transport;
use crate::key::PublicKey;
use crate::net::{Supernet, overlap};
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
    /// The accounts polled; empty is the hub's own alone.
    pub accounts: Vec<AccountConfig>,
    /// Where EC2's API is, when not where AWS has it.
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
    /// The role to assume; `None` in the hub's own account.
    pub role_arn: Option<String>,
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
    /// Whether a spoke must prove by STS which instance it is.
    pub proof: bool,
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

/// A static site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteConfig {
    /// Its name, unique.
    pub name: String,
    /// What lies behind it, inside the privnet.
    pub cidrs: Vec<IpNet>,
    /// How it is reached.
    pub transport: Transport,
    /// Where it is; `None` when it calls us.
    pub endpoint: Option<SocketAddr>,
    /// Its key, unique among the sites.
    pub public_key: PublicKey,
    /// The file of a preshared key, as base64.
    pub preshared_key: Option<PathBuf>,
    /// Persistent keepalive; `None` is off.
    pub keepalive: Option<Duration>,
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
const DEFAULT_INTERVAL: Duration = Duration::from_secs(60 * 60);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// EC2 refills 20 Describe calls per second for an account and region, which
/// everything else there shares; a poll needs two or more. Longer than a week
/// is a slip.
const INTERVAL: Kind<Duration> = Kind {
    expected: "a time such as \"1h\", 5s to 7days",
    parse: |value| {
        duration(
            value,
            Duration::from_secs(5),
            Duration::from_secs(7 * 24 * 60 * 60),
        )
    },
};

const TIMEOUT: Kind<Duration> = Kind {
    expected: "a time such as \"60s\", 1s to 10m",
    parse: |value| duration(value, Duration::from_secs(1), Duration::from_secs(600)),
};

/// EC2's limit is 256 characters.
const TAG_VALUE: Kind<String> = Kind {
    expected: "the tag's value in quotes, at most 256 characters",
    parse: |value| {
        let text = text(value)?;
        match text.chars().count() {
            ..=256 => Ok(text.to_owned()),
            length => Err(format!("{length} characters long").into()),
        }
    },
};

const SITE_NAME: Kind<String> = Kind {
    expected: "a name of 1 to 64 letters, digits, `.`, `_` or `-`",
    parse: |value| {
        let name = text(value)?;
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        match (1..=64).contains(&name.len()) && name.bytes().all(known) {
            true => Ok(name.to_owned()),
            false => Err("not a name".into()),
        }
    },
};

const SITE_TRANSPORT: Kind<Transport> = Kind {
    expected: "`wireguard`",
    parse: site_transport,
};

fn site_transport(value: &DeValue<'_>) -> Result<Transport, Rejection> {
    match (value::TRANSPORT.parse)(value)? {
        Transport::None => Err("a site is reached by a tunnel or not at all".into()),
        transport => Ok(transport),
    }
}

pub(super) fn read(top: &mut Section<'_>) -> Option<HubConfig> {
    let privnet = value::privnet(top);
    let listen_port = top.with_default("listen_port", &value::PORT, value::DEFAULT_PORT);
    let private_key = value::key_file(top, "private_key");
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
    let discovery = top.required_table("discovery", expected, read_discovery);
    let sites = read_sites(top, privnet.as_ref());

    let place = state.as_ref().map(|state| state.place.clone());
    let config = HubConfig {
        privnet: privnet?,
        listen_port,
        private_key: path_or(private_key, DEFAULT_PRIVATE_KEY),
        interface,
        mtu,
        workers: workers.map(|workers| workers.value),
        offloads,
        state: path_or(state, DEFAULT_STATE),
        admin_socket,
        metrics: metrics.map(|address| address.value),
        log,
        discovery: discovery?,
        trust: TrustConfig::default(),
        policy: Vec::new(),
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

fn read_discovery(section: &mut Section<'_>) -> Option<DiscoveryConfig> {
    let interval = section.with_default("interval", &INTERVAL, DEFAULT_INTERVAL);
    let regions = section.required_list("regions", &value::REGION);
    let expected = "a table of at least one tag, such as { service = \"nat\" }";
    let tags = section.required_table("tags", expected, read_tags);
    let timeout = section.with_default("timeout", &TIMEOUT, DEFAULT_TIMEOUT);

    let mut seen = BTreeSet::new();
    let mut distinct = Vec::new();
    for region in regions? {
        match seen.insert(region.value.clone()) {
            true => distinct.push(region.value),
            false => section.reject(&region.place, "named twice", Some("each once".to_owned())),
        }
    }
    Some(DiscoveryConfig {
        interval,
        regions: Regions::Listed(distinct),
        accounts: Vec::new(),
        endpoint: None,
        fips: false,
        tags: tags?,
        timeout,
    })
}

fn read_tags(section: &mut Section<'_>) -> Option<BTreeMap<String, String>> {
    let entries = section.entries(&TAG_VALUE);
    if section.is_empty() {
        let expected = "at least one tag: with none, every instance would be a spoke";
        section.reject(section.place(), "empty", Some(expected.to_owned()));
    }
    for (key, value) in &entries {
        if !(1..=128).contains(&key.chars().count()) {
            let expected = "a tag key of 1 to 128 characters".to_owned();
            section.reject(&value.place, "not a tag key", Some(expected));
        }
        if key.to_ascii_lowercase().starts_with("aws:") {
            let problem = "a tag key of AWS's own";
            let expected = "a tag that you set: none starts with `aws:`".to_owned();
            section.reject(&value.place, problem, Some(expected));
        }
    }
    let tags = entries.into_iter().map(|(key, value)| (key, value.value));
    Some(tags.collect())
}

/// A site as far as it could be read, so that the checks between sites see
/// also those of which something is wrong.
struct SiteDraft {
    name: Option<Located<String>>,
    cidrs: Option<Vec<Located<IpNet>>>,
    transport: Transport,
    endpoint: Option<Located<SocketAddr>>,
    public_key: Option<Located<PublicKey>>,
    preshared_key: Option<PathBuf>,
    keepalive: Option<Option<Duration>>,
}

fn read_sites(top: &mut Section<'_>, privnet: Option<&Supernet>) -> Vec<SiteConfig> {
    let drafts = top.tables("site", |site| Some(read_site(site)));
    let drafts: Vec<SiteDraft> = drafts.into_iter().filter_map(|site| site.value).collect();
    reject_twins(top, drafts.iter().map(|site| site.name.as_ref()), "name");
    reject_twins(
        top,
        drafts.iter().map(|site| site.public_key.as_ref()),
        "key",
    );
    reject_misplaced(top, &drafts, privnet);
    drafts.into_iter().filter_map(SiteDraft::finish).collect()
}

fn read_site(site: &mut Section<'_>) -> SiteDraft {
    let name = site.required("name", &SITE_NAME);
    let cidrs = site.required_list("cidrs", &value::CIDR);
    let transport = site.optional("transport", &SITE_TRANSPORT);
    let endpoint = site.optional("endpoint", &value::ENDPOINT);
    let public_key = site.optional("public_key", &value::PUBLIC_KEY);
    // A transport that is wrong may be one that has no such key.
    let wireguard = transport.is_some() || !site.has("transport");
    if wireguard && !site.has("public_key") {
        site.missing("public_key", value::PUBLIC_KEY.expected);
    }
    let preshared_key = value::key_file(site, "preshared_key");
    let keepalive = site.optional("keepalive", &value::KEEPALIVE);
    SiteDraft {
        name,
        cidrs,
        transport: transport.map(|found| found.value).unwrap_or_default(),
        endpoint,
        public_key,
        preshared_key: preshared_key.map(|path| path.value),
        keepalive: keepalive.map(|found| found.value),
    }
}

impl SiteDraft {
    fn finish(self) -> Option<SiteConfig> {
        // Who waits to be called has no address to keep a path open to.
        let default = self.endpoint.is_some().then_some(value::DEFAULT_KEEPALIVE);
        Some(SiteConfig {
            name: self.name?.value,
            cidrs: self.cidrs?.into_iter().map(|net| net.value).collect(),
            transport: self.transport,
            endpoint: self.endpoint.map(|endpoint| endpoint.value),
            public_key: self.public_key?.value,
            preshared_key: self.preshared_key,
            keepalive: self.keepalive.unwrap_or(default),
        })
    }
}

/// Notes every value that an earlier site has already.
fn reject_twins<'d, T: Ord + 'd>(
    top: &Section<'_>,
    values: impl Iterator<Item = Option<&'d Located<T>>>,
    what: &str,
) {
    let mut first = BTreeMap::new();
    for found in values.flatten() {
        if let Some(place) = first.get(&found.value) {
            let line = top.line_of(place);
            let problem = format!("the {what} of the site in line {line}");
            let expected = format!("a {what} of its own");
            top.reject(&found.place, &problem, Some(expected));
        } else {
            first.insert(&found.value, found.place.clone());
        }
    }
}

/// Notes CIDRs outside the privnet, CIDRs that share addresses, and endpoints
/// whose packets would have to go through their own tunnel.
fn reject_misplaced(top: &Section<'_>, drafts: &[SiteDraft], privnet: Option<&Supernet>) {
    let mut before: Vec<(&Located<IpNet>, &SiteDraft)> = Vec::new();
    for site in drafts {
        for net in site.cidrs.iter().flatten() {
            if let Some(privnet) = privnet.filter(|privnet| !privnet.contains(&net.value)) {
                let expected = format!("a part of {privnet}");
                top.reject(&net.place, "outside the privnet", Some(expected));
            }
            let taken = before
                .iter()
                .find(|(other, _)| overlap(&other.value, &net.value));
            if let Some((other, owner)) = taken {
                let name = match &owner.name {
                    _ if std::ptr::eq(*owner, site) => "this site".to_owned(),
                    Some(name) => format!("site `{}`", name.value),
                    None => "another site".to_owned(),
                };
                let line = top.line_of(&other.place);
                let problem = format!("overlaps {} of {name} (line {line})", other.value);
                let expected = "addresses that nothing else has".to_owned();
                top.reject(&net.place, &problem, Some(expected));
            }
            before.push((net, site));
        }
        if let Some(endpoint) = &site.endpoint {
            let mut own = site.cidrs.iter().flatten();
            if own.any(|net| net.value.contains(&endpoint.value.ip())) {
                let problem = "inside the site's own `cidrs`, which only its tunnel leads to";
                let expected = "an address outside of them".to_owned();
                top.reject(&endpoint.place, problem, Some(expected));
            }
        }
    }
}
