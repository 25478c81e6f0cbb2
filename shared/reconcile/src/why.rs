//! Why something is or is not connected, in one paragraph: what `tunnels why` says.
//! It tells what was decided and why, from the same facts; it decides nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use privnet_model::admin::WhyAnswer;
use privnet_model::id::VpcId;
use privnet_model::inventory::{Inventory, PartitionView, SpokeRecord, Transport};
use privnet_model::net::Supernet;
use privnet_model::policy::Verdict;
use privnet_model::status::{Exclusion, Status, Tunnel, TunnelState};

use crate::fleet::{Fleet, PlannedTunnel, SiteId, TunnelId};
use crate::policy::Policy;

mod near;

/// What an explanation may draw on.
#[derive(Clone, Copy)]
pub struct WhyInput<'a> {
    /// The private network.
    pub privnet: &'a Supernet,
    /// The hub's own VPC.
    pub hub_vpc: &'a VpcId,
    /// Its CIDRs.
    pub hub_cidrs: &'a [IpNet],
    /// The decision in force.
    pub fleet: &'a Fleet,
    /// What it was made from.
    pub inventory: &'a Inventory,
    /// How the tunnels are.
    pub status: &'a Status,
    /// Who may talk to whom.
    pub policy: &'a Policy,
}

/// Explains why `subject` is connected or not; with `towards`, whether the first may
/// talk to the second, and by which way.
pub fn explain(input: &WhyInput<'_>, subject: &str, towards: Option<&str>) -> WhyAnswer {
    let found = match Subject::find(input, subject) {
        Ok(found) => found,
        Err(unknown) => return unknown,
    };
    let Some(towards) = towards else {
        return found.explain(input);
    };
    match Subject::find(input, towards) {
        Ok(other) => way(input, &found, &other),
        Err(unknown) => unknown,
    }
}

/// What was asked about.
enum Subject<'a> {
    /// Addresses; a single one is a CIDR of its own.
    Addresses(IpNet),
    Tunnel(&'a TunnelId, &'a PlannedTunnel),
    Site(&'a VpcId),
    HubVpc,
}

impl<'a> Subject<'a> {
    fn find(input: &WhyInput<'a>, text: &str) -> Result<Self, WhyAnswer> {
        let text = text.trim();
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Addresses(address.into()));
        }
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::Addresses(net.trunc()));
        }
        if text == input.hub_vpc.as_str() {
            return Ok(Self::HubVpc);
        }
        let mut tunnels = input.fleet.tunnels.iter();
        let named = tunnels.find(|(id, tunnel)| tunnel.name == text || instance(id) == Some(text));
        if let Some((id, tunnel)) = named {
            return Ok(Self::Tunnel(id, tunnel));
        }
        let mut spokes = input.inventory.spokes();
        let vpc =
            spokes.find_map(|(_, spoke)| spoke.vpc.as_ref().filter(|vpc| vpc.as_str() == text));
        match vpc {
            Some(vpc) => Ok(Self::Site(vpc)),
            None => Err(unknown(input, text)),
        }
    }

    fn explain(&self, input: &WhyInput<'_>) -> WhyAnswer {
        match self {
            Self::Addresses(net) => addresses(input, net),
            Self::Tunnel(id, planned) => tunnel(input, id, planned),
            Self::Site(vpc) => site(input, vpc),
            Self::HubVpc => WhyAnswer {
                connected: true,
                text: format!(
                    "{} is the hub's own VPC ({}): it is reached without a tunnel.",
                    input.hub_vpc,
                    list(input.hub_cidrs)
                ),
            },
        }
    }

    /// One address that stands for it when the policy is asked.
    fn address(&self, input: &WhyInput<'_>) -> Option<IpAddr> {
        match self {
            Self::Addresses(net) => Some(net.addr()),
            Self::Tunnel(id, tunnel) => {
                let own = tunnel
                    .address
                    .or_else(|| Some(tunnel.cidrs.first()?.addr()));
                own.or(tunnel.private_address).or_else(|| {
                    let site = input.fleet.sites.values();
                    let mut site = site.filter(|site| site.gateways.contains(id));
                    Some(site.next()?.cidrs.first()?.addr())
                })
            }
            Self::Site(vpc) => {
                let site = input.fleet.sites.get(&SiteId::Vpc((*vpc).clone()))?;
                Some(site.cidrs.first()?.addr())
            }
            Self::HubVpc => Some(input.hub_cidrs.first()?.addr()),
        }
    }
}

fn instance(id: &TunnelId) -> Option<&str> {
    match id {
        TunnelId::Site(_) => None,
        TunnelId::Spoke(_, instance) => Some(instance.as_str()),
    }
}

fn unknown(input: &WhyInput<'_>, text: &str) -> WhyAnswer {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for (id, tunnel) in &input.fleet.tunnels {
        names.insert(&tunnel.name);
        names.extend(instance(id));
        names.extend(tunnel.vpc.as_ref().map(VpcId::as_str));
    }
    let near = near::matches(text, names);
    let mut sentences = vec![match near.is_empty() {
        true => format!("Nothing here is called `{text}`, and it is no address or CIDR."),
        false => format!(
            "Nothing here is called `{text}`. Is it {}?",
            near.join(" or ")
        ),
    }];
    if text.starts_with("i-") || text.starts_with("vpc-") {
        sentences.push(
            "If it is an instance, EC2 does not list it as running with the tags of [discovery] in \
             any region that is polled."
                .to_owned(),
        );
    }
    sentences.extend(ignorance(input));
    answer(false, sentences)
}

/// What may not be known, because partitions fail.
fn ignorance(input: &WhyInput<'_>) -> Vec<String> {
    let failing = input.inventory.partitions.iter();
    failing
        .filter_map(|(partition, view)| {
            let (since, error) = (view.failing_since?, view.error.as_deref()?);
            Some(format!(
                "What is new in {partition} is not known here: EC2 gives no complete answer for it \
                 since {since:.0} ({error})."
            ))
        })
        .collect()
}

fn addresses(input: &WhyInput<'_>, net: &IpNet) -> WhyAnswer {
    let what = if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    };
    if let Some(own) = input.hub_cidrs.iter().find(|own| own.contains(net)) {
        return answer(
            true,
            vec![format!(
                "{what} is in the hub's own VPC ({own}): it is reached without a tunnel."
            )],
        );
    }
    if !input.privnet.contains(net) {
        return answer(
            false,
            vec![format!(
                "{what} is not inside the privnet ({}), so no tunnel carries it.",
                input.privnet
            )],
        );
    }
    if let Some((cidr, id, planned)) = carrier(input.fleet, net) {
        let through = tunnel(input, id, planned);
        let here = format!("{what} is in {cidr}, which {} has.", site_name(id, planned));
        return WhyAnswer {
            connected: through.connected,
            text: format!("{here} {}", through.text),
        };
    }
    let mut sentences = Vec::new();
    let inside: Vec<String> = input
        .fleet
        .tunnels
        .values()
        .flat_map(|tunnel| tunnel.cidrs.iter().map(move |cidr| (cidr, tunnel)))
        .filter(|(cidr, _)| net.contains(*cidr))
        .map(|(cidr, tunnel)| format!("{cidr} goes through {}", tunnel.name))
        .collect();
    if inside.is_empty() {
        sentences.push(format!("No tunnel carries {what}."));
    } else {
        sentences.push(format!("Of {what}, {}.", inside.join(", ")));
    }
    sentences.extend(wants(input, net));
    if sentences.len() == 1 && inside.is_empty() {
        sentences
            .push("No VPC with a spoke has it, and no [[site]] of the config does.".to_owned());
    }
    sentences.extend(ignorance(input));
    answer(false, sentences)
}

/// Who would carry some of this, and what keeps them from it.
fn wants(input: &WhyInput<'_>, net: &IpNet) -> Vec<String> {
    let mut sentences = Vec::new();
    let touches = |cidr: &IpNet| cidr.contains(net) || net.contains(cidr);
    for (id, planned) in &input.fleet.tunnels {
        for excluded in &planned.excluded {
            let elsewhere = matches!(excluded.why, Exclusion::CarriedBy { .. });
            if touches(&excluded.cidr) && !elsewhere {
                sentences.push(format!(
                    "{} of {} is left out: it {}.",
                    excluded.cidr,
                    site_name(id, planned),
                    excluded_because(&excluded.why)
                ));
            }
        }
        let Some(obstacle) = &planned.obstacle else {
            continue;
        };
        let record = record(input.inventory, id);
        let own = record.and_then(|record| record.cidrs.iter().find(|cidr| touches(cidr)));
        if let (Some(cidr), true) = (own, planned.excluded.is_empty()) {
            sentences.push(format!(
                "{} would carry {cidr}, but has no tunnel: {}.",
                planned.name,
                obstacle.reason()
            ));
        }
    }
    sentences
}

fn excluded_because(why: &Exclusion) -> String {
    match why {
        Exclusion::OutsidePrivnet => "is outside the privnet".to_owned(),
        Exclusion::OverlapsHubVpc { .. }
        | Exclusion::OverlapsSite { .. }
        | Exclusion::CarriedBy { .. } => why.to_string(),
    }
}

/// The tunnel whose CIDR is the longest that holds all of this.
fn carrier<'a>(fleet: &'a Fleet, net: &IpNet) -> Option<(IpNet, &'a TunnelId, &'a PlannedTunnel)> {
    let tunnels = fleet.tunnels.iter();
    tunnels
        .flat_map(|(id, tunnel)| {
            let own = tunnel.address.map(IpNet::from);
            let cidrs = tunnel.cidrs.iter().copied().chain(own);
            cidrs.map(move |cidr| (cidr, id, tunnel))
        })
        .filter(|(cidr, ..)| cidr.contains(net))
        .max_by_key(|(cidr, ..)| cidr.prefix_len())
}

fn tunnel(input: &WhyInput<'_>, id: &TunnelId, planned: &PlannedTunnel) -> WhyAnswer {
    let state = input.status.tunnels.iter().find(|tunnel| match id {
        TunnelId::Site(name) => tunnel.instance.is_none() && tunnel.name == *name,
        TunnelId::Spoke(_, instance) => tunnel.instance.as_ref() == Some(instance),
    });
    let mut sentences = vec![introduce(id, planned)];
    let up = state.is_some_and(|tunnel| tunnel.state == TunnelState::Up);
    sentences.push(match state {
        Some(tunnel) => condition(tunnel, input),
        None => "Its state is not known yet.".to_owned(),
    });
    if planned.obstacle.is_none() {
        sentences.push(carries(planned));
    }
    for excluded in &planned.excluded {
        if !matches!(excluded.why, Exclusion::CarriedBy { .. }) {
            let why = excluded_because(&excluded.why);
            sentences.push(format!("{} is left out: it {why}.", excluded.cidr));
        }
    }
    sentences.extend(planned.notes.iter().map(|note| {
        let note = note.to_string();
        let mut letters = note.chars();
        let first = letters.next().map(|first| first.to_uppercase().to_string());
        format!("{}{}.", first.unwrap_or_default(), letters.as_str())
    }));
    sentences.extend(knowledge(input, id));
    answer(up && planned.obstacle.is_none(), sentences)
}

fn introduce(id: &TunnelId, planned: &PlannedTunnel) -> String {
    match id {
        TunnelId::Site(name) => format!("{name} is a [[site]] of the config."),
        TunnelId::Spoke(partition, instance) => {
            let vpc = planned.vpc.as_ref().map_or("no VPC", VpcId::as_str);
            let name = &planned.name;
            format!("{name} is the spoke {instance} of {vpc} in {partition}.")
        }
    }
}

fn condition(tunnel: &Tunnel, input: &WhyInput<'_>) -> String {
    let reason = tunnel.reason.as_ref();
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    let age = tunnel.last_handshake.map_or_else(String::new, |at| {
        let seconds = input.status.now.duration_since(at).as_secs().max(0);
        format!(" (last handshake {seconds} s ago)")
    });
    let kind = match tunnel.transport {
        Transport::Ipsec => "IPsec tunnel",
        Transport::Wireguard | Transport::None => "tunnel",
    };
    let mut text = format!("Its {kind} is {}{reason}{age}.", tunnel.state);
    let agreed = tunnel
        .ipsec
        .as_ref()
        .filter(|it| !it.remote_selectors.is_empty());
    if let Some(ipsec) = agreed {
        text.push_str(&format!(
            " Agreed selectors: {} here, {} there.",
            ipsec.local_selectors.join(", "),
            ipsec.remote_selectors.join(", ")
        ));
    }
    text
}

fn carries(planned: &PlannedTunnel) -> String {
    if planned.is_standby() {
        let mut carriers: Vec<&str> = planned
            .excluded
            .iter()
            .filter_map(|excluded| match &excluded.why {
                Exclusion::CarriedBy { tunnel } => Some(tunnel.as_str()),
                Exclusion::OutsidePrivnet
                | Exclusion::OverlapsHubVpc { .. }
                | Exclusion::OverlapsSite { .. } => None,
            })
            .collect();
        carriers.dedup();
        return format!("It stands by: {} carries its site.", carriers.join(" and "));
    }
    format!("It carries {}.", list(&planned.cidrs))
}

/// How old what is known of a spoke is, when its partition fails.
fn knowledge(input: &WhyInput<'_>, id: &TunnelId) -> Option<String> {
    let TunnelId::Spoke(partition, _) = id else {
        return None;
    };
    let PartitionView {
        answered_at, error, ..
    } = input.inventory.partitions.get(partition)?;
    let error = error.as_deref()?;
    let answered = answered_at.map_or_else(
        || "never".to_owned(),
        |at| format!("at {at:.0} for the last time"),
    );
    Some(format!(
        "EC2 answered for {partition} {answered}; since then: {error}."
    ))
}

fn site(input: &WhyInput<'_>, vpc: &VpcId) -> WhyAnswer {
    let tunnels = input.fleet.tunnels.iter();
    let own = tunnels.filter(|(_, tunnel)| tunnel.vpc.as_ref() == Some(vpc));
    let parts: Vec<WhyAnswer> = own
        .map(|(id, planned)| tunnel(input, id, planned))
        .collect();
    let connected = parts.iter().any(|part| part.connected);
    let mut sentences: Vec<String> = Vec::new();
    if let Some(planned) = input.fleet.sites.get(&SiteId::Vpc(vpc.clone())) {
        let cidrs: Vec<IpNet> = planned.cidrs.iter().copied().collect();
        let gateways = planned.gateways.len();
        let plural = if gateways == 1 { "" } else { "s" };
        sentences.push(format!(
            "{vpc} is a site with {gateways} gateway{plural}, and has {}.",
            list(&cidrs)
        ));
    } else {
        sentences.push(format!("{vpc} has no tunnel."));
    }
    sentences.extend(parts.into_iter().map(|part| part.text));
    answer(connected, sentences)
}

/// Whether the first may talk to the second, and by which way.
fn way(input: &WhyInput<'_>, from: &Subject<'_>, to: &Subject<'_>) -> WhyAnswer {
    let (Some(a), Some(b)) = (from.address(input), to.address(input)) else {
        let ends = [from, to].map(|end| end.explain(input));
        let lost = ends.into_iter().filter(|end| !end.connected);
        return answer(false, lost.map(|end| end.text).collect());
    };
    let [first, second] = [a, b].map(|address| Place::of(input, address));
    if first == second && first != Place::Nowhere {
        return answer(
            true,
            vec![format!(
                "{a} and {b} are both in {}: what they say to each other does not come through \
                 the hub.",
                first.name(input)
            )],
        );
    }
    let decision = input.policy.decide(a, b);
    let rule = decision.rule.as_ref();
    let mut sentences = Vec::new();
    let allowed = match (decision.verdict, rule) {
        (Verdict::Deny(_), Some((number, text))) => {
            sentences.push(format!(
                "The policy forbids traffic between {a} and {b}: rule {} of [[policy]] is the \
                 first that fits ({text}).",
                number + 1
            ));
            false
        }
        (Verdict::Deny(number), None) => {
            sentences.push(format!("Rule {} of [[policy]] forbids it.", number + 1));
            false
        }
        (Verdict::Allow, Some((number, text))) => {
            sentences.push(format!(
                "Rule {} of [[policy]] allows it ({text}).",
                number + 1
            ));
            true
        }
        (Verdict::Allow, None) => {
            sentences.push("No rule of [[policy]] stands against it.".to_owned());
            true
        }
    };
    let hops: Vec<String> = [first.name(input), "the hub".to_owned(), second.name(input)]
        .into_iter()
        .filter(|hop| !hop.is_empty())
        .collect();
    let ends = [a, b].map(|address| addresses(input, &address.into()));
    let connected = ends.iter().all(|end| end.connected);
    if connected {
        sentences.push(format!("The way is {a}, {}, {b}.", hops.join(", ")));
    }
    let shown = ends.into_iter().filter(|end| connected || !end.connected);
    sentences.extend(shown.map(|end| end.text));
    answer(allowed && connected, sentences)
}

/// Where an address is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place<'a> {
    HubVpc,
    Site(&'a SiteId),
    Nowhere,
}

impl<'a> Place<'a> {
    fn of(input: &WhyInput<'a>, address: IpAddr) -> Self {
        if input.hub_cidrs.iter().any(|cidr| cidr.contains(&address)) {
            return Self::HubVpc;
        }
        let mut sites = input.fleet.sites.iter();
        let site = sites.find(|(_, site)| site.cidrs.iter().any(|cidr| cidr.contains(&address)));
        site.map_or(Self::Nowhere, |(id, _)| Self::Site(id))
    }

    fn name(self, input: &WhyInput<'_>) -> String {
        match self {
            Self::HubVpc => format!("the hub's VPC {}", input.hub_vpc),
            Self::Site(id) => id.as_str().to_owned(),
            Self::Nowhere => String::new(),
        }
    }
}

fn site_name(id: &TunnelId, planned: &PlannedTunnel) -> String {
    match (id, &planned.vpc) {
        (TunnelId::Site(name), _) => name.clone(),
        (TunnelId::Spoke(..), Some(vpc)) => vpc.to_string(),
        (TunnelId::Spoke(_, instance), None) => instance.to_string(),
    }
}

fn record<'a>(inventory: &'a Inventory, id: &TunnelId) -> Option<&'a SpokeRecord> {
    match id {
        TunnelId::Site(_) => None,
        TunnelId::Spoke(partition, instance) => {
            inventory.partitions.get(partition)?.spokes.get(instance)
        }
    }
}

fn list(cidrs: &[IpNet]) -> String {
    let texts: Vec<String> = cidrs.iter().map(IpNet::to_string).collect();
    texts.join(", ")
}

fn answer(connected: bool, sentences: Vec<String>) -> WhyAnswer {
    WhyAnswer {
        connected,
        text: sentences.join(" "),
    }
}

#[cfg(test)]
mod tests;
