//! The only file that knows heed, and one of the two with `unsafe`.
//!
//! LMDB runs with its default, durable flags (data synced, then the meta page), plus reader slots
//! bound to transactions instead of threads. A file is mapped only after its meta pages were read
//! and checked, and no tree page is touched through the map before the whole tree was walked with
//! plain reads (see `pages`), pinned by a read transaction so that a running writer cannot recycle
//! a page under the walk.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Write;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use heed::types::Bytes;
use heed::{
    CommitOrAbort, CommitToken, CompactionOption, Env, EnvFlags, EnvOpenOptions, MdbError,
    OnCommit, RoTxn, RwTxn, WithoutTls,
};

use super::bounds::{Bounds, Note};
use super::files::{io_kind, is_full_around, refuse_irregular};
use super::lock::{FileId, ReaderLock};
use super::value::{TRAILER_BYTES, trailer};
use super::{corrupt, pages};
use crate::{Error, ErrorKind, Result};

/// The data file's name in the data directory; LMDB prescribes it.
pub(crate) const DATA_FILE: &str = "data.mdb";

/// Its lock file's name: reader table and writer lock. Never open it here: closing any descriptor
/// of it would release LMDB's own locks.
pub(crate) const LOCK_FILE: &str = "lock.mdb";

/// LMDB's bound on keys.
const MAX_KEY_BYTES: usize = 511;

/// Read transactions at one time, over all processes.
const MAX_READERS: u32 = 512;

/// A pinned snapshot's meta page is overwritten when the writer commits twice while it is read;
/// with a fresh snapshot each time, one of so many tries gets through.
const SNAPSHOT_TRIES: u32 = 1000;

type Table = heed::Database<'static, Bytes, Bytes>;

/// Databases that were opened in a transaction, until it commits.
struct Opened<'t>(Vec<heed::Database<'t, Bytes, Bytes>>);

impl OnCommit for Opened<'_> {
    type Committed = Vec<Table>;

    fn on_commit(self, token: &CommitToken) -> Vec<Table> {
        self.0.into_iter().map(|table| table.on_commit(token)).collect()
    }
}

/// A named database: a variant of the enum that lists those of one kind of environment.
pub(crate) trait Database: Copy + 'static {
    /// All of them, in the order of their indices.
    const ALL: &'static [Self];

    /// Its place in `ALL`.
    fn index(self) -> usize;

    /// Its name in the file.
    fn name(self) -> &'static str;
}

/// An error, and whether the store must not be written any more.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// The state of the file on disk is unknown or the environment is unusable.
    pub(crate) poisons: bool,
}

/// What was met says that the file is not what LMDB left.
fn poisonous(error: Error) -> Failure {
    Failure { error, poisons: true }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, poisons: false }
    }
}

/// How an environment is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Owner,
    /// With a slot in the reader table: beside a running owner.
    Reader,
    /// Where the reader table cannot be written; the caller keeps owners out.
    ReaderWithoutSlot,
}

/// What is known of the file since it was mapped: a map of a file that was cut is a signal, one of
/// a file that lost its name is written for nothing, and LMDB believes whatever it reads.
#[derive(Debug)]
struct Watch {
    bytes: pages::DataFile,
    id: FileId,
    /// The newest transaction and the length of the file when somebody last looked.
    transaction: AtomicU64,
    length: AtomicU64,
}

impl Watch {
    fn new(bytes: pages::DataFile, file: &Path, transaction: u64) -> Result<Self> {
        let id = FileId::of(file)?;
        let watch = Self { bytes, id, transaction: transaction.into(), length: 0.into() };
        watch.check_length(file)?;
        Ok(watch)
    }

    /// Refuses a file that was replaced, removed or cut since. It narrows the time in which that is
    /// a signal or a loss to the moment after this; more cannot be done for a memory map.
    fn check_length(&self, file: &Path) -> Result<()> {
        let changed = |what: &str| {
            corrupt(format!(
                "{} was {what} while it was open; stop what did that, close the store and restore \
                 a backup",
                file.display()
            ))
        };
        // Before the look: meanwhile others see the file grow.
        let before = self.length.load(Ordering::Acquire);
        let metadata = match std::fs::metadata(file) {
            Ok(metadata) => metadata,
            Err(error) => return Err(changed(&format!("removed ({error})"))),
        };
        if FileId::new(&metadata) != self.id {
            return Err(changed("replaced by another file"));
        }
        self.length.fetch_max(metadata.len(), Ordering::AcqRel);
        if metadata.len() < before {
            let text = format!("cut from {before} to {} bytes", metadata.len());
            return Err(changed(&text));
        }
        Ok(())
    }

    /// Refuses a file whose meta pages somebody else than LMDB has written.
    fn check_metas(&self, file: &Path) -> Result<()> {
        let before = self.transaction.load(Ordering::Acquire);
        let newest = self.bytes.metas()?.transaction();
        self.transaction.fetch_max(newest, Ordering::AcqRel);
        if newest < before {
            return Err(corrupt(format!(
                "{} has gone back from transaction {before} to {newest} while it was open: it was \
                 overwritten by an older one; close the store and restore a backup",
                file.display()
            )));
        }
        Ok(())
    }
}

/// An open LMDB environment with its databases.
#[derive(Debug)]
pub(crate) struct Environment {
    env: Env<WithoutTls>,
    tables: Vec<Table>,
    file: PathBuf,
    access: Access,
    map_size_bytes: usize,
    poisoned: AtomicBool,
    watch: Watch,
    /// Where commits are noted; readers have none.
    note: Option<Note>,
    /// What keeps writers out while reading without a slot; dropped after the map.
    #[expect(dead_code, reason = "held for its lock")]
    guard: Option<ReaderLock>,
}

impl Environment {
    /// Creates the file and its databases in an empty directory of ours.
    pub(crate) fn create<D: Database>(data: &Path, map_size_bytes: usize) -> Result<Self> {
        let file = data.join(DATA_FILE);
        let env = open_env(data, map_size_bytes, Access::Owner).map_err(|f| f.error)?;
        let txn = env.write_txn().map_err(|error| failure(error, "create", &file).error)?;
        let tables = env
            .create_databases_and_commit(txn, |opener, txn| {
                let create = |database: &D| {
                    opener.create_database::<Bytes, Bytes>(txn, Some(database.name()))
                };
                let tables = D::ALL.iter().map(create).collect::<heed::Result<Vec<_>>>()?;
                Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(Opened(tables)))
            })
            .map_err(|error| failure(error, "create", &file).error)?
            .commit()
            .ok_or_else(|| corrupt(format!("{} has no databases", file.display())))?;
        Ok(Self {
            env,
            tables,
            access: Access::Owner,
            map_size_bytes,
            poisoned: AtomicBool::new(false),
            watch: Watch::new(pages::DataFile::open(&file)?, &file, 0)?,
            // It has no name yet.
            note: None,
            guard: None,
            file,
        })
    }

    /// Opens an existing file after checking that LMDB can walk it safely.
    pub(crate) fn open<D: Database>(
        data: &Path,
        map_size_bytes: usize,
        access: Access,
        guard: Option<ReaderLock>,
    ) -> Result<Self> {
        let file = data.join(DATA_FILE);
        refuse_irregular(&data.join(LOCK_FILE))?;
        let bytes = pages::DataFile::open(&file)?;
        let metas = bytes.metas()?;
        let map_size_bytes = match access {
            Access::Owner => map_size_bytes,
            // A reader must be able to follow the writer to the end of the writer's map.
            _ => map_size_bytes
                .max(usize::try_from(metas.map_size_bytes()).unwrap_or(usize::MAX))
                .next_multiple_of(64 << 10),
        };
        let env = open_env(data, map_size_bytes, access).map_err(|f| f.error)?;
        let map = |error| failure(error, "read", &file).error;

        let mut tries = 0;
        let txn = loop {
            let txn = begin_read(&env, &file).map_err(|f| f.error)?;
            match bytes.check_tree(txn.id() as u64)? {
                pages::Walk::Sound => break txn,
                pages::Walk::Overtaken if tries < SNAPSHOT_TRIES => tries += 1,
                pages::Walk::Overtaken => {
                    return Err(corrupt(format!(
                        "the meta pages of {} do not hold transaction {}, which LMDB reads",
                        file.display(),
                        txn.id()
                    )));
                }
            }
        };
        let transaction = txn.id() as u64;
        let tables = env
            .open_databases_and_commit(txn, |opener, txn| {
                let open =
                    |database: &D| opener.open_database::<Bytes, Bytes>(txn, Some(database.name()));
                let tables = D::ALL.iter().map(open).collect::<heed::Result<Option<Vec<_>>>>()?;
                Ok::<_, heed::Error>(match tables {
                    Some(tables) => CommitOrAbort::Commit(Opened(tables)),
                    None => CommitOrAbort::Abort(()),
                })
            })
            .map_err(map)?
            .commit()
            .ok_or_else(|| corrupt(format!("a database is missing in {}", file.display())))?;
        let note = match (access, data.parent()) {
            (Access::Owner, Some(directory)) => Some(Note::open(directory)?),
            _ => None,
        };
        Ok(Self {
            env,
            tables,
            access,
            map_size_bytes,
            poisoned: AtomicBool::new(false),
            watch: Watch::new(bytes, &file, transaction)?,
            note,
            guard,
            file,
        })
    }

    pub(crate) fn access(&self) -> Access {
        self.access
    }

    /// True after a write whose effect on the disk is unknown.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Length of the data file.
    pub(crate) fn file_bytes(&self) -> Result<u64> {
        self.env.real_disk_size().map_err(|error| failure(error, "measure", &self.file).error)
    }

    /// Begins a read transaction: a snapshot, which the writer must keep; hold it shortly.
    pub(crate) fn read(&self) -> Result<Read<'_>> {
        self.check_unchanged()?;
        let txn = begin_read(&self.env, &self.file).map_err(|f| self.explain(f).error)?;
        Ok(Read { txn, environment: self })
    }

    /// Runs `body` in a write transaction; commits durably if it returns `Ok`, else leaves no trace.
    pub(crate) fn write<R>(
        &self,
        body: impl FnOnce(&mut Transaction<'_>) -> std::result::Result<R, Failure>,
    ) -> std::result::Result<R, Failure> {
        let outcome = self.try_write(body);
        if let Err(failure) = &outcome
            && failure.poisons
        {
            self.poisoned.store(true, Ordering::Release);
        }
        outcome
    }

    /// Runs `body` while nobody can write, without writing.
    pub(crate) fn read_locked<R>(
        &self,
        body: impl FnOnce(&Transaction<'_>) -> std::result::Result<R, Failure>,
    ) -> std::result::Result<R, Failure> {
        self.check_unchanged().map_err(poisonous)?;
        let txn = self.env.write_txn().map_err(|error| self.failure(error, "lock"))?;
        body(&Transaction { txn, environment: self, changed: false })
    }

    fn try_write<R>(
        &self,
        body: impl FnOnce(&mut Transaction<'_>) -> std::result::Result<R, Failure>,
    ) -> std::result::Result<R, Failure> {
        self.check_unchanged().map_err(poisonous)?;
        let txn = self.env.write_txn().map_err(|error| self.failure(error, "write"))?;
        let transaction = txn.id() as u64;
        let mut write = Transaction { txn, environment: self, changed: false };
        let value = body(&mut write)?;
        // A transaction that changed nothing has nothing to make durable.
        if write.changed {
            write.txn.commit().map_err(|error| self.failure(error, "commit to"))?;
            self.watch.transaction.fetch_max(transaction, Ordering::AcqRel);
            if let (Some(note), Ok(length_bytes)) = (&self.note, self.file_bytes()) {
                note.write(Bounds { transaction, length_bytes });
            }
        }
        Ok(value)
    }

    /// Before LMDB follows what the file says now.
    fn check_unchanged(&self) -> Result<()> {
        self.watch.check_length(&self.file)?;
        self.watch.check_metas(&self.file)
    }

    /// Frees the reader slots of processes that were killed, so that space they pinned is reused.
    pub(crate) fn clear_stale_readers(&self) -> Result<()> {
        let cleared = self.env.clear_stale_readers();
        cleared.map(|_| ()).map_err(|error| failure(error, "read", &self.file).error)
    }

    /// Copies a consistent snapshot, without free pages, into `target`.
    pub(crate) fn copy_to(&self, target: &mut File) -> Result<()> {
        self.env
            .copy_to_file(target, CompactionOption::Enabled)
            .map_err(|error| failure(error, "copy", &self.file).error)
    }

    fn failure(&self, error: heed::Error, action: &str) -> Failure {
        self.explain(failure(error, action, &self.file))
    }

    /// Adds what only the environment knows.
    fn explain(&self, failure: Failure) -> Failure {
        // A map that is too small is what LMDB makes of a meta page that names a page beyond it.
        if failure.error.kind() == ErrorKind::Fenced
            && let Err(error) = self.watch.check_metas(&self.file)
        {
            return poisonous(error);
        }
        if failure.error.kind() == ErrorKind::Fenced && self.access != Access::Owner {
            let text = format!(
                "{} has grown past the {} bytes that this reader mapped; open it again",
                self.file.display(),
                self.map_size_bytes
            );
            return Error::new(ErrorKind::Io, text).into();
        }
        if failure.error.kind() == ErrorKind::StoreFull && !failure.poisons {
            crate::crash_point!("map.full.mid_txn");
            let text = format!(
                "{}: the reserved map of {} bytes is full; nothing was written. Drop old \
                 checkpoints, or close the store and open it with a larger map_size_bytes",
                self.file.display(),
                self.map_size_bytes
            );
            return Error::new(ErrorKind::StoreFull, text).into();
        }
        failure
    }

    fn table<D: Database>(&self, database: D) -> &Table {
        &self.tables[database.index()]
    }

    fn get<'t>(
        &self,
        txn: &'t RoTxn<'_>,
        database: impl Database,
        key: &[u8],
    ) -> std::result::Result<Option<&'t [u8]>, Failure> {
        // LMDB would call a key that it cannot hold an error.
        if !(1..=MAX_KEY_BYTES).contains(&key.len()) {
            return Ok(None);
        }
        self.table(database).get(txn, key).map_err(|error| self.failure(error, "read"))
    }

    fn entries<'t>(
        &self,
        txn: &'t RoTxn<'_>,
        database: impl Database,
        from: Bound<&[u8]>,
    ) -> std::result::Result<Entries<'t>, Failure> {
        let iter = self
            .table(database)
            .range(txn, &(from, Bound::Unbounded))
            .map_err(|error| self.failure(error, "read"))?;
        Ok(Entries { iter, file: self.file.clone() })
    }

    fn at_or_before<'t>(
        &self,
        txn: &'t RoTxn<'_>,
        database: impl Database,
        key: &[u8],
    ) -> std::result::Result<Option<Entry<'t>>, Failure> {
        self.table(database)
            .get_lower_than_or_equal_to(txn, key)
            .map_err(|error| self.failure(error, "read"))
    }
}

/// A snapshot of the store.
pub(crate) struct Read<'e> {
    txn: RoTxn<'e, WithoutTls>,
    environment: &'e Environment,
}

impl Read<'_> {
    /// The transaction that made this snapshot.
    pub(crate) fn transaction(&self) -> u64 {
        self.txn.id() as u64
    }

    pub(crate) fn get(&self, database: impl Database, key: &[u8]) -> Result<Option<&[u8]>> {
        self.environment.get(&self.txn, database, key).map_err(|f| f.error)
    }

    /// All entries in key order.
    pub(crate) fn entries(&self, database: impl Database) -> Result<Entries<'_>> {
        self.environment.entries(&self.txn, database, Bound::Unbounded).map_err(|f| f.error)
    }

    /// The entries from `key` on.
    pub(crate) fn entries_from(&self, database: impl Database, key: &[u8]) -> Result<Entries<'_>> {
        self.environment.entries(&self.txn, database, from(key)).map_err(|f| f.error)
    }

    /// The entry of `key`, or else the last one before it.
    pub(crate) fn at_or_before(
        &self,
        database: impl Database,
        key: &[u8],
    ) -> Result<Option<Entry<'_>>> {
        self.environment.at_or_before(&self.txn, database, key).map_err(|f| f.error)
    }

    /// Bytes of the pages of all databases.
    pub(crate) fn used_bytes(&self) -> Result<u64> {
        let mut pages = 2;
        let mut page_size = 0;
        for table in &self.environment.tables {
            let stat = table
                .stat(&self.txn)
                .map_err(|error| self.environment.failure(error, "measure").error)?;
            page_size = u64::from(stat.page_size);
            pages += (stat.branch_pages + stat.leaf_pages + stat.overflow_pages) as u64;
        }
        // The leaf of the main database, which names them.
        Ok((pages + 1) * page_size)
    }
}

/// A write transaction.
pub(crate) struct Transaction<'e> {
    txn: RwTxn<'e>,
    environment: &'e Environment,
    changed: bool,
}

impl Transaction<'_> {
    /// The number that this transaction will have.
    pub(crate) fn transaction(&self) -> u64 {
        self.txn.id() as u64
    }

    pub(crate) fn get(
        &self,
        database: impl Database,
        key: &[u8],
    ) -> std::result::Result<Option<&[u8]>, Failure> {
        self.environment.get(&self.txn, database, key)
    }

    pub(crate) fn entries(
        &self,
        database: impl Database,
    ) -> std::result::Result<Entries<'_>, Failure> {
        self.environment.entries(&self.txn, database, Bound::Unbounded)
    }

    /// The entries from `key` on.
    pub(crate) fn entries_from(
        &self,
        database: impl Database,
        key: &[u8],
    ) -> std::result::Result<Entries<'_>, Failure> {
        self.environment.entries(&self.txn, database, from(key))
    }

    /// The entry of `key`, or else the last one before it.
    pub(crate) fn at_or_before(
        &self,
        database: impl Database,
        key: &[u8],
    ) -> std::result::Result<Option<Entry<'_>>, Failure> {
        self.environment.at_or_before(&self.txn, database, key)
    }

    /// Puts a value with its trailer, replacing an older one; returns the trailer.
    pub(crate) fn put(
        &mut self,
        database: impl Database,
        key: &[u8],
        payload: &[u8],
        parts: u32,
    ) -> std::result::Result<[u8; TRAILER_BYTES], Failure> {
        self.put_joined(database, key, &[], payload, parts)
    }

    /// Puts a value whose payload is two pieces; see `put`.
    pub(crate) fn put_joined(
        &mut self,
        database: impl Database,
        key: &[u8],
        front: &[u8],
        back: &[u8],
        parts: u32,
    ) -> std::result::Result<[u8; TRAILER_BYTES], Failure> {
        let trailer = trailer(database, key, &[front, back], parts);
        let environment = self.environment;
        self.changed = true;
        let length = front.len() + back.len() + TRAILER_BYTES;
        environment
            .table(database)
            .put_reserved(&mut self.txn, key, length, |space| {
                space.write_all(front)?;
                space.write_all(back)?;
                space.write_all(&trailer)
            })
            .map_err(|error| environment.failure(error, "write to"))?;
        Ok(trailer)
    }

    /// True if there was something under `key`.
    pub(crate) fn delete(
        &mut self,
        database: impl Database,
        key: &[u8],
    ) -> std::result::Result<bool, Failure> {
        let environment = self.environment;
        self.changed = true;
        environment
            .table(database)
            .delete(&mut self.txn, key)
            .map_err(|error| environment.failure(error, "write to"))
    }
}

/// A key and its stored value.
pub(crate) type Entry<'t> = (&'t [u8], &'t [u8]);

/// Keys and stored values of one database, in key order.
pub(crate) struct Entries<'t> {
    iter: heed::RoRange<'t, Bytes, Bytes>,
    file: PathBuf,
}

impl<'t> Iterator for Entries<'t> {
    type Item = Result<Entry<'t>>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.iter.next()?;
        Some(entry.map_err(|error| failure(error, "read", &self.file).error))
    }
}

/// A range that begins at `key`; LMDB has no empty keys.
fn from(key: &[u8]) -> Bound<&[u8]> {
    if key.is_empty() { Bound::Unbounded } else { Bound::Included(key) }
}

fn open_env(
    data: &Path,
    map_size_bytes: usize,
    access: Access,
) -> std::result::Result<Env<WithoutTls>, Failure> {
    let file = data.join(DATA_FILE);
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map_size_bytes).max_readers(MAX_READERS).max_dbs(16);
    let flags = match access {
        Access::Owner => EnvFlags::empty(),
        Access::Reader => EnvFlags::READ_ONLY,
        Access::ReaderWithoutSlot => EnvFlags::READ_ONLY | EnvFlags::NO_LOCK,
    };
    // SAFETY: READ_ONLY is harmless. NO_LOCK goes with READ_ONLY and with a shared lock on
    // `owner.lock`, held as long as the environment, which keeps every writer out.
    unsafe { options.flags(flags) };
    // SAFETY: the map stays valid as long as nobody truncates the file or writes it behind LMDB's
    // back. The directory is private (0700, files 0600), writers hold the owner lock, and LMDB
    // orders them and the readers by its own locks; the registry in `lock` keeps this process from
    // opening the file twice, a check of the process id from using it after fork, and network file
    // systems are refused. What the file holds was checked with plain reads (`pages`).
    unsafe { options.open(data) }.map_err(|error| failure(error, "open", &file))
}

fn begin_read<'e>(
    env: &'e Env<WithoutTls>,
    file: &Path,
) -> std::result::Result<RoTxn<'e, WithoutTls>, Failure> {
    match env.read_txn() {
        Err(heed::Error::Mdb(MdbError::ReadersFull)) => {
            // Slots of processes that were killed are freed on demand.
            env.clear_stale_readers().map_err(|error| failure(error, "read", file))?;
            env.read_txn().map_err(|error| failure(error, "read", file))
        }
        txn => txn.map_err(|error| failure(error, "read", file)),
    }
}

/// Kind, text and consequence of an error of LMDB.
fn failure(error: heed::Error, action: &str, file: &Path) -> Failure {
    let (kind, advice, poisons) = match &error {
        heed::Error::Io(io) => match io_kind(io) {
            kind if kind == ErrorKind::StoreFull
                || (kind == ErrorKind::Io && is_full_around(file)) =>
            {
                (ErrorKind::StoreFull, "free space on the disk and open the store again", true)
            }
            kind if io.kind() == std::io::ErrorKind::OutOfMemory => {
                (kind, "there is no room to map it: choose a smaller map_size_bytes", true)
            }
            kind => (kind, "close the store, and open it again when the cause is gone", true),
        },
        heed::Error::Mdb(MdbError::MapFull) => (ErrorKind::StoreFull, "the map is full", false),
        heed::Error::Mdb(MdbError::TxnFull) => (
            ErrorKind::CapacityExceeded,
            "one transaction changes too many pages; make checkpoints smaller",
            false,
        ),
        heed::Error::Mdb(MdbError::ReadersFull) => (
            ErrorKind::CapacityExceeded,
            "all reader slots are taken; close some of the readers of this directory",
            false,
        ),
        heed::Error::Mdb(MdbError::MapResized) => (
            ErrorKind::Fenced,
            "another process has written past the map of this one; close the store",
            false,
        ),
        heed::Error::Mdb(MdbError::Panic) => {
            (ErrorKind::StorePoisoned, "a sync failed before; open the store again", true)
        }
        heed::Error::Mdb(MdbError::VersionMismatch) => {
            (ErrorKind::StoreFormat, "another version of LMDB wrote it or holds its lock", false)
        }
        heed::Error::Mdb(
            MdbError::Corrupted
            | MdbError::PageNotFound
            | MdbError::Invalid
            | MdbError::CursorFull
            | MdbError::PageFull
            | MdbError::Incompatible
            | MdbError::Problem,
        ) => (ErrorKind::StoreCorrupt, "restore a backup", true),
        heed::Error::EnvAlreadyOpened => (
            ErrorKind::StoreForked,
            "it was open when this process was forked. Fork before it is opened, or start the process \
             by spawning it (multiprocessing.get_context(\"spawn\"))",
            false,
        ),
        _ => (ErrorKind::Io, "close the store and open it again", false),
    };
    let text = match error {
        // What heed advises does not help in a forked process.
        heed::Error::EnvAlreadyOpened => format!("cannot {action} {}: {advice}", file.display()),
        _ => format!("cannot {action} {}: {error}; {advice}", file.display()),
    };
    Failure { error: Error::new(kind, text), poisons }
}
