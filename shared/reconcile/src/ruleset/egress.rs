//! NAT towards the internet.

use ipnet::Ipv4Net;
use privnet_model::config::spoke::PortRange;

use super::cidr_set::set;
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
}

impl Egress {
    pub(super) fn sets(&self) -> String {
        set("sources", &self.sources) + &set("excluded", &self.exclude)
    }

    /// The rules of a chain at the hook postrouting.
    pub(super) fn rules(&self) -> String {
        // By name and not by index: the rule stays right when the interface is
        // made anew, and loads when it is not there yet.
        let who = format!(
            "oifname \"{}\" ip saddr @sources ip daddr != @excluded",
            self.interface
        );
        // Of protocols without ports (ping) the second rule takes care.
        let with_ports = self.ports.map_or_else(String::new, |ports| {
            format!("\t\t{who} meta l4proto {{ tcp, udp }} counter masquerade to :{ports}\n")
        });
        format!("{with_ports}\t\t{who} counter masquerade\n")
    }
}
