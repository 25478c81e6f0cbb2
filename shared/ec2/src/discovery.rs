//! Which spokes run: every region asked in parallel, each answer complete or
//! an error.
//!
//! A region that fails, hangs or answers nonsense costs its own answer and no
//! other. What to make of an answer, and above all of a spoke that is missing
//! in it, is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use futures_util::StreamExt;
use futures_util::stream;
use ipnet::IpNet;
use privnet_model::id::{AccountId, IdError, InstanceId, Region, VpcId};
use privnet_model::inventory::{Answer, Partition, PartitionAnswer, SpokeRecord};
use tokio::time::Instant;

use crate::context::SdkContext;
use crate::error::{Ec2Error, Operation, Reason};
use crate::pages::Pages;
use crate::{filter, record};

/// Regions asked at the same time: each holds a page of up to 1,000 instances
/// while it is read.
const CONCURRENT_REGIONS: usize = 8;

/// The largest page that EC2 gives.
const PAGE_SIZE: i32 = 1000;

/// The most values that EC2 takes in one filter.
const FILTER_VALUES: usize = 200;

/// A question to EC2 that can be asked again and again: which running instances
/// have these tags, and what are the CIDRs of their VPCs.
#[derive(Debug, Clone)]
pub struct Discovery {
    partitions: Vec<(Partition, Client)>,
    tags: BTreeMap<String, String>,
    timeout: Duration,
}

impl Discovery {
    /// Asks in `account`, the one that the credentials of `context` belong to,
    /// in all `regions`, for instances that have all `tags`. Without tags every
    /// running instance would count as a spoke: the config file requires some.
    /// Each region's answer may take `timeout` from its first request to its
    /// last page.
    pub fn new(
        context: &SdkContext,
        account: &AccountId,
        regions: &[Region],
        tags: BTreeMap<String, String>,
        timeout: Duration,
    ) -> Self {
        let regions: BTreeSet<_> = regions.iter().collect();
        let partitions = regions
            .into_iter()
            .map(|region| {
                let partition = Partition {
                    account: account.clone(),
                    region: region.clone(),
                };
                (partition, context.ec2(region, timeout))
            })
            .collect();
        Self {
            partitions,
            tags,
            timeout,
        }
    }

    /// Asks once. One answer per region, in the order of their names; spokes in
    /// the order of their ids. May be dropped at any time.
    pub async fn poll(&self) -> Vec<PartitionAnswer> {
        // Collected first: the compiler cannot tell that a stream over borrowed
        // partitions may be sent to another thread.
        let asked: Vec<_> = self
            .partitions
            .iter()
            .map(|(partition, client)| self.answer(partition, client))
            .collect();
        // Not in order: a region that hangs must not keep others from being asked.
        let mut answers: Vec<_> = stream::iter(asked)
            .buffer_unordered(CONCURRENT_REGIONS)
            .collect()
            .await;
        answers.sort_by(|a: &PartitionAnswer, b| a.partition.cmp(&b.partition));
        answers
    }

    async fn answer(&self, partition: &Partition, client: &Client) -> PartitionAnswer {
        let spokes = self.ask(client, &partition.region).await;
        if let Err(error) = &spokes {
            tracing::debug!(%partition, ?error, "no complete answer");
        }
        PartitionAnswer {
            partition: partition.clone(),
            answer: spokes
                .map(|spokes| Answer {
                    spokes,
                    absent: BTreeMap::new(),
                })
                .map_err(|error| error.to_string()),
            calls: 0,
        }
    }

    async fn ask(&self, client: &Client, region: &Region) -> Result<Vec<SpokeRecord>, Ec2Error> {
        let call = Call {
            client,
            region,
            timeout: self.timeout,
            deadline: Instant::now() + self.timeout,
        };
        let mut spokes = call.spokes(&self.tags).await?;
        let ids: BTreeSet<VpcId> = spokes
            .values()
            .filter_map(|spoke| spoke.vpc.clone())
            .collect();
        let vpcs = call.vpcs(&ids).await?;
        for spoke in spokes.values_mut() {
            let Some(id) = &spoke.vpc else { continue };
            match vpcs.get(id) {
                Some(cidrs) => spoke.cidrs.clone_from(cidrs),
                None => tracing::warn!(
                    %region, instance = %spoke.instance, vpc = %id,
                    "EC2 does not know the VPC of a running instance"
                ),
            }
        }
        Ok(spokes.into_values().collect())
    }
}

/// One region, asked once.
struct Call<'a> {
    client: &'a Client,
    region: &'a Region,
    timeout: Duration,
    deadline: Instant,
}

impl Call<'_> {
    /// By id: an instance that moves between pages while they are read may come
    /// twice.
    async fn spokes(
        &self,
        tags: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<InstanceId, SpokeRecord>, Ec2Error> {
        const OPERATION: Operation = Operation::DescribeInstances;
        let request = self
            .client
            .describe_instances()
            .set_filters(Some(filter::running_with(tags)))
            .max_results(PAGE_SIZE);
        let mut spokes = BTreeMap::new();
        let mut pages = Pages::default();
        let mut token = None;
        loop {
            let page = self
                .within(OPERATION, request.clone().set_next_token(token).send())
                .await?;
            for instance in page
                .reservations()
                .iter()
                .flat_map(|group| group.instances())
            {
                if !record::is_running(instance) {
                    continue;
                }
                // Skipping one that we cannot name would make the answer look
                // complete without it.
                let spoke = record::spoke(instance)
                    .map_err(|error| self.found(OPERATION, unreadable(&error)))?;
                if !filter::has_all(instance.tags(), tags) {
                    let instance = spoke.instance;
                    return Err(self.found(OPERATION, Reason::Untagged { instance }));
                }
                spokes.insert(spoke.instance.clone(), spoke);
            }
            token = pages
                .next(page.next_token())
                .map_err(|reason| self.found(OPERATION, reason))?;
            if token.is_none() {
                return Ok(spokes);
            }
        }
    }

    /// The CIDRs of these VPCs; one that EC2 does not know is left out.
    async fn vpcs(&self, ids: &BTreeSet<VpcId>) -> Result<BTreeMap<VpcId, Vec<IpNet>>, Ec2Error> {
        const OPERATION: Operation = Operation::DescribeVpcs;
        let ids: Vec<_> = ids.iter().collect();
        let mut vpcs = BTreeMap::new();
        for chunk in ids.chunks(FILTER_VALUES) {
            let request = self
                .client
                .describe_vpcs()
                .filters(filter::vpcs(chunk.iter().copied()))
                .max_results(PAGE_SIZE);
            let mut pages = Pages::default();
            let mut token = None;
            loop {
                let page = self
                    .within(OPERATION, request.clone().set_next_token(token).send())
                    .await?;
                for vpc in page.vpcs() {
                    let id = record::vpc_id(vpc)
                        .map_err(|error| self.found(OPERATION, unreadable(&error)))?;
                    let cidrs = record::cidrs(vpc).map_err(|text| {
                        let detail = format!("`{text}` is not a CIDR (of {id})");
                        self.found(OPERATION, Reason::Unreadable { detail })
                    })?;
                    vpcs.insert(id, cidrs);
                }
                token = pages
                    .next(page.next_token())
                    .map_err(|reason| self.found(OPERATION, reason))?;
                if token.is_none() {
                    break;
                }
            }
        }
        Ok(vpcs)
    }

    /// One request, all its retries included, before the deadline of them all.
    async fn within<T, E>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<T, SdkError<E>>>,
    ) -> Result<T, Ec2Error>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match tokio::time::timeout_at(self.deadline, request).await {
            Ok(answer) => {
                answer.map_err(|error| Ec2Error::from_sdk(operation, self.region, &error))
            }
            Err(_) => {
                let after = self.timeout;
                Err(self.found(operation, Reason::Deadline { after }))
            }
        }
    }

    fn found(&self, operation: Operation, reason: Reason) -> Ec2Error {
        Ec2Error::found(operation, self.region, reason)
    }
}

fn unreadable(error: &IdError) -> Reason {
    Reason::Unreadable {
        detail: error.to_string(),
    }
}
