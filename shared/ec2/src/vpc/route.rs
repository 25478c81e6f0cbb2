//! Changes of routes: each made only if the route is still as it was seen.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::operation::create_route::builders::CreateRouteFluentBuilder;
use aws_sdk_ec2::operation::replace_route::builders::ReplaceRouteFluentBuilder;
use futures_util::stream::{self, StreamExt};
use ipnet::IpNet;
use privnet_model::id::{InterfaceId, RouteTableId};
use privnet_model::vpc::{Route, RouteAction, RouteChange, RouteOrigin, RouteOutcome, RouteTable};

use crate::asking::{Asking, FILTER_VALUES};
use crate::error::{Ec2Error, Operation};
use crate::filter;
use crate::vpc::{ROUTES_POLICY, Vpc};

/// Changes under way at once. EC2 lets an account make 50 at once in a region, and 5
/// more per second (EC2 API reference, "Request throttling").
const CONCURRENT: usize = 8;

impl Vpc {
    /// Makes these changes, as many as possible at once: what became of each, in their
    /// order. The tables are described once before, so no two of them may be about the
    /// same route. A route that leads to anything else than an interface or an
    /// instance, or that nobody made by hand, is left alone whatever the
    /// change says. Just before each is asked for, `wanted` tells whether it still is:
    /// the look and the changes before it may have taken seconds.
    pub async fn change_routes(
        &self,
        changes: &[RouteChange],
        wanted: impl Fn(&RouteChange) -> bool + Sync,
    ) -> Vec<Result<RouteOutcome, Ec2Error>> {
        let asking = self.asking();
        let ids: BTreeSet<_> = changes.iter().map(|change| &change.table).collect();
        let tables = match self.look(&asking, &ids).await {
            Ok(tables) => tables,
            Err(error) => return vec![Err(error); changes.len()],
        };
        // Made before they are polled: a closure over references would keep the whole
        // from being sent to another thread.
        let changes: Vec<_> = changes
            .iter()
            .map(|change| self.change(&asking, change, tables.get(&change.table), &wanted))
            .collect();
        stream::iter(changes).buffered(CONCURRENT).collect().await
    }

    /// These tables of the VPC as they are now, but for their subnets.
    async fn look(
        &self,
        asking: &Asking<'_>,
        ids: &BTreeSet<&RouteTableId>,
    ) -> Result<BTreeMap<RouteTableId, RouteTable>, Ec2Error> {
        let ids: Vec<_> = ids.iter().copied().collect();
        let mut tables = BTreeMap::new();
        for chunk in ids.chunks(FILTER_VALUES) {
            let filters = vec![self.inside(), filter::route_tables(chunk.iter().copied())];
            let described = self.describe_tables(asking, filters).await?;
            let described = described.into_iter();
            tables.extend(described.map(|(table, _)| (table.id.clone(), table)));
        }
        Ok(tables)
    }

    async fn change(
        &self,
        asking: &Asking<'_>,
        change: &RouteChange,
        table: Option<&RouteTable>,
        wanted: &(impl Fn(&RouteChange) -> bool + Sync),
    ) -> Result<RouteOutcome, Ec2Error> {
        let Some(table) = table else {
            return Ok(RouteOutcome::NoTable);
        };
        let now = table.route(&change.destination);
        match step(&change.action, now) {
            Step::Nothing => Ok(RouteOutcome::Done),
            Step::Conflict => Ok(conflict(now)),
            Step::Ask if !wanted(change) => Ok(RouteOutcome::Withdrawn),
            Step::Ask => match self.ask(asking, change).await {
                Ok(()) => Ok(RouteOutcome::Done),
                Err(error) => self.after_refusal(asking, change, error).await,
            },
        }
    }

    async fn ask(&self, asking: &Asking<'_>, change: &RouteChange) -> Result<(), Ec2Error> {
        let RouteChange {
            table, destination, ..
        } = change;
        let budget = asking.budget.clone();
        let result = match &change.action {
            RouteAction::Create { to } => {
                let request = self.create_route(table, destination, to).customize();
                let answer = request.interceptor(budget).send();
                asking.once(Operation::CreateRoute, answer).await.map(drop)
            }
            RouteAction::Replace { to, .. } => {
                let request = self.replace_route(table, destination, to).customize();
                let answer = request.interceptor(budget).send();
                asking.once(Operation::ReplaceRoute, answer).await.map(drop)
            }
        };
        result.map_err(|error| about(error, change))
    }

    /// Somebody came first, or EC2 carried out the try before the one that it refuses
    /// and its answer to that got lost. Which of them, a second look tells.
    async fn after_refusal(
        &self,
        asking: &Asking<'_>,
        change: &RouteChange,
        error: Ec2Error,
    ) -> Result<RouteOutcome, Ec2Error> {
        match error.refused_with() {
            Some("InvalidRouteTableID.NotFound") => return Ok(RouteOutcome::NoTable),
            Some("RouteAlreadyExists" | "InvalidRoute.NotFound") => {}
            Some(_) | None => return Err(error),
        }
        let tables = self.look(asking, &BTreeSet::from([&change.table])).await?;
        let Some(table) = tables.get(&change.table) else {
            return Ok(RouteOutcome::NoTable);
        };
        let now = table.route(&change.destination);
        Ok(match step(&change.action, now) {
            Step::Nothing => RouteOutcome::Done,
            Step::Ask | Step::Conflict => conflict(now),
        })
    }

    pub(super) fn create_route(
        &self,
        table: &RouteTableId,
        destination: &IpNet,
        to: &InterfaceId,
    ) -> CreateRouteFluentBuilder {
        let (ipv4, ipv6) = by_family(destination);
        self.client
            .create_route()
            .route_table_id(table.as_str())
            .set_destination_cidr_block(ipv4)
            .set_destination_ipv6_cidr_block(ipv6)
            .network_interface_id(to.as_str())
    }

    pub(super) fn replace_route(
        &self,
        table: &RouteTableId,
        destination: &IpNet,
        to: &InterfaceId,
    ) -> ReplaceRouteFluentBuilder {
        let (ipv4, ipv6) = by_family(destination);
        self.client
            .replace_route()
            .route_table_id(table.as_str())
            .set_destination_cidr_block(ipv4)
            .set_destination_ipv6_cidr_block(ipv6)
            .network_interface_id(to.as_str())
    }
}

/// What is to be done about a change, by how the route is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It is as it should be.
    Nothing,
    /// It is as it was seen.
    Ask,
    /// It is neither.
    Conflict,
}

fn step(action: &RouteAction, now: Option<&Route>) -> Step {
    let (RouteAction::Create { to } | RouteAction::Replace { to, .. }) = action;
    match (action, now) {
        (_, Some(now)) if now.target.interface() == Some(to) => Step::Nothing,
        (RouteAction::Create { .. }, None) => Step::Ask,
        (RouteAction::Replace { seen, .. }, Some(now))
            if may_be_changed(now) && now.target.is_same(seen) =>
        {
            Step::Ask
        }
        (RouteAction::Create { .. } | RouteAction::Replace { .. }, _) => Step::Conflict,
    }
}

/// What no spoke ever made is not a spoke's to change, however a plan came to it.
fn may_be_changed(route: &Route) -> bool {
    let to_an_instance = route.target.interface().is_some() || route.target.instance().is_some();
    to_an_instance && route.origin == RouteOrigin::CreateRoute
}

fn conflict(now: Option<&Route>) -> RouteOutcome {
    RouteOutcome::Conflict {
        now: now.map(|route| route.target.clone()),
    }
}

pub(super) fn about(error: Ec2Error, change: &RouteChange) -> Ec2Error {
    error.about(format!("route table {}", change.table), ROUTES_POLICY)
}

/// A CIDR where EC2 expects one of its family.
fn by_family(cidr: &IpNet) -> (Option<String>, Option<String>) {
    match cidr {
        IpNet::V4(cidr) => (Some(cidr.to_string()), None),
        IpNet::V6(cidr) => (None, Some(cidr.to_string())),
    }
}
