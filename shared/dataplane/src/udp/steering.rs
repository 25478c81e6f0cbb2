//! Which of the sockets on one port a datagram goes to: its peer's worker's. The
//! kernel finds it by a classic BPF program, from the receiver index in the
//! message, so a peer that roams stays with its worker (`PeerIndex::owner` does
//! the same arithmetic). An initiation names no receiver: it goes by its sender's
//! address, so that one address is always limited by one worker.

use std::io;
use std::os::fd::AsRawFd;

use socket2::Socket;

use crate::epoll::check;

/// `SKF_NET_OFF` of linux/filter.h: offsets from here on are into the IP header.
const NETWORK_HEADER: u32 = -0x10_0000_i32 as u32;

/// Attaches the program to a group of sockets, of which this is one. A socket's
/// number is its place in the order in which they were bound.
pub(super) fn attach(socket: &Socket, workers: usize) -> io::Result<()> {
    let mut program = program(workers as u32);
    let filter = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the filter points to a program of the length told, alive for the
    // call; the kernel copies and checks it.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// A load beyond the end of a datagram ends the program with 0: the first worker.
fn program(workers: u32) -> [libc::sock_filter; 20] {
    [
        // By the message's type: to "types 3 and 4", "type 2" or "anything else".
        load_byte(0),
        jump_if(4, 2, 0),
        jump_if(3, 1, 0),
        jump_if(2, 5, 11),
        // Types 3 and 4 have the receiver index at 4. It is little-endian; its
        // lowest byte is boringtun's, the next two are the slot.
        load_byte(6),
        instruction(libc::BPF_ALU | libc::BPF_LSH, 8),
        instruction(libc::BPF_MISC | libc::BPF_TAX, 0),
        load_byte(5),
        instruction(libc::BPF_JMP | libc::BPF_JA, 4),
        // Type 2 has it at 8.
        load_byte(10),
        instruction(libc::BPF_ALU | libc::BPF_LSH, 8),
        instruction(libc::BPF_MISC | libc::BPF_TAX, 0),
        load_byte(9),
        // The slot whole; to "modulo workers".
        instruction(libc::BPF_ALU | libc::BPF_OR | libc::BPF_X, 0),
        instruction(libc::BPF_JMP | libc::BPF_JA, 3),
        // Anything else: the IPv4 source, or the second half of the IPv6 source's
        // network: both lie at 12. Multiplied, so that neighbours spread (Knuth),
        // which they do best in the upper half.
        instruction(
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            NETWORK_HEADER + 12,
        ),
        instruction(libc::BPF_ALU | libc::BPF_MUL, 2_654_435_761),
        instruction(libc::BPF_ALU | libc::BPF_RSH, 16),
        // Modulo workers.
        instruction(libc::BPF_ALU | libc::BPF_MOD, workers),
        instruction(libc::BPF_RET | libc::BPF_A, 0),
    ]
}

fn load_byte(offset: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, offset)
}

/// Compares with `value` and skips so many instructions if equal, or if not.
fn jump_if(value: u32, equal: u8, otherwise: u8) -> libc::sock_filter {
    libc::sock_filter {
        jt: equal,
        jf: otherwise,
        ..instruction(libc::BPF_JMP | libc::BPF_JEQ, value)
    }
}

fn instruction(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::io::Read;
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    use privnet_model::offload::Offloads;
    use privnet_tunnel::PeerIndex;

    use super::super::{UdpSockets, bind};
    use crate::offloads::Switches;

    const WORKERS: usize = 3;

    /// A message of that type for the peer in that slot.
    fn message(kind: u8, slot: u16) -> Vec<u8> {
        let receiver = PeerIndex::new(slot, 7).bits() << 8 | 0x5a;
        let offset = if kind == 2 { 8 } else { 4 };
        let mut bytes = vec![0xee; 92];
        bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        bytes[offset..offset + 4].copy_from_slice(&receiver.to_le_bytes());
        bytes
    }

    /// Which worker's socket gets it.
    fn taker(sockets: &[UdpSockets], v6: bool) -> usize {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            for (number, worker) in sockets.iter().enumerate() {
                let mut socket = if v6 {
                    worker.v6.as_ref().unwrap()
                } else {
                    &worker.v4
                };
                if socket.read(&mut [0; 256]).is_ok() {
                    return number;
                }
            }
        }
        panic!("no worker got it");
    }

    #[test]
    fn a_datagram_goes_to_its_peers_worker_wherever_it_comes_from() {
        let (port, sockets) = bind(0, WORKERS, None, &Switches::new(Offloads::NONE)).unwrap();
        for (v6, host) in [(false, "127.0.0.1"), (true, "::1")] {
            for kind in [2, 3, 4] {
                for slot in [0, 1, 2, 3, 255, 256, 257, 65_535] {
                    // Another port each time: a peer that roams.
                    let sender = UdpSocket::bind((host, 0)).unwrap();
                    sender.send_to(&message(kind, slot), (host, port)).unwrap();
                    let owner = PeerIndex::new(slot, 0).owner(WORKERS);
                    assert_eq!(
                        taker(&sockets, v6),
                        owner,
                        "type {kind}, slot {slot}, {host}"
                    );
                }
            }
        }
    }

    #[test]
    fn initiations_of_one_address_go_to_one_worker_and_those_of_many_to_all() {
        let (port, sockets) = bind(0, WORKERS, None, &Switches::new(Offloads::NONE)).unwrap();
        let mut takers = std::collections::BTreeSet::new();
        for host in 1..=32 {
            let address = format!("127.0.0.{host}");
            let mut of_address = std::collections::BTreeSet::new();
            for filler in 0..4 {
                let sender = UdpSocket::bind((address.as_str(), 0)).unwrap();
                let mut initiation = vec![filler; 148];
                initiation[..4].copy_from_slice(&[1, 0, 0, 0]);
                sender.send_to(&initiation, ("127.0.0.1", port)).unwrap();
                of_address.insert(taker(&sockets, false));
            }
            assert_eq!(of_address.len(), 1, "{address}");
            takers.append(&mut of_address);
        }
        assert_eq!(takers.len(), WORKERS);
    }
}
