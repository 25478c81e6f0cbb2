//! The hubs of a spoke that speaks IPsec. One is used at a time:
//! only one tunnel can have the privnet. When it stays down, the next one's turn comes;
//! hubs are equal, so there is no way back before that one is down, too.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

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
use tokio::time::Instant;
use tracing::warn;

use super::Spoke;
use super::hubs::hub_name;

/// How long a hub may be down before the next one's turn comes. One that lives has
/// answered by then, unless packets are lost: charon repeats its first message after a
/// second.
const PATIENCE: Duration = Duration::from_secs(4);

/// Which hub is used.
#[derive(Debug, Default)]
pub(super) struct IpsecHub {
    /// Its place in the config.
    number: usize,
    /// Since when it is down, or began to be tried.
    down_since: Option<Instant>,
}

impl Spoke {
    /// Has the next hub's turn come where the one in use stays down.
    pub(super) async fn change_hub(&mut self) {
        if self.config.ipsec_hubs.len() < 2 {
            return;
        }
        let charon = self.router.charon_status();
        let is_usable = charon.is_some_and(|charon| charon.problem.is_none());
        // Another hub helps only where it is the hub that is missing.
        if !is_usable || !self.router.connected().is_empty() {
            self.ipsec_hub.down_since = None;
            return;
        }
        let now = Instant::now();
        let since = *self.ipsec_hub.down_since.get_or_insert(now);
        if now - since < PATIENCE {
            return;
        }
        let next = (self.ipsec_hub.number + 1) % self.config.ipsec_hubs.len();
        self.ipsec_hub = IpsecHub {
            number: next,
            down_since: Some(now),
        };
        self.follow_hub();
        let hub = self.hubs.get(next).map(|hub| hub.name.as_str());
        warn!(hub, "the hub in use is down; trying the next one");
        self.router.want(self.desired());
        self.router.reconcile().await;
    }

    pub(super) fn desired_ipsec(&self) -> Desired {
        let planned = self.hubs.iter().filter_map(|hub| hub.ipsec.clone());
        let planned = planned.map(|it| (it.tunnel.name.clone(), it));
        Desired {
            ipsec: Wanted {
                tunnels: planned.collect(),
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
        let in_use = self.ipsec_hub.number.min(hubs.len().saturating_sub(1));
        hubs.iter()
            .enumerate()
            .map(|(number, hub)| {
                let name = hub_name(number, hubs.len());
                let ipsec = match number == in_use {
                    true => self.planned(&name, hub).map_err(Obstacle::Pending),
                    false => Err(Obstacle::Pending(Reason::StandsBy)),
                };
                self.tunnel(name, hub, ipsec)
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
                tunnel,
                credential: IkeCredential::PresharedKey(secret),
            }),
        }
    }

    fn tunnel(
        &self,
        name: String,
        hub: &IpsecHubConfig,
        ipsec: Result<PlannedIpsec, Obstacle>,
    ) -> PlannedTunnel {
        let (ipsec, obstacle) = match ipsec {
            Ok(planned) => (Some(planned), None),
            Err(obstacle) => (None, Some(obstacle)),
        };
        PlannedTunnel {
            cidrs: self.config.privnet.nets().to_vec(),
            transport: Transport::Ipsec,
            endpoint: Some(SocketAddr::new(hub.endpoint, IKE_PORTS[0])),
            ipsec,
            obstacle,
            ..PlannedTunnel::named(name, Origin::Hub)
        }
    }
}
