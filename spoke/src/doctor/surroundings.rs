//! A spoke's instance and its VPC: what EC2 says of them, and what the role may change
//! there.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use privnet_ec2::doctor::{asked, fleet_secret, permitted};
use privnet_ec2::{AddressChoice, Mutation, SdkContext, Vpc};
use privnet_model::config::hub::SecretSource;
use privnet_model::config::spoke::{RemedyKind, RoutesConfig, SourceDestCheck, SpokeConfig};
use privnet_model::doctor::{Area, Finding, Verdict};
use privnet_model::id::RouteTableId;
use privnet_model::instance::InstanceDescription;
use privnet_model::inventory::{Identity, PORT_TAG, PUBLIC_KEY_TAG, TRANSPORT_TAG, Transport};
use privnet_model::key::PublicKey;
use privnet_model::vpc::{RouteAction, RouteTable, Siblings};
use privnet_reconcile::doctor::elastic_ip::{self, Addresses};
use privnet_reconcile::doctor::instance::{self, AddressNeed};
use privnet_reconcile::doctor::metadata;
use privnet_reconcile::doctor::permission::{self, Answer, Asked, Need};
use privnet_reconcile::doctor::route_table::{self, Tables};
use privnet_reconcile::vpc_route::Spokes;
use privnet_runtime::doctor::PATIENCE;
use tokio::time::{Instant, timeout};

/// This spoke and its VPC.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) config: &'a SpokeConfig,
    pub(super) identity: &'a Identity,
    pub(super) vpc: &'a Vpc,
    pub(super) end: Instant,
    /// What keeps the daemon from serving routes.
    pub(super) sick: Option<&'a str>,
}

impl Surroundings<'_> {
    /// What the next question may take.
    pub(super) fn patience(self) -> Duration {
        PATIENCE.min(self.end.saturating_duration_since(Instant::now()))
    }

    /// The instance and what surrounds it.
    pub(super) async fn outside(self, key: Option<&PublicKey>) -> Vec<Finding> {
        let instance = asked(self.patience(), self.vpc.instance(&self.identity.instance));
        let tables = asked(self.patience(), self.vpc.route_tables());
        let siblings = async {
            match self
                .config
                .routes
                .as_ref()
                .and_then(|it| it.takeover.as_ref())
            {
                Some(takeover) => {
                    asked(self.patience(), self.vpc.siblings(&takeover.siblings)).await
                }
                None => asked(self.patience(), self.vpc.itself(&self.identity.instance)).await,
            }
        };
        let (instance, tables, siblings) = tokio::join!(instance, tables, siblings);
        let mut findings = Vec::new();
        let described = match &instance {
            Ok(described) => described,
            Err(_) => {
                let finding = match &self.config.routes {
                    Some(_) => permission::needed("EC2", need("ec2:DescribeInstances"), &instance),
                    None => permission::extra("EC2", "ec2:DescribeInstances", &instance),
                };
                findings.extend(finding);
                return findings;
            }
        };
        findings.push(Finding::ok(Area::Aws, "EC2", "it answers"));
        findings.push(instance::source_dest_check(described));
        let address = instance::public_address(described.public, AddressNeed::Any);
        // The daemon itself fetches the one that the config names.
        let address = match (&self.config.address, address.verdict) {
            (Some(own), Verdict::Wrong) => Finding {
                remedy: vec![format!(
                    "journalctl -u privnet-spoke -n 50   # why it has not {}",
                    own.to_string().replace('\n', " ")
                )],
                ..address
            },
            _ => address,
        };
        let uses_it = self.config.nat.egress || self.config.transport != Transport::None;
        findings.extend(uses_it.then_some(address));
        let options = described.metadata;
        let options = options.ok_or_else(|| "EC2 does not tell it".to_owned());
        findings.push(metadata::hop_limit(&options));
        if self.config.publish {
            let transport = self.config.transport;
            let port = self.config.listen_port;
            findings.push(instance::published(&described.tags, transport, key, port));
        }
        let takeover = self.config.routes.as_ref();
        if let Some(takeover) = takeover.and_then(|routes| routes.takeover.as_ref()) {
            findings.push(instance::marked(&described.tags, &takeover.siblings));
        }
        let (groups, acl, check, routes, address) = tokio::join!(
            self.groups(described, siblings.as_ref().ok()),
            self.acl(described),
            self.may_switch_check_off(described),
            self.routes(described, &tables, &siblings),
            self.address(described, &siblings),
        );
        findings.extend(self.may_remedy(siblings.as_ref().ok()).await);
        findings.extend(groups);
        findings.extend(acl);
        findings.extend(check);
        findings.extend(routes);
        findings.extend(address);
        findings
    }

    /// The spokes of the VPC, this one among them, and why those are not all.
    fn spokes<'s>(
        self,
        described: &InstanceDescription,
        siblings: &'s Asked<Siblings>,
    ) -> (Spokes, Option<&'s str>) {
        let own = (self.identity.instance.clone(), described.interface.clone());
        let others = siblings.iter().flat_map(|found| found.spokes.values());
        let others = others.map(|it| (it.instance.clone(), it.interface.clone()));
        let takes_over = self.config.routes.as_ref().map(|it| it.takeover.is_some());
        let unknown = match (siblings, takes_over) {
            (Err(refusal), _) => Some(refusal.text.as_str()),
            (Ok(_), Some(false)) => Some("with takeover = false the other spokes are not known"),
            (Ok(_), Some(true) | None) => None,
        };
        (Spokes::new(others.chain([own])), unknown)
    }

    /// The Elastic IP of the config: who has it, and whether this spoke may have it.
    async fn address(
        self,
        described: &InstanceDescription,
        siblings: &Asked<Siblings>,
    ) -> Vec<Finding> {
        let Some(wanted) = &self.config.address else {
            return Vec::new();
        };
        let need = |action| Need {
            policy: "address-policy.json",
            ..need(action)
        };
        let choice = AddressChoice::from(wanted);
        let found = asked(self.patience(), self.vpc.addresses(&choice)).await;
        let found = match found {
            Ok(found) => found,
            Err(_) => {
                let need = need("ec2:DescribeAddresses");
                let finding = permission::needed("Elastic IP", need, &found);
                return finding.into_iter().collect();
            }
        };
        let (spokes, unknown) = self.spokes(described, siblings);
        let addresses = Addresses {
            wanted,
            found: &found,
            spokes: &spokes,
            own: &described.interface,
            unknown,
            sick: self.sick,
        };
        let mut findings = vec![elastic_ip::elastic_ip(addresses)];
        if let Some(allocation) = elastic_ip::to_try(addresses) {
            let object = allocation.to_string();
            let to = described.interface.clone();
            let mutation = Mutation::AssociateAddress { allocation, to };
            let answer = self.may(&mutation).await;
            let need = Need {
                object: &object,
                ..need("ec2:AssociateAddress")
            };
            findings.push(permission::permission(need, &answer));
        }
        findings
    }

    /// The route tables, and whether this spoke may change them.
    async fn routes(
        self,
        described: &InstanceDescription,
        tables: &Asked<BTreeMap<RouteTableId, RouteTable>>,
        siblings: &Asked<Siblings>,
    ) -> Vec<Finding> {
        let (spokes, unknown) = self.spokes(described, siblings);
        let view = |tables| Tables {
            tables,
            spokes: &spokes,
            own: &described.interface,
            subnet: &described.subnet,
            zone: self.identity.zone.as_ref(),
            unknown,
            sick: self.sick,
        };
        let Some(config) = &self.config.routes else {
            return match tables {
                Ok(tables) => vec![route_table::led_here(view(tables))],
                Err(_) => {
                    let action = "ec2:DescribeRouteTables, ec2:DescribeSubnets";
                    let finding = permission::extra("route tables", action, tables);
                    finding.into_iter().collect()
                }
            };
        };
        let refused = permission::needed("siblings", need("ec2:DescribeInstances"), siblings);
        let mut findings: Vec<Finding> = refused.into_iter().collect();
        let tables = match tables {
            Ok(tables) => view(tables),
            Err(_) => {
                let action = "ec2:DescribeRouteTables, ec2:DescribeSubnets";
                findings.extend(permission::needed("route tables", need(action), tables));
                return findings;
            }
        };
        findings.extend(route_table::served(tables, config, &self.config.privnet));
        findings.extend(self.may_change_routes(tables, config).await);
        findings
    }

    async fn may_change_routes(self, tables: Tables<'_>, config: &RoutesConfig) -> Vec<Finding> {
        let changes = route_table::to_try(tables, config, &self.config.privnet);
        let tried = changes.into_iter().map(|change| async move {
            let action = match &change.action {
                RouteAction::Create { .. } => "ec2:CreateRoute",
                RouteAction::Replace { .. } => "ec2:ReplaceRoute",
            };
            let table = change.table.clone();
            let answer = self.may(&Mutation::Route(change)).await;
            let need = Need {
                object: table.as_str(),
                ..need(action)
            };
            permission::permission(need, &answer)
        });
        join_all(tried).await
    }

    /// Whether it may restart siblings, tried with one of them. Whether it may report them
    /// to their groups cannot be tried.
    async fn may_remedy(self, siblings: Option<&Siblings>) -> Vec<Finding> {
        let routes = self.config.routes.as_ref();
        let takeover = routes.and_then(|routes| routes.takeover.as_ref());
        let remedy = takeover.and_then(|takeover| takeover.remedy);
        if remedy.is_some_and(|remedy| remedy.kind == RemedyKind::Unhealthy) {
            return vec![permission::untried("autoscaling:SetInstanceHealth")];
        }
        let mut others = siblings.iter().flat_map(|found| found.spokes.keys());
        let other = others.find(|other| **other != self.identity.instance);
        let (Some(RemedyKind::Restart), Some(instance)) = (remedy.map(|it| it.kind), other) else {
            return Vec::new();
        };
        let instance = || instance.clone();
        let stop = Mutation::StopInstance {
            instance: instance(),
        };
        let start = Mutation::StartInstance {
            instance: instance(),
        };
        let tried = [("ec2:StopInstances", stop), ("ec2:StartInstances", start)];
        let object = instance().to_string();
        let tried = tried.map(|(action, mutation)| {
            let object = &object;
            async move {
                let answer = self.may(&mutation).await;
                let need = Need {
                    action,
                    object,
                    policy: "remedy-policy.json",
                    role: None,
                };
                permission::permission(need, &answer)
            }
        });
        join_all(tried).await
    }

    async fn may_switch_check_off(self, described: &InstanceDescription) -> Option<Finding> {
        let routes = self.config.routes.as_ref()?;
        if routes.source_dest_check != SourceDestCheck::Off {
            return None;
        }
        let interface = described.interface.clone();
        let object = interface.to_string();
        let answer = self.may(&Mutation::SourceDestCheckOff { interface }).await;
        let need = Need {
            action: "ec2:ModifyNetworkInterfaceAttribute",
            object: &object,
            policy: "source-dest-check-policy.json",
            role: None,
        };
        Some(permission::permission(need, &answer))
    }

    /// Whether it may publish its key: tried with the tags that the daemon sets.
    pub(super) async fn may_tag(self, key: Option<&PublicKey>) -> Option<Finding> {
        if !self.config.publish {
            return None;
        }
        let instance = self.identity.instance.clone();
        let object = instance.to_string();
        let mut tags =
            BTreeMap::from([(TRANSPORT_TAG.to_owned(), self.config.transport.to_string())]);
        if let Some(key) = key {
            tags.insert(PUBLIC_KEY_TAG.to_owned(), key.to_string());
            tags.insert(PORT_TAG.to_owned(), self.config.listen_port.to_string());
        }
        let answer = self.may(&Mutation::Tag { instance, tags }).await;
        let need = Need {
            action: "ec2:CreateTags",
            object: &object,
            policy: "spoke-policy.json",
            role: None,
        };
        Some(permission::permission(need, &answer))
    }

    async fn may(self, mutation: &Mutation) -> Answer {
        let patience = self.patience();
        match timeout(patience, self.vpc.permission(mutation)).await {
            Ok(permission) => permitted(&permission),
            Err(_) => Answer::Unclear("EC2 did not answer in time".to_owned()),
        }
    }

    /// Whether the fleet's secret can be had, where SSM has it.
    pub(super) async fn secret(self, context: &SdkContext) -> Option<Finding> {
        let Some(SecretSource::Ssm(name)) = &self.config.preshared_key else {
            return None;
        };
        Some(fleet_secret(context, &self.identity.region, name, PATIENCE).await)
    }
}

/// What a spoke with routes needs for them.
const fn need(action: &str) -> Need<'_> {
    Need {
        action,
        object: "",
        policy: "routes-policy.json",
        role: None,
    }
}
