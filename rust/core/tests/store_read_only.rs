//! On a read-only mount a store can be read, and an owner is told why it cannot be one.
//!
//! Needs the right to mount in a namespace of its own; where that is missing the test says so.

mod store_support;

use std::path::Path;
use std::process::{Command, Stdio};

use onceflow_core::ErrorKind;
use onceflow_core::store::{ChunkStore, Store, StoreOptions, verify};
use store_support::*;

/// The child's part, with `state` mounted read-only.
fn run(state: &Path) {
    for options in [options(), StoreOptions { take_over: true, ..options() }] {
        let error = Store::open(state, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreReadOnly, "{error}");
        assert!(error.to_string().contains("read_only"), "{error}");
    }
    let busy = std::env::var("OWNER").is_ok();
    let outcome = Store::open(state, &reader());
    if busy {
        // Without a slot in the reader table the owner would recycle what is being read.
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::StoreLocked);
    } else {
        let store = outcome.unwrap();
        assert_eq!(ids(&store), [1]);
        for (key, bytes) in chunks(1, &[9000]) {
            assert!(store.read_chunk(key, |found| Ok(found == bytes)).unwrap());
        }
        assert_eq!(verify(state).unwrap().checkpoints, [1]);
        store.backup(&state.with_extension("backup")).unwrap();
    }
    println!("@ran");
}

#[test]
fn a_read_only_mount_can_be_read() {
    const NAME: &str = "a_read_only_mount_can_be_read";
    if let Some(state) = role() {
        return run(Path::new(&state));
    }
    let unshare = |command: &mut Command| {
        command.args(["--mount", "--map-root-user", "sh", "-c"]);
    };
    let mut probe = Command::new("unshare");
    unshare(&mut probe);
    let probe = probe.arg("mount -t tmpfs none /mnt").stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no right to mount here");
        return;
    }
    let root = scratch();
    let state = root.path().join("state");
    let store = open(&state);
    commit(&store, &[9000], &[], &[]).unwrap();
    let mount_and_run = |owner: bool| {
        let inner = child(NAME, state.to_str().unwrap());
        let script = "mount --bind \"$STATE\" \"$STATE\" && mount -o remount,bind,ro \"$STATE\" && \
                      exec \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        unshare(&mut command);
        command.arg(script).arg(inner.get_program()).args(inner.get_args());
        command.env(ROLE, &state).env("STATE", &state);
        if owner {
            command.env("OWNER", "1");
        }
        let output = command.output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("@ran"), "{text}");
    };
    mount_and_run(true);
    store.close().unwrap();
    mount_and_run(false);
    assert_eq!(verify(&state.with_extension("backup")).unwrap().checkpoints, [1]);
    // The child's lock is gone with it.
    open(&state);
}
