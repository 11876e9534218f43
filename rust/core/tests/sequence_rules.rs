//! The sequence rules S1 to S34: a table that Python's tests run too.
//!
//! Each call is made three ways: `check_many`; `prepare` (which must change nothing, rule S19)
//! and `apply`; and one batch at a time. All must agree.

mod rules_support;

use onceflow_core::sequence::{
    Batches, DedupeMode, Deduplicator, DeduplicatorOptions, Order, VerdictCode, Verdicts,
};
use onceflow_core::{ErrorKind, Result};
use serde_json::{Value, json};

fn table() -> Value {
    serde_json::from_str(include_str!("../../../tests/native/sequence_rules.json")).unwrap()
}

fn deduplicator(settings: &Value) -> Deduplicator {
    let mut options = DeduplicatorOptions::default();
    for (name, value) in settings.as_object().unwrap() {
        match (name.as_str(), value.as_str()) {
            ("mode", Some("strict")) => options.mode = DedupeMode::Strict,
            ("mode", Some("compatible")) => options.mode = DedupeMode::Compatible,
            ("order", Some("ordered")) => options.order = Order::Ordered,
            ("order", Some("unordered")) => options.order = Order::Unordered,
            ("window", _) => options.window = value.as_u64().unwrap() as usize,
            ("max_producers", _) => options.max_producers = value.as_u64().unwrap() as usize,
            ("expiry_s", _) => options.expiry_s = value.as_f64(),
            _ => panic!("unknown setting {name}: {value}"),
        }
    }
    Deduplicator::new(options).unwrap()
}

/// Columns of a call, owned.
#[derive(Default)]
struct Columns {
    ids: Vec<i64>,
    epochs: Vec<i64>,
    firsts: Vec<i32>,
    lasts: Vec<i32>,
    positions: Vec<i64>,
}

impl Columns {
    fn of(rows: &[Value]) -> Self {
        let mut columns = Self::default();
        for row in rows {
            let at = |i: usize| row[i].as_i64().unwrap();
            columns.ids.push(at(0));
            columns.epochs.push(at(1));
            columns.firsts.push(i32::try_from(at(2)).unwrap());
            columns.lasts.push(i32::try_from(at(3)).unwrap());
            columns.positions.push(row.get(4).map_or(-1, |value| value.as_i64().unwrap()));
        }
        columns
    }

    /// Positions are left away if no batch has one.
    fn batches(&self) -> Result<Batches<'_>> {
        let positions = self.positions.iter().any(|position| *position != -1);
        let positions = positions.then_some(self.positions.as_slice());
        Batches::new(&self.ids, &self.epochs, &self.firsts, &self.lasts, positions)
    }
}

fn as_json(verdicts: &Verdicts) -> Value {
    let rows = verdicts.codes().iter().zip(verdicts.details());
    let row = |(code, detail): (&u8, &i64)| match code {
        code if *code == VerdictCode::Accept as u8 => json!("accept"),
        code if *code == VerdictCode::Duplicate as u8 => json!(["duplicate", detail]),
        code if *code == VerdictCode::TooOld as u8 => json!("too_old"),
        code if *code == VerdictCode::Gap as u8 => json!(["gap", detail]),
        code if *code == VerdictCode::Fenced as u8 => json!(["fenced", detail]),
        code => panic!("unknown code {code}"),
    };
    rows.map(row).collect()
}

fn damaged(snapshot: &[u8], how: &Value) -> Vec<Vec<u8>> {
    match how.as_str() {
        None => vec![snapshot.to_vec()],
        Some("empty") => vec![vec![]],
        Some("truncated") => (1..snapshot.len()).map(|end| snapshot[..end].to_vec()).collect(),
        Some("flipped") => (0..snapshot.len() * 8)
            .map(|bit| {
                let mut flipped = snapshot.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                flipped
            })
            .collect(),
        Some("foreign") => vec![vec![0; snapshot.len()], vec![0xA5; 4096]],
        Some(other) => panic!("unknown damage {other}"),
    }
}

fn check(dedupe: &mut Deduplicator, rows: &[Value], now_s: f64) -> Result<Value> {
    let columns = Columns::of(rows);
    let batches = columns.batches()?;
    let before = dedupe.snapshot();
    let mut twin = dedupe.clone();
    let mut single = dedupe.clone();

    let prepared = twin.prepare(&batches, now_s);
    assert_eq!(twin.snapshot(), before, "prepare changed the state");
    let verdicts = dedupe.check_many(&batches, now_s);
    let verdicts = match (verdicts, prepared) {
        (Ok(verdicts), Ok(prepared)) => {
            assert_eq!(twin.apply(prepared).unwrap(), verdicts);
            verdicts
        }
        (Err(error), Err(same)) => {
            assert_eq!(error, same);
            return Err(error);
        }
        (one, other) => panic!("check_many gave {one:?}, prepare {other:?}"),
    };
    assert_eq!(twin.snapshot(), dedupe.snapshot());
    assert_eq!(twin.changes().removed(), dedupe.changes().removed());
    for (row, verdict) in rows.iter().zip(as_json(&verdicts).as_array().unwrap()) {
        let columns = Columns::of(std::slice::from_ref(row));
        let got = single.check_many(&columns.batches().unwrap(), now_s).unwrap();
        assert_eq!(&as_json(&got)[0], verdict, "alone, {row}");
    }
    Ok(as_json(&verdicts))
}

fn run_case(case: &Value) {
    let mut dedupe = deduplicator(&case["settings"]);
    let mut saved = Vec::new();
    for (number, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        let place = format!("{} {} step {number}", case["rule"], case["name"]);
        let now_s = step.get("now_s").map_or(0.0, |value| value.as_f64().unwrap());
        let before = dedupe.snapshot();
        let results: Vec<Result<Value>> = if let Some(rows) = step.get("check") {
            vec![check(&mut dedupe, rows.as_array().unwrap(), now_s)]
        } else if let Some(now_s) = step.get("expire") {
            vec![dedupe.expire(now_s.as_f64().unwrap()).map(|expired| json!(expired))]
        } else if let Some(len) = step.get("len") {
            assert_eq!(&json!(dedupe.len()), len, "{place}");
            vec![]
        } else if step.get("save").is_some() {
            saved = dedupe.snapshot();
            vec![]
        } else if let Some(damage) = step.get("restore") {
            let blobs = damaged(&saved, damage).into_iter();
            blobs.map(|blob| dedupe.restore(&blob, now_s).map(|()| Value::Null)).collect()
        } else {
            panic!("{place}: unknown step {step}")
        };
        for result in results {
            rules_support::expect(&result, step, &place);
            if result.is_err() {
                assert_eq!(dedupe.snapshot(), before, "{place}: an error changed the state");
            }
        }
    }
}

rules! {
    s1_unknown_producer: "S1",
    s2_unknown_producer_in_the_middle: "S2",
    s3_next_sequence_or_gap: "S3",
    s4_duplicate_in_the_window: "S4",
    s5_duplicate_older_than_the_window: "S5",
    s6_partial_overlap: "S6",
    s7_wrap_around: "S7",
    s8_batch_across_the_wrap: "S8",
    s9_older_epoch: "S9",
    s10_newer_epoch: "S10",
    s11_duplicates_ignore_other_epochs: "S11",
    s19_validate_then_apply: "S19",
    s22_expiry: "S22",
    s23_damaged_snapshots: "S23",
}

#[test]
fn every_rule_is_tested_or_has_a_reason_not_to_be() {
    rules_support::check_all_listed(&table(), TESTED);
}

#[test]
fn prepared_verdicts_fit_one_state_only() {
    let columns = Columns::of(&[json!([1, 0, 0, 0])]);
    let batches = columns.batches().unwrap();
    let mut dedupe = deduplicator(&json!({}));
    let stale = dedupe.prepare(&batches, 0.0).unwrap();
    dedupe.check_many(&batches, 0.0).unwrap();
    let error = dedupe.apply(stale).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");

    let foreign = deduplicator(&json!({})).prepare(&batches, 0.0).unwrap();
    assert!(deduplicator(&json!({})).apply(foreign).is_err());
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let base = DeduplicatorOptions::default();
    for options in [
        DeduplicatorOptions { window: 0, ..base },
        DeduplicatorOptions { window: (1 << 20) + 1, ..base },
        DeduplicatorOptions { max_producers: 0, ..base },
        DeduplicatorOptions { expiry_s: Some(0.0), ..base },
        DeduplicatorOptions { expiry_s: Some(f64::NAN), ..base },
        DeduplicatorOptions { expiry_s: Some(f64::INFINITY), ..base },
    ] {
        let error = Deduplicator::new(options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{options:?}");
    }
    let mut dedupe = deduplicator(&json!({}));
    let columns = Columns::of(&[json!([1, 0, 0, 0])]);
    assert!(dedupe.check_many(&columns.batches().unwrap(), f64::NAN).is_err());
    assert!(dedupe.expire(f64::INFINITY).is_err());
    assert!(dedupe.is_empty());
}
