//! What a packet costs a worker between TUN and network, by its size, through the
//! same calls that a worker makes; and what 10,000 peers cost one that is busy with
//! others.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "literals of this file")]

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net};
use privnet_model::key::{PrivateKey, PublicKey};
use privnet_tunnel::{
    AllowedIps, Counters, Directory, Identity, IndexAllocator, Outputs, PADDING, PacketOffload,
    Path, Peer, PeerIndex, Shard, ShardConfig, Target, Tunnel,
};

const MTU: usize = 8_900;
const PEERS: u32 = 10_000;
const HUB: u32 = 0;
/// Packets between two looks at the clock.
const BATCH: u64 = 32;

criterion_group!(benches, packets, many_peers);
criterion_main!(benches);

fn packets(criterion: &mut Criterion) {
    let (mut hub, mut spokes) = star(1);
    let spoke = &mut spokes[0];
    let now = Instant::now();
    for length in [64, 128, 512, 1_420, MTU] {
        let mut packet = packet(1, HUB, length);
        let mut group = criterion.benchmark_group(format!("packet_{length}"));
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function("seal", |bench| {
            bench.iter(|| {
                spoke.send(&mut packet, now);
                assert!(!spoke.out.datagrams.is_empty());
                spoke.out.datagrams.clear();
            });
        });
        group.bench_function("open", |bench| {
            bench.iter_custom(|packets| {
                let mut time = Duration::ZERO;
                for _ in 0..packets.div_ceil(BATCH) {
                    for _ in 0..BATCH {
                        spoke.send(&mut packet, now);
                    }
                    let start = Instant::now();
                    hub.receive(address(1), spoke, now);
                    time += start.elapsed();
                    assert!(!hub.out.packets.is_empty());
                    hub.out.packets.clear();
                    spoke.out.datagrams.clear();
                }
                time.mul_f64(packets as f64 / (packets.div_ceil(BATCH) * BATCH) as f64)
            });
        });
        group.finish();
    }
}

fn many_peers(criterion: &mut Criterion) {
    let (mut hub, spokes) = star(PEERS);
    drop(spokes);
    let now = Instant::now();
    let mut group = criterion.benchmark_group(format!("{PEERS}_peers"));
    group.bench_function("turn_with_nothing_due", |bench| {
        hub.turn(now);
        bench.iter(|| {
            if hub.shard.next_tick(now).is_some_and(|at| at <= now) {
                hub.shard.tick(now, &mut hub.out);
            }
            black_box(&hub.out);
        });
    });
    for (name, peers) in [("seal_128_to_one", 1), ("seal_128_to_each_in_turn", PEERS)] {
        let mut to = 0;
        let mut packet = packet(HUB, 1, 128);
        group.bench_function(name, |bench| {
            bench.iter(|| {
                to = to % peers + 1;
                packet[16..20].copy_from_slice(&host(to).octets());
                hub.send(&mut packet, now);
                assert!(!hub.out.datagrams.is_empty());
                hub.out.datagrams.clear();
            });
        });
    }
    group.finish();
}

/// A device of one worker.
struct Node {
    shard: Shard,
    identity: Arc<Identity>,
    indices: IndexAllocator,
    out: Outputs,
}

impl Node {
    fn new(number: u32) -> Self {
        Self {
            shard: Shard::new(ShardConfig {
                worker: 0,
                workers: 1,
                relay: false,
                mtu: MTU,
                counters: Arc::new(Counters::default()),
            }),
            identity: Arc::new(Identity::new(&key(number))),
            indices: IndexAllocator::default(),
            out: Outputs::new(1),
        }
    }

    /// Learns of peers: key, allowed IPs, and where they are.
    fn learn(&mut self, peers: Vec<(PublicKey, IpNet, Option<SocketAddr>)>, now: Instant) {
        let peers: Vec<(PeerIndex, _)> = peers
            .into_iter()
            .map(|peer| (self.indices.allocate().unwrap(), peer))
            .collect();
        let prefixes = peers
            .iter()
            .map(|(index, peer)| (peer.1, Target::Peer(*index)));
        self.shard.set_directory(Arc::new(Directory {
            identity: Some(Arc::clone(&self.identity)),
            allowed_ips: AllowedIps::new(prefixes),
            peers: peers.iter().map(|(index, peer)| (peer.0, *index)).collect(),
            ..Directory::default()
        }));
        for (index, (key, _, endpoint)) in peers {
            let tunnel = Tunnel::new(&self.identity, &key, None, index);
            let keepalive = endpoint.map(|_| Duration::from_secs(25));
            let peer = Peer::new(index, Some(tunnel), endpoint, keepalive, Arc::default());
            self.shard.insert(Box::new(peer), now);
        }
    }

    fn send(&mut self, buffer: &mut [u8], now: Instant) {
        let length = buffer.len() - PADDING;
        self.shard
            .packet(buffer, length, PacketOffload::default(), now, &mut self.out);
    }

    fn receive(&mut self, from: SocketAddr, sender: &Node, now: Instant) {
        for run in sender.out.datagrams.runs() {
            let outer = Path::from(from).into();
            self.shard
                .datagrams(outer, run.segment, run.bytes, now, &mut self.out);
        }
    }

    fn turn(&mut self, now: Instant) {
        while self.shard.next_tick(now).is_some_and(|at| at <= now) {
            self.shard.tick(now, &mut self.out);
        }
    }
}

/// A hub and its spokes, with sessions.
fn star(peers: u32) -> (Node, Vec<Node>) {
    let now = Instant::now();
    let mut hub = Node::new(HUB);
    let behind = |number: u32| (key(number).public(), IpNet::from(network(number)), None);
    hub.learn((1..=peers).map(behind).collect(), now);
    let everything: IpNet = "10.0.0.0/8".parse().unwrap();
    let spokes = (1..=peers).map(|number| {
        let mut spoke = Node::new(number);
        let to_hub = (key(HUB).public(), everything, Some(address(HUB)));
        spoke.learn(vec![to_hub], now);
        // Initiation; response; the keepalive that confirms the session.
        for _ in 0..2 {
            spoke.turn(now);
            hub.receive(address(number), &spoke, now);
            spoke.out.datagrams.clear();
            hub.turn(now);
            spoke.receive(address(HUB), &hub, now);
            hub.out.datagrams.clear();
        }
        spoke
    });
    let spokes = spokes.collect();
    (hub, spokes)
}

fn key(number: u32) -> PrivateKey {
    let mut bytes = [7; 32];
    bytes[8..12].copy_from_slice(&number.to_be_bytes());
    PrivateKey::from_random(bytes)
}

fn address(number: u32) -> SocketAddr {
    (Ipv4Addr::from(0xc612_0000 + number), 51820).into()
}

fn host(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0001 + (number << 8))
}

fn network(number: u32) -> Ipv4Net {
    Ipv4Net::new_assert(host(number), 24).trunc()
}

/// A UDP packet of that length between two nodes, and room behind it.
fn packet(from: u32, to: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length + PADDING];
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    bytes[8] = 64;
    bytes[9] = 17;
    bytes[12..16].copy_from_slice(&host(from).octets());
    bytes[16..20].copy_from_slice(&host(to).octets());
    bytes
}
