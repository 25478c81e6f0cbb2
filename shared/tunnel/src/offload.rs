//! What the kernel says of each packet it exchanges with a TUN that has offloads
//! (`IFF_VNET_HDR`): ten bytes before the packet tell whether it is a super-packet
//! that stands for many, and whether its checksum is still to be completed. Here
//! they become a checked value and back; nothing here looks at the packet.
//!
//! The layout is the legacy `virtio_net_hdr` (virtio 1.2, section 5.1.6), in the
//! machine's own byte order: Linux's TUN uses that unless `TUNSETVNETLE` or
//! `TUNSETVNETBE` asks for another (`tun_legacy_is_little_endian`).

use std::error::Error;
use std::fmt;
use std::num::NonZeroU16;

/// The length of the header before each packet.
pub const VNET_HEADER: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
const GSO_UDP: u8 = 5;
/// The first segment carries CWR; the others must not (RFC 3168, section 6.1.2).
/// Segmentation does that anyway, so the bit says nothing new.
const GSO_ECN: u8 = 0x80;

/// What is left to do for a packet: what its vnet header says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PacketOffload {
    /// Whether it stands for many packets, and of which kind.
    pub segmentation: Segmentation,
    /// The checksum that is not complete yet.
    pub needs_checksum: Option<PartialChecksum>,
}

/// How a super-packet is to be cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Segmentation {
    /// Not at all: it is one packet.
    #[default]
    None,
    /// Into TCP segments over IPv4 with that many bytes of payload each.
    TcpV4(NonZeroU16),
    /// Into TCP segments over IPv6 with that many bytes of payload each.
    TcpV6(NonZeroU16),
    /// Into UDP datagrams, over either family, with that many bytes of payload each.
    Udp(NonZeroU16),
}

/// A checksum field that holds only the sum over the pseudo-header, not
/// complemented. The sum over all bytes from `start` on completes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where the TCP or UDP header begins in the packet.
    pub start: u16,
    /// Where the checksum field is, counted from `start`.
    pub offset: u16,
}

/// The header or the packet behind it is not what the kernel would have made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("packet and offload header do not fit together")
    }
}

impl Error for Malformed {}

impl PacketOffload {
    /// Reads the header before a packet. `hdr_len` is skipped: for a forwarded
    /// packet it is whatever the sender's driver left there.
    pub fn parse(header: &[u8; VNET_HEADER]) -> Result<Self, Malformed> {
        let [flags, kind, _, _, size @ .., s0, s1, o0, o1] = *header;
        let size = || NonZeroU16::new(u16::from_ne_bytes(size)).ok_or(Malformed);
        let segmentation = match kind & !GSO_ECN {
            GSO_NONE => Segmentation::None,
            GSO_TCP_V4 => Segmentation::TcpV4(size()?),
            GSO_TCP_V6 => Segmentation::TcpV6(size()?),
            GSO_UDP => Segmentation::Udp(size()?),
            _ => return Err(Malformed),
        };
        let needs_checksum = (flags & NEEDS_CHECKSUM != 0).then_some(PartialChecksum {
            start: u16::from_ne_bytes([s0, s1]),
            offset: u16::from_ne_bytes([o0, o1]),
        });
        Ok(Self {
            segmentation,
            needs_checksum,
        })
    }

    /// The header to write before a packet whose own headers, IP and above, have
    /// that length. The kernel copies that much into the linear part of its buffer.
    pub fn to_bytes(self, header_length: u16) -> [u8; VNET_HEADER] {
        let (kind, size) = match self.segmentation {
            Segmentation::None => (GSO_NONE, 0),
            Segmentation::TcpV4(size) => (GSO_TCP_V4, size.get()),
            Segmentation::TcpV6(size) => (GSO_TCP_V6, size.get()),
            Segmentation::Udp(size) => (GSO_UDP, size.get()),
        };
        let (flags, start, offset) = match self.needs_checksum {
            None => (0, 0, 0),
            Some(partial) => (NEEDS_CHECKSUM, partial.start, partial.offset),
        };
        let [h0, h1] = header_length.to_ne_bytes();
        let [z0, z1] = size.to_ne_bytes();
        let [s0, s1] = start.to_ne_bytes();
        let [o0, o1] = offset.to_ne_bytes();
        [flags, kind, h0, h1, z0, z1, s0, s1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_layout() {
        let header = [1, 4, 60, 0, 0x8c, 0x05, 40, 0, 16, 0];
        let offload = PacketOffload {
            segmentation: Segmentation::TcpV6(NonZeroU16::new(1420).unwrap()),
            needs_checksum: Some(PartialChecksum {
                start: 40,
                offset: 16,
            }),
        };
        assert_eq!(PacketOffload::parse(&header), Ok(offload));
        assert_eq!(offload.to_bytes(60), header);
    }

    #[test]
    fn a_plain_packet_has_a_header_of_zeros() {
        assert_eq!(
            PacketOffload::parse(&[0; VNET_HEADER]).unwrap(),
            PacketOffload::default()
        );
        assert_eq!(PacketOffload::default().to_bytes(0), [0; VNET_HEADER]);
    }

    #[test]
    fn congestion_marks_do_not_change_the_kind() {
        let header = [1, 0x80 | 1, 0, 0, 9, 9, 20, 0, 16, 0];
        assert!(matches!(
            PacketOffload::parse(&header).unwrap().segmentation,
            Segmentation::TcpV4(_)
        ));
    }

    #[test]
    fn segments_of_no_size_and_unknown_kinds_are_refused() {
        for kind in [GSO_TCP_V4, GSO_TCP_V6, GSO_UDP] {
            assert_eq!(
                PacketOffload::parse(&[1, kind, 0, 0, 0, 0, 20, 0, 16, 0]),
                Err(Malformed)
            );
        }
        // 3 is IP fragmentation of UDP, which Linux no longer has.
        for kind in [2, 3, 6, 0x20, 0x40] {
            assert_eq!(
                PacketOffload::parse(&[1, kind, 0, 0, 9, 9, 20, 0, 16, 0]),
                Err(Malformed)
            );
        }
    }

    proptest! {
        #[test]
        fn what_was_read_is_written_again(header: [u8; VNET_HEADER]) {
            if let Ok(offload) = PacketOffload::parse(&header) {
                prop_assert_eq!(PacketOffload::parse(&offload.to_bytes(7)), Ok(offload));
            }
        }
    }
}
