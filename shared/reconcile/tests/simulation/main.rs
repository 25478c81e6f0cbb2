//! Thousands of random histories of a fleet, and after each step of each the invariants
//! of the design, checked against what is true.
//!
//! `truth` is the world: instances with their keys, tags and links, and EC2, which
//! describes them, sometimes wrongly. `hub` is what the main loop does with this
//! crate, no more. `event` is what may happen, `check` what must hold. A history is a
//! list of events, each of which means something in any state, so proptest can shorten
//! the list that fails to the few events that matter; such a list is kept in `found`.
//!
//! The histories are the same in each run. `PRIVNET_SIMULATION_HISTORIES=100000` runs
//! more, `PRIVNET_SIMULATION_SEED=7` others.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

mod check;
mod event;
mod found;
mod hub;
mod truth;
mod world;

use event::{Event, event};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use world::World;

const HISTORIES: u32 = 1_000;
const LONGEST: usize = 60;

/// Lives through a history; the error names the event and what does not hold after it.
fn live(events: &[Event]) -> Result<(), String> {
    let mut world = World::new();
    for (number, event) in events.iter().enumerate() {
        let told = |problem| format!("after event {number}, {event:?}: {problem}");
        world.live(event).map_err(told)?;
    }
    world.calm_down()
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
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let histories = proptest::collection::vec(event(), 1..LONGEST);
    let result = runner.run(&histories, |events| {
        live(&events).map_err(TestCaseError::fail)
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
    let mut reached = world::Reached::default();
    for _ in 0..300 {
        let histories = proptest::collection::vec(event(), LONGEST);
        let tree = histories.new_tree(&mut runner).unwrap();
        let mut world = World::new();
        for event in tree.current() {
            if let Err(problem) = world.live(&event) {
                panic!("{event:?}: {problem}");
            }
        }
        reached.add(&world.reached);
    }
    reached.assert_all();
}
