//! A route of the host, as Privnet makes it: what it leads to and how it is
//! told apart from everybody else's.
//!
//! Only routes in the main table that carry `ROUTE_PROTOCOL` are ever ours;
//! nothing here can name another.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::interface::InterfaceName;

/// The protocol number that marks our routes (`ip route show proto 80`).
///
/// It says who made a route; the kernel gives it no meaning beyond that.
/// Numbers from 5 on are for user space; 80 is given to nobody in
/// `linux/rtnetlink.h` and `/etc/iproute2/rt_protos`, where the routing
/// daemons have 8–18, 42 and 186–192.
pub const ROUTE_PROTOCOL: u8 = 80;

/// The metric of our routes unless told otherwise. Not 0 and none of what DHCP
/// clients use (100, 512, 1024), so that ours and theirs to the same
/// destination can stand side by side, ours first.
pub const ROUTE_METRIC: u32 = 80;

/// The kernel stores an IPv6 route of metric 0 as this (`IP6_RT_PRIO_USER`).
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// One route of ours in the main table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Where packets go to.
    pub destination: IpNet,
    /// What they are given to.
    pub target: RouteTarget,
    /// Among routes to the same destination the lowest wins.
    pub metric: u32,
    /// The preferred source of packets that the host itself sends this way; it
    /// has to be an address of the host.
    pub source: Option<IpAddr>,
}

/// What a route leads to. The order is the order in which routes are made: a
/// gateway may be reachable only by a route to an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteTarget {
    /// Everything out of this interface, such as the tunnel.
    Interface(InterfaceName),
    /// A router on the interface's network.
    Gateway {
        /// The router.
        address: IpAddr,
        /// The interface that reaches it.
        interface: InterfaceName,
    },
    /// Refused with ICMP unreachable, so that what belongs to the privnet never
    /// leaks out by the default route.
    Unreachable,
    /// Carries our mark but is none of the above: several next hops, a blackhole,
    /// an interface with a strange name. Somebody changed it by hand. Only the
    /// kernel's state holds such routes; wanted ones never do.
    Unrecognised,
}

/// What makes two routes rivals for one place in the table: the kernel replaces
/// by this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    destination: IpNet,
    metric: u32,
}

impl Route {
    /// A route of the usual metric without a preferred source.
    pub fn new(destination: IpNet, target: RouteTarget) -> Self {
        Self {
            destination,
            target,
            metric: ROUTE_METRIC,
            source: None,
        }
    }

    /// The same route with a preferred source.
    #[must_use]
    pub fn with_source(self, source: IpAddr) -> Self {
        Self {
            source: Some(source),
            ..self
        }
    }

    /// The same route as the kernel will report it: host bits cleared, IPv6's
    /// own default metric filled in.
    #[must_use]
    pub fn normal(self) -> Self {
        let metric = match (self.destination, self.metric) {
            (IpNet::V6(_), 0) => IPV6_DEFAULT_METRIC,
            (IpNet::V4(_) | IpNet::V6(_), metric) => metric,
        };
        Self {
            destination: self.destination.trunc(),
            metric,
            ..self
        }
    }

    /// Its place in the table.
    pub fn key(&self) -> RouteKey {
        RouteKey {
            destination: self.destination,
            metric: self.metric,
        }
    }
}

impl RouteTarget {
    /// The interface it uses, if any.
    pub fn interface(&self) -> Option<&InterfaceName> {
        match self {
            Self::Interface(interface) | Self::Gateway { interface, .. } => Some(interface),
            Self::Unreachable | Self::Unrecognised => None,
        }
    }
}

/// In the words of `ip route`.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            RouteTarget::Interface(interface) => {
                write!(f, "route {} dev {interface}", self.destination)?;
            }
            RouteTarget::Gateway { address, interface } => {
                write!(
                    f,
                    "route {} via {address} dev {interface}",
                    self.destination
                )?;
            }
            RouteTarget::Unreachable => write!(f, "route unreachable {}", self.destination)?,
            RouteTarget::Unrecognised => write!(f, "altered route {}", self.destination)?,
        }
        if self.metric != ROUTE_METRIC {
            write!(f, " metric {}", self.metric)?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn a_route_reads_like_ip_route() {
        let tunnel = InterfaceName::new("privnet0").unwrap();
        let route = Route::new(
            "10.0.0.0/8".parse().unwrap(),
            RouteTarget::Interface(tunnel),
        );
        assert_eq!(route.to_string(), "route 10.0.0.0/8 dev privnet0");
        let gateway = RouteTarget::Gateway {
            address: "10.1.0.1".parse().unwrap(),
            interface: InterfaceName::new("ens5").unwrap(),
        };
        let route = Route {
            metric: 5,
            ..Route::new("10.1.0.0/16".parse().unwrap(), gateway)
                .with_source("10.1.0.9".parse().unwrap())
        };
        assert_eq!(
            route.to_string(),
            "route 10.1.0.0/16 via 10.1.0.1 dev ens5 metric 5 src 10.1.0.9"
        );
    }

    #[test]
    fn the_normal_form_is_what_the_kernel_reports() {
        let route = |text: &str| Route {
            metric: 0,
            ..Route::new(text.parse().unwrap(), RouteTarget::Unreachable)
        };
        let six = route("fd00::1/8").normal();
        assert_eq!(
            (six.destination.to_string(), six.metric),
            ("fd00::/8".to_owned(), 1024)
        );
        let four = route("10.1.2.3/8").normal();
        assert_eq!(
            (four.destination.to_string(), four.metric),
            ("10.0.0.0/8".to_owned(), 0)
        );
    }
}
