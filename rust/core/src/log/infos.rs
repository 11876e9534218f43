//! What is told of topics, partitions, producers and groups.

use super::groups::Strategy;
use super::layout::{Committed, Outcome, TopicSettings};

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
