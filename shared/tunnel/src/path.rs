//! Between which addresses a peer's datagrams go, and what their outer headers say.

use std::net::{IpAddr, SocketAddr};

use crate::ecn::Ecn;

/// Where a peer is, and from which address of ours it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    /// The peer's address.
    pub remote: SocketAddr,
    /// Our address that the peer wrote to, so that a NAT or a filter before it
    /// recognises the answer. Without one the kernel chooses by its routes.
    pub local: Option<IpAddr>,
}

impl From<SocketAddr> for Path {
    fn from(remote: SocketAddr) -> Self {
        Self {
            remote,
            local: None,
        }
    }
}

/// What the outer headers of a datagram say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Outer {
    /// From where to where.
    pub path: Path,
    /// Of congestion.
    pub ecn: Ecn,
}

impl From<Path> for Outer {
    fn from(path: Path) -> Self {
        Self {
            path,
            ecn: Ecn::NOT_ECT,
        }
    }
}
