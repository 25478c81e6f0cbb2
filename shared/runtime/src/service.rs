//! The service manager (systemd): ready, reloading, stopping, what is going
//! on, and the watchdog.
//!
//! Outside of a service manager all of this does nothing. It never decides
//! anything: a notice that cannot be sent is logged, and work goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{debug, warn};

/// How often the main loop beats when no watchdog asks for more.
const DEFAULT_BEAT: Duration = Duration::from_secs(10);

/// The daemon does its work from here on (and after a reload, again).
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// A reload has begun; [`ready`] ends it.
pub fn reloading() {
    // `Type=notify-reload` requires the time (sd_notify(3)).
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "no monotonic clock for the service manager"),
    }
}

/// The daemon is on its way out.
pub fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// What is going on, in one line, for `systemctl status`.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(&one_line(status))]);
}

/// Starts to feed the service manager's watchdog, if it set one, for as long
/// as the main loop calls [`Heartbeat::beat`]. Within a Tokio runtime only;
/// once per process.
///
/// A loop that hangs no longer beats, a runtime that hangs no longer feeds:
/// either way the service manager restarts the daemon.
pub fn watchdog() -> Heartbeat {
    let beats = Arc::new(AtomicU64::new(0));
    let timeout = sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero());
    if let Some(timeout) = timeout {
        debug!(?timeout, "the service manager's watchdog is on");
        tokio::spawn(feed(Arc::clone(&beats), timeout / 2));
    }
    Heartbeat {
        beats,
        // Two beats for each feeding, so that none is missed by a hair.
        period: timeout.map_or(DEFAULT_BEAT, |timeout| (timeout / 4).min(DEFAULT_BEAT)),
    }
}

/// How the main loop proves that it is alive.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    beats: Arc<AtomicU64>,
    period: Duration,
}

impl Heartbeat {
    /// The main loop has come round once more. Costs one atomic addition.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// How often the main loop must come round at least: the period of a
    /// ticker in its `select!`.
    pub fn period(&self) -> Duration {
        self.period
    }
}

async fn feed(beats: Arc<AtomicU64>, every: Duration) {
    let mut ticker = tokio::time::interval(every);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick is at once and only starts the counting.
    ticker.tick().await;
    let mut seen = beats.load(Ordering::Relaxed);
    loop {
        ticker.tick().await;
        let now = beats.load(Ordering::Relaxed);
        if now == seen {
            warn!(
                silent_for = ?every,
                "the main loop does not come round: the watchdog is not fed"
            );
        } else {
            notify(&[NotifyState::Watchdog]);
        }
        seen = now;
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager cannot be told");
    }
}

/// A notice is a list of lines: a line break in a status would be an
/// assignment of its own.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::os::unix::net::UnixDatagram;
    use std::process::{Child, Command, Stdio};

    use super::*;

    // Where to send notices, and whether there is a watchdog, is in the
    // environment, which a process with threads cannot change safely. So each
    // test runs one of the `child_…` below in a process of its own.
    struct Manager {
        socket: UnixDatagram,
        child: Child,
        _directory: tempfile::TempDir,
    }

    impl Manager {
        fn run(child: &str, watchdog: Option<Duration>) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("notify");
            let socket = UnixDatagram::bind(&path).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            let mut command = Command::new(std::env::current_exe().unwrap());
            command
                .args(["--ignored", "--exact", &format!("service::tests::{child}")])
                .env("NOTIFY_SOCKET", &path)
                .stdout(Stdio::null());
            if let Some(timeout) = watchdog {
                command.env("WATCHDOG_USEC", timeout.as_micros().to_string());
            }
            let child = command.spawn().unwrap();
            Self {
                socket,
                child,
                _directory: directory,
            }
        }

        fn next(&self) -> String {
            let mut buffer = [0; 4096];
            let length = self.socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        }
    }

    impl Drop for Manager {
        fn drop(&mut self) {
            // The child may have ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    #[test]
    fn the_life_of_a_daemon_is_told() {
        let manager = Manager::run("child_lives", None);
        assert_eq!(manager.next().trim_end(), "READY=1\nSTATUS=3 tunnels");
        let reloading = manager.next();
        assert!(
            reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
            "{reloading}"
        );
        assert_eq!(
            manager.next().trim_end(),
            "STATUS=a status READY=1 in one line"
        );
        assert_eq!(manager.next().trim_end(), "STOPPING=1\nSTATUS=stopping");
    }

    #[test]
    #[ignore = "run by the_life_of_a_daemon_is_told"]
    fn child_lives() {
        ready("3 tunnels");
        reloading();
        status("a status\nREADY=1\nin one line");
        stopping();
    }

    #[test]
    fn the_watchdog_is_fed_while_the_loop_beats_and_no_longer() {
        let manager = Manager::run("child_beats_then_hangs", Some(Duration::from_millis(200)));
        let told: Vec<String> = std::iter::from_fn(|| Some(manager.next().trim_end().to_owned()))
            .take_while(|notice| notice != "STATUS=hung for 10 feedings")
            .collect();
        let hangs = told
            .iter()
            .position(|notice| notice == "STATUS=hangs")
            .unwrap();
        assert!(
            told[..hangs].iter().all(|notice| notice == "WATCHDOG=1"),
            "{told:?}"
        );
        assert!(hangs >= 3, "{told:?}");
        // At most the feeding for the last beat may come late.
        assert!(told.len() - hangs <= 2, "{told:?}");
    }

    #[tokio::test]
    #[ignore = "run by the_watchdog_is_fed_while_the_loop_beats_and_no_longer"]
    async fn child_beats_then_hangs() {
        let heartbeat = watchdog();
        let mut ticker = tokio::time::interval(heartbeat.period());
        for _ in 0..20 {
            ticker.tick().await;
            heartbeat.beat();
        }
        status("hangs");
        // What is shown here is that nothing is sent for this long.
        tokio::time::sleep(Duration::from_secs(1)).await;
        status("hung for 10 feedings");
    }

    #[tokio::test]
    async fn without_a_watchdog_there_is_still_a_period_to_tick_by() {
        let heartbeat = watchdog();
        heartbeat.beat();
        assert_eq!(heartbeat.period(), DEFAULT_BEAT);
    }
}
