//! Shards that talk to each other through memory. A node here is a device: one
//! shard per worker, with an address; the network gives each datagram to one of
//! the receiver's workers in turn, as if the kernel had never heard of steering.
#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
#![expect(clippy::disallowed_methods, reason = "a test begins at some time")]

use std::collections::VecDeque;
use std::time::Duration;

use ipnet::IpNet;
use privnet_model::key::{PresharedKey, PrivateKey, PublicKey};
use proptest::prelude::*;

use std::net::SocketAddr;

use super::pace::{BUSY_BYTES, HANDSHAKE_PAUSE, HANDSHAKES_PER_TICK};
use super::*;
use crate::allowed_ips::AllowedIps;
use crate::identity::Identity;
use crate::index::IndexAllocator;
use crate::packet::tests::{ones_sum, packet};
use crate::peer::{PeerStats, Rekey, Tunnel};
use crate::policy::Policy;
use crate::site::{Member, Sites};

mod policy;
mod rekeying;
mod sites;
mod super_packets;

const MTU: usize = 1420;

struct Node {
    key: PrivateKey,
    address: SocketAddr,
    identity: Arc<Identity>,
    shards: Vec<Shard>,
    outs: Vec<Outputs>,
    counters: Vec<Arc<Counters>>,
    allocator: IndexAllocator,
    peers: Vec<(PublicKey, PeerIndex, Arc<PeerStats>, Vec<IpNet>)>,
    local: Vec<IpNet>,
    /// The site of each peer that is a gateway of one, and which gateway.
    sites: Vec<(PeerIndex, [&'static str; 2])>,
    policy: Option<Arc<Policy>>,
    tun: Vec<Vec<u8>>,
    knocks: Vec<PublicKey>,
    turn: usize,
}

/// What one node knows of another.
#[derive(Default)]
struct Knows<'a> {
    allowed_ips: &'a [&'a str],
    endpoint: bool,
    keepalive: Option<Duration>,
    preshared: Option<PresharedKey>,
}

impl Node {
    fn new(seed: u8, workers: usize, relay: bool) -> Self {
        let key = PrivateKey::from_random([seed; 32]);
        let counters: Vec<Arc<Counters>> = (0..workers).map(|_| Arc::default()).collect();
        let shards = (0..workers).map(|worker| {
            Shard::new(ShardConfig {
                worker,
                workers,
                relay,
                mtu: MTU,
                counters: Arc::clone(&counters[worker]),
            })
        });
        let mut node = Self {
            identity: Arc::new(Identity::new(&key)),
            key,
            address: SocketAddr::from(([192, 0, 2, seed], 51820)),
            shards: shards.collect(),
            outs: (0..workers).map(|_| Outputs::new(workers)).collect(),
            counters,
            allocator: IndexAllocator::default(),
            peers: Vec::new(),
            local: Vec::new(),
            sites: Vec::new(),
            policy: None,
            tun: Vec::new(),
            knocks: Vec::new(),
            turn: 0,
        };
        node.publish();
        node
    }

    fn add(&mut self, key: PublicKey, address: SocketAddr, knows: Knows<'_>, now: Instant) {
        let index = self.allocator.allocate().unwrap();
        let stats = Arc::<PeerStats>::default();
        let tunnel = Tunnel::new(&self.identity, &key, knows.preshared.as_ref(), index);
        let peer = Peer::new(
            index,
            Some(tunnel),
            knows.endpoint.then_some(address),
            knows.keepalive,
            Arc::clone(&stats),
        );
        let owner = index.owner(self.shards.len());
        self.shards[owner].insert(Box::new(peer), now);
        let prefixes = knows
            .allowed_ips
            .iter()
            .map(|prefix| prefix.parse().unwrap());
        self.peers.push((key, index, stats, prefixes.collect()));
        self.publish();
    }

    fn publish(&mut self) {
        let peers = self.peers.iter().flat_map(|(_, index, _, prefixes)| {
            prefixes
                .iter()
                .map(|prefix| (*prefix, Target::Peer(*index)))
        });
        let local = self.local.iter().map(|prefix| (*prefix, Target::Local));
        let sites = Sites::new(self.sites.iter().map(|(peer, [site, gateway])| Member {
            peer: *peer,
            site: Some(site),
            gateway: Some(gateway),
        }));
        let directory = Arc::new(Directory {
            identity: Some(Arc::clone(&self.identity)),
            peers: self.peers.iter().map(|peer| (peer.0, peer.1)).collect(),
            allowed_ips: AllowedIps::new(peers.chain(local)).with_sites(sites),
            policy: self.policy.clone(),
        });
        for shard in &mut self.shards {
            shard.set_directory(Arc::clone(&directory));
        }
    }

    fn endpoint_of(&self, peer: &Node) -> Option<SocketAddr> {
        let key = peer.key.public();
        let stats = &self.peers.iter().find(|known| known.0 == key).unwrap().2;
        stats.report().endpoint
    }

    fn count(&self, counter: Counter) -> u64 {
        self.counters
            .iter()
            .map(|counters| counters.get(counter))
            .sum()
    }

    fn next_worker(&mut self) -> usize {
        self.turn += 1;
        self.turn % self.shards.len()
    }

    /// A packet comes out of the node's TUN.
    fn send(&mut self, packet: &[u8], now: Instant) {
        let mut buffer = packet.to_vec();
        buffer.resize(packet.len() + PADDING, 0xaa);
        let worker = self.next_worker();
        self.shards[worker].packet(
            &mut buffer,
            packet.len(),
            PacketOffload::default(),
            now,
            &mut self.outs[worker],
        );
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        let worker = self.next_worker();
        let outer = Path::from(from).into();
        self.shards[worker].datagrams(outer, datagram.len(), datagram, now, &mut self.outs[worker]);
    }

    /// Ticks what wants to, passes parcels on, and takes the outputs.
    fn turn(&mut self, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut sent = Vec::new();
        for _ in 0..100 {
            let mut idle = true;
            for worker in 0..self.shards.len() {
                let (shard, out) = (&mut self.shards[worker], &mut self.outs[worker]);
                if shard.next_tick(now).is_some_and(|at| at <= now) {
                    shard.tick(now, out);
                    idle = false;
                }
                for (path, datagram) in out.datagrams.iter() {
                    sent.push((path.remote, datagram.to_vec()));
                }
                out.datagrams.clear();
                for write in out.packets.writes() {
                    self.tun.extend(write.packets().map(<[u8]>::to_vec));
                }
                out.packets.clear();
                self.knocks.append(&mut out.knocks);
                for other in 0..self.shards.len() {
                    let mut parcel = std::mem::take(&mut self.outs[worker].parcels[other]);
                    idle &= parcel.is_empty();
                    self.shards[other].take_parcel(&mut parcel, now, &mut self.outs[other]);
                    self.outs[worker].parcels[other] = parcel;
                }
            }
            if idle {
                return sent;
            }
        }
        panic!("a node never comes to rest");
    }
}

/// Nodes with a network between them.
struct World {
    nodes: Vec<Node>,
    now: Instant,
    /// Every datagram that was ever under way.
    wire: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
}

impl World {
    fn new(nodes: Vec<Node>) -> Self {
        Self {
            nodes,
            now: Instant::now(),
            wire: Vec::new(),
        }
    }

    fn introduce(&mut self, node: usize, to: usize, knows: Knows<'_>) {
        let (key, address) = (self.nodes[to].key.public(), self.nodes[to].address);
        let now = self.now;
        self.nodes[node].add(key, address, knows, now);
    }

    /// Lets everything that is under way arrive, and all that follows from it.
    fn settle(&mut self) {
        for _ in 0..100 {
            let mut under_way = VecDeque::new();
            for node in &mut self.nodes {
                let from = node.address;
                let sent = node.turn(self.now);
                under_way.extend(sent.into_iter().map(|(to, bytes)| (from, to, bytes)));
            }
            if under_way.is_empty() {
                return;
            }
            for (from, to, bytes) in under_way {
                if let Some(node) = self.nodes.iter_mut().find(|node| node.address == to) {
                    node.receive(from, &bytes, self.now);
                }
                self.wire.push((from, to, bytes));
            }
        }
        panic!("the network never comes to rest");
    }

    fn send(&mut self, node: usize, packet: &[u8]) {
        let now = self.now;
        self.nodes[node].send(packet, now);
        self.settle();
    }

    /// Our own time; boringtun reads the system's clock and stays where it is.
    fn advance(&mut self, time: Duration) {
        self.now += time;
        self.settle();
    }

    fn tun(&mut self, node: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.nodes[node].tun)
    }
}

/// Two nodes, the first of which knows where the second is.
fn pair_with(workers: usize, preshared: [Option<PresharedKey>; 2]) -> World {
    let mut world = World::new(vec![
        Node::new(1, workers, false),
        Node::new(2, workers, false),
    ]);
    let [first, second] = preshared;
    world.introduce(
        0,
        1,
        Knows {
            allowed_ips: &["10.2.0.0/16", "fd00:2::/32"],
            endpoint: true,
            preshared: first,
            ..Knows::default()
        },
    );
    world.introduce(
        1,
        0,
        Knows {
            allowed_ips: &["10.1.0.0/16", "fd00:1::/32"],
            preshared: second,
            ..Knows::default()
        },
    );
    world
}

fn pair() -> World {
    pair_with(1, [None, None])
}

/// A hub between two spokes that have the whole privnet behind it.
fn star(workers: usize) -> World {
    star_of(
        [1, 1, workers],
        [
            &["10.1.0.0/16", "fd00:1::/32"],
            &["10.2.0.0/16", "fd00:2::/32"],
        ],
    )
}

/// The same with so many workers in each spoke and in the hub, and with these
/// networks behind the spokes.
fn star_of(workers: [usize; 3], behind: [&[&str]; 2]) -> World {
    let mut world = World::new(vec![
        Node::new(1, workers[0], false),
        Node::new(2, workers[1], false),
        Node::new(9, workers[2], true),
    ]);
    for (spoke, own) in behind.into_iter().enumerate() {
        let behind_hub = Knows {
            allowed_ips: &["10.0.0.0/8", "fd00::/8"],
            endpoint: true,
            keepalive: Some(Duration::from_secs(25)),
            ..Knows::default()
        };
        world.introduce(spoke, 2, behind_hub);
        let behind_spoke = Knows {
            allowed_ips: own,
            ..Knows::default()
        };
        world.introduce(2, spoke, behind_spoke);
    }
    world.settle();
    world
}

fn there() -> Vec<u8> {
    packet("10.1.0.1", "10.2.0.1", 64, 100)
}

fn back() -> Vec<u8> {
    packet("10.2.0.1", "10.1.0.1", 64, 100)
}

#[test]
fn a_first_packet_waits_for_the_handshake_and_both_ways_carry_both_families() {
    for workers in [1, 3] {
        let mut world = pair_with(workers, [None, None]);
        world.send(0, &there());
        assert_eq!(world.tun(1), [there()]);
        world.send(1, &back());
        assert_eq!(world.tun(0), [back()]);
        let six = packet("fd00:1::1", "fd00:2::1", 64, 1380);
        world.send(0, &six);
        assert_eq!(world.tun(1), [six]);
        for node in &world.nodes {
            assert_eq!(node.count(Counter::Handshakes), 1);
            let report = node.peers[0].2.report();
            assert!(report.last_handshake.is_some());
            assert!(report.received_bytes > 0 && report.sent_bytes > 0);
        }
        // What one side sent the other received, byte for byte.
        let reports: Vec<_> = world.nodes.iter().map(|n| n.peers[0].2.report()).collect();
        assert_eq!(reports[0].sent_bytes, reports[1].received_bytes);
        assert_eq!(reports[1].sent_bytes, reports[0].received_bytes);
    }
}

#[test]
fn data_is_padded_to_sixteen_bytes_but_not_beyond_the_mtu() {
    let mut world = pair();
    world.send(0, &there());
    world.wire.clear();
    for (payload, sealed) in [(1, 32 + 32), (12, 32 + 32), (13, 48 + 32), (1400, MTU + 32)] {
        let sent = packet("10.1.0.1", "10.2.0.1", 64, payload);
        world.send(0, &sent);
        assert_eq!(world.wire.pop().unwrap().2.len(), sealed);
        assert_eq!(world.tun(1).pop().unwrap(), sent);
    }
}

#[test]
fn only_the_latest_packets_wait_when_nobody_answers() {
    let mut world = pair();
    for payload in 0..20 {
        let sent = packet("10.1.0.1", "10.2.0.1", 64, payload);
        let now = world.now;
        world.nodes[0].send(&sent, now);
    }
    assert_eq!(world.nodes[0].count(Counter::QueueOverflow), 4);
    world.settle();
    let arrived = world.tun(1);
    assert_eq!(arrived.len(), 16);
    assert_eq!(arrived[0], packet("10.1.0.1", "10.2.0.1", 64, 4));
}

#[test]
fn a_peer_that_moves_is_answered_where_it_is() {
    let mut world = pair();
    world.send(0, &there());
    let moved = SocketAddr::from(([198, 51, 100, 7], 4000));
    world.nodes[0].address = moved;
    world.send(0, &there());
    assert_eq!(world.nodes[1].endpoint_of(&world.nodes[0]), Some(moved));
    world.tun(0);
    world.send(1, &back());
    assert_eq!(world.tun(0), [back()]);
}

#[test]
fn a_replayed_message_is_dropped_and_moves_nobody() {
    let mut world = pair();
    world.send(0, &there());
    world.tun(1);
    let home = world.nodes[0].address;
    let elsewhere = SocketAddr::from(([203, 0, 113, 66], 6666));
    for (_, _, bytes) in world.wire.clone() {
        let now = world.now;
        world.nodes[1].receive(elsewhere, &bytes, now);
    }
    world.settle();
    assert!(world.tun(1).is_empty());
    assert_eq!(world.nodes[1].endpoint_of(&world.nodes[0]), Some(home));
    assert!(world.nodes[1].count(Counter::Replayed) > 0);
    assert!(world.nodes[1].count(Counter::HandshakeFailed) > 0);
}

#[test]
fn an_initiation_alone_moves_nobody() {
    let mut world = pair();
    world.send(0, &there());
    // New key material on the one side forgets which initiations it has seen.
    let index = world.nodes[1].peers[0].1;
    let key = world.nodes[0].key.public();
    let tunnel = Tunnel::new(&world.nodes[1].identity, &key, None, index);
    let update = PeerUpdate {
        keys: Some(Rekey::AtOnce(Some(tunnel))),
        ..PeerUpdate::default()
    };
    let now = world.now;
    world.nodes[1].shards[0].update(index, update, now);
    let initiation = world.wire.iter().find(|sent| sent.2.len() == INITIATION);
    let (home, _, bytes) = initiation.unwrap().clone();
    let elsewhere = SocketAddr::from(([203, 0, 113, 66], 6666));
    world.nodes[1].receive(elsewhere, &bytes, now);
    world.settle();
    assert_eq!(world.nodes[1].count(Counter::HandshakeFailed), 0);
    assert_eq!(world.nodes[1].endpoint_of(&world.nodes[0]), Some(home));
}

#[test]
fn preshared_keys_must_agree() {
    let key = |byte| Some(PresharedKey::from_bytes([byte; 32]));
    let mut world = pair_with(1, [key(7), key(7)]);
    world.send(0, &there());
    assert_eq!(world.tun(1), [there()]);
    for preshared in [[key(7), key(8)], [key(7), None], [None, key(7)]] {
        let mut world = pair_with(1, preshared);
        world.send(0, &there());
        assert!(world.tun(1).is_empty());
        assert_eq!(world.nodes[0].count(Counter::Handshakes), 0);
        assert_eq!(world.nodes[0].count(Counter::HandshakeFailed), 1);
    }
}

#[test]
fn a_changed_preshared_key_takes_effect_and_keeps_address_and_counters() {
    let mut world = pair();
    world.send(0, &there());
    let before = world.nodes[1].peers[0].2.report();
    for node in [0, 1] {
        let other = world.nodes[1 - node].key.public();
        let index = world.nodes[node].peers[0].1;
        let preshared = PresharedKey::from_bytes([5; 32]);
        let tunnel = Tunnel::new(&world.nodes[node].identity, &other, Some(&preshared), index);
        let update = PeerUpdate {
            keys: Some(Rekey::AtOnce(Some(tunnel))),
            ..PeerUpdate::default()
        };
        let now = world.now;
        world.nodes[node].shards[0].update(index, update, now);
    }
    world.tun(1);
    world.send(0, &there());
    assert_eq!(world.tun(1), [there()]);
    let after = world.nodes[1].peers[0].2.report();
    assert_eq!(after.endpoint, before.endpoint);
    assert!(after.received_bytes > before.received_bytes);
}

#[test]
fn a_handshake_with_the_wrong_key_fails_and_an_unknown_key_knocks() {
    let mut world = World::new(vec![Node::new(1, 1, false), Node::new(2, 1, false)]);
    let (stranger, now) = (PrivateKey::from_random([77; 32]).public(), world.now);
    let address = world.nodes[1].address;
    let knows = || Knows {
        allowed_ips: &["10.2.0.0/16"],
        endpoint: true,
        ..Knows::default()
    };
    // The first takes the second for somebody else.
    world.nodes[0].add(stranger, address, knows(), now);
    world.send(0, &there());
    assert_eq!(world.nodes[1].count(Counter::WrongMac), 1);
    // The second has never heard of the first.
    let mut world = World::new(vec![Node::new(1, 1, false), Node::new(2, 1, false)]);
    world.introduce(0, 1, knows());
    world.send(0, &there());
    assert_eq!(world.nodes[1].count(Counter::Knocks), 1);
    assert_eq!(world.nodes[1].knocks, [world.nodes[0].key.public()]);
    assert!(world.nodes[0].count(Counter::Handshakes) == 0);
}

#[test]
fn a_source_that_is_not_the_senders_is_dropped() {
    let mut world = pair();
    world.send(0, &there());
    world.tun(1);
    for source in ["10.2.0.9", "10.99.0.1", "127.0.0.1"] {
        world.send(0, &packet(source, "10.2.0.1", 64, 10));
    }
    assert!(world.tun(1).is_empty());
    assert_eq!(world.nodes[1].count(Counter::SourceMismatch), 3);
}

#[test]
fn a_source_of_our_own_side_is_dropped_even_from_a_peer_with_everything_behind_it() {
    let mut world = star(1);
    world.nodes[1].local = vec!["10.2.0.0/16".parse().unwrap()];
    world.nodes[1].publish();
    let mut stolen = packet("10.2.0.5", "10.2.0.1", 64, 10);
    // The hub relays nothing of the kind, so it is sent as by the hub itself.
    let now = world.now;
    let peer = world.nodes[2].peers[1].1;
    let length = stolen.len();
    stolen.resize(length + PADDING, 0);
    let hub = &mut world.nodes[2];
    hub.shards[0].send_to(
        peer,
        &mut stolen,
        length,
        PacketOffload::default(),
        now,
        &mut hub.outs[0],
    );
    world.settle();
    assert!(world.tun(1).is_empty());
    assert_eq!(world.nodes[1].count(Counter::SourceMismatch), 1);
}

#[test]
fn a_hub_relays_with_one_hop_less_and_without_its_tun() {
    for workers in [1, 2, 3] {
        let mut world = star(workers);
        world.send(0, &there());
        let arrived = world.tun(1);
        assert_eq!(arrived.len(), 1, "{workers} workers");
        assert_eq!(arrived[0][8], 63);
        assert_eq!(ones_sum(&arrived[0][..20]), 0xffff);
        assert_eq!(arrived[0][20..], there()[20..]);
        let six = packet("fd00:2::1", "fd00:1::1", 10, 100);
        world.send(1, &six);
        assert_eq!(world.tun(0)[0][7], 9);
        assert!(world.tun(2).is_empty());
        assert_eq!(world.nodes[2].count(Counter::Relayed), 2);
    }
}

#[test]
fn what_needs_an_icmp_answer_reaches_the_hubs_kernel() {
    let mut world = star(1);
    let last_hop = packet("10.1.0.1", "10.2.0.1", 1, 10);
    world.send(0, &last_hop);
    assert_eq!(world.tun(2), [last_hop]);
    let large = packet("10.1.0.1", "10.2.0.1", 64, 1381);
    world.nodes[2].shards[0].set_mtu(1400);
    world.send(0, &large);
    assert_eq!(world.tun(2), [large]);
    assert!(world.tun(1).is_empty());
}

#[test]
fn a_hub_sends_nothing_back_to_where_it_came_from() {
    let mut world = star(1);
    world.send(0, &packet("10.1.0.1", "10.1.0.2", 64, 10));
    assert!(world.tun(0).is_empty());
    assert_eq!(world.nodes[2].count(Counter::Hairpin), 1);
}

#[test]
fn a_peer_with_address_and_keepalive_has_a_session_as_soon_as_it_is_added() {
    let mut world = star(1);
    // The spokes began; the hub can send at once.
    assert_eq!(world.nodes[2].count(Counter::Handshakes), 2);
    world.send(2, &packet("10.9.0.1", "10.1.0.1", 64, 10));
    assert_eq!(world.tun(0).len(), 1);
}

#[test]
fn handshakes_of_many_peers_begin_a_few_at_a_time() {
    let mut node = Node::new(1, 1, true);
    let now = Instant::now();
    for seed in 10..30 {
        let key = PrivateKey::from_random([seed; 32]).public();
        let knows = Knows {
            endpoint: true,
            keepalive: Some(Duration::from_secs(25)),
            ..Knows::default()
        };
        node.add(key, SocketAddr::from(([192, 0, 2, seed], 1)), knows, now);
    }
    node.shards[0].tick(now, &mut node.outs[0]);
    assert_eq!(node.outs[0].datagrams.iter().count(), HANDSHAKES_PER_TICK);
    assert_eq!(node.shards[0].next_tick(now), Some(now));
    assert_eq!(node.turn(now).len(), 20);
}

#[test]
fn our_own_handshakes_begin_however_many_of_others_wait() {
    let mut node = Node::new(1, 1, true);
    let now = Instant::now();
    let stranger = Identity::new(&PrivateKey::from_random([9; 32]));
    let mut tunnel = stranger.tunnel_to(&node.key.public(), None, 1);
    let mut buffer = [0; INITIATION];
    tunnel.format_handshake_initiation(&mut buffer, false);
    for _ in 0..3 * HANDSHAKES_PER_TICK {
        node.receive(SocketAddr::from(([192, 0, 2, 9], 1)), &buffer, now);
    }
    let knows = Knows {
        endpoint: true,
        keepalive: Some(Duration::from_secs(25)),
        ..Knows::default()
    };
    let key = PrivateKey::from_random([10; 32]).public();
    node.add(key, SocketAddr::from(([192, 0, 2, 10], 1)), knows, now);
    node.shards[0].tick(now, &mut node.outs[0]);
    assert!(!node.shards[0].handshakes.is_empty());
    assert_eq!(node.count(Counter::InitiationsSent), 1);
}

#[test]
fn data_without_an_answer_of_its_own_is_answered_by_a_keepalive() {
    let mut world = pair();
    world.send(0, &there());
    world.wire.clear();
    world.advance(Duration::from_secs(9));
    assert!(world.wire.is_empty());
    world.advance(Duration::from_secs(2));
    let (from, _, bytes) = &world.wire[0];
    assert_eq!((*from, bytes.len()), (world.nodes[1].address, 32));
    assert_eq!(world.wire.len(), 1);
    // Once, not again.
    world.advance(Duration::from_secs(30));
    assert_eq!(world.wire.len(), 1);
}

#[test]
fn after_a_move_of_our_own_the_peers_hear_from_us() {
    let mut world = pair();
    world.send(0, &there());
    let moved = SocketAddr::from(([192, 0, 2, 2], 4000));
    world.nodes[1].address = moved;
    let now = world.now;
    world.nodes[1].shards[0].announce(now);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.nodes[0].endpoint_of(&world.nodes[1]), Some(moved));
    world.tun(1);
    world.send(0, &there());
    assert_eq!(world.tun(1), [there()]);
}

#[test]
fn a_persistent_keepalive_comes_in_its_interval() {
    let mut world = star(1);
    world.wire.clear();
    for _ in 0..40 {
        world.advance(Duration::from_secs(1));
    }
    let from_spoke = world.nodes[0].address;
    let keepalives = world.wire.iter().filter(|sent| sent.0 == from_spoke);
    assert_eq!(keepalives.count(), 1);
}

#[test]
fn data_that_stays_without_any_answer_leads_to_a_new_handshake() {
    let mut world = pair();
    world.send(0, &there());
    // The keepalive that answers this is not what the test is about.
    world.advance(Duration::from_secs(11));
    let lost = SocketAddr::from(([203, 0, 113, 1], 1));
    let home = world.nodes[1].address;
    world.nodes[1].address = lost;
    world.send(0, &there());
    world.wire.clear();
    world.advance(Duration::from_secs(14));
    assert!(world.wire.is_empty());
    world.nodes[1].address = home;
    world.advance(Duration::from_secs(2));
    assert!(world.wire.iter().any(|sent| sent.2.len() == INITIATION));
    assert_eq!(world.nodes[0].count(Counter::Handshakes), 2);
}

#[test]
fn an_aging_session_that_carries_only_keepalives_is_renewed_by_its_initiator() {
    let mut world = star(1);
    for _ in 0..121 {
        world.advance(Duration::from_secs(1));
    }
    assert_eq!(world.nodes[0].count(Counter::Handshakes), 2);
    assert_eq!(world.nodes[2].count(Counter::Handshakes), 4);
}

#[test]
fn a_peer_with_nothing_to_do_is_never_ticked() {
    let world = pair();
    for node in &world.nodes {
        assert_eq!(node.shards[0].next_tick(world.now), None);
    }
}

#[test]
fn an_idle_tunnel_is_ticked_for_its_keepalive_and_no_sooner() {
    let mut world = star(1);
    let begun = world.now;
    // What was to be done about handshakes without an answer is forgotten by then.
    world.advance(Duration::from_secs(6));
    let next = world.nodes[0].shards[0].next_tick(world.now).unwrap();
    assert_eq!(next.duration_since(begun).as_secs(), 25);
    // The hub has no keepalive of its own: it waits for the session to end.
    let next = world.nodes[2].shards[0].next_tick(world.now).unwrap();
    assert_eq!(next.duration_since(begun).as_secs(), 180);
}

#[test]
fn a_worker_that_carries_much_begins_few_handshakes() {
    let now = Instant::now();
    let mut pace = Pace::default();
    assert_eq!(pace.take(now), HANDSHAKES_PER_TICK);
    pace.carried = 1;
    assert_eq!(pace.take(now), 1);
    let mut taken = 0;
    for tick in 0..100 {
        pace.carried = BUSY_BYTES;
        taken += pace.take(now + HANDSHAKE_PAUSE * tick / 10);
    }
    assert_eq!(taken, 9);
    assert_eq!(pace.take(now), HANDSHAKES_PER_TICK);
}

#[test]
fn initiations_held_back_and_let_go_do_not_end_the_session_in_use() {
    let mut world = pair();
    world.send(0, &there());
    world.tun(1);
    let receiver = &world.nodes[1].identity;
    let mut tunnel = world.nodes[0]
        .identity
        .tunnel_to(&receiver.public_key(), None, 5);
    let (from, now) = (world.nodes[0].address, world.now);
    for _ in 0..20 {
        let mut initiation = [0; INITIATION];
        tunnel.format_handshake_initiation(&mut initiation, true);
        world.nodes[1].receive(from, &initiation, now);
        world.nodes[1].turn(now);
    }
    assert_eq!(world.nodes[1].count(Counter::HandshakeRate), 16);
    world.send(1, &back());
    assert_eq!(world.tun(0), [back()]);
    world.send(0, &there());
    assert_eq!(world.tun(1), [there()]);
    // A restarted peer's next try is answered all the same.
    let mut initiation = [0; INITIATION];
    tunnel.format_handshake_initiation(&mut initiation, true);
    let later = now + Duration::from_secs(5);
    world.nodes[1].receive(from, &initiation, later);
    let answers = world.nodes[1].turn(later);
    assert!(answers.iter().any(|sent| sent.1.len() == RESPONSE));
}

#[test]
fn a_removed_peer_is_forgotten() {
    let mut world = pair();
    world.send(0, &there());
    world.tun(1);
    let index = world.nodes[1].peers.remove(0).1;
    world.nodes[1].shards[0].remove(index);
    world.nodes[1].publish();
    world.send(0, &there());
    assert!(world.tun(1).is_empty());
    assert_eq!(world.nodes[1].count(Counter::UnknownIndex), 1);
}

#[test]
fn a_device_without_a_key_answers_nobody() {
    let mut world = pair();
    for shard in &mut world.nodes[1].shards {
        shard.set_directory(Arc::default());
    }
    world.send(0, &there());
    assert!(
        world
            .wire
            .iter()
            .all(|sent| sent.0 == world.nodes[0].address)
    );
    assert_eq!(world.nodes[1].count(Counter::WrongMac), 1);
}

#[test]
fn packets_to_nowhere_are_counted() {
    let mut world = pair();
    world.send(0, &packet("10.1.0.1", "8.8.8.8", 64, 1));
    assert_eq!(world.nodes[0].count(Counter::NoRoute), 1);
    world.send(1, &back());
    assert_eq!(world.nodes[1].count(Counter::NoEndpoint), 1);
    world.send(0, b"no packet");
    assert_eq!(world.nodes[0].count(Counter::NotIp), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn garbage_never_panics_nor_disturbs_a_session(
        garbage in prop::collection::vec(
            (0u8..6, prop::collection::vec(any::<u8>(), 0..260), any::<bool>()), 1..40),
        workers in 1usize..4,
    ) {
        let mut world = pair_with(workers, [None, None]);
        world.send(0, &there());
        let index = world.nodes[1].peers[0].1.bits();
        let now = world.now;
        for (kind, mut bytes, aimed) in garbage {
            if bytes.len() >= 16 && aimed {
                // A message of that type to an index that exists.
                bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
                bytes[4..8].copy_from_slice(&(index << 8 | 1).to_le_bytes());
                bytes[8..12].copy_from_slice(&(index << 8 | 1).to_le_bytes());
                match kind {
                    1 => bytes.resize(INITIATION, 1),
                    2 => bytes.resize(RESPONSE, 2),
                    3 => bytes.resize(COOKIE_REPLY, 3),
                    _ => {}
                }
            }
            let from = world.nodes[0].address;
            world.nodes[1].receive(from, &bytes, now);
        }
        world.settle();
        world.tun(1);
        world.send(0, &there());
        prop_assert_eq!(world.tun(1), [there()]);
    }

    #[test]
    fn truncated_and_changed_messages_never_panic_nor_get_through(
        cut in any::<prop::sample::Index>(),
        which in any::<prop::sample::Index>(),
        flip in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let mut world = pair();
        world.send(0, &there());
        world.send(1, &back());
        world.tun(0);
        world.tun(1);
        let (from, to, bytes) = which.get(&world.wire).clone();
        let mut changed = bytes.clone();
        changed[flip.index(bytes.len())] ^= 1 << bit;
        let now = world.now;
        let node = world.nodes.iter_mut().find(|node| node.address == to).unwrap();
        node.receive(from, &bytes[..cut.index(bytes.len())], now);
        node.receive(from, &changed, now);
        world.settle();
        prop_assert!(world.tun(0).is_empty() && world.tun(1).is_empty());
    }

    #[test]
    fn arbitrary_packets_from_the_tun_never_panic(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..20),
    ) {
        let mut world = pair();
        world.send(0, &there());
        for packet in packets {
            world.send(0, &packet);
        }
    }
}
