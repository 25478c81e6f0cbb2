//! The journal: what happened lately and why, for `tunnels events`.
//!
//! A ring of bounded length and size, in memory alone: the log has it all. What
//! happens again soon is one event that is counted, so that a region that fails
//! for a day, or a tunnel that flaps, does not push out everything else.
//!
//! Pure: the time comes in. [`Watch`] finds out what happened, by comparing what
//! the operator could have seen before with what he sees now.

mod watch;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use privnet_model::admin::{Change, Event};

pub(crate) use watch::{View, Watch};

/// The last so many events are kept.
const MOST_EVENTS: usize = 1_000;
/// And of these as many as fit, by the size of their texts.
const MOST_BYTES: usize = 512 * 1024;
/// The longest text of one event; what AWS says of an error can be longer.
const MOST_CHARS: usize = 1_000;
/// What happens again within this time is told as one event: more than two of the
/// usual intervals between polls.
const FOLDED_WITHIN: SignedDuration = SignedDuration::from_hours(3);
/// The changes of one decision that are kept one by one: a hub that starts adds all
/// its tunnels at once.
const MOST_CHANGES: usize = 200;

/// The last events.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// By number, so oldest first.
    events: BTreeMap<u64, Event>,
    /// The number under which each thing that happened stands.
    numbers: BTreeMap<(String, String), u64>,
    last: u64,
    bytes: usize,
}

impl Journal {
    /// Notes that something happened.
    pub(crate) fn record(&mut self, at: Timestamp, what: &str, text: &str) {
        let happened = (cut(what), cut(text));
        let again = self.take_recent(at, &happened);
        self.last += 1;
        let (what, text) = happened.clone();
        let event = Event {
            number: self.last,
            at,
            first: again.as_ref().map_or(at, |before| before.first),
            times: again.as_ref().map_or(1, |before| before.times + 1),
            what,
            text,
        };
        self.bytes += size(&event);
        self.events.insert(self.last, event);
        self.numbers.insert(happened, self.last);
        // The newest stays, whatever its size, which is bounded.
        while self.events.len() > MOST_EVENTS || self.bytes > MOST_BYTES {
            let Some((_, oldest)) = self.events.pop_first() else {
                break;
            };
            self.bytes -= size(&oldest);
            let happened = (oldest.what, oldest.text);
            // By now it may stand there under a higher number.
            if self.numbers.get(&happened) == Some(&oldest.number) {
                self.numbers.remove(&happened);
            }
        }
    }

    /// Notes what a decision changed.
    pub(crate) fn record_changes(&mut self, at: Timestamp, changes: &[Change]) {
        let (told, more) = changes.split_at(changes.len().min(MOST_CHANGES));
        for Change { action, what, why } in told {
            self.record(at, what, &format!("{action}: {why}"));
        }
        if !more.is_empty() {
            let text = format!("{} further changes at the same time", more.len());
            self.record(at, "plan", &text);
        }
    }

    /// The events, oldest first.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.values().cloned().collect()
    }

    /// Takes out the event that this is again. One of too long ago stays as it is.
    fn take_recent(&mut self, at: Timestamp, happened: &(String, String)) -> Option<Event> {
        let number = self.numbers.remove(happened)?;
        let before = self.events.remove(&number)?;
        if at.duration_since(before.at) > FOLDED_WITHIN {
            self.events.insert(number, before);
            return None;
        }
        self.bytes -= size(&before);
        Some(before)
    }
}

fn size(event: &Event) -> usize {
    event.what.len() + event.text.len()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MOST_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use privnet_model::admin::Action;

    use super::*;

    fn at(minutes: i64) -> Timestamp {
        let start: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        start + SignedDuration::from_mins(minutes)
    }

    fn told(journal: &Journal) -> Vec<(String, u64)> {
        let events = journal.events().into_iter();
        events
            .map(|event| (format!("{}: {}", event.what, event.text), event.times))
            .collect()
    }

    #[test]
    fn what_happens_again_is_counted_and_comes_last() {
        let mut journal = Journal::default();
        for minute in 0..12 {
            journal.record(at(minute), "eu-west-1", "poll failed");
            journal.record(at(minute), "tunnel a", ["up", "down"][minute as usize % 2]);
        }
        assert_eq!(
            told(&journal),
            [
                ("tunnel a: up".to_owned(), 6),
                ("eu-west-1: poll failed".to_owned(), 12),
                ("tunnel a: down".to_owned(), 6),
            ]
        );
        let failed = &journal.events()[1];
        assert_eq!((failed.first, failed.at), (at(0), at(11)));
        let numbers: Vec<u64> = journal.events().iter().map(|event| event.number).collect();
        assert_eq!(numbers, [22, 23, 24]);
    }

    #[test]
    fn what_happens_again_after_long_is_another_event() {
        let mut journal = Journal::default();
        journal.record(at(0), "tunnel a", "up");
        journal.record(at(3 * 60 + 1), "tunnel a", "up");
        let up = ("tunnel a: up".to_owned(), 1);
        assert_eq!(told(&journal), [up.clone(), up]);
        journal.record(at(4 * 60), "tunnel a", "up");
        assert_eq!(journal.events()[1].times, 2);
        // The older one goes by itself, and takes nothing of the newer along.
        for number in 0..MOST_EVENTS - 1 {
            journal.record(at(4 * 60), "x", &number.to_string());
        }
        assert_eq!(journal.events()[0].times, 2);
        journal.record(at(4 * 60), "tunnel a", "up");
        assert_eq!(journal.events().last().unwrap().times, 3);
    }

    #[test]
    fn a_clock_that_is_set_back_is_no_long_time() {
        let mut journal = Journal::default();
        journal.record(at(600), "tunnel a", "up");
        journal.record(at(0), "tunnel a", "up");
        assert_eq!(journal.events()[0].times, 2);
    }

    #[test]
    fn it_never_outgrows_its_bounds() {
        let mut journal = Journal::default();
        for number in 0..3_000 {
            journal.record(at(0), "tunnel", &format!("short {number}"));
            assert!(journal.events.len() <= MOST_EVENTS);
        }
        assert_eq!(journal.events.len(), MOST_EVENTS);
        assert_eq!(journal.events()[0].text, "short 2000");
        let long = "é".repeat(5_000);
        for number in 0..3_000 {
            journal.record(at(0), &format!("{number}"), &long);
            let bytes: usize = journal.events.values().map(size).sum();
            assert!(bytes <= MOST_BYTES && bytes == journal.bytes);
            assert_eq!(journal.events.len(), journal.numbers.len());
        }
        let newest = journal.events().pop().unwrap();
        assert_eq!(newest.what, "2999");
        assert_eq!(newest.text.chars().count(), MOST_CHARS + 1);
        assert!(newest.text.ends_with('…'));
    }

    #[test]
    fn a_decision_that_changes_everything_leaves_room_for_others() {
        let mut journal = Journal::default();
        let change = |number: usize| Change {
            action: Action::Add,
            what: format!("tunnel {number}"),
            why: "new".to_owned(),
        };
        let changes: Vec<Change> = (0..10_000).map(change).collect();
        journal.record_changes(at(0), &changes[..2]);
        assert_eq!(told(&journal)[1], ("tunnel 1: add: new".to_owned(), 1));
        journal.record_changes(at(0), &changes);
        assert_eq!(journal.events.len(), MOST_CHANGES + 1);
        let last = told(&journal).pop().unwrap().0;
        assert_eq!(last, "plan: 9800 further changes at the same time");
    }
}
