//! What stands above the table: who answers, how many tunnels are up, and
//! what is wrong.

use anstyle::{AnsiColor, Style};
use privnet_model::inventory::Transport;
use privnet_model::status::{Role, Status, TunnelState};

use crate::escape::escape;
use crate::table::Room;
use crate::units;
use crate::width::wrap;

const WARNING: Style = AnsiColor::Yellow.on_default().bold();

/// The lines above the table, each ended.
pub(crate) fn render(status: &Status, room: Room) -> String {
    let limit = match room {
        Room::Columns(limit) => limit,
        Room::Unlimited => usize::MAX,
    };
    let mut header = String::new();
    let lines = [
        Some(identity(status)),
        Some(summary(status)),
        polls(status),
        nat(status),
    ];
    for line in lines.into_iter().flatten() {
        header += &wrap(&line, limit, 2);
        header.push('\n');
    }
    for warning in warnings(status) {
        for (number, line) in wrap(&format!("warning: {warning}"), limit, 9)
            .lines()
            .enumerate()
        {
            header += &match line.strip_prefix("warning: ") {
                Some(rest) if number == 0 => format!("{WARNING}warning:{WARNING:#} {rest}\n"),
                _ => format!("{line}\n"),
            };
        }
    }
    header
}

fn identity(status: &Status) -> String {
    let mut line = format!("{} {}", status.role.program(), escape(&status.version));
    if let Some(instance) = &status.instance {
        line += &format!(" on {instance}");
    }
    let up = units::span(status.started, status.now);
    line + &format!(", up {up}, privnet {}", status.privnet)
}

fn summary(status: &Status) -> String {
    let tunnels = || {
        status
            .tunnels
            .iter()
            .filter(|tunnel| tunnel.transport != Transport::None)
    };
    let count = |state| tunnels().filter(|tunnel| tunnel.state == state).count();
    let all = tunnels().count();
    let plural = if all == 1 { "" } else { "s" };
    let mut line = format!("{} of {all} tunnel{plural} up", count(TunnelState::Up));
    for state in TunnelState::ALL {
        match count(state) {
            0 => {}
            _ if state == TunnelState::Up => {}
            number => line += &format!(", {number} {state}"),
        }
    }
    match status.tunnels.len() - all {
        0 => {}
        1 => line += ", 1 NAT gateway",
        gateways => line += &format!(", {gateways} NAT gateways"),
    }
    line
}

fn polls(status: &Status) -> Option<String> {
    if status.role != Role::Hub {
        return None;
    }
    let polled = status
        .partitions
        .iter()
        .filter_map(|view| view.answered_at)
        .max();
    let mut line = match polled {
        Some(time) => format!("last poll answered {} ago", units::age(time, status.now)),
        None => "no poll answered yet".to_owned(),
    };
    if let Some(next) = status.next_poll {
        line += &format!(", next in {}", units::age(status.now, next));
    }
    Some(line)
}

fn nat(status: &Status) -> Option<String> {
    let nat = status.nat.as_ref().filter(|nat| nat.active)?;
    let sources: Vec<String> = nat.sources.iter().map(ToString::to_string).collect();
    let egress = match sources.as_slice() {
        [] => None,
        sources => Some(format!("for {}", sources.join(", "))),
    };
    let count = |of: &[String], what: &str| match of.len() {
        0 => None,
        1 => Some(format!("1 {what}")),
        several => Some(format!("{several} {what}s")),
    };
    let parts: Vec<String> = [
        egress,
        count(&nat.forwards, "forward"),
        count(&nat.redirects, "redirect"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let parts = match parts.as_slice() {
        [] => "for nothing".to_owned(),
        parts => parts.join(", "),
    };
    Some(format!("NAT on {} {parts}", escape(&nat.interface)))
}

fn warnings(status: &Status) -> Vec<String> {
    let mut warnings: Vec<String> = Vec::new();
    if let Some(nat) = status.nat.as_ref().filter(|nat| !nat.active) {
        let interface = escape(&nat.interface);
        warnings.push(format!("NAT on {interface} is not in place"));
    }
    for view in &status.partitions {
        let Some(error) = &view.error else { continue };
        let since = view.failing_since.map_or_else(String::new, |since| {
            format!(" for {}", units::age(since, status.now))
        });
        let kept = match view.spokes {
            0 => "nothing is known of it".to_owned(),
            1 => "its spoke is kept".to_owned(),
            spokes => format!("its {spokes} spokes are kept"),
        };
        warnings.push(format!(
            "no answer from {}{since}, {kept}: {}",
            view.partition,
            escape(error)
        ));
    }
    warnings.extend(
        status
            .problems
            .iter()
            .map(|problem| escape(problem).into_owned()),
    );
    warnings
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;
    use crate::fixture;
    use crate::width::width;

    #[test]
    fn the_header_wraps_at_the_terminals_edge() {
        let status = Status {
            problems: vec!["word ".repeat(60)],
            ..fixture::hub()
        };
        let header = strip_str(&render(&status, Room::Columns(80))).to_string();
        assert!(header.lines().all(|line| width(line) <= 80), "{header}");
    }

    #[test]
    fn nat_that_is_not_in_place_is_a_warning() {
        let mut status = fixture::spoke();
        let ok = strip_str(&render(&status, Room::Unlimited)).to_string();
        assert!(
            ok.contains("NAT on ens5 for 10.1.0.0/16, 10.101.0.0/16\n"),
            "{ok}"
        );
        if let Some(nat) = &mut status.nat {
            nat.active = false;
        }
        let broken = strip_str(&render(&status, Room::Unlimited)).to_string();
        assert!(
            broken.contains("warning: NAT on ens5 is not in place\n"),
            "{broken}"
        );
    }

    #[test]
    fn forwards_and_redirects_are_counted() {
        let mut status = fixture::nat_gateway();
        let line = |status: &Status| nat(status).unwrap_or_default();
        assert_eq!(
            line(&status),
            "NAT on ens5 for 10.1.0.0/16, 10.101.0.0/16, 2 forwards, 1 redirect"
        );
        if let Some(nat) = &mut status.nat {
            nat.sources.clear();
            nat.forwards.truncate(1);
            nat.redirects.clear();
        }
        assert_eq!(line(&status), "NAT on ens5 1 forward");
    }

    #[test]
    fn hostile_texts_are_escaped() {
        let mut status = fixture::hub();
        status.partitions[0].error = Some("\x1b[2J".to_owned());
        status.problems = vec!["a\nb".to_owned()];
        let header = strip_str(&render(&status, Room::Unlimited)).to_string();
        assert!(
            header.contains("\\u{1b}[2J") && header.contains("a\\nb"),
            "{header}"
        );
    }
}
