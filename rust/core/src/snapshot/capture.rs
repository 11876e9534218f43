//! Rows copied out of a frozen table, on their way to the writer.

use std::sync::Arc;

use super::EncodedChunk;
use crate::state::layout::Layout;

/// The frozen rows of one table: bases of some key groups, deltas of the others.
///
/// Rows are `layout.width` words each, one after the other, as they lie in the table (see
/// `state::layout`), except that a long key's second word is the offset of its bytes in `bytes`,
/// and a bytes cell that is set and not empty is the offset there of its length (u32, LE),
/// followed by its bytes. In the header only live bit and set bits mean something; a row that is
/// not live is a tombstone: only its key counts. The rows are nearly in the order of their hashes.
pub struct Capture {
    pub(crate) layout: Arc<Layout>,
    /// By key group: captured whole (its rows are all live ones) or only what changed.
    pub(crate) base_groups: Vec<bool>,
    pub(crate) words: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

#[allow(unused_variables, missing_docs)]
impl Capture {
    /// Encodes into columnar chunks of about `target_bytes` (never over 1 MiB unless one row
    /// is), each with the rows of a contiguous range of key groups, ordered by key group.
    pub fn encode(&self, target_bytes: usize) -> Vec<EncodedChunk> {
        todo!()
    }
    pub fn rows(&self) -> u64 {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }
}
