//! Searching a partition by time.
//!
//! Timestamps need not be in order, so the first record that is not older than a given time can lie
//! anywhere, and only batches whose newest timestamp is older can be passed over. Looking at each of
//! them reads all of it, for its checksum. So each process remembers of every so many batches, a
//! block, what the newest timestamp is. That is a bound for ever: offsets are given out once, and
//! retention and compaction only take records away. A search reads the few blocks that can hold the
//! record, and what has come since the last search.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::batch::Entry;
use super::layout::{Table, in_partition_key};
use super::view::{Step, View, damaged};

/// Batches of a block.
const BLOCK_BATCHES: usize = 64;

/// Partitions whose blocks are remembered; those of deleted topics are not told apart from others.
const MAX_PARTITIONS: usize = 10_000;

/// Topic number, partition.
type Place = (u32, u32);

/// Batches that lie behind one another.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// The offset that the first of them had.
    first: u64,
    /// The offset of the batch behind the last of them.
    next: u64,
    /// None of their records is newer.
    newest_ms: i64,
}

/// What a process knows of the times in its log.
#[derive(Debug, Default)]
pub(super) struct TimeIndex {
    blocks: Mutex<HashMap<Place, Vec<Block>>>,
}

impl TimeIndex {
    /// The first offset whose timestamp is at least this.
    pub(super) fn search(
        &self,
        view: &impl View,
        (topic, partition): Place,
        timestamp_ms: i64,
    ) -> Step<Option<u64>> {
        let head = view.partition(topic, partition)?;
        if head.max_timestamp_ms.is_none_or(|newest| newest < timestamp_ms) {
            return Ok(None);
        }
        let mut known = self.blocks.lock();
        if known.len() >= MAX_PARTITIONS {
            known.clear();
        }
        let blocks = known.entry((topic, partition)).or_default();
        let removed = blocks.partition_point(|block| block.next <= head.start);
        blocks.drain(..removed);
        let start = view.batch_before(topic, partition, head.start)?.unwrap_or(head.start);

        for block in blocks.iter().filter(|block| block.newest_ms >= timestamp_ms) {
            for entry in view.batches(topic, partition, block.first.max(start))? {
                let (base, entry) = entry?;
                if base >= block.next {
                    break;
                }
                let at = (topic, partition, base);
                if let Some(offset) = search_batch(view, at, &entry, head.start, timestamp_ms)? {
                    return Ok(Some(offset));
                }
            }
        }
        let mut open: Option<(Block, usize)> = None;
        let behind = blocks.last().map_or(start, |block| block.next);
        for entry in view.batches(topic, partition, behind)? {
            let (base, entry) = entry?;
            let newest_ms = entry.summary().max_timestamp_ms;
            open = match open {
                Some((block, batches)) if batches < BLOCK_BATCHES => {
                    let newest_ms = newest_ms.max(block.newest_ms);
                    Some((Block { newest_ms, ..block }, batches + 1))
                }
                full => {
                    blocks.extend(full.map(|(block, _)| Block { next: base, ..block }));
                    Some((Block { first: base, next: base, newest_ms }, 1))
                }
            };
            let at = (topic, partition, base);
            if let Some(offset) = search_batch(view, at, &entry, head.start, timestamp_ms)? {
                return Ok(Some(offset));
            }
        }
        Ok(None)
    }
}

/// The first offset of a batch, from `start` on, whose timestamp is at least this.
fn search_batch(
    view: &impl View,
    (topic, partition, base): (u32, u32, u64),
    entry: &Entry<'_>,
    start: u64,
    timestamp_ms: i64,
) -> Step<Option<u64>> {
    if entry.summary().max_timestamp_ms < timestamp_ms {
        return Ok(None);
    }
    let batch = view.resolve(entry)?;
    let columns = batch.columns().map_err(|reason| {
        damaged(Table::Batches, &in_partition_key(topic, partition, base), &reason)
    })?;
    Ok((0..columns.len())
        .filter(|row| columns.timestamp(*row) >= timestamp_ms)
        .map(|row| base + columns.delta(row))
        .find(|offset| *offset >= start))
}
