//! How a site's CIDRs are shared among its gateways: all to the best one, and the
//! subnets of a gateway's zone to that gateway while it is well.
//!
//! It is never changed to a gateway that is worse: with all of them down,
//! everything stays where it is.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::health::Health;

/// One gateway of a site, for the choice.
pub(super) struct Gateway<'a> {
    pub(super) standing: Standing,
    pub(super) zone_cidrs: &'a [IpNet],
}

/// How fit a gateway is to carry something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It handshakes with nobody, or does not answer probes.
    Bad,
    /// It handshakes, and has not answered enough probes to be taken instead of another.
    Untried,
    /// It answers.
    Good,
}

impl Standing {
    pub(super) fn new(alive: bool, health: Option<Health>) -> Self {
        match (alive, health) {
            (false, _) | (true, Some(Health::Down)) => Self::Bad,
            (true, Some(Health::Up)) => Self::Good,
            (true, Some(Health::Untried | Health::Recovering) | None) => Self::Untried,
        }
    }
}

/// Which CIDRs each gateway carries; gateways come older first, and `carrier` tells
/// which of them (by position) carries a CIDR now.
pub(super) fn share(
    cidrs: &BTreeSet<IpNet>,
    gateways: &[Gateway<'_>],
    carrier: impl Fn(&IpNet) -> Option<usize>,
) -> Vec<BTreeSet<IpNet>> {
    let mut shares = vec![BTreeSet::new(); gateways.len()];
    let all: Vec<usize> = (0..gateways.len()).collect();
    let zones = zones(cidrs, gateways);
    for cidr in cidrs {
        let mut main = best(&all, gateways, carrier(cidr));
        if zones.contains(cidr)
            && let Some(own) = of_zone(cidr, gateways, carrier(cidr))
        {
            main = own;
        }
        shares[main].insert(*cidr);
        // Nothing between the two: the longest match of the zone's is this.
        for zone in zones
            .iter()
            .filter(|zone| *zone != cidr && cidr.contains(*zone))
        {
            match of_zone(zone, gateways, carrier(zone)) {
                Some(own) if own != main => {
                    shares[own].insert(*zone);
                }
                _ => {}
            }
        }
    }
    shares
}

fn zones(cidrs: &BTreeSet<IpNet>, gateways: &[Gateway<'_>]) -> BTreeSet<IpNet> {
    let own = |zone: &IpNet| cidrs.iter().any(|cidr| cidr.contains(zone));
    let zones = gateways.iter().flat_map(|gateway| gateway.zone_cidrs);
    zones.copied().filter(own).collect()
}

/// The gateway that a zone's subnet goes to, when one there is fit for it.
fn of_zone(zone: &IpNet, gateways: &[Gateway<'_>], current: Option<usize>) -> Option<usize> {
    let local: Vec<usize> = (0..gateways.len())
        .filter(|position| gateways[*position].zone_cidrs.contains(zone))
        .collect();
    if local.is_empty() {
        return None;
    }
    let current = current.filter(|current| local.contains(current));
    let own = best(&local, gateways, current);
    match gateways[own].standing {
        Standing::Good => Some(own),
        // It has carried it before the hub started anew.
        Standing::Untried => (current == Some(own)).then_some(own),
        Standing::Bad => None,
    }
}

/// The best of some gateways. Whoever carries it now keeps it, unless it is bad and
/// another is not, or an older one is good.
fn best(among: &[usize], gateways: &[Gateway<'_>], current: Option<usize>) -> usize {
    let first = |standing: Standing| {
        let mut fit = among.iter().copied();
        fit.find(|position| gateways[*position].standing == standing)
    };
    let good = first(Standing::Good);
    match current.filter(|current| among.contains(current)) {
        Some(current) => match good {
            Some(good) if good < current => good,
            _ if gateways[current].standing != Standing::Bad => current,
            _ => good.or_else(|| first(Standing::Untried)).unwrap_or(current),
        },
        None => good
            .or_else(|| first(Standing::Untried))
            .unwrap_or_else(|| among.first().copied().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests;
