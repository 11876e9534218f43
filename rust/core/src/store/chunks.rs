//! Chunks: immutable bytes by name, which many may write.

use super::layout::Database;
use super::local::{Snapshot, Store};
use super::values::{Whole, check_length, delete_parts, holds, put_parts, read_parts, refused};
use crate::Result;
use crate::environment::corrupt;
use crate::environment::lmdb::{Failure, Transaction};

/// Where chunks lie.
///
/// - A chunk is immutable. Its name says whose it is: a worker has a store of its own, and there the
///   table, the checkpoint and a number within it are a name once.
/// - Putting is idempotent: the same bytes under the same name are no difference, other bytes are
///   refused.
/// - A chunk counts only when a record refers to it, so many may write, in any order, and nobody
///   needs a fence. Before the record is durable all its chunks are: the local store puts both in
///   one transaction (see `RecordStore::commit`).
pub trait ChunkStore {
    /// Hands the checked bytes of a chunk to `read` inside a short read transaction.
    ///
    /// # Errors
    /// `StoreCorrupt` if the chunk is missing or its checksum is wrong, and what `read` returns.
    fn read_chunk<R>(&self, key: ChunkKey, read: impl FnOnce(&[u8]) -> Result<R>) -> Result<R>;

    /// Keys of all chunks present.
    fn chunk_keys(&self) -> Result<Vec<ChunkKey>>;
}

impl ChunkStore for Store {
    fn read_chunk<R>(&self, key: ChunkKey, read: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> {
        self.snapshot()?.read_chunk(key, read)
    }

    fn chunk_keys(&self) -> Result<Vec<ChunkKey>> {
        self.snapshot()?.chunk_keys()
    }
}

impl ChunkStore for Snapshot<'_> {
    fn read_chunk<R>(&self, key: ChunkKey, read: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> {
        let chunk = read_parts(&self.txn, Database::Chunks, |part| chunk_key(key, part));
        match chunk.map_err(|problem| problem.into_error(self.directory, &key))? {
            Whole::Mapped(bytes) => read(bytes),
            Whole::Joined(bytes) => read(&bytes),
        }
    }

    fn chunk_keys(&self) -> Result<Vec<ChunkKey>> {
        let mut keys: Vec<ChunkKey> = Vec::new();
        for entry in self.txn.entries(Database::Chunks)? {
            let (key, _) = entry?;
            let (chunk, _) = parse_chunk_key(key).ok_or_else(|| {
                corrupt(format!(
                    "{}: a chunk's key has {} bytes",
                    self.directory.display(),
                    key.len()
                ))
            })?;
            if keys.last() != Some(&chunk) {
                keys.push(chunk);
            }
        }
        Ok(keys)
    }
}

/// Refuses chunks that are too long.
pub(super) fn check(chunks: &[(ChunkKey, Vec<u8>)]) -> Result<()> {
    chunks.iter().try_for_each(|(key, bytes)| check_length(&key.to_string(), bytes.len()))
}

/// Puts a chunk; the same one again is no difference.
pub(super) fn put(
    txn: &mut Transaction<'_>,
    key: ChunkKey,
    bytes: &[u8],
) -> std::result::Result<(), Failure> {
    let name = |part| chunk_key(key, part);
    if txn.get(Database::Chunks, &name(0))?.is_none() {
        put_parts(txn, Database::Chunks, bytes, name)?;
        return Ok(());
    }
    if holds(txn, Database::Chunks, bytes, name)? {
        return Ok(());
    }
    Err(refused(&key.to_string(), "exists already, with other bytes; use a new checkpoint id"))
}

/// Deletes chunks with all their parts; those that are gone already are no error.
pub(super) fn delete(
    txn: &mut Transaction<'_>,
    chunks: &[ChunkKey],
) -> std::result::Result<(), Failure> {
    for key in chunks {
        delete_parts(txn, Database::Chunks, |part| chunk_key(*key, part))?;
        crate::crash_point!("gc.mid_delete");
    }
    Ok(())
}

/// Where a chunk lies: table, checkpoint (the last one it covers), number within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub struct ChunkKey {
    pub table: u32,
    pub checkpoint: u64,
    pub sequence: u32,
}

impl std::fmt::Display for ChunkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { table, checkpoint, sequence } = self;
        write!(f, "chunk {sequence} of table {table} in checkpoint {checkpoint}")
    }
}

/// Key of a part of a chunk.
pub(super) fn chunk_key(chunk: ChunkKey, part: u32) -> [u8; 20] {
    let mut key = [0; 20];
    let (table, rest) = key.split_at_mut(4);
    let (checkpoint, rest) = rest.split_at_mut(8);
    let (sequence, number) = rest.split_at_mut(4);
    table.copy_from_slice(&chunk.table.to_be_bytes());
    checkpoint.copy_from_slice(&chunk.checkpoint.to_be_bytes());
    sequence.copy_from_slice(&chunk.sequence.to_be_bytes());
    number.copy_from_slice(&part.to_be_bytes());
    key
}

/// Chunk and part of a chunk's key.
pub(super) fn parse_chunk_key(key: &[u8]) -> Option<(ChunkKey, u32)> {
    let (table, rest) = key.split_first_chunk::<4>()?;
    let (checkpoint, rest) = rest.split_first_chunk::<8>()?;
    let (sequence, part) = rest.split_first_chunk::<4>()?;
    let chunk = ChunkKey {
        table: u32::from_be_bytes(*table),
        checkpoint: u64::from_be_bytes(*checkpoint),
        sequence: u32::from_be_bytes(*sequence),
    };
    Some((chunk, u32::from_be_bytes(part.try_into().ok()?)))
}
