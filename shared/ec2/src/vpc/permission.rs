//! Whether the role may change what a spoke changes: the same requests as dry runs,
//! for the doctor.

use std::collections::BTreeMap;

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::Tag;
use privnet_model::id::{AllocationId, InstanceId, InterfaceId};
use privnet_model::vpc::{RouteAction, RouteChange};

use crate::asking::Asking;
use crate::error::{Ec2Error, Operation, Reason};
use crate::vpc::address::Taken;
use crate::vpc::{Vpc, address, interface, machine, route};

/// What a spoke may have to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    /// A route.
    Route(RouteChange),
    /// The source/destination check, to off.
    SourceDestCheckOff {
        /// Of this interface.
        interface: InterfaceId,
    },
    /// Where an Elastic IP is.
    AssociateAddress {
        /// The address.
        allocation: AllocationId,
        /// The interface that it would be at.
        to: InterfaceId,
    },
    /// Whether an instance runs: that it stops.
    StopInstance {
        /// Which.
        instance: InstanceId,
    },
    /// That it starts.
    StartInstance {
        /// Which.
        instance: InstanceId,
    },
    /// Tags of an instance.
    Tag {
        /// Which.
        instance: InstanceId,
        /// Their keys and values.
        tags: BTreeMap<String, String>,
    },
}

/// What EC2 says to a dry run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permission {
    /// The role may do it.
    Permitted,
    /// It may not. The error says which permission it needs.
    Denied(Ec2Error),
    /// That was not to be learned: EC2 found something else wrong first, or did not
    /// answer.
    Unclear(Ec2Error),
}

impl Permission {
    /// What the refusal of a dry run means.
    pub(crate) fn of_refusal(error: Ec2Error) -> Self {
        if error.refused_with() == Some("DryRunOperation") {
            return Self::Permitted;
        }
        match error.reason {
            Reason::NotAllowed { .. } => Self::Denied(error),
            _ => Self::Unclear(error),
        }
    }
}

/// Where `ami/iam` allows a spoke to tag itself.
const TAG_POLICY: &str = "spoke-policy.json";

impl Vpc {
    /// Asks EC2 whether it would carry this out. It looks at nothing before, and of an
    /// EC2 that heeds `DryRun` nothing is changed. Not everything that speaks EC2's
    /// language does (moto makes routes): ask for what would do no harm, such as a
    /// route's present target.
    pub async fn permission(&self, mutation: &Mutation) -> Permission {
        let asking = self.asking();
        let result = self.dry_run(&asking, mutation).await;
        let error = match result {
            Err(error) => error,
            Ok(operation) => {
                let detail = "it says that it has carried out what was to be a dry run";
                asking.found(operation, Reason::unreadable(detail))
            }
        };
        let error = match mutation {
            Mutation::Route(change) => route::about(error, change),
            Mutation::SourceDestCheckOff { interface } => interface::about(error, interface),
            Mutation::AssociateAddress { allocation, .. } => address::about(error, allocation),
            Mutation::StopInstance { instance } | Mutation::StartInstance { instance } => {
                machine::about(error, instance)
            }
            Mutation::Tag { instance, .. } => error.about(instance.as_str(), TAG_POLICY),
        };
        Permission::of_refusal(error)
    }

    /// The operation that was carried out.
    async fn dry_run(
        &self,
        asking: &Asking<'_>,
        mutation: &Mutation,
    ) -> Result<Operation, Ec2Error> {
        match mutation {
            Mutation::Route(change) => {
                let (table, destination) = (&change.table, &change.destination);
                match &change.action {
                    RouteAction::Create { to } => {
                        let request = self.create_route(table, destination, to);
                        let answer = request.dry_run(true).send();
                        once(asking, Operation::CreateRoute, answer).await
                    }
                    RouteAction::Replace { to, .. } => {
                        let request = self.replace_route(table, destination, to);
                        let answer = request.dry_run(true).send();
                        once(asking, Operation::ReplaceRoute, answer).await
                    }
                }
            }
            Mutation::SourceDestCheckOff { interface } => {
                let answer = self.check_off(interface).dry_run(true).send();
                once(asking, Operation::ModifyNetworkInterfaceAttribute, answer).await
            }
            Mutation::AssociateAddress { allocation, to } => {
                let request = self.association(allocation, to, Taken::FromNobody);
                let answer = request.dry_run(true).send();
                once(asking, Operation::AssociateAddress, answer).await
            }
            Mutation::StopInstance { instance } => {
                let answer = self.stopping(instance).dry_run(true).send();
                once(asking, Operation::StopInstances, answer).await
            }
            Mutation::StartInstance { instance } => {
                let answer = self.starting(instance).dry_run(true).send();
                once(asking, Operation::StartInstances, answer).await
            }
            Mutation::Tag { instance, tags } => {
                let tags = tags.iter();
                let tags = tags.map(|(key, value)| Tag::builder().key(key).value(value).build());
                let request = self.client.create_tags().resources(instance.as_str());
                let request = request.set_tags(Some(tags.collect()));
                let answer = request.dry_run(true).send();
                once(asking, Operation::CreateTags, answer).await
            }
        }
    }
}

async fn once<P, E>(
    asking: &Asking<'_>,
    operation: Operation,
    answer: impl Future<Output = Result<P, SdkError<E>>> + Send,
) -> Result<Operation, Ec2Error>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    asking.once(operation, answer).await.map(|_| operation)
}
