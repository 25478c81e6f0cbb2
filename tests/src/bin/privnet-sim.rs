//! The servers of the simulated world, one a process: each runs in the
//! namespace of the host that it is part of.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use privnet_tests::{fault_proxy, imds, web};

/// A part of the simulated world
#[derive(Debug, Parser)]
enum Part {
    /// The instance metadata service
    Imds {
        /// The file with what it tells
        file: PathBuf,
        /// Where it listens
        #[arg(long, default_value_t = imds::socket())]
        listen: SocketAddr,
    },
    /// A web server that answers with the address it saw
    Web {
        /// Where it listens
        listen: SocketAddr,
    },
    /// A proxy that breaks the EC2 API on demand
    Proxy {
        /// Where it listens
        listen: SocketAddr,
        /// The API behind it, as a URL
        upstream: String,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Part::parse() {
        Part::Imds { file, listen } => imds::serve(file, listen).await,
        Part::Web { listen } => web::serve(listen).await,
        Part::Proxy { listen, upstream } => fault_proxy::serve(listen, upstream).await,
    }
}
