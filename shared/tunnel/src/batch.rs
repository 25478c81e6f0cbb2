//! What a shard puts out, in batches whose memory is used again: datagrams for
//! the network, packets for the TUN, and parcels for other workers. After the
//! first batches nothing here allocates. Sending is the caller's part.

use std::ops::Range;

use privnet_model::key::PublicKey;

use crate::PADDING;
use crate::coalesce::{Coalescer, Merge, Write};
use crate::index::PeerIndex;
use crate::offload::PacketOffload;
use crate::path::{Outer, Path};

/// What is written out at once, in bytes: as much as runs and merging gain by, and
/// little enough to be still in the cache, and not to keep others waiting long.
const BATCH_BYTES: usize = 256 << 10;

/// The outputs of one turn of a worker.
#[derive(Debug)]
pub struct Outputs {
    /// For the network.
    pub datagrams: DatagramBatch,
    /// For the TUN.
    pub packets: PacketBatch,
    /// For other workers, by their number.
    pub parcels: Vec<Parcel>,
    /// Keys that sent a valid initiation and are no peer of ours.
    pub knocks: Vec<PublicKey>,
}

impl Outputs {
    /// Empty batches for a device of that many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            datagrams: DatagramBatch::default(),
            packets: PacketBatch::default(),
            parcels: (0..workers).map(|_| Parcel::default()).collect(),
            knocks: Vec::new(),
        }
    }

    /// Whether it is time to write out before more is taken in.
    pub fn is_full(&self) -> bool {
        self.datagrams.arena.used >= BATCH_BYTES
            || self.packets.arena.used >= BATCH_BYTES
            || self
                .parcels
                .iter()
                .any(|parcel| parcel.bytes() >= BATCH_BYTES)
    }
}

/// Memory that only grows, filled from the front.
#[derive(Debug, Default)]
struct Arena {
    bytes: Vec<u8>,
    used: usize,
}

impl Arena {
    fn space(&mut self, length: usize) -> &mut [u8] {
        let end = self.used + length;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.used..end]
    }

    fn commit(&mut self, length: usize) -> Range<usize> {
        let start = self.used;
        self.used += length;
        start..self.used
    }
}

/// Sealed datagrams with their destinations, in the order to send them, in runs
/// that one system call with UDP segmentation can send.
#[derive(Debug, Default)]
pub struct DatagramBatch {
    arena: Arena,
    runs: Vec<Run>,
}

#[derive(Debug)]
struct Run {
    outer: Outer,
    range: Range<usize>,
    segment: usize,
    count: usize,
    /// Whether another datagram may still be added: not after a shorter one.
    is_open: bool,
}

/// Datagrams of one size, but for the last, which may be shorter, on one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatagramRun<'a> {
    /// Where to send them, and what their outer headers say.
    pub outer: Outer,
    /// The size of all but the last, in bytes.
    pub segment: usize,
    /// The datagrams, one after another.
    pub bytes: &'a [u8],
}

impl DatagramBatch {
    /// The most segments of one send (`UDP_MAX_SEGMENTS` of older kernels).
    const MAX_SEGMENTS: usize = 64;

    /// The most bytes of one send: the largest IPv4 packet without its IP and UDP
    /// headers. The kernel makes one such packet of it before it cuts it up.
    const MAX_RUN: usize = 65_507;

    /// Room for the next datagram; what was written there stays until committed.
    pub(crate) fn space(&mut self, length: usize) -> &mut [u8] {
        self.arena.space(length)
    }

    /// Adds the first bytes of the room as a datagram.
    pub(crate) fn commit(&mut self, length: usize, outer: Outer) {
        let range = self.arena.commit(length);
        if let Some(run) = self.runs.last_mut()
            && run.is_open
            && length <= run.segment
            && run.outer == outer
            && run.range.len() + length <= Self::MAX_RUN
        {
            run.range.end = range.end;
            run.count += 1;
            run.is_open = length == run.segment && run.count < Self::MAX_SEGMENTS;
            return;
        }
        self.runs.push(Run {
            outer,
            range,
            segment: length,
            count: 1,
            is_open: length > 0,
        });
    }

    /// Adds a copy of a finished datagram.
    pub fn push(&mut self, datagram: &[u8], outer: Outer) {
        self.space(datagram.len()).copy_from_slice(datagram);
        self.commit(datagram.len(), outer);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.arena.used
    }

    /// How many runs there are.
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// A run by its place in the order to send them.
    pub fn run(&self, place: usize) -> Option<DatagramRun<'_>> {
        self.runs.get(place).map(|run| DatagramRun {
            outer: run.outer,
            segment: run.segment,
            bytes: &self.arena.bytes[run.range.clone()],
        })
    }

    /// The runs in the order to send them.
    pub fn runs(&self) -> impl Iterator<Item = DatagramRun<'_>> {
        (0..self.runs.len()).filter_map(|place| self.run(place))
    }

    /// The datagrams one by one, with their paths.
    pub fn iter(&self) -> impl Iterator<Item = (Path, &[u8])> {
        self.runs().flat_map(|run| {
            let datagrams = run.bytes.chunks(run.segment.max(1));
            datagrams.map(move |datagram| (run.outer.path, datagram))
        })
    }

    /// Forgets the datagrams, keeps the memory.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.arena.used = 0;
    }
}

/// Opened packets for the TUN, put together where one write can carry several.
#[derive(Debug, Default)]
pub struct PacketBatch {
    arena: Arena,
    coalescer: Coalescer,
}

impl PacketBatch {
    /// Room for the next packet; what was written there stays until committed.
    pub(crate) fn space(&mut self, length: usize) -> &mut [u8] {
        self.arena.space(length)
    }

    /// Adds the first bytes of the room as a packet.
    pub(crate) fn commit(&mut self, length: usize) {
        let range = self.arena.commit(length);
        self.coalescer.push(&self.arena.bytes, range);
    }

    /// Changes what is put together, from the next packet on.
    pub fn set_merge(&mut self, merge: Merge) {
        self.coalescer.set_merge(merge);
    }

    /// Whether there is no packet.
    pub fn is_empty(&self) -> bool {
        self.coalescer.is_empty()
    }

    /// What to write to the TUN, in that order.
    pub fn writes(&mut self) -> impl Iterator<Item = Write<'_>> {
        self.coalescer.writes(&self.arena.bytes)
    }

    /// Forgets the packets, keeps the memory.
    pub fn clear(&mut self) {
        self.coalescer.clear();
        self.arena.used = 0;
    }
}

/// What one worker hands to another in one turn, because the other owns the peer.
#[derive(Debug, Default)]
pub struct Parcel {
    bytes: Vec<u8>,
    items: Vec<(ParcelItem, Range<usize>)>,
}

/// What a stretch of a parcel's bytes is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ParcelItem {
    /// A datagram of a peer, as it came from the network.
    Datagram(Outer),
    /// An initiation, whose sender is found out already: that cost a Diffie-Hellman.
    Initiation(Path, PeerIndex),
    /// A packet, in clear, to be sent to a peer, with what the kernel left to do.
    /// Only its owner seals it, so that nonces leave in order. Room for padding
    /// follows it.
    Packet(PeerIndex, PacketOffload),
}

impl Parcel {
    /// A parcel holds at most this many bytes: a batch, and the datagrams of one
    /// message more, each with its room for padding.
    const MAX_BYTES: usize = BATCH_BYTES + (256 << 10);

    /// Adds an item, unless the parcel is full.
    pub(crate) fn push(&mut self, item: ParcelItem, bytes: &[u8]) -> bool {
        if self.bytes.len() + bytes.len() > Self::MAX_BYTES {
            return false;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.items.push((item, start..self.bytes.len()));
        self.bytes.extend_from_slice(&[0; PADDING]);
        true
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// The bytes of all items.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets the items, keeps the memory.
    pub fn clear(&mut self) {
        self.items.clear();
        self.bytes.clear();
    }

    /// Takes the items out: each with its bytes, the room for padding included,
    /// and the length without it.
    pub(crate) fn drain(&mut self, mut take: impl FnMut(ParcelItem, &mut [u8], usize)) {
        for (item, range) in self.items.drain(..) {
            let length = range.len();
            take(
                item,
                &mut self.bytes[range.start..range.end + PADDING],
                length,
            );
        }
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_what_one_send_takes_and_hold_all_datagrams_in_order(
            datagrams in prop::collection::vec(
                (0u8..3, prop_oneof![Just(1452), Just(100), 1usize..2000, 60_000usize..65_507]),
                0..200,
            ),
        ) {
            let mut batch = DatagramBatch::default();
            let path = |host| Path::from(SocketAddr::from(([192, 0, 2, host], 1)));
            for (number, (host, length)) in datagrams.iter().enumerate() {
                batch.push(&vec![number as u8; *length], path(*host).into());
            }
            for run in batch.runs() {
                let count = run.bytes.len().div_ceil(run.segment);
                prop_assert!(count <= DatagramBatch::MAX_SEGMENTS);
                prop_assert!(run.bytes.len() <= DatagramBatch::MAX_RUN);
            }
            let sent: Vec<_> = batch.iter().collect();
            prop_assert_eq!(sent.len(), datagrams.len());
            for (number, (host, length)) in datagrams.iter().enumerate() {
                prop_assert_eq!(sent[number].0, path(*host));
                prop_assert_eq!(sent[number].1.len(), *length);
                prop_assert!(sent[number].1.iter().all(|byte| *byte == number as u8));
            }
        }

        #[test]
        fn equal_datagrams_on_one_path_leave_in_as_few_sends_as_there_can_be(
            count in 1usize..500, length in 32usize..1500,
        ) {
            let mut batch = DatagramBatch::default();
            let outer = Path::from(SocketAddr::from(([192, 0, 2, 1], 1))).into();
            for _ in 0..count {
                batch.push(&vec![0; length], outer);
            }
            let most = DatagramBatch::MAX_SEGMENTS.min(DatagramBatch::MAX_RUN / length);
            prop_assert_eq!(batch.run_count(), count.div_ceil(most));
        }
    }
}
