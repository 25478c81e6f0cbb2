//! The client: one connection to charon's socket, for as many users as like.
//!
//! Two tasks work for it. One reads all that comes and hands it on without ever
//! waiting for anybody; one writes commands, each after the answer to the one
//! before, for VICI's answers carry no number. A user who goes away, by a deadline
//! or because he dropped his future, leaves both in step: the answer that comes
//! later is thrown away.
//!
//! When the stream ends or makes no sense, all that waits gets the reason, and so
//! does whatever is asked later. Connecting again is the owner's business: only he
//! knows what has to be loaded and listed anew.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;
use zeroize::Zeroizing;

use super::error::ViciError;
use super::events::{Events, Subscription, subscription};
use super::message::{Malformed, Section};
use super::packet::{Incoming, MOST_BYTES, event_registration, request};

/// charon answers commands in milliseconds, also with thousands of connections;
/// what takes longer than this hangs.
const DEADLINE: Duration = Duration::from_secs(10);

/// Commands that wait for their turn; more wait to be queued.
const QUEUE: usize = 64;

/// An answer in parts: as many connections as the hub may ever have, twice.
const MOST_PARTS: usize = 200_000;
const MOST_PART_BYTES: usize = 256 * 1024 * 1024;

/// A connection to charon. Clones share it; it is closed with the last of them.
#[derive(Debug, Clone)]
pub struct Client {
    tasks: Arc<Tasks>,
}

#[derive(Debug)]
struct Tasks {
    jobs: mpsc::Sender<Job>,
    connection: Arc<Connection>,
    running: [AbortHandle; 2],
}

/// What the two tasks and the users have in common.
#[derive(Debug)]
pub(super) struct Connection {
    socket: PathBuf,
    state: Mutex<State>,
    /// The job that was written has its answer, or will never have one.
    answered: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The job that was written last, until it is answered.
    current: Option<Waiting>,
    subscriptions: Vec<Subscription>,
    /// Events that charon was asked for. They are never taken back: there are few,
    /// and parts of answers go only to who asked.
    registered: BTreeSet<&'static str>,
    /// Why the connection is over.
    over: Option<ViciError>,
}

/// What to write, and who waits for its answer.
#[derive(Debug)]
struct Job {
    frame: Zeroizing<Vec<u8>>,
    waiting: Waiting,
}

#[derive(Debug)]
struct Waiting {
    kind: Kind,
    answer: oneshot::Sender<Result<Answer, ViciError>>,
    parts: Parts,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Command {
        name: String,
        /// The event in which the parts of its answer come.
        parts: Option<&'static str>,
    },
    Registration {
        event: &'static str,
    },
}

#[derive(Debug, Default)]
struct Parts {
    messages: Vec<Section>,
    bytes: usize,
    too_large: bool,
}

#[derive(Debug)]
struct Answer {
    message: Section,
    parts: Vec<Section>,
}

impl Client {
    /// Connects to the socket that charon's `vici` plugin listens on.
    pub async fn connect(socket: &Path) -> Result<Self, ViciError> {
        let connected = tokio::time::timeout(DEADLINE, UnixStream::connect(socket)).await;
        let timed_out = || io::Error::from(io::ErrorKind::TimedOut);
        let stream = connected.unwrap_or_else(|_| Err(timed_out()));
        let stream = stream.map_err(|source| ViciError::Connect {
            socket: socket.to_owned(),
            source: Arc::new(source),
        })?;
        Ok(Self::over(stream, socket))
    }

    /// A client over a stream that is connected already.
    fn over(stream: UnixStream, socket: &Path) -> Self {
        let (read, write) = stream.into_split();
        let (jobs, queue) = mpsc::channel(QUEUE);
        let connection = Arc::new(Connection {
            socket: socket.to_owned(),
            state: Mutex::default(),
            answered: Notify::new(),
        });
        let reader = tokio::spawn(reading(BufReader::new(read), Arc::clone(&connection)));
        let writer = tokio::spawn(writing(write, queue, Arc::clone(&connection)));
        Self {
            tasks: Arc::new(Tasks {
                jobs,
                connection,
                running: [reader.abort_handle(), writer.abort_handle()],
            }),
        }
    }

    /// Carries a command out and gives its answer as it is: whether charon says in
    /// it that it succeeded, the caller sees.
    pub async fn command(&self, name: &str, message: &Section) -> Result<Section, ViciError> {
        let answer = self.ask(name, message, None, DEADLINE).await?;
        Ok(answer.message)
    }

    /// The same with another deadline than ten seconds, for commands that take long
    /// by nature. All other commands wait meanwhile.
    pub async fn slow_command(
        &self,
        name: &str,
        message: &Section,
        deadline: Duration,
    ) -> Result<Section, ViciError> {
        let answer = self.ask(name, message, None, deadline).await?;
        Ok(answer.message)
    }

    /// A command whose answer comes in parts, each an event: `list-sas` in
    /// `list-sa`s. All of them, or an error.
    pub async fn list(
        &self,
        name: &str,
        parts: &'static str,
        message: &Section,
    ) -> Result<Vec<Section>, ViciError> {
        self.register(parts).await?;
        let answer = self.ask(name, message, Some(parts), DEADLINE).await?;
        Ok(answer.parts)
    }

    /// Asks for events. `room` of them are kept for whoever is slow to fetch them.
    pub async fn subscribe(
        &self,
        names: &[&'static str],
        room: usize,
    ) -> Result<Events, ViciError> {
        let connection = &self.tasks.connection;
        // First, so that nothing is missed of what comes right behind the answer.
        let (to, events) = subscription(names, room, Arc::clone(connection));
        {
            let mut state = connection.state();
            if let Some(reason) = &state.over {
                return Err(reason.clone());
            }
            state.subscriptions.retain(Subscription::is_wanted);
            state.subscriptions.push(to);
        }
        for name in names {
            self.register(name).await?;
        }
        Ok(events)
    }

    async fn register(&self, event: &'static str) -> Result<(), ViciError> {
        if self.tasks.connection.state().registered.contains(event) {
            return Ok(());
        }
        let frame = event_registration(event).map_err(|source| unsendable(event, source))?;
        self.carry_out(frame, Kind::Registration { event }, DEADLINE)
            .await?;
        Ok(())
    }

    async fn ask(
        &self,
        name: &str,
        message: &Section,
        parts: Option<&'static str>,
        deadline: Duration,
    ) -> Result<Answer, ViciError> {
        let frame = request(name, message).map_err(|source| unsendable(name, source))?;
        let name = name.to_owned();
        self.carry_out(frame, Kind::Command { name, parts }, deadline)
            .await
    }

    async fn carry_out(
        &self,
        frame: Zeroizing<Vec<u8>>,
        kind: Kind,
        deadline: Duration,
    ) -> Result<Answer, ViciError> {
        let command = match &kind {
            Kind::Command { name, .. } => name.clone(),
            Kind::Registration { event } => (*event).to_owned(),
        };
        let (answer, answered) = oneshot::channel();
        let job = Job {
            frame,
            waiting: Waiting {
                kind,
                answer,
                parts: Parts::default(),
            },
        };
        let connection = &self.tasks.connection;
        let work = async {
            let over = |_| connection.reason();
            self.tasks
                .jobs
                .send(job)
                .await
                .map_err(|_| connection.reason())?;
            answered.await.map_err(over)?
        };
        let timed = tokio::time::timeout(deadline, work).await;
        timed.unwrap_or(Err(ViciError::Timeout { command, deadline }))
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.connection.end(ViciError::GivenUp);
        for task in &self.running {
            task.abort();
        }
    }
}

impl Connection {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here can be left half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the connection is over.
    pub(super) fn reason(&self) -> ViciError {
        self.state().over.clone().unwrap_or(ViciError::GivenUp)
    }

    /// Tells everybody that it is over; the first reason counts.
    fn end(&self, reason: ViciError) {
        let mut state = self.state();
        let reason = state.over.get_or_insert(reason).clone();
        // Dropped: their queues end behind what is in them.
        state.subscriptions.clear();
        if let Some(waiting) = state.current.take() {
            let _gone = waiting.answer.send(Err(reason));
        }
        drop(state);
        self.answered.notify_one();
    }

    /// Takes in one packet.
    fn take_in(&self, packet: Incoming, bytes: usize) -> Result<(), ViciError> {
        let mut state = self.state();
        match packet {
            Incoming::Event { name, message } => {
                if let Some(waiting) = &mut state.current
                    && let Kind::Command { parts, .. } = &waiting.kind
                    && *parts == Some(name.as_str())
                {
                    waiting.parts.keep(message, bytes);
                } else {
                    for subscription in &state.subscriptions {
                        subscription.tell(&name, &message);
                    }
                }
                return Ok(());
            }
            Incoming::Response(message) => {
                let waiting = in_turn(&mut state, Expected::Command, "an answer to a command")?;
                waiting.answer(Ok(message));
            }
            Incoming::UnknownCommand => {
                let waiting = in_turn(&mut state, Expected::Command, "\"unknown command\"")?;
                if let Kind::Command { name, .. } = &waiting.kind {
                    let command = name.clone();
                    waiting.answer(Err(ViciError::UnknownCommand { command }));
                }
            }
            Incoming::Confirmed => {
                let waiting = in_turn(&mut state, Expected::Registration, "\"event confirmed\"")?;
                if let Kind::Registration { event } = waiting.kind {
                    state.registered.insert(event);
                }
                waiting.answer(Ok(Section::new()));
            }
            Incoming::UnknownEvent => {
                let waiting = in_turn(&mut state, Expected::Registration, "\"unknown event\"")?;
                if let Kind::Registration { event } = waiting.kind {
                    let event = event.to_owned();
                    waiting.answer(Err(ViciError::UnknownEvent { event }));
                }
            }
        }
        drop(state);
        self.answered.notify_one();
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Command,
    Registration,
}

/// Who waits for such an answer.
fn in_turn(state: &mut State, found: Expected, words: &'static str) -> Result<Waiting, ViciError> {
    let expected = state.current.as_ref().map(|waiting| match waiting.kind {
        Kind::Command { .. } => Expected::Command,
        Kind::Registration { .. } => Expected::Registration,
    });
    if expected == Some(found)
        && let Some(waiting) = state.current.take()
    {
        return Ok(waiting);
    }
    Err(ViciError::OutOfTurn {
        found: words,
        expected: match expected {
            Some(Expected::Command) => "the answer to a command",
            Some(Expected::Registration) => "the confirmation of an event",
            None => "nothing but events",
        },
    })
}

impl Waiting {
    fn answer(self, message: Result<Section, ViciError>) {
        let answer = match (self.kind, message) {
            (Kind::Command { name, .. }, Ok(_)) if self.parts.too_large => {
                Err(ViciError::TooLarge {
                    command: name,
                    parts: MOST_PARTS,
                    bytes: MOST_PART_BYTES,
                })
            }
            (_, message) => message.map(|message| Answer {
                message,
                parts: self.parts.messages,
            }),
        };
        // Who asked may be gone.
        let _gone = self.answer.send(answer);
    }
}

impl Parts {
    fn keep(&mut self, message: Section, bytes: usize) {
        self.bytes += bytes;
        if self.messages.len() >= MOST_PARTS || self.bytes > MOST_PART_BYTES {
            self.too_large = true;
            self.messages = Vec::new();
        }
        if !self.too_large {
            self.messages.push(message);
        }
    }
}

async fn reading(mut from: BufReader<OwnedReadHalf>, connection: Arc<Connection>) {
    // One buffer for all packets: it grows to the largest, 512 KiB at most.
    let mut bytes = Vec::new();
    loop {
        let taken_in = match read_packet(&mut from, &mut bytes, &connection.socket).await {
            Ok(packet) => connection.take_in(packet, bytes.len()),
            Err(error) => Err(error),
        };
        if let Err(reason) = taken_in {
            connection.end(reason);
            return;
        }
    }
}

async fn read_packet(
    from: &mut BufReader<OwnedReadHalf>,
    bytes: &mut Vec<u8>,
    socket: &Path,
) -> Result<Incoming, ViciError> {
    let length = from
        .read_u32()
        .await
        .map_err(|error| broken(error, socket))?;
    let length = usize::try_from(length)
        .ok()
        .filter(|length| (1..=MOST_BYTES).contains(length))
        .ok_or(ViciError::Malformed(Malformed::PacketLength {
            bytes: u64::from(length),
        }))?;
    bytes.resize(length, 0);
    from.read_exact(bytes)
        .await
        .map_err(|error| broken(error, socket))?;
    Incoming::decode(bytes).map_err(ViciError::Malformed)
}

async fn writing(
    mut to: OwnedWriteHalf,
    mut jobs: mpsc::Receiver<Job>,
    connection: Arc<Connection>,
) {
    while let Some(Job { frame, waiting }) = jobs.recv().await {
        // Who asked has gone while it waited for its turn: nothing is begun.
        if waiting.answer.is_closed() {
            continue;
        }
        {
            let mut state = connection.state();
            if let Some(reason) = &state.over {
                let _gone = waiting.answer.send(Err(reason.clone()));
                return;
            }
            // Two asked at once. charon would send to each: every event twice.
            if let Kind::Registration { event } = waiting.kind
                && state.registered.contains(event)
            {
                waiting.answer(Ok(Section::new()));
                continue;
            }
            state.current = Some(waiting);
        }
        if let Err(error) = to.write_all(&frame).await {
            connection.end(broken(error, &connection.socket));
            return;
        }
        drop(frame);
        connection.answered.notified().await;
    }
}

fn broken(source: io::Error, socket: &Path) -> ViciError {
    let socket = socket.to_owned();
    match source.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => ViciError::Closed { socket },
        _ => ViciError::Broken {
            socket,
            source: Arc::new(source),
        },
    }
}

fn unsendable(command: &str, source: Malformed) -> ViciError {
    ViciError::Unsendable {
        command: command.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
