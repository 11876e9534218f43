//! Values inside a transaction: checked, decoded, and written without leaving half a request.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::batch::{Batch, Entry, Reference, Summary};
use super::layout::{
    FORMAT_VERSION, HEAD_KEY, Head, Partition, Table, Topic, in_partition_key, parse_in_partition,
    partition_key, staged_key,
};
use crate::environment::corrupt;
use crate::environment::lmdb::{self, Entries, Failure, Read, Transaction};
use crate::environment::value::open_value;
use crate::{Detail, Error, ErrorKind, Result};

/// Outcome of a step inside a transaction.
pub(super) type Step<T> = std::result::Result<T, Failure>;

/// What can be read in a transaction of either kind.
pub(super) trait View {
    /// The stored value of a key.
    fn stored(&self, table: Table, key: &[u8]) -> Step<Option<&[u8]>>;

    /// Stored entries from a key on.
    fn stored_from(&self, table: Table, key: &[u8]) -> Step<Entries<'_>>;

    /// The stored entry of a key, or the last one before it.
    fn stored_at_or_before(&self, table: Table, key: &[u8]) -> Step<Option<lmdb::Entry<'_>>>;

    /// The checked payload of a key.
    fn payload(&self, table: Table, key: &[u8]) -> Step<Option<&[u8]>> {
        let Some(value) = self.stored(table, key)? else { return Ok(None) };
        open(table, key, value).map(Some)
    }

    /// The decoded value of a key.
    fn value<T: DeserializeOwned>(&self, table: Table, key: &[u8]) -> Step<Option<T>> {
        let Some(payload) = self.payload(table, key)? else { return Ok(None) };
        decode(table, key, payload).map(Some)
    }

    fn topic(&self, name: &str) -> Step<Topic> {
        let topic = self.value(Table::Topics, name.as_bytes())?;
        topic.ok_or_else(|| unknown_topic(name).into())
    }

    fn partition(&self, topic: u32, partition: u32) -> Step<Partition> {
        let found = self.value(Table::Partitions, &partition_key(topic, partition))?;
        found.ok_or_else(|| {
            let text = format!(
                "topic number {topic} has no partition {partition} (any more): it was deleted, or \
                 has fewer partitions; ask for its partitions again"
            );
            Error::new(ErrorKind::UnknownTopicOrPartition, text).into()
        })
    }

    /// Keys and checked payloads from `key` on, while the key begins with `prefix`.
    fn scan<'t>(
        &'t self,
        table: Table,
        key: &[u8],
        prefix: &[u8],
    ) -> Step<impl Iterator<Item = Step<lmdb::Entry<'t>>> + use<'t, Self>> {
        let prefix = prefix.to_vec();
        let entries = self.stored_from(table, key)?;
        let inside = entries.take_while(move |entry| match entry {
            Ok((key, _)) => key.starts_with(&prefix),
            Err(_) => true,
        });
        Ok(inside.map(move |entry| {
            let (key, value) = entry?;
            Ok((key, open(table, key, value)?))
        }))
    }

    /// The batch that holds `offset` of a partition, or the last one before it: its first offset.
    fn batch_before(&self, topic: u32, partition: u32, offset: u64) -> Step<Option<u64>> {
        let key = in_partition_key(topic, partition, offset);
        let found = self.stored_at_or_before(Table::Batches, &key)?;
        let found = found.and_then(|(key, _)| parse_in_partition(key));
        Ok(found.filter(|at| (at.0, at.1) == (topic, partition)).map(|(_, _, base)| base))
    }

    /// The batches of a partition from the one that begins at `base` on.
    fn batches<'t>(
        &'t self,
        topic: u32,
        partition: u32,
        base: u64,
    ) -> Step<impl Iterator<Item = Step<(u64, Entry<'t>)>> + use<'t, Self>> {
        let key = in_partition_key(topic, partition, base);
        let prefix = partition_key(topic, partition);
        Ok(self.scan(Table::Batches, &key, &prefix)?.map(|entry| {
            let (key, payload) = entry?;
            let base = parse_in_partition(key).map(|(_, _, base)| base);
            let parsed =
                Entry::parse(payload).map_err(|reason| damaged(Table::Batches, key, &reason));
            match base {
                Some(base) => Ok((base, parsed?)),
                None => Err(damaged(Table::Batches, key, "its key is too short").into()),
            }
        }))
    }

    /// The batch that a reference names.
    fn referred(&self, summary: &Summary, reference: &Reference) -> Step<Batch<'_>> {
        let key = staged_key(reference.producer, reference.epoch, reference.number);
        let payload = self
            .payload(Table::Staged, &key)?
            .ok_or_else(|| damaged(Table::Staged, &key, "it is missing"))?;
        match Entry::parse(payload).map_err(|reason| damaged(Table::Staged, &key, &reason))? {
            Entry::Records(batch) if batch.summary() == *summary => Ok(batch),
            _ => Err(damaged(Table::Staged, &key, "it is another batch").into()),
        }
    }

    /// The records of an entry, wherever they are.
    fn resolve<'t>(&'t self, entry: &Entry<'t>) -> Step<Batch<'t>> {
        match entry {
            Entry::Records(batch) => Ok(*batch),
            Entry::Reference(summary, reference) => self.referred(summary, reference),
        }
    }
}

impl View for Read<'_> {
    fn stored(&self, table: Table, key: &[u8]) -> Step<Option<&[u8]>> {
        Ok(Read::get(self, table, key)?)
    }

    fn stored_from(&self, table: Table, key: &[u8]) -> Step<Entries<'_>> {
        Ok(self.entries_from(table, key)?)
    }

    fn stored_at_or_before(&self, table: Table, key: &[u8]) -> Step<Option<lmdb::Entry<'_>>> {
        Ok(self.at_or_before(table, key)?)
    }
}

/// A write transaction under way. Requests of several producers share it, so each must check
/// everything before it writes anything: one that fails before its first write leaves the others
/// alone, one that fails after it takes the whole transaction with it (see `commit`).
pub(super) struct Work<'a, 'e> {
    txn: &'a mut Transaction<'e>,
    pub(super) head: Head,
    writes: u64,
}

impl<'a, 'e> Work<'a, 'e> {
    pub(super) fn begin(txn: &'a mut Transaction<'e>) -> Step<Self> {
        let head = head(txn.get(Table::Meta, HEAD_KEY)?)?;
        Ok(Self { txn, head, writes: 0 })
    }

    /// How often something was written.
    pub(super) fn writes(&self) -> u64 {
        self.writes
    }

    /// Seals what was written with a new head; writes nothing if nothing was.
    pub(super) fn finish(&mut self) -> Step<()> {
        if self.writes > 0 {
            self.head.format = FORMAT_VERSION;
            put_head(self.txn, &mut self.head)?;
        }
        Ok(())
    }

    pub(super) fn put<T: Serialize>(&mut self, table: Table, key: &[u8], value: &T) -> Step<()> {
        let payload = encode(value)?;
        self.put_bytes(table, key, &[], &payload)
    }

    /// Puts a payload that is two pieces.
    pub(super) fn put_bytes(
        &mut self,
        table: Table,
        key: &[u8],
        front: &[u8],
        back: &[u8],
    ) -> Step<()> {
        self.writes += 1;
        self.txn.put_joined(table, key, front, back, 1).map(|_| ())
    }

    pub(super) fn delete(&mut self, table: Table, key: &[u8]) -> Step<bool> {
        self.writes += 1;
        self.txn.delete(table, key)
    }

    pub(super) fn put_partition(
        &mut self,
        topic: u32,
        partition: u32,
        value: &Partition,
    ) -> Step<()> {
        self.put(Table::Partitions, &partition_key(topic, partition), value)
    }
}

impl View for Work<'_, '_> {
    fn stored(&self, table: Table, key: &[u8]) -> Step<Option<&[u8]>> {
        self.txn.get(table, key)
    }

    fn stored_from(&self, table: Table, key: &[u8]) -> Step<Entries<'_>> {
        self.txn.entries_from(table, key)
    }

    fn stored_at_or_before(&self, table: Table, key: &[u8]) -> Step<Option<lmdb::Entry<'_>>> {
        self.txn.at_or_before(table, key)
    }
}

/// Writes the head with the number of its transaction.
pub(super) fn put_head(txn: &mut Transaction<'_>, head: &mut Head) -> Step<()> {
    head.transaction = txn.transaction();
    txn.put(Table::Meta, HEAD_KEY, &encode(head)?, 1).map(|_| ())
}

/// Decodes the head.
pub(super) fn head(value: Option<&[u8]>) -> Result<Head> {
    let value = value.ok_or_else(|| damaged(Table::Meta, HEAD_KEY, "it is missing"))?;
    let payload = open_value(Table::Meta, HEAD_KEY, value);
    let payload = payload.map_err(|reason| damaged(Table::Meta, HEAD_KEY, &reason))?;
    let decoded = rmp_serde::from_slice(payload.0);
    decoded.map_err(|error| damaged(Table::Meta, HEAD_KEY, &error.to_string()))
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    rmp_serde::to_vec(value).map_err(|error| {
        Error::new(ErrorKind::InvalidArgument, format!("cannot encode a value: {error}"))
    })
}

pub(super) fn decode<T: DeserializeOwned>(table: Table, key: &[u8], payload: &[u8]) -> Step<T> {
    let decoded = rmp_serde::from_slice(payload);
    decoded.map_err(|error| damaged(table, key, &error.to_string()).into())
}

fn open<'t>(table: Table, key: &[u8], value: &'t [u8]) -> Step<&'t [u8]> {
    match open_value(table, key, value) {
        Ok((payload, _)) => Ok(payload),
        Err(reason) => Err(damaged(table, key, &reason).into()),
    }
}

/// A value of the log that cannot be what was written.
pub(super) fn damaged(table: Table, key: &[u8], reason: &str) -> Error {
    use crate::environment::lmdb::Database;

    corrupt(format!(
        "the log's entry {key:02x?} in {:?} is damaged: {reason}; restore a backup",
        table.name()
    ))
}

pub(super) fn unknown_topic(name: &str) -> Error {
    let text = format!("there is no topic {name:?}; create it first");
    Error::new(ErrorKind::UnknownTopicOrPartition, text)
        .with(Detail::Topic { topic: name.to_owned() })
}
