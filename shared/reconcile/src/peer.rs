//! The peers of the data plane: what to set and what to remove.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use privnet_model::key::PublicKey;
use privnet_model::peer::{PeerChange, PeerConfig, PeerStatus};

/// The changes that make the data plane's peers those of `desired`.
///
/// A peer roams: where it was last heard from may rightly differ from what
/// EC2 or the config says. So an endpoint is set only when it is not the one
/// that was `applied` last. (Setting the same one again is no reset: the data
/// plane leaves a peer that roamed where it is.)
///
/// Removals come first, so that a prefix is free before its next owner gets it.
pub fn plan(
    desired: &BTreeMap<PublicKey, PeerConfig>,
    applied: &BTreeMap<PublicKey, SocketAddr>,
    actual: &[PeerStatus],
) -> Vec<PeerChange> {
    let actual: BTreeMap<PublicKey, &PeerConfig> = actual
        .iter()
        .map(|status| (status.key, &status.config))
        .collect();
    let removals = actual
        .keys()
        .filter(|key| !desired.contains_key(key))
        .map(|key| PeerChange::Remove { key: *key });
    let settings = desired.iter().filter_map(|(key, wanted)| {
        let moved = wanted.endpoint.is_some() && wanted.endpoint.as_ref() != applied.get(key);
        let same = actual.get(key).is_some_and(|is| {
            is.preshared_key == wanted.preshared_key
                && is.also_preshared_key == wanted.also_preshared_key
                && is.keepalive == wanted.keepalive
                && is.allowed_ips == wanted.allowed_ips
                && is.site == wanted.site
                && is.gateway == wanted.gateway
        });
        if same && !moved {
            return None;
        }
        Some(PeerChange::Set {
            key: *key,
            config: wanted.clone(),
        })
    });
    removals.chain(settings).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;
    use std::collections::BTreeSet;

    const KEY: PublicKey = PublicKey::from_bytes([1; 32]);
    const OTHER: PublicKey = PublicKey::from_bytes([2; 32]);

    fn config(endpoint: &str, cidr: &str) -> PeerConfig {
        PeerConfig {
            preshared_key: None,
            endpoint: Some(endpoint.parse().unwrap()),
            keepalive: None,
            allowed_ips: BTreeSet::from([cidr.parse().unwrap()]),
            ..PeerConfig::default()
        }
    }

    fn status(key: PublicKey, config: PeerConfig) -> PeerStatus {
        PeerStatus {
            key,
            config,
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
        }
    }

    fn applied(config: &PeerConfig) -> BTreeMap<PublicKey, SocketAddr> {
        BTreeMap::from([(KEY, config.endpoint.unwrap())])
    }

    #[test]
    fn nothing_changes_when_all_is_as_it_should_be() {
        let wanted = config("192.0.2.1:1", "10.1.0.0/16");
        let actual = [status(KEY, wanted.clone())];
        let plan = plan(
            &BTreeMap::from([(KEY, wanted.clone())]),
            &applied(&wanted),
            &actual,
        );
        assert_eq!(plan, []);
    }

    #[test]
    fn a_peer_that_roamed_is_left_where_it_is() {
        let wanted = config("192.0.2.1:1", "10.1.0.0/16");
        let roamed = config("192.0.2.77:7", "10.1.0.0/16");
        let desired = BTreeMap::from([(KEY, wanted.clone())]);
        assert_eq!(
            plan(&desired, &applied(&wanted), &[status(KEY, roamed)]),
            []
        );
    }

    #[test]
    fn a_new_address_from_ec2_moves_the_endpoint() {
        let old = config("192.0.2.1:1", "10.1.0.0/16");
        let new = config("192.0.2.2:1", "10.1.0.0/16");
        let desired = BTreeMap::from([(KEY, new.clone())]);
        let plan = plan(&desired, &applied(&old), &[status(KEY, old.clone())]);
        assert_eq!(
            plan,
            [PeerChange::Set {
                key: KEY,
                config: new
            }]
        );
    }

    #[test]
    fn a_replaced_key_is_removed_before_its_successor_is_set() {
        let wanted = config("192.0.2.1:1", "10.1.0.0/16");
        let desired = BTreeMap::from([(OTHER, wanted.clone())]);
        let plan = plan(&desired, &applied(&wanted), &[status(KEY, wanted.clone())]);
        assert_eq!(
            plan,
            [
                PeerChange::Remove { key: KEY },
                PeerChange::Set {
                    key: OTHER,
                    config: wanted
                }
            ]
        );
    }

    #[test]
    fn a_peer_lost_by_the_data_plane_is_set_again_with_its_endpoint() {
        let wanted = config("192.0.2.1:1", "10.1.0.0/16");
        let desired = BTreeMap::from([(KEY, wanted.clone())]);
        assert_eq!(
            plan(&desired, &applied(&wanted), &[]),
            [PeerChange::Set {
                key: KEY,
                config: wanted
            }]
        );
    }
}
