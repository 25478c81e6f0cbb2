//! Many TCP connections through the gateway: made and closed as fast as it goes, or
//! held all at once.

use std::fmt;
use std::io::{BufRead, BufReader, Lines, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use privnet_tests::namespace::Namespace;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::network::{Network, SERVER};

/// The first port that the server listens at.
const PORT: u16 = 7000;
/// Connections that are being made at the same time.
const AT_ONCE: usize = 64;
const PATIENCE: Duration = Duration::from_secs(20);

/// What became of connections that were held all at once.
#[derive(Debug)]
pub(crate) struct Held {
    made: u32,
    answered: u32,
    tracked: u64,
    dropped: u64,
    bytes_each: u64,
    took: Duration,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} connections held at once, made in {:.1} s; {} of them answered then; the kernel \
             remembered {}, dropped {} packets of new ones, and has entries of {} bytes for them ({} MB)",
            self.made,
            self.took.as_secs_f32(),
            self.answered,
            self.tracked,
            self.dropped,
            self.bytes_each,
            self.bytes_each * self.tracked / 1_000_000
        )
    }
}

/// An echo server in the server's namespace, until this is dropped.
struct Echo(Arc<AtomicBool>);

impl Echo {
    fn start(server: &Namespace) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        server.spawn(move || {
            runtime()?.block_on(async {
                let echo = tokio::spawn(echo(listener(PORT)?));
                while !stopped.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                echo.abort();
                Ok(())
            })
        });
        Self(stop)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn listener(port: u16) -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((SERVER, port)))?;
    Ok(socket.listen(8192)?)
}

async fn echo(listener: TcpListener) {
    while let Ok((mut connection, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut byte = [0];
            while let Ok(1) = connection.read(&mut byte).await {
                if connection.write_all(&byte).await.is_err() {
                    break;
                }
            }
        });
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// How many connections were made and closed in this time, each with one byte there and
/// back.
pub(crate) fn connect_and_close(network: &Network, length: Duration) -> Result<u64> {
    let _echo = Echo::start(&network.server);
    let made = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&made);
    network.client.enter(move || {
        runtime()?.block_on(async {
            let server = SocketAddr::from((SERVER, PORT));
            reachable(server).await?;
            let end = Instant::now() + length;
            let mut callers = JoinSet::new();
            for _ in 0..AT_ONCE {
                let counter = Arc::clone(&counter);
                callers.spawn(async move {
                    while Instant::now() < end {
                        let mut connection = TcpStream::connect(server).await?;
                        ask(&mut connection).await?;
                        // A reset: what waits for late packets would use up the ports.
                        connection.set_zero_linger()?;
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                    std::io::Result::Ok(())
                });
            }
            for ended in callers.join_all().await {
                ended.context("a connection")?;
            }
            Ok(())
        })
    })?;
    Ok(made.load(Ordering::Relaxed))
}

/// Has so many connections made, holds them for a while, and asks each for an answer.
/// By several programs on both sides: one may not open so many files.
pub(crate) fn hold(network: &Network, count: u32) -> Result<Held> {
    let program = std::env::current_exe()?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let each = u32::try_from(most.min(50_000))? - 100;
    let before = dropped(&network.gateway)?;
    let start = Instant::now();
    let mut servers = Vec::new();
    let mut holders = Vec::new();
    for (number, port) in (0..count.div_ceil(each)).zip(PORT..) {
        let count = each.min(count - number * each);
        let listen = port.to_string();
        servers.push(network.server.start(
            &format!("echo-{port}"),
            &program,
            ["--echo", &listen],
        )?);
        holders.push(Holder::start(&network.client, &program, port, count)?);
    }
    let mut made = 0;
    for holder in &mut holders {
        made += holder.told("made")?;
    }
    let took = start.elapsed();
    std::thread::sleep(Duration::from_secs(5));
    let tracked = tracked(&network.gateway)?;
    let mut answered = 0;
    for holder in &mut holders {
        holder.go_on()?;
        answered += holder.told("answered")?;
    }
    let held = Held {
        made,
        answered,
        tracked,
        dropped: dropped(&network.gateway)? - before,
        bytes_each: bytes_each()?,
        took,
    };
    ensure!(held.made == count && held.answered == count, "{held}");
    Ok(held)
}

/// A program that holds connections.
struct Holder {
    process: Child,
    orders: ChildStdin,
    news: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    fn start(client: &Namespace, program: &Path, port: u16, count: u32) -> Result<Self> {
        let mut command = client.command(program);
        command.args(["--hold", &count.to_string(), "--at", &port.to_string()]);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = process.stdin.take().context("no way in")?;
        let news = BufReader::new(process.stdout.take().context("no way out")?).lines();
        Ok(Self {
            process,
            orders,
            news,
        })
    }

    fn told(&mut self, what: &str) -> Result<u32> {
        let line = self
            .news
            .next()
            .context("a program that holds connections ended")??;
        let (told, count) = line.split_once(' ').context(line.clone())?;
        ensure!(told == what, "{line}");
        Ok(count.parse()?)
    }

    fn go_on(&mut self) -> Result<()> {
        Ok(self.orders.write_all(b"\n")?)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program that answers, at this port.
pub(crate) fn serve(port: u16) -> Result<()> {
    raise_limit()?;
    runtime()?.block_on(async {
        let listener = listener(port)?;
        echo(listener).await;
        Ok(())
    })
}

/// The program that holds so many connections to that port.
pub(crate) fn hold_here(count: u32, port: u16) -> Result<()> {
    raise_limit()?;
    let server = SocketAddr::from((SERVER, port));
    runtime()?.block_on(async {
        reachable(server).await?;
        let mut held = Vec::new();
        let mut making = JoinSet::new();
        for _ in 0..count {
            making.spawn(TcpStream::connect(server));
            if making.len() >= AT_ONCE {
                let made = making.join_next().await.context("none is being made")?;
                held.push(made??);
            }
        }
        for made in making.join_all().await {
            held.push(made?);
        }
        println!("made {}", held.len());
        std::io::stdin().read_line(&mut String::new())?;
        let mut answered = 0;
        for connection in &mut held {
            answered += u32::from(ask(connection).await.is_ok());
        }
        println!("answered {answered}");
        // Until the other end of this is closed: with it, everything ends.
        std::io::stdin().read_line(&mut String::new())?;
        Ok(())
    })
}

fn raise_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

async fn reachable(server: SocketAddr) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while let Err(error) = TcpStream::connect(server).await {
        ensure!(Instant::now() < end, "{server}: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn ask(connection: &mut TcpStream) -> std::io::Result<()> {
    let exchange = async {
        connection.write_all(b"?").await?;
        connection.read_exact(&mut [0]).await
    };
    timeout(PATIENCE, exchange).await??;
    Ok(())
}

fn tracked(gateway: &Namespace) -> Result<u64> {
    let count = gateway.run("cat", ["/proc/sys/net/netfilter/nf_conntrack_count"])?;
    count.trim().parse().context("nf_conntrack_count")
}

/// Packets of connections for which there was no place, over all processors.
fn dropped(gateway: &Namespace) -> Result<u64> {
    let table = gateway.run("cat", ["/proc/net/stat/nf_conntrack"])?;
    let mut lines = table.lines();
    let names: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let column = names.iter().position(|name| *name == "drop");
    let column = column.context("no column drop")?;
    let figures = lines.filter_map(|line| line.split_whitespace().nth(column));
    figures
        .map(|figure| Ok(u64::from_str_radix(figure, 16)?))
        .sum()
}

/// What the kernel keeps for a connection, without what extends it for NAT: that is in
/// slabs that others use as well.
fn bytes_each() -> Result<u64> {
    let slabs = std::fs::read_to_string("/proc/slabinfo").context("/proc/slabinfo")?;
    let line = slabs.lines().find(|line| line.starts_with("nf_conntrack "));
    let size = line.and_then(|line| line.split_whitespace().nth(3));
    Ok(size.context("no slab nf_conntrack")?.parse()?)
}
