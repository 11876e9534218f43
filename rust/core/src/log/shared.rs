//! What all handles of a process share: one environment and what goes with it.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::gate::Gate;
use super::heartbeat::Heartbeats;
use super::inbox::Inboxes;
use super::options::LogOptions;
use super::wake::Wake;
use super::{clock, commit, compact, maintain, open, times};
use crate::environment::lmdb::Environment;
use crate::environment::manifest::Manifest;
use crate::environment::usable;
use crate::{Error, ErrorKind, Result};

/// What all handles of a process share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) directory: PathBuf,
    pub(super) manifest: Manifest,
    pub(super) options: LogOptions,
    pub(super) map_size_bytes: usize,
    /// The process that opened it.
    pub(super) pid: u32,
    /// `None` only while it is being closed.
    pub(super) environment: Option<Arc<Environment>>,
    /// `None` for a reader.
    pub(super) gate: Option<Gate>,
    pub(super) committer: commit::Committer,
    pub(super) wake: Wake,
    pub(super) clock: clock::Clock,
    pub(super) heartbeats: Heartbeats,
    pub(super) inboxes: Inboxes,
    pub(super) times: times::TimeIndex,
    /// Where the walk of `maintain` goes on.
    pub(super) cursor: Mutex<maintain::Cursor>,
    pub(super) compaction: Mutex<Option<compact::Compaction>>,
}

impl Shared {
    /// The environment, if this process may use it.
    pub(super) fn environment(&self) -> Result<&Arc<Environment>> {
        usable(self.environment.as_ref(), self.pid, &self.directory)
    }

    /// The environment, unless a write of this process has failed.
    pub(super) fn writable(&self) -> Result<&Arc<Environment>> {
        let environment = self.environment()?;
        if environment.is_poisoned() { Err(self.poisoned()) } else { Ok(environment) }
    }

    pub(super) fn check_writable(&self) -> Result<()> {
        self.writable()?;
        self.gate().map(|_| ())
    }

    pub(super) fn gate(&self) -> Result<&Gate> {
        self.gate.as_ref().ok_or_else(|| {
            let text = format!("{} was opened with read_only", self.directory.display());
            Error::new(ErrorKind::StoreReadOnly, text)
        })
    }

    pub(super) fn poisoned(&self) -> Error {
        Error::new(
            ErrorKind::StorePoisoned,
            format!(
                "{} may not be written after a failed write of this process; close all its \
                 handles and open it again",
                self.directory.display()
            ),
        )
    }

    /// Raises the manifest's lower bounds; whoever is inside the gate calls it.
    pub(super) fn raise_manifest(&self) -> Result<()> {
        open::raise_manifest(&self.directory, self.environment()?, &self.manifest)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            // The parent's: closing would be harmless to it at best.
            std::mem::forget(self.environment.take());
            return;
        }
        let poisoned = self.environment.as_ref().is_none_or(|one| one.is_poisoned());
        if let (false, Some(gate)) = (poisoned, &self.gate)
            && let Ok(Some(passed)) = gate.try_pass()
        {
            // A manifest that could not be raised is still a lower bound.
            let _ = self.raise_manifest();
            drop(passed);
        }
    }
}
