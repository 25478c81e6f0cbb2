//! The UDP sockets: one for each family and worker, all on one port, read and
//! written in batches.
//!
//! Outer packets are made as the kernel's WireGuard makes them: DSCP 0, and "don't
//! fragment" off, so that a path narrower than the tunnel's MTU assumes still
//! carries them, in fragments, rather than swallowing them.

mod ancillary;
mod receiver;
mod sender;
mod steering;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use privnet_model::offload::Offload;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::epoll::check;
use crate::error::DeviceError;
use crate::offloads::Switches;

pub(crate) use receiver::Receiver;
pub(crate) use sender::{Sender, Surroundings};

/// Messages per system call.
const BATCH: usize = 64;

/// What the kernel buffers per socket, in bytes of its own memory, of which it
/// takes twice what it is asked for: some 10 ms of 5 Gbit/s, and 5,000 of the
/// smallest datagrams. More would only be latency: a worker that is that far behind
/// does not catch up.
const SOCKET_BUFFER: libc::c_int = 4 << 20;

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
    switches: &Switches,
) -> Result<(u16, Vec<UdpSockets>), DeviceError> {
    // With port 0 the kernel chooses for IPv4, and IPv6 may have it in use.
    let attempts = if port == 0 { 16 } else { 1 };
    let mut last = None;
    for _ in 0..attempts {
        match bind_once(port, workers, mark, switches) {
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
    switches: &Switches,
) -> Result<(u16, Vec<UdpSockets>), DeviceError> {
    // Sockets that share a port would also share it with another program of the
    // same user that shares its own. A first socket that does not share finds out.
    let probe = open(
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        port,
        false,
        mark,
        switches,
    )?;
    let port = probe
        .local_addr()
        .map_err(DeviceError::system("asking for the port"))?
        .as_socket()
        .map_or(port, |address| address.port());
    let v6 = match open(
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        port,
        false,
        mark,
        switches,
    ) {
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
    let sockets: Vec<UdpSockets> = (0..workers)
        .map(|_| {
            Ok(UdpSockets {
                v4: open(
                    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    port,
                    true,
                    mark,
                    switches,
                )?,
                v6: has_v6
                    .then(|| {
                        open(
                            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                            port,
                            true,
                            mark,
                            switches,
                        )
                    })
                    .transpose()?,
            })
        })
        .collect::<Result<_, DeviceError>>()?;
    if let Some(first) = sockets.first() {
        for socket in std::iter::once(&first.v4).chain(&first.v6) {
            steering::attach(socket, workers).map_err(DeviceError::system(
                "telling the kernel which worker a datagram is for",
            ))?;
        }
    }
    Ok((port, sockets))
}

fn open(
    address: IpAddr,
    port: u16,
    shared: bool,
    mark: Option<u32>,
    switches: &Switches,
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
    // What the kernel does with the packets and tells of them: it may fragment
    // them, tells our address that they came to, and their traffic class.
    let (level, options) = if address.is_ipv6() {
        let options = [
            (libc::IPV6_MTU_DISCOVER, libc::IP_PMTUDISC_DONT),
            (libc::IPV6_RECVPKTINFO, 1),
            (libc::IPV6_RECVTCLASS, 1),
        ];
        (libc::IPPROTO_IPV6, options)
    } else {
        let options = [
            (libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT),
            (libc::IP_PKTINFO, 1),
            (libc::IP_RECVTOS, 1),
        ];
        (libc::IPPROTO_IP, options)
    };
    for (option, value) in options {
        set_option(&socket, level, option, value).map_err(system("setting up a UDP socket"))?;
    }
    if switches.is_on(Offload::UdpGro)
        && set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1).is_err()
    {
        switches.lacks(Offload::UdpGro);
    }
    // The default of a socket, 0, changes nothing; a kernel without it complains.
    if switches.is_on(Offload::UdpGso)
        && set_option(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_err()
    {
        switches.lacks(Offload::UdpGso);
    }
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

fn message_header(
    name: *mut libc::c_void,
    name_length: usize,
    vector: &mut libc::iovec,
) -> libc::mmsghdr {
    // SAFETY: mmsghdr is plain data, for which all zero is valid.
    let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
    header.msg_hdr.msg_name = name;
    header.msg_hdr.msg_namelen = name_length as libc::socklen_t;
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    header
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use privnet_model::offload::Offloads;

    use super::*;

    fn switches() -> Switches {
        Switches::new(Offloads::ALL)
    }

    #[test]
    fn all_workers_share_one_port_in_both_families() {
        for workers in [1, 3] {
            let (port, sockets) = bind(0, workers, None, &switches()).unwrap();
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
                match bind(held, workers, None, &switches()) {
                    Err(DeviceError::PortInUse { port }) => assert_eq!(port, held),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}
