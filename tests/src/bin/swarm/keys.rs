//! The keys of everybody in the swarm, which all its processes derive alike:
//! nothing secret passes between them, and none is of any use elsewhere.

use privnet_model::key::PrivateKey;

/// The hub's.
pub(crate) fn hub() -> PrivateKey {
    PrivateKey::from_random([0x48; 32])
}

/// The busy peer's.
pub(crate) fn busy() -> PrivateKey {
    PrivateKey::from_random([0x42; 32])
}

/// A peer's of the crowd.
pub(crate) fn peer(number: u32) -> PrivateKey {
    numbered(number, 0x50)
}

/// Somebody's who is no peer.
pub(crate) fn stranger(number: u32) -> PrivateKey {
    numbered(number, 0x58)
}

fn numbered(number: u32, fill: u8) -> PrivateKey {
    let mut bytes = [fill; 32];
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    PrivateKey::from_random(bytes)
}
