//! The VPC routes that lead to this spoke: it tests itself, asks its siblings how they
//! are, looks at the route tables and has routes changed, as `privnet_reconcile::
//! takeover` decides. A task of its own, because seconds count here and the main loop
//! may have to wait for the kernel; what the task must know of the rest comes in by
//! [`Serving::tell`]. If that stops coming, the spoke is not well.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use jiff::Timestamp;
use privnet_ec2::{DepartureWatch, Ec2Error, Imds, SdkContext, Vpc};
use privnet_model::config::spoke::{RoutesConfig, SourceDestCheck, SpokeConfig};
use privnet_model::id::RouteTableId;
use privnet_model::inventory::Identity;
use privnet_model::secret::FleetSecret;
use privnet_model::status::{RouteStatus, RoutesStatus, SiblingStatus};
use privnet_model::vpc::{RouteChange, RouteOutcome, RouteTable, Siblings};
use privnet_reconcile::self_test::Report;
use privnet_reconcile::takeover::{Memory, Reason, Setup, Takeover};
use privnet_reconcile::vpc_route::Place;
use privnet_runtime::health_port::{HealthPort, Observation, Silence, Teller};
use privnet_runtime::self_test::SelfTester;
use privnet_runtime::state_file::{Loaded, StateFile};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

/// `Takeover::tick` wants to be called four times a second.
const TICK: Duration = Duration::from_millis(200);
/// Whatever one question or change may take at EC2: below what a takeover waits for.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often EC2 is asked which spokes run in the VPC.
const SIBLINGS: Duration = Duration::from_secs(15);
/// After a question that failed.
const AGAIN: Duration = Duration::from_secs(5);
/// How often it is seen to that the check of sources stays off.
const CHECK: Duration = Duration::from_secs(300);
/// How old what the main loop told may be.
const STALE: Duration = Duration::from_secs(15);
/// How long handing over may take when the spoke stops.
const FAREWELL: Duration = Duration::from_secs(6);
/// How long a spoke that stops looks for somebody to hand over to: an answer that was
/// lost comes with the next question.
const HEIR: Duration = Duration::from_secs(3);
/// Raised when a field of the memory changes its meaning.
const FORMAT: u32 = 1;

/// What the main loop knows.
#[derive(Debug, Clone)]
pub(crate) struct Local {
    /// What keeps packets from being forwarded, if anything.
    pub(crate) problem: Option<String>,
    /// The fleet's secret.
    pub(crate) secret: Option<FleetSecret>,
}

/// The task; it ends when this is dropped.
pub(crate) struct Serving {
    local: watch::Sender<(Local, Instant)>,
    view: watch::Receiver<View>,
    mend: Arc<Notify>,
    leave: Arc<Notify>,
    task: JoinSet<()>,
    handle: AbortHandle,
}

/// What is shown of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct View {
    status: RoutesStatus,
    problems: Vec<String>,
}

impl Serving {
    /// Begins, if the config names routes. The interface of the self-test is there then.
    pub(crate) fn start(config: &SpokeConfig, identity: &Identity, imds: &Imds) -> Option<Self> {
        let routes = config.routes.clone()?;
        let targets: Vec<SocketAddrV4> = config
            .self_test
            .targets
            .iter()
            .filter_map(|target| match target {
                SocketAddr::V4(target) => Some(*target),
                SocketAddr::V6(_) => None,
            })
            .collect();
        let interval = config.self_test.interval;
        let tester = (!targets.is_empty()).then(|| SelfTester::start(targets, interval));
        let starting = Local {
            problem: Some("the spoke is starting".to_owned()),
            secret: None,
        };
        let (local, told) = watch::channel((starting, Instant::now()));
        let (show, view) = watch::channel(View::default());
        let mend = Arc::new(Notify::new());
        let leave = Arc::new(Notify::new());
        let start = Start {
            state: memory_file(&config.private_key),
            destinations: routes.destinations(&config.privnet),
            test_interval: interval,
            config: routes,
            identity: identity.clone(),
            departure: DepartureWatch::start(imds.clone()),
            tester,
            told,
            show,
            mend: Arc::clone(&mend),
            leave: Arc::clone(&leave),
        };
        let mut task = JoinSet::new();
        let handle = task.spawn(start.run());
        Some(Self {
            local,
            view,
            mend,
            leave,
            task,
            handle,
        })
    }

    /// Tells what the main loop knows; to be said again every few seconds.
    pub(crate) fn tell(&self, local: Local) {
        self.local.send_replace((local, Instant::now()));
    }

    /// Waits until a self-test fails: somebody may have changed what can be put right.
    pub(crate) async fn needs_mending(&self) {
        self.mend.notified().await;
    }

    /// Hands all routes over to siblings that are well. There may be none.
    pub(crate) async fn leave(mut self) {
        self.leave.notify_one();
        if timeout(FAREWELL, self.task.join_next()).await.is_err() {
            warn!("not all routes could be handed over in time");
        }
    }

    pub(crate) fn status(&self) -> RoutesStatus {
        self.view.borrow().status.clone()
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        let ended = self.handle.is_finished();
        let ended = ended.then(|| "serving VPC routes broke off: restart the daemon".to_owned());
        let problems = self.view.borrow().problems.clone();
        ended.into_iter().chain(problems).collect()
    }
}

fn memory_file(private_key: &Path) -> StateFile {
    let path = private_key.with_extension("routes.json");
    StateFile::new(&path, FORMAT, env!("CARGO_PKG_VERSION"))
}

/// All that the task begins with.
struct Start {
    state: StateFile,
    config: RoutesConfig,
    destinations: BTreeSet<IpNet>,
    test_interval: Duration,
    identity: Identity,
    departure: DepartureWatch,
    tester: Option<SelfTester>,
    told: watch::Receiver<(Local, Instant)>,
    show: watch::Sender<View>,
    mend: Arc<Notify>,
    leave: Arc<Notify>,
}

type Tables = BTreeMap<RouteTableId, RouteTable>;
type Changed = Vec<(RouteChange, Result<RouteOutcome, Ec2Error>)>;

/// The task's state, once EC2 has told who this spoke is.
struct Server {
    start: Start,
    vpc: Vpc,
    takeover: Takeover,
    port: Option<HealthPort>,
    teller: Option<Teller>,
    siblings: Asked<Siblings>,
    tables: Asked<Tables>,
    changing: Option<JoinHandle<Changed>>,
    check: Asked<privnet_ec2::SourceDestCheck>,
    conflicts: Vec<String>,
    failures: Vec<(Place, String)>,
    port_problem: Option<String>,
    /// When the port is tried again.
    port_due: Instant,
    /// Whether the check of sources was known to be off.
    check_off: bool,
    /// Since when the spoke stops.
    stopping: Option<Instant>,
    saved: Option<Memory>,
    state_problem: Option<String>,
    moved: u64,
    taken_over: u64,
}

/// A question to EC2 that is asked again and again.
struct Asked<T> {
    task: Option<JoinHandle<Result<T, Ec2Error>>>,
    due: Instant,
    problem: Option<String>,
}

impl<T: Send + 'static> Asked<T> {
    fn new() -> Self {
        Self {
            task: None,
            due: Instant::now(),
            problem: None,
        }
    }

    fn is_due(&self) -> bool {
        self.task.is_none() && Instant::now() >= self.due
    }

    fn ask(&mut self, question: impl Future<Output = Result<T, Ec2Error>> + Send + 'static) {
        self.task = Some(tokio::spawn(question));
    }

    /// The answer; never, while nothing was asked. Cancel-safe.
    async fn answered(&mut self, pause: Duration) -> Option<T> {
        let Some(task) = &mut self.task else {
            return std::future::pending().await;
        };
        let result = task.await;
        self.task = None;
        let (answer, problem) = match result {
            Ok(Ok(answer)) => (Some(answer), None),
            Ok(Err(error)) => (None, Some(error.to_string())),
            Err(error) => (None, Some(format!("a question to EC2 broke off: {error}"))),
        };
        if problem.is_some() && problem != self.problem {
            warn!(problem, "routes of the VPC");
        }
        self.due = Instant::now()
            + match problem {
                None => pause,
                Some(_) => AGAIN.min(pause),
            };
        self.problem = problem;
        answer
    }
}

impl Start {
    /// Until EC2 has told who this spoke is nothing can be done but to say so.
    async fn run(self) {
        let context = SdkContext::load(&self.identity.region).await;
        let vpc = Vpc::new(
            &context,
            &self.identity.region,
            &self.identity.vpc,
            PATIENCE,
        );
        let mut problem = None;
        let me = loop {
            let me = tokio::select! {
                me = vpc.itself(&self.identity.instance) => me,
                () = self.leave.notified() => return,
            };
            let missing = match me {
                Ok(found) => match found.spokes.into_values().next() {
                    Some(me) => break me,
                    None => "EC2 does not describe this instance completely yet".to_owned(),
                },
                Err(error) => error.to_string(),
            };
            let missing = format!("no route can be served: {missing}");
            if problem.as_ref() != Some(&missing) {
                warn!("{missing}");
            }
            problem = Some(missing.clone());
            self.show.send_replace(View {
                status: RoutesStatus {
                    sick: Some(missing.clone()),
                    ..RoutesStatus::default()
                },
                problems: vec![missing],
            });
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = self.leave.notified() => return,
            }
        };
        let memory = match self.state.load(Timestamp::now()) {
            Loaded::Found { data, .. } => data,
            Loaded::Missing | Loaded::Ignored { .. } => Memory::default(),
        };
        let setup = Setup {
            me,
            tables: self.config.tables.clone(),
            destinations: self.destinations.clone(),
            takeover: self.config.takeover.is_some(),
            test_interval: self.test_interval,
        };
        let takeover = Takeover::new(setup, &memory, Instant::now(), Timestamp::now());
        let server = Server {
            vpc,
            takeover,
            teller: None,
            port: None,
            siblings: Asked::new(),
            tables: Asked::new(),
            changing: None,
            check: Asked::new(),
            conflicts: Vec::new(),
            failures: Vec::new(),
            port_problem: None,
            port_due: Instant::now(),
            check_off: false,
            stopping: None,
            saved: None,
            state_problem: None,
            moved: 0,
            taken_over: 0,
            start: self,
        };
        server.run().await;
    }

    fn open_port(&self, port: u16) -> Result<HealthPort, String> {
        let address = SocketAddr::new(self.identity.private_address, port);
        HealthPort::open(address, self.identity.instance.clone()).map_err(|error| {
            format!(
                "siblings cannot ask how this spoke is: {:#}",
                anyhow::Error::from(error)
            )
        })
    }
}

impl Server {
    async fn run(mut self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Without targets nothing but what the main loop tells is there to test.
        let mut test = interval(self.start.test_interval);
        test.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let leave = Arc::clone(&self.start.leave);
        let mut told_to_leave = pin!(leave.notified());
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    self.tick();
                    if self.has_left() {
                        break;
                    }
                }
                // What passes is told by the test itself: one that is stuck passes nothing.
                _ = test.tick() => if self.start.tester.is_none() || self.sick().is_some() {
                    self.test();
                },
                report = tested(&mut self.start.tester) => {
                    if report.bad_rounds > 0 {
                        self.start.mend.notify_one();
                    }
                    self.test();
                }
                observation = observed(&mut self.port) => self.observed(observation),
                found = self.siblings.answered(SIBLINGS) => if let Some(found) = found {
                    self.found(&found);
                },
                tables = self.tables.answered(Duration::ZERO) => self.looked(tables),
                changed = changed(&mut self.changing) => self.changed(changed),
                done = self.check.answered(CHECK) => {
                    self.check_off |= done.is_some();
                    if done == Some(privnet_ec2::SourceDestCheck::SwitchedOff) {
                        info!("switched off the check of sources and destinations at this instance");
                    }
                }
                departure = self.start.departure.changed() => match departure {
                    Some(why) => {
                        warn!(%why, "handing over the routes");
                        self.takeover.leave(Instant::now());
                    }
                    None if self.stopping.is_none() => {
                        info!("this instance stays after all");
                        self.takeover.stay();
                    }
                    None => {}
                },
                () = &mut told_to_leave => {
                    self.stopping.get_or_insert(Instant::now());
                    self.takeover.leave(Instant::now());
                    told_to_leave.set(leave.notified());
                }
            }
        }
        self.save();
    }

    /// Whether the spoke stops, and has nothing left or nobody to leave it to.
    fn has_left(&self) -> bool {
        let me = &self.start.identity.instance;
        let mine = self.takeover.holders().values().any(|spoke| spoke == me);
        self.takeover.has_left()
            && self
                .stopping
                .is_some_and(|since| !mine || since.elapsed() >= HEIR)
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if let Some(takeover) = &self.start.config.takeover
            && self.port.is_none()
            && now >= self.port_due
        {
            match self.start.open_port(takeover.health_port) {
                Ok(port) => {
                    self.teller = Some(port.teller());
                    self.port = Some(port);
                }
                Err(problem) => {
                    if self.port_problem.as_ref() != Some(&problem) {
                        warn!("{problem}");
                    }
                    self.port_problem = Some(problem);
                    self.port_due = now + AGAIN;
                }
            }
        }
        if self.takeover.tick(now) && self.tables.task.is_none() {
            let vpc = self.vpc.clone();
            self.tables.ask(async move { vpc.route_tables().await });
        }
        if let Some(takeover) = &self.start.config.takeover
            && self.siblings.is_due()
        {
            let (vpc, tags) = (self.vpc.clone(), takeover.siblings.clone());
            self.siblings.ask(async move { vpc.siblings(&tags).await });
        }
        if self.start.config.source_dest_check == SourceDestCheck::Off && self.check.is_due() {
            let (vpc, interface) = (self.vpc.clone(), self.takeover.me().interface.clone());
            self.check
                .ask(async move { vpc.switch_source_dest_check_off(&interface).await });
        }
        if let Some(port) = &mut self.port {
            port.set_secret(self.start.told.borrow().0.secret.clone());
            let errors = port.watch(&self.takeover.asked());
            self.port_problem = errors.first().map(ToString::to_string);
        }
        if let Some(teller) = &self.teller {
            teller.say(self.takeover.report(now));
        }
        self.show();
    }

    /// What keeps this spoke from serving, of all that is tested.
    fn sick(&self) -> Option<String> {
        let told = self.start.told.borrow();
        let (local, at) = &*told;
        if at.elapsed() > STALE {
            return Some("the daemon's main loop does not go on".to_owned());
        }
        let tester = self.start.tester.as_ref().map(SelfTester::report);
        let tested = tester.and_then(|report| report.problem());
        let wants_check_off = self.start.config.source_dest_check == SourceDestCheck::Off;
        let check = (wants_check_off && !self.check_off).then(|| {
            "EC2's check of sources and destinations is not known to be off at this instance"
                .to_owned()
        });
        // They would take it for lost, and it would take its tables back, for ever.
        let mute = self.start.config.takeover.is_some() && self.port.is_none();
        let mute = mute.then(|| "its siblings cannot ask how it is".to_owned());
        local.problem.clone().or(tested).or(check).or(mute)
    }

    fn test(&mut self) {
        let result = self.sick().map_or(Ok(()), Err);
        self.takeover.tested(result, Instant::now());
    }

    fn observed(&mut self, observation: Observation) {
        let Observation {
            sibling,
            asked,
            answer,
        } = observation;
        let answer = match answer {
            Ok(report) => Some(report),
            Err(Silence::NoAnswer | Silence::Rejected(_)) => None,
            // That is our own fault, and says nothing of the sibling.
            Err(_) => return,
        };
        self.takeover
            .observed(&sibling, asked, answer, Instant::now());
    }

    fn found(&mut self, found: &Siblings) {
        let me = &self.start.identity.instance;
        if !found.spokes.contains_key(me) && !found.incomplete.contains_key(me) {
            self.siblings.problem = Some(
                "this instance does not have the tags of routes.siblings, so that its siblings \
                 do not know it: none stands in for it"
                    .to_owned(),
            );
        }
        self.takeover.discovered(found, Instant::now());
    }

    fn looked(&mut self, tables: Option<Tables>) {
        let now = Instant::now();
        let Some(tables) = tables else {
            return self.takeover.look_failed(now);
        };
        let decision = self.takeover.looked(tables.into_values().collect(), now);
        let conflicts = decision.conflicts.iter().map(ToString::to_string);
        let conflicts: Vec<String> = conflicts.collect();
        for conflict in conflicts.iter().filter(|new| !self.conflicts.contains(new)) {
            warn!("{conflict}");
        }
        self.conflicts = conflicts;
        self.failures
            .retain(|(place, _)| !decision.in_order.contains(place));
        let mut changes = Vec::new();
        for one in decision.moves {
            if self.takeover.still(&one.change, now) {
                let RouteChange {
                    table, destination, ..
                } = &one.change;
                info!(%table, %destination, why = %one.why, "moves a route");
                self.taken_over += u64::from(matches!(one.why, Reason::Takeover { .. }));
                changes.push(one.change);
            }
        }
        if changes.is_empty() {
            return;
        }
        let vpc = self.vpc.clone();
        self.changing = Some(tokio::spawn(async move {
            let outcomes = vpc.change_routes(&changes).await;
            changes.into_iter().zip(outcomes).collect()
        }));
    }

    fn changed(&mut self, changed: Changed) {
        for (change, outcome) in changed {
            let place = Place {
                table: change.table.clone(),
                destination: change.destination,
            };
            self.failures.retain(|(failed, _)| *failed != place);
            let now = Instant::now();
            self.takeover.applied(&change, outcome.as_ref().ok(), now);
            let RouteChange {
                table, destination, ..
            } = &change;
            match outcome {
                Ok(RouteOutcome::Done) => self.moved += 1,
                Ok(outcome) => info!(%table, %destination, ?outcome, "somebody was faster"),
                Err(error) => {
                    warn!(%table, %destination, %error, "the route stays");
                    let problem = format!("{table}: the route to {destination} stays: {error}");
                    self.failures.push((place, problem));
                }
            }
        }
        self.save();
    }

    fn save(&mut self) {
        let memory = self.takeover.memory(Instant::now(), Timestamp::now());
        let error = self.start.state.save(&memory, Timestamp::now()).err();
        self.state_problem = error.map(|error| {
            let path = self.start.state.path().display();
            format!("{path}: {:#}", anyhow::Error::from(error))
        });
        self.saved = Some(memory);
    }

    /// Keeps what a restart must know, and shows the rest.
    fn show(&mut self) {
        let now = Instant::now();
        let memory = self.takeover.memory(now, Timestamp::now());
        let same = |saved: &Memory| {
            saved.spokes == memory.spokes
                && saved.hold_seconds == memory.hold_seconds
                && saved.running == memory.running
        };
        if !self.saved.as_ref().is_some_and(same) {
            self.save();
        }
        let home = self.takeover.home();
        let routes = self.takeover.holders().iter();
        let routes = routes.map(|(place, spoke)| RouteStatus {
            table: place.table.clone(),
            destination: place.destination,
            spoke: Some(spoke.clone()),
            home: home.contains(&place.table),
        });
        let siblings = self.takeover.siblings();
        let siblings = siblings.map(|(instance, state)| SiblingStatus {
            instance: instance.clone(),
            state: state.to_string(),
        });
        let view = View {
            status: RoutesStatus {
                sick: self.sick(),
                siblings: siblings.collect(),
                routes: routes.collect(),
                moved: self.moved,
                taken_over: self.taken_over,
            },
            problems: self.problems(),
        };
        self.start.show.send_if_modified(|shown| {
            let news = *shown != view;
            *shown = view;
            news
        });
    }

    fn problems(&self) -> Vec<String> {
        let sick = self.sick();
        let sick = sick.map(|why| format!("serves no VPC routes: {why}"));
        sick.iter()
            .chain(&self.port_problem)
            .chain(&self.siblings.problem)
            .chain(&self.tables.problem)
            .chain(&self.check.problem)
            .chain(&self.state_problem)
            .chain(self.failures.iter().map(|(_, problem)| problem))
            .chain(&self.conflicts)
            .cloned()
            .collect()
    }
}

async fn tested(tester: &mut Option<SelfTester>) -> Report {
    match tester {
        Some(tester) => tester.changed().await,
        None => std::future::pending().await,
    }
}

async fn observed(port: &mut Option<HealthPort>) -> Observation {
    match port {
        Some(port) => port.next().await,
        None => std::future::pending().await,
    }
}

/// What became of the changes under way; never, while there are none. Cancel-safe.
async fn changed(changing: &mut Option<JoinHandle<Changed>>) -> Changed {
    let Some(task) = changing else {
        return std::future::pending().await;
    };
    let result = task.await;
    *changing = None;
    result.unwrap_or_else(|error| {
        warn!(%error, "changing routes broke off");
        Vec::new()
    })
}
