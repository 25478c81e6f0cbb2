//! The data plane alone, behind the standard WireGuard userspace API: what
//! `wireguard-go` is, for `wg`, `wg-quick` and whatever tests WireGuard.
//!
//! Without `--foreground` it starts itself once more in the background and ends
//! with 0 when the interface and the socket are there. It ends when its interface
//! is deleted, and on SIGTERM or SIGINT.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Read, Write};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use privnet_dataplane::{Device, DeviceConfig, UapiAccess};
use privnet_model::offload::Offload;
use tracing_subscriber::EnvFilter;

/// A userspace WireGuard interface, to be configured with `wg`.
#[derive(Debug, Parser)]
#[command(name = "privnet-wg", version)]
struct Arguments {
    /// Stay in the foreground
    #[arg(short, long)]
    foreground: bool,

    /// Threads that carry packets
    #[arg(long, default_value = "1")]
    workers: NonZeroUsize,

    /// The interface's MTU in bytes
    #[arg(long, default_value_t = 1420, value_parser = clap::value_parser!(u16).range(576..=34_736))]
    mtu: u16,

    /// Relay packets from one peer to another without the kernel's routing
    #[arg(long)]
    relay: bool,

    /// An offload to do without (may be given several times)
    #[arg(long, value_name = "OFFLOAD", value_parser = Offload::ALL.map(Offload::as_str))]
    without: Vec<String>,

    /// Say "ready" on standard output when the interface is there
    #[arg(long, hide = true)]
    say_ready: bool,

    /// The interface to make
    interface: String,
}

/// What the background process says to the one that started it.
const READY: &[u8] = b"ready\n";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = if arguments.foreground {
        run(&arguments).map(|()| ExitCode::SUCCESS)
    } else {
        start_in_background()
    };
    result.unwrap_or_else(|error| {
        // Nobody may be there to read it, which is no reason to panic.
        writeln!(io::stderr(), "privnet-wg: {error:#}").unwrap_or_default();
        ExitCode::FAILURE
    })
}

/// Starts the same program in the foreground form, in the background, and waits
/// until it is ready or has ended. To run it anew instead of forking keeps clear
/// of all that a fork copies.
fn start_in_background() -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("finding this program's file")?;
    let mut child = Command::new(program)
        .args(["--foreground", "--say-ready"])
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting in the background")?;
    let mut said = Vec::new();
    if let Some(output) = child.stdout.take() {
        output
            .take(READY.len() as u64)
            .read_to_end(&mut said)
            .context("waiting for the interface")?;
    }
    if said == READY {
        return Ok(ExitCode::SUCCESS);
    }
    // It has said why on standard error, which it shares with us.
    child.wait().context("waiting for the background process")?;
    Ok(ExitCode::FAILURE)
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.say_ready {
        // A session of its own: the terminal's hang-up is not ours.
        nix::unistd::setsid().context("leaving the terminal")?;
        // And no directory's: what it was started in can be unmounted.
        std::env::set_current_dir("/").context("leaving the directory")?;
    }
    start_logging();
    // Before any thread exists, so that none of them takes the signals.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("blocking signals")?;

    let device = Device::open(DeviceConfig {
        name: arguments.interface.clone(),
        mtu: arguments.mtu,
        private_key: None,
        listen_port: 0,
        fwmark: None,
        workers: arguments.workers,
        relay: arguments.relay,
        offloads: Offload::ALL
            .into_iter()
            .filter(|offload| !arguments.without.contains(&offload.to_string()))
            .collect(),
        local: BTreeSet::new(),
        uapi: Some(UapiAccess::ReadWrite),
    })
    .context(format!("opening {}", arguments.interface))?;
    let device = Arc::new(device);
    tracing::info!(interface = device.name(), "ready");
    if arguments.say_ready {
        say_ready().context("telling that the interface is ready")?;
    }

    let to_close = Arc::clone(&device);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if let Ok(signal) = signals.wait() {
                tracing::info!(%signal, "ending");
                to_close.close();
            }
        })
        .context("starting the signal thread")?;
    device.wait_closed();
    device.close();
    for (counter, value) in device.counters().iter().filter(|(_, value)| *value > 0) {
        tracing::info!(value, "{}", counter.name());
    }
    Ok(())
}

/// Tells the starting process, then lets go of its standard output and error:
/// whoever waits for their end must not wait for the interface's.
fn say_ready() -> anyhow::Result<()> {
    let mut output = io::stdout();
    output.write_all(READY)?;
    output.flush()?;
    let nothing = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    nix::unistd::dup2_stdout(nothing.as_fd())?;
    if std::env::var_os("LOG_LEVEL").is_none() {
        nix::unistd::dup2_stderr(nothing.as_fd())?;
    }
    Ok(())
}

/// Logs to standard error at the level of `LOG_LEVEL`, by wireguard-go's names
/// for them.
fn start_logging() {
    let level = match std::env::var("LOG_LEVEL").as_deref() {
        Ok("verbose" | "debug") => "debug",
        Ok("error") => "error",
        Ok("silent") => "off",
        _ => "info",
    };
    // boringtun calls it an error when a peer is silent for nine minutes.
    let filter = EnvFilter::new(format!("{level},boringtun=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}
