//! `tunnels refresh`: has the daemon look again, and tells what came of it.

use std::path::Path;

use anstyle::{AnsiColor, Style};
use privnet_model::admin::{Action, RefreshReport, RefreshRequest};

use crate::arguments::RefreshOptions;
use crate::connection;
use crate::escape::{escape, escape_json};
use crate::exit::{Failure, Outcome};
use crate::output::Output;
use crate::width::width;

const FAILED: Style = AnsiColor::Red.on_default();

/// Refreshes and prints the report.
pub(crate) async fn run(
    socket: Option<&Path>,
    options: &RefreshOptions,
    output: &Output,
) -> Result<Outcome, Failure> {
    let (client, _) = connection::open(socket).await?;
    let request = RefreshRequest {
        dry_run: options.dry_run,
        accept_removals: options.accept_removals,
        remove: options.remove.clone(),
    };
    let report = client.refresh(request).await?;
    let text = if options.json {
        escape_json(&serde_json::to_string_pretty(&report)?) + "\n"
    } else {
        render(&report)
    };
    output.print(&text)?;
    let partial = !report.failures.is_empty()
        || report
            .partitions
            .iter()
            .any(|partition| partition.error.is_some());
    Ok(if partial {
        Outcome::Partial
    } else if report.held_removals.is_some() {
        Outcome::Held
    } else {
        Outcome::Done
    })
}

fn render(report: &RefreshReport) -> String {
    let mut text = String::new();
    let names: Vec<_> = report
        .partitions
        .iter()
        .map(|partition| escape(&partition.partition))
        .collect();
    let room = names.iter().map(|name| width(name)).max().unwrap_or(0);
    for (partition, name) in report.partitions.iter().zip(&names) {
        let padding = " ".repeat(room - width(name));
        let spokes = match partition.spokes {
            1 => "1 spoke".to_owned(),
            number => format!("{number} spokes"),
        };
        text += &match &partition.error {
            None => format!("{name}{padding}  {spokes}\n"),
            Some(error) => format!(
                "{name}{padding}  {FAILED}failed{FAILED:#}, {spokes} kept as known: {}\n",
                escape(error)
            ),
        };
    }
    if !report.partitions.is_empty() {
        text.push('\n');
    }
    if report.changes.is_empty() {
        text += if report.dry_run {
            "Nothing would change.\n"
        } else {
            "Nothing changed.\n"
        };
    }
    let would = if report.dry_run { "would " } else { "" };
    for change in &report.changes {
        let (action, style) = match change.action {
            Action::Add => ("add   ", AnsiColor::Green.on_default()),
            Action::Change => ("change", AnsiColor::Yellow.on_default()),
            Action::Remove => ("remove", AnsiColor::Red.on_default()),
        };
        text += &format!("{style}{would}{action}{style:#}  {}", escape(&change.what));
        if !change.why.is_empty() {
            text += &format!(": {}", escape(&change.why));
        }
        text.push('\n');
    }
    for failure in &report.failures {
        text += &format!("{FAILED}failed{FAILED:#}: {}\n", escape(failure));
    }
    if let Some(held) = &report.held_removals {
        text += &format!("{FAILED}held{FAILED:#}: {held}\n");
    }
    if report.dry_run && !report.changes.is_empty() {
        text += "\nThis was a dry run: nothing was changed.\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;
    use privnet_model::admin::{Change, PolledPartition};
    use privnet_model::inventory::HeldRemovals;

    use super::*;

    fn report(dry_run: bool) -> RefreshReport {
        let change = |action, what: &str, why: &str| Change {
            action,
            what: what.to_owned(),
            why: why.to_owned(),
        };
        RefreshReport {
            dry_run,
            partitions: vec![
                PolledPartition {
                    partition: "111122223333/eu-west-1".to_owned(),
                    spokes: 1,
                    error: None,
                },
                PolledPartition {
                    partition: "111122223333/ap-southeast-2".to_owned(),
                    spokes: 2,
                    error: Some("timed out\x1b[2J".to_owned()),
                },
            ],
            changes: vec![
                change(Action::Add, "tunnel spoke-c", "new spoke i-0c in vpc-0c"),
                change(
                    Action::Remove,
                    "route 10.9.0.0/16",
                    "its instance was terminated",
                ),
            ],
            failures: vec!["route 10.7.0.0/16: no such device".to_owned()],
            held_removals: Some(HeldRemovals {
                count: 12,
                of: 40,
                since: crate::fixture::now(),
            }),
        }
    }

    #[test]
    fn a_refresh_tells_partitions_changes_and_failures() {
        let text = strip_str(&render(&report(false))).to_string();
        assert_eq!(
            text,
            "\
111122223333/eu-west-1       1 spoke
111122223333/ap-southeast-2  failed, 2 spokes kept as known: timed out\\u{1b}[2J

add     tunnel spoke-c: new spoke i-0c in vpc-0c
remove  route 10.9.0.0/16: its instance was terminated
failed: route 10.7.0.0/16: no such device
held: 12 of 40 tunnels would go at once, so all are kept since 2026-11-21T05:00:00Z; if they are \
meant to go: `tunnels refresh --accept-removals`
"
        );
    }

    #[test]
    fn a_dry_run_says_would() {
        let text = strip_str(&render(&report(true))).to_string();
        assert!(text.contains("would add     tunnel spoke-c"), "{text}");
        assert!(
            text.ends_with("This was a dry run: nothing was changed.\n"),
            "{text}"
        );
        assert_eq!(
            render(&RefreshReport {
                dry_run: true,
                ..Default::default()
            }),
            "Nothing would change.\n"
        );
    }
}
