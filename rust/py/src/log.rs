//! `Log`: topics, reading, consumer groups, upkeep, and the producers' protocol.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use onceflow_core::log::{
    Assigned, Budget, Committed, FetchLimits, Join, Limits, Log, LogOptions, Reading,
    TopicSettings, TransactionId,
};
use onceflow_core::random::random_id;
use onceflow_core::{Error, ErrorKind};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::args::{Arg, optional};
use crate::error::to_py;
use crate::log_args::{PartArgument, Parts, changed, millis, seconds};
use crate::log_group::PyLogGroup;
use crate::log_maintained::PyLogMaintained;
use crate::log_partition::PyLogPartition;
use crate::log_producer::{Offset, Place, commit_offsets, places};
use crate::log_producer_info::PyLogProducerInfo;
use crate::log_records::PyLogRecords;
use crate::log_topic::PyLogTopic;
use crate::wakeup::PyWakeHandle;

/// How often a waiting thread looks for signals.
const SIGNALS_EVERY: Duration = Duration::from_millis(200);

/// An embedded log: one directory, opened by any number of processes.
///
/// In one process all handles of a directory share one log, with the options of the first; it is
/// closed with the last handle (a producer holds one). Safe to call from several threads: their
/// commits share a sync.
#[pyclass(name = "Log", module = "onceflow._native", frozen)]
pub(crate) struct PyLog {
    path: PathBuf,
    /// `None` after `close`.
    log: Mutex<Option<Log>>,
}

impl PyLog {
    pub(crate) fn get(&self) -> PyResult<Log> {
        self.log.lock().clone().ok_or_else(|| {
            let text = format!("the log {} was closed", self.path.display());
            to_py(Error::new(ErrorKind::Closed, text))
        })
    }

    /// Runs something on the log without the GIL.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        run: impl FnOnce(&Log) -> onceflow_core::Result<T> + Send,
    ) -> PyResult<T> {
        let log = self.get()?;
        py.detach(|| run(&log)).map_err(to_py)
    }

    /// Partitions by their topics' names.
    fn named(&self, py: Python<'_>, assigned: Assigned) -> PyResult<(u64, Vec<(String, u32)>)> {
        let partitions = self.names(py, assigned.partitions)?;
        Ok((assigned.generation, partitions))
    }

    fn names(&self, py: Python<'_>, places: Vec<(u32, u32)>) -> PyResult<Vec<(String, u32)>> {
        let topics = self.with(py, Log::topics)?;
        let names: HashMap<u32, &str> =
            topics.iter().map(|topic| (topic.number, topic.name.as_str())).collect();
        let named = |(number, partition): (u32, u32)| {
            names.get(&number).map(|name| ((*name).to_owned(), partition))
        };
        Ok(places.into_iter().filter_map(named).collect())
    }
}

/// Tells this boot of the machine from all others.
static BOOT: LazyLock<String> = LazyLock::new(|| {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().to_owned()
});

#[pymethods]
impl PyLog {
    /// Opens or creates a log. Give every process the same bounds.
    ///
    /// Args:
    ///     path: The directory; made private to the owner.
    ///     create: Whether to create what is missing.
    ///     read_only: Only read.
    ///     map_size_bytes: Address space reserved for the file (sparse), default 256 GiB.
    ///     commit_timeout_s: How long to wait while another process commits.
    ///     producer_expiry_ms: A producer that was silent for so long in a partition counts as
    ///         unknown there; default one day, None: never.
    ///     transactional_id_expiry_ms: A transactional id that nobody has used for so long is
    ///         forgotten; default seven days, None: never.
    ///     group_expiry_ms: A group that has no members and commits nothing for so long is
    ///         forgotten with its offsets; default seven days, None: never.
    ///     max_producers: Transactional ids, and producers of each partition, at most.
    ///     max_transaction_bytes: Size of one transaction, default 64 GiB.
    ///     max_transaction_timeout_ms: Longest timeout a producer may ask for, default one hour.
    ///     max_producer_epoch: After it a producer gets a new id; for tests.
    ///
    /// Raises:
    ///     StoreMissingError, StoreMismatchError (a job's state), StoreFormatError,
    ///     StoreCorruptError, StoreLockedError, StoreReadOnlyError, StoreNetworkFilesystemError,
    ///     StoreFullError, ConfigurationError, StoreIOError.
    #[staticmethod]
    #[pyo3(signature = (
        path,
        *,
        create = Arg::of(true),
        read_only = Arg::of(false),
        map_size_bytes = Arg::of(256 << 30),
        commit_timeout_s = Arg::of(10.0),
        producer_expiry_ms = Some(Arg::of(24 * 3600 * 1000)),
        transactional_id_expiry_ms = Some(Arg::of(7 * 24 * 3600 * 1000)),
        group_expiry_ms = Some(Arg::of(7 * 24 * 3600 * 1000)),
        max_producers = Arg::of(100_000),
        max_transaction_bytes = Arg::of(64 << 30),
        max_transaction_timeout_ms = Arg::of(3600 * 1000),
        max_producer_epoch = Arg::of(i32::MAX - 1),
    ), text_signature = "(path, *, create=True, read_only=False, \
            map_size_bytes=274877906944, commit_timeout_s=10.0, producer_expiry_ms=86400000, \
            transactional_id_expiry_ms=604800000, group_expiry_ms=604800000, \
            max_producers=100000, max_transaction_bytes=68719476736, \
            max_transaction_timeout_ms=3600000, max_producer_epoch=2147483646)")]
    #[allow(clippy::too_many_arguments)]
    fn open(
        py: Python<'_>,
        path: Arg<PathBuf>,
        create: Arg<bool>,
        read_only: Arg<bool>,
        map_size_bytes: Arg<usize>,
        commit_timeout_s: Arg<f64>,
        producer_expiry_ms: Option<Arg<u64>>,
        transactional_id_expiry_ms: Option<Arg<u64>>,
        group_expiry_ms: Option<Arg<u64>>,
        max_producers: Arg<u64>,
        max_transaction_bytes: Arg<u64>,
        max_transaction_timeout_ms: Arg<u64>,
        max_producer_epoch: Arg<i32>,
    ) -> PyResult<Self> {
        let path = path.named("path")?;
        let create = create.named("create")?;
        let read_only = read_only.named("read_only")?;
        let map_size_bytes = map_size_bytes.named("map_size_bytes")?;
        let commit_timeout_s = commit_timeout_s.named("commit_timeout_s")?;
        let producer_expiry_ms = optional("producer_expiry_ms", producer_expiry_ms)?;
        let transactional_id_expiry_ms =
            optional("transactional_id_expiry_ms", transactional_id_expiry_ms)?;
        let group_expiry_ms = optional("group_expiry_ms", group_expiry_ms)?;
        let max_producers = max_producers.named("max_producers")?;
        let max_transaction_bytes = max_transaction_bytes.named("max_transaction_bytes")?;
        let max_transaction_timeout_ms =
            max_transaction_timeout_ms.named("max_transaction_timeout_ms")?;
        let max_producer_epoch = max_producer_epoch.named("max_producer_epoch")?;
        let options = LogOptions {
            create,
            read_only,
            map_size_bytes,
            commit_timeout: seconds("commit_timeout_s", commit_timeout_s)?,
            store_id: random_id(),
            limits: Limits {
                producer_expiry_ms,
                transactional_id_expiry_ms,
                group_expiry_ms,
                max_producers,
                max_transaction_bytes,
                max_transaction_timeout_ms,
                max_producer_epoch,
            },
        };
        let log = py.detach(|| Log::open(&path, &options)).map_err(to_py)?;
        Ok(Self { path: log.path().to_owned(), log: Mutex::new(Some(log)) })
    }

    #[getter]
    fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Its identity, made with it. Copies have the same.
    #[getter]
    fn id(&self) -> PyResult<String> {
        Ok(self.get()?.id().to_owned())
    }

    #[getter]
    fn closed(&self) -> bool {
        self.log.lock().is_none()
    }

    /// What the log's clock shows, in milliseconds: what durations are measured by, in all processes.
    ///
    /// It began as the wall clock when the log was made, and goes on with the monotonic clock, whatever the wall clock
    /// is set to; over a boot by what the wall clock says has passed.
    ///
    /// Args:
    ///     monotonic_s: Seconds of a clock that all processes of this boot share and that cannot be set.
    ///     wall_s: Seconds since 1970 by the wall clock.
    ///
    /// Raises:
    ///     ConfigurationError: Not times.
    ///     LogTimeoutError: It is the first reading since the boot, and another process holds the log.
    fn time_ms(&self, py: Python<'_>, monotonic_s: Arg<f64>, wall_s: Arg<f64>) -> PyResult<i64> {
        let monotonic_s = monotonic_s.named("monotonic_s")?;
        let wall_s = wall_s.named("wall_s")?;
        let reading = Reading {
            boot: &BOOT,
            monotonic_ms: millis("monotonic_s", monotonic_s)?,
            wall_ms: millis("wall_s", wall_s)?,
        };
        self.with(py, |log| log.time(&reading))
    }

    // ---- topics --------------------------------------------------------------------------

    /// A new topic.
    ///
    /// Args:
    ///     name: ASCII letters, digits, ``.``, ``_``, ``-``; at most 249.
    ///     settings: ``partitions``: 1 (default) to 10,000; more can be added later.
    ///         ``retention_ms``: batches whose newest record is older go, one from the future when
    ///         it was appended that long ago; None: never by age.
    ///         ``retention_bytes``: the oldest batches of a partition go while the others hold as
    ///         much; the newest one always stays.
    ///         ``cleanup_policy``: ``"delete"``, or ``"compact"``: the newest record of each key
    ///         stays. ``delete_retention_ms``: how long ``"compact"`` keeps a null value from when
    ///         it saw it first; default one day. ``max_record_bytes``: key, value and headers
    ///         together; default and at most about 1 MiB.
    ///
    /// Raises:
    ///     TopicExistsError, ConfigurationError.
    #[pyo3(signature = (name, **settings))]
    fn create_topic(
        &self,
        py: Python<'_>,
        name: Arg<String>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let name = name.named("name")?;
        let name = name.as_str();
        let settings = changed("create_topic", TopicSettings::default(), settings)?;
        self.with(py, |log| log.create_topic(name, &settings))
    }

    /// Changes the settings that are given; there can be more partitions, not fewer.
    #[pyo3(signature = (name, **changes))]
    fn alter_topic(
        &self,
        py: Python<'_>,
        name: Arg<String>,
        changes: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let name = name.named("name")?;
        let name = name.as_str();
        let present = self.with(py, |log| log.topic(name))?.settings;
        let settings = changed("alter_topic", present, changes)?;
        self.with(py, |log| log.alter_topic(name, &settings))
    }

    /// Removes a topic; ``maintain`` frees its space.
    fn delete_topic(&self, py: Python<'_>, name: Arg<String>) -> PyResult<()> {
        let name = name.named("name")?;
        let name = name.as_str();
        self.with(py, |log| log.delete_topic(name))
    }

    /// By name.
    fn topics(&self, py: Python<'_>) -> PyResult<Vec<PyLogTopic>> {
        Ok(self.with(py, Log::topics)?.into_iter().map(PyLogTopic::new).collect())
    }

    /// One topic.
    fn topic(&self, py: Python<'_>, name: Arg<String>) -> PyResult<PyLogTopic> {
        let name = name.named("name")?;
        let name = name.as_str();
        self.with(py, |log| log.topic(name)).map(PyLogTopic::new)
    }

    /// Where a partition begins and ends: its watermark offsets.
    fn partition(
        &self,
        py: Python<'_>,
        name: Arg<String>,
        partition: Arg<u32>,
    ) -> PyResult<PyLogPartition> {
        let name = name.named("name")?;
        let name = name.as_str();
        let partition = partition.named("partition")?;
        self.with(py, |log| log.partition(name, partition)).map(|info| PyLogPartition { info })
    }

    // ---- reading -------------------------------------------------------------------------

    /// Records from ``offset`` on, in order; none at the end. All of them are committed.
    ///
    /// Args:
    ///     max_bytes: Of keys, values and headers, default 8 MiB; one record always comes.
    ///
    /// Raises:
    ///     UnknownTopicOrPartitionError.
    ///     OffsetOutOfRangeError: Retention has removed it, or it lies after the end.
    ///     StoreCorruptError: The batch is damaged.
    #[pyo3(signature = (
        topic,
        partition,
        offset,
        *,
        max_records = Arg::of(100_000),
        max_bytes = Arg::of(8 << 20),
    ), text_signature = "($self, topic, partition, offset, *, max_records=100000, \
            max_bytes=8388608)")]
    fn fetch(
        &self,
        py: Python<'_>,
        topic: Arg<String>,
        partition: Arg<u32>,
        offset: Arg<u64>,
        max_records: Arg<usize>,
        max_bytes: Arg<usize>,
    ) -> PyResult<PyLogRecords> {
        let topic = topic.named("topic")?;
        let topic = topic.as_str();
        let partition = partition.named("partition")?;
        let offset = offset.named("offset")?;
        let max_records = max_records.named("max_records")?;
        let max_bytes = max_bytes.named("max_bytes")?;
        let limits = FetchLimits { max_records, max_bytes };
        PyLogRecords::new(self.with(py, |log| log.fetch(topic, partition, offset, limits))?)
    }

    /// The first offset whose record is not older; None if all are older.
    fn offset_for_timestamp(
        &self,
        py: Python<'_>,
        topic: Arg<String>,
        partition: Arg<u32>,
        timestamp_ms: Arg<i64>,
    ) -> PyResult<Option<u64>> {
        let topic = topic.named("topic")?;
        let topic = topic.as_str();
        let partition = partition.named("partition")?;
        let timestamp_ms = timestamp_ms.named("timestamp_ms")?;
        self.with(py, |log| log.offset_for_timestamp(topic, partition, timestamp_ms))
    }

    /// Waits until one of (topic, partition, offset) has a record at its offset or after it.
    ///
    /// Woken by commits of any process, without polling. False: the time is over.
    fn wait(
        &self,
        py: Python<'_>,
        positions: Vec<(Arg<String>, Arg<u32>, Arg<u64>)>,
        timeout_s: Arg<f64>,
    ) -> PyResult<bool> {
        let timeout_s = timeout_s.named("timeout_s")?;
        let log = self.get()?;
        let timeout = seconds("timeout_s", timeout_s)?;
        let named = |(topic, partition, offset): (Arg<String>, Arg<u32>, Arg<u64>)| {
            Ok((topic.named("topic")?, partition.named("partition")?, offset.named("offset")?))
        };
        let positions = positions.into_iter().map(named).collect::<PyResult<Vec<_>>>()?;
        let start = Instant::now();
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            let found = py.detach(|| log.wait(&positions, left.min(SIGNALS_EVERY)));
            if found.map_err(to_py)? {
                return Ok(true);
            }
            if start.elapsed() >= timeout {
                return Ok(false);
            }
            py.check_signals()?;
        }
    }

    /// From now on each commit of any process sets ``handle``.
    ///
    /// For as long as somebody has it and this log is open.
    fn wake(&self, handle: &PyWakeHandle) -> PyResult<()> {
        self.get()?.wake(&handle.wakeup).map_err(to_py)
    }

    // ---- producers' protocol -----------------------------------------------------------------

    /// Producer id and epoch: the protocol below ``LogProducer``.
    ///
    /// With a transactional id it is the next epoch, which fences all older ones; ``expected`` is
    /// the id and epoch that the caller believes to have: a retry gets the same answer, a zombie
    /// ProducerFencedError.
    #[pyo3(signature = (transactional_id, *, now_ms, timeout_ms = Arg::of(60_000), expected = None),
        text_signature = "($self, transactional_id, *, now_ms, timeout_ms=60000, \
            expected=None)")]
    fn init_producer(
        &self,
        py: Python<'_>,
        transactional_id: Option<Arg<String>>,
        now_ms: Arg<i64>,
        timeout_ms: Arg<u64>,
        expected: Option<Arg<(i64, i32)>>,
    ) -> PyResult<(i64, i32)> {
        let transactional_id = optional("transactional_id", transactional_id)?;
        let transactional_id = transactional_id.as_deref();
        let now_ms = now_ms.named("now_ms")?;
        let timeout_ms = timeout_ms.named("timeout_ms")?;
        let expected = optional("expected", expected)?;
        self.with(py, |log| log.init_producer(transactional_id, timeout_ms, expected, now_ms))
    }

    /// Appends outside of a transaction, all parts or none.
    ///
    /// Returns the offset of each part's first record, and whether it was there already.
    /// Without ``producer`` nobody recognises a retry.
    ///
    /// Raises:
    ///     OutOfOrderSequenceError, ProducerFencedError, InvalidTransactionStateError,
    ///     UnknownTopicOrPartitionError, RecordTooLargeError, CapacityExceededError,
    ///     LogTimeoutError.
    #[pyo3(signature = (parts, *, now_ms, producer = None))]
    fn append(
        &self,
        py: Python<'_>,
        parts: Vec<PartArgument<'_>>,
        now_ms: Arg<i64>,
        producer: Option<Arg<(i64, i32)>>,
    ) -> PyResult<Vec<(u64, bool)>> {
        let now_ms = now_ms.named("now_ms")?;
        let producer = optional("producer", producer)?;
        let parts = Parts::read(parts, now_ms)?;
        let writes = parts.writes()?;
        let placed = self.with(py, |log| log.append(producer, &writes, now_ms))?;
        Ok(placed.into_iter().map(|(placed, again)| (placed.first_offset, again)).collect())
    }

    /// Stages records of a transaction. ``first_sequence`` counts over all its records from 0.
    ///
    /// Raises as ``append``, and TransactionTimedOutError.
    #[pyo3(signature = (transactional_id, producer, *, started_ms, first_sequence, parts, now_ms))]
    #[allow(clippy::too_many_arguments)]
    fn stage(
        &self,
        py: Python<'_>,
        transactional_id: Arg<String>,
        producer: Arg<(i64, i32)>,
        started_ms: Arg<i64>,
        first_sequence: Arg<i32>,
        parts: Vec<PartArgument<'_>>,
        now_ms: Arg<i64>,
    ) -> PyResult<()> {
        let transactional_id = transactional_id.named("transactional_id")?;
        let transactional_id = transactional_id.as_str();
        let producer = producer.named("producer")?;
        let started_ms = started_ms.named("started_ms")?;
        let first_sequence = first_sequence.named("first_sequence")?;
        let now_ms = now_ms.named("now_ms")?;
        let (id, epoch) = producer;
        let transaction = TransactionId { transactional_id, id, epoch, started_ms };
        let parts = Parts::read(parts, now_ms)?;
        let writes = parts.writes()?;
        self.with(py, |log| log.stage(transaction, first_sequence, &writes, now_ms))
    }

    /// Ends a transaction; (producer id, epoch) for the next one, and where its records are.
    #[pyo3(signature = (
        transactional_id,
        producer,
        *,
        commit,
        started_ms,
        now_ms,
        first_sequence = Arg::of(0),
        parts = Vec::new(),
        group = None,
        offsets = Vec::new(),
        member = None,
        generation = None,
    ), text_signature = "($self, transactional_id, producer, *, commit, started_ms, now_ms, \
            first_sequence=0, parts=..., group=None, offsets=..., member=None, \
            generation=None)")]
    #[allow(clippy::too_many_arguments)]
    fn end_transaction(
        &self,
        py: Python<'_>,
        transactional_id: Arg<String>,
        producer: Arg<(i64, i32)>,
        commit: Arg<bool>,
        started_ms: Arg<i64>,
        now_ms: Arg<i64>,
        first_sequence: Arg<i32>,
        parts: Vec<PartArgument<'_>>,
        group: Option<Arg<String>>,
        offsets: Vec<Offset>,
        member: Option<Arg<String>>,
        generation: Option<Arg<u64>>,
    ) -> PyResult<(i64, i32, Vec<Place>)> {
        let transactional_id = transactional_id.named("transactional_id")?;
        let transactional_id = transactional_id.as_str();
        let producer = producer.named("producer")?;
        let commit = commit.named("commit")?;
        let started_ms = started_ms.named("started_ms")?;
        let now_ms = now_ms.named("now_ms")?;
        let first_sequence = first_sequence.named("first_sequence")?;
        let group = optional("group", group)?;
        let member = optional("member", member)?;
        let generation = optional("generation", generation)?;
        let (id, epoch) = producer;
        let transaction = TransactionId { transactional_id, id, epoch, started_ms };
        let parts = Parts::read(parts, now_ms)?;
        let writes = parts.writes()?;
        let offsets = group
            .map(|group| commit_offsets(group, offsets, member, generation, now_ms))
            .transpose()?;
        let ended = self.with(py, |log| {
            let offsets = offsets.as_slice();
            log.end_transaction(transaction, commit, first_sequence, &writes, offsets, now_ms)
        })?;
        Ok((ended.id, ended.epoch, places(ended.placed)))
    }

    /// The transactional producers, by their ids.
    fn producers(&self, py: Python<'_>) -> PyResult<Vec<PyLogProducerInfo>> {
        let producers = self.with(py, Log::producers)?;
        Ok(producers.into_iter().map(|info| PyLogProducerInfo { info }).collect())
    }

    // ---- consumer groups -------------------------------------------------------------------

    /// Commits offsets of a group; from outside only while it has no members.
    ///
    /// Raises:
    ///     UnknownMemberError, IllegalGenerationError, UnknownTopicOrPartitionError.
    #[pyo3(signature = (group, offsets, *, now_ms, member = None, generation = None))]
    fn commit_offsets(
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
        let commit = commit_offsets(group, offsets, member, generation, now_ms)?;
        self.with(py, |log| log.commit_offsets(&commit))
    }

    /// (offset, metadata, committed_ms), or None.
    fn committed(
        &self,
        py: Python<'_>,
        group: Arg<String>,
        topic: Arg<String>,
        partition: Arg<u32>,
    ) -> PyResult<Option<(u64, String, i64)>> {
        let group = group.named("group")?;
        let group = group.as_str();
        let topic = topic.named("topic")?;
        let topic = topic.as_str();
        let partition = partition.named("partition")?;
        let found = self.with(py, |log| log.committed(group, topic, partition))?;
        Ok(found
            .map(|Committed { offset, metadata, committed_ms }| (offset, metadata, committed_ms)))
    }

    /// Joins a group (or changes the topics of a member); (generation, partitions to read).
    ///
    /// ``member`` is an id of the caller's choice, unique for ever. Partitions that other members
    /// have not let go of come later: ``heartbeat`` says when. Topics need not exist yet.
    /// ``strategy``: ``"sticky"``, ``"range"`` or ``"roundrobin"``.
    #[pyo3(signature = (
        group,
        member,
        topics,
        *,
        now_ms,
        strategy = "sticky",
        session_timeout_ms = Arg::of(45_000),
        rebalance_timeout_ms = Arg::of(300_000),
    ), text_signature = "($self, group, member, topics, *, now_ms, strategy='sticky', \
            session_timeout_ms=45000, rebalance_timeout_ms=300000)")]
    #[allow(clippy::too_many_arguments)]
    fn join_group(
        &self,
        py: Python<'_>,
        group: Arg<String>,
        member: Arg<String>,
        topics: Vec<String>,
        now_ms: Arg<i64>,
        strategy: &str,
        session_timeout_ms: Arg<u64>,
        rebalance_timeout_ms: Arg<u64>,
    ) -> PyResult<(u64, Vec<(String, u32)>)> {
        let group = group.named("group")?;
        let member = member.named("member")?;
        let now_ms = now_ms.named("now_ms")?;
        let session_timeout_ms = session_timeout_ms.named("session_timeout_ms")?;
        let rebalance_timeout_ms = rebalance_timeout_ms.named("rebalance_timeout_ms")?;
        let strategy = crate::log_args::strategy(strategy)?;
        let join = Join {
            group,
            member,
            topics,
            strategy,
            session_timeout_ms,
            rebalance_timeout_ms,
            now_ms,
        };
        let assigned = self.with(py, |log| log.join_group(&join))?;
        self.named(py, assigned)
    }

    /// (newest generation, whether to rebalance). Cheap: no commit. Declares dead who is.
    ///
    /// To rebalance: stop reading what is not in ``group_target``, commit its offsets (with the
    /// generation that the member has), then ``sync_group``.
    ///
    /// Raises:
    ///     UnknownMemberError: It was declared dead; its partitions are others' now. Join again.
    #[pyo3(signature = (group, member, *, now_ms))]
    fn heartbeat(
        &self,
        py: Python<'_>,
        group: Arg<String>,
        member: Arg<String>,
        now_ms: Arg<i64>,
    ) -> PyResult<(u64, bool)> {
        let group = group.named("group")?;
        let group = group.as_str();
        let member = member.named("member")?;
        let member = member.as_str();
        let now_ms = now_ms.named("now_ms")?;
        let beat = self.with(py, |log| log.heartbeat(group, member, now_ms))?;
        Ok((beat.generation, beat.rebalance))
    }

    /// What the member shall read when the rebalance is over.
    fn group_target(
        &self,
        py: Python<'_>,
        group: Arg<String>,
        member: Arg<String>,
    ) -> PyResult<Vec<(String, u32)>> {
        let group = group.named("group")?;
        let group = group.as_str();
        let member = member.named("member")?;
        let member = member.as_str();
        let places = self.with(py, |log| log.target(group, member))?;
        self.names(py, places)
    }

    /// Takes up the newest generation; (generation, partitions to read).
    ///
    /// ``generation`` is the one that the member has taken up before.
    #[pyo3(signature = (group, member, generation, *, now_ms))]
    fn sync_group(
        &self,
        py: Python<'_>,
        group: Arg<String>,
        member: Arg<String>,
        generation: Arg<u64>,
        now_ms: Arg<i64>,
    ) -> PyResult<(u64, Vec<(String, u32)>)> {
        let group = group.named("group")?;
        let group = group.as_str();
        let member = member.named("member")?;
        let member = member.as_str();
        let generation = generation.named("generation")?;
        let now_ms = now_ms.named("now_ms")?;
        let assigned = self.with(py, |log| log.sync_group(group, member, generation, now_ms))?;
        self.named(py, assigned)
    }

    /// Leaves; the partitions go to others at once.
    #[pyo3(signature = (group, member, *, now_ms))]
    fn leave_group(
        &self,
        py: Python<'_>,
        group: Arg<String>,
        member: Arg<String>,
        now_ms: Arg<i64>,
    ) -> PyResult<()> {
        let group = group.named("group")?;
        let group = group.as_str();
        let member = member.named("member")?;
        let member = member.as_str();
        let now_ms = now_ms.named("now_ms")?;
        self.with(py, |log| log.leave_group(group, member, now_ms))
    }

    /// Removes a group without members, and its offsets.
    fn delete_group(&self, py: Python<'_>, group: Arg<String>) -> PyResult<()> {
        let group = group.named("group")?;
        let group = group.as_str();
        self.with(py, |log| log.delete_group(group))
    }

    /// All consumer groups.
    fn groups(&self, py: Python<'_>) -> PyResult<Vec<PyLogGroup>> {
        let groups = self.with(py, Log::groups)?;
        let topics = self.with(py, Log::topics)?;
        let names: HashMap<u32, String> =
            topics.into_iter().map(|topic| (topic.number, topic.name)).collect();
        Ok(groups.into_iter().map(|info| PyLogGroup::new(info, &names)).collect())
    }

    // ---- upkeep ------------------------------------------------------------------------------

    /// One bounded slice of upkeep; call it now and then, and again while ``more``.
    ///
    /// Aborts transactions that are open for too long, deletes what they left and what retention
    /// and deleted topics leave, forgets silent producers.
    #[pyo3(signature = (*, now_ms, batches = Arg::of(64), entries = Arg::of(1000)),
        text_signature = "($self, *, now_ms, batches=64, entries=1000)")]
    fn maintain(
        &self,
        py: Python<'_>,
        now_ms: Arg<i64>,
        batches: Arg<usize>,
        entries: Arg<usize>,
    ) -> PyResult<PyLogMaintained> {
        let now_ms = now_ms.named("now_ms")?;
        let batches = batches.named("batches")?;
        let entries = entries.named("entries")?;
        let done = self.with(py, |log| log.maintain(now_ms, Budget { batches, entries }))?;
        Ok(PyLogMaintained {
            timed_out: done.timed_out,
            discarded: done.discarded,
            removed: done.removed,
            forgotten: done.forgotten,
            compacted: done.compacted,
            more: done.more,
        })
    }

    /// (file_bytes, used_bytes).
    fn size(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        let size = self.with(py, Log::size)?;
        Ok((size.file_bytes, size.used_bytes))
    }

    /// A consistent copy into a directory that does not exist yet, while running.
    fn backup(&self, py: Python<'_>, target: Arg<PathBuf>) -> PyResult<()> {
        let target = target.named("target")?;
        self.with(py, |log| log.backup(&target))
    }

    /// Closes this handle; the last one of the process closes the file.
    fn close(&self, py: Python<'_>) {
        // The last handle closes the file.
        let log = self.log.lock().take();
        py.detach(|| drop(log));
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_exc))]
    fn __exit__(&self, py: Python<'_>, _exc: &Bound<'_, PyAny>) {
        self.close(py);
    }

    fn __repr__(&self) -> String {
        format!("Log({:?})", self.path())
    }
}
