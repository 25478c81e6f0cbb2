//! What is sent through the tunnels, and what is measured meanwhile.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use privnet_tests::cpu;
use privnet_tests::iperf::{Run, Traffic};
use serde::Serialize;

use crate::network::Network;
use crate::ping;
use crate::results::{Metric, Sample};

/// A kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// One TCP flow
    Tcp1,
    /// Four TCP flows
    Tcp4,
    /// One TCP flow in each direction
    Bidir,
    /// UDP datagrams of 1360 bytes, offered at 500 Mbit/s
    Udp1360,
    /// UDP datagrams of 128 bytes, as fast as the sender can
    Udp128,
    /// Pings and nothing else
    Ping,
    /// Pings beside one TCP flow
    LoadedPing,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp1 => "one TCP flow",
            Self::Tcp4 => "four TCP flows",
            Self::Bidir => "TCP both ways",
            Self::Udp1360 => "UDP 1360 B at 500 Mbit/s",
            Self::Udp128 => "UDP 128 B flat out",
            Self::Ping => "ping, idle",
            Self::LoadedPing => "ping beside one TCP flow",
        })
    }
}

impl Workload {
    /// What iperf3's client is told; none where there are only pings.
    fn iperf_arguments(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Tcp1 | Self::LoadedPing => Some(&[]),
            Self::Tcp4 => Some(&["--parallel", "4"]),
            Self::Bidir => Some(&["--bidir"]),
            // Bursts overflow the default buffer of the receiver, whoever delivers them.
            Self::Udp1360 => Some(&[
                "--udp",
                "--length",
                "1360",
                "--bitrate",
                "500M",
                "--window",
                "2M",
            ]),
            Self::Udp128 => Some(&[
                "--udp",
                "--length",
                "128",
                "--bitrate",
                "0",
                "--window",
                "2M",
            ]),
            Self::Ping => None,
        }
    }

    /// Runs it once.
    pub(crate) fn run(self, network: &Network, length: Duration) -> Result<Sample> {
        network.settle()?;
        let Some(arguments) = self.iperf_arguments() else {
            return Ok(of_pings(&ping::measure(network, length)?));
        };
        if self == Self::LoadedPing {
            // Longer than the pings at both ends.
            let mut load = start(network, length + Duration::from_secs(3), arguments)?;
            load.wait_for_traffic()?;
            let pings = ping::measure(network, length)?;
            let mut sample = of_pings(&pings);
            sample.extend(of_rates(&load.finish()?));
            return Ok(sample);
        }
        let tunnels_before = tunnel_seconds(network)?;
        let machine_before = cpu::machine_seconds()?;
        let traffic = start(network, length, arguments)?.finish()?;
        let machine = cpu::machine_seconds()? - machine_before;
        let mut sample = of_rates(&traffic);
        let gigabytes = traffic.received_bytes / 1e9;
        sample.insert(Metric::MachineCpu, machine / gigabytes);
        if let (Some(before), Some(after)) = (tunnels_before, tunnel_seconds(network)?) {
            sample.insert(Metric::TunnelCpu, (after - before) / gigabytes);
        }
        Ok(sample)
    }
}

fn start(network: &Network, length: Duration, arguments: &[&str]) -> Result<Run> {
    let server = (network.server(), network.server_address());
    Run::start(network.client(), server, length, arguments)
}

/// Processor seconds of all tunnel processes so far; none without tunnels.
fn tunnel_seconds(network: &Network) -> Result<Option<f64>> {
    let times: Vec<f64> = network
        .tunnels()
        .iter()
        .map(|process| cpu::process_seconds(process.id()))
        .collect::<Result<_>>()?;
    Ok(times.into_iter().reduce(|one, other| one + other))
}

fn of_rates(traffic: &Traffic) -> Sample {
    let packets = traffic.received_bytes / traffic.packet_bytes;
    let mut sample = Sample::from([
        (
            Metric::Throughput,
            traffic.received_bytes * 8.0 / 1e9 / traffic.seconds,
        ),
        (Metric::Packets, packets / 1e3 / traffic.seconds),
    ]);
    match traffic.retransmits {
        Some(count) => sample.insert(Metric::Retransmits, count),
        None => sample.insert(
            Metric::Arrived,
            traffic.received_bytes / traffic.sent_bytes * 100.0,
        ),
    };
    sample
}

fn of_pings(pings: &ping::RoundTrips) -> Sample {
    Sample::from([
        (Metric::PingMedian, pings.median_ms),
        (Metric::PingAverage, pings.average_ms),
        (Metric::PingLongest, pings.longest_ms),
        (Metric::PingAnswered, pings.answered * 100.0),
    ])
}
