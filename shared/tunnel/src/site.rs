//! Which peers stand for the same place: gateways of one site, and the peers of
//! one gateway, which has several while its key changes. Names become numbers
//! here, so that a packet costs a comparison.

use std::collections::HashMap;

use crate::index::PeerIndex;

/// What a peer belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// The peer.
    pub peer: PeerIndex,
    /// The site that it is a gateway of.
    pub site: Option<&'a str>,
    /// The gateway that it is.
    pub gateway: Option<&'a str>,
}

/// Who belongs together. A peer that shares with nobody is in no table: without
/// sites of several gateways this is empty.
#[derive(Debug, Default)]
pub struct Sites {
    /// The numbers of the peer in each slot, up to the last that shares anything.
    places: Vec<Place>,
}

/// Numbers, of which 0 is shared by nobody. At most half as many are needed as
/// there can be peers.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    site: u16,
    gateway: u16,
}

impl Sites {
    /// From what each peer belongs to.
    pub fn new<'a>(members: impl IntoIterator<Item = Member<'a>>) -> Self {
        let members: Vec<_> = members.into_iter().collect();
        let mut places = Vec::new();
        let sites = number_shared(members.iter().filter_map(|member| member.site));
        let gateways = number_shared(members.iter().filter_map(|member| member.gateway));
        for member in &members {
            let number = |numbers: &HashMap<&str, u16>, name: Option<&str>| {
                name.and_then(|name| numbers.get(name))
                    .copied()
                    .unwrap_or(0)
            };
            let place = Place {
                site: number(&sites, member.site),
                gateway: number(&gateways, member.gateway),
            };
            if (place.site, place.gateway) == (0, 0) {
                continue;
            }
            let slot = member.peer.slot();
            if slot >= places.len() {
                places.resize(slot + 1, Place::default());
            }
            places[slot] = place;
        }
        Self { places }
    }

    /// Whether both are gateways of the same site.
    pub(crate) fn are_of_one_site(&self, one: PeerIndex, other: PeerIndex) -> bool {
        let site = self.place(one).site;
        site != 0 && site == self.place(other).site
    }

    /// Whether both are the same gateway.
    pub(crate) fn are_one_gateway(&self, one: PeerIndex, other: PeerIndex) -> bool {
        let gateway = self.place(one).gateway;
        gateway != 0 && gateway == self.place(other).gateway
    }

    fn place(&self, peer: PeerIndex) -> Place {
        self.places.get(peer.slot()).copied().unwrap_or_default()
    }
}

/// Numbers from 1 for the names that come more than once.
fn number_shared<'a>(names: impl Iterator<Item = &'a str>) -> HashMap<&'a str, u16> {
    let mut numbers = HashMap::new();
    let mut last = 0;
    for name in names {
        numbers
            .entry(name)
            .and_modify(|number| {
                if *number == 0 {
                    last += 1;
                    *number = last;
                }
            })
            .or_insert(0);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(slot: u16, site: Option<&'static str>) -> Member<'static> {
        Member {
            peer: PeerIndex::new(slot, 0),
            site,
            gateway: None,
        }
    }

    #[test]
    fn a_peer_alone_is_of_one_site_with_nobody() {
        let sites = Sites::new([
            member(0, Some("a")),
            member(1, None),
            member(2, None),
            member(3, Some("b")),
        ]);
        assert!(sites.places.is_empty());
        let peer = |slot| PeerIndex::new(slot, 0);
        for (one, other) in [(0, 3), (1, 2), (0, 1)] {
            assert!(!sites.are_of_one_site(peer(one), peer(other)));
        }
    }

    #[test]
    fn as_many_sites_of_two_gateways_as_there_can_be_keep_apart() {
        let names: Vec<String> = (0..1u32 << 15).map(|site| format!("vpc-{site}")).collect();
        let sites = Sites::new((0..=u16::MAX).map(|slot| Member {
            peer: PeerIndex::new(slot, 0),
            site: Some(&names[usize::from(slot) % names.len()]),
            gateway: None,
        }));
        let peer = |slot| PeerIndex::new(slot, 0);
        for slot in 0..1u16 << 15 {
            assert!(sites.are_of_one_site(peer(slot), peer(slot + (1 << 15))));
            assert!(!sites.are_of_one_site(peer(slot), peer(slot + 1)));
        }
    }
}
