//! What writes one checkpoint, on whichever thread: captures what is left, encodes, merges, commits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::MutexGuard;

use super::pending::{FrozenTable, Pending, adapt, give_back};
use super::tables::Entry;
use super::{CheckpointStats, Inner};
use crate::snapshot::{ChunkKind, ChunkRef, DeltaChunk, EncodedChunk, merge};
use crate::store::{
    CheckpointRecord, ChunkKey, ChunkStore, Commit, RecordStore, Store, is_worth_keeping,
};
use crate::{Error, ErrorKind, Result};

/// A checkpoint of fewer bytes leaves too little behind to be worth a transaction.
const TURN_OVER_BYTES: u64 = 1 << 20;

/// From one chunk in so many on, dropping is worth a transaction.
const TURN_OVER_SHARE: usize = 8;

/// Writes the checkpoint and settles it, whatever happens; tells what came of it.
pub(super) fn run(
    inner: &Inner,
    pending: &Pending,
    store: Arc<Store>,
    created_unix_ms: u64,
) -> Result<CheckpointStats> {
    let outcome = catch_unwind(AssertUnwindSafe(|| write(inner, pending, &store, created_unix_ms)))
        .unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Io,
                format!("the writer of checkpoint {} panicked; report this", pending.id),
            ))
        });
    if outcome.is_err() {
        give_back(&pending.draft.lock());
    }
    inner.capturing.store(false, Ordering::Relaxed);
    // Before anybody is woken, so that a backend that is closed then releases its directory.
    drop(store);
    pending.settle(outcome.clone());
    outcome
}

fn write(
    inner: &Inner,
    pending: &Pending,
    store: &Store,
    created_unix_ms: u64,
) -> Result<CheckpointStats> {
    let (frozen, blobs, staged) = {
        let mut draft = pending.draft.lock();
        let blobs = std::mem::take(&mut draft.blobs);
        (draft.frozen.clone(), blobs, std::mem::take(&mut draft.staged))
    };
    if inner.freed_much.swap(false, Ordering::Relaxed) {
        store.turn_over()?;
    }
    let mut chunks = Vec::new();
    let mut entries: Vec<Entry> = Vec::new();
    let (mut delta_rows, mut base_rows, mut encode_s) = (0, 0, 0.0);
    for table in &frozen {
        // A table that was dropped since the freeze is not part of the checkpoint.
        let Some(mut entry) = inner.tables.lock().get_mut(table.id).cloned() else {
            if !table.unchanged {
                table.table.lock().abort_capture(None);
            }
            continue;
        };
        if !table.unchanged {
            entry.rows = table.rows;
            entry.rotation = table.rotation;
            let start = Instant::now();
            let encoded = encode(inner, table);
            crate::crash_point!("snap.post_encode");
            let refs: Vec<ChunkRef> = encoded
                .iter()
                .enumerate()
                .map(|(sequence, chunk)| reference(chunk, pending.id, sequence as u32))
                .collect();
            for (chunk, reference) in encoded.into_iter().zip(&refs) {
                match chunk.kind {
                    ChunkKind::Base => base_rows += chunk.rows,
                    ChunkKind::Delta => delta_rows += chunk.rows,
                }
                chunks.push((key(&entry, reference), chunk.bytes));
            }
            entry.chain.extend(refs, inner.key_groups);
            fold(inner, pending.id, store, &mut entry, &mut chunks)?;
            encode_s += start.elapsed().as_secs_f64();
        }
        entries.push(entry);
    }
    let record = CheckpointRecord {
        id: pending.id,
        job_epoch: inner.job_epoch,
        lineage: inner.lineage.load(Ordering::SeqCst),
        created_unix_ms,
        savepoint: pending.savepoint.clone(),
        tables: entries.iter().map(Entry::manifest).collect(),
        blobs,
        staged,
    };
    let mut history = inner.history.lock();
    let (drop_records, drop_chunks) = history.superseded(&record, inner.retain);
    let commit = store.commit(&Commit {
        record: &record,
        chunks: &chunks,
        drop_records: &drop_records,
        drop_chunks: &drop_chunks,
    })?;
    history.add(&record);
    let mut buffers = inner.buffers.lock();
    for (_, bytes) in chunks {
        buffers.recycle(bytes);
    }
    drop(buffers);
    *inner.staging.lock() = record.staged.into_values().filter(is_worth_keeping).collect();
    for id in drop_records {
        history.remove(id);
    }
    let freed_much = commit.bytes_written >= TURN_OVER_BYTES
        && drop_chunks.len() * TURN_OVER_SHARE >= history.references();
    inner.freed_much.store(freed_much, Ordering::Relaxed);
    drop(history);
    let mut tables = inner.tables.lock();
    for entry in entries {
        if let Some(known) = tables.get_mut(entry.id) {
            known.rows = entry.rows;
            known.rotation = entry.rotation;
            known.chain = entry.chain;
        }
    }
    drop(tables);
    let mut draft = pending.draft.lock();
    let durable_s = draft.frozen_at.map_or(0.0, |at| at.elapsed().as_secs_f64());
    let stats = &mut draft.stats;
    stats.id = pending.id;
    stats.delta_rows = delta_rows;
    stats.base_rows = base_rows;
    stats.bytes_written = commit.bytes_written;
    stats.durable_s = durable_s;
    stats.encode_s = encode_s;
    stats.commit_s = commit.commit_s;
    Ok(*stats)
}

/// Finishes the capture in slices that leave the table to its owner in between, and encodes it.
fn encode(inner: &Inner, frozen: &FrozenTable) -> Vec<EncodedChunk> {
    let capture = loop {
        let mut table = frozen.table.lock();
        let slots = inner.slice_slots.load(Ordering::Relaxed);
        let start = Instant::now();
        let complete = table.capture(slots);
        adapt(&inner.slice_slots, slots, start.elapsed(), complete);
        if complete {
            break table.take_capture();
        }
        MutexGuard::unlock_fair(table);
    };
    let chunks = capture.encode(inner.chunk_bytes, &mut inner.buffers.lock());
    frozen.table.lock().recycle(capture);
    chunks
}

fn reference(chunk: &EncodedChunk, checkpoint: u64, sequence: u32) -> ChunkRef {
    ChunkRef {
        kind: chunk.kind,
        checkpoint,
        sequence,
        first_checkpoint: checkpoint,
        last_checkpoint: checkpoint,
        first_group: chunk.first_group,
        last_group: chunk.last_group,
        rows: chunk.rows,
        bytes: chunk.bytes.len() as u64,
    }
}

fn key(entry: &Entry, chunk: &ChunkRef) -> ChunkKey {
    ChunkKey { table: entry.id, checkpoint: chunk.checkpoint, sequence: chunk.sequence }
}

/// Merges a run of small deltas, if there is one; `chunks` are those of this checkpoint.
fn fold(
    inner: &Inner,
    checkpoint: u64,
    store: &impl ChunkStore,
    entry: &mut Entry,
    chunks: &mut Vec<(ChunkKey, Vec<u8>)>,
) -> Result<()> {
    let Some(run) = entry.chain.merge_run(inner.chunk_bytes as u64) else { return Ok(()) };
    let bases = entry.chain.newest_bases(inner.key_groups);
    let deltas: Vec<ChunkRef> = entry.chain.chunks[run.clone()]
        .iter()
        .filter(|chunk| chunk.kind == ChunkKind::Delta)
        .cloned()
        .collect();
    let mut contents = Vec::new();
    for delta in &deltas {
        let key = key(entry, delta);
        let bytes = match chunks.iter().find(|(known, _)| *known == key) {
            Some((_, bytes)) => bytes.clone(),
            None => match store.read_chunk(key, |bytes| Ok(bytes.to_vec())) {
                Ok(bytes) => bytes,
                // Damage in an old delta is for a recovery to judge; this checkpoint is no worse
                // without the merge.
                Err(error) if error.kind() == ErrorKind::StoreCorrupt => return Ok(()),
                Err(error) => return Err(error),
            },
        };
        let groups: Vec<bool> = (0..inner.key_groups)
            .map(|group| delta.groups().contains(&group) && delta.counts_for(group, &bases))
            .collect();
        contents.push((bytes, groups));
    }
    let inputs: Vec<DeltaChunk<'_>> =
        contents.iter().map(|(bytes, groups)| DeltaChunk { bytes, groups }).collect();
    let first = deltas.iter().map(|delta| delta.first_checkpoint).min().unwrap_or(checkpoint);
    let last = deltas.iter().map(|delta| delta.last_checkpoint).max().unwrap_or(checkpoint);
    let next = chunks
        .iter()
        .filter(|(key, _)| key.table == entry.id)
        .map(|(key, _)| key.sequence + 1)
        .max()
        .unwrap_or(0);
    let mut merged = Vec::new();
    for (index, chunk) in
        merge(&entry.schema, inner.key_groups, &inputs, inner.chunk_bytes)?.into_iter().enumerate()
    {
        let reference = ChunkRef {
            first_checkpoint: first,
            last_checkpoint: last,
            ..reference(&chunk, checkpoint, next + index as u32)
        };
        chunks.push((key(entry, &reference), chunk.bytes));
        merged.push(reference);
    }
    entry.chain.replace_run(run, merged);
    // Chunks of this checkpoint that went into the merge need not be written.
    let needed: Vec<ChunkKey> = entry.chain.chunks.iter().map(|chunk| key(entry, chunk)).collect();
    chunks.retain(|(key, _)| key.table != entry.id || needed.contains(key));
    Ok(())
}
