//! The namespace tests: the real programs, in worlds of their own.
//!
//! Each test runs in a process inside private namespaces (see
//! `privnet_tests::isolation`), so that tests can run side by side and nothing
//! is left of one that was killed. Under `cargo test`, `cargo nextest` and by
//! hand: `netns NAME`. Nothing is skipped: a missing tool is a failure.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a test reports")]

mod world;

use std::ffi::OsString;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use privnet_tests::isolation;

/// A test by name.
type Test = (&'static str, fn() -> Result<()>);

/// The tests of a module, named as in a path: `tests![hosts::a_test, hosts::another]`.
macro_rules! tests {
    ($($module:ident::$name:ident),+ $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), $module::$name)),+]
    };
}

const TESTS: &[Test] = tests![
    world::an_instance_with_a_public_address_is_seen_by_it,
    world::without_a_public_address_nothing_leaves_or_enters,
    world::a_private_hosts_packets_reach_the_instance_its_route_names,
    world::metadata_is_given_only_for_a_token,
    world::the_api_knows_the_instances_and_their_addresses,
    world::the_proxy_breaks_only_what_it_is_told_to,
];

fn main() -> ExitCode {
    if isolation::inside() {
        return run_inside();
    }
    let trials = TESTS
        .iter()
        .map(|(name, _)| Trial::test(*name, move || run_outside(name)))
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Runs one test in a process inside.
fn run_outside(name: &str) -> Result<(), Failed> {
    let output = isolation::again([OsString::from(name)])
        .and_then(|mut command| {
            command
                .env("RUST_LIB_BACKTRACE", "1")
                .stdin(Stdio::null())
                .output()
                .context("cannot run unshare")
        })
        .map_err(|error| Failed::from(format!("{error:#}")))?;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.status.success() {
        print!("{said}");
        return Ok(());
    }
    Err(Failed::from(format!("{}\n{said}", output.status)))
}

fn run_inside() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let outcome = TESTS
        .iter()
        .find(|(known, _)| *known == name)
        .with_context(|| format!("no test is called {name}"))
        .and_then(|(_, test)| {
            isolation::settle()?;
            test()
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            // Of the backtrace, only where in a test it was: the rest is the way there.
            let backtrace = error.backtrace().to_string();
            for place in backtrace
                .lines()
                .filter(|line| line.contains("/netns/") && !line.contains("main.rs"))
            {
                eprintln!("  {}", place.trim());
            }
            ExitCode::FAILURE
        }
    }
}
