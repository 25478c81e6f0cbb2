//! The proxy itself.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use tokio::net::TcpListener;

use super::answer::{aged, dry_run, refusal, spoil};
use super::request::{describe, limit_pages};
use super::{Call, FaultKind, Rules};

/// Headers that are about the connection, not about the request.
const OF_THE_CONNECTION: [header::HeaderName; 3] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
];

/// Serves until the process ends, in front of the API at `upstream`.
pub async fn serve(listen: SocketAddr, upstream: String) -> Result<()> {
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(120)))
        .http_status_as_error(false)
        .build()
        .new_agent();
    let proxy = Arc::new(Proxy {
        upstream,
        agent,
        start: Instant::now(),
        state: Mutex::default(),
    });
    let app = Router::new()
        .route("/_rules", put(set_rules))
        .route("/_calls", get(calls))
        .route("/_now", get(now))
        .fallback(pass)
        .with_state(proxy);
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen at {listen}"))?;
    axum::serve(listener, app).await?;
    Ok(())
}

struct Proxy {
    upstream: String,
    agent: ureq::Agent,
    start: Instant,
    state: Mutex<ProxyState>,
}

#[derive(Default)]
struct ProxyState {
    rules: Rules,
    calls: Vec<Call>,
}

async fn set_rules(State(proxy): State<Arc<Proxy>>, body: Bytes) -> Response {
    match serde_json::from_slice(&body) {
        Ok(rules) => {
            proxy.state().rules = rules;
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

async fn calls(State(proxy): State<Arc<Proxy>>) -> Response {
    match serde_json::to_vec(&proxy.state().calls) {
        Ok(text) => text.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn now(State(proxy): State<Arc<Proxy>>) -> String {
    proxy.millis().to_string()
}

async fn pass(
    State(proxy): State<Arc<Proxy>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let judged = proxy.judge(
        describe(&uri, &headers, &body),
        &String::from_utf8_lossy(&body),
    );
    let fault = judged.call.fault;
    if let Some(refusal) = fault.and_then(|kind| refusal(kind, &judged.call)) {
        return refusal;
    }
    if fault.is_none()
        && let Some(answer) = dry_run(&judged.call, &String::from_utf8_lossy(&body))
    {
        return answer;
    }
    match fault {
        Some(FaultKind::Hang) => std::future::pending().await,
        Some(FaultKind::Empty) => return StatusCode::OK.into_response(),
        Some(FaultKind::Slow(millis)) => tokio::time::sleep(Duration::from_millis(millis)).await,
        _ => {}
    }
    let upstream = Arc::clone(&proxy);
    let forwarded = tokio::task::spawn_blocking(move || {
        let body = limit_pages(&body, judged.page_size);
        upstream.forward(&method, &uri, &headers, &body)
    })
    .await;
    proxy.note_end(judged.number);
    let (status, content_type, answer) = match forwarded {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    let answer = match judged.call.action == "DescribeInstances" {
        true => aged(answer),
        false => answer,
    };
    let half = answer.len() / 2;
    let body = match fault {
        Some(FaultKind::Cut) => Body::from(answer[..half].to_vec()),
        Some(FaultKind::Abort) => Body::from_stream(futures_util::stream::iter([
            Ok(answer[..half].to_vec()),
            Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted)),
        ])),
        Some(kind) => Body::from(spoil(kind, answer)),
        None => Body::from(answer),
    };
    (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
}

/// A call with what the rules say of it.
struct Judged {
    number: usize,
    call: Call,
    page_size: Option<u32>,
}

impl Proxy {
    fn state(&self) -> MutexGuard<'_, ProxyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes the call, and which fault it meets.
    fn judge(&self, mut call: Call, form: &str) -> Judged {
        call.from_millis = self.millis();
        let mut state = self.state();
        let mut faults = state.rules.faults.iter_mut();
        call.fault = faults
            .find(|rule| rule.applies_to(&call, form))
            .map(|rule| {
                if let Some(times) = &mut rule.times {
                    *times -= 1;
                }
                rule.kind
            });
        state.calls.push(call.clone());
        Judged {
            number: state.calls.len() - 1,
            call,
            page_size: state.rules.page_size,
        }
    }

    fn note_end(&self, number: usize) {
        let now = self.millis();
        if let Some(call) = self.state().calls.get_mut(number) {
            call.to_millis = Some(now);
        }
    }

    /// The request as it came, `Host` included, since the signature covers it.
    fn forward(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<(StatusCode, String, Vec<u8>)> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.upstream));
        for (name, value) in headers {
            if !OF_THE_CONNECTION.contains(name) {
                request = request.header(name, value);
            }
        }
        let answer = if *method == Method::GET {
            self.agent.run(request.body(())?)
        } else {
            self.agent.run(request.body(body)?)
        };
        let mut answer = answer.context("the API behind the proxy")?;
        let content_type = answer
            .headers()
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .unwrap_or("text/xml")
            .to_owned();
        let status = answer.status();
        let body = answer
            .body_mut()
            .with_config()
            .limit(1 << 30)
            .read_to_vec()?;
        Ok((status, content_type, body))
    }
}
