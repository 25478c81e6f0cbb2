//! What must hold after every step, by what is true and not by what anybody believes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::event::Ec2;
use crate::spoke::{Spoke, instance};
use crate::world::{DISCOVERY, Leads, PRIVNET, Spot, World};

/// A route leads to a lost or sick spoke for so long at most, when one that is well
/// could take it,
pub(crate) const OUTAGE: Duration = Duration::from_secs(5);
/// somewhat longer if the first in the order cannot, as it fails meanwhile,
const FIRST: Duration = Duration::from_millis(500);
/// and so much longer for each after the first that is before it in the order and
/// cannot; for the first as well if that shows only when it tries.
const TURN: Duration = Duration::from_secs(2);
/// Between two looks while something is not as it should be.
const LOOK: Duration = Duration::from_secs(5);
/// Who has just become able to take a route may not know yet what there is to know: it
/// looks for siblings, asks them, and tries again what failed before, every 8 s.
const SETTLED: Duration = Duration::from_secs(10);
/// Changes of one route in one minute.
pub(crate) const CHANGES: usize = 16;

#[derive(Default)]
pub(crate) struct Check {
    /// Who was ever cut off from whom: they may doubt each other.
    cuts: BTreeSet<(usize, usize)>,
    /// When a datagram between the two could last be lost.
    deaf: BTreeMap<(usize, usize), Instant>,
    able_since: BTreeMap<usize, Instant>,
    /// Since when a spoke knows of one to which a route leads that it cannot carry.
    known_since: BTreeMap<(usize, u32), Instant>,
    not_fine: BTreeSet<usize>,
    /// Since when a route leads to this spoke, which cannot carry it, and whether that is only
    /// because it has no tunnel.
    bad: BTreeMap<Spot, (u32, bool, Instant)>,
    changes: BTreeMap<Spot, VecDeque<Instant>>,
    pub(crate) last_change: Option<Instant>,
    pub(crate) total: usize,
    /// Changes that came too late: somebody else had made one.
    pub(crate) races: usize,
    pub(crate) most_in_a_minute: usize,
    pub(crate) longest: Duration,
    /// Who reported whom to its Auto Scaling group.
    pub(crate) reported: BTreeMap<u32, u32>,
}

impl Check {
    /// Another instance is in this one's place.
    pub(crate) fn replaced(&mut self, n: usize) {
        self.able_since.remove(&n);
    }

    pub(crate) fn ec2(&mut self, n: usize, ec2: Ec2, _now: Instant) {
        match ec2 {
            Ec2::Fine => self.not_fine.remove(&n),
            Ec2::Slow | Ec2::Flaky | Ec2::Down | Ec2::Hanging | Ec2::ReadOnly => {
                self.not_fine.insert(n)
            }
        };
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cuts.extend([(from, to), (to, from)]);
    }

    /// Whether one of the two may not have heard what the other said.
    pub(crate) fn were_cut_off(&self, one: usize, other: usize) -> bool {
        self.cuts.contains(&(one, other))
    }

    /// Datagrams between the two may be lost now.
    pub(crate) fn deaf(&mut self, one: usize, other: usize, now: Instant) {
        self.deaf.insert((one.min(other), one.max(other)), now);
    }

    fn heard_each_other(&self, one: usize, other: usize, now: Instant) -> bool {
        let last = self.deaf.get(&(one.min(other), one.max(other)));
        last.is_none_or(|last| now - *last > SETTLED)
    }

    /// Who has long been well, and heard by a third that hears this one as well: it must not be
    /// taken for lost.
    pub(crate) fn witness(&self, n: usize, of: usize, count: usize, now: Instant) -> Option<usize> {
        // A new one must have been found.
        let long = |n| self.able_for(n, now) > DISCOVERY + SETTLED;
        (0..count).find(|third| {
            let between = *third != n && *third != of && long(*third) && long(of);
            let hears = |other| self.heard_each_other(*third, other, now);
            between && hears(n) && hears(of)
        })
    }

    pub(crate) fn moved(&mut self, spot: Spot, now: Instant) {
        self.total += 1;
        self.last_change = Some(now);
        let changes = self.changes.entry(spot).or_default();
        changes.push_back(now);
        while changes
            .front()
            .is_some_and(|at| now - *at > Duration::from_secs(60))
        {
            changes.pop_front();
        }
        self.most_in_a_minute = self.most_in_a_minute.max(changes.len());
    }

    /// For how long a spoke has been well, and EC2 has done what it asks.
    pub(crate) fn able_for(&self, n: usize, now: Instant) -> Duration {
        let since = self.able_since.get(&n);
        since.map_or(Duration::ZERO, |since| now - *since)
    }

    fn is_able(&self, n: usize, spoke: &Spoke) -> bool {
        let well = spoke.runs() && spoke.verdict == Some(true) && spoke.stopping.is_none();
        well && !self.not_fine.contains(&n)
    }
}

impl World {
    pub(crate) fn check_state(&mut self) -> Result<(), String> {
        let now = self.now;
        for (n, spoke) in self.spokes.iter().enumerate() {
            match self.check.is_able(n, spoke) {
                true => {
                    self.check.able_since.entry(n).or_insert(now);
                    self.check.reported.remove(&spoke.instance);
                }
                false => drop(self.check.able_since.remove(&n)),
            }
        }
        let spots: Vec<(Spot, Leads)> = self.routes.clone().into_iter().collect();
        for (spot, leads) in spots {
            let Leads::Spoke(holder) = leads else {
                self.check.bad.remove(&spot);
                continue;
            };
            let at = self
                .spokes
                .iter()
                .position(|spoke| spoke.instance == holder);
            let is_well = |spoke: &Spoke| spoke.runs() && spoke.verdict == Some(true);
            let well = at.map(|at| &self.spokes[at]).filter(|spoke| is_well(spoke));
            let tunnelled = spot.1 == PRIVNET;
            if well.is_some_and(|spoke| spoke.tunnel || !tunnelled) {
                self.check.bad.remove(&spot);
                continue;
            }
            let alone = well.is_some();
            let since = match self.check.bad.get(&spot) {
                Some((same, only, since)) if *same == holder && *only == alone => *since,
                Some(_) | None => now,
            };
            self.check.bad.insert(spot, (holder, alone, since));
            self.nobody_could_help(spot, holder, at, (alone, since))?;
        }
        if self.check.most_in_a_minute > CHANGES {
            return Err(format!(
                "{:.2} s: {} changes of one route within a minute",
                self.seconds(),
                self.check.most_in_a_minute
            ));
        }
        Ok(())
    }

    /// Whether there is a reason why the route still leads to one that cannot carry it.
    fn nobody_could_help(
        &mut self,
        spot: Spot,
        holder: u32,
        at: Option<usize>,
        (lacks_tunnel, since): (bool, Instant),
    ) -> Result<(), String> {
        let now = self.now;
        let others: Vec<usize> = (0..self.spokes.len()).filter(|n| Some(*n) != at).collect();
        for helper in &others {
            let Some(able) = self.check.able_since.get(helper) else {
                continue;
            };
            let helps = &self.spokes[*helper];
            if lacks_tunnel && !(helps.tunnel && helps.hub) {
                continue;
            }
            let able = match lacks_tunnel {
                true => able.max(&helps.tunnel_since),
                false => able,
            };
            let doubts = at.is_some_and(|at| self.check.were_cut_off(at, *helper));
            let mut siblings = self.spokes[*helper].machine.siblings();
            let knows = siblings.any(|(id, _)| *id == instance(holder));
            if doubts || !knows {
                self.check.known_since.insert((*helper, holder), now);
                continue;
            }
            // A new instance that took a route at once is found by the next search.
            let known = self.check.known_since.entry((*helper, holder));
            let start = since.max(*able + SETTLED).max(*known.or_insert(since));
            // Who is able for as long, is heard by the helper and has no doubts of its own
            // does not keep it waiting.
            let unable = others.iter().filter(|other| {
                let able = self.check.able_since.get(*other);
                let cut = |from| self.check.were_cut_off(**other, from);
                let heard = !cut(*helper) && !at.is_some_and(cut);
                **other != *helper && !(heard && able.is_some_and(|able| *able + SETTLED <= start))
            });
            let unable = u32::try_from(unable.count()).unwrap();
            // Who may be before the helper doubts that the holder is lost.
            let doubts = |other| at.is_some_and(|at| self.check.were_cut_off(other, at));
            let shows_late = others.iter().any(|other| {
                let ec2 = self.spokes[*other].ec2;
                doubts(*other) || matches!(ec2, Ec2::Hanging | Ec2::ReadOnly)
            });
            // That it was given one that it cannot carry is seen by the next look.
            let came = at.is_some_and(|at| self.spokes[at].tunnel_since < since);
            let look = if lacks_tunnel && came {
                LOOK
            } else {
                Duration::ZERO
            };
            let first = if unable > 0 { FIRST } else { Duration::ZERO };
            let most =
                OUTAGE + first + look + TURN * (unable.saturating_sub(1) + u32::from(shows_late));
            let outage = now.saturating_duration_since(start);
            if unable <= 1 {
                self.check.longest = self.check.longest.max(outage);
            }
            if outage > most {
                return Err(format!(
                    "{:.2} s: {spot:?} leads to {holder} since {:.2} s, which cannot carry it, \
                     and {} could take it since {:.2} s; it sees {:?}",
                    self.seconds(),
                    (since - self.start).as_secs_f64(),
                    self.spokes[*helper].instance,
                    (*able - self.start).as_secs_f64(),
                    self.spokes[*helper].machine.siblings().collect::<Vec<_>>(),
                ));
            }
        }
        Ok(())
    }

    /// Everything is well again: every table comes home, and nothing moves any more.
    pub(crate) fn calm_down(&mut self) -> Result<(), String> {
        self.heal();
        // The longest that a home waits is 600 s.
        self.pass(Duration::from_secs(640))?;
        let settled = self.now;
        self.pass(Duration::from_secs(60))?;
        for zone in 0..self.zones {
            for destination in 0..crate::world::DESTINATIONS.len() {
                let leads = self.routes.get(&(zone, destination));
                let home = self.spokes.iter().filter(|spoke| spoke.zone == zone);
                let mut home = home.map(|spoke| Leads::Spoke(spoke.instance));
                if !home.any(|one| Some(&one) == leads) {
                    return Err(format!(
                        "in the end {zone}, {destination} leads to {leads:?}"
                    ));
                }
            }
        }
        match self.check.last_change.is_some_and(|last| last > settled) {
            true => Err("in the end it does not come to rest".to_owned()),
            false => Ok(()),
        }
    }
}
