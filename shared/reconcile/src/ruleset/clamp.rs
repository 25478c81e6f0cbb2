//! The TCP segment size through the tunnel.

use std::fmt::Write;

use crate::interface::InterfacePattern;

/// Forwarded TCP connections through `interface` agree on segments that fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelClamp {
    /// The tunnel interface, or several.
    pub interface: InterfacePattern,
    /// Its MTU in bytes.
    pub mtu: u16,
}

/// The chain for all of them.
pub(super) fn chain(tunnels: &[TunnelClamp]) -> String {
    let mut text = String::from(
        "\tchain forward {\n\t\ttype filter hook forward priority mangle; policy accept;\n",
    );
    for tunnel in tunnels {
        text.push_str(&tunnel.rules());
    }
    text.push_str("\t}\n");
    text
}

impl TunnelClamp {
    fn rules(&self) -> String {
        let mut text = String::new();
        for direction in ["iifname", "oifname"] {
            for (family, size) in [("ipv4", self.ipv4_segment()), ("ipv6", self.ipv6_segment())] {
                // Only ever smaller: a host that asked for less has its reasons.
                let _ = writeln!(
                    text,
                    "\t\t{direction} \"{}\" meta nfproto {family} tcp flags syn / syn,rst \
                     tcp option maxseg size > {size} tcp option maxseg size set {size}",
                    self.interface,
                );
            }
        }
        text
    }

    /// MTU less 20 bytes of IPv4 and 20 of TCP; at least what 576, the smallest
    /// packet every host takes, leaves (RFC 879).
    fn ipv4_segment(&self) -> u16 {
        self.mtu.saturating_sub(40).max(536)
    }

    /// MTU less 40 bytes of IPv6 and 20 of TCP; at least what 1280, the smallest
    /// MTU of IPv6, leaves (RFC 8200, section 5).
    fn ipv6_segment(&self) -> u16 {
        self.mtu.saturating_sub(60).max(1220)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;
    use crate::interface::InterfaceName;

    #[test]
    fn a_tiny_mtu_does_not_strangle_tcp() {
        let clamp = TunnelClamp {
            interface: InterfaceName::new("privnet0").unwrap().into(),
            mtu: 0,
        };
        assert_eq!((clamp.ipv4_segment(), clamp.ipv6_segment()), (536, 1220));
    }
}
