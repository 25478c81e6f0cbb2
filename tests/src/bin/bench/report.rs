//! The results as people read them: a table for each topology and workload, then
//! the goals.

use std::collections::BTreeSet;
use std::fmt::Write;

use clap::ValueEnum;

use crate::goal::Judgement;
use crate::implementation::Known;
use crate::network::Topology;
use crate::results::{Metric, Results, Spread};
use crate::workload::Workload;

/// The figures in the order of the columns: heading, digits after the point,
/// whether the range of the rounds is shown.
const COLUMNS: [(Metric, &str, usize, bool); 10] = [
    (Metric::Throughput, "Gbit/s", 2, true),
    (Metric::Packets, "kpkt/s", 0, false),
    (Metric::Arrived, "arrived %", 2, true),
    (Metric::TunnelCpu, "tunnel CPU-s/GB", 2, true),
    (Metric::MachineCpu, "machine CPU-s/GB", 2, false),
    (Metric::Retransmits, "retransmits", 0, true),
    (Metric::PingMedian, "p50 ms", 3, true),
    (Metric::PingAverage, "avg ms", 3, true),
    (Metric::PingLongest, "max ms", 2, true),
    (Metric::PingAnswered, "answered %", 1, false),
];

/// All of it.
pub(crate) fn text(results: &Results) -> String {
    let mut text = format!("\n{}\n", results.setting());
    for (name, version) in results.implementations() {
        if let Some(version) = version {
            let _ = writeln!(text, "  {name}: {version}");
        }
    }
    for topology in Topology::value_variants() {
        for workload in Workload::value_variants() {
            table(&mut text, results, *topology, *workload);
        }
        memory(&mut text, results, *topology);
    }
    goals(&mut text, results.goals());
    for failure in results.failures() {
        let _ = write!(text, "\nThis did not work: {failure}\n");
    }
    text
}

fn table(text: &mut String, results: &Results, topology: Topology, workload: Workload) {
    let spread = |who: &str, metric| results.spread(topology, workload, who, metric);
    let names: Vec<&str> = results.implementations().map(|(name, _)| name).collect();
    let present: BTreeSet<Metric> = COLUMNS
        .iter()
        .map(|column| column.0)
        .filter(|metric| names.iter().any(|name| spread(name, *metric).is_some()))
        .collect();
    if present.is_empty() {
        return;
    }
    let mut rows = vec![vec![format!("{topology}, {workload}")]];
    rows.extend(names.iter().map(|name| vec![format!("  {name}")]));
    for (metric, heading, digits, range) in COLUMNS {
        if !present.contains(&metric) {
            continue;
        }
        rows[0].push(heading.to_owned());
        for (row, name) in rows[1..].iter_mut().zip(&names) {
            row.push(cell(spread(name, metric), digits, range));
        }
        // How we compare, for the two figures that the goals are about.
        if matches!(metric, Metric::Throughput | Metric::TunnelCpu) {
            rows[0].push("privnet is".to_owned());
            let ours = spread(Known::Privnet.name(), metric);
            for (row, name) in rows[1..].iter_mut().zip(&names) {
                row.push(ratio(ours, spread(name, metric)));
            }
        }
    }
    align(text, &rows);
}

/// Ours, in units of theirs.
fn ratio(ours: Option<Spread>, theirs: Option<Spread>) -> String {
    match ours.zip(theirs) {
        Some((ours, theirs)) if theirs.median > 0.0 => {
            let ratio = ours.median / theirs.median;
            // What is printed as 1.00 is no fraction.
            if ratio >= 0.995 {
                format!("× {ratio:.2}")
            } else {
                format!("1/{:.1}", 1.0 / ratio)
            }
        }
        _ => "–".to_owned(),
    }
}

fn cell(spread: Option<Spread>, digits: usize, range: bool) -> String {
    let Some(Spread { median, min, max }) = spread else {
        return "–".to_owned();
    };
    if range && min < max {
        format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
    } else {
        format!("{median:.digits$}")
    }
}

fn align(text: &mut String, rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    text.push('\n');
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if column == 0 {
                write!(line, "{cell:<width$}")
            } else {
                write!(line, "  {cell:>width$}")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn memory(text: &mut String, results: &Results, topology: Topology) {
    let cells: Vec<String> = results
        .implementations()
        .filter_map(|(name, _)| Some((name, results.memory(topology, name)?)))
        .map(|(name, bytes)| format!("{name} {:.1}", bytes as f64 / 1e6))
        .collect();
    if !cells.is_empty() {
        let _ = write!(
            text,
            "\n{topology}, most memory of the spoke's tunnel, MB: {}\n",
            cells.join(", ")
        );
    }
}

fn goals(text: &mut String, goals: &[Judgement]) {
    text.push_str("\nGoals\n");
    for goal in goals {
        let (Some(measured), Some(limit), Some(met)) = (goal.measured, goal.limit, goal.met) else {
            continue;
        };
        let _ = writeln!(
            text,
            "  {:<8}{}: {measured:.2} {} (limit {limit:.2})",
            if met { "met" } else { "missed" },
            goal.goal,
            goal.unit,
        );
    }
    let open = goals.iter().filter(|goal| goal.met.is_none()).count();
    if open > 0 {
        let _ = writeln!(
            text,
            "  {open} of {} were not measured in this run",
            goals.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;

    #[test]
    fn a_table_shows_who_measured_what_and_how_we_compare() {
        let at = |who, metric, value| (Topology::Gateway, Workload::Tcp1, who, metric, value);
        let results = results(
            &[
                at("privnet", Metric::Throughput, 3.0),
                at("privnet", Metric::Throughput, 2.0),
                at("privnet", Metric::Throughput, 4.0),
                at("privnet", Metric::TunnelCpu, 2.5),
                at("boringtun", Metric::Throughput, 0.25),
                at("boringtun", Metric::TunnelCpu, 25.0),
                at("plain", Metric::Throughput, 9.0),
                at("gotatun", Metric::Throughput, 3.001),
            ],
            &[(Topology::Gateway, "privnet", 6_000_000)],
        );
        let text = text(&results);
        let expected = "
gateway, one TCP flow            Gbit/s  privnet is  tunnel CPU-s/GB  privnet is
  privnet              3.00 (2.00–4.00)      × 1.00             2.50      × 1.00
  boringtun                        0.25     × 12.00            25.00      1/10.0
  plain                            9.00       1/3.0                –           –
  gotatun                          3.00      × 1.00                –           –

gateway, most memory of the spoke's tunnel, MB: privnet 6.0
";
        assert!(text.contains(expected), "{text}");
        let goal = "  met     gateway, one TCP flow: CPU per GB at most 1/9 of boringtun's: \
                    10.00 times less (limit 9.00)\n";
        assert!(text.contains(goal), "{text}");
        assert!(text.contains("  8 of 12 were not measured"), "{text}");
    }
}
