//! `StateBackend`, and what it says about checkpoints and recoveries.

use std::collections::BTreeMap;
use std::path::PathBuf;

use onceflow_core::backend::{Backend, BackendOptions, Recovery, Restore};
use onceflow_core::random::random_id;
use onceflow_core::store::{self, CheckpointRecord, Damage, StoreOptions};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt, PyString};

use crate::checkpoint::PyPendingCheckpoint;
use crate::deduplicator::{PyDeduplicator, options as deduplicator_options};
use crate::error::{invalid_argument, to_py, type_mismatch};
use crate::keys::KeyBatch;
use crate::table::{PyTable, PyTableSchema, schema};

/// Blobs of this prefix hold positions.
const POSITION_PREFIX: &str = "position/";

const DEFAULT_JOB: &str = "default";
const DEFAULT_KEY_GROUPS: u16 = 128;

/// See `onceflow.StateBackend`.
#[pyclass(name = "StateBackend", module = "onceflow._native", frozen)]
pub(crate) struct PyStateBackend {
    backend: Backend,
    job: String,
}

#[pymethods]
impl PyStateBackend {
    #[staticmethod]
    #[pyo3(signature = (
        path,
        *,
        job = None,
        key_groups = None,
        retain = 2,
        create = true,
        read_only = false,
        take_over = false,
        checkpoint = None,
        restore_key_groups = None,
        max_state_bytes = 64 << 30,
        map_size_bytes = 64 << 30,
        chunk_bytes = 256 << 10,
    ))]
    #[allow(clippy::too_many_arguments)]
    fn open(
        py: Python<'_>,
        path: PathBuf,
        job: Option<&str>,
        key_groups: Option<u16>,
        retain: usize,
        create: bool,
        read_only: bool,
        take_over: bool,
        checkpoint: Option<&Bound<'_, PyAny>>,
        restore_key_groups: Option<(u16, u16)>,
        max_state_bytes: usize,
        map_size_bytes: usize,
        chunk_bytes: usize,
    ) -> PyResult<Self> {
        let restore = match checkpoint {
            None => Restore::Newest,
            Some(number) if number.is_instance_of::<PyInt>() => {
                Restore::Checkpoint(number.extract().map_err(|_| {
                    invalid_argument(format!("{number} cannot be a checkpoint; they count from 1"))
                })?)
            }
            Some(name) => match name.str()?.to_str()? {
                "newest" => Restore::Newest,
                "none" => Restore::Nothing,
                other => {
                    return Err(invalid_argument(format!(
                        "checkpoint is {other:?}: \"newest\", \"none\" or a number"
                    )));
                }
            },
        };
        let (job, key_groups) = match (job, key_groups) {
            (Some(job), Some(key_groups)) => (job.to_owned(), key_groups),
            _ if read_only => {
                // A reader need not know whose directory it looks into.
                let found = py.detach(|| store::settings(&path)).map_err(to_py)?;
                (job.map_or(found.job, str::to_owned), key_groups.unwrap_or(found.key_groups))
            }
            _ => (job.unwrap_or(DEFAULT_JOB).to_owned(), key_groups.unwrap_or(DEFAULT_KEY_GROUPS)),
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
            groups: first..end,
            max_state_bytes,
            chunk_bytes,
        };
        let backend = py.detach(|| Backend::open(&path, options)).map_err(to_py)?;
        Ok(Self { backend, job })
    }

    #[getter]
    fn path(&self) -> String {
        self.backend.path().display().to_string()
    }

    #[getter]
    fn job(&self) -> &str {
        &self.job
    }

    #[getter]
    fn store_id(&self) -> &str {
        self.backend.store_id()
    }

    #[getter]
    fn job_epoch(&self) -> u64 {
        self.backend.job_epoch()
    }

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

    #[pyo3(signature = (name, *, key, columns))]
    fn table(
        &self,
        name: &str,
        key: &Bound<'_, PyAny>,
        columns: &Bound<'_, PyAny>,
    ) -> PyResult<PyTable> {
        let schema = schema(key, columns)?;
        let table = self.backend.table(name, &schema).map_err(to_py)?;
        Ok(PyTable::new(name, schema, table, self.backend.clone()))
    }

    fn tables(&self) -> BTreeMap<String, PyTableSchema> {
        let tables = self.backend.tables().into_iter();
        tables.map(|(name, schema)| (name, PyTableSchema { schema })).collect()
    }

    fn drop_table(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        py.detach(|| self.backend.drop_table(name)).map_err(to_py)
    }

    #[pyo3(signature = (
        name,
        *,
        mode = "strict",
        window = 5,
        order = "ordered",
        max_producers = 1_000_000,
        expiry_s = None,
        now_s = 0.0,
    ))]
    #[allow(clippy::too_many_arguments)]
    fn deduplicator(
        &self,
        py: Python<'_>,
        name: &str,
        mode: &str,
        window: usize,
        order: &str,
        max_producers: usize,
        expiry_s: Option<f64>,
        now_s: f64,
    ) -> PyResult<PyDeduplicator> {
        let options = deduplicator_options(mode, window, order, max_producers, expiry_s)?;
        let shared = py.detach(|| self.backend.deduplicator(name, options, now_s));
        Ok(PyDeduplicator::shared(shared.map_err(to_py)?))
    }

    #[pyo3(signature = (*, savepoint = None))]
    fn begin_checkpoint(
        &self,
        py: Python<'_>,
        savepoint: Option<String>,
    ) -> PyResult<PyPendingCheckpoint> {
        let pending = py.detach(|| self.backend.begin_checkpoint(savepoint)).map_err(to_py)?;
        Ok(PyPendingCheckpoint::new(pending))
    }

    #[pyo3(signature = (positions = None, *, savepoint = None))]
    fn checkpoint(
        &self,
        py: Python<'_>,
        positions: Option<&Bound<'_, PyDict>>,
        savepoint: Option<String>,
    ) -> PyResult<PyPendingCheckpoint> {
        let mut encoded = Vec::new();
        for (name, position) in positions.into_iter().flatten() {
            let name: String = name.extract().map_err(|_| {
                type_mismatch(format!("a position has the name {name}; names are strings"))
            })?;
            encoded.push((format!("{POSITION_PREFIX}{name}"), encode_position(&name, &position)?));
        }
        let pending = self.begin_checkpoint(py, savepoint)?;
        for (name, bytes) in encoded {
            pending.pending.put_blob(&name, bytes).map_err(to_py)?;
        }
        pending.commit(py)?;
        Ok(pending)
    }

    #[getter]
    fn positions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        positions(py, self.backend.recovery().restored.as_ref())
    }

    fn checkpoints(&self, py: Python<'_>) -> PyResult<Vec<PyCheckpointInfo>> {
        let records = py.detach(|| self.backend.checkpoints()).map_err(to_py)?;
        Ok(records.into_iter().map(PyCheckpointInfo::new).collect())
    }

    fn delete_checkpoint(&self, py: Python<'_>, checkpoint_id: u64) -> PyResult<()> {
        py.detach(|| self.backend.delete_checkpoint(checkpoint_id)).map_err(to_py)
    }

    fn begin_lineage(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.backend.begin_lineage()).map_err(to_py)
    }

    #[getter]
    fn resumes_from(&self) -> Option<u64> {
        self.backend.resumes_from()
    }

    fn put_note(&self, py: Python<'_>, name: &str, value: &[u8]) -> PyResult<()> {
        py.detach(|| self.backend.put_note(name, value)).map_err(to_py)
    }

    fn note<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let note = py.detach(|| self.backend.note(name)).map_err(to_py)?;
        Ok(note.map(|note| PyBytes::new(py, &note)))
    }

    fn check_epoch(&self) -> PyResult<()> {
        self.backend.check_epoch().map_err(to_py)
    }

    fn poll(&self) {
        self.backend.poll();
    }

    fn size(&self) -> PyResult<(u64, u64)> {
        let size = self.backend.size().map_err(to_py)?;
        Ok((size.file_bytes, size.used_bytes))
    }

    fn backup(&self, py: Python<'_>, target: PathBuf) -> PyResult<()> {
        py.detach(|| self.backend.backup(&target)).map_err(to_py)
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.backend.close()).map_err(to_py)
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_exc))]
    fn __exit__(&self, py: Python<'_>, _exc: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        format!(
            "StateBackend({:?}, job={:?}, job_epoch={})",
            self.path(),
            self.job,
            self.job_epoch()
        )
    }
}

/// See `onceflow.CheckpointInfo`.
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

    #[getter]
    fn tables(&self) -> BTreeMap<String, u64> {
        let tables = self.record.iter().flat_map(|record| &record.tables);
        tables.map(|table| (table.name.clone(), table.rows)).collect()
    }

    #[getter]
    fn blobs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        blobs(py, self.record.as_ref().map(|record| &record.blobs))
    }

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

/// See `onceflow.Recovery`.
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

/// See `onceflow._native.verify`.
#[pyfunction]
#[pyo3(name = "verify")]
pub(crate) fn py_verify(py: Python<'_>, path: PathBuf) -> PyResult<PyVerifyReport> {
    let report = py.detach(|| store::verify(&path)).map_err(to_py)?;
    Ok(PyVerifyReport {
        checkpoints: report.checkpoints,
        chunks: report.chunks,
        bytes: report.bytes,
        damage: damages(&report.damage),
    })
}

/// See `onceflow._native.VerifyReport`.
#[pyclass(name = "VerifyReport", module = "onceflow._native", frozen, get_all)]
pub(crate) struct PyVerifyReport {
    checkpoints: Vec<u64>,
    chunks: u64,
    bytes: u64,
    damage: Vec<(Option<u64>, String)>,
}

/// See `onceflow.key_group`.
#[pyfunction]
#[pyo3(name = "key_group")]
pub(crate) fn py_key_group(
    key: &Bound<'_, PyAny>,
    key_type: &Bound<'_, PyAny>,
    key_groups: u16,
) -> PyResult<u16> {
    if !key_groups.is_power_of_two() {
        return Err(invalid_argument(format!("{key_groups} key groups; give a power of two")));
    }
    let key_type = crate::table::key_type(key_type)?;
    let list = pyo3::types::PyList::new(key.py(), [key])?;
    let batch = KeyBatch::read(&key_type, list.as_any())?;
    let hash = onceflow_core::hash::hash_of_first(&batch.as_keys()?);
    Ok(onceflow_core::hash::key_group(hash, key_groups))
}

/// A position as a tag and its text or bytes.
fn encode_position(name: &str, position: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let tagged = |tag: u8, bytes: &[u8]| [&[tag], bytes].concat();
    if let Ok(text) = position.cast::<PyString>() {
        return Ok(tagged(b's', text.to_str()?.as_bytes()));
    }
    if let Ok(bytes) = position.cast::<PyBytes>() {
        return Ok(tagged(b'b', bytes.as_bytes()));
    }
    if let Ok(number) = position.extract::<i64>() {
        return Ok(tagged(b'i', number.to_string().as_bytes()));
    }
    Err(type_mismatch(format!(
        "the position of {name:?} is a {}; give an int of 64 bits, a str or bytes",
        position.get_type().name()?
    )))
}

fn decode_position<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(match bytes.split_first() {
        Some((b'i', number)) => {
            let number: i64 = text(number).parse().unwrap_or_default();
            number.into_pyobject(py)?.into_any()
        }
        Some((b's', string)) => PyString::new(py, &text(string)).into_any(),
        Some((_, rest)) => PyBytes::new(py, rest).into_any(),
        None => PyBytes::new(py, &[]).into_any(),
    })
}
