//! `tunnels show NAME`: every fact of one tunnel. Without a name: every fact of
//! the tunnel interface.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use privnet_model::inventory::Transport;
use privnet_model::offload::OffloadReport;
use privnet_model::status::{
    AddressStatus, CharonStatus, ConnectionUse, ConnectionsStatus, DestinationUse, GatewayStatus,
    InterfaceStatus, IpsecStatus, NatStatus, Origin, PartitionStatus, RoutesStatus, RuleStatus,
    SiblingRemedy, Status, Tunnel,
};
use serde::Serialize;

use crate::arguments::ShowOptions;
use crate::escape::{escape, escape_json};
use crate::exit::{Failure, Outcome};
use crate::output::Output;
use crate::table::state_style;
use crate::{connection, filter, units};

/// Prints the one tunnel that goes by the name, or the interface.
pub(crate) async fn run(
    socket: Option<&Path>,
    options: &ShowOptions,
    output: &Output,
) -> Result<Outcome, Failure> {
    let (_, status) = connection::open(socket).await?;
    let Some(name) = &options.name else {
        let shown = Whole::of(&status)?;
        let text = match options.json {
            true => json(&shown)?,
            false => render_interface(&shown, status.now),
        };
        output.print(&text)?;
        return Ok(Outcome::Done);
    };
    let shown = Shown::of(find(&status.tunnels, name)?, &status);
    let text = match options.json {
        true => json(&shown)?,
        false => render(&shown, status.now),
    };
    output.print(&text)?;
    Ok(if options.check && !filter::is_well(shown.tunnel) {
        Outcome::NotUp
    } else {
        Outcome::Done
    })
}

fn json(value: &impl Serialize) -> Result<String, Failure> {
    Ok(escape_json(&serde_json::to_string_pretty(value)?) + "\n")
}

/// A tunnel, with the interface that carries it.
#[derive(Debug, Clone, Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    tunnel: &'a Tunnel,
    /// `None` where none carries it.
    interface: Option<&'a InterfaceStatus>,
}

impl<'a> Shown<'a> {
    fn of(tunnel: &'a Tunnel, status: &'a Status) -> Self {
        let carried = tunnel.transport == Transport::Wireguard;
        let interface = status.interface.as_ref().filter(|_| carried);
        Self { tunnel, interface }
    }
}

/// The interface, with what a hub adds for all its tunnels.
#[derive(Debug, Clone, Copy, Serialize)]
struct Whole<'a> {
    /// `None` on an instance that only translates.
    #[serde(flatten)]
    interface: Option<&'a InterfaceStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    charon: Option<&'a CharonStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nat: Option<&'a NatStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    routes: Option<&'a RoutesStatus>,
    policy: &'a [RuleStatus],
    partitions: &'a [PartitionStatus],
}

impl<'a> Whole<'a> {
    fn of(status: &'a Status) -> Result<Self, Failure> {
        let (interface, nat) = (status.interface.as_ref(), status.nat.as_ref());
        if interface.is_none() && nat.is_none() {
            let message = format!(
                "{} has no tunnel interface here, and no NAT: its transport is none",
                status.role.program()
            );
            return Err(Failure::new(Outcome::NoSuchTunnel, message));
        }
        Ok(Self {
            interface,
            charon: status.charon.as_ref(),
            nat,
            routes: status.routes.as_ref(),
            policy: &status.policy,
            partitions: &status.partitions,
        })
    }
}

fn find<'a>(tunnels: &'a [Tunnel], name: &str) -> Result<&'a Tunnel, Failure> {
    let goes_by = |tunnel: &&Tunnel| {
        tunnel.name == name
            || tunnel
                .instance
                .as_ref()
                .is_some_and(|id| id.as_str() == name)
            || tunnel.vpc.as_ref().is_some_and(|id| id.as_str() == name)
    };
    let found: Vec<&Tunnel> = tunnels.iter().filter(goes_by).collect();
    let list = |tunnels: &[&Tunnel]| {
        let lines: Vec<String> = tunnels.iter().map(|tunnel| candidate(tunnel)).collect();
        lines.concat()
    };
    let shown = escape(name);
    match found.as_slice() {
        [tunnel] => Ok(tunnel),
        [] => {
            let alike: Vec<&Tunnel> = tunnels
                .iter()
                .filter(|tunnel| !name.is_empty() && tunnel.name.contains(name))
                .take(10)
                .collect();
            let hint = if alike.is_empty() {
                "; `tunnels list` shows what there is".to_owned()
            } else {
                format!("; did you mean{}", list(&alike))
            };
            let message = format!("no tunnel goes by {shown}{hint}");
            Err(Failure::new(Outcome::NoSuchTunnel, message))
        }
        several => {
            let message = format!(
                "{} tunnels go by {shown}; say which by its instance id:{}",
                several.len(),
                list(several)
            );
            Err(Failure::new(Outcome::NoSuchTunnel, message))
        }
    }
}

fn candidate(tunnel: &Tunnel) -> String {
    let facts = [
        tunnel.instance.as_ref().map(ToString::to_string),
        tunnel.vpc.as_ref().map(ToString::to_string),
        tunnel.region.as_ref().map(ToString::to_string),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    format!("\n  {}  {}", escape(&tunnel.name), facts.join("  "))
}

fn render(shown: &Shown<'_>, now: Timestamp) -> String {
    let Shown { tunnel, interface } = shown;
    let style = state_style(tunnel.state);
    let text = |value: Option<&dyn ToString>| {
        value.map_or_else(Vec::new, |value| {
            vec![escape(&value.to_string()).into_owned()]
        })
    };
    let when = |time: Option<Timestamp>| {
        time.map_or_else(Vec::new, |time| {
            vec![format!("{} ago ({time:.0})", units::age(time, now))]
        })
    };
    let traffic = |total: u64, rate: f64| {
        let (total, rate) = (units::total(total), units::bytes(rate));
        vec![format!("{total}, now {rate}/s")]
    };
    let origin = match tunnel.origin {
        Origin::Discovered => "discovered in EC2",
        Origin::Static => "a site of the config",
        Origin::Hub => "a hub of the config",
    };
    let facts = [
        ("name", text(Some(&tunnel.name))),
        ("state", vec![format!("{style}{}{style:#}", tunnel.state)]),
        (
            "reason",
            text(tunnel.reason.as_ref().map(|reason| reason as _)),
        ),
        ("gateway", tunnel.gateway.map_or_else(Vec::new, gateway)),
        (
            "notes",
            tunnel
                .notes
                .iter()
                .map(|note| escape(&note.to_string()).into_owned())
                .collect(),
        ),
        (
            "handshake",
            tunnel
                .last_handshake
                .map_or_else(|| vec!["never".to_owned()], |time| when(Some(time))),
        ),
        ("received", traffic(tunnel.rx_bytes, tunnel.rx_rate)),
        ("sent", traffic(tunnel.tx_bytes, tunnel.tx_rate)),
        (
            "cidrs",
            tunnel.cidrs.iter().map(ToString::to_string).collect(),
        ),
        (
            "excluded",
            tunnel
                .excluded
                .iter()
                .map(|left_out| {
                    let line = format!("{}: {}", left_out.cidr, left_out.why);
                    escape(&line).into_owned()
                })
                .collect(),
        ),
        ("transport", text(Some(&tunnel.transport))),
        (
            "endpoint",
            text(tunnel.endpoint.as_ref().map(|value| value as _)),
        ),
        (
            "private address",
            text(tunnel.private_address.as_ref().map(|value| value as _)),
        ),
        (
            "public key",
            text(tunnel.public_key.as_ref().map(|value| value as _)),
        ),
        ("origin", vec![origin.to_owned()]),
        (
            "account",
            text(tunnel.account.as_ref().map(|value| value as _)),
        ),
        (
            "region",
            text(tunnel.region.as_ref().map(|value| value as _)),
        ),
        ("zone", text(tunnel.zone.as_ref().map(|value| value as _))),
        ("vpc", text(tunnel.vpc.as_ref().map(|value| value as _))),
        (
            "instance",
            text(tunnel.instance.as_ref().map(|value| value as _)),
        ),
        ("launched", when(tunnel.launched)),
        (
            "interface",
            text(interface.map(|interface| &interface.name as _)),
        ),
        (
            "offloads",
            interface.map_or_else(Vec::new, |interface| offloads(&interface.offloads)),
        ),
    ];
    let ipsec = tunnel.ipsec.as_ref();
    page(
        facts
            .into_iter()
            .chain(ipsec.map_or_else(Vec::new, |it| associations(it, now))),
    )
}

/// An IPsec tunnel's security associations.
fn associations(ipsec: &IpsecStatus, now: Timestamp) -> Vec<(&'static str, Vec<String>)> {
    let text = |text: &Option<String>| -> Vec<String> {
        text.iter().map(|text| escape(text).into_owned()).collect()
    };
    let escaped = |texts: &[String]| texts.iter().map(|text| escape(text).into_owned()).collect();
    let rekey = ipsec.rekey.map(|at| format!("in {}", units::span(now, at)));
    vec![
        ("own identity", text(&ipsec.local_id)),
        ("identity", text(&ipsec.remote_id)),
        ("ike", text(&ipsec.ike)),
        ("esp", text(&ipsec.esp)),
        (
            "nat",
            ipsec
                .behind_nat
                .then(|| "this end is behind one".to_owned())
                .into_iter()
                .collect(),
        ),
        ("selectors here", escaped(&ipsec.local_selectors)),
        ("selectors there", escaped(&ipsec.remote_selectors)),
        ("rekey", rekey.into_iter().collect()),
        (
            "packets",
            vec![format!(
                "{} received, {} sent",
                ipsec.rx_packets, ipsec.tx_packets
            )],
        ),
    ]
}

/// strongSwan.
fn charon(charon: &CharonStatus) -> Vec<(&'static str, Vec<String>)> {
    let program = charon
        .version
        .as_ref()
        .map(|version| escape(version).into_owned());
    let problem = charon.problem.as_ref();
    let problem = problem.map(|problem| format!("NOT usable: {}", escape(problem)));
    let esp = charon.esp.map(|esp| esp.to_string());
    vec![(
        "ipsec",
        program.into_iter().chain(esp).chain(problem).collect(),
    )]
}

fn render_interface(shown: &Whole<'_>, now: Timestamp) -> String {
    let interface = shown.interface.map_or_else(Vec::new, |interface| {
        vec![
            ("interface", vec![escape(&interface.name).into_owned()]),
            ("public key", vec![interface.public_key.to_string()]),
            ("listen port", vec![interface.listen_port.to_string()]),
            ("mtu", vec![interface.mtu.to_string()]),
            ("offloads", offloads(&interface.offloads)),
            ("counted", counts(&interface.counters)),
            ("dropped", counts(&interface.drops)),
        ]
    });
    let polls = shown.partitions.iter().map(|view| polls(view, now));
    let rest = [
        ("policy", rules(shown.policy)),
        ("polls", polls.collect::<Vec<_>>()),
    ];
    let charon = shown.charon.map_or_else(Vec::new, charon);
    let interface = interface.into_iter().chain(charon);
    let nat = shown.nat.map_or_else(Vec::new, nat);
    let routes = shown.routes.map_or_else(Vec::new, routes);
    page(interface.chain(nat).chain(routes).chain(rest))
}

/// The VPC routes: first whether this spoke may serve any.
fn routes(routes: &RoutesStatus) -> Vec<(&'static str, Vec<String>)> {
    let sick = routes.sick.as_ref();
    let well = sick.map_or_else(|| "well".to_owned(), |why| format!("NOT well: {why}"));
    let siblings = routes.siblings.iter();
    let siblings = siblings.map(|one| {
        let refused = one.refused.as_ref();
        let refused = refused.map(|why| format!("; what comes from it does not count: {why}"));
        let refused = refused.unwrap_or_default();
        let tunnel = if one.tunnel_down {
            ", but its tunnel is down"
        } else {
            ""
        };
        let unheard = if one.only_others_hear {
            ", as other spokes hear; it does not answer this one"
        } else {
            ""
        };
        let (instance, state) = (&one.instance, &one.state);
        format!("{instance} {state}{tunnel}{unheard}{refused}")
    });
    let led = routes.routes.iter().map(|route| {
        let spoke = route.spoke.as_ref();
        let spoke = spoke.map_or_else(|| "no spoke".to_owned(), ToString::to_string);
        let home = if route.home { " (home)" } else { "" };
        format!("{} {} to {spoke}{home}", route.table, route.destination)
    });
    let moved = match routes.moved {
        0 => Vec::new(),
        moved => {
            let last = routes.last_takeover;
            let last = last.map(|last| format!(", the last within {:.1} s", last.as_secs_f64()));
            let last = last.unwrap_or_default();
            vec![format!("{moved}, {} taken over{last}", routes.taken_over)]
        }
    };
    let escaped = |text: String| escape(&text).into_owned();
    let remedies = routes.remedy.iter().flat_map(|remedy| &remedy.siblings);
    let remedies = remedies.map(remedy);
    let connections = routes.address.iter();
    let connections = connections.flat_map(|address| &address.connections);
    let connections = connections.map(kept);
    let address = routes.address.iter().map(address);
    vec![
        ("self-test", vec![escaped(well)]),
        ("address", address.map(escaped).collect()),
        ("its connections", connections.collect()),
        ("siblings", siblings.map(escaped).collect()),
        ("routes", led.collect()),
        ("routes moved", moved),
        ("remedies", remedies.map(escaped).collect()),
    ]
}

/// What was done about a sibling that stays lost, and what comes of it.
fn remedy(remedy: &SiblingRemedy) -> String {
    let SiblingRemedy {
        instance,
        tries,
        last,
        state,
    } = remedy;
    match last {
        Some(last) => format!("{instance} {state}; {tries} so far, the last at {last:.0}"),
        None => format!("{instance} {state}"),
    }
}

/// The connections that go along with it.
fn kept(connections: &ConnectionsStatus) -> String {
    let ConnectionsStatus {
        told,
        kept,
        taken_over,
        refused,
    } = connections;
    let heard: u64 = kept.iter().map(|kept| kept.connections).sum();
    format!(
        "{told} here, {heard} known of siblings; {taken_over} taken over, {refused} could not be"
    )
}

/// The Elastic IP, or where it is and why it is not here.
fn address(address: &AddressStatus) -> String {
    if let (Some(here), Some(allocation), Some(since)) =
        (address.address, &address.allocation, address.since)
    {
        return format!("{here} ({allocation}) since {since:.0}");
    }
    let wanted = &address.wanted;
    match (&address.at, &address.problem) {
        (Some(at), None) => format!("none: {wanted} is at {at}"),
        (_, Some(problem)) => format!("none: {problem}"),
        (None, None) => format!("none yet of {wanted}"),
    }
}

fn nat(nat: &NatStatus) -> Vec<(&'static str, Vec<String>)> {
    let escaped = |texts: &[String]| -> Vec<String> {
        let texts = texts.iter();
        texts.map(|text| escape(text).into_owned()).collect()
    };
    let place = match nat.active {
        true => "",
        false => ", NOT in place",
    };
    vec![
        ("nat", vec![format!("on {}{place}", escape(&nat.interface))]),
        (
            "masqueraded",
            nat.sources.iter().map(ToString::to_string).collect(),
        ),
        ("forwards", escaped(&nat.forwards)),
        ("redirects", escaped(&nat.redirects)),
        (
            "flowtable",
            vec![escape(&nat.flowtable.to_string()).into_owned()],
        ),
        (
            "connections",
            nat.connections.map_or_else(Vec::new, connections),
        ),
        (
            "busiest",
            nat.destinations.iter().map(destination).collect(),
        ),
    ]
}

fn destination(one: &DestinationUse) -> String {
    let percent = (one.connections.saturating_mul(100))
        .checked_div(one.ports)
        .unwrap_or(100);
    format!(
        "{} {}: {} connections, {percent} % of the source ports{}",
        one.protocol,
        one.destination,
        one.connections,
        one.from
            .map_or_else(String::new, |from| format!(" of {from}"))
    )
}

/// How full the table is, then what was lost by it, if anything was.
fn connections(connections: ConnectionUse) -> Vec<String> {
    let ConnectionUse {
        tracked,
        limit,
        dropped,
        insert_failed,
        early_dropped,
    } = connections;
    let percent = (tracked.saturating_mul(100))
        .checked_div(limit)
        .unwrap_or(100);
    let lost = [
        (dropped, "packets dropped"),
        (
            insert_failed,
            "connections failed, their source port was taken",
        ),
        (early_dropped, "connections forgotten early"),
    ];
    let lost = lost.into_iter().filter(|(count, _)| *count > 0);
    let lost = lost.map(|(count, what)| format!("{count} {what}"));
    std::iter::once(format!("{tracked} of at most {limit} ({percent} %)"))
        .chain(lost)
        .collect()
}

/// Each rule by its number, as `tunnels why` names it.
fn rules(policy: &[RuleStatus]) -> Vec<String> {
    let rules = policy.iter().zip(1..);
    rules
        .map(|(rule, number)| {
            let denied = match rule.denied {
                0 => String::new(),
                1 => ", 1 packet denied".to_owned(),
                packets => format!(", {packets} packets denied"),
            };
            format!("{number}. {}{denied}", escape(&rule.rule))
        })
        .collect()
}

fn polls(view: &PartitionStatus, now: Timestamp) -> String {
    let answered = match view.answered_at {
        Some(time) => format!("answered {} ago", units::age(time, now)),
        None => "not answered yet".to_owned(),
    };
    let PartitionStatus {
        partition,
        polls,
        failures,
        calls,
        ..
    } = view;
    format!(
        "{partition}: {polls} polls, {failures} failed, {answered}, {calls} API calls the last time"
    )
}

fn gateway(gateway: GatewayStatus) -> Vec<String> {
    let GatewayStatus {
        role,
        health,
        failovers,
    } = gateway;
    let failovers = match failovers {
        0 => String::new(),
        1 => ", lost its site's traffic to another once".to_owned(),
        times => format!(", lost its site's traffic to another {times} times"),
    };
    vec![format!("{role}, {health}{failovers}")]
}

/// Those that are on in one line, then each of the others with its reason.
fn offloads(report: &OffloadReport) -> Vec<String> {
    let on: Vec<&str> = report
        .iter()
        .filter(|(_, state)| state.is_on())
        .map(|(offload, _)| offload.as_str())
        .collect();
    let on = match on.as_slice() {
        [] => "none on".to_owned(),
        on => format!("{} on", on.join(", ")),
    };
    let off = report.iter().filter(|(_, state)| !state.is_on());
    let off = off.map(|(offload, state)| escape(&format!("{offload} {state}")).into_owned());
    std::iter::once(on).chain(off).collect()
}

/// What happened at all.
fn counts(counts: &BTreeMap<String, u64>) -> Vec<String> {
    let lines: Vec<String> = counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{} {count}", escape(name)))
        .collect();
    match lines.is_empty() {
        true => vec!["nothing".to_owned()],
        false => lines,
    }
}

/// One line for each value, with its key before the first.
fn page<'a>(facts: impl IntoIterator<Item = (&'a str, Vec<String>)>) -> String {
    let mut page = String::new();
    for (key, values) in facts {
        for (number, value) in values.iter().enumerate() {
            let key = if number == 0 {
                format!("{key}:")
            } else {
                String::new()
            };
            page += &format!("{key:<17}{value}\n");
        }
    }
    page
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use anstream::adapter::strip_str;
    use privnet_model::offload::{Offload, OffloadObstacle, OffloadState};

    use super::*;
    use crate::fixture;

    #[track_caller]
    fn assert_golden(page: &str, golden: &str) {
        let page = strip_str(page).to_string();
        assert!(page == golden, "expected:\n{golden}\nbut it is:\n{page}");
    }

    fn named<'a>(tunnels: &'a [Tunnel], name: &str) -> &'a Tunnel {
        tunnels.iter().find(|tunnel| tunnel.name == name).unwrap()
    }

    #[test]
    fn the_page_of_a_tunnel() {
        let status = fixture::hub();
        let shown = Shown::of(named(&status.tunnels, "prod-web"), &status);
        assert_golden(&render(&shown, status.now), include_str!("golden/show.txt"));
    }

    #[test]
    fn the_page_of_the_interface() {
        let status = fixture::hub();
        let page = render_interface(&Whole::of(&status).unwrap(), status.now);
        assert_golden(&page, include_str!("golden/show-interface.txt"));
    }

    #[test]
    fn the_page_of_a_gateway_and_of_a_policy() {
        let status = fixture::gateways();
        let shown = Shown::of(named(&status.tunnels, "web-a"), &status);
        let page = render(&shown, status.now);
        assert_golden(&page, include_str!("golden/show-gateway.txt"));
        let page = render_interface(&Whole::of(&status).unwrap(), status.now);
        assert_golden(&page, include_str!("golden/show-policy.txt"));
    }

    #[test]
    fn the_page_of_nat() {
        let status = fixture::nat_gateway();
        let whole = Whole::of(&status).unwrap();
        let page = render_interface(&whole, status.now);
        assert_golden(&page, include_str!("golden/show-nat.txt"));
        let json = json(&whole).unwrap();
        assert!(
            json.contains("\"nat\"") && !json.contains("listen_port"),
            "{json}"
        );
        let mut broken = status.clone();
        if let Some(nat) = &mut broken.nat {
            nat.active = false;
        }
        let page = render_interface(&Whole::of(&broken).unwrap(), status.now);
        assert!(
            page.starts_with("nat:             on ens5, NOT in place\n"),
            "{page}"
        );
    }

    #[test]
    fn where_no_interface_is_nothing_is_told_of_one() {
        let mut status = fixture::hub();
        let gateway = Shown::of(named(&status.tunnels, "nat-hub"), &status);
        assert!(!render(&gateway, status.now).contains("offloads"));
        status.interface = None;
        let tunnel = Shown::of(named(&status.tunnels, "prod-web"), &status);
        assert!(!render(&tunnel, status.now).contains("offloads"));
        let failure = Whole::of(&status).unwrap_err();
        assert_eq!(failure.outcome(), Outcome::NoSuchTunnel);
    }

    #[test]
    fn of_offloads_those_that_are_on_are_named_first() {
        let all = |state: OffloadState| Offload::ALL.map(|offload| (offload, state.clone())).into();
        assert_eq!(
            offloads(&all(OffloadState::On)),
            ["tun_tso, tun_uso, tun_gro, udp_gso, udp_gro on"]
        );
        let off = offloads(&all(OffloadState::Off(OffloadObstacle::Configured)));
        assert_eq!(off.len(), 1 + Offload::ALL.len());
        assert_eq!(
            off[..2],
            ["none on", "tun_tso off: switched off in the config"]
        );
    }

    #[test]
    fn a_tunnel_goes_by_its_name_its_instance_and_its_vpc() {
        let tunnels = fixture::hub().tunnels;
        for name in ["prod-web", "i-0bbbbbbbbbbbbbbb1", "vpc-0aaaaaaaaaaaaaaa1"] {
            assert_eq!(find(&tunnels, name).unwrap().name, "prod-web");
        }
    }

    #[test]
    fn of_several_the_candidates_are_told() {
        let mut tunnels = fixture::hub().tunnels;
        let vpc = tunnels[1].vpc.clone();
        tunnels[2].vpc = vpc;
        let failure = find(&tunnels, "vpc-0aaaaaaaaaaaaaaa1").unwrap_err();
        assert_eq!(failure.outcome(), Outcome::NoSuchTunnel);
        let message = failure.to_string();
        assert!(message.contains("i-0bbbbbbbbbbbbbbb1") && message.contains("i-0bbbbbbbbbbbbbbb2"));
    }

    #[test]
    fn a_name_that_is_nearly_right_gets_a_hint() {
        let tunnels = fixture::hub().tunnels;
        let message = find(&tunnels, "pay").unwrap_err().to_string();
        assert!(
            message.contains("did you mean") && message.contains("payments-2"),
            "{message}"
        );
        let message = find(&tunnels, "\x1b[31m").unwrap_err().to_string();
        assert!(!message.contains('\x1b'), "{message}");
    }

    #[test]
    fn hostile_facts_are_escaped() {
        let mut status = fixture::hub();
        status.tunnels[1].name = "\x1b[2J\nstate: up".to_owned();
        let hostile = "\x1b[2J".to_owned();
        status.policy = vec![RuleStatus {
            rule: hostile.clone(),
            denied: 1,
        }];
        if let Some(interface) = &mut status.interface {
            interface.drops.insert(hostile.clone(), 1);
            let error = hostile.clone();
            let rejected = OffloadState::Off(OffloadObstacle::Rejected { error });
            interface.offloads.insert(Offload::UdpGro, rejected);
        }
        let shown = Shown::of(&status.tunnels[1], &status);
        let page = strip_str(&render(&shown, status.now)).to_string();
        assert!(
            page.starts_with("name:            \\u{1b}[2J\\nstate: up\n"),
            "{page}"
        );
        assert!(page.contains("(\\u{1b}[2J)"), "{page}");
        let page = render_interface(&Whole::of(&status).unwrap(), status.now);
        assert!(!page.contains('\x1b'), "{page}");
    }
}
