//! The state cache: what the hub knew, so that it can start without the API.
//!
//! EC2 is the source of truth. Losing this file costs one poll, nothing else;
//! so nothing in it is trusted beyond what its types allow, and a file that
//! makes no sense is put aside, with a warning.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use jiff::Timestamp;
use privnet_model::inventory::Identity;
use privnet_model::key::PublicKey;
use privnet_reconcile::memory::Memory;
use privnet_runtime::state_file::{Loaded, StateFile};
use serde::{Deserialize, Serialize};
use tracing::info;

/// Raised when a field changes its meaning; a file of another format is not read.
const FORMAT: u32 = 1;

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cached {
    /// Who the hub was: used when its own metadata service does not answer.
    pub(crate) identity: Identity,
    /// What is known, and who carried what.
    #[serde(flatten)]
    pub(crate) memory: Memory,
    endpoints: Vec<(PublicKey, SocketAddr)>,
}

impl Cached {
    pub(crate) fn new(
        identity: Identity,
        memory: Memory,
        endpoints: impl Iterator<Item = (PublicKey, SocketAddr)>,
    ) -> Self {
        Self {
            identity,
            memory,
            endpoints: endpoints.collect(),
        }
    }

    /// Where peers were last heard from: the only way to call a site that has
    /// no endpoint in the config.
    pub(crate) fn endpoints(&self) -> BTreeMap<PublicKey, SocketAddr> {
        self.endpoints.iter().copied().collect()
    }
}

/// The file.
pub(crate) struct Cache(StateFile);

impl Cache {
    pub(crate) fn at(path: &Path) -> Self {
        Self(StateFile::new(path, FORMAT, env!("CARGO_PKG_VERSION")))
    }

    pub(crate) fn load(&self) -> Option<Cached> {
        let path = self.0.path().display();
        match self.0.load(Timestamp::now()) {
            Loaded::Found { data, saved } => {
                info!(%path, %saved, "starting with what was known when the hub last ran");
                Some(data)
            }
            Loaded::Missing => None,
            // The file has said so itself.
            Loaded::Ignored { .. } => None,
        }
    }

    pub(crate) fn save(&self, cached: &Cached) -> Result<(), String> {
        let error = match self.0.save(cached, Timestamp::now()) {
            Ok(()) => return Ok(()),
            Err(error) => anyhow::Error::from(error),
        };
        Err(format!(
            "state cache {}: {error:#}",
            self.0.path().display()
        ))
    }
}
