//! The connections that go along with the address: who keeps them is told what there is to
//! know, and asked before the address moves.

use std::time::Instant;

use privnet_model::id::InstanceId;
use privnet_reconcile::address::{AddressMove, AddressReason};
use privnet_reconcile::connections::{Place, Source};
use privnet_runtime::connections::{Connections, Hint, Mover};
use tracing::{info, warn};

use super::asked::AGAIN;
use super::server::Server;

/// What is done for the connections before an address moves.
pub(super) enum Before {
    /// It comes here.
    Comes(Mover),
    /// It goes to this sibling.
    Goes(Mover, InstanceId),
    /// Nobody keeps connections.
    Nothing,
}

impl Before {
    pub(super) async fn run(&self) {
        match self {
            Self::Nothing => {}
            Self::Comes(mover) => {
                mover.take_over().await;
            }
            Self::Goes(mover, to) => match mover.offer(to).await {
                true => info!(%to, "it has taken over the connections of the address"),
                false => warn!(%to, "it did not take over the connections of the address"),
            },
        }
    }

    /// What has become of the move.
    pub(super) async fn after(&self, is_refused: bool) {
        if let (Self::Comes(mover), true) = (self, is_refused) {
            mover.in_vain().await;
        }
    }
}

/// Waits until a sibling says that something has moved.
pub(super) async fn hint(connections: &Option<Connections>) -> Hint {
    match connections {
        Some(connections) => connections.hint().await,
        None => std::future::pending().await,
    }
}

impl Server {
    pub(super) fn tick_connections(&mut self, now: Instant) {
        let start = &self.start;
        let (Some(keeps), Some(takeover)) = (&start.keeps, &start.config.takeover) else {
            return;
        };
        if self.connections.is_none() && now >= self.connections_due {
            match start.open_connections(keeps, takeover.health_port) {
                Ok(connections) => {
                    self.connections = Some(connections);
                    self.connections_problem = None;
                }
                Err(problem) => {
                    if self.connections_problem.as_ref() != Some(&problem) {
                        warn!("{problem}");
                    }
                    self.connections_problem = Some(problem);
                    self.connections_due = now + AGAIN;
                }
            }
        }
        if let Some(connections) = &mut self.connections {
            connections.set_secret(start.told.borrow().0.secret.clone());
            connections.watch(&self.takeover.asked(), takeover.health_port);
        }
    }

    pub(super) fn hinted(&mut self, hint: Hint) {
        if hint == Hint::Given {
            self.has_roamed();
        }
        self.look_at_addresses();
    }

    pub(super) fn before(&self, decided: &AddressMove) -> Before {
        let Some(connections) = &self.connections else {
            return Before::Nothing;
        };
        let mover = connections.mover();
        match &decided.why {
            AddressReason::Free | AddressReason::Takeover { .. } => Before::Comes(mover),
            AddressReason::GoesAlong { to } => Before::Goes(mover, to.clone()),
        }
    }

    /// EC2 told where the address is, or has just moved it.
    pub(super) fn address_is(&self, place: Place, source: Source) {
        if let Some(connections) = &self.connections {
            connections.seen(place, source);
        }
    }
}
