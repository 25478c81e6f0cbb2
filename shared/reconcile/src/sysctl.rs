//! Kernel network settings (sysctls): their names, and which of them a router
//! needs.
//!
//! A name is kept in the form with slashes, because interface names may hold
//! dots. Only names below `net/` exist here: those `CAP_NET_ADMIN` may write
//! without being root, and none that leads out of `/proc/sys/net`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::interface::InterfaceName;

/// A sysctl below `net/`, in the form with slashes: `net/ipv4/ip_forward`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SysctlKey(String);

impl SysctlKey {
    /// The key, checked.
    pub fn new(path: impl Into<String>) -> Result<Self, InvalidSysctlKey> {
        let path = path.into();
        let inside = path.starts_with("net/");
        let plain = path.split('/').all(|part| {
            !matches!(part, "" | "." | "..") && part.bytes().all(|byte| byte.is_ascii_graphic())
        });
        if !(inside && plain) {
            return Err(InvalidSysctlKey { path });
        }
        Ok(Self(path))
    }

    /// The path below `/proc/sys`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether writing it also resets others. Forwarding does: redirects and,
    /// for IPv6, router advertisements change with it (ip-sysctl, the kernel's
    /// documentation). So it has to be written before what it resets.
    pub(crate) fn resets_others(&self) -> bool {
        matches!(
            self.0.as_str(),
            "net/ipv4/ip_forward" | "net/ipv4/conf/all/forwarding" | "net/ipv6/conf/all/forwarding"
        )
    }
}

impl fmt::Display for SysctlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a string is no sysctl that Privnet would write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is not a network sysctl: expected a path such as net/ipv4/ip_forward")]
pub struct InvalidSysctlKey {
    path: String,
}

/// The value with runs of white space as one blank: the kernel separates the
/// parts of some values by tabs, people by blanks.
pub fn normal_value(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The settings that a router between `uplink` (towards the VPC and the
/// internet) and the tunnel interfaces needs.
pub fn forwarding<'a>(
    uplink: &InterfaceName,
    tunnels: impl IntoIterator<Item = &'a InterfaceName>,
) -> BTreeMap<SysctlKey, String> {
    let mut settings = BTreeMap::new();
    let mut set = |path: String, value: &str| {
        settings.insert(SysctlKey(path), value.to_owned());
    };
    set("net/ipv4/ip_forward".to_owned(), "1");
    set("net/ipv6/conf/all/forwarding".to_owned(), "1");
    // A router ignores router advertisements, and with them EC2's IPv6 default
    // route, unless told otherwise by 2.
    set(format!("net/ipv6/conf/{uplink}/accept_ra"), "2");
    // Packets come and leave by the same interface on a one-legged NAT
    // instance; the kernel would tell each sender to bypass us. The setting of
    // `all` and of the interface are or-ed, so both have to be off.
    set("net/ipv4/conf/all/send_redirects".to_owned(), "0");
    set(format!("net/ipv4/conf/{uplink}/send_redirects"), "0");
    for tunnel in tunnels {
        set(format!("net/ipv4/conf/{tunnel}/send_redirects"), "0");
        // Loose: a packet may come through the tunnel whose answer goes by
        // another path (a second hub, a VPC route). The tunnel has checked its
        // source against the peer that sent it. The maximum of `all` and the
        // interface counts, so 2 here wins over a distribution's 1 there.
        set(format!("net/ipv4/conf/{tunnel}/rp_filter"), "2");
        // Or else the kernel removes, with an address, all later ones of the
        // same subnet: the new one with the old when an address changes.
        set(format!("net/ipv4/conf/{tunnel}/promote_secondaries"), "1");
    }
    settings
}

/// The settings of connection tracking that NAT wants. `capacity` is `None`
/// where this network namespace cannot set it.
///
/// Of the time limits two are ours, one value for both as at AWS's NAT gateway: that of
/// established TCP, five days by the kernel's default, so that connections nobody ended
/// fill the table; and that of UDP which was answered, 120 s by default. UDP without an
/// answer stays at the kernel's 30 s, and so does one with nothing after its first two
/// seconds (`nf_conntrack_udp_packet`; a DNS query), unless it took the flowtable.
///
/// Those of the flowtable (`nf_flowtable_{tcp,udp}_timeout`) stay at 30 s: whatever is
/// idle for that goes back to connection tracking, with the limit above less these 30 s
/// (`flow_offload_fixup_ct`, since Linux 5.14), so that it is the same in all.
pub fn connection_tracking(
    idle_timeout: Duration,
    capacity: Option<u32>,
) -> BTreeMap<SysctlKey, String> {
    let mut settings = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        settings.insert(
            SysctlKey(format!("net/netfilter/nf_conntrack_{name}")),
            value,
        );
    };
    for limit in ["tcp_timeout_established", "udp_timeout_stream"] {
        set(limit, idle_timeout.as_secs().to_string());
    }
    if let Some(capacity) = capacity {
        set("max", capacity.to_string());
        // As many buckets as connections, the kernel's own ratio. It rounds to
        // whole pages of 8 bytes each, 64 KiB at most: a power of two is whole.
        let buckets = capacity.max(8192).next_power_of_two();
        set("buckets", buckets.to_string());
    }
    settings
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn only_network_sysctls_are_accepted() {
        assert!(SysctlKey::new("net/ipv4/conf/eth0.100/rp_filter").is_ok());
        for path in [
            "kernel/panic",
            "net/../kernel/panic",
            "net//x",
            "net/a b",
            "/net/x",
            "net.ipv4.ip_forward",
        ] {
            assert!(SysctlKey::new(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_router_forwards_and_sends_no_redirects() {
        let uplink = InterfaceName::new("ens5").unwrap();
        let tunnel = InterfaceName::new("privnet0").unwrap();
        let settings = forwarding(&uplink, Some(&tunnel));
        let value = |path: &str| {
            settings
                .get(&SysctlKey::new(path).unwrap())
                .unwrap()
                .as_str()
        };
        assert_eq!(value("net/ipv4/ip_forward"), "1");
        assert_eq!(value("net/ipv4/conf/ens5/send_redirects"), "0");
        assert_eq!(value("net/ipv4/conf/privnet0/rp_filter"), "2");
        assert_eq!(forwarding(&uplink, None).len(), 5);
        assert!(
            settings
                .keys()
                .all(|key| SysctlKey::new(key.as_str()).is_ok())
        );
    }

    #[test]
    fn connection_tracking_is_sized_where_it_can_be() {
        let settings = |capacity| {
            let settings = connection_tracking(Duration::from_secs(350), capacity);
            let lines = settings.iter().map(|(key, value)| {
                let name = key.as_str().strip_prefix("net/netfilter/nf_conntrack_");
                format!("{} {value}", name.unwrap())
            });
            lines.collect::<Vec<_>>()
        };
        let limits = ["tcp_timeout_established 350", "udp_timeout_stream 350"];
        assert_eq!(settings(None), limits);
        assert_eq!(
            settings(Some(100_000)),
            ["buckets 131072", "max 100000", limits[0], limits[1],]
        );
        assert_eq!(settings(Some(1024))[0], "buckets 8192");
    }

    #[test]
    fn white_space_does_not_count_in_a_value() {
        assert_eq!(
            normal_value("4096\t131072\t6291456\n"),
            "4096 131072 6291456"
        );
    }
}
