//! The embedded log: topics of partitions, idempotent and transactional producers, committed reads.
//!
//! Several processes open one directory; there is no daemon. What is promised:
//!
//! - What was acknowledged is durable. Producers of one process, and processes that wait for one
//!   another, share the sync (see `commit`, `inbox`).
//! - A producer's retry is recognised by its sequences (`crate::sequence`) and written once.
//! - A transaction's records, over any partitions, and a group's offsets with them, become visible
//!   at once, when its end is durable; from an aborted or abandoned one nothing is left. Offsets are
//!   given out at the end, so an open transaction holds back nobody, and there is nothing but
//!   committed records to read.
//! - After a newer epoch of a producer, or a newer generation of a group, is durable, nothing of an
//!   older one becomes visible, however long it was paused (`ProducerFenced`, `UnknownMember`).
//! - Damage is a typed error: every value carries a checksum that is bound to its key.
//!
//! Not promised: network file systems, a disk that lies about syncs. Time is an argument, by the
//! log's own clock, which nobody sets (see `clock`): the wall clock only gives records their
//! timestamps.

mod append;
mod batch;
mod blob;
mod clock;
mod commit;
mod compact;
mod fetch;
mod gate;
mod groups;
mod heartbeat;
mod inbox;
mod layout;
mod maintain;
mod open;
mod partition;
mod producer;
mod records;
mod request;
mod times;
mod topics;
mod transactions;
mod view;
mod wake;
mod window;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub use batch::MAX_RECORD_BYTES;
pub use clock::{Now, Reading};
pub use fetch::FetchLimits;
pub use groups::{Assigned, Strategy};
pub use layout::{CleanupPolicy, Committed, Outcome, Placed, TopicSettings};
pub use maintain::{Budget, Maintained};
pub use partition::{Partitioning, partition_of};
pub use producer::{Producer, ProducerOptions, ProducerPhase};
pub use records::{ByteColumn, ByteColumnBuf, Fetched, Records, Timestamps};
pub use request::{CommitOffsets, Ended, Join, Membership, OffsetCommit};

use crate::environment::lmdb::{Environment, Read};
use crate::environment::manifest::Manifest;
use crate::environment::{StoreSize, creation, usable};
use crate::{Error, ErrorKind, Result};
use batch::Rows;
use gate::Gate;
use heartbeat::Heartbeats;
use inbox::Inboxes;
use layout::{Group, HEAD_KEY, Table, Topic};
use request::{Answer, Append, Encoded, End, InitProducer, Part, Request, Stage, Sync};
use view::View;
use wake::Wake;

/// How long to wait for a wake-up that may not come (its sender was killed) before looking again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Bytes of records in one call.
const MAX_CALL_BYTES: usize = 256 << 20;

/// Bounds that every process of a log should give alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// A producer that was silent for so long in a partition counts as unknown there.
    pub producer_expiry_ms: Option<u64>,
    /// A transactional id that nobody has used for so long is forgotten.
    pub transactional_id_expiry_ms: Option<u64>,
    /// A group without members that has committed nothing for so long is forgotten, and with it its
    /// offsets.
    pub group_expiry_ms: Option<u64>,
    /// Transactional ids, and producers of each partition, remembered at most.
    pub max_producers: u64,
    /// Bytes of one transaction.
    pub max_transaction_bytes: u64,
    /// Longest timeout that a producer may ask for.
    pub max_transaction_timeout_ms: u64,
    /// After it a producer gets a new id (rule S34).
    pub max_producer_epoch: i32,
}

impl Default for Limits {
    /// One day, seven days, seven days, 100,000 producers, 64 GiB, one hour, all epochs.
    fn default() -> Self {
        Self {
            producer_expiry_ms: Some(24 * 3600 * 1000),
            transactional_id_expiry_ms: Some(7 * 24 * 3600 * 1000),
            group_expiry_ms: Some(7 * 24 * 3600 * 1000),
            max_producers: 100_000,
            max_transaction_bytes: 64 << 30,
            max_transaction_timeout_ms: 3600 * 1000,
            max_producer_epoch: i32::MAX - 1,
        }
    }
}

/// How to open a log.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Create the log if the directory is missing or empty.
    pub create: bool,
    /// Only read.
    pub read_only: bool,
    /// Address space reserved for the file (sparse), in bytes. The same in every process.
    pub map_size_bytes: usize,
    /// How long to wait while another process commits.
    pub commit_timeout: Duration,
    /// Random identity for a log that is created now.
    pub store_id: u128,
    /// Bounds.
    pub limits: Limits,
}

impl Default for LogOptions {
    /// Created if missing, 256 GiB of address space, 10 s.
    fn default() -> Self {
        Self {
            create: true,
            read_only: false,
            map_size_bytes: 256 << 30,
            commit_timeout: Duration::from_secs(10),
            store_id: 0,
            limits: Limits::default(),
        }
    }
}

/// A log; clones are handles of the same one, which is closed with the last of them.
#[derive(Debug, Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

/// What all handles of a process share.
#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    manifest: Manifest,
    options: LogOptions,
    map_size_bytes: usize,
    /// The process that opened it.
    pid: u32,
    /// `None` only while it is being closed.
    environment: Option<Arc<Environment>>,
    /// `None` for a reader.
    gate: Option<Gate>,
    committer: commit::Committer,
    wake: Wake,
    clock: clock::Clock,
    heartbeats: Heartbeats,
    inboxes: Inboxes,
    times: times::TimeIndex,
    /// Where the walk of `maintain` goes on.
    cursor: Mutex<maintain::Cursor>,
    compaction: Mutex<Option<compact::Compaction>>,
}

/// A topic, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TopicInfo {
    pub name: String,
    pub number: u32,
    pub settings: TopicSettings,
}

/// A partition, as it is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PartitionInfo {
    /// The first offset that can be read.
    pub start: u64,
    /// The offset that the next record gets.
    pub end: u64,
    pub records: u64,
    pub batches: u64,
    pub bytes: u64,
    pub max_timestamp_ms: Option<i64>,
}

/// A transactional producer, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ProducerInfo {
    pub transactional_id: String,
    pub id: i64,
    pub epoch: i32,
    pub timeout_ms: u64,
    pub updated_ms: i64,
    /// Of the transaction under way, if some of it is staged: when it began, and its bytes.
    pub staged: Option<(i64, u64)>,
    /// How the one before ended.
    pub ended: Option<Outcome>,
}

/// A consumer group, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct GroupInfo {
    pub group: String,
    pub generation: u64,
    pub strategy: Strategy,
    pub members: Vec<MemberInfo>,
    /// Topic, partition, and what was committed.
    pub offsets: Vec<(String, u32, Committed)>,
}

/// A member of a group, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct MemberInfo {
    pub member: String,
    pub topics: Vec<String>,
    pub generation: u64,
    pub owned: Vec<(u32, u32)>,
    pub last_heartbeat_ms: i64,
    pub session_timeout_ms: u64,
}

/// What a heartbeat tells a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Heartbeat {
    /// The group's newest generation.
    pub generation: u64,
    /// Stop reading what is not in `Log::target`, commit, and call `Log::sync_group`.
    pub rebalance: bool,
}

/// Records for one partition, with the sequence of the first.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Write<'a> {
    pub topic: &'a str,
    pub partition: u32,
    pub records: Records<'a>,
    /// Outside of transactions, of a producer with an id: counted within the partition.
    pub first_sequence: i32,
}

/// A transaction, as its producer names it.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct TransactionId<'a> {
    pub transactional_id: &'a str,
    pub id: i64,
    pub epoch: i32,
    pub started_ms: i64,
}

impl Log {
    /// Opens (or, if asked, creates) the log of `directory`. In one process all handles of a
    /// directory are the same log, with the options of the first.
    ///
    /// # Errors
    /// `StoreMissing`, `StoreFormat`, `StoreMismatch` (a job's state), `StoreCorrupt`,
    /// `StoreLocked`, `StoreReadOnly`, `StoreNetworkFilesystem`, `StoreFull`, `Io`.
    pub fn open(directory: &Path, options: &LogOptions) -> Result<Self> {
        Ok(Self { shared: open::open(directory, options)? })
    }

    /// Where the log lies.
    pub fn path(&self) -> &Path {
        &self.shared.directory
    }

    /// Its identity, made with it: 32 hex digits. Copies have the same.
    pub fn id(&self) -> &str {
        &self.shared.manifest.store_id
    }

    /// How it was opened.
    pub fn options(&self) -> &LogOptions {
        &self.shared.options
    }

    // ---- topics --------------------------------------------------------------------------

    /// A new topic. `TopicExists`, `InvalidArgument`.
    pub fn create_topic(&self, name: &str, settings: &TopicSettings) -> Result<()> {
        let (name, settings) = (name.to_owned(), settings.clone());
        self.submit(Request::CreateTopic { name, settings }).map(|_| ())
    }

    /// Other settings; partitions can be added. `UnknownTopicOrPartition`, `InvalidArgument`.
    pub fn alter_topic(&self, name: &str, settings: &TopicSettings) -> Result<()> {
        let (name, settings) = (name.to_owned(), settings.clone());
        self.submit(Request::AlterTopic { name, settings }).map(|_| ())
    }

    /// Removes a topic; its space is freed by `maintain`. A topic of the same name is a new one.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        self.submit(Request::DeleteTopic { name: name.to_owned() }).map(|_| ())
    }

    /// All topics, by name.
    pub fn topics(&self) -> Result<Vec<TopicInfo>> {
        let view = self.read()?;
        let mut topics = Vec::new();
        for entry in plain(view.scan(Table::Topics, &[], &[]))? {
            let (key, payload) = plain(entry)?;
            let topic: Topic = plain(view::decode(Table::Topics, key, payload))?;
            let name = String::from_utf8_lossy(key).into_owned();
            topics.push(TopicInfo { name, number: topic.number, settings: topic.settings });
        }
        Ok(topics)
    }

    /// One topic. `UnknownTopicOrPartition`.
    pub fn topic(&self, name: &str) -> Result<TopicInfo> {
        let topic = plain(self.read()?.topic(name))?;
        let (number, settings) = (topic.number, topic.settings);
        Ok(TopicInfo { name: name.to_owned(), number, settings })
    }

    /// Where a partition begins and ends, and what it holds.
    pub fn partition(&self, name: &str, partition: u32) -> Result<PartitionInfo> {
        let view = self.read()?;
        let number = place(&view, name, partition)?;
        let head = plain(view.partition(number, partition))?;
        Ok(PartitionInfo {
            start: head.start,
            end: head.end,
            records: head.records,
            batches: head.batches,
            bytes: head.bytes,
            max_timestamp_ms: head.max_timestamp_ms,
        })
    }

    // ---- reading -------------------------------------------------------------------------

    /// Records of a partition from `offset` on; none at its end.
    ///
    /// # Errors
    /// `UnknownTopicOrPartition`, `OffsetOutOfRange`, `StoreCorrupt`.
    pub fn fetch(
        &self,
        name: &str,
        partition: u32,
        offset: u64,
        limits: FetchLimits,
    ) -> Result<Fetched> {
        let view = self.read()?;
        let number = place(&view, name, partition)?;
        plain(fetch::fetch(&view, name, (number, partition), offset, limits))
    }

    /// The first offset whose record is not older than this; `None` if all are older.
    pub fn offset_for_timestamp(
        &self,
        name: &str,
        partition: u32,
        timestamp_ms: i64,
    ) -> Result<Option<u64>> {
        let view = self.read()?;
        let number = place(&view, name, partition)?;
        plain(self.shared.times.search(&view, (number, partition), timestamp_ms))
    }

    /// Waits until one of these partitions (topic, partition, offset) has a record at or behind its
    /// offset; false if `timeout` came first. Commits of other processes wake it too.
    pub fn wait(&self, positions: &[(String, u32, u64)], timeout: Duration) -> Result<bool> {
        let deadline = wake::deadline(timeout);
        loop {
            let seen = self.shared.wake.commits()?;
            let view = self.read()?;
            for (name, partition, offset) in positions {
                let number = place(&view, name, *partition)?;
                if plain(view.partition(number, *partition))?.end > *offset {
                    return Ok(true);
                }
            }
            drop(view);
            if !self.shared.wake.wait(seen, deadline) {
                return Ok(false);
            }
        }
    }

    // ---- producing (see `Producer` for the client's side) ------------------------------------

    /// An id and epoch. With a transactional id: the next epoch, which fences all older ones and
    /// aborts what they left open; `expected` is what the producer believes to have, so that a
    /// retry is recognised and a zombie refused (`ProducerFenced`).
    pub fn init_producer(
        &self,
        transactional_id: Option<&str>,
        timeout_ms: u64,
        expected: Option<(i64, i32)>,
        now_ms: i64,
    ) -> Result<(i64, i32)> {
        let transactional_id = transactional_id.map(str::to_owned);
        let request = InitProducer { transactional_id, timeout_ms, expected, now_ms };
        let answer = self.submit(Request::InitProducer(request))?;
        crate::crash_point!("producer.epoch.pre_reply");
        match answer {
            Answer::Producer { id, epoch } => Ok((id, epoch)),
            other => Err(unexpected(&other)),
        }
    }

    /// Appends records outside of a transaction, all or none; says where they are, and of each
    /// whether it was there already.
    ///
    /// # Errors
    /// `UnknownTopicOrPartition`, `RecordTooLarge`, `OutOfOrderSequence`, `ProducerFenced`,
    /// `InvalidTransactionState` (the producer is in a transaction), `CapacityExceeded`, `StoreFull`,
    /// `LogTimeout`.
    pub fn append(
        &self,
        producer: Option<(i64, i32)>,
        writes: &[Write<'_>],
        now: impl Into<Now>,
    ) -> Result<Vec<(Placed, bool)>> {
        let now = now.into();
        let parts = self.encode(writes, now)?;
        let request = Append { producer, parts, now_ms: now.log_ms };
        let placed = self.submit_append(Arc::new(Request::Append(request)))?;
        crate::crash_point!("log.append.post_ack");
        Ok(placed)
    }

    fn submit_append(&self, request: Arc<Request>) -> Result<Vec<(Placed, bool)>> {
        match self.shared.submit(request)? {
            Answer::Appended(placed) => Ok(placed),
            other => Err(unexpected(&other)),
        }
    }

    /// Stages records of a transaction: durable, but nobody sees them before its end.
    /// `first_sequence` counts from 0 over all records of the transaction.
    ///
    /// # Errors
    /// As `append`, and `TransactionTimedOut`.
    pub fn stage(
        &self,
        transaction: TransactionId<'_>,
        first_sequence: i32,
        writes: &[Write<'_>],
        now: impl Into<Now>,
    ) -> Result<()> {
        let now = now.into();
        let parts = self.encode(writes, now)?;
        let now_ms = now.log_ms;
        let TransactionId { transactional_id, id, epoch, started_ms } = transaction;
        let transactional_id = transactional_id.to_owned();
        let stage =
            Stage { transactional_id, id, epoch, started_ms, first_sequence, parts, now_ms };
        self.submit_stage(Arc::new(Request::Stage(stage)))
    }

    fn submit_stage(&self, request: Arc<Request>) -> Result<()> {
        let answer = self.shared.submit(request)?;
        crate::crash_point!("txn.begin.post");
        match answer {
            Answer::Staged => Ok(()),
            Answer::Ended(_) => Err(transactions::timed_out()),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends a transaction: with its last records and the offsets of groups (`commit`), or without a
    /// trace. `first_sequence` goes on from what was staged.
    ///
    /// # Errors
    /// As `stage`, and those of `commit_offsets`. `InvalidTransactionState` if it has ended the other
    /// way. Nothing has happened then, except after `TransactionTimedOut`: it is aborted.
    pub fn end_transaction(
        &self,
        transaction: TransactionId<'_>,
        commit: bool,
        first_sequence: i32,
        writes: &[Write<'_>],
        offsets: &[CommitOffsets],
        now: impl Into<Now>,
    ) -> Result<Ended> {
        let now = now.into();
        let parts = self.encode(writes, now)?;
        let now_ms = now.log_ms;
        let TransactionId { transactional_id, id, epoch, started_ms } = transaction;
        let end = End {
            transactional_id: transactional_id.to_owned(),
            id,
            epoch,
            started_ms,
            commit,
            first_sequence,
            parts,
            offsets: offsets.to_vec(),
            now_ms,
        };
        self.submit_end(Arc::new(Request::End(end)))
    }

    fn submit_end(&self, request: Arc<Request>) -> Result<Ended> {
        let asked_commit = matches!(&*request, Request::End(End { commit: true, .. }));
        let answer = self.shared.submit(request)?;
        crate::crash_point!("txn.end.pre_reply");
        match answer {
            Answer::Ended(ended) => {
                if ended.outcome != Outcome::Committed {
                    self.discard()?;
                }
                if asked_commit && ended.outcome == Outcome::TimedOut {
                    return Err(transactions::timed_out());
                }
                Ok(ended)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Deletes what aborted transactions have staged, slice by slice.
    fn discard(&self) -> Result<()> {
        loop {
            let view = self.read()?;
            let nothing = plain(view.stored_from(Table::Garbage, &[]))?.next().is_none();
            drop(view);
            if nothing {
                return Ok(());
            }
            self.submit(Request::Discard { batches: Budget::default().batches })?;
        }
    }

    /// Encodes records for their partitions.
    fn encode(&self, writes: &[Write<'_>], now: Now) -> Result<Vec<Part>> {
        let view = self.read()?;
        let mut topics: Vec<(&str, Topic)> = Vec::new();
        for write in writes {
            if !topics.iter().any(|(name, _)| *name == write.topic) {
                topics.push((write.topic, plain(view.topic(write.topic))?));
            }
        }
        drop(view);
        let (mut parts, mut bytes) = (Vec::with_capacity(writes.len()), 0);
        for write in writes {
            let topic = topics.iter().find(|(name, _)| *name == write.topic);
            let (_, topic) = topic.ok_or_else(|| view::unknown_topic(write.topic))?;
            let rows = Rows::Range(0, write.records.len());
            let part = encode_part(topic, write, rows, now)?;
            check_call(&mut bytes, &part)?;
            parts.push(part);
        }
        Ok(parts)
    }

    /// The transactional producers.
    pub fn producers(&self) -> Result<Vec<ProducerInfo>> {
        let view = self.read()?;
        let mut producers = Vec::new();
        for entry in plain(view.scan(Table::Producers, &[], &[]))? {
            let (key, payload) = plain(entry)?;
            let found: layout::Producer = plain(view::decode(Table::Producers, key, payload))?;
            producers.push(ProducerInfo {
                transactional_id: String::from_utf8_lossy(key).into_owned(),
                id: found.id,
                epoch: found.epoch,
                timeout_ms: found.timeout_ms,
                updated_ms: found.updated_ms,
                staged: found.open.map(|open| (open.started_ms, open.bytes)),
                ended: found.ended.map(|(outcome, _)| outcome),
            });
        }
        Ok(producers)
    }

    // ---- consumer groups -------------------------------------------------------------------

    /// Commits offsets of a group.
    ///
    /// # Errors
    /// `UnknownMember`, `IllegalGeneration`, `UnknownTopicOrPartition`.
    pub fn commit_offsets(&self, commit: &CommitOffsets) -> Result<()> {
        self.submit(Request::CommitOffsets(commit.clone())).map(|_| ())
    }

    /// The committed offset of a group in a partition.
    pub fn committed(&self, group: &str, name: &str, partition: u32) -> Result<Option<Committed>> {
        let view = self.read()?;
        let number = place(&view, name, partition)?;
        plain(view.value(Table::Offsets, &layout::offset_key(group, number, partition)))
    }

    /// Joins a group as `join.member`, or changes the topics of that member. Read what is assigned;
    /// call `heartbeat` more often than the session timeout.
    pub fn join_group(&self, join: &Join) -> Result<Assigned> {
        self.shared.check_writable()?;
        self.expire_members(&join.group, join.now_ms)?;
        self.shared.heartbeats.beat(&join.group, &join.member, join.now_ms)?;
        self.assigned(Request::Join(join.clone()))
    }

    /// Says that a member is alive, declares those dead that are not, and tells whether the
    /// assignment has changed. No commit, unless somebody died. `UnknownMember`.
    pub fn heartbeat(&self, group: &str, member: &str, now_ms: i64) -> Result<Heartbeat> {
        self.shared.check_writable()?;
        plain(groups::of_member(&self.read()?, group, member))?;
        self.shared.heartbeats.beat(group, member, now_ms)?;
        self.expire_members(group, now_ms)?;
        let found = plain(groups::of_member(&self.read()?, group, member))?;
        let rebalance = groups::needs_sync(&found, member);
        Ok(Heartbeat { generation: found.generation, rebalance })
    }

    /// What the member shall own in the end: what it must stop reading is what it owns besides.
    pub fn target(&self, group: &str, member: &str) -> Result<Vec<(u32, u32)>> {
        let found = plain(groups::of_member(&self.read()?, group, member))?;
        Ok(groups::member(&found, group, member)?.target.clone())
    }

    /// Takes up the newest generation. The member has stopped reading what is not in its `target`.
    /// `UnknownMember`, `IllegalGeneration`.
    pub fn sync_group(
        &self,
        group: &str,
        member: &str,
        generation: u64,
        now_ms: i64,
    ) -> Result<Assigned> {
        let (group, member) = (group.to_owned(), member.to_owned());
        self.assigned(Request::Sync(Sync { group, member, generation, now_ms }))
    }

    /// Leaves a group: its partitions go to others at once. `UnknownMember`.
    pub fn leave_group(&self, group: &str, member: &str, now_ms: i64) -> Result<()> {
        let left = Request::Leave { group: group.to_owned(), member: member.to_owned(), now_ms };
        self.submit(left)?;
        self.shared.heartbeats.forget(group, member);
        Ok(())
    }

    /// Removes a group that has no members, and its offsets.
    pub fn delete_group(&self, group: &str) -> Result<()> {
        self.submit(Request::DeleteGroup { group: group.to_owned() }).map(|_| ())
    }

    /// All groups.
    pub fn groups(&self) -> Result<Vec<GroupInfo>> {
        let view = self.read()?;
        let mut names = std::collections::HashMap::new();
        for topic in self.topics()? {
            names.insert(topic.number, topic.name);
        }
        let mut groups = Vec::new();
        for entry in plain(view.scan(Table::Groups, &[], &[]))? {
            let (key, payload) = plain(entry)?;
            let group = String::from_utf8_lossy(key).into_owned();
            let found: Group = plain(view::decode(Table::Groups, key, payload))?;
            let mut offsets = Vec::new();
            let prefix = layout::offsets_prefix(&group);
            for entry in plain(view.scan(Table::Offsets, &prefix, &prefix))? {
                let (key, payload) = plain(entry)?;
                let rest = key.get(prefix.len()..).unwrap_or_default();
                let Some((number, partition)) = layout::parse_partition(rest) else { continue };
                // Of a topic that was deleted: the offset means nothing any more.
                let Some(name) = names.get(&number) else { continue };
                let committed = plain(view::decode(Table::Offsets, key, payload))?;
                offsets.push((name.clone(), partition, committed));
            }
            let members = found.members.iter().map(|(id, member)| MemberInfo {
                member: id.clone(),
                topics: member.topics.clone(),
                generation: member.generation,
                owned: member.owned.clone(),
                last_heartbeat_ms: self.last_heartbeat(&group, id, member),
                session_timeout_ms: member.session_timeout_ms,
            });
            groups.push(GroupInfo {
                generation: found.generation,
                strategy: found.strategy,
                members: members.collect(),
                group,
                offsets,
            });
        }
        Ok(groups)
    }

    fn assigned(&self, request: Request) -> Result<Assigned> {
        match self.submit(request)? {
            Answer::Assigned(assigned) => Ok(assigned),
            other => Err(unexpected(&other)),
        }
    }

    fn last_heartbeat(&self, group: &str, id: &str, member: &layout::Member) -> i64 {
        let said = self.shared.heartbeats.last(group, id);
        said.unwrap_or(member.joined_ms).max(member.joined_ms)
    }

    /// The same in all groups: of one whose members have all died nobody else would notice it.
    fn expire_all_members(&self, now_ms: i64) -> Result<()> {
        let view = self.read()?;
        let mut peopled = Vec::new();
        for entry in plain(view.scan(Table::Groups, &[], &[]))? {
            let (key, payload) = plain(entry)?;
            let group: Group = plain(view::decode(Table::Groups, key, payload))?;
            if !group.members.is_empty() {
                peopled.push(String::from_utf8_lossy(key).into_owned());
            }
        }
        drop(view);
        peopled.iter().try_for_each(|name| self.expire_members(name, now_ms))
    }

    /// Declares members dead whose heartbeats have stopped, or who hold up a rebalance.
    fn expire_members(&self, name: &str, now_ms: i64) -> Result<()> {
        let view = self.read()?;
        let Some(group) = plain(groups::find(&view, name))? else { return Ok(()) };
        let is_dead = |id: &str, member: &layout::Member| {
            let silent = now_ms.saturating_sub(self.last_heartbeat(name, id, member));
            silent > i64::try_from(member.session_timeout_ms).unwrap_or(i64::MAX)
                || member.rebalance_deadline_ms.is_some_and(|deadline| deadline < now_ms)
        };
        let dead: Vec<String> = group
            .members
            .iter()
            .filter(|(id, member)| is_dead(id, member))
            .map(|(id, _)| id.clone())
            .collect();
        if dead.is_empty() && !plain(groups::is_stale(&view, &group))? {
            return Ok(());
        }
        drop(view);
        let group = name.to_owned();
        self.submit(Request::ExpireMembers { group, dead: dead.clone(), now_ms })?;
        dead.iter().for_each(|member| self.shared.heartbeats.forget(name, member));
        Ok(())
    }

    // ---- upkeep ------------------------------------------------------------------------------

    /// One slice of upkeep: aborts transactions that are open for too long, deletes what they and
    /// retention leave, declares members dead, forgets silent producers and groups, compacts. Call it
    /// now and then; again while `more`.
    pub fn maintain(&self, now_ms: i64, budget: Budget) -> Result<Maintained> {
        self.shared.environment()?.clear_stale_readers()?;
        self.shared.check_writable()?;
        self.expire_all_members(now_ms)?;
        let mut cursor = self.shared.cursor.lock();
        let request = Request::Maintain { now_ms, budget, cursor: cursor.clone() };
        match self.submit(request)? {
            Answer::Maintained(mut done) => {
                *cursor = done.cursor.clone();
                let (compacted, more) = self.compact(now_ms, budget.batches)?;
                done.compacted = compacted;
                done.more |= more;
                Ok(done)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Length of the file, and how much of it is in use.
    pub fn size(&self) -> Result<StoreSize> {
        let environment = self.shared.environment()?;
        Ok(StoreSize {
            file_bytes: environment.file_bytes()?,
            used_bytes: environment.read()?.used_bytes()?,
        })
    }

    /// A consistent copy into a directory that does not exist yet, while running.
    pub fn backup(&self, target: &Path) -> Result<()> {
        let Shared { manifest, map_size_bytes, .. } = &*self.shared;
        let environment = self.shared.environment()?;
        creation::backup::<Table>(environment, manifest, target, *map_size_bytes, |txn| {
            let mut head = view::head(txn.get(Table::Meta, HEAD_KEY)?)?;
            view::put_head(txn, &mut head)
        })?;
        self.shared.clock.copy_to(target)
    }

    fn submit(&self, request: Request) -> Result<Answer> {
        self.shared.submit(Arc::new(request))
    }

    fn read(&self) -> Result<Read<'_>> {
        self.shared.environment()?.read()
    }
}

impl Shared {
    /// The environment, if this process may use it.
    fn environment(&self) -> Result<&Arc<Environment>> {
        usable(self.environment.as_ref(), self.pid, &self.directory)
    }

    /// The environment, unless a write of this process has failed.
    fn writable(&self) -> Result<&Arc<Environment>> {
        let environment = self.environment()?;
        if environment.is_poisoned() { Err(self.poisoned()) } else { Ok(environment) }
    }

    fn check_writable(&self) -> Result<()> {
        self.writable()?;
        self.gate().map(|_| ())
    }

    fn gate(&self) -> Result<&Gate> {
        self.gate.as_ref().ok_or_else(|| {
            let text = format!("{} was opened with read_only", self.directory.display());
            Error::new(ErrorKind::StoreReadOnly, text)
        })
    }

    fn poisoned(&self) -> Error {
        Error::new(
            ErrorKind::StorePoisoned,
            format!(
                "{} may not be written after a failed write of this process; close all its \
                 handles and open it again",
                self.directory.display()
            ),
        )
    }

    /// Raises the manifest's lower bounds; whoever is inside the gate calls it.
    fn raise_manifest(&self) -> Result<()> {
        open::raise_manifest(&self.directory, self.environment()?, &self.manifest)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            // The parent's: closing would be harmless to it at best.
            std::mem::forget(self.environment.take());
            return;
        }
        let poisoned = self.environment.as_ref().is_none_or(|one| one.is_poisoned());
        if let (false, Some(gate)) = (poisoned, &self.gate)
            && let Ok(Some(passed)) = gate.try_pass()
        {
            // A manifest that could not be raised is still a lower bound.
            let _ = self.raise_manifest();
            drop(passed);
        }
    }
}

/// Number of a topic that has this partition.
fn place(view: &impl View, name: &str, partition: u32) -> Result<u32> {
    let topic = plain(view.topic(name))?;
    if partition < topic.settings.partitions {
        return Ok(topic.number);
    }
    Err(no_partition(name, partition, topic.settings.partitions))
}

fn no_partition(name: &str, partition: u32, partitions: u32) -> Error {
    let text = format!("topic {name:?} has partitions 0 to {}, no {partition}", partitions - 1);
    Error::new(ErrorKind::UnknownTopicOrPartition, text)
}

fn encode_part(topic: &Topic, write: &Write<'_>, rows: Rows<'_>, now: Now) -> Result<Part> {
    if write.partition >= topic.settings.partitions {
        return Err(no_partition(write.topic, write.partition, topic.settings.partitions));
    }
    let longest = topic.settings.max_record_bytes as usize;
    let batches = batch::encode(&write.records, rows, longest, now)?;
    Ok(Part {
        topic: topic.number,
        partition: write.partition,
        records: rows.len() as u64,
        first_sequence: write.first_sequence,
        batches: batches.into_iter().map(Encoded).collect(),
    })
}

/// Refuses a call whose records would need too much memory at once; `bytes` are those of the parts
/// before this one.
fn check_call(bytes: &mut usize, part: &Part) -> Result<()> {
    *bytes += part.batches.iter().map(|batch| batch.0.len()).sum::<usize>();
    if *bytes <= MAX_CALL_BYTES {
        return Ok(());
    }
    let text = format!(
        "the records of one call have more than {MAX_CALL_BYTES} bytes, and would all be in memory \
         at once; give fewer a call. Nothing of it was written"
    );
    Err(Error::new(ErrorKind::CapacityExceeded, text))
}

/// Outside of a write transaction a failure poisons nothing.
fn plain<T>(step: view::Step<T>) -> Result<T> {
    step.map_err(|failure| failure.error)
}

fn unexpected(answer: &Answer) -> Error {
    Error::new(ErrorKind::Io, format!("the log gave another answer than was asked for: {answer:?}"))
}
