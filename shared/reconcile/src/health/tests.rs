#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
use super::*;
use crate::fleet::fixtures::{World, id, inventory, spoke};

const STEP: Duration = Duration::from_millis(50);

/// Two gateways of one VPC, and the time.
struct Simulation {
    probes: Probes,
    start: Instant,
    now: Instant,
}

impl Simulation {
    fn new() -> Self {
        let spokes = [1, 2].map(|n| {
            let mut spoke = spoke(n, "10.1.0.0/16");
            spoke.vpc = Some("vpc-11111111".parse().unwrap());
            spoke.private_address = Some(format!("10.1.0.{n}").parse().unwrap());
            spoke
        });
        let fleet = World::default().decide(&inventory(spokes));
        let start = instant();
        let mut probes = Probes::default();
        probes.watch(&fleet, None, start);
        Self {
            probes,
            start,
            now: start,
        }
    }

    /// Lets time pass; whoever is in `answering` answers 20 ms later. Tells when
    /// each change came.
    fn run(&mut self, time: Duration, answering: &[u32]) -> Vec<(Duration, HealthChange)> {
        let mut changes = Vec::new();
        let end = self.now + time;
        while self.now < end {
            for probe in self.probes.due(self.now) {
                if answering.iter().any(|n| id(*n) == probe.tunnel) {
                    let at = self.now + Duration::from_millis(20);
                    self.probes.answered(probe.address, probe.sequence, at);
                }
            }
            self.now += STEP;
            let judged = self.probes.judge(self.now);
            changes.extend(
                judged
                    .into_iter()
                    .map(|change| (self.now - self.start, change)),
            );
        }
        changes
    }

    fn health(&self, n: u32) -> Health {
        self.probes.health()[&id(n)]
    }
}

/// Some instant: tests may read the clock once, what they compare are differences.
#[expect(
    clippy::disallowed_methods,
    reason = "an instant cannot be made otherwise"
)]
fn instant() -> Instant {
    Instant::now()
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[test]
fn ten_answers_make_a_gateway_good() {
    let mut simulation = Simulation::new();
    assert_eq!(simulation.run(seconds(8.5), &[1, 2]), []);
    let changes = simulation.run(seconds(1.5), &[1, 2]);
    assert_eq!(changes.len(), 2);
    assert_eq!(
        (simulation.health(1), simulation.health(2)),
        (Health::Up, Health::Up)
    );
}

#[test]
fn a_gateway_that_falls_silent_is_down_well_within_three_seconds() {
    // Whenever between two probes it dies.
    for step in 0..20 {
        let mut simulation = Simulation::new();
        simulation.run(seconds(15.0) + STEP * step, &[1, 2]);
        let died = simulation.now - simulation.start;
        let changes = simulation.run(seconds(3.0), &[2]);
        let [(at, change)] = &changes[..] else {
            panic!("{changes:?}")
        };
        assert_eq!((change.tunnel.clone(), change.to), (id(1), Health::Down));
        assert!(*at - died <= seconds(2.6), "after {:?}", *at - died);
    }
}

#[test]
fn lost_answers_now_and_then_do_no_harm() {
    let mut simulation = Simulation::new();
    simulation.run(seconds(15.0), &[1, 2]);
    for _ in 0..50 {
        assert_eq!(simulation.run(seconds(1.5), &[2]), []);
        assert_eq!(simulation.run(seconds(3.0), &[1, 2]), []);
    }
}

#[test]
fn a_hub_that_slept_blames_nobody_for_it() {
    let mut simulation = Simulation::new();
    simulation.run(seconds(15.0), &[1, 2]);
    simulation.now += seconds(60.0);
    assert_eq!(simulation.probes.judge(simulation.now), []);
    assert_eq!(simulation.run(seconds(10.0), &[1, 2]), []);
}

#[test]
fn a_gateway_that_flaps_waits_twice_as_long_each_time_and_never_over_five_minutes() {
    let mut simulation = Simulation::new();
    simulation.run(seconds(15.0), &[1, 2]);
    let mut waits = Vec::new();
    for _ in 0..8 {
        simulation.run(seconds(4.0), &[2]);
        assert_eq!(simulation.health(1), Health::Down);
        let back = simulation.now;
        while simulation.health(1) != Health::Up {
            simulation.run(seconds(1.0), &[1, 2]);
        }
        waits.push((simulation.now - back).as_secs());
    }
    assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
    assert!((19..=22).contains(&waits[0]), "{waits:?}");
    assert!((39..=42).contains(&waits[1]), "{waits:?}");
    assert!((299..=302).contains(&waits[7]), "{waits:?}");
    // After a long calm it is trusted as at first.
    simulation.run(seconds(700.0), &[1, 2]);
    simulation.run(seconds(4.0), &[2]);
    simulation.run(seconds(11.5), &[1, 2]);
    assert_eq!(simulation.health(1), Health::Up);
}

#[test]
fn a_gateway_that_answers_again_is_soon_better_than_none() {
    let mut simulation = Simulation::new();
    simulation.run(seconds(15.0), &[1, 2]);
    simulation.run(seconds(4.0), &[]);
    // However often it failed: what it lost is the preference.
    for _ in 0..5 {
        simulation.run(seconds(1.9), &[1]);
        assert_eq!(simulation.health(1), Health::Down);
        simulation.run(seconds(2.0), &[1]);
        assert_eq!(simulation.health(1), Health::Recovering);
        assert_eq!(simulation.health(2), Health::Down);
        simulation.run(seconds(4.0), &[]);
        assert_eq!(simulation.health(1), Health::Down);
    }
}

#[test]
fn a_gateway_that_flaps_is_never_said_to_be_unknown_or_up() {
    let mut simulation = Simulation::new();
    assert_eq!(simulation.health(1), Health::Untried);
    simulation.run(seconds(15.0), &[1, 2]);
    simulation.run(seconds(4.0), &[2]);
    let mut changes = Vec::new();
    for _ in 0..10 {
        changes.extend(simulation.run(seconds(5.0), &[1, 2]));
        changes.extend(simulation.run(seconds(4.0), &[2]));
    }
    assert_eq!(changes.len(), 20, "{changes:?}");
    for (_, change) in changes {
        assert!(change.from.has_failed() && change.to.has_failed());
    }
}

#[test]
fn an_answer_to_no_probe_counts_for_nothing() {
    let mut simulation = Simulation::new();
    simulation.run(seconds(15.0), &[1, 2]);
    let address = "10.1.0.1".parse().unwrap();
    for step in 0..60 {
        simulation
            .probes
            .answered(address, 40_000 + step, simulation.now);
        simulation.run(STEP, &[2]);
    }
    assert_eq!(simulation.health(1), Health::Down);
}

#[test]
fn where_there_is_one_gateway_nobody_is_probed() {
    let mut alone = spoke(1, "10.1.0.0/16");
    alone.private_address = Some("10.1.0.1".parse().unwrap());
    let mut probes = Probes::default();
    let fleet = World::default().decide(&inventory([alone]));
    probes.watch(&fleet, None, instant());
    assert_eq!((probes.next(), probes.health().len()), (None, 0));
}
