//! The columnar encoding of rows: format drawn here.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::state::Schema;

/// Whether a chunk replaces its key groups or changes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChunkKind {
    /// All live rows of its key groups (or a part of them, beside its sibling chunks).
    Base,
    /// Changed rows and tombstones.
    Delta,
}

/// An encoded chunk, not yet bound to a key: the store adds the checksum.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct EncodedChunk {
    pub kind: ChunkKind,
    /// First and last key group that it may hold rows of.
    pub first_group: u16,
    pub last_group: u16,
    pub rows: u64,
    pub bytes: Vec<u8>,
}

/// Merges delta chunks (oldest first) into fewer: the newest row of a key wins, tombstones stay.
#[allow(unused_variables)]
pub fn merge(
    schema: &Schema,
    key_groups: u16,
    chunks: &[&[u8]],
    target_bytes: usize,
) -> Result<Vec<EncodedChunk>> {
    todo!()
}
