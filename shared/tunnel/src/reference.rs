//! What the tests of segmenting and merging compare with: packets built field by
//! field, and super-packets cut the slow and obvious way. It shares no code with
//! what it checks.
#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use proptest::prelude::*;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const ECE: u8 = 0x40;
pub(crate) const CWR: u8 = 0x80;

/// A packet before it is bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) is_v4: bool,
    pub(crate) protocol: u8,
    /// The last byte of each address.
    pub(crate) hosts: (u8, u8),
    pub(crate) ports: (u16, u16),
    pub(crate) tos: u8,
    pub(crate) flow_label: u32,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    /// IPv4's flags and fragment offset; IPv6 has none.
    pub(crate) fragment: u16,
    /// IPv4 options, or IPv6 extension headers.
    pub(crate) extra: Vec<u8>,
    /// IPv6: the type of the first extension header, if there is one.
    pub(crate) extra_type: Option<u8>,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) tcp_options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Spec {
    pub(crate) fn new(is_v4: bool, protocol: u8, payload: usize) -> Self {
        Self {
            is_v4,
            protocol,
            hosts: (1, 2),
            ports: (1000, 2000),
            tos: 0,
            flow_label: 0x12345,
            ttl: 64,
            id: 0xfffe,
            fragment: 0x4000,
            extra: Vec::new(),
            extra_type: None,
            sequence: u32::MAX - 5,
            acknowledgement: 7,
            flags: ACK,
            window: 501,
            urgent: 0,
            tcp_options: vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
            payload: (0..payload)
                .map(|byte| (byte * 7 + byte / 251) as u8)
                .collect(),
        }
    }

    /// The packet, with right checksums.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut packet = self.network();
        let start = packet.len();
        packet.extend(self.transport());
        let checksum =
            !ones_sum(&[self.pseudo(packet.len() - start), packet[start..].to_vec()].concat());
        // All ones stand for zero (RFC 768).
        let checksum = if checksum == 0 { 0xffff } else { checksum };
        let field = self.checksum_field(start);
        packet[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    /// The packet as the kernel gives it with its checksum left to complete.
    pub(crate) fn build_partial(&self) -> Vec<u8> {
        let mut packet = self.network();
        let start = packet.len();
        packet.extend(self.transport());
        let partial = ones_sum(&self.pseudo(packet.len() - start));
        let field = self.checksum_field(start);
        packet[field..field + 2].copy_from_slice(&partial.to_be_bytes());
        packet
    }

    /// The packets that a super-packet of this stands for.
    pub(crate) fn segments(&self, size: usize) -> Vec<Vec<u8>> {
        let pieces: Vec<&[u8]> = self.payload.chunks(size).collect();
        let pieces = if pieces.is_empty() {
            vec![&[][..]]
        } else {
            pieces
        };
        let last = pieces.len() - 1;
        let mut sequence = self.sequence;
        pieces
            .into_iter()
            .enumerate()
            .map(|(number, piece)| {
                let mut spec = self.clone();
                spec.payload = piece.to_vec();
                spec.id = self.id.wrapping_add(number as u16);
                spec.sequence = sequence;
                sequence = sequence.wrapping_add(piece.len() as u32);
                if number != last {
                    spec.flags &= !(FIN | PSH);
                }
                if number != 0 {
                    spec.flags &= !CWR;
                }
                spec.build()
            })
            .collect()
    }

    /// Where the TCP or UDP header begins.
    pub(crate) fn transport_offset(&self) -> usize {
        self.network().len()
    }

    /// The length of all headers.
    pub(crate) fn headers(&self) -> usize {
        self.transport_offset() + self.transport().len() - self.payload.len()
    }

    /// The checksum field, counted from the TCP or UDP header.
    pub(crate) fn checksum_offset(&self) -> usize {
        if self.protocol == TCP { 16 } else { 6 }
    }

    fn checksum_field(&self, start: usize) -> usize {
        start + self.checksum_offset()
    }

    fn addresses(&self) -> Vec<u8> {
        let (source, destination) = self.hosts;
        if self.is_v4 {
            vec![10, 0, 0, source, 10, 0, 0, destination]
        } else {
            let mut bytes = vec![0; 32];
            (bytes[0], bytes[15]) = (0xfd, source);
            (bytes[16], bytes[31]) = (0xfd, destination);
            bytes
        }
    }

    fn pseudo(&self, length: usize) -> Vec<u8> {
        let mut bytes = self.addresses();
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend([0, 0, 0, self.protocol]);
        bytes
    }

    fn network(&self) -> Vec<u8> {
        let length = self.transport().len();
        let mut bytes;
        if self.is_v4 {
            bytes = vec![0x40 | (5 + self.extra.len() / 4) as u8, self.tos];
            bytes.extend(((20 + self.extra.len() + length) as u16).to_be_bytes());
            bytes.extend(self.id.to_be_bytes());
            bytes.extend(self.fragment.to_be_bytes());
            bytes.extend([self.ttl, self.protocol, 0, 0]);
            bytes.extend(self.addresses());
            bytes.extend(&self.extra);
            let checksum = !ones_sum(&bytes);
            bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            let first = 6 << 28 | u32::from(self.tos) << 20 | self.flow_label;
            bytes = first.to_be_bytes().to_vec();
            bytes.extend(((self.extra.len() + length) as u16).to_be_bytes());
            bytes.extend([self.extra_type.unwrap_or(self.protocol), self.ttl]);
            bytes.extend(self.addresses());
            bytes.extend(&self.extra);
        }
        bytes
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = self.ports.0.to_be_bytes().to_vec();
        bytes.extend(self.ports.1.to_be_bytes());
        if self.protocol == TCP {
            bytes.extend(self.sequence.to_be_bytes());
            bytes.extend(self.acknowledgement.to_be_bytes());
            bytes.extend([((5 + self.tcp_options.len() / 4) << 4) as u8, self.flags]);
            bytes.extend(self.window.to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(self.urgent.to_be_bytes());
            bytes.extend(&self.tcp_options);
        } else {
            bytes.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            bytes.extend([0, 0]);
        }
        bytes.extend(&self.payload);
        bytes
    }
}

/// The ones' complement sum, word by word.
pub(crate) fn ones_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Cuts what a coalescer wrote, as the kernel would: headers by their fixed
/// places, since super-packets have neither IP options nor extension headers.
/// Checks on the way what the kernel insists on.
pub(crate) fn cut(vnet: [u8; 10], packet: &[u8]) -> Vec<Vec<u8>> {
    let half = |at: usize| usize::from(u16::from_ne_bytes([vnet[at], vnet[at + 1]]));
    let word = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    if vnet == [0; 10] {
        return vec![packet.to_vec()];
    }
    let is_v4 = packet[0] >> 4 == 4;
    let start = if is_v4 { 20 } else { 40 };
    let protocol = packet[if is_v4 { 9 } else { 6 }];
    let kind = match (protocol, is_v4) {
        (TCP, true) => 1,
        (TCP, false) => 4,
        _ => 5,
    };
    assert_eq!(vnet[0], 1, "the checksum is to be completed");
    assert_eq!(vnet[1], kind);
    assert_eq!(half(6), start);
    assert_eq!(half(8), if protocol == TCP { 16 } else { 6 });
    if is_v4 {
        assert_eq!(packet[0], 0x45);
        assert_eq!(word(2), packet.len());
        assert_eq!(ones_sum(&packet[..20]), 0xffff);
    } else {
        assert_eq!(word(4) + 40, packet.len());
    }
    let addresses = if is_v4 { 12..20 } else { 8..40 };
    let mut spec = Spec::new(is_v4, protocol, 0);
    let headers = if protocol == TCP {
        start + usize::from(packet[start + 12] >> 4) * 4
    } else {
        assert_eq!(word(start + 4), packet.len() - start);
        start + 8
    };
    assert_eq!(half(2), headers, "what goes into the linear part");
    let size = half(4);
    assert!(packet.len() > headers + size, "there are at least two");
    // The partial checksum: addresses, protocol and the whole length.
    let mut pseudo = packet[addresses].to_vec();
    pseudo.extend(((packet.len() - start) as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    assert_eq!(word(start + half(8)), usize::from(ones_sum(&pseudo)));

    let double = |at: usize| (word(at) as u32) << 16 | word(at + 2) as u32;
    spec.hosts = if is_v4 {
        (packet[15], packet[19])
    } else {
        (packet[23], packet[39])
    };
    spec.ports = (word(start) as u16, word(start + 2) as u16);
    if is_v4 {
        spec.tos = packet[1];
        spec.id = word(4) as u16;
        spec.fragment = word(6) as u16;
        spec.ttl = packet[8];
    } else {
        spec.tos = (double(0) >> 20) as u8;
        spec.flow_label = double(0) & 0xf_ffff;
        spec.ttl = packet[7];
    }
    if protocol == TCP {
        spec.sequence = double(start + 4);
        spec.acknowledgement = double(start + 8);
        spec.flags = packet[start + 13];
        spec.window = word(start + 14) as u16;
        spec.urgent = word(start + 18) as u16;
        spec.tcp_options = packet[start + 20..headers].to_vec();
    }
    spec.payload = packet[headers..].to_vec();
    assert_eq!(
        spec.build_partial(),
        packet,
        "nothing else is in the headers"
    );
    spec.segments(size)
}

/// A packet of either family and protocol, without IP options.
pub(crate) fn plain() -> impl Strategy<Value = Spec> {
    let network = (
        any::<bool>(),
        any::<bool>(),
        any::<u8>(),
        0u32..1 << 20,
        any::<u8>(),
    );
    let atomic = (any::<u16>(), any::<bool>());
    let tcp = (any::<u32>(), any::<u32>(), any::<u16>(), 0usize..=10);
    (network, atomic, tcp, prop::collection::vec(any::<u8>(), 64)).prop_map(
        |(
            (is_v4, is_tcp, tos, flow_label, ttl),
            (id, df),
            (sequence, ack, window, options),
            noise,
        )| Spec {
            tos,
            flow_label,
            ttl,
            id,
            fragment: if df { 0x4000 } else { 0 },
            sequence,
            acknowledgement: ack,
            window,
            tcp_options: noise[..options * 4].to_vec(),
            ..Spec::new(is_v4, if is_tcp { TCP } else { UDP }, 0)
        },
    )
}

/// The same with IP options or extension headers.
pub(crate) fn extended() -> impl Strategy<Value = Spec> {
    let headers = prop::collection::vec((prop::sample::select(vec![0u8, 43, 60]), 0u8..4), 0..4);
    (plain(), 0usize..=10, headers).prop_map(|(mut spec, options, headers)| {
        if spec.is_v4 {
            spec.extra = (0..options * 4).map(|byte| byte as u8).collect();
        } else {
            spec.extra_type = headers.first().map(|header| header.0);
            for (number, (_, length)) in headers.iter().enumerate() {
                let next = headers.get(number + 1).map_or(spec.protocol, |next| next.0);
                spec.extra.extend([next, *length]);
                spec.extra.extend(vec![0xa5; usize::from(*length) * 8 + 6]);
            }
        }
        spec
    })
}

/// The kernel's checksum of TCP may have either form of zero.
pub(crate) fn with_one_zero(mut packet: Vec<u8>) -> Vec<u8> {
    let (protocol, start) = match packet.first().unwrap() >> 4 {
        4 => (packet[9], usize::from(packet[0] & 15) * 4),
        _ => (packet[6], 40),
    };
    if protocol == TCP && packet[start + 16..start + 18] == [0, 0] {
        packet[start + 16..start + 18].copy_from_slice(&[0xff, 0xff]);
    }
    packet
}
