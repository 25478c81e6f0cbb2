//! `tunnels`: what an operator asks a hub or a spoke, over its admin socket.
//!
//! Parse, ask, print. It has no state and no rights of its own, and whatever
//! it prints of a daemon's answer is escaped first: names come from tags that
//! anybody in the account may write.

#![forbid(unsafe_code)]

mod arguments;
mod connection;
mod escape;
mod events;
mod exit;
mod filter;
#[cfg(test)]
mod fixture;
mod header;
mod list;
mod manual;
mod output;
mod refresh;
mod show;
mod signals;
mod table;
mod units;
mod watch;
mod why;
mod width;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
use exit::{Failure, Outcome};
use output::Output;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output::new(arguments.color.into());
    match run(&arguments, &output).await {
        Ok(outcome) => outcome.into(),
        Err(failure) => {
            output.complain(&failure.to_string());
            failure.outcome().into()
        }
    }
}

async fn run(arguments: &Arguments, output: &Output) -> Result<Outcome, Failure> {
    let socket = arguments.socket.as_deref();
    match arguments.command.clone().unwrap_or_default() {
        Command::List(options) if options.watch => watch::run(socket, &options, output).await,
        Command::List(options) => list::run(socket, &options, output).await,
        Command::Show(options) => show::run(socket, &options, output).await,
        Command::Events(options) => events::run(socket, &options, output).await,
        Command::Why(options) => why::run(socket, &options, output).await,
        Command::Refresh(options) => refresh::run(socket, &options, output).await,
        Command::Completions { shell } => manual::completions(shell, output),
        Command::Man { directory } => manual::pages(&directory),
    }
}
