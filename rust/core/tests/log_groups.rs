//! Consumer groups: partitions are shared, never owned twice, and taken from whoever is dead.

mod log_support;

use std::collections::BTreeMap;

use log_support::*;
use onceflow_core::ErrorKind;
use onceflow_core::log::{
    Budget, CommitOffsets, Join, Limits, Log, LogOptions, Membership, OffsetCommit, Strategy,
};

fn join(member: &str, topics: &[&str], strategy: Strategy, now_ms: i64) -> Join {
    Join {
        group: "g".to_owned(),
        member: member.to_owned(),
        topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        strategy,
        session_timeout_ms: 1000,
        rebalance_timeout_ms: 500,
        now_ms,
    }
}

fn offset(topic: &str, partition: u32, offset: u64) -> OffsetCommit {
    OffsetCommit { topic: topic.to_owned(), partition, offset, metadata: String::new() }
}

fn commit(member: Option<(&str, u64)>, offsets: Vec<OffsetCommit>) -> CommitOffsets {
    let membership =
        member.map(|(member, generation)| Membership { member: member.to_owned(), generation });
    CommitOffsets { group: "g".to_owned(), membership, offsets, now_ms: 0 }
}

/// A member as a consumer keeps it.
struct Member<'l> {
    log: &'l Log,
    name: String,
    generation: u64,
    owned: Vec<(u32, u32)>,
}

impl<'l> Member<'l> {
    fn join(log: &'l Log, name: &str, topics: &[&str], strategy: Strategy, now_ms: i64) -> Self {
        let assigned = log.join_group(&join(name, topics, strategy, now_ms)).unwrap();
        let (generation, owned) = (assigned.generation, assigned.partitions);
        Self { log, name: name.to_owned(), generation, owned }
    }

    /// What a poll does; true if something changed.
    fn poll(&mut self, now_ms: i64) -> bool {
        let beat = self.log.heartbeat("g", &self.name, now_ms).unwrap();
        if beat.rebalance {
            let assigned = self.log.sync_group("g", &self.name, self.generation, now_ms).unwrap();
            (self.generation, self.owned) = (assigned.generation, assigned.partitions);
        }
        beat.rebalance
    }
}

/// Polls until nobody changes any more; nobody ever owns what another one owns.
fn settle(members: &mut [Member<'_>], now_ms: i64) -> BTreeMap<String, Vec<(u32, u32)>> {
    for _ in 0..10 {
        let mut changed = false;
        for at in 0..members.len() {
            changed |= members[at].poll(now_ms);
            let mut all: Vec<(u32, u32)> =
                members.iter().flat_map(|member| member.owned.clone()).collect();
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), count, "a partition has two owners");
        }
        if !changed {
            return members.iter().map(|one| (one.name.clone(), one.owned.clone())).collect();
        }
    }
    panic!("the group does not settle");
}

#[test]
fn partitions_are_shared_evenly_and_mostly_kept() {
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 6);
    let mut members = vec![Member::join(&log, "a", &["t"], Strategy::Sticky, 0)];
    assert_eq!(settle(&mut members, 0)["a"].len(), 6);
    members.push(Member::join(&log, "b", &["t"], Strategy::Sticky, 0));
    assert!(members[1].owned.is_empty(), "its partitions are still another one's");
    let two = settle(&mut members, 0);
    assert_eq!((two["a"].len(), two["b"].len()), (3, 3));
    members.push(Member::join(&log, "c", &["t"], Strategy::Sticky, 0));
    let three = settle(&mut members, 0);
    for name in ["a", "b"] {
        assert_eq!(three[name].len(), 2);
        assert!(three[name].iter().all(|place| two[name].contains(place)), "{name} was moved");
    }
    log.leave_group("g", "b", 0).unwrap();
    members.remove(1);
    let left = settle(&mut members, 0);
    assert_eq!((left["a"].len(), left["c"].len()), (3, 3));
    // New partitions, and topics that come later.
    log.alter_topic(
        "t",
        &onceflow_core::log::TopicSettings { partitions: 8, ..Default::default() },
    )
    .unwrap();
    let more = settle(&mut members, 0);
    assert_eq!((more["a"].len(), more["c"].len()), (4, 4));
}

#[test]
fn strategies_share_as_they_say() {
    for (strategy, expected) in [
        (Strategy::Range, [vec![(1, 0), (1, 1), (2, 0), (2, 1)], vec![(1, 2), (2, 2)]]),
        (Strategy::RoundRobin, [vec![(1, 0), (1, 2), (2, 1)], vec![(1, 1), (2, 0), (2, 2)]]),
    ] {
        let root = scratch();
        let log = open(root.path());
        topic(&log, "t", 3);
        topic(&log, "u", 3);
        let mut members = vec![Member::join(&log, "a", &["t", "u"], strategy, 0)];
        members.push(Member::join(&log, "b", &["t", "u"], strategy, 0));
        let shares = settle(&mut members, 0);
        assert_eq!([shares["a"].clone(), shares["b"].clone()], expected, "{strategy:?}");
    }
    // Each member gets only what it subscribes to.
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 2);
    topic(&log, "u", 4);
    let mut members = vec![Member::join(&log, "a", &["t", "later"], Strategy::Sticky, 0)];
    members.push(Member::join(&log, "b", &["u"], Strategy::Sticky, 0));
    let shares = settle(&mut members, 0);
    assert_eq!(shares["a"], [(1, 0), (1, 1)]);
    assert_eq!(shares["b"].len(), 4);
    topic(&log, "later", 1);
    assert_eq!(settle(&mut members, 0)["a"].len(), 3);
}

#[test]
fn a_member_that_is_dead_is_fenced() {
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 2);
    let dead = Member::join(&log, "dead", &["t"], Strategy::Sticky, 0);
    let mut live = vec![Member::join(&log, "live", &["t"], Strategy::Sticky, 400)];
    log.commit_offsets(&commit(Some(("dead", dead.generation)), vec![offset("t", 0, 1)])).unwrap();
    // Not yet dead: it has until its rebalance deadline, and until its session ends.
    assert!(!live[0].poll(900));
    assert!(settle(&mut live, 1001)["live"].len() == 2);
    let late = commit(Some(("dead", dead.generation)), vec![offset("t", 0, 2)]);
    assert_eq!(kind(log.commit_offsets(&late)), ErrorKind::UnknownMember);
    assert_eq!(kind(log.heartbeat("g", "dead", 1001)), ErrorKind::UnknownMember);
    assert_eq!(kind(log.sync_group("g", "dead", 1, 1001)), ErrorKind::UnknownMember);
    // The same inside a transaction: nothing of it shows.
    let producer = transactional(&log, "x");
    producer.init_transactions(0).unwrap();
    producer.begin_transaction(0).unwrap();
    produce(&producer, "t", 0, &["zombie"], 0).unwrap();
    producer.send_offsets(late).unwrap();
    assert_eq!(kind(producer.commit_transaction(0)), ErrorKind::UnknownMember);
    assert_eq!(kind(producer.commit_transaction(0)), ErrorKind::InvalidTransactionState);
    producer.abort_transaction(0).unwrap();
    assert!(values(&log, "t", 0).is_empty());
    assert_eq!(log.committed("g", "t", 0).unwrap().unwrap().offset, 1);
    // It comes back as a new one.
    let again = Member::join(&log, "dead", &["t"], Strategy::Sticky, 1100);
    live.push(again);
    let shares = settle(&mut live, 1100);
    assert_eq!((shares["dead"].len(), shares["live"].len()), (1, 1));
}

#[test]
fn offsets_are_committed_by_their_owners_only() {
    let root = scratch();
    let log = open(root.path());
    topic(&log, "t", 2);
    log.commit_offsets(&commit(None, vec![offset("t", 0, 5), offset("t", 1, 6)])).unwrap();
    let mut members = vec![Member::join(&log, "a", &["t"], Strategy::Sticky, 0)];
    let outside = log.commit_offsets(&commit(None, vec![offset("t", 0, 7)]));
    assert_eq!(kind(outside), ErrorKind::UnknownMember);
    members.push(Member::join(&log, "b", &["t"], Strategy::Sticky, 0));
    // Before it has let go, it may still commit what it has read, in its own generation.
    let old = members[0].generation;
    log.commit_offsets(&commit(Some(("a", old)), vec![offset("t", 1, 8)])).unwrap();
    let shares = settle(&mut members, 0);
    let (mine, theirs) = (shares["a"][0].1, shares["b"][0].1);
    let generation = members[0].generation;
    let stale = log.commit_offsets(&commit(Some(("a", old)), vec![offset("t", mine, 9)]));
    assert_eq!(kind(stale), ErrorKind::IllegalGeneration);
    let other = commit(Some(("a", generation)), vec![offset("t", mine, 9), offset("t", theirs, 9)]);
    assert_eq!(kind(log.commit_offsets(&other)), ErrorKind::IllegalGeneration);
    log.commit_offsets(&commit(Some(("a", generation)), vec![offset("t", mine, 10)])).unwrap();
    assert_eq!(log.committed("g", "t", mine).unwrap().unwrap().offset, 10);

    assert_eq!(kind(log.delete_group("g")), ErrorKind::InvalidArgument);
    let info = log.groups().unwrap();
    assert_eq!((info[0].members.len(), info[0].offsets.len()), (2, 2));
    log.leave_group("g", "a", 0).unwrap();
    log.leave_group("g", "b", 0).unwrap();
    log.delete_group("g").unwrap();
    assert_eq!(log.committed("g", "t", 0).unwrap(), None);
    assert!(log.groups().unwrap().is_empty());
}

fn groups(log: &Log) -> Vec<String> {
    log.groups().unwrap().into_iter().map(|group| group.group).collect()
}

/// Upkeep in the smallest slices, until it has been everywhere.
fn maintain(log: &Log, now_ms: i64) -> u64 {
    let slice = || log.maintain(now_ms, Budget { batches: 10, entries: 1 }).unwrap().forgotten;
    (0..10).map(|_| slice()).sum()
}

#[test]
fn groups_that_were_idle_for_long_are_forgotten_as_a_whole() {
    let root = scratch();
    let limits = Limits {
        group_expiry_ms: Some(10_000),
        producer_expiry_ms: None,
        transactional_id_expiry_ms: None,
        ..Limits::default()
    };
    let log = Log::open(root.path(), &LogOptions { limits, ..options() }).unwrap();
    topic(&log, "t", 2);
    let at = |group: &str, offsets: Vec<OffsetCommit>, now_ms: i64| {
        let membership = None;
        let commit = CommitOffsets { group: group.to_owned(), membership, offsets, now_ms };
        log.commit_offsets(&commit).unwrap();
    };
    // A prefix of another one's name.
    at("idle", vec![offset("t", 0, 1), offset("t", 1, 1)], 0);
    at("idle-not", vec![offset("t", 0, 2), offset("t", 1, 2)], 0);
    at("idle-not", vec![offset("t", 0, 3)], 5000);
    // A sink's marker.
    at("onceflow/job/out", vec![offset("t", 0, 9)], 0);
    let assigned = log.join_group(&join("m", &["t"], Strategy::Sticky, 0)).unwrap();
    log.commit_offsets(&commit(Some(("m", assigned.generation)), vec![offset("t", 0, 4)])).unwrap();

    assert_eq!(maintain(&log, 10_000), 0, "exactly so long is not longer");
    // Its member was declared dead then: heartbeats had stopped.
    assert_eq!(log.groups().unwrap()[0].members, []);
    assert_eq!(maintain(&log, 10_001), 1);
    assert_eq!(groups(&log), ["g", "idle-not", "onceflow/job/out"]);
    assert_eq!(log.committed("idle", "t", 0).unwrap(), None);
    // All of it stays as long as some of it moves.
    assert_eq!(log.committed("idle-not", "t", 1).unwrap().unwrap().offset, 2);
    assert_eq!(maintain(&log, 15_000), 0);
    assert_eq!(maintain(&log, 15_001), 1);
    // Counted from when it was empty, not from the last commit.
    assert_eq!(maintain(&log, 20_000), 0);
    assert_eq!(log.committed("g", "t", 0).unwrap().unwrap().offset, 4);
    assert_eq!(maintain(&log, 20_001), 1);
    assert_eq!(log.committed("g", "t", 0).unwrap(), None);
    assert_eq!(maintain(&log, i64::MAX), 0);
    assert_eq!(groups(&log), ["onceflow/job/out"]);
}

#[test]
fn a_group_with_a_live_member_is_never_forgotten() {
    let root = scratch();
    let limits = Limits { group_expiry_ms: Some(100), ..Limits::default() };
    let log = Log::open(root.path(), &LogOptions { limits, ..options() }).unwrap();
    topic(&log, "t", 1);
    let member = Member::join(&log, "m", &["t"], Strategy::Sticky, 0);
    let mine = commit(Some(("m", member.generation)), vec![offset("t", 0, 4)]);
    log.commit_offsets(&mine).unwrap();
    for now_ms in (0..10_000).step_by(500) {
        log.heartbeat("g", "m", now_ms).unwrap();
        assert_eq!(maintain(&log, now_ms + 400), 0);
    }
    assert_eq!(log.committed("g", "t", 0).unwrap().unwrap().offset, 4);
    log.leave_group("g", "m", 10_000).unwrap();
    assert_eq!(maintain(&log, 10_100), 0);
    assert_eq!(maintain(&log, 10_101), 1);
}

#[test]
fn a_group_is_kept_for_ever_if_asked() {
    let root = scratch();
    let limits = Limits { group_expiry_ms: None, ..Limits::default() };
    let log = Log::open(root.path(), &LogOptions { limits, ..options() }).unwrap();
    topic(&log, "t", 1);
    log.commit_offsets(&commit(None, vec![offset("t", 0, 5)])).unwrap();
    assert_eq!(maintain(&log, i64::MAX), 0);
    assert_eq!(groups(&log), ["g"]);
}
