//! What else goes along with the routes is decided elsewhere (`address`): what that has
//! to know of them, and of the siblings.

use std::time::{Duration, Instant};

use privnet_model::id::InterfaceId;

use super::{SiblingState, Takeover};
use crate::address::{Around, Other, OtherState};

/// Tables described longer ago say nothing of where the routes lead now: what they say
/// is looked up again first.
const RECENT: Duration = Duration::from_secs(3);

/// Who is worth knowing though no route leads there and EC2 does not describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Keeps {
    Nobody,
    /// Who that is will be told.
    Untold,
    One(InterfaceId),
}

impl Takeover {
    /// The routes and the siblings, as far as an address depends on them.
    pub fn around(&self, now: Instant) -> Around {
        let acts = self.own.is_well() || self.leaving.is_some();
        let about_to = acts && !self.decide(&self.tables, now).moves.is_empty();
        let spokes = self.siblings.values().map(|one| {
            let state = match one.bad_since() {
                Some(since) => OtherState::Bad {
                    since,
                    leaving: one.state() == SiblingState::Leaving,
                    state: one.state(),
                },
                None if one.is_sure() || one.is_only_unheard() => OtherState::Well,
                None => OtherState::Unclear,
            };
            let instance = one.instance.clone();
            (one.interface.clone(), Other { instance, state })
        });
        Around {
            instance: self.setup.me.instance.clone(),
            interface: self.setup.me.interface.clone(),
            may_take: self.own.is_well() && self.leaving.is_none(),
            leaving: self.leaving,
            first: self.holders.values().next().cloned(),
            recent: self.seen.is_some_and(|at| now - at <= RECENT),
            moving: !self.moving.is_empty() || about_to,
            spokes: spokes.collect(),
        }
    }

    /// Somebody waits for the tables: they are looked at within a second.
    pub fn look_soon(&mut self) {
        self.hastened = true;
    }

    /// There is something beside the routes that a spoke may have; until it is told by
    /// [`Self::keep`] which has it, none is forgotten.
    pub fn keep_all(&mut self) {
        self.keeps = Keeps::Untold;
    }

    /// Who is not to be forgotten though no route leads there, if anybody: whether it
    /// is lost matters still.
    pub fn keep(&mut self, interface: Option<&InterfaceId>) {
        self.keeps = interface.map_or(Keeps::Nobody, |one| Keeps::One(one.clone()));
    }
}
