//! `[address]`: which Elastic IP a spoke has for its own.

use std::collections::BTreeMap;
use std::fmt;

use super::routes::Context;
use crate::config::document::Section;
use crate::config::value::{self, Kind, text};
use crate::id::AllocationId;

/// The Elastic IPs that are a spoke's to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressConfig {
    /// This one. Where several spokes of a VPC name it, it goes along with their routes.
    Allocation(AllocationId),
    /// Any one of those with all these tags.
    Pool(BTreeMap<String, String>),
}

/// "eipalloc-…", or "the pool env=prod, service=nat".
impl fmt::Display for AddressConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allocation(id) => write!(f, "{id}"),
            Self::Pool(tags) => {
                let tags: Vec<_> = tags
                    .iter()
                    .map(|(key, tag)| format!("{key}={tag}"))
                    .collect();
                write!(f, "the pool {}", tags.join(", "))
            }
        }
    }
}

const ALLOCATION: Kind<AllocationId> = Kind {
    expected: AllocationId::EXPECTED,
    parse: |value| {
        let id = text(value)?.parse();
        id.map_err(|_| "not the allocation id of an Elastic IP".into())
    },
};

const ONE_OF_TWO: &str = "`allocation = \"eipalloc-…\"` for one address, or `tag = { … }` for any \
                          one of those with these tags";

pub(super) fn read(section: &mut Section<'_>, rest: &Context) -> Option<AddressConfig> {
    let allocation = section.optional("allocation", &ALLOCATION);
    let expected = "a table of the tags that all addresses of the pool have, such as \
                    { \"privnet:pool\" = \"nat\" }";
    let tags = section.table("tag", expected, |tags| {
        value::tags(
            tags,
            "with none, every address of the account would be meant",
        )
    });
    let wrong = match (section.has("allocation"), section.has("tag")) {
        (true, true) => Some("both `allocation` and `tag`"),
        (false, false) => Some("neither `allocation` nor `tag`"),
        (true, false) | (false, true) => None,
    };
    if let Some(problem) = wrong {
        section.reject(section.place(), problem, Some(ONE_OF_TWO.to_owned()));
    }
    if !rest.targets {
        let expected = "`targets` in a [self_test] section, and [routes], for which it is: a \
                        spoke takes no address before a connection through it succeeded";
        section.reject(
            section.place(),
            "an address without an egress test",
            Some(expected.to_owned()),
        );
    }
    match (allocation, tags) {
        (Some(allocation), None) => Some(AddressConfig::Allocation(allocation.value)),
        (None, Some(tags)) => Some(AddressConfig::Pool(tags)),
        (Some(_), Some(_)) | (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;
    use crate::config::spoke::SpokeConfig;

    const START: &str = "privnet = '10.0.0.0/8'\ntransport = 'none'\n[routes]\ntables = 'zone'\n\
                         takeover = false\n[self_test]\ntargets = ['192.0.2.1:443']\n";

    /// Line 9 is the first behind the header.
    fn read(keys: &str) -> Result<Option<AddressConfig>, Vec<String>> {
        let spoke = SpokeConfig::parse("spoke.toml", &format!("{START}[address]\n{keys}"));
        let told = |error: crate::config::ConfigErrors| {
            error.to_string().lines().map(str::to_owned).collect()
        };
        spoke.map(|spoke| spoke.address).map_err(told)
    }

    #[test]
    fn an_address_is_one_or_one_of_a_pool() {
        let one = read("allocation = 'eipalloc-0123456789abcdef0'").unwrap();
        assert_eq!(one.unwrap().to_string(), "eipalloc-0123456789abcdef0");
        let pool = read("tag = { service = 'nat', env = 'prod' }").unwrap();
        assert_eq!(pool.unwrap().to_string(), "the pool env=prod, service=nat");
        assert_eq!(
            SpokeConfig::parse("spoke.toml", START).unwrap().address,
            None
        );
    }

    #[test]
    fn whatever_else_is_written_is_told_with_what_was_expected() {
        for (keys, line, problem) in [
            (
                "",
                8,
                "neither `allocation` nor `tag`; expected `allocation",
            ),
            (
                "allocation = 'eipalloc-01234567'\ntag = { a = 'b' }",
                8,
                "both `allocation` and `tag`; expected `allocation",
            ),
            (
                "allocation = '198.51.100.1'",
                9,
                "not the allocation id of an Elastic IP; expected an Elastic IP's allocation id",
            ),
            ("tag = {}", 9, "empty; expected at least one tag"),
            ("tag = 'nat'", 9, "expected a table of the tags"),
            ("alocation = 'eipalloc-01234567'", 9, "unknown key"),
        ] {
            let told = read(keys).unwrap_err();
            let start = format!("spoke.toml:{line}: address");
            let found = |told: &String| told.starts_with(&start) && told.contains(problem);
            assert!(told.iter().any(found), "{keys}: {told:?}");
        }
    }

    #[test]
    fn an_address_is_not_taken_untested() {
        let text = "privnet = '10.0.0.0/8'\ntransport = 'none'\n[address]\n\
                    allocation = 'eipalloc-0123456789abcdef0'\n";
        let told = SpokeConfig::parse("spoke.toml", text).unwrap_err();
        let expected = "spoke.toml:3: address: an address without an egress test; expected \
                        `targets` in a [self_test] section";
        assert!(told.to_string().starts_with(expected), "{told}");
    }
}
