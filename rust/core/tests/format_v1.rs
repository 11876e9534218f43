//! A store that was written by format version 1 opens for ever, with just this content.
//!
//! The files under `data/format_v1` are kept as they were written. To write them again (only when a
//! new format comes, under a new name): `cargo test --test format_v1 -- --ignored`.

mod store_support;

use std::path::{Path, PathBuf};

use onceflow_core::ErrorKind;
use onceflow_core::store::{
    ChunkKey, ChunkStore, Commit, RecordStore, Store, StoreOptions, verify,
};
use store_support::*;

const LENGTHS: [usize; 3] = [0, 700, 20_000];
const SPLIT: usize = 1_100_000;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/format_v1")
}

fn v1() -> StoreOptions {
    StoreOptions { job: "fixture".to_owned(), key_groups: 16, map_size_bytes: 4 << 20, ..options() }
}

/// Writes the fixture: three checkpoints of which the first is dropped, a savepoint, notes.
fn write(state: &Path) {
    let store = Store::open(state, &v1()).unwrap();
    for id in 1..=3 {
        let new = chunks(id, &LENGTHS);
        let mut record = record(id, store.job_epoch(), &new);
        record.savepoint = (id == 2).then(|| "before the move".to_owned());
        let (records, gone) = match id {
            3 => (vec![1], chunks(1, &LENGTHS).into_iter().map(|(key, _)| key).collect()),
            _ => (vec![], vec![]),
        };
        let commit =
            Commit { record: &record, chunks: &new, drop_records: &records, drop_chunks: &gone };
        store.commit(&commit).unwrap();
    }
    store.put_note("sink/out", b"applied 3").unwrap();
    store.close().unwrap();
}

/// What `write` wrote, however it is read.
fn expect(store: &Store) {
    let records: Vec<_> = store.records().unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(records.len(), 2);
    for (record_, id) in records.iter().zip([2, 3]) {
        let mut expected = record(id, 1, &chunks(id, &LENGTHS));
        expected.savepoint = (id == 2).then(|| "before the move".to_owned());
        assert_eq!(record_, &expected);
        for (key, bytes) in chunks(id, &LENGTHS) {
            assert!(store.read_chunk(key, |found| Ok(found == bytes)).unwrap(), "{key:?}");
        }
    }
    assert_eq!(store.chunk_keys().unwrap().len(), 6);
    assert_eq!(store.note("sink/out").unwrap().as_deref(), Some(&b"applied 3"[..]));
}

#[test]
#[ignore = "writes the fixture"]
fn write_the_fixture() {
    let root = tempfile::tempdir().unwrap();
    write(root.path());
    Image::of(root.path()).write(&fixture());
}

#[test]
fn format_version_1_opens() {
    let root = tempfile::tempdir().unwrap();
    let state = root.path().join("state");
    let image = Image::of(&fixture());
    assert!(image.data.len() < 200 << 10);
    image.write(&state);
    let report = verify(&state).unwrap();
    assert_eq!((report.checkpoints, report.chunks, report.bytes), (vec![2, 3], 6, 41_400));
    assert_eq!((report.damage, report.orphan_chunks), (vec![], 0));

    let reading = StoreOptions { read_only: true, create: false, ..v1() };
    let store = Store::open(&state, &reading).unwrap();
    assert_eq!(store.key_groups(), 16);
    expect(&store);
    drop(store);

    // And it can be gone on with, also by a larger map and values in parts.
    let store = Store::open(&state, &StoreOptions { map_size_bytes: 32 << 20, ..v1() }).unwrap();
    assert_eq!(store.job_epoch(), 2);
    expect(&store);
    let id = store.allocate_checkpoint_id().unwrap();
    assert!(id > 3);
    let key = ChunkKey { table: 0, checkpoint: id, sequence: 0 };
    let new = vec![(key, bytes(key, SPLIT))];
    let record = record(id, 2, &new);
    store
        .commit(&Commit { record: &record, chunks: &new, drop_records: &[], drop_chunks: &[] })
        .unwrap();
    store.close().unwrap();
    assert_eq!(verify(&state).unwrap().checkpoints, [2, 3, id]);
}

#[test]
fn what_is_written_today_is_still_version_1() {
    let root = tempfile::tempdir().unwrap();
    write(root.path());
    let (new, kept) = (Image::of(root.path()), Image::of(&fixture()));
    // Who it is, how long it is, and what it holds.
    let manifest =
        |image: &Image| serde_json::from_slice::<serde_json::Value>(&image.manifest).unwrap();
    assert_eq!(manifest(&new), manifest(&kept));
    assert_eq!(new.data.len(), kept.data.len());
    let other = StoreOptions { key_groups: 32, ..v1() };
    assert_eq!(kind(Store::open(root.path(), &other)), ErrorKind::StoreMismatch);
    expect(&Store::open(root.path(), &StoreOptions { read_only: true, ..v1() }).unwrap());
}
