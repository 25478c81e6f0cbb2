//! Super-packets and congestion marks on their way through shards.

use std::num::NonZeroU16;

use super::*;
use crate::ecn::Ecn;
use crate::offload::{PartialChecksum, Segmentation};
use crate::reference::{ACK, PSH, Spec, TCP, UDP};

/// Two spokes and a hub between them, with hosts as the specs have them.
fn star_of_hosts(workers: usize) -> World {
    star_of(
        [workers; 3],
        [
            &["10.0.0.1/32", "fd00::1/128"],
            &["10.0.0.2/32", "fd00::2/128"],
        ],
    )
}

impl World {
    fn send_super_packet(&mut self, node: usize, spec: &Spec, size: u16) {
        let size = NonZeroU16::new(size).unwrap();
        let segmentation = match (spec.protocol, spec.is_v4) {
            (TCP, true) => Segmentation::TcpV4(size),
            (TCP, false) => Segmentation::TcpV6(size),
            _ => Segmentation::Udp(size),
        };
        let offload = PacketOffload {
            segmentation,
            needs_checksum: Some(PartialChecksum {
                start: spec.transport_offset() as u16,
                offset: spec.checksum_offset() as u16,
            }),
        };
        let mut buffer = spec.build_partial();
        let length = buffer.len();
        buffer.resize(length + PADDING, 0xaa);
        let now = self.now;
        let node = &mut self.nodes[node];
        let worker = node.next_worker();
        let out = &mut node.outs[worker];
        node.shards[worker].packet(&mut buffer, length, offload, now, out);
        self.settle();
    }
}

#[test]
fn a_super_packet_arrives_as_the_packets_that_it_stands_for() {
    for workers in [1, 2, 4] {
        let mut world = star_of_hosts(workers);
        for (is_v4, protocol) in [(true, TCP), (false, TCP), (true, UDP), (false, UDP)] {
            // Sizes that need padding to sixteen bytes, and a last one that is odd.
            for size in [1340, 1111, 33] {
                let mut spec = Spec::new(is_v4, protocol, 40 * usize::from(size) + 21);
                spec.flags = ACK | PSH;
                world.send_super_packet(0, &spec, size);
                let mut arrived = world.tun(1);
                spec.ttl -= 1;
                let mut expected = spec.segments(size.into());
                if workers > 1 {
                    // This network steers nothing, so what goes astray is late.
                    arrived.sort();
                    expected.sort();
                }
                assert!(arrived == expected, "{workers} {is_v4} {protocol} {size}");
            }
        }
        assert_eq!(world.nodes[2].count(Counter::Relayed), 4 * 3 * 41);
    }
}

#[test]
fn segments_leave_in_runs_and_a_relay_sends_them_on_in_runs() {
    let mut world = star_of_hosts(1);
    let spec = Spec::new(true, TCP, 40 * 1360);
    let mut buffer = spec.build_partial();
    let length = buffer.len();
    buffer.resize(length + PADDING, 0);
    let offload = PacketOffload {
        segmentation: Segmentation::TcpV4(NonZeroU16::new(1360).unwrap()),
        needs_checksum: Some(PartialChecksum {
            start: 20,
            offset: 16,
        }),
    };
    let (now, from) = (world.now, world.nodes[0].address);
    let spoke = &mut world.nodes[0];
    spoke.shards[0].packet(&mut buffer, length, offload, now, &mut spoke.outs[0]);
    let sent = &spoke.outs[0].datagrams;
    assert_eq!(sent.run_count(), 1);
    let run = sent.run(0).unwrap();
    assert_eq!(run.bytes.len(), 40 * run.segment);
    let (bytes, segment) = (run.bytes.to_vec(), run.segment);
    let hub = &mut world.nodes[2];
    hub.shards[0].datagrams(
        Path::from(from).into(),
        segment,
        &bytes,
        now,
        &mut hub.outs[0],
    );
    assert_eq!(hub.outs[0].datagrams.run_count(), 1);
    assert_eq!(hub.outs[0].datagrams.bytes(), bytes.len());
}

#[test]
fn congestion_is_told_across_the_tunnel() {
    for is_v4 in [true, false] {
        let marks = [Ecn::NOT_ECT, Ecn::ECT0, Ecn::ECT1, Ecn::CE];
        for inner in marks {
            for met in [None, Some(Ecn::CE)] {
                let mut world = pair_with(1, [None, None]);
                world.send(0, &there());
                world.tun(1);
                let now = world.now;
                let mut spec = Spec::new(is_v4, UDP, 100);
                spec.tos = 0xb8 | inner.bits();
                let packet = retargeted(&spec);
                let spoke = &mut world.nodes[0];
                spoke.send(&packet, now);
                let run = spoke.outs[0].datagrams.run(0).unwrap();
                // Nothing of the inner class but the mark is seen outside.
                assert_eq!(run.outer.ecn, inner);
                let (bytes, from) = (run.bytes.to_vec(), spoke.address);
                let outer = Outer {
                    path: from.into(),
                    ecn: met.unwrap_or(inner),
                };
                let hub = &mut world.nodes[1];
                hub.shards[0].datagrams(outer, bytes.len(), &bytes, now, &mut hub.outs[0]);
                hub.turn(now);
                match (inner, met) {
                    (Ecn::NOT_ECT, Some(_)) => {
                        assert!(hub.tun.is_empty());
                        assert_eq!(hub.count(Counter::Congested), 1);
                    }
                    (_, met) => {
                        spec.tos = 0xb8 | met.unwrap_or(inner).bits();
                        assert_eq!(hub.tun, [retargeted(&spec)]);
                    }
                }
            }
        }
    }
}

/// The packet with the addresses of `pair_with`, and right checksums.
fn retargeted(spec: &Spec) -> Vec<u8> {
    let mut packet = spec.build();
    if spec.is_v4 {
        packet[12..20].copy_from_slice(&[10, 1, 0, 1, 10, 2, 0, 1]);
        packet[10..12].fill(0);
        let checksum = !ones_sum(&packet[..20]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        packet[8..24].copy_from_slice(&"fd00:1::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        packet[24..40]
            .copy_from_slice(&"fd00:2::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    }
    packet
}
