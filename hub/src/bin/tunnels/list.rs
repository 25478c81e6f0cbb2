//! `tunnels list`: the header and the table.

use std::path::Path;

use privnet_model::status::Status;

use crate::arguments::ListOptions;
use crate::escape::escape_json;
use crate::exit::{Failure, Outcome};
use crate::output::Output;
use crate::table::{self, Room};
use crate::{connection, filter, header};

/// Prints the list once.
pub(crate) async fn run(
    socket: Option<&Path>,
    options: &ListOptions,
    output: &Output,
) -> Result<Outcome, Failure> {
    let (_, status) = connection::open(socket).await?;
    let status = filtered(status, options);
    let text = if options.json {
        escape_json(&serde_json::to_string_pretty(&status.listed())?) + "\n"
    } else {
        status.render(room(options, output))
    };
    output.print(&text)?;
    Ok(if options.check {
        status.check()
    } else {
        Outcome::Done
    })
}

/// The room that the options leave.
pub(crate) fn room(options: &ListOptions, output: &Output) -> Room {
    if options.wide {
        Room::Unlimited
    } else {
        output.room()
    }
}

/// A status of which some tunnels are listed; the header counts all.
pub(crate) struct Filtered {
    whole: Status,
    listed: Vec<privnet_model::status::Tunnel>,
}

/// The status as the options want it listed.
pub(crate) fn filtered(status: Status, options: &ListOptions) -> Filtered {
    let listed = filter::select(status.tunnels.clone(), options);
    Filtered {
        whole: status,
        listed,
    }
}

impl Filtered {
    /// The status with the listed tunnels alone.
    pub(crate) fn listed(&self) -> Status {
        Status {
            tunnels: self.listed.clone(),
            ..self.whole.clone()
        }
    }

    /// The header and the table, with colour.
    pub(crate) fn render(&self, room: Room) -> String {
        let mut text = header::render(&self.whole, room);
        text.push('\n');
        if !self.listed.is_empty() {
            text += &table::render(&self.listed, self.whole.now, room);
        } else if self.whole.tunnels.is_empty() {
            text += "There are no tunnels.\n";
        } else {
            text += "No tunnel matches.\n";
        }
        text
    }

    fn check(&self) -> Outcome {
        if self.listed.is_empty() {
            Outcome::NoSuchTunnel
        } else if self.listed.iter().all(filter::is_well) {
            Outcome::Done
        } else {
            Outcome::NotUp
        }
    }
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;
    use crate::fixture;

    #[track_caller]
    fn assert_golden(status: Status, room: Room, golden: &str) {
        let text = filtered(status, &ListOptions::default()).render(room);
        let text = strip_str(&text).to_string();
        assert!(text == golden, "expected:\n{golden}\nbut it is:\n{text}");
    }

    #[test]
    fn the_list_of_a_hub_in_80_columns() {
        let golden = include_str!("golden/hub-80.txt");
        assert_golden(fixture::hub(), Room::Columns(80), golden);
    }

    #[test]
    fn the_list_of_a_hub_in_160_columns() {
        let golden = include_str!("golden/hub-160.txt");
        assert_golden(fixture::hub(), Room::Columns(160), golden);
    }

    #[test]
    fn the_list_of_a_hub_without_limit() {
        let golden = include_str!("golden/hub-wide.txt");
        assert_golden(fixture::hub(), Room::Unlimited, golden);
    }

    #[test]
    fn the_list_of_a_site_with_several_gateways_in_80_columns() {
        let golden = include_str!("golden/gateways-80.txt");
        assert_golden(fixture::gateways(), Room::Columns(80), golden);
    }

    #[test]
    fn the_list_of_a_site_with_several_gateways_without_limit() {
        let golden = include_str!("golden/gateways-wide.txt");
        assert_golden(fixture::gateways(), Room::Unlimited, golden);
    }

    #[test]
    fn the_list_of_a_spoke_in_80_columns() {
        let golden = include_str!("golden/spoke-80.txt");
        assert_golden(fixture::spoke(), Room::Columns(80), golden);
    }

    #[test]
    fn an_empty_list_says_whether_there_is_nothing_or_nothing_matches() {
        let mut options = ListOptions {
            vpc: vec![
                "vpc-00000000"
                    .parse()
                    .unwrap_or_else(|error| panic!("{error}")),
            ],
            ..Default::default()
        };
        let text = filtered(fixture::hub(), &options).render(Room::Columns(80));
        assert!(text.ends_with("\nNo tunnel matches.\n"), "{text}");
        options.vpc.clear();
        let empty = Status {
            tunnels: Vec::new(),
            ..fixture::hub()
        };
        let text = filtered(empty, &options).render(Room::Columns(80));
        assert!(text.ends_with("\nThere are no tunnels.\n"), "{text}");
    }
}
