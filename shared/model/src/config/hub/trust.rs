//! `[trust]`: which of the instances that are tagged as spokes are let in.
//!
//! A pattern that can match nothing would lock every spoke out, so what a
//! pattern is for is looked at as far as it is written out.

use super::{Glob, ProofMode, TrustConfig};
use crate::config::document::{Located, Section};
use crate::config::value::{self, Kind, Rejection, text};

const INSTANCE_PROFILE: Kind<Glob> = Kind {
    expected: "an instance profile's ARN, `*` and `?` allowed, such as \
               arn:aws:iam::*:instance-profile/privnet-spoke",
    parse: |value| {
        let pattern = text(value)?;
        if pattern.contains(":role/") {
            return Err("the ARN of a role, not of an instance profile".into());
        }
        let written_out = !pattern.contains(['*', '?']);
        if written_out && !pattern.contains(":instance-profile/") {
            return Err("not the ARN of an instance profile".into());
        }
        pattern_of(pattern, "arn:", "not the ARN of an instance profile")
    },
};

const VPC: Kind<Glob> = Kind {
    expected: "a VPC id, `*` and `?` allowed, such as vpc-0a1b2c3d4e5f60718",
    parse: |value| pattern_of(text(value)?, "vpc-", "not a VPC id"),
};

const AMI: Kind<Glob> = Kind {
    expected: "an image id, `*` and `?` allowed, such as ami-0a1b2c3d4e5f60718",
    parse: |value| pattern_of(text(value)?, "ami-", "not an image id"),
};

const PROOF: Kind<ProofMode> = Kind {
    expected: "\"off\", \"ask\" or \"require\"",
    parse: |value| match text(value)? {
        "off" => Ok(ProofMode::Off),
        "ask" => Ok(ProofMode::Ask),
        "require" => Ok(ProofMode::Require),
        _ => Err("no such choice".into()),
    },
};

const ROLE: Kind<Glob> = Kind {
    expected: "a role's name without its path, `*` and `?` allowed, such as privnet-spoke",
    parse: |value| {
        let name = text(value)?;
        let may_be = |char: char| char.is_ascii_alphanumeric() || "+=,.@_-*?".contains(char);
        match !name.is_empty() && name.len() <= 64 && name.chars().all(may_be) {
            true => Ok(Glob::new(name)),
            false => Err("not a role's name".into()),
        }
    },
};

/// A pattern of ids that all start alike.
fn pattern_of(pattern: &str, start: &str, problem: &str) -> Result<Glob, Rejection> {
    let literal = pattern.split(['*', '?']).next().unwrap_or("");
    let shared = start.len().min(literal.len());
    let fits = literal.get(..shared) == start.get(..shared);
    let whole = literal.len() > start.len() || literal.len() < pattern.len();
    let printable = pattern.bytes().all(|byte| byte.is_ascii_graphic());
    match fits && whole && printable {
        true => Ok(Glob::new(pattern)),
        false => Err(problem.into()),
    }
}

pub(super) fn read(section: &mut Section<'_>) -> Option<TrustConfig> {
    let accounts = section.nonempty_list("accounts", &value::ACCOUNT);
    let instance_profiles = section.nonempty_list("instance_profiles", &INSTANCE_PROFILE);
    let vpcs = section.nonempty_list("vpcs", &VPC);
    let amis = section.nonempty_list("amis", &AMI);
    let preshared_key = value::secret_source(section, "preshared_key");
    let proof = section.with_default("proof", &PROOF, ProofMode::default());
    let proof_roles = section.nonempty_list("proof_roles", &ROLE);
    Some(TrustConfig {
        accounts: values(accounts),
        instance_profiles: values(instance_profiles),
        vpcs: values(vpcs),
        amis: values(amis),
        preshared_key,
        proof,
        proof_roles: values(proof_roles),
    })
}

fn values<T>(list: Option<Vec<Located<T>>>) -> Vec<T> {
    let list = list.into_iter().flatten();
    list.map(|element| element.value).collect()
}
