//! The route tables that a spoke serves, or ought to be led to by.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use privnet_model::config::spoke::{RoutesConfig, TableSelection};
use privnet_model::doctor::{Area, Finding};
use privnet_model::id::{InterfaceId, RouteTableId, SubnetId, Zone};
use privnet_model::net::Supernet;
use privnet_model::vpc::{
    RouteAction, RouteChange, RouteOrigin, RouteState, RouteTable, RouteTarget,
};

use crate::vpc_route::{Foreign, Holder, Spokes, holder, home_tables};

const AREA: Area = Area::Aws;

/// Routes that a table may have unless its quota was raised (VPC user guide, "Amazon VPC
/// quotas": 50 without those that are propagated), less room for our own.
const NEARLY_FULL: usize = 45;

/// What is known of the VPC.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    /// All its route tables.
    pub tables: &'a BTreeMap<RouteTableId, RouteTable>,
    /// Its spokes with their interfaces, this one among them.
    pub spokes: &'a Spokes,
    /// This spoke's interface.
    pub own: &'a InterfaceId,
    /// Its subnet.
    pub subnet: &'a SubnetId,
    /// Its zone.
    pub zone: Option<&'a Zone>,
    /// Why not all spokes of the VPC are known; `None` when they are.
    pub unknown: Option<&'a str>,
    /// What keeps the daemon from making routes, as far as that is known.
    pub sick: Option<&'a str>,
}

/// The home tables, and what is in each place of them that should lead to a spoke.
pub fn served(vpc: Tables<'_>, config: &RoutesConfig, privnet: &Supernet) -> Vec<Finding> {
    let homes = home(vpc, &config.tables);
    let mut findings = vec![selected(vpc, &config.tables, &homes)];
    for id in &homes {
        let Some(table) = vpc.tables.get(id) else {
            let found = format!("{id} of routes.tables is not in this VPC");
            findings.push(
                Finding::wrong(AREA, "route table", found)
                    .mend("aws ec2 describe-route-tables --region $REGION --filters Name=vpc-id,Values=$VPC")
                    .mend("tables = [\"rtb-…\"]   # in [routes] of the config file, one of those"),
            );
            continue;
        };
        for destination in config.destinations(privnet) {
            findings.push(place(vpc, table, &destination));
        }
        findings.extend(room(table));
        if leaves_in_clear(config) {
            findings.extend(own_subnet(vpc, table));
        }
        if table.subnets.is_empty() {
            let found = format!("{id} serves no subnet, so nobody follows it");
            findings.push(Finding::warning(AREA, "route table", found).mend(format!(
                "aws ec2 associate-route-table --region $REGION --route-table-id {id} --subnet-id SUBNET"
            )));
        }
    }
    findings
}

fn home(vpc: Tables<'_>, selection: &TableSelection) -> BTreeSet<RouteTableId> {
    let tables: Vec<RouteTable> = vpc.tables.values().cloned().collect();
    match (vpc.zone, selection) {
        (Some(zone), selection) => home_tables(selection, &tables, zone),
        (None, TableSelection::Listed(listed)) => listed.clone(),
        (None, TableSelection::Zone | TableSelection::Tagged(_)) => BTreeSet::new(),
    }
}

fn selected(
    vpc: Tables<'_>,
    selection: &TableSelection,
    homes: &BTreeSet<RouteTableId>,
) -> Finding {
    let check = "route tables";
    if !homes.is_empty() {
        let homes: Vec<&str> = homes.iter().map(RouteTableId::as_str).collect();
        return Finding::ok(
            AREA,
            check,
            format!("this spoke's own: {}", homes.join(", ")),
        );
    }
    let zone = vpc.zone.map_or("its zone", Zone::as_str);
    let (found, mend) = match selection {
        TableSelection::Zone => (
            format!("none serves a private subnet of {zone}, so this spoke serves none"),
            "tables = [\"rtb-…\"]   # in [routes] of the config file".to_owned(),
        ),
        TableSelection::Tagged(tags) => {
            let tags: Vec<String> = tags
                .iter()
                .map(|(key, value)| format!("{key} = {value}"))
                .collect();
            (
                format!("none has the tags {} (`self` is {zone})", tags.join(", ")),
                "aws ec2 create-tags --region $REGION --resources rtb-… --tags Key=KEY,Value=VALUE"
                    .to_owned(),
            )
        }
        TableSelection::Listed(_) => (
            "routes.tables names none".to_owned(),
            "tables = \"zone\"   # in [routes] of the config file".to_owned(),
        ),
    };
    Finding::wrong(AREA, check, found).mend(mend)
}

fn place(vpc: Tables<'_>, table: &RouteTable, destination: &IpNet) -> Finding {
    let check = "route";
    let place = format!("{destination} in {}", table.id);
    // A route to a spoke that is not well helps nobody: the daemon makes them itself.
    let daemon = |found: String| {
        let sick = vpc.sick.map(|why| format!(": {why}"));
        let found = format!(
            "{found}; the daemon makes it once its self-test passes{}",
            sick.unwrap_or_default()
        );
        Finding::wrong(AREA, check, found).mend("journalctl -u privnet-spoke -n 50   # why not yet")
    };
    match holder(table, destination, vpc.spokes) {
        Holder::Spoke {
            instance,
            blackhole: false,
        } => Finding::ok(AREA, check, format!("{place} leads to {instance}")),
        Holder::Spoke { instance, .. } => daemon(format!(
            "{place} leads to {instance}, which is gone: a black hole"
        )),
        Holder::Nobody => daemon(format!("there is none to {place}")),
        Holder::Foreign {
            target,
            why: Foreign::NoSpoke,
        } if let Some(why) = vpc.unknown => {
            let found = format!("{place} leads to {target}; whether that is a spoke: {why}");
            Finding::not_checked(AREA, check, found)
        }
        Holder::Foreign { target, why } => {
            let found = format!("{place} leads to {target}, which no spoke touches");
            let finding = Finding::wrong(AREA, check, found);
            let without = "tables = [\"rtb-…\"]   # in [routes]: without this table, or without this \
                           destination";
            match (why, target) {
                // Whoever follows this table is reached from the internet by it.
                (Foreign::Propagated | Foreign::Local, _)
                | (_, RouteTarget::InternetGateway(_)) => finding.mend(without),
                (Foreign::NoSpoke | Foreign::Gateway, _) => finding
                    .mend("have what made it (Terraform, CloudFormation) lead it here, or no longer make it")
                    .mend(without),
            }
        }
    }
}

/// Whether what a spoke is led leaves it again by its subnet's table, and not in a tunnel.
/// (The privnet is led to a spoke with a tunnel only: the config insists.)
fn leaves_in_clear(config: &RoutesConfig) -> bool {
    config.default || !config.extra.is_empty()
}

/// What a spoke sends follows the table of its own subnet, what it has masqueraded as well.
fn own_subnet(vpc: Tables<'_>, table: &RouteTable) -> Option<Finding> {
    let (id, subnet) = (&table.id, vpc.subnet);
    table.subnets.contains_key(subnet).then(|| {
        let found = format!(
            "{id} serves this spoke's own subnet, {subnet}: what it sends by such a route comes \
             back to it"
        );
        Finding::wrong(AREA, "route table", found)
            .mend("tables = [\"rtb-…\"]   # in [routes]: without this one")
            .mend(
                "aws ec2 describe-route-tables --region $REGION --filters Name=vpc-id,Values=$VPC   \
                 # or give that subnet another table, which leads to the internet gateway",
            )
    })
}

fn room(table: &RouteTable) -> Option<Finding> {
    let made = table.routes.iter();
    let made = made.filter(|route| route.origin != RouteOrigin::Propagated);
    let count = made.count();
    (count >= NEARLY_FULL).then(|| {
        let found = format!(
            "{} has {count} routes; it may have 50 unless the quota was raised",
            table.id
        );
        Finding::warning(AREA, "route table", found).mend(
            "aws service-quotas request-service-quota-increase --region $REGION --service-code \
             vpc --quota-code L-93826ACB --desired-value 100",
        )
    })
}

/// Whether anything leads to a spoke whose config says nothing of routes: then somebody
/// else must have made them.
pub fn led_here(vpc: Tables<'_>) -> Finding {
    let check = "route tables";
    let mut here = Vec::new();
    for table in vpc.tables.values() {
        let leads = |target: &RouteTarget| target.interface() == Some(vpc.own);
        for route in table.routes.iter().filter(|route| leads(&route.target)) {
            let (id, destination) = (&table.id, &route.destination);
            if route.state == RouteState::Blackhole {
                let found =
                    format!("{destination} in {id} leads here, and EC2 calls it a black hole");
                return Finding::wrong(AREA, check, found).mend(
                    "aws ec2 describe-instance-status --region $REGION --instance-ids $INSTANCE",
                );
            }
            here.push(format!("{destination} in {id}"));
        }
    }
    if here.is_empty() {
        return Finding::warning(
            AREA,
            check,
            "none of this VPC leads anything to this instance",
        )
        .mend("[routes]   # in the config file: then the daemon makes them")
        .mend(format!(
            "or have what makes routes (Terraform) lead them to {}",
            vpc.own
        ));
    }
    Finding::ok(AREA, check, format!("here lead {}", here.join(", ")))
}

/// What to ask for by dry runs, so that even an EC2 that carried it out would change
/// nothing that was there: routes as they are, and those that are missing.
pub fn to_try(vpc: Tables<'_>, config: &RoutesConfig, privnet: &Supernet) -> Vec<RouteChange> {
    let mut changes = Vec::new();
    for id in home(vpc, &config.tables) {
        let Some(table) = vpc.tables.get(&id) else {
            continue;
        };
        let (mut create, mut replace) = (None, None);
        for destination in config.destinations(privnet) {
            let change = |action| RouteChange {
                table: id.clone(),
                destination,
                action,
            };
            match holder(table, &destination, vpc.spokes) {
                Holder::Nobody => {
                    let to = vpc.own.clone();
                    create.get_or_insert_with(|| change(RouteAction::Create { to }));
                }
                Holder::Spoke { .. } => {
                    let route = table.route(&destination);
                    let present = route.and_then(|route| route.target.interface());
                    if let (Some(route), Some(to)) = (route, present) {
                        let (seen, to) = (route.target.clone(), to.clone());
                        replace.get_or_insert_with(|| change(RouteAction::Replace { seen, to }));
                    }
                }
                Holder::Foreign { .. } => {}
            }
        }
        // EC2 decides by table: one of each is enough.
        changes.extend(create.into_iter().chain(replace));
    }
    changes
}

#[cfg(test)]
mod tests;
