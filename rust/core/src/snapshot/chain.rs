//! Which chunks make up a table at a checkpoint, and when to fold: pure bookkeeping.

use serde::{Deserialize, Serialize};

use super::ChunkKind;

/// A chunk as a decision record names it. Its key in the store is (table, `last_checkpoint`, `sequence`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ChunkRef {
    pub kind: ChunkKind,
    /// A merged delta covers several checkpoints; otherwise first and last are the same.
    pub first_checkpoint: u64,
    pub last_checkpoint: u64,
    pub sequence: u32,
    pub first_group: u16,
    pub last_group: u16,
    pub rows: u64,
    pub bytes: u64,
}

/// The live chunks of one table, bases and deltas, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The references.
    pub chunks: Vec<ChunkRef>,
}
