//! Upkeep in bounded slices: what is over, too old or too much goes, a little at a time.
//!
//! A slice is one request like any other, so it runs in somebody's commit and holds up nobody for
//! long. Dedupe windows live apart from the batches, so whatever is removed here, a live
//! producer's last sequence stays (rule S29).

use serde::{Deserialize, Serialize};

use super::Limits;
use super::batch::Entry;
use super::layout::{
    Partition, Table, Topic, garbage_key, in_partition_key, parse_garbage, parse_in_partition,
    partition_key, staged_key,
};
use super::request::Answer;
use super::transactions::is_late;
use super::view::{Step, View, Work, damaged, decode};
use super::{groups, topics, transactions, window};

/// How much one slice may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Batches deleted at most.
    pub batches: usize,
    /// Producers, transactions and groups looked at, at most.
    pub entries: usize,
}

impl Default for Budget {
    /// 64 batches (up to 64 MiB), 1,000 entries.
    fn default() -> Self {
        Self { batches: 64, entries: 1000 }
    }
}

/// Where the walk over all producers, windows and groups goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    #[serde(with = "super::blob")]
    pub(super) producers: Vec<u8>,
    #[serde(with = "super::blob")]
    pub(super) windows: Vec<u8>,
    #[serde(with = "super::blob")]
    pub(super) groups: Vec<u8>,
}

/// What a slice did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintained {
    /// Transactions aborted because they were open for too long.
    pub timed_out: u64,
    /// Staged batches of ended transactions deleted.
    pub discarded: u64,
    /// Batches deleted because of retention, or of deleted topics.
    pub removed: u64,
    /// Producers and groups forgotten.
    pub forgotten: u64,
    /// Records removed by compaction.
    pub compacted: u64,
    /// Whether there is more to do right now.
    pub more: bool,
    /// Where the walk goes on.
    pub(super) cursor: Cursor,
}

pub(super) fn maintain(
    work: &mut Work<'_, '_>,
    now_ms: i64,
    budget: Budget,
    cursor: &Cursor,
    limits: &Limits,
) -> Step<Answer> {
    let mut done = Maintained { cursor: cursor.clone(), ..Maintained::default() };
    let mut left = budget.batches;
    done.timed_out = transactions::expire(work, now_ms, limits, budget.entries)?;
    done.discarded = discard(work, &mut left)?;
    done.removed = remove_orphans(work, &mut left)?;
    done.removed += retain(work, now_ms, &mut left)?;
    done.forgotten = forget_windows(work, now_ms, limits, budget.entries, &mut done.cursor)?;
    let producers = &mut done.cursor.producers;
    done.forgotten += transactions::forget(work, now_ms, limits, budget.entries, producers)?;
    let groups = &mut done.cursor.groups;
    done.forgotten += groups::forget(work, now_ms, limits, budget.entries, groups)?;
    done.more = left == 0 || done.timed_out == budget.entries as u64;
    Ok(Answer::Maintained(done))
}

/// Deletes staged batches of transactions that were aborted.
pub(super) fn discard(work: &mut Work<'_, '_>, left: &mut usize) -> Step<u64> {
    let mut count = 0;
    while *left > 0 {
        let Some(entry) = work.stored_from(Table::Garbage, &[])?.next() else { break };
        let key = entry?.0.to_vec();
        let (id, epoch) =
            parse_garbage(&key).ok_or_else(|| damaged(Table::Garbage, &key, "its key is short"))?;
        let first = staged_key(id, epoch, 0);
        let prefix = first.get(..12).unwrap_or_default();
        let mut keys = Vec::new();
        for entry in work.stored_from(Table::StagedIndex, &first)?.take(*left) {
            let (key, _) = entry?;
            if key.starts_with(prefix) {
                keys.push(key.to_vec());
            }
        }
        for key in &keys {
            work.delete(Table::Staged, key)?;
            work.delete(Table::StagedIndex, key)?;
            crate::crash_point!("txn.timeout.mid_abort");
        }
        count += keys.len() as u64;
        if keys.len() < *left {
            work.delete(Table::Garbage, &garbage_key(id, epoch))?;
        }
        *left -= keys.len().clamp(1, *left);
    }
    Ok(count)
}

/// Deletes a batch, and what it refers to; returns its records and bytes.
pub(super) fn delete_batch(work: &mut Work<'_, '_>, key: &[u8]) -> Step<(u64, u64)> {
    let payload = work.payload(Table::Batches, key)?;
    let Some(payload) = payload else { return Ok((0, 0)) };
    let entry = Entry::parse(payload).map_err(|reason| damaged(Table::Batches, key, &reason))?;
    let records = u64::from(entry.summary().records);
    let bytes = entry.bytes();
    let staged = match entry {
        Entry::Records(_) => None,
        Entry::Reference(_, at) => Some(staged_key(at.producer, at.epoch, at.number)),
    };
    work.delete(Table::Batches, key)?;
    if let Some(key) = staged {
        work.delete(Table::Staged, &key)?;
    }
    Ok((records, bytes))
}

/// Deletes batches and windows of partitions that were deleted.
fn remove_orphans(work: &mut Work<'_, '_>, left: &mut usize) -> Step<u64> {
    let mut count = 0;
    for table in [Table::Batches, Table::Windows] {
        while *left > 0 {
            let Some(key) = topics::first_orphan(work, table)? else { break };
            if table == Table::Batches {
                delete_batch(work, &key)?;
                count += 1;
            } else {
                work.delete(table, &key)?;
            }
            *left -= 1;
        }
    }
    Ok(count)
}

/// Deletes the oldest batches of partitions that hold more, or older ones, than they shall.
fn retain(work: &mut Work<'_, '_>, now_ms: i64, left: &mut usize) -> Step<u64> {
    let mut bounded = Vec::new();
    for entry in work.scan(Table::Topics, &[], &[])? {
        let (key, payload) = entry?;
        let topic: Topic = decode(Table::Topics, key, payload)?;
        if topic.settings.retention_ms.is_some() || topic.settings.retention_bytes.is_some() {
            bounded.push(topic);
        }
    }
    let mut count = 0;
    for topic in bounded {
        for partition in 0..topic.settings.partitions {
            let mut head = work.partition(topic.number, partition)?;
            let before = head;
            while *left > 0 && remove_oldest(work, &topic, partition, &mut head, now_ms)? {
                *left -= 1;
                count += 1;
                crate::crash_point!("retention.mid_delete");
            }
            if head != before {
                work.put_partition(topic.number, partition, &head)?;
            }
        }
    }
    Ok(count)
}

fn remove_oldest(
    work: &mut Work<'_, '_>,
    topic: &Topic,
    partition: u32,
    head: &mut Partition,
    now_ms: i64,
) -> Step<bool> {
    let prefix = partition_key(topic.number, partition);
    let first = in_partition_key(topic.number, partition, 0);
    let mut entries = work.scan(Table::Batches, &first, &prefix)?;
    let Some(entry) = entries.next() else { return Ok(false) };
    let (key, payload) = entry?;
    let entry = Entry::parse(payload).map_err(|reason| damaged(Table::Batches, key, &reason))?;
    let settings = &topic.settings;
    let too_old = match settings.retention_ms {
        None => false,
        Some(keep_ms) => {
            // Of a batch of format 1 nobody knows when it was appended.
            let since_ms = work.resolve(&entry)?.times().since_ms;
            is_late(since_ms.unwrap_or(entry.summary().max_timestamp_ms), keep_ms, now_ms)
        }
    };
    // The newest bytes that are to be kept stay whole, however large a batch is: what is removed lies beyond them.
    let beyond = |keep: u64| head.bytes.saturating_sub(entry.bytes()) >= keep;
    if !too_old && !settings.retention_bytes.is_some_and(beyond) {
        return Ok(false);
    }
    let key = key.to_vec();
    let next = entries.next().transpose()?;
    let next = next.and_then(|(key, _)| parse_in_partition(key)).map(|(_, _, base)| base);
    drop(entries);
    let (records, bytes) = delete_batch(work, &key)?;
    head.start = next.unwrap_or(head.end).max(head.start);
    head.batches = head.batches.saturating_sub(1);
    head.bytes = head.bytes.saturating_sub(bytes);
    head.records = head.records.saturating_sub(records);
    Ok(true)
}

/// Forgets windows of producers that were silent for too long.
fn forget_windows(
    work: &mut Work<'_, '_>,
    now_ms: i64,
    limits: &Limits,
    limit: usize,
    cursor: &mut Cursor,
) -> Step<u64> {
    let Some(expiry_ms) = limits.producer_expiry_ms else { return Ok(0) };
    let silent = pick(work, Table::Windows, limit, &mut cursor.windows, |key, payload| {
        let (topic, partition, id) = parse_in_partition(key)
            .ok_or_else(|| damaged(Table::Windows, key, "its key is short"))?;
        let expired = window::is_expired(payload, id as i64, expiry_ms, now_ms)?;
        Ok(expired.then(|| (topic, partition, key.to_vec())))
    })?;
    for (topic, partition, key) in &silent {
        work.delete(Table::Windows, key)?;
        // The partition may have been deleted, and its windows not yet.
        let found: Option<Partition> =
            work.value(Table::Partitions, &partition_key(*topic, *partition))?;
        if let Some(mut head) = found {
            head.producers = head.producers.saturating_sub(1);
            work.put_partition(*topic, *partition, &head)?;
        }
    }
    Ok(silent.len() as u64)
}

/// Picks from `limit` entries of a table, from `cursor` on, which then stands behind them: at the
/// beginning again after the last one.
pub(super) fn pick<T>(
    work: &Work<'_, '_>,
    table: Table,
    limit: usize,
    cursor: &mut Vec<u8>,
    mut wanted: impl FnMut(&[u8], &[u8]) -> Step<Option<T>>,
) -> Step<Vec<T>> {
    let (mut picked, mut last, mut seen) = (Vec::new(), Vec::new(), 0);
    for entry in work.scan(table, cursor, &[])?.take(limit) {
        let (key, payload) = entry?;
        seen += 1;
        last = key.to_vec();
        picked.extend(wanted(key, payload)?);
    }
    last.push(0);
    *cursor = if seen == limit { last } else { Vec::new() };
    Ok(picked)
}
