//! `LogProducer`: idempotent and transactional.

use onceflow_core::log::{
    CommitOffsets, Membership, OffsetCommit, Partitioning, Placed, Producer, ProducerOptions,
};
use pyo3::prelude::*;
use pyo3::types::PyInt;

use crate::error::{invalid_argument, to_py};
use crate::keys::unsigned;
use crate::log::PyLog;
use crate::log_records::Input;

/// See `onceflow._native.LogProducer`.
#[pyclass(name = "LogProducer", module = "onceflow._native", frozen)]
pub(crate) struct PyLogProducer {
    producer: Producer,
}

/// Topic number, partition, offset of the first record, records.
pub(crate) type Place = (u32, u32, u64, u64);

pub(crate) fn places(placed: Vec<Placed>) -> Vec<Place> {
    let place = |one: Placed| (one.topic, one.partition, one.first_offset, one.count);
    placed.into_iter().map(place).collect()
}

/// Topic, partition, offset, metadata.
pub(crate) type Offset = (String, u32, u64, String);

pub(crate) fn commit_offsets(
    group: String,
    offsets: Vec<Offset>,
    member: Option<String>,
    generation: Option<u64>,
    now_ms: i64,
) -> PyResult<CommitOffsets> {
    let membership = match (member, generation) {
        (Some(member), Some(generation)) => Some(Membership { member, generation }),
        (None, None) => None,
        _ => return Err(invalid_argument("give member and generation, or neither")),
    };
    let offsets = offsets
        .into_iter()
        .map(|(topic, partition, offset, metadata)| OffsetCommit {
            topic,
            partition,
            offset,
            metadata,
        })
        .collect();
    Ok(CommitOffsets { group, membership, offsets, now_ms })
}

#[pymethods]
impl PyLogProducer {
    #[new]
    #[pyo3(signature = (
        log,
        *,
        now_ms,
        transactional_id = None,
        transaction_timeout_ms = 60_000,
        max_buffered_bytes = 16 << 20,
    ))]
    fn new(
        py: Python<'_>,
        log: &PyLog,
        now_ms: i64,
        transactional_id: Option<String>,
        transaction_timeout_ms: u64,
        max_buffered_bytes: usize,
    ) -> PyResult<Self> {
        let log = log.get()?;
        let options =
            ProducerOptions { transactional_id, transaction_timeout_ms, max_buffered_bytes };
        let producer = py.detach(|| Producer::new(&log, options, now_ms)).map_err(to_py)?;
        Ok(Self { producer })
    }

    #[getter]
    fn transactional_id(&self) -> Option<&str> {
        self.producer.options().transactional_id.as_deref()
    }

    #[getter]
    fn identity(&self, py: Python<'_>) -> Option<(i64, i32)> {
        py.detach(|| self.producer.identity())
    }

    #[getter]
    fn in_transaction(&self, py: Python<'_>) -> bool {
        py.detach(|| self.producer.in_transaction())
    }

    #[pyo3(signature = (*, now_ms))]
    fn init_transactions(&self, py: Python<'_>, now_ms: i64) -> PyResult<()> {
        py.detach(|| self.producer.init_transactions(now_ms)).map_err(to_py)
    }

    #[pyo3(signature = (*, now_ms))]
    fn begin_transaction(&self, py: Python<'_>, now_ms: i64) -> PyResult<()> {
        py.detach(|| self.producer.begin_transaction(now_ms)).map_err(to_py)
    }

    #[pyo3(signature = (
        topic,
        values = None,
        *,
        now_ms,
        keys = None,
        timestamps = None,
        headers = None,
        partition = None,
    ))]
    #[allow(clippy::too_many_arguments)]
    fn produce(
        &self,
        py: Python<'_>,
        topic: &str,
        values: Option<&Bound<'_, PyAny>>,
        now_ms: i64,
        keys: Option<&Bound<'_, PyAny>>,
        timestamps: Option<&Bound<'_, PyAny>>,
        headers: Option<&Bound<'_, PyAny>>,
        partition: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Vec<Place>> {
        let input = Input::read(values, keys, timestamps, headers, now_ms)?;
        let records = input.records()?;
        let narrow = |number: u64| {
            u32::try_from(number).map_err(|_| invalid_argument(format!("no partition {number}")))
        };
        let (one, each) = match partition {
            None => (None, None),
            Some(number) if number.is_instance_of::<PyInt>() => {
                let number = number.extract::<u64>();
                let number = number.map_err(|_| invalid_argument("a partition is 0 or more"))?;
                (Some(narrow(number)?), None)
            }
            Some(numbers) => {
                let numbers = unsigned(numbers)?.into_iter().map(narrow);
                (None, Some(numbers.collect::<PyResult<Vec<u32>>>()?))
            }
        };
        let partitioning = match (one, &each) {
            (Some(partition), _) => Partitioning::One(partition),
            (None, Some(each)) => Partitioning::Each(each),
            (None, None) => Partitioning::ByKey,
        };
        let placed = py.detach(|| self.producer.produce(topic, partitioning, &records, now_ms));
        placed.map(places).map_err(to_py)
    }

    #[pyo3(signature = (*, now_ms))]
    fn flush(&self, py: Python<'_>, now_ms: i64) -> PyResult<Vec<Place>> {
        py.detach(|| self.producer.flush(now_ms)).map(places).map_err(to_py)
    }

    #[pyo3(signature = (group, offsets, *, now_ms, member = None, generation = None))]
    fn send_offsets(
        &self,
        py: Python<'_>,
        group: String,
        offsets: Vec<Offset>,
        now_ms: i64,
        member: Option<String>,
        generation: Option<u64>,
    ) -> PyResult<()> {
        let offsets = commit_offsets(group, offsets, member, generation, now_ms)?;
        py.detach(|| self.producer.send_offsets(offsets)).map_err(to_py)
    }

    #[pyo3(signature = (*, now_ms))]
    fn commit_transaction(&self, py: Python<'_>, now_ms: i64) -> PyResult<Vec<Place>> {
        let placed = py.detach(|| self.producer.commit_transaction(now_ms));
        placed.map(places).map_err(to_py)
    }

    #[pyo3(signature = (*, now_ms))]
    fn abort_transaction(&self, py: Python<'_>, now_ms: i64) -> PyResult<()> {
        py.detach(|| self.producer.abort_transaction(now_ms)).map_err(to_py)
    }
}
