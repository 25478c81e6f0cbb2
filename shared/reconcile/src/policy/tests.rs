#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
use super::*;
use crate::fleet::SiteSecret;
use crate::fleet::fixtures::{World, inventory, site, spoke};
use privnet_model::config::hub::{Glob, ProofMode};
use proptest::prelude::*;

const CONTROL: &str = "169.254.77.1";

/// Two VPCs, one in `env = prod`, and a data centre; the hub is in 10.0.0.0/16.
fn known() -> Inventory {
    let mut prod = spoke(1, "10.1.0.0/16");
    prod.tags.insert("env".to_owned(), "prod".to_owned());
    inventory([prod, spoke(2, "10.2.0.0/16")])
}

fn world() -> World {
    World {
        sites: vec![site("dc", "10.200.0.0/16")],
        ..World::default()
    }
}

fn compile(rules: &[PolicyRule], world: &World, inventory: &Inventory) -> Policy {
    Policy::compile(PolicyInput {
        rules,
        fleet: &world.decide(inventory),
        inventory,
        hub_cidrs: &["10.0.0.0/16".parse().unwrap()],
        control: CONTROL.parse().unwrap(),
    })
    .unwrap()
}

fn rule(allow: bool, between: Selector, and: Selector) -> PolicyRule {
    PolicyRule {
        allow,
        between: vec![between],
        and: vec![and],
    }
}

fn glob_site(pattern: &str) -> Selector {
    Selector::Site(Glob::new(pattern))
}

fn cidr(text: &str) -> Selector {
    Selector::Cidr(text.parse().unwrap())
}

/// The verdicts in both directions, which are the same, and the rule's number.
fn between(policy: &Policy, a: &str, b: &str) -> (Verdict, Option<u16>) {
    let [a, b]: [IpAddr; 2] = [a, b].map(|address| address.parse().unwrap());
    let decision = policy.decide(a, b);
    assert_eq!(decision, policy.decide(b, a));
    assert_eq!(decision.verdict, looked_up(policy.table(), a, b));
    (decision.verdict, decision.rule.map(|(number, _)| number))
}

/// What the data plane does with the table.
fn looked_up(table: &PolicyTable, a: IpAddr, b: IpAddr) -> Verdict {
    let class = |address: IpAddr| {
        let holding = table.prefixes().iter();
        let holding = holding.filter(|(net, _)| net.contains(&address));
        let longest = holding.max_by_key(|(net, _)| net.prefix_len());
        longest.map_or(0, |(_, class)| *class)
    };
    table.verdict(class(a), class(b))
}

#[test]
fn without_rules_everything_is_allowed_and_the_table_is_empty() {
    let policy = compile(&[], &world(), &known());
    assert!(policy.table().is_empty() && policy.table().prefixes().is_empty());
    assert_eq!(
        between(&policy, "10.1.0.1", "10.2.0.1"),
        (Verdict::Allow, None)
    );
}

#[test]
fn the_first_rule_that_fits_decides_in_both_directions() {
    let prod = Selector::Tag {
        key: "env".to_owned(),
        value: Glob::new("pr*"),
    };
    let policy = compile(
        &[
            rule(true, cidr("10.1.7.0/24"), cidr("10.2.0.0/16")),
            rule(false, prod, glob_site("spoke-2")),
            rule(false, glob_site("d?"), Selector::Any),
            rule(false, Selector::Hub, glob_site("vpc-*1")),
        ],
        &world(),
        &known(),
    );
    assert_eq!(
        between(&policy, "10.1.0.1", "10.2.0.1"),
        (Verdict::Deny(1), Some(1))
    );
    assert_eq!(
        between(&policy, "10.1.7.1", "10.2.0.1"),
        (Verdict::Allow, Some(0))
    );
    assert_eq!(
        between(&policy, "10.200.0.1", "10.2.0.1"),
        (Verdict::Deny(2), Some(2))
    );
    assert_eq!(
        between(&policy, "10.200.0.1", "8.8.8.8"),
        (Verdict::Deny(2), Some(2))
    );
    assert_eq!(
        between(&policy, "10.0.0.1", "10.1.0.1"),
        (Verdict::Deny(3), Some(3))
    );
    assert_eq!(
        between(&policy, "10.0.0.1", "10.2.0.1"),
        (Verdict::Allow, None)
    );
    assert_eq!(
        policy.rules()[1],
        "deny between tag:env=pr* and site:spoke-2"
    );
}

#[test]
fn a_rule_about_a_site_holds_also_while_its_key_is_not_known() {
    let rules = [rule(false, glob_site("dc"), glob_site("spoke-1"))];
    let known_key = compile(&rules, &world(), &known());
    let mut world = world();
    world.sites[0].secret = SiteSecret::Awaited {
        problem: "no answer yet".to_owned(),
    };
    let policy = compile(&rules, &world, &known());
    assert_eq!(policy.table(), known_key.table());
    let verdict = between(&policy, "10.200.0.1", "10.1.0.1");
    assert_eq!(verdict, (Verdict::Deny(0), Some(0)));
}

#[test]
fn what_is_compiled_anew_is_as_if_it_were_for_the_first_time() {
    let prod = Selector::Tag {
        key: "env".to_owned(),
        value: Glob::new("prod"),
    };
    let rules = [rule(false, prod, cidr("10.2.0.0/16"))];
    let other = [
        rule(true, Selector::Any, cidr("10.2.0.0/16")),
        rules[0].clone(),
    ];
    let untagged = inventory([spoke(1, "10.1.0.0/16"), spoke(2, "10.2.0.0/16")]);
    let mut policy = Policy::default();
    for (rules, inventory) in [
        (&rules[..], known()),
        (&rules[..], known()),
        (&rules[..], untagged),
        (&rules[..], known()),
        (&other[..], known()),
        (&[], known()),
    ] {
        let fleet = world().decide(&inventory);
        let input = PolicyInput {
            rules,
            fleet: &fleet,
            inventory: &inventory,
            hub_cidrs: &["10.0.0.0/16".parse().unwrap()],
            control: CONTROL.parse().unwrap(),
        };
        policy = policy.renewed(input).unwrap();
        let fresh = Policy::compile(input).unwrap();
        assert_eq!(policy.table(), fresh.table());
        let verdict = between(&policy, "10.1.0.1", "10.2.0.1");
        assert_eq!(verdict, between(&fresh, "10.1.0.1", "10.2.0.1"));
    }
}

#[test]
fn no_rule_stands_between_a_spoke_and_the_control_endpoint() {
    let policy = compile(
        &[rule(false, Selector::Any, Selector::Any)],
        &world(),
        &known(),
    );
    assert_eq!(
        between(&policy, CONTROL, "10.1.0.1"),
        (Verdict::Allow, None)
    );
    assert_eq!(
        between(&policy, "10.0.0.1", "10.1.0.1"),
        (Verdict::Deny(0), Some(0))
    );
}

#[test]
fn who_has_not_proved_itself_reaches_the_control_endpoint_alone() {
    let mut world = world();
    world.trust.proof = ProofMode::Require;
    let mut unproven = spoke(1, "10.1.0.0/16");
    unproven.private_address = Some("10.1.0.1".parse().unwrap());
    let policy = compile(
        &[rule(true, Selector::Any, Selector::Any)],
        &world,
        &inventory([unproven]),
    );
    assert_eq!(
        between(&policy, CONTROL, "10.1.0.1"),
        (Verdict::Allow, None)
    );
    assert_eq!(
        between(&policy, "10.0.0.1", "10.1.0.1"),
        (Verdict::Deny(1), Some(1))
    );
    assert_eq!(policy.rules()[1], NO_PROOF);
    assert_eq!(policy.table().rules(), 2);
}

#[test]
fn rules_that_tell_too_many_kinds_apart_are_refused() {
    let rules: Vec<PolicyRule> = (0..=MOST_CLASSES)
        .map(|n| {
            let own = format!("10.{}.{}.0/24", 1 + n / 256, n % 256);
            rule(false, cidr(&own), Selector::Hub)
        })
        .collect();
    let known = known();
    let error = Policy::compile(PolicyInput {
        rules: &rules,
        fleet: &world().decide(&known),
        inventory: &known,
        hub_cidrs: &[],
        control: CONTROL.parse().unwrap(),
    });
    assert!(matches!(error, Err(PolicyError::TooManyClasses(_))));
}

fn selector() -> impl Strategy<Value = Selector> {
    prop_oneof![
        Just(Selector::Any),
        Just(Selector::Hub),
        prop_oneof![Just("spoke-1"), Just("vpc-*2"), Just("dc"), Just("none")].prop_map(glob_site),
        Just(Selector::Tag {
            key: "env".to_owned(),
            value: Glob::new("prod"),
        }),
        address()
            .prop_flat_map(|address| (Just(address), 6_u8..=32))
            .prop_map(|(address, length)| {
                Selector::Cidr(IpNet::new(address, length).unwrap().trunc())
            }),
    ]
}

fn address() -> impl Strategy<Value = IpAddr> {
    let second = prop_oneof![Just(0_u8), Just(1), Just(2), Just(200), any::<u8>()];
    (9_u8..12, second, any::<[u8; 2]>()).prop_map(|(a, b, [c, d])| IpAddr::from([a, b, c, d]))
}

/// Whether a selector selects an address of the network of `known`, told by hand.
fn naive(selector: &Selector, address: IpAddr) -> bool {
    let inside = |net: &str| net.parse::<IpNet>().unwrap().contains(&address);
    let sites = [
        ("10.1.0.0/16", "spoke-1", "vpc-00000000000000001", "prod"),
        ("10.2.0.0/16", "spoke-2", "vpc-00000000000000002", ""),
        ("10.200.0.0/16", "dc", "dc", ""),
    ];
    let site = sites.iter().find(|(net, ..)| inside(net));
    match selector {
        Selector::Any => true,
        Selector::Hub => inside("10.0.0.0/16"),
        Selector::Cidr(cidr) => cidr.contains(&address),
        Selector::Site(glob) => {
            site.is_some_and(|(_, name, id, _)| glob.matches(name) || glob.matches(id))
        }
        Selector::Tag { value, .. } => site.is_some_and(|(.., env)| value.matches(env)),
    }
}

proptest! {
    #[test]
    fn the_table_says_what_the_rules_say(
        rules in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(selector(), 1..3), proptest::collection::vec(selector(), 1..3)),
            0..8,
        ),
        pairs in proptest::collection::vec((address(), address()), 1..40),
    ) {
        let rules: Vec<PolicyRule> = rules
            .into_iter()
            .map(|(allow, between, and)| PolicyRule { allow, between, and })
            .collect();
        let policy = compile(&rules, &world(), &known());
        for (a, b) in pairs {
            let on = |side: &[Selector], address| side.iter().any(|one| naive(one, address));
            let rule = rules.iter().position(|rule| {
                (on(&rule.between, a) && on(&rule.and, b)) || (on(&rule.between, b) && on(&rule.and, a))
            });
            let expected = match rule {
                Some(rule) if !rules[rule].allow => Verdict::Deny(rule as u16),
                _ => Verdict::Allow,
            };
            prop_assert_eq!(policy.decide(a, b).verdict, expected);
            prop_assert_eq!(looked_up(policy.table(), a, b), expected);
        }
    }
}
