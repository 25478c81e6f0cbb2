//! From what charon logs to why a tunnel is not up.
//!
//! charon tells that an IKE SA is down, but neither its events nor the answer to
//! `initiate` ("establishing CHILD_SA 'x' failed") say why. Its log does, at level
//! 1, for both roles, and VICI streams it (event `log`). The sentences below are
//! those of strongSwan 5.9.8; the tests hold lines as it wrote them. A line that
//! another version words otherwise costs the reason, nothing else.

use std::collections::BTreeMap;

use privnet_model::ipsec::{IkeFailure, Side, UniqueId};

/// SAs that are remembered: as many as may be under way at once. Beyond that the
/// oldest are forgotten.
const MOST_REMEMBERED: usize = 4096;

/// A line of charon's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The subsystem: `IKE`, `CFG`, `KNL` and others.
    pub group: String,
    /// The connection of the SA that it is about: "(unnamed)" before the peer has
    /// said who it is.
    pub connection: Option<String>,
    /// The SA.
    pub sa: Option<UniqueId>,
    /// What it says.
    pub text: String,
}

/// Why something failed, and of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// The connection; `None` while the peer has not said who it is.
    pub connection: Option<String>,
    /// The peer's address, where only that is known of it.
    pub remote: Option<String>,
    /// Why.
    pub failure: IkeFailure,
}

/// Reads one charon's log. Another charon, or the same started again, counts its
/// SAs anew and needs another reader.
#[derive(Debug, Default)]
pub struct LogReader {
    sas: BTreeMap<UniqueId, Memory>,
}

/// What earlier lines said of an SA, as later ones do not repeat it.
#[derive(Debug, Default)]
struct Memory {
    remote: Option<String>,
    begun: bool,
    established: bool,
    rekeying: bool,
    received: Option<String>,
    configured: Option<String>,
    /// Who the peer asked for, and who it says it is.
    identities: Option<(String, String)>,
    /// What is wrong with a certificate of the peer's.
    certificate: Option<IkeFailure>,
    /// A certificate whose issuer is not known.
    orphan: Option<String>,
    kernel: Option<String>,
}

impl LogReader {
    /// Takes in a line; gives what it says about a failure.
    pub fn read(&mut self, line: &LogLine) -> Option<Diagnosis> {
        let text = line.text.trim();
        let sa = line.sa?;
        let memory = self.sas.entry(sa).or_default();
        let failure = memory.read(text);
        let named = line.connection.as_deref();
        let named = named.filter(|name| *name != "(unnamed)");
        let diagnosis = failure.map(|failure| Diagnosis {
            connection: named.map(str::to_owned),
            remote: memory.remote.clone(),
            failure,
        });
        while self.sas.len() > MOST_REMEMBERED {
            self.sas.pop_first();
        }
        diagnosis
    }
}

impl Memory {
    fn read(&mut self, text: &str) -> Option<IkeFailure> {
        self.remember(text);
        self.of_proposals(text)
            .or_else(|| self.of_authentication(text))
            .or_else(|| self.of_the_rest(text))
    }

    fn remember(&mut self, text: &str) {
        if let Some(remote) = text.strip_suffix(" is initiating an IKE_SA") {
            self.remote = Some(remote.to_owned());
            self.begun = true;
        } else if text.starts_with("initiating IKE_SA ") {
            self.begun = true;
        } else if text.starts_with("IKE_SA ") && text.contains(" established between ") {
            self.established = true;
        } else if text.starts_with("establishing CHILD_SA ") {
            // charon names the request id only for a child that replaces another.
            self.rekeying = text.contains(" reqid ");
        } else if let Some(proposals) = text.strip_prefix("received proposals: ") {
            self.received = Some(proposals.to_owned());
        } else if let Some(proposals) = text.strip_prefix("configured proposals: ") {
            self.configured = Some(proposals.to_owned());
        } else if let Some(pair) = text.strip_prefix("looking for peer configs matching ") {
            self.identities = asked_and_said(pair);
        } else if let Some(subject) = quoted(text, "no issuer certificate found for ") {
            self.orphan = Some(subject.to_owned());
        } else if let Some(issuer) = quoted(text, "issuer is ") {
            if let Some(subject) = self.orphan.take() {
                let issuer = issuer.to_owned();
                self.certificate = Some(IkeFailure::UntrustedIssuer { subject, issuer });
            }
        } else if let Some((_, validity)) = text.split_once(" certificate invalid (")
            && let Some(validity) = validity.strip_suffix(')')
        {
            let validity = validity.to_owned();
            self.certificate = Some(IkeFailure::CertificateNotValid { validity });
        } else if let Some(error) = text.strip_prefix("received netlink error: ") {
            self.kernel = Some(error.to_owned());
        } else if let Some(policy) = text.strip_prefix("error installing route with policy ") {
            // kernel-libipsec alone makes routes; the kernel's ESP needs none.
            let own = policy.split(" === ").next().unwrap_or(policy);
            self.kernel = Some(format!(
                "strongSwan's own ESP needs an address of this host in {own}"
            ));
        }
    }

    fn of_proposals(&mut self, text: &str) -> Option<IkeFailure> {
        let when_rekeying = self.rekeying;
        match text {
            "received NO_PROPOSAL_CHOSEN notify error" => Some(IkeFailure::NoCommonIkeProposal {
                by: Side::Peers,
                ours: None,
                theirs: None,
            }),
            "received NO_PROPOSAL_CHOSEN notify, no CHILD_SA built" => {
                Some(IkeFailure::NoCommonChildProposal {
                    by: Side::Peers,
                    when_rekeying,
                    ours: None,
                    theirs: None,
                })
            }
            "received proposals unacceptable" => Some(IkeFailure::NoCommonIkeProposal {
                by: Side::Ours,
                ours: self.configured.take(),
                theirs: self.received.take(),
            }),
            "no acceptable proposal found" => Some(IkeFailure::NoCommonChildProposal {
                by: Side::Ours,
                // The first child is made while IKE is; its keys come from there.
                when_rekeying: self.received.as_deref().is_some_and(exchanges_keys),
                ours: self.configured.take(),
                theirs: self.received.take(),
            }),
            _ => None,
        }
    }

    fn of_authentication(&mut self, text: &str) -> Option<IkeFailure> {
        if text == "received AUTHENTICATION_FAILED notify error" {
            return Some(IkeFailure::AuthenticationRefused);
        }
        if text == "no matching peer config found" {
            let (ours, peer) = self.identities.take()?;
            return Some(IkeFailure::UnknownIdentity { ours, peer });
        }
        if let Some(constraint) = text.strip_prefix("constraint check failed: ") {
            let constraint = constraint.to_owned();
            return Some(IkeFailure::ConstraintFailed { constraint });
        }
        if text.starts_with("tried ") && text.ends_with(", but MAC mismatched") {
            let peer = second_of_pair(text)?;
            return Some(IkeFailure::WrongPresharedKey { peer });
        }
        if text.starts_with("no shared key found for ") {
            let peer = second_of_pair(text)?;
            return Some(IkeFailure::NoSharedKey { peer });
        }
        if let Some(ours) = text.strip_prefix("no private key found for ") {
            let ours = ours.trim_matches('\'').to_owned();
            return Some(IkeFailure::NoPrivateKey { ours });
        }
        if text.starts_with("no trusted ")
            && let Some((_, peer)) = text.split_once(" public key found for ")
        {
            let peer = peer.trim_matches('\'').to_owned();
            let untrusted = IkeFailure::UntrustedPeer { peer };
            return Some(self.certificate.take().unwrap_or(untrusted));
        }
        None
    }

    fn of_the_rest(&mut self, text: &str) -> Option<IkeFailure> {
        if text == "received TS_UNACCEPTABLE notify, no CHILD_SA built" {
            return Some(IkeFailure::SelectorsRefused);
        }
        if let Some(asked) = text.strip_prefix("traffic selectors ")
            && let Some(asked) = asked.strip_suffix(" unacceptable")
        {
            let asked = asked.trim().to_owned();
            return Some(IkeFailure::SelectorsDiffer { asked });
        }
        if let Some(rest) = text.strip_prefix("no IKE config found for ")
            && let Some((_, rest)) = rest.split_once("...")
        {
            let from = rest.split(',').next()?.trim().to_owned();
            return Some(IkeFailure::NoConnection { from });
        }
        if text.contains("peer not responding") {
            return Some(IkeFailure::NoAnswer);
        }
        if text.starts_with("giving up after ") {
            return Some(match self.begun && !self.established {
                true => IkeFailure::NoAnswer,
                false => IkeFailure::PeerDead,
            });
        }
        if text.starts_with("received DELETE for IKE_SA ") {
            return Some(IkeFailure::ClosedByPeer);
        }
        if text.starts_with("unable to install ") && text.ends_with(" in kernel") {
            let cause = self.kernel.take();
            return Some(IkeFailure::EspNotInstalled { cause });
        }
        None
    }
}

/// Whether ESP proposals name a group.
fn exchanges_keys(proposals: &str) -> bool {
    let group = |part: &str| {
        let groups = ["ECP_", "MODP_", "CURVE_", "KE_"];
        groups.iter().any(|group| part.starts_with(group))
    };
    proposals.split(['/', ',']).any(|part| group(part.trim()))
}

/// Of `192.0.2.2[us]...192.0.2.1[them]`, us and them.
fn asked_and_said(pair: &str) -> Option<(String, String)> {
    let (ours, theirs) = pair.split_once("...")?;
    let inside = |text: &str| {
        let (_, rest) = text.split_once('[')?;
        let (inside, _) = rest.rsplit_once(']')?;
        Some(inside.to_owned())
    };
    Some((inside(ours)?, inside(theirs)?))
}

/// Of `… 'us' - 'them' …`, them.
fn second_of_pair(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("' - '")?;
    let (second, _) = rest.split_once('\'')?;
    Some(second.to_owned())
}

/// What stands in quotation marks behind a beginning.
fn quoted<'a>(text: &'a str, beginning: &str) -> Option<&'a str> {
    let rest = text.strip_prefix(beginning)?.strip_prefix('"')?;
    rest.strip_suffix('"')
}

#[cfg(test)]
mod tests;
