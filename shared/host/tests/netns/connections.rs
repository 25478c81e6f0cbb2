//! Connections over time: while rules are replaced, after they were idle, and
//! when there are too many.

use std::time::{Duration, Instant};

use privnet_host::Host;
use privnet_model::config::spoke::{NatConfig, PortRange};
use privnet_reconcile::conntrack::{Destinations, Trouble, Watch};
use privnet_reconcile::ruleset::Flowtable;
use privnet_reconcile::sysctl;

use crate::hosts::{asker, connects, echo_server, seen, server, talker, wait_until};
use crate::rules::rules;
use crate::traffic::{network, router};
use crate::world::{apply, name, note, plan, reconcile, sh, wait};

pub(crate) fn replaced_while_in_use() {
    network();
    let _echo = echo_server("internet", "0.0.0.0:7");
    let _server = server("internet", "0.0.0.0:80");
    let mut desired = router();
    reconcile(&desired);
    let mut running = talker("private", "192.0.2.80:7");
    running.tell("stream");
    let new = asker("private", "192.0.2.80:80");
    for round in 0..20 {
        // Two texts by turns, so that each is loaded.
        let ports = PortRange::new(20_000, if round % 2 == 0 { 60_000 } else { 50_000 });
        let ruleset = desired.ruleset.as_mut().unwrap();
        ruleset.egress.as_mut().unwrap().ports = ports;
        assert_eq!(reconcile(&desired).len(), 1);
    }
    // Nobody left with its private address, which this internet would answer.
    let answers = new.finish();
    let mut words = answers.split(' ');
    assert_eq!(words.next(), Some("192.0.2.1"), "{answers}");
    assert_eq!(answers.lines().count(), 1, "{answers}");
    let rounds: u64 = running.finish().trim().parse().unwrap();
    assert!(rounds > 20, "only {rounds} rounds");
    // TCP itself would send again and hide a loss.
    let connections = wait(Host::new().connections()).unwrap();
    assert_eq!((connections.dropped, connections.insert_failed), (0, 0));
    note(&format!(
        "{rounds} rounds of one connection and {answers} new ones meanwhile"
    ));
}

/// After a pause longer than the table's memory the kernel takes the next packet
/// of the private host for a new connection (`nf_conntrack_tcp_loose`) and finds
/// it the same port.
pub(crate) fn idle() {
    network();
    let _echo = echo_server("internet", "0.0.0.0:7");
    let mut desired = router();
    let short = sysctl::connection_tracking(Duration::from_secs(1), None);
    desired.sysctls.extend(short);
    reconcile(&desired);
    let mut idle = talker("private", "192.0.2.80:7");
    idle.tell("");
    assert_eq!(idle.hear(), "1");
    // The list leaves out what is over; the count only follows with time.
    let remembered = || sh("cat /proc/net/nf_conntrack").contains(" dport=7 ");
    assert!(remembered());
    wait_until(remembered, |remembered| !remembered);
    idle.tell("");
    assert_eq!(idle.hear(), "2");
    assert!(remembered());
}

pub(crate) fn ports_used_up() {
    network();
    let _echo = echo_server("internet", "0.0.0.0:7");
    let _server = server("internet", "0.0.0.0:80");
    let mut desired = router();
    let ruleset = desired.ruleset.as_mut().unwrap();
    ruleset.egress.as_mut().unwrap().ports = PortRange::new(40_000, 40_003);
    reconcile(&desired);
    let mut watch = Watch::default();
    let mut look = || {
        let connections = wait(Host::new().connections()).unwrap();
        watch.sample(Instant::now(), connections);
        watch.troubles(Instant::now())
    };
    assert_eq!(look(), []);
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(connects("private", "192.0.2.80:7").expect("a free port"));
    }
    assert_eq!(look(), []);
    assert!(connects("private", "192.0.2.80:7").is_none());
    let troubles = look();
    assert!(
        matches!(
            troubles[..],
            [Trouble::PortsUsedUp {
                connections: 1..,
                ..
            }]
        ),
        "{troubles:?}"
    );
    let busiest = || {
        let nat = NatConfig {
            ports: PortRange::new(40_000, 40_003),
            ..NatConfig::default()
        };
        let counted = wait(Host::new().destinations(Destinations::of(&nat))).unwrap();
        let told = counted.busiest();
        let told = told
            .iter()
            .map(|one| (one.destination.to_string(), one.connections));
        told.collect::<Vec<_>>()
    };
    let four = ("192.0.2.80:7".to_owned(), 4);
    assert_eq!(busiest()[0], four);
    // Towards another destination the same ports are free.
    assert_eq!(seen("private", "192.0.2.80:80"), "192.0.2.1");
    let other = ("192.0.2.80:80".to_owned(), 1);
    assert_eq!(busiest(), [four, other]);
    for mut one in held {
        one.tell("");
        assert_eq!(one.hear(), "1");
    }
}

/// This works on any kernel; what it says of the short cut has to be so.
pub(crate) fn kernel() {
    sh("ip link add wan type veth peer name far; ip link set wan up");
    let kernel = wait(Host::new().kernel(&name("wan"))).unwrap();
    assert_eq!(sh("nft list tables"), "");
    assert!(kernel.memory > 64 << 20, "{kernel:?}");
    assert!(!kernel.sets_conntrack_size, "not the first namespace");

    let mut desired = rules(&["10.1.0.0/16"]);
    desired.ruleset.as_mut().unwrap().flowtable = Some(Flowtable {
        devices: [name("wan")].into(),
    });
    match &kernel.flowtable {
        Ok(()) => assert_eq!(reconcile(&desired).len(), 1),
        Err(why) => {
            let error = apply(&plan(&desired)).pop().unwrap().1.unwrap_err();
            assert!(error.to_string().contains(why), "{error} is not: {why}");
            assert_eq!(sh("nft list tables"), "");
        }
    }
    let nowhere = wait(Host::new().kernel(&name("nowhere"))).unwrap();
    assert!(nowhere.flowtable.is_err());
    note(&format!("flowtables: {:?}", kernel.flowtable));
}

/// One leg, as on EC2: `host` and `web` lie behind the one interface `wan`, the
/// internet's namespace plays the VPC's router, which sends what `host` says
/// to us. On a kernel without flowtables it has to work just the same.
pub(crate) fn short_cut() {
    network();
    sh("for far in host web; do
            ip netns add $far
            ip link add $far netns internet type veth peer name eth0 netns $far
            ip -n $far link set lo up
            ip -n $far link set eth0 up
            ip -n internet link set $far up
        done
        ip -n host address add 10.1.9.9/24 dev eth0
        ip -n web address add 198.51.100.80/24 dev eth0
        ip -n internet address add 10.1.9.1/24 dev host
        ip -n internet address add 198.51.100.1/24 dev web
        ip -n host route add default via 10.1.9.1
        ip -n web route add default via 198.51.100.1
        ip netns exec internet sysctl -qw net.ipv4.ip_forward=1
        ip -n internet rule add iif host table 7
        ip -n internet route add default via 192.0.2.1 table 7
        ip route add 10.1.9.0/24 via 192.0.2.80
        ip route add 198.51.100.0/24 via 192.0.2.80");
    let _echo = echo_server("web", "0.0.0.0:7");
    let _server = server("web", "0.0.0.0:80");
    let kernel = wait(Host::new().kernel(&name("wan"))).unwrap();
    let flowtable = kernel.flowtable.is_ok().then(|| Flowtable {
        devices: [name("wan")].into(),
    });
    let mut desired = router();
    desired.ruleset.as_mut().unwrap().flowtable = flowtable;
    reconcile(&desired);
    let offloaded = || sh("cat /proc/net/nf_conntrack").contains("[OFFLOAD]");

    assert_eq!(seen("host", "198.51.100.80:80"), "192.0.2.1");
    let mut running = talker("host", "198.51.100.80:7");
    for round in 1..=100 {
        running.tell("");
        assert_eq!(running.hear(), round.to_string());
    }
    assert_eq!(offloaded(), kernel.flowtable.is_ok());
    // What is forwarded past the rules goes on when they are replaced.
    running.tell("stream");
    for first in [20_000, 30_000, 20_000, 30_000] {
        let egress = &mut desired.ruleset.as_mut().unwrap().egress;
        egress.as_mut().unwrap().ports = PortRange::new(first, 60_000);
        assert_eq!(reconcile(&desired).len(), 1);
    }
    desired.ruleset.as_mut().unwrap().flowtable = None;
    reconcile(&desired);
    assert_eq!(seen("host", "198.51.100.80:80"), "192.0.2.1");
    let rounds: u64 = running.finish().trim().parse().unwrap();
    note(&format!(
        "{rounds} rounds, flowtables: {:?}",
        kernel.flowtable
    ));
}
