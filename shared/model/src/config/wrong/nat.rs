//! What is said of a `[nat]` that is wrong, and what one that is right means.

use super::*;
use crate::config::spoke::{NatConfig, PortRange, Protocol, SourcePorts};

fn read(section: &str) -> NatConfig {
    let text = format!("privnet = '10.0.0.0/8'\ntransport = 'none'\n[nat]\n{section}");
    SpokeConfig::parse("spoke.toml", &text).unwrap().nat
}

/// A forward with these keys instead of good ones.
fn forward(keys: &str) -> Vec<String> {
    let good = [
        "proto = 'tcp'",
        "port = 51532",
        "to = '10.0.1.10:1532'",
        "from = ['203.0.113.110/32']",
    ];
    said_of("forward", &good, keys)
}

fn redirect(keys: &str) -> Vec<String> {
    let good = ["proto = 'tcp'", "port = 80", "to = '10.0.3.20:3128'"];
    said_of("redirect", &good, keys)
}

/// Each wrong key is in the last line, which is left out.
fn said_of(table: &str, good: &[&str], keys: &str) -> Vec<String> {
    let key = keys.split(' ').next().unwrap();
    let good: Vec<&str> = good
        .iter()
        .copied()
        .filter(|line| !line.starts_with(&format!("{key} ")))
        .collect();
    let said = spoke_with("", &format!("[[nat.{table}]]\n{}\n{keys}", good.join("\n")));
    let without_place = said.iter().map(|line| {
        let line = line.strip_prefix("spoke.toml:").unwrap();
        line.split_once(": ").unwrap().1.to_owned()
    });
    without_place.collect()
}

#[test]
fn nat_takes_ipv4_only() {
    assert_eq!(
        spoke_with(
            "",
            "[nat]\negress = 'yes'\nsources = ['fd00::/8']\nexclude = '10.0.0.0/8'"
        ),
        [
            "spoke.toml:7: nat.egress = 'yes': not true or false; expected true or false",
            "spoke.toml:8: nat.sources[0] = 'fd00::/8': IPv6, which is never masqueraded; expected an IPv4 CIDR such as 10.1.0.0/16",
            "spoke.toml:9: nat.exclude = '10.0.0.0/8': not a list; expected a list, each an IPv4 CIDR such as 10.1.0.0/16",
        ]
    );
}

#[test]
fn what_a_forward_and_a_redirect_say() {
    let nat = read(
        "[[nat.forward]]\nproto = 'udp'\nport = '8000-8100'\nto = '10.0.1.10'\n\
         from = ['0.0.0.0/0']\n[[nat.forward]]\nproto = 'tcp'\nport = 51532\n\
         to = '10.0.1.10:1532'\nfrom = ['203.0.113.110/32', '10.0.0.0/16']\n\
         [[nat.redirect]]\nproto = 'tcp'\nport = 80\nto = '10.0.3.20:3128'",
    );
    let words: Vec<String> = nat.forwards.iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        [
            "udp 8000-8100 to 10.0.1.10 from 0.0.0.0/0",
            "tcp 51532 to 10.0.1.10:1532 from 203.0.113.110/32, 10.0.0.0/16"
        ]
    );
    assert_eq!(nat.forwards[0].protocol, Protocol::Udp);
    assert_eq!(nat.forwards[0].ports, PortRange::new(8000, 8100).unwrap());
    assert_eq!(nat.forwards[0].to_ports, None);
    assert_eq!(nat.redirects[0].to_string(), "tcp 80 to 10.0.3.20:3128");
    assert!(nat.redirects[0].sources.is_empty());
}

#[test]
fn a_minimal_nat_section_has_every_default() {
    let nat = read("");
    assert_eq!(nat, NatConfig::default());
    assert_eq!(nat.idle_timeout, Duration::from_secs(350));
    assert!(nat.egress && nat.flowtable && !nat.is_off());
    assert_eq!((nat.connections, nat.ports), (None, None));
    let more = read("idle_timeout = '2h'\nconnections = 100000\nports = '2000-2999'");
    assert_eq!(more.idle_timeout, Duration::from_secs(7200));
    assert_eq!(more.connections, Some(100_000));
    assert_eq!(more.ports.unwrap().count(), 1_000);
}

fn source_ports(keys: &str) -> Vec<String> {
    let good = ["from = '10.1.1.0/24'", "ports = '20000-29999'"];
    said_of("source_ports", &good, keys)
}

#[test]
fn source_ports_are_a_networks_or_a_hosts() {
    let nat = read(
        "ports = '40000-49999'\n[[nat.source_ports]]\nfrom = '10.1.1.0/24'\n\
         ports = '20000-29999'\n[[nat.source_ports]]\nfrom = '10.1.1.10'\n\
         ports = '30000-30000'",
    );
    let words: Vec<String> = nat.source_ports.iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        ["20000-29999 for 10.1.1.0/24", "30000 for 10.1.1.10/32"]
    );
    assert_eq!(read("").source_ports, []);
}

#[test]
fn source_ports_that_make_no_sense_are_told() {
    let owner = "expected an IPv4 CIDR such as 10.1.1.0/24, or a host's address such as 10.1.1.10";
    let range = "expected a range of ports from 1024 on, such as \"1024-65535\"";
    for (keys, problem, expected) in [
        ("from = 'web'", "not a CIDR", owner),
        ("from = '10.1.1.0/33'", "not a CIDR", owner),
        (
            "from = '10.1.1.1/24'",
            "bits are set",
            "expected 10.1.1.0/24",
        ),
        (
            "from = 'fd00::/8'",
            "IPv6, which is never masqueraded",
            owner,
        ),
        (
            "from = 'fd00::1'",
            "IPv6, which is never masqueraded",
            owner,
        ),
        (
            "from = ['10.1.1.0/24']",
            "a list, not text in quotes",
            owner,
        ),
        ("ports = 20000", "a number, not text in quotes", range),
        ("ports = '80-90'", "begins below 1024", range),
        (
            "ports = '3000-2000'",
            "the last port comes before the first",
            range,
        ),
        ("ports = '2000-70000'", "not a range of ports", range),
        ("to = '10.1.1.10'", "unknown key", ""),
    ] {
        let said = source_ports(keys);
        assert!(
            said.len() == 1
                && said[0].contains(&format!(": {problem}"))
                && said[0].contains(expected),
            "{keys}: {said:?}"
        );
    }
    assert_eq!(
        spoke_with("", "[[nat.source_ports]]"),
        [
            "spoke.toml:6: nat.source_ports[0].from: missing; expected an IPv4 CIDR such as 10.1.1.0/24, or a host's address such as 10.1.1.10",
            "spoke.toml:6: nat.source_ports[0].ports: missing; expected a range of ports from 1024 on, such as \"1024-65535\"",
        ]
    );
}

/// A section of three lines for each of them, after the line `ports` of `[nat]`.
fn source_port_lines(ports: &str, all: &[(&str, &str)]) -> String {
    let all = all
        .iter()
        .map(|(from, ports)| format!("[[nat.source_ports]]\nfrom = '{from}'\nports = '{ports}'\n"));
    format!("[nat]\n{ports}\n{}", all.collect::<Vec<_>>().concat())
}

#[test]
fn a_port_that_would_not_tell_whose_it_was_is_told_with_the_line_of_the_other() {
    let said = |ports: &str, all: &[(&str, &str)]| spoke_with("", &source_port_lines(ports, all));
    let (subnet, host) = (("10.1.1.0/24", "20000-29999"), ("10.1.1.10", "30000-30999"));
    assert_eq!(said("ports = '31000-65535'", &[subnet, host]), [""; 0]);
    assert_eq!(
        said("", &[subnet, ("10.1.1.0/24", "40000-49999")]),
        [
            "spoke.toml:12: nat.source_ports[1].from = '10.1.1.0/24': is in line 9 already; expected each network or host once"
        ]
    );
    // Also where the one lies inside the other.
    assert_eq!(
        said("", &[subnet, ("10.1.1.10", "29999-30999")]),
        [
            "spoke.toml:13: nat.source_ports[1].ports = '29999-30999': shares ports with 10.1.1.0/24 in line 10; expected ports that nobody else has"
        ]
    );
    assert_eq!(
        said("ports = '1024-20000'", &[subnet, host]),
        [
            "spoke.toml:10: nat.source_ports[0].ports = '20000-29999': shares ports with nat.ports in line 7; expected ports that nobody else has"
        ]
    );
}

proptest! {
    #[test]
    fn a_config_that_is_taken_names_at_most_one_owner_of_a_port(
        all in proptest::collection::vec((0_u8..6, 0_u16..40, 0_u16..12), 0..5),
        rest in proptest::option::of((0_u16..40, 0_u16..12)),
    ) {
        let range = |first: u16, more: u16| {
            PortRange::new(2000 + first, 2000 + first + more).unwrap()
        };
        let text = |range: PortRange| format!("{}-{}", range.first(), range.last());
        let all: Vec<SourcePorts> = all
            .into_iter()
            .map(|(net, first, more)| SourcePorts {
                from: format!("10.1.{net}.0/24").parse().unwrap(),
                ports: range(first, more),
            })
            .collect();
        let rest = rest.map(|(first, more)| range(first, more));
        let written: Vec<(String, String)> = all
            .iter()
            .map(|one| (one.from.to_string(), text(one.ports)))
            .collect();
        let written: Vec<(&str, &str)> = written
            .iter()
            .map(|(from, ports)| (from.as_str(), ports.as_str()))
            .collect();
        let ports = rest.map_or_else(String::new, |rest| format!("ports = '{}'", text(rest)));
        let file = format!(
            "privnet = '10.0.0.0/8'\ntransport = 'none'\n{}",
            source_port_lines(&ports, &written)
        );
        let told_apart = (2000..=2060).all(|port| {
            let ranges = all.iter().map(|one| one.ports).chain(rest);
            ranges.filter(|range| range.contains(port)).count() <= 1
        });
        let mut froms: Vec<_> = all.iter().map(|one| one.from).collect();
        froms.sort_unstable();
        froms.dedup();
        let good = told_apart && froms.len() == all.len();
        match SpokeConfig::parse("spoke.toml", &file) {
            Ok(spoke) => {
                prop_assert!(good);
                prop_assert_eq!((spoke.nat.source_ports, spoke.nat.ports), (all, rest));
            }
            Err(errors) => prop_assert!(!good, "{errors}"),
        }
    }
}

#[test]
fn a_forward_is_open_to_nobody_by_omission() {
    let said = spoke_with(
        "",
        "[[nat.forward]]\nproto = 'tcp'\nport = 51532\nto = '10.0.1.10:1532'",
    );
    assert_eq!(
        said,
        [
            "spoke.toml:6: nat.forward[0].from: missing; expected a list of at least one, each an IPv4 CIDR such as 203.0.113.110/32"
        ]
    );
    assert_eq!(
        forward("from = []"),
        [
            "nat.forward[0].from = []: empty; expected a list of at least one, each an IPv4 CIDR such as 203.0.113.110/32"
        ]
    );
    assert_eq!(
        forward("from = '0.0.0.0/0'"),
        [
            "nat.forward[0].from = '0.0.0.0/0': not a list; expected a list, each an IPv4 CIDR such as 203.0.113.110/32"
        ]
    );
}

#[test]
fn ports_and_hosts_that_make_no_sense_are_told() {
    for (keys, problem) in [
        ("proto = 'icmp'", "not a protocol with ports"),
        ("port = 0", "out of range"),
        ("port = 65536", "out of range"),
        ("port = '80'", "text, not a number; leave the quotes out"),
        ("port = '90-80'", "the last port comes before the first"),
        ("port = '0-80'", "port 0"),
        ("port = '1-99999'", "not a range of ports"),
        ("port = '+1-80'", "not a range of ports"),
        ("port = '1-2-3'", "not a range of ports"),
        ("to = 'web:80'", "not an IPv4 address"),
        ("to = '[fd00::1]:80'", "not an IPv4 address"),
        ("to = '127.0.0.1:80'", "not the address of a host"),
        ("to = '0.0.0.0:80'", "not the address of a host"),
        ("to = '10.0.1.10:0'", "not a port after the `:`"),
        ("to = '10.0.1.10:'", "not a port after the `:`"),
        ("to = '10.0.1.10:80-81'", "2 ports for the 1 port of `port`"),
        ("from = ['fd00::/8']", "IPv6, which is never translated"),
        (
            "from = ['203.0.113.110']",
            "an address without a prefix length",
        ),
        ("form = 1", "unknown key"),
    ] {
        let said = forward(keys);
        assert!(
            said.len() == 1 && said[0].contains(&format!(": {problem}")),
            "{keys}: {said:?}"
        );
    }
    for (keys, problem) in [
        ("to = '10.0.3.20'", "no port"),
        ("to = '10.0.3.20:1-2'", "several ports"),
        ("sources = []", "empty"),
        ("from = ['10.0.0.0/8']", "unknown key"),
        (
            "sources = ['10.0.3.20/32']",
            "would lead the proxy's own connections back to it",
        ),
    ] {
        let said = redirect(keys);
        assert!(
            said.len() == 1 && said[0].contains(&format!(": {problem}")),
            "{keys}: {said:?}"
        );
    }
}

#[test]
fn many_ports_keep_their_numbers_or_are_few() {
    let ranges =
        |port: &str, to: &str| forward_lines(&format!("port = '{port}'\nto = '10.0.1.10{to}'"));
    assert_eq!(ranges("1000-65000", ""), [""; 0]);
    assert_eq!(ranges("1000-65000", ":1000-65000"), [""; 0]);
    assert_eq!(ranges("1001-2000", ":3001-4000"), [""; 0]);
    assert_eq!(
        ranges("1001-2001", ":3001-4001"),
        [
            "spoke.toml:9: nat.forward[0].to = '10.0.1.10:3001-4001': 1001 ports that change their number; expected at most 1000 of those, or no ports for the same ones"
        ]
    );
    assert_eq!(
        ranges("1001-1003", ":80"),
        [
            "spoke.toml:9: nat.forward[0].to = '10.0.1.10:80': 1 port for the 3 ports of `port`; expected as many ports, or none for the same ones"
        ]
    );
}

fn forward_lines(lines: &str) -> Vec<String> {
    let rest = format!("[[nat.forward]]\nproto = 'tcp'\n{lines}\nfrom = ['0.0.0.0/0']");
    spoke_with("", &rest)
}

#[test]
fn rules_that_share_packets_are_told_with_the_line_of_the_other() {
    let two = |table: &str, one: &str, other: &str| {
        let to = "to = '10.0.1.10:80'";
        let (one, other) = (one.replace(';', "\n"), other.replace(';', "\n"));
        spoke_with(
            "",
            &format!("[[nat.{table}]]\n{to}\n{one}\n[[nat.{table}]]\n{to}\n{other}"),
        )
    };
    let tcp = "proto = 'tcp';port = 80;from = ['203.0.113.0/24']";
    for other in [
        "proto = 'udp';port = 80;from = ['203.0.113.0/24']",
        "proto = 'tcp';port = 81;from = ['203.0.113.0/24']",
        "proto = 'tcp';port = 80;from = ['198.51.100.0/24']",
    ] {
        assert_eq!(two("forward", tcp, other), [""; 0], "{other}");
    }
    assert_eq!(
        two(
            "forward",
            tcp,
            "proto = 'tcp';port = 80;from = ['203.0.113.9/32']"
        ),
        [
            "spoke.toml:11: nat.forward[1]: shares tcp ports with the forward in line 6; expected other ports, or `from` that do not overlap"
        ]
    );
    let all = "proto = 'tcp';port = 80";
    let some = "proto = 'tcp';port = 80;sources = ['10.0.9.0/24']";
    let others = "proto = 'tcp';port = 80;sources = ['10.0.8.0/24']";
    assert_eq!(two("redirect", some, others), [""; 0]);
    for (one, other) in [(all, some), (some, all), (all, all)] {
        let said = two("redirect", one, other);
        assert!(
            said.len() == 1 && said[0].contains("shares tcp ports with the redirect in line 6"),
            "{said:?}"
        );
    }
    let range = "proto = 'tcp';port = '79-81'".replace(';', "\n");
    let rest = format!(
        "[[nat.redirect]]\n{range}\nto = '10.0.1.10:80'\n[[nat.redirect]]\nproto = 'tcp'\n\
         port = 81\nto = '10.0.1.10:80'"
    );
    assert_eq!(spoke_with("", &rest).len(), 1);
}

#[test]
fn a_forward_does_not_take_the_tunnels_own_port() {
    let said = |top: &str, port: &str| {
        let rest = format!(
            "[[nat.forward]]\nproto = 'udp'\nport = {port}\nto = '10.0.1.10'\nfrom = ['0.0.0.0/0']"
        );
        spoke_with(top, &rest)
    };
    assert_eq!(
        said("", "51820"),
        [
            "spoke.toml:8: nat.forward[0].port = 51820: takes the tunnel's own port 51820 (`listen_port`); expected ports that the tunnel does not use"
        ]
    );
    assert_eq!(said("", "'51000-52000'").len(), 1);
    assert_eq!(said("listen_port = 4500", "51820"), [""; 0]);
    assert_eq!(said("listen_port = 4500", "4500").len(), 1);
    assert_eq!(forward("port = 51820"), [""; 0], "TCP is not the tunnel's");
    // Without a tunnel the port is free.
    let nat = read(
        "[[nat.forward]]\nproto = 'udp'\nport = 51820\nto = '10.0.1.10'\nfrom = ['0.0.0.0/0']",
    );
    assert_eq!(nat.forwards.len(), 1);
}

#[test]
fn sizes_and_times_out_of_bounds_are_told() {
    let said = |line: &str| {
        let said = spoke_with("", &format!("[nat]\n{line}"));
        said.first().cloned().unwrap_or_default()
    };
    for (line, problem) in [
        ("idle_timeout = '29s'", "less than 30s"),
        ("idle_timeout = '6days'", "more than 5days"),
        ("idle_timeout = '30500ms'", "not whole seconds"),
        ("idle_timeout = 350", "a number, not text in quotes"),
        ("connections = 1023", "out of range"),
        ("ports = '80-90'", "begins below 1024"),
        ("ports = 2000", "a number, not text in quotes"),
        ("flowtable = 'on'", "not true or false"),
        ("[nat.forward]", "one table where there may be several"),
    ] {
        assert!(said(line).contains(problem), "{line}: {}", said(line));
    }
}
