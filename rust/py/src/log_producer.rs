//! `LogProducer`: idempotent and transactional.

use std::sync::Arc;

use onceflow_core::log::{
    CommitOffsets, Membership, Now, OffsetCommit, Partitioning, Placed, Producer, ProducerOptions,
    ProducerPhase,
};
use onceflow_core::{Error, ErrorKind};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyInt;

use crate::args::{Arg, optional};
use crate::error::{invalid_argument, to_py};
use crate::keys::unsigned;
use crate::log::PyLog;
use crate::log_records::Input;

/// What a producer's transaction is in; ``onceflow.log.ProducerState`` says what it means.
#[pyclass(
    name = "LogProducerPhase",
    module = "onceflow._native",
    frozen,
    eq,
    hash,
    rename_all = "SCREAMING_SNAKE_CASE"
)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PyLogProducerPhase {
    New,
    Ready,
    Open,
    Failed,
    Committing,
    Aborting,
    Fenced,
    TimedOut,
}

impl From<ProducerPhase> for PyLogProducerPhase {
    fn from(phase: ProducerPhase) -> Self {
        match phase {
            ProducerPhase::New => Self::New,
            ProducerPhase::Ready => Self::Ready,
            ProducerPhase::Open => Self::Open,
            ProducerPhase::Failed => Self::Failed,
            ProducerPhase::Committing => Self::Committing,
            ProducerPhase::Aborting => Self::Aborting,
            ProducerPhase::Fenced => Self::Fenced,
            ProducerPhase::TimedOut => Self::TimedOut,
        }
    }
}

/// An idempotent producer or, with a transactional id, a transactional one.
///
/// Every method that writes returns when it is durable. One transaction at a time; safe to call
/// from several threads, one after the other. A call that raises LogTimeoutError or StoreIOError
/// got no answer: it is kept, and repeated by the next call (``flush`` does only that); do not
/// produce its records again. After an unanswered commit only the commit may be repeated, after an
/// unanswered abort only the abort. After a refused record in a transaction it must be aborted.
#[pyclass(name = "LogProducer", module = "onceflow._native", frozen)]
pub(crate) struct PyLogProducer {
    options: ProducerOptions,
    /// `None` after `close`.
    producer: Mutex<Option<Arc<Producer>>>,
}

impl PyLogProducer {
    fn get(&self) -> PyResult<Arc<Producer>> {
        self.producer.lock().clone().ok_or_else(|| {
            let text = "the producer was closed; make a new one";
            to_py(Error::new(ErrorKind::Closed, text))
        })
    }

    /// Runs something on the producer without the GIL.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        run: impl FnOnce(&Producer) -> onceflow_core::Result<T> + Send,
    ) -> PyResult<T> {
        let producer = self.get()?;
        py.detach(|| run(&producer)).map_err(to_py)
    }
}

/// Topic number, partition, offset of the first record, records.
pub(crate) type Place = (u32, u32, u64, u64);

pub(crate) fn places(placed: Vec<Placed>) -> Vec<Place> {
    let place = |one: Placed| (one.topic, one.partition, one.first_offset, one.count);
    placed.into_iter().map(place).collect()
}

/// Topic, partition, offset, metadata.
pub(crate) type Offset = (Arg<String>, Arg<u32>, Arg<u64>, Arg<String>);

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
    let named = |(topic, partition, offset, metadata): Offset| {
        Ok(OffsetCommit {
            topic: topic.named("topic")?,
            partition: partition.named("partition")?,
            offset: offset.named("offset")?,
            metadata: metadata.named("metadata")?,
        })
    };
    let offsets = offsets.into_iter().map(named).collect::<PyResult<_>>()?;
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
        transaction_timeout_ms = Arg::of(60_000),
        max_buffered_bytes = Arg::of(16 << 20),
    ), text_signature = "(log, *, now_ms, transactional_id=None, \
            transaction_timeout_ms=60000, max_buffered_bytes=16777216)")]
    fn new(
        py: Python<'_>,
        log: &PyLog,
        now_ms: Arg<i64>,
        transactional_id: Option<Arg<String>>,
        transaction_timeout_ms: Arg<u64>,
        max_buffered_bytes: Arg<usize>,
    ) -> PyResult<Self> {
        let now_ms = now_ms.named("now_ms")?;
        let transactional_id = optional("transactional_id", transactional_id)?;
        let transaction_timeout_ms = transaction_timeout_ms.named("transaction_timeout_ms")?;
        let max_buffered_bytes = max_buffered_bytes.named("max_buffered_bytes")?;
        let log = log.get()?;
        let options =
            ProducerOptions { transactional_id, transaction_timeout_ms, max_buffered_bytes };
        let producer = py.detach(|| Producer::new(&log, options.clone(), now_ms)).map_err(to_py)?;
        Ok(Self { options, producer: Mutex::new(Some(Arc::new(producer))) })
    }

    #[getter]
    fn transactional_id(&self) -> Option<&str> {
        self.options.transactional_id.as_deref()
    }

    /// (producer id, epoch), once it has them.
    #[getter]
    fn identity(&self, py: Python<'_>) -> PyResult<Option<(i64, i32)>> {
        self.with(py, |producer| Ok(producer.identity()))
    }

    /// In which state its transaction is.
    #[getter]
    fn phase(&self, py: Python<'_>) -> PyResult<PyLogProducerPhase> {
        self.with(py, |producer| Ok(producer.phase().into()))
    }

    /// Whether a transaction is open, or its end has not been answered.
    #[getter]
    fn in_transaction(&self, py: Python<'_>) -> PyResult<bool> {
        self.with(py, |producer| Ok(producer.in_transaction()))
    }

    /// Fences every older producer of the transactional id and aborts what it left open.
    #[pyo3(signature = (*, now_ms))]
    fn init_transactions(&self, py: Python<'_>, now_ms: Arg<i64>) -> PyResult<()> {
        let now_ms = now_ms.named("now_ms")?;
        self.with(py, |producer| producer.init_transactions(now_ms))
    }

    /// Begins a transaction; what is produced from now on belongs to it.
    #[pyo3(signature = (*, now_ms))]
    fn begin_transaction(&self, py: Python<'_>, now_ms: Arg<i64>) -> PyResult<()> {
        let now_ms = now_ms.named("now_ms")?;
        self.with(py, |producer| producer.begin_transaction(now_ms))
    }

    /// Produces a batch of records. Outside of transactions it says where they are.
    ///
    /// Args:
    ///     values: One a record; None: all null.
    ///     keys: One a record. Without ``partition`` a key chooses it (see ``partition_of``);
    ///         records without a key go to one partition a call, in turn.
    ///     wall_ms: Now by the wall clock; None: ``now_ms``.
    ///     timestamps: An int for all, or integers, one a record; None: ``wall_ms``.
    ///     headers: One a record: a dict, a list of (str, bytes or None), or None.
    ///     partition: An int for all, or one a record.
    ///
    /// Raises:
    ///     UnknownTopicOrPartitionError, RecordTooLargeError, LengthMismatchError,
    ///     TypeMismatchError, InvalidTransactionStateError, ProducerFencedError,
    ///     TransactionTimedOutError, LogTimeoutError.
    #[pyo3(signature = (
        topic,
        values = None,
        *,
        now_ms,
        wall_ms = None,
        keys = None,
        timestamps = None,
        headers = None,
        partition = None,
    ))]
    #[allow(clippy::too_many_arguments)]
    fn produce(
        &self,
        py: Python<'_>,
        topic: Arg<String>,
        values: Option<&Bound<'_, PyAny>>,
        now_ms: Arg<i64>,
        wall_ms: Option<Arg<i64>>,
        keys: Option<&Bound<'_, PyAny>>,
        timestamps: Option<&Bound<'_, PyAny>>,
        headers: Option<&Bound<'_, PyAny>>,
        partition: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Vec<Place>> {
        let topic = topic.named("topic")?;
        let topic = topic.as_str();
        let now_ms = now_ms.named("now_ms")?;
        let wall_ms = optional("wall_ms", wall_ms)?;
        let now = Now { log_ms: now_ms, wall_ms: wall_ms.unwrap_or(now_ms) };
        let input = Input::read(values, keys, timestamps, headers, now.wall_ms)?;
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
                let numbers = unsigned("partition", numbers)?.into_iter().map(narrow);
                (None, Some(numbers.collect::<PyResult<Vec<u32>>>()?))
            }
        };
        let partitioning = match (one, &each) {
            (Some(partition), _) => Partitioning::One(partition),
            (None, Some(each)) => Partitioning::Each(each),
            (None, None) => Partitioning::ByKey,
        };
        let produce = |producer: &Producer| producer.produce(topic, partitioning, &records, now);
        self.with(py, produce).map(places)
    }

    /// Repeats what got no answer; outside of transactions it says where those records are.
    #[pyo3(signature = (*, now_ms))]
    fn flush(&self, py: Python<'_>, now_ms: Arg<i64>) -> PyResult<Vec<Place>> {
        let now_ms = now_ms.named("now_ms")?;
        self.with(py, |producer| producer.flush(now_ms)).map(places)
    }

    /// Offsets that become committed with the transaction, if the member is still one then.
    #[pyo3(signature = (group, offsets, *, now_ms, member = None, generation = None))]
    fn send_offsets(
        &self,
        py: Python<'_>,
        group: Arg<String>,
        offsets: Vec<Offset>,
        now_ms: Arg<i64>,
        member: Option<Arg<String>>,
        generation: Option<Arg<u64>>,
    ) -> PyResult<()> {
        let group = group.named("group")?;
        let now_ms = now_ms.named("now_ms")?;
        let member = optional("member", member)?;
        let generation = optional("generation", generation)?;
        let offsets = commit_offsets(group, offsets, member, generation, now_ms)?;
        self.with(py, |producer| producer.send_offsets(offsets))
    }

    /// Makes the transaction visible at once, durably; says where its records are.
    ///
    /// Raises:
    ///     ProducerFencedError, TransactionTimedOutError: Nothing of it is there.
    ///     InvalidTransactionStateError, UnknownMemberError, IllegalGenerationError,
    ///     UnknownTopicOrPartitionError, CapacityExceededError: Nothing either; abort it.
    ///     LogTimeoutError, StoreIOError: Not known; call it again.
    #[pyo3(signature = (*, now_ms))]
    fn commit_transaction(&self, py: Python<'_>, now_ms: Arg<i64>) -> PyResult<Vec<Place>> {
        let now_ms = now_ms.named("now_ms")?;
        self.with(py, |producer| producer.commit_transaction(now_ms)).map(places)
    }

    /// Ends the transaction without a trace.
    #[pyo3(signature = (*, now_ms))]
    fn abort_transaction(&self, py: Python<'_>, now_ms: Arg<i64>) -> PyResult<()> {
        let now_ms = now_ms.named("now_ms")?;
        self.with(py, |producer| producer.abort_transaction(now_ms))
    }

    /// Lets go of the log, without ending an open transaction.
    fn close(&self, py: Python<'_>) {
        // It has a handle of the log, which the last one closes.
        let producer = self.producer.lock().take();
        py.detach(|| drop(producer));
    }
}
