//! `[nat]`: what a spoke translates: egress, forwards from outside, redirects
//! of what goes outside, and how many connections it remembers for how long.
//!
//! What is open to callers says to whom: a forward has no default for that.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use crate::config::document::{Located, Place, Section};
use crate::config::value::{self, Kind, Rejection, number, text};
use crate::net::overlap;

/// NAT on a spoke. All of it is IPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatConfig {
    /// Whether to masquerade everything that is not privnet.
    pub egress: bool,
    /// The interface towards the internet; `None` is the one with the instance's primary address.
    pub interface: Option<String>,
    /// Whose traffic is masqueraded; empty is all CIDRs of the own VPC.
    pub sources: Vec<IpNet>,
    /// Destinations beside the privnet that are never masqueraded.
    pub exclude: Vec<IpNet>,
    /// The source ports that masqueraded TCP and UDP may use; `None` leaves it to the kernel.
    pub ports: Option<PortRange>,
    /// Those that some of the VPC have to themselves. No port is in two of them, nor in
    /// `ports`.
    pub source_ports: Vec<SourcePorts>,
    /// How long a connection on which nothing is sent is remembered: TCP, and UDP that was
    /// answered. Whole seconds.
    pub idle_timeout: Duration,
    /// How many connections are remembered at most; `None` follows from the memory.
    pub connections: Option<u32>,
    /// Whether established connections take the kernel's short cut, where it has one.
    pub flowtable: bool,
    /// Ports of this instance that lead to private hosts.
    pub forwards: Vec<Forward>,
    /// Outbound connections that are led to a proxy.
    pub redirects: Vec<Redirect>,
}

/// Source ports that nobody else's masqueraded TCP and UDP has. Where one `from` lies
/// inside another, the narrower decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePorts {
    /// Whose they are.
    pub from: Ipv4Net,
    /// The ports.
    pub ports: PortRange,
}

/// A port of this instance that leads to a private host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The ports that are called.
    pub ports: PortRange,
    /// Whom they lead to.
    pub to: Ipv4Addr,
    /// That host's ports, as many; `None` is the same ones.
    pub to_ports: Option<PortRange>,
    /// Who may call. Never empty.
    pub from: Vec<Ipv4Net>,
}

/// Outbound connections that are led to a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The ports that are meant to be called.
    pub ports: PortRange,
    /// The proxy.
    pub to: Ipv4Addr,
    /// The proxy's port.
    pub to_port: u16,
    /// Whose connections; empty is all CIDRs of the own VPC.
    pub sources: Vec<Ipv4Net>,
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Ports from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: NonZeroU16,
    last: NonZeroU16,
}

impl NatConfig {
    /// What AWS's NAT gateway allows ("Troubleshoot NAT gateways", internet
    /// connection drops after 350 seconds): who moves from it has nothing to
    /// change.
    pub const IDLE_TIMEOUT: Duration = Duration::from_secs(350);

    /// Whether it asks the kernel for nothing.
    pub fn is_off(&self) -> bool {
        !self.egress && self.forwards.is_empty() && self.redirects.is_empty()
    }
}

impl Default for NatConfig {
    /// Egress for the whole VPC: what a file without `[nat]` says.
    fn default() -> Self {
        Self {
            egress: true,
            interface: None,
            sources: Vec::new(),
            exclude: Vec::new(),
            ports: None,
            source_ports: Vec::new(),
            idle_timeout: Self::IDLE_TIMEOUT,
            connections: None,
            flowtable: true,
            forwards: Vec::new(),
            redirects: Vec::new(),
        }
    }
}

impl PortRange {
    /// From `first` to `last`; `None` unless both are ports, in that order.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        let (first, last) = (NonZeroU16::new(first)?, NonZeroU16::new(last)?);
        (first <= last).then_some(Self { first, last })
    }

    /// The first port.
    pub fn first(self) -> u16 {
        self.first.get()
    }

    /// The last port.
    pub fn last(self) -> u16 {
        self.last.get()
    }

    /// How many ports.
    pub fn count(self) -> usize {
        usize::from(self.last() - self.first()) + 1
    }

    /// Whether the port is one of them.
    pub fn contains(self, port: u16) -> bool {
        (self.first()..=self.last()).contains(&port)
    }

    fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count() {
            1 => write!(f, "{}", self.first),
            _ => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// As it is told: `20000-29999 for 10.1.1.0/24`.
impl fmt::Display for SourcePorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {}", self.ports, self.from)
    }
}

/// As in the config file: `tcp 51532 to 10.0.1.10:1532 from 203.0.113.110/32`.
impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} to {}", self.protocol, self.ports, self.to)?;
        if let Some(ports) = self.to_ports {
            write!(f, ":{ports}")?;
        }
        write!(f, " from {}", list(&self.from))
    }
}

/// As in the config file: `tcp 80 to 10.0.3.20:3128`.
impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            protocol,
            ports,
            to,
            to_port,
            sources,
        } = self;
        write!(f, "{protocol} {ports} to {to}:{to_port}")?;
        match sources.as_slice() {
            [] => Ok(()),
            sources => write!(f, " for {}", list(sources)),
        }
    }
}

fn list(nets: &[Ipv4Net]) -> String {
    let nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
    nets.join(", ")
}

/// A range that changes its numbers is a map in the kernel with an element for
/// each port; one that keeps them is a single comparison.
const MOST_PORTS_CHANGED: usize = 1_000;

const PROTOCOL: Kind<Protocol> = Kind {
    expected: "`tcp` or `udp`",
    parse: |value| match text(value)? {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err("not a protocol with ports".into()),
    },
};

const PORTS: Kind<PortRange> = Kind {
    expected: "a port such as 8000, or a range such as \"8000-8100\"",
    parse: |value| {
        if value.as_integer().is_some() {
            let port = number(value, 1, 65535)?;
            return PortRange::new(port, port).ok_or_else(|| "port 0".into());
        }
        port_range(text(value)?)
    },
};

/// Those below 1024 belong to services: an answer to such a port may be taken
/// for a call to the service (RFC 4787 REQ-3, RFC 6056).
const SOURCE_PORTS: Kind<PortRange> = Kind {
    expected: "a range of ports from 1024 on, such as \"1024-65535\"",
    parse: |value| match port_range(text(value)?)? {
        ports if ports.first() < 1024 => Err("begins below 1024".into()),
        ports => Ok(ports),
    },
};

const OWNER: Kind<Ipv4Net> = Kind {
    expected: "an IPv4 CIDR such as 10.1.1.0/24, or a host's address such as 10.1.1.10",
    parse: |value| {
        let net = match text(value)?.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => (value::CIDR.parse)(value)?,
        };
        match net {
            IpNet::V4(net) => Ok(net),
            IpNet::V6(_) => Err("IPv6, which is never masqueraded".into()),
        }
    },
};

const HOST: Kind<(Ipv4Addr, Option<PortRange>)> = Kind {
    expected: "a private host's IPv4 address, with a port or a range as in \
               \"10.0.1.10:1532\" or without for the same ports",
    parse: host,
};

const PROXY: Kind<(Ipv4Addr, u16)> = Kind {
    expected: "a proxy's IPv4 address and port such as \"10.0.3.20:3128\"",
    parse: |value| match host(value)? {
        (_, None) => Err("no port".into()),
        (address, Some(ports)) if ports.count() == 1 => Ok((address, ports.first())),
        (_, Some(_)) => Err("several ports".into()),
    },
};

const CALLERS: Kind<Ipv4Net> = Kind {
    expected: "an IPv4 CIDR such as 203.0.113.110/32",
    parse: |value| match (value::CIDR.parse)(value)? {
        IpNet::V4(net) => Ok(net),
        IpNet::V6(_) => Err("IPv6, which is never translated".into()),
    },
};

/// Less would forget connections between two keepalives; the kernel's own
/// default is five days.
const IDLE_TIMEOUT: Kind<Duration> = Kind {
    expected: "whole seconds such as \"350s\", 30s to 5days",
    parse: |value| {
        let (least, most) = (30, 5 * 24 * 3600);
        let time = value::duration(value, Duration::from_secs(least), Duration::from_secs(most))?;
        match time.subsec_nanos() {
            0 => Ok(time),
            _ => Err("not whole seconds".into()),
        }
    },
};

const CONNECTIONS: Kind<u32> = Kind {
    expected: "a number of connections, 1024 to 16777216",
    parse: |value| number(value, 1024, 16_777_216),
};

fn port_range(text: &str) -> Result<PortRange, Rejection> {
    let Some((first, last)) = text.split_once('-') else {
        return Err(match text.parse::<u16>() {
            Ok(_) => "text, not a number; leave the quotes out".into(),
            Err(_) => "not a range of ports".into(),
        });
    };
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if digits(text.replacen('-', "", 1).as_str()) => {
            PortRange::new(first, last).ok_or_else(|| match first {
                0 => "port 0".into(),
                _ => "the last port comes before the first".into(),
            })
        }
        _ => Err("not a range of ports".into()),
    }
}

fn host(value: &DeValue<'_>) -> Result<(Ipv4Addr, Option<PortRange>), Rejection> {
    let text = text(value)?;
    let (address, ports) = match text.split_once(':') {
        None => (text, None),
        Some((address, ports)) => (address, Some(ports)),
    };
    let address: Ipv4Addr = address
        .parse()
        .map_err(|_| Rejection::from("not an IPv4 address"))?;
    if address.is_unspecified()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_loopback()
    {
        return Err("not the address of a host".into());
    }
    let ports = match ports {
        None => None,
        Some(range) if range.contains('-') => Some(port_range(range)?),
        Some(port) => {
            let digits = port.bytes().all(|byte| byte.is_ascii_digit());
            let number = port.parse::<u16>().ok().filter(|_| digits);
            let range = number.and_then(|port| PortRange::new(port, port));
            Some(range.ok_or_else(|| Rejection::from("not a port after the `:`"))?)
        }
    };
    Ok((address, ports))
}

/// `tunnel_port` is the UDP port that belongs to the tunnel, if there is one.
pub(super) fn read(nat: &mut Section<'_>, tunnel_port: Option<u16>) -> NatConfig {
    let default = NatConfig::default();
    let egress = nat.with_default("egress", &value::FLAG, default.egress);
    let interface = nat.optional("interface", &value::INTERFACE);
    let sources = nat.list("sources", &value::IPV4_CIDR).unwrap_or_default();
    let exclude = nat.list("exclude", &value::IPV4_CIDR).unwrap_or_default();
    let ports = nat.optional("ports", &SOURCE_PORTS);
    let source_ports = present(nat.tables("source_ports", read_source_ports));
    let source_ports: Vec<_> = source_ports.into_iter().map(|one| one.value).collect();
    reject_shared(nat, &source_ports, ports.as_ref());
    let idle_timeout = nat.with_default("idle_timeout", &IDLE_TIMEOUT, default.idle_timeout);
    let connections = nat.optional("connections", &CONNECTIONS);
    let flowtable = nat.with_default("flowtable", &value::FLAG, default.flowtable);
    let forwards = nat.tables("forward", |forward| read_forward(forward, tunnel_port));
    let forwards = present(forwards);
    reject_overlaps(nat, &forwards, "forward", "from", |one| {
        (one.protocol, one.ports, &one.from)
    });
    let redirects = present(nat.tables("redirect", read_redirect));
    reject_overlaps(nat, &redirects, "redirect", "sources", |one| {
        (one.protocol, one.ports, &one.sources)
    });
    NatConfig {
        egress,
        interface: interface.map(|interface| interface.value),
        sources: sources.into_iter().map(|net| net.value).collect(),
        exclude: exclude.into_iter().map(|net| net.value).collect(),
        ports: ports.map(|ports| ports.value),
        source_ports: source_ports
            .into_iter()
            .map(|(from, ports)| SourcePorts {
                from: from.value,
                ports: ports.value,
            })
            .collect(),
        idle_timeout,
        connections: connections.map(|connections| connections.value),
        flowtable,
        forwards: forwards.into_iter().map(|forward| forward.value).collect(),
        redirects: redirects
            .into_iter()
            .map(|redirect| redirect.value)
            .collect(),
    }
}

fn present<T>(found: Vec<Located<Option<T>>>) -> Vec<Located<T>> {
    let present = found.into_iter().filter_map(|Located { place, value }| {
        let value = value?;
        Some(Located { place, value })
    });
    present.collect()
}

fn read_source_ports(one: &mut Section<'_>) -> Option<(Located<Ipv4Net>, Located<PortRange>)> {
    let from = one.required("from", &OWNER);
    let ports = one.required("ports", &SOURCE_PORTS);
    Some((from?, ports?))
}

/// Notes whoever is named twice, and each range with a port that would not tell whose it
/// was. `rest` is what everybody else has.
fn reject_shared(
    nat: &Section<'_>,
    all: &[(Located<Ipv4Net>, Located<PortRange>)],
    rest: Option<&Located<PortRange>>,
) {
    for (position, (from, ports)) in all.iter().enumerate() {
        let earlier = &all[..position];
        if let Some((same, _)) = earlier.iter().find(|(it, _)| it.value == from.value) {
            let problem = format!("is in line {} already", nat.line_of(&same.place));
            let expected = "each network or host once".to_owned();
            nat.reject(&from.place, &problem, Some(expected));
        }
        let other = earlier
            .iter()
            .map(|(from, it)| (from.value.to_string(), it));
        let rest = rest.map(|rest| ("nat.ports".to_owned(), rest));
        let shared = other
            .chain(rest)
            .find(|(_, it)| ports.value.overlaps(it.value));
        if let Some((whose, it)) = shared {
            let line = nat.line_of(&it.place);
            let problem = format!("shares ports with {whose} in line {line}");
            let expected = "ports that nobody else has".to_owned();
            nat.reject(&ports.place, &problem, Some(expected));
        }
    }
}

fn read_forward(forward: &mut Section<'_>, tunnel_port: Option<u16>) -> Option<Forward> {
    let protocol = forward.required("proto", &PROTOCOL);
    let ports = forward.required("port", &PORTS);
    let to = forward.required("to", &HOST);
    let from = forward.required_list("from", &CALLERS);
    if let (Some(protocol), Some(ports)) = (&protocol, &ports)
        && protocol.value == Protocol::Udp
        && let Some(port) = tunnel_port.filter(|port| ports.value.contains(*port))
    {
        let problem = format!("takes the tunnel's own port {port} (`listen_port`)");
        let expected = "ports that the tunnel does not use".to_owned();
        forward.reject(&ports.place, &problem, Some(expected));
    }
    if let (Some(ports), Some(to)) = (&ports, &to)
        && let Some(target) = to.value.1
    {
        reject_mismatch(forward, ports.value, target, &to.place);
    }
    let (to, to_ports) = to?.value;
    let from = from.filter(|from| !from.is_empty());
    Some(Forward {
        protocol: protocol?.value,
        ports: ports?.value,
        to,
        to_ports,
        from: values(from?),
    })
}

fn reject_mismatch(forward: &Section<'_>, ports: PortRange, target: PortRange, place: &Place) {
    if ports.count() != target.count() {
        let ports_of = |range: PortRange| match range.count() {
            1 => "1 port".to_owned(),
            count => format!("{count} ports"),
        };
        let problem = format!("{} for the {} of `port`", ports_of(target), ports_of(ports));
        let expected = "as many ports, or none for the same ones".to_owned();
        forward.reject(place, &problem, Some(expected));
    } else if ports != target && ports.count() > MOST_PORTS_CHANGED {
        let problem = format!("{} ports that change their number", ports.count());
        let expected =
            format!("at most {MOST_PORTS_CHANGED} of those, or no ports for the same ones");
        forward.reject(place, &problem, Some(expected));
    }
}

fn read_redirect(redirect: &mut Section<'_>) -> Option<Redirect> {
    let protocol = redirect.required("proto", &PROTOCOL);
    let ports = redirect.required("port", &PORTS);
    let to = redirect.required("to", &PROXY);
    let sources = redirect.nonempty_list("sources", &CALLERS);
    let known = !redirect.has("sources") || sources.is_some();
    let sources = sources.unwrap_or_default();
    if let Some(to) = &to
        && !sources.is_empty()
        && sources
            .iter()
            .all(|net| net.value == Ipv4Net::from(to.value.0))
    {
        let problem = "would lead the proxy's own connections back to it";
        let expected = "a proxy that is not the only one of `sources`".to_owned();
        redirect.reject(&to.place, problem, Some(expected));
    }
    let (to, to_port) = to?.value;
    known.then_some(())?;
    Some(Redirect {
        protocol: protocol?.value,
        ports: ports?.value,
        to,
        to_port,
        sources: values(sources),
    })
}

fn values(nets: Vec<Located<Ipv4Net>>) -> Vec<Ipv4Net> {
    nets.into_iter().map(|net| net.value).collect()
}

/// Notes each rule that would share packets with an earlier one: which of the two
/// gets them would depend on their order, and nobody sees that. Without CIDRs a
/// rule is for the whole VPC, of which the file does not say where it lies.
fn reject_overlaps<T>(
    nat: &Section<'_>,
    rules: &[Located<T>],
    what: &str,
    nets_key: &str,
    scope: impl Fn(&T) -> (Protocol, PortRange, &Vec<Ipv4Net>),
) {
    for (position, rule) in rules.iter().enumerate() {
        let (protocol, ports, nets) = scope(&rule.value);
        let shares = |earlier: &&Located<T>| {
            let (other_protocol, other_ports, other_nets) = scope(&earlier.value);
            let share_nets = nets.is_empty()
                || other_nets.is_empty()
                || nets.iter().any(|net| {
                    let net = IpNet::V4(*net);
                    other_nets
                        .iter()
                        .any(|other| overlap(&net, &IpNet::V4(*other)))
                });
            protocol == other_protocol && ports.overlaps(other_ports) && share_nets
        };
        if let Some(earlier) = rules[..position].iter().find(shares) {
            let line = nat.line_of(&earlier.place);
            let problem = format!("shares {protocol} ports with the {what} in line {line}");
            let expected = format!("other ports, or `{nets_key}` that do not overlap");
            nat.reject(&rule.place, &problem, Some(expected));
        }
    }
}
