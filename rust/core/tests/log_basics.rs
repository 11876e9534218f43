//! The log in one process: what is written is read, once, and only when it is committed.

mod log_support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use log_support::*;
use onceflow_core::ErrorKind;
use onceflow_core::log::{
    CommitOffsets, FetchLimits, Log, OffsetCommit, Partitioning, Records, Timestamps,
    TopicSettings, partition_of,
};
use onceflow_core::wakeup::{Wakeup, Woken};

#[test]
fn records_come_back_as_they_were_written() {
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 3);
    let producer = idempotent(&log);
    let keys = Strings::nullable(&[Some("a"), None, Some("ccc"), Some("")]);
    let values = Strings::nullable(&[None, Some("x"), Some("yy"), Some("zzz")]);
    let headers = Strings::nullable(&[None, None, Some("h"), None]);
    let timestamps = [5, 3, 9, 9];
    let records = Records::new(
        4,
        Timestamps::Each(&timestamps),
        Some(keys.column()),
        Some(values.column()),
        Some(headers.column()),
    )
    .unwrap();
    let placed = producer.produce("t", Partitioning::One(1), &records, 100).unwrap();
    assert_eq!((placed[0].partition, placed[0].first_offset, placed[0].count), (1, 0, 4));
    let placed = producer.produce("t", Partitioning::One(1), &records, 100).unwrap();
    assert_eq!(placed[0].first_offset, 4);

    let found = fetch_all(&log, "t", 1);
    assert_eq!(found.offsets, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(found.timestamps, [5, 3, 9, 9, 5, 3, 9, 9]);
    assert_eq!(found.next_offset, 8);
    for row in 0..8 {
        assert_eq!(found.keys.get(row), keys.column().get(row % 4), "{row}");
        assert_eq!(found.values.get(row), values.column().get(row % 4), "{row}");
        assert_eq!(found.headers.get(row), headers.column().get(row % 4), "{row}");
    }
    // Any part of it is the same part.
    for offset in 0..8 {
        for max_records in 1..9 {
            let limits = FetchLimits { max_records, max_bytes: 1 << 20 };
            let part = log.fetch("t", 1, offset, limits).unwrap();
            let end = 8.min(offset as usize + max_records);
            assert_eq!(part.offsets, (offset as i64..end as i64).collect::<Vec<_>>());
            assert_eq!(part.next_offset, end as u64);
            for row in 0..part.len() {
                assert_eq!(part.values.get(row), found.values.get(offset as usize + row));
            }
        }
    }
    let one = log.fetch("t", 1, 2, FetchLimits { max_records: 10, max_bytes: 0 }).unwrap();
    assert_eq!(one.len(), 1, "a record that is larger than the limit comes alone");
    assert_eq!(log.offset_for_timestamp("t", 1, 4).unwrap(), Some(0));
    assert_eq!(log.offset_for_timestamp("t", 1, 6).unwrap(), Some(2));
    assert_eq!(log.offset_for_timestamp("t", 1, 10).unwrap(), None);
    assert_eq!(log.partition("t", 0).unwrap().end, 0);
}

#[test]
fn keys_choose_partitions_and_large_calls_are_split() {
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 4);
    let producer = idempotent(&log);
    let rows: Vec<String> = (0..30_000).map(|number| format!("{number:0100}")).collect();
    let keys: Vec<String> = (0..30_000).map(|number| format!("k{}", number % 97)).collect();
    let (keys_column, values_column) = (Strings::new(&keys), Strings::new(&rows));
    let records = Records::new(
        rows.len(),
        Timestamps::Same(1),
        Some(keys_column.column()),
        Some(values_column.column()),
        None,
    )
    .unwrap();
    producer.produce("t", Partitioning::ByKey, &records, 1).unwrap();
    let mut total = 0;
    for partition in 0..4 {
        let found = fetch_all(&log, "t", partition);
        total += found.len();
        let expected: Vec<&str> = (0..rows.len())
            .filter(|row| partition_of(keys[*row].as_bytes(), 4) == partition)
            .map(|row| rows[row].as_str())
            .collect();
        assert_eq!(values(&log, "t", partition), expected);
    }
    assert_eq!(total, rows.len());
    assert!(log.partition("t", 0).unwrap().batches > 0);
    let each: Vec<u32> = (0..rows.len() as u32).map(|row| row % 3).collect();
    producer.produce("t", Partitioning::Each(&each), &records, 1).unwrap();
    let before = fetch_all(&log, "t", 3).len();
    assert_eq!(before, log.partition("t", 3).unwrap().records as usize);
}

#[test]
fn a_record_that_is_too_large_is_refused_with_its_call() {
    let root = scratch();
    let log = open(root.path());
    log.create_topic("small", &TopicSettings { max_record_bytes: 10, ..TopicSettings::default() })
        .unwrap();
    topic(&log, "t", 1);
    let producer = idempotent(&log);
    let error = produce(&producer, "small", 0, &["ok", "12345678901"], 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RecordTooLarge);
    assert!(error.to_string().contains("record 1 has 11 bytes"), "{error}");
    assert!(values(&log, "small", 0).is_empty());
    produce(&producer, "small", 0, &["1234567890"], 1).unwrap();
    let large = "x".repeat(onceflow_core::log::MAX_RECORD_BYTES);
    produce(&producer, "t", 0, &["a", &large, "b"], 1).unwrap();
    assert_eq!(values(&log, "t", 0), ["a", large.as_str(), "b"]);
    let error = produce(&producer, "t", 0, &[&format!("{large}x")], 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RecordTooLarge);
}

#[test]
fn a_transaction_shows_at_once_or_never() {
    let root = scratch();
    let log = open(root.path());
    topic(&log, "a", 2);
    topic(&log, "b", 1);
    let producer = transactional(&log, "billing");
    assert_eq!(kind(producer.begin_transaction(0)), ErrorKind::InvalidTransactionState);
    producer.init_transactions(0).unwrap();
    assert_eq!(kind(produce(&producer, "a", 0, &["x"], 0)), ErrorKind::InvalidTransactionState);

    producer.begin_transaction(0).unwrap();
    produce(&producer, "a", 0, &["1", "2"], 0).unwrap();
    produce(&producer, "b", 0, &["3"], 0).unwrap();
    produce(&producer, "a", 0, &["4"], 0).unwrap();
    let offsets = vec![OffsetCommit {
        topic: "b".to_owned(),
        partition: 0,
        offset: 17,
        metadata: "m".to_owned(),
    }];
    let offsets = CommitOffsets { group: "g".to_owned(), membership: None, offsets, now_ms: 0 };
    producer.send_offsets(offsets).unwrap();
    // An open transaction holds back nobody.
    let other = idempotent(&log);
    produce(&other, "a", 0, &["other"], 0).unwrap();
    assert_eq!(values(&log, "a", 0), ["other"]);
    assert_eq!(log.committed("g", "b", 0).unwrap(), None);
    let placed = producer.commit_transaction(1).unwrap();
    assert_eq!(placed.len(), 2);
    assert_eq!(values(&log, "a", 0), ["other", "1", "2", "4"]);
    assert_eq!(values(&log, "b", 0), ["3"]);
    let committed = log.committed("g", "b", 0).unwrap().unwrap();
    assert_eq!((committed.offset, committed.metadata.as_str()), (17, "m"));

    producer.begin_transaction(2).unwrap();
    produce(&producer, "a", 1, &["never"], 2).unwrap();
    producer.abort_transaction(2).unwrap();
    assert!(values(&log, "a", 1).is_empty());
    assert_eq!(kind(producer.commit_transaction(2)), ErrorKind::InvalidTransactionState);
}

#[test]
fn a_transaction_larger_than_its_memory_is_staged() {
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 2);
    let producer = staging(&log, "large", 10_000);
    for commit in [true, false, true] {
        let before = (values(&log, "t", 0).len(), values(&log, "t", 1).len());
        producer.begin_transaction(0).unwrap();
        for number in 0..100 {
            let rows: Vec<String> = (0..20).map(|row| format!("{number} {row:030}")).collect();
            let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
            produce(&producer, "t", number % 2, &rows, 0).unwrap();
        }
        assert!(log.producers().unwrap()[0].staged.is_some_and(|(_, bytes)| bytes > 40_000));
        assert_eq!(values(&log, "t", 0).len(), before.0);
        if commit {
            let placed = producer.commit_transaction(0).unwrap();
            assert_eq!(placed.iter().map(|one| one.count).sum::<u64>(), 2000);
            let found = values(&log, "t", 1);
            assert_eq!(found.len(), before.1 + 1000);
            assert!(found[before.1].starts_with("1 "), "{}", found[before.1]);
            assert!(found.last().unwrap().starts_with("99 "));
        } else {
            producer.abort_transaction(0).unwrap();
            assert_eq!((values(&log, "t", 0).len(), values(&log, "t", 1).len()), before);
        }
        assert_eq!(log.producers().unwrap()[0].staged, None);
    }
    drop(producer);
    drop(log);
    let log = open(root.path());
    assert_eq!(values(&log, "t", 0).len(), 2000);
}

#[test]
fn the_newer_producer_fences_the_older_one() {
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 1);
    let old = transactional(&log, "x");
    old.init_transactions(0).unwrap();
    old.begin_transaction(0).unwrap();
    produce(&old, "t", 0, &["zombie"], 0).unwrap();
    let new = transactional(&log, "x");
    new.init_transactions(0).unwrap();
    assert_eq!(kind(old.commit_transaction(0)), ErrorKind::ProducerFenced);
    assert_eq!(kind(old.init_transactions(0)), ErrorKind::ProducerFenced);
    new.begin_transaction(0).unwrap();
    produce(&new, "t", 0, &["new"], 0).unwrap();
    new.commit_transaction(0).unwrap();
    assert_eq!(values(&log, "t", 0), ["new"]);
}

#[test]
fn a_commit_sets_what_waits_for_several_logs() {
    let roots = [scratch(), scratch()];
    let logs = roots.each_ref().map(|root| open(root.path()));
    let wakeup = Arc::new(Wakeup::new().unwrap());
    for log in &logs {
        topic(log, "t", 1);
        log.wake(&wakeup).unwrap();
        log.wake(&wakeup).unwrap();
    }
    // What was committed before may still be on its way through inotify.
    while wakeup.wait(Duration::from_millis(100)).unwrap() == Woken::Set {}
    for log in &logs {
        let start = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                let values = Strings::new(&["x"]);
                let records = values.values(0);
                idempotent(log).produce("t", Partitioning::One(0), &records, 0).unwrap();
            });
            assert_eq!(wakeup.wait(Duration::from_secs(30)).unwrap(), Woken::Set);
        });
        assert!(start.elapsed() < Duration::from_secs(10));
        while wakeup.wait(Duration::from_millis(100)).unwrap() == Woken::Set {}
    }
    assert_eq!(Arc::strong_count(&wakeup), 1, "a log keeps nothing alive");
}

#[test]
fn a_waiter_is_woken_by_a_commit() {
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 1);
    let position = [("t".to_owned(), 0, 0)];
    assert!(!log.wait(&position, Duration::from_millis(20)).unwrap());
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            produce(&idempotent(&log), "t", 0, &["x"], 0).unwrap();
        });
        assert!(log.wait(&position, Duration::from_secs(20)).unwrap());
    });
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn threads_share_commits() {
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 4);
    std::thread::scope(|scope| {
        for partition in 0..4 {
            let log = &log;
            scope.spawn(move || {
                let producer = idempotent(log);
                for number in 0..200 {
                    produce(&producer, "t", partition, &[&number.to_string()], 0).unwrap();
                }
            });
        }
    });
    for partition in 0..4 {
        let expected: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        assert_eq!(values(&log, "t", partition), expected);
    }
}

#[test]
fn topics_come_and_go() {
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 2);
    let again = log.create_topic("t", &TopicSettings::default());
    assert_eq!(kind(again), ErrorKind::TopicExists);
    for name in ["", "a b", "ä", ".", "..", &"x".repeat(250)] {
        let refused = log.create_topic(name, &TopicSettings::default());
        assert_eq!(kind(refused), ErrorKind::InvalidArgument, "{name:?}");
    }
    let producer = idempotent(&log);
    produce(&producer, "t", 1, &["old"], 0).unwrap();
    assert_eq!(kind(produce(&producer, "t", 2, &["x"], 0)), ErrorKind::UnknownTopicOrPartition);
    assert_eq!(kind(produce(&producer, "u", 0, &["x"], 0)), ErrorKind::UnknownTopicOrPartition);
    let fewer = TopicSettings { partitions: 1, ..TopicSettings::default() };
    assert_eq!(kind(log.alter_topic("t", &fewer)), ErrorKind::InvalidArgument);
    log.alter_topic("t", &TopicSettings { partitions: 3, ..fewer }).unwrap();
    produce(&producer, "t", 2, &["x"], 0).unwrap();
    log.delete_topic("t").unwrap();
    assert_eq!(kind(log.topic("t")), ErrorKind::UnknownTopicOrPartition);
    topic(&log, "t", 2);
    assert!(values(&log, "t", 1).is_empty());
    let done = log.maintain(0, Default::default()).unwrap();
    assert_eq!(done.removed, 2);
    let names: Vec<String> = log.topics().unwrap().into_iter().map(|topic| topic.name).collect();
    assert_eq!(names, ["t"]);
}

#[test]
fn one_process_shares_one_log() {
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 1);
    let again = open(root.path());
    produce(&idempotent(&again), "t", 0, &["x"], 0).unwrap();
    assert_eq!(values(&log, "t", 0), ["x"]);
    drop(log);
    assert_eq!(values(&again, "t", 0), ["x"]);
    drop(again);
    assert_eq!(values(&open(root.path()), "t", 0), ["x"]);
    let state = onceflow_core::store::StoreOptions {
        job: "j".to_owned(),
        key_groups: 1,
        map_size_bytes: MAP_BYTES,
        create: true,
        read_only: false,
        take_over: false,
        store_id: 1,
    };
    let refused = onceflow_core::store::Store::open(root.path(), &state);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::StoreMismatch);
    let other = scratch();
    drop(onceflow_core::store::Store::open(other.path(), &state).unwrap());
    assert_eq!(kind(Log::open(other.path(), &options())), ErrorKind::StoreMismatch);
}
