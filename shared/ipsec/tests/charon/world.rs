//! What every case needs: the two hosts, their charons, and patience.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use privnet_ipsec::{
    AssociationEvent, AssociationEvents, Charon, Configured, Connection, Log, ViciError,
};
use privnet_model::ipsec::{
    Authentication, ConnectionName, Encapsulation, EspBackEnd, IkeRole, IkeSa, IkeSecret,
    IpsecTunnel, Proposals, Times, TunnelEnd,
};
use privnet_reconcile::ipsec::diagnosis::LogReader;
use privnet_reconcile::ipsec::plan;

/// Everything here takes a second or two; the machine may be slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const SECRET: &str = "correct horse battery staple";

/// The peer's swanctl.conf, written by hand.
pub(crate) const FIREWALL: &str = r#"
connections {
  to-hub {
    version = 2
    local_addrs = 192.0.2.2
    remote_addrs = 192.0.2.1
    proposals = aes256gcm16-prfsha384-ecp384
    mobike = no
    dpd_delay = 2s
    local {
      auth = psk
      id = fw.test
    }
    remote {
      auth = psk
      id = hub.test
    }
    children {
      lan {
        local_ts = 10.2.0.0/16
        remote_ts = 10.1.0.0/16
        esp_proposals = aes256gcm16-ecp384
      }
    }
  }
}
secrets {
  ike-hub {
    id-1 = hub.test
    id-2 = fw.test
    secret = "correct horse battery staple"
  }
}
"#;

const STRONGSWAN: &str = r#"
charon-systemd {
  retransmit_timeout = 0.5
  retransmit_tries = 3
  retransmit_base = 1.4
  load = random nonce drbg openssl kdf pem pkcs1 pkcs8 pubkey x509 constraints revocation hmac BACKENDS socket-default updown vici
  plugins {
    vici { socket = unix://DIRECTORY/charon.vici }
    kernel-libipsec { load = yes }
  }
  journal { default = -1 }
  filelog { log {
    path = DIRECTORY/log
    default = 1
    flush_line = yes
  } }
}
"#;

/// Runs a case, and ends the process with it.
pub(crate) fn run(case: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(case);
}

/// Runs a shell script and gives what it printed; panics when it fails.
pub(crate) fn sh(script: &str) -> String {
    let output = shell(script);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn shell(script: &str) -> Output {
    Command::new("sh").args(["-euc", script]).output().unwrap()
}

/// A figure for whoever reads the test's output.
pub(crate) fn note(figure: &str) {
    let _ = writeln!(std::io::stderr(), "{figure}");
}

/// A charon, killed by its id when dropped.
pub(crate) struct Daemon {
    process: Child,
    directory: PathBuf,
}

impl Daemon {
    /// Starts one in a network namespace, or in this one, and waits until it
    /// listens.
    pub(crate) fn start(namespace: Option<&str>, name: &str, back_ends: &str) -> Self {
        let directory = Path::new("/run").join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let config = STRONGSWAN
            .replace("DIRECTORY", directory.to_str().unwrap())
            .replace("BACKENDS", back_ends);
        let file = directory.join("strongswan.conf");
        std::fs::write(&file, config).unwrap();
        let socket = directory.join("charon.vici");
        // One that was killed left its socket.
        let _ = std::fs::remove_file(&socket);
        let program = "/usr/sbin/charon-systemd";
        let installed = Path::new(program).exists();
        assert!(
            installed,
            "{program} is missing: install the package charon-systemd"
        );
        let mut command = match namespace {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, program]);
                command
            }
        };
        let output = std::fs::File::create(directory.join("output")).unwrap();
        command
            .env("STRONGSWAN_CONF", &file)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let daemon = Self {
            process: command.spawn().unwrap(),
            directory,
        };
        let deadline = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "no charon: {}", daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("charon.vici")
    }

    pub(crate) fn log(&self) -> String {
        let read = |name| std::fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        format!("{}{}", read("output"), read("log"))
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Has swanctl do something with it; gives what it printed, and whether it
    /// succeeded.
    pub(crate) fn swanctl(&self, arguments: &str) -> (String, bool) {
        let socket = self.socket();
        let script = format!("swanctl {arguments} --uri unix://{} 2>&1", socket.display());
        let output = shell(&script);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        (printed, output.status.success())
    }

    /// Loads a swanctl.conf, as an administrator does.
    pub(crate) fn load(&self, config: &str) {
        let file = self.directory.join("swanctl.conf");
        std::fs::write(&file, config).unwrap();
        let (printed, succeeded) = self.swanctl(&format!("--load-all --file {}", file.display()));
        assert!(succeeded, "{printed}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().rev().take(60).collect();
            let name = self.directory.display();
            let mut text = format!("--- {name}\n");
            for line in lines.iter().rev() {
                text.push_str(&format!("{line}\n"));
            }
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Both hosts with their charons, and what a daemon of ours would hold.
pub(crate) struct World {
    pub(crate) us: Daemon,
    pub(crate) peer: Daemon,
    pub(crate) charon: Charon,
    pub(crate) events: AssociationEvents,
    pub(crate) log: Log,
    pub(crate) reader: LogReader,
    pub(crate) wanted: BTreeMap<ConnectionName, Configured>,
    pub(crate) current_secrets: BTreeSet<ConnectionName>,
}

pub(crate) const USERSPACE: &str = "kernel-libipsec kernel-netlink";

impl World {
    /// The peer configured as `FIREWALL`, and nothing configured here.
    pub(crate) async fn new() -> Self {
        Self::with(USERSPACE, FIREWALL).await
    }

    pub(crate) async fn with_peer(firewall: &str) -> Self {
        Self::with(USERSPACE, firewall).await
    }

    pub(crate) async fn with(back_ends: &str, firewall: &str) -> Self {
        sh("ip netns add peer
            ip link add wan type veth peer name wan netns peer
            ip address add 192.0.2.1/24 dev wan
            ip -n peer address add 192.0.2.2/24 dev wan");
        Self::on_the_network(back_ends, firewall).await
    }

    /// With a router between that hides the host of that namespace (`us` or
    /// `peer`) behind its own address:
    ///
    /// ```text
    ///   us 192.0.2.1 ──── 192.0.2.254  router  198.51.100.254 ──── 198.51.100.2 peer
    /// ```
    pub(crate) async fn with_nat(hidden: &str, firewall: &str) -> Self {
        sh("ip netns add peer
            ip netns add router
            ip link add wan type veth peer name us netns router
            ip -n peer link add wan type veth peer name peer netns router
            ip address add 192.0.2.1/24 dev wan
            ip -n peer address add 198.51.100.2/24 dev wan
            ip -n router address add 192.0.2.254/24 dev us
            ip -n router address add 198.51.100.254/24 dev peer
            for end in us peer; do ip -n router link set $end up; done
            ip link set wan up
            ip -n peer link set wan up
            ip route add 198.51.100.0/24 via 192.0.2.254
            ip -n peer route add 192.0.2.0/24 via 198.51.100.254
            ip netns exec router sysctl -qw net.ipv4.ip_forward=1");
        let out = if hidden == "us" { "peer" } else { "us" };
        sh(&format!(
            "ip netns exec router nft 'add table ip nat
                add chain ip nat out {{ type nat hook postrouting priority 100; }}
                add rule ip nat out oifname {out} masquerade'"
        ));
        Self::on_the_network(USERSPACE, firewall).await
    }

    async fn on_the_network(back_ends: &str, firewall: &str) -> Self {
        sh("ip address add 10.1.0.1/32 dev lo
            ip link set wan up
            ip -n peer address add 10.2.0.1/32 dev lo
            ip -n peer address add 10.3.0.1/32 dev lo
            ip -n peer link set wan up
            ip -n peer link set lo up
            for host in '' '-n peer'; do
                ip $host rule add pref 100 lookup main suppress_prefixlength 0
            done");
        let us = Daemon::start(None, "us", back_ends);
        let peer = Daemon::start(Some("peer"), "peer", USERSPACE);
        peer.load(firewall);
        let charon = Charon::connect(&us.socket()).await.unwrap();
        Self {
            events: charon.association_events().await.unwrap(),
            log: charon.log().await.unwrap(),
            reader: LogReader::default(),
            us,
            peer,
            charon,
            wanted: BTreeMap::new(),
            current_secrets: BTreeSet::new(),
        }
    }

    /// Connects anew, as a daemon of ours does that was started again.
    pub(crate) async fn reconnect(&mut self) {
        self.charon = Charon::connect(&self.us.socket()).await.unwrap();
        self.events = self.charon.association_events().await.unwrap();
        self.log = self.charon.log().await.unwrap();
        self.reader = LogReader::default();
        self.current_secrets = BTreeSet::new();
    }

    pub(crate) fn want(&mut self, tunnel: &IpsecTunnel) {
        self.want_with(tunnel, SECRET);
    }

    pub(crate) fn want_with(&mut self, tunnel: &IpsecTunnel, secret: &str) {
        assert_eq!(tunnel.errors(), []);
        let with_secret = tunnel.authentication == Authentication::PresharedKey;
        let configured = Configured {
            connection: Connection::new(tunnel).unwrap(),
            secret: with_secret.then(|| IkeSecret::new(secret).unwrap()),
        };
        self.wanted.insert(tunnel.name.clone(), configured);
    }

    /// One round: fetch, plan, apply. Gives the changes made.
    pub(crate) async fn reconcile(&mut self) -> Vec<String> {
        let actual = self.charon.fetch(&self.current_secrets).await.unwrap();
        let wanted = self.wanted.iter();
        let wanted = wanted.map(|(name, it)| (name.clone(), it.connection.wanted()));
        let changes = plan(&wanted.collect(), &actual);
        let applied = self
            .charon
            .apply(&changes, &self.wanted, &mut self.current_secrets);
        for (change, result) in applied.await {
            result.unwrap_or_else(|error| panic!("{change}: {error}"));
        }
        changes.iter().map(ToString::to_string).collect()
    }

    /// The next event that is wanted; others are passed over.
    pub(crate) async fn event<T>(
        &mut self,
        what: &str,
        wanted: impl Fn(&AssociationEvent) -> Option<T>,
    ) -> T {
        let searching = async {
            loop {
                let event = self.events.next().await.unwrap();
                if let Some(found) = wanted(&event) {
                    return found;
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, searching).await;
        found.unwrap_or_else(|_| panic!("no event: {what}"))
    }

    pub(crate) async fn child_up(&mut self) -> IkeSa {
        self.event("child up", |event| match event {
            AssociationEvent::ChildUp(sa) => Some(sa.clone()),
            _ => None,
        })
        .await
    }

    /// Reads the log until a reason has these words; gives the connection or the
    /// address that it is of, and the reason.
    pub(crate) async fn reason(&mut self, words: &str) -> (String, String) {
        let mut others = Vec::new();
        let searching = async {
            loop {
                let line = self.log.next().await.unwrap().expect("no line is lost");
                let Some(found) = self.reader.read(&line) else {
                    continue;
                };
                let reason = found.failure.to_string();
                let of = found.connection.or(found.remote).unwrap_or_default();
                if reason.contains(words) {
                    return (of, reason);
                }
                others.push(reason);
            }
        };
        let found = tokio::time::timeout(PATIENCE, searching).await;
        found.unwrap_or_else(|_| panic!("no reason with {words:?}, but {others:?}"))
    }

    /// Waits until charon sends something again, for want of an answer.
    pub(crate) async fn retransmission(&mut self) {
        let searching = async {
            loop {
                let line = self.log.next().await.unwrap();
                if line.is_some_and(|line| line.text.starts_with("retransmit ")) {
                    return;
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, searching).await;
        found.expect("nothing is sent again");
    }

    pub(crate) async fn associations(&self) -> Vec<IkeSa> {
        self.charon.associations().await.unwrap()
    }

    /// Waits until the associations are as they should be.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&[IkeSa]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let sas = self.associations().await;
            if condition(&sas) {
                return;
            }
            assert!(Instant::now() < deadline, "not {what}: {sas:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The tunnel to the peer, as `FIREWALL` expects it.
pub(crate) fn tunnel() -> IpsecTunnel {
    let end = |address: &str, id: &str, selector: &str| TunnelEnd {
        address: Some(address.parse().unwrap()),
        id: id.parse().unwrap(),
        selectors: BTreeSet::from([selector.parse().unwrap()]),
    };
    IpsecTunnel {
        name: ConnectionName::of("dc").unwrap(),
        local: end("192.0.2.1", "hub.test", "10.1.0.0/16"),
        remote: end("192.0.2.2", "fw.test", "10.2.0.0/16"),
        authentication: Authentication::PresharedKey,
        proposals: Proposals::Modern,
        role: IkeRole::Initiator,
        esp: EspBackEnd::Userspace,
        encapsulation: Encapsulation::BehindNat,
        times: Times {
            dead_peer_delay: Duration::from_secs(1),
            ..Times::default()
        },
    }
}

pub(crate) fn as_responder() -> IpsecTunnel {
    IpsecTunnel {
        role: IkeRole::Responder,
        ..tunnel()
    }
}

pub(crate) fn refused(result: Result<(), ViciError>) -> String {
    result.unwrap_err().to_string()
}
