//! The tags by which a spoke tells the hub its key, port and transport.
//!
//! Only ever this instance's own tags, and only ever set: the spoke's role can
//! neither read nor delete tags (`ec2:CreateTags` on itself is all it has), so
//! what was published is remembered here.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::Tag;
use privnet_model::id::{InstanceId, Region};
use tokio::time::timeout;

use crate::context::SdkContext;
use crate::error::{Ec2Error, Operation, Reason};

/// Publishes tags on one instance, and remembers them to spare EC2 the repeats.
#[derive(Debug)]
pub struct TagPublisher {
    client: Client,
    region: Region,
    instance: InstanceId,
    timeout: Duration,
    published: BTreeMap<String, String>,
}

/// What a call of [`TagPublisher::publish`] had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// EC2 took the tags that are new or different.
    Changed,
    /// All was published before; EC2 was not asked.
    Unchanged,
}

impl TagPublisher {
    /// For this instance in this region; each call may take `timeout`, retries
    /// included.
    pub fn new(
        context: &SdkContext,
        region: &Region,
        instance: &InstanceId,
        timeout: Duration,
    ) -> Self {
        Self {
            client: context.ec2(region, timeout),
            region: region.clone(),
            instance: instance.clone(),
            timeout,
            published: BTreeMap::new(),
        }
    }

    /// Sets these tags on the instance, those that differ from what this
    /// publisher set before. Other tags stay as they are. Setting a tag to the
    /// value that it has is harmless, so a first call after a restart always
    /// asks EC2.
    ///
    /// # Errors
    /// Nothing counts as published; call again later.
    pub async fn publish(&mut self, tags: &[(&str, &str)]) -> Result<Published, Ec2Error> {
        let changed: BTreeMap<_, _> = tags
            .iter()
            .filter(|(key, value)| self.published.get(*key).is_none_or(|old| old != value))
            .copied()
            .collect();
        if changed.is_empty() {
            return Ok(Published::Unchanged);
        }
        let request = self
            .client
            .create_tags()
            .resources(self.instance.as_str())
            .set_tags(Some(
                changed
                    .iter()
                    .map(|(key, value)| Tag::builder().key(*key).value(*value).build())
                    .collect(),
            ));
        match timeout(self.timeout, request.send()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                return Err(Ec2Error::from_sdk(
                    Operation::CreateTags,
                    &self.region,
                    &error,
                ));
            }
            Err(_) => {
                let after = self.timeout;
                let reason = Reason::Deadline { after };
                return Err(Ec2Error::found(Operation::CreateTags, &self.region, reason));
            }
        }
        let changed = changed
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        self.published.extend(changed);
        Ok(Published::Changed)
    }

    /// Forgets what was published, so that the next call sets every tag again:
    /// somebody may have removed one meanwhile.
    pub fn forget(&mut self) {
        self.published.clear();
    }
}
