//! The manifest beside the data file, checked before anything is mapped.
//!
//! LMDB opens a 0-byte file as an empty database and cannot tell an old copy from the newest
//! one. The manifest names the store and gives lower bounds (newest transaction, length): what
//! lies below them is damage for certain. They are raised now and then, not at each commit;
//! what is newer is in `bounds`.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::bounds;
use super::corrupt;
use super::files::{io_error, open_regular, write_synced};
use crate::{Detail, Error, ErrorKind, Result};

/// The newest format of an environment's directory that this version writes and reads: of manifest,
/// bounds and sealed values. What the databases hold has a format of its own.
const FORMAT_VERSION: u32 = 1;

/// Its name in the directory.
pub(crate) const MANIFEST: &str = "manifest.json";
/// A replacement that has not got its name yet.
pub(crate) const MANIFEST_NEW: &str = ".manifest.json.new";
/// Larger than any manifest we write; a bound on what is read.
const MAX_BYTES: u64 = 64 << 10;

/// What an environment holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    #[default]
    State,
    Log,
}

impl Kind {
    fn is_state(&self) -> bool {
        *self == Self::State
    }

    fn name(self) -> &'static str {
        match self {
            Self::State => "the state of a job",
            Self::Log => "a log",
        }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    /// Not written for state, which was there first.
    #[serde(default, skip_serializing_if = "Kind::is_state")]
    pub(crate) kind: Kind,
    /// 32 hex digits.
    pub(crate) store_id: String,
    /// A log belongs to no job: empty.
    pub(crate) job: String,
    pub(crate) key_groups: u16,
    /// The data file holds this LMDB transaction or a newer one.
    pub(crate) newest_transaction: u64,
    /// The data file has at least this length.
    pub(crate) min_length_bytes: u64,
    /// XXH3-64 of the manifest with this field empty, 16 hex digits.
    checksum: String,
}

/// The one field that every format keeps, read before the rest is understood.
#[derive(Deserialize)]
struct AnyFormat {
    format: u64,
}

impl Manifest {
    /// That of an environment that is created now; a store adds its job and key groups.
    pub(crate) fn new(kind: Kind, store_id: u128) -> Self {
        Self {
            format: FORMAT_VERSION,
            kind,
            store_id: format!("{store_id:032x}"),
            job: String::new(),
            key_groups: 0,
            newest_transaction: 0,
            min_length_bytes: 0,
            checksum: String::new(),
        }
    }

    /// Refuses a directory that holds something else.
    pub(crate) fn check_kind(&self, directory: &Path, kind: Kind) -> Result<()> {
        if self.kind == kind {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::StoreMismatch,
            format!(
                "{} holds {}, but was opened as {}; give each a directory of its own",
                directory.display(),
                self.kind.name(),
                kind.name()
            ),
        )
        .with(Detail::Setting {
            setting: "kind",
            stored: self.kind.name().to_owned(),
            given: kind.name().to_owned(),
        }))
    }

    /// Reads and checks the manifest of `directory`, with the newest bounds; `None` if there is none.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(MANIFEST);
        let file = match open_regular(OpenOptions::new().read(true), &path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", &path, &error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|error| io_error("read", &path, &error))?;
        let mut manifest = Self::decode(&bytes, &path)?;
        if let Some(newer) = bounds::read(directory)? {
            manifest.newest_transaction = manifest.newest_transaction.max(newer.transaction);
            manifest.min_length_bytes = manifest.min_length_bytes.max(newer.length_bytes);
        }
        Ok(Some(manifest))
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Self> {
        let damaged =
            |what: String| corrupt(format!("the manifest {} is damaged: {what}", path.display()));
        let any: AnyFormat =
            serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if any.format > u64::from(FORMAT_VERSION) {
            return Err(newer_format(any.format, FORMAT_VERSION, path));
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        let expected = manifest.digest()?;
        if manifest.checksum != expected {
            return Err(damaged(format!(
                "its checksum is {} but its content gives {expected}",
                manifest.checksum
            )));
        }
        Ok(manifest)
    }

    /// Writes it into a directory that is not in use yet.
    pub(crate) fn write_new(&self, directory: &Path) -> Result<()> {
        write_synced(&directory.join(MANIFEST), &self.encode()?)
    }

    /// Replaces the manifest of `directory` atomically. The new name need not be durable at once:
    /// the old manifest is a valid lower bound too.
    pub(crate) fn replace(&self, directory: &Path) -> Result<()> {
        let (new, path) = (directory.join(MANIFEST_NEW), directory.join(MANIFEST));
        write_synced(&new, &self.encode()?)?;
        crate::crash_point!("manifest.replace.pre_rename");
        std::fs::rename(&new, &path).map_err(|error| io_error("replace", &path, &error))
    }

    fn digest(&self) -> Result<String> {
        let bare = Self { checksum: String::new(), ..self.clone() };
        let bytes = serde_json::to_vec(&bare).map_err(unencodable)?;
        Ok(format!("{:016x}", xxh3_64(&bytes)))
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let sealed = Self { checksum: self.digest()?, ..self.clone() };
        let mut bytes = serde_json::to_vec_pretty(&sealed).map_err(unencodable)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

fn unencodable(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("cannot write a manifest: {error}"))
}

/// What to say about a format that this version does not know.
pub(crate) fn newer_format(format: u64, known: u32, path: &Path) -> Error {
    Error::new(
        ErrorKind::StoreFormat,
        format!(
            "{} was written by format version {format}, but this version reads up to version \
             {known}; use a newer onceflow",
            path.display()
        ),
    )
    .with(Detail::Format { version: format, newest: known.into() })
}
