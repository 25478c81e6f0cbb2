//! Super-packets of the reference, cut in place while the user of each segment
//! tramples on it, against the same built one by one.
#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use std::num::NonZeroU16;

use proptest::prelude::*;

use super::*;
use crate::reference::{self, ACK, Spec, extended};

/// What the kernel says of a super-packet.
fn offload(spec: &Spec, size: usize) -> PacketOffload {
    let size = NonZeroU16::new(size as u16).unwrap();
    PacketOffload {
        segmentation: match (spec.protocol, spec.is_v4) {
            (reference::TCP, true) => Segmentation::TcpV4(size),
            (reference::TCP, false) => Segmentation::TcpV6(size),
            _ => Segmentation::Udp(size),
        },
        needs_checksum: Some(PartialChecksum {
            start: spec.transport_offset() as u16,
            offset: spec.checksum_offset() as u16,
        }),
    }
}

/// Reads all packets, and leaves nothing of each in place.
fn packets(packet: &[u8], offload: PacketOffload) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut buffer = packet.to_vec();
    buffer.extend([0xee; PADDING]);
    let mut segments = Segments::new(&mut buffer, packet.len(), offload)?;
    let mut out = Vec::new();
    while let Some((room, length)) = segments.next_segment() {
        assert_eq!(room.len(), length + PADDING);
        out.push(room[..length].to_vec());
        room.fill(0xdd);
    }
    Ok(out)
}

fn spec(is_v4: bool, protocol: u8, payload: usize) -> Spec {
    Spec::new(is_v4, protocol, payload)
}

fn every_kind() -> impl Iterator<Item = Spec> {
    [true, false].into_iter().flat_map(|is_v4| {
        [reference::TCP, reference::UDP].map(|protocol| spec(is_v4, protocol, 5000))
    })
}

#[test]
fn a_super_packet_becomes_the_packets_it_stands_for() {
    for spec in every_kind() {
        let got = packets(&spec.build_partial(), offload(&spec, 1200)).unwrap();
        assert_eq!(got.len(), 5);
        assert_eq!(got, spec.segments(1200));
    }
}

#[test]
fn marks_of_the_end_are_on_the_last_and_of_congestion_on_the_first() {
    let mut spec = spec(true, reference::TCP, 3000);
    spec.flags = ACK | FIN | PSH | CWR;
    let got = packets(&spec.build_partial(), offload(&spec, 1000)).unwrap();
    let flags: Vec<u8> = got.iter().map(|packet| packet[33]).collect();
    assert_eq!(flags, [ACK | CWR, ACK, ACK | FIN | PSH]);
}

#[test]
fn a_super_packet_whose_checksum_is_no_longer_partial_is_cut_all_the_same() {
    for spec in every_kind() {
        let offload = PacketOffload {
            needs_checksum: None,
            ..offload(&spec, 1300)
        };
        assert_eq!(
            packets(&spec.build(), offload).unwrap(),
            spec.segments(1300)
        );
    }
}

#[test]
fn a_packet_that_needs_nothing_is_not_looked_at() {
    let bytes = [0xff; 50];
    assert_eq!(
        packets(&bytes, PacketOffload::default()).unwrap(),
        [bytes.to_vec()]
    );
    assert_eq!(
        packets(&[], PacketOffload::default()).unwrap(),
        [Vec::new()]
    );
}

#[test]
fn a_checksum_left_open_is_completed() {
    for spec in every_kind() {
        let offload = PacketOffload {
            segmentation: Segmentation::None,
            ..offload(&spec, 1)
        };
        assert_eq!(
            packets(&spec.build_partial(), offload).unwrap(),
            [spec.build()]
        );
    }
}

#[test]
fn a_udp_checksum_is_never_zero() {
    // The payload makes the sum all ones, of which the complement is zero.
    let mut spec = spec(true, reference::UDP, 2);
    spec.payload = vec![0, 0];
    let checksum = spec.build()[26..28].to_vec();
    spec.payload = checksum;
    assert_eq!(&spec.build()[26..28], [0xff, 0xff]);
    for segmentation in [Segmentation::None, offload(&spec, 2).segmentation] {
        let offload = PacketOffload {
            segmentation,
            ..offload(&spec, 2)
        };
        let got = packets(&spec.build_partial(), offload).unwrap();
        assert_eq!(&got[0][26..28], [0xff, 0xff]);
    }
}

#[test]
fn what_does_not_fit_its_header_is_refused() {
    let spec = spec(true, reference::TCP, 3000);
    let good = offload(&spec, 1000);
    let size = NonZeroU16::new(1000).unwrap();
    let packet = spec.build_partial();
    let refused = |packet: &[u8], offload| assert_eq!(packets(packet, offload), Err(Malformed));
    assert!(packets(&packet, good).is_ok());
    for segmentation in [Segmentation::TcpV6(size), Segmentation::Udp(size)] {
        refused(
            &packet,
            PacketOffload {
                segmentation,
                ..good
            },
        );
    }
    for (start, offset) in [(24, 16), (20, 6), (0, 0), (u16::MAX, u16::MAX)] {
        let needs_checksum = Some(PartialChecksum { start, offset });
        refused(
            &packet,
            PacketOffload {
                needs_checksum,
                ..good
            },
        );
    }
    // Longer and shorter than the IP header says.
    refused(&packet[..packet.len() - 1], good);
    refused(&[&packet[..], &[0]].concat(), good);
    // A fragment; an IP header and a TCP header that are too short or too long.
    for (at, value) in [(6, 0x20), (0, 0x44), (0, 0x4f), (32, 0x40)] {
        let mut packet = packet.clone();
        packet[at] = value;
        refused(&packet, good);
    }
    // Headers alone that reach beyond the packet.
    let mut short = spec.clone();
    short.payload.clear();
    let mut packet = short.build_partial();
    packet[32] = 0xf0;
    refused(&packet, good);
}

#[test]
fn a_checksum_beyond_the_packet_is_refused() {
    for (start, offset) in [(0, 19), (19, 0), (20, 0), (21, 0), (u16::MAX, u16::MAX)] {
        let offload = PacketOffload {
            segmentation: Segmentation::None,
            needs_checksum: Some(PartialChecksum { start, offset }),
        };
        assert_eq!(
            packets(&[0x45; 20], offload),
            Err(Malformed),
            "{start} {offset}"
        );
    }
}

#[test]
fn a_buffer_without_room_is_refused() {
    let mut buffer = [0; 99 + PADDING];
    assert!(Segments::new(&mut buffer, 99, PacketOffload::default()).is_ok());
    for length in [100, 200, usize::MAX] {
        assert!(Segments::new(&mut buffer, length, PacketOffload::default()).is_err());
    }
}

proptest! {
    #[test]
    fn segments_are_those_built_one_by_one(
        spec in extended(),
        flags in any::<u8>(),
        payload in prop_oneof![4 => 0usize..5000, 1 => 0usize..65_000],
        size in prop_oneof![1 => 1usize..100, 4 => 100usize..3000],
    ) {
        let mut spec = Spec { payload: Spec::new(true, 17, payload).payload, flags, ..spec };
        spec.payload.truncate(65_535 - spec.headers());
        let got = packets(&spec.build_partial(), offload(&spec, size)).unwrap();
        let got: Vec<_> = got.into_iter().map(reference::with_one_zero).collect();
        prop_assert_eq!(got, spec.segments(size));
    }

    #[test]
    fn completed_checksums_are_right(spec in extended(), payload in 0usize..300) {
        let spec = Spec { payload: Spec::new(true, 17, payload).payload, ..spec };
        let offload = PacketOffload { segmentation: Segmentation::None, ..offload(&spec, 1) };
        prop_assert_eq!(packets(&spec.build_partial(), offload).unwrap(), [spec.build()]);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        header: [u8; 10],
        packet in prop::collection::vec(any::<u8>(), 0..400),
        room in 0usize..20,
        length in 0usize..450,
    ) {
        if let Ok(offload) = PacketOffload::parse(&header) {
            let mut buffer = packet.clone();
            buffer.resize(packet.len() + room, 0);
            if let Ok(mut segments) = Segments::new(&mut buffer, length, offload) {
                while segments.next_segment().is_some() {}
            }
        }
    }

    #[test]
    fn damaged_super_packets_never_panic(
        spec in extended(),
        payload in 0usize..300,
        size in 1usize..300,
        damage in prop::collection::vec((0usize..200, any::<u8>()), 0..4),
        cut in 0usize..200,
        header_damage in prop::option::of((0usize..10, any::<u8>())),
    ) {
        let spec = Spec { payload: Spec::new(true, 17, payload).payload, ..spec };
        let mut packet = spec.build_partial();
        for (at, value) in damage {
            if let Some(byte) = packet.get_mut(at) {
                *byte = value;
            }
        }
        packet.truncate(packet.len().saturating_sub(cut).max(1));
        let mut header = offload(&spec, size).to_bytes(0);
        if let Some((at, value)) = header_damage {
            header[at] = value;
        }
        if let Ok(offload) = PacketOffload::parse(&header)
            && let Ok(segments) = packets(&packet, offload)
        {
            prop_assert!(!segments.is_empty());
        }
    }
}
