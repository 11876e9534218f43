//! What the store's tests share: options, records, chunks, and the test binary run again as a child.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use onceflow_core::ErrorKind;
use onceflow_core::snapshot::{Chain, ChunkKind, ChunkRef};
use onceflow_core::state::{ColumnType, KeyType, Schema};
use onceflow_core::store::{
    CheckpointRecord, ChunkKey, ChunkStore, Commit, RecordStore, Store, StoreOptions, TableManifest,
};

pub const MAP_BYTES: usize = 64 << 20;

pub fn options() -> StoreOptions {
    StoreOptions {
        job: "test".to_owned(),
        key_groups: 128,
        map_size_bytes: MAP_BYTES,
        create: true,
        read_only: false,
        take_over: false,
        store_id: 0x0123_4567_89AB_CDEF,
    }
}

pub fn reader() -> StoreOptions {
    StoreOptions { create: false, read_only: true, ..options() }
}

pub fn open(directory: &Path) -> Store {
    Store::open(directory, &options()).unwrap()
}

pub fn kind(outcome: onceflow_core::Result<Store>) -> ErrorKind {
    outcome.map(|_| ()).unwrap_err().kind()
}

pub fn schema() -> Schema {
    Schema { key: KeyType::I64, columns: vec![("sum".to_owned(), ColumnType::I64)] }
}

/// Bytes that are different for each chunk and checkpoint, and can be made again.
pub fn bytes(key: ChunkKey, length: usize) -> Vec<u8> {
    let mut state = onceflow_core::hash::hash_u64(
        key.checkpoint ^ u64::from(key.sequence) << 40 ^ u64::from(key.table) << 52,
    ) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// A record that refers to these chunks of table 0.
pub fn record(id: u64, job_epoch: u64, chunks: &[(ChunkKey, Vec<u8>)]) -> CheckpointRecord {
    let refs = chunks.iter().map(|(key, bytes)| ChunkRef {
        kind: ChunkKind::Delta,
        checkpoint: key.checkpoint,
        first_checkpoint: key.checkpoint,
        last_checkpoint: key.checkpoint,
        sequence: key.sequence,
        first_group: 0,
        last_group: 127,
        rows: 1,
        bytes: bytes.len() as u64,
    });
    CheckpointRecord {
        id,
        job_epoch,
        lineage: 7,
        created_unix_ms: 1_700_000_000_000 + id,
        savepoint: None,
        tables: vec![TableManifest {
            id: 0,
            name: "totals".to_owned(),
            schema: schema(),
            rows: 1,
            chain: Chain { chunks: refs.collect() },
            next_base_group: 0,
            base_credit_rows: 0,
        }],
        blobs: BTreeMap::from([("position".to_owned(), id.to_le_bytes().to_vec())]),
        staged: BTreeMap::from([("out".to_owned(), vec![id as u8; 100])]),
    }
}

pub fn chunks(checkpoint: u64, lengths: &[usize]) -> Vec<(ChunkKey, Vec<u8>)> {
    let key = |sequence| ChunkKey { table: 0, checkpoint, sequence: sequence as u32 };
    lengths.iter().enumerate().map(|(i, length)| (key(i), bytes(key(i), *length))).collect()
}

/// Commits a checkpoint with chunks of these lengths, dropping what is said.
pub fn commit(
    store: &Store,
    lengths: &[usize],
    drop_records: &[u64],
    drop_chunks: &[ChunkKey],
) -> onceflow_core::Result<u64> {
    let id = store.allocate_checkpoint_id()?;
    let chunks = chunks(id, lengths);
    let record = record(id, store.job_epoch(), &chunks);
    store.commit(&Commit { record: &record, chunks: &chunks, drop_records, drop_chunks })?;
    Ok(id)
}

/// Ids of the records, all of them sound.
pub fn ids(store: &Store) -> Vec<u64> {
    store.records().unwrap().into_iter().map(|record| record.unwrap().id).collect()
}

/// Set in a child process: what it shall do.
pub const ROLE: &str = "ONCEFLOW_TEST_ROLE";

/// This test binary again, running only the test `name`, which finds its role in the environment.
pub fn child(name: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env_remove("CRASH_AT")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// A small deterministic generator (xorshift64*), so that a failing case can be run again.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(onceflow_core::hash::hash_u64(seed) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

/// A directory in memory if there is one: these tests sync thousands of times.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match tempfile::tempdir_in(memory) {
        Ok(directory) => directory,
        Err(_) => tempfile::tempdir().unwrap(),
    }
}

/// The files of a store, as bytes.
#[derive(Clone)]
pub struct Image {
    pub data: Vec<u8>,
    pub manifest: Vec<u8>,
}

impl Image {
    pub fn of(directory: &Path) -> Self {
        Self {
            data: std::fs::read(directory.join("data/data.mdb")).unwrap(),
            manifest: std::fs::read(directory.join("manifest.json")).unwrap(),
        }
    }

    /// Writes it as a store directory, in the place of another.
    pub fn write(&self, directory: &Path) {
        let _ = std::fs::remove_dir_all(directory);
        std::fs::create_dir_all(directory.join("data")).unwrap();
        std::fs::write(directory.join("data/data.mdb"), &self.data).unwrap();
        std::fs::write(directory.join("manifest.json"), &self.manifest).unwrap();
    }
}

/// Everything that a store can be asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    pub records: Vec<Result<CheckpointRecord, ()>>,
    pub chunks: BTreeMap<(u32, u64, u32), Result<Vec<u8>, ErrorKind>>,
    pub notes: BTreeMap<String, Result<Option<Vec<u8>>, ErrorKind>>,
}

pub const NOTES: [&str; 4] = ["sink/a", "sink/b", "sink/long", "sink/none"];

impl Content {
    /// Reads all of it: the records, the chunks that `keys` name, the notes.
    pub fn read(store: &Store, keys: &[ChunkKey]) -> Result<Self, ErrorKind> {
        let records = store.records().map_err(|error| error.kind())?;
        let chunk = |key: &ChunkKey| {
            let bytes = store.read_chunk(*key, |bytes| Ok(bytes.to_vec()));
            ((key.table, key.checkpoint, key.sequence), bytes.map_err(|error| error.kind()))
        };
        let note = |name: &&str| ((*name).to_owned(), store.note(name).map_err(|e| e.kind()));
        Ok(Self {
            records: records.into_iter().map(|record| record.map_err(|_| ())).collect(),
            chunks: keys.iter().map(chunk).collect(),
            notes: NOTES.iter().map(note).collect(),
        })
    }

    /// The first answer that is neither `right`'s nor an error.
    pub fn first_wrong(&self, right: &Self) -> Option<String> {
        let mut rights = right.records.iter().flatten();
        for record in self.records.iter().flatten() {
            if !rights.any(|right| right == record) {
                return Some(format!("record {} is wrong, or out of order", record.id));
            }
        }
        let sound = self.records.iter().flatten().count();
        if sound < right.records.len() && sound == self.records.len() {
            return Some(format!("{sound} records, not {}", right.records.len()));
        }
        for (key, found) in &self.chunks {
            if found.is_ok() && Some(found) != right.chunks.get(key) {
                return Some(format!("chunk {key:?} is wrong"));
            }
        }
        for (name, found) in &self.notes {
            if found.is_ok() && Some(found) != right.notes.get(name) {
                return Some(format!("note {name:?} is wrong"));
            }
        }
        None
    }
}
