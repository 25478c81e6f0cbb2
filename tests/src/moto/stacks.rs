//! CloudFormation stacks in moto, what they made, and parameters of SSM.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ipnet::Ipv4Net;
use percent_encoding::percent_decode_str;
use privnet_model::id::{InstanceId, Region};
use serde_json::Value;

use super::{AnyNamespace, Ec2, IAM, Launched, Service, SubnetId, node_text, text_of};

const CLOUDFORMATION: Service = ("cloudformation", "2010-05-15");

/// A stack that was made.
#[derive(Debug, Clone)]
pub struct Stack {
    /// Its name.
    pub name: String,
    /// What it tells.
    pub outputs: BTreeMap<String, String>,
}

impl Stack {
    /// One of its outputs.
    pub fn output(&self, name: &str) -> Result<&str> {
        let value = self.outputs.get(name).map(String::as_str);
        value.with_context(|| format!("stack {} has no output {name}", self.name))
    }
}

impl Ec2 {
    /// Makes a stack of this template.
    pub fn create_stack(
        &self,
        region: &Region,
        name: &str,
        template: &Value,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Stack> {
        let body = template.to_string();
        let mut form = vec![
            ("StackName".to_owned(), name),
            ("TemplateBody".to_owned(), &body),
            ("Capabilities.member.1".to_owned(), "CAPABILITY_NAMED_IAM"),
        ];
        for (number, (key, value)) in (1..).zip(parameters) {
            form.push((format!("Parameters.member.{number}.ParameterKey"), key));
            form.push((format!("Parameters.member.{number}.ParameterValue"), value));
        }
        let form: Vec<(&str, &str)> = form.iter().map(|(key, value)| (&**key, *value)).collect();
        let call = |action, form: &[(&str, &str)]| {
            self.call_service(CLOUDFORMATION, region.as_str(), action, form)
        };
        call("CreateStack", &form).with_context(|| format!("stack {name}"))?;
        let answer = call("DescribeStacks", &[("StackName", name)])?;
        let status = text_of(&answer, "StackStatus")?;
        ensure!(status == "CREATE_COMPLETE", "stack {name}: {status}");
        let document = roxmltree::Document::parse(&answer)?;
        let outputs = document
            .descendants()
            .filter(|node| node.has_tag_name_anywhere("Outputs"))
            .flat_map(|list| list.children())
            .filter(roxmltree::Node::is_element)
            .map(|output| {
                Ok((
                    node_text(output, "OutputKey")?,
                    node_text(output, "OutputValue")?,
                ))
            })
            .collect::<Result<_>>()?;
        Ok(Stack {
            name: name.to_owned(),
            outputs,
        })
    }

    /// What a launch template gives its instances: the form of RunInstances as
    /// XML, and the user data in it, decoded.
    pub fn launch_template(&self, region: &Region, id: &str) -> Result<(String, String)> {
        let form = [("LaunchTemplateId", id)];
        let answer = self.call(region, "DescribeLaunchTemplateVersions", &form)?;
        let data = BASE64_STANDARD.decode(text_of(&answer, "userData")?)?;
        Ok((answer, String::from_utf8(data)?))
    }

    /// The instances that this filter of EC2 finds.
    pub fn instances_with(
        &self,
        region: &Region,
        filter: &str,
        value: &str,
    ) -> Result<Vec<InstanceId>> {
        let form = [("Filter.1.Name", filter), ("Filter.1.Value.1", value)];
        let answer = self.call(region, "DescribeInstances", &form)?;
        let document = roxmltree::Document::parse(&answer)?;
        document
            .descendants()
            .filter(|node| node.has_tag_name_anywhere("instanceId"))
            .map(|node| Ok(node.text().unwrap_or_default().parse()?))
            .collect()
    }

    /// What EC2 says of an instance that is there already, and its private address.
    pub fn instance(&self, region: &Region, instance: &InstanceId) -> Result<(Launched, Ipv4Addr)> {
        let form = [("InstanceId.1", instance.as_str())];
        let answer = self.call(region, "DescribeInstances", &form)?;
        let launched = Launched {
            id: instance.clone(),
            interface: text_of(&answer, "networkInterfaceId")?,
            launch_time: text_of(&answer, "launchTime")?,
        };
        Ok((launched, text_of(&answer, "privateIpAddress")?.parse()?))
    }

    /// The private address of an interface.
    pub fn address_of(&self, region: &Region, interface: &str) -> Result<Ipv4Addr> {
        let form = [("NetworkInterfaceId.1", interface)];
        let answer = self.call(region, "DescribeNetworkInterfaces", &form)?;
        Ok(text_of(&answer, "privateIpAddress")?.parse()?)
    }

    /// The CIDR of a subnet.
    pub fn cidr_of(&self, region: &Region, subnet: &SubnetId) -> Result<Ipv4Net> {
        let form = [("SubnetId.1", subnet.0.as_str())];
        let answer = self.call(region, "DescribeSubnets", &form)?;
        Ok(text_of(&answer, "cidrBlock")?.parse()?)
    }

    /// The routes of a table, but for the VPC's own: each destination, and what it
    /// leads to.
    pub fn routes_of(&self, region: &Region, table: &str) -> Result<Vec<(String, String)>> {
        let form = [("RouteTableId.1", table)];
        let answer = self.call(region, "DescribeRouteTables", &form)?;
        let document = roxmltree::Document::parse(&answer)?;
        let routes = document
            .descendants()
            .filter(|node| node.has_tag_name_anywhere("routeSet"))
            .flat_map(|set| set.children())
            .filter(roxmltree::Node::is_element);
        let mut found = Vec::new();
        for route in routes {
            let gateway = node_text(route, "gatewayId").ok();
            let interface = node_text(route, "networkInterfaceId").ok();
            let to = interface.or(gateway).context("a route to something else")?;
            if to != "local" {
                found.push((node_text(route, "destinationCidrBlock")?, to));
            }
        }
        Ok(found)
    }

    /// Gives an instance this profile.
    pub fn give_profile(&self, region: &Region, instance: &InstanceId, name: &str) -> Result<()> {
        let form = [
            ("InstanceId", instance.as_str()),
            ("IamInstanceProfile.Name", name),
        ];
        self.call(region, "AssociateIamInstanceProfile", &form)
            .map(drop)
    }

    /// Who may have a role, and its inline policies by name.
    pub fn role(&self, name: &str) -> Result<(Value, BTreeMap<String, Value>)> {
        let call = |action, form: &[_]| self.call_service(IAM, "us-east-1", action, form);
        let role = call("GetRole", &[("RoleName", name)])?;
        let trust = policy(&text_of(&role, "AssumeRolePolicyDocument")?)?;
        let answer = call("ListRolePolicies", &[("RoleName", name)])?;
        let document = roxmltree::Document::parse(&answer)?;
        let names = document
            .descendants()
            .filter(|node| node.has_tag_name_anywhere("member"))
            .filter_map(|node| node.text());
        let policies = names.map(|policy_name| {
            let form = [("RoleName", name), ("PolicyName", policy_name)];
            let answer = call("GetRolePolicy", &form)?;
            let document = policy(&text_of(&answer, "PolicyDocument")?);
            Ok((
                policy_name.to_owned(),
                document.context(policy_name.to_owned())?,
            ))
        });
        Ok((trust, policies.collect::<Result<_>>()?))
    }

    /// Puts a SecureString into the Parameter Store.
    pub fn put_secret(&self, region: &Region, name: &str, value: &str) -> Result<()> {
        let scope = format!("WORLD/20260101/{region}/ssm/aws4_request");
        let body = serde_json::json!({ "Name": name, "Type": "SecureString", "Value": value });
        let mut answer = self
            .agent
            .post(&self.endpoint)
            .header(
                "Authorization",
                format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"),
            )
            .header("x-moto-account-id", &self.account)
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", "AmazonSSM.PutParameter")
            .send(body.to_string())?;
        if !answer.status().is_success() {
            bail!(
                "PutParameter {name}: {}",
                answer.body_mut().read_to_string()?
            );
        }
        Ok(())
    }
}

/// A policy as moto tells it: escaped as in a URL, as IAM does; or, for those that
/// stand in a template's role, as Python writes its objects, which differs by the
/// quotation marks (there are no others in ours).
fn policy(told: &str) -> Result<Value> {
    let text = percent_decode_str(told).decode_utf8()?;
    let text = match text.starts_with("{'") {
        true => text.replace('\'', "\""),
        false => text.into_owned(),
    };
    serde_json::from_str(&text).with_context(|| text)
}
