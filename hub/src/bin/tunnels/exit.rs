//! How the command ends: the exit codes that its help documents.

use std::fmt;
use std::process::ExitCode;

use privnet_runtime::client::ClientError;

use crate::escape::escape;

/// The exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Outcome {
    Done = 0,
    Error = 1,
    NotRunning = 3,
    NotPermitted = 4,
    NotUp = 5,
    NoSuchTunnel = 6,
    Partial = 7,
    Held = 8,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome as u8)
    }
}

/// Why the command cannot do what it was asked, in one line for stderr.
#[derive(Debug)]
pub(crate) struct Failure {
    outcome: Outcome,
    message: String,
}

impl Failure {
    pub(crate) fn new(outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            outcome,
            message: message.into(),
        }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        self.outcome
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = escape(&error.to_string()).into_owned();
        match error {
            ClientError::NotRunning { .. } => Self::new(
                Outcome::NotRunning,
                format!("{message}: is privnet-hub or privnet-spoke running?"),
            ),
            ClientError::NotPermitted { .. } => Self::new(
                Outcome::NotPermitted,
                format!("{message}: use sudo, or join the socket's group"),
            ),
            ClientError::Timeout { .. }
            | ClientError::Protocol { .. }
            | ClientError::Api { .. } => Self::new(Outcome::Error, message),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(Outcome::Error, format!("cannot write JSON: {error}"))
    }
}
