//! `StateBackend`, and what it says about checkpoints and recoveries.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use numpy::{IntoPyArray, PyArray1};
use onceflow_core::backend::{Backend, BackendOptions, Recovery, Restore};
use onceflow_core::random::random_id;
use onceflow_core::store::{self, CheckpointRecord, Damage, StoreOptions};
use onceflow_core::{Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyString};

use crate::args::{self, Arg, optional};
use crate::checkpoint::{PyPendingCheckpoint, unix_ms};
use crate::deduplicator::{PyDeduplicator, options as deduplicator_options};
use crate::error::{invalid_argument, to_py, type_mismatch};
use crate::keys::KeyBatch;
use crate::table::{PyTable, PyTableSchema, schema};

/// Blobs of this prefix hold positions.
const POSITION_PREFIX: &str = "position/";

/// In a number of a lineage the time comes first, up to about the year 2250, and then so many that are drawn.
const MAX_LINEAGE_MS: u64 = 9_000_000_000_000;
const DRAWN_LINEAGES: u64 = 1_000_000;

const DEFAULT_JOB: &str = "default";
const DEFAULT_KEY_GROUPS: u16 = 128;

/// Tables of keyed state in a directory that a crash at any moment leaves whole.
///
/// One process owns a directory, others may read it. ``open`` restores the newest checkpoint;
/// ``checkpoint`` makes what was done since durable, at once or not at all. Safe to use from several
/// threads; a context manager that closes.
///
/// What is made by a backend belongs to it. Once it is closed every use of it and of its tables,
/// deduplicators and checkpoints raises ``BackendClosedError``; in a child that was forked since it
/// was opened, ``StoreForkedError``: open the directory after the fork. (``close`` and ``abort`` do
/// nothing in such a child, since all of it is the parent's.)
#[pyclass(name = "StateBackend", module = "onceflow._native", frozen)]
pub(crate) struct PyStateBackend {
    backend: Backend,
    job: String,
    run: String,
}

#[pymethods]
impl PyStateBackend {
    /// Opens or creates a state directory and restores a checkpoint.
    ///
    /// Args:
    ///     path: The directory; made private to the owner.
    ///     job: Name of the job that it belongs to; another name is refused. None: ``"default"``, or, to a reader,
    ///         whatever job.
    ///     key_groups: A power of two, fixed when the directory is created. None: 128, or, to a reader, as many as it
    ///         has.
    ///     retain: Complete checkpoints kept besides savepoints.
    ///     create: Whether to create what is missing.
    ///     read_only: Only look: no lock, no new epoch.
    ///     take_over: Fence a running or paused owner instead of being refused.
    ///     resume_from: ``"newest"``, ``"none"`` (empty tables) or the number of a checkpoint. Another one than the
    ///         newest starts a new lineage, for good from ``begin_lineage`` or the first checkpoint on.
    ///     lineage: Number of the lineage, if one begins, which no other copy of the directory may get. None: of the
    ///         time, in milliseconds, with six digits behind it that are drawn.
    ///     restore_key_groups: First group, and the one after the last.
    ///     max_state_bytes: Memory bound of each table.
    ///     map_size_bytes: Address space reserved for the file (sparse).
    ///     chunk_bytes: Size at which a state chunk is cut.
    ///
    /// Raises:
    ///     StoreLockedError, StoreMissingError, StoreMismatchError, StoreFormatError,
    ///     StoreCorruptError, StoreReadOnlyError, StoreFullError, StoreNetworkFilesystemError,
    ///     CheckpointNotFoundError, ConfigurationError, StoreIOError.
    #[staticmethod]
    #[pyo3(signature = (
        path,
        *,
        job = None,
        key_groups = None,
        retain = Arg::of(2),
        create = Arg::of(true),
        read_only = Arg::of(false),
        take_over = Arg::of(false),
        resume_from = None,
        lineage = None,
        restore_key_groups = None,
        max_state_bytes = Arg::of(64 << 30),
        map_size_bytes = Arg::of(64 << 30),
        chunk_bytes = Arg::of(256 << 10),
    ), text_signature = "(path, *, job=None, key_groups=None, retain=2, create=True, \
        read_only=False, take_over=False, resume_from=\"newest\", lineage=None, restore_key_groups=None, \
        max_state_bytes=68719476736, map_size_bytes=68719476736, chunk_bytes=262144)")]
    #[allow(clippy::too_many_arguments)]
    fn open(
        py: Python<'_>,
        path: Arg<PathBuf>,
        job: Option<Arg<String>>,
        key_groups: Option<Arg<u16>>,
        retain: Arg<usize>,
        create: Arg<bool>,
        read_only: Arg<bool>,
        take_over: Arg<bool>,
        resume_from: Option<&Bound<'_, PyAny>>,
        lineage: Option<Arg<u64>>,
        restore_key_groups: Option<Arg<(u16, u16)>>,
        max_state_bytes: Arg<usize>,
        map_size_bytes: Arg<usize>,
        chunk_bytes: Arg<usize>,
    ) -> PyResult<Self> {
        let path = path.named("path")?;
        let job = optional("job", job)?;
        let key_groups = optional("key_groups", key_groups)?;
        let retain = retain.named("retain")?;
        let create = create.named("create")?;
        let read_only = read_only.named("read_only")?;
        let take_over = take_over.named("take_over")?;
        let lineage = optional("lineage", lineage)?.unwrap_or_else(new_lineage);
        let restore_key_groups = optional("restore_key_groups", restore_key_groups)?;
        let max_state_bytes = max_state_bytes.named("max_state_bytes")?;
        let map_size_bytes = map_size_bytes.named("map_size_bytes")?;
        let chunk_bytes = chunk_bytes.named("chunk_bytes")?;
        let restore = restore_of(resume_from)?;
        let (job, key_groups) = match (job, key_groups) {
            (Some(job), Some(key_groups)) => (job, key_groups),
            (job, key_groups) if read_only => {
                // A reader need not know whose directory it looks into.
                let found = py.detach(|| store::settings(&path)).map_err(to_py)?;
                (job.unwrap_or(found.job), key_groups.unwrap_or(found.key_groups))
            }
            (job, key_groups) => (
                job.unwrap_or_else(|| DEFAULT_JOB.to_owned()),
                key_groups.unwrap_or(DEFAULT_KEY_GROUPS),
            ),
        };
        let (first, end) = restore_key_groups.unwrap_or((0, key_groups));
        let options = BackendOptions {
            store: StoreOptions {
                job: job.clone(),
                key_groups,
                map_size_bytes,
                create,
                read_only,
                take_over,
                store_id: random_id(),
            },
            retain,
            restore,
            lineage,
            groups: first..end,
            max_state_bytes,
            chunk_bytes,
        };
        let backend = py.detach(|| Backend::open(&path, options)).map_err(to_py)?;
        Ok(Self { backend, job, run: format!("{:032x}", random_id()) })
    }

    #[getter]
    fn path(&self) -> OsString {
        self.backend.path().into_os_string()
    }

    #[getter]
    fn job(&self) -> &str {
        &self.job
    }

    /// Identity of the directory, drawn when it was created: 32 hex digits. A copy or a backup has the same.
    #[getter]
    fn store_id(&self) -> &str {
        self.backend.store_id()
    }

    #[getter]
    fn job_epoch(&self) -> u64 {
        self.backend.job_epoch()
    }

    /// The lineage that this run's checkpoints belong to.
    #[getter]
    fn lineage(&self) -> u64 {
        self.backend.lineage()
    }

    #[getter]
    fn key_groups(&self) -> u16 {
        self.backend.key_groups()
    }

    #[getter]
    fn recovery(&self) -> PyRecovery {
        PyRecovery { recovery: self.backend.recovery().clone() }
    }

    /// The table of this name: the restored one, or a new one.
    ///
    /// Args:
    ///     name: 1 to 400 bytes, not beginning with two underscores.
    ///     key: ``"i64"``, ``"u64"``, ``"str"``, ``"bytes"``, or up to 16 of these for tuple keys.
    ///     columns: Up to 30, by name: ``"i64"``, ``"u64"``, ``"f64"``, ``"f32"``, ``"u32"``,
    ///         ``"bool"`` or ``"bytes"``.
    ///
    /// Raises:
    ///     SchemaMismatchError: It exists with another key or other columns.
    ///     ConfigurationError: A name or type that cannot be.
    #[pyo3(signature = (name, *, key, columns))]
    fn table(
        &self,
        name: Arg<String>,
        key: &Bound<'_, PyAny>,
        columns: &Bound<'_, PyAny>,
    ) -> PyResult<PyTable> {
        let name = name.named("name")?;
        let schema = schema(key, columns)?;
        let table = self.backend.table(&name, &schema).map_err(to_py)?;
        Ok(PyTable::new(&name, schema, table, self.backend.clone()))
    }

    /// What tables there are, by name.
    fn tables(&self) -> PyResult<BTreeMap<String, PyTableSchema>> {
        let tables = self.backend.tables().map_err(to_py)?.into_iter();
        Ok(tables.map(|(name, schema)| (name, PyTableSchema { schema })).collect())
    }

    /// Forgets a table from the next checkpoint on; waits for one that was cut with it.
    ///
    /// Using a handle of it that is left raises ``BackendClosedError``.
    ///
    /// Raises:
    ///     UnknownNameError: There is none of this name.
    ///     CheckpointStateError: A checkpoint was begun and neither committed nor aborted.
    fn drop_table(&self, py: Python<'_>, name: Arg<String>) -> PyResult<()> {
        let name = name.named("name")?;
        py.detach(|| self.backend.drop_table(&name)).map_err(to_py)
    }

    /// A deduplicator whose changes are part of every checkpoint of this backend.
    #[pyo3(signature = (
        name,
        *,
        mode = Arg::of("strict".to_owned()),
        window = Arg::of(5),
        order = Arg::of("ordered".to_owned()),
        max_producers = Arg::of(1_000_000),
        max_bytes = Arg::of(1 << 30),
        expiry_s = None,
        now_s = Arg::of(0.0),
    ), text_signature = "($self, name, *, mode='strict', window=5, order='ordered', \
        max_producers=1000000, max_bytes=1073741824, expiry_s=None, now_s=0.0)")]
    #[allow(clippy::too_many_arguments)]
    fn deduplicator(
        &self,
        py: Python<'_>,
        name: Arg<String>,
        mode: Arg<String>,
        window: Arg<usize>,
        order: Arg<String>,
        max_producers: Arg<usize>,
        max_bytes: Arg<usize>,
        expiry_s: Option<Arg<f64>>,
        now_s: Arg<f64>,
    ) -> PyResult<PyDeduplicator> {
        let (name, now_s) = (name.named("name")?, now_s.named("now_s")?);
        let options =
            deduplicator_options(mode, window, order, max_producers, max_bytes, expiry_s)?;
        let shared = py.detach(|| self.backend.deduplicator(&name, options, now_s));
        Ok(PyDeduplicator::of(self.backend.clone(), shared.map_err(to_py)?))
    }

    /// Starts a checkpoint step by step, once the one before is durable.
    ///
    /// Then ``freeze`` (the cut), ``put_blob`` and ``stage``, and at last ``write``, ``commit`` or ``abort``.
    #[pyo3(signature = (*, savepoint = None))]
    fn begin_checkpoint(
        &self,
        py: Python<'_>,
        savepoint: Option<Arg<String>>,
    ) -> PyResult<PyPendingCheckpoint> {
        let savepoint = optional("savepoint", savepoint)?;
        let pending = py.detach(|| self.backend.begin_checkpoint(savepoint)).map_err(to_py)?;
        Ok(PyPendingCheckpoint::new(pending))
    }

    /// begin, freeze, keep ``positions``, commit: in one call.
    ///
    /// Returns at once but for the checkpoint before, which it waits for; ``wait`` says when it is
    /// durable. Changes made from now on belong to the next one.
    ///
    /// Args:
    ///     positions: Where each input is read on from, by name; ``positions`` after a restart.
    ///     savepoint: A name: the checkpoint is kept until it is deleted.
    ///
    /// Raises:
    ///     CheckpointStateError: One was begun and neither committed nor aborted.
    ///     FencedError, BackendClosedError, StoreError: As they say.
    #[pyo3(signature = (positions = None, *, savepoint = None))]
    fn checkpoint(
        &self,
        py: Python<'_>,
        positions: Option<&Bound<'_, PyAny>>,
        savepoint: Option<Arg<String>>,
    ) -> PyResult<PyPendingCheckpoint> {
        let mut encoded = Vec::new();
        let positions =
            positions.map(|positions| args::as_dict("positions", positions)).transpose()?;
        for (name, position) in positions.iter().flatten() {
            let name: String = args::read("the name of a position", &name)?;
            encoded.push((format!("{POSITION_PREFIX}{name}"), encode_position(&name, &position)?));
        }
        let pending = self.begin_checkpoint(py, savepoint)?;
        for (name, bytes) in encoded {
            pending.pending.put_blob(&name, bytes).map_err(to_py)?;
        }
        pending.commit(py)?;
        Ok(pending)
    }

    /// The positions of the checkpoint that was restored.
    #[getter]
    fn positions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        positions(py, self.backend.recovery().restored.as_ref())
    }

    /// All complete checkpoints, oldest first; a damaged record is in its place, with ``damage``.
    fn checkpoints(&self, py: Python<'_>) -> PyResult<Vec<PyCheckpointInfo>> {
        let records = py.detach(|| self.backend.checkpoints()).map_err(to_py)?;
        Ok(records.into_iter().map(PyCheckpointInfo::new).collect())
    }

    /// Removes a savepoint or an old checkpoint; ``CheckpointStateError`` for the newest one.
    fn delete_checkpoint(&self, py: Python<'_>, checkpoint_id: Arg<u64>) -> PyResult<()> {
        let checkpoint_id = checkpoint_id.named("checkpoint_id")?;
        py.detach(|| self.backend.delete_checkpoint(checkpoint_id)).map_err(to_py)
    }

    /// Gives a lineage that begins a number above another one, which was found in a target, such as where the clock
    /// of a copy of the directory was ahead. False if none begins, or it has begun.
    fn raise_lineage(&self, above: Arg<u64>) -> PyResult<bool> {
        Ok(self.backend.raise_lineage(above.named("above")?))
    }

    /// Makes it durable that the job goes on from the checkpoint that was opened: from now on it is resumed in the
    /// new lineage, also after a crash. Does nothing if the lineage is not new.
    fn begin_lineage(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.backend.begin_lineage()).map_err(to_py)
    }

    /// Identity of the run that has opened it: 32 hex digits that no other run has, also not of a copy of the
    /// directory with the same epoch.
    #[getter]
    fn run(&self) -> &str {
        &self.run
    }

    /// Makes it durable that this run begins, before it shows anywhere outside.
    fn begin_run(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.backend.begin_run(&self.run)).map_err(to_py)
    }

    /// Job epoch → identity of the runs that have begun, as many as are kept: all of them from the first one on.
    fn runs(&self) -> BTreeMap<u64, String> {
        self.backend.runs().into_iter().collect()
    }

    /// The newest checkpoint that the job has not left; None: it would start from nothing.
    #[getter]
    fn resumes_from(&self) -> Option<u64> {
        self.backend.resumes_from()
    }

    /// The newest job epoch that the directory knows, whoever has it: to a reader that of the run which owns it, or
    /// owned it last.
    fn newest_job_epoch(&self) -> PyResult<u64> {
        self.backend.newest_job_epoch().map_err(to_py)
    }

    /// Raises ``FencedError`` if a newer run has taken over.
    fn check_epoch(&self) -> PyResult<()> {
        self.backend.check_epoch().map_err(to_py)
    }

    /// Lets a checkpoint under way go on for a moment; calls on tables do so anyway.
    fn poll(&self) -> PyResult<()> {
        self.backend.check_open().map_err(to_py)?;
        self.backend.poll();
        Ok(())
    }

    /// (file_bytes, used_bytes).
    fn size(&self) -> PyResult<(u64, u64)> {
        let size = self.backend.size().map_err(to_py)?;
        Ok((size.file_bytes, size.used_bytes))
    }

    /// Copies the directory as it is at one moment to a new one, while everything goes on.
    fn backup(&self, py: Python<'_>, target: Arg<PathBuf>) -> PyResult<()> {
        let target = target.named("target")?;
        py.detach(|| self.backend.backup(&target)).map_err(to_py)
    }

    /// Waits for the checkpoint that is being written, aborts one that was not committed, and lets go
    /// of the directory. Closing twice is no error; in a forked child it does nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.backend.close()).map_err(to_py)
    }

    fn __enter__(this: Py<Self>) -> PyResult<Py<Self>> {
        this.get().backend.check_open().map_err(to_py)?;
        Ok(this)
    }

    #[pyo3(signature = (*_exc))]
    fn __exit__(&self, py: Python<'_>, _exc: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        format!(
            "StateBackend({:?}, job={:?}, job_epoch={})",
            self.backend.path(),
            self.job,
            self.job_epoch()
        )
    }
}

/// A decision record.
#[pyclass(name = "CheckpointInfo", module = "onceflow._native", frozen)]
pub(crate) struct PyCheckpointInfo {
    id: u64,
    record: Option<CheckpointRecord>,
    damage: Option<String>,
}

impl PyCheckpointInfo {
    fn new(record: Result<CheckpointRecord, Damage>) -> Self {
        match record {
            Ok(record) => Self { id: record.id, record: Some(record), damage: None },
            Err(damage) => Self {
                id: damage.checkpoint.unwrap_or(0),
                record: None,
                damage: Some(damage.reason),
            },
        }
    }
}

fn blobs<'py>(
    py: Python<'py>,
    blobs: Option<&BTreeMap<String, Vec<u8>>>,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, bytes) in blobs.into_iter().flatten() {
        dict.set_item(name, PyBytes::new(py, bytes))?;
    }
    Ok(dict)
}

fn positions<'py>(
    py: Python<'py>,
    record: Option<&CheckpointRecord>,
) -> PyResult<Bound<'py, PyDict>> {
    let positions = PyDict::new(py);
    for (name, bytes) in record.into_iter().flat_map(|record| &record.blobs) {
        if let Some(name) = name.strip_prefix(POSITION_PREFIX) {
            positions.set_item(name, decode_position(py, bytes)?)?;
        }
    }
    Ok(positions)
}

#[pymethods]
impl PyCheckpointInfo {
    #[getter]
    fn id(&self) -> u64 {
        self.id
    }

    #[getter]
    fn job_epoch(&self) -> u64 {
        self.record.as_ref().map_or(0, |record| record.job_epoch)
    }

    #[getter]
    fn lineage(&self) -> u64 {
        self.record.as_ref().map_or(0, |record| record.lineage)
    }

    #[getter]
    fn created_unix_ms(&self) -> u64 {
        self.record.as_ref().map_or(0, |record| record.created_unix_ms)
    }

    #[getter]
    fn savepoint(&self) -> Option<String> {
        self.record.as_ref().and_then(|record| record.savepoint.clone())
    }

    /// Rows by table name.
    #[getter]
    fn tables(&self) -> BTreeMap<String, u64> {
        let tables = self.record.iter().flat_map(|record| &record.tables);
        tables.map(|table| (table.name.clone(), table.rows)).collect()
    }

    #[getter]
    fn blobs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        blobs(py, self.record.as_ref().map(|record| &record.blobs))
    }

    /// What ``StateBackend.checkpoint`` was given.
    #[getter]
    fn positions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        positions(py, self.record.as_ref())
    }

    #[getter]
    fn staged<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        blobs(py, self.record.as_ref().map(|record| &record.staged))
    }

    #[getter]
    fn chunks(&self) -> usize {
        let tables = self.record.iter().flat_map(|record| &record.tables);
        tables.map(|table| table.chain.chunks.len()).sum()
    }

    #[getter]
    fn bytes(&self) -> u64 {
        let tables = self.record.iter().flat_map(|record| &record.tables);
        tables.flat_map(|table| &table.chain.chunks).map(|chunk| chunk.bytes).sum()
    }

    /// Why the record cannot be read, if so.
    #[getter]
    fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    fn __repr__(&self) -> String {
        match &self.damage {
            Some(damage) => format!("CheckpointInfo({}, damage={damage:?})", self.id),
            None => format!("CheckpointInfo({}, lineage={})", self.id, self.lineage()),
        }
    }
}

/// What opening a state directory found.
#[pyclass(name = "Recovery", module = "onceflow._native", frozen)]
pub(crate) struct PyRecovery {
    recovery: Recovery,
}

fn damages(damage: &[Damage]) -> Vec<(Option<u64>, String)> {
    damage.iter().map(|damage| (damage.checkpoint, damage.reason.clone())).collect()
}

#[pymethods]
impl PyRecovery {
    #[getter]
    fn restored(&self) -> Option<PyCheckpointInfo> {
        self.recovery.restored.clone().map(|record| PyCheckpointInfo::new(Ok(record)))
    }

    #[getter]
    fn decided_after(&self) -> Vec<PyCheckpointInfo> {
        let records = self.recovery.decided_after.iter().cloned();
        records.map(|record| PyCheckpointInfo::new(Ok(record))).collect()
    }

    #[getter]
    fn damage(&self) -> Vec<(Option<u64>, String)> {
        damages(&self.recovery.damage)
    }

    #[getter]
    fn rows(&self) -> u64 {
        self.recovery.rows
    }

    #[getter]
    fn bytes(&self) -> u64 {
        self.recovery.bytes
    }

    #[getter]
    fn duration_s(&self) -> f64 {
        self.recovery.duration_s
    }
}

/// Checks every record and chunk in this process; damage may kill it (run it in a child).
#[pyfunction]
#[pyo3(name = "verify")]
pub(crate) fn py_verify(py: Python<'_>, path: Arg<PathBuf>) -> PyResult<PyVerifyReport> {
    let path = path.named("path")?;
    let report = py.detach(|| store::verify(&path)).map_err(to_py)?;
    Ok(PyVerifyReport {
        checkpoints: report.checkpoints,
        chunks: report.chunks,
        bytes: report.bytes,
        damage: damages(&report.damage),
    })
}

/// What ``verify`` found.
#[pyclass(name = "VerifyReport", module = "onceflow._native", frozen, get_all)]
pub(crate) struct PyVerifyReport {
    checkpoints: Vec<u64>,
    chunks: u64,
    bytes: u64,
    damage: Vec<(Option<u64>, String)>,
}

/// The key group that a key belongs to.
#[pyfunction]
#[pyo3(name = "key_group")]
pub(crate) fn py_key_group(
    key: &Bound<'_, PyAny>,
    key_type: &Bound<'_, PyAny>,
    key_groups: Arg<u16>,
) -> PyResult<u16> {
    let key_groups = key_groups.named("key_groups")?;
    if !key_groups.is_power_of_two() {
        return Err(invalid_argument(format!("{key_groups} key groups; give a power of two")));
    }
    let list = pyo3::types::PyList::new(key.py(), [key])?;
    Ok(groups_of(list.as_any(), key_type, key_groups)?[0])
}

/// The key group of each key of a batch, of as many groups, a power of two.
///
/// Raises:
///     TypeMismatchError: A key is of another type.
#[pyfunction]
#[pyo3(name = "_key_groups")]
pub(crate) fn py_key_groups<'py>(
    keys: &Bound<'py, PyAny>,
    key_type: &Bound<'py, PyAny>,
    key_groups: u16,
) -> PyResult<Bound<'py, PyArray1<u16>>> {
    if !key_groups.is_power_of_two() {
        return Err(invalid_argument(format!("{key_groups} key groups; give a power of two")));
    }
    Ok(groups_of(keys, key_type, key_groups)?.into_pyarray(keys.py()))
}

fn groups_of(
    keys: &Bound<'_, PyAny>,
    key_type: &Bound<'_, PyAny>,
    key_groups: u16,
) -> PyResult<Vec<u16>> {
    let batch = KeyBatch::read(&crate::table::key_type(key_type)?, keys)?;
    let hashes = onceflow_core::rows::hashes(&batch.as_keys()?);
    Ok(hashes.into_iter().map(|hash| onceflow_core::hash::key_group(hash, key_groups)).collect())
}

/// Which checkpoint to restore.
fn restore_of(resume_from: Option<&Bound<'_, PyAny>>) -> PyResult<Restore> {
    let Some(resume_from) = resume_from else { return Ok(Restore::Newest) };
    if let Ok(name) = resume_from.cast::<PyString>() {
        return match name.to_str().unwrap_or_default() {
            "newest" => Ok(Restore::Newest),
            "none" => Ok(Restore::Nothing),
            _ => Err(invalid_argument(format!(
                "resume_from is {}; give \"newest\", \"none\" or a number",
                name.repr()?
            ))),
        };
    }
    args::read("resume_from", resume_from).map(Restore::Checkpoint)
}

/// A position as a tag and its text or bytes.
fn encode_position(name: &str, position: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let tagged = |tag: u8, bytes: &[u8]| [&[tag], bytes].concat();
    if let Ok(text) = position.cast::<PyString>() {
        let text: String = args::read(&format!("the position of {name:?}"), text)?;
        return Ok(tagged(b's', text.as_bytes()));
    }
    if let Ok(bytes) = position.cast::<PyBytes>() {
        return Ok(tagged(b'b', bytes.as_bytes()));
    }
    if !position.is_instance_of::<PyBool>()
        && let Ok(number) = position.extract::<i64>()
    {
        return Ok(tagged(b'i', number.to_string().as_bytes()));
    }
    Err(type_mismatch(format!(
        "the position of {name:?} is a {}; give an int of 64 bits, a str or bytes",
        position.get_type().name()?
    )))
}

fn decode_position<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let unknown = || {
        let text = format!("a checkpoint has a position that this version cannot read: {bytes:?}");
        to_py(Error::new(ErrorKind::StoreFormat, text))
    };
    let (tag, rest) = bytes.split_first().ok_or_else(unknown)?;
    if *tag == b'b' {
        return Ok(PyBytes::new(py, rest).into_any());
    }
    let text = std::str::from_utf8(rest).map_err(|_| unknown())?;
    match tag {
        b'i' => {
            let number: i64 = text.parse().map_err(|_| unknown())?;
            Ok(number.into_pyobject(py)?.into_any())
        }
        b's' => Ok(PyString::new(py, text).into_any()),
        _ => Err(unknown()),
    }
}

/// A number that no other copy of a directory gets, and that is above those of all lineages that began before.
fn new_lineage() -> u64 {
    let drawn = (random_id() % u128::from(DRAWN_LINEAGES)) as u64;
    unix_ms().min(MAX_LINEAGE_MS) * DRAWN_LINEAGES + drawn
}
