//! The packet inside the tunnel, seen through a checked view: version, header
//! and total length hold before anything else reads it. Only the header is read;
//! options, extension headers and payload are never interpreted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum;
use crate::ecn::Ecn;

/// Lengths of headers without options, and protocol numbers.
pub(crate) const IPV4_HEADER: usize = 20;
pub(crate) const IPV6_HEADER: usize = 40;
pub(crate) const TCP_HEADER: usize = 20;
pub(crate) const UDP_HEADER: usize = 8;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// Flags of TCP.
pub(crate) const PSH: u8 = 0x08;

/// A well-formed IPv4 or IPv6 packet, without what padding may have followed it.
#[derive(Debug)]
pub struct IpPacket<'a> {
    bytes: &'a mut [u8],
}

impl<'a> IpPacket<'a> {
    /// Takes the packet that the buffer starts with, or nothing when the buffer
    /// does not hold one whole. What follows its total length is cut off.
    pub fn parse(buffer: &'a mut [u8]) -> Option<Self> {
        let length = match buffer.first()? >> 4 {
            4 if buffer.len() >= IPV4_HEADER => {
                let header = usize::from(buffer[0] & 15) * 4;
                let total = usize::from(u16::from_be_bytes([buffer[2], buffer[3]]));
                if header < IPV4_HEADER || total < header {
                    return None;
                }
                total
            }
            6 if buffer.len() >= IPV6_HEADER => {
                IPV6_HEADER + usize::from(u16::from_be_bytes([buffer[4], buffer[5]]))
            }
            _ => return None,
        };
        Some(Self {
            bytes: buffer.get_mut(..length)?,
        })
    }

    /// The packet's length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a packet is never empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The source address.
    pub fn source(&self) -> IpAddr {
        if self.is_v4() {
            self.v4_at(12)
        } else {
            self.v6_at(8)
        }
    }

    /// The destination address.
    pub fn destination(&self) -> IpAddr {
        if self.is_v4() {
            self.v4_at(16)
        } else {
            self.v6_at(24)
        }
    }

    /// The TTL, which IPv6 calls hop limit.
    pub fn hop_limit(&self) -> u8 {
        self.bytes[if self.is_v4() { 8 } else { 7 }]
    }

    /// Tells the header of congestion that the packet met on its way here. False
    /// when the packet must be dropped instead.
    pub(crate) fn leave_tunnel(&mut self, outer: Ecn) -> bool {
        let inner = ecn(self.bytes);
        let Some(left) = inner.leaving(outer) else {
            return false;
        };
        if left != inner {
            self.set_ecn(left);
        }
        true
    }

    fn set_ecn(&mut self, ecn: Ecn) {
        if self.is_v4() {
            let byte = self.bytes[1] & !3 | ecn.bits();
            self.replace_v4(0, [self.bytes[0], byte]);
        } else {
            self.bytes[1] = self.bytes[1] & !0x30 | ecn.bits() << 4;
        }
    }

    /// Takes one hop away. The IPv4 header checksum is corrected rather than
    /// computed anew (RFC 1624), so a wrong one stays wrong for the receiver to see.
    pub fn decrement_hop_limit(&mut self) {
        if !self.is_v4() {
            self.bytes[7] = self.bytes[7].saturating_sub(1);
            return;
        }
        let hops = self.bytes[8].saturating_sub(1);
        self.replace_v4(8, [hops, self.bytes[9]]);
    }

    /// Replaces a 16-bit word of an IPv4 header and corrects the checksum.
    fn replace_v4(&mut self, offset: usize, word: [u8; 2]) {
        let before = u16::from_be_bytes([self.bytes[offset], self.bytes[offset + 1]]);
        self.bytes[offset..offset + 2].copy_from_slice(&word);
        let after = u16::from_be_bytes(word);
        let checksum = u16::from_be_bytes([self.bytes[10], self.bytes[11]]);
        let checksum = checksum::corrected(checksum, before, after);
        self.bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    fn is_v4(&self) -> bool {
        self.bytes[0] >> 4 == 4
    }

    fn v4_at(&self, offset: usize) -> IpAddr {
        let mut octets = [0; 4];
        octets.copy_from_slice(&self.bytes[offset..offset + 4]);
        Ipv4Addr::from(octets).into()
    }

    fn v6_at(&self, offset: usize) -> IpAddr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.bytes[offset..offset + 16]);
        Ipv6Addr::from(octets).into()
    }
}

/// A number of a header, of which the caller knows that it is there.
pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Writes a number of a header, likewise.
pub(crate) fn put(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

/// What a packet says of congestion; nothing when it is no packet.
pub(crate) fn ecn(packet: &[u8]) -> Ecn {
    match packet {
        [first, second, ..] if first >> 4 == 4 => Ecn::from_traffic_class(*second),
        [first, second, ..] if first >> 4 == 6 => Ecn::from_traffic_class(second >> 4),
        _ => Ecn::NOT_ECT,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use proptest::prelude::*;

    use super::*;

    /// A UDP-like packet of that many payload bytes, with a right header checksum.
    pub(crate) fn packet(source: &str, destination: &str, ttl: u8, payload: usize) -> Vec<u8> {
        match (source.parse().unwrap(), destination.parse().unwrap()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut bytes = vec![0; IPV4_HEADER + payload];
                bytes[0] = 0x45;
                let total = bytes.len() as u16;
                bytes[2..4].copy_from_slice(&total.to_be_bytes());
                bytes[8] = ttl;
                bytes[9] = 17;
                bytes[12..16].copy_from_slice(&source.octets());
                bytes[16..20].copy_from_slice(&destination.octets());
                let checksum = !ones_sum(&bytes[..IPV4_HEADER]);
                bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
                bytes
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut bytes = vec![0; IPV6_HEADER + payload];
                bytes[0] = 0x60;
                bytes[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
                bytes[6] = 17;
                bytes[7] = ttl;
                bytes[8..24].copy_from_slice(&source.octets());
                bytes[24..40].copy_from_slice(&destination.octets());
                bytes
            }
            _ => panic!("addresses of two families"),
        }
    }

    pub(crate) fn ones_sum(bytes: &[u8]) -> u16 {
        let mut sum: u32 = bytes
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn padding_after_the_packet_is_cut_off() {
        let mut bytes = packet("10.0.0.1", "10.0.0.2", 64, 5);
        bytes.resize(32, 0);
        assert_eq!(IpPacket::parse(&mut bytes).unwrap().len(), 25);
        let mut bytes = packet("fd00::1", "fd00::2", 64, 5);
        bytes.resize(48, 0);
        assert_eq!(IpPacket::parse(&mut bytes).unwrap().len(), 45);
    }

    #[test]
    fn a_packet_longer_than_its_buffer_is_refused() {
        let mut bytes = packet("10.0.0.1", "10.0.0.2", 64, 5);
        bytes.pop();
        assert!(IpPacket::parse(&mut bytes).is_none());
    }

    #[test]
    fn addresses_and_hop_limit_of_both_families() {
        let mut bytes = packet("10.0.0.1", "10.0.0.2", 9, 0);
        let view = IpPacket::parse(&mut bytes).unwrap();
        assert_eq!(view.source().to_string(), "10.0.0.1");
        assert_eq!(view.destination().to_string(), "10.0.0.2");
        assert_eq!(view.hop_limit(), 9);
        let mut bytes = packet("fd00::1", "fd00::2", 7, 0);
        let mut view = IpPacket::parse(&mut bytes).unwrap();
        view.decrement_hop_limit();
        assert_eq!(view.source().to_string(), "fd00::1");
        assert_eq!(view.destination().to_string(), "fd00::2");
        assert_eq!(view.hop_limit(), 6);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(mut view) = IpPacket::parse(&mut bytes) {
                let (_, _, _) = (view.source(), view.destination(), view.hop_limit());
                view.decrement_hop_limit();
            }
        }

        #[test]
        fn the_checksum_holds_after_each_hop(ttl in 1u8.., id: u16, source: u32) {
            let source = Ipv4Addr::from(source).to_string();
            let mut bytes = packet(&source, "10.0.0.2", ttl, 0);
            bytes[4..6].copy_from_slice(&id.to_be_bytes());
            bytes[10..12].copy_from_slice(&[0, 0]);
            let checksum = !ones_sum(&bytes[..IPV4_HEADER]);
            bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
            for _ in 0..ttl {
                IpPacket::parse(&mut bytes).unwrap().decrement_hop_limit();
                prop_assert_eq!(ones_sum(&bytes[..IPV4_HEADER]), 0xffff);
            }
            prop_assert_eq!(bytes[8], 0);
        }
    }
}
