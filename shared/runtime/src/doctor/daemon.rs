//! Asking the daemon: what it says of itself, and which process it is.

use std::path::Path;

use privnet_reconcile::doctor::daemon::Daemon;
use tokio::net::UnixStream;

use super::NEARBY;
use crate::client::{AdminClient, ClientError};

/// What came of it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What it said, if it runs.
    pub daemon: Daemon,
    /// Its process, if it runs and the kernel tells.
    pub process: Option<u32>,
}

/// Asks the daemon of this socket.
pub async fn ask(socket: &Path) -> Asked {
    let client = AdminClient::new(socket).with_patience(NEARBY);
    let daemon = match client.status().await {
        Ok(status) => Daemon::Runs(Box::new(status)),
        Err(ClientError::NotRunning { .. }) => Daemon::DoesNotRun,
        Err(ClientError::NotPermitted { .. }) => Daemon::NotPermitted,
        Err(error) => Daemon::Silent(error.to_string()),
    };
    let process = match &daemon {
        Daemon::Runs(_) => process(socket).await,
        Daemon::DoesNotRun | Daemon::NotPermitted | Daemon::Silent(_) => None,
    };
    Asked { daemon, process }
}

async fn process(socket: &Path) -> Option<u32> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let process = stream.peer_cred().ok()?.pid()?;
    u32::try_from(process).ok().filter(|process| *process > 0)
}
