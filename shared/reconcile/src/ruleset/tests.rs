//! The text of the table as a whole.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use ipnet::Ipv4Net;
use privnet_model::config::spoke::SpokeConfig;

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
    egress.ports = privnet_model::config::spoke::PortRange::new(2000, 2999);
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
