//! Siblings that stay lost: looked at, stopped and started or reported, as
//! `privnet_reconcile::remedy` decides. What is about to be done is on the disk before EC2
//! is asked for it, so that a daemon that ends in between goes on where it was.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use privnet_ec2::{AutoScaling, Ec2Error, MachineChoice, Mutation, Permission, Vpc};
use privnet_model::config::spoke::TakeoverConfig;
use privnet_model::id::InstanceId;
use privnet_model::status::RemedyStatus;
use privnet_model::vpc::{Machine, MachineState, StopOutcome};
use privnet_reconcile::remedy::{Action, Journal, Look, Outcome, Remedy};
use privnet_runtime::state_file::{Loaded, StateFile};
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{info, warn};

use super::asked::Asked;
use super::server::Server;
use super::start::Start;

type Machines = BTreeMap<InstanceId, Machine>;

/// What came of an action, and why it failed if it did.
pub(super) struct Acted {
    action: Action,
    outcome: Outcome,
    problem: Option<String>,
}

/// What EC2 said.
pub(super) enum News {
    /// How the instances are; nothing if it did not say.
    Looked(Option<Machines>),
    /// What came of an action; nothing if that is not known.
    Acted(Option<Acted>),
}

/// The remedies, and what is asked about them.
pub(super) struct Remedies {
    config: TakeoverConfig,
    machine: Remedy,
    file: StateFile,
    look: Asked<Machines>,
    acting: Option<JoinHandle<Acted>>,
    /// What is written now or was last.
    kept: Journal,
    keeping: Option<JoinHandle<Result<(), String>>>,
    problem: Option<String>,
}

impl Remedies {
    pub(super) fn new(start: &Start) -> Option<Self> {
        let config = start.config.takeover.clone()?;
        let file = start.journal.clone();
        let journal: Journal = match file.load(Timestamp::now()) {
            Loaded::Found { data, .. } => data,
            Loaded::Missing | Loaded::Ignored { .. } => Journal::default(),
        };
        let me = start.identity.instance.clone();
        Some(Self {
            machine: Remedy::new(me, config.remedy, journal.clone()),
            config,
            file,
            look: Asked::new(),
            acting: None,
            kept: journal,
            keeping: None,
            problem: None,
        })
    }

    /// Nothing where no remedy is wanted, nor one under way.
    pub(super) fn status(&self) -> Option<RemedyStatus> {
        let siblings = match self.config.remedy {
            Some(_) => self.machine.told(),
            None => {
                let journal = self.machine.journal();
                let owed = |instance: &InstanceId| {
                    let record = journal.records.get(instance);
                    record.is_some_and(|record| record.stop.is_some())
                };
                let mut told = self.machine.told();
                told.retain(|one| owed(&one.instance));
                told
            }
        };
        if self.config.remedy.is_none() && siblings.is_empty() {
            return None;
        }
        let counts = self.machine.counts();
        Some(RemedyStatus {
            restarted: counts.restarted,
            reported: counts.reported,
            failed: counts.failed,
            siblings,
        })
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let told = self.machine.problems(Timestamp::now());
        let mut problems: Vec<String> = self.problem.iter().cloned().collect();
        problems.extend(self.look.problem.clone());
        problems.extend(told);
        problems
    }

    /// What changed without an action is written beside the loop; the next tick sees to
    /// what comes meanwhile.
    fn keep(&mut self) {
        let under_way = self.keeping.as_ref();
        if under_way.is_some_and(|task| !task.is_finished()) {
            return;
        }
        self.keeping = None;
        if self.kept == *self.machine.journal() || self.acting.is_some() {
            return;
        }
        self.kept = self.machine.journal().clone();
        let (file, journal) = (self.file.clone(), self.kept.clone());
        self.keeping = Some(tokio::spawn(async move {
            let saved = save(file, journal).await;
            if let Err(problem) = &saved {
                warn!("{problem}");
            }
            saved
        }));
    }
}

/// The next answer; never, while nothing was asked. Cancel-safe.
pub(super) async fn news(remedies: &mut Option<Remedies>) -> News {
    let Some(remedies) = remedies else {
        return std::future::pending().await;
    };
    tokio::select! {
        machines = remedies.look.answered(Duration::ZERO) => News::Looked(machines),
        acted = acted(&mut remedies.acting) => News::Acted(acted),
    }
}

async fn acted(acting: &mut Option<JoinHandle<Acted>>) -> Option<Acted> {
    let Some(task) = acting else {
        return std::future::pending().await;
    };
    let result = task.await;
    *acting = None;
    result
        .inspect_err(|error| warn!(%error, "a remedy broke off"))
        .ok()
}

impl Server {
    pub(super) fn tick_remedies(&mut self, now: Instant) {
        let Some(remedies) = &mut self.remedies else {
            return;
        };
        let outlook = self.takeover.outlook(now);
        let look = remedies.machine.tick(&outlook, now, Timestamp::now());
        if let Some(look) = look
            && remedies.look.task.is_none()
        {
            let vpc = self.vpc.clone();
            let choice = match look {
                Look::Siblings => MachineChoice::Tagged(remedies.config.siblings.clone()),
                Look::One(instance) => MachineChoice::One(instance),
            };
            remedies
                .look
                .ask(async move { vpc.machines(&choice).await });
        }
        if remedies.machine.is_idle() {
            remedies.look.problem = None;
            remedies.problem = None;
        }
        remedies.keep();
    }

    /// What is known last is on the disk then.
    pub(super) async fn end_remedies(&mut self) {
        if let Some(mut remedies) = self.remedies.take() {
            remedies.acting = None;
            if let Some(keeping) = remedies.keeping.take() {
                let _ = keeping.await;
            }
            remedies.keep();
            if let Some(keeping) = remedies.keeping.take() {
                let _ = keeping.await;
            }
        }
    }

    pub(super) fn heard_of_remedies(&mut self, news: News) {
        let now = Instant::now();
        let outlook = self.takeover.outlook(now);
        let Some(remedies) = &mut self.remedies else {
            return;
        };
        match news {
            News::Looked(None) => remedies.machine.look_failed(now),
            News::Looked(Some(machines)) => {
                let wall = Timestamp::now();
                let action = remedies.machine.looked(&machines, &outlook, now, wall);
                let Some(action) = action else {
                    return;
                };
                let instance = action.instance();
                let silent = outlook.siblings.get(instance).map(|seen| seen.silent);
                let what = what(&action);
                warn!(%instance, ?silent, "a sibling stays lost: {what}");
                remedies.kept = remedies.machine.journal().clone();
                let doing = Doing {
                    before: remedies.keeping.take(),
                    file: remedies.file.clone(),
                    journal: remedies.kept.clone(),
                    vpc: self.vpc.clone(),
                    groups: AutoScaling::new(&self.context, &self.start.identity.region),
                };
                remedies.acting = Some(tokio::spawn(doing.run(action)));
            }
            News::Acted(None) => remedies.machine.acted(Outcome::Unknown, now),
            News::Acted(Some(acted)) => {
                let Acted {
                    action,
                    outcome,
                    problem,
                } = acted;
                let instance = action.instance();
                remedies.machine.acted(outcome, now);
                match &problem {
                    Some(problem) => warn!("{problem}"),
                    None => info!(%instance, ?outcome, "{}", what(&action)),
                }
                remedies.problem = problem;
            }
        }
    }
}

fn what(action: &Action) -> &'static str {
    match action {
        Action::Stop { force: false, .. } => "has it stopped, to start it again",
        Action::Stop { force: true, .. } => "has it stopped by force, as it does not stop",
        Action::Start { .. } => "has it started again",
        Action::Report { .. } => "reports it to its Auto Scaling group as unhealthy",
    }
}

/// What an action needs.
struct Doing {
    /// What is still being written.
    before: Option<JoinHandle<Result<(), String>>>,
    file: StateFile,
    journal: Journal,
    vpc: Vpc,
    groups: AutoScaling,
}

impl Doing {
    async fn run(self, action: Action) -> Acted {
        let (outcome, problem) = self.act(&action).await;
        let problem = problem.map(|problem| {
            let instance = action.instance();
            format!("no remedy for {instance}, which is lost: {problem}")
        });
        Acted {
            action,
            outcome,
            problem,
        }
    }

    async fn act(self, action: &Action) -> (Outcome, Option<String>) {
        if let Some(before) = self.before {
            // What it did not write is written now.
            let _ = before.await;
        }
        // A stop that nobody remembers would have no end. A start is the end itself.
        let saved = save(self.file, self.journal).await;
        let is_start = matches!(action, Action::Start { .. });
        if let Err(problem) = saved.or_else(|problem| match is_start {
            true => Ok(()),
            false => Err(problem),
        }) {
            return (Outcome::Refused, Some(problem));
        }
        match action {
            Action::Stop {
                instance,
                force: false,
            } => {
                // Who may stop and not start would leave it stopped.
                let instance = instance.clone();
                let start = Mutation::StartInstance {
                    instance: instance.clone(),
                };
                match self.vpc.permission(&start).await {
                    Permission::Permitted => stopped(&self.vpc, &instance, false).await,
                    Permission::Denied(error) | Permission::Unclear(error) => {
                        (Outcome::Refused, Some(error.to_string()))
                    }
                }
            }
            Action::Stop {
                instance,
                force: true,
            } => stopped(&self.vpc, instance, true).await,
            Action::Start { instance } => match self.vpc.start_instance(instance).await {
                Ok(()) => (Outcome::Done, None),
                Err(error) => failed(&error),
            },
            Action::Report { instance } => match self.groups.report_unhealthy(instance).await {
                Ok(()) => (Outcome::Done, None),
                Err(error) if error.may_be_done() => (Outcome::Unknown, Some(error.to_string())),
                Err(error) => (Outcome::Refused, Some(error.to_string())),
            },
        }
    }
}

async fn stopped(vpc: &Vpc, instance: &InstanceId, force: bool) -> (Outcome, Option<String>) {
    match vpc.stop_instance(instance, force).await {
        Ok(StopOutcome::Done) => (Outcome::Done, None),
        Ok(StopOutcome::WasNot(MachineState::Unclear)) => (Outcome::Unknown, None),
        Ok(StopOutcome::WasNot(_)) => (Outcome::Overtaken, None),
        Err(error) => failed(&error),
    }
}

fn failed(error: &Ec2Error) -> (Outcome, Option<String>) {
    let outcome = match error.is_temporary() {
        true => Outcome::Unknown,
        false => Outcome::Refused,
    };
    (outcome, Some(error.to_string()))
}

async fn save(file: StateFile, journal: Journal) -> Result<(), String> {
    let path = file.path().display().to_string();
    let written = spawn_blocking(move || file.save(&journal, Timestamp::now()));
    match written.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("{:#}", anyhow::Error::from(error))),
        Err(error) => Err(format!("{path}: writing broke off: {error}")),
    }
}
