//! An instance as EC2 describes it from outside, and what filters its packets:
//! security groups and the subnet's network ACL.
//!
//! Words only; what they let through is decided by `privnet_reconcile::doctor`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::id::{InterfaceId, SecurityGroupId, SubnetId};

/// What EC2 says of an instance and of its primary network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceDescription {
    /// The primary network interface.
    pub interface: InterfaceId,
    /// Its subnet.
    pub subnet: SubnetId,
    /// Whether EC2 drops what it forwards; `None` when EC2 does not say.
    pub source_dest_check: Option<bool>,
    /// Its security groups.
    pub groups: Vec<SecurityGroupId>,
    /// Its public address.
    pub public: Option<PublicAddress>,
    /// How its metadata service is set up; `None` when EC2 does not say.
    pub metadata: Option<MetadataOptions>,
    /// All tags of the instance.
    pub tags: BTreeMap<String, String>,
}

/// A public address and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicAddress {
    /// The address.
    pub address: IpAddr,
    /// Whether the account holds it (an Elastic IP): it stays when the instance stops.
    pub elastic: bool,
}

/// How an instance's metadata service is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataOptions {
    /// Whether it is only told to who asks with a session token (IMDSv2).
    pub tokens_required: bool,
    /// How many routers an answer with a token may pass, plus one.
    pub hop_limit: Option<i32>,
}

/// A security group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityGroup {
    /// The group.
    pub id: SecurityGroupId,
    /// What may come in.
    pub ingress: Vec<GroupRule>,
    /// What may go out.
    pub egress: Vec<GroupRule>,
}

/// A rule of a security group: each lets something through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRule {
    /// The traffic.
    pub traffic: Traffic,
    /// From or to these CIDRs.
    pub cidrs: Vec<IpNet>,
    /// From or to members of these groups.
    pub groups: Vec<String>,
    /// From or to the CIDRs of these managed prefix lists.
    pub prefix_lists: Vec<String>,
}

/// A protocol and its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Its number; `None` is all protocols.
    pub protocol: Option<u8>,
    /// First and last port; `None` is all.
    pub ports: Option<(u16, u16)>,
}

/// A subnet's network ACL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkAcl {
    /// Its id, `acl-…`.
    pub id: String,
    /// Its entries; the lowest number that fits decides.
    pub entries: Vec<AclEntry>,
}

/// One entry of a network ACL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AclEntry {
    /// Its number.
    pub number: i32,
    /// Whether it is about what leaves the subnet.
    pub egress: bool,
    /// Whether what fits goes through.
    pub allow: bool,
    /// The traffic.
    pub traffic: Traffic,
    /// From or to whom.
    pub cidr: IpNet,
}

/// The IP protocol number of TCP.
pub const TCP: u8 = 6;
/// The IP protocol number of UDP.
pub const UDP: u8 = 17;

impl Traffic {
    /// Everything.
    pub const ALL: Self = Self {
        protocol: None,
        ports: None,
    };

    /// One port of a protocol.
    pub const fn port(protocol: u8, port: u16) -> Self {
        Self {
            protocol: Some(protocol),
            ports: Some((port, port)),
        }
    }

    /// Whether all of `other` is among it.
    pub fn covers(self, other: Self) -> bool {
        let protocol = self.protocol.is_none() || self.protocol == other.protocol;
        let ports = match (self.ports, other.ports) {
            (None, _) => true,
            (Some((first, last)), Some((from, to))) => first <= from && to <= last,
            (Some((first, last)), None) => (first, last) == (0, u16::MAX),
        };
        // A rule for all protocols has no ports, whatever is written there.
        protocol && (self.protocol.is_none() || ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_covers_what_is_among_it() {
        let ssh = Traffic::port(TCP, 22);
        let tcp = Traffic {
            protocol: Some(TCP),
            ports: Some((0, 65_535)),
        };
        let any_tcp = Traffic {
            protocol: Some(TCP),
            ports: None,
        };
        for (one, other, covers) in [
            (Traffic::ALL, ssh, true),
            (Traffic::ALL, Traffic::ALL, true),
            (tcp, ssh, true),
            (tcp, any_tcp, true),
            (ssh, tcp, false),
            (ssh, any_tcp, false),
            (tcp, Traffic::port(UDP, 22), false),
            (tcp, Traffic::ALL, false),
            (ssh, Traffic::port(TCP, 23), false),
        ] {
            assert_eq!(one.covers(other), covers, "{one:?} {other:?}");
        }
    }
}
