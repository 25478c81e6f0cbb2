//! The way to the far end, tried: outside the tunnel for its MTU, inside by pings.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use privnet_host::Host;
use privnet_model::doctor::Finding;
use privnet_reconcile::doctor::Known;
use privnet_reconcile::doctor::peer::{self, Pings};
use socket2::Type;
use surge_ping::{Client, Config, PingIdentifier, PingSequence};

use super::{told, within};

/// What pings and routers may take.
const PATIENCE: Duration = Duration::from_millis(2500);
/// How long one ping's answer is waited for; each size has two tries.
const ANSWER: Duration = Duration::from_secs(1);
/// The headers of IPv4 and of ICMP.
const HEADERS: u16 = 28;

/// What the way to an endpoint takes.
pub async fn path_mtu(endpoint: SocketAddr, mtu: u16) -> Finding {
    let size = u32::from(mtu)
        + match endpoint.ip() {
            IpAddr::V4(_) => 60,
            IpAddr::V6(_) => 80,
        };
    let asked = async { told(Host::new().path_mtu(endpoint, size).await) };
    peer::path_mtu(endpoint, &within(PATIENCE, asked).await, mtu)
}

/// Whether packets of the tunnel's MTU cross it to this address inside.
pub async fn full_size(interface: &str, address: Ipv4Addr, mtu: u16) -> Finding {
    let pings = within(PATIENCE, pings(interface, address, mtu)).await;
    peer::full_size(&pings, mtu)
}

async fn pings(interface: &str, address: Ipv4Addr, mtu: u16) -> Known<Pings> {
    let config = Config::builder()
        .sock_type_hint(Type::RAW)
        .interface(interface)
        .build();
    let client = told(Client::new(&config)).map_err(|why| format!("no ping can be sent: {why}"))?;
    let small = ping(&client, address, 64 - HEADERS);
    let full = ping(&client, address, mtu.saturating_sub(HEADERS));
    let (small, full) = tokio::join!(small, full);
    Ok(Pings { small, full })
}

async fn ping(client: &Client, address: Ipv4Addr, payload: u16) -> bool {
    let payload = vec![0; usize::from(payload)];
    let mut pinger = client
        .pinger(address.into(), PingIdentifier(rand::random()))
        .await;
    pinger.timeout(ANSWER);
    for sequence in 0..2 {
        if pinger.ping(PingSequence(sequence), &payload).await.is_ok() {
            return true;
        }
    }
    false
}

/// Whether a target of the self-test takes connections from this host.
pub async fn target(target: SocketAddr) -> Finding {
    let connected = async { told(tokio::net::TcpStream::connect(target).await.map(drop)) };
    peer::target(target, &within(PATIENCE, connected).await)
}
