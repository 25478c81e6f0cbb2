//! Ancillary data of datagrams (`cmsg(3)`): what the kernel is told, or tells,
//! beside the bytes. Written and read as plain bytes, so that nothing here is
//! unsafe. The layout is that of 64-bit Linux, the only platform there is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use privnet_tunnel::{Ecn, Outer, Path};

/// `struct cmsghdr`: length, level, type.
const HEADER: usize = 16;

const _: () = assert!(size_of::<libc::cmsghdr>() == HEADER && align_of::<libc::cmsghdr>() == 8);

/// Room for the ancillary data of one system call's one message.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Ancillary {
    bytes: [u8; Self::CAPACITY],
    length: usize,
}

impl Ancillary {
    /// More than all that we ask for: a segment size, an address, a traffic class.
    const CAPACITY: usize = 128;

    pub(super) const EMPTY: Self = Self {
        bytes: [0; Self::CAPACITY],
        length: 0,
    };

    /// What a message on this path is sent with. `segment` cuts it into datagrams
    /// of that size.
    pub(super) fn for_sending(outer: &Outer, segment: Option<u16>) -> Self {
        let mut ancillary = Self::EMPTY;
        if let Some(segment) = segment {
            ancillary.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        if outer.ecn != Ecn::NOT_ECT {
            let class = i32::from(outer.ecn.bits()).to_ne_bytes();
            if outer.path.remote.is_ipv4() {
                ancillary.push(libc::IPPROTO_IP, libc::IP_TOS, &class);
            } else {
                ancillary.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class);
            }
        }
        match outer.path.local {
            Some(IpAddr::V4(local)) => {
                // struct in_pktinfo: interface, local address, header's address.
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&local.octets());
                ancillary.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V6(local)) => {
                // struct in6_pktinfo: address, interface.
                let mut info = [0; 20];
                info[..16].copy_from_slice(&local.octets());
                ancillary.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        ancillary
    }

    /// What a received message says: its path and congestion, and the size of the
    /// datagrams that it was put together from, if it was.
    pub(super) fn received(&self, path: Path) -> (Outer, Option<usize>) {
        let mut outer = Outer::from(path);
        let mut segment = None;
        for (level, kind, data) in self.messages() {
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    segment = integer(data).and_then(|size| usize::try_from(size).ok());
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => {
                    if let Some(class) = data.first() {
                        outer.ecn = Ecn::from_traffic_class(*class);
                    }
                }
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    if let Some(class) = integer(data) {
                        outer.ecn = Ecn::from_traffic_class(class as u8);
                    }
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let local = data.get(4..8).and_then(|octets| octets.try_into().ok());
                    outer.path.local = local.map(|octets: [u8; 4]| Ipv4Addr::from(octets).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let local = data.get(..16).and_then(|octets| octets.try_into().ok());
                    outer.path.local = local.map(|octets: [u8; 16]| Ipv6Addr::from(octets).into());
                }
                _ => {}
            }
        }
        (outer, segment.filter(|size| *size > 0))
    }

    /// Points a message's header here: to what there is to send, or to all the
    /// room there is to receive into.
    pub(super) fn attach(&mut self, header: &mut libc::msghdr, receiving: bool) {
        header.msg_control = self.bytes.as_mut_ptr().cast();
        header.msg_controllen = if receiving {
            Self::CAPACITY as _
        } else {
            self.length as _
        };
    }

    /// Takes note of how much the kernel has written.
    pub(super) fn set_length(&mut self, length: usize) {
        self.length = length.min(Self::CAPACITY);
    }

    fn push(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        let start = self.length;
        let end = start + HEADER + data.len();
        let Some(room) = self.bytes.get_mut(start..end) else {
            return;
        };
        room[..8].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        room[8..12].copy_from_slice(&level.to_ne_bytes());
        room[12..16].copy_from_slice(&kind.to_ne_bytes());
        room[HEADER..].copy_from_slice(data);
        self.length = end.next_multiple_of(8);
    }

    fn messages(&self) -> impl Iterator<Item = (libc::c_int, libc::c_int, &[u8])> {
        let mut rest = &self.bytes[..self.length];
        std::iter::from_fn(move || {
            let header = rest.get(..HEADER)?;
            let length = usize::try_from(u64::from_ne_bytes(header[..8].try_into().ok()?)).ok()?;
            let level = integer(&header[8..])?;
            let kind = integer(&header[12..])?;
            let data = rest.get(HEADER..length)?;
            rest = rest.get(length.next_multiple_of(8)..).unwrap_or_default();
            Some((level, kind, data))
        })
    }
}

fn integer(data: &[u8]) -> Option<libc::c_int> {
    Some(libc::c_int::from_ne_bytes(data.get(..4)?.try_into().ok()?))
}
