//! A VPC that CloudFormation stacks made, in the place of one of a topology: what EC2 has
//! of it is read here, [`World::adopt`] gives it namespaces and launches the hosts, which no
//! stack does. The drawing follows the stacks: subnets have their CIDRs, gateways the
//! addresses that EC2 gave them.
//!
//! What moto leaves out of a template and the daemons need is given by hand: a gateway's
//! profile, its public address, the interface that it is to be launched into.
//!
//! [`World::adopt`]: crate::world::World::adopt

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use ipnet::Ipv4Net;
use privnet_model::id::VpcId;

use crate::moto::{Ec2, Launched, Stack, SubnetId};
use crate::topology::{Target, Vpc};

/// A VPC that EC2 has already.
#[derive(Debug, Clone)]
pub struct Adopted {
    /// What it looks like.
    pub vpc: Vpc,
    pub(crate) id: VpcId,
    /// Of all its subnets, in their order.
    pub(crate) subnets: Vec<SubnetId>,
    /// The instances that are launched, by name.
    pub(crate) members: BTreeMap<&'static str, Member>,
}

/// An instance that is launched.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) launched: Launched,
    /// The role of its profile.
    pub(crate) role: Option<String>,
    /// What it was launched with.
    pub(crate) user_data: Option<String>,
}

impl Adopted {
    /// A VPC of a stack of `vpc.yaml` in one zone, which is drawn with a public subnet and
    /// then a private one.
    pub fn new(ec2: &Ec2, mut vpc: Vpc, stack: &Stack) -> Result<Self> {
        let ec2 = ec2.in_account(vpc.account);
        let (name, drawn) = (vpc.name, &vpc.cidrs);
        let cidr: Ipv4Net = stack.output("VpcCidr")?.parse()?;
        ensure!(*drawn == [cidr], "{name} is drawn with {drawn:?}");
        let outputs = ["PublicSubnetIds", "PrivateSubnetIds"];
        ensure!(vpc.subnets.len() == outputs.len(), "{name}: two subnets");
        let mut subnets = Vec::new();
        for (subnet, output) in vpc.subnets.iter_mut().zip(outputs) {
            let id = SubnetId(stack.output(output)?.to_owned());
            subnet.cidr = ec2.cidr_of(&vpc.region, &id)?;
            subnets.push(id);
        }
        Ok(Self {
            id: stack.output("VpcId")?.parse()?,
            vpc,
            subnets,
            members: BTreeMap::new(),
        })
    }

    /// Lets a gateway be the instance that this stack of `hub.yaml`, or of `spoke.yaml` in
    /// one zone, launched.
    pub fn gateway(&mut self, ec2: &Ec2, name: &'static str, stack: &Stack) -> Result<()> {
        let ec2 = ec2.in_account(self.vpc.account);
        let region = &self.vpc.region;
        let either = |one, other| stack.output(one).or_else(|_| stack.output(other));
        let group = either("HubGroup", "SpokeGroups")?;
        let instances = ec2.instances_with(region, "tag:aws:autoscaling:groupName", group)?;
        let [instance] = instances.as_slice() else {
            bail!("{group} has {instances:?}");
        };
        let (mut launched, mut address) = ec2.instance(region, instance)?;
        if let Ok(interface) = stack.output("HubInterface") {
            interface.clone_into(&mut launched.interface);
            address = ec2.address_of(region, interface)?;
        }
        let role = either("HubRoleArn", "SpokeRoleArn")?;
        let (_, role) = role.rsplit_once('/').context("not a role")?;
        ec2.give_profile(region, instance, role)?;
        let template = ec2.tag_of(region, instance, "aws:ec2launchtemplate:id")?;
        let template = template.with_context(|| format!("{name} is of no launch template"))?;
        let (_, user_data) = ec2.launch_template(region, &template)?;
        self.draw_at(name, address)?;
        let member = Member {
            launched,
            role: Some(role.to_owned()),
            user_data: Some(user_data),
        };
        self.members.insert(name, member);
        Ok(())
    }

    /// The instance has this address, and the routes that led to it lead there.
    fn draw_at(&mut self, name: &str, address: Ipv4Addr) -> Result<()> {
        let subnets = &mut self.vpc.subnets;
        let subnet = subnets.first_mut().context("no subnet")?;
        ensure!(subnet.cidr.contains(&address), "{name} is at {address}");
        let mut instances = subnet.instances.iter_mut();
        let instance = instances.find(|instance| instance.name == name);
        let instance = instance.with_context(|| format!("{name} is not drawn there"))?;
        let before = std::mem::replace(&mut instance.address, address);
        let routes = subnets.iter_mut().flat_map(|subnet| &mut subnet.routes);
        for (_, target) in routes {
            if *target == Target::Instance(before) {
                *target = Target::Instance(address);
            }
        }
        Ok(())
    }
}
