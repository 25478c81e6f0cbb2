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
