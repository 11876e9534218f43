//! Power-safe creation: whatever is cut short leaves either the whole store or none.
//!
//! LMDB's own creation is not safe: a file whose meta pages were not synced opens as damaged, or
//! as empty. So a store is built in the directory `.onceflow-creating` inside its own directory
//! (which may be a mount point, and whose parent may belong to somebody else), synced, and then
//! gets its name in two renames, data first; the manifest's name is what makes it exist:
//!
//! | found                                              | means                               |
//! |----------------------------------------------------|-------------------------------------|
//! | `manifest.json`                                    | a store                             |
//! | `.onceflow-creating` with `data` or no manifest    | cut short: removed                  |
//! | `.onceflow-creating` with a manifest but no `data` | cut short between the renames: `data` was never in use and is removed too |
//! | `data` alone                                       | a store that lost its manifest: refused |
//!
//! The owner lock is held meanwhile, so that two processes do not create at once.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, RenameFlags};

use super::bounds::BOUNDS;
use super::corrupt;
use super::files::{
    create_private_directory, create_private_file, exists, io_error, refuse_network_filesystem,
    remove, sync_directory, sync_file,
};
use super::lmdb::{Access, DATA_FILE, Database, Environment, Failure, Transaction};
use super::lock::{OWNER_LOCK, OWNER_LOCK_NEW};
use super::manifest::{MANIFEST, MANIFEST_NEW, Manifest};
use crate::{Error, ErrorKind, Result};

/// Directory of the data file.
pub(crate) const DATA: &str = "data";
/// A store that is being created.
pub(crate) const CREATING: &str = ".onceflow-creating";

/// What a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Store,
    /// Nothing, or leftovers of ours.
    Nothing,
}

/// Looks at a directory without changing it; refuses what is not ours.
pub(crate) fn look(directory: &Path) -> Result<Found> {
    let manifest = directory.join(MANIFEST);
    if exists(&manifest)? {
        return Ok(Found::Store);
    }
    match look_for_strangers(directory) {
        // Another process finished its creation meanwhile: what was met is its.
        Err(_) if exists(&manifest)? => Ok(Found::Store),
        looked => looked.map(|()| Found::Nothing),
    }
}

/// Refuses a directory without a manifest that holds anything but leftovers of ours.
fn look_for_strangers(directory: &Path) -> Result<()> {
    let entries = std::fs::read_dir(directory)
        .map_err(|error| io_error("list the directory", directory, &error))?;
    let creating = exists(&directory.join(CREATING))?;
    for entry in entries {
        let entry = entry.map_err(|error| io_error("list the directory", directory, &error))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        match name.as_ref() {
            OWNER_LOCK | CREATING | MANIFEST_NEW | BOUNDS | "lost+found" => {}
            _ if name.starts_with(OWNER_LOCK_NEW) => {}
            DATA if creating => {}
            DATA if exists(&entry.path().join(DATA_FILE))? => {
                return Err(corrupt(format!(
                    "{} has a data file but no {MANIFEST}; restore a backup",
                    directory.display()
                )));
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::StoreFormat,
                    format!(
                        "{} is not empty and not an onceflow state directory (it holds \
                         {name:?}); choose a new or an empty directory",
                        directory.display()
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Removes what a creation, a take-over or a replaced manifest left behind. Needs the owner lock.
pub(crate) fn discard_leftovers(directory: &Path) -> Result<()> {
    let creating = directory.join(CREATING);
    if exists(&creating)? {
        let between_renames = exists(&creating.join(MANIFEST))? && !exists(&creating.join(DATA))?;
        if between_renames && !exists(&directory.join(MANIFEST))? {
            remove(&directory.join(DATA))?;
            sync_directory(directory)?;
        }
        remove(&creating)?;
    }
    remove(&directory.join(MANIFEST_NEW))?;
    let entries = std::fs::read_dir(directory)
        .map_err(|error| io_error("list the directory", directory, &error))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(OWNER_LOCK_NEW) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Creates an environment with the databases `D`, whose first transaction is `fill`, beside its
/// manifest, in a directory that `look` found to hold none. Needs the owner lock.
pub(crate) fn build<D: Database>(
    directory: &Path,
    mut manifest: Manifest,
    map_size_bytes: usize,
    fill: impl FnOnce(&mut Transaction<'_>) -> std::result::Result<(), Failure>,
) -> Result<()> {
    discard_leftovers(directory)?;
    let creating = directory.join(CREATING);
    let data = creating.join(DATA);
    create_private_directory(&creating)?;
    create_private_directory(&data)?;
    crate::crash_point!("env.create.pre_header");

    let environment = Environment::create::<D>(&data, map_size_bytes)?;
    seal(&environment, &mut manifest, fill)?;
    drop(environment);
    manifest.write_new(&creating)?;
    crate::crash_point!("env.create.pre_sync");
    sync_tree(&creating)?;
    crate::crash_point!("env.create.pre_rename");

    rename(&data, &directory.join(DATA))?;
    sync_directory(directory)?;
    crate::crash_point!("env.create.mid_rename");
    rename(&creating.join(MANIFEST), &directory.join(MANIFEST))?;
    crate::crash_point!("env.create.pre_dirsync");
    sync_directory(directory)?;
    remove(&creating)?;
    if let Some(parent) = directory.parent() {
        sync_directory(parent)?;
    }
    Ok(())
}

/// Runs a transaction, whose number `fill` notes in the head, and sets the manifest's lower bounds.
fn seal(
    environment: &Environment,
    manifest: &mut Manifest,
    fill: impl FnOnce(&mut Transaction<'_>) -> std::result::Result<(), Failure>,
) -> Result<()> {
    environment
        .write(|txn| {
            manifest.newest_transaction = txn.transaction();
            fill(txn)
        })
        .map_err(|failure| failure.error)?;
    manifest.min_length_bytes = environment.file_bytes()?;
    Ok(())
}

/// Makes a store that has no name yet durable, from the leaves to the root.
fn sync_tree(root: &Path) -> Result<()> {
    let data = root.join(DATA);
    sync_file(&data.join(DATA_FILE))?;
    sync_directory(&data)?;
    sync_directory(root)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(|error| io_error("create", to, &error))
}

/// A consistent copy of an open store in a directory that does not exist yet.
///
/// It is built in a sibling directory `.NAME.onceflow-backup`, which holds a lock (on itself)
/// while a backup runs, and which the next backup to the same target clears.
///
/// LMDB numbers the copy's transactions anew, so `reseal` must write the head again.
pub(crate) fn backup<D: Database>(
    environment: &Environment,
    manifest: &Manifest,
    target: &Path,
    map_size_bytes: usize,
    reseal: impl FnOnce(&mut Transaction<'_>) -> std::result::Result<(), Failure>,
) -> Result<()> {
    let name = target.file_name().ok_or_else(|| {
        let text = format!("{} names no directory to create", target.display());
        Error::new(ErrorKind::InvalidArgument, text)
    })?;
    let occupied = || {
        let text = format!("{} exists already; back up into a new directory", target.display());
        Error::new(ErrorKind::InvalidArgument, text)
    };
    if exists(target)? {
        return Err(occupied());
    }
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    refuse_network_filesystem(&parent)?;
    let building = parent.join(format!(".{}.onceflow-backup", name.to_string_lossy()));
    if !exists(&building)? {
        create_private_directory(&building)?;
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let lock = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(&building)
        .map_err(|error| io_error("open the directory", &building, &error))?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        let text = format!("another backup to {} is running; wait for it", target.display());
        Error::new(ErrorKind::StoreLocked, text)
    })?;

    let copied = copy::<D>(environment, manifest, &building, map_size_bytes, reseal);
    let outcome = copied.and_then(|()| {
        crate::crash_point!("backup.pre_rename");
        rustix::fs::renameat_with(
            rustix::fs::CWD,
            &building,
            rustix::fs::CWD,
            target,
            RenameFlags::NOREPLACE,
        )
        .map_err(|error| match error {
            rustix::io::Errno::EXIST => occupied(),
            error => io_error("create", target, &error.into()),
        })
    });
    if let Err(error) = outcome {
        // Best effort: what stays behind is cleared by the next backup to this target.
        let _ = remove(&building);
        return Err(error);
    }
    crate::crash_point!("backup.pre_dirsync");
    sync_directory(&parent)
}

fn copy<D: Database>(
    environment: &Environment,
    manifest: &Manifest,
    building: &Path,
    map_size_bytes: usize,
    reseal: impl FnOnce(&mut Transaction<'_>) -> std::result::Result<(), Failure>,
) -> Result<()> {
    let data = building.join(DATA);
    remove(&data)?;
    remove(&building.join(MANIFEST))?;
    create_private_directory(&data)?;
    let mut file = create_private_file(&data.join(DATA_FILE))?;
    environment.copy_to(&mut file)?;
    drop(file);
    crate::crash_point!("backup.mid_copy");

    let copy = Environment::open::<D>(&data, map_size_bytes, Access::Owner, None)?;
    let mut manifest = manifest.clone();
    seal(&copy, &mut manifest, reseal)?;
    drop(copy);
    manifest.write_new(building)?;
    sync_tree(building)
}
