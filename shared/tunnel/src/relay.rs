//! Where a packet from a peer goes: the rules, and nothing else.

use crate::allowed_ips::{AllowedIps, Target};
use crate::counters::Counter;
use crate::index::PeerIndex;
use crate::packet::IpPacket;

/// What becomes of a packet that a peer sent and that passed the source check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// To the TUN, where the kernel routes it.
    Tun,
    /// To another peer, one hop less, without the TUN.
    Relay(PeerIndex),
    /// Nowhere.
    Drop(Counter),
}

/// Decides for one packet. `relay` says whether this device relays at all (a hub)
/// or leaves all routing to the kernel; `destination` is whose the destination
/// address is among `allowed_ips`; `mtu` is the tunnel's.
pub(crate) fn decide(
    relay: bool,
    sender: PeerIndex,
    packet: &IpPacket<'_>,
    destination: Option<Target>,
    allowed_ips: &AllowedIps,
    mtu: usize,
) -> Verdict {
    let peer = match destination {
        Some(Target::Peer(peer)) if relay => peer,
        _ => return Verdict::Tun,
    };
    // A spoke with the whole privnet behind its hub also sends there what is for
    // its own network; sent back, it would circle until its hops are used up. With
    // several gateways it would do so between them.
    if allowed_ips.leads_back(sender, peer) {
        return Verdict::Drop(Counter::Hairpin);
    }
    // A router answers these two with ICMP: time exceeded, and fragmentation
    // needed or packet too big. The kernel's own forwarding does that rightly
    // (source address, rate limit), so it gets exactly these packets.
    if packet.hop_limit() <= 1 || packet.len() > mtu {
        return Verdict::Tun;
    }
    Verdict::Relay(peer)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;
    use crate::packet::tests::packet;

    const A: PeerIndex = PeerIndex::new(0, 0);
    const B: PeerIndex = PeerIndex::new(1, 0);

    fn verdict(relay: bool, ttl: u8, payload: usize, destination: Option<Target>) -> Verdict {
        let mut bytes = packet("10.1.0.1", "10.2.0.1", ttl, payload);
        let view = IpPacket::parse(&mut bytes).unwrap();
        decide(relay, A, &view, destination, &AllowedIps::default(), 1420)
    }

    #[test]
    fn a_hub_relays_between_peers() {
        assert_eq!(
            verdict(true, 64, 100, Some(Target::Peer(B))),
            Verdict::Relay(B)
        );
    }

    #[test]
    fn a_spoke_leaves_all_routing_to_the_kernel() {
        assert_eq!(verdict(false, 64, 100, Some(Target::Peer(B))), Verdict::Tun);
        assert_eq!(verdict(false, 64, 100, Some(Target::Peer(A))), Verdict::Tun);
    }

    #[test]
    fn nothing_goes_back_to_where_it_came_from() {
        assert_eq!(
            verdict(true, 64, 100, Some(Target::Peer(A))),
            Verdict::Drop(Counter::Hairpin)
        );
    }

    #[test]
    fn what_is_local_or_unknown_goes_to_the_kernel() {
        assert_eq!(verdict(true, 64, 100, Some(Target::Local)), Verdict::Tun);
        assert_eq!(verdict(true, 64, 100, None), Verdict::Tun);
    }

    #[test]
    fn what_needs_an_icmp_answer_goes_to_the_kernel() {
        assert_eq!(verdict(true, 1, 100, Some(Target::Peer(B))), Verdict::Tun);
        assert_eq!(verdict(true, 0, 100, Some(Target::Peer(B))), Verdict::Tun);
        assert_eq!(verdict(true, 64, 1401, Some(Target::Peer(B))), Verdict::Tun);
        assert_eq!(
            verdict(true, 64, 1400, Some(Target::Peer(B))),
            Verdict::Relay(B)
        );
    }
}
