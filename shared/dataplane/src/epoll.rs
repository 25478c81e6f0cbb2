//! Waiting for several file descriptors at once, and being woken by other
//! threads. Level-triggered: what was not drained shows again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// An epoll instance. What is added must be removed before it is closed, or be
/// closed with all its duplicates, which nobody makes here.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

/// The tokens of the descriptors that are ready.
#[derive(Debug)]
pub(crate) struct Events {
    events: [libc::epoll_event; Self::CAPACITY],
    length: usize,
}

impl Events {
    /// More descriptors than any one thread watches.
    const CAPACITY: usize = 8;

    pub(crate) fn new() -> Self {
        Self {
            events: [libc::epoll_event { events: 0, u64: 0 }; Self::CAPACITY],
            length: 0,
        }
    }

    /// Whether the descriptor with this token is ready or in error.
    pub(crate) fn has(&self, token: u64) -> bool {
        self.events[..self.length]
            .iter()
            .any(|event| event.u64 == token)
    }
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Watches for input.
    pub(crate) fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: token,
        };
        self.control(libc::EPOLL_CTL_ADD, fd.as_fd(), &mut event)
    }

    /// Watches no longer.
    pub(crate) fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        self.control(libc::EPOLL_CTL_DEL, fd.as_fd(), &mut event)
    }

    /// Waits until something is ready or the time is over; `None` waits for ever.
    /// An interruption by a signal counts as nothing ready.
    pub(crate) fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        // Rounded up: a wait cut short by less than a millisecond would spin.
        let milliseconds = timeout.map_or(-1, |timeout| {
            i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
        });
        events.length = 0;
        // SAFETY: the array is valid for writes of `CAPACITY` events for the call.
        let result = check(unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.events.as_mut_ptr(),
                Events::CAPACITY as i32,
                milliseconds,
            )
        });
        match result {
            Ok(length) => events.length = length as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn control(
        &self,
        operation: i32,
        fd: BorrowedFd<'_>,
        event: &mut libc::epoll_event,
    ) -> io::Result<()> {
        // SAFETY: `event` is valid for the call; both descriptors are open.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd.as_raw_fd(), event) })?;
        Ok(())
    }
}

/// Wakes a thread that waits in [`Epoll::wait`].
#[derive(Debug)]
pub(crate) struct Waker(OwnedFd);

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // It fails only when the counter is full, and then the thread is woken anyway.
        // SAFETY: 8 readable bytes, as an eventfd wants.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Takes the wake-ups back. Call it before looking at what they were about.
    pub(crate) fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: 8 writable bytes, as an eventfd wants.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Turns the C convention of -1 and errno into a result.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn a_wake_up_is_seen_until_it_is_cleared() {
        let epoll = Epoll::new().unwrap();
        let waker = Waker::new().unwrap();
        let mut events = Events::new();
        epoll.add(&waker, 7).unwrap();
        epoll.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(!events.has(7));
        waker.wake();
        waker.wake();
        epoll.wait(&mut events, None).unwrap();
        assert!(events.has(7));
        waker.clear();
        epoll.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(!events.has(7));
        epoll.remove(&waker).unwrap();
        waker.wake();
        epoll.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(!events.has(7));
    }
}
