//! Arrow arrays through the PyCapsule interface.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int64Type, UInt32Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float32Array, Float64Array, Int64Array, LargeBinaryArray,
    LargeStringArray, StructArray, UInt32Array, UInt64Array,
};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, Fields};
use onceflow_core::state::{
    Bytes, Column, ColumnData, ColumnType, KeyPart, KeyType, KeysBuf, Rows, Schema,
};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyTuple};

use crate::columns::Values;
use crate::error::{to_py, type_mismatch};

/// The Arrow array behind an object; `None` if it is none.
pub(crate) fn read(values: &Bound<'_, PyAny>) -> PyResult<Option<ArrayRef>> {
    if values.is_instance_of::<pyo3::types::PyList>() {
        return Ok(None);
    }
    let valid = validated(values)?;
    let sound = |array: ArrayRef| if valid { Ok(array) } else { sound(array) };
    if values.hasattr("__arrow_c_array__")? {
        let array: pyo3_arrow::PyArray = values.extract().map_err(|e| foreign(values, e))?;
        return sound(array.into_inner().0).map(Some);
    }
    if values.hasattr("__arrow_c_stream__")? {
        let chunked: pyo3_arrow::PyChunkedArray =
            values.extract().map_err(|e| foreign(values, e))?;
        let (chunks, field) = chunked.into_inner();
        let chunks: Vec<ArrayRef> = chunks.into_iter().map(sound).collect::<PyResult<_>>()?;
        if let [chunk] = chunks.as_slice() {
            return Ok(Some(Arc::clone(chunk)));
        }
        let data_type = field.data_type().clone();
        let parts: Vec<&dyn Array> = chunks.iter().map(AsRef::as_ref).collect();
        if parts.is_empty() {
            return Ok(Some(arrow_array::new_empty_array(&data_type)));
        }
        return arrow_select::concat::concat(&parts)
            .map(Some)
            .map_err(|error| type_mismatch(error.to_string()));
    }
    Ok(None)
}

/// What is said of an object that offers an Arrow array and does not give one.
fn foreign(values: &Bound<'_, PyAny>, error: PyErr) -> PyErr {
    let py = values.py();
    if error.is_instance_of::<pyo3::exceptions::PyException>(py) {
        type_mismatch(format!("this is not an Arrow array that can be read: {}", error.value(py)))
    } else {
        error
    }
}

/// Has pyarrow check an array of its own: only it knows how long the buffers are, which the interface
/// between libraries does not say. False for an object of another library.
fn validated(values: &Bound<'_, PyAny>) -> PyResult<bool> {
    let kind = values.get_type();
    if !kind.module()?.to_string_lossy().starts_with("pyarrow.") || !values.hasattr("validate")? {
        return Ok(false);
    }
    let full = [("full", true)].into_py_dict(values.py())?;
    values.call_method("validate", (), Some(&full)).map_err(|error| {
        type_mismatch(format!(
            "the Arrow array is invalid: {}; make it anew where it comes from",
            error.value(values.py())
        ))
    })?;
    Ok(true)
}

/// The array, if what it says of itself is true: offsets, views, indices of dictionaries, UTF-8. It
/// comes from another library by pointers, and reading a wrong one is undefined.
fn sound(array: ArrayRef) -> PyResult<ArrayRef> {
    array.to_data().validate_full().map_err(|error| {
        type_mismatch(format!(
            "the Arrow array is invalid: {error}; make it anew where it comes from"
        ))
    })?;
    Ok(array)
}

/// The array as another type of the same kind, without nulls and without changing a value.
pub(crate) fn cast(what: &str, array: &ArrayRef, to: &DataType) -> PyResult<ArrayRef> {
    if array.logical_null_count() > 0 {
        return Err(type_mismatch(format!(
            "{what}: {} of {} values are null; filter them out or fill them",
            array.logical_null_count(),
            array.len()
        )));
    }
    let from = array.data_type();
    let value = match from {
        DataType::Dictionary(_, value) => value.as_ref(),
        other => other,
    };
    let text =
        |data: &DataType| matches!(data, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let bytes = |data: &DataType| {
        matches!(data, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
    };
    let fits = match to {
        DataType::Int64 | DataType::UInt64 | DataType::UInt32 => value.is_integer(),
        DataType::Float64 | DataType::Float32 => value.is_integer() || value.is_floating(),
        DataType::Boolean => *value == DataType::Boolean,
        DataType::LargeUtf8 => text(value),
        DataType::LargeBinary => bytes(value) || text(value),
        _ => false,
    };
    if !fits {
        return Err(type_mismatch(format!(
            "{what}: {from} where {to} is needed; convert it first"
        )));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let convert = |array: &ArrayRef, to: &DataType| {
        cast_with_options(array, to, &options)
            .map_err(|error| type_mismatch(format!("{what}: {error}")))
    };
    let result = convert(array, to)?;
    // A float may round what it is made from; the way back shows it.
    if matches!(to, DataType::Float64 | DataType::Float32)
        && value != to
        && !convert(&result, value)
            .is_ok_and(|back| convert(array, value).is_ok_and(|given| *back == *given))
    {
        return Err(type_mismatch(format!(
            "{what}: {from} with values that are not exact as {to}; cast them first, or use a \
             column that holds them"
        )));
    }
    Ok(result)
}

/// Offsets and data of strings or byte strings.
pub(crate) fn byte_strings(
    what: &str,
    array: &ArrayRef,
    text: Option<bool>,
) -> PyResult<(Vec<u64>, Vec<u8>)> {
    if text == Some(true) {
        // Most often, and as it is.
        if let Some(array) = array.as_string_opt::<i32>()
            && array.null_count() == 0
        {
            return Ok(parts(array.value_offsets(), array.value_data()));
        }
        let array = cast(what, array, &DataType::LargeUtf8)?;
        let array = array.as_string::<i64>();
        return Ok(parts(array.value_offsets(), array.value_data()));
    }
    let is_text =
        |data: &DataType| matches!(data, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    if text == Some(false) && is_text(array.data_type()) {
        return Err(type_mismatch(format!("{what}: strings where bytes are needed")));
    }
    let array = cast(what, array, &DataType::LargeBinary)?;
    let array = array.as_binary::<i64>();
    Ok(parts(array.value_offsets(), array.value_data()))
}

fn parts<T: Copy + Into<i64>>(offsets: &[T], data: &[u8]) -> (Vec<u64>, Vec<u8>) {
    let first = offsets.first().copied().map_or(0, Into::into);
    let last = offsets.last().copied().map_or(0, Into::into);
    let data = data.get(first as usize..last as usize).unwrap_or_default().to_vec();
    (offsets.iter().map(|offset| ((*offset).into() - first) as u64).collect(), data)
}

/// The values of a column.
pub(crate) fn values(
    what: &str,
    array: &ArrayRef,
    column: ColumnType,
) -> PyResult<Values<'static>> {
    Ok(match column {
        ColumnType::I64 => {
            let array = cast(what, array, &DataType::Int64)?;
            Values::I64(array.as_primitive::<Int64Type>().values().to_vec())
        }
        ColumnType::U64 => {
            let array = cast(what, array, &DataType::UInt64)?;
            Values::U64(array.as_primitive::<UInt64Type>().values().to_vec())
        }
        ColumnType::F64 => {
            let array = cast(what, array, &DataType::Float64)?;
            Values::F64(array.as_primitive::<Float64Type>().values().to_vec())
        }
        ColumnType::F32 => {
            let array = cast(what, array, &DataType::Float32)?;
            Values::F32(array.as_primitive::<Float32Type>().values().to_vec())
        }
        ColumnType::U32 => {
            let array = cast(what, array, &DataType::UInt32)?;
            Values::U32(array.as_primitive::<UInt32Type>().values().to_vec())
        }
        ColumnType::Bool => {
            let array = cast(what, array, &DataType::Boolean)?;
            Values::Bool(array.as_boolean().values().iter().collect())
        }
        ColumnType::Bytes => {
            let (offsets, data) = byte_strings(what, array, None)?;
            Values::Bytes { offsets, data }
        }
    })
}

/// Rows as a struct array: key columns, then the columns; unset cells are null.
pub(crate) fn export<'py>(
    py: Python<'py>,
    schema: &Schema,
    rows: &Rows,
    requested_schema: Option<Bound<'py, pyo3::types::PyCapsule>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let mut fields = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (name, array) in key_arrays(&schema.key, &rows.keys)? {
        fields.push(Field::new(name, array.data_type().clone(), false));
        arrays.push(array);
    }
    for ((name, _), column) in schema.columns.iter().zip(&rows.columns) {
        let array = column_array(column);
        fields.push(Field::new(name, array.data_type().clone(), true));
        arrays.push(array);
    }
    let fields = Fields::from(fields);
    let array = StructArray::try_new(fields.clone(), arrays, None)
        .map_err(|error| type_mismatch(error.to_string()))?;
    let field = Arc::new(Field::new("", DataType::Struct(fields), false));
    let array = pyo3_arrow::PyArray::new(Arc::new(array), field);
    let array = Bound::new(py, array)?;
    let capsules = array.call_method1("__arrow_c_array__", (requested_schema,))?;
    Ok(capsules.cast_into::<PyTuple>()?)
}

fn key_arrays(key: &KeyType, keys: &KeysBuf) -> PyResult<Vec<(String, ArrayRef)>> {
    let single = |array: ArrayRef| vec![("key".to_owned(), array)];
    Ok(match (key, keys) {
        (_, KeysBuf::I64(keys)) => single(Arc::new(Int64Array::from(keys.clone()))),
        (_, KeysBuf::U64(keys)) => single(Arc::new(UInt64Array::from(keys.clone()))),
        (KeyType::Tuple(types), KeysBuf::Words { width, words }) => types
            .iter()
            .enumerate()
            .map(|(element, key)| {
                let values = words.iter().skip(element).step_by(*width).copied();
                let array: ArrayRef = match key {
                    KeyType::I64 => {
                        Arc::new(Int64Array::from_iter_values(values.map(|word| word as i64)))
                    }
                    _ => Arc::new(UInt64Array::from_iter_values(values)),
                };
                (format!("key_{element}"), array)
            })
            .collect(),
        (KeyType::Tuple(types), KeysBuf::Bytes { offsets, data }) => {
            let bytes = Bytes { offsets, data };
            let rows: Vec<Vec<KeyPart<'_>>> = (0..bytes.len())
                .map(|row| KeysBuf::decode_tuple(types, bytes.get(row)).map_err(to_py))
                .collect::<PyResult<_>>()?;
            (0..types.len())
                .map(|element| {
                    let parts = rows.iter().map(|row| &row[element]);
                    let array: ArrayRef = match &types[element] {
                        KeyType::I64 => Arc::new(Int64Array::from_iter(parts.map(|part| {
                            if let KeyPart::I64(value) = part { Some(*value) } else { None }
                        }))),
                        KeyType::U64 => Arc::new(UInt64Array::from_iter(parts.map(|part| {
                            if let KeyPart::U64(value) = part { Some(*value) } else { None }
                        }))),
                        KeyType::Str => Arc::new(LargeStringArray::from_iter(parts.map(|part| {
                            if let KeyPart::Str(text) = part { Some(text.as_ref()) } else { None }
                        }))),
                        _ => Arc::new(LargeBinaryArray::from_iter(parts.map(|part| {
                            if let KeyPart::Bytes(bytes) = part {
                                Some(bytes.as_ref())
                            } else {
                                None
                            }
                        }))),
                    };
                    (format!("key_{element}"), array)
                })
                .collect()
        }
        (KeyType::Str, KeysBuf::Bytes { offsets, data }) => {
            let bytes = Bytes { offsets, data };
            let texts = (0..bytes.len()).map(|row| std::str::from_utf8(bytes.get(row)).ok());
            single(Arc::new(LargeStringArray::from_iter(texts)))
        }
        (_, KeysBuf::Bytes { offsets, data }) => {
            let bytes = Bytes { offsets, data };
            let values = (0..bytes.len()).map(|row| Some(bytes.get(row)));
            single(Arc::new(LargeBinaryArray::from_iter(values)))
        }
        (_, KeysBuf::Words { .. }) => Vec::new(),
    })
}

fn column_array(column: &Column) -> ArrayRef {
    fn masked<T: Copy>(values: &[T], column: &Column) -> impl Iterator<Item = Option<T>> {
        let set = |row: usize| column.validity.as_ref().is_none_or(|validity| validity[row]);
        values
            .iter()
            .enumerate()
            .map(|(row, value)| set(row).then_some(*value))
            .collect::<Vec<_>>()
            .into_iter()
    }
    match &column.data {
        ColumnData::I64(values) => Arc::new(Int64Array::from_iter(masked(values, column))),
        ColumnData::U64(values) => Arc::new(UInt64Array::from_iter(masked(values, column))),
        ColumnData::F64(values) => Arc::new(Float64Array::from_iter(masked(values, column))),
        ColumnData::F32(values) => Arc::new(Float32Array::from_iter(masked(values, column))),
        ColumnData::U32(values) => Arc::new(UInt32Array::from_iter(masked(values, column))),
        ColumnData::Bool(values) => Arc::new(BooleanArray::from_iter(masked(values, column))),
        ColumnData::Bytes { offsets, data } => {
            let bytes = Bytes { offsets, data };
            let values: Vec<&[u8]> = (0..bytes.len()).map(|row| bytes.get(row)).collect();
            Arc::new(LargeBinaryArray::from_iter(masked(&values, column)))
        }
    }
}
