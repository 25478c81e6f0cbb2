#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
#![expect(
    clippy::disallowed_methods,
    reason = "an Instant comes from nowhere but the clock; nothing else here asks it"
)]
use etherparse::{Icmpv4Type, TcpHeaderSlice, icmpv4};
use proptest::prelude::*;

use super::*;

const INTERVAL: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(10);
const LATENCY: Duration = Duration::from_millis(20);
const NEAR: &str = "203.0.113.80:443";
const FAR: &str = "198.51.100.9:80";

/// What the internet does with a packet.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Internet {
    Accepts,
    Refuses,
    Swallows,
    NoRoute,
}

/// The test, the internet, and the time.
struct Simulation {
    test: SelfTest,
    start: Instant,
    now: Instant,
    numbers: u64,
    /// What is on its way back, and when it arrives.
    under_way: Vec<(Instant, Vec<u8>)>,
    /// First packets and resets that left.
    sent: Vec<Sent>,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Instant,
    connection: Connection,
    reset: bool,
}

impl Simulation {
    fn new(targets: &[&str]) -> Self {
        let targets = targets.iter().map(|target| target.parse().unwrap());
        let start = Instant::now();
        Self {
            test: SelfTest::new(targets.collect(), INTERVAL, start),
            start,
            now: start,
            numbers: 1,
            under_way: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Lets time pass. Gives when each verdict came, from the beginning of this run.
    fn run(
        &mut self,
        time: Duration,
        internet: impl Fn(SocketAddrV4) -> Internet,
    ) -> Vec<(Duration, Verdict)> {
        let (begin, end) = (self.now, self.now + time);
        let mut verdicts = Vec::new();
        let mut verdict = self.test.report().verdict;
        while self.now < end {
            let now = self.now;
            let numbers = &mut self.numbers;
            let packets = self.test.due(now, || {
                *numbers = numbers
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                *numbers
            });
            for packet in packets {
                let sent = read(&packet);
                self.sent.push(Sent { at: now, ..sent });
                let answer = answer(sent.connection, internet(sent.connection.target));
                self.under_way
                    .extend(answer.map(|packet| (now + LATENCY, packet)));
            }
            let arriving = self.under_way.extract_if(.., |(when, _)| *when <= now);
            for (_, packet) in arriving.collect::<Vec<_>>() {
                if let Some(reset) = self.test.receive(&packet, now) {
                    let sent = read(&reset);
                    assert!(sent.reset);
                    self.sent.push(Sent { at: now, ..sent });
                }
            }
            assert!(self.test.next() > now, "it would spin");
            if self.test.report().verdict != verdict {
                verdict = self.test.report().verdict;
                verdicts.push((now - begin, verdict));
            }
            self.now += STEP;
        }
        verdicts
    }

    fn outcome(&self, target: &str) -> Outcome {
        let targets = &self.test.report().targets;
        let target = target.parse().unwrap();
        targets
            .iter()
            .find(|(one, _)| *one == target)
            .unwrap()
            .1
            .clone()
    }

    /// When each connection was first asked for.
    fn rounds(&self) -> Vec<Duration> {
        let mut seen = Vec::new();
        let mut times = Vec::new();
        for sent in self.sent.iter().filter(|sent| !sent.reset) {
            if !seen.contains(&sent.connection) {
                seen.push(sent.connection);
                times.push(sent.at - self.start);
            }
        }
        times
    }
}

/// A packet of ours, checked as a target would.
fn read(packet: &[u8]) -> Sent {
    let ip = etherparse::Ipv4Slice::from_slice(packet).unwrap();
    let header = ip.header();
    assert_eq!(
        header.header_checksum(),
        header.to_header().calc_header_checksum()
    );
    assert_eq!(header.source_addr(), CLIENT);
    let tcp = TcpHeaderSlice::from_slice(ip.payload().payload).unwrap();
    assert_eq!(
        tcp.checksum(),
        tcp.calc_checksum_ipv4(&header, &[]).unwrap()
    );
    assert!(tcp.syn() != tcp.rst());
    Sent {
        at: Instant::now(),
        connection: Connection {
            client: SocketAddrV4::new(CLIENT, tcp.source_port()),
            target: SocketAddrV4::new(header.destination_addr(), tcp.destination_port()),
            sequence: if tcp.rst() {
                tcp.sequence_number().wrapping_sub(1)
            } else {
                tcp.sequence_number()
            },
        },
        reset: tcp.rst(),
    }
}

fn answer(connection: Connection, internet: Internet) -> Option<Vec<u8>> {
    let (client, target) = (connection.client, connection.target);
    let ip = PacketBuilderIpv4 {
        from: *target.ip(),
        to: *client.ip(),
    };
    let acknowledged = connection.sequence.wrapping_add(1);
    match internet {
        Internet::Accepts => {
            let tcp = ip.builder().tcp(target.port(), client.port(), 77, 1000);
            Some(write(tcp.syn().ack(acknowledged), &[]))
        }
        Internet::Refuses => {
            let tcp = ip.builder().tcp(target.port(), client.port(), 0, 0);
            Some(write(tcp.rst().ack(acknowledged), &[]))
        }
        Internet::Swallows => None,
        Internet::NoRoute => {
            let router = PacketBuilderIpv4 {
                from: ROUTER,
                to: *client.ip(),
            };
            let why = icmpv4::DestUnreachableHeader::Network;
            let icmp = router
                .builder()
                .icmpv4(Icmpv4Type::DestinationUnreachable(why));
            let quote = connection.syn();
            let mut packet = Vec::new();
            icmp.write(&mut packet, &quote[..28]).unwrap();
            Some(packet)
        }
    }
}

const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

struct PacketBuilderIpv4 {
    from: Ipv4Addr,
    to: Ipv4Addr,
}

impl PacketBuilderIpv4 {
    fn builder(&self) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        etherparse::PacketBuilder::ipv4(self.from.octets(), self.to.octets(), 60)
    }
}

fn write(builder: etherparse::PacketBuilderStep<etherparse::TcpHeader>, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    builder.write(&mut packet, payload).unwrap();
    packet
}

#[test]
fn nothing_is_claimed_before_the_first_answer() {
    let simulation = Simulation::new(&[NEAR]);
    let report = simulation.test.report();
    assert_eq!(report.verdict, Verdict::Untested);
    assert!(report.problem().is_some());
}

#[test]
fn the_first_answer_makes_it_well_and_each_connection_is_taken_back() {
    let mut simulation = Simulation::new(&[NEAR]);
    let verdicts = simulation.run(Duration::from_secs(5), |_| Internet::Accepts);
    assert_eq!(verdicts, [(LATENCY, Verdict::Well)]);
    assert_eq!(simulation.outcome(NEAR), Outcome::Accepted(LATENCY));
    let resets = simulation.sent.iter().filter(|sent| sent.reset);
    let resets: Vec<Connection> = resets.map(|sent| sent.connection).collect();
    assert_eq!(resets.len(), 5);
    assert_eq!(
        simulation.sent.len(),
        10,
        "one packet and one reset a second"
    );
    let mut ports: Vec<u16> = resets.iter().map(|reset| reset.client.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 5, "each connection is a new one to the kernel");
}

#[test]
fn a_refusal_is_an_answer_and_one_target_of_several_is_enough() {
    let mut simulation = Simulation::new(&[NEAR, FAR]);
    let far: SocketAddrV4 = FAR.parse().unwrap();
    let verdicts = simulation.run(Duration::from_secs(10), |target| {
        if target == far {
            Internet::Refuses
        } else {
            Internet::Swallows
        }
    });
    assert_eq!(verdicts, [(LATENCY, Verdict::Well)]);
    assert_eq!(simulation.outcome(NEAR), Outcome::Silent);
    assert_eq!(simulation.outcome(FAR), Outcome::Refused(LATENCY));
    assert_eq!(simulation.test.report().problem(), None);
    // A target that is silent hurries nothing.
    assert_eq!(simulation.rounds().len(), 2 * 10);
}

#[test]
fn silence_is_a_fault_within_two_and_a_half_seconds_whenever_it_begins() {
    for offset in (0..1000).step_by(50) {
        let mut simulation = Simulation::new(&[NEAR]);
        simulation.run(Duration::from_millis(3000 + offset), |_| Internet::Accepts);
        let verdicts = simulation.run(Duration::from_secs(20), |_| Internet::Swallows);
        let [(after, Verdict::Sick)] = verdicts[..] else {
            panic!("{offset}: {verdicts:?}");
        };
        assert!(
            after <= Duration::from_millis(2500) + STEP,
            "{offset}: {after:?}"
        );
        assert!(after > Duration::from_secs(1), "{offset}: {after:?}");
        let verdicts = simulation.run(Duration::from_secs(3), |_| Internet::Accepts);
        let [(after, Verdict::Well)] = verdicts[..] else {
            panic!("{offset}: {verdicts:?}");
        };
        // A packet sent again counts as well as a new connection.
        assert!(after <= INTERVAL + LATENCY + STEP, "{offset}: {after:?}");
    }
}

#[test]
fn what_a_router_says_is_known_sooner_than_silence_and_shown() {
    let mut simulation = Simulation::new(&[NEAR]);
    simulation.run(Duration::from_secs(3), |_| Internet::Accepts);
    let verdicts = simulation.run(Duration::from_secs(3), |_| Internet::NoRoute);
    let [(after, Verdict::Sick)] = verdicts[..] else {
        panic!("{verdicts:?}");
    };
    assert!(after <= Duration::from_millis(550), "{after:?}");
    assert_eq!(
        simulation.test.report().problem().unwrap(),
        "no way to the internet through this spoke's NAT \
         (203.0.113.80:443: no route to its network, says 10.1.0.1)"
    );
}

#[test]
fn one_bad_round_is_no_fault() {
    let mut simulation = Simulation::new(&[NEAR]);
    simulation.run(Duration::from_secs(3), |_| Internet::Accepts);
    for _ in 0..20 {
        let verdicts = simulation.run(Duration::from_millis(480), |_| Internet::Swallows);
        assert_eq!(verdicts, []);
        let verdicts = simulation.run(Duration::from_millis(1520), |_| Internet::Accepts);
        assert_eq!(verdicts, []);
    }
}

#[test]
fn while_it_lasts_a_fault_is_not_hurried() {
    let mut simulation = Simulation::new(&[NEAR]);
    simulation.run(Duration::from_secs(60), |_| Internet::Swallows);
    let rounds = simulation.rounds().len();
    assert!((58..=62).contains(&rounds), "{rounds}");
    // Each packet three times, and no more.
    assert!(
        simulation.sent.len() <= 3 * rounds,
        "{}",
        simulation.sent.len()
    );
}

#[test]
fn what_cannot_be_sent_is_a_fault_with_its_reason() {
    let mut simulation = Simulation::new(&[NEAR]);
    let mut now = simulation.now;
    for _ in 0..2 {
        assert!(!simulation.test.due(now, || 7).is_empty());
        simulation.test.unsent("the interface is down", now);
        now = simulation.test.next();
    }
    let report = simulation.test.report();
    assert_eq!(report.verdict, Verdict::Sick);
    assert_eq!(
        report.problem().unwrap(),
        "no way to the internet through this spoke's NAT \
         (203.0.113.80:443: nothing could be sent: the interface is down)"
    );
}

#[test]
fn without_targets_nothing_is_sent_and_nothing_is_well() {
    let mut simulation = Simulation::new(&[]);
    let now = simulation.now;
    assert!(simulation.test.due(now, || 7).is_empty());
    assert_eq!(simulation.test.report().verdict, Verdict::Untested);
}

#[test]
fn an_answer_that_does_not_know_the_connection_counts_for_nothing() {
    let mut simulation = Simulation::new(&[NEAR]);
    let packets = simulation
        .test
        .due(simulation.now, || 0x1234_5678_9abc_def0);
    let connection = read(&packets[0]).connection;
    let elsewhere: SocketAddrV4 = FAR.parse().unwrap();
    let other = |change: fn(&mut Connection)| {
        let mut other = connection;
        change(&mut other);
        other
    };
    for forged in [
        other(|other| other.sequence = other.sequence.wrapping_add(1)),
        other(|other| other.client.set_port(other.client.port() ^ 1)),
        Connection {
            target: elsewhere,
            ..connection
        },
    ] {
        for internet in [Internet::Accepts, Internet::Refuses, Internet::NoRoute] {
            let packet = answer(forged, internet).unwrap();
            let back = simulation.test.receive(&packet, simulation.now);
            // Only a target that was ever asked is told anything.
            let told = internet == Internet::Accepts && forged.target != elsewhere;
            assert_eq!(back.is_some(), told, "{forged:?} {internet:?}");
            assert_eq!(simulation.test.report().verdict, Verdict::Untested);
        }
    }
    let packet = answer(connection, Internet::Accepts).unwrap();
    simulation.test.receive(&packet, simulation.now);
    assert_eq!(simulation.test.report().verdict, Verdict::Well);
}

#[test]
fn a_target_inside_the_vpc_is_told() {
    let targets = [NEAR, "100.64.7.1:443"].map(|target| target.parse().unwrap());
    let cidrs = ["10.1.0.0/16", "100.64.0.0/16"].map(|cidr| cidr.parse().unwrap());
    assert_eq!(
        inside_vpc(&targets, &cidrs),
        [
            "self_test.targets: 100.64.7.1:443 is inside 100.64.0.0/16 of the VPC, which is not \
             masqueraded; expected an address of the internet"
        ]
    );
}

proptest! {
    #[test]
    fn nothing_that_comes_in_panics_or_counts(
        packet in proptest::collection::vec(any::<u8>(), 0..120),
        cut in 0_usize..80,
        flip in (0_usize..80, 1_u8..),
        internet in prop_oneof![
            Just(Internet::Accepts), Just(Internet::Refuses), Just(Internet::NoRoute)
        ],
    ) {
        let mut simulation = Simulation::new(&[NEAR]);
        let packets = simulation.test.due(simulation.now, || 0x1234_5678_9abc_def0);
        simulation.test.receive(&packet, simulation.now);
        prop_assert_eq!(simulation.test.report().verdict, Verdict::Untested);
        // And answers that are cut off or damaged.
        let mut real = answer(read(&packets[0]).connection, internet).unwrap();
        let _ = simulation.test.receive(&real[..cut.min(real.len())], simulation.now);
        if let Some(byte) = real.get_mut(flip.0) {
            *byte ^= flip.1;
        }
        let _ = simulation.test.receive(&real, simulation.now);
    }
}
