//! The state backend: tables, chain and store joined; a writer thread; recovery.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::Result;
use crate::state::{Schema, Table};
use crate::store::{CheckpointRecord, Damage, StoreOptions, StoreSize};

/// How to open a backend.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct BackendOptions {
    pub store: StoreOptions,
    /// Complete checkpoints kept besides savepoints, at least 1 (default 2).
    pub retain: usize,
    /// What to restore.
    pub restore: Restore,
    /// Key groups to restore (all: `0..key_groups`).
    pub groups: std::ops::Range<u16>,
    /// Memory bound of all tables together.
    pub max_state_bytes: usize,
    pub chunk_bytes: usize,
}

/// Which checkpoint to start from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restore {
    /// The newest complete one; if it is damaged, the newest undamaged one (see `Recovery`).
    Newest,
    /// This one; damage is an error. Starts a new lineage unless it is the newest.
    Checkpoint(u64),
    /// None: empty tables (the records stay).
    Nothing,
}

/// What opening found.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct Recovery {
    /// The record that state was restored from.
    pub restored: Option<CheckpointRecord>,
    /// Newer records that could be read although their state could not: the caller must replay
    /// to their positions with outputs suppressed, or prove that no sink applied them.
    pub decided_after: Vec<CheckpointRecord>,
    /// Damage found, newest first.
    pub damage: Vec<Damage>,
    pub rows: u64,
    pub bytes: u64,
    pub duration_s: f64,
}

/// What a checkpoint cost. Seconds are of the monotonic clock.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct CheckpointStats {
    pub id: u64,
    /// Rows captured: changed ones, and those of rebased key groups.
    pub delta_rows: u64,
    pub base_rows: u64,
    pub bytes_written: u64,
    /// Time that the calling thread was held: freeze, then capture slices between batches.
    pub freeze_s: f64,
    pub capture_s: f64,
    pub longest_pause_s: f64,
    /// From freeze to the decision being durable.
    pub durable_s: f64,
    pub encode_s: f64,
    pub commit_s: f64,
}

/// A table shared between the job and the writer thread.
pub type SharedTable = Arc<Mutex<Table>>;

/// See the module. Cheap to share (`Arc` inside); safe from several threads.
#[derive(Clone)]
pub struct Backend;

#[allow(unused_variables, missing_docs)]
impl Backend {
    pub fn open(directory: &Path, options: BackendOptions) -> Result<Self> {
        todo!()
    }
    pub fn path(&self) -> PathBuf {
        todo!()
    }
    pub fn job_epoch(&self) -> u64 {
        todo!()
    }
    pub fn key_groups(&self) -> u16 {
        todo!()
    }
    pub fn recovery(&self) -> Recovery {
        todo!()
    }
    /// The table of this name, created if new; `SchemaMismatch` if it exists with another schema.
    pub fn table(&self, name: &str, schema: &Schema) -> Result<SharedTable> {
        todo!()
    }
    /// Names and schemas of all tables.
    pub fn tables(&self) -> Vec<(String, Schema)> {
        todo!()
    }
    /// Forgets a table from the next checkpoint on.
    pub fn drop_table(&self, name: &str) -> Result<()> {
        todo!()
    }
    /// Lets an active capture of any table go on for one slice: called between batches.
    pub fn poll(&self) {
        todo!()
    }
    /// Starts a checkpoint: allocates its id. Waits until the one before is durable.
    pub fn begin_checkpoint(&self, savepoint: Option<String>) -> Result<PendingCheckpoint> {
        todo!()
    }
    pub fn checkpoints(&self) -> Result<Vec<std::result::Result<CheckpointRecord, Damage>>> {
        todo!()
    }
    /// Removes a savepoint or an old checkpoint (never the newest complete one).
    pub fn delete_checkpoint(&self, id: u64) -> Result<()> {
        todo!()
    }
    pub fn put_note(&self, name: &str, value: &[u8]) -> Result<()> {
        todo!()
    }
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>> {
        todo!()
    }
    pub fn check_epoch(&self) -> Result<()> {
        todo!()
    }
    pub fn size(&self) -> Result<StoreSize> {
        todo!()
    }
    pub fn backup(&self, target: &Path) -> Result<()> {
        todo!()
    }
    /// Waits for the writer and releases the directory.
    pub fn close(&self) -> Result<()> {
        todo!()
    }
}

/// A checkpoint under way: freeze, add, commit; then wait, or ask later.
#[derive(Clone)]
pub struct PendingCheckpoint;

#[allow(unused_variables, missing_docs)]
impl PendingCheckpoint {
    pub fn id(&self) -> u64 {
        todo!()
    }
    /// Freezes these tables (all when `None`) at one cut; a table frozen already is left alone.
    pub fn freeze(&self, tables: Option<&[&str]>) -> Result<()> {
        todo!()
    }
    pub fn put_blob(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        todo!()
    }
    /// What a sink prepared.
    pub fn stage(&self, sink: &str, bytes: Vec<u8>) -> Result<()> {
        todo!()
    }
    /// Freezes what is not frozen yet and hands everything to the writer; returns at once.
    pub fn commit(&self, created_unix_ms: u64) -> Result<()> {
        todo!()
    }
    pub fn abort(&self) -> Result<()> {
        todo!()
    }
    /// `None` when the timeout passed first. An error of the writer is returned to every waiter.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Option<CheckpointStats>> {
        todo!()
    }
    pub fn is_done(&self) -> bool {
        todo!()
    }
}

/// Silences the unused import while the module is a sketch.
#[allow(dead_code)]
type Blobs = BTreeMap<String, Vec<u8>>;
