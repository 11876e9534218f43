//! A keyed table in memory, ordered by hash, that can be frozen in O(1) and captured in slices.
//!
//! Open addressing: a row lies at the slot that the topmost bits of its key's hash name, or after
//! it. So slots ascend with hashes, a key group is one run of slots, and a walk over the slots
//! hands out rows nearly in the order in which another table of any size takes them in fastest.

use std::ops::Range;
use std::sync::Arc;

use crate::snapshot::{Capture, ChunkReader, RowBlock, cell_bytes};
use crate::{Error, ErrorKind, Result};

use super::bounds::Bounds;
use super::freeze::Freeze;
use super::memory::Words;
use super::probe::{
    BLOCK, ByteKeys, Geometry, IntKeys, KeySource, RowKey, WordKeys, find, has_long_key, hash_ahead,
};
use super::timers::Timers;
use super::{Column, Keys, Rows, Schema, gather, order};
use crate::rows::layout::{DELETED, LIVE, Layout, MARK, NO_HANDLE, OCCUPIED, SET, generation};
use crate::rows::slab::Slab;

/// Fewest slots.
const MIN_SLOTS: usize = 16;

/// Most slots: indices name them in 32 bits.
const MAX_SLOTS: usize = 1 << 32;

/// Keyed rows with typed columns.
pub struct Table {
    pub(super) name: String,
    pub(super) layout: Arc<Layout>,
    pub(super) max_bytes: usize,
    pub(super) words: Words,
    pub(super) rest: Rest,
    /// Bounds of what the columns hold, so that a sum can be known not to overflow.
    pub(super) bounds: Bounds,
    /// It was dropped: what is still done to it would be lost.
    retired: bool,
}

/// All of a table but the words of its slots: what a change to a row also changes.
pub(super) struct Rest {
    pub(super) geometry: Geometry,
    pub(super) slab: Slab,
    /// Live rows.
    pub(super) live: usize,
    /// Slots that hold a row, live or deleted.
    pub(super) occupied: usize,
    /// No live row's key starts with less than this.
    pub(super) least_first: i64,
    /// Rows by the first element of their keys; none before the first drain, and none where rows
    /// have moved since.
    pub(super) timers: Option<Timers>,
    pub(super) freeze: Freeze,
}

/// Calls `$body` with `$keys` bound to the `KeySource` of these keys.
macro_rules! with_keys {
    ($given:expr, |$keys:ident| $body:expr) => {
        match $given {
            Keys::I64(keys) => {
                let $keys = &IntKeys(bytemuck::cast_slice(keys));
                $body
            }
            Keys::U64(keys) => {
                let $keys = &IntKeys(keys);
                $body
            }
            Keys::Words { width: 1, words } => {
                let $keys = &IntKeys(words);
                $body
            }
            Keys::Words { width, words } => {
                let $keys = &WordKeys { width, words };
                $body
            }
            Keys::Bytes(bytes) => {
                let $keys = &ByteKeys(bytes);
                $body
            }
        }
    };
}
pub(super) use with_keys;

impl Table {
    /// An empty table whose keys are hashed to `key_groups` (a power of two) groups and which
    /// refuses to grow past `max_bytes`.
    pub fn new(name: &str, schema: Schema, key_groups: u16, max_bytes: usize) -> Result<Self> {
        let layout = Arc::new(Layout::new(schema, key_groups)?);
        let geometry = Geometry::new(MIN_SLOTS, layout.stride);
        Ok(Self {
            name: name.to_owned(),
            max_bytes,
            words: Words::zeroed(geometry.slots * geometry.stride)?,
            bounds: Bounds::new(&layout.schema),
            retired: false,
            rest: Rest {
                geometry,
                slab: Slab::default(),
                live: 0,
                occupied: 0,
                least_first: i64::MAX,
                timers: None,
                freeze: Freeze::new(geometry.slots),
            },
            layout,
        })
    }

    /// From now on it is only held by handles: nobody captures it any more.
    pub fn retire(&mut self) {
        self.retired = true;
    }

    /// `Closed` once it was dropped.
    pub fn check_in_use(&self) -> Result<()> {
        if self.retired {
            let text =
                format!("the table {:?} was dropped; ask the backend for a new one", self.name);
            return Err(Error::new(ErrorKind::Closed, text));
        }
        Ok(())
    }

    /// Key and columns.
    pub fn schema(&self) -> &Schema {
        &self.layout.schema
    }

    /// Live rows.
    pub fn len(&self) -> usize {
        self.rest.live
    }

    /// True without live rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory held: slots, arenas, capture buffers.
    pub fn memory_bytes(&self) -> usize {
        self.words.as_slice().len() * 8
            + self.rest.slab.memory_bytes()
            + self.rest.timers.as_ref().map_or(0, Timers::memory_bytes)
            + self.rest.freeze.memory_bytes()
    }

    /// The rows of `keys`: one column each in schema order, and whether the key is there.
    pub fn get(&self, keys: Keys<'_>) -> Result<(Vec<Column>, Vec<bool>)> {
        self.layout.check_keys(&keys)?;
        let rows = with_keys!(keys, |keys| self.locate(keys));
        let found = rows.iter().map(|at| *at != usize::MAX).collect();
        Ok((gather::columns(&self.layout, self.words.as_slice(), &self.rest.slab, &rows), found))
    }

    /// The rows of those keys that are there, each row once, in the order in which the keys first
    /// occur; and at which index each occurs first.
    pub fn get_distinct(&self, keys: Keys<'_>) -> Result<(Rows, Vec<i64>)> {
        self.layout.check_keys(&keys)?;
        let rows = with_keys!(keys, |keys| self.locate(keys));
        let (distinct, indices) = gather::distinct(&rows);
        let words = self.words.as_slice();
        Ok((gather::rows(&self.layout, words, &self.rest.slab, &distinct), indices))
    }

    /// For each key whether it is there.
    pub fn contains(&self, keys: Keys<'_>) -> Result<Vec<bool>> {
        self.layout.check_keys(&keys)?;
        let rows = with_keys!(keys, |keys| self.locate(keys));
        Ok(rows.into_iter().map(|at| at != usize::MAX).collect())
    }

    /// Offset of the live row of each key, `usize::MAX` without one.
    pub(super) fn locate<K: KeySource>(&self, keys: &K) -> Vec<usize> {
        let words = self.words.as_slice();
        let geometry = self.rest.geometry;
        let key_words = K::words(self.layout.key_words);
        let mut rows = Vec::with_capacity(keys.len());
        let mut hashes = [0; BLOCK];
        for start in (0..keys.len()).step_by(BLOCK) {
            let hashes = &mut hashes[..BLOCK.min(keys.len() - start)];
            for (index, hash) in hashes.iter_mut().enumerate() {
                *hash = hash_ahead(keys, start + index, words, (geometry, geometry.stride));
            }
            rows.extend(hashes.iter().enumerate().map(|(index, hash)| {
                let index = start + index;
                let probe = keys.probe(index, *hash);
                let place = (index, *hash, &probe);
                let (slot, found) = find(words, geometry, key_words, &self.rest.slab, keys, place);
                let at = slot * geometry.stride;
                if found && words[at] & LIVE != 0 { at } else { usize::MAX }
            }));
        }
        rows
    }

    /// Deletes; says for each key whether it was there.
    pub fn delete(&mut self, keys: Keys<'_>) -> Result<Vec<bool>> {
        self.layout.check_keys(&keys)?;
        let rows = with_keys!(keys, |keys| self.locate(keys));
        let was_there = rows
            .into_iter()
            .map(|at| {
                // Of a key that is named twice the first one deletes.
                let there = at != usize::MAX && self.words.as_slice()[at] & LIVE != 0;
                if there {
                    self.delete_row(at);
                }
                there
            })
            .collect();
        self.trim_timers(0, 0);
        Ok(was_there)
    }

    pub(super) fn delete_row(&mut self, at: usize) {
        let words = self.words.as_mut_slice();
        self.rest.delete(&self.layout, words, at);
    }

    /// All live rows of a range of key groups.
    pub fn scan(&self, groups: Range<u16>) -> Rows {
        let rows = self.live_rows(&groups);
        gather::rows(&self.layout, self.words.as_slice(), &self.rest.slab, &rows)
    }

    /// All live rows of a range of key groups, sorted by key.
    pub fn scan_sorted(&self, groups: Range<u16>) -> Rows {
        let mut rows: Vec<usize> = self.found_rows(&groups).into_iter().map(|(_, at)| at).collect();
        let words = self.words.as_slice();
        order::by_key(&self.layout, words, &self.rest.slab, &mut rows);
        gather::rows(&self.layout, words, &self.rest.slab, &rows)
    }

    /// Offsets of the live rows of these groups, by hash and key.
    fn live_rows(&self, groups: &Range<u16>) -> Vec<usize> {
        let words = self.words.as_slice();
        let mut found = self.found_rows(groups);
        found.sort_unstable_by(|(hash, at), (other_hash, other)| {
            hash.cmp(other_hash).then_with(|| {
                gather::compare_keys(&self.layout, words, &self.rest.slab, *at, *other)
            })
        });
        found.into_iter().map(|(_, at)| at).collect()
    }

    /// Hashes and offsets of the live rows of these groups, nearly in the order of the hashes.
    fn found_rows(&self, groups: &Range<u16>) -> Vec<(u64, usize)> {
        let words = self.words.as_slice();
        let Geometry { slots, stride, .. } = self.rest.geometry;
        let end_group = usize::from(groups.end.min(self.layout.key_groups));
        let first_group = usize::from(groups.start);
        if first_group >= end_group {
            return Vec::new();
        }
        let all = usize::from(self.layout.key_groups);
        let start = self.rest.geometry.group_start(first_group, all);
        let end = self.rest.geometry.group_start(end_group, all).max(start + 1);
        let mut found = Vec::new();
        let mut visit = |slot: usize| {
            let row = &words[slot * stride..(slot + 1) * stride];
            if row[0] & LIVE != 0 {
                let hash = self.layout.full_hash(row, &self.rest.slab);
                if (first_group..end_group).contains(&usize::from(self.layout.group(hash))) {
                    found.push((hash, slot * stride));
                }
            }
            row[0] & OCCUPIED != 0
        };
        for slot in start..end {
            visit(slot);
        }
        // Rows pushed on past their group's end, maybe around the end of the table.
        let mut slot = end % slots;
        while slot != start && visit(slot) {
            slot = self.rest.geometry.next(slot);
        }
        found
    }

    // -- freeze and capture --

    /// Rows changed since the last freeze (deleted ones count).
    pub fn dirty_rows(&self) -> u64 {
        self.rest.freeze.dirty_rows()
    }

    /// Cuts: from now on changes belong to the next checkpoint. O(1) but for clearing one bit a
    /// slot. `base_groups` (one flag per key group) are captured whole, as bases; of the others
    /// only changed rows, as deltas.
    ///
    /// What was frozen before counts as durable from now on, unless `abort_capture` was called.
    /// Errors with `CheckpointState` while a capture is active.
    pub fn freeze(&mut self, base_groups: &[bool]) -> Result<()> {
        if base_groups.len() != usize::from(self.layout.key_groups) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("{} flags for {} key groups", base_groups.len(), self.layout.key_groups),
            ));
        }
        let stride = self.layout.stride;
        self.rest.freeze.begin(base_groups, &self.name, self.words.as_mut_slice(), stride)
    }

    /// True from `freeze` until `take_capture` or `abort_capture`.
    pub fn capture_active(&self) -> bool {
        self.rest.freeze.active()
    }

    /// Captures the frozen rows of at most `max_slots` further slots; true when complete.
    pub fn capture(&mut self, max_slots: usize) -> bool {
        let rest = &mut self.rest;
        rest.freeze.advance(
            &self.layout,
            self.words.as_slice(),
            rest.geometry,
            &rest.slab,
            max_slots,
        )
    }

    /// The finished capture (finishing it first if it is not). Without an active one: empty.
    pub fn take_capture(&mut self) -> Capture {
        self.capture(usize::MAX);
        self.rest.freeze.take(&self.layout)
    }

    /// Hands buffers back for the next capture.
    pub fn recycle(&mut self, capture: Capture) {
        self.rest.freeze.recycle(capture);
    }

    /// The checkpoint will not be: what was frozen counts as changed again.
    pub fn abort_capture(&mut self, capture: Option<Capture>) {
        if let Some(capture) = capture {
            self.rest.freeze.recycle(capture);
        }
        self.rest.freeze.abort(self.words.as_mut_slice(), self.layout.stride);
    }

    // -- room --

    /// Makes room for `rows` more rows.
    pub fn reserve(&mut self, rows: usize) -> Result<()> {
        if self.rest.occupied.saturating_add(rows) <= self.rest.geometry.limit() {
            return Ok(());
        }
        let needed = self.kept_rows().saturating_add(rows);
        let slots = (needed.saturating_mul(4) / 3 + 1).max(MIN_SLOTS);
        let slots = slots.checked_next_power_of_two().unwrap_or(usize::MAX);
        if slots > MAX_SLOTS {
            return Err(Error::new(
                ErrorKind::CapacityExceeded,
                format!(
                    "table {:?} would need {slots} slots for {needed} rows, and has {MAX_SLOTS} at \
                     most; use several tables",
                    self.name
                ),
            )
            .with_bound(None, slots as u64, MAX_SLOTS as u64));
        }
        self.check_bytes(slots.saturating_mul(self.layout.stride).saturating_mul(8), rows)?;
        self.rehash(slots)
    }

    /// Errors if the table would pass its bound with slots of `slot_bytes`.
    pub(super) fn check_bytes(&self, slot_bytes: usize, rows: usize) -> Result<()> {
        let bytes = slot_bytes.saturating_add(self.rest.slab.memory_bytes());
        if bytes <= self.max_bytes {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::CapacityExceeded,
            format!(
                "table {:?} would take {bytes} bytes for {} rows and {rows} more, and its bound is \
                 {}; raise max_state_bytes, delete rows or let them expire",
                self.name,
                self.len(),
                self.max_bytes
            ),
        )
        .with_bound("max_state_bytes", bytes as u64, self.max_bytes as u64))
    }

    /// Live rows, and deleted ones that a checkpoint still has to hear of.
    fn kept_rows(&self) -> usize {
        let words = self.words.as_slice();
        let Geometry { slots, stride, .. } = self.rest.geometry;
        (0..slots)
            .filter(|slot| {
                let header = words[slot * stride];
                header & LIVE != 0 || header & OCCUPIED != 0 && self.rest.freeze.concerns(header)
            })
            .count()
    }

    /// Moves all rows to a table of `slots`, without the deleted ones that nobody must hear of.
    fn rehash(&mut self, slots: usize) -> Result<()> {
        // Cursor and bitmap of an active capture speak of the old slots.
        self.capture(usize::MAX);
        let old = self.rest.geometry;
        let new = Geometry::new(slots, old.stride);
        let mut target = Words::zeroed(slots * old.stride)?;
        let mut freeze = self.rest.freeze.for_slots(slots);
        let mut occupied = 0;
        {
            let to = target.as_mut_slice();
            let from = self.words.as_slice();
            for slot in 0..old.slots {
                let row = &from[slot * old.stride..(slot + 1) * old.stride];
                if row[0] & OCCUPIED == 0 {
                    continue;
                }
                if row[0] & LIVE == 0 && !freeze.concerns(row[0]) {
                    if has_long_key(self.layout.integer_key.is_some(), row) {
                        self.rest.slab.remove(row[2] as u32);
                    }
                    continue;
                }
                let mut target = new.start(self.layout.full_hash(row, &self.rest.slab));
                while to[target * new.stride] & OCCUPIED != 0 {
                    target = new.next(target);
                }
                to[target * new.stride..(target + 1) * new.stride].copy_from_slice(row);
                freeze.moved(target, row[0]);
                occupied += 1;
            }
        }
        self.words = target;
        // It speaks of the old slots.
        self.rest.timers = None;
        self.rest.freeze = freeze;
        self.rest.geometry = new;
        self.rest.occupied = occupied;
        Ok(())
    }

    // -- restore --

    /// Applies the rows of an encoded chunk whose key group `accept`s; deletes by tombstones.
    /// Leaves nothing dirty. `StoreCorrupt` if the bytes do not decode; the rows before the
    /// damage were applied then, so the table must be thrown away. Returns the rows applied.
    pub fn apply_chunk(&mut self, bytes: &[u8], accept: &dyn Fn(u16) -> bool) -> Result<u64> {
        let layout = Arc::clone(&self.layout);
        let mut reader = ChunkReader::new(&layout, bytes)?;
        self.rest.timers = None;
        let accepted: Vec<bool> = (0..layout.key_groups).map(accept).collect();
        let mut block = RowBlock::default();
        let mut applied = 0;
        while reader.next_block(&mut block)? {
            self.reserve(block.hashes.len())?;
            self.rest.slab.check_room(block.hashes.len() * (1 + layout.bytes_cells.len()))?;
            let words = self.words.as_mut_slice();
            for (row, &hash) in block.words.chunks_exact(layout.width).zip(&block.hashes) {
                if accepted[usize::from(layout.group(hash))] {
                    self.rest.restore(&layout, words, row, hash, &block.bytes);
                    applied += 1;
                }
            }
        }
        self.bounds.forget();
        Ok(applied)
    }
}

impl Rest {
    /// Marks a live row as deleted and frees its cells; the key stays until the next rehash.
    pub(super) fn delete(&mut self, layout: &Layout, words: &mut [u64], at: usize) {
        let header = words[at];
        let current = self.freeze.generation();
        let unheard_of = header & MARK != 0 && generation(header) == current;
        if unheard_of {
            // No checkpoint knows the key, so none must hear of its end.
            self.freeze.clean();
        } else {
            self.touch(layout, words, at / self.geometry.stride);
        }
        for &cell in &layout.bytes_cells {
            self.free_cell(&mut words[at + cell]);
        }
        words[at] = DELETED | if unheard_of { 0 } else { u64::from(current) };
        self.live -= 1;
    }

    /// Before a row's first change in this generation: hands its pre-image to the capture and
    /// marks it dirty. Sets the row's generation.
    #[inline]
    pub(super) fn touch(&mut self, layout: &Layout, words: &mut [u64], slot: usize) {
        let at = slot * self.geometry.stride;
        let row = &mut words[at..at + layout.width];
        let header = row[0];
        if generation(header) != self.freeze.generation() {
            self.freeze.hand_over(layout, row, slot, &self.slab);
            self.freeze.soil(slot, header);
            let deleted = if header & LIVE == 0 { DELETED } else { 0 };
            row[0] = header & (SET | LIVE) | deleted | u64::from(self.freeze.generation());
        }
    }

    /// `touch` for the live rows at these offsets, some perhaps twice.
    #[inline]
    pub(super) fn touch_all(&mut self, layout: &Layout, words: &mut [u64], rows: &[usize]) {
        match (self.freeze.touches_fixed(layout), layout.width) {
            (true, 3) => self.freeze.touch_fixed::<3>(words, rows),
            (true, 4) => self.freeze.touch_fixed::<4>(words, rows),
            _ => {
                for at in rows {
                    self.touch(layout, words, at / self.geometry.stride);
                }
            }
        }
    }

    pub(super) fn free_cell(&mut self, cell: &mut u64) {
        if *cell != NO_HANDLE {
            self.slab.remove(*cell as u32);
            *cell = NO_HANDLE;
        }
    }

    /// Makes a row live: one at an empty slot (`found` false), or a deleted one of the same key.
    /// All cells are unset. The caller has written the key of a new row already.
    pub(super) fn revive(&mut self, layout: &Layout, words: &mut [u64], at: usize, found: bool) {
        let slot = at / self.geometry.stride;
        let header = words[at];
        if found {
            self.touch_deleted(layout, words, at, slot);
        } else {
            self.occupied += 1;
        }
        // A checkpoint under way that must hear of the deletion may be the one that knows the key.
        let born = if self.freeze.concerns(header) { 0 } else { MARK };
        self.freeze.soil(slot, header);
        words[at] = LIVE | born | u64::from(self.freeze.generation());
        words[at + layout.cells..at + layout.width].fill(0);
        for &cell in &layout.bytes_cells {
            words[at + cell] = NO_HANDLE;
        }
        self.live += 1;
        if layout.schema.key.starts_with_i64() {
            let first = layout.first_i64(&words[at..at + layout.width], &self.slab);
            self.least_first = self.least_first.min(first);
            if let Some(timers) = &mut self.timers {
                timers.enter(first, slot);
            }
        }
    }

    /// A capture that has yet to come by must see the deletion, before the key lives again.
    fn touch_deleted(&mut self, layout: &Layout, words: &[u64], at: usize, slot: usize) {
        let row = &words[at..at + layout.width];
        if generation(row[0]) != self.freeze.generation() {
            self.freeze.hand_over(layout, row, slot, &self.slab);
        }
    }

    /// A row of a checkpoint replaces what is there; nothing becomes dirty.
    fn restore(
        &mut self,
        layout: &Layout,
        words: &mut [u64],
        row: &[u64],
        hash: u64,
        bytes: &[u8],
    ) {
        let byte_key = layout.integer_key.is_none();
        let key = &row[1..1 + layout.key_words];
        let source = RowKey { key, hash, byte_key, bytes };
        let geometry = self.geometry;
        let place = (0, hash, &());
        let (slot, found) = find(words, geometry, layout.key_words, &self.slab, &source, place);
        let at = slot * geometry.stride;
        let there = found && words[at] & LIVE != 0;
        if there {
            for &cell in &layout.bytes_cells {
                self.free_cell(&mut words[at + cell]);
            }
        }
        if row[0] & LIVE == 0 {
            if there {
                words[at] = DELETED;
                self.live -= 1;
            }
            return;
        }
        if !found {
            source.write(0, &(), &mut words[at + 1..at + 1 + layout.key_words], &mut self.slab);
            self.occupied += 1;
        }
        words[at] = LIVE | row[0] & SET;
        words[at + layout.cells..at + layout.width].copy_from_slice(&row[layout.cells..]);
        for &cell in &layout.bytes_cells {
            let value = cell_bytes(bytes, row[cell]);
            words[at + cell] =
                if value.is_empty() { NO_HANDLE } else { u64::from(self.slab.insert(value)) };
        }
        if !there {
            self.live += 1;
            if layout.schema.key.starts_with_i64() {
                let first = layout.first_i64(&words[at..at + layout.width], &self.slab);
                self.least_first = self.least_first.min(first);
            }
        }
    }
}
