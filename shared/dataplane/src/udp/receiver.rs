//! Receiving: many messages per system call, each of which may hold many
//! datagrams of one path that the kernel put together (`UDP_GRO`).

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use privnet_tunnel::Outer;

use super::ancillary::Ancillary;
use super::{BATCH, message_header};
use crate::epoll::check;

/// The largest message there is, rounded up. Only the pages that messages really
/// fill become memory.
const MESSAGE: usize = 1 << 16;

/// About what one batch brings: enough to coalesce well, and little enough to be
/// still in the cache when it is worked on, and not to keep others waiting long.
const BATCH_BYTES: usize = 256 << 10;

const PAGE: usize = 4096;

/// Messages that are asked for at least, however large they are.
const LEAST: usize = 4;

/// Buffers to receive one batch into.
pub(crate) struct Receiver {
    buffers: Vec<u8>,
    /// Where the first message goes: where a page begins, since the kernel copies
    /// a little faster to there (4 % of a relay's CPU time).
    start: usize,
    names: Vec<MaybeUninit<libc::sockaddr_storage>>,
    ancillaries: Vec<Ancillary>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    /// How many messages to ask for, by the size and number of the last ones.
    wanted: usize,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        let buffers = vec![0; BATCH * MESSAGE + PAGE];
        Self {
            start: buffers.as_ptr().align_offset(PAGE),
            buffers,
            names: vec![MaybeUninit::zeroed(); BATCH],
            ancillaries: vec![Ancillary::EMPTY; BATCH],
            vectors: Vec::with_capacity(BATCH),
            headers: Vec::with_capacity(BATCH),
            wanted: BATCH,
        }
    }

    /// Receives what is there, at most a batch, and returns how many messages it is.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let wanted = self.wanted;
        // The pointers are made anew for each call, so that none outlives a borrow.
        self.vectors.clear();
        self.headers.clear();
        let pages = &mut self.buffers[self.start..];
        for buffer in pages.chunks_exact_mut(MESSAGE).take(wanted) {
            self.vectors.push(libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            });
        }
        let places = self.names.iter_mut().zip(&mut self.ancillaries);
        for ((name, ancillary), vector) in places.zip(self.vectors.iter_mut()) {
            let mut header = message_header(
                name.as_mut_ptr().cast(),
                size_of::<libc::sockaddr_storage>(),
                vector,
            );
            ancillary.attach(&mut header.msg_hdr, true);
            self.headers.push(header);
        }
        // SAFETY: every header points to its own name, ancillary data and vector,
        // every vector to its own buffer, all alive and borrowed by us for the call.
        let result = check(unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        });
        let count = match result {
            Ok(count) => count as usize,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return Ok(0);
            }
            Err(error) => return Err(error),
        };
        for (ancillary, header) in self.ancillaries.iter_mut().zip(&self.headers[..count]) {
            // Its type differs among C libraries.
            #[expect(clippy::unnecessary_cast, reason = "musl has another type here")]
            ancillary.set_length(header.msg_hdr.msg_controllen as usize);
        }
        // Not much more than there was: each one asked for costs something. More
        // are asked for as more come.
        let bytes: usize = (0..count).map(|place| self.length(place)).sum();
        let average = bytes.div_ceil(count.max(1)).max(1);
        let most = (BATCH_BYTES / average).min(2 * count);
        self.wanted = most.clamp(LEAST, BATCH);
        Ok(count)
    }

    /// A message of the last batch: what its outer headers said, the size of its
    /// datagrams, and the datagrams.
    pub(crate) fn message(&self, place: usize) -> Option<(Outer, usize, &[u8])> {
        // SAFETY: zeroed when made and only ever overwritten by the kernel with a
        // socket address, so every byte is initialised.
        let name = unsafe { self.names.get(place)?.assume_init_ref() };
        let (outer, segment) = self.ancillaries[place].received(socket_address(name)?.into());
        let length = self.length(place);
        let start = self.start + place * MESSAGE;
        let datagrams = &self.buffers[start..start + length];
        Some((outer, segment.unwrap_or(length), datagrams))
    }

    fn length(&self, place: usize) -> usize {
        let header = self.headers.get(place);
        header.map_or(0, |header| (header.msg_len as usize).min(MESSAGE))
    }
}

fn socket_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let storage = &raw const *storage;
    // SAFETY: a sockaddr_storage is large enough and aligned for any address, is
    // initialised whole, and its family says which it holds.
    unsafe {
        match libc::c_int::from((*storage).ss_family) {
            libc::AF_INET => {
                let address = &*storage.cast::<libc::sockaddr_in>();
                Some(SocketAddr::V4(SocketAddrV4::new(
                    Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)),
                    u16::from_be(address.sin_port),
                )))
            }
            libc::AF_INET6 => {
                let address = &*storage.cast::<libc::sockaddr_in6>();
                Some(SocketAddr::V6(SocketAddrV6::new(
                    Ipv6Addr::from(address.sin6_addr.s6_addr),
                    u16::from_be(address.sin6_port),
                    // The flow label is the path's, not the peer's.
                    0,
                    address.sin6_scope_id,
                )))
            }
            _ => None,
        }
    }
}
