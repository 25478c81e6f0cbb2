//! Interfaces, addresses and sysctls in the kernel.

use privnet_host::{Host, HostError, Scope};
use privnet_reconcile::host::{ActualHost, DesiredHost, HostPlan};
use privnet_reconcile::ruleset::{Ruleset, TunnelClamp};
use privnet_reconcile::sysctl::{self, SysctlKey};
use privnet_reconcile::xfrm::XfrmInterface;

use crate::world::{
    apply, desired_routes, interfaces, name, plan, reconcile, route, sh, through, wait,
};

pub(crate) fn addresses() {
    interfaces();
    let lan = sh("ip -o address show dev lan");
    let automatic = sh("ip -o address show dev tunnel");
    let desired = |addresses: &[&str]| DesiredHost {
        addresses: addresses
            .iter()
            .map(|address| (name("tunnel"), address.parse().unwrap()))
            .collect(),
        sysctls: sysctl::forwarding(&name("lan"), Some(&name("tunnel"))),
        ..DesiredHost::new()
    };
    reconcile(&desired(&[]));
    let changes = reconcile(&desired(&["10.255.0.1/32", "fd00:ffff::1/128"]));
    assert_eq!(
        changes,
        [
            "add address 10.255.0.1/32 dev tunnel",
            "add address fd00:ffff::1/128 dev tunnel",
        ]
    );
    let tentative = sh("ip -o -6 address show dev tunnel scope global tentative");
    assert_eq!(tentative, "");
    let changes = reconcile(&desired(&["10.255.0.2/24", "fd00:ffff::1/128"]));
    assert_eq!(
        changes,
        [
            "add address 10.255.0.2/24 dev tunnel",
            "remove address 10.255.0.1/32 dev tunnel",
        ]
    );
    // The new address is a secondary one of the old one's subnet and stays.
    reconcile(&desired(&["10.255.0.3/24"]));
    reconcile(&desired(&[]));
    assert_eq!(sh("ip -o address show dev lan"), lan);
    let left = sh("ip -o address show dev tunnel");
    assert_eq!(left.lines().count(), automatic.lines().count(), "{left}");
}

/// Not every kernel has them: one that has not says so.
pub(crate) fn xfrm() {
    interfaces();
    let interface = XfrmInterface::new(42.try_into().unwrap());
    let name = XfrmInterface::name(interface.if_id);
    let clamp = TunnelClamp {
        interface: XfrmInterface::pattern(),
        mtu: 1400,
    };
    let desired = DesiredHost {
        xfrm: [interface].into(),
        routes: [route("10.200.0.0/16", through(name.as_str()))].into(),
        sysctls: sysctl::forwarding(&crate::world::name("lan"), Some(&name)),
        ruleset: Some(Ruleset {
            tunnels: vec![clamp],
            ..Ruleset::default()
        }),
        ..DesiredHost::new()
    };
    let plan = plan(&desired);
    let results = apply(&plan);
    let rules = sh("nft list table inet privnet");
    assert!(rules.contains("iifname \"pnesp-*\""), "{rules}");
    match results.into_iter().find_map(|(_, result)| result.err()) {
        None => {
            // Taken down by somebody, it is set up again, with the routes that went with it.
            assert_eq!(reconcile(&desired), Vec::<String>::new());
            sh(&format!("ip link set {name} down mtu 1300"));
            let changes = reconcile(&desired);
            assert!(
                changes[0].starts_with("set interface pnesp-0000002a"),
                "{changes:?}"
            );
            reconcile(&DesiredHost::new());
            assert!(!sh("ip link show").contains("pnesp-"));
        }
        Some(HostError::NoXfrmInterfaces) => {
            let error = sh("ip link add probe type xfrm if_id 1 2>&1 || true");
            assert!(
                error.contains("Unknown device type") || error.contains("not supported"),
                "{error}"
            );
        }
        Some(error) => panic!("{error}"),
    }
}

pub(crate) fn found_by_mac() {
    interfaces();
    let host = Host::new();
    let mac = "02:00:00:00:00:01".parse().unwrap();
    let found = wait(host.primary_interface(mac)).unwrap();
    assert_eq!((found.name, found.mtu, found.up), (name("lan"), 1500, true));
    let mac = "02:00:00:00:00:99".parse().unwrap();
    let error = wait(host.primary_interface(mac)).unwrap_err().to_string();
    assert!(error.contains("lan (02:00:00:00:00:01)"), "{error}");
    assert_eq!(wait(host.interface(&name("tunnel"))).unwrap().mtu, 1420);
    let missing = wait(host.interface(&name("missing"))).unwrap_err();
    assert_eq!(missing.to_string(), "there is no interface missing");
}

pub(crate) fn default_gateway() {
    interfaces();
    let host = Host::new();
    let gateway = |interface| wait(host.default_gateway(&name(interface))).unwrap();
    assert_eq!(gateway("lan"), None);
    sh("ip -6 route add default via fd01::1 dev lan");
    assert_eq!(gateway("lan"), Some("fd01::1".parse().unwrap()));
    sh("ip route add default via 10.1.0.2 dev lan metric 200
        ip route add default via 10.1.0.1 dev lan metric 100
        ip route add default via 10.1.0.3 dev lan table 100");
    assert_eq!(gateway("lan"), Some("10.1.0.1".parse().unwrap()));
    assert_eq!(gateway("tunnel"), None);
}

pub(crate) fn sysctls() {
    interfaces();
    // A name with a dot is why keys are written with slashes.
    sh("ip link add lan.7 type veth peer name lan7-far");
    let mut desired = DesiredHost {
        sysctls: sysctl::forwarding(&name("lan.7"), Some(&name("tunnel"))),
        ..DesiredHost::new()
    };
    let key = |path: &str| SysctlKey::new(path).unwrap();
    desired.sysctls.insert(
        key("net/ipv4/ip_local_port_range"),
        "20000 30000".to_owned(),
    );
    sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
    let changes = reconcile(&desired);
    assert_eq!(changes[0], "set sysctl net/ipv4/ip_forward to 1");
    assert_eq!(
        sh("cat /proc/sys/net/ipv4/conf/lan.7/send_redirects"),
        "0\n"
    );

    desired
        .sysctls
        .insert(key("net/ipv4/conf/gone/rp_filter"), "0".to_owned());
    desired
        .sysctls
        .insert(key("net/ipv4/ip_forward"), "0".to_owned());
    desired
        .sysctls
        .insert(key("net/ipv4/tcp_ecn"), "nonsense".to_owned());
    let outcomes = apply(&plan(&desired));
    let failed = |outcome: &Result<(), HostError>| outcome.as_ref().unwrap_err().to_string();
    assert_eq!(outcomes.len(), 3);
    assert!(outcomes[0].1.is_ok());
    assert_eq!(
        failed(&outcomes[1].1),
        "there is no sysctl net/ipv4/conf/gone/rp_filter"
    );
    assert_eq!(
        failed(&outcomes[2].1),
        "cannot write sysctl net/ipv4/tcp_ecn"
    );
    assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward"), "0\n");
}

pub(crate) fn without_privileges() {
    let clamp = TunnelClamp {
        interface: name("lo").into(),
        mtu: 1420,
    };
    let desired = DesiredHost {
        addresses: [(name("lo"), "10.255.0.1/32".parse().unwrap())].into(),
        ruleset: Some(Ruleset {
            tunnels: vec![clamp],
            ..Ruleset::default()
        }),
        ..desired_routes([route("10.0.0.0/8", through("lo"))])
    };
    let nothing = HostPlan::new(&desired, &ActualHost::new());
    let outcomes = apply(&nothing);
    let errors: Vec<String> = outcomes
        .into_iter()
        .map(|(_, outcome)| outcome.unwrap_err().to_string())
        .collect();
    let needs = "it needs the capability CAP_NET_ADMIN";
    assert_eq!(
        errors,
        [
            format!("not permitted to load the table inet privnet: {needs}"),
            format!("not permitted to add address 10.255.0.1/32 dev lo: {needs}"),
            format!("not permitted to add route 10.0.0.0/8 dev lo: {needs}"),
        ]
    );
    let error = wait(Host::new().fetch(&Scope::default())).unwrap_err();
    assert!(matches!(error, HostError::NotPermitted { .. }), "{error:?}");
}
