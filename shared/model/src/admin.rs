//! The messages of the admin API: HTTP with JSON bodies on a Unix socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`](crate::status::Status) |
//! | `GET /metrics` | the same for Prometheus, in its text format |
//! | `POST /v1/refresh` with [`RefreshRequest`] | [`RefreshReport`] |
//! | `GET /v1/events` | a list of [`Event`]s, oldest first |
//! | `POST /v1/why` with [`WhyRequest`] | [`WhyAnswer`] |
//! | `POST /v1/rotate-key` with [`RotateRequest`] | [`RotateAnswer`] |
//!
//! Anything else, and any failure, is answered with an [`ApiError`] and a
//! fitting HTTP status.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::InstanceId;
use crate::inventory::HeldRemovals;
use crate::key::PublicKey;

/// Where the hub's admin socket is unless its config says otherwise.
pub const HUB_SOCKET: &str = "/run/privnet/hub.sock";
/// Where the spoke's admin socket is unless its config says otherwise.
pub const SPOKE_SOCKET: &str = "/run/privnet/spoke.sock";

/// Asks the daemon to look again, now: the hub at EC2, the spoke at its
/// instance metadata; both at what the host really has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefreshRequest {
    /// Only tell what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// Let go the spokes that are held because they are many.
    #[serde(default)]
    pub accept_removals: bool,
    /// Let these go though their tunnels handshake, if EC2 says that they are stopped,
    /// no longer tagged or unknown.
    #[serde(default)]
    pub remove: Vec<InstanceId>,
}

/// What a refresh found and did (or would do).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshReport {
    /// Whether nothing was applied.
    pub dry_run: bool,
    /// Every partition asked, in order; none on a spoke.
    pub partitions: Vec<PolledPartition>,
    /// What changed, in the order in which it was applied.
    pub changes: Vec<Change>,
    /// Changes that could not be applied, with the reason.
    pub failures: Vec<String>,
    /// Removals that were not made, because they are too many.
    #[serde(default)]
    pub held_removals: Option<HeldRemovals>,
}

/// How one partition answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolledPartition {
    /// The partition, as `account/region`.
    pub partition: String,
    /// How many spokes are known of it.
    pub spokes: usize,
    /// Why it gave no complete answer; what is known of it stays as it was.
    pub error: Option<String>,
}

/// What is done to something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is new.
    Add,
    /// It exists and becomes different.
    Change,
    /// It goes.
    Remove,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Add => "add",
            Self::Change => "change",
            Self::Remove => "remove",
        })
    }
}

/// One change, in words an operator understands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What is done.
    pub action: Action,
    /// To what: `tunnel spoke-a`, `route 10.1.0.0/16`.
    pub what: String,
    /// Why, and the details.
    pub why: String,
}

/// Something that happened, and why. What happens again is one event, told anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number since the daemon started: later events have higher ones, and one
    /// that happens again gets a new one.
    pub number: u64,
    /// When it happened last.
    pub at: Timestamp,
    /// When it happened first.
    pub first: Timestamp,
    /// How often.
    pub times: u64,
    /// To what: `tunnel spoke-a`, `111122223333/eu-west-1`.
    pub what: String,
    /// What happened, and its cause, in one sentence.
    pub text: String,
}

/// Asks why something is or is not connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhyRequest {
    /// A CIDR, an address, an instance, or a tunnel's or site's name.
    pub subject: String,
    /// With a second address: whether the first may talk to it, and by which way.
    #[serde(default)]
    pub towards: Option<String>,
}

/// The explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyAnswer {
    /// Whether it is connected as it should be.
    pub connected: bool,
    /// One paragraph.
    pub text: String,
}

/// Asks for another private key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// On a hub: the spokes know the next key; use it from now on.
    #[serde(default)]
    pub commit: bool,
}

/// How far the change of key is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateAnswer {
    /// The key in use.
    pub public_key: PublicKey,
    /// The key that comes next, when it is not yet in use.
    pub next: Option<PublicKey>,
    /// What happened and what is left to do.
    pub text: String,
}

/// An answer that is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// What went wrong, in one sentence.
    pub error: String,
}
