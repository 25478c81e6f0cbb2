//! Which tunnels carry traffic: what removal, pinning and arbitration must not
//! cut off.

use std::collections::BTreeSet;
use std::time::SystemTime;

use privnet_model::key::PublicKey;
use privnet_model::peer::PeerStatus;

use crate::observe::SESSION_LIFETIME;

/// The keys whose last handshake is young enough to carry traffic.
///
/// A daemon that has just started has heard of nobody yet. So for as long as a
/// session lives it takes the word of the one before: `remembered`, the keys that
/// were alive when it last saved its state.
pub fn keys(
    peers: &[PeerStatus],
    remembered: &BTreeSet<PublicKey>,
    started: SystemTime,
    now: SystemTime,
) -> BTreeSet<PublicKey> {
    // A clock that was set back makes an age negative: the event is then new.
    let young = |at: SystemTime| {
        now.duration_since(at)
            .map_or(true, |age| age <= SESSION_LIFETIME)
    };
    let mut alive: BTreeSet<PublicKey> = peers
        .iter()
        .filter(|peer| peer.last_handshake.is_some_and(young))
        .map(|peer| peer.key)
        .collect();
    if young(started) {
        alive.extend(remembered);
    }
    alive
}

#[cfg(test)]
mod tests {
    use super::*;
    use privnet_model::peer::PeerConfig;
    use std::time::Duration;

    const A: PublicKey = PublicKey::from_bytes([1; 32]);
    const B: PublicKey = PublicKey::from_bytes([2; 32]);

    #[test]
    fn a_restart_takes_the_word_of_the_daemon_before_for_one_session() {
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let peers = [PeerStatus {
            key: A,
            config: PeerConfig::default(),
            last_handshake: Some(started + Duration::from_secs(5)),
            rx_bytes: 0,
            tx_bytes: 0,
        }];
        let at = |seconds| {
            let now = started + Duration::from_secs(seconds);
            keys(&peers, &BTreeSet::from([B]), started, now)
        };
        assert_eq!(at(10), BTreeSet::from([A, B]));
        assert_eq!(at(181), BTreeSet::from([A]));
        assert_eq!(at(186), BTreeSet::new());
    }
}
