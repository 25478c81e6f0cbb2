//! The loop: what is asked, what is heard, and whom that is told.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use privnet_ec2::{SdkContext, Vpc};
use privnet_model::config::spoke::SourceDestCheck;
use privnet_model::vpc::Siblings;
use privnet_reconcile::self_test::Report;
use privnet_reconcile::takeover::{Memory, Takeover};
use privnet_reconcile::vpc_route::Place;
use privnet_runtime::connections::Connections;
use privnet_runtime::health_port::{HealthPort, Observation, Silence, Teller};
use privnet_runtime::self_test::SelfTester;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::address::{Addresses, News};
use super::asked::{AGAIN, Asked};
use super::connections;
use super::keeper::Keeper;
use super::refused::Refused;
use super::remedy::{self, Remedies};
use super::routes::{Changed, Changing, Tables};
use super::start::Start;

/// `Takeover::tick` wants to be called four times a second.
const TICK: Duration = Duration::from_millis(200);
/// How often EC2 is asked which spokes run in the VPC.
const SIBLINGS: Duration = Duration::from_secs(15);
/// How often it is seen to that the check of sources stays off.
const CHECK: Duration = Duration::from_secs(300);
/// How old what the main loop told may be.
const STALE: Duration = Duration::from_secs(15);
/// How long a spoke that stops looks for somebody to hand over to: an answer that was
/// lost comes with the next question.
const HEIR: Duration = Duration::from_secs(3);
/// When the hub is greeted after an address moved. EC2's answer comes before the change
/// is in force (0.1 s in the tests, where one greeting at once left the hub with the old
/// address until the next keepalive, 25 s); how long after it is not documented.
const GREETINGS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// The task's state, once EC2 has told who this spoke is.
pub(super) struct Server {
    pub(super) start: Start,
    pub(super) context: SdkContext,
    pub(super) vpc: Vpc,
    pub(super) takeover: Takeover,
    pub(super) addresses: Option<Addresses>,
    pub(super) connections: Option<Connections>,
    /// What is done about siblings that stay lost; nothing without siblings, unless one is
    /// still to be started.
    pub(super) remedies: Option<Remedies>,
    port: Option<HealthPort>,
    teller: Option<Teller>,
    pub(super) siblings: Asked<Siblings>,
    pub(super) refused: Refused,
    pub(super) tables: Asked<Tables>,
    pub(super) changing: Option<Changing>,
    pub(super) check: Asked<privnet_ec2::SourceDestCheck>,
    pub(super) conflicts: Vec<String>,
    pub(super) failures: Vec<(Place, String)>,
    pub(super) port_problem: Option<String>,
    pub(super) connections_problem: Option<String>,
    /// When the port is tried again.
    port_due: Instant,
    pub(super) connections_due: Instant,
    /// Whether the check of sources was known to be off.
    check_off: bool,
    /// Since when the spoke stops.
    stopping: Option<Instant>,
    /// When the hub is to hear from us by our new address.
    greetings: VecDeque<Instant>,
    pub(super) keeper: Keeper<Memory>,
    pub(super) moved: u64,
}

impl Server {
    pub(super) fn new(
        start: Start,
        context: SdkContext,
        mut takeover: Takeover,
        addresses: Option<Addresses>,
        remedies: Option<Remedies>,
    ) -> Self {
        if addresses.is_some() {
            takeover.keep_all();
        }
        Self {
            vpc: start.vpc(&context),
            context,
            takeover,
            addresses,
            connections: None,
            remedies,
            port: None,
            teller: None,
            siblings: Asked::new(),
            refused: Refused::default(),
            tables: Asked::new(),
            changing: None,
            check: Asked::new(),
            conflicts: Vec::new(),
            failures: Vec::new(),
            port_problem: None,
            connections_problem: None,
            port_due: Instant::now(),
            connections_due: Instant::now(),
            check_off: false,
            stopping: None,
            greetings: VecDeque::new(),
            keeper: Keeper::start(start.state.clone(), Memory::default()),
            moved: 0,
            start,
        }
    }

    pub(super) async fn run(mut self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Without targets nothing but what the main loop tells is there to test.
        let mut test = interval(self.start.test_interval);
        test.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let leave = Arc::clone(&self.start.leave);
        let mut told_to_leave = pin!(leave.notified());
        let mut was_bad = false;
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
                    // And once more when it passes again: what could not be put right while
                    // the network was away can be now.
                    let is_bad = report.bad_rounds > 0;
                    if is_bad || was_bad {
                        self.start.mend.notify_one();
                    }
                    was_bad = is_bad;
                    self.test();
                }
                observation = observed(&mut self.port) => self.observed(observation),
                found = self.siblings.answered(SIBLINGS) => if let Some(found) = found {
                    self.found(&found);
                },
                tables = self.tables.answered(Duration::ZERO) => self.looked(tables),
                changed = changed(&mut self.changing) => self.changed(changed),
                news = news(&mut self.addresses) => self.heard_of_addresses(news),
                news = remedy::news(&mut self.remedies) => self.heard_of_remedies(news),
                hint = connections::hint(&self.connections) => self.hinted(hint),
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
            self.withdraw();
            self.withdraw_remedy();
        }
        self.save();
        self.end_remedies().await;
        self.keeper.end().await;
    }

    /// Whether the spoke stops, and has nothing left or nobody to leave it to.
    fn has_left(&self) -> bool {
        let me = &self.start.identity.instance;
        let mine = self.takeover.holders().values().any(|spoke| spoke == me);
        self.takeover.has_left()
            && self.has_given_address_away()
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
        self.tick_connections(now);
        let tunnel = self.start.told.borrow().0.tunnel;
        self.takeover.tunnel(tunnel, now);
        if self.takeover.tick(now) && self.tables.task.is_none() {
            let vpc = self.vpc.clone();
            self.tables.ask(async move { vpc.route_tables().await });
        }
        self.tick_addresses(now);
        self.greet(now);
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
            let asked = self.takeover.asked();
            self.refused.forget(&asked, now);
            let errors = port.watch(&asked);
            self.port_problem = errors.first().map(ToString::to_string);
            for (sibling, at) in port.asked_by() {
                self.takeover.asked_by(&sibling, at);
            }
        }
        self.tick_remedies(now);
        if let Some(teller) = &self.teller {
            teller.say(self.takeover.report(now));
        }
        self.show();
    }

    /// What keeps this spoke from serving, of all that is tested.
    pub(super) fn sick(&self) -> Option<String> {
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
        let now = Instant::now();
        self.refused.hear(&sibling, &answer, now);
        let answer = match answer {
            Ok(report) => Some(report),
            Err(Silence::NoAnswer | Silence::Rejected(_)) => None,
            // That is our own fault, and says nothing of the sibling.
            Err(_) => return,
        };
        self.takeover.observed(&sibling, asked, answer, now);
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

    /// The spoke has another public address, or is about to: what was said by the old
    /// one is answered there, so EC2 is asked by new connections, and the hub is to hear
    /// from us.
    pub(super) fn has_roamed(&mut self) {
        self.context = self.context.with_new_connections();
        self.vpc = self.start.vpc(&self.context);
        let now = Instant::now();
        self.greetings = GREETINGS.map(|seconds| now + seconds).into();
    }

    fn greet(&mut self, now: Instant) {
        let due = self.greetings.iter().take_while(|at| now >= **at).count();
        if due > 0 {
            self.greetings.drain(..due);
            self.start.roamed.notify_one();
        }
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
async fn changed(changing: &mut Option<Changing>) -> Changed {
    let Some(under_way) = changing else {
        return std::future::pending().await;
    };
    let result = (&mut under_way.task).await;
    *changing = None;
    result.unwrap_or_else(|error| {
        warn!(%error, "changing routes broke off");
        Vec::new()
    })
}

async fn news(addresses: &mut Option<Addresses>) -> News {
    match addresses {
        Some(addresses) => addresses.news().await,
        None => std::future::pending().await,
    }
}
