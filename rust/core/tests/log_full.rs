//! Full disks and full maps: each call says so, nothing acknowledged is lost, and with space again
//! the log goes on where it was.

mod log_support;

use std::path::Path;

use log_support::*;
use onceflow_core::log::{
    Budget, CommitOffsets, Log, LogOptions, OffsetCommit, TopicSettings, TransactionId, Write,
};
use onceflow_core::{ErrorKind, Result};
use rustix::process::{Resource, Rlimit, setrlimit};

/// No file may have a byte behind this, as on a disk that has no block left (`None`: any may).
fn limit(bytes: Option<u64>) {
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

const META_PAGES: u64 = 2 * 4096;

/// Calls with what belongs to them; a repetition is one and the same call.
const CALLS: [&str; 6] = ["append", "stage", "commit", "position", "maintain", "init"];

fn position() -> CommitOffsets {
    let (topic, metadata) = ("t".to_owned(), String::new());
    let offsets = vec![OffsetCommit { topic, partition: 0, offset: 1, metadata }];
    CommitOffsets { group: "g".to_owned(), membership: None, offsets, now_ms: 0 }
}

type Identity = (i64, i32);

fn call(log: &Log, name: &str, append: Identity, (id, epoch): Identity) -> Result<()> {
    let strings = Strings::new(&["y".repeat(20_000)]);
    let write = |first_sequence| {
        let records = strings.values(0);
        Write { topic: "t", partition: 0, records, first_sequence }
    };
    let transaction = TransactionId { transactional_id: "tx", id, epoch, started_ms: 0 };
    match name {
        "append" => log.append(Some(append), &[write(1)], 0).map(|_| ()),
        "stage" => log.stage(transaction, 1, &[write(0)], 0),
        "commit" => {
            let ended = log.end_transaction(transaction, true, 1, &[write(0)], &[position()], 0);
            ended.map(|_| ())
        }
        "position" => log.commit_offsets(&position()),
        "maintain" => log.maintain(1000, Budget::default()).map(|_| ()),
        _ => log.init_producer(Some("tx"), 1000, Some((id, epoch)), 0).map(|_| ()),
    }
}

/// What is visible, of the positions too.
fn content(log: &Log) -> (Vec<String>, Vec<String>, Option<u64>) {
    let position = log.committed("g", "t", 0).unwrap().map(|committed| committed.offset);
    (values(log, "t", 0), values(log, "old", 0), position)
}

/// The child's part, of one call: it fails, the log is only read, is opened again, goes on.
fn run(directory: &Path, name: &str, grown: bool) {
    let log = open(directory);
    topic(&log, "t", 1);
    let settings = TopicSettings { retention_ms: Some(10), ..TopicSettings::default() };
    log.create_topic("old", &settings).unwrap();
    let append = log.init_producer(None, 0, None, 0).unwrap();
    let transactional = log.init_producer(Some("tx"), 1000, None, 0).unwrap();
    let strings = Strings::new(&["x"]);
    let write =
        |topic| Write { topic, partition: 0, records: strings.values(0), first_sequence: 0 };
    log.append(Some(append), &[write("t"), write("old")], 0).unwrap();
    let (id, epoch) = transactional;
    let transaction = TransactionId { transactional_id: "tx", id, epoch, started_ms: 0 };
    log.stage(transaction, 0, &[write("t")], 0).unwrap();
    let before = content(&log);
    let data = directory.join("data/data.mdb");
    let length = std::fs::metadata(data).unwrap().len();

    limit(Some(if grown { length + 4096 } else { META_PAGES }));
    let error = call(&log, name, append, transactional).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreFull, "{name}: {error}");
    assert!(error.to_string().contains("free space"), "{name}: {error}");
    // From then on nothing is written by this process, and reading goes on.
    for other in CALLS {
        assert_eq!(kind(call(&log, other, append, transactional)), ErrorKind::StorePoisoned);
    }
    assert_eq!(content(&log), before, "{name}");
    drop(log);

    // Opened again while the disk is still full: what was acknowledged is there.
    let log = open(directory);
    assert_eq!(content(&log), before, "{name}");
    assert_eq!(kind(call(&log, name, append, transactional)), ErrorKind::StoreFull, "{name}");
    drop(log);

    // With space again the same call is applied, once.
    limit(None);
    let log = open(directory);
    assert_eq!(content(&log), before, "{name}");
    for _ in 0..2 {
        call(&log, name, append, transactional).unwrap();
    }
    let after = content(&log);
    let (big, small) = ("y".repeat(20_000), "x".to_owned());
    let (t, position) = match name {
        "append" => (vec![small.clone(), big], None),
        "commit" => (vec![small.clone(), small.clone(), big], Some(1)),
        "position" => (vec![small.clone()], Some(1)),
        _ => (vec![small.clone()], None),
    };
    let old = if name == "maintain" { vec![] } else { vec![small] };
    assert_eq!(after, (t, old, position), "{name}");
    drop(log);
    println!("done");
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    const NAME: &str = "a_full_disk_is_told_and_loses_nothing";
    if let Some(role) = role() {
        let words: Vec<&str> = role.splitn(3, ' ').collect();
        return run(Path::new(words[2]), words[0], words[1] == "grown");
    }
    let root = scratch();
    for name in CALLS {
        // No block can be written at all, or the file cannot grow by what the call brings.
        let brings = matches!(name, "append" | "stage" | "commit");
        for how in ["none", "grown"].into_iter().take(1 + usize::from(brings)) {
            let directory = root.path().join(format!("{name}-{how}"));
            let role = format!("{name} {how} {}", directory.display());
            // Past the limit the kernel sends SIGXFSZ unless it is ignored, which only a shell can do.
            let inner = child(NAME, &role);
            let mut command = std::process::Command::new("sh");
            command.arg("-c").arg("trap '' XFSZ; exec \"$0\" \"$@\"").arg(inner.get_program());
            command.args(inner.get_args()).env(ROLE, &role);
            let output = command.output().unwrap();
            let text =
                String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && text.contains("done"), "{name} {how}: {text}");
        }
    }
}

#[test]
fn a_full_map_refuses_records_until_retention_has_made_room() {
    let root = scratch();
    let small = LogOptions { map_size_bytes: 2 << 20, ..options() };
    let log = Log::open(root.path(), &small).unwrap();
    let settings = TopicSettings { retention_ms: Some(10), ..TopicSettings::default() };
    log.create_topic("t", &settings).unwrap();
    let producer = idempotent(&log);
    let value = "z".repeat(50_000);
    let mut kept: u64 = 0;
    let error = loop {
        match produce(&producer, "t", 0, &[&value], 0) {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::StoreFull);
    assert!(error.to_string().contains("map_size_bytes"), "{error}");
    assert!(kept > 10);
    assert_eq!(values(&log, "t", 0).len() as u64, kept);
    // Nothing was taken of the refused record, and nobody else is hurt.
    log.commit_offsets(&position()).unwrap();
    while log.maintain(1000, Budget::default()).unwrap().more {}
    log.commit_offsets(&position()).unwrap();
    produce(&producer, "t", 0, &[&value], 1000).unwrap();
    assert_eq!(fetch_all(&log, "t", 0).offsets, [kept as i64]);
}
