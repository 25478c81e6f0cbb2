//! A client, a gateway and a server.
//!
//! ```text
//! client 10.1.0.2 ─── 10.1.0.1 gateway 192.0.2.1 ─── 192.0.2.2 server
//! ```

use std::fmt;
use std::net::Ipv4Addr;

use anyhow::Result;
use privnet_reconcile::interface::InterfaceName;
use privnet_reconcile::ruleset::{Egress, Flowtable, Ruleset};
use privnet_tests::namespace::Namespace;

pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// What the gateway does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It routes, without any rule.
    Routed,
    /// It translates as a spoke does.
    Nat,
    /// The same with the kernel's short cut for established connections.
    NatFlowtable,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Routed => "routed",
            Self::Nat => "NAT",
            Self::NatFlowtable => "NAT with flowtable",
        })
    }
}

pub(crate) struct Network {
    pub(crate) kind: Kind,
    pub(crate) client: Namespace,
    pub(crate) gateway: Namespace,
    pub(crate) server: Namespace,
}

impl Network {
    /// Makes it. The inner error is the kernel's, where it lacks what the kind needs.
    pub(crate) fn start(kind: Kind) -> Result<Result<Self, String>> {
        let name = |host: &str| format!("{host}-{}", kind as u8);
        let client = Namespace::add(&name("client"))?;
        let gateway = Namespace::add(&name("gateway"))?;
        let server = Namespace::add(&name("server"))?;
        gateway.link("lan", &client, "eth0", 1500)?;
        gateway.link("wan", &server, "eth0", 1500)?;
        gateway.sysctl(&["net.ipv4.ip_forward=1"])?;
        gateway.ip(&[
            "addr add 10.1.0.1/24 dev lan",
            "addr add 192.0.2.1/24 dev wan",
        ])?;
        client.ip(&[
            "addr add 10.1.0.2/24 dev eth0",
            "route add default via 10.1.0.1",
        ])?;
        server.ip(&[&format!("addr add {SERVER}/24 dev eth0")])?;
        // More connections than this wait to be accepted when the machine is slow.
        server.sysctl(&[
            "net.core.somaxconn=8192",
            "net.ipv4.tcp_max_syn_backlog=8192",
        ])?;
        client.sysctl(&["net.ipv4.ip_local_port_range=1024 65535"])?;
        if let Some(rules) = rules(kind)? {
            if let Err(error) = gateway.nft(&rules.text()) {
                let text = format!("{error:#}");
                let why = text.lines().find(|line| line.contains("Error:"));
                return Ok(Err(why.unwrap_or(&text).to_owned()));
            }
        } else {
            server.ip(&["route add 10.1.0.0/24 via 192.0.2.1"])?;
        }
        Ok(Ok(Self {
            kind,
            client,
            gateway,
            server,
        }))
    }
}

fn rules(kind: Kind) -> Result<Option<Ruleset>> {
    if kind == Kind::Routed {
        return Ok(None);
    }
    let (lan, wan) = (InterfaceName::new("lan")?, InterfaceName::new("wan")?);
    Ok(Some(Ruleset {
        egress: Some(Egress {
            interface: wan.clone(),
            sources: vec!["10.1.0.0/16".parse()?],
            exclude: vec!["10.0.0.0/8".parse()?],
            ports: None,
            source_ports: Vec::new(),
            own: None,
        }),
        flowtable: (kind == Kind::NatFlowtable).then(|| Flowtable {
            devices: [lan, wan].into(),
        }),
        ..Ruleset::default()
    }))
}
