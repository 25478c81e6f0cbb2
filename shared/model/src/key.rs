//! WireGuard keys: 32 bytes, base64 in files and tags, hex on the userspace API.
//!
//! Secrets are zeroized when dropped, and neither `Debug` nor `Display` shows them.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Why a text is not a key. It never repeats the text: it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64 at all.
    #[error("not base64")]
    NotBase64,
    /// Not lower- or upper-case hex digits.
    #[error("not 64 hex digits")]
    NotHex,
    /// Decoded, but of another length than a key has.
    #[error("{0} bytes instead of 32")]
    Length(usize),
    /// All bytes are zero, which no generated key is.
    #[error("all zero")]
    Zero,
    /// A point of small order: its Diffie-Hellman with any key is zero, so whoever
    /// likes could speak as its owner.
    #[error("a point of small order, which is nobody's key")]
    SmallOrder,
}

/// A WireGuard public key: what names a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key of these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Parses the 64 hex digits of the WireGuard userspace API.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        decode_hex(text).map(Self)
    }

    /// The key as 64 hex digits.
    pub fn to_hex(&self) -> String {
        encode_hex(&self.0)
    }

    /// Whether it is one of the points of order 1, 2, 4 or 8 of the curve or of
    /// its twist, in any of their encodings (RFC 7748 section 7; D. J. Bernstein,
    /// "Curve25519: new Diffie-Hellman speed records", lists them). The highest
    /// bit does not count (RFC 7748 section 5).
    fn has_small_order(&self) -> bool {
        let mut bytes = self.0;
        bytes[31] &= 127;
        SMALL_ORDER.contains(&bytes)
    }
}

/// 0, 1, the two points of order 8, and p - 1, p and p + 1 for p = 2^255 - 19.
const SMALL_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    at_ends(1, 0, 0),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ],
    at_ends(0xec, 0xff, 0x7f),
    at_ends(0xed, 0xff, 0x7f),
    at_ends(0xee, 0xff, 0x7f),
];

const fn at_ends(first: u8, between: u8, last: u8) -> [u8; 32] {
    let mut bytes = [between; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = decode_base64(text)?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(KeyError::Zero);
        }
        let key = Self(*bytes);
        if key.has_small_order() {
            return Err(KeyError::SmallOrder);
        }
        Ok(key)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|error| serde::de::Error::custom(format!("public key: {error}")))
    }
}

/// A WireGuard private key.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; 32]);

impl PrivateKey {
    /// The key made of 32 random bytes, clamped as RFC 7748 section 5 says
    /// (and as `wg genkey` does).
    pub fn from_random(mut bytes: [u8; 32]) -> Self {
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        let key = Self(bytes);
        bytes.zeroize();
        key
    }

    /// The key's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// The secret that the holders of these two keys have in common (X25519); none with
    /// a key that is nobody's.
    pub fn shared_with(&self, other: &PublicKey) -> Option<Zeroizing<[u8; 32]>> {
        let secret = x25519_dalek::StaticSecret::from(self.0);
        let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(*other.as_bytes()));
        shared
            .was_contributory()
            .then(|| Zeroizing::new(shared.to_bytes()))
    }

    /// Parses the 64 hex digits of the WireGuard userspace API.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        decode_hex(text).map(Self)
    }

    /// The key as 64 hex digits, zeroized when dropped.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(encode_hex(&self.0))
    }

    /// The key as base64, zeroized when dropped: what a key file holds.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64_STANDARD.encode(self.0))
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = decode_base64(text)?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(KeyError::Zero);
        }
        Ok(Self(*bytes))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

/// A preshared key: WireGuard's optional second factor between two peers.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; 32]);

impl PresharedKey {
    /// The key of these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The secret that the holders of these two keys have in common (X25519); none with
    /// a key that is nobody's.
    pub fn shared_with(&self, other: &PublicKey) -> Option<Zeroizing<[u8; 32]>> {
        let secret = x25519_dalek::StaticSecret::from(self.0);
        let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(*other.as_bytes()));
        shared
            .was_contributory()
            .then(|| Zeroizing::new(shared.to_bytes()))
    }

    /// Parses the 64 hex digits of the WireGuard userspace API.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        decode_hex(text).map(Self)
    }

    /// The key as 64 hex digits, zeroized when dropped.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(encode_hex(&self.0))
    }
}

impl FromStr for PresharedKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode_base64(text).map(|bytes| Self(*bytes))
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(…)")
    }
}

fn decode_base64(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let bytes = Zeroizing::new(
        BASE64_STANDARD
            .decode(text.trim())
            .map_err(|_| KeyError::NotBase64)?,
    );
    let array: [u8; 32] = bytes
        .as_slice()
        .try_into()
        .map_err(|_| KeyError::Length(bytes.len()))?;
    Ok(Zeroizing::new(array))
}

fn decode_hex(text: &str) -> Result<[u8; 32], KeyError> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(KeyError::NotHex);
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16).ok_or(KeyError::NotHex)?;
        let low = (pair[1] as char).to_digit(16).ok_or(KeyError::NotHex)?;
        *byte = (high << 4 | low) as u8;
    }
    Ok(bytes)
}

fn encode_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    // Bob's key pair of RFC 7748 section 6.1.
    const PRIVATE: &str = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb";

    #[test]
    fn base64_and_hex_round_trip() {
        let private = PrivateKey::from_hex(PRIVATE).unwrap();
        let public = private.public();
        assert_eq!(public.to_string().parse::<PublicKey>().unwrap(), public);
        assert_eq!(PublicKey::from_hex(&public.to_hex()).unwrap(), public);
        let again: PrivateKey = private.to_base64().parse().unwrap();
        assert_eq!(again.public(), public);
    }

    #[test]
    fn the_public_half_is_that_of_rfc_7748() {
        let private = PrivateKey::from_hex(PRIVATE).unwrap();
        assert_eq!(
            private.public().to_hex(),
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
        );
    }

    #[test]
    fn secrets_do_not_show_in_debug() {
        let private = PrivateKey::from_random([7; 32]);
        assert_eq!(format!("{private:?}"), "PrivateKey(…)");
        let preshared = PresharedKey::from_bytes([7; 32]);
        assert_eq!(format!("{preshared:?}"), "PresharedKey(…)");
    }

    #[test]
    fn what_is_not_a_key_is_refused_with_the_reason() {
        assert_eq!("%%%".parse::<PublicKey>(), Err(KeyError::NotBase64));
        assert_eq!("AAAA".parse::<PublicKey>(), Err(KeyError::Length(3)));
        let zero = BASE64_STANDARD.encode([0; 32]);
        assert_eq!(zero.parse::<PublicKey>(), Err(KeyError::Zero));
        assert_eq!(PublicKey::from_hex("zz"), Err(KeyError::NotHex));
    }

    /// That these are such points is what x25519 itself says of them.
    #[test]
    fn a_point_of_small_order_is_nobodys_key() {
        let secret = x25519_dalek::StaticSecret::from([7; 32]);
        for point in SMALL_ORDER {
            for high_bit in [0, 128] {
                let mut bytes = point;
                bytes[31] |= high_bit;
                let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(bytes));
                assert!(!shared.was_contributory(), "{bytes:x?}");
                let refused = BASE64_STANDARD.encode(bytes).parse::<PublicKey>();
                assert!(refused.is_err(), "{bytes:x?}");
            }
        }
        let refused = BASE64_STANDARD.encode(SMALL_ORDER[1]).parse::<PublicKey>();
        assert_eq!(refused, Err(KeyError::SmallOrder));
    }

    #[test]
    fn a_generated_key_is_clamped() {
        let key = PrivateKey::from_random([255; 32]);
        assert_eq!(key.as_bytes()[0], 248);
        assert_eq!(key.as_bytes()[31], 127);
    }
}
