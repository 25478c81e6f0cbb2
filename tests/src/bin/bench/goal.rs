//! The goals that the data plane was built for, and whether this run met them.

use serde::Serialize;

use crate::implementation::Known;
use crate::network::Topology;
use crate::results::{Metric, Results};
use crate::workload::Workload;

/// What a goal came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Judgement {
    /// The goal, for people.
    pub(crate) goal: String,
    /// What it allows.
    pub(crate) limit: Option<f64>,
    /// What was measured; none when this run did not.
    pub(crate) measured: Option<f64>,
    /// The unit of both.
    pub(crate) unit: &'static str,
    /// Whether the limit was kept.
    pub(crate) met: Option<bool>,
}

/// Which side of the limit is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    AtMost,
    AtLeast,
}

/// Compares our figures with the goals.
pub(crate) fn judge(results: &Results) -> Vec<Judgement> {
    let figures = Figures(results);
    let mut judgements = vec![
        figures.cheaper_than(Topology::Gateway, Known::Boringtun, 9.0),
        figures.cheaper_than(Topology::Gateway, Known::Gotatun, 8.5),
        figures.cheaper_than(Topology::Relay, Known::Boringtun, 7.0),
        figures.cheaper_than(Topology::Relay, Known::Gotatun, 7.0),
        figures.ten_times_the_throughput(),
        figures.arrives_whole(),
        figures.idle_ping(),
        figures.loaded_ping("median", Metric::PingMedian),
        figures.loaded_ping("average", Metric::PingAverage),
        figures.memory(),
    ];
    judgements.extend([
        figures.target(Topology::Gateway, 2.6),
        figures.target(Topology::Relay, 5.2),
    ]);
    judgements
}

/// The medians that goals are about.
struct Figures<'a>(&'a Results);

impl Figures<'_> {
    fn of(
        &self,
        who: Known,
        topology: Topology,
        workload: Workload,
        metric: Metric,
    ) -> Option<f64> {
        let spread = self.0.spread(topology, workload, who.name(), metric)?;
        Some(spread.median)
    }

    fn cpu(&self, who: Known, topology: Topology) -> Option<f64> {
        self.of(who, topology, Workload::Tcp1, Metric::TunnelCpu)
    }

    fn cheaper_than(&self, topology: Topology, peer: Known, factor: f64) -> Judgement {
        let measured = self
            .cpu(peer, topology)
            .zip(self.cpu(Known::Privnet, topology))
            .map(|(theirs, ours)| theirs / ours);
        judgement(
            format!(
                "{topology}, one TCP flow: CPU per GB at most 1/{factor} of {}'s",
                peer.name()
            ),
            Bound::AtLeast,
            Some(factor),
            measured,
            "times less",
        )
    }

    fn ten_times_the_throughput(&self) -> Judgement {
        let of = |who| self.of(who, Topology::Gateway, Workload::Tcp1, Metric::Throughput);
        judgement(
            "gateway, one TCP flow: throughput at least 10 times boringtun's".to_owned(),
            Bound::AtLeast,
            Some(10.0),
            of(Known::Privnet)
                .zip(of(Known::Boringtun))
                .map(|(ours, theirs)| ours / theirs),
            "times",
        )
    }

    fn arrives_whole(&self) -> Judgement {
        judgement(
            "gateway: UDP 1360 B offered at 500 Mbit/s arrives whole".to_owned(),
            Bound::AtLeast,
            Some(100.0),
            self.of(
                Known::Privnet,
                Topology::Gateway,
                Workload::Udp1360,
                Metric::Arrived,
            ),
            "% arrived",
        )
    }

    fn idle_ping(&self) -> Judgement {
        let of = |who| self.of(who, Topology::Gateway, Workload::Ping, Metric::PingMedian);
        judgement(
            "gateway: idle ping under twice plain routing's plus 0.15 ms".to_owned(),
            Bound::AtMost,
            of(Known::Plain).map(|plain| 2.0 * plain + 0.15),
            of(Known::Privnet),
            "ms",
        )
    }

    fn loaded_ping(&self, which: &str, metric: Metric) -> Judgement {
        let of = |who| self.of(who, Topology::Gateway, Workload::LoadedPing, metric);
        judgement(
            format!("gateway: ping under load ({which}) under half of wireguard-go's"),
            Bound::AtMost,
            of(Known::WireguardGo).map(|theirs| theirs / 2.0),
            of(Known::Privnet),
            "ms",
        )
    }

    fn memory(&self) -> Judgement {
        let peak = self.0.memory(Topology::Gateway, Known::Privnet.name());
        judgement(
            "gateway: memory of a spoke under 16 MB".to_owned(),
            Bound::AtMost,
            Some(16.0),
            peak.map(|bytes| bytes as f64 / 1e6),
            "MB at its peak",
        )
    }

    fn target(&self, topology: Topology, limit: f64) -> Judgement {
        judgement(
            format!("{topology}, one TCP flow: CPU per GB a third of wireguard-go's of today"),
            Bound::AtMost,
            Some(limit),
            self.cpu(Known::Privnet, topology),
            "CPU-s/GB",
        )
    }
}

fn judgement(
    goal: String,
    bound: Bound,
    limit: Option<f64>,
    measured: Option<f64>,
    unit: &'static str,
) -> Judgement {
    let met = limit.zip(measured).map(|(limit, measured)| match bound {
        Bound::AtMost => measured <= limit,
        Bound::AtLeast => measured >= limit,
    });
    Judgement {
        goal,
        limit,
        measured,
        unit,
        met,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;
    use crate::results::tests::results;

    fn find(results: &Results, what: &str) -> Judgement {
        let found = results.goals().iter().find(|one| one.goal.contains(what));
        found.unwrap().clone()
    }

    #[test]
    fn cpu_per_gigabyte_is_compared_with_the_peers() {
        let cpu = |who, seconds| {
            (
                Topology::Gateway,
                Workload::Tcp1,
                who,
                Metric::TunnelCpu,
                seconds,
            )
        };
        let met = results(&[cpu("privnet", 2.5), cpu("boringtun", 25.0)], &[]);
        let goal = find(&met, "1/9 of boringtun's");
        assert_eq!((goal.measured, goal.met), (Some(10.0), Some(true)));
        let missed = results(&[cpu("privnet", 5.0), cpu("boringtun", 25.0)], &[]);
        let goal = find(&missed, "1/9 of boringtun's");
        assert_eq!((goal.measured, goal.met), (Some(5.0), Some(false)));
        // Without the peer there is nothing to compare with, but the target stands.
        let alone = results(&[cpu("privnet", 5.0)], &[]);
        assert_eq!(find(&alone, "1/9 of boringtun's").met, None);
        assert_eq!(
            find(&alone, "gateway, one TCP flow: CPU per GB a third").met,
            Some(false)
        );
    }

    #[test]
    fn one_lost_datagram_is_not_whole() {
        let arrived = |percent| {
            (
                Topology::Gateway,
                Workload::Udp1360,
                "privnet",
                Metric::Arrived,
                percent,
            )
        };
        assert_eq!(
            find(&results(&[arrived(100.0)], &[]), "whole").met,
            Some(true)
        );
        assert_eq!(
            find(&results(&[arrived(99.999)], &[]), "whole").met,
            Some(false)
        );
    }

    #[test]
    fn the_idle_ping_is_measured_by_plain_routing() {
        let ping = |who, ms| {
            (
                Topology::Gateway,
                Workload::Ping,
                who,
                Metric::PingMedian,
                ms,
            )
        };
        let goal = find(
            &results(&[ping("plain", 0.05), ping("privnet", 0.2)], &[]),
            "idle",
        );
        assert_eq!((goal.limit, goal.met), (Some(0.25), Some(true)));
    }

    #[test]
    fn memory_counts_in_megabytes() {
        let goal = find(
            &results(&[], &[(Topology::Gateway, "privnet", 17_000_000)]),
            "memory",
        );
        assert_eq!((goal.measured, goal.met), (Some(17.0), Some(false)));
    }
}
