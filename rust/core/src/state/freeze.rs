//! What changed, the cut, and the capture of what was cut off.
//!
//! A row's generation says when it was last touched. `begin` raises the generation, so a row whose
//! generation is current was handed over already or is newer than the cut, and any other row is
//! still as it was at the cut. The cursor takes those in the order of the slots, a slice at a time;
//! a row that is about to be touched beyond the cursor hands its pre-image over first.
//!
//! Generations also say what is to be captured:
//!
//! ```text
//! 0 ────── frozen_since ────── dirty_since ────── generation
//!  unchanged    │   cut off by the   │   changed since
//!               │     last cut       │     that cut
//! ```
//!
//! So a first touch writes to the row alone and to one bit for the stretch of slots around it,
//! which tells a capture where to look: a bit a slot would cost every first touch another cache
//! miss or two.

use std::ops::Range;
use std::sync::Arc;

use crate::snapshot::Capture;
use crate::{Error, ErrorKind, Result};

use super::bitmap::Bitmap;
use super::probe::{Geometry, has_long_key};
use crate::rows::layout::{
    GENERATION, LIVE, Layout, NO_HANDLE, OCCUPIED, SET, generation, set_bit,
};
use crate::rows::slab::Slab;

/// Slots that share a bit.
const STRETCH: usize = 32;

/// Dirty rows, and the cut under way.
pub(super) struct Freeze {
    generation: u32,
    /// Rows of this generation or a later one changed since the last cut.
    dirty_since: u32,
    /// Rows of this generation or a later one, but before `dirty_since`, were taken by the last
    /// cut; told apart until the next one, in case it is aborted.
    frozen_since: u32,
    /// Stretches with rows that changed since the last cut.
    dirty: Bitmap,
    dirty_rows: u64,
    /// Stretches with rows that the last cut took.
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
    /// The next slot, a multiple of `STRETCH`; `usize::MAX` when the table was moved after the end.
    slot: usize,
    /// Slots since the last empty one may hold rows of a base group.
    in_run: bool,
    words: Vec<u64>,
    bytes: Vec<u8>,
}

impl Freeze {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            generation: 1,
            dirty_since: 1,
            frozen_since: 1,
            dirty: Bitmap::new(slots.div_ceil(STRETCH)),
            dirty_rows: 0,
            frozen: Bitmap::new(slots.div_ceil(STRETCH)),
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

    /// True if a checkpoint may still have to hear of the row, whether or not it lives.
    #[inline]
    pub(super) fn concerns(&self, header: u64) -> bool {
        generation(header) >= self.frozen_since
    }

    /// True if the last cut took the row.
    #[inline]
    fn is_frozen(&self, header: u64) -> bool {
        (self.frozen_since..self.dirty_since).contains(&generation(header))
    }

    /// A row of this slot, with this header, is about to get the current generation.
    #[inline]
    pub(super) fn soil(&mut self, slot: usize, header: u64) {
        self.dirty_rows += u64::from(generation(header) < self.dirty_since);
        self.dirty.set(slot / STRETCH);
    }

    /// A dirty row is about to lose its generation: it came and went since the cut.
    pub(super) fn clean(&mut self) {
        self.dirty_rows -= 1;
    }

    /// The same state for a table of `slots` slots, to which each row is then `moved`. The capture,
    /// if there is one, must be complete.
    pub(super) fn for_slots(&mut self, slots: usize) -> Self {
        let mut cursor = self.cursor.take();
        if let Some(cursor) = &mut cursor {
            cursor.slot = usize::MAX;
        }
        Self {
            generation: self.generation,
            dirty_since: self.dirty_since,
            frozen_since: self.frozen_since,
            dirty_rows: self.dirty_rows,
            bases: std::mem::take(&mut self.bases),
            cursor,
            spare: std::mem::take(&mut self.spare),
            ..Self::new(slots)
        }
    }

    /// A row was moved to this slot.
    pub(super) fn moved(&mut self, slot: usize, header: u64) {
        if generation(header) >= self.dirty_since {
            self.dirty.set(slot / STRETCH);
        } else if self.is_frozen(header) {
            self.frozen.set(slot / STRETCH);
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
        self.frozen_since = self.dirty_since;
        self.dirty_since = self.generation;
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

    /// Before generations repeat, they are counted anew; what they told apart stays so.
    fn next_generation(&mut self, words: &mut [u64], stride: usize) {
        if self.generation == u32::MAX {
            for row in words.chunks_exact_mut(stride) {
                let anew = match generation(row[0]) {
                    old if old >= self.dirty_since => 2,
                    old if old >= self.frozen_since => 1,
                    _ => 0,
                };
                row[0] = row[0] & !GENERATION | anew;
            }
            (self.frozen_since, self.dirty_since, self.generation) = (1, 2, 2);
        }
        self.generation += 1;
    }

    /// Called before the first change to a row since the cut.
    #[inline]
    pub(super) fn hand_over(&mut self, layout: &Layout, row: &[u64], slot: usize, slab: &Slab) {
        let frozen = self.is_frozen(row[0]);
        let Some(cursor) = &mut self.cursor else { return };
        if slot < cursor.slot {
            return;
        }
        let live = row[0] & LIVE != 0;
        if if self.bases.include(layout, row) { live } else { frozen } {
            cursor.push(layout, row, slab);
        }
    }

    /// For each row at these offsets, all live: what `Rest::touch` does, without a branch a row.
    pub(super) fn touch_fixed<const WIDTH: usize>(&mut self, words: &mut [u64], rows: &[usize]) {
        /// Words from row to row.
        const STRIDE: usize = 4;

        let current = self.generation;
        let (frozen_since, dirty_since) = (self.frozen_since, self.dirty_since);
        let all = self.bases.all;
        let mut none = Vec::new();
        let (captured, from) = match &mut self.cursor {
            Some(cursor) if cursor.slot < words.len() / STRIDE => {
                (&mut cursor.words, cursor.slot * STRIDE)
            }
            _ => (&mut none, usize::MAX),
        };
        let mut at = captured.len();
        if from != usize::MAX {
            captured.resize(at + rows.len() * WIDTH, 0);
        }
        for &row in rows {
            let header = words[row];
            let last = generation(header);
            let first_touch = last != current;
            if from != usize::MAX {
                let frozen = (frozen_since..dirty_since).contains(&last);
                let wanted = first_touch & (row >= from) & (all | frozen);
                captured[at..at + WIDTH].copy_from_slice(&words[row..row + WIDTH]);
                captured[at] = header & (LIVE | SET);
                at += usize::from(wanted) * WIDTH;
            }
            self.dirty_rows += u64::from(last < dirty_since);
            let touched = header & (LIVE | SET) | u64::from(current);
            words[row] = if first_touch { touched } else { header };
            self.dirty.set(row / STRIDE / STRETCH);
        }
        captured.truncate(at);
    }

    /// True if `touch_fixed` does for rows like these.
    pub(super) fn touches_fixed(&self, layout: &Layout) -> bool {
        layout.stride == 4 && !layout.has_bytes() && self.bases.any == self.bases.all
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
        let mut budget = max_slots;
        let stretches = Stretches {
            layout,
            words,
            geometry,
            slab,
            bases: &self.bases,
            current: self.generation,
            frozen: self.frozen_since..self.dirty_since,
        };
        while cursor.slot < geometry.slots && budget > 0 {
            let stretch = cursor.slot / STRETCH;
            if self.bases.any {
                stretches.capture(cursor);
                budget = budget.saturating_sub(STRETCH);
                continue;
            }
            let next = self.frozen.next(stretch).unwrap_or(geometry.slots);
            // To pass over 64 stretches takes no longer than to look at one slot.
            budget = budget.saturating_sub((next.min(geometry.slots) - stretch) / 64);
            cursor.slot = next.saturating_mul(STRETCH).min(geometry.slots);
            if cursor.slot < geometry.slots {
                stretches.capture(cursor);
                budget = budget.saturating_sub(STRETCH);
            }
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
        self.bases = Bases::default();
        self.dirty.union(&self.frozen);
        self.frozen.clear();
        self.dirty_since = self.frozen_since;
        self.dirty_rows = 0;
        for row in words.chunks_exact(stride) {
            self.dirty_rows += u64::from(generation(row[0]) >= self.dirty_since);
        }
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

/// A frozen table, to be captured stretch by stretch.
struct Stretches<'a> {
    layout: &'a Layout,
    words: &'a [u64],
    geometry: Geometry,
    slab: &'a Slab,
    bases: &'a Bases,
    current: u32,
    /// Generations that the cut took.
    frozen: Range<u32>,
}

impl Stretches<'_> {
    /// Captures the stretch at the cursor.
    #[inline]
    fn capture(&self, cursor: &mut Cursor) {
        let first = cursor.slot;
        let end = (first + STRETCH).min(self.geometry.slots);
        cursor.slot = end;
        let fixed = self.geometry.stride == 4 && !self.layout.has_bytes();
        match (fixed && self.bases.any == self.bases.all, self.layout.width) {
            (true, 3) => self.capture_fixed::<3>(first..end, cursor),
            (true, 4) => self.capture_fixed::<4>(first..end, cursor),
            _ => self.capture_any(first..end, cursor),
        }
    }

    /// Rows of the most common widths are copied without a branch a row.
    fn capture_fixed<const WIDTH: usize>(&self, slots: Range<usize>, cursor: &mut Cursor) {
        let mut at = cursor.words.len();
        cursor.words.resize(at + slots.len() * WIDTH, 0);
        for row in self.words[slots.start * 4..slots.end * 4].as_chunks::<4>().0 {
            let last = generation(row[0]);
            let base = (row[0] & LIVE != 0) & (last != self.current);
            let wanted = if self.bases.all { base } else { self.frozen.contains(&last) };
            cursor.words[at..at + WIDTH].copy_from_slice(&row[..WIDTH]);
            cursor.words[at] = if row[0] & LIVE != 0 { row[0] & (LIVE | SET) } else { 0 };
            at += usize::from(wanted) * WIDTH;
        }
        cursor.words.truncate(at);
    }

    fn capture_any(&self, slots: Range<usize>, cursor: &mut Cursor) {
        let Self { layout, words, geometry, bases, .. } = self;
        let groups = bases.groups.len();
        for slot in slots {
            let row = &words[slot * geometry.stride..slot * geometry.stride + layout.width];
            let frozen = self.frozen.contains(&generation(row[0]));
            let mut wanted = frozen;
            if bases.any {
                let occupied = row[0] & OCCUPIED != 0;
                // Fewer buckets than groups: one belongs to many, so look at every row.
                let near = cursor.in_run
                    || geometry.slots < 2 * groups
                    || bases.groups[slot * groups / geometry.slots];
                cursor.in_run = occupied && near;
                if near && occupied && bases.include(layout, row) {
                    wanted = row[0] & LIVE != 0 && generation(row[0]) != self.current;
                }
            }
            if wanted {
                cursor.push(layout, row, self.slab);
            }
        }
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

#[cfg(test)]
mod tests {
    use crate::snapshot::EncodeBuffers;

    use super::super::{ColumnType, KeyType, Keys, Op, Operand, Scalar, Schema, Table, Update};

    fn count(table: &mut Table, keys: &[i64]) {
        let operand = Operand::Scalar(Scalar::I64(1));
        table.update(Keys::I64(keys), &[Update { column: 0, op: Op::Add, operand }]).unwrap();
    }

    #[test]
    fn nothing_is_captured_after_an_abort() {
        let schema =
            Schema { key: KeyType::I64, columns: vec![("count".to_owned(), ColumnType::I64)] };
        let mut table = Table::new("table", schema, 4, usize::MAX).unwrap();
        count(&mut table, &[1, 2, 3]);
        table.freeze(&[true; 4]).unwrap();
        table.abort_capture(None);
        // An empty base would say that its key groups have no rows.
        assert_eq!(table.take_capture().encode(1 << 20, &mut EncodeBuffers::default()), []);
        assert_eq!(table.dirty_rows(), 3);
    }

    /// What was cut stays told apart from what changed later, also when generations begin anew.
    #[test]
    fn generations_begin_anew() {
        let schema =
            Schema { key: KeyType::I64, columns: vec![("count".to_owned(), ColumnType::I64)] };
        let mut table = Table::new("table", schema, 4, usize::MAX).unwrap();
        table.rest.freeze.generation = u32::MAX - 1;
        table.rest.freeze.dirty_since = u32::MAX - 1;
        table.rest.freeze.frozen_since = u32::MAX - 1;
        count(&mut table, &[1, 2, 3]);
        table.freeze(&[false; 4]).unwrap();
        assert_eq!(table.rest.freeze.generation, u32::MAX);
        count(&mut table, &[3, 4]);
        assert_eq!((table.take_capture().rows(), table.dirty_rows()), (3, 2));
        // The cut after that is the one at which they begin anew; it is aborted.
        table.freeze(&[false; 4]).unwrap();
        assert_eq!(table.rest.freeze.generation, 3);
        count(&mut table, &[1, 4]);
        assert_eq!(table.dirty_rows(), 2);
        table.abort_capture(None);
        assert_eq!(table.dirty_rows(), 3);
        table.freeze(&[false; 4]).unwrap();
        assert_eq!((table.take_capture().rows(), table.dirty_rows()), (3, 0));
        table.freeze(&[false; 4]).unwrap();
        assert_eq!(table.take_capture().rows(), 0);
    }
}
