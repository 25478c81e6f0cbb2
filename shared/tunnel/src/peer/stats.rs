//! What a peer's worker tells of it to whoever reports. Figures only: nothing here
//! decides anything.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A peer's figures, written by its worker and read by whoever reports.
#[derive(Debug, Default)]
pub struct PeerStats {
    received: AtomicU64,
    sent: AtomicU64,
    /// Changes a few times an hour, so a lock is cheap; nobody holds it for
    /// longer than a copy takes.
    rare: Mutex<Rare>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Rare {
    endpoint: Option<SocketAddr>,
    last_handshake: Option<Instant>,
}

/// A peer's figures at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerReport {
    /// Where the peer is.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake completed.
    pub last_handshake: Option<Instant>,
    /// Bytes of the peer's messages received, handshakes and overhead included.
    pub received_bytes: u64,
    /// Bytes of messages sent to the peer, likewise.
    pub sent_bytes: u64,
}

impl PeerStats {
    /// The figures now.
    pub fn report(&self) -> PeerReport {
        let rare = *self.rare();
        PeerReport {
            endpoint: rare.endpoint,
            last_handshake: rare.last_handshake,
            received_bytes: self.received.load(Ordering::Relaxed),
            sent_bytes: self.sent.load(Ordering::Relaxed),
        }
    }

    pub(super) fn add_received(&self, bytes: usize) {
        add(&self.received, bytes);
    }

    pub(super) fn add_sent(&self, bytes: usize) {
        add(&self.sent, bytes);
    }

    /// Where the peer is from now on. Also for whoever tells the peer's owner to
    /// move it, so that what was set can be read before the owner has done so.
    pub fn set_endpoint(&self, endpoint: Option<SocketAddr>) {
        self.rare().endpoint = endpoint;
    }

    pub(super) fn set_last_handshake(&self, now: Instant) {
        self.rare().last_handshake = Some(now);
    }

    fn rare(&self) -> MutexGuard<'_, Rare> {
        self.rare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One writer: no read-modify-write instruction is needed.
fn add(cell: &AtomicU64, bytes: usize) {
    let sum = cell.load(Ordering::Relaxed).wrapping_add(bytes as u64);
    cell.store(sum, Ordering::Relaxed);
}
