//! What a host's kernel and memory are like, as far as decisions follow from it.

/// Found out by `host` at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The machine's memory in bytes.
    pub memory: u64,
    /// Whether this network namespace sets how many connections are remembered;
    /// only the machine's first one does.
    pub sets_conntrack_size: bool,
    /// Whether it has nftables' flowtables, or why they cannot be used.
    pub flowtable: Result<(), String>,
}
