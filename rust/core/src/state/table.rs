//! A keyed table in memory, ordered by hash, that can be frozen in O(1) and captured in slices.

use std::ops::Range;

use super::{Column, Keys, Rows, Schema, Update};
use crate::Result;
use crate::snapshot::Capture;

/// See the module.
pub struct Table;

#[allow(unused_variables, missing_docs)]
impl Table {
    /// An empty table whose keys are hashed to `key_groups` (a power of two) groups and which
    /// refuses to grow past `max_bytes`.
    pub fn new(name: &str, schema: Schema, key_groups: u16, max_bytes: usize) -> Result<Self> {
        todo!()
    }
    pub fn schema(&self) -> &Schema {
        todo!()
    }
    /// Live rows.
    pub fn len(&self) -> usize {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes of memory held: slots, arenas, capture buffers.
    pub fn memory_bytes(&self) -> usize {
        todo!()
    }

    // -- batches: validate everything, then apply; an error leaves the table untouched --
    /// Applies `updates` for each key, in order; keys that are not there are inserted.
    pub fn update(&mut self, keys: Keys<'_>, updates: &[Update<'_>]) -> Result<()> {
        todo!()
    }
    /// The rows of `keys`: one column each in schema order, and whether the key is there.
    pub fn get(&self, keys: Keys<'_>) -> Result<(Vec<Column>, Vec<bool>)> {
        todo!()
    }
    pub fn contains(&self, keys: Keys<'_>) -> Result<Vec<bool>> {
        todo!()
    }
    /// Deletes; says for each key whether it was there.
    pub fn delete(&mut self, keys: Keys<'_>) -> Result<Vec<bool>> {
        todo!()
    }
    /// All live rows of a range of key groups.
    pub fn scan(&self, groups: Range<u16>) -> Rows {
        todo!()
    }
    /// Removes and returns all rows whose key's first element (an i64 of a tuple key, or the i64
    /// key itself) is less than `bound`: how windows fire.
    pub fn drain_below(&mut self, bound: i64) -> Result<Rows> {
        todo!()
    }

    // -- freeze and capture --
    /// Rows changed since the last freeze (deleted ones count).
    pub fn dirty_rows(&self) -> u64 {
        todo!()
    }
    /// Cuts: from now on changes belong to the next checkpoint. O(1). `base_groups` (one flag per
    /// key group) are captured whole, as bases; of the others only changed rows, as deltas.
    /// Errors with `CheckpointState` while a capture is active.
    pub fn freeze(&mut self, base_groups: &[bool]) -> Result<()> {
        todo!()
    }
    pub fn capture_active(&self) -> bool {
        todo!()
    }
    /// Captures the frozen rows of at most `max_slots` further slots; true when complete.
    pub fn capture(&mut self, max_slots: usize) -> bool {
        todo!()
    }
    /// The finished capture (finishing it first if it is not).
    pub fn take_capture(&mut self) -> Capture {
        todo!()
    }
    /// Hands buffers back for the next capture.
    pub fn recycle(&mut self, capture: Capture) {
        todo!()
    }
    /// The checkpoint will not be: what was frozen counts as changed again.
    pub fn abort_capture(&mut self, capture: Option<Capture>) {
        todo!()
    }

    // -- restore --
    /// Makes room for `rows` more rows.
    pub fn reserve(&mut self, rows: usize) -> Result<()> {
        todo!()
    }
    /// Applies the rows of an encoded chunk whose key group `accept`s; deletes by tombstones.
    /// Leaves nothing dirty. `StoreCorrupt` if the bytes do not decode.
    pub fn apply_chunk(&mut self, bytes: &[u8], accept: &dyn Fn(u16) -> bool) -> Result<u64> {
        todo!()
    }
}
