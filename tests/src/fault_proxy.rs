//! A proxy in front of the EC2 API that breaks it on demand: for one region or
//! all, for one action or all, for every page or only for the ones after the
//! first, always or a number of times. Without rules it only passes on.
//!
//! [`Rules`] come by `PUT /_rules` as JSON and replace the ones before;
//! `GET /_calls` tells what passed so far ([`Call`]s, with the fault met).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// What the proxy does beside passing on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The first that applies to a call breaks it.
    pub faults: Vec<Fault>,
    /// The largest page that a caller gets, whatever it asks for: so a few
    /// instances make many pages.
    pub page_size: Option<u32>,
}

/// A rule: which calls break, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Only calls to this region.
    pub region: Option<String>,
    /// Only calls of this action.
    pub action: Option<String>,
    /// Only calls that ask for a page after the first.
    #[serde(default)]
    pub later_pages_only: bool,
    /// How many calls break before the rule is used up; `None` is every call.
    pub times: Option<u32>,
    /// What happens to them.
    pub kind: FaultKind,
}

impl Fault {
    /// Breaks every call of every region.
    pub const fn everywhere(kind: FaultKind) -> Self {
        Self {
            region: None,
            action: None,
            later_pages_only: false,
            times: None,
            kind,
        }
    }
}

/// How a call breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Answered 503, as an overloaded API does.
    Unavailable,
    /// Refused as EC2 refuses a caller without the permission.
    Denied,
    /// Never answered.
    Hang,
    /// Answered with the first half of the body as if that were all. The AWS SDK
    /// alone takes this for a complete answer.
    Cut,
    /// The connection breaks in the middle of the body.
    Abort,
    /// Answered with success and nothing in it.
    Empty,
}

/// A call that came by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The region in its signature.
    pub region: String,
    /// Its action.
    pub action: String,
    /// Whether it asked for a page after the first.
    pub later_page: bool,
    /// The fault it met.
    pub fault: Option<FaultKind>,
    /// When it came, in milliseconds since the proxy started.
    pub from_millis: u64,
    /// When its answer was there; `None` while it is not.
    pub to_millis: Option<u64>,
}

/// How many milliseconds there was at least one call for the API to work on:
/// what the API itself took, however much was asked at once.
pub fn busy_millis(calls: &[Call]) -> u64 {
    let mut spans: Vec<(u64, u64)> = calls
        .iter()
        .filter_map(|call| Some((call.from_millis, call.to_millis?)))
        .collect();
    spans.sort_unstable();
    let (mut busy, mut end) = (0, 0);
    for (from, to) in spans {
        busy += to.saturating_sub(from.max(end));
        end = end.max(to);
    }
    busy
}

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
        .fallback(pass)
        .with_state(proxy);
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen at {listen}"))?;
    axum::serve(listener, app).await?;
    Ok(())
}

/// How a test speaks to the proxy.
#[derive(Debug, Clone)]
pub struct Control {
    url: String,
}

impl Control {
    /// Of the proxy at this address.
    pub fn new(proxy: SocketAddr) -> Self {
        Self {
            url: format!("http://{proxy}"),
        }
    }

    /// Breaks these calls, and no others.
    pub fn set(&self, faults: &[Fault]) -> Result<()> {
        self.set_rules(&Rules {
            faults: faults.to_vec(),
            page_size: None,
        })
    }

    /// Replaces the rules.
    pub fn set_rules(&self, rules: &Rules) -> Result<()> {
        ureq::put(format!("{}/_rules", self.url))
            .send(serde_json::to_vec(rules)?)
            .context("the fault proxy does not take rules")?;
        Ok(())
    }

    /// Removes all rules.
    pub fn clear(&self) -> Result<()> {
        self.set(&[])
    }

    /// Every call since the proxy started.
    pub fn calls(&self) -> Result<Vec<Call>> {
        let text = ureq::get(format!("{}/_calls", self.url))
            .call()?
            .body_mut()
            .read_to_vec()?;
        Ok(serde_json::from_slice(&text)?)
    }
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

async fn pass(State(proxy): State<Arc<Proxy>>, headers: HeaderMap, body: Bytes) -> Response {
    let (number, fault, page_size) = proxy.judge(&headers, &body);
    match fault {
        Some(FaultKind::Unavailable) => {
            return ec2_error(StatusCode::SERVICE_UNAVAILABLE, "Unavailable");
        }
        Some(FaultKind::Denied) => {
            return ec2_error(StatusCode::FORBIDDEN, "UnauthorizedOperation");
        }
        Some(FaultKind::Hang) => std::future::pending::<()>().await,
        Some(FaultKind::Empty) => return StatusCode::OK.into_response(),
        Some(FaultKind::Cut | FaultKind::Abort) | None => {}
    }
    let upstream = Arc::clone(&proxy);
    let forwarded = tokio::task::spawn_blocking(move || {
        let body = limit_pages(&body, page_size);
        upstream.forward(&headers, &body)
    })
    .await;
    proxy.note_end(number);
    let (status, content_type, answer) = match forwarded {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    let half = answer.len() / 2;
    let body = match fault {
        Some(FaultKind::Cut) => Body::from(answer[..half].to_vec()),
        Some(FaultKind::Abort) => Body::from_stream(futures_util::stream::iter([
            Ok(answer[..half].to_vec()),
            Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted)),
        ])),
        _ => Body::from(answer),
    };
    (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
}

impl Proxy {
    fn state(&self) -> MutexGuard<'_, ProxyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes the call; tells its number, the fault it meets and the page size.
    fn judge(&self, headers: &HeaderMap, body: &[u8]) -> (usize, Option<FaultKind>, Option<u32>) {
        let mut call = describe(headers, body);
        call.from_millis = self.millis();
        let mut state = self.state();
        let mut faults = state.rules.faults.iter_mut();
        call.fault = faults.find(|rule| applies(rule, &call)).map(|rule| {
            if let Some(times) = &mut rule.times {
                *times -= 1;
            }
            rule.kind
        });
        let fault = call.fault;
        state.calls.push(call);
        (state.calls.len() - 1, fault, state.rules.page_size)
    }

    fn note_end(&self, number: usize) {
        let now = self.millis();
        if let Some(call) = self.state().calls.get_mut(number) {
            call.to_millis = Some(now);
        }
    }

    fn forward(&self, headers: &HeaderMap, body: &[u8]) -> Result<(StatusCode, String, Vec<u8>)> {
        let mut request = self.agent.post(&self.upstream);
        for name in [header::AUTHORIZATION, header::CONTENT_TYPE] {
            if let Some(value) = headers.get(&name) {
                request = request.header(name.as_str(), value.as_bytes());
            }
        }
        let mut answer = request.send(body).context("the API behind the proxy")?;
        let content_type = answer
            .headers()
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .unwrap_or("text/xml")
            .to_owned();
        let status = StatusCode::from_u16(answer.status().as_u16())?;
        let body = answer
            .body_mut()
            .with_config()
            .limit(1 << 30)
            .read_to_vec()?;
        Ok((status, content_type, body))
    }
}

/// The region is in the signature's scope (`KEY/DATE/REGION/ec2/aws4_request`),
/// the rest in the form.
fn describe(headers: &HeaderMap, body: &[u8]) -> Call {
    let region = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.split("Credential=").nth(1))
        .and_then(|scope| scope.split('/').nth(2))
        .unwrap_or_default();
    let form = String::from_utf8_lossy(body);
    let action = form
        .split('&')
        .find_map(|field| field.strip_prefix("Action="))
        .unwrap_or_default();
    Call {
        region: region.to_owned(),
        action: action.to_owned(),
        later_page: form.split('&').any(|field| field.starts_with("NextToken=")),
        fault: None,
        from_millis: 0,
        to_millis: None,
    }
}

/// The form with a smaller `MaxResults`, where it has one.
fn limit_pages(body: &[u8], page_size: Option<u32>) -> Vec<u8> {
    let (Some(size), Ok(form)) = (page_size, std::str::from_utf8(body)) else {
        return body.to_vec();
    };
    let fields: Vec<String> = form
        .split('&')
        .map(|field| match field.strip_prefix("MaxResults=") {
            Some(_) => format!("MaxResults={size}"),
            None => field.to_owned(),
        })
        .collect();
    fields.join("&").into_bytes()
}

fn applies(rule: &Fault, call: &Call) -> bool {
    rule.times != Some(0)
        && (call.later_page || !rule.later_pages_only)
        && rule
            .region
            .as_ref()
            .is_none_or(|region| *region == call.region)
        && rule
            .action
            .as_ref()
            .is_none_or(|action| *action == call.action)
}

fn ec2_error(status: StatusCode, code: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code>\
         <Message>simulated</Message></Error></Errors><RequestID>simulated</RequestID></Response>"
    );
    (status, [(header::CONTENT_TYPE, "text/xml")], body).into_response()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    fn call(region: &str, body: &str) -> Call {
        let mut headers = HeaderMap::new();
        let value =
            format!("AWS4-HMAC-SHA256 Credential=KEY/20260101/{region}/ec2/aws4_request, x");
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        describe(&headers, body.as_bytes())
    }

    #[test]
    fn a_call_is_known_by_region_action_and_page() {
        let call = call("eu-west-1", "Action=DescribeInstances&NextToken=abc");
        assert_eq!(call.region, "eu-west-1");
        assert_eq!(call.action, "DescribeInstances");
        assert!(call.later_page);
    }

    #[test]
    fn a_rule_for_one_region_leaves_the_others_alone() {
        let rule = Fault {
            region: Some("eu-west-1".to_owned()),
            ..Fault::everywhere(FaultKind::Hang)
        };
        assert!(applies(&rule, &call("eu-west-1", "Action=X")));
        assert!(!applies(&rule, &call("us-west-2", "Action=X")));
    }

    #[test]
    fn a_rule_for_later_pages_lets_the_first_pass() {
        let rule = Fault {
            later_pages_only: true,
            ..Fault::everywhere(FaultKind::Unavailable)
        };
        assert!(!applies(&rule, &call("eu-west-1", "Action=X")));
        assert!(applies(&rule, &call("eu-west-1", "Action=X&NextToken=1")));
    }

    #[test]
    fn a_rule_that_is_used_up_breaks_nothing() {
        let rule = Fault {
            times: Some(0),
            ..Fault::everywhere(FaultKind::Cut)
        };
        assert!(!applies(&rule, &call("eu-west-1", "Action=X")));
    }

    #[test]
    fn pages_shrink_only_where_the_caller_asks_for_pages() {
        let limited = limit_pages(b"Action=X&MaxResults=1000&Version=1", Some(2));
        assert_eq!(limited, b"Action=X&MaxResults=2&Version=1");
        assert_eq!(limit_pages(b"Action=X", Some(2)), b"Action=X");
    }

    #[test]
    fn time_in_which_calls_overlap_counts_once() {
        let span = |from_millis, to_millis| Call {
            from_millis,
            to_millis,
            ..call("eu-west-1", "Action=X")
        };
        let calls = [
            span(10, Some(20)),
            span(0, Some(15)),
            span(30, Some(31)),
            span(40, None),
        ];
        assert_eq!(busy_millis(&calls), 21);
    }
}
