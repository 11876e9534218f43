//! The owner lock: one process writes.
//!
//! An owner holds `flock` on `owner.lock`, which names its process id. A take-over replaces the
//! file by a new inode with a lock of its own: the old owner may be paused and hold its lock for
//! ever, on a file that has lost its name. What really stops the old owner is the job epoch,
//! which the new one raises in the same hold of LMDB's writer lock in which it replaces the file:
//! of two that take over at once, exactly one stays, and one that gives up has changed nothing.
//!
//! Within a process LMDB must not open an environment twice (closing one would release the locks
//! of the other), so a registry by directory inode shares it, or refuses.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use super::files::{io_error, open_regular};
use super::lmdb::Environment;
use crate::{Error, ErrorKind, Result};

/// The lock's name in the directory.
pub(crate) const OWNER_LOCK: &str = "owner.lock";
/// Locks of take-overs that have not got that name yet start so.
pub(crate) const OWNER_LOCK_NEW: &str = ".owner.lock.";

/// Device and inode: what a file is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileId(u64, u64);

impl FileId {
    pub(crate) fn new(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }

    /// Of the file or directory that has this name now.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let metadata =
            std::fs::metadata(path).map_err(|error| io_error("look at", path, &error))?;
        Ok(Self::new(&metadata))
    }
}

/// The lock while it is held. Dropping it in the process that took it unlocks the file, rather than
/// only closing it: a child that is just being started has a copy of the descriptor until it
/// executes its program, and would keep the lock. In a forked child dropping does nothing, since
/// the lock is its parent's.
#[derive(Debug)]
pub(crate) struct OwnerLock {
    /// The process that took it.
    pid: u32,
    file: File,
    path: PathBuf,
    id: FileId,
}

impl OwnerLock {
    /// Locks `owner.lock`, or says who holds it.
    pub(crate) fn acquire(directory: &Path) -> Result<Self> {
        let path = directory.join(OWNER_LOCK);
        loop {
            let mut file = open(&path, false)?;
            lock(&file, &path, FlockOperation::NonBlockingLockExclusive)?;
            let id = id_of(&file, &path)?;
            // A take-over may have given the name to another file since `open`.
            if FileId::of(&path).is_ok_and(|now| now == id) {
                write_pid(&mut file, &path)?;
                return Ok(Self { pid: std::process::id(), file, path, id });
            }
        }
    }

    /// Puts a new lock file in the place of the present one, whoever holds that.
    pub(crate) fn take_over(directory: &Path) -> Result<Self> {
        let path = directory.join(OWNER_LOCK);
        let mut attempt = 0_u32;
        loop {
            let name = format!("{OWNER_LOCK_NEW}{}.{attempt}", std::process::id());
            attempt += 1;
            let new = directory.join(name);
            let mut file = match open(&new, true) {
                Ok(file) => file,
                // A process of the same id was killed here, or runs in another container.
                Err(_) if attempt < 1000 && new.exists() => continue,
                Err(error) => return Err(error),
            };
            lock(&file, &new, FlockOperation::NonBlockingLockExclusive)?;
            write_pid(&mut file, &new)?;
            let id = id_of(&file, &new)?;
            crate::crash_point!("owner.replace.pre_rename");
            match std::fs::rename(&new, &path) {
                Ok(()) => return Ok(Self { pid: std::process::id(), file, path, id }),
                // The present owner may have removed it as a leftover; once more.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && attempt < 1000 => {}
                Err(error) => return Err(io_error("replace", &path, &error)),
            }
        }
    }

    /// `StoreLocked` if another process has put its own lock file there.
    pub(crate) fn check(&self) -> Result<()> {
        if FileId::of(&self.path).is_ok_and(|id| id == self.id) {
            return Ok(());
        }
        Err(locked(self.path.parent().unwrap_or(&self.path), holder(&self.path)))
    }
}

impl Drop for OwnerLock {
    fn drop(&mut self) {
        if self.pid == std::process::id() {
            // If this fails, closing releases the lock as soon as the last copy is closed.
            let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        }
    }
}

/// Keeps any owner from starting while a reader works without a reader slot.
#[derive(Debug)]
pub(crate) struct ReaderLock {
    #[expect(dead_code, reason = "held for its lock")]
    file: Option<File>,
}

impl ReaderLock {
    /// A shared lock on `owner.lock`, which also works where nothing may be written.
    pub(crate) fn acquire(directory: &Path) -> Result<Self> {
        let path = directory.join(OWNER_LOCK);
        let file = match open_regular(OpenOptions::new().read(true), &path) {
            Ok(file) => file,
            // A backup was never owned: it has no lock file yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { file: None });
            }
            Err(error) => return Err(io_error("open", &path, &error)),
        };
        lock(&file, &path, FlockOperation::NonBlockingLockShared)?;
        Ok(Self { file: Some(file) })
    }
}

fn open(path: &Path, new: bool) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(!new).create_new(new).truncate(false).mode(0o600);
    open_regular(&mut options, path).map_err(|error| io_error("open", path, &error))
}

fn lock(file: &File, path: &Path, operation: FlockOperation) -> Result<()> {
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(locked(path.parent().unwrap_or(path), holder(path)))
        }
        Err(error) => Err(io_error("lock", path, &error.into())),
    }
}

fn id_of(file: &File, path: &Path) -> Result<FileId> {
    let metadata = file.metadata().map_err(|error| io_error("look at", path, &error))?;
    Ok(FileId::new(&metadata))
}

fn write_pid(file: &mut File, path: &Path) -> Result<()> {
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
        .map_err(|error| io_error("write", path, &error))
}

/// The process id that the lock file of a directory names.
pub(crate) fn holder_of(directory: &Path) -> Option<u32> {
    holder(&directory.join(OWNER_LOCK))
}

fn holder(path: &Path) -> Option<u32> {
    let mut text = String::new();
    let file = open_regular(OpenOptions::new().read(true), path).ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// True if the process table can be read and has no such process.
fn invisible(pid: u32) -> bool {
    let table = Path::new("/proc");
    table.join("self").exists() && !table.join(pid.to_string()).exists()
}

/// What to say when somebody else owns the directory.
pub(crate) fn locked(directory: &Path, holder: Option<u32>) -> Error {
    let owner = match holder {
        Some(pid) if pid == std::process::id() => {
            format!("another process of the same id ({pid}), in another container")
        }
        Some(pid) if invisible(pid) => format!(
            "process {pid} (not visible from here: it runs in another container, or it ended and \
             left a child that still holds the lock)"
        ),
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    };
    Error::new(
        ErrorKind::StoreLocked,
        format!(
            "{} is owned by {owner}; stop it first, or give take_over=True to fence it",
            directory.display()
        ),
    )
    .with_process(holder)
}

/// What this process has open of one directory.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// The process that filled it: a forked child starts with an empty one.
    pid: u32,
    owned: Arc<AtomicBool>,
    environment: Weak<Environment>,
}

static REGISTRY: LazyLock<Mutex<HashMap<FileId, Arc<Mutex<Slot>>>>> = LazyLock::new(Mutex::default);

/// The slot of a directory. Hold its lock while opening: that keeps a second one out.
pub(crate) fn slot(directory: FileId) -> Arc<Mutex<Slot>> {
    Arc::clone(REGISTRY.lock().entry(directory).or_default())
}

impl Slot {
    fn refresh(&mut self) {
        let pid = std::process::id();
        if self.pid != pid {
            *self = Self { pid, ..Self::default() };
        }
    }

    /// The environment that this process has open already, if any.
    pub(crate) fn environment(&mut self) -> Option<Arc<Environment>> {
        self.refresh();
        self.environment.upgrade()
    }

    /// Remembers an environment for others to share.
    pub(crate) fn set_environment(&mut self, environment: &Arc<Environment>) {
        self.refresh();
        self.environment = Arc::downgrade(environment);
    }

    /// Marks the directory as owned by this process, once.
    pub(crate) fn claim(&mut self, directory: &Path) -> Result<Claim> {
        self.refresh();
        if self.owned.swap(true, Ordering::AcqRel) {
            return Err(Error::new(
                ErrorKind::StoreLocked,
                format!(
                    "{} is open in this process (process {}) already; share that store, or close \
                     it first",
                    directory.display(),
                    self.pid
                ),
            )
            .with_process(Some(self.pid)));
        }
        Ok(Claim { owned: Arc::clone(&self.owned) })
    }
}

/// The mark of an owner in the registry, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    owned: Arc<AtomicBool>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.owned.store(false, Ordering::Release);
    }
}
