//! Upkeep: retention, compaction, and that neither loses what must stay.

mod log_support;

use std::collections::BTreeMap;

use log_support::*;
use onceflow_core::ErrorKind;
use onceflow_core::log::{
    Budget, CleanupPolicy, FetchLimits, Log, Partitioning, Producer, Records, Timestamps,
    TopicSettings,
};

fn maintain(log: &Log, now_ms: i64) -> u64 {
    let mut total = 0;
    loop {
        let done = log.maintain(now_ms, Budget { batches: 3, entries: 10 }).unwrap();
        total += done.removed + done.discarded + done.compacted;
        if !done.more {
            return total;
        }
    }
}

#[test]
fn old_batches_go() {
    let root = scratch();
    let log = open(root.path());
    let settings = TopicSettings { retention_ms: Some(100), ..TopicSettings::default() };
    log.create_topic("t", &settings).unwrap();
    let producer = idempotent(&log);
    for time in 0..10 {
        produce(&producer, "t", 0, &["a", "b"], time * 50).unwrap();
    }
    assert_eq!(maintain(&log, 450), 7);
    let info = log.partition("t", 0).unwrap();
    assert_eq!((info.start, info.end, info.records, info.batches), (14, 20, 6, 3));
    let error = log.fetch("t", 0, 13, FetchLimits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OffsetOutOfRange);
    assert!(error.to_string().contains("14 to 20"), "{error}");
    assert_eq!(kind(log.fetch("t", 0, 21, FetchLimits::default())), ErrorKind::OffsetOutOfRange);
    assert_eq!(maintain(&log, 10_000), 3);
    let info = log.partition("t", 0).unwrap();
    assert_eq!((info.start, info.end, info.records, info.bytes), (20, 20, 0, 0));
    produce(&producer, "t", 0, &["c"], 10_000).unwrap();
    assert_eq!(fetch_all(&log, "t", 0).offsets, [20]);
}

#[test]
fn a_partition_holds_the_bytes_that_it_shall_and_the_file_does_not_grow() {
    let root = scratch();
    let log = open(root.path());
    let settings = TopicSettings { retention_bytes: Some(2 << 20), ..TopicSettings::default() };
    log.create_topic("t", &settings).unwrap();
    let producer = staging(&log, "x", 100_000);
    let rows = vec![vec![b'x'; 1000]; 300];
    let (mut sizes, mut bytes) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        producer.begin_transaction(0).unwrap();
        let strings = Strings::new(&rows);
        producer.produce("t", Partitioning::One(0), &strings.values(0), 0).unwrap();
        producer.produce("t", Partitioning::One(0), &strings.values(0), 0).unwrap();
        producer.commit_transaction(0).unwrap();
        maintain(&log, 0);
        // What is removed lies beyond the newest bytes that are kept, so a part of a batch may be left.
        bytes.push(log.partition("t", 0).unwrap().bytes);
        assert!(bytes[bytes.len() - 1] < (2 << 20) + 310_000, "{bytes:?}");
        sizes.push(log.size().unwrap().file_bytes);
    }
    assert!(sizes[39] < 8 << 20, "{sizes:?}");
    assert_eq!(sizes[39], sizes[20], "{sizes:?}");
    assert!(bytes[10..].iter().all(|kept| *kept >= 2 << 20), "{bytes:?}");
    assert!(log.size().unwrap().used_bytes < 4 << 20);
}

/// Retention by size that takes what is newest: one batch above the bound went whole, and nobody had
/// read it.
#[test]
fn a_batch_that_is_larger_than_the_bound_stays_until_newer_ones_fill_it() {
    let root = scratch();
    let log = open(root.path());
    let settings = TopicSettings { retention_bytes: Some(10_000), ..TopicSettings::default() };
    log.create_topic("t", &settings).unwrap();
    let producer = idempotent(&log);
    let rows = vec!["x".repeat(1000); 30];
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    for round in 0..3 {
        produce(&producer, "t", 0, &rows, 0).unwrap();
        maintain(&log, 0);
        let info = log.partition("t", 0).unwrap();
        assert_eq!((info.start, info.end), (round * 30, round * 30 + 30));
    }
    produce(&producer, "t", 0, &rows[..5], 0).unwrap();
    assert_eq!(maintain(&log, 0), 0);
    assert_eq!(log.partition("t", 0).unwrap().records, 35);
    produce(&producer, "t", 0, &rows[..5], 0).unwrap();
    assert_eq!(maintain(&log, 0), 1);
    assert_eq!(log.partition("t", 0).unwrap().records, 10);
}

fn put(producer: &Producer, rows: &[(&str, Option<String>)], now_ms: i64) {
    let keys: Vec<&str> = rows.iter().map(|(key, _)| *key).collect();
    let values: Vec<Option<&String>> = rows.iter().map(|(_, value)| value.as_ref()).collect();
    let (keys, values) = (Strings::new(&keys), Strings::nullable(&values));
    let (keys, values) = (Some(keys.column()), Some(values.column()));
    let records = Records::new(rows.len(), Timestamps::Same(now_ms), keys, values, None).unwrap();
    producer.produce("t", Partitioning::One(0), &records, now_ms).unwrap();
}

#[test]
fn compaction_keeps_the_newest_record_of_each_key() {
    let root = scratch();
    let log = open(root.path());
    let settings = TopicSettings {
        cleanup_policy: CleanupPolicy::Compact,
        delete_retention_ms: 1000,
        ..TopicSettings::default()
    };
    log.create_topic("t", &settings).unwrap();
    let producer = idempotent(&log);
    let mut newest: BTreeMap<String, (i64, Option<String>)> = BTreeMap::new();
    let mut offset = 0;
    let mut random = 12345_u64;
    for round in 0..60 {
        let mut rows: Vec<(String, Option<String>)> = Vec::new();
        for _ in 0..7 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let key = format!("k{}", (random >> 33) % 20);
            let is_null = (random >> 40).is_multiple_of(5);
            let value = (!is_null).then(|| format!("{round} {offset}"));
            newest.insert(key.clone(), (offset, value.clone()));
            rows.push((key, value));
            offset += 1;
        }
        let rows: Vec<(&str, Option<String>)> =
            rows.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        put(&producer, &rows, 0);
        if round % 10 == 9 {
            maintain(&log, 0);
            let found = fetch_all(&log, "t", 0);
            // Offsets stay, order stays; the newest of each key is there.
            assert!(found.offsets.is_sorted());
            assert_eq!(found.next_offset, offset as u64);
            for (key, (offset, value)) in &newest {
                let row = found.offsets.binary_search(offset).unwrap();
                assert_eq!(found.keys.get(row), Some(key.as_bytes()));
                assert_eq!(found.values.get(row), value.as_ref().map(String::as_bytes));
            }
            let info = log.partition("t", 0).unwrap();
            assert_eq!(info.records as usize, found.len());
            // Reading may begin anywhere, also where nothing is left.
            for from in (0..=offset).step_by(13) {
                let part = log.fetch("t", 0, from as u64, FetchLimits::default()).unwrap();
                let expected: Vec<i64> =
                    found.offsets.iter().copied().filter(|offset| *offset >= from).collect();
                assert_eq!(part.offsets, expected);
                assert_eq!(part.next_offset, offset as u64);
            }
        }
    }
    assert_eq!(fetch_all(&log, "t", 0).len(), newest.len());
    // Null values go when readers had their time to see them.
    put(&producer, &[("new", Some("x".to_owned()))], 5000);
    for round in 0..40 {
        put(&producer, &[("again", Some(round.to_string()))], 5000);
    }
    maintain(&log, 5000);
    let live = newest.values().filter(|(_, value)| value.is_some()).count() + 2;
    assert_eq!(fetch_all(&log, "t", 0).len(), live);
    // A producer's retry is recognised, although its batches were rewritten.
    produce(&producer, "t", 0, &["unkeyed"], 5000).unwrap();
    drop(producer);
    drop(log);
    let log = open(root.path());
    assert_eq!(fetch_all(&log, "t", 0).len(), live + 1);
}
