//! An account that is polled: its credentials, its regions, and a client for
//! each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::retry::RetryPartition;
use privnet_model::config::hub::{AccountConfig, DiscoveryConfig, Regions};
use privnet_model::id::{AccountId, InstanceId, Region};
use privnet_model::inventory::{Identity, Partition};

use crate::budget::Budget;
use crate::context::SdkContext;
use crate::error::{Ec2Error, Operation, Reason};
use crate::filter;
use crate::role::AssumedRole;

/// What is known of each partition: the ids of its spokes.
pub type Known = BTreeMap<Partition, BTreeSet<InstanceId>>;

/// An account and what it takes to ask EC2 in it.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) id: AccountId,
    /// The hub's region, in which the account is asked for its regions.
    pub(crate) home: Region,
    role_arn: Option<String>,
    context: SdkContext,
    endpoint: Option<String>,
    fips: bool,
    timeout: Duration,
    regions: Wanted,
    /// Regions whose subnets EC2 does not tell, of which was warned.
    without_subnets: Mutex<BTreeSet<Region>>,
}

/// The regions of an account.
#[derive(Debug)]
enum Wanted {
    Listed(BTreeSet<Region>),
    /// As EC2 listed them last, if it ever did.
    All(Mutex<Option<BTreeSet<Region>>>),
}

impl Account {
    /// The hub's own account.
    pub(crate) fn own(context: &SdkContext, hub: &Identity, config: &DiscoveryConfig) -> Self {
        Self {
            id: hub.account.clone(),
            home: hub.region.clone(),
            role_arn: None,
            context: context.clone(),
            endpoint: config.endpoint.clone(),
            fips: config.fips,
            timeout: config.timeout,
            regions: match &config.regions {
                Regions::Listed(regions) => Wanted::Listed(regions.iter().cloned().collect()),
                Regions::All => Wanted::All(Mutex::new(None)),
            },
            without_subnets: Mutex::default(),
        }
    }

    /// An account as the config names it.
    pub(crate) fn configured(
        context: &SdkContext,
        hub: &Identity,
        config: &DiscoveryConfig,
        account: &AccountConfig,
    ) -> Self {
        let arn = &account.role_arn;
        let external_id = account.external_id.as_deref();
        // Sooner than the time of one try at EC2 is over: what is told then is that
        // STS did not answer.
        let sts = context.sdk(config.fips, config.timeout / 3);
        let role = AssumedRole::new(arn, external_id, &hub.instance, sts);
        Self {
            id: account.account.clone(),
            role_arn: Some(arn.clone()),
            context: context.with_credentials(role, config.timeout),
            ..Self::own(context, hub, config)
        }
    }

    /// The regions that are polled: those listed, or those that EC2 listed last
    /// and those where spokes are known. That EC2 lists a region no more is no
    /// word about the spokes there. Until EC2 has listed any, those that were
    /// known before the hub started stand in, and the hub's own.
    pub(crate) fn regions(&self, known: &Known) -> BTreeSet<Region> {
        let learned = match &self.regions {
            Wanted::Listed(regions) => return regions.clone(),
            Wanted::All(learned) => lock(learned).clone(),
        };
        let kept = known
            .iter()
            .filter(|(partition, spokes)| {
                partition.account == self.id && (learned.is_none() || !spokes.is_empty())
            })
            .map(|(partition, _)| partition.region.clone())
            .collect();
        let mut regions = learned.unwrap_or_else(|| BTreeSet::from([self.home.clone()]));
        regions.extend::<BTreeSet<_>>(kept);
        regions
    }

    /// Whether EC2 is asked which regions there are.
    pub(crate) fn polls_all_regions(&self) -> bool {
        matches!(self.regions, Wanted::All(_))
    }

    /// Asks EC2 which regions there are, if the account is polled in all. The
    /// error is one that leaves the account without an answer in its home region:
    /// EC2 has never listed the regions. Later failures only leave the list as it was.
    pub(crate) async fn learn_regions(&self, budget: &Budget) -> Result<(), Ec2Error> {
        let Wanted::All(learned) = &self.regions else {
            return Ok(());
        };
        match self.list_regions(budget).await {
            Ok(regions) => {
                *lock(learned) = Some(regions);
                Ok(())
            }
            Err(error) if lock(learned).is_some() => {
                tracing::warn!(
                    account = %self.id, %error,
                    "the list of regions is not renewed: the regions known before are polled"
                );
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn list_regions(&self, budget: &Budget) -> Result<BTreeSet<Region>, Ec2Error> {
        const OPERATION: Operation = Operation::DescribeRegions;
        let found = |reason| Ec2Error::found(OPERATION, &self.home, reason);
        let request = self
            .client(&self.home)?
            .describe_regions()
            .filters(filter::usable_regions())
            .customize()
            .interceptor(budget.clone());
        let answer = match tokio::time::timeout(self.timeout, request.send()).await {
            Ok(answer) => {
                answer.map_err(|error| Ec2Error::from_sdk(OPERATION, &self.home, &error))?
            }
            Err(_) => {
                let after = self.timeout;
                return Err(found(Reason::Deadline { after }));
            }
        };
        let mut regions: BTreeSet<Region> = answer
            .regions()
            .iter()
            .filter(|region| region.opt_in_status().is_none_or(filter::is_usable))
            .map(|region| region.region_name().unwrap_or_default().parse())
            .collect::<Result<_, _>>()
            .map_err(|error| found(Reason::unreadable(error)))?;
        // AWS lists no other's; moto does, and no credentials would count there.
        let own = aws_partition(&self.home);
        regions.retain(|region| aws_partition(region) == own);
        if regions.is_empty() {
            return Err(found(Reason::unreadable("it lists no region")));
        }
        Ok(regions)
    }

    /// A client for one region.
    ///
    /// # Errors
    /// The region is in another AWS partition than the credentials.
    #[expect(
        clippy::result_large_err,
        reason = "asked once for each poll of a region"
    )]
    pub(crate) fn client(&self, region: &Region) -> Result<Client, Ec2Error> {
        self.check_aws_partition(region)?;
        // EC2 counts requests by account and region, so that is what adaptive
        // retries slow down by.
        let name = format!("ec2 {} {region}", self.id);
        let config = self
            .context
            .ec2_config(region, self.timeout)
            .retry_partition(RetryPartition::new(name));
        Ok(Client::from_conf(match &self.endpoint {
            Some(endpoint) => config
                .endpoint_url(endpoint.replace("{region}", region.as_str()))
                .build(),
            None if self.fips => config.use_fips(true).build(),
            None => config.build(),
        }))
    }

    #[expect(
        clippy::result_large_err,
        reason = "asked once for each poll of a region"
    )]
    fn check_aws_partition(&self, region: &Region) -> Result<(), Ec2Error> {
        let hub_in = aws_partition(&self.home);
        let role = self.role_arn.iter();
        let role = role.map(|arn| (format!("the role {arn}"), partition_of_arn(arn)));
        let elsewhere = role
            .chain([(region.to_string(), aws_partition(region))])
            .find(|(_, is_in)| *is_in != hub_in);
        let Some((what, is_in)) = elsewhere else {
            return Ok(());
        };
        let reason = Reason::OtherAwsPartition {
            what,
            is_in: is_in.to_owned(),
            hub_in,
        };
        Err(Ec2Error::found(
            Operation::DescribeInstances,
            region,
            reason,
        ))
    }

    /// Takes note of whether EC2 told the subnets of a region, and warns once
    /// when it does not.
    pub(crate) fn subnets_told(&self, region: &Region, problem: Option<&Ec2Error>) {
        let mut without = lock(&self.without_subnets);
        let Some(problem) = problem else {
            without.remove(region);
            return;
        };
        if without.insert(region.clone()) {
            tracing::warn!(
                account = %self.id, %region, %problem,
                "zones are not told apart: a VPC's traffic may go through a spoke of another zone"
            );
        }
    }
}

/// The AWS partition of a region, by the prefixes of the SDK's partition table.
fn aws_partition(region: &Region) -> &'static str {
    const BY_PREFIX: [(&str, &str); 7] = [
        ("cn-", "aws-cn"),
        ("us-gov-", "aws-us-gov"),
        ("us-iso-", "aws-iso"),
        ("us-isob-", "aws-iso-b"),
        ("us-isof-", "aws-iso-f"),
        ("eu-isoe-", "aws-iso-e"),
        ("eusc-", "aws-eusc"),
    ];
    BY_PREFIX
        .into_iter()
        .find(|(prefix, _)| region.as_str().starts_with(prefix))
        .map_or("aws", |(_, partition)| partition)
}

/// `arn:PARTITION:iam::ACCOUNT:role/NAME`.
fn partition_of_arn(arn: &str) -> &str {
    arn.split(':').nth(1).unwrap_or_default()
}

/// What is behind these locks is replaced as a whole, so a panic elsewhere leaves
/// it whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn every_region_has_its_aws_partition() {
        for (region, partition) in [
            ("eu-west-1", "aws"),
            ("us-east-1", "aws"),
            ("mx-central-1", "aws"),
            ("cn-northwest-1", "aws-cn"),
            ("us-gov-east-1", "aws-us-gov"),
            ("us-iso-west-1", "aws-iso"),
            ("us-isob-east-1", "aws-iso-b"),
            ("us-isof-south-1", "aws-iso-f"),
            ("eu-isoe-west-1", "aws-iso-e"),
            ("eusc-de-east-1", "aws-eusc"),
        ] {
            assert_eq!(
                aws_partition(&region.parse().unwrap()),
                partition,
                "{region}"
            );
        }
    }
}
