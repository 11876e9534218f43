//! Records of the log as columns: from Python objects, and back.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{
    Array, ArrayRef, FixedSizeBinaryArray, Int64Array, LargeBinaryArray, StructArray,
};
use arrow_buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, Fields, TimeUnit};
use numpy::{PyArray1, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use onceflow_core::log::{ByteColumn, ByteColumnBuf, Fetched, Records, Timestamps};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyInt, PyList, PyString, PyTuple};

use crate::arrow;
use crate::error::{invalid_argument, to_py, type_mismatch};
use crate::keys::{contiguous, integers};

/// Byte strings of one argument.
pub(crate) enum Strings<'py> {
    Owned {
        offsets: Vec<i64>,
        data: Vec<u8>,
        valid: Option<Vec<bool>>,
    },
    /// Offsets, data and validity as Arrow has them.
    Arrow(LargeBinaryArray, Option<Vec<bool>>),
    /// Of one length, as Arrow has them.
    ArrowFixed(FixedSizeBinaryArray),
    /// One row of the array a record.
    Matrix(PyReadonlyArray2<'py, u8>),
}

impl<'py> Strings<'py> {
    /// Reads keys or values: an Arrow array of binary or strings, a two-dimensional numpy array of
    /// uint8, or a list (or any sequence) of bytes, str and None.
    pub(crate) fn read(what: &str, values: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(matrix) = values.extract::<PyReadonlyArray2<'py, u8>>() {
            if matrix.is_c_contiguous() {
                return Ok(Self::Matrix(matrix));
            }
            let copy = values.call_method0("copy")?;
            return Ok(Self::Matrix(copy.extract()?));
        }
        if let Some(array) = arrow::read(values)? {
            return Self::from_arrow(what, &array);
        }
        let list = match values.cast::<PyList>() {
            Ok(list) => list.clone(),
            Err(_) if values.is_instance_of::<PyString>() || values.is_instance_of::<PyBytes>() => {
                return Err(type_mismatch(format!(
                    "the {what} are one string; give a list with one for each record"
                )));
            }
            Err(_) => values.py().get_type::<PyList>().call1((values,))?.cast_into::<PyList>()?,
        };
        let mut offsets = Vec::with_capacity(list.len() + 1);
        let mut data = Vec::with_capacity(list.len() * 16);
        let mut nulls: Option<Vec<bool>> = None;
        offsets.push(0);
        for (index, item) in list.iter().enumerate() {
            if let Ok(bytes) = item.cast::<PyBytes>() {
                data.extend_from_slice(bytes.as_bytes());
            } else if let Ok(text) = item.cast::<PyString>() {
                data.extend_from_slice(text.to_str()?.as_bytes());
            } else if item.is_none() {
                nulls.get_or_insert_with(|| vec![true; list.len()])[index] = false;
            } else if let Ok(bytes) = item.cast::<PyByteArray>() {
                data.extend_from_slice(&bytes.to_vec());
            } else {
                return Err(type_mismatch(format!(
                    "item {index} of the {what} is a {}, not bytes, str or None",
                    item.get_type().name()?
                )));
            }
            offsets.push(data.len() as i64);
        }
        Ok(Self::Owned { offsets, data, valid: nulls })
    }

    fn from_arrow(what: &str, array: &ArrayRef) -> PyResult<Self> {
        if let DataType::FixedSizeBinary(_) = array.data_type()
            && array.null_count() == 0
        {
            return Ok(Self::ArrowFixed(array.as_fixed_size_binary().clone()));
        }
        let cast = cast_with_options(array, &DataType::LargeBinary, &CastOptions::default());
        let cast = cast.ok().filter(|_| is_bytes(array.data_type())).ok_or_else(|| {
            type_mismatch(format!(
                "the {what} are {}; give binary or string columns",
                array.data_type()
            ))
        })?;
        let array = cast.as_binary::<i64>().clone();
        let valid = array.nulls().map(|nulls| nulls.iter().collect());
        Ok(Self::Arrow(array, valid))
    }

    /// One row a record.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Owned { offsets, .. } => offsets.len() - 1,
            Self::Arrow(array, _) => array.len(),
            Self::ArrowFixed(array) => array.len(),
            Self::Matrix(matrix) => matrix.shape()[0],
        }
    }

    pub(crate) fn column(&self) -> PyResult<ByteColumn<'_>> {
        match self {
            Self::Owned { offsets, data, valid } => {
                ByteColumn::new(offsets, data, valid.as_deref()).map_err(to_py)
            }
            Self::Arrow(array, valid) => {
                ByteColumn::new(array.value_offsets(), array.value_data(), valid.as_deref())
                    .map_err(to_py)
            }
            Self::ArrowFixed(array) => {
                let (rows, width) = (array.len(), array.value_length() as usize);
                let data = array.value_data();
                ByteColumn::fixed(rows, width, data.get(..rows * width).unwrap_or_default())
                    .map_err(to_py)
            }
            Self::Matrix(matrix) => {
                let shape = matrix.shape();
                ByteColumn::fixed(shape[0], shape[1], matrix.as_slice()?).map_err(to_py)
            }
        }
    }
}

fn is_bytes(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_)
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
    )
}

/// Timestamps of one argument.
enum Times<'py> {
    Same(i64),
    Array(PyReadonlyArray1<'py, i64>),
    Owned(Vec<i64>),
}

impl<'py> Times<'py> {
    fn read(timestamps: Option<&Bound<'py, PyAny>>, now_ms: i64) -> PyResult<Self> {
        let Some(timestamps) = timestamps else { return Ok(Self::Same(now_ms)) };
        if timestamps.is_instance_of::<PyInt>() {
            let same = timestamps.extract::<i64>();
            let text = "a timestamp is milliseconds since 1970, in the years 1 to 9999";
            return same.map(Self::Same).map_err(|_| invalid_argument(text));
        }
        if let Some(array) = contiguous::<i64>(timestamps)? {
            return Ok(Self::Array(array));
        }
        if let Some(array) = arrow::read(timestamps)? {
            let array = match array.data_type() {
                DataType::Timestamp(unit, _) => timestamps_in_millis(&array, *unit)?,
                _ => array,
            };
            let array = arrow::cast("timestamps", &array, &DataType::Int64)?;
            return Ok(Self::Owned(array.as_primitive::<Int64Type>().values().to_vec()));
        }
        Ok(Self::Owned(integers("timestamps", timestamps)?))
    }
}

/// An Arrow column of timestamps in milliseconds, cut downwards.
fn timestamps_in_millis(array: &ArrayRef, unit: TimeUnit) -> PyResult<ArrayRef> {
    let times = cast_with_options(array, &DataType::Int64, &CastOptions::default())
        .map_err(|error| type_mismatch(format!("timestamps: {error}")))?;
    let outside = |time: i64| {
        invalid_argument(format!(
            "the timestamp {time} (unit {unit:?}) lies outside of the years 1 to 9999"
        ))
    };
    let convert = |time: Option<i64>| {
        let time = time.ok_or_else(|| invalid_argument("a timestamp is null"))?;
        match unit {
            TimeUnit::Second => time.checked_mul(1000).ok_or_else(|| outside(time)),
            TimeUnit::Millisecond => Ok(time),
            TimeUnit::Microsecond => Ok(time.div_euclid(1000)),
            TimeUnit::Nanosecond => Ok(time.div_euclid(1_000_000)),
        }
    };
    let millis = times.as_primitive::<Int64Type>().iter().map(convert);
    Ok(Arc::new(Int64Array::from(millis.collect::<PyResult<Vec<i64>>>()?)))
}

/// Records of one call.
pub(crate) struct Input<'py> {
    rows: usize,
    times: Times<'py>,
    keys: Option<Strings<'py>>,
    values: Option<Strings<'py>>,
    headers: Option<Strings<'static>>,
}

impl<'py> Input<'py> {
    pub(crate) fn read(
        values: Option<&Bound<'py, PyAny>>,
        keys: Option<&Bound<'py, PyAny>>,
        timestamps: Option<&Bound<'py, PyAny>>,
        headers: Option<&Bound<'py, PyAny>>,
        now_ms: i64,
    ) -> PyResult<Self> {
        let values = values.map(|values| Strings::read("values", values)).transpose()?;
        let keys = keys.map(|keys| Strings::read("keys", keys)).transpose()?;
        let headers = headers.map(read_headers).transpose()?;
        let rows = values.as_ref().or(keys.as_ref()).map(Strings::len);
        let rows = rows.ok_or_else(|| invalid_argument("give values, or keys, or both"))?;
        Ok(Self { rows, times: Times::read(timestamps, now_ms)?, keys, values, headers })
    }

    pub(crate) fn records(&self) -> PyResult<Records<'_>> {
        let times = match &self.times {
            Times::Same(timestamp) => Timestamps::Same(*timestamp),
            Times::Array(array) => Timestamps::Each(array.as_slice()?),
            Times::Owned(values) => Timestamps::Each(values),
        };
        let keys = self.keys.as_ref().map(Strings::column).transpose()?;
        let values = self.values.as_ref().map(Strings::column).transpose()?;
        let headers = self.headers.as_ref().map(Strings::column).transpose()?;
        Records::new(self.rows, times, keys, values, headers).map_err(to_py)
    }
}

// ---- headers -----------------------------------------------------------------------------
//
// A record's headers as bytes: u16 number | each: u16 length, name, u32 length (MAX: None), value.

fn read_headers(headers: &Bound<'_, PyAny>) -> PyResult<Strings<'static>> {
    let mut offsets = vec![0];
    let mut data = Vec::new();
    let mut valid = Vec::new();
    for (row, item) in headers.try_iter()?.enumerate() {
        let item = item?;
        valid.push(!item.is_none());
        if !item.is_none() {
            encode_headers(row, &item, &mut data)?;
        }
        offsets.push(data.len() as i64);
    }
    Ok(Strings::Owned { offsets, data, valid: Some(valid) })
}

fn encode_headers(row: usize, item: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> PyResult<()> {
    let wrong = |what: &str| {
        type_mismatch(format!(
            "the headers of record {row} {what}; give a dict or a list of (str, bytes or None)"
        ))
    };
    let pairs = match item.cast::<PyDict>() {
        Ok(dict) => dict.items(),
        Err(_) => item
            .py()
            .get_type::<PyList>()
            .call1((item,))
            .ok()
            .and_then(|list| list.cast_into::<PyList>().ok())
            .ok_or_else(|| wrong("are not a list"))?,
    };
    let count = u16::try_from(pairs.len()).map_err(|_| wrong("are more than 65535"))?;
    out.extend(count.to_le_bytes());
    for pair in pairs.iter() {
        let (name, value): (String, Bound<'_, PyAny>) =
            pair.extract().map_err(|_| wrong("are not pairs"))?;
        let length =
            u16::try_from(name.len()).map_err(|_| wrong("have a name over 65535 bytes"))?;
        out.extend(length.to_le_bytes());
        out.extend(name.as_bytes());
        if value.is_none() {
            out.extend(u32::MAX.to_le_bytes());
            continue;
        }
        let bytes = match (value.cast::<PyBytes>(), value.cast::<PyString>()) {
            (Ok(bytes), _) => bytes.as_bytes().to_vec(),
            (_, Ok(text)) => text.to_str()?.as_bytes().to_vec(),
            _ => return Err(wrong("have a value of another type")),
        };
        let length = u32::try_from(bytes.len()).map_err(|_| wrong("are too long"))?;
        out.extend(length.to_le_bytes());
        out.extend(bytes);
    }
    Ok(())
}

/// The pairs in a record's headers; bytes that are none give no pairs.
fn decode_headers<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyList>> {
    fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
        let (head, tail) = rest.split_at_checked(count)?;
        *rest = tail;
        Some(head)
    }
    fn pair<'a>(rest: &mut &'a [u8]) -> Option<(&'a str, Option<&'a [u8]>)> {
        let length = u16::from_le_bytes(*take(rest, 2)?.first_chunk()?);
        let name = std::str::from_utf8(take(rest, length.into())?).ok()?;
        let length = u32::from_le_bytes(*take(rest, 4)?.first_chunk()?);
        if length == u32::MAX {
            return Some((name, None));
        }
        Some((name, Some(take(rest, length as usize)?)))
    }
    let list = PyList::empty(py);
    let mut rest = bytes;
    let count = take(&mut rest, 2).and_then(<[u8]>::first_chunk);
    for _ in 0..count.map_or(0, |count| u16::from_le_bytes(*count)) {
        let Some((name, value)) = pair(&mut rest) else { break };
        list.append((name, value.map(|value| PyBytes::new(py, value))))?;
    }
    Ok(list)
}

// ---- what was read -----------------------------------------------------------------------

/// Records that were read, as columns.
///
/// Also an Arrow array: ``pyarrow.record_batch(records)`` has the columns ``offset``,
/// ``timestamp_ms`` (i64), ``key``, ``value`` (large_binary), without copying.
#[pyclass(name = "LogRecords", module = "onceflow._native", frozen)]
pub(crate) struct PyLogRecords {
    offsets: Int64Array,
    timestamps: Int64Array,
    keys: LargeBinaryArray,
    values: LargeBinaryArray,
    headers: LargeBinaryArray,
    #[pyo3(get)]
    /// Where to read on.
    next_offset: u64,
}

impl PyLogRecords {
    pub(crate) fn new(fetched: Fetched) -> PyResult<Self> {
        Ok(Self {
            offsets: Int64Array::from(fetched.offsets),
            timestamps: Int64Array::from(fetched.timestamps),
            keys: binary(fetched.keys)?,
            values: binary(fetched.values)?,
            headers: binary(fetched.headers)?,
            next_offset: fetched.next_offset,
        })
    }
}

/// The same buffers as an Arrow array.
fn binary(column: ByteColumnBuf) -> PyResult<LargeBinaryArray> {
    let nulls = column.valid.map(NullBuffer::from);
    let offsets = OffsetBuffer::new(ScalarBuffer::from(column.offsets));
    LargeBinaryArray::try_new(offsets, Buffer::from_vec(column.data), nulls)
        .map_err(|error| type_mismatch(error.to_string()))
}

fn list<'py>(py: Python<'py>, array: &LargeBinaryArray) -> PyResult<Bound<'py, PyList>> {
    PyList::new(py, array.iter().map(|value| value.map(|value| PyBytes::new(py, value))))
}

#[pymethods]
impl PyLogRecords {
    fn __len__(&self) -> usize {
        self.offsets.len()
    }

    #[getter]
    fn offsets<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        PyArray1::from_slice(py, self.offsets.values())
    }

    #[getter]
    fn timestamps<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        PyArray1::from_slice(py, self.timestamps.values())
    }

    #[getter]
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        list(py, &self.keys)
    }

    #[getter]
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        list(py, &self.values)
    }

    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let rows = PyList::empty(py);
        for row in &self.headers {
            rows.append(row.map(|row| decode_headers(py, row)).transpose()?)?;
        }
        Ok(rows)
    }

    /// Bytes of keys, values and headers.
    #[getter]
    fn nbytes(&self) -> usize {
        let columns = [&self.keys, &self.values, &self.headers];
        columns.iter().map(|column| column.value_data().len()).sum()
    }

    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, pyo3::types::PyCapsule>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let fields = Fields::from(vec![
            Field::new("offset", DataType::Int64, false),
            Field::new("timestamp_ms", DataType::Int64, false),
            Field::new("key", DataType::LargeBinary, true),
            Field::new("value", DataType::LargeBinary, true),
        ]);
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(self.offsets.clone()),
            Arc::new(self.timestamps.clone()),
            Arc::new(self.keys.clone()),
            Arc::new(self.values.clone()),
        ];
        let array = StructArray::try_new(fields.clone(), arrays, None)
            .map_err(|error| type_mismatch(error.to_string()))?;
        let field = Arc::new(Field::new("", DataType::Struct(fields), false));
        let array = Bound::new(py, pyo3_arrow::PyArray::new(Arc::new(array), field))?;
        let capsules = array.call_method1("__arrow_c_array__", (requested_schema,))?;
        Ok(capsules.cast_into::<PyTuple>()?)
    }

    fn __repr__(&self) -> String {
        format!("LogRecords({} records, next_offset={})", self.offsets.len(), self.next_offset)
    }
}
