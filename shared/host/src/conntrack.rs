//! The kernel's connection table: how full it is and what was lost by it.

pub(crate) mod connections;
pub(crate) mod destinations;

use privnet_reconcile::conntrack::ConnectionUse;

use crate::error::HostError;
use crate::kernel::read;

const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const LIMIT: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const COUNTERS: &str = "/proc/net/stat/nf_conntrack";

/// The table now. Takes some microseconds, however full it is.
pub(crate) async fn fetch() -> Result<ConnectionUse, HostError> {
    let counters = Counters::of(&read(COUNTERS).await?).ok_or(HostError::Unreadable {
        path: COUNTERS,
        problem: "not the columns drop, early_drop and insert_failed in hexadecimal",
    })?;
    Ok(ConnectionUse {
        tracked: number(COUNT).await?,
        limit: number(LIMIT).await?,
        dropped: counters.dropped,
        insert_failed: counters.insert_failed,
        early_dropped: counters.early_dropped,
    })
}

async fn number(path: &'static str) -> Result<u64, HostError> {
    let text = read(path).await?;
    text.trim().parse().map_err(|_| HostError::Unreadable {
        path,
        problem: "not a number",
    })
}

/// Sums over all cores.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counters {
    dropped: u64,
    insert_failed: u64,
    early_dropped: u64,
}

impl Counters {
    /// From a line of names and one of figures for each core. Which columns
    /// there are changed several times from kernel to kernel, so they go by name.
    fn of(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let names: Vec<&str> = lines.next()?.split_whitespace().collect();
        let position = |name: &str| names.iter().position(|column| *column == name);
        let columns = [
            position("drop")?,
            position("insert_failed")?,
            position("early_drop")?,
        ];
        let mut sums = [0_u64; 3];
        for line in lines {
            let figures: Vec<&str> = line.split_whitespace().collect();
            for (sum, column) in sums.iter_mut().zip(columns) {
                let figure = u64::from_str_radix(figures.get(column)?, 16).ok()?;
                *sum = sum.saturating_add(figure);
            }
        }
        let [dropped, insert_failed, early_dropped] = sums;
        Some(Self {
            dropped,
            insert_failed,
            early_dropped,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.18 writes it.
    const TEXT: &str = "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart\n\
        00000004  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 0000000a 0000000c 00000001 00000000  00000000 00000000 00000000 00000000\n\
        00000004  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000001 00000004 00000000 00000000  00000000 00000000 00000000 00000000\n";

    #[test]
    fn the_figures_of_all_cores_are_added_by_the_names_of_their_columns() {
        let expected = Counters {
            dropped: 16,
            insert_failed: 11,
            early_dropped: 1,
        };
        assert_eq!(Counters::of(TEXT), Some(expected));
        let fewer = "drop early_drop insert_failed\n01 02 03\n";
        let expected = Counters {
            dropped: 1,
            insert_failed: 3,
            early_dropped: 2,
        };
        assert_eq!(Counters::of(fewer), Some(expected));
    }

    #[test]
    fn what_cannot_be_read_is_no_figure() {
        for text in [
            "",
            "drop early_drop\n01 02\n",
            "drop early_drop insert_failed\n01 02\n",
            "drop early_drop insert_failed\n01 02 xy\n",
        ] {
            assert_eq!(Counters::of(text), None, "{text}");
        }
    }
}
