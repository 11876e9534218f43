//! LMDB made safe: one environment in a private directory, whatever it holds.
//!
//! - Creation is power-safe (`creation`); a manifest beside the data file says what it is and gives
//!   lower bounds (`manifest`, `bounds`), checked before anything is mapped (`opening`).
//! - The pages are walked with plain reads before LMDB follows them (`pages`); each value carries a
//!   checksum that is bound to its key (`value`).
//! - One owner at a time, one environment a process, none in a forked child (`lock`, `usable`).
//!
//! What the databases are and mean is for those who open it: the store of a job and the log.

mod bounds;
pub(crate) mod creation;
pub(crate) mod files;
pub(crate) mod lmdb;
pub(crate) mod lock;
pub(crate) mod manifest;
pub(crate) mod opening;
mod pages;
pub(crate) mod value;

use std::path::Path;
use std::sync::Arc;

use lmdb::Environment;
use pages::MAX_MAP_BYTES;

use crate::{Error, ErrorKind, Result};

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct StoreSize {
    /// Length of the data file.
    pub file_bytes: u64,
    /// Bytes of pages in use by chunks, records and the trees over them.
    pub used_bytes: u64,
}

/// Damage, with a text that already says where.
pub(crate) fn corrupt(text: String) -> Error {
    Error::new(ErrorKind::StoreCorrupt, text)
}

/// `bytes` rounded up to whole pages.
pub(crate) fn whole_pages(bytes: usize) -> Result<usize> {
    const MIN: usize = 64 << 10;
    if (MIN..=MAX_MAP_BYTES as usize).contains(&bytes) {
        // Page sizes up to 64 KiB exist.
        return Ok(bytes.next_multiple_of(64 << 10));
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!("map_size_bytes is {bytes}, but must lie between {MIN} and {MAX_MAP_BYTES}"),
    )
    .with_argument("map_size_bytes"))
}

/// An environment that is open, in the process that opened it: LMDB does not survive a fork.
pub(crate) fn usable<'a>(
    environment: Option<&'a Arc<Environment>>,
    opened_by: u32,
    directory: &Path,
) -> Result<&'a Arc<Environment>> {
    check_process(opened_by, directory)?;
    environment
        .ok_or_else(|| Error::new(ErrorKind::Closed, format!("{} was closed", directory.display())))
}

/// `StoreForked` in another process than the one that opened it.
pub(crate) fn check_process(opened_by: u32, directory: &Path) -> Result<()> {
    let process = std::process::id();
    if opened_by == process {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::StoreForked,
        format!(
            "{} was opened by process {opened_by} and is used in process {process}, forked from it; fork \
             before it is opened, or start the process by spawning it",
            directory.display()
        ),
    ))
}
