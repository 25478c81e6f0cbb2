//! Completions and man pages, made from the command line's own definition.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::exit::{Failure, Outcome};
use crate::output::Output;

/// Prints the completion script.
pub(crate) fn completions(shell: Shell, output: &Output) -> Result<Outcome, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "tunnels", &mut script);
    output.print(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Done)
}

/// Writes `tunnels.1` and a page for each command into the directory.
pub(crate) fn pages(directory: &Path) -> Result<Outcome, Failure> {
    clap_mangen::generate_to(Arguments::command(), directory).map_err(|error| {
        let message = format!(
            "man pages cannot be written to {}: {error}",
            directory.display()
        );
        Failure::new(Outcome::Error, message)
    })?;
    Ok(Outcome::Done)
}
