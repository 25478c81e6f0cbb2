//! The decision, step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use privnet_model::id::VpcId;
use privnet_model::inventory::Transport;
use privnet_model::key::PublicKey;
use privnet_model::status::{EspStatus, ExcludedCidr, Exclusion, Reason};

use super::claims::{Claims, Holder};
use super::gateways::{Gateway, Standing, share};
use super::spoke::{Spoke, is_incumbent, site_tunnel};
use super::{
    Fleet, FleetInput, Obstacle, PlannedSite, PlannedTunnel, SiteId, SiteSecret, TunnelId, ipsec,
};
use crate::health::Health;

pub(super) fn decide(input: FleetInput<'_>) -> Fleet {
    let mut claims = Claims::new(input);
    let mut fleet = Fleet::default();
    for site in input.sites {
        let tunnel = static_site(site, &mut claims, input);
        fleet.add_static(tunnel);
    }
    let mut spokes = spokes(input);
    settle_keys(&mut spokes, &mut claims, input);
    let mut sites = group(&spokes);
    settle_cidrs(&mut sites, &mut claims, input);
    for (vpc, site) in &sites {
        share_site(vpc, site, &mut spokes, input, &mut fleet);
    }
    give_addresses(&mut spokes, &sites, &mut claims);
    let shared = shared_by_ipsec(&sites, &spokes, input);
    for spoke in &mut spokes {
        let vpc = spoke.record.vpc.as_ref();
        let shared = vpc.and_then(|vpc| shared.get(vpc).copied());
        ipsec::settle_spoke(&mut spoke.tunnel, shared, input);
    }
    let tunnels = spokes.into_iter().map(|spoke| (spoke.id(), spoke.tunnel));
    fleet.tunnels.extend(tunnels);
    fleet
}

impl Fleet {
    fn add_static(&mut self, tunnel: PlannedTunnel) {
        let id = TunnelId::Site(tunnel.name.clone());
        if tunnel.obstacle.is_none() {
            let site = PlannedSite {
                cidrs: tunnel.cidrs.iter().copied().collect(),
                gateways: vec![id.clone()],
            };
            self.sites.insert(SiteId::Static(tunnel.name.clone()), site);
        }
        self.tunnels.insert(id, tunnel);
    }
}

fn static_site<'a>(
    site: &'a super::Site,
    claims: &mut Claims<'a>,
    input: FleetInput<'_>,
) -> PlannedTunnel {
    let name = &site.config.name;
    let mut tunnel = site_tunnel(site);
    if let Some(key) = tunnel.public_key
        && let Err(owner) = claims.key(key, name)
    {
        tunnel.obstacle = Some(Obstacle::Rejected(Reason::DuplicateKey {
            tunnel: owner.to_owned(),
        }));
        return tunnel;
    }
    let wanted = site.config.cidrs.iter().copied().collect();
    let (won, excluded) = claims.settle(&wanted, Holder::Static(name));
    if won.is_empty() {
        tunnel.obstacle = Some(Obstacle::Rejected(Reason::NothingLeft));
    }
    tunnel.cidrs = won.into_iter().collect();
    tunnel.excluded = excluded;
    match &site.secret {
        SiteSecret::Wireguard(_) | SiteSecret::Ipsec { .. } => {}
        SiteSecret::Awaited { problem } => {
            let problem = problem.clone();
            tunnel.obstacle = Some(Obstacle::Pending(Reason::NoSiteKey { problem }));
        }
        SiteSecret::Unreadable { problem } => {
            let problem = problem.clone();
            tunnel.obstacle = Some(Obstacle::Rejected(Reason::Misconfigured { problem }));
        }
    }
    ipsec::settle_site(&mut tunnel, site, input);
    tunnel
}

/// The spokes outside the hub's own VPC, older launch first.
fn spokes(input: FleetInput<'_>) -> Vec<Spoke<'_>> {
    let mut spokes: Vec<Spoke<'_>> = input
        .inventory
        .partitions
        .iter()
        .flat_map(|(partition, view)| {
            let records = view.spokes.values();
            let others = records.filter(|record| record.vpc.as_ref() != Some(input.hub_vpc));
            others.map(move |record| Spoke::new(partition, view, record, input))
        })
        .collect();
    spokes.sort_by(|a, b| a.seniority().cmp(&b.seniority()));
    spokes
}

/// Gives each key to one spoke: to the one that uses it already and is alive, else to
/// the older. Announced keys come last: to announce another's key must not take it.
fn settle_keys<'a>(spokes: &mut [Spoke<'a>], claims: &mut Claims<'a>, input: FleetInput<'_>) {
    let holds =
        |spoke: &Spoke<'_>, key: &PublicKey| is_incumbent(key, &spoke.record.instance, input);
    let mut rest = Vec::new();
    for (position, spoke) in spokes.iter().enumerate() {
        let candidate = match spoke.tunnel.obstacle {
            None | Some(Obstacle::Unproven(_)) => spoke.tunnel.public_key,
            Some(Obstacle::Pending(_) | Obstacle::Rejected(_)) => None,
        };
        let Some(key) = candidate else { continue };
        if !holds(spoke, &key) || claims.key(key, spoke.name()).is_err() {
            rest.push((position, key));
        }
    }
    for (position, key) in rest {
        let spoke = &mut spokes[position];
        if let Err(owner) = claims.key(key, spoke.name()) {
            let tunnel = owner.to_owned();
            spoke.reject(Reason::DuplicateKey { tunnel });
        }
    }
    for spoke in spokes.iter_mut().filter(|spoke| spoke.tunnel.has_peer()) {
        if let Some(beside) = &spoke.tunnel.beside
            && claims.key(beside.public_key, spoke.name()).is_err()
        {
            spoke.tunnel.beside = None;
        }
    }
}

/// A VPC whose spokes may have tunnels.
#[derive(Default)]
struct VpcSite {
    /// Positions of its spokes, older first.
    members: Vec<usize>,
    wanted: BTreeSet<IpNet>,
    alive: bool,
    won: BTreeSet<IpNet>,
    excluded: Vec<ExcludedCidr>,
}

fn group<'a>(spokes: &[Spoke<'a>]) -> BTreeMap<&'a VpcId, VpcSite> {
    let mut sites: BTreeMap<&VpcId, VpcSite> = BTreeMap::new();
    for (position, spoke) in spokes.iter().enumerate() {
        if spoke.tunnel.obstacle.is_some() {
            continue;
        }
        let Some(vpc) = &spoke.record.vpc else {
            continue;
        };
        let site = sites.entry(vpc).or_default();
        site.members.push(position);
        site.wanted.extend(&spoke.record.cidrs);
        site.alive |= spoke.alive;
    }
    sites
}

fn settle_cidrs<'a>(
    sites: &mut BTreeMap<&'a VpcId, VpcSite>,
    claims: &mut Claims<'a>,
    input: FleetInput<'_>,
) {
    let mut order: Vec<(&'a VpcId, &mut VpcSite)> =
        sites.iter_mut().map(|(vpc, site)| (*vpc, site)).collect();
    order.sort_by_key(|(_, site)| site.members.first().copied());
    for (vpc, site) in order.iter().filter(|(_, site)| site.alive) {
        for cidr in &site.wanted {
            if input.carried.cidrs.get(cidr) == Some(vpc) {
                // What stands against it is found once more, and told, below.
                let _ = claims.cidr(*cidr, Holder::Vpc(vpc));
            }
        }
    }
    for (vpc, site) in order {
        (site.won, site.excluded) = claims.settle(&site.wanted, Holder::Vpc(vpc));
    }
}

fn share_site(
    vpc: &VpcId,
    site: &VpcSite,
    spokes: &mut [Spoke<'_>],
    input: FleetInput<'_>,
    fleet: &mut Fleet,
) {
    for position in &site.members {
        let tunnel = &mut spokes[*position].tunnel;
        tunnel.excluded.clone_from(&site.excluded);
        if site.won.is_empty() {
            tunnel.obstacle = Some(Obstacle::Rejected(Reason::NothingLeft));
            tunnel.beside = None;
        }
    }
    if site.won.is_empty() {
        return;
    }
    let ids: Vec<TunnelId> = site.members.iter().map(|at| spokes[*at].id()).collect();
    if let [only] = site.members[..] {
        spokes[only].tunnel.cidrs = site.won.iter().copied().collect();
    } else {
        share_among(site, &ids, spokes, input);
    }
    let planned = PlannedSite {
        cidrs: site.won.clone(),
        gateways: ids,
    };
    fleet.sites.insert(SiteId::Vpc(vpc.clone()), planned);
}

fn share_among(site: &VpcSite, ids: &[TunnelId], spokes: &mut [Spoke<'_>], input: FleetInput<'_>) {
    for (at, id) in site.members.iter().zip(ids) {
        let health = input.health.get(id).copied();
        spokes[*at].tunnel.health = Some(health.unwrap_or(Health::Untried));
    }
    let members: Vec<&Spoke<'_>> = site.members.iter().map(|at| &spokes[*at]).collect();
    let gateways: Vec<Gateway<'_>> = members
        .iter()
        .map(|spoke| Gateway {
            standing: Standing::new(spoke.alive, spoke.tunnel.health),
            zone_cidrs: &spoke.record.zone_cidrs,
        })
        .collect();
    let carrier = |cidr: &IpNet| {
        let instance = input.carried.via.get(cidr)?;
        let mut members = members.iter();
        members.position(|spoke| spoke.record.instance == *instance)
    };
    let shares = share(&site.won, &gateways, carrier);
    let names: Vec<String> = members
        .iter()
        .map(|spoke| spoke.name().to_owned())
        .collect();
    for (member, at) in site.members.iter().enumerate() {
        let tunnel = &mut spokes[*at].tunnel;
        for cidr in site.won.difference(&shares[member]) {
            let carrier = shares.iter().position(|share| share.contains(cidr));
            tunnel.excluded.extend(carrier.map(|carrier| ExcludedCidr {
                cidr: *cidr,
                why: Exclusion::CarriedBy {
                    tunnel: names[carrier].clone(),
                },
            }));
        }
        tunnel.cidrs = shares[member].iter().copied().collect();
    }
}

/// What the sites have of which each gateway by IPsec has the whole as selectors, so that
/// another's turn needs no negotiation. Not where others speak WireGuard and strongSwan does
/// ESP, which makes its routes of selectors: there a gateway has what it carries.
fn shared_by_ipsec<'a, 's>(
    sites: &'s BTreeMap<&'a VpcId, VpcSite>,
    spokes: &[Spoke<'_>],
    input: FleetInput<'_>,
) -> BTreeMap<&'a VpcId, &'s BTreeSet<IpNet>> {
    let by_strongswan = input.ipsec.esp == Some(EspStatus::Userspace);
    let by_ipsec = |at: &usize| spokes[*at].tunnel.transport == Transport::Ipsec;
    sites
        .iter()
        .filter(|(_, site)| !by_strongswan || site.members.iter().all(by_ipsec))
        .map(|(vpc, site)| (*vpc, &site.won))
        .collect()
}

/// Gives each spoke its own private address, where that lies in what its site has. One
/// that has not proved itself gets it when nobody else has anything there.
///
/// EC2 gives an address to a new instance as soon as the one before has left it, and
/// that one may be kept here for a while: who is alive comes first.
fn give_addresses<'a>(
    spokes: &mut [Spoke<'a>],
    sites: &BTreeMap<&'a VpcId, VpcSite>,
    claims: &mut Claims<'a>,
) {
    let mut taken = BTreeSet::new();
    for alive in [true, false] {
        for spoke in spokes.iter_mut().filter(|spoke| spoke.alive == alive) {
            if let Some(address) = own_address(spoke, sites, claims)
                && taken.insert(address)
            {
                spoke.tunnel.address = Some(address);
            }
        }
    }
}

fn own_address<'a>(
    spoke: &Spoke<'a>,
    sites: &BTreeMap<&'a VpcId, VpcSite>,
    claims: &mut Claims<'a>,
) -> Option<IpAddr> {
    let address = spoke.record.private_address?;
    let vpc = spoke.record.vpc.as_ref()?;
    let around = |cidr: &IpNet| cidr.contains(&address);
    match &spoke.tunnel.obstacle {
        None => {
            let site = sites.get(vpc)?;
            site.won.iter().any(around).then_some(address)
        }
        Some(Obstacle::Unproven(_)) => {
            let inside = spoke.record.cidrs.iter().any(around);
            let free = inside && claims.cidr(address.into(), Holder::Vpc(vpc)).is_ok();
            free.then_some(address)
        }
        Some(Obstacle::Pending(_) | Obstacle::Rejected(_)) => None,
    }
}
