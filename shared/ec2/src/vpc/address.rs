//! Elastic IPs: where they are, and having one. One that somebody holds is taken only
//! from the holder that the caller names.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::operation::associate_address::builders::AssociateAddressFluentBuilder;
use aws_sdk_ec2::types::Filter;
use privnet_model::config::spoke::AddressConfig;
use privnet_model::id::{AllocationId, InterfaceId};
use privnet_model::vpc::{AddressHolder, AddressOutcome, ElasticAddress};

use crate::asking::{Asking, FILTER_VALUES};
use crate::error::{Ec2Error, Operation};
use crate::filter;
use crate::vpc::{Vpc, description};

/// Where `ami/iam` allows this.
const POLICY: &str = "address-policy.json";

/// Which Elastic IPs are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressChoice {
    /// Those with these ids.
    Allocations(BTreeSet<AllocationId>),
    /// Those with all these tags; none at all if there are no tags.
    Tags(BTreeMap<String, String>),
}

impl From<&AddressConfig> for AddressChoice {
    fn from(config: &AddressConfig) -> Self {
        match config {
            AddressConfig::Allocation(id) => Self::Allocations([id.clone()].into()),
            AddressConfig::Pool(tags) => Self::Tags(tags.clone()),
        }
    }
}

impl Vpc {
    /// The chosen Elastic IPs of the account in this region, in the order of their
    /// ids. Whatever does not exist is not among them.
    ///
    /// # Errors
    /// There is no complete answer, or one of which something makes no sense.
    pub async fn addresses(&self, choice: &AddressChoice) -> Result<Vec<ElasticAddress>, Ec2Error> {
        let asking = self.asking();
        match choice {
            AddressChoice::Allocations(ids) => {
                let ids: Vec<_> = ids.iter().collect();
                let mut found = BTreeMap::new();
                for chunk in ids.chunks(FILTER_VALUES) {
                    let filters = vec![filter::allocations(chunk.iter().copied())];
                    found.extend(self.describe_addresses(&asking, filters).await?);
                }
                found.retain(|id, _| ids.contains(&id));
                Ok(found.into_values().collect())
            }
            AddressChoice::Tags(tags) if tags.is_empty() => Ok(Vec::new()),
            AddressChoice::Tags(tags) => {
                let filters = filter::with(tags);
                let mut found = self.describe_addresses(&asking, filters).await?;
                found.retain(|_, address| filter::has_all(&address.tags, tags));
                Ok(found.into_values().collect())
            }
        }
    }

    /// Has the Elastic IP at the primary private address of this interface. From a
    /// holder it is taken only if that is `from`; from anybody else, and if `from` is
    /// nobody, not.
    ///
    /// # Errors
    /// As far as is known, nothing was changed.
    pub async fn associate_address(
        &self,
        allocation: &AllocationId,
        to: &InterfaceId,
        from: Option<&AddressHolder>,
    ) -> Result<AddressOutcome, Ec2Error> {
        let asking = self.asking();
        let Some(now) = self.address_now(&asking, allocation).await? else {
            return Ok(AddressOutcome::NoAddress);
        };
        let taken_from = match (now.holder, from) {
            (Some(now), _) if now.interface.as_ref() == Some(to) => {
                return Ok(AddressOutcome::Done);
            }
            (None, _) => Taken::FromNobody,
            (Some(now), Some(from)) if now.association == from.association => Taken::FromItsHolder,
            (now @ Some(_), _) => return Ok(AddressOutcome::Conflict { now }),
        };
        let request = self.association(allocation, to, taken_from).customize();
        let answer = request.interceptor(asking.budget.clone()).send();
        let Err(error) = asking.once(Operation::AssociateAddress, answer).await else {
            return Ok(AddressOutcome::Done);
        };
        match error.refused_with() {
            Some("InvalidAllocationID.NotFound") => Ok(AddressOutcome::NoAddress),
            // Somebody came first, or the answer to an earlier try got lost.
            Some("Resource.AlreadyAssociated") => {
                let now = self.address_now(&asking, allocation).await?;
                Ok(match now.map(|now| now.holder) {
                    None => AddressOutcome::NoAddress,
                    Some(Some(now)) if now.interface.as_ref() == Some(to) => AddressOutcome::Done,
                    Some(now) => AddressOutcome::Conflict { now },
                })
            }
            Some(_) | None => Err(about(error, allocation)),
        }
    }

    async fn address_now(
        &self,
        asking: &Asking<'_>,
        allocation: &AllocationId,
    ) -> Result<Option<ElasticAddress>, Ec2Error> {
        let filters = vec![filter::allocations([allocation])];
        let mut found = self.describe_addresses(asking, filters).await;
        if let Err(error) = found {
            found = Err(about(error, allocation));
        }
        Ok(found?.remove(allocation))
    }

    /// EC2 gives them all at once, without pages.
    async fn describe_addresses(
        &self,
        asking: &Asking<'_>,
        filters: Vec<Filter>,
    ) -> Result<BTreeMap<AllocationId, ElasticAddress>, Ec2Error> {
        let operation = Operation::DescribeAddresses;
        let request = self.client.describe_addresses().set_filters(Some(filters));
        let request = request.customize();
        let answer = request.interceptor(asking.budget.clone()).send();
        let answer = asking
            .once(operation, answer)
            .await
            .map_err(|error| error.about("Elastic IPs", POLICY))?;
        let addresses = answer.addresses().iter().map(|address| {
            let address = description::address(address)?;
            Ok((address.allocation.clone(), address))
        });
        let addresses: Result<_, _> = addresses.collect();
        addresses.map_err(|reason| asking.found(operation, reason).about("Elastic IPs", POLICY))
    }

    /// The request, which says in so many words what may be taken from whom: where it
    /// says nothing, EC2 takes the address from whoever has it.
    pub(super) fn association(
        &self,
        allocation: &AllocationId,
        to: &InterfaceId,
        taken: Taken,
    ) -> AssociateAddressFluentBuilder {
        self.client
            .associate_address()
            .allocation_id(allocation.as_str())
            .network_interface_id(to.as_str())
            .allow_reassociation(match taken {
                Taken::FromNobody => false,
                Taken::FromItsHolder => true,
            })
    }
}

/// Whether an address is taken from somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    FromNobody,
    FromItsHolder,
}

pub(super) fn about(error: Ec2Error, allocation: &AllocationId) -> Ec2Error {
    error.about(format!("Elastic IP {allocation}"), POLICY)
}
