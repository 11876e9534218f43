//! What was committed is there after closing and opening; what is refused leaves no trace.

mod store_support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use onceflow_core::ErrorKind;
use onceflow_core::store::{
    ChunkKey, ChunkStore, Commit, RecordStore, Store, StoreOptions, verify,
};
use store_support::*;

#[test]
fn commits_survive_closing() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("a/b/state");
    let store = open(&state);
    assert_eq!((store.job_epoch(), store.key_groups()), (1, 128));
    let first = commit(&store, &[10, 5000, 300_000], &[], &[]).unwrap();
    let dropped: Vec<ChunkKey> = chunks(first, &[10]).into_iter().map(|(key, _)| key).collect();
    let second = commit(&store, &[0, 1], &[], &dropped).unwrap();
    store.put_note("sink/out", b"applied 2").unwrap();
    store.close().unwrap();

    let store = open(&state);
    assert_eq!(store.job_epoch(), 2);
    assert_eq!(ids(&store), [first, second]);
    let expected = record(second, 1, &chunks(second, &[0, 1]));
    assert_eq!(store.records().unwrap()[1], Ok(expected));
    for (key, bytes) in chunks(first, &[10, 5000, 300_000]).into_iter().skip(1) {
        assert!(store.read_chunk(key, |found| Ok(found == bytes)).unwrap());
    }
    for (key, bytes) in chunks(second, &[0, 1]) {
        assert!(store.read_chunk(key, |found| Ok(found == bytes)).unwrap());
    }
    let missing = store.read_chunk(dropped[0], |_| Ok(())).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::StoreCorrupt);
    assert_eq!(store.note("sink/out").unwrap().as_deref(), Some(&b"applied 2"[..]));
    assert_eq!(store.note("sink/other").unwrap(), None);
    assert_eq!(store.chunk_keys().unwrap().len(), 4);
    assert!(store.allocate_checkpoint_id().unwrap() > second);

    let report = verify(&state).unwrap();
    // Chunk 0 of the first checkpoint was dropped although its record stayed.
    assert_eq!(report.checkpoints, [second]);
    assert_eq!(report.damage.len(), 1);
    assert_eq!((report.chunks, report.bytes, report.orphan_chunks), (4, 305_001, 0));
}

#[test]
fn values_above_a_mebibyte_are_split_and_joined() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let lengths = [(1 << 20) - 28, (1 << 20) - 27, 3_500_000];
    let id = commit(&store, &lengths, &[], &[]).unwrap();
    for (key, bytes) in chunks(id, &lengths) {
        assert!(store.read_chunk(key, |found| Ok(found == bytes)).unwrap());
    }
    let mut big = record(id + 1, 1, &[]);
    big.staged.insert("http".to_owned(), vec![7; 5_000_000]);
    store
        .commit(&Commit { record: &big, chunks: &[], drop_records: &[], drop_chunks: &[] })
        .unwrap();
    assert_eq!(store.records().unwrap()[1], Ok(big));
    assert_eq!(store.chunk_keys().unwrap().len(), 3);

    let keys = store.chunk_keys().unwrap();
    let used = store.size().unwrap().used_bytes;
    store.collect(&[id, id + 1], &keys).unwrap();
    assert!(store.records().unwrap().is_empty() && store.chunk_keys().unwrap().is_empty());
    assert!(store.size().unwrap().used_bytes + 10_000_000 < used);
}

#[test]
fn what_exists_is_never_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let id = commit(&store, &[100], &[], &[]).unwrap();
    let again = record(id, 1, &[]);
    let commit_again = Commit { record: &again, chunks: &[], drop_records: &[], drop_chunks: &[] };
    assert_eq!(store.commit(&commit_again).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let other = record(id + 1, 1, &[]);
    let chunk = chunks(id, &[5]);
    let replacing = Commit { record: &other, chunks: &chunk, drop_records: &[], drop_chunks: &[] };
    assert_eq!(store.commit(&replacing).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(ids(&store), [id]);
    assert!(store.read_chunk(chunk[0].0, |found| Ok(found.len() == 100)).unwrap());
    // Neither refusal has poisoned the store.
    commit(&store, &[100], &[], &[]).unwrap();
}

/// About a chunk that is put twice, as by a worker that does not know whether its first try came
/// through: the same bytes are no difference, others, also of the same length, are refused.
#[test]
fn the_same_chunk_again_is_no_difference() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let lengths = [0, 100, 3_000_000];
    let id = commit(&store, &lengths, &[], &[]).unwrap();
    let put = |id: u64, chunks: &[(ChunkKey, Vec<u8>)]| {
        let record = record(id, 1, &[]);
        let commit = Commit { record: &record, chunks, drop_records: &[], drop_chunks: &[] };
        store.commit(&commit).map(|_| ()).map_err(|error| error.kind())
    };
    let same = chunks(id, &lengths);
    assert_eq!(put(id + 1, &same), Ok(()));
    for at in [0, 1_500_000, 2_999_999] {
        let mut other = same.clone();
        other[2].1[at] ^= 1;
        assert_eq!(put(id + 2, &other), Err(ErrorKind::InvalidArgument), "byte {at}");
    }
    let longer: Vec<_> =
        same.iter().cloned().map(|(key, bytes)| (key, [bytes, vec![1]].concat())).collect();
    assert_eq!(put(id + 2, &longer), Err(ErrorKind::InvalidArgument));
    assert_eq!(ids(&store), [id, id + 1]);
    for (key, bytes) in same {
        assert!(store.read_chunk(key, |found| Ok(found == bytes)).unwrap());
    }
}

#[test]
fn notes_have_bounds() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let kind = |name: &str, length: usize| {
        store.put_note(name, &vec![1; length]).map_err(|error| error.kind())
    };
    assert_eq!(kind("", 1), Err(ErrorKind::InvalidArgument));
    assert_eq!(kind(&"n".repeat(401), 1), Err(ErrorKind::InvalidArgument));
    assert_eq!(kind(&"n".repeat(400), 1 << 20), Ok(()));
    assert_eq!(kind("n", (1 << 20) + 1), Err(ErrorKind::CapacityExceeded));
    store.put_note("n", b"1").unwrap();
    store.put_note("n", b"").unwrap();
    assert_eq!(store.note("n").unwrap(), Some(Vec::new()));
}

#[test]
fn only_the_owner_may_read_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let store = open(&state);
    commit(&store, &[100], &[], &[]).unwrap();
    let mode = |name: &str| fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("data")), (0o700, 0o700));
    for file in ["manifest.json", "owner.lock", "data/data.mdb", "data/lock.mdb"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
    store.backup(&directory.path().join("copy")).unwrap();
    let mode = |name: &str| {
        fs::metadata(directory.path().join("copy").join(name)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode(""), mode("data")), (0o700, 0o700));
    assert_eq!((mode("manifest.json"), mode("data/data.mdb")), (0o600, 0o600));
}

#[test]
fn a_missing_store_is_not_created_unless_asked() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    for options in [StoreOptions { create: false, ..options() }, reader()] {
        assert_eq!(kind(Store::open(&state, &options)), ErrorKind::StoreMissing);
        assert!(!state.exists());
        assert_eq!(kind(Store::open(directory.path(), &options)), ErrorKind::StoreMissing);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
    assert_eq!(verify(&state).unwrap_err().kind(), ErrorKind::StoreMissing);
}

#[test]
fn a_foreign_directory_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("thesis.txt"), "mine").unwrap();
    let error = Store::open(directory.path(), &options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreFormat);
    assert!(error.to_string().contains("thesis.txt"), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

    let file = directory.path().join("thesis.txt");
    assert_eq!(kind(Store::open(&file, &options())), ErrorKind::StoreFormat);
    // A directory "data" that is not ours is foreign too.
    let other = tempfile::tempdir().unwrap();
    fs::create_dir(other.path().join("data")).unwrap();
    assert_eq!(kind(Store::open(other.path(), &options())), ErrorKind::StoreFormat);
}

#[test]
fn another_job_or_other_key_groups_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).close().unwrap();
    for read_only in [false, true] {
        let other = StoreOptions { job: "other".to_owned(), read_only, ..options() };
        let error = Store::open(directory.path(), &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreMismatch);
        assert!(error.to_string().contains("\"test\"") && error.to_string().contains("\"other\""));
        let fewer = StoreOptions { key_groups: 64, read_only, ..options() };
        let error = Store::open(directory.path(), &fewer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreMismatch);
        assert!(error.to_string().contains("128") && error.to_string().contains("64"));
    }
    // The refusals have not raised the epoch.
    assert_eq!(open(directory.path()).job_epoch(), 2);
}

#[test]
fn bad_options_are_refused_before_anything_is_written() {
    let directory = tempfile::tempdir().unwrap();
    for options in [
        StoreOptions { key_groups: 100, ..options() },
        StoreOptions { key_groups: 0, ..options() },
        StoreOptions { map_size_bytes: 0, ..options() },
        StoreOptions { job: String::new(), ..options() },
    ] {
        assert_eq!(kind(Store::open(directory.path(), &options)), ErrorKind::InvalidArgument);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_reader_sees_what_the_owner_commits_and_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let owner = open(directory.path());
    let reader = Store::open(directory.path(), &reader()).unwrap();
    assert_eq!((reader.job_epoch(), reader.newest_job_epoch().unwrap()), (0, owner.job_epoch()));
    let id = commit(&owner, &[1000], &[], &[]).unwrap();
    assert_eq!(ids(&reader), [id]);
    assert_eq!(reader.put_note("n", b"").unwrap_err().kind(), ErrorKind::StoreReadOnly);
    assert_eq!(reader.allocate_checkpoint_id().unwrap_err().kind(), ErrorKind::StoreReadOnly);
    assert_eq!(reader.collect(&[id], &[]).unwrap_err().kind(), ErrorKind::StoreReadOnly);
    reader.check_epoch().unwrap();
    // The owner may go first; and a reader alone keeps an owner of this process out.
    owner.close().unwrap();
    assert_eq!(ids(&reader), [id]);
    drop(reader);
    assert_eq!(verify(directory.path()).unwrap().checkpoints, [id]);
    assert_eq!(open(directory.path()).job_epoch(), 2);
}

#[test]
fn a_backup_is_a_store_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let (state, copy) = (directory.path().join("state"), directory.path().join("copy"));
    let store = open(&state);
    let first = commit(&store, &[700_000, 3_000_000], &[], &[]).unwrap();
    store.put_note("n", b"1").unwrap();
    store.backup(&copy).unwrap();
    assert_eq!(store.backup(&copy).unwrap_err().kind(), ErrorKind::InvalidArgument);
    // The source goes on, and the copy does not change with it.
    let second = commit(&store, &[10], &[], &[]).unwrap();
    let report = verify(&copy).unwrap();
    assert_eq!((report.checkpoints, report.damage), (vec![first], vec![]));
    let opened = open(&copy);
    assert_eq!(ids(&opened), [first]);
    assert_eq!(opened.job_epoch(), 2);
    assert_eq!(opened.note("n").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(ids(&store), [first, second]);
    let names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn ids_are_never_handed_out_twice() {
    let directory = tempfile::tempdir().unwrap();
    let mut last = 0;
    for _ in 0..3 {
        let store = open(directory.path());
        for _ in 0..1500 {
            let id = store.allocate_checkpoint_id().unwrap();
            assert!(id > last);
            last = id;
        }
        // Dropped without closing.
    }
    // An id that was not allocated here is taken all the same once it is committed.
    let store = open(directory.path());
    let far = record(1_000_000, 4, &[]);
    store
        .commit(&Commit { record: &far, chunks: &[], drop_records: &[], drop_chunks: &[] })
        .unwrap();
    drop(store);
    assert!(open(directory.path()).allocate_checkpoint_id().unwrap() > 1_000_000);
}
