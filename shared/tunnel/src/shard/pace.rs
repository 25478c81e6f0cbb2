//! How much of a worker's time handshakes may have. It counts bytes and knows the
//! time; it knows no handshake.

use std::time::{Duration, Instant};

/// Handshake messages worked on, and handshakes begun, per call of `tick`: about
/// a millisecond each, which is what a packet may have to wait behind them.
pub(super) const HANDSHAKES_PER_TICK: usize = 4;

/// A turn that carried so many bytes is one of a busy worker: as much work as half
/// a handshake. Then handshakes get an eighth of its time.
pub(super) const BUSY_BYTES: usize = 64 << 10;
pub(super) const HANDSHAKE_PAUSE: Duration = Duration::from_millis(2);

/// How many handshakes a turn may have: as many as there is time for, but packets
/// come first.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Bytes carried since the last tick.
    pub(super) carried: usize,
    /// When a busy worker may take the next handshake.
    next_at: Option<Instant>,
}

impl Pace {
    /// The handshakes of one tick. With few packets one a turn: the packets of the
    /// next turn wait behind it, not behind four.
    pub(super) fn take(&mut self, now: Instant) -> usize {
        let carried = std::mem::take(&mut self.carried);
        let budget = match carried {
            0 => HANDSHAKES_PER_TICK,
            BUSY_BYTES.. if self.next_at.is_some_and(|at| now < at) => 0,
            _ => 1,
        };
        if budget > 0 {
            self.next_at = Some(now + HANDSHAKE_PAUSE);
        }
        budget
    }
}
