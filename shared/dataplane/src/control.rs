//! A device's configuration: which peers it has and how they are set up, and the
//! commands that bring the workers into line with it. The worker threads never
//! take part in it, so it may take its time: new key material costs 0.1 ms a peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ipnet::IpNet;
use privnet_model::key::{PrivateKey, PublicKey};
use privnet_model::peer::{PeerConfig, PeerStatus};
use privnet_tunnel::uapi::{SetAllowedIp, SetPeer};
use privnet_tunnel::{
    AllowedIps, Directory, Identity, IndexAllocator, Peer, PeerIndex, PeerStats, PeerUpdate,
    Target, Tunnel,
};

use crate::error::DeviceError;
use crate::worker::Command;

/// The configuration, with the commands that are not yet posted.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) private_key: Option<PrivateKey>,
    identity: Option<Arc<Identity>>,
    pub(crate) listen_port: u16,
    pub(crate) fwmark: Option<u32>,
    local: BTreeSet<IpNet>,
    peers: BTreeMap<PublicKey, Entry>,
    /// Whose each prefix is: of equal prefixes the last peer has it.
    owners: BTreeMap<IpNet, PublicKey>,
    allocator: IndexAllocator,
    commands: Vec<Vec<Command>>,
}

#[derive(Debug)]
struct Entry {
    index: PeerIndex,
    config: PeerConfig,
    stats: Arc<PeerStats>,
}

impl Control {
    pub(crate) fn new(workers: usize, listen_port: u16, fwmark: Option<u32>) -> Self {
        Self {
            private_key: None,
            identity: None,
            listen_port,
            fwmark,
            local: BTreeSet::new(),
            peers: BTreeMap::new(),
            owners: BTreeMap::new(),
            allocator: IndexAllocator::default(),
            commands: (0..workers).map(|_| Vec::new()).collect(),
        }
    }

    /// What the workers must be told since the last call.
    pub(crate) fn take_commands(&mut self) -> Vec<Vec<Command>> {
        let empty = (0..self.commands.len()).map(|_| Vec::new()).collect();
        std::mem::replace(&mut self.commands, empty)
    }

    /// The common knowledge as it is now.
    pub(crate) fn directory(&self) -> Arc<Directory> {
        let peers = self.owners.iter().filter_map(|(prefix, owner)| {
            let entry = self.peers.get(owner)?;
            Some((*prefix, Target::Peer(entry.index)))
        });
        // Last, so that of equal prefixes the host's own side has it.
        let local = self.local.iter().map(|prefix| (*prefix, Target::Local));
        Arc::new(Directory {
            identity: self.identity.clone(),
            peers: self
                .peers
                .iter()
                .map(|(key, entry)| (*key, entry.index))
                .collect(),
            allowed_ips: AllowedIps::new(peers.chain(local)),
        })
    }

    pub(crate) fn public_key(&self) -> Option<PublicKey> {
        self.identity.as_ref().map(|identity| identity.public_key())
    }

    pub(crate) fn set_local(&mut self, local: BTreeSet<IpNet>) {
        self.local = local;
    }

    /// Changes the device's key; sessions with all peers end.
    pub(crate) fn set_private_key(&mut self, key: Option<PrivateKey>) {
        if self.private_key == key {
            return;
        }
        self.identity = key.as_ref().map(|key| Arc::new(Identity::new(key)));
        self.private_key = key;
        if let Some(own) = self.public_key() {
            self.remove(&own);
        }
        for (key, entry) in &self.peers {
            let tunnel = tunnel(self.identity.as_deref(), key, entry.index, &entry.config);
            let update = PeerUpdate {
                tunnel: Some(tunnel),
                ..PeerUpdate::default()
            };
            let owner = entry.index.owner(self.commands.len());
            self.commands[owner].push(Command::Update(entry.index, update));
        }
    }

    /// Adds the peer or makes it look like this. A configured endpoint moves the
    /// peer only when it differs from the one configured before: to configure the
    /// same again does not undo roaming.
    pub(crate) fn set(&mut self, key: PublicKey, config: PeerConfig) -> Result<(), DeviceError> {
        let endpoint = config.endpoint.filter(|_| {
            self.peers
                .get(&key)
                .is_none_or(|entry| entry.config.endpoint != config.endpoint)
        });
        self.set_with(key, config, endpoint)
    }

    /// Carries out one peer's part of a userspace API request.
    pub(crate) fn set_by_request(&mut self, request: SetPeer) -> Result<(), DeviceError> {
        let key = request.public_key;
        if request.remove {
            self.remove(&key);
            return Ok(());
        }
        let existing = self.peers.get(&key);
        if request.update_only && existing.is_none() {
            return Ok(());
        }
        let mut config = existing
            .map(|entry| entry.config.clone())
            .unwrap_or_default();
        if let Some(preshared_key) = request.preshared_key {
            config.preshared_key = preshared_key;
        }
        if let Some(keepalive) = request.keepalive {
            config.keepalive = keepalive;
        }
        if request.endpoint.is_some() {
            config.endpoint = request.endpoint;
        }
        if request.replace_allowed_ips {
            config.allowed_ips.clear();
        }
        for change in request.allowed_ips {
            match change {
                SetAllowedIp::Add(prefix) => config.allowed_ips.insert(prefix),
                SetAllowedIp::Remove(prefix) => config.allowed_ips.remove(&prefix),
            };
        }
        self.set_with(key, config, request.endpoint)
    }

    pub(crate) fn remove(&mut self, key: &PublicKey) {
        let Some(entry) = self.peers.remove(key) else {
            return;
        };
        for prefix in &entry.config.allowed_ips {
            self.owners.remove(prefix);
        }
        self.allocator.release(entry.index);
        self.command(entry.index, Command::Remove(entry.index));
    }

    pub(crate) fn remove_all(&mut self) {
        let keys: Vec<_> = self.peers.keys().copied().collect();
        for key in keys {
            self.remove(&key);
        }
    }

    /// What is known of every peer, by key.
    pub(crate) fn status(&self) -> Vec<PeerStatus> {
        // Handshakes are dated by the monotonic clock; an age survives a step of
        // the wall clock, a date would not.
        let (instant, wall) = (Instant::now(), SystemTime::now());
        self.peers
            .iter()
            .map(|(key, entry)| {
                let report = entry.stats.report();
                let mut config = entry.config.clone();
                config.endpoint = report.endpoint;
                PeerStatus {
                    key: *key,
                    config,
                    last_handshake: report
                        .last_handshake
                        .and_then(|at| wall.checked_sub(instant.saturating_duration_since(at))),
                    rx_bytes: report.received_bytes,
                    tx_bytes: report.sent_bytes,
                }
            })
            .collect()
    }

    fn set_with(
        &mut self,
        key: PublicKey,
        mut config: PeerConfig,
        endpoint: Option<SocketAddr>,
    ) -> Result<(), DeviceError> {
        if self.public_key() == Some(key) {
            // The kernel's WireGuard does the same: nobody is their own peer.
            tracing::warn!(%key, "a peer with the device's own key is left out");
            return Ok(());
        }
        config.allowed_ips = config.allowed_ips.iter().map(IpNet::trunc).collect();
        match self.peers.get(&key) {
            None => self.add(key, &config)?,
            Some(entry) => {
                let index = entry.index;
                let rekeyed = entry.config.preshared_key != config.preshared_key;
                let rekeepalived = entry.config.keepalive != config.keepalive;
                let update = PeerUpdate {
                    endpoint,
                    keepalive: rekeepalived.then_some(config.keepalive),
                    tunnel: rekeyed.then(|| tunnel(self.identity.as_deref(), &key, index, &config)),
                };
                if endpoint.is_some() || rekeyed || rekeepalived {
                    self.command(index, Command::Update(index, update));
                }
            }
        }
        self.move_prefixes(key, &config.allowed_ips);
        if let Some(entry) = self.peers.get_mut(&key) {
            entry.config = config;
        }
        Ok(())
    }

    fn add(&mut self, key: PublicKey, config: &PeerConfig) -> Result<(), DeviceError> {
        let index = self.allocator.allocate().ok_or(DeviceError::TooManyPeers)?;
        let stats = Arc::<PeerStats>::default();
        let peer = Peer::new(
            index,
            tunnel(self.identity.as_deref(), &key, index, config),
            config.endpoint,
            config.keepalive,
            Arc::clone(&stats),
        );
        self.command(index, Command::Insert(peer));
        let entry = Entry {
            index,
            config: PeerConfig::default(),
            stats,
        };
        self.peers.insert(key, entry);
        Ok(())
    }

    /// Makes these the peer's prefixes: earlier ones go, and what another peer
    /// had of them moves here.
    fn move_prefixes(&mut self, key: PublicKey, wanted: &BTreeSet<IpNet>) {
        let Some(entry) = self.peers.get(&key) else {
            return;
        };
        for prefix in entry.config.allowed_ips.difference(wanted) {
            self.owners.remove(prefix);
        }
        for prefix in wanted {
            if let Some(before) = self.owners.insert(*prefix, key)
                && before != key
                && let Some(loser) = self.peers.get_mut(&before)
            {
                loser.config.allowed_ips.remove(prefix);
            }
        }
    }

    fn command(&mut self, index: PeerIndex, command: Command) {
        let owner = index.owner(self.commands.len());
        self.commands[owner].push(command);
    }
}

fn tunnel(
    identity: Option<&Identity>,
    key: &PublicKey,
    index: PeerIndex,
    config: &PeerConfig,
) -> Option<Tunnel> {
    identity.map(|identity| Tunnel::new(identity, key, config.preshared_key.as_ref(), index))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::net::IpAddr;
    use std::time::Duration;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        PrivateKey::from_random([seed; 32]).public()
    }

    fn config(allowed_ips: &[&str]) -> PeerConfig {
        PeerConfig {
            allowed_ips: allowed_ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            ..PeerConfig::default()
        }
    }

    fn control() -> Control {
        let mut control = Control::new(1, 0, None);
        control.set_private_key(Some(PrivateKey::from_random([99; 32])));
        control
    }

    fn owner(control: &Control, address: &str) -> Option<Target> {
        let address: IpAddr = address.parse().unwrap();
        control.directory().allowed_ips.lookup(address)
    }

    #[test]
    fn a_prefix_moves_to_the_peer_that_is_given_it_last() {
        let mut control = control();
        control
            .set(key(1), config(&["10.1.0.0/16", "10.2.0.0/16"]))
            .unwrap();
        control.set(key(2), config(&["10.2.0.0/16"])).unwrap();
        let status = control.status();
        let of = |key| status.iter().find(|peer| peer.key == key).unwrap();
        assert_eq!(
            of(key(1)).config.allowed_ips,
            config(&["10.1.0.0/16"]).allowed_ips
        );
        assert_eq!(
            of(key(2)).config.allowed_ips,
            config(&["10.2.0.0/16"]).allowed_ips
        );
        control.remove(&key(2));
        assert_eq!(owner(&control, "10.2.0.1"), None);
        assert!(owner(&control, "10.1.0.1").is_some());
    }

    #[test]
    fn of_equal_prefixes_the_local_one_holds() {
        let mut control = control();
        control
            .set(key(1), config(&["10.0.0.0/8", "10.1.0.0/16"]))
            .unwrap();
        control.set_local(["10.1.0.0/16".parse().unwrap()].into());
        assert_eq!(owner(&control, "10.1.0.1"), Some(Target::Local));
        assert!(matches!(owner(&control, "10.2.0.1"), Some(Target::Peer(_))));
    }

    #[test]
    fn the_same_configuration_again_does_not_undo_roaming_nor_end_the_session() {
        let mut control = control();
        let mut wanted = config(&["10.1.0.0/16"]);
        wanted.endpoint = Some("192.0.2.1:51820".parse().unwrap());
        control.set(key(1), wanted.clone()).unwrap();
        control.take_commands();
        control.set(key(1), wanted.clone()).unwrap();
        assert!(control.take_commands()[0].is_empty());
        wanted.endpoint = Some("192.0.2.2:51820".parse().unwrap());
        wanted.keepalive = Some(Duration::from_secs(25));
        control.set(key(1), wanted).unwrap();
        match &control.take_commands()[0][..] {
            [Command::Update(_, update)] => {
                assert!(update.endpoint.is_some() && update.keepalive.is_some());
                assert!(update.tunnel.is_none());
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_changed_preshared_key_makes_new_key_material() {
        let mut control = control();
        control.set(key(1), config(&[])).unwrap();
        control.take_commands();
        let mut wanted = config(&[]);
        wanted.preshared_key = Some(privnet_model::key::PresharedKey::from_bytes([5; 32]));
        control.set(key(1), wanted).unwrap();
        match &control.take_commands()[0][..] {
            [Command::Update(_, update)] => assert!(matches!(update.tunnel, Some(Some(_)))),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nobody_is_their_own_peer() {
        let mut control = control();
        let own = control.public_key().unwrap();
        control.set(own, config(&["10.0.0.0/8"])).unwrap();
        assert!(control.status().is_empty());
        control.set(key(1), config(&["10.0.0.0/8"])).unwrap();
        control.set_private_key(Some(PrivateKey::from_random([1; 32])));
        assert!(control.status().is_empty());
        assert_eq!(owner(&control, "10.0.0.1"), None);
    }

    #[test]
    fn commands_go_to_the_peers_owner() {
        let mut control = Control::new(3, 0, None);
        for seed in 1..=6 {
            control.set(key(seed), config(&[])).unwrap();
        }
        for commands in control.take_commands() {
            assert_eq!(commands.len(), 2);
        }
    }

    #[test]
    fn a_request_adds_and_removes_single_prefixes() {
        let mut control = control();
        control.set(key(1), config(&["10.1.0.0/16"])).unwrap();
        let text = format!(
            "set=1\npublic_key={}\nallowed_ip=10.2.0.0/16\nallowed_ip=-10.1.0.0/16\n\
             public_key={}\nupdate_only=true\nallowed_ip=10.3.0.0/16",
            key(1).to_hex(),
            key(2).to_hex(),
        );
        let privnet_tunnel::uapi::Request::Set(request) =
            privnet_tunnel::uapi::Request::parse(&text).unwrap()
        else {
            panic!("a get");
        };
        for peer in request.peers {
            control.set_by_request(peer).unwrap();
        }
        let status = control.status();
        assert_eq!(status.len(), 1);
        assert_eq!(
            status[0].config.allowed_ips,
            config(&["10.2.0.0/16"]).allowed_ips
        );
    }
}
