//! Some requests to EC2 in one region that belong together: they have one deadline
//! and one budget, and each answer is read to its last page or is an error.

use std::time::Duration;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::describe_instances::DescribeInstancesOutput;
use aws_sdk_ec2::types::{Filter, Instance};
use privnet_model::id::Region;
use tokio::time::Instant;

use crate::budget::Budget;
use crate::error::{Ec2Error, Operation, Reason};
use crate::pages::Pages;

/// The largest page that EC2 gives.
pub(crate) const PAGE_SIZE: i32 = 1000;

/// The most values that EC2 takes in one filter.
pub(crate) const FILTER_VALUES: usize = 200;

/// A region and the time and requests that are left.
#[derive(Debug)]
pub(crate) struct Asking<'a> {
    pub(crate) region: &'a Region,
    /// Every request carries a clone of it.
    pub(crate) budget: Budget,
    timeout: Duration,
    deadline: Instant,
}

impl<'a> Asking<'a> {
    /// From now on all may take `timeout`.
    pub(crate) fn new(region: &'a Region, budget: Budget, timeout: Duration) -> Self {
        Self {
            region,
            budget,
            timeout,
            deadline: Instant::now() + timeout,
        }
    }

    /// One request, all its retries included, before the deadline of them all.
    pub(crate) async fn once<P, E>(
        &self,
        operation: Operation,
        answer: impl Future<Output = Result<P, SdkError<E>>> + Send,
    ) -> Result<P, Ec2Error>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match tokio::time::timeout_at(self.deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Ec2Error::from_sdk(operation, self.region, &error)),
            Err(_) => {
                let after = self.timeout;
                let refused = self.budget.refused();
                let reason = refused.unwrap_or(Reason::Deadline { after });
                Err(self.found(operation, reason))
            }
        }
    }

    /// Asks for page after page, and hands each over.
    pub(crate) async fn pages<P, E, F>(
        &self,
        operation: Operation,
        ask: impl Fn(Option<String>) -> F + Send,
        next_token: fn(&P) -> Option<&str>,
        mut take: impl FnMut(&P) -> Result<(), Reason> + Send,
    ) -> Result<(), Ec2Error>
    where
        P: Send + Sync,
        E: ProvideErrorMetadata + std::error::Error + 'static,
        F: Future<Output = Result<P, SdkError<E>>> + Send,
    {
        let mut pages = Pages::default();
        let mut token = None;
        loop {
            let page = self.once(operation, ask(token)).await?;
            token = take(&page)
                .and_then(|()| pages.next(next_token(&page)))
                .map_err(|reason| self.found(operation, reason))?;
            if token.is_none() {
                return Ok(());
            }
        }
    }

    /// Hands over every instance that passes the filters.
    pub(crate) async fn instances(
        &self,
        client: &Client,
        filters: Vec<Filter>,
        mut each: impl FnMut(&Instance) -> Result<(), Reason> + Send,
    ) -> Result<(), Ec2Error> {
        let request = client
            .describe_instances()
            .set_filters(Some(filters))
            .max_results(PAGE_SIZE);
        self.pages(
            Operation::DescribeInstances,
            |token| {
                let request = request.clone().set_next_token(token).customize();
                request.interceptor(self.budget.clone()).send()
            },
            DescribeInstancesOutput::next_token,
            |page| {
                let groups = page.reservations().iter();
                groups
                    .flat_map(|group| group.instances())
                    .try_for_each(&mut each)
            },
        )
        .await
    }

    /// An error that we found ourselves in an answer without fault.
    pub(crate) fn found(&self, operation: Operation, reason: Reason) -> Ec2Error {
        Ec2Error::found(operation, self.region, reason)
    }
}
