//! Rows copied out of a frozen table, on their way to the writer.

use super::EncodedChunk;

/// The frozen rows of one table: bases of some key groups, deltas of the others.
pub struct Capture;

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
