//! strongSwan's charon in a namespace: our instances' own, as `ami/strongswan.d` has
//! it, and those of firewalls that somebody else administers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::namespace::{Namespace, logs};
use crate::process::{Process, run, wait_until};

const PROGRAM: &str = "/usr/sbin/charon-systemd";
const PATIENCE: Duration = Duration::from_secs(20);

/// What the image's file says beside sockets and logs: `ami/strongswan.d/privnet.conf`
/// is included as it is.
const SHIPPED: &str = include_str!("../../ami/strongswan.d/privnet.conf");

/// Who does ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Esp {
    /// charon.
    Userspace,
    /// The kernel.
    Kernel,
}

/// A charon that runs. It is killed when dropped.
#[derive(Debug)]
pub struct Charon {
    process: Process,
    directory: PathBuf,
}

impl Charon {
    /// Starts the one of an instance of ours, with userspace ESP, where the images have
    /// the kernel's: not every kernel that the tests run on has that.
    pub fn of_instance(namespace: &Namespace) -> Result<Self> {
        Self::of_instance_with(namespace, Esp::Userspace)
    }

    /// The same, with this ESP.
    pub fn of_instance_with(namespace: &Namespace, esp: Esp) -> Result<Self> {
        let own = SHIPPED
            .strip_prefix("charon-systemd {")
            .with_context(|| format!("not one section: {SHIPPED}"))?;
        let own = own.rsplit_once('}').map(|(inside, _)| inside);
        Self::start(namespace, own.unwrap_or_default(), esp)
    }

    /// Starts a firewall's, and loads this `swanctl.conf`, written as its administrator
    /// would.
    pub fn of_firewall(namespace: &Namespace, swanctl: &str) -> Result<Self> {
        Self::of_firewall_with(namespace, swanctl, Esp::Userspace)
    }

    /// The same, with this ESP.
    pub fn of_firewall_with(namespace: &Namespace, swanctl: &str, esp: Esp) -> Result<Self> {
        let patience = "retransmit_timeout = 1.0\nretransmit_tries = 3\nretransmit_base = 1.4\n\
                        routing_table = 254\n";
        let charon = Self::start(namespace, patience, esp)?;
        charon.load(swanctl)?;
        Ok(charon)
    }

    fn start(namespace: &Namespace, settings: &str, esp: Esp) -> Result<Self> {
        ensure!(
            Path::new(PROGRAM).exists(),
            "{PROGRAM} is missing: install the package charon-systemd"
        );
        let directory = namespace.directory().join("charon");
        std::fs::create_dir_all(&directory)?;
        let file = directory.join("strongswan.conf");
        std::fs::write(&file, configuration(&directory, settings, esp))?;
        let socket = directory.join("charon.vici");
        // One that was killed left its socket.
        let _ = std::fs::remove_file(&socket);
        let mut command = namespace.command(PROGRAM);
        command.env("STRONGSWAN_CONF", &file);
        let name = format!("{}-charon", namespace.name());
        let mut process = Process::start(&name, &logs(), command)?;
        wait_until("charon to listen", PATIENCE, || {
            process.check()?;
            let listens = std::os::unix::net::UnixStream::connect(&socket).is_ok();
            Ok(listens.then_some(()))
        })?;
        Ok(Self { process, directory })
    }

    /// Its VICI socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("charon.vici")
    }

    /// Loads a `swanctl.conf` in the place of the one before.
    pub fn load(&self, swanctl: &str) -> Result<()> {
        let file = self.directory.join("swanctl.conf");
        std::fs::write(&file, swanctl)?;
        let file = file.display().to_string();
        self.swanctl(&["--load-all", "--file", &file]).map(drop)
    }

    /// Puts a private key where swanctl looks for them.
    pub fn keep_private_key(&self, key: &Path) -> Result<()> {
        let directory = self.directory.join("private");
        std::fs::create_dir_all(&directory)?;
        std::fs::copy(key, directory.join("own.key"))?;
        Ok(())
    }

    /// What swanctl prints.
    pub fn swanctl(&self, arguments: &[&str]) -> Result<String> {
        let uri = format!("unix://{}", self.socket().display());
        run(Command::new("swanctl")
            .env("SWANCTL_DIR", &self.directory)
            .args(arguments)
            .args(["--uri", &uri]))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Its process; nothing more is to be asked of it.
    pub fn into_process(self) -> Process {
        self.process
    }

    /// Kills it, as a crash would.
    pub fn kill(self) -> Result<()> {
        self.process.kill()
    }
}

fn configuration(directory: &Path, settings: &str, esp: Esp) -> String {
    let directory = directory.display();
    let (kernel, load) = match esp {
        Esp::Userspace => ("kernel-libipsec kernel-netlink", "yes"),
        Esp::Kernel => ("kernel-netlink", "no"),
    };
    format!(
        "charon-systemd {{
{settings}
  load = random nonce drbg openssl kdf pem pkcs1 pkcs8 pubkey x509 constraints revocation hmac {kernel} socket-default updown vici
  plugins {{
    vici {{ socket = unix://{directory}/charon.vici }}
    kernel-libipsec {{ load = {load} }}
  }}
  journal {{ default = -1 }}
  filelog {{ log {{
    path = stdout
    default = 1
    flush_line = yes
  }} }}
}}
"
    )
}
