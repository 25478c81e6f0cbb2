//! Sending: many messages per system call, each of them a run of datagrams that
//! the kernel cuts up (`UDP_SEGMENT`), and what to do when it refuses one.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use privnet_model::offload::Offload;
use privnet_tunnel::{Counter, Counters, DatagramBatch, Outer};
use socket2::SockAddr;

use super::ancillary::Ancillary;
use super::{BATCH, UdpSockets, message_header};
use crate::epoll::check;
use crate::offloads::Switches;

/// How long full socket buffers may hold the worker up, per batch, before
/// datagrams are dropped.
const PATIENCE: Duration = Duration::from_millis(10);

/// How long a path is taken for one that refuses segments of our size.
const NARROW_FOR: Duration = Duration::from_secs(600);

/// Narrow paths remembered at most.
const NARROW_PATHS: usize = 4096;

/// Headers to send one batch of datagrams with.
pub(crate) struct Sender {
    messages: Vec<Message>,
    names: Vec<SockAddr>,
    ancillaries: Vec<Ancillary>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    /// Where the kernel refused to cut a run up, since its segments are larger
    /// than the path takes: such datagrams go one by one, and in fragments.
    narrow: HashMap<SocketAddr, Instant>,
    /// Addresses of ours from which nothing can be sent any more.
    lost: Vec<IpAddr>,
}

/// One message: a run of the batch, or one datagram of it.
#[derive(Debug, Clone)]
struct Message {
    outer: Outer,
    /// The size to cut it up by.
    segment: Option<u16>,
    run: usize,
    range: Range<usize>,
}

/// What sending needs from the worker.
pub(crate) struct Surroundings<'a> {
    pub(crate) sockets: &'a UdpSockets,
    pub(crate) counters: &'a Counters,
    pub(crate) switches: &'a Switches,
    pub(crate) now: Instant,
}

impl Sender {
    pub(crate) fn new() -> Self {
        Self {
            messages: Vec::with_capacity(BATCH),
            names: Vec::with_capacity(BATCH),
            ancillaries: Vec::with_capacity(BATCH),
            vectors: Vec::with_capacity(BATCH),
            headers: Vec::with_capacity(BATCH),
            narrow: HashMap::new(),
            lost: Vec::new(),
        }
    }

    /// Sends the whole batch, each family through its socket. What the kernel
    /// refuses is counted and lost, as on any network.
    pub(crate) fn send(&mut self, batch: &DatagramBatch, around: &Surroundings<'_>) {
        let mut deadline = None;
        for (v6, socket) in [
            (false, Some(&around.sockets.v4)),
            (true, around.sockets.v6.as_ref()),
        ] {
            let mut next = 0;
            while next < batch.run_count() {
                next = self.fill(batch, next, v6, around);
                if self.messages.is_empty() {
                    break;
                }
                match socket {
                    Some(socket) => {
                        self.send_messages(socket.as_fd(), batch, &mut deadline, around)
                    }
                    None => {
                        let lost = self.messages.iter().map(Message::datagrams).sum();
                        around.counters.add(Counter::SendFailed, lost);
                    }
                }
            }
        }
    }

    /// Addresses of ours that were found gone since the last call.
    pub(crate) fn take_lost(&mut self) -> impl Iterator<Item = IpAddr> + '_ {
        self.lost.drain(..)
    }

    /// Lists messages for the runs from `next` on, and returns from which run on
    /// to go on after them.
    fn fill(
        &mut self,
        batch: &DatagramBatch,
        mut next: usize,
        v6: bool,
        around: &Surroundings<'_>,
    ) -> usize {
        self.messages.clear();
        let segments = around.switches.is_on(Offload::UdpGso);
        while let Some(run) = batch.run(next)
            && self.messages.len() < BATCH
        {
            if run.outer.path.remote.is_ipv6() == v6 {
                let whole = 0..run.bytes.len();
                let single = run.bytes.len() <= run.segment;
                if single || segments && !self.is_narrow(&run.outer, around.now) {
                    self.messages.push(Message {
                        outer: run.outer,
                        segment: if single {
                            None
                        } else {
                            u16::try_from(run.segment).ok()
                        },
                        run: next,
                        range: whole,
                    });
                } else {
                    self.messages
                        .extend(singles(run.outer, next, whole, run.segment));
                }
            }
            next += 1;
        }
        next
    }

    fn send_messages(
        &mut self,
        socket: BorrowedFd<'_>,
        batch: &DatagramBatch,
        deadline: &mut Option<Instant>,
        around: &Surroundings<'_>,
    ) {
        self.make_headers(batch);
        let mut sent = 0;
        while sent < self.headers.len() {
            let rest = &mut self.headers[sent..];
            // SAFETY: the headers point to names, ancillary data and vectors of
            // ours and to the batch's bytes, all alive and unmoved since
            // `make_headers`; `rest` is valid for its length.
            let result = check(unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            });
            match result {
                Ok(count) => sent += count as usize,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The buffer is full: the path is slower than we are. A short
                    // wait lets it drain, as a blocking socket would.
                    let now = Instant::now();
                    let until = *deadline.get_or_insert(now + PATIENCE);
                    if now >= until {
                        let lost = self.messages[sent..].iter().map(Message::datagrams).sum();
                        around.counters.add(Counter::SendFailed, lost);
                        return;
                    }
                    wait_writable(socket, until - now);
                }
                Err(error) => {
                    if let Some(message) = self.messages.get(sent).cloned() {
                        self.recover(socket, batch, message, error, around);
                    }
                    sent += 1;
                }
            }
        }
    }

    fn make_headers(&mut self, batch: &DatagramBatch) {
        self.names.clear();
        self.ancillaries.clear();
        self.vectors.clear();
        self.headers.clear();
        for message in &self.messages {
            self.names.push(SockAddr::from(message.outer.path.remote));
            self.ancillaries
                .push(Ancillary::for_sending(&message.outer, message.segment));
            self.vectors.push(vector(message.bytes(batch)));
        }
        let places = self.names.iter().zip(&mut self.ancillaries);
        for ((name, ancillary), vector) in places.zip(self.vectors.iter_mut()) {
            let mut header =
                message_header(name.as_ptr().cast_mut().cast(), name.len() as usize, vector);
            ancillary.attach(&mut header.msg_hdr, false);
            self.headers.push(header);
        }
    }

    /// Tries a refused message again without what may be the reason.
    fn recover(
        &mut self,
        socket: BorrowedFd<'_>,
        batch: &DatagramBatch,
        message: Message,
        error: io::Error,
        around: &Surroundings<'_>,
    ) {
        if let Some(segment) = message.segment
            && matches!(
                error.raw_os_error(),
                Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP)
            )
        {
            // As they are, from the same address. Where that is what is wrong, the
            // first of them finds out.
            let range = message.range.clone();
            let mut failed = 0;
            for single in singles(message.outer, message.run, range, segment.into()) {
                failed += u64::from(!self.send_single(socket, batch, single));
            }
            around.counters.add(Counter::SendFailed, failed);
            if failed == 0 && self.lost.is_empty() {
                match error.raw_os_error() {
                    // Segments larger than what this path takes.
                    Some(libc::EINVAL | libc::EMSGSIZE) => {
                        self.remember_narrow(message.outer.path.remote, around.now);
                    }
                    // No checksum offload below, for one.
                    _ => around.switches.refused(Offload::UdpGso, &error),
                }
            }
            return;
        }
        let datagrams = message.datagrams();
        if !self.send_single(socket, batch, message) {
            // An unreachable network, a firewall: it is this path's trouble.
            around.counters.add(Counter::SendFailed, datagrams);
        }
    }

    /// Sends a message again: if our address is gone, from whichever there is.
    fn send_single(
        &mut self,
        socket: BorrowedFd<'_>,
        batch: &DatagramBatch,
        mut message: Message,
    ) -> bool {
        if let Some(local) = message.outer.path.local
            && self.lost.contains(&local)
        {
            message.outer.path.local = None;
        }
        let Err(error) = send_one(socket, batch, &message) else {
            return true;
        };
        let Some(local) = message.outer.path.local else {
            return false;
        };
        // What the kernel says of a source address that is not ours
        // (`ip_route_output_key_hash_rcu`, by release; `ip6_datagram_send_ctl`).
        if !matches!(
            error.raw_os_error(),
            Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH)
        ) {
            return false;
        }
        message.outer.path.local = None;
        if send_one(socket, batch, &message).is_err() {
            return false;
        }
        tracing::debug!(address = %local, "nothing goes out from this address any more");
        self.lost.push(local);
        true
    }

    fn is_narrow(&self, outer: &Outer, now: Instant) -> bool {
        self.narrow
            .get(&outer.path.remote)
            .is_some_and(|until| now < *until)
    }

    fn remember_narrow(&mut self, remote: SocketAddr, now: Instant) {
        if self.narrow.len() >= NARROW_PATHS {
            self.narrow.retain(|_, until| now < *until);
        }
        if self.narrow.len() < NARROW_PATHS {
            self.narrow.insert(remote, now + NARROW_FOR);
        }
    }
}

impl Message {
    fn bytes<'a>(&self, batch: &'a DatagramBatch) -> &'a [u8] {
        let run = batch.run(self.run);
        run.and_then(|run| run.bytes.get(self.range.clone()))
            .unwrap_or_default()
    }

    fn datagrams(&self) -> u64 {
        let segment = self.segment.map_or(usize::MAX, usize::from);
        self.range.len().div_ceil(segment).max(1) as u64
    }
}

/// The datagrams of a run as messages of their own.
fn singles(
    outer: Outer,
    run: usize,
    range: Range<usize>,
    segment: usize,
) -> impl Iterator<Item = Message> {
    let end = range.end;
    range.step_by(segment.max(1)).map(move |start| Message {
        outer,
        segment: None,
        run,
        range: start..(start + segment).min(end),
    })
}

fn send_one(socket: BorrowedFd<'_>, batch: &DatagramBatch, message: &Message) -> io::Result<()> {
    let name = SockAddr::from(message.outer.path.remote);
    let mut ancillary = Ancillary::for_sending(&message.outer, message.segment);
    let mut vector = vector(message.bytes(batch));
    let mut header = message_header(
        name.as_ptr().cast_mut().cast(),
        name.len() as usize,
        &mut vector,
    );
    ancillary.attach(&mut header.msg_hdr, false);
    // SAFETY: the header points to a name, ancillary data, a vector and bytes that
    // all live through the call.
    let result = unsafe { libc::sendmsg(socket.as_raw_fd(), &header.msg_hdr, libc::MSG_DONTWAIT) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn vector(bytes: &[u8]) -> libc::iovec {
    libc::iovec {
        // The kernel only reads from it.
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}

fn wait_writable(socket: BorrowedFd<'_>, patience: Duration) {
    let mut poll = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    let milliseconds = patience.as_nanos().div_ceil(1_000_000) as libc::c_int;
    // SAFETY: one valid pollfd, as told.
    unsafe { libc::poll(&mut poll, 1, milliseconds) };
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::net::{Ipv4Addr, Ipv6Addr};

    use privnet_model::offload::Offloads;
    use privnet_tunnel::{Ecn, Path};

    use super::super::{Receiver, bind};
    use super::*;

    struct Ends {
        port: u16,
        sender: Sender,
        from: UdpSockets,
        to: UdpSockets,
        switches: Switches,
        counters: Counters,
    }

    /// What came: from, to, mark, bytes.
    type Arrival = (SocketAddr, Option<IpAddr>, Ecn, Vec<u8>);

    impl Ends {
        fn new(offloads: Offloads) -> Self {
            let switches = Switches::new(offloads);
            let (_, mut from) = bind(0, 1, None, &switches).unwrap();
            let (port, mut to) = bind(0, 1, None, &switches).unwrap();
            Self {
                port,
                sender: Sender::new(),
                from: from.remove(0),
                to: to.remove(0),
                switches,
                counters: Counters::default(),
            }
        }

        fn send(&mut self, batch: &DatagramBatch) {
            let around = Surroundings {
                sockets: &self.from,
                counters: &self.counters,
                switches: &self.switches,
                now: Instant::now(),
            };
            self.sender.send(batch, &around);
        }

        /// Datagrams as they come, and how many messages held them.
        fn receive(&self, count: usize) -> (Vec<Arrival>, usize) {
            let mut receiver = Receiver::new();
            let (mut arrivals, mut messages) = (Vec::new(), 0);
            let deadline = Instant::now() + Duration::from_secs(5);
            while arrivals.len() < count && Instant::now() < deadline {
                for socket in std::iter::once(&self.to.v4).chain(&self.to.v6) {
                    for place in 0..receiver.receive(socket.as_fd()).unwrap() {
                        messages += 1;
                        let (outer, segment, bytes) = receiver.message(place).unwrap();
                        for datagram in bytes.chunks(segment) {
                            let Path { remote, local } = outer.path;
                            arrivals.push((remote, local, outer.ecn, datagram.to_vec()));
                        }
                    }
                }
            }
            (arrivals, messages)
        }

        fn outer(&self, address: impl Into<IpAddr>) -> Outer {
            Path::from(SocketAddr::new(address.into(), self.port)).into()
        }
    }

    fn batch(datagrams: &[(Outer, usize)]) -> DatagramBatch {
        let mut batch = DatagramBatch::default();
        for (number, (outer, length)) in datagrams.iter().enumerate() {
            batch.push(&vec![number as u8; *length], *outer);
        }
        batch
    }

    #[test]
    fn runs_arrive_as_the_datagrams_that_they_are_with_and_without_offloads() {
        for offloads in [Offloads::ALL, Offloads::NONE] {
            for address in [
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ] {
                let mut ends = Ends::new(offloads);
                let outer = ends.outer(address);
                let lengths: Vec<_> = (0..100)
                    .map(|n| if n % 30 == 29 { 700 } else { 1452 })
                    .collect();
                let datagrams: Vec<_> = lengths.iter().map(|length| (outer, *length)).collect();
                ends.send(&batch(&datagrams));
                let (arrivals, messages) = ends.receive(lengths.len());
                assert_eq!(arrivals.len(), lengths.len());
                for (number, (arrival, length)) in arrivals.iter().zip(lengths).enumerate() {
                    assert_eq!(arrival.1, Some(address));
                    assert_eq!(arrival.3, vec![number as u8; length]);
                }
                if offloads == Offloads::ALL {
                    assert!(messages < 20, "{messages} messages");
                } else {
                    assert_eq!(messages, 100);
                }
            }
        }
    }

    #[test]
    fn congestion_marks_cross_and_split_runs() {
        let mut ends = Ends::new(Offloads::ALL);
        for address in [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ] {
            let plain = ends.outer(address);
            let marks = [Ecn::NOT_ECT, Ecn::ECT0, Ecn::ECT0, Ecn::CE, Ecn::ECT1];
            let datagrams = marks.map(|ecn| (Outer { ecn, ..plain }, 100));
            ends.send(&batch(&datagrams));
            let (arrivals, _) = ends.receive(marks.len());
            let came: Vec<_> = arrivals.iter().map(|arrival| arrival.2).collect();
            assert_eq!(came, marks);
        }
    }

    #[test]
    fn an_answer_leaves_from_the_address_that_was_asked() {
        let mut ends = Ends::new(Offloads::ALL);
        let mut outer = ends.outer(Ipv4Addr::LOCALHOST);
        outer.path.local = Some(Ipv4Addr::new(127, 0, 0, 2).into());
        ends.send(&batch(&[(outer, 100); 3]));
        for arrival in ends.receive(3).0 {
            assert_eq!(arrival.0.ip(), Ipv4Addr::new(127, 0, 0, 2));
        }
        assert_eq!(ends.sender.take_lost().count(), 0);
    }

    #[test]
    fn an_address_that_is_gone_is_done_without_and_told_of() {
        let mut ends = Ends::new(Offloads::ALL);
        for (address, gone) in [
            (
                IpAddr::from(Ipv4Addr::LOCALHOST),
                IpAddr::from([192, 0, 2, 99]),
            ),
            (
                Ipv6Addr::LOCALHOST.into(),
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).into(),
            ),
        ] {
            let mut outer = ends.outer(address);
            outer.path.local = Some(gone);
            ends.send(&batch(&[(outer, 1452); 10]));
            let (arrivals, _) = ends.receive(10);
            assert_eq!(arrivals.len(), 10);
            assert_eq!(ends.sender.take_lost().collect::<Vec<_>>(), [gone]);
        }
        assert_eq!(ends.counters.get(Counter::SendFailed), 0);
        assert!(ends.switches.is_on(Offload::UdpGso));
    }

    #[test]
    fn what_cannot_be_sent_is_counted_by_the_datagram_and_holds_nothing_else_up() {
        let mut ends = Ends::new(Offloads::ALL);
        let good = ends.outer(Ipv4Addr::LOCALHOST);
        // Port 0 is nobody's: EINVAL, whatever is tried.
        let bad = Path::from(SocketAddr::from(([127, 0, 0, 1], 0))).into();
        ends.send(&batch(&[(good, 99), (bad, 50), (bad, 50), (good, 99)]));
        assert_eq!(ends.receive(2).0.len(), 2);
        assert_eq!(ends.counters.get(Counter::SendFailed), 2);
        assert!(ends.switches.is_on(Offload::UdpGso));
    }
}
