//! What is shown of it, and what is kept for the next start.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use privnet_model::status::{RouteStatus, RoutesStatus, SiblingStatus};
use privnet_reconcile::address::Around;

use super::View;
use super::remedy::Remedies;
use super::server::Server;

impl Server {
    pub(super) fn save(&mut self) {
        let memory = self.takeover.memory(Instant::now(), Timestamp::now());
        self.keeper.keep(memory);
    }

    /// Keeps what a restart must know, and shows the rest.
    pub(super) fn show(&mut self) {
        let now = Instant::now();
        let memory = self.takeover.memory(now, Timestamp::now());
        let kept = self.keeper.kept();
        let same = kept.spokes == memory.spokes
            && kept.hold_seconds == memory.hold_seconds
            && kept.running == memory.running;
        if !same {
            self.keeper.keep(memory);
        }
        let around = self.takeover.around(now);
        let home = self.takeover.home();
        let routes = self.takeover.holders().iter();
        let routes = routes.map(|(place, spoke)| RouteStatus {
            table: place.table.clone(),
            destination: place.destination,
            spoke: Some(spoke.clone()),
            home: home.contains(&place.table),
        });
        let siblings = self.takeover.siblings();
        let siblings = siblings.map(|(instance, state)| SiblingStatus {
            instance: instance.clone(),
            state: state.to_string(),
            tunnel_down: self.takeover.lacks_tunnel(instance),
            only_others_hear: self.takeover.only_others_hear(instance),
            refused: self.refused.why(instance).map(Into::into),
        });
        let taken_over = self.takeover.taken_over();
        let view = View {
            status: RoutesStatus {
                sick: self.sick(),
                siblings: siblings.collect(),
                routes: routes.collect(),
                moved: self.moved,
                taken_over: taken_over.routes,
                takeover_time: signed(taken_over.time),
                last_takeover: taken_over.last.map(signed),
                address: {
                    let connections = self.connections.as_ref();
                    let addresses = self.addresses.as_ref();
                    addresses.map(|one| one.status(&around, connections))
                },
                remedy: self.remedies.as_ref().and_then(Remedies::status),
            },
            problems: self.problems(&around),
        };
        self.start.show.send_if_modified(|shown| {
            let news = *shown != view;
            *shown = view;
            news
        });
    }

    fn problems(&self, around: &Around) -> Vec<String> {
        let addresses = self.addresses.iter();
        let addresses = addresses.flat_map(|one| one.problems(around));
        let connections = self.connections.iter();
        let connections = connections.flat_map(|one| one.problems());
        let remedies = self.remedies.iter();
        let remedies = remedies.flat_map(Remedies::problems);
        let sick = self.sick();
        let sick = sick.map(|why| format!("serves no VPC routes: {why}"));
        let siblings = self.takeover.siblings().map(|(instance, _)| instance);
        let unheard = siblings.filter(|instance| self.takeover.only_others_hear(instance));
        let unheard = unheard.map(|instance| {
            format!(
                "{instance} does not answer this spoke, and is well, as another hears: should no \
                 other hear it either, the two would take each other for lost"
            )
        });
        let without = sick.is_none() && self.takeover.is_without_tunnel();
        let without = without.then(|| {
            "the tunnel to the hub is down: a sibling whose tunnel is up has the routes to the \
             privnet, if there is one"
                .to_owned()
        });
        sick.iter()
            .chain(&without)
            .chain(&self.port_problem)
            .chain(&self.connections_problem)
            .chain(&self.siblings.problem)
            .chain(&self.tables.problem)
            .chain(&self.check.problem)
            .chain(&self.keeper.problem())
            .chain(self.failures.iter().map(|(_, problem)| problem))
            .chain(&self.conflicts)
            .cloned()
            .chain(unheard)
            .chain(addresses)
            .chain(connections)
            .chain(remedies)
            .collect()
    }
}

/// As the status tells it. More than 292 billion years there are none.
fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}
