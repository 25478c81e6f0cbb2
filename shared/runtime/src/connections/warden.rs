//! What changes the kernel: the guard, entering connections and forgetting them, one after
//! the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use privnet_host::Entered;
use privnet_model::connection::Connection;
use privnet_model::id::InstanceId;
use privnet_reconcile::connections::replica::Replica;
use privnet_reconcile::connections::{Guard, Keeping, Place, Source, Step};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::{Part, Shared, describe, lock};

/// How often it is seen to that the guard is in place.
const TICK: Duration = Duration::from_secs(1);
/// The guard is put in place again so often though nothing changed: somebody may have
/// removed it. It is one transaction, of some milliseconds.
const AGAIN: Duration = Duration::from_secs(30);

/// What is asked of it.
pub(super) enum Command {
    /// Where the address is.
    Seen(Place, Source),
    /// The address is about to come: from this sibling, or from whoever had it last.
    TakeOver {
        from: Option<InstanceId>,
        answer: oneshot::Sender<Option<Entered>>,
    },
    /// It does not come after all.
    InVain,
}

struct Warden {
    shared: Arc<Shared>,
    keeping: Keeping,
    loaded: Option<(Guard, Instant)>,
}

/// Does not end.
pub(super) async fn run(shared: Arc<Shared>, mut orders: mpsc::Receiver<Command>) {
    let mut warden = Warden {
        shared,
        keeping: Keeping::default(),
        loaded: None,
    };
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let step = tokio::select! {
            Some(command) = orders.recv() => match command {
                Command::Seen(place, source) => {
                    warden.keeping.seen(place, source, Instant::now().into_std())
                }
                Command::TakeOver { from, answer } => {
                    let entered = warden.take_over(from.as_ref()).await;
                    let _ = answer.send(entered);
                    Step::Nothing
                }
                Command::InVain => warden.keeping.took_in_vain(),
            },
            _ = tick.tick() => warden.keeping.tick(Instant::now().into_std()),
        };
        warden.guard().await;
        if let Some(place) = warden.keeping.place() {
            warden.shared.telling.set(place == Place::Here);
        }
        match step {
            Step::Nothing | Step::Came => {}
            Step::Forget => warden.forget().await,
        }
    }
}

impl Warden {
    async fn guard(&mut self) {
        let now = Instant::now();
        let Some(guard) = self.keeping.guard(now.into_std()) else {
            return;
        };
        if self
            .loaded
            .is_some_and(|(loaded, at)| loaded == guard && now - at < AGAIN)
        {
            return;
        }
        let done = self.shared.host.guard(guard, self.shared.own).await;
        self.loaded = done.is_ok().then_some((guard, now));
        let problem = done
            .err()
            .map(|error| describe("the address's connections are not guarded", error));
        self.shared.problem(Part::Guard, problem);
    }

    async fn forget(&self) {
        if let Err(error) = self.shared.host.forget_connections().await {
            let problem = describe("connections that went on elsewhere stay", error);
            warn!("{problem}");
        }
    }

    async fn take_over(&mut self, from: Option<&InstanceId>) -> Option<Entered> {
        if !self.keeping.may_take() {
            return None;
        }
        self.guard().await;
        // Without it what is entered would leave by another address, and be reset.
        if !matches!(self.loaded, Some((Guard::Hold, _))) {
            return None;
        }
        let (holder, connections) = self.told_by(from)?;
        let began = Instant::now();
        self.forget().await;
        self.keeping.took(began.into_std());
        let (host, timeouts) = (self.shared.host, self.shared.timeouts);
        let entered = host.enter_connections(connections, self.shared.own, timeouts);
        match entered.await {
            Ok(entered) => {
                let Entered {
                    entered: count,
                    refused,
                } = entered;
                info!(from = %holder, connections = count, refused, took = ?began.elapsed(),
                    "took over the connections of the address");
                self.shared.entered.fetch_add(count, Ordering::Relaxed);
                self.shared.refused.fetch_add(refused, Ordering::Relaxed);
                Some(entered)
            }
            Err(error) => {
                let problem = describe("the address's connections are not taken over", error);
                warn!("{problem}");
                None
            }
        }
    }

    /// What this sibling told, or whoever had the address last.
    fn told_by(&self, from: Option<&InstanceId>) -> Option<(InstanceId, Vec<Connection>)> {
        let replicas = lock(&self.shared.replicas);
        let (holder, replica) = match from {
            Some(from) => replicas.get_key_value(from)?,
            None => {
                let held = |(_, one): &(&InstanceId, &Replica)| one.held();
                let holders = replicas.iter().filter(|(_, one)| one.held().is_some());
                holders.max_by_key(held)?
            }
        };
        Some((holder.clone(), replica.connections()))
    }
}
