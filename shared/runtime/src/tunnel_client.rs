//! The spoke's side of the hub's port inside the tunnel (`tunnel_port`).
//!
//! One connection per request, every request under a deadline. The socket is
//! bound to the tunnel interface: with the tunnel down, or a route missing, a
//! request fails and never goes out in clear.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::{Method, StatusCode};
use privnet_model::admin::ApiError;
use privnet_model::enrol::{Me, NextKey, Proof};
use serde::Serialize;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::http;

/// An answer is a few hundred bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// Some round trips to the hub, of which the first may wait for a handshake.
const PATIENCE: Duration = Duration::from_secs(10);
/// A proof's answer waits for STS as well.
const PROOF_PATIENCE: Duration = Duration::from_secs(30);

/// Why the hub did not answer what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HubCallError {
    /// No connection, or it broke.
    #[error("the hub is not reached through the tunnel: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("the hub did not answer through the tunnel within {0:?}")]
    NoAnswer(Duration),
    /// An answer that is none.
    #[error("the hub's answer is not understood: {0}")]
    Protocol(String),
    /// The hub says no, and will say so again.
    #[error("the hub refuses: {0}")]
    Refused(String),
    /// The hub says: not now.
    #[error("the hub says: {0}")]
    Later(String),
}

/// A client of the hub's port.
#[derive(Debug, Clone)]
pub struct HubClient {
    interface: String,
    hub: SocketAddr,
}

impl HubClient {
    /// For the hub at this address behind this interface; connects with each
    /// request.
    pub fn new(interface: &str, hub: SocketAddr) -> Self {
        Self {
            interface: interface.to_owned(),
            hub,
        }
    }

    /// What the hub knows of us.
    pub async fn me(&self) -> Result<Me, HubCallError> {
        self.ask(Method::GET, "/v1/me", Vec::new(), PATIENCE).await
    }

    /// Proves who we are.
    pub async fn prove(&self, proof: &Proof) -> Result<Me, HubCallError> {
        self.post("/v1/proof", proof, PROOF_PATIENCE).await
    }

    /// Names our next key.
    pub async fn next_key(&self, next: &NextKey) -> Result<Me, HubCallError> {
        self.post("/v1/next-key", next, PATIENCE).await
    }

    async fn post(
        &self,
        path: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<Me, HubCallError> {
        let body = serde_json::to_vec(body);
        let body = body.map_err(|error| HubCallError::Protocol(error.to_string()))?;
        self.ask(Method::POST, path, body, patience).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<Me, HubCallError> {
        let unreachable = |error: &dyn ToString| HubCallError::Unreachable(error.to_string());
        let exchange = async {
            let socket = match self.hub {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            };
            let socket = socket.map_err(|error| unreachable(&error))?;
            let bound = socket.bind_device(Some(self.interface.as_bytes()));
            bound.map_err(|error| unreachable(&error))?;
            let stream = socket.connect(self.hub).await;
            let stream = stream.map_err(|error| unreachable(&error))?;
            http::exchange(stream, method, path, body, MAX_ANSWER_BYTES)
                .await
                .map_err(|error| unreachable(&error))
        };
        let (status, body) = timeout(patience, exchange)
            .await
            .unwrap_or(Err(HubCallError::NoAnswer(patience)))?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body)
                .map_err(|error| HubCallError::Protocol(error.to_string()));
        }
        let Ok(ApiError { error }) = serde_json::from_slice(&body) else {
            return Err(HubCallError::Protocol(format!("HTTP status {status}")));
        };
        // It goes into a log.
        let error = error.chars().filter(|char| !char.is_control()).take(512);
        let error = error.collect();
        Err(match status.is_server_error() {
            true => HubCallError::Later(error),
            false => HubCallError::Refused(error),
        })
    }
}
