//! Power loss with any subset of the unsynced sectors kept: the log is exactly what it was before the
//! call, or exactly what it is after it, and the call repeated makes it the latter, once.
//!
//! LMDB writes the pages of a transaction, syncs them, then writes the meta page. So between the old
//! file and the new one lie all files that have some of the new sectors and the old meta pages; what
//! was acknowledged has the new meta page, and all of the pages before it.

mod log_support;

use std::path::Path;

use log_support::*;
use onceflow_core::log::{
    Budget, CommitOffsets, GroupInfo, Join, Log, OffsetCommit, ProducerInfo, Strategy,
    TopicSettings, TransactionId, Write,
};

const SECTOR: usize = 512;
const PAGE: usize = 4096;
const META_PAGES: usize = 2 * PAGE;

/// The files of a log, as bytes.
#[derive(Clone)]
struct Image {
    data: Vec<u8>,
    manifest: Vec<u8>,
}

impl Image {
    fn of(directory: &Path) -> Self {
        Self {
            data: std::fs::read(directory.join("data/data.mdb")).unwrap(),
            manifest: std::fs::read(directory.join("manifest.json")).unwrap(),
        }
    }

    fn write(&self, directory: &Path) {
        let _ = std::fs::remove_dir_all(directory);
        std::fs::create_dir_all(directory.join("data")).unwrap();
        std::fs::write(directory.join("data/data.mdb"), &self.data).unwrap();
        std::fs::write(directory.join("manifest.json"), &self.manifest).unwrap();
    }

    /// The newest transaction that its meta pages name.
    fn transaction(&self) -> u64 {
        let at = |page: usize| {
            let field = page + 144;
            u64::from_le_bytes(self.data[field..field + 8].try_into().unwrap())
        };
        at(0).max(at(PAGE))
    }
}

/// Everything that a log can be asked for.
#[derive(Debug, Clone, PartialEq)]
struct Content {
    values: Vec<(String, u32, Vec<String>)>,
    producers: Vec<ProducerInfo>,
    groups: Vec<GroupInfo>,
}

impl Content {
    fn read(log: &Log) -> Self {
        let topics = log.topics().unwrap().into_iter();
        let places = topics.flat_map(|topic| {
            (0..topic.settings.partitions).map(move |at| (topic.name.clone(), at))
        });
        Self {
            values: places.map(|(name, at)| (name.clone(), at, values(log, &name, at))).collect(),
            producers: log.producers().unwrap(),
            groups: log.groups().unwrap(),
        }
    }
}

/// A call of one commit.
#[derive(Debug, Clone)]
enum Call {
    /// Of the idempotent producer, with this sequence.
    Append(i32, usize),
    Init(&'static str),
    Stage(i32, usize),
    /// With records of both partitions and the group's position.
    Commit(i32, u64),
    /// Of another producer, that nobody ends.
    StageLate,
    Position(u64),
    Join,
    Maintain(i64),
}

struct World {
    append: (i64, i32),
    transactional: (i64, i32),
    late: (i64, i32),
    round: i64,
}

fn rows(name: &str, count: usize) -> Strings {
    let rows: Vec<String> =
        (0..count).map(|row| format!("{name} {row} {}", "x".repeat(row * 37 % 900))).collect();
    Strings::new(&rows)
}

fn position(group: &str, offset: u64) -> CommitOffsets {
    let offset =
        OffsetCommit { topic: "x".to_owned(), partition: 0, offset, metadata: "here".to_owned() };
    CommitOffsets { group: group.to_owned(), membership: None, offsets: vec![offset], now_ms: 0 }
}

impl World {
    /// Calls, as a client that repeats a call when it has got no answer.
    fn call(&mut self, log: &Log, call: &Call) {
        match *call {
            Call::Append(first_sequence, count) => {
                let strings = rows(&format!("a{first_sequence}"), count);
                let records = strings.values(self.round);
                let write = Write { topic: "a", partition: 0, records, first_sequence };
                log.append(Some(self.append), &[write], 0).unwrap();
            }
            Call::Init(name) => {
                let known = if name == "tx" { self.transactional } else { self.late };
                let expected = (known.0 >= 0).then_some(known);
                let got = log.init_producer(Some(name), 100, expected, self.round).unwrap();
                *(if name == "tx" { &mut self.transactional } else { &mut self.late }) = got;
            }
            Call::Stage(first, count) => {
                let strings = rows(&format!("s{}", self.round), count);
                let records = strings.values(self.round);
                let write = Write { topic: "x", partition: 1, records, first_sequence: 0 };
                log.stage(self.transaction(), first, &[write], self.round).unwrap();
            }
            Call::Commit(first, offset) => {
                let strings = rows(&format!("c{}", self.round), 3);
                let write = |partition| {
                    let records = strings.values(self.round);
                    Write { topic: "x", partition, records, first_sequence: 0 }
                };
                let (writes, offsets) = ([write(0), write(1)], [position("g", offset)]);
                let transaction = self.transaction();
                let ended =
                    log.end_transaction(transaction, true, first, &writes, &offsets, self.round);
                self.transactional.1 = ended.unwrap().epoch;
            }
            Call::StageLate => {
                let (id, epoch) = self.late;
                let started_ms = self.round;
                let transaction = TransactionId { transactional_id: "late", id, epoch, started_ms };
                let strings = rows("never", 4);
                let records = strings.values(0);
                let write = Write { topic: "x", partition: 0, records, first_sequence: 0 };
                log.stage(transaction, 0, &[write], self.round).unwrap();
            }
            Call::Position(offset) => log.commit_offsets(&position("alone", offset)).unwrap(),
            Call::Join => {
                // What is already a member is not asked to join again: each join is a generation.
                let member = format!("m{}", self.round);
                let groups = log.groups().unwrap();
                let members = groups.iter().flat_map(|group| &group.members);
                if !members.map(|one| &one.member).any(|one| *one == member) {
                    let join = Join {
                        group: "shared".to_owned(),
                        member,
                        topics: vec!["x".to_owned()],
                        session_timeout_ms: 1 << 40,
                        rebalance_timeout_ms: 1 << 40,
                        strategy: Strategy::Sticky,
                        now_ms: 0,
                    };
                    log.join_group(&join).unwrap();
                }
            }
            Call::Maintain(now_ms) => {
                log.maintain(now_ms, Budget::default()).unwrap();
            }
        }
    }

    fn transaction(&self) -> TransactionId<'static> {
        let (id, epoch) = self.transactional;
        TransactionId { transactional_id: "tx", id, epoch, started_ms: self.round }
    }
}

#[test]
fn every_subset_of_unsynced_sectors_is_the_log_before_the_call() {
    let root = scratch();
    let (directory, torn) = (root.path().join("log"), root.path().join("torn"));
    let log = open(&directory);
    log.create_topic("a", &TopicSettings::default()).unwrap();
    let bounded =
        TopicSettings { partitions: 2, retention_bytes: Some(12_000), ..TopicSettings::default() };
    log.create_topic("x", &bounded).unwrap();
    let append = log.init_producer(None, 0, None, 0).unwrap();
    let mut world = World { append, transactional: (-1, 0), late: (-1, 0), round: 0 };
    for name in ["tx", "late"] {
        world.call(&log, &Call::Init(name));
    }
    let mut before = (Image::of(&directory), Content::read(&log));
    let mut random = 1_u64;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % bound
    };
    let (mut sequence, mut partial, mut removed) = (0, 0, false);
    for round in 1..7 {
        world.round = round * 1000;
        let mut calls = vec![Call::Init("tx")];
        calls.extend([Call::Append(sequence, 5), Call::Append(sequence + 5, 40)]);
        sequence += 45;
        calls.extend([Call::Stage(0, 20), Call::StageLate, Call::Stage(20, 1)]);
        calls.extend([Call::Position(round as u64), Call::Commit(21, round as u64), Call::Join]);
        // The late one's transaction times out, and what is too much of a partition goes.
        calls.push(Call::Maintain(world.round + 500));
        for call in &calls {
            let known = (world.transactional, world.late);
            world.call(&log, call);
            let after = (Image::of(&directory), Content::read(&log));
            let transactions = after.0.transaction() - before.0.transaction();
            assert_eq!(transactions, 1, "{call:?} is no longer one commit");
            assert!(after.1 != before.1, "{call:?} has done nothing");
            let new = (world.transactional, world.late);
            for case in 0..8 {
                let mut image = before.0.clone();
                // The file grows first, with zeros where nothing was written yet.
                image.data.resize(after.0.data.len(), 0);
                let keep = [1, 2, 4, 16][case % 4];
                let mut changed = 0;
                for at in (META_PAGES..image.data.len()).step_by(SECTOR) {
                    let sector = at..at + SECTOR;
                    if image.data[sector.clone()] != after.0.data[sector.clone()]
                        && (keep == 1 || below(keep) == 0)
                    {
                        image.data[sector.clone()].copy_from_slice(&after.0.data[sector]);
                        changed += 1;
                    }
                }
                partial += usize::from(changed > 0);
                if case == 4 {
                    // Everything but the length.
                    image.data.truncate(before.0.data.len());
                }
                (world.transactional, world.late) = known;
                expect(&torn, &image, &before.1, &mut world, call, &after.1);
                assert_eq!((world.transactional, world.late), new, "{call:?}");
            }
            // Acknowledged: it is there, and the repetition of a client that did not hear of it changes
            // nothing.
            (world.transactional, world.late) = known;
            expect(&torn, &after.0, &after.1, &mut world, call, &after.1);
            assert_eq!((world.transactional, world.late), new, "{call:?}");
            removed |= log.partition("x", 1).unwrap().start > 0;
            before = after;
        }
        // The epoch that came with the timeout; nothing is written.
        world.call(&log, &Call::Init("late"));
    }
    assert!(partial > 400 && removed);
}

/// The image holds exactly `found`, and exactly `after` when the call was made (again).
fn expect(
    torn: &Path,
    image: &Image,
    found: &Content,
    world: &mut World,
    call: &Call,
    after: &Content,
) {
    image.write(torn);
    let log = open(torn);
    assert_eq!(Content::read(&log), *found, "{call:?}");
    world.call(&log, call);
    let is_late = matches!(call, Call::Maintain(_));
    let now = Content::read(&log);
    assert!(now == *after || is_late && now.values == after.values, "{call:?}: {now:?}");
}
