//! `Table`, its schema, and the rows it hands out.

use numpy::{IntoPyArray, PyArray1};
use onceflow_core::backend::{Backend, SharedTable};
use onceflow_core::state::{Column, ColumnType, KeyType, Op, Rows, Schema, Table, Update};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict, PyList, PyString, PyTuple};

use crate::args::{self, Arg};
use crate::arrow;
use crate::columns::{self, Values};
use crate::error::{invalid_argument, to_py, unknown_name};
use crate::keys::{self, KeyBatch};

/// Batches from this size on release the GIL: below, releasing costs more than the work.
const DETACH_ROWS: usize = 4096;

/// Keyed state: one row a key; whole batches at a time, from several threads if need be.
///
/// Keys and values are lists, numpy arrays of any layout and byte order, or Arrow arrays (pyarrow,
/// polars and whatever else has ``__arrow_c_array__`` or ``__arrow_c_stream__``); tuple keys also a
/// tuple of one such array for each element. A value may also be one scalar for the batch. They are
/// converted to the table's types where that changes no value, and refused elsewhere: None and nulls
/// (filter them out), masked values, floats for integers, bools for numbers, numbers out of range or
/// not exact (0.1 in an f32 column: give ``numpy.float32(0.1)``), Arrow arrays that are not valid.
///
/// Every call on a batch raises, and then leaves the table as it was:
///     TypeMismatchError, LengthMismatchError, UnknownNameError, ConfigurationError: What was given.
///     StateOverflowError: A sum would leave the range of its column.
///     NotANumberError: NaN, or an infinity in a sum.
///     CapacityExceededError: The table would pass ``max_state_bytes``.
#[pyclass(name = "Table", module = "onceflow._native", frozen)]
pub(crate) struct PyTable {
    name: String,
    schema: Schema,
    table: SharedTable,
    backend: Backend,
}

impl PyTable {
    pub(crate) fn new(name: &str, schema: Schema, table: SharedTable, backend: Backend) -> Self {
        Self { name: name.to_owned(), schema, table, backend }
    }

    /// Works on the table, then lets a capture go on. The table is never waited for with the GIL.
    fn with<R: Send>(
        &self,
        py: Python<'_>,
        rows: usize,
        work: impl FnOnce(&mut Table) -> onceflow_core::Result<R> + Send,
    ) -> PyResult<R> {
        // Before the lock, which another thread may have held when a child was forked.
        self.backend.check_open().map_err(to_py)?;
        let work = |table: &mut Table| {
            table.check_in_use()?;
            work(table)
        };
        let quick = if rows < DETACH_ROWS { self.table.try_lock() } else { None };
        let result = match quick {
            Some(mut table) => {
                let result = work(&mut table);
                drop(table);
                self.backend.poll();
                result
            }
            None => py.detach(|| {
                let result = work(&mut self.table.lock());
                self.backend.poll();
                result
            }),
        };
        result.map_err(to_py)
    }

    fn column(&self, name: &str) -> PyResult<(usize, ColumnType)> {
        let columns = &self.schema.columns;
        let found = columns.iter().position(|(known, _)| known == name);
        found.map(|index| (index, columns[index].1)).ok_or_else(|| {
            let known: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
            unknown_name(format!("table {:?} has no column {name:?}; it has {known:?}", self.name))
        })
    }

    fn apply(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        updates: Vec<(usize, Op, Values<'_>)>,
    ) -> PyResult<()> {
        let keys = KeyBatch::read(&self.schema.key, keys)?;
        let rows = keys.len()?;
        let keys = keys.as_keys()?;
        let updates: Vec<Update<'_>> = updates
            .iter()
            .map(|(column, op, values)| {
                Ok(Update { column: *column, op: *op, operand: values.operand()? })
            })
            .collect::<PyResult<_>>()?;
        self.with(py, rows, |table| table.update(keys, &updates))
    }

    fn apply_all(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        op: Op,
        values: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let mut updates = Vec::new();
        for (name, values) in values.into_iter().flatten() {
            let name: String = args::read("a column's name", &name)?;
            let (column, column_type) = self.column(&name)?;
            updates.push((column, op, Values::read(&name, column_type, &values)?));
        }
        self.apply(py, keys, updates)
    }

    fn batch(&self, rows: Rows, found: Option<Vec<bool>>) -> PyRows {
        PyRows { schema: self.schema.clone(), rows, found }
    }
}

#[pymethods]
impl PyTable {
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    #[getter]
    fn schema(&self) -> PyTableSchema {
        PyTableSchema { schema: self.schema.clone() }
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, 0, |table| Ok(table.len()))
    }

    fn __repr__(&self) -> String {
        format!("Table({:?}, {})", self.name, self.schema)
    }

    /// Several columns in one pass: ``{"sum": ("add", values), "count": ("count", None)}``.
    ///
    /// Operations: add, min, max, first, last (= put), count (adds one to an integer column for
    /// each key; its values are None).
    fn update(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        updates: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let updates = args::as_dict("updates", updates)?;
        let mut read = Vec::new();
        for (name, update) in updates {
            let name: String = args::read("a column's name", &name)?;
            let (op, values): (String, Bound<'_, PyAny>) = update.extract().map_err(|_| {
                invalid_argument(format!(
                    "the update of column {name:?} must be a pair (operation, values)"
                ))
            })?;
            let (column, column_type) = self.column(&name)?;
            let op = match op.as_str() {
                "add" => Op::Add,
                "min" => Op::Min,
                "max" => Op::Max,
                "first" => Op::First,
                "last" | "put" => Op::Last,
                "count" => {
                    read.push((column, Op::Add, Values::one(&name, column_type)?));
                    continue;
                }
                other => {
                    return Err(invalid_argument(format!(
                        "unknown operation {other:?} for column {name:?}: add, min, max, first, \
                         last, put or count"
                    )));
                }
            };
            read.push((column, op, Values::read(&name, column_type, &values)?));
        }
        self.apply(py, keys, read)
    }

    /// Adds to number columns; a cell that was never set takes the value.
    #[pyo3(signature = (keys, /, **values))]
    fn add(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        values: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.apply_all(py, keys, Op::Add, values)
    }

    /// Keeps the least value of number columns.
    #[pyo3(signature = (keys, /, **values))]
    fn min(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        values: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.apply_all(py, keys, Op::Min, values)
    }

    /// Keeps the greatest value of number columns.
    #[pyo3(signature = (keys, /, **values))]
    fn max(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        values: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.apply_all(py, keys, Op::Max, values)
    }

    /// Sets cells that were never set.
    #[pyo3(signature = (keys, /, **values))]
    fn first(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        values: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.apply_all(py, keys, Op::First, values)
    }

    /// Sets cells; the last one of a key counts. The same as ``put``.
    #[pyo3(signature = (keys, /, **values))]
    fn last(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        values: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.apply_all(py, keys, Op::Last, values)
    }

    /// Sets cells; other columns of the row stay as they are.
    #[pyo3(signature = (keys, /, **values))]
    fn put(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        values: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.apply_all(py, keys, Op::Last, values)
    }

    /// Adds one to an integer column (or f64) for each key.
    fn count(&self, py: Python<'_>, keys: &Bound<'_, PyAny>, column: Arg<String>) -> PyResult<()> {
        let column = column.named("column")?;
        let (index, column_type) = self.column(&column)?;
        self.apply(py, keys, vec![(index, Op::Add, Values::one(&column, column_type)?)])
    }

    /// One row a key in the order of ``keys``; ``found`` says which are there.
    fn get(&self, py: Python<'_>, keys: &Bound<'_, PyAny>) -> PyResult<PyRows> {
        let batch = KeyBatch::read(&self.schema.key, keys)?;
        let rows = batch.len()?;
        let borrowed = batch.as_keys()?;
        let (columns, found) = self.with(py, rows, |table| table.get(borrowed))?;
        Ok(self.batch(Rows { keys: keys::owned(borrowed), columns }, Some(found)))
    }

    /// The rows of those keys that are there, each once, in the order in which the keys first occur; and the index
    /// in ``keys`` of each one's first occurrence.
    fn get_distinct<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
    ) -> PyResult<(PyRows, Bound<'py, PyArray1<i64>>)> {
        let batch = KeyBatch::read(&self.schema.key, keys)?;
        let (count, keys) = (batch.len()?, batch.as_keys()?);
        let (rows, indices) = self.with(py, count, |table| table.get_distinct(keys))?;
        Ok((self.batch(rows, None), indices.into_pyarray(py)))
    }

    /// One value a key of a bytes column; None where the key or the cell is missing.
    fn get_bytes<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
        column: Arg<String>,
    ) -> PyResult<Bound<'py, PyList>> {
        let column = column.named("column")?;
        let (index, column_type) = self.column(&column)?;
        if column_type != ColumnType::Bytes {
            return Err(crate::error::type_mismatch(format!(
                "column {column:?} is {}, not bytes; use get",
                column_type.name()
            )));
        }
        let batch = self.get(py, keys)?;
        let column = &batch.rows.columns[index];
        let values = columns::to_python(py, column)?.into_bound(py).cast_into::<PyList>()?;
        if let Some(validity) = &column.validity {
            for (row, set) in validity.iter().enumerate() {
                if !set {
                    values.set_item(row, py.None())?;
                }
            }
        }
        Ok(values)
    }

    /// For each key whether it has a row.
    fn contains<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<bool>>> {
        let batch = KeyBatch::read(&self.schema.key, keys)?;
        let (rows, keys) = (batch.len()?, batch.as_keys()?);
        Ok(self.with(py, rows, |table| table.contains(keys))?.into_pyarray(py))
    }

    /// Removes rows; for each key whether there was one.
    fn delete<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<bool>>> {
        let batch = KeyBatch::read(&self.schema.key, keys)?;
        let (rows, keys) = (batch.len()?, batch.as_keys()?);
        Ok(self.with(py, rows, |table| table.delete(keys))?.into_pyarray(py))
    }

    /// All rows of key groups ``first_group <= g < end_group``, in hash order, or sorted by key.
    #[pyo3(
        signature = (first_group = Arg::of(0), end_group = None, *, sort = Arg::of(false)),
        text_signature = "($self, first_group=0, end_group=None, *, sort=False)",
    )]
    fn scan(
        &self,
        py: Python<'_>,
        first_group: Arg<u16>,
        end_group: Option<Arg<u16>>,
        sort: Arg<bool>,
    ) -> PyResult<PyRows> {
        let first = first_group.named("first_group")?;
        let all = self.backend.key_groups();
        let end = args::optional("end_group", end_group)?.unwrap_or(all);
        if first > end || end > all {
            return Err(invalid_argument(format!(
                "key groups {first} to {end} are not a range of the {all} key groups"
            )));
        }
        let groups = first..end;
        let sort = sort.named("sort")?;
        let rows = self.with(py, usize::MAX, |table| {
            Ok(if sort { table.scan_sorted(groups) } else { table.scan(groups) })
        })?;
        Ok(self.batch(rows, None))
    }

    /// Removes and returns the rows whose key (or its first element), an i64, is below ``bound``; sorted by key.
    fn drain_below(&self, py: Python<'_>, bound: Arg<i64>) -> PyResult<PyRows> {
        let bound = bound.named("bound")?;
        let rows = self.with(py, usize::MAX, |table| table.drain_below(bound))?;
        Ok(self.batch(rows, None))
    }

    /// Memory that the table holds, free slots included.
    fn memory_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, 0, |table| Ok(table.memory_bytes()))
    }
}

/// Types of a table's key and columns.
#[pyclass(name = "TableSchema", module = "onceflow._native", frozen, eq)]
#[derive(PartialEq)]
pub(crate) struct PyTableSchema {
    pub(crate) schema: Schema,
}

#[pymethods]
impl PyTableSchema {
    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(match &self.schema.key {
            KeyType::Tuple(types) => PyTuple::new(py, types.iter().map(KeyType::name))?.into_any(),
            key => PyString::new(py, &key.name()).into_any(),
        })
    }

    #[getter]
    fn columns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let columns = PyDict::new(py);
        for (name, column) in &self.schema.columns {
            columns.set_item(name, column.name())?;
        }
        Ok(columns)
    }

    fn __repr__(&self) -> String {
        format!("TableSchema({})", self.schema)
    }
}

/// Rows handed out by a table.
#[pyclass(name = "Rows", module = "onceflow._native", frozen)]
pub(crate) struct PyRows {
    schema: Schema,
    rows: Rows,
    /// `None`: all rows are there.
    found: Option<Vec<bool>>,
}

impl PyRows {
    fn rows(&self) -> usize {
        keys::count(&self.rows.keys)
    }

    fn column(&self, column: &str) -> PyResult<&Column> {
        let index = self.schema.columns.iter().position(|(name, _)| name == column);
        index
            .and_then(|index| self.rows.columns.get(index))
            .ok_or_else(|| unknown_name(format!("no column {column:?} in this batch")))
    }
}

#[pymethods]
impl PyRows {
    fn __len__(&self) -> usize {
        self.rows()
    }

    /// numpy array (i64, u64), list of str/bytes, or list of tuples.
    #[getter]
    fn keys(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        keys::to_python(py, &self.schema.key, &self.rows.keys)
    }

    /// For each element of the keys a numpy array (i64, u64) or a list of str or bytes.
    fn key_columns(&self, py: Python<'_>) -> PyResult<Py<PyTuple>> {
        keys::elements(py, &self.schema.key, &self.rows.keys)
    }

    /// A copy of the rows ``start <= row < stop``.
    fn slice(&self, start: Arg<usize>, stop: Arg<usize>) -> PyResult<Self> {
        let stop = stop.named("stop")?.min(self.rows());
        let range = start.named("start")?.min(stop)..stop;
        Ok(Self {
            schema: self.schema.clone(),
            rows: self.rows.slice(range.clone()),
            found: self.found.as_ref().map(|found| found[range].to_vec()),
        })
    }

    #[getter]
    fn found<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<bool>> {
        self.found.clone().unwrap_or_else(|| vec![true; self.rows()]).into_pyarray(py)
    }

    /// numpy array for each fixed-width column, list of bytes for a bytes column.
    #[getter]
    fn columns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let columns = PyDict::new(py);
        for ((name, _), column) in self.schema.columns.iter().zip(&self.rows.columns) {
            columns.set_item(name, columns::to_python(py, column)?)?;
        }
        Ok(columns)
    }

    /// True if no cell of the column is unset.
    fn is_complete(&self, column: Arg<String>) -> PyResult<bool> {
        Ok(self.column(&column.named("column")?)?.validity.is_none())
    }

    /// Which rows of a column have a value.
    fn validity<'py>(
        &self,
        py: Python<'py>,
        column: Arg<String>,
    ) -> PyResult<Bound<'py, PyArray1<bool>>> {
        let validity = self.column(&column.named("column")?)?.validity.clone();
        Ok(validity.unwrap_or_else(|| vec![true; self.rows()]).into_pyarray(py))
    }

    /// A struct array: key column(s), then the columns; unset cells are null.
    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyCapsule>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        arrow::export(py, &self.schema, &self.rows, requested_schema)
    }
}

/// A key type from its name, or from a sequence of names.
pub(crate) fn key_type(key: &Bound<'_, PyAny>) -> PyResult<KeyType> {
    if let Ok(name) = key.cast::<PyString>() {
        return match name.to_string_lossy().as_ref() {
            "i64" => Ok(KeyType::I64),
            "u64" => Ok(KeyType::U64),
            "bytes" => Ok(KeyType::Bytes),
            "str" => Ok(KeyType::Str),
            other => Err(invalid_argument(format!(
                "unknown key type {other:?}: i64, u64, bytes, str, or a tuple of these"
            ))),
        };
    }
    let elements: Vec<Bound<'_, PyAny>> = key.extract().map_err(|_| {
        invalid_argument(format!(
            "{key} is not a key type: i64, u64, bytes, str, or a tuple of these"
        ))
    })?;
    Ok(KeyType::Tuple(elements.iter().map(key_type).collect::<PyResult<_>>()?))
}

/// A schema from names of types.
pub(crate) fn schema(key: &Bound<'_, PyAny>, columns: &Bound<'_, PyAny>) -> PyResult<Schema> {
    let columns = args::as_dict("columns", columns)?
        .iter()
        .map(|(name, column)| {
            let name = args::read("a column's name", &name)?;
            let column = match column.to_string().as_str() {
                "i64" => ColumnType::I64,
                "u64" => ColumnType::U64,
                "f64" => ColumnType::F64,
                "f32" => ColumnType::F32,
                "u32" => ColumnType::U32,
                "bool" => ColumnType::Bool,
                "bytes" => ColumnType::Bytes,
                other => {
                    return Err(invalid_argument(format!(
                        "unknown type {other:?} of column {name}: i64, u64, f64, f32, u32, bool or \
                         bytes"
                    )));
                }
            };
            Ok((name, column))
        })
        .collect::<PyResult<_>>()?;
    Ok(Schema { key: key_type(key)?, columns })
}
