//! Appends that got no answer: kept and repeated, in order, once; and records that were not taken are
//! named so.

mod log_support;

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use log_support::*;
use onceflow_core::ErrorKind;
use onceflow_core::log::{Limits, Log, LogOptions};
use rustix::fs::FlockOperation;

/// Waits for others for a moment only.
fn impatient(directory: &Path) -> Log {
    let limits = Limits { producer_expiry_ms: Some(1000), ..Limits::default() };
    let commit_timeout = Duration::from_millis(20);
    Log::open(directory, &LogOptions { commit_timeout, limits, ..options() }).unwrap()
}

/// As a process that stands still in a commit, until it is dropped.
fn hold(directory: &Path) -> File {
    let file = File::open(directory.join("commit.lock")).unwrap();
    rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
    file
}

#[test]
fn records_behind_an_append_without_an_answer_are_kept_or_refused_but_never_lost() {
    let root = scratch();
    let log = impatient(root.path());
    topic(&log, "t", 2);
    let producer = idempotent(&log);
    produce(&producer, "t", 0, &["a"], 0).unwrap();
    let held = hold(root.path());
    assert_eq!(kind(produce(&producer, "t", 0, &["kept"], 0)), ErrorKind::LogTimeout);
    for partition in 0..2 {
        let error = produce(&producer, "t", partition, &["untaken"], 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BufferFull);
        assert!(error.to_string().contains("not taken"), "{error}");
    }
    // The one that is kept still is.
    assert_eq!(kind(producer.flush(0)), ErrorKind::LogTimeout);
    drop(held);
    let placed = producer.flush(0).unwrap();
    assert_eq!(
        placed.iter().map(|one| (one.first_offset, one.count)).collect::<Vec<_>>(),
        [(1, 1)]
    );
    assert_eq!(producer.flush(0).unwrap(), []);
    for partition in 0..2 {
        produce(&producer, "t", partition, &["again"], 0).unwrap();
    }
    assert_eq!(values(&log, "t", 0), ["a", "kept", "again"]);
    assert_eq!(values(&log, "t", 1), ["again"]);
}

#[test]
fn a_refused_repetition_takes_no_records_of_the_call_behind_it() {
    let root = scratch();
    let log = impatient(root.path());
    topic(&log, "gone", 1);
    topic(&log, "t", 1);
    let producer = idempotent(&log);
    let held = hold(root.path());
    assert_eq!(kind(produce(&producer, "gone", 0, &["refused"], 0)), ErrorKind::LogTimeout);
    drop(held);
    log.delete_topic("gone").unwrap();
    let error = produce(&producer, "t", 0, &["untaken"], 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownTopicOrPartition);
    assert!(error.to_string().contains("not taken"), "{error}");
    produce(&producer, "t", 0, &["again"], 0).unwrap();
    assert_eq!(values(&log, "t", 0), ["again"]);
}

#[test]
fn a_producer_that_cannot_get_its_new_id_has_not_taken_the_records() {
    let root = scratch();
    let log = impatient(root.path());
    topic(&log, "t", 1);
    let producer = idempotent(&log);
    produce(&producer, "t", 0, &["a"], 0).unwrap();
    let held = hold(root.path());
    // Silent for longer than half of the expiry: it asks for a new id first.
    assert_eq!(kind(produce(&producer, "t", 0, &["untaken"], 700)), ErrorKind::BufferFull);
    drop(held);
    assert_eq!(producer.flush(700).unwrap(), []);
    produce(&producer, "t", 0, &["b"], 700).unwrap();
    assert_eq!(values(&log, "t", 0), ["a", "b"]);
}

#[test]
fn records_of_a_transaction_whose_staging_has_no_answer_are_kept() {
    let root = scratch();
    let log = impatient(root.path());
    topic(&log, "t", 1);
    let producer = staging(&log, "tx", 10);
    producer.begin_transaction(0).unwrap();
    let held = hold(root.path());
    for value in ["first, staged", "second, waits", "third, waits"] {
        assert_eq!(kind(produce(&producer, "t", 0, &[value], 0)), ErrorKind::LogTimeout);
    }
    drop(held);
    producer.commit_transaction(0).unwrap();
    assert_eq!(values(&log, "t", 0), ["first, staged", "second, waits", "third, waits"]);
}
