//! What all workers of a device know in common: who we are, which peers there
//! are, whose each prefix is and who may talk to whom. Immutable; every change makes a new one, which
//! each worker takes over between two batches.

use std::collections::HashMap;
use std::sync::Arc;

use privnet_model::key::PublicKey;

use crate::allowed_ips::AllowedIps;
use crate::identity::Identity;
use crate::index::PeerIndex;
use crate::policy::Policy;

/// A device's shared knowledge at one moment.
#[derive(Debug, Default)]
pub struct Directory {
    /// The device's key; without one it answers no handshake and sends none.
    pub identity: Option<Arc<Identity>>,
    /// The peers by key.
    pub peers: HashMap<PublicKey, PeerIndex>,
    /// Whose each prefix is.
    pub allowed_ips: AllowedIps,
    /// Which of them may talk to each other; without one all may.
    pub policy: Option<Arc<Policy>>,
}
