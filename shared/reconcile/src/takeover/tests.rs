//! Single decisions; whole histories are in `tests/takeover`.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
use privnet_model::vpc::{Destination, Route, RouteOrigin, RouteState, RouteTarget};
use proptest::prelude::*;

use super::*;
use crate::address::OtherState;

const DEFAULT: &str = "0.0.0.0/0";

fn sibling(n: u8) -> vpc::Sibling {
    let zone = char::from(b'a' + n % 3);
    vpc::Sibling {
        instance: format!("i-{n:08x}").parse().unwrap(),
        launched: Timestamp::from_second(1_700_000_000 + i64::from(n)).unwrap(),
        zone: format!("eu-west-1{zone}").parse().unwrap(),
        address: IpAddr::from([10, 0, 0, n]),
        interface: format!("eni-{n:08x}").parse().unwrap(),
        instance_profile: None,
        tags: BTreeMap::new(),
    }
}

/// The private table of zone `n`, whose default route leads to a spoke.
fn table(n: u8, leads: Option<u8>) -> RouteTable {
    let route = leads.map(|leads| Route {
        destination: Destination::Cidr(DEFAULT.parse().unwrap()),
        target: RouteTarget::Interface {
            interface: sibling(leads).interface,
            instance: None,
        },
        state: RouteState::Active,
        origin: RouteOrigin::CreateRoute,
    });
    RouteTable {
        id: format!("rtb-{n:08x}").parse().unwrap(),
        vpc: "vpc-00000001".parse().unwrap(),
        main: false,
        tags: BTreeMap::new(),
        subnets: [("subnet-00000001".parse().unwrap(), sibling(n).zone)].into(),
        routes: route.into_iter().collect(),
    }
}

#[expect(clippy::disallowed_methods, reason = "somewhere time must start")]
fn beginning() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}

fn wall() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Spoke 0, that knows nobody yet.
fn alone(memory: &Memory, now: Instant) -> Takeover {
    let setup = Setup {
        me: sibling(0),
        tables: TableSelection::Zone,
        destinations: [DEFAULT.parse().unwrap()].into(),
        tunnelled: BTreeSet::new(),
        takeover: true,
        test_interval: seconds(1),
    };
    Takeover::new(setup, memory, now, wall())
}

/// Spoke 0 beside 1 and 2.
fn spoke(now: Instant) -> Takeover {
    let mut spoke = alone(&Memory::default(), now);
    let spokes = (0..3).map(|n| (sibling(n).instance, sibling(n)));
    let found = Siblings {
        spokes: spokes.collect(),
        incomplete: BTreeMap::new(),
    };
    spoke.discovered(&found, now);
    spoke
}

fn report(condition: Condition) -> HealthReport {
    HealthReport {
        condition,
        well_for: seconds(100),
        changes_routes: true,
        has_tunnel: true,
        tables: BTreeSet::new(),
        hears: BTreeMap::new(),
    }
}

fn sick() -> Condition {
    let why = "no egress".to_owned();
    Condition::Sick { why }
}

/// Who is to have which route, as `table: interface`.
fn moves(decision: &Decision) -> Vec<String> {
    let each = decision.moves.iter().map(|one| match &one.change.action {
        RouteAction::Create { to } | RouteAction::Replace { to, .. } => {
            format!("{}: {to}", one.change.table)
        }
    });
    each.collect()
}

#[test]
fn a_well_spoke_makes_what_its_home_lacks_and_stands_in_for_the_sick() {
    let now = beginning();
    let mut spoke = spoke(now);
    spoke.tested(Ok(()), now);
    spoke.observed(&sibling(1).instance, now, Some(report(sick())), now);
    spoke.observed(
        &sibling(2).instance,
        now,
        Some(report(Condition::Well)),
        now,
    );
    let tables = vec![table(0, None), table(1, Some(1)), table(2, Some(2))];
    // Nobody has been well for long but 2, whose turn it is first.
    let decision = spoke.looked(tables.clone(), now);
    assert_eq!(moves(&decision), ["rtb-00000000: eni-00000000"]);
    let later = now + seconds(1);
    spoke.tested(Ok(()), later);
    let decision = spoke.looked(tables.clone(), later);
    assert_eq!(moves(&decision), ["rtb-00000000: eni-00000000"]);
    let later = now + STEP;
    let decision = spoke.looked(tables, later);
    let both = ["rtb-00000000: eni-00000000", "rtb-00000001: eni-00000000"];
    assert_eq!(moves(&decision), both);
    assert_eq!(
        decision.moves[1].why.to_string(),
        "it led to i-00000001, which is sick: no egress"
    );
}

#[test]
fn what_was_decided_is_off_when_the_spoke_is_sick_before_it_is_done() {
    let now = beginning();
    let mut spoke = spoke(now);
    spoke.tested(Ok(()), now);
    let decision = spoke.looked(vec![table(0, None)], now);
    let change = decision.moves[0].change.clone();
    assert!(spoke.still(&change, now));
    spoke.tested(Err("no egress".to_owned()), now);
    assert!(!spoke.still(&change, now));
    spoke.tested(Ok(()), now);
    assert!(!spoke.still(&change, now), "it needs a new look");
}

#[test]
fn three_answers_that_lack_are_a_loss_and_two_are_not() {
    let start = beginning();
    let mut spoke = spoke(start);
    let one = sibling(1).instance;
    spoke.observed(&one, start, Some(report(Condition::Well)), start);
    let state = |spoke: &Takeover| spoke.siblings().next().unwrap().1;
    for second in 1..=3 {
        assert_eq!(state(&spoke), SiblingState::Well, "{second}");
        let asked = start + seconds(second);
        // Whoever is not heard of for long was away, which says nothing of the others.
        for quarter in 0..4 {
            spoke.tick(asked + Duration::from_millis(250 * quarter));
        }
        spoke.observed(&one, asked, None, asked + seconds(1));
    }
    assert_eq!(state(&spoke), SiblingState::Lost);
    // What was asked before the last answer says nothing.
    let now = start + seconds(5);
    spoke.observed(&one, now, Some(report(Condition::Well)), now);
    for _ in 0..5 {
        spoke.observed(&one, start, None, now);
    }
    assert_eq!(state(&spoke), SiblingState::Well);
}

#[test]
fn a_takeover_takes_from_when_the_lost_one_was_well_until_its_route_is_changed() {
    let start = beginning();
    let mut spoke = spoke(start);
    let one = sibling(1).instance;
    spoke.tested(Ok(()), start);
    spoke.observed(&one, start, Some(report(Condition::Well)), start);
    let tables = vec![table(1, Some(1))];
    assert_eq!(moves(&spoke.looked(tables.clone(), start)), [""; 0]);
    let take = |spoke: &mut Takeover, from: u64| {
        let mut decision = Decision::default();
        for second in from..=from + 3 {
            let now = start + seconds(second);
            spoke.tested(Ok(()), now);
            spoke.observed(&one, now, None, now);
            decision = spoke.looked(tables.clone(), now);
        }
        assert_eq!(moves(&decision), ["rtb-00000001: eni-00000000"]);
        let change = &decision.moves[0].change;
        let now = start + seconds(from + 3) + Duration::from_millis(300);
        (change.clone(), now)
    };
    // A change that failed was none.
    let (change, now) = take(&mut spoke, 1);
    spoke.applied(&change, None, now);
    assert_eq!(spoke.taken_over(), TakenOver::default());
    let (change, now) = take(&mut spoke, 5);
    spoke.applied(&change, Some(&RouteOutcome::Done), now);
    let took = Duration::from_millis(8300);
    let expected = TakenOver {
        routes: 1,
        time: took,
        last: Some(took),
    };
    assert_eq!(spoke.taken_over(), expected);
}

/// EC2 did not answer for a while, and meanwhile somebody led the route back.
#[test]
fn a_route_that_is_led_to_one_long_lost_is_counted_from_then() {
    let mut now = beginning();
    let mut spoke = spoke(now);
    let one = sibling(1).instance;
    let leads_to_it = vec![table(1, Some(1))];
    spoke.tested(Ok(()), now);
    spoke.observed(&one, now, Some(report(Condition::Well)), now);
    spoke.looked(leads_to_it.clone(), now);
    let mut wait = |spoke: &mut Takeover, count: u64| {
        for _ in 0..count {
            now += seconds(1);
            spoke.tested(Ok(()), now);
            spoke.observed(&one, now, None, now);
        }
        now
    };
    let take = |spoke: &mut Takeover, now: Instant| {
        let decision = spoke.looked(leads_to_it.clone(), now);
        assert_eq!(moves(&decision), ["rtb-00000001: eni-00000000"]);
        let done = now + Duration::from_millis(300);
        spoke.applied(&decision.moves[0].change, Some(&RouteOutcome::Done), done);
        spoke.taken_over().last
    };
    let now = wait(&mut spoke, 4);
    assert_eq!(take(&mut spoke, now), Some(Duration::from_millis(4300)));
    let now = wait(&mut spoke, 3600);
    assert_eq!(take(&mut spoke, now), Some(Duration::from_millis(300)));
    let all = spoke.taken_over();
    assert_eq!((all.routes, all.time), (2, Duration::from_millis(4600)));
}

/// It was sick a moment ago, became well, and took its route before it was asked again.
#[test]
fn who_takes_a_route_was_well_then_whatever_it_had_said_before() {
    let now = beginning();
    let mut spoke = spoke(now);
    let one = sibling(1).instance;
    spoke.tested(Ok(()), now);
    spoke.observed(&one, now, Some(report(sick())), now);
    spoke.looked(vec![table(0, Some(0)), table(1, None)], now);
    let later = now + STEP;
    spoke.tested(Ok(()), later);
    let claimed = vec![table(0, Some(0)), table(1, Some(1))];
    assert_eq!(moves(&spoke.looked(claimed.clone(), later)), [""; 0]);
    // Now it says so again.
    let mut decision = Decision::default();
    for second in 1..=4 {
        let now = later + seconds(second);
        spoke.tested(Ok(()), now);
        spoke.observed(&one, now, Some(report(sick())), now);
        decision = spoke.looked(claimed.clone(), now);
    }
    assert_eq!(moves(&decision), ["rtb-00000001: eni-00000000"]);
}

#[test]
fn a_route_to_a_spoke_that_is_remembered_is_taken_and_to_another_it_is_not() {
    let now = beginning();
    let kept = Memory {
        spokes: vec![Sibling::new(&sibling(3), now).remember()],
        ..Memory::default()
    };
    for (memory, taken) in [(kept, true), (Memory::default(), false)] {
        let mut spoke = alone(&memory, now);
        let tables = vec![table(0, Some(3))];
        let mut at = now;
        for _ in 0..4 {
            at += seconds(1);
            spoke.tested(Ok(()), at);
            for id in spoke.asked().into_keys() {
                spoke.observed(&id, at, None, at);
            }
        }
        let decision = spoke.looked(tables, at);
        assert_eq!(decision.moves.len(), usize::from(taken));
        assert_eq!(decision.conflicts.len(), usize::from(!taken));
    }
}

#[test]
fn a_restart_does_not_forget_how_long_it_must_be_well() {
    let start = beginning();
    let mut now = start;
    let mut spoke = alone(&Memory::default(), now);
    for _ in 0..3 {
        spoke.tested(Ok(()), now);
        now += seconds(1);
        spoke.tested(Err("no egress".to_owned()), now);
        now += seconds(1);
    }
    let (hold, _) = spoke.hold(now);
    assert_eq!(hold, seconds(40));
    let memory = spoke.memory(now, wall());
    let (kept, _) = alone(&memory, now).hold(now);
    assert_eq!(kept, hold);
    let much_later = wall() + CALM;
    let setup = alone(&memory, now).setup;
    let (kept, _) = Takeover::new(setup, &memory, now, much_later).hold(now);
    assert_eq!(kept, own::HOLD);
}

proptest! {
    #[test]
    fn a_spoke_that_is_not_well_plans_nothing(
        leads in prop::array::uniform3(proptest::option::of(0_u8..4)),
        conditions in prop::array::uniform2(0_u8..4),
        failed in any::<bool>(),
        waited in 0_u64..30,
    ) {
        let mut now = beginning();
        let mut spoke = spoke(now);
        let tables = || (0..3).zip(leads).map(|(n, leads)| table(n, leads)).collect::<Vec<_>>();
        if failed {
            spoke.tested(Ok(()), now);
            spoke.tested(Err("no egress".to_owned()), now);
        }
        for _ in 0..=waited {
            for (n, condition) in [1, 2].into_iter().zip(conditions) {
                let answer = match condition {
                    0 => Some(report(Condition::Well)),
                    1 => Some(report(sick())),
                    2 => Some(report(Condition::Leaving)),
                    _ => None,
                };
                spoke.observed(&sibling(n).instance, now, answer, now);
            }
            spoke.tick(now);
            prop_assert_eq!(spoke.looked(tables(), now).moves, vec![]);
            now += seconds(1);
        }
    }
}

#[test]
fn after_a_freeze_of_the_process_nobody_is_lost_and_this_spoke_was_not_well_for_long() {
    let mut now = beginning();
    let mut spoke = spoke(now);
    let other = sibling(1).instance;
    for _ in 0..300 {
        now += Duration::from_millis(200);
        spoke.tested(Ok(()), now);
        spoke.observed(&other, now, None, now);
        spoke.tick(now);
    }
    let outlook = spoke.outlook(now);
    assert_eq!(outlook.siblings[&other].state, SiblingState::Lost);
    assert!(outlook.well_for >= seconds(59));
    let outlook = spoke.outlook(now + seconds(60));
    assert_ne!(outlook.siblings[&other].state, SiblingState::Lost);
    assert_eq!(outlook.well_for, Duration::ZERO);
}

/// Spoke `n` of two in different zones that both list the tables 0 and 1.
fn one_of_two(n: u8, now: Instant) -> Takeover {
    let setup = Setup {
        me: sibling(n),
        tables: TableSelection::Listed(homes(&[0, 1])),
        ..alone(&Memory::default(), now).setup
    };
    let mut spoke = Takeover::new(setup, &Memory::default(), now, wall());
    let spokes = (0..2).map(|n| (sibling(n).instance, sibling(n)));
    let found = Siblings {
        spokes: spokes.collect(),
        incomplete: BTreeMap::new(),
    };
    spoke.discovered(&found, now);
    spoke
}

fn homes(tables: &[u8]) -> BTreeSet<RouteTableId> {
    tables.iter().map(|n| table(*n, None).id).collect()
}

/// What the other one says, whose homes these are.
fn of_homes(tables: &[u8]) -> HealthReport {
    HealthReport {
        tables: homes(tables),
        ..report(Condition::Well)
    }
}

/// What the spoke does when it sees these tables and hears this of the other one; each
/// second from the start on, and what was decided is never done.
fn lives(
    spoke: &mut Takeover,
    start: Instant,
    time: std::ops::RangeInclusive<u64>,
    other: (u8, &HealthReport),
    tables: &[RouteTable],
) -> Vec<String> {
    let mut decision = Decision::default();
    for second in time {
        let now = start + seconds(second);
        spoke.tested(Ok(()), now);
        let (other, report) = other;
        let report = Some(report.clone());
        spoke.observed(&sibling(other).instance, now, report, now);
        decision = spoke.looked(tables.to_vec(), now);
    }
    moves(&decision)
}

#[test]
fn of_two_with_the_same_homes_in_two_zones_the_first_launched_makes_what_is_missing() {
    let start = beginning();
    let nothing = [table(0, None), table(1, None)];
    let new = HealthReport {
        well_for: Duration::ZERO,
        ..of_homes(&[0, 1])
    };
    let mut first = one_of_two(0, start);
    let both = ["rtb-00000000: eni-00000000", "rtb-00000001: eni-00000000"];
    assert_eq!(lives(&mut first, start, 0..=0, (1, &new), &nothing), both);
    let mut second = one_of_two(1, start);
    let step = STEP.as_secs();
    let early = lives(&mut second, start, 0..=step - 1, (0, &new), &nothing);
    assert_eq!(early, [""; 0]);
    let both = ["rtb-00000000: eni-00000001", "rtb-00000001: eni-00000001"];
    let late = lives(&mut second, start, step..=step, (0, &new), &nothing);
    assert_eq!(late, both);
}

/// Sibling 1 answers nothing from `since` on; sibling 2 answers each second that it heard it say
/// that it is well so long ago.
fn is_unheard(spoke: &mut Takeover, since: Instant, time: u64, ago: impl Fn(u64) -> Duration) {
    for second in 0..time {
        let now = since + seconds(second);
        spoke.tested(Ok(()), now);
        let hears = [(sibling(1).instance, ago(second))].into();
        let told = HealthReport {
            hears,
            ..report(Condition::Well)
        };
        let (one, two) = (sibling(1).instance, sibling(2).instance);
        spoke.observed(&one, now, None, now + seconds(1));
        spoke.observed(&two, now, Some(told), now);
        spoke.tick(now + seconds(1));
    }
}

fn state_of(spoke: &Takeover, n: u8) -> SiblingState {
    let mut siblings = spoke.siblings();
    let found = siblings.find(|(id, _)| **id == sibling(n).instance);
    found.unwrap().1
}

#[test]
fn who_tells_another_that_it_is_well_is_so_whatever_it_told_this_spoke_before() {
    let start = beginning();
    let half = Duration::from_millis(500);
    let mut spoke = spoke(start);
    let one = sibling(1);
    spoke.observed(&one.instance, start, Some(report(sick())), start);
    assert_eq!(spoke.looked(vec![table(1, Some(1))], start).moves, []);
    let since = start + seconds(1);
    is_unheard(&mut spoke, since, 30, |_| half);
    let now = since + seconds(30);
    assert_eq!(state_of(&spoke, 1), SiblingState::Well);
    assert!(spoke.only_others_hear(&one.instance));
    assert!(!spoke.only_others_hear(&sibling(2).instance));
    assert_eq!(spoke.looked(vec![table(1, Some(1))], now).moves, []);
    let around = spoke.around(now);
    assert_eq!(around.spokes[&one.interface].state, OtherState::Well);
    assert!(
        spoke.outlook(now).siblings[&one.instance]
            .contradicted
            .is_some()
    );

    // It dies: nobody hears it say anything later.
    is_unheard(&mut spoke, now, 2, |second| half + seconds(second));
    assert_eq!(state_of(&spoke, 1), SiblingState::Well);
    is_unheard(&mut spoke, now + seconds(2), 2, |second| {
        half + seconds(2 + second)
    });
    assert_eq!(state_of(&spoke, 1), SiblingState::Lost);
    assert!(!spoke.only_others_hear(&one.instance));
}

#[test]
fn who_is_vouched_for_after_its_route_was_taken_and_takes_it_back_was_lost_by_mistake() {
    let start = beginning();
    let mut spoke = spoke(start);
    let one = sibling(1);
    spoke.observed(&one.instance, start, Some(report(Condition::Well)), start);
    is_unheard(&mut spoke, start, 8, |_| seconds(60));
    assert_eq!(state_of(&spoke, 1), SiblingState::Lost);
    let now = start + seconds(8);
    let decision = spoke.looked(vec![table(1, Some(1))], now);
    assert_eq!(moves(&decision), ["rtb-00000001: eni-00000000"]);
    let change = &decision.moves[0].change;
    spoke.applied(change, Some(&RouteOutcome::Done), now);
    is_unheard(&mut spoke, now, 3, |_| Duration::from_millis(100));
    let now = now + seconds(3);
    assert_eq!(state_of(&spoke, 1), SiblingState::Well);
    spoke.looked(vec![table(1, Some(1))], now);
    // It is doubted that it is lost, for 5 s longer.
    is_unheard(&mut spoke, now, 5, |_| seconds(60));
    assert_ne!(state_of(&spoke, 1), SiblingState::Lost);
    is_unheard(&mut spoke, now + seconds(5), 3, |_| seconds(60));
    assert_eq!(state_of(&spoke, 1), SiblingState::Lost);
}

#[test]
fn a_table_that_is_added_or_emptied_is_left_to_the_one_that_has_the_others() {
    let start = beginning();
    let all = [table(0, Some(0)), table(1, Some(0))];
    let less = [table(0, Some(0)), table(1, None)];
    let turn = 5 + (CALM_LOOK + STEP).as_secs();
    // It may not have seen the new table yet.
    for tables in [&[0, 1][..], &[0]] {
        let well = of_homes(tables);
        let mut stands_by = one_of_two(1, start);
        let before = lives(&mut stands_by, start, 0..=4, (0, &well), &all);
        let early = lives(&mut stands_by, start, 5..=turn - 1, (0, &well), &less);
        assert_eq!((before, early), (vec![], vec![]));
        let late = lives(&mut stands_by, start, turn..=turn, (0, &well), &less);
        assert_eq!(late, ["rtb-00000001: eni-00000001"]);
    }
    // The one that has the others makes it at once; so does the other if that one cannot,
    // or if it serves something else.
    let well = of_homes(&[0, 1]);
    let mut leads = one_of_two(0, start);
    let made = lives(&mut leads, start, 0..=0, (1, &well), &less);
    assert_eq!(made, ["rtb-00000001: eni-00000000"]);
    let unable = HealthReport {
        changes_routes: false,
        ..well
    };
    for report in [unable, of_homes(&[0, 2])] {
        let mut stands_by = one_of_two(1, start);
        let made = lives(&mut stands_by, start, 0..=0, (0, &report), &less);
        assert_eq!(made, ["rtb-00000001: eni-00000001"], "{report:?}");
    }
}

#[test]
fn of_two_with_the_same_homes_the_one_that_has_the_first_route_gathers_the_others() {
    let start = beginning();
    let apart = [table(0, Some(0)), table(1, Some(1))];
    let well = of_homes(&[0, 1]);
    let hold = HOLD.as_secs();
    let mut first = one_of_two(0, start);
    let early = lives(&mut first, start, 0..=hold - 1, (1, &well), &apart);
    assert_eq!(early, [""; 0]);
    let late = lives(&mut first, start, hold..=hold, (1, &well), &apart);
    assert_eq!(late, ["rtb-00000001: eni-00000000"]);
    // Not from one that serves something else, or of which it is not sure.
    for report in [of_homes(&[1]), of_homes(&[0, 1, 2])] {
        let mut first = one_of_two(0, start);
        let none = lives(&mut first, start, 0..=60, (1, &report), &apart);
        assert_eq!(none, [""; 0], "{report:?}");
    }
    let mut unsure = one_of_two(0, start);
    lives(&mut unsure, start, 0..=hold - 1, (1, &well), &apart);
    let now = start + seconds(hold);
    unsure.tested(Ok(()), now);
    unsure.observed(&sibling(1).instance, now, None, now);
    assert_eq!(moves(&unsure.looked(apart.to_vec(), now)), [""; 0]);
    // And the other one lets it.
    let mut second = one_of_two(1, start);
    for tables in [&apart, &[table(0, Some(0)), table(1, Some(0))]] {
        let mut second = second.clone();
        let none = lives(&mut second, start, 0..=60, (0, &well), tables);
        assert_eq!(none, [""; 0]);
    }
    // Whoever that is: where the first leads to decides, and not who was launched first.
    let turned = [table(0, Some(1)), table(1, Some(0))];
    let late = lives(&mut second, start, 0..=hold, (0, &well), &turned);
    assert_eq!(late, ["rtb-00000001: eni-00000001"]);
}
