//! `[address]`: which Elastic IP a spoke has for its own, and what goes along with it.

use std::collections::BTreeMap;
use std::fmt;

use super::routes::{Context, RoutesConfig};
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

/// What the section says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) address: AddressConfig,
    /// Whether connections go along when the address moves.
    pub(super) connections: bool,
}

pub(super) fn read(
    section: &mut Section<'_>,
    rest: &Context<'_>,
    routes: Option<&RoutesConfig>,
) -> Option<Read> {
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
    let connections = section.optional("connections", &value::FLAG);
    if let Some(wanted) = connections.as_ref().filter(|wanted| wanted.value) {
        let alone = routes.is_some_and(|routes| routes.takeover.is_none());
        for (wrong, problem, expected) in [
            (
                tags.is_some(),
                "the addresses of a pool do not move",
                "`allocation`, one address for all spokes of the VPC, or no `connections`",
            ),
            (
                alone,
                "there are no siblings to tell of connections",
                "takeover in [routes], or no `connections`",
            ),
            (
                !rest.egress,
                "without NAT egress there are no connections through the address",
                "nat.egress = true, or no `connections`",
            ),
        ] {
            if wrong {
                section.reject(&wanted.place, problem, Some(expected.to_owned()));
            }
        }
    }
    let connections = connections.is_some_and(|wanted| wanted.value);
    if !rest.targets {
        let expected = "`targets` in a [self_test] section, and [routes], for which it is: a \
                        spoke takes no address before a connection through it succeeded";
        section.reject(
            section.place(),
            "an address without an egress test",
            Some(expected.to_owned()),
        );
    }
    let address = match (allocation, tags) {
        (Some(allocation), None) => AddressConfig::Allocation(allocation.value),
        (None, Some(tags)) => AddressConfig::Pool(tags),
        (Some(_), Some(_)) | (None, None) => return None,
    };
    Some(Read {
        address,
        connections,
    })
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
    fn connections_go_along_with_one_address_of_siblings() {
        const SIBLINGS: &str = "privnet = '10.0.0.0/8'\npreshared_key = { file = '/f' }\n\
            transport = 'none'\n[routes]\ntables = 'zone'\nsiblings = { service = 'nat' }\n\
            [self_test]\ntargets = ['192.0.2.1:443']\n[address]\n";
        let one = "allocation = 'eipalloc-01234567'\nconnections = ";
        let read_it = |text: String| SpokeConfig::parse("spoke.toml", &text);
        for (flag, expected) in [("true", true), ("false", false)] {
            let config = read_it(format!("{SIBLINGS}{one}{flag}")).unwrap();
            assert_eq!(config.keeps_connections, expected);
        }
        let without = read_it(format!("{SIBLINGS}allocation = 'eipalloc-01234567'")).unwrap();
        assert!(!without.keeps_connections);
        for (text, problem) in [
            (
                format!("{SIBLINGS}tag = {{ a = 'b' }}\nconnections = true"),
                "spoke.toml:11: address.connections = true: the addresses of a pool do not move",
            ),
            (
                format!("{START}[address]\n{one}true"),
                "spoke.toml:10: address.connections = true: there are no siblings",
            ),
            (
                format!("{SIBLINGS}{one}true\n[nat]\negress = false"),
                "spoke.toml:11: address.connections = true: without NAT egress",
            ),
        ] {
            let told = read_it(text).unwrap_err().to_string();
            assert!(told.contains(problem), "{told}");
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
