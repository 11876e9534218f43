//! Killed at each of the store's crash points, and once more during recovery: what was acknowledged
//! is there, what was not is there as a whole or not at all, and no id is handed out twice.
#![cfg(feature = "crash-points")]

mod store_support;

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use onceflow_core::ErrorKind;
use onceflow_core::store::{ChunkStore, RecordStore, Store, StoreOptions, verify};
use store_support::*;

const SIGKILL: i32 = 9;
const LENGTHS: [usize; 3] = [100, 30_000, 1_200_000];

/// What recovery must find after a kill.
#[derive(Clone, Copy, PartialEq)]
enum Expected {
    /// The checkpoint under way is gone.
    Abort,
    /// It is there.
    RollForward,
    /// Nothing about checkpoints is at stake.
    Restart,
}

/// Point, how often to pass it, script of the child, outcome.
const CELLS: &[(&str, &[u64], &str, Expected)] = &[
    ("env.create.pre_header", &[1], "work", Expected::Restart),
    ("env.create.pre_sync", &[1], "work", Expected::Restart),
    ("env.create.pre_rename", &[1], "work", Expected::Restart),
    ("env.create.mid_rename", &[1], "work", Expected::Restart),
    ("env.create.pre_dirsync", &[1], "work", Expected::Restart),
    ("manifest.replace.pre_rename", &[1, 2], "work", Expected::Restart),
    ("recover.pre_fence", &[1], "work", Expected::Restart),
    ("recover.post_fence", &[1], "work", Expected::Restart),
    ("ckpt.id.post_alloc", &[1, 2, 5, 1001], "work", Expected::Abort),
    ("snap.state.pre_commit", &[1, 2, 6], "work", Expected::Abort),
    ("gc.pre_delete", &[1, 3], "work", Expected::Abort),
    ("gc.mid_delete", &[1, 2, 3, 5], "work", Expected::Abort),
    ("decide.pre_sync", &[1, 2, 6], "work", Expected::Abort),
    ("decide.post", &[1, 2, 6], "work", Expected::RollForward),
    ("map.full.mid_txn", &[1], "fill", Expected::Abort),
    ("backup.mid_copy", &[1], "work", Expected::Restart),
    ("backup.pre_rename", &[1], "work", Expected::Restart),
    ("backup.pre_dirsync", &[1], "work", Expected::Restart),
];

fn options_of(script: &str) -> StoreOptions {
    StoreOptions {
        take_over: script == "take over",
        map_size_bytes: if script == "fill" { 8 << 20 } else { MAP_BYTES },
        ..options()
    }
}

/// The child's part: says what it is about to do and what is done.
fn run(script: &str, state: &Path) {
    let mut out = std::io::stdout();
    let mut say = |text: String| {
        writeln!(out, "{text}").unwrap();
        out.flush().unwrap();
    };
    say(String::new());
    let store = Store::open(state, &options_of(script)).unwrap();
    say(format!("@epoch {}", store.job_epoch()));
    let mut kept: Vec<u64> = ids(&store);
    for round in 0..8 {
        if round == 6 && script != "fill" {
            // Past the end of a block.
            for _ in 0..1000 {
                say(format!("@id {}", store.allocate_checkpoint_id().unwrap()));
            }
        }
        let id = store.allocate_checkpoint_id().unwrap();
        say(format!("@id {id}"));
        let new = chunks(id, &LENGTHS);
        let dropped: Vec<u64> =
            if kept.len() >= 3 && script != "fill" { vec![kept.remove(0)] } else { vec![] };
        let gone: Vec<_> =
            dropped.iter().flat_map(|id| chunks(*id, &LENGTHS)).map(|(k, _)| k).collect();
        let record = record(id, store.job_epoch(), &new);
        let outcome = store.commit(&onceflow_core::store::Commit {
            record: &record,
            chunks: &new,
            drop_records: &dropped,
            drop_chunks: &gone,
        });
        match outcome {
            Ok(_) => say(format!("@done {id}")),
            Err(error) if script == "fill" => {
                assert_eq!(error.kind(), ErrorKind::StoreFull);
                break;
            }
            Err(error) => panic!("{error}"),
        }
        kept.push(id);
    }
    let _ = store.backup(&state.with_extension("backup"));
    store.close().unwrap();
    say("@closed".to_owned());
}

/// What the child said before it ended.
#[derive(Default)]
struct Said {
    ids: Vec<u64>,
    done: Vec<u64>,
    closed: bool,
}

/// Runs a child that must die at `point`, unless `None`.
fn crash(script: &str, state: &Path, point: Option<(&str, u64)>) -> Said {
    let mut command =
        child("every_crash_point_is_survived", &format!("{script}|{}", state.display()));
    if let Some((name, nth)) = point {
        command.env("CRASH_AT", format!("{name}:{nth}"));
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    match point {
        Some(point) => {
            assert_eq!(
                output.status.signal(),
                Some(SIGKILL),
                "{point:?} was not reached: {errors}"
            );
        }
        None => assert!(output.status.success(), "{errors}"),
    }
    let mut said = Said::default();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        match line.split_once(' ') {
            Some(("@id", id)) => said.ids.push(id.parse().unwrap()),
            Some(("@done", id)) => said.done.push(id.parse().unwrap()),
            _ => said.closed |= line == "@closed",
        }
    }
    said
}

/// Opens what a crash left and compares; returns the records found.
fn check(cell: &str, script: &str, state: &Path, said: &Said, expected: Expected) -> Vec<u64> {
    let report = verify(state);
    if let Ok(report) = &report {
        assert_eq!((&report.damage, report.orphan_chunks), (&vec![], 0), "{cell}");
    }
    let store = Store::open(state, &options_of(script)).unwrap_or_else(|e| panic!("{cell}: {e}"));
    let found = ids(&store);
    let attempted = said.ids.last().copied().unwrap_or(0);
    let acknowledged = said.done.last().copied().unwrap_or(0);
    let newest = found.last().copied().unwrap_or(0);
    assert!(acknowledged <= newest && newest <= attempted, "{cell}: {newest}");
    match expected {
        Expected::Abort => assert_eq!(newest, acknowledged, "{cell}"),
        Expected::RollForward => {
            assert!(newest == attempted && attempted > acknowledged, "{cell}");
        }
        Expected::Restart => {}
    }
    for id in &found {
        for (key, bytes) in chunks(*id, &LENGTHS) {
            assert!(store.read_chunk(key, |found| Ok(found == bytes)).unwrap(), "{cell}: {key:?}");
        }
    }
    assert_eq!(store.chunk_keys().unwrap().len(), found.len() * LENGTHS.len(), "{cell}");
    let next = store.allocate_checkpoint_id().unwrap();
    assert!(said.ids.iter().all(|id| *id < next), "{cell}: id {next} is handed out again");
    drop(store);
    let names: BTreeSet<String> = std::fs::read_dir(state)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let expected = ["bounds", "data", "manifest.json", "owner.lock"].map(str::to_owned);
    assert_eq!(names, BTreeSet::from(expected), "{cell}");
    found
}

#[test]
fn every_crash_point_is_survived() {
    if let Some(role) = role() {
        let (script, state) = role.split_once('|').unwrap();
        return run(script, Path::new(state));
    }
    let root = scratch();
    for (point, nths, script, expected) in CELLS {
        for nth in *nths {
            let cell = format!("{point}:{nth}");
            let state = root.path().join("state");
            let said = crash(script, &state, Some((point, *nth)));
            assert!(!said.closed, "{cell}");
            // A second crash, while the first is being recovered from, changes nothing.
            let again = ["recover.pre_fence", "recover.post_fence", "manifest.replace.pre_rename"];
            for point in again {
                let more = crash(script, &state, Some((point, 1)));
                assert!(more.ids.is_empty() && more.done.is_empty(), "{cell}, then {point}");
            }
            let found = check(&cell, script, &state, &said, *expected);
            // And it goes on from there.
            let more = crash(script, &state, None);
            assert!(more.closed, "{cell}");
            assert!(more.ids.first() > said.ids.last(), "{cell}");
            assert!(*script == "fill" || more.done.len() == 8, "{cell}");
            assert!(found.len() <= 3 || *script == "fill", "{cell}");
            if *script != "fill" {
                // The backup is whole, whatever a killed one had left.
                let backup = verify(&state.with_extension("backup")).unwrap();
                assert_eq!((backup.damage.len(), backup.orphan_chunks), (0, 0), "{cell}");
                assert!(!backup.checkpoints.is_empty());
                assert!(!root.path().join(".state.backup.onceflow-backup").exists(), "{cell}");
            }
            std::fs::remove_dir_all(&state).unwrap();
            let _ = std::fs::remove_dir_all(state.with_extension("backup"));
        }
    }
}

#[test]
fn a_creation_cut_short_twice_is_discarded_twice() {
    const NAME: &str = "a_creation_cut_short_twice_is_discarded_twice";
    let points = ["pre_header", "pre_sync", "pre_rename", "mid_rename", "pre_dirsync"];
    if let Some(state) = role() {
        drop(open(Path::new(&state)));
        return;
    }
    for first in points {
        for second in points {
            let root = scratch();
            let state = root.path().join("state");
            for point in [first, second] {
                let status = child(NAME, state.to_str().unwrap())
                    .env("CRASH_AT", format!("env.create.{point}"))
                    .output()
                    .unwrap()
                    .status;
                // After the last rename the store exists, and is not created again.
                let created = first == "pre_dirsync" && state.join("manifest.json").exists();
                assert!(status.signal() == Some(SIGKILL) || created, "{first}, {second}");
            }
            // Reading must not create, nor trip over what lies there.
            if !state.join("manifest.json").exists() {
                assert_eq!(kind(Store::open(&state, &reader())), ErrorKind::StoreMissing);
            }
            let store = open(&state);
            assert!(ids(&store).is_empty());
            commit(&store, &LENGTHS, &[], &[]).unwrap();
        }
    }
}
