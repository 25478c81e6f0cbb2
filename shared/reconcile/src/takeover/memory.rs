//! What a spoke keeps for its next start.

use std::net::IpAddr;

use jiff::Timestamp;
use privnet_model::id::{InstanceId, InterfaceId, Zone};
use serde::{Deserialize, Serialize};

/// What must outlive a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Spokes to which routes may still lead.
    #[serde(default)]
    pub spokes: Vec<Remembered>,
    /// How long this one has to be well before it takes its tables back, in seconds.
    #[serde(default)]
    pub hold_seconds: u64,
    /// When it was lost or sick last.
    #[serde(default)]
    pub lost: Option<Timestamp>,
    /// Whether it was running, and did not stop as planned.
    #[serde(default)]
    pub running: bool,
}

/// A spoke that EC2 may not describe any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The instance.
    pub instance: InstanceId,
    /// Its interface.
    pub interface: InterfaceId,
    /// Its zone.
    pub zone: Zone,
    /// When it was launched.
    pub launched: Timestamp,
    /// Its private address.
    pub address: IpAddr,
}
