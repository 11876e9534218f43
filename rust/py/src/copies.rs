//! Copies of plain values that two sides hold.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyBool, PyBytes, PyDate, PyDateTime, PyDelta, PyDict, PyFloat, PyFrozenSet, PyInt, PyList,
    PyString, PyTime, PyTuple, PyType,
};

/// Deeper than any encoder goes; what is nested in itself has no end.
const MAX_DEPTH: usize = 500;

/// A copy of a list, tuple or dict, and of those in it to their depths; what cannot be changed is shared.
///
/// Types are compared exactly.
///
/// Returns:
///     The copy, or the value itself if nothing in it can be changed. None where something in it is of another
///     type, or nested more than 500 deep.
#[pyfunction]
#[pyo3(name = "_plain_copy")]
pub(crate) fn py_plain_copy<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    copied(value, MAX_DEPTH)
}

/// A copy of a list or dict of values that cannot be changed; such a value, or a tuple of some, as it is.
///
/// Returns:
///     None where anything else is in it.
#[pyfunction]
#[pyo3(name = "_flat_copy")]
pub(crate) fn py_flat_copy<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    if let Ok(dict) = value.cast_exact::<PyDict>() {
        let is_flat = all_fixed(dict.iter().flat_map(|(key, item)| [key, item]))?;
        return is_flat.then(|| dict.copy().map(Bound::into_any)).transpose();
    }
    if let Ok(list) = value.cast_exact::<PyList>() {
        return Ok(all_fixed(list.iter())?.then(|| list.get_slice(0, list.len()).into_any()));
    }
    let is_flat = match value.cast_exact::<PyTuple>() {
        Ok(tuple) => all_fixed(tuple.iter())?,
        Err(_) => is_fixed(value)?,
    };
    Ok(is_flat.then(|| value.clone()))
}

fn all_fixed<'py>(items: impl Iterator<Item = Bound<'py, PyAny>>) -> PyResult<bool> {
    for item in items {
        if !is_fixed(&item)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn copied<'py>(value: &Bound<'py, PyAny>, depth: usize) -> PyResult<Option<Bound<'py, PyAny>>> {
    if is_fixed(value)? {
        return Ok(Some(value.clone()));
    }
    if depth == 0 {
        return Ok(None);
    }
    if let Ok(dict) = value.cast_exact::<PyDict>() {
        let copy = dict.copy()?;
        let mut others = Vec::new();
        for (key, item) in dict {
            if !is_fixed(&item)? {
                others.push((key, item));
            }
        }
        for (key, item) in others {
            let Some(item) = copied(&item, depth - 1)? else { return Ok(None) };
            copy.set_item(key, item)?;
        }
        return Ok(Some(copy.into_any()));
    }
    if let Ok(list) = value.cast_exact::<PyList>() {
        let copy = list.get_slice(0, list.len());
        for (index, item) in list.iter().enumerate() {
            if !is_fixed(&item)? {
                let Some(item) = copied(&item, depth - 1)? else { return Ok(None) };
                copy.set_item(index, item)?;
            }
        }
        return Ok(Some(copy.into_any()));
    }
    if let Ok(tuple) = value.cast_exact::<PyTuple>() {
        let mut items = Vec::with_capacity(tuple.len());
        let mut same = true;
        for item in tuple {
            let Some(own) = copied(&item, depth - 1)? else { return Ok(None) };
            same &= own.is(&item);
            items.push(own);
        }
        return Ok(Some(if same {
            value.clone()
        } else {
            PyTuple::new(value.py(), items)?.into_any()
        }));
    }
    Ok(value.is_exact_instance_of::<PyFrozenSet>().then(|| value.clone()))
}

/// Whether it is of a type that cannot be changed and holds nothing that can.
pub(crate) fn is_fixed(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    let is_common = value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_none()
        || value.is_exact_instance_of::<PyBool>();
    if is_common {
        return Ok(true);
    }
    if value.is_exact_instance_of::<PyDict>()
        || value.is_exact_instance_of::<PyList>()
        || value.is_exact_instance_of::<PyTuple>()
    {
        return Ok(false);
    }
    Ok(value.is_exact_instance_of::<PyBytes>()
        || value.is_exact_instance_of::<PyDateTime>()
        || value.is_exact_instance_of::<PyDate>()
        || value.is_exact_instance_of::<PyTime>()
        || value.is_exact_instance_of::<PyDelta>()
        || is_of(value, &DECIMAL, "decimal", "Decimal")?
        || is_of(value, &UUID, "uuid", "UUID")?)
}

static DECIMAL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static UUID: PyOnceLock<Py<PyType>> = PyOnceLock::new();

fn is_of(
    value: &Bound<'_, PyAny>,
    known: &PyOnceLock<Py<PyType>>,
    module: &str,
    name: &str,
) -> PyResult<bool> {
    Ok(value.get_type().is(known.import(value.py(), module, name)?))
}
