//! Preshared keys of IKE: text that two administrators agreed upon, or that is
//! derived for a spoke.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::IkeId;
use crate::secret::FleetSecret;

/// What the fleet's secret is expanded for here. Another way to derive gets another
/// number.
const SALT: &[u8] = b"privnet IPsec preshared key v1";

/// The fewest bytes that are taken. Whoever records one handshake as an attacker
/// in the middle can try keys at his leisure; AWS takes no fewer either.
const LEAST_BYTES: usize = 8;
const MOST_BYTES: usize = 512;

/// A preshared key. Zeroized when dropped, shown nowhere.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct IkeSecret(String);

/// The private key of a certificate, in PEM. Zeroized when dropped, shown nowhere.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct CertificateKey(String);

impl CertificateKey {
    /// Takes what a file holds.
    pub fn new(pem: String) -> Self {
        Self(pem)
    }

    /// The PEM, for charon.
    pub fn as_pem(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for CertificateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateKey(…)")
    }
}

/// Why a text is no preshared key. It never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IkeSecretError {
    /// Too short to be worth anything, or too long.
    #[error("it has {bytes} bytes, expected {LEAST_BYTES} to {MOST_BYTES}")]
    Length {
        /// How long it is.
        bytes: usize,
    },
    /// A character that the other side's administrator cannot see or type.
    #[error("character {position} is not printable ASCII")]
    Character {
        /// Which, from 1.
        position: usize,
    },
    /// strongSwan would read it as hex or base64 in a config file of the peer's.
    #[error("it begins with {prefix:?}, which strongSwan takes for the mark of an encoding")]
    Prefix {
        /// The beginning.
        prefix: &'static str,
    },
}

impl IkeSecret {
    /// The key in a file or parameter: its one line, without the end of it.
    pub fn new(text: &str) -> Result<Self, IkeSecretError> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if !(LEAST_BYTES..=MOST_BYTES).contains(&text.len()) {
            let bytes = text.len();
            return Err(IkeSecretError::Length { bytes });
        }
        let strange = |character: char| !(' '..='~').contains(&character);
        if let Some(index) = text.chars().position(strange) {
            let position = index + 1;
            return Err(IkeSecretError::Character { position });
        }
        for prefix in ["0x", "0s"] {
            if text.starts_with(prefix) {
                return Err(IkeSecretError::Prefix { prefix });
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// The keys of one spoke's tunnel to one hub, from the secret that the fleet has
    /// in common: the one to use first, and while the secret is changed the one
    /// before. No two tunnels share one, so that a spoke's key opens nobody else's.
    pub fn derive(fleet: &FleetSecret, spoke: &IkeId, hub: &IkeId) -> Vec<Self> {
        // Identities are printable: the byte between them is in neither.
        let tunnel = [spoke.as_str().as_bytes(), b"\0", hub.as_str().as_bytes()];
        let keys = fleet.keys(SALT, &tunnel);
        keys.iter().map(|key| Self(hex(key))).collect()
    }

    /// Its bytes, for charon.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn hex(key: &[u8; 32]) -> String {
    // Enough from the start: growing would leave copies behind.
    let mut text = String::with_capacity(2 * key.len());
    for byte in key {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(u32::from(digit), 16));
        }
    }
    text
}

impl fmt::Debug for IkeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IkeSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn a_secret_is_the_files_line_and_is_never_shown() {
        let secret = IkeSecret::new("correct horse battery\r\n").unwrap();
        assert_eq!(secret.as_bytes(), b"correct horse battery");
        assert_eq!(format!("{secret:?}"), "IkeSecret(…)");
    }

    /// By Python's `hmac`, after RFC 5869, as in `crate::secret`.
    #[test]
    fn a_spokes_key_is_the_one_that_another_implementation_derives() {
        let now = "correct horse battery staple, and some more";
        let before = "what the fleet had in common before today";
        let id = |text: &str| text.parse::<IkeId>().unwrap();
        let derive = |fleet: &str, spoke: &str, hub: &str| {
            IkeSecret::derive(&fleet.parse().unwrap(), &id(spoke), &id(hub))
        };
        let keys = derive(now, "i-0123456789abcdef0", "hub.example");
        let expected = "0141c1570a9aee420f61800ac8d7a5d656012f8a92c9ba7ddd0fd2066eedec4c";
        assert_eq!(keys.len(), 1);
        assert_eq!(keys[0].as_bytes(), expected.as_bytes());
        assert_eq!(IkeSecret::new(expected).as_ref(), Ok(&keys[0]));
        let changing = derive(
            &format!("{now}\n{before}"),
            "i-0123456789abcdef0",
            "hub.example",
        );
        assert_eq!((changing.len(), &changing[0]), (2, &keys[0]));
        assert_ne!(changing[0], changing[1]);
        // Which of the two is the spoke counts, and where one name ends.
        for (spoke, hub) in [
            ("hub.example", "i-0123456789abcdef0"),
            ("i-0123456789abcdef", "0hub.example"),
            ("i-0123456789abcdef1", "hub.example"),
        ] {
            assert_ne!(derive(now, spoke, hub), keys, "{spoke} {hub}");
        }
    }

    #[test]
    fn what_the_other_side_would_read_otherwise_is_rejected() {
        use IkeSecretError as E;
        let cases = [
            ("short", E::Length { bytes: 5 }),
            ("", E::Length { bytes: 0 }),
            ("two\nlines", E::Character { position: 4 }),
            ("grüße aus dem", E::Character { position: 3 }),
            ("0x00112233445566", E::Prefix { prefix: "0x" }),
            ("0sAAAABBBBCCCC", E::Prefix { prefix: "0s" }),
        ];
        for (text, error) in cases {
            assert_eq!(IkeSecret::new(text), Err(error), "{text}");
        }
    }
}
