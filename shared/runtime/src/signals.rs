//! The signals a daemon answers to, as one stream: SIGTERM and SIGINT stop it,
//! SIGHUP has it look again.
//!
//! From the moment of [`Signals::listen`] none of them ends the process by
//! itself, so listen early and stop for every [`Signal::Stop`].

use std::io;

use tokio::signal::unix::{self, SignalKind};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Stop, in order. (SIGTERM, SIGINT)
    Stop,
    /// Look again at everything, now. (SIGHUP)
    Reload,
}

/// The signals of this process.
#[derive(Debug)]
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
}

impl Signals {
    /// Takes the signals over. Within a Tokio runtime only.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            hangup: unix::signal(SignalKind::hangup())?,
        })
    }

    /// The next one. Cancel-safe. Several of one kind that come before this is
    /// called are one; a stop goes before a reload.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hangup.recv() => Signal::Reload,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::process::Command;

    use super::*;

    fn send(signal: &str) {
        let own = std::process::id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", signal, &own])
                .status()
                .unwrap()
                .success()
        );
    }

    #[tokio::test]
    async fn each_signal_has_its_meaning() {
        let mut signals = Signals::listen().unwrap();
        for (name, meaning) in [
            ("HUP", Signal::Reload),
            ("TERM", Signal::Stop),
            ("INT", Signal::Stop),
            ("HUP", Signal::Reload),
        ] {
            send(name);
            assert_eq!(signals.next().await, meaning);
        }
    }
}
