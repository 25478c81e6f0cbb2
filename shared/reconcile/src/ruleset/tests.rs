//! The text of the table as a whole.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use privnet_model::config::spoke::{PortRange, SourcePorts, SpokeConfig};
use proptest::prelude::*;

use super::*;
use crate::interface::InterfaceName;

fn nets(texts: &[&str]) -> Vec<Ipv4Net> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn spoke() -> Ruleset {
    Ruleset {
        egress: Some(Egress {
            interface: InterfaceName::new("ens5").unwrap(),
            sources: nets(&["10.9.0.0/16", "10.1.0.0/16"]),
            exclude: nets(&["10.0.0.0/8", "10.1.0.0/16", "192.168.7.0/24"]),
            ports: None,
            source_ports: Vec::new(),
            own: None,
        }),
        tunnels: vec![TunnelClamp {
            interface: InterfaceName::new("privnet0").unwrap().into(),
            mtu: 1420,
        }],
        ..Ruleset::default()
    }
}

/// With what these lines of a config file's `[nat]` divert.
fn diverting(lines: &str) -> Ruleset {
    let text = format!("privnet = '10.0.0.0/8'\ntransport = 'none'\n{lines}");
    let nat = SpokeConfig::parse("spoke.toml", &text).unwrap().nat;
    Ruleset {
        diversions: Diversions {
            own: ["10.1.0.4", "203.0.113.7"]
                .map(|it| it.parse().unwrap())
                .into(),
            vpc: nets(&["10.1.0.0/16"]),
            exclude: nets(&["10.0.0.0/8"]),
            forwards: nat.forwards,
            redirects: nat.redirects,
        },
        ..Ruleset::default()
    }
}

#[test]
fn the_text_of_a_spoke() {
    let expected = r#"table inet privnet
delete table inet privnet
table inet privnet {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "ens5" ip daddr 10.0.0.0/8 accept
		oifname "ens5" ip daddr 192.168.7.0/24 accept
		oifname "ens5" ip saddr 10.1.0.0/16 counter masquerade
		oifname "ens5" ip saddr 10.9.0.0/16 counter masquerade
	}
	chain forward {
		type filter hook forward priority mangle; policy accept;
		iifname "privnet0" meta nfproto ipv4 tcp flags syn / syn,rst tcp option maxseg size > 1380 tcp option maxseg size set 1380
		iifname "privnet0" meta nfproto ipv6 tcp flags syn / syn,rst tcp option maxseg size > 1360 tcp option maxseg size set 1360
		oifname "privnet0" meta nfproto ipv4 tcp flags syn / syn,rst tcp option maxseg size > 1380 tcp option maxseg size set 1380
		oifname "privnet0" meta nfproto ipv6 tcp flags syn / syn,rst tcp option maxseg size > 1360 tcp option maxseg size set 1360
	}
}
"#;
    assert_eq!(spoke().text(), expected);
}

#[test]
fn the_text_of_forwards_and_redirects() {
    let ruleset = diverting(
        "[[nat.forward]]\nproto = 'tcp'\nport = 51532\nto = '10.1.1.10:1532'\n\
         from = ['203.0.113.110/32', '10.1.0.0/16']\n\
         [[nat.forward]]\nproto = 'udp'\nport = '8000-8002'\nto = '10.1.1.11:9000-9002'\n\
         from = ['0.0.0.0/0']\n\
         [[nat.redirect]]\nproto = 'tcp'\nport = 80\nto = '10.1.3.20:3128'\n\
         [[nat.redirect]]\nproto = 'tcp'\nport = 443\nto = '10.1.3.21:3129'\n\
         sources = ['10.1.7.0/24']",
    );
    let expected = r"table inet privnet {
	set own {
		type ipv4_addr
		elements = { 10.1.0.4, 203.0.113.7 }
	}
	set proxies {
		type ipv4_addr
		elements = { 10.1.3.20, 10.1.3.21 }
	}
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr @own ip saddr 10.1.0.0/16 tcp dport 51532 counter dnat ip to 10.1.1.10:1532
		ip daddr @own ip saddr 203.0.113.110/32 tcp dport 51532 counter dnat ip to 10.1.1.10:1532
		ip daddr @own udp dport 8000-8002 counter dnat ip to 10.1.1.11 : udp dport map { 8000 : 9000, 8001 : 9001, 8002 : 9002 }
		ip saddr @proxies accept
		ip daddr @own accept
		ip daddr 10.0.0.0/8 accept
		ip saddr 10.1.0.0/16 tcp dport 80 counter dnat ip to 10.1.3.20:3128
		ip saddr 10.1.7.0/24 tcp dport 443 counter dnat ip to 10.1.3.21:3129
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ct status dnat ct original ip daddr @own ip saddr 10.1.0.0/16 ip daddr 10.1.1.10 tcp dport 1532 counter masquerade
		ct status dnat ct original ip daddr @own ip saddr 10.1.0.0/16 ip daddr 10.1.1.11 udp dport 9000-9002 counter masquerade
		ct status dnat ct original ip daddr != @own ip daddr 10.1.3.20 tcp dport 3128 counter masquerade
		ct status dnat ct original ip daddr != @own ip daddr 10.1.3.21 tcp dport 3129 counter masquerade
	}
}
";
    assert_eq!(ruleset.table(), expected);
    assert!(!ruleset.is_empty());
}

#[test]
fn a_range_that_keeps_its_ports_is_one_comparison() {
    for to in ["10.1.1.10", "10.1.1.10:1000-60000"] {
        let text = diverting(&format!(
            "[[nat.forward]]\nproto = 'tcp'\nport = '1000-60000'\nto = '{to}'\nfrom = ['0.0.0.0/0']"
        ))
        .text();
        assert!(
            text.contains("\t\tip daddr @own tcp dport 1000-60000 counter dnat ip to 10.1.1.10\n"),
            "{text}"
        );
    }
}

#[test]
fn source_ports_are_given_to_what_has_ports() {
    let mut ruleset = spoke();
    let egress = ruleset.egress.as_mut().unwrap();
    egress.ports = PortRange::new(2000, 2999);
    let text = ruleset.text();
    let who = "oifname \"ens5\" ip saddr 10.9.0.0/16";
    assert!(
        text.contains(&format!(
            "\t\t{who} meta l4proto {{ tcp, udp }} counter masquerade to :2000-2999\n\
             \t\t{who} counter masquerade\n"
        )),
        "{text}"
    );
}

fn owner(from: &str, first: u16, last: u16) -> SourcePorts {
    SourcePorts {
        from: from.parse().unwrap(),
        ports: PortRange::new(first, last).unwrap(),
    }
}

#[test]
fn source_ports_of_the_narrowest_go_before_all_others() {
    let mut ruleset = spoke();
    let egress = ruleset.egress.as_mut().unwrap();
    egress.ports = PortRange::new(2000, 2999);
    egress.source_ports = vec![
        // What else lies in it is not masqueraded, nor is the last.
        owner("10.8.0.0/15", 5000, 5999),
        owner("10.1.7.0/24", 3000, 3999),
        owner("10.1.7.9/32", 4000, 4000),
        owner("10.2.0.0/16", 6000, 6999),
    ];
    let expected = r#"
		oifname "ens5" ip saddr 10.1.7.9/32 meta l4proto { tcp, udp } counter masquerade to :4000
		oifname "ens5" ip saddr 10.1.7.0/24 meta l4proto { tcp, udp } counter masquerade to :3000-3999
		oifname "ens5" ip saddr 10.9.0.0/16 meta l4proto { tcp, udp } counter masquerade to :5000-5999
		oifname "ens5" ip saddr 10.1.0.0/16 meta l4proto { tcp, udp } counter masquerade to :2000-2999
		oifname "ens5" ip saddr 10.1.0.0/16 counter masquerade
		oifname "ens5" ip saddr 10.9.0.0/16 meta l4proto { tcp, udp } counter masquerade to :2000-2999
		oifname "ens5" ip saddr 10.9.0.0/16 counter masquerade
	}
"#;
    let text = ruleset.text();
    assert!(text.contains(expected), "{text}");
    // Without ports for everybody else theirs are the kernel's choice.
    ruleset.egress.as_mut().unwrap().ports = None;
    let text = ruleset.text();
    assert_eq!(text.matches("masquerade to :").count(), 3, "{text}");
    assert_eq!(text.matches("counter masquerade\n").count(), 2, "{text}");
}

#[test]
fn the_spokes_own_udp_keeps_its_port() {
    let rule = "oifname \"ens5\" ip saddr 10.1.7.4 meta l4proto udp counter masquerade\n";
    let mut ruleset = spoke();
    let egress = ruleset.egress.as_mut().unwrap();
    egress.own = Some("10.1.7.4".parse().unwrap());
    let without_ports = egress.clone();
    egress.ports = PortRange::new(2000, 2999);
    let with_ports = egress.clone();
    egress.ports = None;
    egress.source_ports = vec![owner("10.1.7.0/24", 3000, 3999)];
    let first = |text: &str| {
        let own = text.find(rule)?;
        Some(own < text.find("masquerade to :")?)
    };
    assert_eq!(first(&ruleset.text()), Some(true));
    ruleset.egress = Some(with_ports);
    assert_eq!(first(&ruleset.text()), Some(true));
    // Not masqueraded itself.
    ruleset.egress.as_mut().unwrap().sources = nets(&["10.9.0.0/16"]);
    assert_eq!(first(&ruleset.text()), None);
    // Without ranges it keeps it anyway.
    ruleset.egress = Some(without_ports);
    assert_eq!(first(&ruleset.text()), None);
}

/// The ports that a rule with `ip saddr` gives TCP from this address: none is the kernel's
/// choice. `None` where it is not for that address.
fn ports_by(rule: &str, source: Ipv4Addr) -> Option<&str> {
    let (_, rule) = rule.split_once("ip saddr ")?;
    let (net, what) = rule.split_once(' ')?;
    let net: Ipv4Net = net.parse().unwrap();
    let ports = what.split_once("masquerade to :");
    let ports = ports.map_or("", |(_, ports)| ports);
    net.contains(&source).then_some(ports)
}

proptest! {
    #[test]
    fn whose_a_source_port_is_follows_from_the_longest_prefix(
        sources in proptest::collection::vec((0_u32..64, 26_u8..=32), 0..4),
        owners in proptest::collection::btree_set((0_u32..64, 26_u8..=32), 0..6),
    ) {
        let net = |(address, length): (u32, u8)| {
            Ipv4Net::new(Ipv4Addr::from(0x0a01_0000 + address), length).unwrap().trunc()
        };
        let sources: Vec<Ipv4Net> = sources.into_iter().map(net).collect();
        let owners: std::collections::BTreeSet<Ipv4Net> = owners.into_iter().map(net).collect();
        let owners: Vec<SourcePorts> = owners
            .into_iter()
            .zip(2000..)
            .map(|(from, port)| SourcePorts { from, ports: PortRange::new(port, port).unwrap() })
            .collect();
        let mut ruleset = spoke();
        let egress = ruleset.egress.as_mut().unwrap();
        egress.sources.clone_from(&sources);
        egress.source_ports.clone_from(&owners);
        let text = ruleset.text();
        for host in 0..64 {
            let source = Ipv4Addr::from(0x0a01_0000 + host);
            let first = text.lines().find_map(|rule| ports_by(rule, source));
            let owner = owners
                .iter()
                .filter(|one| one.from.contains(&source))
                .max_by_key(|one| one.from.prefix_len());
            let owned = owner.map(|one| one.ports.to_string());
            let masqueraded = sources.iter().any(|net| net.contains(&source));
            let expected = masqueraded.then_some(owned.as_deref().unwrap_or_default());
            prop_assert_eq!(first, expected, "{}", text);
        }
    }
}

#[test]
fn the_short_cut_is_for_what_is_translated() {
    let devices = ["ens5", "ens6"].map(|name| InterfaceName::new(name).unwrap());
    let flowtable = Some(Flowtable {
        devices: devices.into(),
    });
    let ruleset = Ruleset {
        flowtable: flowtable.clone(),
        ..spoke()
    };
    let text = ruleset.text();
    let expected = r#"	flowtable flows {
		hook ingress priority filter; devices = { "ens5", "ens6" };
	}
	chain established {
		type filter hook forward priority filter; policy accept;
		iifname { "ens5", "ens6" } oifname { "ens5", "ens6" } meta l4proto { tcp, udp } ct state established ct status assured ct status & (snat | dnat) != 0 ct mark & 536870912 == 0 flow add @flows
	}
"#;
    assert!(text.contains(expected), "{text}");
    let nothing = Ruleset {
        flowtable,
        ..Ruleset::default()
    };
    assert!(nothing.is_empty() && !nothing.text().contains("flow"));
}

#[test]
fn nothing_to_exclude_gives_no_rule_and_nobody_to_translate_no_nat() {
    let mut ruleset = spoke();
    let egress = ruleset.egress.as_mut().unwrap();
    egress.exclude.clear();
    assert!(!ruleset.text().contains("accept\n"));
    ruleset.egress.as_mut().unwrap().sources.clear();
    assert!(!ruleset.text().contains("nat"));
    assert!(!ruleset.is_empty());
    ruleset.tunnels.clear();
    assert!(ruleset.is_empty());
}
