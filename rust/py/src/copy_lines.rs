//! Python's values as lines of PostgreSQL's COPY, where they are such that a column keeps them as they are.

use std::io::Write;

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyList, PyString};

use crate::error::invalid_argument;

/// What a column takes, if it has values that need no look by themselves.
#[derive(Clone, Copy)]
enum Kind {
    Bool,
    /// Of so many bits.
    Int(u32),
    Float,
    Text,
    /// Texts that are as COPY reads them already.
    Ready,
}

impl Kind {
    fn of(name: &str) -> PyResult<Self> {
        Ok(match name {
            "bool" => Self::Bool,
            "int2" => Self::Int(16),
            "int4" => Self::Int(32),
            "int8" => Self::Int(64),
            "float8" => Self::Float,
            "text" => Self::Text,
            "ready" => Self::Ready,
            _ => return Err(invalid_argument(format!("no kind of column {name:?}"))),
        })
    }
}

/// Texts of one column, one behind the other.
struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Texts {
    /// None where a value needs a look: it is of another type, also of a subclass, or none that the column keeps.
    fn of(kind: Kind, values: &Bound<'_, PyList>) -> Option<Self> {
        let mut texts = Self {
            bytes: Vec::with_capacity(values.len() * 8),
            ends: Vec::with_capacity(values.len()),
        };
        for value in values {
            texts.take(kind, &value)?;
            texts.ends.push(texts.bytes.len());
        }
        Some(texts)
    }

    fn take(&mut self, kind: Kind, value: &Bound<'_, PyAny>) -> Option<()> {
        let bytes = &mut self.bytes;
        if value.is_none() {
            bytes.extend_from_slice(b"\\N");
            return Some(());
        }
        match kind {
            Kind::Bool => {
                bytes.push(if value.cast_exact::<PyBool>().ok()?.is_true() { b't' } else { b'f' });
            }
            Kind::Int(bits) => {
                let number: i64 = value.cast_exact::<PyInt>().ok()?.extract().ok()?;
                if bits < 64 && number >> (bits - 1) != number >> 63 {
                    return None;
                }
                write!(bytes, "{number}").ok()?;
            }
            // The shortest text that is read as the same number.
            Kind::Float => {
                write!(bytes, "{:?}", value.cast_exact::<PyFloat>().ok()?.value()).ok()?;
            }
            Kind::Text => escape(value.cast_exact::<PyString>().ok()?.to_str().ok()?, bytes)?,
            Kind::Ready => {
                bytes.extend_from_slice(value.cast::<PyString>().ok()?.to_str().ok()?.as_bytes());
            }
        }
        Some(())
    }

    fn get(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.bytes[start..self.ends[row]]
    }
}

/// None for what PostgreSQL has no text for.
fn escape(text: &str, bytes: &mut Vec<u8>) -> Option<()> {
    let needs_look = |byte: u8| byte < b' ' || byte == b'\\';
    if !text.bytes().any(needs_look) {
        bytes.extend_from_slice(text.as_bytes());
        return Some(());
    }
    for byte in text.bytes() {
        match byte {
            0 => return None,
            b'\\' => bytes.extend_from_slice(b"\\\\"),
            b'\t' => bytes.extend_from_slice(b"\\t"),
            b'\n' => bytes.extend_from_slice(b"\\n"),
            b'\r' => bytes.extend_from_slice(b"\\r"),
            _ => bytes.push(byte),
        }
    }
    Some(())
}

/// Rows as PostgreSQL's COPY reads them.
///
/// Args:
///     columns: Kind ("bool", "int2", "int4", "int8", "float8", "text", or "ready" for texts that are escaped) and
///         values of each, all of one length.
///     keys: How many columns, the first ones, are the key of a row; 0: there is none.
///
/// Returns:
///     The key of each row, and its line; without a key none, and all lines in one. Or the number of a column that
///     has a value which is not plainly of its kind.
///
/// Raises:
///     ConfigurationError: No such kind, or columns of different lengths.
#[pyfunction]
#[pyo3(name = "_copy_lines")]
pub(crate) fn py_copy_lines<'py>(
    py: Python<'py>,
    columns: Vec<(String, Bound<'py, PyList>)>,
    keys: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let rows = columns.first().map_or(0, |(_, values)| values.len());
    if keys > columns.len() || columns.iter().any(|(_, values)| values.len() != rows) {
        return Err(invalid_argument("columns of different lengths, or fewer than keys"));
    }
    let mut texts = Vec::with_capacity(columns.len());
    for (number, (kind, values)) in columns.iter().enumerate() {
        match Texts::of(Kind::of(kind)?, values) {
            Some(column) if column.ends.len() == rows => texts.push(column),
            _ => return Ok(number.into_pyobject(py)?.into_any()),
        }
    }
    let size: usize = texts.iter().map(|column| column.bytes.len() + rows).sum();
    let (mut line, mut key_list, mut line_list) = (Vec::new(), Vec::new(), Vec::new());
    if keys == 0 {
        line.reserve_exact(size);
    } else {
        key_list.reserve_exact(rows);
        line_list.reserve_exact(rows);
    }
    for row in 0..rows {
        for (number, column) in texts.iter().enumerate() {
            line.extend_from_slice(column.get(row));
            if number + 1 == keys {
                key_list.push(PyBytes::new(py, &line));
            }
            line.push(b'\t');
        }
        if let Some(last) = line.last_mut() {
            *last = b'\n';
        }
        if keys > 0 {
            line_list.push(PyBytes::new(py, &line));
            line.clear();
        }
    }
    if keys == 0 {
        line_list.push(PyBytes::new(py, &line));
    }
    Ok((key_list, line_list).into_pyobject(py)?.into_any())
}
