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

pub(super) fn encode<T: Serialize>(value: &T, what: &str) -> Result<Vec<u8>> {
    rmp_serde::to_vec(value).map_err(|error| {
        Error::new(ErrorKind::InvalidArgument, format!("cannot encode the {what}: {error}"))
    })
}
