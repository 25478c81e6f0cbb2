//! How large a packet the way to an address takes, as the kernel knows it: from its
//! interface, or from a router that once said "too big".

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::UdpSocket;
use tokio::time::sleep;

/// How long a router may take to say so.
const PATIENCE: Duration = Duration::from_millis(700);

/// The MTU towards the endpoint. One datagram of `size` bytes, headers included, is sent
/// there first, which must not be fragmented on the way: if it is too large, a router
/// that does its work says so. What it holds are zeros, which WireGuard ignores.
pub(crate) async fn mtu(endpoint: SocketAddr, size: u32) -> io::Result<u32> {
    let (any, headers): (IpAddr, u32) = match endpoint.ip() {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), 28),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), 48),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(endpoint).await?;
    let known = || match endpoint.ip() {
        IpAddr::V4(_) => sockopt::ip_mtu(&socket),
        IpAddr::V6(_) => sockopt::ipv6_mtu(&socket),
    };
    match endpoint.ip() {
        IpAddr::V4(_) => {
            sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::DO)?;
        }
        IpAddr::V6(_) => {
            sockopt::set_ipv6_mtu_discover(&socket, sockopt::Ipv6PathMtuDiscovery::DO)?;
        }
    }
    let payload = usize::try_from(size.saturating_sub(headers)).unwrap_or(0);
    match socket.send(&vec![0; payload]).await {
        Ok(_) => sleep(PATIENCE).await,
        // The kernel knows already that it does not fit, and how much does.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(known()?)
}
