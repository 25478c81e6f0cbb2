//! The device's WireGuard socket, `/var/run/wireguard/NAME.sock`, so that `wg`
//! works on it. Each client has a thread of its own and limits on time and size:
//! one that hangs holds up neither packets nor other clients.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use privnet_tunnel::uapi::{Errno, Request};
use zeroize::Zeroizing;

use crate::device::{Inner, UapiAccess};
use crate::epoll::{Epoll, Events};
use crate::error::DeviceError;
use crate::worker::Shared;

/// Where `wg` looks for userspace devices.
const DIRECTORY: &str = "/var/run/wireguard";

/// Clients at one time; more are turned away.
const CLIENTS: usize = 16;

/// How long a client may keep a thread waiting.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest request: over a million allowed IPs.
const REQUEST_BYTES: usize = 64 << 20;

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
    let mut reader = BufReader::new(stream);
    loop {
        let Some(request) = read_request(&mut reader)? else {
            return Ok(());
        };
        let answer = answer(&request, device, access);
        let mut writer = stream;
        writer.write_all(answer.as_bytes())?;
    }
}

/// Reads up to the empty line that ends a request; `None` at the end of input.
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut request = Zeroizing::new(Vec::with_capacity(4096));
    loop {
        let start = request.len();
        let room = (REQUEST_BYTES - start) as u64;
        io::Read::take(&mut *reader, room).read_until(b'\n', &mut request)?;
        match &request[start..] {
            b"\n" => {
                request.truncate(start);
                return Ok(Some(request));
            }
            line if line.ends_with(b"\n") => {}
            // The end of input, or of patience with the length.
            _ => return Ok(None),
        }
    }
}

fn answer(request: &[u8], device: &Weak<Inner>, access: UapiAccess) -> Zeroizing<String> {
    let Some(device) = device.upgrade() else {
        return Zeroizing::new(Errno::ENODEV.answer());
    };
    let errno = match std::str::from_utf8(request).map(Request::parse) {
        Ok(Ok(Request::Get)) => return device.describe(access == UapiAccess::ReadWrite),
        Ok(Ok(Request::Set(_))) if access == UapiAccess::ReadOnly => Errno::EPERM,
        Ok(Ok(Request::Set(change))) => match device.set(change) {
            Ok(()) => Errno::OK,
            Err(error) => {
                tracing::warn!(%error, "a change by the WireGuard socket failed");
                errno(&error)
            }
        },
        Ok(Err(errno)) => errno,
        Err(_) => Errno::EINVAL,
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

    #[test]
    fn requests_end_at_an_empty_line_and_a_torn_one_is_none() {
        let mut input: &[u8] = b"get=1\n\nset=1\nlisten_port=1\n\nset=1\nlisten";
        let first = read_request(&mut input).unwrap().unwrap();
        assert_eq!(*first, b"get=1\n");
        let second = read_request(&mut input).unwrap().unwrap();
        assert_eq!(*second, b"set=1\nlisten_port=1\n");
        assert!(read_request(&mut input).unwrap().is_none());
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
