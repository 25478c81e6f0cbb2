//! CIDRs and addresses in nft's language.
//!
//! Each CIDR is a match of its own, in a rule of its own: there is no set of intervals.
//! The kernel (seen on 6.18) puts the elements of such a set in force a moment after the
//! rules that look into it: while a table was replaced again and again, one of 7,000 new
//! connections passed NAT in that moment and kept its private address for good, named
//! sets or anonymous, chains replaced or kept. With sets of single addresses or without
//! sets none of 500,000 did.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Each once, without those that others contain; sorted, so that equal input gives equal
/// text.
pub(super) fn merged(nets: &[Ipv4Net]) -> Vec<Ipv4Net> {
    let mut nets = Ipv4Net::aggregate(&nets.iter().map(Ipv4Net::trunc).collect());
    nets.sort_unstable();
    nets
}

/// The match of a packet's `field` with each of the CIDRs, and a blank behind it: one
/// that matches everything where they are all there is.
pub(super) fn matches(field: &str, nets: &[Ipv4Net]) -> Vec<String> {
    let nets = merged(nets);
    match nets.iter().any(|net| net.prefix_len() == 0) {
        true => vec![String::new()],
        false => nets.iter().map(|net| format!("{field} {net} ")).collect(),
    }
}

/// A set of addresses with a name.
pub(super) fn set(name: &str, addresses: &BTreeSet<Ipv4Addr>) -> String {
    let elements: Vec<String> = addresses.iter().map(Ipv4Addr::to_string).collect();
    let elements = match elements.join(", ") {
        none if none.is_empty() => none,
        some => format!("\t\telements = {{ {some} }}\n"),
    };
    format!("\tset {name} {{\n\t\ttype ipv4_addr\n{elements}\t}}\n")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_may_be_anybody_is_not_asked_for() {
        let nets = |texts: &[&str]| -> Vec<Ipv4Net> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        assert_eq!(
            matches("ip saddr", &nets(&["10.0.0.0/8", "0.0.0.0/0"])),
            [""]
        );
        assert_eq!(
            matches(
                "ip saddr",
                &nets(&["192.0.2.1/32", "10.1.0.0/16", "10.0.0.0/8"])
            ),
            ["ip saddr 10.0.0.0/8 ", "ip saddr 192.0.2.1/32 "]
        );
    }

    proptest! {
        #[test]
        fn the_order_and_repetition_of_cidrs_do_not_matter(
            nets in proptest::collection::vec((any::<u32>(), 0_u8..=32), 0..12),
            rotation in 0_usize..12,
        ) {
            let nets: Vec<Ipv4Net> = nets
                .into_iter()
                .map(|(address, length)| Ipv4Net::new(address.into(), length).unwrap())
                .collect();
            let mut other = [nets.clone(), nets.clone()].concat();
            let middle = rotation.min(other.len());
            other.rotate_left(middle);
            prop_assert_eq!(merged(&nets), merged(&other));
        }
    }
}
