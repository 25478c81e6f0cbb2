//! What a shard puts out, in batches whose memory is used again: datagrams for
//! the network, packets for the TUN, and parcels for other workers. After the
//! first batches nothing here allocates. Sending is the caller's part.

use std::net::SocketAddr;
use std::ops::Range;

use privnet_model::key::PublicKey;

use crate::PADDING;
use crate::index::PeerIndex;

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

/// Sealed datagrams with their destinations, in the order to send them.
#[derive(Debug, Default)]
pub struct DatagramBatch {
    arena: Arena,
    entries: Vec<(SocketAddr, Range<usize>)>,
}

impl DatagramBatch {
    /// Room for the next datagram; what was written there stays until committed.
    pub(crate) fn space(&mut self, length: usize) -> &mut [u8] {
        self.arena.space(length)
    }

    /// Adds the first bytes of the room as a datagram.
    pub(crate) fn commit(&mut self, length: usize, to: SocketAddr) {
        let range = self.arena.commit(length);
        self.entries.push((to, range));
    }

    /// Adds a copy of a finished datagram.
    pub(crate) fn push(&mut self, datagram: &[u8], to: SocketAddr) {
        self.space(datagram.len()).copy_from_slice(datagram);
        self.commit(datagram.len(), to);
    }

    /// The number of datagrams.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The datagrams in the order to send them.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        self.entries
            .iter()
            .map(|(to, range)| (*to, &self.arena.bytes[range.clone()]))
    }

    /// Forgets the datagrams, keeps the memory.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.arena.used = 0;
    }
}

/// Opened packets for the TUN, in the order to write them.
#[derive(Debug, Default)]
pub struct PacketBatch {
    arena: Arena,
    entries: Vec<Range<usize>>,
}

impl PacketBatch {
    /// Room for the next packet; what was written there stays until committed.
    pub(crate) fn space(&mut self, length: usize) -> &mut [u8] {
        self.arena.space(length)
    }

    /// Adds the first bytes of the room as a packet.
    pub(crate) fn commit(&mut self, length: usize) {
        let range = self.arena.commit(length);
        self.entries.push(range);
    }

    /// Whether there is no packet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The packets in the order to write them.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.entries
            .iter()
            .map(|range| &self.arena.bytes[range.clone()])
    }

    /// Forgets the packets, keeps the memory.
    pub fn clear(&mut self) {
        self.entries.clear();
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
    Datagram(SocketAddr),
    /// An initiation, whose sender is found out already: that cost a Diffie-Hellman.
    Initiation(SocketAddr, PeerIndex),
    /// A packet, in clear, to be sent to a peer. Only its owner seals it, so that
    /// nonces leave in order. Room for padding follows it.
    Packet(PeerIndex),
}

impl Parcel {
    /// A parcel holds at most this many bytes; a worker that cannot keep up
    /// loses what is beyond.
    const MAX_BYTES: usize = 1 << 20;

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
