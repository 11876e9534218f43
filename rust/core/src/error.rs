//! One error type: a kind that a program can act on and a text that says what to do.

use serde::{Deserialize, Serialize};

/// What went wrong, in the words that Python's exception classes use as their `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is outside what the call accepts.
    InvalidArgument,
    /// An array or value has another type than the key or column it is for.
    TypeMismatch,
    /// Arrays of one batch differ in length.
    LengthMismatch,
    /// A sum would leave the range of its column; the table is untouched.
    Overflow,
    /// A NaN (or, in a sum, an infinity) was offered to a float column; the table is untouched.
    NotANumber,
    /// A name that the table or backend does not have.
    UnknownName,
    /// A table exists under this name with another schema.
    SchemaMismatch,
    /// A bound in bytes or entries would be passed.
    CapacityExceeded,
    /// Stored bytes are damaged: wrong checksum, torn, swapped or stale.
    StoreCorrupt,
    /// Another process (or this one, a second time) owns the directory.
    StoreLocked,
    /// The directory was written by a newer or unknown format.
    StoreFormat,
    /// The directory belongs to another job or has other settings.
    StoreMismatch,
    /// The directory holds no store, and the call must not create one.
    StoreMissing,
    /// The disk or the reserved map is full.
    StoreFull,
    /// The directory or the file system is read-only.
    StoreReadOnly,
    /// A sync failed before; nothing may be written until the store is reopened.
    StorePoisoned,
    /// The directory is on a network file system.
    StoreNetworkFilesystem,
    /// The store is used in a child process created by fork.
    StoreForked,
    /// The operating system refused.
    Io,
    /// A newer epoch of the same job has taken over.
    Fenced,
    /// No complete checkpoint of that number exists.
    CheckpointNotFound,
    /// The checkpoint was aborted or is not in a state that allows this step.
    CheckpointState,
    /// The backend, store or log was closed.
    Closed,
    /// A topic of this name exists.
    TopicExists,
    /// No such topic, or it has fewer partitions.
    UnknownTopicOrPartition,
    /// Retention has removed this offset, or it was never written.
    OffsetOutOfRange,
    /// One record is larger than its topic takes.
    RecordTooLarge,
    /// A newer epoch of the producer has taken over.
    ProducerFenced,
    /// A batch does not follow the producer's batches before it, or is too old to be recognised.
    OutOfOrderSequence,
    /// The transaction is not in a state that allows this call.
    InvalidTransactionState,
    /// The transaction was open for too long; it was aborted, and its producer fenced.
    TransactionTimedOut,
    /// The consumer is not a member of the group (any more).
    UnknownMember,
    /// The consumer belongs to an older generation of its group.
    IllegalGeneration,
    /// The log did not answer in time; whether the request was applied is not known.
    LogTimeout,
    /// The producer takes no records before what got no answer has one; it has not taken these.
    BufferFull,
}

impl ErrorKind {
    /// The stable name: `onceflow.exceptions` finds the class by it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::TypeMismatch => "type_mismatch",
            Self::LengthMismatch => "length_mismatch",
            Self::Overflow => "overflow",
            Self::NotANumber => "not_a_number",
            Self::UnknownName => "unknown_name",
            Self::SchemaMismatch => "schema_mismatch",
            Self::CapacityExceeded => "capacity_exceeded",
            Self::StoreCorrupt => "store_corrupt",
            Self::StoreLocked => "store_locked",
            Self::StoreFormat => "store_format",
            Self::StoreMismatch => "store_mismatch",
            Self::StoreMissing => "store_missing",
            Self::StoreFull => "store_full",
            Self::StoreReadOnly => "store_read_only",
            Self::StorePoisoned => "store_poisoned",
            Self::StoreNetworkFilesystem => "store_network_filesystem",
            Self::StoreForked => "store_forked",
            Self::Io => "io",
            Self::Fenced => "fenced",
            Self::CheckpointNotFound => "checkpoint_not_found",
            Self::CheckpointState => "checkpoint_state",
            Self::Closed => "closed",
            Self::TopicExists => "topic_exists",
            Self::UnknownTopicOrPartition => "unknown_topic_or_partition",
            Self::OffsetOutOfRange => "offset_out_of_range",
            Self::RecordTooLarge => "record_too_large",
            Self::ProducerFenced => "producer_fenced",
            Self::OutOfOrderSequence => "out_of_order_sequence",
            Self::InvalidTransactionState => "invalid_transaction_state",
            Self::TransactionTimedOut => "transaction_timed_out",
            Self::UnknownMember => "unknown_member",
            Self::IllegalGeneration => "illegal_generation",
            Self::LogTimeout => "log_timeout",
            Self::BufferFull => "buffer_full",
        }
    }
}

/// What a program may want to know of an error besides its kind; the text says it too.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the variants say what their fields are")]
pub enum Detail {
    /// `StoreLocked`, `StoreForked`, `LogTimeout`: the process that has what is asked for.
    Process { pid: u32 },
    /// `Fenced`, `ProducerFenced`: the epoch of the caller, and the one that has taken over.
    Epochs { epoch: i64, newer: i64 },
    /// `TopicExists`, `UnknownTopicOrPartition`: the name.
    Topic { topic: String },
    /// `UnknownTopicOrPartition`: the number that the topic does not have.
    Partition { topic: String, partition: u32 },
    /// `OffsetOutOfRange`: where it was to be read, and which offsets there are; `high` is next.
    Offsets { topic: String, partition: u32, offset: u64, low: u64, high: u64 },
    /// `RecordTooLarge`: bytes of the record, and what the topic takes.
    Size { size: u64, limit: u64 },
    /// `OutOfOrderSequence`: what would have followed, if it is known, and what came.
    Sequences { expected: Option<i64>, got: i64 },
    /// `UnknownMember`: whom the group goes on without.
    Member { group: String, member: String },
    /// `IllegalGeneration`: which generation the member has taken up, and that of the call.
    Generations { group: String, member: String, current: u64, got: u64 },
    /// `CheckpointNotFound`, `CheckpointState`: the number.
    Checkpoint { id: u64 },
    /// `CapacityExceeded`: the setting that raises the bound, if one does; what would be there, and
    /// the bound.
    Bound { setting: Option<&'static str>, needed: u64, limit: u64 },
    /// `StoreMismatch`: a setting that is fixed, its value, and what was given instead.
    Setting { setting: &'static str, stored: String, given: String },
    /// `StoreFormat`: the version of what was read, and the newest that can be.
    Format { version: u64, newest: u64 },
    /// `InvalidArgument`: its name.
    Argument { setting: &'static str },
}

/// An error of the core: its kind, and a text that names both sides and what the caller can do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    detail: Option<Box<Detail>>,
}

impl Error {
    /// An error of `kind` with a text for people.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), detail: None }
    }

    /// The same error with what a program may want to know.
    #[must_use]
    pub fn with(mut self, detail: Detail) -> Self {
        self.detail = Some(Box::new(detail));
        self
    }

    /// The same error, of the process that has what is asked for, if it is known.
    #[must_use]
    pub(crate) fn with_process(self, pid: Option<u32>) -> Self {
        match pid {
            Some(pid) => self.with(Detail::Process { pid }),
            None => self,
        }
    }

    /// The same error, of a bound; `setting` raises it.
    #[must_use]
    pub(crate) fn with_bound(
        self,
        setting: impl Into<Option<&'static str>>,
        needed: u64,
        limit: u64,
    ) -> Self {
        self.with(Detail::Bound { setting: setting.into(), needed, limit })
    }

    /// The same error, of a checkpoint.
    #[must_use]
    pub(crate) fn with_checkpoint(self, id: u64) -> Self {
        self.with(Detail::Checkpoint { id })
    }

    /// The same error, of an argument.
    #[must_use]
    pub(crate) fn with_argument(self, setting: &'static str) -> Self {
        self.with(Detail::Argument { setting })
    }

    /// What a program may want to know, if the error has any of it.
    pub fn detail(&self) -> Option<&Detail> {
        self.detail.as_deref()
    }

    /// What a program can act on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// The result of every fallible call of the core.
pub type Result<T> = std::result::Result<T, Error>;
