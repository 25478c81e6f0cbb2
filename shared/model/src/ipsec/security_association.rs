//! Security associations as charon tells them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// charon's number of an SA. It is never used again while charon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UniqueId(pub u64);

impl fmt::Display for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$state_doc:meta])* $state:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name {
            $($(#[$state_doc])* $state,)+
            /// One that a newer charon may have.
            Other(String),
        }

        impl $name {
            /// The state by charon's word for it.
            pub fn from_word(word: &str) -> Self {
                match word {
                    $($word => Self::$state,)+
                    other => Self::Other(other.to_owned()),
                }
            }

            /// charon's word for it.
            pub fn word(&self) -> &str {
                match self {
                    $(Self::$state => $word,)+
                    Self::Other(word) => word,
                }
            }
        }
    };
}

states! {
    /// Where an IKE SA is in its life.
    IkeState {
        /// Made, nothing sent.
        Created = "CREATED",
        /// The handshake goes on.
        Connecting = "CONNECTING",
        /// In use.
        Established = "ESTABLISHED",
        /// Kept ready by another node.
        Passive = "PASSIVE",
        /// Its successor is made.
        Rekeying = "REKEYING",
        /// It has a successor.
        Rekeyed = "REKEYED",
        /// The peer is told that it ends.
        Deleting = "DELETING",
        /// It ends.
        Destroying = "DESTROYING",
    }
}

states! {
    /// Where a child SA is in its life.
    ChildState {
        /// Made, not negotiated.
        Created = "CREATED",
        /// Waits for traffic.
        Routed = "ROUTED",
        /// Being given to the kernel.
        Installing = "INSTALLING",
        /// In use.
        Installed = "INSTALLED",
        /// Its addresses change.
        Updating = "UPDATING",
        /// Its successor is made; it is in use until then.
        Rekeying = "REKEYING",
        /// It has a successor.
        Rekeyed = "REKEYED",
        /// Negotiated again, with another group.
        Retrying = "RETRYING",
        /// The peer is told that it ends.
        Deleting = "DELETING",
        /// Ended; charon lists it for some seconds yet, because packets that were
        /// under way may still come.
        Deleted = "DELETED",
        /// It ends.
        Destroying = "DESTROYING",
    }
}

impl IkeState {
    /// Whether it carries control traffic, or will when nothing goes wrong.
    pub fn is_alive(&self) -> bool {
        match self {
            Self::Created | Self::Connecting | Self::Established | Self::Rekeying => true,
            Self::Passive | Self::Rekeyed | Self::Deleting | Self::Destroying | Self::Other(_) => {
                false
            }
        }
    }
}

impl ChildState {
    /// Whether packets are sent through it.
    pub fn carries_traffic(&self) -> bool {
        match self {
            Self::Installed | Self::Updating | Self::Rekeying => true,
            Self::Created
            | Self::Routed
            | Self::Installing
            | Self::Rekeyed
            | Self::Retrying
            | Self::Deleting
            | Self::Deleted
            | Self::Destroying
            | Self::Other(_) => false,
        }
    }
}

/// What is known of NATs between the ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Nat {
    /// We are behind one.
    pub local: bool,
    /// The peer is behind one. With userspace ESP charon says so always, to have
    /// ESP inside UDP: then it proves nothing.
    pub remote: bool,
    /// We say that there is one though there is none.
    pub pretended: bool,
}

/// An IKE SA with its children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IkeSa {
    /// The connection that it is of. "(unnamed)" while a peer has not said who it is.
    pub connection: String,
    /// charon's number of it.
    pub id: UniqueId,
    /// Where it is in its life.
    pub state: IkeState,
    /// Whether we began.
    pub initiated: bool,
    /// Our address.
    pub local: Option<SocketAddr>,
    /// The peer's.
    pub remote: Option<SocketAddr>,
    /// Who we say we are; `None` before it is said.
    pub local_id: Option<String>,
    /// Who the peer says it is; `None` before it is said.
    pub remote_id: Option<String>,
    /// What is known of NATs.
    pub nat: Nat,
    /// The ciphers agreed upon: `AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384`. Empty
    /// before they are.
    pub proposal: String,
    /// Since when it is in use.
    pub established: Option<Duration>,
    /// When its keys are changed.
    pub rekey_in: Option<Duration>,
    /// What charon is doing or will do for it, such as `CHILD_CREATE`.
    pub tasks: BTreeSet<String>,
    /// Its children, also those that ended just now.
    pub children: Vec<ChildSa>,
}

impl IkeSa {
    /// Children through which packets are sent.
    pub fn live_children(&self) -> impl Iterator<Item = &ChildSa> {
        let live = |child: &&ChildSa| child.state.carries_traffic();
        self.children.iter().filter(live)
    }
}

/// One direction's packets of a child SA. Rekeying begins at zero again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes inside.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Since the last one; `None` when there was none.
    pub idle: Option<Duration>,
}

/// A child SA: a pair of ESP SAs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildSa {
    /// Its name in the connection.
    pub name: String,
    /// charon's number of it.
    pub id: UniqueId,
    /// Where it is in its life.
    pub state: ChildState,
    /// ESP inside UDP.
    pub encapsulated: bool,
    /// The SPI we receive with.
    pub spi_in: Option<u32>,
    /// The SPI we send with.
    pub spi_out: Option<u32>,
    /// The XFRM interface for what comes; `None` without one.
    pub if_id_in: Option<u32>,
    /// The XFRM interface for what goes.
    pub if_id_out: Option<u32>,
    /// The ciphers agreed upon: `AES_GCM_16-256/ECP_384`. The first child of an IKE
    /// SA has no group: its keys come from that SA's exchange.
    pub proposal: String,
    /// What came.
    pub received: Traffic,
    /// What went.
    pub sent: Traffic,
    /// When its keys are changed.
    pub rekey_in: Option<Duration>,
    /// When it ends.
    pub ends_in: Option<Duration>,
    /// Since when it is installed.
    pub installed: Option<Duration>,
    /// Our traffic, in charon's words: `10.1.0.0/16`, or with protocol and port.
    pub local_selectors: BTreeSet<String>,
    /// The peer's.
    pub remote_selectors: BTreeSet<String>,
}
