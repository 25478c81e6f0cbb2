//! AWS in memory: the requests of the SDK's client answered without a network,
//! so that they are seen with the URL that they would go to, and thousands of
//! answers can be tried in seconds.

use std::fmt;
use std::sync::{Arc, Mutex};

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use super::server::{Reply, Request};

/// Answers as a test says; clones are the same.
#[derive(Clone)]
pub(super) struct Memory {
    answer: Arc<dyn Fn(&Request) -> Reply + Send + Sync>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Memory {
    pub(super) fn new(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self {
            answer: Arc::new(answer),
            requests: Arc::default(),
        }
    }

    /// The requests so far; the path of each is its whole URL.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many requests asked for this action.
    pub(super) fn count(&self, action: &str) -> usize {
        let requests = self.requests();
        requests.iter().filter(|request| request.is(action)).count()
    }
}

impl HttpConnector for Memory {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let body = request.body().bytes().unwrap_or_default().to_vec();
        let headers = request.headers().iter();
        let request = Request {
            method: request.method().to_owned(),
            path: request.uri().to_owned(),
            headers: headers
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            body: String::from_utf8(body).unwrap(),
        };
        self.requests.lock().unwrap().push(request.clone());
        match (self.answer)(&request) {
            Reply::Answer { status, body, .. } => {
                let status = status.try_into().unwrap();
                HttpConnectorFuture::ready(Ok(HttpResponse::new(status, body.into())))
            }
            Reply::Silence => HttpConnectorFuture::new(std::future::pending()),
            other => panic!("only a connection can do this: {other:?}"),
        }
    }
}

impl HttpClient for Memory {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}
