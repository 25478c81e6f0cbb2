//! The kernel's connections counted by where they lead, by a dump over netlink.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{
    DefaultNla, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol as Transport, Status, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_NETFILTER};
use privnet_model::config::spoke::Protocol;
use privnet_reconcile::conntrack::Destinations;

/// The kernel sends at most so much at once (`NLMSG_GOODSIZE` and what it learns that the
/// reader takes, up to 32 KiB).
const BUFFER: usize = 64 << 10;
/// `CTA_STATUS_MASK`: which bits of the status the kernel is to compare. Kernels that do
/// not know it send all.
const STATUS_MASK: u16 = 26;

/// Adds what is masqueraded. Takes about two microseconds for each connection; blocks.
pub(crate) fn count(mut destinations: Destinations) -> io::Result<Destinations> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddress::new(0, 0))?;
    socket.send(&request(), 0)?;
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let message = <NetlinkMessage<NetfilterMessage>>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(destinations),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(one) => {
                    if let Some((protocol, destination, port)) = translated(&one) {
                        destinations.add(protocol, destination, port);
                    }
                }
                _ => {}
            }
            // Messages begin at multiples of four.
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
            let next = length.checked_next_multiple_of(4).unwrap_or(usize::MAX);
            rest = rest.get(next.max(4)..).unwrap_or_default();
        }
    }
}

fn request() -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let translated = Status::SrcNat;
    let mask = DefaultNla::new(STATUS_MASK, translated.bits().to_be_bytes().to_vec());
    let which = vec![
        ConntrackAttribute::CtaStatus(translated),
        ConntrackAttribute::Other(mask),
    ];
    let message = NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0),
        ConntrackMessage::Get(which),
    );
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    bytes
}

/// Where a connection leads whose source is translated: who answers it, and to which port.
fn translated(message: &NetfilterMessage) -> Option<(Protocol, SocketAddr, u16)> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = &message.inner else {
        return None;
    };
    let source = attributes.iter().any(|one| match one {
        ConntrackAttribute::CtaStatus(status) => status.contains(Status::SrcNat),
        _ => false,
    });
    let reply = attributes.iter().find_map(|one| match one {
        ConntrackAttribute::CtaTupleReply(reply) if source => Some(reply),
        _ => None,
    })?;
    let (mut protocol, mut address, mut port, mut own) = (None, None, None, None);
    for part in reply {
        match part {
            Tuple::Ip(parts) => {
                address = parts.iter().find_map(|one| match one {
                    IPTuple::SourceAddress(address) => Some(*address),
                    _ => None,
                });
            }
            Tuple::Proto(parts) => {
                for one in parts {
                    match one {
                        ProtoTuple::Protocol(Transport::Tcp) => protocol = Some(Protocol::Tcp),
                        ProtoTuple::Protocol(Transport::Udp) => protocol = Some(Protocol::Udp),
                        ProtoTuple::SourcePort(number) => port = Some(*number),
                        ProtoTuple::DestinationPort(number) => own = Some(*number),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let address: IpAddr = address?;
    Some((protocol?, SocketAddr::new(address, port?), own?))
}
