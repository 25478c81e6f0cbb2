//! The guard of the address's connections: the table `inet privnet_address`, as text for
//! nft. A table of its own, so that the one of all NAT is not loaded again when an address
//! moves.

use std::net::Ipv4Addr;

use super::MARK;

/// The table's family and name.
pub const TABLE: &str = "inet privnet_address";

/// What is done with the connections of the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// The address is not here. What belongs to it waits, and a TCP connection that did
    /// not begin here is not picked up, as the kernel would (`nf_conntrack_tcp_loose`): it
    /// would leave by another address, perhaps from another port.
    Hold,
    /// The address is here, but perhaps not in force yet: as [`Self::Mark`], and what
    /// resets a connection is dropped.
    Settle,
    /// The address is here: new connections are marked, and the kernel tells of those
    /// alone how they are.
    Mark,
}

impl Guard {
    /// The input for `nft -f -`: replaces the table as one transaction. `own` is the
    /// private address of this spoke.
    pub fn text(self, own: Ipv4Addr) -> String {
        // Right behind the translation of sources (srcnat is 100).
        let chain =
            "\tchain guard {\n\t\ttype filter hook postrouting priority 101; policy accept;\n";
        let translated = "ct status & (snat | dnat) != 0";
        let hold = format!(
            "{chain}\t\tct mark & {MARK} != 0 counter drop\n\
             \t\tct state new {translated} meta l4proto tcp tcp flags & (syn | ack) != syn counter drop\n\t}}\n"
        );
        let mark = format!(
            "{chain}\t\tct state new {translated} meta l4proto {{ tcp, udp }} \
             ct mark set ct mark | {MARK} ct event set assured | protoinfo | destroy\n\t}}\n"
        );
        let settle = format!(
            "\tchain resets {{\n\t\ttype filter hook prerouting priority raw; policy accept;\n\
             \t\tip daddr {own} tcp flags & rst != 0 counter drop\n\t}}\n"
        );
        let rules = match self {
            Self::Hold => hold,
            Self::Settle => mark + &settle,
            Self::Mark => mark,
        };
        format!("{}table {TABLE} {{\n{rules}}}\n", removal())
    }
}

/// The input for `nft -f -` that removes the table, whether there is one or not.
pub fn removal() -> String {
    // `table …` makes it where it is missing, for `delete` to succeed.
    format!("table {TABLE}\ndelete table {TABLE}\n")
}
