//! What a log does for producers: ids and epochs, records, transactions (see `Producer` for the
//! client's side).

use std::sync::Arc;

use super::batch::{self, Rows};
use super::clock::Now;
use super::handle::{Log, no_partition, unexpected};
use super::infos::ProducerInfo;
use super::layout::{self, Outcome, Placed, Table, Topic};
use super::maintain::Budget;
use super::records::Records;
use super::request::{
    Answer, Append, CommitOffsets, Encoded, End, Ended, InitProducer, Part, Request, Stage,
};
use super::view::{self, View};
use super::{plain, transactions};
use crate::{Error, ErrorKind, Result};

/// Bytes of records in one call.
const MAX_CALL_BYTES: usize = 256 << 20;

/// Records for one partition, with the sequence of the first.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Write<'a> {
    pub topic: &'a str,
    pub partition: u32,
    pub records: Records<'a>,
    /// Outside of transactions, of a producer with an id: counted within the partition.
    pub first_sequence: i32,
}

/// A transaction, as its producer names it.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct TransactionId<'a> {
    pub transactional_id: &'a str,
    pub id: i64,
    pub epoch: i32,
    pub started_ms: i64,
}

impl Log {
    /// An id and epoch. With a transactional id: the next epoch, which fences all older ones and
    /// aborts what they left open; `expected` is what the producer believes to have, so that a
    /// retry is recognised and a zombie refused (`ProducerFenced`).
    pub fn init_producer(
        &self,
        transactional_id: Option<&str>,
        timeout_ms: u64,
        expected: Option<(i64, i32)>,
        now_ms: i64,
    ) -> Result<(i64, i32)> {
        let transactional_id = transactional_id.map(str::to_owned);
        let request = InitProducer { transactional_id, timeout_ms, expected, now_ms };
        let answer = self.submit(Request::InitProducer(request))?;
        crate::crash_point!("producer.epoch.pre_reply");
        match answer {
            Answer::Producer { id, epoch } => Ok((id, epoch)),
            other => Err(unexpected(&other)),
        }
    }

    /// Appends records outside of a transaction, all or none; says where they are, and of each
    /// whether it was there already.
    ///
    /// # Errors
    /// `UnknownTopicOrPartition`, `RecordTooLarge`, `OutOfOrderSequence`, `ProducerFenced`,
    /// `InvalidTransactionState` (the producer is in a transaction), `CapacityExceeded`, `StoreFull`,
    /// `LogTimeout`.
    pub fn append(
        &self,
        producer: Option<(i64, i32)>,
        writes: &[Write<'_>],
        now: impl Into<Now>,
    ) -> Result<Vec<(Placed, bool)>> {
        let now = now.into();
        let parts = self.encode(writes, now)?;
        let request = Append { producer, parts, now_ms: now.log_ms };
        let placed = self.submit_append(Arc::new(Request::Append(request)))?;
        crate::crash_point!("log.append.post_ack");
        Ok(placed)
    }

    pub(super) fn submit_append(&self, request: Arc<Request>) -> Result<Vec<(Placed, bool)>> {
        match self.shared.submit(request)? {
            Answer::Appended(placed) => Ok(placed),
            other => Err(unexpected(&other)),
        }
    }

    /// Stages records of a transaction: durable, but nobody sees them before its end.
    /// `first_sequence` counts from 0 over all records of the transaction.
    ///
    /// # Errors
    /// As `append`, and `TransactionTimedOut`.
    pub fn stage(
        &self,
        transaction: TransactionId<'_>,
        first_sequence: i32,
        writes: &[Write<'_>],
        now: impl Into<Now>,
    ) -> Result<()> {
        let now = now.into();
        let parts = self.encode(writes, now)?;
        let now_ms = now.log_ms;
        let TransactionId { transactional_id, id, epoch, started_ms } = transaction;
        let transactional_id = transactional_id.to_owned();
        let stage =
            Stage { transactional_id, id, epoch, started_ms, first_sequence, parts, now_ms };
        self.submit_stage(Arc::new(Request::Stage(stage)))
    }

    pub(super) fn submit_stage(&self, request: Arc<Request>) -> Result<()> {
        let answer = self.shared.submit(request)?;
        crate::crash_point!("txn.begin.post");
        match answer {
            Answer::Staged => Ok(()),
            Answer::Ended(_) => Err(transactions::timed_out()),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends a transaction: with its last records and the offsets of groups (`commit`), or without a
    /// trace. `first_sequence` goes on from what was staged.
    ///
    /// # Errors
    /// As `stage`, and those of `commit_offsets`. `InvalidTransactionState` if it has ended the other
    /// way. Nothing has happened then, except after `TransactionTimedOut`: it is aborted.
    pub fn end_transaction(
        &self,
        transaction: TransactionId<'_>,
        commit: bool,
        first_sequence: i32,
        writes: &[Write<'_>],
        offsets: &[CommitOffsets],
        now: impl Into<Now>,
    ) -> Result<Ended> {
        let now = now.into();
        let parts = self.encode(writes, now)?;
        let now_ms = now.log_ms;
        let TransactionId { transactional_id, id, epoch, started_ms } = transaction;
        let end = End {
            transactional_id: transactional_id.to_owned(),
            id,
            epoch,
            started_ms,
            commit,
            first_sequence,
            parts,
            offsets: offsets.to_vec(),
            now_ms,
        };
        self.submit_end(Arc::new(Request::End(end)))
    }

    pub(super) fn submit_end(&self, request: Arc<Request>) -> Result<Ended> {
        let asked_commit = matches!(&*request, Request::End(End { commit: true, .. }));
        let answer = self.shared.submit(request)?;
        crate::crash_point!("txn.end.pre_reply");
        match answer {
            Answer::Ended(ended) => {
                if ended.outcome != Outcome::Committed {
                    self.discard()?;
                }
                if asked_commit && ended.outcome == Outcome::TimedOut {
                    return Err(transactions::timed_out());
                }
                Ok(ended)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Deletes what aborted transactions have staged, slice by slice.
    pub(super) fn discard(&self) -> Result<()> {
        loop {
            let view = self.read()?;
            let nothing = plain(view.stored_from(Table::Garbage, &[]))?.next().is_none();
            drop(view);
            if nothing {
                return Ok(());
            }
            self.submit(Request::Discard { batches: Budget::default().batches })?;
        }
    }

    /// Encodes records for their partitions.
    pub(super) fn encode(&self, writes: &[Write<'_>], now: Now) -> Result<Vec<Part>> {
        let view = self.read()?;
        let mut topics: Vec<(&str, Topic)> = Vec::new();
        for write in writes {
            if !topics.iter().any(|(name, _)| *name == write.topic) {
                topics.push((write.topic, plain(view.topic(write.topic))?));
            }
        }
        drop(view);
        let (mut parts, mut bytes) = (Vec::with_capacity(writes.len()), 0);
        for write in writes {
            let topic = topics.iter().find(|(name, _)| *name == write.topic);
            let (_, topic) = topic.ok_or_else(|| view::unknown_topic(write.topic))?;
            let rows = Rows::Range(0, write.records.len());
            let part = encode_part(topic, write, rows, now)?;
            check_call(&mut bytes, &part)?;
            parts.push(part);
        }
        Ok(parts)
    }

    /// The transactional producers.
    pub fn producers(&self) -> Result<Vec<ProducerInfo>> {
        let view = self.read()?;
        let mut producers = Vec::new();
        for entry in plain(view.scan(Table::Producers, &[], &[]))? {
            let (key, payload) = plain(entry)?;
            let found: layout::Producer = plain(view::decode(Table::Producers, key, payload))?;
            producers.push(ProducerInfo {
                transactional_id: String::from_utf8_lossy(key).into_owned(),
                id: found.id,
                epoch: found.epoch,
                timeout_ms: found.timeout_ms,
                updated_ms: found.updated_ms,
                staged: found.open.map(|open| (open.started_ms, open.bytes)),
                ended: found.ended.map(|(outcome, _)| outcome),
            });
        }
        Ok(producers)
    }
}

pub(super) fn encode_part(
    topic: &Topic,
    write: &Write<'_>,
    rows: Rows<'_>,
    now: Now,
) -> Result<Part> {
    if write.partition >= topic.settings.partitions {
        return Err(no_partition(write.topic, write.partition, topic.settings.partitions));
    }
    let longest = topic.settings.max_record_bytes as usize;
    let batches = batch::encode(&write.records, rows, longest, now)?;
    Ok(Part {
        topic: topic.number,
        partition: write.partition,
        records: rows.len() as u64,
        first_sequence: write.first_sequence,
        batches: batches.into_iter().map(Encoded).collect(),
    })
}

/// Refuses a call whose records would need too much memory at once; `bytes` are those of the parts
/// before this one.
pub(super) fn check_call(bytes: &mut usize, part: &Part) -> Result<()> {
    *bytes += part.batches.iter().map(|batch| batch.0.len()).sum::<usize>();
    if *bytes <= MAX_CALL_BYTES {
        return Ok(());
    }
    let text = format!(
        "the records of one call have more than {MAX_CALL_BYTES} bytes, and would all be in memory \
         at once; give fewer a call. Nothing of it was written"
    );
    Err(Error::new(ErrorKind::CapacityExceeded, text).with_bound(
        None,
        *bytes as u64,
        MAX_CALL_BYTES as u64,
    ))
}
