//! The instance as EC2 describes it: whether it may forward, how it is reached, and the
//! tags by which others find it.

use std::collections::BTreeMap;

use privnet_model::doctor::{Area, Finding, quoted_tag};
use privnet_model::instance::{InstanceDescription, PublicAddress};
use privnet_model::inventory::{PORT_TAG, PUBLIC_KEY_TAG, TRANSPORT_TAG, Transport};
use privnet_model::key::PublicKey;

const AREA: Area = Area::Aws;

/// EC2's check of sources and destinations, which drops whatever a gateway forwards.
pub fn source_dest_check(instance: &InstanceDescription) -> Finding {
    let check = "source/dest check";
    let interface = &instance.interface;
    match instance.source_dest_check {
        Some(false) => Finding::ok(AREA, check, format!("off at {interface}")),
        Some(true) => {
            let found = format!("on at {interface}: EC2 drops what this instance forwards");
            Finding::wrong(AREA, check, found).mend(format!(
                "aws ec2 modify-network-interface-attribute --region $REGION \
                 --network-interface-id {interface} --no-source-dest-check"
            ))
        }
        None => Finding::not_checked(AREA, check, "EC2 does not tell it"),
    }
}

/// How much an instance needs a public address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressNeed {
    /// Others have it in their config files.
    Stable,
    /// Packets leave by it.
    Any,
}

/// The public address, and whether it stays.
pub fn public_address(public: Option<PublicAddress>, need: AddressNeed) -> Finding {
    let check = "public address";
    let mended = |finding: Finding| {
        finding
            .mend("aws ec2 allocate-address --region $REGION --domain vpc")
            .mend(
                "aws ec2 associate-address --region $REGION --instance-id $INSTANCE \
                 --allocation-id EIPALLOC   # of the address just allocated",
            )
    };
    match (public, need) {
        (None, AddressNeed::Stable) => {
            let found = "none: no spoke reaches this hub over the internet";
            mended(Finding::wrong(AREA, check, found))
        }
        (None, AddressNeed::Any) => {
            let found = "none: nothing behind this spoke reaches the internet, nor does its tunnel";
            mended(Finding::wrong(AREA, check, found))
        }
        (Some(PublicAddress { address, elastic }), _) if elastic => {
            Finding::ok(AREA, check, format!("{address}, an Elastic IP"))
        }
        (Some(PublicAddress { address, .. }), AddressNeed::Stable) => {
            let found = format!(
                "{address} is no Elastic IP: it is another after a stop and start, and every \
                 spoke's config file has this one"
            );
            mended(Finding::warning(AREA, check, found))
        }
        (Some(PublicAddress { address, .. }), AddressNeed::Any) => {
            let found = format!("{address}, another one after each stop and start");
            Finding::ok(AREA, check, found)
        }
    }
}

/// The tags by which the hub finds the key of a spoke that publishes it.
pub fn published(
    tags: &BTreeMap<String, String>,
    transport: Transport,
    key: Option<&PublicKey>,
    port: u16,
) -> Finding {
    let check = "published tags";
    let mut wanted = vec![(TRANSPORT_TAG, transport.to_string())];
    match key {
        Some(key) => {
            wanted.push((PUBLIC_KEY_TAG, key.to_string()));
            wanted.push((PORT_TAG, port.to_string()));
        }
        None if transport == Transport::None => {}
        None => {
            let why = "the daemon does not tell the key that should be there";
            return Finding::not_checked(AREA, check, why);
        }
    }
    let compared: Vec<&str> = wanted.iter().map(|(tag, _)| *tag).collect();
    let compared = compared.join(", ");
    let differs: Vec<String> = wanted
        .into_iter()
        .filter_map(|(tag, value)| match tags.get(tag) {
            Some(is) if *is == value => None,
            Some(is) => Some(format!("{tag} is {is}, expected {value}")),
            None => Some(format!("no {tag}")),
        })
        .collect();
    if differs.is_empty() {
        return Finding::ok(AREA, check, format!("{compared} as they should be"));
    }
    let found = format!("{}: the hub does not find this spoke", differs.join("; "));
    Finding::wrong(AREA, check, found)
        .mend("systemctl reload privnet-spoke   # publishes them again")
}

/// The tags that mark the spokes of this VPC, which this one must have itself.
pub fn marked(tags: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> Finding {
    let check = "sibling tags";
    let missing: Vec<_> = wanted
        .iter()
        .filter(|(key, value)| tags.get(*key) != Some(*value))
        .collect();
    if missing.is_empty() {
        return Finding::ok(AREA, check, "this instance has those of routes.siblings");
    }
    let told: Vec<String> = missing
        .iter()
        .map(|(key, value)| format!("{key} = {value}"))
        .collect();
    let found = format!(
        "this instance lacks {} of routes.siblings: no other spoke knows it",
        told.join(", ")
    );
    let tags: Vec<String> = missing
        .iter()
        .map(|(key, value)| quoted_tag(key, value))
        .collect();
    Finding::wrong(AREA, check, found).mend(format!(
        "aws ec2 create-tags --region $REGION --resources $INSTANCE --tags {}",
        tags.join(" ")
    ))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use privnet_model::doctor::Verdict;
    use privnet_model::key::PrivateKey;

    use super::*;

    fn described(source_dest_check: Option<bool>) -> InstanceDescription {
        InstanceDescription {
            interface: "eni-0123456789abcdef0".parse().unwrap(),
            subnet: "subnet-0123456789abcdef0".parse().unwrap(),
            source_dest_check,
            groups: Vec::new(),
            public: None,
            metadata: None,
            tags: BTreeMap::new(),
        }
    }

    fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn an_instance_that_may_not_forward_is_no_gateway() {
        let judged = |check| source_dest_check(&described(check));
        assert_eq!(judged(Some(false)).verdict, Verdict::Ok);
        let on = judged(Some(true));
        assert_eq!(on.verdict, Verdict::Wrong);
        assert!(on.remedy[0].contains("eni-0123456789abcdef0 --no-source-dest-check"));
        assert_eq!(judged(None).verdict, Verdict::NotChecked);
    }

    #[test]
    fn a_hub_needs_an_address_that_stays_and_a_spoke_any() {
        let address = |elastic| {
            Some(PublicAddress {
                address: "198.51.100.100".parse().unwrap(),
                elastic,
            })
        };
        for (public, need, verdict) in [
            (address(true), AddressNeed::Stable, Verdict::Ok),
            (address(false), AddressNeed::Stable, Verdict::Warning),
            (None, AddressNeed::Stable, Verdict::Wrong),
            (address(true), AddressNeed::Any, Verdict::Ok),
            (address(false), AddressNeed::Any, Verdict::Ok),
            (None, AddressNeed::Any, Verdict::Wrong),
        ] {
            let finding = public_address(public, need);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert_eq!(finding.remedy.is_empty(), verdict == Verdict::Ok);
        }
    }

    #[test]
    fn a_spoke_that_did_not_publish_its_key_is_not_found() {
        let key = PrivateKey::from_random([1; 32]).public();
        let other = PrivateKey::from_random([2; 32]).public();
        let text = key.to_string();
        let good = tags(&[
            (TRANSPORT_TAG, "wireguard"),
            (PUBLIC_KEY_TAG, &text),
            (PORT_TAG, "51820"),
        ]);
        let judged = |tags: &_, key| published(tags, Transport::Wireguard, key, 51820);
        assert_eq!(judged(&good, Some(&key)).verdict, Verdict::Ok);
        let stale = judged(&good, Some(&other));
        assert_eq!(stale.verdict, Verdict::Wrong);
        assert!(stale.found.contains("expected"), "{stale:?}");
        let none = judged(&tags(&[]), Some(&key));
        assert_eq!(none.verdict, Verdict::Wrong);
        assert!(none.found.contains("no privnet:public-key"), "{none:?}");
        let moved = published(&good, Transport::Wireguard, Some(&key), 51821);
        assert_eq!(moved.verdict, Verdict::Wrong);
        assert_eq!(judged(&good, None).verdict, Verdict::NotChecked);
        // A spoke without tunnel has no key.
        let plain = tags(&[(TRANSPORT_TAG, "none")]);
        assert_eq!(
            published(&plain, Transport::None, None, 51820).verdict,
            Verdict::Ok
        );
    }

    #[test]
    fn a_spoke_that_its_siblings_cannot_see_is_told_its_missing_tags() {
        let wanted = tags(&[("service", "nat"), ("env", "prod")]);
        assert_eq!(marked(&wanted, &wanted).verdict, Verdict::Ok);
        let finding = marked(&tags(&[("service", "nat"), ("env", "dev")]), &wanted);
        assert_eq!(finding.verdict, Verdict::Wrong);
        assert_eq!(
            finding.remedy,
            [
                "aws ec2 create-tags --region $REGION --resources $INSTANCE --tags Key=env,Value=prod"
            ]
        );
    }
}
