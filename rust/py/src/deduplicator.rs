//! `Deduplicator`: verdicts of the core on columns of batches.

use std::borrow::Cow;
use std::sync::Arc;

use numpy::{IntoPyArray, PyArray1, PyArrayMethods, PyReadonlyArray1, PyUntypedArrayMethods};
use onceflow_core::sequence::{
    Batches, DedupeMode, Deduplicator, DeduplicatorOptions, Order, VerdictCode, Verdicts,
};
use onceflow_core::{Error, ErrorKind};
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::error::{invalid_argument, to_py};

/// See `onceflow.Deduplicator`.
#[pyclass(name = "Deduplicator", module = "onceflow._native", frozen)]
pub(crate) struct PyDeduplicator {
    /// Shared with the state backend that writes its changes, if there is one. Locked with the
    /// GIL released.
    shared: Arc<Mutex<Deduplicator>>,
}

/// Settings by their names in Python.
pub(crate) fn options(
    mode: &str,
    window: usize,
    order: &str,
    max_producers: usize,
    expiry_s: Option<f64>,
) -> PyResult<DeduplicatorOptions> {
    let mode = match mode {
        "strict" => DedupeMode::Strict,
        "compatible" => DedupeMode::Compatible,
        other => {
            return Err(invalid_argument(format!(
                "mode must be \"strict\" or \"compatible\", got {other:?}"
            )));
        }
    };
    let order = match order {
        "ordered" => Order::Ordered,
        "unordered" => Order::Unordered,
        other => {
            return Err(invalid_argument(format!(
                "order must be \"ordered\" or \"unordered\", got {other:?}"
            )));
        }
    };
    Ok(DeduplicatorOptions { mode, order, window, max_producers, expiry_s })
}

impl PyDeduplicator {
    /// One that a state backend keeps.
    pub(crate) fn shared(shared: Arc<Mutex<Deduplicator>>) -> Self {
        Self { shared }
    }
}

#[pymethods]
impl PyDeduplicator {
    #[new]
    #[pyo3(signature = (
        *,
        mode = "strict",
        window = 5,
        order = "ordered",
        max_producers = 1_000_000,
        expiry_s = None,
    ))]
    fn new(
        mode: &str,
        window: usize,
        order: &str,
        max_producers: usize,
        expiry_s: Option<f64>,
    ) -> PyResult<Self> {
        let options = options(mode, window, order, max_producers, expiry_s)?;
        let deduplicator = Deduplicator::new(options).map_err(to_py)?;
        Ok(Self { shared: Arc::new(Mutex::new(deduplicator)) })
    }

    #[pyo3(signature = (
        producer_ids,
        producer_epochs,
        first_sequences,
        last_sequences,
        *,
        positions = None,
        now_s = 0.0,
    ))]
    #[allow(clippy::too_many_arguments)]
    fn check_many(
        &self,
        py: Python<'_>,
        producer_ids: &Bound<'_, PyAny>,
        producer_epochs: &Bound<'_, PyAny>,
        first_sequences: &Bound<'_, PyAny>,
        last_sequences: &Bound<'_, PyAny>,
        positions: Option<&Bound<'_, PyAny>>,
        now_s: f64,
    ) -> PyResult<PyVerdicts> {
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
        let verdicts = py.detach(|| {
            let batches = Batches::new(&ids, &epochs, &firsts, &lasts, positions.as_deref())?;
            self.shared.lock().check_many(&batches, now_s)
        });
        Ok(PyVerdicts::new(py, verdicts.map_err(to_py)?))
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        py.detach(|| self.shared.lock().len())
    }

    fn snapshot(&self, py: Python<'_>) -> Cow<'static, [u8]> {
        Cow::Owned(py.detach(|| self.shared.lock().snapshot()))
    }

    #[pyo3(signature = (snapshot, *, now_s = 0.0))]
    fn restore(&self, py: Python<'_>, snapshot: &[u8], now_s: f64) -> PyResult<()> {
        py.detach(|| self.shared.lock().restore(snapshot, now_s)).map_err(to_py)
    }

    fn expire(&self, py: Python<'_>, now_s: f64) -> PyResult<usize> {
        py.detach(|| self.shared.lock().expire(now_s)).map_err(to_py)
    }
}

/// See `onceflow.Verdicts`.
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
    let numpy = values.py().import("numpy")?;
    let array = numpy.call_method1("asarray", (values,))?;
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
