//! Changes of keys under a packet each way every 20 ms, over a network on which a
//! datagram takes 30 ms: so there is always something under way with the old keys.
//! Not one packet is lost, nor comes twice or in another order.

use super::*;

const LATENCY: Duration = Duration::from_millis(30);
const STEP: Duration = Duration::from_millis(10);

/// Two nodes of a world with traffic between them.
struct Traffic {
    world: World,
    under_way: VecDeque<(Instant, SocketAddr, SocketAddr, Vec<u8>)>,
    /// Numbers of the packets sent by each node, and of those that reached it.
    sent: [Vec<u32>; 2],
    arrived: [Vec<u32>; 2],
    steps: u32,
    /// The number of each node's latest keys.
    keys: [u8; 2],
}

impl Traffic {
    fn new(mut world: World) -> Self {
        world.send(0, &there());
        world.send(1, &back());
        assert_eq!((world.tun(0).len(), world.tun(1).len()), (1, 1));
        Self {
            world,
            under_way: VecDeque::new(),
            sent: Default::default(),
            arrived: Default::default(),
            steps: 0,
            keys: [0; 2],
        }
    }

    /// With one preshared key on both sides.
    fn with_key(workers: usize, byte: u8) -> Self {
        Self::new(pair_with(workers, [Some(key(byte)), Some(key(byte))]))
    }

    fn run(&mut self, time: Duration) {
        let end = self.world.now + time;
        while self.world.now < end {
            self.steps += 1;
            if self.steps.is_multiple_of(2) {
                self.send(0);
                self.send(1);
            }
            self.carry();
            self.world.now += STEP;
        }
    }

    fn send(&mut self, node: usize) {
        let number = self.steps;
        let mut packet = if node == 0 { there() } else { back() };
        let place = packet.len() - 4;
        packet[place..].copy_from_slice(&number.to_be_bytes());
        self.sent[node].push(number);
        let now = self.world.now;
        self.world.nodes[node].send(&packet, now);
    }

    fn carry(&mut self) {
        let now = self.world.now;
        for node in 0..self.world.nodes.len() {
            let from = self.world.nodes[node].address;
            for (to, bytes) in self.world.nodes[node].turn(now) {
                self.under_way.push_back((now + LATENCY, from, to, bytes));
            }
        }
        while let Some((_, from, to, bytes)) = self.under_way.pop_front_if(|sent| sent.0 <= now) {
            if let Some(node) = self.world.nodes.iter_mut().find(|node| node.address == to) {
                node.receive(from, &bytes, now);
            }
            self.world.wire.push((from, to, bytes));
        }
        for node in 0..2 {
            for packet in self.world.tun(node) {
                let number = packet
                    .last_chunk()
                    .map(|number| u32::from_be_bytes(*number));
                self.arrived[1 - node].push(number.unwrap());
            }
        }
    }

    /// Everything sent so far arrives.
    #[track_caller]
    fn has_lost_nothing(&mut self) {
        for _ in 0..10 {
            self.carry();
            self.world.now += STEP;
        }
        for node in [0, 1] {
            let lost = self.sent[node]
                .iter()
                .find(|number| !self.arrived[node].contains(number));
            assert_eq!(lost, None, "of node {node}, of {}", self.sent[node].len());
            assert_eq!(self.arrived[node], self.sent[node]);
        }
    }

    /// A node gets other preshared keys: one, or the one and what may be instead.
    fn set_keys(&mut self, node: usize, keys: &[u8]) {
        self.keys[node] += 2;
        let other = self.world.nodes[1 - node].key.public();
        let known = &self.world.nodes[node];
        let index = known.peers[0].1;
        let numbered = index.with_keys(self.keys[node]);
        let mut tunnel = Tunnel::new(&known.identity, &other, Some(&key(keys[0])), numbered);
        for also in &keys[1..] {
            tunnel = tunnel.or(&key(*also));
        }
        self.update(node, index, Rekey::MakeBeforeBreak(tunnel));
    }

    fn update(&mut self, node: usize, index: PeerIndex, keys: Rekey) {
        let now = self.world.now;
        let node = &mut self.world.nodes[node];
        let owner = index.owner(node.shards.len());
        let update = PeerUpdate {
            keys: Some(keys),
            ..PeerUpdate::default()
        };
        node.shards[owner].update(index, update, now);
    }

    /// How many sets of keys a node has of its first peer.
    fn key_sets(&mut self, node: usize) -> usize {
        let node = &mut self.world.nodes[node];
        let index = node.peers[0].1;
        let owner = index.owner(node.shards.len());
        node.shards[owner].peers.get_mut(index).unwrap().key_sets()
    }
}

fn key(byte: u8) -> PresharedKey {
    PresharedKey::from_bytes([byte; 32])
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_preshared_key_that_comes_later_on_the_other_side_loses_no_packet() {
    for (workers, first) in [(1, 0), (1, 1), (3, 0)] {
        let mut traffic = Traffic::with_key(workers, 1);
        traffic.run(seconds(2));
        traffic.set_keys(first, &[2]);
        traffic.run(seconds(30));
        assert_eq!(traffic.world.nodes[first].count(Counter::Handshakes), 1);
        traffic.set_keys(1 - first, &[2]);
        traffic.run(seconds(1));
        for node in [0, 1] {
            assert!(traffic.world.nodes[node].count(Counter::Handshakes) > 1);
        }
        traffic.run(seconds(30));
        traffic.has_lost_nothing();
        assert_eq!((traffic.key_sets(0), traffic.key_sets(1)), (1, 1));
    }
}

#[test]
fn both_sides_may_change_at_one_moment() {
    let mut traffic = Traffic::with_key(1, 1);
    traffic.run(seconds(2));
    traffic.set_keys(0, &[2]);
    traffic.set_keys(1, &[2]);
    traffic.run(seconds(25));
    traffic.has_lost_nothing();
    assert_eq!((traffic.key_sets(0), traffic.key_sets(1)), (1, 1));
}

#[test]
fn many_changes_in_a_row_lose_no_packet() {
    let mut traffic = Traffic::with_key(1, 1);
    for byte in 2..14 {
        traffic.run(seconds(2));
        traffic.set_keys(0, &[byte]);
        traffic.run(Duration::from_millis(40));
        traffic.set_keys(1, &[byte]);
    }
    traffic.run(seconds(25));
    traffic.has_lost_nothing();
    assert_eq!((traffic.key_sets(0), traffic.key_sets(1)), (1, 1));
}

#[test]
fn what_the_old_keys_sealed_opens_nothing_once_they_are_gone() {
    let mut traffic = Traffic::with_key(1, 1);
    let now = traffic.world.now;
    // Taken off the wire, and kept.
    traffic.world.nodes[0].send(&there(), now);
    let (_, kept) = traffic.world.nodes[0].turn(now).remove(0);
    for node in [0, 1] {
        traffic.set_keys(node, &[2]);
    }
    traffic.run(seconds(20));
    traffic.has_lost_nothing();
    let (from, now) = (traffic.world.nodes[0].address, traffic.world.now);
    traffic.world.nodes[1].receive(from, &kept, now);
    traffic.carry();
    assert_eq!(traffic.arrived[0], traffic.sent[0]);
    assert_eq!(traffic.world.nodes[1].count(Counter::UnknownIndex), 1);
}

#[test]
fn a_side_that_never_follows_is_heard_until_its_session_ends_and_no_longer() {
    for first in [0, 1] {
        let mut traffic = Traffic::with_key(1, 1);
        traffic.run(seconds(10));
        traffic.set_keys(first, &[2]);
        // An answer to each of these tries is a session that nobody uses, more than
        // boringtun keeps.
        traffic.run(seconds(168));
        traffic.has_lost_nothing();
        traffic.run(seconds(5));
        let [there, back] = [0, 1].map(|node| traffic.arrived[node].len());
        traffic.run(seconds(10));
        assert_eq!(
            [0, 1].map(|node| traffic.arrived[node].len()),
            [there, back]
        );
        traffic.set_keys(1 - first, &[2]);
        traffic.run(seconds(7));
        assert!(traffic.arrived[0].len() > there && traffic.arrived[1].len() > back);
    }
}

#[test]
fn a_fleet_changes_its_secret_side_by_side_without_losing_a_packet() {
    for first in [0, 1] {
        let mut traffic = Traffic::with_key(1, 1);
        let handshakes = |traffic: &Traffic| traffic.world.nodes[first].count(Counter::Handshakes);
        let steps: [(usize, &[u8]); 4] = [
            (first, &[2, 1]),
            (1 - first, &[2, 1]),
            (first, &[2]),
            (1 - first, &[2]),
        ];
        for (node, keys) in steps {
            let before = handshakes(&traffic);
            traffic.set_keys(node, keys);
            traffic.run(seconds(40));
            // Every step leads to a session: nobody lives on what is left of the old.
            assert!(handshakes(&traffic) > before, "{keys:?}");
        }
        traffic.has_lost_nothing();
        assert_eq!((traffic.key_sets(0), traffic.key_sets(1)), (1, 1));
    }
}

#[test]
fn one_of_two_preshared_keys_is_enough_for_a_first_session() {
    let cases: [[&[u8]; 2]; 5] = [
        [&[2, 1], &[1]],
        [&[1], &[2, 1]],
        [&[2, 1], &[1, 2]],
        [&[2], &[1, 2]],
        [&[1, 2], &[2]],
    ];
    for keys in cases {
        let mut world = pair();
        for (node, keys) in keys.into_iter().enumerate() {
            let other = world.nodes[1 - node].key.public();
            let known = &world.nodes[node];
            let index = known.peers[0].1;
            let mut tunnel = Tunnel::new(&known.identity, &other, Some(&key(keys[0])), index);
            for also in &keys[1..] {
                tunnel = tunnel.or(&key(*also));
            }
            let update = PeerUpdate {
                keys: Some(Rekey::AtOnce(Some(tunnel))),
                ..PeerUpdate::default()
            };
            let now = world.now;
            world.nodes[node].shards[0].update(index, update, now);
        }
        // The first try may be with the wrong one; the second is not.
        world.send(0, &there());
        world.advance(Duration::from_millis(5500));
        world.advance(Duration::from_millis(10));
        assert_eq!(world.tun(1).len(), 1, "{keys:?}");
        world.send(1, &back());
        assert_eq!(world.tun(0).len(), 1, "{keys:?}");
    }
}

/// The first node comes to another key of its own, which the second knows as
/// another peer of the same gateway.
#[test]
fn a_change_of_the_own_key_loses_no_packet() {
    let mut traffic = Traffic::new(pair());
    traffic.run(seconds(2));
    let next = PrivateKey::from_random([55; 32]);
    let address = traffic.world.nodes[0].address;

    // The other side is told of the next key, through the tunnel.
    let now = traffic.world.now;
    let second = &mut traffic.world.nodes[1];
    second.add(next.public(), address, Knows::default(), now);
    let gateway = ["vpc-1", "i-1"];
    second.sites = second.peers.iter().map(|peer| (peer.1, gateway)).collect();
    second.publish();
    traffic.run(seconds(2));

    // The key is changed.
    let first = &mut traffic.world.nodes[0];
    first.identity = Arc::new(Identity::new(&next));
    first.publish();
    let (other, index) = (first.peers[0].0, first.peers[0].1);
    let tunnel = Tunnel::new(&first.identity, &other, None, index.with_keys(1));
    traffic.update(0, index, Rekey::MakeBeforeBreak(tunnel));
    traffic.run(seconds(20));
    let report = traffic.world.nodes[1].peers[1].2.report();
    assert!(report.last_handshake.is_some());

    // The other side sees that it works, and gives it all that the old one had.
    let second = &mut traffic.world.nodes[1];
    let prefixes = std::mem::take(&mut second.peers[0].3);
    second.peers[1].3 = prefixes;
    second.publish();
    traffic.run(seconds(2));
    traffic.has_lost_nothing();

    // And lets the old one go.
    let second = &mut traffic.world.nodes[1];
    let (_, old, _, _) = second.peers.remove(0);
    second.shards[0].remove(old);
    second.sites.remove(0);
    second.publish();
    traffic.run(seconds(20));
    traffic.has_lost_nothing();
    assert_eq!(traffic.key_sets(0), 1);
}

#[test]
fn what_is_replayed_after_a_change_moves_nothing() {
    let mut traffic = Traffic::with_key(1, 1);
    traffic.run(seconds(2));
    let addresses = [0, 1].map(|node| traffic.world.nodes[node].address);
    let elsewhere = SocketAddr::from(([203, 0, 113, 66], 6666));
    for change in [0, 1] {
        traffic.set_keys(change, &[2]);
        traffic.run(seconds(1));
        // From before and since, to whom it was for.
        for (_, to, bytes) in traffic.world.wire.clone() {
            let now = traffic.world.now;
            let node = traffic.world.nodes.iter_mut();
            for node in node.filter(|node| node.address == to) {
                node.receive(elsewhere, &bytes, now);
            }
        }
        traffic.carry();
        for node in [0, 1] {
            let endpoint = traffic.world.nodes[node].peers[0].2.report().endpoint;
            assert_eq!(endpoint, Some(addresses[1 - node]));
        }
        traffic.run(seconds(20));
        traffic.has_lost_nothing();
    }
    assert_eq!((traffic.key_sets(0), traffic.key_sets(1)), (1, 1));
}

#[test]
fn new_keys_without_a_session_wait_for_a_packet_as_any_do() {
    let mut world = pair();
    let known = &world.nodes[0];
    let (other, index) = (known.peers[0].0, known.peers[0].1);
    let tunnel = Tunnel::new(&known.identity, &other, None, index.with_keys(2));
    let update = PeerUpdate {
        keys: Some(Rekey::MakeBeforeBreak(tunnel)),
        ..PeerUpdate::default()
    };
    let now = world.now;
    world.nodes[0].shards[0].update(index, update, now);
    world.advance(Duration::from_secs(10));
    assert!(world.wire.is_empty());
    world.send(0, &there());
    assert_eq!(world.tun(1), [there()]);
}

#[test]
fn the_other_side_may_go_back_to_the_key_of_before() {
    let mut traffic = Traffic::with_key(1, 1);
    for (node, keys) in [(0, &[2, 1][..]), (1, &[2]), (1, &[1]), (1, &[2])] {
        traffic.set_keys(node, keys);
        traffic.run(seconds(40));
        traffic.has_lost_nothing();
    }
    assert_eq!(traffic.key_sets(1), 1);
}

/// Lets the first node begin a handshake, and returns its initiation, which has not
/// left, and how many responses the second gives to it.
fn initiation_and_answers(traffic: &mut Traffic) -> (Vec<u8>, usize) {
    traffic.set_keys(0, &[1]);
    let now = traffic.world.now;
    let sent = traffic.world.nodes[0].turn(now);
    let (_, initiation) = sent
        .into_iter()
        .find(|sent| sent.1.len() == INITIATION)
        .unwrap();
    let answers = answers(traffic, &initiation);
    (initiation, answers.len())
}

/// What the second node answers to an initiation of the first.
fn answers(traffic: &mut Traffic, initiation: &[u8]) -> Vec<Vec<u8>> {
    let (from, now) = (traffic.world.nodes[0].address, traffic.world.now);
    let second = &mut traffic.world.nodes[1];
    second.receive(from, initiation, now);
    let sent = second.turn(now).into_iter().map(|sent| sent.1);
    sent.filter(|message| message.len() == RESPONSE).collect()
}

#[test]
fn an_initiation_has_as_many_answers_as_there_are_keys_in_doubt_and_a_replay_none() {
    let mut traffic = Traffic::with_key(1, 1);
    traffic.set_keys(1, &[2, 1]);
    traffic.run(seconds(20));
    // It is known which one works.
    let (first, count) = initiation_and_answers(&mut traffic);
    assert_eq!(count, 1);
    // The answer did not arrive, so it is in doubt again.
    let (_, count) = initiation_and_answers(&mut traffic);
    assert_eq!(count, 2);
    // The keys that did not see the first initiation would take it now.
    let failed = traffic.world.nodes[1].count(Counter::HandshakeFailed);
    assert!(answers(&mut traffic, &first).is_empty());
    assert_eq!(
        traffic.world.nodes[1].count(Counter::HandshakeFailed),
        failed + 1
    );
    traffic.run(seconds(20));
    traffic.has_lost_nothing();
}
