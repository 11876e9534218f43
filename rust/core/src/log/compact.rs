//! Compaction: of each key the newest record stays.
//!
//! It runs outside of write transactions, beside everything else: 1. it reads what came since the
//! last time (the dirty part) and notes each key's last offset, as far as memory allows; 2. batch by
//! batch, from the beginning, it works out which records a newer one has made void, and asks for the
//! batch to be replaced by what is left, if it still is the batch that was read; 3. at the end it
//! asks for the dirty part to be counted as clean. A record is void if a newer one of its key is
//! there: that does not change, whoever else writes or compacts meanwhile, and wherever a crash cuts
//! it short. Records without a key stay. A null value goes too, after a while, which counts from when
//! compaction first saw it (as KIP-534 does; what the record's own timestamp says is of no account):
//! by then all older records of its key have gone before it, and every reader that is not further
//! behind than that has seen it. The batch keeps the time.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64;

use super::batch::{Entry, Times, encode_kept};
use super::layout::{CleanupPolicy, Partition, Table, Topic, in_partition_key};
use super::maintain::delete_batch;
use super::records::Fetched;
use super::request::{Answer, Encoded, Replace, Replacement, Request};
use super::transactions::is_late;
use super::view::{Step, View, Work, damaged, decode};
use super::{Log, append, plain};
use crate::Result;

/// Memory for the keys of the dirty part.
const MAX_KEY_BYTES: usize = 64 << 20;

/// Bytes that one transaction replaces at most.
const MAX_REPLACED_BYTES: usize = 8 << 20;

/// The compaction of one partition, as far as it is.
#[derive(Debug)]
pub(super) struct Compaction {
    topic: u32,
    partition: u32,
    /// Last offset of each key of the dirty part.
    last: HashMap<Vec<u8>, u64>,
    /// Where the dirty part that is noted ends.
    end: u64,
    /// The next batch to look at.
    next: u64,
    delete_retention_ms: u64,
    /// When the first of the null values that stay was seen.
    seen_ms: Option<i64>,
}

impl Log {
    /// Goes on with the compaction under way, or begins one, for so many batches. Returns the
    /// records removed, and whether there is more to do.
    pub(super) fn compact(&self, now_ms: i64, batches: usize) -> Result<(u64, bool)> {
        let mut current = self.shared.compaction.lock();
        if current.is_none() {
            *current = self.dirtiest(now_ms)?;
        }
        let Some(compaction) = &mut *current else { return Ok((0, false)) };
        let outcome = self.compact_some(compaction, now_ms, batches);
        match outcome {
            Ok((removed, true)) => {
                *current = None;
                Ok((removed, self.dirtiest(now_ms)?.is_some()))
            }
            Ok((removed, false)) => Ok((removed, true)),
            // Its topic may have been deleted.
            Err(error) => {
                *current = None;
                Err(error)
            }
        }
    }

    /// The first partition of which half or more is dirty, or in which null values may go.
    fn dirtiest(&self, now_ms: i64) -> Result<Option<Compaction>> {
        let view = self.read()?;
        for entry in plain(view.scan(Table::Topics, &[], &[]))? {
            let (key, payload) = plain(entry)?;
            let topic: Topic = plain(decode(Table::Topics, key, payload))?;
            if topic.settings.cleanup_policy != CleanupPolicy::Compact {
                continue;
            }
            for partition in 0..topic.settings.partitions {
                let head = plain(view.partition(topic.number, partition))?;
                let dirty = head.end - head.compacted.max(head.start);
                let over = head.nulls_since_ms.is_some_and(|since_ms| {
                    is_late(since_ms, topic.settings.delete_retention_ms, now_ms)
                });
                if over || dirty > 0 && dirty >= head.records.saturating_sub(dirty) {
                    return plain(note_keys(&view, &topic, partition, &head)).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// Returns the records removed, and whether the compaction is at its end.
    fn compact_some(
        &self,
        compaction: &mut Compaction,
        now_ms: i64,
        batches: usize,
    ) -> Result<(u64, bool)> {
        let Compaction { topic, partition, .. } = *compaction;
        let (mut replace, mut removed, mut bytes) = (Vec::new(), 0, 0);
        let mut done = true;
        let view = self.read()?;
        for (count, entry) in plain(view.batches(topic, partition, compaction.next))?.enumerate() {
            let (base, entry) = plain(entry)?;
            if base >= compaction.end {
                break;
            }
            if count >= batches || bytes >= MAX_REPLACED_BYTES {
                done = false;
                break;
            }
            compaction.next = base + 1;
            let (records, times) = plain(records(&view, (topic, partition), base, &entry))?;
            let kept = compaction.kept(&records, times, now_ms);
            let has_null = kept.iter().any(|row| is_delete(&records, *row as usize));
            let cleaned_ms = has_null.then(|| times.cleaned_ms.unwrap_or(now_ms));
            if let Some(seen_ms) = cleaned_ms {
                let first = compaction.seen_ms.get_or_insert(seen_ms);
                *first = seen_ms.min(*first);
            }
            if kept.len() == records.len() && cleaned_ms == times.cleaned_ms {
                continue;
            }
            let times = Times { cleaned_ms, ..times };
            removed += (records.len() - kept.len()) as u64;
            let batch = match kept.is_empty() {
                true => None,
                false => Some(Encoded(encode_kept(&records, &kept, base, times)?)),
            };
            bytes += records.values.data.len() + records.keys.data.len();
            let key = in_partition_key(topic, partition, base);
            let stored = plain(view.payload(Table::Batches, &key))?.unwrap_or_default();
            replace.push(Replacement { base, digest: xxh3_64(stored), batch });
        }
        drop(view);
        let compacted = done.then_some((compaction.end, compaction.seen_ms));
        self.submit(Request::Replace(Replace { topic, partition, replace, compacted }))?;
        Ok((removed, done))
    }
}

impl Compaction {
    /// The rows that no newer record has made void.
    fn kept(&self, records: &Fetched, times: Times, now_ms: i64) -> Vec<u32> {
        let nulls_go =
            times.cleaned_ms.is_some_and(|seen| is_late(seen, self.delete_retention_ms, now_ms));
        let is_kept = |row: &u32| {
            let row = *row as usize;
            let Some(key) = records.keys.get(row) else { return true };
            let offset = records.offsets[row] as u64;
            let newer = self.last.get(key).is_some_and(|last| *last > offset);
            !(newer || nulls_go && is_delete(records, row))
        };
        (0..records.len() as u32).filter(is_kept).collect()
    }
}

/// Whether a record deletes its key.
fn is_delete(records: &Fetched, row: usize) -> bool {
    records.keys.get(row).is_some() && records.values.get(row).is_none()
}

fn note_keys(
    view: &impl View,
    topic: &Topic,
    partition: u32,
    head: &Partition,
) -> Step<Compaction> {
    let mut compaction = Compaction {
        topic: topic.number,
        partition,
        last: HashMap::new(),
        end: head.end,
        next: 0,
        delete_retention_ms: topic.settings.delete_retention_ms,
        seen_ms: None,
    };
    let dirty = head.compacted.max(head.start);
    let first = view.batch_before(topic.number, partition, dirty)?.unwrap_or(dirty);
    let mut bytes = 0;
    for entry in view.batches(topic.number, partition, first)? {
        let (base, entry) = entry?;
        if bytes > MAX_KEY_BYTES {
            compaction.end = base;
            break;
        }
        let (records, _) = records(view, (topic.number, partition), base, &entry)?;
        for row in 0..records.len() {
            let Some(key) = records.keys.get(row) else { continue };
            let offset = records.offsets[row] as u64;
            match compaction.last.get_mut(key) {
                Some(last) => *last = offset,
                None => {
                    bytes += key.len() + 64;
                    compaction.last.insert(key.to_vec(), offset);
                }
            }
        }
    }
    Ok(compaction)
}

fn records(
    view: &impl View,
    (topic, partition): (u32, u32),
    base: u64,
    entry: &Entry<'_>,
) -> Step<(Fetched, Times)> {
    let batch = view.resolve(entry)?;
    let columns = batch.columns().map_err(|reason| {
        damaged(Table::Batches, &in_partition_key(topic, partition, base), &reason)
    })?;
    let mut records = Fetched::default();
    columns.append_to(0, columns.len(), base, &mut records);
    Ok((records, batch.times()))
}

/// Replaces batches that are still what they were.
pub(super) fn replace(work: &mut Work<'_, '_>, request: &Replace) -> Step<Answer> {
    let Replace { topic, partition, .. } = *request;
    let mut head = work.partition(topic, partition)?;
    let before = head;
    for Replacement { base, digest, batch } in &request.replace {
        let key = in_partition_key(topic, partition, *base);
        if work.payload(Table::Batches, &key)?.map(xxh3_64) != Some(*digest) {
            continue;
        }
        let (records, bytes) = delete_batch(work, &key)?;
        head.records = head.records.saturating_sub(records);
        head.bytes = head.bytes.saturating_sub(bytes);
        head.batches = head.batches.saturating_sub(1);
        if let Some(Encoded(batch)) = batch {
            work.put_bytes(Table::Batches, &key, &[], batch)?;
            append::count(&mut head, &append::summary(batch)?, batch.len() as u64);
        }
        crate::crash_point!("compact.mid_replace");
    }
    if let Some((end, seen_ms)) = request.compacted
        && end >= head.compacted
    {
        head.compacted = end;
        head.nulls_since_ms = seen_ms;
    }
    if head != before {
        work.put_partition(topic, partition, &head)?;
    }
    Ok(Answer::Done)
}
