//! The Elastic IP: looked at, and moved as `privnet_reconcile::address` decides.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use privnet_ec2::{AddressChoice, Ec2Error};
use privnet_model::config::spoke::AddressConfig;
use privnet_model::status::AddressStatus;
use privnet_model::vpc::{AddressOutcome, ElasticAddress};
use privnet_reconcile::address::{Address, AddressMove, AddressReason, Around};
use privnet_reconcile::connections::{Place, Source};
use privnet_runtime::connections::Connections;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::asked::Asked;
use super::server::Server;

type Moved = (AddressMove, Result<AddressOutcome, Ec2Error>);

/// The address, and what is asked about it.
pub(super) struct Addresses {
    config: AddressConfig,
    machine: Address,
    look: Asked<Vec<ElasticAddress>>,
    moving: Option<JoinHandle<Moved>>,
    failure: Option<String>,
}

/// What EC2 said.
pub(super) enum News {
    /// Where the addresses are; nothing if it did not say.
    Looked(Option<Vec<ElasticAddress>>),
    /// What came of a move; nothing if that is not known.
    Moved(Option<Box<Moved>>),
}

impl Addresses {
    pub(super) fn new(config: AddressConfig) -> Self {
        Self {
            machine: Address::new(config.clone()),
            config,
            look: Asked::new(),
            moving: None,
            failure: None,
        }
    }

    /// The next answer; never, while nothing was asked. Cancel-safe.
    pub(super) async fn news(&mut self) -> News {
        tokio::select! {
            addresses = self.look.answered(Duration::ZERO) => News::Looked(addresses),
            moved = moved(&mut self.moving) => News::Moved(moved),
        }
    }

    pub(super) fn status(
        &self,
        around: &Around,
        connections: Option<&Connections>,
    ) -> AddressStatus {
        let held = self.machine.held();
        let holder = self.machine.holder();
        let interface = holder.and_then(|holder| holder.interface.as_ref());
        let at = match interface.and_then(|interface| around.spokes.get(interface)) {
            Some(sibling) => Some(sibling.instance.clone()),
            None => holder.and_then(|holder| holder.instance.clone()),
        };
        AddressStatus {
            wanted: self.config.to_string(),
            allocation: held.map(|held| held.allocation.clone()),
            address: held.map(|held| held.address),
            since: held.map(|held| held.since),
            at,
            problem: self.problems(around).next(),
            moved: self.machine.moved(),
            connections: connections.map(Connections::status),
        }
    }

    pub(super) fn problems(&self, around: &Around) -> impl Iterator<Item = String> {
        let failure = self.failure.clone();
        let look = self.look.problem.clone();
        failure
            .into_iter()
            .chain(look)
            .chain(self.machine.problem(around))
    }
}

async fn moved(moving: &mut Option<JoinHandle<Moved>>) -> Option<Box<Moved>> {
    let Some(task) = moving else {
        return std::future::pending().await;
    };
    let result = task.await;
    *moving = None;
    result
        .inspect_err(|error| warn!(%error, "moving an Elastic IP broke off"))
        .ok()
        .map(Box::new)
}

impl Server {
    pub(super) fn tick_addresses(&mut self, now: Instant) {
        let Some(addresses) = &mut self.addresses else {
            return;
        };
        let around = self.takeover.around(now);
        let needs = addresses.machine.tick(&around, now);
        if needs.routes {
            self.takeover.look_soon();
        }
        if needs.look && addresses.look.task.is_none() {
            let (vpc, choice) = (self.vpc.clone(), AddressChoice::from(&addresses.config));
            addresses
                .look
                .ask(async move { vpc.addresses(&choice).await });
        }
    }

    pub(super) fn look_at_addresses(&mut self) {
        if let Some(addresses) = &mut self.addresses {
            addresses.machine.look_soon(Instant::now());
            self.takeover.look_soon();
        }
    }

    pub(super) fn has_given_address_away(&self) -> bool {
        let around = self.takeover.around(Instant::now());
        let addresses = self.addresses.as_ref();
        addresses.is_none_or(|one| one.machine.has_left(&around, Instant::now()))
    }

    pub(super) fn heard_of_addresses(&mut self, news: News) {
        let Some(mut addresses) = self.addresses.take() else {
            return;
        };
        self.heard_of(&mut addresses, news);
        self.addresses = Some(addresses);
    }

    fn heard_of(&mut self, addresses: &mut Addresses, news: News) {
        let (now, wall) = (Instant::now(), Timestamp::now());
        let before = addresses.machine.held().cloned();
        let known = addresses.machine.has_looked();
        let mut may_have_moved = false;
        match news {
            News::Looked(None) => addresses.machine.look_failed(now),
            News::Looked(Some(found)) => {
                let around = self.takeover.around(now);
                let decided = addresses.machine.looked(found, &around, now, wall);
                let holder = addresses.machine.holder();
                self.takeover
                    .keep(holder.and_then(|holder| holder.interface.as_ref()));
                let place = match (addresses.machine.held(), holder) {
                    (Some(_), _) => Place::Here,
                    (None, Some(_)) => Place::Elsewhere,
                    (None, None) => Place::Nowhere,
                };
                self.address_is(place, Source::Look);
                match decided {
                    Some(decided) => {
                        let AddressMove {
                            address, to, why, ..
                        } = &decided;
                        info!(%address, %to, %why, "moves an Elastic IP");
                        let vpc = self.vpc.clone();
                        let before = self.before(&decided);
                        addresses.moving = Some(tokio::spawn(async move {
                            before.run().await;
                            let AddressMove {
                                allocation,
                                to,
                                from,
                                ..
                            } = &decided;
                            let outcome = vpc.associate_address(allocation, to, from.as_ref());
                            let outcome = outcome.await;
                            // An error says nothing: the answer to a change of the own
                            // address is easily lost.
                            let is_refused =
                                matches!(&outcome, Ok(told) if *told != AddressOutcome::Done);
                            before.after(is_refused).await;
                            (decided, outcome)
                        }));
                    }
                    None if addresses.machine.is_failing() => {}
                    None => addresses.failure = None,
                }
            }
            News::Moved(None) => {
                may_have_moved = true;
                addresses.machine.applied(None, now, wall);
            }
            News::Moved(Some(moved)) => {
                let (done, outcome) = *moved;
                may_have_moved = matches!(outcome, Ok(AddressOutcome::Done) | Err(_));
                if matches!(outcome, Ok(AddressOutcome::Done)) {
                    let place = match done.why {
                        AddressReason::Free | AddressReason::Takeover { .. } => Place::Here,
                        AddressReason::GoesAlong { .. } => Place::Elsewhere,
                    };
                    self.address_is(place, Source::Move);
                }
                let told = outcome.as_ref().ok();
                addresses.machine.applied(told, now, wall);
                addresses.failure = failure(&done, &outcome);
                match &addresses.failure {
                    Some(failure) => warn!("{failure}"),
                    None => info!(address = %done.address, ?outcome, "moved an Elastic IP"),
                }
            }
        }
        // At the first look nothing has changed but what is known. The answer to a
        // change of the own address may be lost with the connection that it came by.
        let held = addresses.machine.held();
        let changed = held.map(|held| &held.allocation) != before.as_ref().map(|h| &h.allocation);
        if may_have_moved || (known && changed) {
            self.has_roamed();
        }
    }
}

/// Why an address did not move.
fn failure(done: &AddressMove, outcome: &Result<AddressOutcome, Ec2Error>) -> Option<String> {
    let AddressMove {
        allocation,
        address,
        to,
        ..
    } = done;
    match outcome {
        Err(error) => Some(format!("the Elastic IP {address} stays: {error}")),
        Ok(AddressOutcome::Conflict { now: None }) => Some(format!(
            "the Elastic IP {address} ({allocation}) stays: {to} has another one; disassociate that"
        )),
        // The next look tells where it is now.
        Ok(
            AddressOutcome::Done
            | AddressOutcome::Conflict { now: Some(_) }
            | AddressOutcome::NoAddress,
        ) => None,
    }
}
