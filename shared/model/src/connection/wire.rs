//! The messages about connections, as bytes. What is not one of them is an error, and the
//! conversation ends: each side runs the same program, or soon will.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Connection, Origin};
use crate::config::spoke::Protocol;

/// The longest message.
pub const MOST_BYTES: usize = 1 + MOST_CONNECTIONS * CONNECTION_BYTES;
/// As many connections as one message holds.
pub const MOST_CONNECTIONS: usize = 1000;

const CONNECTION_BYTES: usize = 15;

/// What one spoke tells another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Who asks has the key. The first thing it says.
    Hello,
    /// All connections follow, until [`Message::Whole`]; what was told before is void.
    Begin,
    /// These are there.
    Add(Vec<Connection>),
    /// These are not there any more.
    Remove(Vec<Connection>),
    /// Those since [`Message::Begin`] are all.
    Whole,
    /// That was all so far. Said twice a second.
    Beat {
        /// Whether the address is at who says it.
        holds: bool,
    },
    /// The address is about to be given to who hears this: it is to take over the
    /// connections that it was told of, and say so.
    Offer,
    /// The answer: they are taken over.
    Taken,
    /// Routes lead to who says this now, and the address may have to follow them.
    Due,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a message about connections: {0}")]
pub struct NoMessage(&'static str);

impl Message {
    /// The bytes. Of more connections than fit only the first are told.
    pub fn to_bytes(&self) -> Vec<u8> {
        let list = |kind, connections: &[Connection]| {
            let count = connections.len().min(MOST_CONNECTIONS);
            let mut bytes = Vec::with_capacity(1 + count * CONNECTION_BYTES);
            bytes.push(kind);
            for connection in &connections[..count] {
                put(&mut bytes, connection);
            }
            bytes
        };
        match self {
            Self::Hello => vec![1],
            Self::Begin => vec![2],
            Self::Add(connections) => list(3, connections),
            Self::Remove(connections) => list(4, connections),
            Self::Whole => vec![5],
            Self::Beat { holds } => vec![6, u8::from(*holds)],
            Self::Offer => vec![7],
            Self::Taken => vec![8],
            Self::Due => vec![9],
        }
    }

    /// The message in these bytes.
    ///
    /// # Errors
    /// They are none, or there is more.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoMessage> {
        let (kind, rest) = bytes.split_first().ok_or(NoMessage("empty"))?;
        match (kind, rest) {
            (1, []) => Ok(Self::Hello),
            (2, []) => Ok(Self::Begin),
            (3, list) => Ok(Self::Add(connections(list)?)),
            (4, list) => Ok(Self::Remove(connections(list)?)),
            (5, []) => Ok(Self::Whole),
            (6, [0]) => Ok(Self::Beat { holds: false }),
            (6, [1]) => Ok(Self::Beat { holds: true }),
            (7, []) => Ok(Self::Offer),
            (8, []) => Ok(Self::Taken),
            (9, []) => Ok(Self::Due),
            _ => Err(NoMessage("of no kind that is known")),
        }
    }
}

fn put(bytes: &mut Vec<u8>, connection: &Connection) {
    let protocol = match connection.protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
    };
    let origin = match connection.origin {
        Origin::Inside => 0,
        Origin::Outside => 2,
    };
    bytes.push(protocol | origin);
    for end in [connection.inside, connection.outside] {
        bytes.extend_from_slice(&end.ip().octets());
        bytes.extend_from_slice(&end.port().to_be_bytes());
    }
    bytes.extend_from_slice(&connection.port.to_be_bytes());
}

fn connections(bytes: &[u8]) -> Result<Vec<Connection>, NoMessage> {
    let (each, rest) = bytes.as_chunks::<CONNECTION_BYTES>();
    if !rest.is_empty() || each.len() > MOST_CONNECTIONS {
        return Err(NoMessage("a list of another length"));
    }
    each.iter().map(connection).collect()
}

fn connection(bytes: &[u8; CONNECTION_BYTES]) -> Result<Connection, NoMessage> {
    let [kind, a, b, c, d, e, f, g, h, i, j, k, l, m, n] = *bytes;
    let (protocol, origin) = match kind {
        0 => (Protocol::Tcp, Origin::Inside),
        1 => (Protocol::Udp, Origin::Inside),
        2 => (Protocol::Tcp, Origin::Outside),
        3 => (Protocol::Udp, Origin::Outside),
        _ => return Err(NoMessage("a connection of no kind that is known")),
    };
    let end = |address: [u8; 4], port| {
        SocketAddrV4::new(Ipv4Addr::from(address), u16::from_be_bytes(port))
    };
    Ok(Connection {
        protocol,
        origin,
        inside: end([a, b, c, d], [e, f]),
        outside: end([g, h, i, j], [k, l]),
        port: u16::from_be_bytes([m, n]),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_connection() -> impl Strategy<Value = Connection> {
        let end = || any::<(u32, u16)>();
        (any::<[bool; 2]>(), end(), end(), any::<u16>()).prop_map(
            |([udp, called], inside, outside, port)| Connection {
                protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                origin: if called {
                    Origin::Outside
                } else {
                    Origin::Inside
                },
                inside: SocketAddrV4::new(inside.0.into(), inside.1),
                outside: SocketAddrV4::new(outside.0.into(), outside.1),
                port,
            },
        )
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let list = || prop::collection::vec(any_connection(), 0..20);
        prop_oneof![
            Just(Message::Hello),
            Just(Message::Begin),
            list().prop_map(Message::Add),
            list().prop_map(Message::Remove),
            Just(Message::Whole),
            any::<bool>().prop_map(|holds| Message::Beat { holds }),
            Just(Message::Offer),
            Just(Message::Taken),
            Just(Message::Due),
        ]
    }

    proptest! {
        #[test]
        fn what_is_told_is_what_is_heard(message in any_message()) {
            let bytes = message.to_bytes();
            prop_assert!(bytes.len() <= MOST_BYTES);
            prop_assert_eq!(Message::parse(&bytes), Ok(message));
        }

        #[test]
        fn bytes_of_any_kind_are_a_message_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            if let Ok(message) = Message::parse(&bytes) {
                prop_assert_eq!(message.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn a_list_that_is_too_long_is_an_error() {
        let bytes = vec![0; MOST_CONNECTIONS * CONNECTION_BYTES];
        let with = |more: usize| [vec![3], bytes.clone(), vec![0; more]].concat();
        assert!(Message::parse(&with(0)).is_ok());
        assert!(Message::parse(&with(1)).is_err());
        assert!(Message::parse(&with(CONNECTION_BYTES)).is_err());
    }
}
