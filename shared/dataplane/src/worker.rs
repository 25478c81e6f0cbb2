//! A worker: the thread that owns a share of the peers, a TUN queue and a pair of
//! UDP sockets, and carries packets between them.
//!
//! Each turn takes at most one batch from each source, lets the shard work on it,
//! and writes what came of it. Between turns it holds nothing: configuration comes
//! in as commands, other workers' items as parcels, both without a lock that
//! anybody holds across a system call. It never allocates per packet.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use privnet_model::key::PublicKey;
use privnet_model::offload::Offload;
use privnet_tunnel::{
    Counter, Counters, Directory, Merge, Offload as PacketOffload, Outputs, PADDING, Parcel, Peer,
    PeerIndex, PeerUpdate, Shard, ShardConfig, VNET_HEADER,
};

use crate::epoll::{Epoll, Events, Waker};
use crate::offloads::Switches;
use crate::tun::{Link, TunOutcome, TunQueue, TunWriter};
use crate::udp::{Receiver, Sender, Surroundings, UdpSockets, set_mark};

/// Packets read from the TUN per turn at most, and about how many bytes of
/// sealed datagrams: as many as runs of segments gain by, and few enough not to
/// keep what waits on the other side waiting.
const TUN_BATCH: usize = 256;
const TUN_BATCH_BYTES: usize = 256 << 10;

/// What is read from the TUN is at most this long, whatever its MTU is set to.
const PACKET: usize = VNET_HEADER + (1 << 16);

/// Parcels that may wait for one worker: some 60 turns of one other worker.
const PARCELS: usize = 64;

/// Commands whose memory a worker keeps from one batch of them to the next.
const COMMANDS: usize = 64;

/// Unknown keys remembered until somebody asks.
const KNOCKS: usize = 256;

/// How often the interface's MTU is looked at, since anybody may change it.
const MTU_REFRESH: Duration = Duration::from_secs(1);

const UDP4: u64 = 0;
const UDP6: u64 = 1;
const TUN: u64 = 2;
const MAIL: u64 = 3;

/// A change for a worker's shard.
#[derive(Debug)]
pub(crate) enum Command {
    Insert(Box<Peer>),
    Update(PeerIndex, PeerUpdate),
    Remove(PeerIndex),
    Directory(Arc<Directory>),
    Sockets(UdpSockets),
    Mark(Option<u32>),
}

/// What all threads of a device share.
#[derive(Debug)]
pub(crate) struct Shared {
    mailboxes: Vec<Mailbox>,
    /// Emptied parcels, to be filled again.
    empty_parcels: ArrayQueue<Parcel>,
    pub(crate) counters: Vec<Arc<Counters>>,
    pub(crate) knocks: ArrayQueue<PublicKey>,
    pub(crate) switches: Switches,
    mtu: AtomicUsize,
    closing: AtomicBool,
    closed: Mutex<bool>,
    closed_changed: Condvar,
    /// Woken when the device closes, for a thread that is no worker.
    pub(crate) closing_waker: Waker,
}

#[derive(Debug)]
struct Mailbox {
    commands: Mutex<Vec<Command>>,
    parcels: ArrayQueue<Parcel>,
    waker: Waker,
}

impl Shared {
    pub(crate) fn new(workers: usize, mtu: usize, switches: Switches) -> io::Result<Self> {
        let mailboxes = (0..workers)
            .map(|_| {
                Ok(Mailbox {
                    commands: Mutex::default(),
                    parcels: ArrayQueue::new(PARCELS),
                    waker: Waker::new()?,
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            mailboxes,
            empty_parcels: ArrayQueue::new(PARCELS * workers),
            counters: (0..workers).map(|_| Arc::default()).collect(),
            knocks: ArrayQueue::new(KNOCKS),
            switches,
            mtu: AtomicUsize::new(mtu),
            closing: AtomicBool::new(false),
            closed: Mutex::new(false),
            closed_changed: Condvar::new(),
            closing_waker: Waker::new()?,
        })
    }

    pub(crate) fn workers(&self) -> usize {
        self.mailboxes.len()
    }

    /// Leaves commands for each worker, then the same directory for all, then
    /// wakes them: no worker sees a directory before every owner has its peers.
    pub(crate) fn post(&self, commands: Vec<Vec<Command>>, directory: Option<&Arc<Directory>>) {
        for (mailbox, mut commands) in self.mailboxes.iter().zip(commands) {
            mailbox.commands().append(&mut commands);
        }
        if let Some(directory) = directory {
            for mailbox in &self.mailboxes {
                let directory = Command::Directory(Arc::clone(directory));
                mailbox.commands().push(directory);
            }
        }
        for mailbox in &self.mailboxes {
            mailbox.waker.wake();
        }
    }

    /// Ends all threads of the device. Returns at once; can be called again.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        for mailbox in &self.mailboxes {
            mailbox.waker.wake();
        }
        self.closing_waker.wake();
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.closed_changed.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(crate) fn wait_closed(&self) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        while !*closed {
            closed = self
                .closed_changed
                .wait(closed)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Mailbox {
    fn commands(&self) -> std::sync::MutexGuard<'_, Vec<Command>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a worker starts with.
#[derive(Debug)]
pub(crate) struct WorkerParts {
    pub(crate) number: usize,
    pub(crate) relay: bool,
    pub(crate) tun: TunQueue,
    pub(crate) sockets: UdpSockets,
    /// The first worker's: it looks after the MTU.
    pub(crate) link: Option<Link>,
    pub(crate) epoll: Epoll,
    pub(crate) shared: Arc<Shared>,
}

impl WorkerParts {
    /// Watches all that the worker reads from. Done before its thread starts, so
    /// that a failure is whoever opens the device's to report.
    pub(crate) fn watch(&self) -> io::Result<()> {
        self.epoll.add(&self.tun, TUN)?;
        self.epoll
            .add(&self.shared.mailboxes[self.number].waker, MAIL)?;
        self.watch_sockets()
    }

    fn watch_sockets(&self) -> io::Result<()> {
        self.epoll.add(&self.sockets.v4, UDP4)?;
        match &self.sockets.v6 {
            Some(socket) => self.epoll.add(socket, UDP6),
            None => Ok(()),
        }
    }
}

/// Runs a worker until the device closes, and closes the device when it ends for
/// any other reason: a device that lost a worker would be deaf to its peers.
pub(crate) fn run(parts: WorkerParts) {
    let shared = Arc::clone(&parts.shared);
    let number = parts.number;
    let _closer = CloseOnExit {
        shared: &shared,
        number,
    };
    if let Err(error) = Worker::new(parts).run() {
        tracing::error!(worker = number, %error, "packet worker failed; the device closes");
    }
}

struct CloseOnExit<'a> {
    shared: &'a Shared,
    number: usize,
}

impl Drop for CloseOnExit<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                worker = self.number,
                "packet worker panicked; the device closes"
            );
        }
        self.shared.close();
    }
}

struct Worker {
    parts: WorkerParts,
    shard: Shard,
    out: Outputs,
    receiver: Receiver,
    sender: Sender,
    writer: TunWriter,
    packet: Vec<u8>,
    commands: Vec<Command>,
    next_mtu_refresh: Option<Instant>,
}

impl Worker {
    fn new(parts: WorkerParts) -> Self {
        let shared = &parts.shared;
        let shard = Shard::new(ShardConfig {
            worker: parts.number,
            workers: shared.workers(),
            relay: parts.relay,
            mtu: shared.mtu.load(Ordering::Relaxed),
            counters: Arc::clone(&shared.counters[parts.number]),
        });
        let mut out = Outputs::new(shared.workers());
        out.packets.set_merge(merge(&shared.switches));
        Self {
            shard,
            out,
            receiver: Receiver::new(),
            sender: Sender::new(),
            writer: TunWriter::default(),
            packet: vec![0; PACKET + PADDING],
            commands: Vec::new(),
            next_mtu_refresh: parts.link.as_ref().map(|_| Instant::now()),
            parts,
        }
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Events::new();
        loop {
            let timeout = self.timeout(Instant::now());
            self.parts.epoll.wait(&mut events, timeout)?;
            if self.parts.shared.is_closed() {
                return Ok(());
            }
            let now = Instant::now();
            self.refresh_mtu(now);
            if events.has(MAIL) {
                self.take_mail(now)?;
            }
            if events.has(UDP4) {
                self.take_datagrams(false, now);
            }
            if events.has(UDP6) {
                self.take_datagrams(true, now);
            }
            if events.has(TUN) {
                self.take_packets(now);
            }
            if self.shard.next_tick(now).is_some_and(|at| at <= now) {
                self.shard.tick(now, &mut self.out);
                self.write_out();
            }
        }
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        let tick = self.shard.next_tick(now);
        [tick, self.next_mtu_refresh]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.saturating_duration_since(now))
    }

    fn refresh_mtu(&mut self, now: Instant) {
        let shared = &self.parts.shared;
        if let Some(link) = &self.parts.link
            && self.next_mtu_refresh.is_none_or(|at| now >= at)
        {
            self.next_mtu_refresh = Some(now + MTU_REFRESH);
            // Where it cannot be asked, the last known MTU stays.
            if let Ok(mtu) = link.mtu(&self.parts.tun) {
                shared.mtu.store(mtu, Ordering::Relaxed);
            }
        }
        self.shard.set_mtu(shared.mtu.load(Ordering::Relaxed));
    }

    fn take_mail(&mut self, now: Instant) -> io::Result<()> {
        let shared = Arc::clone(&self.parts.shared);
        let mailbox = &shared.mailboxes[self.parts.number];
        mailbox.waker.clear();
        std::mem::swap(&mut self.commands, &mut *mailbox.commands());
        let mut commands = std::mem::take(&mut self.commands);
        for command in commands.drain(..) {
            self.execute(command, now)?;
        }
        // The memory of thousands of peers that came at once is given back.
        commands.shrink_to(COMMANDS);
        self.commands = commands;
        // As many as there were room for: what comes meanwhile wakes us again.
        for _ in 0..PARCELS {
            let Some(mut parcel) = mailbox.parcels.pop() else {
                break;
            };
            self.shard.take_parcel(&mut parcel, now, &mut self.out);
            self.write_out();
            // With the store full the parcel's memory is given back.
            drop(shared.empty_parcels.push(parcel));
        }
        if !mailbox.parcels.is_empty() {
            mailbox.waker.wake();
        }
        Ok(())
    }

    fn execute(&mut self, command: Command, now: Instant) -> io::Result<()> {
        match command {
            Command::Insert(peer) => self.shard.insert(*peer, now),
            Command::Update(index, update) => self.shard.update(index, update, now),
            Command::Remove(index) => self.shard.remove(index),
            Command::Directory(directory) => self.shard.set_directory(directory),
            Command::Sockets(sockets) => {
                let epoll = &self.parts.epoll;
                epoll.remove(&self.parts.sockets.v4)?;
                if let Some(v6) = &self.parts.sockets.v6 {
                    epoll.remove(v6)?;
                }
                self.parts.sockets = sockets;
                self.parts.watch_sockets()?;
                self.shard.announce(now);
            }
            Command::Mark(mark) => {
                let sockets = &self.parts.sockets;
                for socket in std::iter::once(&sockets.v4).chain(&sockets.v6) {
                    if let Err(error) = set_mark(socket, mark) {
                        tracing::error!(%error, "the firewall mark stays as it was");
                    }
                }
            }
        }
        Ok(())
    }

    fn take_datagrams(&mut self, v6: bool, now: Instant) {
        let sockets = &self.parts.sockets;
        let socket = match &sockets.v6 {
            Some(socket) if v6 => socket,
            _ => &sockets.v4,
        };
        let (shard, out) = (&mut self.shard, &mut self.out);
        let received = self
            .receiver
            .receive(socket.as_fd(), |outer, segment, datagrams| {
                shard.datagrams(outer, segment, datagrams, now, out);
            });
        // An error belongs to some earlier datagram of ours (a port unreachable):
        // reading has cleared it.
        if let Err(error) = received {
            tracing::debug!(%error, "receiving");
        }
        self.write_out();
    }

    fn take_packets(&mut self, now: Instant) {
        for _ in 0..TUN_BATCH {
            match self.parts.tun.read(&mut self.packet[..PACKET]) {
                TunOutcome::Packet(length) => {
                    let offload = self.packet.first_chunk().map(PacketOffload::parse);
                    match (offload, length.checked_sub(VNET_HEADER)) {
                        (Some(Ok(offload)), Some(length)) => {
                            let packet = &mut self.packet[VNET_HEADER..];
                            self.shard
                                .packet(packet, length, offload, now, &mut self.out);
                        }
                        _ => self.count(Counter::NotIp),
                    }
                }
                TunOutcome::Empty => break,
                TunOutcome::Gone => {
                    tracing::info!("the interface is gone; the device closes");
                    self.parts.shared.close();
                    break;
                }
                TunOutcome::Refused(_) => {
                    self.count(Counter::TunFailed);
                    break;
                }
            }
            if self.out.datagrams.bytes() >= TUN_BATCH_BYTES {
                break;
            }
        }
        self.write_out();
    }

    /// Writes the batches out and empties them.
    fn write_out(&mut self) {
        if !self.out.datagrams.is_empty() {
            self.send_datagrams();
        }
        if !self.out.packets.is_empty() {
            self.write_packets();
        }
        let (parts, out) = (&self.parts, &mut self.out);
        let shared = &parts.shared;
        let counters = &shared.counters[parts.number];
        for key in out.knocks.drain(..) {
            // The newest are of more use than the oldest.
            shared.knocks.force_push(key);
        }
        for (worker, parcel) in out.parcels.iter_mut().enumerate() {
            if parcel.is_empty() {
                continue;
            }
            let empty = shared.empty_parcels.pop().unwrap_or_default();
            let full = std::mem::replace(parcel, empty);
            let mailbox = &shared.mailboxes[worker];
            if let Err(mut lost) = mailbox.parcels.push(full) {
                let items = lost.len() as u64;
                counters.add(Counter::RingFull, items);
                lost.clear();
                drop(shared.empty_parcels.push(lost));
            }
            mailbox.waker.wake();
        }
    }

    fn send_datagrams(&mut self) {
        let parts = &self.parts;
        let around = Surroundings {
            sockets: &parts.sockets,
            counters: &parts.shared.counters[parts.number],
            switches: &parts.shared.switches,
            now: Instant::now(),
        };
        self.sender.send(&self.out.datagrams, &around);
        for address in self.sender.take_lost() {
            self.shard.forget_local(address);
        }
        self.out.datagrams.clear();
    }

    fn write_packets(&mut self) {
        let (tun, shared) = (&self.parts.tun, &self.parts.shared);
        let counters = &shared.counters[self.parts.number];
        let switches = &shared.switches;
        for write in self.out.packets.writes() {
            match self.writer.write(tun, &write.header(), write.parts()) {
                TunOutcome::Packet(_) => {}
                TunOutcome::Gone => shared.close(),
                TunOutcome::Refused(number) if write.packet_count() > 1 => {
                    // One by one: if that works, the kernel takes no such thing.
                    let mut failed = 0;
                    for packet in write.packets() {
                        let parts = std::iter::once(packet);
                        let outcome = self.writer.write(tun, &[0; VNET_HEADER], parts);
                        failed += u64::from(!matches!(outcome, TunOutcome::Packet(_)));
                    }
                    counters.add(Counter::TunFailed, failed);
                    if failed == 0 {
                        let error = io::Error::from_raw_os_error(number);
                        let offload = if write.is_tcp() {
                            Offload::TunGro
                        } else {
                            Offload::TunUso
                        };
                        switches.refused(offload, &error);
                    }
                }
                TunOutcome::Empty | TunOutcome::Refused(_) => {
                    counters.count(Counter::TunFailed);
                }
            }
        }
        self.out.packets.clear();
        self.out.packets.set_merge(merge(switches));
    }

    fn count(&self, counter: Counter) {
        self.parts.shared.counters[self.parts.number].count(counter);
    }
}

/// What may be put together for the TUN. A kernel takes super-packets of UDP if it
/// can give them.
fn merge(switches: &Switches) -> Merge {
    let tcp = switches.is_on(Offload::TunGro);
    Merge {
        tcp,
        udp: tcp && switches.is_on(Offload::TunUso),
    }
}
