//! The `Rules` of a template, at which moto does not look: what CloudFormation refuses
//! before it makes anything.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::function;

/// Why a stack with these parameters, and the template's defaults, is refused; empty: it
/// is not.
pub(super) fn refusals(template: &Value, given: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let Some(rules) = template.get("Rules") else {
        return Ok(Vec::new());
    };
    let parameters = Parameters { template, given };
    let mut refusals = Vec::new();
    for (name, rule) in rules.as_object().context("Rules is no object")? {
        let applies = parameters.hold(&rule["RuleCondition"]);
        if !applies.with_context(|| name.clone())? {
            continue;
        }
        let assertions = rule["Assertions"].as_array();
        for assertion in assertions.with_context(|| format!("{name} asserts nothing"))? {
            let held = parameters.hold(&assertion["Assert"]);
            if !held.with_context(|| name.clone())? {
                let why = assertion["AssertDescription"].as_str();
                refusals.push(
                    why.with_context(|| format!("{name} says nothing"))?
                        .to_owned(),
                );
            }
        }
    }
    Ok(refusals)
}

struct Parameters<'a> {
    template: &'a Value,
    given: &'a BTreeMap<String, String>,
}

impl Parameters<'_> {
    /// Whether a condition is true of them. A rule may have few functions, of which ours
    /// have these.
    fn hold(&self, condition: &Value) -> Result<bool> {
        let known = function(condition);
        let (name, of) = known.with_context(|| format!("{condition} is no condition"))?;
        Ok(match name {
            "Fn::Equals" => self.text(&of[0])? == self.text(&of[1])?,
            "Fn::Not" => !self.hold(&of[0])?,
            _ => bail!("{name} is not known here"),
        })
    }

    /// A text, or the parameter that is named in its place.
    fn text(&self, value: &Value) -> Result<String> {
        let Some(("Ref", of)) = function(value) else {
            return Ok(value.as_str().context("no text")?.to_owned());
        };
        let name = of.as_str().context("not a name")?;
        let default = self.template["Parameters"][name]["Default"].as_str();
        let given = self.given.get(name).map(String::as_str).or(default);
        Ok(given.with_context(|| format!("no {name}"))?.to_owned())
    }
}
