//! Appending records, outside and inside of transactions.

use std::collections::BTreeMap;

use super::Limits;
use super::batch::{Entry, Reference, encode_reference};
use super::layout::{Partition, Placed, Producer, Table, in_partition_key};
use super::request::{Answer, Append, Part};
use super::view::{Step, View, Work, damaged};
use super::window::{self, Claim, fenced};
use crate::sequence::Verdict;
use crate::{Error, ErrorKind, Result};

/// Appends records outside of a transaction: everything is judged before anything is written.
pub(super) fn append(work: &mut Work<'_, '_>, request: &Append, limits: &Limits) -> Step<Answer> {
    if let Some((id, epoch)) = request.producer {
        check_producer(work, id, epoch)?;
    }
    let mut heads = Heads::default();
    let mut windows: BTreeMap<(u32, u32), Vec<u8>> = BTreeMap::new();
    let mut answers = Vec::with_capacity(request.parts.len());
    let mut accepted = Vec::with_capacity(request.parts.len());
    for part in &request.parts {
        let place = (part.topic, part.partition);
        let head = heads.get(work, part)?;
        let placed = placed(part, head.end);
        let Some((id, epoch)) = request.producer else {
            head.end += part.records;
            answers.push((placed, false));
            accepted.push((part, placed.first_offset));
            continue;
        };
        let position = head.end;
        let claim = Claim {
            id,
            epoch,
            first_sequence: part.first_sequence,
            records: part.records,
            position,
        };
        let key = in_partition_key(part.topic, part.partition, id as u64);
        let judged = match windows.get(&place) {
            Some(entry) => {
                window::judge(Some(entry), &claim, limits.producer_expiry_ms, request.now_ms)?
            }
            None => {
                let entry = work.payload(Table::Windows, &key)?;
                if entry.is_none() {
                    check_room(head, limits)?;
                    head.producers += 1;
                }
                window::judge(entry, &claim, limits.producer_expiry_ms, request.now_ms)?
            }
        };
        match (judged.verdict, judged.entry) {
            (Verdict::Accept, Some(entry)) => {
                head.end += part.records;
                windows.insert(place, entry);
                answers.push((placed, false));
                accepted.push((part, position));
            }
            (Verdict::Duplicate { position: Some(original) }, _) => {
                answers.push((Placed { first_offset: original as u64, ..placed }, true));
            }
            (verdict, _) => {
                let what = format!("partition {} of topic number {}", part.partition, part.topic);
                return Err(window::refusal(verdict, &claim, &what).into());
            }
        }
    }

    for (part, base) in accepted {
        let head = heads.get(work, part)?;
        write_batches(work, part, base, head)?;
        crate::crash_point!("log.append.partial");
    }
    if let Some((id, _)) = request.producer {
        for ((topic, partition), entry) in windows {
            let key = in_partition_key(topic, partition, id as u64);
            work.put_bytes(Table::Windows, &key, &[], &entry)?;
        }
    }
    if answers.iter().any(|(_, duplicate)| !duplicate) {
        heads.put(work)?;
    }
    Ok(Answer::Appended(answers))
}

/// Where a part goes in a partition that ends there.
pub(super) fn placed(part: &Part, end: u64) -> Placed {
    Placed { topic: part.topic, partition: part.partition, first_offset: end, count: part.records }
}

/// The partitions that a request changes.
#[derive(Default)]
pub(super) struct Heads(BTreeMap<(u32, u32), Partition>);

impl Heads {
    pub(super) fn get(&mut self, work: &Work<'_, '_>, part: &Part) -> Step<&mut Partition> {
        self.at(work, part.topic, part.partition)
    }

    pub(super) fn at(
        &mut self,
        work: &Work<'_, '_>,
        topic: u32,
        partition: u32,
    ) -> Step<&mut Partition> {
        use std::collections::btree_map::Entry;

        match self.0.entry((topic, partition)) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => Ok(entry.insert(work.partition(topic, partition)?)),
        }
    }

    pub(super) fn put(&self, work: &mut Work<'_, '_>) -> Step<()> {
        for ((topic, partition), head) in &self.0 {
            work.put_partition(*topic, *partition, head)?;
        }
        Ok(())
    }
}

/// Writes the batches of a part from offset `base` on; its offsets were counted into `head` before.
pub(super) fn write_batches(
    work: &mut Work<'_, '_>,
    part: &Part,
    base: u64,
    head: &mut Partition,
) -> Step<()> {
    let mut base = base;
    for batch in &part.batches {
        let summary = summary(&batch.0)?;
        let key = in_partition_key(part.topic, part.partition, base);
        work.put_bytes(Table::Batches, &key, &[], &batch.0)?;
        count(head, &summary, batch.0.len() as u64);
        base += u64::from(summary.records);
    }
    Ok(())
}

/// Writes a reference to a staged batch at offset `base`.
pub(super) fn write_reference(
    work: &mut Work<'_, '_>,
    (topic, partition): (u32, u32),
    base: u64,
    staged: &(super::batch::Summary, Reference),
    head: &mut Partition,
) -> Step<()> {
    let (summary, reference) = staged;
    let key = in_partition_key(topic, partition, base);
    work.put_bytes(Table::Batches, &key, &[], &encode_reference(summary, reference))?;
    count(head, summary, reference.bytes);
    Ok(())
}

pub(super) fn count(head: &mut Partition, summary: &super::batch::Summary, bytes: u64) {
    head.batches += 1;
    head.records += u64::from(summary.records);
    head.bytes += bytes;
    let newest = head.max_timestamp_ms.unwrap_or(i64::MIN);
    head.max_timestamp_ms = Some(newest.max(summary.max_timestamp_ms));
}

/// What an encoded batch says of itself.
pub(super) fn summary(batch: &[u8]) -> Result<super::batch::Summary> {
    match Entry::parse(batch) {
        Ok(Entry::Records(batch)) => Ok(batch.summary()),
        Ok(Entry::Reference(..)) => Err(damaged(Table::Batches, &[], "it is not a batch")),
        Err(reason) => Err(damaged(Table::Batches, &[], &reason)),
    }
}

/// Refuses a transactional producer of an older epoch, or one that is in a transaction (S16).
fn check_producer(work: &Work<'_, '_>, id: i64, epoch: i32) -> Step<()> {
    let Some(transactional_id) = work.payload(Table::ProducerIds, &id.to_be_bytes())? else {
        return Ok(());
    };
    let Some(producer) = work.value::<Producer>(Table::Producers, transactional_id)? else {
        return Ok(());
    };
    if (producer.id, producer.epoch) != (id, epoch) {
        return Err(fenced(id, epoch, i64::from(producer.epoch)).into());
    }
    if producer.open.is_some() {
        let text = format!(
            "producer {id} is in a transaction: its records belong into it; commit or abort first"
        );
        return Err(Error::new(ErrorKind::InvalidTransactionState, text).into());
    }
    Ok(())
}

fn check_room(head: &Partition, limits: &Limits) -> Result<()> {
    if head.producers < limits.max_producers {
        return Ok(());
    }
    let text = format!(
        "{} producers are remembered in this partition, as many as max_producers allows; raise \
         it, or let silent ones expire (producer_expiry_ms, maintain)",
        head.producers
    );
    Err(Error::new(ErrorKind::CapacityExceeded, text).with_bound(
        "max_producers",
        head.producers + 1,
        limits.max_producers,
    ))
}
