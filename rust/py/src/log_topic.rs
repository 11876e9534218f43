//! `LogTopic`.

use onceflow_core::log::{CleanupPolicy, TopicInfo};
use pyo3::prelude::*;

/// A topic and its settings.
#[pyclass(name = "LogTopic", module = "onceflow._native", frozen)]
pub(crate) struct PyLogTopic {
    info: TopicInfo,
}

impl PyLogTopic {
    pub(crate) fn new(info: TopicInfo) -> Self {
        Self { info }
    }
}

#[pymethods]
impl PyLogTopic {
    #[getter]
    fn name(&self) -> &str {
        &self.info.name
    }

    /// Never given out again, unlike the name.
    #[getter]
    fn number(&self) -> u32 {
        self.info.number
    }

    #[getter]
    fn partitions(&self) -> u32 {
        self.info.settings.partitions
    }

    #[getter]
    fn retention_ms(&self) -> Option<u64> {
        self.info.settings.retention_ms
    }

    #[getter]
    fn retention_bytes(&self) -> Option<u64> {
        self.info.settings.retention_bytes
    }

    #[getter]
    fn cleanup_policy(&self) -> &'static str {
        match self.info.settings.cleanup_policy {
            CleanupPolicy::Delete => "delete",
            CleanupPolicy::Compact => "compact",
        }
    }

    #[getter]
    fn delete_retention_ms(&self) -> u64 {
        self.info.settings.delete_retention_ms
    }

    #[getter]
    fn max_record_bytes(&self) -> u64 {
        self.info.settings.max_record_bytes
    }

    fn __repr__(&self) -> String {
        format!("LogTopic({:?}, partitions={})", self.info.name, self.info.settings.partitions)
    }
}
