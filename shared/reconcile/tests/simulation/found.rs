//! Histories that once broke an invariant, shortened to what mattered.

use crate::event::{Event, Poll, Says};
use crate::live;

const POLL: Event = Event::Poll(Poll {
    says: [Says::Truth; 3],
    one_by_one: false,
    backwards: false,
    accept_removals: false,
    remove: false,
});

const LAUNCH: Event = Event::Launch {
    vpc: 0,
    zone: 0,
    trusted: true,
};

/// The second announcement replaced the first, whose key was in use by then.
#[test]
fn a_spoke_that_announces_twice_keeps_the_key_that_it_uses() {
    let events = [
        LAUNCH,
        POLL,
        Event::Announce(0),
        Event::Switch(0),
        Event::Announce(0),
    ];
    assert_eq!(live(&events), Ok(()));
}

/// A key that was taken between two polls was in no state file: the hub that was killed
/// came back with the key before, and quarantined the one in use.
#[test]
fn a_hub_that_is_killed_knows_the_key_that_it_took_between_polls() {
    let events = [
        LAUNCH,
        POLL,
        Event::NewKey(0),
        POLL,
        Event::Wait { seconds: 399 },
        Event::Restart { killed: true },
    ];
    assert_eq!(live(&events), Ok(()));
}

/// The instance was stopped and started, and somebody wrote another key into its tag
/// meanwhile: that key was taken at once, and cut off the one in use.
#[test]
fn a_spoke_that_was_started_anew_is_not_cut_off_by_its_tag() {
    let events = [
        LAUNCH,
        POLL,
        Event::Stop(0),
        Event::ForgeKey {
            instance: 0,
            of: None,
        },
        Event::Start {
            instance: 0,
            new_key: false,
        },
        Event::Wait { seconds: 10 },
        POLL,
    ];
    assert_eq!(live(&events), Ok(()));
}
