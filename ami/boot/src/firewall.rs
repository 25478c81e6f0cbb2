//! What a configuration opens in the image's input policy. Pure.
//!
//! `ami/image/root/usr/lib/privnet/input.nft` has the policy and its sets; here is what
//! goes into them. The daemon has found the configuration good before.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use ipnet::IpNet;
use privnet_model::health::DEFAULT_HEALTH_PORT;
use toml::{Table, Value};

use crate::host::MARK;
use crate::user_data::Instance;

const DEFAULT_PORT: u16 = 51820;
const DEFAULT_INTERFACE: &str = "privnet0";

/// What the configuration opens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Firewall {
    tunnel_port: Option<u16>,
    tunnel_interface: String,
    health_port: Option<u16>,
    siblings: Vec<IpNet>,
    /// Whether there is IPsec: its ports, ESP, and strongSwan.
    pub(crate) ipsec: bool,
}

impl Firewall {
    /// What it opens, in a VPC of these CIDRs.
    ///
    /// # Errors
    /// It is no TOML, or a port is none.
    pub(crate) fn of(config: &str, vpc: &[IpNet]) -> Result<Self> {
        let config: Table = toml::from_str(config).context("the configuration")?;
        let text = |key: &str| config.get(key).and_then(Value::as_str);
        let routes = config.get("routes").and_then(Value::as_table);
        let has_siblings = routes.is_some_and(|routes| routes.contains_key("siblings"));
        let health_port = routes
            .filter(|_| has_siblings)
            .map(|routes| port(routes, "health_port", DEFAULT_HEALTH_PORT))
            .transpose()?;
        let tunnel_port = match text("transport") {
            Some("none" | "ipsec") => None,
            _ => Some(port(&config, "listen_port", DEFAULT_PORT)?),
        };
        Ok(Self {
            tunnel_port,
            tunnel_interface: text("interface").unwrap_or(DEFAULT_INTERFACE).to_owned(),
            health_port,
            siblings: vpc.to_vec(),
            ipsec: speaks_ipsec(&config),
        })
    }

    /// The nftables script.
    pub(crate) fn script(&self) -> String {
        let mut script = MARK.to_owned();
        let mut add = |line: String| {
            let _ = writeln!(script, "add {line}");
        };
        if let Some(port) = self.tunnel_port {
            add(format!("element inet gateway tunnel_ports {{ {port} }}"));
            add(format!(
                "element inet gateway tunnel_interfaces {{ {:?} }}",
                self.tunnel_interface
            ));
        }
        if let Some(port) = self.health_port {
            add(format!("element inet gateway health_ports {{ {port} }}"));
            for cidr in self.siblings.iter().filter(|cidr| cidr.addr().is_ipv4()) {
                add(format!("element inet gateway siblings {{ {cidr} }}"));
            }
        }
        if self.ipsec {
            add("element inet gateway tunnel_ports { 500, 4500 }".to_owned());
            add("rule inet gateway configured meta l4proto esp accept".to_owned());
        }
        script
    }
}

/// Who may log in.
pub(crate) fn ssh_script(instance: &Instance) -> String {
    let mut script = MARK.to_owned();
    for cidr in &instance.ssh_from {
        let set = if cidr.addr().is_ipv4() {
            "ssh4"
        } else {
            "ssh6"
        };
        let _ = writeln!(
            script,
            "add element inet gateway {set} {{ {} }}",
            cidr.trunc()
        );
    }
    script
}

fn port(table: &Table, key: &str, default: u16) -> Result<u16> {
    match table.get(key) {
        None => Ok(default),
        Some(value) => value
            .as_integer()
            .and_then(|number| u16::try_from(number).ok())
            .with_context(|| format!("{key} = {value}: expected a port, 1 to 65535")),
    }
}

/// Whether it has `transport = "ipsec"` anywhere, at the top, of a site or of a hub; or an
/// `[ipsec]` section, as a hub has whose spokes alone speak it.
fn speaks_ipsec(table: &Table) -> bool {
    table.get("ipsec").is_some_and(Value::is_table)
        || table.iter().any(|(key, value)| match value {
            Value::String(text) => key == "transport" && text == "ipsec",
            Value::Table(inner) => speaks_ipsec(inner),
            Value::Array(many) => many
                .iter()
                .any(|one| one.as_table().is_some_and(speaks_ipsec)),
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => false,
        })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    fn script(config: &str) -> String {
        let vpc: [IpNet; 2] = [
            "10.1.0.0/16".parse().unwrap(),
            "2001:db8::/56".parse().unwrap(),
        ];
        Firewall::of(config, &vpc).unwrap().script()
    }

    #[test]
    fn a_tunnel_opens_its_port_and_nothing_else() {
        let script = script("privnet = \"10.0.0.0/8\"\n");
        assert!(script.contains("tunnel_ports { 51820 }"), "{script}");
        assert!(
            script.contains("tunnel_interfaces { \"privnet0\" }"),
            "{script}"
        );
        for closed in ["health", "siblings", "4500", "esp"] {
            assert!(!script.contains(closed), "{script}");
        }
    }

    #[test]
    fn ports_and_interfaces_are_the_configured_ones() {
        let script = script(
            "listen_port = 4000\ninterface = \"wg9\"\n[routes]\nhealth_port = 4001\nsiblings = { a = \"b\" }\n",
        );
        assert!(script.contains("tunnel_ports { 4000 }"), "{script}");
        assert!(script.contains("tunnel_interfaces { \"wg9\" }"), "{script}");
        assert!(script.contains("health_ports { 4001 }"), "{script}");
    }

    #[test]
    fn the_health_port_is_open_to_the_own_vpc_where_there_are_siblings() {
        let script = script("[routes]\ntables = \"zone\"\nsiblings = { service = \"nat\" }\n");
        assert!(script.contains("health_ports { 51822 }"), "{script}");
        assert!(script.contains("siblings { 10.1.0.0/16 }"), "{script}");
        assert!(!script.contains("2001:db8"), "{script}");
        let alone = super::tests::script("[routes]\ntables = \"zone\"\n");
        assert!(!alone.contains("health_ports"), "{alone}");
    }

    #[test]
    fn an_instance_that_only_does_nat_opens_nothing() {
        let script = script("transport = \"none\"\n");
        assert!(!script.contains("add"), "{script}");
    }

    #[test]
    fn ipsec_anywhere_opens_its_ports_and_esp() {
        for config in [
            "transport = \"ipsec\"\n",
            "[[site]]\nname = \"a\"\n[[site]]\ntransport = \"ipsec\"\n",
        ] {
            let script = script(config);
            assert!(script.contains("tunnel_ports { 500, 4500 }"), "{script}");
            assert!(script.contains("l4proto esp accept"), "{script}");
        }
        assert!(!script("transport = \"ipsec\"\n").contains("51820"));
        assert!(!script("log = \"ipsec\"\n").contains("esp"));
    }

    #[test]
    fn ssh_is_open_from_where_it_says_only() {
        assert!(!ssh_script(&Instance::default()).contains("add"));
        let instance = Instance {
            ssh_from: vec![
                "10.9.8.7/16".parse().unwrap(),
                "2001:db8::/32".parse().unwrap(),
            ],
            ..Instance::default()
        };
        let script = ssh_script(&instance);
        assert!(script.contains("ssh4 { 10.9.0.0/16 }"), "{script}");
        assert!(script.contains("ssh6 { 2001:db8::/32 }"), "{script}");
    }
}
