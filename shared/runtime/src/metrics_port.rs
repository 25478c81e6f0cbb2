//! Metrics on a TCP port of the loopback interface, for a Prometheus that
//! cannot read the admin socket.
//!
//! Whoever is on this host may ask, so metrics are all there is: nothing can be
//! changed here, and no other path answers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::admin::{AdminHandler, failure, metrics};
use crate::http;

/// Why the port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("metrics on {address}: cannot listen there")]
pub struct PortError {
    /// The address and port.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// The port, bound.
#[derive(Debug)]
pub struct MetricsPort {
    listener: TcpListener,
}

impl MetricsPort {
    /// Binds the address, which the config has checked to be a loopback one.
    /// Within a Tokio runtime only.
    pub async fn bind(address: SocketAddr) -> Result<Self, PortError> {
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|source| PortError { address, source })?;
        Ok(Self { listener })
    }

    /// The address and port.
    ///
    /// # Errors
    /// The kernel does not say, which happens to no socket that is bound.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop` is done, then gives answers under way two seconds
    /// to end.
    pub async fn serve<H: AdminHandler>(self, handler: Arc<H>, stop: impl Future<Output = ()>) {
        let router = Router::new()
            .route("/metrics", get(metrics::<H>))
            .fallback(async || {
                let error = "GET /metrics is what there is";
                failure(StatusCode::NOT_FOUND, error.to_owned())
            })
            .method_not_allowed_fallback(async || {
                let error = "GET /metrics is what there is";
                failure(StatusCode::METHOD_NOT_ALLOWED, error.to_owned())
            })
            .with_state(handler);
        http::serve(self.listener, router, stop, || {}).await;
    }
}
