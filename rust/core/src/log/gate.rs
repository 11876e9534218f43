//! The gate: one process commits at a time.
//!
//! LMDB's own writer lock would do, but waiting for it has no time limit, and its holder no name: a
//! process that was paused in the middle of a commit would hang all others without a word. So
//! whoever wants to commit takes `flock` on `commit.lock` first, which can be tried.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::environment::files::{io_error, open_regular};
use crate::{Error, ErrorKind, Result};

/// The lock's name in the directory.
const COMMIT_LOCK: &str = "commit.lock";

#[derive(Debug)]
pub(super) struct Gate {
    file: File,
    path: PathBuf,
}

/// The right to commit, while it lives.
#[derive(Debug)]
pub(super) struct Passed<'g> {
    gate: &'g Gate,
}

impl Gate {
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let path = directory.join(COMMIT_LOCK);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file =
            open_regular(&mut options, &path).map_err(|error| io_error("open", &path, &error))?;
        Ok(Self { file, path })
    }

    /// Passes, unless another process is inside.
    pub(super) fn try_pass(&self) -> Result<Option<Passed<'_>>> {
        match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let name = format!("{:>10}\n", std::process::id());
                // Only for people: without it they do not learn who is inside.
                let _ = self.file.write_all_at(name.as_bytes(), 0);
                Ok(Some(Passed { gate: self }))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(io_error("lock", &self.path, &error.into())),
        }
    }

    /// What to say when whoever is inside does not come out.
    pub(super) fn stuck(&self, waited: Duration) -> Error {
        let mut name = [0; 10];
        let inside = match self.file.read_exact_at(&mut name, 0) {
            Ok(()) => String::from_utf8_lossy(&name).trim().to_owned(),
            Err(_) => "unknown".to_owned(),
        };
        Error::new(
            ErrorKind::LogTimeout,
            format!(
                "{}: process {inside} has been committing for {:.1} s: it is paused, or its disk \
                 is stuck. Let it go on, or kill it. Whether this request will be applied is not \
                 known: repeat it (a retry of a producer is recognised)",
                self.path.display(),
                waited.as_secs_f64()
            ),
        )
        .with_process(inside.parse().ok())
    }
}

impl Drop for Passed<'_> {
    fn drop(&mut self) {
        // If this fails, closing the file unlocks it.
        let _ = rustix::fs::flock(&self.gate.file, FlockOperation::Unlock);
    }
}
