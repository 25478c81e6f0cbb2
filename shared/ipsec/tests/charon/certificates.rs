//! Certificates instead of preshared keys. The authority is made as the
//! documentation tells operators to: with openssl.

use privnet_model::ipsec::{Authentication, IpsecTunnel};
use zeroize::Zeroizing;

use crate::world::{FIREWALL, World, sh, tunnel};

/// Two authorities; the hub's and the firewall's certificates by the first, another
/// one of the hub's by the second.
fn make() {
    sh("mkdir -p /run/pki /run/peer/x509 && cd /run/pki
        for ca in ca other; do
            openssl ecparam -name secp384r1 -genkey -noout -out $ca.key
            openssl req -x509 -new -key $ca.key -subj /O=$ca/CN=CA -days 10 -out $ca.pem
        done
        certify() {
            echo subjectAltName=DNS:$1.test >san
            openssl ecparam -name secp384r1 -genkey -noout -out $3.key
            openssl req -new -key $3.key -subj /O=Test/CN=$1.test |
                openssl x509 -req -CA $2.pem -CAkey $2.key -CAcreateserial -days 5 -extfile san -out $3.pem
        }
        certify hub ca hub
        certify fw ca fw
        certify hub other hub-other");
}

fn firewall() -> String {
    let config = FIREWALL
        .replace(
            "auth = psk\n      id = fw.test",
            "auth = pubkey\n      certs = /run/pki/fw.pem\n      id = fw.test",
        )
        .replace(
            "auth = psk\n      id = hub.test",
            "auth = pubkey\n      cacerts = /run/pki/ca.pem\n      id = hub.test",
        );
    assert!(!config.contains("psk"));
    config
}

fn read(name: &str) -> String {
    std::fs::read_to_string(format!("/run/pki/{name}")).unwrap()
}

fn certified(own: &str, authority: &str) -> IpsecTunnel {
    IpsecTunnel {
        authentication: Authentication::Certificate {
            own: read(own),
            authority: read(authority),
        },
        ..tunnel()
    }
}

/// A world in which both have their private keys.
async fn world() -> World {
    make();
    let world = World::with_peer(&firewall()).await;
    // swanctl finds keys only in its own directory; VICI takes them from anywhere.
    let socket = world.peer.socket();
    let peer = privnet_ipsec::Charon::connect(&socket);
    let key = |name| Zeroizing::new(read(name));
    peer.await
        .unwrap()
        .load_private_key(&key("fw.key"))
        .await
        .unwrap();
    for name in ["hub.key", "hub-other.key"] {
        let loaded = world.charon.load_private_key(&key(name)).await;
        let keys = world.charon.private_keys().await;
        assert!(keys.unwrap().contains(&loaded.unwrap()));
    }
    world
}

pub(crate) async fn certificates_instead_of_keys() {
    let mut world = world().await;
    world.want(&certified("hub.pem", "ca.pem"));
    assert_eq!(
        world.reconcile().await,
        ["load connection privnet-dc", "initiate privnet-dc"]
    );
    world.child_up().await;
    sh("ping -c 1 -W 5 -I 10.1.0.1 10.2.0.1");
    assert!(world.charon.secrets().await.unwrap().is_empty());
}

pub(crate) async fn certificates_that_are_not_trusted() {
    let mut world = world().await;
    // The peer's is signed by somebody whom we do not know.
    world.want(&certified("hub.pem", "other.pem"));
    world.reconcile().await;
    let (of, reason) = world.reason("is not the configured authority").await;
    assert_eq!(of, "privnet-dc");
    let words = "O=Test, CN=fw.test is signed by O=ca, CN=CA";
    assert!(reason.contains(words), "{reason}");
    // Ours is signed by somebody whom the peer does not know: it does not say so.
    world.want(&certified("hub-other.pem", "ca.pem"));
    world.reconcile().await;
    world.reason("the peer refused our authentication").await;
    // The peer's again: charon knows its authority by now, and keeps to the one that
    // the connection names all the same.
    world.want(&certified("hub.pem", "other.pem"));
    world.reconcile().await;
    let (of, reason) = world.reason("not as configured here").await;
    assert_eq!(of, "privnet-dc");
    let words = "peer not authenticated by CA 'O=other, CN=CA'";
    assert!(reason.contains(words), "{reason}");
    // The private key is gone.
    for id in world.charon.private_keys().await.unwrap() {
        world.charon.unload_private_key(&id).await.unwrap();
    }
    let mut changed = certified("hub.pem", "ca.pem");
    changed.times.dead_peer_delay *= 2;
    world.want(&changed);
    world.reconcile().await;
    let (_, reason) = world
        .reason("private key of our certificate is missing")
        .await;
    assert!(reason.contains("hub.test"), "{reason}");
}
