//! What the rules do to packets, as the far ends see it.

use privnet_reconcile::host::DesiredHost;
use privnet_reconcile::sysctl;

use crate::hosts::{seen, server};
use crate::rules::rules;
use crate::world::{name, reconcile, route, sh, through};

/// The picture in `main.rs`.
pub(crate) fn network() {
    sh("mkdir -p /run/netns
        for far in private internet far; do
            ip netns add $far
            ip -n $far link set lo up
        done
        ip link add lan type veth peer name eth0 netns private
        ip link add wan type veth peer name eth0 netns internet
        ip link add tunnel type veth peer name eth0 netns far
        ip address add 10.1.0.1/16 dev lan
        ip address add fd01::1/64 dev lan nodad
        ip address add 192.0.2.1/24 dev wan
        for link in lan wan tunnel; do ip link set $link up; done
        ip -n private address add 10.1.0.5/16 dev eth0
        ip -n private address add fd01::5/64 dev eth0 nodad
        ip -n internet address add 192.0.2.80/24 dev eth0
        ip -n internet address add 10.2.0.5/32 dev lo
        ip -n far address add 172.31.0.2/24 dev eth0
        ip -n far address add fd31::2/64 dev eth0 nodad
        for far in private internet far; do ip -n $far link set eth0 up; done
        ip -n private route add default via 10.1.0.1
        ip -n private route add default via fd01::1
        ip -n internet route add 10.1.0.0/16 via 192.0.2.1
        ip -n far route add default via 172.31.0.1
        ip -n far route add default via fd31::1");
}

/// What the router in the picture should be.
pub(crate) fn router() -> DesiredHost {
    let addresses = ["172.31.0.1/24", "fd31::1/64"];
    DesiredHost {
        addresses: addresses
            .map(|address| (name("tunnel"), address.parse().unwrap()))
            .into(),
        sysctls: sysctl::forwarding(&name("wan"), Some(&name("tunnel"))),
        ..rules(&["10.1.0.0/16"])
    }
}

pub(crate) fn masquerade() {
    network();
    let _internet = server("internet", "0.0.0.0:80");
    let mut desired = router();
    desired.routes = [route("10.2.0.0/16", through("wan"))].into();
    reconcile(&desired);
    assert_eq!(seen("private", "192.0.2.80:80"), "192.0.2.1");
    assert_eq!(seen("private", "10.2.0.5:80"), "10.1.0.5");
    // Its counter counts, and counting is no alteration.
    let rule = sh("nft list chain inet privnet postrouting");
    assert!(rule.contains("counter packets 1 "), "{rule}");
    assert_eq!(reconcile(&desired), [""; 0]);
    // Who is no source keeps its address; this internet has a route back.
    desired.ruleset = rules(&["10.9.0.0/16"]).ruleset;
    assert_eq!(reconcile(&desired).len(), 1);
    assert_eq!(seen("private", "192.0.2.80:80"), "10.1.0.5");
}

pub(crate) fn clamp() {
    network();
    // nft itself is the witness: in each far end it counts the segment sizes
    // that SYN and SYN-ACK arrive with.
    for namespace in ["private", "far"] {
        sh(&format!(
            "ip netns exec {namespace} nft -f - <<'END'
             table inet witness {{
                 chain input {{
                     type filter hook input priority 0
                     tcp flags & syn == syn meta nfproto ipv4 tcp option maxseg size 1380 counter comment \"fits4\"
                     tcp flags & syn == syn meta nfproto ipv6 tcp option maxseg size 1360 counter comment \"fits6\"
                     tcp flags & syn == syn meta nfproto ipv4 tcp option maxseg size 1460 counter comment \"large4\"
                     tcp flags & syn == syn meta nfproto ipv6 tcp option maxseg size 1440 counter comment \"large6\"
                     tcp flags & syn == syn tcp option maxseg size 1000 counter comment \"small\"
                 }}
             }}
END"
        ));
    }
    let _far = server("far", "[::]:80");
    let _private = server("private", "[::]:80");
    let desired = router();

    // Without the rules the witness sees full segments: it is not blind.
    let mut without = desired.clone();
    without.ruleset = None;
    reconcile(&without);
    seen("private", "172.31.0.2:80");
    seen("private", "[fd31::2]:80");
    let large =
        || ["private", "far"].map(|far| [witnessed(far, "large4"), witnessed(far, "large6")]);
    let before = large();
    assert!(
        before.as_flattened().iter().all(|count| *count > 0),
        "{before:?}"
    );

    reconcile(&desired);
    for (caller, callee) in [
        ("private", ["172.31.0.2", "[fd31::2]"]),
        ("far", ["10.1.0.5", "[fd01::5]"]),
    ] {
        for address in callee {
            seen(caller, &format!("{address}:80"));
        }
    }
    for namespace in ["private", "far"] {
        // A SYN of the one direction and a SYN-ACK of the other; more where
        // one was sent again.
        assert!(witnessed(namespace, "fits4") >= 2, "{namespace}");
        assert!(witnessed(namespace, "fits6") >= 2, "{namespace}");
    }
    assert_eq!(large(), before);
    // Who asks for less gets less.
    sh("ip -n private route add 172.31.0.0/24 via 10.1.0.1 advmss 1000");
    seen("private", "172.31.0.2:80");
    assert!(witnessed("far", "small") > 0);
}

fn witnessed(namespace: &str, what: &str) -> u32 {
    let rules = sh(&format!(
        "ip netns exec {namespace} nft list table inet witness"
    ));
    let rule = rules.lines().find(|rule| rule.contains(what)).unwrap();
    let mut words = rule.split(' ').skip_while(|word| *word != "packets");
    words.nth(1).unwrap().parse().unwrap()
}
