//! The hub's port inside its tunnels (`privnet_model::enrol`), where spokes name
//! their next key and prove who they are.
//!
//! The socket is bound to the tunnel interface, so what arrives came through a
//! tunnel, and its source address is one that WireGuard lets this peer use: that
//! is how a caller is known, and nothing else is. A caller may be hostile all the
//! same: each has few connections at once, and none can keep the operator's
//! requests or the main loop busy (`events`).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Router, body::Bytes};
use privnet_model::enrol::{MOST_REQUEST_BYTES, Me, NextKey, Proof};
use serde::de::DeserializeOwned;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::debug;

use crate::admin::{body_of, failure, json};
use crate::http::{self, Listener};

/// Connections of one caller at once: one that is open, and one that is not yet
/// known to be closed.
const CONNECTIONS_EACH: usize = 2;
/// Connections that wait to be accepted, of all callers together: after a hub's
/// restart all of them call within seconds.
const BACKLOG: i32 = 1024;
/// How long an answer may take, which a proof's does: STS is asked meanwhile.
const PATIENCE: Duration = Duration::from_secs(20);

/// Something that a spoke asks, and where the answer goes.
#[derive(Debug)]
pub struct Call {
    /// Who asks, as WireGuard knows it.
    pub source: IpAddr,
    /// What.
    pub question: Question,
    /// The answer.
    pub answer: oneshot::Sender<Result<Me, Refusal>>,
}

/// What a spoke asks.
#[derive(Debug)]
pub enum Question {
    /// What the hub knows of it.
    Me,
    /// That the hub takes this as a proof of who it is.
    Proof(Proof),
    /// That the hub expects this key from it.
    NextKey(NextKey),
}

/// Why a call is not answered with what was asked for: one sentence for the
/// operator of the spoke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Who calls is no spoke of this hub.
    Unknown(String),
    /// Not this, and not later either.
    Never(String),
    /// Not now.
    Later(String),
}

/// What takes the calls.
pub trait CallHandler: Send + Sync + 'static {
    /// Takes one. `false` when there is nobody to answer it, or too many wait.
    fn take(&self, call: Call) -> bool;
}

/// Why the port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{address} inside the tunnels, on {interface}: cannot {operation}")]
pub struct TunnelPortError {
    /// The interface.
    pub interface: String,
    /// The address and port.
    pub address: SocketAddr,
    /// What was tried.
    pub operation: &'static str,
    /// Why it failed.
    pub source: io::Error,
}

/// The port, bound.
#[derive(Debug)]
pub struct TunnelPort {
    listener: TcpListener,
    callers: Arc<Callers>,
}

impl TunnelPort {
    /// Binds the address on the interface, which must exist; the address may
    /// come later. Within a Tokio runtime only.
    pub fn bind(interface: &str, address: SocketAddr) -> Result<Self, TunnelPortError> {
        let failed = |operation| {
            move |source| TunnelPortError {
                interface: interface.to_owned(),
                address,
                operation,
                source,
            }
        };
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )
        .map_err(failed("make a socket"))?;
        // First: not for a moment does it listen on another interface.
        let device = socket.bind_device(Some(interface.as_bytes()));
        device.map_err(failed("bind to the interface"))?;
        // The address is put on the interface by the first look at the host.
        let free = socket.set_freebind_v4(true);
        free.map_err(failed("bind before the address is there"))?;
        // A restart need not wait for the last connections to be forgotten.
        let reuse = socket.set_reuse_address(true);
        reuse.map_err(failed("share the address with what is over"))?;
        socket.bind(&address.into()).map_err(failed("bind it"))?;
        socket.listen(BACKLOG).map_err(failed("listen"))?;
        let listener = TcpListener::from_std(StdListener::from(socket));
        Ok(Self {
            listener: listener.map_err(failed("wait for callers"))?,
            callers: Arc::default(),
        })
    }

    /// Answers until `stop` is done, then gives answers under way two seconds
    /// to end.
    pub async fn serve<H: CallHandler>(self, handler: Arc<H>, stop: impl Future<Output = ()>) {
        let what_there_is = "GET /v1/me, POST /v1/proof and POST /v1/next-key are what there is";
        let router = Router::new()
            .route("/v1/me", get(me::<H>))
            .route("/v1/proof", post(proof::<H>))
            .route("/v1/next-key", post(next_key::<H>))
            .fallback(async || failure(StatusCode::NOT_FOUND, what_there_is.to_owned()))
            .method_not_allowed_fallback(async || {
                failure(StatusCode::METHOD_NOT_ALLOWED, what_there_is.to_owned())
            })
            .with_state(handler);
        http::serve(self, router, stop, || {}).await;
    }
}

impl Listener for TunnelPort {
    type Stream = TcpStream;
    type Client = Caller;
    const NAME: &'static str = "port inside the tunnels";
    const MAX_CLIENTS: usize = 256;

    /// Who has its connections already is hung up on.
    async fn accept(&self) -> io::Result<(TcpStream, Caller)> {
        loop {
            let (stream, source) = self.listener.accept().await?;
            match Caller::admit(&self.callers, source.ip()) {
                Some(caller) => return Ok((stream, caller)),
                None => debug!(%source, "more connections than a caller may have"),
            }
        }
    }
}

/// How many connections each caller has.
#[derive(Debug, Default)]
struct Callers(Mutex<BTreeMap<IpAddr, usize>>);

/// A caller, for as long as its connection lasts.
#[derive(Debug, Clone)]
pub(crate) struct Caller(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    source: IpAddr,
    callers: Arc<Callers>,
}

impl Caller {
    fn admit(callers: &Arc<Callers>, source: IpAddr) -> Option<Self> {
        let mut counts = callers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        if *count >= CONNECTIONS_EACH {
            return None;
        }
        *count += 1;
        Some(Self(Arc::new(Connection {
            source,
            callers: Arc::clone(callers),
        })))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let counts = self.callers.0.lock();
        let mut counts = counts.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

async fn me<H: CallHandler>(
    State(handler): State<Arc<H>>,
    Extension(caller): Extension<Caller>,
) -> Response {
    ask(&*handler, &caller, Question::Me).await
}

async fn proof<H: CallHandler>(
    State(handler): State<Arc<H>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    match read(request).await {
        Ok(proof) => ask(&*handler, &caller, Question::Proof(proof)).await,
        Err(failure) => failure,
    }
}

async fn next_key<H: CallHandler>(
    State(handler): State<Arc<H>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    match read(request).await {
        Ok(next) => ask(&*handler, &caller, Question::NextKey(next)).await,
        Err(failure) => failure,
    }
}

async fn read<T: DeserializeOwned>(request: Request) -> Result<T, Response> {
    let body: Bytes = body_of(request, MOST_REQUEST_BYTES).await?;
    serde_json::from_slice(&body).map_err(|error| {
        // Where, not what: it may be part of a session token.
        let (line, column) = (error.line(), error.column());
        let error = format!("the request is not understood, at line {line} column {column}");
        failure(StatusCode::BAD_REQUEST, error)
    })
}

async fn ask<H: CallHandler>(handler: &H, caller: &Caller, question: Question) -> Response {
    let (answer, answered) = oneshot::channel();
    let call = Call {
        source: caller.0.source,
        question,
        answer,
    };
    if !handler.take(call) {
        let error = "the hub is busy: ask again in a moment";
        return failure(StatusCode::SERVICE_UNAVAILABLE, error.to_owned());
    }
    match timeout(PATIENCE, answered).await {
        Ok(Ok(Ok(me))) => json(StatusCode::OK, &me),
        Ok(Ok(Err(refusal))) => match refusal {
            Refusal::Unknown(error) => failure(StatusCode::NOT_FOUND, error),
            Refusal::Never(error) => failure(StatusCode::FORBIDDEN, error),
            Refusal::Later(error) => failure(StatusCode::SERVICE_UNAVAILABLE, error),
        },
        Ok(Err(_)) | Err(_) => {
            let error = "the hub is starting or stopping: ask again in a moment";
            failure(StatusCode::SERVICE_UNAVAILABLE, error.to_owned())
        }
    }
}
