//! `make bench`: our data plane beside the other userspace WireGuards and beside
//! plain routing, on this machine, in one run.
//!
//! All of them are up at the same time, each in network namespaces of its own,
//! and take turns: every workload is run once by each before the next one, and
//! every round in another order. So whatever else the machine does meets all
//! alike. It reports and does not judge: a goal that is missed is printed as
//! missed, and only what did not work at all makes it fail.

#![forbid(unsafe_code)]

mod goal;
mod implementation;
mod network;
mod ping;
mod profile;
mod report;
mod results;
mod workload;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use privnet_tests::{isolation, programs};

use crate::implementation::{Implementation, Known, Named, PROFILING, RELEASE};
use crate::network::{Network, Topology};
use crate::results::{Key, Results};
use crate::workload::Workload;

/// Measures Privnet's data plane beside its peers
#[derive(Debug, Parser)]
struct Arguments {
    /// One round of two seconds each: about three minutes
    #[arg(long)]
    quick: bool,

    /// How often each measurement is taken [default: 3; quick: 1]
    #[arg(long, env = "BENCH_ROUNDS")]
    rounds: Option<u32>,

    /// How long each measurement takes [default: 5; quick: 2]
    #[arg(long, env = "BENCH_SECONDS")]
    seconds: Option<u32>,

    /// Only these implementations
    #[arg(long, env = "BENCH_ONLY", value_enum, value_delimiter = ',')]
    only: Vec<Known>,

    /// Another program that takes part: a second build of privnet-wg, another
    /// wireguard-go. It is started as they are, `PATH -f INTERFACE`
    #[arg(long, value_name = "NAME=PATH")]
    also: Vec<Named>,

    /// Only these topologies
    #[arg(long, env = "BENCH_TOPOLOGY", value_enum, value_delimiter = ',')]
    topology: Vec<Topology>,

    /// Only these workloads
    #[arg(long, env = "BENCH_WORKLOAD", value_enum, value_delimiter = ',')]
    workload: Vec<Workload>,

    /// Run everything under `perf record` and print where the tunnel processes
    /// spend their time, instead of measuring
    #[arg(long)]
    perf: bool,

    /// Where to write the results as JSON [default: bench/results.json in the
    /// target directory]
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Arguments {
    fn rounds(&self) -> u32 {
        match self.rounds {
            Some(rounds) => rounds.max(1),
            None if self.quick || self.perf => 1,
            None => 3,
        }
    }

    fn length(&self) -> Duration {
        let default = if self.quick { 2 } else { 5 };
        Duration::from_secs(self.seconds.unwrap_or(default).max(1).into())
    }

    fn implementations(&self) -> Result<Vec<Implementation>> {
        let profile = if self.perf { PROFILING } else { RELEASE };
        chosen(&self.only)
            .into_iter()
            .map(|known| Implementation::known(known, profile))
            .chain(self.also.iter().map(Implementation::named))
            .collect()
    }

    fn json(&self) -> Result<PathBuf> {
        match &self.json {
            Some(path) => std::path::absolute(path).context("where to write the results"),
            None => {
                let own = std::env::current_exe().context("cannot tell where this program is")?;
                let target = own.ancestors().nth(2).context("this program is nowhere")?;
                Ok(target.join("bench/results.json"))
            }
        }
    }
}

/// What was asked for, or all there is.
fn chosen<T: clap::ValueEnum + Clone>(asked: &[T]) -> Vec<T> {
    if asked.is_empty() {
        T::value_variants().to_vec()
    } else {
        asked.to_vec()
    }
}

fn main() -> ExitCode {
    let outcome = run(&Arguments::parse());
    outcome.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "bench: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    programs::require_tools(&["iperf3", "ping", "wg"])?;
    let implementations = arguments.implementations()?;
    if !isolation::inside() {
        let mut again = isolation::again(std::env::args_os().skip(1))?;
        return Err(again.exec()).context("cannot run unshare");
    }
    isolation::on_end_signal(|code| std::process::exit(code))?;
    isolation::settle()?;
    let mut able = Vec::new();
    for implementation in implementations {
        match implementation.can_run()? {
            true => able.push(implementation),
            false => progress(&format!(
                "without {}: this kernel has not what it needs",
                implementation.name()
            )),
        }
    }
    let implementations = able;

    let topologies = chosen(&arguments.topology);
    let workloads = chosen(&arguments.workload);
    if arguments.perf {
        for topology in topologies {
            for implementation in implementations.iter().filter(|one| one.has_program()) {
                let network = Network::start(topology, implementation)?;
                for workload in &workloads {
                    let profile = profile::take(&network, *workload, arguments.length())?;
                    let title = format!("{}, {topology}, {workload}", implementation.name());
                    print(&profile.to_text(&title))?;
                }
            }
        }
        return Ok(ExitCode::SUCCESS);
    }

    let mut results = Results::new(&implementations, arguments.rounds(), arguments.length());
    for topology in topologies {
        let measured = measure(
            topology,
            &implementations,
            &workloads,
            arguments,
            &mut results,
        );
        if let Err(error) = measured {
            // What was measured before is worth having.
            results.fail(&topology.to_string(), &error);
        }
    }
    results.judge();
    let json = arguments.json()?;
    results.save(&json)?;
    print(&report::text(&results))?;
    print(&format!("\nEverything as JSON: {}\n", json.display()))?;
    Ok(if results.failures().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// All rounds of one topology.
fn measure(
    topology: Topology,
    implementations: &[Implementation],
    workloads: &[Workload],
    arguments: &Arguments,
    results: &mut Results,
) -> Result<()> {
    let start = Instant::now();
    let mut networks = Vec::new();
    for implementation in implementations {
        networks.push(Network::start(topology, implementation)?);
    }
    for round in 0..arguments.rounds() {
        for workload in workloads {
            for turn in 0..networks.len() {
                // Each round begins with another one.
                let which = (turn + round as usize) % networks.len();
                let key = Key {
                    topology,
                    workload: *workload,
                    implementation: implementations[which].name().to_owned(),
                };
                progress(&format!(
                    "{topology}, round {} of {}, {:.0} s so far: {workload}, {}",
                    round + 1,
                    arguments.rounds(),
                    start.elapsed().as_secs_f32(),
                    key.implementation,
                ));
                match workload.run(&networks[which], arguments.length()) {
                    Ok(sample) => results.add(key, sample),
                    Err(mut error) => {
                        if let Err(ended) = networks[which].check() {
                            error = error.context(ended.to_string());
                        }
                        results.fail(&key.to_string(), &error);
                        // What it left behind must not spoil what comes.
                        networks.remove(which);
                        let again = Network::start(topology, &implementations[which])?;
                        networks.insert(which, again);
                    }
                }
            }
        }
    }
    progress("");
    for (network, implementation) in networks.iter().zip(implementations) {
        if let Some(bytes) = network.spoke_peak_bytes()? {
            results.add_memory(topology, implementation.name(), bytes);
        }
    }
    Ok(())
}

fn print(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()?;
    Ok(())
}

/// One line on the terminal that is overwritten by the next.
fn progress(text: &str) {
    use std::io::IsTerminal;
    let mut output = std::io::stderr();
    let _ = if output.is_terminal() {
        write!(output, "\r\x1b[K{text}")
    } else if text.is_empty() {
        Ok(())
    } else {
        writeln!(output, "{text}")
    };
}
