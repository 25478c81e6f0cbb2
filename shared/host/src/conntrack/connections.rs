//! The connections that are translated to one address: looked through, listened to, entered
//! and removed, by netlink.
//!
//! What the kernel holds is told in terms of `privnet_model::connection`, without that
//! address. Only what carries a mark is ever looked at or removed.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL,
    NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple,
    Protocol as Transport, Status, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, Socket, SocketAddr as NetlinkAddress, TokioSocket};
use privnet_model::config::spoke::Protocol;
use privnet_model::connection::{Connection, Origin};
use privnet_reconcile::connections::roster::News;
use rustix::net::sockopt;

/// The kernel sends at most 32 KiB at once.
pub(crate) const BUFFER: usize = 64 << 10;
/// Room for events while nobody reads: some 20,000.
const EVENTS: usize = 8 << 20;
/// Connections entered by one system call. The answers to them fit any socket's buffer.
const BATCH: usize = 64;
/// The kernel answers at once; a table of a million entries takes it a second.
const PATIENCE: Duration = Duration::from_secs(10);

// `linux/netfilter/nfnetlink_conntrack.h`, as far as the crate lacks it.
const CTA_NAT_SRC: u16 = 6;
const CTA_NAT_DST: u16 = 13;
const CTA_MARK_MASK: u16 = 21;
const CTA_NAT_V4_MINIP: u16 = 1;
const CTA_NAT_V4_MAXIP: u16 = 2;
const CTA_NAT_PROTO: u16 = 3;
const CTA_PROTONAT_PORT_MIN: u16 = 1;
const CTA_PROTONAT_PORT_MAX: u16 = 2;
const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: u16 = 4;
const CTA_PROTOINFO_TCP_FLAGS_REPLY: u16 = 5;
const NFNLGRP_CONNTRACK_UPDATE: u32 = 2;
const NFNLGRP_CONNTRACK_DESTROY: u32 = 3;
// `linux/netfilter/nf_conntrack_tcp.h`.
const TCP_ESTABLISHED: u8 = 3;
const TCP_FIN_WAIT: u8 = 4;
const TCP_CLOSE_WAIT: u8 = 5;
const TCP_FLAG_SACK_PERM: u8 = 2;
const TCP_FLAG_BE_LIBERAL: u8 = 8;

/// What came of entering connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entered {
    /// They are in the kernel's table.
    pub entered: u64,
    /// They are not: their place is another connection's, or the table is full.
    pub refused: u64,
}

/// How long what is entered is remembered if nothing comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP.
    pub tcp: Duration,
    /// UDP.
    pub udp: Duration,
}

/// All connections with the mark that are translated to `own`. Takes some four
/// microseconds for each; blocks.
pub(crate) fn dump(own: Ipv4Addr, mark: u32) -> io::Result<HashSet<Connection>> {
    let socket = open()?;
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    socket.send(&bytes(ConntrackMessage::Get(marked(mark)), flags, 1), 0)?;
    let mut found = HashSet::new();
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        let mut end = None;
        each(&buffer, |message| match message {
            NetlinkPayload::Done(_) => end = Some(Ok(())),
            NetlinkPayload::Error(error) => end = Some(Err(error.to_io())),
            NetlinkPayload::InnerMessage(one) => {
                if let Some(News::Up(connection)) = news(&one, own, mark) {
                    found.insert(connection);
                }
            }
            _ => {}
        })?;
        if let Some(end) = end {
            return end.map(|()| found);
        }
    }
}

/// Makes the kernel forget all connections with the mark. Blocks.
pub(crate) fn forget(mark: u32) -> io::Result<()> {
    let socket = open()?;
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    socket.send(&bytes(ConntrackMessage::Delete(marked(mark)), flags, 1), 0)?;
    match answers(&socket, 1)?.first() {
        Some((_, error)) => Err(io::Error::from_raw_os_error(*error)),
        None => Ok(()),
    }
}

/// Enters connections as translated to `own`, with the mark, established. What else has the
/// same host's port is replaced; what has the port at `own` stays, and the connection is
/// refused. Takes some six microseconds for each; blocks.
pub(crate) fn enter(
    connections: &[Connection],
    own: Ipv4Addr,
    mark: u32,
    timeouts: Timeouts,
) -> io::Result<Entered> {
    let socket = open()?;
    let mut entered = Entered::default();
    for batch in connections.chunks(BATCH) {
        let create = |one: &Connection| entry(one, own, mark, timeouts);
        let failed = send(&socket, batch, NLM_F_CREATE | NLM_F_EXCL, |one| {
            ConntrackMessage::New(create(one))
        })?;
        entered.entered += (batch.len() - failed.len()) as u64;
        // Usually what a host sent in the meantime, on its way by another address.
        let taken: Vec<_> = failed
            .iter()
            .filter(|(_, error)| *error == rustix::io::Errno::EXIST.raw_os_error())
            .map(|(one, _)| *one)
            .collect();
        send(&socket, &taken, 0, |one| {
            ConntrackMessage::Delete(vec![original(one, own)])
        })?;
        let failed_again = send(&socket, &taken, NLM_F_CREATE | NLM_F_EXCL, |one| {
            ConntrackMessage::New(create(one))
        })?;
        let gained = taken.len() - failed_again.len();
        entered.entered += gained as u64;
        entered.refused += (failed.len() - gained) as u64;
    }
    Ok(entered)
}

/// What the kernel tells of connections with the mark as they come and go.
pub struct ConnectionEvents {
    socket: TokioSocket,
    own: Ipv4Addr,
    mark: u32,
    buffer: Vec<u8>,
}

impl ConnectionEvents {
    /// Listens from now on. Within a Tokio runtime only.
    pub(crate) fn open(own: Ipv4Addr, mark: u32) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        let inner = socket.socket_mut();
        inner.bind_auto()?;
        // Without the privilege of the first user namespace, as much as is let.
        if sockopt::set_socket_recv_buffer_size_force(&*inner, EVENTS).is_err() {
            sockopt::set_socket_recv_buffer_size(&*inner, EVENTS)?;
        }
        inner.add_membership(NFNLGRP_CONNTRACK_UPDATE)?;
        inner.add_membership(NFNLGRP_CONNTRACK_DESTROY)?;
        Ok(Self {
            socket,
            own,
            mark,
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    /// The next few. Cancel-safe.
    ///
    /// # Errors
    /// Some were lost because they were read too slowly: look through all. Or the socket
    /// is broken.
    pub async fn next(&mut self) -> io::Result<Vec<News>> {
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer).await?;
            let mut heard = Vec::new();
            each(&self.buffer, |message| {
                if let NetlinkPayload::InnerMessage(one) = message {
                    heard.extend(news(&one, self.own, self.mark));
                }
            })?;
            if !heard.is_empty() {
                return Ok(heard);
            }
        }
    }
}

pub(crate) fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddress::new(0, 0))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    Ok(socket)
}

/// Sends a message for each, in one system call, and tells which failed, and how.
fn send(
    socket: &Socket,
    connections: &[Connection],
    flags: u16,
    message: impl Fn(&Connection) -> ConntrackMessage,
) -> io::Result<Vec<(Connection, i32)>> {
    let mut packet = Vec::with_capacity(connections.len() * 320);
    let mut last = 0;
    for (number, connection) in (1_u32..).zip(connections) {
        last = number;
        // The last alone is answered if all goes well.
        let ack = match connections.len() == number as usize {
            true => NLM_F_ACK,
            false => 0,
        };
        let flags = NLM_F_REQUEST | flags | ack;
        packet.extend(bytes(message(connection), flags, number));
    }
    if last == 0 {
        return Ok(Vec::new());
    }
    socket.send(&packet, 0)?;
    let failed = answers(socket, last)?.into_iter();
    let failed = failed.filter_map(|(number, error)| {
        let index = (number as usize).checked_sub(1)?;
        Some((*connections.get(index)?, error))
    });
    Ok(failed.collect())
}

/// The numbers of the messages that failed, and why, until the last one was answered.
fn answers(socket: &Socket, last: u32) -> io::Result<Vec<(u32, i32)>> {
    let mut failed = Vec::new();
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        let mut done = false;
        headed(&buffer, |header, message| {
            if let NetlinkPayload::Error(answer) = message {
                if answer.code.is_some() {
                    failed.push((header.sequence_number, -answer.raw_code()));
                }
                done |= header.sequence_number == last;
            }
        })?;
        if done {
            return Ok(failed);
        }
    }
}

fn each(bytes: &[u8], mut take: impl FnMut(NetlinkPayload<NetfilterMessage>)) -> io::Result<()> {
    headed(bytes, |_, message| take(message))
}

pub(crate) fn headed(
    mut rest: &[u8],
    mut take: impl FnMut(NetlinkHeader, NetlinkPayload<NetfilterMessage>),
) -> io::Result<()> {
    while !rest.is_empty() {
        let message = <NetlinkMessage<NetfilterMessage>>::deserialize(rest)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        // Messages begin at multiples of four.
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
        let next = length.checked_next_multiple_of(4).unwrap_or(usize::MAX);
        take(message.header, message.payload);
        rest = rest.get(next.max(4)..).unwrap_or_default();
    }
    Ok(())
}

fn bytes(message: ConntrackMessage, flags: u16, number: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = number;
    let header_of_netfilter = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
    let message = NetfilterMessage::new(header_of_netfilter, message);
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len().next_multiple_of(4)];
    packet.serialize(&mut bytes);
    bytes
}

/// The kernel compares these bits of the mark; also where everything is removed.
fn marked(mark: u32) -> Vec<ConntrackAttribute> {
    let mask = DefaultNla::new(CTA_MARK_MASK, mark.to_be_bytes().to_vec());
    vec![
        ConntrackAttribute::CtaMark(mark),
        ConntrackAttribute::Other(mask),
    ]
}

/// The packets of who began it, before anything is translated.
fn original(one: &Connection, own: Ipv4Addr) -> ConntrackAttribute {
    let (from, to) = match one.origin {
        Origin::Inside => (one.inside, one.outside),
        Origin::Outside => (one.outside, SocketAddrV4::new(own, one.port)),
    };
    ConntrackAttribute::CtaTupleOrig(tuple(one.protocol, from, to))
}

fn entry(
    one: &Connection,
    own: Ipv4Addr,
    mark: u32,
    timeouts: Timeouts,
) -> Vec<ConntrackAttribute> {
    // The answers as they would be without translation: the kernel works out the others.
    let public = SocketAddrV4::new(own, one.port);
    let (reply, kind, translated) = match one.origin {
        Origin::Inside => ((one.outside, one.inside), CTA_NAT_SRC, public),
        Origin::Outside => ((public, one.outside), CTA_NAT_DST, one.inside),
    };
    let port = translated.port().to_be_bytes().to_vec();
    let ports = nested(&[
        DefaultNla::new(CTA_PROTONAT_PORT_MIN, port.clone()),
        DefaultNla::new(CTA_PROTONAT_PORT_MAX, port),
    ]);
    let address = translated.ip().octets().to_vec();
    let to = nested(&[
        DefaultNla::new(CTA_NAT_V4_MINIP, address.clone()),
        DefaultNla::new(CTA_NAT_V4_MAXIP, address),
        DefaultNla::new(CTA_NAT_PROTO | NLA_F_NESTED, ports),
    ]);
    let timeout = match one.protocol {
        Protocol::Tcp => timeouts.tcp,
        Protocol::Udp => timeouts.udp,
    };
    let timeout = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
    let mut attributes = vec![
        original(one, own),
        ConntrackAttribute::CtaTupleReply(tuple(one.protocol, reply.0, reply.1)),
        ConntrackAttribute::Other(DefaultNla::new(kind | NLA_F_NESTED, to)),
        ConntrackAttribute::CtaStatus(Status::SeenReply | Status::Assured | Status::Confirmed),
        ConntrackAttribute::CtaTimeout(timeout),
        ConntrackAttribute::CtaMark(mark),
    ];
    if one.protocol == Protocol::Tcp {
        // Where both ends are with their windows nobody told us: what they send is taken
        // for good.
        let flags = TCP_FLAG_SACK_PERM | TCP_FLAG_BE_LIBERAL;
        let flags = |kind| ProtoInfoTCP::Other(DefaultNla::new(kind, vec![flags, flags]));
        attributes.push(ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::TCP(
            vec![
                ProtoInfoTCP::State(TCP_ESTABLISHED),
                flags(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL),
                flags(CTA_PROTOINFO_TCP_FLAGS_REPLY),
            ],
        )]));
    }
    attributes
}

fn tuple(protocol: Protocol, from: SocketAddrV4, to: SocketAddrV4) -> Vec<Tuple> {
    let protocol = match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
    };
    vec![
        Tuple::Ip(vec![
            IPTuple::SourceAddress(IpAddr::V4(*from.ip())),
            IPTuple::DestinationAddress(IpAddr::V4(*to.ip())),
        ]),
        Tuple::Proto(vec![
            ProtoTuple::Protocol(protocol),
            ProtoTuple::SourcePort(from.port()),
            ProtoTuple::DestinationPort(to.port()),
        ]),
    ]
}

fn nested(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

/// What a message of the kernel's says of a connection with the mark.
fn news(message: &NetfilterMessage, own: Ipv4Addr, mark: u32) -> Option<News> {
    let (attributes, gone) = match &message.inner {
        NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) => (attributes, false),
        NetfilterMessageInner::Conntrack(ConntrackMessage::Delete(attributes)) => {
            (attributes, true)
        }
        _ => return None,
    };
    let (mut original, mut reply, mut status, mut marks, mut state) = (None, None, None, 0, None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(parts) => original = ends(parts),
            ConntrackAttribute::CtaTupleReply(parts) => reply = ends(parts),
            ConntrackAttribute::CtaStatus(bits) => status = Some(bits),
            ConntrackAttribute::CtaMark(bits) => marks = *bits,
            ConntrackAttribute::CtaProtoInfo(parts) => state = state.or(tcp_state(parts)),
            _ => {}
        }
    }
    if marks & mark == 0 {
        return None;
    }
    let connection = connection(original?, reply?, own)?;
    if gone {
        return Some(News::Down(connection));
    }
    let assured = status.is_some_and(|status| status.contains(Status::Assured));
    match (connection.protocol, state) {
        (Protocol::Udp, _) => assured.then_some(News::Up(connection)),
        // One side may go on when the other has sent its last.
        (Protocol::Tcp, Some(TCP_ESTABLISHED | TCP_FIN_WAIT | TCP_CLOSE_WAIT)) => {
            assured.then_some(News::Up(connection))
        }
        (Protocol::Tcp, Some(_)) => Some(News::Down(connection)),
        // Something else about it has changed.
        (Protocol::Tcp, None) => None,
    }
}

type Ends = (Protocol, SocketAddrV4, SocketAddrV4);

/// The connection of which these are the packets in both directions, if it is one of the
/// internet's through `own`: translated at one end alone. (Both are where a host of the VPC
/// is led to another: those do not leave it.)
fn connection(original: Ends, reply: Ends, own: Ipv4Addr) -> Option<Connection> {
    let (protocol, from, to) = original;
    let (_, back_from, back_to) = reply;
    let masqueraded = *back_to.ip() == own && *from.ip() != own && back_from == to;
    let forwarded = *to.ip() == own && *back_from.ip() != own && back_to == from;
    let (origin, inside, outside, port) = match (masqueraded, forwarded) {
        (true, false) => (Origin::Inside, from, to, back_to.port()),
        (false, true) => (Origin::Outside, back_from, from, to.port()),
        (true, true) | (false, false) => return None,
    };
    // The self-test's are nobody's.
    let host = !inside.ip().is_link_local();
    host.then_some(Connection {
        protocol,
        origin,
        inside,
        outside,
        port,
    })
}

fn ends(parts: &[Tuple]) -> Option<Ends> {
    let (mut protocol, mut from, mut to) = (None, (None, None), (None, None));
    for part in parts {
        match part {
            Tuple::Ip(parts) => {
                for part in parts {
                    match part {
                        IPTuple::SourceAddress(IpAddr::V4(address)) => from.0 = Some(*address),
                        IPTuple::DestinationAddress(IpAddr::V4(address)) => to.0 = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(Transport::Tcp) => protocol = Some(Protocol::Tcp),
                        ProtoTuple::Protocol(Transport::Udp) => protocol = Some(Protocol::Udp),
                        ProtoTuple::SourcePort(port) => from.1 = Some(*port),
                        ProtoTuple::DestinationPort(port) => to.1 = Some(*port),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some((
        protocol?,
        SocketAddrV4::new(from.0?, from.1?),
        SocketAddrV4::new(to.0?, to.1?),
    ))
}

fn tcp_state(parts: &[ProtoInfo]) -> Option<u8> {
    parts.iter().find_map(|part| match part {
        ProtoInfo::TCP(parts) => parts.iter().find_map(|part| match part {
            ProtoInfoTCP::State(state) => Some(*state),
            _ => None,
        }),
        _ => None,
    })
}
