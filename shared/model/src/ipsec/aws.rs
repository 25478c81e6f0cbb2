//! What AWS's Site-to-Site VPN (virtual private and transit gateways) takes, and
//! no more. From the EC2 API's `VpnTunnelOptionsSpecification` and the user
//! guide's "Tunnel options for your Site-to-Site VPN connection".
//!
//! Its ciphers need no check: each of our sets has AES-256-GCM-16, SHA2-384 and
//! group 20 first, which AWS has, and none with group 31 or ChaCha20, which it has
//! not.

use std::time::Duration;

use super::{ConnectionName, IkeSecret, IpsecTunnel};

/// A setting that AWS would refuse, or not keep to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AwsLimit {
    /// A time outside its range.
    #[error("{name}: {key} = {}s: expected {least} to {most} s, as AWS takes it", found.as_secs())]
    Time {
        /// The tunnel.
        name: ConnectionName,
        /// Which setting.
        key: &'static str,
        /// What it is.
        found: Duration,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// A preshared key of another length. It is not shown.
    #[error("{name}: preshared key of {bytes} characters: expected 8 to 64, as AWS takes it")]
    SecretLength {
        /// The tunnel.
        name: ConnectionName,
        /// How long it is.
        bytes: usize,
    },
    /// A preshared key with other characters.
    #[error(
        "{name}: preshared key with another character at {position}: expected letters, digits, \
         `.` and `_`, as AWS takes it"
    )]
    SecretCharacter {
        /// The tunnel.
        name: ConnectionName,
        /// Which, from 1.
        position: usize,
    },
    /// A preshared key that begins with a zero.
    #[error("{name}: preshared key that begins with 0: expected another, as AWS takes it")]
    SecretZero {
        /// The tunnel.
        name: ConnectionName,
    },
}

/// All that keeps the tunnel from working with AWS.
pub fn aws_limits(tunnel: &IpsecTunnel, secret: Option<&IkeSecret>) -> Vec<AwsLimit> {
    let times = [
        ("ike_lifetime", tunnel.times.ike_lifetime, 900, 28_800),
        ("child_lifetime", tunnel.times.child_lifetime, 900, 3_600),
    ];
    let mut limits = Vec::new();
    let name = || tunnel.name.clone();
    for (key, found, least, most) in times {
        if !(Duration::from_secs(least)..=Duration::from_secs(most)).contains(&found) {
            limits.push(AwsLimit::Time {
                name: name(),
                key,
                found,
                least,
                most,
            });
        }
    }
    let Some(secret) = secret else {
        return limits;
    };
    let bytes = secret.as_bytes();
    if !(8..=64).contains(&bytes.len()) {
        limits.push(AwsLimit::SecretLength {
            name: name(),
            bytes: bytes.len(),
        });
    }
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"._".contains(byte);
    if let Some(index) = bytes.iter().position(|byte| !known(byte)) {
        limits.push(AwsLimit::SecretCharacter {
            name: name(),
            position: index + 1,
        });
    }
    if bytes.first() == Some(&b'0') {
        limits.push(AwsLimit::SecretZero { name: name() });
    }
    limits
}
