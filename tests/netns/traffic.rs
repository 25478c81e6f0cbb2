//! Traffic between hosts of a star whose every byte is checked: streams in both
//! directions at once, and bursts of datagrams there and back. Sent and received
//! by this process itself, through sockets that it opens in the hosts' namespaces.

use std::io::{Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use privnet_tests::namespace::Namespace;
use privnet_tests::process::wait_until;

use crate::star::{Star, addresses};

/// A stream or a datagram that does not come for so long will not come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two hosts by their numbers.
pub(crate) type Route = (usize, usize);

/// One stream each way at once, for every route and family, all at the same time.
/// An error unless each arrives whole.
pub(crate) fn streams(star: &Star, routes: &[Route], bytes: usize) -> Result<()> {
    let mut ends = Vec::new();
    for (from, to) in routes {
        for address in addresses(*to) {
            let connection = connect(star.host(*from)?, star.host(*to)?, address)?;
            let name = format!("the stream between host-{from} and host-{to} ({address})");
            ends.push((name, connection));
        }
    }
    at_once(ends.iter().enumerate().flat_map(|(flow, (name, ends))| {
        // Odd lengths, and different ones.
        let length = bytes + 1 + 98 * flow;
        [[&ends[0], &ends[1]], [&ends[1], &ends[0]]]
            .into_iter()
            .enumerate()
            .flat_map(move |(direction, [from, to])| {
                let text = Text::new(2 * flow + direction, length);
                let jobs: [Job<'_>; 2] = [
                    Box::new(move || text.send(from).context("sending")),
                    Box::new(move || text.expect(to)),
                ];
                jobs.map(|job| (name.as_str(), job))
            })
    }))
}

/// Bursts of datagrams of many sizes on every route in both families, each sent
/// back as it came. An error unless each comes once, whole, in both directions.
pub(crate) fn datagrams(star: &Star, routes: &[Route]) -> Result<()> {
    let mut pairs = Vec::new();
    for (from, to) in routes {
        for (near, far) in addresses(*from).into_iter().zip(addresses(*to)) {
            let sockets = [
                star.host(*from)?.enter(|| datagram_socket(near))?,
                star.host(*to)?.enter(|| datagram_socket(far))?,
            ];
            pairs.push((format!("datagrams between {near} and {far}"), sockets));
        }
    }
    at_once(pairs.iter().map(|(name, [from, to])| {
        let job: Job<'_> = Box::new(move || {
            for (number, burst) in BURSTS.iter().enumerate() {
                let datagrams = burst.datagrams(number);
                for (from, to) in [(from, to), (to, from)] {
                    burst.carry(&datagrams, from, to).with_context(|| {
                        let near = from.local_addr();
                        format!("{burst:?} from {near:?}")
                    })?;
                }
            }
            Ok(())
        });
        (name.as_str(), job)
    }))
}

/// Pings of several sizes on every route in both families; an error if one is not
/// answered. The hosts' kernels tell: `ping` itself does not wait for an answer
/// that takes more than twice as long as those before it.
pub(crate) fn pings(star: &Star, routes: &[Route]) -> Result<()> {
    let mut pairs = Vec::new();
    for (from, to) in routes {
        for (address, size) in addresses(*to).into_iter().zip(["1300", "4001"]) {
            let name = format!("pings from host-{from} to {address}");
            pairs.push((name, star.host(*from)?, address.to_string(), size));
        }
    }
    let before = echoes(star)?;
    at_once(pairs.iter().map(|(name, host, address, size)| {
        let job: Job<'_> = Box::new(move || {
            let arguments = ["-n", "-q", "-i", "0.02", "-c", "10", "-W", "5", "-s"];
            let said = host.run("ping", arguments.iter().chain(&[*size, address]))?;
            let whole = !said.contains("duplicates") && !said.contains("wrong");
            ensure!(whole, "{said}");
            Ok(())
        });
        (name.as_str(), job)
    }))?;
    wait_until("all pings to be answered", PATIENCE, || {
        let now = echoes(star)?;
        let (sent, answered) = (now.sent - before.sent, now.answered - before.answered);
        ensure!(sent >= 10 * pairs.len() as u64, "{sent} were sent");
        ensure!(answered >= sent, "{answered} of {sent} were");
        Ok(Some(()))
    })
}

/// Echo requests that left all hosts, and answers that came to them.
struct Echoes {
    sent: u64,
    answered: u64,
}

fn echoes(star: &Star) -> Result<Echoes> {
    let mut sum = Echoes {
        sent: 0,
        answered: 0,
    };
    for number in star.numbers() {
        let files = ["/proc/net/snmp", "/proc/net/snmp6"];
        let text = star.host(number)?.run("cat", files)?;
        // IPv4's names and values stand in two lines, IPv6's in a line each.
        let mut lines = text.lines().filter(|line| line.starts_with("Icmp: "));
        let (names, values) = (lines.next().context("no ICMP")?, lines.next());
        let names = names.split_whitespace();
        let v4 = names.zip(values.unwrap_or_default().split_whitespace());
        let v6 = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?))
        });
        for (name, value) in v4.chain(v6) {
            match name {
                "OutEchos" | "Icmp6OutEchos" => sum.sent += value.parse::<u64>()?,
                "InEchoReps" | "Icmp6InEchoReplies" => sum.answered += value.parse::<u64>()?,
                _ => {}
            }
        }
    }
    Ok(sum)
}

/// Whether the kernel takes a run of datagrams to cut up here. Only the refusal
/// that stands for a missing checksum offload (EIO) counts as one.
pub(crate) fn can_be_cut_up(from: &Namespace, to: SocketAddr) -> Result<bool> {
    let any = match to {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = from.enter(|| Ok(UdpSocket::bind(SocketAddr::new(any, 0))?))?;
    setsockopt(&socket, sockopt::UdpGsoSegment, &100)?;
    match socket.send_to(&[0; 1000], to) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => Ok(false),
        Err(error) => Err(error).context("sending datagrams to be cut up"),
    }
}

type Job<'a> = Box<dyn FnOnce() -> Result<()> + Send + 'a>;

/// Does everything at the same time, and tells every failure by its name.
fn at_once<'a>(jobs: impl Iterator<Item = (&'a str, Job<'a>)>) -> Result<()> {
    let failures: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = jobs.map(|(name, job)| (name, scope.spawn(job))).collect();
        threads
            .into_iter()
            .filter_map(|(name, thread)| {
                let outcome = thread.join().unwrap_or_else(|_| bail!("it panicked"));
                outcome.err().map(|error| format!("{name}: {error:#}"))
            })
            .collect()
    });
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn connect(from: &Namespace, to: &Namespace, address: IpAddr) -> Result<[TcpStream; 2]> {
    let listener = to.enter(|| Ok(TcpListener::bind(SocketAddr::new(address, 0))?))?;
    let there = listener.local_addr()?;
    let near = from
        .enter(|| Ok(TcpStream::connect_timeout(&there, PATIENCE)?))
        .with_context(|| format!("{} to {there}", from.name()))?;
    let (far, _) = listener.accept()?;
    for end in [&near, &far] {
        end.set_read_timeout(Some(PATIENCE))?;
        end.set_write_timeout(Some(PATIENCE))?;
    }
    Ok([near, far])
}

/// What a stream carries: noise in which each kilobyte tells which stream's it is
/// and where it belongs.
#[derive(Debug, Clone, Copy)]
struct Text {
    stream: usize,
    length: usize,
}

const BLOCK: usize = 64 << 10;
const MARKED: usize = 1 << 10;

static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| noise(7).take(BLOCK).collect());

impl Text {
    fn new(stream: usize, length: usize) -> Self {
        Self { stream, length }
    }

    /// The block at this offset.
    fn block(self, offset: usize) -> Vec<u8> {
        let mut block = NOISE.clone();
        for (number, part) in block.chunks_mut(MARKED).enumerate() {
            let mark = (self.stream << 48) + offset + number * MARKED;
            part[..8].copy_from_slice(&mark.to_be_bytes());
        }
        block.truncate(self.length - offset);
        block
    }

    fn send(self, mut to: &TcpStream) -> Result<()> {
        for offset in (0..self.length).step_by(BLOCK) {
            to.write_all(&self.block(offset))?;
        }
        Ok(to.shutdown(Shutdown::Write)?)
    }

    fn expect(self, mut from: &TcpStream) -> Result<()> {
        let mut block = vec![0; BLOCK];
        for offset in (0..self.length).step_by(BLOCK) {
            let expected = self.block(offset);
            let block = &mut block[..expected.len()];
            from.read_exact(block)
                .with_context(|| format!("receiving bytes from {offset} on"))?;
            ensure!(*block == expected, "other bytes came from {offset} on");
        }
        let more = from.read(&mut block)?;
        ensure!(more == 0, "{more} bytes came after the end");
        Ok(())
    }
}

/// Datagrams that are sent one right after the other.
#[derive(Debug)]
struct Burst {
    size: usize,
    count: usize,
    /// The last one's.
    last: usize,
    /// Whether the kernel gets them as one, for it or its devices to cut up.
    together: bool,
}

const BURSTS: [Burst; 10] = [
    Burst::together(1, 20, 1),
    Burst::together(7, 50, 3),
    Burst::together(128, 60, 127),
    Burst::together(1360, 40, 1),
    Burst::together(1360, 3, 1359),
    Burst::apart(1, 10),
    Burst::apart(7, 10),
    Burst::apart(128, 20),
    Burst::apart(1360, 20),
    // More than the MTU: in fragments.
    Burst::apart(5003, 5),
];

impl Burst {
    const fn together(size: usize, count: usize, last: usize) -> Self {
        Self {
            size,
            count,
            last,
            together: true,
        }
    }

    const fn apart(size: usize, count: usize) -> Self {
        Self {
            size,
            count,
            last: size,
            together: false,
        }
    }

    /// Datagrams that differ from each other where their size allows it.
    fn datagrams(&self, burst: usize) -> Vec<Vec<u8>> {
        (0..self.count)
            .map(|number| {
                let size = if number + 1 == self.count {
                    self.last
                } else {
                    self.size
                };
                let mut datagram = vec![u8::try_from(number).unwrap_or(0)];
                datagram.extend(noise((burst * 1000 + number) as u64 + 1).take(size - 1));
                datagram
            })
            .collect()
    }

    fn carry(&self, datagrams: &[Vec<u8>], from: &UdpSocket, to: &UdpSocket) -> Result<()> {
        let address = to.local_addr()?;
        if self.together {
            setsockopt(from, sockopt::UdpGsoSegment, &i32::try_from(self.size)?)?;
            from.send_to(&datagrams.concat(), address)?;
            setsockopt(from, sockopt::UdpGsoSegment, &0)?;
        } else {
            for datagram in datagrams {
                from.send_to(datagram, address)?;
            }
        }
        let mut missing: Vec<&[u8]> = datagrams.iter().map(Vec::as_slice).collect();
        let mut room = vec![0; 1 << 16];
        while !missing.is_empty() {
            let (length, sender) = to.recv_from(&mut room).map_err(|error| {
                anyhow!(
                    "{} of {} are missing: {error}",
                    missing.len(),
                    datagrams.len()
                )
            })?;
            ensure!(sender == from.local_addr()?, "one came from {sender}");
            let found = missing.iter().position(|one| *one == &room[..length]);
            let found = found.with_context(|| {
                let start = &room[..length.min(16)];
                format!("one of {length} bytes came changed or twice: {start:?}")
            })?;
            missing.swap_remove(found);
        }
        Ok(())
    }
}

fn datagram_socket(address: IpAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(address, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // A whole burst, however late its receiver comes to it.
    setsockopt(&socket, sockopt::RcvBufForce, &(2 << 20))?;
    Ok(socket)
}

/// xorshift64.
fn noise(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    std::iter::from_fn(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some(state.to_be_bytes()[0])
    })
}
