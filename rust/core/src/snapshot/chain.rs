//! Which chunks make up a table at a checkpoint, and when to fold: pure bookkeeping.
//!
//! A base chunk holds all rows of its key groups at its checkpoint, a delta chunk what changed
//! since the checkpoint before. A group is restored from its newest base and all later deltas. To
//! keep that short, each checkpoint writes bases of the next few groups in rotation, paid for by
//! the rows that changed: for every changed row one row is written as part of a base. So a chunk is
//! superseded after about as many changes as the table has rows, and a checkpoint costs twice what
//! changed, never the whole state.

use serde::{Deserialize, Serialize};

use super::ChunkKind;

/// Below so many rows all groups are written as bases: one chunk and no chain.
const SMALL_TABLE_ROWS: u64 = 4096;

/// Deltas in a row, each smaller than half a chunk, that are merged into one.
const MERGE_RUN: usize = 32;

/// A chunk as a decision record names it. Its key in the store is (table, checkpoint, sequence).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ChunkRef {
    pub kind: ChunkKind,
    /// The checkpoint that wrote it.
    pub checkpoint: u64,
    pub sequence: u32,
    /// The checkpoints whose changes it holds; of a chunk that was not merged both are `checkpoint`.
    pub first_checkpoint: u64,
    pub last_checkpoint: u64,
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

/// Where the rotation of bases stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rotation {
    /// The group whose base comes next.
    pub next_group: u16,
    /// Rows that may be written as bases.
    pub credit_rows: u64,
}

impl Chain {
    /// Which groups the next checkpoint writes as bases, and the rotation after it.
    pub fn plan(
        &self,
        key_groups: u16,
        live_rows: u64,
        dirty_rows: u64,
        rotation: Rotation,
    ) -> (Vec<bool>, Rotation) {
        let groups = usize::from(key_groups);
        let first = !self.chunks.iter().any(|chunk| chunk.kind == ChunkKind::Base);
        if first || live_rows < SMALL_TABLE_ROWS || dirty_rows > live_rows / 2 {
            return (vec![true; groups], Rotation::default());
        }
        let mut base_groups = vec![false; groups];
        let group_rows = (live_rows / u64::from(key_groups)).max(1);
        let affordable = (rotation.credit_rows + dirty_rows) / group_rows;
        let count = affordable.min(u64::from(key_groups)) as usize;
        let mut next = usize::from(rotation.next_group) % groups;
        for _ in 0..count {
            base_groups[next] = true;
            next = (next + 1) % groups;
        }
        let credit_rows =
            (rotation.credit_rows + dirty_rows - count as u64 * group_rows).min(group_rows);
        (base_groups, Rotation { next_group: next as u16, credit_rows })
    }

    /// By key group the checkpoint of its newest base, 0 without one.
    pub fn newest_bases(&self, key_groups: u16) -> Vec<u64> {
        let mut newest = vec![0; usize::from(key_groups)];
        for chunk in self.chunks.iter().filter(|chunk| chunk.kind == ChunkKind::Base) {
            for group in chunk.first_group..=chunk.last_group.min(key_groups.saturating_sub(1)) {
                let newest = &mut newest[usize::from(group)];
                *newest = chunk.last_checkpoint.max(*newest);
            }
        }
        newest
    }

    /// Adds the chunks of a checkpoint and drops those that nothing is restored from any more.
    pub fn extend(&mut self, chunks: impl IntoIterator<Item = ChunkRef>, key_groups: u16) {
        self.chunks.extend(chunks);
        let newest = self.newest_bases(key_groups);
        self.chunks.retain(|chunk| chunk.groups().any(|group| chunk.counts_for(group, &newest)));
    }

    /// A run of small deltas worth merging, as a range of `chunks`.
    pub fn merge_run(&self, chunk_bytes: u64) -> Option<std::ops::Range<usize>> {
        let small =
            |chunk: &ChunkRef| chunk.kind == ChunkKind::Delta && chunk.bytes < chunk_bytes / 2;
        let mut start = None;
        for (index, chunk) in self.chunks.iter().enumerate() {
            match (small(chunk), start) {
                (true, None) => start = Some(index),
                (true, Some(first)) if index + 1 - first >= 2 * MERGE_RUN => {
                    return Some(first..index + 1);
                }
                // Bases lie between deltas without being in their way.
                (false, Some(first)) if chunk.kind == ChunkKind::Delta => {
                    if self.deltas(first..index) >= MERGE_RUN {
                        return Some(first..index);
                    }
                    start = None;
                }
                _ => {}
            }
        }
        let first = start?;
        (self.deltas(first..self.chunks.len()) >= MERGE_RUN).then_some(first..self.chunks.len())
    }

    fn deltas(&self, range: std::ops::Range<usize>) -> usize {
        self.chunks[range].iter().filter(|chunk| chunk.kind == ChunkKind::Delta).count()
    }

    /// Puts merged chunks where the deltas of `run` were; bases in between stay.
    pub fn replace_run(&mut self, run: std::ops::Range<usize>, merged: Vec<ChunkRef>) {
        let mut kept: Vec<ChunkRef> = self.chunks[run.clone()]
            .iter()
            .filter(|chunk| chunk.kind == ChunkKind::Base)
            .cloned()
            .collect();
        kept.extend(merged);
        self.chunks.splice(run, kept);
    }
}

impl ChunkRef {
    /// The groups that it may hold rows of.
    pub fn groups(&self) -> std::ops::RangeInclusive<u16> {
        self.first_group..=self.last_group
    }

    /// True if the chunk's rows of this group are needed, given each group's newest base.
    pub fn counts_for(&self, group: u16, newest_bases: &[u64]) -> bool {
        let newest = newest_bases.get(usize::from(group)).copied().unwrap_or(0);
        match self.kind {
            ChunkKind::Base => self.last_checkpoint == newest,
            ChunkKind::Delta => self.last_checkpoint > newest,
        }
    }
}
