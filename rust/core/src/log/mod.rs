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
mod handle;
mod heartbeat;
mod inbox;
mod infos;
mod layout;
mod maintain;
mod membership;
mod open;
mod options;
mod partition;
mod producer;
mod producing;
mod records;
mod request;
mod shared;
mod times;
mod topics;
mod transactions;
mod view;
mod wake;
mod window;

use std::time::Duration;

pub use batch::MAX_RECORD_BYTES;
pub use clock::{Now, Reading};
pub use fetch::FetchLimits;
pub use groups::{Assigned, Strategy};
pub use handle::Log;
pub use infos::{GroupInfo, Heartbeat, MemberInfo, PartitionInfo, ProducerInfo, TopicInfo};
pub use layout::{CleanupPolicy, Committed, Outcome, Placed, TopicSettings};
pub use maintain::{Budget, Maintained};
pub use options::{Limits, LogOptions};
pub use partition::{Partitioning, partition_of};
pub use producer::{Producer, ProducerOptions, ProducerPhase};
pub use producing::{TransactionId, Write};
pub use records::{ByteColumn, ByteColumnBuf, Fetched, Records, Timestamps};
pub use request::{CommitOffsets, Ended, Join, Membership, OffsetCommit};

use crate::Result;

/// How long to wait for a wake-up that may not come (its sender was killed) before looking again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Outside of a write transaction a failure poisons nothing.
fn plain<T>(step: view::Step<T>) -> Result<T> {
    step.map_err(|failure| failure.error)
}
