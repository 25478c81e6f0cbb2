#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
use super::*;

fn tunnel() -> IpsecTunnel {
    let end = |address: &str, id: &str, selector: &str| TunnelEnd {
        address: Some(address.parse().unwrap()),
        id: id.parse().unwrap(),
        selectors: BTreeSet::from([selector.parse().unwrap()]),
    };
    IpsecTunnel {
        name: ConnectionName::of("dc-east").unwrap(),
        local: end("198.51.100.100", "198.51.100.100", "10.0.0.0/8"),
        remote: end("203.0.113.9", "fw.example.com", "10.200.0.0/16"),
        authentication: Authentication::PresharedKey,
        proposals: Proposals::Modern,
        role: IkeRole::Initiator,
        esp: EspBackEnd::Userspace,
        encapsulation: Encapsulation::Always,
        times: Times::default(),
    }
}

fn words(errors: &[impl ToString]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_connections_name_is_the_sites_with_our_mark() {
    let name = ConnectionName::of("dc-east").unwrap();
    assert_eq!(name.as_str(), "privnet-dc-east");
    assert_eq!(name.site(), "dc-east");
    assert_eq!(ConnectionName::ours("privnet-dc-east"), Some(name));
    assert_eq!(ConnectionName::ours("dc-east"), None);
    assert_eq!(ConnectionName::ours("privnet-"), None);
    for wrong in ["", "a b", "ü", "a/b", &"a".repeat(65)] {
        assert!(ConnectionName::of(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn an_identity_names_one_peer() {
    for right in [
        "203.0.113.9",
        "fw.example.com",
        "C=DE, O=Example, CN=fw",
        "a@b.c",
    ] {
        assert_eq!(right.parse::<IkeId>().unwrap().as_str(), right);
    }
    for wrong in ["", "%any", "*.example.com", "CN=*", "fw\n", " fw", "grün"] {
        assert!(wrong.parse::<IkeId>().is_err(), "{wrong}");
    }
}

/// What a virtual private or transit gateway takes: EC2's API reference,
/// `VpnTunnelOptionsSpecification`.
#[test]
fn the_default_tunnel_has_no_errors_and_suits_aws() {
    let tunnel = tunnel();
    assert_eq!(tunnel.errors(), []);
    assert!((900..=28_800).contains(&tunnel.times.ike_lifetime.as_secs()));
    assert!((900..=3_600).contains(&tunnel.times.child_lifetime.as_secs()));
}

#[test]
fn every_error_of_a_tunnel_is_told_at_once() {
    let mut wrong = tunnel();
    wrong.local.selectors = BTreeSet::from(["10.1.0.0/16".parse().unwrap()]);
    wrong.remote.selectors = BTreeSet::from([
        "10.1.0.0/16".parse().unwrap(),
        "203.0.113.0/24".parse().unwrap(),
    ]);
    wrong.times.child_lifetime = Duration::from_secs(60);
    wrong.times.dead_peer_delay = Duration::from_millis(500);
    assert_eq!(
        words(&wrong.errors()),
        [
            "privnet-dc-east: remote selector 10.1.0.0/16 = 10.1.0.0/16 is also a local one: \
             expected another",
            "privnet-dc-east: remote selector 203.0.113.0/24 holds the peer's own address \
             203.0.113.9: expected CIDRs without it, because userspace ESP would send its own \
             packets into the tunnel",
            "privnet-dc-east: child_lifetime = 60s: expected 2 minutes to 1 day",
            "privnet-dc-east: dead_peer_delay = 0.5s: expected 1 second to 1 hour",
        ]
    );
    let mut wrong = tunnel();
    wrong.remote.address = None;
    wrong.remote.selectors.clear();
    assert_eq!(
        words(&wrong.errors()),
        [
            "privnet-dc-east: remote selectors = []: expected at least one CIDR",
            "privnet-dc-east: remote address is not set: expected one, because this side initiates",
        ]
    );
}

#[test]
fn both_ends_have_the_same_families() {
    let mut wrong = tunnel();
    wrong
        .remote
        .selectors
        .insert("fd00:200::/64".parse().unwrap());
    assert_eq!(
        words(&wrong.errors()),
        [
            "privnet-dc-east: remote selector fd00:200::/64: expected one of the same family (IPv4 or \
          IPv6) at the other end, too"
        ]
    );
    wrong.local.selectors.insert("fd00:1::/64".parse().unwrap());
    assert_eq!(wrong.errors(), []);
}

#[test]
fn the_kernel_may_have_a_peer_inside_its_selectors() {
    let mut tunnel = tunnel();
    tunnel.remote.selectors = BTreeSet::from(["203.0.113.0/24".parse().unwrap()]);
    tunnel.esp = EspBackEnd::Kernel {
        if_id: NonZeroU32::new(7).unwrap(),
    };
    assert_eq!(tunnel.errors(), []);
}

#[test]
fn every_proposal_exchanges_keys_of_at_least_2048_bits() {
    for proposals in [Proposals::Modern, Proposals::Legacy] {
        for proposal in proposals.ike().iter().chain(proposals.esp()) {
            let group = proposal.rsplit('-').next().unwrap();
            assert!(
                ["ecp384", "ecp256", "modp2048"].contains(&group),
                "{proposal}"
            );
        }
        assert_eq!(proposals.esp()[0], "aes256gcm16-ecp384");
    }
}

#[test]
fn a_child_that_has_ended_carries_no_traffic_and_is_still_listed() {
    assert!(ChildState::from_word("REKEYING").carries_traffic());
    assert!(!ChildState::from_word("DELETED").carries_traffic());
    let newer = ChildState::from_word("HIBERNATING");
    assert_eq!(newer.word(), "HIBERNATING");
    assert!(!newer.carries_traffic());
}
