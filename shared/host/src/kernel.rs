//! What this host's kernel and memory are like.

use std::os::unix::fs::PermissionsExt;

use privnet_reconcile::interface::InterfaceName;
use privnet_reconcile::kernel::Kernel;

use crate::error::HostError;
use crate::nftables;

const MEMORY: &str = "/proc/meminfo";
const CONNTRACK_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// Looks; `device` is where the short cut would be taken.
pub(crate) async fn look(device: &InterfaceName) -> Result<Kernel, HostError> {
    let text = read(MEMORY).await?;
    let memory = memory(&text).ok_or(HostError::Unreadable {
        path: MEMORY,
        problem: "it has no line MemTotal in kB",
    })?;
    Ok(Kernel {
        memory,
        sets_conntrack_size: sets_conntrack_size().await,
        flowtable: nftables::probe_flowtable(device).await,
    })
}

/// The text of a file below `/proc`.
pub(crate) async fn read(path: &'static str) -> Result<String, HostError> {
    let read = tokio::fs::read_to_string(path).await;
    read.map_err(|source| HostError::Proc { path, source })
}

fn memory(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Of other namespaces than the first the file's mode lacks the right to write.
/// A file that is not there yet comes with the first NAT rule.
async fn sets_conntrack_size() -> bool {
    match tokio::fs::metadata(CONNTRACK_MAX).await {
        Ok(metadata) => metadata.permissions().mode() & 0o200 != 0,
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_read_in_bytes() {
        let text = "MemTotal:       24552372 kB\nMemFree:        13000000 kB\n";
        assert_eq!(memory(text), Some(24_552_372 * 1024));
        for text in ["", "MemTotal: x kB", "MemTotal: 12 MB", "MemFree: 1 kB"] {
            assert_eq!(memory(text), None, "{text}");
        }
    }
}
