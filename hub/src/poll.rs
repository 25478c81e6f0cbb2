//! Asking EC2, one poll at a time, beside the main loop: whoever waits for the
//! next answer, and what to do with it.
//!
//! Answers are taken in together, because among sites that are new the older launch
//! goes first, whichever region answers first. One that hangs holds up the others
//! for [`TOGETHER`] and not longer.

use std::collections::BTreeSet;
use std::time::Duration;

use privnet_ec2::{Discovery, Imds, Known, Scope};
use privnet_model::admin::{Change, RefreshRequest};
use privnet_model::inventory::{Identity, Inventory, Partition, PartitionAnswer};
use privnet_reconcile::inventory::{Accepted, Sweep};
use privnet_runtime::events::Answer;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

/// The answers of EC2 do not wait longer for the hub's own metadata service.
const METADATA_PATIENCE: Duration = Duration::from_secs(10);

/// How long a poll's answers wait for each other.
const TOGETHER: Duration = Duration::from_secs(10);
/// How long those wait that come after that.
const AFTERWARDS: Duration = Duration::from_secs(5);

/// The spokes of which a poll has to tell what became of them.
pub(crate) fn known(inventory: &Inventory) -> Known {
    let partitions = inventory.partitions.iter();
    partitions
        .map(|(partition, view)| (partition.clone(), view.spokes.keys().cloned().collect()))
        .collect()
}

/// An operator who waits.
pub(crate) struct Waiting {
    pub(crate) request: RefreshRequest,
    pub(crate) answer: Answer,
}

/// The poll under way, and those who came too late for it.
#[derive(Default)]
pub(crate) struct Poll {
    running: Option<Running>,
    next: Vec<Waiting>,
    again: bool,
    only: BTreeSet<Partition>,
}

struct Running {
    task: JoinHandle<Result<Identity, String>>,
    answers: mpsc::UnboundedReceiver<PartitionAnswer>,
    /// Those that are not taken in yet.
    came: Vec<PartitionAnswer>,
    /// When they are, though others are still out.
    due: Instant,
    waiting: Vec<Waiting>,
    apply: bool,
    whole: bool,
    /// What was made of those before.
    taken: Taken,
}

/// What a poll's answers made of what was known, so far.
#[derive(Clone)]
pub(crate) struct Taken {
    pub(crate) sweep: Sweep,
    pub(crate) changes: Vec<Change>,
    pub(crate) failures: Vec<String>,
    /// Whether a partition gave no answer.
    pub(crate) failed: bool,
}

/// What a poll brings.
pub(crate) enum Brought {
    /// Some of its answers, to be taken in before the others come.
    Part(Vec<PartitionAnswer>, Taken),
    /// The end.
    End(Box<Ended>),
}

/// A poll that ended.
pub(crate) struct Ended {
    /// The answers that were not taken in yet.
    pub(crate) answers: Vec<PartitionAnswer>,
    /// What was made of the others.
    pub(crate) taken: Taken,
    /// The hub itself: its VPC may have gained a CIDR.
    pub(crate) identity: Result<Identity, String>,
    /// Who waits for it.
    pub(crate) waiting: Vec<Waiting>,
    /// Whether anybody wants it applied.
    pub(crate) apply: bool,
    /// Whether every partition was asked.
    pub(crate) whole: bool,
}

impl Poll {
    /// Wants a poll whose answer is applied. One that is under way may have
    /// asked before whatever happened just now, so another follows it.
    pub(crate) fn request(&mut self) {
        self.again = true;
    }

    /// The same, of these partitions alone, unless more is wanted meanwhile.
    pub(crate) fn request_only(&mut self, partitions: BTreeSet<Partition>) {
        self.only.extend(partitions);
    }

    /// Wants the answer of a poll that starts after this.
    pub(crate) fn wait(&mut self, request: RefreshRequest, answer: Answer) {
        self.again |= !request.dry_run;
        self.next.push(Waiting { request, answer });
    }

    /// Starts a poll if one is wanted and none runs.
    pub(crate) fn start(&mut self, discovery: &Discovery, imds: &Imds, inventory: &Inventory) {
        let whole = self.again || !self.next.is_empty();
        if self.running.is_some() || (!whole && self.only.is_empty()) {
            return;
        }
        let only = std::mem::take(&mut self.only);
        let (scope, apply) = match whole {
            true => (Scope::All, std::mem::take(&mut self.again)),
            false => (Scope::Only(only), true),
        };
        let waiting = std::mem::take(&mut self.next);
        let sweep = Sweep::begin(inventory, accepted(&waiting, apply));
        let discovery = discovery.clone();
        let imds = imds.clone();
        let known = known(inventory);
        let (tell, answers) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let ((), identity) = tokio::join!(
                discovery.poll_each(&known, &scope, tell),
                timeout(METADATA_PATIENCE, imds.identity())
            );
            match identity {
                Ok(identity) => identity.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {METADATA_PATIENCE:?}")),
            }
        });
        self.running = Some(Running {
            task,
            answers,
            came: Vec::new(),
            due: Instant::now() + TOGETHER,
            waiting,
            apply,
            whole,
            taken: Taken {
                sweep,
                changes: Vec::new(),
                failures: Vec::new(),
                failed: false,
            },
        });
    }

    /// What the poll under way brings next; an error when it broke off (a bug, not
    /// EC2), with those who wait. Never, while there is none. Cancel-safe.
    pub(crate) async fn brought(&mut self) -> Result<Brought, (String, Vec<Waiting>)> {
        let Some(running) = &mut self.running else {
            return std::future::pending().await;
        };
        loop {
            tokio::select! {
                answer = running.answers.recv() => match answer {
                    Some(answer) => running.came.push(answer),
                    None => break,
                },
                // Who only asks what would be, is told of all at once.
                () = sleep_until(running.due), if running.apply && !running.came.is_empty() => {
                    running.due = Instant::now() + AFTERWARDS;
                    let came = std::mem::take(&mut running.came);
                    return Ok(Brought::Part(came, running.taken.clone()));
                }
            }
        }
        let result = (&mut running.task).await;
        let Some(running) = self.running.take() else {
            return std::future::pending().await;
        };
        match result {
            Ok(identity) => Ok(Brought::End(Box::new(Ended {
                answers: running.came,
                taken: running.taken,
                identity,
                waiting: running.waiting,
                apply: running.apply,
                whole: running.whole,
            }))),
            Err(error) => Err((format!("the poll broke off: {error}"), running.waiting)),
        }
    }

    /// Goes on after a part was taken in.
    pub(crate) fn go_on(&mut self, taken: Taken) {
        if let Some(running) = &mut self.running {
            running.taken = taken;
        }
    }
}

/// What the operators who wait let go. Who only asks what would be, accepts nothing
/// for others.
fn accepted(waiting: &[Waiting], apply: bool) -> Accepted {
    let mut accepted = Accepted::default();
    for Waiting { request, .. } in waiting {
        if !apply || !request.dry_run {
            accepted.held |= request.accept_removals;
            accepted.instances.extend(request.remove.iter().cloned());
        }
    }
    accepted
}
