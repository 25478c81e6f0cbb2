//! Asking EC2, one poll at a time, beside the main loop: whoever waits for the
//! next answer, and what to do with it.

use std::time::Duration;

use privnet_ec2::{Discovery, Imds, Known};
use privnet_model::admin::RefreshRequest;
use privnet_model::inventory::{Identity, Inventory, PartitionAnswer};
use privnet_runtime::events::Answer;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The answers of EC2 do not wait longer for the hub's own metadata service.
const METADATA_PATIENCE: Duration = Duration::from_secs(10);

/// The spokes of which a poll has to tell what became of them.
pub(crate) fn known(inventory: &Inventory) -> Known {
    let partitions = inventory.partitions.iter();
    partitions
        .map(|(partition, view)| (partition.clone(), view.spokes.keys().cloned().collect()))
        .collect()
}

/// What a poll brought.
pub(crate) struct Polled {
    /// One answer per partition.
    pub(crate) answers: Vec<PartitionAnswer>,
    /// The hub itself: its VPC may have gained a CIDR.
    pub(crate) identity: Result<Identity, String>,
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
}

struct Running {
    task: JoinHandle<Polled>,
    waiting: Vec<Waiting>,
    apply: bool,
}

/// A poll that ended.
pub(crate) struct Ended {
    /// What it brought; an error when it broke off (a bug, not EC2).
    pub(crate) result: Result<Polled, String>,
    /// Who waits for it.
    pub(crate) waiting: Vec<Waiting>,
    /// Whether anybody wants it applied.
    pub(crate) apply: bool,
}

impl Poll {
    /// Wants a poll whose answer is applied. One that is under way may have
    /// asked before whatever happened just now, so another follows it.
    pub(crate) fn request(&mut self) {
        self.again = true;
    }

    /// Wants the answer of a poll that starts after this.
    pub(crate) fn wait(&mut self, request: RefreshRequest, answer: Answer) {
        self.again |= !request.dry_run;
        self.next.push(Waiting { request, answer });
    }

    /// Starts a poll if one is wanted and none runs.
    pub(crate) fn start(&mut self, discovery: &Discovery, imds: &Imds, inventory: &Inventory) {
        if self.running.is_some() || (!self.again && self.next.is_empty()) {
            return;
        }
        let discovery = discovery.clone();
        let imds = imds.clone();
        let known = known(inventory);
        let task = tokio::spawn(async move {
            let (answers, identity) = tokio::join!(
                discovery.poll(&known),
                timeout(METADATA_PATIENCE, imds.identity())
            );
            let identity = match identity {
                Ok(identity) => identity.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {METADATA_PATIENCE:?}")),
            };
            Polled { answers, identity }
        });
        self.running = Some(Running {
            task,
            waiting: std::mem::take(&mut self.next),
            apply: std::mem::take(&mut self.again),
        });
    }

    /// The end of the poll under way; never, while there is none. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> Ended {
        let Some(running) = &mut self.running else {
            return std::future::pending().await;
        };
        let result = (&mut running.task).await;
        let waiting = std::mem::take(&mut running.waiting);
        let apply = running.apply;
        self.running = None;
        Ended {
            result: result.map_err(|error| format!("the poll broke off: {error}")),
            waiting,
            apply,
        }
    }
}
