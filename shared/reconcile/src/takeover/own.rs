//! How the spoke itself is: what its self-tests say, for how long, and how long it
//! must be well before it takes its tables back.

use std::time::{Duration, Instant};

use privnet_model::health::Condition;

/// So long a spoke must be well before it takes its tables back from one that serves
/// them well; who has been well for so long comes before who has not in the order of those
/// that stand in.
pub const HOLD: Duration = Duration::from_secs(10);
/// The longest that this grows to.
const MOST_HOLD: Duration = Duration::from_secs(600);
/// Whoever was well for so long before it failed does not flap.
pub(super) const CALM: Duration = Duration::from_secs(600);
/// Whoever did nothing for so long was away: siblings may have thought it lost, and
/// were right. After 2.5 s without an answer they do, and they ask once a second at
/// least.
const AWAY: Duration = Duration::from_millis(1500);

/// How long what was lost must be there again before routes are taken back for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hold {
    time: Duration,
    lost: Option<Instant>,
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            time: HOLD,
            lost: None,
        }
    }
}

impl Hold {
    /// It was lost. Soon after the last time that counts double.
    pub(super) fn lose(&mut self, now: Instant) {
        let soon = self.lost.is_some_and(|before| now - before < CALM);
        self.time = match soon {
            true => (self.time * 2).min(MOST_HOLD),
            false => HOLD,
        };
        self.lost = Some(now);
    }

    pub(super) fn time(&self) -> Duration {
        self.time
    }
}

/// The spoke's own health.
#[derive(Debug, Clone)]
pub(super) struct Own {
    /// How long a self-test's result counts.
    counts_for: Duration,
    /// The last result, and when it came.
    tested: Option<(Result<(), String>, Instant)>,
    well_since: Option<Instant>,
    /// Whether it has been well since it started.
    proved: bool,
    /// When it was last awake.
    awake: Instant,
    hold: Hold,
}

impl Own {
    pub(super) fn new(test_interval: Duration, now: Instant) -> Self {
        Self {
            counts_for: (test_interval * 3).max(Duration::from_secs(3)),
            tested: None,
            well_since: None,
            proved: false,
            awake: now,
            hold: Hold::default(),
        }
    }

    /// What was known before a restart: how long it had to wait, and when it was lost.
    pub(super) fn remember(&mut self, hold: Duration, lost: Instant) {
        self.hold = Hold {
            time: hold.clamp(HOLD, MOST_HOLD),
            lost: Some(lost),
        };
    }

    /// Notes that the spoke is awake; tells whether it was away.
    pub(super) fn wake(&mut self, now: Instant) -> bool {
        let away = now.saturating_duration_since(self.awake) >= AWAY;
        self.awake = self.awake.max(now);
        if away && self.well_since.is_some() {
            self.lose(now);
            // Whether the last result still counts, `judge` knows.
            self.well_since = Some(now);
        }
        away
    }

    pub(super) fn tested(&mut self, result: Result<(), String>, now: Instant) {
        match &result {
            Ok(()) => {
                self.well_since.get_or_insert(now);
                self.proved = true;
            }
            Err(_) => self.not_well(now),
        }
        self.tested = Some((result, now));
    }

    /// To be called often: a result that is too old is none.
    pub(super) fn judge(&mut self, now: Instant) {
        let tested = self.tested.as_ref();
        let fresh = tested.is_some_and(|(_, at)| now - *at <= self.counts_for);
        if !fresh {
            self.not_well(now);
        }
    }

    fn not_well(&mut self, now: Instant) {
        if self.well_since.take().is_some() {
            self.lose(now);
        }
    }

    /// It was lost or sick.
    pub(super) fn lose(&mut self, now: Instant) {
        self.hold.lose(now);
    }

    pub(super) fn is_well(&self) -> bool {
        self.well_since.is_some()
    }

    /// For how long it has been well.
    pub(super) fn well_for(&self, now: Instant) -> Duration {
        self.well_since.map_or(Duration::ZERO, |since| now - since)
    }

    /// Since when, if it is.
    pub(super) fn well_since(&self) -> Option<Instant> {
        self.well_since
    }

    pub(super) fn hold(&self) -> Duration {
        self.hold.time()
    }

    pub(super) fn lost(&self) -> Option<Instant> {
        self.hold.lost
    }

    pub(super) fn condition(&self) -> Condition {
        let why = match &self.tested {
            _ if self.is_well() => return Condition::Well,
            Some((Err(why), _)) => why.clone(),
            Some((Ok(()), _)) => "the last self-test is too old".to_owned(),
            None => "no self-test yet".to_owned(),
        };
        match self.proved {
            true => Condition::Sick { why },
            false => Condition::Starting { why },
        }
    }
}
