//! Blocks of a CSV file as columns or as dicts, without a line of Python for each.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_schema::Field;
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use pyo3_arrow::PyArray;

use crate::csv_fields::{Fields, Layout, Limits};
use crate::csv_rows::dicts;
use crate::csv_values::{Kind, Nulls, array, times};
use crate::error::invalid_argument;

/// Reads records of CSV out of blocks of a file where they have one reading only, the one of Python's ``csv`` in its
/// strict mode and of ``csv_types.py``. Of any other block it says None: read that by those.
///
/// Args:
///     width: Fields of a record.
///     delimiter: One ASCII character.
///     columns: Those that are asked for: name, number of the field, type as ``COLUMN_TYPES`` names it, and whether the
///         type was guessed, so that values must come back as they are written.
///     nulls: Texts that mean that a value is missing.
///     event_time: The column that holds it, in the same way.
///     is_utf8: The text is UTF-8; otherwise what is not ASCII is left to others.
///
/// Raises:
///     ConfigurationError: No such type, or no such field.
#[pyclass(frozen, module = "onceflow._native", name = "_CsvBlocks")]
pub(crate) struct PyCsvBlocks {
    layout: Layout,
    columns: Vec<(Py<PyString>, Kind)>,
    nulls: Nulls,
    /// Where among the fields that are taken, and how it is written.
    event_time: Option<(usize, Kind)>,
    is_utf8: bool,
}

/// Name, number of the field, type, and whether that was guessed.
type Asked = (Py<PyString>, usize, String, bool);
/// Records, lines and bytes that were taken.
type Size = (usize, usize, usize);
type Times<'py> = Option<Bound<'py, PyArray1<i64>>>;

#[pymethods]
impl PyCsvBlocks {
    #[new]
    #[pyo3(signature = (*, width, delimiter, columns, nulls, event_time, is_utf8))]
    fn new(
        width: usize,
        delimiter: char,
        columns: Vec<Asked>,
        nulls: Vec<String>,
        event_time: Option<Asked>,
        is_utf8: bool,
    ) -> PyResult<Self> {
        let mut wanted: Vec<usize> = columns.iter().map(|(_, field, _, _)| *field).collect();
        let columns = columns
            .into_iter()
            .map(|(name, _, kind, exact)| Ok((name, kind_of(&kind, exact)?)))
            .collect::<PyResult<_>>()?;
        let event_time = event_time.map(|(_, field, kind, exact)| {
            let known = wanted.iter().position(|other| *other == field);
            let taken = known.unwrap_or_else(|| {
                wanted.push(field);
                wanted.len() - 1
            });
            Ok::<_, PyErr>((taken, kind_of(&kind, exact)?))
        });
        let delimiter = u8::try_from(delimiter).ok().filter(u8::is_ascii);
        let layout = delimiter.and_then(|delimiter| Layout::new(delimiter, width, &wanted));
        Ok(Self {
            layout: layout.ok_or_else(|| {
                invalid_argument(
                    "delimiter or columns: not of an ASCII character, or no such field",
                )
            })?,
            columns,
            nulls: Nulls::new(nulls.into_iter().map(String::into_bytes).collect()),
            event_time: event_time.transpose()?,
            is_utf8,
        })
    }

    /// Records as Arrow arrays.
    ///
    /// Args:
    ///     data: Whole lines.
    ///     start: Where the first record begins in them.
    ///     lines, batch_bytes: Records are taken that begin in so many lines, or in so many bytes of lines without
    ///         their ends if that is less, but one line at least.
    ///     record_bytes: A record of several lines has no more.
    ///     is_end: Nothing follows the block.
    ///
    /// Returns:
    ///     An array a column, the event times, and how many records (blank lines too), lines and bytes that is; None
    ///     if something may have another reading.
    #[pyo3(signature = (data, start, lines, *, batch_bytes, record_bytes, is_end))]
    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn columns<'py>(
        &self,
        py: Python<'py>,
        data: &[u8],
        start: usize,
        lines: usize,
        batch_bytes: usize,
        record_bytes: usize,
        is_end: bool,
    ) -> PyResult<Option<(Vec<PyArray>, Times<'py>, Size)>> {
        let limits = Limits { lines, batch_bytes, record_bytes, is_end };
        let found = py.detach(|| {
            let fields = self.fields(data, start, &limits)?;
            let columns = self.columns.iter().zip(&fields.columns);
            let arrays: Vec<ArrayRef> = columns
                .map(|((_, kind), spans)| array(&fields, spans, *kind, &self.nulls))
                .collect::<Option<_>>()?;
            Some((arrays, self.times(&fields)?, size(&fields)))
        });
        Ok(found.map(|(arrays, times, size)| {
            let arrays = arrays.into_iter().map(|array| {
                let field = Arc::new(Field::new("", array.data_type().clone(), true));
                PyArray::new(array, field)
            });
            (arrays.collect(), times.map(|times| times.into_pyarray(py)), size)
        }))
    }

    /// Records as dicts; see ``columns``.
    #[pyo3(signature = (data, start, lines, *, batch_bytes, record_bytes, is_end))]
    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn rows<'py>(
        &self,
        py: Python<'py>,
        data: &[u8],
        start: usize,
        lines: usize,
        batch_bytes: usize,
        record_bytes: usize,
        is_end: bool,
    ) -> PyResult<Option<(Bound<'py, PyList>, Times<'py>, Size)>> {
        let limits = Limits { lines, batch_bytes, record_bytes, is_end };
        let found = py.detach(|| {
            let fields = self.fields(data, start, &limits)?;
            let times = self.times(&fields)?;
            Some((fields, times))
        });
        let Some((fields, times)) = found else { return Ok(None) };
        let rows = dicts(py, &fields, &self.columns, &self.nulls)?;
        let times = times.map(|times| times.into_pyarray(py));
        Ok(rows.map(|rows| (rows, times, size(&fields))))
    }
}

impl PyCsvBlocks {
    fn fields<'a>(&self, data: &'a [u8], start: usize, limits: &Limits) -> Option<Fields<'a>> {
        let fields = Fields::split(data, start, &self.layout, limits)?;
        let taken = fields.taken(start);
        let is_sound = if self.is_utf8 { str::from_utf8(taken).is_ok() } else { taken.is_ascii() };
        is_sound.then_some(fields)
    }

    /// `None` if one may be none.
    #[allow(clippy::option_option)]
    fn times(&self, fields: &Fields<'_>) -> Option<Option<Vec<i64>>> {
        let Some((column, kind)) = self.event_time else { return Some(None) };
        times(fields, &fields.columns[column], kind, &self.nulls).map(Some)
    }
}

fn size(fields: &Fields<'_>) -> Size {
    (fields.records, fields.lines, fields.bytes)
}

fn kind_of(name: &str, exact: bool) -> PyResult<Kind> {
    Ok(match name {
        "int" => Kind::Int { exact },
        "float" => Kind::Float,
        "bool" => Kind::Bool,
        "datetime" => Kind::Datetime { has_zone: false },
        "datetime_utc" => Kind::Datetime { has_zone: true },
        "str" => Kind::Text,
        _ => return Err(invalid_argument(format!("columns: no type {name:?}"))),
    })
}
