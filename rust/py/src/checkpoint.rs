//! `PendingCheckpoint` and `CheckpointStats`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use onceflow_core::backend::{CheckpointStats, PendingCheckpoint};
use pyo3::exceptions::PyTimeoutError;
use pyo3::prelude::*;

use crate::args::{Arg, List, Pieces, optional};
use crate::error::{invalid_argument, to_py};

/// How often a waiting thread looks for signals.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);

/// A checkpoint under way: open until ``write``, ``commit`` or ``abort``, then on its way to the disk, then done.
///
/// If the last reference goes before that it is aborted. Names, sinks and values: str and bytes.
///
/// Raises:
///     CheckpointStateError: A call that comes too late. BackendClosedError, StoreForkedError: As they say.
#[pyclass(name = "PendingCheckpoint", module = "onceflow._native", frozen)]
pub(crate) struct PyPendingCheckpoint {
    pub(crate) pending: PendingCheckpoint,
}

impl PyPendingCheckpoint {
    pub(crate) fn new(pending: PendingCheckpoint) -> Self {
        Self { pending }
    }
}

#[pymethods]
impl PyPendingCheckpoint {
    #[getter]
    fn id(&self) -> u64 {
        self.pending.id()
    }

    /// Cuts the tables (None: all): what changes from now on belongs to the next checkpoint.
    #[pyo3(signature = (tables = None))]
    fn freeze(&self, py: Python<'_>, tables: Option<Arg<List<String>>>) -> PyResult<()> {
        let tables = optional("tables", tables)?.map(|List(names)| names);
        py.detach(|| {
            let names: Option<Vec<&str>> =
                tables.as_ref().map(|names| names.iter().map(String::as_str).collect());
            self.pending.freeze(names.as_deref())
        })
        .map_err(to_py)
    }

    /// Keeps a small value in the decision record.
    fn put_blob(&self, name: Arg<String>, value: Arg<Vec<u8>>) -> PyResult<()> {
        self.pending.put_blob(&name.named("name")?, value.named("value")?).map_err(to_py)
    }

    /// Keeps what a sink needs to commit its output, in the decision record: pieces are joined.
    fn stage(&self, py: Python<'_>, sink: Arg<String>, value: Arg<Pieces>) -> PyResult<()> {
        let (sink, Pieces(pieces)) = (sink.named("sink")?, value.named("value")?);
        py.detach(|| self.pending.stage(&sink, &pieces)).map_err(to_py)
    }

    /// Writes it on the calling thread, without the GIL: returns when it is durable, or raises what it met.
    ///
    /// A signal waits for the end of it; ``commit`` and ``wait`` do the same with a thread that is started for it.
    fn write(&self, py: Python<'_>) -> PyResult<PyCheckpointStats> {
        let stats = py.detach(|| self.pending.write(unix_ms())).map_err(to_py)?;
        Ok(PyCheckpointStats { stats })
    }

    /// Has it written in the background; ``wait`` says when it is durable.
    pub(crate) fn commit(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.pending.commit(unix_ms())).map_err(to_py)
    }

    /// Gives it up: what was cut counts as changed again.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.pending.abort()).map_err(to_py)
    }

    /// Waits until durable; raises TimeoutError, or what the writer met.
    #[pyo3(signature = (timeout_s = None))]
    fn wait(&self, py: Python<'_>, timeout_s: Option<Arg<f64>>) -> PyResult<PyCheckpointStats> {
        let timeout_s = optional("timeout_s", timeout_s)?;
        let timeout = timeout_s
            .map(|seconds| {
                Duration::try_from_secs_f64(seconds).map_err(|_| {
                    invalid_argument(format!("timeout_s is {seconds}; give seconds, 0 or more"))
                })
            })
            .transpose()?;
        let start = Instant::now();
        loop {
            let left = timeout.map(|timeout| timeout.saturating_sub(start.elapsed()));
            let slice = left.map_or(SIGNALS_EVERY, |left| left.min(SIGNALS_EVERY));
            let outcome = py.detach(|| self.pending.wait(Some(slice))).map_err(to_py)?;
            if let Some(stats) = outcome {
                return Ok(PyCheckpointStats { stats });
            }
            py.check_signals()?;
            if left.is_some_and(|left| left.is_zero()) {
                return Err(PyTimeoutError::new_err(format!(
                    "checkpoint {} was not durable within {} s",
                    self.pending.id(),
                    timeout_s.unwrap_or_default()
                )));
            }
        }
    }

    #[getter]
    fn done(&self) -> bool {
        self.pending.is_done()
    }
}

/// By the wall clock.
pub(crate) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_millis() as u64)
}

/// What a checkpoint cost.
#[pyclass(name = "CheckpointStats", module = "onceflow._native", frozen)]
pub(crate) struct PyCheckpointStats {
    stats: CheckpointStats,
}

#[pymethods]
impl PyCheckpointStats {
    #[getter]
    fn id(&self) -> u64 {
        self.stats.id
    }

    #[getter]
    fn delta_rows(&self) -> u64 {
        self.stats.delta_rows
    }

    #[getter]
    fn base_rows(&self) -> u64 {
        self.stats.base_rows
    }

    #[getter]
    fn bytes_written(&self) -> u64 {
        self.stats.bytes_written
    }

    #[getter]
    fn freeze_s(&self) -> f64 {
        self.stats.freeze_s
    }

    #[getter]
    fn capture_s(&self) -> f64 {
        self.stats.capture_s
    }

    #[getter]
    fn longest_pause_s(&self) -> f64 {
        self.stats.longest_pause_s
    }

    #[getter]
    fn durable_s(&self) -> f64 {
        self.stats.durable_s
    }

    #[getter]
    fn encode_s(&self) -> f64 {
        self.stats.encode_s
    }

    #[getter]
    fn commit_s(&self) -> f64 {
        self.stats.commit_s
    }

    fn __repr__(&self) -> String {
        format!(
            "CheckpointStats(id={}, delta_rows={}, base_rows={}, bytes_written={}, durable_s={:.6})",
            self.stats.id,
            self.stats.delta_rows,
            self.stats.base_rows,
            self.stats.bytes_written,
            self.stats.durable_s
        )
    }
}

/// Whether this build has crash points.
pub(crate) const CRASH_POINTS: bool = cfg!(feature = "crash-points");

/// Kills, stops or holds here as the environment says; does nothing unless built with the feature.
#[pyfunction]
pub(crate) fn crash_point(name: Arg<String>) -> PyResult<()> {
    let _name = name.named("name")?;
    #[cfg(feature = "crash-points")]
    onceflow_core::crash::hit(&_name);
    Ok(())
}
