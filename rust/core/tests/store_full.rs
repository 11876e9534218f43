//! Full maps and full disks: the store says so, loses nothing, and goes on as far as is safe.

mod store_support;

use std::fs;
use std::path::Path;

use onceflow_core::store::{ChunkKey, ChunkStore, RecordStore, Store, StoreOptions, verify};
use onceflow_core::{ErrorKind, Result};
use rustix::process::{Resource, Rlimit, setrlimit};
use store_support::*;

const LENGTHS: [usize; 2] = [100_000, 30_000];

fn keys(id: u64) -> Vec<ChunkKey> {
    chunks(id, &LENGTHS).into_iter().map(|(key, _)| key).collect()
}

#[test]
fn a_full_map_refuses_the_commit_and_stays_usable() {
    let root = scratch();
    let small = StoreOptions { map_size_bytes: 1 << 20, ..options() };
    let store = Store::open(root.path(), &small).unwrap();
    let mut kept = Vec::new();
    let error = loop {
        match commit(&store, &LENGTHS, &[], &[]) {
            Ok(id) => kept.push(id),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::StoreFull);
    let text = error.to_string();
    assert!(text.contains("1048576") && text.contains("map_size_bytes"), "{text}");
    assert!(kept.len() > 3);
    // Nothing of the refused checkpoint is there, and notes still fit.
    assert_eq!(ids(&store), kept);
    assert_eq!(store.chunk_keys().unwrap().len(), 2 * kept.len());
    store.put_note("n", b"full").unwrap();
    assert_eq!(commit(&store, &LENGTHS, &[], &[]).unwrap_err().kind(), ErrorKind::StoreFull);
    // Dropping makes room: pages are free two transactions later.
    let oldest = kept.remove(0);
    store.collect(&[oldest], &keys(oldest)).unwrap();
    store.put_note("n", b"room").unwrap();
    kept.push(commit(&store, &LENGTHS, &[], &[]).unwrap());
    assert_eq!(ids(&store), kept);
    // In steady state it goes on for ever in the same file.
    for _ in 0..100 {
        let oldest = kept.remove(0);
        kept.push(commit(&store, &LENGTHS, &[oldest], &keys(oldest)).unwrap_or_else(|_| {
            // The drop alone, then the commit.
            store.collect(&[oldest], &keys(oldest)).unwrap();
            store.put_note("n", b"room").unwrap();
            commit(&store, &LENGTHS, &[], &[]).unwrap()
        }));
    }
    assert!(store.size().unwrap().file_bytes <= 1 << 20);
    store.close().unwrap();
    assert_eq!(verify(root.path()).unwrap().checkpoints, kept);
    // A larger map lifts the limit.
    let store = open(root.path());
    for _ in 0..20 {
        kept.push(commit(&store, &LENGTHS, &[], &[]).unwrap());
    }
    assert_eq!(ids(&store), kept);
    assert!(store.size().unwrap().file_bytes > 1 << 20);
}

/// The child's part: no file may grow past a limit, as on a disk that is full.
fn run(state: &Path) {
    let store = open(state);
    let before = commit(&store, &LENGTHS, &[], &[]).unwrap();
    store.put_note("n", b"before").unwrap();
    let length = fs::metadata(state.join("data/data.mdb")).unwrap().len();
    let limit = Rlimit { current: Some(length + 50_000), maximum: None };
    setrlimit(Resource::Fsize, limit).unwrap();

    let error = commit(&store, &LENGTHS, &[], &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreFull, "{error}");
    assert!(error.to_string().contains("free space"), "{error}");
    // From then on nothing is written, also what would fit, and each error tells the first.
    let poisoned = |outcome: Result<()>| {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorePoisoned);
        assert!(error.to_string().contains("free space"), "{error}");
    };
    poisoned(store.put_note("n", b"after"));
    poisoned(store.collect(&[before], &[]));
    poisoned(commit(&store, &[10], &[], &[]).map(|_| ()));
    // Reading goes on.
    assert_eq!(ids(&store), [before]);
    assert_eq!(store.note("n").unwrap().as_deref(), Some(&b"before"[..]));
    store.check_epoch().unwrap();
    store.close().unwrap();

    // Opened again there is nothing of the failed commit; with space again it works.
    setrlimit(Resource::Fsize, Rlimit { current: None, maximum: None }).unwrap();
    let store = open(state);
    assert_eq!(ids(&store), [before]);
    let after = commit(&store, &LENGTHS, &[], &[]).unwrap();
    assert_eq!(ids(&store), [before, after]);
}

#[test]
fn a_full_disk_poisons_the_store_until_it_is_opened_again() {
    const NAME: &str = "a_full_disk_poisons_the_store_until_it_is_opened_again";
    if let Some(state) = role() {
        return run(Path::new(&state));
    }
    let root = scratch();
    let state = root.path().join("state");
    // Past the limit the kernel sends SIGXFSZ unless it is ignored, which only a shell can do here.
    let inner = child(NAME, state.to_str().unwrap());
    let mut command = std::process::Command::new("sh");
    command.arg("-c").arg("trap '' XFSZ; exec \"$0\" \"$@\"").arg(inner.get_program());
    command.args(inner.get_args()).env(ROLE, &state);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    // The child did run its part.
    assert_eq!(verify(&state).unwrap().checkpoints.len(), 2, "{text}");
}
