//! Which offloads a device uses at this moment: found out when it is opened,
//! switched off by whichever worker the kernel refuses one to. All workers read
//! it before each batch, so it is a few atomics and nothing more.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use privnet_model::offload::{Offload, OffloadObstacle, OffloadReport, OffloadState, Offloads};

/// How each offload is: [`ON`], a reason below zero, or the error number with
/// which the kernel refused it.
#[derive(Debug)]
pub(crate) struct Switches {
    states: [AtomicI32; Offload::ALL.len()],
    kernel: String,
}

const ON: i32 = 0;
const CONFIGURED: i32 = -1;
const UNSUPPORTED: i32 = -2;
const KNOWN_BUG: i32 = -3;

impl Switches {
    /// The wanted offloads, but for those that this kernel is known to get wrong.
    pub(crate) fn new(wanted: Offloads) -> Self {
        let kernel = nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        let states = Offload::ALL.map(|offload| {
            AtomicI32::new(if !wanted.contains(offload) {
                CONFIGURED
            } else if offload.known_bug(&kernel).is_some() {
                KNOWN_BUG
            } else {
                ON
            })
        });
        Self { states, kernel }
    }

    pub(crate) fn is_on(&self, offload: Offload) -> bool {
        self.states[offload as usize].load(Ordering::Relaxed) == ON
    }

    /// The kernel has no such thing.
    pub(crate) fn lacks(&self, offload: Offload) {
        self.switch_off(offload, UNSUPPORTED);
    }

    /// The kernel refused it in use.
    pub(crate) fn refused(&self, offload: Offload, error: &io::Error) {
        let number = error.raw_os_error().unwrap_or(libc::EIO);
        if self.switch_off(offload, number) {
            tracing::warn!(%offload, %error, "the kernel refuses this offload; going on without it");
        }
    }

    pub(crate) fn report(&self) -> OffloadReport {
        let states = Offload::ALL.iter().zip(&self.states);
        states
            .map(|(offload, state)| {
                let state = match state.load(Ordering::Relaxed) {
                    ON => OffloadState::On,
                    CONFIGURED => OffloadState::Off(OffloadObstacle::Configured),
                    UNSUPPORTED => OffloadState::Off(OffloadObstacle::Unsupported),
                    KNOWN_BUG => OffloadState::Off(OffloadObstacle::KnownBug {
                        kernel: self.kernel.clone(),
                    }),
                    number => OffloadState::Off(OffloadObstacle::Rejected {
                        error: format!("{:?}", Errno::from_raw(number)),
                    }),
                };
                (*offload, state)
            })
            .collect()
    }

    /// Whether it was on until now.
    fn switch_off(&self, offload: Offload, state: i32) -> bool {
        let cell = &self.states[offload as usize];
        cell.compare_exchange(ON, state, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }
}
