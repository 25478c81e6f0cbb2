//! The device's own key, with all that is derived from it: what proves that a
//! handshake message was meant for us, and the cookies that we hand out under load.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;
use privnet_model::key::{PrivateKey, PublicKey};

use crate::counters::Counter;

/// Length of a cookie reply.
pub(crate) const COOKIE_REPLY: usize = 64;

/// A device's private key, ready for use by all its workers.
pub struct Identity {
    secret: x25519::StaticSecret,
    public: x25519::PublicKey,
    /// For boringtun's peers, which insist on a limiter. It never limits: what
    /// reaches a peer has passed the two below.
    unlimited: Arc<RateLimiter>,
    /// Under load: its limit of zero asks every sender for a cookie.
    loaded: RateLimiter,
}

impl Identity {
    /// Takes the private key.
    pub fn new(private: &PrivateKey) -> Self {
        let secret = x25519::StaticSecret::from(*private.as_bytes());
        let public = x25519::PublicKey::from(&secret);
        Self {
            unlimited: Arc::new(RateLimiter::new(&public, u64::MAX)),
            loaded: RateLimiter::new(&public, 0),
            secret,
            public,
        }
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        PublicKey::from_bytes(self.public.to_bytes())
    }

    /// A fresh boringtun tunnel to a peer. It costs about 100 µs (a Diffie-Hellman).
    pub(crate) fn tunnel_to(
        &self,
        peer: &PublicKey,
        preshared: Option<[u8; 32]>,
        bits: u32,
    ) -> Tunn {
        Tunn::new(
            self.secret.clone(),
            x25519::PublicKey::from(*peer.as_bytes()),
            preshared,
            // Persistent keepalives are ours: boringtun cannot change theirs later,
            // and lets a session that carries nothing else expire.
            None,
            bits,
            Some(Arc::clone(&self.unlimited)),
        )
    }

    /// Checks the MACs of a handshake message: the first always, the second (the
    /// cookie's) under load. Costs a hash or two, no Diffie-Hellman.
    pub(crate) fn verify(&self, from: IpAddr, message: &[u8], under_load: bool) -> Verified {
        let limiter = if under_load {
            &self.loaded
        } else {
            &self.unlimited
        };
        let mut reply = [0; COOKIE_REPLY];
        match limiter.verify_packet(Some(from), message, &mut reply) {
            Ok(_) => Verified::Yes,
            Err(TunnResult::WriteToNetwork(_)) => Verified::NeedsCookie(reply),
            Err(_) => Verified::No(Counter::WrongMac),
        }
    }

    /// Who sent an initiation: one Diffie-Hellman. Not yet proof, since the
    /// message may be a replay; the peer's own state decides that.
    pub(crate) fn sender(&self, initiation: &[u8]) -> Option<PublicKey> {
        match Tunn::parse_incoming_packet(initiation) {
            Ok(Packet::HandshakeInit(packet)) => {
                parse_handshake_anon(&self.secret, &self.public, &packet)
                    .ok()
                    .map(|half| PublicKey::from_bytes(half.peer_static_public))
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("public", &self.public_key())
            .finish_non_exhaustive()
    }
}

/// What the MACs of a handshake message say.
#[derive(Debug)]
pub(crate) enum Verified {
    /// Meant for us and, under load, from the address it claims.
    Yes,
    /// Meant for us, but the sender must first prove its address with this cookie.
    NeedsCookie([u8; COOKIE_REPLY]),
    /// Not meant for us.
    No(Counter),
}
