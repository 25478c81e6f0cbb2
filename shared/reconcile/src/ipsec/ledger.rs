//! What is known of each IPsec tunnel: from charon's security associations, and from
//! what went wrong, to how the tunnel is.
//!
//! charon counts per SA and begins anew at each rekey; here counts go on. A tunnel is
//! up when packets can be sent through it, and never because IKE is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use privnet_model::ipsec::{ChildSa, ConnectionName, IkeFailure, IkeSa, IkeState, UniqueId};
use privnet_model::status::{IpsecStatus, Reason, TunnelState};

/// Bytes and packets, in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    rx_bytes: u64,
    tx_bytes: u64,
    rx_packets: u64,
    tx_packets: u64,
}

impl Counts {
    fn of(child: &ChildSa) -> Self {
        Self {
            rx_bytes: child.received.bytes,
            tx_bytes: child.sent.bytes,
            rx_packets: child.received.packets,
            tx_packets: child.sent.packets,
        }
    }

    fn add_since(&mut self, before: Self, now: Self) {
        self.rx_bytes += now.rx_bytes.saturating_sub(before.rx_bytes);
        self.tx_bytes += now.tx_bytes.saturating_sub(before.tx_bytes);
        self.rx_packets += now.rx_packets.saturating_sub(before.rx_packets);
        self.tx_packets += now.tx_packets.saturating_sub(before.tx_packets);
    }
}

/// How a tunnel is.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Up, connecting or down.
    pub state: TunnelState,
    /// Why it is not up.
    pub reason: Option<Reason>,
    /// Where the peer is, as heard.
    pub endpoint: Option<SocketAddr>,
    /// Since when its newest keys are in use.
    pub last_handshake: Option<SystemTime>,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// What else there is to know.
    pub status: IpsecStatus,
}

impl Report {
    /// Of a tunnel of which nothing is known.
    pub fn unknown() -> Self {
        Self {
            state: TunnelState::Connecting,
            reason: Some(Reason::NoAnswer),
            endpoint: None,
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
            status: IpsecStatus::default(),
        }
    }
}

/// The memory that reports need.
#[derive(Debug, Default)]
pub struct Ledger {
    tunnels: BTreeMap<ConnectionName, Known>,
    /// What each child had counted at the last look.
    children: BTreeMap<UniqueId, Counts>,
    /// Whether there was a look since charon was connected to.
    looked: bool,
}

#[derive(Debug, Default)]
struct Known {
    counts: Counts,
    failure: Option<IkeFailure>,
    last_handshake: Option<SystemTime>,
}

impl Ledger {
    /// charon is another one, or was lost sight of: its SAs are counted from now on,
    /// and numbered anew.
    pub fn begin(&mut self) {
        self.children.clear();
        self.looked = false;
    }

    /// Forgets tunnels that are not wanted any more.
    pub fn retain(&mut self, wanted: impl Fn(&ConnectionName) -> bool) {
        self.tunnels.retain(|name, _| wanted(name));
    }

    /// Takes note of why a tunnel is not up; whether that is news.
    pub fn failed(&mut self, name: ConnectionName, failure: IkeFailure) -> bool {
        let known = &mut self.tunnels.entry(name).or_default().failure;
        let is_news = known.as_ref() != Some(&failure);
        *known = Some(failure);
        is_news
    }

    /// Takes in what charon has now.
    pub fn look(&mut self, associations: &[IkeSa], now: SystemTime) {
        let before = std::mem::take(&mut self.children);
        for sa in associations {
            let Some(name) = ConnectionName::ours(&sa.connection) else {
                continue;
            };
            let known = self.tunnels.entry(name).or_default();
            for child in &sa.children {
                let counts = Counts::of(child);
                // What there was before we looked first is not ours to count.
                let base = match (before.get(&child.id), self.looked) {
                    (Some(before), _) => *before,
                    (None, true) => Counts::default(),
                    (None, false) => counts,
                };
                known.counts.add_since(base, counts);
                self.children.insert(child.id, counts);
            }
            for child in sa.live_children() {
                known.failure = None;
                let at = child.installed.and_then(|age| now.checked_sub(age));
                known.last_handshake = known.last_handshake.max(at);
            }
        }
        self.looked = true;
    }

    /// How a tunnel is, by what charon had at the last look.
    pub fn report(&self, name: &ConnectionName, associations: &[IkeSa], now: SystemTime) -> Report {
        let nothing = Known::default();
        let known = self.tunnels.get(name).unwrap_or(&nothing);
        let own = || {
            let sas = associations.iter().filter(|sa| sa.state.is_alive());
            sas.filter(|sa| sa.connection == name.as_str())
        };
        // The newest, where one is about to take the place of another.
        let pair = own()
            .filter_map(|sa| Some((sa, newest(sa)?)))
            .max_by_key(|(_, child)| child.id);
        let ike = pair
            .map(|(sa, _)| sa)
            .or_else(|| own().max_by_key(|sa| sa.id));
        let child = pair.map(|(_, child)| child);
        let (state, reason) = match (child, &known.failure) {
            (Some(_), _) => (TunnelState::Up, None),
            (None, failure) => {
                let state = match known.last_handshake {
                    Some(_) => TunnelState::Down,
                    None => TunnelState::Connecting,
                };
                let established = own().any(|sa| sa.state == IkeState::Established);
                // How an earlier one ended says nothing of one that is there.
                let failure = failure.as_ref().filter(|failure| {
                    let of_before = matches!(
                        failure,
                        IkeFailure::NoAnswer | IkeFailure::PeerDead | IkeFailure::ClosedByPeer
                    );
                    !(established && of_before)
                });
                let reason = match failure {
                    Some(failure) => Reason::Ike {
                        failure: failure.clone(),
                    },
                    None if established => Reason::IkeOnly,
                    None if known.last_handshake.is_some() => Reason::Ike {
                        failure: IkeFailure::PeerDead,
                    },
                    None => Reason::NoAnswer,
                };
                (state, Some(reason))
            }
        };
        let Counts {
            rx_bytes,
            tx_bytes,
            rx_packets,
            tx_packets,
        } = known.counts;
        let agreed = |text: &String| (!text.is_empty()).then(|| text.clone());
        let selectors = |of: fn(&ChildSa) -> Vec<String>| child.map(of).unwrap_or_default();
        Report {
            state,
            reason,
            endpoint: ike.and_then(|sa| sa.remote),
            last_handshake: known.last_handshake,
            rx_bytes,
            tx_bytes,
            status: IpsecStatus {
                local_id: ike.and_then(|sa| sa.local_id.clone()),
                remote_id: ike.and_then(|sa| sa.remote_id.clone()),
                ike: ike.and_then(|sa| agreed(&sa.proposal)),
                esp: child.and_then(|child| agreed(&child.proposal)),
                behind_nat: ike.is_some_and(|sa| sa.nat.local),
                local_selectors: selectors(|it| it.local_selectors.iter().cloned().collect()),
                remote_selectors: selectors(|it| it.remote_selectors.iter().cloned().collect()),
                rekey: child.and_then(|child| timestamp(now, child.rekey_in?)),
                rx_packets,
                tx_packets,
            },
        }
    }
}

fn newest(sa: &IkeSa) -> Option<&ChildSa> {
    sa.live_children().max_by_key(|child| child.id)
}

fn timestamp(now: SystemTime, after: Duration) -> Option<Timestamp> {
    Timestamp::try_from(now.checked_add(after)?).ok()
}

#[cfg(test)]
mod tests;
