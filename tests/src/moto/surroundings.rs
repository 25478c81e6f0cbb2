//! What surrounds an instance in EC2: its VPC's security group, and the check of sources
//! and destinations at its interface. moto keeps both and enforces neither; what the
//! programs read of them is what is tested.

use anyhow::Result;
use privnet_model::id::{Region, VpcId};

use super::{Ec2, text_of};

impl Ec2 {
    /// The default security group of a VPC, which all its instances are in.
    pub fn default_group(&self, region: &Region, vpc: &VpcId) -> Result<String> {
        let filters = [
            ("Filter.1.Name", "vpc-id"),
            ("Filter.1.Value.1", vpc.as_str()),
            ("Filter.2.Name", "group-name"),
            ("Filter.2.Value.1", "default"),
        ];
        let answer = self.call(region, "DescribeSecurityGroups", &filters)?;
        text_of(&answer, "groupId")
    }

    /// Whether the security group of this name tag lets this UDP port in from this CIDR.
    pub fn lets_in(&self, region: &Region, name: &str, port: u16, cidr: &str) -> Result<bool> {
        let port = port.to_string();
        let filters = [
            ("Filter.1.Name", "tag:Name"),
            ("Filter.1.Value.1", name),
            ("Filter.2.Name", "ip-permission.protocol"),
            ("Filter.2.Value.1", "udp"),
            ("Filter.3.Name", "ip-permission.to-port"),
            ("Filter.3.Value.1", port.as_str()),
            ("Filter.4.Name", "ip-permission.cidr"),
            ("Filter.4.Value.1", cidr),
        ];
        let answer = self.call(region, "DescribeSecurityGroups", &filters)?;
        Ok(answer.contains("<groupId>"))
    }

    /// Lets everything in from this CIDR.
    pub fn let_in(&self, region: &Region, group: &str, cidr: &str) -> Result<()> {
        self.change_ingress(region, "Authorize", group, &[("IpProtocol", "-1")], cidr)
    }

    /// No longer.
    pub fn keep_out(&self, region: &Region, group: &str, cidr: &str) -> Result<()> {
        self.change_ingress(region, "Revoke", group, &[("IpProtocol", "-1")], cidr)
    }

    /// Lets this UDP port in from everywhere.
    pub fn open_udp(&self, region: &Region, group: &str, port: u16) -> Result<()> {
        self.change_udp(region, "Authorize", group, port)
    }

    /// No longer.
    pub fn close_udp(&self, region: &Region, group: &str, port: u16) -> Result<()> {
        self.change_udp(region, "Revoke", group, port)
    }

    fn change_udp(&self, region: &Region, verb: &str, group: &str, port: u16) -> Result<()> {
        let port = port.to_string();
        let traffic = [
            ("IpProtocol", "udp"),
            ("FromPort", port.as_str()),
            ("ToPort", port.as_str()),
        ];
        self.change_ingress(region, verb, group, &traffic, "0.0.0.0/0")
    }

    fn change_ingress(
        &self,
        region: &Region,
        verb: &str,
        group: &str,
        traffic: &[(&str, &str)],
        cidr: &str,
    ) -> Result<()> {
        let mut parameters = vec![
            ("GroupId".to_owned(), group),
            ("IpPermissions.1.IpRanges.1.CidrIp".to_owned(), cidr),
        ];
        for (key, value) in traffic {
            parameters.push((format!("IpPermissions.1.{key}"), *value));
        }
        let parameters: Vec<(&str, &str)> = parameters
            .iter()
            .map(|(key, value)| (key.as_str(), *value))
            .collect();
        let action = format!("{verb}SecurityGroupIngress");
        self.call(region, &action, &parameters).map(drop)
    }

    /// Has EC2 check what an interface forwards, or not.
    pub fn check_sources(&self, region: &Region, interface: &str, check: bool) -> Result<()> {
        let check = check.to_string();
        let parameters = [
            ("NetworkInterfaceId", interface),
            ("SourceDestCheck.Value", check.as_str()),
        ];
        let action = "ModifyNetworkInterfaceAttribute";
        self.call(region, action, &parameters).map(drop)
    }
}
