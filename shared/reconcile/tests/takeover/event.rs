//! What may happen to the spokes of a VPC. Numbers choose a spoke, modulo how many
//! there are, so that every event means something in every state.

use proptest::prelude::*;

/// One event.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// The instance fails, or the daemon is killed and the kernel with it.
    Kill(u8),
    /// It starts again, with what it kept.
    Start(u8),
    /// The instance is terminated, and another launched in its zone.
    Replace(u8),
    /// The daemon does nothing for a while.
    Hang(u8),
    Resume(u8),
    /// Its egress breaks, or is whole again.
    Sicken(u8),
    Heal(u8),
    /// Nothing comes out of its tunnel any more; that is noticed; it is up again.
    Mute(u8),
    Unlink(u8),
    Link(u8),
    /// Datagrams from one to the other are lost, or arrive again.
    Cut(u8, u8),
    Mend(u8, u8),
    /// One is cut off from all others in both directions, or is not any more.
    Split(u8),
    Join(u8),
    /// What EC2 says to a spoke's requests from now on.
    Ec2(u8, Ec2),
    /// It is told to stop, and starts again after this many seconds.
    Stop(u8),
    /// Somebody deletes the route to a destination, or points it to a NAT gateway.
    Delete(u8),
    Steal(u8),
    Wait {
        tenths: u16,
    },
}

/// How EC2 answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ec2 {
    Fine,
    /// Each request takes a second.
    Slow,
    /// Half of them fail.
    Flaky,
    /// All do, after a second.
    Down,
    /// None is answered, until the daemon gives it up.
    Hanging,
    /// It tells what the routes are, and changes none.
    ReadOnly,
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let one = any::<u8>;
    let ec2 = prop_oneof![
        3 => Just(Ec2::Fine),
        1 => Just(Ec2::Slow),
        1 => Just(Ec2::Flaky),
        1 => Just(Ec2::Down),
    ];
    prop_oneof![
        3 => one().prop_map(Event::Kill),
        4 => one().prop_map(Event::Start),
        1 => one().prop_map(Event::Replace),
        2 => one().prop_map(Event::Hang),
        3 => one().prop_map(Event::Resume),
        3 => one().prop_map(Event::Sicken),
        3 => one().prop_map(Event::Heal),
        1 => one().prop_map(Event::Mute),
        2 => one().prop_map(Event::Unlink),
        2 => one().prop_map(Event::Link),
        2 => (one(), one()).prop_map(|(from, to)| Event::Cut(from, to)),
        2 => (one(), one()).prop_map(|(from, to)| Event::Mend(from, to)),
        2 => one().prop_map(Event::Split),
        2 => one().prop_map(Event::Join),
        2 => (one(), ec2).prop_map(|(spoke, ec2)| Event::Ec2(spoke, ec2)),
        2 => one().prop_map(Event::Stop),
        1 => one().prop_map(Event::Delete),
        1 => one().prop_map(Event::Steal),
        16 => (1_u16..300).prop_map(|tenths| Event::Wait { tenths }),
    ]
}
