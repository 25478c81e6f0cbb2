//! The hub under test: the real program, configured over its own socket, and what
//! the kernel tells of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use privnet_tests::namespace::Namespace;
use privnet_tests::process::{Process, wait_until};
use privnet_tests::programs;

use crate::network::{BUSY_INSIDE, HUB_INSIDE, PORT, peer_address, peer_prefix};
use crate::{crowd, keys};

/// How the hub knows its peers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Knowledge {
    /// How many of the crowd.
    pub(crate) peers: u32,
    /// Whether it knows where they are, and calls.
    pub(crate) calls: bool,
}

/// A hub that runs.
#[derive(Debug)]
pub(crate) struct Hub {
    process: Process,
    /// Where its part of the log begins: hubs come one after another.
    log_start: usize,
}

impl Hub {
    /// Starts the program, with an interface and no peers.
    pub(crate) fn start(program: &Path, namespace: &Namespace, workers: u32) -> Result<Self> {
        let process = tunnel(program, namespace, workers, &["--relay"])?;
        let hub = Self {
            log_start: process.log().len(),
            process,
        };
        namespace.ip(&[
            format!("addr add {HUB_INSIDE}/24 dev wg0"),
            "route add 10.0.0.0/8 dev wg0".to_owned(),
        ])?;
        Ok(hub)
    }

    /// Tells it all its peers in one request, and returns how long it took.
    pub(crate) fn configure(
        &self,
        namespace: &Namespace,
        knowledge: Knowledge,
    ) -> Result<Duration> {
        let mut text = format!(
            "set=1\nprivate_key={}\nlisten_port={PORT}\nreplace_peers=true\n",
            *keys::hub().to_hex()
        );
        for number in 0..knowledge.peers {
            let key = keys::peer(number).public();
            writeln!(text, "public_key={}", key.to_hex())?;
            writeln!(text, "allowed_ip={}", peer_prefix(number))?;
            if knowledge.calls {
                writeln!(text, "endpoint={}", peer_address(number, false))?;
                let seconds = crowd::KEEPALIVE.as_secs();
                writeln!(text, "persistent_keepalive_interval={seconds}")?;
            }
        }
        let busy = keys::busy().public();
        writeln!(text, "public_key={}", busy.to_hex())?;
        writeln!(text, "allowed_ip={BUSY_INSIDE}/32\n")?;
        let start = Instant::now();
        request(namespace, &text)?;
        Ok(start.elapsed())
    }

    /// Ends it, and returns what it has counted.
    pub(crate) fn end(mut self) -> Result<BTreeMap<String, u64>> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(Duration::from_secs(10))?;
        let log = self.process.log();
        // Each counter is a line that ends in `NAME value=COUNT`.
        let counters = log[self.log_start..].lines().filter_map(|line| {
            let (rest, count) = line.rsplit_once(" value=")?;
            let name = rest.rsplit(' ').next()?;
            Some((name.to_owned(), count.parse().ok()?))
        });
        Ok(counters.collect())
    }

    /// CPU time of all its threads until now, and its memory and the peak of that.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let (rss, peak) = self.process.memory_bytes()?;
        let mut cpu = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let path = task?.path().join("schedstat");
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            cpu += text
                .split_whitespace()
                .next()
                .and_then(|nanoseconds| nanoseconds.parse::<u64>().ok())
                .unwrap_or(0);
        }
        Ok(Usage {
            cpu: Duration::from_nanos(cpu),
            rss,
            peak,
        })
    }
}

/// What the hub has used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) rss: u64,
    pub(crate) peak: u64,
}

/// The program under test: a release build, though this one is none.
pub(crate) fn program(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => programs::directory()?
            .with_file_name("release")
            .join("privnet-wg"),
    };
    ensure!(
        path.is_file(),
        "{} is missing (make swarm builds it)",
        path.display()
    );
    Ok(path)
}

/// Starts the data plane in a namespace, with interface `wg0`.
fn tunnel(program: &Path, namespace: &Namespace, workers: u32, more: &[&str]) -> Result<Process> {
    let workers = workers.to_string();
    let arguments = ["--foreground", "--workers", &workers];
    let arguments = arguments.iter().chain(more).chain(&["wg0"]);
    let mut process = namespace.start("wg", program, arguments)?;
    wait_until("the interface", Duration::from_secs(10), || {
        process.check()?;
        Ok(request(namespace, "get=1\n\n").ok())
    })?;
    Ok(process)
}

/// Makes a request of the WireGuard socket in a namespace, and waits for the
/// answer.
pub(crate) fn request(namespace: &Namespace, text: &str) -> Result<String> {
    let path = namespace.directory().join("wireguard/wg0.sock");
    let mut stream =
        UnixStream::connect(&path).with_context(|| format!("cannot reach {}", path.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(text.as_bytes())?;
    let mut answer = Vec::new();
    let mut part = [0; 1 << 16];
    while !answer.ends_with(b"\n\n") {
        let length = stream.read(&mut part)?;
        ensure!(length > 0, "the WireGuard socket closed");
        answer.extend_from_slice(&part[..length]);
    }
    let answer = String::from_utf8(answer)?;
    ensure!(answer.ends_with("errno=0\n\n"), "refused: {answer}");
    Ok(answer)
}

/// The busy peer, towards the hub.
pub(crate) fn start_busy(
    program: &Path,
    namespace: &Namespace,
    hub: SocketAddr,
) -> Result<Process> {
    let process = tunnel(program, namespace, 1, &[])?;
    namespace.ip(&[format!("addr add {BUSY_INSIDE}/24 dev wg0")])?;
    let text = format!(
        "set=1\nprivate_key={}\npublic_key={}\nendpoint={hub}\n\
         persistent_keepalive_interval=25\nallowed_ip={HUB_INSIDE}/32\n\n",
        *keys::busy().to_hex(),
        keys::hub().public().to_hex(),
    );
    request(namespace, &text)?;
    Ok(process)
}
