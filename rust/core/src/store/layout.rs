//! Keys and records in the store; the file format is drawn here.
//!
//! ```text
//! state/                       0700
//! ├── manifest.json            0600  who this is, and lower bounds (see `manifest`)
//! ├── owner.lock               0600  flock; holds the owner's process id (see `lock`)
//! └── data/                    0700
//!     ├── data.mdb             0600  the LMDB environment, four named databases:
//!     │     meta      "head"                                        -> Head
//!     │     records   checkpoint u64 | part u32                     -> CheckpointRecord
//!     │     chunks    table u32 | checkpoint u64 | sequence u32 | part u32 -> an encoded chunk
//!     │     notes     name, 1 to 400 bytes                          -> bytes, up to 1 MiB
//!     └── lock.mdb             0600  LMDB's reader table and writer lock
//! ```
//!
//! Numbers in keys are big-endian, so that they sort as numbers. Each value is sealed, and long ones
//! are split, as `environment::value` says.
//!
//! `Head` and `CheckpointRecord` are msgpack arrays in the order of their fields; later formats
//! append fields. The head is rewritten in every transaction and names it, the records and the sum
//! of the notes: a page or sector that is valid by itself but older than the rest is found.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::environment::lmdb;
use crate::rows::Schema;
use crate::snapshot::Chain;
use crate::{Error, ErrorKind, Result};

/// The newest format of head, records and keys that this version writes and reads.
pub(super) const FORMAT_VERSION: u32 = 1;

/// Longest chunk or record, in all its parts.
pub(super) const MAX_VALUE_BYTES: usize = 1 << 30;

/// Longest note.
pub(super) const MAX_NOTE_BYTES: usize = 1 << 20;

/// Longest name of a note (LMDB's keys end at 511 bytes).
pub(super) const MAX_NOTE_NAME_BYTES: usize = 400;

/// The one key of the database `meta`.
pub(super) const HEAD_KEY: &[u8] = b"head";

/// The named databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Database {
    Meta,
    Records,
    Chunks,
    Notes,
}

impl lmdb::Database for Database {
    const ALL: &'static [Self] = &[Self::Meta, Self::Records, Self::Chunks, Self::Notes];

    fn index(self) -> usize {
        self as usize
    }

    fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Records => "records",
            Self::Chunks => "chunks",
            Self::Notes => "notes",
        }
    }
}

/// What changes with every transaction, in one small value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) format: u32,
    /// 32 hex digits, as in the manifest.
    pub(super) store_id: String,
    pub(super) job: String,
    pub(super) key_groups: u16,
    /// The newest epoch: whoever holds an older one is fenced.
    pub(super) job_epoch: u64,
    /// No checkpoint id from here on was ever handed out.
    pub(super) next_checkpoint_id: u64,
    /// The LMDB transaction that wrote this head.
    pub(super) transaction: u64,
    /// Each record's id and digest: which checkpoints are complete.
    pub(super) records: BTreeMap<u64, u64>,
    pub(super) notes: Tally,
}

/// Number of values and the wrapping sum of their checksums. A sector that holds an old but valid
/// value passes that value's own checksum, but not this one. That of one record's parts is its
/// digest; the sum over all notes is in the head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    pub(super) count: u64,
    pub(super) sum: u64,
}

impl Tally {
    /// Counts a stored value in, by the checksum at its end.
    pub(super) fn add(&mut self, value: &[u8]) {
        let checksum = value.last_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        self.count += 1;
        self.sum = self.sum.wrapping_add(checksum);
    }
}

impl Head {
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        encode(self, "head")
    }

    pub(super) fn decode(payload: &[u8]) -> std::result::Result<Self, String> {
        rmp_serde::from_slice(payload).map_err(|error| error.to_string())
    }
}

impl CheckpointRecord {
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        encode(self, "checkpoint record")
    }

    pub(super) fn decode(payload: &[u8]) -> std::result::Result<Self, String> {
        rmp_serde::from_slice(payload).map_err(|error| error.to_string())
    }
}

fn encode<T: Serialize>(value: &T, what: &str) -> Result<Vec<u8>> {
    rmp_serde::to_vec(value).map_err(|error| {
        Error::new(ErrorKind::InvalidArgument, format!("cannot encode the {what}: {error}"))
    })
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

/// Key of a part of a chunk.
pub(super) fn chunk_key(chunk: ChunkKey, part: u32) -> [u8; 20] {
    let mut key = [0; 20];
    let (table, rest) = key.split_at_mut(4);
    let (checkpoint, rest) = rest.split_at_mut(8);
    let (sequence, number) = rest.split_at_mut(4);
    table.copy_from_slice(&chunk.table.to_be_bytes());
    checkpoint.copy_from_slice(&chunk.checkpoint.to_be_bytes());
    sequence.copy_from_slice(&chunk.sequence.to_be_bytes());
    number.copy_from_slice(&part.to_be_bytes());
    key
}

/// Chunk and part of a chunk's key.
pub(super) fn parse_chunk_key(key: &[u8]) -> Option<(ChunkKey, u32)> {
    let (table, rest) = key.split_first_chunk::<4>()?;
    let (checkpoint, rest) = rest.split_first_chunk::<8>()?;
    let (sequence, part) = rest.split_first_chunk::<4>()?;
    let chunk = ChunkKey {
        table: u32::from_be_bytes(*table),
        checkpoint: u64::from_be_bytes(*checkpoint),
        sequence: u32::from_be_bytes(*sequence),
    };
    Some((chunk, u32::from_be_bytes(part.try_into().ok()?)))
}

/// Where a chunk lies: table, checkpoint (the last one it covers), number within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub struct ChunkKey {
    pub table: u32,
    pub checkpoint: u64,
    pub sequence: u32,
}

impl std::fmt::Display for ChunkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { table, checkpoint, sequence } = self;
        write!(f, "chunk {sequence} of table {table} in checkpoint {checkpoint}")
    }
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
