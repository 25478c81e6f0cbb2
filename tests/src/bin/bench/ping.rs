//! Round-trip times, as `ping` sees them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use privnet_tests::process::run;

use crate::network::Network;

/// Between two pings. Small enough to see a queue, too large to be one.
const INTERVAL: Duration = Duration::from_millis(20);

/// What a series of pings met.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RoundTrips {
    /// The median, in milliseconds.
    pub(crate) median_ms: f64,
    /// The average.
    pub(crate) average_ms: f64,
    /// The longest.
    pub(crate) longest_ms: f64,
    /// The share of pings that were answered, 0 to 1.
    pub(crate) answered: f64,
}

/// Pings the server from the client for this long.
pub(crate) fn measure(network: &Network, length: Duration) -> Result<RoundTrips> {
    let count = length.as_millis() / INTERVAL.as_millis();
    let count = u32::try_from(count)?;
    let mut command = network.client().command("ping");
    command
        .args(["-n", "-W", "1"])
        .args(["-i", &INTERVAL.as_secs_f32().to_string()])
        .args(["-c", &count.to_string()])
        .arg(network.server_address().to_string());
    RoundTrips::parse(&run(&mut command)?, count)
}

impl RoundTrips {
    fn parse(text: &str, sent: u32) -> Result<Self> {
        let mut times: Vec<f64> = text
            .lines()
            .filter_map(|line| line.split_once(" time="))
            .map(|(_, rest)| rest.split(' ').next().unwrap_or_default().parse())
            .collect::<Result<_, _>>()
            .with_context(|| format!("ping: {text}"))?;
        ensure!(!times.is_empty(), "no ping was answered: {text}");
        times.sort_by(f64::total_cmp);
        let count = times.len();
        Ok(Self {
            median_ms: crate::results::median(&times),
            average_ms: times.iter().sum::<f64>() / count as f64,
            longest_ms: times[count - 1],
            answered: count as f64 / f64::from(sent),
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    const TEXT: &str = "\
PING 10.2.0.2 (10.2.0.2) 56(84) bytes of data.
64 bytes from 10.2.0.2: icmp_seq=1 ttl=62 time=0.400 ms
64 bytes from 10.2.0.2: icmp_seq=2 ttl=62 time=0.100 ms
64 bytes from 10.2.0.2: icmp_seq=4 ttl=62 time=1.00 ms

--- 10.2.0.2 ping statistics ---
4 packets transmitted, 3 received, 25% packet loss, time 60ms
rtt min/avg/max/mdev = 0.100/0.500/1.000/0.374 ms
";

    #[test]
    fn each_answer_counts() {
        let expected = RoundTrips {
            median_ms: 0.4,
            average_ms: 0.5,
            longest_ms: 1.0,
            answered: 0.75,
        };
        assert_eq!(RoundTrips::parse(TEXT, 4).unwrap(), expected);
    }

    #[test]
    fn no_answer_is_an_error() {
        assert!(RoundTrips::parse("PING 10.2.0.2\n", 4).is_err());
    }
}
