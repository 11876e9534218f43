//! The log's file format.
//!
//! ```text
//! events/                      0700
//! ├── manifest.json            0600  as that of a store, with "kind": "log"
//! ├── owner.lock               0600  flock; held only while the log is created
//! ├── commit.lock              0600  flock of who commits; names its process (see `gate`)
//! ├── wake                     0600  touched after each commit (see `wake`)
//! ├── clock                    0600  the newest reading of the log's clock (see `clock`)
//! ├── inbox/                   0700  what processes that wait for the lock ask for (see `inbox`)
//! ├── members/                 0700  heartbeats of consumer group members (see `heartbeat`)
//! └── data/                    0700
//!     ├── data.mdb             0600  the LMDB environment, with these databases:
//!     │     meta          "head"                                     -> Head
//!     │     topics        name                                       -> Topic
//!     │     partitions    topic u32 | partition u32                  -> Partition
//!     │     batches       topic u32 | partition u32 | offset u64     -> a batch, or a reference
//!     │     staged        producer u64 | epoch u32 | number u32      -> a batch
//!     │     staged_index  producer u64 | epoch u32 | number u32      -> topic u32 | partition u32 | a reference
//!     │     windows       topic u32 | partition u32 | producer u64   -> an entry of `sequence`
//!     │     producers     transactional id                           -> Producer
//!     │     producer_ids  producer u64                               -> transactional id
//!     │     open          producer u64 | epoch u32                   -> transactional id, while batches are staged
//!     │     garbage       producer u64 | epoch u32                   -> nothing: staged batches to delete
//!     │     groups        group                                      -> Group
//!     │     offsets       group | 0 | topic u32 | partition u32      -> Committed
//!     │     inboxes       id u128                                    -> what was applied of it
//!     └── lock.mdb             0600  LMDB's reader table and writer lock
//! ```
//!
//! Numbers in keys are big-endian. Every value ends with the trailer of a store's values (see
//! `store::layout`): a checksum that binds it to its database and key. Batches are drawn in
//! `batch`; a reference stands where a transaction's batch has its place, and names the batch in
//! `staged`, so that a commit moves no data. Everything else is a msgpack array of its fields in
//! order; later formats append fields.
//!
//! The head is rewritten by every transaction and names it: a file that is older than its meta
//! pages shows at once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::environment::lmdb::Database;

/// The newest format that this version writes and reads.
///
/// | format | since it |
/// |---|---|
/// | 1 | the first |
/// | 2 | batches have times of their own; all times but those of records are by the log's clock |
pub(super) const FORMAT_VERSION: u32 = 2;

/// The one key of `meta`.
pub(super) const HEAD_KEY: &[u8] = b"head";

/// Longest name of a topic, as in Kafka.
pub(super) const MAX_TOPIC_NAME_BYTES: usize = 249;

/// Longest transactional id, group and member id.
pub(super) const MAX_ID_BYTES: usize = 255;

/// The named databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Meta,
    Topics,
    Partitions,
    Batches,
    Staged,
    StagedIndex,
    Windows,
    Producers,
    ProducerIds,
    Open,
    Garbage,
    Groups,
    Offsets,
    Inboxes,
}

impl Database for Table {
    const ALL: &'static [Self] = &[
        Self::Meta,
        Self::Topics,
        Self::Partitions,
        Self::Batches,
        Self::Staged,
        Self::StagedIndex,
        Self::Windows,
        Self::Producers,
        Self::ProducerIds,
        Self::Open,
        Self::Garbage,
        Self::Groups,
        Self::Offsets,
        Self::Inboxes,
    ];

    fn index(self) -> usize {
        self as usize
    }

    fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Topics => "topics",
            Self::Partitions => "partitions",
            Self::Batches => "batches",
            Self::Staged => "staged",
            Self::StagedIndex => "staged_index",
            Self::Windows => "windows",
            Self::Producers => "producers",
            Self::ProducerIds => "producer_ids",
            Self::Open => "open",
            Self::Garbage => "garbage",
            Self::Groups => "groups",
            Self::Offsets => "offsets",
            Self::Inboxes => "inboxes",
        }
    }
}

/// What changes with every transaction, in one small value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) format: u32,
    /// 32 hex digits, as in the manifest.
    pub(super) store_id: String,
    /// The LMDB transaction that wrote this head.
    pub(super) transaction: u64,
    /// No topic had this number or a higher one: names come back, numbers do not.
    pub(super) next_topic: u32,
    /// No producer had this id or a higher one.
    pub(super) next_producer: i64,
    /// Entries of `producers`.
    pub(super) producers: u64,
}

/// What happens to old records of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CleanupPolicy {
    /// Those that are older or more than retention allows go.
    Delete,
    /// Of each key the newest record stays (and of a null value nothing, after a while).
    Compact,
}

/// The settings of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSettings {
    /// Partitions; more can be added later.
    pub partitions: u32,
    /// Records go when their batch's newest timestamp is older, or when they were appended longer ago:
    /// a timestamp from the future counts as that of the append. `None`: never by age.
    pub retention_ms: Option<u64>,
    /// The oldest batches of a partition go while it holds more. `None`: never by size.
    pub retention_bytes: Option<u64>,
    /// What happens to old records.
    pub cleanup_policy: CleanupPolicy,
    /// How long a null value is kept under [`CleanupPolicy::Compact`], so that readers see it; from
    /// when compaction first saw it.
    pub delete_retention_ms: u64,
    /// Longest record, in bytes of key, value and headers.
    pub max_record_bytes: u64,
}

impl Default for TopicSettings {
    /// One partition; everything is kept.
    fn default() -> Self {
        Self {
            partitions: 1,
            retention_ms: None,
            retention_bytes: None,
            cleanup_policy: CleanupPolicy::Delete,
            delete_retention_ms: 24 * 3600 * 1000,
            max_record_bytes: super::batch::MAX_RECORD_BYTES as u64,
        }
    }
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Topic {
    pub(super) number: u32,
    pub(super) settings: TopicSettings,
}

/// Where a partition begins and ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Partition {
    /// The first offset that can be read.
    pub(super) start: u64,
    /// The offset that the next record gets.
    pub(super) end: u64,
    /// Entries of `batches`, and bytes of their payloads (also of those that are staged).
    pub(super) batches: u64,
    pub(super) bytes: u64,
    /// Records that are there (less than `end - start` after compaction).
    pub(super) records: u64,
    /// Entries of `windows`.
    pub(super) producers: u64,
    /// Below it every key is there once (compaction only).
    pub(super) compacted: u64,
    /// The newest timestamp.
    pub(super) max_timestamp_ms: Option<i64>,
    /// When compaction first saw the oldest of the null values that it has left (since format 2).
    #[serde(default)]
    pub(super) nulls_since_ms: Option<i64>,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Its records and offsets are there.
    Committed,
    /// Nothing of it is there.
    Aborted,
    /// It was open for too long; nothing of it is there.
    TimedOut,
}

/// Where a transaction's or an append's records went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Number of the topic.
    pub topic: u32,
    /// Partition.
    pub partition: u32,
    /// Offset of the first record; the others follow.
    pub first_offset: u64,
    /// Records.
    pub count: u64,
}

/// A transactional producer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Producer {
    pub(super) id: i64,
    pub(super) epoch: i32,
    /// Id and epoch before the last rise, so that a retry of what raised it is recognised.
    pub(super) former: Option<(i64, i32)>,
    /// The transaction of `former`, if its end is what raised the epoch.
    pub(super) ended: Option<(Outcome, Vec<Placed>)>,
    /// The transaction of the present epoch, if some of it is staged.
    pub(super) open: Option<Open>,
    pub(super) timeout_ms: u64,
    pub(super) updated_ms: i64,
}

/// A transaction that has staged batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) started_ms: i64,
    /// Number of the next staged batch.
    pub(super) next: u32,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Its window, an entry of `sequence`: the sequences of a transaction begin at 0 and run over
    /// all its partitions.
    #[serde(with = "super::blob")]
    pub(super) window: Vec<u8>,
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The next offset to read.
    pub offset: u64,
    /// What the consumer noted with it.
    pub metadata: String,
    /// When, by the log's clock.
    pub committed_ms: i64,
}

/// A consumer group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    /// Raised whenever the assignment changes.
    pub(super) generation: u64,
    pub(super) strategy: super::groups::Strategy,
    pub(super) members: BTreeMap<String, Member>,
    pub(super) updated_ms: i64,
}

/// A member of a consumer group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) topics: Vec<String>,
    pub(super) session_timeout_ms: u64,
    pub(super) rebalance_timeout_ms: u64,
    /// The generation whose assignment it has taken up.
    pub(super) generation: u64,
    /// What it may read and commit now.
    pub(super) owned: Vec<(u32, u32)>,
    /// What it shall have, once others have let go.
    pub(super) target: Vec<(u32, u32)>,
    /// When it must have taken up the present generation, while it has not.
    pub(super) rebalance_deadline_ms: Option<i64>,
    pub(super) joined_ms: i64,
}

/// What was applied of an inbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Applied {
    /// Number of the request that was applied last.
    pub(super) number: u64,
    /// The answer to it, encoded.
    #[serde(with = "super::blob")]
    pub(super) answer: Vec<u8>,
}

/// Key of a partition.
pub(super) fn partition_key(topic: u32, partition: u32) -> [u8; 8] {
    (u64::from(topic) << 32 | u64::from(partition)).to_be_bytes()
}

/// Topic and partition of a key that begins with them.
pub(super) fn parse_partition(key: &[u8]) -> Option<(u32, u32)> {
    let word = u64::from_be_bytes(*key.first_chunk()?);
    Some(((word >> 32) as u32, word as u32))
}

/// Key of a batch (its first offset) or a window (its producer) of a partition.
pub(super) fn in_partition_key(topic: u32, partition: u32, number: u64) -> [u8; 16] {
    let key = u128::from(topic) << 96 | u128::from(partition) << 64 | u128::from(number);
    key.to_be_bytes()
}

/// Topic, partition and number of such a key.
pub(super) fn parse_in_partition(key: &[u8]) -> Option<(u32, u32, u64)> {
    let word = u128::from_be_bytes(key.try_into().ok()?);
    Some(((word >> 96) as u32, (word >> 64) as u32, word as u64))
}

/// Key of a staged batch.
pub(super) fn staged_key(producer: i64, epoch: i32, number: u32) -> [u8; 16] {
    let key =
        u128::from(producer as u64) << 64 | u128::from(epoch as u32) << 32 | u128::from(number);
    key.to_be_bytes()
}

/// Key of the garbage of a transaction.
pub(super) fn garbage_key(producer: i64, epoch: i32) -> [u8; 12] {
    let mut key = [0; 12];
    let (id, number) = key.split_at_mut(8);
    id.copy_from_slice(&producer.to_be_bytes());
    number.copy_from_slice(&epoch.to_be_bytes());
    key
}

/// Producer and epoch of such a key.
pub(super) fn parse_garbage(key: &[u8]) -> Option<(i64, i32)> {
    let (id, epoch) = key.split_first_chunk::<8>()?;
    Some((i64::from_be_bytes(*id), i32::from_be_bytes(epoch.try_into().ok()?)))
}

/// What the keys of a group's offsets begin with; a group's name has no byte 0.
pub(super) fn offsets_prefix(group: &str) -> Vec<u8> {
    let mut key = group.as_bytes().to_vec();
    key.push(0);
    key
}

/// Key of a committed offset.
pub(super) fn offset_key(group: &str, topic: u32, partition: u32) -> Vec<u8> {
    let mut key = offsets_prefix(group);
    key.extend(partition_key(topic, partition));
    key
}
