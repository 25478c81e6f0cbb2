//! Two hosts with a WireGuard interface each and a wire between them. Ours runs
//! `privnet-wg`, theirs wireguard-go or `privnet-wg` as well. They begin with keys
//! and addresses, without peers.
//!
//! ```text
//!   ours  privnet-wg                     wireguard-go, or privnet-wg  theirs
//!   wg0   10.99.0.1  fd99::1                  10.99.0.2  fd99::2         wg0
//!   wire  192.0.2.1 ───────────────────────────────────── 192.0.2.2     wire
//!         2001:db8::1                               2001:db8::2
//! ```

use std::fs::Permissions;
use std::io::{Read, Write};
use std::num::NonZeroU8;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use privnet_model::key::PrivateKey;
use privnet_tests::namespace::Namespace;
use privnet_tests::process::{Process, wait_until};
use privnet_tests::programs;
use privnet_tests::tuning::Tuning;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const OURS: &str = "10.99.0.1";
pub(crate) const THEIRS: &str = "10.99.0.2";

/// A program that makes a WireGuard interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    PrivnetWg { workers: u8 },
    WireguardGo,
}

/// Two hosts, linked.
pub(crate) struct Pair {
    pub(crate) ours: Side,
    pub(crate) theirs: Side,
}

/// One host of a pair.
pub(crate) struct Side {
    pub(crate) process: Process,
    pub(crate) namespace: Namespace,
    pub(crate) key: PrivateKey,
    pub(crate) address: String,
    pub(crate) networks: String,
}

impl Pair {
    /// With one worker against wireguard-go.
    pub(crate) fn start() -> Result<Self> {
        Self::of(
            Program::PrivnetWg { workers: 1 },
            Program::WireguardGo,
            1500,
        )
    }

    /// These programs, on a wire of that MTU.
    pub(crate) fn of(ours: Program, theirs: Program, mtu: u32) -> Result<Self> {
        let namespaces = [Namespace::add("ours")?, Namespace::add("theirs")?];
        let [our_namespace, their_namespace] = namespaces;
        our_namespace.link("wire", &their_namespace, "wire", mtu)?;
        Ok(Self {
            ours: Side::start(our_namespace, 1, ours)?,
            theirs: Side::start(their_namespace, 2, theirs)?,
        })
    }

    /// Makes each the other's peer, over IPv4.
    pub(crate) fn introduce(&self) -> Result<()> {
        self.ours
            .add_peer(&self.theirs, &["endpoint", "192.0.2.2:51820"])?;
        self.theirs
            .add_peer(&self.ours, &["endpoint", "192.0.2.1:51820"])?;
        self.ours.reaches(&self.theirs)?;
        self.theirs.reaches(&self.ours)
    }

    pub(crate) fn carries_everything(&self) -> Result<()> {
        for (from, to) in [(&self.ours, &self.theirs), (&self.theirs, &self.ours)] {
            from.reaches(to)?;
            let number = if to.address == OURS { 1 } else { 2 };
            for address in [to.address.clone(), format!("fd99::{number}")] {
                let answered = from.namespace.ping(&address, 100)?;
                ensure!(
                    answered == 100,
                    "{answered} of 100 pings to {address} answered"
                );
            }
            let large = [
                "-n",
                "-q",
                "-c",
                "5",
                "-i",
                "0.05",
                "-W",
                "1",
                "-s",
                "8000",
                &to.address,
            ];
            from.namespace.run("ping", large)?;
            ensure!(from.has_handshake()?.is_some());
        }
        Ok(())
    }
}

impl Side {
    /// Starts a program on a host that has a `wire`; the number tells its addresses.
    pub(crate) fn start(namespace: Namespace, number: u8, program: Program) -> Result<Self> {
        programs::require_tools(&["wg", "wireguard-go", "ping", "bash"])?;
        namespace.ip(&[
            format!("addr add 192.0.2.{number}/24 dev wire"),
            format!("addr add 2001:db8::{number}/64 dev wire nodad"),
        ])?;
        let process = match program {
            Program::PrivnetWg { workers } => {
                let mut tuning = Tuning::current();
                tuning.workers = tuning.workers.or(NonZeroU8::new(workers));
                let mut arguments = tuning.arguments();
                arguments.extend(["-f", "wg0"].map(String::from));
                namespace.start("wg", programs::ours("privnet-wg")?, arguments)?
            }
            Program::WireguardGo => namespace.start("wg", "wireguard-go", ["-f", "wg0"])?,
        };
        let mut side = Self {
            process,
            namespace,
            key: PrivateKey::from_random([number; 32]),
            address: format!("10.99.0.{number}"),
            networks: format!("10.99.0.{number}/32,fd99::{number}/128"),
        };
        wait_until("the WireGuard socket", PATIENCE, || {
            side.process.check()?;
            // A file alone may be that of a process which was killed.
            side.client().map(|_| Some(()))
        })?;
        let file = side.secret("key", *side.key.as_bytes())?;
        side.wg(&["private-key", path(&file)?, "listen-port", "51820"])?;
        side.namespace.ip(&side.interface_commands())?;
        Ok(side)
    }

    /// The `ip` commands that give `wg0` its addresses and bring it up, wherever
    /// it is.
    pub(crate) fn interface_commands(&self) -> [String; 3] {
        let number = self.address.rsplit('.').next().unwrap_or_default();
        [
            format!("addr add {}/24 dev wg0", self.address),
            format!("addr add fd99::{number}/64 dev wg0 nodad"),
            "link set wg0 up".to_owned(),
        ]
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.namespace.directory().join("wireguard/wg0.sock")
    }

    pub(crate) fn public_key(&self) -> String {
        self.key.public().to_string()
    }

    /// A file with 32 bytes as `wg` reads them.
    pub(crate) fn secret(&self, name: &str, bytes: [u8; 32]) -> Result<PathBuf> {
        let file = self.namespace.directory().join(name);
        std::fs::write(&file, PrivateKey::from_random(bytes).to_base64().as_str())?;
        std::fs::set_permissions(&file, Permissions::from_mode(0o600))?;
        Ok(file)
    }

    /// `wg set wg0` with these arguments.
    pub(crate) fn wg(&self, arguments: &[&str]) -> Result<()> {
        let all = ["set", "wg0"].iter().chain(arguments);
        self.namespace.run("wg", all).map(drop)
    }

    pub(crate) fn add_peer(&self, peer: &Self, more: &[&str]) -> Result<()> {
        let key = peer.public_key();
        let basic = ["peer", &key, "allowed-ips", &peer.networks];
        self.wg(&[&basic, more].concat())
    }

    /// Changes something of the other as a peer.
    pub(crate) fn set_peer(&self, peer: &Self, change: &[&str]) -> Result<()> {
        self.wg(&[&["peer", &peer.public_key()], change].concat())
    }

    /// What `wg show wg0 WHAT` tells of the only peer.
    pub(crate) fn show(&self, what: &str) -> Result<String> {
        let text = self.namespace.run("wg", ["show", "wg0", what])?;
        let (_, value) = text.trim().split_once('\t').context("no peer")?;
        Ok(value.to_owned())
    }

    pub(crate) fn latest_handshake(&self) -> Result<u64> {
        Ok(self.show("latest-handshakes")?.parse()?)
    }

    pub(crate) fn has_handshake(&self) -> Result<Option<()>> {
        Ok((self.latest_handshake()? != 0).then_some(()))
    }

    pub(crate) fn received_bytes(&self) -> Result<u64> {
        let transfer = self.show("transfer")?;
        let received = transfer.split('\t').next().unwrap_or_default();
        Ok(received.parse()?)
    }

    /// Waits until a ping is answered: the first may be lost to the handshake.
    pub(crate) fn reaches(&self, other: &Self) -> Result<()> {
        self.reaches_address(&other.address)
    }

    /// Waits until a ping to an address is answered.
    pub(crate) fn reaches_address(&self, address: &str) -> Result<()> {
        wait_until(&format!("a ping to {address}"), PATIENCE, || {
            if self.namespace.ping(address, 1)? == 1 {
                return Ok(Some(()));
            }
            bail!("no answer\n{}", self.process.log_tail(10))
        })
    }

    /// Whether a few pings in a row stay without an answer.
    pub(crate) fn is_cut_off_from(&self, address: &str) -> Result<()> {
        let answered = self.namespace.ping(address, 3)?;
        ensure!(answered == 0, "{answered} of 3 pings to {address} answered");
        Ok(())
    }

    /// Pings the other fifty times a second, until told to end. Returns at the
    /// first answer.
    pub(crate) fn keeps_pinging(&self, other: &Self) -> Result<Pinging> {
        let arguments = ["-n", "-i", "0.02", &other.address];
        let process = self.namespace.start("ping", "ping", arguments)?;
        wait_until("the first answer", PATIENCE, || {
            Ok(process.log().contains(" bytes from ").then_some(()))
        })?;
        Ok(Pinging(process))
    }

    /// A client of the WireGuard socket that speaks for itself, without `wg`.
    pub(crate) fn client(&self) -> Result<Client> {
        let stream = UnixStream::connect(self.socket())
            .with_context(|| format!("cannot connect to {}", self.socket().display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client(stream))
    }
}

/// A ping that goes on.
pub(crate) struct Pinging(Process);

impl Pinging {
    /// Ends it; an error if an answer is missing, but for the one under way.
    pub(crate) fn has_lost_nothing(mut self) -> Result<()> {
        self.0.signal(Signal::SIGINT)?;
        self.0.wait(PATIENCE)?;
        let log = self.0.log();
        let summary = log
            .lines()
            .find(|line| line.contains(" packets transmitted, "))
            .with_context(|| log.clone())?;
        let mut numbers = summary
            .split(|other: char| !other.is_ascii_digit())
            .filter_map(|number| number.parse::<u64>().ok());
        let (sent, received) = (numbers.next(), numbers.next());
        match (sent, received) {
            (Some(sent), Some(received)) if sent <= received + 1 && received > 0 => Ok(()),
            _ => bail!("{summary}"),
        }
    }
}

/// A connection to a WireGuard socket.
pub(crate) struct Client(UnixStream);

impl Client {
    /// Sends a request (its lines, without the empty one at the end) and returns
    /// the answer without its empty line: nothing, where the other side hangs up.
    pub(crate) fn ask(&mut self, request: &str) -> Result<String> {
        self.send(request)?;
        let mut answer = Vec::new();
        let mut room = vec![0; 1 << 16];
        while !answer.ends_with(b"\n\n") {
            match self.0.read(&mut room).context("waiting for an answer")? {
                0 => break,
                length => answer.extend_from_slice(&room[..length]),
            }
        }
        Ok(String::from_utf8(answer)?.trim_end().to_owned())
    }

    /// Sends the beginning of a request.
    pub(crate) fn begin(&mut self, lines: &str) -> Result<()> {
        self.0.write_all(lines.as_bytes()).context("asking")
    }

    /// Sends a request and does not wait for the answer.
    pub(crate) fn send(&mut self, request: &str) -> Result<()> {
        let text = format!("{}\n\n", request.trim_end());
        self.0.write_all(text.as_bytes()).context("asking")
    }
}

pub(crate) fn path(file: &Path) -> Result<&str> {
    file.to_str().context("not a text")
}
