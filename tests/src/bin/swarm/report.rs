//! What the swarm found, for people and for programs.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use crate::crowd::Sessions;
use crate::flood;

/// Everything that was measured. What is empty was not.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) peers: u32,
    pub(crate) workers: u32,
    pub(crate) storms: Vec<Storm>,
    pub(crate) idle: Vec<Idle>,
    pub(crate) reconfigured: Vec<Memory>,
    pub(crate) busy: Vec<Throughput>,
    pub(crate) flood: Vec<Throughput>,
}

/// How all peers got a session.
#[derive(Debug, Serialize)]
pub(crate) struct Storm {
    pub(crate) name: &'static str,
    /// Until the hub had taken its configuration, in seconds.
    pub(crate) configuring: f64,
    /// Times after the first peer could have begun.
    pub(crate) sessions: Sessions,
    /// CPU seconds of the hub meanwhile.
    pub(crate) hub_cpu: f64,
    pub(crate) rss_megabytes: f64,
    pub(crate) peak_megabytes: f64,
    /// What the hub counted.
    pub(crate) counters: BTreeMap<String, u64>,
}

/// What nothing costs.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) name: &'static str,
    /// Per cent of one core.
    pub(crate) cpu_percent: f64,
    pub(crate) rss_megabytes: f64,
    pub(crate) kilobytes_per_peer: f64,
}

/// A hub that was told all its peers once more.
#[derive(Debug, Serialize)]
pub(crate) struct Memory {
    /// How often.
    pub(crate) times: usize,
    pub(crate) rss_megabytes: f64,
    pub(crate) peak_megabytes: f64,
}

/// One TCP flow of the busy peer to the hub.
#[derive(Debug, Serialize)]
pub(crate) struct Throughput {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) junk: Option<flood::Kind>,
    pub(crate) gigabits_per_second: f64,
    /// CPU seconds of the hub per gigabyte.
    pub(crate) hub_cpu_per_gigabyte: f64,
}

impl Report {
    pub(crate) fn print(&self, out: &mut impl Write) -> Result<()> {
        writeln!(
            out,
            "\nA hub with {} peers, {} worker(s)\n",
            self.peers, self.workers
        )?;
        for storm in &self.storms {
            let sessions = &storm.sessions;
            let tenths = sessions.tenths.iter().map(|time| format!("{time:.2}"));
            let tenths: Vec<_> = tenths.collect();
            writeln!(
                out,
                "{:<44} {} have a session; a tenth each after {} s; \
                 configured in {:.2} s; hub CPU {:.2} s; RSS {:.0} MB, peak {:.0} MB",
                storm.name,
                sessions.count,
                tenths.join(" "),
                storm.configuring,
                storm.hub_cpu,
                storm.rss_megabytes,
                storm.peak_megabytes,
            )?;
            let counters: Vec<_> = storm.counters.iter().collect();
            writeln!(out, "{:<44} {counters:?}", "")?;
        }
        for idle in &self.idle {
            writeln!(
                out,
                "{:<44} {:.2} % of a core; RSS {:.0} MB, {:.1} kB per peer",
                idle.name, idle.cpu_percent, idle.rss_megabytes, idle.kilobytes_per_peer,
            )?;
        }
        for memory in &self.reconfigured {
            writeln!(
                out,
                "all peers replaced, {} times {:24} RSS {:.0} MB, peak {:.0} MB",
                memory.times, "", memory.rss_megabytes, memory.peak_megabytes,
            )?;
        }
        for line in self.busy.iter().chain(&self.flood) {
            writeln!(
                out,
                "{:<44} {:.2} Gbit/s, {:.2} CPU-s/GB of the hub",
                line.name, line.gigabits_per_second, line.hub_cpu_per_gigabyte,
            )?;
        }
        Ok(())
    }
}
