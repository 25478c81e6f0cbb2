//! Super-packets from the TUN, cut into the packets that they stand for, where
//! they lie. The headers of each segment are written over the end of the payload
//! before it, which its user has sealed already; so nothing is copied but headers.
//!
//! The rules are those of the kernel's own segmentation (`tcp_gso_segment`,
//! `__udp_gso_segment`, `inet_gso_segment`). What does not look as the kernel
//! would have made it is refused, and no bytes whatever make this panic.

use crate::PADDING;
use crate::checksum::Sum;
use crate::offload::{Malformed, PacketOffload, PartialChecksum, Segmentation};
use crate::packet::{IPV4_HEADER, IPV6_HEADER, PSH, TCP, TCP_HEADER, UDP, UDP_HEADER, put, word};

/// Room for the headers of a super-packet: IPv4 and TCP with all options are 120
/// bytes; IPv6 with more extension headers than this leaves is refused.
const MAX_HEADERS: usize = 256;

const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const FIN: u8 = 0x01;
const CWR: u8 = 0x80;

/// The packets that a buffer from the TUN stands for, one after another.
///
/// It lends each packet, and cannot be an [`Iterator`] for that reason: the next
/// one overlaps with what is behind this one.
#[derive(Debug)]
pub struct Segments<'a> {
    buffer: &'a mut [u8],
    length: usize,
    /// The headers of all, or nothing for a packet that is whole already.
    template: Option<Template>,
    /// Where the next segment begins, and its number.
    next: Option<(usize, u16)>,
    /// What lay behind the segment that is lent out, and where.
    saved: ([u8; PADDING], usize),
}

/// The headers of a super-packet, from which those of each segment are made.
#[derive(Debug)]
struct Template {
    bytes: [u8; MAX_HEADERS],
    length: usize,
    is_v4: bool,
    /// Where the TCP or UDP header begins.
    transport: usize,
    is_tcp: bool,
    /// Payload of each segment but the last.
    size: usize,
    /// The sum over the pseudo-header but for the length.
    pseudo: Sum,
}

impl<'a> Segments<'a> {
    /// Takes what was read: `length` bytes of packet and at least [`PADDING`] more
    /// bytes of room in the buffer, and what the header before it said.
    ///
    /// A packet that is whole already but for its checksum gets that; one that
    /// needs nothing is not looked at.
    pub fn new(
        buffer: &'a mut [u8],
        length: usize,
        offload: PacketOffload,
    ) -> Result<Self, Malformed> {
        let room = length.checked_add(PADDING).ok_or(Malformed)?;
        if buffer.len() < room {
            return Err(Malformed);
        }
        let packet = &mut buffer[..length];
        let template = match offload.segmentation {
            Segmentation::None => None,
            Segmentation::TcpV4(size) | Segmentation::TcpV6(size) | Segmentation::Udp(size) => {
                Some(Template::new(packet, offload, usize::from(size.get()))?)
            }
        };
        if template.is_none()
            && let Some(PartialChecksum { start, offset }) = offload.needs_checksum
        {
            complete(packet, usize::from(start), usize::from(offset)).ok_or(Malformed)?;
        }
        let mut segments = Self {
            buffer,
            length,
            template,
            next: Some((0, 0)),
            saved: ([0; PADDING], 0),
        };
        segments.save(length);
        Ok(segments)
    }

    /// The next packet: a slice with [`PADDING`] bytes of room after it, and the
    /// packet's length without them. Both may be overwritten.
    pub fn next_segment(&mut self) -> Option<(&mut [u8], usize)> {
        let (start, number) = self.next.take()?;
        let (saved, at) = self.saved;
        self.buffer[at..at + PADDING].copy_from_slice(&saved);
        let mut end = self.length;
        if let Some(template) = &self.template {
            let next = start + template.size;
            end = self.length.min(next + template.length);
            let is_last = end == self.length;
            if !is_last {
                self.next = Some((next, number.wrapping_add(1)));
            }
            template.write(&mut self.buffer[start..end], number, is_last);
        }
        self.save(end);
        Some((&mut self.buffer[start..end + PADDING], end - start))
    }

    /// Keeps what the user of the segment before may overwrite.
    fn save(&mut self, at: usize) {
        self.saved.0.copy_from_slice(&self.buffer[at..at + PADDING]);
        self.saved.1 = at;
    }
}

impl Template {
    fn new(packet: &[u8], offload: PacketOffload, size: usize) -> Result<Self, Malformed> {
        let (is_v4, protocol, transport) = network(packet).ok_or(Malformed)?;
        let is_tcp = match (offload.segmentation, is_v4, protocol) {
            (Segmentation::TcpV4(_), true, TCP) | (Segmentation::TcpV6(_), false, TCP) => true,
            (Segmentation::Udp(_), _, UDP) => false,
            _ => return Err(Malformed),
        };
        let segment = packet.get(transport..).ok_or(Malformed)?;
        let (minimum, field) = if is_tcp {
            (TCP_HEADER, TCP_CHECKSUM)
        } else {
            (UDP_HEADER, UDP_CHECKSUM)
        };
        if segment.len() < minimum {
            return Err(Malformed);
        }
        let own = if is_tcp {
            usize::from(segment[12] >> 4) * 4
        } else {
            UDP_HEADER
        };
        let length = transport + own;
        if own < minimum || length > packet.len() || length > MAX_HEADERS {
            return Err(Malformed);
        }
        let pseudo = match offload.needs_checksum {
            // What the kernel put there knows of routing headers, whose last
            // address counts instead of the destination (RFC 8200, section 8.1).
            Some(PartialChecksum { start, offset }) => {
                if (usize::from(start), usize::from(offset)) != (transport, field) {
                    return Err(Malformed);
                }
                Sum::from(word(segment, field)).without(Sum::of_length(segment.len()))
            }
            None => {
                let addresses = if is_v4 {
                    &packet[12..20]
                } else {
                    &packet[8..40]
                };
                Sum::pseudo_header(addresses, protocol, 0)
            }
        };
        let mut bytes = [0; MAX_HEADERS];
        bytes[..length].copy_from_slice(&packet[..length]);
        Ok(Self {
            bytes,
            length,
            is_v4,
            transport,
            is_tcp,
            size,
            pseudo,
        })
    }

    /// Writes the headers of a segment in front of its payload.
    fn write(&self, packet: &mut [u8], number: u16, is_last: bool) {
        let total = packet.len();
        packet[..self.length].copy_from_slice(&self.bytes[..self.length]);
        let (network, segment) = packet.split_at_mut(self.transport);
        if self.is_v4 {
            put(network, 2, total as u16);
            put(network, 4, word(network, 4).wrapping_add(number));
            put(network, 10, 0);
            put(network, 10, Sum::of(network).checksum());
        } else {
            put(network, 4, (total - IPV6_HEADER) as u16);
        }
        let field = if self.is_tcp {
            let passed = usize::from(number) * self.size;
            let sequence = [segment[4], segment[5], segment[6], segment[7]];
            let sequence = u32::from_be_bytes(sequence).wrapping_add(passed as u32);
            segment[4..8].copy_from_slice(&sequence.to_be_bytes());
            if !is_last {
                segment[13] &= !(FIN | PSH);
            }
            if number > 0 {
                segment[13] &= !CWR;
            }
            TCP_CHECKSUM
        } else {
            put(segment, 4, segment.len() as u16);
            UDP_CHECKSUM
        };
        let partial = self.pseudo + Sum::of_length(segment.len());
        put(segment, field, partial.folded());
        put(segment, field, finished(Sum::of(segment)));
    }
}

/// Version is 4, protocol and offset of what the IP headers carry, if the packet's
/// length is right and it is no fragment.
fn network(packet: &[u8]) -> Option<(bool, u8, usize)> {
    match packet.first()? >> 4 {
        4 if packet.len() >= IPV4_HEADER => {
            let header = usize::from(packet[0] & 15) * 4;
            let is_whole = usize::from(word(packet, 2)) == packet.len();
            let is_fragment = word(packet, 6) & 0x3fff != 0;
            (is_whole && !is_fragment && header >= IPV4_HEADER).then_some((true, packet[9], header))
        }
        6 if packet.len() >= IPV6_HEADER => {
            if usize::from(word(packet, 4)) + IPV6_HEADER != packet.len() {
                return None;
            }
            let (mut protocol, mut offset) = (packet[6], IPV6_HEADER);
            // Hop-by-hop options, routing, destination options (RFC 8200, section 4).
            while matches!(protocol, 0 | 43 | 60) {
                let [next, length] = *packet.get(offset..)?.first_chunk()?;
                protocol = next;
                offset += (usize::from(length) + 1) * 8;
            }
            Some((false, protocol, offset))
        }
        _ => None,
    }
}

/// Completes a checksum whose field holds the pseudo-header's sum. It is that of
/// what the IP header carries: nothing in the IP header itself is touched.
fn complete(packet: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let header = match packet.first()? >> 4 {
        4 => usize::from(packet[0] & 15) * 4,
        _ => IPV6_HEADER,
    };
    if start < header {
        return None;
    }
    let segment = packet.get_mut(start..)?;
    segment.get(offset..offset + 2)?;
    put(segment, offset, finished(Sum::of(segment)));
    Some(())
}

/// The checksum as it goes into a packet. Zero means "none" in UDP, and its other
/// form stands for it (RFC 768); for TCP both are the same, and the kernel, too,
/// makes no difference (`CSUM_MANGLED_0`).
fn finished(sum: Sum) -> u16 {
    match sum.checksum() {
        0 => u16::MAX,
        checksum => checksum,
    }
}

#[cfg(test)]
mod tests;
