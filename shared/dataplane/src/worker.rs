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
    Counter, Counters, Directory, Merge, Outputs, PADDING, PacketOffload, Parcel, Peer, PeerIndex,
    PeerUpdate, Shard, ShardConfig, VNET_HEADER,
};

use crate::epoll::{Epoll, Events, Waker};
use crate::offloads::Switches;
use crate::tun::{Link, TunOutcome, TunQueue, TunWriter};
use crate::udp::{Receiver, Sender, Surroundings, UdpSockets, set_mark};

/// Packets read from the TUN per turn at most, until the outputs are full.
const TUN_BATCH: usize = 256;

/// What is read from the TUN is at most this long, whatever its MTU is set to.
const PACKET: usize = VNET_HEADER + (1 << 16);

/// What may wait for one worker, in parcels and in bytes: some milliseconds of its
/// work. More would only be latency.
const PARCELS: usize = 256;
const PARCEL_BYTES: usize = 4 << 20;

/// What a worker takes of that per turn, in bytes, before it looks at its own
/// sockets again.
const MAIL_BYTES: usize = 256 << 10;

/// Emptied parcels that are kept for each worker.
const EMPTY_PARCELS: usize = 8;

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
    /// The bytes in them.
    bytes: AtomicUsize,
    waker: Waker,
}

impl Shared {
    pub(crate) fn new(workers: usize, mtu: usize, switches: Switches) -> io::Result<Self> {
        let mailboxes = (0..workers)
            .map(|_| {
                Ok(Mailbox {
                    commands: Mutex::default(),
                    parcels: ArrayQueue::new(PARCELS),
                    bytes: AtomicUsize::new(0),
                    waker: Waker::new()?,
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            mailboxes,
            empty_parcels: ArrayQueue::new(EMPTY_PARCELS * workers),
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

    /// Waits for so long, or until the device is closed, and says whether it is.
    fn is_closed_within(&self, time: Duration) -> bool {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let (closed, _) = self
            .closed_changed
            .wait_timeout_while(closed, time, |closed| !*closed)
            .unwrap_or_else(PoisonError::into_inner);
        *closed
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

/// Looks after the interface's MTU until the device closes. A thread of its own:
/// the kernel may keep such a question waiting while it changes its network.
pub(crate) fn watch_mtu(link: &Link, queue: &TunQueue, shared: &Shared) {
    loop {
        // Where it cannot be asked, the last known MTU stays.
        if let Ok(mtu) = link.mtu(queue) {
            shared.mtu.store(mtu, Ordering::Relaxed);
        }
        if shared.is_closed_within(MTU_REFRESH) {
            return;
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
            self.shard
                .set_mtu(self.parts.shared.mtu.load(Ordering::Relaxed));
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
        let tick = self.shard.next_tick(now)?;
        Some(tick.saturating_duration_since(now))
    }

    fn take_mail(&mut self, now: Instant) -> io::Result<()> {
        let shared = Arc::clone(&self.parts.shared);
        let mailbox = &shared.mailboxes[self.parts.number];
        mailbox.waker.clear();
        self.take_commands(mailbox, now)?;
        let mut taken = 0;
        while taken < MAIL_BYTES
            && let Some(mut parcel) = mailbox.parcels.pop()
        {
            // Whoever filled it may know of peers of ours that we do not know yet.
            self.take_commands(mailbox, now)?;
            let bytes = parcel.bytes();
            mailbox.bytes.fetch_sub(bytes, Ordering::Relaxed);
            taken += bytes;
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

    fn take_commands(&mut self, mailbox: &Mailbox, now: Instant) -> io::Result<()> {
        std::mem::swap(&mut self.commands, &mut *mailbox.commands());
        if self.commands.is_empty() {
            return Ok(());
        }
        let mut commands = std::mem::take(&mut self.commands);
        for command in commands.drain(..) {
            self.execute(command, now)?;
        }
        // The memory of thousands of peers that came at once is given back.
        commands.shrink_to(COMMANDS);
        self.commands = commands;
        Ok(())
    }

    fn execute(&mut self, command: Command, now: Instant) -> io::Result<()> {
        match command {
            Command::Insert(peer) => self.shard.insert(peer, now),
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
        let count = self
            .receiver
            .receive(socket.as_fd())
            .unwrap_or_else(|error| {
                // It belongs to some earlier datagram of ours (a port unreachable):
                // reading has cleared it.
                tracing::debug!(%error, "receiving");
                0
            });
        for place in 0..count {
            if let Some((outer, segment, datagrams)) = self.receiver.message(place) {
                self.shard
                    .datagrams(outer, segment, datagrams, now, &mut self.out);
            }
            if self.out.is_full() {
                self.write_out();
            }
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
            if self.out.is_full() {
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
            let mailbox = &shared.mailboxes[worker];
            let bytes = parcel.bytes();
            // What the owner cannot keep up with is lost here, and nothing else.
            if mailbox.bytes.load(Ordering::Relaxed) + bytes > PARCEL_BYTES {
                counters.add(Counter::RingFull, parcel.len() as u64);
                parcel.clear();
                continue;
            }
            let empty = shared.empty_parcels.pop().unwrap_or_default();
            let full = std::mem::replace(parcel, empty);
            mailbox.bytes.fetch_add(bytes, Ordering::Relaxed);
            if let Err(mut lost) = mailbox.parcels.push(full) {
                mailbox.bytes.fetch_sub(bytes, Ordering::Relaxed);
                counters.add(Counter::RingFull, lost.len() as u64);
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
                    if failed == 0 && is_refusal(number) {
                        let error = io::Error::from_raw_os_error(number);
                        let offload = if write.is_tcp() {
                            Offload::TunGro
                        } else {
                            Offload::TunUso
                        };
                        switches.refused(offload, &error);
                        tun.set_offloads(switches);
                    }
                }
                TunOutcome::Empty | TunOutcome::Refused(_) => {
                    counters.add(Counter::TunFailed, write.packet_count() as u64);
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

/// Whether an error says that the kernel does not take such a packet, rather than
/// that it could not just now.
fn is_refusal(number: i32) -> bool {
    matches!(
        number,
        libc::EINVAL | libc::EMSGSIZE | libc::EIO | libc::EOPNOTSUPP
    )
}
