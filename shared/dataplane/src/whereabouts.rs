//! Where the interface is now: anybody may rename it, or move it to another
//! network namespace while our sockets stay. There it cannot be asked for by name;
//! its TUN queue still knows it, and the kernel answers about other namespaces
//! by netlink. It only asks, and needs no privilege that making the interface
//! did not need.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::epoll::check;

// `<linux/net_namespace.h>`
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const NETNSA_NSID_NOT_ASSIGNED: i32 = -1;

/// The kernel answers at once; this bounds what a fault there costs.
const PATIENCE: Duration = Duration::from_millis(100);

/// Where an interface is.
#[derive(Debug)]
pub(crate) struct Whereabouts {
    /// Its name there, ended by a zero.
    pub(crate) name: [u8; libc::IFNAMSIZ],
    /// The namespace, where it is not that of the socket.
    namespace: Option<OwnedFd>,
}

impl Whereabouts {
    /// Finds the interface of a TUN queue, as seen from a socket.
    pub(crate) fn of(queue: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: ifreq is plain data, for which all zero is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: the request is a valid ifreq for the call, as TUNGETIFF wants.
        check(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNGETIFF, &mut request) })?;
        let theirs = namespace(queue, libc::TUNGETDEVNETNS);
        let ours = namespace(socket, libc::SIOCGSKNS as libc::Ioctl);
        let elsewhere = match (theirs, ours) {
            (Ok(theirs), Ok(ours)) => (identity(&theirs)? != identity(&ours)?).then_some(theirs),
            // Linux before 5.5, or not ours to know: then it is where it was.
            _ => None,
        };
        Ok(Self {
            name: request.ifr_name.map(|byte| byte as u8),
            namespace: elsewhere,
        })
    }

    /// The interface's MTU, where it is in another namespace; `None` here.
    pub(crate) fn mtu_elsewhere(&self) -> io::Result<Option<usize>> {
        match &self.namespace {
            Some(namespace) => mtu_in(namespace.as_fd(), &self.name).map(Some),
            None => Ok(None),
        }
    }
}

/// The namespace of a descriptor, by one of the requests that return it.
fn namespace(of: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<OwnedFd> {
    // SAFETY: both requests take no argument.
    let namespace = check(unsafe { libc::ioctl(of.as_raw_fd(), request, 0) })?;
    // SAFETY: both requests return a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
}

fn identity(namespace: &OwnedFd) -> io::Result<(u64, u64)> {
    let metadata = File::from(namespace.try_clone()?).metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Asks for the MTU of an interface of another namespace.
fn mtu_in(namespace: BorrowedFd<'_>, name: &[u8; libc::IFNAMSIZ]) -> io::Result<usize> {
    let socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW.cloexec(),
        Some(Protocol::from(libc::NETLINK_ROUTE)),
    )?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let number = number_of(&socket, namespace)?;
    let mut body = vec![0; size_of::<libc::ifinfomsg>()];
    add_attribute(&mut body, libc::IFLA_TARGET_NETNSID, &number.to_ne_bytes());
    add_attribute(&mut body, libc::IFLA_IFNAME, name);
    let answer = ask(&socket, libc::RTM_GETLINK, 0, &body)?;
    let mtu = attribute(&answer, size_of::<libc::ifinfomsg>(), libc::IFLA_MTU)
        .ok_or_else(|| io::Error::other("the kernel told no MTU"))?;
    usize::try_from(u32::from_ne_bytes(mtu)).map_err(io::Error::other)
}

/// The number by which our namespace knows another. The kernel gives it one when
/// an interface moves there from here; one that went on from there needs its own.
fn number_of(socket: &Socket, namespace: BorrowedFd<'_>) -> io::Result<i32> {
    // An empty `rtgenmsg`, padded.
    let mut body = vec![0; 4];
    add_attribute(&mut body, NETNSA_FD, &namespace.as_raw_fd().to_ne_bytes());
    let known = || -> io::Result<i32> {
        let answer = ask(socket, libc::RTM_GETNSID, 0, &body)?;
        Ok(attribute(&answer, 4, NETNSA_NSID).map_or(NETNSA_NSID_NOT_ASSIGNED, i32::from_ne_bytes))
    };
    let number = known()?;
    if number != NETNSA_NSID_NOT_ASSIGNED {
        return Ok(number);
    }
    let mut any = body.clone();
    add_attribute(
        &mut any,
        NETNSA_NSID,
        &NETNSA_NSID_NOT_ASSIGNED.to_ne_bytes(),
    );
    match ask(socket, libc::RTM_NEWNSID, libc::NLM_F_ACK, &any) {
        Ok(_) => known(),
        // Somebody was faster.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => known(),
        Err(error) => Err(error),
    }
}

/// Sends a request and returns the body of its answer.
fn ask(mut socket: &Socket, kind: u16, flags: i32, body: &[u8]) -> io::Result<Vec<u8>> {
    const HEADER: usize = size_of::<libc::nlmsghdr>();
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
    // Sequence number and sender: there is one request at a time, from one socket.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(body);
    socket.write_all(&message)?;
    let mut answer = vec![0; 1 << 15];
    let length = socket.read(&mut answer)?;
    answer.truncate(length);
    let kind = number_at(&answer, 4).map(u16::from_ne_bytes);
    let body = answer.split_off(HEADER.min(length));
    if kind == Some(libc::NLMSG_ERROR as u16) {
        return match number_at(&body, 0).map(i32::from_ne_bytes) {
            Some(0) => Ok(Vec::new()),
            Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        };
    }
    Ok(body)
}

/// Adds an attribute and the padding up to the next.
fn add_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // A name or a number: never longer than some bytes.
    let length = (ATTRIBUTE_HEADER + value.len()) as u16;
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

const ATTRIBUTE_HEADER: usize = 4;

/// The value of the attribute of that kind, behind a header of that many bytes.
fn attribute<const N: usize>(body: &[u8], header: usize, wanted: u16) -> Option<[u8; N]> {
    let mut rest = body.get(header..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(number_at(rest, 0)?));
        let kind = u16::from_ne_bytes(number_at(rest, 2)?);
        let value = rest.get(ATTRIBUTE_HEADER..length)?;
        if kind == wanted {
            return number_at(value, 0);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn number_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_behind_others_and_no_length_leads_astray() {
        let mut body = vec![0; 4];
        add_attribute(&mut body, 3, b"wg0\0");
        add_attribute(&mut body, 7, b"odd");
        add_attribute(&mut body, 4, &1420_u32.to_ne_bytes());
        assert_eq!(attribute(&body, 4, 4), Some(1420_u32.to_ne_bytes()));
        assert_eq!(attribute::<4>(&body, 4, 5), None);
        for end in 0..body.len() {
            assert_eq!(attribute::<4>(&body[..end], 4, 4), None);
        }
        for length in [0_u16, 1, 3, u16::MAX] {
            body[4..6].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(attribute::<4>(&body, 4, 4), None);
        }
    }
}
