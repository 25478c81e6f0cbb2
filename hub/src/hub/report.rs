//! What the operator is told: how things are, and why.

use jiff::Timestamp;
use privnet_model::admin::{WhyAnswer, WhyRequest};
use privnet_model::status::{Role, RuleStatus, Status};
use privnet_reconcile::why::{self, WhyInput};

use super::Hub;

impl Hub {
    pub(super) fn status(&self) -> Status {
        let mut tunnels = self.router.tunnels(self.fleet.tunnels.values());
        self.watch.count_failovers(&mut tunnels);
        Status {
            role: Role::Hub,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            now: Timestamp::now(),
            instance: Some(self.router.identity().instance.clone()),
            privnet: self.config.privnet.clone(),
            interface: self.router.interface_status(),
            charon: self.router.charon_status(),
            nat: None,
            tunnels,
            partitions: self.tally.status(&self.inventory),
            next_poll: Some(self.clock.due_at()),
            held_removals: self.inventory.held_removals,
            policy: self.rules(),
            routes: None,
            problems: self
                .router
                .problems()
                .chain(self.cache_problem.clone())
                .chain(self.gateways.problem().cloned())
                .chain(self.policy_problem.clone())
                .chain(self.inventory.held_removals.map(|held| held.to_string()))
                .chain(self.preshared.problem())
                .chain(self.site_keys.problems())
                .collect(),
        }
    }

    /// The policy's rules, with what each denied.
    fn rules(&self) -> Vec<RuleStatus> {
        let denied = self.router.denied();
        let rules = self.policy.rules().iter().enumerate();
        rules
            .map(|(number, rule)| RuleStatus {
                rule: rule.clone(),
                denied: denied.get(number).copied().unwrap_or_default(),
            })
            .collect()
    }

    /// Why something is or is not connected.
    pub(super) fn why(&self, request: &WhyRequest) -> WhyAnswer {
        let identity = self.router.identity();
        let input = WhyInput {
            privnet: &self.config.privnet,
            hub_vpc: &identity.vpc,
            hub_cidrs: &identity.vpc_cidrs,
            fleet: &self.fleet,
            inventory: &self.inventory,
            status: &self.status(),
            policy: &self.policy,
        };
        why::explain(&input, &request.subject, request.towards.as_deref())
    }

    pub(super) fn summary(&self) -> String {
        let tunnels = self.fleet.peers().len() + self.fleet.ipsec().count();
        format!("{tunnels} tunnels configured")
    }
}
