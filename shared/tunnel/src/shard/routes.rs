//! Whose an address is, remembered from one packet to the next. Valid for as long
//! as the directory that was asked.

use std::net::IpAddr;

use crate::allowed_ips::Owner;
use crate::directory::Directory;

/// The last answers of the allowed IPs: the packets of a burst have the same
/// addresses, so one lookup serves them all.
#[derive(Debug, Default)]
pub(super) struct Routes {
    source: Option<(IpAddr, Option<Owner>)>,
    destination: Option<(IpAddr, Option<Owner>)>,
}

impl Routes {
    pub(super) fn source(&mut self, directory: &Directory, address: IpAddr) -> Option<Owner> {
        Self::lookup(&mut self.source, directory, address)
    }

    pub(super) fn destination(&mut self, directory: &Directory, address: IpAddr) -> Option<Owner> {
        Self::lookup(&mut self.destination, directory, address)
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
