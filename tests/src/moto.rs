//! moto, which plays the EC2 API, STS, IAM, CloudFormation and SSM: starting it, and filling it through
//! the same query API that everybody uses.
//!
//! The requests are not signed in earnest: moto reads no more of a signature
//! than the service and the region it names, and a header of its own for the
//! account. This module stays away from what moto does otherwise than AWS (it
//! accepts nonsense, and its terminated instances keep their interfaces).

mod groups;
mod stacks;
mod surroundings;

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use privnet_model::id::{InstanceId, Region, VpcId};

use crate::imds::IamRole;
use crate::namespace::Namespace;
use crate::process::{Process, wait_until};
use crate::programs;
use crate::topology::ACCOUNT;

pub use stacks::Stack;

/// A service with the version of its API, as the AWS SDK names it.
type Service = (&'static str, &'static str);
const EC2: Service = ("ec2", "2016-11-15");
const STS: Service = ("sts", "2011-06-15");
const IAM: Service = ("iam", "2010-05-08");

/// A way to speak to moto.
#[derive(Debug, Clone)]
pub struct Ec2 {
    endpoint: String,
    agent: ureq::Agent,
    account: String,
}

/// A subnet's id, `subnet-…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetId(pub String);

/// What EC2 says of an instance just launched.
#[derive(Debug, Clone)]
pub struct Launched {
    /// Its id.
    pub id: InstanceId,
    /// Its primary interface's id.
    pub interface: String,
    /// When it was launched, as EC2 writes it.
    pub launch_time: String,
}

/// Starts moto in a namespace, at this address and port, and waits until it answers.
pub fn start(namespace: &Namespace, address: Ipv4Addr, port: u16) -> Result<(Process, Ec2)> {
    let mut process = namespace.start(
        "moto",
        programs::moto_server()?,
        ["-H", &address.to_string(), "-p", &port.to_string()],
    )?;
    let ec2 = Ec2::new(format!("http://{address}:{port}"));
    wait_until("moto to answer", Duration::from_secs(90), || {
        process.check()?;
        ec2.ping()
    })?;
    Ok((process, ec2))
}

impl Ec2 {
    /// Speaks to the API at this endpoint.
    pub fn new(endpoint: String) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(120)))
            .http_status_as_error(false)
            .build()
            .new_agent();
        Self {
            endpoint,
            agent,
            account: ACCOUNT.to_owned(),
        }
    }

    /// The same in another account.
    #[must_use]
    pub fn in_account(&self, account: &str) -> Self {
        Self {
            account: account.to_owned(),
            ..self.clone()
        }
    }

    /// Where it is.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn ping(&self) -> Result<Option<()>> {
        let answer = self
            .agent
            .get(format!("{}/moto-api/data.json", self.endpoint))
            .call()?;
        Ok(answer.status().is_success().then_some(()))
    }

    /// Calls an action in a region and returns the answer's XML.
    pub fn call(
        &self,
        region: &Region,
        action: &str,
        parameters: &[(&str, &str)],
    ) -> Result<String> {
        self.call_service(EC2, region.as_str(), action, parameters)
    }

    fn call_service(
        &self,
        (service, version): Service,
        region: &str,
        action: &str,
        parameters: &[(&str, &str)],
    ) -> Result<String> {
        let mut form = vec![("Action", action), ("Version", version)];
        form.extend_from_slice(parameters);
        let mut answer = self
            .agent
            .post(&self.endpoint)
            .header(
                "Authorization",
                format!(
                    "AWS4-HMAC-SHA256 Credential=WORLD/20260101/{region}/{service}/aws4_request, \
                     SignedHeaders=host, Signature=0"
                ),
            )
            .header("x-moto-account-id", &self.account)
            .send_form(form)
            .with_context(|| format!("{action} in {region}"))?;
        let text = answer
            .body_mut()
            .with_config()
            .limit(1 << 30)
            .read_to_string()?;
        if !answer.status().is_success() {
            bail!(
                "{action} {parameters:?} in {region}: {}: {text}",
                answer.status()
            );
        }
        Ok(text)
    }

    /// Makes a role with this trust policy and these permissions.
    pub fn create_role(&self, name: &str, trust: &str, permissions: &str) -> Result<()> {
        let call =
            |action, parameters: &[_]| self.call_service(IAM, "us-east-1", action, parameters);
        call(
            "CreateRole",
            &[("RoleName", name), ("AssumeRolePolicyDocument", trust)],
        )?;
        call(
            "PutRolePolicy",
            &[
                ("RoleName", name),
                ("PolicyName", name),
                ("PolicyDocument", permissions),
            ],
        )
        .map(drop)
    }

    /// What EC2 gives an instance that has a role of this account: credentials
    /// whose session is called as the instance. moto asks for no permission, nor
    /// whether there is such a role.
    pub fn assume(&self, role: &str, session: &str) -> Result<IamRole> {
        let arn = format!("arn:aws:iam::{}:role/{role}", self.account);
        let answer = self.call_service(
            STS,
            "us-east-1",
            "AssumeRole",
            &[("RoleArn", &arn), ("RoleSessionName", session)],
        )?;
        Ok(IamRole {
            name: role.to_owned(),
            access_key: text_of(&answer, "AccessKeyId")?,
            secret_key: text_of(&answer, "SecretAccessKey")?,
            token: text_of(&answer, "SessionToken")?,
        })
    }

    /// Lets moto check signatures and roles' permitted actions from now on, or no
    /// longer. What this client asks itself is refused meanwhile.
    pub fn enforce_iam(&self, enforce: bool) -> Result<()> {
        let free_calls = if enforce { "0" } else { "inf" };
        self.agent
            .post(format!("{}/moto-api/reset-auth", self.endpoint))
            .send(free_calls)
            .context("moto does not change its ways")?;
        Ok(())
    }

    /// Makes a VPC with these CIDRs; the first is the primary one.
    pub fn create_vpc(&self, region: &Region, name: &str, cidrs: &[Ipv4Net]) -> Result<VpcId> {
        let [primary, secondary @ ..] = cidrs else {
            bail!("VPC {name} has no CIDR");
        };
        let answer = self.call(region, "CreateVpc", &[("CidrBlock", &primary.to_string())])?;
        let id = text_of(&answer, "vpcId")?;
        for cidr in secondary {
            self.associate_cidr(region, &id.parse()?, *cidr)?;
        }
        self.tag(region, &id, &[("Name", name)])?;
        Ok(id.parse()?)
    }

    /// Adds a secondary CIDR to a VPC.
    pub fn associate_cidr(&self, region: &Region, vpc: &VpcId, cidr: Ipv4Net) -> Result<()> {
        self.call(
            region,
            "AssociateVpcCidrBlock",
            &[("VpcId", vpc.as_str()), ("CidrBlock", &cidr.to_string())],
        )
        .map(drop)
    }

    /// Makes a subnet.
    pub fn create_subnet(
        &self,
        region: &Region,
        vpc: &VpcId,
        cidr: Ipv4Net,
        zone: char,
    ) -> Result<SubnetId> {
        let answer = self.call(
            region,
            "CreateSubnet",
            &[
                ("VpcId", vpc.as_str()),
                ("CidrBlock", &cidr.to_string()),
                ("AvailabilityZone", &format!("{region}{zone}")),
            ],
        )?;
        Ok(SubnetId(text_of(&answer, "subnetId")?))
    }

    /// Launches an instance, with a private address of its own and these tags.
    pub fn launch(
        &self,
        region: &Region,
        subnet: &SubnetId,
        address: Ipv4Addr,
        tags: &[(&str, &str)],
    ) -> Result<Launched> {
        let answer = self.run_instances(region, subnet, 1, Some(address), tags)?;
        let document = roxmltree::Document::parse(&answer)?;
        let item = document
            .descendants()
            .find(|node| node.has_tag_name_anywhere("instancesSet"))
            .context("RunInstances answered without instances")?;
        Ok(Launched {
            id: node_text(item, "instanceId")?.parse()?,
            interface: node_text(item, "networkInterfaceId")?,
            launch_time: node_text(item, "launchTime")?,
        })
    }

    /// Launches many instances at once, wherever in the subnet; returns their ids.
    pub fn launch_many(
        &self,
        region: &Region,
        subnet: &SubnetId,
        count: usize,
        tags: &[(&str, &str)],
    ) -> Result<Vec<InstanceId>> {
        let answer = self.run_instances(region, subnet, count, None, tags)?;
        let document = roxmltree::Document::parse(&answer)?;
        document
            .descendants()
            .filter(|node| node.has_tag_name_anywhere("instanceId"))
            .map(|node| Ok(node.text().unwrap_or_default().parse()?))
            .collect()
    }

    fn run_instances(
        &self,
        region: &Region,
        subnet: &SubnetId,
        count: usize,
        address: Option<Ipv4Addr>,
        tags: &[(&str, &str)],
    ) -> Result<String> {
        let mut parameters = vec![
            // An image that moto knows in every region would differ by region;
            // it only warns about one that it does not know.
            ("ImageId".to_owned(), "ami-12c6146b".to_owned()),
            ("InstanceType".to_owned(), "t4g.nano".to_owned()),
            ("MinCount".to_owned(), count.to_string()),
            ("MaxCount".to_owned(), count.to_string()),
            ("SubnetId".to_owned(), subnet.0.clone()),
        ];
        if let Some(address) = address {
            parameters.push(("PrivateIpAddress".to_owned(), address.to_string()));
        }
        if !tags.is_empty() {
            parameters.push((
                "TagSpecification.1.ResourceType".to_owned(),
                "instance".to_owned(),
            ));
        }
        for (number, (key, value)) in (1..).zip(tags) {
            parameters.push((
                format!("TagSpecification.1.Tag.{number}.Key"),
                (*key).to_owned(),
            ));
            parameters.push((
                format!("TagSpecification.1.Tag.{number}.Value"),
                (*value).to_owned(),
            ));
        }
        let parameters: Vec<(&str, &str)> = parameters
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        self.call(region, "RunInstances", &parameters)
    }

    /// Gives an instance this Elastic IP.
    pub fn give_address(
        &self,
        region: &Region,
        instance: &InstanceId,
        public: Ipv4Addr,
    ) -> Result<()> {
        let answer = self.call(
            region,
            "AllocateAddress",
            &[("Domain", "vpc"), ("Address", &public.to_string())],
        )?;
        let allocation = text_of(&answer, "allocationId")?;
        self.call(
            region,
            "AssociateAddress",
            &[
                ("AllocationId", &allocation),
                ("InstanceId", instance.as_str()),
            ],
        )
        .map(drop)
    }

    /// Sets tags.
    pub fn tag(&self, region: &Region, resource: &str, tags: &[(&str, &str)]) -> Result<()> {
        self.change_tags(region, "CreateTags", resource, tags)
    }

    /// Removes tags.
    pub fn untag(&self, region: &Region, resource: &str, keys: &[&str]) -> Result<()> {
        let tags: Vec<(&str, &str)> = keys.iter().map(|key| (*key, "")).collect();
        self.change_tags(region, "DeleteTags", resource, &tags)
    }

    fn change_tags(
        &self,
        region: &Region,
        action: &str,
        resource: &str,
        tags: &[(&str, &str)],
    ) -> Result<()> {
        let mut parameters = vec![("ResourceId.1".to_owned(), resource)];
        for (number, (key, value)) in (1..).zip(tags) {
            parameters.push((format!("Tag.{number}.Key"), *key));
            if action == "CreateTags" {
                parameters.push((format!("Tag.{number}.Value"), *value));
            }
        }
        let parameters: Vec<(&str, &str)> = parameters
            .iter()
            .map(|(key, value)| (key.as_str(), *value))
            .collect();
        self.call(region, action, &parameters).map(drop)
    }

    /// Terminates an instance.
    pub fn terminate(&self, region: &Region, instance: &InstanceId) -> Result<()> {
        self.call(
            region,
            "TerminateInstances",
            &[("InstanceId.1", instance.as_str())],
        )
        .map(drop)
    }

    /// Stops an instance.
    pub fn stop(&self, region: &Region, instance: &InstanceId) -> Result<()> {
        self.call(
            region,
            "StopInstances",
            &[("InstanceId.1", instance.as_str())],
        )
        .map(drop)
    }

    /// The value of an instance's tag, if it has it.
    pub fn tag_of(
        &self,
        region: &Region,
        instance: &InstanceId,
        key: &str,
    ) -> Result<Option<String>> {
        let answer = self.call(
            region,
            "DescribeTags",
            &[
                ("Filter.1.Name", "resource-id"),
                ("Filter.1.Value.1", instance.as_str()),
                ("Filter.2.Name", "key"),
                ("Filter.2.Value.1", key),
            ],
        )?;
        let document = roxmltree::Document::parse(&answer)?;
        Ok(document
            .descendants()
            .find(|node| node.has_tag_name_anywhere("value"))
            .and_then(|node| node.text())
            .map(str::to_owned))
    }
}

/// EC2's answers have a default XML namespace, which nobody asks for.
trait AnyNamespace {
    fn has_tag_name_anywhere(&self, name: &str) -> bool;
}

impl AnyNamespace for roxmltree::Node<'_, '_> {
    fn has_tag_name_anywhere(&self, name: &str) -> bool {
        self.is_element() && self.tag_name().name() == name
    }
}

/// The text of the first element of this name in an answer of EC2.
///
/// # Errors
///
/// There is none, or the answer is no XML.
pub fn text_of(xml: &str, element: &str) -> Result<String> {
    node_text(roxmltree::Document::parse(xml)?.root(), element)
}

fn node_text(node: roxmltree::Node<'_, '_>, element: &str) -> Result<String> {
    node.descendants()
        .find(|node| node.has_tag_name_anywhere(element))
        .and_then(|node| node.text())
        .map(str::to_owned)
        .with_context(|| format!("no {element} in the answer"))
}
