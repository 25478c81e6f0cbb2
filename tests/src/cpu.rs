//! How much processor time something took, from `/proc`.
//!
//! The kernel's own work in a system call counts for the process that made it,
//! and so does most of what it does for arriving packets: softirqs run in
//! whichever process the interrupt met. Hence the whole machine's time beside it.

use anyhow::{Context, Result};

/// `USER_HZ`, the unit of these files: 100 on every architecture we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor seconds of a process so far: user and system, all threads, also
/// those that have ended.
pub fn process_seconds(id: u32) -> Result<f64> {
    let path = format!("/proc/{id}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    parse_process(&text).with_context(|| format!("{path}: {text}"))
}

/// Processor seconds of the whole machine so far, without idling.
pub fn machine_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
    parse_machine(&text).context("/proc/stat has no line of all processors")
}

fn parse_process(text: &str) -> Option<f64> {
    // The second field is the name in parentheses, which may hold anything.
    let (_, fields) = text.rsplit_once(") ")?;
    // `fields` begins with the third: user and system time are the 14th and 15th.
    let mut times = fields.split(' ').skip(11).take(2).map(str::parse::<f64>);
    let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn parse_machine(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<f64> = line
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq; what follows is other machines' time,
    // or counted in user already.
    let [user, nice, system, _, _, irq, softirq, ..] = fields[..] else {
        return None;
    };
    Some((user + nice + system + irq + softirq) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn a_process_name_may_hold_spaces_and_parentheses() {
        let text = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 175 0 0 20 0 5 0 99";
        assert_eq!(parse_process(text).unwrap(), 4.25);
    }

    #[test]
    fn idle_time_is_not_the_machines_work() {
        let text = "cpu  100 20 30 9999 8888 4 6 7777 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(parse_machine(text).unwrap(), 1.6);
    }

    #[test]
    fn our_own_time_grows() {
        let machine = machine_seconds().unwrap();
        let process = process_seconds(std::process::id()).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        // Looking takes time. The machine's is sampled by the tick, so either may lead.
        while process_seconds(std::process::id()).unwrap() <= process
            || machine_seconds().unwrap() <= machine
        {
            assert!(
                std::time::Instant::now() < deadline,
                "our time stands still"
            );
        }
    }
}
