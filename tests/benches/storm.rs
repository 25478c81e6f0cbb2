//! What 10,000 peers cost a worker: all at once, when their handshakes come in a
//! storm, and while nothing happens but keepalives. The peers are real ones, in
//! memory; only the hub's share of the work is timed.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "literals of this file")]

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use privnet_model::key::{PrivateKey, PublicKey};
use privnet_tunnel::{
    Counters, Directory, Identity, IndexAllocator, Outputs, Path, Peer, PeerIndex, Shard,
    ShardConfig, Tunnel,
};

const PEERS: u32 = 10_000;

/// Fewer take part in a storm here: the cost is one of each, not one of many.
const STORM: u32 = 500;

const KEEPALIVE: Duration = Duration::from_secs(25);

criterion_group!(benches, storm, idle);
criterion_main!(benches);

/// The hub's work for one peer that calls: from its initiation to the first use of
/// the session.
fn storm(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("storm");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(STORM.into()));
    group.bench_function("handshakes", |bench| {
        bench.iter_custom(|rounds| (0..rounds).map(|_| Swarm::new(STORM).meet()).sum());
    });
    group.finish();
}

/// The hub's work in one second in which its peers and it send keepalives.
fn idle(criterion: &mut Criterion) {
    let mut swarm = Swarm::new(PEERS);
    swarm.meet();
    let mut group = criterion.benchmark_group("idle");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(200))
        .sampling_mode(SamplingMode::Flat);
    group.bench_function("second_of_10000_with_keepalives", |bench| {
        bench.iter_custom(|rounds| (0..rounds).map(|_| swarm.idle_second()).sum());
    });
    group.finish();
}

/// A hub and its peers.
struct Swarm {
    hub: Shard,
    out: Outputs,
    spokes: Vec<(SocketAddr, Shard)>,
    met: Instant,
    now: Instant,
}

impl Swarm {
    fn new(peers: u32) -> Self {
        let now = Instant::now();
        let key = PrivateKey::from_random([1; 32]);
        let hub_address = SocketAddr::from(([192, 0, 2, 1], 51820));
        let mut hub = Side::new(&key);
        let spokes = (0..peers)
            .map(|number| {
                let mut bytes = [2; 32];
                bytes[8..12].copy_from_slice(&number.to_le_bytes());
                let own = PrivateKey::from_random(bytes);
                hub.add(own.public(), None, now);
                let mut spoke = Side::new(&own);
                spoke.add(key.public(), Some(hub_address), now);
                let address = Ipv4Addr::from(0x0a00_0000 + number);
                (SocketAddr::from((address, 51820)), spoke.publish())
            })
            .collect();
        Self {
            hub: hub.publish(),
            out: Outputs::new(1),
            spokes,
            met: now,
            now,
        }
    }

    /// All call, the hub answers, all use their sessions.
    fn meet(&mut self) -> Duration {
        let (now, hub) = (self.now, &mut self.hub);
        let mut out = Outputs::new(1);
        let mut initiations = Vec::new();
        for (address, spoke) in &mut self.spokes {
            spoke.tick(now, &mut out);
            take(&mut out, |_, message| initiations.push((*address, message)));
        }
        let start = Instant::now();
        for (from, message) in &initiations {
            receive(hub, *from, message, now, &mut self.out);
        }
        while hub.next_tick(now).is_some_and(|at| at <= now) {
            hub.tick(now, &mut self.out);
        }
        let mut spent = start.elapsed();
        let mut answers = Vec::new();
        take(&mut self.out, |to, message| answers.push((to, message)));
        let mut confirmations = Vec::new();
        for (to, message) in answers {
            let number = match to.ip() {
                std::net::IpAddr::V4(ip) => u32::from(ip) - 0x0a00_0000,
                std::net::IpAddr::V6(_) => unreachable!(),
            };
            let spoke = &mut self.spokes[number as usize].1;
            let from = SocketAddr::from(([192, 0, 2, 1], 51820));
            receive(spoke, from, &message, now, &mut out);
            while spoke.next_tick(now).is_some_and(|at| at <= now) {
                spoke.tick(now, &mut out);
            }
            take(&mut out, |_, message| confirmations.push((to, message)));
        }
        assert_eq!(confirmations.len(), self.spokes.len());
        let start = Instant::now();
        for (from, message) in &confirmations {
            receive(hub, *from, message, now, &mut self.out);
        }
        spent += start.elapsed();
        self.out.datagrams.clear();
        self.met = now;
        spent
    }

    /// The hub's second: its ticks, and the keepalives of a twenty-fifth of all.
    /// Sessions end after three minutes; before that, everybody meets again.
    fn idle_second(&mut self) -> Duration {
        if self.now.duration_since(self.met) > Duration::from_secs(150) {
            *self = Self::new(self.spokes.len() as u32);
            self.meet();
        }
        let end = self.now + Duration::from_secs(1);
        let mut spent = Duration::ZERO;
        while self.now < end {
            let start = Instant::now();
            if self
                .hub
                .next_tick(self.now)
                .is_some_and(|at| at <= self.now)
            {
                self.hub.tick(self.now, &mut self.out);
            }
            black_box(&self.out);
            self.out.datagrams.clear();
            spent += start.elapsed();
            self.now += Duration::from_millis(10);
        }
        spent
    }
}

/// One side of the tunnels while it is put together.
struct Side {
    identity: Arc<Identity>,
    shard: Shard,
    allocator: IndexAllocator,
    peers: Vec<(PublicKey, PeerIndex)>,
}

impl Side {
    fn new(key: &PrivateKey) -> Self {
        Self {
            identity: Arc::new(Identity::new(key)),
            shard: Shard::new(ShardConfig {
                worker: 0,
                workers: 1,
                relay: true,
                mtu: 1420,
                counters: Arc::<Counters>::default(),
            }),
            allocator: IndexAllocator::default(),
            peers: Vec::new(),
        }
    }

    fn add(&mut self, key: PublicKey, endpoint: Option<SocketAddr>, now: Instant) {
        let index = self.allocator.allocate().unwrap();
        let tunnel = Tunnel::new(&self.identity, &key, None, index);
        let stats = Arc::default();
        let peer = Peer::new(index, Some(tunnel), endpoint, Some(KEEPALIVE), stats);
        self.shard.insert(Box::new(peer), now);
        self.peers.push((key, index));
    }

    fn publish(mut self) -> Shard {
        self.shard.set_directory(Arc::new(Directory {
            identity: Some(self.identity),
            peers: self.peers.into_iter().collect(),
            ..Directory::default()
        }));
        self.shard
    }
}

fn receive(shard: &mut Shard, from: SocketAddr, message: &[u8], now: Instant, out: &mut Outputs) {
    let outer = Path::from(from).into();
    shard.datagrams(outer, message.len(), message, now, out);
}

/// Takes out what is to be sent, but for cookies: nobody here comes back with one.
fn take(out: &mut Outputs, mut each: impl FnMut(SocketAddr, Vec<u8>)) {
    for (path, message) in out.datagrams.iter() {
        if message[0] != 3 {
            each(path.remote, message.to_vec());
        }
    }
    out.datagrams.clear();
}
