//! Histories that once broke an invariant, shortened to what mattered.

use crate::event::{Event, Poll, Says};
use crate::live;

const POLL: Event = Event::Poll(Poll {
    says: [Says::Truth; 3],
    one_by_one: false,
    backwards: false,
    accept_removals: false,
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
