//! Other instances of the VPC: what they do, and having one stop or start. Whether that is
//! right nobody asks here; but an instance that is told to stop says what it did before.

use std::collections::BTreeMap;

use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::operation::start_instances::builders::StartInstancesFluentBuilder;
use aws_sdk_ec2::operation::stop_instances::builders::StopInstancesFluentBuilder;
use aws_sdk_ec2::types::{self, DeviceType, Instance, InstanceState, InstanceStateName};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use privnet_model::id::InstanceId;
use privnet_model::vpc::{Machine, MachineState, StopOutcome};

use crate::error::{Ec2Error, Operation, Reason};
use crate::filter;
use crate::record;
use crate::vpc::Vpc;

/// Where `ami/iam` allows this.
const POLICY: &str = "remedy-policy.json";
/// The tag that Auto Scaling gives the instances of a group. Nobody else can: `aws:` is
/// AWS's own (Auto Scaling user guide, "Tag Auto Scaling groups and instances").
const GROUP_TAG: &str = "aws:autoscaling:groupName";

/// Which instances are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineChoice {
    /// Those with all these tags. Of them there must be one.
    Tagged(BTreeMap<String, String>),
    /// This one, whatever its tags are.
    One(InstanceId),
}

impl Vpc {
    /// The chosen instances of the VPC, in whatever state.
    ///
    /// # Errors
    /// There is no complete answer. Then nothing is known of any.
    pub async fn machines(
        &self,
        choice: &MachineChoice,
    ) -> Result<BTreeMap<InstanceId, Machine>, Ec2Error> {
        let any = BTreeMap::new();
        let (mut filters, tags) = match choice {
            MachineChoice::Tagged(tags) => (filter::with(tags), tags),
            MachineChoice::One(instance) => (vec![filter::instances([instance])], &any),
        };
        filters.push(self.inside());
        let mut found = BTreeMap::new();
        let asking = self.asking();
        asking
            .instances(&self.client, filters, |instance| {
                let spoke = record::spoke(instance).map_err(Reason::unreadable)?;
                // EC2 leaves the VPC out of instances that are gone.
                let elsewhere = spoke.vpc.as_ref().is_some_and(|vpc| *vpc != self.id);
                if !elsewhere && filter::has_all(&spoke.tags, tags) {
                    let group = spoke.tags.get(GROUP_TAG).cloned();
                    let machine = machine(instance, spoke.launched, group);
                    found.insert(spoke.instance, machine);
                }
                Ok(())
            })
            .await
            .map_err(|error| self.about_vpc(error))?;
        Ok(found)
    }

    /// Has an instance stop.
    ///
    /// # Errors
    /// If [`Ec2Error::may_be_done`] it may stop all the same.
    pub async fn stop_instance(&self, instance: &InstanceId) -> Result<StopOutcome, Ec2Error> {
        let asking = self.asking();
        let operation = Operation::StopInstances;
        // Once: a second try after an answer that was lost would find it stopping, as if
        // somebody else had been faster.
        let once = aws_sdk_ec2::Config::builder().retry_config(RetryConfig::disabled());
        let request = self.stopping(instance).customize();
        let request = request.config_override(once);
        let answer = request.interceptor(asking.budget.clone()).send();
        let answer = asking.once(operation, answer).await;
        let answer = answer.map_err(|error| about(error, instance))?;
        let mut changes = answer.stopping_instances().iter();
        let change = changes.find(|one| one.instance_id() == Some(instance.as_str()));
        let change = change.ok_or_else(|| {
            let reason = Reason::unreadable(format_args!("nothing about {instance}"));
            about(asking.found(operation, reason), instance)
        })?;
        Ok(match state(change.previous_state()) {
            MachineState::Running => StopOutcome::Done,
            other => StopOutcome::WasNot(other),
        })
    }

    /// Has an instance start that is stopped.
    ///
    /// # Errors
    /// If [`Ec2Error::may_be_done`] it may start all the same.
    pub async fn start_instance(&self, instance: &InstanceId) -> Result<(), Ec2Error> {
        let asking = self.asking();
        let request = self.starting(instance).customize();
        let answer = request.interceptor(asking.budget.clone()).send();
        let answer = asking.once(Operation::StartInstances, answer).await;
        answer.map(drop).map_err(|error| about(error, instance))
    }

    pub(super) fn stopping(&self, instance: &InstanceId) -> StopInstancesFluentBuilder {
        self.client.stop_instances().instance_ids(instance.as_str())
    }

    pub(super) fn starting(&self, instance: &InstanceId) -> StartInstancesFluentBuilder {
        self.client
            .start_instances()
            .instance_ids(instance.as_str())
    }
}

pub(super) fn about(error: Ec2Error, instance: &InstanceId) -> Ec2Error {
    error.about(format!("instance {instance}"), POLICY)
}

fn machine(instance: &Instance, launched: Option<Timestamp>, group: Option<String>) -> Machine {
    Machine {
        state: state(instance.state()),
        told: instance.state_transition_reason().and_then(told),
        launched,
        group,
        instance_store: instance.root_device_type() == Some(&DeviceType::InstanceStore),
    }
}

fn state(state: Option<&InstanceState>) -> MachineState {
    match state.and_then(types::InstanceState::name) {
        Some(InstanceStateName::Pending) => MachineState::Pending,
        Some(InstanceStateName::Running) => MachineState::Running,
        Some(InstanceStateName::Stopping) => MachineState::Stopping,
        Some(InstanceStateName::Stopped) => MachineState::Stopped,
        Some(InstanceStateName::ShuttingDown | InstanceStateName::Terminated) => {
            MachineState::Terminated
        }
        Some(_) | None => MachineState::Unclear,
    }
}

/// The time in "User initiated (2026-11-22 03:54:57 GMT)". EC2 says so of whoever told an
/// instance to stop or to end; its form is not documented, so another is no time.
fn told(reason: &str) -> Option<Timestamp> {
    let (_, rest) = reason.rsplit_once('(')?;
    let time = rest.strip_suffix(')')?;
    let time = time
        .strip_suffix(" GMT")
        .or_else(|| time.strip_suffix(" UTC"))?;
    let time = DateTime::strptime("%Y-%m-%d %H:%M:%S", time).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_dated_by_the_reason_that_ec2_gives() {
        let expected: Option<Timestamp> = "2026-11-22T03:54:57Z".parse().ok();
        assert!(expected.is_some());
        for zone in ["GMT", "UTC"] {
            let reason = format!("User initiated (2026-11-22 03:54:57 {zone})");
            assert_eq!(told(&reason), expected);
        }
        for other in [
            "",
            "User initiated",
            "User initiated ()",
            "Server.SpotInstanceTermination",
            "User initiated (2026-11-22 03:54:57)",
            "User initiated (yesterday GMT)",
        ] {
            assert_eq!(told(other), None, "{other}");
        }
    }
}
