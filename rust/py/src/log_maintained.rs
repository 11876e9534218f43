//! `LogMaintained`.

use pyo3::prelude::*;

/// What a slice of upkeep did.
#[pyclass(name = "LogMaintained", module = "onceflow._native", frozen, get_all)]
pub(crate) struct PyLogMaintained {
    /// Transactions aborted because they were open for too long.
    pub(crate) timed_out: u64,
    /// Staged batches of ended transactions that were deleted.
    pub(crate) discarded: u64,
    /// Batches that were deleted because of retention, or with their topic.
    pub(crate) removed: u64,
    /// Producers and groups that were forgotten.
    pub(crate) forgotten: u64,
    /// Records that compaction removed.
    pub(crate) compacted: u64,
    /// Whether there is more to do right now.
    pub(crate) more: bool,
}
