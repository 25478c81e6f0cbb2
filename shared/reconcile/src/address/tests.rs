//! Spokes with one machine each, before an EC2 that moves addresses as the real one
//! does: single decisions, and random histories with what must hold after each step.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
use proptest::prelude::*;

use super::*;

const STRANGER: usize = 99;

fn instance(n: usize) -> InstanceId {
    format!("i-{n:08x}").parse().unwrap()
}

fn interface(n: usize) -> InterfaceId {
    format!("eni-{n:08x}").parse().unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn one() -> AddressConfig {
    AddressConfig::Allocation("eipalloc-00000000".parse().unwrap())
}

fn pool() -> AddressConfig {
    AddressConfig::Pool([("pool".to_owned(), "nat".to_owned())].into())
}

#[derive(Debug, Clone)]
struct Truth {
    well: bool,
    runs: bool,
    leaving: Option<Instant>,
    /// Since when it cannot be relied on.
    bad: Option<Instant>,
}

struct Spoke {
    machine: Address,
    /// Where it saw the first route lead, and when.
    first: Option<usize>,
    seen: Option<Instant>,
    pending: Option<AddressMove>,
    moved: usize,
}

struct World {
    now: Instant,
    start: Instant,
    truth: Vec<Truth>,
    spokes: Vec<Spoke>,
    first: Option<usize>,
    /// Who has each.
    addresses: Vec<Option<usize>>,
    /// How often each has moved: the association's number.
    moves: Vec<u32>,
    reached: Vec<&'static str>,
}

#[expect(clippy::disallowed_methods, reason = "somewhere time must start")]
fn beginning() -> Instant {
    Instant::now() + seconds(86_400)
}

impl World {
    fn new(spokes: usize, addresses: usize, config: &AddressConfig) -> Self {
        let now = beginning();
        let truth = Truth {
            well: true,
            runs: true,
            leaving: None,
            bad: None,
        };
        let spoke = || Spoke {
            machine: Address::new(config.clone()),
            first: None,
            seen: None,
            pending: None,
            moved: 0,
        };
        Self {
            now,
            start: now,
            truth: vec![truth; spokes],
            spokes: (0..spokes).map(|_| spoke()).collect(),
            first: Some(0),
            addresses: vec![None; addresses],
            moves: vec![0; addresses],
            reached: Vec::new(),
        }
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap() + (self.now - self.start)
    }

    fn described(&self) -> Vec<ElasticAddress> {
        let each = self.addresses.iter().enumerate();
        let each = each.map(|(n, holder)| ElasticAddress {
            allocation: format!("eipalloc-{n:08x}").parse().unwrap(),
            address: IpAddr::from([198, 51, 100, n as u8]),
            tags: BTreeMap::new(),
            holder: holder.map(|at| AddressHolder {
                association: format!("eipassoc-{:08x}", self.moves[n]).parse().unwrap(),
                instance: Some(instance(at)),
                interface: Some(interface(at)),
                private_address: None,
            }),
        });
        each.collect()
    }

    fn around(&self, n: usize) -> Around {
        let others = (0..self.truth.len()).filter(|other| *other != n);
        let others = others.map(|other| {
            let truth = &self.truth[other];
            let state = match truth.bad {
                Some(since) => OtherState::Bad {
                    since,
                    leaving: truth.runs && truth.leaving.is_some(),
                    state: SiblingState::Lost,
                },
                None => OtherState::Well,
            };
            let instance = instance(other);
            (interface(other), Other { instance, state })
        });
        let (me, truth) = (&self.spokes[n], &self.truth[n]);
        Around {
            instance: instance(n),
            interface: interface(n),
            may_take: truth.well && truth.leaving.is_none(),
            leaving: truth.leaving,
            first: me.first.map(instance),
            recent: me.seen.is_some_and(|at| self.now - at <= seconds(3)),
            moving: false,
            spokes: others.collect(),
        }
    }

    fn judge(&mut self) {
        let now = self.now;
        for truth in &mut self.truth {
            let good = truth.runs && truth.well && truth.leaving.is_none();
            truth.bad = (!good).then(|| truth.bad.unwrap_or(now));
        }
    }

    fn sees_routes(&mut self, n: usize) {
        self.spokes[n].first = self.first;
        self.spokes[n].seen = Some(self.now);
    }

    /// A beat of a spoke: what it decides to move waits for its turn.
    fn looks(&mut self, n: usize) -> Result<(), TestCaseError> {
        if !self.truth[n].runs || self.spokes[n].pending.is_some() {
            return Ok(());
        }
        let (now, wall, around) = (self.now, self.wall(), self.around(n));
        let needs = self.spokes[n].machine.tick(&around, now);
        if needs.routes {
            self.sees_routes(n);
        }
        if !needs.look {
            return Ok(());
        }
        let seen = self.described();
        let decided = self.spokes[n].machine.looked(seen, &around, now, wall);
        if let Some(decided) = &decided {
            self.may_decide(n, decided)?;
        }
        self.spokes[n].pending = decided;
        Ok(())
    }

    /// Nobody takes what a spoke that is well has, or a stranger; nor anything while it
    /// is not well itself.
    fn may_decide(&self, n: usize, decided: &AddressMove) -> Result<(), TestCaseError> {
        let holder = decided.from.as_ref();
        let holder = holder.map(|from| from.interface.clone().unwrap());
        if decided.to != interface(n) {
            prop_assert_eq!(holder, Some(interface(n)), "it gives what it has");
            return Ok(());
        }
        prop_assert!(self.truth[n].well && self.truth[n].leaving.is_none());
        let Some(holder) = holder else { return Ok(()) };
        let at = (0..self.truth.len()).find(|other| interface(*other) == holder);
        let at = at.map(|at| &self.truth[at]);
        prop_assert!(at.is_some_and(|at| at.bad.is_some()), "{:?}", decided);
        Ok(())
    }

    /// What EC2 makes of it, as `privnet_ec2::vpc::address` asks.
    fn applies(&mut self, n: usize) {
        let Some(decided) = self.spokes[n].pending.take() else {
            return;
        };
        let seen = self.described();
        let mut found = seen.iter();
        let at = found.position(|one| one.allocation == decided.allocation);
        let at = at.unwrap();
        let to = (0..STRANGER)
            .find(|to| interface(*to) == decided.to)
            .unwrap();
        let association = |holder: &AddressHolder| holder.association.clone();
        let expected = decided.from.as_ref().map(association);
        let now = seen[at].holder.clone();
        let free = now.is_none() || now.as_ref().map(association) == expected;
        let outcome = match free {
            true => {
                self.addresses[at] = Some(to);
                self.moves[at] += 1;
                self.spokes[n].moved += 1;
                self.reached.push(match decided.why {
                    AddressReason::Free => "free",
                    AddressReason::Takeover { .. } => "takeover",
                    AddressReason::GoesAlong { .. } => "goes along",
                });
                AddressOutcome::Done
            }
            false => AddressOutcome::Conflict { now },
        };
        let (now, wall) = (self.now, self.wall());
        self.spokes[n].machine.applied(Some(&outcome), now, wall);
    }

    /// A second in which everybody does everything.
    fn second(&mut self) -> Result<(), TestCaseError> {
        self.now += seconds(1);
        self.judge();
        for n in 0..self.spokes.len() {
            if self.truth[n].runs {
                self.sees_routes(n);
                self.looks(n)?;
                self.applies(n);
            }
        }
        Ok(())
    }

    fn pass(&mut self, seconds: usize) {
        for _ in 0..seconds {
            self.second().unwrap();
        }
    }
}

#[test]
fn one_address_goes_along_with_the_routes_and_comes_home() {
    let mut world = World::new(3, 1, &one());
    world.pass(2);
    assert_eq!(world.addresses, [Some(0)]);
    assert_eq!(
        world.spokes[0].machine.held().unwrap().since,
        world.wall() - seconds(1)
    );
    // As long as the routes are at who is lost, it stays there.
    world.truth[0].runs = false;
    world.pass(5);
    assert_eq!(world.addresses, [Some(0)]);
    world.first = Some(2);
    world.pass(6);
    assert_eq!(world.addresses, [Some(2)]);
    // Who is well again does not take it, and is given it when it has its routes back.
    world.truth[0].runs = true;
    world.pass(40);
    assert_eq!(world.addresses, [Some(2)]);
    world.first = Some(0);
    world.pass(40);
    assert_eq!(world.addresses, [Some(0)]);
    assert_eq!(world.reached, ["free", "takeover", "goes along"]);
    assert_eq!(world.spokes[2].machine.moved(), 2);
}

#[test]
fn who_stops_gives_it_away_after_its_routes() {
    let mut world = World::new(2, 1, &one());
    world.pass(2);
    world.now += seconds(1);
    world.truth[0].leaving = Some(world.now);
    let around = world.around(0);
    assert!(
        !world.spokes[0].machine.has_left(&around, world.now),
        "it has not looked"
    );
    world.first = Some(1);
    world.second().unwrap();
    assert_eq!(world.addresses, [Some(1)]);
    world.second().unwrap();
    let around = world.around(0);
    assert!(world.spokes[0].machine.has_left(&around, world.now));
    assert_eq!(world.reached, ["free", "goes along"]);
}

#[test]
fn of_a_pool_each_takes_one_and_who_comes_too_late_is_told() {
    let mut world = World::new(3, 2, &pool());
    world.pass(2);
    assert_eq!(world.addresses, [Some(0), Some(1)]);
    let problem = |world: &World| world.spokes[2].machine.problem(&world.around(2));
    assert_eq!(
        problem(&world).unwrap(),
        "all 2 Elastic IPs of the pool pool=nat are in use: allocate another with its tags"
    );
    // Not even that of one that is lost for long: it comes back to it.
    world.truth[0].runs = false;
    world.pass(60);
    assert_eq!(world.addresses, [Some(0), Some(1)]);
    world.addresses[0] = None;
    world.pass(6);
    assert_eq!(world.addresses, [Some(2), Some(1)]);
    assert_eq!(problem(&world), None);
}

#[test]
fn what_a_stranger_has_stays_and_what_does_not_exist_is_told() {
    let mut world = World::new(1, 1, &one());
    world.addresses = vec![Some(STRANGER)];
    world.pass(20);
    assert_eq!(world.addresses, [Some(STRANGER)]);
    let told = world.spokes[0].machine.problem(&world.around(0)).unwrap();
    assert!(told.ends_with("is at i-00000063, which is no spoke of this VPC: it stays there"));
    for (config, told) in [
        (
            one(),
            "there is no Elastic IP eipalloc-00000000 in this account and region",
        ),
        (
            pool(),
            "there is no Elastic IP of the pool pool=nat in this account and region",
        ),
    ] {
        let mut world = World::new(1, 0, &config);
        world.pass(1);
        let problem = world.spokes[0].machine.problem(&world.around(0));
        assert_eq!(problem.as_deref(), Some(told));
    }
}

#[test]
fn what_fails_is_tried_again_at_longer_intervals() {
    let mut world = World::new(1, 1, &one());
    let mut tries = Vec::new();
    for second in 0..100_u32 {
        world.now += seconds(1);
        world.sees_routes(0);
        world.looks(0).unwrap();
        if world.spokes[0].pending.take().is_some() {
            let (now, wall) = (world.now, world.wall());
            world.spokes[0].machine.applied(None, now, wall);
            tries.push(second);
        }
    }
    let pauses: Vec<u32> = tries.windows(2).map(|two| two[1] - two[0]).collect();
    assert!((4..=8).contains(&tries.len()), "{tries:?}");
    assert!(pauses.is_sorted(), "{pauses:?}");
}

/// The answer to the look may be lost with the address that this spoke had before.
#[test]
fn who_is_told_that_an_address_moved_looks_at_once_and_again_soon() {
    let mut world = World::new(1, 1, &one());
    world.pass(30);
    assert_eq!(world.addresses[0], Some(0));
    let around = world.around(0);
    let looks = |machine: &mut Address, from: Instant| {
        let times = (0..20_u64).filter(|second| {
            let now = from + seconds(*second);
            let look = machine.tick(&around, now).look;
            if look {
                machine.look_failed(now);
            }
            look
        });
        times.collect::<Vec<_>>()
    };
    let (machine, now) = (&mut world.spokes[0].machine, world.now);
    machine.look_soon(now);
    let expected: Vec<u64> = (0..15).chain([19]).collect();
    assert_eq!(looks(machine, now), expected);
    // Who was told nothing has time.
    assert_eq!(looks(machine, now + seconds(20)), [4, 9, 14, 19]);
}

/// Also by who is about to stop, and does not for long.
#[test]
fn what_fails_is_not_tried_faster_by_who_leaves() {
    let mut world = World::new(2, 1, &one());
    world.pass(30);
    assert_eq!(world.addresses[0], Some(0));
    world.first = Some(1);
    world.truth[0].leaving = Some(world.now);
    let mut tries = 0;
    for _ in 0..600 {
        world.now += Duration::from_millis(200);
        world.judge();
        world.sees_routes(0);
        world.looks(0).unwrap();
        if world.spokes[0].pending.take().is_some() {
            let (now, wall) = (world.now, world.wall());
            world.spokes[0].machine.applied(None, now, wall);
            tries += 1;
            assert!(world.spokes[0].machine.has_left(&world.around(0), now));
        }
    }
    assert!((4..=9).contains(&tries), "{tries} in 120 s");
}

#[derive(Debug, Clone)]
enum Event {
    Well(usize, bool),
    Runs(usize, bool),
    Leaves(usize, bool),
    /// The first route leads there from now on; it is a spoke's that was well.
    First(usize),
    NoRoutes,
    SeesRoutes(usize),
    Looks(usize),
    Applies(usize),
    /// Somebody moves an address by hand: away, or to what is no spoke.
    Freed(usize),
    Stolen(usize),
    Seconds(u64),
    Second,
}

fn event() -> impl Strategy<Value = Event> {
    let n = || 0_usize..4;
    let flag = any::<bool>;
    prop_oneof![
        2 => (n(), flag()).prop_map(|(n, is)| Event::Well(n, is)),
        2 => (n(), flag()).prop_map(|(n, is)| Event::Runs(n, is)),
        1 => (n(), flag()).prop_map(|(n, is)| Event::Leaves(n, is)),
        3 => n().prop_map(Event::First),
        1 => Just(Event::NoRoutes),
        4 => n().prop_map(Event::SeesRoutes),
        8 => n().prop_map(Event::Looks),
        6 => n().prop_map(Event::Applies),
        1 => n().prop_map(Event::Freed),
        1 => n().prop_map(Event::Stolen),
        3 => (1_u64..20).prop_map(Event::Seconds),
        6 => Just(Event::Second),
    ]
}

impl World {
    fn live(&mut self, event: &Event) -> Result<(), TestCaseError> {
        let count = self.spokes.len();
        match *event {
            Event::Well(n, well) => self.truth[n % count].well = well,
            Event::Runs(n, runs) => {
                self.truth[n % count].runs = runs;
                self.spokes[n % count].pending = None;
            }
            Event::Leaves(n, leaves) => {
                self.truth[n % count].leaving = leaves.then_some(self.now);
            }
            Event::First(n) => self.first = Some(n % count),
            Event::NoRoutes => self.first = None,
            Event::SeesRoutes(n) => self.sees_routes(n % count),
            Event::Looks(n) => self.looks(n % count)?,
            Event::Applies(n) => self.applies(n % count),
            Event::Freed(n) => self.by_hand(n, None),
            Event::Stolen(n) => self.by_hand(n, Some(STRANGER)),
            Event::Seconds(time) => self.now += seconds(time),
            Event::Second => self.second()?,
        }
        self.judge();
        Ok(())
    }

    fn by_hand(&mut self, n: usize, to: Option<usize>) {
        if let Some(at) = n.checked_rem(self.addresses.len()) {
            self.addresses[at] = to;
            self.moves[at] += 1;
        }
    }

    /// All is well again, and nothing happens any more.
    fn settles(&mut self) -> Result<(), TestCaseError> {
        for truth in &mut self.truth {
            (truth.well, truth.runs, truth.leaving) = (true, true, None);
        }
        for _ in 0..120 {
            self.second()?;
        }
        let before = (self.addresses.clone(), self.moves.clone());
        for _ in 0..60 {
            self.second()?;
        }
        let after = (self.addresses.clone(), self.moves.clone());
        prop_assert_eq!(before, after, "it does not come to rest");
        Ok(())
    }
}

proptest! {
    #[test]
    fn one_address_is_where_the_first_route_leads_in_the_end(
        spokes in 1_usize..4,
        events in prop::collection::vec(event(), 0..80),
    ) {
        let mut world = World::new(spokes, 1, &one());
        for event in &events {
            world.live(event)?;
        }
        world.settles()?;
        match (world.addresses[0], world.first) {
            (Some(STRANGER), _) => {}
            (at, Some(first)) => prop_assert_eq!(at, Some(first)),
            (at, None) => prop_assert!(at.is_some()),
        }
    }

    #[test]
    fn of_a_pool_nobody_has_two_and_nobody_lacks_one_that_is_free(
        spokes in 1_usize..4,
        addresses in 0_usize..5,
        events in prop::collection::vec(event(), 0..80),
    ) {
        let mut world = World::new(spokes, addresses, &pool());
        for event in &events {
            world.live(event)?;
        }
        world.settles()?;
        let has = |n: usize| world.addresses.iter().filter(|at| **at == Some(n)).count();
        let free = world.addresses.iter().filter(|at| at.is_none()).count();
        for n in 0..spokes {
            prop_assert!(has(n) <= 1, "{:?}", world.addresses);
            prop_assert!(has(n) == 1 || free == 0, "{:?}", world.addresses);
        }
        prop_assert!(!world.reached.contains(&"takeover"));
    }
}
