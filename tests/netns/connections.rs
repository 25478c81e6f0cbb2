//! What a private host and a server on the internet see when the spoke between them dies:
//! their connections go on through the one that takes over its routes and its Elastic IP
//! (`[address] connections`), or they end.

use std::hash::{DefaultHasher, Hasher};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use privnet_model::status::ConnectionsStatus;
use privnet_tests::deployment::PATIENCE;
use privnet_tests::namespace::Namespace;
use privnet_tests::process::wait_until;
use privnet_tests::topology::WEB;
use privnet_tests::world::World;
use socket2::{Domain, Protocol, Socket, Type};

use crate::addresses::{Addressed, FIRST};
use crate::takeover::{plug_in, unplug};

/// Where the server listens.
const SERVER: u16 = 7000;
/// The port that two hosts behind the spoke both use.
const PORT: u16 = 40_000;
/// From an answer to the next question of a client that talks.
const PACE: Duration = Duration::from_millis(50);
/// An answer may take so long while the address moves: the takeover, and TCP, which sends
/// again after pauses that double. Measured were 9.4 s at most, on a busy machine.
const LONGEST: Duration = Duration::from_secs(20);
/// What one end sends at once.
const CHUNK: usize = 100_000;

/// Both ends of a connection.
struct Pair {
    client: TcpStream,
    server: TcpStream,
    /// The port by which the server knows the client.
    port: u16,
}

impl Pair {
    fn open(world: &World, listener: &TcpListener, host: &str, from: SocketAddr) -> Result<Self> {
        let connect = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.bind(&from.into())?;
            socket.connect_timeout(&SocketAddr::from((WEB, SERVER)).into(), PATIENCE)?;
            Ok(TcpStream::from(socket))
        };
        let client = world.namespace(host)?.enter(connect);
        let client = client.with_context(|| format!("{from} to the server"))?;
        let (server, seen) = listener.accept()?;
        ensure!(seen.ip() == FIRST, "seen as {seen}");
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE * 2))?;
            stream.set_nodelay(true)?;
        }
        let port = seen.port();
        Ok(Self {
            client,
            server,
            port,
        })
    }

    /// Both ends send, the server first.
    fn carries(&mut self, what: &str, seed: u64) -> Result<()> {
        send(&mut self.server, &mut self.client, seed)
            .with_context(|| format!("{what}: from the server"))?;
        send(&mut self.client, &mut self.server, seed + 1)
            .with_context(|| format!("{what}: from the client"))
    }
}

/// What comes is what was sent.
fn send(from: &mut TcpStream, to: &mut TcpStream, seed: u64) -> Result<()> {
    let bytes: Vec<u8> = (seed..).map(|n| (n * 31 % 251) as u8).take(CHUNK).collect();
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| from.write_all(&bytes));
        let mut received = vec![0; CHUNK];
        to.read_exact(&mut received)?;
        let ended = sent.join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(
            hash(&received) == hash(&bytes),
            "other bytes than were sent"
        );
        Ok(())
    })
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// A client that says something every [`PACE`] and waits for the answer.
struct Talk {
    stop: Arc<AtomicBool>,
    /// The longest that an answer took since somebody asked, in milliseconds.
    longest: Arc<AtomicU64>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Talk {
    fn start(mut pair: Pair) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let longest = Arc::new(AtomicU64::new(0));
        let rounds = Arc::new(AtomicU64::new(0));
        let (record, count) = (Arc::clone(&longest), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            for number in 0_u64.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let began = Instant::now();
                pair.client.write_all(&number.to_be_bytes())?;
                let mut heard = [0; 8];
                pair.server.read_exact(&mut heard)?;
                pair.server.write_all(&heard)?;
                pair.client.read_exact(&mut heard)?;
                ensure!(heard == number.to_be_bytes(), "{heard:?} for {number}");
                let took = u64::try_from(began.elapsed().as_millis())?;
                record.fetch_max(took, Ordering::Relaxed);
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(PACE);
            }
            Ok(())
        });
        Self {
            stop,
            longest,
            rounds,
            thread,
        }
    }

    /// It has gone on, and did not wait for too long.
    fn goes_on(&self, what: &str) -> Result<()> {
        let before = self.rounds.load(Ordering::Relaxed);
        wait_until("the talk to go on", PATIENCE * 2, || {
            ensure!(!self.thread.is_finished(), "it has ended");
            let rounds = self.rounds.load(Ordering::Relaxed);
            Ok((rounds >= before + 3).then_some(()))
        })?;
        let took = self.longest.swap(0, Ordering::Relaxed);
        println!("{what}: an answer took {took} ms at most");
        ensure!(
            Duration::from_millis(took) <= LONGEST,
            "{what}: an answer took {took} ms"
        );
        Ok(())
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn start(connections: bool) -> Result<Addressed> {
    Addressed::start(&[FIRST], |allocations| {
        let allocation = &allocations[0];
        format!("[address]\nallocation = {allocation:?}\nconnections = {connections}\n")
    })
}

fn listen(world: &World) -> Result<TcpListener> {
    let listen = || Ok(TcpListener::bind((WEB, SERVER))?);
    let listener = world.web.enter(listen)?;
    Ok(listener)
}

fn told(world: &Addressed, spoke: &str) -> Result<ConnectionsStatus> {
    let connections = world.status(spoke)?.connections;
    connections.with_context(|| format!("{spoke} tells nothing of connections"))
}

/// How many connections of a spoke are known to another.
fn known(world: &Addressed, at: &str, of: &str) -> Result<u64> {
    let instance = &world.running.world.host(of)?.metadata.instance;
    let told = told(world, at)?;
    let mut kept = told.kept.iter();
    let kept = kept.find(|kept| kept.sibling == *instance);
    Ok(kept.map_or(0, |kept| kept.connections))
}

fn wait_until_known(world: &Addressed, at: &str, of: &str, count: u64) -> Result<()> {
    let what = format!("{count} connections of {of} to be known at {at}");
    wait_until(&what, PATIENCE, || {
        let known = known(world, at, of)?;
        ensure!(known >= count, "{known} are");
        Ok(Some(()))
    })
}

/// The spoke whose table is the first, its host, and the other spoke.
fn roles(world: &Addressed) -> (&'static str, &'static str, &'static str) {
    match world.running.fabric.first() {
        "host-d1" => ("spoke-d1", "host-d1", "spoke-d2"),
        _ => ("spoke-d2", "host-d2", "spoke-d1"),
    }
}

/// The host with a second address, so that two clients have the same port.
fn addresses(world: &World, host: &str) -> Result<[Ipv4Addr; 2]> {
    let first = world.host(host)?.instance.address;
    let [a, b, c, _] = first.octets();
    let second = Ipv4Addr::new(a, b, c, 77);
    world
        .namespace(host)?
        .ip(&[format!("addr add {second}/24 dev ens5")])?;
    Ok([first, second])
}

pub(crate) fn connections_outlive_the_spoke_that_carried_them() -> Result<()> {
    let mut world = start(true)?;
    let (home, host, other) = roles(&world);
    world.wait_until_at(home, FIRST)?;
    world.running.wait_until_all_is_well()?;
    let [first, second] = addresses(&world.running.world, host)?;
    let listener = listen(&world.running.world)?;
    let open = |world: &Addressed, address: Ipv4Addr, port: u16| {
        let from = SocketAddr::from((address, port));
        Pair::open(&world.running.world, &listener, host, from)
    };
    let talk = Talk::start(open(&world, first, 0)?);
    let mut one = open(&world, first, PORT)?;
    let mut two = open(&world, second, PORT)?;
    ensure!(
        one.port == PORT && two.port != PORT,
        "{} {}",
        one.port,
        two.port
    );
    let udp = |namespace: &Namespace, at: (Ipv4Addr, u16)| -> Result<UdpSocket> {
        let socket = namespace.enter(|| Ok(UdpSocket::bind(at)?))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    };
    let inside = world.running.world.namespace(host)?;
    let asker = udp(inside, (second, PORT))?;
    let teller = udp(&world.running.world.web, (WEB, SERVER))?;
    one.carries("before", 1)?;
    two.carries("before", 2)?;
    // The kernel takes UDP for a conversation when it has gone on for two seconds.
    let mut buffer = [0; 100];
    let seen = wait_until("all four to be known", PATIENCE, || {
        asker.send_to(b"question", (WEB, SERVER))?;
        let (_, seen) = teller.recv_from(&mut buffer)?;
        teller.send_to(b"answer", seen)?;
        asker.recv_from(&mut buffer)?;
        let known = known(&world, other, home)?;
        ensure!(known >= 4, "{known} are");
        Ok(Some(seen))
    })?;

    // It fails as hardware does.
    let killed = Instant::now();
    world.running.world.crash(home)?;
    unplug(&world.running.world, home)?;
    world.running.wait_until_led(host, other)?;
    world.wait_until_at(other, FIRST)?;
    println!(
        "killed: the address moved in {:.2} s",
        killed.elapsed().as_secs_f32()
    );
    // The client has said nothing since.
    two.carries("another port, after the spoke died", 3)?;
    one.carries("after the spoke died", 4)?;
    teller.send_to(b"more", seen)?;
    let (length, _) = asker.recv_from(&mut buffer)?;
    ensure!(&buffer[..length] == b"more");
    talk.goes_on("killed")?;
    let counts = told(&world, other)?;
    println!("killed: {counts:?}");
    ensure!(counts.taken_over >= 4 && counts.refused == 0, "{counts:?}");

    // And back.
    plug_in(&world.running.world, home)?;
    world.running.world.start_again(home)?;
    wait_until_known(&world, home, other, 3)?;
    world.running.wait_until_led(host, home)?;
    let led = Instant::now();
    world.wait_until_at(home, FIRST)?;
    println!(
        "given back: the address came {:.2} s after the routes",
        led.elapsed().as_secs_f32()
    );
    one.carries("given back", 5)?;
    two.carries("given back", 6)?;
    talk.goes_on("given back")?;

    // A planned stop.
    world.running.wait_until_all_is_well()?;
    wait_until_known(&world, other, home, 3)?;
    world.running.world.stop(home)?;
    world.wait_until_at(other, FIRST)?;
    two.carries("after a planned stop", 7)?;
    one.carries("after a planned stop", 8)?;
    talk.goes_on("planned stop")?;
    talk.end().context("the one that talked all the while")?;
    world.running.world.check()?;
    world.public.end()
}

/// So that the test before shows what `connections` does.
pub(crate) fn without_it_they_end() -> Result<()> {
    let mut world = start(false)?;
    let (home, host, other) = roles(&world);
    world.wait_until_at(home, FIRST)?;
    world.running.wait_until_all_is_well()?;
    let listener = listen(&world.running.world)?;
    let address = world.running.world.host(host)?.instance.address;
    let from = SocketAddr::from((address, PORT));
    let mut pair = Pair::open(&world.running.world, &listener, host, from)?;
    pair.carries("before", 1)?;
    world.running.world.crash(home)?;
    unplug(&world.running.world, home)?;
    world.running.wait_until_led(host, other)?;
    world.wait_until_at(other, FIRST)?;
    // The new holder does not know it, and says so.
    pair.server.write_all(b"are you there?")?;
    let ended = wait_until("the server to be told", PATIENCE, || {
        let mut byte = [0];
        match pair.server.read(&mut byte) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Some(true)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            other => {
                println!("{other:?}");
                Ok(Some(false))
            }
        }
    })?;
    ensure!(ended, "the connection went on");
    ensure!(world.status(other)?.connections.is_none());
    world.running.world.check()?;
    world.public.end()
}
