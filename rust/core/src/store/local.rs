//! The local store: chunks and records in one environment, which one process owns.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::layout::{Database, HEAD_KEY, Head};
use super::owner::{self, Owner};
use super::values::{head_of, put_head, read_head};
use crate::environment::lmdb::{Environment, Failure, Read, Transaction};
use crate::environment::manifest::Manifest;
use crate::environment::{StoreSize, creation, usable};
use crate::{Error, ErrorKind, Result};

/// The manifest's lower bounds are raised every so many commits (and by open and close).
pub(super) const MANIFEST_COMMITS: u64 = 1024;

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

/// The store of one job: a `ChunkStore` and a `RecordStore`.
#[derive(Debug)]
pub struct Store {
    pub(super) directory: PathBuf,
    pub(super) manifest: Manifest,
    pub(super) map_size_bytes: usize,
    /// The process that opened it.
    pub(super) pid: u32,
    /// `None` only while it is being closed.
    pub(super) environment: Option<Arc<Environment>>,
    pub(super) owner: Option<Owner>,
    pub(super) writer: Mutex<Writer>,
}

/// What writes change in memory.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// Ids of the reserved block that were not handed out yet.
    pub(super) ids: std::ops::Range<u64>,
    pub(super) commits: u64,
    /// Memory of the last record, for the next one.
    pub(super) record: Vec<u8>,
    /// The first error that made further writes unsafe.
    pub(super) poisoned: Option<String>,
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

    /// The newest job epoch that the store knows, whoever has it: to a reader that of the run which owns it, or
    /// owned it last; 0 if none ever did.
    pub fn newest_job_epoch(&self) -> Result<u64> {
        Ok(read_head(&self.environment()?.read()?)?.job_epoch)
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

    /// Makes the pages that the last commit freed usable for the next one.
    ///
    /// LMDB reuses pages from the second transaction after the one that freed them, since until then
    /// the older of its two meta pages refers to them. Where each commit replaces much of the file
    /// that would keep one more copy of it on disk; one small transaction in between saves it.
    pub fn turn_over(&self) -> Result<()> {
        let mut writer = self.writer()?;
        self.write(&mut writer, |_, _| Ok(()))
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
    pub(super) fn environment(&self) -> Result<&Arc<Environment>> {
        usable(self.environment.as_ref(), self.pid, &self.directory)
    }

    /// The right to write: one thread at a time, by an owner whose store is not poisoned.
    pub(super) fn writer(&self) -> Result<parking_lot::MutexGuard<'_, Writer>> {
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
    pub(super) fn write<R>(
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
    pub(super) fn raise_manifest(&self) -> Result<()> {
        let environment = self.environment()?;
        let Some(owner) = &self.owner else { return Ok(()) };
        owner::raise_manifest(environment, owner, &self.manifest, &self.directory)
    }
}

/// See `Store::snapshot`.
pub struct Snapshot<'s> {
    pub(super) txn: Read<'s>,
    pub(super) directory: &'s Path,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{ChunkKey, ChunkStore, RecordStore};

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
