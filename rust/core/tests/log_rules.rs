//! The sequence rules S1 to S34 on the log, from the table that Python runs too.

mod log_support;
mod rules_support;

use std::collections::BTreeMap;

use log_support::*;
use onceflow_core::Result;
use onceflow_core::log::{
    Budget, CommitOffsets, Limits, Log, LogOptions, OffsetCommit, Placed, TopicSettings,
    TransactionId, Write,
};
use serde_json::{Value, json};

const TABLE: &str = include_str!("../../../tests/native/log_rules.json");
const PARTITIONS: u32 = 3;

fn table() -> Value {
    serde_json::from_str(TABLE).unwrap()
}

struct Case {
    root: tempfile::TempDir,
    options: LogOptions,
    log: Option<Log>,
    names: BTreeMap<String, (i64, i32)>,
}

fn number(step: &Value, name: &str) -> i64 {
    step.get(name).map_or(0, |value| value.as_i64().unwrap())
}

impl Case {
    fn new(case: &Value) -> Self {
        let mut limits = Limits::default();
        for (name, value) in case.get("limits").and_then(Value::as_object).into_iter().flatten() {
            match name.as_str() {
                "producer_expiry_ms" => limits.producer_expiry_ms = value.as_u64(),
                "transactional_id_expiry_ms" => limits.transactional_id_expiry_ms = value.as_u64(),
                "max_producer_epoch" => limits.max_producer_epoch = value.as_i64().unwrap() as i32,
                other => panic!("unknown limit {other}"),
            }
        }
        let root = scratch();
        let options = LogOptions { limits, ..options() };
        let log = Log::open(root.path(), &options).unwrap();
        topic(&log, "t", PARTITIONS);
        Self { root, options, log: Some(log), names: BTreeMap::new() }
    }

    fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    fn producer(&self, name: &Value) -> (i64, i32) {
        match name.as_array() {
            None => self.names[name.as_str().unwrap()],
            Some(pair) => {
                let (id, epoch) = self.names[pair[0].as_str().unwrap()];
                (id, epoch + pair[1].as_i64().unwrap() as i32)
            }
        }
    }

    /// Checks and keeps an id and epoch that a call gave.
    fn given(&mut self, step: &Value, got: (i64, i32)) {
        if let Some(epoch) = step.get("epoch") {
            assert_eq!(i64::from(got.1), epoch.as_i64().unwrap(), "{step}");
        }
        if let Some(name) = step.get("same_as") {
            assert_eq!(got, self.producer(name), "{step}");
        }
        if let Some(name) = step.get("other_id_than") {
            assert_ne!(got.0, self.producer(name).0, "{step}");
        }
        if let Some(name) = step.get("as") {
            self.names.insert(name.as_str().unwrap().to_owned(), got);
        }
    }

    fn run(&mut self, step: &Value) -> Result<Value> {
        let now_ms = number(step, "now_ms");
        let tid = step.get("tid").and_then(Value::as_str);
        match step["do"].as_str().unwrap() {
            "init" => {
                let expected = step.get("expected").map(|name| self.producer(name));
                let timeout_ms = step.get("timeout_ms").map_or(60_000, |v| v.as_u64().unwrap());
                let got = self.log().init_producer(tid, timeout_ms, expected, now_ms)?;
                self.given(step, got);
                Ok(Value::Null)
            }
            "append" => {
                let parts: Vec<(u32, i32, Strings)> = rows(&step["parts"]);
                let writes: Vec<Write<'_>> = parts.iter().map(write).collect();
                let producer = self.producer(&step["by"]);
                let placed = self.log().append(Some(producer), &writes, now_ms)?;
                Ok(placed.iter().map(|(one, again)| json!([one.first_offset, again])).collect())
            }
            kind @ ("stage" | "end") => {
                let (id, epoch) = self.producer(&step["by"]);
                let started_ms = number(step, "started_ms");
                let transaction =
                    TransactionId { transactional_id: tid.unwrap(), id, epoch, started_ms };
                let none = json!([]);
                let parts = rows(step.get("parts").unwrap_or(&none));
                let writes: Vec<Write<'_>> = parts.iter().map(write).collect();
                let first = number(step, "first") as i32;
                if kind == "stage" {
                    self.log().stage(transaction, first, &writes, now_ms)?;
                    return Ok(Value::Null);
                }
                let offsets = step.get("offsets").unwrap_or(&none).as_array().unwrap();
                let offsets = offsets.iter().map(|pair| OffsetCommit {
                    topic: "t".to_owned(),
                    partition: pair[0].as_u64().unwrap() as u32,
                    offset: pair[1].as_u64().unwrap(),
                    metadata: String::new(),
                });
                let offsets = CommitOffsets {
                    group: "g".to_owned(),
                    membership: None,
                    offsets: offsets.collect(),
                    now_ms,
                };
                let commit = step["commit"].as_bool().unwrap();
                let offsets = if offsets.offsets.is_empty() { vec![] } else { vec![offsets] };
                let log = self.log();
                let ended =
                    log.end_transaction(transaction, commit, first, &writes, &offsets, now_ms)?;
                self.given(step, (ended.id, ended.epoch));
                let place = |one: &Placed| json!([one.partition, one.first_offset, one.count]);
                Ok(ended.placed.iter().map(place).collect())
            }
            "ends" => {
                let end = |partition| self.log().partition("t", partition).map(|info| info.end);
                (0..PARTITIONS).map(end).collect::<Result<Vec<u64>>>().map(|ends| json!(ends))
            }
            "committed" => {
                let offset = |partition| {
                    let found = self.log().committed("g", "t", partition)?;
                    Ok(found.map(|found| found.offset))
                };
                let offsets = (0..PARTITIONS).map(offset).collect::<Result<Vec<_>>>();
                offsets.map(|offsets| json!(offsets))
            }
            "staged" => {
                let producers = self.log().producers()?;
                Ok(json!(producers.iter().any(|producer| producer.staged.is_some())))
            }
            "maintain" => {
                let done = self.log().maintain(now_ms, Budget::default())?;
                let all = json!({
                    "timed_out": done.timed_out, "discarded": done.discarded,
                    "removed": done.removed, "forgotten": done.forgotten,
                });
                let asked = step["out"].as_object().unwrap().keys();
                Ok(asked.map(|name| (name.clone(), all[name].clone())).collect())
            }
            "alter" => {
                let retention_ms = step["settings"]["retention_ms"].as_u64();
                let partitions = PARTITIONS;
                let settings =
                    TopicSettings { partitions, retention_ms, ..TopicSettings::default() };
                self.log().alter_topic("t", &settings).map(|()| Value::Null)
            }
            "reopen" => {
                self.log = None;
                self.log = Some(Log::open(self.root.path(), &self.options)?);
                Ok(Value::Null)
            }
            other => panic!("unknown step {other}"),
        }
    }
}

/// `[partition, first sequence, records]`, or `[partition, records]`.
fn rows(parts: &Value) -> Vec<(u32, i32, Strings)> {
    let part = |part: &Value| {
        let numbers: Vec<i64> =
            part.as_array().unwrap().iter().map(|number| number.as_i64().unwrap()).collect();
        let (first, count) =
            if let [_, first, count] = numbers[..] { (first, count) } else { (0, numbers[1]) };
        let values: Vec<String> = (0..count).map(|row| format!("{}", first + row)).collect();
        (numbers[0] as u32, first as i32, Strings::new(&values))
    };
    parts.as_array().unwrap().iter().map(part).collect()
}

fn write(part: &(u32, i32, Strings)) -> Write<'_> {
    let (partition, first_sequence, strings) = part;
    Write {
        topic: "t",
        partition: *partition,
        records: strings.values(0),
        first_sequence: *first_sequence,
    }
}

fn run_case(case: &Value) {
    let mut state = Case::new(case);
    for (number, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        let place = format!("{} {} step {number}: {step}", case["rule"], case["name"]);
        rules_support::expect(&state.run(step), step, &place);
    }
}

rules! {
    s1_unknown_producer: "S1",
    s2_unknown_producer_in_the_middle: "S2",
    s3_next_sequence_or_gap: "S3",
    s4_duplicate_in_the_window: "S4",
    s5_duplicate_older_than_the_window: "S5",
    s6_partial_overlap: "S6",
    s9_older_epoch: "S9",
    s10_newer_epoch: "S10",
    s11_duplicates_ignore_other_epochs: "S11",
    s12_the_end_raises_the_epoch: "S12",
    s13_fencing_without_other_state: "S13",
    s14_the_end_of_an_older_epoch: "S14",
    s16_append_beside_a_transaction: "S16",
    s17_late_batches: "S17",
    s19_validate_then_apply: "S19",
    s22_expiry: "S22",
    s25_unfinished_transactions: "S25",
    s26_empty_transactions: "S26",
    s27_no_waiting_for_open_transactions: "S27",
    s29_retention_keeps_sequences: "S29",
    s30_retried_init: "S30",
    s31_retried_end: "S31",
    s32_refused_init: "S32",
    s33_timeouts: "S33",
    s34_used_up_epochs: "S34",
}

#[test]
fn every_rule_is_tested_or_has_a_reason_not_to_be() {
    rules_support::check_all_listed(&table(), TESTED);
}
