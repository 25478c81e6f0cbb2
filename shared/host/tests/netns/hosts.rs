//! The hosts of the picture in `main.rs`: this program again, in another
//! namespace, as its environment says.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// `tcp:ADDRESS` or `udp:ADDRESS`: tell every caller the address it was seen by.
const SERVE: &str = "PRIVNET_HOST_SERVE";
/// Ask such a server once.
const ASK: &str = "PRIVNET_HOST_ASK";
/// Ask it until the standard input ends, and tell all different answers.
const ASK_ON: &str = "PRIVNET_HOST_ASK_ON";
/// Send back what comes.
const ECHO: &str = "PRIVNET_HOST_ECHO";
/// Connect to an echo, and for each line of the standard input say and hear
/// something; `stream` does so until the input ends.
const TALK: &str = "PRIVNET_HOST_TALK";
const PATIENCE: Duration = Duration::from_secs(5);

/// Plays a host if the environment says so.
pub(crate) fn play() -> bool {
    let told = |key: &str| env::var(key).ok();
    if let Some(address) = told(SERVE) {
        match address.split_once(':').unwrap() {
            ("udp", address) => serve_udp(address),
            (_, address) => serve_tcp(address),
        }
    } else if let Some(address) = told(ASK) {
        match ask(&address) {
            Ok(seen) => say(&format!("seen as {seen}")),
            Err(error) => say(&format!("failed: {error}")),
        }
    } else if let Some(address) = told(ASK_ON) {
        ask_on(&address);
    } else if let Some(address) = told(ECHO) {
        echo(&address);
    } else if let Some(address) = told(TALK) {
        talk(address.parse().unwrap());
    } else {
        return false;
    }
    true
}

fn serve_tcp(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    say("ready\n");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let seen = stream.peer_addr().unwrap().ip();
        // Who has gone by now has asked in vain, and says so.
        let _ = write!(stream, "{seen}");
    }
}

fn serve_udp(address: &str) {
    let socket = UdpSocket::bind(address).unwrap();
    say("ready\n");
    loop {
        let (_, from) = socket.recv_from(&mut [0; 16]).unwrap();
        let seen = from.ip().to_string();
        socket.send_to(seen.as_bytes(), from).unwrap();
    }
}

fn ask(address: &str) -> std::io::Result<String> {
    match address.split_once(':').unwrap() {
        ("udp", address) => ask_udp(address.parse().unwrap()),
        (_, address) => ask_tcp(address.parse().unwrap()),
    }
}

fn ask_tcp(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ask_udp(address: SocketAddr) -> std::io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"who am I?")?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Each answer that came, and how often.
fn ask_on(address: &str) {
    say("ready\n");
    let ended = input_end();
    let mut answers = std::collections::BTreeMap::new();
    while !ended.is_finished() || answers.is_empty() {
        let answer = ask(address).unwrap_or_else(|error| error.to_string());
        *answers.entry(answer).or_insert(0) += 1;
    }
    for (answer, count) in answers {
        say(&format!("{answer} {count}\n"));
    }
}

fn echo(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    say("ready\n");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        std::thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
    }
}

fn talk(address: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    // What was held for some seconds is sent again after as many at most twice over.
    stream.set_read_timeout(Some(3 * PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    say("ready\n");
    let mut round = 0_u64;
    let mut speak = move || {
        round += 1;
        stream.write_all(&round.to_be_bytes()).unwrap();
        let mut heard = [0; 8];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(u64::from_be_bytes(heard), round);
        round
    };
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line).unwrap() > 0 {
        if std::mem::take(&mut line).trim() != "stream" {
            say(&format!("{}\n", speak()));
            continue;
        }
        let ended = input_end();
        let mut rounds = 0;
        while !ended.is_finished() {
            rounds = speak();
        }
        return say(&format!("{rounds}\n"));
    }
}

/// Finished when the standard input has ended.
fn input_end() -> JoinHandle<()> {
    std::thread::spawn(|| {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    })
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).unwrap();
    out.flush().unwrap();
}

fn in_namespace(namespace: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]);
    command.arg(env::current_exe().unwrap());
    command
}

/// A host that does something in another namespace, for as long as this lives.
pub(crate) struct Player {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Player {
    /// One that is at it already.
    fn start(namespace: &str, role: &str, address: &str) -> Self {
        let mut player = Self::start_unready(namespace, role, address);
        assert_eq!(player.hear(), "ready", "{namespace} {role} {address}");
        player
    }

    fn start_unready(namespace: &str, role: &str, address: &str) -> Self {
        let mut command = in_namespace(namespace);
        let command = command.env(role, address).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// The next line it says; empty when it has ended.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{line}").unwrap();
    }

    /// Ends its input, and gives all that it says then.
    pub(crate) fn finish(mut self) -> String {
        self.input = None;
        let mut said = String::new();
        self.output.read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        said
    }
}

/// A server that listens already.
pub(crate) fn server(namespace: &str, address: &str) -> Player {
    Player::start(namespace, SERVE, &format!("tcp:{address}"))
}

pub(crate) fn udp_server(namespace: &str, address: &str) -> Player {
    Player::start(namespace, SERVE, &format!("udp:{address}"))
}

pub(crate) fn echo_server(namespace: &str, address: &str) -> Player {
    Player::start(namespace, ECHO, address)
}

/// Somebody connected to an echo, who says something for each line it is told.
pub(crate) fn talker(namespace: &str, address: &str) -> Player {
    Player::start(namespace, TALK, address)
}

/// Somebody who asks a server again and again.
pub(crate) fn asker(namespace: &str, address: &str) -> Player {
    Player::start(namespace, ASK_ON, &format!("tcp:{address}"))
}

/// Somebody who tries to connect to an echo, and perhaps cannot.
pub(crate) fn connects(namespace: &str, address: &str) -> Option<Player> {
    let mut player = Player::start_unready(namespace, TALK, address);
    (player.hear() == "ready").then_some(player)
}

/// What came of asking: `seen as …` or `failed: …`.
fn answer(namespace: &str, address: &str) -> String {
    let output = in_namespace(namespace).env(ASK, address).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{namespace} to {address}: {errors}"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The address under which the server saw the caller.
pub(crate) fn seen(namespace: &str, address: &str) -> String {
    seen_by(namespace, &format!("tcp:{address}"))
}

pub(crate) fn udp_seen(namespace: &str, address: &str) -> String {
    seen_by(namespace, &format!("udp:{address}"))
}

fn seen_by(namespace: &str, address: &str) -> String {
    let answer = answer(namespace, address);
    match answer.strip_prefix("seen as ") {
        Some(seen) => seen.to_owned(),
        None => panic!("{namespace} to {address}: {answer}"),
    }
}

/// Why the caller got no answer; panics if it got one.
pub(crate) fn refused(namespace: &str, address: &str) -> String {
    let answer = answer(namespace, address);
    match answer.strip_prefix("failed: ") {
        Some(why) => why.to_owned(),
        None => panic!("{namespace} reached {address}: {answer}"),
    }
}

/// Waits for a condition; panics with what was seen last.
pub(crate) fn wait_until<T: std::fmt::Debug>(
    mut look: impl FnMut() -> T,
    good: impl Fn(&T) -> bool,
) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let seen = look();
        if good(&seen) {
            return;
        }
        assert!(Instant::now() < deadline, "still {seen:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
