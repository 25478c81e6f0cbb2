//! The faults that a person would try, with the bounds that the README states.

use std::time::Duration;

use privnet_reconcile::takeover::STEP;

use crate::check::OUTAGE;
use crate::event::{Ec2, Event};
use crate::world::{self, DESTINATIONS, Leads, PRIVNET, World};
use crate::{calm_world, calm_world_with_phases};

/// What EC2 takes for a look or a change at most, as the tests in namespaces count it.
const EC2_TAKES: Duration = Duration::from_millis(300);
/// The daemon's self-test knows of a fault after 2.5 s at most; the one here after 2 s.
const SELF_TEST_TAKES_LONGER: Duration = Duration::from_millis(500);

fn seconds(seconds: u16) -> Event {
    Event::Wait {
        tenths: seconds * 10,
    }
}

fn live(world: &mut World, events: &[Event]) {
    for event in events {
        if let Err(problem) = world.live(event) {
            panic!("{event:?}: {problem}");
        }
    }
}

/// Whom the table of a zone leads to.
fn holder(world: &World, zone: u8) -> u32 {
    match world.routes.get(&(zone, 0)) {
        Some(Leads::Spoke(number)) => *number,
        other => panic!("{other:?}"),
    }
}

fn changes(world: &World, before: usize) -> usize {
    world.check.total - before
}

#[test]
fn whoever_is_lost_or_sick_is_stood_in_for_within_five_seconds_and_comes_back() {
    let cases: [(Event, Event); 3] = [
        (Event::Kill(0), Event::Start(0)),
        (Event::Hang(0), Event::Resume(0)),
        (Event::Sicken(0), Event::Heal(0)),
    ];
    for (fault, end) in cases {
        // At each moment of the second between two questions.
        for phase in 0..20 {
            let mut world = calm_world(3);
            world.pass(Duration::from_millis(50) * phase).unwrap();
            let before = world.check.total;
            live(&mut world, &[fault.clone(), seconds(6)]);
            assert_ne!(holder(&world, 0), 1, "{fault:?}");
            live(&mut world, &[seconds(30), end.clone(), seconds(9)]);
            assert_ne!(holder(&world, 0), 1, "{end:?}: too early");
            live(&mut world, &[seconds(8)]);
            assert_eq!(holder(&world, 0), 1, "{end:?}");
            // Two destinations, there and back.
            assert_eq!(changes(&world, before), 4, "{fault:?} {phase}");
            assert_eq!(world.check.races, 0, "{fault:?} {phase}: two moved it");
            assert!(world.check.longest <= OUTAGE);
        }
    }
}

/// From now on, until none of the routes of the first table leads to the first spoke.
fn until_stood_in_for(world: &mut World) -> Duration {
    let since = world.now;
    let there =
        |world: &World| (0..DESTINATIONS.len()).any(|n| world.routes[&(0, n)] == Leads::Spoke(1));
    while there(world) {
        world.pass(world::STEP).unwrap();
        assert!(world.now - since < OUTAGE * 2);
    }
    world.now - since
}

/// From the fault itself until the last route has moved, at each moment of the second
/// between two questions, however the spokes' own seconds lie to each other.
#[test]
fn the_worst_moment_leaves_time_to_ec2() {
    // A look, and a change for each destination.
    let ec2 = EC2_TAKES * 3;
    for (fault, slower) in [
        (Event::Kill(0), Duration::ZERO),
        (Event::Hang(0), Duration::ZERO),
        (Event::Sicken(0), SELF_TEST_TAKES_LONGER),
    ] {
        let (mut worst, mut worst_with_ec2) = (Duration::ZERO, Duration::ZERO);
        for apart in (0..1000).step_by(50).map(Duration::from_millis) {
            for phase in 0..20 {
                for (takes, worst) in [
                    (Duration::ZERO, &mut worst),
                    (EC2_TAKES, &mut worst_with_ec2),
                ] {
                    let mut world = calm_world_with_phases(3, apart);
                    world.ec2_takes = Some(takes);
                    world.pass(Duration::from_millis(50) * phase).unwrap();
                    live(&mut world, std::slice::from_ref(&fault));
                    *worst = until_stood_in_for(&mut world).max(*worst);
                    assert_eq!(world.check.races, 0, "{fault:?} {apart:?} {phase}");
                }
            }
        }
        println!("{fault:?}: {worst:?} at worst, {worst_with_ec2:?} with EC2");
        assert!(worst + slower <= OUTAGE - ec2, "{fault:?}: {worst:?}");
        assert!(worst_with_ec2 + slower <= OUTAGE, "{worst_with_ec2:?}");
    }
}

/// The first in the order loses EC2 at that moment. If its looks fail or do not end, which
/// begin when an answer is missing, it says so before its turn comes; if only its changes
/// fail, it has its turn in vain.
#[test]
fn the_worst_moment_when_ec2_fails_the_first_helper_alone() {
    let cases = [
        (Ec2::Down, OUTAGE),
        (Ec2::Hanging, OUTAGE),
        (Ec2::ReadOnly, OUTAGE + STEP),
    ];
    for (ec2, most) in cases {
        let mut worst = Duration::ZERO;
        for apart in (0..1000).step_by(50).map(Duration::from_millis) {
            for phase in 0..20 {
                let mut world = calm_world_with_phases(3, apart);
                world.ec2_takes = Some(EC2_TAKES);
                world.pass(Duration::from_millis(50) * phase).unwrap();
                live(&mut world, &[Event::Ec2(1, ec2), Event::Kill(0)]);
                worst = until_stood_in_for(&mut world).max(worst);
                assert_eq!(holder(&world, 0), 3);
            }
        }
        println!("{ec2:?}: {worst:?} at worst");
        assert!(worst <= most, "{ec2:?}: {worst:?}");
    }
}

/// Whom the route to the privnet leads to.
fn holder_of_privnet(world: &World) -> &Leads {
    &world.routes[&(0, PRIVNET)]
}

#[test]
fn who_has_lost_its_tunnel_leaves_the_privnet_to_another_and_keeps_the_internet() {
    for phase in 0..20 {
        let mut world = calm_world(3);
        world.pass(Duration::from_millis(50) * phase).unwrap();
        let before = world.check.total;
        live(&mut world, &[Event::Unlink(0), seconds(5)]);
        assert_eq!(holder_of_privnet(&world), &Leads::Spoke(2), "{phase}");
        live(&mut world, &[seconds(60), Event::Link(0), seconds(9)]);
        assert_eq!(holder_of_privnet(&world), &Leads::Spoke(2), "too early");
        assert_eq!(changes(&world, before), 1, "the privnet alone");
        assert_eq!(holder(&world, 0), 1);
        live(&mut world, &[seconds(8)]);
        assert_eq!(holder_of_privnet(&world), &Leads::Spoke(1), "{phase}");
        assert_eq!(changes(&world, before), 2, "{phase}");
        assert_eq!(world.check.races, 0, "{phase}: two moved it");
    }
}

/// Each spoke takes its tunnel for down some time after nothing came out of it any more.
#[test]
fn a_hub_that_is_away_moves_nothing_in_whatever_order_it_is_missed() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut world = calm_world(3);
        let before = world.check.total;
        live(
            &mut world,
            &[Event::Mute(0), Event::Mute(1), Event::Mute(2)],
        );
        for n in order {
            live(&mut world, &[seconds(40), Event::Unlink(n)]);
        }
        live(&mut world, &[seconds(60)]);
        for n in order {
            live(&mut world, &[Event::Link(n), seconds(2)]);
        }
        live(&mut world, &[seconds(60)]);
        assert_eq!(changes(&world, before), 0, "{order:?}");
    }
}

/// Two whose tunnels are down, of which one dies: somebody still is to have its routes.
#[test]
fn without_any_tunnel_routes_are_taken_as_ever() {
    let mut world = calm_world(2);
    let all = [Event::Unlink(0), Event::Unlink(1), seconds(20)];
    live(&mut world, &all);
    live(&mut world, &[Event::Kill(0), seconds(6)]);
    assert_eq!(holder_of_privnet(&world), &Leads::Spoke(2));
    live(&mut world, &[Event::Start(0), seconds(30)]);
    // It would be no better for it.
    assert_eq!(holder_of_privnet(&world), &Leads::Spoke(2));
    assert_eq!(holder(&world, 0), 1);
    live(&mut world, &[Event::Link(0), seconds(15)]);
    assert_eq!(holder_of_privnet(&world), &Leads::Spoke(1), "its own");
}

/// Looks that take a second are none that may never end: who is first is counted on.
#[test]
fn an_ec2_that_is_slow_for_all_makes_no_two_move_a_route() {
    for takes in [500, 1000] {
        for apart in (0..1000).step_by(50).map(Duration::from_millis) {
            for phase in 0..20 {
                let mut world = calm_world_with_phases(3, apart);
                world.ec2_takes = Some(Duration::from_millis(takes));
                for n in 0..3 {
                    world.check.ec2(n, Ec2::Slow, world.now);
                }
                world.pass(Duration::from_millis(50) * phase).unwrap();
                live(&mut world, &[Event::Kill(0), seconds(10)]);
                assert_eq!(world.check.races, 0, "{takes} ms, {apart:?} {phase}");
                assert_ne!(holder(&world, 0), 1);
            }
        }
    }
}

/// Answers that take nearly as long as is waited for them.
#[test]
fn a_slow_network_is_no_loss() {
    for millis in [400, 600, 950] {
        let mut world = calm_world(3);
        let before = world.check.total;
        world.round_trip = Duration::from_millis(millis);
        live(&mut world, &[seconds(300)]);
        assert_eq!(changes(&world, before), 0, "{millis} ms");
    }
}

/// Nobody hears anybody, for somewhat less than makes a loss.
#[test]
fn a_silence_of_two_seconds_is_no_loss() {
    for phase in 0..20 {
        let mut world = calm_world(3);
        world.pass(Duration::from_millis(50) * phase).unwrap();
        let before = world.check.total;
        let silent = Event::Wait { tenths: 20 };
        let events = [Event::Split(0), silent, Event::Join(0), seconds(30)];
        live(&mut world, &events);
        assert_eq!(changes(&world, before), 0, "{phase}");
    }
}

#[test]
fn who_is_started_anew_at_once_keeps_its_routes() {
    for phase in 0..20 {
        let mut world = calm_world(3);
        world.pass(Duration::from_millis(50) * phase).unwrap();
        let before = world.check.total;
        let down = Event::Wait { tenths: 15 };
        live(
            &mut world,
            &[Event::Kill(0), down, Event::Start(0), seconds(60)],
        );
        assert_eq!(changes(&world, before), 0, "{phase}");
    }
}

#[test]
fn who_is_started_anew_and_is_not_well_again_is_stood_in_for() {
    for phase in 0..20 {
        let mut world = calm_world(3);
        world.pass(Duration::from_millis(50) * phase).unwrap();
        let down = Event::Wait { tenths: 15 };
        let events = [Event::Sicken(0), Event::Kill(0), down, Event::Start(0)];
        live(&mut world, &events);
        live(&mut world, &[seconds(5)]);
        assert_ne!(holder(&world, 0), 1, "{phase}");
        assert!(world.check.longest <= OUTAGE);
    }
}

#[test]
fn a_planned_stop_hands_over_before_it_ends() {
    let mut world = calm_world(3);
    let before = world.check.total;
    live(&mut world, &[Event::Stop(0), seconds(3)]);
    assert!(!world.spokes[0].up, "it waits for nothing");
    assert_ne!(holder(&world, 0), 1);
    live(&mut world, &[seconds(40)]);
    assert_eq!(holder(&world, 0), 1);
    assert_eq!(changes(&world, before), 4);
    assert_eq!(
        world.check.longest,
        Duration::ZERO,
        "no route led to it when it ended"
    );
}

/// The second got routes from the first that it has not seen at any look.
#[test]
fn who_stops_soon_after_another_hands_over_what_it_just_got() {
    for tenths in 20..60 {
        let mut world = calm_world(3);
        let events = [Event::Stop(1), Event::Wait { tenths }, Event::Stop(0)];
        live(&mut world, &events);
        live(&mut world, &[seconds(3)]);
        assert_eq!(holder(&world, 0), 3, "{tenths}");
        assert_eq!(holder(&world, 1), 3, "{tenths}");
        assert_eq!(world.check.longest, Duration::ZERO, "{tenths}");
    }
}

#[test]
fn flapping_every_ten_seconds_for_five_minutes_moves_little() {
    for (fault, end) in [
        (Event::Kill(0), Event::Start(0)),
        (Event::Hang(0), Event::Resume(0)),
        (Event::Sicken(0), Event::Heal(0)),
        (Event::Split(0), Event::Join(0)),
    ] {
        for up in [10, 14] {
            let mut world = calm_world(3);
            let before = world.check.total;
            for _ in 0..15 {
                live(
                    &mut world,
                    &[fault.clone(), seconds(10), end.clone(), seconds(up)],
                );
            }
            let moved = changes(&world, before);
            assert!(moved >= 2, "{fault:?}");
            assert!(moved <= 32, "{fault:?} {up}: {moved} changes of two routes");
            world.calm_down().unwrap();
            assert_eq!(holder(&world, 0), 1);
        }
    }
}

/// Two that do not hear each other are both heard by a third.
#[test]
fn a_split_that_a_third_sees_past_moves_nothing_and_whoever_dies_in_it_is_stood_in_for() {
    for spokes in [3, 4] {
        for phase in 0..10 {
            for dies in [0, 2] {
                let mut world = calm_world_with_phases(spokes, Duration::from_millis(170));
                world.pass(Duration::from_millis(100) * phase).unwrap();
                let before = world.check.total;
                live(&mut world, &[Event::Cut(0, 1), seconds(600)]);
                assert_eq!(changes(&world, before), 0, "{spokes}, {phase}");
                let begun = world.now;
                live(&mut world, &[Event::Kill(dies)]);
                let dead = u32::from(dies) + 1;
                while world.routes.values().any(|led| *led == Leads::Spoke(dead)) {
                    world.pass(world::STEP).unwrap();
                    assert!(world.now - begun <= OUTAGE, "{spokes}, {phase}, {dies}");
                }
                world.calm_down().unwrap();
            }
        }
    }
}

/// Both are well, and each thinks that the other is lost.
#[test]
fn a_split_between_two_settles_at_home() {
    for cuts in [
        &[Event::Cut(0, 1), Event::Cut(1, 0)][..],
        &[Event::Cut(0, 1)],
        &[Event::Cut(1, 0)],
    ] {
        let mut world = calm_world(2);
        live(&mut world, cuts);
        let mut each_minute = Vec::new();
        let mut at_home = 0;
        for minute in 0..30 {
            let before = world.check.total;
            for _ in 0..60 {
                live(&mut world, &[seconds(1)]);
                let home = holder(&world, 0) == 1 && holder(&world, 1) == 2;
                at_home += u32::from(minute >= 10 && home);
            }
            each_minute.push(changes(&world, before));
        }
        // Four routes; the first minute is the worst.
        assert!(
            each_minute.iter().all(|count| *count <= 32),
            "{each_minute:?}"
        );
        let late: usize = each_minute[10..].iter().sum();
        assert!(late <= 24, "{each_minute:?}");
        assert!(
            at_home >= 1100,
            "{at_home} of 1200 s at home, {each_minute:?}"
        );
        world.calm_down().unwrap();
    }
}

/// Who is heard again for long is doubted no more.
#[test]
fn some_minutes_after_a_split_whoever_dies_is_stood_in_for_as_ever() {
    for phase in 0..10 {
        let mut world = calm_world(2);
        live(&mut world, &[Event::Split(0), seconds(30), Event::Join(0)]);
        assert!(world.check.total > 4, "they took each other for lost");
        live(&mut world, &[seconds(300)]);
        world.pass(Duration::from_millis(100) * phase).unwrap();
        let begun = world.now;
        live(&mut world, &[Event::Kill(0)]);
        while holder(&world, 0) == 1 {
            world.pass(world::STEP).unwrap();
            assert!(world.now - begun <= OUTAGE, "{phase}");
        }
    }
}

#[test]
fn two_lost_at_once_are_stood_in_for_by_the_third() {
    let mut world = calm_world(3);
    live(&mut world, &[Event::Kill(0), Event::Kill(1), seconds(7)]);
    assert_eq!((holder(&world, 0), holder(&world, 1)), (3, 3));
}

#[test]
fn with_nobody_well_everything_stays_where_it_is() {
    let mut world = calm_world(3);
    let before = world.check.total;
    let all_sick = [Event::Sicken(0), Event::Sicken(1), Event::Sicken(2)];
    live(&mut world, &all_sick);
    live(&mut world, &[seconds(60)]);
    assert_eq!(changes(&world, before), 0);
    assert_eq!(holder(&world, 0), 1);
}

#[test]
fn who_cannot_reach_ec2_is_stepped_in_for() {
    for (ec2, at) in [(Ec2::Down, 0), (Ec2::Down, 20), (Ec2::Flaky, 0)] {
        let mut world = calm_world(3);
        live(
            &mut world,
            &[Event::Ec2(1, ec2), seconds(at), Event::Kill(0), seconds(6)],
        );
        assert_ne!(holder(&world, 0), 1, "{ec2:?} {at}");
    }
}

#[test]
fn a_stranger_s_route_stays_and_a_deleted_one_is_made_again() {
    let mut world = calm_world(2);
    live(
        &mut world,
        &[Event::Steal(0), Event::Delete(1), seconds(40)],
    );
    assert_eq!(world.routes[&(0, 0)], Leads::NatGateway);
    assert_eq!(holder(&world, 1), 2);
}

/// The fourth spoke has the same home as the first.
#[test]
fn the_routes_of_two_with_the_same_home_stay_with_one_of_them() {
    let leads = |world: &World| [0, 1].map(|destination| world.routes[&(0, destination)].clone());
    for (first, second) in [(1, 4), (4, 1)] {
        for phase in 0..20 {
            let mut world = calm_world(4);
            world.pass(Duration::from_millis(50) * phase).unwrap();
            let (before, races) = (world.check.total, world.check.races);
            let apart = [(0, first), (1, second)];
            let apart = apart.map(|(destination, to)| ((0, destination), Leads::Spoke(to)));
            world.routes.extend(apart);
            // A calm look, the hold, and a look in time.
            live(&mut world, &[seconds(50)]);
            let one = || Leads::Spoke(first);
            assert_eq!(leads(&world), [one(), one()], "{phase}");
            assert_eq!(changes(&world, before), 1, "{phase}");
            // One that is deleted is made by the same.
            let deleted = Event::Delete(18);
            live(&mut world, &[deleted, seconds(40)]);
            assert_eq!(leads(&world), [one(), one()], "{phase}");
            assert_eq!(changes(&world, before), 2, "{phase}");
            assert_eq!(world.check.races, races, "{phase}");
        }
    }
}

#[test]
fn who_is_back_from_a_fault_of_its_own_network_takes_nothing_from_those_it_did_not_hear() {
    for phase in 0..20 {
        let mut world = calm_world(3);
        world.pass(Duration::from_millis(50) * phase).unwrap();
        live(
            &mut world,
            &[Event::Sicken(1), Event::Split(1), seconds(20)],
        );
        assert_ne!(holder(&world, 1), 2, "{phase}");
        // Its siblings hear it, and it them, a moment after its egress is back.
        live(&mut world, &[Event::Heal(1), seconds(1), Event::Join(1)]);
        for _ in 0..30 {
            live(&mut world, &[seconds(1)]);
            assert_eq!((holder(&world, 0), holder(&world, 2)), (1, 3), "{phase}");
        }
        assert_eq!(holder(&world, 1), 2, "{phase}");
    }
}

#[test]
fn who_is_led_to_as_it_dies_is_stood_in_for_as_any_other() {
    // Another stops and hands over to one that is terminated in that moment; the third has
    // never heard who hands over.
    let waits = |tenths| Event::Wait { tenths };
    let mut world = calm_world(3);
    let history = [
        Event::Kill(1),
        Event::Cut(2, 0),
        Event::Kill(2),
        Event::Replace(0),
        waits(131),
        Event::Replace(0),
        waits(188),
        Event::Start(1),
        waits(69),
        Event::Delete(127),
        Event::Start(2),
        waits(186),
        waits(106),
        Event::Delete(33),
        Event::Stop(20),
        Event::Replace(1),
        waits(51),
    ];
    live(&mut world, &history);
}

#[test]
fn who_stays_lost_is_reported_once_by_the_one_that_stands_in_for_it() {
    for fault in [Event::Kill(0), Event::Hang(0)] {
        let mut world = calm_world(4);
        live(&mut world, &[seconds(60), fault.clone(), seconds(20)]);
        assert!(world.check.reported.is_empty(), "{fault:?}: too early");
        live(&mut world, &[seconds(600)]);
        let by = holder(&world, 0);
        assert_eq!(world.check.reported, [(1, by)].into(), "{fault:?}");
    }
}

#[test]
fn who_is_sick_or_only_not_heard_is_reported_by_nobody() {
    let one_way = |from, to| vec![Event::Cut(from, to)];
    let cases = [
        vec![Event::Sicken(0)],
        vec![Event::Split(0)],
        vec![Event::Cut(0, 1), Event::Cut(1, 0)],
        one_way(0, 1),
        one_way(1, 0),
        vec![Event::Stop(0)],
        vec![
            Event::Ec2(1, Ec2::Down),
            Event::Ec2(2, Ec2::Down),
            Event::Kill(0),
        ],
    ];
    for spokes in [2, 3] {
        for events in &cases {
            let mut world = calm_world(spokes);
            live(&mut world, &[seconds(60)]);
            live(&mut world, events);
            for _ in 0..5 {
                live(&mut world, &[seconds(60)]);
            }
            assert!(world.check.reported.is_empty(), "{spokes}: {events:?}");
        }
    }
}
