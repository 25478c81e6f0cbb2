//! What comes from the TUN: packets and super-packets of the kernel's making, and
//! such as no kernel makes. Each comes out at the peer whose destination it is,
//! cut up as the reference cuts it.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use privnet_tunnel::{PADDING, PacketOffload, PartialChecksum, Segmentation, VNET_HEADER};

use super::input::Input;
use super::reference::{TCP, with_one_zero};
use super::world::{World, owner};

/// More only take longer.
const STEPS: usize = 32;

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::ready(true);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        let choice = input.byte();
        match choice & 3 {
            0 | 1 => as_the_kernel_makes_it(&mut world, &mut input, choice),
            2 => changed(&mut world, &mut input, choice),
            _ => arbitrary(&mut world, &mut input),
        }
        if choice >> 6 == 3 {
            world.advance(Duration::from_millis(100));
        }
    }
    world.check_sessions();
    world.keep();
}

fn as_the_kernel_makes_it(world: &mut World, input: &mut Input<'_>, choice: u8) {
    let (offload, packet, segments) = super_packet(input, choice);
    let destination = destination(&packet);
    send(world, offload, packet);
    let owner = destination.and_then(|address| world.owner(address));
    for (number, spoke) in world.spokes.iter_mut().enumerate() {
        let received = std::mem::take(&mut spoke.received);
        let received: Vec<_> = received.into_iter().map(with_one_zero).collect();
        if owner == Some(number) {
            let expected: Vec<_> = segments.iter().cloned().map(with_one_zero).collect();
            assert_eq!(received, expected, "{offload:?}");
        } else {
            assert!(received.is_empty(), "another's packet");
        }
    }
}

fn changed(world: &mut World, input: &mut Input<'_>, choice: u8) {
    let (offload, mut packet, _) = super_packet(input, choice);
    let mut header = offload.to_bytes(0);
    input.patch(&mut header);
    input.patch(&mut packet);
    read(world, &header, packet);
}

fn arbitrary(world: &mut World, input: &mut Input<'_>) {
    let mut header = [0; VNET_HEADER];
    let taken = input.take(VNET_HEADER);
    header[..taken.len()].copy_from_slice(taken);
    let length = usize::from(input.byte());
    read(world, &header, input.take(length).to_vec());
}

/// Whatever was read, what comes out is whole, is no more than what went in, and
/// comes to the peer that it is for.
fn read(world: &mut World, header: &[u8; VNET_HEADER], packet: Vec<u8>) {
    let Ok(offload) = PacketOffload::parse(header) else {
        return;
    };
    let expected_owner = destination(&packet).and_then(|address| world.owner(address));
    let length = packet.len();
    send(world, offload, packet);
    let World {
        prefixes, spokes, ..
    } = world;
    let owner_of = |address| owner(prefixes, address);
    for (number, spoke) in spokes.iter_mut().enumerate() {
        let received = std::mem::take(&mut spoke.received);
        assert!(received.is_empty() || expected_owner == Some(number));
        if offload.segmentation == Segmentation::None {
            assert!(received.len() <= 1, "one packet is one packet");
        }
        let mut payload = 0;
        for packet in &received {
            assert_eq!(destination(packet).and_then(owner_of), Some(number));
            // boringtun has cut it to the length that it says, if it has so much.
            let said = match packet[0] >> 4 {
                4 => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
                _ => usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40,
            };
            assert_eq!(said, packet.len());
            payload += packet.len() - if packet[0] >> 4 == 4 { 20 } else { 40 };
        }
        // Each but the first has headers of its own, of 256 bytes at most.
        assert!(payload <= length + received.len() * 256);
    }
}

fn send(world: &mut World, offload: PacketOffload, packet: Vec<u8>) {
    let length = packet.len();
    let mut buffer = packet;
    buffer.resize(length + PADDING, 0xee);
    world
        .shard
        .packet(&mut buffer, length, offload, world.now, &mut world.out);
    world.flush();
    assert!(world.tun.is_empty(), "nothing goes back into the TUN");
}

/// A super-packet, or a packet with or without its checksum; and what it stands for.
fn super_packet(input: &mut Input<'_>, choice: u8) -> (PacketOffload, Vec<u8>, Vec<Vec<u8>>) {
    let is_large = choice & 4 != 0;
    let mut spec = input.spec(if is_large { 60_000 } else { 1_500 });
    // The kernel does not segment fragments, nor leave their checksums to others.
    spec.fragment &= 0x4000;
    let partial = PartialChecksum {
        start: spec.transport_offset() as u16,
        offset: spec.checksum_offset() as u16,
    };
    let mut offload = PacketOffload {
        segmentation: Segmentation::None,
        needs_checksum: Some(partial),
    };
    if choice & 8 != 0 {
        let size = input.word() % 1_500;
        // So that nothing has thousands of segments.
        let size = size.max(spec.payload.len() as u16 / 200).max(1);
        if let Some(size) = NonZeroU16::new(size) {
            offload.segmentation = match (spec.protocol, spec.is_v4) {
                (TCP, true) => Segmentation::TcpV4(size),
                (TCP, false) => Segmentation::TcpV6(size),
                _ => Segmentation::Udp(size),
            };
        }
        return (
            offload,
            spec.build_partial(),
            spec.segments(usize::from(size)),
        );
    }
    if choice & 16 != 0 {
        return (offload, spec.build_partial(), vec![spec.build()]);
    }
    (PacketOffload::default(), spec.build(), vec![spec.build()])
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(*packet.get(16..20)?.first_chunk::<4>()?)),
        6 => Some(IpAddr::from(*packet.get(24..40)?.first_chunk::<16>()?)),
        _ => None,
    }
}
