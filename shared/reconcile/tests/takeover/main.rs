//! Random histories of a VPC with 2 to 4 spokes, each with the state machine of
//! `takeover`, and after each step of each what must hold, checked against what is true.
//!
//! `world` has the network and EC2, whose answers are late, or fail; `spoke` is what a
//! daemon does around the state machine; `event` is what may happen; `check` what must
//! hold; `cases` are the faults that a person would try, with their figures.
//!
//! The histories are the same in each run. `PRIVNET_SIMULATION_HISTORIES=10000` runs
//! more, `PRIVNET_SIMULATION_SEED=7` others.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
#![expect(clippy::print_stdout, reason = "figures, for who wants to see them")]

mod cases;
mod check;
mod event;
mod spoke;
mod world;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use event::{Event, event};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use world::World;

const HISTORIES: u32 = 200;
const LONGEST: usize = 40;

#[expect(clippy::disallowed_methods, reason = "somewhere time must start")]
fn beginning() -> Instant {
    // Clear of the beginning of time: what lies before it cannot be said.
    Instant::now() + Duration::from_secs(86_400)
}

/// A VPC in which everything has been well for a while.
fn calm_world(spokes: u8) -> World {
    calm_world_with_phases(spokes, Duration::from_millis(170))
}

/// The same; the spokes do what they do so far apart within each second.
fn calm_world_with_phases(spokes: u8, apart: Duration) -> World {
    let mut world = World::new(spokes, apart, beginning());
    world.pass(Duration::from_secs(20)).unwrap();
    world
}

/// Lives through a history; the error names the event and what does not hold after it.
fn live(spokes: u8, events: &[Event]) -> Result<World, String> {
    let mut world = calm_world(spokes);
    for (number, event) in events.iter().enumerate() {
        let told = |problem| format!("after event {number}, {event:?}: {problem}");
        world.live(event).map_err(told)?;
    }
    world.calm_down()?;
    Ok(world)
}

fn from_environment(name: &str, default: u32) -> u32 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => default,
    }
}

#[test]
fn no_history_breaks_an_invariant() {
    let seed = from_environment("PRIVNET_SIMULATION_SEED", 1);
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&seed.to_be_bytes());
    let config = Config {
        cases: from_environment("PRIVNET_SIMULATION_HISTORIES", HISTORIES),
        failure_persistence: None,
        max_shrink_iters: 500,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let histories = (2_u8..=4, proptest::collection::vec(event(), 1..LONGEST));
    let result = runner.run(&histories, |(spokes, events)| {
        live(spokes, &events).map(drop).map_err(TestCaseError::fail)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// A history in which nothing happens would prove nothing: what the histories reach
/// must include everything that the rules are about.
#[test]
fn the_histories_reach_what_they_are_to_try() {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[3; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut reached = BTreeSet::new();
    for spokes in [2, 3, 4, 4].into_iter().cycle().take(160) {
        let histories = proptest::collection::vec(event(), LONGEST);
        let tree = histories.new_tree(&mut runner).unwrap();
        let mut world = calm_world(spokes);
        for event in tree.current() {
            if let Err(problem) = world.live(&event) {
                panic!("{event:?}: {problem}");
            }
        }
        reached.extend(world.reached);
    }
    let all = [
        "a leaving sibling",
        "a lost sibling",
        "a missing route",
        "a planned stop",
        "a remedy",
        "a sibling that starts for too long",
        "a sibling without a tunnel",
        "a sick sibling",
        "a table given back",
        "a table handed over",
    ];
    assert_eq!(reached, BTreeSet::from(all));
}
