//! Other firewalls on the host. Each base chain at the forward hook is asked in turn,
//! and one that drops is not overruled by ours that accepts: Docker's `FORWARD` and
//! ufw's swallow what a gateway is for.

use privnet_model::doctor::{Area, Finding, quoted};

use super::Known;
use crate::interface::InterfaceName;
use crate::ruleset;

const AREA: Area = Area::Host;
const CHECK: &str = "other firewalls";

/// A chain at the forward hook that drops what none of its rules decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardChain {
    /// Its table, with the family: `ip filter`.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// Whether a rule of it accepts something, or asks another chain that may.
    pub accepts: bool,
}

/// The chains of this kind in what `nft --stateless list chains` prints, but for ours:
/// table and name of each.
pub fn dropping_chains(listing: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let (mut table, mut chain) = (None, None);
    for line in listing.lines() {
        let line = line.trim();
        let opened = |word: &str| line.strip_prefix(word)?.strip_suffix(" {");
        if let Some(name) = opened("table ") {
            table = Some(name);
        } else if let Some(name) = opened("chain ") {
            chain = Some(name);
        } else if line.starts_with("type filter hook forward ")
            && line.contains("policy drop")
            && let (Some(table), Some(chain)) = (table, chain)
            && table != ruleset::TABLE
        {
            found.push((table.to_owned(), chain.to_owned()));
        }
    }
    found
}

/// Whether the listing of a chain has a rule that may let something through.
pub fn accepts(listing: &str) -> bool {
    let mut words = listing.split(|char: char| char.is_whitespace() || char == ';');
    words.any(|word| matches!(word, "accept" | "jump" | "goto"))
}

/// The forward chains of others, and whether there are rules of the old kind, which
/// nftables does not show. What is forwarded comes in by one of `ours`, the uplink and
/// the tunnel interface.
pub fn forward_chains(
    chains: &Known<Vec<ForwardChain>>,
    legacy: bool,
    ours: &[InterfaceName],
) -> Vec<Finding> {
    let mut findings = match chains {
        Err(why) => vec![Finding::not_checked(AREA, CHECK, why.clone())],
        Ok(chains) => {
            let chains = chains.iter();
            chains.map(|chain| judge(chain, ours)).collect()
        }
    };
    if legacy {
        let found = "there are rules of iptables-legacy, which nftables does not show: if their \
                     FORWARD chain drops, nothing is forwarded";
        findings.push(
            Finding::warning(AREA, CHECK, found)
                .mend("iptables-legacy -S FORWARD   # what it does")
                .mend("update-alternatives --set iptables /usr/sbin/iptables-nft"),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok(AREA, CHECK, "none drops what is forwarded"));
    }
    findings
}

fn judge(found: &ForwardChain, ours: &[InterfaceName]) -> Finding {
    let ForwardChain {
        table,
        chain,
        accepts,
    } = found;
    let what = format!("chain {chain} of table {table} drops what is forwarded");
    let finding = if *accepts {
        let found = format!("{what}, but for what its rules accept");
        Finding::warning(AREA, CHECK, found)
    } else {
        Finding::wrong(AREA, CHECK, format!("{what}, all of it"))
    };
    if *accepts || ours.is_empty() {
        // Whether its rules let ours through is not judged: one that does is there already,
        // and one inserted before the others might overrule what they deny on purpose.
        return finding.mend(format!(
            "nft list chain {table} {chain}   # does it accept what comes in by ours?"
        ));
    }
    let ours: Vec<String> = ours.iter().map(|name| format!("\"{name}\"")).collect();
    let ours = quoted(&format!("{{ {} }}", ours.join(", ")));
    finding.mend(format!(
        "nft insert rule {table} {chain} iifname {ours} accept"
    ))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use privnet_model::doctor::Verdict;

    use super::*;

    /// As nft 1.0.6 writes it, with Docker's chains.
    const LISTING: &str = "table ip nat {
	chain POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
	}
}
table ip filter {
	chain DOCKER {
	}
	chain FORWARD {
		type filter hook forward priority filter; policy drop;
	}
	chain INPUT {
		type filter hook input priority filter; policy drop;
	}
}
table inet privnet {
	chain clamp {
		type filter hook forward priority mangle; policy drop;
	}
}
table inet fine {
	chain forward {
		type filter hook forward priority filter; policy accept;
	}
}
";

    #[test]
    fn only_chains_of_others_that_drop_what_is_forwarded_are_found() {
        let expected = [("ip filter".to_owned(), "FORWARD".to_owned())];
        assert_eq!(dropping_chains(LISTING), expected);
        assert_eq!(dropping_chains(""), []);
    }

    #[test]
    fn a_rule_that_accepts_or_asks_on_may_let_something_through() {
        let rules = |rules: &str| {
            format!(
                "table ip filter {{\n\tchain FORWARD {{\n\t\ttype filter hook forward priority filter; policy drop;\n\t\t{rules}\n\t}}\n}}\n"
            )
        };
        assert!(accepts(&rules("jump DOCKER-USER")));
        assert!(accepts(&rules("iifname \"ens5\" accept")));
        assert!(!accepts(&rules("counter drop")));
        assert!(!accepts(&rules("")));
    }

    #[test]
    fn a_chain_that_drops_all_is_wrong_and_one_with_exceptions_a_warning() {
        let chain = |accepts| ForwardChain {
            table: "ip filter".to_owned(),
            chain: "FORWARD".to_owned(),
            accepts,
        };
        let ours = ["ens5", "privnet0"].map(|name| InterfaceName::new(name).unwrap());
        let judge = |chains, legacy| forward_chains(&Ok(chains), legacy, &ours);
        let findings = judge(vec![chain(false), chain(true)], false);
        let verdicts: Vec<Verdict> = findings.iter().map(|it| it.verdict).collect();
        assert_eq!(verdicts, [Verdict::Wrong, Verdict::Warning]);
        let command =
            r#"nft insert rule ip filter FORWARD iifname '{ "ens5", "privnet0" }' accept"#;
        assert_eq!(findings[0].remedy, [command]);
        let look = "nft list chain ip filter FORWARD";
        assert!(findings[1].remedy[0].starts_with(look));
        let nameless = forward_chains(&Ok(vec![chain(false)]), false, &[]);
        assert!(nameless[0].remedy[0].starts_with(look));
        assert_eq!(judge(vec![], false)[0].verdict, Verdict::Ok);
        assert_eq!(judge(vec![], true)[0].verdict, Verdict::Warning);
        let unknown = forward_chains(&Err("not permitted".to_owned()), false, &ours);
        assert_eq!(unknown[0].verdict, Verdict::NotChecked);
    }
}
