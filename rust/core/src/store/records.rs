//! Decision records: one owner writes them, fenced by its epoch; a record is the one commit point.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::chunks::{self, ChunkKey};
use super::layout::{Database, Head, MAX_NOTE_BYTES, MAX_NOTE_NAME_BYTES, Tally};
use super::local::{MANIFEST_COMMITS, Snapshot, Store};
use super::values::{
    Problem, check_length, delete_parts, put_parts, read_head, read_parts, refused,
};
use crate::environment::corrupt;
use crate::environment::lmdb::{Failure, Read, Transaction};
use crate::environment::value::open_value;
use crate::rows::Schema;
use crate::snapshot::Chain;
use crate::{Error, ErrorKind, Result};

/// Checkpoint ids are reserved durably in blocks of so many: one small commit a block.
const ID_BLOCK: u64 = 1000;

/// Where decision records lie, with the small notes beside them.
///
/// One owner writes. Opening as owner raises the job epoch durably; every later write of an older
/// owner finds the newer epoch and is `Fenced`. A record is durable whole or not at all: it is what
/// makes a checkpoint complete, and nothing else does.
pub trait RecordStore {
    /// The epoch that this process owns: raised durably by `open` (0 when read-only).
    fn job_epoch(&self) -> u64;

    /// `Fenced` if a newer epoch exists.
    fn check_epoch(&self) -> Result<()>;

    /// Never hands out the same number twice, also across crashes (ids of aborted checkpoints are
    /// not reused; allocated in durable blocks).
    fn allocate_checkpoint_id(&self) -> Result<u64>;

    /// The only commit point. `Fenced` if a newer epoch exists. After a failed sync: poisoned.
    ///
    /// In one transaction, locally: 1. put the chunks; 2. drop what is superseded; 3. put the record;
    /// 4. write the head; 5. sync. Before the end of 5 nothing of it is visible, after it all is.
    ///
    /// # Errors
    /// `InvalidArgument` if the record exists already, or a chunk with other bytes,
    /// `CapacityExceeded` for a value over 1 GiB, `StoreFull`, `Fenced`, `StorePoisoned`, `Io`.
    /// Nothing was written then; after `StoreFull` of the disk and `Io` the outcome is known only
    /// when the store is opened again.
    fn commit(&self, commit: &Commit<'_>) -> Result<CommitStats>;

    /// Drops records and chunks without a new decision (savepoint removal, start-up collection).
    fn collect(&self, drop_records: &[u64], drop_chunks: &[ChunkKey]) -> Result<()>;

    /// All decision records, ascending; a damaged one is reported in place.
    fn records(&self) -> Result<Vec<std::result::Result<CheckpointRecord, Damage>>>;

    /// A small durable note outside checkpoints (a sink's applied marker). Fenced like a commit.
    ///
    /// # Errors
    /// `InvalidArgument` for a name of 0 or more than 400 bytes, `CapacityExceeded` for a value over
    /// 1 MiB, else as `commit`.
    fn put_note(&self, name: &str, value: &[u8]) -> Result<()>;

    /// The note of this name, if there is one.
    fn note(&self, name: &str) -> Result<Option<Vec<u8>>>;
}

impl RecordStore for Store {
    fn job_epoch(&self) -> u64 {
        self.owner.as_ref().map_or(0, |owner| owner.job_epoch)
    }

    fn check_epoch(&self) -> Result<()> {
        let environment = self.environment()?;
        match &self.owner {
            None => Ok(()),
            Some(owner) => owner.check(&read_head(&environment.read()?)?, &self.directory),
        }
    }

    fn allocate_checkpoint_id(&self) -> Result<u64> {
        let mut writer = self.writer()?;
        if writer.ids.is_empty() {
            writer.ids = self.write(&mut writer, |_, head| reserve_ids(head))?;
        }
        let id = writer.ids.next().ok_or_else(ids_exhausted)?;
        crate::crash_point!("ckpt.id.post_alloc");
        Ok(id)
    }

    fn commit(&self, commit: &Commit<'_>) -> Result<CommitStats> {
        let start = Instant::now();
        chunks::check(commit.chunks)?;
        if commit.record.id == 0 {
            let text = "checkpoint ids start at 1; use allocate_checkpoint_id";
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        let mut writer = self.writer()?;
        let mut record = std::mem::take(&mut writer.record);
        commit.record.encode(&mut record)?;
        check_length("the checkpoint record", record.len())?;
        let needs_ids = writer.ids.is_empty();
        let more_ids = self.write(&mut writer, |txn, head| {
            for (key, bytes) in commit.chunks {
                chunks::put(txn, *key, bytes)?;
            }
            crate::crash_point!("snap.state.pre_commit");
            delete(txn, head, commit.drop_records, commit.drop_chunks)?;
            let id = commit.record.id;
            head.records.insert(id, put(txn, id, &record)?.sum);
            head.next_checkpoint_id = head.next_checkpoint_id.max(id.saturating_add(1));
            // Here they cost no sync of their own, for which the next checkpoint would wait.
            let more_ids = needs_ids.then(|| reserve_ids(head).ok()).flatten();
            crate::crash_point!("decide.pre_sync");
            Ok(more_ids)
        })?;
        if let Some(ids) = more_ids {
            writer.ids = ids;
        }
        crate::crash_point!("decide.post");
        writer.commits += 1;
        if writer.commits % MANIFEST_COMMITS == 0 {
            // The decision stands; a manifest that could not be raised is still a lower bound.
            let _ = self.raise_manifest();
        }
        let record_bytes = record.len();
        if is_worth_keeping(&record) {
            writer.record = record;
        }
        let chunk_bytes: usize = commit.chunks.iter().map(|(_, bytes)| bytes.len()).sum();
        Ok(CommitStats {
            bytes_written: (chunk_bytes + record_bytes) as u64,
            commit_s: start.elapsed().as_secs_f64(),
        })
    }

    fn collect(&self, drop_records: &[u64], drop_chunks: &[ChunkKey]) -> Result<()> {
        let mut writer = self.writer()?;
        self.write(&mut writer, |txn, head| delete(txn, head, drop_records, drop_chunks))
    }

    fn records(&self) -> Result<Vec<std::result::Result<CheckpointRecord, Damage>>> {
        self.snapshot()?.records()
    }

    fn put_note(&self, name: &str, value: &[u8]) -> Result<()> {
        check_note_name(name)?;
        if value.len() > MAX_NOTE_BYTES {
            return Err(Error::new(
                ErrorKind::CapacityExceeded,
                format!(
                    "the note {name:?} has {} bytes, but a note may have {MAX_NOTE_BYTES}; keep \
                     larger values in a checkpoint",
                    value.len()
                ),
            )
            .with_bound(None, value.len() as u64, MAX_NOTE_BYTES as u64));
        }
        let mut writer = self.writer()?;
        self.write(&mut writer, |txn, head| {
            txn.put(Database::Notes, name.as_bytes(), value, 1)?;
            head.notes = Tally::default();
            for entry in txn.entries(Database::Notes)? {
                head.notes.add(entry?.1);
            }
            Ok(())
        })
    }

    fn note(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.snapshot()?.note(name)
    }
}

/// One transaction: chunks and a decision record in, what is no longer needed out.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Commit<'a> {
    pub record: &'a CheckpointRecord,
    pub chunks: &'a [(ChunkKey, Vec<u8>)],
    pub drop_records: &'a [u64],
    pub drop_chunks: &'a [ChunkKey],
}

/// What a commit cost.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct CommitStats {
    pub bytes_written: u64,
    pub commit_s: f64,
}

/// A record that cannot be read: which, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Damage {
    pub checkpoint: Option<u64>,
    pub reason: String,
}

impl Snapshot<'_> {
    /// See `RecordStore::records`.
    pub fn records(&self) -> Result<Vec<std::result::Result<CheckpointRecord, Damage>>> {
        read_records(&self.txn)
    }

    /// See `RecordStore::note`.
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>> {
        check_note_name(name)?;
        let Some(value) = self.txn.get(Database::Notes, name.as_bytes())? else { return Ok(None) };
        match open_value(Database::Notes, name.as_bytes(), value) {
            Ok((payload, _)) => Ok(Some(payload.to_vec())),
            Err(reason) => Err(corrupt(format!(
                "{}: the note {name:?} is damaged: {reason}",
                self.directory.display()
            ))),
        }
    }
}

impl CheckpointRecord {
    /// Into a buffer that had another one.
    pub(super) fn encode(&self, buffer: &mut Vec<u8>) -> Result<()> {
        buffer.clear();
        rmp_serde::encode::write(buffer, self).map_err(|error| {
            let text = format!("cannot encode the checkpoint record: {error}");
            Error::new(ErrorKind::InvalidArgument, text)
        })
    }

    pub(super) fn decode(payload: &[u8]) -> std::result::Result<Self, String> {
        rmp_serde::from_slice(payload).map_err(|error| error.to_string())
    }
}

/// Whether memory is kept for what comes next: not where it is much more than what was in it.
pub(crate) fn is_worth_keeping(buffer: &Vec<u8>) -> bool {
    buffer.capacity() <= 4 * buffer.len().max(1 << 20)
}

/// Puts a record that must not exist yet; returns its digest.
fn put(txn: &mut Transaction<'_>, id: u64, record: &[u8]) -> std::result::Result<Tally, Failure> {
    let name = |part| record_key(id, part);
    if txn.get(Database::Records, &name(0))?.is_some() {
        let why = "exists already; use a new checkpoint id";
        return Err(refused(&format!("checkpoint {id}"), why));
    }
    put_parts(txn, Database::Records, record, name)
}

/// Deletes records and chunks with all their parts; those that are gone already are no error.
fn delete(
    txn: &mut Transaction<'_>,
    head: &mut Head,
    records: &[u64],
    chunks: &[ChunkKey],
) -> std::result::Result<(), Failure> {
    if records.is_empty() && chunks.is_empty() {
        return Ok(());
    }
    crate::crash_point!("gc.pre_delete");
    for id in records {
        delete_parts(txn, Database::Records, |part| record_key(*id, part))?;
        head.records.remove(id);
    }
    chunks::delete(txn, chunks)
}

/// Reads the records that the head names, and reports what is stored besides them.
fn read_records(txn: &Read<'_>) -> Result<Vec<std::result::Result<CheckpointRecord, Damage>>> {
    let head = read_head(txn)?;
    let mut digests: BTreeMap<u64, Tally> = BTreeMap::new();
    let mut strays = Vec::new();
    for entry in txn.entries(Database::Records)? {
        let (key, value) = entry?;
        match parse_record_key(key) {
            Some((id, _)) if head.records.contains_key(&id) => {
                digests.entry(id).or_default().add(value);
            }
            _ => strays.push(Err(Damage {
                checkpoint: None,
                reason: format!("a stored record with the key {key:02x?} is that of no checkpoint"),
            })),
        }
    }
    let mut records = Vec::new();
    for (&id, &expected) in &head.records {
        let record = match read_parts(txn, Database::Records, |part| record_key(id, part)) {
            Ok(whole) => CheckpointRecord::decode(whole.bytes()),
            Err(Problem::Damaged(reason)) => Err(reason),
            Err(Problem::Missing) => Err("it is missing".to_owned()),
            Err(Problem::Other(error)) => return Err(error),
        };
        let found = digests.get(&id).map_or(0, |digest| digest.sum);
        let record = record.and_then(|record| match record.id {
            _ if found != expected => {
                Err(format!("it is another one: its digest is {found:016x}, not {expected:016x}"))
            }
            said if said != id => Err(format!("it says that it is checkpoint {said}")),
            _ => Ok(record),
        });
        records.push(record.map_err(|reason| Damage {
            checkpoint: Some(id),
            reason: format!("the record of checkpoint {id}: {reason}"),
        }));
    }
    records.extend(strays);
    Ok(records)
}

fn ids_exhausted() -> Error {
    Error::new(ErrorKind::CapacityExceeded, "no checkpoint ids are left")
}

/// Reserves the next block of checkpoint ids.
pub(super) fn reserve_ids(head: &mut Head) -> std::result::Result<std::ops::Range<u64>, Failure> {
    let start = head.next_checkpoint_id;
    head.next_checkpoint_id = start.checked_add(ID_BLOCK).ok_or_else(ids_exhausted)?;
    Ok(start..head.next_checkpoint_id)
}

fn check_note_name(name: &str) -> Result<()> {
    if (1..=MAX_NOTE_NAME_BYTES).contains(&name.len()) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!("a note's name has 1 to {MAX_NOTE_NAME_BYTES} bytes, not {}", name.len()),
    ))
}

/// Key of a part of a record.
pub(super) fn record_key(checkpoint: u64, part: u32) -> [u8; 12] {
    let mut key = [0; 12];
    let (id, number) = key.split_at_mut(8);
    id.copy_from_slice(&checkpoint.to_be_bytes());
    number.copy_from_slice(&part.to_be_bytes());
    key
}

/// Checkpoint and part of a record's key.
pub(super) fn parse_record_key(key: &[u8]) -> Option<(u64, u32)> {
    let (id, part) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*id), u32::from_be_bytes(part.try_into().ok()?)))
}

/// One table at a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TableManifest {
    pub id: u32,
    pub name: String,
    pub schema: Schema,
    pub rows: u64,
    pub chain: Chain,
    /// Where the rotation of bases stands: next key group, rows of credit.
    pub next_base_group: u16,
    pub base_credit_rows: u64,
}

/// The decision record: the one thing whose presence makes a checkpoint complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CheckpointRecord {
    pub id: u64,
    pub job_epoch: u64,
    /// Changes when a job resumes on purpose from something else than its newest checkpoint.
    pub lineage: u64,
    pub created_unix_ms: u64,
    /// A savepoint's name; savepoints are never collected.
    pub savepoint: Option<String>,
    pub tables: Vec<TableManifest>,
    /// Source positions, operators' own bytes, codec names: anything small, by name.
    #[serde(with = "serde_bytes_map")]
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// What each sink prepared, by sink id: applied after the decision, idempotently.
    #[serde(with = "serde_bytes_map")]
    pub staged: BTreeMap<String, Vec<u8>>,
}

/// Byte values of a map as msgpack `bin`, not as arrays of numbers.
mod serde_bytes_map {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer, ser::SerializeMap};

    struct Raw<'a>(&'a [u8]);
    impl serde::Serialize for Raw<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(self.0)
        }
    }

    struct Buf(Vec<u8>);
    impl<'de> Deserialize<'de> for Buf {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl serde::de::Visitor<'_> for Visitor {
                type Value = Buf;
                fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    formatter.write_str("bytes")
                }
                fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Buf, E> {
                    Ok(Buf(bytes.to_vec()))
                }
                fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Buf, E> {
                    Ok(Buf(bytes))
                }
            }
            deserializer.deserialize_byte_buf(Visitor)
        }
    }

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<String, Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(Some(map.len()))?;
        for (name, bytes) in map {
            out.serialize_entry(name, &Raw(bytes))?;
        }
        out.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, Vec<u8>>, D::Error> {
        let map = BTreeMap::<String, Buf>::deserialize(deserializer)?;
        Ok(map.into_iter().map(|(name, bytes)| (name, bytes.0)).collect())
    }
}
