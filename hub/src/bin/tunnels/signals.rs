//! Signals, to a command that goes on until it is interrupted.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::{Failure, Outcome};

/// The signals that a command which goes on listens to.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    resize: Signal,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                let message = format!("cannot listen for signals: {error}");
                Failure::new(Outcome::Error, message)
            })
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            resize: listen(SignalKind::window_change())?,
        })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.terminate.recv() => Told::Stop,
            _ = self.resize.recv() => Told::Resized,
        }
    }

    /// Done when one says to stop.
    pub(crate) async fn stopped(&mut self) {
        while self.next().await != Told::Stop {}
    }
}

/// What a signal says.
#[derive(PartialEq, Eq)]
pub(crate) enum Told {
    Stop,
    Resized,
}
