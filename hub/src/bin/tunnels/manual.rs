//! Completions and man pages, made from the command line's own definition.

use std::path::Path;
use std::{fs, io};

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
    let mut command = Arguments::command().disable_help_subcommand(true);
    // Gives the commands their full names and the global options.
    command.build();
    let shown = command.get_subcommands().filter(|part| !part.is_hide_set());
    for part in shown.chain([&command]) {
        page(part.clone(), directory).map_err(|error| {
            let directory = directory.display();
            let message = format!("man pages cannot be written to {directory}: {error}");
            Failure::new(Outcome::Error, message)
        })?;
    }
    Ok(Outcome::Done)
}

fn page(command: clap::Command, directory: &Path) -> io::Result<()> {
    let man = clap_mangen::Man::new(command);
    let mut page = Vec::new();
    man.render(&mut page)?;
    // The help's last words are the exit codes, for which manuals have a
    // section of its own name (man-pages(7)); clap_mangen knows only `EXTRA`.
    let page = String::from_utf8_lossy(&page)
        .replace(".SH EXTRA\n", ".SH \"EXIT STATUS\"\n")
        .replace("Exit codes:\n", "");
    fs::write(directory.join(man.get_filename()), page)
}
