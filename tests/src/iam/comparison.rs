//! Whether a policy that somebody wrote out of one of `ami/iam`, in a template, still
//! says the same.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::statements;

/// An error unless a policy that somebody wrote out of one of `ami/iam` says what
/// that one says, without the statements of these names: the same actions, resources
/// and conditions, but for whose they are (account, region, VPC, tables, addresses).
pub fn says_the_same(policy: &Value, file: &str, without: &[&str]) -> Result<()> {
    let file: Value = serde_json::from_str(file).context("the policy is no JSON")?;
    let expected = statements(&file)?.iter().filter(|statement| {
        let name = statement.get("Sid").and_then(Value::as_str);
        !name.is_some_and(|name| without.contains(&name))
    });
    let expected: Vec<Value> = expected.map(anybodys).collect();
    let actual: Vec<Value> = statements(policy)?.iter().map(anybodys).collect();
    ensure!(
        actual == expected,
        "it says {}, expected is {}",
        Value::Array(actual),
        Value::Array(expected)
    );
    Ok(())
}

/// The same for whomever: names that AWS gives, and those that users choose, become
/// words for what they are. A list of what is then one thing is that thing.
fn anybodys(value: &Value) -> Value {
    match value {
        Value::String(text) => {
            let words = text.split_inclusive([':', '/', '.']).map(|word| {
                let (name, end) = match word.char_indices().next_back() {
                    Some((at, end)) if [':', '/', '.'].contains(&end) => word.split_at(at),
                    _ => (word, ""),
                };
                format!("{}{end}", kind(name).unwrap_or(name))
            });
            Value::String(words.collect())
        }
        Value::Array(values) => {
            let mut all: Vec<Value> = Vec::new();
            for value in values.iter().map(anybodys) {
                if !all.contains(&value) {
                    all.push(value);
                }
            }
            match <[Value; 1]>::try_from(all) {
                Ok([one]) => one,
                Err(all) => Value::Array(all),
            }
        }
        Value::Object(object) => object
            .iter()
            .map(|(key, value)| (key.clone(), anybodys(value)))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

fn kind(name: &str) -> Option<&'static str> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let id_of = |kind: &str| {
        let id = name.strip_prefix(kind);
        id.is_some_and(|id| id.len() >= 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    // A role's own name is its stack's; a discovery role's external id the operator's.
    let role = name.strip_prefix("privnet-hub");
    if name.len() == 12 && digits(name) {
        Some("ACCOUNT")
    } else if ["us-west-2", "eu-west-1"].contains(&name) {
        Some("REGION")
    } else if ["vpc-", "rtb-", "eipalloc-"].into_iter().any(id_of) {
        Some("ID")
    } else if role.is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) {
        Some("HUB")
    } else if name == "hub-2" {
        // A second hub's parameters are beside the first's.
        Some("hub")
    } else if name.contains("-long-random-text-") {
        Some("EXTERNAL ID")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::super::ROUTES;
    use super::*;

    #[test]
    fn a_policy_written_for_somebody_else_says_the_same_and_a_wider_one_does_not() {
        let ours: Value = serde_json::from_str(
            &ROUTES
                .replace("111122223333", "999988887777")
                .replace("rtb-0aaaaaaaaaaaaaaaa", "rtb-01234567"),
        )
        .unwrap();
        says_the_same(&ours, ROUTES, &[]).unwrap();
        assert!(says_the_same(&ours, ROUTES, &["SeeTheVpc"]).is_err());
        for (narrow, wide) in [
            ("ec2:ReplaceRoute", "ec2:*"),
            ("rtb-01234567", "*"),
            ("us-west-2", "*"),
            ("ec2:DescribeSubnets", "ec2:DescribeImages"),
        ] {
            let wider = serde_json::from_str(&ours.to_string().replace(narrow, wide)).unwrap();
            assert!(says_the_same(&wider, ROUTES, &[]).is_err(), "{wide}");
        }
    }
}
