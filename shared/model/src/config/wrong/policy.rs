//! `[[policy]]`: what is read, and what is said of it.

use super::*;
use crate::config::hub::{Glob, PolicyRule, Selector};

fn policy(rules: &str) -> Vec<PolicyRule> {
    let text = format!(
        "privnet = ['10.0.0.0/8', 'fd00::/8']\n[discovery]\nregions = ['eu-west-1']\n\
         tags.service = 'nat'\n{rules}"
    );
    HubConfig::parse("hub.toml", &text).unwrap().policy
}

#[test]
fn every_kind_of_selector_is_read_in_the_order_written() {
    let rules = policy(
        "[[policy]]\naction = 'deny'\nbetween = ['any', 'hub', 'site:web *']\n\
         and = ['tag:privnet:env=prod=1', 'tag:owner=', '10.1.0.0/16', 'fd00::/16', '10.0.0.0/7']\n\
         [[policy]]\naction = 'allow'\nbetween = ['any']\nand = ['any']",
    );
    let tag = |key: &str, value: &str| Selector::Tag {
        key: key.to_owned(),
        value: Glob::new(value),
    };
    let cidr = |net: &str| Selector::Cidr(net.parse().unwrap());
    let first = PolicyRule {
        allow: false,
        between: vec![
            Selector::Any,
            Selector::Hub,
            Selector::Site(Glob::new("web *")),
        ],
        and: vec![
            tag("privnet:env", "prod=1"),
            tag("owner", ""),
            cidr("10.1.0.0/16"),
            cidr("fd00::/16"),
            cidr("10.0.0.0/7"),
        ],
    };
    let last = PolicyRule {
        allow: true,
        between: vec![Selector::Any],
        and: vec![Selector::Any],
    };
    assert_eq!(rules, [first, last]);
    assert_eq!(
        rules[0].to_string(),
        "deny between any, hub, site:web * and tag:privnet:env=prod=1, tag:owner=, 10.1.0.0/16, \
         fd00::/16, 10.0.0.0/7"
    );
}

#[test]
fn what_selects_nothing_is_told() {
    let expected =
        "expected `any`, `hub`, `site:NAME`, `tag:KEY=VALUE` or a CIDR such as 10.1.0.0/16";
    for (selector, said) in [
        (
            "'all'",
            format!("selects nothing that is known; {expected}"),
        ),
        (
            "'vpc:x'",
            format!("selects nothing that is known; {expected}"),
        ),
        ("'site:'", format!("a site without its name; {expected}")),
        ("'tag:env'", format!("a tag without its value; {expected}")),
        ("'tag:=x'", format!("a tag without its key; {expected}")),
        ("'10.1.0.0/33'", format!("not a CIDR; {expected}")),
        ("7", format!("a number, not text in quotes; {expected}")),
        (
            "'10.1.2.3/16'",
            "bits are set beyond the prefix of /16; expected 10.1.0.0/16".to_owned(),
        ),
        (
            "'10.1.2.3'",
            "an address without a prefix length; expected a CIDR such as 10.1.2.3/32".to_owned(),
        ),
        (
            "'192.168.0.0/16'",
            "outside the privnet; expected addresses of 10.0.0.0/8".to_owned(),
        ),
    ] {
        let rule = format!("[[policy]]\naction = 'deny'\nbetween = ['any']\nand = [{selector}]");
        let told = format!("hub.toml:9: policy[0].and[0] = {selector}: {said}");
        assert_eq!(hub_with("", &rule), [told]);
    }
}

#[test]
fn a_rule_says_what_it_does_and_between_whom() {
    assert_eq!(
        hub_with(
            "",
            "[[policy]]\naction = 'reject'\nbetween = []\nboth = true"
        ),
        [
            "hub.toml:6: policy[0].and: missing; expected a list of at least one, each `any`, `hub`, `site:NAME`, `tag:KEY=VALUE` or a CIDR such as 10.1.0.0/16",
            "hub.toml:7: policy[0].action = 'reject': not an action; expected `allow` or `deny`",
            "hub.toml:8: policy[0].between = []: empty; expected a list of at least one, each `any`, `hub`, `site:NAME`, `tag:KEY=VALUE` or a CIDR such as 10.1.0.0/16",
            "hub.toml:9: policy[0].both: unknown key",
        ]
    );
    assert_eq!(
        hub_with("", "[policy]\naction = 'deny'"),
        [
            "hub.toml:6: policy: one table where there may be several; expected tables that start with [[policy]]"
        ]
    );
}

#[test]
fn a_rule_that_nothing_reaches_is_told() {
    let rule = |between: &str, and: &str| {
        format!("[[policy]]\naction = 'deny'\nbetween = ['{between}']\nand = ['{and}']\n")
    };
    let text = rule("any", "hub") + &rule("any", "any") + &rule("hub", "10.1.0.0/16");
    assert_eq!(
        hub_with("", &text),
        [
            "hub.toml:14: policy[2]: never reached: the rule in line 10 fits everything; expected it above that rule"
        ]
    );
}

#[test]
fn a_list_of_rules_has_an_end() {
    let rules = |count: usize| {
        "[[policy]]\naction = 'deny'\nbetween = ['any']\nand = ['hub']\n".repeat(count)
    };
    assert_eq!(policy(&rules(1_000)).len(), 1_000);
    let said = hub_with("", &rules(1_001));
    assert_eq!(
        said,
        ["hub.toml:4006: policy[1000]: one rule too many; expected at most 1000"]
    );
}
