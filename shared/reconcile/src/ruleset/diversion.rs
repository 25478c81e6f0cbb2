//! Connections that are led elsewhere than their callers say: forwards of the
//! instance's own ports to private hosts, redirects of outbound ones to a proxy.
//!
//! Their answers have to come back here, to be given the address that the
//! caller knows. A target in the VPC answers a caller in the VPC directly, past
//! us; so where both are in it the target sees this instance's address instead.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use privnet_model::config::spoke::{Forward, PortRange, Redirect};

use super::cidr::{matches, merged, set};

/// What is led elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diversions {
    /// The instance's own addresses, also the public one: from inside it is
    /// called by that as well.
    pub own: BTreeSet<Ipv4Addr>,
    /// The VPC's CIDRs.
    pub vpc: Vec<Ipv4Net>,
    /// Destinations that are no outside: redirects leave them alone.
    pub exclude: Vec<Ipv4Net>,
    /// The own ports that lead to private hosts.
    pub forwards: Vec<Forward>,
    /// The outbound connections that a proxy gets. One without sources is for
    /// the whole VPC.
    pub redirects: Vec<Redirect>,
}

impl Diversions {
    pub(super) fn is_empty(&self) -> bool {
        self.forwards.is_empty() && self.redirects.is_empty()
    }

    pub(super) fn sets(&self) -> String {
        let mut text = set("own", &self.own);
        if !self.redirects.is_empty() {
            let proxies = self.redirects.iter().map(|redirect| redirect.to);
            text += &set("proxies", &proxies.collect());
        }
        text
    }

    /// The chain at the hook prerouting, where the target is chosen.
    pub(super) fn chain(&self) -> String {
        let mut text = String::from(
            "\tchain prerouting {\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n",
        );
        for forward in &self.forwards {
            let Forward {
                protocol, ports, ..
            } = forward;
            let target = target(forward);
            for caller in matches("ip saddr", &forward.from) {
                let _ = writeln!(
                    text,
                    "\t\tip daddr @own {caller}{protocol} dport {ports} counter dnat ip to {target}",
                );
            }
        }
        if !self.redirects.is_empty() {
            // No proxy's connection is led to any proxy: neither back to itself
            // nor round in a circle of several.
            text.push_str("\t\tip saddr @proxies accept\n\t\tip daddr @own accept\n");
            for net in merged(&self.exclude) {
                let _ = writeln!(text, "\t\tip daddr {net} accept");
            }
        }
        for redirect in &self.redirects {
            let Redirect {
                protocol,
                ports,
                to,
                to_port,
                sources,
            } = redirect;
            let sources = match sources.as_slice() {
                [] => self.vpc.as_slice(),
                sources => sources,
            };
            for source in matches("ip saddr", sources) {
                let _ = writeln!(
                    text,
                    "\t\t{source}{protocol} dport {ports} counter dnat ip to {to}:{to_port}",
                );
            }
        }
        text.push_str("\t}\n");
        text
    }

    /// The rules of a chain at the hook postrouting: whose answers would not
    /// come back here.
    pub(super) fn rules(&self) -> String {
        let mut text = String::new();
        for forward in &self.forwards {
            let Forward { protocol, to, .. } = forward;
            let ports = forward.to_ports.unwrap_or(forward.ports);
            for caller in matches("ip saddr", &self.vpc) {
                let _ = writeln!(
                    text,
                    "\t\tct status dnat ct original ip daddr @own {caller}\
                     ip daddr {to} {protocol} dport {ports} counter masquerade",
                );
            }
        }
        for redirect in &self.redirects {
            let Redirect {
                protocol,
                to,
                to_port,
                ..
            } = redirect;
            let _ = writeln!(
                text,
                "\t\tct status dnat ct original ip daddr != @own \
                 ip daddr {to} {protocol} dport {to_port} counter masquerade",
            );
        }
        text
    }
}

/// Where a forward leads. nftables knows no range of ports that is moved as a
/// whole, so each port that changes is named.
fn target(forward: &Forward) -> String {
    let Forward { to, ports, .. } = forward;
    match forward.to_ports {
        None => to.to_string(),
        Some(target) if target == *ports => to.to_string(),
        Some(target) if target.count() == 1 => format!("{to}:{target}"),
        Some(target) => format!(
            "{to} : {} dport map {{ {} }}",
            forward.protocol,
            pairs(*ports, target)
        ),
    }
}

fn pairs(ports: PortRange, target: PortRange) -> String {
    let called = ports.first()..=ports.last();
    let target = target.first()..=target.last();
    let pairs: Vec<String> = called
        .zip(target)
        .map(|(called, target)| format!("{called} : {target}"))
        .collect();
    pairs.join(", ")
}
