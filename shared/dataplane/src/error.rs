//! Why a device could not be opened or changed, in words that tell an operator
//! what to do.

use std::io;
use std::path::PathBuf;

use privnet_tunnel::MAX_PEERS;

/// What went wrong with a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The kernel would not take that name.
    #[error("{name:?} cannot be an interface name: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no TUN driver.
    #[error("/dev/net/tun: there is no TUN device; is the tun module loaded?")]
    NoTun,
    /// The process lacks a capability.
    #[error("not permitted to make the interface {name}: CAP_NET_ADMIN is needed (or root)")]
    NotPermitted {
        /// The interface.
        name: String,
    },
    /// An interface of that name exists.
    #[error("an interface named {name} exists already")]
    NameInUse {
        /// The interface.
        name: String,
    },
    /// Another program listens on the port.
    #[error("UDP port {port} is in use by another program")]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// Another process answers on the device's WireGuard socket.
    #[error("{}: another process answers on this socket", .0.display())]
    SocketInUse(PathBuf),
    /// The device has all the peers it can have.
    #[error("no room for another peer: a device has at most {MAX_PEERS}")]
    TooManyPeers,
    /// The device is closed, or its interface was deleted.
    #[error("the device is closed")]
    Closed,
    /// Anything else that the operating system refused.
    #[error("{operation}")]
    System {
        /// What was tried.
        operation: String,
        /// The refusal.
        source: io::Error,
    },
}

impl DeviceError {
    pub(crate) fn system(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::System { operation, source }
    }
}
