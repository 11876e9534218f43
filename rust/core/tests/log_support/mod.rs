//! What the log's tests share.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::path::Path;
use std::process::{Command, Stdio};

use onceflow_core::log::{
    ByteColumn, FetchLimits, Fetched, Log, LogOptions, Partitioning, Producer, ProducerOptions,
    Records, Timestamps, TopicSettings,
};
use onceflow_core::{ErrorKind, Result};

pub const MAP_BYTES: usize = 256 << 20;

pub fn options() -> LogOptions {
    LogOptions { map_size_bytes: MAP_BYTES, store_id: 7, ..LogOptions::default() }
}

pub fn open(directory: &Path) -> Log {
    Log::open(directory, &options()).unwrap()
}

pub fn topic(log: &Log, name: &str, partitions: u32) {
    log.create_topic(name, &TopicSettings { partitions, ..TopicSettings::default() }).unwrap();
}

/// Byte strings as a column.
pub struct Strings {
    offsets: Vec<i64>,
    data: Vec<u8>,
    valid: Option<Vec<bool>>,
}

impl Strings {
    pub fn new<T: AsRef<[u8]>>(rows: &[T]) -> Self {
        let mut strings = Self { offsets: vec![0], data: Vec::new(), valid: None };
        for row in rows {
            strings.data.extend_from_slice(row.as_ref());
            strings.offsets.push(strings.data.len() as i64);
        }
        strings
    }

    pub fn nullable<T: AsRef<[u8]>>(rows: &[Option<T>]) -> Self {
        let all: Vec<&[u8]> =
            rows.iter().map(|row| row.as_ref().map_or(&b""[..], AsRef::as_ref)).collect();
        let valid = rows.iter().map(Option::is_some).collect();
        Self { valid: Some(valid), ..Self::new(&all) }
    }

    pub fn column(&self) -> ByteColumn<'_> {
        ByteColumn::new(&self.offsets, &self.data, self.valid.as_deref()).unwrap()
    }

    /// As the values of records at time `timestamp_ms`.
    pub fn values(&self, timestamp_ms: i64) -> Records<'_> {
        let rows = self.offsets.len() - 1;
        let column = Some(self.column());
        Records::new(rows, Timestamps::Same(timestamp_ms), None, column, None).unwrap()
    }
}

/// Produces values to one partition.
pub fn produce(
    producer: &Producer,
    name: &str,
    partition: u32,
    values: &[&str],
    now_ms: i64,
) -> Result<()> {
    let strings = Strings::new(values);
    let records = strings.values(now_ms);
    producer.produce(name, Partitioning::One(partition), &records, now_ms).map(|_| ())
}

pub fn idempotent(log: &Log) -> Producer {
    Producer::new(log, ProducerOptions::default(), 0).unwrap()
}

pub fn transactional(log: &Log, id: &str) -> Producer {
    let options =
        ProducerOptions { transactional_id: Some(id.to_owned()), ..ProducerOptions::default() };
    Producer::new(log, options, 0).unwrap()
}

/// One that stages a transaction on disk when it has more than these bytes; ready to begin.
pub fn staging(log: &Log, id: &str, max_buffered_bytes: usize) -> Producer {
    let options = ProducerOptions {
        transactional_id: Some(id.to_owned()),
        max_buffered_bytes,
        ..ProducerOptions::default()
    };
    let producer = Producer::new(log, options, 0).unwrap();
    producer.init_transactions(0).unwrap();
    producer
}

pub fn fetch_all(log: &Log, name: &str, partition: u32) -> Fetched {
    let start = log.partition(name, partition).unwrap().start;
    let limits = FetchLimits { max_records: usize::MAX, max_bytes: usize::MAX };
    log.fetch(name, partition, start, limits).unwrap()
}

/// The values of a partition as text.
pub fn values(log: &Log, name: &str, partition: u32) -> Vec<String> {
    let fetched = fetch_all(log, name, partition);
    let text = |row| String::from_utf8_lossy(fetched.values.get(row).unwrap_or(b"null")).into();
    (0..fetched.len()).map(text).collect()
}

pub fn kind<T: std::fmt::Debug>(outcome: Result<T>) -> ErrorKind {
    outcome.unwrap_err().kind()
}

/// Set in a child process: what it shall do.
pub const ROLE: &str = "ONCEFLOW_TEST_ROLE";

/// This test binary again, running only the test `name`, which finds its role in the environment.
pub fn child(name: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env_remove("CRASH_AT")
        .env_remove("STOP_AT")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// A directory in memory if there is one: these tests sync thousands of times.
pub fn scratch() -> tempfile::TempDir {
    match tempfile::tempdir_in("/dev/shm") {
        Ok(directory) => directory,
        Err(_) => tempfile::tempdir().unwrap(),
    }
}

/// Another process that works on a log, and is asked line by line.
pub struct Peer {
    pub child: std::process::Child,
    answers: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Peer {
    /// `name` is the test that finds the directory as its role.
    pub fn spawn(name: &str, directory: &Path, environment: &[(&str, &str)]) -> Self {
        use std::io::BufRead;

        let mut command = child(name, directory.to_str().unwrap());
        command.envs(environment.iter().copied()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let answers = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, answers }
    }

    pub fn say(&mut self, line: &str) {
        use std::io::Write;

        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The next answer; what the test harness prints is passed over.
    pub fn answer(&mut self) -> String {
        loop {
            let line = self.answers.next().expect("the peer ended").unwrap();
            if let Some(answer) = line.strip_prefix("> ") {
                return answer.to_owned();
            }
        }
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.answer()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn end(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child's side of `Peer`: answers lines until there are no more.
pub fn serve(mut answer: impl FnMut(&[&str]) -> String) {
    use std::io::Write;

    println!();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        println!("> {}", answer(&words));
        std::io::stdout().flush().unwrap();
    }
}

/// An outcome as a word.
pub fn told<T>(outcome: Result<T>) -> String {
    outcome.map_or_else(|error| error.kind().as_str().to_owned(), |_| "ok".to_owned())
}
