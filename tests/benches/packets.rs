//! What a packet costs us, apart from the kernel: checksums, cutting and merging
//! super-packets, and the lookup of whose an address is.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "literals of this file")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::ops::Range;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use privnet_tunnel::checksum::Sum;
use privnet_tunnel::{
    AllowedIps, Coalescer, IndexAllocator, Merge, PADDING, PacketOffload, PartialChecksum,
    Segmentation, Segments, Target,
};

/// TCP payload of a packet of 1,420 bytes over IPv4 with timestamps.
const SEGMENT: usize = 1368;
/// IPv4, TCP, timestamps.
const HEADERS: usize = 52;

criterion_group!(benches, checksum, segment, coalesce, lookup);
criterion_main!(benches);

fn checksum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for length in [20, 64, 1420, 65_535] {
        let bytes = noise(length + 1);
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(format!("{length}"), |bench| {
            bench.iter(|| Sum::of(black_box(&bytes[..length])));
        });
        group.bench_function(format!("{length}_at_odd_address"), |bench| {
            bench.iter(|| Sum::of(black_box(&bytes[1..=length])));
        });
    }
    group.finish();
}

fn segment(criterion: &mut Criterion) {
    let payload = 47 * SEGMENT;
    let mut packet = packet(1000, 0, payload);
    let length = packet.len();
    packet.resize(length + PADDING, 0);
    let headers = packet[..HEADERS].to_vec();
    let offload = PacketOffload {
        segmentation: Segmentation::TcpV4(NonZeroU16::new(SEGMENT as u16).unwrap()),
        needs_checksum: Some(PartialChecksum {
            start: 20,
            offset: 16,
        }),
    };
    let mut group = criterion.benchmark_group("segment");
    group.throughput(Throughput::Bytes(payload as u64));
    group.bench_function("tcp_64k_into_47", |bench| {
        bench.iter(|| {
            packet[..HEADERS].copy_from_slice(&headers);
            let mut segments = Segments::new(&mut packet, length, offload).unwrap();
            while let Some(segment) = segments.next_segment() {
                black_box(segment);
            }
        });
    });
    group.finish();
}

fn coalesce(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("coalesce");
    for flows in [1, 4] {
        let (arena, ranges) = flights(180, flows);
        let mut coalescer = Coalescer::new(Merge {
            tcp: true,
            udp: true,
        });
        group.throughput(Throughput::Elements(ranges.len() as u64));
        group.bench_function(format!("180_tcp_of_{flows}"), |bench| {
            bench.iter(|| {
                coalescer.clear();
                for range in &ranges {
                    coalescer.push(&arena, range.clone());
                }
                let parts = coalescer
                    .writes(&arena)
                    .map(|write| write.parts().map(<[u8]>::len).sum::<usize>());
                black_box(parts.sum::<usize>())
            });
        });
    }
    group.finish();
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("longest_prefix");
    for count in [10, 100_000] {
        let (prefixes, v4, v6) = table(count);
        let allowed_ips = AllowedIps::new(prefixes.iter().copied());
        for (family, addresses) in [("v4", v4), ("v6", v6)] {
            // One after another, each at the cost of its own cache misses.
            let mut addresses = addresses.iter().cycle();
            group.bench_function(format!("{family}_{count}"), |bench| {
                bench.iter(|| allowed_ips.lookup(*black_box(addresses.next().unwrap())));
            });
        }
        if count > 10 {
            group.sample_size(10);
        }
        group.bench_function(format!("build_{count}"), |bench| {
            bench.iter(|| AllowedIps::new(prefixes.iter().copied()));
        });
    }
    group.finish();
}

/// That many prefixes of 10,000 peers, half of each family, as VPCs and their
/// subnets have them, and addresses in them.
fn table(count: u32) -> (Vec<(IpNet, Target)>, Vec<IpAddr>, Vec<IpAddr>) {
    let mut allocator = IndexAllocator::default();
    let peers = (0..10_000).map(|_| Target::Peer(allocator.allocate().unwrap()));
    let peers: Vec<_> = peers.collect();
    let mut random = Random(7);
    let mut prefixes = Vec::new();
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for number in 0..count {
        let bits = random.next();
        let peer = peers[number as usize / 2 % peers.len()];
        if number % 2 == 0 {
            let address = Ipv4Addr::from(0x0a00_0000 | bits as u32 & 0x00ff_ffff);
            let length = 16 + (bits >> 32) as u8 % 13;
            prefixes.push((Ipv4Net::new_assert(address, length).into(), peer));
            v4.push(address.into());
        } else {
            let address = Ipv6Addr::from(0xfd00 << 112 | u128::from(bits) << 48);
            let length = 48 + (random.next() % 17) as u8;
            prefixes.push((Ipv6Net::new_assert(address, length).into(), peer));
            v6.push(address.into());
        }
    }
    (prefixes, v4, v6)
}

/// Packets of full segments, one flow after another in turn.
fn flights(count: usize, flows: usize) -> (Vec<u8>, Vec<Range<usize>>) {
    let mut arena = Vec::new();
    let ranges = (0..count).map(|number| {
        let start = arena.len();
        let sequence = (number / flows * SEGMENT) as u32;
        arena.extend(packet((number % flows) as u16, sequence, SEGMENT));
        complete(&mut arena[start..]);
        start..arena.len()
    });
    let ranges = ranges.collect();
    (arena, ranges)
}

/// A TCP segment over IPv4 that may not be fragmented, its checksum left open.
fn packet(port: u16, sequence: u32, payload: usize) -> Vec<u8> {
    let total = HEADERS + payload;
    let mut bytes = vec![0; HEADERS];
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    bytes[6] = 0x40;
    bytes[8] = 64;
    bytes[9] = 6;
    bytes[12..20].copy_from_slice(&[10, 1, 0, 1, 10, 2, 0, 1]);
    let checksum = Sum::of(&bytes[..20]).checksum();
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    bytes[20..22].copy_from_slice(&port.to_be_bytes());
    bytes[24..28].copy_from_slice(&sequence.to_be_bytes());
    bytes[32] = 8 << 4;
    bytes[33] = 0x10;
    bytes[40..44].copy_from_slice(&[1, 1, 8, 10]);
    let partial = Sum::pseudo_header(&bytes[12..20], 6, total - 20).folded();
    bytes[36..38].copy_from_slice(&partial.to_be_bytes());
    bytes.extend(noise(payload));
    bytes
}

fn complete(packet: &mut [u8]) {
    let checksum = Sum::of(&packet[20..]).checksum();
    packet[36..38].copy_from_slice(&checksum.to_be_bytes());
}

fn noise(length: usize) -> Vec<u8> {
    let mut random = Random(1);
    (0..length).map(|_| random.next() as u8).collect()
}

/// The same numbers at each run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }
}
