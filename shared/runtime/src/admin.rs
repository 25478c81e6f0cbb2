//! The admin socket: the daemon's HTTP/JSON API (`privnet_model::admin`) on a
//! Unix socket.
//!
//! Who may use it is a matter of the socket's owner, group and mode (0660);
//! nothing else is asked. Clients are bounded in number and in how long they
//! take (`http`), and in what they send.
//! The server knows nothing of the daemon beyond [`AdminHandler`], and is
//! never on the path of a packet.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::{BodyExt, Limited};
use privnet_model::admin::{
    ApiError, Event, RefreshReport, RefreshRequest, RotateAnswer, RotateRequest, WhyAnswer,
    WhyRequest,
};
use privnet_model::status::Status;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::atomic_file::directory_of;
use crate::http::{self, PATIENCE};

/// The largest request body.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// What the daemon answers.
///
/// Each call runs as a task of its own: a client that goes away does not cut
/// it short. An error is one sentence for the operator.
pub trait AdminHandler: Send + Sync + 'static {
    /// Everything about the daemon, now.
    fn status(&self) -> impl Future<Output = Result<Status, String>> + Send;

    /// Looks again and applies what changed.
    fn refresh(
        &self,
        request: RefreshRequest,
    ) -> impl Future<Output = Result<RefreshReport, String>> + Send;

    /// What happened lately, oldest first.
    fn events(&self) -> impl Future<Output = Result<Vec<Event>, String>> + Send;

    /// Why something is or is not connected.
    fn why(&self, request: WhyRequest) -> impl Future<Output = Result<WhyAnswer, String>> + Send;

    /// Begins to use another private key, or goes on with that.
    fn rotate_key(
        &self,
        request: RotateRequest,
    ) -> impl Future<Output = Result<RotateAnswer, String>> + Send;
}

/// Why the admin socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon has it.
    #[error(
        "another {program} answers on {}; stop it, or set admin_socket to another path",
        path.display()
    )]
    InUse {
        /// This program's name.
        program: &'static str,
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket is there; it was not touched.
    #[error(
        "admin socket {}: there is something that is no socket; remove it, or set admin_socket \
         to another path", path.display()
    )]
    NotASocket {
        /// What is there.
        path: PathBuf,
    },
    /// The host refused.
    #[error("admin socket {}: cannot {operation}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// The admin socket, bound; the file goes when this is dropped.
#[derive(Debug)]
pub struct AdminServer {
    listener: UnixListener,
    file: SocketFile,
}

impl AdminServer {
    /// Binds the socket. Its directory is made if missing; a socket that a
    /// dead daemon left is replaced. Within a Tokio runtime only.
    ///
    /// `program` is for the error message.
    pub async fn bind(path: &Path, program: &'static str) -> Result<Self, BindError> {
        let failed = |operation| {
            move |source| BindError::Io {
                operation,
                path: path.to_owned(),
                source,
            }
        };
        let in_use = || BindError::InUse {
            program,
            path: path.to_owned(),
        };
        let directory = directory_of(path);
        // 0755: hub and spoke may share it, and members of the socket's group
        // must get through. The socket's own mode is what keeps others out.
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&directory)
            .map_err(failed("make its directory"))?;

        // Held for life: of two daemons that find the same stale socket, one
        // gets to replace it.
        // For the owner alone: whoever can open it can hold it.
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(beside(path, ".lock"))
            .map_err(failed("make its lock file"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(in_use()),
            Err(fs::TryLockError::Error(error)) => return Err(failed("lock its lock file")(error)),
        }
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look at it")(error)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(BindError::NotASocket {
                    path: path.to_owned(),
                });
            }
            // No answer at all is the sign of a dead socket; a full backlog
            // (EAGAIN) or a lack of rights is an answer.
            Ok(_) => match UnixStream::connect(path).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    debug!(path = %path.display(), "replacing the socket of a dead daemon");
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => return Err(in_use()),
            },
        }
        // Bound under another name first, so that it has its mode before
        // anybody can find it.
        let new = beside(path, ".new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("clear away an unfinished one")(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&new).map_err(failed("bind it"))?;
        fs::set_permissions(&new, Permissions::from_mode(0o660)).map_err(failed("set its mode"))?;
        fs::rename(&new, path).map_err(failed("put it in its place"))?;
        let inode = fs::symlink_metadata(path)
            .map_err(failed("look at it"))?
            .ino();
        Ok(Self {
            listener,
            file: SocketFile {
                path: path.to_owned(),
                inode,
                _lock: lock,
            },
        })
    }

    /// Answers until `stop` is done, then removes the socket and gives answers
    /// under way two seconds to end.
    pub async fn serve<H: AdminHandler>(self, handler: Arc<H>, stop: impl Future<Output = ()>) {
        let Self { listener, file } = self;
        http::serve(listener, router(handler), stop, || drop(file)).await;
    }
}

/// The socket's file, which goes with its daemon, unless it is another's by now.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
    _lock: File,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let own = fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode);
        if own && let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "the admin socket cannot be removed");
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn router<H: AdminHandler>(handler: Arc<H>) -> Router {
    Router::new()
        .route("/v1/status", get(status::<H>))
        .route("/v1/refresh", post(refresh::<H>))
        .route("/v1/events", get(events::<H>))
        .route("/v1/why", post(why::<H>))
        .route("/v1/rotate-key", post(rotate_key::<H>))
        .route("/metrics", get(metrics::<H>))
        .fallback(async || failure(StatusCode::NOT_FOUND, "no such path".to_owned()))
        .method_not_allowed_fallback(async || {
            let error = "GET /v1/status, POST /v1/refresh, GET /v1/events, POST /v1/why, \
                         POST /v1/rotate-key and GET /metrics are what there is";
            failure(StatusCode::METHOD_NOT_ALLOWED, error.to_owned())
        })
        .with_state(handler)
}

async fn status<H: AdminHandler>(State(handler): State<Arc<H>>) -> Response {
    answer(async move { handler.status().await }).await
}

async fn events<H: AdminHandler>(State(handler): State<Arc<H>>) -> Response {
    answer(async move { handler.events().await }).await
}

async fn why<H: AdminHandler>(State(handler): State<Arc<H>>, request: Request) -> Response {
    match message(request, None).await {
        Ok(wanted) => answer(async move { handler.why(wanted).await }).await,
        Err(failure) => failure,
    }
}

async fn refresh<H: AdminHandler>(State(handler): State<Arc<H>>, request: Request) -> Response {
    match message(request, Some(RefreshRequest::default())).await {
        Ok(wanted) => answer(async move { handler.refresh(wanted).await }).await,
        Err(failure) => failure,
    }
}

async fn rotate_key<H: AdminHandler>(State(handler): State<Arc<H>>, request: Request) -> Response {
    match message(request, Some(RotateRequest::default())).await {
        Ok(wanted) => answer(async move { handler.rotate_key(wanted).await }).await,
        Err(failure) => failure,
    }
}

/// What the daemon answers, asked in a task of its own.
async fn answer<T: Serialize + Send + 'static>(
    asked: impl Future<Output = Result<T, String>> + Send + 'static,
) -> Response {
    match tokio::spawn(asked).await {
        Ok(Ok(answer)) => json(StatusCode::OK, &answer),
        Ok(Err(error)) => failure(StatusCode::INTERNAL_SERVER_ERROR, error),
        Err(error) => internal(&error),
    }
}

/// The answer to `GET /metrics`.
pub(crate) async fn metrics<H: AdminHandler>(State(handler): State<Arc<H>>) -> Response {
    let status = match tokio::spawn(async move { handler.status().await }).await {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return failure(StatusCode::SERVICE_UNAVAILABLE, error),
        Err(error) => return internal(&error),
    };
    match crate::metrics::render(&status) {
        Ok(page) => ([(header::CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], page).into_response(),
        Err(error) => {
            warn!(%error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The message in a request's body; `empty` is what a request without one means.
async fn message<T: DeserializeOwned>(request: Request, empty: Option<T>) -> Result<T, Response> {
    let body = body_of(request, MAX_BODY_BYTES).await?;
    match empty {
        Some(empty) if body.is_empty() => Ok(empty),
        _ => serde_json::from_slice(&body).map_err(|error| {
            let error = format!("the request is not understood: {error}");
            failure(StatusCode::BAD_REQUEST, error)
        }),
    }
}

/// The body of a request, of at most so many bytes; else the answer that says why.
pub(crate) async fn body_of(request: Request, most: usize) -> Result<Bytes, Response> {
    let body = Limited::new(request.into_body(), most);
    match timeout(PATIENCE, body.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(failure(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a request has at most {most} bytes"),
        )),
        Ok(Err(error)) => Err(failure(
            StatusCode::BAD_REQUEST,
            format!("the request's body broke off: {error}"),
        )),
        Err(_) => Err(failure(
            StatusCode::REQUEST_TIMEOUT,
            "the request's body did not come in time".to_owned(),
        )),
    }
}

fn internal(error: &tokio::task::JoinError) -> Response {
    warn!(%error, "an admin request failed within the daemon");
    let error = "a fault within the daemon; its log says more";
    failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_owned())
}

pub(crate) fn failure(status: StatusCode, error: String) -> Response {
    json(status, &ApiError { error })
}

pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            // For those who read it with curl.
            body.push(b'\n');
            (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        Err(error) => {
            warn!(%error, "an admin answer cannot be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
