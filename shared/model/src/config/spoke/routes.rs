//! `[routes]` and `[self_test]`: which VPC routes a spoke serves, how it stands in
//! for others, and how it knows that it works.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::document::Section;
use crate::config::value::{self, Kind, duration, text};
use crate::health::DEFAULT_HEALTH_PORT;
use crate::id::RouteTableId;
use crate::inventory::Transport;
use crate::net::Supernet;

/// The VPC routes that a spoke serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutesConfig {
    /// Its home tables.
    pub tables: TableSelection,
    /// Whether the default route of IPv4 leads to it.
    pub default: bool,
    /// Whether the privnet does.
    pub privnet: bool,
    /// Further destinations that do.
    pub extra: Vec<IpNet>,
    /// What is done about the check that drops what a spoke forwards.
    pub source_dest_check: SourceDestCheck,
    /// How it stands in for its siblings, and they for it; `None` is not at all.
    pub takeover: Option<TakeoverConfig>,
}

/// Which route tables are a spoke's home tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableSelection {
    /// Those of its zone's subnets that have no route to an internet gateway.
    Zone,
    /// These.
    Listed(BTreeSet<RouteTableId>),
    /// Those that have all these tags; the value `self` is the spoke's own zone.
    Tagged(BTreeMap<String, String>),
}

/// The value of a tag that stands for the own zone.
pub const OWN_ZONE: &str = "self";

/// EC2 drops what an instance neither sends nor receives itself, unless told not to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SourceDestCheck {
    /// It stays as it is.
    #[default]
    Leave,
    /// It is switched off on the spoke's own interface.
    Off,
}

/// How spokes of one VPC stand in for each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeoverConfig {
    /// The EC2 tags that mark the spokes of the VPC.
    pub siblings: BTreeMap<String, String>,
    /// The UDP port on which they ask each other how they are.
    pub health_port: u16,
    /// What is done about one that stays lost; `None` is nothing.
    pub remedy: Option<RemedyConfig>,
}

/// What is done about a sibling that stays lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemedyConfig {
    /// What.
    pub kind: RemedyKind,
    /// After how long a silence.
    pub after: Duration,
}

/// What can be done about an instance that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemedyKind {
    /// It is stopped and started: on other hardware, with what is on its disk.
    Restart,
    /// Its Auto Scaling group is told that it is not healthy, and replaces it.
    Unhealthy,
}

/// As the config names it.
impl fmt::Display for RemedyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Restart => "restart",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// How a spoke knows that it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfTestConfig {
    /// Whom it connects to through its own NAT; none is no egress test.
    pub targets: Vec<SocketAddr>,
    /// How often.
    pub interval: Duration,
}

impl RoutesConfig {
    /// All destinations that lead to a spoke that serves a table.
    pub fn destinations(&self, privnet: &Supernet) -> BTreeSet<IpNet> {
        let default = self.default.then_some(DEFAULT_ROUTE);
        let privnet = privnet.nets().iter().copied().filter(|_| self.privnet);
        let extra = self.extra.iter().copied();
        default.into_iter().chain(privnet).chain(extra).collect()
    }

    /// Those of them to which the way is the tunnel to the hub.
    pub fn tunnelled(&self, privnet: &Supernet) -> BTreeSet<IpNet> {
        let mut tunnelled = self.destinations(privnet);
        tunnelled.retain(|net| privnet.contains(net));
        tunnelled
    }
}

/// `0.0.0.0/0`. IPv6 is not masqueraded, so no default route of it leads to a spoke.
const DEFAULT_ROUTE: IpNet = IpNet::V4(ipnet::Ipv4Net::new_assert(
    std::net::Ipv4Addr::UNSPECIFIED,
    0,
));

const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

const OWN_ZONES_TABLES: Kind<TableSelection> = Kind {
    expected: TABLES,
    parse: |value| match text(value)? {
        "zone" => Ok(TableSelection::Zone),
        word => Err(match RouteTableId::from_str(word) {
            Ok(id) => value::Rejection {
                problem: "one table, not a list".to_owned(),
                expected: Some(format!("[\"{id}\"]")),
            },
            Err(_) => "neither \"zone\" nor a list".into(),
        }),
    },
};

const TABLES: &str = "\"zone\", a list of route tables such as [\"rtb-0123456789abcdef0\"], or \
                      { tag = { \"privnet:az\" = \"self\" } }";

const TABLE: Kind<RouteTableId> = Kind {
    expected: RouteTableId::EXPECTED,
    parse: |value| {
        let id = text(value)?.parse();
        id.map_err(|_| "not the id of a route table".into())
    },
};

const OFF: Kind<SourceDestCheck> = Kind {
    expected: "\"off\", or nothing to leave it as it is",
    parse: |value| match text(value)? {
        "off" => Ok(SourceDestCheck::Off),
        _ => Err("not \"off\"".into()),
    },
};

const REMEDY: Kind<Option<RemedyKind>> = Kind {
    expected: "\"none\", \"restart\" or \"unhealthy\"",
    parse: |value| match text(value)? {
        "none" => Ok(None),
        "restart" => Ok(Some(RemedyKind::Restart)),
        "unhealthy" => Ok(Some(RemedyKind::Unhealthy)),
        _ => Err("none of these remedies".into()),
    },
};

/// A spoke that lives takes its routes back within some 15 s from one that does not hear
/// it, and shows thereby that it lives: less than twice that is no proof of anything.
const REMEDY_AFTER: Kind<Duration> = Kind {
    expected: "a time such as \"10m\", 30s to 1day",
    parse: |value| duration(value, Duration::from_secs(30), Duration::from_secs(86_400)),
};

/// Longer than a reboot takes, or somebody who works at a spoke for a moment.
const DEFAULT_REMEDY_AFTER: Duration = Duration::from_secs(600);

/// A failure is one after two of them: slower than this no takeover is quick.
const INTERVAL: Kind<Duration> = Kind {
    expected: "a time such as \"1s\", 500ms to 10s",
    parse: |value| duration(value, Duration::from_millis(500), Duration::from_secs(10)),
};

/// The rest of the file, as far as it matters here.
pub(super) struct Context<'a> {
    pub(super) privnet: Option<&'a Supernet>,
    pub(super) transport: Option<Transport>,
    pub(super) listen_port: u16,
    /// Whether NAT egress is on.
    pub(super) egress: bool,
    /// What is never masqueraded.
    pub(super) excluded: &'a [IpNet],
    /// Whether a fleet secret is named, rightly or wrongly.
    pub(super) secret: bool,
    /// Whether targets of the self-test are named, rightly or wrongly.
    pub(super) targets: bool,
}

pub(super) fn read(section: &mut Section<'_>, rest: &Context<'_>) -> Option<RoutesConfig> {
    let tables = read_tables(section);
    let default = section.optional("default", &value::FLAG);
    let privnet = section.optional("privnet", &value::FLAG);
    let extra = read_extra(section, rest);
    let source_dest_check = section.with_default("source_dest_check", &OFF, SourceDestCheck::Leave);
    let takeover = read_takeover(section, rest);

    let has_tunnel = rest.transport != Some(Transport::None);
    for (flag, possible, problem, expected) in [
        (
            &default,
            rest.egress,
            "a default route to a spoke without NAT egress",
            "false, or nat.egress = true",
        ),
        (
            &privnet,
            has_tunnel,
            "the privnet through a spoke without a tunnel",
            "false: with transport = \"none\" it is the hub that has the privnet",
        ),
    ] {
        if let Some(flag) = flag.as_ref().filter(|flag| flag.value && !possible) {
            section.reject(&flag.place, problem, Some(expected.to_owned()));
        }
    }
    let default = default.map_or(rest.egress, |flag| flag.value);
    let privnet = privnet.map_or(has_tunnel, |flag| flag.value);
    if !default && !privnet && extra.is_empty() && !section.has("extra") {
        let expected = "`default`, `privnet` or `extra`, or no [routes]".to_owned();
        section.reject(section.place(), "no destination to route", Some(expected));
    }
    if (default || !extra.is_empty()) && !rest.targets {
        let problem = "egress routes without an egress test";
        let expected = "`targets` in a [self_test] section: a spoke takes no route before a \
                        connection through it succeeded";
        section.reject(section.place(), problem, Some(expected.to_owned()));
    }
    Some(RoutesConfig {
        tables: tables?,
        default,
        privnet,
        extra,
        source_dest_check,
        takeover: takeover?,
    })
}

fn read_tables(section: &mut Section<'_>) -> Option<TableSelection> {
    if section.has_table("tables") {
        let tags = section.table("tables", TABLES, |tables| {
            let expected = "a table of at least one tag, such as { \"privnet:az\" = \"self\" }";
            tables.required_table("tag", expected, |tags| {
                value::tags(tags, "with none, every table would be meant")
            })
        });
        return tags.map(TableSelection::Tagged);
    }
    if section.has_text("tables") || !section.has("tables") {
        let word = section.required("tables", &OWN_ZONES_TABLES)?;
        return Some(word.value);
    }
    let listed = section.required_list("tables", &TABLE)?;
    let mut tables = BTreeSet::new();
    for table in listed {
        if !tables.insert(table.value) {
            section.reject(&table.place, "named twice", Some("each once".to_owned()));
        }
    }
    Some(TableSelection::Listed(tables))
}

/// They are there to be seen as coming from this spoke's address.
fn read_extra(section: &mut Section<'_>, rest: &Context<'_>) -> Vec<IpNet> {
    let inside_privnet = |net: &IpNet| rest.privnet.is_some_and(|privnet| privnet.contains(net));
    let excluding = |net: &IpNet| rest.excluded.iter().find(|excluded| excluded.contains(net));
    let listed = section.list("extra", &value::IPV4_CIDR).unwrap_or_default();
    let mut extra = Vec::new();
    for net in listed {
        if net.value.prefix_len() == 0 {
            let expected = Some("`default = true` for it".to_owned());
            section.reject(&net.place, "the default route", expected);
        } else if inside_privnet(&net.value) {
            let problem = "inside the privnet, which is not masqueraded";
            let expected = "`privnet = true` for the privnet; here what is outside of it";
            section.reject(&net.place, problem, Some(expected.to_owned()));
        } else if let Some(excluded) = excluding(&net.value) {
            let problem = format!("inside {excluded} of nat.exclude, which is not masqueraded");
            let expected = "what this spoke masquerades, or no such `exclude`";
            section.reject(&net.place, &problem, Some(expected.to_owned()));
        } else if extra.contains(&net.value) {
            section.reject(&net.place, "named twice", Some("each once".to_owned()));
        } else {
            extra.push(net.value);
        }
    }
    extra
}

/// `None` where it is wrong, `Some(None)` where it is off.
fn read_takeover(section: &mut Section<'_>, rest: &Context<'_>) -> Option<Option<TakeoverConfig>> {
    let wanted = section.with_default("takeover", &value::FLAG, true);
    let expected = "a table of the EC2 tags that mark the spokes of this VPC, such as \
                    { service = \"nat\" }, or takeover = false";
    if wanted && !section.has("siblings") {
        section.missing("siblings", expected);
    }
    let siblings = section.table("siblings", expected, |tags| {
        value::tags(tags, "with none, every instance would be a sibling")
    });
    let health_port = section.optional("health_port", &value::PORT);
    let remedy = read_remedy(section, wanted);
    let port = health_port
        .as_ref()
        .map_or(DEFAULT_HEALTH_PORT, |port| port.value);
    if port == rest.listen_port {
        let place = health_port
            .as_ref()
            .map_or(section.place(), |port| &port.place);
        let expected = Some("a `health_port` of its own".to_owned());
        section.reject(
            place,
            "the health port is the tunnel's `listen_port`",
            expected,
        );
    }
    if wanted && !rest.secret {
        let problem = "takeover without a fleet secret";
        let expected = "`preshared_key` at the top of the file: with it the spokes sign what they \
                        tell each other; or takeover = false, and no failover";
        section.reject(section.place(), problem, Some(expected.to_owned()));
    }
    match wanted {
        true => {
            let health_port = port;
            Some(Some(TakeoverConfig {
                siblings: siblings?,
                health_port,
                remedy,
            }))
        }
        false => Some(None),
    }
}

fn read_remedy(section: &mut Section<'_>, takeover: bool) -> Option<RemedyConfig> {
    let kind = section.optional("remedy", &REMEDY);
    let after = section.optional("remedy_after", &REMEDY_AFTER);
    let wanted = kind.as_ref().and_then(|kind| kind.value);
    if let Some(kind) = kind.as_ref().filter(|_| wanted.is_some() && !takeover) {
        let expected = "\"none\", or takeover = true: only who stands in for a spoke may do \
                        something about it";
        let problem = "a remedy without takeover";
        section.reject(&kind.place, problem, Some(expected.to_owned()));
    }
    if let Some(after) = after.as_ref().filter(|_| kind.is_none()) {
        let expected = Some("`remedy` as well".to_owned());
        section.reject(&after.place, "a time for no remedy", expected);
    }
    Some(RemedyConfig {
        kind: wanted?,
        after: after.map_or(DEFAULT_REMEDY_AFTER, |after| after.value),
    })
}

pub(super) fn read_self_test(
    section: &mut Section<'_>,
    privnet: Option<&Supernet>,
    excluded: &[IpNet],
) -> SelfTestConfig {
    let listed = section.nonempty_list("targets", &value::ENDPOINT);
    let interval = section.with_default("interval", &INTERVAL, DEFAULT_INTERVAL);
    let mut targets = Vec::new();
    for target in listed.unwrap_or_default() {
        let known = targets.contains(&target.value);
        match unfit(target.value.ip(), privnet, excluded) {
            Some(problem) => {
                let expected = "an IPv4 address of the internet, and a TCP port".to_owned();
                section.reject(&target.place, &problem, Some(expected));
            }
            None if known => {
                section.reject(&target.place, "named twice", Some("each once".to_owned()));
            }
            None => targets.push(target.value),
        }
    }
    SelfTestConfig { targets, interval }
}

/// Why a connection to this address would not tell whether the internet is reached
/// through the NAT. Whether it is in the VPC is not known before the spoke runs.
fn unfit(target: IpAddr, privnet: Option<&Supernet>, excluded: &[IpNet]) -> Option<String> {
    let IpAddr::V4(address) = target else {
        return Some("IPv6, which is never masqueraded".to_owned());
    };
    if privnet.is_some_and(|privnet| privnet.contains_address(target)) {
        return Some("inside the privnet, which is not masqueraded".to_owned());
    }
    if let Some(net) = excluded.iter().find(|net| net.contains(&target)) {
        return Some(format!(
            "inside {net} of nat.exclude, which is not masqueraded"
        ));
    }
    let problem = if address.is_loopback() {
        "this host itself"
    } else if address.is_link_local() {
        "link-local, which no NAT forwards"
    } else if address.is_broadcast() {
        "broadcast, to which nobody connects"
    } else {
        return None;
    };
    Some(problem.to_owned())
}

impl Default for SelfTestConfig {
    /// No egress test: what a file without `[self_test]` says.
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            interval: DEFAULT_INTERVAL,
        }
    }
}

#[cfg(test)]
mod tests;
