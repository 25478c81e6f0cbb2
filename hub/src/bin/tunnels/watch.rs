//! `tunnels list --watch`: the list again and again, in place on a terminal,
//! as blocks or JSON lines elsewhere, until interrupted.
//!
//! A daemon that goes away is waited for: it may be restarting. Only at the
//! start a daemon that does not run is an error, as without `--watch`.

use std::path::Path;
use std::time::Duration;

use privnet_model::status::Status;
use privnet_runtime::client::{AdminClient, ClientError};

use crate::arguments::ListOptions;
use crate::escape::{escape, escape_json};
use crate::exit::{Failure, Outcome};
use crate::output::{Output, Reader};
use crate::signals::{Signals, Told};
use crate::table::Room;
use crate::width::wrap;
use crate::{connection, list};

const INTERVAL: Duration = Duration::from_secs(2);

/// Prints until interrupted, or until nobody reads any more.
pub(crate) async fn run(
    socket: Option<&Path>,
    options: &ListOptions,
    output: &Output,
) -> Result<Outcome, Failure> {
    let mut signals = Signals::listen()?;
    let (client, status) = tokio::select! {
        opened = connection::open(socket) => opened?,
        () = signals.stopped() => return Ok(Outcome::Done),
    };
    if output.is_terminal() && !options.json {
        let screen = Screen::enter(output)?;
        watch(&client, status, options, &screen, &mut signals).await
    } else {
        watch(&client, status, options, &Lines { output }, &mut signals).await
    }
}

/// What is shown: the newest status, and why there is none newer.
struct View {
    status: Status,
    lost: Option<String>,
}

trait Display {
    /// Shows the view; `changed` says whether it is a new answer, or the first
    /// time that there is none.
    fn show(&self, view: &View, options: &ListOptions, changed: bool) -> Result<Reader, Failure>;
}

async fn watch(
    client: &AdminClient,
    status: Status,
    options: &ListOptions,
    display: &impl Display,
    signals: &mut Signals,
) -> Result<Outcome, Failure> {
    let mut view = View { status, lost: None };
    let mut ticker = tokio::time::interval(options.interval.unwrap_or(INTERVAL));
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticker.tick().await;
    let mut changed = true;
    loop {
        if display.show(&view, options, changed)? == Reader::Gone {
            return Ok(Outcome::Done);
        }
        changed = false;
        let answer = tokio::select! {
            biased;
            told = signals.next() => match told {
                Told::Stop => return Ok(Outcome::Done),
                Told::Resized => continue,
            },
            answer = next(&mut ticker, client) => answer,
        };
        match answer {
            Ok(status) => {
                view = View { status, lost: None };
                changed = true;
            }
            Err(error) => {
                changed = view.lost.is_none();
                let program = view.status.role.program();
                let why = match error {
                    ClientError::NotRunning { .. } => format!("{program} is not running"),
                    error => format!("{program} does not answer: {}", escape(&error.to_string())),
                };
                view.lost = Some(why);
            }
        }
    }
}

async fn next(
    ticker: &mut tokio::time::Interval,
    client: &AdminClient,
) -> Result<Status, ClientError> {
    ticker.tick().await;
    client.status().await
}

/// A terminal: redrawn in place, on its alternate screen, so that what was
/// there before comes back.
struct Screen<'a> {
    output: &'a Output,
}

impl<'a> Screen<'a> {
    fn enter(output: &'a Output) -> Result<Self, Failure> {
        output.write_raw("\x1b[?1049h\x1b[?25l")?;
        Ok(Self { output })
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no tidying.
        let _ = self.output.write_raw("\x1b[?25h\x1b[?1049l");
    }
}

impl Display for Screen<'_> {
    fn show(&self, view: &View, options: &ListOptions, _: bool) -> Result<Reader, Failure> {
        let room = list::room(options, self.output);
        let mut text = String::new();
        if let Some(lost) = &view.lost {
            let limit = match room {
                Room::Columns(limit) => limit,
                Room::Unlimited => usize::MAX,
            };
            text += &wrap(&format!("{lost}; this is from before:"), limit, 2);
            text.push('\n');
        }
        text += &list::filtered(view.status.clone(), options).render(room);
        let text = self.output.coloured(&text);
        let rows = self.output.rows().unwrap_or(24);
        self.output.write_raw(&frame(&text, rows))
    }
}

/// The text over what was there before, in at most so many rows. Each line
/// clears what it leaves of the one before, so that nothing flickers, and none
/// ends the last row, which would scroll.
fn frame(text: &str, rows: usize) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let more;
    if lines.len() > rows {
        let shown = rows.saturating_sub(1);
        more = format!(
            "… {} more lines: enlarge the window, or filter",
            lines.len() - shown
        );
        lines.truncate(shown);
        lines.push(&more);
    }
    format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"))
}

/// A pipe or a file: one block, or one line of JSON, for each answer.
struct Lines<'a> {
    output: &'a Output,
}

impl Display for Lines<'_> {
    fn show(&self, view: &View, options: &ListOptions, changed: bool) -> Result<Reader, Failure> {
        if !changed {
            return Ok(Reader::Listening);
        }
        if let Some(lost) = &view.lost {
            self.output.complain(&format!("{lost}; waiting for it"));
            return Ok(Reader::Listening);
        }
        let status = list::filtered(view.status.clone(), options);
        let text = if options.json {
            escape_json(&serde_json::to_string(&status.listed())?)
        } else {
            status.render(list::room(options, self.output))
        };
        self.output.print(&(text + "\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_never_scrolls() {
        let text = "one\ntwo\nthree\n";
        assert_eq!(
            frame(text, 3),
            "\x1b[Hone\x1b[K\r\ntwo\x1b[K\r\nthree\x1b[K\x1b[J"
        );
        assert_eq!(
            frame(text, 2),
            "\x1b[Hone\x1b[K\r\n… 2 more lines: enlarge the window, or filter\x1b[K\x1b[J"
        );
    }
}
