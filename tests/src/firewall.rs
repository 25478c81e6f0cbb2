//! A site whose firewall somebody else administers: strongSwan with a `swanctl.conf`
//! written by hand.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::charon::Charon;
use crate::long_ping::LongPing;
use crate::namespace::Namespace;
use crate::topology::{HUB_PUBLIC, PRIVNET};
use crate::world::World;

/// The preshared key with the hub.
pub const SECRET: &str = "correct horse battery staple";

/// A site behind a firewall of its own.
#[derive(Debug)]
pub struct Firewall {
    /// Its namespace's name.
    pub name: &'static str,
    /// Where it is, and its site with it.
    pub namespace: Namespace,
    /// Its strongSwan.
    pub charon: Charon,
}

/// What a firewall's administrator can get wrong.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its own address on the internet.
    pub public: Ipv4Addr,
    /// What lies behind it.
    pub cidr: &'static str,
    /// What it may reach.
    pub reaches: &'static str,
    /// For IKE and for ESP.
    pub proposals: [&'static str; 2],
    /// The preshared key.
    pub secret: &'static str,
    /// What else there is in its child's section.
    pub more: &'static str,
}

/// One that the hub may call.
pub const EAST: Settings = Settings {
    public: Ipv4Addr::new(203, 0, 113, 90),
    cidr: "10.200.0.0/16",
    reaches: PRIVNET,
    proposals: ["aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384"],
    secret: SECRET,
    more: "",
};

/// Another.
pub const BRANCH: Settings = Settings {
    public: Ipv4Addr::new(203, 0, 113, 91),
    cidr: "10.201.0.0/16",
    ..EAST
};

impl Settings {
    /// As an administrator would write it.
    pub fn swanctl(&self) -> String {
        let Self {
            public,
            cidr,
            reaches,
            proposals: [ike, esp],
            secret,
            more,
        } = self;
        format!(
            "connections {{
  privnet {{
    version = 2
    local_addrs = {public}
    remote_addrs = {HUB_PUBLIC}
    proposals = {ike}
    mobike = no
    dpd_delay = 2s
    local {{
      auth = psk
      id = {public}
    }}
    remote {{
      auth = psk
      id = {HUB_PUBLIC}
    }}
    children {{
      lan {{
        local_ts = {cidr}
        remote_ts = {reaches}
        esp_proposals = {esp}
        {more}
      }}
    }}
  }}
}}
secrets {{
  ike-privnet {{
    id-1 = {public}
    id-2 = {HUB_PUBLIC}
    secret = \"{secret}\"
  }}
}}
"
        )
    }

    /// The address of its own inside.
    pub fn inside(&self) -> Result<Ipv4Addr> {
        let net: ipnet::Ipv4Net = self.cidr.parse()?;
        net.hosts().next().context("an empty network")
    }
}

impl Firewall {
    /// Has it renew the keys of its child and of IKE while somebody pings, who is answered
    /// after each.
    pub fn rekey_under(&self, pings: &mut LongPing, patience: Duration) -> Result<()> {
        for rekey in [
            ["--rekey", "--child", "lan"],
            ["--rekey", "--ike", "privnet"],
        ] {
            self.charon.swanctl(&rekey)?;
            pings.answers(20, patience)?;
        }
        Ok(())
    }

    /// Connects it to the internet and starts its strongSwan.
    pub fn start(world: &mut World, name: &'static str, settings: &Settings) -> Result<Self> {
        let namespace = world.add_internet_host(name, settings.public)?;
        namespace.ip(&[format!("addr add {}/32 dev lo", settings.inside()?)])?;
        let charon = Charon::of_firewall(&namespace, &settings.swanctl())?;
        Ok(Self {
            name,
            namespace,
            charon,
        })
    }

    /// Has it call the hub.
    pub fn initiate(&self) -> Result<()> {
        let initiate = ["--initiate", "--child", "lan", "--timeout", "20"];
        self.charon.swanctl(&initiate).map(drop)
    }

    /// Dies and comes back, as when its power fails.
    pub fn restart(
        self,
        settings: &Settings,
        meanwhile: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let Self {
            name,
            namespace,
            charon,
        } = self;
        charon.kill()?;
        meanwhile()?;
        let charon = Charon::of_firewall(&namespace, &settings.swanctl())?;
        Ok(Self {
            name,
            namespace,
            charon,
        })
    }
}
