//! An HTTP server whose answers a test writes itself, well-formed or not, one
//! per connection.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What was asked.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    /// By name in lower case.
    pub(super) headers: HashMap<String, String>,
    pub(super) body: String,
}

impl Request {
    /// The EC2 action of the request.
    pub(super) fn is(&self, action: &str) -> bool {
        self.body.contains(&format!("Action={action}&"))
    }

    /// The region that the request is signed for.
    pub(super) fn region(&self) -> &str {
        self.headers["authorization"].split('/').nth(2).unwrap()
    }

    /// Whether it asks for the page behind this token.
    pub(super) fn page(&self) -> Option<&str> {
        let (_, rest) = self.body.split_once("NextToken=")?;
        rest.split('&').next()
    }
}

/// How to answer.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// As one should.
    Answer {
        status: u16,
        header: &'static str,
        body: String,
    },
    /// Without a length: the body ends where the connection does.
    UntilClose(String),
    /// With a length that the body does not have.
    Shorter { promised: usize, body: String },
    /// Never.
    Silence,
}

impl Reply {
    pub(super) fn ok(body: impl Into<String>) -> Self {
        Self::status(200, body)
    }

    pub(super) fn status(status: u16, body: impl Into<String>) -> Self {
        Self::Answer {
            status,
            header: "",
            body: body.into(),
        }
    }
}

/// The server; it ends when it is dropped.
pub(super) struct Server {
    pub(super) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), requests.clone());
        let task = tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                let (answer, log) = (answer.clone(), log.clone());
                tokio::spawn(async move {
                    let mut connection = BufReader::new(connection);
                    let Some(request) = read(&mut connection).await else {
                        return;
                    };
                    log.lock().unwrap().push(request.clone());
                    write(connection.into_inner(), answer(&request)).await;
                });
            }
        });
        Self {
            url,
            requests,
            task,
        }
    }

    /// The requests so far.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(connection: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    connection.read_line(&mut line).await.ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await.ok()?;
    Some(Request {
        method,
        path,
        headers,
        body: String::from_utf8(body).unwrap(),
    })
}

/// Whether the client still listens is its own affair.
async fn write(mut connection: TcpStream, reply: Reply) {
    let (head, body) = match reply {
        Reply::Answer {
            status,
            header,
            body,
        } => (
            format!(
                "{status} Status\r\nContent-Length: {}\r\n{header}",
                body.len()
            ),
            body,
        ),
        Reply::UntilClose(body) => ("200 OK\r\n".to_owned(), body),
        Reply::Shorter { promised, body } => {
            (format!("200 OK\r\nContent-Length: {promised}\r\n"), body)
        }
        Reply::Silence => return std::future::pending().await,
    };
    let text = format!("HTTP/1.1 {head}Connection: close\r\n\r\n{body}");
    let _ = connection.write_all(text.as_bytes()).await;
    let _ = connection.shutdown().await;
}
