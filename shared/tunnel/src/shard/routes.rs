//! Whose an address is, remembered from one packet to the next. Valid for as long
//! as the directory that was asked.

use std::net::IpAddr;

use crate::allowed_ips::Target;
use crate::directory::Directory;

/// The last answers of the allowed IPs: the packets of a burst have the same
/// addresses, so one lookup serves them all.
#[derive(Debug, Default)]
pub(super) struct Routes {
    source: Option<(IpAddr, Option<Target>)>,
    destination: Option<(IpAddr, Option<Target>)>,
}

impl Routes {
    pub(super) fn source(&mut self, directory: &Directory, address: IpAddr) -> Option<Target> {
        Self::lookup(&mut self.source, directory, address)
    }

    pub(super) fn destination(&mut self, directory: &Directory, address: IpAddr) -> Option<Target> {
        Self::lookup(&mut self.destination, directory, address)
    }

    fn lookup(
        last: &mut Option<(IpAddr, Option<Target>)>,
        directory: &Directory,
        address: IpAddr,
    ) -> Option<Target> {
        match last {
            Some((known, target)) if *known == address => *target,
            _ => {
                let target = directory.allowed_ips.lookup(address);
                *last = Some((address, target));
                target
            }
        }
    }
}
