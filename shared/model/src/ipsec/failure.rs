//! Why an IPsec tunnel is not up, in words that an operator can act on.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whose decision it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Ours.
    Ours,
    /// The peer's.
    Peers,
}

/// Why. What the other side found wrong it does not tell (RFC 7296 section
/// 2.21.2): where it decided, the sentence names what it can be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "failure")]
pub enum IkeFailure {
    /// No answer to the first message.
    NoAnswer,
    /// No answer any more.
    PeerDead,
    /// The peer ended the tunnel.
    ClosedByPeer,
    /// We have no connection for who called.
    NoConnection {
        /// Where it called from.
        from: String,
    },
    /// IKE's ciphers.
    NoCommonIkeProposal {
        /// Who found none.
        by: Side,
        /// What we have, as far as known.
        ours: Option<String>,
        /// What the peer has, as far as known.
        theirs: Option<String>,
    },
    /// ESP's ciphers.
    NoCommonChildProposal {
        /// Who found none.
        by: Side,
        /// When keys were changed: the first child has no group of its own, so
        /// groups that differ show only then.
        when_rekeying: bool,
        /// What we have, as far as known.
        ours: Option<String>,
        /// What the peer has, as far as known.
        theirs: Option<String>,
    },
    /// The peer's message is made with another preshared key.
    WrongPresharedKey {
        /// Who it says it is.
        peer: String,
    },
    /// The peer did not believe us, or does not know us.
    AuthenticationRefused,
    /// The peer says it is somebody, or asks for somebody, that no connection names.
    UnknownIdentity {
        /// Who it asks for.
        ours: String,
        /// Who it says it is.
        peer: String,
    },
    /// The peer proves itself otherwise: it has a preshared key and we a
    /// certificate, or the other way round.
    NoSharedKey {
        /// Who it says it is.
        peer: String,
    },
    /// No private key for our certificate.
    NoPrivateKey {
        /// Who we say we are.
        ours: String,
    },
    /// Nobody whom we trust signed the peer's certificate.
    UntrustedIssuer {
        /// The certificate.
        subject: String,
        /// Who signed it.
        issuer: String,
    },
    /// The peer's certificate is too old or too young.
    CertificateNotValid {
        /// When it is valid, in charon's words.
        validity: String,
    },
    /// The peer's certificate does not prove who it says it is.
    UntrustedPeer {
        /// Who it says it is.
        peer: String,
    },
    /// The peer proved who it is, but not as the connection asks for.
    ConstraintFailed {
        /// What it asks for, in charon's words.
        constraint: String,
    },
    /// The traffic that the peer wants to send is not what we agreed to.
    SelectorsDiffer {
        /// What the peer asked for: ours === theirs.
        asked: String,
    },
    /// The traffic that we want to send is not what the peer agreed to.
    SelectorsRefused,
    /// IKE agreed upon a child, and ESP took it not.
    EspNotInstalled {
        /// The kernel's words, as far as known.
        cause: Option<String>,
    },
}

impl IkeFailure {
    /// With what we offered, which the peer's refusal does not repeat.
    #[must_use]
    pub fn with_ours(mut self, offered: &str) -> Self {
        if let Self::NoCommonIkeProposal { ours, .. } | Self::NoCommonChildProposal { ours, .. } =
            &mut self
        {
            ours.get_or_insert_with(|| offered.to_owned());
        }
        self
    }
}

impl fmt::Display for IkeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer => f.write_str(
                "peer does not answer: it is down, or UDP 500 or 4500 is blocked on the way",
            ),
            Self::PeerDead => f.write_str("peer does not answer any more"),
            Self::ClosedByPeer => f.write_str("closed by the peer"),
            Self::NoConnection { from } => write!(f, "no connection is configured for {from}"),
            Self::NoCommonIkeProposal { by, ours, theirs } => {
                f.write_str("no matching proposal for IKE: ")?;
                offers(f, *by, ours.as_deref(), theirs.as_deref())?;
                match by {
                    Side::Ours => Ok(()),
                    Side::Peers => f.write_str(
                        " (strongSwan answers the same when it has no connection for our address)",
                    ),
                }
            }
            Self::NoCommonChildProposal {
                by,
                when_rekeying,
                ours,
                theirs,
            } => {
                f.write_str("no matching proposal for ESP")?;
                if *when_rekeying {
                    f.write_str(" when rekeying (one side's PFS group differs or is missing)")?;
                }
                f.write_str(": ")?;
                offers(f, *by, ours.as_deref(), theirs.as_deref())
            }
            Self::WrongPresharedKey { peer } => {
                write!(
                    f,
                    "wrong preshared key: {peer} uses another one than we have for it"
                )
            }
            Self::AuthenticationRefused => f.write_str(
                "the peer refused our authentication: the preshared key or certificate is not the \
                 one it expects, or it has no connection for our identity",
            ),
            Self::UnknownIdentity { ours, peer } => write!(
                f,
                "identities differ: the peer says it is {peer} and asks for {ours}; no connection \
                 is configured for these two"
            ),
            Self::NoSharedKey { peer } => write!(
                f,
                "{peer} uses a preshared key, and we have none for it (are certificates configured \
                 on this side?)"
            ),
            Self::NoPrivateKey { ours } => {
                write!(f, "the private key of our certificate is missing ({ours})")
            }
            Self::UntrustedIssuer { subject, issuer } => write!(
                f,
                "the peer's certificate {subject} is signed by {issuer}, which is not the \
                 configured authority"
            ),
            Self::CertificateNotValid { validity } => {
                write!(
                    f,
                    "a certificate on the peer's side is not valid now: {validity}"
                )
            }
            Self::UntrustedPeer { peer } => {
                write!(f, "no trusted certificate proves that the peer is {peer}")
            }
            Self::ConstraintFailed { constraint } => write!(
                f,
                "the peer proved who it is, but not as configured here: {constraint}"
            ),
            Self::SelectorsDiffer { asked } => write!(
                f,
                "selectors differ: the peer asked for {asked} (ours === its), which is not \
                 configured here"
            ),
            Self::SelectorsRefused => f.write_str(
                "selectors rejected: the peer is not configured for these CIDRs (TS_UNACCEPTABLE)",
            ),
            Self::EspNotInstalled { cause } => {
                f.write_str("IKE is up, but ESP could not be installed")?;
                match cause {
                    Some(cause) => write!(f, ": {cause}"),
                    None => Ok(()),
                }
            }
        }
    }
}

fn offers(
    f: &mut fmt::Formatter<'_>,
    by: Side,
    ours: Option<&str>,
    theirs: Option<&str>,
) -> fmt::Result {
    match (by, ours, theirs) {
        (Side::Peers, Some(ours), _) => write!(f, "we offered {ours}, and the peer took none"),
        (Side::Peers, None, _) => f.write_str("the peer took none of ours"),
        (Side::Ours, ours, theirs) => write!(
            f,
            "the peer offered {}, we have {}",
            theirs.unwrap_or("something else"),
            ours.unwrap_or("none of it")
        ),
    }
}
