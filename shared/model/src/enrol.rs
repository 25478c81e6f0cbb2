//! What a spoke and its hub tell each other inside the tunnel: HTTP with JSON
//! bodies, on an address that only leads through it.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/me` | [`Me`] |
//! | `POST /v1/proof` with [`Proof`] | [`Me`] |
//! | `POST /v1/next-key` with [`NextKey`] | [`Me`] |
//!
//! Nobody says who they are: WireGuard has checked the source address. Anything
//! else, and any failure, is answered with an [`ApiError`](crate::admin::ApiError)
//! and a fitting HTTP status.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use crate::key::PublicKey;

/// The hub's address inside its tunnels: link-local (RFC 3927), so it is in no
/// VPC and no privnet, and clear of those that AWS uses (169.254.0.0/22,
/// 169.254.16.0/20, 169.254.168.0/22 and above).
pub const HUB_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 1);
/// The TCP port on it.
pub const HUB_PORT: u16 = 51821;
/// Both.
pub const HUB: SocketAddrV4 = SocketAddrV4::new(HUB_ADDRESS, HUB_PORT);

/// The longest request body: a proof with a session token, which is 2 KB at most
/// today ("the size is not fixed", says STS).
pub const MOST_REQUEST_BYTES: usize = 16 * 1024;

/// The caller as the hub knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Me {
    /// The key of the tunnel that the request came through.
    pub public_key: PublicKey,
    /// The key that the caller named as its next one.
    pub next_key: Option<PublicKey>,
    /// Whether the hub wants to know which instance this is.
    pub proof: ProofState,
}

/// Whether a spoke has proved which instance it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofState {
    /// The hub does not ask for it.
    NotWanted,
    /// The hub asks for it: nothing goes through this tunnel until it is there.
    Wanted,
    /// It has.
    Accepted,
}

/// Names the key that the caller will use next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextKey {
    /// It.
    pub public_key: PublicKey,
}

/// A question to STS, signed by the caller and to be asked by the hub: who is it
/// that signed this? The keys of both ends of the tunnel are among what is signed,
/// so it is worth nothing in another tunnel.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// Where it is to be asked.
    pub url: String,
    /// How: POST.
    pub method: String,
    /// Names in lower case, each once; `host` is the URL's.
    pub headers: Vec<(String, String)>,
    /// The question.
    pub body: String,
}

/// The header with the public key of the spoke.
pub const SPOKE_KEY_HEADER: &str = "x-privnet-public-key";
/// The header with the public key of the hub.
pub const HUB_KEY_HEADER: &str = "x-privnet-hub-key";
/// The one question that a proof may ask.
pub const QUESTION: &str = "Action=GetCallerIdentity&Version=2011-06-15";
/// How a question is written.
pub const QUESTION_TYPE: &str = "application/x-www-form-urlencoded";

/// It holds a session token, which shows nowhere.
impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proof({} …)", self.method)
    }
}
