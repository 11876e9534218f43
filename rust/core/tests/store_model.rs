//! Random commits, collections and notes against a map in memory, reopened again and again: the page
//! walk must take every tree that LMDB makes for sound, and the content must be the model's.

mod store_support;

use std::collections::BTreeMap;

use onceflow_core::store::{
    CheckpointRecord, ChunkKey, ChunkStore, Commit, RecordStore, Store, StoreOptions, verify,
};
use store_support::*;

#[derive(Default)]
struct Model {
    /// Checkpoint -> its chunks' lengths.
    checkpoints: BTreeMap<u64, Vec<usize>>,
    records: BTreeMap<u64, CheckpointRecord>,
    notes: BTreeMap<String, Vec<u8>>,
}

fn compare(store: &Store, model: &Model) {
    let records: Vec<_> = store.records().unwrap().into_iter().map(Result::unwrap).collect();
    assert!(records.iter().eq(model.checkpoints.keys().map(|id| &model.records[id])));
    let mut keys = Vec::new();
    for (id, lengths) in &model.checkpoints {
        for (key, bytes) in chunks(*id, lengths) {
            assert!(store.read_chunk(key, |found| Ok(found == bytes)).unwrap(), "{key:?}");
            keys.push(key);
        }
    }
    keys.sort_unstable();
    assert_eq!(store.chunk_keys().unwrap(), keys);
    for (name, value) in &model.notes {
        assert_eq!(store.note(name).unwrap().as_ref(), Some(value));
    }
}

fn run(seed: u64, rounds: usize) {
    let root = scratch();
    let state = root.path().join("state");
    let large = StoreOptions { map_size_bytes: 1 << 30, ..options() };
    let mut random = Random::new(seed);
    let mut model = Model::default();
    let mut store = Store::open(&state, &large).unwrap();
    let mut epoch = 1;
    for round in 0..rounds {
        match random.below(20) {
            0..12 => {
                let id = store.allocate_checkpoint_id().unwrap();
                // Many small ones make deep trees, large ones long runs of pages.
                let (count, bound) =
                    [(3, 400_000), (40, 1000), (300, 200), (1, 3_000_000)][random.below(4)];
                let lengths: Vec<usize> =
                    (0..random.below(count + 1)).map(|_| random.below(bound)).collect();
                let new = chunks(id, &lengths);
                let mut record = record(id, epoch, &new);
                // Records of more than one part too.
                let bound = [100, 20_000, 2_500_000][random.below(3)];
                let staged = random.below(bound);
                record.staged.insert("out".to_owned(), vec![7; staged]);
                let mut dropped = Vec::new();
                while model.checkpoints.len() > 12 {
                    let at = random.below(model.checkpoints.len());
                    let id = *model.checkpoints.keys().nth(at).unwrap();
                    dropped.push((id, model.checkpoints.remove(&id).unwrap()));
                }
                let gone: Vec<ChunkKey> = dropped
                    .iter()
                    .flat_map(|(id, lengths)| chunks(*id, lengths))
                    .map(|(key, _)| key)
                    .collect();
                let records: Vec<u64> = dropped.iter().map(|(id, _)| *id).collect();
                store
                    .commit(&Commit {
                        record: &record,
                        chunks: &new,
                        drop_records: &records,
                        drop_chunks: &gone,
                    })
                    .unwrap();
                model.checkpoints.insert(id, lengths);
                model.records.insert(id, record);
            }
            12..16 => {
                let name = format!("note {}", random.below(200));
                let value =
                    vec![round as u8; random.below(if round % 10 == 0 { 50_000 } else { 300 })];
                store.put_note(&name, &value).unwrap();
                model.notes.insert(name, value);
            }
            16 => {
                if let Some((id, lengths)) = model.checkpoints.pop_first() {
                    let gone: Vec<ChunkKey> =
                        chunks(id, &lengths).into_iter().map(|(key, _)| key).collect();
                    store.collect(&[id], &gone).unwrap();
                }
            }
            17 => {
                let report = verify(&state).unwrap();
                assert_eq!(
                    (report.damage, report.orphan_chunks),
                    (vec![], 0),
                    "seed {seed}, round {round}"
                );
                assert!(report.checkpoints.iter().eq(model.checkpoints.keys()));
            }
            18 => {
                let target = root.path().join("copy");
                store.backup(&target).unwrap();
                let copy = Store::open(&target, &large).unwrap();
                compare(&copy, &model);
                drop(copy);
                std::fs::remove_dir_all(&target).unwrap();
            }
            _ => {
                if round % 2 == 0 {
                    store.close().unwrap()
                } else {
                    drop(store)
                }
                store = Store::open(&state, &large)
                    .unwrap_or_else(|e| panic!("seed {seed}, round {round}: {e}"));
                epoch += 1;
                assert_eq!(store.job_epoch(), epoch);
                compare(&store, &model);
            }
        }
    }
    compare(&store, &model);
}

#[test]
fn a_store_is_the_map_it_is_compared_with() {
    let seeds = std::env::var("ONCEFLOW_TEST_CASES").map_or(6, |n| n.parse().unwrap());
    for seed in 0..seeds {
        run(seed, 150);
    }
}
