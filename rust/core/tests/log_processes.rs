//! Several processes on one log: shared commits, waking, fencing, and one that is paused or killed.

mod log_support;

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use log_support::*;
use onceflow_core::ErrorKind;
use onceflow_core::log::{Join, Log, LogOptions, Producer, Strategy};
use rustix::process::Signal;

/// What a peer does: opens the log of its role and carries out commands.
fn peer(directory: &str) {
    let log = open(Path::new(directory));
    let mut producers: HashMap<String, Producer> = HashMap::new();
    serve(|words| match words {
        ["init", id] => {
            let producer = transactional(&log, id);
            let outcome = producer.init_transactions(0);
            producers.insert((*id).to_owned(), producer);
            told(outcome)
        }
        ["begin", id] => told(producers[*id].begin_transaction(0)),
        ["produce", id, partition, value] => {
            told(produce(&producers[*id], "t", partition.parse().unwrap(), &[value], 0))
        }
        ["commit", id] => told(producers[*id].commit_transaction(0)),
        ["append", partition, count] => {
            let producer = idempotent(&log);
            let partition = partition.parse().unwrap();
            for number in 0..count.parse::<u64>().unwrap() {
                produce(&producer, "t", partition, &[&number.to_string()], 0).unwrap();
            }
            "appended".to_owned()
        }
        ["wait", partition, offset] => {
            let position = ("t".to_owned(), partition.parse().unwrap(), offset.parse().unwrap());
            log.wait(&[position], Duration::from_secs(20)).unwrap().to_string()
        }
        ["join", member, now_ms] => told(log.join_group(&join(member, now_ms.parse().unwrap()))),
        ["beat", member, now_ms] => told(log.heartbeat("g", member, now_ms.parse().unwrap())),
        other => panic!("{other:?}"),
    });
}

fn join(member: &str, now_ms: i64) -> Join {
    Join {
        group: "g".to_owned(),
        member: member.to_owned(),
        topics: vec!["t".to_owned()],
        strategy: Strategy::Sticky,
        session_timeout_ms: 1000,
        rebalance_timeout_ms: 1000,
        now_ms,
    }
}

macro_rules! peer {
    ($name:ident) => {
        if let Some(directory) = role() {
            return peer(&directory);
        }
        const NAME: &str = stringify!($name);
    };
}

#[test]
fn processes_share_commits() {
    peer!(processes_share_commits);
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 5);
    let before = log.size().unwrap();
    let mut peers: Vec<Peer> = (0..4).map(|_| Peer::spawn(NAME, root.path(), &[])).collect();
    for (partition, peer) in peers.iter_mut().enumerate() {
        peer.say(&format!("append {partition} 300"));
    }
    let producer = idempotent(&log);
    for number in 0..300 {
        produce(&producer, "t", 4, &[&number.to_string()], 0).unwrap();
    }
    for peer in &mut peers {
        assert_eq!(peer.answer(), "appended");
    }
    let expected: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    for partition in 0..5 {
        assert_eq!(values(&log, "t", partition), expected);
    }
    assert!(before.file_bytes > 0);
    for peer in peers {
        peer.end();
    }
    // The inboxes of those who left go with the next commit.
    produce(&producer, "t", 4, &["x"], 0).unwrap();
    let left = std::fs::read_dir(root.path().join("inbox")).unwrap().count();
    assert!(left <= 1, "{left} inboxes");
}

#[test]
fn a_commit_wakes_a_waiter_in_another_process() {
    peer!(a_commit_wakes_a_waiter_in_another_process);
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 1);
    let producer = idempotent(&log);
    let mut peer = Peer::spawn(NAME, root.path(), &[]);
    for offset in 0..50 {
        peer.say(&format!("wait 0 {offset}"));
        if offset % 5 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        produce(&producer, "t", 0, &["x"], 0).unwrap();
        let start = Instant::now();
        assert_eq!(peer.answer(), "true");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    peer.end();
}

#[test]
fn a_paused_producer_is_fenced_when_it_wakes_up() {
    peer!(a_paused_producer_is_fenced_when_it_wakes_up);
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 1);
    let mut zombie = Peer::spawn(NAME, root.path(), &[]);
    for command in ["init x", "begin x", "produce x 0 zombie"] {
        assert_eq!(zombie.ask(command), "ok");
    }
    zombie.signal(Signal::STOP);
    zombie.say("commit x");
    let successor = transactional(&log, "x");
    successor.init_transactions(0).unwrap();
    zombie.signal(Signal::CONT);
    assert_eq!(zombie.answer(), "producer_fenced");
    assert!(values(&log, "t", 0).is_empty());
    successor.begin_transaction(0).unwrap();
    produce(&successor, "t", 0, &["successor"], 0).unwrap();
    successor.commit_transaction(0).unwrap();
    assert_eq!(values(&log, "t", 0), ["successor"]);
}

#[test]
fn a_paused_member_is_fenced_when_it_wakes_up() {
    peer!(a_paused_member_is_fenced_when_it_wakes_up);
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 2);
    let mut zombie = Peer::spawn(NAME, root.path(), &[]);
    assert_eq!(zombie.ask("join zombie 1000"), "ok");
    let first = log.join_group(&join("live", 1500)).unwrap();
    assert_eq!(first.partitions, []);
    zombie.signal(Signal::STOP);
    assert!(!log.heartbeat("g", "live", 1900).unwrap().rebalance);
    // It does not let go in time, and its heartbeats stop.
    let beat = log.heartbeat("g", "live", 2600).unwrap();
    assert!(beat.rebalance);
    let assigned = log.sync_group("g", "live", first.generation, 2600).unwrap();
    assert_eq!(assigned.partitions.len(), 2);
    zombie.signal(Signal::CONT);
    assert_eq!(zombie.ask("beat zombie 2700"), "unknown_member");
}

/// Stopped inside the gate, it keeps all others out: they are told who it is, and go on when it does.
#[test]
#[cfg(feature = "crash-points")]
fn a_process_that_is_paused_while_it_commits_is_named() {
    peer!(a_process_that_is_paused_while_it_commits_is_named);
    let root = scratch();
    drop({
        let log = open(root.path());
        topic(&log, "t", 2);
        log
    });
    let options = LogOptions { commit_timeout: Duration::from_millis(300), ..options() };
    let log = Log::open(root.path(), &options).unwrap();
    let producer = idempotent(&log);
    let stop = [("STOP_AT", "log.append.pre_sync:2")];
    let mut paused = Peer::spawn(NAME, root.path(), &stop);
    paused.say("append 0 1");
    let deadline = Instant::now() + Duration::from_secs(20);
    let error = loop {
        match produce(&producer, "t", 1, &["x"], 0) {
            Ok(()) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => break error,
        }
        assert!(Instant::now() < deadline, "it was never paused");
    };
    assert_eq!(error.kind(), ErrorKind::LogTimeout);
    let name = format!("process {}", paused.child.id());
    assert!(error.to_string().contains(&name), "{error}");
    // Reading goes on.
    let before = values(&log, "t", 1).len();
    paused.signal(Signal::CONT);
    assert_eq!(paused.answer(), "appended");
    producer.flush(0).unwrap();
    assert_eq!(values(&log, "t", 1).len(), before + 1, "repeated, and there once");
    assert_eq!(values(&log, "t", 0), ["0"]);
}

/// Killed inside of its write transaction, it leaves LMDB's writer lock and the gate to the others.
#[test]
#[cfg(feature = "crash-points")]
fn a_process_that_is_killed_while_it_commits_holds_up_nobody() {
    peer!(a_process_that_is_killed_while_it_commits_holds_up_nobody);
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 2);
    let producer = idempotent(&log);
    for point in ["log.append.pre_sync:2", "log.append.pre_ack:2", "log.append.partial:1"] {
        let before = values(&log, "t", 0).len();
        let mut peer = Peer::spawn(NAME, root.path(), &[("CRASH_AT", point)]);
        peer.say("append 0 5");
        peer.child.wait().unwrap();
        produce(&producer, "t", 1, &["after"], 0).unwrap();
        let after = values(&log, "t", 0).len();
        let visible = usize::from(point.contains("pre_ack"));
        assert_eq!(after - before, visible, "{point}");
    }
    assert_eq!(values(&log, "t", 1), ["after"; 3]);
}

#[test]
fn processes_that_create_at_once_make_one_log() {
    peer!(processes_that_create_at_once_make_one_log);
    for _ in 0..5 {
        let root = scratch();
        let mut peers: Vec<Peer> = (0..4).map(|_| Peer::spawn(NAME, root.path(), &[])).collect();
        for (number, peer) in peers.iter_mut().enumerate() {
            assert_eq!(peer.ask(&format!("init p{number}")), "ok");
        }
        let log = open(root.path());
        assert_eq!(log.producers().unwrap().len(), 4);
    }
}
