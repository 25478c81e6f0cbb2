//! NAT towards the internet.

use ipnet::Ipv4Net;
use privnet_model::config::spoke::PortRange;

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
        for net in merged(&self.sources) {
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
}
