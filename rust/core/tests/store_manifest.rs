//! The manifest is checked before anything is mapped: what does not fit is refused, with its name.

mod store_support;

use std::fs;
use std::path::Path;

use onceflow_core::ErrorKind;
use onceflow_core::store::{RecordStore, Store, StoreOptions, verify};
use store_support::*;

/// A closed store with two checkpoints.
fn build(state: &Path) -> Image {
    let store = open(state);
    commit(&store, &[5000], &[], &[]).unwrap();
    commit(&store, &[5000], &[], &[]).unwrap();
    store.close().unwrap();
    Image::of(state)
}

/// Refused by owner and reader alike, and reported by `verify`; nothing is changed.
fn refused(state: &Path, kind: ErrorKind, text: &str) {
    let before = snapshot(state);
    for options in [options(), reader(), StoreOptions { take_over: true, ..options() }] {
        let error = Store::open(state, &options).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    match verify(state) {
        Err(error) => assert_eq!(error.kind(), kind),
        Ok(report) => {
            assert_eq!((kind, report.damage.len()), (ErrorKind::StoreCorrupt, 1));
            assert!(report.damage[0].reason.contains(text), "{:?}", report.damage);
        }
    }
    assert!(before == snapshot(state));
}

fn snapshot(state: &Path) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    (fs::read(state.join("data/data.mdb")).ok(), fs::read(state.join("manifest.json")).ok())
}

#[test]
fn a_data_file_that_is_too_short_is_corrupt() {
    let root = scratch();
    let image = build(&root.path().join("base"));
    let state = root.path().join("state");
    for length in [0, 1, 100, 4096, 8192, image.data.len() - 1] {
        let data = image.data[..length].to_vec();
        Image { data, ..image.clone() }.write(&state);
        refused(&state, ErrorKind::StoreCorrupt, &format!("has {length} bytes"));
    }
    fs::remove_file(state.join("data/data.mdb")).unwrap();
    refused(&state, ErrorKind::StoreCorrupt, "missing");
    fs::remove_dir_all(state.join("data")).unwrap();
    refused(&state, ErrorKind::StoreCorrupt, "missing");
}

#[test]
fn an_older_data_file_is_corrupt() {
    let root = scratch();
    let state = root.path().join("state");
    let store = open(&state);
    for _ in 0..5 {
        commit(&store, &[5000], &[1, 2], &[]).unwrap();
    }
    store.close().unwrap();
    let old = Image::of(&state);
    let store = open(&state);
    store.put_note("n", b"newer").unwrap();
    store.close().unwrap();
    let new = Image::of(&state);
    assert_eq!(old.data.len(), new.data.len(), "the length must not tell");
    Image { data: old.data, manifest: new.manifest }.write(&state);
    refused(&state, ErrorKind::StoreCorrupt, "replaced by an older one");
    // The other way round is what a kill leaves behind, and right.
    Image { data: new.data, manifest: old.manifest }.write(&state);
    assert_eq!(open(&state).note("n").unwrap().as_deref(), Some(&b"newer"[..]));
}

#[test]
fn the_data_file_of_another_store_is_corrupt() {
    let root = scratch();
    let image = build(&root.path().join("base"));
    let other = StoreOptions { store_id: 5, ..options() };
    let store = Store::open(&root.path().join("other"), &other).unwrap();
    for _ in 0..5 {
        commit(&store, &[9000], &[], &[]).unwrap();
    }
    store.close().unwrap();
    let foreign = Image::of(&root.path().join("other"));
    let state = root.path().join("state");
    Image { data: foreign.data, manifest: image.manifest }.write(&state);
    refused(&state, ErrorKind::StoreCorrupt, "but the data file is of store");
}

#[test]
fn a_newer_format_is_refused_as_such() {
    let root = scratch();
    let state = root.path().join("state");
    let image = build(&state);
    // A later format may have any other fields.
    let manifest = br#"{"format": 2, "name": "from the future"}"#.to_vec();
    Image { manifest, ..image }.write(&state);
    refused(&state, ErrorKind::StoreFormat, "format version 2");
}

#[test]
fn a_tampered_manifest_is_corrupt() {
    let root = scratch();
    let state = root.path().join("state");
    let image = build(&state);
    let text = String::from_utf8(image.manifest.clone()).unwrap();
    for (from, to) in [
        ("\"test\"", "\"text\""),
        ("128", "64"),
        ("\"newest_transaction\": ", "\"newest_transaction\": 1"),
        ("\"min_length_bytes\": ", "\"min_length_bytes\": 1"),
        ("\"checksum\": \"", "\"checksum\": \"0"),
        ("{", ""),
        ("\"format\": 1", "\"format\": \"1\""),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        Image { manifest: changed.into_bytes(), ..image.clone() }.write(&state);
        refused(&state, ErrorKind::StoreCorrupt, "manifest");
    }
    for manifest in [Vec::new(), b"{}".to_vec(), vec![0; 300], vec![b'['; 100_000]] {
        Image { manifest, ..image.clone() }.write(&state);
        refused(&state, ErrorKind::StoreCorrupt, "manifest");
    }
    fs::remove_file(state.join("manifest.json")).unwrap();
    refused(&state, ErrorKind::StoreCorrupt, "no manifest.json");
}

#[test]
fn the_lower_bounds_rise_with_open_and_close() {
    let root = scratch();
    let state = root.path().join("state");
    let bounds = || {
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(state.join("manifest.json")).unwrap()).unwrap();
        let number = |name: &str| manifest[name].as_u64().unwrap();
        (number("newest_transaction"), number("min_length_bytes"))
    };
    let length = || fs::metadata(state.join("data/data.mdb")).unwrap().len();
    let store = open(&state);
    let opened = bounds();
    assert_eq!(opened.1, length());
    for _ in 0..1023 {
        commit(&store, &[100], &[], &[]).unwrap();
    }
    // A commit does not pay for it, but one in 1,024 does.
    assert!(bounds() < (opened.0 + 5, opened.1 + 1), "{:?}", bounds());
    commit(&store, &[100], &[], &[]).unwrap();
    assert!(bounds().0 >= opened.0 + 1024, "{:?}", bounds());
    commit(&store, &[500_000], &[], &[]).unwrap();
    store.close().unwrap();
    assert!(bounds().0 >= opened.0 + 1025);
    assert_eq!(bounds().1, length());
}

/// An older copy of the data file alone, put back beside a manifest that was last raised when the
/// store was opened: the commits since were lost without a word.
#[test]
fn an_older_data_file_is_corrupt_also_right_after_a_kill() {
    let root = scratch();
    let state = root.path().join("state");
    open(&state).close().unwrap();
    let store = open(&state);
    let manifest = fs::read(state.join("manifest.json")).unwrap();
    let mut copies = Vec::new();
    for _ in 0..6 {
        commit(&store, &[100], &[1, 2, 3, 4, 5, 6], &[]).unwrap();
        copies.push(fs::read(state.join("data/data.mdb")).unwrap());
    }
    let bounds = fs::read(state.join("bounds")).unwrap();
    drop(store);
    // As a kill leaves it: the manifest was not raised.
    let newest = copies.pop().unwrap();
    for data in copies {
        Image { data, manifest: manifest.clone() }.write(&state);
        fs::write(state.join("bounds"), &bounds).unwrap();
        refused(&state, ErrorKind::StoreCorrupt, "an older one");
    }
    // Bounds that a crash has torn or that are missing say nothing, and older ones are true.
    Image { data: newest, manifest }.write(&state);
    for torn in [&bounds[..31], &[0; 32], &[]] {
        fs::write(state.join("bounds"), torn).unwrap();
        open(&state).close().unwrap();
    }
    fs::remove_file(state.join("bounds")).unwrap();
    open(&state).close().unwrap();
}

/// A backup that is laid over a directory that went on: its own bounds come with it.
#[test]
fn a_backup_is_restored_over_what_was_there() {
    let root = scratch();
    let (state, copy) = (root.path().join("state"), root.path().join("copy"));
    let store = open(&state);
    commit(&store, &[100], &[], &[]).unwrap();
    store.backup(&copy).unwrap();
    for _ in 0..100 {
        commit(&store, &[100], &[], &[]).unwrap();
    }
    store.close().unwrap();
    for file in ["manifest.json", "bounds", "data/data.mdb"] {
        fs::copy(copy.join(file), state.join(file)).unwrap();
    }
    assert_eq!(open(&state).records().unwrap().len(), 1);
}
