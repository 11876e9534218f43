//! The durable home of chunks and decision records: one LMDB environment in a private directory.

mod layout;
mod lmdb;
mod lock;
mod manifest;
mod verify;

use std::path::{Path, PathBuf};

pub use layout::{CheckpointRecord, ChunkKey, TableManifest};
pub use verify::{VerifyReport, verify};

use crate::Result;

/// How to open a store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The job this directory belongs to; another name is refused.
    pub job: String,
    /// Number of key groups, fixed at creation.
    pub key_groups: u16,
    /// Address space reserved for the file (sparse), in bytes.
    pub map_size_bytes: usize,
    /// Create the store if the directory is missing or empty.
    pub create: bool,
    /// Only read: no owner lock, no new epoch.
    pub read_only: bool,
    /// Replace a running or paused owner: it is fenced by a new epoch.
    pub take_over: bool,
    /// Random identity for a store that is created now.
    pub store_id: u128,
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

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct StoreSize {
    /// Length of the data file.
    pub file_bytes: u64,
    /// Bytes of pages in use by chunks, records and the trees over them.
    pub used_bytes: u64,
}

/// A record that cannot be read: which, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Damage {
    pub checkpoint: Option<u64>,
    pub reason: String,
}

/// See the module.
pub struct Store;

#[allow(unused_variables, missing_docs)]
impl Store {
    pub fn open(directory: &Path, options: &StoreOptions) -> Result<Self> { todo!() }
    pub fn path(&self) -> PathBuf { todo!() }
    /// The epoch that this process owns: raised durably by `open` (0 when read-only).
    pub fn job_epoch(&self) -> u64 { todo!() }
    pub fn key_groups(&self) -> u16 { todo!() }
    /// All decision records, ascending; a damaged one is reported in place.
    pub fn records(&self) -> Result<Vec<std::result::Result<CheckpointRecord, Damage>>> { todo!() }
    /// Never hands out the same number twice, also across crashes (ids of aborted checkpoints are
    /// not reused; allocated in durable blocks).
    pub fn allocate_checkpoint_id(&self) -> Result<u64> { todo!() }
    /// The only commit point. `Fenced` if a newer epoch exists. After a failed sync: poisoned.
    pub fn commit(&self, commit: &Commit<'_>) -> Result<CommitStats> { todo!() }
    /// Drops records and chunks without a new decision (savepoint removal, start-up collection).
    pub fn collect(&self, drop_records: &[u64], drop_chunks: &[ChunkKey]) -> Result<()> { todo!() }
    /// Keys of all chunks present.
    pub fn chunk_keys(&self) -> Result<Vec<ChunkKey>> { todo!() }
    /// Hands the checked bytes of a chunk to `read` inside a short read transaction.
    pub fn read_chunk<R>(&self, key: ChunkKey, read: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> { todo!() }
    /// A small durable note outside checkpoints (a sink's applied marker). Fenced like a commit.
    pub fn put_note(&self, name: &str, value: &[u8]) -> Result<()> { todo!() }
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>> { todo!() }
    /// `Fenced` if a newer epoch exists.
    pub fn check_epoch(&self) -> Result<()> { todo!() }
    pub fn size(&self) -> Result<StoreSize> { todo!() }
    /// A consistent copy into a directory that does not exist yet, while running.
    pub fn backup(&self, target: &Path) -> Result<()> { todo!() }
    pub fn close(self) -> Result<()> { todo!() }
}
