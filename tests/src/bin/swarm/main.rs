//! `swarm`: one hub and ten thousand peers, each with its own key, address and
//! real sessions; what that costs, how long a restart takes, and what a flood at
//! the port does to a tunnel that carries data.
//!
//! ```text
//!   crowd ─────── 192.0.2.0/31 ─┐
//!   (10,000 addresses)          │
//!   busy  ─────── 192.0.2.2/31 ─┼─ hub      privnet-wg --relay
//!   (wg0 172.31.0.1)            │           (wg0 172.31.0.9)
//!   flood ─────── 192.0.2.4/31 ─┘
//! ```
//!
//! It reports, as a table and as JSON, and asserts nothing about speed; it fails
//! when something does not work. The crowd and the flood are this same program,
//! started in their namespaces.

#![forbid(unsafe_code)]

mod crowd;
mod flood;
mod hub;
mod keys;
mod network;
mod report;
mod stages;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use privnet_tests::{isolation, programs};

use crate::report::Report;
use crate::stages::Run;

/// Measures a hub with very many peers
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure (default: everything)
    #[arg(long, value_enum, value_delimiter = ',')]
    stages: Vec<Stage>,

    /// The peers
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    peers: u32,

    /// The hub's worker threads
    #[arg(long, default_value_t = 1)]
    workers: u32,

    /// How long idling is watched and throughput is measured, in seconds
    #[arg(long, default_value_t = 30)]
    seconds: u32,

    /// Junk datagrams per second
    #[arg(long, default_value_t = 20_000)]
    flood_rate: u32,

    /// The data plane, in place of the privnet-wg that is built
    #[arg(long)]
    program: Option<PathBuf>,

    /// Where the JSON goes
    #[arg(long)]
    json: Option<PathBuf>,

    #[command(subcommand)]
    role: Option<Role>,
}

/// Something that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// All peers call at once a hub that does not know where they are
    Storm,
    /// The same, with all peers behind one address
    StormNat,
    /// The hub comes back and calls all peers
    Restart,
    /// Nothing but keepalives, then not even these
    Idle,
    /// One busy peer: alone, and among all the others
    Busy,
    /// One busy peer while the port is flooded
    Flood,
}

impl Stage {
    const ALL: [Self; 6] = [
        Self::Storm,
        Self::StormNat,
        Self::Restart,
        Self::Idle,
        Self::Busy,
        Self::Flood,
    ];
}

/// What the program is in a namespace of its own.
#[derive(Debug, Subcommand)]
enum Role {
    /// The peers
    #[command(hide = true)]
    Crowd(crowd::Arguments),
    /// The sender of junk
    #[command(hide = true)]
    Flood(flood::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.role {
        Some(Role::Crowd(crowd)) => crowd::run(crowd),
        Some(Role::Flood(flood)) => flood::run(flood),
        None => orchestrate(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "swarm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn orchestrate(arguments: &Arguments) -> Result<()> {
    programs::require_tools(&["iperf3"])?;
    if !isolation::inside() {
        let mut again = isolation::again(std::env::args_os().skip(1))?;
        return Err(again.exec()).context("cannot run unshare");
    }
    isolation::settle()?;
    let stages = if arguments.stages.is_empty() {
        Stage::ALL.to_vec()
    } else {
        arguments.stages.clone()
    };
    let mut report = Report {
        peers: arguments.peers,
        workers: arguments.workers,
        ..Report::default()
    };
    let outcome = Run::prepare(arguments)?.stages(&stages, &mut report);
    report.print(&mut std::io::stdout())?;
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    outcome
}
