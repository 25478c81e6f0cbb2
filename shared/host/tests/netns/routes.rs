//! Routes in the kernel.

use std::io::{Write, stderr};
use std::time::{Duration, Instant};

use privnet_host::HostError;
use privnet_reconcile::host::{DesiredHost, HostPlan};
use privnet_reconcile::route::{Route, RouteTarget};

use crate::world::{
    apply, desired_routes, fetch, foreign_routes, interfaces, plan, reconcile, route, sh, through,
    via, words,
};

pub(crate) fn made_changed_removed() {
    interfaces();
    sh(
        "ip route add 172.16.0.0/12 via 10.1.0.1 dev lan proto static
        ip route add 10.9.0.0/16 dev lan proto 186
        ip route add default via 10.1.0.1 dev lan proto dhcp metric 100
        ip route add 10.7.0.0/16 dev lan proto 80 table 100
        ip route add fd07::/32 dev lan proto 80 table 1000
        ip -6 route add fd09::/32 via fd01::1 dev lan proto static",
    );
    let foreign = foreign_routes();
    let other_tables = sh("ip route show table 100; ip -6 route show table 1000");
    let all = [
        route("10.0.0.0/8", through("tunnel")).with_source("10.1.0.10".parse().unwrap()),
        route("10.1.0.0/16", via("10.1.0.1", "lan")),
        route("10.99.0.0/16", RouteTarget::Unreachable),
        route("fd00::/8", through("tunnel")).with_source("fd01::10".parse().unwrap()),
        route("fd02::/64", via("fd01::1", "lan")),
        route("fd99::/32", RouteTarget::Unreachable),
        Route {
            metric: 0,
            ..route("10.98.0.1/15", through("tunnel"))
        },
        Route {
            metric: 0,
            ..route("fd98::1/32", through("tunnel"))
        },
        route("0.0.0.0/0", via("10.1.0.1", "lan")),
        route("::/0", via("fd01::1", "lan")),
        // IPv4 by an IPv6 router, as EC2's newest instances may have it.
        route("10.97.0.0/16", via("fd01::1", "lan")),
    ];
    assert_eq!(reconcile(&desired_routes(all.clone())).len(), all.len());
    assert!(
        sh("ip route show proto 80")
            .contains("10.0.0.0/8 dev tunnel scope link src 10.1.0.10 metric 80")
    );

    let changed = [
        route("10.0.0.0/8", RouteTarget::Unreachable),
        route("10.1.0.0/16", through("tunnel")),
        route("10.99.0.0/16", via("10.1.0.2", "lan")),
        route("fd00::/8", RouteTarget::Unreachable),
        route("fd02::/64", through("tunnel")),
        route("fd99::/32", via("fd01::2", "lan")),
    ];
    let changes = reconcile(&desired_routes(changed));
    let count = |word: &str| {
        changes
            .iter()
            .filter(|change| change.starts_with(word))
            .count()
    };
    assert_eq!(
        (count("replace "), count("remove "), count("add ")),
        (6, 5, 0),
        "{changes:?}"
    );

    assert_eq!(reconcile(&DesiredHost::new()).len(), 6);
    assert_eq!(foreign_routes(), foreign);
    assert_eq!(
        sh("ip route show table 100; ip -6 route show table 1000"),
        other_tables
    );
}

pub(crate) fn foreign_in_our_place() {
    interfaces();
    sh("ip route add 10.0.0.0/8 dev lan proto static metric 80
        ip -6 route add fd00::/8 dev lan proto static metric 80");
    let foreign = foreign_routes();
    let desired = desired_routes([
        route("10.0.0.0/8", through("tunnel")),
        route("10.5.0.0/16", through("tunnel")),
        route("fd00::/8", through("tunnel")),
        route("fd05::/16", through("tunnel")),
        route("10.6.0.0/16", through("missing")),
    ]);
    let outcomes: Vec<String> = apply(&plan(&desired))
        .into_iter()
        .map(|(change, result)| match result {
            Ok(()) => format!("{change}: made"),
            Err(error @ HostError::RouteTaken { .. }) => error.to_string(),
            Err(error @ HostError::NoInterface { .. }) => error.to_string(),
            Err(error) => panic!("{change}: {error:?}"),
        })
        .collect();
    assert_eq!(
        outcomes,
        [
            "cannot add route 10.0.0.0/8 dev tunnel: a route that is not ours has the same destination and metric 80",
            "add route 10.5.0.0/16 dev tunnel: made",
            "there is no interface missing",
            "cannot add route fd00::/8 dev tunnel: a route that is not ours has the same destination and metric 80",
            "add route fd05::/16 dev tunnel: made",
        ]
    );
    // Nor is it removed in ours' stead.
    reconcile(&DesiredHost::new());
    assert_eq!(foreign_routes(), foreign);
}

pub(crate) fn altered_by_hand() {
    interfaces();
    let desired = desired_routes([
        route("10.0.0.0/8", through("tunnel")),
        route("fd00::/8", through("tunnel")),
        route("fd03::/16", via("fd01::1", "lan")),
    ]);
    reconcile(&desired);
    sh(
        "ip route replace 10.0.0.0/8 proto 80 metric 80 nexthop dev tunnel nexthop dev lan
        ip -6 route replace blackhole fd00::/8 proto 80 metric 80
        ip -6 route append fd03::/16 proto 80 metric 80 via fd01::2 dev lan
        ip route add blackhole 10.44.0.0/16 proto 80
        ip route append 10.44.0.0/16 dev lan proto 80
        ip route add 10.45.0.0/16 dev lan proto 80 mtu 1300",
    );
    // Several of ours in one place may take more than one round.
    for _ in 0..3 {
        for (change, result) in apply(&plan(&desired)) {
            result.unwrap_or_else(|error| panic!("{change}: {error:?}"));
        }
    }
    assert!(plan(&desired).is_empty(), "{:?}", words(&plan(&desired)));
    assert_eq!(
        sh("ip route show proto 80"),
        "10.0.0.0/8 dev tunnel scope link metric 80 \n"
    );
}

pub(crate) fn ten_thousand() {
    interfaces();
    let route = |number: u32| {
        let destination = format!("10.{}.{}.0/24", number / 256 + 64, number % 256);
        route(&destination, through("tunnel"))
    };
    let desired = desired_routes((0..10_000).map(route));
    let timed = |what: &str, desired: &DesiredHost| {
        let actual = fetch(desired);
        let start = Instant::now();
        let plan = HostPlan::new(desired, &actual);
        let planned = start.elapsed();
        assert_eq!(plan.changes().len(), 10_000);
        let start = Instant::now();
        let outcomes = apply(&plan);
        let applied = start.elapsed();
        assert!(outcomes.iter().all(|(_, result)| result.is_ok()));
        let start = Instant::now();
        let left = fetch(desired).routes.len();
        assert_eq!(left, desired.routes.len());
        let fetched = start.elapsed();
        let _ = writeln!(
            stderr(),
            "{what} in {applied:?}, planned in {planned:?}, fetched in {fetched:?}"
        );
        assert!(applied < Duration::from_secs(10), "{what} took {applied:?}");
    };
    timed("10,000 routes added", &desired);
    assert!(plan(&desired).is_empty());
    timed("10,000 routes removed", &DesiredHost::new());
}
