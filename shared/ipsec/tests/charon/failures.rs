//! Tunnels that do not come up, or go down, and what we are told of why: in both
//! roles, for the one who refuses tells the other little.

use privnet_ipsec::{AssociationEvent, Rekey};
use privnet_model::ipsec::IkeState;

use crate::world::{FIREWALL, World, as_responder, sh, tunnel};

/// Has the peer begin, which it does in vain.
fn called_in_vain(world: &World) {
    let (said, succeeded) = world.peer.swanctl("--initiate --child lan --timeout 10");
    assert!(!succeeded, "{said}");
}

pub(crate) async fn a_wrong_key_is_told_on_both_sides() {
    let mut world = World::new().await;
    world.want_with(&tunnel(), "another horse battery staple");
    world.reconcile().await;
    let (of, reason) = world.reason("the peer refused our authentication").await;
    assert_eq!(of, "privnet-dc", "{reason}");
    // The event says that it is down, and nothing of why.
    let down = world
        .event("IKE down", |event| match event {
            AssociationEvent::IkeDown(sa) => Some(sa.clone()),
            _ => None,
        })
        .await;
    assert_eq!(down.state, IkeState::Connecting);

    world.want_with(&as_responder(), "another horse battery staple");
    world.reconcile().await;
    called_in_vain(&world);
    let (of, reason) = world.reason("wrong preshared key").await;
    assert_eq!(of, "privnet-dc");
    assert_eq!(
        reason,
        "wrong preshared key: fw.test uses another one than we have for it"
    );
}

pub(crate) async fn proposals_that_differ_are_told_on_both_sides() {
    let other = FIREWALL.replace("aes256gcm16-prfsha384-ecp384", "aes256-sha256-modp2048");
    let mut world = World::with_peer(&other).await;
    world.want(&tunnel());
    world.reconcile().await;
    let (of, _) = world
        .reason("no matching proposal for IKE: the peer took none")
        .await;
    assert_eq!(of, "privnet-dc");
    world.want(&as_responder());
    world.reconcile().await;
    called_in_vain(&world);
    let (of, reason) = world
        .reason("no matching proposal for IKE: the peer offered")
        .await;
    // It has not said who it is.
    assert_eq!(of, "192.0.2.2");
    let ends = "IKE:AES_CBC_256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048, we have \
                IKE:AES_GCM_16_256/PRF_HMAC_SHA2_384/ECP_384";
    assert!(reason.ends_with(ends), "{reason}");

    let other = FIREWALL.replace("aes256gcm16-ecp384", "aes256-sha256-modp2048");
    world.peer.load(&other);
    called_in_vain(&world);
    let (of, reason) = world.reason("no matching proposal for ESP").await;
    assert_eq!(of, "privnet-dc");
    let ends = "the peer offered ESP:AES_CBC_256/HMAC_SHA2_256_128/NO_EXT_SEQ, we have \
                ESP:AES_GCM_16_256/ECP_384/NO_EXT_SEQ";
    assert!(reason.ends_with(ends), "{reason}");
    world.want(&tunnel());
    world.reconcile().await;
    let (of, _) = world
        .reason("no matching proposal for ESP: the peer took none")
        .await;
    assert_eq!(of, "privnet-dc");
}

pub(crate) async fn groups_that_differ_are_told_at_the_first_rekey() {
    let without = FIREWALL.replace("aes256gcm16-ecp384", "aes256gcm16");
    let mut world = World::with_peer(&without).await;
    world.want(&tunnel());
    world.reconcile().await;
    // The first child has no exchange of its own: all seems well.
    let up = world.child_up().await;
    sh("ping -c 1 -W 5 -I 10.1.0.1 10.2.0.1");
    world
        .charon
        .rekey(Rekey::Child(up.children[0].id))
        .await
        .unwrap();
    let (of, reason) = world.reason("when rekeying").await;
    assert_eq!(of, "privnet-dc");
    assert!(
        reason.contains("PFS group differs or is missing"),
        "{reason}"
    );
}

pub(crate) async fn selectors_that_differ_are_told_on_both_sides() {
    let other = FIREWALL.replace("local_ts = 10.2.0.0/16", "local_ts = 10.9.0.0/16");
    let mut world = World::with_peer(&other).await;
    world.want(&tunnel());
    world.reconcile().await;
    let (of, _) = world.reason("selectors rejected").await;
    assert_eq!(of, "privnet-dc");
    // IKE is up, and that is not called a tunnel: there is no child.
    let sas = world.associations().await;
    assert_eq!(sas[0].state, IkeState::Established);
    assert_eq!(sas[0].live_children().count(), 0);
    called_in_vain(&world);
    let (of, reason) = world.reason("selectors differ").await;
    assert_eq!(of, "privnet-dc");
    assert!(reason.contains("10.1.0.0/16 === 10.9.0.0/16"), "{reason}");
}

pub(crate) async fn identities_that_differ_are_told_on_both_sides() {
    let other = FIREWALL.replace("id = fw.test", "id = firewall.test");
    let mut world = World::with_peer(&other).await;
    world.want(&tunnel());
    world.reconcile().await;
    let (of, _) = world.reason("the peer refused our authentication").await;
    assert_eq!(of, "privnet-dc");
    called_in_vain(&world);
    let (of, reason) = world.reason("identities differ").await;
    assert_eq!(of, "192.0.2.2");
    let words = "the peer says it is firewall.test and asks for hub.test";
    assert!(reason.contains(words), "{reason}");
}

pub(crate) async fn a_peer_that_does_not_answer_is_told() {
    let mut world = World::new().await;
    world.peer.kill();
    world.want(&tunnel());
    world.reconcile().await;
    let (of, reason) = world.reason("peer does not answer").await;
    assert_eq!(of, "privnet-dc");
    assert!(reason.contains("UDP 500 or 4500 is blocked"), "{reason}");
    // charon goes on trying: there is nothing to begin.
    assert_eq!(world.reconcile().await, [""; 0]);
}

pub(crate) async fn a_peer_that_dies_is_told() {
    let mut world = World::new().await;
    world.want(&tunnel());
    world.reconcile().await;
    world.child_up().await;
    world.peer.kill();
    let (of, _) = world.reason("peer does not answer any more").await;
    assert_eq!(of, "privnet-dc");
    let down = world
        .event("child down", |event| match event {
            AssociationEvent::ChildDown(sa) => Some(sa.clone()),
            _ => None,
        })
        .await;
    assert_eq!(down.connection, "privnet-dc");
    // It comes back by itself when the peer does.
    world.peer = crate::world::Daemon::start(Some("peer"), "peer", crate::world::USERSPACE);
    world.peer.load(FIREWALL);
    world.child_up().await;
    sh("ping -c 1 -W 5 -I 10.1.0.1 10.2.0.1");
}
