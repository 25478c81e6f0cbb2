//! When one sibling is asked how it is, and which questions still wait for an answer. A
//! pure state machine, around which the health port sends and receives.
//!
//! The figures: a question a second, and one each half second as soon as an answer is
//! missing. One that died is so without three answers 3 s after its last one, which is 2
//! to 3 s after its death; of the 5 s that a takeover may take that leaves 2 to the beat
//! of the loop, a look at the tables and the changes. Hurry makes no answer count as late
//! that did not before: each question has its whole [`PATIENCE`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Between two questions to one sibling.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// The same while one waits for its answer.
pub const HURRIED: Duration = Duration::from_millis(500);
/// An answer that takes longer is none. (Between zones it takes a millisecond or two.)
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Who has been silent for so long is not asked in a hurry any more. Longer than it takes
/// to be lost, also for a spoke that was away itself meanwhile and begins anew.
const HURRY: Duration = Duration::from_secs(10);

/// The questions to one sibling. `Q` is by what an answer is known to be one to it.
#[derive(Debug, Clone)]
pub struct Asking<Q> {
    first: Instant,
    last: Option<Instant>,
    /// When the last question was asked that had an answer; before that, the first.
    heard: Option<Instant>,
    /// Questions without an answer, oldest first, none older than one that had one: at
    /// most three.
    waiting: VecDeque<(Q, Instant)>,
}

impl<Q> Asking<Q> {
    /// The first question is due at that time.
    pub fn new(first: Instant) -> Self {
        Self {
            first,
            last: None,
            heard: None,
            waiting: VecDeque::new(),
        }
    }

    /// When the next question is due.
    pub fn due(&self) -> Instant {
        let Some(last) = self.last else {
            return self.first;
        };
        let hope = self.heard.is_none_or(|heard| last < heard + HURRY);
        match hope && !self.waiting.is_empty() {
            true => last + HURRIED,
            false => last + INTERVAL,
        }
    }

    /// When the oldest question is to be given up.
    pub fn ends(&self) -> Option<Instant> {
        self.waiting.front().map(|(_, asked)| *asked + PATIENCE)
    }

    /// A question was due, and went out; nothing if it could not.
    pub fn asked(&mut self, question: Option<Q>, now: Instant) {
        self.last = Some(now);
        if let Some(question) = question {
            self.heard.get_or_insert(now);
            self.waiting.push_back((question, now));
        }
    }

    /// An answer came. Tells when its question was asked, if there is one that still
    /// waits; those before it need no answer any more.
    pub fn answered(&mut self, is_to: impl Fn(&Q) -> bool, now: Instant) -> Option<Instant> {
        let mut waiting = self.waiting.iter();
        let index =
            waiting.position(|(question, asked)| is_to(question) && now < *asked + PATIENCE)?;
        let (_, asked) = self.waiting.drain(..=index).next_back()?;
        self.heard = Some(asked);
        Some(asked)
    }

    /// Gives up the oldest question if it has waited for too long, and tells when it was
    /// asked.
    pub fn give_up(&mut self, now: Instant) -> Option<Instant> {
        self.waiting
            .pop_front_if(|(_, asked)| now >= *asked + PATIENCE)
            .map(|(_, asked)| asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[expect(clippy::disallowed_methods, reason = "somewhere time must start")]
    fn beginning() -> Instant {
        Instant::now()
    }

    /// What became of the questions of so many milliseconds: of each when it was asked and
    /// when that was known. An answer takes as long as is said for a question of that time.
    struct Told {
        asked: Vec<u32>,
        answered: Vec<(u32, u32)>,
        given_up: Vec<(u32, u32)>,
    }

    fn live(millis: u32, takes: impl Fn(u32) -> Option<u32>) -> Told {
        let start = beginning();
        let mut asking = Asking::new(start);
        let mut coming: Vec<(u32, u32)> = Vec::new();
        let mut told = Told {
            asked: Vec::new(),
            answered: Vec::new(),
            given_up: Vec::new(),
        };
        let since = |at: Instant| u32::try_from((at - start).as_millis()).unwrap_or(u32::MAX);
        for time in 0..millis {
            let now = start + MILLISECOND * time;
            for (_, question) in coming.extract_if(.., |(at, _)| *at == time) {
                if let Some(asked) = asking.answered(|one| *one == question, now) {
                    told.answered.push((since(asked), time));
                }
            }
            if asking.ends().is_some_and(|end| now >= end)
                && let Some(asked) = asking.give_up(now)
            {
                told.given_up.push((since(asked), time));
            }
            if now >= asking.due() {
                asking.asked(Some(time), now);
                told.asked.push(time);
                coming.extend(takes(time).map(|takes| (time + takes, time)));
            }
            assert!(asking.waiting.len() <= 3, "{time}");
        }
        told
    }

    #[test]
    fn one_that_answers_is_asked_each_second() {
        let told = live(3500, |_| Some(2));
        assert_eq!(told.asked, [0, 1000, 2000, 3000]);
        assert_eq!(told.answered[1], (1000, 1002));
        assert!(told.given_up.is_empty());
    }

    #[test]
    fn one_that_falls_silent_is_asked_twice_as_often_and_misses_three_answers_in_three_seconds() {
        // Its last answer is to the question of 2,000.
        let told = live(16_000, |asked| (asked <= 2000).then_some(2));
        assert_eq!(told.asked[..6], [0, 1000, 2000, 3000, 3500, 4000]);
        let lost = [(3000, 4000), (3500, 4500), (4000, 5000)];
        assert_eq!(told.given_up[..3], lost);
        // For ten seconds; then without hurry.
        let late = told.asked.iter().filter(|asked| **asked > 12_000);
        assert_eq!(late.collect::<Vec<_>>(), [&13_000, &14_000, &15_000]);
    }

    #[test]
    fn one_that_is_heard_again_is_asked_without_hurry_again() {
        let silent = 2500..4200;
        let told = live(8000, |asked| (!silent.contains(&asked)).then_some(2));
        let asked = [0, 1000, 2000, 3000, 3500, 4000, 4500, 5500, 6500, 7500];
        assert_eq!(told.asked, asked);
        // The answer to the one of 4,500 spoke for the one of 4,000 as well.
        assert_eq!(told.given_up, [(3000, 4000), (3500, 4500)]);
    }

    #[test]
    fn an_answer_that_takes_nearly_a_second_is_one_however_fast_is_asked() {
        let told = live(60_000, |_| Some(990));
        assert!(told.given_up.is_empty());
        assert!(told.answered.len() >= 110, "each, but those of the end");
        let told = live(60_000, |_| Some(1010));
        assert!(told.answered.is_empty());
    }

    #[test]
    fn an_answer_counts_once_and_a_later_one_speaks_for_those_before_it() {
        let start = beginning();
        let mut asking = Asking::new(start);
        asking.asked(Some(1), start);
        asking.asked(Some(2), start + HURRIED);
        let now = start + HURRIED + MILLISECOND;
        assert_eq!(asking.answered(|one| *one == 3, now), None, "to another");
        assert_eq!(asking.answered(|one| *one == 2, now), Some(start + HURRIED));
        assert_eq!(asking.answered(|one| *one == 2, now), None, "again");
        assert_eq!(asking.answered(|one| *one == 1, now), None);
        assert_eq!(asking.give_up(start + PATIENCE), None);
        assert_eq!(asking.ends(), None);
    }

    #[test]
    fn what_could_not_be_sent_waits_for_no_answer_and_is_tried_a_second_later() {
        let start = beginning();
        let mut asking = Asking::<()>::new(start);
        asking.asked(None, start);
        assert_eq!(asking.ends(), None);
        assert_eq!(asking.due(), start + INTERVAL);
    }

    #[test]
    fn a_program_that_was_stopped_for_a_while_makes_up_for_no_question() {
        let start = beginning();
        let mut asking = Asking::new(start);
        asking.asked(Some(()), start);
        let now = start + Duration::from_secs(7);
        assert_eq!(asking.give_up(now), Some(start));
        assert!(asking.due() < now);
        asking.asked(Some(()), now);
        assert_eq!(asking.due(), now + HURRIED);
    }
}
