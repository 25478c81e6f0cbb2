//! The policy, for what the kernel forwards without the data plane: between IPsec
//! tunnels, and between them and the own VPC. What goes into or comes out of a
//! WireGuard tunnel meets the data plane's table, of which this is a part.
//!
//! Each rule of the policy that denies something has a chain of its own, and a counter of
//! that name, which counts what it drops: one number to read back for a rule, whatever
//! pairs it decides. What it counted is no part of the seal, because the table is listed
//! for it without state.
//!
//! Written as chains of single rules, longest prefix first, like the sets of
//! addresses elsewhere in the table ([`super::cidr`] tells why).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use privnet_model::policy::{PolicyTable, Verdict};

use crate::interface::{InterfaceName, InterfacePattern};

/// Who may talk to whom through some interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdicts {
    interface: InterfacePattern,
    /// What goes through it meets the data plane's table.
    judged: Option<InterfaceName>,
    /// The addresses of each class among those that the kernel forwards, the longest
    /// prefix first.
    prefixes: Vec<(IpNet, u16)>,
    /// Pairs of classes that may not talk, with the number of the rule that says so.
    denied: BTreeMap<(u16, u16), u16>,
}

impl Verdicts {
    /// The part of the table that is about these CIDRs; `None` when it denies nothing
    /// between them.
    pub fn among(
        cidrs: impl IntoIterator<Item = IpNet>,
        table: &PolicyTable,
        interface: InterfacePattern,
        judged: Option<&InterfaceName>,
    ) -> Option<Self> {
        let known: BTreeMap<IpNet, u16> = table.prefixes().iter().copied().collect();
        let class = |net: &IpNet| {
            let around = known.iter().filter(|(prefix, _)| prefix.contains(net));
            let longest = around.max_by_key(|(prefix, _)| prefix.prefix_len());
            longest.map_or(0, |(_, class)| *class)
        };
        // Whatever else there is.
        let mut prefixes: BTreeMap<IpNet, u16> = ANYWHERE.map(|net| (net, class(&net))).into();
        for cidr in cidrs {
            prefixes.insert(cidr, class(&cidr));
            let inside = known.iter().filter(|(prefix, _)| cidr.contains(*prefix));
            prefixes.extend(inside.map(|(prefix, class)| (*prefix, *class)));
        }
        let classes: BTreeSet<u16> = prefixes.values().copied().collect();
        let pairs = classes
            .iter()
            .flat_map(|a| classes.iter().map(|b| (*a, *b)));
        let denied: BTreeMap<(u16, u16), u16> = pairs
            .filter_map(|(a, b)| match table.verdict(a, b) {
                Verdict::Deny(rule) => Some(((a, b), rule)),
                Verdict::Allow => None,
            })
            .collect();
        if denied.is_empty() {
            return None;
        }
        let mut prefixes: Vec<(IpNet, u16)> = prefixes.into_iter().collect();
        prefixes.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
        Some(Self {
            interface,
            judged: judged.cloned(),
            prefixes,
            denied,
        })
    }

    pub(super) fn chains(&self) -> String {
        let mut text = String::new();
        let rules: BTreeSet<u16> = self.denied.values().copied().collect();
        for rule in rules {
            let name = name(rule);
            let _ = writeln!(text, "\tcounter {name} {{\n\t}}");
            let _ = writeln!(
                text,
                "\tchain {name} {{\n\t\tcounter name \"{name}\" drop\n\t}}"
            );
        }
        let strict = |class: u16| {
            let mut denied = self.denied.range((class, 0)..=(class, u16::MAX));
            denied.next().is_some()
        };
        let classes: BTreeSet<u16> = self.prefixes.iter().map(|(_, class)| *class).collect();
        for from in classes.iter().filter(|class| strict(**class)) {
            let _ = writeln!(text, "\tchain from_{from} {{");
            for (net, to) in &self.prefixes {
                let verdict = match self.denied.get(&(*from, *to)) {
                    Some(rule) => format!("goto {}", name(*rule)),
                    None => "accept".to_owned(),
                };
                let _ = writeln!(text, "\t\t{} daddr {net} {verdict}", family(net));
            }
            text.push_str("\t}\n");
        }
        text.push_str("\tchain verdicts {\n");
        for (net, class) in &self.prefixes {
            let verdict = match strict(*class) {
                true => format!("goto from_{class}"),
                false => "accept".to_owned(),
            };
            let _ = writeln!(text, "\t\t{} saddr {net} {verdict}", family(net));
        }
        text.push_str("\t}\n");
        let interface = &self.interface;
        let chains: [(&str, &[&str]); 3] = [
            ("forward", &["iifname", "oifname"]),
            ("input", &["iifname"]),
            ("output", &["oifname"]),
        ];
        for (hook, directions) in chains {
            let _ = writeln!(
                text,
                "\tchain verdicts_{hook} {{\n\t\ttype filter hook {hook} priority filter; policy accept;"
            );
            for direction in ["iifname", "oifname"] {
                let judged = self.judged.iter().filter(|_| hook == "forward");
                for judged in judged {
                    let _ = writeln!(text, "\t\t{direction} \"{judged}\" accept");
                }
            }
            // The hub's own probes of its gateways, and their answers, are nobody's traffic.
            let probe = match hook {
                "output" => Some("echo-request"),
                "input" => Some("echo-reply"),
                _ => None,
            };
            for direction in directions {
                for (icmp, probe) in probe.iter().flat_map(|it| [("icmp", it), ("icmpv6", it)]) {
                    let _ = writeln!(
                        text,
                        "\t\t{direction} \"{interface}\" {icmp} type {probe} accept"
                    );
                }
                let _ = writeln!(text, "\t\t{direction} \"{interface}\" goto verdicts");
            }
            text.push_str("\t}\n");
        }
        text
    }
}

/// The number of the rule (from 0) whose denials the counter of this name counts.
pub fn denying_rule(counter: &str) -> Option<u16> {
    let number = counter.strip_prefix(DENIED)?.parse::<u32>().ok()?;
    u16::try_from(number.checked_sub(1)?).ok()
}

/// What chains and counters are called that deny.
const DENIED: &str = "denied_";

/// Where the rule of this number has its packets counted and dropped; by its number from
/// 1, as `tunnels show` and the metrics have it.
fn name(rule: u16) -> String {
    format!("{DENIED}{}", u32::from(rule) + 1)
}

const ANYWHERE: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
];

fn family(net: &IpNet) -> &'static str {
    match net {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip6",
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    /// Class 1 is production, 2 a lab within it, 3 a partner: the lab and the partner may
    /// not talk, nor partners to each other.
    fn table(denied: bool) -> PolicyTable {
        let prefixes = vec![
            (net("10.0.0.0/16"), 1),
            (net("10.200.7.0/24"), 2),
            (net("10.201.0.0/16"), 3),
        ];
        PolicyTable::new(prefixes, 4, 2, |from, to| match (denied, from, to) {
            (true, 2, 3) | (true, 3, 2) => Verdict::Deny(0),
            (true, 3, 3) => Verdict::Deny(1),
            _ => Verdict::Allow,
        })
    }

    fn verdicts(denied: bool) -> Option<Verdicts> {
        let cidrs = ["10.0.0.0/16", "10.200.0.0/16", "10.201.0.0/16"].map(net);
        let interface = InterfaceName::new("ipsec0").unwrap();
        let judged = InterfaceName::new("privnet0").unwrap();
        Verdicts::among(cidrs, &table(denied), interface.into(), Some(&judged))
    }

    #[test]
    fn there_are_rules_only_where_something_is_denied() {
        assert_eq!(verdicts(false), None);
    }

    #[test]
    fn the_longest_prefix_decides_on_both_sides() {
        let text = verdicts(true).unwrap().chains();
        let expected = "\tcounter denied_1 {
\t}
\tchain denied_1 {
\t\tcounter name \"denied_1\" drop
\t}
\tcounter denied_2 {
\t}
\tchain denied_2 {
\t\tcounter name \"denied_2\" drop
\t}
\tchain from_2 {
\t\tip daddr 10.200.7.0/24 accept
\t\tip daddr 10.0.0.0/16 accept
\t\tip daddr 10.200.0.0/16 accept
\t\tip daddr 10.201.0.0/16 goto denied_1
\t\tip daddr 0.0.0.0/0 accept
\t\tip6 daddr ::/0 accept
\t}
\tchain from_3 {
\t\tip daddr 10.200.7.0/24 goto denied_1
\t\tip daddr 10.0.0.0/16 accept
\t\tip daddr 10.200.0.0/16 accept
\t\tip daddr 10.201.0.0/16 goto denied_2
\t\tip daddr 0.0.0.0/0 accept
\t\tip6 daddr ::/0 accept
\t}
\tchain verdicts {
\t\tip saddr 10.200.7.0/24 goto from_2
\t\tip saddr 10.0.0.0/16 accept
\t\tip saddr 10.200.0.0/16 accept
\t\tip saddr 10.201.0.0/16 goto from_3
\t\tip saddr 0.0.0.0/0 accept
\t\tip6 saddr ::/0 accept
\t}
\tchain verdicts_forward {
\t\ttype filter hook forward priority filter; policy accept;
\t\tiifname \"privnet0\" accept
\t\toifname \"privnet0\" accept
\t\tiifname \"ipsec0\" goto verdicts
\t\toifname \"ipsec0\" goto verdicts
\t}
\tchain verdicts_input {
\t\ttype filter hook input priority filter; policy accept;
\t\tiifname \"ipsec0\" icmp type echo-reply accept
\t\tiifname \"ipsec0\" icmpv6 type echo-reply accept
\t\tiifname \"ipsec0\" goto verdicts
\t}
\tchain verdicts_output {
\t\ttype filter hook output priority filter; policy accept;
\t\toifname \"ipsec0\" icmp type echo-request accept
\t\toifname \"ipsec0\" icmpv6 type echo-request accept
\t\toifname \"ipsec0\" goto verdicts
\t}
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_counter_tells_by_its_name_whose_it_is() {
        for rule in [0, 1, 9, u16::MAX] {
            assert_eq!(denying_rule(&name(rule)), Some(rule));
        }
        for other in [
            "denied_0",
            "denied_65537",
            "denied_x",
            "denied_",
            "denied",
            "from_1",
            "",
        ] {
            assert_eq!(denying_rule(other), None, "{other}");
        }
    }
}
