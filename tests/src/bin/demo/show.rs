//! The demo's output: one line a step, what it proves, and how long it took.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::Instant;

/// Prints the steps.
#[derive(Debug)]
pub(crate) struct Show {
    colour: bool,
    step: u32,
    start: Instant,
}

impl Show {
    pub(crate) fn new() -> Self {
        Self {
            colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            step: 0,
            start: Instant::now(),
        }
    }

    /// Carries a step out: its title before, `✓` or `✗` after. What it returns
    /// is shown as what was seen.
    pub(crate) fn step<T>(
        &mut self,
        title: &str,
        action: impl FnOnce() -> anyhow::Result<(T, String)>,
    ) -> anyhow::Result<T> {
        self.step += 1;
        self.print(&format!(
            "\n{}",
            self.paint("1", format!("{:2}. {title}", self.step))
        ));
        match action() {
            Ok((value, proof)) => {
                for line in proof.lines() {
                    self.print(&format!("    {} {line}", self.paint("32", '✓')));
                }
                Ok(value)
            }
            Err(error) => {
                self.print(&format!("    {} {error:#}", self.paint("31", '✗')));
                Err(error)
            }
        }
    }

    /// Prints text as it is, indented.
    pub(crate) fn quote(&self, text: &str) {
        for line in text.trim_end().lines() {
            self.print(&format!("      {line}"));
        }
    }

    /// The last line.
    pub(crate) fn end(&self) {
        self.print(&format!(
            "\n{} in {} s",
            self.paint("32", format!("All {} steps hold", self.step)),
            self.start.elapsed().as_secs()
        ));
    }

    /// Prints one line. A reader who has gone away is no reason to stop.
    pub(crate) fn print(&self, line: &str) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    fn paint(&self, code: &str, text: impl Display) -> String {
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_string()
        }
    }
}
