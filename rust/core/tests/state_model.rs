//! Random batches, cuts, captures that finish late and aborts, against maps in memory; every
//! capture goes through chunks into a replica that must equal the model at the moment of the cut.

use std::collections::BTreeMap;

use onceflow_core::hash::{hash_u64, key_group};
use onceflow_core::snapshot::{Capture, ChunkKind, DeltaChunk, EncodeBuffers, merge};
use onceflow_core::state::{
    Bytes, Column, ColumnData, ColumnType, KeyType, Keys, KeysBuf, Op, Operand, Rows, Scalar,
    Schema, Table, Update,
};
use proptest::prelude::*;

const GROUPS: u16 = 8;

/// Sum (i64), smallest (f64), first text, last text.
type Row = (Option<i64>, Option<f64>, Option<Vec<u8>>, Option<Vec<u8>>);
type Model = BTreeMap<Vec<u8>, Row>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Int,
    Words,
    Text,
}

#[derive(Debug, Clone)]
enum Step {
    Update { keys: Vec<u16>, columns: u8, salt: i64 },
    Delete(Vec<u16>),
    Drain(u16),
    Freeze(u8),
    Slice(usize),
    Take { commit: bool },
    Abort,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let keys = || prop::collection::vec(0_u16..200, 0..60);
    let step = prop_oneof![
        6 => (keys(), 0_u8..16, -50_i64..50)
            .prop_map(|(keys, columns, salt)| Step::Update { keys, columns, salt }),
        2 => keys().prop_map(Step::Delete),
        1 => (0_u16..200).prop_map(Step::Drain),
        3 => any::<u8>().prop_map(Step::Freeze),
        4 => (1_usize..200).prop_map(Step::Slice),
        3 => any::<bool>().prop_map(|commit| Step::Take { commit }),
        1 => Just(Step::Abort),
    ];
    prop::collection::vec(step, 1..60)
}

fn schema(form: Form) -> Schema {
    Schema {
        key: match form {
            Form::Int => KeyType::I64,
            Form::Words => KeyType::Tuple(vec![KeyType::I64, KeyType::U64]),
            Form::Text => KeyType::Str,
        },
        columns: vec![
            ("sum".into(), ColumnType::I64),
            ("least".into(), ColumnType::F64),
            ("first".into(), ColumnType::Bytes),
            ("last".into(), ColumnType::Bytes),
        ],
    }
}

/// Keys in the table's form, and what the model calls them.
struct Batch {
    form: Form,
    ints: Vec<i64>,
    words: Vec<u64>,
    offsets: Vec<u64>,
    data: Vec<u8>,
}

fn text(key: u16) -> String {
    // Short, of exactly twelve bytes, and long.
    match key % 3 {
        0 => format!("{key}"),
        1 => format!("key-{key:08}"),
        _ => format!("a key that does not fit into a row: {key}"),
    }
}

fn name(form: Form, key: u16) -> Vec<u8> {
    match form {
        Form::Int => i64::from(key).to_be_bytes().to_vec(),
        Form::Words => [i64::from(key / 3).to_be_bytes(), i64::from(key).to_be_bytes()].concat(),
        Form::Text => text(key).into_bytes(),
    }
}

impl Batch {
    fn new(form: Form, keys: &[u16]) -> Self {
        let mut offsets = vec![0];
        let mut data = Vec::new();
        for key in keys {
            data.extend_from_slice(text(*key).as_bytes());
            offsets.push(data.len() as u64);
        }
        Self {
            form,
            ints: keys.iter().map(|key| i64::from(*key)).collect(),
            words: keys.iter().flat_map(|key| [u64::from(key / 3), u64::from(*key)]).collect(),
            offsets,
            data,
        }
    }

    fn keys(&self) -> Keys<'_> {
        match self.form {
            Form::Int => Keys::I64(&self.ints),
            Form::Words => Keys::Words { width: 2, words: &self.words },
            Form::Text => Keys::Bytes(Bytes { offsets: &self.offsets, data: &self.data }),
        }
    }
}

fn value(key: u16, salt: i64) -> Vec<u8> {
    let len = (i64::from(key) + salt).rem_euclid(40) as usize;
    vec![b'a' + (key % 26) as u8; len]
}

fn update(table: &mut Table, model: &mut Model, form: Form, keys: &[u16], columns: u8, salt: i64) {
    let batch = Batch::new(form, keys);
    let sums: Vec<i64> = keys.iter().map(|key| i64::from(*key) * salt).collect();
    let least = salt as f64;
    let mut offsets = vec![0];
    let mut data = Vec::new();
    for key in keys {
        data.extend_from_slice(&value(*key, salt));
        offsets.push(data.len() as u64);
    }
    let texts = Operand::Bytes(Bytes { offsets: &offsets, data: &data });
    let all = [
        Update { column: 0, op: Op::Add, operand: Operand::I64(&sums) },
        Update { column: 1, op: Op::Min, operand: Operand::Scalar(Scalar::F64(least)) },
        Update { column: 2, op: Op::First, operand: texts },
        Update { column: 3, op: Op::Last, operand: texts },
    ];
    let chosen: Vec<Update<'_>> =
        all.into_iter().filter(|update| columns >> update.column & 1 == 1).collect();
    table.update(batch.keys(), &chosen).unwrap();
    for (key, sum) in keys.iter().zip(&sums) {
        let row = model.entry(name(form, *key)).or_default();
        let text = value(*key, salt);
        if columns & 1 != 0 {
            row.0 = Some(row.0.unwrap_or(0) + sum);
        }
        if columns & 2 != 0 {
            row.1 = Some(row.1.map_or(least, |old: f64| old.min(least)));
        }
        if columns & 4 != 0 && row.2.is_none() {
            row.2 = Some(text.clone());
        }
        if columns & 8 != 0 {
            row.3 = Some(text);
        }
    }
}

fn byte_strings(offsets: &[u64], data: &[u8]) -> Vec<Vec<u8>> {
    offsets.windows(2).map(|pair| data[pair[0] as usize..pair[1] as usize].to_vec()).collect()
}

fn cells<T: Clone>(values: &[T], column: &Column) -> Vec<Option<T>> {
    let set = |index: usize| column.validity.as_ref().is_none_or(|validity| validity[index]);
    values.iter().enumerate().map(|(index, value)| set(index).then(|| value.clone())).collect()
}

fn rows_of(columns: &[Column]) -> Vec<Row> {
    let ColumnData::I64(sums) = &columns[0].data else { panic!("sum") };
    let ColumnData::F64(least) = &columns[1].data else { panic!("least") };
    let texts = |column: &Column| match &column.data {
        ColumnData::Bytes { offsets, data } => cells(&byte_strings(offsets, data), column),
        _ => panic!("text"),
    };
    let sums = cells(sums, &columns[0]);
    let least = cells(least, &columns[1]);
    sums.into_iter()
        .zip(least)
        .zip(texts(&columns[2]).into_iter().zip(texts(&columns[3])))
        .map(|((sum, least), (first, last))| (sum, least, first, last))
        .collect()
}

fn content(rows: &Rows) -> Model {
    let keys: Vec<Vec<u8>> = match &rows.keys {
        KeysBuf::I64(keys) => keys.iter().map(|key| key.to_be_bytes().to_vec()).collect(),
        KeysBuf::Words { width: 2, words } => words
            .chunks(2)
            .map(|key| [key[0].to_be_bytes(), key[1].to_be_bytes()].concat())
            .collect(),
        KeysBuf::Bytes { offsets, data } => byte_strings(offsets, data),
        other => panic!("{other:?}"),
    };
    let count = keys.len();
    let content: Model = keys.into_iter().zip(rows_of(&rows.columns)).collect();
    assert_eq!(content.len(), count, "a key occurs twice");
    content
}

fn scan(table: &Table) -> Model {
    content(&table.scan(0..GROUPS))
}

/// A table that hears of checkpoints only, and what it should hold.
struct Replica {
    table: Table,
    deltas: Vec<Vec<u8>>,
}

impl Replica {
    fn new(form: Form) -> Self {
        let table = Table::new("replica", schema(form), GROUPS, usize::MAX).unwrap();
        Self { table, deltas: Vec::new() }
    }

    fn apply(&mut self, form: Form, capture: &Capture, target: usize) {
        let chunks = capture.encode(target, &mut EncodeBuffers::default());
        // What bases replace: a backend never applies what they hide.
        for base in chunks.iter().filter(|chunk| chunk.kind == ChunkKind::Base) {
            let rows = self.table.scan(base.first_group..base.last_group + 1);
            let stale: Vec<Vec<u8>> = content(&rows).into_keys().collect();
            self.delete(form, &stale);
        }
        for chunk in &chunks {
            assert!(chunk.bytes.len() <= (1 << 20) || chunk.rows == 1);
            let rows = self.table.apply_chunk(&chunk.bytes, &|_| true).unwrap();
            assert_eq!(rows, chunk.rows);
        }
        self.deltas.extend(chunks.into_iter().map(|chunk| chunk.bytes));
    }

    fn delete(&mut self, form: Form, names: &[Vec<u8>]) {
        let keys: Vec<u16> = (0..200).filter(|key| names.contains(&name(form, *key))).collect();
        self.table.delete(Batch::new(form, &keys).keys()).unwrap();
    }
}

fn run(form: Form, steps: &[Step], bases: bool, target: usize) {
    let mut table = Table::new("table", schema(form), GROUPS, usize::MAX).unwrap();
    let mut model = Model::new();
    let mut replica = Replica::new(form);
    let mut cut: Option<Model> = None;
    let mut taken: Option<Capture> = None;
    for step in steps {
        match step {
            Step::Update { keys, columns, salt } => {
                update(&mut table, &mut model, form, keys, *columns, *salt);
            }
            Step::Delete(keys) => {
                let was = table.delete(Batch::new(form, keys).keys()).unwrap();
                for (key, was) in keys.iter().zip(was) {
                    assert_eq!(model.remove(&name(form, *key)).is_some(), was);
                }
            }
            Step::Drain(bound) => {
                let drained = table.drain_below(i64::from(*bound));
                if form == Form::Text {
                    drained.unwrap_err();
                    continue;
                }
                let first = |key: &[u8]| i64::from_be_bytes(key[..8].try_into().unwrap());
                let (below, rest) = std::mem::take(&mut model)
                    .into_iter()
                    .partition(|(key, _)| first(key) < i64::from(*bound));
                model = rest;
                let below: Model = below;
                assert_eq!(content(&drained.unwrap()), below);
            }
            Step::Freeze(groups) => {
                let flags: Vec<bool> =
                    (0..GROUPS).map(|group| bases && groups >> group & 1 == 1).collect();
                let frozen = table.freeze(&flags);
                assert_eq!(frozen.is_err(), cut.is_some() && taken.is_none());
                if frozen.is_ok() {
                    if let (Some(cut), Some(capture)) = (cut.take(), taken.take()) {
                        replica.apply(form, &capture, target);
                        assert_eq!(scan(&replica.table), cut);
                        table.recycle(capture);
                    }
                    cut = Some(model.clone());
                }
            }
            Step::Slice(slots) => {
                table.capture(*slots);
            }
            Step::Take { commit } if cut.is_some() && taken.is_none() => {
                let capture = table.take_capture();
                if *commit {
                    taken = Some(capture);
                } else {
                    table.abort_capture(Some(capture));
                    cut = None;
                }
            }
            Step::Take { .. } => {}
            Step::Abort => {
                table.abort_capture(taken.take());
                cut = None;
            }
        }
        assert_eq!(table.len(), model.len());
    }
    assert_eq!(scan(&table), model);
    let halves = [table.scan(0..3), table.scan(3..GROUPS)];
    assert_eq!(halves.iter().flat_map(content).collect::<Model>(), model);
    let names: Vec<u16> = (0..200).collect();
    let all = Batch::new(form, &names);
    let (columns, found) = table.get(all.keys()).unwrap();
    assert_eq!(found, table.contains(all.keys()).unwrap());
    for ((key, row), found) in names.iter().zip(rows_of(&columns)).zip(found) {
        assert_eq!(found.then_some(&row), model.get(&name(form, *key)));
    }
    // Everything that is left reaches the replica with one more checkpoint.
    if let (Some(_), Some(capture)) = (&cut, taken.take()) {
        replica.apply(form, &capture, target);
    } else if cut.is_some() {
        let capture = table.take_capture();
        replica.apply(form, &capture, target);
    }
    table.freeze(&[false; GROUPS as usize]).unwrap();
    let capture = table.take_capture();
    replica.apply(form, &capture, target);
    assert_eq!(scan(&replica.table), model);
    if !bases {
        let groups = [true; GROUPS as usize];
        let deltas: Vec<DeltaChunk<'_>> =
            replica.deltas.iter().map(|bytes| DeltaChunk { bytes, groups: &groups }).collect();
        let mut merged = Table::new("merged", schema(form), GROUPS, usize::MAX).unwrap();
        for chunk in merge(&schema(form), GROUPS, &deltas, target).unwrap() {
            merged.apply_chunk(&chunk.bytes, &|_| true).unwrap();
        }
        assert_eq!(scan(&merged), model);
        let mut part = Table::new("part", schema(form), GROUPS, usize::MAX).unwrap();
        for delta in deltas {
            part.apply_chunk(delta.bytes, &|group| group < 3).unwrap();
        }
        assert_eq!(scan(&part), content(&table.scan(0..3)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn tables_of_integers_equal_the_model(steps in steps(), bases: bool, target in 1_usize..5000) {
        run(Form::Int, &steps, bases, target);
    }

    #[test]
    fn tables_of_integer_tuples_equal_the_model(steps in steps(), bases: bool, target in 1_usize..5000) {
        run(Form::Words, &steps, bases, target);
    }

    #[test]
    fn tables_of_texts_equal_the_model(steps in steps(), bases: bool, target in 1_usize..5000) {
        run(Form::Text, &steps, bases, target);
    }
}

/// A table with fewer slots than key groups, or about as many: groups share slots.
#[test]
fn small_tables_know_their_key_groups() {
    for rows in [1, 9, 20, 40, 90, 180] {
        let columns = vec![("n".to_owned(), ColumnType::I64)];
        let mut table =
            Table::new("t", Schema { key: KeyType::I64, columns }, 128, usize::MAX).unwrap();
        let keys: Vec<i64> = (0..rows).collect();
        let one = Operand::Scalar(Scalar::I64(1));
        let updates = [Update { column: 0, op: Op::Add, operand: one }];
        table.update(Keys::I64(&keys), &updates).unwrap();
        let mut seen = 0;
        for group in 0..128 {
            let KeysBuf::I64(scanned) = table.scan(group..group + 1).keys else { panic!() };
            let of_group = |key: &&i64| key_group(hash_u64(**key as u64), 128) == group;
            assert_eq!(scanned.len(), keys.iter().filter(of_group).count(), "group {group}");
            seen += scanned.len();
            let mut bases = vec![false; 128];
            bases[usize::from(group)] = true;
            table.freeze(&bases).unwrap();
            let capture = table.take_capture();
            assert_eq!(capture.base_rows(), scanned.len() as u64, "group {group}");
            table.abort_capture(Some(capture));
        }
        assert_eq!(seen, keys.len());
    }
}
