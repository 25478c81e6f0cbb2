//! What a network of VPCs looks like: plain data, no IO. [`crate::world`] makes
//! it real. [`demo`] is the network that the demo shows and most tests use.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use privnet_model::id::Region;

/// A network: VPCs around an internet.
#[derive(Debug, Clone)]
pub struct Network {
    /// The VPCs.
    pub vpcs: Vec<Vpc>,
}

/// A VPC with its router, which also is its internet gateway.
#[derive(Debug, Clone)]
pub struct Vpc {
    /// The namespace of its router, and its `Name` tag.
    pub name: &'static str,
    /// The account that it is in.
    pub account: &'static str,
    /// Its region.
    pub region: Region,
    /// Its CIDRs; the first is the primary one.
    pub cidrs: Vec<Ipv4Net>,
    /// Its subnets.
    pub subnets: Vec<Subnet>,
}

impl Vpc {
    /// All its instances, each with its subnet.
    pub fn instances(&self) -> impl Iterator<Item = (&Subnet, &Instance)> {
        self.subnets.iter().flat_map(|subnet| {
            subnet
                .instances
                .iter()
                .map(move |instance| (subnet, instance))
        })
    }
}

/// A subnet with its own route table.
#[derive(Debug, Clone)]
pub struct Subnet {
    /// Its CIDR. The first address is the VPC router's, as in AWS.
    pub cidr: Ipv4Net,
    /// The letter of its availability zone.
    pub zone: char,
    /// Its route table beside the VPC's own CIDRs, which are always local.
    pub routes: Vec<(Ipv4Net, Target)>,
    /// The instances in it.
    pub instances: Vec<Instance>,
}

impl Subnet {
    /// The VPC router's address in it.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.cidr.network().to_bits() + 1)
    }
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The internet gateway. Only instances with a public address get through.
    Internet,
    /// An instance, by its private address.
    Instance(Ipv4Addr),
}

/// An instance.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Its namespace, and its `Name` tag.
    pub name: &'static str,
    /// What it is for.
    pub role: Role,
    /// Its private address, the only one on its interface.
    pub address: Ipv4Addr,
    /// Its public address, which the internet gateway maps to the private one.
    pub public: Option<Ipv4Addr>,
}

/// What an instance is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs `privnet-hub`.
    Hub,
    /// Runs `privnet-spoke` with a tunnel to the hub.
    Spoke,
    /// Runs `privnet-spoke` with transport `none`.
    NatHub,
    /// Runs nothing of ours: a web server.
    Host,
}

/// The account of [`demo`]: the one that moto gives to every key it does not know.
pub const ACCOUNT: &str = "123456789012";
/// Another account, for a VPC that is not the hub's owner's.
pub const OTHER_ACCOUNT: &str = "222222222222";
/// The private network of [`demo`].
pub const PRIVNET: &str = "10.0.0.0/8";
/// The tags that make an instance of [`demo`] a spoke.
pub const SPOKE_TAGS: [(&str, &str); 2] = [("service", "nat"), ("env", "prod")];
/// The hub's port, and the spokes'.
pub const PORT: u16 = 51820;
/// The public address of the hub of [`demo`].
pub const HUB_PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 100);
/// The public address of the hub of [`second_hub`].
pub const SECOND_HUB_PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 120);
/// A web server on the internet.
pub const WEB: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
/// The EC2 API as the daemons reach it: through a proxy that can break it.
pub const API: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
/// The EC2 API without the proxy.
pub const MOTO: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The port of both.
pub const API_PORT: u16 = 5000;

/// The demo network, without the VPC that joins later ([`latecomer`]).
///
/// ```text
///                     internet  web 203.0.113.80   EC2 API 192.0.2.11
///        ┌───────────────────┼─────────────────────────┐
///  198.51.100.100 .101       │ 198.51.100.11           │ 203.0.113.20
/// ┌──────┴──────────┐ ┌──────┴────────────┐ ┌──────────┴────────────────┐
/// │ VPC hub         │ │ VPC a             │ │ VPC b                     │
/// │ 10.0.0.0/16     │ │ 10.1.0.0/16       │ │ 10.2.0.0/16 10.20.0.0/16  │
/// │ us-west-2       │ │ us-west-2         │ │ eu-west-1                 │
/// │                 │ │                   │ │                           │
/// │ hub      .0.10  │ │ spoke-a    .0.10  │ │ spoke-b    10.2.0.10      │
/// │ nat-hub  .0.20  │ │                   │ │                           │
/// │ host-hub .1.10  │ │ host-a     .1.10  │ │ host-b     10.2.1.10      │
/// │                 │ │                   │ │ host-b2    10.20.1.10     │
/// └─────────────────┘ └───────────────────┘ └───────────────────────────┘
/// ```
///
/// In VPC hub, private subnets send the privnet to the hub and the rest to
/// nat-hub. In the others, private subnets send everything to the spoke.
pub fn demo() -> Network {
    let hub = Vpc {
        name: "vpc-hub",
        account: ACCOUNT,
        region: region("us-west-2"),
        cidrs: vec![net([10, 0, 0, 0], 16)],
        subnets: vec![
            Subnet {
                cidr: net([10, 0, 0, 0], 24),
                zone: 'a',
                routes: vec![(ANYWHERE, Target::Internet)],
                instances: vec![
                    instance("hub", Role::Hub, [10, 0, 0, 10], Some(HUB_PUBLIC)),
                    instance(
                        "nat-hub",
                        Role::NatHub,
                        [10, 0, 0, 20],
                        Some(Ipv4Addr::new(198, 51, 100, 101)),
                    ),
                ],
            },
            Subnet {
                cidr: net([10, 0, 1, 0], 24),
                zone: 'a',
                routes: vec![
                    (ANYWHERE, Target::Instance(Ipv4Addr::new(10, 0, 0, 20))),
                    (
                        net([10, 0, 0, 0], 8),
                        Target::Instance(Ipv4Addr::new(10, 0, 0, 10)),
                    ),
                ],
                instances: vec![instance("host-hub", Role::Host, [10, 0, 1, 10], None)],
            },
        ],
    };
    let a = spoke_vpc(
        "vpc-a",
        region("us-west-2"),
        1,
        ["spoke-a", "host-a"],
        Ipv4Addr::new(198, 51, 100, 11),
    );
    let mut b = spoke_vpc(
        "vpc-b",
        region("eu-west-1"),
        2,
        ["spoke-b", "host-b"],
        Ipv4Addr::new(203, 0, 113, 20),
    );
    b.cidrs.push(net([10, 20, 0, 0], 16));
    b.subnets.push(Subnet {
        cidr: net([10, 20, 1, 0], 24),
        zone: 'a',
        routes: vec![(ANYWHERE, Target::Instance(Ipv4Addr::new(10, 2, 0, 10)))],
        instances: vec![instance("host-b2", Role::Host, [10, 20, 1, 10], None)],
    });
    Network {
        vpcs: vec![hub, a, b],
    }
}

/// A VPC with another hub, `hub-2` at 10.5.0.10, and nothing else.
pub fn second_hub() -> Vpc {
    Vpc {
        name: "vpc-hub-2",
        account: ACCOUNT,
        region: region("eu-west-1"),
        cidrs: vec![net([10, 5, 0, 0], 16)],
        subnets: vec![Subnet {
            cidr: net([10, 5, 0, 0], 24),
            zone: 'a',
            routes: vec![(ANYWHERE, Target::Internet)],
            instances: vec![instance(
                "hub-2",
                Role::Hub,
                [10, 5, 0, 10],
                Some(SECOND_HUB_PUBLIC),
            )],
        }],
    }
}

/// The VPC that joins while everything runs.
pub fn latecomer() -> Vpc {
    spoke_vpc(
        "vpc-c",
        region("ap-southeast-2"),
        3,
        ["spoke-c", "host-c"],
        Ipv4Addr::new(203, 0, 113, 30),
    )
}

/// A VPC with a spoke in each of two zones. Both private subnets send everything
/// to the first: as far as the second one's tunnel matters, only what comes from
/// elsewhere goes through it.
///
/// ```text
///        198.51.100.41              198.51.100.42
/// ┌──────────┴─────────────────────────┴──────────┐
/// │ VPC d  10.4.0.0/16  us-west-2                 │
/// │ zone a                     zone b             │
/// │ spoke-d1 10.4.0.10         spoke-d2 10.4.2.10 │
/// │ host-d1  10.4.1.10         host-d2  10.4.3.10 │
/// └───────────────────────────────────────────────┘
/// ```
pub fn two_gateways() -> Vpc {
    let first = Ipv4Addr::new(10, 4, 0, 10);
    let public = |third, zone, name, address: u8| Subnet {
        cidr: net([10, 4, third, 0], 24),
        zone,
        routes: vec![(ANYWHERE, Target::Internet)],
        instances: vec![instance(
            name,
            Role::Spoke,
            [10, 4, third, 10],
            Some(Ipv4Addr::new(198, 51, 100, address)),
        )],
    };
    let private = |third, zone, name| Subnet {
        cidr: net([10, 4, third, 0], 24),
        zone,
        routes: vec![(ANYWHERE, Target::Instance(first))],
        instances: vec![instance(name, Role::Host, [10, 4, third, 10], None)],
    };
    Vpc {
        name: "vpc-d",
        account: ACCOUNT,
        region: region("us-west-2"),
        cidrs: vec![net([10, 4, 0, 0], 16)],
        subnets: vec![
            public(0, 'a', "spoke-d1", 41),
            private(1, 'a', "host-d1"),
            public(2, 'b', "spoke-d2", 42),
            private(3, 'b', "host-d2"),
        ],
    }
}

/// The same with a third zone, for what needs a spoke beside two that fail.
///
/// ```text
/// zone c                198.51.100.43
/// spoke-d3 10.4.4.10 ─────────┘
/// host-d3  10.4.5.10
/// ```
pub fn three_gateways() -> Vpc {
    let mut vpc = two_gateways();
    let spoke = Ipv4Addr::new(10, 4, 4, 10);
    vpc.subnets.extend([
        Subnet {
            cidr: net([10, 4, 4, 0], 24),
            zone: 'c',
            routes: vec![(ANYWHERE, Target::Internet)],
            instances: vec![instance(
                "spoke-d3",
                Role::Spoke,
                spoke.octets(),
                Some(Ipv4Addr::new(198, 51, 100, 43)),
            )],
        },
        Subnet {
            cidr: net([10, 4, 5, 0], 24),
            zone: 'c',
            routes: vec![(ANYWHERE, Target::Instance(spoke))],
            instances: vec![instance("host-d3", Role::Host, [10, 4, 5, 10], None)],
        },
    ]);
    vpc
}

/// The regions of [`demo`] and [`latecomer`].
pub const REGIONS: [&str; 3] = ["us-west-2", "eu-west-1", "ap-southeast-2"];

/// A VPC `10.N.0.0/16` with a spoke in a public subnet and a host in a private
/// one whose every packet goes to the spoke.
fn spoke_vpc(
    name: &'static str,
    region: Region,
    number: u8,
    [spoke, host]: [&'static str; 2],
    public: Ipv4Addr,
) -> Vpc {
    let spoke_address = Ipv4Addr::new(10, number, 0, 10);
    Vpc {
        name,
        account: ACCOUNT,
        region,
        cidrs: vec![net([10, number, 0, 0], 16)],
        subnets: vec![
            Subnet {
                cidr: net([10, number, 0, 0], 24),
                zone: 'a',
                routes: vec![(ANYWHERE, Target::Internet)],
                instances: vec![instance(
                    spoke,
                    Role::Spoke,
                    spoke_address.octets(),
                    Some(public),
                )],
            },
            Subnet {
                cidr: net([10, number, 1, 0], 24),
                zone: 'a',
                routes: vec![(ANYWHERE, Target::Instance(spoke_address))],
                instances: vec![instance(host, Role::Host, [10, number, 1, 10], None)],
            },
        ],
    }
}

const ANYWHERE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);

fn net(octets: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(octets.into(), prefix)
}

fn instance(
    name: &'static str,
    role: Role,
    address: [u8; 4],
    public: Option<Ipv4Addr>,
) -> Instance {
    Instance {
        name,
        role,
        address: address.into(),
        public,
    }
}

/// A region whose name is a literal of this file.
fn region(name: &'static str) -> Region {
    name.parse().expect("a region")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::collections::BTreeSet;

    use super::*;

    fn all() -> Vec<Vpc> {
        let mut vpcs = demo().vpcs;
        vpcs.extend([latecomer(), three_gateways()]);
        vpcs
    }

    #[test]
    fn every_instance_lies_in_its_subnet_and_every_subnet_in_its_vpc() {
        for vpc in all() {
            for subnet in &vpc.subnets {
                assert!(vpc.cidrs.iter().any(|cidr| cidr.contains(&subnet.cidr)));
                for instance in &subnet.instances {
                    assert!(subnet.cidr.contains(&instance.address), "{}", instance.name);
                    assert_ne!(instance.address, subnet.gateway());
                }
            }
        }
    }

    #[test]
    fn names_and_public_addresses_are_unique() {
        let mut names = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for vpc in all() {
            assert!(names.insert(vpc.name));
            for (_, instance) in vpc.instances() {
                assert!(names.insert(instance.name));
                assert!(
                    instance
                        .public
                        .is_none_or(|address| addresses.insert(address))
                );
            }
        }
    }

    #[test]
    fn every_vpc_lies_in_the_privnet_and_in_a_polled_region() {
        let privnet: Ipv4Net = PRIVNET.parse().unwrap();
        for vpc in all() {
            assert!(vpc.cidrs.iter().all(|cidr| privnet.contains(cidr)));
            assert!(REGIONS.contains(&vpc.region.as_str()));
        }
    }
}
