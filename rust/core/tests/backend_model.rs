//! A backend under random batches, checkpoints, aborts, reopenings and damage, against maps.

use std::collections::BTreeMap;
use std::path::Path;

use onceflow_core::ErrorKind;
use onceflow_core::backend::{Backend, BackendOptions, Restore};
use onceflow_core::sequence::{Batches, DeduplicatorOptions};
use onceflow_core::state::{
    ColumnData, ColumnType, KeyType, Keys, KeysBuf, Op, Operand, Schema, Table, Update,
};
use onceflow_core::store::{StoreOptions, verify};

type Model = BTreeMap<i64, i64>;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn options(restore: Restore) -> BackendOptions {
    BackendOptions {
        store: StoreOptions {
            job: "model".to_owned(),
            key_groups: 16,
            map_size_bytes: 1 << 30,
            create: true,
            read_only: false,
            take_over: false,
            store_id: 5,
        },
        retain: 3,
        restore,
        lineage: 2,
        groups: 0..16,
        max_state_bytes: 1 << 30,
        chunk_bytes: 16 << 10,
    }
}

fn open(path: &Path) -> Backend {
    Backend::open(path, options(Restore::Newest)).unwrap()
}

fn schema() -> Schema {
    Schema { key: KeyType::I64, columns: vec![("sum".to_owned(), ColumnType::I64)] }
}

fn content(table: &Table) -> Model {
    let rows = table.scan(0..16);
    let (KeysBuf::I64(keys), ColumnData::I64(sums)) = (rows.keys, &rows.columns[0].data) else {
        panic!("types")
    };
    keys.into_iter().zip(sums.iter().copied()).collect()
}

fn add(backend: &Backend, table: &mut Table, model: &mut Model, keys: &[i64], value: i64) {
    let values = vec![value; keys.len()];
    table
        .update(
            Keys::I64(keys),
            &[Update { column: 0, op: Op::Add, operand: Operand::I64(&values) }],
        )
        .unwrap();
    for key in keys {
        *model.entry(*key).or_default() += value;
    }
    backend.poll();
}

fn run(seed: u64, steps: usize, keys: u64) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("state");
    let mut random = Random(seed);
    let mut model = Model::new();
    // By checkpoint what the tables held at its cut.
    let mut cuts: BTreeMap<u64, Model> = BTreeMap::new();
    let mut backend = open(&path);
    let mut longest = 0;
    for step in 0..steps {
        let table = backend.table("totals", &schema()).unwrap();
        let batch = [1, 20, 300, 3000][random.below(4) as usize];
        let chosen: Vec<i64> = (0..batch).map(|_| random.below(keys) as i64).collect();
        if random.below(6) == 0 {
            table.lock().delete(Keys::I64(&chosen)).unwrap();
            model.retain(|key, _| !chosen.contains(key));
        } else {
            add(&backend, &mut table.lock(), &mut model, &chosen, step as i64);
        }
        let pending =
            backend.begin_checkpoint((step % 97 == 50).then(|| format!("s{step}"))).unwrap();
        pending.freeze(None).unwrap();
        let cut = model.clone();
        // Changes after the cut must not show in it, whoever captures.
        for _ in 0..random.below(4) {
            let chosen: Vec<i64> =
                (0..random.below(500)).map(|_| random.below(keys) as i64).collect();
            add(&backend, &mut table.lock(), &mut model, &chosen, 7);
        }
        if random.below(5) == 0 {
            pending.abort().unwrap();
            assert_eq!(pending.wait(None).unwrap_err().kind(), ErrorKind::CheckpointState);
        } else {
            pending.put_blob("step", step.to_le_bytes().to_vec()).unwrap();
            pending.commit(step as u64).unwrap();
            for _ in 0..random.below(4) {
                let chosen: Vec<i64> =
                    (0..random.below(500)).map(|_| random.below(keys) as i64).collect();
                add(&backend, &mut table.lock(), &mut model, &chosen, -3);
            }
            let stats = pending.wait(None).unwrap().unwrap();
            assert_eq!(stats.id, pending.id());
            cuts.insert(pending.id(), cut);
        }
        if random.below(10) == 0 {
            drop(table);
            drop(pending);
            backend.close().unwrap();
            backend = open(&path);
            let newest = *cuts.keys().next_back().unwrap_or(&0);
            assert_eq!(backend.recovery().restored.as_ref().map_or(0, |record| record.id), newest);
            model = cuts.get(&newest).cloned().unwrap_or_default();
            assert_eq!(content(&backend.table("totals", &schema()).unwrap().lock()), model);
        }
        if let Some(Ok(record)) = backend.checkpoints().unwrap().last() {
            longest = longest.max(record.tables[0].chain.chunks.len());
        }
    }
    let kept: Vec<u64> =
        backend.checkpoints().unwrap().into_iter().map(|record| record.unwrap().id).collect();
    assert!(kept.len() >= 3);
    backend.close().unwrap();
    assert!(longest < 400, "{longest} chunks in a chain");
    for id in kept {
        let backend = Backend::open(&path, options(Restore::Checkpoint(id))).unwrap();
        assert_eq!(content(&backend.table("totals", &schema()).unwrap().lock()), cuts[&id]);
        backend.close().unwrap();
        let mut part = options(Restore::Checkpoint(id));
        part.groups = 3..9;
        let backend = Backend::open(&path, part).unwrap();
        let part = content(&backend.table("totals", &schema()).unwrap().lock());
        let groups = |key: i64| {
            onceflow_core::hash::key_group(onceflow_core::hash::hash_u64(key as u64), 16)
        };
        let mut expected = cuts[&id].clone();
        expected.retain(|key, _| (3..9).contains(&groups(*key)));
        assert_eq!(part, expected);
    }
}

#[test]
fn a_small_table_equals_the_model() {
    (1..6).for_each(|seed| run(seed, 120, 500));
}

#[test]
fn a_table_with_a_chain_equals_the_model() {
    (1..4).for_each(|seed| run(seed, 300, 20_000));
}

/// A merge that leaves the newest delta alone writes chunks of older changes under its own number.
#[test]
fn verify_finds_chunks_that_hold_changes_of_older_checkpoints() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("state");
    let mut model = Model::new();
    let mut cut = |backend: &Backend, keys: &[i64]| {
        let table = backend.table("totals", &schema()).unwrap();
        add(backend, &mut table.lock(), &mut model, keys, 1);
        let pending = backend.begin_checkpoint(None).unwrap();
        pending.commit(0).unwrap();
        pending.wait(None).unwrap();
    };
    let all: Vec<i64> = (0..20_000).collect();
    // So small chunks that no delta is worth merging.
    let backend =
        Backend::open(&path, BackendOptions { chunk_bytes: 64, ..options(Restore::Newest) })
            .unwrap();
    cut(&backend, &all);
    for key in 0..40 {
        cut(&backend, &[key]);
    }
    backend.close().unwrap();
    let backend = open(&path);
    cut(&backend, &all[..5000]);
    let records = backend.checkpoints().unwrap();
    let newest = records.last().unwrap().as_ref().unwrap();
    assert!(newest.tables[0].chain.chunks.iter().any(|c| c.last_checkpoint < c.checkpoint));
    assert_eq!(verify(&path).unwrap().damage, []);
    backend.close().unwrap();
    assert_eq!(content(&open(&path).table("totals", &schema()).unwrap().lock()), model);
}

#[test]
fn dropping_an_open_checkpoint_aborts_it() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("state");
    let backend = open(&path);
    let table = backend.table("totals", &schema()).unwrap();
    let mut model = Model::new();
    add(&backend, &mut table.lock(), &mut model, &[1, 2, 3], 5);
    let open_one = backend.begin_checkpoint(None).unwrap();
    open_one.freeze(None).unwrap();
    assert_eq!(backend.begin_checkpoint(None).err().unwrap().kind(), ErrorKind::CheckpointState);
    drop(open_one);
    let pending = backend.begin_checkpoint(None).unwrap();
    pending.commit(0).unwrap();
    pending.wait(None).unwrap();
    backend.close().unwrap();
    assert_eq!(content(&open(&path).table("totals", &schema()).unwrap().lock()), model);
}

#[test]
fn deduplicators_are_part_of_checkpoints() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("state");
    let backend = open(&path);
    let settings = DeduplicatorOptions::default();
    let shared = backend.deduplicator("in", settings, 0.0).unwrap();
    let batch = |first: i32, last: i32| (vec![7_i64], vec![0_i64], vec![first], vec![last]);
    let judge = |shared: &onceflow_core::backend::SharedDeduplicator, first, last| {
        let (ids, epochs, firsts, lasts) = batch(first, last);
        let batches = Batches::new(&ids, &epochs, &firsts, &lasts, None).unwrap();
        shared.lock().check_many(&batches, 0.0).unwrap().codes()[0]
    };
    assert_eq!(judge(&shared, 0, 9), 0);
    let pending = backend.begin_checkpoint(None).unwrap();
    pending.commit(0).unwrap();
    pending.wait(None).unwrap();
    // After the checkpoint: forgotten by the crash, and seen again.
    assert_eq!(judge(&shared, 10, 19), 0);
    drop(pending);
    backend.close().unwrap();
    let backend = open(&path);
    let shared = backend.deduplicator("in", settings, 0.0).unwrap();
    assert_ne!(judge(&shared, 0, 9), 0);
    assert_eq!(judge(&shared, 10, 19), 0);
    assert!(backend.tables().unwrap().is_empty());
}
