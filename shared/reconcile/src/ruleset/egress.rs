//! NAT towards the internet.

use std::cmp::Reverse;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use privnet_model::config::spoke::{PortRange, SourcePorts};

use super::cidr::merged;
use crate::interface::InterfaceName;

/// NAT egress: packets from `sources` leave `interface` with its address,
/// unless they go to `exclude`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// The interface towards the internet.
    pub interface: InterfaceName,
    /// Whose packets are masqueraded: the VPC's own CIDRs. None: nobody's.
    pub sources: Vec<Ipv4Net>,
    /// Where they keep their address: the privnet, the own VPC, and private
    /// destinations that are routed.
    pub exclude: Vec<Ipv4Net>,
    /// The source ports that TCP and UDP get; `None` is the kernel's choice.
    pub ports: Option<PortRange>,
    /// Those that some of the sources have to themselves.
    pub source_ports: Vec<SourcePorts>,
    /// The instance's own address.
    pub own: Option<Ipv4Addr>,
}

impl Egress {
    /// The rules of a chain at the hook postrouting; none may follow them there.
    pub(super) fn rules(&self) -> String {
        // By name and not by index: the rule stays right when the interface is
        // made anew, and loads when it is not there yet.
        let out = format!("\t\toifname \"{}\" ", self.interface);
        let mut text = String::new();
        for net in merged(&self.exclude) {
            text.push_str(&format!("{out}ip daddr {net} accept\n"));
        }
        let sources = merged(&self.sources);
        let owners = self.owners(&sources);
        // A tunnel's far end knows it by its port, and calls it there as well: both ways
        // have to be one connection (else the kernel gives the far end another port).
        if (self.ports.is_some() || !owners.is_empty())
            && let Some(own) = self.own
            && sources.iter().any(|net| net.contains(&own))
        {
            text.push_str(&format!(
                "{out}ip saddr {own} meta l4proto udp counter masquerade\n"
            ));
        }
        // Of protocols without ports (ping) the rules without ports below take care.
        for SourcePorts { from, ports } in owners {
            text.push_str(&format!(
                "{out}ip saddr {from} meta l4proto {{ tcp, udp }} counter masquerade to :{ports}\n"
            ));
        }
        for net in sources {
            let who = format!("{out}ip saddr {net}");
            // Of protocols without ports (ping) the second rule takes care.
            if let Some(ports) = self.ports {
                text.push_str(&format!(
                    "{who} meta l4proto {{ tcp, udp }} counter masquerade to :{ports}\n"
                ));
            }
            text.push_str(&format!("{who} counter masquerade\n"));
        }
        text
    }

    /// Who of the sources has ports to itself: the narrowest first, as the first rule that
    /// matches decides.
    fn owners(&self, sources: &[Ipv4Net]) -> Vec<SourcePorts> {
        let mut owners = self.source_ports.clone();
        owners.sort_unstable_by_key(|one| (Reverse(one.from.prefix_len()), one.from));
        let masqueraded = owners.into_iter().flat_map(|one| {
            sources.iter().filter_map(move |source| {
                let from = common(one.from, *source)?;
                Some(SourcePorts { from, ..one })
            })
        });
        masqueraded.collect()
    }
}

/// The addresses that are in both.
fn common(one: Ipv4Net, other: Ipv4Net) -> Option<Ipv4Net> {
    match (one.contains(&other), other.contains(&one)) {
        (true, _) => Some(other),
        (false, true) => Some(one),
        (false, false) => None,
    }
}
