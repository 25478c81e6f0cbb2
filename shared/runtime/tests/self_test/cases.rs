//! What is broken, and how soon it is known.

use std::net::{SocketAddrV4, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use privnet_reconcile::self_test::{Outcome, Report, Verdict};
use privnet_runtime::router::Router;
use privnet_runtime::self_test::SelfTester;

use crate::network::{self, CALLERS, reconcile, sh};

const INTERVAL: Duration = Duration::from_secs(1);
/// A fault is known after so long at most.
const KNOWN: Duration = Duration::from_secs(3);
/// And so is its end.
const PATIENCE: Duration = Duration::from_secs(3);

fn target(last: u8) -> SocketAddrV4 {
    SocketAddrV4::new([203, 0, 113, last].into(), 80)
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    // Two threads, as the daemons have.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// Waits for a report that is as it should be, and tells how long it took.
async fn until(
    tester: &mut SelfTester,
    patience: Duration,
    right: impl Fn(&Report) -> bool,
) -> (Duration, Report) {
    let began = Instant::now();
    let seen = async {
        let mut report = tester.report();
        while !right(&report) {
            report = tester.changed().await;
        }
        report
    };
    match tokio::time::timeout(patience, seen).await {
        Ok(report) => (began.elapsed(), report),
        Err(_) => panic!("not within {patience:?}: {:?}", tester.report()),
    }
}

fn is(verdict: Verdict) -> impl Fn(&Report) -> bool {
    move |report| report.verdict == verdict
}

/// A spoke that is well.
async fn well() -> (Router, SelfTester) {
    let mut router = network::router().await;
    let mut tester = SelfTester::start(vec![target(80)], INTERVAL);
    reconcile(&mut router).await;
    until(&mut tester, PATIENCE, is(Verdict::Well)).await;
    (router, tester)
}

/// Whether the spoke itself, which is not what hosts behind it are, gets out.
fn spoke_gets_out() -> bool {
    TcpStream::connect_timeout(&target(80).into(), Duration::from_secs(1)).is_ok()
}

/// How what breaks is mended.
enum Mend {
    Script(&'static str),
    /// By the router's next look, of itself.
    Reconcile,
}

/// Breaks something in different moments of a round, and mends it. Gives the problems
/// told.
fn fault(breaks: &str, mend: &Mend, unseen_from_the_spoke: bool) -> String {
    let _server = network::network();
    wait(async {
        let (mut router, mut tester) = well().await;
        let mut slowest = Duration::ZERO;
        let mut problems = String::new();
        for moment in [0, 300, 700] {
            tokio::time::sleep(Duration::from_millis(moment)).await;
            sh(breaks);
            let (after, report) = until(&mut tester, KNOWN, is(Verdict::Sick)).await;
            slowest = slowest.max(after);
            problems.push_str(&report.problem().unwrap());
            problems.push('\n');
            assert_eq!(spoke_gets_out(), unseen_from_the_spoke, "{breaks}");
            match mend {
                Mend::Script(script) => drop(sh(script)),
                Mend::Reconcile => {}
            }
            reconcile(&mut router).await;
            until(&mut tester, PATIENCE, is(Verdict::Well)).await;
        }
        eprintln!("{breaks}: known after {slowest:?} at most:\n{problems}");
        problems
    })
}

pub(crate) fn each_target() {
    let _server = network::network();
    wait(async {
        let mut router = network::router().await;
        let targets = vec![target(80), target(81), target(82), target(83)];
        let mut tester = SelfTester::start(targets, INTERVAL);
        assert_eq!(tester.report().verdict, Verdict::Untested);
        reconcile(&mut router).await;
        let all = |report: &Report| {
            report.verdict == Verdict::Well
                && report
                    .targets
                    .iter()
                    .all(|(_, outcome)| *outcome != Outcome::Unasked)
        };
        let (_, report) = until(&mut tester, PATIENCE, all).await;
        let outcomes: Vec<&Outcome> = report.targets.iter().map(|(_, outcome)| outcome).collect();
        let [accepted, refused, silent, undelivered] = outcomes[..] else {
            panic!("{outcomes:?}");
        };
        assert!(matches!(accepted, Outcome::Accepted(after) if *after < INTERVAL));
        assert!(matches!(refused, Outcome::Refused(after) if *after < INTERVAL));
        assert_eq!(*silent, Outcome::Silent);
        assert_eq!(
            undelivered.to_string(),
            "the host does not answer there, says 10.1.0.1"
        );
        eprintln!("{accepted}; {refused}");
    });
    // It went through the one rule, and was taken back each time.
    assert!(
        !Path::new(CALLERS).exists(),
        "the target's program heard of it"
    );
    assert!(spoke_gets_out());
    let deadline = Instant::now() + PATIENCE;
    while !Path::new(CALLERS).exists() {
        assert!(Instant::now() < deadline, "the server would not have told");
        std::thread::yield_now();
    }
    let rule = sh("nft list chain inet privnet postrouting");
    assert!(
        rule.contains("masquerade") && !rule.contains("packets 0 "),
        "{rule}"
    );
}

pub(crate) fn table_deleted() {
    fault("nft delete table inet privnet", &Mend::Reconcile, true);
}

pub(crate) fn masquerade_missing() {
    let flush = "nft flush chain inet privnet postrouting";
    let problem = fault(flush, &Mend::Reconcile, true);
    assert!(
        problem.contains("203.0.113.80:80: no answer within 1s"),
        "{problem}"
    );
}

pub(crate) fn forwarding_off() {
    let off = "sysctl -q net.ipv4.ip_forward=0";
    fault(off, &Mend::Reconcile, true);
}

pub(crate) fn foreign_filter() {
    let filter = "nft add table inet stranger
        nft 'add chain inet stranger forward { type filter hook forward priority 0; policy drop; }'";
    fault(
        filter,
        &Mend::Script("nft delete table inet stranger"),
        true,
    );
}

pub(crate) fn uplink_down() {
    let up = "ip link set wan up; ip route add default via 10.1.0.1";
    fault("ip link set wan down", &Mend::Script(up), false);
}

pub(crate) fn no_default_route() {
    let mend = Mend::Script("ip route add default via 10.1.0.1");
    let problem = fault("ip route del default", &mend, false);
    assert!(
        problem.contains("no route to its network, says 10.1.0.10"),
        "{problem}"
    );
}

pub(crate) fn upstream_drops() {
    let drops = "ip netns exec internet nft add rule inet quiet input ip daddr 203.0.113.80 drop";
    let mend = "ip netns exec internet nft flush chain inet quiet input";
    fault(drops, &Mend::Script(mend), false);
}

pub(crate) fn mended_in_time() {
    let _server = network::network();
    wait(async {
        let (mut router, mut tester) = well().await;
        let end = Instant::now() + Duration::from_secs(12);
        let mut mended = 0;
        sh("nft delete table inet privnet");
        while Instant::now() < end {
            // As a spoke's main loop does it.
            let report = tester.changed().await;
            assert_eq!(report.verdict, Verdict::Well, "{report:?}");
            if report.bad_rounds > 0 {
                reconcile(&mut router).await;
                let good = |report: &Report| report.bad_rounds == 0;
                until(&mut tester, PATIENCE, good).await;
                mended += 1;
                sh("nft delete table inet privnet");
            }
        }
        assert!(mended >= 3, "{mended}");
    });
}

pub(crate) fn interface_deleted() {
    let _server = network::network();
    wait(async {
        let (mut router, mut tester) = well().await;
        for breaks in ["ip link del privnet-test", "ip link set privnet-test down"] {
            sh(breaks);
            until(&mut tester, KNOWN, is(Verdict::Sick)).await;
            reconcile(&mut router).await;
            let (after, _) = until(&mut tester, PATIENCE, is(Verdict::Well)).await;
            eprintln!("{breaks}: well again after {after:?}");
        }
        drop(tester);
        let deadline = Instant::now() + PATIENCE;
        while Path::new("/sys/class/net").exists() && sh("ip link").contains("privnet-test") {
            assert!(Instant::now() < deadline, "the interface outlives its test");
            tokio::task::yield_now().await;
        }
    });
}

pub(crate) fn lossy_upstream() {
    let _server = network::network();
    wait(async {
        let (_router, mut tester) = well().await;
        sh(
            "ip netns exec internet nft add rule inet quiet input numgen random mod 10 == 0 drop
            nft add table inet lossy
            nft 'add chain inet lossy input { type filter hook prerouting priority -300; }'
            nft add rule inet lossy input iifname wan numgen random mod 10 == 0 drop",
        );
        let end = tokio::time::Instant::now() + Duration::from_secs(10);
        while let Ok(report) = tokio::time::timeout_at(end, tester.changed()).await {
            assert_eq!(report.verdict, Verdict::Well, "{report:?}");
        }
    });
}

pub(crate) fn without_privileges() {
    wait(async {
        let mut tester = SelfTester::start(vec![target(80)], INTERVAL);
        let (_, report) = until(&mut tester, KNOWN, is(Verdict::Sick)).await;
        let problem = report.problem().unwrap();
        assert!(problem.contains("CAP_NET_ADMIN is needed"), "{problem}");
    });
}
