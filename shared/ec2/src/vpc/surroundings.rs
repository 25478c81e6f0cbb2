//! What surrounds an instance, for the doctor: how EC2 describes it, its security groups
//! and its subnet's network ACL. Only looks.

use std::fmt::Display;
use std::str::FromStr;

use aws_sdk_ec2::operation::describe_network_acls::DescribeNetworkAclsOutput;
use aws_sdk_ec2::operation::describe_security_groups::DescribeSecurityGroupsOutput;
use aws_sdk_ec2::types::{self, HttpTokensState, Instance, IpPermission, RuleAction};
use ipnet::IpNet;
use privnet_model::id::{InstanceId, SecurityGroupId, SubnetId};
use privnet_model::instance::{
    AclEntry, GroupRule, InstanceDescription, MetadataOptions, NetworkAcl, PublicAddress,
    SecurityGroup, Traffic,
};

use crate::error::{Ec2Error, Operation, Reason};
use crate::filter;
use crate::vpc::{Vpc, description};

/// Where `ami/iam` allows all of this.
const POLICY: &str = "doctor-policy.json";

/// Whose the addresses are that AWS lends to an instance while it runs.
const LENT: &str = "amazon";

impl Vpc {
    /// The instance, as EC2 describes it.
    ///
    /// # Errors
    /// There is no complete answer, it does not name the instance, or lacks its primary
    /// interface or subnet.
    pub async fn instance(&self, id: &InstanceId) -> Result<InstanceDescription, Ec2Error> {
        let asking = self.asking();
        let filters = vec![self.inside(), filter::instances([id])];
        let mut found = None;
        asking
            .instances(&self.client, filters, |instance| {
                if instance.instance_id() == Some(id.as_str()) {
                    found = Some(describe(instance)?);
                }
                Ok(())
            })
            .await
            .map_err(|error| error.about(id.as_str(), POLICY))?;
        found.ok_or_else(|| {
            let reason = Reason::unreadable(format_args!("no word of {id}"));
            asking.found(Operation::DescribeInstances, reason)
        })
    }

    /// Security groups of the VPC, in the order asked for.
    ///
    /// # Errors
    /// There is no complete answer, or it lacks one of them.
    pub async fn security_groups(
        &self,
        ids: &[SecurityGroupId],
    ) -> Result<Vec<SecurityGroup>, Ec2Error> {
        let asking = self.asking();
        let operation = Operation::DescribeSecurityGroups;
        let mut groups = Vec::new();
        let request = self
            .client
            .describe_security_groups()
            .filters(filter::security_groups(ids));
        asking
            .pages(
                operation,
                |token| {
                    let request = request.clone().set_next_token(token).customize();
                    request.interceptor(asking.budget.clone()).send()
                },
                DescribeSecurityGroupsOutput::next_token,
                |page| {
                    for group in page.security_groups() {
                        groups.push(security_group(group)?);
                    }
                    Ok(())
                },
            )
            .await
            .map_err(|error| error.about(self.id.as_str(), POLICY))?;
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(group) = groups.iter().find(|group| group.id == *id) else {
                let reason = Reason::unreadable(format_args!("no word of {id}"));
                return Err(asking.found(operation, reason));
            };
            found.push(group.clone());
        }
        Ok(found)
    }

    /// The network ACL of a subnet.
    ///
    /// # Errors
    /// There is no complete answer, or none about this subnet.
    pub async fn network_acl(&self, subnet: &SubnetId) -> Result<NetworkAcl, Ec2Error> {
        let asking = self.asking();
        let operation = Operation::DescribeNetworkAcls;
        let mut found = None;
        let request = self
            .client
            .describe_network_acls()
            .filters(filter::acl_of(subnet));
        asking
            .pages(
                operation,
                |token| {
                    let request = request.clone().set_next_token(token).customize();
                    request.interceptor(asking.budget.clone()).send()
                },
                DescribeNetworkAclsOutput::next_token,
                |page| {
                    for acl in page.network_acls() {
                        let mut subnets = acl.associations().iter();
                        if subnets.any(|one| one.subnet_id() == Some(subnet.as_str())) {
                            found = Some(network_acl(acl)?);
                        }
                    }
                    Ok(())
                },
            )
            .await
            .map_err(|error| error.about(subnet.as_str(), POLICY))?;
        found.ok_or_else(|| {
            let reason = Reason::unreadable(format_args!("no word of {subnet}"));
            asking.found(operation, reason)
        })
    }
}

fn describe(instance: &Instance) -> Result<InstanceDescription, Reason> {
    let interface = description::primary(instance)
        .ok_or_else(|| Reason::unreadable("it names no primary network interface"))?;
    let groups = interface
        .groups()
        .iter()
        .filter_map(|group| group.group_id());
    let public = interface
        .association()
        .and_then(|association| {
            let elastic = association.ip_owner_id() != Some(LENT);
            Some((association.public_ip()?, elastic))
        })
        // What EC2 says of the instance itself tells no owner.
        .or_else(|| Some((instance.public_ip_address()?, false)))
        .filter(|(address, _)| !address.is_empty());
    let public = public.map(|(address, elastic)| {
        let address = parsed(address)?;
        Ok::<_, Reason>(PublicAddress { address, elastic })
    });
    let metadata = instance.metadata_options().map(|options| MetadataOptions {
        tokens_required: options.http_tokens() == Some(&HttpTokensState::Required),
        hop_limit: options.http_put_response_hop_limit(),
    });
    Ok(InstanceDescription {
        interface: parsed(interface.network_interface_id().unwrap_or_default())?,
        subnet: parsed(
            interface
                .subnet_id()
                .or(instance.subnet_id())
                .unwrap_or_default(),
        )?,
        source_dest_check: interface.source_dest_check(),
        groups: groups.map(parsed).collect::<Result<_, _>>()?,
        public: public.transpose()?,
        metadata,
        tags: description::tags(instance.tags()),
    })
}

fn security_group(group: &types::SecurityGroup) -> Result<SecurityGroup, Reason> {
    let rules = |rules: &[IpPermission]| -> Result<Vec<GroupRule>, Reason> {
        rules.iter().map(group_rule).collect()
    };
    Ok(SecurityGroup {
        id: parsed(group.group_id().unwrap_or_default())?,
        ingress: rules(group.ip_permissions())?,
        egress: rules(group.ip_permissions_egress())?,
    })
}

fn group_rule(rule: &IpPermission) -> Result<GroupRule, Reason> {
    let four = rule.ip_ranges().iter().filter_map(|range| range.cidr_ip());
    let six = rule.ipv6_ranges().iter();
    let six = six.filter_map(|range| range.cidr_ipv6());
    let groups = rule.user_id_group_pairs().iter();
    let lists = rule.prefix_list_ids().iter();
    Ok(GroupRule {
        traffic: traffic(rule.ip_protocol(), rule.from_port(), rule.to_port()),
        cidrs: four.chain(six).map(parsed).collect::<Result<_, _>>()?,
        groups: groups
            .filter_map(|pair| pair.group_id().map(str::to_owned))
            .collect(),
        prefix_lists: lists
            .filter_map(|list| list.prefix_list_id().map(str::to_owned))
            .collect(),
    })
}

/// Of a network ACL a kind of entry that we do not know is left out: one more or less of
/// them says nothing certain.
fn network_acl(acl: &types::NetworkAcl) -> Result<NetworkAcl, Reason> {
    let entries = acl.entries().iter().filter_map(|entry| {
        let cidr = entry.cidr_block().or(entry.ipv6_cidr_block())?;
        let ports = entry.port_range();
        let ports = ports.map(|range| (range.from(), range.to()));
        let (from, to) = ports.unwrap_or_default();
        Some(parsed::<IpNet>(cidr).map(|cidr| AclEntry {
            number: entry.rule_number().unwrap_or(i32::MAX),
            egress: entry.egress() == Some(true),
            allow: entry.rule_action() == Some(&RuleAction::Allow),
            traffic: traffic(entry.protocol(), from, to),
            cidr,
        }))
    });
    Ok(NetworkAcl {
        id: acl.network_acl_id().unwrap_or_default().to_owned(),
        entries: entries.collect::<Result<_, _>>()?,
    })
}

/// EC2 writes a protocol as its number or its name, and `-1` for all.
fn traffic(protocol: Option<&str>, from: Option<i32>, to: Option<i32>) -> Traffic {
    let protocol = match protocol.unwrap_or_default() {
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmp" => Some(1),
        "icmpv6" => Some(58),
        "" | "-1" => None,
        // What is no number is no protocol that anything of ours uses.
        other => Some(other.parse().unwrap_or(u8::MAX)),
    };
    let port = |port: Option<i32>| u16::try_from(port?).ok();
    Traffic {
        protocol,
        ports: port(from).zip(port(to)),
    }
}

fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, Reason> {
    text.parse().map_err(|error| {
        let text: String = text.chars().take(64).collect();
        Reason::unreadable(format_args!("`{text}`: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_a_number_a_name_or_all() {
        let all = traffic(Some("-1"), None, None);
        assert_eq!(all, Traffic::ALL);
        assert_eq!(traffic(Some("17"), Some(1), Some(2)), {
            let ports = Some((1, 2));
            let protocol = Some(17);
            Traffic { protocol, ports }
        });
        assert_eq!(
            traffic(Some("tcp"), Some(22), Some(22)),
            Traffic::port(6, 22)
        );
        // ICMP's -1 is no port.
        assert_eq!(traffic(Some("icmp"), Some(-1), Some(-1)).ports, None);
        assert_eq!(traffic(Some("nonsense"), None, None).protocol, Some(255));
    }
}
