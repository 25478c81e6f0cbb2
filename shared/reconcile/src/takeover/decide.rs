//! Which routes a spoke moves now, given the tables.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use privnet_model::id::{InstanceId, RouteTableId, Zone};
use privnet_model::vpc::{Destination, RouteChange, RouteTable};

use super::own::HOLD;
use super::sibling::Sibling;
use super::{CALM_LOOK, STEP, SiblingState, Takeover};
use crate::vpc_route::{Conflict, Holder, Place, Wanted, holder, plan};

/// A route to change now, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The change.
    pub change: RouteChange,
    /// Why.
    pub why: Reason,
}

/// Why a route is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A home table lacks it.
    Missing,
    /// It leads to a sibling that cannot carry it.
    Takeover {
        /// The sibling.
        from: InstanceId,
        /// How it is.
        state: SiblingState,
    },
    /// It is to the privnet, and led to a sibling whose tunnel is down.
    Tunnel {
        /// The sibling.
        from: InstanceId,
    },
    /// A sibling stood in, and need not any more.
    GiveBack {
        /// The sibling.
        from: InstanceId,
    },
    /// A sibling has the same home tables, and this spoke the first of their routes.
    Gather {
        /// The sibling.
        from: InstanceId,
    },
    /// This spoke is about to stop.
    HandOver {
        /// Who has it from now on.
        to: InstanceId,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("it was missing"),
            Self::Takeover { from, state } => write!(f, "it led to {from}, which is {state}"),
            Self::Tunnel { from } => write!(f, "it led to {from}, whose tunnel is down"),
            Self::GiveBack { from } => write!(f, "it is this spoke's own; {from} stood in"),
            Self::Gather { from } => {
                write!(f, "{from} had it; this spoke has the first of the routes")
            }
            Self::HandOver { to } => write!(f, "this spoke is about to stop; {to} stands in"),
        }
    }
}

/// What follows from a look at the tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// What to change, at once and in this order. Before each ask [`Takeover::still`], or
    /// [`Takeover::is_wanted`] if several are under way; the end of each is to be told.
    pub moves: Vec<Move>,
    /// Which of the routes that this spoke should have are somebody else's.
    pub conflicts: Vec<Conflict>,
    /// Home routes that lead here.
    pub in_order: BTreeSet<Place>,
}

/// Where a spoke stands in the order of those that could move a route: who has a tunnel, if
/// that is where it leads, who has been well for long, whose home the table is, who is in the
/// zone of the one that is to be replaced, and who was launched first.
type Rank<'a> = (
    Reverse<bool>,
    Reverse<bool>,
    Reverse<bool>,
    Reverse<bool>,
    Timestamp,
    &'a InstanceId,
);

impl Takeover {
    /// What is wanted, place by place, and the plan that `vpc_route` makes of it.
    pub(super) fn decide(&self, tables: &[RouteTable], now: Instant) -> Decision {
        let spokes = self.spokes();
        let mut wanted = BTreeMap::new();
        let mut reasons = BTreeMap::new();
        // A home table that does not exist is wanted as well: the plan says so.
        let ids: BTreeSet<_> = tables
            .iter()
            .map(|table| &table.id)
            .chain(&self.home)
            .collect();
        for id in ids {
            let table = tables.iter().find(|table| table.id == *id);
            for destination in &self.setup.destinations {
                let place = Place {
                    table: id.clone(),
                    destination: *destination,
                };
                let there = table.map(|table| holder(table, destination, &spokes));
                let reason = there.and_then(|there| self.reason(&place, &there, now));
                if let Some(one) = self.wanted(&place, reason.as_ref()) {
                    wanted.insert(place.clone(), one);
                    reasons.extend(reason.map(|reason| (place, reason)));
                }
            }
        }
        let plan = plan(&wanted, tables, &spokes);
        let moves = plan.changes.into_iter().filter_map(|change| {
            let place = Place {
                table: change.table.clone(),
                destination: change.destination,
            };
            let why = reasons.get(&place)?.clone();
            Some(Move { change, why })
        });
        Decision {
            moves: moves.collect(),
            conflicts: plan.conflicts,
            in_order: plan.in_order,
        }
    }

    /// A home place is always looked at, that the plan may tell what is in the way.
    fn wanted(&self, place: &Place, reason: Option<&Reason>) -> Option<Wanted> {
        let me = &self.setup.me.instance;
        let (to, from) = match reason {
            Some(Reason::HandOver { to }) => (to, Some(me)),
            Some(
                Reason::Takeover { from, .. }
                | Reason::Tunnel { from }
                | Reason::GiveBack { from }
                | Reason::Gather { from },
            ) => (me, Some(from)),
            Some(Reason::Missing) => (me, None),
            None if self.home.contains(&place.table) => (me, None),
            None => return None,
        };
        Some(Wanted {
            to: to.clone(),
            from: from.into_iter().cloned().collect(),
            create: reason == Some(&Reason::Missing),
        })
    }

    /// Why the route in a place is to be changed now, if it is.
    fn reason(&self, place: &Place, there: &Holder, now: Instant) -> Option<Reason> {
        let failed = self.failures.get(place);
        if failed.is_some_and(|(_, until)| now < *until) {
            return None;
        }
        match there {
            Holder::Spoke { instance, .. } if *instance == self.setup.me.instance => {
                let heir = self.heir(place).filter(|_| self.leaving.is_some())?;
                let to = heir.instance.clone();
                Some(Reason::HandOver { to })
            }
            Holder::Foreign { .. } => None,
            Holder::Nobody | Holder::Spoke { .. }
                if !self.own.is_well() || self.leaving.is_some() =>
            {
                None
            }
            Holder::Nobody => self
                .is_my_turn_to_create(place, now)
                .then_some(Reason::Missing),
            Holder::Spoke { instance, .. } => {
                let sibling = self.siblings.get(instance);
                let sibling = sibling.filter(|_| self.setup.takeover)?;
                self.take_from(place, sibling, now)
            }
        }
    }

    fn is_my_turn_to_create(&self, place: &Place, now: Instant) -> bool {
        if !self.home.contains(&place.table) {
            return false;
        }
        let missed = self.missed.get(place).copied().unwrap_or(now);
        let leader = self.leader();
        if leader.as_ref() == Some(&self.setup.me.instance) {
            return true;
        }
        // Who has the others makes it, when it sees that it is missing.
        let leader = leader.and_then(|leader| self.siblings.get(&leader));
        if leader.is_some_and(|one| one.can_take() && one.has_homes_within(&self.home)) {
            return now >= missed + CALM_LOOK + STEP;
        }
        // By its own zone each of several would be the first.
        let before = self.before_me(place, None, now);
        let before = before.filter(|one| one.is_home(&place.table)).count();
        now >= missed + step(before)
    }

    /// The spoke that the first of all routes in this spoke's home tables leads to, by table
    /// and destination. All that have the same homes find the same one, whatever else they
    /// serve; a shared address goes by the same order.
    fn leader(&self) -> Option<InstanceId> {
        let spokes = self.spokes();
        let table = |id: &RouteTableId| self.tables.iter().find(|table| table.id == *id);
        let mut home = self.home.iter().filter_map(table);
        home.find_map(|table| {
            let routes = table.routes.iter();
            let nets = routes.filter_map(|route| match &route.destination {
                Destination::Cidr(net) => Some(net),
                Destination::PrefixList(_) => None,
            });
            let led = nets.filter_map(|net| match holder(table, net, &spokes) {
                Holder::Spoke { instance, .. } => Some((net, instance)),
                Holder::Nobody | Holder::Foreign { .. } => None,
            });
            led.min().map(|(_, instance)| instance)
        })
    }

    /// Whether a route of this table that leads to a sibling which is well comes to this spoke
    /// all the same, to be with the others: it has the first of them. Only where both have
    /// the very same homes: that, and who has the first, all see alike, so that no two gather
    /// from each other. The first moves when its spoke fails or stops, never for this.
    fn gathers(&self, table: &RouteTableId, sibling: &Sibling) -> bool {
        self.home.contains(table)
            && sibling.is_sure()
            && sibling.has_homes(&self.home)
            && self.leader().as_ref() == Some(&self.setup.me.instance)
    }

    fn take_from(&self, place: &Place, sibling: &Sibling, now: Instant) -> Option<Reason> {
        let table = &place.table;
        let from = sibling.instance.clone();
        if let Some(since) = sibling.bad_since() {
            let before = self.before_me(place, Some(&sibling.zone), now);
            let before = before.filter(|one| one.instance != from).count();
            let state = sibling.state();
            // It moves them itself, if it can.
            let own = usize::from(state == SiblingState::Leaving);
            let turn = since + step(before + own);
            return (now >= turn).then_some(Reason::Takeover { from, state });
        }
        if let Some(since) = self.better_tunnel_since(sibling, place) {
            let before = self.before_me(place, Some(&sibling.zone), now).count();
            return (now >= since + step(before)).then_some(Reason::Tunnel { from });
        }
        if !self.carries(&place.destination) {
            return None;
        }
        let mine_alone = self.home.contains(table) && !sibling.is_home(table);
        let why = match (mine_alone, self.gathers(table, sibling)) {
            (true, _) => Reason::GiveBack { from },
            (false, true) => Reason::Gather { from },
            (false, false) => return None,
        };
        // By what was heard of it: one that is only known to live took the table
        // because it does not hear us, and there is no use in waiting longer.
        let hold = match sibling.is_well() {
            true => self.own.hold(),
            false => HOLD,
        };
        let missed = self.missed.get(place).copied().unwrap_or(now);
        let well = self.own.well_since()?.max(missed);
        let lasts = !self.is_tunnelled(&place.destination) || self.tunnel.lasts(now);
        (now - well >= hold && lasts).then_some(why)
    }

    /// Who could move a route of this table as well, and is before this spoke; where nobody
    /// is to be replaced, no zone counts.
    fn before_me(
        &self,
        place: &Place,
        zone: Option<&Zone>,
        now: Instant,
    ) -> impl Iterator<Item = &Sibling> {
        let me = &self.setup.me;
        let table = &place.table;
        let mine: Rank<'_> = (
            Reverse(self.carries(&place.destination)),
            Reverse(self.own.well_for(now) >= HOLD),
            Reverse(self.home.contains(table)),
            Reverse(zone == Some(&me.zone)),
            me.launched,
            &me.instance,
        );
        let able = self.siblings.values().filter(|one| one.can_take());
        able.filter(move |one| self.rank(one, place, zone) < mine)
    }

    /// Who gets a route of this table when this spoke stops.
    pub(super) fn heir(&self, place: &Place) -> Option<&Sibling> {
        let able = self.siblings.values().filter(|one| one.is_sure());
        able.min_by(|one, other| {
            let zone = Some(&self.setup.me.zone);
            let rank = |one| self.rank(one, place, zone);
            rank(one).cmp(&rank(other))
        })
    }

    fn rank<'a>(&self, sibling: &'a Sibling, place: &Place, zone: Option<&Zone>) -> Rank<'a> {
        (
            Reverse(self.is_carried_by(sibling, &place.destination)),
            Reverse(sibling.is_settled()),
            Reverse(sibling.is_home(&place.table)),
            Reverse(zone == Some(&sibling.zone)),
            sibling.launched,
            &sibling.instance,
        )
    }
}

fn step(before: usize) -> Duration {
    STEP * u32::try_from(before).unwrap_or(u32::MAX)
}
