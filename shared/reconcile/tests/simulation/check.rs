//! What must hold after every step, and what must come about in the end.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use jiff::Timestamp;
use privnet_model::id::InstanceId;
use privnet_model::key::PublicKey;
use privnet_model::net::overlap;
use privnet_model::status::Exclusion;
use privnet_reconcile::fleet::{PlannedSite, SiteId, TunnelId};
use privnet_reconcile::inventory::Removed;

use crate::event::{Poll, Says};
use crate::hub::{HUB_CIDR, Hub, STATIC_CIDR, STATIC_KEY};
use crate::truth::{Instance, REGIONS, Truth, partition};

/// A step of the history, from both ends.
pub(crate) struct Step<'a> {
    pub(crate) truth: &'a Truth,
    pub(crate) before: &'a Hub,
    /// The tunnels that carried traffic before it.
    pub(crate) carrying: &'a BTreeMap<InstanceId, PublicKey>,
    pub(crate) after: &'a Hub,
    pub(crate) poll: Option<&'a Poll>,
    pub(crate) removed: &'a [Removed],
}

/// The instances that reach the hub and have a session with it in their own name: a
/// spoke whose tag somebody gave the key of another lets that other in under its own.
pub(crate) fn carrying(truth: &Truth, hub: &Hub) -> BTreeMap<InstanceId, PublicKey> {
    let fresh = |instance: &&Instance| {
        let last = hub.handshakes.get(&instance.key);
        let own = hub.fleet.tunnels.iter().any(|(id, tunnel)| {
            let beside = tunnel.beside.as_ref().map(|beside| beside.public_key);
            let keys = [tunnel.public_key, beside];
            is(id, &instance.id()) && tunnel.has_peer() && keys.contains(&Some(instance.key))
        });
        instance.reaches() && own && last.is_some_and(|last| truth.now - last <= 180)
    };
    let carrying = truth.instances.iter().filter(fresh);
    carrying
        .map(|instance| (instance.id(), instance.key))
        .collect()
}

pub(crate) fn step(step: &Step<'_>) -> Result<(), String> {
    errors_remove_nothing(step)?;
    no_poll_takes_too_many(step)?;
    living_tunnels_stay(step)?;
    living_sites_keep_their_cidrs(step)?;
    no_two_sites_share_an_address(step.after)?;
    peers_are_as_they_may(step)?;
    deciding_again_changes_nothing(step)
}

fn errors_remove_nothing(step: &Step<'_>) -> Result<(), String> {
    for (region, name) in REGIONS.iter().enumerate() {
        let asked = step
            .poll
            .is_some_and(|poll| poll.says[region] != Says::Error);
        if asked {
            continue;
        }
        let (before, after) = (step.before.known(region), step.after.known(region));
        if before != after {
            return Err(format!(
                "{name} had no answer, and lost {before:?} for {after:?}"
            ));
        }
    }
    // Nor do answers that say nothing of anybody.
    for (region, says) in step
        .poll
        .iter()
        .flat_map(|poll| poll.says.iter().enumerate())
    {
        let silent = match says {
            Says::Nothing | Says::NothingTagged => true,
            Says::Truth | Says::Error | Says::NothingKnown => false,
        };
        if silent
            && !step
                .before
                .known(region)
                .is_subset(&step.after.known(region))
        {
            return Err(format!("an empty answer emptied {}", REGIONS[region]));
        }
    }
    Ok(())
}

fn no_poll_takes_too_many(step: &Step<'_>) -> Result<(), String> {
    let of = step.before.inventory.spokes().count();
    let accepted = step.poll.is_some_and(|poll| poll.accept_removals);
    let gone = step.removed.iter().filter(|gone| !gone.accepted).count();
    match !accepted && gone > 2 && gone * 4 > of {
        true => Err(format!("one poll took {gone} of {of} spokes")),
        false => Ok(()),
    }
}

/// A spoke that carried traffic, and still would, still can, by the same key. (Only the
/// operator, or EC2 by the word "terminated", may end it.)
fn living_tunnels_stay(step: &Step<'_>) -> Result<(), String> {
    let peers = step.after.fleet.peers();
    for (id, key) in step.carrying {
        let Some(instance) = step.truth.instance(id) else {
            continue;
        };
        let accepted = step
            .removed
            .iter()
            .any(|gone| gone.instance == *id && gone.accepted);
        if instance.reaches() && instance.key == *key && !accepted && !peers.contains_key(key) {
            let tunnel = step
                .after
                .fleet
                .tunnels
                .iter()
                .find(|(tunnel, _)| is(tunnel, id));
            return Err(format!(
                "{id} carried traffic and has no peer any more: {tunnel:#?}"
            ));
        }
    }
    Ok(())
}

fn is(tunnel: &TunnelId, id: &InstanceId) -> bool {
    matches!(tunnel, TunnelId::Spoke(_, instance) if instance == id)
}

/// A site of which a gateway carried traffic, and still would, has what it had.
fn living_sites_keep_their_cidrs(step: &Step<'_>) -> Result<(), String> {
    for (id, site) in &step.before.fleet.sites {
        let alive = site.gateways.iter().any(|gateway| {
            let TunnelId::Spoke(_, instance) = gateway else {
                return true;
            };
            let key = step.carrying.get(instance);
            let instance = step.truth.instance(instance);
            let stays = step.after.fleet.tunnels.contains_key(gateway);
            stays && instance.is_some_and(|one| one.reaches() && Some(&one.key) == key)
        });
        let none = PlannedSite::default();
        let now = step.after.fleet.sites.get(id).unwrap_or(&none);
        if alive && !site.cidrs.is_subset(&now.cidrs) {
            return Err(format!(
                "{id:?} had {:?} and has {:?}",
                site.cidrs, now.cidrs
            ));
        }
    }
    Ok(())
}

fn no_two_sites_share_an_address(hub: &Hub) -> Result<(), String> {
    let hub_cidr: IpNet = HUB_CIDR.parse().unwrap();
    let mut all: Vec<(String, IpNet)> = vec![("the hub".to_owned(), hub_cidr)];
    for (id, site) in &hub.fleet.sites {
        for cidr in &site.cidrs {
            for (other, taken) in &all {
                if other != id.as_str() && overlap(cidr, taken) {
                    return Err(format!("{id:?} and {other} share {cidr} and {taken}"));
                }
            }
            all.push((id.as_str().to_owned(), *cidr));
        }
    }
    Ok(())
}

/// Peers are trusted spokes only, each prefix is one peer's, and inside its own site.
fn peers_are_as_they_may(step: &Step<'_>) -> Result<(), String> {
    let hub = step.after;
    let mut taken: BTreeMap<IpNet, PublicKey> = BTreeMap::new();
    for (key, peer) in hub.fleet.peers() {
        let owner = hub.fleet.tunnels.iter().find(|(_, tunnel)| {
            let beside = tunnel.beside.as_ref().map(|beside| beside.public_key);
            tunnel.has_peer() && (tunnel.public_key == Some(key) || beside == Some(key))
        });
        let Some((id, tunnel)) = owner else {
            return Err(format!("{key} is nobody's"));
        };
        if let TunnelId::Spoke(_, instance) = id
            && !step.truth.instance(instance).is_some_and(|one| one.trusted)
        {
            return Err(format!("{instance} is not trusted and has a peer"));
        }
        if tunnel.origin == privnet_model::status::Origin::Static && key != STATIC_KEY {
            return Err("the static site has another's key".to_owned());
        }
        let mut sites = hub.fleet.sites.values();
        let site = sites.find(|site| site.gateways.contains(id));
        for net in peer.allowed_ips {
            if !site.is_some_and(|site| site.cidrs.iter().any(|cidr| cidr.contains(&net))) {
                return Err(format!("{id:?} is allowed {net}, which is not its site's"));
            }
            if let Some(other) = taken.insert(net, key) {
                return Err(format!("{net} goes to {key} and {other}"));
            }
        }
    }
    // Whatever a site has goes somewhere.
    for (id, site) in &hub.fleet.sites {
        if let Some(lost) = site.cidrs.iter().find(|cidr| !taken.contains_key(*cidr)) {
            return Err(format!("{lost} of {id:?} goes nowhere"));
        }
    }
    Ok(())
}

fn deciding_again_changes_nothing(step: &Step<'_>) -> Result<(), String> {
    let again = step.after.decide(&step.after.inventory, step.truth.now);
    if again != step.after.fleet {
        return Err(format!(
            "deciding again changes {:#?} into {again:#?}",
            step.after.fleet
        ));
    }
    Ok(())
}

/// After enough complete answers in calm, the fleet is what the truth deserves.
pub(crate) fn deserved(truth: &Truth, hub: &Hub) -> Result<(), String> {
    let spokes: BTreeSet<InstanceId> = truth
        .instances
        .iter()
        .filter(|instance| instance.runs() && instance.tagged)
        .map(Instance::id)
        .collect();
    let known: BTreeSet<InstanceId> = (0..REGIONS.len()).flat_map(|at| hub.known(at)).collect();
    if spokes != known {
        return Err(format!("there are {spokes:?}, and known are {known:?}"));
    }
    if hub.inventory.held_removals.is_some() {
        return Err("removals are held for ever".to_owned());
    }
    for instance in truth
        .instances
        .iter()
        .filter(|one| spokes.contains(&one.id()))
    {
        let id = TunnelId::Spoke(partition(instance.region()), instance.id());
        let tunnel = &hub.fleet.tunnels[&id];
        // Whoever writes the tag of a spoke that the hub has not seen yet, or that is
        // silent, can give it the key of another instance, which then has its place.
        // Only a proof of identity helps against that.
        let mut others = truth
            .instances
            .iter()
            .filter(|one| one.number != instance.number);
        let taken = others.any(|other| other.reaches() && tunnel.public_key == Some(other.key));
        let lost = hub.fleet.tunnels.iter().any(|(other, tunnel)| {
            *other != id && tunnel.has_peer() && tunnel.public_key == Some(instance.key)
        });
        if taken || lost {
            continue;
        }
        let beside = tunnel.beside.as_ref().map(|beside| beside.public_key);
        let own = [tunnel.public_key, beside].contains(&Some(instance.key));
        if tunnel.has_peer() && !own {
            return Err(format!(
                "{id:?} uses {}, and its peer is {tunnel:#?}",
                instance.key
            ));
        }
        if !instance.trusted {
            continue;
        }
        let site = hub.fleet.sites.get(&SiteId::Vpc(instance.vpc_id()));
        let none = PlannedSite::default();
        for cidr in truth.cidrs(instance.vpc) {
            if site.unwrap_or(&none).cidrs.contains(&cidr) {
                continue;
            }
            let why = tunnel
                .excluded
                .iter()
                .find(|excluded| excluded.cidr == cidr);
            let Some(why) = why else {
                return Err(format!("{id:?} lacks {cidr} without a reason: {tunnel:#?}"));
            };
            justified(truth, hub, instance, &cidr, &why.why)?;
        }
    }
    Ok(())
}

/// Whether an exclusion is true, and whoever has the CIDR instead has a right to it: it is
/// alive, or older.
fn justified(
    truth: &Truth,
    hub: &Hub,
    instance: &Instance,
    cidr: &IpNet,
    why: &Exclusion,
) -> Result<(), String> {
    let privnet: IpNet = "10.0.0.0/8".parse().unwrap();
    let right = match why {
        Exclusion::OutsidePrivnet => !privnet.contains(cidr),
        Exclusion::OverlapsHubVpc { cidr: taken } => {
            overlap(cidr, taken) && *taken == HUB_CIDR.parse().unwrap()
        }
        Exclusion::OverlapsSite { site, cidr: taken } if site == "dc" => {
            overlap(cidr, taken) && *taken == STATIC_CIDR.parse().unwrap()
        }
        Exclusion::OverlapsSite { site, cidr: taken } => {
            let mut sites = hub.fleet.sites.iter();
            let other = sites.find(|(id, _)| id.as_str() == site);
            let carries = other.is_some_and(|(_, other)| other.cidrs.contains(taken));
            let heard = hub.alive(truth.now);
            let gateways = other.into_iter().flat_map(|(_, other)| &other.gateways);
            let mut better = gateways
                .filter_map(|id| hub.fleet.tunnels.get(id))
                .filter(|one| {
                    let older = one.launched
                        < Some(Timestamp::from_second(instance.launched).unwrap())
                        || one.instance < Some(instance.id());
                    older || one.public_key.is_some_and(|key| heard.contains(&key))
                });
            overlap(cidr, taken) && carries && better.next().is_some()
        }
        Exclusion::CarriedBy { .. } => true,
    };
    match right {
        true => Ok(()),
        false => Err(format!(
            "{} lacks {cidr}, and {why} is no reason",
            instance.id()
        )),
    }
}
