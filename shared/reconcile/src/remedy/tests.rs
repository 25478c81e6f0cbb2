//! Each rule by which nothing is done, and what is done where none speaks against it.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use proptest::prelude::*;

use super::*;
use crate::takeover::Seen;

const AFTER: Duration = Duration::from_secs(60);

fn id(n: u8) -> InstanceId {
    format!("i-{n:08x}").parse().unwrap()
}

/// This spoke.
fn me() -> InstanceId {
    id(1)
}

/// The sibling that is lost.
fn sibling() -> InstanceId {
    id(2)
}

fn at(seconds: u64) -> Timestamp {
    launched() + Duration::from_secs(86_400 + seconds)
}

fn launched() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "somewhere time must start")]
fn beginning() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn lost() -> Seen {
    Seen {
        launched: launched(),
        state: SiblingState::Lost,
        silent: seconds(61),
        heard: true,
        left: false,
        contradicted: None,
        stood_in_for: true,
    }
}

fn well() -> Seen {
    Seen {
        state: SiblingState::Well,
        silent: Duration::ZERO,
        stood_in_for: false,
        ..lost()
    }
}

fn outlook(siblings: impl IntoIterator<Item = (InstanceId, Seen)>) -> Outlook {
    Outlook {
        well_for: seconds(3600),
        leaving: false,
        sees: true,
        siblings: siblings.into_iter().collect(),
    }
}

fn running() -> Machine {
    Machine {
        state: MachineState::Running,
        told: None,
        launched: Some(launched()),
        group: None,
        instance_store: false,
    }
}

fn machine(state: MachineState, told: Option<Timestamp>) -> Machine {
    Machine {
        state,
        told,
        ..running()
    }
}

/// A remedy, its clocks, and what the sibling is like.
struct Case {
    remedy: Remedy,
    start: Instant,
    elapsed: u64,
    seen: Outlook,
    machines: BTreeMap<InstanceId, Machine>,
}

impl Case {
    fn new(kind: RemedyKind) -> Self {
        Self::with(Some(kind), Journal::default())
    }

    fn with(kind: Option<RemedyKind>, journal: Journal) -> Self {
        let config = kind.map(|kind| RemedyConfig { kind, after: AFTER });
        Self {
            remedy: Remedy::new(me(), config, journal),
            start: beginning(),
            elapsed: 0,
            seen: outlook([(sibling(), lost()), (id(3), well())]),
            machines: [me(), sibling(), id(3)].map(|id| (id, running())).into(),
        }
    }

    fn now(&self) -> Instant {
        self.start + seconds(self.elapsed)
    }

    fn wall(&self) -> Timestamp {
        at(self.elapsed)
    }

    fn sibling(&mut self) -> &mut Seen {
        self.seen.siblings.get_mut(&sibling()).unwrap()
    }

    fn machine(&mut self) -> &mut Machine {
        self.machines.get_mut(&sibling()).unwrap()
    }

    /// A step of six seconds, in which EC2 answers every question.
    fn step(&mut self) -> Option<Action> {
        self.elapsed += 6;
        let (now, wall) = (self.now(), self.wall());
        self.remedy.tick(&self.seen, now, wall)?;
        self.remedy.looked(&self.machines, &self.seen, now, wall)
    }

    fn acted(&mut self, outcome: Outcome) {
        let now = self.now();
        self.remedy.acted(outcome, now);
    }

    /// What is done within a while, each thing with success.
    fn within(&mut self, time: u64) -> Vec<Action> {
        let end = self.elapsed + time;
        let mut done = Vec::new();
        while self.elapsed < end {
            if let Some(action) = self.step() {
                done.push(action);
                self.acted(Outcome::Done);
            }
        }
        done
    }

    fn is_wanted(&mut self) -> bool {
        let (now, wall) = (self.now(), self.wall());
        self.remedy.is_wanted(&self.seen, now, wall)
    }

    fn problems(&self) -> Vec<String> {
        self.remedy.problems(self.wall())
    }

    /// It stopped because of us, and was started: EC2 shows it so.
    fn started(&mut self) {
        let told = Some(self.wall());
        *self.machine() = machine(MachineState::Stopped, told);
        assert_eq!(self.step(), Some(start()));
        self.acted(Outcome::Done);
    }

    fn stop(&self) -> Option<&Stop> {
        let mut records = self.remedy.journal().records.values();
        records.find_map(|record| record.stop.as_ref())
    }

    fn was_told_to_start(&self) -> bool {
        self.stop().is_some_and(|stop| stop.started.is_some())
    }

    fn has_not_seen_its_stop(&self) -> bool {
        self.stop().is_some_and(|stop| stop.told.is_none())
    }

    fn obstacle(&self) -> Option<&Obstacle> {
        self.remedy.obstacles.get(&sibling())
    }

    /// A daemon that starts with what the one before it wrote down.
    fn restarted(self) -> Self {
        let text = serde_json::to_string(self.remedy.journal()).unwrap();
        let journal = serde_json::from_str(&text).unwrap();
        Self {
            remedy: Remedy::new(me(), self.remedy.config, journal),
            ..self
        }
    }
}

fn stop() -> Action {
    Action::Stop {
        instance: sibling(),
    }
}

fn start() -> Action {
    Action::Start {
        instance: sibling(),
    }
}

fn report() -> Action {
    Action::Report {
        instance: sibling(),
    }
}

#[test]
fn one_that_stays_lost_is_stopped_and_when_it_has_stopped_started_once() {
    let mut case = Case::new(RemedyKind::Restart);
    assert_eq!(case.step(), Some(stop()));
    // Written down before EC2 is asked.
    let record = &case.remedy.journal().records[&sibling()];
    assert!(record.stop.is_some() && record.tries == [case.wall()]);
    case.acted(Outcome::Done);
    let told = Some(case.wall());
    *case.machine() = machine(MachineState::Stopping, told);
    assert_eq!(case.within(120), []);
    *case.machine() = machine(MachineState::Stopped, told);
    assert_eq!(case.step(), Some(start()));
    case.acted(Outcome::Done);
    // EC2 is late to tell of it.
    assert_eq!(case.within(30), []);
    assert_eq!(case.remedy.counts().restarted, 0);
    *case.machine() = running();
    assert_eq!(case.within(1500), []);
    assert_eq!(case.remedy.counts().restarted, 1);
}

#[test]
fn one_of_a_group_is_reported_once() {
    let mut case = Case::new(RemedyKind::Unhealthy);
    case.machine().group = Some("spokes".to_owned());
    assert_eq!(case.within(1500), [report()]);
    assert_eq!(case.remedy.counts().reported, 1);
    assert!(case.remedy.journal().owed().is_none());
}

#[test]
fn without_a_config_nothing_is_begun() {
    let mut case = Case::with(None, Journal::default());
    assert_eq!(case.within(7200), []);
}

/// What each of these changes is enough to keep a sibling from any remedy.
#[test]
fn each_rule_alone_keeps_it_from_being_touched() {
    type Change = fn(&mut Case);
    let rules: [(Change, Obstacle); 24] = [
        (|c| c.sibling().silent = seconds(59), Obstacle::NotYet),
        (|c| c.sibling().left = true, Obstacle::Left),
        (
            |c| c.sibling().stood_in_for = false,
            Obstacle::NotStoodInFor,
        ),
        (|c| c.sibling().heard = false, Obstacle::NeverHeard),
        (
            |c| c.sibling().contradicted = Some(c.start),
            Obstacle::NetworkInDoubt,
        ),
        (
            |c| c.remedy.journal.lost = Some(at(0)),
            Obstacle::JournalLost,
        ),
        (|c| c.seen.well_for = seconds(59), Obstacle::OwnHealth),
        (|c| c.seen.leaving = true, Obstacle::OwnHealth),
        (|c| c.seen.sees = false, Obstacle::Blind),
        (
            |c| drop(c.seen.siblings.insert(id(0), lost())),
            Obstacle::OthersFirst,
        ),
        (
            |c| {
                drop(
                    c.machines
                        .insert(id(3), machine(MachineState::Pending, None)),
                )
            },
            Obstacle::OthersFirst,
        ),
        (
            |c| {
                drop(
                    c.machines
                        .insert(id(3), machine(MachineState::Stopping, None)),
                )
            },
            Obstacle::OthersFirst,
        ),
        (
            |c| {
                drop(
                    c.machines
                        .insert(id(3), machine(MachineState::Stopped, Some(at(0)))),
                )
            },
            Obstacle::OthersFirst,
        ),
        (
            |c| {
                drop(
                    c.machines
                        .insert(id(3), machine(MachineState::Terminated, Some(at(0)))),
                )
            },
            Obstacle::OthersFirst,
        ),
        (
            |c| {
                let young = Machine {
                    launched: Some(at(0)),
                    ..running()
                };
                c.machines.insert(id(4), young);
            },
            Obstacle::OthersFirst,
        ),
        (
            |c| c.machine().state = MachineState::Stopped,
            Obstacle::DoesNotRun(MachineState::Stopped),
        ),
        (
            |c| c.machine().state = MachineState::Stopping,
            Obstacle::DoesNotRun(MachineState::Stopping),
        ),
        (
            |c| c.machine().state = MachineState::Terminated,
            Obstacle::DoesNotRun(MachineState::Terminated),
        ),
        (
            |c| c.machine().state = MachineState::Pending,
            Obstacle::DoesNotRun(MachineState::Pending),
        ),
        (|c| drop(c.machines.remove(&sibling())), Obstacle::Gone),
        // Started by somebody, and heard since or not.
        (|c| c.machine().launched = Some(at(0)), Obstacle::Young),
        (
            |c| {
                c.elapsed = 1700;
                c.machine().launched = Some(at(0));
                c.sibling().launched = at(0);
            },
            Obstacle::Young,
        ),
        (
            |c| c.machine().group = Some("spokes".to_owned()),
            Obstacle::InGroup {
                group: "spokes".to_owned(),
            },
        ),
        (
            |c| c.machine().instance_store = true,
            Obstacle::InstanceStore,
        ),
    ];
    for (change, obstacle) in rules {
        let mut case = Case::new(RemedyKind::Restart);
        change(&mut case);
        assert_eq!(case.within(60), [], "{obstacle:?}");
        assert_eq!(case.obstacle(), Some(&obstacle));
        assert!(
            case.remedy
                .journal()
                .records
                .values()
                .all(|one| one.tries.is_empty())
        );
    }
    let mut case = Case::new(RemedyKind::Unhealthy);
    assert_eq!(case.within(60), []);
    assert_eq!(case.obstacle(), Some(&Obstacle::NoGroup));
}

#[test]
fn one_that_answers_but_is_not_well_is_left_alone() {
    for state in [
        SiblingState::Unheard,
        SiblingState::Sick {
            why: "no egress".to_owned(),
        },
        SiblingState::Starting {
            why: "no self-test yet".to_owned(),
        },
        SiblingState::Leaving,
        SiblingState::Well,
    ] {
        let mut case = Case::new(RemedyKind::Restart);
        case.sibling().state = state;
        assert_eq!(case.within(3600), []);
    }
}

#[test]
fn who_was_stopped_by_somebody_is_never_started() {
    // Before anything was done,
    let mut case = Case::new(RemedyKind::Restart);
    *case.machine() = machine(MachineState::Stopped, Some(at(0)));
    assert_eq!(case.within(7200), []);
    // at the same moment,
    let mut case = Case::new(RemedyKind::Restart);
    assert_eq!(case.step(), Some(stop()));
    case.acted(Outcome::Overtaken);
    let told = Some(case.wall());
    *case.machine() = machine(MachineState::Stopped, told);
    assert_eq!(case.within(7200), []);
    // and while this daemon was away: started, and stopped again an hour later.
    let mut case = Case::new(RemedyKind::Restart);
    assert_eq!(case.step(), Some(stop()));
    case.acted(Outcome::Done);
    let mut case = case.restarted();
    case.elapsed += 3600;
    let told = Some(case.wall());
    *case.machine() = Machine {
        launched: Some(at(1800)),
        ..machine(MachineState::Stopped, told)
    };
    // `takeover` forgets who does not run and has no route.
    case.seen = outlook([(id(3), well())]);
    assert_eq!(case.within(7200), []);
    assert_eq!(case.obstacle(), Some(&Obstacle::StoppedByOthers));
    assert_eq!(case.remedy.problems(case.wall()).len(), 1);
}

#[test]
fn what_we_stopped_is_started_after_a_restart_also_when_no_remedy_is_wanted_any_more() {
    // The answer to the stop came, or got lost with the daemon.
    for known in [true, false] {
        let mut case = Case::new(RemedyKind::Restart);
        assert_eq!(case.step(), Some(stop()));
        let told = Some(case.wall());
        if known {
            case.acted(Outcome::Done);
        }
        let mut case = case.restarted();
        case.remedy.config = None;
        // Not described any more, no egress here, whatever: it is owed.
        case.seen = Outlook {
            well_for: Duration::ZERO,
            ..outlook([])
        };
        case.elapsed += 7200;
        *case.machine() = machine(MachineState::Stopped, told);
        assert_eq!(case.step(), Some(start()), "{known}");
        case.acted(Outcome::Refused);
        // Refused for lack of capacity: again and again.
        let mut asked = 0;
        for _ in 0..600 {
            if let Some(action) = case.step() {
                assert_eq!(action, start());
                asked += 1;
                case.acted(Outcome::Refused);
            }
        }
        assert!((5..=15).contains(&asked), "{asked} times in an hour");
        assert_eq!(case.remedy.problems(case.wall()).len(), 1);
        while case.step() != Some(start()) {}
        case.acted(Outcome::Done);
        *case.machine() = running();
        assert_eq!(case.within(60), []);
        assert!(case.remedy.journal().owed().is_none());
    }
}

#[test]
fn a_stop_that_was_never_asked_for_is_forgotten() {
    let mut case = Case::new(RemedyKind::Restart);
    assert_eq!(case.step(), Some(stop()));
    let mut case = case.restarted();
    // It answers again.
    *case.sibling() = well();
    assert_eq!(case.within(120), []);
    assert!(case.remedy.journal().owed().is_none());
    // Somebody stops it two days later.
    case.elapsed += 2 * 86_400;
    let told = Some(case.wall());
    *case.machine() = machine(MachineState::Stopped, told);
    *case.sibling() = lost();
    assert_eq!(case.within(7200), []);
}

#[test]
fn a_stop_that_hangs_is_told() {
    let mut case = Case::new(RemedyKind::Restart);
    assert_eq!(case.step(), Some(stop()));
    case.acted(Outcome::Done);
    let told = Some(case.wall());
    *case.machine() = machine(MachineState::Stopping, told);
    assert_eq!(case.within(1200), []);
    assert_eq!(case.problems().len(), 1);
    case.machine().state = MachineState::Stopped;
    assert_eq!(case.step(), Some(start()));
}

#[test]
fn what_was_decided_is_called_off_when_it_is_not_so_any_more_or_takes_too_long() {
    type Change = fn(&mut Case);
    let changes: [Change; 8] = [
        |c| *c.sibling() = well(),
        |c| c.sibling().silent = Duration::ZERO,
        |c| c.sibling().stood_in_for = false,
        |c| c.sibling().contradicted = Some(c.now()),
        |c| c.seen.leaving = true,
        |c| c.seen.well_for = Duration::ZERO,
        |c| drop(c.seen.siblings.remove(&sibling())),
        |c| c.elapsed += 10,
    ];
    for kind in [RemedyKind::Restart, RemedyKind::Unhealthy] {
        for change in changes {
            let mut case = Case::new(kind);
            if kind == RemedyKind::Unhealthy {
                case.machine().group = Some("spokes".to_owned());
            }
            assert!(!case.is_wanted());
            assert!(case.step().is_some());
            case.elapsed += 9;
            assert!(case.is_wanted());
            change(&mut case);
            assert!(!case.is_wanted());
            // That is neither a try nor a failure.
            case.acted(Outcome::Withdrawn);
            let journal = case.remedy.journal();
            assert!(journal.owed().is_none() && journal.groups.is_empty());
            assert!(journal.records.values().all(|one| one.tries.is_empty()));
            assert_eq!(case.remedy.counts(), Counts::default());
        }
    }
}

#[test]
fn a_stop_that_never_ends_is_not_wanted_any_more_when_it_is_given_up() {
    let mut case = Case::new(RemedyKind::Restart);
    assert_eq!(case.step(), Some(stop()));
    case.elapsed += 24;
    assert_eq!(case.step(), None);
    assert!(!case.is_wanted());
    // Whoever carries it out ends too late to be believed.
    case.acted(Outcome::Done);
    assert_eq!(case.within(120), []);
    assert!(case.remedy.journal().owed().is_none());
}

#[test]
fn what_is_owed_is_wanted_whatever_this_spoke_sees() {
    let mut case = Case::new(RemedyKind::Restart);
    assert_eq!(case.step(), Some(stop()));
    case.acted(Outcome::Done);
    let told = Some(case.wall());
    *case.machine() = machine(MachineState::Stopped, told);
    case.seen.leaving = true;
    *case.sibling() = well();
    assert_eq!(case.step(), Some(start()));
    assert!(case.is_wanted());
}

/// A customer's KMS key without kms:CreateGrant: EC2 takes the start, and it stops again.
#[test]
fn one_that_stops_again_after_its_start_is_started_again_ever_more_rarely_and_told() {
    for restarts in [false, true] {
        let mut case = Case::new(RemedyKind::Restart);
        assert_eq!(case.step(), Some(stop()));
        case.acted(Outcome::Done);
        case.started();
        let mut asked = 1;
        let end = case.elapsed + 3600;
        while case.elapsed < end {
            // It was pending for a while, and nobody asked for the end of that.
            *case.machine() = Machine {
                launched: Some(at(asked)),
                ..machine(MachineState::Stopped, None)
            };
            if let Some(action) = case.step() {
                assert_eq!(action, start());
                asked += 1;
                case.acted(Outcome::Done);
                if restarts {
                    case = case.restarted();
                }
            }
        }
        let most = if restarts { 60 } else { 12 };
        assert!((5..=most).contains(&asked), "{asked} times in an hour");
        let counts = case.remedy.counts();
        assert!(counts.restarted == 0 && (restarts || counts.failed >= 4));
        let problems = case.problems();
        assert!(problems[0].contains("kms:CreateGrant"), "{problems:?}");
        // The key is mended.
        while case.step() != Some(start()) {}
        case.acted(Outcome::Done);
        *case.machine() = running();
        while case.remedy.journal().owed().is_some() {
            assert_eq!(case.step(), None);
        }
        assert_eq!(case.remedy.counts().restarted, 1);
        assert_eq!(case.problems(), Vec::<String>::new());
    }
}

#[test]
fn one_that_somebody_stops_while_it_starts_stays_so() {
    let mut case = Case::new(RemedyKind::Restart);
    assert_eq!(case.step(), Some(stop()));
    case.acted(Outcome::Done);
    case.started();
    case.elapsed += 30;
    let told = Some(case.wall());
    *case.machine() = machine(MachineState::Stopped, told);
    case.seen = outlook([(id(3), well())]);
    assert_eq!(case.within(7200), []);
    assert_eq!(case.obstacle(), Some(&Obstacle::StoppedByOthers));
}

#[test]
fn a_stop_that_ec2_confirmed_is_ours_whatever_the_time_is_here() {
    // Our clock is an hour behind EC2's.
    let mut case = Case::new(RemedyKind::Restart);
    assert_eq!(case.step(), Some(stop()));
    case.acted(Outcome::Done);
    let told = Some(case.wall() + seconds(3600));
    // A view of it that is old for long.
    assert_eq!(case.within(300), []);
    *case.machine() = machine(MachineState::Stopping, told);
    assert_eq!(case.within(60), []);
    case.machine().state = MachineState::Stopped;
    let mut case = case.restarted();
    assert_eq!(case.step(), Some(start()));

    // Somebody tells it to stop once more.
    let mut case = Case::new(RemedyKind::Restart);
    assert_eq!(case.step(), Some(stop()));
    case.acted(Outcome::Done);
    *case.machine() = machine(MachineState::Stopping, told);
    assert_eq!(case.step(), None);
    let again = told.map(|told| told + seconds(20));
    *case.machine() = machine(MachineState::Stopped, again);
    case.seen = outlook([(id(3), well())]);
    assert_eq!(case.within(600), []);
    assert_eq!(case.obstacle(), Some(&Obstacle::StoppedByOthers));

    // One of which EC2's answer was lost is ours by its date alone.
    let mut case = Case::new(RemedyKind::Restart);
    assert_eq!(case.step(), Some(stop()));
    case.acted(Outcome::Unknown);
    *case.machine() = machine(MachineState::Stopped, told);
    assert_eq!(case.within(600), []);
}

#[test]
fn a_journal_that_was_lost_is_told_and_waited_for_also_after_a_restart() {
    let journal = Journal::anew(at(0));
    let mut case = Case::with(Some(RemedyKind::Restart), journal);
    assert_eq!(case.within(900), []);
    assert!(case.problems()[0].contains("could not be read"));
    let mut case = case.restarted();
    assert_eq!(case.within(840), []);
    assert_eq!(case.obstacle(), Some(&Obstacle::JournalLost));
    assert_eq!(case.within(120)[..1], [stop()]);
}

#[test]
fn a_group_is_told_of_three_instances_a_day_however_often_they_are_replaced() {
    let mut case = Case::new(RemedyKind::Unhealthy);
    let mut when = Vec::new();
    for n in 10..20 {
        let launched = case.wall();
        let seen = Seen { launched, ..lost() };
        case.seen = outlook([(id(n), seen), (id(3), well())]);
        let young = Machine {
            launched: Some(launched),
            group: Some("spokes".to_owned()),
            ..running()
        };
        case.machines = [(me(), running()), (id(3), running()), (id(n), young)].into();
        let end = case.elapsed + 3600;
        while case.elapsed < end {
            if let Some(action) = case.step() {
                assert_eq!(action, Action::Report { instance: id(n) });
                when.push(case.elapsed);
                case.acted(Outcome::Done);
                case = case.restarted();
            }
        }
    }
    assert_eq!(when.len(), 3, "{when:?}");
    assert!(when[0] >= 1800 && when.windows(2).all(|two| two[1] - two[0] >= 1800));
    assert!(case.problems()[0].contains("group spokes was told of 3 instances"));
    case.elapsed += 86_400;
    assert_eq!(case.within(60).len(), 1);
}

#[test]
fn a_start_by_somebody_else_is_none_of_ours_for_who_was_never_heard() {
    let mut case = Case::new(RemedyKind::Restart);
    assert_eq!(case.step(), Some(stop()));
    case.acted(Outcome::Done);
    case.started();
    *case.machine() = running();
    assert_eq!(case.step(), None);
    case.elapsed += 7200;
    *case.sibling() = Seen {
        launched: at(60),
        heard: false,
        ..lost()
    };
    case.machine().launched = Some(at(60));
    assert_eq!(case.within(600), []);
    assert_eq!(case.obstacle(), Some(&Obstacle::NeverHeard));
}

#[test]
fn what_was_seen_by_an_old_look_is_no_reason_to_do_anything() {
    let mut case = Case::new(RemedyKind::Restart);
    let (now, wall) = (case.now(), case.wall());
    assert!(case.remedy.tick(&case.seen, now, wall).is_some());
    case.elapsed += 10;
    let (now, wall) = (case.now(), case.wall());
    let action = case.remedy.looked(&case.machines, &case.seen, now, wall);
    assert_eq!(action, None);
    assert_eq!(case.step(), Some(stop()));
}

#[test]
fn one_that_ec2_speaks_against_does_not_keep_the_next_from_its_turn() {
    type Change = fn(&mut Machine);
    let changes: [(Change, Obstacle); 2] = [
        (
            |one| one.group = Some("spokes".to_owned()),
            Obstacle::InGroup {
                group: "spokes".to_owned(),
            },
        ),
        (|one| one.instance_store = true, Obstacle::InstanceStore),
    ];
    for (change, obstacle) in changes {
        let mut case = Case::new(RemedyKind::Restart);
        change(case.machine());
        let seen = Seen {
            silent: seconds(661),
            ..lost()
        };
        case.seen = outlook([(sibling(), seen.clone()), (id(3), seen)]);
        let second = Action::Stop { instance: id(3) };
        assert_eq!(case.step(), Some(second));
        assert_eq!(case.obstacle(), Some(&obstacle));
    }
}

#[test]
fn three_times_ever_more_rarely_and_then_never_until_it_was_well_for_long() {
    let mut case = Case::new(RemedyKind::Unhealthy);
    case.machine().group = Some("spokes".to_owned());
    let mut when = Vec::new();
    for _ in 0..20_000 {
        if case.step().is_some() {
            when.push(case.elapsed);
            case.acted(Outcome::Done);
            // All of it outlives the daemon.
            case = case.restarted();
        }
    }
    let pauses: Vec<u64> = when.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(
        matches!(pauses[..], [first, second] if (1800..1860).contains(&first)
            && (3600..3660).contains(&second)),
        "{pauses:?}"
    );
    assert_eq!(case.obstacle(), Some(&Obstacle::GivenUp));
    assert!(case.remedy.problems(case.wall())[0].contains("given up after 3"));
    // Half an hour is not long.
    *case.sibling() = well();
    assert_eq!(case.within(1800), []);
    *case.sibling() = lost();
    assert_eq!(case.within(600), []);
    *case.sibling() = well();
    assert_eq!(case.within(3660), []);
    *case.sibling() = lost();
    assert_eq!(case.within(600), [report()]);
}

#[test]
fn one_that_we_restarted_is_given_time_and_needs_not_have_been_heard() {
    let mut case = Case::new(RemedyKind::Restart);
    assert_eq!(case.step(), Some(stop()));
    case.acted(Outcome::Done);
    case.started();
    let wall = case.wall();
    *case.machine() = Machine {
        launched: Some(wall),
        ..running()
    };
    *case.sibling() = Seen {
        launched: wall,
        heard: false,
        ..lost()
    };
    assert_eq!(case.within(1740), []);
    assert_eq!(case.within(120)[..1], [stop()]);
}

#[test]
fn of_two_that_are_lost_the_second_has_its_turn_when_the_first_is_well_or_had_its_time() {
    let both = |silent: u64| {
        let seen = Seen {
            silent: seconds(silent),
            ..lost()
        };
        outlook([(sibling(), seen.clone()), (id(3), seen)])
    };
    let mut case = Case::new(RemedyKind::Unhealthy);
    for machine in case.machines.values_mut() {
        machine.group = Some("spokes".to_owned());
    }
    case.seen = both(61);
    assert_eq!(case.within(300), [report()]);
    // Its turn has come, but this spoke has done something just now.
    case.seen = both(661);
    assert_eq!(case.within(240), []);
    let second = Action::Report { instance: id(3) };
    assert_eq!(case.within(120), std::slice::from_ref(&second));

    let mut case = Case::new(RemedyKind::Unhealthy);
    for machine in case.machines.values_mut() {
        machine.group = Some("spokes".to_owned());
    }
    case.seen = both(61);
    assert_eq!(case.within(60), [report()]);
    *case.sibling() = well();
    assert_eq!(case.within(60), [second]);
}

#[test]
fn what_ec2_refuses_is_no_try_and_is_not_repeated_at_once() {
    let mut case = Case::new(RemedyKind::Restart);
    let mut asked = 0;
    for _ in 0..100 {
        if case.step().is_some() {
            asked += 1;
            case.acted(Outcome::Refused);
        }
    }
    assert!((3..=8).contains(&asked), "{asked} times in ten minutes");
    assert!(case.remedy.journal().owed().is_none());
    assert!(case.remedy.journal().records.is_empty());
    assert_eq!(case.remedy.counts().failed, asked);
}

#[test]
fn an_ec2_that_does_not_tell_of_the_instances_keeps_everything_as_it_is() {
    let mut case = Case::new(RemedyKind::Restart);
    for _ in 0..1000 {
        case.elapsed += 6;
        let (now, wall) = (case.now(), case.wall());
        if case.remedy.tick(&case.seen, now, wall).is_some() {
            case.remedy.look_failed(now);
        }
    }
    assert!(case.remedy.journal().records.is_empty());
}

#[test]
fn doubt_outlives_a_restart_and_ends() {
    let mut case = Case::new(RemedyKind::Restart);
    case.sibling().contradicted = Some(case.start);
    assert_eq!(case.within(60), []);
    let mut case = case.restarted();
    case.sibling().contradicted = None;
    assert_eq!(case.within(1700), []);
    assert_eq!(case.within(120)[..1], [stop()]);
}

#[derive(Debug, Clone)]
enum Event {
    Seen(SiblingState, bool, bool, u64),
    Machine(MachineState),
    Wait(u64),
    Restart,
    Fate(Outcome),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let state = prop_oneof![
        Just(SiblingState::Lost),
        Just(SiblingState::Well),
        Just(SiblingState::Leaving),
        Just(SiblingState::Unheard),
    ];
    let machine = prop_oneof![
        3 => Just(MachineState::Running),
        1 => Just(MachineState::Stopping),
        2 => Just(MachineState::Stopped),
        1 => Just(MachineState::Pending),
        1 => Just(MachineState::Terminated),
        1 => Just(MachineState::Unclear),
    ];
    let outcome = prop_oneof![
        3 => Just(Outcome::Done),
        1 => Just(Outcome::Overtaken),
        1 => Just(Outcome::Refused),
        1 => Just(Outcome::Unknown),
    ];
    let event = prop_oneof![
        2 => (state, any::<bool>(), any::<bool>(), 0_u64..200)
            .prop_map(|(state, here, heard, silent)| Event::Seen(state, here, heard, silent)),
        2 => machine.prop_map(Event::Machine),
        4 => (1_u64..4000).prop_map(Event::Wait),
        1 => Just(Event::Restart),
        2 => outcome.prop_map(Event::Fate),
    ];
    proptest::collection::vec(event, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens: who is stopped or reported is lost and stood in for here, runs, and
    /// has been silent for long; at most three times, half an hour apart; and nobody is
    /// started that was not stopped by us.
    #[test]
    fn nothing_is_done_that_no_rule_allows(events in events()) {
        let mut case = Case::new(RemedyKind::Restart);
        let mut outcome = Outcome::Done;
        let mut hit: Vec<u64> = Vec::new();
        // Whether it stopped because of us, and nobody touched it since.
        let mut ours = false;
        for event in events {
            match event {
                Event::Seen(state, stood_in_for, heard, silent) => {
                    let silent = seconds(silent);
                    *case.sibling() = Seen { state, stood_in_for, heard, silent, ..lost() };
                }
                Event::Machine(state) => {
                    // What somebody does between our stop and the next look at it, some five
                    // seconds later, cannot be told from what we did.
                    if ours && case.has_not_seen_its_stop() {
                        continue;
                    }
                    // Somebody else's doing, now.
                    let told = Some(case.wall() + seconds(3600));
                    *case.machine() = machine(state, told);
                    // Before it was seen to run again, a stop by somebody else looks like one
                    // that did not start well.
                    ours = case.was_told_to_start();
                }
                Event::Restart => case = case.restarted(),
                Event::Fate(fate) => outcome = fate,
                Event::Wait(time) => {
                    let end = case.elapsed + time;
                    while case.elapsed < end {
                        let before = case.machine().state;
                        let Some(action) = case.step() else { continue };
                        match &action {
                            Action::Stop { .. } => {
                                let seen = case.sibling().clone();
                                prop_assert_eq!(seen.state, SiblingState::Lost);
                                prop_assert!(seen.stood_in_for && seen.silent >= AFTER);
                                prop_assert!(seen.heard || !hit.is_empty());
                                prop_assert_eq!(before, MachineState::Running);
                                if outcome != Outcome::Refused {
                                    if let Some(last) = hit.last() {
                                        prop_assert!(case.elapsed - last >= 1800);
                                    }
                                    hit.push(case.elapsed);
                                }
                                if matches!(outcome, Outcome::Done | Outcome::Unknown) {
                                    let told = Some(case.wall());
                                    *case.machine() = machine(MachineState::Stopped, told);
                                    ours = true;
                                }
                            }
                            Action::Start { .. } => {
                                prop_assert_eq!(before, MachineState::Stopped);
                                prop_assert!(ours);
                                if outcome == Outcome::Done {
                                    *case.machine() = running();
                                }
                            }
                            Action::Report { .. } => prop_assert!(false),
                        }
                        case.acted(outcome);
                    }
                }
            }
        }
    }
}
