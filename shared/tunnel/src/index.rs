//! The index that names a peer in WireGuard messages.
//!
//! WireGuard's receiver index has 32 bits. boringtun keeps the low 8 for its own
//! ring of sessions and gives us the other 24: 16 for the slot, 3 for the set of the
//! peer's keys, because a peer can have several while they change, and 5 for the
//! slot's generation, so that a message for a removed peer does not reach the next
//! one in its slot. The slot also tells the owner: slot modulo the number of workers.
//! So any worker, and a BPF program in the kernel, finds the owner of a datagram by
//! arithmetic alone. Nothing here is shared or locked.

use std::collections::VecDeque;

/// How many peers a device can have.
pub const MAX_PEERS: usize = 1 << 16;

/// How many sets of keys of a peer have a number at one time.
pub(crate) const KEY_SETS: u8 = 1 << (GENERATION_SHIFT - KEYS_SHIFT);

const KEYS_SHIFT: u32 = 16;
const GENERATION_SHIFT: u32 = 19;
const KEYS: u32 = (1 << GENERATION_SHIFT) - (1 << KEYS_SHIFT);

/// A peer's slot and the slot's generation; in a message also which of the peer's
/// sets of keys is meant. The peer itself is named by the number 0 of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerIndex(u32);

impl PeerIndex {
    /// The index of a slot in one of its 32 generations.
    pub const fn new(slot: u16, generation: u8) -> Self {
        Self((generation as u32 & 31) << GENERATION_SHIFT | slot as u32)
    }

    /// The same peer's, for one of its sets of keys: its number modulo 8.
    pub const fn with_keys(self, number: u8) -> Self {
        let number = (number % KEY_SETS) as u32;
        Self(self.0 & !KEYS | number << KEYS_SHIFT)
    }

    /// The number of the set of keys.
    pub(crate) const fn keys(self) -> u8 {
        ((self.0 & KEYS) >> KEYS_SHIFT) as u8
    }

    /// What names the peer, whichever of its keys is meant.
    pub(crate) const fn peer(self) -> Self {
        Self(self.0 & !KEYS)
    }

    /// The index in the receiver field of a WireGuard message.
    pub const fn of_receiver(receiver: u32) -> Self {
        Self(receiver >> 8)
    }

    /// The 24 bits that boringtun takes.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The slot.
    pub const fn slot(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    /// The worker that owns the peer.
    pub const fn owner(self, workers: usize) -> usize {
        self.slot() % workers
    }

    /// The peer's place in the table of its owner.
    pub(crate) const fn place(self, workers: usize) -> usize {
        self.slot() / workers
    }
}

/// Hands out slots. A freed slot waits at the end of the line, so that the same
/// index comes again as late as possible.
#[derive(Debug, Default)]
pub struct IndexAllocator {
    used: usize,
    free: VecDeque<PeerIndex>,
}

impl IndexAllocator {
    /// Freed slots below this number are not used again, while there are new ones.
    const REUSE_AFTER: usize = 64;

    /// A free index, or `None` when the device is full.
    pub fn allocate(&mut self) -> Option<PeerIndex> {
        if self.free.len() < Self::REUSE_AFTER
            && let Ok(slot) = u16::try_from(self.used)
        {
            self.used += 1;
            return Some(PeerIndex::new(slot, 0));
        }
        self.free.pop_front()
    }

    /// Takes an index back; its slot comes again in the next generation.
    pub fn release(&mut self, index: PeerIndex) {
        let generation = (index.0 >> GENERATION_SHIFT) as u8;
        self.free.push_back(PeerIndex::new(
            index.slot() as u16,
            generation.wrapping_add(1),
        ));
    }
}

/// The flat table of one worker's peers, by index.
#[derive(Debug)]
pub(crate) struct SlotTable<T> {
    workers: usize,
    slots: Vec<Option<(PeerIndex, T)>>,
}

impl<T> SlotTable<T> {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers,
            slots: Vec::new(),
        }
    }

    pub(crate) fn insert(&mut self, index: PeerIndex, value: T) {
        let place = index.place(self.workers);
        if place >= self.slots.len() {
            self.slots.resize_with(place + 1, || None);
        }
        self.slots[place] = Some((index, value));
    }

    pub(crate) fn remove(&mut self, index: PeerIndex) -> Option<T> {
        let place = index.place(self.workers);
        let place = self.slots.get_mut(place)?;
        if place.as_ref().is_some_and(|(holder, _)| *holder == index) {
            return place.take().map(|(_, value)| value);
        }
        None
    }

    pub(crate) fn get_mut(&mut self, index: PeerIndex) -> Option<&mut T> {
        let place = index.place(self.workers);
        match self.slots.get_mut(place)? {
            Some((holder, value)) if *holder == index => Some(value),
            _ => None,
        }
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().flatten().map(|(_, value)| value)
    }

    /// What is at a place.
    pub(crate) fn at_mut(&mut self, place: usize) -> Option<&mut T> {
        self.slots.get_mut(place)?.as_mut().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_index_of_a_removed_peer_does_not_find_the_next_one_in_its_slot() {
        let mut table = SlotTable::new(1);
        table.insert(PeerIndex::new(3, 0), "old");
        assert_eq!(table.remove(PeerIndex::new(3, 0)), Some("old"));
        table.insert(PeerIndex::new(3, 1), "new");
        assert_eq!(table.get_mut(PeerIndex::new(3, 0)), None);
        assert_eq!(table.remove(PeerIndex::new(3, 0)), None);
        assert_eq!(table.get_mut(PeerIndex::new(3, 1)), Some(&mut "new"));
    }

    #[test]
    fn all_sets_of_keys_of_a_peer_lead_to_it_and_to_no_other() {
        let mut table = SlotTable::new(1);
        let peer = PeerIndex::new(3, 30);
        table.insert(peer, ());
        for number in 0..KEY_SETS {
            let index = peer.with_keys(number);
            assert_eq!((index.keys(), index.slot()), (number, 3));
            assert_eq!(index.peer(), peer);
            assert_eq!(index.bits() >> 24, 0);
            assert!(table.get_mut(index.peer()).is_some());
            let other = PeerIndex::new(3, 31).with_keys(number);
            assert!(table.get_mut(other.peer()).is_none());
        }
    }

    #[test]
    fn a_full_device_refuses_and_a_freed_slot_is_used_again() {
        let mut allocator = IndexAllocator::default();
        let all: Vec<_> = std::iter::from_fn(|| allocator.allocate()).collect();
        assert_eq!(all.len(), MAX_PEERS);
        allocator.release(all[7]);
        assert_eq!(allocator.allocate(), Some(PeerIndex::new(7, 1)));
        assert_eq!(allocator.allocate(), None);
    }

    proptest! {
        #[test]
        fn the_table_behaves_like_a_map(
            workers in 1usize..5,
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..200),
        ) {
            let mut allocator = IndexAllocator::default();
            let mut model = BTreeMap::new();
            let mut tables: Vec<_> = (0..workers).map(|_| SlotTable::new(workers)).collect();
            for (value, (add, which)) in steps.into_iter().enumerate() {
                if add || model.is_empty() {
                    let index = allocator.allocate().unwrap();
                    tables[index.owner(workers)].insert(index, value);
                    prop_assert!(model.insert(index, value).is_none());
                } else {
                    let index = *which.get(&model.keys().copied().collect::<Vec<_>>());
                    let value = model.remove(&index);
                    prop_assert_eq!(tables[index.owner(workers)].remove(index), value);
                    allocator.release(index);
                    prop_assert_eq!(tables[index.owner(workers)].get_mut(index), None);
                }
                for (index, value) in &mut model {
                    prop_assert_eq!(tables[index.owner(workers)].get_mut(*index), Some(value));
                }
            }
        }
    }
}
