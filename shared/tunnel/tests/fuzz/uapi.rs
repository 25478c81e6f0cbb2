//! Requests as text. What is understood is carried out on a model of a device and
//! told again; and what was told is understood as the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;
use privnet_model::key::{PrivateKey, PublicKey};
use privnet_model::peer::{PeerConfig, PeerStatus};
use privnet_tunnel::uapi::{
    DeviceView, Request, RequestParser, SetAllowedIp, SetDevice, SetPeer, answer,
};

pub(crate) fn run(data: &[u8]) {
    let mut model = Model::default();
    for request in data.split(|byte| *byte == 0) {
        let Ok(request) = parse(request) else {
            continue;
        };
        if let Request::Set(change) = request {
            model.apply(change);
        }
        let told = model.told(true);
        assert!(told.ends_with("errno=0\n\n"));
        assert_eq!(Model::from_told(&told), model, "{told}");
        let public = model.told(false);
        assert!(!public.contains("private_key") && !public.contains("preshared_key"));
    }
}

fn parse(text: &[u8]) -> Result<Request, privnet_tunnel::uapi::Errno> {
    let interfaces = |name: &str| (!name.is_empty()).then_some(name.len() as u32);
    let mut parser = RequestParser::new(&interfaces);
    for line in text.split(|byte| *byte == b'\n') {
        // The socket takes an empty line for the end.
        if line.is_empty() {
            break;
        }
        parser.line(line);
    }
    parser.finish()
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Model {
    private_key: Option<PrivateKey>,
    listen_port: u16,
    fwmark: Option<u32>,
    peers: BTreeMap<PublicKey, PeerConfig>,
}

impl Model {
    fn apply(&mut self, change: SetDevice) {
        if let Some(key) = change.private_key {
            self.private_key = key;
        }
        if let Some(port) = change.listen_port {
            self.listen_port = port;
        }
        if let Some(mark) = change.fwmark {
            assert_ne!(mark, Some(0), "zero is none");
            self.fwmark = mark;
        }
        if change.replace_peers {
            self.peers.clear();
        }
        for peer in change.peers {
            self.apply_peer(peer);
        }
    }

    fn apply_peer(&mut self, change: SetPeer) {
        if change.remove {
            self.peers.remove(&change.public_key);
            return;
        }
        if change.update_only && !self.peers.contains_key(&change.public_key) {
            return;
        }
        for change in &change.allowed_ips {
            let (SetAllowedIp::Add(prefix) | SetAllowedIp::Remove(prefix)) = change;
            assert_eq!(*prefix, prefix.trunc(), "no bits beyond the prefix");
        }
        let added = |change: &SetAllowedIp| match change {
            SetAllowedIp::Add(prefix) => Some(*prefix),
            SetAllowedIp::Remove(_) => None,
        };
        let moved: BTreeSet<IpNet> = change.allowed_ips.iter().filter_map(added).collect();
        for config in self.peers.values_mut() {
            config.allowed_ips.retain(|prefix| !moved.contains(prefix));
        }
        let config = self.peers.entry(change.public_key).or_default();
        if change.replace_allowed_ips {
            config.allowed_ips.clear();
        }
        for change in change.allowed_ips {
            match change {
                SetAllowedIp::Add(prefix) => config.allowed_ips.insert(prefix),
                SetAllowedIp::Remove(prefix) => config.allowed_ips.remove(&prefix),
            };
        }
        if let Some(key) = change.preshared_key {
            config.preshared_key = key;
        }
        if let Some(endpoint) = change.endpoint {
            config.endpoint = Some(endpoint);
        }
        if let Some(keepalive) = change.keepalive {
            assert_ne!(keepalive, Some(Duration::ZERO), "zero is none");
            config.keepalive = keepalive;
        }
    }

    fn told(&self, tell_secrets: bool) -> String {
        let peers: Vec<PeerStatus> = self
            .peers
            .iter()
            .map(|(key, config)| PeerStatus {
                key: *key,
                config: config.clone(),
                last_handshake: None,
                rx_bytes: 1,
                tx_bytes: 2,
            })
            .collect();
        let view = DeviceView {
            private_key: self.private_key.as_ref().filter(|_| tell_secrets),
            tell_secrets,
            listen_port: self.listen_port,
            fwmark: self.fwmark,
            peers: &peers,
        };
        answer(&view).to_string()
    }

    /// What is told of a device, as a request that makes another one like it.
    fn from_told(told: &str) -> Self {
        const FIGURES: [&str; 4] = ["last_handshake_time", "rx_bytes", "tx_bytes", "errno"];
        let mut request = String::from("set=1\n");
        for line in told.lines() {
            if !FIGURES.iter().any(|figure| line.starts_with(figure)) {
                request.push_str(line);
                request.push('\n');
            }
        }
        let mut model = Self::default();
        match parse(request.trim_end().as_bytes()) {
            Ok(Request::Set(change)) => model.apply(change),
            other => panic!("not understood: {other:?}\n{request}"),
        }
        model
    }
}
