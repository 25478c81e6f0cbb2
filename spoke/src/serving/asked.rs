//! A question to EC2 that is asked again and again.

use std::time::{Duration, Instant};

use privnet_ec2::Ec2Error;
use tokio::task::JoinHandle;
use tracing::warn;

/// After a question that failed.
pub(super) const AGAIN: Duration = Duration::from_secs(5);

/// One question, of which one at a time is under way.
pub(super) struct Asked<T> {
    pub(super) task: Option<JoinHandle<Result<T, Ec2Error>>>,
    due: Instant,
    pub(super) problem: Option<String>,
}

impl<T: Send + 'static> Asked<T> {
    pub(super) fn new() -> Self {
        Self {
            task: None,
            due: Instant::now(),
            problem: None,
        }
    }

    pub(super) fn is_due(&self) -> bool {
        self.task.is_none() && Instant::now() >= self.due
    }

    pub(super) fn ask(
        &mut self,
        question: impl Future<Output = Result<T, Ec2Error>> + Send + 'static,
    ) {
        self.task = Some(tokio::spawn(question));
    }

    /// The answer; never, while nothing was asked. Cancel-safe.
    pub(super) async fn answered(&mut self, pause: Duration) -> Option<T> {
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
            warn!(problem, "asking EC2");
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
