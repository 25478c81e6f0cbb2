//! The peers of one worker: bytes and time in, bytes out.
//!
//! A worker calls [`Shard::datagrams`] for what came from the network,
//! [`Shard::packet`] for what came from the TUN, [`Shard::take_parcel`] for what
//! other workers handed over and [`Shard::tick`] when time has passed. Each call
//! adds to the [`Outputs`], which the worker writes out once per batch. Nothing
//! here blocks, waits or does IO, and one call never starts more than a bounded
//! amount of work.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::allowed_ips::Target;
use crate::batch::{Outputs, Parcel, ParcelItem};
use crate::counters::{Counter, Counters};
use crate::deadlines::Deadlines;
use crate::directory::Directory;
use crate::handshake::{Admission, HandshakeQueue, INITIATION, Waiting};
use crate::identity::COOKIE_REPLY;
use crate::index::{PeerIndex, SlotTable};
use crate::offload::PacketOffload;
use crate::packet::IpPacket;
use crate::path::{Outer, Path};
use crate::peer::{Context, Opened, Peer, PeerUpdate, receiver_at};
use crate::relay::{self, Verdict};
use crate::segment::Segments;
use crate::{MESSAGE_OVERHEAD, PADDING};

mod pace;
mod routes;

use pace::Pace;
use routes::Routes;

const RESPONSE: usize = 92;

/// Peers ticked per call of `tick`: a keepalive of each is half a millisecond.
const PEERS_PER_TICK: usize = 256;

/// Unknown keys reported per batch; more are only counted.
const KNOCKS_PER_BATCH: usize = 16;

/// What a shard is told once.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    /// The worker's number.
    pub worker: usize,
    /// How many workers the device has.
    pub workers: usize,
    /// Whether packets between peers are relayed here (a hub) or left to the
    /// kernel's routing.
    pub relay: bool,
    /// The tunnel's MTU.
    pub mtu: usize,
    /// Where to count.
    pub counters: Arc<Counters>,
}

/// The peers of one worker.
#[derive(Debug)]
pub struct Shard {
    config: ShardConfig,
    directory: Arc<Directory>,
    /// Each where it was made: 10,000 that move leave as much memory behind as they take.
    peers: SlotTable<Box<Peer>>,
    handshakes: HandshakeQueue,
    /// Peers whose handshake is to begin: many may be added at one moment.
    starting: VecDeque<PeerIndex>,
    deadlines: Deadlines,
    pace: Pace,
    routes: Routes,
}

impl Shard {
    /// A shard without peers.
    pub fn new(config: ShardConfig) -> Self {
        Self {
            peers: SlotTable::new(config.workers),
            config,
            directory: Arc::default(),
            handshakes: HandshakeQueue::default(),
            starting: VecDeque::new(),
            deadlines: Deadlines::default(),
            pace: Pace::default(),
            routes: Routes::default(),
        }
    }

    /// Takes over a new common knowledge.
    pub fn set_directory(&mut self, directory: Arc<Directory>) {
        self.handshakes.expect_peers(directory.peers.len());
        self.directory = directory;
        self.routes = Routes::default();
    }

    /// An address of ours is gone: no peer is answered from it any more.
    pub fn forget_local(&mut self, address: IpAddr) {
        for peer in self.peers.iter_mut() {
            peer.forget_local(address);
        }
    }

    /// Takes over a new tunnel MTU.
    pub fn set_mtu(&mut self, mtu: usize) {
        self.config.mtu = mtu;
    }

    /// Takes a peer of this worker in. Where it has somewhere to send to and a
    /// persistent keepalive, its handshake begins at once.
    pub fn insert(&mut self, peer: Box<Peer>, now: Instant) {
        let index = peer.index();
        self.peers.insert(index, peer);
        self.follow_up(index, now);
    }

    /// Changes a peer.
    pub fn update(&mut self, index: PeerIndex, update: PeerUpdate, now: Instant) {
        if let Some(peer) = self.peers.get_mut(index) {
            peer.update(update, now);
        }
        self.follow_up(index, now);
    }

    /// Forgets a peer and its sessions.
    pub fn remove(&mut self, index: PeerIndex) {
        self.peers.remove(index);
    }

    /// Has every peer that we have a session with hear from us soon: after a
    /// change of our port they would else send to the old one for long.
    pub fn announce(&mut self, now: Instant) {
        for peer in self.peers.iter_mut() {
            peer.announce(now);
            let place = peer.index().place(self.config.workers);
            self.deadlines.set(place, peer.deadline(now), now);
        }
    }

    /// Takes datagrams from the network that came on one path: all of `segment`
    /// bytes, but for the last, which may be shorter.
    pub fn datagrams(
        &mut self,
        outer: Outer,
        segment: usize,
        bytes: &[u8],
        now: Instant,
        out: &mut Outputs,
    ) {
        if bytes.is_empty() {
            self.config.counters.count(Counter::Malformed);
        }
        for datagram in bytes.chunks(segment.max(1)) {
            self.datagram(outer, datagram, now, out);
        }
    }

    fn datagram(&mut self, outer: Outer, datagram: &[u8], now: Instant, out: &mut Outputs) {
        match (receiver_at(datagram, 0), datagram.len()) {
            (Some(4), MESSAGE_OVERHEAD..) => self.data(outer, datagram, now, out),
            (Some(1), INITIATION) => self.initiation(outer.path, None, datagram, now, out),
            (Some(2), RESPONSE) => self.response(outer, datagram, now, out),
            (Some(3), COOKIE_REPLY) => self.cookie(outer, datagram, out),
            _ => self.config.counters.count(Counter::Malformed),
        }
    }

    /// Takes what was read from the TUN: the first `length` bytes of a buffer in
    /// which [`PADDING`] bytes of room follow, and what the kernel left to do.
    pub fn packet(
        &mut self,
        buffer: &mut [u8],
        length: usize,
        offload: PacketOffload,
        now: Instant,
        out: &mut Outputs,
    ) {
        let Some(packet) = buffer.get_mut(..length).and_then(IpPacket::parse) else {
            self.config.counters.count(Counter::NotIp);
            return;
        };
        let length = packet.len();
        self.pace.carried += length;
        let (source, destination) = (packet.source(), packet.destination());
        let (routes, directory, config) = (&mut self.routes, &self.directory, &self.config);
        let owner = routes.destination(directory, destination);
        let Some(Target::Peer(peer)) = owner.map(|owner| owner.target) else {
            config.counters.count(Counter::NoRoute);
            return;
        };
        if routes.is_denied(directory, config.worker, source, destination) {
            config.counters.count(Counter::DeniedByPolicy);
            return;
        }
        self.send_to(peer, buffer, length, offload, now, out);
    }

    /// Takes what another worker handed over, and leaves the parcel empty.
    pub fn take_parcel(&mut self, parcel: &mut Parcel, now: Instant, out: &mut Outputs) {
        parcel.drain(|item, bytes, length| match item {
            ParcelItem::Datagram(outer) => self.datagram(outer, &bytes[..length], now, out),
            ParcelItem::Initiation(from, peer) => {
                self.initiation(from, Some(peer), &bytes[..length], now, out);
            }
            ParcelItem::Packet(peer, offload) => {
                self.send_to(peer, bytes, length, offload, now, out);
            }
        });
    }

    /// Lets time pass: a few of the handshakes that wait, and the peers whose
    /// time has come.
    pub fn tick(&mut self, now: Instant, out: &mut Outputs) {
        let budget = self.pace.take(now);
        let counters = Arc::clone(&self.config.counters);
        for _ in 0..budget {
            let Some(waiting) = self.handshakes.next(now, &counters) else {
                break;
            };
            self.handshake(&waiting, now, out);
        }
        // What others began comes first: our own can wait, theirs would be repeated.
        // Yet one of ours begins, however many of theirs wait: that may be a flood.
        let own = if self.handshakes.is_empty() {
            budget
        } else {
            budget.min(1)
        };
        for _ in 0..own {
            let Some(index) = self.starting.pop_front() else {
                break;
            };
            if let Some(peer) = self.peers.get_mut(index) {
                peer.is_starting = false;
                peer.start_handshake(&mut context(&self.config, now, out));
                self.follow_up(index, now);
            }
        }
        self.tick_peers(now, budget, out);
    }

    /// When [`Self::tick`] must be called next; now, when work is left over.
    pub fn next_tick(&self, now: Instant) -> Option<Instant> {
        if !self.handshakes.is_empty() || !self.starting.is_empty() {
            return Some(now);
        }
        self.deadlines.next_at(now)
    }

    /// Ticks the peers whose time has come, until they have repeated that many
    /// handshakes.
    fn tick_peers(&mut self, now: Instant, budget: usize, out: &mut Outputs) {
        let config = &self.config;
        let sent = || config.counters.get(Counter::InitiationsSent);
        let before = sent();
        for _ in 0..PEERS_PER_TICK {
            if sent() - before >= budget as u64 {
                break;
            }
            let Some(place) = self.deadlines.next_due(now) else {
                break;
            };
            let Some(peer) = self.peers.at_mut(place) else {
                continue;
            };
            if peer.tick(&mut context(config, now, out)) && !peer.is_starting {
                peer.is_starting = true;
                self.starting.push_back(peer.index());
            }
            self.deadlines.set(place, peer.deadline(now), now);
        }
    }

    fn data(&mut self, outer: Outer, message: &[u8], now: Instant, out: &mut Outputs) {
        let Some(index) = self.own(outer, message, 4, out) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(index) else {
            self.config.counters.count(Counter::UnknownIndex);
            return;
        };
        // Opened into the room for the TUN: where the packet goes there, it lies
        // right; where it goes on to another peer, the room is used again.
        let room = out.packets.space(message.len() + PADDING);
        let counters = &self.config.counters;
        let opened = peer.open(outer.path, message, room, now, counters);
        peer.flush(&mut context(&self.config, now, out));
        if let Some(deadline) = peer.new_deadline(now) {
            let place = index.place(self.config.workers);
            self.deadlines.set(place, deadline, now);
        }
        let length = match opened {
            Opened::Packet(length) => length,
            Opened::Keepalive => return,
            Opened::Dropped(reason) => {
                counters.count(reason);
                return;
            }
        };
        self.pace.carried += length;
        let room = out.packets.space(length + PADDING);
        let Some(mut packet) = IpPacket::parse(&mut room[..length]) else {
            counters.count(Counter::NotIp);
            return;
        };
        let (routes, directory) = (&mut self.routes, &self.directory);
        let allowed_ips = &directory.allowed_ips;
        let (from, to) = (packet.source(), packet.destination());
        if !allowed_ips.may_send(index, routes.source(directory, from)) {
            counters.count(Counter::SourceMismatch);
            return;
        }
        if routes.is_denied(directory, self.config.worker, from, to) {
            counters.count(Counter::DeniedByPolicy);
            return;
        }
        if !packet.leave_tunnel(outer.ecn) {
            counters.count(Counter::Congested);
            return;
        }
        let destination = if self.config.relay {
            routes.destination(directory, to)
        } else {
            None
        };
        let length = packet.len();
        match relay::decide(
            self.config.relay,
            index,
            &packet,
            destination.map(|owner| owner.target),
            allowed_ips,
            self.config.mtu,
        ) {
            Verdict::Tun => out.packets.commit(length),
            Verdict::Drop(reason) => counters.count(reason),
            Verdict::Relay(receiver) => {
                packet.decrement_hop_limit();
                counters.count(Counter::Relayed);
                self.relay_to(receiver, length, now, out);
            }
        }
    }

    /// Relays the packet that lies in the room for the TUN.
    fn relay_to(&mut self, index: PeerIndex, length: usize, now: Instant, out: &mut Outputs) {
        let owner = index.owner(self.config.workers);
        if owner != self.config.worker {
            let packet = &out.packets.space(length)[..length];
            let item = ParcelItem::Packet(index, PacketOffload::default());
            if !out.parcels[owner].push(item, packet) {
                self.config.counters.count(Counter::RingFull);
            }
            return;
        }
        let Some(peer) = self.peers.get_mut(index) else {
            self.config.counters.count(Counter::NoRoute);
            return;
        };
        let mut context = Context {
            now,
            mtu: self.config.mtu,
            counters: &self.config.counters,
            out: &mut out.datagrams,
        };
        peer.send(out.packets.space(length + PADDING), length, &mut context);
        self.follow_up(index, now);
    }

    /// Sends a packet, or the segments of one, to a peer; or hands it to the
    /// peer's owner as it is.
    fn send_to(
        &mut self,
        index: PeerIndex,
        buffer: &mut [u8],
        length: usize,
        offload: PacketOffload,
        now: Instant,
        out: &mut Outputs,
    ) {
        let owner = index.owner(self.config.workers);
        if owner != self.config.worker {
            let item = ParcelItem::Packet(index, offload);
            if !out.parcels[owner].push(item, &buffer[..length]) {
                self.config.counters.count(Counter::RingFull);
            }
            return;
        }
        let Some(peer) = self.peers.get_mut(index) else {
            self.config.counters.count(Counter::NoRoute);
            return;
        };
        let Ok(mut segments) = Segments::new(buffer, length, offload) else {
            self.config.counters.count(Counter::NotIp);
            return;
        };
        let mut context = context(&self.config, now, out);
        while let Some((segment, length)) = segments.next_segment() {
            peer.send(segment, length, &mut context);
        }
        self.follow_up(index, now);
    }

    fn initiation(
        &mut self,
        from: Path,
        peer: Option<PeerIndex>,
        message: &[u8],
        now: Instant,
        out: &mut Outputs,
    ) {
        let Some(identity) = &self.directory.identity else {
            self.config.counters.count(Counter::WrongMac);
            return;
        };
        let admission = self
            .handshakes
            .admit_initiation(identity, from, peer, message, now);
        self.settle(admission, from, out);
    }

    fn response(&mut self, outer: Outer, message: &[u8], now: Instant, out: &mut Outputs) {
        let Some(index) = self.own(outer, message, 8, out) else {
            return;
        };
        let expected = receiver_at(message, 8).is_some_and(|receiver| {
            self.peers
                .get_mut(index)
                .is_some_and(|peer| peer.awaits_response(receiver))
        });
        let (true, Some(identity)) = (expected, &self.directory.identity) else {
            self.config.counters.count(Counter::UnknownIndex);
            return;
        };
        let admission = self
            .handshakes
            .admit_response(identity, outer.path, index, message, now);
        self.settle(admission, outer.path, out);
    }

    fn cookie(&mut self, outer: Outer, message: &[u8], out: &mut Outputs) {
        let Some(index) = self.own(outer, message, 4, out) else {
            return;
        };
        match self.peers.get_mut(index).map(|peer| peer.cookie(message)) {
            Some(true) => {}
            Some(false) => self.config.counters.count(Counter::HandshakeFailed),
            None => self.config.counters.count(Counter::UnknownIndex),
        }
    }

    fn settle(&self, admission: Admission, from: Path, out: &mut Outputs) {
        match admission {
            Admission::Queued => {}
            Admission::Cookie(reply) => {
                self.config.counters.count(Counter::CookiesSent);
                out.datagrams.push(&reply, from.into());
            }
            Admission::Dropped(reason) => self.config.counters.count(reason),
        }
    }

    /// Works on one handshake message that waited.
    fn handshake(&mut self, waiting: &Waiting, now: Instant, out: &mut Outputs) {
        let counters = &self.config.counters;
        let index = match waiting.peer {
            Some(index) => index,
            None => {
                let sender = self
                    .directory
                    .identity
                    .as_ref()
                    .and_then(|identity| identity.sender(waiting.message()));
                let Some(key) = sender else {
                    counters.count(Counter::HandshakeFailed);
                    return;
                };
                let Some(index) = self.directory.peers.get(&key) else {
                    counters.count(Counter::Knocks);
                    if out.knocks.len() < KNOCKS_PER_BATCH {
                        out.knocks.push(key);
                    }
                    return;
                };
                *index
            }
        };
        let owner = index.owner(self.config.workers);
        if owner != self.config.worker {
            let item = ParcelItem::Initiation(waiting.from, index);
            if !out.parcels[owner].push(item, waiting.message()) {
                counters.count(Counter::RingFull);
            }
            return;
        }
        match self.peers.get_mut(index) {
            Some(peer) => peer.handshake(
                waiting.from,
                waiting.message(),
                &mut context(&self.config, now, out),
            ),
            None => counters.count(Counter::UnknownIndex),
        }
        self.follow_up(index, now);
    }

    /// The peer that a message names, if it is ours; else its owner gets the message.
    fn own(
        &self,
        outer: Outer,
        message: &[u8],
        offset: usize,
        out: &mut Outputs,
    ) -> Option<PeerIndex> {
        let index = PeerIndex::of_receiver(receiver_at(message, offset)?).peer();
        let owner = index.owner(self.config.workers);
        if owner == self.config.worker {
            return Some(index);
        }
        if !out.parcels[owner].push(ParcelItem::Datagram(outer), message) {
            self.config.counters.count(Counter::RingFull);
        }
        None
    }

    /// What follows from a change of a peer: a handshake of ours, where it wants
    /// one, and when it must be ticked next.
    fn follow_up(&mut self, index: PeerIndex, now: Instant) {
        let place = index.place(self.config.workers);
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        if !peer.is_starting && peer.wants_session(now) {
            peer.is_starting = true;
            self.starting.push_back(index);
        }
        if let Some(deadline) = peer.new_deadline(now) {
            self.deadlines.set(place, deadline, now);
        }
    }
}

fn context<'a>(config: &'a ShardConfig, now: Instant, out: &'a mut Outputs) -> Context<'a> {
    Context {
        now,
        mtu: config.mtu,
        counters: &config.counters,
        out: &mut out.datagrams,
    }
}

#[cfg(test)]
mod tests;
