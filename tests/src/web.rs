//! A web server that tells every caller the address it saw, and gives away any
//! number of bytes that look random but are the same every time.

use std::net::SocketAddr;

use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path};
use axum::routing::get;
use tokio::net::TcpListener;

/// Serves until the process ends. `GET /` answers with the caller's address,
/// `GET /bytes/N` with N bytes.
pub async fn serve(listen: SocketAddr) -> Result<()> {
    let app = Router::new()
        .route("/", get(address))
        .route("/bytes/{count}", get(bytes));
    let listener = TcpListener::bind(listen).await?;
    axum::serve(
        listener,
        app.into_make_service_with_connect_info::<SocketAddr>(),
    )
    .await?;
    Ok(())
}

async fn address(ConnectInfo(peer): ConnectInfo<SocketAddr>) -> String {
    format!("{}\n", peer.ip())
}

async fn bytes(Path(count): Path<u64>) -> Body {
    const BLOCK: usize = 1 << 20;
    let template: Vec<u8> = noise().take(BLOCK).collect();
    let mut sent = 0_u64;
    Body::from_stream(futures_util::stream::iter(std::iter::from_fn(move || {
        let left = usize::try_from(count - sent).unwrap_or(BLOCK).min(BLOCK);
        if left == 0 {
            return None;
        }
        // Every block differs, so that one in the wrong place shows in the checksum.
        let mut block = template.clone();
        block[..8].copy_from_slice(&sent.to_le_bytes());
        block.truncate(left);
        sent += left as u64;
        Some(Ok::<_, std::convert::Infallible>(block))
    })))
}

/// xorshift64: incompressible enough for a network.
fn noise() -> impl Iterator<Item = u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::from_fn(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some(state.to_be_bytes()[0])
    })
}
