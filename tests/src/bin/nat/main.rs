//! What NAT costs a gateway, beside routing alone: throughput, connections per second,
//! and how many connections it holds. `make bench` runs it.
//!
//! The rules are those that a spoke loads. Networks of all kinds stand at the same time
//! and take turns, so what else the machine does meets all alike. It reports and does not
//! judge; what did not work at all makes it fail.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench reports")]

mod crowd;
mod network;

use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use privnet_tests::iperf::Run;
use privnet_tests::{cpu, isolation, programs};

use crate::network::{Kind, Network, SERVER};

/// Measures NAT beside routing
#[derive(Debug, Parser)]
struct Arguments {
    /// How often each measurement is taken
    #[arg(long, default_value_t = 3)]
    rounds: u32,

    /// How long each measurement takes, in seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,

    /// How many connections are to be held at the same time; 0: that is left out
    #[arg(long, default_value_t = 200_000)]
    hold: u32,

    /// Only answer, at this port
    #[arg(long, hide = true)]
    echo: Option<u16>,

    /// Only hold connections, to this port
    #[arg(long, hide = true)]
    at: Option<u16>,
}

const WORKLOADS: [(&str, &[&str]); 3] = [
    ("one TCP flow", &[]),
    ("eight TCP flows", &["--parallel", "8"]),
    (
        "UDP 1360 B at 500 Mbit/s",
        &[
            "--udp",
            "--length",
            "1360",
            "--bitrate",
            "500M",
            "--window",
            "2M",
        ],
    ),
];

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nat: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    match (arguments.echo, arguments.at) {
        (Some(port), _) => return crowd::serve(port),
        (None, Some(port)) => return crowd::hold_here(arguments.hold, port),
        (None, None) => {}
    }
    programs::require_tools(&["iperf3", "nft"])?;
    if !isolation::inside() {
        let mut again = isolation::again(std::env::args_os().skip(1))?;
        return Err(again.exec()).context("cannot run unshare");
    }
    isolation::on_end_signal(|code| std::process::exit(code))?;
    isolation::settle()?;

    let length = Duration::from_secs(arguments.seconds.max(1));
    let mut networks = Vec::new();
    for kind in [Kind::Routed, Kind::Nat, Kind::NatFlowtable] {
        match Network::start(kind)? {
            Ok(network) => networks.push(network),
            Err(why) => println!("{kind}: not on this kernel ({why})"),
        }
    }
    for (workload, iperf) in WORKLOADS {
        println!("\n{workload:<28}  Gbit/s          machine CPU-s/GB");
        let mut rows = vec![Vec::new(); networks.len()];
        for _ in 0..arguments.rounds.max(1) {
            for (network, row) in networks.iter().zip(&mut rows) {
                row.push(throughput(network, length, iperf)?);
            }
        }
        for (network, row) in networks.iter().zip(&rows) {
            let rate = spread(row.iter().map(|(rate, _)| *rate));
            let cost = spread(row.iter().map(|(_, cost)| *cost));
            println!("  {:<26}  {rate:<14}  {cost}", network.kind.to_string());
        }
    }
    println!(
        "\n{:<28}  per second       machine CPU µs each",
        "new TCP connections"
    );
    let mut rows = vec![Vec::new(); networks.len()];
    for _ in 0..arguments.rounds.max(1) {
        for (network, row) in networks.iter().zip(&mut rows) {
            let before = cpu::machine_seconds()?;
            let made = crowd::connect_and_close(network, length)?;
            let cost = (cpu::machine_seconds()? - before) * 1e6 / made as f64;
            row.push((made as f64 / length.as_secs_f64(), cost));
        }
    }
    for (network, row) in networks.iter().zip(&rows) {
        let rate = spread(row.iter().map(|(rate, _)| *rate));
        let cost = spread(row.iter().map(|(_, cost)| *cost));
        println!("  {:<26}  {rate:<15}  {cost}", network.kind.to_string());
    }
    if arguments.hold == 0 {
        return Ok(());
    }
    println!();
    let network = networks.iter().rfind(|one| one.kind != Kind::Routed);
    let network = network.context("no network with NAT")?;
    println!(
        "{}: {}",
        network.kind,
        crowd::hold(network, arguments.hold)?
    );
    Ok(())
}

/// Gbit/s that arrived, and what the machine spent on each GB.
fn throughput(network: &Network, length: Duration, iperf: &[&str]) -> Result<(f64, f64)> {
    let before = cpu::machine_seconds()?;
    let run = Run::start(&network.client, (&network.server, SERVER), length, iperf)?;
    let traffic = run.finish()?;
    let spent = cpu::machine_seconds()? - before;
    let rate = traffic.received_bytes * 8.0 / traffic.seconds / 1e9;
    Ok((rate, spent / (traffic.received_bytes / 1e9)))
}

/// The median, and the smallest and the largest.
fn spread(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let median = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
    let digits = if median >= 100.0 { 0 } else { 2 };
    match (values.first(), values.last()) {
        (Some(least), Some(most)) if values.len() > 1 => {
            format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
        }
        _ => format!("{median:.digits$}"),
    }
}
