//! The page as a whole, and the rules that every page keeps: those of
//! Prometheus' text format and of `promtool check metrics`.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use privnet_model::config::spoke::Protocol;
use privnet_model::inventory::{Fate, HeldRemovals, Partition};
use privnet_model::key::PublicKey;
use privnet_model::net::Supernet;
use privnet_model::offload::{Offload, OffloadObstacle};
use privnet_model::status::{
    AddressStatus, ConnectionsStatus, IpsecStatus, Kept, KeptConnections, Reason, RemedyStatus,
    RouteStatus, RuleStatus, SiblingStatus,
};

use super::*;

fn counts<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    let counts = counts.into_iter();
    counts
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}

fn tunnel(name: &str, number: u8) -> Tunnel {
    Tunnel {
        name: name.to_owned(),
        origin: Origin::Discovered,
        account: Some("111122223333".parse().unwrap()),
        region: Some("eu-west-1".parse().unwrap()),
        zone: Some("eu-west-1a".parse().unwrap()),
        vpc: Some(format!("vpc-0aaaaaaaaaaaaaaa{number}").parse().unwrap()),
        instance: Some(format!("i-0bbbbbbbbbbbbbbb{number}").parse().unwrap()),
        launched: None,
        cidrs: Vec::new(),
        excluded: Vec::new(),
        transport: Transport::Wireguard,
        endpoint: Some("203.0.113.1:51820".parse().unwrap()),
        private_address: None,
        public_key: Some(PublicKey::from_bytes([number; 32])),
        state: TunnelState::Up,
        reason: None,
        gateway: None,
        notes: Vec::new(),
        last_handshake: Some("2026-11-21T04:59:48.5Z".parse().unwrap()),
        rx_bytes: 1_234_567_890_123,
        tx_bytes: 98_765,
        rx_rate: 3_400_000.0,
        tx_rate: 41_000.0,
        ipsec: None,
    }
}

/// One of several gateways of its site, with something to note of it.
fn shared(name: &str, number: u8) -> Tunnel {
    let since = "2026-11-21T04:00:00Z".parse().unwrap();
    Tunnel {
        gateway: Some(GatewayStatus {
            role: GatewayRole::Active,
            health: GatewayHealth::Healthy,
            failovers: 2,
        }),
        notes: vec![
            Note::KeyQuarantined {
                key: PublicKey::from_bytes([8; 32]),
            },
            Note::Absent {
                fate: Fate::Stopped,
                since,
                kept: Kept::TooMany,
            },
            Note::PartitionFailing { since },
        ],
        ..tunnel(name, number)
    }
}

fn rule(denied: u64) -> RuleStatus {
    RuleStatus {
        rule: "deny between any and hub".to_owned(),
        denied,
    }
}

fn charon() -> CharonStatus {
    CharonStatus {
        version: Some("charon-systemd 6.0.1".to_owned()),
        esp: Some(EspStatus::Kernel),
        problem: None,
    }
}

fn hub() -> Status {
    let site = Tunnel {
        origin: Origin::Static,
        account: None,
        region: None,
        zone: None,
        vpc: None,
        instance: None,
        ..tunnel("dc-east", 9)
    };
    let partner = Tunnel {
        name: "partner".to_owned(),
        transport: Transport::Ipsec,
        public_key: None,
        last_handshake: Some("2026-11-21T04:30:00Z".parse().unwrap()),
        rx_bytes: 8_400,
        tx_bytes: 4_200,
        ipsec: Some(IpsecStatus {
            rx_packets: 100,
            tx_packets: 50,
            ..IpsecStatus::default()
        }),
        ..site.clone()
    };
    let waiting = Tunnel {
        state: TunnelState::Pending,
        reason: Some(Reason::NoPublicKey),
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
        ..tunnel("büro \"2\"", 2)
    };
    let gateway = Tunnel {
        transport: Transport::None,
        state: TunnelState::Rejected,
        ..tunnel("nat-hub", 3)
    };
    let partition = |region: &str| Partition {
        account: "111122223333".parse().unwrap(),
        region: region.parse().unwrap(),
    };
    let mut offloads: BTreeMap<_, _> = Offload::ALL.map(|it| (it, OffloadState::On)).into();
    let unsupported = OffloadState::Off(OffloadObstacle::Unsupported);
    offloads.insert(Offload::TunUso, unsupported);
    Status {
        role: Role::Hub,
        version: "0.1.0".to_owned(),
        started: "2026-11-21T00:00:00Z".parse().unwrap(),
        now: "2026-11-21T05:00:00Z".parse().unwrap(),
        instance: Some("i-0123456789abcdef0".parse().unwrap()),
        privnet: Supernet::new(["10.0.0.0/8".parse().unwrap()]).unwrap(),
        interface: Some(InterfaceStatus {
            name: "privnet0".to_owned(),
            public_key: PublicKey::from_bytes([9; 32]),
            listen_port: 51820,
            mtu: 1440,
            offloads,
            counters: counts([("handshakes", 12), ("relayed", 98_765_432)]),
            drops: counts([("no_route", 17), ("replayed", 0)]),
        }),
        charon: Some(charon()),
        nat: None,
        tunnels: vec![site, shared("prod-web", 1), waiting, partner, gateway],
        partitions: vec![
            PartitionStatus {
                partition: partition("eu-west-1"),
                spokes: 3,
                answered_at: Some("2026-11-21T04:00:00Z".parse().unwrap()),
                error: None,
                failing_since: None,
                polls: 12,
                failures: 2,
                calls: 4,
            },
            PartitionStatus {
                partition: partition("us-west-2"),
                spokes: 0,
                answered_at: None,
                error: Some("timed out".to_owned()),
                failing_since: None,
                polls: 1,
                failures: 1,
                calls: 4,
            },
        ],
        next_poll: None,
        held_removals: Some(HeldRemovals {
            count: 12,
            of: 20,
            since: "2026-11-21T04:00:00Z".parse().unwrap(),
        }),
        policy: [0, 4_711].map(rule).to_vec(),
        routes: None,
        problems: vec!["something".to_owned()],
    }
}

fn spoke() -> Status {
    Status {
        role: Role::Spoke,
        charon: None,
        nat: Some(NatStatus {
            active: true,
            interface: "ens5".to_owned(),
            sources: Vec::new(),
            forwards: vec!["tcp 51532 to 10.0.1.10:1532 from 203.0.113.110/32".to_owned()],
            redirects: Vec::new(),
            flowtable: FlowtableState::On,
            connections: Some(ConnectionUse {
                tracked: 1_234,
                limit: 262_144,
                dropped: 7,
                insert_failed: 3,
                early_dropped: 1,
            }),
            destinations: vec![DestinationUse {
                protocol: Protocol::Tcp,
                destination: "203.0.113.80:443".parse().unwrap(),
                connections: 1_000,
                ports: 64_512,
                from: None,
            }],
        }),
        tunnels: vec![Tunnel {
            origin: Origin::Hub,
            instance: None,
            ..tunnel("hub", 1)
        }],
        partitions: Vec::new(),
        problems: Vec::new(),
        routes: Some(serving()),
        ..hub()
    }
}

/// Of two routes one leads here, and one to a sibling that is well.
fn serving() -> RoutesStatus {
    let route = |table: &str, spoke: &str, home| RouteStatus {
        table: table.parse().unwrap(),
        destination: "0.0.0.0/0".parse().unwrap(),
        spoke: Some(spoke.parse().unwrap()),
        home,
    };
    let other = "i-0123456789abcdef2";
    RoutesStatus {
        sick: None,
        siblings: vec![SiblingStatus {
            instance: other.parse().unwrap(),
            state: "well".to_owned(),
            tunnel_down: false,
            only_others_hear: false,
            refused: None,
        }],
        routes: vec![
            route("rtb-00000001", "i-0123456789abcdef0", false),
            route("rtb-00000002", other, true),
        ],
        moved: 5,
        taken_over: 2,
        takeover_time: SignedDuration::from_millis(7_250),
        last_takeover: Some(SignedDuration::from_millis(3_500)),
        address: None,
        remedy: Some(RemedyStatus {
            restarted: 1,
            reported: 4,
            failed: 3,
            siblings: Vec::new(),
        }),
    }
}

/// With an Elastic IP of its own, or without one that it should have.
fn addressed(address: Option<&str>) -> Status {
    let address = AddressStatus {
        wanted: "the pool service=nat".to_owned(),
        allocation: address.map(|_| "eipalloc-00000001".parse().unwrap()),
        address: address.map(|address| address.parse().unwrap()),
        since: None,
        at: None,
        problem: address.is_none().then(|| "all are in use".to_owned()),
        moved: 3,
        connections: address.map(|_| ConnectionsStatus {
            told: 7,
            kept: vec![KeptConnections {
                sibling: "i-00000002".parse().unwrap(),
                connections: 0,
            }],
            taken_over: 6,
            refused: 1,
        }),
    };
    let routes = RoutesStatus {
        address: Some(address),
        ..serving()
    };
    Status {
        routes: Some(routes),
        ..spoke()
    }
}

#[test]
fn a_spoke_with_an_address_of_its_own_tells_whether_it_has_it() {
    let with = |address: Option<&str>| {
        let page = render(&addressed(address)).unwrap();
        check(&page);
        page
    };
    let page = with(Some("198.51.100.7"));
    for line in [
        "privnet_address_held 1",
        "privnet_address_problem 0",
        "privnet_addresses_moved_total 3",
        "privnet_address_connections_told 7",
        "privnet_address_connections_kept{sibling=\"i-00000002\"} 0",
        "privnet_address_connections_taken_over_total 6",
        "privnet_address_connections_refused_total 1",
    ] {
        assert!(page.lines().any(|it| it == line), "{line} in {page}");
    }
    let page = with(None);
    for line in ["privnet_address_held 0", "privnet_address_problem 1"] {
        assert!(page.lines().any(|it| it == line), "{line} in {page}");
    }
    assert!(!render(&spoke()).unwrap().contains("privnet_address"));
}

#[test]
fn a_spoke_that_serves_routes_tells_how_they_are() {
    let page = render(&spoke()).unwrap();
    check(&page);
    for line in [
        "privnet_self_test_passed 1",
        "privnet_vpc_routes 1",
        "privnet_vpc_routes_away 1",
        "privnet_siblings_well 1",
        "privnet_vpc_routes_moved_total 5",
        "privnet_vpc_routes_taken_over_total 2",
        "privnet_takeover_seconds_total 7.25",
        "privnet_takeover_last_seconds 3.5",
        "privnet_remedies_total{kind=\"restart\"} 1",
        "privnet_remedies_total{kind=\"unhealthy\"} 4",
        "privnet_remedies_failed_total 3",
    ] {
        assert!(page.lines().any(|it| it == line), "{line} in {page}");
    }
    let sick = Status {
        routes: Some(RoutesStatus {
            sick: Some("no egress".to_owned()),
            ..serving()
        }),
        ..spoke()
    };
    let page = render(&sick).unwrap();
    assert!(page.contains("privnet_self_test_passed 0"), "{page}");
    assert!(!render(&hub()).unwrap().contains("privnet_vpc_routes"));
}

/// What `promtool check metrics` and the format's parser would complain of.
fn check(page: &str) {
    let name_is_good = |name: &str| {
        let mut chars = name.chars();
        chars.next().is_some_and(|c| c.is_ascii_lowercase())
            && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    assert!(page.ends_with('\n') && !page.contains("\n\n"));
    let mut family = ("", "");
    let mut done = BTreeSet::new();
    let mut series = BTreeSet::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(name_is_good(name), "{line}");
            assert!(help.ends_with('.') && help.len() > 10, "{line}");
            assert!(done.insert(name), "twice: {line}");
            let kind = lines.next().unwrap();
            let kind = kind.strip_prefix(&format!("# TYPE {name} ")).unwrap();
            assert!(["counter", "gauge"].contains(&kind), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            for unit in ["_ms", "_milliseconds", "_minutes", "_kilobytes"] {
                assert!(!name.contains(unit), "not a base unit: {line}");
            }
            family = (name, kind);
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let (name, labels) = match sample.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
            None => (sample, ""),
        };
        assert_eq!(name, family.0, "outside of its family: {line}");
        assert!(series.insert(sample), "twice: {line}");
        let mut names = BTreeSet::new();
        let mut rest = labels;
        while !rest.is_empty() {
            let (label, after) = rest.split_once("=\"").unwrap();
            assert!(name_is_good(label) && !label.starts_with("__"), "{line}");
            // What Prometheus sets itself, and what only histograms have.
            assert!(!["instance", "job", "le", "quantile"].contains(&label));
            assert!(names.insert(label), "twice: {line}");
            let end = end_of_value(after);
            assert!((1..=4 * LABEL_CHARS).contains(&end), "{line}");
            rest = after[end + 1..].trim_start_matches(',');
        }
    }
    assert!(!series.is_empty());
}

/// Where the quote is that ends a label's value.
fn end_of_value(text: &str) -> usize {
    let mut escaped = false;
    for (position, char) in text.char_indices() {
        match char {
            _ if escaped => {
                assert!("\\\"n".contains(char), "no such escape: {text}");
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return position,
            _ => assert!(!char.is_control(), "{text:?}"),
        }
    }
    panic!("no end: {text}");
}

#[test]
fn the_page_of_a_hub() {
    let page = render(&hub()).unwrap();
    let golden = include_str!("hub.prom");
    assert!(page == golden, "expected:\n{golden}\nbut it is:\n{page}");
}

#[test]
fn every_page_keeps_the_rules_of_the_format() {
    check(&render(&hub()).unwrap());
    check(&render(&spoke()).unwrap());
    let bare = Status {
        interface: None,
        charon: None,
        nat: None,
        tunnels: Vec::new(),
        partitions: Vec::new(),
        ..hub()
    };
    check(&render(&bare).unwrap());
}

#[test]
fn a_gateway_is_healthy_or_not_once_that_is_known() {
    let healthy = |health| {
        let mut status = hub();
        status.tunnels[1].gateway.as_mut().unwrap().health = health;
        let page = render(&status).unwrap();
        check(&page);
        let line = page
            .lines()
            .find(|line| line.starts_with("privnet_gateway_healthy"));
        line.map(|line| line.rsplit_once(' ').unwrap().1.to_owned())
    };
    assert_eq!(healthy(GatewayHealth::Unknown), None);
    assert_eq!(healthy(GatewayHealth::Healthy).as_deref(), Some("1"));
    assert_eq!(healthy(GatewayHealth::Down).as_deref(), Some("0"));
    assert_eq!(healthy(GatewayHealth::Recovering).as_deref(), Some("0"));
}

#[test]
fn what_only_a_hub_knows_is_on_no_spokes_page() {
    let page = render(&spoke()).unwrap();
    for name in [
        "held_removals",
        "quarantined",
        "policy",
        "gateway",
        "absent",
    ] {
        assert!(!page.contains(&format!("privnet_{name}")), "{page}");
    }
    let calm = Status {
        held_removals: None,
        ..hub()
    };
    assert!(
        render(&calm)
            .unwrap()
            .contains("\nprivnet_held_removals 0\n")
    );
}

#[test]
fn a_spoke_tells_of_its_nat() {
    let mut status = spoke();
    let up = |status: &Status| {
        let page = render(status).unwrap();
        let line = page.lines().find(|line| line.starts_with("privnet_nat_up"));
        line.map(str::to_owned)
    };
    let told = "privnet_nat_up{interface=\"ens5\"}";
    assert_eq!(up(&status), Some(format!("{told} 1")));
    status.nat.as_mut().unwrap().active = false;
    assert_eq!(up(&status), Some(format!("{told} 0")));
    status.nat = None;
    assert_eq!(up(&status), None);
}

#[test]
fn strongswan_is_up_or_not_where_it_is_needed() {
    let told = |charon: Option<CharonStatus>| {
        let page = render(&Status { charon, ..hub() }).unwrap();
        check(&page);
        let lines = page.lines();
        let lines = lines.filter(|line| line.starts_with("privnet_strongswan"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let info = |esp: &str| {
        format!("privnet_strongswan_info{{version=\"charon-systemd 6.0.1\",esp=\"{esp}\"}} 1")
    };
    let up = "privnet_strongswan_up 1";
    assert_eq!(told(Some(charon())), [up, &info("kernel")]);
    let userspace = CharonStatus {
        esp: Some(EspStatus::Userspace),
        ..charon()
    };
    assert_eq!(told(Some(userspace)), [up, &info("userspace")]);
    let down = CharonStatus {
        version: None,
        esp: None,
        problem: Some("nobody listens".to_owned()),
    };
    assert_eq!(told(Some(down)), ["privnet_strongswan_up 0"]);
    assert!(told(None).is_empty());
}

/// A hub whose data plane has counted everything once.
fn counting() -> Status {
    let mut status = hub();
    let interface = status.interface.as_mut().unwrap();
    for counter in Counter::ALL {
        let counts = match counter.is_drop() {
            true => &mut interface.drops,
            false => &mut interface.counters,
        };
        counts.insert(counter.name().to_owned(), 1);
    }
    status
}

#[test]
fn the_readme_names_every_metric_and_no_other() {
    let pages = [counting(), addressed(Some("198.51.100.7"))];
    let pages = pages.map(|status| render(&status).unwrap());
    let helps = pages.iter().flat_map(|page| page.lines());
    let shown: BTreeSet<&str> = helps
        .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
        .collect();
    let readme = include_str!("../../../../README.md");
    let rows = readme
        .lines()
        .filter(|line| line.starts_with("| `privnet_"));
    let told: BTreeSet<&str> = rows
        .filter_map(|row| row.split('|').nth(1))
        .flat_map(|names| names.split('`'))
        .filter(|name| name.starts_with("privnet_"))
        .collect();
    let missing: Vec<_> = shown.difference(&told).collect();
    assert!(missing.is_empty(), "README.md lacks {missing:?}");
    let unknown: Vec<_> = told.difference(&shown).collect();
    assert!(unknown.is_empty(), "README.md names {unknown:?}");
}

#[test]
fn every_counter_of_the_data_plane_is_on_the_page_once() {
    let status = counting();
    let page = render(&status).unwrap();
    check(&page);
    for counter in Counter::ALL {
        let name = counter.name();
        let line = match counter.is_drop() {
            true => format!("privnet_dataplane_packets_dropped_total{{reason=\"{name}\"}} "),
            false => format!("privnet_dataplane_{name}_total "),
        };
        let found = page.lines().filter(|found| found.starts_with(&line));
        assert_eq!(found.count(), 1, "{name}");
        assert!(counter.help().ends_with('.'), "{name}");
    }
}

#[test]
fn names_that_others_write_break_no_line_and_make_no_series_twice() {
    let long = "x".repeat(256);
    let hostile = "a\\b\"c\n\u{1b}[2J} 1\nprivnet_build_info 7";
    let status = Status {
        tunnels: vec![
            tunnel(&long, 1),
            tunnel(&format!("{long}y"), 2),
            tunnel(hostile, 3),
            tunnel(hostile, 4),
            tunnel("\u{1f6f0}".repeat(100).as_str(), 5),
        ],
        ..hub()
    };
    let page = render(&status).unwrap();
    check(&page);
    assert!(
        page.contains("tunnel=\"a\\\\b\\\"c\u{fffd}\u{fffd}[2J} 1"),
        "{page}"
    );
    assert!(!page.contains(&"x".repeat(LABEL_CHARS + 1)));
}

#[test]
fn an_interface_may_count_what_this_version_does_not_know() {
    let mut status = hub();
    let interface = status.interface.as_mut().unwrap();
    interface.counters.insert("from_the_future".to_owned(), 1);
    interface.drops.insert("from_the_future".to_owned(), 1);
    check(&render(&status).unwrap());
}
