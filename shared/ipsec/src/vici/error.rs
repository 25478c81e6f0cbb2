//! What can go wrong between us and charon.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::message::Malformed;

/// Why charon did not do, or did not tell, what it was asked.
///
/// It can be cloned: what ends a connection is told to all that wait for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ViciError {
    /// Nobody listens on the socket.
    #[error("cannot connect to the IKE daemon (charon) on {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// charon ended, or closed the connection.
    #[error("the IKE daemon (charon) closed the connection on {}", socket.display())]
    Closed {
        /// The socket.
        socket: PathBuf,
    },
    /// This side closed the connection.
    #[error("the connection to the IKE daemon (charon) was given up")]
    GivenUp,
    /// The socket broke.
    #[error("the connection to the IKE daemon (charon) on {} broke", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// A packet that is none. Nothing after it can be believed.
    #[error("the IKE daemon (charon) sent what is no VICI packet")]
    Malformed(#[source] Malformed),
    /// An answer that nothing asked for. Nothing after it can be believed.
    #[error("the IKE daemon (charon) sent {found}, expected {expected}")]
    OutOfTurn {
        /// "an answer to a command", say.
        found: &'static str,
        /// What would have been in turn.
        expected: &'static str,
    },
    /// A message that cannot be sent.
    #[error("cannot send `{command}` to the IKE daemon (charon)")]
    Unsendable {
        /// The command.
        command: String,
        /// Why.
        #[source]
        source: Malformed,
    },
    /// No answer in time.
    #[error("the IKE daemon (charon) did not answer `{command}` within {deadline:?}")]
    Timeout {
        /// The command.
        command: String,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// charon lacks the command, or a plugin that would have it.
    #[error("the IKE daemon (charon) knows no command `{command}`")]
    UnknownCommand {
        /// The command.
        command: String,
    },
    /// charon lacks the event: it is an older one.
    #[error("the IKE daemon (charon) knows no event `{event}`")]
    UnknownEvent {
        /// The event.
        event: String,
    },
    /// An answer in more parts or bytes than is kept.
    #[error("the answer to `{command}` is larger than {parts} parts or {bytes} bytes")]
    TooLarge {
        /// The command.
        command: String,
        /// How many parts are kept.
        parts: usize,
        /// How many bytes are kept.
        bytes: usize,
    },
    /// charon says no.
    #[error("the IKE daemon (charon) refused {operation}: {message}")]
    Refused {
        /// What was asked: "to load connection privnet-dc-east", say.
        operation: String,
        /// charon's `errmsg`.
        message: String,
    },
    /// A plan that was made for other connections than it is carried out with.
    #[error("cannot {change}: it is not among the wanted connections")]
    NotWanted {
        /// What the plan says.
        change: String,
    },
    /// It has nobody who does ESP.
    #[error(
        "the IKE daemon (charon) has loaded neither kernel-netlink nor kernel-libipsec, so nobody \
         does ESP"
    )]
    NoEsp,
    /// An answer that lacks what it should have, or has it otherwise.
    #[error("the IKE daemon's (charon's) {answer} has {key} = {found:?}, expected {expected}")]
    Unexpected {
        /// What was read: "security association of privnet-dc-east", say.
        answer: String,
        /// The key.
        key: &'static str,
        /// Its value; empty where there is none.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl ViciError {
    /// Whether the connection is over: nothing but a new one will help.
    pub fn ends_the_connection(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Closed { .. }
            | Self::GivenUp
            | Self::Broken { .. }
            | Self::Malformed(_)
            | Self::OutOfTurn { .. }
            | Self::NoEsp => true,
            Self::Unsendable { .. }
            | Self::Timeout { .. }
            | Self::UnknownCommand { .. }
            | Self::UnknownEvent { .. }
            | Self::TooLarge { .. }
            | Self::Refused { .. }
            | Self::NotWanted { .. }
            | Self::Unexpected { .. } => false,
        }
    }
}
