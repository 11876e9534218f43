//! Killed at each of the log's crash points: what was acknowledged is there, once; a transaction is
//! there as a whole or not at all; what was cut short leaves nothing behind.
#![cfg(feature = "crash-points")]

mod log_support;

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use log_support::*;
use onceflow_core::log::{
    Budget, CleanupPolicy, CommitOffsets, Log, OffsetCommit, Partitioning, Records, Timestamps,
    TopicSettings, TransactionId, Write,
};

const SIGKILL: i32 = 9;
const ROUNDS: u64 = 6;

/// Points, and how often to pass them.
const CELLS: &[(&str, &[u64])] = &[
    ("env.create.pre_header", &[1]),
    ("env.create.pre_sync", &[1]),
    ("env.create.pre_rename", &[1]),
    ("env.create.mid_rename", &[1]),
    ("env.create.pre_dirsync", &[1]),
    ("manifest.replace.pre_rename", &[1]),
    ("log.append.partial", &[1, 3, 12]),
    ("log.append.pre_sync", &[1, 5, 8, 9, 10, 11, 12, 13, 14, 15, 30]),
    ("log.append.pre_ack", &[1, 5, 8, 9, 10, 11, 12, 13, 14, 15, 30]),
    ("log.append.post_ack", &[1, 4]),
    ("log.commit.pre_wake", &[1, 9, 20]),
    ("producer.epoch.pre_persist", &[1, 2]),
    ("producer.epoch.pre_reply", &[1, 2]),
    ("txn.begin.post", &[1, 3]),
    ("txn.write.partial", &[1, 2, 5]),
    ("txn.end.partial", &[1, 2, 3, 8]),
    ("txn.end.pre_reply", &[1, 2, 3]),
    ("txn.timeout.mid_abort", &[1, 2, 5]),
    ("retention.mid_delete", &[1, 2]),
    ("compact.mid_replace", &[1, 2]),
    ("inbox.post", &[1]),
];

fn say(text: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\n@{text}").unwrap();
    out.flush().unwrap();
}

fn create_topics(log: &Log) {
    let small = TopicSettings { retention_bytes: Some(400), ..TopicSettings::default() };
    let compact =
        TopicSettings { cleanup_policy: CleanupPolicy::Compact, ..TopicSettings::default() };
    let two = TopicSettings { partitions: 2, ..TopicSettings::default() };
    let topics = [("a", TopicSettings::default()), ("x", two), ("r", small), ("c", compact)];
    for (name, settings) in topics {
        if log.topic(name).is_err() {
            log.create_topic(name, &settings).unwrap();
        }
    }
}

fn append(log: &Log, producer: (i64, i32), topic: &str, sequence: u64, value: &str) -> u64 {
    let strings = Strings::new(&[value]);
    let first_sequence = sequence as i32;
    let write = Write { topic, partition: 0, records: strings.values(0), first_sequence };
    log.append(Some(producer), &[write], 0).unwrap()[0].0.first_offset
}

/// Set in a child process: the append of a child before it that it shall repeat: producer id, number
/// whose sequence is 0, number.
const RETRY: &str = "ONCEFLOW_TEST_RETRY";

fn retry() -> Option<(i64, u64, u64)> {
    let text = std::env::var(RETRY).ok()?;
    let words: Vec<&str> = text.split(' ').collect();
    Some((words[0].parse().unwrap(), words[1].parse().unwrap(), words[2].parse().unwrap()))
}

/// The child: goes on where the log is, and says what it is about to do and what is done.
fn run(directory: &Path) {
    let log = open(directory);
    create_topics(&log);
    if let Some((id, first, last)) = retry() {
        let offset = append(&log, (id, 0), "a", last - first, &last.to_string());
        assert_eq!(offset, last, "the retry of what was not acknowledged");
        say(&format!("ack a {last}"));
    }
    let producer = log.init_producer(None, 0, None, 0).unwrap();
    let first = log.partition("a", 0).unwrap().end;
    say(&format!("producer {} {first}", producer.0));
    let transactional = staging(&log, "tx", 150);
    // One that nobody will end.
    let (id, epoch) = log.init_producer(Some("late"), 100, None, 0).unwrap();
    let transaction = TransactionId { transactional_id: "late", id, epoch, started_ms: 0 };
    for sequence in 0..5 {
        let strings = Strings::new(&["late"]);
        let records = strings.values(0);
        let write = Write { topic: "x", partition: 0, records, first_sequence: 0 };
        log.stage(transaction, sequence, &[write], 0).unwrap();
    }
    let committed = || log.committed("g", "a", 0).unwrap().map_or(0, |one| one.offset);
    for round in 0..ROUNDS {
        let number = first + round;
        say(&format!("try a {number}"));
        append(&log, producer, "a", round, &number.to_string());
        say(&format!("ack a {number}"));

        let number = committed();
        transactional.begin_transaction(0).unwrap();
        for row in 0..4 {
            let value = format!("{number}-{row}-{}", "x".repeat(60));
            produce(&transactional, "x", row % 2, &[&value], 0).unwrap();
        }
        let offset = OffsetCommit {
            topic: "a".to_owned(),
            partition: 0,
            offset: number + 1,
            metadata: String::new(),
        };
        transactional
            .send_offsets(CommitOffsets {
                group: "g".to_owned(),
                membership: None,
                offsets: vec![offset],
                now_ms: 0,
            })
            .unwrap();
        say(&format!("try x {number}"));
        transactional.commit_transaction(0).unwrap();
        say(&format!("ack x {number}"));

        transactional.begin_transaction(0).unwrap();
        for _ in 0..3 {
            produce(&transactional, "x", 1, &[&"never".repeat(20)], 0).unwrap();
        }
        transactional.abort_transaction(0).unwrap();

        let other = idempotent(&log);
        produce(&other, "r", 0, &[&"r".repeat(100)], 0).unwrap();
        let (keys, values) = (Strings::new(&["k", "l"]), Strings::new(&["1", "2"]));
        let (keys, values) = (Some(keys.column()), Some(values.column()));
        let records = Records::new(2, Timestamps::Same(0), keys, values, None).unwrap();
        other.produce("c", Partitioning::One(0), &records, 0).unwrap();
        while log.maintain(1000, Budget { batches: 2, entries: 100 }).unwrap().more {}
    }
    say("end");
}

/// What the child said.
#[derive(Default)]
struct Said {
    /// Producer id, and the number whose sequence is 0.
    producer: Option<(i64, u64)>,
    tried: [Option<u64>; 2],
    acknowledged: [Option<u64>; 2],
    ended: bool,
}

impl Said {
    /// The append that may not have been applied, as a child shall repeat it.
    fn unanswered(&self) -> Option<String> {
        let ((id, first), last) = (self.producer?, self.tried[0]?);
        Some(format!("{id} {first} {last}"))
    }

    /// What is known after another child has said something too.
    fn then(self, later: Self) -> Self {
        let [a, x] = self.tried;
        let has_tried = later.tried[0].is_some();
        Self {
            producer: if has_tried { later.producer } else { self.producer },
            tried: [later.tried[0].or(a), later.tried[1].or(x)],
            acknowledged: [
                later.acknowledged[0].or(self.acknowledged[0]),
                later.acknowledged[1].or(self.acknowledged[1]),
            ],
            ended: later.ended,
        }
    }
}

fn listen(output: &[u8]) -> Said {
    let mut said = Said::default();
    for line in String::from_utf8_lossy(output).lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let topic = |name: &str| usize::from(name == "x");
        match words[..] {
            ["@producer", id, first] => {
                said.producer = Some((id.parse().unwrap(), first.parse().unwrap()));
            }
            ["@try", name, number] => said.tried[topic(name)] = number.parse().ok(),
            ["@ack", name, number] => said.acknowledged[topic(name)] = number.parse().ok(),
            ["@end"] => said.ended = true,
            _ => {}
        }
    }
    said
}

/// Everything that must hold after a kill.
fn check(cell: &str, log: &Log, said: &Said) {
    create_topics(log);
    let found = values(log, "a", 0);
    let expected: Vec<String> = (0..found.len()).map(|number| number.to_string()).collect();
    assert_eq!(found, expected, "{cell}");
    let count = found.len() as u64;
    assert!(said.acknowledged[0].is_none_or(|last| last < count), "{cell}: lost");
    assert!(said.tried[0].is_none_or(|last| count <= last + 1), "{cell}: from nowhere");
    if let (Some((id, first)), Some(last)) = (said.producer, said.tried[0]) {
        // The retry of what was not acknowledged is there once.
        let offset = append(log, (id, 0), "a", last - first, &last.to_string());
        assert_eq!((offset, log.partition("a", 0).unwrap().end), (last, last + 1), "{cell}");
    }

    let transactions = log.committed("g", "a", 0).unwrap().map_or(0, |one| one.offset);
    assert!(said.acknowledged[1].is_none_or(|last| last < transactions), "{cell}: lost");
    for partition in 0..2 {
        let numbers = 0..transactions;
        let rows = numbers.flat_map(|number| [(number, partition), (number, partition + 2)]);
        let expected: Vec<String> = rows.map(|(number, row)| format!("{number}-{row}-")).collect();
        let found = values(log, "x", partition as u32);
        let found: Vec<&str> = found.iter().map(|value| value.trim_end_matches('x')).collect();
        assert_eq!(found, expected, "{cell}: torn");
    }

    // Nothing is left of what was not committed.
    let successor = transactional(log, "tx");
    successor.init_transactions(0).unwrap();
    while log.maintain(1000, Budget::default()).unwrap().more {}
    let staged = log.producers().unwrap().iter().any(|producer| producer.staged.is_some());
    assert!(!staged, "{cell}");
    // The bytes that are kept, and less than a batch of about 150 more.
    assert!(log.partition("r", 0).unwrap().bytes < 400 + 200, "{cell}");
    let newest = fetch_all(log, "c", 0);
    let keys: Vec<&[u8]> = (0..newest.len()).filter_map(|row| newest.keys.get(row)).collect();
    assert!(keys.is_empty() || keys.ends_with(&[b"k", b"l"]), "{cell}: {keys:?}");
}

#[test]
fn every_crash_point_is_survived() {
    const NAME: &str = "every_crash_point_is_survived";
    if let Some(directory) = role() {
        return run(Path::new(&directory));
    }
    let root = scratch();
    for (point, nths) in CELLS {
        for nth in *nths {
            let cell = format!("{point}:{nth}");
            let directory = root.path().join("log");
            let spawn = |at: Option<&str>| {
                let mut command = child(NAME, directory.to_str().unwrap());
                command.envs(at.map(|at| ("CRASH_AT", at)));
                command.spawn().unwrap()
            };
            let output = if *point == "inbox.post" {
                // It must find the gate closed.
                let log = open(&directory);
                topic(&log, "busy", 1);
                let producer = idempotent(&log);
                // A child may be lucky and find it open each time: then the next one goes on.
                let mut killed = None;
                for _ in 0..50 {
                    let mut running = spawn(Some(&cell));
                    while running.try_wait().unwrap().is_none() {
                        produce(&producer, "busy", 0, &["x"], 0).unwrap();
                    }
                    let output = running.wait_with_output().unwrap();
                    let lucky = output.status.success();
                    killed = Some(output);
                    if !lucky {
                        break;
                    }
                }
                killed.unwrap()
            } else {
                spawn(Some(&cell)).wait_with_output().unwrap()
            };
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.signal(), Some(SIGKILL), "{cell} was not reached: {errors}");
            let said = listen(&output.stdout);
            assert!(!said.ended || point.starts_with("manifest"), "{cell}");
            let log = open(&directory);
            check(&cell, &log, &said);
            drop(log);
            // And it goes on from there.
            let output = spawn(None).wait_with_output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{cell}: {errors}");
            let said = listen(&output.stdout);
            assert!(said.ended, "{cell}");
            let log = open(&directory);
            check(&cell, &log, &said);
            drop(log);
            std::fs::remove_dir_all(&directory).unwrap();
        }
    }
}

/// Where the process that comes after a killed one is killed too. The first commit of that one is the
/// retry of what the first was not answered.
const AGAIN: &[&str] = &[
    "log.append.partial:1",
    "log.append.pre_sync:1",
    "log.append.pre_ack:1",
    "log.append.post_ack:1",
    "log.append.pre_sync:4",
    "log.commit.pre_wake:2",
    "producer.epoch.pre_persist:2",
    "producer.epoch.pre_reply:2",
    "txn.begin.post:2",
    "txn.write.partial:3",
    "txn.end.partial:1",
    "txn.end.pre_reply:1",
    "txn.timeout.mid_abort:1",
];

#[test]
fn a_second_kill_during_the_recovery_is_survived() {
    const NAME: &str = "a_second_kill_during_the_recovery_is_survived";
    if let Some(directory) = role() {
        return run(Path::new(&directory));
    }
    let root = scratch();
    let mut retries = 0;
    let cells = CELLS.iter().filter(|(point, _)| {
        ["log.", "producer.", "txn."].iter().any(|family| point.starts_with(family))
    });
    for (point, nths) in cells {
        for (nth, again) in nths.iter().flat_map(|nth| AGAIN.iter().map(move |again| (nth, *again)))
        {
            let directory = root.path().join("log");
            let spawn = |at: &str, retry: Option<String>| {
                let mut command = child(NAME, directory.to_str().unwrap());
                command.env("CRASH_AT", at).env_remove(RETRY);
                command.envs(retry.map(|retry| (RETRY, retry)));
                let output = command.spawn().unwrap().wait_with_output().unwrap();
                let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(output.status.signal(), Some(SIGKILL), "{at} was not reached: {errors}");
                listen(&output.stdout)
            };
            let first = spawn(&format!("{point}:{nth}"), None);
            let retry = first.unanswered();
            retries += usize::from(retry.is_some());
            let said = first.then(spawn(again, retry));
            let log = open(&directory);
            check(&format!("{point}:{nth}, then {again}"), &log, &said);
            drop(log);
            std::fs::remove_dir_all(&directory).unwrap();
        }
    }
    assert!(retries > 100, "{retries} retries");
}
