//! The flood: junk of one kind to the hub's port, at a steady rate, from many
//! addresses.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use privnet_model::key::PublicKey;
use privnet_tunnel::{
    Counters, Directory, Identity, IndexAllocator, Outputs, Peer, PeerStats, Shard, ShardConfig,
    Tunnel,
};
use serde::Serialize;

use crate::keys;

/// Addresses that the flood comes from.
const SOURCES: u16 = 64;

/// Different initiations that are sent again and again: the hub keeps no memory
/// of strangers, so each is as good as new.
const INITIATIONS: u32 = 512;

/// The flood's part of the command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Of what
    #[arg(long, value_enum)]
    kind: Kind,

    /// The hub
    #[arg(long)]
    hub: SocketAddr,

    /// Datagrams per second
    #[arg(long)]
    rate: u32,
}

/// What the flood consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Whole initiations of keys that are no peer's: each costs a Diffie-Hellman.
    Initiations,
    /// Initiations whose MAC is wrong
    WrongMac,
    /// Data messages to indexes that peers have, which do not decrypt
    Data,
    /// Random bytes
    Random,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Initiations, Self::WrongMac, Self::Data, Self::Random];
}

/// Sends until it is killed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.rate == 0 {
        bail!("a flood of nothing");
    }
    let junk = junk(arguments.kind)?;
    let sockets: Vec<UdpSocket> = (1..=SOURCES)
        .map(|host| {
            let address =
                Ipv4Addr::from((u32::from(Ipv4Addr::new(198, 19, 0, 0))) + u32::from(host));
            let socket =
                UdpSocket::bind((address, 0)).with_context(|| format!("cannot bind {address}"))?;
            socket.set_nonblocking(true)?;
            socket.connect(arguments.hub)?;
            Ok(socket)
        })
        .collect::<Result<_>>()?;
    let start = Instant::now();
    let mut sent = 0u64;
    for (socket, datagram) in sockets.iter().cycle().zip(junk.iter().cycle()) {
        // A refused datagram, or one too many: it is only junk.
        let _ = socket.send(datagram);
        sent += 1;
        let due = Duration::from_secs_f64(sent as f64 / f64::from(arguments.rate));
        if let Some(early) = due.checked_sub(start.elapsed())
            && early > Duration::from_millis(1)
        {
            std::thread::sleep(early);
        }
    }
    Ok(())
}

fn junk(kind: Kind) -> Result<Vec<Vec<u8>>> {
    let hub = keys::hub().public();
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    match kind {
        Kind::Initiations => (0..INITIATIONS)
            .map(|number| initiation(number, hub))
            .collect(),
        Kind::WrongMac => Ok((0..512)
            .map(|_| [&[1, 0, 0, 0], &noise.bytes(144)[..]].concat())
            .collect()),
        Kind::Data => Ok((0..512u32)
            .map(|number| {
                // The first session of a peer in one of the first slots.
                let receiver = (number % 64) << 8 | 1;
                let head = [&[4, 0, 0, 0], &receiver.to_le_bytes()[..]].concat();
                [head, noise.bytes(1400)].concat()
            })
            .collect()),
        Kind::Random => Ok((0..512).map(|_| noise.bytes(200)).collect()),
    }
}

/// A whole and valid initiation by somebody whom the hub does not know.
fn initiation(number: u32, hub: PublicKey) -> Result<Vec<u8>> {
    let identity = Identity::new(&keys::stranger(number)).into();
    let index = IndexAllocator::default().allocate().context("no index")?;
    let nowhere: SocketAddr = (Ipv4Addr::LOCALHOST, 9).into();
    let peer = Peer::new(
        index,
        Some(Tunnel::new(&identity, &hub, None, index)),
        Some(nowhere),
        Some(Duration::from_secs(25)),
        PeerStats::default().into(),
    );
    let mut shard = Shard::new(ShardConfig {
        worker: 0,
        workers: 1,
        relay: false,
        mtu: 1420,
        counters: Counters::default().into(),
    });
    shard.set_directory(Directory::default().into());
    let (now, mut out) = (Instant::now(), Outputs::new(1));
    shard.insert(Box::new(peer), now);
    shard.tick(now, &mut out);
    let (_, message) = out.datagrams.iter().next().context("no initiation came")?;
    Ok(message.to_vec())
}

/// Bytes without any order to speak of (xorshift), the same in every run.
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count)
            .map(|_| {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                self.0 as u8
            })
            .collect()
    }
}
