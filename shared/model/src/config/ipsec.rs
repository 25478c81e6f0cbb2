//! What IPsec needs in both config files: the `[ipsec]` section, and the keys by
//! which a tunnel of it is told.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::document::Section;
use super::value::{self, Kind, text};
use crate::ipsec::{IkeId, Proposals};

/// What all IPsec tunnels of a daemon have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpsecConfig {
    /// charon's VICI socket.
    pub socket: PathBuf,
    /// Who we say we are; `None` is our public address, or the private one where
    /// there is none. On a spoke always `None`: it is its instance id.
    pub id: Option<IkeId>,
}

/// Where strongSwan's own default has the socket, and Debian with it.
const DEFAULT_SOCKET: &str = "/run/charon.vici";

impl Default for IpsecConfig {
    fn default() -> Self {
        Self {
            socket: DEFAULT_SOCKET.into(),
            id: None,
        }
    }
}

pub(super) const IKE_ID: Kind<IkeId> = Kind {
    expected: IkeId::EXPECTED,
    parse: |value| text(value)?.parse().map_err(|_| "not an identity".into()),
};

pub(super) const PROPOSALS: Kind<Proposals> = Kind {
    expected: "`modern` or `legacy`",
    parse: |value| match text(value)? {
        "modern" => Ok(Proposals::Modern),
        "legacy" => Ok(Proposals::Legacy),
        _ => Err("not a set of proposals".into()),
    },
};

/// IKE's ports are 500 and 4500, and nothing else.
pub(super) const ADDRESS: Kind<IpAddr> = Kind {
    expected: "an address without a port, such as 203.0.113.9: IKE uses UDP 500 and 4500",
    parse: |value| {
        let text = text(value)?;
        let Ok(address) = text.parse::<IpAddr>() else {
            return Err(match text.parse::<std::net::SocketAddr>() {
                Ok(_) => "an address with a port".into(),
                Err(_) => "not an address".into(),
            });
        };
        match address.is_unspecified() || address.is_multicast() {
            true => Err("not the address of a host".into()),
            false => Ok(address),
        }
    },
};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) const IKE_LIFETIME: Kind<Duration> = Kind {
    expected: "a time such as \"8h\", 5m to 1day",
    parse: |value| value::duration(value, 5 * MINUTE, DAY),
};

pub(super) const CHILD_LIFETIME: Kind<Duration> = Kind {
    expected: "a time such as \"1h\", 2m to 1day",
    parse: |value| value::duration(value, 2 * MINUTE, DAY),
};

pub(super) const DEAD_PEER_DELAY: Kind<Duration> = Kind {
    expected: "a time such as \"10s\", 1s to 1h",
    parse: |value| value::duration(value, Duration::from_secs(1), 60 * MINUTE),
};

/// The `[ipsec]` section of a hub.
pub(super) fn of_hub(top: &mut Section<'_>) -> IpsecConfig {
    let section = top.table("ipsec", "an [ipsec] section", |section| {
        Some(IpsecConfig {
            socket: socket(section),
            id: section.optional("id", &IKE_ID).map(|id| id.value),
        })
    });
    section.unwrap_or_default()
}

/// That of a spoke, which says its instance id.
pub(super) fn of_spoke(top: &mut Section<'_>) -> IpsecConfig {
    let section = top.table("ipsec", "an [ipsec] section", |section| {
        Some(IpsecConfig {
            socket: socket(section),
            id: None,
        })
    });
    section.unwrap_or_default()
}

fn socket(section: &mut Section<'_>) -> PathBuf {
    section.with_default("socket", &value::SOCKET_PATH, DEFAULT_SOCKET.into())
}
