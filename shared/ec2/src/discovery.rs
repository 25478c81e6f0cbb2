//! Which spokes run: every partition asked in parallel, each answer complete or
//! an error.
//!
//! A region that fails, hangs or answers nonsense costs its own answer and no
//! other, a role that is refused those of its account. What to make of an answer,
//! and above all of a spoke that is missing in it, is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use privnet_model::config::hub::DiscoveryConfig;
use privnet_model::id::{InstanceId, Region};
use privnet_model::inventory::{Answer, Identity, Partition, PartitionAnswer};
use tokio::sync::{Semaphore, mpsc};

use crate::account::{Account, Known};
use crate::budget::Budget;
use crate::context::SdkContext;
use crate::error::Ec2Error;
use crate::question::Question;

/// Partitions asked at the same time: each holds a page of up to 1,000 instances
/// while it is read.
const CONCURRENT: usize = 8;

/// A question to EC2 that can be asked again and again: which running instances
/// have these tags, what are the CIDRs of their VPCs, and what became of those
/// that are known and not among them. Clones share what is remembered.
#[derive(Debug, Clone)]
pub struct Discovery(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Each account once: of two entries the first counts.
    accounts: Vec<Account>,
    tags: BTreeMap<String, String>,
    timeout: Duration,
}

/// Where a poll asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// In every account and region of the config.
    All,
    /// In these of them.
    Only(BTreeSet<Partition>),
}

impl Scope {
    fn contains(&self, partition: &Partition) -> bool {
        match self {
            Self::All => true,
            Self::Only(partitions) => partitions.contains(partition),
        }
    }
}

impl Discovery {
    /// Asks in the accounts of `config`, and in the one of the `hub` when it says
    /// so or names none, for instances that have all its tags. Without tags every
    /// running instance would count as a spoke: the config file requires some. Each
    /// partition's answer may take the config's timeout from its first request to
    /// its last page. Sends no request yet.
    pub fn new(context: &SdkContext, hub: &Identity, config: &DiscoveryConfig) -> Self {
        let own = config.own_account || config.accounts.is_empty();
        let own = own.then(|| Account::own(context, hub, config));
        let mut accounts: Vec<Account> = own.into_iter().collect();
        for account in &config.accounts {
            let account = Account::configured(context, hub, config, account);
            if accounts.iter().any(|other| other.id == account.id) {
                tracing::warn!(
                    account = %account.id,
                    "an account is configured twice; the first entry counts (\"own\" before all)"
                );
            } else {
                accounts.push(account);
            }
        }
        Self(Arc::new(Inner {
            accounts,
            tags: config.tags.clone(),
            timeout: config.timeout,
        }))
    }

    /// Each account that is polled.
    pub(crate) fn accounts(&self) -> &[Account] {
        &self.0.accounts
    }

    /// The tags that a spoke has.
    pub(crate) fn tags(&self) -> &BTreeMap<String, String> {
        &self.0.tags
    }

    /// What a poll would ask now: of what is `known`, whatever is not among these
    /// is no longer configured. Where all regions are polled, `known` tells those
    /// that EC2 listed before this program started; and a region that EC2 lists
    /// no more stays as long as spokes are known there.
    pub fn partitions(&self, known: &Known) -> BTreeSet<Partition> {
        let partitions = |account: &Account| {
            let id = account.id.clone();
            let of = move |region| Partition {
                account: id.clone(),
                region,
            };
            account.regions(known).into_iter().map(of)
        };
        self.0.accounts.iter().flat_map(partitions).collect()
    }

    /// Asks once. One answer per partition, in their order; spokes in the order of
    /// their ids. Every known instance of a partition that answers is among its
    /// spokes or has a fate. May be dropped at any time.
    pub async fn poll(&self, known: &Known) -> Vec<PartitionAnswer> {
        let (tell, mut told) = mpsc::unbounded_channel();
        self.poll_each(known, &Scope::All, tell).await;
        let mut answers = Vec::new();
        while let Some(answer) = told.recv().await {
            answers.push(answer);
        }
        answers.sort_by(|a, b| a.partition.cmp(&b.partition));
        answers
    }

    /// The same, each answer told as soon as it is there: a region that hangs holds
    /// up nobody's.
    pub async fn poll_each(
        &self,
        known: &Known,
        scope: &Scope,
        tell: mpsc::UnboundedSender<PartitionAnswer>,
    ) {
        let permits = Semaphore::new(CONCURRENT);
        let accounts = self.0.accounts.iter();
        let asked = accounts.map(|account| {
            let tell = tell.clone();
            self.poll_account(account, known, scope, &permits, tell)
        });
        join_all(asked).await;
    }

    async fn poll_account(
        &self,
        account: &Account,
        known: &Known,
        scope: &Scope,
        permits: &Semaphore,
        tell: mpsc::UnboundedSender<PartitionAnswer>,
    ) {
        // Together with what is asked about spokes at home: there it counts.
        let at_home = Budget::default();
        let listed = match scope {
            Scope::All => account.learn_regions(&at_home).await,
            Scope::Only(_) => Ok(()),
        };
        let partitions = account.regions(known).into_iter().map(|region| Partition {
            account: account.id.clone(),
            region,
        });
        let asked = partitions.filter(|partition| scope.contains(partition));
        join_all(asked.map(|partition| {
            let home = partition.region == account.home;
            let budget = if home {
                at_home.clone()
            } else {
                Budget::default()
            };
            let listed = if home { listed.clone() } else { Ok(()) };
            let tell = &tell;
            async move {
                let known = known.get(&partition);
                let answer = match listed {
                    Ok(()) => {
                        let _permit = permits.acquire().await;
                        self.ask(account, &partition.region, known, budget.clone())
                            .await
                    }
                    Err(error) => Err(error),
                };
                if let Err(error) = &answer {
                    tracing::debug!(%partition, ?error, "no complete answer");
                }
                // Whoever asked may have gone.
                let _ = tell.send(PartitionAnswer {
                    partition,
                    answer: answer.map_err(|error| error.to_string()),
                    calls: budget.calls(),
                });
            }
        }))
        .await;
    }

    async fn ask(
        &self,
        account: &Account,
        region: &Region,
        known: Option<&BTreeSet<InstanceId>>,
        budget: Budget,
    ) -> Result<Answer, Ec2Error> {
        let client = account.client(region)?;
        let question = Question::new(client, region, &self.0.tags, budget, self.0.timeout);
        let told = match known {
            Some(known) => question.ask(known).await?,
            None => question.ask(&BTreeSet::new()).await?,
        };
        account.subnets_told(region, told.zones_missing.as_ref());
        Ok(told.answer)
    }
}
