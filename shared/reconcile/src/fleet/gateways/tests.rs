#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Who carries the site's only CIDR, with gateways of this standing.
fn carrier(standings: &[Standing], current: Option<usize>) -> usize {
    let gateways: Vec<Gateway<'_>> = standings
        .iter()
        .map(|standing| Gateway {
            standing: *standing,
            zone_cidrs: &[],
        })
        .collect();
    let cidrs = BTreeSet::from([net("10.1.0.0/16")]);
    let shares = share(&cidrs, &gateways, |_| current);
    shares.iter().position(|share| !share.is_empty()).unwrap()
}

#[test]
fn the_oldest_good_gateway_carries_and_nobody_worse_takes_over() {
    use Standing::{Bad, Good, Untried};
    for (standings, current, expected) in [
        (&[Good, Good][..], None, 0),
        (&[Good, Good], Some(1), 0),
        (&[Bad, Good], Some(0), 1),
        (&[Untried, Good], Some(1), 1),
        // A younger one that is tried takes nothing from an older one that handshakes.
        (&[Untried, Good], Some(0), 0),
        (&[Bad, Untried], Some(0), 1),
        (&[Bad, Untried, Good], Some(0), 2),
        (&[Bad, Bad], Some(1), 1),
        (&[Bad, Bad], Some(0), 0),
        (&[Bad, Bad], None, 0),
        (&[Untried, Untried], Some(1), 1),
    ] {
        assert_eq!(
            carrier(standings, current),
            expected,
            "{standings:?} {current:?}"
        );
    }
}

#[test]
fn a_zones_subnets_go_to_its_gateway_while_that_is_good() {
    let [a, b] = [[net("10.1.0.0/20")], [net("10.1.16.0/20")]];
    let cidrs = BTreeSet::from([net("10.1.0.0/16")]);
    let shares = |standings: [Standing; 2], current: usize| {
        let gateways = [(standings[0], &a), (standings[1], &b)].map(|(standing, zone)| Gateway {
            standing,
            zone_cidrs: zone,
        });
        share(&cidrs, &gateways, |_| Some(current))
    };
    use Standing::{Bad, Good, Untried};
    let both = shares([Good, Good], 0);
    assert_eq!(both, [cidrs.clone(), BTreeSet::from(b)]);
    assert_eq!(shares([Good, Bad], 0), [cidrs.clone(), BTreeSet::new()]);
    assert_eq!(shares([Bad, Good], 0), [BTreeSet::new(), cidrs.clone()]);
    // One that is not tried yet gets nothing new, and keeps what it carries.
    assert_eq!(shares([Good, Untried], 0), [cidrs.clone(), BTreeSet::new()]);
}

#[test]
fn a_zone_that_is_the_whole_cidr_leaves_nothing_for_the_other() {
    let zone = [net("10.1.0.0/16")];
    let cidrs = BTreeSet::from(zone);
    let gateways = [(&[][..]), &zone].map(|zone_cidrs| Gateway {
        standing: Standing::Good,
        zone_cidrs,
    });
    let shares = share(&cidrs, &gateways, |_| None);
    assert_eq!(shares, [BTreeSet::new(), cidrs]);
}
