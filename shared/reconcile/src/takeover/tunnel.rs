//! This spoke's tunnel to the hub, on which the routes to the privnet depend.

use std::time::Instant;

use ipnet::IpNet;
use privnet_model::id::InstanceId;

use super::Takeover;
use super::sibling::Sibling;
use crate::vpc_route::Place;

/// Down until somebody tells otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tunnel {
    /// Since when it is up.
    up_since: Option<Instant>,
    /// When something last came out of it.
    heard: Option<Instant>,
}

impl Tunnel {
    pub(super) fn up_since(&self) -> Option<Instant> {
        self.up_since
    }
}

impl Takeover {
    /// How the tunnel to the hub is: when something last came out of it, if it is up.
    pub fn tunnel(&mut self, heard: Option<Instant>, now: Instant) {
        self.wake(now);
        match heard {
            Some(_) => drop(self.tunnel.up_since.get_or_insert(now)),
            // Like a failed self-test: the routes that are lost by it come back the later, the
            // more often that happens.
            None if self.tunnel.up_since.take().is_some() => self.own.lose(now),
            None => {}
        }
        self.tunnel.heard = heard.or(self.tunnel.heard);
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

    /// Whether a sibling that is well cannot carry what is sent there, and this spoke can:
    /// it has heard of the hub since. Where the hub is what is away, nobody has, and no
    /// route moves however the tunnels of the spokes end one after the other.
    pub(super) fn has_better_tunnel(&self, sibling: &Sibling, place: &Place) -> Option<Instant> {
        let since = sibling.lacks_tunnel_since().filter(|_| sibling.is_sure())?;
        let carries = self.is_tunnelled(&place.destination) && self.tunnel.up_since.is_some();
        let heard = self.tunnel.heard.is_some_and(|heard| heard >= since);
        (carries && heard).then_some(since)
    }
}
