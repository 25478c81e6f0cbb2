//! The device's WireGuard socket, `/var/run/wireguard/NAME.sock`, so that `wg`
//! works on it. Each client has a thread of its own and limits on time and size:
//! one that hangs holds up neither packets nor other clients.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use privnet_tunnel::uapi::{Errno, Request, RequestParser};
use zeroize::Zeroizing;

use crate::device::{Inner, UapiAccess};
use crate::epoll::{Epoll, Events};
use crate::error::DeviceError;
use crate::tun::{self, InterfaceName};
use crate::worker::Shared;

/// Where `wg` looks for userspace devices.
const DIRECTORY: &str = "/var/run/wireguard";

/// Clients at one time; more are turned away.
const CLIENTS: usize = 16;

/// How long a client may keep a thread waiting.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest request: over a million allowed IPs.
const REQUEST_BYTES: usize = 64 << 20;

/// Room for a line. Those of the protocol have 100 bytes at most, but one read
/// takes as many as fit.
const LINE_BYTES: usize = 16 << 10;

const LISTENER: u64 = 0;
const CLOSING: u64 = 1;

/// The listening socket. Its file goes when it is dropped.
#[derive(Debug)]
pub(crate) struct UapiSocket {
    path: PathBuf,
    listener: UnixListener,
    access: UapiAccess,
    device: Weak<Inner>,
    shared: Arc<Shared>,
    epoll: Epoll,
}

impl UapiSocket {
    pub(crate) fn open(
        name: &str,
        access: UapiAccess,
        device: &Arc<Inner>,
    ) -> Result<Self, DeviceError> {
        let path = Path::new(DIRECTORY).join(format!("{name}.sock"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(DIRECTORY)
            .map_err(DeviceError::system(format!("making {DIRECTORY}")))?;
        let listener = listen(&path)?;
        let shared = Arc::clone(&device.shared);
        let epoll = Epoll::new()
            .and_then(|epoll| {
                listener.set_nonblocking(true)?;
                epoll.add(&listener, LISTENER)?;
                epoll.add(&shared.closing_waker, CLOSING)?;
                Ok(epoll)
            })
            .map_err(DeviceError::system(format!("watching {}", path.display())))?;
        Ok(Self {
            path,
            listener,
            access,
            device: Arc::downgrade(device),
            shared,
            epoll,
        })
    }

    /// Answers clients until the device closes.
    pub(crate) fn serve(self) {
        let clients = Arc::new(AtomicUsize::new(0));
        let mut events = Events::new();
        while !self.shared.is_closed() {
            if let Err(error) = self.epoll.wait(&mut events, None) {
                tracing::error!(%error, "the WireGuard socket stops answering");
                return;
            }
            if !events.has(LISTENER) {
                continue;
            }
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream, &clients),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    // Out of descriptors, most likely: they may come back.
                    tracing::warn!(%error, "a client of the WireGuard socket was lost");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn admit(&self, stream: UnixStream, clients: &Arc<AtomicUsize>) {
        if clients.fetch_add(1, Ordering::AcqRel) >= CLIENTS {
            clients.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let place = Place(Arc::clone(clients));
        let (device, access) = (Weak::clone(&self.device), self.access);
        let started = std::thread::Builder::new()
            .name("wg-uapi-client".to_owned())
            .spawn(move || {
                let _place = place;
                // A client that goes away or makes no sense is its own affair.
                if let Err(error) = converse(&stream, &device, access) {
                    tracing::debug!(%error, "a client of the WireGuard socket");
                }
            });
        if let Err(error) = started {
            tracing::warn!(%error, "no thread for a client of the WireGuard socket");
        }
    }
}

impl Drop for UapiSocket {
    fn drop(&mut self) {
        fs::remove_file(&self.path).unwrap_or_default();
    }
}

/// A client's place among [`CLIENTS`], given back when its thread ends or never began.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Listens at the path, in place of a socket that nobody answers on any more.
fn listen(path: &Path) -> Result<UnixListener, DeviceError> {
    if UnixStream::connect(path).is_ok() {
        return Err(DeviceError::SocketInUse(path.to_owned()));
    }
    // Made beside and moved: it is never there with other permissions, and takes
    // a stale one's place without a gap.
    let beside = path.with_extension(format!("sock.{}", std::process::id()));
    let made = (|| {
        if beside.exists() {
            fs::remove_file(&beside)?;
        }
        let listener = UnixListener::bind(&beside)?;
        fs::set_permissions(&beside, Permissions::from_mode(0o600))?;
        fs::rename(&beside, path)?;
        Ok(listener)
    })();
    if made.is_err() {
        fs::remove_file(&beside).unwrap_or_default();
    }
    made.map_err(DeviceError::system(format!(
        "listening on {}",
        path.display()
    )))
}

/// Answers a client's requests, one after the other.
fn converse(stream: &UnixStream, device: &Weak<Inner>, access: UapiAccess) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = Lines::new(stream);
    while let Some(request) = read_request(&mut lines)? {
        let answer = answer(request, device, access);
        let mut writer = stream;
        writer.write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// Reads up to the empty line that ends a request; `None` at the end of input.
fn read_request(lines: &mut Lines<impl Read>) -> io::Result<Option<Result<Request, Errno>>> {
    let mut parser = RequestParser::new(&interface_index);
    let mut length = 0;
    while let Some(line) = lines.next_line()? {
        if line.is_empty() {
            return Ok(Some(parser.finish()));
        }
        length += line.len();
        if length > REQUEST_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a request without end",
            ));
        }
        parser.line(line);
    }
    Ok(None)
}

fn interface_index(name: &str) -> Option<u32> {
    tun::index(&InterfaceName::new(name).ok()?)
}

/// The lines of a client's input. Keys are among them: they lie in one buffer
/// that never grows, hence leaves no copies behind, and is zeroized at the end.
struct Lines<R> {
    input: R,
    buffer: Zeroizing<[u8; LINE_BYTES]>,
    /// What was read and not yet handed out.
    unread: Range<usize>,
}

impl<R: Read> Lines<R> {
    fn new(input: R) -> Self {
        Self {
            input,
            buffer: Zeroizing::new([0; LINE_BYTES]),
            unread: 0..0,
        }
    }

    /// The next line, without its end; `None` at the end of input, also where
    /// that comes within a line.
    fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            let unread = &self.buffer[self.unread.clone()];
            if let Some(length) = unread.iter().position(|byte| *byte == b'\n') {
                let start = self.unread.start;
                self.unread.start += length + 1;
                return Ok(Some(&self.buffer[start..start + length]));
            }
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
            let room = &mut self.buffer[self.unread.end..];
            if room.is_empty() {
                let error = "a line longer than any of the protocol";
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            match self.input.read(room) {
                Ok(0) => return Ok(None),
                Ok(length) => self.unread.end += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn answer(
    request: Result<Request, Errno>,
    device: &Weak<Inner>,
    access: UapiAccess,
) -> Zeroizing<String> {
    let Some(device) = device.upgrade() else {
        return Zeroizing::new(Errno::ENODEV.answer());
    };
    let errno = match request {
        Ok(Request::Get) => return device.describe(access == UapiAccess::ReadWrite),
        Ok(Request::Set(_)) if access == UapiAccess::ReadOnly => Errno::EPERM,
        Ok(Request::Set(change)) => match device.set(change) {
            Ok(()) => Errno::OK,
            Err(error) => {
                tracing::warn!(%error, "a change by the WireGuard socket failed");
                errno(&error)
            }
        },
        Err(errno) => errno,
    };
    Zeroizing::new(errno.answer())
}

fn errno(error: &DeviceError) -> Errno {
    match error {
        DeviceError::PortInUse { .. } => Errno::EADDRINUSE,
        DeviceError::TooManyPeers => Errno::ENOSPC,
        DeviceError::Closed => Errno::ENODEV,
        DeviceError::NotPermitted { .. } => Errno::EPERM,
        DeviceError::BadName { .. }
        | DeviceError::NoTun
        | DeviceError::NameInUse { .. }
        | DeviceError::SocketInUse(_)
        | DeviceError::System { .. } => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    /// Input that comes in pieces of a few bytes, however much room there is.
    struct Dribble<'a>(&'a [u8]);

    impl Read for Dribble<'_> {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            let room_at_once = room.len().min(7);
            self.0.read(&mut room[..room_at_once])
        }
    }

    #[test]
    fn requests_end_at_an_empty_line_and_a_torn_one_is_none() {
        let mut lines = Lines::new(Dribble(
            b"get=1\n\nset=1\nlisten_port=7\n\nset=2\n\n\nset=1\nlisten",
        ));
        let mut next = || read_request(&mut lines).unwrap();
        assert_eq!(next(), Some(Ok(Request::Get)));
        let Some(Ok(Request::Set(device))) = next() else {
            panic!("not a set");
        };
        assert_eq!(device.listen_port, Some(7));
        assert_eq!(next(), Some(Err(Errno::EPROTO)));
        assert_eq!(next(), Some(Err(Errno::EPROTO)));
        assert_eq!(next(), None);
    }

    #[test]
    fn a_request_longer_than_the_buffer_is_read_whole_and_a_line_longer_than_it_is_not() {
        let key = "1".repeat(64);
        let mut text = format!("set=1\npublic_key={key}\n");
        for network in 0..5_000 {
            let (high, low) = (network / 256, network % 256);
            text.push_str(&format!("allowed_ip=10.{high}.{low}.0/24\n"));
        }
        text.push('\n');
        let request = read_request(&mut Lines::new(text.as_bytes())).unwrap();
        let Some(Ok(Request::Set(device))) = request else {
            panic!("not a set");
        };
        assert_eq!(device.peers[0].allowed_ips.len(), 5_000);
        let endless = io::repeat(b'a');
        let error = read_request(&mut Lines::new(endless)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_request_without_end_is_given_up() {
        struct Endless;
        impl Read for Endless {
            fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
                let line = b"allowed_ip=10.0.0.0/8\n";
                let lines = room.len() / line.len();
                for place in room.chunks_exact_mut(line.len()) {
                    place.copy_from_slice(line);
                }
                Ok(lines * line.len())
            }
        }
        let error = read_request(&mut Lines::new(Endless)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wg0.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = listen(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(matches!(listen(&path), Err(DeviceError::SocketInUse(_))));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        drop(listener);
    }
}
