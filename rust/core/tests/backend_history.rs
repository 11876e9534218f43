//! What a backend keeps, drops, and begins with: each choice of `restore`, retention, damage, lineages.
//!
//! Damage of a checkpoint's state is made by taking its chunks away, that of a record by changing its
//! bytes in the data file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use onceflow_core::backend::{Backend, BackendOptions, Restore};
use onceflow_core::state::{
    ColumnData, ColumnType, KeyType, Keys, KeysBuf, Op, Operand, Schema, Update,
};
use onceflow_core::store::{
    CheckpointRecord, ChunkKey, ChunkStore, Damage, RecordStore, Store, StoreOptions,
};
use onceflow_core::{Detail, ErrorKind};

const GROUPS: u16 = 16;
/// Keys of a table; enough for each key group to have some.
const KEYS: i64 = 200;

fn store_options() -> StoreOptions {
    StoreOptions {
        job: "history".to_owned(),
        key_groups: GROUPS,
        map_size_bytes: 64 << 20,
        create: true,
        read_only: false,
        take_over: false,
        store_id: 5,
    }
}

fn options(restore: Restore) -> BackendOptions {
    BackendOptions {
        store: store_options(),
        retain: 3,
        restore,
        lineage: 2,
        groups: 0..GROUPS,
        max_state_bytes: 1 << 30,
        chunk_bytes: 16 << 10,
    }
}

fn schema() -> Schema {
    Schema { key: KeyType::I64, columns: vec![("n".to_owned(), ColumnType::I64)] }
}

/// A directory of checkpoints whose tables say which of them they are of.
struct Job {
    root: tempfile::TempDir,
}

impl Job {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.root.path().join("state")
    }

    fn open(&self, restore: Restore) -> Backend {
        Backend::open(&self.path(), options(restore)).unwrap()
    }

    /// What opening is refused with.
    fn refused(&self, restore: Restore) -> onceflow_core::Error {
        Backend::open(&self.path(), options(restore)).err().unwrap()
    }

    /// A directory with checkpoints 1 to `count`.
    fn with(count: u64) -> Self {
        let job = Self::new();
        let backend = job.open(Restore::Newest);
        for id in 1..=count {
            assert_eq!(checkpoint(&backend, None), id);
        }
        backend.close().unwrap();
        job
    }

    /// With the store in hand, while no backend is open.
    fn store<T>(&self, act: impl FnOnce(&Store) -> T) -> T {
        let store = Store::open(&self.path(), &store_options()).unwrap();
        let outcome = act(&store);
        store.close().unwrap();
        outcome
    }

    /// Takes away the chunks that a checkpoint has written.
    fn damage_state(&self, id: u64) {
        self.store(|store| {
            let own: Vec<ChunkKey> = store
                .chunk_keys()
                .unwrap()
                .into_iter()
                .filter(|chunk| chunk.checkpoint == id)
                .collect();
            assert!(!own.is_empty());
            store.collect(&[], &own).unwrap();
        });
    }

    /// Changes a byte of a checkpoint's record.
    fn damage_record(&self, id: u64) {
        let path = self.path().join("data/data.mdb");
        let mut data = std::fs::read(&path).unwrap();
        let mark = mark(id);
        let places: Vec<usize> =
            (0..data.len() - mark.len()).filter(|at| data[*at..].starts_with(&mark)).collect();
        assert!(!places.is_empty());
        for at in places {
            data[at] ^= 1;
        }
        std::fs::write(&path, data).unwrap();
    }
}

/// Bytes that only the record of this checkpoint holds.
fn mark(id: u64) -> Vec<u8> {
    format!("the record of checkpoint {id:08}").into_bytes()
}

/// All rows say the number of the checkpoint, and every seventh key says when it was changed last.
fn checkpoint(backend: &Backend, savepoint: Option<&str>) -> u64 {
    let pending = backend.begin_checkpoint(savepoint.map(str::to_owned)).unwrap();
    let id = pending.id();
    let table = backend.table("all", &schema()).unwrap();
    let keys: Vec<i64> = (0..KEYS).collect();
    put(&table, &keys, id as i64);
    let table = backend.table("some", &schema()).unwrap();
    let keys: Vec<i64> = (0..KEYS).filter(|key| key % 7 == id as i64 % 7).collect();
    put(&table, &keys, id as i64);
    pending.put_blob("mark", mark(id)).unwrap();
    pending.commit(0).unwrap();
    pending.wait(None).unwrap();
    id
}

fn put(table: &onceflow_core::backend::SharedTable, keys: &[i64], value: i64) {
    let values = vec![value; keys.len()];
    let update = Update { column: 0, op: Op::Last, operand: Operand::I64(&values) };
    table.lock().update(Keys::I64(keys), &[update]).unwrap();
}

fn content(backend: &Backend, name: &str) -> BTreeMap<i64, i64> {
    let rows = backend.table(name, &schema()).unwrap().lock().scan(0..GROUPS);
    let (KeysBuf::I64(keys), ColumnData::I64(values)) = (rows.keys, &rows.columns[0].data) else {
        panic!("types")
    };
    keys.into_iter().zip(values.iter().copied()).collect()
}

/// What the tables hold after these checkpoints, one after the other.
fn check_state(backend: &Backend, history: &[u64]) {
    let newest = *history.last().unwrap() as i64;
    assert_eq!(content(backend, "all"), (0..KEYS).map(|key| (key, newest)).collect());
    let mut some = BTreeMap::new();
    for id in history.iter().map(|id| *id as i64) {
        some.extend((0..KEYS).filter(|key| key % 7 == id % 7).map(|key| (key, id)));
    }
    assert_eq!(content(backend, "some"), some);
}

fn restored(backend: &Backend) -> Option<u64> {
    backend.recovery().restored.as_ref().map(|record| record.id)
}

fn ids(records: &[Result<CheckpointRecord, Damage>]) -> Vec<u64> {
    records.iter().map(|record| record.as_ref().map_or_else(number, |record| record.id)).collect()
}

fn number(damage: &Damage) -> u64 {
    damage.checkpoint.unwrap()
}

/// The chunks that a copy of the directory holds, and those that its readable records refer to.
fn chunks(backend: &Backend, copy: &Path) -> (BTreeSet<ChunkKey>, BTreeSet<ChunkKey>) {
    backend.backup(copy).unwrap();
    let store = Store::open(copy, &StoreOptions { read_only: true, ..store_options() }).unwrap();
    let there = store.chunk_keys().unwrap().into_iter().collect();
    let referred = store
        .records()
        .unwrap()
        .iter()
        .flatten()
        .flat_map(|record| &record.tables)
        .flat_map(|table| {
            table.chain.chunks.iter().map(|chunk| ChunkKey {
                table: table.id,
                checkpoint: chunk.checkpoint,
                sequence: chunk.sequence,
            })
        })
        .collect();
    store.close().unwrap();
    (there, referred)
}

#[test]
fn as_many_are_kept_as_asked_for_and_all_savepoints() {
    let job = Job::new();
    let mut backend = job.open(Restore::Newest);
    let (mut all, mut complete, mut savepoints) = (Vec::new(), Vec::new(), Vec::new());
    for step in 0..14 {
        if step == 7 {
            backend.close().unwrap();
            backend = job.open(Restore::Newest);
        }
        if matches!(step, 1 | 5 | 6 | 9) {
            savepoints.push(checkpoint(&backend, Some("kept")));
        } else {
            complete.push(checkpoint(&backend, None));
        }
        all.push(*complete.iter().chain(&savepoints).max().unwrap());
        let newest = complete.len().saturating_sub(3);
        let mut expected = [&complete[newest..], &savepoints].concat();
        expected.sort_unstable();
        assert_eq!(ids(&backend.checkpoints().unwrap()), expected);
        let (there, referred) = chunks(&backend, &job.root.path().join(format!("copy-{step}")));
        assert_eq!(there, referred);
    }
    backend.close().unwrap();
    for id in [savepoints, complete[complete.len() - 3..].to_vec()].concat() {
        let backend = job.open(Restore::Checkpoint(id));
        let upto = all.iter().position(|one| *one == id).unwrap();
        check_state(&backend, &all[..=upto]);
        backend.close().unwrap();
    }
}

#[test]
fn what_is_deleted_takes_its_chunks_along() {
    let job = Job::new();
    let backend = job.open(Restore::Newest);
    checkpoint(&backend, Some("kept"));
    (2..=4).for_each(|id| assert_eq!(checkpoint(&backend, None), id));
    for (step, id) in [1, 3].into_iter().enumerate() {
        backend.delete_checkpoint(id).unwrap();
        let (there, referred) = chunks(&backend, &job.root.path().join(format!("copy-{step}")));
        assert_eq!(there, referred);
        let error = backend.delete_checkpoint(id).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CheckpointNotFound);
        assert_eq!(error.detail(), Some(&Detail::Checkpoint { id }));
    }
    let error = backend.delete_checkpoint(4).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CheckpointState);
    assert_eq!(error.detail(), Some(&Detail::Checkpoint { id: 4 }));
    assert_eq!(ids(&backend.checkpoints().unwrap()), [2, 4]);
    backend.close().unwrap();
    check_state(&job.open(Restore::Newest), &[1, 2, 3, 4]);
}

#[test]
fn chunks_without_a_record_are_collected_by_the_owner() {
    let job = Job::with(3);
    job.store(|store| store.collect(&[1], &[]).unwrap());
    let before = job.store(|store| store.chunk_keys().unwrap());
    let reader = StoreOptions { create: false, read_only: true, ..store_options() };
    let backend =
        Backend::open(&job.path(), BackendOptions { store: reader, ..options(Restore::Newest) })
            .unwrap();
    check_state(&backend, &[1, 2, 3]);
    backend.close().unwrap();
    assert_eq!(job.store(|store| store.chunk_keys().unwrap()), before);
    let backend = job.open(Restore::Newest);
    let (there, referred) = chunks(&backend, &job.root.path().join("copy"));
    assert_eq!(there, referred);
    assert!(there.len() < before.len());
}

#[test]
fn while_a_record_cannot_be_read_nothing_is_collected() {
    let job = Job::with(3);
    let before = job.store(|store| store.chunk_keys().unwrap());
    job.damage_record(3);
    let backend = job.open(Restore::Newest);
    assert_eq!(restored(&backend), Some(2));
    backend.close().unwrap();
    assert_eq!(job.store(|store| store.chunk_keys().unwrap()), before);
}

#[test]
fn the_newest_that_is_sound_is_restored() {
    let job = Job::with(4);
    job.damage_state(3);
    job.damage_state(4);
    let backend = job.open(Restore::Newest);
    assert_eq!((restored(&backend), backend.resumes_from()), (Some(2), Some(2)));
    check_state(&backend, &[1, 2]);
    let recovery = backend.recovery();
    assert_eq!(recovery.damage.iter().map(number).collect::<Vec<u64>>(), [4, 3]);
    let later: Vec<u64> = recovery.decided_after.iter().map(|record| record.id).collect();
    assert_eq!(later, [3, 4]);
    assert_eq!(
        recovery.rows,
        (content(&backend, "all").len() + content(&backend, "some").len()) as u64
    );
    assert!(recovery.bytes > 0);
    assert_eq!(backend.delete_checkpoint(2).unwrap_err().kind(), ErrorKind::CheckpointState);
    // Given up.
    backend.delete_checkpoint(4).unwrap();
    assert_eq!(ids(&backend.checkpoints().unwrap()), [2, 3]);
}

#[test]
fn nothing_sound_is_an_error_and_another_error_is_not_damage() {
    let job = Job::with(2);
    let small = BackendOptions { max_state_bytes: 1000, ..options(Restore::Newest) };
    let error = Backend::open(&job.path(), small).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::CapacityExceeded);
    job.damage_state(1);
    job.damage_state(2);
    assert_eq!(job.refused(Restore::Newest).kind(), ErrorKind::StoreCorrupt);
    let backend = job.open(Restore::Nothing);
    assert_eq!(restored(&backend), None);
}

#[test]
fn what_is_damaged_is_not_counted_among_those_that_are_kept() {
    let job = Job::new();
    let backend = job.open(Restore::Newest);
    (1..=3).for_each(|id| assert_eq!(checkpoint(&backend, None), id));
    assert_eq!(checkpoint(&backend, Some("damaged")), 4);
    backend.close().unwrap();
    job.damage_state(4);
    let backend = job.open(Restore::Newest);
    assert_eq!(restored(&backend), Some(3));
    let first = checkpoint(&backend, None);
    // Three sound ones besides it; then it goes with the oldest of them, though it is a savepoint.
    assert_eq!(ids(&backend.checkpoints().unwrap()), [2, 3, 4, first]);
    let second = checkpoint(&backend, None);
    assert_eq!(ids(&backend.checkpoints().unwrap()), [3, 4, first, second]);
    let third = checkpoint(&backend, None);
    assert_eq!(ids(&backend.checkpoints().unwrap()), [first, second, third]);
}

#[test]
fn a_checkpoint_of_choice_is_that_one_or_an_error() {
    let job = Job::with(3);
    job.damage_record(2);
    for id in [1, 3] {
        let backend = job.open(Restore::Checkpoint(id));
        assert_eq!(restored(&backend), Some(id));
        check_state(&backend, &(1..=id).collect::<Vec<u64>>());
        backend.close().unwrap();
    }
    assert_eq!(job.refused(Restore::Checkpoint(2)).kind(), ErrorKind::StoreCorrupt);
    let error = job.refused(Restore::Checkpoint(9));
    assert_eq!(error.kind(), ErrorKind::CheckpointNotFound);
    assert_eq!(error.detail(), Some(&Detail::Checkpoint { id: 9 }));
}

#[test]
fn going_back_leaves_what_came_after() {
    let job = Job::with(3);
    let backend = job.open(Restore::Checkpoint(2));
    assert_eq!(backend.lineage(), 2);
    // Not for good yet.
    backend.close().unwrap();
    let backend = job.open(Restore::Newest);
    assert_eq!((restored(&backend), backend.lineage()), (Some(3), 1));
    backend.close().unwrap();
    let backend = job.open(Restore::Checkpoint(2));
    assert_eq!(backend.resumes_from(), Some(3));
    backend.begin_lineage().unwrap();
    assert_eq!(backend.resumes_from(), Some(2));
    backend.close().unwrap();
    let backend = job.open(Restore::Newest);
    assert_eq!((restored(&backend), backend.lineage()), (Some(2), 2));
    assert_eq!(backend.resumes_from(), Some(2));
    let new: Vec<u64> = (0..3).map(|_| checkpoint(&backend, None)).collect();
    // What was left is not counted, and goes with the last that is older.
    assert_eq!(ids(&backend.checkpoints().unwrap()), new);
    backend.close().unwrap();
    let backend = job.open(Restore::Newest);
    assert_eq!((restored(&backend), backend.lineage()), (Some(new[2]), 2));
    check_state(&backend, &[&[1, 2], &new[..]].concat());
}

#[test]
fn what_was_left_does_not_count_as_kept() {
    let job = Job::with(3);
    let backend = job.open(Restore::Checkpoint(1));
    backend.begin_lineage().unwrap();
    let first = checkpoint(&backend, None);
    let second = checkpoint(&backend, None);
    assert_eq!(ids(&backend.checkpoints().unwrap()), [1, 2, 3, first, second]);
    let third = checkpoint(&backend, None);
    assert_eq!(ids(&backend.checkpoints().unwrap()), [first, second, third]);
}

/// Two copies of a directory begin lineages of numbers of their own, also where a clock falls back.
#[test]
fn a_lineage_has_the_number_that_is_wanted_or_one_above_all_that_are_known() {
    let job = Job::with(2);
    let open = |lineage: u64| {
        let options = BackendOptions { lineage, ..options(Restore::Checkpoint(2)) };
        Backend::open(&job.path(), options).unwrap()
    };
    let ahead = 1_790_000_000_000_000_000;
    for (wanted, begun) in [(ahead, ahead), (5_000_007, ahead + 8), (ahead + 9, ahead + 9)] {
        let backend = open(wanted);
        assert_eq!(backend.lineage(), begun);
        backend.begin_lineage().unwrap();
        backend.close().unwrap();
    }
    // Found outside, and above: until it has begun.
    let backend = open(ahead + 20);
    assert!(backend.raise_lineage(ahead + 100));
    let raised = backend.lineage();
    assert!((ahead + 101..=ahead + 100 + 1_000_000).contains(&raised), "{raised}");
    backend.begin_lineage().unwrap();
    assert!(!backend.raise_lineage(raised));
    checkpoint(&backend, None);
    backend.close().unwrap();
    let backend = job.open(Restore::Newest);
    assert_eq!(backend.lineage(), raised);
    assert!(!backend.raise_lineage(raised + 1));
}

/// A run is known by its epoch, also to a reader and a backup, once it has begun.
#[test]
fn runs_that_have_begun_are_known() {
    let job = Job::new();
    for run in ["a", "b"] {
        let backend = job.open(Restore::Newest);
        backend.begin_run(run).unwrap();
        checkpoint(&backend, None);
        backend.close().unwrap();
    }
    let backend = job.open(Restore::Checkpoint(1));
    let known = vec![(1, "a".to_owned()), (2, "b".to_owned())];
    assert_eq!(backend.runs(), known);
    let copy = job.root.path().join("copy");
    backend.backup(&copy).unwrap();
    backend.close().unwrap();
    let reader = StoreOptions { read_only: true, create: false, ..store_options() };
    let options = BackendOptions { store: reader, ..options(Restore::Newest) };
    assert_eq!(Backend::open(&copy, options).unwrap().runs(), known);
}

#[test]
fn starting_over_begins_a_lineage_once() {
    let job = Job::new();
    let backend = job.open(Restore::Nothing);
    assert_eq!(backend.lineage(), 1);
    checkpoint(&backend, None);
    checkpoint(&backend, None);
    backend.close().unwrap();
    for _ in 0..2 {
        let backend = job.open(Restore::Nothing);
        assert_eq!((restored(&backend), backend.lineage()), (None, 2));
        assert!(backend.tables().unwrap().is_empty());
        backend.begin_lineage().unwrap();
        assert_eq!(backend.resumes_from(), None);
        backend.close().unwrap();
    }
    let backend = job.open(Restore::Newest);
    assert_eq!((restored(&backend), backend.lineage()), (None, 2));
}

/// Both are there after two restarts: ids of tables that were restored are not given again.
#[test]
fn a_new_table_beside_restored_ones_is_another_one() {
    let job = Job::with(1);
    let backend = job.open(Restore::Newest);
    put(&backend.table("new", &schema()).unwrap(), &[1, 2], 7);
    let second = checkpoint(&backend, None);
    backend.close().unwrap();
    let backend = job.open(Restore::Newest);
    check_state(&backend, &[1, second]);
    assert_eq!(content(&backend, "new"), BTreeMap::from([(1, 7), (2, 7)]));
}

#[test]
fn a_part_of_the_key_groups_is_restored_with_memory_for_a_part() {
    let job = Job::new();
    // A chunk for each group or two.
    let small = BackendOptions { chunk_bytes: 200, ..options(Restore::Newest) };
    let backend = Backend::open(&job.path(), small).unwrap();
    for _ in 0..9 {
        checkpoint(&backend, None);
    }
    backend.close().unwrap();
    let whole = job.open(Restore::Newest);
    let (all, some) = (content(&whole, "all"), content(&whole, "some"));
    let bytes = whole.recovery().bytes;
    whole.close().unwrap();
    let mut found = [BTreeMap::new(), BTreeMap::new()];
    for groups in [0..1, 1..7, 7..16] {
        let part = BackendOptions { groups: groups.clone(), ..options(Restore::Newest) };
        let backend = Backend::open(&job.path(), part).unwrap();
        for (found, name) in found.iter_mut().zip(["all", "some"]) {
            let rows = content(&backend, name);
            let of = |key: i64| {
                onceflow_core::hash::key_group(onceflow_core::hash::hash_u64(key as u64), GROUPS)
            };
            assert!(rows.keys().all(|key| groups.contains(&of(*key))));
            found.extend(rows);
        }
        assert!(backend.recovery().bytes <= bytes);
        backend.close().unwrap();
    }
    assert_eq!(found, [all, some]);
    // Not enough for all of it.
    let bound = BackendOptions { max_state_bytes: 4000, ..options(Restore::Newest) };
    let error = Backend::open(&job.path(), bound.clone()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::CapacityExceeded);
    Backend::open(&job.path(), BackendOptions { groups: 0..1, ..bound }).unwrap();
}

/// A directory of a version that kept no choices, whose newest lineage is damaged as a whole.
#[test]
fn what_a_lineage_went_on_from_must_be_known() {
    let job = Job::with(3);
    let backend = job.open(Restore::Checkpoint(2));
    backend.begin_lineage().unwrap();
    let new = checkpoint(&backend, None);
    backend.close().unwrap();
    job.damage_state(new);
    let backend = job.open(Restore::Newest);
    assert_eq!(restored(&backend), Some(2));
    backend.close().unwrap();
    let none = rmp_serde::to_vec(&Vec::<u64>::new()).unwrap();
    job.store(|store| store.put_note("__lineages", &none).unwrap());
    let error = job.refused(Restore::Newest);
    assert_eq!(error.kind(), ErrorKind::StoreCorrupt);
    assert!(error.to_string().contains("resume_from"), "{error}");
}
