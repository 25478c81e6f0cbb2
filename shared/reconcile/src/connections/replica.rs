//! The connections of the address as a sibling told of them: what is taken over when the
//! address comes here.

use std::collections::HashSet;
use std::time::Instant;

use privnet_model::connection::Connection;
use privnet_model::connection::wire::Message;

/// What one sibling told.
#[derive(Debug, Clone)]
pub struct Replica {
    most: usize,
    told: HashSet<Connection>,
    /// A list of all that is not complete yet.
    begun: Option<HashSet<Connection>>,
    refused: u64,
    held: Option<Instant>,
    holds: bool,
}

/// What a message asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// Nothing.
    Nothing,
    /// To take the connections over: the address comes next.
    TakeOver,
    /// To look where the address is: it was at the sibling, and is not any more.
    Look,
}

/// It said what is not its turn to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message out of turn")]
pub struct OutOfTurn;

impl Replica {
    /// Nothing was told yet. More than `most` connections are not kept.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            told: HashSet::new(),
            begun: None,
            refused: 0,
            held: None,
            holds: false,
        }
    }

    /// The conversation begins anew. What was told before stays until all was told again:
    /// whoever ends it may be dying.
    pub fn restart(&mut self) {
        self.begun = None;
    }

    /// The sibling says something.
    ///
    /// # Errors
    /// Nothing that it may say.
    pub fn hear(&mut self, message: Message, now: Instant) -> Result<Asks, OutOfTurn> {
        match message {
            Message::Begin => self.begun = Some(HashSet::new()),
            Message::Add(connections) => {
                let into = self.begun.as_mut().unwrap_or(&mut self.told);
                for connection in connections {
                    if into.len() < self.most {
                        into.insert(connection);
                    } else if !into.contains(&connection) {
                        self.refused += 1;
                    }
                }
            }
            Message::Remove(connections) => {
                let from = self.begun.as_mut().unwrap_or(&mut self.told);
                for connection in &connections {
                    from.remove(connection);
                }
            }
            Message::Whole => self.told = self.begun.take().ok_or(OutOfTurn)?,
            Message::Beat { holds } => {
                let lost = self.holds && !holds;
                self.holds = holds;
                if holds {
                    self.held = Some(now);
                }
                if lost {
                    return Ok(Asks::Look);
                }
            }
            Message::Offer => return Ok(Asks::TakeOver),
            Message::Hello | Message::Taken | Message::Due => return Err(OutOfTurn),
        }
        Ok(Asks::Nothing)
    }

    /// When the sibling last said that the address is there; nothing if it never did. Of
    /// several siblings the one that said so last had it last.
    pub fn held(&self) -> Option<Instant> {
        self.held
    }

    /// All that it told; of a first list that broke off, what there is.
    pub fn connections(&self) -> Vec<Connection> {
        let unfinished = self.begun.as_ref().filter(|_| self.told.is_empty());
        unfinished.unwrap_or(&self.told).iter().copied().collect()
    }

    /// How many that is.
    pub fn len(&self) -> usize {
        self.told.len()
    }

    /// Whether it is none.
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// How many were not kept because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::net::{Ipv4Addr, SocketAddrV4};
    use std::time::Duration;

    use privnet_model::config::spoke::Protocol;
    use privnet_model::connection::Origin;
    use proptest::prelude::*;

    use super::*;
    use crate::connections::roster::{News, Roster, everything};

    #[expect(clippy::disallowed_methods, reason = "any instant does for a start")]
    fn start() -> Instant {
        Instant::now()
    }

    fn connection(number: u16) -> Connection {
        let end = |port| SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), port);
        Connection {
            protocol: Protocol::Tcp,
            origin: Origin::Inside,
            inside: end(number),
            outside: end(443),
            port: number,
        }
    }

    fn hear_all(replica: &mut Replica, messages: impl Iterator<Item = Message>) {
        for message in messages {
            let message = Message::parse(&message.to_bytes()).unwrap();
            assert_eq!(replica.hear(message, start()), Ok(Asks::Nothing));
        }
    }

    fn sorted(mut connections: Vec<Connection>) -> Vec<Connection> {
        connections.sort();
        connections
    }

    #[derive(Debug, Clone)]
    enum Step {
        Up(u16),
        Down(u16),
        /// The kernel's table is looked through, as events were lost.
        Dump(Vec<u16>),
        Beat,
        /// The conversation breaks off, and all is told again.
        Again,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..20_u16).prop_map(Step::Up),
            4 => (0..20_u16).prop_map(Step::Down),
            1 => prop::collection::vec(0..20_u16, 0..20).prop_map(Step::Dump),
            2 => Just(Step::Beat),
            1 => Just(Step::Again),
        ]
    }

    proptest! {
        /// Whatever happens: once a beat was told the sibling knows what is there.
        #[test]
        fn a_sibling_knows_at_each_beat_what_is_there(steps in prop::collection::vec(step(), 0..60)) {
            let mut roster = Roster::default();
            let mut replica = Replica::new(1000);
            let mut truth = HashSet::new();
            hear_all(&mut replica, everything(&[]));
            for step in steps {
                match step {
                    Step::Up(n) => {
                        truth.insert(connection(n));
                        roster.hear(News::Up(connection(n)));
                    }
                    Step::Down(n) => {
                        truth.remove(&connection(n));
                        roster.hear(News::Down(connection(n)));
                    }
                    Step::Dump(all) => {
                        truth = all.into_iter().map(connection).collect();
                        roster.replace(truth.clone());
                    }
                    Step::Beat => {
                        let delta = roster.beat();
                        // Nothing is told twice, or for nothing.
                        let before: HashSet<_> = replica.connections().into_iter().collect();
                        prop_assert!(delta.added.iter().all(|one| !before.contains(one)));
                        prop_assert!(delta.removed.iter().all(|one| before.contains(one)));
                        hear_all(&mut replica, delta.messages());
                        let truth = sorted(truth.iter().copied().collect());
                        prop_assert_eq!(sorted(replica.connections()), truth);
                    }
                    Step::Again => {
                        // As the server does it: a beat, then all of it.
                        roster.beat();
                        replica.restart();
                        hear_all(&mut replica, everything(&roster.all()));
                    }
                }
                prop_assert_eq!(roster.len(), truth.len());
            }
        }
    }

    #[test]
    fn a_list_that_breaks_off_takes_nothing_away() {
        let mut replica = Replica::new(10);
        hear_all(&mut replica, everything(&[connection(1), connection(2)]));
        replica.restart();
        hear_all(&mut replica, everything(&[connection(3)]).take(2));
        assert_eq!(
            sorted(replica.connections()),
            [connection(1), connection(2)]
        );
        replica.restart();
        hear_all(&mut replica, everything(&[connection(3)]));
        assert_eq!(replica.connections(), [connection(3)]);
        // Of the first one ever, a part is better than nothing.
        let mut replica = Replica::new(10);
        hear_all(&mut replica, everything(&[connection(1)]).take(2));
        assert_eq!(replica.connections(), [connection(1)]);
    }

    #[test]
    fn more_than_there_is_room_for_is_counted_and_not_kept() {
        let mut replica = Replica::new(3);
        let five: Vec<_> = (0..5).map(connection).collect();
        hear_all(&mut replica, everything(&five));
        assert_eq!((replica.len(), replica.refused()), (3, 2));
        hear_all(&mut replica, [Message::Add(five)].into_iter());
        assert_eq!((replica.len(), replica.refused()), (3, 4));
    }

    #[test]
    fn who_had_the_address_last_is_known_and_when_it_goes() {
        let now = start();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut replica = Replica::new(3);
        let mut beat = |holds, at| replica.hear(Message::Beat { holds }, at);
        assert_eq!(beat(false, now), Ok(Asks::Nothing));
        assert_eq!(beat(true, after(1)), Ok(Asks::Nothing));
        assert_eq!(beat(false, after(2)), Ok(Asks::Look));
        assert_eq!(replica.held(), Some(after(1)));
        assert_eq!(replica.hear(Message::Offer, now), Ok(Asks::TakeOver));
        for wrong in [Message::Whole, Message::Hello, Message::Taken, Message::Due] {
            assert_eq!(replica.hear(wrong, now), Err(OutOfTurn));
        }
    }
}
