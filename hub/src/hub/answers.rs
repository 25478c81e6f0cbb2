//! What a poll brought: taken into what is known, decided on, put in force, told to
//! whoever asked.

use std::time::Instant;

use jiff::Timestamp;
use privnet_model::admin::{Change, PolledPartition, RefreshReport, RefreshRequest};
use privnet_model::inventory::Inventory;
use privnet_reconcile::explain;
use privnet_reconcile::inventory::{Sweep, keep_configured};
use privnet_runtime::service;
use tracing::{error, warn};

use super::Hub;
use crate::poll::{Ended, Waiting};

impl Hub {
    pub(super) async fn polled(&mut self, ended: Ended) {
        self.last_poll = Some(Instant::now());
        let polled = match ended.result {
            Ok(polled) => polled,
            Err(problem) => {
                error!(%problem, "no answer from EC2; every tunnel stays");
                self.clock.failed();
                self.tally.broke_off(self.configured(&self.inventory));
                for waiting in ended.waiting {
                    let _ = waiting.answer.send(Err(problem.clone()));
                }
                return;
            }
        };
        self.tally.answered(&polled.answers);
        let failed = polled.answers.iter().any(|answer| answer.answer.is_err());
        // Who only asks what would be, accepts nothing for others.
        let accept_removals = ended.waiting.iter().any(|waiting| {
            waiting.request.accept_removals && (!ended.apply || !waiting.request.dry_run)
        });
        let alive = self.alive();
        let absorbed = Sweep::begin(&self.inventory, accept_removals).absorb(
            self.inventory.clone(),
            polled.answers,
            &alive,
            Timestamp::now(),
        );
        let removed = absorbed.removed;
        // The config may have changed while the poll was under way.
        let configured = self.configured(&absorbed.inventory);
        let (inventory, _) = keep_configured(absorbed.inventory, &configured);
        if !ended.apply {
            let next = self.decide(&inventory, &alive);
            let changes = explain::changes(&self.fleet, &next, &removed);
            let host = self.router.preview(self.desired(&next)).await;
            let report = |host: &[Change]| RefreshReport {
                dry_run: true,
                partitions: partitions(&inventory),
                changes: changes.iter().chain(host).cloned().collect(),
                failures: Vec::new(),
                held_removals: inventory.held_removals,
            };
            match host {
                Ok(host) => answer(ended.waiting, &report(&host)),
                Err(error) => answer(
                    ended.waiting,
                    &RefreshReport {
                        failures: vec![format!("{error:#}")],
                        ..report(&[])
                    },
                ),
            }
            return;
        }
        match polled.identity {
            Ok(identity) => self.router.set_identity(identity),
            Err(error) => self.router.metadata_failed(&error),
        }
        for (partition, view) in &inventory.partitions {
            if let Some(error) = &view.error {
                warn!(%partition, %error, spokes = view.spokes.len(), "poll failed; its tunnels stay");
            }
        }
        // A VPC without CIDRs is one that EC2 does not describe yet.
        let undescribed = inventory
            .spokes()
            .any(|(_, spoke)| spoke.vpc.is_some() && spoke.cidrs.is_empty());
        if failed || undescribed {
            self.clock.failed();
        } else {
            self.clock.succeeded();
        }
        let tunnels = self.take_inventory(inventory, &removed);
        let (host, failures) = self.reconcile().await;
        self.save();
        // Who knocked before this answer was asked for or is now known.
        self.router.knocks();
        service::status(&self.summary());
        let report = RefreshReport {
            dry_run: false,
            partitions: partitions(&self.inventory),
            changes: tunnels.into_iter().chain(host).collect(),
            failures,
            held_removals: self.inventory.held_removals,
        };
        answer(ended.waiting, &report);
    }
}

fn partitions(inventory: &Inventory) -> Vec<PolledPartition> {
    inventory
        .partitions
        .iter()
        .map(|(partition, view)| PolledPartition {
            partition: partition.to_string(),
            spokes: view.spokes.len(),
            error: view.error.clone(),
        })
        .collect()
}

fn answer(waiting: Vec<Waiting>, report: &RefreshReport) {
    for Waiting {
        request: RefreshRequest { dry_run, .. },
        answer,
    } in waiting
    {
        let _ = answer.send(Ok(RefreshReport {
            dry_run,
            ..report.clone()
        }));
    }
}
