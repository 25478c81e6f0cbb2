//! How the spokes of a VPC know of each other whether they are well: each asks each
//! other every second, or faster while an answer is missing
//! (`privnet_reconcile::takeover::asking`), by UDP between their private addresses. The
//! messages are signed (`privnet_model::health`); what follows from an answer, or from
//! none, is decided elsewhere.
//!
//! Anybody in the VPC can send here. So the port answers nothing but what is signed
//! with the fleet's secret, however many come ask, and the siblings that are known
//! have a socket each, connected to them: the kernel gives their datagrams to it, and
//! a flood from elsewhere cannot push them out of its buffer. The socket for everybody
//! else is there for a sibling that knows us before we know it: to it silence would
//! mean that we are lost.
//!
//! What is told of oneself is good for [`FRESH`]: a daemon whose own state is not
//! renewed any more says nothing rather than what was true once.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use privnet_model::health::{Answer, HealthError, HealthReport, MOST_BYTES, Nonce, Question};
use privnet_model::id::InstanceId;
use privnet_model::secret::FleetSecret;
use privnet_reconcile::takeover::asking::{Asking, PATIENCE};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::debug;

use self::allowance::{Allowance, Allowances};

mod allowance;

/// How long a report about oneself is good for.
pub const FRESH: Duration = Duration::from_secs(5);

/// Observations that wait to be taken. A loop that is so far behind has no use for
/// older ones: 40 s of six siblings that answer.
const OBSERVATIONS: usize = 256;
/// More than the spokes of a VPC; who asks has the fleet's secret.
const MOST_ASKERS: usize = 256;
/// Datagrams from a sibling's address that are looked at, per second: it sends four.
const SIBLINGS_EACH: u32 = 50;
/// Questions of one other sender that are looked at, per second: two are what it
/// asks in a hurry.
const QUESTIONS_EACH: u32 = 5;
/// Of all senders together that are no siblings yet. Each costs a few microseconds.
const QUESTIONS_ALL: u32 = 200;
/// Datagrams of strangers that are even read, in [`READ_PERIOD`]: 20,000 a second, a
/// few per cent of a core. The kernel drops the others for nothing.
const READ_AT_ONCE: u32 = 200;
const READ_PERIOD: Duration = Duration::from_millis(10);
/// After an error of a socket that is none of a single datagram; and for as long as
/// sending one may take.
const PAUSE: Duration = Duration::from_millis(100);

/// What came of one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Who was asked.
    pub sibling: InstanceId,
    /// When.
    pub asked: std::time::Instant,
    /// What it said.
    pub answer: Result<HealthReport, Silence>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// Nothing came within [`PATIENCE`].
    #[error("no answer within {PATIENCE:?}")]
    NoAnswer,
    /// Something came from its address, and did not count. Two secrets, perhaps.
    #[error("nothing that counts came from it: {0}")]
    Rejected(HealthError),
    /// The question could not be sent: this host's network is at fault.
    #[error("the question could not be sent: {0}")]
    Unsent(String),
    /// The fleet's secret is not known here, or not yet.
    #[error("it cannot be asked without the fleet's secret")]
    NoSecret,
}

/// The port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("UDP {address}, for the health of the VPC's spokes: cannot {operation}")]
pub struct HealthPortError {
    /// The address and port.
    pub address: SocketAddr,
    /// What was tried.
    pub operation: &'static str,
    /// Why it failed.
    pub source: io::Error,
}

/// The port, and whoever is asked through it. All ends when it is dropped.
#[derive(Debug)]
pub struct HealthPort {
    own: Arc<Own>,
    lines: BTreeMap<InstanceId, Line>,
    sender: mpsc::Sender<Observation>,
    observations: mpsc::Receiver<Observation>,
    _strangers: JoinSet<()>,
}

/// What all sockets have in common.
#[derive(Debug)]
struct Own {
    me: InstanceId,
    address: SocketAddr,
    secret: watch::Sender<Option<Arc<FleetSecret>>>,
    said: watch::Sender<Option<(HealthReport, Instant)>>,
    /// When each sibling asked last: those that are asked, and nobody else.
    asked_by: watch::Sender<BTreeMap<InstanceId, std::time::Instant>>,
}

/// What tells the siblings how this spoke is.
#[derive(Debug, Clone)]
pub struct Teller(Arc<Own>);

#[derive(Debug)]
struct Line {
    address: IpAddr,
    _task: JoinSet<()>,
}

impl HealthPort {
    /// Opens the port at `address`, which is this instance's own. Within a Tokio
    /// runtime only.
    ///
    /// # Errors
    /// The address is not this host's, or the port is another program's.
    pub fn open(address: SocketAddr, me: InstanceId) -> Result<Self, HealthPortError> {
        let own = Arc::new(Own {
            me,
            address,
            secret: watch::Sender::new(None),
            said: watch::Sender::new(None),
            asked_by: watch::Sender::new(BTreeMap::new()),
        });
        let socket = bind(address, None)?;
        let mut strangers = JoinSet::new();
        strangers.spawn(hear_strangers(Arc::clone(&own), socket));
        let (sender, observations) = mpsc::channel(OBSERVATIONS);
        Ok(Self {
            own,
            lines: BTreeMap::new(),
            sender,
            observations,
            _strangers: strangers,
        })
    }

    /// The fleet's secret. Without one nothing is asked and nothing answered.
    pub fn set_secret(&self, secret: Option<FleetSecret>) {
        self.own.secret.send_replace(secret.map(Arc::new));
    }

    /// What tells the siblings how this spoke is.
    pub fn teller(&self) -> Teller {
        Teller(Arc::clone(&self.own))
    }

    /// Asks these siblings from now on, at these addresses, and nobody else.
    ///
    /// # Errors
    /// One for each sibling that cannot be asked, because no socket can be had.
    pub fn watch(&mut self, siblings: &BTreeMap<InstanceId, IpAddr>) -> Vec<HealthPortError> {
        let own = &self.own;
        own.asked_by.send_if_modified(|asked| {
            asked.retain(|instance, _| siblings.contains_key(instance));
            false
        });
        self.lines
            .retain(|instance, line| siblings.get(instance) == Some(&line.address));
        let mut errors = Vec::new();
        for (instance, address) in siblings {
            if *instance == own.me || self.lines.contains_key(instance) {
                continue;
            }
            let socket = bind(
                own.address,
                Some(SocketAddr::new(*address, own.address.port())),
            );
            let socket = match socket {
                Ok(socket) => socket,
                Err(error) => {
                    errors.push(error);
                    continue;
                }
            };
            let mut task = JoinSet::new();
            let exchange = Exchange {
                own: Arc::clone(own),
                sibling: instance.clone(),
                remote: SocketAddr::new(*address, own.address.port()),
                socket,
                asking: Asking::new(now()),
                rejected: None,
                allowance: Allowance::new(SIBLINGS_EACH, Instant::now()),
                sender: self.sender.clone(),
            };
            task.spawn(exchange.run());
            let line = Line {
                address: *address,
                _task: task,
            };
            self.lines.insert(instance.clone(), line);
        }
        errors
    }

    /// When each sibling that is asked itself last asked how this spoke is, in a message
    /// that it signed. It lives then, whether its answers come through or not. (Somebody
    /// who listens can send an old question again.)
    pub fn asked_by(&self) -> BTreeMap<InstanceId, std::time::Instant> {
        self.own.asked_by.borrow().clone()
    }

    /// What came of the next question, in the order in which it was known. Of a sibling
    /// that was given up some may still come. Cancel-safe.
    pub async fn next(&mut self) -> Observation {
        match self.observations.recv().await {
            Some(observation) => observation,
            // Cannot be: a sender is kept here.
            None => std::future::pending().await,
        }
    }
}

impl Teller {
    /// What is true now. It is told to whoever asks within [`FRESH`]; say it again
    /// before that time is over.
    pub fn say(&self, report: HealthReport) {
        self.0.said.send_replace(Some((report, Instant::now())));
    }
}

impl Own {
    fn secret(&self) -> Option<Arc<FleetSecret>> {
        self.secret.borrow().clone()
    }

    /// The answer to a datagram, if it is a question that has one.
    fn answer(&self, datagram: &[u8]) -> Result<Option<Vec<u8>>, HealthError> {
        let Some(secret) = self.secret() else {
            return Ok(None);
        };
        let question = Question::open(datagram, &secret, &self.me)?;
        self.asked_by.send_if_modified(|asked| {
            // Of others too, for as long as it takes until they are told from siblings.
            if asked.len() < MOST_ASKERS || asked.contains_key(&question.from) {
                asked.insert(question.from.clone(), now());
            }
            false
        });
        let (mut report, age) = match &*self.said.borrow() {
            Some((report, said)) if said.elapsed() < FRESH => (report.clone(), said.elapsed()),
            Some(_) | None => return Ok(None),
        };
        report.hears.values_mut().for_each(|ago| *ago += age);
        Ok(Some(Answer { question, report }.seal(&secret)))
    }
}

/// Answers those who are no siblings so far.
async fn hear_strangers(own: Arc<Own>, socket: UdpSocket) {
    let mut buffer = vec![0; MOST_BYTES + 1];
    let mut allowances = Allowances::new(QUESTIONS_EACH, QUESTIONS_ALL, Instant::now());
    let mut period = (Instant::now(), 0);
    loop {
        let (length, sender) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                rest(&error).await;
                continue;
            }
        };
        let now = Instant::now();
        if now - period.0 > READ_PERIOD {
            period = (now, 0);
        }
        period.1 += 1;
        if allowances.take(sender.ip(), now) {
            match own.answer(&buffer[..length]) {
                // One that is lost is one that is asked for again.
                Ok(Some(answer)) => drop(timeout(PAUSE, socket.send_to(&answer, sender)).await),
                Ok(None) => {}
                Err(error) => debug!(%sender, %error, "not answered"),
            }
        }
        if period.1 >= READ_AT_ONCE {
            sleep_until(period.0 + READ_PERIOD).await;
        }
    }
}

/// Whom a sibling's socket belongs to: asks it, and answers it.
struct Exchange {
    own: Arc<Own>,
    sibling: InstanceId,
    remote: SocketAddr,
    socket: UdpSocket,
    asking: Asking<Question>,
    /// What was wrong with the last message that came and did not count.
    rejected: Option<HealthError>,
    allowance: Allowance,
    sender: mpsc::Sender<Observation>,
}

impl Exchange {
    async fn run(mut self) {
        let mut buffer = vec![0; MOST_BYTES + 1];
        loop {
            let end = self.asking.ends().map(Instant::from_std);
            let due = Instant::from_std(self.asking.due());
            tokio::select! {
                // First what has come: when this process was kept from running, an
                // answer that is there is not late because of it.
                biased;
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, sender)) if sender == self.remote => {
                        self.take(&buffer[..length]).await;
                    }
                    // What came before the socket was connected.
                    Ok(_) => {}
                    Err(error) => rest(&error).await,
                },
                () = until(end) => self.give_up(),
                () = sleep_until(due) => self.ask().await,
            }
        }
    }

    async fn ask(&mut self) {
        let question = Question {
            from: self.own.me.clone(),
            to: self.sibling.clone(),
            nonce: Nonce(rand::random()),
        };
        let asked = now();
        let unsent = match self.own.secret() {
            None => Some(Silence::NoSecret),
            Some(secret) => match self.send(&question.seal(&secret)).await {
                Ok(_) => None,
                // The last one found nobody there; this one was not sent for it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => None,
                Err(error) => Some(Silence::Unsent(error.to_string())),
            },
        };
        match unsent {
            None => self.asking.asked(Some(question), asked),
            Some(silence) => {
                self.asking.asked(None, asked);
                self.observe(asked, Err(silence));
            }
        }
    }

    async fn take(&mut self, datagram: &[u8]) {
        if !self.allowance.take(Instant::now()) {
            return;
        }
        let answer = self
            .own
            .secret()
            .map(|secret| Answer::open(datagram, &secret, &self.own.me));
        match answer {
            None => {}
            Some(Ok(answer)) => self.answered(answer),
            // No answer: a question, then.
            Some(Err(HealthError::Foreign)) => match self.own.answer(datagram) {
                Ok(Some(answer)) => drop(self.send(&answer).await),
                Ok(None) => {}
                Err(error) => self.rejected = Some(error),
            },
            Some(Err(error)) => self.rejected = Some(error),
        }
    }

    /// Not for long: whoever waits here answers nobody.
    async fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        match timeout(PAUSE, self.socket.send(datagram)).await {
            Ok(sent) => sent,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn answered(&mut self, answer: Answer) {
        let asked = self
            .asking
            .answered(|question| answer.is_to(question), now());
        if let Some(asked) = asked {
            self.rejected = None;
            self.observe(asked, Ok(answer.report));
        }
    }

    fn give_up(&mut self) {
        if let Some(asked) = self.asking.give_up(now()) {
            let silence = self
                .rejected
                .take()
                .map_or(Silence::NoAnswer, Silence::Rejected);
            self.observe(asked, Err(silence));
        }
    }

    fn observe(&self, asked: std::time::Instant, answer: Result<HealthReport, Silence>) {
        // Where nobody takes them, siblings are still answered.
        let _ = self.sender.try_send(Observation {
            sibling: self.sibling.clone(),
            asked,
            answer,
        });
    }
}

/// By Tokio's clock, as `asking` wants it.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Waits a little after an error, unless it is the news that nobody listens at the
/// other end.
async fn rest(error: &io::Error) {
    if error.kind() != io::ErrorKind::ConnectionRefused {
        debug!(%error, "the health port");
        sleep(PAUSE).await;
    }
}

/// A socket at `local`, one of several there, for `remote` alone if given.
fn bind(local: SocketAddr, remote: Option<SocketAddr>) -> Result<UdpSocket, HealthPortError> {
    let failed = |operation| {
        move |source| HealthPortError {
            address: local,
            operation,
            source,
        }
    };
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        // Of programs of the same user only.
        socket.set_reuse_port(true)?;
        Ok(socket)
    };
    let socket = open().map_err(failed("open a socket"))?;
    socket.bind(&local.into()).map_err(failed("bind to it"))?;
    if let Some(remote) = remote {
        socket
            .connect(&remote.into())
            .map_err(failed("connect to a sibling"))?;
    }
    UdpSocket::from_std(socket.into()).map_err(failed("use the socket"))
}
