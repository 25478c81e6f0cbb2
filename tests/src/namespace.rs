//! A network namespace: a host, a router, or the internet itself.
//!
//! Programs started in it see their own `/run/privnet` and `/run/wireguard`, as
//! programs on different hosts would: two hosts may both have a `privnet0`.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};

use crate::capture::ping_pattern;
use crate::process::{Process, run};
use crate::programs;

/// Where a world keeps its files. On the private `/run` of [`crate::isolation`].
pub const ROOT: &str = "/run/world";

/// Runs a command in a host: `/run/world/on HOST COMMAND…`. Also for people, in
/// a demo that is kept.
pub const ON: &str = "/run/world/on";

/// A network namespace, deleted when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, with `lo` up.
    pub fn add(name: &str) -> Result<Self> {
        prepare_root()?;
        for directory in ["privnet", "wireguard"] {
            std::fs::create_dir_all(host_directory(name).join(directory))?;
        }
        run(Command::new("ip").args(["netns", "add", name]))?;
        let namespace = Self {
            name: name.to_owned(),
        };
        namespace.ip(&["link set lo up"])?;
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A directory for the host's files.
    pub fn directory(&self) -> PathBuf {
        host_directory(&self.name)
    }

    /// Carries out `ip` commands, in order.
    pub fn ip<S: AsRef<str>>(&self, commands: &[S]) -> Result<()> {
        let mut batch = String::new();
        for command in commands {
            batch.push_str(command.as_ref());
            batch.push('\n');
        }
        feed(
            Command::new("ip").args(["-netns", &self.name, "-batch", "-"]),
            &batch,
        )
    }

    /// Loads an nftables script.
    pub fn nft(&self, script: &str) -> Result<()> {
        feed(
            Command::new("ip").args(["netns", "exec", &self.name, "nft", "-f", "-"]),
            script,
        )
    }

    /// Sets kernel parameters, each as `net.ipv4.ip_forward=1`.
    pub fn sysctl(&self, settings: &[&str]) -> Result<()> {
        self.run("sysctl", ["-q", "-w"].iter().chain(settings))
            .map(drop)
    }

    /// The command that runs a program here.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(ON);
        command.arg(&self.name).arg(program);
        command
    }

    /// Runs a program here to its end and returns what it printed.
    pub fn run<I>(&self, program: &str, arguments: I) -> Result<String>
    where
        I: IntoIterator,
        I::Item: AsRef<std::ffi::OsStr>,
    {
        run(self.command(program).args(arguments))
    }

    /// Starts a program here that stays; its log is `HOST-NAME.log` in the world's logs.
    pub fn start<I>(
        &self,
        name: &str,
        program: impl AsRef<std::ffi::OsStr>,
        arguments: I,
    ) -> Result<Process>
    where
        I: IntoIterator,
        I::Item: AsRef<std::ffi::OsStr>,
    {
        let mut command = self.command(program);
        command.args(arguments);
        Process::start(&format!("{}-{name}", self.name), &logs(), command)
    }

    /// Links an interface here to one in another namespace; both come up.
    pub fn link(
        &self,
        interface: &str,
        other: &Self,
        other_interface: &str,
        mtu: u32,
    ) -> Result<()> {
        self.ip(&[
            format!(
                "link add name {interface} mtu {mtu} type veth peer name {other_interface} mtu {mtu} netns {}",
                other.name
            ),
            format!("link set {interface} up"),
        ])?;
        other.ip(&[format!("link set {other_interface} up")])
    }

    /// Calls something in a thread that is here. The sockets it opens stay here,
    /// whichever thread uses them afterwards.
    pub fn enter<T: Send>(&self, call: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter(&self.name)?;
                call()
            });
            let ended = thread.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread that is here.
    pub fn spawn<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        let name = self.name.clone();
        std::thread::spawn(move || {
            enter(&name)?;
            call()
        })
    }

    /// Sends `count` pings and returns how many were answered.
    pub fn ping(&self, to: impl std::fmt::Display, count: u32) -> Result<u32> {
        let output = self
            .command("ping")
            .args([
                "-n",
                "-q",
                "-i",
                "0.05",
                "-W",
                "1",
                "-p",
                &ping_pattern(),
                "-c",
                &count.to_string(),
            ])
            .arg(to.to_string())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines()
            .find_map(|line| line.split_once(" packets transmitted, "))
            .and_then(|(_, rest)| rest.split(' ').next())
            .and_then(|received| received.parse().ok())
            .with_context(|| {
                format!(
                    "ping {to} in {}: {text}{}",
                    self.name,
                    String::from_utf8_lossy(&output.stderr)
                )
            })
    }

    /// Fetches a URL from here, as text.
    pub fn fetch(&self, url: &str) -> Result<String> {
        self.run("curl", ["-sS", "--fail", "--max-time", "5", url])
            .map(|text| text.trim_end().to_owned())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What still runs in it keeps it alive without its name; nobody to tell.
        let _ = run(Command::new("ip").args(["netns", "delete", &self.name]));
    }
}

/// The calling thread is in the namespace from now on.
fn enter(name: &str) -> Result<()> {
    let namespace = File::open(Path::new("/run/netns").join(name))?;
    nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter {name}"))
}

/// Where the logs of all programs of a world are.
pub fn logs() -> PathBuf {
    Path::new(ROOT).join("logs")
}

fn host_directory(name: &str) -> PathBuf {
    Path::new(ROOT).join("hosts").join(name)
}

/// The directories of a world and the script that runs a command in a host.
fn prepare_root() -> Result<()> {
    if !crate::isolation::inside() {
        bail!("a world is made inside isolation only");
    }
    std::fs::create_dir_all(logs())?;
    let on = Path::new(ON);
    if on.exists() {
        return Ok(());
    }
    // `ip netns exec` gives every command a mount namespace of its own, so the
    // binds are that command's alone. All is `exec`: the process id stays.
    let script = format!(
        r#"#!/bin/sh
# usage: on HOST COMMAND [ARGUMENT]...
[ $# -ge 2 ] || {{ echo "usage: on HOST COMMAND [ARGUMENT]...; hosts:" $(ls {ROOT}/hosts) >&2; exit 2; }}
host=$1; shift
export PATH="{programs}:$PATH:{system}" PRIVNET_HOST="{ROOT}/hosts/$host"
exec ip netns exec "$host" /bin/sh -c '
    mount --bind "$PRIVNET_HOST/privnet" /run/privnet &&
    mount --bind "$PRIVNET_HOST/wireguard" /run/wireguard &&
    exec "$@"' on "$@"
"#,
        programs = programs::directory()?.display(),
        system = programs::SYSTEM_DIRECTORIES.join(":"),
    );
    std::fs::write(on, script)?;
    std::fs::set_permissions(on, Permissions::from_mode(0o755))?;
    Ok(())
}

fn feed(command: &mut Command, input: &str) -> Result<()> {
    use std::io::Write;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}\n{}\nof:\n{input}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
