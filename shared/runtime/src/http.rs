//! HTTP/1.1 with limits, for the daemons' own listeners: how many clients are
//! served, how long each may take, one request for each; and for those who ask
//! there: one request, and an answer of bounded length.
//!
//! A client that hangs costs nothing but its place. What is answered is the
//! router's; nothing here knows what is asked.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1 as client;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::server::conn::http1;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// How long a client may take to send its request, and again to read the answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a stop waits for answers under way.
const GRACE: Duration = Duration::from_secs(2);

/// Where clients come from.
pub(crate) trait Listener: Send + Sync + 'static {
    /// A client's connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Who a client is; it goes with each request as an extension, and is held
    /// for as long as the connection lasts.
    type Client: Clone + Send + Sync + 'static;

    /// What it is, for the log.
    const NAME: &'static str;

    /// Clients served at once; the next wait in the listener's backlog.
    const MAX_CLIENTS: usize = 32;

    /// The next client.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Client)>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    type Client = ();
    const NAME: &'static str = "admin socket";

    async fn accept(&self) -> io::Result<(UnixStream, ())> {
        Self::accept(self).await.map(|(stream, _)| (stream, ()))
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    type Client = ();
    const NAME: &'static str = "metrics port";

    async fn accept(&self) -> io::Result<(TcpStream, ())> {
        Self::accept(self).await.map(|(stream, _)| (stream, ()))
    }
}

/// Answers until `stop` is done, closes the listener, has `closed` do what
/// follows from that, and then gives answers under way two seconds to end.
pub(crate) async fn serve<L: Listener>(
    listener: L,
    router: Router,
    stop: impl Future<Output = ()>,
    closed: impl FnOnce(),
) {
    let places = Arc::new(Semaphore::new(L::MAX_CLIENTS));
    let mut clients = JoinSet::new();
    let accept = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, client)) => {
                    let router = router.clone();
                    clients.spawn(async move {
                        serve_client(stream, client, router).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: not at full speed.
                    warn!(%error, "the {} cannot accept", L::NAME);
                    sleep(Duration::from_millis(200)).await;
                }
            }
            while clients.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = accept => {}
        () = stop => {}
    }
    drop(listener);
    closed();
    // What is not done then is cut off when the set is dropped.
    let _ = timeout(GRACE, async {
        while clients.join_next().await.is_some() {}
    })
    .await;
}

/// One request, one answer: a client that keeps its connection would keep its
/// place, and a local socket costs next to nothing to connect to again.
async fn serve_client<C: Clone + Send + Sync + 'static>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    client: C,
    router: Router,
) {
    let answered = Arc::new(Notify::new());
    let told = Arc::clone(&answered);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<_>| {
        request.extensions_mut().insert(client.clone());
        let answer = hyper::service::Service::call(
            &TowerToHyperService::new(router.clone()),
            request.map(Body::new::<hyper::body::Incoming>),
        );
        let told = Arc::clone(&told);
        async move {
            let answer = answer.await;
            told.notify_one();
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let unread = async {
        answered.notified().await;
        sleep(PATIENCE).await;
    };
    tokio::select! {
        result = connection => if let Err(error) = result {
            debug!(%error, "a client of the daemon went wrong");
        },
        () = unread => debug!("a client of the daemon did not read its answer"),
    }
}

/// Why there is no answer.
pub(crate) type ExchangeError = Box<dyn std::error::Error + Send + Sync>;

/// One request with a JSON body on a connection of its own, and the answer, of at
/// most so many bytes.
pub(crate) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: Method,
    path: &str,
    body: Vec<u8>,
    most: usize,
) -> Result<(StatusCode, Bytes), ExchangeError> {
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "privnet")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), most).collect().await?;
        Ok((status, body.to_bytes()))
    };
    drive(connection, answer).await
}

/// Runs the connection beside the exchange, in this same task, so that nothing
/// of a request outlives its caller.
async fn drive<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        // Closed: whatever is left of the answer is in the buffers by now.
        _ = &mut connection => exchange.await,
    }
}
