//! A snapshot shows one moment, and a reader need not know whose store it is.

mod store_support;

use onceflow_core::ErrorKind;
use onceflow_core::store::{ChunkStore, Store, settings};
use store_support::*;

#[test]
fn what_the_owner_collects_stays_in_a_snapshot() {
    let root = scratch();
    let state = root.path().join("state");
    let owner = open(&state);
    let first = commit(&owner, &[300, 9000], &[], &[]).unwrap();
    let reader = Store::open(&state, &reader()).unwrap();
    let snapshot = reader.snapshot().unwrap();
    let old = chunks(first, &[300, 9000]);
    let keys: Vec<_> = old.iter().map(|(key, _)| *key).collect();
    let second = commit(&owner, &[300], &[first], &keys).unwrap();
    assert_eq!(ids(&reader), [second]);
    let seen: Vec<u64> = snapshot.records().unwrap().into_iter().map(|r| r.unwrap().id).collect();
    assert_eq!(seen, [first]);
    for (key, bytes) in old {
        assert!(snapshot.read_chunk(key, |found| Ok(found == bytes)).unwrap());
        let gone = reader.read_chunk(key, |_| Ok(())).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::StoreCorrupt);
    }
}

#[test]
fn settings_are_those_of_the_creation() {
    let root = scratch();
    let state = root.path().join("state");
    assert_eq!(settings(&state).unwrap_err().kind(), ErrorKind::StoreMissing);
    std::fs::write(&state, b"a file").unwrap();
    assert_eq!(settings(&state).unwrap_err().kind(), ErrorKind::StoreFormat);
    std::fs::remove_file(&state).unwrap();
    let _owner = open(&state);
    let found = settings(&state).unwrap();
    assert_eq!((found.job.as_str(), found.key_groups), ("test", 128));
}
