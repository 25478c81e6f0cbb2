//! What kernel and processes are able to do, found out without changing anything.

use std::io;
use std::path::Path;

use privnet_reconcile::doctor::clock::Keeper;

const RELEASE: &str = "/proc/sys/kernel/osrelease";
const TUN: &str = "/dev/net/tun";

/// What systemd-timesyncd leaves while the clock is right (its manual page).
const TIMESYNCD: &str = "/run/systemd/timesync/synchronized";
/// The names of the processes that keep clocks right.
const TIME_SERVICES: [&str; 3] = ["chronyd", "ntpd", "systemd-timesyn"];

/// The kernel's release, as `uname -r` prints it.
pub(crate) async fn release() -> io::Result<String> {
    let text = tokio::fs::read_to_string(RELEASE).await?;
    Ok(text.trim().to_owned())
}

/// Whether this user can open the device by which tunnels are made. Opening makes none.
pub(crate) async fn tun() -> io::Result<()> {
    let options = tokio::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(TUN)
        .await;
    options.map(drop)
}

/// The capabilities that are in force in a process, as a set of bits; `None` is this one.
pub(crate) async fn capabilities(process: Option<u32>) -> io::Result<u64> {
    let process = process.map_or_else(|| "self".to_owned(), |id| id.to_string());
    let status = tokio::fs::read_to_string(format!("/proc/{process}/status")).await?;
    effective(&status).ok_or_else(|| {
        let problem = format!("/proc/{process}/status has no line CapEff");
        io::Error::new(io::ErrorKind::InvalidData, problem)
    })
}

fn effective(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// What keeps the clock right.
pub(crate) async fn time_keeper() -> Keeper {
    if tokio::fs::try_exists(TIMESYNCD).await.unwrap_or(false) {
        return Keeper::Synchronised("systemd-timesyncd");
    }
    let running = tokio::task::spawn_blocking(|| running_service(Path::new("/proc"))).await;
    running.ok().flatten().map_or(Keeper::Nobody, Keeper::Runs)
}

/// The first of the time services that runs.
fn running_service(proc: &Path) -> Option<&'static str> {
    let processes = std::fs::read_dir(proc).ok()?;
    processes.flatten().find_map(|process| {
        let name = std::fs::read_to_string(process.path().join("comm")).ok()?;
        let mut services = TIME_SERVICES.into_iter();
        services.find(|service| *service == name.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capabilities_in_force_are_one_line_of_many() {
        let status = "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000001000\n";
        assert_eq!(effective(status), Some(1 << 12));
        assert_eq!(effective("Name:\tx\n"), None);
    }
}
