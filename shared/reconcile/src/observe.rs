//! The decision and what the data plane reports, put together: the state of
//! each tunnel as the operator sees it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use jiff::Timestamp;
use privnet_model::peer::PeerStatus;
use privnet_model::status::{
    GatewayHealth, GatewayRole, GatewayStatus, Reason, Tunnel, TunnelState,
};

use crate::fleet::{Obstacle, PlannedTunnel};
use crate::health::Health;
use crate::ipsec::ledger::Report;

/// WireGuard sessions carry nothing older than this (`Reject-After-Time`,
/// whitepaper section 6.1), so an older handshake is no living tunnel.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(180);

/// What carries a tunnel's packets, as it is now.
#[derive(Debug, Clone, Copy)]
pub enum Link<'a> {
    /// The data plane's peer, once there is one.
    Wireguard(Option<&'a PeerStatus>),
    /// charon's associations.
    Ipsec(&'a Report),
}

impl Link<'_> {
    fn state(self, now: SystemTime) -> (TunnelState, Option<Reason>) {
        match self {
            Self::Wireguard(peer) => session(peer, now),
            Self::Ipsec(report) => (report.state, report.reason.clone()),
        }
    }

    fn endpoint(self) -> Option<SocketAddr> {
        match self {
            Self::Wireguard(peer) => peer?.config.endpoint,
            Self::Ipsec(report) => report.endpoint,
        }
    }

    fn last_handshake(self) -> Option<SystemTime> {
        match self {
            Self::Wireguard(peer) => peer?.last_handshake,
            Self::Ipsec(report) => report.last_handshake,
        }
    }

    /// Bytes received and sent.
    fn bytes(self) -> (u64, u64) {
        match self {
            Self::Wireguard(peer) => peer.map_or((0, 0), |peer| (peer.rx_bytes, peer.tx_bytes)),
            Self::Ipsec(report) => (report.rx_bytes, report.tx_bytes),
        }
    }
}

/// The tunnel as it is now.
pub fn tunnel(planned: &PlannedTunnel, link: Link<'_>, rates: Rates, now: SystemTime) -> Tunnel {
    let (rx_bytes, tx_bytes) = link.bytes();
    let (state, reason) = match &planned.obstacle {
        Some(Obstacle::Pending(reason) | Obstacle::Unproven(reason)) => {
            (TunnelState::Pending, Some(reason.clone()))
        }
        Some(Obstacle::Rejected(reason)) => (TunnelState::Rejected, Some(reason.clone())),
        None => match (link.state(now), planned.health) {
            ((TunnelState::Up, _), Some(health)) if health.has_failed() => {
                (TunnelState::Down, Some(Reason::Unresponsive))
            }
            (session, _) => session,
        },
    };
    Tunnel {
        name: planned.name.clone(),
        origin: planned.origin,
        account: planned.partition.as_ref().map(|p| p.account.clone()),
        region: planned.partition.as_ref().map(|p| p.region.clone()),
        zone: planned.zone.clone(),
        vpc: planned.vpc.clone(),
        instance: planned.instance.clone(),
        launched: planned.launched,
        cidrs: planned.cidrs.clone(),
        excluded: planned.excluded.clone(),
        transport: planned.transport,
        endpoint: link.endpoint().or(planned.endpoint),
        private_address: planned.private_address,
        public_key: planned.public_key,
        state,
        reason,
        gateway: planned.health.map(|health| gateway(planned, health)),
        notes: planned.notes.clone(),
        last_handshake: link.last_handshake().and_then(timestamp),
        rx_bytes,
        tx_bytes,
        rx_rate: rates.rx,
        tx_rate: rates.tx,
        ipsec: match link {
            Link::Wireguard(_) => None,
            Link::Ipsec(report) => Some(report.status.clone()),
        },
    }
}

/// How it shares its site. How often it failed is for whoever remembers to fill in.
fn gateway(planned: &PlannedTunnel, health: Health) -> GatewayStatus {
    let own = planned.address.map(IpNet::from);
    let carries = planned.cidrs.iter().any(|cidr| Some(*cidr) != own);
    GatewayStatus {
        role: match carries {
            true => GatewayRole::Active,
            false => GatewayRole::Standby,
        },
        health: match health {
            Health::Untried => GatewayHealth::Unknown,
            Health::Up => GatewayHealth::Healthy,
            Health::Down => GatewayHealth::Down,
            Health::Recovering => GatewayHealth::Recovering,
        },
        failovers: 0,
    }
}

fn timestamp(time: SystemTime) -> Option<Timestamp> {
    Timestamp::try_from(time).ok()
}

fn session(peer: Option<&PeerStatus>, now: SystemTime) -> (TunnelState, Option<Reason>) {
    let Some(last) = peer.and_then(|peer| peer.last_handshake) else {
        return (TunnelState::Connecting, Some(Reason::NoAnswer));
    };
    // A clock that was set back makes the age negative: the handshake is then new.
    let age = now.duration_since(last).unwrap_or_default();
    if age <= SESSION_LIFETIME {
        (TunnelState::Up, None)
    } else {
        (TunnelState::Down, Some(Reason::Silent))
    }
}

/// Bytes per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Received.
    pub rx: f64,
    /// Sent.
    pub tx: f64,
}

/// Turns counters into rates, from one sample to the next.
#[derive(Debug)]
pub struct RateMeter<K> {
    last: BTreeMap<K, Sample>,
    taken: Option<SystemTime>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    rx_bytes: u64,
    tx_bytes: u64,
    rates: Rates,
}

impl<K> Default for RateMeter<K> {
    fn default() -> Self {
        Self {
            last: BTreeMap::new(),
            taken: None,
        }
    }
}

impl<K: Ord> RateMeter<K> {
    /// Takes a sample: of each tunnel the bytes received and sent. Tunnels that are
    /// gone are forgotten; one whose counters fell (it was made anew) starts again at
    /// zero.
    pub fn sample(&mut self, tunnels: impl IntoIterator<Item = (K, u64, u64)>, now: SystemTime) {
        let elapsed = self
            .taken
            .and_then(|taken| now.duration_since(taken).ok())
            .map(|elapsed| elapsed.as_secs_f64())
            .filter(|elapsed| *elapsed > 0.0);
        let last = std::mem::take(&mut self.last);
        self.taken = Some(now);
        self.last = tunnels
            .into_iter()
            .map(|(key, rx_bytes, tx_bytes)| {
                let rates = match (last.get(&key), elapsed) {
                    (Some(before), Some(elapsed)) => Rates {
                        rx: rate(before.rx_bytes, rx_bytes, elapsed),
                        tx: rate(before.tx_bytes, tx_bytes, elapsed),
                    },
                    (Some(before), None) => before.rates,
                    (None, _) => Rates::default(),
                };
                let sample = Sample {
                    rx_bytes,
                    tx_bytes,
                    rates,
                };
                (key, sample)
            })
            .collect();
    }

    /// A tunnel's rates between the last two samples.
    pub fn rates(&self, key: Option<&K>) -> Rates {
        key.and_then(|key| self.last.get(key))
            .map(|sample| sample.rates)
            .unwrap_or_default()
    }
}

fn rate(before: u64, after: u64, elapsed: f64) -> f64 {
    after.saturating_sub(before) as f64 / elapsed
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;
    use crate::fleet::fixtures::{decide, inventory, spoke};
    use privnet_model::peer::PeerConfig;

    fn peer(handshake: Option<SystemTime>, rx_bytes: u64) -> PeerStatus {
        PeerStatus {
            key: spoke(1, "10.1.0.0/16").public_key.unwrap(),
            config: PeerConfig::default(),
            last_handshake: handshake,
            rx_bytes,
            tx_bytes: 0,
        }
    }

    fn seen(handshake: Option<SystemTime>, now: SystemTime) -> (TunnelState, Option<Reason>) {
        let fleet = decide(&inventory([spoke(1, "10.1.0.0/16")]), &[]);
        let planned = fleet.tunnels.values().next().unwrap();
        let tunnel = tunnel(
            planned,
            Link::Wireguard(Some(&peer(handshake, 0))),
            Rates::default(),
            now,
        );
        (tunnel.state, tunnel.reason)
    }

    #[test]
    fn a_tunnel_is_up_for_three_minutes_after_a_handshake() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let age = |seconds| seen(Some(start), start + Duration::from_secs(seconds));
        assert_eq!(age(0), (TunnelState::Up, None));
        assert_eq!(age(180), (TunnelState::Up, None));
        assert_eq!(age(181), (TunnelState::Down, Some(Reason::Silent)));
        assert_eq!(
            seen(None, start),
            (TunnelState::Connecting, Some(Reason::NoAnswer))
        );
    }

    #[test]
    fn a_gateway_is_active_while_it_carries_more_than_its_own_address() {
        let fleet = decide(&inventory([spoke(1, "10.1.0.0/16")]), &[]);
        let planned = fleet.tunnels.values().next().unwrap();
        let shown = |health: Option<Health>, cidrs: &[&str]| {
            let planned = PlannedTunnel {
                health,
                address: Some("10.1.0.5".parse().unwrap()),
                cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
                ..planned.clone()
            };
            let (link, rates) = (Link::Wireguard(None), Rates::default());
            let tunnel = tunnel(&planned, link, rates, SystemTime::UNIX_EPOCH);
            tunnel.gateway.map(|gateway| (gateway.role, gateway.health))
        };
        let both = ["10.1.0.0/16", "10.1.0.5/32"];
        assert_eq!(shown(None, &both), None);
        assert_eq!(
            shown(Some(Health::Up), &both),
            Some((GatewayRole::Active, GatewayHealth::Healthy))
        );
        assert_eq!(
            shown(Some(Health::Down), &both[1..]),
            Some((GatewayRole::Standby, GatewayHealth::Down))
        );
        assert_eq!(
            shown(Some(Health::Untried), &both[1..]),
            Some((GatewayRole::Standby, GatewayHealth::Unknown))
        );
        assert_eq!(
            shown(Some(Health::Recovering), &both),
            Some((GatewayRole::Active, GatewayHealth::Recovering))
        );
    }

    #[test]
    fn a_gateway_that_failed_is_down_until_it_has_answered_for_long_enough() {
        let fleet = decide(&inventory([spoke(1, "10.1.0.0/16")]), &[]);
        let planned = fleet.tunnels.values().next().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let seen = |health: Health, handshake| {
            let planned = PlannedTunnel {
                health: Some(health),
                ..planned.clone()
            };
            let peer = peer(handshake, 0);
            let link = Link::Wireguard(Some(&peer));
            let tunnel = tunnel(&planned, link, Rates::default(), now);
            (tunnel.state, tunnel.reason)
        };
        let down = (TunnelState::Down, Some(Reason::Unresponsive));
        assert_eq!(seen(Health::Untried, Some(now)), (TunnelState::Up, None));
        assert_eq!(seen(Health::Down, Some(now)), down);
        assert_eq!(seen(Health::Recovering, Some(now)), down);
        assert_eq!(seen(Health::Up, Some(now)), (TunnelState::Up, None));
        // One without a session is down for that.
        let connecting = (TunnelState::Connecting, Some(Reason::NoAnswer));
        assert_eq!(seen(Health::Recovering, None), connecting);
    }

    #[test]
    fn rates_are_bytes_per_second_between_samples() {
        let start = SystemTime::UNIX_EPOCH;
        let key = peer(None, 0).key;
        let mut meter = RateMeter::default();
        meter.sample([(key, 1000, 0)], start);
        assert_eq!(meter.rates(Some(&key)), Rates::default());
        meter.sample([(key, 5000, 0)], start + Duration::from_secs(2));
        assert_eq!(meter.rates(Some(&key)).rx, 2000.0);
        // A peer made anew counts from zero again.
        meter.sample([(key, 10, 0)], start + Duration::from_secs(4));
        assert_eq!(meter.rates(Some(&key)).rx, 0.0);
        meter.sample([], start + Duration::from_secs(6));
        assert_eq!(meter.rates(Some(&key)), Rates::default());
    }
}
