//! Connections that outlive the move of the address by which the internet knows them.
//!
//! The spoke that has the address ([`roster`]) tells its siblings of them all the time, who
//! keep them in mind ([`replica`]). Who takes the address over enters them into its kernel,
//! *then* has EC2 move it: what comes for a connection that the kernel does not know it
//! answers with a reset, which ends the connection.
//!
//! Until the address is here, nothing of these connections may leave: it would leave by
//! another address, and be answered by a reset as well. That is the guard's part
//! ([`guard`]): a small nftables table of its own. What belongs to the address carries a
//! mark of connection tracking, [`MARK`]. This file says in which state the guard is to be.

use std::time::{Duration, Instant};

pub mod guard;
pub mod replica;
pub mod roster;

pub use guard::Guard;

/// The bit of the connection mark that belongs to the connections of the address. Other
/// bits are left alone.
pub const MARK: u32 = 0x2000_0000;

/// How long after the address came resets are dropped. EC2 says that an address is moved
/// before that is in force: what leaves meanwhile leaves by the old one. A reset that was
/// meant is asked for again by the next packet.
pub const SETTLING: Duration = Duration::from_secs(10);

/// For so long after the address came an answer that it is elsewhere is not believed: EC2's
/// answers may be older than its changes.
const LAG: Duration = Duration::from_secs(10);

/// So long after connections were taken over because a sibling offered them the address
/// must have come: it is the next thing that the sibling asks for.
const OFFERED: Duration = Duration::from_secs(20);

/// Where the address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At this spoke.
    Here,
    /// At another.
    Elsewhere,
    /// Nowhere: it is free.
    Nowhere,
}

/// How it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// EC2 described it so.
    Look,
    /// This spoke has just had it moved.
    Move,
}

/// In which state the guard is, and what is to be forgotten. Every method takes the time.
#[derive(Debug, Clone, Default)]
pub struct Keeping {
    place: Option<Place>,
    came: Option<Instant>,
    /// When connections were taken over for an address that is not here yet.
    taken: Option<Instant>,
}

/// What follows from where the address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// The address is here now: its connections are told to the siblings.
    Came,
    /// The kernel is to forget the connections of the address: they go on elsewhere, and
    /// must not be found here when it comes back.
    Forget,
}

impl Keeping {
    /// Where the address is, as far as is known.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// Somebody told where the address is.
    pub fn seen(&mut self, place: Place, source: Source, now: Instant) -> Step {
        let fresh = self.came.is_some_and(|came| now - came < LAG);
        if source == Source::Look && place != Place::Here && fresh {
            return Step::Nothing;
        }
        let was = self.place.replace(place);
        match place {
            Place::Here if was == Some(Place::Here) => Step::Nothing,
            Place::Here => {
                // At the first look it has been here for nobody knows how long.
                self.came = (was.is_some() || source == Source::Move).then_some(now);
                self.taken = None;
                Step::Came
            }
            Place::Elsewhere | Place::Nowhere => {
                self.came = None;
                // What was taken over belongs to an address that is about to come.
                let gone = place == Place::Elsewhere && was != Some(place) && self.taken.is_none();
                match gone {
                    true => Step::Forget,
                    false => Step::Nothing,
                }
            }
        }
    }

    /// Whether connections may be taken over: the address is known not to be here.
    pub fn may_take(&self) -> bool {
        matches!(self.place, Some(Place::Elsewhere | Place::Nowhere))
    }

    /// Connections were entered for an address that is about to come.
    pub fn took(&mut self, now: Instant) {
        self.taken = Some(now);
    }

    /// The address that they were entered for does not come.
    pub fn took_in_vain(&mut self) -> Step {
        match self.taken.take() {
            Some(_) if self.place != Some(Place::Here) => Step::Forget,
            Some(_) | None => Step::Nothing,
        }
    }

    /// To be called every second or so.
    pub fn tick(&mut self, now: Instant) -> Step {
        match self.taken {
            Some(taken) if now - taken >= OFFERED => self.took_in_vain(),
            Some(_) | None => Step::Nothing,
        }
    }

    /// What the guard should do; nothing while it is not known where the address is: what
    /// it did before a restart is the best guess then.
    pub fn guard(&self, now: Instant) -> Option<Guard> {
        let settling = || self.came.is_some_and(|came| now - came < SETTLING);
        Some(match self.place? {
            Place::Here if settling() => Guard::Settle,
            Place::Here => Guard::Mark,
            Place::Elsewhere | Place::Nowhere => Guard::Hold,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant does for a start")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn an_address_that_comes_is_guarded_before_while_it_settles_and_after() {
        let start = start();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut keeping = Keeping::default();
        assert_eq!(keeping.guard(start), None);
        assert!(!keeping.may_take());
        let step = keeping.seen(Place::Elsewhere, Source::Look, start);
        // What is there from an earlier life has gone on elsewhere.
        assert_eq!(step, Step::Forget);
        assert_eq!(keeping.guard(start), Some(Guard::Hold));
        assert!(keeping.may_take());
        keeping.took(after(1));
        // Looking once more does not lose what was taken over.
        let step = keeping.seen(Place::Nowhere, Source::Look, after(2));
        assert_eq!(step, Step::Nothing);
        let step = keeping.seen(Place::Elsewhere, Source::Look, after(2));
        assert_eq!(step, Step::Nothing);
        assert_eq!(
            keeping.seen(Place::Here, Source::Move, after(3)),
            Step::Came
        );
        assert_eq!(keeping.guard(after(12)), Some(Guard::Settle));
        assert_eq!(keeping.guard(after(13)), Some(Guard::Mark));
        assert_eq!(keeping.tick(after(60)), Step::Nothing);
        assert!(!keeping.may_take());
    }

    #[test]
    fn an_old_answer_ends_no_connection() {
        let start = start();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut keeping = Keeping::default();
        keeping.seen(Place::Elsewhere, Source::Look, start);
        keeping.seen(Place::Here, Source::Move, start);
        let step = keeping.seen(Place::Elsewhere, Source::Look, after(9));
        assert_eq!(step, Step::Nothing);
        assert_eq!(keeping.place(), Some(Place::Here));
        // Somebody moved it, after all.
        let step = keeping.seen(Place::Elsewhere, Source::Look, after(10));
        assert_eq!(step, Step::Forget);
        assert_eq!(keeping.guard(after(10)), Some(Guard::Hold));
        let step = keeping.seen(Place::Elsewhere, Source::Look, after(11));
        assert_eq!(step, Step::Nothing);
    }

    #[test]
    fn who_gave_it_away_holds_and_forgets_at_once() {
        let start = start();
        let mut keeping = Keeping::default();
        keeping.seen(Place::Here, Source::Move, start);
        let step = keeping.seen(Place::Elsewhere, Source::Move, start);
        assert_eq!(step, Step::Forget);
        assert_eq!(keeping.guard(start), Some(Guard::Hold));
    }

    #[test]
    fn an_address_that_was_offered_and_does_not_come_is_given_up() {
        let start = start();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut keeping = Keeping::default();
        keeping.seen(Place::Elsewhere, Source::Look, start);
        keeping.took(start);
        assert_eq!(keeping.tick(after(19)), Step::Nothing);
        assert_eq!(keeping.tick(after(20)), Step::Forget);
        assert_eq!(keeping.tick(after(21)), Step::Nothing);
        keeping.took(after(30));
        assert_eq!(keeping.took_in_vain(), Step::Forget);
        keeping.seen(Place::Here, Source::Look, after(31));
        assert_eq!(keeping.took_in_vain(), Step::Nothing);
    }

    #[test]
    fn a_restart_where_the_address_is_does_not_settle_again() {
        let now = start();
        let mut keeping = Keeping::default();
        assert_eq!(keeping.seen(Place::Here, Source::Look, now), Step::Came);
        assert_eq!(keeping.guard(now), Some(Guard::Mark));
    }
}
