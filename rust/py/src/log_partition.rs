//! `LogPartition`, and which partition a key goes to.

use onceflow_core::log::{self, PartitionInfo};
use pyo3::prelude::*;

use crate::error::invalid_argument;

/// Where a partition begins and ends, and what it holds.
#[pyclass(name = "LogPartition", module = "onceflow._native", frozen)]
pub(crate) struct PyLogPartition {
    pub(crate) info: PartitionInfo,
}

#[pymethods]
impl PyLogPartition {
    /// The first offset that can be read.
    #[getter]
    fn start(&self) -> u64 {
        self.info.start
    }

    /// The offset that the next record gets.
    #[getter]
    fn end(&self) -> u64 {
        self.info.end
    }

    #[getter]
    fn records(&self) -> u64 {
        self.info.records
    }

    #[getter]
    fn batches(&self) -> u64 {
        self.info.batches
    }

    #[getter]
    fn bytes(&self) -> u64 {
        self.info.bytes
    }

    #[getter]
    fn max_timestamp_ms(&self) -> Option<i64> {
        self.info.max_timestamp_ms
    }

    fn __repr__(&self) -> String {
        format!("LogPartition(start={}, end={})", self.info.start, self.info.end)
    }
}

/// The partition of a key: the same in every process and version.
#[pyfunction]
#[pyo3(name = "partition_of")]
pub(crate) fn py_partition_of(key: &[u8], partitions: u32) -> PyResult<u32> {
    if partitions == 0 {
        return Err(invalid_argument("0 partitions; give 1 or more"));
    }
    Ok(log::partition_of(key, partitions))
}
