//! One run of iperf3 between two hosts, and what its report says.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::namespace::{Namespace, logs};
use crate::process::{Process, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

/// A run under way.
#[derive(Debug)]
pub struct Run {
    server: Process,
    client: Process,
    length: Duration,
}

/// What was sent and what arrived, both directions together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Traffic {
    /// Payload that was sent, in bytes.
    pub sent_bytes: f64,
    /// Payload that the receivers got, in bytes.
    pub received_bytes: f64,
    /// How long they received.
    pub seconds: f64,
    /// Payload of a full packet: TCP's segment size, UDP's datagram size.
    pub packet_bytes: f64,
    /// TCP segments that were sent again; none for UDP.
    pub retransmits: Option<f64>,
}

impl Run {
    /// Starts a run of this length to the server at that address, with these arguments
    /// of the client.
    pub fn start(
        client: &Namespace,
        (server, address): (&Namespace, Ipv4Addr),
        length: Duration,
        arguments: &[&str],
    ) -> Result<Self> {
        let server = start_anew(
            server,
            "iperf3-server",
            &["--server", "--one-off", "--forceflush"],
        )?;
        wait_until("iperf3 to listen", PATIENCE, || {
            Ok(server.log().contains("Server listening").then_some(()))
        })?;
        let address = address.to_string();
        let seconds = length.as_secs().to_string();
        let basic = ["--client", &address, "--time", &seconds, "--json"];
        let more = ["--connect-timeout", "5000"];
        let all = [&basic[..], &more, arguments].concat();
        Ok(Self {
            server,
            client: start_anew(client, "iperf3-client", &all)?,
            length,
        })
    }

    /// Waits until traffic has flowed for a second.
    pub fn wait_for_traffic(&mut self) -> Result<()> {
        wait_until("the first second of traffic", PATIENCE, || {
            self.client.check()?;
            Ok(self.server.log().contains("  0.00-1.").then_some(()))
        })
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Result<Traffic> {
        self.client.wait(self.length + PATIENCE)?;
        self.server.wait(PATIENCE)?;
        Traffic::parse(&self.client.log())
    }
}

/// Starts a program whose log holds this run alone.
fn start_anew(host: &Namespace, name: &str, arguments: &[&str]) -> Result<Process> {
    let log = logs().join(format!("{}-{name}.log", host.name()));
    if log.exists() {
        std::fs::remove_file(log)?;
    }
    host.start(name, "iperf3", arguments)
}

#[derive(Deserialize)]
struct Report {
    error: Option<String>,
    start: Start,
    end: End,
}

#[derive(Deserialize)]
struct Start {
    tcp_mss_default: Option<f64>,
    test_start: Option<TestStart>,
}

#[derive(Deserialize)]
struct TestStart {
    blksize: f64,
}

/// Where a run fails, its sums are missing.
#[derive(Deserialize)]
struct End {
    sum_sent: Option<Sum>,
    sum_received: Option<Sum>,
    sum_sent_bidir_reverse: Option<Sum>,
    sum_received_bidir_reverse: Option<Sum>,
}

#[derive(Deserialize)]
struct Sum {
    bytes: f64,
    seconds: f64,
    retransmits: Option<f64>,
}

impl Traffic {
    fn parse(text: &str) -> Result<Self> {
        // A warning may come before it.
        let (_, json) = text.split_at(text.find('{').unwrap_or(0));
        let report: Report =
            serde_json::from_str(json).with_context(|| format!("iperf3's report: {text}"))?;
        if let Some(error) = report.error {
            bail!("iperf3: {error}");
        }
        let end = report.end;
        let sent = [end.sum_sent, end.sum_sent_bidir_reverse];
        let received = [end.sum_received, end.sum_received_bidir_reverse];
        let total = |sums: &[Option<Sum>; 2]| sums.iter().flatten().map(|sum| sum.bytes).sum();
        let traffic = Self {
            sent_bytes: total(&sent),
            received_bytes: total(&received),
            seconds: received
                .iter()
                .flatten()
                .map(|sum| sum.seconds)
                .fold(0.0, f64::max),
            packet_bytes: report
                .start
                .tcp_mss_default
                .or(report.start.test_start.map(|test| test.blksize))
                .context("iperf3 does not tell its packet size")?,
            retransmits: sent
                .iter()
                .flatten()
                .filter_map(|sum| sum.retransmits)
                .reduce(|one, other| one + other),
        };
        if traffic.received_bytes <= 0.0 || traffic.seconds <= 0.0 {
            bail!("nothing arrived: {text}");
        }
        Ok(traffic)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn a_warning_before_the_report_is_no_error() {
        let text = r#"warning: UDP block size 1360 exceeds TCP MSS 1348, may result in fragmentation / drops
        {
            "start": { "test_start": { "blksize": 1360 } },
            "end": {
                "sum_sent": { "bytes": 2720, "seconds": 1.0 },
                "sum_received": { "bytes": 1360, "seconds": 1.0 }
            }
        }"#;
        let traffic = Traffic::parse(text).unwrap();
        assert_eq!(
            (traffic.sent_bytes, traffic.received_bytes),
            (2720.0, 1360.0)
        );
        assert!(Traffic::parse("no report").is_err());
    }

    #[test]
    fn both_directions_count() {
        let text = r#"{
            "start": { "tcp_mss_default": 1368, "test_start": { "blksize": 131072 } },
            "end": {
                "sum_sent": { "bytes": 1100, "seconds": 5.0, "retransmits": 3 },
                "sum_received": { "bytes": 1000, "seconds": 5.1 },
                "sum_sent_bidir_reverse": { "bytes": 550, "seconds": 5.0, "retransmits": 4 },
                "sum_received_bidir_reverse": { "bytes": 500, "seconds": 5.0 }
            }
        }"#;
        let expected = Traffic {
            sent_bytes: 1650.0,
            received_bytes: 1500.0,
            seconds: 5.1,
            packet_bytes: 1368.0,
            retransmits: Some(7.0),
        };
        assert_eq!(Traffic::parse(text).unwrap(), expected);
    }

    #[test]
    fn datagrams_that_were_lost_did_not_arrive() {
        let text = r#"{
            "start": { "test_start": { "blksize": 1360 } },
            "end": {
                "sum": { "bytes": 125120, "seconds": 1.0, "lost_packets": 7 },
                "sum_sent": { "bytes": 125120, "seconds": 1.0, "packets": 92 },
                "sum_received": { "bytes": 115600, "seconds": 1.0, "packets": 92 }
            }
        }"#;
        let traffic = Traffic::parse(text).unwrap();
        assert_eq!(traffic.received_bytes / traffic.packet_bytes, 85.0);
        assert_eq!(traffic.sent_bytes / traffic.packet_bytes, 92.0);
        assert_eq!(traffic.retransmits, None);
    }

    #[test]
    fn a_run_that_failed_says_why() {
        let text = r#"{ "start": {}, "end": {}, "error": "unable to connect" }"#;
        let error = Traffic::parse(text).unwrap_err().to_string();
        assert!(error.contains("unable to connect"), "{error}");
    }

    #[test]
    fn a_run_in_which_nothing_arrived_failed() {
        let text = r#"{
            "start": { "tcp_mss_default": 1368 },
            "end": {
                "sum_sent": { "bytes": 1000, "seconds": 5.0, "retransmits": 9 },
                "sum_received": { "bytes": 0, "seconds": 5.0 }
            }
        }"#;
        assert!(Traffic::parse(text).is_err());
    }
}
