//! What may happen to a fleet and its hub. Numbers choose among what there is, modulo
//! how much there is of it, so that every event means something in every state.

use proptest::prelude::*;

/// One event.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// Somebody launches a spoke.
    Launch {
        vpc: u8,
        zone: u8,
        trusted: bool,
    },
    Terminate(u8),
    Stop(u8),
    /// A stopped instance starts again, perhaps with another key.
    Start {
        instance: u8,
        new_key: bool,
    },
    /// Somebody takes the tags that make it a spoke away, or gives them back.
    Untag(u8),
    Retag(u8),
    /// EC2 begins or ceases to describe it without any tags.
    Tagless(u8),
    /// Somebody writes another key into its tag: a made-up one, or another spoke's.
    ForgeKey {
        instance: u8,
        of: Option<u8>,
    },
    /// Somebody writes nonsense into its tags, and EC2 leaves out what it can.
    Garble(u8),
    /// It says in its tags again what is true.
    Publish(u8),
    /// It makes itself another key, and publishes it.
    NewKey(u8),
    /// It announces its next key to the hub.
    Announce(u8),
    /// It begins to use the key that it announced.
    Switch(u8),
    /// The way between it and the hub breaks, or is whole again.
    Cut(u8),
    Mend(u8),
    /// It stops answering probes, though it handshakes; or answers again.
    Probe {
        instance: u8,
        answers: bool,
    },
    /// A VPC gets another CIDR.
    Grow(u8),
    /// The hub asks EC2.
    Poll(Poll),
    /// Time passes.
    Wait {
        seconds: u16,
    },
    /// The hub ends orderly and starts again, or is killed.
    Restart {
        killed: bool,
    },
}

/// How a poll goes.
#[derive(Debug, Clone)]
pub(crate) struct Poll {
    /// What each region says.
    pub(crate) says: [Says; 3],
    /// Answers are taken in as they come, in this order.
    pub(crate) one_by_one: bool,
    pub(crate) backwards: bool,
    pub(crate) accept_removals: bool,
    /// The operator lets go of all that are missing, by name.
    pub(crate) remove: bool,
}

/// What EC2 says in a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    Truth,
    /// An error, of whatever kind.
    Error,
    /// "There is nothing", and of no instance what became of it.
    Nothing,
    /// The same, and that each that is known has no tags.
    NothingTagged,
    /// The same, and that none of those that are known exists.
    NothingKnown,
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let one = any::<u8>;
    prop_oneof![
        6 => (one(), one(), prop::bool::weighted(0.85))
            .prop_map(|(vpc, zone, trusted)| Event::Launch { vpc, zone, trusted }),
        1 => one().prop_map(Event::Terminate),
        1 => one().prop_map(Event::Stop),
        1 => (one(), any::<bool>())
            .prop_map(|(instance, new_key)| Event::Start { instance, new_key }),
        1 => one().prop_map(Event::Untag),
        1 => one().prop_map(Event::Retag),
        1 => one().prop_map(Event::Tagless),
        1 => (one(), proptest::option::of(one()))
            .prop_map(|(instance, of)| Event::ForgeKey { instance, of }),
        1 => one().prop_map(Event::Garble),
        1 => one().prop_map(Event::Publish),
        1 => one().prop_map(Event::NewKey),
        2 => one().prop_map(Event::Announce),
        2 => one().prop_map(Event::Switch),
        1 => one().prop_map(Event::Cut),
        2 => one().prop_map(Event::Mend),
        2 => (one(), any::<bool>())
            .prop_map(|(instance, answers)| Event::Probe { instance, answers }),
        1 => one().prop_map(Event::Grow),
        14 => poll().prop_map(Event::Poll),
        5 => (1_u16..400).prop_map(|seconds| Event::Wait { seconds }),
        2 => any::<bool>().prop_map(|killed| Event::Restart { killed }),
    ]
}

fn poll() -> impl Strategy<Value = Poll> {
    let says = || {
        prop_oneof![
            8 => Just(Says::Truth),
            2 => Just(Says::Error),
            1 => Just(Says::Nothing),
            1 => Just(Says::NothingTagged),
            2 => Just(Says::NothingKnown),
        ]
    };
    (
        [says(), says(), says()],
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.04),
        prop::bool::weighted(0.06),
    )
        .prop_map(
            |(says, one_by_one, backwards, accept_removals, remove)| Poll {
                says,
                one_by_one,
                backwards,
                accept_removals,
                remove,
            },
        )
}
