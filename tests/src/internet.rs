//! The internet of a world: one router that knows where each public address is,
//! and nothing of private ones.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Result, bail};

use crate::isolation;
use crate::namespace::Namespace;
use crate::process::run;
use crate::vpc_router::{MTU, ROUTER_SYSCTLS};

/// The internet.
#[derive(Debug)]
pub(crate) struct Internet {
    pub(crate) namespace: Namespace,
    links: u8,
}

/// A link to the internet, `100.64.0.2N/31`: the internet has the even address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link(u8);

impl Link {
    pub(crate) const fn near(self) -> Ipv4Addr {
        Ipv4Addr::new(100, 64, 0, self.0 * 2)
    }

    pub(crate) const fn far(self) -> Ipv4Addr {
        Ipv4Addr::new(100, 64, 0, self.0 * 2 + 1)
    }
}

impl Internet {
    pub(crate) fn new() -> Result<Self> {
        let namespace = Namespace::add("internet")?;
        namespace.sysctl(&ROUTER_SYSCTLS)?;
        Ok(Self {
            namespace,
            links: 0,
        })
    }

    fn next_link(&mut self) -> Result<Link> {
        let link = Link(self.links);
        self.links += 1;
        if self.links > 127 {
            bail!("the internet is full");
        }
        Ok(link)
    }

    /// Links a VPC's router: its interface `uplink` has the default route.
    pub(crate) fn attach_router(&mut self, router: &Namespace) -> Result<Link> {
        let link = self.next_link()?;
        let interface = router.name();
        self.namespace.link(interface, router, "uplink", MTU)?;
        self.namespace
            .ip(&[format!("addr add {}/31 dev {interface}", link.near())])?;
        router.ip(&[
            format!("addr add {}/31 dev uplink", link.far()),
            format!("route add default via {}", link.near()),
        ])?;
        Ok(link)
    }

    /// Makes a host with public addresses of its own.
    pub(crate) fn attach_host(&mut self, name: &str, addresses: &[Ipv4Addr]) -> Result<Namespace> {
        let [source, ..] = addresses else {
            bail!("host {name} has no address");
        };
        let host = Namespace::add(name)?;
        let link = self.attach_router(&host)?;
        let mut commands: Vec<String> = addresses
            .iter()
            .map(|address| format!("addr add {address}/32 dev uplink"))
            .collect();
        commands.push(format!(
            "route change default via {} src {source}",
            link.near()
        ));
        host.ip(&commands)?;
        let routes: Vec<String> = addresses
            .iter()
            .map(|address| format!("route add {address}/32 via {}", link.far()))
            .collect();
        self.namespace.ip(&routes)?;
        Ok(host)
    }

    /// Links the network that this process is in, so that it reaches the API.
    pub(crate) fn attach_this_process(&mut self) -> Result<()> {
        if !isolation::inside() {
            bail!("a world is made inside isolation only");
        }
        let link = self.next_link()?;
        let ip = |arguments: &str| run(Command::new("ip").args(arguments.split(' ')));
        ip(&format!(
            "link add uplink mtu {MTU} type veth peer name operator mtu {MTU} netns {}",
            self.namespace.name()
        ))?;
        self.namespace.ip(&[
            "link set operator up".to_owned(),
            format!("addr add {}/31 dev operator", link.near()),
        ])?;
        ip("link set uplink up")?;
        ip(&format!("addr add {}/31 dev uplink", link.far()))?;
        ip(&format!("route add default via {}", link.near()))?;
        Ok(())
    }
}
