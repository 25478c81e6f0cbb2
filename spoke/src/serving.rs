//! The VPC routes that lead to this spoke, and the Elastic IP that it has: it tests
//! itself, asks its siblings how they are, looks at the route tables and has routes
//! changed, as `privnet_reconcile::takeover` decides, and the address moved after them,
//! as `privnet_reconcile::address` does. A task of its own, because seconds count here
//! and the main loop may have to wait for the kernel; what the task must know of the
//! rest comes in by [`Serving::tell`]. If that stops coming, the spoke is not well.

mod address;
mod asked;
mod connections;
mod keeper;
mod refused;
mod remedy;
mod report;
mod routes;
mod server;
mod start;

use std::collections::BTreeSet;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use privnet_ec2::{DepartureWatch, Imds};
use privnet_model::config::spoke::SpokeConfig;
use privnet_model::inventory::{Identity, Transport};
use privnet_model::secret::FleetSecret;
use privnet_model::status::RoutesStatus;
use privnet_runtime::connections::remove_guard;
use privnet_runtime::self_test::SelfTester;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tracing::warn;

pub(crate) use start::memory_path;
use start::{Keeps, Start, journal_file, memory_file};

/// How long handing over may take when the spoke stops.
const FAREWELL: Duration = Duration::from_secs(6);

/// Connections of a sibling's that are kept in mind unless nat.connections says otherwise:
/// as many as a machine of 1 GiB remembers of its own, some 10 MB.
const MOST_CONNECTIONS: usize = 262_144;

/// What the main loop knows.
#[derive(Debug, Clone)]
pub(crate) struct Local {
    /// What keeps packets from being forwarded, if anything.
    pub(crate) problem: Option<String>,
    /// When something last came out of the tunnel to the hub, if it is up.
    pub(crate) tunnel: Option<Instant>,
    /// The fleet's secret.
    pub(crate) secret: Option<FleetSecret>,
}

/// The task; it ends when this is dropped.
pub(crate) struct Serving {
    local: watch::Sender<(Local, Instant)>,
    view: watch::Receiver<View>,
    mend: Arc<Notify>,
    leave: Arc<Notify>,
    roamed: Arc<Notify>,
    task: JoinSet<()>,
    handle: AbortHandle,
}

/// What is shown of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct View {
    status: RoutesStatus,
    problems: Vec<String>,
}

impl Serving {
    /// Begins, if the config names routes. The interface of the self-test is there then.
    pub(crate) fn start(config: &SpokeConfig, identity: &Identity, imds: &Imds) -> Option<Self> {
        if !config.keeps_connections {
            tokio::spawn(remove_guard());
        }
        let routes = config.routes.clone()?;
        let targets: Vec<SocketAddrV4> = config
            .self_test
            .targets
            .iter()
            .filter_map(|target| match target {
                SocketAddr::V4(target) => Some(*target),
                SocketAddr::V6(_) => None,
            })
            .collect();
        let interval = config.self_test.interval;
        let tester = (!targets.is_empty()).then(|| SelfTester::start(targets, interval));
        let starting = Local {
            problem: Some("the spoke is starting".to_owned()),
            tunnel: None,
            secret: None,
        };
        let (local, told) = watch::channel((starting, Instant::now()));
        let (show, view) = watch::channel(View::default());
        let mend = Arc::new(Notify::new());
        let leave = Arc::new(Notify::new());
        let roamed = Arc::new(Notify::new());
        let start = Start {
            state: memory_file(&config.private_key),
            journal: journal_file(&config.private_key),
            destinations: routes.destinations(&config.privnet),
            tunnelled: match config.transport {
                Transport::None => BTreeSet::new(),
                Transport::Wireguard | Transport::Ipsec => routes.tunnelled(&config.privnet),
            },
            test_interval: interval,
            config: routes,
            address: config.address.clone(),
            keeps: config.keeps_connections.then(|| Keeps {
                idle_timeout: config.nat.idle_timeout,
                most: config
                    .nat
                    .connections
                    .map_or(MOST_CONNECTIONS, |most| most as usize),
            }),
            identity: identity.clone(),
            departure: DepartureWatch::start(imds.clone()),
            tester,
            told,
            show,
            mend: Arc::clone(&mend),
            leave: Arc::clone(&leave),
            roamed: Arc::clone(&roamed),
        };
        let mut task = JoinSet::new();
        let handle = task.spawn(start.run());
        Some(Self {
            local,
            view,
            mend,
            leave,
            roamed,
            task,
            handle,
        })
    }

    /// Tells what the main loop knows; to be said again every few seconds.
    pub(crate) fn tell(&self, local: Local) {
        self.local.send_replace((local, Instant::now()));
    }

    /// Waits until a self-test fails: somebody may have changed what can be put right.
    pub(crate) async fn needs_mending(&self) {
        self.mend.notified().await;
    }

    /// Waits until this spoke has another public address: who knows the old one is to
    /// hear from the new one.
    pub(crate) async fn has_roamed(&self) {
        self.roamed.notified().await;
    }

    /// Hands all routes, and the address if it is theirs as well, over to siblings that
    /// are well. There may be none.
    pub(crate) async fn leave(mut self) {
        self.leave.notify_one();
        if timeout(FAREWELL, self.task.join_next()).await.is_err() {
            warn!("not everything could be handed over in time");
        }
    }

    pub(crate) fn status(&self) -> RoutesStatus {
        self.view.borrow().status.clone()
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        let ended = self.handle.is_finished();
        let ended = ended.then(|| "serving VPC routes broke off: restart the daemon".to_owned());
        let problems = self.view.borrow().problems.clone();
        ended.into_iter().chain(problems).collect()
    }
}
