//! Our nftables table: what is translated, and the TCP segment size through the
//! tunnel, from typed input to the text that nft loads.
//!
//! It names one table, `inet privnet`, and touches no other; it replaces that
//! table in one transaction, so no packet meets half of it. Nothing from
//! outside enters the text but parsed CIDRs, addresses, numbers and interface
//! names. Whether the kernel holds what was loaded tells the seal.

mod cidr;
mod clamp;
mod diversion;
mod egress;
mod flowtable;
mod seal;
mod verdicts;

pub use clamp::TunnelClamp;
pub use diversion::Diversions;
pub use egress::Egress;
pub use flowtable::{Flowtable, probe as flowtable_probe};
pub use seal::{Fingerprint, LoadedRuleset, inspect, seal};
pub use verdicts::{Verdicts, denying_rule};

/// The table's family and name.
pub const TABLE: &str = "inet privnet";

/// The input for `nft --check -f -` by which it shows whether kernel and program can do
/// what all our NAT is made of.
pub const NAT_PROBE: &str = "table inet privnet_probe {
	chain postrouting {
		type nat hook postrouting priority srcnat;
		ct state new masquerade
	}
	chain prerouting {
		type nat hook prerouting priority dstnat;
	}
}
";

/// What the table should do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ruleset {
    /// NAT towards the internet.
    pub egress: Option<Egress>,
    /// Forwards and redirects.
    pub diversions: Diversions,
    /// The short cut for what is translated; without effect where nothing is.
    pub flowtable: Option<Flowtable>,
    /// The policy, for what the kernel forwards by itself.
    pub verdicts: Option<Verdicts>,
    /// TCP segment size through the tunnels.
    pub tunnels: Vec<TunnelClamp>,
}

impl Ruleset {
    /// Whether it asks for nothing: then there is no table.
    pub fn is_empty(&self) -> bool {
        !self.translates() && self.tunnels.is_empty() && self.verdicts.is_none()
    }

    /// The fingerprint of the text.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.text())
    }

    /// The input for `nft -f -`: replaces our table as one transaction, whether
    /// there is one or not.
    pub fn text(&self) -> String {
        // `table …` makes it where it is missing, for `delete` to succeed.
        format!("table {TABLE}\ndelete table {TABLE}\n{}", self.table())
    }

    fn table(&self) -> String {
        let mut text = format!("table {TABLE} {{\n");
        if self.translates() {
            text.push_str(&self.nat());
        }
        text.extend(self.verdicts.as_ref().map(Verdicts::chains));
        if !self.tunnels.is_empty() {
            text.push_str(&clamp::chain(&self.tunnels));
        }
        text.push_str("}\n");
        text
    }

    fn nat(&self) -> String {
        let mut text = String::new();
        let egress = self.masquerade();
        if !self.diversions.is_empty() {
            text.push_str(&self.diversions.sets());
            text.push_str(&self.diversions.chain());
        }
        text.push_str(
            "\tchain postrouting {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n",
        );
        text.push_str(&self.diversions.rules());
        text.extend(egress.map(Egress::rules));
        text.push_str("\t}\n");
        text.extend(self.flowtable.as_ref().map(Flowtable::rules));
        text
    }

    fn translates(&self) -> bool {
        self.masquerade().is_some() || !self.diversions.is_empty()
    }

    fn masquerade(&self) -> Option<&Egress> {
        self.egress
            .as_ref()
            .filter(|egress| !egress.sources.is_empty())
    }
}

#[cfg(test)]
mod tests;
