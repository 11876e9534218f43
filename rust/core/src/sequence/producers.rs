//! The table of producers: an open-addressing index over flat arrays.
//!
//! ```text
//! index    [tag of the hash: 32 bits | slot + 1: 32 bits] ...   0 = empty, linear probing
//! headers  [producer id, epoch, time, last sequence, ...] ...   one a slot, dense
//! windows  [batch, batch, ...][batch, batch, ...]         ...   `window` a slot, dense
//! ```
//! The index is one word a producer, so that it stays in the cache longest.

use std::collections::HashSet;

use super::ordered::OrderedWindows;
use super::rules::Rules;
use super::unordered::UnorderedWindows;
use super::{Batch, Order, Verdict};
use crate::hash::hash_u64;

/// What is known of a producer besides its window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) producer_id: i64,
    pub(super) epoch: i64,
    /// When a batch was last accepted.
    pub(super) last_accepted_s: f64,
    /// Ordered: of the newest batch. Unordered: the highest one seen.
    pub(super) last_sequence: i32,
    /// Ordered: where the ring of batches goes on. Unordered: not used.
    pub(super) next: u32,
    /// Batches (ordered) or sequences (unordered) that the window covers.
    pub(super) len: u32,
    /// Changed since the last cut.
    dirty: bool,
    /// The last cut has it, so that the next one must hear when it goes.
    known: bool,
}

impl Header {
    pub(super) fn new(producer_id: i64, epoch: i64, last_accepted_s: f64) -> Self {
        Self {
            producer_id,
            epoch,
            last_accepted_s,
            last_sequence: 0,
            next: 0,
            len: 0,
            dirty: false,
            known: false,
        }
    }
}

/// The windows of all producers, by slot.
#[derive(Debug, Clone)]
pub(super) enum Windows {
    Ordered(OrderedWindows),
    Unordered(UnorderedWindows),
}

#[derive(Debug, Clone)]
pub(super) struct Producers {
    /// A power of two of entries, at most 3/8 of them used.
    index: Vec<u64>,
    headers: Vec<Header>,
    windows: Windows,
    /// Slots whose header says dirty.
    dirty: Vec<u32>,
    /// Producers forgotten since the last cut, of those that it has.
    removed: HashSet<i64>,
}

/// No slot: the table is never so large.
pub(super) const NOWHERE: u32 = u32::MAX;

const SMALLEST_INDEX: usize = 16;

/// Memory of an index and of arrays that are nearly empty.
pub(super) const FIXED_BYTES: usize = 1024;

/// Share of a producer in an index that has doubled just now (16 words for 3 producers), and what
/// it may take in the set of those that are gone.
const INDEX_BYTES: usize = 64;

impl Producers {
    pub(super) fn new(order: Order, window: usize) -> Self {
        let windows = match order {
            Order::Ordered => Windows::Ordered(OrderedWindows::new(window)),
            Order::Unordered => Windows::Unordered(UnorderedWindows::new(window)),
        };
        Self {
            index: vec![0; SMALLEST_INDEX],
            headers: Vec::new(),
            windows,
            dirty: Vec::new(),
            removed: HashSet::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.headers.len()
    }

    /// What a producer takes at most: arrays that have doubled just now are half empty.
    pub(super) fn bytes_of_one(order: Order, window: usize) -> usize {
        let window = match order {
            Order::Ordered => OrderedWindows::bytes_of_one(window),
            Order::Unordered => UnorderedWindows::bytes_of_one(window),
        };
        2 * (size_of::<Header>() + size_of::<u32>() + window) + INDEX_BYTES
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let windows = match &self.windows {
            Windows::Ordered(windows) => windows.memory_bytes(),
            Windows::Unordered(windows) => windows.memory_bytes(),
        };
        self.index.capacity() * size_of::<u64>()
            + self.headers.capacity() * size_of::<Header>()
            + self.dirty.capacity() * size_of::<u32>()
            + self.removed.capacity() * size_of::<i64>()
            + windows
    }

    #[inline]
    pub(super) fn header(&self, slot: usize) -> &Header {
        &self.headers[slot]
    }

    pub(super) fn headers(&self) -> &[Header] {
        &self.headers
    }

    pub(super) fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Where a producer is remembered.
    pub(super) fn find(&self, producer_id: i64) -> Option<usize> {
        self.probe(hash_u64(producer_id as u64), producer_id)
    }

    /// Where each of up to `N` producers is remembered ([`NOWHERE`] if not). The loads of one
    /// pass do not depend on one another, so the processor has many of them under way at once.
    #[inline]
    pub(super) fn find_block<const N: usize>(&self, producer_ids: &[i64]) -> [u32; N] {
        let mask = self.index.len() - 1;
        let mut hashes = [0; N];
        let mut words = [0; N];
        for ((hash, word), id) in hashes.iter_mut().zip(&mut words).zip(producer_ids) {
            *hash = hash_u64(*id as u64);
            *word = self.index[*hash as usize & mask];
        }
        let mut slots = [NOWHERE; N];
        let mut touched = 0;
        for (((slot, word), hash), id) in slots.iter_mut().zip(words).zip(hashes).zip(producer_ids)
        {
            let at = slot_of(word);
            let found = match at {
                Some(at) if tag_of(word) == tag(hash) && self.headers[at].producer_id == *id => at,
                Some(_) => match self.probe(hash, *id) {
                    Some(at) => at,
                    None => continue,
                },
                None => continue,
            };
            *slot = found as u32;
            if let Windows::Ordered(windows) = &self.windows {
                touched ^= windows.touch(found, &self.headers[found]);
            }
        }
        std::hint::black_box(touched);
        slots
    }

    fn probe(&self, hash: u64, producer_id: i64) -> Option<usize> {
        let mask = self.index.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let word = self.index[at];
            let slot = slot_of(word)?;
            if tag_of(word) == tag(hash) && self.headers[slot].producer_id == producer_id {
                return Some(slot);
            }
            at = (at + 1) & mask;
        }
    }

    /// The verdict on a batch of the epoch that this slot is in.
    #[inline]
    pub(super) fn judge_sequence(&self, slot: usize, batch: &Batch) -> Verdict {
        let header = &self.headers[slot];
        match &self.windows {
            Windows::Ordered(windows) => windows.judge(slot, header, batch),
            Windows::Unordered(windows) => windows.judge(slot, header, batch),
        }
    }

    /// Remembers an accepted batch after those before it.
    #[inline]
    pub(super) fn append(&mut self, slot: usize, batch: &Batch, now_s: f64) {
        let header = &mut self.headers[slot];
        header.last_accepted_s = header.last_accepted_s.max(now_s);
        match &mut self.windows {
            Windows::Ordered(windows) => windows.append(slot, header, batch),
            Windows::Unordered(windows) => windows.append(slot, header, batch),
        }
        if !header.dirty {
            header.dirty = true;
            self.dirty.push(slot as u32);
        }
    }

    /// Remembers an accepted batch and forgets those before it.
    pub(super) fn start(&mut self, slot: Option<usize>, batch: &Batch, now_s: f64) {
        let mut header = Header::new(batch.producer_id, batch.producer_epoch, now_s);
        let slot = match slot {
            Some(slot) => {
                header.dirty = self.headers[slot].dirty;
                header.known = self.headers[slot].known;
                header.last_accepted_s = now_s.max(self.headers[slot].last_accepted_s);
                self.headers[slot] = header;
                slot
            }
            None => self.insert(header),
        };
        match &mut self.windows {
            Windows::Ordered(windows) => windows.append(slot, &mut self.headers[slot], batch),
            Windows::Unordered(windows) => windows.start(slot, &mut self.headers[slot], batch),
        }
        self.mark_dirty(slot);
    }

    /// Room for a producer that is not there; its window is empty.
    pub(super) fn insert(&mut self, header: Header) -> usize {
        let slot = self.headers.len();
        let known = self.removed.remove(&header.producer_id);
        self.headers.push(Header { dirty: false, known, ..header });
        match &mut self.windows {
            Windows::Ordered(windows) => windows.push(),
            Windows::Unordered(windows) => windows.push(),
        }
        if self.headers.len() * 8 > self.index.len() * 3 {
            self.rebuild_index(self.index.len() * 2);
        } else {
            self.enter(slot);
        }
        slot
    }

    /// Both halves of an entry, for whoever fills it from bytes.
    pub(super) fn entry_mut(&mut self, slot: usize) -> (&mut Header, &mut Windows) {
        (&mut self.headers[slot], &mut self.windows)
    }

    /// Takes over what another table (of the same window) remembers of a producer.
    pub(super) fn copy_from(&mut self, other: &Self, other_slot: usize) -> usize {
        let header = other.headers[other_slot];
        let slot = match self.find(header.producer_id) {
            Some(slot) => {
                let Header { dirty, known, .. } = self.headers[slot];
                self.headers[slot] = Header { dirty, known, ..header };
                slot
            }
            None => self.insert(header),
        };
        match (&mut self.windows, &other.windows) {
            (Windows::Ordered(to), Windows::Ordered(from)) => to.copy(slot, from, other_slot),
            (Windows::Unordered(to), Windows::Unordered(from)) => to.copy(slot, from, other_slot),
            _ => debug_assert!(false, "tables of one deduplicator have the same kind of window"),
        }
        self.mark_dirty(slot);
        slot
    }

    /// Forgets the producers that have expired; says how many.
    pub(super) fn remove_expired(&mut self, rules: &Rules, now_s: f64) -> usize {
        let before = self.len();
        let mut slot = 0;
        while slot < self.headers.len() {
            if rules.is_expired(self.headers[slot].last_accepted_s, now_s) {
                let header = self.headers.swap_remove(slot);
                match &mut self.windows {
                    Windows::Ordered(windows) => windows.swap_remove(slot),
                    Windows::Unordered(windows) => windows.swap_remove(slot),
                }
                if header.known {
                    self.removed.insert(header.producer_id);
                }
            } else {
                slot += 1;
            }
        }
        let expired = before - self.len();
        if expired > 0 {
            self.rebuild_index(self.index.len());
            let dirty = self.headers.iter().enumerate().filter(|(_, header)| header.dirty);
            self.dirty = dirty.map(|(slot, _)| slot as u32).collect();
        }
        expired
    }

    // ---- changes since the last cut ------------------------------------------------------

    fn mark_dirty(&mut self, slot: usize) {
        if !self.headers[slot].dirty {
            self.headers[slot].dirty = true;
            self.dirty.push(slot as u32);
        }
    }

    pub(super) fn dirty_slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.dirty.iter().map(|slot| *slot as usize)
    }

    pub(super) fn removed(&self) -> impl Iterator<Item = i64> + '_ {
        self.removed.iter().copied()
    }

    /// Everything is as it was at this cut.
    pub(super) fn mark_clean(&mut self) {
        for slot in self.dirty.drain(..) {
            let header = &mut self.headers[slot as usize];
            (header.dirty, header.known) = (false, true);
        }
        self.removed.clear();
    }

    /// The last cut has all of these.
    pub(super) fn mark_known(&mut self) {
        self.headers.iter_mut().for_each(|header| header.known = true);
    }

    /// Everything has changed since the last cut: these entries replace those of `before`.
    pub(super) fn mark_replacing(&mut self, before: &Self) {
        for slot in 0..self.headers.len() {
            self.mark_dirty(slot);
        }
        let known = before.headers.iter().filter(|header| header.known);
        for id in known.map(|header| header.producer_id).chain(before.removed()) {
            match self.find(id) {
                Some(slot) => self.headers[slot].known = true,
                None => drop(self.removed.insert(id)),
            }
        }
    }

    // ---- index ---------------------------------------------------------------------------

    fn enter(&mut self, slot: usize) {
        let hash = hash_u64(self.headers[slot].producer_id as u64);
        let mask = self.index.len() - 1;
        let mut at = hash as usize & mask;
        while self.index[at] != 0 {
            at = (at + 1) & mask;
        }
        self.index[at] = tag(hash) << 32 | (slot as u64 + 1);
    }

    fn rebuild_index(&mut self, capacity: usize) {
        self.index.clear();
        self.index.resize(capacity, 0);
        for slot in 0..self.headers.len() {
            self.enter(slot);
        }
    }
}

/// The upper half of the hash; the lower one chooses the place.
fn tag(hash: u64) -> u64 {
    hash >> 32
}

fn tag_of(word: u64) -> u64 {
    word >> 32
}

fn slot_of(word: u64) -> Option<usize> {
    ((word as u32) as usize).checked_sub(1)
}
