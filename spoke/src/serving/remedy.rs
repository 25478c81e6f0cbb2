//! Siblings that stay lost: looked at, stopped and started or reported, as
//! `privnet_reconcile::remedy` decides. What is about to be done is on the disk before EC2
//! is asked for it, so that a daemon that ends in between goes on where it was.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use privnet_ec2::{AutoScaling, Ec2Error, MachineChoice, Mutation, Permission, Vpc};
use privnet_model::id::InstanceId;
use privnet_model::status::RemedyStatus;
use privnet_model::vpc::{Machine, MachineState, StopOutcome};
use privnet_reconcile::remedy::{Action, EXPIRES, Journal, Look, Outcome, Remedy};
use privnet_runtime::state_file::Loaded;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use super::asked::Asked;
use super::keeper::{Keeper, Written, is_written};
use super::routes::AWAY;
use super::server::Server;
use super::start::{PATIENCE, Start};

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
    /// The tags of the siblings.
    siblings: BTreeMap<String, String>,
    /// Whether the config asks for any.
    wanted: bool,
    machine: Remedy,
    keeper: Keeper<Journal>,
    look: Asked<Machines>,
    acting: Option<Acting>,
    problem: Option<String>,
}

/// An action under way: ended with this, if EC2 was not asked for it yet.
struct Acting {
    task: JoinHandle<Acted>,
    /// When the loop said last that it is wanted; nothing once it said that it is not.
    wanted: watch::Sender<Option<Instant>>,
}

impl Drop for Acting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Remedies {
    /// Nothing without siblings, unless one is to be started that was stopped before.
    pub(super) fn new(start: &Start) -> Option<Self> {
        let now = Timestamp::now();
        let (known, journal) = match start.journal.load::<Journal>(now) {
            Loaded::Found { data, .. } => (data.clone(), data),
            Loaded::Missing => (Journal::default(), Journal::default()),
            Loaded::Ignored { .. } => (Journal::default(), Journal::anew(now)),
        };
        let takeover = start.config.takeover.as_ref();
        if takeover.is_none() && journal.owed().is_none() {
            return None;
        }
        let config = takeover.and_then(|takeover| takeover.remedy);
        let me = start.identity.instance.clone();
        Some(Self {
            siblings: takeover.map_or_else(BTreeMap::new, |one| one.siblings.clone()),
            wanted: config.is_some(),
            machine: Remedy::new(me, config, journal),
            keeper: Keeper::start(start.journal.clone(), known),
            look: Asked::new(),
            acting: None,
            problem: None,
        })
    }

    /// Nothing where no remedy is wanted, nor one under way.
    pub(super) fn status(&self) -> Option<RemedyStatus> {
        let mut siblings = self.machine.told();
        if !self.wanted {
            let owed = self.machine.journal().owed();
            siblings.retain(|one| Some(&one.instance) == owed);
            if siblings.is_empty() {
                return None;
            }
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
        problems.extend(self.keeper.problem());
        problems.extend(self.look.problem.clone());
        problems.extend(told);
        problems
    }

    /// What changed without an action is written, too; the next tick sees to what comes
    /// while one is under way.
    fn keep(&self) {
        let journal = self.machine.journal();
        if self.acting.is_none() && self.keeper.kept() != *journal {
            self.keeper.keep(journal.clone());
        }
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

async fn acted(acting: &mut Option<Acting>) -> Option<Acted> {
    let Some(under_way) = acting else {
        return std::future::pending().await;
    };
    let result = (&mut under_way.task).await;
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
        if !remedies.machine.is_acting() {
            remedies.acting = None;
        }
        if let Some(look) = look {
            // One that is still under way is given up.
            if let Some(old) = remedies.look.task.take() {
                old.abort();
            }
            let vpc = self.vpc.clone();
            let choice = match look {
                Look::Siblings => MachineChoice::Tagged(remedies.siblings.clone()),
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

    /// Sees to it that nothing is asked for any more that is not to be done now.
    pub(super) fn withdraw_remedy(&mut self) {
        let Some(remedies) = &mut self.remedies else {
            return;
        };
        let Some(acting) = &remedies.acting else {
            return;
        };
        let now = Instant::now();
        let outlook = self.takeover.outlook(now);
        let wanted = remedies.machine.is_wanted(&outlook, now, Timestamp::now());
        // Once it was not it never is again.
        acting
            .wanted
            .send_modify(|at| *at = at.filter(|_| wanted).map(|_| now));
    }

    /// What is known last is on the disk then.
    pub(super) async fn end_remedies(&mut self) {
        let Some(mut remedies) = self.remedies.take() else {
            return;
        };
        // A start that is under way is what this spoke owes; nothing else is begun, as it
        // is about to stop.
        if let Some(acting) = &mut remedies.acting
            && let Ok(Ok(acted)) = timeout(PATIENCE, &mut acting.task).await
        {
            remedies.machine.acted(acted.outcome, Instant::now());
        }
        remedies.acting = None;
        remedies.keep();
        remedies.keeper.end().await;
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
                let journal = remedies.machine.journal().clone();
                remedies.keeper.keep(journal.clone());
                let (wanted, may) = watch::channel(Some(now));
                let doing = Doing {
                    written: remedies.keeper.written(),
                    journal,
                    decided: now,
                    wanted: may,
                    vpc: self.vpc.clone(),
                    groups: AutoScaling::new(&self.context, &self.start.identity.region),
                };
                let task = tokio::spawn(doing.run(action));
                remedies.acting = Some(Acting { task, wanted });
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
        Action::Stop { .. } => "has it stopped, to start it again",
        Action::Start { .. } => "has it started again",
        Action::Report { .. } => "reports it to its Auto Scaling group as unhealthy",
    }
}

/// What an action needs.
struct Doing {
    written: watch::Receiver<Written<Journal>>,
    /// What must be on the disk first.
    journal: Journal,
    decided: Instant,
    wanted: watch::Receiver<Option<Instant>>,
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

    /// Whether EC2 may still be asked. If the loop has not said so for a while it may be
    /// that the whole daemon was stopped.
    fn is_wanted(&self) -> bool {
        let said = *self.wanted.borrow();
        self.decided.elapsed() < EXPIRES && said.is_some_and(|at| at.elapsed() < AWAY)
    }

    async fn act(self, action: &Action) -> (Outcome, Option<String>) {
        let written = is_written(self.written.clone(), &self.journal);
        let written = timeout(PATIENCE, written).await.unwrap_or_else(|_| {
            let seconds = PATIENCE.as_secs();
            Err(format!("its journal was not written within {seconds} s"))
        });
        // A stop that nobody remembers would have no end. A start is the end itself.
        if let Err(problem) = written
            && !matches!(action, Action::Start { .. })
        {
            return (Outcome::Refused, Some(problem));
        }
        if let Action::Stop { instance } = action {
            // Who may stop and not start would leave it stopped.
            let instance = instance.clone();
            match self
                .vpc
                .permission(&Mutation::StartInstance { instance })
                .await
            {
                Permission::Permitted => {}
                Permission::Denied(error) | Permission::Unclear(error) => {
                    return (Outcome::Refused, Some(error.to_string()));
                }
            }
        }
        if !self.is_wanted() {
            return (Outcome::Withdrawn, None);
        }
        match action {
            Action::Stop { instance } => match self.vpc.stop_instance(instance).await {
                Ok(outcome) => (stopped(outcome), None),
                Err(error) => failed(&error),
            },
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

fn stopped(outcome: StopOutcome) -> Outcome {
    match outcome {
        StopOutcome::Done => Outcome::Done,
        StopOutcome::WasNot(
            MachineState::Stopping | MachineState::Stopped | MachineState::Terminated,
        ) => Outcome::Overtaken,
        StopOutcome::WasNot(
            MachineState::Pending | MachineState::Running | MachineState::Unclear,
        ) => Outcome::Unknown,
    }
}

fn failed(error: &Ec2Error) -> (Outcome, Option<String>) {
    let outcome = match error.may_be_done() {
        true => Outcome::Unknown,
        false => Outcome::Refused,
    };
    (outcome, Some(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_that_had_stopped_or_ended_was_stopped_by_somebody_else() {
        for (state, outcome) in [
            (MachineState::Stopping, Outcome::Overtaken),
            (MachineState::Stopped, Outcome::Overtaken),
            (MachineState::Terminated, Outcome::Overtaken),
            (MachineState::Pending, Outcome::Unknown),
            (MachineState::Unclear, Outcome::Unknown),
        ] {
            assert_eq!(stopped(StopOutcome::WasNot(state)), outcome, "{state}");
        }
    }
}
