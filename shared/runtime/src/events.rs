//! What wakes a daemon's main loop, as one stream: signals, the operator's
//! requests, and the beats at which it looks at tunnels and host.
//!
//! One task owns the daemon's state and takes these one by one, so nothing of
//! it needs a lock. None of this is on the packet path.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use privnet_model::admin::{
    Event as Happening, RefreshReport, RefreshRequest, RotateAnswer, RotateRequest, WhyAnswer,
    WhyRequest,
};
use privnet_model::status::Status;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::admin::{AdminHandler, AdminServer};
use crate::metrics_port::MetricsPort;
use crate::service::{self, Heartbeat};
use crate::signals::{Signal, Signals};
use crate::tunnel_port::{Call, CallHandler, TunnelPort};

/// How often the tunnels are looked at: rates, changes of state, knocks.
const OBSERVE: Duration = Duration::from_secs(2);
/// How often the host is compared with what it should be.
const RECONCILE: Duration = Duration::from_secs(30);
/// Requests waiting for the loop; more have to wait to be sent.
const REQUESTS: usize = 32;
/// Calls of spokes waiting for the loop; more are told to come again.
const CALLS: usize = 256;

/// One reason to do something.
#[derive(Debug)]
pub enum Event {
    /// A signal.
    Signal(Signal),
    /// The operator wants to know how things are.
    Status(oneshot::Sender<Status>),
    /// The operator wants the daemon to look again.
    Refresh(RefreshRequest, Answer),
    /// The operator wants to know what happened lately, oldest first.
    Journal(Answer<Vec<Happening>>),
    /// The operator wants to know why something is or is not connected.
    Why(WhyRequest, Answer<WhyAnswer>),
    /// The operator wants another private key to be used.
    RotateKey(RotateRequest, Answer<RotateAnswer>),
    /// Time to look at the tunnels.
    Observe,
    /// Time to compare the host with what it should be.
    Reconcile,
    /// A spoke calls through its tunnel.
    Call(Call),
}

/// Where the answer to a request goes, that to a refresh unless told otherwise;
/// an error is one sentence for the operator.
pub type Answer<T = RefreshReport> = oneshot::Sender<Result<T, String>>;

/// The stream of events, and what answers the operator behind it.
#[derive(Debug)]
pub struct Events {
    signals: Signals,
    requests: mpsc::Receiver<Event>,
    calls: Option<mpsc::Receiver<Call>>,
    observe: Interval,
    reconcile: Interval,
    beat: Interval,
    heartbeat: Heartbeat,
    servers: JoinSet<()>,
    stop_servers: watch::Sender<()>,
}

impl Events {
    /// Takes over the signals and opens the admin socket, and the port for
    /// metrics if there is to be one. To be called before anything else is
    /// touched: a second daemon fails here and harms nothing.
    pub async fn open(
        socket: &Path,
        metrics: Option<SocketAddr>,
        program: &'static str,
    ) -> Result<Self> {
        let signals = Signals::listen().context("cannot take over the signals")?;
        let server = AdminServer::bind(socket, program).await?;
        let metrics = match metrics {
            Some(address) => Some(MetricsPort::bind(address).await?),
            None => None,
        };
        let (sender, requests) = mpsc::channel(REQUESTS);
        let handler = Arc::new(Requests(sender));
        let (stop_servers, stop) = watch::channel(());
        let mut servers = JoinSet::new();
        if let Some(metrics) = metrics {
            servers.spawn(metrics.serve(Arc::clone(&handler), closed(stop.clone())));
        }
        servers.spawn(server.serve(handler, closed(stop)));
        let heartbeat = service::watchdog();
        Ok(Self {
            signals,
            requests,
            calls: None,
            observe: every(OBSERVE),
            reconcile: every(RECONCILE),
            beat: every(heartbeat.period()),
            heartbeat,
            servers,
            stop_servers,
        })
    }

    /// Takes the calls of spokes as well, at this port.
    pub fn take_calls(&mut self, port: TunnelPort) {
        let (sender, calls) = mpsc::channel(CALLS);
        self.calls = Some(calls);
        let stop = closed(self.stop_servers.subscribe());
        self.servers
            .spawn(port.serve(Arc::new(Calls(sender)), stop));
    }

    /// The next event. Calls of spokes come last: however many call, beats and the
    /// operator go before. Cancel-safe.
    pub async fn next(&mut self) -> Event {
        loop {
            tokio::select! {
                biased;
                signal = self.signals.next() => return Event::Signal(signal),
                Some(request) = self.requests.recv() => return request,
                _ = self.beat.tick() => self.heartbeat.beat(),
                _ = self.observe.tick() => return Event::Observe,
                _ = self.reconcile.tick() => return Event::Reconcile,
                Some(call) = next_call(&mut self.calls) => return Event::Call(call),
            }
        }
    }

    /// Waits for a signal to stop. Whatever else is asked meanwhile, when there
    /// is nothing yet to answer it with, is told that the daemon is not ready.
    pub async fn stop(&mut self) {
        while !matches!(self.next().await, Event::Signal(Signal::Stop(_))) {}
    }

    /// Closes the admin socket and the port for metrics.
    pub async fn close(self) {
        let Self {
            requests,
            calls,
            stop_servers,
            mut servers,
            ..
        } = self;
        // Whoever still waits for an answer is told that there is none.
        drop(requests);
        drop(calls);
        drop(stop_servers);
        while servers.join_next().await.is_some() {}
    }
}

/// Done when the other end is dropped.
async fn closed(mut stop: watch::Receiver<()>) {
    while stop.changed().await.is_ok() {}
}

async fn next_call(calls: &mut Option<mpsc::Receiver<Call>>) -> Option<Call> {
    match calls {
        Some(calls) => calls.recv().await,
        None => std::future::pending().await,
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Hands the operator's requests over to the main loop, as events.
struct Requests(mpsc::Sender<Event>);

impl Requests {
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, String> {
        let (answer, answered) = oneshot::channel();
        let sent = self.0.send(request(answer)).await;
        sent.map_err(|_| NOT_READY.to_owned())?;
        answered.await.map_err(|_| NOT_READY.to_owned())
    }
}

impl AdminHandler for Requests {
    async fn status(&self) -> Result<Status, String> {
        self.ask(Event::Status).await
    }

    async fn refresh(&self, request: RefreshRequest) -> Result<RefreshReport, String> {
        self.ask(|answer| Event::Refresh(request, answer)).await?
    }

    async fn events(&self) -> Result<Vec<Happening>, String> {
        self.ask(Event::Journal).await?
    }

    async fn why(&self, request: WhyRequest) -> Result<WhyAnswer, String> {
        self.ask(|answer| Event::Why(request, answer)).await?
    }

    async fn rotate_key(&self, request: RotateRequest) -> Result<RotateAnswer, String> {
        self.ask(|answer| Event::RotateKey(request, answer)).await?
    }
}

struct Calls(mpsc::Sender<Call>);

impl CallHandler for Calls {
    fn take(&self, call: Call) -> bool {
        self.0.try_send(call).is_ok()
    }
}

const NOT_READY: &str = "the daemon is starting or stopping: ask again in a moment";
