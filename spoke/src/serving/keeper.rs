//! Keeps what a restart must know, beside the loop: a disk that stalls for a second would
//! make this spoke look lost, to itself as well.

use jiff::Timestamp;
use privnet_runtime::state_file::StateFile;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::asked::AGAIN;

/// The task that writes. What is newer takes the place of what it has not begun.
pub(super) struct Keeper<T> {
    newest: watch::Sender<T>,
    written: watch::Receiver<Written<T>>,
    task: JoinHandle<()>,
}

/// What is on the disk, and why nothing newer is.
pub(super) struct Written<T> {
    data: T,
    problem: Option<String>,
}

impl<T: Clone + Serialize + Send + Sync + 'static> Keeper<T> {
    /// Of a file in which this is. Writes nothing before it is told.
    pub(super) fn start(state: StateFile, data: T) -> Self {
        let (newest, told) = watch::channel(data.clone());
        let problem = None;
        let (tell, written) = watch::channel(Written { data, problem });
        let task = tokio::spawn(write(state, told, tell));
        Self {
            newest,
            written,
            task,
        }
    }

    pub(super) fn keep(&self, data: T) {
        self.newest.send_replace(data);
    }

    /// What was to be kept last.
    pub(super) fn kept(&self) -> T {
        self.newest.borrow().clone()
    }

    /// What is on the disk.
    pub(super) fn written(&self) -> watch::Receiver<Written<T>> {
        self.written.clone()
    }

    /// Why it is not kept.
    pub(super) fn problem(&self) -> Option<String> {
        self.written.borrow().problem.clone()
    }

    /// Waits until the last is written.
    pub(super) async fn end(self) {
        drop(self.newest);
        // It ends by itself.
        let _ = self.task.await;
    }
}

/// Waits until this is on the disk, or tells why it is not.
pub(super) async fn is_written<T: PartialEq>(
    mut written: watch::Receiver<Written<T>>,
    data: &T,
) -> Result<(), String> {
    let ended = |one: &Written<T>| one.data == *data || one.problem.is_some();
    match written.wait_for(ended).await {
        Ok(one) if one.data == *data => Ok(()),
        Ok(one) => Err(one.problem.clone().unwrap_or_default()),
        Err(_) => Err("nothing is written any more".to_owned()),
    }
}

async fn write<T: Clone + Serialize + Send + Sync + 'static>(
    state: StateFile,
    mut told: watch::Receiver<T>,
    tell: watch::Sender<Written<T>>,
) {
    let path = state.path().display().to_string();
    let mut news = told.changed().await;
    while news.is_ok() {
        let newest = told.borrow_and_update().clone();
        let (file, data) = (state.clone(), newest.clone());
        let written = tokio::task::spawn_blocking(move || file.save(&data, Timestamp::now()));
        let problem = match written.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{:#}", anyhow::Error::from(error))),
            Err(error) => Some(format!("writing broke off: {error}")),
        };
        let failed = problem.is_some();
        tell.send_modify(|last| {
            if !failed {
                last.data = newest;
            }
            last.problem = problem.map(|problem| format!("{path}: {problem}"));
        });
        news = match failed {
            true => timeout(AGAIN, told.changed()).await.unwrap_or(Ok(())),
            false => told.changed().await,
        };
    }
}
