//! Events, as whoever asked for them gets them: through a bounded queue that
//! never makes anybody wait. What does not fit is dropped, and told to be lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::{self, error::TrySendError};

use super::client::Connection;
use super::error::ViciError;
use super::message::Section;

/// One subscription.
#[derive(Debug)]
pub struct Events {
    queue: mpsc::Receiver<(String, Section)>,
    lost: Arc<AtomicBool>,
    connection: Arc<Connection>,
}

/// What a subscription tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// An event.
    Event {
        /// Which event.
        name: String,
        /// What is told of it.
        message: Section,
    },
    /// The queue was full and events were lost: what is known from events must be
    /// listed anew. Those that were queued before still come.
    Lost,
}

/// The other end, for the task that reads the socket.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) names: Vec<&'static str>,
    queue: mpsc::Sender<(String, Section)>,
    lost: Arc<AtomicBool>,
}

pub(super) fn subscription(
    names: &[&'static str],
    room: usize,
    connection: Arc<Connection>,
) -> (Subscription, Events) {
    let (sender, queue) = mpsc::channel(room);
    let lost = Arc::new(AtomicBool::new(false));
    let subscription = Subscription {
        names: names.to_vec(),
        queue: sender,
        lost: Arc::clone(&lost),
    };
    let events = Events {
        queue,
        lost,
        connection,
    };
    (subscription, events)
}

impl Events {
    /// The next event, or why there will be none any more. Dropping the future
    /// loses nothing.
    pub async fn next(&mut self) -> Result<Happening, ViciError> {
        if self.lost.swap(false, Ordering::Relaxed) {
            return Ok(Happening::Lost);
        }
        match self.queue.recv().await {
            Some((name, message)) => Ok(Happening::Event { name, message }),
            // What was lost at the very end is lost, too.
            None if self.lost.swap(false, Ordering::Relaxed) => Ok(Happening::Lost),
            None => Err(self.connection.reason()),
        }
    }
}

impl Subscription {
    /// Whether somebody still wants events.
    pub(super) fn is_wanted(&self) -> bool {
        !self.queue.is_closed()
    }

    pub(super) fn tell(&self, name: &str, message: &Section) {
        if !self.names.contains(&name) {
            return;
        }
        let told = self.queue.try_send((name.to_owned(), message.clone()));
        if let Err(TrySendError::Full(_)) = told {
            self.lost.store(true, Ordering::Relaxed);
        }
    }
}
