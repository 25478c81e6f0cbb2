#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
use super::*;
use crate::fleet::fixtures::{key, partition, spoke};

fn answer(region: &str, spokes: Result<Vec<SpokeRecord>, &str>) -> PartitionAnswer {
    PartitionAnswer {
        partition: partition(region),
        answer: spokes
            .map(|spokes| Answer {
                spokes,
                ..Answer::default()
            })
            .map_err(str::to_owned),
        calls: 1,
    }
}

/// A complete answer that lacks everything; this became of those that were known.
fn gone(region: &str, fates: &[(u32, Fate)]) -> PartitionAnswer {
    PartitionAnswer {
        partition: partition(region),
        answer: Ok(Answer {
            spokes: Vec::new(),
            absent: fates
                .iter()
                .map(|(n, fate)| (spoke(*n, "10.0.0.0/16").instance, *fate))
                .collect(),
        }),
        calls: 1,
    }
}

/// One poll, with nobody's tunnel alive.
fn absorb(inventory: Inventory, answers: Vec<PartitionAnswer>, now: Timestamp) -> Inventory {
    poll(inventory, answers, &[], now).inventory
}

fn poll(
    inventory: Inventory,
    answers: Vec<PartitionAnswer>,
    alive: &[u32],
    now: Timestamp,
) -> Absorbed {
    let alive = alive.iter().map(|n| key(*n)).collect();
    Sweep::begin(&inventory, Accepted::default()).absorb(inventory, answers, &alive, now)
}

/// The operator lets go of what is held, and of these by name.
fn accept(
    inventory: Inventory,
    answers: Vec<PartitionAnswer>,
    alive: &[u32],
    instances: &[u32],
) -> Absorbed {
    let alive = alive.iter().map(|n| key(*n)).collect();
    let instances = instances.iter().map(|n| spoke(*n, "10.0.0.0/16").instance);
    let accepted = Accepted {
        held: true,
        instances: instances.collect(),
    };
    Sweep::begin(&inventory, accepted).absorb(inventory, answers, &alive, at(1000))
}

/// So many spokes, numbered from 1, in one region.
fn fleet_of(region: &str, numbers: std::ops::RangeInclusive<u32>) -> PartitionAnswer {
    let spokes = numbers.map(|n| spoke(n, &format!("10.{n}.0.0/16")));
    answer(region, Ok(spokes.collect()))
}

fn known(numbers: std::ops::RangeInclusive<u32>) -> Inventory {
    absorb(
        Inventory::default(),
        vec![fleet_of("eu-west-1", numbers)],
        at(1),
    )
}

fn kept(inventory: &Inventory, n: u32) -> Option<Kept> {
    let view = &inventory.partitions[&partition("eu-west-1")];
    let absence = view.absent.get(&spoke(n, "10.0.0.0/16").instance);
    absence.map(|absence| absence.kept)
}

fn count(inventory: &Inventory, region: &str) -> usize {
    inventory.partitions[&partition(region)].spokes.len()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn a_region_that_fails_keeps_its_spokes_and_says_since_when() {
    let first = absorb(
        Inventory::default(),
        vec![
            answer("eu-west-1", Ok(vec![spoke(1, "10.1.0.0/16")])),
            answer("us-west-2", Ok(vec![spoke(2, "10.2.0.0/16")])),
        ],
        at(100),
    );
    let second = absorb(
        first,
        vec![
            answer("eu-west-1", Err("throttled")),
            gone("us-west-2", &[(2, Fate::Terminated)]),
        ],
        at(200),
    );
    let third = absorb(second, vec![answer("eu-west-1", Err("down"))], at(300));
    assert_eq!(count(&third, "eu-west-1"), 1);
    assert_eq!(count(&third, "us-west-2"), 0);
    let view = &third.partitions[&partition("eu-west-1")];
    assert_eq!(view.error.as_deref(), Some("down"));
    assert_eq!(view.failing_since, Some(at(200)));
    assert_eq!(view.answered_at, Some(at(100)));
}

#[test]
fn a_complete_answer_ends_the_failure() {
    let failing = absorb(
        Inventory::default(),
        vec![answer("eu-west-1", Err("down"))],
        at(1),
    );
    let well = absorb(failing, vec![answer("eu-west-1", Ok(vec![]))], at(2));
    let view = &well.partitions[&partition("eu-west-1")];
    assert_eq!((view.error.as_ref(), view.failing_since), (None, None));
}

#[test]
fn a_vpc_that_ec2_does_not_describe_keeps_its_cidrs() {
    let mut bare = spoke(1, "10.1.0.0/16");
    let known = absorb(
        Inventory::default(),
        vec![answer("eu-west-1", Ok(vec![bare.clone()]))],
        at(1),
    );
    bare.cidrs.clear();
    let after = absorb(known, vec![answer("eu-west-1", Ok(vec![bare]))], at(2));
    let (_, record) = after.spokes().next().unwrap();
    assert_eq!(record.cidrs, spoke(1, "10.1.0.0/16").cidrs);
}

fn keep(inventory: Inventory, regions: &[&str], held: bool) -> (Inventory, Vec<Removed>) {
    let configured = regions.iter().map(|region| partition(region)).collect();
    let accepted = Accepted {
        held,
        ..Accepted::default()
    };
    Sweep::begin(&inventory, accepted).keep_configured(inventory, &configured, at(5))
}

fn two_regions(here: u32, there: u32) -> Inventory {
    let answers = vec![
        fleet_of("eu-west-1", 1..=here),
        fleet_of("us-west-2", 101..=100 + there),
    ];
    absorb(Inventory::default(), answers, at(1))
}

#[test]
fn a_region_taken_out_of_the_config_goes_with_its_spokes() {
    let (kept, removed) = keep(two_regions(2, 5), &["us-west-2"], false);
    assert_eq!(kept.partitions.len(), 1);
    assert_eq!(count(&kept, "us-west-2"), 5);
    let fates: Vec<Fate> = removed.iter().map(|gone| gone.fate).collect();
    assert_eq!(fates, [Fate::Unconfigured; 2]);
    let (kept, _) = keep(
        absorb(kept, vec![answer("us-west-2", Err("down"))], at(2)),
        &[],
        true,
    );
    assert!(kept.partitions.is_empty());
}

#[test]
fn a_mistyped_region_is_held_until_it_is_mended_or_accepted() {
    let known = two_regions(5, 10);
    let (held, removed) = keep(known.clone(), &["eu-wset-1", "us-west-2"], false);
    assert_eq!(removed, []);
    let alarm = held.held_removals.unwrap();
    assert_eq!((alarm.count, alarm.of), (5, 15));
    assert_eq!(kept(&held, 3), Some(Kept::TooMany));
    // Every decision looks again.
    assert_eq!(keep(held.clone(), &["us-west-2"], false).0, held);
    // Mended: nothing has happened, once the region has answered.
    let (mended, _) = keep(held.clone(), &["eu-west-1", "us-west-2"], false);
    assert_eq!(mended, known);
    let (accepted, removed) = keep(held, &["us-west-2"], true);
    assert_eq!((accepted.partitions.len(), removed.len()), (1, 5));
    assert_eq!(accepted.held_removals, None);
}

#[test]
fn a_terminated_spoke_goes_at_once_even_while_it_handshakes() {
    let after = poll(
        known(1..=8),
        vec![gone("eu-west-1", &[(1, Fate::Terminated)])],
        &[1],
        at(2),
    );
    assert_eq!(count(&after.inventory, "eu-west-1"), 7);
    assert_eq!(after.removed.len(), 1);
    assert_eq!(after.removed[0].fate, Fate::Terminated);
    let view = &after.inventory.partitions[&partition("eu-west-1")];
    assert_eq!((view.pins.len(), view.absent.len()), (7, 0));
}

#[test]
fn a_stopped_untagged_or_unknown_spoke_goes_at_the_second_complete_answer() {
    for fate in [Fate::Stopped, Fate::Untagged, Fate::NotFound] {
        let lacking = || vec![gone("eu-west-1", &[(1, fate)])];
        let first = poll(known(1..=8), lacking(), &[], at(2));
        assert_eq!(
            (kept(&first.inventory, 1), first.removed.len()),
            (Some(Kept::SecondAnswer), 0)
        );
        let failed = poll(
            first.inventory,
            vec![answer("eu-west-1", Err("down"))],
            &[],
            at(3),
        );
        assert_eq!(failed.removed, []);
        let second = poll(failed.inventory, lacking(), &[], at(4));
        assert_eq!(count(&second.inventory, "eu-west-1"), 7);
        assert_eq!(second.removed[0].since, at(2));
    }
}

#[test]
fn a_spoke_that_comes_back_between_two_answers_begins_anew() {
    let lacking = || vec![gone("eu-west-1", &[(1, Fate::Stopped)])];
    let first = absorb(known(1..=8), lacking(), at(2));
    let back = absorb(first, vec![fleet_of("eu-west-1", 1..=8)], at(3));
    assert_eq!(kept(&back, 1), None);
    let again = absorb(back, lacking(), at(4));
    assert_eq!(kept(&again, 1), Some(Kept::SecondAnswer));
}

#[test]
fn a_spoke_that_handshakes_stays_until_it_is_silent() {
    let lacking = || vec![gone("eu-west-1", &[(1, Fate::Untagged)])];
    let mut inventory = known(1..=8);
    for second in 2..10 {
        inventory = poll(inventory, lacking(), &[1], at(second)).inventory;
    }
    assert_eq!(kept(&inventory, 1), Some(Kept::Handshakes));
    let silent = poll(inventory, lacking(), &[], at(10));
    assert_eq!(silent.removed.len(), 1);
}

#[test]
fn an_instance_without_a_single_tag_never_goes() {
    let lacking = |fate| vec![gone("eu-west-1", &[(1, fate)])];
    let mut inventory = known(1..=8);
    for second in 2..10 {
        inventory = absorb(inventory, lacking(Fate::Tagless), at(second));
    }
    assert_eq!(kept(&inventory, 1), Some(Kept::TagsMissing));
    // Nor does it count towards the second answer.
    let untagged = absorb(inventory, lacking(Fate::Untagged), at(10));
    assert_eq!(kept(&untagged, 1), Some(Kept::SecondAnswer));
}

#[test]
fn a_spoke_that_the_answer_says_nothing_of_stays() {
    let mut inventory = known(1..=8);
    for second in 2..10 {
        inventory = absorb(inventory, vec![gone("eu-west-1", &[])], at(second));
    }
    assert_eq!(count(&inventory, "eu-west-1"), 8);
}

fn terminated(numbers: std::ops::RangeInclusive<u32>) -> Vec<(u32, Fate)> {
    numbers.map(|n| (n, Fate::Terminated)).collect()
}

#[test]
fn more_than_two_and_more_than_a_quarter_at_once_are_held() {
    // Of 12 three may go, of 11 they may not; two always may.
    for (of, going, held) in [(12, 3, false), (11, 3, true), (2, 2, false), (3, 3, true)] {
        let after = poll(
            known(1..=of),
            vec![gone("eu-west-1", &terminated(1..=going))],
            &[],
            at(2),
        );
        let count = count(&after.inventory, "eu-west-1");
        assert_eq!(
            count,
            (if held { of } else { of - going }) as usize,
            "{going} of {of}"
        );
        let told = after
            .inventory
            .held_removals
            .map(|held| (held.count, held.of));
        assert_eq!(told, held.then_some((going as usize, of as usize)));
        assert_eq!(after.removed.is_empty(), held);
    }
}

#[test]
fn a_held_removal_waits_for_the_operator_or_for_the_spokes() {
    let lacking = || vec![gone("eu-west-1", &terminated(1..=5))];
    let held = absorb(known(1..=8), lacking(), at(2));
    let later = absorb(held, lacking(), at(3));
    let alarm = later.held_removals.unwrap();
    assert_eq!((alarm.count, alarm.since), (5, at(2)));
    assert_eq!(kept(&later, 5), Some(Kept::TooMany));
    // While the partition fails nothing is known, and the alarm stays.
    let failing = absorb(later.clone(), vec![answer("eu-west-1", Err("down"))], at(4));
    assert_eq!(failing.held_removals, later.held_removals);
    let accepted = accept(
        failing.clone(),
        vec![answer("eu-west-1", Err("down"))],
        &[],
        &[1, 2, 3],
    );
    assert_eq!(accepted.removed, []);
    let accepted = accept(failing, lacking(), &[], &[]);
    assert_eq!(
        (accepted.removed.len(), accepted.inventory.held_removals),
        (5, None)
    );
    let back = absorb(later, vec![fleet_of("eu-west-1", 1..=8)], at(4));
    assert_eq!((count(&back, "eu-west-1"), back.held_removals), (8, None));
}

#[test]
fn the_operator_may_let_go_of_a_running_spoke_by_its_name_alone() {
    let lacking = || {
        let fates = [
            (1, Fate::Untagged),
            (2, Fate::Untagged),
            (3, Fate::Tagless),
            (4, Fate::Unclear),
        ];
        vec![gone("eu-west-1", &fates)]
    };
    let alive = [1, 2, 3, 4];
    let none = accept(known(1..=8), lacking(), &alive, &[]);
    assert_eq!(none.removed, []);
    // Of those whose fate is not known, nobody can say that they are gone.
    let named = accept(known(1..=8), lacking(), &alive, &[1, 3, 4, 7]);
    let names: Vec<_> = named.removed.iter().map(|gone| &gone.instance).collect();
    assert_eq!(names, [&spoke(1, "10.1.0.0/16").instance]);
    assert!(named.removed[0].accepted);
}

#[test]
fn what_the_operator_named_does_not_count_as_too_many() {
    let lacking = vec![gone(
        "eu-west-1",
        &[
            (1, Fate::Untagged),
            (2, Fate::Untagged),
            (3, Fate::Untagged),
            (4, Fate::Terminated),
        ],
    )];
    let instances = [1, 2, 3].map(|n| spoke(n, "10.0.0.0/16").instance);
    let inventory = known(1..=8);
    let accepted = Accepted {
        held: false,
        instances: instances.into(),
    };
    let after =
        Sweep::begin(&inventory, accepted).absorb(inventory, lacking, &BTreeSet::new(), at(2));
    assert_eq!(
        (after.removed.len(), after.inventory.held_removals),
        (4, None)
    );
}

#[test]
fn partition_by_partition_is_as_all_at_once() {
    let inventory = absorb(
        Inventory::default(),
        vec![
            fleet_of("eu-west-1", 1..=20),
            fleet_of("us-west-2", 21..=40),
        ],
        at(1),
    );
    let answers = [
        gone("eu-west-1", &terminated(1..=4)),
        gone("us-west-2", &terminated(21..=24)),
    ];
    let mut sweep = Sweep::begin(&inventory, Accepted::default());
    let alive = BTreeSet::new();
    let all = sweep.absorb(inventory.clone(), answers.to_vec(), &alive, at(2));
    for order in [[0, 1], [1, 0]] {
        let mut sweep = Sweep::begin(&inventory, Accepted::default());
        let mut state = inventory.clone();
        for position in order {
            let answer = vec![answers[position].clone()];
            state = sweep.absorb(state, answer, &alive, at(2)).inventory;
        }
        assert_eq!(state, all.inventory);
    }
}

#[test]
fn the_limit_counts_over_all_partitions_of_a_poll() {
    let inventory = absorb(
        Inventory::default(),
        vec![fleet_of("eu-west-1", 1..=4), fleet_of("us-west-2", 5..=8)],
        at(1),
    );
    let mut sweep = Sweep::begin(&inventory, Accepted::default());
    let alive = BTreeSet::new();
    let first = sweep.absorb(
        inventory,
        vec![gone("eu-west-1", &terminated(1..=2))],
        &alive,
        at(2),
    );
    assert_eq!(first.removed.len(), 2);
    let second = sweep.absorb(
        first.inventory,
        vec![gone("us-west-2", &terminated(5..=6))],
        &alive,
        at(3),
    );
    assert_eq!(second.removed, []);
    assert_eq!(second.inventory.held_removals.unwrap().count, 2);
}

#[test]
fn what_a_tag_says_changes_nothing_about_a_spoke_that_handshakes() {
    let mut odd = spoke(1, "10.1.0.0/16");
    odd.transport = privnet_model::inventory::Transport::None;
    odd.port = Some(1);
    odd.public_address = None;
    odd.instance_profile = None;
    odd.zone = None;
    odd.private_address = None;
    let said = || vec![answer("eu-west-1", Ok(vec![odd.clone()]))];
    let lively = poll(known(1..=1), said(), &[1], at(2)).inventory;
    let (_, record) = lively.spokes().next().unwrap();
    assert_eq!(*record, spoke(1, "10.1.0.0/16"));
    let silent = poll(lively, said(), &[], at(3)).inventory;
    let (_, record) = silent.spokes().next().unwrap();
    assert_eq!((record.port, record.public_address), (Some(1), None));
    // Where an instance is does not change at all.
    assert_eq!(record.zone, spoke(1, "10.1.0.0/16").zone);
}

#[test]
fn a_spoke_whose_vpc_is_not_described_has_its_own_cidrs_and_not_those_of_an_older_answer() {
    let stale = SpokeRecord {
        vpc: spoke(1, "10.1.0.0/16").vpc,
        ..spoke(2, "10.1.0.0/16")
    };
    let mut grown = spoke(1, "10.1.0.0/16");
    let first = vec![answer("eu-west-1", Ok(vec![grown.clone(), stale]))];
    let inventory = absorb(Inventory::default(), first, at(1));
    // The VPC grows while nothing is said of the second spoke, which stays as it was.
    grown.cidrs.push("10.8.0.0/16".parse().unwrap());
    let second = vec![answer("eu-west-1", Ok(vec![grown.clone()]))];
    let inventory = absorb(inventory, second, at(2));
    let mut bare = grown.clone();
    bare.cidrs.clear();
    let inventory = absorb(inventory, vec![answer("eu-west-1", Ok(vec![bare]))], at(3));
    let view = &inventory.partitions[&partition("eu-west-1")];
    assert_eq!(view.spokes[&grown.instance].cidrs, grown.cidrs);
}
