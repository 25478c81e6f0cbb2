//! Keeps the connections of a VPC's shared Elastic IP alive when it moves to another spoke.
//!
//! Each spoke listens on a TCP port for its siblings and follows each of them. The one that
//! has the address tells all others of its connections, a moment after the kernel told it
//! (`tell`), and they keep them in mind (`follow`). Before the address is moved its next
//! holder enters them into its kernel (`warden`): because it is about to take the address
//! from one that is lost, or because the holder, about to give it away, says so.
//!
//! What is right when is `privnet_reconcile::connections`' to say; the conversation is
//! sealed (`privnet_model::connection::channel`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use privnet_host::{Entered, Host, Timeouts};
use privnet_model::id::InstanceId;
use privnet_model::secret::FleetSecret;
use privnet_model::status::{ConnectionsStatus, KeptConnections};
use privnet_reconcile::connections::replica::Replica;
use privnet_reconcile::connections::{Place, Source};
use tokio::net::TcpSocket;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;

mod follow;
mod frames;
mod tell;
mod warden;

use tell::Telling;
use warden::Command;

/// How long entering connections may keep the address waiting: 200,000 take 1.3 s. What is
/// left is entered while it moves.
const ENTERING: Duration = Duration::from_secs(5);
/// How long a sibling is given to take over what it is offered.
const OFFER: Duration = Duration::from_secs(3);
/// Siblings that may be about to greet at once.
const BACKLOG: u32 = 64;

/// What the tasks have in common.
struct Shared {
    me: InstanceId,
    own: Ipv4Addr,
    host: Host,
    timeouts: Timeouts,
    most: usize,
    secret: watch::Sender<Option<Arc<FleetSecret>>>,
    siblings: watch::Sender<BTreeMap<InstanceId, IpAddr>>,
    replicas: Mutex<BTreeMap<InstanceId, Replica>>,
    telling: Telling,
    commands: mpsc::Sender<Command>,
    moved: Notify,
    came: Notify,
    /// How often routes came here.
    due: watch::Sender<u64>,
    entered: AtomicU64,
    refused: AtomicU64,
    /// What is wrong with listening to the kernel, and with the guard.
    problems: [Mutex<Option<String>>; 2],
}

/// Which of the problems.
#[derive(Clone, Copy)]
enum Part {
    Kernel,
    Guard,
}

/// The keeper of connections. All ends when it is dropped; the guard stays, as all rules do.
pub struct Connections {
    shared: Arc<Shared>,
    following: BTreeMap<InstanceId, (IpAddr, JoinSet<()>)>,
    _tasks: JoinSet<()>,
}

/// Has connections taken over; for whoever moves the address.
#[derive(Clone)]
pub struct Mover(Arc<Shared>);

/// What a sibling says of the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// It has given the address to this spoke.
    Given,
    /// It does not have it any more, or routes lead to it and it might have it.
    Moved,
}

/// The port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("TCP {address}, by which the VPC's spokes tell each other of connections: cannot listen")]
pub struct PortError {
    /// The address and port.
    pub address: SocketAddrV4,
    /// Why.
    pub source: std::io::Error,
}

impl Connections {
    /// Begins at this instance's own address. Of each sibling at most so many connections
    /// are kept in mind. Within a Tokio runtime only.
    ///
    /// # Errors
    /// The port is another program's, or the address not this host's.
    pub fn open(
        address: SocketAddrV4,
        me: InstanceId,
        idle_timeout: Duration,
        most: usize,
    ) -> Result<Self, PortError> {
        let listen = || {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(address.into())?;
            socket.listen(BACKLOG)
        };
        let listener = listen().map_err(|source| PortError { address, source })?;
        let (commands, orders) = mpsc::channel(64);
        let shared = Arc::new(Shared {
            me,
            own: *address.ip(),
            host: Host::new(),
            timeouts: Timeouts {
                tcp: idle_timeout,
                udp: idle_timeout,
            },
            most,
            secret: watch::Sender::new(None),
            siblings: watch::Sender::new(BTreeMap::new()),
            replicas: Mutex::default(),
            telling: Telling::new(),
            commands,
            moved: Notify::new(),
            came: Notify::new(),
            due: watch::Sender::new(0),
            entered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            problems: Default::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(warden::run(Arc::clone(&shared), orders));
        tasks.spawn(tell::hear_the_kernel(Arc::clone(&shared)));
        tasks.spawn(tell::serve(Arc::clone(&shared), listener));
        Ok(Self {
            shared,
            following: BTreeMap::new(),
            _tasks: tasks,
        })
    }

    /// The fleet's secret. Without one nobody is told anything, or heard.
    pub fn set_secret(&self, secret: Option<FleetSecret>) {
        self.shared.secret.send_if_modified(|known| {
            let new = known.as_deref() != secret.as_ref();
            if new {
                *known = secret.map(Arc::new);
            }
            new
        });
    }

    /// Follows these siblings from now on, at the same port, and tells nobody else.
    pub fn watch(&mut self, siblings: &BTreeMap<InstanceId, IpAddr>, port: u16) {
        let shared = &self.shared;
        shared.siblings.send_if_modified(|known| {
            let new = known != siblings;
            if new {
                known.clone_from(siblings);
            }
            new
        });
        self.following
            .retain(|instance, (address, _)| siblings.get(instance) == Some(address));
        lock(&shared.replicas).retain(|instance, _| siblings.contains_key(instance));
        for (instance, address) in siblings {
            if self.following.contains_key(instance) || *instance == shared.me {
                continue;
            }
            let at = SocketAddr::new(*address, port);
            let mut task = JoinSet::new();
            task.spawn(follow::run(Arc::clone(shared), instance.clone(), at));
            self.following.insert(instance.clone(), (*address, task));
        }
    }

    /// Where the address is now, and how that is known.
    pub fn seen(&self, place: Place, source: Source) {
        // The warden is behind only while the kernel takes seconds: the next look will do.
        let _ = self.shared.commands.try_send(Command::Seen(place, source));
    }

    /// Routes lead here now: who has the address is told, who would look seconds later.
    pub fn routes_came(&self) {
        self.shared.due.send_modify(|times| *times += 1);
    }

    /// Waits until a sibling says that something has moved: it is time to look. Cancel-safe.
    pub async fn hint(&self) -> Hint {
        tokio::select! {
            () = self.shared.came.notified() => Hint::Given,
            () = self.shared.moved.notified() => Hint::Moved,
        }
    }

    /// What has connections taken over.
    pub fn mover(&self) -> Mover {
        Mover(Arc::clone(&self.shared))
    }

    /// What is shown of it.
    pub fn status(&self) -> ConnectionsStatus {
        let kept = lock(&self.shared.replicas);
        let kept = kept.iter().map(|(sibling, replica)| KeptConnections {
            sibling: sibling.clone(),
            connections: replica.len() as u64,
        });
        ConnectionsStatus {
            told: self.shared.telling.len() as u64,
            kept: kept.collect(),
            taken_over: self.shared.entered.load(Ordering::Relaxed),
            refused: self.shared.refused.load(Ordering::Relaxed),
        }
    }

    /// What is wrong.
    pub fn problems(&self) -> Vec<String> {
        let problems = self.shared.problems.iter();
        problems.filter_map(|one| lock(one).clone()).collect()
    }
}

/// Removes the guard that an earlier config asked for.
pub async fn remove_guard() {
    if let Err(error) = Host::new().remove_guard().await {
        let problem = describe(
            "a guard of connections may be left, which drops some",
            error,
        );
        warn!("{problem}");
    }
}

impl Mover {
    /// Takes over what the last holder of the address told, because the address is about to
    /// be moved here. Whatever comes of it, the address is more important.
    pub async fn take_over(&self) -> Option<Entered> {
        let (answer, done) = oneshot::channel();
        let command = Command::TakeOver { from: None, answer };
        let taken = async {
            self.0.commands.send(command).await.ok()?;
            done.await.ok()?
        };
        timeout(ENTERING, taken).await.unwrap_or_else(|_| {
            warn!("entering connections takes too long: those that are not there yet end");
            None
        })
    }

    /// The address did not come.
    pub async fn in_vain(&self) {
        let _ = self.0.commands.send(Command::InVain).await;
    }

    /// Has the sibling take over the connections that it was told of, because the address
    /// is about to be given to it. Whether it did.
    pub async fn offer(&self, to: &InstanceId) -> bool {
        let offered = self.0.telling.offer(to);
        timeout(OFFER, offered).await.unwrap_or_default()
    }
}

impl Shared {
    fn secret(&self) -> Option<Arc<FleetSecret>> {
        self.secret.borrow().clone()
    }

    fn problem(&self, part: Part, problem: Option<String>) {
        let place = match part {
            Part::Kernel => &self.problems[0],
            Part::Guard => &self.problems[1],
        };
        let mut known = lock(place);
        if let Some(problem) = problem.as_ref().filter(|new| Some(*new) != known.as_ref()) {
            warn!("{problem}");
        }
        *known = problem;
    }
}

/// What a panic left behind is as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn describe(what: &str, error: impl Into<anyhow::Error>) -> String {
    format!("{what}: {:#}", error.into())
}
