//! What was measured: samples by topology, workload and implementation, what
//! they come to, and the same as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::goal::{self, Judgement};
use crate::implementation::Implementation;
use crate::network::{MTU, Topology};
use crate::workload::Workload;

/// A figure that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Metric {
    /// Payload received, Gbit/s.
    #[serde(rename = "throughput_gbit_per_s")]
    Throughput,
    /// Packets received, thousands per second. Of TCP: full segments that its
    /// payload makes, whatever super-packets they came in.
    #[serde(rename = "packets_thousands_per_s")]
    Packets,
    /// Datagrams that arrived, per cent of what was sent.
    #[serde(rename = "arrived_percent")]
    Arrived,
    /// Processor seconds of the tunnel processes per GB of payload received.
    #[serde(rename = "tunnel_cpu_s_per_gb")]
    TunnelCpu,
    /// Processor seconds of the whole machine, iperf3 at both ends with it.
    #[serde(rename = "machine_cpu_s_per_gb")]
    MachineCpu,
    /// TCP segments sent again in a run.
    #[serde(rename = "retransmits")]
    Retransmits,
    /// Median round trip, ms.
    #[serde(rename = "ping_median_ms")]
    PingMedian,
    /// Average round trip, ms.
    #[serde(rename = "ping_average_ms")]
    PingAverage,
    /// Longest round trip, ms.
    #[serde(rename = "ping_longest_ms")]
    PingLongest,
    /// Pings answered, per cent.
    #[serde(rename = "ping_answered_percent")]
    PingAnswered,
}

/// What one run gave.
pub(crate) type Sample = BTreeMap<Metric, f64>;

/// What several runs gave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// The one in the middle.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self {
            min: *values.first()?,
            max: *values.last()?,
            median: median(&values),
        })
    }
}

/// The median of sorted values, of which there is at least one.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

/// Whose samples.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Key {
    /// In which topology.
    pub(crate) topology: Topology,
    /// With which traffic.
    pub(crate) workload: Workload,
    /// By whom.
    pub(crate) implementation: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {}, {}",
            self.implementation, self.topology, self.workload
        )
    }
}

/// All of a run of the bench.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    machine: Machine,
    mtu: u32,
    rounds: u32,
    seconds: u64,
    implementations: Vec<Participant>,
    measurements: Vec<Measurement>,
    spoke_peak_memory: Vec<Memory>,
    goals: Vec<Judgement>,
    failures: Vec<String>,
}

/// What it ran on.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    kernel: String,
    processors: usize,
    processor: String,
    tcp_congestion_control: String,
}

#[derive(Debug, Serialize)]
struct Participant {
    name: String,
    version: Option<String>,
}

#[derive(Debug, Serialize)]
struct Measurement {
    #[serde(flatten)]
    key: Key,
    summary: BTreeMap<Metric, Spread>,
    samples: Vec<Sample>,
}

#[derive(Debug, Serialize)]
struct Memory {
    topology: Topology,
    implementation: String,
    bytes: u64,
}

impl Results {
    /// Results of nothing yet.
    pub(crate) fn new(implementations: &[Implementation], rounds: u32, length: Duration) -> Self {
        Self {
            machine: Machine::read(),
            mtu: MTU,
            rounds,
            seconds: length.as_secs(),
            implementations: implementations
                .iter()
                .map(|one| Participant {
                    name: one.name().to_owned(),
                    version: one.version(),
                })
                .collect(),
            measurements: Vec::new(),
            spoke_peak_memory: Vec::new(),
            goals: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Adds what a run gave.
    pub(crate) fn add(&mut self, key: Key, sample: Sample) {
        let known = self.measurements.iter().position(|one| one.key == key);
        let at = known.unwrap_or_else(|| {
            self.measurements.push(Measurement {
                key,
                summary: BTreeMap::new(),
                samples: Vec::new(),
            });
            self.measurements.len() - 1
        });
        let measurement = &mut self.measurements[at];
        measurement.samples.push(sample);
        measurement.summary = summary(&measurement.samples);
    }

    /// Adds the most memory that a spoke's tunnel had.
    pub(crate) fn add_memory(&mut self, topology: Topology, implementation: &str, bytes: u64) {
        self.spoke_peak_memory.push(Memory {
            topology,
            implementation: implementation.to_owned(),
            bytes,
        });
    }

    /// Notes what did not work.
    pub(crate) fn fail(&mut self, what: &str, error: &anyhow::Error) {
        self.failures.push(format!("{what}: {error:#}"));
    }

    /// Compares with the goals.
    pub(crate) fn judge(&mut self) {
        self.goals = goal::judge(self);
    }

    /// The summary of a figure, if it was measured.
    pub(crate) fn spread(
        &self,
        topology: Topology,
        workload: Workload,
        implementation: &str,
        metric: Metric,
    ) -> Option<Spread> {
        let measured = self.measurements.iter().find(|one| {
            one.key.topology == topology
                && one.key.workload == workload
                && one.key.implementation == implementation
        })?;
        measured.summary.get(&metric).copied()
    }

    /// The most memory that a spoke's tunnel had, in bytes.
    pub(crate) fn memory(&self, topology: Topology, implementation: &str) -> Option<u64> {
        self.spoke_peak_memory
            .iter()
            .find(|one| one.topology == topology && one.implementation == implementation)
            .map(|one| one.bytes)
    }

    /// Who took part, with what each said of its version.
    pub(crate) fn implementations(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.implementations
            .iter()
            .map(|one| (one.name.as_str(), one.version.as_deref()))
    }

    /// What it ran on, how often and how long, as a sentence.
    pub(crate) fn setting(&self) -> String {
        let Machine {
            kernel,
            processors,
            processor,
            tcp_congestion_control,
        } = &self.machine;
        format!(
            "Linux {kernel}, {processors} × {processor}, TCP {tcp_congestion_control}; \
             MTU {}; {} of {} s each, median (min–max)",
            self.mtu,
            match self.rounds {
                1 => "1 round".to_owned(),
                rounds => format!("{rounds} rounds"),
            },
            self.seconds
        )
    }

    /// How the goals were met.
    pub(crate) fn goals(&self) -> &[Judgement] {
        &self.goals
    }

    /// What did not work.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Writes all of it as JSON.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }
}

fn summary(samples: &[Sample]) -> BTreeMap<Metric, Spread> {
    let mut values: BTreeMap<Metric, Vec<f64>> = BTreeMap::new();
    for (metric, value) in samples.iter().flatten() {
        values.entry(*metric).or_default().push(*value);
    }
    values
        .into_iter()
        .filter_map(|(metric, values)| Some((metric, Spread::of(values)?)))
        .collect()
}

impl Machine {
    /// What the kernel tells; a figure that it does not tell is `unknown`.
    fn read() -> Self {
        let read = |path: &str| {
            std::fs::read_to_string(path)
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
        };
        let processors = read("/proc/cpuinfo");
        let model = processors
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
        Self {
            kernel: read("/proc/sys/kernel/osrelease"),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            processor: model.to_owned(),
            tcp_congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    /// Results that hold these medians.
    pub(crate) fn results(
        figures: &[(Topology, Workload, &str, Metric, f64)],
        memory: &[(Topology, &str, u64)],
    ) -> Results {
        let mut results = Results::new(&[], 1, Duration::from_secs(1));
        for (topology, workload, implementation, metric, value) in figures {
            let key = Key {
                topology: *topology,
                workload: *workload,
                implementation: (*implementation).to_owned(),
            };
            results.add(key, Sample::from([(*metric, *value)]));
            if !results
                .implementations()
                .any(|(name, _)| name == *implementation)
            {
                results.implementations.push(Participant {
                    name: (*implementation).to_owned(),
                    version: None,
                });
            }
        }
        for (topology, implementation, bytes) in memory {
            results.add_memory(*topology, implementation, *bytes);
        }
        results.judge();
        results
    }

    #[test]
    fn a_figure_is_the_median_of_its_rounds() {
        let at = (
            Topology::Relay,
            Workload::Tcp1,
            "privnet",
            Metric::Throughput,
        );
        let figures = [3.0, 1.0, 9.0].map(|value| (at.0, at.1, at.2, at.3, value));
        let spread = results(&figures, &[])
            .spread(at.0, at.1, at.2, at.3)
            .unwrap();
        let expected = Spread {
            median: 3.0,
            min: 1.0,
            max: 9.0,
        };
        assert_eq!(spread, expected);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median(&[1.0, 2.0, 4.0, 8.0]), 3.0);
    }

    #[test]
    fn the_json_names_figures_by_their_unit() {
        let figures = [(
            Topology::Gateway,
            Workload::LoadedPing,
            "privnet",
            Metric::PingMedian,
            0.25,
        )];
        let json = serde_json::to_value(results(&figures, &[])).unwrap();
        let measurement = &json["measurements"][0];
        assert_eq!(measurement["topology"], "gateway");
        assert_eq!(measurement["workload"], "loaded-ping");
        assert_eq!(measurement["summary"]["ping_median_ms"]["median"], 0.25);
        assert_eq!(measurement["samples"][0]["ping_median_ms"], 0.25);
    }
}
