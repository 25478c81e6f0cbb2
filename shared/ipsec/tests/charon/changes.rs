//! What changes, and what must not.

use std::collections::BTreeSet;

use privnet_model::ipsec::{ConnectionName, IkeSa, IpsecTunnel};

use crate::world::{FIREWALL, World, sh, tunnel};

/// A second tunnel, to another identity of the same peer.
fn second() -> IpsecTunnel {
    let mut second = tunnel();
    second.name = ConnectionName::of("second").unwrap();
    second.remote.id = "second.test".parse().unwrap();
    second.remote.selectors = BTreeSet::from(["10.3.0.0/16".parse().unwrap()]);
    second
}

fn two_tunnels() -> String {
    let (connection, secret) = FIREWALL.split_once("secrets {").unwrap();
    let body = connection.split_once("connections {").unwrap().1;
    let second = connection
        .replace("to-hub", "second")
        .replace("fw.test", "second.test")
        .replace("10.2.0.0/16", "10.3.0.0/16");
    let second = second.split_once("connections {").unwrap().1.trim_end();
    let second = second.strip_suffix('}').unwrap();
    let secret = secret.replace("id-2 = fw.test", "id-2 = fw.test\n    id-3 = second.test");
    format!("connections {{ {second} {body} secrets {{ {secret}")
}

fn ping(address: &str) {
    sh(&format!("ping -c 2 -i 0.2 -W 5 -I 10.1.0.1 {address}"));
}

fn packets(sas: &[IkeSa], connection: &str) -> u64 {
    let of = sas.iter().filter(|sa| sa.connection == connection);
    of.flat_map(IkeSa::live_children)
        .map(|child| child.received.packets)
        .sum()
}

pub(crate) async fn what_runs_is_adopted_after_a_restart_of_ours() {
    let mut world = World::new().await;
    world.want(&tunnel());
    world.reconcile().await;
    let up = world.child_up().await;
    ping("10.2.0.1");
    world.reconnect().await;
    // A key cannot be compared, so it is loaded again, which changes nothing.
    assert_eq!(
        world.reconcile().await,
        ["load preshared key of privnet-dc"]
    );
    assert_eq!(world.reconcile().await, [""; 0]);
    ping("10.2.0.1");
    let sas = world.associations().await;
    assert_eq!(sas.len(), 1);
    assert_eq!(
        (sas[0].id, sas[0].children[0].id),
        (up.id, up.children[0].id)
    );
    assert_eq!(packets(&sas, "privnet-dc"), 4);
}

pub(crate) async fn a_changed_connection_leaves_the_others_counters_running() {
    let mut world = World::with_peer(&two_tunnels()).await;
    world.want(&tunnel());
    world.want(&second());
    world.reconcile().await;
    world.child_up().await;
    world.child_up().await;
    ping("10.2.0.1");
    ping("10.3.0.1");

    let mut changed = second();
    changed.times.child_lifetime /= 2;
    world.want(&changed);
    assert_eq!(
        world.reconcile().await,
        ["load connection privnet-second", "initiate privnet-second"]
    );
    let new = world.child_up().await;
    assert_eq!(new.connection, "privnet-second");
    // The old child goes once the new one runs.
    let changes = world.reconcile().await;
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert!(changes[0].starts_with("terminate "), "{changes:?}");
    let ended = |sas: &[IkeSa]| sas.iter().flat_map(IkeSa::live_children).count() == 2;
    world.until("two children", ended).await;
    ping("10.2.0.1");
    ping("10.3.0.1");
    let sas = world.associations().await;
    assert_eq!(packets(&sas, "privnet-dc"), 4);
    assert_eq!(packets(&sas, "privnet-second"), 2);
    assert_eq!(world.reconcile().await, [""; 0]);

    // And one that is not wanted any more goes, with its key, and stays away.
    world.wanted.remove(&second().name);
    let changes = world.reconcile().await;
    assert_eq!(changes.len(), 3, "{changes:?}");
    world.until("one IKE SA", |sas| sas.len() == 1).await;
    assert_eq!(world.reconcile().await, [""; 0]);
    let sas = world.associations().await;
    assert_eq!(packets(&sas, "privnet-dc"), 4);
}

pub(crate) async fn what_others_loaded_is_left_alone() {
    let mut world = World::new().await;
    let theirs = FIREWALL
        .replace("192.0.2.1", "192.0.2.3")
        .replace("to-hub", "by-hand");
    world.us.load(&theirs);
    world.want(&tunnel());
    world.reconcile().await;
    world.child_up().await;
    world.wanted.clear();
    world.reconcile().await;
    world.until("no SA", <[IkeSa]>::is_empty).await;
    assert!(world.charon.connections().await.unwrap().is_empty());
    let (listed, _) = world.us.swanctl("--list-conns");
    assert!(listed.contains("by-hand"), "{listed}");
}
