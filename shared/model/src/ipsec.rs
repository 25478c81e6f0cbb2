//! IPsec tunnels: what one is to be like, what is known of one, and why one
//! failed. strongSwan's charon does IKE and ESP; these are our words for it.

mod failure;
mod secret;
mod security_association;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

pub use failure::{IkeFailure, Side};
pub use secret::{CertificateKey, IkeSecret, IkeSecretError};
pub use security_association::{ChildSa, ChildState, IkeSa, IkeState, Nat, Traffic, UniqueId};

/// The UDP ports of IKE: where it begins, and where it and ESP go on when there is a NAT
/// or one is pretended (RFC 3947).
pub const IKE_PORTS: [u16; 2] = [500, 4500];

/// What our connections' names in charon begin with. Those of others are not
/// touched.
const PREFIX: &str = "privnet-";

/// The name of one of our connections in charon: `privnet-` and the site's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionName(String);

/// Why a text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?}, expected {expected}")]
pub struct IpsecWordError {
    value: String,
    expected: &'static str,
}

impl IpsecWordError {
    fn new(value: &str, expected: &'static str) -> Self {
        Self {
            value: value.chars().take(64).collect(),
            expected,
        }
    }
}

impl ConnectionName {
    /// The connection of a site, or of a spoke by its instance id.
    pub fn of(site: &str) -> Result<Self, IpsecWordError> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=64).contains(&site.len()) && site.bytes().all(known) {
            return Ok(Self(format!("{PREFIX}{site}")));
        }
        let expected = "a name of 1 to 64 letters, digits, `.`, `_` or `-`";
        Err(IpsecWordError::new(site, expected))
    }

    /// One of ours by its name in charon; `None` for somebody else's.
    pub fn ours(name: &str) -> Option<Self> {
        Self::of(name.strip_prefix(PREFIX)?).ok()
    }

    /// The name as charon knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The site's name.
    pub fn site(&self) -> &str {
        self.0.get(PREFIX.len()..).unwrap_or_default()
    }
}

impl fmt::Display for ConnectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who an end says it is: an address, a host name, an e-mail address or a
/// distinguished name, as strongSwan reads it. Never "anybody".
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IkeId(String);

impl IkeId {
    /// What a valid one looks like, for messages.
    pub const EXPECTED: &'static str =
        "an IKE identity: an address, a host name, an e-mail address or a distinguished name";

    /// The identity as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<IpAddr> for IkeId {
    fn from(address: IpAddr) -> Self {
        Self(address.to_string())
    }
}

impl FromStr for IkeId {
    type Err = IpsecWordError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        // `%any`, and patterns: a tunnel is with one peer that has one name.
        let definite = !text.contains(['%', '*']);
        let trimmed = text.trim() == text;
        match (1..=255).contains(&text.len()) && printable && definite && trimmed {
            true => Ok(Self(text.to_owned())),
            false => Err(IpsecWordError::new(text, Self::EXPECTED)),
        }
    }
}

impl fmt::Display for IkeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which ciphers are offered and accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Proposals {
    /// AES-256-GCM, SHA-384 for keys, ECP-384 for every exchange: nothing else.
    #[default]
    Modern,
    /// The same first, then what older firewalls have: CBC with SHA-2 or SHA-1 and
    /// groups of 2048 bits and more. Nothing with groups below that, DES or MD5.
    Legacy,
}

impl Proposals {
    /// The word for it in config files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Modern => "modern",
            Self::Legacy => "legacy",
        }
    }

    /// For IKE, in strongSwan's words, the preferred one first.
    pub const fn ike(self) -> &'static [&'static str] {
        match self {
            Self::Modern => &["aes256gcm16-prfsha384-ecp384"],
            Self::Legacy => &[
                "aes256gcm16-prfsha384-ecp384",
                "aes256-sha384-ecp384",
                "aes256-sha256-ecp256",
                "aes256-sha256-modp2048",
                "aes128-sha256-modp2048",
                "aes256-sha1-modp2048",
                "aes128-sha1-modp2048",
            ],
        }
    }

    /// For ESP, likewise. Each has a group: keys are exchanged anew at every rekey
    /// (PFS).
    pub const fn esp(self) -> &'static [&'static str] {
        match self {
            Self::Modern => &["aes256gcm16-ecp384"],
            Self::Legacy => &[
                "aes256gcm16-ecp384",
                "aes256-sha384-ecp384",
                "aes256-sha256-ecp256",
                "aes256-sha256-modp2048",
                "aes128-sha256-modp2048",
                "aes256-sha1-modp2048",
                "aes128-sha1-modp2048",
            ],
        }
    }
}

/// One end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelEnd {
    /// Where it is; `None` where any address will do, such as behind a NAT.
    pub address: Option<IpAddr>,
    /// Who it says it is.
    pub id: IkeId,
    /// The traffic that is its.
    pub selectors: BTreeSet<IpNet>,
}

/// How the ends prove who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// A preshared key, which charon is given by itself.
    PresharedKey,
    /// X.509 certificates, in PEM: our own, and the authority that must have
    /// signed the peer's. Our private key charon is given by itself.
    Certificate {
        /// Ours.
        own: String,
        /// The one who must have signed the peer's.
        authority: String,
    },
}

/// Who begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IkeRole {
    /// We do, and keep at it.
    Initiator,
    /// The peer does.
    Responder,
}

/// Who does ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EspBackEnd {
    /// The kernel, through an XFRM interface of that number.
    Kernel {
        /// The interface's `if_id`.
        if_id: NonZeroU32,
    },
    /// charon itself (`kernel-libipsec`).
    Userspace,
}

/// When ESP goes inside UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// Where a NAT is seen.
    BehindNat,
    /// Always: EC2's security groups and most firewalls let UDP 4500 through.
    Always,
}

/// Those of these CIDRs that are of a family which the other end has: between families
/// nothing can be sent, and a selector without its like is an error.
pub fn with_families_of(cidrs: &[IpNet], other: &BTreeSet<IpNet>) -> BTreeSet<IpNet> {
    let is_v4 = |net: &IpNet| matches!(net, IpNet::V4(_));
    let has = |net: &&IpNet| other.iter().any(|far| is_v4(far) == is_v4(net));
    cidrs.iter().filter(has).copied().collect()
}

/// When keys are changed and silence is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// How long an IKE SA's keys are used at most.
    pub ike_lifetime: Duration,
    /// How long a child SA's keys are used at most.
    pub child_lifetime: Duration,
    /// How long a peer may be silent before it is asked whether it lives.
    pub dead_peer_delay: Duration,
}

impl Default for Times {
    /// 8 hours and 1 hour, as most firewalls have it and the most that AWS takes
    /// (its `VpnTunnelOptionsSpecification`).
    fn default() -> Self {
        Self {
            ike_lifetime: Duration::from_secs(28_800),
            child_lifetime: Duration::from_secs(3_600),
            dead_peer_delay: Duration::from_secs(10),
        }
    }
}

/// What proves that we are who we say we are, to be given to charon by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IkeCredential {
    /// The preshared key.
    PresharedKey(IkeSecret),
    /// The private key of our certificate.
    PrivateKey(CertificateKey),
}

/// An IPsec tunnel as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpsecTunnel {
    /// Its name in charon.
    pub name: ConnectionName,
    /// Our end.
    pub local: TunnelEnd,
    /// The peer's.
    pub remote: TunnelEnd,
    /// How both prove who they are.
    pub authentication: Authentication,
    /// Which ciphers.
    pub proposals: Proposals,
    /// Who begins.
    pub role: IkeRole,
    /// Who does ESP.
    pub esp: EspBackEnd,
    /// When ESP goes inside UDP.
    pub encapsulation: Encapsulation,
    /// When keys are changed and silence is noticed.
    pub times: Times,
}

/// What is wrong with a tunnel as described, whoever the peer is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// An end without traffic.
    #[error("{name}: {end} selectors = []: expected at least one CIDR")]
    NoSelectors {
        /// The tunnel.
        name: ConnectionName,
        /// "local" or "remote".
        end: &'static str,
    },
    /// Who begins must know where.
    #[error("{name}: remote address is not set: expected one, because this side initiates")]
    NowhereToInitiate {
        /// The tunnel.
        name: ConnectionName,
    },
    /// The same CIDR at both ends.
    #[error("{name}: remote selector {remote} = {remote} is also a local one: expected another")]
    SameSelector {
        /// The tunnel.
        name: ConnectionName,
        /// The CIDR.
        remote: IpNet,
    },
    /// Addresses of a family that only one end has: nothing can be sent between.
    #[error(
        "{name}: {end} selector {selector}: expected one of the same family (IPv4 or IPv6) at the \
         other end, too"
    )]
    FamilyAlone {
        /// The tunnel.
        name: ConnectionName,
        /// "local" or "remote".
        end: &'static str,
        /// The CIDR.
        selector: IpNet,
    },
    /// ESP's own packets would go into the tunnel: charon refuses to install that
    /// ("can't install route for …, conflicts with IKE traffic").
    #[error(
        "{name}: remote selector {selector} holds the peer's own address {address}: expected \
         CIDRs without it, because userspace ESP would send its own packets into the tunnel"
    )]
    PeerInsideSelector {
        /// The tunnel.
        name: ConnectionName,
        /// The CIDR.
        selector: IpNet,
        /// The peer.
        address: IpAddr,
    },
    /// A time that makes no sense.
    #[error("{name}: {key} = {}s: expected {expected}", found.as_secs_f64())]
    Time {
        /// The tunnel.
        name: ConnectionName,
        /// Which one.
        key: &'static str,
        /// What it is.
        found: Duration,
        /// What it should be.
        expected: &'static str,
    },
}

impl IpsecTunnel {
    /// All that is wrong with it.
    pub fn errors(&self) -> Vec<TunnelError> {
        let mut errors = Vec::new();
        let name = || self.name.clone();
        for (end, it) in [("local", &self.local), ("remote", &self.remote)] {
            if it.selectors.is_empty() {
                let name = name();
                errors.push(TunnelError::NoSelectors { name, end });
            }
        }
        if self.role == IkeRole::Initiator && self.remote.address.is_none() {
            errors.push(TunnelError::NowhereToInitiate { name: name() });
        }
        for remote in self.remote.selectors.intersection(&self.local.selectors) {
            errors.push(TunnelError::SameSelector {
                name: name(),
                remote: *remote,
            });
        }
        let ends = [
            ("local", &self.local, &self.remote),
            ("remote", &self.remote, &self.local),
        ];
        for (end, it, other) in ends
            .iter()
            .filter(|(_, _, other)| !other.selectors.is_empty())
        {
            let is_v4 = |net: &IpNet| matches!(net, IpNet::V4(_));
            let alone = |net: &&IpNet| !other.selectors.iter().any(|far| is_v4(far) == is_v4(net));
            errors.extend(it.selectors.iter().filter(alone).map(|selector| {
                TunnelError::FamilyAlone {
                    name: name(),
                    end,
                    selector: *selector,
                }
            }));
        }
        if let (EspBackEnd::Userspace, Some(address)) = (self.esp, self.remote.address) {
            let inside = self.remote.selectors.iter();
            for selector in inside.filter(|selector| selector.contains(&address)) {
                errors.push(TunnelError::PeerInsideSelector {
                    name: name(),
                    selector: *selector,
                    address,
                });
            }
        }
        let times = [
            (
                "ike_lifetime",
                self.times.ike_lifetime,
                300,
                86_400,
                "5 minutes to 1 day",
            ),
            (
                "child_lifetime",
                self.times.child_lifetime,
                120,
                86_400,
                "2 minutes to 1 day",
            ),
            (
                "dead_peer_delay",
                self.times.dead_peer_delay,
                1,
                3_600,
                "1 second to 1 hour",
            ),
        ];
        for (key, found, least, most, expected) in times {
            if !(Duration::from_secs(least)..=Duration::from_secs(most)).contains(&found) {
                let name = name();
                errors.push(TunnelError::Time {
                    name,
                    key,
                    found,
                    expected,
                });
            }
        }
        errors
    }
}

#[cfg(test)]
mod tests;
