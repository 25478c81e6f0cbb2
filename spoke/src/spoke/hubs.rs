//! The hub as this spoke knows it: what is wanted of its tunnel, which of its keys is
//! in use, and what the operator sees of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use privnet_model::config::spoke::{HubPeerConfig, SpokeConfig};
use privnet_model::enrol::HUB_ADDRESS;
use privnet_model::inventory::Transport;
use privnet_model::key::PublicKey;
use privnet_model::peer::{PeerConfig, PeerStatus};
use privnet_model::status::{Note, Origin};
use privnet_reconcile::fleet::PlannedTunnel;
use privnet_runtime::fleet_secret::TunnelKeys;
use privnet_runtime::router::Desired;
use tracing::info;

use super::Spoke;
use crate::enrol::{Enrolment, Tunnel};

/// After this time WireGuard itself no longer uses a session (`REJECT_AFTER_TIME`).
const STALE: Duration = Duration::from_secs(180);
/// As long as it takes by IPsec until a hub that is away is known to be: it is asked after
/// 10 s of silence, several times, before it is given up.
const DEAD_PEER: Duration = Duration::from_secs(20);

/// The name of the hub among the peers, which may have one of each of its keys.
const HUB: &str = "hub";

impl Spoke {
    pub(super) fn desired(&self) -> Desired {
        if self.config.transport == Transport::Ipsec {
            return self.desired_ipsec();
        }
        // The hub's own address inside the tunnel is not in the privnet.
        let mut destinations = self.config.privnet.nets().to_vec();
        destinations.push(IpAddr::from(HUB_ADDRESS).into());
        let mut peers = BTreeMap::new();
        for hub in &self.config.hubs {
            let in_use = key_in_use(hub, self.hub_moved_on);
            for key in [Some(hub.public_key), hub.next_public_key]
                .into_iter()
                .flatten()
            {
                let Some(mut peer) = self.peer(hub, key) else {
                    continue;
                };
                if key == in_use {
                    peer.allowed_ips = destinations.iter().copied().collect();
                }
                peers.insert(key, peer);
            }
        }
        if peers.is_empty() {
            destinations.clear();
        }
        Desired {
            peers,
            destinations,
            ..Desired::default()
        }
    }

    /// The hub by one of its keys. What comes by either is accepted.
    fn peer(&self, hub: &HubPeerConfig, key: PublicKey) -> Option<PeerConfig> {
        let (preshared_key, also_preshared_key) = match self.preshared.keys(&self.public_key?, &key)
        {
            TunnelKeys::None => (None, None),
            // Without them the hub would not answer.
            TunnelKeys::Unknown => return None,
            TunnelKeys::Known(keys) => (Some(keys.current), keys.previous),
        };
        Some(PeerConfig {
            preshared_key,
            also_preshared_key,
            endpoint: Some(hub.endpoint),
            keepalive: hub.keepalive,
            site: Some(HUB.to_owned()),
            gateway: Some(HUB.to_owned()),
            ..PeerConfig::default()
        })
    }

    /// A tunnel that has come up is used at once: the hub may wait for a proof. And
    /// when the hub answers with its next key, packets follow it there.
    pub(super) async fn greet(&mut self) {
        let now = SystemTime::now();
        let fresh = |peer: &PeerStatus| {
            let age = |at: SystemTime| now.duration_since(at).unwrap_or_default();
            peer.last_handshake.is_some_and(|at| age(at) < STALE)
        };
        let peers = self.router.peers();
        let up = peers.iter().any(fresh) || !self.router.connected().is_empty();
        if up && !self.was_up {
            self.enrolment.iter().for_each(Enrolment::again);
        }
        self.was_up = up;
        self.tunnel_proved |= up;
        self.hear(&peers, up);

        let mut next = self
            .config
            .hubs
            .iter()
            .filter_map(|hub| hub.next_public_key);
        let next = next.next();
        let moved_on = peers
            .iter()
            .any(|peer| Some(peer.key) == next && fresh(peer));
        if moved_on && !self.hub_moved_on {
            info!(
                public_key = next.map(tracing::field::display),
                "the hub uses its next key"
            );
            self.hub_moved_on = true;
            self.follow_hub();
            self.router.want(self.desired());
            self.router.reconcile().await;
            self.enrol();
        }
    }

    /// Takes in whether the tunnel is up, and what has come out of it.
    fn hear(&mut self, peers: &[PeerStatus], up: bool) {
        let now = Instant::now();
        let by_ipsec = self.config.transport == Transport::Ipsec;
        // Without keepalives a session that is not used grows old, and nothing is wrong.
        let shows = by_ipsec || self.config.hubs.iter().any(|hub| hub.keepalive.is_some());
        if !(up || self.tunnel_proved && !shows) {
            return self.hearing.down();
        }
        let wireguard = peers.iter().map(|peer| {
            let received = (peer.rx_bytes, peer.last_handshake);
            (peer.key.to_string(), received)
        });
        let ipsec = self.router.received_by_ipsec().into_iter();
        let ipsec = ipsec.map(|(name, received)| (name.to_string(), received));
        let charon = self.router.charon_status();
        let asks = by_ipsec && charon.is_some_and(|charon| charon.problem.is_none());
        let asked = asks.then(|| now.checked_sub(DEAD_PEER)).flatten();
        self.hearing
            .up(wireguard.chain(ipsec).collect(), asked, now);
    }

    /// Shows the hub by the key that it uses.
    pub(super) fn follow_hub(&mut self) {
        self.hubs = match self.config.transport {
            Transport::Ipsec => self.ipsec_hubs(),
            Transport::Wireguard | Transport::None => hubs(&self.config, self.hub_moved_on),
        };
    }

    /// Starts to prove to the hub who we are, as far as it wants that and the
    /// config allows it; anew after either key has changed.
    pub(super) fn enrol(&mut self) {
        self.enrolment = match (self.config.hubs.as_slice(), self.public_key) {
            ([hub], Some(own_key)) if self.config.prove => Some(Enrolment::start(Tunnel {
                interface: self.config.interface.clone(),
                region: self.router.identity().region.clone(),
                own_key,
                hub_key: key_in_use(hub, self.hub_moved_on),
            })),
            _ => None,
        };
    }
}

/// What has come out of the tunnel by each peer: bytes, and the last handshake.
type Received = BTreeMap<String, (u64, Option<SystemTime>)>;

/// When something last came out of the tunnel, while it is up.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    last: Option<Instant>,
    received: Received,
}

impl Hearing {
    /// It is up, and since `asked` the hub has answered whatever else there was to answer.
    fn up(&mut self, received: Received, asked: Option<Instant>, now: Instant) {
        let grown = received.iter().any(|(peer, received)| {
            let before = self.received.get(peer);
            before.is_some_and(|before| before != received)
        });
        self.last = match grown || self.last.is_none() {
            true => Some(now),
            false => self.last.max(asked),
        };
        self.received = received;
    }

    fn down(&mut self) {
        self.last = None;
    }

    pub(super) fn last(&self) -> Option<Instant> {
        self.last
    }
}

pub(super) fn key_in_use(hub: &HubPeerConfig, moved_on: bool) -> PublicKey {
    let next = hub.next_public_key.filter(|_| moved_on);
    next.unwrap_or(hub.public_key)
}

/// The hubs as tunnels: what the operator sees on a spoke.
fn hubs(config: &SpokeConfig, moved_on: bool) -> Vec<PlannedTunnel> {
    let hubs = &config.hubs;
    hubs.iter()
        .enumerate()
        .map(|(place, hub)| hub_tunnel(config, hub, hub_name(place, hubs.len()), moved_on))
        .collect()
}

fn hub_tunnel(
    config: &SpokeConfig,
    hub: &HubPeerConfig,
    name: String,
    moved_on: bool,
) -> PlannedTunnel {
    let next = hub.next_public_key.filter(|_| !moved_on);
    PlannedTunnel {
        cidrs: config.privnet.nets().to_vec(),
        transport: config.transport,
        endpoint: Some(hub.endpoint),
        public_key: Some(key_in_use(hub, moved_on)),
        keepalive: hub.keepalive,
        notes: next
            .map(|key| Note::KeyRotating { key })
            .into_iter()
            .collect(),
        ..PlannedTunnel::named(name, Origin::Hub)
    }
}

/// What a hub is called: by its place in the config, where there are several.
pub(super) fn hub_name(place: usize, of: usize) -> String {
    match of {
        1 => "hub".to_owned(),
        _ => format!("hub-{}", place + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(peer: &str, bytes: u64, handshake: u64) -> Received {
        let handshake = SystemTime::UNIX_EPOCH + Duration::from_secs(handshake);
        BTreeMap::from([(peer.to_owned(), (bytes, Some(handshake)))])
    }

    #[test]
    fn what_comes_out_of_the_tunnel_is_heard_and_that_it_is_up_is_not_enough() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut hearing = Hearing::default();
        assert_eq!(hearing.last(), None);
        for (second, received, asked, heard) in [
            (0, received("hub", 100, 1), None, 0),
            (2, received("hub", 100, 1), None, 0),
            (4, received("hub", 132, 1), None, 4),
            (6, received("hub", 132, 1), None, 4),
            (8, received("hub", 132, 7), None, 8),
            // The hub's next key.
            (10, received("next", 0, 0), None, 8),
            (12, received("next", 32, 11), None, 12),
            (20, received("next", 32, 11), Some(at(10)), 12),
            (30, received("next", 32, 11), Some(at(20)), 20),
        ] {
            hearing.up(received, asked, at(second));
            assert_eq!(hearing.last(), Some(at(heard)), "{second}");
        }
        hearing.down();
        assert_eq!(hearing.last(), None);
        hearing.up(received("next", 32, 11), None, at(40));
        assert_eq!(hearing.last(), Some(at(40)), "it is back");
    }
}
