//! `Deduplicator`: verdicts of the core on columns of batches.

use std::borrow::Cow;
use std::sync::Arc;

use numpy::{IntoPyArray, PyArray1, PyArrayMethods, PyReadonlyArray1, PyUntypedArrayMethods};
use onceflow_core::backend::Backend;
use onceflow_core::sequence::{
    Batches, DedupeMode, Deduplicator, DeduplicatorOptions, Order, VerdictCode, Verdicts,
};
use onceflow_core::{Error, ErrorKind};
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::args::{Arg, optional};
use crate::error::{invalid_argument, to_py};
use crate::keys::as_array;

/// Tells apart what idempotent producers send for the first time and what they send again.
///
/// Each batch carries a producer's id, its epoch and a range of sequences; the verdict says whether
/// it may be applied. A new one knows no producer.
///
/// Args:
///     mode: ``"strict"``: an unknown producer must begin at sequence 0. ``"compatible"``: it may
///         begin anywhere, as with Kafka's brokers.
///     window: What is remembered of each producer: the last batches (ordered) or the sequences up
///         to the highest one (unordered), at most 2**20.
///     order: ``"ordered"``: each batch must follow the one before. ``"unordered"``: batches may
///         overtake one another inside the window.
///     max_producers: Beyond it new producers are refused; live ones are never forgotten.
///     max_bytes: Memory that is taken at most; beyond it new producers are refused, too.
///     expiry_s: A producer from which nothing was accepted for so long counts as unknown. None:
///         never.
///
/// Raises:
///     ConfigurationError: A setting that cannot be.
#[pyclass(name = "Deduplicator", module = "onceflow._native", frozen)]
pub(crate) struct PyDeduplicator {
    /// Locked with the GIL released.
    shared: Arc<Mutex<Deduplicator>>,
    /// What writes its changes, if it is not on its own.
    backend: Option<Backend>,
}

/// Settings by their names in Python.
pub(crate) fn options(
    mode: Arg<String>,
    window: Arg<usize>,
    order: Arg<String>,
    max_producers: Arg<usize>,
    max_bytes: Arg<usize>,
    expiry_s: Option<Arg<f64>>,
) -> PyResult<DeduplicatorOptions> {
    let window = window.named("window")?;
    let max_producers = max_producers.named("max_producers")?;
    let max_bytes = max_bytes.named("max_bytes")?;
    let expiry_s = optional("expiry_s", expiry_s)?;
    let mode = match mode.named("mode")?.as_str() {
        "strict" => DedupeMode::Strict,
        "compatible" => DedupeMode::Compatible,
        other => {
            return Err(invalid_argument(format!(
                "mode must be \"strict\" or \"compatible\", got {other:?}"
            )));
        }
    };
    let order = match order.named("order")?.as_str() {
        "ordered" => Order::Ordered,
        "unordered" => Order::Unordered,
        other => {
            return Err(invalid_argument(format!(
                "order must be \"ordered\" or \"unordered\", got {other:?}"
            )));
        }
    };
    Ok(DeduplicatorOptions { mode, order, window, max_producers, max_bytes, expiry_s })
}

impl PyDeduplicator {
    /// One that a state backend keeps.
    pub(crate) fn of(backend: Backend, shared: Arc<Mutex<Deduplicator>>) -> Self {
        Self { shared, backend: Some(backend) }
    }

    /// Works on it, unless it belongs to a backend that would not keep the outcome.
    fn with<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Deduplicator) -> onceflow_core::Result<R> + Send,
    ) -> PyResult<R> {
        py.detach(|| {
            if let Some(backend) = &self.backend {
                backend.check_open()?;
            }
            work(&mut self.shared.lock())
        })
        .map_err(to_py)
    }
}

#[pymethods]
impl PyDeduplicator {
    #[new]
    #[pyo3(signature = (
        *,
        mode = Arg::of("strict".to_owned()),
        window = Arg::of(5),
        order = Arg::of("ordered".to_owned()),
        max_producers = Arg::of(1_000_000),
        max_bytes = Arg::of(1 << 30),
        expiry_s = None,
    ), text_signature = "(*, mode='strict', window=5, order='ordered', max_producers=1000000, \
        max_bytes=1073741824, expiry_s=None)")]
    fn new(
        mode: Arg<String>,
        window: Arg<usize>,
        order: Arg<String>,
        max_producers: Arg<usize>,
        max_bytes: Arg<usize>,
        expiry_s: Option<Arg<f64>>,
    ) -> PyResult<Self> {
        let options = options(mode, window, order, max_producers, max_bytes, expiry_s)?;
        let deduplicator = Deduplicator::new(options).map_err(to_py)?;
        Ok(Self { shared: Arc::new(Mutex::new(deduplicator)), backend: None })
    }

    /// Judges batches in order, each seeing those before it, then applies what was accepted.
    ///
    /// All columns are integers, one value a batch, or one for all: ids (any int64 but -1), epochs
    /// (0 or more), sequences (0 to 2**31 - 1, wrapping to 0), positions (any int64; returned for
    /// a duplicate). ``now_s`` is the time for expiry, in seconds.
    ///
    /// Raises:
    ///     CapacityExceededError: More live producers than ``max_producers`` or ``max_bytes`` allow.
    ///         Nothing was applied.
    ///     ConfigurationError, LengthMismatchError, TypeMismatchError: Columns that cannot be.
    #[pyo3(signature = (
        producer_ids,
        producer_epochs,
        first_sequences,
        last_sequences,
        *,
        positions = None,
        now_s = Arg::of(0.0),
    ), text_signature = "($self, producer_ids, producer_epochs, first_sequences, last_sequences, \
        *, positions=None, now_s=0.0)")]
    #[allow(clippy::too_many_arguments)]
    fn check_many(
        &self,
        py: Python<'_>,
        producer_ids: &Bound<'_, PyAny>,
        producer_epochs: &Bound<'_, PyAny>,
        first_sequences: &Bound<'_, PyAny>,
        last_sequences: &Bound<'_, PyAny>,
        positions: Option<&Bound<'_, PyAny>>,
        now_s: Arg<f64>,
    ) -> PyResult<PyVerdicts> {
        let now_s = now_s.named("now_s")?;
        let ids = Column::<i64>::read("producer_ids", producer_ids)?;
        let epochs = Column::<i64>::read("producer_epochs", producer_epochs)?;
        let firsts = Column::<i32>::read("first_sequences", first_sequences)?;
        let lasts = Column::<i32>::read("last_sequences", last_sequences)?;
        let positions = positions.map(|values| Column::<i64>::read("positions", values));
        let positions = positions.transpose()?;
        // A scalar stands for the whole call, whose length the first array gives.
        let lengths = [ids.len(), epochs.len(), firsts.len(), lasts.len()];
        let lengths = lengths.into_iter().chain([positions.as_ref().and_then(Column::len)]);
        let rows = lengths.flatten().next().unwrap_or(1);
        let (ids, epochs) = (ids.values(rows)?, epochs.values(rows)?);
        let (firsts, lasts) = (firsts.values(rows)?, lasts.values(rows)?);
        let positions = positions.as_ref().map(|column| column.values(rows)).transpose()?;
        let verdicts = self.with(py, |deduplicator| {
            let batches = Batches::new(&ids, &epochs, &firsts, &lasts, positions.as_deref())?;
            deduplicator.check_many(&batches, now_s)
        })?;
        Ok(PyVerdicts::new(py, verdicts))
    }

    /// Producers remembered.
    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |deduplicator| Ok(deduplicator.len()))
    }

    /// Everything that is remembered, as one checksummed blob.
    fn snapshot(&self, py: Python<'_>) -> PyResult<Cow<'static, [u8]>> {
        self.with(py, |deduplicator| Ok(Cow::Owned(deduplicator.snapshot())))
    }

    /// Replaces everything by a snapshot, without the producers that expired by ``now_s``.
    ///
    /// Restore the input position of the same moment with it.
    ///
    /// Raises:
    ///     StoreCorruptError: Empty, truncated or damaged. Nothing was restored.
    ///     StoreMismatchError: Written by a deduplicator of the other ``order``.
    #[pyo3(
        signature = (snapshot, *, now_s = Arg::of(0.0)),
        text_signature = "($self, snapshot, *, now_s=0.0)",
    )]
    fn restore(&self, py: Python<'_>, snapshot: Arg<Vec<u8>>, now_s: Arg<f64>) -> PyResult<()> {
        let (snapshot, now_s) = (snapshot.named("snapshot")?, now_s.named("now_s")?);
        self.with(py, |deduplicator| deduplicator.restore(&snapshot, now_s))
    }

    /// Forgets the expired producers; says how many.
    fn expire(&self, py: Python<'_>, now_s: Arg<f64>) -> PyResult<usize> {
        let now_s = now_s.named("now_s")?;
        self.with(py, |deduplicator| deduplicator.expire(now_s))
    }
}

/// One verdict a batch, as arrays. Only ``ACCEPT`` may be applied.
#[pyclass(name = "Verdicts", module = "onceflow._native", frozen)]
pub(crate) struct PyVerdicts {
    codes: Py<PyArray1<u8>>,
    details: Py<PyArray1<i64>>,
}

impl PyVerdicts {
    fn new(py: Python<'_>, verdicts: Verdicts) -> Self {
        let (codes, details) = verdicts.into_columns();
        Self { codes: codes.into_pyarray(py).unbind(), details: details.into_pyarray(py).unbind() }
    }
}

#[pymethods]
impl PyVerdicts {
    #[classattr]
    const ACCEPT: u8 = VerdictCode::Accept as u8;
    #[classattr]
    const DUPLICATE: u8 = VerdictCode::Duplicate as u8;
    #[classattr]
    const TOO_OLD: u8 = VerdictCode::TooOld as u8;
    #[classattr]
    const GAP: u8 = VerdictCode::Gap as u8;
    #[classattr]
    const FENCED: u8 = VerdictCode::Fenced as u8;

    fn __len__(&self, py: Python<'_>) -> usize {
        self.codes.bind(py).len()
    }

    #[getter]
    fn codes(&self, py: Python<'_>) -> Py<PyArray1<u8>> {
        self.codes.clone_ref(py)
    }

    /// Duplicate: the original position, -1 without one (an unordered window keeps none).
    /// Gap: the sequence expected. Fenced: the current epoch. Else -1.
    #[getter]
    fn details(&self, py: Python<'_>) -> Py<PyArray1<i64>> {
        self.details.clone_ref(py)
    }

    #[getter]
    fn accepted<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<bool>>> {
        let codes = self.codes.bind(py).try_readonly()?;
        let accepted: Vec<bool> = codes.as_array().iter().map(|c| *c == Self::ACCEPT).collect();
        Ok(accepted.into_pyarray(py))
    }
}

/// One argument of a call.
enum Column<'py, T: numpy::Element> {
    /// A numpy array of exactly this type, in one piece: read in place.
    Array(PyReadonlyArray1<'py, T>),
    /// Anything else, converted.
    Owned(Vec<T>),
    /// One value for the whole call.
    Scalar(T),
}

impl<T: numpy::Element + Copy> Column<'_, T> {
    fn len(&self) -> Option<usize> {
        match self {
            Self::Array(array) => Some(array.len()),
            Self::Owned(values) => Some(values.len()),
            Self::Scalar(_) => None,
        }
    }

    fn values(&self, rows: usize) -> PyResult<Cow<'_, [T]>> {
        match self {
            Self::Array(array) => Ok(Cow::Borrowed(array.as_slice()?)),
            Self::Owned(values) => Ok(Cow::Borrowed(values)),
            Self::Scalar(value) => Ok(Cow::Owned(vec![*value; rows])),
        }
    }
}

impl<'py, T> Column<'py, T>
where
    T: numpy::Element + Copy + TryFrom<i64>,
{
    fn read(name: &str, values: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(array) = values.cast::<PyArray1<T>>() {
            let array = array.try_readonly()?;
            if array.as_slice().is_ok() {
                return Ok(Self::Array(array));
            }
        }
        let integers = as_int64(name, values)?;
        let narrow = |value: i64| {
            T::try_from(value).map_err(|_| {
                invalid_argument(format!("{name}: {value} does not fit the column's type"))
            })
        };
        if integers.getattr("ndim")?.extract::<usize>()? == 0 {
            return Ok(Self::Scalar(narrow(integers.call_method0("item")?.extract()?)?));
        }
        let array: PyReadonlyArray1<'_, i64> = integers.extract()?;
        Ok(Self::Owned(array.as_array().iter().copied().map(narrow).collect::<PyResult<_>>()?))
    }
}

/// Integers of any kind as a numpy array of int64, without changing a value.
fn as_int64<'py>(name: &str, values: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let mismatch = |got: &str| {
        let text = format!("{name}: {got}; give integers: an array, a list, or one for all");
        to_py(Error::new(ErrorKind::TypeMismatch, text))
    };
    let array = as_array(values)?;
    let dimensions: usize = array.getattr("ndim")?.extract()?;
    let kind: String = array.getattr("dtype")?.getattr("kind")?.extract()?;
    let size: usize = array.getattr("size")?.extract()?;
    if dimensions > 1 {
        return Err(mismatch(&format!("got {dimensions} dimensions")));
    }
    // An empty list has no type of its own.
    if kind != "i" && kind != "u" && size > 0 {
        let dtype = array.getattr("dtype")?.str()?;
        return Err(mismatch(&format!("got values of type {dtype}")));
    }
    if kind == "u" && size > 0 {
        let largest: u64 = array.call_method0("max")?.call_method0("item")?.extract()?;
        if i64::try_from(largest).is_err() {
            return Err(invalid_argument(format!(
                "{name}: {largest} is above {}, the largest 64-bit signed integer",
                i64::MAX
            )));
        }
    }
    array.call_method1("astype", ("int64",))
}
