//! Reading everything once: every record, every chunk.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use super::chunks::{ChunkKey, ChunkStore, chunk_key};
use super::layout::Database;
use super::values::{Problem, read_parts};
use super::{CheckpointRecord, Damage, RecordStore, Store};
use crate::{ErrorKind, Result};

/// What a verification found.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct VerifyReport {
    /// Checkpoints whose record and chunks are all sound, ascending.
    pub checkpoints: Vec<u64>,
    /// Chunks that they refer to.
    pub chunks: u64,
    /// Bytes of those chunks.
    pub bytes: u64,
    /// Chunks that no readable record refers to: space, not damage.
    pub orphan_chunks: u64,
    pub damage: Vec<Damage>,
}

/// Verifies in this process: damage may kill it by signal, so callers run it in a child.
///
/// Works beside a running owner: each chunk is read in a transaction of its own, and what the owner
/// collects meanwhile is no damage.
///
/// # Errors
/// What keeps the directory from being read at all (`StoreMissing`, `StoreFormat`, `Io` …); damage,
/// also of the file's structure, is in the report.
pub fn verify(directory: &Path) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    let outcome = Store::open_reader(directory, None).and_then(|store| fill(&store, &mut report));
    match outcome {
        Err(error) if error.kind() == ErrorKind::StoreCorrupt => {
            report.damage.push(Damage { checkpoint: None, reason: error.to_string() });
        }
        other => other?,
    }
    Ok(report)
}

fn fill(store: &Store, report: &mut VerifyReport) -> Result<()> {
    // Keys first: a chunk that is committed after this is no orphan.
    let present = store.chunk_keys()?;
    let mut sound: HashSet<ChunkKey> = HashSet::new();
    let mut referenced: HashSet<ChunkKey> = HashSet::new();
    for record in store.records()? {
        let record = match record {
            Ok(record) => record,
            Err(damage) => {
                report.damage.push(damage);
                continue;
            }
        };
        let mut whole = true;
        for key in chunks_of(&record) {
            referenced.insert(key);
            if sound.contains(&key) {
                continue;
            }
            match check(store, key)? {
                Ok(bytes) => {
                    sound.insert(key);
                    report.chunks += 1;
                    report.bytes += bytes;
                }
                Err(reason) => {
                    // The owner may have collected this checkpoint since.
                    if still_there(store, record.id)? {
                        let reason = format!("{key}: {reason}");
                        report.damage.push(Damage { checkpoint: Some(record.id), reason });
                    }
                    whole = false;
                }
            }
        }
        if whole {
            report.checkpoints.push(record.id);
        }
    }
    report.orphan_chunks = present.iter().filter(|key| !referenced.contains(key)).count() as u64;
    Ok(())
}

/// Keys of the chunks that a record refers to, each once.
fn chunks_of(record: &CheckpointRecord) -> BTreeSet<ChunkKey> {
    let keys = record.tables.iter().flat_map(|table| {
        table.chain.chunks.iter().map(|chunk| ChunkKey {
            table: table.id,
            checkpoint: chunk.checkpoint,
            sequence: chunk.sequence,
        })
    });
    keys.collect()
}

/// Length of a chunk, or what is wrong with it.
fn check(store: &Store, key: ChunkKey) -> Result<std::result::Result<u64, String>> {
    let txn = store.environment()?.read()?;
    let outcome = read_parts(&txn, Database::Chunks, |part| chunk_key(key, part));
    match outcome {
        Ok(whole) => Ok(Ok(whole.bytes().len() as u64)),
        Err(Problem::Missing) => Ok(Err("it is missing".to_owned())),
        Err(Problem::Damaged(reason)) => Ok(Err(reason)),
        Err(Problem::Other(error)) => Err(error),
    }
}

fn still_there(store: &Store, checkpoint: u64) -> Result<bool> {
    let records = store.records()?;
    Ok(records.iter().any(|record| record.as_ref().is_ok_and(|record| record.id == checkpoint)))
}
