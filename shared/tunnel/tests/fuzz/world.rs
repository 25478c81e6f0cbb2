//! A hub's shard with two peers, each at an address of its own and with a session.
//! The peers are boringtun's tunnels without anything of ours around them, so that
//! they seal whatever they are told to; what they open was sealed for them.
//!
//! ```text
//!   peer 0   10.0.0.0/25  fd00::/121      ┐
//!            10.0.0.192/30  fd00::c0/126  ├── hub, host's own side 10.0.0.64/28  fd00::40/124
//!   peer 1   10.0.0.128/26  fd00::80/122  │   nobody: 10.0.0.224 and up
//!            10.0.0.192/27  fd00::c0/123  ┘
//! ```

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use ipnet::IpNet;
use privnet_model::key::PrivateKey;
use privnet_tunnel::{
    AllowedIps, Counter, Counters, Directory, Ecn, Identity, IndexAllocator, Merge, Outer, Outputs,
    Path, Peer, PeerStats, Shard, ShardConfig, Target, Tunnel,
};

use super::reference::cut;

pub(super) const MTU: usize = 1420;

/// A world serves many runs, since its handshakes cost more than a run does, but
/// not so long that a session of its gets old (WireGuard's are renewed after 120 s).
const LIFETIME: Duration = Duration::from_secs(60);
const RUNS: u32 = 1_000;

thread_local! {
    /// Worlds between two runs: one that relays, one that does not.
    static READY: RefCell<[Option<World>; 2]> = const { RefCell::new([None, None]) };
}

const PREFIXES: [(&str, Option<usize>); 10] = [
    ("10.0.0.0/25", Some(0)),
    ("10.0.0.192/30", Some(0)),
    ("10.0.0.128/26", Some(1)),
    ("10.0.0.192/27", Some(1)),
    ("10.0.0.64/28", None),
    ("fd00::/121", Some(0)),
    ("fd00::c0/126", Some(0)),
    ("fd00::80/122", Some(1)),
    ("fd00::c0/123", Some(1)),
    ("fd00::40/124", None),
];

pub(super) struct World {
    pub(super) shard: Shard,
    pub(super) out: Outputs,
    pub(super) counters: Arc<Counters>,
    pub(super) now: Instant,
    pub(super) spokes: [Spoke; 2],
    /// What was written to the TUN: super-packets cut up as the kernel would.
    pub(super) tun: Vec<Vec<u8>>,
    /// Every genuine message that the hub got.
    pub(super) messages: Vec<Vec<u8>>,
    pub(super) prefixes: Vec<(IpNet, Option<usize>)>,
    relay: bool,
    made: Instant,
    runs: u32,
    /// How many of the messages are the handshakes'.
    handshake_messages: usize,
}

pub(super) struct Spoke {
    tunnel: Tunn,
    address: SocketAddr,
    stats: Arc<PeerStats>,
    /// What it opened.
    pub(super) received: Vec<Vec<u8>>,
}

impl World {
    /// One that is in use nowhere else, with nothing under way.
    pub(super) fn ready(relay: bool) -> Self {
        let ready = READY.with_borrow_mut(|ready| ready[usize::from(relay)].take());
        match ready {
            Some(world) if world.runs < RUNS && world.made.elapsed() < LIFETIME => world,
            _ => Self::new(relay),
        }
    }

    /// Keeps it for the next run.
    pub(super) fn keep(mut self) {
        self.runs += 1;
        self.messages.truncate(self.handshake_messages);
        let place = usize::from(self.relay);
        READY.with_borrow_mut(|ready| ready[place] = Some(self));
    }

    fn new(relay: bool) -> Self {
        let key = PrivateKey::from_random([9; 32]);
        let identity = Arc::new(Identity::new(&key));
        let counters = Arc::<Counters>::default();
        let mut shard = Shard::new(ShardConfig {
            worker: 0,
            workers: 1,
            relay,
            mtu: MTU,
            counters: Arc::clone(&counters),
        });
        #[expect(clippy::disallowed_methods, reason = "a test begins at some time")]
        let now = Instant::now();
        let prefixes: Vec<(IpNet, Option<usize>)> = PREFIXES
            .iter()
            .map(|(prefix, owner)| (prefix.parse().unwrap(), *owner))
            .collect();
        let mut allocator = IndexAllocator::default();
        let mut directory = Directory {
            identity: Some(Arc::clone(&identity)),
            ..Directory::default()
        };
        let mut targets = Vec::new();
        let spokes = [1, 2].map(|number: u8| {
            let own = PrivateKey::from_random([number; 32]);
            let index = allocator.allocate().unwrap();
            let stats = Arc::<PeerStats>::default();
            let tunnel = Tunnel::new(&identity, &own.public(), None, index);
            let peer = Peer::new(index, Some(tunnel), None, None, Arc::clone(&stats));
            shard.insert(Box::new(peer), now);
            directory.peers.insert(own.public(), index);
            targets.push(Target::Peer(index));
            let hub = x25519::PublicKey::from(*key.public().as_bytes());
            let own_public = x25519::PublicKey::from(*own.public().as_bytes());
            Spoke {
                tunnel: Tunn::new(
                    x25519::StaticSecret::from(*own.as_bytes()),
                    hub,
                    None,
                    None,
                    u32::from(number),
                    Some(Arc::new(RateLimiter::new(&own_public, u64::MAX))),
                ),
                address: SocketAddr::from(([192, 0, 2, number], 51820)),
                stats,
                received: Vec::new(),
            }
        });
        directory.allowed_ips = AllowedIps::new(prefixes.iter().map(|(prefix, owner)| {
            let target = owner.map_or(Target::Local, |owner| targets[owner]);
            (*prefix, target)
        }));
        shard.set_directory(Arc::new(directory));
        let mut out = Outputs::new(1);
        out.packets.set_merge(Merge {
            tcp: true,
            udp: true,
        });
        let mut world = Self {
            shard,
            out,
            counters,
            now,
            spokes,
            tun: Vec::new(),
            messages: Vec::new(),
            prefixes,
            relay,
            made: now,
            runs: 0,
            handshake_messages: 0,
        };
        for spoke in 0..2 {
            let mut room = [0; 148];
            let tunnel = &mut world.spokes[spoke].tunnel;
            let TunnResult::WriteToNetwork(initiation) =
                tunnel.format_handshake_initiation(&mut room, false)
            else {
                panic!("no initiation");
            };
            let initiation = initiation.to_vec();
            world.give(spoke, Ecn::NOT_ECT, &[initiation]);
            world.flush();
        }
        let handshakes = world.counters.get(Counter::Handshakes);
        assert_eq!(handshakes, 2, "the sessions are there");
        world.handshake_messages = world.messages.len();
        world
    }

    /// Whose an address is, by trying every prefix: a peer, or nobody.
    pub(super) fn owner(&self, address: IpAddr) -> Option<usize> {
        owner(&self.prefixes, address)
    }

    /// A data message of a spoke's, whatever is in it.
    pub(super) fn seal(&mut self, spoke: usize, plain: &[u8]) -> Vec<u8> {
        let mut room = vec![0; (plain.len() + 32).max(148)];
        match self.spokes[spoke].tunnel.encapsulate(plain, &mut room) {
            TunnResult::WriteToNetwork(message) => message.to_vec(),
            other => panic!("not sealed: {other:?}"),
        }
    }

    /// The hub gets a spoke's genuine messages, neighbours of one size in one go,
    /// as the kernel gives them.
    pub(super) fn give(&mut self, spoke: usize, ecn: Ecn, messages: &[Vec<u8>]) {
        let outer = Outer {
            path: Path::from(self.spokes[spoke].address),
            ecn,
        };
        let mut rest = messages;
        while let Some(first) = rest.first() {
            let segment = first.len();
            let equal = rest.iter().take_while(|next| next.len() == segment).count();
            // The last of a run may be shorter.
            let shorter = rest.get(equal).is_some_and(|next| next.len() < segment);
            let (run, others) = rest.split_at(equal + usize::from(shorter));
            let bytes = run.concat();
            self.shard
                .datagrams(outer, segment, &bytes, self.now, &mut self.out);
            rest = others;
        }
        self.messages.extend_from_slice(messages);
    }

    /// The hub gets something from an address that is nobody's.
    pub(super) fn give_from_a_stranger(&mut self, bytes: &[u8], segment: usize) {
        let outer = Path::from(stranger()).into();
        self.shard
            .datagrams(outer, segment, bytes, self.now, &mut self.out);
    }

    /// Time passes.
    pub(super) fn advance(&mut self, time: Duration) {
        self.now += time;
        self.flush();
    }

    /// Lets everything that the hub put out arrive, and all that follows from it.
    pub(super) fn flush(&mut self) {
        for _ in 0..100 {
            let due = self.shard.next_tick(self.now);
            if due.is_some_and(|at| at <= self.now) {
                self.shard.tick(self.now, &mut self.out);
            }
            self.take_packets();
            let under_way = self.take_datagrams();
            if under_way.is_empty() && due.is_none_or(|at| at > self.now) {
                return;
            }
            for (spoke, datagram) in under_way {
                for reply in self.spokes[spoke].take(&datagram) {
                    self.give(spoke, Ecn::NOT_ECT, &[reply]);
                }
            }
        }
        panic!("the hub never comes to rest");
    }

    fn take_packets(&mut self) {
        for write in self.out.packets.writes() {
            let parts: Vec<&[u8]> = write.parts().collect();
            assert!(parts.len() < 1023, "more parts than one write takes");
            let bytes = parts.concat();
            assert_eq!(bytes.len(), write.len());
            let packets = cut(write.header(), &bytes);
            assert_eq!(packets.len(), write.packet_count());
            self.tun.extend(packets);
        }
        self.out.packets.clear();
    }

    /// The datagrams for the spokes. Nothing but answers to handshakes goes elsewhere.
    fn take_datagrams(&mut self) -> Vec<(usize, Vec<u8>)> {
        let mut under_way = Vec::new();
        for run in self.out.datagrams.runs() {
            let count = run.bytes.len().div_ceil(run.segment);
            assert!(
                count <= 64 && run.bytes.len() <= 65_507,
                "one send takes it"
            );
            let to = run.outer.path.remote;
            let spoke = self.spokes.iter().position(|spoke| spoke.address == to);
            for datagram in run.bytes.chunks(run.segment) {
                match spoke {
                    Some(spoke) => under_way.push((spoke, datagram.to_vec())),
                    None => assert!(
                        matches!((datagram[0], datagram.len()), (2, 92) | (3, 64)),
                        "a stranger got a message of type {}",
                        datagram[0]
                    ),
                }
            }
        }
        self.out.datagrams.clear();
        self.out.knocks.clear();
        assert!(
            self.out
                .parcels
                .iter()
                .all(privnet_tunnel::Parcel::is_empty)
        );
        under_way
    }

    /// Both spokes are where they were, and reach each other through the hub.
    pub(super) fn check_sessions(&mut self) {
        for (spoke, (from, to)) in [(10, 140), (140, 10)].into_iter().enumerate() {
            let mut spec = super::reference::Spec::new(spoke == 0, 17, 100);
            spec.hosts = (from, to);
            let message = self.seal(spoke, &spec.build());
            self.give(spoke, Ecn::NOT_ECT, &[message]);
            self.flush();
            spec.ttl -= 1;
            let received = self.spokes[1 - spoke].received.pop();
            assert_eq!(received, Some(spec.build()), "a session is damaged");
            let endpoint = self.spokes[spoke].stats.report().endpoint;
            assert_eq!(endpoint, Some(self.spokes[spoke].address), "it was moved");
        }
    }
}

impl Spoke {
    /// Opens what came from the hub, and returns what it has to answer.
    fn take(&mut self, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut replies = Vec::new();
        let mut room = vec![0; (datagram.len() + 32).max(148)];
        let mut next = datagram;
        loop {
            match self.tunnel.decapsulate(None, next, &mut room) {
                TunnResult::WriteToNetwork(reply) => replies.push(reply.to_vec()),
                TunnResult::WriteToTunnelV4(packet, _) => {
                    self.received.push(packet.to_vec());
                    return replies;
                }
                TunnResult::WriteToTunnelV6(packet, _) => {
                    self.received.push(packet.to_vec());
                    return replies;
                }
                TunnResult::Done => return replies,
                TunnResult::Err(error) => {
                    assert_ne!(datagram[0], 4, "the hub sealed badly: {error:?}");
                    return replies;
                }
            }
            next = &[];
        }
    }
}

/// Whose an address is among these: a peer, or nobody.
pub(super) fn owner(prefixes: &[(IpNet, Option<usize>)], address: IpAddr) -> Option<usize> {
    prefixes
        .iter()
        .filter(|(prefix, _)| prefix.contains(&address))
        .max_by_key(|(prefix, _)| prefix.prefix_len())
        .and_then(|(_, owner)| *owner)
}

fn stranger() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 66], 666))
}
