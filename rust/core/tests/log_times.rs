//! Searching by time, against looking at each record; timestamps are in no order.

mod log_support;

use std::fs::File;
use std::os::unix::fs::FileExt;

use log_support::*;
use onceflow_core::ErrorKind;
use onceflow_core::log::{
    Budget, CleanupPolicy, Log, Partitioning, Producer, Records, Timestamps, TopicSettings,
};

const KEYS: u64 = 40;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

/// Times rise on the whole, with records that are far too early and far too late.
fn append(producer: &Producer, name: &str, step: i64, random: &mut Random) {
    let rows = 1 + random.below(4) as usize;
    let times: Vec<i64> = (0..rows)
        .map(|_| match random.below(50) {
            0 => step * 10 + 2000,
            1 => -1,
            _ => step * 10 + random.below(60) as i64,
        })
        .collect();
    let keys: Vec<String> = (0..rows).map(|_| format!("k{}", random.below(KEYS))).collect();
    let (keys, values) = (Strings::new(&keys), Strings::new(&vec!["v"; rows]));
    let (keys, values) = (Some(keys.column()), Some(values.column()));
    let records = Records::new(rows, Timestamps::Each(&times), keys, values, None).unwrap();
    producer.produce(name, Partitioning::One(0), &records, 0).unwrap();
}

fn check(log: &Log, name: &str, random: &mut Random, newest: i64) {
    let found = fetch_all(log, name, 0);
    for _ in 0..6 {
        let wanted = random.below(newest as u64 + 2100) as i64 - 10;
        let row = found.timestamps.iter().position(|time| *time >= wanted);
        let expected = row.map(|row| found.offsets[row] as u64);
        let answer = log.offset_for_timestamp(name, 0, wanted).unwrap();
        assert_eq!(answer, expected, "{name}: {wanted}");
    }
}

#[test]
fn a_search_finds_the_first_record_that_is_not_older() {
    let root = scratch();
    let mut log = open(root.path());
    let bounded = TopicSettings { retention_bytes: Some(20_000), ..TopicSettings::default() };
    let compact =
        TopicSettings { cleanup_policy: CleanupPolicy::Compact, ..TopicSettings::default() };
    let topics = [("all", TopicSettings::default()), ("bounded", bounded), ("compact", compact)];
    for (name, settings) in &topics {
        log.create_topic(name, settings).unwrap();
    }
    let mut random = Random(11);
    let mut producer = idempotent(&log);
    for step in 0..700 {
        for (name, _) in &topics {
            append(&producer, name, step, &mut random);
        }
        if step % 10 == 0 {
            for (name, _) in &topics {
                check(&log, name, &mut random, step * 10);
            }
        }
        if step % 50 == 49 {
            while log.maintain(0, Budget::default()).unwrap().more {}
        }
        if step == 350 {
            drop(producer);
            drop(log);
            log = open(root.path());
            producer = idempotent(&log);
        }
    }
    assert!(log.partition("bounded", 0).unwrap().start > 300);
    assert!(log.partition("compact", 0).unwrap().records < 700);
    // A topic of the same name is another one.
    log.delete_topic("all").unwrap();
    topic(&log, "all", 1);
    append(&producer, "all", 1, &mut random);
    check(&log, "all", &mut random, 10);
}

/// What lies between is not read again: a search does not notice that it was damaged meanwhile, until
/// the log is opened again.
#[test]
fn a_search_does_not_read_what_is_older() {
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 1);
    let producer = idempotent(&log);
    for step in 0..400 {
        produce(&producer, "t", 0, &[&format!("needle {step:03}")], step).unwrap();
    }
    assert_eq!(log.offset_for_timestamp("t", 0, 399).unwrap(), Some(399));
    let file = File::options().read(true).write(true).open(root.path().join("data/data.mdb"));
    let file = file.unwrap();
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let needle = b"needle 100";
    let found = (0..bytes.len() - needle.len()).filter(|at| bytes[*at..].starts_with(needle));
    for at in found.collect::<Vec<_>>() {
        file.write_all_at(b"N", at as u64).unwrap();
    }
    assert_eq!(log.offset_for_timestamp("t", 0, 399).unwrap(), Some(399));
    // Where it is read, it is noticed.
    assert_eq!(kind(log.offset_for_timestamp("t", 0, 100)), ErrorKind::StoreCorrupt);
    drop(producer);
    drop(log);
    let log = open(root.path());
    assert_eq!(kind(log.offset_for_timestamp("t", 0, 399)), ErrorKind::StoreCorrupt);
}
