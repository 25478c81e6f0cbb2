//! Two spokes of a VPC and the port by which they know how the other is, over
//! loopback: each has an address of its own below 127.0.0.0/8.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
#![expect(clippy::print_stderr, reason = "figures, for who wants to see them")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use privnet_model::health::{
    Answer, Condition, DEFAULT_HEALTH_PORT, HealthError, HealthReport, Question,
};
use privnet_model::id::InstanceId;
use privnet_model::secret::FleetSecret;
use privnet_reconcile::takeover::asking::{self, HURRIED, INTERVAL};
use privnet_runtime::health_port::{FRESH, HealthPort, Observation, Silence};
use tokio::time::timeout;

/// Enough for any one observation.
const PATIENCE: Duration = Duration::from_secs(4);

fn secret(word: &str) -> FleetSecret {
    format!("{word} 0123456789abcdefghijklmnopqrstuvwxyz")
        .parse()
        .unwrap()
}

fn id(number: u8) -> InstanceId {
    format!("i-0123456789abcdef{number}").parse().unwrap()
}

/// An address that no other test has, of four: a process id has 22 bits.
fn address(number: u8) -> SocketAddr {
    let own = (127 << 24) | ((std::process::id() << 2) & 0x00ff_fffc) | u32::from(number & 3);
    SocketAddr::from((Ipv4Addr::from_bits(own), DEFAULT_HEALTH_PORT))
}

fn report(condition: Condition) -> HealthReport {
    HealthReport {
        condition,
        well_for: Duration::from_secs(7),
        changes_routes: true,
        has_tunnel: true,
        tables: BTreeSet::from(["rtb-0123456789abcdef0".parse().unwrap()]),
        hears: BTreeMap::new(),
    }
}

/// A spoke that is well.
fn spoke(number: u8) -> HealthPort {
    let port = HealthPort::open(address(number), id(number)).unwrap();
    port.set_secret(Some(secret("one")));
    port.teller().say(report(Condition::Well));
    port
}

fn watch(port: &mut HealthPort, siblings: &[u8]) {
    let siblings: BTreeMap<InstanceId, IpAddr> = siblings
        .iter()
        .map(|number| (id(*number), address(*number).ip()))
        .collect();
    let errors = port.watch(&siblings);
    assert!(errors.is_empty(), "{errors:?}");
}

async fn next(port: &mut HealthPort) -> Observation {
    timeout(PATIENCE, port.next())
        .await
        .expect("an observation")
}

/// The first observation that is as it should be.
async fn until(port: &mut HealthPort, right: impl Fn(&Observation) -> bool) -> Observation {
    let observed = async {
        loop {
            let observation = port.next().await;
            if right(&observation) {
                return observation;
            }
        }
    };
    timeout(2 * PATIENCE, observed)
        .await
        .expect("such an observation")
}

#[tokio::test]
async fn who_asks_is_known_to_live_whether_it_answers_or_not() {
    let (mut one, mut two) = (spoke(1), spoke(2));
    two.set_secret(Some(secret("two")));
    watch(&mut one, &[1, 2]);
    watch(&mut two, &[1, 2]);
    next(&mut two).await;
    assert!(one.asked_by().is_empty(), "by the wrong secret");
    two.set_secret(Some(secret("one")));
    until(&mut two, |observation| observation.answer.is_ok()).await;
    let asked = one.asked_by();
    assert_eq!(asked.keys().collect::<Vec<_>>(), [&id(2)]);
    watch(&mut one, &[1]);
    assert!(one.asked_by().is_empty(), "none of its siblings any more");
}

#[tokio::test]
async fn siblings_tell_each_other_how_they_are() {
    let (mut one, mut two) = (spoke(1), spoke(2));
    watch(&mut one, &[1, 2]);
    watch(&mut two, &[1, 2]);
    for (port, sibling) in [(&mut one, 2), (&mut two, 1)] {
        for _ in 0..2 {
            let observation = next(port).await;
            assert_eq!(observation.sibling, id(sibling), "nobody asks itself");
            assert_eq!(observation.answer, Ok(report(Condition::Well)));
            assert!(observation.asked.elapsed() < PATIENCE);
        }
    }
    let sick = Condition::Sick {
        why: "no target answers".to_owned(),
    };
    for condition in [sick, Condition::Leaving] {
        let told = report(condition);
        two.teller().say(told.clone());
        let began = Instant::now();
        until(&mut one, |observation| {
            observation.answer == Ok(told.clone())
        })
        .await;
        // It is asked once a second.
        assert!(
            began.elapsed() < Duration::from_millis(2500),
            "{:?}",
            began.elapsed()
        );
    }
}

/// What it heard becomes older while its main loop hangs.
#[tokio::test]
async fn what_one_heard_of_others_is_as_old_as_it_is_when_it_is_told() {
    let (mut one, two) = (spoke(1), spoke(2));
    let ago = Duration::from_millis(300);
    let said = Instant::now();
    two.teller().say(HealthReport {
        hears: BTreeMap::from([(id(3), ago)]),
        ..report(Condition::Well)
    });
    watch(&mut one, &[1, 2]);
    for _ in 0..3 {
        let observation = next(&mut one).await;
        let told = observation.answer.unwrap().hears[&id(3)];
        let most = ago + said.elapsed();
        // Whole milliseconds, and the answer takes some.
        let least = ago + observation.asked.saturating_duration_since(said);
        let least = least.saturating_sub(Duration::from_millis(1));
        assert!(
            (least..=most).contains(&told),
            "{least:?} {told:?} {most:?}"
        );
    }
}

#[tokio::test]
async fn one_that_is_gone_owes_three_answers_within_three_seconds_and_is_heard_when_it_is_back() {
    let (mut one, two) = (spoke(1), spoke(2));
    watch(&mut one, &[2]);
    let last = until(&mut one, |observation| observation.answer.is_ok()).await;
    drop(two);
    for _ in 0..3 {
        assert_eq!(next(&mut one).await.answer, Err(Silence::NoAnswer));
    }
    // The next question comes after a second, those after it each half second, and for
    // each answer it waits a second.
    let took = last.asked.elapsed();
    assert!(
        took >= INTERVAL + 2 * HURRIED + asking::PATIENCE && took < Duration::from_millis(3700),
        "{took:?}"
    );
    let _two = spoke(2);
    until(&mut one, |observation| observation.answer.is_ok()).await;
}

#[tokio::test]
async fn one_that_is_not_watched_any_more_is_not_asked() {
    let (mut one, _two) = (spoke(1), spoke(2));
    watch(&mut one, &[2]);
    until(&mut one, |observation| observation.answer.is_ok()).await;
    watch(&mut one, &[]);
    while let Ok(observation) = timeout(Duration::from_millis(1500), one.next()).await {
        // Asked before.
        assert!(
            observation.asked.elapsed() < Duration::from_secs(3),
            "{observation:?}"
        );
    }
}

#[tokio::test]
async fn whoever_has_the_secret_is_answered_also_before_it_is_known() {
    let (mut one, _two) = (spoke(1), spoke(2));
    watch(&mut one, &[2]);
    assert_eq!(next(&mut one).await.answer, Ok(report(Condition::Well)));
}

#[tokio::test]
async fn with_another_secret_there_is_silence_on_both_sides_and_its_reason() {
    let (mut one, mut two) = (spoke(1), spoke(2));
    two.set_secret(Some(secret("two")));
    watch(&mut one, &[2]);
    watch(&mut two, &[1]);
    let rejected = Err(Silence::Rejected(HealthError::Signature));
    until(&mut one, |observation| observation.answer == rejected).await;
    until(&mut two, |observation| observation.answer == rejected).await;
    two.set_secret(Some(secret("one")));
    until(&mut one, |observation| observation.answer.is_ok()).await;
}

#[tokio::test]
async fn without_the_secret_nobody_is_asked_and_nobody_answered() {
    let (mut one, mut two) = (spoke(1), spoke(2));
    two.set_secret(None);
    watch(&mut one, &[2]);
    watch(&mut two, &[1]);
    assert_eq!(next(&mut one).await.answer, Err(Silence::NoAnswer));
    assert_eq!(next(&mut two).await.answer, Err(Silence::NoSecret));
}

#[tokio::test]
async fn what_was_true_once_is_not_told_for_ever() {
    let (mut one, two) = (spoke(1), spoke(2));
    watch(&mut one, &[2]);
    let began = Instant::now();
    until(&mut one, |observation| observation.answer.is_ok()).await;
    until(&mut one, |observation| observation.answer.is_err()).await;
    let took = began.elapsed();
    assert!(took > FRESH - Duration::from_secs(1), "{took:?}");
    two.teller().say(report(Condition::Well));
    until(&mut one, |observation| observation.answer.is_ok()).await;
}

/// The sibling played by the test, which answers as it likes.
struct Impostor {
    socket: UdpSocket,
}

impl Impostor {
    fn new(number: u8) -> Self {
        let socket = UdpSocket::bind(address(number)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket }
    }

    /// The next question that comes, and from where.
    async fn question(&self) -> (Question, SocketAddr) {
        let socket = self.socket.try_clone().unwrap();
        let received = tokio::task::spawn_blocking(move || {
            let mut buffer = [0; 4096];
            let (length, sender) = socket.recv_from(&mut buffer).unwrap();
            (buffer[..length].to_vec(), sender)
        });
        let (bytes, sender) = received.await.unwrap();
        (
            Question::open(&bytes, &secret("one"), &id(2)).unwrap(),
            sender,
        )
    }
}

#[tokio::test]
async fn a_forged_a_changed_and_a_replayed_answer_count_for_nothing() {
    let mut one = spoke(1);
    let impostor = Impostor::new(2);
    watch(&mut one, &[2]);
    let answer = |question: &Question, word: &str| {
        let question = question.clone();
        let report = report(Condition::Well);
        Answer { question, report }.seal(&secret(word))
    };
    let (first, one_address) = impostor.question().await;
    let right = answer(&first, "one");
    // Twice the same is one answer.
    for _ in 0..2 {
        impostor.socket.send_to(&right, one_address).unwrap();
    }
    assert_eq!(next(&mut one).await.answer, Ok(report(Condition::Well)));

    // A replay of it, to the question after.
    impostor.question().await;
    impostor.socket.send_to(&right, one_address).unwrap();
    assert_eq!(next(&mut one).await.answer, Err(Silence::NoAnswer));

    let forgeries: [fn(Vec<u8>) -> Vec<u8>; 5] = [
        |mut right| {
            let last = right.len() - 1;
            right[last] ^= 1;
            right
        },
        |mut right| {
            // "Sick" instead of "well".
            right[5 + 2 * 19 + 16] ^= 1;
            right
        },
        |right| right[..right.len() / 2].to_vec(),
        |right| [right, vec![0; 9000]].concat(),
        |_| Vec::new(),
    ];
    for (number, forge) in forgeries.into_iter().enumerate() {
        let (question, _) = impostor.question().await;
        let forged = forge(answer(&question, "one"));
        impostor.socket.send_to(&forged, one_address).unwrap();
        let silence = next(&mut one).await.answer;
        assert!(silence.is_err(), "{number}: {silence:?}");
    }
    let (question, _) = impostor.question().await;
    impostor
        .socket
        .send_to(&answer(&question, "two"), one_address)
        .unwrap();
    assert_eq!(
        next(&mut one).await.answer,
        Err(Silence::Rejected(HealthError::Signature))
    );
    // From elsewhere it is nobody's answer, however right.
    let (question, _) = impostor.question().await;
    let elsewhere = UdpSocket::bind(address(3)).unwrap();
    elsewhere
        .send_to(&answer(&question, "one"), one_address)
        .unwrap();
    assert_eq!(next(&mut one).await.answer, Err(Silence::NoAnswer));
    // And one that comes too late.
    let (question, _) = impostor.question().await;
    let late = next(&mut one).await;
    assert_eq!(late.answer, Err(Silence::NoAnswer));
    impostor
        .socket
        .send_to(&answer(&question, "one"), one_address)
        .unwrap();
    let (question, _) = impostor.question().await;
    impostor
        .socket
        .send_to(&answer(&question, "one"), one_address)
        .unwrap();
    let on_time = until(&mut one, |observation| observation.answer.is_ok()).await;
    assert!(on_time.asked > late.asked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_garbage_keeps_nobody_from_being_heard() {
    let (mut one, mut two) = (spoke(1), spoke(2));
    watch(&mut one, &[2]);
    watch(&mut two, &[1]);
    until(&mut one, |observation| observation.answer.is_ok()).await;
    until(&mut two, |observation| observation.answer.is_ok()).await;
    let (stop, sent) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    // From a stranger, and from a sibling's address at another port.
    let floods = [3, 2].map(|from| {
        let socket = UdpSocket::bind((address(from).ip(), 0)).unwrap();
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        std::thread::spawn(move || {
            let mut garbage = b"PVH1\x01".to_vec();
            garbage.resize(300, 0x2e);
            while !stop.load(Ordering::Relaxed) {
                sent.fetch_add(
                    socket.send_to(&garbage, address(1)).is_ok().into(),
                    Ordering::Relaxed,
                );
            }
        })
    });
    let began = Instant::now();
    let mut heard = 0;
    while began.elapsed() < Duration::from_secs(8) {
        // Fresh, as a daemon keeps it.
        for port in [&one, &two] {
            port.teller().say(report(Condition::Well));
        }
        for port in [&mut one, &mut two] {
            let observation = next(port).await;
            assert!(observation.answer.is_ok(), "{observation:?}");
            heard += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.join().unwrap();
    }
    let sent = sent.load(Ordering::Relaxed);
    eprintln!(
        "{heard} answers beside {sent} datagrams of garbage in {:?}",
        began.elapsed()
    );
    assert!(heard >= 14, "{heard}");
    assert!(sent > 100_000, "{sent} is no flood");
}

#[tokio::test]
async fn an_address_that_is_not_this_hosts_is_told_with_what_was_tried() {
    let address = "192.0.2.1:51822".parse().unwrap();
    let error = HealthPort::open(address, id(1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "UDP 192.0.2.1:51822, for the health of the VPC's spokes: cannot bind to it"
    );
}
