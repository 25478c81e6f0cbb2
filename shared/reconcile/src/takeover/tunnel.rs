//! This spoke's tunnel to the hub, on which the routes to the privnet depend.

use std::time::Instant;

use ipnet::IpNet;
use privnet_model::id::InstanceId;

use super::Takeover;
use super::own::{HOLD, Hold};
use super::sibling::Sibling;
use crate::vpc_route::Place;

/// Down until somebody tells otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tunnel {
    /// Since when it is up.
    up_since: Option<Instant>,
    /// When something last came out of it.
    heard: Option<Instant>,
    hold: Hold,
}

impl Tunnel {
    /// Whether it has been up for long enough for routes to be taken back for it.
    pub(super) fn lasts(&self, now: Instant) -> bool {
        let up_since = self.up_since;
        up_since.is_some_and(|since| now - since >= self.hold.time())
    }

    /// Whether it has been up since then, if that is known.
    pub(super) fn was_up_at(&self, then: Option<Instant>) -> bool {
        let up_since = self.up_since;
        up_since.is_some_and(|since| then.is_some_and(|then| since <= then))
    }
}

impl Takeover {
    /// How the tunnel to the hub is: when something last came out of it, if it is up.
    pub fn tunnel(&mut self, heard: Option<Instant>, now: Instant) {
        self.wake(now);
        let tunnel = &mut self.tunnel;
        match heard {
            Some(_) => drop(tunnel.up_since.get_or_insert(now)),
            None if tunnel.up_since.take().is_some() => tunnel.hold.lose(now),
            None => {}
        }
        tunnel.heard = heard.or(tunnel.heard);
    }

    /// Whether this spoke serves routes to the privnet, and has no tunnel there.
    pub fn is_without_tunnel(&self) -> bool {
        !self.setup.tunnelled.is_empty() && self.tunnel.up_since.is_none()
    }

    /// The same of a sibling that is well otherwise, as it says.
    pub fn lacks_tunnel(&self, sibling: &InstanceId) -> bool {
        let sibling = self.siblings.get(sibling);
        sibling.is_some_and(|one| one.lacks_tunnel_since().is_some())
    }

    /// Whether what is sent there goes through the tunnel.
    pub(super) fn is_tunnelled(&self, destination: &IpNet) -> bool {
        self.setup.tunnelled.contains(destination)
    }

    /// Whether this spoke can carry what is sent there, given that it is well.
    pub(super) fn carries(&self, destination: &IpNet) -> bool {
        self.tunnel.up_since.is_some() || !self.is_tunnelled(destination)
    }

    /// The same of a sibling.
    pub(super) fn is_carried_by(&self, sibling: &Sibling, destination: &IpNet) -> bool {
        sibling.lacks_tunnel_since().is_none() || !self.is_tunnelled(destination)
    }

    /// Since when this spoke could take a route to the privnet from a sibling that is well but
    /// for its tunnel, if it can. It must have heard of the hub since that one's tunnel is
    /// down, and its own must have been up for a while: where the hub is what is away, or is
    /// back, no route moves, however the tunnels of the spokes end and come one after the other.
    pub(super) fn better_tunnel_since(&self, sibling: &Sibling, place: &Place) -> Option<Instant> {
        let lacks = sibling.lacks_tunnel_since().filter(|_| sibling.is_sure())?;
        let up_since = self.tunnel.up_since?;
        let heard = self.tunnel.heard.is_some_and(|heard| heard >= lacks);
        let takes = self.is_tunnelled(&place.destination) && heard;
        takes.then_some(lacks.max(up_since + HOLD))
    }
}
