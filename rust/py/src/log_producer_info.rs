//! `LogProducerInfo`.

use onceflow_core::log::{Outcome, ProducerInfo};
use pyo3::prelude::*;

/// A transactional producer, as it is listed. Times are by the log's clock.
#[pyclass(name = "LogProducerInfo", module = "onceflow._native", frozen)]
pub(crate) struct PyLogProducerInfo {
    pub(crate) info: ProducerInfo,
}

#[pymethods]
impl PyLogProducerInfo {
    #[getter]
    fn transactional_id(&self) -> &str {
        &self.info.transactional_id
    }

    #[getter]
    fn producer_id(&self) -> i64 {
        self.info.id
    }

    #[getter]
    fn producer_epoch(&self) -> i32 {
        self.info.epoch
    }

    #[getter]
    fn timeout_ms(&self) -> u64 {
        self.info.timeout_ms
    }

    #[getter]
    fn updated_ms(&self) -> i64 {
        self.info.updated_ms
    }

    /// When the open transaction began, if some of it is staged (else nobody knows of it).
    #[getter]
    fn started_ms(&self) -> Option<i64> {
        self.info.staged.map(|(started_ms, _)| started_ms)
    }

    #[getter]
    fn staged_bytes(&self) -> u64 {
        self.info.staged.map_or(0, |(_, bytes)| bytes)
    }

    /// ``"committed"``, ``"aborted"`` or ``"timed_out"``.
    #[getter]
    fn last_outcome(&self) -> Option<&'static str> {
        self.info.ended.map(outcome_name)
    }
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Committed => "committed",
        Outcome::Aborted => "aborted",
        Outcome::TimedOut => "timed_out",
    }
}
