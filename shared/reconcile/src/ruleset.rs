//! Our nftables table: masquerading towards the internet and the TCP segment
//! size through the tunnel, from typed input to the text that nft loads.
//!
//! It names one table, `inet privnet`, and touches no other; it replaces that
//! table in one transaction, so no packet meets half of it. Nothing from
//! outside enters the text but parsed CIDRs, numbers and interface names.
//!
//! Whether what the kernel holds is what we want is decided by two fingerprints
//! that the kernel keeps for us in the name of an empty set, the *seal*: that of
//! the text that was loaded, and that of nft's own listing right after. The
//! listing is only ever compared with an earlier listing, so it does not matter
//! how this or that version of nft spells a rule; and a restarted daemon knows
//! its table again without a state file, so counters and flows go on.

use std::fmt::{self, Write};

use ipnet::Ipv4Net;

use crate::interface::InterfaceName;

/// The table's family and name.
pub const TABLE: &str = "inet privnet";

/// What the table should do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ruleset {
    /// NAT towards the internet.
    pub egress: Option<Egress>,
    /// TCP segment size through the tunnel.
    pub tunnel: Option<TunnelClamp>,
}

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
}

/// Forwarded TCP connections through `interface` agree on segments that fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelClamp {
    /// The tunnel interface.
    pub interface: InterfaceName,
    /// Its MTU in bytes.
    pub mtu: u16,
}

/// What the kernel holds of our table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadedRuleset {
    /// As it was loaded, from the text with this fingerprint.
    Intact(Fingerprint),
    /// There, but not as it was loaded: changed by hand, or its loading was cut
    /// off before the seal.
    Altered,
}

/// A 64-bit FNV-1a hash. It finds accidents and hand-made changes; who wants to
/// deceive it has `CAP_NET_ADMIN` and needs no deception.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u64);

impl Ruleset {
    /// Whether it asks for nothing: then there is no table.
    pub fn is_empty(&self) -> bool {
        self.masquerade().is_none() && self.tunnel.is_none()
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
        if let Some(egress) = self.masquerade() {
            text.push_str(&egress.rules());
        }
        if let Some(tunnel) = &self.tunnel {
            text.push_str(&tunnel.rules());
        }
        text.push_str("}\n");
        text
    }

    fn masquerade(&self) -> Option<&Egress> {
        self.egress
            .as_ref()
            .filter(|egress| !egress.sources.is_empty())
    }
}

impl Egress {
    fn rules(&self) -> String {
        let sources = set("sources", &self.sources);
        let excluded = set("excluded", &self.exclude);
        let interface = &self.interface;
        // By name and not by index: the rule stays right when the interface is
        // made anew, and loads when it is not there yet.
        format!(
            "{sources}{excluded}\tchain postrouting {{\n\
             \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
             \t\toifname \"{interface}\" ip saddr @sources ip daddr != @excluded counter masquerade\n\
             \t}}\n"
        )
    }
}

impl TunnelClamp {
    fn rules(&self) -> String {
        let mut text = String::from(
            "\tchain forward {\n\t\ttype filter hook forward priority mangle; policy accept;\n",
        );
        for direction in ["iifname", "oifname"] {
            for (family, size) in [("ipv4", self.ipv4_segment()), ("ipv6", self.ipv6_segment())] {
                // Only ever smaller: a host that asked for less has its reasons.
                let _ = writeln!(
                    text,
                    "\t\t{direction} \"{}\" meta nfproto {family} tcp flags syn / syn,rst \
                     tcp option maxseg size > {size} tcp option maxseg size set {size}",
                    self.interface,
                );
            }
        }
        text.push_str("\t}\n");
        text
    }

    /// MTU less 20 bytes of IPv4 and 20 of TCP; at least what 576, the smallest
    /// packet every host takes, leaves (RFC 879).
    fn ipv4_segment(&self) -> u16 {
        self.mtu.saturating_sub(40).max(536)
    }

    /// MTU less 40 bytes of IPv6 and 20 of TCP; at least what 1280, the smallest
    /// MTU of IPv6, leaves (RFC 8200, section 5).
    fn ipv6_segment(&self) -> u16 {
        self.mtu.saturating_sub(60).max(1220)
    }
}

/// A set of CIDRs. Merged and sorted, so that equal input gives equal text.
fn set(name: &str, nets: &[Ipv4Net]) -> String {
    let mut nets = Ipv4Net::aggregate(&nets.iter().map(Ipv4Net::trunc).collect());
    nets.sort_unstable();
    let nets: Vec<String> = nets.iter().map(Ipv4Net::to_string).collect();
    let elements = match nets.as_slice() {
        [] => String::new(),
        nets => format!("\t\telements = {{ {} }}\n", nets.join(", ")),
    };
    format!(
        "\tset {name} {{\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\tauto-merge\n{elements}\t}}\n"
    )
}

const SEAL: &str = "seal_";

/// The input for `nft -f -` that seals the table just loaded from `text` and
/// listed as `listing`.
pub fn seal(text: Fingerprint, listing: &str) -> String {
    let listing = Fingerprint::of(listing);
    format!("add set {TABLE} {SEAL}{text}_{listing} {{ type mark; }}\n")
}

/// What nft's listing of our table (`nft --stateless list table inet privnet`)
/// says about it.
pub fn inspect(listing: &str) -> LoadedRuleset {
    let Some((seal, rest)) = split_seal(listing) else {
        return LoadedRuleset::Altered;
    };
    let Some((text, sealed)) = seal.split_once('_') else {
        return LoadedRuleset::Altered;
    };
    match (Fingerprint::parse(text), Fingerprint::parse(sealed)) {
        (Some(text), Some(sealed)) if sealed == Fingerprint::of(&rest) => {
            LoadedRuleset::Intact(text)
        }
        (Some(_) | None, Some(_) | None) => LoadedRuleset::Altered,
    }
}

/// The seal's name without its prefix, and the listing without the seal:
/// what the listing was before the seal was added.
fn split_seal(listing: &str) -> Option<(&str, String)> {
    let head = format!("\tset {SEAL}");
    let start = match listing.find(&format!("\n{head}")) {
        Some(newline) => newline + 1,
        None => return None,
    };
    let name_start = start + head.len();
    let name_end = name_start + listing.get(name_start..)?.find(" {")?;
    // nft puts an empty line between the objects of a table.
    let end = ["\n\t}\n\n", "\n\t}\n"].iter().find_map(|closing| {
        let at = listing.get(name_end..)?.find(closing)?;
        Some(name_end + at + closing.len())
    })?;
    let rest = format!("{}{}", listing.get(..start)?, listing.get(end..)?);
    Some((listing.get(name_start..name_end)?, rest))
}

impl Fingerprint {
    /// The fingerprint of a text. Empty lines do not count: a table's last
    /// object has none behind it, until the seal follows it.
    pub fn of(text: &str) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            for byte in line.bytes().chain([b'\n']) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        Self(hash)
    }

    fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use proptest::prelude::*;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<Ipv4Net> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn spoke() -> Ruleset {
        Ruleset {
            egress: Some(Egress {
                interface: InterfaceName::new("ens5").unwrap(),
                sources: nets(&["10.9.0.0/16", "10.1.0.0/16"]),
                exclude: nets(&["10.0.0.0/8", "10.1.0.0/16", "192.168.7.0/24"]),
            }),
            tunnel: Some(TunnelClamp {
                interface: InterfaceName::new("privnet0").unwrap(),
                mtu: 1420,
            }),
        }
    }

    #[test]
    fn the_text_of_a_spoke() {
        let expected = r#"table inet privnet
delete table inet privnet
table inet privnet {
	set sources {
		type ipv4_addr
		flags interval
		auto-merge
		elements = { 10.1.0.0/16, 10.9.0.0/16 }
	}
	set excluded {
		type ipv4_addr
		flags interval
		auto-merge
		elements = { 10.0.0.0/8, 192.168.7.0/24 }
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "ens5" ip saddr @sources ip daddr != @excluded counter masquerade
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
    fn nothing_to_exclude_gives_an_empty_set_and_nobody_to_translate_no_nat() {
        let mut ruleset = spoke();
        let egress = ruleset.egress.as_mut().unwrap();
        egress.exclude.clear();
        assert_eq!(ruleset.text().matches("elements").count(), 1);
        ruleset.egress.as_mut().unwrap().sources.clear();
        assert!(!ruleset.text().contains("nat"));
        assert!(!ruleset.is_empty());
        ruleset.tunnel = None;
        assert!(ruleset.is_empty());
    }

    #[test]
    fn a_tiny_mtu_does_not_strangle_tcp() {
        let clamp = TunnelClamp {
            interface: InterfaceName::new("privnet0").unwrap(),
            mtu: 0,
        };
        assert_eq!((clamp.ipv4_segment(), clamp.ipv6_segment()), (536, 1220));
    }

    /// As nft 1.0.6 lists a table.
    const LISTING: &str = "table inet privnet {\n\tset a {\n\t\ttype mark\n\t}\n\n\tchain c {\n\t\tip saddr 10.0.0.1 drop\n\t}\n}\n";

    fn sealed(name: &str) -> String {
        let block = format!("\n\tset {name} {{\n\t\ttype mark\n\t}}\n");
        LISTING.replacen("\n\n\tchain", &format!("\n{block}\n\tchain"), 1)
    }

    fn seal_name() -> String {
        let text = seal(spoke().fingerprint(), LISTING);
        text.split(' ').nth(4).unwrap().to_owned()
    }

    #[test]
    fn a_sealed_table_is_intact_and_names_the_text_it_came_from() {
        assert_eq!(
            inspect(&sealed(&seal_name())),
            LoadedRuleset::Intact(spoke().fingerprint())
        );
    }

    #[test]
    fn a_table_without_a_seal_or_changed_under_it_is_altered() {
        assert_eq!(inspect(LISTING), LoadedRuleset::Altered);
        assert_eq!(inspect(""), LoadedRuleset::Altered);
        let changed = sealed(&seal_name()).replace("10.0.0.1", "10.0.0.2");
        assert_eq!(inspect(&changed), LoadedRuleset::Altered);
        let gone = sealed(&seal_name()).replace("\t\tip saddr 10.0.0.1 drop\n", "");
        assert_eq!(inspect(&gone), LoadedRuleset::Altered);
        assert_eq!(inspect(&sealed("seal_nonsense")), LoadedRuleset::Altered);
        assert_eq!(inspect(&sealed("seal_1_2")), LoadedRuleset::Altered);
    }

    proptest! {
        #[test]
        fn the_order_and_repetition_of_cidrs_do_not_matter(
            nets in proptest::collection::vec((any::<u32>(), 0_u8..=32), 0..12),
            rotation in 0_usize..12,
        ) {
            let nets: Vec<Ipv4Net> = nets
                .into_iter()
                .map(|(address, length)| Ipv4Net::new(address.into(), length).unwrap())
                .collect();
            let mut other = [nets.clone(), nets.clone()].concat();
            let middle = rotation.min(other.len());
            other.rotate_left(middle);
            prop_assert_eq!(set("s", &nets), set("s", &other));
        }

        #[test]
        fn any_listing_can_be_inspected(listing in "(?s).{0,200}|(\t|\n|set seal_| \\{|\\}|[0-9a-f_]){0,60}") {
            let _ = inspect(&listing);
        }
    }
}
