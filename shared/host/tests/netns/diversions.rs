//! Forwards and redirects, as callers and targets see them.

use privnet_model::config::spoke::{NatConfig, SpokeConfig};
use privnet_reconcile::host::DesiredHost;
use privnet_reconcile::ruleset::{Diversions, LoadedRuleset};

use crate::hosts::{refused, seen, server, udp_seen, udp_server};
use crate::traffic::{network, router};
use crate::world::{fetch, reconcile, sh};

const LOAD: &str = "load nftables table inet privnet";
/// What the internet knows the router by; no interface has it, as on EC2.
const PUBLIC: &str = "203.0.113.7";

/// The network with a target; see `main.rs`.
fn network_with_target() {
    network();
    sh("ip netns add target
        ip link add lan2 type veth peer name eth0 netns target
        ip link add direct netns target type veth peer name direct netns private
        ip -n target link set lo up
        ip address add 10.1.0.2/32 dev lan2
        ip link set lan2 up
        ip route add 10.1.0.6/32 dev lan2
        ip -n target address add 10.1.0.6/32 dev eth0
        for namespace in target private; do ip -n $namespace link set direct up; done
        ip -n target link set eth0 up
        ip -n target route add 10.1.0.2 dev eth0
        ip -n target route add default via 10.1.0.2
        ip -n target route add 10.1.0.5 dev direct
        ip -n private route add 10.1.0.6 dev direct
        ip -n internet route add 172.31.0.0/24 via 192.0.2.1
        for namespace in target private; do
            for link in all default eth0 direct; do
                ip netns exec $namespace sysctl -qw net.ipv4.conf.$link.rp_filter=0
            done
        done");
}

/// The router with what these lines of a spoke's config say beside masquerading.
pub(crate) fn diverting(lines: &str) -> DesiredHost {
    let text = format!("privnet = '10.0.0.0/8'\ntransport = 'none'\n{lines}");
    let nat = SpokeConfig::parse("spoke.toml", &text).unwrap().nat;
    let NatConfig {
        forwards,
        redirects,
        ..
    } = nat;
    let mut desired = router();
    desired.ruleset.as_mut().unwrap().diversions = Diversions {
        own: ["192.0.2.1", "10.1.0.1", PUBLIC]
            .map(|it| it.parse().unwrap())
            .into(),
        vpc: vec!["10.1.0.0/16".parse().unwrap()],
        exclude: vec!["10.0.0.0/8".parse().unwrap()],
        forwards,
        redirects,
    };
    desired
}

fn forward(proto: &str, port: &str, to: &str, from: &str) -> String {
    format!("[[nat.forward]]\nproto = '{proto}'\nport = {port}\nto = '{to}'\nfrom = ['{from}']\n")
}

fn redirect(port: u16, to: &str) -> String {
    format!("[[nat.redirect]]\nproto = 'tcp'\nport = {port}\nto = '{to}'\n")
}

pub(crate) fn open_to_its_callers_alone() {
    network_with_target();
    let _target = server("target", "0.0.0.0:1532");
    let to_some = |from: &str| diverting(&forward("tcp", "51532", "10.1.0.6:1532", from));
    reconcile(&to_some("192.0.2.80/32"));
    // The target sees who calls.
    assert_eq!(seen("internet", "192.0.2.1:51532"), "192.0.2.80");
    for other in ["far", "private"] {
        let why = refused(other, "tcp:192.0.2.1:51532");
        assert!(why.contains("Connection refused"), "{why}");
    }
    // Nor does the target's own port lead anywhere.
    refused("internet", "tcp:192.0.2.1:1532");
    // The far one is kept out by its address and by nothing else.
    reconcile(&to_some("0.0.0.0/0"));
    assert_eq!(seen("far", "192.0.2.1:51532"), "172.31.0.2");
    reconcile(&to_some("172.31.0.0/24"));
    assert_eq!(seen("far", "192.0.2.1:51532"), "172.31.0.2");
    refused("internet", "tcp:192.0.2.1:51532");
}

pub(crate) fn ranges_and_udp() {
    network_with_target();
    let _moved = udp_server("target", "0.0.0.0:9002");
    let _same = server("target", "0.0.0.0:7050");
    let _one = udp_server("target", "0.0.0.0:53");
    let all = "0.0.0.0/0";
    let desired = diverting(
        &[
            forward("udp", "'8000-8002'", "10.1.0.6:9000-9002", all),
            forward("tcp", "'7000-7100'", "10.1.0.6", all),
            forward("udp", "5353", "10.1.0.6:53", all),
        ]
        .concat(),
    );
    reconcile(&desired);
    assert_eq!(udp_seen("internet", "192.0.2.1:8002"), "192.0.2.80");
    assert_eq!(seen("internet", "192.0.2.1:7050"), "192.0.2.80");
    assert_eq!(udp_seen("internet", "192.0.2.1:5353"), "192.0.2.80");
    // The same ports of the other protocol, and the ports beside.
    refused("internet", "tcp:192.0.2.1:8002");
    refused("internet", "udp:192.0.2.1:7050");
    refused("internet", "udp:192.0.2.1:8003");
    refused("internet", "tcp:192.0.2.1:6999");
    refused("internet", "tcp:192.0.2.1:7101");
    // One in the range where nobody listens is refused by the target itself.
    refused("internet", "udp:192.0.2.1:8001");
}

pub(crate) fn from_inside() {
    network_with_target();
    let _target = server("target", "0.0.0.0:1532");
    let _udp = udp_server("target", "0.0.0.0:53");
    let mut desired = diverting(
        &[
            forward("tcp", "51532", "10.1.0.6:1532", "10.1.0.0/16"),
            forward("udp", "5353", "10.1.0.6:53", "10.1.0.0/16"),
        ]
        .concat(),
    );
    reconcile(&desired);
    for address in ["10.1.0.1", PUBLIC] {
        assert_eq!(seen("private", &format!("{address}:51532")), "10.1.0.2");
        assert_eq!(udp_seen("private", &format!("{address}:5353")), "10.1.0.2");
    }
    // Without our address in the caller's place the target would answer the
    // caller directly, who does not know it.
    let ruleset = desired.ruleset.as_mut().unwrap();
    ruleset.diversions.vpc.clear();
    reconcile(&desired);
    refused("private", "tcp:10.1.0.1:51532");
    // Who is no caller is none from inside, either.
    reconcile(&diverting(&forward(
        "tcp",
        "51532",
        "10.1.0.6:1532",
        "192.0.2.80/32",
    )));
    refused("private", "tcp:10.1.0.1:51532");
}

pub(crate) fn redirects() {
    network_with_target();
    sh("ip -n private address add 10.1.0.7/32 dev lo");
    let _internet = server("internet", "0.0.0.0:80");
    let _secure = server("internet", "0.0.0.0:443");
    let _proxy = server("target", "0.0.0.0:3128");
    let _other_proxy = server("private", "0.0.0.0:3129");
    let mut desired = diverting(
        &[
            redirect(80, "10.1.0.6:3128"),
            redirect(443, "10.1.0.7:3129"),
        ]
        .concat(),
    );
    desired.routes = [crate::world::route(
        "10.2.0.0/16",
        crate::world::through("wan"),
    )]
    .into();
    reconcile(&desired);
    // The proxies see the router, the internet would see its other address.
    assert_eq!(seen("private", "192.0.2.80:80"), "10.1.0.2");
    assert_eq!(seen("private", "192.0.2.80:443"), "10.1.0.1");
    // A proxy's own connections go out, also those that another proxy takes.
    assert_eq!(seen("target", "192.0.2.80:80"), "192.0.2.1");
    assert_eq!(seen("target", "192.0.2.80:443"), "192.0.2.1");
    // The privnet is no outside, and who is not in the VPC is not asked.
    assert_eq!(seen("private", "10.2.0.5:80"), "10.1.0.5");
    assert_eq!(seen("far", "192.0.2.80:80"), "172.31.0.2");
    // What calls the router itself is not outbound.
    refused("private", "tcp:10.1.0.1:80");

    // What no rule takes any more goes out.
    reconcile(&diverting(&redirect(443, "10.1.0.6:3128")));
    assert_eq!(seen("private", "192.0.2.80:443"), "10.1.0.2");
    assert_eq!(seen("private", "192.0.2.80:80"), "192.0.2.1");
    // And those of chosen sources alone.
    let chosen = redirect(80, "10.1.0.6:3128") + "sources = ['10.1.9.0/24']";
    reconcile(&diverting(&chosen));
    assert_eq!(seen("private", "192.0.2.80:80"), "192.0.2.1");
}

pub(crate) fn known_again() {
    let all = "0.0.0.0/0";
    let desired = diverting(
        &[
            forward("udp", "'8000-8999'", "10.1.0.6:9000-9999", all),
            forward(
                "tcp",
                "51532",
                "10.1.0.6:1532",
                "192.0.2.80/32', '10.1.0.0/16",
            ),
            redirect(80, "10.1.0.6:3128"),
        ]
        .concat(),
    );
    // `reconcile` sees for itself that nothing is left to do; here the sysctls
    // and addresses of the picture do not matter.
    let desired = DesiredHost {
        ruleset: desired.ruleset,
        ..DesiredHost::new()
    };
    assert_eq!(reconcile(&desired), [LOAD]);
    let listing = sh("nft --stateless list table inet privnet");
    let alterations = [
        "nft flush chain inet privnet prerouting",
        "nft insert rule inet privnet prerouting accept",
        "nft add element inet privnet proxies '{ 10.1.0.77 }'",
        "nft flush set inet privnet own",
    ];
    for alteration in alterations {
        sh(alteration);
        assert_eq!(
            fetch(&desired).ruleset,
            Some(LoadedRuleset::Altered),
            "{alteration}"
        );
        assert_eq!(reconcile(&desired), [LOAD], "{alteration}");
        assert_eq!(sh("nft --stateless list table inet privnet"), listing);
    }
    sh("nft delete table inet privnet");
    assert_eq!(reconcile(&desired), [LOAD]);
    assert_eq!(sh("nft --stateless list table inet privnet"), listing);
}
