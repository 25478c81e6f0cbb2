//! What an instance is told before it goes: that it is a spot instance whose time is
//! over, or that its Auto Scaling group takes it out of service. Who knows in time
//! hands its work over first.
//!
//! Both are asked of the metadata service; AWS recommends every five seconds ("Spot
//! Instance interruption notices", EC2 user guide). A notice is given two minutes
//! ahead, by best effort; an Auto Scaling group waits for as long as its lifecycle
//! hook says, and not at all without one. Either can be taken back.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::imds::{Imds, ImdsError};

/// How often it is asked.
const INTERVAL: Duration = Duration::from_secs(5);

/// Why this instance is about to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// EC2 takes a spot instance back.
    Spot {
        /// What becomes of it.
        action: SpotAction,
        /// When.
        at: Timestamp,
    },
    /// Its Auto Scaling group takes it out of service.
    AutoScaling {
        /// What it is to become.
        target: LifecycleState,
    },
}

/// What becomes of a spot instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpotAction {
    /// It is terminated.
    Terminate,
    /// It is stopped.
    Stop,
    /// It is hibernated, which begins at once.
    Hibernate,
}

/// What an instance of an Auto Scaling group is to become, or is: the values of
/// `autoscaling/target-lifecycle-state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifecycleState {
    /// In service.
    InService,
    /// No instance of the group any more, and running on.
    Detached,
    /// Out of service for a while, for somebody to look at it.
    Standby,
    /// Terminated.
    Terminated,
    /// In the group's warm pool, running, hibernated, stopped or terminated.
    Warmed,
}

impl LifecycleState {
    /// Whether it serves nobody then. (A detached instance is its owner's own to
    /// stop: it goes on.)
    pub(crate) fn is_out_of_service(self) -> bool {
        match self {
            Self::InService | Self::Detached => false,
            Self::Standby | Self::Terminated | Self::Warmed => true,
        }
    }
}

impl FromStr for LifecycleState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "InService" => Ok(Self::InService),
            "Detached" => Ok(Self::Detached),
            "Standby" => Ok(Self::Standby),
            "Terminated" => Ok(Self::Terminated),
            "Warmed:Hibernated" | "Warmed:Running" | "Warmed:Stopped" | "Warmed:Terminated" => {
                Ok(Self::Warmed)
            }
            _ => Err(()),
        }
    }
}

/// What `spot/instance-action` holds, of which AWS adds fields as it likes.
#[derive(Debug, Deserialize)]
pub(crate) struct SpotNotice {
    action: SpotAction,
    time: Timestamp,
}

impl FromStr for SpotNotice {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        serde_json::from_str(text).map_err(|_| ())
    }
}

impl From<SpotNotice> for Departure {
    fn from(notice: SpotNotice) -> Self {
        Self::Spot {
            action: notice.action,
            at: notice.time,
        }
    }
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spot { action, at } => {
                let action = match action {
                    SpotAction::Terminate => "terminates",
                    SpotAction::Stop => "stops",
                    SpotAction::Hibernate => "hibernates",
                };
                write!(f, "EC2 {action} this spot instance at {at}")
            }
            Self::AutoScaling { target } => {
                let target = match target {
                    LifecycleState::Terminated => "terminates this instance",
                    LifecycleState::Standby => "puts this instance on standby",
                    LifecycleState::Warmed => "puts this instance into its warm pool",
                    LifecycleState::InService => "takes this instance into service",
                    LifecycleState::Detached => "lets this instance go",
                };
                write!(f, "the Auto Scaling group {target}")
            }
        }
    }
}

/// Asks every five seconds whether this instance is about to go, until it is dropped.
#[derive(Debug)]
pub struct DepartureWatch {
    known: watch::Receiver<Option<Departure>>,
    _task: JoinSet<()>,
}

impl DepartureWatch {
    /// Begins to ask. Within a Tokio runtime only.
    pub fn start(imds: Imds) -> Self {
        Self::every(imds, INTERVAL)
    }

    pub(crate) fn every(imds: Imds, period: Duration) -> Self {
        let (sender, known) = watch::channel(None);
        let mut task = JoinSet::new();
        task.spawn(ask(imds, period, sender));
        Self { known, _task: task }
    }

    /// What was said last. No answer changes nothing.
    pub fn known(&self) -> Option<Departure> {
        *self.known.borrow()
    }

    /// Waits until it is another. Cancel-safe.
    pub async fn changed(&mut self) -> Option<Departure> {
        if self.known.changed().await.is_err() {
            // Cannot be while this lives: the task ends with it.
            return std::future::pending().await;
        }
        *self.known.borrow_and_update()
    }
}

async fn ask(imds: Imds, period: Duration, known: watch::Sender<Option<Departure>>) {
    let mut clock = interval(period);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut problem: Option<ImdsError> = None;
    loop {
        clock.tick().await;
        match imds.departure().await {
            Ok(departure) => {
                problem = None;
                known.send_if_modified(|known| {
                    let news = *known != departure;
                    match departure {
                        Some(departure) if news => info!("{departure}"),
                        None if news => info!("this instance stays after all"),
                        Some(_) | None => {}
                    }
                    *known = departure;
                    news
                });
            }
            // Once, however long it lasts.
            Err(error) if problem.as_ref() == Some(&error) => {}
            Err(error) => {
                warn!(%error, "whether this instance is about to go is not known");
                problem = Some(error);
            }
        }
    }
}
