//! Opening a log: created if need be, checked, and shared within the process.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::clock::Clock;
use super::commit::Committer;
use super::gate::Gate;
use super::heartbeat::Heartbeats;
use super::inbox::Inboxes;
use super::layout::{FORMAT_VERSION, HEAD_KEY, Head, Table};
use super::options::LogOptions;
use super::shared::Shared;
use super::times::TimeIndex;
use super::view::{head, put_head};
use super::wake::Wake;
use crate::environment::creation::{self, Found, discard_leftovers, look};
use crate::environment::files::{create_private_directory, exists, io_error};
use crate::environment::lmdb::{Access, Environment, Read};
use crate::environment::lock::{FileId, OwnerLock, holder_of};
use crate::environment::manifest::{Kind, Manifest, newer_format};
use crate::environment::opening::{enter, open_environment, read_manifest};
use crate::environment::{corrupt, whole_pages};
use crate::{Error, ErrorKind, Result};

/// How long to wait for another process that is creating the same log.
const CREATION_TRIES: u32 = 500;
const CREATION_PAUSE: Duration = Duration::from_millis(20);

/// The first id of a producer: 0 stays free, so that it is never mistaken for "none".
const FIRST_PRODUCER: i64 = 1;

/// What this process has open, by directory: LMDB must not open a file twice in a process, so
/// everybody shares one environment.
type Registry = HashMap<FileId, Arc<Mutex<Slot>>>;

#[derive(Debug, Default)]
struct Slot {
    /// The process that filled it; a forked child starts with an empty one.
    pid: u32,
    shared: Weak<Shared>,
}

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

/// Opens (or, if asked, creates) the log of `directory`; see `Log::open`.
pub(super) fn open(directory: &Path, options: &LogOptions) -> Result<Arc<Shared>> {
    let map_size_bytes = whole_pages(options.map_size_bytes)?;
    let directory = enter(directory, options.create && !options.read_only)?;
    let slot = Arc::clone(REGISTRY.lock().entry(FileId::of(&directory)?).or_default());
    let mut slot = slot.lock();
    if slot.pid == std::process::id()
        && let Some(shared) = slot.shared.upgrade()
    {
        return share(shared, options);
    }
    if !options.read_only {
        create(&directory, options, map_size_bytes)?;
    }
    let manifest = read_manifest(&directory, Kind::Log)?;
    let access = if options.read_only { Access::Reader } else { Access::Owner };
    let environment =
        open_environment::<Table>(&directory, &manifest, map_size_bytes, access, None)?;
    check_head(&environment.read()?, &manifest, &directory)?;
    environment.clear_stale_readers()?;
    let gate = if options.read_only { None } else { Some(Gate::open(&directory)?) };
    let shared = Arc::new(Shared {
        wake: Wake::open(&directory, options.read_only)?,
        gate,
        clock: Clock::new(&directory),
        heartbeats: Heartbeats::open(&directory, options.read_only)?,
        inboxes: Inboxes::open(&directory, options.read_only)?,
        times: TimeIndex::default(),
        committer: Committer::default(),
        environment: Some(environment),
        manifest,
        map_size_bytes,
        options: options.clone(),
        pid: std::process::id(),
        cursor: Mutex::default(),
        compaction: Mutex::default(),
        directory,
    });
    *slot = Slot { pid: std::process::id(), shared: Arc::downgrade(&shared) };
    Ok(shared)
}

/// Another handle of a log that this process has open.
fn share(shared: Arc<Shared>, options: &LogOptions) -> Result<Arc<Shared>> {
    if shared.environment()?.is_poisoned() {
        return Err(shared.poisoned());
    }
    if shared.options.read_only && !options.read_only {
        let text = format!(
            "{} is open with read_only in this process; close that first",
            shared.directory.display()
        );
        return Err(Error::new(ErrorKind::StoreLocked, text));
    }
    Ok(shared)
}

/// Creates the log if there is none; waits for another process that is doing so.
fn create(directory: &Path, options: &LogOptions, map_size_bytes: usize) -> Result<()> {
    let mut tries = 0;
    loop {
        let left_over = directory.join(creation::CREATING).exists();
        if look(directory)? == Found::Store && !left_over {
            return Ok(());
        }
        let lock = match OwnerLock::acquire(directory) {
            Err(error) if error.kind() == ErrorKind::StoreLocked => {
                tries += 1;
                if tries > CREATION_TRIES {
                    return Err(stuck_creating(directory));
                }
                std::thread::sleep(CREATION_PAUSE);
                continue;
            }
            lock => lock?,
        };
        // Again, under the lock: another process may have created it meanwhile.
        if look(directory)? == Found::Store {
            discard_leftovers(directory)?;
        } else if options.create {
            let manifest = Manifest::new(Kind::Log, options.store_id);
            let mut head = Head {
                format: FORMAT_VERSION,
                store_id: manifest.store_id.clone(),
                transaction: 0,
                next_topic: 1,
                next_producer: FIRST_PRODUCER,
                producers: 0,
            };
            creation::build::<Table>(directory, manifest, map_size_bytes, |txn| {
                put_head(txn, &mut head)
            })?;
        }
        drop(lock);
        return Ok(());
    }
}

/// Makes a directory of ours within that of the log, unless it is there; a link is none.
pub(super) fn enter_private_directory(path: &Path) -> Result<()> {
    let made = match exists(path)? {
        true => Ok(()),
        false => create_private_directory(path),
    };
    // Another process may have been faster.
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(io_error("enter", path, &std::io::Error::other("it is not a directory"))),
        Err(error) => made.and(Err(io_error("enter", path, &error))),
    }
}

/// What to say when whoever creates the log does not come to an end.
fn stuck_creating(directory: &Path) -> Error {
    let holder = holder_of(directory);
    let process = holder.map_or("another process".to_owned(), |id| format!("process {id}"));
    Error::new(
        ErrorKind::StoreLocked,
        format!(
            "{} is being created by {process}, which has been at it for {:.0} s: it is paused, or its \
             disk is stuck. Let it go on, or kill it",
            directory.display(),
            (CREATION_PAUSE * CREATION_TRIES).as_secs_f64()
        ),
    )
    .with_process(holder)
}

/// Compares the head with the manifest and with the transaction that it says to be of.
fn check_head(txn: &Read<'_>, manifest: &Manifest, directory: &Path) -> Result<()> {
    let head = head(txn.get(Table::Meta, HEAD_KEY)?)?;
    if head.format > FORMAT_VERSION {
        return Err(newer_format(u64::from(head.format), FORMAT_VERSION, directory));
    }
    let damaged =
        |reason: String| corrupt(format!("{}: {reason}; restore a backup", directory.display()));
    if head.store_id != manifest.store_id {
        return Err(damaged(format!(
            "the manifest is that of log {}, but the data file is of log {}",
            manifest.store_id, head.store_id
        )));
    }
    if head.transaction != txn.transaction() {
        return Err(damaged(format!(
            "the data file is at transaction {}, but its content is of transaction {}",
            txn.transaction(),
            head.transaction
        )));
    }
    if head.transaction < manifest.newest_transaction {
        return Err(damaged(format!(
            "the data file is at transaction {}, but was at {} before: it was replaced by an older \
             one",
            head.transaction, manifest.newest_transaction
        )));
    }
    Ok(())
}

/// Raises the manifest's lower bounds to what is durable. Needs the gate, so that the manifest is
/// not put back by somebody slow.
pub(super) fn raise_manifest(
    directory: &Path,
    environment: &Environment,
    manifest: &Manifest,
) -> Result<()> {
    let mut raised = manifest.clone();
    let head = head(environment.read()?.get(Table::Meta, HEAD_KEY)?)?;
    raised.newest_transaction = head.transaction;
    raised.min_length_bytes = environment.file_bytes()?;
    raised.replace(directory)
}
