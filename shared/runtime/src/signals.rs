//! The signals a daemon answers to, as one stream: SIGTERM stops it, SIGINT stops it
//! so that it can start again at once, SIGHUP has it look again.
//!
//! The difference is for a spoke: when it stops it hands its VPC's routes over to
//! another, and when it is only started anew (`RestartKillSignal=SIGINT` of its
//! systemd unit) it does not, since the kernel goes on forwarding meanwhile.
//!
//! From the moment of [`Signals::listen`] none of them ends the process by
//! itself, so listen early and stop for every [`Signal::Stop`].

use std::io;

use tokio::signal::unix::{self, SignalKind};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Stop, in order. (SIGTERM, SIGINT)
    Stop(Stop),
    /// Look again at everything, now. (SIGHUP)
    Reload,
}

/// For how long a daemon stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// For good, as far as anybody knows: whoever can should take over. (SIGTERM)
    Leave,
    /// It is back in seconds: nothing is handed over. (SIGINT)
    Restart,
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
            _ = self.terminate.recv() => Signal::Stop(Stop::Leave),
            _ = self.interrupt.recv() => Signal::Stop(Stop::Restart),
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
            ("TERM", Signal::Stop(Stop::Leave)),
            ("INT", Signal::Stop(Stop::Restart)),
            ("HUP", Signal::Reload),
        ] {
            send(name);
            assert_eq!(signals.next().await, meaning);
        }
    }
}
