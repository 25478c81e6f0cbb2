//! A policy between two spokes and a hub's own network, on the packets' ways.
//!
//! ```text
//!   spoke 0  10.1.0.0/16, fd00:1::/32  class 1, of it 10.1.9.0/24 class 3
//!   spoke 1  10.2.0.0/16, fd00:2::/32  class 2
//!   hub 2    everything else           class 0
//! ```

use privnet_model::policy::{PolicyTable, Verdict};

use super::*;
use crate::policy::Policy;

/// Both directions, as rules hold.
fn table(denied: &[(u16, u16)]) -> PolicyTable {
    let classes = [
        ("10.1.0.0/16", 1),
        ("10.1.9.0/24", 3),
        ("10.2.0.0/16", 2),
        ("fd00:1::/32", 1),
        ("fd00:2::/32", 2),
    ];
    let prefixes = classes.map(|(prefix, class)| (prefix.parse().unwrap(), class));
    PolicyTable::new(prefixes.to_vec(), 4, denied.len() as u16, |from, to| {
        let fits = |rule: &&(u16, u16)| **rule == (from, to) || **rule == (to, from);
        let rule = denied.iter().enumerate().find(|(_, rule)| fits(rule));
        rule.map_or(Verdict::Allow, |(number, _)| Verdict::Deny(number as u16))
    })
}

fn star_with(workers: usize, denied: &[(u16, u16)]) -> (World, Arc<Policy>) {
    let mut world = star(workers);
    let policy = Arc::new(Policy::new(table(denied), workers));
    world.nodes[2].policy = Some(Arc::clone(&policy));
    world.nodes[2].publish();
    (world, policy)
}

#[test]
fn sites_that_a_rule_keeps_apart_do_not_reach_each_other_by_the_relay() {
    for workers in [1, 3] {
        let (mut world, policy) = star_with(workers, &[(1, 2)]);
        world.send(0, &there());
        world.send(1, &back());
        world.send(0, &packet("fd00:1::1", "fd00:2::1", 64, 10));
        assert!(world.tun(0).is_empty() && world.tun(1).is_empty());
        assert_eq!(policy.denied(), [3]);
        assert_eq!(world.nodes[2].count(Counter::DeniedByPolicy), 3);
        // The longer prefix is another class, and of that nothing is denied.
        world.send(0, &packet("10.1.9.1", "10.2.0.1", 64, 10));
        world.send(1, &packet("10.2.0.1", "10.1.9.1", 64, 10));
        assert_eq!((world.tun(0).len(), world.tun(1).len()), (1, 1));
        assert_eq!(policy.denied(), [3]);
    }
}

#[test]
fn a_rule_holds_at_the_hubs_tun_in_both_directions() {
    let (mut world, policy) = star_with(2, &[(1, 2), (0, 1)]);
    world.send(0, &packet("10.1.0.1", "10.9.0.1", 64, 10));
    assert!(world.tun(2).is_empty());
    world.send(2, &packet("10.9.0.1", "10.1.0.1", 64, 10));
    assert!(world.tun(0).is_empty());
    assert_eq!(policy.denied(), [0, 2]);
    world.send(1, &packet("10.2.0.1", "10.9.0.1", 64, 10));
    world.send(2, &packet("10.9.0.1", "10.2.0.1", 64, 10));
    assert_eq!((world.tun(2).len(), world.tun(1).len()), (1, 1));
}

#[test]
fn what_would_need_an_icmp_answer_is_denied_all_the_same() {
    let (mut world, policy) = star_with(1, &[(1, 2)]);
    world.send(0, &packet("10.1.0.1", "10.2.0.1", 1, 10));
    assert!(world.tun(2).is_empty());
    assert_eq!(policy.denied(), [1]);
}

#[test]
fn a_fragment_is_judged_as_its_packet_is() {
    let (mut world, policy) = star_with(1, &[(1, 2)]);
    // The second fragment: an offset and no header of a transport.
    let mut fragment = packet("10.1.0.1", "10.2.0.1", 64, 4);
    fragment[6..8].copy_from_slice(&185u16.to_be_bytes());
    world.send(0, &fragment);
    assert!(world.tun(1).is_empty());
    assert_eq!(policy.denied(), [1]);
}

#[test]
fn another_policy_takes_effect_with_the_next_packet_of_a_flow() {
    let (mut world, policy) = star_with(1, &[(1, 2)]);
    world.send(0, &there());
    assert!(world.tun(1).is_empty());
    world.nodes[2].policy = None;
    world.nodes[2].publish();
    world.send(0, &there());
    assert_eq!(world.tun(1).len(), 1);
    world.nodes[2].policy = Some(Arc::clone(&policy));
    world.nodes[2].publish();
    world.send(0, &there());
    assert!(world.tun(1).is_empty());
    assert_eq!(policy.denied(), [2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against the rules tried one by one, flows mixed so that what is remembered
    /// of the last packet is wrong for the next.
    #[test]
    fn only_what_no_rule_denies_arrives(
        denied in prop::collection::vec((0u16..4, 0u16..4), 0..4),
        flows in prop::collection::vec((0usize..5, 0usize..5), 1..40),
    ) {
        let (mut world, policy) = star_with(2, &denied);
        // Each place with its class and whoever is behind it.
        let hosts = [
            ("10.1.0.1", 1, 0), ("10.1.9.1", 3, 0), ("10.2.0.1", 2, 1),
            ("10.2.7.1", 2, 1), ("10.9.0.1", 0, 2),
        ];
        let mut expected = vec![0; denied.len()];
        for (from, to) in flows {
            let ((source, from, sender), (destination, to, receiver)) = (hosts[from], hosts[to]);
            // Their own kernels would keep these, and the hub has nobody to relay to.
            if sender == receiver {
                continue;
            }
            world.send(sender, &packet(source, destination, 64, 10));
            let rule = denied
                .iter()
                .position(|rule| *rule == (from, to) || *rule == (to, from));
            let arrived = world.tun(receiver).len();
            prop_assert_eq!(arrived, usize::from(rule.is_none()), "{} to {}", source, destination);
            if let Some(rule) = rule {
                expected[rule] += 1;
            }
        }
        prop_assert_eq!(policy.denied(), expected);
    }
}
