//! A daemon's status as metrics, in Prometheus' text format.
//!
//! A pure function of the status: nothing is kept from one scrape to the next,
//! and whoever scrapes costs what `tunnels list` costs. No label holds what
//! changes without the tunnel changing (endpoints roam, errors vary), so that
//! there is one series per tunnel and figure for as long as the tunnel exists.

use jiff::Timestamp;
use privnet_dataplane::Counter;
use privnet_model::config::spoke::RemedyKind;
use privnet_model::inventory::Transport;
use privnet_model::offload::OffloadState;
use privnet_model::status::{
    CharonStatus, ConnectionUse, DestinationUse, EspStatus, FlowtableState, GatewayHealth,
    GatewayRole, GatewayStatus, InterfaceStatus, NatStatus, Note, Origin, PartitionStatus,
    RemedyStatus, Role, RoutesStatus, Status, Tunnel, TunnelState,
};
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};

/// The content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A name comes from a tag of up to 256 characters that others write; an
/// instance's id beside it tells apart what is cut to the same.
const LABEL_CHARS: usize = 64;

/// The metrics of a daemon in this state.
///
/// # Errors
/// None is known: every family has a name and a sample, and a string takes all
/// that is written.
pub fn render(status: &Status) -> Result<String, prometheus::Error> {
    let mut page = Page::default();
    daemon(&mut page, status);
    tunnels(&mut page, status);
    if let Some(interface) = &status.interface {
        dataplane(&mut page, interface);
    }
    if let Some(charon) = &status.charon {
        strongswan(&mut page, charon);
    }
    discovery(&mut page, &status.partitions);
    if status.role == Role::Hub {
        fleet(&mut page, status);
    }
    if let Some(served) = &status.routes {
        routes(&mut page, status, served);
    }
    prometheus::TextEncoder::new().encode_to_string(&page.families)
}

fn daemon(page: &mut Page, status: &Status) {
    let build = [
        ("program", status.role.program()),
        ("version", &status.version),
    ];
    page.gauge(
        "privnet_build_info",
        "The daemon and its version; always 1.",
        [(labels(build), 1.0)],
    );
    page.gauge(
        "privnet_start_time_seconds",
        "When the daemon started, in seconds since 1970.",
        [(Vec::new(), seconds(status.started))],
    );
    page.gauge(
        "privnet_problems",
        "How many things are wrong with the daemon itself; `tunnels list` tells them.",
        [(Vec::new(), number(status.problems.len() as u64))],
    );
    page.gauge(
        "privnet_nat_up",
        "Whether the NAT rules are in place.",
        status.nat.as_ref().map(|nat| {
            let interface = labels([("interface", nat.interface.as_str())]);
            (interface, truth(nat.active))
        }),
    );
    if let Some(nat) = &status.nat {
        connections(page, nat);
    }
}

/// The kernel's connection table, which NAT rests on.
fn connections(page: &mut Page, nat: &NatStatus) {
    let whole = |value: fn(ConnectionUse) -> u64| {
        let value = nat.connections.map(value);
        value.map(|value| (Vec::new(), number(value)))
    };
    page.gauge(
        "privnet_nat_flowtable",
        "Whether established connections take the kernel's short cut; `tunnels show` tells why not.",
        [(Vec::new(), truth(nat.flowtable == FlowtableState::On))],
    );
    page.gauge(
        "privnet_nat_connections",
        "How many connections the kernel remembers.",
        whole(|connections| connections.tracked),
    );
    page.gauge(
        "privnet_nat_connections_limit",
        "How many connections the kernel can remember.",
        whole(|connections| connections.limit),
    );
    page.counter(
        "privnet_nat_dropped_packets_total",
        "Packets dropped because the connection table was full, or a place in it taken.",
        whole(|connections| connections.dropped),
    );
    page.counter(
        "privnet_nat_failed_connections_total",
        "New connections whose source port was taken: the ports towards a destination are used up.",
        whole(|connections| connections.insert_failed),
    );
    page.counter(
        "privnet_nat_evicted_connections_total",
        "Connections forgotten early because the connection table was full.",
        whole(|connections| connections.early_dropped),
    );
    // Without the destination: there would be ever new ones. `tunnels show` has them.
    let busiest = |value: fn(&DestinationUse) -> u64| {
        let busiest = nat.destinations.first();
        busiest.map(|one| (Vec::new(), number(value(one))))
    };
    page.gauge(
        "privnet_nat_busiest_destination_connections",
        "Connections to the destination whose source ports are used up most.",
        busiest(|one| one.connections),
    );
    page.gauge(
        "privnet_nat_destination_ports",
        "How many source ports there are for them.",
        busiest(|one| one.ports),
    );
}

fn tunnels(page: &mut Page, status: &Status) {
    // A NAT gateway has no tunnel, and is not meant to.
    let tunnels: Vec<&Tunnel> = status
        .tunnels
        .iter()
        .filter(|tunnel| tunnel.transport != Transport::None)
        .collect();
    let each = |value: fn(&Tunnel) -> Option<f64>| {
        let samples = tunnels.iter();
        samples.filter_map(move |tunnel| Some((tunnel_labels(tunnel), value(tunnel)?)))
    };
    page.gauge(
        "privnet_tunnels",
        "How many tunnels are in each state.",
        TunnelState::ALL.map(|state| {
            let those = tunnels.iter().filter(|tunnel| tunnel.state == state);
            (
                labels([("state", state.as_str())]),
                number(those.count() as u64),
            )
        }),
    );
    page.gauge(
        "privnet_tunnel_info",
        "Where each tunnel leads; always 1.",
        tunnels.iter().map(|tunnel| (info_labels(tunnel), 1.0)),
    );
    page.gauge(
        "privnet_tunnel_up",
        "Whether packets can go through: WireGuard needs a handshake within the last three \
         minutes, IPsec a child SA.",
        each(|tunnel| Some(truth(tunnel.state == TunnelState::Up))),
    );
    page.gauge(
        "privnet_tunnel_last_handshake_timestamp_seconds",
        "When the last handshake completed, or the newest child SA of IPsec was installed, in \
         seconds since 1970.",
        each(|tunnel| tunnel.last_handshake.map(seconds)),
    );
    page.counter(
        "privnet_tunnel_received_bytes_total",
        "Bytes received through the tunnel, with WireGuard's overhead and without IPsec's.",
        each(|tunnel| Some(number(tunnel.rx_bytes))),
    );
    page.counter(
        "privnet_tunnel_sent_bytes_total",
        "Bytes sent through the tunnel, with WireGuard's overhead and without IPsec's.",
        each(|tunnel| Some(number(tunnel.tx_bytes))),
    );
}

fn dataplane(page: &mut Page, interface: &InterfaceStatus) {
    page.gauge(
        "privnet_offload",
        "Whether each offload is in use; `tunnels show` tells why not.",
        interface.offloads.iter().map(|(offload, state)| {
            let on = *state == OffloadState::On;
            (labels([("name", offload.as_str())]), truth(on))
        }),
    );
    page.counter(
        "privnet_dataplane_packets_dropped_total",
        "Packets and messages that the data plane dropped, by reason.",
        interface.drops.iter().map(|(reason, count)| {
            let reason = labels([("reason", reason.as_str())]);
            (reason, number(*count))
        }),
    );
    for counter in Counter::ALL {
        page.counter(
            &format!("privnet_dataplane_{}_total", counter.name()),
            counter.help(),
            interface
                .counters
                .get(counter.name())
                .map(|count| (Vec::new(), number(*count))),
        );
    }
}

fn strongswan(page: &mut Page, charon: &CharonStatus) {
    page.gauge(
        "privnet_strongswan_up",
        "Whether strongSwan can be used; `tunnels show` tells why not.",
        [(
            Vec::new(),
            truth(charon.problem.is_none() && charon.version.is_some()),
        )],
    );
    let esp = match charon.esp {
        Some(EspStatus::Kernel) => "kernel",
        Some(EspStatus::Userspace) => "userspace",
        None => "",
    };
    let version = charon.version.as_deref();
    page.gauge(
        "privnet_strongswan_info",
        "strongSwan's program and version, and who does ESP; always 1.",
        version.map(|version| (labels([("version", version), ("esp", esp)]), 1.0)),
    );
}

fn discovery(page: &mut Page, partitions: &[PartitionStatus]) {
    let each = |value: fn(&PartitionStatus) -> Option<f64>| {
        partitions.iter().filter_map(move |view| {
            let partition = labels([
                ("account", view.partition.account.as_str()),
                ("region", view.partition.region.as_str()),
            ]);
            Some((partition, value(view)?))
        })
    };
    page.gauge(
        "privnet_discovery_last_success_timestamp_seconds",
        "When EC2 last gave a complete answer, in seconds since 1970.",
        each(|view| view.answered_at.map(seconds)),
    );
    page.gauge(
        "privnet_discovery_spokes",
        "How many spokes that answer held.",
        each(|view| Some(number(view.spokes as u64))),
    );
    page.counter(
        "privnet_discovery_polls_total",
        "How often EC2 was asked, whatever came of it.",
        each(|view| Some(number(view.polls))),
    );
    page.counter(
        "privnet_discovery_failures_total",
        "How often EC2 was asked and gave no complete answer.",
        each(|view| Some(number(view.failures))),
    );
    page.gauge(
        "privnet_discovery_last_poll_api_calls",
        "API requests of the last poll, retries included.",
        each(|view| Some(f64::from(view.calls))),
    );
}

/// What only a spoke has to tell that serves VPC routes.
fn routes(page: &mut Page, status: &Status, routes: &RoutesStatus) {
    let one = |value| [(Vec::new(), value)];
    page.gauge(
        "privnet_self_test_passed",
        "Whether the spoke's own self-test passes: only then it serves VPC routes.",
        one(truth(routes.sick.is_none())),
    );
    let led = routes.routes.iter();
    let here = led.filter(|route| route.spoke == status.instance).count();
    page.gauge(
        "privnet_vpc_routes",
        "How many routes of the VPC lead to this spoke.",
        one(number(here as u64)),
    );
    let missing = routes.routes.iter();
    let missing = missing.filter(|route| route.home && route.spoke != status.instance);
    page.gauge(
        "privnet_vpc_routes_away",
        "How many routes of its home tables lead to another spoke.",
        one(number(missing.count() as u64)),
    );
    let well = routes.siblings.iter().filter(|one| one.state == "well");
    page.gauge(
        "privnet_siblings_well",
        "How many other spokes of the VPC say that they are well.",
        one(number(well.count() as u64)),
    );
    page.counter(
        "privnet_vpc_routes_moved_total",
        "Routes that this spoke created, took over, took back or handed over.",
        one(number(routes.moved)),
    );
    page.counter(
        "privnet_vpc_routes_taken_over_total",
        "Those of them that it took over from a spoke that was lost or sick.",
        one(number(routes.taken_over)),
    );
    page.counter(
        "privnet_takeover_seconds_total",
        "How long that took in all: of each route from when its spoke was last known to be well.",
        one(routes.takeover_time.as_secs_f64()),
    );
    page.gauge(
        "privnet_takeover_last_seconds",
        "How long the last takeover of a route took.",
        routes
            .last_takeover
            .map(|took| (Vec::new(), took.as_secs_f64())),
    );
    if let Some(remedy) = &routes.remedy {
        remedies(page, remedy);
    }
    let Some(address) = &routes.address else {
        return;
    };
    page.gauge(
        "privnet_address_held",
        "Whether the Elastic IP that the config names, or one of its pool, is here.",
        one(truth(address.address.is_some())),
    );
    page.gauge(
        "privnet_address_problem",
        "Whether something keeps this spoke from having its Elastic IP, or from giving it away.",
        one(truth(address.problem.is_some())),
    );
    page.counter(
        "privnet_addresses_moved_total",
        "Elastic IPs that this spoke took, or gave away.",
        one(number(address.moved)),
    );
    let Some(connections) = &address.connections else {
        return;
    };
    page.gauge(
        "privnet_address_connections_told",
        "Connections through the Elastic IP of which this spoke's siblings are told.",
        one(number(connections.told)),
    );
    let kept = connections.kept.iter().map(|kept| {
        let sibling = labels([("sibling", kept.sibling.as_str())]);
        (sibling, number(kept.connections))
    });
    page.gauge(
        "privnet_address_connections_kept",
        "Connections of which a sibling told, to be taken over with the Elastic IP.",
        kept,
    );
    page.counter(
        "privnet_address_connections_taken_over_total",
        "Connections that this spoke took over with the Elastic IP.",
        one(number(connections.taken_over)),
    );
    page.counter(
        "privnet_address_connections_refused_total",
        "Those that it could not: their port was another's, or the table full.",
        one(number(connections.refused)),
    );
}

/// What a spoke did about siblings that stay lost.
fn remedies(page: &mut Page, remedy: &RemedyStatus) {
    let kinds = [
        (RemedyKind::Restart, remedy.restarted),
        (RemedyKind::Unhealthy, remedy.reported),
    ];
    let done = kinds.map(|(kind, count)| {
        let kind = kind.to_string();
        (labels([("kind", kind.as_str())]), number(count))
    });
    page.counter(
        "privnet_remedies_total",
        "Siblings that stayed lost and that this spoke restarted, or reported as unhealthy.",
        done,
    );
    page.counter(
        "privnet_remedies_failed_total",
        "How often that was refused, or has no known end.",
        [(Vec::new(), number(remedy.failed))],
    );
}

/// What only a hub has to tell: what it keeps back, and who may talk.
fn fleet(page: &mut Page, status: &Status) {
    let noted = |is_it: fn(&Note) -> bool| {
        let notes = status.tunnels.iter().flat_map(|tunnel| &tunnel.notes);
        [(
            Vec::new(),
            number(notes.filter(|note| is_it(note)).count() as u64),
        )]
    };
    let held = status.held_removals.map_or(0, |held| held.count);
    page.gauge(
        "privnet_held_removals",
        "How many tunnels are kept though EC2 no longer names their spokes, because too many \
         would go at once; `tunnels refresh --accept-removals` lets them go.",
        [(Vec::new(), number(held as u64))],
    );
    page.gauge(
        "privnet_absent_spokes",
        "How many spokes EC2 no longer names whose tunnels are kept for now.",
        noted(|note| matches!(note, Note::Absent { .. })),
    );
    page.gauge(
        "privnet_quarantined_keys",
        "How many spokes published another key that is not used while their first one is.",
        noted(|note| matches!(note, Note::KeyQuarantined { .. })),
    );
    page.counter(
        "privnet_policy_denied_packets_total",
        "Packets that each rule of the policy denied, by its number from 1.",
        status.policy.iter().zip(1..).map(|(rule, position)| {
            let position: u16 = position;
            let rule_label = labels([("rule", position.to_string().as_str())]);
            (rule_label, number(rule.denied))
        }),
    );
    let gateways = |value: fn(GatewayStatus) -> Option<f64>| {
        let samples = status.tunnels.iter();
        samples.filter_map(move |tunnel| Some((tunnel_labels(tunnel), value(tunnel.gateway?)?)))
    };
    page.gauge(
        "privnet_gateway_active",
        "Whether the tunnel carries its site's CIDRs, where the site has several gateways.",
        gateways(|gateway| Some(truth(gateway.role == GatewayRole::Active))),
    );
    page.gauge(
        "privnet_gateway_healthy",
        "Whether the gateway answers probes through its tunnel.",
        gateways(|gateway| match gateway.health {
            GatewayHealth::Unknown => None,
            GatewayHealth::Healthy => Some(1.0),
            GatewayHealth::Down | GatewayHealth::Recovering => Some(0.0),
        }),
    );
    page.counter(
        "privnet_gateway_failovers_total",
        "How often its site's CIDRs were taken from a gateway because it did not answer.",
        gateways(|gateway| Some(number(gateway.failovers))),
    );
}

/// What names a tunnel. Sites have unique names and no instance; of instances,
/// the id is unique.
fn tunnel_labels(tunnel: &Tunnel) -> Vec<LabelPair> {
    let instance = tunnel.instance.as_ref();
    labels([
        ("tunnel", tunnel.name.as_str()),
        // Prometheus itself has a label `instance`: whom it scrapes.
        ("instance_id", instance.map_or("", |id| id.as_str())),
    ])
}

fn info_labels(tunnel: &Tunnel) -> Vec<LabelPair> {
    let origin = match tunnel.origin {
        Origin::Discovered => "discovered",
        Origin::Static => "static",
        Origin::Hub => "hub",
    };
    let transport = tunnel.transport.to_string();
    let more = labels([
        ("origin", origin),
        ("transport", transport.as_str()),
        (
            "account",
            tunnel.account.as_ref().map_or("", |it| it.as_str()),
        ),
        (
            "region",
            tunnel.region.as_ref().map_or("", |it| it.as_str()),
        ),
        ("zone", tunnel.zone.as_ref().map_or("", |it| it.as_str())),
        ("vpc", tunnel.vpc.as_ref().map_or("", |it| it.as_str())),
    ]);
    let mut labels = tunnel_labels(tunnel);
    labels.extend(more);
    labels
}

/// The families so far.
#[derive(Default)]
struct Page {
    families: Vec<MetricFamily>,
}

type Sample = (Vec<LabelPair>, f64);

impl Page {
    fn gauge(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample>) {
        let samples = samples.into_iter().map(|(labels, value)| {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            let mut metric = Metric::from_label(labels);
            metric.set_gauge(gauge);
            metric
        });
        self.family(name, help, MetricType::GAUGE, samples.collect());
    }

    fn counter(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample>) {
        let samples = samples.into_iter().map(|(labels, value)| {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            let mut metric = Metric::from_label(labels);
            metric.set_counter(counter);
            metric
        });
        self.family(name, help, MetricType::COUNTER, samples.collect());
    }

    /// A family without samples is left out: the encoder takes it for an error.
    fn family(&mut self, name: &str, help: &str, kind: MetricType, samples: Vec<Metric>) {
        if samples.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(samples);
        self.families.push(family);
    }
}

/// Labels; an empty value says the same as no label, and is left out.
fn labels<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<LabelPair> {
    let pairs = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    pairs
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(bounded(value));
            pair
        })
        .collect()
}

/// At most [`LABEL_CHARS`], without what a terminal would obey.
fn bounded(value: &str) -> String {
    value
        .chars()
        .take(LABEL_CHARS)
        .map(|char| match char.is_control() {
            true => char::REPLACEMENT_CHARACTER,
            false => char,
        })
        .collect()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus has no other numbers"
)]
fn number(count: u64) -> f64 {
    count as f64
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn seconds(time: Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}

#[cfg(test)]
mod tests;
