//! How a log is opened, and the bounds that it keeps.

use std::time::Duration;

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
