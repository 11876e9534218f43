//! Heartbeats of consumer group members: a time in a small file each, never synced.
//!
//! A heartbeat must reach the other processes of this machine, not survive a power cut: after one,
//! all members are gone. So it costs no commit.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::open::enter_private_directory;
use crate::Result;
use crate::environment::files::{io_error, open_regular, remove};

const MEMBERS: &str = "members";

#[derive(Debug)]
pub(super) struct Heartbeats {
    directory: PathBuf,
}

impl Heartbeats {
    pub(super) fn open(directory: &Path, read_only: bool) -> Result<Self> {
        let directory = directory.join(MEMBERS);
        if !read_only {
            enter_private_directory(&directory)?;
        }
        Ok(Self { directory })
    }

    /// Notes that a member is alive.
    pub(super) fn beat(&self, group: &str, member: &str, now_ms: i64) -> Result<()> {
        let path = self.path(group, member);
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600);
        open_regular(&mut options, &path)
            .and_then(|file| file.write_all_at(&now_ms.to_le_bytes(), 0))
            .map_err(|error| io_error("write", &path, &error))
    }

    /// When a member was last alive, if it ever said so.
    pub(super) fn last(&self, group: &str, member: &str) -> Option<i64> {
        let mut bytes = [0; 8];
        let file = open_regular(File::options().read(true), &self.path(group, member)).ok()?;
        file.read_exact_at(&mut bytes, 0).ok()?;
        Some(i64::from_le_bytes(bytes))
    }

    /// A member is gone.
    pub(super) fn forget(&self, group: &str, member: &str) {
        // What stays behind is a few bytes, and nobody looks at it.
        let _ = remove(&self.path(group, member));
    }

    fn path(&self, group: &str, member: &str) -> PathBuf {
        let name = [group.as_bytes(), b"\0", member.as_bytes()].concat();
        self.directory.join(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&name)))
    }
}
