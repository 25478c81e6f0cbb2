//! What a spoke moves now, given where the addresses are; and what is in the way.

use std::time::Instant;

use privnet_model::config::spoke::AddressConfig;
use privnet_model::id::InterfaceId;
use privnet_model::vpc::ElasticAddress;

use super::{Address, AddressMove, AddressReason, Around, GIVES, Other, OtherState, holds};
use crate::takeover::STEP;

/// What follows from where the addresses are.
pub(super) enum Choice {
    Nothing,
    /// Something will, unless it changes before.
    Wait,
    /// It depends on where the routes lead now.
    SeeRoutes,
    Move(Box<AddressMove>),
}

impl Address {
    /// What keeps this spoke from having an address, of what was seen last.
    pub fn problem(&self, around: &Around) -> Option<String> {
        self.seen_at?;
        let wanted = &self.config;
        match (wanted, self.seen.as_slice()) {
            (AddressConfig::Allocation(_), []) => Some(format!(
                "there is no Elastic IP {wanted} in this account and region"
            )),
            (AddressConfig::Allocation(_), [one, ..]) => {
                let holder = one.holder.as_ref()?;
                let known = holder.interface.as_ref().is_some_and(|interface| {
                    *interface == around.interface || around.spokes.contains_key(interface)
                });
                (!known).then(|| {
                    let address = one.address;
                    format!(
                        "the Elastic IP {address} ({wanted}) is at {holder}, which is no spoke of this \
                         VPC: it stays there"
                    )
                })
            }
            (AddressConfig::Pool(_), []) => Some(format!(
                "there is no Elastic IP of {wanted} in this account and region"
            )),
            (AddressConfig::Pool(_), all) => {
                let none = self.held.is_none() && all.iter().all(|one| one.holder.is_some());
                none.then(|| {
                    format!(
                        "all {} Elastic IPs of {wanted} are in use: allocate another with its tags",
                        all.len()
                    )
                })
            }
        }
    }

    pub(super) fn is_where_it_should_be(&self, around: &Around) -> bool {
        let holder = match &self.config {
            AddressConfig::Pool(_) => return self.held.is_some(),
            AddressConfig::Allocation(_) => self.holder(),
        };
        let at = holder.and_then(|holder| holder.interface.as_ref());
        let Some((at, first)) = at.zip(around.first.as_ref()) else {
            return at.is_some();
        };
        match around.spokes.get(at) {
            Some(other) => other.instance == *first,
            None => *at == around.interface && around.instance == *first,
        }
    }

    pub(super) fn choose(&self, around: &Around, now: Instant) -> Choice {
        match &self.config {
            AddressConfig::Pool(_) => self.of_the_pool(around, now),
            AddressConfig::Allocation(_) => self.the_one(around, now),
        }
    }

    fn of_the_pool(&self, around: &Around, now: Instant) -> Choice {
        let mine = |one: &ElasticAddress| holds(one, &around.interface);
        if !around.may_take || self.seen.iter().any(mine) {
            return Choice::Nothing;
        }
        let free = self.seen.iter().filter(|one| one.holder.is_none());
        let mut choice = Choice::Nothing;
        for one in free {
            choice = Choice::Wait;
            if !self.has_failed(one, now) {
                return Choice::Move(moved(one, &around.interface, AddressReason::Free));
            }
        }
        choice
    }

    fn the_one(&self, around: &Around, now: Instant) -> Choice {
        let Some(one) = self.seen.first() else {
            return Choice::Nothing;
        };
        let Some((to, why)) = wanted(one, around, now) else {
            return Choice::Nothing;
        };
        let gives = matches!(why, AddressReason::GoesAlong { .. }) && around.leaving.is_none();
        let gave = self.gave.filter(|_| gives);
        if around.moving || self.has_failed(one, now) || gave.is_some_and(|gave| now - gave < GIVES)
        {
            Choice::Wait
        } else if !around.recent {
            Choice::SeeRoutes
        } else {
            Choice::Move(moved(one, &to, why))
        }
    }

    pub(super) fn has_failed(&self, one: &ElasticAddress, now: Instant) -> bool {
        let failed = self.failures.get(&one.allocation);
        failed.is_some_and(|(_, until)| now < *until)
    }
}

/// Where the one address belongs, if that is not where it is, and moving it there is
/// this spoke's to do.
fn wanted(
    one: &ElasticAddress,
    around: &Around,
    now: Instant,
) -> Option<(InterfaceId, AddressReason)> {
    let first_is_here = around.first.as_ref() == Some(&around.instance);
    let me = || around.interface.clone();
    let Some(holder) = &one.holder else {
        let whose = first_is_here || around.first.is_none();
        return (around.may_take && whose).then(|| (me(), AddressReason::Free));
    };
    let at = holder.interface.as_ref()?;
    if *at == around.interface {
        let first = around.first.as_ref()?;
        let mut spokes = around.spokes.iter();
        let well = |other: &Other| other.instance == *first && other.state == OtherState::Well;
        let (interface, _) = spokes.find(|(_, other)| well(other))?;
        let to = first.clone();
        return Some((interface.clone(), AddressReason::GoesAlong { to }));
    }
    let other = around.spokes.get(at)?;
    let OtherState::Bad {
        since,
        leaving,
        state,
    } = &other.state
    else {
        return None;
    };
    let turn = match leaving {
        true => *since + STEP,
        false => *since,
    };
    (around.may_take && first_is_here && now >= turn).then(|| {
        let why = AddressReason::Takeover {
            from: other.instance.clone(),
            state: state.clone(),
        };
        (me(), why)
    })
}

fn moved(one: &ElasticAddress, to: &InterfaceId, why: AddressReason) -> Box<AddressMove> {
    Box::new(AddressMove {
        allocation: one.allocation.clone(),
        address: one.address,
        to: to.clone(),
        from: one.holder.clone(),
        why,
    })
}
