//! What is due comes out once, whole and in the order of the keys: random updates, deletions and
//! drains with cuts, aborts and crashes between them, against a map that is searched from its
//! beginning. The index of times is no part of a checkpoint, so each crash loses it.

use std::collections::BTreeMap;

use onceflow_core::snapshot::{Capture, EncodeBuffers};
use onceflow_core::state::{
    Bytes, Column, ColumnData, ColumnType, KeyPart, KeyType, Keys, KeysBuf, Op, Operand, Rows,
    Scalar, Schema, Table, Update,
};
use proptest::prelude::*;

const GROUPS: u16 = 8;

/// (time, number) → how often it was counted since it came to life.
type Model = BTreeMap<(i64, u64), i64>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    /// The key is the time: each one has a row.
    Time,
    Numbers,
    Text,
}

#[derive(Debug, Clone)]
enum Step {
    Count(Vec<(i64, u64)>),
    Delete(Vec<(i64, u64)>),
    /// The same keys deleted and counted so often.
    Return(Vec<(i64, u64)>, usize),
    Drain(i64),
    Freeze(u8),
    Slice(usize),
    Commit,
    Abort,
    Crash,
}

/// Times on both sides of zero and at the ends; few of them, so that many rows share one, or many.
fn keys(distinct: i64) -> impl Strategy<Value = Vec<(i64, u64)>> {
    let time = prop_oneof![
        20 => -distinct..distinct,
        1 => Just(i64::MIN),
        1 => Just(i64::MAX),
    ];
    prop::collection::vec((time, 0_u64..40), 0..60)
}

fn steps(distinct: i64) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => keys(distinct).prop_map(Step::Count),
        2 => keys(distinct).prop_map(Step::Delete),
        1 => (keys(distinct), 1_usize..50).prop_map(|(keys, times)| Step::Return(keys, times)),
        4 => (-distinct - 1..distinct + 2).prop_map(Step::Drain),
        2 => prop_oneof![Just(i64::MIN), Just(i64::MAX)].prop_map(Step::Drain),
        3 => any::<u8>().prop_map(Step::Freeze),
        3 => (1_usize..200).prop_map(Step::Slice),
        3 => Just(Step::Commit),
        1 => Just(Step::Abort),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..60)
}

fn schema(form: Form) -> Schema {
    let key = match form {
        Form::Time => KeyType::I64,
        Form::Numbers => KeyType::Tuple(vec![KeyType::I64, KeyType::U64]),
        Form::Text => KeyType::Tuple(vec![KeyType::I64, KeyType::Str]),
    };
    Schema { key, columns: vec![("count".into(), ColumnType::I64)] }
}

fn with_keys<T>(form: Form, keys: &[(i64, u64)], with: impl FnOnce(Keys<'_>) -> T) -> T {
    match form {
        Form::Time => with(Keys::I64(&keys.iter().map(|(time, _)| *time).collect::<Vec<_>>())),
        Form::Numbers => {
            let words: Vec<u64> =
                keys.iter().flat_map(|(time, number)| [*time as u64, *number]).collect();
            with(Keys::Words { width: 2, words: &words })
        }
        Form::Text => {
            let (mut offsets, mut data) = (vec![0], Vec::new());
            for (time, number) in keys {
                let text = format!("{number:02}{}", "x".repeat(*number as usize % 3 * 7));
                let parts = [KeyPart::I64(*time), KeyPart::Str(text.into())];
                KeysBuf::encode_tuple(&parts, &mut data);
                offsets.push(data.len() as u64);
            }
            with(Keys::Bytes(Bytes { offsets: &offsets, data: &data }))
        }
    }
}

/// Keys and counts in the order in which they come.
fn listed(form: Form, rows: &Rows) -> Vec<((i64, u64), i64)> {
    let keys: Vec<(i64, u64)> = match &rows.keys {
        KeysBuf::I64(times) => times.iter().map(|time| (*time, 0)).collect(),
        KeysBuf::Words { words, .. } => {
            words.chunks(2).map(|key| (key[0] as i64, key[1])).collect()
        }
        KeysBuf::Bytes { offsets, data } => offsets
            .windows(2)
            .map(|pair| {
                let KeyType::Tuple(types) = schema(form).key else { panic!() };
                let bytes = &data[pair[0] as usize..pair[1] as usize];
                match &KeysBuf::decode_tuple(&types, bytes).unwrap()[..] {
                    [KeyPart::I64(time), KeyPart::Str(text)] => (*time, text[..2].parse().unwrap()),
                    other => panic!("{other:?}"),
                }
            })
            .collect(),
        other => panic!("{other:?}"),
    };
    let Column { data: ColumnData::I64(counts), .. } = &rows.columns[0] else { panic!() };
    keys.into_iter().zip(counts.iter().copied()).collect()
}

fn count(table: &mut Table, model: &mut Model, form: Form, keys: &[(i64, u64)]) {
    let one = Operand::Scalar(Scalar::I64(1));
    let updates = [Update { column: 0, op: Op::Add, operand: one }];
    with_keys(form, keys, |keys| table.update(keys, &updates)).unwrap();
    for key in keys {
        *model.entry(*key).or_default() += 1;
    }
}

fn delete(table: &mut Table, model: &mut Model, form: Form, keys: &[(i64, u64)]) {
    let was = with_keys(form, keys, |keys| table.delete(keys)).unwrap();
    for (key, was) in keys.iter().zip(was) {
        assert_eq!(model.remove(key).is_some(), was);
    }
}

fn drain(table: &mut Table, model: &mut Model, form: Form, bound: i64) {
    let rest = model.split_off(&(bound, 0));
    let due: Vec<_> = std::mem::replace(model, rest).into_iter().collect();
    assert_eq!(listed(form, &table.drain_below(bound).unwrap()), due);
}

/// What is durable: the chunks of all checkpoints, and what the last one held.
#[derive(Default)]
struct Durable {
    /// By checkpoint: key groups that it has whole, and chunks.
    checkpoints: Vec<(Vec<bool>, Vec<Vec<u8>>)>,
    model: Model,
}

impl Durable {
    fn add(&mut self, bases: &[bool], capture: &Capture, model: Model) {
        let chunks = capture.encode(2000, &mut EncodeBuffers::default());
        let chunks = chunks.into_iter().map(|chunk| chunk.bytes).collect();
        self.checkpoints.push((bases.to_vec(), chunks));
        self.model = model;
    }

    fn restore(&self, form: Form, max_bytes: usize) -> Table {
        let mut table = Table::new("table", schema(form), GROUPS, max_bytes).unwrap();
        // The newest base of a group first, and only what came after it.
        let mut from = [0; GROUPS as usize];
        for (index, (bases, _)) in self.checkpoints.iter().enumerate() {
            for (group, _) in bases.iter().enumerate().filter(|(_, base)| **base) {
                from[group] = index;
            }
        }
        for (index, (_, chunks)) in self.checkpoints.iter().enumerate() {
            for chunk in chunks {
                table.apply_chunk(chunk, &|group| from[usize::from(group)] <= index).unwrap();
            }
        }
        table
    }
}

fn run(form: Form, steps: &[Step], max_bytes: usize) {
    let mut table = Table::new("table", schema(form), GROUPS, max_bytes).unwrap();
    let mut model = Model::new();
    let mut durable = Durable::default();
    let mut cut: Option<(Vec<bool>, Model)> = None;
    let own = |keys: &[(i64, u64)]| -> Vec<(i64, u64)> {
        let number = |number: u64| if form == Form::Time { 0 } else { number };
        keys.iter().map(|(time, of)| (*time, number(*of))).collect()
    };
    for step in steps {
        match step {
            Step::Count(keys) => count(&mut table, &mut model, form, &own(keys)),
            Step::Delete(keys) => delete(&mut table, &mut model, form, &own(keys)),
            Step::Return(keys, times) => {
                for _ in 0..*times {
                    delete(&mut table, &mut model, form, &own(keys));
                    count(&mut table, &mut model, form, &own(keys));
                }
            }
            Step::Drain(bound) => drain(&mut table, &mut model, form, *bound),
            Step::Freeze(groups) => {
                let bases: Vec<bool> = (0..GROUPS).map(|group| groups >> group & 1 == 1).collect();
                if cut.is_none() {
                    table.freeze(&bases).unwrap();
                    cut = Some((bases, model.clone()));
                }
            }
            Step::Slice(slots) => {
                table.capture(*slots);
            }
            Step::Commit => {
                if let Some((bases, model)) = cut.take() {
                    let capture = table.take_capture();
                    durable.add(&bases, &capture, model);
                    table.recycle(capture);
                }
            }
            Step::Abort => {
                table.abort_capture(None);
                cut = None;
            }
            Step::Crash => {
                table = durable.restore(form, max_bytes);
                model = durable.model.clone();
                cut = None;
            }
        }
        assert_eq!(table.len(), model.len());
    }
    drain(&mut table, &mut model, form, 0);
    drain(&mut table, &mut model, form, i64::MAX);
    assert_eq!(listed(form, &table.scan_sorted(0..GROUPS)), model.into_iter().collect::<Vec<_>>());
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![Just(Form::Time), Just(Form::Numbers), Just(Form::Text)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Rows that share few times, as windows do.
    #[test]
    fn few_times_fire_once(form in form(), steps in steps(4)) {
        run(form, &steps, usize::MAX);
    }

    /// Rows of many times, as timers have.
    #[test]
    fn many_times_fire_once(form in form(), steps in steps(2000)) {
        run(form, &steps, usize::MAX);
    }
}

/// How much a table of these rows takes, slots and keys alone.
fn bytes_of(form: Form, keys: &[(i64, u64)]) -> usize {
    let mut table = Table::new("table", schema(form), GROUPS, usize::MAX).unwrap();
    count(&mut table, &mut Model::new(), form, keys);
    table.memory_bytes()
}

/// A bound that leaves the index no room takes none of the rows' room, and nothing is lost.
#[test]
fn rows_come_before_the_index() {
    let form = Form::Numbers;
    let keys: Vec<(i64, u64)> = (0..20_000).map(|index| (index % 5000, index as u64)).collect();
    let rows_alone = bytes_of(form, &keys);
    for room in [0, 1 << 14, 1 << 17, 1 << 20] {
        let bound = rows_alone + room;
        let mut table = Table::new("table", schema(form), GROUPS, bound).unwrap();
        let mut model = Model::new();
        for (turn, some) in keys.chunks(500).enumerate() {
            count(&mut table, &mut model, form, some);
            if turn % 3 == 0 {
                drain(&mut table, &mut model, form, turn as i64);
            }
            // The bound is on rows and index; what notes which rows have changed is not in it.
            let noted = Table::new("t", schema(form), GROUPS, usize::MAX).unwrap().memory_bytes();
            assert!(table.memory_bytes() <= bound + noted, "{} of {bound}", table.memory_bytes());
        }
        drain(&mut table, &mut model, form, 100);
        drain(&mut table, &mut model, form, i64::MAX);
        assert_eq!(table.len(), 0);
    }
}

/// An index that had room when it was built, and has none for rows of new times, goes.
#[test]
fn an_index_that_grows_past_the_bound_goes() {
    let form = Form::Numbers;
    let all: Vec<(i64, u64)> = (0..12_000).map(|time| (time, 0)).collect();
    // Slots for 12,288 rows; the index of 9,000 times fits, and that of 12,000 does not.
    let bound = bytes_of(form, &all) + 9_000 * 82;
    let mut table = Table::new("table", schema(form), GROUPS, bound).unwrap();
    let mut model = Model::new();
    count(&mut table, &mut model, form, &all[..9_000]);
    let rows_alone = table.memory_bytes();
    drain(&mut table, &mut model, form, 1);
    assert!(table.memory_bytes() > rows_alone, "no index was built");
    for some in all[9_000..].chunks(100) {
        count(&mut table, &mut model, form, some);
        assert!(table.memory_bytes() <= bound, "{} of {bound}", table.memory_bytes());
    }
    assert_eq!(table.memory_bytes(), rows_alone);
    drain(&mut table, &mut model, form, 5_000);
    drain(&mut table, &mut model, form, i64::MAX);
    assert_eq!(table.len(), 0);
}

/// Deleted rows take their share of the index with them, though their times never come.
#[test]
fn the_index_shrinks_with_the_rows() {
    let form = Form::Numbers;
    let keys: Vec<(i64, u64)> = (0..10_000).map(|time| (time, 0)).collect();
    let mut table = Table::new("table", schema(form), GROUPS, usize::MAX).unwrap();
    let mut model = Model::new();
    count(&mut table, &mut model, form, &keys);
    let rows_alone = table.memory_bytes();
    drain(&mut table, &mut model, form, 1);
    delete(&mut table, &mut model, form, &keys[100..]);
    let index = table.memory_bytes() - rows_alone;
    assert!((1..=99 * 80).contains(&index), "{index} bytes for 99 rows");
    drain(&mut table, &mut model, form, i64::MAX);
    assert_eq!(table.len(), 0);
}

/// A key that comes and goes leaves no trail: the memory that is held is that of the rows.
#[test]
fn what_comes_and_goes_is_not_held() {
    for form in [Form::Time, Form::Numbers, Form::Text] {
        let mut table = Table::new("table", schema(form), GROUPS, usize::MAX).unwrap();
        let mut model = Model::new();
        let keys: Vec<(i64, u64)> = (10..110).map(|time| (time, 0)).collect();
        // So many others that the table has room: rows that move would take the index with them.
        let others: Vec<(i64, u64)> = (1000..2100).map(|time| (time, 0)).collect();
        count(&mut table, &mut model, form, &[(1, 0)]);
        count(&mut table, &mut model, form, &others);
        count(&mut table, &mut model, form, &keys);
        drain(&mut table, &mut model, form, 5);
        let before = table.memory_bytes();
        for _ in 0..2000 {
            delete(&mut table, &mut model, form, &keys);
            count(&mut table, &mut model, form, &keys);
        }
        let after = table.memory_bytes();
        assert!(after > before, "the index is gone, so that this shows nothing");
        assert!(after < before + 32_000, "{before} bytes, then {after}, for the same rows");
        delete(&mut table, &mut model, form, &keys[1..]);
        drain(&mut table, &mut model, form, 50);
        drain(&mut table, &mut model, form, 500);
        drain(&mut table, &mut model, form, 5000);
        assert_eq!(table.len(), 0);
    }
}

/// The index is counted in the memory that a table holds.
#[test]
fn the_index_is_counted() {
    let form = Form::Numbers;
    let keys: Vec<(i64, u64)> = (0..10_000).map(|index| (index, 0)).collect();
    let mut table = Table::new("table", schema(form), GROUPS, usize::MAX).unwrap();
    let mut model = Model::new();
    count(&mut table, &mut model, form, &keys);
    let before = table.memory_bytes();
    drain(&mut table, &mut model, form, 1);
    let index = table.memory_bytes() - before;
    assert!((9_999 * 40..9_999 * 100).contains(&index), "{index} bytes for 9,999 times");
    drain(&mut table, &mut model, form, i64::MAX);
    assert_eq!(table.memory_bytes(), before);
}
