//! The log against a naive model: producers that retry, skip and die, transactions that are staged,
//! committed, aborted, fenced or too late, retention by age, consumer groups whose members come, go and
//! fall silent, groups that are forgotten, and restarts, in random order.

mod log_support;

use std::collections::{BTreeMap, BTreeSet};

use log_support::*;
use onceflow_core::log::{
    Budget, CommitOffsets, Join, Limits, Log, LogOptions, Membership, OffsetCommit, Partitioning,
    Producer, ProducerOptions, TopicSettings,
};
use onceflow_core::{ErrorKind, Result};
use proptest::prelude::*;

const PARTITIONS: u32 = 2;
const PRODUCERS: usize = 3;
const MEMBERS: usize = 3;
const TIMEOUT_MS: i64 = 200;
const RETENTION_MS: i64 = 400;
const SESSION_MS: i64 = 250;
const GROUP_EXPIRY_MS: i64 = 300;

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
    Join(usize),
    Leave(usize),
    /// A heartbeat, and what it asks for.
    Beat(usize),
    /// A member commits a position of what it owns.
    CommitAs(usize, u64),
    /// So many milliseconds pass.
    Tick(i64),
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
        3 => (0..MEMBERS).prop_map(Op::Join),
        1 => (0..MEMBERS).prop_map(Op::Leave),
        4 => (0..MEMBERS).prop_map(Op::Beat),
        2 => (0..MEMBERS, 0..100_u64).prop_map(|(member, offset)| Op::CommitAs(member, offset)),
        5 => prop_oneof![1..60_i64, 60..300_i64].prop_map(Op::Tick),
        4 => Just(Op::Maintain),
        1 => Just(Op::Crash),
    ];
    prop::collection::vec(op, 1..90)
}

/// What a producer of the model has.
#[derive(Debug, Default, Clone)]
struct Model {
    open: bool,
    fenced: bool,
    started_ms: i64,
    /// Values by partition, in order, and when they were produced.
    records: BTreeMap<u32, Vec<(String, i64)>>,
    /// And when it was given.
    offset: Option<(u64, i64)>,
}

/// A group without members that transactions commit for.
#[derive(Debug, Clone, Copy)]
struct Alone {
    created_ms: i64,
    offset: u64,
    committed_ms: i64,
}

/// A group with members.
#[derive(Debug, Default)]
struct Shared {
    exists: bool,
    /// When each was last heard of.
    members: BTreeMap<usize, i64>,
    /// What each was told last.
    told: BTreeMap<usize, (u64, Vec<(u32, u32)>)>,
    /// When the last one went.
    empty_ms: i64,
    /// And when it was committed.
    offsets: BTreeMap<u32, (u64, i64)>,
}

impl Shared {
    /// Those who were silent for too long are declared dead.
    fn sweep(&mut self, now_ms: i64) {
        let before = self.members.len();
        self.members.retain(|_, last| now_ms - *last <= SESSION_MS);
        if before > 0 && self.members.is_empty() {
            self.empty_ms = now_ms;
        }
    }

    fn forget(&mut self, now_ms: i64) {
        let committed = self.offsets.values().map(|(_, at)| *at);
        let last = committed.chain([self.empty_ms]).max().unwrap();
        if self.members.is_empty() && now_ms - last > GROUP_EXPIRY_MS {
            *self = Self::default();
        }
    }
}

fn limits() -> LogOptions {
    let group_expiry_ms = Some(GROUP_EXPIRY_MS as u64);
    LogOptions { limits: Limits { group_expiry_ms, ..Limits::default() }, ..options() }
}

fn position(partition: u32, offset: u64) -> Vec<OffsetCommit> {
    vec![OffsetCommit { topic: "t".to_owned(), partition, offset, metadata: String::new() }]
}

struct World {
    root: tempfile::TempDir,
    log: Option<Log>,
    producers: BTreeMap<usize, Producer>,
    models: BTreeMap<usize, Model>,
    identity: (i64, i32),
    sequences: BTreeMap<u32, i32>,
    visible: BTreeMap<u32, Vec<(String, i64)>>,
    alone: Option<Alone>,
    shared: Shared,
    now_ms: i64,
    next_value: u64,
}

/// All producers of the model share two transactional ids, so that they fence one another.
fn transactional_id(producer: usize) -> String {
    format!("id-{}", producer % 2)
}

impl World {
    fn new() -> Self {
        let root = scratch();
        let log = Log::open(root.path(), &limits()).unwrap();
        let (partitions, retention_ms) = (PARTITIONS, Some(RETENTION_MS as u64));
        let settings = TopicSettings { partitions, retention_ms, ..TopicSettings::default() };
        log.create_topic("t", &settings).unwrap();
        let identity = log.init_producer(None, 0, None, 0).unwrap();
        Self {
            root,
            log: Some(log),
            producers: BTreeMap::new(),
            models: BTreeMap::new(),
            identity,
            sequences: BTreeMap::new(),
            visible: BTreeMap::new(),
            alone: None,
            shared: Shared::default(),
            now_ms: 0,
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
        let records = strings.values(self.now_ms);
        let write = onceflow_core::log::Write { topic: "t", partition, records, first_sequence };
        Ok(self.log().append(Some(self.identity), &[write], self.now_ms)?[0].1)
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
                let now_ms = self.now_ms;
                let values = values.into_iter().map(|value| (value, now_ms));
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
                    transaction_timeout_ms: TIMEOUT_MS as u64,
                };
                let producer = Producer::new(self.log(), options, self.now_ms).unwrap();
                producer.init_transactions(self.now_ms).unwrap();
                for (other, model) in &mut self.models {
                    model.fenced |= transactional_id(*other) == transactional_id(number);
                }
                self.producers.insert(number, producer);
                self.models.insert(number, Model::default());
            }
            Op::Maintain => {
                while self
                    .log()
                    .maintain(self.now_ms, Budget { batches: 1, entries: 10 })
                    .unwrap()
                    .more
                {}
                let now_ms = self.now_ms;
                for values in self.visible.values_mut() {
                    let is_old = |at: i64| now_ms - at > RETENTION_MS;
                    let stay = values.iter().position(|(_, at)| !is_old(*at));
                    values.drain(..stay.unwrap_or(values.len()));
                }
                let late = |one: &mut Alone| {
                    now_ms - one.created_ms.max(one.committed_ms) > GROUP_EXPIRY_MS
                };
                let _ = self.alone.take_if(late);
                self.shared.sweep(now_ms);
                self.shared.forget(now_ms);
            }
            Op::Tick(ms) => self.now_ms += ms,
            Op::Join(_) | Op::Leave(_) | Op::Beat(_) | Op::CommitAs(..) => self.member(op),
            Op::Crash => {
                self.producers.clear();
                self.models.clear();
                self.log = None;
                self.log = Some(Log::open(self.root.path(), &limits()).unwrap());
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

    /// What a member of the group does.
    fn member(&mut self, op: &Op) {
        let (Op::Join(number) | Op::Leave(number) | Op::Beat(number) | Op::CommitAs(number, _)) =
            *op
        else {
            return;
        };
        let (name, now_ms) = (format!("m{number}"), self.now_ms);
        let log = self.log.as_ref().unwrap();
        let shared = &mut self.shared;
        let is_member = shared.members.contains_key(&number);
        match *op {
            Op::Join(_) => {
                let assigned = log.join_group(&Join {
                    group: "shared".to_owned(),
                    member: name,
                    topics: vec!["t".to_owned()],
                    strategy: onceflow_core::log::Strategy::Sticky,
                    session_timeout_ms: SESSION_MS as u64,
                    rebalance_timeout_ms: 1 << 40,
                    now_ms,
                });
                let assigned = assigned.unwrap();
                shared.sweep(now_ms);
                shared.members.insert(number, now_ms);
                shared.exists = true;
                shared.told.insert(number, (assigned.generation, assigned.partitions));
            }
            Op::Leave(_) => {
                let outcome = log.leave_group("shared", &name, now_ms);
                assert_eq!(outcome.is_ok(), is_member, "{outcome:?}");
                if is_member {
                    shared.members.remove(&number);
                    shared.empty_ms = now_ms;
                }
            }
            Op::Beat(_) => match log.heartbeat("shared", &name, now_ms) {
                Ok(beat) => {
                    assert!(is_member);
                    shared.members.insert(number, now_ms);
                    shared.sweep(now_ms);
                    if beat.rebalance {
                        let generation = shared.told[&number].0;
                        let assigned = log.sync_group("shared", &name, generation, now_ms).unwrap();
                        shared.told.insert(number, (assigned.generation, assigned.partitions));
                    }
                }
                Err(error) => {
                    assert_eq!((error.kind(), is_member), (ErrorKind::UnknownMember, false));
                }
            },
            _ => {
                let Op::CommitAs(_, offset) = *op else { return };
                let Some((generation, owned)) = shared.told.get(&number).cloned() else { return };
                let partition = owned.first().map_or(0, |(_, partition)| *partition);
                let outcome = log.commit_offsets(&CommitOffsets {
                    group: "shared".to_owned(),
                    membership: Some(Membership { member: name, generation }),
                    offsets: position(partition, offset),
                    now_ms,
                });
                match outcome.map_err(|error| error.kind()) {
                    Ok(()) => {
                        assert!(is_member && !owned.is_empty());
                        shared.offsets.insert(partition, (offset, now_ms));
                    }
                    Err(ErrorKind::UnknownMember) => assert!(!is_member),
                    Err(kind) => {
                        assert_eq!(kind, ErrorKind::IllegalGeneration);
                        assert!(is_member && owned.is_empty());
                    }
                }
            }
        }
    }

    fn transact(&mut self, number: usize, model: &mut Model, op: &Op) {
        let values = match op {
            Op::Produce(_, _, records) => self.new_values(*records),
            _ => vec![],
        };
        let now_ms = self.now_ms;
        let producer = &self.producers[&number];
        let outcome = match op {
            Op::Begin(_) => producer.begin_transaction(now_ms),
            Op::Produce(_, partition, _) => {
                let strings = Strings::new(&values);
                let to = Partitioning::One(*partition);
                producer.produce("t", to, &strings.values(now_ms), now_ms).map(|_| ())
            }
            Op::Offsets(_, offset) => producer.send_offsets(CommitOffsets {
                group: "g".to_owned(),
                membership: None,
                offsets: position(0, *offset),
                now_ms,
            }),
            Op::Commit(_) => producer.commit_transaction(now_ms).map(|_| ()),
            _ => producer.abort_transaction(now_ms),
        };
        let is_late = now_ms - model.started_ms > TIMEOUT_MS;
        let allowed = matches!(op, Op::Begin(_)) != model.open;
        match outcome {
            Ok(()) => {
                assert!(allowed, "{op:?}");
                match op {
                    Op::Begin(_) => {
                        model.open = true;
                        model.started_ms = now_ms;
                    }
                    Op::Produce(_, partition, _) => {
                        let values = values.into_iter().map(|value| (value, now_ms));
                        model.records.entry(*partition).or_default().extend(values);
                    }
                    Op::Offsets(_, offset) => model.offset = Some((*offset, now_ms)),
                    Op::Commit(_) => {
                        let empty = model.records.is_empty() && model.offset.is_none();
                        assert!(!model.fenced || empty, "a fenced producer committed");
                        assert!(!is_late || empty, "a transaction was committed too late");
                        for (partition, values) in std::mem::take(&mut model.records) {
                            self.visible.entry(partition).or_default().extend(values);
                        }
                        if let Some((offset, committed_ms)) = model.offset {
                            let created_ms = self.alone.map_or(committed_ms, |one| one.created_ms);
                            self.alone = Some(Alone { created_ms, offset, committed_ms });
                        }
                        *model = Model { fenced: model.fenced, ..Model::default() };
                    }
                    _ => *model = Model { fenced: model.fenced, ..Model::default() },
                }
            }
            Err(error) if error.kind() == ErrorKind::ProducerFenced => {
                assert!(model.fenced, "{op:?}: {error}");
                // It is fenced for good.
                assert_eq!(kind(producer.begin_transaction(now_ms)), ErrorKind::ProducerFenced);
                self.producers.remove(&number);
                *model = Model::default();
            }
            Err(error) if error.kind() == ErrorKind::TransactionTimedOut => {
                assert!(is_late && model.open, "{op:?}: {error}");
                // Only `init_transactions` helps.
                let again = producer.begin_transaction(now_ms);
                assert_eq!(kind(again), ErrorKind::TransactionTimedOut);
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
            let expected = self.visible.get(&partition).into_iter().flatten();
            let expected: Vec<String> = expected.map(|(value, _)| value.clone()).collect();
            assert_eq!(values(self.log(), "t", partition), expected);
            let found = self.log().committed("shared", "t", partition).unwrap();
            let expected = self.shared.offsets.get(&partition);
            assert_eq!(found.map(|found| (found.offset, found.committed_ms)), expected.copied());
        }
        let found = self.log().committed("g", "t", 0).unwrap();
        assert_eq!(found.map(|found| found.offset), self.alone.map(|one| one.offset));
        let groups = self.log().groups().unwrap();
        let group = groups.iter().find(|group| group.group == "shared");
        assert_eq!(group.is_some(), self.shared.exists);
        let members: Vec<_> = group.into_iter().flat_map(|group| &group.members).collect();
        let names: Vec<&str> = members.iter().map(|one| one.member.as_str()).collect();
        let expected: Vec<String> = self.shared.members.keys().map(|n| format!("m{n}")).collect();
        assert_eq!(names, expected);
        let owned: Vec<(u32, u32)> = members.iter().flat_map(|one| one.owned.clone()).collect();
        assert_eq!(owned.iter().collect::<BTreeSet<_>>().len(), owned.len(), "two own one");
    }

    /// When everybody has said that it is alive and taken up what there is, everything has an owner.
    fn settle(&mut self) {
        for number in (0..MEMBERS).chain(0..MEMBERS).chain(0..MEMBERS) {
            self.run(&Op::Beat(number));
            self.check();
        }
        let groups = self.log().groups().unwrap();
        if !self.shared.members.is_empty() {
            let group = groups.iter().find(|group| group.group == "shared").unwrap();
            let owned: usize = group.members.iter().map(|one| one.owned.len()).sum();
            assert_eq!(owned, PARTITIONS as usize);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

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
        world.settle();
    }
}
