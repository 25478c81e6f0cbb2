//! What hub and spoke have in common as routers between a VPC and the privnet:
//! the addresses, routes, rules and settings of the host.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;

use ipnet::{IpNet, Ipv4Net};
use privnet_model::config::spoke::NatConfig;
use privnet_model::inventory::Identity;
use privnet_model::net::{Supernet, overlap};
use privnet_model::policy::PolicyTable;

use crate::host::DesiredHost;
use crate::interface::{InterfaceName, InterfacePattern};
use crate::kernel::Kernel;
use crate::route::{Route, RouteTarget};
use crate::ruleset::{Diversions, Egress, Flowtable, Ruleset, TunnelClamp, Verdicts};
use crate::xfrm::XfrmInterface;
use crate::{conntrack, self_test, sysctl};

/// The metric of the routes that end the privnet where no tunnel carries it.
/// Any other route goes before them.
const LAST_RESORT: u32 = 0xffff_0000;

/// All that the host's configuration follows from.
#[derive(Debug, Clone, Copy)]
pub struct GatewayInput<'a> {
    /// The private network.
    pub privnet: &'a Supernet,
    /// Who and where this instance is.
    pub identity: &'a Identity,
    /// The interface towards the VPC and the internet.
    pub uplink: &'a InterfaceName,
    /// The VPC's router behind it.
    pub router: Option<IpAddr>,
    /// The tunnel interface, where there are WireGuard tunnels.
    pub tunnel: Option<TunnelInput<'a>>,
    /// charon's part, where there are IPsec tunnels.
    pub ipsec: Option<IpsecInput<'a>>,
    /// NAT, on a spoke.
    pub nat: Option<&'a NatConfig>,
    /// What the host is like.
    pub kernel: &'a Kernel,
    /// Whether NAT egress is tested by [`self_test`].
    pub self_test: bool,
}

/// The tunnel interface and what it carries.
#[derive(Debug, Clone, Copy)]
pub struct TunnelInput<'a> {
    /// Its name.
    pub interface: &'a InterfaceName,
    /// Its MTU.
    pub mtu: u16,
    /// Its addresses, beside the instance's own.
    pub addresses: &'a [IpAddr],
    /// What is routed into it.
    pub destinations: &'a [IpNet],
    /// The addresses that the tunnel itself talks to.
    pub endpoints: &'a [IpAddr],
}

/// What the host has to do for IPsec tunnels.
#[derive(Debug, Clone, Copy)]
pub struct IpsecInput<'a> {
    /// Who does ESP.
    pub esp: &'a Esp,
    /// What lies behind the tunnels.
    pub destinations: &'a [IpNet],
    /// Whether there may be tunnels that are not known now, to anywhere in the privnet.
    pub others: bool,
    /// The addresses that the tunnels themselves talk to.
    pub endpoints: &'a [IpAddr],
    /// Who may talk to whom.
    pub policy: &'a PolicyTable,
}

/// Who does ESP, and what the host needs for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Esp {
    /// charon. It makes the interface and its routes, which come and go with its SAs.
    Userspace {
        /// Whether the interface is there.
        present: bool,
    },
    /// The kernel: an XFRM interface for each tunnel, and what is routed into it. Where
    /// there is no SA, or none for such a packet, it is dropped there.
    Kernel(BTreeMap<NonZeroU32, Vec<IpNet>>),
}

/// The interface of charon's userspace ESP, whose name is not configurable.
const USERSPACE_ESP: &str = "ipsec0";

/// The MTU of tunnels by ESP, which is not configurable in charon's: 1500 less the most
/// that ESP inside UDP adds, in IPv4 and IPv6.
pub const ESP_MTU: u16 = 1400;

impl Esp {
    /// charon's interface.
    pub fn userspace_interface() -> InterfaceName {
        match InterfaceName::new(USERSPACE_ESP) {
            Ok(name) => name,
            Err(error) => unreachable!("{error}"),
        }
    }

    /// The interfaces that are there, or will be.
    fn interfaces(&self) -> Vec<InterfaceName> {
        match self {
            Self::Userspace { present: false } => Vec::new(),
            Self::Userspace { present: true } => vec![Self::userspace_interface()],
            Self::Kernel(tunnels) => tunnels.keys().copied().map(XfrmInterface::name).collect(),
        }
    }

    /// All that there may ever be.
    fn pattern(&self) -> InterfacePattern {
        match self {
            Self::Userspace { .. } => Self::userspace_interface().into(),
            Self::Kernel(_) => XfrmInterface::pattern(),
        }
    }
}

/// What the host should be like.
pub fn desired(input: GatewayInput<'_>) -> DesiredHost {
    let mut host = DesiredHost::new();
    let by_wireguard = input.tunnel.map(|tunnel| tunnel.interface);
    let by_ipsec = input.ipsec.map(|ipsec| ipsec.esp.interfaces());
    let by_ipsec = by_ipsec.unwrap_or_default();
    let tunnels = by_wireguard.into_iter().chain(&by_ipsec);
    host.sysctls = sysctl::forwarding(input.uplink, tunnels);
    let nat = input.nat.filter(|nat| !nat.is_off());
    if let Some(nat) = nat {
        let kernel = input.kernel;
        let capacity = kernel
            .sets_conntrack_size
            .then(|| conntrack::capacity(nat, kernel));
        let settings = sysctl::connection_tracking(nat.idle_timeout, capacity);
        host.sysctls.extend(settings);
    }
    let short_cut = nat.filter(|nat| nat.flowtable && input.kernel.flowtable.is_ok());
    host.ruleset = Some(Ruleset {
        egress: nat.filter(|nat| nat.egress).map(|nat| egress(&input, nat)),
        diversions: nat.map_or_else(Diversions::default, |nat| diversions(&input, nat)),
        flowtable: short_cut.map(|_| Flowtable {
            devices: [input.uplink.clone()].into(),
        }),
        verdicts: input.ipsec.and_then(|ipsec| {
            let own = input.identity.vpc_cidrs.iter();
            let others = input.privnet.nets().iter().filter(|_| ipsec.others);
            let cidrs = ipsec.destinations.iter().chain(own).chain(others).copied();
            let judged = input.tunnel.map(|tunnel| tunnel.interface);
            Verdicts::among(cidrs, ipsec.policy, ipsec.esp.pattern(), judged)
        }),
        tunnels: clamps(&input),
    });
    if let Some(tunnel) = input.tunnel {
        // The instance's own address, once more, so that what the kernel sends
        // into the tunnel by itself (ICMP errors) has a source that the far
        // end can answer.
        for address in [&[input.identity.private_address], tunnel.addresses].concat() {
            let address = IpNet::from(address);
            host.addresses.insert((tunnel.interface.clone(), address));
        }
        let destinations = tunnel.destinations;
        host.routes
            .extend(tunnel_routes(&input, tunnel.interface, destinations));
        host.routes.extend(surroundings(&input, tunnel.endpoints));
    }
    if let Some(ipsec) = input.ipsec {
        if let Esp::Kernel(tunnels) = ipsec.esp {
            for (if_id, destinations) in tunnels {
                host.xfrm.insert(XfrmInterface::new(*if_id));
                let interface = XfrmInterface::name(*if_id);
                host.routes
                    .extend(tunnel_routes(&input, &interface, destinations));
            }
        }
        // A CIDR whose SA is gone ends here, also where another route is wider.
        let ends = ipsec
            .destinations
            .iter()
            .filter(|net| is_elsewhere(&input, net));
        host.routes.extend(ends.map(|net| last_resort(*net)));
        host.routes.extend(surroundings(&input, ipsec.endpoints));
    }
    if input.self_test {
        // The way back of what it sends. The kernel's check of the source (rp_filter,
        // also the strict one) asks for the same route, and for no address.
        let client = Ipv4Net::from(self_test::CLIENT).into();
        let target = RouteTarget::Interface(self_test::interface());
        host.routes.insert(Route::new(client, target));
    }
    host
}

/// What of the NAT config cannot be done here, in plain sentences. Only at run
/// time is it known where the VPC lies.
pub fn problems(input: &GatewayInput<'_>) -> Vec<String> {
    let Some(nat) = input.nat else {
        return Vec::new();
    };
    let vpc: Vec<String> = vpc(input).map(|net| net.to_string()).collect();
    let vpc = vpc.join(", ");
    let forwards = nat.forwards.iter().filter(|it| !in_vpc(input, it.to));
    let forwards = forwards.map(|it| {
        format!(
            "nat.forward {it}: {} is not in this VPC ({vpc}), so nothing is forwarded to it",
            it.to
        )
    });
    let redirects = nat.redirects.iter().filter(|it| !in_vpc(input, it.to));
    let redirects = redirects.map(|it| {
        format!(
            "nat.redirect {it}: {} is not in this VPC ({vpc}), so nothing is redirected to it",
            it.to
        )
    });
    let sources = sources(input, nat);
    let owners = nat.source_ports.iter().filter(|_| nat.egress);
    let owners = owners.filter(|it| {
        let mut masqueraded = sources.iter();
        !masqueraded.any(|net| overlap(&(*net).into(), &it.from.into()))
    });
    let owners = owners.map(|it| {
        let sources: Vec<String> = sources.iter().map(ToString::to_string).collect();
        format!(
            "nat.source_ports {it}: {} is not among what is masqueraded ({}), so nobody has them",
            it.from,
            sources.join(", ")
        )
    });
    let size = nat
        .connections
        .filter(|_| !input.kernel.sets_conntrack_size);
    let size = size.map(|connections| {
        format!(
            "nat.connections = {connections} has no effect: only the first network namespace of \
             a machine sets how many connections are remembered"
        )
    });
    let told = forwards.chain(redirects).chain(owners);
    told.chain(size).collect()
}

/// Whose traffic is masqueraded.
fn sources(input: &GatewayInput<'_>, nat: &NatConfig) -> Vec<Ipv4Net> {
    if nat.sources.is_empty() {
        vpc(input).collect()
    } else {
        v4(&nat.sources).collect()
    }
}

fn egress(input: &GatewayInput<'_>, nat: &NatConfig) -> Egress {
    let mut sources = sources(input, nat);
    if input.self_test {
        sources.push(Ipv4Net::from(self_test::CLIENT));
    }
    Egress {
        interface: input.uplink.clone(),
        sources,
        exclude: inside(input, nat),
        ports: nat.ports,
        source_ports: nat.source_ports.clone(),
        own: match input.identity.private_address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        },
    }
}

/// A target outside the VPC is left out: its answers would not come back here.
fn diversions(input: &GatewayInput<'_>, nat: &NatConfig) -> Diversions {
    let identity = input.identity;
    let own = [Some(identity.private_address), identity.public_address];
    let own = own
        .into_iter()
        .flatten()
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
    let forwards = nat.forwards.iter().filter(|it| in_vpc(input, it.to));
    let redirects = nat.redirects.iter().filter(|it| in_vpc(input, it.to));
    Diversions {
        own: own.collect(),
        vpc: vpc(input).collect(),
        exclude: inside(input, nat),
        forwards: forwards.cloned().collect(),
        redirects: redirects.cloned().collect(),
    }
}

/// Destinations that are not the internet.
fn inside(input: &GatewayInput<'_>, nat: &NatConfig) -> Vec<Ipv4Net> {
    v4(input.privnet.nets())
        .chain(vpc(input))
        .chain(v4(&nat.exclude))
        .collect()
}

fn vpc<'a>(input: &GatewayInput<'a>) -> impl Iterator<Item = Ipv4Net> + use<'a> {
    v4(&input.identity.vpc_cidrs)
}

fn in_vpc(input: &GatewayInput<'_>, address: Ipv4Addr) -> bool {
    vpc(input).any(|net| net.contains(&address))
}

fn v4(nets: &[IpNet]) -> impl Iterator<Item = Ipv4Net> {
    nets.iter().filter_map(|net| match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    })
}

fn clamps(input: &GatewayInput<'_>) -> Vec<TunnelClamp> {
    let by_wireguard = input.tunnel.map(|tunnel| TunnelClamp {
        interface: tunnel.interface.clone().into(),
        mtu: tunnel.mtu,
    });
    let by_ipsec = input.ipsec.map(|ipsec| TunnelClamp {
        interface: ipsec.esp.pattern(),
        mtu: ESP_MTU,
    });
    by_wireguard.into_iter().chain(by_ipsec).collect()
}

/// What lies wholly in the own VPC never leaves it.
fn is_elsewhere(input: &GatewayInput<'_>, net: &IpNet) -> bool {
    let mut own = input.identity.vpc_cidrs.iter();
    !own.any(|own| own.contains(net))
}

fn last_resort(net: IpNet) -> Route {
    let mut route = Route::new(net, RouteTarget::Unreachable);
    route.metric = LAST_RESORT;
    route
}

fn tunnel_routes<'a>(
    input: &'a GatewayInput<'_>,
    interface: &'a InterfaceName,
    destinations: &'a [IpNet],
) -> impl Iterator<Item = Route> + 'a {
    let own = input.identity.private_address;
    destinations
        .iter()
        .filter(|net| is_elsewhere(input, net))
        .map(move |net| {
            let route = Route::new(*net, RouteTarget::Interface(interface.clone()));
            if own.is_ipv4() == net.addr().is_ipv4() {
                route.with_source(own)
            } else {
                route
            }
        })
}

/// The routes around tunnels, whatever they are: for what no tunnel leads to, for what
/// needs none, and for the tunnels' own packets.
fn surroundings<'a>(
    input: &'a GatewayInput<'_>,
    endpoints: &'a [IpAddr],
) -> impl Iterator<Item = Route> + 'a {
    // Where no tunnel leads, the privnet ends here. Without this a packet for a
    // VPC that is down would follow the default route in clear, and the VPC's
    // route table would send it back to us until its TTL is used up.
    let ends = input
        .privnet
        .nets()
        .iter()
        .filter(|net| is_elsewhere(input, net));
    let ends = ends.map(|net| last_resort(*net));
    let via_router = |net: IpNet| {
        let router = input
            .router
            .filter(|router| router.is_ipv4() == net.addr().is_ipv4())?;
        Some(Route::new(
            net,
            RouteTarget::Gateway {
                address: router,
                interface: input.uplink.clone(),
            },
        ))
    };
    // The own VPC lies inside the privnet, but is reached as before. (The
    // subnet's own route comes with its address.)
    let vpc = input
        .identity
        .vpc_cidrs
        .iter()
        .filter(|net| Some(**net) != input.identity.subnet_cidr)
        .filter(|net| input.privnet.nets().iter().any(|own| own.contains(*net)))
        .filter_map(move |net| via_router(*net));
    // The tunnel's own packets must not go into the tunnel.
    let endpoints = endpoints
        .iter()
        .filter(|address| input.privnet.contains_address(**address))
        .filter(|address| {
            !input
                .identity
                .subnet_cidr
                .is_some_and(|subnet| subnet.contains(*address))
        })
        .filter_map(move |address| via_router(IpNet::from(*address)));
    ends.chain(vpc).chain(endpoints)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use privnet_model::config::spoke::SpokeConfig;
    use privnet_model::enrol::HUB_ADDRESS;

    use super::*;
    use crate::sysctl::SysctlKey;

    fn identity() -> Identity {
        Identity {
            account: "111122223333".parse().unwrap(),
            region: "eu-west-1".parse().unwrap(),
            zone: None,
            instance: "i-0123456789abcdef0".parse().unwrap(),
            vpc: "vpc-0123456789abcdef0".parse().unwrap(),
            vpc_cidrs: nets(&["10.2.0.0/16", "10.20.0.0/16", "100.64.0.0/16"]),
            subnet_cidr: Some("10.2.0.0/24".parse().unwrap()),
            private_address: "10.2.0.10".parse().unwrap(),
            public_address: None,
            mac: "0a:00:00:00:00:01".to_owned(),
        }
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn kernel() -> Kernel {
        Kernel {
            memory: 1 << 30,
            sets_conntrack_size: true,
            flowtable: Ok(()),
        }
    }

    fn host(tunnel: bool, nat: Option<&NatConfig>, endpoints: &[IpAddr]) -> DesiredHost {
        let uplink = InterfaceName::new("ens5").unwrap();
        let interface = InterfaceName::new("privnet0").unwrap();
        let privnet = Supernet::new(nets(&["10.0.0.0/8"])).unwrap();
        desired(GatewayInput {
            privnet: &privnet,
            identity: &identity(),
            uplink: &uplink,
            router: Some("10.2.0.1".parse().unwrap()),
            tunnel: tunnel.then_some(TunnelInput {
                interface: &interface,
                mtu: 1440,
                addresses: &[],
                destinations: privnet.nets(),
                endpoints,
            }),
            ipsec: None,
            nat,
            kernel: &kernel(),
            self_test: false,
        })
    }

    fn routes(host: &DesiredHost) -> Vec<String> {
        host.routes.iter().map(Route::to_string).collect()
    }

    #[test]
    fn the_privnet_goes_into_the_tunnel_and_the_own_vpc_does_not() {
        let routes = routes(&host(true, None, &[])).join("\n");
        assert!(
            routes.contains("10.0.0.0/8 dev privnet0"),
            "no route into the tunnel:\n{routes}"
        );
        for own in ["10.2.0.0/16", "10.20.0.0/16"] {
            assert!(
                routes.contains(&format!("{own} via 10.2.0.1 dev ens5")),
                "{own} is not left to the VPC:\n{routes}"
            );
        }
        assert!(!routes.contains("100.64.0.0/16"), "{routes}");
        assert!(routes.contains("unreachable"), "{routes}");
    }

    #[test]
    fn a_tunnel_by_the_kernels_esp_has_an_interface_routes_into_it_and_an_end_behind_them() {
        let uplink = InterfaceName::new("ens5").unwrap();
        let privnet = Supernet::new(nets(&["10.0.0.0/8"])).unwrap();
        let destinations = nets(&["10.2.7.0/24", "10.200.0.0/16"]);
        let number = NonZeroU32::new(0xe40c_292c).unwrap();
        let esp = Esp::Kernel([(number, destinations.clone())].into());
        let endpoint = ["203.0.113.90".parse().unwrap()];
        let policy = PolicyTable::default();
        let host = desired(GatewayInput {
            privnet: &privnet,
            identity: &identity(),
            uplink: &uplink,
            router: Some("10.2.0.1".parse().unwrap()),
            tunnel: None,
            ipsec: Some(IpsecInput {
                esp: &esp,
                destinations: &destinations,
                others: false,
                endpoints: &endpoint,
                policy: &policy,
            }),
            nat: None,
            kernel: &kernel(),
            self_test: false,
        });
        assert_eq!(host.xfrm, [XfrmInterface::new(number)].into());
        let routes = routes(&host).join("\n");
        for wanted in [
            "route 10.200.0.0/16 dev pnesp-e40c292c src 10.2.0.10",
            "route unreachable 10.200.0.0/16 metric 4294901760",
            "route unreachable 10.0.0.0/8 metric 4294901760",
        ] {
            assert!(routes.contains(wanted), "no {wanted:?} in\n{routes}");
        }
        // It lies in the own VPC.
        assert!(!routes.contains("10.2.7.0/24"), "{routes}");
        let loose = SysctlKey::new("net/ipv4/conf/pnesp-e40c292c/rp_filter").unwrap();
        assert_eq!(host.sysctls[&loose], "2");
        let rules = host.ruleset.unwrap().tunnels;
        assert_eq!(rules[0].interface.to_string(), "pnesp-*");
    }

    #[test]
    fn a_privnet_net_that_is_the_own_vpc_or_lies_in_it_stays_out_of_the_tunnel() {
        for own in ["10.2.0.0/16", "10.2.7.0/24"] {
            let uplink = InterfaceName::new("ens5").unwrap();
            let interface = InterfaceName::new("privnet0").unwrap();
            let privnet = Supernet::new(nets(&[own, "10.9.0.0/16"])).unwrap();
            let host = desired(GatewayInput {
                privnet: &privnet,
                identity: &identity(),
                uplink: &uplink,
                router: Some("10.2.0.1".parse().unwrap()),
                tunnel: Some(TunnelInput {
                    interface: &interface,
                    mtu: 1440,
                    addresses: &[],
                    destinations: privnet.nets(),
                    endpoints: &[],
                }),
                ipsec: None,
                nat: None,
                kernel: &kernel(),
                self_test: false,
            });
            let into_tunnel: Vec<String> = host
                .routes
                .iter()
                .filter(|route| route.target.interface() == Some(&interface))
                .map(|route| route.destination.to_string())
                .collect();
            assert_eq!(into_tunnel, ["10.9.0.0/16"]);
        }
    }

    #[test]
    fn a_hub_inside_the_privnet_is_not_reached_through_its_own_tunnel() {
        let inside = host(true, None, &["10.9.0.1".parse().unwrap()]);
        assert!(
            routes(&inside)
                .iter()
                .any(|route| route.contains("10.9.0.1/32 via 10.2.0.1"))
        );
        let outside = host(true, None, &["198.51.100.100".parse().unwrap()]);
        assert!(!routes(&outside).join(" ").contains("198.51.100.100"));
    }

    #[test]
    fn the_hub_has_its_address_inside_the_tunnels_and_a_spoke_a_route_to_it() {
        let uplink = InterfaceName::new("ens5").unwrap();
        let interface = InterfaceName::new("privnet0").unwrap();
        let privnet = Supernet::new(nets(&["10.0.0.0/8"])).unwrap();
        let address = IpAddr::from(HUB_ADDRESS);
        let host = |addresses: &[IpAddr], destinations: &[IpNet]| {
            desired(GatewayInput {
                privnet: &privnet,
                identity: &identity(),
                uplink: &uplink,
                router: Some("10.2.0.1".parse().unwrap()),
                tunnel: Some(TunnelInput {
                    interface: &interface,
                    mtu: 1440,
                    addresses,
                    destinations,
                    endpoints: &[],
                }),
                ipsec: None,
                nat: None,
                kernel: &kernel(),
                self_test: false,
            })
        };
        let hub = host(&[address], &[]);
        let addresses: Vec<String> = hub
            .addresses
            .iter()
            .map(|(interface, address)| format!("{address} {interface}"))
            .collect();
        assert_eq!(
            addresses,
            ["10.2.0.10/32 privnet0", "169.254.77.1/32 privnet0"]
        );
        let spoke = host(&[], &[IpNet::from(address)]);
        assert_eq!(spoke.addresses.len(), 1);
        let routes = routes(&spoke).join("\n");
        assert!(
            routes.contains("169.254.77.1/32 dev privnet0"),
            "no way to the hub:\n{routes}"
        );
    }

    #[test]
    fn egress_leaves_privnet_vpc_and_exclusions_alone() {
        let nat = NatConfig {
            exclude: nets(&["192.168.0.0/16"]),
            ..NatConfig::default()
        };
        let egress = host(false, Some(&nat), &[])
            .ruleset
            .unwrap()
            .egress
            .unwrap();
        assert_eq!(egress.sources.len(), 3);
        let excluded: Vec<String> = egress.exclude.iter().map(Ipv4Net::to_string).collect();
        assert_eq!(
            excluded,
            [
                "10.0.0.0/8",
                "10.2.0.0/16",
                "10.20.0.0/16",
                "100.64.0.0/16",
                "192.168.0.0/16"
            ]
        );
    }

    #[test]
    fn the_self_test_is_a_client_like_the_vpcs_hosts() {
        let nat = NatConfig {
            sources: nets(&["10.2.7.0/24"]),
            ..NatConfig::default()
        };
        let uplink = InterfaceName::new("ens5").unwrap();
        let host = desired(GatewayInput {
            privnet: &Supernet::new(nets(&["10.0.0.0/8"])).unwrap(),
            identity: &identity(),
            uplink: &uplink,
            router: None,
            tunnel: None,
            ipsec: None,
            nat: Some(&nat),
            kernel: &kernel(),
            self_test: true,
        });
        assert_eq!(routes(&host), ["route 169.254.78.2/32 dev privnet-test"]);
        let sources = host.ruleset.unwrap().egress.unwrap().sources;
        let sources: Vec<String> = sources.iter().map(Ipv4Net::to_string).collect();
        assert_eq!(sources, ["10.2.7.0/24", "169.254.78.2/32"]);
    }

    #[test]
    fn a_nat_gateway_without_tunnel_has_no_routes_of_ours() {
        let host = host(false, Some(&NatConfig::default()), &[]);
        assert!(host.routes.is_empty());
        assert!(host.addresses.is_empty());
    }

    fn nat(section: &str) -> NatConfig {
        let text = format!("privnet = '10.0.0.0/8'\ntransport = 'none'\n{section}");
        SpokeConfig::parse("spoke.toml", &text).unwrap().nat
    }

    fn forward(to: &str) -> String {
        format!("[[nat.forward]]\nproto = 'tcp'\nport = 51532\nto = '{to}'\nfrom = ['0.0.0.0/0']\n")
    }

    fn redirect(to: &str) -> String {
        format!("[[nat.redirect]]\nproto = 'tcp'\nport = 80\nto = '{to}'\n")
    }

    fn problems_of(nat: &NatConfig, kernel: &Kernel) -> Vec<String> {
        problems(&GatewayInput {
            privnet: &Supernet::new(nets(&["10.0.0.0/8"])).unwrap(),
            identity: &identity(),
            uplink: &InterfaceName::new("ens5").unwrap(),
            router: None,
            tunnel: None,
            ipsec: None,
            nat: Some(nat),
            kernel,
            self_test: false,
        })
    }

    #[test]
    fn a_target_outside_the_vpc_is_told_and_the_others_work() {
        let nat = nat(&[
            forward("10.2.1.10:1532"),
            forward("10.3.1.10:1532").replace("51532", "51533"),
            redirect("10.20.3.20:3128"),
            redirect("192.0.2.80:3128").replace("80\n", "443\n"),
        ]
        .concat());
        let told = problems_of(&nat, &kernel());
        assert_eq!(
            told,
            [
                "nat.forward tcp 51533 to 10.3.1.10:1532 from 0.0.0.0/0: 10.3.1.10 is not in this \
                 VPC (10.2.0.0/16, 10.20.0.0/16, 100.64.0.0/16), so nothing is forwarded to it",
                "nat.redirect tcp 443 to 192.0.2.80:3128: 192.0.2.80 is not in this VPC \
                 (10.2.0.0/16, 10.20.0.0/16, 100.64.0.0/16), so nothing is redirected to it",
            ]
        );
        let diversions = host(false, Some(&nat), &[]).ruleset.unwrap().diversions;
        assert_eq!(diversions.forwards, nat.forwards[..1]);
        assert_eq!(diversions.redirects, nat.redirects[..1]);
    }

    #[test]
    fn source_ports_of_nobody_who_is_masqueraded_are_told() {
        let owner = |from: &str, ports: &str| {
            format!("[[nat.source_ports]]\nfrom = '{from}'\nports = '{ports}'\n")
        };
        let owners = [
            owner("10.2.7.9", "2000-2999"),
            owner("10.16.0.0/12", "3000-3999"),
            owner("10.3.0.0/16", "4000-4999"),
        ]
        .concat();
        assert_eq!(
            problems_of(&nat(&owners), &kernel()),
            [
                "nat.source_ports 4000-4999 for 10.3.0.0/16: 10.3.0.0/16 is not among what is \
                 masqueraded (10.2.0.0/16, 10.20.0.0/16, 100.64.0.0/16), so nobody has them"
            ]
        );
        let chosen = format!("[nat]\nsources = ['10.2.7.0/24']\n{owners}");
        let told = problems_of(&nat(&chosen), &kernel());
        assert_eq!(told.len(), 2, "{told:?}");
        let off = format!("[nat]\negress = false\n{owners}");
        assert!(problems_of(&nat(&off), &kernel()).is_empty());
    }

    #[test]
    fn forwards_answer_to_the_private_and_the_public_address() {
        let mut identity = identity();
        identity.public_address = Some("203.0.113.7".parse().unwrap());
        let nat = nat(&forward("10.2.1.10:1532"));
        let input = GatewayInput {
            privnet: &Supernet::new(nets(&["10.0.0.0/8"])).unwrap(),
            identity: &identity,
            uplink: &InterfaceName::new("ens5").unwrap(),
            router: None,
            tunnel: None,
            ipsec: None,
            nat: Some(&nat),
            kernel: &kernel(),
            self_test: false,
        };
        let own = desired(input).ruleset.unwrap().diversions.own;
        let own: Vec<String> = own.iter().map(ToString::to_string).collect();
        assert_eq!(own, ["10.2.0.10", "203.0.113.7"]);
    }

    #[test]
    fn connection_tracking_is_set_where_there_is_nat_and_sized_where_it_can_be() {
        let set = |host: &DesiredHost, name: &str| {
            let mut settings = host.sysctls.iter();
            let found = settings.find(|(key, _)| key.as_str().ends_with(name));
            found.map(|(_, value)| value.clone())
        };
        let router = host(true, None, &[]);
        assert_eq!(set(&router, "timeout_established"), None);
        let off = host(true, Some(&nat("[nat]\negress = false")), &[]);
        assert_eq!(set(&off, "timeout_established"), None);
        let gateway = host(true, Some(&NatConfig::default()), &[]);
        for limit in ["tcp_timeout_established", "udp_timeout_stream"] {
            assert_eq!(set(&gateway, limit), Some("350".to_owned()));
        }
        assert_eq!(set(&gateway, "conntrack_max"), Some("262144".to_owned()));

        let elsewhere = Kernel {
            sets_conntrack_size: false,
            ..kernel()
        };
        let chosen = nat("[nat]\nconnections = 5000");
        assert!(problems_of(&chosen, &kernel()).is_empty());
        let told = problems_of(&chosen, &elsewhere);
        assert!(
            told.len() == 1 && told[0].starts_with("nat.connections = 5000 has no effect"),
            "{told:?}"
        );
        assert!(problems_of(&NatConfig::default(), &elsewhere).is_empty());
    }

    #[test]
    fn the_short_cut_is_taken_where_it_is_wanted_and_there_is_one() {
        let flowtable = |nat: &NatConfig| host(true, Some(nat), &[]).ruleset.unwrap().flowtable;
        assert!(flowtable(&NatConfig::default()).is_some());
        assert_eq!(flowtable(&nat("[nat]\nflowtable = false")), None);
        let without = Kernel {
            flowtable: Err("No such file or directory".to_owned()),
            ..kernel()
        };
        let ruleset = desired(GatewayInput {
            privnet: &Supernet::new(nets(&["10.0.0.0/8"])).unwrap(),
            identity: &identity(),
            uplink: &InterfaceName::new("ens5").unwrap(),
            router: None,
            tunnel: None,
            ipsec: None,
            nat: Some(&NatConfig::default()),
            kernel: &without,
            self_test: false,
        })
        .ruleset
        .unwrap();
        assert_eq!(ruleset.flowtable, None);
        assert!(ruleset.egress.is_some());
    }
}
