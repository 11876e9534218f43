//! Opening an environment: the directory, its manifest, then the data file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::corrupt;
use super::creation::{self, DATA, Found};
use super::files::{
    create_private_directory, exists, io_error, make_private, refuse_irregular,
    refuse_network_filesystem, sync_directory,
};
use super::lmdb::{Access, DATA_FILE, Database, Environment, LOCK_FILE};
use super::lock::ReaderLock;
use super::manifest::{Kind, Manifest};
use crate::{Error, ErrorKind, Result};

/// The canonical path of a directory that exists now, or was made because it may be created.
pub(crate) fn enter(directory: &Path, create: bool) -> Result<PathBuf> {
    if !exists(directory)? {
        if !create {
            return Err(missing(directory));
        }
        let parent = match directory.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(parent)
            .map_err(|error| io_error("create the directory", parent, &error))?;
        refuse_network_filesystem(parent)?;
        match create_private_directory(directory) {
            // Another process was faster; the lock will tell.
            Err(_) if directory.is_dir() => {}
            other => other?,
        }
        sync_directory(parent)?;
    }
    let directory = directory
        .canonicalize()
        .map_err(|error| io_error("open the directory", directory, &error))?;
    check_directory(&directory)?;
    // Before anything is written there: a foreign directory stays as it is.
    if creation::look(&directory)? == Found::Nothing && !create {
        return Err(missing(&directory));
    }
    // It may have been made by somebody else, for all to write. Where it cannot be changed (a volume
    // of another user), the files in it are private all the same.
    let _ = make_private(&directory);
    Ok(directory)
}

/// The canonical path of a directory that holds a store.
pub(crate) fn enter_existing(directory: &Path) -> Result<PathBuf> {
    let directory = match directory.canonicalize() {
        Ok(directory) => directory,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(missing(directory));
        }
        Err(error) => return Err(io_error("open", directory, &error)),
    };
    check_directory(&directory)?;
    if creation::look(&directory)? == Found::Nothing {
        return Err(missing(&directory));
    }
    Ok(directory)
}

fn check_directory(directory: &Path) -> Result<()> {
    if !directory.is_dir() {
        return Err(Error::new(
            ErrorKind::StoreFormat,
            format!("{} is a file, not a state directory", directory.display()),
        ));
    }
    refuse_network_filesystem(directory)
}

fn missing(directory: &Path) -> Error {
    Error::new(
        ErrorKind::StoreMissing,
        format!("{} holds no store; check the path, or give create=True", directory.display()),
    )
}

/// The manifest of `directory`, which must hold an environment of this kind.
pub(crate) fn read_manifest(directory: &Path, kind: Kind) -> Result<Manifest> {
    let manifest = Manifest::read(directory)?.ok_or_else(|| missing(directory))?;
    manifest.check_kind(directory, kind)?;
    Ok(manifest)
}

/// True if LMDB's reader table can be written (or made).
pub(crate) fn can_take_slot(directory: &Path) -> bool {
    let data = directory.join(DATA);
    let table = data.join(LOCK_FILE);
    let target = if table.exists() { table } else { data };
    rustix::fs::access(&target, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Checks the data file against the manifest, then its pages, then maps it.
pub(crate) fn open_environment<D: Database>(
    directory: &Path,
    manifest: &Manifest,
    map_size_bytes: usize,
    access: Access,
    guard: Option<ReaderLock>,
) -> Result<Arc<Environment>> {
    let data = directory.join(DATA);
    let file = data.join(DATA_FILE);
    refuse_irregular(&file)?;
    let length = match std::fs::metadata(&file) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(corrupt(format!(
                "the data file {} is missing; restore a backup",
                file.display()
            )));
        }
        Err(error) => return Err(io_error("measure", &file, &error)),
    };
    if length < manifest.min_length_bytes {
        return Err(corrupt(format!(
            "{} has {length} bytes, but had {} before: it was truncated or replaced by an older \
             one; restore a backup",
            file.display(),
            manifest.min_length_bytes
        )));
    }
    let environment = Environment::open::<D>(&data, map_size_bytes, access, guard)?;
    Ok(Arc::new(environment))
}
