//! Which partition of a Kafka topic a record goes to.

use onceflow_core::hash::murmur2;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::error::invalid_argument;

/// The partitions of records, as Apache Kafka's Java clients choose them by the key (murmur2).
///
/// Args:
///     keys: bytes or None, one a record.
///     partitions: How many the topic has.
///     unkeyed: The partition of records without a key.
#[pyfunction]
#[pyo3(name = "_kafka_partitions")]
pub(crate) fn py_kafka_partitions(
    keys: &Bound<'_, PyList>,
    partitions: u32,
    unkeyed: u32,
) -> PyResult<Vec<u32>> {
    if partitions == 0 {
        return Err(invalid_argument("partitions is 0"));
    }
    let partition = |key: Bound<'_, PyAny>| {
        if key.is_none() {
            return Ok(unkeyed);
        }
        let key = key.cast_into::<PyBytes>().map_err(|_| invalid_argument("a key is not bytes"))?;
        Ok((murmur2(key.as_bytes()) & 0x7fff_ffff) % partitions)
    };
    keys.iter().map(partition).collect()
}
