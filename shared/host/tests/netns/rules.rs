//! Our nftables table in the kernel.

use std::collections::BTreeMap;
use std::net::UdpSocket;

use ipnet::IpNet;
use privnet_host::{Host, HostError, Scope};
use privnet_model::policy::{PolicyTable, Verdict};
use privnet_reconcile::host::{ActualHost, DesiredHost, HostPlan};
use privnet_reconcile::ruleset::{Egress, LoadedRuleset, Ruleset, TunnelClamp, Verdicts};

use crate::world::{apply, fetch, name, plan, reconcile, sh, wait, words};

const LOAD: &str = "load nftables table inet privnet";

pub(crate) fn rules(sources: &[&str]) -> DesiredHost {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let egress = Egress {
        interface: name("wan"),
        sources: nets(sources),
        exclude: nets(&["10.0.0.0/8"]),
        ports: None,
        source_ports: Vec::new(),
        own: None,
    };
    let tunnel = TunnelClamp {
        interface: name("tunnel").into(),
        mtu: 1420,
    };
    DesiredHost {
        ruleset: Some(Ruleset {
            egress: Some(egress),
            tunnels: vec![tunnel],
            ..Ruleset::default()
        }),
        ..DesiredHost::new()
    }
}

pub(crate) fn loaded_once() {
    let desired = rules(&["10.1.0.0/16"]);
    assert_eq!(fetch(&desired).ruleset, None);
    // `reconcile` sees for itself that nothing is left to do.
    assert_eq!(reconcile(&desired), [LOAD]);
    let expected = desired.ruleset.as_ref().unwrap().fingerprint();
    assert_eq!(
        fetch(&desired).ruleset,
        Some(LoadedRuleset::Intact(expected))
    );

    // Every shape of table is known again: touching CIDRs are merged by nft,
    // 0.0.0.0/0 is a set element unlike others, sets and halves may be missing.
    let many: Vec<String> = (0..=255)
        .map(|third| format!("10.1.{third}.0/24"))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for sources in [
        &["10.1.0.0/16", "10.2.0.0/16"][..],
        &["0.0.0.0/0"],
        &["10.1.0.1/32"],
        &many,
    ] {
        assert_eq!(reconcile(&rules(sources)), [LOAD], "{sources:?}");
    }
    let mut halves = rules(&["10.1.0.0/16"]);
    halves
        .ruleset
        .as_mut()
        .unwrap()
        .egress
        .as_mut()
        .unwrap()
        .exclude
        .clear();
    assert_eq!(reconcile(&halves), [LOAD]);
    halves.ruleset.as_mut().unwrap().tunnels.clear();
    assert_eq!(reconcile(&halves), [LOAD]);
    assert_eq!(reconcile(&rules(&[])), [LOAD]);

    assert_eq!(
        reconcile(&DesiredHost::new()),
        ["remove nftables table inet privnet"]
    );
    assert_eq!(sh("nft list tables"), "");
}

pub(crate) fn altered_by_hand() {
    let desired = rules(&["10.1.0.0/16"]);
    reconcile(&desired);
    let listing = sh("nft --stateless list table inet privnet");
    let alterations = [
        "nft flush chain inet privnet postrouting",
        "nft add rule inet privnet forward drop",
        "nft insert rule inet privnet postrouting accept",
        "nft insert rule inet privnet postrouting ip saddr 10.77.0.0/16 masquerade",
        "nft add chain inet privnet extra",
        "nft flush table inet privnet",
        "nft -f - <<'END'\ntable inet privnet { flags dormant; }\nEND",
        "for seal in $(nft list sets inet | grep -o 'seal_[0-9a-f_]*'); do nft delete set inet privnet $seal; done",
        "nft delete table inet privnet; nft add table inet privnet",
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
}

pub(crate) fn foreign_tables() {
    sh("nft -f - <<'END'
        table ip privnet { chain nat { type nat hook postrouting priority 90; oifname \"x\" masquerade; }; }
        table inet privnet2 { set seal_1_2 { type mark; }; chain c { counter; }; }
        table ip6 filter { chain INPUT { type filter hook input priority 0; policy accept; }; }
END");
    let foreign =
        || sh("nft list table ip privnet; nft list table inet privnet2; nft list table ip6 filter");
    let before = foreign();
    reconcile(&rules(&["10.1.0.0/16"]));
    reconcile(&rules(&["10.2.0.0/16"]));
    assert_eq!(foreign(), before);
    reconcile(&DesiredHost::new());
    assert_eq!(foreign(), before);
    assert!(
        plan(&DesiredHost::new()).is_empty(),
        "{:?}",
        words(&plan(&DesiredHost::new()))
    );
}

pub(crate) fn denied() {
    let nets: [IpNet; 2] = ["127.0.0.1/32", "127.0.0.2/32"].map(|net| net.parse().unwrap());
    let table = PolicyTable::new(vec![(nets[0], 1), (nets[1], 2)], 3, 2, |from, to| {
        match (from, to) {
            (1, 2) | (2, 1) => Verdict::Deny(1),
            _ => Verdict::Allow,
        }
    });
    let denies = |interface: &str| DesiredHost {
        ruleset: Some(Ruleset {
            verdicts: Verdicts::among(nets, &table, name(interface).into(), None),
            ..Ruleset::default()
        }),
        ..DesiredHost::new()
    };
    let counted = || wait(Host::new().denied()).unwrap();
    assert_eq!(counted(), BTreeMap::new());
    // What others count by such a name, and other things of ours, are no denials.
    sh("nft -f - <<'END'
        table ip privnet { counter denied_1 { packets 7 bytes 7; }; }
        table inet privnet2 { counter denied_1 { packets 7 bytes 7; }; }
        table inet privnet { counter other { packets 7 bytes 7; }; quota denied_1 { 7 bytes; }; }
END");
    assert_eq!(counted(), BTreeMap::new());
    let desired = denies("lo");
    assert_eq!(reconcile(&desired), [LOAD]);
    assert_eq!(counted(), [(1, 0)].into());

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..3 {
        assert!(socket.send_to(b"denied", "127.0.0.2:9").is_err());
    }
    socket.send_to(b"not denied", "127.0.0.3:9").unwrap();
    assert_eq!(counted(), [(1, 3)].into());
    // The rules are as they were loaded, whatever they have counted.
    assert!(plan(&desired).is_empty(), "{:?}", words(&plan(&desired)));
    assert_eq!(counted(), [(1, 3)].into());

    // Others count from nothing.
    assert_eq!(reconcile(&denies("tunnel")), [LOAD]);
    assert_eq!(counted(), [(1, 0)].into());
    reconcile(&DesiredHost::new());
    assert_eq!(counted(), BTreeMap::new());
}

pub(crate) fn without_nft() {
    let error = wait(Host::new().fetch(&Scope::default())).unwrap_err();
    assert!(matches!(error, HostError::NftMissing), "{error:?}");
    let plan = HostPlan::new(&rules(&["10.1.0.0/16"]), &ActualHost::new());
    let error = apply(&plan).pop().unwrap().1.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the program nft was not found: install the package nftables"
    );
}
