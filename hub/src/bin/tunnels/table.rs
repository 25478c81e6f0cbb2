//! The table of tunnels, fitted to the room there is.
//!
//! There is a ladder of layouts from the richest to the barest; the first that
//! fits is taken. Columns are left out or shortened whole, never wrapped.

use std::collections::HashSet;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use privnet_model::status::{Exclusion, GatewayHealth, GatewayRole, Note, Tunnel, TunnelState};

use crate::escape::escape;
use crate::units;
use crate::width::{shorten, width, wrap};

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// As much as it takes.
    Unlimited,
    /// A terminal of so many columns.
    Columns(usize),
}

const HEADING: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();
const GAP: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Name,
    Account,
    Region,
    Zone,
    Vpc,
    Instance,
    AllCidrs,
    FirstCidr,
    Transport,
    Endpoint,
    State,
    Handshake,
    RxRate,
    TxRate,
    Rx,
    Tx,
    Reason,
}
use Column::{
    Account, AllCidrs, Endpoint, FirstCidr, Handshake, Instance, Name, Reason, Region, Rx, RxRate,
    State, Transport, Tx, TxRate, Vpc, Zone,
};

struct Layout {
    columns: &'static [Column],
    /// Below this the names are not shortened to make the layout fit.
    min_name: usize,
}

/// Everything, for `--wide` and for what is no terminal.
#[rustfmt::skip]
const FULL: Layout = Layout {
    columns: &[Name, Account, Region, Zone, Vpc, Instance, AllCidrs, Transport, Endpoint, State,
               Handshake, RxRate, TxRate, Rx, Tx, Reason],
    min_name: usize::MAX,
};

/// From the richest down. Where `Reason` is no column it stands below its row.
#[rustfmt::skip]
const LADDER: [Layout; 11] = [
    Layout { min_name: 24, columns: &[Name, Region, Vpc, AllCidrs, Endpoint, State, Handshake, RxRate, TxRate, Rx, Tx, Reason] },
    Layout { min_name: 24, columns: &[Name, Region, Vpc, FirstCidr, Endpoint, State, Handshake, RxRate, TxRate, Rx, Tx, Reason] },
    Layout { min_name: 24, columns: &[Name, Region, Vpc, AllCidrs, Endpoint, State, Handshake, RxRate, TxRate, Rx, Tx] },
    Layout { min_name: 24, columns: &[Name, Region, Vpc, FirstCidr, Endpoint, State, Handshake, RxRate, TxRate, Rx, Tx] },
    Layout { min_name: 24, columns: &[Name, Region, Vpc, FirstCidr, Endpoint, State, Handshake, RxRate, TxRate] },
    Layout { min_name: 24, columns: &[Name, Region, FirstCidr, Endpoint, State, Handshake, RxRate, TxRate] },
    Layout { min_name: 9, columns: &[Name, Region, FirstCidr, State, Handshake, RxRate, TxRate] },
    Layout { min_name: 9, columns: &[Name, Region, FirstCidr, State, Handshake] },
    Layout { min_name: 9, columns: &[Name, FirstCidr, State, Handshake] },
    Layout { min_name: 9, columns: &[Name, State, Handshake] },
    Layout { min_name: 1, columns: &[Name, State] },
];

/// The table, its heading first; with colour, which whoever prints it may
/// strip.
pub(crate) fn render(tunnels: &[Tunnel], now: Timestamp, room: Room) -> String {
    let names = distinct_names(tunnels);
    let detail = match room {
        Room::Unlimited => Detail::All,
        Room::Columns(_) => Detail::First,
    };
    let rows: Vec<Row<'_>> = tunnels
        .iter()
        .zip(&names)
        .map(|(tunnel, name)| Row {
            tunnel,
            name,
            now,
            detail,
        })
        .collect();
    let Room::Columns(limit) = room else {
        return fitted(&rows, &FULL, usize::MAX).unwrap_or_default();
    };
    let (barest, ladder) = (&LADDER[LADDER.len() - 1], &LADDER[..LADDER.len() - 1]);
    ladder
        .iter()
        .find_map(|layout| fitted(&rows, layout, limit))
        // A window of a few columns gets lines that are too long.
        .or_else(|| fitted(&rows, barest, limit.max(24)))
        .unwrap_or_default()
}

/// Names as shown: those that several tunnels have, with the instance.
fn distinct_names(tunnels: &[Tunnel]) -> Vec<String> {
    let mut seen = HashSet::new();
    let twice: HashSet<&str> = tunnels
        .iter()
        .map(|tunnel| tunnel.name.as_str())
        .filter(|name| !seen.insert(*name))
        .collect();
    tunnels
        .iter()
        .map(|tunnel| match &tunnel.instance {
            Some(instance) if twice.contains(tunnel.name.as_str()) => {
                format!("{} {instance}", escape(&tunnel.name))
            }
            _ => escape(&tunnel.name).into_owned(),
        })
        .collect()
}

/// The table in this layout, if it fits.
fn fitted(rows: &[Row<'_>], layout: &Layout, limit: usize) -> Option<String> {
    let mut columns: Vec<(Column, Vec<String>, usize)> = layout
        .columns
        .iter()
        .map(|column| {
            let cells: Vec<String> = rows.iter().map(|row| row.cell(*column)).collect();
            let widest = cells.iter().map(|cell| width(cell)).max().unwrap_or(0);
            (*column, cells, widest.max(column.heading().len()))
        })
        // A spoke knows no VPCs: a column of nothing says nothing.
        .filter(|(column, cells, _)| {
            *column == Name || cells.iter().any(|cell| !cell.is_empty() && cell != "-")
        })
        .collect();
    let gaps = GAP * columns.len().saturating_sub(1);
    let needed: usize = columns.iter().map(|(_, _, width)| width).sum::<usize>() + gaps;
    if let Some(excess) = needed.checked_sub(limit).filter(|excess| *excess > 0) {
        let (_, cells, name_width) = columns.first_mut()?;
        let shortened = name_width.checked_sub(excess)?;
        if shortened < layout.min_name {
            return None;
        }
        for cell in cells {
            *cell = shorten(cell, shortened);
        }
        *name_width = shortened;
    }
    let mut table = line(
        columns
            .iter()
            .map(|(column, _, width)| (*column, column.heading(), *width, HEADING)),
    );
    let reasons_below = !layout.columns.contains(&Reason);
    for (number, row) in rows.iter().enumerate() {
        table += &line(columns.iter().map(|(column, cells, width)| {
            (*column, cells[number].as_str(), *width, row.style(*column))
        }));
        let reason = row.reason();
        if reasons_below && !reason.is_empty() {
            for part in wrap(&format!("  {reason}"), limit, 2).lines() {
                table += &format!("{FAINT}{part}{FAINT:#}\n");
            }
        }
    }
    Some(table)
}

fn line<'a>(cells: impl Iterator<Item = (Column, &'a str, usize, Style)>) -> String {
    let mut line = String::new();
    // Written only when something follows, so that no line ends in blanks.
    let mut blanks = 0;
    for (number, (column, text, room, style)) in cells.enumerate() {
        blanks += if number > 0 { GAP } else { 0 };
        let padding = room.saturating_sub(width(text));
        if column.is_figure() {
            blanks += padding;
        }
        if !text.is_empty() {
            line.push_str(&" ".repeat(blanks));
            line.push_str(&format!("{style}{text}{style:#}"));
            blanks = 0;
        }
        if !column.is_figure() {
            blanks += padding;
        }
    }
    line.push('\n');
    line
}

impl Column {
    const fn heading(self) -> &'static str {
        match self {
            Self::Name => "NAME",
            Self::Account => "ACCOUNT",
            Self::Region => "REGION",
            Self::Zone => "ZONE",
            Self::Vpc => "VPC",
            Self::Instance => "INSTANCE",
            Self::AllCidrs | Self::FirstCidr => "CIDRS",
            Self::Transport => "TRANSPORT",
            Self::Endpoint => "ENDPOINT",
            Self::State => "STATE",
            Self::Handshake => "HANDSHAKE",
            Self::RxRate => "RX/s",
            Self::TxRate => "TX/s",
            Self::Rx => "RX",
            Self::Tx => "TX",
            Self::Reason => "REASON",
        }
    }

    /// Figures are aligned to the right.
    const fn is_figure(self) -> bool {
        matches!(self, Self::RxRate | Self::TxRate | Self::Rx | Self::Tx)
    }
}

struct Row<'a> {
    tunnel: &'a Tunnel,
    name: &'a str,
    now: Timestamp,
    detail: Detail,
}

impl Row<'_> {
    fn cell(&self, column: Column) -> String {
        let tunnel = self.tunnel;
        match column {
            Name => self.name.to_owned(),
            Account => or_dash(tunnel.account.as_ref()),
            Region => or_dash(tunnel.region.as_ref()),
            Zone => or_dash(tunnel.zone.as_ref()),
            Vpc => or_dash(tunnel.vpc.as_ref()),
            Instance => or_dash(tunnel.instance.as_ref()),
            AllCidrs if !tunnel.cidrs.is_empty() => {
                let cidrs: Vec<String> = tunnel.cidrs.iter().map(ToString::to_string).collect();
                cidrs.join(",")
            }
            FirstCidr if tunnel.cidrs.len() > 1 => {
                format!("{} +{}", tunnel.cidrs[0], tunnel.cidrs.len() - 1)
            }
            AllCidrs | FirstCidr => or_dash(tunnel.cidrs.first()),
            Transport => tunnel.transport.to_string(),
            Endpoint => or_dash(tunnel.endpoint.as_ref()),
            // The mark says that there is more to know than the state.
            State if !notes(tunnel).is_empty() => format!("{}*", tunnel.state),
            State => tunnel.state.to_string(),
            Handshake => match tunnel.last_handshake {
                Some(time) => format!("{} ago", units::age(time, self.now)),
                None => "-".to_owned(),
            },
            RxRate => self.figure(units::bytes(tunnel.rx_rate)),
            TxRate => self.figure(units::bytes(tunnel.tx_rate)),
            Rx => self.figure(units::total(tunnel.rx_bytes)),
            Tx => self.figure(units::total(tunnel.tx_bytes)),
            Reason => self.reason(),
        }
    }

    /// What is not configured carries nothing, which is not the same as 0 B.
    fn figure(&self, text: String) -> String {
        match self.tunnel.state {
            TunnelState::Up | TunnelState::Connecting | TunnelState::Down => text,
            TunnelState::Pending | TunnelState::Rejected => "-".to_owned(),
        }
    }

    /// Why it is not up, which CIDR of the site it does not carry, and what else
    /// there is to know: all of it, or the first of each.
    fn reason(&self) -> String {
        let (tunnel, detail) = (self.tunnel, self.detail);
        let left_out = || match detail {
            Detail::All => {
                let all = tunnel.excluded.iter();
                all.map(|it| format!("without {}: {}", it.cidr, it.why))
                    .collect()
            }
            Detail::First => tunnel.excluded.first().map_or_else(Vec::new, |first| {
                let more = more(tunnel.excluded.len() - 1);
                vec![format!("without {}: {}{more}", first.cidr, first.why)]
            }),
        };
        let notes = notes(tunnel);
        let notes = match (detail, notes.as_slice()) {
            (Detail::First, [first, others @ ..]) => {
                vec![format!("{first}{}", more(others.len()))]
            }
            (Detail::First, []) | (Detail::All, _) => {
                notes.iter().map(ToString::to_string).collect()
            }
        };
        let mut parts: Vec<String> = tunnel.reason.iter().map(ToString::to_string).collect();
        match standby(tunnel) {
            // What it does not carry is what makes it a standby.
            Some(standby) => parts.push(standby),
            None => parts.extend(left_out()),
        }
        parts.extend(notes);
        escape(&parts.join("; ")).into_owned()
    }

    fn style(&self, column: Column) -> Style {
        match column {
            State => state_style(self.tunnel.state),
            Reason => FAINT,
            _ => Style::new(),
        }
    }
}

/// How much is told of what does not fit into a column of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    First,
    All,
}

fn more(count: usize) -> String {
    match count {
        0 => String::new(),
        more => format!(" (and {more} more, see `tunnels show`)"),
    }
}

/// What there is to note of this tunnel. That its whole partition fails is told
/// above the table.
fn notes(tunnel: &Tunnel) -> Vec<&Note> {
    let own = |note: &&Note| !matches!(note, Note::PartitionFailing { .. });
    tunnel.notes.iter().filter(own).collect()
}

/// That another gateway carries its site's CIDRs, if so.
fn standby(tunnel: &Tunnel) -> Option<String> {
    let gateway = tunnel.gateway?;
    if gateway.role != GatewayRole::Standby {
        return None;
    }
    let other = tunnel
        .excluded
        .iter()
        .find_map(|left_out| match &left_out.why {
            Exclusion::CarriedBy { tunnel } => Some(format!(" for {tunnel}")),
            Exclusion::OutsidePrivnet
            | Exclusion::OverlapsHubVpc { .. }
            | Exclusion::OverlapsSite { .. } => None,
        });
    let other = other.unwrap_or_default();
    // What is down, or was until a moment ago, says so by its state.
    let health = match gateway.health {
        GatewayHealth::Healthy | GatewayHealth::Unknown => format!(" ({})", gateway.health),
        GatewayHealth::Down | GatewayHealth::Recovering => String::new(),
    };
    Some(format!("standby{other}{health}"))
}

/// The colour that goes with a state.
pub(crate) fn state_style(state: TunnelState) -> Style {
    let colour = match state {
        TunnelState::Up => AnsiColor::Green,
        TunnelState::Connecting | TunnelState::Pending => AnsiColor::Yellow,
        TunnelState::Down => AnsiColor::Red,
        TunnelState::Rejected => return FAINT,
    };
    colour.on_default()
}

fn or_dash(value: Option<&impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;
    use crate::arguments::ListOptions;
    use crate::{filter, fixture};

    fn plain(tunnels: &[Tunnel], room: Room) -> String {
        strip_str(&render(tunnels, fixture::now(), room)).to_string()
    }

    fn all() -> Vec<Tunnel> {
        filter::select(fixture::hub().tunnels, &ListOptions::default())
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for limit in 24..250 {
            let table = plain(&all(), Room::Columns(limit));
            for line in table.lines() {
                assert!(width(line) <= limit, "{limit}: {line}");
            }
        }
    }

    #[test]
    fn every_tunnel_and_every_reason_is_there_at_every_width() {
        for limit in [40, 80, 120, 160, 200] {
            let table = plain(&all(), Room::Columns(limit));
            for tunnel in all() {
                assert!(table.contains(tunnel.state.as_str()));
                let reason = tunnel.reason.map(|reason| reason.to_string());
                assert!(
                    table.contains(&reason.unwrap_or_default()),
                    "{limit}: {table}"
                );
            }
        }
    }

    #[test]
    fn of_several_notes_a_terminal_gets_the_first_and_a_pipe_all() {
        let tunnels = fixture::gateways().tunnels;
        let notes: Vec<String> = tunnels[0].notes.iter().map(ToString::to_string).collect();
        let wide = plain(&tunnels, Room::Unlimited);
        let [failing, first, second] = notes.as_slice() else {
            panic!("three expected: {notes:?}");
        };
        assert!(wide.contains(&format!("{first}; {second}")), "{wide}");
        let narrow = plain(&tunnels, Room::Columns(400));
        let told = format!("{first} (and 1 more, see `tunnels show`)");
        assert!(
            narrow.contains(&told) && !narrow.contains(second.as_str()),
            "{narrow}"
        );
        assert!(!wide.contains(failing.as_str()), "{wide}");
    }

    #[test]
    fn without_a_limit_everything_is_there_on_one_line_each() {
        let table = plain(&all(), Room::Unlimited);
        assert_eq!(table.lines().count(), 1 + all().len());
        for text in [
            "i-0bbbbbbbbbbbbbbb1",
            "10.1.0.0/16,10.101.0.0/16",
            "111122223333",
        ] {
            assert!(table.contains(text), "{table}");
        }
    }

    #[test]
    fn a_hostile_name_stays_in_its_cell() {
        let mut tunnels = all();
        tunnels[0].name = "\x1b]0;owned\x07\x1b[31mevil\nup\u{202e}".to_owned();
        for room in [Room::Unlimited, Room::Columns(200), Room::Columns(60)] {
            let table = plain(&tunnels, room);
            assert!(!table.contains(['\x1b', '\x07', '\u{202e}']), "{table}");
            let rows = plain(&all(), room).lines().count();
            assert_eq!(table.lines().count(), rows, "{table}");
        }
    }

    #[test]
    fn wide_characters_keep_the_columns_aligned() {
        let mut tunnels = all();
        tunnels[0].name = "東京".to_owned();
        let table = plain(&tunnels, Room::Columns(160));
        let starts: Vec<usize> = table
            .lines()
            .filter_map(|line| Some(width(line.split_once("eu-west-1 ")?.0)))
            .collect();
        assert_eq!(starts.len(), 3);
        assert!(starts.iter().all(|start| *start == starts[0]), "{table}");
    }

    #[test]
    fn tunnels_of_one_name_are_told_apart_by_their_instance() {
        let mut tunnels = all();
        tunnels[1].name = tunnels[0].name.clone();
        let table = plain(&tunnels, Room::Columns(200));
        assert!(table.contains("analytics i-0bbbbbbbbbbbbbbb2"), "{table}");
        assert!(table.contains("analytics i-0bbbbbbbbbbbbbbb3"), "{table}");
    }

    #[test]
    fn no_line_ends_in_blanks() {
        let table = plain(&all(), Room::Unlimited);
        assert!(table.lines().all(|line| line == line.trim_end()), "{table}");
    }
}
