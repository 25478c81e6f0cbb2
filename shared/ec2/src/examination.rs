//! What the hub may ask in each partition, tried by dry runs, and how many spokes its
//! tags find there: for the doctor.

use std::time::Duration;

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use futures_util::future::{join_all, join3};
use futures_util::join;
use privnet_model::id::Region;
use privnet_model::inventory::Partition;
use tokio::time::timeout;

use crate::account::{Account, Known};
use crate::budget::Budget;
use crate::discovery::Discovery;
use crate::error::{Ec2Error, Operation, Reason};
use crate::filter;
use crate::vpc::Permission;

/// Of a partition so many spokes are counted: that there are some is what matters.
const COUNTED: i32 = 100;

/// What came of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionExamination {
    /// Which.
    pub partition: Partition,
    /// What a poll asks there, and whether it may.
    pub permissions: Vec<(Operation, Permission)>,
    /// How many running instances have the tags, at least.
    pub spokes: Result<usize, Ec2Error>,
}

impl Discovery {
    /// Tries in every partition that is configured, each for at most so long.
    pub async fn examine(&self, patience: Duration) -> Vec<PartitionExamination> {
        let accounts = self.accounts().iter();
        let examined = accounts.map(|account| async move {
            let listed = timeout(patience / 2, account.learn_regions(&Budget::default())).await;
            // What keeps the regions from being listed shows in the home region's own
            // dry run of it.
            drop(listed);
            let regions = account.regions(&Known::new());
            let examined = regions.into_iter().map(|region| async move {
                self.examine_partition(account, region, patience / 2).await
            });
            join_all(examined).await
        });
        join_all(examined).await.into_iter().flatten().collect()
    }

    async fn examine_partition(
        &self,
        account: &Account,
        region: Region,
        patience: Duration,
    ) -> PartitionExamination {
        let partition = Partition {
            account: account.id.clone(),
            region: region.clone(),
        };
        let client = match account.client(&region) {
            Ok(client) => client,
            Err(error) => {
                return PartitionExamination {
                    partition,
                    permissions: Vec::new(),
                    spokes: Err(error),
                };
            }
        };
        let place = Place {
            region: &region,
            patience,
        };
        let instances = client.describe_instances().dry_run(true).send();
        let vpcs = client.describe_vpcs().dry_run(true).send();
        let subnets = client.describe_subnets().dry_run(true).send();
        let tried = join3(
            place.permission(Operation::DescribeInstances, instances),
            place.permission(Operation::DescribeVpcs, vpcs),
            place.permission(Operation::DescribeSubnets, subnets),
        );
        let regions = async {
            let asked = account.polls_all_regions() && region == account.home;
            if !asked {
                return None;
            }
            let answer = client.describe_regions().dry_run(true).send();
            Some(place.permission(Operation::DescribeRegions, answer).await)
        };
        let found = client
            .describe_instances()
            .set_filters(Some(filter::running_with(self.tags())))
            .max_results(COUNTED)
            .send();
        let found = place.answer(Operation::DescribeInstances, found);
        let ((instances, vpcs, subnets), regions, found) = join!(tried, regions, found);
        PartitionExamination {
            partition,
            permissions: [instances, vpcs, subnets]
                .into_iter()
                .chain(regions)
                .collect(),
            spokes: found.map(|page| {
                let groups = page.reservations().iter();
                groups.map(|group| group.instances().len()).sum()
            }),
        }
    }
}

/// A region that is asked, and for how long.
#[derive(Clone, Copy)]
struct Place<'a> {
    region: &'a Region,
    patience: Duration,
}

impl Place<'_> {
    async fn permission<P, E>(
        self,
        operation: Operation,
        answer: impl Future<Output = Result<P, SdkError<E>>> + Send,
    ) -> (Operation, Permission)
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let answer = self.answer(operation, answer).await;
        let permission = match answer {
            Ok(_) => {
                let detail = "it answered what was to be a dry run";
                let reason = Reason::unreadable(detail);
                Permission::Unclear(Ec2Error::found(operation, self.region, reason))
            }
            Err(error) => Permission::of_refusal(error),
        };
        (operation, permission)
    }

    async fn answer<P, E>(
        self,
        operation: Operation,
        answer: impl Future<Output = Result<P, SdkError<E>>> + Send,
    ) -> Result<P, Ec2Error>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match timeout(self.patience, answer).await {
            Ok(answer) => {
                answer.map_err(|error| Ec2Error::from_sdk(operation, self.region, &error))
            }
            Err(_) => {
                let after = self.patience;
                Err(Ec2Error::found(
                    operation,
                    self.region,
                    Reason::Deadline { after },
                ))
            }
        }
    }
}
