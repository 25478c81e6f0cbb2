//! A set of CIDRs in nft's language.

use ipnet::Ipv4Net;

/// A set with a name. Merged and sorted, so that equal input gives equal text.
pub(super) fn set(name: &str, nets: &[Ipv4Net]) -> String {
    let elements = match elements(nets) {
        none if none.is_empty() => none,
        some => format!("\t\telements = {{ {some} }}\n"),
    };
    format!(
        "\tset {name} {{\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\tauto-merge\n{elements}\t}}\n"
    )
}

/// The match of a packet's `field` with any of the CIDRs, and a blank behind it;
/// nothing where they are all there is.
pub(super) fn matching(field: &str, nets: &[Ipv4Net]) -> String {
    match nets.iter().any(|net| net.prefix_len() == 0) {
        true => String::new(),
        false => format!("{field} {{ {} }} ", elements(nets)),
    }
}

fn elements(nets: &[Ipv4Net]) -> String {
    let mut nets = Ipv4Net::aggregate(&nets.iter().map(Ipv4Net::trunc).collect());
    nets.sort_unstable();
    let nets: Vec<String> = nets.iter().map(Ipv4Net::to_string).collect();
    nets.join(", ")
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
            matching("ip saddr", &nets(&["10.0.0.0/8", "0.0.0.0/0"])),
            ""
        );
        assert_eq!(
            matching(
                "ip saddr",
                &nets(&["10.1.0.0/16", "10.0.0.0/8", "192.0.2.1/32"])
            ),
            "ip saddr { 10.0.0.0/8, 192.0.2.1/32 } "
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
            prop_assert_eq!(set("s", &nets), set("s", &other));
        }
    }
}
