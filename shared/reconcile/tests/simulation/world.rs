//! Truth and hub together: what each event does to them.

use std::collections::BTreeSet;

use privnet_model::inventory::{Fate, Inventory, PartitionAnswer};
use privnet_model::key::PublicKey;
use privnet_model::peer::PeerConfig;
use privnet_model::status::Note;
use privnet_reconcile::fleet::{Fleet, Obstacle};
use privnet_reconcile::inventory::{Removed, Sweep};
use privnet_reconcile::pin;

use crate::check::{self, Step};
use crate::event::{Event, Poll, Says};
use crate::hub::Hub;
use crate::truth::{REGIONS, State, Truth, partition};

pub(crate) struct World {
    pub(crate) truth: Truth,
    pub(crate) hub: Hub,
    pub(crate) reached: Reached,
}

impl World {
    pub(crate) fn new() -> Self {
        let truth = Truth {
            now: 1_000_000,
            ..Truth::default()
        };
        Self {
            hub: Hub::new(truth.now),
            truth,
            reached: Reached::default(),
        }
    }

    /// Lets an event happen, and checks what must hold after it.
    pub(crate) fn live(&mut self, event: &Event) -> Result<(), String> {
        let before = self.hub.clone();
        let carrying = check::carrying(&self.truth, &self.hub);
        let mut polled = None;
        match event {
            Event::Poll(poll) => polled = Some(self.poll(poll)?),
            Event::Wait { seconds } => {
                let mut left = i64::from(*seconds);
                while left > 0 {
                    self.pass(left.min(100));
                    left -= 100;
                }
            }
            Event::Restart { killed } => self.restart(*killed)?,
            Event::Announce(number) => self.announce(*number),
            _ => self.change(event),
        }
        self.pass(1);
        let step = Step {
            truth: &self.truth,
            before: &before,
            carrying: &carrying,
            after: &self.hub,
            poll: match event {
                Event::Poll(poll) => Some(poll),
                _ => None,
            },
            removed: polled.as_deref().unwrap_or_default(),
        };
        check::step(&step)?;
        self.reached
            .look(&self.hub, polled.as_deref().unwrap_or_default());
        Ok(())
    }

    /// Time passes: who can, handshakes; and the hub's beat.
    fn pass(&mut self, seconds: i64) {
        self.truth.now += seconds;
        self.hub.hear(&self.truth);
        self.hub.settle(self.truth.now);
    }

    fn change(&mut self, event: &Event) {
        let now = self.truth.now;
        let fresh = self.truth.new_key();
        let stolen = match event {
            Event::ForgeKey { of: Some(of), .. } => self.truth.choose(*of).map(|one| one.key),
            _ => None,
        };
        match event {
            Event::Launch { vpc, zone, trusted } => {
                return self.truth.launch(*vpc, *zone, *trusted);
            }
            Event::Grow(vpc) => return self.truth.grow(*vpc),
            _ => {}
        }
        let number = match event {
            Event::Terminate(n) | Event::Stop(n) | Event::Untag(n) | Event::Retag(n) => n,
            Event::Tagless(n) | Event::Garble(n) | Event::Publish(n) | Event::NewKey(n) => n,
            Event::Switch(n) | Event::Cut(n) | Event::Mend(n) => n,
            Event::Start { instance, .. } | Event::Probe { instance, .. } => instance,
            Event::ForgeKey { instance, .. } => instance,
            Event::Launch { .. } | Event::Grow(_) | Event::Announce(_) => return,
            Event::Poll(_) | Event::Wait { .. } | Event::Restart { .. } => return,
        };
        let Some(instance) = self.truth.choose(*number) else {
            return;
        };
        if matches!(instance.state, State::Terminated { .. }) {
            return;
        }
        match event {
            Event::Terminate(_) => instance.state = State::Terminated { at: now },
            Event::Stop(_) => instance.state = State::Stopped,
            Event::Start { new_key, .. } if instance.state == State::Stopped => {
                instance.state = State::Running;
                instance.launched = now;
                if *new_key {
                    instance.key = fresh;
                    instance.next = None;
                    instance.published = fresh;
                }
            }
            Event::Untag(_) => instance.tagged = false,
            Event::Retag(_) => instance.tagged = true,
            Event::Tagless(_) => instance.tagless = !instance.tagless,
            Event::ForgeKey { .. } => instance.published = stolen.unwrap_or(fresh),
            Event::Garble(_) => instance.garbled = true,
            Event::Publish(_) => {
                instance.published = instance.key;
                instance.garbled = false;
            }
            Event::NewKey(_) if instance.runs() => {
                instance.key = fresh;
                instance.next = None;
                instance.published = fresh;
            }
            Event::Switch(_) => {
                if let Some(next) = instance.next.take() {
                    instance.key = next;
                    instance.published = next;
                }
            }
            Event::Cut(_) => instance.linked = false,
            Event::Mend(_) => instance.linked = true,
            Event::Probe { answers, .. } => instance.answers_probes = *answers,
            _ => {}
        }
    }

    /// A spoke tells the hub its next key: that takes a tunnel.
    fn announce(&mut self, number: u8) {
        let fresh = self.truth.new_key();
        let Some(instance) = self.truth.choose(number) else {
            return;
        };
        let (id, partition) = (instance.id(), partition(instance.region()));
        let heard = self.hub.handshakes.contains_key(&instance.key);
        if !instance.reaches() || !heard || instance.next.is_some() {
            return;
        }
        instance.next = Some(fresh);
        let used = instance.key;
        let announced = pin::announce(&mut self.hub.inventory, &partition, &id, used, fresh);
        if announced.is_ok() {
            self.hub.settle(self.truth.now);
            self.hub.save(self.truth.now);
        }
    }

    /// Asks EC2, takes the answers in, and tells which spokes went.
    fn poll(&mut self, poll: &Poll) -> Result<Vec<Removed>, String> {
        let now = self.truth.now;
        let mut answers: Vec<PartitionAnswer> = (0..REGIONS.len())
            .map(|region| {
                let known = self.hub.known(region);
                self.truth.answer(region, poll.says[region], &known)
            })
            .collect();
        if poll.backwards {
            answers.reverse();
        }
        let mut removed = Vec::new();
        let accepted = self.hub.accepted(poll);
        let mut sweep = Sweep::begin(&self.hub.inventory, accepted.clone());
        if poll.one_by_one {
            for answer in answers {
                let absorbed = self.hub.absorb(&mut sweep, vec![answer], now);
                removed.extend(absorbed.removed);
                self.hub.inventory = absorbed.inventory;
                self.hub.settle(now);
            }
        } else {
            let backwards: Vec<PartitionAnswer> = answers.iter().rev().cloned().collect();
            let mut other = Sweep::begin(&self.hub.inventory, accepted);
            let other = self.hub.absorb(&mut other, backwards, now).inventory;
            let absorbed = self.hub.absorb(&mut sweep, answers, now);
            if other != absorbed.inventory {
                return Err("the order of answers makes a difference".to_owned());
            }
            removed = absorbed.removed;
            self.hub.inventory = absorbed.inventory;
            self.hub.settle(now);
        }
        self.hub.save(now);
        Ok(removed)
    }

    fn restart(&mut self, killed: bool) -> Result<(), String> {
        if !killed {
            self.hub.save(self.truth.now);
        }
        let before = self.hub.clone();
        self.hub.restart(self.truth.now);
        self.reached.restarts += 1;
        if killed {
            return Ok(());
        }
        // What a dead gateway had, one that is alive may have: how it answered probes is
        // not known any more.
        let alive = before.alive(self.truth.now);
        let [before, after] = [&before, &self.hub].map(|hub| hub.fleet.peers());
        let same = |(key, peer): (&PublicKey, &PeerConfig)| {
            after.get(key).is_some_and(|now| {
                let mut kept = now.clone();
                kept.allowed_ips.clone_from(&peer.allowed_ips);
                let carried = now.allowed_ips.is_superset(&peer.allowed_ips);
                kept == *peer && (carried || !alive.contains(key))
            })
        };
        if before.len() != after.len() || !before.iter().all(same) {
            return Err(format!(
                "a restart changes peers: {before:#?} became {after:#?}"
            ));
        }
        Ok(())
    }

    /// Everything that is wrong is put right, and enough time passes: now the fleet must
    /// be what the truth deserves.
    pub(crate) fn calm_down(&mut self) -> Result<(), String> {
        for instance in &mut self.truth.instances {
            instance.tagless = false;
            instance.garbled = false;
            instance.published = instance.key;
            instance.answers_probes = true;
        }
        let calm = |operator: bool| {
            Event::Poll(Poll {
                says: [Says::Truth; 3],
                one_by_one: false,
                backwards: false,
                accept_removals: operator,
                remove: operator,
            })
        };
        for _ in 0..3 {
            self.live(&calm(false))?;
            self.live(&Event::Wait { seconds: 400 })?;
        }
        // What still handshakes though untagged, and what is held, only an operator ends.
        self.live(&calm(true))?;
        self.live(&calm(false))?;
        self.live(&Event::Wait { seconds: 400 })?;
        check::deserved(&self.truth, &self.hub)?;
        let fleet = self.hub.fleet.clone();
        self.live(&calm(false))?;
        match self.hub.fleet == fleet {
            true => Ok(()),
            false => Err("a poll that finds nothing new changes something".to_owned()),
        }
    }
}

/// What histories came across.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    restarts: u32,
    held: u32,
    removed_now: u32,
    removed_later: u32,
    accepted: u32,
    excluded: u32,
    standby: u32,
    zones: u32,
    rotating: u32,
    quarantined: u32,
    absent: u32,
    untrusted: u32,
    duplicate: u32,
    down: u32,
}

impl Reached {
    fn look(&mut self, hub: &Hub, removed: &[Removed]) {
        let Hub {
            inventory, fleet, ..
        } = hub;
        self.held += u32::from(held(inventory));
        for gone in removed {
            match (gone.accepted, gone.fate) {
                (true, _) => self.accepted += 1,
                (false, Fate::Terminated) => self.removed_now += 1,
                (false, _) => self.removed_later += 1,
            }
        }
        self.tunnels(fleet);
    }

    fn tunnels(&mut self, fleet: &Fleet) {
        let sites: BTreeSet<_> = fleet.sites.values().flat_map(|site| &site.cidrs).collect();
        for tunnel in fleet.tunnels.values() {
            self.excluded += u32::from(!tunnel.excluded.is_empty());
            self.standby += u32::from(tunnel.is_standby());
            self.zones += u32::from(tunnel.cidrs.iter().any(|cidr| !sites.contains(cidr)));
            self.rotating += u32::from(tunnel.beside.is_some());
            self.down += u32::from(tunnel.health == Some(privnet_reconcile::health::Health::Down));
            for note in &tunnel.notes {
                self.quarantined += u32::from(matches!(note, Note::KeyQuarantined { .. }));
                self.absent += u32::from(matches!(note, Note::Absent { .. }));
            }
            let reason = tunnel.obstacle.as_ref().map(Obstacle::reason);
            use privnet_model::status::Reason::{DuplicateKey, NotTrusted};
            self.untrusted += u32::from(matches!(reason, Some(NotTrusted { .. })));
            self.duplicate += u32::from(matches!(reason, Some(DuplicateKey { .. })));
        }
    }

    fn counts(&mut self) -> [&mut u32; 14] {
        [
            &mut self.restarts,
            &mut self.held,
            &mut self.removed_now,
            &mut self.removed_later,
            &mut self.accepted,
            &mut self.excluded,
            &mut self.standby,
            &mut self.zones,
            &mut self.rotating,
            &mut self.quarantined,
            &mut self.absent,
            &mut self.untrusted,
            &mut self.duplicate,
            &mut self.down,
        ]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let mut other = Self { ..*other };
        for (sum, more) in self.counts().into_iter().zip(other.counts()) {
            *sum += *more;
        }
    }

    pub(crate) fn assert_all(&mut self) {
        let told = format!("{self:?}");
        assert!(self.counts().iter().all(|count| **count >= 10), "{told}");
    }
}

fn held(inventory: &Inventory) -> bool {
    inventory.held_removals.is_some()
}
