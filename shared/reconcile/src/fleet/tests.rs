#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
use super::fixtures::{World, decide, id, inventory, key, partition, site, spoke};
use super::*;
use privnet_model::config::hub::ProofMode;
use privnet_model::inventory::{Absence, Fate, Pin, Proof, SpokeRecord, TagProblem};
use privnet_model::status::Kept;
use proptest::prelude::*;

fn tunnel<'a>(fleet: &'a Fleet, name: &str) -> &'a PlannedTunnel {
    fleet
        .tunnels
        .values()
        .find(|tunnel| tunnel.name == name)
        .unwrap()
}

fn reason(fleet: &Fleet, name: &str) -> String {
    match tunnel(fleet, name).obstacle.as_ref().unwrap() {
        Obstacle::Pending(reason) | Obstacle::Unproven(reason) => format!("pending: {reason}"),
        Obstacle::Rejected(reason) => format!("rejected: {reason}"),
    }
}

#[test]
fn a_spoke_gets_every_cidr_of_its_vpc() {
    let mut two = spoke(1, "10.1.0.0/16");
    two.cidrs.push("10.20.0.0/16".parse().unwrap());
    let fleet = decide(&inventory([two]), &[]);
    let (_, peer) = fleet.peers().pop_first().unwrap();
    assert_eq!(peer.allowed_ips.len(), 2);
    assert_eq!(peer.endpoint.unwrap().to_string(), "203.0.113.1:51820");
    assert_eq!(fleet.cidrs().count(), 2);
}

#[test]
fn spokes_by_ipsec_take_turns_and_their_selectors_stay() {
    let second = |n: u32, transport| {
        let mut spoke = spoke(n, "10.1.0.0/16");
        spoke.vpc = Some("vpc-00000001".parse().unwrap());
        spoke.private_address = Some(format!("10.1.{n}.10").parse().unwrap());
        spoke.transport = transport;
        spoke
    };
    let both = inventory([1, 2].map(|n| second(n, Transport::Ipsec)));
    let connection = |n| super::ipsec::connection(&second(n, Transport::Ipsec).instance).unwrap();
    let mut world = World {
        fleet_secret: Some("a secret of the whole fleet, long enough".parse().unwrap()),
        connected: [connection(1), connection(2)].into(),
        ..World::default()
    };
    let nets = |nets: &BTreeSet<IpNet>| -> String {
        let nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
        nets.join(" ")
    };
    // What is routed into each, and what may pass.
    let tunnels = |fleet: &Fleet| -> Vec<(String, String)> {
        let planned = fleet.ipsec().filter_map(|tunnel| tunnel.ipsec.as_ref());
        planned
            .map(|it| (nets(&it.routed), nets(&it.tunnel.remote.selectors)))
            .collect()
    };
    let of = |routed: &str, selectors: &str| (routed.to_owned(), selectors.to_owned());
    let fleet = world.next(&both);
    assert_eq!(
        tunnels(&fleet),
        [
            of("10.1.0.0/16 10.1.1.10/32", "10.1.0.0/16"),
            of("10.1.2.10/32", "10.1.0.0/16")
        ]
    );
    assert!(tunnel(&fleet, "spoke-2").is_standby());
    // Through which of them strongSwan's own ESP sends, nobody knows.
    assert_eq!(fleet.probed(Some(EspStatus::Kernel)).count(), 2);
    assert_eq!(fleet.probed(Some(EspStatus::Userspace)).count(), 0);
    world.connected.remove(&connection(1));
    assert_eq!(
        tunnels(&world.next(&both)),
        [
            of("10.1.1.10/32", "10.1.0.0/16"),
            of("10.1.0.0/16 10.1.2.10/32", "10.1.0.0/16")
        ]
    );
    // A hub that was started again knows who carried it, and nobody is connected yet.
    world.connected.clear();
    assert_eq!(tunnels(&world.next(&both))[1].0, "10.1.0.0/16 10.1.2.10/32");
    // Beside one that speaks WireGuard each has what it carries, where strongSwan routes.
    let mixed = inventory([second(1, Transport::Wireguard), second(2, Transport::Ipsec)]);
    for (esp, selectors) in [
        (EspStatus::Kernel, "10.1.0.0/16"),
        (EspStatus::Userspace, "10.1.2.10/32"),
    ] {
        let mut world = World {
            esp: Some(esp),
            fleet_secret: world.fleet_secret.clone(),
            ..World::default()
        };
        assert_eq!(
            tunnels(&world.next(&mixed)),
            [of("10.1.2.10/32", selectors)]
        );
    }
}

#[test]
fn the_hubs_own_vpc_is_no_site() {
    let mut own = spoke(1, "10.0.0.0/16");
    own.vpc = Some("vpc-ffffffff".parse().unwrap());
    assert_eq!(decide(&inventory([own]), &[]), Fleet::default());
}

#[test]
fn a_spoke_that_lacks_something_is_pending_with_the_reason() {
    type Case = (&'static str, fn(&mut SpokeRecord));
    let cases: [Case; 6] = [
        ("pending: no privnet:public-key tag", |spoke| {
            spoke.public_key = None;
        }),
        ("pending: no public address", |spoke| {
            spoke.public_address = None;
        }),
        ("pending: no VPC", |spoke| spoke.vpc = None),
        ("pending: its VPC has no CIDR", |spoke| spoke.cidrs.clear()),
        ("rejected: NAT gateway only (transport none)", |spoke| {
            spoke.transport = Transport::None
        }),
        (
            "pending: tag privnet:port is `x`, expected a UDP port",
            |spoke| {
                spoke.tag_problems.push(TagProblem {
                    tag: "privnet:port".to_owned(),
                    value: "x".to_owned(),
                    expected: "a UDP port".to_owned(),
                });
            },
        ),
    ];
    for (expected, change) in cases {
        let mut record = spoke(1, "10.1.0.0/16");
        change(&mut record);
        let fleet = decide(&inventory([record]), &[]);
        assert_eq!(reason(&fleet, "spoke-1"), expected);
        assert!(fleet.peers().is_empty());
        assert_eq!(fleet.cidrs().count(), 0);
    }
}

#[test]
fn a_cidr_outside_the_privnet_or_in_the_hubs_vpc_is_left_out() {
    let mut outside = spoke(1, "192.168.0.0/16");
    outside.cidrs.push("10.1.0.0/16".parse().unwrap());
    outside.cidrs.push("10.0.128.0/17".parse().unwrap());
    let fleet = decide(&inventory([outside]), &[]);
    let tunnel = tunnel(&fleet, "spoke-1");
    assert_eq!(tunnel.cidrs, vec!["10.1.0.0/16".parse().unwrap()]);
    let why: Vec<String> = tunnel
        .excluded
        .iter()
        .map(|excluded| format!("{} {}", excluded.cidr, excluded.why))
        .collect();
    assert_eq!(
        why,
        [
            "10.0.128.0/17 overlaps the hub's own VPC (10.0.0.0/16)",
            "192.168.0.0/16 outside the privnet"
        ]
    );
}

#[test]
fn the_older_launch_keeps_an_overlapping_cidr_in_either_direction() {
    for (older, younger) in [
        ("10.1.0.0/16", "10.1.0.0/24"),
        ("10.1.0.0/24", "10.1.0.0/16"),
        ("10.1.0.0/16", "10.1.0.0/16"),
    ] {
        let fleet = decide(&inventory([spoke(2, younger), spoke(1, older)]), &[]);
        assert!(tunnel(&fleet, "spoke-1").obstacle.is_none());
        assert_eq!(
            reason(&fleet, "spoke-2"),
            "rejected: none of its CIDRs can be used"
        );
    }
}

#[test]
fn a_static_site_wins_over_a_discovered_spoke() {
    let sites = [site("dc", "10.1.0.0/16")];
    let fleet = decide(&inventory([spoke(1, "10.1.0.0/16")]), &sites);
    assert!(tunnel(&fleet, "dc").obstacle.is_none());
    assert_eq!(
        tunnel(&fleet, "spoke-1").excluded[0].why.to_string(),
        "overlaps 10.1.0.0/16 of dc"
    );
}

#[test]
fn a_second_spoke_of_a_vpc_stands_by_with_a_tunnel_and_no_cidrs() {
    let mut second = spoke(2, "10.1.0.0/16");
    second.vpc = spoke(1, "10.1.0.0/16").vpc;
    let fleet = decide(&inventory([spoke(1, "10.1.0.0/16"), second]), &[]);
    assert_eq!(fleet.peers().len(), 2);
    let standby = tunnel(&fleet, "spoke-2");
    assert!(standby.cidrs.is_empty());
    assert_eq!(standby.excluded[0].why.to_string(), "carried by spoke-1");
}

#[test]
fn a_key_that_two_spokes_publish_stays_with_the_older() {
    let mut copy = spoke(2, "10.2.0.0/16");
    copy.public_key = spoke(1, "10.1.0.0/16").public_key;
    let fleet = decide(&inventory([spoke(1, "10.1.0.0/16"), copy]), &[]);
    assert_eq!(
        reason(&fleet, "spoke-2"),
        "rejected: same public key as spoke-1"
    );
}

#[test]
fn a_spoke_that_publishes_the_hubs_key_is_rejected() {
    let mut thief = spoke(1, "10.1.0.0/16");
    thief.public_key = Some(PublicKey::from_bytes([9; 32]));
    let fleet = decide(&inventory([thief]), &[]);
    assert_eq!(
        reason(&fleet, "spoke-1"),
        "rejected: same public key as the hub itself"
    );
}

#[test]
fn a_pending_spoke_blocks_nobody() {
    let mut pending = spoke(1, "10.1.0.0/16");
    pending.public_key = None;
    let fleet = decide(&inventory([pending, spoke(2, "10.1.0.0/16")]), &[]);
    assert!(tunnel(&fleet, "spoke-2").obstacle.is_none());
}

proptest! {
    #[test]
    fn no_two_tunnels_share_an_address(
        cidrs in proptest::collection::vec((any::<u16>(), 8u8..=28), 1..40),
    ) {
        let spokes = cidrs.iter().zip(1..).map(|((bits, length), n)| {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 | u32::from(*bits) << 8);
            let net = ipnet::Ipv4Net::new(address, *length).unwrap().trunc();
            spoke(n, &net.to_string())
        });
        let fleet = decide(&inventory(spokes), &[]);
        let carried: Vec<IpNet> = fleet.cidrs().collect();
        for (position, a) in carried.iter().enumerate() {
            for b in &carried[position + 1..] {
                prop_assert!(!privnet_model::net::overlap(a, b), "{a} and {b}");
            }
        }
    }
}

/// Gateway number `n` of one VPC, with the private address 10.1.0.n.
fn gateway(n: u32) -> SpokeRecord {
    SpokeRecord {
        vpc: Some("vpc-11111111".parse().unwrap()),
        private_address: Some(format!("10.1.0.{n}").parse().unwrap()),
        ..spoke(n, "10.1.0.0/16")
    }
}

fn well(numbers: &[u32]) -> World {
    World {
        alive: numbers.iter().map(|n| key(*n)).collect(),
        health: numbers.iter().map(|n| (id(*n), Health::Up)).collect(),
        ..World::default()
    }
}

fn carrier<'a>(fleet: &'a Fleet, cidr: &str) -> &'a str {
    let cidr: IpNet = cidr.parse().unwrap();
    let mut tunnels = fleet.tunnels.values();
    &tunnels
        .find(|tunnel| tunnel.cidrs.contains(&cidr))
        .unwrap()
        .name
}

#[test]
fn whoever_carries_a_cidr_keeps_it_against_an_older_launch_while_alive() {
    let mut world = well(&[2]);
    world.next(&inventory([spoke(2, "10.1.0.0/16")]));
    let both = inventory([spoke(1, "10.1.0.0/16"), spoke(2, "10.1.0.0/16")]);
    let fleet = world.next(&both);
    assert_eq!(carrier(&fleet, "10.1.0.0/16"), "spoke-2");
    assert_eq!(
        reason(&fleet, "spoke-1"),
        "rejected: none of its CIDRs can be used"
    );
    world.alive.clear();
    assert_eq!(carrier(&world.next(&both), "10.1.0.0/16"), "spoke-1");
}

#[test]
fn a_static_site_wins_over_whoever_carries_the_cidr() {
    let mut world = well(&[2]);
    let known = inventory([spoke(2, "10.1.0.0/16")]);
    world.next(&known);
    world.sites = vec![site("dc", "10.1.0.0/24")];
    assert_eq!(
        reason(&world.next(&known), "spoke-2"),
        "rejected: none of its CIDRs can be used"
    );
}

#[test]
fn a_key_in_use_is_not_lost_to_an_older_instance_that_publishes_it() {
    let mut world = well(&[2]);
    world.next(&inventory([spoke(2, "10.2.0.0/16")]));
    let mut thief = spoke(1, "10.1.0.0/16");
    thief.public_key = Some(key(2));
    let fleet = world.next(&inventory([thief, spoke(2, "10.2.0.0/16")]));
    assert_eq!(
        reason(&fleet, "spoke-1"),
        "rejected: same public key as spoke-2"
    );
    assert!(tunnel(&fleet, "spoke-2").obstacle.is_none());
}

#[test]
fn the_gateways_of_a_vpc_are_peers_of_one_site_each_with_its_own_address() {
    let fleet = well(&[1, 2]).decide(&inventory([gateway(1), gateway(2)]));
    let peers = fleet.peers();
    let allowed = |n| {
        let nets = peers[&key(n)].allowed_ips.iter();
        nets.map(IpNet::to_string).collect::<Vec<_>>()
    };
    assert_eq!(allowed(1), ["10.1.0.0/16", "10.1.0.1/32"]);
    assert_eq!(allowed(2), ["10.1.0.2/32"]);
    assert!(
        peers
            .values()
            .all(|peer| peer.site.as_deref() == Some("vpc-11111111"))
    );
    assert_eq!(
        fleet.cidrs().collect::<Vec<_>>(),
        ["10.1.0.0/16".parse().unwrap()]
    );
    assert_eq!(fleet.probed(None).count(), 2);
    let (speaker, _) = fleet.speaker("10.1.0.2".parse().unwrap()).unwrap();
    assert_eq!(*speaker, id(2));
}

#[test]
fn a_site_fails_over_and_back_and_its_routes_stay() {
    let known = inventory([gateway(1), gateway(2)]);
    let mut world = well(&[1, 2]);
    let first = world.next(&known);
    assert_eq!(carrier(&first, "10.1.0.0/16"), "spoke-1");
    world.health.insert(id(1), Health::Down);
    let failed = world.next(&known);
    assert_eq!(carrier(&failed, "10.1.0.0/16"), "spoke-2");
    assert!(tunnel(&failed, "spoke-1").is_standby());
    assert!(first.cidrs().eq(failed.cidrs()));
    world.health.insert(id(2), Health::Down);
    assert_eq!(carrier(&world.next(&known), "10.1.0.0/16"), "spoke-2");
    // Of two that were down, the one that answers first.
    world.health.insert(id(1), Health::Recovering);
    assert_eq!(carrier(&world.next(&known), "10.1.0.0/16"), "spoke-1");
    world.health.insert(id(2), Health::Recovering);
    assert_eq!(carrier(&world.next(&known), "10.1.0.0/16"), "spoke-1");
    world.health.insert(id(1), Health::Up);
    assert_eq!(carrier(&world.next(&known), "10.1.0.0/16"), "spoke-1");
}

#[test]
fn subnets_go_to_the_gateway_of_their_zone() {
    let mut second = gateway(2);
    second.zone_cidrs = vec!["10.1.16.0/20".parse().unwrap()];
    let known = inventory([gateway(1), second]);
    let mut world = well(&[1, 2]);
    let fleet = world.next(&known);
    assert_eq!(carrier(&fleet, "10.1.0.0/16"), "spoke-1");
    assert_eq!(carrier(&fleet, "10.1.16.0/20"), "spoke-2");
    world.health.insert(id(2), Health::Down);
    let fleet = world.next(&known);
    assert_eq!(tunnel(&fleet, "spoke-2").cidrs, []);
}

#[test]
fn an_address_that_two_gateways_have_is_that_of_the_living_one() {
    let mut successor = gateway(2);
    successor.private_address = gateway(1).private_address;
    let fleet = well(&[2]).decide(&inventory([gateway(1), successor]));
    assert_eq!(tunnel(&fleet, "spoke-1").address, None);
    assert!(tunnel(&fleet, "spoke-2").address.is_some());
}

#[test]
fn who_is_not_trusted_has_no_peer_and_claims_nothing() {
    let mut world = World::default();
    world.trust.vpcs = vec![privnet_model::config::hub::Glob::new("vpc-*2")];
    let fleet = world.decide(&inventory([
        spoke(1, "10.1.0.0/16"),
        spoke(2, "10.1.0.0/16"),
    ]));
    assert_eq!(
        reason(&fleet, "spoke-1"),
        "rejected: vpc-00000000000000001 is not in trust.vpcs"
    );
    assert_eq!(carrier(&fleet, "10.1.0.0/16"), "spoke-2");
    assert_eq!(fleet.peers().len(), 1);
}

fn pinned(n: u32, next: Option<u32>, proof: Proof) -> (InstanceId, Pin) {
    let pin = Pin {
        key: key(n),
        next: next.map(key),
        proof,
    };
    (spoke(n, "10.1.0.0/16").instance, pin)
}

#[test]
fn who_has_not_proved_itself_has_its_own_address_and_nothing_else() {
    let mut known = inventory([gateway(1), gateway(2), spoke(3, "10.1.0.0/16")]);
    let mut world = well(&[1, 2]);
    world.trust.proof = ProofMode::Require;
    let fleet = world.decide(&known);
    assert_eq!(
        reason(&fleet, "spoke-1"),
        "pending: no proof of identity yet"
    );
    assert_eq!(fleet.sites.len(), 0);
    let nets: Vec<String> = fleet.cidrs().map(|cidr| cidr.to_string()).collect();
    assert_eq!(nets, ["10.1.0.1/32", "10.1.0.2/32"]);

    let at = Timestamp::from_second(1).unwrap();
    let view = known.partitions.get_mut(&partition("eu-west-1")).unwrap();
    view.pins.extend([pinned(2, None, Proof::Accepted { at })]);
    let fleet = world.decide(&known);
    assert_eq!(carrier(&fleet, "10.1.0.0/16"), "spoke-2");
    assert_eq!(fleet.peers()[&key(1)].allowed_ips.len(), 1);
}

#[test]
fn an_unproven_spoke_gets_no_address_that_is_another_sites() {
    let mut world = World::default();
    world.trust.proof = ProofMode::Require;
    world.sites = vec![site("dc", "10.1.0.0/24")];
    let fleet = world.decide(&inventory([gateway(1)]));
    assert_eq!(tunnel(&fleet, "spoke-1").address, None);
}

#[test]
fn while_a_key_changes_both_are_peers_and_one_carries() {
    let mut known = inventory([gateway(1)]);
    let view = known.partitions.get_mut(&partition("eu-west-1")).unwrap();
    view.pins.extend([pinned(1, Some(7), Proof::Missing)]);
    for (alive, carries, idle) in [(&[1][..], 1, 7), (&[1, 7], 7, 1)] {
        let peers = well(alive).decide(&known).peers();
        assert_eq!(peers[&key(carries)].allowed_ips.len(), 2);
        assert_eq!(peers[&key(idle)].allowed_ips.len(), 0);
        assert_eq!(peers[&key(1)].site, peers[&key(7)].site);
        // What is the spoke's own address is accepted from either.
        assert_eq!(
            peers[&key(1)].gateway.as_deref(),
            Some("i-00000000000000001")
        );
        assert_eq!(peers[&key(7)].gateway, peers[&key(1)].gateway);
    }
}

#[test]
fn an_announced_key_that_is_anothers_is_left_out() {
    let mut known = inventory([spoke(1, "10.1.0.0/16"), spoke(2, "10.2.0.0/16")]);
    let view = known.partitions.get_mut(&partition("eu-west-1")).unwrap();
    view.pins.extend([pinned(1, Some(2), Proof::Missing)]);
    let fleet = World::default().decide(&known);
    assert_eq!(tunnel(&fleet, "spoke-1").beside, None);
    assert!(tunnel(&fleet, "spoke-2").obstacle.is_none());
}

#[test]
fn notes_tell_what_does_not_keep_a_tunnel_from_being_up() {
    let mut published = spoke(1, "10.1.0.0/16");
    published.public_key = Some(key(8));
    let mut known = inventory([published]);
    let since = Timestamp::from_second(1).unwrap();
    let view = known.partitions.get_mut(&partition("eu-west-1")).unwrap();
    view.pins.extend([pinned(1, Some(7), Proof::Missing)]);
    view.failing_since = Some(since);
    let absence = Absence {
        fate: Fate::Stopped,
        since,
        answers: 1,
        kept: Kept::SecondAnswer,
    };
    view.absent
        .insert(spoke(1, "10.1.0.0/16").instance, absence);
    let fleet = World::default().decide(&known);
    assert_eq!(
        tunnel(&fleet, "spoke-1").notes,
        [
            Note::Absent {
                fate: Fate::Stopped,
                since,
                kept: Kept::SecondAnswer
            },
            Note::KeyQuarantined { key: key(8) },
            Note::KeyRotating { key: key(7) },
            Note::PartitionFailing { since },
        ]
    );
}

#[test]
fn a_site_whose_secret_is_not_known_has_no_tunnel_and_keeps_its_addresses() {
    let problem = || "preshared_key: /dc: it cannot be read".to_owned();
    let of_file = SiteSecret::Unreadable { problem: problem() };
    let of_ssm = SiteSecret::Awaited { problem: problem() };
    for (secret, state) in [(of_file, "rejected"), (of_ssm, "pending")] {
        let mut unreadable = site("dc", "10.200.0.0/16");
        unreadable.secret = secret;
        let inside = inventory([spoke(1, "10.200.7.0/24"), spoke(2, "10.2.0.0/16")]);
        let fleet = decide(&inside, &[unreadable]);
        assert_eq!(reason(&fleet, "dc"), format!("{state}: {}", problem()));
        assert_eq!(
            fleet.peers().len(),
            1,
            "the site's or the overlapping spoke's"
        );
        assert_eq!(fleet.cidrs().count(), 1);
    }
}
