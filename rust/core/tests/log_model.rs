//! The log against a naive model: producers that retry, skip and die, transactions that are staged,
//! committed, aborted or fenced, retention, compaction of nothing, and restarts, in random order.

mod log_support;

use std::collections::BTreeMap;

use log_support::*;
use onceflow_core::log::{
    Budget, CommitOffsets, Log, OffsetCommit, Partitioning, Producer, ProducerOptions,
};
use onceflow_core::{ErrorKind, Result};
use proptest::prelude::*;

const PARTITIONS: u32 = 2;
const PRODUCERS: usize = 3;

/// A step.
#[derive(Debug, Clone)]
enum Op {
    /// An idempotent producer appends so many records, sent `times` times.
    Append {
        partition: u32,
        records: usize,
        times: usize,
    },
    /// It skips a sequence.
    Gap {
        partition: u32,
    },
    Init(usize),
    Begin(usize),
    Produce(usize, u32, usize),
    Offsets(usize, u64),
    Commit(usize),
    Abort(usize),
    Maintain,
    /// Everybody dies; the log is opened again.
    Crash,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let producer = 0..PRODUCERS;
    let partition = 0..PARTITIONS;
    let op = prop_oneof![
        3 => (partition.clone(), 1..5_usize, 1..3_usize).prop_map(|(partition, records, times)| {
            Op::Append { partition, records, times }
        }),
        1 => partition.clone().prop_map(|partition| Op::Gap { partition }),
        2 => producer.clone().prop_map(Op::Init),
        4 => producer.clone().prop_map(Op::Begin),
        8 => (producer.clone(), partition, 1..6_usize)
            .prop_map(|(producer, partition, records)| Op::Produce(producer, partition, records)),
        2 => (producer.clone(), 0..100_u64).prop_map(|(producer, offset)| {
            Op::Offsets(producer, offset)
        }),
        4 => producer.clone().prop_map(Op::Commit),
        2 => producer.prop_map(Op::Abort),
        1 => Just(Op::Maintain),
        1 => Just(Op::Crash),
    ];
    prop::collection::vec(op, 1..60)
}

/// What a producer of the model has.
#[derive(Debug, Default, Clone)]
struct Model {
    open: bool,
    fenced: bool,
    /// Values by partition, in order.
    records: BTreeMap<u32, Vec<String>>,
    offset: Option<u64>,
}

struct World {
    root: tempfile::TempDir,
    log: Option<Log>,
    producers: BTreeMap<usize, Producer>,
    models: BTreeMap<usize, Model>,
    identity: (i64, i32),
    sequences: BTreeMap<u32, i32>,
    visible: BTreeMap<u32, Vec<String>>,
    committed: Option<u64>,
    next_value: u64,
}

/// All producers of the model share two transactional ids, so that they fence one another.
fn transactional_id(producer: usize) -> String {
    format!("id-{}", producer % 2)
}

impl World {
    fn new() -> Self {
        let root = scratch();
        let log = open(root.path());
        topic(&log, "t", PARTITIONS);
        let identity = log.init_producer(None, 0, None, 0).unwrap();
        Self {
            root,
            log: Some(log),
            producers: BTreeMap::new(),
            models: BTreeMap::new(),
            identity,
            sequences: BTreeMap::new(),
            visible: BTreeMap::new(),
            committed: None,
            next_value: 0,
        }
    }

    fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    fn new_values(&mut self, count: usize) -> Vec<String> {
        let first = self.next_value;
        self.next_value += count as u64;
        (first..self.next_value).map(|number| format!("value {number}")).collect()
    }

    fn append(&mut self, partition: u32, values: &[String], first_sequence: i32) -> Result<bool> {
        let strings = Strings::new(values);
        let records = strings.values(0);
        let write = onceflow_core::log::Write { topic: "t", partition, records, first_sequence };
        Ok(self.log().append(Some(self.identity), &[write], 0)?[0].1)
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Append { partition, records, times } => {
                let values = self.new_values(records);
                let first = self.sequences.get(&partition).copied().unwrap_or(0);
                for time in 0..times {
                    assert_eq!(self.append(partition, &values, first).unwrap(), time > 0);
                }
                self.sequences.insert(partition, first + records as i32);
                self.visible.entry(partition).or_default().extend(values);
            }
            Op::Gap { partition } => {
                let next = self.sequences.get(&partition).copied().unwrap_or(0);
                let error = self.append(partition, &["gap".to_owned()], next + 1).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::OutOfOrderSequence);
            }
            Op::Init(number) => {
                let options = ProducerOptions {
                    transactional_id: Some(transactional_id(number)),
                    max_buffered_bytes: 120,
                    ..ProducerOptions::default()
                };
                let producer = Producer::new(self.log(), options, 0).unwrap();
                producer.init_transactions(0).unwrap();
                for (other, model) in &mut self.models {
                    model.fenced |= transactional_id(*other) == transactional_id(number);
                }
                self.producers.insert(number, producer);
                self.models.insert(number, Model::default());
            }
            Op::Maintain => {
                self.log().maintain(0, Budget { batches: 1, entries: 10 }).unwrap();
            }
            Op::Crash => {
                self.producers.clear();
                self.models.clear();
                self.log = None;
                self.log = Some(open(self.root.path()));
            }
            Op::Begin(number)
            | Op::Produce(number, ..)
            | Op::Offsets(number, _)
            | Op::Commit(number)
            | Op::Abort(number) => {
                let Some(mut model) = self.models.get(&number).cloned() else { return };
                self.transact(number, &mut model, op);
                self.models.insert(number, model);
            }
        }
    }

    fn transact(&mut self, number: usize, model: &mut Model, op: &Op) {
        let values = match op {
            Op::Produce(_, _, records) => self.new_values(*records),
            _ => vec![],
        };
        let producer = &self.producers[&number];
        let outcome = match op {
            Op::Begin(_) => producer.begin_transaction(0),
            Op::Produce(_, partition, _) => {
                let strings = Strings::new(&values);
                let to = Partitioning::One(*partition);
                producer.produce("t", to, &strings.values(0), 0).map(|_| ())
            }
            Op::Offsets(_, offset) => producer.send_offsets(CommitOffsets {
                group: "g".to_owned(),
                membership: None,
                offsets: vec![OffsetCommit {
                    topic: "t".to_owned(),
                    partition: 0,
                    offset: *offset,
                    metadata: String::new(),
                }],
                now_ms: 0,
            }),
            Op::Commit(_) => producer.commit_transaction(0).map(|_| ()),
            _ => producer.abort_transaction(0),
        };
        let allowed = matches!(op, Op::Begin(_)) != model.open;
        match outcome {
            Ok(()) => {
                assert!(allowed, "{op:?}");
                match op {
                    Op::Begin(_) => model.open = true,
                    Op::Produce(_, partition, _) => {
                        model.records.entry(*partition).or_default().extend(values);
                    }
                    Op::Offsets(_, offset) => model.offset = Some(*offset),
                    Op::Commit(_) => {
                        let empty = model.records.is_empty() && model.offset.is_none();
                        assert!(!model.fenced || empty, "a fenced producer committed");
                        for (partition, values) in std::mem::take(&mut model.records) {
                            self.visible.entry(partition).or_default().extend(values);
                        }
                        self.committed = model.offset.or(self.committed);
                        *model = Model { fenced: model.fenced, ..Model::default() };
                    }
                    _ => *model = Model { fenced: model.fenced, ..Model::default() },
                }
            }
            Err(error) if error.kind() == ErrorKind::ProducerFenced => {
                assert!(model.fenced, "{op:?}: {error}");
                // It is fenced for good.
                assert_eq!(kind(producer.begin_transaction(0)), ErrorKind::ProducerFenced);
                self.producers.remove(&number);
                *model = Model::default();
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidTransactionState, "{error}");
                assert!(!allowed, "{op:?}: {error}");
            }
        }
    }

    fn check(&self) {
        for partition in 0..PARTITIONS {
            let expected = self.visible.get(&partition).cloned().unwrap_or_default();
            assert_eq!(values(self.log(), "t", partition), expected);
        }
        let found = self.log().committed("g", "t", 0).unwrap();
        assert_eq!(found.map(|found| found.offset), self.committed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_what_the_model_is(ops in ops()) {
        let mut world = World::new();
        for op in &ops {
            let gone = match op {
                Op::Begin(n) | Op::Produce(n, ..) | Op::Offsets(n, _) | Op::Commit(n)
                | Op::Abort(n) => !world.producers.contains_key(n),
                _ => false,
            };
            if !gone {
                world.run(op);
                world.check();
            }
        }
    }
}
