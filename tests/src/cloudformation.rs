//! The templates of `ami/cloudformation`, as moto can make them.
//!
//! Where moto knows less of CloudFormation than AWS, the template is changed here,
//! on its way to moto, and never in `ami`: `Fn::Cidr`, the zones of "this region",
//! a subnet's zone (all three worked out here), and the outputs of nested stacks,
//! which is why the stacks of `cloud.yaml` are made one by one. A template's rules are
//! asked here (`rules`). What moto then
//! leaves out without a word: the tags of route tables, Elastic IPs and interfaces,
//! which subnet has which route table, which address and groups an interface has, its
//! source/destination check, a launch template's interfaces, profile and metadata
//! options. Of these only what the templates say can be tested.

mod rules;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ipnet::Ipv4Net;
use privnet_model::id::Region;
use serde_json::{Map, Value, json};

use crate::moto::{Ec2, Stack};
use crate::process::run;
use crate::programs;

/// Reads YAML with CloudFormation's short forms: as cfn-lint does, which moto needs anyway.
const READ: &str = "
import json, pathlib, sys
from cfnlint.decode import cfn_yaml
files = sorted(pathlib.Path(sys.argv[1]).glob('*.yaml'))
json.dump({file.stem: cfn_yaml.load(str(file)) for file in files}, sys.stdout)
";

/// All templates, by name.
#[derive(Debug)]
pub struct Templates(BTreeMap<String, Value>);

impl Templates {
    /// Reads those of `ami/cloudformation`.
    pub fn read() -> Result<Self> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ami/cloudformation");
        let mut python = Command::new(programs::moto_python()?);
        let text = run(python.arg("-c").arg(READ).arg(directory))?;
        Ok(Self(serde_json::from_str(&text)?))
    }

    /// A template.
    pub fn get(&self, name: &str) -> Result<&Value> {
        let template = self.0.get(name);
        template.with_context(|| format!("there is no template {name}.yaml"))
    }

    /// Makes a stack of a template, with these parameters and its own defaults.
    pub fn make(
        &self,
        ec2: &Ec2,
        region: &Region,
        (stack, template): (&str, &str),
        parameters: &BTreeMap<String, String>,
    ) -> Result<Stack> {
        let template = self.get(template)?;
        let declared = object(template, "Parameters")?;
        for name in parameters.keys() {
            let known = declared.contains_key(name);
            ensure!(known, "stack {stack}: the template has no parameter {name}");
        }
        for (name, parameter) in declared {
            let given = parameters.contains_key(name) || parameter.get("Default").is_some();
            ensure!(given, "stack {stack}: parameter {name} is missing");
        }
        let refusals = rules::refusals(template, parameters)?;
        ensure!(refusals.is_empty(), "stack {stack}: {refusals:?}");
        let gaps = Gaps {
            template,
            region,
            parameters,
        };
        ec2.create_stack(region, stack, &gaps.filled(template)?, parameters)
    }

    /// Makes the stacks of a template that nests others, each after those it needs.
    pub fn make_nested(
        &self,
        ec2: &Ec2,
        region: &Region,
        template: &str,
        parameters: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, Stack>> {
        let document = self.get(template)?;
        let mut waiting: Vec<(&String, &Value)> = object(document, "Resources")?.iter().collect();
        let mut made = BTreeMap::new();
        while !waiting.is_empty() {
            let mut left = Vec::new();
            for (name, resource) in &waiting {
                let nested = Nested {
                    document,
                    region,
                    parameters,
                    made: &made,
                };
                let Some((nests, given)) = nested.stack(resource).context((*name).clone())? else {
                    left.push((*name, *resource));
                    continue;
                };
                let stack = self.make(ec2, region, (name, &nests), &given)?;
                made.insert((*name).clone(), stack);
            }
            ensure!(left.len() < waiting.len(), "{left:?} wait for each other");
            waiting = left;
        }
        Ok(made)
    }
}

fn object<'a>(value: &'a Value, key: &str) -> Result<&'a Map<String, Value>> {
    let found = value.get(key).and_then(Value::as_object);
    found.with_context(|| format!("the template has no {key}"))
}

/// The one function that an object is, with its argument.
fn function(value: &Value) -> Option<(&str, &Value)> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    object.iter().next().map(|(name, of)| (name.as_str(), of))
}

/// What moto cannot work out.
struct Gaps<'a> {
    template: &'a Value,
    region: &'a Region,
    parameters: &'a BTreeMap<String, String>,
}

impl Gaps<'_> {
    fn filled(&self, value: &Value) -> Result<Value> {
        match (function(value), value) {
            (Some(("Fn::GetAZs", _)), _) => Ok(json!({ "Fn::GetAZs": self.region.as_str() })),
            (Some(("Fn::GetAtt", of)), _) if of[1] == "AvailabilityZone" => {
                let subnet = of[0].as_str().unwrap_or_default();
                let zone = &self.template["Resources"][subnet]["Properties"]["AvailabilityZone"];
                ensure!(!zone.is_null(), "{subnet} has no zone");
                self.filled(zone)
            }
            (Some(("Fn::Select", of)), _) if of[1].get("Fn::Cidr").is_some() => {
                self.part(&of[0], &of[1]["Fn::Cidr"])
            }
            (_, Value::Object(object)) => {
                let filled = object
                    .iter()
                    .map(|(key, value)| Ok((key.clone(), self.filled(value)?)));
                Ok(Value::Object(filled.collect::<Result<_>>()?))
            }
            (_, Value::Array(values)) => {
                let filled = values.iter().map(|value| self.filled(value));
                Ok(Value::Array(filled.collect::<Result<_>>()?))
            }
            (_, other) => Ok(other.clone()),
        }
    }

    /// One of the parts of `Fn::Cidr`, of the VPC's CIDR, which is a parameter.
    fn part(&self, index: &Value, cidr: &Value) -> Result<Value> {
        let index = index.as_u64().context("not a number of a part")?;
        let count = cidr[1].as_u64().context("not a count of parts")?;
        let bits = cidr[2]["Ref"].as_str().context("not a parameter")?;
        let default = &self.template["Parameters"][bits]["Default"];
        let bits: u8 = match self.parameters.get(bits) {
            Some(bits) => bits.parse()?,
            None => u8::try_from(default.as_u64().context("no default")?)?,
        };
        let whole = self.parameters.get("VpcCidr").context("no VpcCidr")?;
        let whole: Ipv4Net = whole.parse()?;
        let parts: Vec<Ipv4Net> = whole.subnets(32 - bits)?.collect();
        ensure!(parts.len() as u64 >= count, "{whole} has no {count} parts");
        let part = parts.get(usize::try_from(index)?);
        Ok(json!(part.context("no such part")?.to_string()))
    }
}

/// A template whose resources are stacks.
struct Nested<'a> {
    document: &'a Value,
    region: &'a Region,
    parameters: &'a BTreeMap<String, String>,
    made: &'a BTreeMap<String, Stack>,
}

impl Nested<'_> {
    /// The template and the parameters of a nested stack; `None` as long as
    /// it needs one that is not made.
    fn stack(&self, resource: &Value) -> Result<Option<(String, BTreeMap<String, String>)>> {
        ensure!(resource["Type"] == "AWS::CloudFormation::Stack");
        let properties = &resource["Properties"];
        let file = properties["TemplateURL"].as_str().context("no template")?;
        let template = file.strip_suffix(".yaml").context("not one of ours")?;
        let mut given = BTreeMap::new();
        for (name, value) in object(properties, "Parameters")? {
            let Some(value) = self.text(value).with_context(|| name.clone())? else {
                return Ok(None);
            };
            given.insert(name.clone(), value);
        }
        Ok(Some((template.to_owned(), given)))
    }

    fn text(&self, value: &Value) -> Result<Option<String>> {
        if let Some(text) = value.as_str() {
            return Ok(Some(text.to_owned()));
        }
        let (name, of) = function(value).with_context(|| format!("{value} is not known here"))?;
        let part = |index: usize| of[index].as_str().with_context(|| format!("{value}"));
        Ok(match name {
            "Ref" if of == "AWS::Region" => Some(self.region.to_string()),
            "Ref" => {
                let parameter = of.as_str().context("not a name")?;
                let default = &self.document["Parameters"][parameter]["Default"];
                let given = self.parameters.get(parameter).map(String::as_str);
                let given = given.or(default.as_str());
                Some(given.with_context(|| format!("no {parameter}"))?.to_owned())
            }
            "Fn::FindInMap" => {
                let entry = &self.document["Mappings"][part(0)?][part(1)?][part(2)?];
                Some(entry.as_str().context("not in the mapping")?.to_owned())
            }
            // Of a list that is a parameter, which is a text with the commas in it here.
            "Fn::Join" if of[0] == "," => self.text(&of[1])?,
            "Fn::GetAtt" => {
                let output = part(1)?.strip_prefix("Outputs.").context("not an output")?;
                match self.made.get(part(0)?) {
                    Some(stack) => Some(stack.output(output)?.to_owned()),
                    None => None,
                }
            }
            _ => bail!("{value} is not known here"),
        })
    }
}
