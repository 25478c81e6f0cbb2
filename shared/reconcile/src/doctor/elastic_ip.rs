//! The Elastic IP that a spoke is to have by `[address]`: whether there is one, and who
//! has it.

use privnet_model::config::spoke::AddressConfig;
use privnet_model::doctor::{Area, Finding, quoted_tag};
use privnet_model::id::{AllocationId, InterfaceId};
use privnet_model::vpc::ElasticAddress;

use crate::vpc_route::Spokes;

const AREA: Area = Area::Aws;
const CHECK: &str = "Elastic IP";

/// What is known of the addresses, and of who may have them.
#[derive(Debug, Clone, Copy)]
pub struct Addresses<'a> {
    /// Which the config names.
    pub wanted: &'a AddressConfig,
    /// Those of them that there are.
    pub found: &'a [ElasticAddress],
    /// The VPC's spokes with their interfaces, this one among them.
    pub spokes: &'a Spokes,
    /// This spoke's interface.
    pub own: &'a InterfaceId,
    /// Why not all spokes of the VPC are known; `None` when they are.
    pub unknown: Option<&'a str>,
    /// What keeps the daemon from taking one, as far as that is known.
    pub sick: Option<&'a str>,
}

/// Whether this spoke has its own, or another spoke the one that they share.
pub fn elastic_ip(addresses: Addresses<'_>) -> Finding {
    let mut found = addresses.found.iter();
    if let Some(here) = found.find(|one| at(one) == Some(addresses.own)) {
        let found = format!("{} ({}) is here", here.address, here.allocation);
        return Finding::ok(AREA, CHECK, found);
    }
    match (addresses.wanted, addresses.found) {
        (AddressConfig::Allocation(id), []) => {
            let found = format!("there is no {id} in this account and region");
            Finding::wrong(AREA, CHECK, found)
                .mend("aws ec2 describe-addresses --region $REGION")
                .mend(
                    "allocation = \"eipalloc-…\"   # in [address] of the config file, one of those",
                )
        }
        (AddressConfig::Allocation(_), [one, ..]) => elsewhere(addresses, one),
        (AddressConfig::Pool(tags), all) => {
            let free = all.iter().filter(|one| one.holder.is_none()).count();
            let (count, wanted) = (all.len(), addresses.wanted);
            let found = match (free, count) {
                (0, 0) => format!("there is none of {wanted} in this account and region"),
                (0, _) => format!("all {count} of {wanted} are elsewhere"),
                _ => {
                    let found = format!("{free} of {count} of {wanted} are free");
                    return not_taken(addresses, found);
                }
            };
            let tags: Vec<String> = tags
                .iter()
                .map(|(key, value)| quoted_tag(key, value))
                .collect();
            Finding::wrong(AREA, CHECK, found)
                .mend("aws ec2 allocate-address --region $REGION --domain vpc")
                .mend(format!(
                    "aws ec2 create-tags --region $REGION --resources EIPALLOC --tags {}   # of \
                     the address just allocated",
                    tags.join(" ")
                ))
        }
    }
}

/// The one address of all spokes, which is not here.
fn elsewhere(addresses: Addresses<'_>, one: &ElasticAddress) -> Finding {
    let address = format!("{} ({})", one.address, one.allocation);
    let Some(holder) = &one.holder else {
        return not_taken(addresses, format!("nobody has {address}"));
    };
    let spoke = at(one).and_then(|interface| addresses.spokes.with_interface(interface));
    let found = format!("{address} is at {holder}");
    match (spoke, addresses.unknown) {
        (Some(_), _) => Finding::ok(AREA, CHECK, format!("{found}, a spoke of this VPC")),
        (None, Some(why)) => {
            let found = format!("{found}; whether that is a spoke: {why}");
            Finding::not_checked(AREA, CHECK, found)
        }
        (None, None) => {
            let found = format!("{found}, which is no spoke that runs in this VPC");
            Finding::wrong(AREA, CHECK, found)
                .mend(format!(
                    "aws ec2 disassociate-address --region $REGION --association-id {}   # if it \
                     is the spokes': then one of them takes it",
                    holder.association
                ))
                .mend(
                    "allocation = \"eipalloc-…\"   # in [address] of the config file, if it is not",
                )
        }
    }
}

/// There is one to be had, and the daemon takes it itself.
fn not_taken(addresses: Addresses<'_>, found: String) -> Finding {
    let sick = addresses.sick.map(|why| format!(": {why}"));
    let found = format!(
        "{found}; a spoke takes it once its self-test passes{}",
        sick.unwrap_or_default()
    );
    Finding::wrong(AREA, CHECK, found).mend("journalctl -u privnet-spoke -n 50   # why not yet")
}

/// Which one to ask for by a dry run: the one that is here, a free one, or any. Even an
/// EC2 that carried it out would take it from nobody.
pub fn to_try(addresses: Addresses<'_>) -> Option<AllocationId> {
    let rank = |one: &&ElasticAddress| match &one.holder {
        Some(_) if at(one) == Some(addresses.own) => 0,
        None => 1,
        Some(_) => 2,
    };
    let first = addresses.found.iter().min_by_key(rank);
    first.map(|one| one.allocation.clone())
}

fn at(address: &ElasticAddress) -> Option<&InterfaceId> {
    address.holder.as_ref()?.interface.as_ref()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::collections::BTreeMap;

    use privnet_model::doctor::Verdict;
    use privnet_model::vpc::AddressHolder;

    use super::*;

    /// At spoke `i-0000000N`, or at nobody's.
    fn address(n: u8, at: Option<u8>) -> ElasticAddress {
        ElasticAddress {
            allocation: format!("eipalloc-{n:08x}").parse().unwrap(),
            address: [198, 51, 100, n].into(),
            tags: BTreeMap::new(),
            holder: at.map(|at| AddressHolder {
                association: format!("eipassoc-{n:08x}").parse().unwrap(),
                instance: Some(format!("i-{at:08x}").parse().unwrap()),
                interface: Some(format!("eni-{at:08x}").parse().unwrap()),
                private_address: None,
            }),
        }
    }

    /// What spoke 1 says, whose sibling is 2, and which of these it would ask for.
    fn judged(
        wanted: &AddressConfig,
        found: &[ElasticAddress],
        unknown: Option<&str>,
    ) -> (Finding, Option<String>) {
        let spoke = |n: u8| {
            let instance = format!("i-{n:08x}").parse().unwrap();
            (instance, format!("eni-{n:08x}").parse().unwrap())
        };
        let addresses = Addresses {
            wanted,
            found,
            spokes: &Spokes::new([spoke(1), spoke(2)]),
            own: &spoke(1).1,
            unknown,
            sick: Some("no egress"),
        };
        let tried = to_try(addresses).map(|id| id.to_string());
        (elastic_ip(addresses), tried)
    }

    #[test]
    fn the_one_address_is_at_a_spoke_or_somebody_has_to_see_to_it() {
        let wanted = AddressConfig::Allocation("eipalloc-00000007".parse().unwrap());
        let one = |at| vec![address(7, at)];
        let unknown = Some("no answer");
        for (found, unknown, verdict, told, mend) in [
            (one(Some(1)), None, Verdict::Ok, "is here", ""),
            (
                one(Some(2)),
                None,
                Verdict::Ok,
                "at i-00000002, a spoke",
                "",
            ),
            (one(None), None, Verdict::Wrong, "no egress", "journalctl"),
            (
                one(Some(3)),
                None,
                Verdict::Wrong,
                "at i-00000003, which is no spoke",
                "--association-id eipassoc-00000007",
            ),
            (one(Some(3)), unknown, Verdict::NotChecked, "no answer", ""),
            (
                Vec::new(),
                None,
                Verdict::Wrong,
                "there is no eipalloc-00000007",
                "describe-addresses",
            ),
        ] {
            let (finding, tried) = judged(&wanted, &found, unknown);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.found.contains(told), "{finding:?}");
            assert!(finding.remedy.join("\n").contains(mend), "{finding:?}");
            assert_eq!(tried.is_some(), !found.is_empty());
        }
    }

    #[test]
    fn of_a_pool_one_is_here_or_free_or_there_are_too_few() {
        let wanted = AddressConfig::Pool([("service".to_owned(), "nat".to_owned())].into());
        let pool = |at: &[Option<u8>]| -> Vec<ElasticAddress> {
            let each = (7..).zip(at);
            each.map(|(n, at)| address(n, *at)).collect()
        };
        let tags = "--tags Key=service,Value=nat";
        for (at, verdict, told, mend, tried) in [
            (
                &[None, Some(1)][..],
                Verdict::Ok,
                "198.51.100.8 (eipalloc-00000008) is here",
                "",
                Some("eipalloc-00000008"),
            ),
            (
                &[Some(2), None],
                Verdict::Wrong,
                "1 of 2 of the pool service=nat are free",
                "journalctl",
                Some("eipalloc-00000008"),
            ),
            (
                &[Some(2), Some(3)],
                Verdict::Wrong,
                "all 2 of the pool",
                tags,
                Some("eipalloc-00000007"),
            ),
            (&[], Verdict::Wrong, "there is none of the pool", tags, None),
        ] {
            let (finding, would) = judged(&wanted, &pool(at), None);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.found.contains(told), "{finding:?}");
            assert!(finding.remedy.join("\n").contains(mend), "{finding:?}");
            assert_eq!(would.as_deref(), tried);
        }
    }
}
