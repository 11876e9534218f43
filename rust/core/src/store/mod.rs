//! The durable home of chunks and decision records: one LMDB environment in a private directory.
//!
//! One process owns a directory and writes; others may read. What is promised:
//!
//! - A commit is one LMDB transaction, synced before it is acknowledged: after a crash at any
//!   instruction its record and all its chunks are there, or none.
//! - Opening raises the job epoch durably. Every later write of an older owner finds the newer
//!   epoch inside its own transaction and is `Fenced`, however long it was paused.
//! - Damage is a typed error or a `Damage`, never a signal and never a wrong value: the manifest is
//!   checked before anything is mapped, the pages before LMDB follows them, each value's checksum
//!   when it is read.
//! - After a failed sync nothing is written until the store is opened again (`StorePoisoned`).
//!
//! Not promised: that a store survives being copied while it runs (use [`Store::backup`]), a disk
//! that lies about syncs, use over a network file system (refused where it can be seen).

mod layout;
mod owner;
mod values;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use layout::{
    Database, HEAD_KEY, Head, MAX_NOTE_BYTES, MAX_NOTE_NAME_BYTES, MAX_VALUE_BYTES, Tally,
    chunk_key, parse_chunk_key, record_key,
};
use owner::Owner;
use values::{
    Whole, delete, head_of, named, put_head, put_new, read_head, read_parts, read_records,
};

pub use layout::{CheckpointRecord, ChunkKey, TableManifest};
pub use owner::{StoreSettings, settings};
pub use verify::{VerifyReport, verify};

use crate::environment::lmdb::{Environment, Failure, Read, Transaction};
use crate::environment::manifest::Manifest;
use crate::environment::value::open_value;
use crate::environment::{corrupt, creation, usable};
use crate::{Error, ErrorKind, Result};

pub use crate::environment::StoreSize;

/// Checkpoint ids are reserved durably in blocks of so many: one small commit a block.
const ID_BLOCK: u64 = 1000;

/// The manifest's lower bounds are raised every so many commits (and by open and close).
const MANIFEST_COMMITS: u64 = 1024;

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

/// A record that cannot be read: which, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Damage {
    pub checkpoint: Option<u64>,
    pub reason: String,
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    manifest: Manifest,
    map_size_bytes: usize,
    /// The process that opened it.
    pid: u32,
    /// `None` only while it is being closed.
    environment: Option<Arc<Environment>>,
    owner: Option<Owner>,
    writer: Mutex<Writer>,
}

/// What writes change in memory.
#[derive(Debug, Default)]
struct Writer {
    /// Ids of the reserved block that were not handed out yet.
    ids: std::ops::Range<u64>,
    commits: u64,
    /// The first error that made further writes unsafe.
    poisoned: Option<String>,
}

impl Store {
    /// Opens (or, if asked, creates) the store of `directory`.
    ///
    /// As owner, in this order: 1. lock the directory; 2. create the store if there is none;
    /// 3. check the manifest, then the pages, then head and notes; 4. raise the job epoch durably,
    /// and replace the lock if it is to be taken over; 5. remove what a crash left.
    ///
    /// # Errors
    /// `StoreMissing`, `StoreFormat` (newer, or not a state directory), `StoreMismatch` (job or key
    /// groups), `StoreCorrupt`, `StoreLocked`, `StoreReadOnly`, `StoreNetworkFilesystem`,
    /// `StoreFull`, `Io`.
    pub fn open(directory: &Path, options: &StoreOptions) -> Result<Self> {
        if options.read_only {
            Self::open_reader(directory, Some(options))
        } else {
            Self::open_owner(directory, options)
        }
    }

    /// Where the store lies.
    pub fn path(&self) -> PathBuf {
        self.directory.clone()
    }

    /// Its identity, drawn when it was created: 32 hex digits. A copy or a backup has the same.
    pub fn id(&self) -> &str {
        &self.manifest.store_id
    }

    /// The epoch that this process owns: raised durably by `open` (0 when read-only).
    pub fn job_epoch(&self) -> u64 {
        self.owner.as_ref().map_or(0, |owner| owner.job_epoch)
    }

    /// Number of key groups, fixed at creation.
    pub fn key_groups(&self) -> u16 {
        self.manifest.key_groups
    }

    /// Everything as it is now, whatever the owner collects meanwhile. The file cannot reuse space
    /// that is freed while a snapshot is held, so hold it shortly.
    pub fn snapshot(&self) -> Result<Snapshot<'_>> {
        Ok(Snapshot { txn: self.environment()?.read()?, directory: &self.directory })
    }

    /// All decision records, ascending; a damaged one is reported in place.
    pub fn records(&self) -> Result<Vec<std::result::Result<CheckpointRecord, Damage>>> {
        self.snapshot()?.records()
    }

    /// Never hands out the same number twice, also across crashes (ids of aborted checkpoints are
    /// not reused; allocated in durable blocks).
    pub fn allocate_checkpoint_id(&self) -> Result<u64> {
        let mut writer = self.writer()?;
        if writer.ids.is_empty() {
            writer.ids = self.write(&mut writer, |_, head| reserve_ids(head))?;
        }
        let id = writer.ids.next().ok_or_else(ids_exhausted)?;
        crate::crash_point!("ckpt.id.post_alloc");
        Ok(id)
    }

    /// The only commit point. `Fenced` if a newer epoch exists. After a failed sync: poisoned.
    ///
    /// In one transaction: 1. put the chunks; 2. drop what is superseded; 3. put the record;
    /// 4. write the head; 5. sync. Before the end of 5 nothing of it is visible, after it all is.
    ///
    /// # Errors
    /// `InvalidArgument` if the record or a chunk exists already, `CapacityExceeded` for a value over
    /// 1 GiB, `StoreFull`, `Fenced`, `StorePoisoned`, `Io`. Nothing was written then; after
    /// `StoreFull` of the disk and `Io` the outcome is known only when the store is opened again.
    pub fn commit(&self, commit: &Commit<'_>) -> Result<CommitStats> {
        let start = Instant::now();
        let record = commit.record.encode()?;
        check_length("the checkpoint record", record.len())?;
        for (key, bytes) in commit.chunks {
            check_length(&key.to_string(), bytes.len())?;
        }
        if commit.record.id == 0 {
            let text = "checkpoint ids start at 1; use allocate_checkpoint_id";
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        let mut writer = self.writer()?;
        let needs_ids = writer.ids.is_empty();
        let more_ids = self.write(&mut writer, |txn, head| {
            for (key, bytes) in commit.chunks {
                put_new(txn, Database::Chunks, bytes, |part| chunk_key(*key, part))
                    .map_err(|failure| named(failure, || key.to_string()))?;
            }
            crate::crash_point!("snap.state.pre_commit");
            delete(txn, head, commit.drop_records, commit.drop_chunks)?;
            let id = commit.record.id;
            let digest = put_new(txn, Database::Records, &record, |part| record_key(id, part))
                .map_err(|failure| named(failure, || format!("checkpoint {id}")))?;
            head.records.insert(id, digest.sum);
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
        let chunk_bytes: usize = commit.chunks.iter().map(|(_, bytes)| bytes.len()).sum();
        Ok(CommitStats {
            bytes_written: (chunk_bytes + record.len()) as u64,
            commit_s: start.elapsed().as_secs_f64(),
        })
    }

    /// Makes the pages that the last commit freed usable for the next one.
    ///
    /// LMDB reuses pages from the second transaction after the one that freed them, since until then
    /// the older of its two meta pages refers to them. Where each commit replaces much of the file
    /// that would keep one more copy of it on disk; one small transaction in between saves it.
    pub fn turn_over(&self) -> Result<()> {
        let mut writer = self.writer()?;
        self.write(&mut writer, |_, _| Ok(()))
    }

    /// Drops records and chunks without a new decision (savepoint removal, start-up collection).
    pub fn collect(&self, drop_records: &[u64], drop_chunks: &[ChunkKey]) -> Result<()> {
        let mut writer = self.writer()?;
        self.write(&mut writer, |txn, head| delete(txn, head, drop_records, drop_chunks))
    }

    /// Keys of all chunks present.
    pub fn chunk_keys(&self) -> Result<Vec<ChunkKey>> {
        let environment = self.environment()?;
        let txn = environment.read()?;
        let mut keys: Vec<ChunkKey> = Vec::new();
        for entry in txn.entries(Database::Chunks)? {
            let (key, _) = entry?;
            let (chunk, _) = parse_chunk_key(key).ok_or_else(|| {
                corrupt(format!(
                    "{}: a chunk's key has {} bytes",
                    self.directory.display(),
                    key.len()
                ))
            })?;
            if keys.last() != Some(&chunk) {
                keys.push(chunk);
            }
        }
        Ok(keys)
    }

    /// Hands the checked bytes of a chunk to `read` inside a short read transaction.
    ///
    /// # Errors
    /// `StoreCorrupt` if the chunk is missing or its checksum is wrong, and what `read` returns.
    pub fn read_chunk<R>(&self, key: ChunkKey, read: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> {
        self.snapshot()?.read_chunk(key, read)
    }

    /// A small durable note outside checkpoints (a sink's applied marker). Fenced like a commit.
    ///
    /// # Errors
    /// `InvalidArgument` for a name of 0 or more than 400 bytes, `CapacityExceeded` for a value over
    /// 1 MiB, else as `commit`.
    pub fn put_note(&self, name: &str, value: &[u8]) -> Result<()> {
        check_note_name(name)?;
        if value.len() > MAX_NOTE_BYTES {
            return Err(Error::new(
                ErrorKind::CapacityExceeded,
                format!(
                    "the note {name:?} has {} bytes, but a note may have {MAX_NOTE_BYTES}; keep \
                     larger values in a checkpoint",
                    value.len()
                ),
            ));
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

    /// The note of this name, if there is one.
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.snapshot()?.note(name)
    }

    /// `Fenced` if a newer epoch exists.
    pub fn check_epoch(&self) -> Result<()> {
        let environment = self.environment()?;
        match &self.owner {
            None => Ok(()),
            Some(owner) => owner.check(&read_head(&environment.read()?)?, &self.directory),
        }
    }

    /// Length of the file, and how much of it is in use.
    pub fn size(&self) -> Result<StoreSize> {
        let environment = self.environment()?;
        Ok(StoreSize {
            file_bytes: environment.file_bytes()?,
            used_bytes: environment.read()?.used_bytes()?,
        })
    }

    /// A consistent copy into a directory that does not exist yet, while running.
    ///
    /// The copy belongs to the same job and has the same identity: never run both.
    pub fn backup(&self, target: &Path) -> Result<()> {
        creation::backup::<Database>(
            self.environment()?,
            &self.manifest,
            target,
            self.map_size_bytes,
            |txn| {
                let mut head = head_of(txn.get(Database::Meta, HEAD_KEY)?)?;
                put_head(txn, &mut head)
            },
        )
    }

    /// Releases the directory. Dropping the store does the same, silently.
    ///
    /// # Errors
    /// What prevented the manifest's lower bounds from being raised; nothing is lost then.
    pub fn close(mut self) -> Result<()> {
        let raised = match self.environment() {
            Ok(environment) if self.owner.is_some() && !environment.is_poisoned() => {
                match self.raise_manifest() {
                    // It is the new owner's to write now.
                    Err(error) if error.kind() == ErrorKind::Fenced => Ok(()),
                    other => other,
                }
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        self.release();
        raised
    }

    fn release(&mut self) {
        if self.pid == std::process::id() {
            // The environment goes before the lock that protects it.
            self.environment = None;
            self.owner = None;
        } else {
            // The parent's: closing would be harmless to it at best.
            std::mem::forget((self.environment.take(), self.owner.take()));
        }
    }

    /// The environment, if this process may use it.
    fn environment(&self) -> Result<&Arc<Environment>> {
        usable(self.environment.as_ref(), self.pid, &self.directory)
    }

    /// The right to write: one thread at a time, by an owner whose store is not poisoned.
    fn writer(&self) -> Result<parking_lot::MutexGuard<'_, Writer>> {
        let environment = self.environment()?;
        if self.owner.is_none() {
            return Err(Error::new(
                ErrorKind::StoreReadOnly,
                format!("{} was opened with read_only", self.directory.display()),
            ));
        }
        let writer = self.writer.lock();
        match &writer.poisoned {
            None if !environment.is_poisoned() => Ok(writer),
            reason => Err(Error::new(
                ErrorKind::StorePoisoned,
                format!(
                    "{} may not be written after this error: {}; close it and open it again",
                    self.directory.display(),
                    reason.as_deref().unwrap_or("a failed write of this process")
                ),
            )),
        }
    }

    /// A write transaction of the owner: fenced, and sealed by a new head.
    fn write<R>(
        &self,
        writer: &mut Writer,
        body: impl FnOnce(&mut Transaction<'_>, &mut Head) -> std::result::Result<R, Failure>,
    ) -> Result<R> {
        let environment = self.environment()?;
        let Some(owner) = &self.owner else {
            return Err(Error::new(ErrorKind::StoreReadOnly, "opened with read_only"));
        };
        // A fenced owner must not even queue for the writer lock: if it is paused there, the new
        // owner waits with it.
        owner.check(&read_head(&environment.read()?)?, &self.directory)?;
        let outcome = environment.write(|txn| {
            let mut head = head_of(txn.get(Database::Meta, HEAD_KEY)?)?;
            owner.check(&head, &self.directory)?;
            let value = body(txn, &mut head)?;
            put_head(txn, &mut head)?;
            Ok(value)
        });
        outcome.map_err(|failure| {
            if failure.poisons {
                writer.poisoned.get_or_insert_with(|| failure.error.to_string());
            }
            failure.error
        })
    }

    /// Raises the manifest's lower bounds to what is durable now, unless fenced.
    ///
    /// It holds the writer lock without changing anything, so that a fenced owner that was paused
    /// on the way cannot put an older manifest back.
    fn raise_manifest(&self) -> Result<()> {
        let environment = self.environment()?;
        let Some(owner) = &self.owner else { return Ok(()) };
        owner::raise_manifest(environment, owner, &self.manifest, &self.directory)
    }
}

/// See `Store::snapshot`.
pub struct Snapshot<'s> {
    txn: Read<'s>,
    directory: &'s Path,
}

impl Snapshot<'_> {
    /// See `Store::records`.
    pub fn records(&self) -> Result<Vec<std::result::Result<CheckpointRecord, Damage>>> {
        read_records(&self.txn)
    }

    /// See `Store::note`.
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

    /// See `Store::read_chunk`.
    pub fn read_chunk<R>(&self, key: ChunkKey, read: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> {
        let chunk = read_parts(&self.txn, Database::Chunks, |part| chunk_key(key, part));
        match chunk.map_err(|problem| problem.into_error(self.directory, &key))? {
            Whole::Mapped(bytes) => read(bytes),
            Whole::Joined(bytes) => read(&bytes),
        }
    }
}

impl std::fmt::Debug for Snapshot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("transaction", &self.txn.transaction()).finish()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.pid == std::process::id()
            && self.environment.as_ref().is_some_and(|environment| !environment.is_poisoned())
        {
            let _ = self.raise_manifest();
        }
        self.release();
    }
}

fn ids_exhausted() -> Error {
    Error::new(ErrorKind::CapacityExceeded, "no checkpoint ids are left")
}

/// Reserves the next block of checkpoint ids.
fn reserve_ids(head: &mut Head) -> std::result::Result<std::ops::Range<u64>, Failure> {
    let start = head.next_checkpoint_id;
    head.next_checkpoint_id = start.checked_add(ID_BLOCK).ok_or_else(ids_exhausted)?;
    Ok(start..head.next_checkpoint_id)
}

fn check_length(what: &str, length: usize) -> Result<()> {
    if length <= MAX_VALUE_BYTES {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::CapacityExceeded,
        format!("{what} has {length} bytes, but the store takes {MAX_VALUE_BYTES} at most"),
    ))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A fork needs `unsafe` here, so the store is told that another process opened it; a real fork
    /// is tried from Python.
    #[test]
    fn a_forked_child_is_refused_everything_and_closes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            job: "fork".to_owned(),
            key_groups: 1,
            map_size_bytes: 1 << 20,
            create: true,
            read_only: false,
            take_over: false,
            store_id: 1,
        };
        let mut store = Store::open(directory.path(), &options).unwrap();
        store.put_note("n", b"parent").unwrap();
        store.pid += 1;
        let manifest = std::fs::read(directory.path().join("manifest.json")).unwrap();
        let target = directory.path().join("copy");
        let key = ChunkKey { table: 0, checkpoint: 1, sequence: 0 };
        let outcomes = [
            store.records().map(|_| ()),
            store.allocate_checkpoint_id().map(|_| ()),
            store.collect(&[], &[]),
            store.chunk_keys().map(|_| ()),
            store.read_chunk(key, |_| Ok(())),
            store.put_note("n", b"child"),
            store.note("n").map(|_| ()),
            store.check_epoch(),
            store.size().map(|_| ()),
            store.backup(&target),
        ];
        for outcome in outcomes {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::StoreForked);
        }
        assert_eq!(store.close().unwrap_err().kind(), ErrorKind::StoreForked);
        // The parent still owns it.
        let error = Store::open(directory.path(), &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreLocked);
        assert_eq!(std::fs::read(directory.path().join("manifest.json")).unwrap(), manifest);
    }
}
