//! A device's configuration: which peers it has and how they are set up, and the
//! commands that bring the workers into line with it. The worker threads never
//! take part in it, so it may take its time: new key material costs 0.1 ms a peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use privnet_model::key::{PresharedKey, PrivateKey, PublicKey};
use privnet_model::peer::{PeerConfig, PeerStatus};
use privnet_model::policy::PolicyTable;
use privnet_tunnel::uapi::{SetAllowedIp, SetPeer};
use privnet_tunnel::{
    AllowedIps, Directory, Identity, IndexAllocator, Member, Peer, PeerIndex, PeerStats,
    PeerUpdate, Policy, Rekey, Sites, Target, Tunnel,
};

use crate::error::DeviceError;
use crate::prefixes::Prefixes;
use crate::worker::Command;

/// The configuration, with the commands that are not yet posted.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) private_key: Option<PrivateKey>,
    identity: Option<Arc<Identity>>,
    pub(crate) listen_port: u16,
    pub(crate) fwmark: Option<u32>,
    local: BTreeSet<IpNet>,
    policy: Arc<Policy>,
    /// Boxed: a tree of 10,000 is never full.
    peers: BTreeMap<PublicKey, Box<Entry>>,
    /// Whose each prefix is: of equal prefixes the last peer has it.
    owners: BTreeMap<IpNet, PublicKey>,
    allocator: IndexAllocator,
    commands: Vec<Vec<Command>>,
    /// The common knowledge, while it is still that: with 130,000 prefixes it is
    /// dear to make, and a new endpoint changes nothing in it.
    directory: Option<Arc<Directory>>,
}

#[derive(Debug)]
struct Entry {
    index: PeerIndex,
    /// The number of its latest keys.
    keys: u8,
    settings: Settings,
    allowed_ips: Prefixes,
    stats: Arc<PeerStats>,
}

impl Entry {
    /// New keys after a change of ours or of its settings.
    fn rekey(
        &mut self,
        identity: Option<&Arc<Identity>>,
        key: &PublicKey,
        sessions: Sessions,
    ) -> Rekey {
        // One set for each preshared key.
        self.keys = self.keys.wrapping_add(2);
        let index = self.index.with_keys(self.keys);
        let tunnel = tunnel(identity, key, index, &self.settings);
        match (tunnel, sessions) {
            (Some(tunnel), Sessions::GoOn) => Rekey::MakeBeforeBreak(tunnel),
            (tunnel, _) => Rekey::AtOnce(tunnel),
        }
    }
}

/// What becomes of the sessions in use when keys change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sessions {
    /// They go on until the new keys work, or until their time is over.
    GoOn,
    /// They end at once, as the users of `wg` know it.
    End,
}

/// What a peer has one of.
#[derive(Debug, Clone, Default)]
struct Settings {
    preshared_key: Option<PresharedKey>,
    also_preshared_key: Option<PresharedKey>,
    keepalive: Option<Duration>,
    /// As configured; where the peer is now, its `stats` know.
    endpoint: Option<SocketAddr>,
    site: Option<String>,
    gateway: Option<String>,
}

impl Settings {
    fn preshared_keys(&self) -> [Option<&PresharedKey>; 2] {
        [&self.preshared_key, &self.also_preshared_key].map(Option::as_ref)
    }
}

impl Control {
    pub(crate) fn new(workers: usize, listen_port: u16, fwmark: Option<u32>) -> Self {
        Self {
            private_key: None,
            identity: None,
            listen_port,
            fwmark,
            local: BTreeSet::new(),
            policy: Arc::new(Policy::new(PolicyTable::default(), workers)),
            peers: BTreeMap::new(),
            owners: BTreeMap::new(),
            allocator: IndexAllocator::default(),
            commands: (0..workers).map(|_| Vec::new()).collect(),
            directory: None,
        }
    }

    /// What the workers must be told since the last call.
    pub(crate) fn take_commands(&mut self) -> Vec<Vec<Command>> {
        let empty = (0..self.commands.len()).map(|_| Vec::new()).collect();
        std::mem::replace(&mut self.commands, empty)
    }

    /// The common knowledge as it is now.
    pub(crate) fn directory(&mut self) -> Arc<Directory> {
        if let Some(directory) = &self.directory {
            return Arc::clone(directory);
        }
        let directory = self.new_directory();
        self.directory = Some(Arc::clone(&directory));
        directory
    }

    fn new_directory(&self) -> Arc<Directory> {
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
            allowed_ips: AllowedIps::new(peers.chain(local)).with_sites(self.sites()),
            // What allows everything need not be asked.
            policy: (!self.policy.table().is_empty()).then(|| Arc::clone(&self.policy)),
        })
    }

    fn sites(&self) -> Sites {
        Sites::new(self.peers.values().map(|entry| Member {
            peer: entry.index,
            site: entry.settings.site.as_deref(),
            gateway: entry.settings.gateway.as_deref(),
        }))
    }

    pub(crate) fn public_key(&self) -> Option<PublicKey> {
        self.identity.as_ref().map(|identity| identity.public_key())
    }

    pub(crate) fn set_local(&mut self, local: BTreeSet<IpNet>) {
        self.local = local;
        self.directory = None;
    }

    /// Puts a policy in force. The same again goes on counting.
    pub(crate) fn set_policy(&mut self, table: PolicyTable) {
        if *self.policy.table() != table {
            self.policy = Arc::new(Policy::new(table, self.commands.len()));
            self.directory = None;
        }
    }

    /// Packets that the policy denied, by the number of the rule.
    pub(crate) fn denied(&self) -> Vec<u64> {
        self.policy.denied()
    }

    /// Changes the device's key.
    pub(crate) fn set_private_key(&mut self, key: Option<PrivateKey>, sessions: Sessions) {
        if self.private_key == key {
            return;
        }
        self.identity = key.as_ref().map(|key| Arc::new(Identity::new(key)));
        self.private_key = key;
        self.directory = None;
        if let Some(own) = self.public_key() {
            self.remove(&own);
        }
        for (key, entry) in &mut self.peers {
            let update = PeerUpdate {
                keys: Some(entry.rekey(self.identity.as_ref(), key, sessions)),
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
                .is_none_or(|entry| entry.settings.endpoint != config.endpoint)
        });
        let settings = Settings {
            preshared_key: config.preshared_key,
            also_preshared_key: config.also_preshared_key,
            keepalive: config.keepalive,
            endpoint: config.endpoint,
            site: config.site,
            gateway: config.gateway,
        };
        if self.configure(key, settings, endpoint, Sessions::GoOn)? {
            let wanted: BTreeSet<_> = config.allowed_ips.iter().map(IpNet::trunc).collect();
            self.retain_prefixes(key, |prefix| wanted.contains(prefix));
            for prefix in wanted {
                self.give(prefix, key);
            }
        }
        Ok(())
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
        let mut settings = existing
            .map(|entry| entry.settings.clone())
            .unwrap_or_default();
        if let Some(preshared_key) = request.preshared_key {
            settings.preshared_key = preshared_key;
            settings.also_preshared_key = None;
        }
        if let Some(keepalive) = request.keepalive {
            settings.keepalive = keepalive;
        }
        if request.endpoint.is_some() {
            settings.endpoint = request.endpoint;
        }
        if !self.configure(key, settings, request.endpoint, Sessions::End)? {
            return Ok(());
        }
        if request.replace_allowed_ips {
            self.retain_prefixes(key, |_| false);
        }
        for change in request.allowed_ips {
            match change {
                SetAllowedIp::Add(prefix) => self.give(prefix.trunc(), key),
                SetAllowedIp::Remove(prefix) => self.take(prefix.trunc(), key),
            }
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, key: &PublicKey) {
        let Some(entry) = self.peers.remove(key) else {
            return;
        };
        for prefix in entry.allowed_ips.iter() {
            self.owners.remove(prefix);
        }
        self.directory = None;
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
                PeerStatus {
                    key: *key,
                    config: PeerConfig {
                        preshared_key: entry.settings.preshared_key.clone(),
                        also_preshared_key: entry.settings.also_preshared_key.clone(),
                        endpoint: report.endpoint,
                        keepalive: entry.settings.keepalive,
                        allowed_ips: entry.allowed_ips.iter().copied().collect(),
                        site: entry.settings.site.clone(),
                        gateway: entry.settings.gateway.clone(),
                    },
                    last_handshake: report
                        .last_handshake
                        .and_then(|at| wall.checked_sub(instant.saturating_duration_since(at))),
                    rx_bytes: report.received_bytes,
                    tx_bytes: report.sent_bytes,
                }
            })
            .collect()
    }

    /// Adds the peer or changes its settings, and has it move where `endpoint`
    /// says. Returns whether there is such a peer now.
    fn configure(
        &mut self,
        key: PublicKey,
        settings: Settings,
        endpoint: Option<SocketAddr>,
        sessions: Sessions,
    ) -> Result<bool, DeviceError> {
        if self.public_key() == Some(key) {
            // The kernel's WireGuard does the same: nobody is their own peer.
            tracing::warn!(%key, "a peer with the device's own key is left out");
            return Ok(false);
        }
        let Some(entry) = self.peers.get_mut(&key) else {
            self.add(key, settings)?;
            return Ok(true);
        };
        let before = std::mem::replace(&mut entry.settings, settings);
        let settings = &entry.settings;
        if (&before.site, &before.gateway) != (&settings.site, &settings.gateway) {
            self.directory = None;
        }
        let rekeyed = before.preshared_keys() != settings.preshared_keys();
        let rekeepalived = before.keepalive != settings.keepalive;
        let update = PeerUpdate {
            endpoint,
            keepalive: rekeepalived.then_some(settings.keepalive),
            keys: rekeyed.then(|| entry.rekey(self.identity.as_ref(), &key, sessions)),
        };
        let index = entry.index;
        if endpoint.is_some() {
            // Its worker does the same when it comes to it, which may take a while.
            entry.stats.set_endpoint(endpoint);
        }
        if endpoint.is_some() || rekeyed || rekeepalived {
            self.command(index, Command::Update(index, update));
        }
        Ok(true)
    }

    fn add(&mut self, key: PublicKey, settings: Settings) -> Result<(), DeviceError> {
        let index = self.allocator.allocate().ok_or(DeviceError::TooManyPeers)?;
        let stats = Arc::<PeerStats>::default();
        let peer = Peer::new(
            index,
            tunnel(self.identity.as_ref(), &key, index, &settings),
            settings.endpoint,
            settings.keepalive,
            Arc::clone(&stats),
        );
        self.command(index, Command::Insert(Box::new(peer)));
        let entry = Entry {
            index,
            keys: 0,
            settings,
            allowed_ips: Prefixes::None,
            stats,
        };
        self.peers.insert(key, Box::new(entry));
        self.directory = None;
        Ok(())
    }

    /// Makes the prefix this peer's, whoever had it.
    fn give(&mut self, prefix: IpNet, key: PublicKey) {
        let before = self.owners.insert(prefix, key);
        if before == Some(key) {
            return;
        }
        self.directory = None;
        if let Some(loser) = before.and_then(|before| self.peers.get_mut(&before)) {
            loser.allowed_ips.remove(&prefix);
        }
        if let Some(entry) = self.peers.get_mut(&key) {
            entry.allowed_ips.insert(prefix);
        }
    }

    /// Makes the prefix nobody's, if it is this peer's.
    fn take(&mut self, prefix: IpNet, key: PublicKey) {
        if let Some(entry) = self.peers.get_mut(&key)
            && entry.allowed_ips.remove(&prefix)
        {
            self.owners.remove(&prefix);
            self.directory = None;
        }
    }

    /// Takes the peer's prefixes away but for those to keep.
    fn retain_prefixes(&mut self, key: PublicKey, keep: impl Fn(&IpNet) -> bool) {
        if let Some(entry) = self.peers.get_mut(&key) {
            for prefix in entry.allowed_ips.keep_only(keep) {
                self.owners.remove(&prefix);
                self.directory = None;
            }
        }
    }

    fn command(&mut self, index: PeerIndex, command: Command) {
        let owner = index.owner(self.commands.len());
        self.commands[owner].push(command);
    }
}

fn tunnel(
    identity: Option<&Arc<Identity>>,
    key: &PublicKey,
    index: PeerIndex,
    settings: &Settings,
) -> Option<Tunnel> {
    let [preshared, also] = settings.preshared_keys();
    let tunnel = Tunnel::new(identity?, key, preshared, index);
    Some(match also {
        Some(also) if preshared != Some(also) => tunnel.or(also),
        _ => tunnel,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::net::IpAddr;

    use privnet_tunnel::uapi::{Request, RequestParser};
    use proptest::prelude::*;

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
        control.set_private_key(Some(PrivateKey::from_random([99; 32])), Sessions::End);
        control
    }

    fn owner(control: &mut Control, address: &str) -> Option<Target> {
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
        assert_eq!(owner(&mut control, "10.2.0.1"), None);
        assert!(owner(&mut control, "10.1.0.1").is_some());
    }

    #[test]
    fn of_equal_prefixes_the_local_one_holds() {
        let mut control = control();
        control
            .set(key(1), config(&["10.0.0.0/8", "10.1.0.0/16"]))
            .unwrap();
        control.set_local(["10.1.0.0/16".parse().unwrap()].into());
        assert_eq!(owner(&mut control, "10.1.0.1"), Some(Target::Local));
        assert!(matches!(
            owner(&mut control, "10.2.0.1"),
            Some(Target::Peer(_))
        ));
    }

    #[test]
    fn what_a_peer_belongs_to_is_reported_and_a_change_of_it_takes_effect() {
        let mut control = control();
        let gateway = |site: Option<&str>, allowed_ips: &[&str]| PeerConfig {
            site: site.map(str::to_owned),
            gateway: Some("i-1".to_owned()),
            ..config(allowed_ips)
        };
        let behind = ["10.1.0.0/16"];
        control
            .set(key(1), gateway(Some("vpc-1"), &behind))
            .unwrap();
        control.set(key(2), gateway(Some("vpc-1"), &[])).unwrap();
        let status = control.status();
        for peer in &status {
            assert_eq!(peer.config.site.as_deref(), Some("vpc-1"));
            assert_eq!(peer.config.gateway.as_deref(), Some("i-1"));
        }
        let leads_back = |control: &mut Control| {
            let directory = control.directory();
            let peer = |seed| directory.peers[&key(seed)];
            directory.allowed_ips.leads_back(peer(1), peer(2))
        };
        assert!(leads_back(&mut control));
        control.set(key(2), gateway(None, &[])).unwrap();
        assert!(!leads_back(&mut control));
        control.set(key(2), gateway(Some("vpc-1"), &[])).unwrap();
        assert!(leads_back(&mut control));
    }

    #[test]
    fn a_policy_that_allows_everything_is_not_asked_and_the_same_again_counts_on() {
        use privnet_model::policy::Verdict;

        let mut control = control();
        let allow = PolicyTable::new(Vec::new(), 1, 2, |_, _| Verdict::Allow);
        control.set_policy(allow);
        assert!(control.directory().policy.is_none());
        assert_eq!(control.denied(), [0, 0]);
        let deny = || PolicyTable::new(Vec::new(), 1, 1, |_, _| Verdict::Deny(0));
        control.set_policy(deny());
        let policy = control.directory().policy.clone().unwrap();
        control.set_policy(deny());
        let again = control.directory().policy.clone().unwrap();
        assert!(Arc::ptr_eq(&policy, &again));
        control.set_policy(PolicyTable::default());
        assert!(control.directory().policy.is_none());
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
                assert!(update.keys.is_none());
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_endpoint_is_reported_as_set_before_the_worker_comes_to_it() {
        let mut control = control();
        let mut wanted = config(&["10.1.0.0/16"]);
        for endpoint in ["192.0.2.1:51820", "192.0.2.2:51820"] {
            wanted.endpoint = Some(endpoint.parse().unwrap());
            control.set(key(1), wanted.clone()).unwrap();
            let reported = control.status()[0].config.endpoint;
            assert_eq!(reported, wanted.endpoint);
        }
    }

    /// The only command for the only worker, which is one about keys.
    fn rekeyed(control: &mut Control) -> Rekey {
        match &mut control.take_commands()[0][..] {
            [Command::Update(_, update)] => update.keys.take().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_changed_key_is_made_before_the_old_one_is_broken() {
        let mut control = control();
        control.set(key(1), config(&[])).unwrap();
        control.take_commands();
        let preshared = |byte| Some(PresharedKey::from_bytes([byte; 32]));
        let mut wanted = config(&[]);
        for (first, also) in [(5, None), (6, preshared(5)), (6, preshared(7)), (6, None)] {
            wanted.preshared_key = preshared(first);
            wanted.also_preshared_key = also;
            control.set(key(1), wanted.clone()).unwrap();
            assert!(matches!(rekeyed(&mut control), Rekey::MakeBeforeBreak(_)));
            assert_eq!(control.status()[0].config, wanted);
            control.set(key(1), wanted.clone()).unwrap();
            assert!(control.take_commands()[0].is_empty());
        }
        let own = PrivateKey::from_random([98; 32]);
        control.set_private_key(Some(own), Sessions::GoOn);
        assert!(matches!(rekeyed(&mut control), Rekey::MakeBeforeBreak(_)));
        control.set_private_key(None, Sessions::GoOn);
        assert!(matches!(rekeyed(&mut control), Rekey::AtOnce(None)));
    }

    #[test]
    fn by_the_userspace_api_sessions_end_with_their_keys() {
        let mut control = control();
        let mut wanted = config(&[]);
        wanted.also_preshared_key = Some(PresharedKey::from_bytes([4; 32]));
        control.set(key(1), wanted).unwrap();
        control.take_commands();
        let request = SetPeer {
            preshared_key: Some(Some(PresharedKey::from_bytes([5; 32]))),
            ..SetPeer::new(key(1))
        };
        control.set_by_request(request).unwrap();
        assert!(matches!(rekeyed(&mut control), Rekey::AtOnce(Some(_))));
        assert_eq!(control.status()[0].config.also_preshared_key, None);
        let own = PrivateKey::from_random([98; 32]);
        control.set_private_key(Some(own), Sessions::End);
        assert!(matches!(rekeyed(&mut control), Rekey::AtOnce(Some(_))));
    }

    #[test]
    fn nobody_is_their_own_peer() {
        let mut control = control();
        let own = control.public_key().unwrap();
        control.set(own, config(&["10.0.0.0/8"])).unwrap();
        assert!(control.status().is_empty());
        control.set(key(1), config(&["10.0.0.0/8"])).unwrap();
        control.set_private_key(Some(PrivateKey::from_random([1; 32])), Sessions::GoOn);
        assert!(control.status().is_empty());
        assert_eq!(owner(&mut control, "10.0.0.1"), None);
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
        let mut parser = RequestParser::new(&|_| None);
        for line in text.lines() {
            parser.line(line.as_bytes());
        }
        let Ok(Request::Set(request)) = parser.finish() else {
            panic!("not a set");
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

    /// A prefix of few, so that they nest and collide.
    fn prefix() -> impl Strategy<Value = IpNet> {
        prop::sample::select(vec![
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.1.0/24",
            "10.1.1.1/32",
            "fd00::/8",
            "fd00::1/128",
        ])
        .prop_map(|text| text.parse().unwrap())
    }

    fn request() -> impl Strategy<Value = SetPeer> {
        let change = (any::<bool>(), prefix()).prop_map(|(add, prefix)| {
            if add {
                SetAllowedIp::Add(prefix)
            } else {
                SetAllowedIp::Remove(prefix)
            }
        });
        (
            0u8..4,
            prop::bool::weighted(0.2),
            prop::bool::weighted(0.2),
            prop::bool::weighted(0.3),
            prop::collection::vec(change, 0..4),
        )
            .prop_map(
                |(seed, remove, update_only, replace, allowed_ips)| SetPeer {
                    remove,
                    update_only,
                    replace_allowed_ips: replace,
                    allowed_ips,
                    ..SetPeer::new(key(seed))
                },
            )
    }

    proptest! {
        #[test]
        fn requests_do_to_peers_and_prefixes_what_they_would_do_to_a_map(
            requests in prop::collection::vec(request(), 1..25),
        ) {
            let mut control = control();
            let mut peers = BTreeSet::new();
            let mut owners = BTreeMap::new();
            for request in requests {
                let key = request.public_key;
                if request.remove {
                    peers.remove(&key);
                } else if peers.contains(&key) || !request.update_only {
                    peers.insert(key);
                }
                if !peers.contains(&key) || request.replace_allowed_ips {
                    owners.retain(|_, owner| *owner != key);
                }
                for change in request.allowed_ips.iter().filter(|_| peers.contains(&key)) {
                    match *change {
                        SetAllowedIp::Add(prefix) => {
                            owners.insert(prefix, key);
                        }
                        SetAllowedIp::Remove(prefix) => {
                            if owners.get(&prefix) == Some(&key) {
                                owners.remove(&prefix);
                            }
                        }
                    }
                }
                control.set_by_request(request).unwrap();
                let status: BTreeMap<_, _> = control
                    .status()
                    .into_iter()
                    .map(|peer| (peer.key, peer.config.allowed_ips))
                    .collect();
                let expected: BTreeMap<_, BTreeSet<_>> = peers
                    .iter()
                    .map(|peer| {
                        let own = owners.iter().filter(|(_, owner)| *owner == peer);
                        (*peer, own.map(|(prefix, _)| *prefix).collect())
                    })
                    .collect();
                prop_assert_eq!(status, expected);
                let directory = control.directory();
                prop_assert_eq!(directory.peers.keys().copied().collect::<BTreeSet<_>>(), peers.clone());
                for (prefix, owner) in &owners {
                    // What lies in no longer prefix is the owner's.
                    let longer = owners.keys().any(|other| {
                        other.prefix_len() > prefix.prefix_len() && other.contains(&prefix.network())
                    });
                    if !longer {
                        prop_assert_eq!(
                            directory.allowed_ips.lookup(prefix.network()),
                            Some(Target::Peer(directory.peers[owner]))
                        );
                    }
                }
            }
        }
    }
}
