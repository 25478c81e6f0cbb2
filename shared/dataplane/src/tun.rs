//! The TUN interface: making it, its MTU, and one queue per worker to read whole
//! IP packets from and write them to, each behind a header that says what the
//! kernel left to do (`virtio_net_hdr`). The interface lives as long as its queues.
//!
//! Beside it a plain one, for whoever wants to be a host behind this one.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use privnet_model::offload::Offload;
use socket2::{Domain, Socket, Type};

use crate::epoll::check;
use crate::error::DeviceError;
use crate::offloads::Switches;
use crate::whereabouts::Whereabouts;

/// An interface name that the kernel takes.
#[derive(Debug, Clone)]
pub(crate) struct InterfaceName(String);

impl InterfaceName {
    /// Checks the name by the kernel's rules (`dev_valid_name`).
    pub(crate) fn new(name: &str) -> Result<Self, DeviceError> {
        let reason = if name.is_empty() {
            "it is empty"
        } else if name.len() >= libc::IFNAMSIZ {
            "it is longer than 15 bytes"
        } else if name == "." || name == ".." {
            "it is a directory's name"
        } else if name
            .bytes()
            .any(|byte| byte == b'/' || byte == b':' || byte.is_ascii_whitespace() || byte == 0)
        {
            "it has a slash, a colon or a space in it"
        } else if name.contains('%') {
            // The kernel would take it for a pattern and choose a number.
            "it has a percent sign in it"
        } else {
            return Ok(Self(name.to_owned()));
        };
        Err(DeviceError::BadName {
            name: name.to_owned(),
            reason,
        })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// A request for the kernel about this interface.
    fn request(&self) -> libc::ifreq {
        // SAFETY: ifreq is plain data, for which all zero is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(self.0.bytes()) {
            *to = from as libc::c_char;
        }
        request
    }
}

/// One queue of the interface, for one worker.
#[derive(Debug)]
pub(crate) struct TunQueue(OwnedFd);

/// What an attempt to read or write a packet came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TunOutcome {
    /// A packet of that many bytes.
    Packet(usize),
    /// Nothing to read now.
    Empty,
    /// The interface was deleted.
    Gone,
    /// The kernel refused this packet, with this error number: EIO where the
    /// interface is down.
    Refused(i32),
}

/// Makes the interface with that many queues.
pub(crate) fn open(
    name: &InterfaceName,
    queues: usize,
    switches: &Switches,
) -> Result<Vec<TunQueue>, DeviceError> {
    let multi = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | multi;
    let queues: Vec<TunQueue> = (0..queues)
        .map(|queue| {
            // The first must make the interface, the others join it.
            let exclusive = if queue == 0 { libc::IFF_TUN_EXCL } else { 0 };
            open_queue(name, flags | exclusive)
        })
        .collect::<Result<_, _>>()?;
    if let Some(first) = queues.first() {
        first.set_offloads(switches);
    }
    Ok(queues)
}

/// Makes an interface, switched on, with one queue and nothing before its packets:
/// each read of the file takes one whole IP packet that the kernel sent there, each
/// write is one that the kernel receives. Reading does not block. The interface has
/// no addresses, and goes when the file is closed.
///
/// # Errors
/// The name is none or in use, there is no TUN driver, or `CAP_NET_ADMIN` is missing.
pub fn open_plain(name: &str, mtu: u16) -> Result<File, DeviceError> {
    let name = InterfaceName::new(name)?;
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL;
    let queue = open_queue(&name, flags)?;
    let link = Link::new(&name)?;
    link.set_mtu(mtu)?;
    link.set_up()?;
    Ok(File::from(queue.0))
}

fn open_queue(name: &InterfaceName, flags: libc::c_int) -> Result<TunQueue, DeviceError> {
    let not_permitted = || DeviceError::NotPermitted {
        name: name.0.clone(),
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => DeviceError::NoTun,
            Some(libc::EACCES | libc::EPERM) => not_permitted(),
            _ => DeviceError::system("opening /dev/net/tun")(error),
        })?;
    let mut request = name.request();
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the request is a valid ifreq for the call, as TUNSETIFF wants.
    let result = check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) });
    match result {
        Ok(_) => Ok(TunQueue(file.into())),
        Err(error) => Err(match error.raw_os_error() {
            Some(libc::EPERM) => not_permitted(),
            // Something else stands at that path, as in some containers.
            Some(libc::ENOTTY) => DeviceError::NoTun,
            Some(libc::EBUSY | libc::EEXIST) => DeviceError::NameInUse {
                name: name.0.clone(),
            },
            // An interface of that name which is no TUN.
            Some(libc::EINVAL) if index(name).is_some() => DeviceError::NameInUse {
                name: name.0.clone(),
            },
            _ => DeviceError::system(format!("making the interface {}", name.0))(error),
        }),
    }
}

impl TunQueue {
    /// The same queue once more, to ask about the interface by.
    pub(crate) fn duplicate(&self) -> Result<Self, DeviceError> {
        let queue = self.0.try_clone();
        queue
            .map(Self)
            .map_err(DeviceError::system("duplicating a descriptor"))
    }

    /// Says what packets the kernel may leave to us to segment and to complete.
    /// It is a setting of the whole device.
    pub(crate) fn set_offloads(&self, switches: &Switches) {
        loop {
            let (tso, uso) = (
                switches.is_on(Offload::TunTso),
                switches.is_on(Offload::TunUso),
            );
            let mut flags = 0;
            if tso || uso {
                flags |= libc::TUN_F_CSUM;
            }
            if tso {
                flags |= libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
            }
            if uso {
                flags |= libc::TUN_F_USO4 | libc::TUN_F_USO6;
            }
            // SAFETY: the argument is a number, no pointer.
            let result = check(unsafe {
                libc::ioctl(
                    self.0.as_raw_fd(),
                    libc::TUNSETOFFLOAD as libc::Ioctl,
                    flags as libc::c_ulong,
                )
            });
            // The newer one first: Linux before 6.2 knows no USO.
            match result {
                Ok(_) => return,
                Err(_) if uso => switches.lacks(Offload::TunUso),
                Err(_) if tso => switches.lacks(Offload::TunTso),
                Err(_) => return,
            }
        }
    }

    /// Reads one packet with its header before it.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> TunOutcome {
        // SAFETY: the buffer is valid for writes of its length.
        let result =
            unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        Self::outcome(result)
    }

    fn outcome(result: isize) -> TunOutcome {
        if let Ok(length) = usize::try_from(result) {
            return TunOutcome::Packet(length);
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => TunOutcome::Empty,
            // Detached: the interface is gone (tun_get of drivers/net/tun.c).
            Some(libc::EBADFD | libc::ENODEV) => TunOutcome::Gone,
            number => TunOutcome::Refused(number.unwrap_or(libc::EIO)),
        }
    }
}

/// Writes packets from where their parts lie.
#[derive(Debug, Default)]
pub(crate) struct TunWriter {
    vectors: Vec<libc::iovec>,
}

impl TunWriter {
    /// Writes one packet: its header, then its parts.
    pub(crate) fn write<'a>(
        &mut self,
        queue: &TunQueue,
        header: &'a [u8],
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> TunOutcome {
        self.vectors.clear();
        for part in std::iter::once(header).chain(parts) {
            self.vectors.push(libc::iovec {
                // The kernel only reads from it.
                iov_base: part.as_ptr().cast_mut().cast(),
                iov_len: part.len(),
            });
        }
        // SAFETY: every vector points to a part that outlives the call.
        let result = unsafe {
            libc::writev(
                queue.0.as_raw_fd(),
                self.vectors.as_ptr(),
                self.vectors.len() as libc::c_int,
            )
        };
        TunQueue::outcome(result)
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Asks and tells the kernel about the interface, by name, in the network
/// namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Link {
    name: InterfaceName,
    socket: Socket,
}

impl Link {
    pub(crate) fn new(name: &InterfaceName) -> Result<Self, DeviceError> {
        Ok(Self {
            name: name.clone(),
            socket: Socket::new(Domain::IPV4, Type::DGRAM, None).map_err(DeviceError::system(
                "opening a socket for interface requests",
            ))?,
        })
    }

    /// How many packets, each perhaps a super-packet, may wait for a worker.
    pub(crate) fn set_queue_length(&self, packets: i32) -> Result<(), DeviceError> {
        let mut request = self.name.request();
        // The kernel reads any number of this request from the same place.
        request.ifr_ifru.ifru_mtu = packets;
        self.ioctl(libc::SIOCSIFTXQLEN, &mut request)
            .map_err(DeviceError::system(format!(
                "setting the queue length of {}",
                self.name.0
            )))
    }

    pub(crate) fn set_mtu(&self, mtu: u16) -> Result<(), DeviceError> {
        let mut request = self.name.request();
        request.ifr_ifru.ifru_mtu = mtu.into();
        self.ioctl(libc::SIOCSIFMTU, &mut request)
            .map_err(DeviceError::system(format!(
                "setting the MTU of {} to {mtu}",
                self.name.0
            )))
    }

    /// The MTU now; anybody may have changed it, the name too, and have moved the
    /// interface to another namespace.
    pub(crate) fn mtu(&self, queue: &TunQueue) -> io::Result<usize> {
        let whereabouts = Whereabouts::of(queue.as_fd(), self.socket.as_fd())?;
        if let Some(mtu) = whereabouts.mtu_elsewhere()? {
            return Ok(mtu);
        }
        let mut request = self.name.request();
        request.ifr_name = whereabouts.name.map(|byte| byte as libc::c_char);
        self.ioctl(libc::SIOCGIFMTU, &mut request)?;
        // SAFETY: the kernel filled this member in, as SIOCGIFMTU does.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        usize::try_from(mtu).map_err(io::Error::other)
    }

    pub(crate) fn set_up(&self) -> Result<(), DeviceError> {
        let operation = || DeviceError::system(format!("bringing {} up", self.name.0));
        let mut request = self.name.request();
        self.ioctl(libc::SIOCGIFFLAGS, &mut request)
            .map_err(operation())?;
        // SAFETY: the kernel filled this member in, as SIOCGIFFLAGS does.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
        self.ioctl(libc::SIOCSIFFLAGS, &mut request)
            .map_err(operation())
    }

    fn ioctl(&self, operation: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: the request is a valid ifreq for the call, as these operations want.
        check(unsafe { libc::ioctl(self.socket.as_raw_fd(), operation, request) })?;
        Ok(())
    }
}

/// The kernel's number of an interface, if there is one of that name.
pub(crate) fn index(name: &InterfaceName) -> Option<u32> {
    let name = CString::new(name.as_str()).ok()?;
    // SAFETY: a valid C string for the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_refuse_are_refused_here_with_the_reason() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:1",
            "wg%d",
            "a234567890123456",
        ] {
            assert!(
                matches!(InterfaceName::new(name), Err(DeviceError::BadName { .. })),
                "{name}"
            );
        }
        assert!(InterfaceName::new("privnet0").is_ok());
        assert!(InterfaceName::new("a23456789012345").is_ok());
    }
}
