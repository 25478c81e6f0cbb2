//! The fleet's secret, and the preshared keys that follow from it.
//!
//! One secret is known to the hub and to every spoke; no tunnel uses it as it
//! is. Each derives a key of its own from it and from the two public keys of the
//! tunnel, so that both ends come to the same key without a message, and a
//! spoke's key opens nobody else's tunnel. (Who takes the secret itself from a
//! spoke can derive all: it is a second factor beside the private keys, not
//! instead of them.)
//!
//! A secret is zeroized when dropped, and shown nowhere.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::key::{PresharedKey, PublicKey};

/// The salt of the derivation. Another way to derive gets another number.
const SALT: &[u8] = b"privnet preshared key v1";

/// As many bytes as the key that is made of them.
const LEAST_BYTES: usize = 32;
/// What a standard parameter of SSM holds (4 KB), for both lines.
const MOST_BYTES: usize = 4096;
/// Of 32 random hex digits fewer than this are different in one of 80,000,000
/// cases; words repeated to make up the length have fewer.
const LEAST_DIFFERENT: usize = 8;

/// What the operator put into the secret's file or parameter: the secret on the
/// first line and, while it is being changed, the one before on the second.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct FleetSecret {
    current: String,
    previous: Option<String>,
}

/// Why a text is no fleet secret. It never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// No text at all.
    #[error("it is empty")]
    Empty,
    /// More than two lines with something on them.
    #[error("it has more than two lines: the secret, and the one before it while it is changed")]
    Lines,
    /// A line is too short to be worth anything.
    #[error(
        "line {line} has {bytes} bytes, expected at least {LEAST_BYTES} \
         (`openssl rand -base64 48` makes a good one)"
    )]
    Short {
        /// Which line, from 1.
        line: usize,
        /// How long it is.
        bytes: usize,
    },
    /// A line is longer than any secret.
    #[error("line {line} has {bytes} bytes, expected at most {MOST_BYTES}")]
    Long {
        /// Which line, from 1.
        line: usize,
        /// How long it is.
        bytes: usize,
    },
    /// A line is long and says nothing.
    #[error(
        "line {line} is made of {different} different characters, expected at least \
         {LEAST_DIFFERENT} (`openssl rand -base64 48` makes a good one)"
    )]
    Monotonous {
        /// Which line, from 1.
        line: usize,
        /// How many there are.
        different: usize,
    },
    /// A line with what an editor or a shell may change unseen.
    #[error("line {line} holds a control character or is not ASCII")]
    NotText {
        /// Which line, from 1.
        line: usize,
    },
}

/// The preshared keys of one tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelSecrets {
    /// The one to use.
    pub current: PresharedKey,
    /// The one that the far end may still use, while the secret is changed.
    pub previous: Option<PresharedKey>,
}

impl FleetSecret {
    /// The preshared keys of the tunnel between these two.
    pub fn tunnel(&self, spoke: &PublicKey, hub: &PublicKey) -> TunnelSecrets {
        let derive = |secret: &String| derive(secret.as_bytes(), spoke, hub);
        TunnelSecrets {
            current: derive(&self.current),
            previous: self.previous.as_ref().map(derive),
        }
    }

    /// Keys for another purpose, which `salt` names: by the secret in use and, while
    /// it is changed, by the one before.
    pub(crate) fn keys(&self, salt: &[u8], info: &[&[u8]]) -> Vec<Zeroizing<[u8; 32]>> {
        let secrets = std::iter::once(&self.current).chain(&self.previous);
        secrets
            .map(|secret| expand(secret.as_bytes(), salt, info))
            .collect()
    }

    /// As it is written in a file.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(2 * MOST_BYTES));
        text.push_str(&self.current);
        text.push('\n');
        for previous in self.previous.iter() {
            text.push_str(previous);
            text.push('\n');
        }
        text
    }

    /// Whether the one before is still known.
    pub fn is_changing(&self) -> bool {
        self.previous.is_some()
    }
}

/// Both keys as `info`, the spoke's first.
fn derive(secret: &[u8], spoke: &PublicKey, hub: &PublicKey) -> PresharedKey {
    let tunnel = [spoke.as_bytes().as_slice(), hub.as_bytes()];
    PresharedKey::from_bytes(*expand(secret, SALT, &tunnel))
}

/// HKDF (RFC 5869) with SHA-256: one key for this salt, which is a purpose, and
/// this `info`.
fn expand(secret: &[u8], salt: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    match Hkdf::<Sha256>::new(Some(salt), secret).expand_multi_info(info, &mut *key) {
        Ok(()) => key,
        Err(_) => unreachable!("the limit is 255 hashes of output, and this is one"),
    }
}

impl FromStr for FleetSecret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let mut lines = (1..)
            .zip(text.lines().map(str::trim))
            .filter(|(_, line)| !line.is_empty());
        let current = match lines.next() {
            Some((number, line)) => checked(number, line)?.to_owned(),
            None => return Err(SecretError::Empty),
        };
        let previous = match lines.next() {
            // Twice the same is one secret, written twice.
            Some((number, line)) => Some(checked(number, line)?).filter(|line| *line != current),
            None => None,
        };
        // Built before the last check, so that what was copied is zeroized.
        let secret = Self {
            previous: previous.map(str::to_owned),
            current,
        };
        match lines.next() {
            Some(_) => Err(SecretError::Lines),
            None => Ok(secret),
        }
    }
}

fn checked(line: usize, text: &str) -> Result<&str, SecretError> {
    let bytes = text.len();
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(SecretError::NotText { line });
    }
    if bytes < LEAST_BYTES {
        return Err(SecretError::Short { line, bytes });
    }
    if bytes > MOST_BYTES {
        return Err(SecretError::Long { line, bytes });
    }
    let different = text.bytes().collect::<BTreeSet<u8>>().len();
    if different < LEAST_DIFFERENT {
        return Err(SecretError::Monotonous { line, different });
    }
    Ok(text)
}

impl fmt::Debug for FleetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FleetSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "correct horse battery staple, and some more";
    const BEFORE: &str = "what the fleet had in common before today";

    fn secret(text: &str) -> FleetSecret {
        text.parse().unwrap()
    }

    fn key(first: u8) -> PublicKey {
        PublicKey::from_bytes(std::array::from_fn(|byte| first + byte as u8))
    }

    /// By Python's `hmac`, after RFC 5869: `prk = HMAC(salt, secret)`, `HMAC(prk,
    /// info + b"\x01")`, which gave the RFC's own first test case as well.
    #[test]
    fn the_key_is_the_one_that_another_implementation_derives() {
        let keys = secret(SECRET).tunnel(&key(1), &key(101));
        assert_eq!(
            *keys.current.to_hex(),
            "657b79d09f806eafb793f5c190038985d1d3cb4db8d830c68539e41e2345570e"
        );
        // The order of the two keys counts.
        let turned = secret(SECRET).tunnel(&key(101), &key(1));
        assert_eq!(
            *turned.current.to_hex(),
            "3422e6ed168df585e9c4bad5d2b1609658b38442a4181d41fcad3e1538aad03b"
        );
    }

    #[test]
    fn the_second_line_is_the_secret_before() {
        let changing = secret(&format!("{SECRET}\r\n\n  {BEFORE}\n\n"));
        assert!(changing.is_changing());
        let keys = changing.tunnel(&key(1), &key(101));
        assert_eq!(
            keys.current,
            secret(SECRET).tunnel(&key(1), &key(101)).current
        );
        assert_eq!(
            keys.previous,
            Some(secret(BEFORE).tunnel(&key(1), &key(101)).current)
        );
        let twice = secret(&format!("{SECRET}\n{SECRET}\n"));
        assert_eq!(twice, secret(SECRET));
        assert!(!twice.is_changing());
    }

    #[test]
    fn what_is_no_secret_is_refused_with_the_reason_and_not_shown() {
        let long = "0123456789".repeat(410);
        for (text, reason) in [
            ("", SecretError::Empty),
            (" \n\t\n", SecretError::Empty),
            ("hunter2", SecretError::Short { line: 1, bytes: 7 }),
            (
                &"changeme".repeat(5),
                SecretError::Monotonous {
                    line: 1,
                    different: 7,
                },
            ),
            (
                &format!("{SECRET}\nshort"),
                SecretError::Short { line: 2, bytes: 5 },
            ),
            (&format!("{SECRET}\n{BEFORE}\n{SECRET}"), SecretError::Lines),
            (&format!("{SECRET}\u{e9}"), SecretError::NotText { line: 1 }),
            (&format!("{SECRET}\u{7}x"), SecretError::NotText { line: 1 }),
            (
                &long,
                SecretError::Long {
                    line: 1,
                    bytes: 4100,
                },
            ),
        ] {
            let error = text.parse::<FleetSecret>().unwrap_err();
            assert_eq!(error, reason);
            let shown = format!("{error} {error:?}");
            for word in ["hunter2", "changeme", "horse", "short"] {
                assert!(!shown.contains(word), "{shown}");
            }
        }
    }

    #[test]
    fn a_secret_does_not_show() {
        let shown = format!("{:?}", secret(&format!("{SECRET}\n{BEFORE}")));
        assert_eq!(shown, "FleetSecret(…)");
        let keys = secret(SECRET).tunnel(&key(1), &key(101));
        assert!(!format!("{keys:?}").contains("657b"), "{keys:?}");
    }

    proptest! {
        #[test]
        fn no_two_tunnels_share_a_key(
            one in any::<([u8; 32], [u8; 32])>(),
            other in any::<([u8; 32], [u8; 32])>(),
        ) {
            let key = |(spoke, hub)| {
                let (spoke, hub) = (PublicKey::from_bytes(spoke), PublicKey::from_bytes(hub));
                secret(SECRET).tunnel(&spoke, &hub).current
            };
            prop_assert_eq!(key(one) == key(other), one == other);
        }

        #[test]
        fn no_two_secrets_give_the_same_key(one in "[!-~]{40}", other in "[!-~]{40}") {
            let (Ok(first), Ok(second)) = (one.parse::<FleetSecret>(), other.parse::<FleetSecret>())
            else {
                return Ok(());
            };
            let keys = |secret: &FleetSecret| secret.tunnel(&key(1), &key(101)).current;
            prop_assert_eq!(keys(&first) == keys(&second), one == other);
        }

        #[test]
        fn any_text_is_a_secret_or_an_error(text in "\\PC*") {
            let _ = text.parse::<FleetSecret>();
        }
    }
}
