//! `Table`, its schema, and the rows it hands out.

use numpy::{IntoPyArray, PyArray1};
use onceflow_core::backend::{Backend, SharedTable};
use onceflow_core::state::{Column, ColumnType, KeyType, Op, Rows, Schema, Table, Update};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict, PyList, PyString, PyTuple};

use crate::arrow;
use crate::columns::{self, Values};
use crate::error::{invalid_argument, to_py, unknown_name};
use crate::keys::{self, KeyBatch};

/// Batches from this size on release the GIL: below, releasing costs more than the work.
const DETACH_ROWS: usize = 4096;

/// See `onceflow.Table`.
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
            let name: String = name.extract()?;
            let (column, column_type) = self.column(&name)?;
            updates.push((column, op, Values::read(&name, column_type, &values)?));
        }
        self.apply(py, keys, updates)
    }

    fn batch(&self, rows: Rows, found: Option<Vec<bool>>) -> PyBatch {
        PyBatch { schema: self.schema.clone(), rows, found }
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
        format!("Table({:?}, {})", self.name, describe(&self.schema))
    }

    fn update(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        updates: &Bound<'_, PyDict>,
    ) -> PyResult<()> {
        let mut read = Vec::new();
        for (name, update) in updates {
            let name: String = name.extract()?;
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

    #[pyo3(signature = (keys, /, **values))]
    fn add(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        values: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.apply_all(py, keys, Op::Add, values)
    }

    #[pyo3(signature = (keys, /, **values))]
    fn min(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        values: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.apply_all(py, keys, Op::Min, values)
    }

    #[pyo3(signature = (keys, /, **values))]
    fn max(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        values: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.apply_all(py, keys, Op::Max, values)
    }

    #[pyo3(signature = (keys, /, **values))]
    fn first(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        values: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.apply_all(py, keys, Op::First, values)
    }

    #[pyo3(signature = (keys, /, **values))]
    fn last(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        values: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.apply_all(py, keys, Op::Last, values)
    }

    #[pyo3(signature = (keys, /, **values))]
    fn put(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        values: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.apply_all(py, keys, Op::Last, values)
    }

    fn count(&self, py: Python<'_>, keys: &Bound<'_, PyAny>, column: &str) -> PyResult<()> {
        let (index, column_type) = self.column(column)?;
        self.apply(py, keys, vec![(index, Op::Add, Values::one(column, column_type)?)])
    }

    fn get(&self, py: Python<'_>, keys: &Bound<'_, PyAny>) -> PyResult<PyBatch> {
        let batch = KeyBatch::read(&self.schema.key, keys)?;
        let rows = batch.len()?;
        let borrowed = batch.as_keys()?;
        let (columns, found) = self.with(py, rows, |table| table.get(borrowed))?;
        Ok(self.batch(Rows { keys: keys::owned(borrowed), columns }, Some(found)))
    }

    fn get_distinct<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
    ) -> PyResult<(PyBatch, Bound<'py, PyArray1<i64>>)> {
        let batch = KeyBatch::read(&self.schema.key, keys)?;
        let (count, keys) = (batch.len()?, batch.as_keys()?);
        let (rows, indices) = self.with(py, count, |table| table.get_distinct(keys))?;
        Ok((self.batch(rows, None), indices.into_pyarray(py)))
    }

    fn get_bytes<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
        column: &str,
    ) -> PyResult<Bound<'py, PyList>> {
        let (index, column_type) = self.column(column)?;
        if column_type != ColumnType::Bytes {
            return Err(crate::error::type_mismatch(format!(
                "column {column:?} is {}, not bytes; use get",
                type_name(column_type)
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

    fn contains<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<bool>>> {
        let batch = KeyBatch::read(&self.schema.key, keys)?;
        let (rows, keys) = (batch.len()?, batch.as_keys()?);
        Ok(self.with(py, rows, |table| table.contains(keys))?.into_pyarray(py))
    }

    fn delete<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<bool>>> {
        let batch = KeyBatch::read(&self.schema.key, keys)?;
        let (rows, keys) = (batch.len()?, batch.as_keys()?);
        Ok(self.with(py, rows, |table| table.delete(keys))?.into_pyarray(py))
    }

    #[pyo3(signature = (first_group = 0, end_group = None, *, sort = false))]
    fn scan(
        &self,
        py: Python<'_>,
        first_group: u16,
        end_group: Option<u16>,
        sort: bool,
    ) -> PyResult<PyBatch> {
        let groups = first_group..end_group.unwrap_or_else(|| self.backend.key_groups());
        let rows = self.with(py, usize::MAX, |table| {
            Ok(if sort { table.scan_sorted(groups) } else { table.scan(groups) })
        })?;
        Ok(self.batch(rows, None))
    }

    fn drain_below(&self, py: Python<'_>, bound: i64) -> PyResult<PyBatch> {
        let rows = self.with(py, usize::MAX, |table| table.drain_below(bound))?;
        Ok(self.batch(rows, None))
    }

    fn memory_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, 0, |table| Ok(table.memory_bytes()))
    }
}

/// See `onceflow.TableSchema`.
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
            KeyType::Tuple(types) => PyTuple::new(py, types.iter().map(key_name))?.into_any(),
            key => PyString::new(py, key_name(key)).into_any(),
        })
    }

    #[getter]
    fn columns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let columns = PyDict::new(py);
        for (name, column) in &self.schema.columns {
            columns.set_item(name, type_name(*column))?;
        }
        Ok(columns)
    }

    fn __repr__(&self) -> String {
        format!("TableSchema({})", describe(&self.schema))
    }
}

/// See `onceflow.Batch`.
#[pyclass(name = "Batch", module = "onceflow._native", frozen)]
pub(crate) struct PyBatch {
    schema: Schema,
    rows: Rows,
    /// `None`: all rows are there.
    found: Option<Vec<bool>>,
}

impl PyBatch {
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
impl PyBatch {
    fn __len__(&self) -> usize {
        self.rows()
    }

    #[getter]
    fn keys(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        keys::to_python(py, &self.schema.key, &self.rows.keys)
    }

    fn key_columns(&self, py: Python<'_>) -> PyResult<Py<PyTuple>> {
        keys::elements(py, &self.schema.key, &self.rows.keys)
    }

    fn slice(&self, start: usize, stop: usize) -> Self {
        let stop = stop.min(self.rows());
        let range = start.min(stop)..stop;
        Self {
            schema: self.schema.clone(),
            rows: self.rows.slice(range.clone()),
            found: self.found.as_ref().map(|found| found[range].to_vec()),
        }
    }

    #[getter]
    fn found<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<bool>> {
        self.found.clone().unwrap_or_else(|| vec![true; self.rows()]).into_pyarray(py)
    }

    #[getter]
    fn columns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let columns = PyDict::new(py);
        for ((name, _), column) in self.schema.columns.iter().zip(&self.rows.columns) {
            columns.set_item(name, columns::to_python(py, column)?)?;
        }
        Ok(columns)
    }

    fn is_complete(&self, column: &str) -> PyResult<bool> {
        Ok(self.column(column)?.validity.is_none())
    }

    fn validity<'py>(&self, py: Python<'py>, column: &str) -> PyResult<Bound<'py, PyArray1<bool>>> {
        let validity = self.column(column)?.validity.clone();
        Ok(validity.unwrap_or_else(|| vec![true; self.rows()]).into_pyarray(py))
    }

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
        return match name.to_str()? {
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
        invalid_argument(format!("{key} is no key type: i64, u64, bytes, str, or a tuple of these"))
    })?;
    Ok(KeyType::Tuple(elements.iter().map(key_type).collect::<PyResult<_>>()?))
}

/// A schema from names of types.
pub(crate) fn schema(key: &Bound<'_, PyAny>, columns: &Bound<'_, PyAny>) -> PyResult<Schema> {
    let columns = columns
        .py()
        .get_type::<PyDict>()
        .call1((columns,))
        .map_err(|_| {
            invalid_argument(format!("{columns} are no columns: give a dict of name and type"))
        })?
        .cast_into::<PyDict>()?;
    let columns = columns
        .iter()
        .map(|(name, column)| {
            let name = name
                .extract()
                .map_err(|_| invalid_argument(format!("{name} is no name of a column")))?;
            let column = match column.str()?.to_str()? {
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

fn key_name(key: &KeyType) -> &'static str {
    match key {
        KeyType::I64 => "i64",
        KeyType::U64 => "u64",
        KeyType::Bytes => "bytes",
        KeyType::Str => "str",
        KeyType::Tuple(_) => "tuple",
    }
}

fn type_name(column: ColumnType) -> &'static str {
    match column {
        ColumnType::I64 => "i64",
        ColumnType::U64 => "u64",
        ColumnType::F64 => "f64",
        ColumnType::F32 => "f32",
        ColumnType::U32 => "u32",
        ColumnType::Bool => "bool",
        ColumnType::Bytes => "bytes",
    }
}

fn describe(schema: &Schema) -> String {
    let key = match &schema.key {
        KeyType::Tuple(types) => {
            let names: Vec<&str> = types.iter().map(key_name).collect();
            format!("({})", names.join(", "))
        }
        key => key_name(key).to_owned(),
    };
    let columns: Vec<String> = schema
        .columns
        .iter()
        .map(|(name, column)| format!("{name}: {}", type_name(*column)))
        .collect();
    format!("key={key}, columns={{{}}}", columns.join(", "))
}
