//! `tunnels events`: what happened lately and why, and with `--follow` what
//! happens from now on.
//!
//! A daemon that goes away while it is followed is waited for, as `list --watch`
//! does; one that was started anew counts its events from 1 again.

use std::path::Path;
use std::time::Duration;

use anstyle::Style;
use privnet_model::admin::Event;
use privnet_runtime::client::{AdminClient, ClientError};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::arguments::EventsOptions;
use crate::connection;
use crate::escape::{escape, escape_json};
use crate::exit::{Failure, Outcome};
use crate::output::{Output, Reader};
use crate::signals::{Signals, Told};

/// How often a daemon that is followed is asked.
const INTERVAL: Duration = Duration::from_secs(1);

const FAINT: Style = Style::new().dimmed();

/// Prints the last events, and goes on if told to.
pub(crate) async fn run(
    socket: Option<&Path>,
    options: &EventsOptions,
    output: &Output,
) -> Result<Outcome, Failure> {
    if options.follow {
        return follow(socket, options, output).await;
    }
    let (client, _) = connection::open(socket).await?;
    let mut events = client.events().await?;
    let nothing = events.is_empty();
    let last = last_of(&mut events, options.lines);
    let text = match options.json {
        true => escape_json(&serde_json::to_string_pretty(last)?) + "\n",
        false if nothing => "Nothing happened since the daemon started.\n".to_owned(),
        false => last.iter().map(render).collect(),
    };
    output.print(&text)?;
    Ok(Outcome::Done)
}

async fn follow(
    socket: Option<&Path>,
    options: &EventsOptions,
    output: &Output,
) -> Result<Outcome, Failure> {
    let mut signals = Signals::listen()?;
    let (client, status) = tokio::select! {
        opened = connection::open(socket) => opened?,
        () = signals.stopped() => return Ok(Outcome::Done),
    };
    let program = status.role.program();
    let mut ticker = interval(INTERVAL);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Position::Start;
    let mut lost = false;
    loop {
        let answer = tokio::select! {
            biased;
            told = signals.next() => match told {
                Told::Stop => return Ok(Outcome::Done),
                Told::Resized => continue,
            },
            answer = next(&mut ticker, &client) => answer,
        };
        let mut events = match answer {
            Ok(events) => events,
            // It is there and says no: waiting would not change its mind.
            Err(error @ ClientError::Api { .. }) => return Err(error.into()),
            Err(error) => {
                if let ClientError::NotRunning { .. } = error {
                    seen = Position::Anew;
                }
                if !lost {
                    let why = escape(&error.to_string()).into_owned();
                    output.complain(&format!("{program}: {why}; waiting for it"));
                }
                lost = true;
                continue;
            }
        };
        lost = false;
        let news = seen.news(&mut events, options.lines);
        let mut text = String::new();
        for event in news {
            text += &match options.json {
                true => escape_json(&serde_json::to_string(event)?) + "\n",
                false => render(event),
            };
        }
        if !text.is_empty() && output.print(&text)? == Reader::Gone {
            return Ok(Outcome::Done);
        }
    }
}

async fn next(ticker: &mut Interval, client: &AdminClient) -> Result<Vec<Event>, ClientError> {
    ticker.tick().await;
    client.events().await
}

/// How far the events were printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Not at all yet: only as many as asked for are printed.
    Start,
    /// The daemon went away: all that the next one tells is new.
    Anew,
    /// Up to this number.
    After(u64),
}

impl Position {
    /// What was not printed yet, and takes it for printed.
    fn news<'e>(&mut self, events: &'e mut [Event], lines: usize) -> &'e [Event] {
        let newest = events.iter().map(|event| event.number).max().unwrap_or(0);
        let before = std::mem::replace(self, Self::After(newest));
        match before {
            Self::Start => last_of(events, lines),
            Self::After(number) if number <= newest => {
                let first = events.partition_point(|event| event.number <= number);
                &events[first..]
            }
            // Numbers that fell are those of a daemon that was started anew.
            Self::After(_) | Self::Anew => events,
        }
    }
}

fn last_of(events: &mut [Event], lines: usize) -> &[Event] {
    events.sort_by_key(|event| event.number);
    &events[events.len().saturating_sub(lines)..]
}

fn render(event: &Event) -> String {
    let (what, text) = (escape(&event.what), escape(&event.text));
    let again = match event.times {
        ..=1 => String::new(),
        times => format!("{FAINT} (x {times} since {:.0}){FAINT:#}", event.first),
    };
    format!("{FAINT}{:.0}{FAINT:#}  {what}: {text}{again}\n", event.at)
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;
    use crate::fixture;

    fn numbers(events: &[Event]) -> Vec<u64> {
        events.iter().map(|event| event.number).collect()
    }

    #[test]
    fn each_event_is_a_line_that_says_how_often() {
        let text: String = fixture::events().iter().map(render).collect();
        let text = strip_str(&text).to_string();
        let golden = include_str!("golden/events.txt");
        assert!(text == golden, "expected:\n{golden}\nbut it is:\n{text}");
    }

    #[test]
    fn of_all_the_last_are_taken() {
        let mut events = fixture::events();
        events.reverse();
        assert_eq!(numbers(last_of(&mut events, 2)), [24, 25]);
        assert_eq!(numbers(last_of(&mut events, 0)), [0; 0]);
        assert_eq!(numbers(last_of(&mut events, 50)), [3, 20, 24, 25]);
        assert!(last_of(&mut [], 5).is_empty());
    }

    #[test]
    fn what_is_followed_is_printed_once_and_anew_after_a_restart() {
        let mut seen = Position::Start;
        let mut news = |numbers_now: &[u64]| {
            let of = |number| Event {
                number,
                ..fixture::events().remove(0)
            };
            let mut events: Vec<Event> = numbers_now.iter().map(|number| of(*number)).collect();
            numbers(seen.news(&mut events, 2))
        };
        assert_eq!(news(&[1, 2, 3]), [2, 3]);
        assert_eq!(news(&[1, 2, 3]), [0; 0]);
        // The second happened again, and two more.
        assert_eq!(news(&[1, 3, 4, 5, 6]), [4, 5, 6]);
        assert_eq!(news(&[1, 2, 3]), [1, 2, 3]);
        assert_eq!(news(&[]), [0; 0]);
        assert_eq!(news(&[1]), [1]);

        let mut seen = Position::Anew;
        let mut events = fixture::events();
        assert_eq!(seen.news(&mut events, 1).len(), 4);
        assert_eq!(seen, Position::After(25));
    }

    #[test]
    fn a_hostile_name_stays_in_its_line() {
        let hostile = Event {
            what: "tunnel \x1b[2J\nx".to_owned(),
            text: "\u{202e}y".to_owned(),
            ..fixture::events().remove(0)
        };
        let line = strip_str(&render(&hostile)).to_string();
        assert_eq!(line.lines().count(), 1);
        assert!(!line.contains(['\x1b', '\u{202e}']), "{line}");
    }
}
