//! Deciding anew: when something is known that was not, when somebody fell silent or
//! came back, when a gateway became well or sick. What is decided is
//! `privnet_reconcile`'s; here it is asked, told and put in force.

use std::collections::BTreeSet;
use std::time::SystemTime;

use ipnet::IpNet;
use jiff::Timestamp;
use privnet_ipsec::Wanted;
use privnet_model::admin::Change;
use privnet_model::config::hub::SiteLink;
use privnet_model::enrol::HUB_ADDRESS;
use privnet_model::inventory::{Inventory, Partition};
use privnet_model::ipsec::{ConnectionName, IkeId};
use privnet_model::key::PublicKey;
use privnet_model::policy::{PolicyTable, Verdict};
use privnet_reconcile::fleet::{Fleet, FleetInput, IpsecInput};
use privnet_reconcile::health::HealthChange;
use privnet_reconcile::inventory::{Accepted, Removed, Sweep};
use privnet_reconcile::policy::PolicyInput;
use privnet_reconcile::{alive, explain};
use privnet_runtime::fleet_secret::TunnelKeys;
use privnet_runtime::router::Desired;
use tracing::{debug, info, warn};

use super::Hub;
use crate::poll::known;

impl Hub {
    /// Decides anew on what is known already.
    pub(super) fn decide_anew(&mut self) -> Vec<Change> {
        let inventory = std::mem::take(&mut self.inventory);
        let mut sweep = Sweep::begin(&inventory, Accepted::default());
        self.take_inventory(inventory, Vec::new(), &mut sweep)
    }

    /// Decides anew, and tells and logs what that changes.
    pub(super) fn take_inventory(
        &mut self,
        inventory: Inventory,
        mut removed: Vec<Removed>,
        sweep: &mut Sweep,
    ) -> Vec<Change> {
        // The config may have changed while the poll was under way.
        let configured = self.configured(&inventory);
        let (inventory, dropped) = sweep.keep_configured(inventory, &configured, Timestamp::now());
        removed.extend(dropped);
        let alive = self.alive();
        let fleet = self.decide(&inventory, &alive);
        let changes = explain::changes(&self.fleet, &fleet, &removed);
        for change in &changes {
            info!(action = %change.action, what = change.what, why = change.why, "plan");
        }
        self.journal.record_changes(Timestamp::now(), &changes);
        self.inventory = inventory;
        self.carried = fleet.carried();
        self.fleet = fleet;
        self.enforce_policy();
        self.alive = alive;
        // Probes come from this address, and have to fit the tunnels' selectors.
        let own = self.router.identity().private_address;
        let esp = self.router.esp();
        let esp = esp.filter(|_| self.config.privnet.contains_address(own));
        self.gateways.watch(&self.fleet, esp);
        changes
    }

    pub(super) fn configured(&self, inventory: &Inventory) -> BTreeSet<Partition> {
        self.discovery.partitions(&known(inventory))
    }

    pub(super) fn decide(&self, inventory: &Inventory, alive: &BTreeSet<PublicKey>) -> Fleet {
        let identity = self.router.identity();
        let own_id = self.ike_id();
        let hub_keys: Vec<PublicKey> = [self.public_key].into_iter().chain(self.next_key).collect();
        Fleet::decide(FleetInput {
            privnet: &self.config.privnet,
            hub_keys: &hub_keys,
            hub_vpc: &identity.vpc,
            hub_cidrs: &identity.vpc_cidrs,
            sites: &self.sites,
            inventory,
            trust: &self.config.trust,
            carried: &self.carried,
            alive,
            health: self.gateways.health(),
            preshared: &|spoke| match self.preshared.keys(spoke, &self.public_key) {
                TunnelKeys::Known(keys) => Some(keys.current),
                TunnelKeys::None | TunnelKeys::Unknown => None,
            },
            ipsec: IpsecInput {
                address: identity.private_address,
                id: &own_id,
                secret: &|spoke| self.preshared.ike_secret(spoke, &own_id),
                up: &self.connected_now(),
                esp: self.router.esp(),
            },
        })
    }

    /// The IPsec tunnels that are up; before strongSwan has told, those that were when the
    /// hub last ran.
    fn connected_now(&self) -> BTreeSet<ConnectionName> {
        match self.router.knows_connected() {
            true => self.router.connected(),
            false => self.connected_before.clone(),
        }
    }

    /// Who we say we are in IKE: what spokes have as their hub's endpoint, unless the
    /// config names something else.
    fn ike_id(&self) -> IkeId {
        let identity = self.router.identity();
        let address = identity.public_address.unwrap_or(identity.private_address);
        let configured = self.config.ipsec.id.clone();
        configured.unwrap_or_else(|| IkeId::from(address))
    }

    /// Compiles the policy for the sites that there are, and has the data plane keep
    /// to it before any peer is added because of them. One that cannot be compiled
    /// leaves the one before in force.
    fn enforce_policy(&mut self) {
        let compiled = self.policy.renewed(PolicyInput {
            rules: &self.config.policy,
            fleet: &self.fleet,
            inventory: &self.inventory,
            hub_cidrs: &self.router.identity().vpc_cidrs,
            control: HUB_ADDRESS.into(),
        });
        let enforced = match compiled {
            // Also one that is like ours before: the router may have another ([`closed`]),
            // and the words may be others.
            Ok(policy) => {
                let set = self.router.set_policy(policy.table(), policy.rules());
                set.map(|()| self.policy = policy)
            }
            Err(error) => Err(error.into()),
        };
        let problem = enforced.err().map(|error| {
            // The first one there is: nothing is known to be allowed.
            let closed = !self.policy_known && self.router.set_policy(&closed(), &[]).is_ok();
            let instead = match closed {
                true => "nothing may pass between sites",
                false => "the policy before stays in force",
            };
            format!("{instead}, because the policy cannot be: {error:#}")
        });
        self.policy_known |= problem.is_none();
        if let Some(problem) = &problem
            && self.policy_problem.as_ref() != Some(problem)
        {
            warn!("{problem}");
        }
        self.policy_problem = problem;
    }

    /// The keys whose tunnels carry traffic.
    pub(super) fn alive(&self) -> BTreeSet<PublicKey> {
        let peers = self.router.peers();
        let now = SystemTime::now();
        // While tunnels wait for the fleet's secret, their silence is our own.
        let started = match self.preshared.is_missing() {
            true => now,
            false => self.started.into(),
        };
        alive::keys(&peers, &self.alive_before, started, now)
    }

    pub(super) async fn gateways_changed(&mut self, changes: &[HealthChange]) {
        for HealthChange { tunnel, from, to } in changes {
            if let Some(tunnel) = self.fleet.tunnels.get(tunnel) {
                // One that failed may come and go for long.
                match from.has_failed() && to.has_failed() {
                    true => debug!(tunnel = tunnel.name, %from, "gateway is {to}"),
                    false => info!(tunnel = tunnel.name, %from, "gateway is {to}"),
                }
            }
        }
        self.settle().await;
    }

    /// Decides anew by who is alive and well now, and has the packets follow at
    /// once: a spoke whose key is silent gets the one it published, a site that is
    /// silent loses what another wants, a gateway takes over from another.
    pub(super) async fn settle(&mut self) {
        let routed = |fleet: &Fleet| {
            // Each tunnel by IPsec may have an interface of its own.
            let planned = fleet.ipsec().filter_map(|it| it.ipsec.as_ref());
            let by_ipsec = planned.map(|it| (it.tunnel.name.clone(), it.routed.clone()));
            let by_ipsec: Vec<(ConnectionName, BTreeSet<IpNet>)> = by_ipsec.collect();
            let all: BTreeSet<IpNet> = fleet.cidrs().collect();
            (all, behind_ipsec(fleet), by_ipsec)
        };
        let (before, table) = (routed(&self.fleet), self.router.policy().clone());
        self.decide_anew();
        if routed(&self.fleet) != before || *self.router.policy() != table {
            self.reconcile().await;
            return;
        }
        // Routes stay as they are, and a failover does not wait for a look at them.
        self.router.want(self.desired(&self.fleet));
        if let Err(error) = self.router.apply_tunnels().await {
            warn!("{error:#}; trying again with the next look at the host");
        }
    }

    pub(super) fn desired(&self, fleet: &Fleet) -> Desired {
        let mut peers = fleet.peers();
        let is_site = |key: &PublicKey| {
            let mut sites = self.sites.iter();
            sites.any(|site| matches!(&site.config.link, SiteLink::Wireguard(it) if it.public_key == *key))
        };
        for (key, peer) in &mut peers {
            if peer.endpoint.is_none() {
                peer.endpoint = self.remembered.get(key).copied();
            }
        }
        // While the secret is not known, no tunnel is better than one without it.
        peers.retain(|key, peer| {
            let keys = match is_site(key) {
                true => TunnelKeys::None,
                false => self.preshared.keys(key, &self.public_key),
            };
            match keys {
                TunnelKeys::None => true,
                TunnelKeys::Unknown => false,
                TunnelKeys::Known(keys) => {
                    peer.also_preshared_key = keys.previous;
                    true
                }
            }
        });
        Desired {
            peers,
            destinations: fleet.cidrs().collect(),
            ipsec: Wanted {
                tunnels: fleet
                    .ipsec()
                    .filter_map(|tunnel| tunnel.ipsec.clone())
                    .map(|planned| (planned.tunnel.name.clone(), planned))
                    .collect(),
                // Nor is any taken down before it is known what it should be.
                keeps_others: self.preshared.is_missing(),
                keeps: self.site_keys.unknown().collect(),
                ..Wanted::default()
            },
            behind_ipsec: behind_ipsec(fleet),
        }
    }

    pub(super) async fn reconcile(&mut self) -> (Vec<Change>, Vec<String>) {
        self.router.want(self.desired(&self.fleet));
        self.router.reconcile().await
    }
}

/// What lies behind tunnels by IPsec.
fn behind_ipsec(fleet: &Fleet) -> BTreeSet<IpNet> {
    let planned = fleet.ipsec().filter_map(|tunnel| tunnel.ipsec.as_ref());
    planned
        .flat_map(|planned| planned.tunnel.remote.selectors.iter().copied())
        .collect()
}

/// Lets spokes talk to the hub's own address inside the tunnels, and to nobody else.
fn closed() -> PolicyTable {
    let control = vec![(IpNet::from(std::net::IpAddr::from(HUB_ADDRESS)), 1)];
    PolicyTable::new(control, 2, 1, |from, to| match from == 1 || to == 1 {
        true => Verdict::Allow,
        false => Verdict::Deny(0),
    })
}
