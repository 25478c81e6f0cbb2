//! The crowd: ten thousand peers in one process, each with a key, a socket and a
//! state machine of its own, the same that our spokes run. They carry no data.
//!
//! It takes commands on standard input and answers each by one line of JSON:
//! `call` lets all peers that have no session yet begin, and `since` tells who has
//! got one since the last command, and when.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use privnet_model::key::PublicKey;
use privnet_tunnel::{
    AllowedIps, Counters, Directory, Identity, IndexAllocator, Outputs, Path, Peer, PeerIndex,
    PeerStats, PeerUpdate, Shard, ShardConfig, Target, Tunnel,
};
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::sync::watch;

use crate::{keys, network};

/// The crowd's part of the command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many peers
    #[arg(long)]
    peers: u32,

    /// The hub
    #[arg(long)]
    hub: SocketAddr,

    /// All at one address, each at a port of its own
    #[arg(long)]
    one_address: bool,
}

/// What the crowd answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sessions {
    /// Peers with a new session since the mark.
    pub(crate) count: usize,
    /// When a tenth of all had it, two tenths and so on, in seconds after the mark.
    pub(crate) tenths: Vec<f64>,
    /// Datagrams that the peers have sent in all.
    pub(crate) sent: u64,
}

/// What the peers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Wait,
    Call,
    /// No persistent keepalive any more.
    BeQuiet,
}

/// Runs the crowd until its input ends.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    nix::sys::resource::setrlimit(
        nix::sys::resource::Resource::RLIMIT_NOFILE,
        u64::from(arguments.peers) + 100,
        u64::from(arguments.peers) + 100,
    )
    .context("cannot have a socket for every peer")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(arguments))
}

async fn serve(arguments: &Arguments) -> Result<()> {
    let (orders, _) = watch::channel(Order::Wait);
    let sent = Arc::<AtomicU64>::default();
    let hub = keys::hub().public();
    let mut stats = Vec::new();
    for number in 0..arguments.peers {
        let spoke = Spoke::new(number, hub, arguments, Arc::clone(&sent)).await?;
        stats.push(Arc::clone(&spoke.stats));
        tokio::spawn(spoke.live(orders.subscribe()));
    }
    let (commands_in, mut commands) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if commands_in.blocking_send(line).is_err() {
                break;
            }
        }
    });
    answer(&"ready")?;
    let mut mark = Instant::now();
    while let Some(command) = commands.recv().await {
        match command.as_str() {
            "call" => {
                mark = Instant::now();
                orders.send_replace(Order::Call);
                answer(&"called")?;
            }
            "quiet" => {
                orders.send_replace(Order::BeQuiet);
                answer(&"quiet")?;
            }
            "mark" => {
                mark = Instant::now();
                answer(&"marked")?;
            }
            "since" => answer(&sessions(&stats, mark, sent.load(Ordering::Relaxed)))?,
            _ => bail!("what is {command:?}?"),
        }
    }
    Ok(())
}

fn answer(answer: &impl Serialize) -> Result<()> {
    let mut output = std::io::stdout().lock();
    serde_json::to_writer(&mut output, answer)?;
    output.write_all(b"\n")?;
    Ok(output.flush()?)
}

fn sessions(stats: &[Arc<PeerStats>], mark: Instant, sent: u64) -> Sessions {
    let mut times: Vec<Duration> = stats
        .iter()
        .filter_map(|stats| stats.report().last_handshake?.checked_duration_since(mark))
        .collect();
    times.sort_unstable();
    let tenths = (1..=10).filter_map(|tenth| {
        let rank = (stats.len() * tenth).div_ceil(10);
        times.get(rank.checked_sub(1)?).map(Duration::as_secs_f64)
    });
    Sessions {
        count: times.len(),
        tenths: tenths.collect(),
        sent,
    }
}

/// One peer.
struct Spoke {
    shard: Shard,
    index: PeerIndex,
    peer: Option<Peer>,
    stats: Arc<PeerStats>,
    socket: UdpSocket,
    out: Outputs,
    sent: Arc<AtomicU64>,
}

impl Spoke {
    async fn new(
        number: u32,
        hub: PublicKey,
        arguments: &Arguments,
        sent: Arc<AtomicU64>,
    ) -> Result<Self> {
        let identity = Arc::new(Identity::new(&keys::peer(number)));
        let index = IndexAllocator::default()
            .allocate()
            .context("no index for the hub")?;
        let stats = Arc::<PeerStats>::default();
        let peer = Peer::new(
            index,
            Some(Tunnel::new(&identity, &hub, None, index)),
            Some(arguments.hub),
            Some(KEEPALIVE),
            Arc::clone(&stats),
        );
        let mut shard = Shard::new(ShardConfig {
            worker: 0,
            workers: 1,
            relay: false,
            mtu: 1420,
            counters: Arc::<Counters>::default(),
        });
        let everything: IpNet = "0.0.0.0/0".parse()?;
        shard.set_directory(Arc::new(Directory {
            identity: Some(identity),
            peers: [(hub, index)].into(),
            allowed_ips: AllowedIps::new([(everything, Target::Peer(index))]),
            ..Directory::default()
        }));
        let address = network::peer_address(number, arguments.one_address);
        Ok(Self {
            shard,
            index,
            peer: Some(peer),
            stats,
            socket: UdpSocket::bind(address)
                .await
                .with_context(|| format!("cannot bind {address}"))?,
            out: Outputs::new(1),
            sent,
        })
    }

    async fn live(mut self, mut orders: watch::Receiver<Order>) {
        let mut buffer = [0; 2048];
        loop {
            let now = Instant::now();
            let tick = self.shard.next_tick(now);
            tokio::select! {
                order = orders.changed() => {
                    if order.is_err() {
                        return;
                    }
                    let order = *orders.borrow_and_update();
                    self.follow(order);
                }
                received = self.socket.recv_from(&mut buffer) => {
                    // An error tells of an earlier datagram: the hub was away.
                    if let Ok((length, from)) = received {
                        let now = Instant::now();
                        let outer = Path::from(from).into();
                        self.shard.datagrams(outer, length, &buffer[..length], now, &mut self.out);
                    }
                }
                () = sleep_until(tick) => {
                    self.shard.tick(Instant::now(), &mut self.out);
                }
            }
            for (to, datagram) in self.out.datagrams.iter() {
                // What is lost here is lost on the network.
                if self.socket.try_send_to(datagram, to.remote).is_ok() {
                    self.sent.fetch_add(1, Ordering::Relaxed);
                }
            }
            self.out.datagrams.clear();
            self.out.packets.clear();
        }
    }

    fn follow(&mut self, order: Order) {
        let now = Instant::now();
        match order {
            Order::Wait => {}
            Order::Call => {
                if let Some(peer) = self.peer.take() {
                    self.shard.insert(Box::new(peer), now);
                }
            }
            Order::BeQuiet => {
                let update = PeerUpdate {
                    keepalive: Some(None),
                    ..PeerUpdate::default()
                };
                self.shard.update(self.index, update, now);
            }
        }
    }
}

/// The interval of the persistent keepalive, as our spokes have it.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(25);

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
