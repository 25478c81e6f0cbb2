//! Tunnels that come up, carry packets and change keys.

use std::num::NonZeroU32;
use std::process::{Command, Stdio};

use privnet_ipsec::{AssociationEvent, Rekey};
use privnet_model::ipsec::{ChildState, EspBackEnd, IkeSa, IkeState, Proposals};

use crate::world::{FIREWALL, PATIENCE, World, as_responder, sh, tunnel};

const PING: &str = "ping -c 3 -i 0.2 -W 5 -I 10.1.0.1 10.2.0.1";

pub(crate) async fn a_tunnel_comes_up_from_our_side_and_carries_packets() {
    let mut world = World::new().await;
    world.want(&tunnel());
    let changes = world.reconcile().await;
    assert_eq!(
        changes,
        [
            "load preshared key of privnet-dc",
            "load connection privnet-dc",
            "initiate privnet-dc"
        ]
    );
    let ike = world
        .event("IKE up", |event| match event {
            AssociationEvent::IkeUp(sa) => Some(sa.clone()),
            _ => None,
        })
        .await;
    assert_eq!(
        (ike.connection.as_str(), ike.initiated),
        ("privnet-dc", true)
    );
    let up = world.child_up().await;
    assert_eq!(up.children.len(), 1);
    // Nothing more to do; and while it was under way, nothing either.
    assert_eq!(world.reconcile().await, [""; 0]);

    sh(PING);
    sh("ip netns exec peer ping -c 2 -i 0.2 -W 5 -I 10.2.0.1 10.1.0.1");
    let sas = world.associations().await;
    let [sa] = sas.as_slice() else {
        panic!("one SA, not {sas:#?}");
    };
    assert_eq!(sa.state, IkeState::Established);
    assert_eq!(
        sa.remote.map(|it| it.ip().to_string()).as_deref(),
        Some("192.0.2.2")
    );
    assert_eq!(sa.local_id.as_deref(), Some("hub.test"));
    assert_eq!(sa.remote_id.as_deref(), Some("fw.test"));
    assert_eq!(sa.proposal, "AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384");
    assert!(sa.established.is_some_and(|time| time < PATIENCE));
    // Begins up to a tenth earlier than nine tenths of eight hours.
    let rekey_in = sa.rekey_in.unwrap();
    assert!(
        (22_900..25_921).contains(&rekey_in.as_secs()),
        "{rekey_in:?}"
    );
    let child = &sa.children[0];
    assert_eq!(child.state, ChildState::Installed);
    assert_eq!(child.name, world.wanted[&tunnel().name].connection.child());
    assert_eq!((child.received.packets, child.sent.packets), (5, 5));
    assert_eq!((child.received.bytes, child.sent.bytes), (420, 420));
    assert!(child.received.idle.is_some_and(|idle| idle < PATIENCE));
    assert_eq!(child.proposal, "AES_GCM_16-256");
    assert!(child.encapsulated && child.spi_in.is_some() && child.spi_out.is_some());
    let selectors =
        |set: &std::collections::BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
    assert_eq!(selectors(&child.local_selectors), ["10.1.0.0/16"]);
    assert_eq!(selectors(&child.remote_selectors), ["10.2.0.0/16"]);
}

pub(crate) async fn a_tunnel_comes_up_from_the_peers_side() {
    let mut world = World::new().await;
    world.want(&as_responder());
    let changes = world.reconcile().await;
    assert_eq!(changes.len(), 2, "{changes:?}");
    let (said, succeeded) = world.peer.swanctl("--initiate --child lan --timeout 10");
    assert!(succeeded, "{said}");
    let up = world.child_up().await;
    assert!(!up.initiated);
    assert_eq!(up.connection, "privnet-dc");
    sh(PING);
    assert_eq!(world.reconcile().await, [""; 0]);
}

pub(crate) async fn an_old_firewall_is_reached_with_legacy_proposals_only() {
    let old = FIREWALL
        .replace("aes256gcm16-prfsha384-ecp384", "aes128-sha1-modp2048")
        .replace("aes256gcm16-ecp384", "aes128-sha1-modp2048");
    let mut world = World::with_peer(&old).await;
    let mut legacy = tunnel();
    legacy.proposals = Proposals::Legacy;
    world.want(&legacy);
    world.reconcile().await;
    let up = world.child_up().await;
    assert_eq!(
        up.proposal,
        "AES_CBC-128/HMAC_SHA1_96/PRF_HMAC_SHA1/MODP_2048"
    );
    assert_eq!(up.children[0].proposal, "AES_CBC-128/HMAC_SHA1_96");
    sh(PING);
}

pub(crate) async fn rekeys_are_told_and_lose_no_packet() {
    let mut world = World::new().await;
    world.want(&tunnel());
    world.reconcile().await;
    let up = world.child_up().await;
    let first = up.children[0].id;
    let pings = Command::new("ping")
        .args([
            "-c", "100", "-i", "0.03", "-W", "5", "-I", "10.1.0.1", "10.2.0.1",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    world
        .until("carrying", |sas| sas[0].children[0].sent.packets > 5)
        .await;

    assert_eq!(world.charon.rekey(Rekey::Child(first)).await.unwrap(), 1);
    let (old, new) = world
        .event("child rekeyed", |event| match event {
            AssociationEvent::ChildRekeyed { old, new, .. } => Some((old.clone(), new.clone())),
            _ => None,
        })
        .await;
    assert_eq!(old.id, first);
    assert_ne!(new.spi_in, old.spi_in);
    assert_eq!(new.name, old.name);
    // With PFS: the first child's keys came from IKE's exchange.
    assert_eq!(new.proposal, "AES_GCM_16-256/ECP_384");
    // The old one is listed for some seconds yet, and told apart.
    let sas = world.associations().await;
    let ended = sas[0].children.iter().find(|child| child.id == first);
    assert!(
        ended.is_none_or(|child| !child.state.carries_traffic()),
        "{sas:#?}"
    );
    assert_eq!(sas[0].live_children().count(), 1);
    assert_eq!(world.reconcile().await, [""; 0]);

    assert_eq!(world.charon.rekey(Rekey::Ike(up.id)).await.unwrap(), 1);
    let (before, after) = world
        .event("IKE rekeyed", |event| match event {
            AssociationEvent::IkeRekeyed { old, new } => Some((old.clone(), new.clone())),
            _ => None,
        })
        .await;
    assert_eq!(before.id, up.id);
    assert_ne!(after.id, up.id);
    let lives_on =
        |sas: &[IkeSa]| sas.len() == 1 && sas[0].live_children().any(|child| child.id == new.id);
    world.until("one IKE SA with the child", lives_on).await;
    assert_eq!(world.reconcile().await, [""; 0]);

    let output = pings.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("100 packets transmitted, 100 received"),
        "{said}"
    );
}

pub(crate) async fn we_may_be_behind_a_nat() {
    let firewall = FIREWALL
        .replace("remote_addrs = 192.0.2.1", "remote_addrs = %any")
        .replace("192.0.2.2", "198.51.100.2");
    let mut world = World::with_nat("us", &firewall).await;
    let mut tunnel = tunnel();
    tunnel.local.address = None;
    tunnel.remote.address = "198.51.100.2".parse().ok();
    world.want(&tunnel);
    world.reconcile().await;
    let up = world.child_up().await;
    assert!(up.nat.local, "{up:#?}");
    sh(PING);
    let (listed, _) = world.peer.swanctl("--list-sas");
    assert!(listed.contains("'hub.test' @ 198.51.100.254["), "{listed}");
}

pub(crate) async fn a_peer_behind_a_nat_is_known_by_its_identity() {
    let firewall = FIREWALL.replace("192.0.2.2", "198.51.100.2");
    let mut world = World::with_nat("peer", &firewall).await;
    let mut tunnel = as_responder();
    tunnel.remote.address = None;
    world.want(&tunnel);
    world.reconcile().await;
    let (said, succeeded) = world.peer.swanctl("--initiate --child lan --timeout 10");
    assert!(succeeded, "{said}");
    let up = world.child_up().await;
    assert_eq!(up.connection, "privnet-dc");
    assert!(up.nat.remote, "{up:#?}");
    assert_eq!(
        up.remote.map(|it| it.ip().to_string()).as_deref(),
        Some("192.0.2.254")
    );
    sh(PING);
}

pub(crate) async fn kernel_esp_is_up_or_says_why_not() {
    let mut world = World::with("kernel-netlink", FIREWALL).await;
    let plugins = world.charon.stats().await.unwrap().plugins;
    assert!(!plugins.contains("kernel-libipsec"), "{plugins:?}");
    let mut kernel = tunnel();
    kernel.esp = EspBackEnd::Kernel {
        if_id: NonZeroU32::new(42).unwrap(),
    };
    world.want(&kernel);
    world.reconcile().await;
    // IKE comes up in either case.
    world
        .event("IKE up", |event| match event {
            AssociationEvent::IkeUp(_) => Some(()),
            _ => None,
        })
        .await;
    // Both are right: which, depends on the kernel that the test runs on.
    let settled = |sas: &[IkeSa]| {
        let busy = sas
            .iter()
            .any(|sa| sa.tasks.iter().any(|task| task == "CHILD_CREATE"));
        !sas.is_empty() && !busy
    };
    world.until("settled", settled).await;
    let sas = world.associations().await;
    let installed = sas.iter().flat_map(IkeSa::live_children).next();
    match installed {
        Some(child) => assert_eq!((child.if_id_in, child.if_id_out), (Some(42), Some(42))),
        None => {
            let (of, reason) = world.reason("ESP could not be installed").await;
            assert_eq!(of, "privnet-dc");
            assert!(reason.contains("IKE is up"), "{reason}");
        }
    }
}
