//! Packets of the reference, merged; then every write is cut again the slow way
//! and compared with what went in.
#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use proptest::prelude::*;

use super::*;
use crate::reference::{ACK, CWR, ECE, FIN, PSH, Spec, TCP, UDP, cut, plain, with_one_zero};
use crate::{PADDING, Segments};

const BOTH: Merge = Merge {
    tcp: true,
    udp: true,
};

/// Packets one after another, with something between them.
fn arena(packets: &[Vec<u8>]) -> (Vec<u8>, Vec<Range<usize>>) {
    let mut arena = vec![0xcc; 3];
    let mut ranges = Vec::new();
    for packet in packets {
        let start = arena.len();
        arena.extend(packet);
        ranges.push(start..arena.len());
        arena.extend([0xcc; 5]);
    }
    (arena, ranges)
}

/// One write: its vnet header, its bytes, and the numbers of its packets.
type Written = ([u8; 10], Vec<u8>, Vec<usize>);

fn coalesce(coalescer: &mut Coalescer, packets: &[Vec<u8>]) -> Vec<Written> {
    let (arena, ranges) = arena(packets);
    coalescer.clear();
    for range in &ranges {
        coalescer.push(&arena, range.clone());
    }
    let number = |packet: &[u8]| {
        let start = packet.as_ptr() as usize - arena.as_ptr() as usize;
        ranges
            .iter()
            .position(|range| *range == (start..start + packet.len()))
    };
    let mut written = Vec::new();
    for write in coalescer.writes(&arena) {
        let bytes = write.parts().collect::<Vec<_>>().concat();
        assert_eq!(bytes.len(), write.len());
        assert!(bytes.len() <= 65_535);
        assert!(write.parts().count() < 1023);
        assert_eq!(write.packets().count(), write.packet_count());
        let numbers = write.packets().map(|packet| number(packet).unwrap());
        written.push((write.header(), bytes, numbers.collect()));
    }
    written
}

/// How many packets went into each write.
fn counts(packets: &[Vec<u8>]) -> Vec<usize> {
    let written = coalesce(&mut Coalescer::new(BOTH), packets);
    check(packets, &written);
    written
        .iter()
        .map(|(_, _, numbers)| numbers.len())
        .collect()
}

/// Every packet is there once, unchanged, and after those before it in its flow.
fn check(packets: &[Vec<u8>], written: &[Written]) {
    let mut places = vec![None; packets.len()];
    let mut place = 0;
    for (vnet, bytes, numbers) in written {
        let again = cut(*vnet, bytes);
        assert_eq!(again.len(), numbers.len());
        for (packet, number) in again.into_iter().zip(numbers) {
            if numbers.len() == 1 {
                assert_eq!(packet, packets[*number]);
            } else {
                assert_eq!(comparable(packet), comparable(packets[*number].clone()));
            }
            assert_eq!(places[*number].replace(place), None, "written twice");
            place += 1;
        }
    }
    assert!(places.iter().all(Option::is_some), "a packet is lost");
    for (later, packet) in packets.iter().enumerate() {
        for (earlier, before) in packets[..later].iter().enumerate() {
            if must_stay_in_order(before, packet) {
                assert!(places[earlier] < places[later], "{earlier} {later}");
            }
        }
    }
}

/// Without what may differ: the identification of a packet that is never
/// fragmented (RFC 6864), with the checksum over it, and TCP's second zero.
fn comparable(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    with_one_zero(packet)
}

fn must_stay_in_order(one: &[u8], other: &[u8]) -> bool {
    match (addresses(one), addresses(other)) {
        (Some(a), Some(b)) if a == b => match (ports(one), ports(other)) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        },
        _ => false,
    }
}

fn addresses(packet: &[u8]) -> Option<&[u8]> {
    match packet.first()? >> 4 {
        4 => packet.get(12..20),
        6 => packet.get(8..40),
        _ => None,
    }
}

/// Protocol and ports, of packets whose ports are where they always are.
fn ports(packet: &[u8]) -> Option<(u8, &[u8])> {
    let (protocol, start) = match packet[0] {
        0x45 if packet[6] & 0x3f == 0 && packet[7] == 0 => (packet[9], 20),
        0x60..0x70 => (packet[6], 40),
        _ => return None,
    };
    let is_known = protocol == TCP || protocol == UDP;
    is_known.then_some((protocol, packet.get(start..start + 4)?))
}

/// The packets of a flow, payloads of those lengths.
fn run(spec: &Spec, payloads: &[usize]) -> Vec<Vec<u8>> {
    let mut spec = spec.clone();
    let built = payloads.iter().map(|payload| {
        spec.payload = Spec::new(true, UDP, *payload).payload;
        let packet = spec.build();
        advance(&mut spec);
        packet
    });
    built.collect()
}

fn advance(spec: &mut Spec) {
    spec.sequence = spec.sequence.wrapping_add(spec.payload.len() as u32);
    spec.id = spec.id.wrapping_add(1);
}

fn every_kind() -> [Spec; 4] {
    [(true, TCP), (true, UDP), (false, TCP), (false, UDP)]
        .map(|(is_v4, protocol)| Spec::new(is_v4, protocol, 1000))
}

#[test]
fn a_run_of_a_flow_is_one_write() {
    for spec in every_kind() {
        assert_eq!(counts(&run(&spec, &[1000; 40])), [40]);
        assert_eq!(counts(&run(&spec, &[1000, 1000, 1])), [3]);
    }
}

#[test]
fn a_shorter_payload_is_the_last_and_a_longer_one_begins_anew() {
    for spec in every_kind() {
        assert_eq!(counts(&run(&spec, &[1000, 999, 1000, 1000])), [2, 2]);
        assert_eq!(counts(&run(&spec, &[1000, 999, 999])), [2, 1]);
        assert_eq!(counts(&run(&spec, &[1000, 1001, 1001])), [1, 2]);
        assert_eq!(counts(&run(&spec, &[0, 0, 1000, 1000])), [1, 1, 2]);
    }
}

#[test]
fn a_write_ends_at_64_kib_and_at_the_kernels_limits() {
    assert_eq!(counts(&run(&Spec::new(true, TCP, 0), &[1400; 50])), [46, 4]);
    assert_eq!(
        counts(&run(&Spec::new(false, TCP, 0), &[1400; 50])),
        [46, 4]
    );
    assert_eq!(
        counts(&run(&Spec::new(false, UDP, 0), &[9; 130])),
        [64, 64, 2]
    );
    assert_eq!(
        counts(&run(&Spec::new(true, TCP, 0), &[1; 1001])),
        [1000, 1]
    );
    // The longest there can be: 65,535 bytes.
    let spec = Spec::new(true, UDP, 0);
    assert_eq!(counts(&run(&spec, &[32_754, 32_753, 1])), [2, 1]);
    assert_eq!(counts(&run(&spec, &[32_754, 32_754])), [1, 1]);
}

#[test]
fn interleaved_flows_are_merged_apart() {
    let flows: Vec<_> = (0..4)
        .map(|port| {
            let mut spec = Spec::new(true, TCP, 0);
            spec.ports.0 = port;
            run(&spec, &[500; 10])
        })
        .collect();
    let packets: Vec<_> = (0..40)
        .map(|number| flows[number % 4][number / 4].clone())
        .collect();
    assert_eq!(counts(&packets), [10; 4]);
}

#[test]
fn the_oldest_flow_gives_way_when_there_are_too_many() {
    let flows: Vec<_> = (0..=OPEN as u16)
        .map(|port| {
            let mut spec = Spec::new(false, UDP, 0);
            spec.ports.1 = port;
            run(&spec, &[50; 2])
        })
        .collect();
    let first = flows.iter().map(|flow| flow[0].clone());
    // Backwards: each finds its group, and the evicted one comes last.
    let second = flows.iter().rev().map(|flow| flow[1].clone());
    let packets: Vec<_> = first.chain(second).collect();
    let mut expected = vec![1];
    expected.extend([2; OPEN]);
    expected.push(1);
    assert_eq!(counts(&packets), expected);
}

/// Changes one packet of a spec.
type Change = fn(&mut Spec);

#[test]
fn packets_with_different_headers_are_not_merged() {
    let tcp: &[Change] = &[
        |spec| spec.flags = ACK | ECE,
        |spec| spec.acknowledgement += 1,
        |spec| spec.window += 1,
        |spec| spec.urgent = 1,
        |spec| spec.tcp_options[7] += 1,
        |spec| spec.tcp_options.truncate(8),
        |spec| spec.sequence = spec.sequence.wrapping_add(1),
        |spec| spec.sequence = spec.sequence.wrapping_sub(1),
    ];
    let both: &[Change] = &[
        |spec| spec.tos = 1,
        |spec| spec.ttl -= 1,
        |spec| spec.hosts.0 += 1,
        |spec| spec.hosts.1 += 1,
        |spec| spec.ports.0 += 1,
        |spec| spec.ports.1 += 1,
    ];
    let v4: &[Change] = &[
        |spec| spec.fragment = 0x2000,
        |spec| spec.fragment = 1,
        |spec| spec.fragment = 0,
        |spec| spec.fragment |= 0x8000,
        |spec| spec.extra = vec![1; 4],
    ];
    let v6: &[Change] = &[|spec| spec.flow_label += 1];
    for spec in every_kind() {
        let own = if spec.protocol == TCP { tcp } else { &[] };
        let family = if spec.is_v4 { v4 } else { v6 };
        for (number, change) in own.iter().chain(both).chain(family).enumerate() {
            let mut next = spec.clone();
            advance(&mut next);
            assert_eq!(counts(&[spec.build(), next.build()]), [2]);
            change(&mut next);
            assert_eq!(
                counts(&[spec.build(), next.build()]),
                [1, 1],
                "{number} {spec:?}"
            );
        }
    }
}

#[test]
fn only_segments_that_say_nothing_but_data_are_merged() {
    for flags in [FIN, CWR, 0x02, 0x04, 0x20]
        .map(|flag| ACK | flag)
        .into_iter()
        .chain([0])
    {
        let mut spec = Spec::new(true, TCP, 0);
        spec.flags = flags;
        assert_eq!(counts(&run(&spec, &[9, 9])), [1, 1], "{flags:x}");
    }
    let mut spec = Spec::new(true, TCP, 0);
    spec.flags = ACK | ECE;
    assert_eq!(counts(&run(&spec, &[9, 9])), [2]);
}

#[test]
fn a_push_ends_its_write() {
    let mut spec = Spec::new(true, TCP, 0);
    let mut packets = run(&spec, &[9; 5]);
    spec.sequence = spec.sequence.wrapping_add(18);
    spec.id = spec.id.wrapping_add(2);
    spec.flags |= PSH;
    packets[2] = run(&spec, &[9]).remove(0);
    assert_eq!(counts(&packets), [3, 2]);
}

#[test]
fn identification_counts_only_where_a_packet_may_be_fragmented() {
    for (fragment, expected) in [(0x4000, vec![3]), (0, vec![1, 1, 1])] {
        let mut spec = Spec::new(true, UDP, 10);
        spec.fragment = fragment;
        let mut packets = vec![spec.build(), spec.build()];
        spec.id = 77;
        packets.push(spec.build());
        assert_eq!(counts(&packets), expected);
    }
    let mut spec = Spec::new(true, UDP, 0);
    spec.fragment = 0;
    spec.id = 0xffff;
    assert_eq!(counts(&run(&spec, &[10; 3])), [3]);
}

#[test]
fn a_wrong_checksum_is_left_for_the_receiver_to_see() {
    for spec in every_kind() {
        let good = run(&spec, &[100; 6]);
        let last = good[0].len() - 1;
        for (broken, expected) in [(0, vec![1, 5]), (1, vec![1, 1, 4]), (3, vec![3, 1, 2])] {
            let mut packets = good.clone();
            packets[broken][last] ^= 1;
            assert_eq!(counts(&packets), expected, "{spec:?}");
            if spec.is_v4 {
                let mut packets = good.clone();
                packets[broken][10] ^= 1;
                assert_eq!(counts(&packets), expected);
            }
        }
    }
}

#[test]
fn udp_without_a_checksum_is_not_merged() {
    let mut packets = run(&Spec::new(true, UDP, 0), &[100; 3]);
    packets[1][26..28].fill(0);
    assert_eq!(counts(&packets), [1, 1, 1]);
}

#[test]
fn a_fragment_holds_its_place_among_all_flows_of_its_addresses() {
    let packets = run(&Spec::new(true, TCP, 0), &[9; 4]);
    let mut fragment = Spec::new(true, UDP, 20);
    fragment.fragment = 0x2001;
    let with = |fragment: &Spec| {
        let mut packets = packets.clone();
        packets.insert(2, fragment.build());
        counts(&packets)
    };
    assert_eq!(with(&fragment), [2, 1, 2]);
    fragment.hosts = (2, 1);
    assert_eq!(with(&fragment), [4, 1]);
}

#[test]
fn a_protocol_is_merged_only_if_wanted() {
    let mut packets = run(&Spec::new(true, TCP, 0), &[9; 2]);
    packets.extend(run(&Spec::new(true, UDP, 0), &[9; 2]));
    let mut coalescer = Coalescer::new(BOTH);
    for (tcp, udp, expected) in [
        (true, true, vec![2, 2]),
        (true, false, vec![2, 1, 1]),
        (false, true, vec![1, 1, 2]),
        (false, false, vec![1; 4]),
    ] {
        coalescer.set_merge(Merge { tcp, udp });
        let written = coalesce(&mut coalescer, &packets);
        check(&packets, &written);
        let counts: Vec<_> = written
            .iter()
            .map(|(_, _, numbers)| numbers.len())
            .collect();
        assert_eq!(counts, expected);
    }
}

#[test]
fn a_cleared_coalescer_is_empty() {
    let mut coalescer = Coalescer::new(BOTH);
    let packets = run(&Spec::new(true, TCP, 0), &[9; 2]);
    assert!(coalescer.is_empty());
    coalesce(&mut coalescer, &packets[..1]);
    assert!(!coalescer.is_empty());
    // The second packet does not find the first one's group again.
    assert_eq!(coalesce(&mut coalescer, &packets[1..])[0].2, [0]);
    coalescer.clear();
    assert!(coalescer.is_empty());
    assert_eq!(coalescer.writes(&[]).count(), 0);
}

/// What may happen to the next packet of a flow.
#[derive(Debug, Clone)]
enum Event {
    Next,
    Length(usize),
    Ttl(u8),
    Tos(u8),
    Id(u16),
    Acknowledgement(u32),
    Flags(u8),
    Option(u8),
    Again,
    Fragment(u16),
    Extra,
    Damage(usize, u8),
    Truncate(usize),
    NoChecksum,
    Noise(Vec<u8>),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        30 => Just(Event::Next),
        2 => (0usize..60).prop_map(Event::Length),
        1 => (1u8..3).prop_map(Event::Ttl),
        1 => (0u8..4).prop_map(Event::Tos),
        1 => any::<u16>().prop_map(Event::Id),
        1 => any::<u32>().prop_map(Event::Acknowledgement),
        2 => any::<u8>().prop_map(Event::Flags),
        2 => prop::sample::select(vec![ACK, ACK | PSH, ACK | ECE]).prop_map(Event::Flags),
        1 => any::<u8>().prop_map(Event::Option),
        1 => Just(Event::Again),
        1 => prop::sample::select(vec![0u16, 0x2000, 0x4000, 0x8000, 5]).prop_map(Event::Fragment),
        1 => Just(Event::Extra),
        2 => (0usize..150, 1u8..).prop_map(|(at, bits)| Event::Damage(at, bits)),
        1 => (0usize..70).prop_map(Event::Truncate),
        1 => Just(Event::NoChecksum),
        1 => prop::collection::vec(any::<u8>(), 0..90).prop_map(Event::Noise),
    ]
}

/// The next packet of a flow after something happened to it.
fn happen(spec: &mut Spec, event: &Event) -> Vec<u8> {
    let mut packet = match event {
        Event::Noise(bytes) => return bytes.clone(),
        Event::Again => return spec.build(),
        _ => spec.build(),
    };
    match event {
        Event::Damage(at, bits) => {
            if let Some(byte) = packet.get_mut(*at) {
                *byte ^= bits;
            }
        }
        Event::Truncate(by) => packet.truncate(packet.len().saturating_sub(*by)),
        Event::NoChecksum if spec.protocol == UDP => {
            let at = spec.transport_offset() + spec.checksum_offset();
            packet[at..at + 2].fill(0);
        }
        _ => {}
    }
    let length = spec.payload.len();
    advance(spec);
    match event {
        Event::Length(length) => spec.payload.resize(*length, 0x5a),
        Event::Ttl(ttl) => spec.ttl = *ttl,
        Event::Tos(tos) => spec.tos = *tos,
        Event::Id(id) => spec.id = *id,
        Event::Acknowledgement(ack) => spec.acknowledgement = *ack,
        Event::Flags(flags) => spec.flags = *flags,
        Event::Option(byte) => {
            if let Some(last) = spec.tcp_options.last_mut() {
                *last = *byte;
            }
        }
        Event::Fragment(field) => spec.fragment = *field,
        Event::Extra if spec.is_v4 => spec.extra = vec![1; 4 - spec.extra.len()],
        _ => {}
    }
    for byte in &mut spec.payload {
        *byte = byte.wrapping_mul(5).wrapping_add(length as u8);
    }
    packet
}

/// Some flows, of which two share their addresses.
fn flows() -> impl Strategy<Value = Vec<Spec>> {
    prop::collection::vec((plain(), 1usize..60, 0u8..2), 1..5).prop_map(|flows| {
        let flows = flows.into_iter().enumerate();
        flows
            .map(|(number, (mut spec, payload, host))| {
                spec.payload = Spec::new(true, UDP, payload).payload;
                spec.hosts.0 = host;
                spec.ports.0 = number as u16;
                spec
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_packet_is_changed_lost_or_reordered_within_its_flow(
        mut flows in flows(),
        events in prop::collection::vec((any::<prop::sample::Index>(), event()), 1..60),
        again in any::<bool>(),
    ) {
        let mut packets = Vec::new();
        for (flow, event) in events {
            let flow = flow.index(flows.len());
            packets.push(happen(&mut flows[flow], &event));
        }
        let mut coalescer = Coalescer::new(BOTH);
        let written = coalesce(&mut coalescer, &packets);
        check(&packets, &written);
        if again {
            // Memory used again changes nothing.
            prop_assert_eq!(coalesce(&mut coalescer, &packets), written);
        }
    }

    #[test]
    fn arbitrary_bytes_are_written_as_they_came(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..10)
    ) {
        let written = coalesce(&mut Coalescer::new(BOTH), &packets);
        check(&packets, &written);
    }

    #[test]
    fn what_was_cut_is_merged_into_the_same_super_packet(
        spec in plain(),
        push in any::<bool>(),
        size in 50usize..2000,
        full in 1usize..40,
        rest in 1usize..50,
    ) {
        let mut spec = spec;
        let full = full.min(60_000 / size);
        spec.payload = Spec::new(true, UDP, size * full + rest).payload;
        spec.flags = if push { ACK | PSH } else { ACK };
        let packet = spec.build_partial();
        let header = Layout {
            is_v4: spec.is_v4,
            is_tcp: spec.protocol == TCP,
            headers: spec.headers(),
            payload: size,
        }
        .offload()
        .to_bytes(spec.headers() as u16);

        let mut buffer = packet.clone();
        buffer.extend([0; PADDING]);
        let offload = PacketOffload::parse(&header).unwrap();
        let mut segments = Segments::new(&mut buffer, packet.len(), offload).unwrap();
        let mut packets = Vec::new();
        while let Some((bytes, length)) = segments.next_segment() {
            packets.push(bytes[..length].to_vec());
        }
        let written = coalesce(&mut Coalescer::new(BOTH), &packets);
        check(&packets, &written);
        prop_assert_eq!(written.len(), 1);
        prop_assert_eq!(&written[0].0, &header);
        prop_assert_eq!(&written[0].1, &packet);
    }
}
