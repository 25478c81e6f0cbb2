//! A VPC's router, which also is its internet gateway: the addresses, routes and
//! nftables rules that make a namespace behave like one, and an instance's link
//! to it.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::imds;
use crate::internet::Link;
use crate::namespace::Namespace;
use crate::topology::{Instance, PRIVNET, Subnet, Target, Vpc};

/// What every interface is called in its instance: not `eth0`, as on EC2.
pub const INTERFACE: &str = "ens5";

/// The MTU of the internet, and of a VPC unless a test wants another.
pub const MTU: u32 = 1500;

/// What every router of a world is set to.
pub(crate) const ROUTER_SYSCTLS: [&str; 3] = [
    "net.ipv4.ip_forward=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
];

/// The internet gateway: public and private addresses one to one, and nothing
/// else in or out.
pub(crate) fn internet_gateway() -> String {
    format!(
        "table ip igw {{
    counter leaked {{ }}
    counter unmapped {{ }}
    map public {{ type ipv4_addr : ipv4_addr; }}
    map private {{ type ipv4_addr : ipv4_addr; }}
    set mapped {{ type ipv4_addr; }}
    chain prerouting {{
        type nat hook prerouting priority dstnat
        iifname uplink dnat to ip daddr map @public
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat
        oifname uplink snat to ip saddr map @private
    }}
    chain forward {{
        type filter hook forward priority filter
        oifname uplink ip daddr {PRIVNET} counter name leaked drop
        oifname uplink ip saddr != @mapped counter name unmapped drop
        iifname uplink ct state new ct status & dnat == 0 drop
    }}
}}
"
    )
}

/// Every subnet has a bridge and a route table of its own.
pub(crate) fn route_vpc(router: &Namespace, uplink: Link, vpc: &Vpc) -> Result<()> {
    let mut commands = vec!["rule add pref 100 lookup main suppress_prefixlength 0".to_owned()];
    for cidr in &vpc.cidrs {
        // Inside the VPC everything is local, and what does not exist is nowhere.
        commands.push(format!("route add blackhole {cidr}"));
    }
    for (number, subnet) in vpc.subnets.iter().enumerate() {
        let table = 1000 + number;
        let bridge = bridge(number);
        commands.push(format!(
            "link add {bridge} mtu {MTU} type bridge forward_delay 0"
        ));
        commands.push(format!("link set {bridge} up"));
        commands.push(format!(
            "addr add {}/{} dev {bridge}",
            subnet.gateway(),
            subnet.cidr.prefix_len()
        ));
        commands.push(format!("rule add pref {table} iif {bridge} lookup {table}"));
    }
    router.ip(&commands)?;
    for (number, subnet) in vpc.subnets.iter().enumerate() {
        let routes: Vec<String> = subnet
            .routes
            .iter()
            .map(|(destination, target)| {
                let via = match target {
                    Target::Internet => uplink.near(),
                    Target::Instance(address) => *address,
                };
                format!("route add {destination} via {via} table {}", 1000 + number)
            })
            .collect();
        router.ip(&routes)?;
    }
    Ok(())
}

pub(crate) fn connect_instance(
    router: &Namespace,
    subnet_number: usize,
    subnet: &Subnet,
    namespace: &Namespace,
    instance: &Instance,
) -> Result<()> {
    router.link(instance.name, namespace, INTERFACE, MTU)?;
    router.ip(&[format!(
        "link set {} master {}",
        instance.name,
        bridge(subnet_number)
    )])?;
    namespace.ip(&[
        format!("link set {INTERFACE} address {}", mac(instance.address)),
        format!(
            "addr add {}/{} dev {INTERFACE}",
            instance.address,
            subnet.cidr.prefix_len()
        ),
        format!("route add default via {}", subnet.gateway()),
        // On EC2 it is on the link. Of host scope, so that it never is a source address.
        format!("addr add {}/32 dev lo scope host", imds::ADDRESS),
    ])
}

pub(crate) fn bridge(subnet: usize) -> String {
    format!("subnet{subnet}")
}

/// EC2's addresses begin with 02, 06 or 0a; the rest is the private address.
pub(crate) fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("06:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}
