//! A look through Python's values for those that need one by themselves.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

/// Deeper than any encoder goes; what is nested in itself has no end.
const MAX_DEPTH: usize = 1000;
/// What lies deeper is left to whoever looks at each value.
const MAX_PLAIN_DEPTH: usize = 500;

/// What is in values, also in their dicts, lists and tuples, besides None, bools, ints, finite floats and texts.
///
/// Types are compared exactly: of a subclass, an encoder may write something else than the value.
///
/// Returns:
///     These values in no particular order; None where a dict has a key that is not a text, or where values are
///     nested more than a thousand deep.
#[pyfunction]
#[pyo3(name = "_uncommon")]
pub(crate) fn py_uncommon<'py>(values: &Bound<'py, PyList>) -> Option<Vec<Bound<'py, PyAny>>> {
    let mut found = Found { containers: Vec::new(), others: Vec::new() };
    let mut next = Some((values.as_any().clone(), 0));
    while let Some((container, depth)) = next {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut take = |value| found.take(value, depth + 1);
        if let Ok(dict) = container.cast_exact::<PyDict>() {
            for (key, value) in dict {
                if !key.is_exact_instance_of::<PyString>() {
                    return None;
                }
                take(value);
            }
        } else if let Ok(list) = container.cast_exact::<PyList>() {
            list.iter().for_each(take);
        } else if let Ok(tuple) = container.cast_exact::<PyTuple>() {
            tuple.iter().for_each(take);
        }
        next = found.containers.pop();
    }
    Some(found.others)
}

struct Found<'py> {
    /// Not looked into yet, and how deep they lie.
    containers: Vec<(Bound<'py, PyAny>, usize)>,
    others: Vec<Bound<'py, PyAny>>,
}

impl<'py> Found<'py> {
    fn take(&mut self, value: Bound<'py, PyAny>, depth: usize) {
        if value.is_exact_instance_of::<PyString>() || value.is_exact_instance_of::<PyInt>() {
            return;
        }
        if let Ok(number) = value.cast_exact::<PyFloat>() {
            if !number.value().is_finite() {
                self.others.push(value);
            }
        } else if value.is_exact_instance_of::<PyDict>()
            || value.is_exact_instance_of::<PyList>()
            || value.is_exact_instance_of::<PyTuple>()
        {
            self.containers.push((value, depth));
        } else if !(value.is_none() || value.is_exact_instance_of::<PyBool>()) {
            self.others.push(value);
        }
    }
}

/// Whether msgpack writes a value as what it is: it is None, a bool, an int, a float, a text or bytes, or a list of
/// such values, or a dict of such with texts or ints as keys.
///
/// Types are compared exactly. An int may be too large all the same, and a text one that UTF-8 cannot write. False
/// where values are nested more than 500 deep.
#[pyfunction]
#[pyo3(name = "_is_plain")]
pub(crate) fn py_is_plain(value: &Bound<'_, PyAny>) -> bool {
    is_plain(value, MAX_PLAIN_DEPTH)
}

fn is_plain(value: &Bound<'_, PyAny>, depth: usize) -> bool {
    if let Ok(dict) = value.cast_exact::<PyDict>() {
        let is_key = |key: &Bound<'_, PyAny>| {
            key.is_exact_instance_of::<PyString>() || key.is_exact_instance_of::<PyInt>()
        };
        return depth > 0
            && dict.iter().all(|(key, item)| is_key(&key) && is_plain(&item, depth - 1));
    }
    if let Ok(list) = value.cast_exact::<PyList>() {
        return depth > 0 && list.iter().all(|item| is_plain(&item, depth - 1));
    }
    value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_none()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_exact_instance_of::<PyBytes>()
}
