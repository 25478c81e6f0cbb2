//! The route tables: looked at, and changed as `takeover` decides.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use privnet_ec2::Ec2Error;
use privnet_model::id::RouteTableId;
use privnet_model::vpc::{RouteChange, RouteOutcome, RouteTable};
use privnet_reconcile::vpc_route::Place;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::server::Server;

/// If the loop has not said for so long which changes are wanted, none is: it may be
/// that the whole daemon was stopped for a while.
pub(super) const AWAY: Duration = Duration::from_millis(1500);

pub(super) type Tables = BTreeMap<RouteTableId, RouteTable>;
pub(super) type Changed = Vec<(RouteChange, Result<RouteOutcome, Ec2Error>)>;

/// Changes that are under way.
pub(super) struct Changing {
    pub(super) task: JoinHandle<Changed>,
    /// Which of them are still wanted, and when that was so.
    wanted: watch::Sender<(Vec<RouteChange>, Instant)>,
}

impl Server {
    pub(super) fn looked(&mut self, tables: Option<Tables>) {
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
                changes.push(one.change);
            }
        }
        if changes.is_empty() {
            return;
        }
        let vpc = self.vpc.clone();
        let (wanted, may) = watch::channel((changes.clone(), Instant::now()));
        let task = tokio::spawn(async move {
            let is_wanted = |change: &RouteChange| {
                let (wanted, at) = &*may.borrow();
                at.elapsed() < AWAY && wanted.contains(change)
            };
            let outcomes = vpc.change_routes(&changes, is_wanted).await;
            changes.into_iter().zip(outcomes).collect()
        });
        self.changing = Some(Changing { task, wanted });
    }

    /// Sees to it that no change is asked for any more that is not to be made now.
    pub(super) fn withdraw(&mut self) {
        let Some(changing) = &self.changing else {
            return;
        };
        let now = Instant::now();
        changing.wanted.send_modify(|(wanted, at)| {
            wanted.retain(|change| self.takeover.is_wanted(change, now));
            *at = now;
        });
    }

    pub(super) fn changed(&mut self, changed: Changed) {
        let done = |(_, outcome): &(_, _)| matches!(outcome, Ok(RouteOutcome::Done));
        if changed.iter().any(done)
            && let Some(connections) = &self.connections
        {
            connections.routes_came();
        }
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
}
