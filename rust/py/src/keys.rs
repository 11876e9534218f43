//! Keys of a batch: from Python objects to what a table takes, and back.

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, UInt64Type};
use numpy::{IntoPyArray, PyArray1, PyArrayMethods, PyReadonlyArray1};
use onceflow_core::state::{Bytes, KeyPart, KeyType, Keys, KeysBuf};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use crate::args::Readable;
use crate::arrow;
use crate::error::{length_mismatch, type_mismatch};

/// Keys read from an argument; borrowed from numpy where that is possible.
pub(crate) enum KeyBatch<'py> {
    ArrayI64(PyReadonlyArray1<'py, i64>),
    ArrayU64(PyReadonlyArray1<'py, u64>),
    Owned(KeysBuf),
}

impl<'py> KeyBatch<'py> {
    /// Reads keys of this type.
    pub(crate) fn read(key: &KeyType, keys: &Bound<'py, PyAny>) -> PyResult<Self> {
        match key {
            KeyType::I64 => {
                if let Some(array) = contiguous::<i64>(keys)? {
                    return Ok(Self::ArrayI64(array));
                }
                Ok(Self::Owned(KeysBuf::I64(integers("keys", keys)?)))
            }
            KeyType::U64 => {
                if let Some(array) = contiguous::<u64>(keys)? {
                    return Ok(Self::ArrayU64(array));
                }
                Ok(Self::Owned(KeysBuf::U64(unsigned("keys", keys)?)))
            }
            KeyType::Bytes | KeyType::Str => {
                let (offsets, data) = byte_strings("keys", keys, Some(*key == KeyType::Str))?;
                Ok(Self::Owned(KeysBuf::Bytes { offsets, data }))
            }
            KeyType::Tuple(elements) => tuples(elements, keys).map(Self::Owned),
        }
    }

    pub(crate) fn as_keys(&self) -> PyResult<Keys<'_>> {
        Ok(match self {
            Self::ArrayI64(array) => Keys::I64(array.as_slice()?),
            Self::ArrayU64(array) => Keys::U64(array.as_slice()?),
            Self::Owned(keys) => borrow(keys),
        })
    }

    pub(crate) fn len(&self) -> PyResult<usize> {
        Ok(match self.as_keys()? {
            Keys::I64(keys) => keys.len(),
            Keys::U64(keys) => keys.len(),
            Keys::Bytes(keys) => keys.len(),
            Keys::Words { width, words } => words.len() / width.max(1),
        })
    }
}

fn borrow(keys: &KeysBuf) -> Keys<'_> {
    match keys {
        KeysBuf::I64(keys) => Keys::I64(keys),
        KeysBuf::U64(keys) => Keys::U64(keys),
        KeysBuf::Bytes { offsets, data } => Keys::Bytes(Bytes { offsets, data }),
        KeysBuf::Words { width, words } => Keys::Words { width: *width, words },
    }
}

/// A numpy array of exactly this type, in one piece and aligned, so that it can be borrowed.
pub(crate) fn contiguous<'py, T: numpy::Element>(
    values: &Bound<'py, PyAny>,
) -> PyResult<Option<PyReadonlyArray1<'py, T>>> {
    // Exactly: a subclass may mean something else than its data says, as a masked array does.
    let Ok(array) = values.cast_exact::<PyArray1<T>>() else { return Ok(None) };
    if !array.data().is_aligned() {
        return Ok(None);
    }
    let array = array.try_readonly()?;
    Ok(array.as_slice().is_ok().then_some(array))
}

/// Integers of any kind that fit into an i64.
pub(crate) fn integers(what: &str, values: &Bound<'_, PyAny>) -> PyResult<Vec<i64>> {
    if let Some(array) = arrow::read(values)? {
        let array = arrow::cast(what, &array, &arrow_schema::DataType::Int64)?;
        return Ok(array.as_primitive::<Int64Type>().values().to_vec());
    }
    if let Some(list) = listed(values) {
        return items(what, &list);
    }
    let array = numpy_array(values, "iu", "integers")?;
    if array.getattr("dtype")?.getattr("kind")?.extract::<String>()? == "u"
        && array.len()? > 0
        && array.call_method0("max")?.extract::<u64>()? > i64::MAX as u64
    {
        return Err(type_mismatch("a value is above 2**63 - 1 and the type is i64; use u64"));
    }
    let array: PyReadonlyArray1<'_, i64> = array.call_method1("astype", ("int64",))?.extract()?;
    Ok(array.as_array().to_vec())
}

/// Integers of any kind that fit into a u64.
pub(crate) fn unsigned(what: &str, values: &Bound<'_, PyAny>) -> PyResult<Vec<u64>> {
    if let Some(array) = arrow::read(values)? {
        let array = arrow::cast(what, &array, &arrow_schema::DataType::UInt64)?;
        return Ok(array.as_primitive::<UInt64Type>().values().to_vec());
    }
    if let Some(list) = listed(values) {
        return items(what, &list);
    }
    let array = numpy_array(values, "iu", "integers")?;
    if array.getattr("dtype")?.getattr("kind")?.extract::<String>()? == "i"
        && array.len()? > 0
        && array.call_method0("min")?.extract::<i64>()? < 0
    {
        return Err(type_mismatch("a value is negative and the type is u64; use i64"));
    }
    let array: PyReadonlyArray1<'_, u64> = array.call_method1("astype", ("uint64",))?.extract()?;
    Ok(array.as_array().to_vec())
}

/// A list, or a tuple as one: numpy would find one type for all items and bend them to it.
pub(crate) fn listed<'py>(values: &Bound<'py, PyAny>) -> Option<Bound<'py, PyList>> {
    match values.cast::<PyTuple>() {
        Ok(tuple) => Some(tuple.to_list()),
        Err(_) => values.cast::<PyList>().ok().cloned(),
    }
}

/// Items of a list, each an integer that the type holds.
pub(crate) fn items<T: Readable>(what: &str, list: &Bound<'_, PyList>) -> PyResult<Vec<T>> {
    let read = |(index, item): (usize, Bound<'_, PyAny>)| {
        T::read(&item)
            .map_err(|reason| type_mismatch(format!("item {index} of the {what} is {reason}")))
    };
    list.iter().enumerate().map(read).collect()
}

/// `values` as a numpy array of whatever type numpy finds.
pub(crate) fn as_array<'py>(values: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = values.py();
    py.import("numpy")?.call_method1("asarray", (values,)).map_err(|error| {
        // Rows of different lengths, and numbers that no type holds.
        let refused = error.is_instance_of::<PyValueError>(py)
            || error.is_instance_of::<PyTypeError>(py)
            || error.is_instance_of::<PyOverflowError>(py);
        if refused {
            let reason = error.value(py).to_string();
            type_mismatch(format!("numpy makes no array of the values: {reason}"))
        } else {
            error
        }
    })
}

/// `values` as a one-dimensional numpy array whose kind is one of `kinds`.
pub(crate) fn numpy_array<'py>(
    values: &Bound<'py, PyAny>,
    kinds: &str,
    what: &str,
) -> PyResult<Bound<'py, PyAny>> {
    if is_masked(values)? {
        return Err(type_mismatch("values are masked; filter them out or fill them"));
    }
    let array = as_array(values)?;
    let dimensions: usize = array.getattr("ndim")?.extract()?;
    if dimensions != 1 {
        return Err(type_mismatch(format!(
            "got {dimensions} dimensions where one value for each record is needed"
        )));
    }
    let kind: String = array.getattr("dtype")?.getattr("kind")?.extract()?;
    if !kinds.contains(&kind) && array.len()? > 0 {
        return Err(type_mismatch(format!(
            "got values of type {}, not {what}; convert them or filter out what is missing",
            array.getattr("dtype")?.str()?
        )));
    }
    Ok(array)
}

/// True of a numpy masked array that hides a value.
fn is_masked(values: &Bound<'_, PyAny>) -> PyResult<bool> {
    match values.getattr_opt("mask")? {
        Some(mask) if mask.hasattr("any")? => mask.call_method0("any")?.is_truthy(),
        _ => Ok(false),
    }
}

fn no_batch(what: &str, values: &Bound<'_, PyAny>) -> PyErr {
    type_mismatch(format!("the {what} are {values}; give a list or an array, one for each record"))
}

/// Offsets and data of byte strings: `text` true for str, false for bytes, `None` for either.
pub(crate) fn byte_strings(
    what: &str,
    values: &Bound<'_, PyAny>,
    text: Option<bool>,
) -> PyResult<(Vec<u64>, Vec<u8>)> {
    if let Some(array) = arrow::read(values)? {
        return arrow::byte_strings(what, &array, text);
    }
    let list = match values.cast::<PyList>() {
        Ok(list) => list.clone(),
        Err(_) if values.hasattr("tolist")? => {
            let list = values.call_method0("tolist")?;
            list.cast_into::<PyList>().map_err(|_| {
                type_mismatch(format!("the {what} are one value; give one for each record"))
            })?
        }
        Err(_) if values.is_instance_of::<PyString>() || values.is_instance_of::<PyBytes>() => {
            return Err(type_mismatch(format!(
                "the {what} are one string; give a list with one for each record"
            )));
        }
        Err(_) => values
            .py()
            .get_type::<PyList>()
            .call1((values,))
            .map_err(|_| no_batch(what, values))?
            .cast_into::<PyList>()?,
    };
    let mut offsets = Vec::with_capacity(list.len() + 1);
    let mut data = Vec::with_capacity(list.len() * 8);
    offsets.push(0);
    for (index, item) in list.iter().enumerate() {
        if text != Some(false)
            && let Ok(string) = item.cast::<PyString>()
        {
            let string = string.to_str().map_err(|error| {
                type_mismatch(format!("item {index} of the {what} is not valid text: {error}"))
            })?;
            data.extend_from_slice(string.as_bytes());
        } else if text != Some(true)
            && let Ok(bytes) = item.cast::<PyBytes>()
        {
            data.extend_from_slice(bytes.as_bytes());
        } else {
            let expected = match text {
                Some(true) => "str",
                Some(false) => "bytes",
                None => "bytes or str",
            };
            return Err(type_mismatch(format!(
                "item {index} of the {what} is a {}, not {expected}",
                item.get_type().name()?
            )));
        }
        offsets.push(data.len() as u64);
    }
    Ok((offsets, data))
}

/// One element of all keys.
enum Element {
    I64(Vec<i64>),
    U64(Vec<u64>),
    Bytes { text: bool, offsets: Vec<u64>, data: Vec<u8> },
}

impl Element {
    fn read(key: &KeyType, values: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(match key {
            KeyType::I64 => Self::I64(integers("keys", values)?),
            KeyType::U64 => Self::U64(unsigned("keys", values)?),
            _ => {
                let text = *key == KeyType::Str;
                let (offsets, data) = byte_strings("keys", values, Some(text))?;
                Self::Bytes { text, offsets, data }
            }
        })
    }

    fn len(&self) -> usize {
        match self {
            Self::I64(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::Bytes { offsets, .. } => offsets.len().saturating_sub(1),
        }
    }
}

/// Tuple keys: a list of tuples, or a tuple of one array for each element.
fn tuples(types: &[KeyType], keys: &Bound<'_, PyAny>) -> PyResult<KeysBuf> {
    let elements: Vec<Element> = if let Ok(arrays) = keys.cast::<PyTuple>() {
        if arrays.len() != types.len() {
            return Err(type_mismatch(format!(
                "{} arrays for tuple keys of {} elements",
                arrays.len(),
                types.len()
            )));
        }
        types
            .iter()
            .zip(arrays.iter())
            .map(|(key, values)| Element::read(key, &values))
            .collect::<PyResult<_>>()?
    } else {
        let py = keys.py();
        let rows: Vec<Bound<'_, PyTuple>> = keys
            .try_iter()
            .map_err(|_| no_batch("keys", keys))?
            .map(|row| {
                let row = row?;
                row.cast_into::<PyTuple>()
                    .map_err(|_| type_mismatch("a key is not a tuple, as the key type is"))
            })
            .collect::<PyResult<_>>()?;
        if let Some(row) = rows.iter().find(|row| row.len() != types.len()) {
            return Err(type_mismatch(format!(
                "a key has {} elements and the key type {}",
                row.len(),
                types.len()
            )));
        }
        types
            .iter()
            .enumerate()
            .map(|(element, key)| {
                let values: Vec<Bound<'_, PyAny>> =
                    rows.iter().map(|row| row.get_item(element)).collect::<PyResult<_>>()?;
                Element::read(key, PyList::new(py, values)?.as_any())
            })
            .collect::<PyResult<_>>()?
    };
    let rows = elements.first().map_or(0, Element::len);
    if let Some(other) = elements.iter().find(|element| element.len() != rows) {
        return Err(length_mismatch(format!(
            "the first elements are {rows} and others {}; a tuple key needs all of them",
            other.len()
        )));
    }
    let all_integers = types.iter().all(|key| matches!(key, KeyType::I64 | KeyType::U64));
    if all_integers {
        let mut words = Vec::with_capacity(rows * types.len());
        for row in 0..rows {
            for element in &elements {
                words.push(match element {
                    Element::I64(values) => values[row] as u64,
                    Element::U64(values) => values[row],
                    Element::Bytes { .. } => 0,
                });
            }
        }
        return Ok(KeysBuf::Words { width: types.len(), words });
    }
    let mut offsets = Vec::with_capacity(rows + 1);
    let mut data = Vec::new();
    offsets.push(0);
    for row in 0..rows {
        let parts: Vec<KeyPart<'_>> = elements
            .iter()
            .map(|element| match element {
                Element::I64(values) => KeyPart::I64(values[row]),
                Element::U64(values) => KeyPart::U64(values[row]),
                Element::Bytes { text, offsets, data } => {
                    let bytes = Bytes { offsets, data }.get(row);
                    match std::str::from_utf8(bytes) {
                        Ok(string) if *text => KeyPart::Str(string.into()),
                        _ => KeyPart::Bytes(bytes.into()),
                    }
                }
            })
            .collect();
        KeysBuf::encode_tuple(&parts, &mut data);
        offsets.push(data.len() as u64);
    }
    Ok(KeysBuf::Bytes { offsets, data })
}

/// Keys as Python sees them: a numpy array, a list of str or bytes, or a list of tuples.
pub(crate) fn to_python(py: Python<'_>, key: &KeyType, keys: &KeysBuf) -> PyResult<Py<PyAny>> {
    Ok(match keys {
        KeysBuf::I64(keys) => keys.clone().into_pyarray(py).into_any().unbind(),
        KeysBuf::U64(keys) => keys.clone().into_pyarray(py).into_any().unbind(),
        KeysBuf::Words { width, words } => {
            let KeyType::Tuple(types) = key else { return Ok(py.None()) };
            let rows = words.chunks_exact(*width).map(|row| {
                let items = row.iter().zip(types).map(|(word, key)| match key {
                    KeyType::I64 => (*word as i64).into_pyobject(py).map(Bound::into_any),
                    _ => word.into_pyobject(py).map(Bound::into_any),
                });
                let items: Vec<Bound<'_, PyAny>> =
                    items.collect::<Result<_, std::convert::Infallible>>()?;
                PyTuple::new(py, items)
            });
            let rows: Vec<Bound<'_, PyTuple>> = rows.collect::<PyResult<_>>()?;
            PyList::new(py, rows)?.into_any().unbind()
        }
        KeysBuf::Bytes { offsets, data } => {
            let bytes = Bytes { offsets, data };
            let list = PyList::empty(py);
            for row in 0..bytes.len() {
                let value = bytes.get(row);
                match key {
                    KeyType::Str => list.append(PyString::from_bytes(py, value)?)?,
                    KeyType::Tuple(types) => {
                        let parts =
                            KeysBuf::decode_tuple(types, value).map_err(crate::error::to_py)?;
                        let items: Vec<Bound<'_, PyAny>> = parts
                            .into_iter()
                            .map(|part| {
                                Ok(match part {
                                    KeyPart::I64(value) => value.into_pyobject(py)?.into_any(),
                                    KeyPart::U64(value) => value.into_pyobject(py)?.into_any(),
                                    KeyPart::Bytes(bytes) => PyBytes::new(py, &bytes).into_any(),
                                    KeyPart::Str(text) => PyString::new(py, &text).into_any(),
                                })
                            })
                            .collect::<PyResult<_>>()?;
                        list.append(PyTuple::new(py, items)?)?;
                    }
                    _ => list.append(PyBytes::new(py, value))?,
                }
            }
            list.into_any().unbind()
        }
    })
}

/// The elements of keys, each as one array or list: of a key that is no tuple the only one.
pub(crate) fn elements(py: Python<'_>, key: &KeyType, keys: &KeysBuf) -> PyResult<Py<PyTuple>> {
    let KeyType::Tuple(types) = key else {
        return Ok(PyTuple::new(py, [to_python(py, key, keys)?])?.unbind());
    };
    let columns: Vec<Bound<'_, PyAny>> = match keys {
        KeysBuf::Words { width, words } => types
            .iter()
            .enumerate()
            .map(|(element, key)| {
                let column = words.iter().skip(element).step_by(*width);
                match key {
                    KeyType::I64 => {
                        let column: Vec<i64> = column.map(|word| *word as i64).collect();
                        column.into_pyarray(py).into_any()
                    }
                    _ => column.copied().collect::<Vec<u64>>().into_pyarray(py).into_any(),
                }
            })
            .collect(),
        KeysBuf::Bytes { offsets, data } => {
            let bytes = Bytes { offsets, data };
            let mut columns: Vec<Elements<'_>> = types
                .iter()
                .map(|key| match key {
                    KeyType::I64 => Elements::I64(Vec::with_capacity(bytes.len())),
                    KeyType::U64 => Elements::U64(Vec::with_capacity(bytes.len())),
                    _ => Elements::Objects(PyList::empty(py)),
                })
                .collect();
            for row in 0..bytes.len() {
                let parts =
                    KeysBuf::decode_tuple(types, bytes.get(row)).map_err(crate::error::to_py)?;
                for (column, part) in columns.iter_mut().zip(parts) {
                    match (column, part) {
                        (Elements::I64(column), KeyPart::I64(value)) => column.push(value),
                        (Elements::U64(column), KeyPart::U64(value)) => column.push(value),
                        (Elements::Objects(column), KeyPart::Bytes(bytes)) => {
                            column.append(PyBytes::new(py, &bytes))?;
                        }
                        (Elements::Objects(column), KeyPart::Str(text)) => {
                            column.append(PyString::new(py, &text))?;
                        }
                        _ => return Err(type_mismatch("an element of a key has another type")),
                    }
                }
            }
            columns
                .into_iter()
                .map(|column| match column {
                    Elements::I64(column) => column.into_pyarray(py).into_any(),
                    Elements::U64(column) => column.into_pyarray(py).into_any(),
                    Elements::Objects(column) => column.into_any(),
                })
                .collect()
        }
        KeysBuf::I64(_) | KeysBuf::U64(_) => vec![to_python(py, key, keys)?.into_bound(py)],
    };
    Ok(PyTuple::new(py, columns)?.unbind())
}

/// One element of many keys on its way to Python.
enum Elements<'py> {
    I64(Vec<i64>),
    U64(Vec<u64>),
    Objects(Bound<'py, PyList>),
}

/// A copy of borrowed keys.
pub(crate) fn owned(keys: Keys<'_>) -> KeysBuf {
    match keys {
        Keys::I64(keys) => KeysBuf::I64(keys.to_vec()),
        Keys::U64(keys) => KeysBuf::U64(keys.to_vec()),
        Keys::Words { width, words } => KeysBuf::Words { width, words: words.to_vec() },
        Keys::Bytes(bytes) => {
            KeysBuf::Bytes { offsets: bytes.offsets.to_vec(), data: bytes.data.to_vec() }
        }
    }
}

/// Number of keys.
pub(crate) fn count(keys: &KeysBuf) -> usize {
    match keys {
        KeysBuf::I64(keys) => keys.len(),
        KeysBuf::U64(keys) => keys.len(),
        KeysBuf::Words { width, words } => words.len() / (*width).max(1),
        KeysBuf::Bytes { offsets, .. } => offsets.len().saturating_sub(1),
    }
}
