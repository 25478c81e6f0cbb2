//! `scale`: what a poll costs a hub with thousands of spokes in many regions and
//! several accounts. The spokes exist in moto alone (`privnet_tests::scale`).
//!
//! It reports, as a table and as JSON, and asserts nothing about speed; it fails
//! when something does not work.

#![forbid(unsafe_code)]

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use privnet_tests::isolation;
use privnet_tests::scale::{Cost, Poll, Size, measure};

/// Measures what a poll of thousands of spokes costs the hub
#[derive(Debug, Parser)]
struct Arguments {
    /// The spokes
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=7_000))]
    spokes: u32,

    /// The regions that they are spread over
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=20))]
    regions: u8,

    /// The accounts that they are spread over
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=3))]
    accounts: u8,

    /// Where the JSON goes
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if !isolation::inside() {
        let mut again = isolation::again(std::env::args_os().skip(1))?;
        return Err(again.exec()).context("cannot run unshare");
    }
    isolation::settle()?;
    let cost = measure(Size {
        spokes: arguments.spokes,
        regions: arguments.regions.into(),
        accounts: arguments.accounts.into(),
    })?;
    print(&cost, &mut std::io::stdout())?;
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&cost)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn print(cost: &Cost, out: &mut impl Write) -> Result<()> {
    let Size {
        spokes,
        regions,
        accounts,
    } = cost.size;
    writeln!(
        out,
        "\n{spokes} spokes in {regions} regions of {accounts} account(s); filling moto took {:.0} s\n\n\
         | poll | seconds | of them without waiting for moto | moto CPU-s | hub CPU-s | requests | most in one partition |\n\
         |---|---|---|---|---|---|---|",
        cost.seeding,
    )?;
    for (name, poll) in [
        ("first, until every peer is configured", &cost.first),
        ("nothing changed", &cost.unchanged),
        ("dry run", &cost.dry_run),
    ] {
        let Poll {
            seconds,
            moto_cpu,
            hub_cpu,
            busiest,
            ..
        } = poll;
        writeln!(
            out,
            "| {name} | {seconds:.1} | {:.2} | {moto_cpu:.1} | {hub_cpu:.2} | {} | {busiest} |",
            poll.own(),
            poll.total(),
        )?;
    }
    writeln!(
        out,
        "\nRequests of a poll: {:?}\nThe hub has {:.0} MB in memory, at most {:.0} MB",
        cost.unchanged.requests, cost.rss_megabytes, cost.peak_megabytes,
    )?;
    Ok(())
}
