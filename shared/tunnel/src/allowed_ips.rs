//! Allowed IPs: which peer a destination goes to, and which peers a source may
//! come from. An immutable snapshot over all peers, looked up by the longest
//! prefix; a change builds a new one. It knows nothing of peers but their index
//! and which of them are gateways of one site.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::index::PeerIndex;
use crate::prefix_map::PrefixMap;
use crate::site::Sites;

/// Whose a prefix is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A peer's allowed IPs.
    Peer(PeerIndex),
    /// This host's side: never sent to a peer, never accepted from one.
    Local,
}

/// Whose an address is, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) target: Target,
    /// By a prefix of this address alone (/32, /128): that is one gateway's own.
    is_single: bool,
}

/// The longest-prefix snapshot of a device.
#[derive(Debug, Default)]
pub struct AllowedIps {
    owners: PrefixMap<Owner>,
    sites: Sites,
}

impl AllowedIps {
    /// Builds the snapshot. Of equal prefixes the last one holds.
    pub fn new(prefixes: impl IntoIterator<Item = (IpNet, Target)>) -> Self {
        let owners = prefixes.into_iter().map(|(prefix, target)| {
            let is_single = prefix.prefix_len() == prefix.max_prefix_len();
            (prefix, Owner { target, is_single })
        });
        Self {
            owners: PrefixMap::new(owners),
            sites: Sites::default(),
        }
    }

    /// The same, where some of the peers are gateways of one site.
    pub fn with_sites(self, sites: Sites) -> Self {
        Self { sites, ..self }
    }

    /// Whose the address is, by the longest prefix that contains it.
    pub fn lookup(&self, address: IpAddr) -> Option<Target> {
        self.owner(address).map(|owner| owner.target)
    }

    pub(crate) fn owner(&self, address: IpAddr) -> Option<Owner> {
        self.owners.lookup(address)
    }

    /// Whether a source that is the owner's may come from this peer. Hosts of a
    /// site leave it by whichever gateway they like. But a single address is a
    /// gateway's own: it tells who speaks, so it comes from that gateway only.
    pub(crate) fn may_send(&self, sender: PeerIndex, owner: Option<Owner>) -> bool {
        match owner {
            Some(Owner {
                target: Target::Peer(peer),
                is_single,
            }) => {
                peer == sender
                    || if is_single {
                        self.sites.are_one_gateway(peer, sender)
                    } else {
                        self.sites.are_of_one_site(peer, sender)
                    }
            }
            _ => false,
        }
    }

    /// Whether what comes from the one peer must not go to the other, because it
    /// would be back where it came from.
    pub fn leads_back(&self, from: PeerIndex, to: PeerIndex) -> bool {
        from == to || self.sites.are_of_one_site(from, to)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;
    use crate::site::Member;

    const A: PeerIndex = PeerIndex::new(0, 0);
    const B: PeerIndex = PeerIndex::new(1, 0);
    const B_NEXT: PeerIndex = PeerIndex::new(2, 0);
    const ELSEWHERE: PeerIndex = PeerIndex::new(3, 0);

    fn snapshot() -> AllowedIps {
        let prefixes = [
            ("10.1.0.0/16", Target::Peer(A)),
            ("10.1.0.10/32", Target::Peer(A)),
            ("10.1.128.0/17", Target::Peer(B)),
            ("10.1.128.20/32", Target::Peer(B)),
            ("10.2.0.0/16", Target::Peer(ELSEWHERE)),
            ("10.1.7.0/24", Target::Local),
            ("fd00:1::/64", Target::Peer(A)),
            ("fd00:1::a/128", Target::Peer(A)),
        ];
        let member = |peer, site, gateway| Member {
            peer,
            site: Some(site),
            gateway: Some(gateway),
        };
        AllowedIps::new(prefixes.map(|(prefix, target)| (prefix.parse().unwrap(), target)))
            .with_sites(Sites::new([
                member(A, "vpc-1", "i-a"),
                member(B, "vpc-1", "i-b"),
                member(B_NEXT, "vpc-1", "i-b"),
                member(ELSEWHERE, "vpc-2", "i-e"),
            ]))
    }

    #[test]
    fn hosts_of_a_site_may_use_each_of_its_gateways() {
        let allowed = snapshot();
        let may_send =
            |peer, source: &str| allowed.may_send(peer, allowed.owner(source.parse().unwrap()));
        for source in ["10.1.0.1", "10.1.128.1", "fd00:1::1"] {
            assert!(may_send(A, source) && may_send(B, source), "{source}");
            assert!(may_send(B_NEXT, source), "{source}");
            assert!(!may_send(ELSEWHERE, source), "{source}");
        }
        for stranger in ["10.2.0.1", "10.1.7.1", "10.3.0.1"] {
            assert!(
                !may_send(A, stranger) && !may_send(B, stranger),
                "{stranger}"
            );
        }
    }

    #[test]
    fn a_gateways_own_address_comes_from_itself_only_under_whichever_of_its_keys() {
        let allowed = snapshot();
        let may_send =
            |peer, source: &str| allowed.may_send(peer, allowed.owner(source.parse().unwrap()));
        for own in ["10.1.0.10", "fd00:1::a"] {
            assert!(may_send(A, own));
            assert!(!may_send(B, own) && !may_send(B_NEXT, own), "{own}");
        }
        assert!(may_send(B, "10.1.128.20") && may_send(B_NEXT, "10.1.128.20"));
        assert!(!may_send(A, "10.1.128.20"));
    }

    #[test]
    fn all_gateways_of_a_site_are_where_its_packets_came_from() {
        let allowed = snapshot();
        assert!(allowed.leads_back(A, A) && allowed.leads_back(A, B));
        assert!(allowed.leads_back(B_NEXT, A));
        assert!(!allowed.leads_back(A, ELSEWHERE));
        let without = AllowedIps::default();
        assert!(without.leads_back(A, A) && !without.leads_back(A, B));
    }
}
