//! Where the output goes: how wide that is, whether it has colour, and what
//! becomes of a reader that went away.

use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};

use crate::exit::{Failure, Outcome};
use crate::table::Room;

/// The standard output and error.
#[derive(Debug)]
pub(crate) struct Output {
    colour: ColorChoice,
}

/// Whether anybody still reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    Listening,
    Gone,
}

impl Output {
    pub(crate) fn new(colour: ColorChoice) -> Self {
        Self { colour }
    }

    /// Prints the text; its colour is stripped where it is not wanted.
    pub(crate) fn print(&self, text: &str) -> Result<Reader, Failure> {
        let mut stdout = AutoStream::new(io::stdout().lock(), self.colour);
        outcome(
            stdout
                .write_all(text.as_bytes())
                .and_then(|()| stdout.flush()),
        )
    }

    /// The text as it may be printed: without its colour where that is not
    /// wanted.
    pub(crate) fn coloured(&self, text: &str) -> String {
        match AutoStream::new(io::stdout(), self.colour).current_choice() {
            ColorChoice::Never => anstream::adapter::strip_str(text).to_string(),
            ColorChoice::Auto | ColorChoice::AlwaysAnsi | ColorChoice::Always => text.to_owned(),
        }
    }

    /// Writes as it is what [`Output::print`] would strip: what moves the
    /// cursor is no colour.
    pub(crate) fn write_raw(&self, text: &str) -> Result<Reader, Failure> {
        let mut stdout = io::stdout().lock();
        outcome(
            stdout
                .write_all(text.as_bytes())
                .and_then(|()| stdout.flush()),
        )
    }

    /// One line on stderr; if that is gone there is nobody to tell.
    pub(crate) fn complain(&self, message: &str) {
        let _ = writeln!(io::stderr().lock(), "tunnels: {message}");
    }

    /// Whether a person looks at it.
    pub(crate) fn is_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// The terminal's rows, when it is one.
    pub(crate) fn rows(&self) -> Option<usize> {
        terminal_size::terminal_size_of(io::stdout()).map(|(_, height)| usize::from(height.0))
    }

    /// The room for a table: a terminal's width; elsewhere what the environment
    /// says by `COLUMNS` (as for a pager), and else all that the table needs.
    pub(crate) fn room(&self) -> Room {
        if !self.is_terminal() {
            let told = std::env::var("COLUMNS").ok();
            let columns = told.and_then(|columns| columns.parse().ok());
            return columns.map_or(Room::Unlimited, Room::Columns);
        }
        let told =
            terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
        Room::Columns(told.filter(|columns| *columns > 0).unwrap_or(80))
    }
}

fn outcome(written: io::Result<()>) -> Result<Reader, Failure> {
    match written {
        Ok(()) => Ok(Reader::Listening),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::new(
            Outcome::Error,
            format!("cannot write: {error}"),
        )),
    }
}
