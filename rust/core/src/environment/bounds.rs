//! What the data file holds at least, noted after each commit.
//!
//! The manifest's lower bounds are raised rarely, since replacing a file durably costs a sync. An
//! older copy of the data file alone, put back beside a manifest that is not much newer, would pass.
//! So each commit also writes its transaction and the file's length into a file of 32 bytes beside
//! the manifest, in place and without a sync, which costs a microsecond. It is written after the
//! commit is durable, so whatever of it survives a crash is true; what a crash has torn fails its
//! checksum and says nothing.
//!
//! ```text
//! magic 8 │ transaction u64 │ length u64 │ XXH3-64 of these 24 bytes      little-endian
//! ```
//!
//! Not found: a whole directory that is put back, and a copy that lacks only the last transaction
//! if the process was killed between its commit and the note.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::files::{io_error, open_regular};
use crate::Result;

/// Its name in the directory.
pub(crate) const BOUNDS: &str = "bounds";

const MAGIC: &[u8; 8] = b"OFBOUND1";
const BYTES: usize = 32;

/// The data file holds this transaction, and has this length, or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) transaction: u64,
    pub(crate) length_bytes: u64,
}

impl Bounds {
    fn encode(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let (transaction, length) =
            (self.transaction.to_le_bytes(), self.length_bytes.to_le_bytes());
        let (body, checksum) = bytes.split_at_mut(BYTES - 8);
        body.copy_from_slice(&[MAGIC.as_slice(), &transaction, &length].concat());
        checksum.copy_from_slice(&xxh3_64(body).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let bounds = Self { transaction: number(8)?, length_bytes: number(16)? };
        (bounds.encode() == *bytes).then_some(bounds)
    }
}

/// What is noted in `directory`; `None` if nothing is, or what a crash has torn.
pub(crate) fn read(directory: &Path) -> Result<Option<Bounds>> {
    let path = directory.join(BOUNDS);
    let file = match open_regular(OpenOptions::new().read(true), &path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("open", &path, &error)),
    };
    let mut bytes = [0; BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(Bounds::decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(io_error("read", &path, &error)),
    }
}

/// Where a writer notes them.
#[derive(Debug)]
pub(crate) struct Note(File);

impl Note {
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let path = directory.join(BOUNDS);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        open_regular(&mut options, &path).map(Self).map_err(|error| io_error("open", &path, &error))
    }

    /// Notes what is durable. What cannot be written is no error: older bounds are true as well.
    pub(crate) fn write(&self, bounds: Bounds) {
        let _ = self.0.write_all_at(&bounds.encode(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_torn_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()).unwrap(), None);
        let bounds = Bounds { transaction: 7, length_bytes: 1 << 20 };
        Note::open(directory.path()).unwrap().write(bounds);
        assert_eq!(read(directory.path()).unwrap(), Some(bounds));
        let whole = std::fs::read(directory.path().join(BOUNDS)).unwrap();
        for at in 0..BYTES {
            let mut torn = whole.clone();
            torn[at] ^= 1;
            std::fs::write(directory.path().join(BOUNDS), &torn).unwrap();
            assert_eq!(read(directory.path()).unwrap(), None, "byte {at}");
            std::fs::write(directory.path().join(BOUNDS), &whole[..at]).unwrap();
            assert_eq!(read(directory.path()).unwrap(), None, "cut at {at}");
        }
    }
}
