//! Which daemon to ask: the one of the socket given, else the hub of this
//! machine, else its spoke.

use std::path::Path;

use privnet_model::admin::{HUB_SOCKET, SPOKE_SOCKET};
use privnet_model::status::Status;
use privnet_runtime::client::{AdminClient, ClientError};

use crate::exit::{Failure, Outcome};

/// The daemon, and what it says of itself.
pub(crate) async fn open(socket: Option<&Path>) -> Result<(AdminClient, Status), Failure> {
    match socket {
        Some(path) => first_of(&[path]).await,
        None => first_of(&[Path::new(HUB_SOCKET), Path::new(SPOKE_SOCKET)]).await,
    }
}

async fn first_of(paths: &[&Path]) -> Result<(AdminClient, Status), Failure> {
    for path in paths {
        let client = AdminClient::new(*path);
        match client.status().await {
            Ok(status) => return Ok((client, status)),
            Err(ClientError::NotRunning { .. }) if paths.len() > 1 => {}
            Err(error) => return Err(error.into()),
        }
    }
    let tried: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    Err(Failure::new(
        Outcome::NotRunning,
        format!(
            "no daemon answers on {}: is privnet-hub or privnet-spoke running?",
            tried.join(" or ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[tokio::test]
    async fn when_neither_runs_one_line_names_both() {
        let directory = tempfile::tempdir().unwrap();
        let paths = [
            directory.path().join("hub.sock"),
            directory.path().join("spoke.sock"),
        ];
        let failure = first_of(&[&paths[0], &paths[1]]).await.unwrap_err();
        assert_eq!(failure.outcome(), Outcome::NotRunning);
        let message = failure.to_string();
        assert!(
            message.contains("hub.sock or ") && message.contains("spoke.sock"),
            "{message}"
        );
        assert!(!message.contains('\n'));
    }
}
