//! The hubs of a spoke that speaks IPsec. One is used at a time:
//! only one tunnel can have the privnet. With those before it in the config there is an
//! IKE SA without a tunnel, which shows when one may be used again.

mod choice;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use ipnet::IpNet;
use privnet_ipsec::Wanted;
use privnet_model::config::spoke::IpsecHubConfig;
use privnet_model::inventory::Transport;
use privnet_model::ipsec::{
    ConnectionName, IKE_PORTS, IkeCredential, IkeRole, TunnelEnd, with_families_of,
};
use privnet_model::status::{Origin, Reason};
use privnet_reconcile::fleet::{Obstacle, PlannedIpsec, PlannedTunnel, own_tunnel};
use privnet_runtime::router::Desired;
use tracing::{info, warn};

pub(super) use self::choice::Choice;
use self::choice::{Change, Seen};
use super::Spoke;
use super::hubs::hub_name;

impl Spoke {
    /// Has another hub's turn come where the one in use stays down, or one before it may
    /// be used again.
    pub(super) async fn change_hub(&mut self) {
        let charon = self.router.charon_status();
        let mut standing_by = self.router.standing_by();
        let mut ready = BTreeSet::new();
        for (number, hub) in self.hubs.iter_mut().enumerate() {
            let name = hub.ipsec.as_ref().map(|ipsec| &ipsec.tunnel.name);
            if let Some(reason) = name.and_then(|name| standing_by.remove(name)) {
                if reason == Reason::StandsByReady {
                    ready.insert(number);
                }
                hub.obstacle = Some(Obstacle::Pending(reason));
            }
        }
        let seen = Seen {
            hubs: self.hubs.len(),
            // Another hub helps only where it is the hub that is missing.
            may_change: charon.is_some_and(|charon| charon.problem.is_none()),
            is_up: !self.router.connected().is_empty(),
            ready,
        };
        let Some(change) = self.ipsec_hub.look(&seen, Instant::now()) else {
            return;
        };
        self.follow_hub();
        let hub = self.hubs.get(self.ipsec_hub.in_use());
        let hub = hub.map(|hub| hub.name.as_str());
        match change {
            Change::Next => warn!(hub, "the hub in use is down; trying another one"),
            Change::Back => info!(hub, "a hub before the one in use is back; using it again"),
        }
        self.router.want(self.desired());
        self.router.reconcile().await;
    }

    /// Takes them from a config that was read again. The one in use stays so, where it is
    /// among them.
    pub(super) fn take_ipsec_hubs(&mut self, hubs: Vec<IpsecHubConfig>) {
        if self.config.ipsec_hubs != hubs {
            let in_use = self.config.ipsec_hubs.get(self.ipsec_hub.in_use());
            let place = in_use.and_then(|in_use| {
                let same = |hub: &IpsecHubConfig| hub.endpoint == in_use.endpoint;
                hubs.iter().position(same)
            });
            self.ipsec_hub = Choice::beginning_with(place.unwrap_or(0));
            self.config.ipsec_hubs = hubs;
        }
    }

    pub(super) fn desired_ipsec(&self) -> Desired {
        let planned = || {
            self.hubs
                .iter()
                .filter_map(|hub| Some((hub, hub.ipsec.clone()?)))
        };
        let stands_by = planned().filter(|(hub, _)| hub.obstacle.is_some());
        Desired {
            ipsec: Wanted {
                tunnels: planned()
                    .map(|(_, it)| (it.tunnel.name.clone(), it))
                    .collect(),
                standing_by: stands_by.map(|(_, it)| it.tunnel.name).collect(),
                keeps_others: self.preshared.is_missing(),
                ..Wanted::default()
            },
            // Also without a tunnel: the privnet must not follow the default route.
            behind_ipsec: self.config.privnet.nets().iter().copied().collect(),
            ..Desired::default()
        }
    }

    /// The hubs as tunnels, for charon and for the operator.
    pub(super) fn ipsec_hubs(&self) -> Vec<PlannedTunnel> {
        let hubs = &self.config.ipsec_hubs;
        let in_use = self.ipsec_hub.in_use();
        hubs.iter()
            .enumerate()
            .map(|(number, hub)| {
                let name = hub_name(number, hubs.len());
                let planned = match number <= in_use {
                    true => self.planned(&name, hub).map(Some),
                    false => Ok(None),
                };
                let (ipsec, reason) = match planned {
                    Ok(ipsec) if number == in_use => (ipsec, None),
                    Ok(ipsec) => (ipsec.map(PlannedIpsec::standing_by), Some(Reason::StandsBy)),
                    Err(reason) => (None, Some(reason)),
                };
                PlannedTunnel {
                    cidrs: self.config.privnet.nets().to_vec(),
                    transport: Transport::Ipsec,
                    endpoint: Some(SocketAddr::new(hub.endpoint, IKE_PORTS[0])),
                    ipsec,
                    obstacle: reason.map(Obstacle::Pending),
                    ..PlannedTunnel::named(name, Origin::Hub)
                }
            })
            .collect()
    }

    fn planned(&self, name: &str, hub: &IpsecHubConfig) -> Result<PlannedIpsec, Reason> {
        let identity = self.router.identity();
        let misconfigured = |problem: String| Reason::Misconfigured { problem };
        let name = ConnectionName::of(name).map_err(|it| misconfigured(it.to_string()))?;
        let own = identity.instance.as_str().parse();
        let own = own.map_err(|error| misconfigured(format!("instance id {error}")))?;
        let secret = self.preshared.ike_secret(&own, &hub.id);
        let secret = secret.ok_or(Reason::NoFleetSecret)?;
        let privnet = &self.config.privnet;
        let vpc = identity.vpc_cidrs.iter().copied();
        let vpc: BTreeSet<IpNet> = vpc.filter(|net| privnet.contains(net)).collect();
        let local = TunnelEnd {
            address: Some(identity.private_address),
            id: own,
            selectors: vpc,
        };
        let remote = TunnelEnd {
            address: Some(hub.endpoint),
            id: hub.id.clone(),
            selectors: with_families_of(privnet.nets(), &local.selectors),
        };
        let tunnel = own_tunnel(name, local, remote, IkeRole::Initiator);
        match tunnel.errors().first() {
            Some(error) => Err(misconfigured(error.to_string())),
            None => Ok(PlannedIpsec {
                routed: tunnel.remote.selectors.clone(),
                tunnel,
                credential: IkeCredential::PresharedKey(secret),
            }),
        }
    }
}
