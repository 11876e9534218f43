//! Rows of CSV as dicts of Python.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDateTime, PyDict, PyFloat, PyInt, PyList, PyString, PyTzInfo};

use crate::csv_fields::Fields;
use crate::csv_values::{Kind, Nulls, bool_of, datetime, float, int};
use crate::iso_times::{SECOND, date_of};

/// Longer texts are hardly met again.
const CACHED_BYTES: usize = 24;
const CACHE_SLOTS: usize = 1024;

/// A list of dicts of these columns; `None` if a text is none of the usual ones of its type.
pub(crate) fn dicts<'py>(
    py: Python<'py>,
    fields: &Fields<'_>,
    columns: &[(Py<PyString>, Kind)],
    nulls: &Nulls,
) -> PyResult<Option<Bound<'py, PyList>>> {
    let shape = PyDict::new(py);
    for (name, _) in columns {
        shape.set_item(name, py.None())?;
    }
    // A copy has room for all of its items at once.
    let rows = (0..fields.rows).map(|_| shape.copy()).collect::<PyResult<Vec<_>>>()?;
    for ((name, kind), spans) in columns.iter().zip(&fields.columns) {
        let name = name.bind(py);
        let mut known = Known::new();
        for (row, span) in rows.iter().zip(spans) {
            let text = fields.text(*span);
            if nulls.has(text) {
                continue;
            }
            let Some(value) = value(py, text, *kind, &mut known)? else { return Ok(None) };
            row.set_item(name, value)?;
        }
    }
    PyList::new(py, rows).map(Some)
}

fn value<'py>(
    py: Python<'py>,
    text: &[u8],
    kind: Kind,
    known: &mut Known<'py>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    Ok(match kind {
        Kind::Int { exact } => int(text, exact).map(|value| PyInt::new(py, value).into_any()),
        Kind::Float => float(text).map(|value| PyFloat::new(py, value).into_any()),
        Kind::Bool => bool_of(text).map(|value| PyBool::new(py, value).to_owned().into_any()),
        Kind::Datetime { has_zone } => match datetime(text, has_zone) {
            None => None,
            Some(micros) => Some(moment(py, micros, has_zone)?),
        },
        Kind::Text => std::str::from_utf8(text).ok().map(|text| known.text(py, text)),
    })
}

fn moment(py: Python<'_>, micros: i64, has_zone: bool) -> PyResult<Bound<'_, PyAny>> {
    let (day, micros) = (micros.div_euclid(86_400 * SECOND), micros.rem_euclid(86_400 * SECOND));
    let (year, month, day) = date_of(day);
    let seconds = micros / SECOND;
    let zone = if has_zone { Some(PyTzInfo::utc(py)?.to_owned()) } else { None };
    let moment = PyDateTime::new(
        py,
        year as i32,
        month as u8,
        day as u8,
        (seconds / 3600) as u8,
        (seconds / 60 % 60) as u8,
        (seconds % 60) as u8,
        (micros % SECOND) as u32,
        zone.as_ref(),
    )?;
    Ok(moment.into_any())
}

/// Texts of a column that were met before: most columns repeat theirs, and a known one has its hash.
struct Known<'py> {
    slots: Vec<Option<(u64, Bound<'py, PyString>)>>,
}

impl<'py> Known<'py> {
    fn new() -> Self {
        Self { slots: Vec::new() }
    }

    fn text(&mut self, py: Python<'py>, text: &str) -> Bound<'py, PyAny> {
        if text.len() > CACHED_BYTES {
            return PyString::new(py, text).into_any();
        }
        if self.slots.is_empty() {
            self.slots.resize_with(CACHE_SLOTS, || None);
        }
        let hash = onceflow_core::hash::hash_bytes(text.as_bytes());
        let slot = &mut self.slots[hash as usize % CACHE_SLOTS];
        match slot {
            Some((known, value))
                if *known == hash && value.to_str().is_ok_and(|value| value == text) =>
            {
                value.clone().into_any()
            }
            _ => {
                let value = PyString::new(py, text);
                *slot = Some((hash, value.clone()));
                value.into_any()
            }
        }
    }
}
