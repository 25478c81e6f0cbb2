//! `[[policy]]`: who may talk to whom.
//!
//! A rule that can have no effect is an error: whoever wrote it believes that
//! it has one.

use std::net::IpAddr;

use super::{Glob, PolicyRule, Selector};
use crate::config::document::{Located, Section};
use crate::config::value::{self, Kind, Rejection, text};
use crate::net::{Supernet, overlap};

/// More would be a list that nobody can read; the data plane numbers rules in 16 bits.
const MOST_RULES: usize = 1_000;

const ACTION: Kind<bool> = Kind {
    expected: "`allow` or `deny`",
    parse: |value| match text(value)? {
        "allow" => Ok(true),
        "deny" => Ok(false),
        _ => Err("not an action".into()),
    },
};

const SELECTOR: Kind<Selector> = Kind {
    expected: "`any`, `hub`, `site:NAME`, `tag:KEY=VALUE` or a CIDR such as 10.1.0.0/16",
    parse: |value| {
        let selector = text(value)?;
        match (selector, selector.split_once(':')) {
            ("any", _) => Ok(Selector::Any),
            ("hub", _) => Ok(Selector::Hub),
            (_, Some(("site", name))) => match name {
                "" => Err("a site without its name".into()),
                name => Ok(Selector::Site(Glob::new(name))),
            },
            (_, Some(("tag", tag))) => tag_selector(tag),
            _ => match (value::CIDR.parse)(value) {
                Ok(net) => Ok(Selector::Cidr(net)),
                // Of what looks like a CIDR, the CIDR's own words.
                Err(rejection) if like_a_cidr(selector) => Err(rejection),
                Err(_) => Err("selects nothing that is known".into()),
            },
        }
    },
};

fn like_a_cidr(text: &str) -> bool {
    text.contains('/') || text.parse::<IpAddr>().is_ok()
}

/// The key ends at the first `=`.
fn tag_selector(tag: &str) -> Result<Selector, Rejection> {
    match tag.split_once('=') {
        None => Err("a tag without its value".into()),
        Some(("", _)) => Err("a tag without its key".into()),
        Some((key, value)) => Ok(Selector::Tag {
            key: key.to_owned(),
            value: Glob::new(value),
        }),
    }
}

pub(super) fn read(top: &mut Section<'_>, privnet: Option<&Supernet>) -> Vec<PolicyRule> {
    let rules = top.tables("policy", |rule| Some(read_rule(rule, privnet)));
    if let Some(excess) = rules.get(MOST_RULES) {
        let expected = format!("at most {MOST_RULES}");
        top.reject(&excess.place, "one rule too many", Some(expected));
    }
    reject_unreached(top, &rules);
    let rules = rules.into_iter().filter_map(|rule| rule.value.flatten());
    rules.collect()
}

fn read_rule(rule: &mut Section<'_>, privnet: Option<&Supernet>) -> Option<PolicyRule> {
    let allow = rule.required("action", &ACTION);
    let between = read_side(rule, "between", privnet);
    let and = read_side(rule, "and", privnet);
    Some(PolicyRule {
        allow: allow?.value,
        between: between?,
        and: and?,
    })
}

fn read_side(
    rule: &mut Section<'_>,
    key: &'static str,
    privnet: Option<&Supernet>,
) -> Option<Vec<Selector>> {
    let selectors = rule.required_list(key, &SELECTOR)?;
    for selector in &selectors {
        let Selector::Cidr(net) = &selector.value else {
            continue;
        };
        if let Some(privnet) = privnet
            && !privnet.nets().iter().any(|part| overlap(part, net))
        {
            let expected = format!("addresses of {privnet}");
            rule.reject(&selector.place, "outside the privnet", Some(expected));
        }
    }
    let selectors = selectors.into_iter().map(|selector| selector.value);
    Some(selectors.collect())
}

/// The first rule that fits decides, so nothing comes after one that fits everything.
fn reject_unreached(top: &Section<'_>, rules: &[Located<Option<Option<PolicyRule>>>]) {
    let fits_all = |rule: &PolicyRule| {
        rule.between.contains(&Selector::Any) && rule.and.contains(&Selector::Any)
    };
    let last = rules
        .iter()
        .position(|rule| rule.value.iter().flatten().any(fits_all));
    let Some(last) = last else {
        return;
    };
    let line = top.line_of(&rules[last].place);
    for rule in &rules[last + 1..] {
        let problem = format!("never reached: the rule in line {line} fits everything");
        top.reject(&rule.place, &problem, Some("it above that rule".to_owned()));
    }
}
