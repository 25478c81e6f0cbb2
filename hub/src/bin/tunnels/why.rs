//! `tunnels why SUBJECT [TOWARDS]`: why something is or is not connected, in one
//! paragraph that the daemon writes.

use std::path::Path;

use anstyle::{AnsiColor, Style};
use privnet_model::admin::{WhyAnswer, WhyRequest};

use crate::arguments::WhyOptions;
use crate::connection;
use crate::escape::{escape, escape_json};
use crate::exit::{Failure, Outcome};
use crate::output::Output;
use crate::table::Room;
use crate::width::wrap;

/// On a terminal lines longer than this are hard to read.
const READABLE: usize = 100;

/// Asks and prints the answer.
pub(crate) async fn run(
    socket: Option<&Path>,
    options: &WhyOptions,
    output: &Output,
) -> Result<Outcome, Failure> {
    let (client, _) = connection::open(socket).await?;
    let request = WhyRequest {
        subject: options.subject.clone(),
        towards: options.towards.clone(),
    };
    let answer = client.why(&request).await?;
    let text = if options.json {
        escape_json(&serde_json::to_string_pretty(&answer)?) + "\n"
    } else {
        render(&answer, output.room())
    };
    output.print(&text)?;
    Ok(if answer.connected {
        Outcome::Done
    } else {
        Outcome::NotUp
    })
}

/// The verdict in two words, then the paragraph.
fn render(answer: &WhyAnswer, room: Room) -> String {
    let (verdict, style): (_, Style) = if answer.connected {
        ("connected", AnsiColor::Green.on_default())
    } else {
        ("not connected", AnsiColor::Red.on_default())
    };
    let limit = match room {
        Room::Columns(columns) => columns.min(READABLE),
        Room::Unlimited => usize::MAX,
    };
    let text = wrap(&format!("{verdict}: {}", escape(&answer.text)), limit, 0);
    // In a window of a few columns the verdict itself is broken.
    let rest = text.strip_prefix(verdict).unwrap_or(&text);
    match rest.len() < text.len() {
        true => format!("{style}{verdict}{style:#}{rest}\n"),
        false => format!("{text}\n"),
    }
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;
    use crate::width::width;

    fn answer(connected: bool, text: &str) -> WhyAnswer {
        WhyAnswer {
            connected,
            text: text.to_owned(),
        }
    }

    fn plain(answer: &WhyAnswer, room: Room) -> String {
        strip_str(&render(answer, room)).to_string()
    }

    #[test]
    fn the_verdict_comes_first_and_the_paragraph_fits_the_terminal() {
        let text = "10.9.0.0/16 belongs to vpc-0a, and vpc-0b has carried the same CIDR since \
                    before it: the older launch keeps it.";
        let refused = answer(false, text);
        assert_eq!(
            plain(&refused, Room::Unlimited),
            format!("not connected: {text}\n")
        );
        for limit in [5, 13, 20, 40, 80, 300] {
            let shown = plain(&refused, Room::Columns(limit));
            let words = |text: &str| {
                text.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            assert_eq!(words(&shown), words(&format!("not connected: {text}")));
            let longest = 13.max(limit.min(READABLE));
            assert!(shown.lines().all(|line| width(line) <= longest), "{shown}");
        }
        let fine = render(&answer(true, "It is."), Room::Unlimited);
        assert_eq!(fine, "\u{1b}[32mconnected\u{1b}[0m: It is.\n");
    }

    #[test]
    fn a_hostile_name_in_it_is_escaped() {
        let shown = plain(&answer(true, "\x1b[2J\nx"), Room::Columns(80));
        assert_eq!(shown, "connected: \\u{1b}[2J\\nx\n");
    }
}
