//! The self-test of NAT egress: the interface by which its packets reach the kernel
//! as a forwarded host's would, and the clock. What to send, and what an answer
//! means, is decided elsewhere ([`privnet_reconcile::self_test`]).
//!
//! The interface is a TUN device of its own, made here and gone with this; the route
//! back and the masquerading are the [`Router`](crate::router::Router)'s. (A namespace
//! with a veth pair would do the same, and needs `CAP_SYS_ADMIN`, which a daemon of
//! ours has not.) It fails closed: while the device is missing, for whatever reason,
//! the spoke is not well, and says why.

use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use privnet_dataplane::open_plain_tun;
use privnet_reconcile::self_test::{INTERFACE, Report, SelfTest, Verdict};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tracing::{info, warn};

/// No packet of the test is larger, nor any answer that counts.
const MTU: u16 = 1500;

/// A test that runs until this is dropped.
#[derive(Debug)]
pub struct SelfTester {
    report: watch::Receiver<Report>,
    _task: JoinSet<()>,
}

impl SelfTester {
    /// Begins to test these targets, every `interval`. The interface is there already
    /// when this is done, if it can be had, so that the router can lead a route to it.
    /// Within a Tokio runtime only.
    pub fn start(targets: Vec<SocketAddrV4>, interval: Duration) -> Self {
        let test = SelfTest::new(targets, interval, Instant::now());
        let (sender, report) = watch::channel(test.report().clone());
        let mut task = JoinSet::new();
        // Why there is none shows when there is something to send.
        let device = Device(open().ok());
        task.spawn(run(test, device, sender));
        Self {
            report,
            _task: task,
        }
    }

    /// How it stands.
    pub fn report(&self) -> Report {
        self.report.borrow().clone()
    }

    /// Waits until the verdict is another, or a round has ended otherwise than the one
    /// before. After a bad one ([`Report::bad_rounds`]) have the router put everything
    /// right: what somebody changed on this host is mended before the next round is
    /// over, and nobody has to take over. Cancel-safe.
    pub async fn changed(&mut self) -> Report {
        if self.report.changed().await.is_err() {
            // Cannot be while this lives: the task ends with it.
            return std::future::pending().await;
        }
        self.report.borrow_and_update().clone()
    }
}

async fn run(mut test: SelfTest, mut device: Device, report: watch::Sender<Report>) {
    let mut buffer = [0; MTU as usize];
    let mut verdict = Verdict::Untested;
    loop {
        let now = Instant::now();
        for packet in test.due(now, rand::random) {
            if let Err(why) = device.write(&packet) {
                test.unsent(&why, now);
                break;
            }
        }
        report.send_if_modified(|known| {
            let news = known != test.report();
            if news {
                known.clone_from(test.report());
            }
            news
        });
        if test.report().verdict != verdict {
            verdict = test.report().verdict;
            match test.report().problem() {
                Some(problem) => warn!(%problem, "the self-test of NAT egress fails"),
                None => info!("the self-test of NAT egress passes"),
            }
        }
        let packet = tokio::select! {
            () = sleep_until(test.next().into()) => continue,
            packet = device.read(&mut buffer) => packet,
        };
        if let Some(back) = test.receive(packet, Instant::now()) {
            // A reset that is lost is sent again when the target asks for it again.
            let _ = device.write(&back);
        }
    }
}

/// The interface, made when it is needed.
struct Device(Option<AsyncFd<File>>);

impl Device {
    /// Sends a packet. What is wrong, if anything, as a person would say it.
    fn write(&mut self, packet: &[u8]) -> Result<(), String> {
        let device = match self.0.take() {
            Some(device) => device,
            None => open()?,
        };
        // One packet is one write: the kernel takes all of it or nothing.
        match device.get_ref().write_all(packet) {
            Ok(()) => {
                self.0 = Some(device);
                Ok(())
            }
            // Closed here, so that it is made anew: it may have been deleted, or
            // switched off by somebody.
            Err(error) => Err(format!("{INTERFACE}: {error}")),
        }
    }

    /// The next packet; never, while there is no interface. Cancel-safe.
    async fn read<'a>(&mut self, buffer: &'a mut [u8]) -> &'a [u8] {
        let Some(device) = &self.0 else {
            return std::future::pending().await;
        };
        let read = device.async_io(Interest::READABLE, |mut file| file.read(buffer));
        match read.await {
            Ok(length) => &buffer[..length],
            // Deleted, by somebody: the next packet to send makes it anew.
            Err(_) => {
                self.0 = None;
                &[]
            }
        }
    }
}

fn open() -> Result<AsyncFd<File>, String> {
    let file = open_plain_tun(INTERFACE, MTU).map_err(|error| match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })?;
    #[expect(
        deprecated,
        reason = "the name without the warning is unsafe, for the sake of types whose descriptor \
                  changes while tokio watches it: a File's does not, and nothing here replaces it"
    )]
    let watched = AsyncFd::new(file);
    watched.map_err(|error| format!("{INTERFACE}: {error}"))
}
