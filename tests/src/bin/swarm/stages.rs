//! The stages of a run, one after another, each on a hub of its own unless it
//! goes on where the one before ended.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use privnet_tests::process::{Process, wait_until};
use serde::de::DeserializeOwned;

use crate::crowd::Sessions;
use crate::flood::Kind;
use crate::hub::{self, Hub, Knowledge, Usage};
use crate::network::{HUB_FOR_BUSY, HUB_FOR_CROWD, HUB_FOR_FLOOD, HUB_INSIDE, Network, PORT};
use crate::report::{Idle, Memory, Report, Storm, Throughput};
use crate::{Arguments, Stage};

/// Longer than any storm should take: twelve rounds of retries.
const PATIENCE: Duration = Duration::from_secs(60);

/// From a storm to the watch of an idle hub: what the storm left to do is done.
const CALM: Duration = Duration::from_secs(10);

/// The worker takes a configuration over within milliseconds.
const TAKEN_OVER: Duration = Duration::from_secs(1);

/// How many peers there are besides when the port is flooded: those whose indexes
/// the flood aims at.
const FLOODED_PEERS: u32 = 64;

/// Runs of a throughput that is to be compared.
const ROUNDS: u32 = 3;

const MEGABYTE: f64 = 1e6;

/// What all stages work with.
pub(crate) struct Run<'a> {
    arguments: &'a Arguments,
    program: PathBuf,
    network: Network,
}

impl<'a> Run<'a> {
    pub(crate) fn prepare(arguments: &'a Arguments) -> Result<Self> {
        Ok(Self {
            arguments,
            program: hub::program(arguments.program.as_deref())?,
            network: Network::build()?,
        })
    }

    /// Carries out the stages. What was found before one failed is in the report.
    pub(crate) fn stages(&self, stages: &[Stage], report: &mut Report) -> Result<()> {
        let wants = |stage| stages.contains(&stage);
        if wants(Stage::Storm) || wants(Stage::Restart) || wants(Stage::Idle) {
            self.sessions(wants, report)?;
        }
        if wants(Stage::StormNat) {
            let (hub, configuring) = self.hub(self.arguments.peers, false)?;
            let mut crowd = Crowd::start(&self.network, self.arguments.peers, true)?;
            crowd.order::<String>("call")?;
            let name = "they call, from one address";
            let mut storm = storm(name, &hub, configuring, &mut crowd)?;
            storm.counters = hub.end()?;
            report.storms.push(storm);
        }
        if wants(Stage::Busy) {
            self.busy(report)?;
        }
        if wants(Stage::Flood) {
            self.flood(report)?;
        }
        Ok(())
    }

    /// The stages with one crowd: it calls and idles; the hub comes back, calls, and
    /// idles. Then with another: nobody keeps anything alive; all are replaced.
    fn sessions(&self, wants: impl Fn(Stage) -> bool, report: &mut Report) -> Result<()> {
        let peers = self.arguments.peers;
        let empty = self.start()?.usage()?;
        let (first, configuring) = self.hub(peers, false)?;
        let mut crowd = Crowd::start(&self.network, peers, false)?;
        crowd.order::<String>("call")?;
        let name = "they call, the hub knows no addresses";
        let mut called = storm(name, &first, configuring, &mut crowd)?;
        if wants(Stage::Idle) {
            let name = "idle, their keepalives";
            report.idle.push(self.idle(name, &first, empty)?);
        }
        called.counters = first.end()?;
        report.storms.push(called);
        if wants(Stage::Restart) {
            crowd.order::<String>("mark")?;
            let (second, configuring) = self.hub(peers, true)?;
            let name = "the hub comes back and calls (from its start)";
            let mut called = storm(name, &second, configuring, &mut crowd)?;
            if wants(Stage::Idle) {
                let name = "idle, keepalives both ways";
                report.idle.push(self.idle(name, &second, empty)?);
            }
            called.counters = second.end()?;
            report.storms.push(called);
        }
        drop(crowd);
        if wants(Stage::Idle) {
            let (last, configuring) = self.hub(peers, false)?;
            let mut crowd = Crowd::start(&self.network, peers, false)?;
            crowd.order::<String>("call")?;
            storm("", &last, configuring, &mut crowd)?;
            crowd.order::<String>("quiet")?;
            let name = "idle, no keepalives";
            report.idle.push(self.idle(name, &last, empty)?);
            for times in 1..=3 {
                let knowledge = Knowledge {
                    peers,
                    calls: false,
                };
                last.configure(&self.network.hub, knowledge)?;
                std::thread::sleep(TAKEN_OVER);
                let usage = last.usage()?;
                report.reconfigured.push(Memory {
                    times,
                    rss_megabytes: usage.rss as f64 / MEGABYTE,
                    peak_megabytes: usage.peak as f64 / MEGABYTE,
                });
            }
        }
        Ok(())
    }

    fn start(&self) -> Result<Hub> {
        Hub::start(&self.program, &self.network.hub, self.arguments.workers)
    }

    /// A hub that knows so many of the crowd, and how long that took.
    fn hub(&self, peers: u32, calls: bool) -> Result<(Hub, Duration)> {
        let hub = self.start()?;
        let configuring = hub.configure(&self.network.hub, Knowledge { peers, calls })?;
        Ok((hub, configuring))
    }

    fn idle(&self, name: &'static str, hub: &Hub, empty: Usage) -> Result<Idle> {
        std::thread::sleep(CALM);
        let (before, start) = (hub.usage()?, Instant::now());
        std::thread::sleep(Duration::from_secs(self.arguments.seconds.into()));
        let after = hub.usage()?;
        let busy = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        Ok(Idle {
            name,
            cpu_percent: 100.0 * busy / start.elapsed().as_secs_f64(),
            rss_megabytes: after.rss as f64 / MEGABYTE,
            kilobytes_per_peer: after.rss.saturating_sub(empty.rss) as f64
                / 1000.0
                / f64::from(self.arguments.peers),
        })
    }

    /// One busy peer, by turns on a hub with nobody else and on one with all others.
    fn busy(&self, report: &mut Report) -> Result<()> {
        for round in 1..=ROUNDS {
            for peers in [0, self.arguments.peers] {
                let (hub, _) = self.hub(peers, false)?;
                let _crowd = match peers {
                    0 => None,
                    _ => Some(self.crowd_with_sessions(peers)?),
                };
                let name = format!("one busy peer among {peers} others, round {round}");
                report.busy.push(self.throughput(name, None, &hub)?);
            }
        }
        Ok(())
    }

    /// One busy peer, by turns without a flood and under each.
    fn flood(&self, report: &mut Report) -> Result<()> {
        let (hub, _) = self.hub(FLOODED_PEERS, false)?;
        let _crowd = self.crowd_with_sessions(FLOODED_PEERS)?;
        // The junk costs the machine the same where the hub never sees it.
        self.network.hub.nft(
            "table ip control {
    chain input {
        type filter hook input priority filter
        udp dport 9 drop
    }
}
",
        )?;
        let calm = self.throughput("no flood".to_owned(), None, &hub)?;
        report.flood.push(calm);
        for kind in Kind::ALL {
            for (port, what) in [(9, "dropped by a firewall"), (PORT, "at our port")] {
                let _flood = self.start_flood(kind, port)?;
                let name = format!("flood of {kind:?}, {what}");
                report.flood.push(self.throughput(name, Some(kind), &hub)?);
            }
        }
        Ok(())
    }

    fn crowd_with_sessions(&self, peers: u32) -> Result<Crowd> {
        let mut crowd = Crowd::start(&self.network, peers, false)?;
        crowd.order::<String>("call")?;
        let sessions = crowd.wait_for_sessions()?;
        ensure!(sessions.count == peers as usize, "{sessions:?}");
        Ok(crowd)
    }

    fn start_flood(&self, kind: Kind, port: u16) -> Result<Process> {
        let kind = kind.to_possible_value().context("a kind without a name")?;
        let hub = SocketAddr::from((HUB_FOR_FLOOD, port)).to_string();
        let rate = self.arguments.flood_rate.to_string();
        let kind = ["flood", "--kind", kind.get_name()];
        let arguments = kind.into_iter().chain(["--hub", &hub, "--rate", &rate]);
        let flood = &self.network.flood;
        flood.start("flood", std::env::current_exe()?, arguments)
    }

    /// One TCP flow from the busy peer to the hub.
    fn throughput(&self, name: String, junk: Option<Kind>, hub: &Hub) -> Result<Throughput> {
        let network = &self.network;
        let to_hub = (HUB_FOR_BUSY, PORT).into();
        let _busy = hub::start_busy(&self.program, &network.busy, to_hub)?;
        let _server = network.hub.start("iperf", "iperf3", ["-s"])?;
        wait_until("the tunnel", PATIENCE, || {
            Ok((network.busy.ping(HUB_INSIDE, 3)? == 3).then_some(()))
        })?;
        let seconds = (self.arguments.seconds / 3).max(1).to_string();
        let to = HUB_INSIDE.to_string();
        let flow = ["-J", "-c", &to, "-O", "1", "-t", &seconds];
        let (text, used) = wait_until("the server", PATIENCE, || {
            let before = hub.usage()?;
            let answer = network.busy.run("iperf3", flow)?;
            let used = hub.usage()?.cpu.saturating_sub(before.cpu);
            Ok(Some((answer, used)))
        })?;
        let json: serde_json::Value = serde_json::from_str(&text)?;
        let received = |key: &str| json["end"]["sum_received"][key].as_f64();
        let bits = received("bits_per_second").context("no result of iperf3")?;
        // The second that iperf3 leaves out is in the CPU time.
        let gigabytes = bits / 8e9 * (received("seconds").context("no duration")? + 1.0);
        ensure!(gigabytes > 0.0, "nothing got through: {text}");
        Ok(Throughput {
            name,
            junk,
            gigabits_per_second: bits / 1e9,
            hub_cpu_per_gigabyte: used.as_secs_f64() / gigabytes,
        })
    }
}

/// Waits until all have a session, counted from the crowd's last mark.
fn storm(name: &'static str, hub: &Hub, configuring: Duration, crowd: &mut Crowd) -> Result<Storm> {
    let before = hub.usage()?;
    let sessions = crowd.wait_for_sessions()?;
    let after = hub.usage()?;
    Ok(Storm {
        name,
        configuring: configuring.as_secs_f64(),
        sessions,
        hub_cpu: (after.cpu.saturating_sub(before.cpu)).as_secs_f64(),
        rss_megabytes: after.rss as f64 / MEGABYTE,
        peak_megabytes: after.peak as f64 / MEGABYTE,
        counters: BTreeMap::new(),
    })
}

/// The crowd's process.
struct Crowd {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    peers: u32,
}

impl Crowd {
    fn start(network: &Network, peers: u32, one_address: bool) -> Result<Self> {
        let mut command = network.crowd.command(std::env::current_exe()?);
        let hub = SocketAddr::from((HUB_FOR_CROWD, PORT));
        command
            .args(["crowd", "--peers", &peers.to_string()])
            .args(["--hub", &hub.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if one_address {
            command.arg("--one-address");
        }
        let mut child = command.spawn().context("cannot start the crowd")?;
        let orders = child.stdin.take().context("the crowd does not listen")?;
        let answers = child.stdout.take().context("the crowd does not speak")?;
        let mut crowd = Self {
            child,
            orders,
            answers: BufReader::new(answers),
            peers,
        };
        crowd.answer::<String>()?;
        Ok(crowd)
    }

    fn order<T: DeserializeOwned>(&mut self, order: &str) -> Result<T> {
        writeln!(self.orders, "{order}").context("the crowd is gone")?;
        self.answer()
    }

    fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the crowd said {line:?}"))
    }

    /// Waits until every peer has a session, but not for ever: how many have is
    /// the result.
    fn wait_for_sessions(&mut self) -> Result<Sessions> {
        let start = Instant::now();
        loop {
            let sessions: Sessions = self.order("since")?;
            if sessions.count >= self.peers as usize || start.elapsed() > PATIENCE {
                return Ok(sessions);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
