//! The UDP sockets: one for each family and worker, all on one port, read and
//! written in batches.
//!
//! Outer packets are made as the kernel's WireGuard makes them: DSCP 0, and "don't
//! fragment" off, so that a path narrower than the tunnel's MTU assumes still
//! carries them, in fragments, rather than swallowing them. ECN is not carried
//! over between the inner and the outer header yet (RFC 6040).

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use privnet_tunnel::{Counter, Counters, DatagramBatch};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::epoll::check;
use crate::error::DeviceError;

/// Datagrams per system call.
const BATCH: usize = 64;

/// The largest datagram there is, rounded up. Only the pages that datagrams
/// really fill become memory.
const DATAGRAM: usize = 1 << 16;

/// What the kernel buffers per socket: a burst of some 5,000 full datagrams.
const SOCKET_BUFFER: libc::c_int = 8 << 20;

/// How long a full socket buffer may hold the worker up before datagrams are dropped.
const SEND_PATIENCE_MILLISECONDS: libc::c_int = 10;

/// One worker's sockets. Without IPv6 on the host there is only the first.
#[derive(Debug)]
pub(crate) struct UdpSockets {
    pub(crate) v4: Socket,
    pub(crate) v6: Option<Socket>,
}

/// Opens the sockets of all workers on one port, and tells which: 0 leaves the
/// choice to the kernel.
pub(crate) fn bind(
    port: u16,
    workers: usize,
    mark: Option<u32>,
) -> Result<(u16, Vec<UdpSockets>), DeviceError> {
    // With port 0 the kernel chooses for IPv4, and IPv6 may have it in use.
    let attempts = if port == 0 { 16 } else { 1 };
    let mut last = None;
    for _ in 0..attempts {
        match bind_once(port, workers, mark) {
            Err(error @ DeviceError::PortInUse { .. }) => last = Some(error),
            result => return result,
        }
    }
    Err(last.unwrap_or(DeviceError::PortInUse { port }))
}

fn bind_once(
    port: u16,
    workers: usize,
    mark: Option<u32>,
) -> Result<(u16, Vec<UdpSockets>), DeviceError> {
    // Sockets that share a port would also share it with another program of the
    // same user that shares its own. A first socket that does not share finds out.
    let probe = open(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port, false, mark)?;
    let port = probe
        .local_addr()
        .map_err(DeviceError::system("asking for the port"))?
        .as_socket()
        .map_or(port, |address| address.port());
    let v6 = match open(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port, false, mark) {
        Ok(socket) => Some(socket),
        Err(DeviceError::System { source, .. })
            if matches!(
                source.raw_os_error(),
                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
            ) =>
        {
            None
        }
        Err(error) => return Err(error),
    };
    if workers == 1 {
        return Ok((port, vec![UdpSockets { v4: probe, v6 }]));
    }
    let has_v6 = v6.is_some();
    drop((probe, v6));
    let sockets = (0..workers)
        .map(|_| {
            Ok(UdpSockets {
                v4: open(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port, true, mark)?,
                v6: has_v6
                    .then(|| open(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port, true, mark))
                    .transpose()?,
            })
        })
        .collect::<Result<_, DeviceError>>()?;
    Ok((port, sockets))
}

fn open(
    address: IpAddr,
    port: u16,
    shared: bool,
    mark: Option<u32>,
) -> Result<Socket, DeviceError> {
    let system = |operation: &'static str| DeviceError::system(operation);
    let domain = Domain::for_address(SocketAddr::new(address, port));
    let socket = Socket::new(
        domain,
        Type::DGRAM.nonblocking().cloexec(),
        Some(Protocol::UDP),
    )
    .map_err(system("opening a UDP socket"))?;
    if address.is_ipv6() {
        socket
            .set_only_v6(true)
            .map_err(system("keeping IPv4 off the IPv6 socket"))?;
    }
    if shared {
        socket
            .set_reuse_port(true)
            .map_err(system("sharing the UDP port among workers"))?;
    }
    set_mark(&socket, mark)?;
    size_buffers(&socket);
    let (level, option) = if address.is_ipv6() {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
    };
    set_option(&socket, level, option, libc::IP_PMTUDISC_DONT)
        .map_err(system("letting outer packets be fragmented"))?;
    socket
        .bind(&SockAddr::from(SocketAddr::new(address, port)))
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EADDRINUSE) => DeviceError::PortInUse { port },
            _ => DeviceError::system(format!("binding UDP port {port}"))(error),
        })?;
    Ok(socket)
}

/// Sets the firewall mark of what the socket sends.
pub(crate) fn set_mark(socket: &Socket, mark: Option<u32>) -> Result<(), DeviceError> {
    let current = socket.mark().unwrap_or(0);
    let wanted = mark.unwrap_or(0);
    if current == wanted {
        return Ok(());
    }
    socket
        .set_mark(wanted)
        .map_err(DeviceError::system("setting the firewall mark"))
}

/// Asks for large buffers, beyond the host's limit where we may. Smaller ones
/// only mean that bursts lose more, so nothing here fails.
fn size_buffers(socket: &Socket) {
    for (force, ask) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ] {
        if set_option(socket, libc::SOL_SOCKET, force, SOCKET_BUFFER).is_err() {
            set_option(socket, libc::SOL_SOCKET, ask, SOCKET_BUFFER).unwrap_or_default();
        }
    }
}

fn set_option(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value is an int that lives through the call, and its size is told.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Buffers to receive one batch of datagrams into.
pub(crate) struct Receiver {
    buffers: Vec<u8>,
    names: Vec<MaybeUninit<libc::sockaddr_storage>>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self {
            buffers: vec![0; BATCH * DATAGRAM],
            names: vec![MaybeUninit::zeroed(); BATCH],
            vectors: Vec::with_capacity(BATCH),
            headers: Vec::with_capacity(BATCH),
        }
    }

    /// Receives what is there, at most a batch, and hands each datagram over.
    /// Returns whether there may be more.
    pub(crate) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        mut take: impl FnMut(SocketAddr, &[u8]),
    ) -> io::Result<bool> {
        // The pointers are made anew for each call, so that none outlives a borrow.
        self.vectors.clear();
        self.headers.clear();
        let buffers = self.buffers.chunks_exact_mut(DATAGRAM);
        for buffer in buffers {
            self.vectors.push(libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            });
        }
        for (name, vector) in self.names.iter_mut().zip(self.vectors.iter_mut()) {
            self.headers.push(header(
                name.as_mut_ptr().cast(),
                size_of::<libc::sockaddr_storage>(),
                vector,
            ));
        }
        // SAFETY: every header points to its own name and vector, every vector to
        // its own buffer, all alive and borrowed by us for the call.
        let result = check(unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        });
        let count = match result {
            Ok(count) => count as usize,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                0
            }
            Err(error) => return Err(error),
        };
        for ((header, name), buffer) in self.headers[..count]
            .iter()
            .zip(&self.names)
            .zip(self.buffers.chunks_exact(DATAGRAM))
        {
            let length = (header.msg_len as usize).min(DATAGRAM);
            // SAFETY: zeroed when made and only ever overwritten by the kernel
            // with a socket address, so every byte is initialised.
            let name = unsafe { name.assume_init_ref() };
            if let Some(from) = socket_address(name) {
                take(from, &buffer[..length]);
            }
        }
        Ok(count == BATCH)
    }
}

/// Headers to send one batch of datagrams with.
pub(crate) struct Sender {
    names: Vec<SockAddr>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Sender {
    pub(crate) fn new() -> Self {
        Self {
            names: Vec::with_capacity(BATCH),
            vectors: Vec::with_capacity(BATCH),
            headers: Vec::with_capacity(BATCH),
        }
    }

    /// Sends the whole batch, each family through its socket. What the kernel
    /// refuses is counted and lost, as on any network.
    pub(crate) fn send(
        &mut self,
        sockets: &UdpSockets,
        batch: &DatagramBatch,
        counters: &Counters,
    ) {
        for (v6, socket) in [(false, Some(&sockets.v4)), (true, sockets.v6.as_ref())] {
            let mut datagrams = batch.iter().filter(|(to, _)| to.is_ipv6() == v6);
            let Some(socket) = socket else {
                counters.add(Counter::SendFailed, datagrams.count() as u64);
                continue;
            };
            loop {
                self.names.clear();
                self.vectors.clear();
                self.headers.clear();
                for (to, datagram) in datagrams.by_ref().take(BATCH) {
                    self.names.push(SockAddr::from(to));
                    self.vectors.push(libc::iovec {
                        // The kernel only reads from it.
                        iov_base: datagram.as_ptr().cast_mut().cast(),
                        iov_len: datagram.len(),
                    });
                }
                if self.names.is_empty() {
                    break;
                }
                for (name, vector) in self.names.iter().zip(self.vectors.iter_mut()) {
                    self.headers.push(header(
                        name.as_ptr().cast_mut().cast(),
                        name.len() as usize,
                        vector,
                    ));
                }
                let failed = send_all(socket.as_fd(), &mut self.headers);
                counters.add(Counter::SendFailed, failed);
            }
        }
    }
}

/// Sends all messages and returns how many the kernel refused. The headers must
/// point to live names and buffers.
fn send_all(socket: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]) -> u64 {
    let mut failed = 0;
    let mut waited = false;
    let mut sent = 0;
    while sent < headers.len() {
        let rest = &mut headers[sent..];
        // SAFETY: the caller's headers point to live names, vectors and buffers;
        // `rest` is valid for its length.
        let result = check(unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                rest.as_mut_ptr(),
                rest.len() as libc::c_uint,
                libc::MSG_DONTWAIT as _,
            )
        });
        match result {
            Ok(count) => {
                sent += count as usize;
                waited = false;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !waited => {
                // The buffer is full: the path is slower than we are. A short wait
                // lets it drain, as a blocking socket would.
                wait_writable(socket);
                waited = true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return failed + (headers.len() - sent) as u64;
            }
            // An unreachable network, a firewall: it is this datagram's trouble.
            Err(_) => {
                failed += 1;
                sent += 1;
            }
        }
    }
    failed
}

fn wait_writable(socket: BorrowedFd<'_>) {
    let mut poll = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one valid pollfd, as told.
    unsafe { libc::poll(&mut poll, 1, SEND_PATIENCE_MILLISECONDS) };
}

fn header(name: *mut libc::c_void, name_length: usize, vector: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: mmsghdr is plain data, for which all zero is valid.
    let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
    header.msg_hdr.msg_name = name;
    header.msg_hdr.msg_namelen = name_length as libc::socklen_t;
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    header
}

fn socket_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let storage = &raw const *storage;
    // SAFETY: a sockaddr_storage is large enough and aligned for any address, is
    // initialised whole, and its family says which it holds.
    unsafe {
        match libc::c_int::from((*storage).ss_family) {
            libc::AF_INET => {
                let address = &*storage.cast::<libc::sockaddr_in>();
                Some(SocketAddr::V4(SocketAddrV4::new(
                    Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)),
                    u16::from_be(address.sin_port),
                )))
            }
            libc::AF_INET6 => {
                let address = &*storage.cast::<libc::sockaddr_in6>();
                Some(SocketAddr::V6(SocketAddrV6::new(
                    Ipv6Addr::from(address.sin6_addr.s6_addr),
                    u16::from_be(address.sin6_port),
                    // The flow label is the path's, not the peer's.
                    0,
                    address.sin6_scope_id,
                )))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn all_workers_share_one_port_in_both_families() {
        for workers in [1, 3] {
            let (port, sockets) = bind(0, workers, None).unwrap();
            assert_eq!(sockets.len(), workers);
            for worker in &sockets {
                for socket in std::iter::once(&worker.v4).chain(&worker.v6) {
                    let address = socket.local_addr().unwrap().as_socket().unwrap();
                    assert_eq!(address.port(), port);
                }
            }
        }
    }

    #[test]
    fn a_port_in_use_is_an_error_that_names_it_even_when_its_holder_shares() {
        for shares in [false, true] {
            let holder = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            holder.set_reuse_port(shares).unwrap();
            let any = SocketAddr::from(([0, 0, 0, 0], 0));
            holder.bind(&SockAddr::from(any)).unwrap();
            let held = holder.local_addr().unwrap().as_socket().unwrap().port();
            for workers in [1, 3] {
                match bind(held, workers, None) {
                    Err(DeviceError::PortInUse { port }) => assert_eq!(port, held),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn datagrams_come_with_their_senders_address() {
        let (port, sockets) = bind(0, 1, None).unwrap();
        let socket = &sockets[0].v4;
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for text in ["one", "two", ""] {
            sender
                .send_to(text.as_bytes(), ("127.0.0.1", port))
                .unwrap();
        }
        let mut receiver = Receiver::new();
        let mut seen = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(5);
        while seen.len() < 3 && Instant::now() < deadline {
            receiver
                .receive(socket.as_fd(), |from, bytes| {
                    seen.push((from, String::from_utf8(bytes.to_vec()).unwrap()));
                })
                .unwrap();
        }
        let from = sender.local_addr().unwrap();
        let expected = ["one", "two", ""].map(|text| (from, text.to_owned()));
        assert_eq!(seen, expected);
    }
}
