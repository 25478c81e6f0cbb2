//! The kernel's short cut for established connections: their packets are
//! forwarded where they come in, past routing, rules and most of connection
//! tracking (nf_flowtable, the kernel's documentation).
//!
//! Translated connections alone take it, once packets went both ways for a while, and only between interfaces of the
//! host's network: the tunnel's packets meet the data plane, whose interface
//! comes and goes with the daemon.

use std::collections::BTreeSet;

use crate::connections::MARK;
use crate::interface::InterfaceName;

/// The interfaces between which established connections take the short cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flowtable {
    /// They must exist when the rules are loaded. Never empty.
    pub devices: BTreeSet<InterfaceName>,
}

impl Flowtable {
    /// The flowtable and the chain that fills it.
    pub(super) fn rules(&self) -> String {
        let devices: Vec<String> = self
            .devices
            .iter()
            .map(|device| format!("\"{device}\""))
            .collect();
        let devices = devices.join(", ");
        // Assured is what goes on: a question and its answer by UDP (DNS) are forgotten soon,
        // and would be remembered for as long as a stream if they took the short cut.
        // What takes it is not seen by who keeps connections of an address that
        // moves, neither the guard over them nor the listing that siblings are told.
        format!(
            "\tflowtable flows {{\n\t\thook ingress priority filter; devices = {{ {devices} }};\n\t}}\n\
             \tchain established {{\n\
             \t\ttype filter hook forward priority filter; policy accept;\n\
             \t\tiifname {{ {devices} }} oifname {{ {devices} }} meta l4proto {{ tcp, udp }} \
             ct state established ct status assured ct status & (snat | dnat) != 0 ct mark & {MARK} == 0 flow add @flows\n\
             \t}}\n"
        )
    }
}

/// A table with which to ask a kernel whether it has flowtables: nft's `--check`
/// has the kernel look at it without loading it.
pub fn probe(device: &InterfaceName) -> String {
    let rules = Flowtable {
        devices: [device.clone()].into(),
    };
    format!("table {} {{\n{}}}\n", super::TABLE, rules.rules())
}
