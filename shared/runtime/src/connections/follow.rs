//! Follows one sibling: asks it for its connections, and keeps in mind what it tells.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use privnet_model::connection::channel::{Greeting, Keys, REPLY_BYTES, parse_reply};
use privnet_model::connection::wire::Message;
use privnet_model::id::InstanceId;
use privnet_reconcile::connections::replica::{Asks, Replica};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::frames::{Reading, Writing, invalid, refused, write};
use super::warden::Command;
use super::{Shared, lock};

/// Between two attempts.
const AGAIN: Duration = Duration::from_secs(1);
/// For the beginning of a conversation.
const PATIENCE: Duration = Duration::from_secs(3);
/// It says something twice a second, unless the machine is gone: then the other end of a
/// TCP connection learns nothing.
const SILENCE: Duration = Duration::from_secs(5);

/// For as long as the sibling is one. Whatever happens to it, what it told stays.
pub(super) async fn run(shared: Arc<Shared>, sibling: InstanceId, at: SocketAddr) {
    for attempt in 0.. {
        match follow(&shared, &sibling, at, attempt).await {
            Ok(()) => {}
            Err(error) => debug!(%sibling, %error, "its connections are not heard of"),
        }
        if let Some(replica) = lock(&shared.replicas).get_mut(&sibling) {
            replica.restart();
        }
        sleep(AGAIN).await;
    }
}

async fn follow(
    shared: &Shared,
    sibling: &InstanceId,
    at: SocketAddr,
    attempt: usize,
) -> io::Result<()> {
    let (mut reading, mut writing, mut open) =
        timeout(PATIENCE, greet(shared, sibling, at, attempt)).await??;
    let mut due = shared.due.subscribe();
    let mut offered = false;
    loop {
        let message = tokio::select! {
            message = timeout(SILENCE, reading.message(&mut open)) => message??,
            // Its other end is here.
            _ = due.changed() => {
                writing.say(&Message::Due).await?;
                continue;
            }
        };
        let asks = {
            let mut replicas = lock(&shared.replicas);
            let replica = replicas.entry(sibling.clone());
            let replica = replica.or_insert_with(|| Replica::new(shared.most));
            replica.hear(message, Instant::now().into_std())
        };
        match asks.map_err(invalid)? {
            Asks::Nothing => {}
            Asks::Look if std::mem::take(&mut offered) => shared.came.notify_one(),
            Asks::Look => shared.moved.notify_one(),
            Asks::TakeOver => {
                let (answer, done) = oneshot::channel();
                let from = Some(sibling.clone());
                let command = Command::TakeOver { from, answer };
                // What does not go well ends connections, but not the spoke.
                let _ = shared.commands.send(command).await;
                if let Ok(Some(_)) = done.await {
                    offered = true;
                    writing.say(&Message::Taken).await?;
                }
            }
        }
    }
}

type Begun = (Reading, Writing, privnet_model::connection::channel::Opener);

async fn greet(
    shared: &Shared,
    sibling: &InstanceId,
    at: SocketAddr,
    attempt: usize,
) -> io::Result<Begun> {
    let Some(secret) = shared.secret() else {
        return Err(io::Error::other("the fleet's secret is not known here"));
    };
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let (reader, mut stream) = stream.into_split();
    let mut reading = Reading::new(reader);
    let greeting = Greeting {
        from: shared.me.clone(),
        to: sibling.clone(),
        random: rand::random(),
    };
    write(&mut stream, &greeting.to_bytes()).await?;
    let reply = loop {
        if let Some(reply) = reading.bytes().first_chunk::<REPLY_BYTES>() {
            break parse_reply(reply).map_err(refused)?;
        }
        reading.more().await?;
    };
    reading.consume(REPLY_BYTES);
    let mut keys = greeting.keys(&secret, &reply);
    // While the secret is changed the sibling may know either: now the one, now the other.
    let (Keys { seal, open }, _) = keys.swap_remove(attempt % keys.len().max(1));
    let mut writing = Writing { stream, seal };
    writing.say(&Message::Hello).await?;
    Ok((reading, writing, open))
}
