//! Packets for the TUN, merged into super-packets where the kernel's segmentation
//! gives back what came in (but for the identification of an IPv4 packet that is never
//! fragmented, which means nothing: RFC 6864), so that one write and one pass through the
//! network stack carry up to 64 KiB. No packet is changed, lost or moved before
//! another one of its flow.
//!
//! The rules are those of Linux's own merging (`tcp_gro_receive`,
//! `udp_gro_receive`, `inet_gro_receive`), without its liberties: headers must be
//! equal, checksums right. Packets are named by where they lie in the caller's
//! memory and stay untouched, so the caller can still write them one by one when
//! the kernel refuses a super-packet.

use std::iter;
use std::ops::Range;

use crate::offload::{PacketOffload, VNET_HEADER};

mod flow;

use flow::{Flow, Kind, Layout, classify};

/// How many flows can be in the making at a time; the oldest gives way.
const OPEN: usize = 16;

/// The longest super-packet: IPv4's length field has 16 bits, and the kernel takes
/// no more of IPv6 either.
const MAX_LENGTH: usize = 65_535;

/// The kernel refuses more segments of UDP (`UDP_MAX_SEGMENTS`; 128 since 6.9).
const MAX_UDP_PACKETS: usize = 64;

/// One write takes 1,024 parts (`UIO_MAXIOV`), of which two are headers.
const MAX_TCP_PACKETS: usize = 1_000;

/// Which protocols are merged: what the TUN takes as a super-packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merge {
    /// Merge TCP segments.
    pub tcp: bool,
    /// Merge UDP datagrams: Linux 6.2 and later.
    pub udp: bool,
}

/// Collects packets and puts together those that one write can carry. Its memory
/// is used again after [`Coalescer::clear`].
#[derive(Debug)]
pub struct Coalescer {
    merge: Merge,
    packets: Vec<Packet>,
    groups: Vec<Group>,
    /// The groups that may still grow, the newest last; at most [`OPEN`].
    open: Vec<Open>,
    /// The headers of super-packets, one after another.
    headers: Vec<u8>,
}

/// A packet, and the next one of its group.
#[derive(Debug)]
struct Packet {
    range: Range<usize>,
    next: Option<usize>,
}

/// Packets that are written as one; often a single one.
#[derive(Debug)]
struct Group {
    first: usize,
    last: usize,
    packets: usize,
    /// The length of the whole.
    length: usize,
    /// How the first packet is built. Not asked for a single one.
    layout: Layout,
    /// Where its headers lie once they are made.
    headers: Range<usize>,
}

/// What a group that may grow waits for.
#[derive(Debug)]
struct Open {
    flow: Flow,
    group: usize,
    /// Whether the first packet's checksums are known to be right. They are looked
    /// at only when a second one comes.
    is_verified: bool,
}

impl Default for Coalescer {
    fn default() -> Self {
        Self::new(Merge {
            tcp: true,
            udp: true,
        })
    }
}

impl Coalescer {
    /// Empty, with the protocols to merge.
    pub fn new(merge: Merge) -> Self {
        Self {
            merge,
            packets: Vec::new(),
            groups: Vec::new(),
            open: Vec::with_capacity(OPEN),
            headers: Vec::new(),
        }
    }

    /// Changes which protocols are merged, from the next packet on.
    pub fn set_merge(&mut self, merge: Merge) {
        self.merge = merge;
    }

    /// Whether there is no packet.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Forgets the packets, keeps the memory.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.groups.clear();
        self.open.clear();
        self.headers.clear();
    }

    /// Adds the packet that lies in that part of the arena. All packets until
    /// [`Coalescer::clear`] lie in the same arena, which does not change.
    ///
    /// # Panics
    ///
    /// If the range is not within the arena. What the bytes are does not matter.
    pub fn push(&mut self, arena: &[u8], range: Range<usize>) {
        let bytes = &arena[range.clone()];
        match classify(bytes) {
            Kind::Mergeable(flow, layout) => self.merge(arena, range, flow, layout),
            Kind::Ordered(flow) => {
                self.open.retain(|open| open.flow != flow);
                self.single(range, Layout::default());
            }
            Kind::Portless(flow) => {
                self.open.retain(|open| !open.flow.has_addresses_of(&flow));
                self.single(range, Layout::default());
            }
            Kind::Unknown => {
                self.single(range, Layout::default());
            }
        }
    }

    /// What to write to the TUN, in order. `arena` is that of the packets.
    pub fn writes<'a>(&'a mut self, arena: &'a [u8]) -> impl Iterator<Item = Write<'a>> {
        self.open.clear();
        self.headers.clear();
        for group in self.groups.iter_mut().filter(|group| group.packets > 1) {
            let start = self.headers.len();
            let first = &arena[self.packets[group.first].range.clone()];
            let last = &arena[self.packets[group.last].range.clone()];
            self.headers.extend(&first[..group.layout.headers]);
            group.headers = start..self.headers.len();
            group
                .layout
                .join(&mut self.headers[start..], group.length, last);
        }
        let coalescer = &*self;
        coalescer.groups.iter().map(move |group| Write {
            coalescer,
            arena,
            group,
        })
    }

    fn merge(&mut self, arena: &[u8], range: Range<usize>, flow: Flow, layout: Layout) {
        let bytes = &arena[range.clone()];
        let wanted = if layout.is_tcp {
            self.merge.tcp
        } else {
            self.merge.udp
        };
        if !wanted {
            self.single(range, layout);
            return;
        }
        // The newest is last, and the likeliest.
        if let Some(position) = self.open.iter().rposition(|open| open.flow == flow) {
            let open = &mut self.open[position];
            let group = &mut self.groups[open.group];
            let first = &arena[self.packets[group.first].range.clone()];
            if group.takes(first, bytes, &layout) {
                open.is_verified = open.is_verified || group.layout.is_intact(first);
                let is_intact = layout.is_intact(bytes);
                if open.is_verified && is_intact {
                    let is_end = layout.payload < group.layout.payload || layout.ends_group(bytes);
                    let number = self.packets.len();
                    self.packets[group.last].next = Some(number);
                    group.last = number;
                    group.packets += 1;
                    group.length += layout.payload;
                    self.packets.push(Packet { range, next: None });
                    if is_end {
                        self.open.remove(position);
                    }
                    return;
                }
                if !is_intact {
                    self.open.remove(position);
                    self.single(range, layout);
                    return;
                }
            }
            self.open.remove(position);
        }
        let may_grow = !layout.ends_group(bytes);
        let group = self.single(range, layout);
        if may_grow {
            if self.open.len() == OPEN {
                self.open.remove(0);
            }
            self.open.push(Open {
                flow,
                group,
                is_verified: false,
            });
        }
    }

    /// Adds a group of one packet.
    fn single(&mut self, range: Range<usize>, layout: Layout) -> usize {
        let number = self.packets.len();
        self.groups.push(Group {
            first: number,
            last: number,
            packets: 1,
            length: range.len(),
            layout,
            headers: 0..0,
        });
        self.packets.push(Packet { range, next: None });
        self.groups.len() - 1
    }
}

impl Group {
    /// Whether the packet goes on where the group ends, checksums apart.
    fn takes(&self, first: &[u8], packet: &[u8], layout: &Layout) -> bool {
        let most = if layout.is_tcp {
            MAX_TCP_PACKETS
        } else {
            MAX_UDP_PACKETS
        };
        self.packets < most
            && self.length + layout.payload <= MAX_LENGTH
            && layout.payload <= self.layout.payload
            && layout.continues(first, packet, self.packets, self.length)
    }
}

/// One write to the TUN: a packet as it came, or a super-packet.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    coalescer: &'a Coalescer,
    arena: &'a [u8],
    group: &'a Group,
}

impl<'a> Write<'a> {
    /// The vnet header to write before the parts.
    pub fn header(&self) -> [u8; VNET_HEADER] {
        if self.group.packets == 1 {
            return PacketOffload::default().to_bytes(0);
        }
        self.group
            .layout
            .offload()
            .to_bytes(self.group.layout.headers as u16)
    }

    /// What to write, vnet header apart, in pieces; fewer than 1,023.
    pub fn parts(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let headers = &self.coalescer.headers[self.group.headers.clone()];
        let skip = headers.len();
        let headers = (!headers.is_empty()).then_some(headers);
        headers
            .into_iter()
            .chain(self.packets().map(move |packet| &packet[skip..]))
    }

    /// The packets as they came, to write each alone after a header of zeros.
    pub fn packets(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (packets, arena) = (&self.coalescer.packets, self.arena);
        iter::successors(Some(&packets[self.group.first]), |packet| {
            packet.next.map(|next| &packets[next])
        })
        .map(|packet| &arena[packet.range.clone()])
    }

    /// How many packets it stands for.
    pub fn packet_count(&self) -> usize {
        self.group.packets
    }

    /// Whether it is TCP, when it stands for several.
    pub fn is_tcp(&self) -> bool {
        self.group.layout.is_tcp
    }

    /// The length of all parts together, vnet header apart.
    #[expect(clippy::len_without_is_empty, reason = "a write is never empty")]
    pub fn len(&self) -> usize {
        self.group.length
    }
}

#[cfg(test)]
mod tests;
