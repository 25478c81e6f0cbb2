//! What a poll brought: taken into what is known, decided on, put in force, told to
//! whoever asked.

use jiff::Timestamp;
use privnet_model::admin::{PolledPartition, RefreshReport, RefreshRequest};
use privnet_model::inventory::{Inventory, PartitionAnswer};
use privnet_reconcile::explain;
use privnet_runtime::service;
use tracing::{error, warn};

use super::Hub;
use crate::poll::{Brought, Ended, Taken, Waiting};

impl Hub {
    pub(super) async fn polled(&mut self, brought: Result<Brought, (String, Vec<Waiting>)>) {
        match brought {
            Ok(Brought::Part(answers, mut taken)) => {
                self.take_in(answers, &mut taken).await;
                self.poll.go_on(taken);
            }
            Ok(Brought::End(ended)) if ended.apply => self.applied(*ended).await,
            Ok(Brought::End(ended)) => self.shown(*ended).await,
            Err((problem, waiting)) => {
                error!(%problem, "no answer from EC2; every tunnel stays");
                self.clock.failed();
                self.tally.broke_off(self.configured(&self.inventory));
                for waiting in waiting {
                    let _ = waiting.answer.send(Err(problem.clone()));
                }
            }
        }
    }

    /// Decides on what EC2 answered so far, and puts it in force.
    async fn take_in(&mut self, answers: Vec<PartitionAnswer>, taken: &mut Taken) {
        self.tally.answered(&answers);
        for PartitionAnswer {
            partition, answer, ..
        } in &answers
        {
            if let Err(error) = answer {
                let view = self.inventory.partitions.get(partition);
                let spokes = view.map_or(0, |view| view.spokes.len());
                warn!(%partition, %error, spokes, "poll failed; its tunnels stay");
                taken.failed = true;
            }
        }
        let alive = self.alive();
        let inventory = std::mem::take(&mut self.inventory);
        let now = Timestamp::now();
        let absorbed = taken.sweep.absorb(inventory, answers, &alive, now);
        let changes = self.take_inventory(absorbed.inventory, absorbed.removed, &mut taken.sweep);
        taken.changes.extend(changes);
        let (host, failures) = self.reconcile().await;
        taken.changes.extend(host);
        taken.failures.extend(failures);
        self.save();
    }

    async fn applied(&mut self, ended: Ended) {
        let Ended {
            answers, mut taken, ..
        } = ended;
        match ended.identity {
            Ok(identity) => self.router.set_identity(identity),
            Err(error) => self.router.metadata_failed(&error),
        }
        self.take_in(answers, &mut taken).await;
        // A VPC without CIDRs is one that EC2 does not describe yet.
        let undescribed = self
            .inventory
            .spokes()
            .any(|(_, spoke)| spoke.vpc.is_some() && spoke.cidrs.is_empty());
        // Who was not asked is asked when it is due.
        if taken.failed || undescribed {
            self.clock.failed();
        } else if ended.whole {
            self.clock.succeeded();
        }
        if ended.whole {
            // Who knocked before this answer was asked for or is now known.
            self.router.knocks();
            self.router.strangers();
        }
        service::status(&self.summary());
        let report = RefreshReport {
            dry_run: false,
            partitions: partitions(&self.inventory),
            changes: taken.changes,
            failures: taken.failures,
            held_removals: self.inventory.held_removals,
        };
        answer(ended.waiting, &report);
    }

    /// Tells what would be.
    async fn shown(&mut self, ended: Ended) {
        self.tally.answered(&ended.answers);
        let alive = self.alive();
        let inventory = self.inventory.clone();
        let mut sweep = ended.taken.sweep;
        let now = Timestamp::now();
        let absorbed = sweep.absorb(inventory, ended.answers, &alive, now);
        let mut removed = absorbed.removed;
        // The config may have changed while the poll was under way.
        let configured = self.configured(&absorbed.inventory);
        let (inventory, dropped) = sweep.keep_configured(absorbed.inventory, &configured, now);
        removed.extend(dropped);
        let next = self.decide(&inventory, &alive);
        let changes = explain::changes(&self.fleet, &next, &removed);
        let (host, failures) = match self.router.preview(self.desired(&next)).await {
            Ok(host) => (host, Vec::new()),
            Err(error) => (Vec::new(), vec![format!("{error:#}")]),
        };
        let report = RefreshReport {
            dry_run: true,
            partitions: partitions(&inventory),
            changes: changes.into_iter().chain(host).collect(),
            failures,
            held_removals: inventory.held_removals,
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
