//! Damage: whatever bits flip, the answer is the right one or a typed error, never another record.

mod log_support;

use std::os::unix::fs::FileExt;
use std::path::Path;

use log_support::*;
use onceflow_core::ErrorKind;
use onceflow_core::log::{Log, Partitioning};

fn write(directory: &Path) -> Vec<String> {
    let log = open(directory);
    topic(&log, "t", 1);
    let producer = staging(&log, "x", 1000);
    for round in 0..5 {
        producer.begin_transaction(0).unwrap();
        let rows: Vec<String> = (0..100).map(|row| format!("{round}-{row:030}")).collect();
        let strings = Strings::new(&rows);
        producer.produce("t", Partitioning::One(0), &strings.values(0), 0).unwrap();
        producer.commit_transaction(0).unwrap();
    }
    values(&log, "t", 0)
}

/// What a child finds in a damaged log, in one word.
fn look(directory: &Path, expected: &[String]) -> String {
    let log = match Log::open(directory, &options()) {
        Ok(log) => log,
        Err(error) => return error.kind().as_str().to_owned(),
    };
    let limits = onceflow_core::log::FetchLimits { max_records: usize::MAX, max_bytes: usize::MAX };
    match log.fetch("t", 0, 0, limits) {
        Err(error) => error.kind().as_str().to_owned(),
        Ok(found) => {
            let found: Vec<&[u8]> =
                (0..found.len()).filter_map(|row| found.values.get(row)).collect();
            let same = found.iter().eq(&expected.iter().map(|v| v.as_bytes()).collect::<Vec<_>>());
            if same { "right".to_owned() } else { "WRONG".to_owned() }
        }
    }
}

#[test]
fn flipped_bits_are_typed_errors_or_harmless() {
    const NAME: &str = "flipped_bits_are_typed_errors_or_harmless";
    if let Some(directory) = role() {
        // A signal would end this process only.
        let expected = std::fs::read_to_string(Path::new(&directory).join("../expected")).unwrap();
        let expected: Vec<String> = expected.lines().map(str::to_owned).collect();
        let data = Path::new(&directory).join("data/data.mdb");
        let file = std::fs::File::options().read(true).write(true).open(&data).unwrap();
        let length = file.metadata().unwrap().len();
        let (mut at, mut counts) = (0, std::collections::BTreeMap::new());
        while at < length {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ (1 << (at % 8))], at).unwrap();
            let word = look(Path::new(&directory), &expected);
            assert_ne!(word, "WRONG", "bit {} of byte {at}", at % 8);
            *counts.entry(word).or_insert(0) += 1;
            file.write_all_at(&byte, at).unwrap();
            at += 211;
        }
        println!("\n@{counts:?}");
        return;
    }
    let root = scratch();
    let directory = root.path().join("log");
    let expected = write(&directory);
    std::fs::write(root.path().join("expected"), expected.join("\n")).unwrap();
    let output = child(NAME, directory.to_str().unwrap()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {errors}", output.status);
    let said = String::from_utf8(output.stdout).unwrap();
    let counts = said.lines().find(|line| line.starts_with('@')).unwrap();
    assert!(counts.contains("store_corrupt") && counts.contains("right"), "{counts}");
}

#[test]
fn an_older_or_foreign_file_is_refused() {
    let root = scratch();
    let directory = root.path().join("log");
    write(&directory);
    let data = directory.join("data/data.mdb");
    let old = std::fs::read(&data).unwrap();
    {
        let log = open(&directory);
        produce(&idempotent(&log), "t", 0, &["more"], 0).unwrap();
    }
    let new = std::fs::read(&data).unwrap();
    for bytes in [old.as_slice(), &[], &new[..new.len() / 2], b"no database at all"] {
        std::fs::write(&data, bytes).unwrap();
        assert_eq!(kind(Log::open(&directory, &options())), ErrorKind::StoreCorrupt);
    }
    std::fs::write(&data, new).unwrap();
    assert_eq!(values(&open(&directory), "t", 0).len(), 501);
    let backup = root.path().join("backup");
    open(&directory).backup(&backup).unwrap();
    assert_eq!(values(&open(&backup), "t", 0).len(), 501);
}
