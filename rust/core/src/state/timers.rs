//! Which rows are due: an index from times to rows, of a table whose keys start with an i64.
//!
//! The time is part of a row's key, so the index is no state of its own: no checkpoint holds it. It
//! is built by the first drain that finds something due, and again by the next one after rows have
//! moved (growth, restore); each of these walks over the table anyway. From then on a drain costs
//! what is due, and not what is there. Tables that are never drained have no index.
//!
//! A row is entered when it comes to life. One that is deleted leaves its entry behind, which is
//! passed over when its time has come; a row that is deleted and comes back has two. Before such
//! entries outnumber the others they are cleared away, so entering costs O(log(distinct times)),
//! amortised.
//!
//! The index takes only memory that the table's bound leaves free: where rows need it, it goes, and
//! drains walk over the table.

use std::collections::BTreeMap;

use crate::{Error, ErrorKind, Result};

use super::{Rows, Table, gather, order};
use crate::rows::layout::LIVE;

/// Memory of a distinct time: its share of a tree's node that is about half full.
const TIME_BYTES: usize = 72;

/// Memory of an entry in a list that has doubled just now.
const ENTRY_BYTES: usize = 8;

/// So many entries of deleted rows are never worth clearing away.
const FEW: usize = 1024;

/// Slots of the rows of one time; nothing on the heap where there is one row only.
#[derive(Debug, Clone)]
enum Slots {
    One(u32),
    Many(Vec<u32>),
}

impl Slots {
    fn push(&mut self, slot: u32) {
        match self {
            Self::One(first) => *self = Self::Many(vec![*first, slot]),
            Self::Many(slots) => slots.push(slot),
        }
    }

    fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(slot) => std::slice::from_ref(slot),
            Self::Many(slots) => slots,
        }
    }
}

/// Slots by the time of their keys: of all live rows, and of some deleted ones.
#[derive(Debug, Default)]
pub(super) struct Timers {
    times: BTreeMap<i64, Slots>,
    /// Slots in all lists.
    entries: usize,
}

impl Timers {
    fn of(mut rows: Vec<(i64, u32)>) -> Self {
        rows.sort_unstable();
        let times = rows.chunk_by(|one, other| one.0 == other.0).map(|of_time| {
            let slots = match of_time {
                [(_, slot)] => Slots::One(*slot),
                many => Slots::Many(many.iter().map(|(_, slot)| *slot).collect()),
            };
            (of_time[0].0, slots)
        });
        Self { times: times.collect(), entries: rows.len() }
    }

    /// A row came to life.
    pub(super) fn enter(&mut self, time: i64, slot: usize) {
        let slot = slot as u32;
        self.times.entry(time).and_modify(|slots| slots.push(slot)).or_insert(Slots::One(slot));
        self.entries += 1;
    }

    /// Removes the entries of all times below `bound` and hands out their slots.
    fn take_below(&mut self, bound: i64) -> Vec<usize> {
        let mut due = Vec::new();
        while let Some(first) = self.times.first_entry().filter(|first| *first.key() < bound) {
            due.extend(first.remove().as_slice().iter().map(|slot| *slot as usize));
        }
        self.entries -= due.len();
        due
    }

    /// At least as much memory as it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.times.len() * TIME_BYTES + self.entries * ENTRY_BYTES
    }

    /// What it may hold after `rows` more rows.
    pub(super) fn memory_bytes_with(&self, rows: usize) -> usize {
        self.memory_bytes().saturating_add(rows.saturating_mul(TIME_BYTES + ENTRY_BYTES))
    }

    /// True when most entries are those of deleted rows.
    fn is_mostly_stale(&self, live: usize) -> bool {
        self.entries > live.saturating_mul(2).saturating_add(FEW)
    }

    /// Forgets all entries but one of each row that `is_live`.
    fn clear_away(&mut self, is_live: impl Fn(usize) -> bool) {
        let mut kept = Vec::new();
        for (time, slots) in std::mem::take(&mut self.times) {
            let start = kept.len();
            kept.extend(slots.as_slice().iter().map(|slot| (time, *slot)));
            kept[start..].sort_unstable();
        }
        kept.dedup();
        kept.retain(|(_, slot)| is_live(*slot as usize));
        *self = Self::of(kept);
    }
}

impl Table {
    /// Removes and returns all rows whose key's first element (an i64 of a tuple key, or the i64
    /// key itself) is less than `bound`: how windows fire. Sorted by key.
    ///
    /// Costs what is returned; the first one, and the first one after rows have moved, costs a walk
    /// over the table.
    pub fn drain_below(&mut self, bound: i64) -> Result<Rows> {
        if !self.layout.schema.key.starts_with_i64() {
            return Err(Error::new(
                ErrorKind::TypeMismatch,
                format!(
                    "table {:?} has keys of type {}; only keys that are or start with an i64 can \
                     be drained below a bound",
                    self.name,
                    self.layout.schema.key.name()
                ),
            ));
        }
        let mut due = Vec::new();
        if self.rest.least_first < bound {
            due = match &mut self.rest.timers {
                Some(timers) => timers.take_below(bound),
                None => self.walk_below(bound),
            };
            let words = self.words.as_slice();
            let stride = self.layout.stride;
            due.iter_mut().for_each(|slot| *slot *= stride);
            due.retain(|at| words[*at] & LIVE != 0);
            order::by_key(&self.layout, words, &self.rest.slab, &mut due);
            // A row that was deleted and came back had two entries.
            due.dedup();
            if let Some(timers) = &self.rest.timers {
                self.rest.least_first =
                    timers.times.first_key_value().map_or(i64::MAX, |(time, _)| *time);
            }
        }
        let drained = gather::rows(&self.layout, self.words.as_slice(), &self.rest.slab, &due);
        for at in due {
            self.delete_row(at);
        }
        Ok(drained)
    }

    /// Slots of the rows below `bound`; builds the index of all others, if there is room for it.
    fn walk_below(&mut self, bound: i64) -> Vec<usize> {
        let words = self.words.as_slice();
        let stride = self.layout.stride;
        let (mut due, mut others) = (Vec::new(), Vec::new());
        let mut least = i64::MAX;
        for (slot, row) in words.chunks_exact(stride).enumerate() {
            if row[0] & LIVE == 0 {
                continue;
            }
            let time = self.layout.first_i64(row, &self.rest.slab);
            if time < bound {
                due.push(slot);
            } else {
                least = least.min(time);
                others.push((time, slot as u32));
            }
        }
        self.rest.least_first = least;
        // Before rows need the room of an index, the index is no worse than the walk.
        let timers = Timers::of(others);
        if self.has_room_for(timers.memory_bytes()) {
            self.rest.timers = Some(timers);
        }
        due
    }

    /// Sees to it that the index does not take memory that is needed for `rows` more rows and their
    /// `more_bytes`, nor much memory for rows that are gone.
    pub(super) fn trim_timers(&mut self, rows: usize, more_bytes: usize) {
        let Some(timers) = &mut self.rest.timers else { return };
        if timers.is_mostly_stale(self.rest.live) {
            let (words, stride) = (self.words.as_slice(), self.layout.stride);
            timers.clear_away(|slot| words[slot * stride] & LIVE != 0);
        }
        let needed = timers.memory_bytes_with(rows).saturating_add(more_bytes);
        if !self.has_room_for(needed) {
            self.rest.timers = None;
        }
    }

    /// True if the bound allows so much beside slots and byte strings.
    fn has_room_for(&self, bytes: usize) -> bool {
        let held = self.words.as_slice().len() * 8 + self.rest.slab.memory_bytes();
        held.saturating_add(bytes) <= self.max_bytes
    }
}
