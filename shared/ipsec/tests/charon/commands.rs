//! The commands themselves, what charon refuses, and its sudden end.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use privnet_ipsec::{AssociationEvent, Charon, Connection, Farewell, ViciError, Which};
use privnet_model::ipsec::{
    Authentication, ConnectionName, Encapsulation, EspBackEnd, IkeRole, Proposals, UniqueId,
};

use crate::world::{Daemon, PATIENCE, USERSPACE, World, as_responder, note, refused, sh, tunnel};

pub(crate) async fn every_kind_of_connection_is_understood() {
    let world = World::new().await;
    sh("mkdir -p /run/pki && cd /run/pki
        openssl req -x509 -newkey rsa:2048 -nodes -keyout key -subj /CN=x -days 2 -out pem 2>/dev/null");
    let pem = std::fs::read_to_string("/run/pki/pem").unwrap();
    let certificate = Authentication::Certificate {
        own: pem.clone(),
        authority: pem,
    };
    let if_id = NonZeroU32::new(7).unwrap();
    let mut expected = BTreeSet::new();
    for proposals in [Proposals::Modern, Proposals::Legacy] {
        for authentication in [Authentication::PresharedKey, certificate.clone()] {
            for esp in [EspBackEnd::Userspace, EspBackEnd::Kernel { if_id }] {
                for role in [IkeRole::Initiator, IkeRole::Responder] {
                    let mut tunnel = tunnel();
                    tunnel.name = ConnectionName::of(&format!("site-{}", expected.len())).unwrap();
                    tunnel.proposals = proposals;
                    tunnel.authentication = authentication.clone();
                    tunnel.esp = esp;
                    tunnel.role = role;
                    if role == IkeRole::Responder {
                        tunnel.remote.address = None;
                    }
                    tunnel.encapsulation = Encapsulation::Always;
                    tunnel
                        .local
                        .selectors
                        .insert("fd00:1::/64".parse().unwrap());
                    tunnel
                        .remote
                        .selectors
                        .insert("fd00:2::/64".parse().unwrap());
                    assert_eq!(tunnel.errors(), []);
                    let connection = Connection::new(&tunnel).unwrap();
                    world.charon.load_connection(&connection).await.unwrap();
                    let child = BTreeSet::from([connection.child().to_owned()]);
                    expected.insert((tunnel.name, child));
                }
            }
        }
    }
    let loaded = world.charon.connections().await.unwrap();
    assert_eq!(loaded.into_iter().collect::<BTreeSet<_>>(), expected);
    let version = world.charon.version().await.unwrap();
    assert_eq!(version.daemon, "charon-systemd");
    assert!(version.version.starts_with(['5', '6']), "{version:?}");
    let stats = world.charon.stats().await.unwrap();
    assert!(stats.plugins.contains("kernel-libipsec"), "{stats:?}");
    assert_eq!(stats.ike_sas, 0);
    world.charon.reload_settings().await.unwrap();
}

pub(crate) async fn a_thousand_connections_are_loaded_and_fetched_in_seconds() {
    let mut world = World::new().await;
    for number in 0..1000_u32 {
        let mut tunnel = as_responder();
        tunnel.name = ConnectionName::of(&format!("i-{number:017x}")).unwrap();
        tunnel.remote.id = format!("{number}.test").parse().unwrap();
        let subnet = format!("10.{}.{}.0/24", 16 + number / 256, number % 256);
        tunnel.remote.selectors = BTreeSet::from([subnet.parse().unwrap()]);
        world.want(&tunnel);
    }
    let began = Instant::now();
    assert_eq!(world.reconcile().await.len(), 2000);
    let loaded = began.elapsed();
    let began = Instant::now();
    assert_eq!(world.reconcile().await, [""; 0]);
    let fetched = began.elapsed();
    note(&format!(
        "1000 connections with keys: loaded in {loaded:?}, fetched and planned in {fetched:?}"
    ));
    assert!(loaded < PATIENCE && fetched < Duration::from_secs(5));
}

pub(crate) async fn what_charon_refuses_is_told_in_its_words() {
    let world = World::new().await;
    let charon = &world.charon;
    let name = ConnectionName::of("nobody").unwrap();
    assert_eq!(
        refused(charon.unload_connection(&name).await),
        "the IKE daemon (charon) refused to unload connection privnet-nobody: \
         unload: connection 'privnet-nobody' not found"
    );
    assert_eq!(
        refused(charon.initiate(&name, Some("x")).await),
        "the IKE daemon (charon) refused to initiate privnet-nobody: \
         CHILD_SA config 'x' not found"
    );
    let authority = refused(charon.load_authority("junk").await);
    assert!(
        authority.ends_with("parsing X509 certificate failed"),
        "{authority}"
    );
    // What is not there need not end, and is no secret.
    for which in [
        Which::Ike(UniqueId(99)),
        Which::Child(UniqueId(99)),
        Which::Connection(name.clone()),
    ] {
        assert_eq!(charon.terminate(&which, Farewell::Forced).await.unwrap(), 0);
    }
    charon.unload_secret(&name).await.unwrap();
}

pub(crate) async fn charon_killed_under_a_command_and_a_stream_of_events() {
    let mut world = World::new().await;
    world.want(&tunnel());
    world.reconcile().await;
    world.child_up().await;
    // A command that takes long: to a peer that does not answer.
    let mut silent = tunnel();
    silent.name = ConnectionName::of("silent").unwrap();
    silent.remote.address = "192.0.2.99".parse().ok();
    let silent = Connection::new(&silent).unwrap();
    world.charon.load_connection(&silent).await.unwrap();
    let charon = world.charon.clone();
    let pending = tokio::spawn(async move {
        let time = Duration::from_secs(60);
        charon
            .initiate_and_wait(silent.name(), silent.child(), time)
            .await
    });
    world.retransmission().await;
    let queued = {
        let charon = world.charon.clone();
        tokio::spawn(async move { charon.version().await })
    };
    let killed = Instant::now();
    world.us.kill();
    let pending = tokio::time::timeout(PATIENCE, pending).await.unwrap();
    let error = pending.unwrap().unwrap_err();
    assert!(matches!(error, ViciError::Closed { .. }), "{error}");
    assert!(
        killed.elapsed() < Duration::from_secs(5),
        "{:?}",
        killed.elapsed()
    );
    let error = queued.await.unwrap().unwrap_err();
    assert!(error.ends_the_connection(), "{error}");
    let ended = async {
        loop {
            match world.events.next().await {
                Ok(AssociationEvent::Lost) => panic!("nothing was lost"),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert!(matches!(error, ViciError::Closed { .. }), "{error}");
    let error = world.charon.associations().await.unwrap_err();
    assert!(error.ends_the_connection(), "{error}");
    let socket = world.us.socket();
    assert!(Charon::connect(&socket).await.is_err());

    // The new one knows nothing: all is loaded again, and comes up again.
    world.us = Daemon::start(None, "us", USERSPACE);
    world.reconnect().await;
    assert_eq!(world.reconcile().await.len(), 3);
    world.child_up().await;
    sh("ping -c 1 -W 5 -I 10.1.0.1 10.2.0.1");
    assert_eq!(world.charon.stats().await.unwrap().ike_sas, 1);
}
