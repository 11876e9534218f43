//! The state backend: tables, chain and store joined.
//!
//! One thread works on the tables and cuts them; another one captures what that did not capture between
//! its batches, encodes, and commits. One checkpoint is under way at a time.

mod lineage;
mod pending;
mod recovery;
mod runs;
mod tables;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::environment::check_process;
use crate::sequence::{Deduplicator, DeduplicatorOptions};
use crate::snapshot::EncodeBuffers;
use crate::state::{ColumnType, KeyType, KeysBuf, Schema, Table};
use crate::store::{CheckpointRecord, Damage, RecordStore, Store, StoreOptions, StoreSize};
use crate::{Error, ErrorKind, Result};

use lineage::{Lineages, number_above};
use pending::Pending;
pub use pending::PendingCheckpoint;
use recovery::History;
use runs::Runs;
use tables::Tables;

/// How long a slice of a capture may hold up the thread that works on the tables.
const SLICE: Duration = Duration::from_micros(250);

/// Tables of this prefix belong to the backend itself.
const RESERVED_PREFIX: &str = "__";

/// How to open a backend.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct BackendOptions {
    pub store: StoreOptions,
    /// Complete checkpoints kept besides savepoints, at least 1 (default 2).
    pub retain: usize,
    /// What to restore.
    pub restore: Restore,
    /// Number of a lineage that begins: one that no other copy of the directory gets. Where the
    /// directory knows one as high, it is only by how much the new one is higher, up to a million.
    pub lineage: u64,
    /// Key groups to restore (all: `0..key_groups`).
    pub groups: std::ops::Range<u16>,
    /// Memory bound of each table.
    pub max_state_bytes: usize,
    pub chunk_bytes: usize,
}

/// Which checkpoint to start from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restore {
    /// The newest complete one; if it is damaged, the newest undamaged one (see `Recovery`).
    Newest,
    /// This one; damage is an error. Starts a new lineage, also if it is the newest: for good from
    /// `Backend::begin_lineage` or the first checkpoint on.
    Checkpoint(u64),
    /// None: empty tables (the records stay). Starts a new lineage if there are records, likewise.
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
    /// Bytes of the chunks that were read.
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

/// A table shared between the job and the thread that writes a checkpoint.
pub type SharedTable = Arc<Mutex<Table>>;

/// A deduplicator whose changes are part of every checkpoint.
pub type SharedDeduplicator = Arc<Mutex<Deduplicator>>;

/// See the module. Cheap to share (`Arc` inside); safe from several threads.
#[derive(Clone)]
pub struct Backend {
    inner: Arc<Inner>,
}

struct Inner {
    /// The process that opened it: one that is forked off has a copy and may touch nothing.
    pid: u32,
    directory: PathBuf,
    store_id: String,
    job_epoch: u64,
    key_groups: u16,
    /// May change until `choice` is durable.
    lineage: AtomicU64,
    retain: usize,
    chunk_bytes: usize,
    max_state_bytes: usize,
    recovery: Recovery,
    /// `None` after `close`.
    store: Mutex<Option<Arc<Store>>>,
    closed: AtomicBool,
    tables: Mutex<Tables>,
    history: Mutex<History>,
    /// The choice that begins the lineage, until it is durable.
    choice: Mutex<Option<Lineages>>,
    /// The runs that have begun, by job epoch.
    runs: Mutex<Runs>,
    /// The checkpoint under way.
    active: Mutex<Option<Arc<Pending>>>,
    /// True while a capture may be waiting for `poll`.
    capturing: AtomicBool,
    /// Slots that take about `SLICE`.
    slice_slots: AtomicUsize,
    buffers: Mutex<EncodeBuffers>,
    /// Memory of what sinks have staged before, for what they stage next.
    staging: Mutex<Vec<Vec<u8>>>,
    /// The last checkpoint dropped so much that its pages are worth a `Store::turn_over`.
    freed_much: AtomicBool,
}

impl Backend {
    /// Opens (or creates) a state directory and restores a checkpoint.
    ///
    /// # Errors
    /// As `Store::open`; `CheckpointNotFound` and `StoreCorrupt` for a checkpoint asked for by
    /// number; `StoreCorrupt` if there are records and none can be restored; `InvalidArgument`.
    pub fn open(directory: &Path, options: BackendOptions) -> Result<Self> {
        let start = Instant::now();
        if options.retain == 0 || options.chunk_bytes == 0 {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "retain is {} and chunk_bytes {}; both must be at least 1",
                    options.retain, options.chunk_bytes
                ),
            ));
        }
        let store = Store::open(directory, &options.store)?;
        let key_groups = store.key_groups();
        if options.groups.is_empty() || options.groups.end > key_groups {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "key groups {} to {} are not a range of the {key_groups} key groups",
                    options.groups.start, options.groups.end
                ),
            ));
        }
        let restored = recovery::restore(&store, &options, key_groups)?;
        let mut recovery = restored.recovery;
        recovery.duration_s = start.elapsed().as_secs_f64();
        Ok(Self {
            inner: Arc::new(Inner {
                pid: std::process::id(),
                directory: store.path(),
                store_id: store.id().to_owned(),
                job_epoch: store.job_epoch(),
                key_groups,
                lineage: AtomicU64::new(restored.lineage),
                retain: options.retain,
                chunk_bytes: options.chunk_bytes,
                max_state_bytes: options.max_state_bytes,
                recovery,
                store: Mutex::new(Some(Arc::new(store))),
                closed: AtomicBool::new(false),
                tables: Mutex::new(restored.tables),
                history: Mutex::new(restored.history),
                choice: Mutex::new(restored.choice),
                runs: Mutex::new(restored.runs),
                active: Mutex::new(None),
                capturing: AtomicBool::new(false),
                slice_slots: AtomicUsize::new(16 << 10),
                buffers: Mutex::default(),
                staging: Mutex::default(),
                freed_much: AtomicBool::new(false),
            }),
        })
    }

    /// The state directory.
    pub fn path(&self) -> PathBuf {
        self.inner.directory.clone()
    }

    /// Identity of the state directory: 32 hex digits. A copy or a backup of it has the same.
    pub fn store_id(&self) -> &str {
        &self.inner.store_id
    }

    /// Raised durably by each start.
    pub fn job_epoch(&self) -> u64 {
        self.inner.job_epoch
    }

    /// Number of key groups, fixed when the directory was created.
    pub fn key_groups(&self) -> u16 {
        self.inner.key_groups
    }

    /// The lineage that checkpoints of this run belong to.
    pub fn lineage(&self) -> u64 {
        self.inner.lineage.load(Ordering::SeqCst)
    }

    /// Gives a lineage that begins a number above another one, which was found outside, such as where
    /// the clock of a copy of the directory was ahead. False if no lineage begins, or one has begun.
    pub fn raise_lineage(&self, above: u64) -> bool {
        let mut choice = self.inner.choice.lock();
        let Some(lineages) = choice.take() else { return false };
        let lineage = number_above(above.max(self.lineage()), self.lineage());
        *choice = Some(lineages.renumbered(lineage));
        self.inner.lineage.store(lineage, Ordering::SeqCst);
        true
    }

    /// Makes the choice durable that opening made (`Restore::Checkpoint`, `Restore::Nothing`): from
    /// now on the job resumes in the new lineage. Does nothing if no lineage begins.
    pub fn begin_lineage(&self) -> Result<()> {
        let store = self.store()?;
        let mut choice = self.inner.choice.lock();
        if let Some(lineages) = choice.as_ref() {
            lineages.write(&*store)?;
            self.inner.history.lock().follow(lineages.clone());
            *choice = None;
            crate::crash_point!("lineage.begun");
        }
        Ok(())
    }

    /// Makes durable that a run begins in this job epoch, before it shows anywhere: `run` is an
    /// identity that no other run has, also not of a copy of the directory. So a later run knows by
    /// what it finds outside whether that is of this directory or of a copy.
    ///
    /// # Errors
    /// As `RecordStore::put_note`.
    pub fn begin_run(&self, run: &str) -> Result<()> {
        let store = self.store()?;
        let mut runs = self.inner.runs.lock();
        let begun = runs.with(self.inner.job_epoch, run);
        begun.write(&*store)?;
        *runs = begun;
        Ok(())
    }

    /// Job epoch and identity of the runs that have begun, as many as are kept: all of them from the
    /// first one on.
    pub fn runs(&self) -> Vec<(u64, String)> {
        self.inner.runs.lock().begun().to_vec()
    }

    /// The checkpoint that the job would resume from now, if it is sound.
    pub fn resumes_from(&self) -> Option<u64> {
        self.inner.history.lock().newest()
    }

    /// What opening found.
    pub fn recovery(&self) -> &Recovery {
        &self.inner.recovery
    }

    /// The table of this name, created if new; `SchemaMismatch` if it exists with another schema.
    pub fn table(&self, name: &str, schema: &Schema) -> Result<SharedTable> {
        if name.is_empty() || name.len() > 400 || name.starts_with(RESERVED_PREFIX) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "{name:?} cannot name a table: a name has 1 to 400 bytes and does not begin \
                     with {RESERVED_PREFIX:?}"
                ),
            ));
        }
        self.any_table(name, schema)
    }

    fn any_table(&self, name: &str, schema: &Schema) -> Result<SharedTable> {
        self.check_open()?;
        let inner = &self.inner;
        inner.tables.lock().get_or_create(name, schema, inner.key_groups, inner.max_state_bytes)
    }

    /// Names and schemas of all tables of the job, by name.
    pub fn tables(&self) -> Result<Vec<(String, Schema)>> {
        self.check_open()?;
        let tables = self.inner.tables.lock();
        Ok(tables
            .iter()
            .filter(|entry| !entry.name.starts_with(RESERVED_PREFIX))
            .map(|entry| (entry.name.clone(), entry.schema.clone()))
            .collect())
    }

    /// What every handle of something in the backend asks before it is used: work on a table of a
    /// closed backend, or in a child of the process, would be lost without a word.
    ///
    /// # Errors
    /// `Closed`, `StoreForked`.
    pub fn check_open(&self) -> Result<()> {
        self.inner.check_open()
    }

    /// Forgets a table from the next checkpoint on. One that was cut with it has it: so this waits
    /// until that is durable.
    ///
    /// # Errors
    /// `UnknownName`; `CheckpointState` while a checkpoint is neither committed nor aborted.
    pub fn drop_table(&self, name: &str) -> Result<()> {
        self.check_open()?;
        let active = self.inner.active.lock().clone();
        if let Some(active) = active {
            active.wait_until_settled()?;
        }
        if !name.starts_with(RESERVED_PREFIX) && self.inner.tables.lock().remove(name) {
            return Ok(());
        }
        let known: Vec<String> = self.tables()?.into_iter().map(|(name, _)| name).collect();
        Err(Error::new(ErrorKind::UnknownName, format!("no table {name:?}; there are {known:?}")))
    }

    /// A deduplicator kept in a table of its own; the same one for the same name.
    ///
    /// # Errors
    /// As `Deduplicator::new` and `Deduplicator::restore_entries`; `InvalidArgument` if it exists
    /// in this run with other settings.
    pub fn deduplicator(
        &self,
        name: &str,
        options: DeduplicatorOptions,
        now_s: f64,
    ) -> Result<SharedDeduplicator> {
        let table_name = format!("{RESERVED_PREFIX}dedupe__/{name}");
        let schema =
            Schema { key: KeyType::I64, columns: vec![("entry".to_owned(), ColumnType::Bytes)] };
        self.check_open()?;
        if let Some(known) = self.inner.tables.lock().deduplicator(&table_name) {
            if *known.lock().options() == options {
                return Ok(known);
            }
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("the deduplicator {name:?} exists with other settings"),
            ));
        }
        let table = self.any_table(&table_name, &schema)?;
        let mut deduplicator = Deduplicator::new(options)?;
        let rows = table.lock().scan(0..self.inner.key_groups);
        if let (KeysBuf::I64(ids), Some(crate::state::ColumnData::Bytes { offsets, data })) =
            (&rows.keys, rows.columns.first().map(|column| &column.data))
        {
            let entries = crate::state::Bytes { offsets, data };
            let entries = ids.iter().enumerate().map(|(row, id)| (*id, entries.get(row)));
            deduplicator.restore_entries(entries, now_s)?;
        }
        let shared = Arc::new(Mutex::new(deduplicator));
        self.inner.tables.lock().join(&table_name, Arc::clone(&shared));
        Ok(shared)
    }

    /// Lets an active capture go on for one slice: called between batches.
    #[inline]
    pub fn poll(&self) {
        if self.inner.capturing.load(Ordering::Relaxed) {
            self.capture_slice();
        }
    }

    #[cold]
    fn capture_slice(&self) {
        if self.inner.check_process().is_err() {
            return;
        }
        let Some(pending) = self.inner.active.lock().clone() else { return };
        if !pending.capture_slice(&self.inner.slice_slots) {
            self.inner.capturing.store(false, Ordering::Relaxed);
        }
    }

    /// Starts a checkpoint: allocates its id. Waits until the one before is durable.
    ///
    /// # Errors
    /// `CheckpointState` while one is open that was neither committed nor aborted, and errors of
    /// the store. An error of the checkpoint before is for those who wait for it.
    pub fn begin_checkpoint(&self, savepoint: Option<String>) -> Result<PendingCheckpoint> {
        self.check_open()?;
        self.begin_lineage()?;
        let before = self.inner.active.lock().clone();
        if let Some(before) = before {
            before.wait_until_settled()?;
        }
        let store = self.store()?;
        let id = store.allocate_checkpoint_id()?;
        let pending = Arc::new(Pending::new(id, savepoint));
        *self.inner.active.lock() = Some(Arc::clone(&pending));
        Ok(PendingCheckpoint::new(Arc::clone(&self.inner), pending))
    }

    /// All decision records, ascending; a damaged one is reported in place.
    pub fn checkpoints(&self) -> Result<Vec<std::result::Result<CheckpointRecord, Damage>>> {
        self.store()?.records()
    }

    /// Removes a savepoint or an old checkpoint (never the newest complete one).
    pub fn delete_checkpoint(&self, id: u64) -> Result<()> {
        let store = self.store()?;
        let mut history = self.inner.history.lock();
        let drop_chunks = history.without(id)?;
        store.collect(&[id], &drop_chunks)?;
        history.remove(id);
        Ok(())
    }

    /// See `Store::newest_job_epoch`.
    pub fn newest_job_epoch(&self) -> Result<u64> {
        self.store()?.newest_job_epoch()
    }

    /// `Fenced` if a newer epoch exists.
    pub fn check_epoch(&self) -> Result<()> {
        self.store()?.check_epoch()
    }

    /// See `Store::size`.
    pub fn size(&self) -> Result<StoreSize> {
        self.store()?.size()
    }

    /// See `Store::backup`.
    pub fn backup(&self, target: &Path) -> Result<()> {
        self.store()?.backup(target)
    }

    /// Waits for the writer and releases the directory; a checkpoint that was not committed is
    /// aborted. Closing twice is no error. In a forked child it does nothing: all of it, the thread
    /// that writes included, is the parent's.
    pub fn close(&self) -> Result<()> {
        if self.inner.check_process().is_err() {
            return Ok(());
        }
        let active = self.inner.active.lock().take();
        if let Some(pending) = active {
            pending.abort_if_open();
            // Its outcome is for those who wait for it.
            pending.wait_until_settled()?;
        }
        let store = self.inner.store.lock().take();
        self.inner.closed.store(true, Ordering::Release);
        *self.inner.tables.lock() = Tables::default();
        match store.map(Arc::try_unwrap) {
            None => Ok(()),
            Some(Ok(store)) => store.close(),
            // Somebody reads right now; the directory is released when that is over.
            Some(Err(_)) => Ok(()),
        }
    }

    fn store(&self) -> Result<Arc<Store>> {
        self.inner.store()
    }
}

impl Inner {
    fn store(&self) -> Result<Arc<Store>> {
        self.check_process()?;
        self.store.lock().clone().ok_or_else(|| self.closed())
    }

    fn check_open(&self) -> Result<()> {
        self.check_process()?;
        if self.closed.load(Ordering::Acquire) { Err(self.closed()) } else { Ok(()) }
    }

    /// Before any lock: another thread of the parent may have held it when this child was forked.
    fn check_process(&self) -> Result<()> {
        check_process(self.pid, &self.directory)
    }

    fn closed(&self) -> Error {
        Error::new(
            ErrorKind::Closed,
            format!("the state backend of {} was closed; open it again", self.directory.display()),
        )
    }
}
