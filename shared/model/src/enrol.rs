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

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::key::{PrivateKey, PublicKey};

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

/// Names the key that the caller will use next, and shows that he has its private
/// half: otherwise one spoke could name another's, and take its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextKey {
    /// It.
    pub public_key: PublicKey,
    /// What only the holders of its private half and of the hub's can know.
    pub possession: String,
}

/// The salt of the derivation. Another way to derive gets another number.
const POSSESSION: &[u8] = b"privnet next key v1";

impl NextKey {
    /// Names `next`; `used` is the caller's key in use. `None` with a hub's key that is
    /// nobody's.
    pub fn new(next: &PrivateKey, used: &PublicKey, hub: &PublicKey) -> Option<Self> {
        let public_key = next.public();
        Some(Self {
            possession: possession(&*next.shared_with(hub)?, used, &public_key, hub),
            public_key,
        })
    }

    /// Whether the caller, who is known by the key `used`, has the private half.
    pub fn is_held(&self, hub: &PrivateKey, used: &PublicKey) -> bool {
        // The comparison may take as long as it likes: every guess takes a message
        // through the tunnel, and few of those are heard.
        hub.shared_with(&self.public_key).is_some_and(|shared| {
            self.possession == possession(&shared, used, &self.public_key, &hub.public())
        })
    }
}

/// HKDF (RFC 5869) with SHA-256 over what both private halves have in common, for this
/// tunnel and this change alone.
fn possession(shared: &[u8; 32], used: &PublicKey, next: &PublicKey, hub: &PublicKey) -> String {
    let mut told = [0; 32];
    let keys = [used, next, hub].map(|key| key.as_bytes().as_slice());
    match Hkdf::<Sha256>::new(Some(POSSESSION), shared).expand_multi_info(&keys, &mut told) {
        Ok(()) => BASE64_STANDARD.encode(told),
        Err(_) => unreachable!("the limit is 255 hashes of output, and this is one"),
    }
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn only_who_has_the_private_half_can_name_a_key() {
        let [hub, other_hub, used, next, thief] =
            [1, 2, 3, 4, 5].map(|n| PrivateKey::from_random([n; 32]));
        let named = NextKey::new(&next, &used.public(), &hub.public()).unwrap();
        assert!(named.is_held(&hub, &used.public()));
        // In another tunnel, or at another hub, it says nothing.
        assert!(!named.is_held(&hub, &thief.public()));
        assert!(!named.is_held(&other_hub, &used.public()));
        // Whoever names another's key cannot know it.
        let forged = NextKey {
            public_key: next.public(),
            ..NextKey::new(&thief, &used.public(), &hub.public()).unwrap()
        };
        assert!(!forged.is_held(&hub, &used.public()));
    }

    #[test]
    fn a_key_that_is_nobodys_is_held_by_nobody() {
        let [hub, used] = [1, 3].map(|n| PrivateKey::from_random([n; 32]));
        let nobody = NextKey {
            public_key: PublicKey::from_bytes([0; 32]),
            possession: String::new(),
        };
        assert!(!nobody.is_held(&hub, &used.public()));
        assert_eq!(NextKey::new(&hub, &used.public(), &nobody.public_key), None);
    }
}
