//! Auto Scaling groups of instances that are there already. moto replaces none that is not
//! healthy; what it was told of each is what is tested.

use anyhow::Result;
use privnet_model::id::{InstanceId, Region};

use super::{Ec2, Service, text_of};

const AUTO_SCALING: Service = ("autoscaling", "2011-01-01");

impl Ec2 {
    /// Makes a group of these instances.
    pub fn create_group(
        &self,
        region: &Region,
        name: &str,
        subnet: &str,
        instances: &[&InstanceId],
    ) -> Result<()> {
        let call = |action, form: &[_]| {
            self.call_service(AUTO_SCALING, region.as_str(), action, form)
                .map(drop)
        };
        let launch = ("LaunchConfigurationName", name);
        let like = [
            launch,
            ("ImageId", "ami-12c6146b"),
            ("InstanceType", "t4g.nano"),
        ];
        call("CreateLaunchConfiguration", &like)?;
        let group = ("AutoScalingGroupName", name);
        let empty = [
            group,
            launch,
            ("MinSize", "0"),
            ("MaxSize", "9"),
            ("DesiredCapacity", "0"),
            ("VPCZoneIdentifier", subnet),
        ];
        call("CreateAutoScalingGroup", &empty)?;
        for instance in instances {
            let member = ("InstanceIds.member.1", instance.as_str());
            call("AttachInstances", &[group, member])?;
        }
        Ok(())
    }

    /// What its group was told of an instance's health.
    pub fn health_of(&self, region: &Region, instance: &InstanceId) -> Result<String> {
        let answer = self.call_service(
            AUTO_SCALING,
            region.as_str(),
            "DescribeAutoScalingInstances",
            &[("InstanceIds.member.1", instance.as_str())],
        )?;
        text_of(&answer, "HealthStatus")
    }
}
