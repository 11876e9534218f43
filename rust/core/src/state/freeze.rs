//! What changed, the cut, and the capture of what was cut off.
//!
//! A row's generation says when it was last touched. `begin` swaps the dirty bitmap away and
//! raises the generation; so a row whose generation is current was handed over already or is
//! newer than the cut, and any other row is still as it was at the cut. The cursor takes those in
//! the order of the slots, a slice at a time; a row that is about to be touched beyond the cursor
//! hands its pre-image over first.

use std::sync::Arc;

use crate::snapshot::Capture;
use crate::{Error, ErrorKind, Result};

use super::bitmap::Bitmap;
use super::layout::{GENERATION, LIVE, Layout, NO_HANDLE, OCCUPIED, SET, generation, set_bit};
use super::probe::{Geometry, has_long_key};
use super::slab::Slab;

/// Dirty rows, and the cut under way.
pub(super) struct Freeze {
    generation: u32,
    /// Slots changed since the last cut.
    dirty: Bitmap,
    dirty_rows: u64,
    /// Slots that the last cut took from `dirty`; kept until the next one, in case it is aborted.
    frozen: Bitmap,
    bases: Bases,
    cursor: Option<Cursor>,
    /// Buffers for the next capture.
    spare: (Vec<u64>, Vec<u8>),
}

/// The key groups that are captured whole.
#[derive(Default)]
struct Bases {
    /// By key group.
    groups: Vec<bool>,
    any: bool,
    all: bool,
}

impl Bases {
    /// True if the row is of such a group.
    #[inline]
    fn include(&self, layout: &Layout, row: &[u64]) -> bool {
        self.all || self.any && self.groups[usize::from(layout.group(layout.upper_hash(row)))]
    }
}

/// How far a capture has come, and what it has.
struct Cursor {
    /// The next slot, a multiple of 64; `usize::MAX` when the table was moved after the end.
    slot: usize,
    /// Slots since the last empty one may hold rows of a base group.
    in_run: bool,
    words: Vec<u64>,
    bytes: Vec<u8>,
}

/// Bits of a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    dirty: bool,
    frozen: bool,
}

impl Marks {
    /// True if a checkpoint may still have to hear of the slot's row.
    pub(super) fn any(self) -> bool {
        self.dirty || self.frozen
    }
}

impl Freeze {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            generation: 1,
            dirty: Bitmap::new(slots),
            dirty_rows: 0,
            frozen: Bitmap::new(slots),
            bases: Bases::default(),
            cursor: None,
            spare: Default::default(),
        }
    }

    #[inline]
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    pub(super) fn dirty_rows(&self) -> u64 {
        self.dirty_rows
    }

    pub(super) fn active(&self) -> bool {
        self.cursor.is_some()
    }

    #[inline]
    pub(super) fn is_dirty(&self, slot: usize) -> bool {
        self.dirty.get(slot)
    }

    /// Marks a slot as changed.
    #[inline]
    pub(super) fn soil(&mut self, slot: usize) {
        if !self.dirty.get(slot) {
            self.dirty.set(slot);
            self.dirty_rows += 1;
        }
    }

    /// Marks a slot as unchanged: its row came and went since the cut.
    pub(super) fn clean(&mut self, slot: usize) {
        if self.dirty.get(slot) {
            self.dirty.unset(slot);
            self.dirty_rows -= 1;
        }
    }

    pub(super) fn marks(&self, slot: usize) -> Marks {
        Marks { dirty: self.dirty.get(slot), frozen: self.frozen.get(slot) }
    }

    pub(super) fn set_marks(&mut self, slot: usize, marks: Marks) {
        if marks.dirty {
            self.soil(slot);
        }
        if marks.frozen {
            self.frozen.set(slot);
        }
    }

    /// The same state for a table of `slots` slots, without any marks; `self` keeps its marks.
    /// The capture, if there is one, must be complete.
    pub(super) fn moved(&mut self, slots: usize) -> Self {
        let mut cursor = self.cursor.take();
        if let Some(cursor) = &mut cursor {
            cursor.slot = usize::MAX;
        }
        Self {
            generation: self.generation,
            dirty: Bitmap::new(slots),
            dirty_rows: 0,
            frozen: Bitmap::new(slots),
            bases: std::mem::take(&mut self.bases),
            cursor,
            spare: std::mem::take(&mut self.spare),
        }
    }

    pub(super) fn begin(
        &mut self,
        base_groups: &[bool],
        table: &str,
        words: &mut [u64],
        stride: usize,
    ) -> Result<()> {
        if self.active() {
            return Err(Error::new(
                ErrorKind::CheckpointState,
                format!(
                    "table {table:?} is still being captured for the checkpoint before; take that \
                     capture or abort it first"
                ),
            ));
        }
        self.next_generation(words, stride);
        self.frozen.clear();
        std::mem::swap(&mut self.frozen, &mut self.dirty);
        self.dirty_rows = 0;
        self.bases = Bases {
            groups: base_groups.to_vec(),
            any: base_groups.contains(&true),
            all: !base_groups.contains(&false),
        };
        let (words, bytes) = std::mem::take(&mut self.spare);
        self.cursor = Some(Cursor { slot: 0, in_run: true, words, bytes });
        Ok(())
    }

    /// Generations are compared for equality only, so before they repeat all rows forget theirs.
    fn next_generation(&mut self, words: &mut [u64], stride: usize) {
        if self.generation == u32::MAX {
            for row in words.chunks_exact_mut(stride) {
                row[0] &= !GENERATION;
            }
            self.generation = 0;
        }
        self.generation += 1;
    }

    /// Called before the first change to a row since the cut.
    #[inline]
    pub(super) fn hand_over(&mut self, layout: &Layout, row: &[u64], slot: usize, slab: &Slab) {
        let Some(cursor) = &mut self.cursor else { return };
        if slot < cursor.slot {
            return;
        }
        let base = self.bases.include(layout, row);
        let live = row[0] & LIVE != 0;
        if if base { live } else { self.frozen.get(slot) } {
            cursor.push(layout, row, slab);
        }
    }

    pub(super) fn advance(
        &mut self,
        layout: &Layout,
        words: &[u64],
        geometry: Geometry,
        slab: &Slab,
        max_slots: usize,
    ) -> bool {
        let Some(cursor) = &mut self.cursor else { return true };
        let stride = geometry.stride;
        let mut budget = max_slots;
        while cursor.slot < geometry.slots && budget > 0 {
            let first = cursor.slot;
            let end = (first + 64).min(geometry.slots);
            let mut bits = self.frozen.words()[first / 64];
            if !self.bases.any {
                budget = budget.saturating_sub(if bits == 0 { 1 } else { 64 });
                while bits != 0 {
                    let slot = first + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    let row = &words[slot * stride..slot * stride + layout.width];
                    if generation(row[0]) != self.generation {
                        cursor.push(layout, row, slab);
                    }
                }
            } else {
                budget = budget.saturating_sub(64);
                let groups = self.bases.groups.len();
                for slot in first..end {
                    let row = &words[slot * stride..slot * stride + layout.width];
                    let occupied = row[0] & OCCUPIED != 0;
                    // Fewer buckets than groups: one belongs to many, so look at every row.
                    let near = cursor.in_run
                        || geometry.slots < 2 * groups
                        || self.bases.groups[slot * groups / geometry.slots];
                    cursor.in_run = occupied && near;
                    let frozen = bits >> (slot - first) & 1 == 1;
                    if !occupied || !(near || frozen) || generation(row[0]) == self.generation {
                        continue;
                    }
                    let base = self.bases.include(layout, row);
                    if if base { row[0] & LIVE != 0 } else { frozen } {
                        cursor.push(layout, row, slab);
                    }
                }
            }
            cursor.slot = end;
        }
        cursor.slot >= geometry.slots
    }

    /// The finished capture; empty without one.
    pub(super) fn take(&mut self, layout: &Arc<Layout>) -> Capture {
        let (words, bytes) = match self.cursor.take() {
            Some(cursor) => (cursor.words, cursor.bytes),
            None => Default::default(),
        };
        let mut base_groups = std::mem::take(&mut self.bases).groups;
        base_groups.resize(usize::from(layout.key_groups), false);
        Capture { layout: Arc::clone(layout), base_groups, words, bytes }
    }

    pub(super) fn recycle(&mut self, capture: Capture) {
        let Capture { mut words, mut bytes, .. } = capture;
        words.clear();
        bytes.clear();
        if words.capacity() >= self.spare.0.capacity() {
            self.spare = (words, bytes);
        }
    }

    /// Everything cut off is dirty again. The generation rises, since what came to life after the
    /// cut may be known to a checkpoint before it.
    pub(super) fn abort(&mut self, words: &mut [u64], stride: usize) {
        if let Some(Cursor { mut words, mut bytes, .. }) = self.cursor.take() {
            words.clear();
            bytes.clear();
            self.spare = (words, bytes);
        }
        self.dirty.union(&self.frozen);
        self.dirty_rows = self.dirty.count();
        self.frozen.clear();
        self.next_generation(words, stride);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let (mut words, mut bytes) = (self.spare.0.capacity(), self.spare.1.capacity());
        if let Some(cursor) = &self.cursor {
            words += cursor.words.capacity();
            bytes += cursor.bytes.capacity();
        }
        self.dirty.memory_bytes() + self.frozen.memory_bytes() + words * 8 + bytes
    }
}

impl Cursor {
    /// Copies a row as `Capture` describes it.
    #[inline]
    fn push(&mut self, layout: &Layout, row: &[u64], slab: &Slab) {
        let live = row[0] & LIVE != 0;
        let header = if live { row[0] & (LIVE | SET) } else { 0 };
        let at = self.words.len();
        match row[1..layout.width] {
            // The most common rows without a call to copy them.
            [key, cell] => self.words.extend_from_slice(&[header, key, cell]),
            [key, cell, other] => self.words.extend_from_slice(&[header, key, cell, other]),
            ref rest => {
                self.words.push(header);
                self.words.extend_from_slice(rest);
            }
        }
        if !layout.has_bytes() {
            return;
        }
        if has_long_key(layout.integer_key.is_some(), row) {
            self.words[at + 2] = self.bytes.len() as u64;
            self.bytes.extend_from_slice(slab.get(row[2] as u32));
        }
        for &cell in &layout.bytes_cells {
            let set = live && row[0] & set_bit(cell - layout.cells) != 0;
            if set && row[cell] != NO_HANDLE {
                let value = slab.get(row[cell] as u32);
                self.words[at + cell] = self.bytes.len() as u64;
                self.bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
                self.bytes.extend_from_slice(value);
            } else {
                self.words[at + cell] = NO_HANDLE;
            }
        }
    }
}

/// The value of a bytes cell of a captured row: what lies at its offset in `bytes`.
#[inline]
pub(crate) fn cell_bytes(bytes: &[u8], cell: u64) -> &[u8] {
    let value = |start: usize| {
        let len = bytes.get(start..start.checked_add(4)?)?.try_into().ok()?;
        let start = start + 4;
        bytes.get(start..start.checked_add(u32::from_le_bytes(len) as usize)?)
    };
    if cell == NO_HANDLE { &[] } else { value(cell as usize).unwrap_or_default() }
}
