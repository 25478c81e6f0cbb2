//! One packet as merging sees it: which flow it is of, how it is built, whether it
//! goes on where another ends, and the headers of several put together. Nothing
//! here remembers a packet.

use std::num::NonZeroU16;

use crate::checksum::Sum;
use crate::offload::{PacketOffload, PartialChecksum, Segmentation};
use crate::packet::{IPV4_HEADER, IPV6_HEADER, PSH, TCP, TCP_HEADER, UDP, UDP_HEADER, put, word};

const ACK: u8 = 0x10;
const ECE: u8 = 0x40;

/// Addresses, protocol and ports: what must stay in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    ports: u32,
    /// IP version and protocol.
    protocol: u16,
    addresses: [u64; 4],
}

/// How a packet is built that may be merged.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Layout {
    pub(super) is_v4: bool,
    pub(super) is_tcp: bool,
    /// The length of all headers.
    pub(super) headers: usize,
    /// The length of what follows them; never zero.
    pub(super) payload: usize,
}

/// What merging can do with a packet.
#[derive(Debug)]
pub(super) enum Kind {
    /// Merge it with its like.
    Mergeable(Flow, Layout),
    /// Write it alone, in its place in its flow.
    Ordered(Flow),
    /// Write it alone. Its ports are not known (a fragment has none), so its place
    /// is one among all packets between the same addresses.
    Portless(Flow),
    /// Not IP. It goes alone.
    Unknown,
}

impl Flow {
    pub(super) fn has_addresses_of(&self, other: &Self) -> bool {
        self.protocol >> 8 == other.protocol >> 8 && self.addresses == other.addresses
    }
}

/// Reads a packet's headers.
pub(super) fn classify(bytes: &[u8]) -> Kind {
    let Some(version) = bytes.first().map(|byte| byte >> 4) else {
        return Kind::Unknown;
    };
    let (is_v4, is_plain, protocol) = match version {
        4 if bytes.len() >= IPV4_HEADER => {
            // No options, and of the fragment field nothing but "don't fragment".
            let is_plain = bytes[0] == 0x45
                && word(bytes, 6) & 0xbfff == 0
                && usize::from(word(bytes, 2)) == bytes.len();
            (true, is_plain, bytes[9])
        }
        6 if bytes.len() >= IPV6_HEADER => {
            let is_plain = usize::from(word(bytes, 4)) + IPV6_HEADER == bytes.len();
            (false, is_plain, bytes[6])
        }
        _ => return Kind::Unknown,
    };
    let (transport, addresses) = if is_v4 {
        (IPV4_HEADER, [long(bytes, 12), 0, 0, 0])
    } else {
        let addresses = [8, 16, 24, 32].map(|at| long(bytes, at));
        (IPV6_HEADER, addresses)
    };
    let mut flow = Flow {
        ports: 0,
        protocol: u16::from(version) << 8 | u16::from(protocol),
        addresses,
    };
    let segment = &bytes[transport..];
    let is_tcp = protocol == TCP;
    if !is_plain || !(is_tcp || protocol == UDP) || segment.len() < UDP_HEADER {
        return Kind::Portless(flow);
    }
    flow.ports = double(segment, 0);
    let own = if is_tcp { tcp(segment) } else { udp(segment) };
    match own {
        Some(own) if own < segment.len() => Kind::Mergeable(
            flow,
            Layout {
                is_v4,
                is_tcp,
                headers: transport + own,
                payload: segment.len() - own,
            },
        ),
        _ => Kind::Ordered(flow),
    }
}

/// The length of the TCP header, if the segment may be merged at all: it says
/// nothing but "here is data".
fn tcp(segment: &[u8]) -> Option<usize> {
    if segment.len() < TCP_HEADER {
        return None;
    }
    let own = usize::from(segment[12] >> 4) * 4;
    (own >= TCP_HEADER && segment[13] & !(PSH | ECE) == ACK).then_some(own)
}

/// The length of the UDP header, if the datagram may be merged at all: it has a
/// checksum, which the kernel's segmentation would otherwise add.
fn udp(segment: &[u8]) -> Option<usize> {
    let is_whole = usize::from(word(segment, 4)) == segment.len();
    (is_whole && word(segment, 6) != 0).then_some(UDP_HEADER)
}

impl Layout {
    fn transport(&self) -> usize {
        if self.is_v4 { IPV4_HEADER } else { IPV6_HEADER }
    }

    fn checksum_field(&self) -> usize {
        if self.is_tcp { 16 } else { 6 }
    }

    fn protocol(&self) -> u8 {
        if self.is_tcp { TCP } else { UDP }
    }

    fn pseudo_header(&self, bytes: &[u8], length: usize) -> Sum {
        let addresses = if self.is_v4 {
            &bytes[12..20]
        } else {
            &bytes[8..40]
        };
        Sum::pseudo_header(addresses, self.protocol(), length)
    }

    /// Whether nothing may follow this packet in its group: the kernel puts PSH on
    /// the last segment only.
    pub(super) fn ends_group(&self, bytes: &[u8]) -> bool {
        self.is_tcp && bytes[self.transport() + 13] & PSH != 0
    }

    /// Whether a packet of the same flow and the same lengths of headers is the
    /// next after so many, which are so long together.
    pub(super) fn continues(
        &self,
        first: &[u8],
        packet: &[u8],
        packets: usize,
        length: usize,
    ) -> bool {
        let same = |range: std::ops::Range<usize>| first[range.clone()] == packet[range];
        let network = if self.is_v4 {
            // Version and TOS; fragment field and TTL. With "don't fragment" the
            // identification means nothing (RFC 6864, section 4.1).
            let is_atomic = first[6] & 0x40 != 0;
            let id = word(first, 4).wrapping_add(packets as u16);
            same(0..2) && same(6..9) && (is_atomic || word(packet, 4) == id)
        } else {
            // Version, traffic class and flow label; hop limit.
            same(0..4) && same(7..8)
        };
        if !network || !self.is_tcp {
            return network;
        }
        let start = self.transport();
        let passed = (length - self.headers) as u32;
        let flags = start + 13;
        // Acknowledgement, header length; flags; window; urgent pointer, options.
        double(packet, start + 4) == double(first, start + 4).wrapping_add(passed)
            && same(start + 8..flags)
            && (first[flags] ^ packet[flags]) & !PSH == 0
            && same(start + 14..start + 16)
            && same(start + 18..self.headers)
    }

    /// Whether the packet's checksums are right.
    pub(super) fn is_intact(&self, bytes: &[u8]) -> bool {
        let (network, segment) = bytes.split_at(self.transport());
        (!self.is_v4 || Sum::of(network).is_intact())
            && (self.pseudo_header(bytes, segment.len()) + Sum::of(segment)).is_intact()
    }

    /// Makes of the first packet's headers those of a super-packet of that length.
    pub(super) fn join(&self, headers: &mut [u8], length: usize, last: &[u8]) {
        let transport = self.transport();
        let pseudo = self.pseudo_header(headers, length - transport);
        if self.is_v4 {
            put(headers, 2, length as u16);
            put(headers, 10, 0);
            let checksum = Sum::of(&headers[..IPV4_HEADER]).checksum();
            put(headers, 10, checksum);
        } else {
            put(headers, 4, (length - IPV6_HEADER) as u16);
        }
        if self.is_tcp {
            headers[transport + 13] |= last[transport + 13] & PSH;
        } else {
            put(headers, transport + 4, (length - transport) as u16);
        }
        put(headers, transport + self.checksum_field(), pseudo.folded());
    }

    /// What the kernel has to know of a super-packet whose first packet this is.
    pub(super) fn offload(&self) -> PacketOffload {
        let segmentation =
            NonZeroU16::new(self.payload as u16).map(|size| match (self.is_tcp, self.is_v4) {
                (true, true) => Segmentation::TcpV4(size),
                (true, false) => Segmentation::TcpV6(size),
                (false, _) => Segmentation::Udp(size),
            });
        PacketOffload {
            segmentation: segmentation.unwrap_or_default(),
            needs_checksum: Some(PartialChecksum {
                start: self.transport() as u16,
                offset: self.checksum_field() as u16,
            }),
        }
    }
}

fn double(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(double(bytes, at)) << 32 | u64::from(double(bytes, at + 4))
}
