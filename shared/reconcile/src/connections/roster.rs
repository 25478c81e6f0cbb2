//! The connections of the address at the spoke that has it: what the kernel told, and what
//! of that is news to the siblings.

use std::collections::{HashMap, HashSet};

use privnet_model::connection::Connection;
use privnet_model::connection::wire::{MOST_CONNECTIONS, Message};

/// What the kernel tells of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It is established.
    Up(Connection),
    /// It has ended, or is about to: nobody sends anything in it any more.
    Down(Connection),
}

/// All that are established.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    known: HashSet<Connection>,
    /// Since the last beat: whether it is there now. What came and went is not told.
    changed: HashMap<Connection, bool>,
}

/// What is new since the last beat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// These are there now.
    pub added: Vec<Connection>,
    /// These are not there any more.
    pub removed: Vec<Connection>,
}

impl Roster {
    /// The kernel told something.
    pub fn hear(&mut self, news: News) {
        let (connection, is) = match news {
            News::Up(connection) => (connection, true),
            News::Down(connection) => (connection, false),
        };
        let was = match is {
            true => !self.known.insert(connection),
            false => self.known.remove(&connection),
        };
        if was != is {
            self.note(connection, is);
        }
    }

    /// A change that is taken back before it was told is none.
    fn note(&mut self, connection: Connection, is: bool) {
        if self.changed.remove(&connection).is_none() {
            self.changed.insert(connection, is);
        }
    }

    /// These are all that there are: what the kernel told before may have been incomplete.
    pub fn replace(&mut self, all: HashSet<Connection>) {
        let before = std::mem::replace(&mut self.known, all);
        let gone: Vec<_> = before.difference(&self.known).copied().collect();
        let new: Vec<_> = self.known.difference(&before).copied().collect();
        for connection in gone {
            self.note(connection, false);
        }
        for connection in new {
            self.note(connection, true);
        }
    }

    /// What is to be told now.
    pub fn beat(&mut self) -> Delta {
        let mut delta = Delta::default();
        #[expect(
            clippy::iter_over_hash_type,
            reason = "the order of a set says nothing"
        )]
        for (connection, is) in self.changed.drain() {
            match is {
                true => delta.added.push(connection),
                false => delta.removed.push(connection),
            }
        }
        delta
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// All of them, as of the last beat and later.
    pub fn all(&self) -> Vec<Connection> {
        self.known.iter().copied().collect()
    }
}

impl Delta {
    /// How it is told.
    pub fn messages(&self) -> impl Iterator<Item = Message> {
        let removed = self.removed.chunks(MOST_CONNECTIONS);
        let removed = removed.map(|some| Message::Remove(some.to_vec()));
        let added = self.added.chunks(MOST_CONNECTIONS);
        removed.chain(added.map(|some| Message::Add(some.to_vec())))
    }
}

/// How a sibling is told of all that there are.
pub fn everything(all: &[Connection]) -> impl Iterator<Item = Message> {
    let some = all.chunks(MOST_CONNECTIONS);
    let some = some.map(|some| Message::Add(some.to_vec()));
    std::iter::once(Message::Begin)
        .chain(some)
        .chain(std::iter::once(Message::Whole))
}
