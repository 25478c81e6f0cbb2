//! What comes from the network: packets inside genuine messages of peers, however
//! hostile; replays and changed messages; garbage. An oracle that shares no code
//! with the shard says which packet goes where and how it looks there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use privnet_tunnel::{Counter, Ecn};

use super::input::Input;
use super::reference::with_one_zero;
use super::world::{MTU, World};

/// More only take longer.
const STEPS: usize = 64;

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let relay = input.byte() & 1 == 0;
    let mut world = World::ready(relay);
    let mut expected = Expected {
        relayed_before: world.counters.get(Counter::Relayed),
        ..Expected::default()
    };
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        let choice = input.byte();
        match choice & 7 {
            0..=3 => {
                let spoke = usize::from(choice >> 3 & 1);
                let ecn = Ecn::from_traffic_class(choice >> 4);
                let packets = burst(&mut input, usize::from(choice >> 6));
                let mut messages = Vec::new();
                for packet in &packets {
                    expected.add(&world, relay, spoke, ecn, packet);
                    messages.push(world.seal(spoke, packet));
                }
                world.give(spoke, ecn, &messages);
            }
            // Anything as an inner packet.
            4 => {
                let spoke = usize::from(choice >> 3 & 1);
                let length = usize::from(input.byte());
                let packet = input.take(length).to_vec();
                expected.add(&world, relay, spoke, Ecn::NOT_ECT, &packet);
                let message = world.seal(spoke, &packet);
                world.give(spoke, Ecn::NOT_ECT, &[message]);
            }
            // An earlier message again, as it was or changed.
            5 => {
                let number = usize::from(input.byte()) % world.messages.len();
                let mut message = world.messages[number].clone();
                let length = message.len();
                input.patch(&mut message);
                let length = length - usize::from(choice >> 3).min(length);
                world.give_from_a_stranger(&message[..length], length);
            }
            6 => {
                let (length, segment) = (usize::from(input.byte()), usize::from(input.byte()));
                let mut bytes = input.take(length).to_vec();
                if let (Some(first), 1..) = (bytes.first_mut(), choice >> 6) {
                    // One of the four types, rather than none.
                    *first = 1 + (choice >> 3 & 3);
                }
                world.give_from_a_stranger(&bytes, segment);
            }
            _ => {
                world.advance(Duration::from_millis(u64::from(choice >> 3) * 5));
                expected.check(&mut world);
            }
        }
    }
    world.flush();
    expected.check(&mut world);
    if relay {
        world.check_sessions();
    }
    world.keep();
}

/// Packets of one flow, each the continuation of the one before; the last of them
/// perhaps with a few bytes changed.
fn burst(input: &mut Input<'_>, more: usize) -> Vec<Vec<u8>> {
    let mut spec = input.spec(1600);
    let mut packets = Vec::new();
    for _ in 0..more * more {
        packets.push(spec.build());
        spec.sequence = spec.sequence.wrapping_add(spec.payload.len() as u32);
        spec.id = spec.id.wrapping_add(1);
    }
    let mut last = spec.build();
    input.patch(&mut last);
    packets.push(last);
    packets
}

/// What must have come out since the last check.
#[derive(Debug, Default)]
struct Expected {
    tun: Vec<Vec<u8>>,
    relayed: [Vec<Vec<u8>>; 2],
    relayed_before: u64,
}

impl Expected {
    /// The packet that a peer sends, by the rules of a router and of WireGuard.
    fn add(&mut self, world: &World, relay: bool, spoke: usize, outer: Ecn, packet: &[u8]) {
        let Some(length) = whole(packet) else {
            return;
        };
        let mut packet = packet[..length].to_vec();
        let (source, destination) = addresses(&packet);
        if world.owner(source) != Some(spoke) || !leave_tunnel(&mut packet, outer) {
            return;
        }
        match world.owner(destination) {
            Some(to) if relay => {
                let hops = if packet[0] >> 4 == 4 { 8 } else { 7 };
                if to == spoke {
                    // It would only come back.
                } else if packet[hops] <= 1 || length > MTU {
                    self.tun.push(packet);
                } else {
                    let value = packet[hops] - 1;
                    replace(&mut packet, hops, value);
                    self.relayed[to].push(packet);
                }
            }
            _ => self.tun.push(packet),
        }
    }

    fn check(&mut self, world: &mut World) {
        let mut count = 0;
        for (spoke, expected) in world.spokes.iter_mut().zip(&mut self.relayed) {
            let received = std::mem::take(&mut spoke.received);
            let expected = std::mem::take(expected);
            count += expected.len() as u64;
            assert_eq!(normal(received), normal(expected), "relayed, in order");
        }
        self.relayed_before += count;
        assert_eq!(world.counters.get(Counter::Relayed), self.relayed_before);
        let written = flows(std::mem::take(&mut world.tun));
        let expected = flows(std::mem::take(&mut self.tun));
        assert_eq!(written, expected, "to the TUN, in order within each flow");
    }
}

/// The packets of each flow, in order: packets of different flows may pass each other.
fn flows(packets: Vec<Vec<u8>>) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    for packet in normal(packets) {
        let is_v4 = packet[0] >> 4 == 4;
        let mut key = if is_v4 {
            packet[12..20].to_vec()
        } else {
            packet[8..40].to_vec()
        };
        let (protocol, start) = if is_v4 {
            (packet[9], usize::from(packet[0] & 15) * 4)
        } else {
            (packet[6], 40)
        };
        let is_fragment = is_v4 && u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
        key.push(protocol);
        if matches!(protocol, 6 | 17) && !is_fragment {
            key.extend(packet.iter().skip(start).take(4));
        }
        flows.entry(key).or_default().push(packet);
    }
    flows
}

/// Without what may differ: the identification of a packet that is never fragmented
/// (RFC 6864, section 4.1), and which of its two zeros a checksum has.
fn normal(mut packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    for packet in &mut packets {
        let is_v4 = packet[0] >> 4 == 4;
        if is_v4 && packet[6] & 0x60 == 0x40 {
            replace(packet, 4, 0);
            replace(packet, 5, 0);
        }
        if is_v4 && packet[10..12] == [0, 0] {
            packet[10..12].fill(0xff);
        }
        let start = if is_v4 {
            usize::from(packet[0] & 15) * 4
        } else {
            40
        };
        if packet.len() >= start + 18 {
            *packet = with_one_zero(std::mem::take(packet));
        }
    }
    packets
}

/// The length of the packet that the bytes begin with.
fn whole(packet: &[u8]) -> Option<usize> {
    let word = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let length = match packet.first()? >> 4 {
        4 if packet.len() >= 20 => {
            let header = usize::from(packet[0] & 15) * 4;
            (header >= 20 && word(2) >= header).then(|| word(2))?
        }
        6 if packet.len() >= 40 => 40 + word(4),
        _ => return None,
    };
    (length <= packet.len()).then_some(length)
}

fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    if packet[0] >> 4 == 4 {
        let at = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap().into();
        (at(12), at(16))
    } else {
        let at = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap().into();
        (at(8), at(24))
    }
}

/// RFC 6040, figure 4. Returns whether the packet goes on.
fn leave_tunnel(packet: &mut [u8], outer: Ecn) -> bool {
    let is_v4 = packet[0] >> 4 == 4;
    let shift = if is_v4 { 0 } else { 4 };
    let inner = packet[1] >> shift & 3;
    let left = match (inner, outer.bits()) {
        (0, 3) => return false,
        (1 | 2, 3) => 3,
        (2, 1) => 1,
        _ => inner,
    };
    let value = packet[1] & !(3 << shift) | left << shift;
    replace(packet, 1, value);
    true
}

/// Replaces a byte of a header, and what follows from it for IPv4's checksum (RFC
/// 1624, equation 3).
fn replace(packet: &mut [u8], at: usize, value: u8) {
    if packet[at] == value {
        return;
    }
    let word = at & !1;
    let read = |packet: &[u8], at: usize| u32::from(packet[at]) << 8 | u32::from(packet[at + 1]);
    let before = read(packet, word);
    packet[at] = value;
    if packet[0] >> 4 != 4 {
        return;
    }
    let mut sum = (!read(packet, 10) & 0xffff) + (!before & 0xffff) + read(packet, word);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !(sum as u16);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}
