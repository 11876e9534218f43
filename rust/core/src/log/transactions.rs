//! Transactional producers: ids, epochs, and the end of transactions.
//!
//! A transaction lives in its producer's memory until it ends; only what does not fit there is
//! staged, durably but in nobody's way. Its end is one LMDB transaction: the batches get their
//! offsets (staged ones by references), the group's offsets are set, the epoch rises. So there is
//! no prepared state and there are no markers: before the end nothing can be seen, after it
//! everything, and an open, aborted or abandoned transaction holds back nobody.
//!
//! The epoch rises with each end and each `init`. The epoch before it, and how it ended, are
//! remembered, so that a retry of the same call gets the same answer, the opposite one is refused,
//! and everything older is fenced:
//!
//! | the request's (id, epoch) is     | init          | stage             | end                       |
//! |----------------------------------|---------------|-------------------|---------------------------|
//! | the present one                  | rises         | staged            | done, rises               |
//! | the former one, ended            | the same answer | fenced (or timed out) | the same answer, or `InvalidTransactionState` for the opposite |
//! | any other                        | fenced        | fenced            | fenced                    |

use super::Limits;
use super::append::{Heads, placed, summary, write_batches, write_reference};
use super::batch::{Entry, Reference, Summary, encode_reference};
use super::groups;
use super::layout::{
    MAX_ID_BYTES, Open, Outcome, Placed, Producer, Table, garbage_key, parse_partition,
    partition_key, staged_key,
};
use super::maintain::pick;
use super::request::{Answer, End, Ended, InitProducer, Part, Stage};
use super::view::{Step, View, Work, damaged};
use super::window::{self, Claim, fenced};
use crate::sequence::Verdict;
use crate::{Detail, Error, ErrorKind, Result};

/// A new id for an idempotent producer, or the next epoch of a transactional one.
pub(super) fn init(
    work: &mut Work<'_, '_>,
    request: &InitProducer,
    limits: &Limits,
) -> Step<Answer> {
    let Some(transactional_id) = &request.transactional_id else {
        let id = next_id(work)?;
        // The head is what changed: a new one is written with any change.
        work.put_bytes(Table::Garbage, &garbage_key(id, 0), &[], &[])?;
        work.delete(Table::Garbage, &garbage_key(id, 0))?;
        return Ok(Answer::Producer { id, epoch: 0 });
    };
    check_id("transactional id", transactional_id)?;
    if request.timeout_ms == 0 || request.timeout_ms > limits.max_transaction_timeout_ms {
        let text = format!(
            "the transaction timeout is {} ms, but must lie between 1 and {} ms",
            request.timeout_ms, limits.max_transaction_timeout_ms
        );
        return Err(Error::new(ErrorKind::InvalidArgument, text).into());
    }
    let known: Option<Producer> = work.value(Table::Producers, transactional_id.as_bytes())?;
    let Some(mut producer) = known else {
        if request.expected.is_some() {
            return Err(unknown(transactional_id).into());
        }
        if work.head.producers >= limits.max_producers {
            let text = format!(
                "{} transactional ids are remembered, as many as max_producers allows; raise it, \
                 or let silent ones expire",
                work.head.producers
            );
            let (known, most) = (work.head.producers, limits.max_producers);
            return Err(Error::new(ErrorKind::CapacityExceeded, text)
                .with_bound("max_producers", known + 1, most)
                .into());
        }
        let id = next_id(work)?;
        work.head.producers += 1;
        let producer = Producer {
            id,
            epoch: 0,
            former: None,
            ended: None,
            open: None,
            timeout_ms: request.timeout_ms,
            updated_ms: request.now_ms,
        };
        crate::crash_point!("producer.epoch.pre_persist");
        put(work, transactional_id, &producer)?;
        return Ok(Answer::Producer { id, epoch: 0 });
    };
    match request.expected {
        Some(expected) if expected == (producer.id, producer.epoch) => {}
        // A retry, also across a new id (S30, S34).
        Some(expected) if Some(expected) == producer.former => {
            return Ok(Answer::Producer { id: producer.id, epoch: producer.epoch });
        }
        Some((id, epoch)) => return Err(fenced(id, epoch, i64::from(producer.epoch)).into()),
        None => {}
    }
    producer.timeout_ms = request.timeout_ms;
    crate::crash_point!("producer.epoch.pre_persist");
    discard(work, &mut producer)?;
    raise(work, &mut producer, limits, request.now_ms)?;
    producer.ended = None;
    put(work, transactional_id, &producer)?;
    Ok(Answer::Producer { id: producer.id, epoch: producer.epoch })
}

/// Stages batches of a transaction.
pub(super) fn stage(work: &mut Work<'_, '_>, request: &Stage, limits: &Limits) -> Step<Answer> {
    let id = &request.transactional_id;
    let mut producer = present(work, id, (request.id, request.epoch))?;
    if let Some(answer) =
        time_out(work, id, &mut producer, request.started_ms, request.now_ms, limits)?
    {
        return Ok(answer);
    }
    for part in &request.parts {
        work.partition(part.topic, part.partition)?;
    }
    let mut open = producer.open.take().unwrap_or(Open {
        started_ms: request.started_ms,
        next: 0,
        records: 0,
        bytes: 0,
        window: Vec::new(),
    });
    let window = judge(&open, (request.id, request.epoch), request.first_sequence, &request.parts);
    match window? {
        None => return Ok(Answer::Staged),
        Some(window) => open.window = window,
    }
    check_size(open.bytes, &request.parts, limits)?;
    if open.next == 0 {
        let key = garbage_key(request.id, request.epoch);
        work.put_bytes(Table::Open, &key, &[], id.as_bytes())?;
    }
    for part in &request.parts {
        let front = partition_key(part.topic, part.partition);
        for batch in &part.batches {
            let number = open.next;
            open.next = number.checked_add(1).ok_or_else(too_many_batches)?;
            let (producer, epoch) = (request.id, request.epoch);
            let bytes = batch.0.len() as u64;
            let reference = Reference { producer, epoch, number, bytes };
            let back = encode_reference(&summary(&batch.0)?, &reference);
            let key = staged_key(producer, epoch, number);
            work.put_bytes(Table::StagedIndex, &key, &front, &back)?;
            work.put_bytes(Table::Staged, &key, &[], &batch.0)?;
            open.bytes += bytes;
        }
        open.records += part.records;
        crate::crash_point!("txn.write.partial");
    }
    producer.open = Some(open);
    producer.updated_ms = request.now_ms;
    put(work, id, &producer)?;
    Ok(Answer::Staged)
}

/// Commits or aborts a transaction.
pub(super) fn end(work: &mut Work<'_, '_>, request: &End, limits: &Limits) -> Step<Answer> {
    let id = &request.transactional_id;
    let known: Option<Producer> = work.value(Table::Producers, id.as_bytes())?;
    let mut producer = known.ok_or_else(|| unknown(id))?;
    let asked = if request.commit { Outcome::Committed } else { Outcome::Aborted };
    let claimed = (request.id, request.epoch);
    if let (Some((outcome, placed)), Some(former)) = (&producer.ended, producer.former)
        && former == claimed
    {
        if *outcome == asked || *outcome == Outcome::TimedOut {
            return Ok(Answer::Ended(Ended {
                outcome: *outcome,
                id: producer.id,
                epoch: producer.epoch,
                placed: placed.clone(),
            }));
        }
        let (done, wanted) = match asked {
            Outcome::Committed => ("aborted", "committed"),
            _ => ("committed", "aborted"),
        };
        let text = format!(
            "the transaction of producer {} in epoch {} was {done}: it cannot be {wanted} any more",
            request.id, request.epoch
        );
        return Err(Error::new(ErrorKind::InvalidTransactionState, text).into());
    }
    if claimed != (producer.id, producer.epoch) {
        return Err(fenced(request.id, request.epoch, i64::from(producer.epoch)).into());
    }
    if !request.commit {
        discard(work, &mut producer)?;
        return finish(work, id, producer, Outcome::Aborted, Vec::new(), request.now_ms, limits);
    }
    if let Some(answer) =
        time_out(work, id, &mut producer, request.started_ms, request.now_ms, limits)?
    {
        return Ok(answer);
    }

    // Everything is checked first.
    let open = producer.open.take();
    if !request.parts.is_empty() {
        let empty = Open {
            started_ms: request.started_ms,
            next: 0,
            records: 0,
            bytes: 0,
            window: Vec::new(),
        };
        let before = open.as_ref().unwrap_or(&empty);
        if judge(before, claimed, request.first_sequence, &request.parts)?.is_none() {
            let text = "the last records of the transaction were staged before: its producer has \
                        lost count; abort it";
            let expected = window::after(0, before.records);
            let detail = Detail::Sequences {
                expected: Some(expected.into()),
                got: request.first_sequence.into(),
            };
            return Err(Error::new(ErrorKind::OutOfOrderSequence, text).with(detail).into());
        }
        check_size(before.bytes, &request.parts, limits)?;
    } else {
        check_end(open.as_ref(), request.first_sequence)?;
    }
    let mut heads = Heads::default();
    let staged = staged(work, claimed, open.as_ref().map_or(0, |open| open.next))?;
    for (topic, partition, _, _) in &staged {
        heads.at(work, *topic, *partition)?;
    }
    for part in &request.parts {
        heads.get(work, part)?;
    }
    for offsets in &request.offsets {
        groups::check_offsets(work, offsets)?;
    }

    // Then it is written; from the end of this LMDB transaction on it can be seen, all of it.
    let mut ranges = Ranges::default();
    if open.is_some() {
        work.delete(Table::Open, &garbage_key(request.id, request.epoch))?;
    }
    for (topic, partition, summary, reference) in staged {
        let head = heads.at(work, topic, partition)?;
        let base = head.end;
        head.end += u64::from(summary.records);
        let key = staged_key(reference.producer, reference.epoch, reference.number);
        work.delete(Table::StagedIndex, &key)?;
        write_reference(work, (topic, partition), base, &(summary, reference), head)?;
        ranges.add(topic, partition, base, u64::from(summary.records));
        crate::crash_point!("txn.end.partial");
    }
    for part in &request.parts {
        let head = heads.get(work, part)?;
        let placed = placed(part, head.end);
        head.end += part.records;
        write_batches(work, part, placed.first_offset, head)?;
        ranges.add(part.topic, part.partition, placed.first_offset, part.records);
        crate::crash_point!("txn.end.partial");
    }
    heads.put(work)?;
    for offsets in &request.offsets {
        groups::write_offsets(work, offsets)?;
    }
    finish(work, id, producer, Outcome::Committed, ranges.0, request.now_ms, limits)
}

/// Aborts the transactions that have been open for too long, `limit` at most; says how many. Only
/// those with staged batches are open for anybody but their producer.
pub(super) fn expire(
    work: &mut Work<'_, '_>,
    now_ms: i64,
    limits: &Limits,
    limit: usize,
) -> Step<u64> {
    let mut late = Vec::new();
    for entry in work.scan(Table::Open, &[], &[])? {
        let (_, payload) = entry?;
        let known: Option<Producer> = work.value(Table::Producers, payload)?;
        let Some(producer) = known else { continue };
        let started_ms = producer.open.as_ref().map(|open| open.started_ms);
        if started_ms.is_some_and(|since| is_late(since, producer.timeout_ms, now_ms)) {
            late.push((String::from_utf8_lossy(payload).into_owned(), producer));
            if late.len() == limit {
                break;
            }
        }
    }
    let count = late.len() as u64;
    for (id, mut producer) in late {
        discard(work, &mut producer)?;
        finish(work, &id, producer, Outcome::TimedOut, Vec::new(), now_ms, limits)?;
    }
    Ok(count)
}

/// Forgets transactional ids that nobody has used for long, looking at `limit` of them from
/// `cursor` on; says how many. One with an open transaction is never forgotten (S22).
pub(super) fn forget(
    work: &mut Work<'_, '_>,
    now_ms: i64,
    limits: &Limits,
    limit: usize,
    cursor: &mut Vec<u8>,
) -> Step<u64> {
    let Some(expiry_ms) = limits.transactional_id_expiry_ms else { return Ok(0) };
    // By id: those of used-up epochs are there too, and go with their transactional id.
    let silent = pick(work, Table::ProducerIds, limit, cursor, |key, payload| {
        let known: Option<Producer> = work.value(Table::Producers, payload)?;
        let forgotten = known.is_none_or(|producer| {
            producer.open.is_none() && is_late(producer.updated_ms, expiry_ms, now_ms)
        });
        Ok(forgotten.then(|| (key.to_vec(), payload.to_vec())))
    })?;
    let mut count = 0;
    for (key, id) in silent {
        work.delete(Table::ProducerIds, &key)?;
        if work.delete(Table::Producers, &id)? {
            work.head.producers = work.head.producers.saturating_sub(1);
            count += 1;
        }
    }
    Ok(count)
}

/// The producer, if this is its present epoch.
fn present(work: &Work<'_, '_>, id: &str, claimed: (i64, i32)) -> Step<Producer> {
    let known: Option<Producer> = work.value(Table::Producers, id.as_bytes())?;
    let producer = known.ok_or_else(|| unknown(id))?;
    if claimed == (producer.id, producer.epoch) {
        return Ok(producer);
    }
    if producer.former == Some(claimed)
        && let Some((Outcome::TimedOut, _)) = producer.ended
    {
        return Err(timed_out().into());
    }
    Err(fenced(claimed.0, claimed.1, i64::from(producer.epoch)).into())
}

/// Aborts a transaction that comes too late, and says so in its answer: the epoch must rise durably.
fn time_out(
    work: &mut Work<'_, '_>,
    id: &str,
    producer: &mut Producer,
    started_ms: i64,
    now_ms: i64,
    limits: &Limits,
) -> Step<Option<Answer>> {
    let started_ms = producer.open.as_ref().map_or(started_ms, |open| open.started_ms);
    if !is_late(started_ms, producer.timeout_ms, now_ms) {
        return Ok(None);
    }
    discard(work, producer)?;
    finish(work, id, producer.clone(), Outcome::TimedOut, Vec::new(), now_ms, limits).map(Some)
}

pub(super) fn is_late(since_ms: i64, timeout_ms: u64, now_ms: i64) -> bool {
    now_ms.saturating_sub(since_ms) > i64::try_from(timeout_ms).unwrap_or(i64::MAX)
}

/// Ends the transaction of the present epoch, which thereby becomes the former one.
fn finish(
    work: &mut Work<'_, '_>,
    id: &str,
    mut producer: Producer,
    outcome: Outcome,
    placed: Vec<Placed>,
    now_ms: i64,
    limits: &Limits,
) -> Step<Answer> {
    raise(work, &mut producer, limits, now_ms)?;
    producer.ended = Some((outcome, placed.clone()));
    put(work, id, &producer)?;
    Ok(Answer::Ended(Ended { outcome, id: producer.id, epoch: producer.epoch, placed }))
}

/// The next epoch; when all are used up, epoch 0 of a new id (S34).
fn raise(
    work: &mut Work<'_, '_>,
    producer: &mut Producer,
    limits: &Limits,
    now_ms: i64,
) -> Step<()> {
    producer.former = Some((producer.id, producer.epoch));
    if producer.epoch < limits.max_producer_epoch {
        producer.epoch += 1;
    } else {
        producer.id = next_id(work)?;
        producer.epoch = 0;
    }
    producer.updated_ms = now_ms;
    Ok(())
}

/// Leaves the staged batches of an open transaction to the collector.
fn discard(work: &mut Work<'_, '_>, producer: &mut Producer) -> Step<()> {
    if producer.open.take().is_some() {
        let key = garbage_key(producer.id, producer.epoch);
        work.delete(Table::Open, &key)?;
        work.put_bytes(Table::Garbage, &key, &[], &[])?;
    }
    Ok(())
}

fn put(work: &mut Work<'_, '_>, id: &str, producer: &Producer) -> Step<()> {
    work.put(Table::Producers, id.as_bytes(), producer)?;
    let key = producer.id.to_be_bytes();
    if work.payload(Table::ProducerIds, &key)?.is_none() {
        work.put_bytes(Table::ProducerIds, &key, &[], id.as_bytes())?;
    }
    Ok(())
}

fn next_id(work: &mut Work<'_, '_>) -> Result<i64> {
    let id = work.head.next_producer;
    work.head.next_producer = id.checked_add(1).ok_or_else(|| {
        Error::new(ErrorKind::CapacityExceeded, "no ids are left for new producers")
    })?;
    Ok(id)
}

/// The window after the next records of a transaction; `None` if they are staged already.
fn judge(
    open: &Open,
    (id, epoch): (i64, i32),
    first_sequence: i32,
    parts: &[Part],
) -> Result<Option<Vec<u8>>> {
    let records = parts.iter().map(|part| part.records).sum();
    let claim = Claim { id, epoch, first_sequence, records, position: u64::from(open.next) };
    let before = (!open.window.is_empty()).then_some(open.window.as_slice());
    let judged = window::judge(before, &claim, None, 0)?;
    match (judged.verdict, judged.entry) {
        (Verdict::Accept, Some(entry)) => Ok(Some(entry)),
        (Verdict::Duplicate { .. }, _) => Ok(None),
        (verdict, _) => Err(window::refusal(verdict, &claim, "the transaction")),
    }
}

/// Without last records to judge: the producer must have counted as many as are staged.
fn check_end(open: Option<&Open>, sequence: i32) -> Result<()> {
    let expected = window::after(0, open.map_or(0, |open| open.records));
    if expected == sequence {
        return Ok(());
    }
    let text = format!(
        "the transaction goes on with sequence {expected}, but its producer is at {sequence}: some \
         records were not staged; abort it"
    );
    let detail = Detail::Sequences { expected: Some(expected.into()), got: sequence.into() };
    Err(Error::new(ErrorKind::OutOfOrderSequence, text).with(detail))
}

/// The staged batches of a transaction, in order, with their partitions.
fn staged(
    work: &Work<'_, '_>,
    (id, epoch): (i64, i32),
    count: u32,
) -> Step<Vec<(u32, u32, Summary, Reference)>> {
    let mut found = Vec::with_capacity(count as usize);
    if count == 0 {
        return Ok(found);
    }
    let first = staged_key(id, epoch, 0);
    let prefix = first.get(..12).unwrap_or_default();
    for entry in work.scan(Table::StagedIndex, &first, prefix)? {
        let (key, payload) = entry?;
        let wrong = |reason: &str| damaged(Table::StagedIndex, key, reason);
        let (topic, partition) =
            parse_partition(payload).ok_or_else(|| wrong("it names no partition"))?;
        match Entry::parse(payload.get(8..).unwrap_or_default()) {
            Ok(Entry::Reference(summary, reference)) => {
                found.push((topic, partition, summary, reference));
            }
            Ok(Entry::Records(_)) => return Err(wrong("it is not a reference").into()),
            Err(reason) => return Err(wrong(&reason).into()),
        }
    }
    if found.len() != count as usize {
        let text = format!("{} batches are staged instead of {count}", found.len());
        return Err(damaged(Table::StagedIndex, &first, &text).into());
    }
    Ok(found)
}

fn check_size(staged: u64, parts: &[Part], limits: &Limits) -> Result<()> {
    let more: usize = parts.iter().flat_map(|part| &part.batches).map(|batch| batch.0.len()).sum();
    let bytes = staged + more as u64;
    if bytes <= limits.max_transaction_bytes {
        return Ok(());
    }
    let text = format!(
        "the transaction would have {bytes} bytes, more than max_transaction_bytes = {}; abort it \
         and commit more often",
        limits.max_transaction_bytes
    );
    Err(Error::new(ErrorKind::CapacityExceeded, text).with_bound(
        "max_transaction_bytes",
        bytes,
        limits.max_transaction_bytes,
    ))
}

/// Where the records of a transaction went: one range for each partition, as they follow.
#[derive(Default)]
struct Ranges(Vec<Placed>);

impl Ranges {
    fn add(&mut self, topic: u32, partition: u32, first_offset: u64, count: u64) {
        let known = self.0.iter_mut().find(|r| (r.topic, r.partition) == (topic, partition));
        match known {
            Some(range) => range.count += count,
            None => self.0.push(Placed { topic, partition, first_offset, count }),
        }
    }
}

/// Checks what is used as a key.
pub(super) fn check_id(what: &str, id: &str) -> Result<()> {
    if (1..=MAX_ID_BYTES).contains(&id.len()) && !id.contains('\0') {
        return Ok(());
    }
    let text = format!("a {what} has 1 to {MAX_ID_BYTES} bytes without a zero, not {:?}", id);
    Err(Error::new(ErrorKind::InvalidArgument, text))
}

fn unknown(id: &str) -> Error {
    let text = format!(
        "the transactional id {id:?} is not known (any more: silent ones expire); call \
         init_transactions"
    );
    Error::new(ErrorKind::InvalidTransactionState, text)
}

fn too_many_batches() -> Error {
    Error::new(ErrorKind::CapacityExceeded, "a transaction has too many batches; abort it")
}

/// What a transaction is told that was open for too long.
pub(super) fn timed_out() -> Error {
    Error::new(
        ErrorKind::TransactionTimedOut,
        "the transaction was open for longer than its timeout: it was aborted, and its producer \
         fenced. Call init_transactions and do it again, with a longer timeout if it needs one",
    )
}
