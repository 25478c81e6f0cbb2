//! The data plane's hands: the TUN device, the UDP sockets, the worker threads
//! and the WireGuard userspace API's socket. What to do with a packet is decided
//! in `privnet-tunnel`, which does no IO; what peers there should be, by whoever
//! holds the [`Device`]. Nothing here knows of EC2, of VPCs or of routes.
//!
//! This crate is the only one with unsafe code: each system call that the
//! standard library lacks has one small wrapper here.

#![expect(
    unsafe_code,
    reason = "batched socket calls, TUN ioctls and epoll have no safe form in std"
)]

mod control;
mod device;
mod epoll;
mod error;
mod offloads;
mod prefixes;
mod tun;
mod uapi_socket;
mod udp;
mod whereabouts;
mod worker;

pub use device::{Device, DeviceConfig, UapiAccess};
pub use error::DeviceError;
pub use privnet_tunnel::{Counter, DeviceCounters};
pub use tun::open_plain as open_plain_tun;
