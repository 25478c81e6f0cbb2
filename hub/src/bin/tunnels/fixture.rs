//! Statuses for tests: a hub with something of everything, and a spoke.

#![expect(clippy::unwrap_used, reason = "a fixture that is wrong should panic")]

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use privnet_model::admin::Event;
use privnet_model::config::spoke::Protocol;
use privnet_model::inventory::{Fate, HeldRemovals, Partition, Transport};
use privnet_model::key::PublicKey;
use privnet_model::net::Supernet;
use privnet_model::offload::{Offload, OffloadObstacle, OffloadReport, OffloadState};
use privnet_model::status::{
    AddressStatus, ConnectionUse, ConnectionsStatus, DestinationUse, ExcludedCidr, Exclusion,
    FlowtableState, GatewayHealth, GatewayRole, GatewayStatus, InterfaceStatus, Kept,
    KeptConnections, NatStatus, Note, Origin, PartitionStatus, Reason, RemedyStatus, Role,
    RouteStatus, RoutesStatus, RuleStatus, SiblingRemedy, SiblingStatus, Status, Tunnel,
    TunnelState,
};

pub(crate) fn now() -> Timestamp {
    "2026-11-21T05:00:00Z".parse().unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

fn tunnel(name: &str, region: &str, number: u8, cidrs: &[&str]) -> Tunnel {
    Tunnel {
        name: name.to_owned(),
        origin: Origin::Discovered,
        account: Some("111122223333".parse().unwrap()),
        region: Some(region.parse().unwrap()),
        zone: Some(format!("{region}a").parse().unwrap()),
        vpc: Some(format!("vpc-0aaaaaaaaaaaaaaa{number}").parse().unwrap()),
        instance: Some(format!("i-0bbbbbbbbbbbbbbb{number}").parse().unwrap()),
        launched: Some(ago(864_000)),
        cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        excluded: Vec::new(),
        transport: Transport::Wireguard,
        endpoint: Some(format!("203.0.113.{number}:51820").parse().unwrap()),
        private_address: Some(format!("10.{number}.0.5").parse().unwrap()),
        public_key: Some(PublicKey::from_bytes([number; 32])),
        state: TunnelState::Up,
        reason: None,
        gateway: None,
        notes: Vec::new(),
        last_handshake: Some(ago(12 * i64::from(number))),
        rx_bytes: 1_234_567_890 * u64::from(number),
        tx_bytes: 98_765_432 * u64::from(number),
        rx_rate: 3_400_000.0 / f64::from(number),
        tx_rate: 41_000.0 * f64::from(number),
        ipsec: None,
    }
}

fn silent(tunnel: Tunnel, state: TunnelState, reason: Reason) -> Tunnel {
    Tunnel {
        state,
        reason: Some(reason),
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
        rx_rate: 0.0,
        tx_rate: 0.0,
        ipsec: None,
        ..tunnel
    }
}

fn counts<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    let counts = counts.into_iter();
    counts
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}

/// A hub with a tunnel in every state, two regions and one that fails.
pub(crate) fn hub() -> Status {
    let secondary = Tunnel {
        excluded: vec![ExcludedCidr {
            cidr: "192.168.7.0/24".parse().unwrap(),
            why: Exclusion::OutsidePrivnet,
        }],
        ..tunnel(
            "prod-web",
            "us-west-2",
            1,
            &["10.1.0.0/16", "10.101.0.0/16"],
        )
    };
    let connecting = silent(
        tunnel("payments", "eu-west-1", 3, &["10.3.0.0/16"]),
        TunnelState::Connecting,
        Reason::NoAnswer,
    );
    let pending = silent(
        tunnel("payments-2", "eu-west-1", 4, &[]),
        TunnelState::Pending,
        Reason::NoPublicKey,
    );
    let down = Tunnel {
        last_handshake: Some(ago(2_000)),
        rx_bytes: 5_000,
        ..silent(
            tunnel("staging", "us-west-2", 5, &["10.5.0.0/16"]),
            TunnelState::Down,
            Reason::Silent,
        )
    };
    let gateway = Tunnel {
        transport: Transport::None,
        endpoint: None,
        public_key: None,
        ..silent(
            tunnel("nat-hub", "us-west-2", 6, &[]),
            TunnelState::Rejected,
            Reason::NoTransport,
        )
    };
    let site = Tunnel {
        origin: Origin::Static,
        account: None,
        region: None,
        zone: None,
        vpc: None,
        instance: None,
        launched: None,
        private_address: None,
        ..tunnel(
            "dc-east",
            "us-west-2",
            9,
            &["10.200.0.0/16", "fd00:200::/48"],
        )
    };
    let partition = |region: &str| Partition {
        account: "111122223333".parse().unwrap(),
        region: region.parse().unwrap(),
    };
    Status {
        role: Role::Hub,
        version: "0.1.0".to_owned(),
        started: ago(273_600),
        now: now(),
        instance: Some("i-0123456789abcdef0".parse().unwrap()),
        privnet: Supernet::new(["10.0.0.0/8".parse().unwrap()]).unwrap(),
        interface: Some(InterfaceStatus {
            name: "privnet0".to_owned(),
            public_key: PublicKey::from_bytes([9; 32]),
            listen_port: 51820,
            mtu: 1440,
            offloads: OffloadReport::from([
                (Offload::TunTso, OffloadState::On),
                (
                    Offload::TunUso,
                    OffloadState::Off(OffloadObstacle::Unsupported),
                ),
                (Offload::TunGro, OffloadState::On),
                (
                    Offload::UdpGso,
                    OffloadState::Off(OffloadObstacle::Rejected {
                        error: "EIO".to_owned(),
                    }),
                ),
                (
                    Offload::UdpGro,
                    OffloadState::Off(OffloadObstacle::Configured),
                ),
            ]),
            counters: counts([("handshakes", 1_204), ("relayed", 98_765_432)]),
            drops: counts([
                ("malformed", 0),
                ("no_route", 17),
                ("source_mismatch", 120_000),
            ]),
        }),
        charon: None,
        nat: None,
        tunnels: vec![
            site,
            secondary,
            tunnel("analytics", "eu-west-1", 2, &["10.2.0.0/16"]),
            connecting,
            pending,
            down,
            gateway,
        ],
        partitions: vec![
            PartitionStatus {
                partition: partition("eu-west-1"),
                spokes: 3,
                answered_at: Some(ago(7_500)),
                error: Some("DescribeInstances: RequestLimitExceeded: try again".to_owned()),
                failing_since: Some(ago(3_900)),
                polls: 79,
                failures: 3,
                calls: 4,
            },
            PartitionStatus {
                partition: partition("us-west-2"),
                spokes: 3,
                answered_at: Some(ago(720)),
                error: None,
                failing_since: None,
                polls: 79,
                failures: 0,
                calls: 4,
            },
        ],
        next_poll: Some(now() + SignedDuration::from_secs(2_880)),
        held_removals: None,
        routes: None,
        policy: Vec::new(),
        problems: Vec::new(),
    }
}

/// A hub with two gateways of one VPC and something to note of each, removals that
/// are held, and a policy.
pub(crate) fn gateways() -> Status {
    let gateway = |role, health, failovers| {
        Some(GatewayStatus {
            role,
            health,
            failovers,
        })
    };
    let since = ago(600);
    let active = Tunnel {
        gateway: gateway(GatewayRole::Active, GatewayHealth::Healthy, 2),
        notes: vec![
            Note::PartitionFailing { since },
            Note::KeyQuarantined {
                key: PublicKey::from_bytes([7; 32]),
            },
            Note::KeyRotating {
                key: PublicKey::from_bytes([8; 32]),
            },
        ],
        ..tunnel("web-a", "eu-west-1", 1, &["10.1.0.0/16", "10.1.0.5/32"])
    };
    let standby = Tunnel {
        vpc: active.vpc.clone(),
        gateway: gateway(GatewayRole::Standby, GatewayHealth::Healthy, 0),
        excluded: vec![ExcludedCidr {
            cidr: "10.1.0.0/16".parse().unwrap(),
            why: Exclusion::CarriedBy {
                tunnel: "web-a".to_owned(),
            },
        }],
        ..tunnel("web-b", "eu-west-1", 2, &["10.1.16.5/32"])
    };
    let absent = Tunnel {
        notes: vec![Note::Absent {
            fate: Fate::Stopped,
            since,
            kept: Kept::TooMany,
        }],
        ..tunnel("payments", "us-west-2", 3, &["10.3.0.0/16"])
    };
    let held = HeldRemovals {
        count: 3,
        of: 9,
        since,
    };
    let rule = |rule: &str, denied| RuleStatus {
        rule: rule.to_owned(),
        denied,
    };
    Status {
        tunnels: vec![active, standby, absent],
        held_removals: Some(held),
        routes: None,
        policy: vec![
            rule("allow between site:web* and hub", 0),
            rule("deny between tag:env=dev* and site:dc-east, hub", 4_711),
        ],
        problems: vec![held.to_string()],
        ..hub()
    }
}

/// What a hub's journal may hold.
pub(crate) fn events() -> Vec<Event> {
    let event = |number, seconds, what: &str, text: &str| Event {
        number,
        at: ago(seconds),
        first: ago(seconds),
        times: 1,
        what: what.to_owned(),
        text: text.to_owned(),
    };
    let failing = Event {
        first: ago(43_200),
        times: 12,
        ..event(
            24,
            300,
            "111122223333/eu-west-1",
            "poll failed, its 3 spokes are kept: timed out",
        )
    };
    vec![
        event(
            3,
            90_000,
            "tunnel analytics",
            "add: new spoke i-0bbbbbbbbbbbbbbb2 in vpc-0aaaaaaaaaaaaaaa2",
        ),
        event(
            20,
            2_000,
            "tunnel staging",
            "is down: no handshake for over 3 minutes",
        ),
        failing,
        event(25, 12, "tunnel analytics", "is up"),
    ]
}

/// A spoke with one hub and NAT.
pub(crate) fn spoke() -> Status {
    let to_hub = Tunnel {
        origin: Origin::Hub,
        account: None,
        region: None,
        zone: None,
        vpc: None,
        instance: None,
        launched: None,
        private_address: None,
        ..tunnel("198.51.100.100:51820", "us-west-2", 1, &["10.0.0.0/8"])
    };
    Status {
        role: Role::Spoke,
        charon: None,
        nat: Some(NatStatus {
            active: true,
            interface: "ens5".to_owned(),
            sources: vec![
                "10.1.0.0/16".parse().unwrap(),
                "10.101.0.0/16".parse().unwrap(),
            ],
            forwards: Vec::new(),
            redirects: Vec::new(),
            flowtable: FlowtableState::On,
            connections: None,
            destinations: Vec::new(),
        }),
        tunnels: vec![to_hub],
        partitions: Vec::new(),
        next_poll: None,
        ..hub()
    }
}

/// An instance that only translates, and does more of it than masquerading.
pub(crate) fn nat_gateway() -> Status {
    let spoke = spoke();
    let nat = spoke.nat.map(|nat| NatStatus {
        forwards: vec![
            "tcp 51532 to 10.1.1.10:1532 from 203.0.113.110/32".to_owned(),
            "udp 8000-8100 to 10.1.1.11 from 0.0.0.0/0".to_owned(),
        ],
        redirects: vec!["tcp 80 to 10.1.3.20:3128".to_owned()],
        connections: Some(ConnectionUse {
            tracked: 10_486,
            limit: 262_144,
            dropped: 7,
            insert_failed: 3,
            early_dropped: 0,
        }),
        destinations: vec![
            DestinationUse {
                protocol: Protocol::Tcp,
                destination: "203.0.113.80:443".parse().unwrap(),
                connections: 9_677,
                ports: 64_512,
                from: None,
            },
            DestinationUse {
                protocol: Protocol::Udp,
                destination: "203.0.113.53:53".parse().unwrap(),
                connections: 700,
                ports: 10_000,
                from: Some("10.1.7.0/24".parse().unwrap()),
            },
        ],
        ..nat
    });
    Status {
        nat,
        interface: None,
        tunnels: Vec::new(),
        routes: Some(RoutesStatus {
            sick: Some("no way to the internet through this spoke's NAT".to_owned()),
            siblings: vec![
                SiblingStatus {
                    instance: "i-0123456789abcdef2".parse().unwrap(),
                    state: "well".to_owned(),
                    tunnel_down: true,
                    only_others_hear: false,
                    refused: None,
                },
                SiblingStatus {
                    instance: "i-0123456789abcdef3".parse().unwrap(),
                    state: "well".to_owned(),
                    tunnel_down: false,
                    only_others_hear: true,
                    refused: None,
                },
            ],
            routes: vec![RouteStatus {
                table: "rtb-0123456789abcdef0".parse().unwrap(),
                destination: "0.0.0.0/0".parse().unwrap(),
                spoke: Some("i-0123456789abcdef2".parse().unwrap()),
                home: true,
            }],
            moved: 3,
            taken_over: 1,
            takeover_time: SignedDuration::from_millis(3_400),
            last_takeover: Some(SignedDuration::from_millis(3_400)),
            address: Some(AddressStatus {
                wanted: "eipalloc-0123456789abcdef0".to_owned(),
                allocation: None,
                address: None,
                since: None,
                at: Some("i-0123456789abcdef2".parse().unwrap()),
                problem: None,
                moved: 1,
                connections: Some(ConnectionsStatus {
                    told: 0,
                    kept: vec![KeptConnections {
                        sibling: "i-0123456789abcdef2".parse().unwrap(),
                        connections: 1_234,
                    }],
                    taken_over: 56,
                    refused: 1,
                }),
            }),
            remedy: Some(RemedyStatus {
                restarted: 1,
                reported: 0,
                failed: 0,
                siblings: vec![SiblingRemedy {
                    instance: "i-0123456789abcdef3".parse().unwrap(),
                    tries: 1,
                    last: Some("2026-01-01T00:00:00Z".parse().unwrap()),
                    state: "has not answered since".to_owned(),
                }],
            }),
        }),
        policy: Vec::new(),
        ..spoke
    }
}
