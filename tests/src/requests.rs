//! A client that asks a web server for something every 50 ms, over a new connection
//! each time, as short-lived clients behind a NAT gateway do; and what became of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::deployment::PATIENCE;
use crate::namespace::Namespace;
use crate::process::wait_until;

/// From one request to the next.
pub const INTERVAL: Duration = Duration::from_millis(50);
/// So long a connection may take: less than its first packet takes to be sent again,
/// so that one which is lost shows.
const CONNECT: Duration = Duration::from_millis(950);
/// An answer may take longer: the machine may be busy.
const ANSWER: Duration = Duration::from_secs(5);

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// When it began.
    pub at: Instant,
    /// When it had its answer, or was given up.
    pub until: Instant,
    /// The address that the server saw; nothing if there was no answer.
    pub seen_as: Option<Ipv4Addr>,
}

/// Requests under way. They end when this is dropped.
#[derive(Debug)]
pub struct Requests {
    stop: Arc<AtomicBool>,
    made: Arc<Mutex<Vec<Request>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Requests {
    /// Begins to ask the server at that address, port 80, from there.
    pub fn start(from: &Namespace, server: Ipv4Addr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let made = Arc::new(Mutex::new(Vec::new()));
        let (stopped, record) = (Arc::clone(&stop), Arc::clone(&made));
        let thread = from.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(ask_until(&stopped, server.into(), &record));
            Ok(())
        });
        Self {
            stop,
            made,
            thread: Some(thread),
        }
    }

    /// What is known of those that have ended, in the order in which they began.
    pub fn made(&self) -> Vec<Request> {
        let made = self.made.lock();
        let mut made = made.unwrap_or_else(PoisonError::into_inner).clone();
        made.sort_by_key(|request| request.at);
        made
    }

    /// Waits until so many of those that begin from now on have answers.
    pub fn answers(&self, count: usize) -> Result<()> {
        let since = Instant::now();
        wait_until("requests to be answered", PATIENCE, || {
            let made = self.made();
            let new = made.iter().filter(|one| one.at >= since);
            let answered = new.filter(|one| one.seen_as.is_some()).count();
            Ok((answered >= count).then_some(()))
        })
    }

    /// Waits for the last one, and tells of all.
    pub fn end(mut self) -> Result<Vec<Request>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("ended already")?;
        match thread.join() {
            Ok(result) => result?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        Ok(self.made())
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Each time from the beginning of a request that failed to that of the next one that did
/// not, or as long as was seen.
pub fn outages(requests: &[Request]) -> Vec<Range<Instant>> {
    let mut outages: Vec<Range<Instant>> = Vec::new();
    let mut failing: Option<Range<Instant>> = None;
    for request in requests {
        let since = failing.map_or(request.at, |failing| failing.start);
        failing = Some(since..request.at);
        if request.seen_as.is_some() {
            outages.extend(failing.take().filter(|time| !time.is_empty()));
        }
    }
    outages.extend(failing.filter(|time| !time.is_empty()));
    outages
}

/// From its beginning to its end.
pub fn length(time: &Range<Instant>) -> Duration {
    time.end - time.start
}

/// Those that had no answer: when each was under way.
pub fn lost(requests: &[Request]) -> Vec<Range<Instant>> {
    let lost = requests.iter().filter(|request| request.seen_as.is_none());
    lost.map(|request| request.at..request.until).collect()
}

async fn ask_until(stop: &AtomicBool, server: std::net::IpAddr, record: &Arc<Mutex<Vec<Request>>>) {
    let mut beat = interval(INTERVAL);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = tokio::task::JoinSet::new();
    while !stop.load(Ordering::Relaxed) {
        beat.tick().await;
        let record = Arc::clone(record);
        asked.spawn(async move {
            let at = Instant::now();
            let seen_as = ask(SocketAddr::from((server, 80))).await;
            let until = Instant::now();
            let made = record.lock();
            let mut made = made.unwrap_or_else(PoisonError::into_inner);
            made.push(Request { at, until, seen_as });
        });
        while asked.try_join_next().is_some() {}
    }
    asked.join_all().await;
}

/// The address that the server says it saw.
async fn ask(server: SocketAddr) -> Option<Ipv4Addr> {
    let connection = timeout(CONNECT, TcpStream::connect(server)).await;
    let mut connection = connection.ok()?.ok()?;
    let exchange = async {
        connection.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(ANSWER, exchange).await.ok()?.ok()?;
    answer.lines().last()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_lasts_from_a_failure_to_the_next_success() {
        let start = Instant::now();
        let request = |n: u32, well: bool| Request {
            at: start + INTERVAL * n,
            until: start + INTERVAL * n,
            seen_as: well.then_some(Ipv4Addr::LOCALHOST),
        };
        let made = [
            request(0, true),
            request(1, false),
            request(2, true),
            request(3, false),
            request(4, false),
            request(5, true),
        ];
        let each = |made: &[Request]| outages(made).iter().map(length).collect::<Vec<_>>();
        assert_eq!(each(&made), [INTERVAL, INTERVAL * 2]);
        assert_eq!(lost(&made).len(), 3);
        // One that has not ended is as long as it was seen.
        assert_eq!(each(&made[..5]), [INTERVAL, INTERVAL]);
        assert!(each(&made[..1]).is_empty());
    }
}
