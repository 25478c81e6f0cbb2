//! From a tunnel as it should be to what charon is told of it (`load-conn`). The
//! keys are those of swanctl.conf(5), which says what each means.

use std::time::Duration;

use privnet_model::ipsec::{
    Authentication, ConnectionName, Encapsulation, EspBackEnd, IkeId, IkeRole, IpsecTunnel,
    TunnelEnd,
};
use privnet_reconcile::ipsec::WantedConnection;
use sha2::{Digest, Sha256};

use crate::vici::{Malformed, Section};

/// A connection as charon loads it.
///
/// Its one child's name ends in a fingerprint of all of it. charon tells neither
/// proposals nor most other settings of what it has loaded, but it tells names:
/// so after a restart of either daemon it is known what is loaded as it should be,
/// and by which version of the connection each SA was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    name: ConnectionName,
    child: String,
    message: Section,
    identities: [IkeId; 2],
    has_secret: bool,
    role: IkeRole,
    stands_by: bool,
}

impl Connection {
    /// The connection of a tunnel that has no `errors()`. What cannot be told to
    /// charon (a certificate of more than 64 KB) is an error.
    pub fn new(tunnel: &IpsecTunnel) -> Result<Self, Malformed> {
        Self::with(tunnel, false)
    }

    /// The same with IKE alone (RFC 6023): no packet can go there, but whether the peer
    /// is there and lets us in, shows.
    pub fn standing_by(tunnel: &IpsecTunnel) -> Result<Self, Malformed> {
        Self::with(tunnel, true)
    }

    fn with(tunnel: &IpsecTunnel, stands_by: bool) -> Result<Self, Malformed> {
        let unnamed = message(tunnel, "", stands_by);
        let digest = Sha256::digest(&*unnamed.encode()?);
        let mut child = format!("{}-", tunnel.name);
        for byte in &digest[..8] {
            child.push_str(&format!("{byte:02x}"));
        }
        Ok(Self {
            name: tunnel.name.clone(),
            message: message(tunnel, &child, stands_by),
            child,
            identities: [tunnel.local.id.clone(), tunnel.remote.id.clone()],
            has_secret: tunnel.authentication == Authentication::PresharedKey,
            role: tunnel.role,
            stands_by,
        })
    }

    /// Its name.
    pub fn name(&self) -> &ConnectionName {
        &self.name
    }

    /// Its child's name.
    pub fn child(&self) -> &str {
        &self.child
    }

    /// What the plan has to know of it.
    pub fn wanted(&self) -> WantedConnection {
        WantedConnection {
            child: self.child.clone(),
            has_secret: self.has_secret,
            role: self.role,
            stands_by: self.stands_by,
        }
    }

    /// Who both ends say they are: its preshared key is for these two.
    pub(crate) fn identities(&self) -> [&IkeId; 2] {
        self.identities.each_ref()
    }

    /// What `load-conn` is told.
    pub(crate) fn message(&self) -> &Section {
        &self.message
    }
}

fn message(tunnel: &IpsecTunnel, child: &str, stands_by: bool) -> Section {
    let any = || "%any".to_owned();
    let address = |end: &TunnelEnd| [end.address.map_or_else(any, |it| it.to_string())];
    let (own, authority) = match &tunnel.authentication {
        Authentication::PresharedKey => (None, None),
        Authentication::Certificate { own, authority } => (Some(own), Some(authority)),
    };
    let class = if own.is_some() { "pubkey" } else { "psk" };
    let mut local = Section::new()
        .with("auth", class)
        .with("id", tunnel.local.id.as_str());
    if let Some(own) = own {
        local = local.with_list("certs", [own]);
    }
    let mut remote = Section::new()
        .with("auth", class)
        .with("id", tunnel.remote.id.as_str());
    if let Some(authority) = authority {
        remote = remote.with_list("cacerts", [authority]);
    }
    let encapsulated = tunnel.encapsulation == Encapsulation::Always;
    let lifetime = tunnel.times.ike_lifetime;
    let mut connection = Section::new();
    if stands_by {
        connection = connection.with("childless", "force");
    }
    let connection = connection
        .with("version", "2")
        .with_list("local_addrs", address(&tunnel.local))
        .with_list("remote_addrs", address(&tunnel.remote))
        .with_list("proposals", tunnel.proposals.ike())
        .with("encap", if encapsulated { "yes" } else { "no" })
        // Measured: with `no` a tunnel is back 3 s after its NAT forgot it, with
        // `yes` it is not.
        .with("mobike", "no")
        .with("dpd_delay", seconds(tunnel.times.dead_peer_delay))
        .with("rekey_time", seconds(before(lifetime)))
        .with("over_time", seconds(lifetime - before(lifetime)))
        // Any other number and charon stops trying for ever.
        .with("keyingtries", "0")
        // What changed is set up beside the old one: neither may end the other.
        .with("unique", "no")
        .with_section("local", local)
        .with_section("remote", remote)
        .with_section(
            "children",
            Section::new().with_section(child, child_message(tunnel)),
        );
    Section::new().with_section(tunnel.name.as_str(), connection)
}

fn child_message(tunnel: &IpsecTunnel) -> Section {
    let selectors = |end: &TunnelEnd| {
        let selectors = end.selectors.iter().map(ToString::to_string);
        selectors.collect::<Vec<_>>()
    };
    // charon goes on by itself when our daemon is not there. A responder waits for
    // the peer.
    let (dead, closed) = match tunnel.role {
        IkeRole::Initiator => ("restart", "start"),
        IkeRole::Responder => ("clear", "none"),
    };
    let lifetime = tunnel.times.child_lifetime;
    let child = Section::new()
        .with_list("local_ts", selectors(&tunnel.local))
        .with_list("remote_ts", selectors(&tunnel.remote))
        .with_list("esp_proposals", tunnel.proposals.esp())
        .with("mode", "tunnel")
        .with("rekey_time", seconds(before(lifetime)))
        .with("life_time", seconds(lifetime))
        // A trap alone never initiates with userspace ESP: we do it ourselves.
        .with("start_action", "none")
        .with("dpd_action", dead)
        .with("close_action", closed);
    match tunnel.esp {
        EspBackEnd::Userspace => child,
        EspBackEnd::Kernel { if_id } => {
            let if_id = if_id.to_string();
            child.with("if_id_in", &if_id).with("if_id_out", &if_id)
        }
    }
}

/// When keys are changed that are used for so long at most: charon begins up to a
/// tenth of the lifetime earlier still, by chance, so that not all tunnels rekey at
/// once, and has another tenth to try again.
fn before(lifetime: Duration) -> Duration {
    Duration::from_secs(lifetime.as_secs() - lifetime.as_secs() / 10)
}

fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs().max(1))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::collections::{BTreeMap, BTreeSet};
    use std::num::NonZeroU32;

    use privnet_model::ipsec::{Proposals, Times};
    use proptest::prelude::*;

    use super::*;

    fn tunnel(site: &str) -> IpsecTunnel {
        let end = |address: &str, id: &str, selector: &str| TunnelEnd {
            address: Some(address.parse().unwrap()),
            id: id.parse().unwrap(),
            selectors: BTreeSet::from([selector.parse().unwrap()]),
        };
        IpsecTunnel {
            name: ConnectionName::of(site).unwrap(),
            local: end("198.51.100.100", "hub.example", "10.0.0.0/8"),
            remote: end("203.0.113.9", "fw.example", "10.200.0.0/16"),
            authentication: Authentication::PresharedKey,
            proposals: Proposals::Modern,
            role: IkeRole::Initiator,
            esp: EspBackEnd::Userspace,
            encapsulation: Encapsulation::BehindNat,
            times: Times::default(),
        }
    }

    fn shown(tunnel: &IpsecTunnel) -> String {
        format!("{:?}", message(tunnel, "c", false))
    }

    #[test]
    fn a_tunnel_with_a_preshared_key_over_userspace_esp() {
        assert_eq!(
            shown(&tunnel("dc")),
            r#"{"privnet-dc": {"version": "2", "local_addrs": ["198.51.100.100"], "remote_addrs": ["203.0.113.9"], "proposals": ["aes256gcm16-prfsha384-ecp384"], "encap": "no", "mobike": "no", "dpd_delay": "10s", "rekey_time": "25920s", "over_time": "2880s", "keyingtries": "0", "unique": "no", "local": {"auth": "psk", "id": "hub.example"}, "remote": {"auth": "psk", "id": "fw.example"}, "children": {"c": {"local_ts": ["10.0.0.0/8"], "remote_ts": ["10.200.0.0/16"], "esp_proposals": ["aes256gcm16-ecp384"], "mode": "tunnel", "rekey_time": "3240s", "life_time": "3600s", "start_action": "none", "dpd_action": "restart", "close_action": "start"}}}}"#
        );
    }

    #[test]
    fn a_tunnel_with_certificates_over_kernel_esp_from_any_address() {
        let mut tunnel = tunnel("dc");
        tunnel.remote.address = None;
        tunnel.role = IkeRole::Responder;
        tunnel.encapsulation = Encapsulation::Always;
        let (own, authority) = ("PEM of ours".to_owned(), "PEM of theirs".to_owned());
        tunnel.authentication = Authentication::Certificate { own, authority };
        tunnel.esp = EspBackEnd::Kernel {
            if_id: NonZeroU32::new(42).unwrap(),
        };
        let shown = shown(&tunnel);
        for part in [
            r#""remote_addrs": ["%any"]"#,
            r#""encap": "yes""#,
            r#""local": {"auth": "pubkey", "id": "hub.example", "certs": ["PEM of ours"]}"#,
            r#""remote": {"auth": "pubkey", "id": "fw.example", "cacerts": ["PEM of theirs"]}"#,
            r#""dpd_action": "clear", "close_action": "none""#,
            r#""if_id_in": "42", "if_id_out": "42""#,
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        assert!(!Connection::new(&tunnel).unwrap().wanted().has_secret);
    }

    #[test]
    fn keys_are_changed_before_their_lifetime_is_over() {
        for lifetime in [120, 900, 3600, 28_800] {
            let lifetime = Duration::from_secs(lifetime);
            assert!(before(lifetime) < lifetime);
            assert!(before(lifetime) * 2 > lifetime);
        }
    }

    #[test]
    fn whatever_changes_in_a_tunnel_changes_its_childs_name() {
        let changes: [fn(&mut IpsecTunnel); 8] = [
            |tunnel| tunnel.remote.address = "203.0.113.10".parse().ok(),
            |tunnel| tunnel.local.id = "other.example".parse().unwrap(),
            |tunnel| {
                tunnel
                    .remote
                    .selectors
                    .insert("10.201.0.0/16".parse().unwrap());
            },
            |tunnel| tunnel.proposals = Proposals::Legacy,
            |tunnel| tunnel.role = IkeRole::Responder,
            |tunnel| tunnel.encapsulation = Encapsulation::Always,
            |tunnel| tunnel.times.dead_peer_delay = Duration::from_secs(30),
            |tunnel| {
                tunnel.esp = EspBackEnd::Kernel {
                    if_id: NonZeroU32::new(1).unwrap(),
                };
            },
        ];
        let mut names = BTreeSet::from([Connection::new(&tunnel("dc")).unwrap().child]);
        for change in changes {
            let mut changed = tunnel("dc");
            change(&mut changed);
            names.insert(Connection::new(&changed).unwrap().child);
        }
        assert_eq!(names.len(), 1 + changes.len());
        names.insert(Connection::standing_by(&tunnel("dc")).unwrap().child);
        assert_eq!(names.len(), 2 + changes.len());
        let again = Connection::new(&tunnel("dc")).unwrap();
        assert!(names.contains(&again.child) && again.child.starts_with("privnet-dc-"));
    }

    proptest! {
        /// Only what differs is loaded: whatever set of tunnels becomes another.
        #[test]
        fn only_connections_that_changed_are_loaded_or_unloaded(
            before in prop::collection::btree_map("[a-c]", 1_u8..4, 0..4),
            after in prop::collection::btree_map("[a-c]", 1_u8..4, 0..4),
        ) {
            use privnet_reconcile::ipsec::{ActualIpsec, IpsecChange, plan};
            let connections = |sites: &BTreeMap<String, u8>| {
                let made = sites.iter().map(|(site, octet)| {
                    let mut tunnel = tunnel(site);
                    tunnel.role = IkeRole::Responder;
                    let selector = format!("10.{octet}.0.0/16").parse().unwrap();
                    tunnel.remote.selectors = BTreeSet::from([selector]);
                    Connection::new(&tunnel).unwrap()
                });
                made.map(|it| (it.name.clone(), it)).collect::<BTreeMap<_, _>>()
            };
            let (was, will) = (connections(&before), connections(&after));
            let names: BTreeSet<_> = was.keys().cloned().collect();
            let loaded = was.iter().map(|(name, it)| {
                (name.clone(), BTreeSet::from([it.child.clone()]))
            });
            let actual = ActualIpsec {
                connections: loaded.collect(),
                secrets: names.clone(),
                current_secrets: names,
                associations: Vec::new(),
            };
            let wanted = will.iter().map(|(name, it)| (name.clone(), it.wanted())).collect();
            let changed: BTreeSet<_> = plan(&wanted, &actual)
                .into_iter()
                .filter_map(|change| match change {
                    IpsecChange::LoadConnection(name) | IpsecChange::UnloadConnection(name) => {
                        Some(name.site().to_owned())
                    }
                    _ => None,
                })
                .collect();
            let sites = before.keys().chain(after.keys());
            let differ = sites.filter(|site| before.get(*site) != after.get(*site));
            prop_assert_eq!(changed, differ.cloned().collect::<BTreeSet<_>>());
        }
    }
}
