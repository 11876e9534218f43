//! What can be asked of the log, and the answers: values that can wait in a queue or a file.

use serde::{Deserialize, Serialize};

use super::groups::{Assigned, Strategy};
use super::layout::{Outcome, Placed, TopicSettings};
use super::maintain::{Budget, Cursor, Maintained};

/// A change of the log. Times are by the log's clock.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Request {
    CreateTopic { name: String, settings: TopicSettings },
    AlterTopic { name: String, settings: TopicSettings },
    DeleteTopic { name: String },
    InitProducer(InitProducer),
    Append(Append),
    Stage(Stage),
    End(End),
    CommitOffsets(CommitOffsets),
    DeleteGroup { group: String },
    Join(Join),
    Sync(Sync),
    Leave { group: String, member: String, now_ms: i64 },
    ExpireMembers { group: String, dead: Vec<String>, now_ms: i64 },
    Discard { batches: usize },
    Replace(Replace),
    Maintain { now_ms: i64, budget: Budget, cursor: Cursor },
}

impl Request {
    /// Bytes of records that it carries.
    pub(super) fn bytes(&self) -> usize {
        let parts = match self {
            Self::Append(Append { parts, .. })
            | Self::Stage(Stage { parts, .. })
            | Self::End(End { parts, .. }) => parts,
            _ => return 0,
        };
        parts.iter().flat_map(|part| &part.batches).map(|batch| batch.0.len()).sum()
    }
}

/// A new id and epoch for a producer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct InitProducer {
    /// `None`: an idempotent producer, whose id is new.
    pub(super) transactional_id: Option<String>,
    pub(super) timeout_ms: u64,
    /// What the producer believes to have: a retry is recognised by it, a zombie refused.
    pub(super) expected: Option<(i64, i32)>,
    pub(super) now_ms: i64,
}

/// An encoded batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Encoded(#[serde(with = "super::blob")] pub(super) Vec<u8>);

/// Records of one partition.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) topic: u32,
    pub(super) partition: u32,
    pub(super) records: u64,
    /// Sequence of the first record, within the partition. Of a producer without an id, or in a
    /// transaction: not used.
    pub(super) first_sequence: i32,
    pub(super) batches: Vec<Encoded>,
}

/// Records outside of a transaction.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Append {
    /// Id and epoch; `None`: nobody recognises a retry.
    pub(super) producer: Option<(i64, i32)>,
    pub(super) parts: Vec<Part>,
    pub(super) now_ms: i64,
}

/// Records of a transaction that do not fit into memory until its end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Stage {
    pub(super) transactional_id: String,
    pub(super) id: i64,
    pub(super) epoch: i32,
    pub(super) started_ms: i64,
    /// Sequence of the first record, within the transaction.
    pub(super) first_sequence: i32,
    pub(super) parts: Vec<Part>,
    pub(super) now_ms: i64,
}

/// The end of a transaction, with those of its records that are not staged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) transactional_id: String,
    pub(super) id: i64,
    pub(super) epoch: i32,
    pub(super) started_ms: i64,
    pub(super) commit: bool,
    pub(super) first_sequence: i32,
    pub(super) parts: Vec<Part>,
    pub(super) offsets: Vec<CommitOffsets>,
    pub(super) now_ms: i64,
}

/// An offset to commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetCommit {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// The next offset to read.
    pub offset: u64,
    /// Whatever the consumer wants to remember with it.
    pub metadata: String,
}

/// Who commits offsets as a member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The member's id.
    pub member: String,
    /// The generation that it has taken up.
    pub generation: u64,
}

/// Offsets of a group, by a member or by somebody outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitOffsets {
    /// The group.
    pub group: String,
    /// `None`: from outside, which is allowed while the group has no members.
    pub membership: Option<Membership>,
    /// The offsets.
    pub offsets: Vec<OffsetCommit>,
    /// Now, by the log's clock.
    pub now_ms: i64,
}

/// A consumer joins a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Join {
    /// The group.
    pub group: String,
    /// The member's id, chosen by the caller and unique.
    pub member: String,
    /// Topics it wants to read.
    pub topics: Vec<String>,
    /// How partitions are shared out.
    pub strategy: Strategy,
    /// Without a heartbeat for so long it is declared dead.
    pub session_timeout_ms: u64,
    /// It must take up a new generation within so long.
    pub rebalance_timeout_ms: u64,
    /// Now, by the log's clock.
    pub now_ms: i64,
}

/// A member takes up the present generation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Sync {
    pub(super) group: String,
    pub(super) member: String,
    pub(super) generation: u64,
    pub(super) now_ms: i64,
}

/// What compaction has worked out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Replace {
    pub(super) topic: u32,
    pub(super) partition: u32,
    pub(super) replace: Vec<Replacement>,
    /// Below it every key is there once now; and when the first null value that is left was seen.
    pub(super) compacted: Option<(u64, Option<i64>)>,
}

/// A batch, by its first offset and digest, and what is left of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Replacement {
    pub(super) base: u64,
    pub(super) digest: u64,
    pub(super) batch: Option<Encoded>,
}

/// The answer to a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Producer {
        id: i64,
        epoch: i32,
    },
    /// One a part; true for a retry of what is there already.
    Appended(Vec<(Placed, bool)>),
    Staged,
    Ended(Ended),
    Assigned(Assigned),
    Maintained(Maintained),
}

/// How a transaction ended, and what its producer goes on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// What happened. `TimedOut` is an error to whoever asked for something else.
    pub outcome: Outcome,
    /// The producer's id for the next transaction; another one after its epochs are used up.
    pub id: i64,
    /// The producer's epoch for the next transaction.
    pub epoch: i32,
    /// Where the records are.
    pub placed: Vec<Placed>,
}
