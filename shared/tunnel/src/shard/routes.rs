//! Whose an address is and what the policy says, remembered from one packet to the
//! next. Valid for as long as the directory that was asked.

use std::net::IpAddr;

use privnet_model::policy::Verdict;

use crate::allowed_ips::Owner;
use crate::directory::Directory;

/// The last answers of the directory: the packets of a burst have the same
/// addresses, so one lookup serves them all.
#[derive(Debug, Default)]
pub(super) struct Routes {
    source: Option<(IpAddr, Option<Owner>)>,
    destination: Option<(IpAddr, Option<Owner>)>,
    verdict: Option<(IpAddr, IpAddr, Verdict)>,
}

impl Routes {
    pub(super) fn source(&mut self, directory: &Directory, address: IpAddr) -> Option<Owner> {
        Self::lookup(&mut self.source, directory, address)
    }

    pub(super) fn destination(&mut self, directory: &Directory, address: IpAddr) -> Option<Owner> {
        Self::lookup(&mut self.destination, directory, address)
    }

    /// Whether the policy denies a packet, which is counted under its rule.
    pub(super) fn is_denied(
        &mut self,
        directory: &Directory,
        worker: usize,
        source: IpAddr,
        destination: IpAddr,
    ) -> bool {
        let Some(policy) = &directory.policy else {
            return false;
        };
        let verdict = match self.verdict {
            Some((from, to, verdict)) if (from, to) == (source, destination) => verdict,
            _ => {
                let verdict = policy.verdict(source, destination);
                self.verdict = Some((source, destination, verdict));
                verdict
            }
        };
        match verdict {
            Verdict::Allow => false,
            Verdict::Deny(rule) => {
                policy.count(worker, rule);
                true
            }
        }
    }

    fn lookup(
        last: &mut Option<(IpAddr, Option<Owner>)>,
        directory: &Directory,
        address: IpAddr,
    ) -> Option<Owner> {
        match last {
            Some((known, owner)) if *known == address => *owner,
            _ => {
                let owner = directory.allowed_ips.owner(address);
                *last = Some((address, owner));
                owner
            }
        }
    }
}
