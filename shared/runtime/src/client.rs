//! The admin socket's client side, as `tunnels` uses it.
//!
//! One connection per request, every request under a deadline. What the
//! daemon answers is taken for data: it is limited in size, and its texts are
//! the caller's to escape before they reach a terminal.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::{Method, StatusCode};
use privnet_model::admin::{
    ApiError, Event, RefreshReport, RefreshRequest, RotateAnswer, RotateRequest, WhyAnswer,
    WhyRequest,
};
use privnet_model::status::Status;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::http;

/// A status of 10,000 tunnels is about 10 MB.
const MAX_ANSWER_BYTES: usize = 128 * 1024 * 1024;
/// A status is put together from what the daemon has in memory.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);
/// A change of keys waits for the other end to hear of it.
const ROTATE_TIMEOUT: Duration = Duration::from_secs(60);
/// A refresh waits for EC2, which may throttle, in every region.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(300);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon listens there.
    #[error("no daemon answers on {}", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is not for this user.
    #[error("no permission to use {}", path.display())]
    NotPermitted {
        /// The socket.
        path: PathBuf,
    },
    /// A daemon listens, and did not answer in time.
    #[error("the daemon on {} did not answer within {} s", path.display(), after.as_secs())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        after: Duration,
    },
    /// What came back is not what this version of the API says.
    #[error("the answer on {} is not understood: {problem}", path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The daemon says no.
    #[error("{message}")]
    Api {
        /// Its reason.
        message: String,
    },
}

/// A client of one admin socket.
#[derive(Debug, Clone)]
pub struct AdminClient {
    path: PathBuf,
    status_timeout: Duration,
    rotate_timeout: Duration,
    refresh_timeout: Duration,
}

impl AdminClient {
    /// A client of the socket at `path`; connects with each request.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            status_timeout: STATUS_TIMEOUT,
            rotate_timeout: ROTATE_TIMEOUT,
            refresh_timeout: REFRESH_TIMEOUT,
        }
    }

    /// The same client with another deadline for every request (otherwise 10 s,
    /// a minute for a change of keys, and five for a refresh, which waits for EC2).
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self {
            status_timeout: patience,
            rotate_timeout: patience,
            refresh_timeout: patience,
            ..self
        }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything about the daemon, now.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// What happened lately, oldest first.
    pub async fn events(&self) -> Result<Vec<Event>, ClientError> {
        self.get("/v1/events").await
    }

    /// Has the daemon look again.
    pub async fn refresh(&self, request: RefreshRequest) -> Result<RefreshReport, ClientError> {
        let patience = self.refresh_timeout;
        self.post("/v1/refresh", &request, patience).await
    }

    /// Asks why something is or is not connected.
    pub async fn why(&self, request: &WhyRequest) -> Result<WhyAnswer, ClientError> {
        let patience = self.status_timeout;
        self.post("/v1/why", request, patience).await
    }

    /// Has the daemon change its private key.
    pub async fn rotate_key(&self, request: RotateRequest) -> Result<RotateAnswer, ClientError> {
        let patience = self.rotate_timeout;
        self.post("/v1/rotate-key", &request, patience).await
    }

    async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, ClientError> {
        self.ask(Method::GET, path, Vec::new(), self.status_timeout)
            .await
    }

    async fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        message: &impl Serialize,
        patience: Duration,
    ) -> Result<A, ClientError> {
        let body = serde_json::to_vec(message).map_err(|error| self.protocol(error))?;
        self.ask(Method::POST, path, body, patience).await
    }

    async fn ask<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<A, ClientError> {
        timeout(patience, self.exchange(method, path, body))
            .await
            .unwrap_or_else(|_| {
                Err(ClientError::Timeout {
                    path: self.path.clone(),
                    after: patience,
                })
            })
    }

    async fn exchange<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<A, ClientError> {
        let stream = self.connect().await?;
        let exchange = http::exchange(stream, method, path, body, MAX_ANSWER_BYTES);
        let (status, body) = exchange.await.map_err(|error| self.protocol(error))?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| self.protocol(error));
        }
        Err(match serde_json::from_slice::<ApiError>(&body) {
            Ok(ApiError { error }) => ClientError::Api { message: error },
            Err(_) => self.protocol(format!("HTTP status {status}")),
        })
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        loop {
            let error = match UnixStream::connect(&self.path).await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            let path = self.path.clone();
            return Err(match error.kind() {
                // The backlog is full: the daemon lives, and is busy. The
                // deadline of the whole ends this.
                io::ErrorKind::WouldBlock => {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
                io::ErrorKind::NotFound
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::NotADirectory => ClientError::NotRunning { path },
                io::ErrorKind::PermissionDenied => ClientError::NotPermitted { path },
                _ => self.protocol(error),
            });
        }
    }

    fn protocol(&self, problem: impl ToString) -> ClientError {
        ClientError::Protocol {
            path: self.path.clone(),
            problem: problem.to_string(),
        }
    }
}
