//! The self-test's packets: the first one of a TCP connection, the reset that ends
//! it, and what an answer means. Whatever comes in may be anything at all.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::err::packet::BuildWriteError;
use etherparse::{
    Icmpv4Type, Ipv4HeaderSlice, NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement,
    TransportSlice, icmpv4, ip_number,
};

/// As an ordinary host sends it.
const HOP_LIMIT: u8 = 64;
const WINDOW: u16 = 64_240;
const SEGMENT: u16 = 1460;

/// One connection, by what tells it from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) client: SocketAddrV4,
    pub(super) target: SocketAddrV4,
    /// The number of its first packet, which an answer has to know.
    pub(super) sequence: u32,
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The target accepts the connection that this packet began (`SYN`, `ACK`).
    Accepted(Connection),
    /// It refuses it (`RST`).
    Refused(Connection),
    /// A router on the way says that it does not get there.
    Undelivered {
        connection: Connection,
        router: Ipv4Addr,
        why: &'static str,
    },
}

impl Connection {
    /// The packet that asks for the connection.
    pub(super) fn syn(&self) -> Vec<u8> {
        let packet = self.builder(self.sequence).syn();
        match packet.options(&[TcpOptionElement::MaximumSegmentSize(SEGMENT)]) {
            Ok(packet) => written(packet),
            Err(_) => unreachable!("four bytes of options fit into forty"),
        }
    }

    /// The packet that takes it back: the target's program never hears of it.
    pub(super) fn reset(&self) -> Vec<u8> {
        written(self.builder(self.sequence.wrapping_add(1)).rst())
    }

    fn builder(&self, sequence: u32) -> etherparse::PacketBuilderStep<etherparse::TcpHeader> {
        let (client, target) = (self.client, self.target);
        PacketBuilder::ipv4(client.ip().octets(), target.ip().octets(), HOP_LIMIT).tcp(
            client.port(),
            target.port(),
            sequence,
            WINDOW,
        )
    }
}

fn written(builder: etherparse::PacketBuilderStep<etherparse::TcpHeader>) -> Vec<u8> {
    let mut packet = Vec::with_capacity(builder.size(0));
    let result: Result<(), BuildWriteError> = builder.write(&mut packet, &[]);
    match result {
        Ok(()) => packet,
        Err(error) => unreachable!("a TCP header fits into a packet and a Vec takes it: {error}"),
    }
}

/// `None` for everything that is no answer to a packet of `client`'s.
pub(super) fn answer(client: Ipv4Addr, packet: &[u8]) -> Option<Answer> {
    let packet = SlicedPacket::from_ip(packet).ok()?;
    let Some(NetSlice::Ipv4(ip)) = packet.net else {
        return None;
    };
    let (from, to) = (ip.header().source_addr(), ip.header().destination_addr());
    if to != client {
        return None;
    }
    match packet.transport? {
        TransportSlice::Tcp(tcp) => {
            let connection = Connection {
                client: SocketAddrV4::new(to, tcp.destination_port()),
                target: SocketAddrV4::new(from, tcp.source_port()),
                sequence: tcp.acknowledgment_number().wrapping_sub(1),
            };
            match (tcp.syn(), tcp.ack(), tcp.rst()) {
                (true, true, false) => Some(Answer::Accepted(connection)),
                (false, true, true) => Some(Answer::Refused(connection)),
                _ => None,
            }
        }
        TransportSlice::Icmpv4(icmp) => {
            let why = match icmp.icmp_type() {
                Icmpv4Type::DestinationUnreachable(why) => unreachable_words(&why)?,
                Icmpv4Type::TimeExceeded(_) => "the packet goes in circles",
                _ => return None,
            };
            Some(Answer::Undelivered {
                connection: quoted(client, icmp.payload())?,
                router: from,
                why,
            })
        }
        _ => None,
    }
}

/// The connection of the packet that an ICMP message quotes: its IP header and at
/// least eight bytes behind it (RFC 792).
fn quoted(client: Ipv4Addr, quote: &[u8]) -> Option<Connection> {
    let ip = Ipv4HeaderSlice::from_slice(quote).ok()?;
    if ip.protocol() != ip_number::TCP || ip.source_addr() != client {
        return None;
    }
    let tcp = quote.get(ip.slice().len()..)?.first_chunk::<8>()?;
    let [s1, s2, d1, d2, n1, n2, n3, n4] = *tcp;
    Some(Connection {
        client: SocketAddrV4::new(client, u16::from_be_bytes([s1, s2])),
        target: SocketAddrV4::new(ip.destination_addr(), u16::from_be_bytes([d1, d2])),
        sequence: u32::from_be_bytes([n1, n2, n3, n4]),
    })
}

/// `None` for "too large", which no first packet of a connection is.
fn unreachable_words(why: &icmpv4::DestUnreachableHeader) -> Option<&'static str> {
    use icmpv4::DestUnreachableHeader as Why;
    Some(match why {
        Why::Network | Why::NetworkUnknown => "no route to its network",
        Why::Host | Why::HostUnknown | Why::Isolated => "the host does not answer there",
        Why::NetworkProhibited | Why::HostProhibited | Why::FilterProhibited => {
            "a filter forbids it"
        }
        Why::FragmentationNeeded { .. } => return None,
        _ => "it cannot be reached",
    })
}
