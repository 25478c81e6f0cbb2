//! Keeps what a restart must know, beside the loop: a disk that stalls for a second would
//! make this spoke look lost, to itself as well.

use jiff::Timestamp;
use privnet_reconcile::takeover::Memory;
use privnet_runtime::state_file::StateFile;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The task that writes. What is newer takes the place of what it has not begun.
pub(super) struct Keeper {
    newest: watch::Sender<Memory>,
    problem: watch::Receiver<Option<String>>,
    task: JoinHandle<()>,
}

impl Keeper {
    /// Writes nothing before it is told.
    pub(super) fn start(state: StateFile) -> Self {
        let (newest, told) = watch::channel(Memory::default());
        let (tell, problem) = watch::channel(None);
        let task = tokio::spawn(write(state, told, tell));
        Self {
            newest,
            problem,
            task,
        }
    }

    pub(super) fn keep(&self, memory: Memory) {
        self.newest.send_replace(memory);
    }

    /// What was to be kept last.
    pub(super) fn kept(&self) -> Memory {
        self.newest.borrow().clone()
    }

    /// Why it is not kept.
    pub(super) fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }

    /// Waits until the last is written.
    pub(super) async fn end(self) {
        drop(self.newest);
        // It ends by itself.
        let _ = self.task.await;
    }
}

async fn write(
    state: StateFile,
    mut told: watch::Receiver<Memory>,
    tell: watch::Sender<Option<String>>,
) {
    while told.changed().await.is_ok() {
        let memory = told.borrow_and_update().clone();
        let file = state.clone();
        let written = tokio::task::spawn_blocking(move || file.save(&memory, Timestamp::now()));
        let problem = match written.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{:#}", anyhow::Error::from(error))),
            Err(error) => Some(format!("writing broke off: {error}")),
        };
        let path = state.path().display();
        tell.send_replace(problem.map(|problem| format!("{path}: {problem}")));
    }
}
