//! The connections of an address that moves: told of as they come and go, entered and
//! forgotten, and what the guard lets pass.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use privnet_host::{Entered, Host, Timeouts};
use privnet_model::config::spoke::Protocol;
use privnet_model::connection::{Connection, Origin};
use privnet_reconcile::connections::Guard;
use privnet_reconcile::connections::roster::{News, Roster};

use crate::hosts::{connects, echo_server, seen, server, talker, wait_until};
use crate::traffic::{network, router};
use crate::world::{note, reconcile, sh, wait};

const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const TIMEOUTS: Timeouts = Timeouts {
    tcp: Duration::from_secs(350),
    udp: Duration::from_secs(350),
};

fn connection(protocol: Protocol, origin: Origin, host: u16, port: u16) -> Connection {
    Connection {
        protocol,
        origin,
        inside: SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 5), host),
        outside: SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 80), 7),
        port,
    }
}

fn enter(connections: &[Connection]) -> Entered {
    wait(Host::new().enter_connections(connections.to_vec(), OWN, TIMEOUTS)).unwrap()
}

fn listed() -> HashSet<Connection> {
    wait(Host::new().address_connections(OWN)).unwrap()
}

fn guard(guard: Guard) {
    wait(Host::new().guard(guard, OWN)).unwrap();
}

pub(crate) fn entered_and_forgotten() {
    network();
    let _echo = echo_server("internet", "0.0.0.0:7");
    let _server = server("internet", "0.0.0.0:80");
    reconcile(&router());
    // A stranger's, which is never touched.
    let mut stranger = talker("private", "192.0.2.80:7");
    let all = [
        connection(Protocol::Tcp, Origin::Inside, 1000, 1000),
        connection(Protocol::Tcp, Origin::Inside, 1001, 40_001),
        connection(Protocol::Udp, Origin::Inside, 1000, 1000),
        connection(Protocol::Tcp, Origin::Outside, 22, 2222),
    ];
    let entered = Entered {
        entered: 4,
        refused: 0,
    };
    assert_eq!(enter(&all), entered);
    assert_eq!(listed(), all.into());
    let table = sh("cat /proc/net/nf_conntrack");
    let line = table.lines().find(|line| line.contains("dport=40001"));
    for part in [
        "ESTABLISHED src=10.1.0.5 dst=192.0.2.80 sport=1001 dport=7 ",
        " src=192.0.2.80 dst=192.0.2.1 sport=7 dport=40001 [ASSURED]",
    ] {
        assert!(line.is_some_and(|line| line.contains(part)), "{table}");
    }
    // Again: what is there is replaced. Another host's at the same port is refused.
    let moved = connection(Protocol::Tcp, Origin::Inside, 1000, 50_000);
    let taken = connection(Protocol::Tcp, Origin::Inside, 1002, 40_001);
    let entered = Entered {
        entered: 4,
        refused: 1,
    };
    assert_eq!(enter(&[moved, all[1], all[2], all[3], taken]), entered);
    assert_eq!(listed(), [moved, all[1], all[2], all[3]].into());
    wait(Host::new().forget_connections()).unwrap();
    assert_eq!(listed(), HashSet::new());
    stranger.tell("");
    assert_eq!(stranger.hear(), "1");

    let many: Vec<_> = (1024..=u16::MAX)
        .take(20_000)
        .map(|port| connection(Protocol::Tcp, Origin::Inside, port, port))
        .collect();
    let began = Instant::now();
    assert_eq!(enter(&many).entered, 20_000);
    let entering = began.elapsed();
    let began = Instant::now();
    assert_eq!(listed().len(), 20_000);
    let listing = began.elapsed();
    let began = Instant::now();
    wait(Host::new().forget_connections()).unwrap();
    note(&format!(
        "20,000 connections: entered in {entering:?}, listed in {listing:?}, forgotten in {:?}",
        began.elapsed()
    ));
}

pub(crate) fn told_as_they_come_and_go() {
    network();
    let _echo = echo_server("internet", "0.0.0.0:7");
    let _server = server("internet", "0.0.0.0:80");
    reconcile(&router());
    // From before: nobody is told of it.
    let mut before = talker("private", "192.0.2.80:7");
    guard(Guard::Mark);
    let mut talking = None;
    let roster = wait(async {
        let mut events = Host::new().connection_events(OWN).unwrap();
        let mut roster = Roster::default();
        talking = Some(talker("private", "192.0.2.80:7"));
        assert_eq!(seen("private", "192.0.2.80:80"), "192.0.2.1");
        // Of the one that has ended both is told.
        let mut ended = false;
        while !(ended && roster.len() == 1) {
            let heard = tokio::time::timeout(Duration::from_secs(10), events.next());
            for news in heard.await.expect("events").unwrap() {
                ended |= matches!(news, News::Down(one) if one.outside.port() == 80);
                roster.hear(news);
            }
        }
        roster
    });
    // The list knows the same.
    let all: HashSet<_> = roster.all().into_iter().collect();
    assert_eq!(listed(), all);
    let [one] = roster.all()[..] else {
        panic!("{:?}", roster.all());
    };
    assert_eq!((one.protocol, one.origin), (Protocol::Tcp, Origin::Inside));
    assert_eq!(*one.inside.ip(), Ipv4Addr::new(10, 1, 0, 5));
    assert_eq!(
        one.outside,
        SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 80), 7)
    );
    let mut talking = talking.unwrap();
    talking.tell("");
    assert_eq!(talking.hear(), "1");

    // Nothing of it leaves while the address is elsewhere; what began before does.
    guard(Guard::Hold);
    let counted = || {
        let rules = sh("nft list table inet privnet_address");
        let counter = rules.split("counter packets ").nth(1).unwrap();
        let packets = counter.split(' ').next().unwrap();
        packets.parse::<u64>().unwrap()
    };
    talking.tell("");
    wait_until(counted, |packets| *packets > 0);
    before.tell("");
    assert_eq!(before.hear(), "1");
    guard(Guard::Settle);
    assert_eq!(talking.hear(), "2");
    // A reset is lost now: who is refused learns nothing of it.
    let rules = sh("nft list table inet privnet_address");
    assert!(rules.contains("tcp flags rst"), "{rules}");

    // One that the kernel has forgotten is picked up by it, but not while it is held.
    guard(Guard::Hold);
    wait(Host::new().forget_connections()).unwrap();
    talking.tell("");
    let held = || {
        let rules = sh("nft list table inet privnet_address");
        rules.matches("counter packets 0 ").count()
    };
    // Perhaps something of the other end's as well.
    wait_until(held, |unused| *unused <= 1);
    assert_eq!(listed(), HashSet::new());
    assert!(connects("private", "192.0.2.80:7").is_some());
    // Entered again, it goes on: both ends know nothing of all this.
    assert_eq!(enter(&[one]).entered, 1);
    guard(Guard::Mark);
    assert_eq!(talking.hear(), "3");
    wait(Host::new().remove_guard()).unwrap();
    wait(Host::new().remove_guard()).unwrap();
    assert!(!sh("nft list tables").contains("privnet_address"));
}
