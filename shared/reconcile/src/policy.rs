//! Who may talk to whom: the rules of the config, compiled for the data plane and
//! explained to the operator, from one set of facts.
//!
//! What a selector means depends on the fleet (which CIDRs a site has, which tags its
//! spokes have), so the table is compiled anew after each decision that changes that.
//! Addresses that the same selectors select are one class; the first rule that fits a
//! pair of classes, in either direction, is its verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;
use privnet_model::config::hub::{PolicyRule, Selector};
use privnet_model::inventory::{Inventory, SpokeRecord};
use privnet_model::policy::{PolicyTable, Verdict};

use crate::fleet::{Fleet, Obstacle, PlannedSite, SiteId, TunnelId};

/// What the rule is called that keeps an unproven spoke to itself.
const NO_PROOF: &str = "no proof of identity";

/// A table has a verdict for each pair of classes: 16 MB for so many. It takes as many
/// rules that each name another site to reach it.
const MOST_CLASSES: usize = 2048;

/// Verdicts name rules by 16 bits.
const MOST_RULES: usize = 65_000;

/// All that a policy depends on.
#[derive(Clone, Copy)]
pub struct PolicyInput<'a> {
    /// The rules of the config.
    pub rules: &'a [PolicyRule],
    /// The sites and what they have.
    pub fleet: &'a Fleet,
    /// The tags and names of their spokes.
    pub inventory: &'a Inventory,
    /// The CIDRs of the hub's own VPC.
    pub hub_cidrs: &'a [IpNet],
    /// The hub's address inside the tunnels, where spokes prove themselves and where
    /// probes come from: no rule stands between it and a spoke.
    pub control: IpAddr,
}

/// Why rules cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Too many kinds of addresses.
    #[error(
        "the rules of [[policy]] tell {0} kinds of addresses apart, at most {MOST_CLASSES} are possible"
    )]
    TooManyClasses(usize),
    /// Too many rules.
    #[error("{0} rules of [[policy]], at most {MOST_RULES} are possible")]
    TooManyRules(usize),
}

/// The compiled rules.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    table: PolicyTable,
    /// Every rule in words, by number.
    rules: Vec<String>,
    /// As in the table, for lookups here.
    classes: JointPrefixMap<IpNet, u16>,
    /// Row by row: the rule that decides between two classes.
    deciding: Vec<Option<u16>>,
    count: u16,
    /// What `deciding` follows from.
    kinds: Vec<Kind>,
    source: Vec<PolicyRule>,
}

/// What becomes of traffic between two addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// The rule that decided, by number (from 0) and in words; `None` when no rule fits,
    /// which allows.
    pub rule: Option<(u16, String)>,
}

impl Policy {
    /// Compiles the rules.
    ///
    /// # Errors
    ///
    /// When there are too many for a table.
    pub fn compile(input: PolicyInput<'_>) -> Result<Self, PolicyError> {
        Self::default().renewed(input)
    }

    /// Compiles the rules anew after a decision. What takes long, the rule for each
    /// pair of classes, is only looked for where the decision has changed the classes:
    /// a failover does not.
    ///
    /// # Errors
    ///
    /// When there are too many for a table.
    pub fn renewed(&self, input: PolicyInput<'_>) -> Result<Self, PolicyError> {
        let meaning = Meaning::new(input);
        if input.rules.len() > MOST_RULES {
            return Err(PolicyError::TooManyRules(input.rules.len()));
        }
        if input.rules.is_empty() && meaning.unproven.is_empty() {
            return Ok(Self::default());
        }
        let (classes, kinds) = meaning.classes();
        if kinds.len() > MOST_CLASSES {
            return Err(PolicyError::TooManyClasses(kinds.len()));
        }
        let pairs = kinds.iter().flat_map(|a| kinds.iter().map(move |b| (a, b)));
        let deciding: Vec<Option<u16>> = if self.kinds == kinds && self.source == input.rules {
            self.deciding.clone()
        } else {
            pairs
                .map(|(a, b)| meaning.rule(a, b).and_then(|rule| u16::try_from(rule).ok()))
                .collect()
        };
        let mut rules: Vec<String> = input.rules.iter().map(describe).collect();
        if !meaning.unproven.is_empty() {
            rules.push(NO_PROOF.to_owned());
        }
        let count = narrow(kinds.len());
        let prefixes = classes.iter().map(|(net, class)| (net, *class)).collect();
        let table = PolicyTable::new(prefixes, count, narrow(rules.len()), |a, b| {
            let rule = deciding[usize::from(a) * usize::from(count) + usize::from(b)];
            verdict(rule, input.rules)
        });
        Ok(Self {
            table,
            rules,
            classes,
            deciding,
            count,
            kinds,
            source: input.rules.to_vec(),
        })
    }

    /// What the data plane enforces.
    pub fn table(&self) -> &PolicyTable {
        &self.table
    }

    /// The rules in words, by number: those of the config, then the implicit one.
    pub fn rules(&self) -> &[String] {
        &self.rules
    }

    /// What becomes of traffic between two addresses, and why.
    pub fn decide(&self, a: IpAddr, b: IpAddr) -> Decision {
        let class = |address: IpAddr| {
            let found = self.classes.get_lpm(&IpNet::from(address));
            found.map_or(0, |(_, class)| *class)
        };
        let (a, b) = (class(a), class(b));
        let index = usize::from(a) * usize::from(self.count) + usize::from(b);
        let number = self.deciding.get(index).copied().flatten();
        Decision {
            verdict: self.table.verdict(a, b),
            rule: number.and_then(|number| {
                let text = self.rules.get(usize::from(number))?;
                Some((number, text.clone()))
            }),
        }
    }
}

/// A number that was compared with its limit before.
fn narrow(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn verdict(rule: Option<u16>, rules: &[PolicyRule]) -> Verdict {
    match rule {
        Some(rule) if rules.get(usize::from(rule)).is_none_or(|rule| !rule.allow) => {
            Verdict::Deny(rule)
        }
        Some(_) | None => Verdict::Allow,
    }
}

fn describe(rule: &PolicyRule) -> String {
    struct Side<'a>(&'a [Selector]);
    impl fmt::Display for Side<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for (position, selector) in self.0.iter().enumerate() {
                if position > 0 {
                    f.write_str(" or ")?;
                }
                match selector {
                    Selector::Any => f.write_str("any")?,
                    Selector::Hub => f.write_str("hub")?,
                    Selector::Site(glob) => write!(f, "site:{}", glob.as_str())?,
                    Selector::Tag { key, value } => write!(f, "tag:{key}={}", value.as_str())?,
                    Selector::Cidr(cidr) => write!(f, "{cidr}")?,
                }
            }
            Ok(())
        }
    }
    let action = if rule.allow { "allow" } else { "deny" };
    format!(
        "{action} between {} and {}",
        Side(&rule.between),
        Side(&rule.and)
    )
}

/// What an address is, as far as rules can tell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Whatever these selectors (by position) select.
    Selected(Vec<usize>),
    /// A spoke that has not proved who it is.
    Unproven,
    /// The hub's control endpoint.
    Control,
}

/// Where an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Hub,
    /// The site of this position.
    Site(usize),
}

/// The rules, with what their selectors mean in this fleet.
struct Meaning<'a> {
    input: PolicyInput<'a>,
    /// Every selector that occurs, once.
    selectors: Vec<&'a Selector>,
    /// The selectors of each rule, by position, on both sides.
    sides: Vec<[BTreeSet<usize>; 2]>,
    places: JointPrefixMap<IpNet, Place>,
    /// Which selectors select each site.
    sites: Vec<Vec<bool>>,
    unproven: BTreeSet<IpNet>,
}

impl<'a> Meaning<'a> {
    fn new(input: PolicyInput<'a>) -> Self {
        let mut selectors: Vec<&Selector> = Vec::new();
        let mut position = |selector: &'a Selector| {
            let known = selectors.iter().position(|known| *known == selector);
            known.unwrap_or_else(|| {
                selectors.push(selector);
                selectors.len() - 1
            })
        };
        let mut side = |side: &'a [Selector]| side.iter().map(&mut position).collect();
        let rules = input.rules.iter();
        let sides = rules
            .map(|rule| [side(&rule.between), side(&rule.and)])
            .collect();
        let mut places = JointPrefixMap::new();
        let mut sites = Vec::new();
        let without_tunnel = without_tunnel(input.fleet);
        for (id, site) in input.fleet.sites.iter().chain(&without_tunnel) {
            for cidr in &site.cidrs {
                places.insert(*cidr, Place::Site(sites.len()));
            }
            let selected = selectors
                .iter()
                .map(|selector| selects(selector, id, site, input));
            sites.push(selected.collect());
        }
        for cidr in input.hub_cidrs {
            places.insert(*cidr, Place::Hub);
        }
        let unproven = input.fleet.tunnels.values();
        let unproven = unproven
            .filter(|tunnel| matches!(tunnel.obstacle, Some(Obstacle::Unproven(_))))
            .filter_map(|tunnel| tunnel.address.map(IpNet::from))
            .collect();
        Self {
            input,
            selectors,
            sides,
            places,
            sites,
            unproven,
        }
    }

    /// The class of each prefix, and the kind of each class. Class 0 is whatever no
    /// prefix holds.
    fn classes(&self) -> (JointPrefixMap<IpNet, u16>, Vec<Kind>) {
        let mut kinds = vec![self.kind(None)];
        let mut known = BTreeMap::from([(kinds[0].clone(), 0)]);
        let mut classes: JointPrefixMap<IpNet, u16> = JointPrefixMap::new();
        for prefix in self.prefixes() {
            let kind = self.kind(Some(&prefix));
            let class = *known.entry(kind).or_insert_with_key(|kind| {
                kinds.push(kind.clone());
                narrow(kinds.len() - 1)
            });
            let around = classes.get_lpm(&prefix).map_or(0, |(_, class)| *class);
            if class != around {
                classes.insert(prefix, class);
            }
        }
        (classes, kinds)
    }

    /// Every prefix at which something may change, the wider ones first.
    fn prefixes(&self) -> Vec<IpNet> {
        let selected = self.selectors.iter().filter_map(|selector| match selector {
            Selector::Cidr(cidr) => Some(cidr.trunc()),
            Selector::Any | Selector::Hub | Selector::Site(_) | Selector::Tag { .. } => None,
        });
        let places = self.places.keys();
        let single = self.unproven.iter().copied();
        let prefixes: BTreeSet<IpNet> = selected
            .chain(places)
            .chain(single)
            .chain([IpNet::from(self.input.control)])
            .collect();
        let mut prefixes: Vec<IpNet> = prefixes.into_iter().collect();
        prefixes.sort_by_key(IpNet::prefix_len);
        prefixes
    }

    /// The kind of the addresses of a prefix that no longer one holds; `None` is the
    /// rest of the world.
    fn kind(&self, prefix: Option<&IpNet>) -> Kind {
        if prefix == Some(&IpNet::from(self.input.control)) {
            return Kind::Control;
        }
        if prefix.is_some_and(|prefix| self.unproven.contains(prefix)) {
            return Kind::Unproven;
        }
        let place = prefix.and_then(|prefix| self.places.get_lpm(prefix));
        let place = place.map(|(_, place)| *place);
        let selected = |(position, selector): (usize, &&Selector)| {
            let selected = match (*selector, place) {
                (Selector::Any, _) => true,
                (Selector::Cidr(cidr), _) => prefix.is_some_and(|prefix| cidr.contains(prefix)),
                (Selector::Hub, place) => place == Some(Place::Hub),
                (Selector::Site(_) | Selector::Tag { .. }, Some(Place::Site(site))) => {
                    self.sites[site][position]
                }
                (Selector::Site(_) | Selector::Tag { .. }, Some(Place::Hub) | None) => false,
            };
            selected.then_some(position)
        };
        let selectors = self.selectors.iter().enumerate();
        Kind::Selected(selectors.filter_map(selected).collect())
    }

    /// The first rule that fits traffic between two kinds of addresses.
    fn rule(&self, a: &Kind, b: &Kind) -> Option<usize> {
        let (a, b) = match (a, b) {
            (Kind::Control, _) | (_, Kind::Control) => return None,
            (Kind::Unproven, _) | (_, Kind::Unproven) => return Some(self.input.rules.len()),
            (Kind::Selected(a), Kind::Selected(b)) => (a, b),
        };
        let on = |side: &BTreeSet<usize>, kind: &[usize]| {
            kind.iter().any(|position| side.contains(position))
        };
        self.sides.iter().position(|[between, and]| {
            (on(between, a) && on(and, b)) || (on(between, b) && on(and, a))
        })
    }
}

/// The static sites that have no tunnel for now: what charon has of one whose key is not
/// known stays, and the rules about it must.
fn without_tunnel(fleet: &Fleet) -> BTreeMap<SiteId, PlannedSite> {
    let tunnels = fleet.tunnels.iter();
    let without = tunnels.filter(|(_, tunnel)| tunnel.obstacle.is_some());
    without
        .filter_map(|(id, tunnel)| match id {
            TunnelId::Spoke(..) => None,
            TunnelId::Site(name) => {
                let site = PlannedSite {
                    cidrs: tunnel.cidrs.iter().copied().collect(),
                    gateways: vec![id.clone()],
                };
                Some((SiteId::Static(name.clone()), site))
            }
        })
        .collect()
}

/// Whether a selector selects a site.
fn selects(selector: &Selector, id: &SiteId, site: &PlannedSite, input: PolicyInput<'_>) -> bool {
    let tunnels = || {
        let gateways = site.gateways.iter();
        gateways.filter_map(|id| input.fleet.tunnels.get(id))
    };
    match selector {
        Selector::Any => true,
        Selector::Hub | Selector::Cidr(_) => false,
        Selector::Site(glob) => {
            glob.matches(id.as_str()) || tunnels().any(|tunnel| glob.matches(&tunnel.name))
        }
        Selector::Tag { key, value } => site
            .gateways
            .iter()
            .filter_map(|gateway| record(gateway, input.inventory))
            .filter_map(|record| record.tags.get(key))
            .any(|found| value.matches(found)),
    }
}

fn record<'a>(gateway: &TunnelId, inventory: &'a Inventory) -> Option<&'a SpokeRecord> {
    match gateway {
        TunnelId::Site(_) => None,
        TunnelId::Spoke(partition, instance) => {
            inventory.partitions.get(partition)?.spokes.get(instance)
        }
    }
}

#[cfg(test)]
mod tests;
