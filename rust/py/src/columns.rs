//! Values of one column for a batch: from Python objects to what a table takes, and back.

use numpy::{IntoPyArray, PyReadonlyArray1};
use onceflow_core::state::{Bytes, Column, ColumnData, ColumnType, Operand, Scalar};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBool, PyBytes, PyFloat, PyInt, PyList, PyString};

use crate::arrow;
use crate::error::type_mismatch;
use crate::keys::{byte_strings, contiguous, integers, listed, numpy_array, unsigned};

/// Values read from an argument; borrowed from numpy where that is possible.
pub(crate) enum Values<'py> {
    ArrayI64(PyReadonlyArray1<'py, i64>),
    ArrayU64(PyReadonlyArray1<'py, u64>),
    ArrayF64(PyReadonlyArray1<'py, f64>),
    ArrayF32(PyReadonlyArray1<'py, f32>),
    ArrayU32(PyReadonlyArray1<'py, u32>),
    ArrayBool(PyReadonlyArray1<'py, bool>),
    I64(Vec<i64>),
    U64(Vec<u64>),
    F64(Vec<f64>),
    F32(Vec<f32>),
    U32(Vec<u32>),
    Bool(Vec<bool>),
    Bytes { offsets: Vec<u64>, data: Vec<u8> },
    Scalar(Scalar<'static>),
    ScalarBytes(Vec<u8>),
}

impl<'py> Values<'py> {
    /// Reads the values of a column of this name and type.
    pub(crate) fn read(
        name: &str,
        column: ColumnType,
        values: &Bound<'py, PyAny>,
    ) -> PyResult<Self> {
        Self::read_any(column, values).map_err(|error| named(values.py(), name, error))
    }

    fn read_any(column: ColumnType, values: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Some(scalar) = scalar(column, values)? {
            return Ok(scalar);
        }
        let borrowed = match column {
            ColumnType::I64 => contiguous(values)?.map(Self::ArrayI64),
            ColumnType::U64 => contiguous(values)?.map(Self::ArrayU64),
            ColumnType::F64 => contiguous(values)?.map(Self::ArrayF64),
            ColumnType::F32 => contiguous(values)?.map(Self::ArrayF32),
            ColumnType::U32 => contiguous(values)?.map(Self::ArrayU32),
            ColumnType::Bool => contiguous(values)?.map(Self::ArrayBool),
            ColumnType::Bytes => None,
        };
        if let Some(borrowed) = borrowed {
            return Ok(borrowed);
        }
        if let Some(array) = arrow::read(values)? {
            return arrow::values("values", &array, column);
        }
        Ok(match column {
            ColumnType::I64 => Self::I64(integers("values", values)?),
            ColumnType::U64 => Self::U64(unsigned("values", values)?),
            ColumnType::U32 => Self::U32(
                unsigned("values", values)?
                    .into_iter()
                    .map(|value| {
                        u32::try_from(value).map_err(|_| {
                            type_mismatch(format!("{value} does not fit into u32; use u64"))
                        })
                    })
                    .collect::<PyResult<_>>()?,
            ),
            ColumnType::F64 => Self::F64(floats(values)?),
            ColumnType::F32 => {
                Self::F32(floats(values)?.into_iter().map(narrow).collect::<PyResult<_>>()?)
            }
            ColumnType::Bool => {
                let array = numpy_array(values, "b", "bools")?;
                let array: PyReadonlyArray1<'_, bool> =
                    array.call_method1("astype", ("bool",))?.extract()?;
                Self::Bool(array.as_array().to_vec())
            }
            ColumnType::Bytes => {
                let (offsets, data) = byte_strings("values", values, None)?;
                Self::Bytes { offsets, data }
            }
        })
    }

    /// One of every key: 1 in the column's type.
    pub(crate) fn one(name: &str, column: ColumnType) -> PyResult<Self> {
        Ok(Self::Scalar(match column {
            ColumnType::I64 => Scalar::I64(1),
            ColumnType::U64 => Scalar::U64(1),
            ColumnType::U32 => Scalar::U32(1),
            ColumnType::F64 => Scalar::F64(1.0),
            other => {
                return Err(type_mismatch(format!(
                    "column {name:?} is {} and cannot count; use an integer column",
                    other.name()
                )));
            }
        }))
    }

    pub(crate) fn operand(&self) -> PyResult<Operand<'_>> {
        Ok(match self {
            Self::ArrayI64(array) => Operand::I64(array.as_slice()?),
            Self::ArrayU64(array) => Operand::U64(array.as_slice()?),
            Self::ArrayF64(array) => Operand::F64(array.as_slice()?),
            Self::ArrayF32(array) => Operand::F32(array.as_slice()?),
            Self::ArrayU32(array) => Operand::U32(array.as_slice()?),
            Self::ArrayBool(array) => Operand::Bool(array.as_slice()?),
            Self::I64(values) => Operand::I64(values),
            Self::U64(values) => Operand::U64(values),
            Self::F64(values) => Operand::F64(values),
            Self::F32(values) => Operand::F32(values),
            Self::U32(values) => Operand::U32(values),
            Self::Bool(values) => Operand::Bool(values),
            Self::Bytes { offsets, data } => Operand::Bytes(Bytes { offsets, data }),
            Self::Scalar(scalar) => Operand::Scalar(*scalar),
            Self::ScalarBytes(bytes) => Operand::Scalar(Scalar::Bytes(bytes)),
        })
    }
}

/// The error with the column's name in front.
fn named(py: Python<'_>, name: &str, error: PyErr) -> PyErr {
    let text = format!("column {name:?}: {}", error.value(py));
    if error.is_instance_of::<pyo3::exceptions::PyTypeError>(py) {
        type_mismatch(text)
    } else {
        error
    }
}

/// A Python number, bool or string that stands for the whole batch.
fn scalar<'py>(column: ColumnType, value: &Bound<'py, PyAny>) -> PyResult<Option<Values<'py>>> {
    let value =
        if value.hasattr("ndim")? && value.getattr("ndim")?.extract::<usize>().ok() == Some(0) {
            &value.call_method0("item")?
        } else {
            value
        };
    let wrong = |needed: &str| {
        type_mismatch(format!("{value} was given for the whole batch, and is not {needed}"))
    };
    if let Ok(flag) = value.cast::<PyBool>() {
        return match column {
            ColumnType::Bool => Ok(Some(Values::Scalar(Scalar::Bool(flag.is_true())))),
            _ => Err(wrong("a number")),
        };
    }
    if value.is_instance_of::<PyInt>() {
        return match column {
            ColumnType::I64 => value.extract().map(Scalar::I64),
            ColumnType::U64 => value.extract().map(Scalar::U64),
            ColumnType::U32 => value.extract().map(Scalar::U32),
            ColumnType::F64 | ColumnType::F32 => {
                let float: f64 = value.extract().map_err(|_| wrong("a float"))?;
                if !value.eq(float)? {
                    return Err(wrong("an integer that is exact as a float"));
                }
                if column == ColumnType::F64 {
                    Ok(Scalar::F64(float))
                } else {
                    narrow(float).map(Scalar::F32)
                }
            }
            _ => return Err(wrong("a value of this column")),
        }
        .map(|scalar| Some(Values::Scalar(scalar)))
        .map_err(|_| wrong("a value within this column's range"));
    }
    if value.is_instance_of::<PyFloat>() {
        return match column {
            ColumnType::F64 => Ok(Some(Values::Scalar(Scalar::F64(value.extract()?)))),
            ColumnType::F32 => Ok(Some(Values::Scalar(Scalar::F32(narrow(value.extract()?)?)))),
            _ => Err(wrong("a value of this column")),
        };
    }
    if let Ok(text) = value.cast::<PyString>() {
        return match column {
            ColumnType::Bytes => {
                let text = text
                    .to_str()
                    .map_err(|error| type_mismatch(format!("this is not valid text: {error}")))?;
                Ok(Some(Values::ScalarBytes(text.as_bytes().to_vec())))
            }
            _ => Err(wrong("a value of this column")),
        };
    }
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return match column {
            ColumnType::Bytes => Ok(Some(Values::ScalarBytes(bytes.as_bytes().to_vec()))),
            _ => Err(wrong("a value of this column")),
        };
    }
    if value.is_none() {
        return Err(type_mismatch("None cannot be a value; filter such records out first"));
    }
    Ok(None)
}

/// The f32 that is this number, or NaN.
fn narrow(value: f64) -> PyResult<f32> {
    let narrow = value as f32;
    if f64::from(narrow) == value || value.is_nan() {
        return Ok(narrow);
    }
    Err(type_mismatch(if narrow.is_infinite() {
        format!("{value:e} is out of the range of f32; use f64")
    } else {
        format!("{value} is not exact as f32; round it with numpy.float32, or use f64")
    }))
}

/// Numbers as f64, none of them rounded.
fn floats(values: &Bound<'_, PyAny>) -> PyResult<Vec<f64>> {
    if let Some(list) = listed(values) {
        let items = list.iter().enumerate();
        return items
            .map(|(index, item)| {
                float(&item).map_err(|reason| {
                    type_mismatch(format!("item {index} of the values is {reason}"))
                })
            })
            .collect();
    }
    let array = numpy_array(values, "fiu", "numbers")?;
    let floats = array.call_method1("astype", ("float64",))?;
    let kind: String = array.getattr("dtype")?.getattr("kind")?.extract()?;
    let item_bytes: usize = array.getattr("dtype")?.getattr("itemsize")?.extract()?;
    if kind != "f" || item_bytes > size_of::<f64>() {
        // An integer above 2**53, or a longer float, may have no f64 of its own. NaN is no number
        // that could be rounded; the table refuses it.
        let back = floats.call_method1("astype", (array.getattr("dtype")?,))?;
        let exact = values.py().import("numpy")?.call_method(
            "array_equal",
            (back, &array),
            Some(&[("equal_nan", kind == "f")].into_py_dict(values.py())?),
        )?;
        if !exact.extract::<bool>()? {
            return Err(type_mismatch("a number is not exact as f64; round it, or use i64"));
        }
    }
    let floats: PyReadonlyArray1<'_, f64> = floats.extract()?;
    Ok(floats.as_array().to_vec())
}

/// A number of Python or numpy as f64; or what it is, if it is none or would be rounded.
fn float(value: &Bound<'_, PyAny>) -> Result<f64, String> {
    if let Ok(float) = value.cast::<PyFloat>() {
        return Ok(float.value());
    }
    let kind = value.get_type().name().map_or_else(|_| "value".into(), |name| name.to_string());
    let is_integer = value.is_instance_of::<PyInt>() && !value.is_instance_of::<PyBool>();
    if !is_integer && !is_numpy_number(value) {
        return Err(format!("of type {kind}, not a number"));
    }
    match value.extract::<f64>() {
        Ok(float) if float.is_nan() || value.eq(float).unwrap_or(false) => Ok(float),
        _ => Err(format!("{value}, which is not exact as a float; round it, or use i64")),
    }
}

fn is_numpy_number(value: &Bound<'_, PyAny>) -> bool {
    let kind = value.getattr("dtype").and_then(|dtype| dtype.getattr("kind"));
    kind.and_then(|kind| kind.extract::<String>()).is_ok_and(|kind| "fiu".contains(&kind))
}

/// A column as Python sees it: a numpy array, or a list of bytes.
pub(crate) fn to_python(py: Python<'_>, column: &Column) -> PyResult<Py<PyAny>> {
    Ok(match &column.data {
        ColumnData::I64(values) => values.clone().into_pyarray(py).into_any().unbind(),
        ColumnData::U64(values) => values.clone().into_pyarray(py).into_any().unbind(),
        ColumnData::F64(values) => values.clone().into_pyarray(py).into_any().unbind(),
        ColumnData::F32(values) => values.clone().into_pyarray(py).into_any().unbind(),
        ColumnData::U32(values) => values.clone().into_pyarray(py).into_any().unbind(),
        ColumnData::Bool(values) => values.clone().into_pyarray(py).into_any().unbind(),
        ColumnData::Bytes { offsets, data } => {
            let bytes = Bytes { offsets, data };
            let items: Vec<Bound<'_, PyBytes>> =
                (0..bytes.len()).map(|row| PyBytes::new(py, bytes.get(row))).collect();
            PyList::new(py, items)?.into_any().unbind()
        }
    })
}
