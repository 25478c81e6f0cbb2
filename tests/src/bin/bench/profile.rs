//! Where the tunnel processes spend their time: `perf record` beside a workload,
//! its samples sorted into groups and its symbols counted by their own time.
//!
//! It samples the processor clock, which also works where a virtual machine has
//! no counters. Symbols need a program that was not stripped (the profile
//! `profiling` of the workspace); the kernel's are there anyway.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use privnet_tests::namespace::logs;
use privnet_tests::process::{Process, wait_until};
use privnet_tests::programs;

use crate::network::Network;
use crate::results::Sample;
use crate::workload::Workload;

/// Samples per second and thread: no divisor of the kernel's own ticks.
const FREQUENCY: &str = "997";
const PATIENCE: Duration = Duration::from_secs(60);
/// How many symbols are printed.
const TOP: usize = 40;

/// What kind of work a sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Cipher,
    KernelCopy,
    Checksum,
    WakeUp,
    Softirq,
    KernelStack,
    UserCopy,
    Boringtun,
    OurCode,
    OtherUser,
}

impl Group {
    const fn name(self) -> &'static str {
        match self {
            Self::Cipher => "cipher",
            Self::KernelCopy => "kernel: copies",
            Self::Checksum => "checksums",
            Self::WakeUp => "kernel: wake-ups and scheduling",
            Self::Softirq => "kernel: softirq",
            Self::KernelStack => "kernel: stack and system calls",
            Self::UserCopy => "memcpy in user space",
            Self::Boringtun => "boringtun",
            Self::OurCode => "the program's own code",
            Self::OtherUser => "other user space",
        }
    }
}

/// Samples of the tunnel processes, counted.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    samples: u64,
    groups: BTreeMap<Group, u64>,
    symbols: BTreeMap<(Group, String), u64>,
    rates: Sample,
}

/// One frame of a stack: what function of what file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    symbol: String,
    kernel: bool,
}

/// Runs a workload once with `perf` attached to the tunnel processes.
pub(crate) fn take(network: &Network, workload: Workload, length: Duration) -> Result<Profile> {
    ensure!(
        programs::tool("perf").is_ok(),
        "profiling needs perf (Debian: linux-perf), which make setup does not install"
    );
    let file = logs().join("perf.data");
    if file.exists() {
        std::fs::remove_file(&file)?;
    }
    let ids: Vec<String> = network
        .tunnels()
        .iter()
        .map(|process| process.id().to_string())
        .collect();
    let mut command = Command::new("perf");
    command
        .args(["record", "-e", "cpu-clock", "-F", FREQUENCY, "-g"])
        .args(["-p", &ids.join(","), "-o"])
        .arg(&file);
    let mut perf = Process::start("perf", &logs(), command)?;
    wait_until("perf to record", PATIENCE, || {
        perf.check()?;
        Ok(file.exists().then_some(()))
    })?;
    let rates = workload.run(network, length)?;
    perf.signal(Signal::SIGINT)?;
    perf.wait(PATIENCE)?;
    let mut profile = read(&file)?;
    profile.rates = rates;
    Ok(profile)
}

fn read(file: &Path) -> Result<Profile> {
    let mut script = Command::new("perf")
        // Inlined functions count for the one they are part of; to find them takes minutes.
        .args(["script", "--no-inline", "-F", "ip,sym,dso", "-i"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("perf script")?;
    let output = script.stdout.take().context("perf script has no output")?;
    let mut profile = Profile::default();
    let mut stack = Vec::new();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        match Frame::parse(&String::from_utf8_lossy(&line)) {
            Some(frame) => stack.push(frame),
            None => profile.count(&std::mem::take(&mut stack)),
        }
    }
    profile.count(&stack);
    let status = script.wait()?;
    ensure!(status.success(), "perf script: {status}");
    ensure!(profile.samples > 0, "perf has taken no samples");
    Ok(profile)
}

impl Frame {
    /// From a line such as `ffffffff81a0 copy_user_generic+0x1 ([kernel.kallsyms])`.
    fn parse(line: &str) -> Option<Self> {
        let (_address, rest) = line.trim().split_once(' ')?;
        let (symbol, file) = rest.rsplit_once(" (")?;
        let file = file.trim_end_matches(')');
        Some(Self {
            symbol: symbol.trim().to_owned(),
            kernel: file.starts_with('[') && file != "[vdso]",
        })
    }

    fn is_any(&self, parts: &[&str]) -> bool {
        parts.iter().any(|part| self.symbol.contains(part))
    }
}

/// What a sample is, from its stack, innermost frame first.
fn group(stack: &[Frame]) -> Option<Group> {
    let innermost = stack.first()?;
    let within = |parts: &[&str]| {
        stack
            .iter()
            .any(|frame| frame.kernel && frame.is_any(parts))
    };
    if innermost.is_any(&["chacha20", "poly1305", "ring::aead"]) {
        return Some(Group::Cipher);
    }
    if innermost.is_any(&["csum", "checksum"]) {
        return Some(Group::Checksum);
    }
    let copies = [
        "copy_user",
        "copy_from_user",
        "copy_to_user",
        "copy_to_iter",
        "copy_from_iter",
        "rep_movs",
        "memcpy",
        "memmove",
    ];
    if innermost.kernel {
        return Some(if innermost.is_any(&copies) {
            Group::KernelCopy
        } else if within(&[
            "try_to_wake_up",
            "ep_poll_callback",
            "__wake_up",
            "schedule",
        ]) {
            Group::WakeUp
        } else if within(&["softirq", "net_rx_action"]) {
            Group::Softirq
        } else {
            Group::KernelStack
        });
    }
    Some(if innermost.is_any(&["memcpy", "memmove", "memset"]) {
        Group::UserCopy
    } else if innermost.is_any(&["boringtun"]) {
        Group::Boringtun
    } else if innermost.is_any(&["privnet"]) {
        Group::OurCode
    } else {
        Group::OtherUser
    })
}

impl Profile {
    fn count(&mut self, stack: &[Frame]) {
        let (Some(group), Some(innermost)) = (group(stack), stack.first()) else {
            return;
        };
        self.samples += 1;
        *self.groups.entry(group).or_default() += 1;
        let symbol = (group, innermost.symbol.clone());
        *self.symbols.entry(symbol).or_default() += 1;
    }

    /// The groups and the top symbols, by their share of all samples.
    pub(crate) fn to_text(&self, title: &str) -> String {
        let share = |count: u64| count as f64 * 100.0 / self.samples as f64;
        let mut text = format!("\n{title}: {} samples\n", self.samples);
        for (metric, value) in &self.rates {
            let _ = writeln!(text, "  {metric:?} {value:.2}");
        }
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (group, count) in groups {
            let _ = writeln!(text, "{:>6.1} %  {}", share(*count), group.name());
        }
        text.push_str("\n  by symbol, own time\n");
        let mut symbols: Vec<_> = self.symbols.iter().collect();
        symbols.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for ((group, symbol), count) in symbols.into_iter().take(TOP) {
            let _ = writeln!(
                text,
                "{:>6.1} %  {symbol}  [{}]",
                share(*count),
                group.name()
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    fn stack(lines: &[&str]) -> Vec<Frame> {
        lines
            .iter()
            .map(|line| Frame::parse(line).unwrap())
            .collect()
    }

    #[test]
    fn a_frame_has_a_symbol_and_knows_the_kernel() {
        let frame = Frame::parse("  ffffffff81a0 copy_user_generic ([kernel.kallsyms])").unwrap();
        assert_eq!(
            (frame.symbol.as_str(), frame.kernel),
            ("copy_user_generic", true)
        );
        let frame =
            Frame::parse("  55d0 <privnet::A as core::B<u8>>::run (/x/privnet-wg)").unwrap();
        assert_eq!(frame.symbol, "<privnet::A as core::B<u8>>::run");
        assert!(!frame.kernel);
        assert_eq!(Frame::parse(""), None);
    }

    #[test]
    fn the_work_of_waking_another_counts_as_that_wherever_it_ends() {
        let kernel = |symbol: &str| format!("ff {symbol} ([kernel.kallsyms])");
        let lock = kernel("_raw_spin_lock");
        let wake = [
            lock.clone(),
            kernel("try_to_wake_up"),
            kernel("udp_queue_rcv_skb"),
        ];
        let wake: Vec<&str> = wake.iter().map(String::as_str).collect();
        assert_eq!(group(&stack(&wake)), Some(Group::WakeUp));
        let send = [lock, kernel("udp_sendmsg")];
        let send: Vec<&str> = send.iter().map(String::as_str).collect();
        assert_eq!(group(&stack(&send)), Some(Group::KernelStack));
    }

    #[test]
    fn user_code_is_told_apart_by_its_crate() {
        let of = |symbol: &str| group(&stack(&[&format!("55 {symbol} (/x/privnet-wg)")]));
        assert_eq!(
            of("ring_core_0_17__chacha20_poly1305_seal_avx2"),
            Some(Group::Cipher)
        );
        assert_eq!(
            of("boringtun::noise::Tunn::encapsulate"),
            Some(Group::Boringtun)
        );
        assert_eq!(
            of("privnet_tunnel::shard::Shard::packet"),
            Some(Group::OurCode)
        );
        assert_eq!(of("__memmove_avx_unaligned_erms"), Some(Group::UserCopy));
    }

    #[test]
    fn shares_are_of_all_samples() {
        let mut profile = Profile::default();
        for _ in 0..3 {
            profile.count(&stack(&["55 boringtun::a (/x/privnet-wg)"]));
        }
        profile.count(&stack(&["ff udp_sendmsg ([kernel.kallsyms])"]));
        profile.count(&[]);
        let text = profile.to_text("x");
        assert!(text.contains("4 samples"), "{text}");
        assert!(text.contains("75.0 %  boringtun\n"), "{text}");
        assert!(text.contains("25.0 %  udp_sendmsg"), "{text}");
    }
}
