#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
use super::*;
use crate::fleet::fixtures::{World, id, inventory, key, partition, site as static_site, spoke};
use crate::health::Health;
use crate::ipsec::ledger::Report;
use crate::observe::{self, Link, Rates};
use crate::policy::PolicyInput;
use jiff::Timestamp;
use privnet_model::config::hub::{PolicyRule, Selector};
use privnet_model::inventory::{Absence, Fate, Pin, Proof, TagProblem};
use privnet_model::ipsec::{ConnectionName, IkeFailure};
use privnet_model::peer::{PeerConfig, PeerStatus};
use privnet_model::status::{IpsecStatus, Kept, Reason, Role, TunnelState};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

const NOW: u64 = 1_000_000;

/// What is known, and who is alive.
struct Scene {
    world: World,
    inventory: Inventory,
    rules: Vec<PolicyRule>,
    ipsec: BTreeMap<ConnectionName, Report>,
}

impl Scene {
    fn new(spokes: impl IntoIterator<Item = SpokeRecord>, alive: &[u32]) -> Self {
        let world = World {
            sites: vec![static_site("dc", "10.200.0.0/16")],
            alive: alive.iter().map(|n| key(*n)).collect(),
            ..World::default()
        };
        Self {
            world,
            inventory: inventory(spokes),
            rules: Vec::new(),
            ipsec: BTreeMap::new(),
        }
    }

    fn view(&mut self) -> &mut PartitionView {
        let partition = partition("eu-west-1");
        self.inventory.partitions.get_mut(&partition).unwrap()
    }

    fn ask(&self, subject: &str, towards: Option<&str>) -> (bool, String) {
        let fleet = self.world.decide(&self.inventory);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        let tunnels = fleet.tunnels.values().map(|planned| {
            let alive = planned
                .public_key
                .filter(|key| self.world.alive.contains(key));
            let peer = alive.map(|key| PeerStatus {
                key,
                config: PeerConfig::default(),
                last_handshake: Some(now - Duration::from_secs(12)),
                rx_bytes: 0,
                tx_bytes: 0,
            });
            let sa = planned.ipsec.as_ref().map(|ipsec| &ipsec.tunnel.name);
            let sa = sa.and_then(|name| self.ipsec.get(name));
            let link = match sa {
                Some(report) => Link::Ipsec(report),
                None => Link::Wireguard(peer.as_ref()),
            };
            observe::tunnel(planned, link, Rates::default(), now)
        });
        let at = Timestamp::from_second(NOW as i64).unwrap();
        let status = Status {
            role: Role::Hub,
            version: "1".to_owned(),
            started: at,
            now: at,
            instance: None,
            privnet: Supernet::new(["10.0.0.0/8".parse().unwrap()]).unwrap(),
            interface: None,
            charon: None,
            nat: None,
            tunnels: tunnels.collect(),
            partitions: Vec::new(),
            next_poll: None,
            held_removals: None,
            policy: Vec::new(),
            routes: None,
            problems: Vec::new(),
        };
        let hub_cidrs = ["10.0.0.0/16".parse().unwrap()];
        let policy = Policy::compile(PolicyInput {
            rules: &self.rules,
            fleet: &fleet,
            inventory: &self.inventory,
            hub_cidrs: &hub_cidrs,
            control: "169.254.77.1".parse().unwrap(),
        })
        .unwrap();
        let input = WhyInput {
            privnet: &status.privnet,
            hub_vpc: &"vpc-ffffffff".parse().unwrap(),
            hub_cidrs: &hub_cidrs,
            fleet: &fleet,
            inventory: &self.inventory,
            status: &status,
            policy: &policy,
        };
        let answer = explain(&input, subject, towards);
        (answer.connected, answer.text)
    }
}

#[test]
fn a_living_tunnel_is_told_by_each_of_its_names() {
    let scene = Scene::new([spoke(1, "10.1.0.0/16")], &[1]);
    let told = "spoke-1 is the spoke i-00000000000000001 of vpc-00000000000000001 in \
                111122223333/eu-west-1. Its tunnel is up (last handshake 12 s ago). It carries \
                10.1.0.0/16.";
    for name in ["spoke-1", "i-00000000000000001"] {
        assert_eq!(scene.ask(name, None), (true, told.to_owned()));
    }
    let address = format!("10.1.2.3 is in 10.1.0.0/16, which vpc-00000000000000001 has. {told}");
    assert_eq!(scene.ask("10.1.2.3", None), (true, address));
    let (connected, vpc) = scene.ask("vpc-00000000000000001", None);
    assert!(connected && vpc.starts_with("vpc-00000000000000001 is a site with 1 gateway,"));
}

#[test]
fn what_has_no_tunnel_is_told_with_the_reason() {
    let mut keyless = spoke(1, "10.1.0.0/16");
    keyless.public_key = None;
    let mut odd = spoke(3, "10.3.0.0/16");
    odd.tag_problems.push(TagProblem {
        tag: "privnet:port".to_owned(),
        value: "x".to_owned(),
        expected: "a UDP port".to_owned(),
    });
    let scene = Scene::new([keyless, odd, spoke(4, "10.200.7.0/24")], &[]);
    for (subject, expected) in [
        (
            "spoke-1",
            "Its tunnel is pending: no privnet:public-key tag.",
        ),
        (
            "10.1.0.0/24",
            "spoke-1 would carry 10.1.0.0/16, but has no tunnel: no privnet:public-key tag.",
        ),
        (
            "10.3.0.1",
            "but has no tunnel: tag privnet:port is `x`, expected a UDP port.",
        ),
        (
            "spoke-4",
            "10.200.7.0/24 is left out: it overlaps 10.200.0.0/16 of dc.",
        ),
        (
            "dc",
            "dc is a [[site]] of the config. Its tunnel is connecting: no handshake yet.",
        ),
        (
            "10.99.0.0/16",
            "No VPC with a spoke has it, and no [[site]] of the config does.",
        ),
        (
            "8.8.8.8",
            "8.8.8.8 is not inside the privnet (10.0.0.0/8), so no tunnel carries it.",
        ),
        (
            "spok-1",
            "Nothing here is called `spok-1`. Is it spoke-1 or spoke-3 or spoke-4?",
        ),
        (
            "i-aaaaaaaaaaaaaaaaa",
            "EC2 does not list it as running with the tags of [discovery]",
        ),
    ] {
        let (connected, text) = scene.ask(subject, None);
        assert!(!connected, "{subject}");
        assert!(text.contains(expected), "{subject}: {text}");
    }
}

#[test]
fn the_hubs_own_vpc_needs_no_tunnel() {
    let scene = Scene::new([], &[]);
    for subject in ["10.0.3.4", "vpc-ffffffff"] {
        let (connected, text) = scene.ask(subject, None);
        assert!(connected && text.contains("without a tunnel"), "{text}");
    }
}

#[test]
fn held_quarantined_and_stale_knowledge_is_told() {
    let mut published = spoke(1, "10.1.0.0/16");
    published.public_key = Some(key(8));
    let mut scene = Scene::new([published], &[1]);
    let since = Timestamp::from_second(500_000).unwrap();
    let view = scene.view();
    let instance = spoke(1, "10.1.0.0/16").instance;
    let pin = Pin {
        key: key(1),
        next: None,
        proof: Proof::Missing,
    };
    view.pins.insert(instance.clone(), pin);
    let absence = Absence {
        fate: Fate::Terminated,
        since,
        answers: 1,
        kept: Kept::TooMany,
    };
    view.absent.insert(instance, absence);
    view.error = Some("throttled".to_owned());
    view.failing_since = Some(since);
    view.answered_at = Some(since);
    let (connected, text) = scene.ask("spoke-1", None);
    assert!(connected);
    for expected in [
        "EC2 says terminated since 1970-01-06T18:53:20Z; held: too many would go at once.",
        "Published another key (",
        "EC2 answered for 111122223333/eu-west-1 at 1970-01-06T18:53:20Z for the last time; since \
         then: throttled.",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    let (_, text) = scene.ask("10.77.0.0/16", None);
    assert!(
        text.contains("What is new in 111122223333/eu-west-1 is not known here"),
        "{text}"
    );
}

#[test]
fn a_standby_tells_who_carries_its_site() {
    let gateway = |n| SpokeRecord {
        vpc: Some("vpc-11111111".parse().unwrap()),
        ..spoke(n, "10.1.0.0/16")
    };
    let mut scene = Scene::new([gateway(1), gateway(2)], &[1, 2]);
    scene.world.health = [(id(1), Health::Up), (id(2), Health::Up)].into();
    let (connected, text) = scene.ask("spoke-2", None);
    assert!(
        connected && text.ends_with("It stands by: spoke-1 carries its site."),
        "{text}"
    );
    let (_, text) = scene.ask("10.1.0.1", Some("10.1.9.9"));
    assert!(text.contains("are both in vpc-11111111"), "{text}");
}

#[test]
fn the_way_between_two_places_is_told_with_the_rule_that_decides() {
    let mut scene = Scene::new([spoke(1, "10.1.0.0/16"), spoke(2, "10.2.0.0/16")], &[1, 2]);
    let (connected, text) = scene.ask("10.1.0.1", Some("spoke-2"));
    assert!(connected);
    assert!(
        text.starts_with(
            "No rule of [[policy]] stands against it. The way is 10.1.0.1, vpc-00000000000000001, \
             the hub, vpc-00000000000000002, 10.2.0.0."
        ),
        "{text}"
    );
    scene.rules = vec![PolicyRule {
        allow: false,
        between: vec![Selector::Cidr("10.1.0.0/24".parse().unwrap())],
        and: vec![Selector::Any],
    }];
    let (connected, text) = scene.ask("10.1.0.1", Some("10.2.0.1"));
    assert!(!connected);
    assert!(
        text.starts_with(
            "The policy forbids traffic between 10.1.0.1 and 10.2.0.1: rule 1 of [[policy]] is \
             the first that fits (deny between 10.1.0.0/24 and any)."
        ),
        "{text}"
    );
    scene.rules.clear();
    scene.world.alive.remove(&key(2));
    let (connected, text) = scene.ask("10.1.0.1", Some("10.2.0.1"));
    assert!(
        !connected && text.contains("Its tunnel is connecting"),
        "{text}"
    );
}

#[test]
fn a_tunnel_by_ipsec_is_told_as_any_other_and_is_not_up_because_ike_is() {
    let mut by_ipsec = spoke(1, "10.1.0.0/16");
    by_ipsec.transport = Transport::Ipsec;
    let mut scene = Scene::new([by_ipsec, spoke(2, "10.2.0.0/16")], &[2]);
    scene.world.fleet_secret = Some("a secret of the whole fleet, long enough".parse().unwrap());
    let name = ConnectionName::of(&format!("i-{:017x}", 1)).unwrap();
    let report = |state, reason| Report {
        state,
        reason,
        ..Report::unknown()
    };
    let failure = IkeFailure::WrongPresharedKey {
        peer: "fw.example".to_owned(),
    };
    for (reason, expected) in [
        (
            Reason::IkeOnly,
            "Its IPsec tunnel is connecting: IKE is up, and ESP is not",
        ),
        (
            Reason::Ike { failure },
            "Its IPsec tunnel is connecting: wrong preshared key",
        ),
    ] {
        let down = report(TunnelState::Connecting, Some(reason));
        scene.ipsec.insert(name.clone(), down);
        let (connected, text) = scene.ask("10.1.0.1", Some("10.2.0.1"));
        assert!(!connected && text.contains(expected), "{text}");
    }
    let status = IpsecStatus {
        local_selectors: vec!["10.0.0.0/8".to_owned()],
        remote_selectors: vec!["10.1.0.0/16".to_owned()],
        ..IpsecStatus::default()
    };
    let up = Report {
        status,
        ..report(TunnelState::Up, None)
    };
    scene.ipsec.insert(name, up);
    for (from, to) in [("10.1.0.1", "10.2.0.1"), ("10.2.0.1", "10.1.0.1")] {
        let (connected, text) = scene.ask(from, Some(to));
        let agreed = "Agreed selectors: 10.0.0.0/8 here, 10.1.0.0/16 there.";
        assert!(connected && text.contains(agreed), "{text}");
    }
    scene.rules = vec![PolicyRule {
        allow: false,
        between: vec![Selector::Cidr("10.1.0.0/24".parse().unwrap())],
        and: vec![Selector::Any],
    }];
    let (connected, text) = scene.ask("10.2.0.1", Some("10.1.0.1"));
    assert!(
        !connected && text.starts_with("The policy forbids traffic"),
        "{text}"
    );
}
