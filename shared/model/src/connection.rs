//! Connections that are to survive the move of the address by which the internet knows
//! them: which they are, and what the spokes of a VPC tell each other of them.
//!
//! An Elastic IP stands for one private address of the spoke that has it. So a connection
//! is told without that address: whoever has the Elastic IP puts in its own, and what both
//! ends of the connection see stays the same. (conntrackd copies entries as they are, with
//! the private address of the spoke that died.)
//!
//! Below: [`wire`], the messages; [`channel`], how they are kept from everybody else.

use std::net::SocketAddrV4;

use crate::config::spoke::Protocol;

pub mod channel;
pub mod wire;

/// A translated connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Who began it.
    pub origin: Origin,
    /// The end in the VPC.
    pub inside: SocketAddrV4,
    /// The end on the internet.
    pub outside: SocketAddrV4,
    /// The port that it has at the spoke's address: what the outside sees.
    pub port: u16,
}

/// Who began a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// A host of the VPC: it is masqueraded.
    Inside,
    /// A caller on the internet: it is forwarded.
    Outside,
}
