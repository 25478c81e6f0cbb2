//! A spoke's own VPC: who else serves it, its route tables, and what a spoke may
//! change there.
//!
//! Nothing is decided here and nothing is remembered. What changes something looks
//! afresh before it does, and does nothing when it finds what the caller did not
//! expect: EC2 itself knows no "only if". Between that look and the change a few
//! milliseconds remain in which another may come first.

mod address;
mod description;
mod interface;
mod machine;
mod permission;
mod route;
mod surroundings;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_ec2::operation::describe_route_tables::DescribeRouteTablesOutput;
use aws_sdk_ec2::operation::describe_subnets::DescribeSubnetsOutput;
use aws_sdk_ec2::types::Filter;
use futures_util::future::try_join;
use privnet_model::id::{InstanceId, Region, RouteTableId, SubnetId, VpcId, Zone};
use privnet_model::vpc::{RouteTable, Siblings};

use crate::asking::{Asking, PAGE_SIZE};
use crate::budget::Budget;
use crate::context::SdkContext;
use crate::error::{Ec2Error, Operation, Reason};
use crate::filter;
use crate::record::{self, State};

pub use address::AddressChoice;
pub use interface::SourceDestCheck;
pub use machine::MachineChoice;
pub use permission::{Mutation, Permission};

/// Where `ami/iam` allows looking at a VPC and changing its routes.
const ROUTES_POLICY: &str = "routes-policy.json";

/// Tries per request, the first included.
const ATTEMPTS: u32 = 3;
/// The pause before the second try, and the longest one. A takeover has 5 s in all:
/// who calls looks again in a second, and knows better than a long pause what is to
/// be done then. The adaptive mode that polls use would hold a client back for up to
/// 18 s after EC2 throttled it (measured).
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// EC2, asked about one VPC. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vpc {
    client: Client,
    region: Region,
    id: VpcId,
    timeout: Duration,
}

impl Vpc {
    /// This VPC in this region. Whatever one call has to ask may take `timeout`,
    /// retries and pages included. Sends no request yet.
    pub fn new(context: &SdkContext, region: &Region, vpc: &VpcId, timeout: Duration) -> Self {
        let (first_pause, longest_pause) = PAUSES;
        let retries = RetryConfig::standard()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(first_pause)
            .with_max_backoff(longest_pause);
        let config = context
            .ec2_config(region, timeout)
            .retry_config(retries)
            .retry_partition(RetryPartition::new(format!("vpc {region}")));
        Self {
            client: Client::from_conf(config.build()),
            region: region.clone(),
            id: vpc.clone(),
            timeout,
        }
    }

    /// Which instances of the VPC run and have all these tags. Who asks is among them
    /// if it has them. Of these tags there must be one: without any, each
    /// running instance would count.
    ///
    /// # Errors
    /// There is no complete answer. Then nothing is known of anybody.
    pub async fn siblings(&self, tags: &BTreeMap<String, String>) -> Result<Siblings, Ec2Error> {
        self.running(filter::running_with(tags), tags).await
    }

    /// The same of one instance, whatever its tags are.
    ///
    /// # Errors
    /// There is no complete answer.
    pub async fn itself(&self, instance: &InstanceId) -> Result<Siblings, Ec2Error> {
        let any = BTreeMap::new();
        let mut filters = filter::running_with(&any);
        filters.push(filter::instances([instance]));
        self.running(filters, &any).await
    }

    async fn running(
        &self,
        mut filters: Vec<Filter>,
        tags: &BTreeMap<String, String>,
    ) -> Result<Siblings, Ec2Error> {
        let mut found = Siblings::default();
        filters.push(self.inside());
        let asking = self.asking();
        asking
            .instances(&self.client, filters, |instance| {
                if !matches!(record::state(instance), State::Running | State::Untold) {
                    return Ok(());
                }
                let (id, sibling) = description::sibling(instance, &self.id, tags)?;
                match sibling {
                    Ok(sibling) => drop(found.spokes.insert(id, sibling)),
                    Err(missing) => drop(found.incomplete.insert(id, missing)),
                }
                Ok(())
            })
            .await
            .map_err(|error| self.about_vpc(error))?;
        // An instance that moves between pages while they are read comes twice.
        found
            .incomplete
            .retain(|id, _| !found.spokes.contains_key(id));
        Ok(found)
    }

    /// The route tables of the VPC, each with the zones of the subnets that it serves.
    ///
    /// # Errors
    /// There is no complete answer, or one of which something makes no sense.
    pub async fn route_tables(&self) -> Result<BTreeMap<RouteTableId, RouteTable>, Ec2Error> {
        let asking = self.asking();
        let (mut zones, described) = try_join(
            self.subnets(&asking),
            self.describe_tables(&asking, vec![self.inside()]),
        )
        .await?;
        let mut tables = BTreeMap::new();
        for (mut table, associated) in described {
            // A subnet that was made between the two answers is there the next time.
            table.subnets = associated
                .iter()
                .filter_map(|id| zones.remove_entry(id))
                .collect();
            tables.insert(table.id.clone(), table);
        }
        if let Some(main) = tables.values_mut().find(|table| table.main) {
            main.subnets.extend(zones);
        }
        Ok(tables)
    }

    /// The zones of all subnets of the VPC.
    async fn subnets(&self, asking: &Asking<'_>) -> Result<BTreeMap<SubnetId, Zone>, Ec2Error> {
        let mut subnets = BTreeMap::new();
        let request = self
            .client
            .describe_subnets()
            .filters(self.inside())
            .max_results(PAGE_SIZE);
        asking
            .pages(
                Operation::DescribeSubnets,
                |token| {
                    let request = request.clone().set_next_token(token).customize();
                    request.interceptor(asking.budget.clone()).send()
                },
                DescribeSubnetsOutput::next_token,
                |page| {
                    for subnet in page.subnets() {
                        let (id, zone) = description::subnet(subnet)?;
                        subnets.insert(id, zone);
                    }
                    Ok(())
                },
            )
            .await
            .map_err(|error| self.about_vpc(error))?;
        Ok(subnets)
    }

    /// Route tables without their subnets, and the ids of those that are associated
    /// with each.
    async fn describe_tables(
        &self,
        asking: &Asking<'_>,
        filters: Vec<Filter>,
    ) -> Result<Vec<(RouteTable, BTreeSet<SubnetId>)>, Ec2Error> {
        // At most 100 (EC2 API reference, DescribeRouteTables).
        const TABLES: i32 = 100;
        let mut tables = Vec::new();
        let request = self
            .client
            .describe_route_tables()
            .set_filters(Some(filters))
            .max_results(TABLES);
        asking
            .pages(
                Operation::DescribeRouteTables,
                |token| {
                    let request = request.clone().set_next_token(token).customize();
                    request.interceptor(asking.budget.clone()).send()
                },
                DescribeRouteTablesOutput::next_token,
                |page| {
                    for table in page.route_tables() {
                        let (table, subnets) = description::route_table(table)?;
                        if table.vpc != self.id {
                            let (id, vpc) = (&table.id, &table.vpc);
                            return Err(Reason::unreadable(format_args!("{id} is in {vpc}")));
                        }
                        tables.push((table, subnets));
                    }
                    Ok(())
                },
            )
            .await
            .map_err(|error| self.about_vpc(error))?;
        Ok(tables)
    }

    fn asking(&self) -> Asking<'_> {
        Asking::new(&self.region, Budget::default(), self.timeout)
    }

    /// The filter by which only what is in this VPC is returned.
    fn inside(&self) -> Filter {
        filter::vpcs([&self.id])
    }

    fn about_vpc(&self, error: Ec2Error) -> Ec2Error {
        error.about(self.id.as_str(), ROUTES_POLICY)
    }
}
