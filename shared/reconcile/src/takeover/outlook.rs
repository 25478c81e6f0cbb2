//! What this spoke can say of siblings that are lost, to who might do something about them
//! (`remedy`): how long each was silent, and what speaks against its being dead.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use privnet_model::id::InstanceId;

use super::{SiblingState, Takeover};
use crate::vpc_route::Place;

/// Tables that were described longer ago do not show that nobody took a route back. They
/// are looked at every 5 s while a sibling is lost.
const RECENT: Duration = Duration::from_secs(12);

/// The siblings, and whether this spoke may judge them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// For how long it has been well itself, without a break.
    pub well_for: Duration,
    /// Whether it is about to stop.
    pub leaving: bool,
    /// Whether EC2 has told it not long ago where the routes lead.
    pub sees: bool,
    /// Each sibling.
    pub siblings: BTreeMap<InstanceId, Seen>,
}

/// One sibling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// When it was launched, as EC2 said last.
    pub launched: Timestamp,
    /// How it is.
    pub state: SiblingState,
    /// For how long it has neither answered, nor asked, nor taken a route, while this spoke could
    /// ask EC2.
    pub silent: Duration,
    /// Whether it has answered since it was launched and this spoke started: whether
    /// there ever was a way between the two.
    pub heard: bool,
    /// Whether that it was about to stop was the last that it said.
    pub left: bool,
    /// When its silence, or this spoke's to it, was last shown to be the network's.
    pub contradicted: Option<Instant>,
    /// Whether this spoke stands in for it: it took the first of its routes, because it
    /// was lost, and has it still. That is so of one spoke at most, as all know the same
    /// tables.
    pub stood_in_for: bool,
}

impl Takeover {
    /// A sibling asked how this spoke is, in a message that it signed.
    pub fn asked_by(&mut self, instance: &InstanceId, at: Instant) {
        if let Some(sibling) = self.siblings.get_mut(instance) {
            sibling.asks(at);
        }
    }

    /// The siblings, to be judged.
    pub fn outlook(&mut self, now: Instant) -> Outlook {
        self.wake(now);
        let siblings = self.siblings.iter().map(|(id, one)| {
            let seen = Seen {
                launched: one.launched,
                state: one.state(),
                // Who was away from EC2 as well was away itself, for all it knows.
                silent: now.saturating_duration_since(one.silent_since().max(self.sees_since)),
                heard: one.was_heard(),
                left: one.has_left(),
                contradicted: one.contradicted(),
                stood_in_for: self.stands_in_for(id),
            };
            (id.clone(), seen)
        });
        Outlook {
            well_for: self.own.well_for(now),
            leaving: self.leaving.is_some(),
            sees: self.sees && self.seen.is_some_and(|at| now - at <= RECENT),
            siblings: siblings.collect(),
        }
    }

    /// Of the places that are a sibling's home and lead to any spoke, the first one says who
    /// stands in for it. Routes to the privnet may lead to another one than the rest, which
    /// has a tunnel: they count where there are no others.
    fn stands_in_for(&self, instance: &InstanceId) -> bool {
        let Some(sibling) = self.siblings.get(instance) else {
            return false;
        };
        let counts = |place: &Place| !self.is_tunnelled(&place.destination);
        let mut served = self.setup.destinations.iter();
        let only = served.all(|destination| self.is_tunnelled(destination));
        let mut places = self.holders.iter();
        let first = |place: &Place| sibling.is_home(&place.table) && (only || counts(place));
        let first = places.find(|(place, _)| first(place));
        let taken = self.taken.get(instance);
        first.is_some_and(|(place, holder)| {
            *holder == self.setup.me.instance && taken.is_some_and(|taken| taken.contains(place))
        })
    }

    /// What follows from where the routes lead now, for who was stood in for: whoever has a
    /// route again is none of them, and whoever took one of ours does not hear us.
    pub(super) fn note_takings(
        &mut self,
        holders: &BTreeMap<Place, InstanceId>,
        before: Option<Instant>,
        now: Instant,
    ) {
        let me = &self.setup.me.instance;
        self.taken.retain(|from, places| {
            places.retain(|place| holders.get(place) == Some(me));
            !places.is_empty() && !holders.values().any(|holder| holder == from)
        });
        let well = before.is_some_and(|before| self.own.well_for(now) >= now - before);
        if !well || self.leaving.is_some() {
            return;
        }
        for (place, holder) in holders {
            // Who has a tunnel takes what this spoke cannot carry, or could not at the last look.
            let carried = !self.is_tunnelled(&place.destination) || self.tunnel.was_up_at(before);
            let was_mine = self.holders.get(place) == Some(me) && carried;
            let Some(sibling) = self.siblings.get_mut(holder).filter(|_| was_mine) else {
                continue;
            };
            // A table that is its home and not ours it may have for its own again.
            if self.home.contains(&place.table) || !sibling.is_home(&place.table) {
                sibling.robs(now);
            }
        }
    }
}
