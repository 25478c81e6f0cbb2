//! Tells the siblings of the connections of the address, while it is here.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use privnet_host::HostError;
use privnet_model::connection::Connection;
use privnet_model::connection::channel::{Greeting, Keys, Opener, reply};
use privnet_model::connection::wire::Message;
use privnet_model::id::InstanceId;
use privnet_reconcile::connections::roster::{Delta, Roster, everything};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info};

use super::frames::{Reading, Writing, invalid, refused, write};
use super::{Part, Shared, describe, lock};

/// How often siblings are told what is new.
const BEAT: Duration = Duration::from_millis(500);
/// Beats that a sibling may be behind before it is told everything again.
const BEHIND: usize = 16;
/// How often all of the kernel's are looked through though no event was lost, and how much
/// rarer than it takes.
const THROUGH: Duration = Duration::from_secs(60);
const SHARE: u32 = 50;
/// After events were lost, or the kernel refused: not at once.
const REST: Duration = Duration::from_secs(1);
/// For the beginning of a conversation.
const PATIENCE: Duration = Duration::from_secs(3);
/// Conversations at once, with siblings and with whoever only begins one.
const MOST_TALKS: usize = 64;

/// What one beat tells.
#[derive(Debug)]
struct Beat {
    holds: bool,
    delta: Delta,
}

/// What is told, and to whom.
pub(super) struct Telling {
    holds: watch::Sender<bool>,
    /// Whether it is known what there is to tell: before that nobody is told that there is
    /// nothing, as whoever listens would forget what it knows.
    ready: watch::Sender<bool>,
    roster: Mutex<Roster>,
    beats: broadcast::Sender<Arc<Beat>>,
    offers: Mutex<BTreeMap<InstanceId, mpsc::Sender<oneshot::Sender<()>>>>,
}

impl Telling {
    pub(super) fn new() -> Self {
        Self {
            holds: watch::Sender::new(false),
            ready: watch::Sender::new(false),
            roster: Mutex::default(),
            beats: broadcast::Sender::new(BEHIND),
            offers: Mutex::default(),
        }
    }

    /// The address is here, or is not (any more): the siblings are told at once.
    pub(super) fn set(&self, holds: bool) {
        if !holds {
            self.ready.send_replace(true);
        }
        let news = self
            .holds
            .send_if_modified(|was| std::mem::replace(was, holds) != holds);
        if news {
            if !holds {
                lock(&self.roster).replace(HashSet::new());
            }
            self.beat();
        }
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.roster).len()
    }

    fn beat(&self) {
        let mut roster = lock(&self.roster);
        self.beat_locked(&mut roster);
    }

    fn beat_locked(&self, roster: &mut Roster) {
        let (holds, delta) = (*self.holds.borrow(), roster.beat());
        // Nobody may be there to hear it.
        let _ = self.beats.send(Arc::new(Beat { holds, delta }));
    }

    /// All there is now, and what comes after.
    fn subscribe(&self) -> (Vec<Connection>, broadcast::Receiver<Arc<Beat>>) {
        let mut roster = lock(&self.roster);
        self.beat_locked(&mut roster);
        (roster.all(), self.beats.subscribe())
    }

    /// Whether the sibling took over what it was told of.
    pub(super) async fn offer(&self, to: &InstanceId) -> bool {
        let (done, taken) = oneshot::channel();
        let talk = lock(&self.offers).get(to).cloned();
        match talk {
            Some(talk) => talk.send(done).await.is_ok() && taken.await.is_ok(),
            None => false,
        }
    }
}

/// Listens to the kernel while the address is here. Does not end.
pub(super) async fn hear_the_kernel(shared: Arc<Shared>) {
    let mut holds = shared.telling.holds.subscribe();
    loop {
        if *holds.borrow_and_update() {
            tokio::select! {
                result = listen(&shared) => {
                    let problem = result.err().map(|error| {
                        describe("connections are not told to the siblings", error)
                    });
                    shared.problem(Part::Kernel, problem);
                    shared.telling.beat();
                    sleep(REST).await;
                }
                _ = holds.changed() => {}
            }
        } else {
            // The siblings hear that this spoke lives, and that the address is not here.
            shared.telling.beat();
            let _ = timeout(BEAT, holds.changed()).await;
        }
    }
}

/// Until the kernel refuses.
async fn listen(shared: &Shared) -> Result<(), HostError> {
    let (host, telling) = (shared.host, &shared.telling);
    let mut events = host.connection_events(shared.own)?;
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // What changes meanwhile is told by events that wait, in their order.
        let began = Instant::now();
        let all = host.address_connections(shared.own).await?;
        let again = Instant::now() + THROUGH.max(began.elapsed() * SHARE);
        {
            let mut roster = lock(&telling.roster);
            // The address may be gone by now.
            if *telling.holds.borrow() {
                roster.replace(all);
            }
        }
        telling.ready.send_replace(true);
        shared.problem(Part::Kernel, None);
        loop {
            tokio::select! {
                heard = events.next() => match heard {
                    Ok(heard) => {
                        let mut roster = lock(&telling.roster);
                        for news in heard {
                            roster.hear(news);
                        }
                    }
                    Err(error) => {
                        debug!(%error, "events of connections were lost");
                        sleep(REST).await;
                        break;
                    }
                },
                now = beat.tick() => {
                    telling.beat();
                    if now >= again {
                        break;
                    }
                }
            }
        }
    }
}

/// Lets siblings in.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let mut talks = JoinSet::new();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "accepting a sibling");
                sleep(REST).await;
                continue;
            }
        };
        while talks.try_join_next().is_some() {}
        let is_sibling = {
            let siblings = shared.siblings.borrow();
            siblings.values().any(|address| *address == from.ip())
        };
        if !is_sibling || talks.len() >= MOST_TALKS {
            continue;
        }
        let shared = Arc::clone(&shared);
        talks.spawn(async move {
            if let Err(error) = talk(&shared, stream, from).await {
                debug!(%from, %error, "it is not told of connections any more");
            }
        });
    }
}

async fn talk(shared: &Shared, stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    let (sibling, mut reading, mut writing, mut open) =
        timeout(PATIENCE, greeted(shared, stream, from)).await??;
    let mut ready = shared.telling.ready.subscribe();
    // Who is not told in time asks again; the sender lives as long as this task.
    drop(timeout(PATIENCE, ready.wait_for(|ready| *ready)).await?);
    info!(%sibling, "it follows the connections of this spoke");
    let (offers, mut offered) = mpsc::channel(1);
    lock(&shared.telling.offers).insert(sibling, offers);
    let (all, mut beats) = shared.telling.subscribe();
    for message in everything(&all) {
        writing.say(&message).await?;
    }
    drop(all);
    let mut taking = None;
    let mut hastened: Option<Instant> = None;
    loop {
        tokio::select! {
            beat = beats.recv() => match beat {
                Ok(beat) => tell(&mut writing, &beat).await?,
                Err(RecvError::Lagged(_)) => {
                    let (all, later) = shared.telling.subscribe();
                    beats = later;
                    for message in everything(&all) {
                        writing.say(&message).await?;
                    }
                }
                Err(RecvError::Closed) => return Ok(()),
            },
            Some(done) = offered.recv() => {
                // What is known up to now comes first.
                shared.telling.beat();
                while let Ok(beat) = beats.try_recv() {
                    tell(&mut writing, &beat).await?;
                }
                writing.say(&Message::Offer).await?;
                taking = Some(done);
            }
            message = reading.message(&mut open) => match message? {
                Message::Taken => drop(taking.take().map(|done| done.send(()))),
                Message::Due => if hastened.is_none_or(|at| at.elapsed() >= REST) {
                    hastened = Some(Instant::now());
                    shared.moved.notify_one();
                },
                _ => return Err(invalid("a message out of turn")),
            }
        }
    }
}

async fn tell(writing: &mut Writing, beat: &Beat) -> io::Result<()> {
    for message in beat.delta.messages() {
        writing.say(&message).await?;
    }
    writing.say(&Message::Beat { holds: beat.holds }).await
}

async fn greeted(
    shared: &Shared,
    stream: TcpStream,
    from: SocketAddr,
) -> io::Result<(InstanceId, Reading, Writing, Opener)> {
    let Some(secret) = shared.secret() else {
        return Err(io::Error::other("the fleet's secret is not known here"));
    };
    stream.set_nodelay(true)?;
    let (reader, mut stream) = stream.into_split();
    let mut reading = Reading::new(reader);
    let (greeting, length) = loop {
        let greeting = Greeting::parse(reading.bytes(), &shared.me).map_err(refused)?;
        if let Some(greeting) = greeting {
            break greeting;
        }
        reading.more().await?;
    };
    reading.consume(length);
    if shared.siblings.borrow().get(&greeting.from) != Some(&from.ip()) {
        return Err(invalid("it greets from another's address"));
    }
    let random = rand::random();
    write(&mut stream, &reply(&random)).await?;
    let frame = reading.frame().await?;
    for (_, Keys { seal, mut open }) in greeting.keys(&secret, &random) {
        if let Ok(bytes) = open.open(&frame) {
            if Message::parse(&bytes) != Ok(Message::Hello) {
                break;
            }
            return Ok((greeting.from, reading, Writing { stream, seal }, open));
        }
    }
    Err(refused(
        privnet_model::connection::channel::ChannelError::Sealed,
    ))
}
