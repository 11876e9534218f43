//! A checkpoint under way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{CheckpointStats, Inner, SLICE, SharedTable, writer};
use crate::snapshot::Rotation;
use crate::{Error, ErrorKind, Result};

/// A table that was cut for this checkpoint.
#[derive(Clone)]
pub(super) struct FrozenTable {
    pub(super) id: u32,
    pub(super) table: SharedTable,
    /// Live rows at the cut.
    pub(super) rows: u64,
    /// The rotation of bases after this checkpoint.
    pub(super) rotation: Rotation,
    /// Nothing changed, so nothing was cut: the chain is carried on.
    pub(super) unchanged: bool,
}

/// What belongs to the checkpoint so far.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) frozen: Vec<FrozenTable>,
    pub(super) blobs: BTreeMap<String, Vec<u8>>,
    pub(super) staged: BTreeMap<String, Vec<u8>>,
    pub(super) stats: CheckpointStats,
    pub(super) frozen_at: Option<Instant>,
    /// All tables were cut at once: one that is made after that is not part of the checkpoint.
    is_cut: bool,
    phase: Phase,
}

#[derive(Default)]
enum Phase {
    /// Things may be added.
    #[default]
    Open,
    /// The writer has it.
    Committing,
    Settled(Result<CheckpointStats>),
}

pub(super) struct Pending {
    /// The process that began it: in a forked child its locks may be held for ever.
    pid: u32,
    pub(super) id: u64,
    pub(super) savepoint: Option<String>,
    pub(super) draft: Mutex<Draft>,
    settled: Condvar,
}

impl Pending {
    pub(super) fn new(id: u64, savepoint: Option<String>) -> Self {
        let pid = std::process::id();
        Self { pid, id, savepoint, draft: Mutex::default(), settled: Condvar::new() }
    }

    fn is_inherited(&self) -> bool {
        self.pid != std::process::id()
    }

    fn check_process(&self) -> Result<()> {
        if self.is_inherited() {
            return Err(Error::new(
                ErrorKind::StoreForked,
                format!(
                    "checkpoint {} belongs to process {}, which this one was forked from; open the \
                     state directory after the fork",
                    self.id, self.pid
                ),
            ));
        }
        Ok(())
    }

    /// Captures for about one slice; false if nothing is left to capture.
    pub(super) fn capture_slice(&self, slice_slots: &AtomicUsize) -> bool {
        let start = Instant::now();
        let tables: Vec<SharedTable> = {
            let draft = self.draft.lock();
            if matches!(draft.phase, Phase::Settled(_)) {
                return false;
            }
            draft
                .frozen
                .iter()
                .filter(|frozen| !frozen.unchanged)
                .map(|frozen| Arc::clone(&frozen.table))
                .collect()
        };
        let mut left = false;
        for table in tables {
            // The writer holds it, so it is captured anyway.
            let Some(mut table) = table.try_lock() else {
                left = true;
                continue;
            };
            if !table.capture_active() {
                continue;
            }
            let slots = slice_slots.load(Ordering::Relaxed);
            let slice_start = Instant::now();
            let complete = table.capture(slots);
            drop(table);
            adapt(slice_slots, slots, slice_start.elapsed(), complete);
            left |= !complete;
            if start.elapsed() >= SLICE {
                left = true;
                break;
            }
        }
        let held = start.elapsed().as_secs_f64();
        let mut draft = self.draft.lock();
        draft.stats.capture_s += held;
        draft.stats.longest_pause_s = draft.stats.longest_pause_s.max(held);
        left
    }

    pub(super) fn settle(&self, outcome: Result<CheckpointStats>) {
        self.draft.lock().phase = Phase::Settled(outcome);
        self.settled.notify_all();
    }

    /// Waits until the checkpoint is durable, failed or aborted. `CheckpointState` while it is open.
    pub(super) fn wait_until_settled(&self) -> Result<()> {
        self.check_process()?;
        let mut draft = self.draft.lock();
        loop {
            match draft.phase {
                Phase::Settled(_) => return Ok(()),
                Phase::Committing => self.settled.wait(&mut draft),
                Phase::Open => {
                    return Err(Error::new(
                        ErrorKind::CheckpointState,
                        format!("checkpoint {} is still open; commit or abort it first", self.id),
                    )
                    .with_checkpoint(self.id));
                }
            }
        }
    }

    pub(super) fn abort_if_open(&self) {
        if self.is_inherited() {
            return;
        }
        let mut draft = self.draft.lock();
        if matches!(draft.phase, Phase::Open) {
            give_back(&draft);
            draft.phase = Phase::Settled(Err(aborted(self.id)));
            self.settled.notify_all();
        }
    }

    fn open_draft(&self) -> Result<parking_lot::MutexGuard<'_, Draft>> {
        self.check_process()?;
        let draft = self.draft.lock();
        match draft.phase {
            Phase::Open => Ok(draft),
            Phase::Committing => Err(Error::new(
                ErrorKind::CheckpointState,
                format!("checkpoint {} was committed; nothing can be added", self.id),
            )
            .with_checkpoint(self.id)),
            Phase::Settled(_) => Err(Error::new(
                ErrorKind::CheckpointState,
                format!("checkpoint {} is complete or was aborted; begin another", self.id),
            )
            .with_checkpoint(self.id)),
        }
    }
}

/// What was cut for a checkpoint that will not be counts as changed again.
pub(super) fn give_back(draft: &Draft) {
    for frozen in draft.frozen.iter().filter(|frozen| !frozen.unchanged) {
        frozen.table.lock().abort_capture(None);
    }
}

/// Slots for the next slice, so that it takes about `SLICE`.
pub(super) fn adapt(slice_slots: &AtomicUsize, slots: usize, took: Duration, complete: bool) {
    let next = if took > SLICE {
        slots / 2
    } else if took < SLICE / 3 && !complete {
        slots * 2
    } else {
        return;
    };
    slice_slots.store(next.clamp(256, 1 << 22), Ordering::Relaxed);
}

fn aborted(id: u64) -> Error {
    Error::new(ErrorKind::CheckpointState, format!("checkpoint {id} was aborted"))
        .with_checkpoint(id)
}

/// A checkpoint under way: freeze, add, and write; or commit, then wait or ask later. If the last clone is
/// dropped before `write` or `commit`, it is aborted.
#[derive(Clone)]
pub struct PendingCheckpoint {
    handle: Arc<Handle>,
}

struct Handle {
    inner: Arc<Inner>,
    pending: Arc<Pending>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.pending.abort_if_open();
    }
}

impl PendingCheckpoint {
    pub(super) fn new(inner: Arc<Inner>, pending: Arc<Pending>) -> Self {
        Self { handle: Arc::new(Handle { inner, pending }) }
    }

    /// The checkpoint's number; numbers grow and are never used twice.
    pub fn id(&self) -> u64 {
        self.handle.pending.id
    }

    /// Freezes these tables (all when `None`) at one cut; a table frozen already is left alone. A
    /// table that is made after all were frozen belongs to the next checkpoint.
    pub fn freeze(&self, tables: Option<&[&str]>) -> Result<()> {
        let Handle { inner, pending } = &*self.handle;
        inner.check_open()?;
        let start = Instant::now();
        let mut draft = pending.open_draft()?;
        let entries: Vec<_> = {
            let known = inner.tables.lock();
            if let Some(missing) = tables.and_then(|names| {
                names.iter().find(|name| !known.iter().any(|entry| entry.name == **name))
            }) {
                let names: Vec<&str> = known.iter().map(|entry| entry.name.as_str()).collect();
                return Err(Error::new(
                    ErrorKind::UnknownName,
                    format!("no table {missing:?}; there are {names:?}"),
                ));
            }
            known
                .iter()
                .filter(|entry| tables.is_none_or(|names| names.contains(&entry.name.as_str())))
                .cloned()
                .collect()
        };
        for entry in entries {
            if draft.frozen.iter().any(|frozen| frozen.id == entry.id) {
                continue;
            }
            let mut table = entry.table.lock();
            entry.collect_participant(&mut table)?;
            let rows = table.len() as u64;
            let unchanged = table.dirty_rows() == 0;
            let mut rotation = entry.rotation;
            if !unchanged {
                let (base_groups, after) =
                    entry.chain.plan(inner.key_groups, rows, table.dirty_rows(), rotation);
                table.freeze(&base_groups)?;
                rotation = after;
            }
            drop(table);
            draft.frozen.push(FrozenTable {
                id: entry.id,
                table: entry.table,
                rows,
                rotation,
                unchanged,
            });
        }
        draft.is_cut |= tables.is_none();
        draft.frozen_at.get_or_insert(start);
        let held = start.elapsed().as_secs_f64();
        draft.stats.freeze_s += held;
        draft.stats.longest_pause_s = draft.stats.longest_pause_s.max(held);
        drop(draft);
        inner.capturing.store(true, Ordering::Relaxed);
        crate::crash_point!("snap.post_freeze");
        Ok(())
    }

    /// Keeps bytes with the checkpoint, by name; a second value of a name replaces the first.
    pub fn put_blob(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        self.handle.inner.check_open()?;
        self.handle.pending.open_draft()?.blobs.insert(name.to_owned(), bytes);
        Ok(())
    }

    /// What a sink prepared, in pieces that are joined.
    pub fn stage<Piece: AsRef<[u8]>>(&self, sink: &str, pieces: &[Piece]) -> Result<()> {
        self.handle.inner.check_open()?;
        let mut bytes = self.handle.inner.staging.lock().pop().unwrap_or_default();
        bytes.clear();
        bytes.reserve(pieces.iter().map(|piece| piece.as_ref().len()).sum());
        for piece in pieces {
            bytes.extend_from_slice(piece.as_ref());
        }
        self.handle.pending.open_draft()?.staged.insert(sink.to_owned(), bytes);
        Ok(())
    }

    /// Freezes all tables if they were not, and writes everything on this thread: returns when it
    /// is durable, or failed. Nothing else is started for it.
    pub fn write(&self, created_unix_ms: u64) -> Result<CheckpointStats> {
        self.freeze_what_is_left()?;
        let Handle { inner, pending } = &*self.handle;
        let store = inner.store()?;
        pending.open_draft()?.phase = Phase::Committing;
        writer::run(inner, pending, store, created_unix_ms)
    }

    /// As [`Self::write`], but on a thread of its own: returns at once, and [`Self::wait`] says
    /// when it is durable.
    pub fn commit(&self, created_unix_ms: u64) -> Result<()> {
        self.freeze_what_is_left()?;
        let Handle { inner, pending } = &*self.handle;
        let store = inner.store()?;
        let mut draft = pending.open_draft()?;
        let (writer_inner, writer_pending) = (Arc::clone(inner), Arc::clone(pending));
        std::thread::Builder::new()
            .name("onceflow-writer".to_owned())
            .spawn(move || {
                // Whoever waits is told by the settled checkpoint.
                let _ = writer::run(&writer_inner, &writer_pending, store, created_unix_ms);
            })
            .map_err(|error| {
                Error::new(
                    ErrorKind::Io,
                    format!("cannot start the writer thread: {error}; allow more threads"),
                )
            })?;
        draft.phase = Phase::Committing;
        Ok(())
    }

    fn freeze_what_is_left(&self) -> Result<()> {
        self.handle.inner.check_open()?;
        if self.handle.pending.open_draft()?.is_cut {
            return Ok(());
        }
        self.freeze(None)
    }

    /// Gives the checkpoint up; what was frozen counts as changed again. Aborting twice is no error,
    /// and does nothing in a forked child: the checkpoint is the parent's.
    pub fn abort(&self) -> Result<()> {
        let pending = &self.handle.pending;
        if pending.is_inherited() {
            return Ok(());
        }
        let mut draft = pending.draft.lock();
        match &draft.phase {
            Phase::Open => {
                drop(draft);
                pending.abort_if_open();
                Ok(())
            }
            Phase::Settled(Err(_)) => Ok(()),
            Phase::Committing | Phase::Settled(Ok(_)) => {
                draft.stats.id = pending.id;
                Err(Error::new(
                    ErrorKind::CheckpointState,
                    format!("checkpoint {} was committed and cannot be aborted", pending.id),
                )
                .with_checkpoint(pending.id))
            }
        }
    }

    /// `None` when the timeout passed first. An error of the writer is returned to every waiter.
    /// `CheckpointState` if it was not committed.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Option<CheckpointStats>> {
        let pending = &self.handle.pending;
        pending.check_process()?;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut draft = pending.draft.lock();
        loop {
            match &draft.phase {
                Phase::Settled(outcome) => return outcome.clone().map(Some),
                Phase::Open => {
                    return Err(Error::new(
                        ErrorKind::CheckpointState,
                        format!("checkpoint {} was not committed yet", pending.id),
                    )
                    .with_checkpoint(pending.id));
                }
                Phase::Committing => match deadline {
                    None => pending.settled.wait(&mut draft),
                    Some(deadline) => {
                        if Instant::now() >= deadline {
                            return Ok(None);
                        }
                        pending.settled.wait_until(&mut draft, deadline);
                    }
                },
            }
        }
    }

    /// True if it is durable, failed or aborted; in a forked child, which may do nothing about it, too.
    pub fn is_done(&self) -> bool {
        self.handle.pending.is_inherited()
            || matches!(self.handle.pending.draft.lock().phase, Phase::Settled(_))
    }
}
