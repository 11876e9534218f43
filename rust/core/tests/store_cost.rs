//! What the store costs: run by hand, `cargo test --release --test store_cost -- --ignored --nocapture`.

mod store_support;

use std::time::Instant;

use onceflow_core::store::{
    ChunkKey, ChunkStore, Commit, RecordStore, Store, StoreOptions, verify,
};
use store_support::*;

fn quantile(samples: &mut [f64], q: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[((samples.len() - 1) as f64 * q) as usize] * 1e3
}

fn options_of(gib: usize) -> StoreOptions {
    StoreOptions { map_size_bytes: gib << 30, ..options() }
}

#[test]
#[ignore = "measures"]
fn commits_of_deltas() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), &options_of(4)).unwrap();
    for (what, length, count) in [
        ("no chunk", 0, 0),
        ("one chunk of 24 kB", 24_000, 1),
        ("2.4 MB in chunks of 256 KiB", 240_000, 10),
        ("2.4 MB in chunks of 1 MiB", 800_000, 3),
    ] {
        let template = chunks(1, &vec![length; count]);
        let mut kept: Vec<(u64, Vec<ChunkKey>)> = Vec::new();
        let (mut seconds, mut epochs) = (Vec::new(), Vec::new());
        for _ in 0..400 {
            let id = store.allocate_checkpoint_id().unwrap();
            let mut new = template.clone();
            new.iter_mut().for_each(|(key, _)| key.checkpoint = id);
            let record = record(id, 1, &new);
            let (records, gone) = if kept.len() > 20 {
                let (id, keys) = kept.remove(0);
                (vec![id], keys)
            } else {
                (vec![], vec![])
            };
            let commit = Commit {
                record: &record,
                chunks: &new,
                drop_records: &records,
                drop_chunks: &gone,
            };
            let start = Instant::now();
            store.commit(&commit).unwrap();
            seconds.push(start.elapsed().as_secs_f64());
            let start = Instant::now();
            store.check_epoch().unwrap();
            epochs.push(start.elapsed().as_secs_f64());
            kept.push((id, new.into_iter().map(|(key, _)| key).collect()));
        }
        eprintln!(
            "commit, {what}: p50 {:.2} ms, p99 {:.2} ms; check_epoch p50 {:.4} ms; {:?}",
            quantile(&mut seconds, 0.5),
            quantile(&mut seconds, 0.99),
            quantile(&mut epochs, 0.5),
            store.size().unwrap(),
        );
        for (id, keys) in kept {
            store.collect(&[id], &keys).unwrap();
        }
    }
}

#[test]
#[ignore = "measures"]
fn opening_and_reading() {
    for (what, length, count) in
        [("1 GiB in chunks of 256 KiB", 260_000, 4000), ("100,000 chunks of 3 kB", 3000, 100_000)]
    {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), &options_of(4)).unwrap();
        let template = bytes(ChunkKey { table: 0, checkpoint: 1, sequence: 0 }, length);
        let mut keys = Vec::new();
        for _ in 0..count / 1000 {
            let id = store.allocate_checkpoint_id().unwrap();
            let key = |sequence| ChunkKey { table: 0, checkpoint: id, sequence };
            let new: Vec<_> = (0..1000).map(|sequence| (key(sequence), template.clone())).collect();
            let record = record(id, 1, &new);
            let commit =
                Commit { record: &record, chunks: &new, drop_records: &[], drop_chunks: &[] };
            store.commit(&commit).unwrap();
            keys.extend(new.into_iter().map(|(key, _)| key));
        }
        let file = store.size().unwrap().file_bytes;
        store.close().unwrap();
        let start = Instant::now();
        let store = Store::open(directory.path(), &options_of(4)).unwrap();
        let opened = start.elapsed();
        let start = Instant::now();
        let read: usize =
            keys.iter().map(|key| store.read_chunk(*key, |b| Ok(b.len())).unwrap()).sum();
        let reading = start.elapsed();
        let start = Instant::now();
        store.backup(&directory.path().with_extension("backup")).unwrap();
        let backup = start.elapsed();
        std::fs::remove_dir_all(directory.path().with_extension("backup")).unwrap();
        let start = Instant::now();
        assert_eq!(verify(directory.path()).unwrap().chunks, count);
        let verified = start.elapsed();
        eprintln!(
            "{what}: file {file} bytes; open {opened:?}; read {read} bytes in {reading:?}; backup \
             {backup:?}; verify {verified:?}"
        );
    }
}
