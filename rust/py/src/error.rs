//! Errors of the core as the exceptions of `onceflow.exceptions`, found by their kind.

use onceflow_core::{Detail, Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

/// `onceflow.exceptions.ERRORS_BY_KIND`, the only list of classes.
fn errors_by_kind(py: Python<'_>) -> PyResult<&Bound<'_, PyDict>> {
    static CLASSES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let classes = CLASSES.get_or_try_init(py, || {
        let module = py.import("onceflow.exceptions")?;
        Ok::<_, PyErr>(module.getattr("ERRORS_BY_KIND")?.cast_into::<PyDict>()?.unbind())
    })?;
    Ok(classes.bind(py))
}

/// The fields of an exception, by the names that its class has for them.
fn fields<'py>(py: Python<'py>, detail: &Detail) -> PyResult<Bound<'py, PyDict>> {
    let fields = PyDict::new(py);
    match detail {
        Detail::Process { pid } => fields.set_item("pid", pid)?,
        Detail::Epochs { epoch, newer } => {
            fields.set_item("epoch", epoch)?;
            fields.set_item("newer_epoch", newer)?;
        }
        Detail::Topic { topic } => fields.set_item("topic", topic)?,
        Detail::Partition { topic, partition } => {
            fields.set_item("topic", topic)?;
            fields.set_item("partition", partition)?;
        }
        Detail::Offsets { topic, partition, offset, low, high } => {
            fields.set_item("topic", topic)?;
            fields.set_item("partition", partition)?;
            fields.set_item("offset", offset)?;
            fields.set_item("low", low)?;
            fields.set_item("high", high)?;
        }
        Detail::Size { size, limit } => {
            fields.set_item("size", size)?;
            fields.set_item("limit", limit)?;
        }
        Detail::Sequences { expected, got } => {
            fields.set_item("expected", expected)?;
            fields.set_item("got", got)?;
        }
        Detail::Member { group, member } => {
            fields.set_item("group", group)?;
            fields.set_item("member", member)?;
        }
        Detail::Generations { group, member, current, got } => {
            fields.set_item("group", group)?;
            fields.set_item("member", member)?;
            fields.set_item("generation", got)?;
            fields.set_item("current_generation", current)?;
        }
        Detail::Checkpoint { id } => fields.set_item("checkpoint", id)?,
        Detail::Bound { setting, needed, limit } => {
            fields.set_item("setting", setting)?;
            fields.set_item("needed", needed)?;
            fields.set_item("limit", limit)?;
        }
        Detail::Setting { setting, stored, given } => {
            fields.set_item("setting", setting)?;
            fields.set_item("stored", stored)?;
            fields.set_item("given", given)?;
        }
        Detail::Format { version, newest } => {
            fields.set_item("version", version)?;
            fields.set_item("newest", newest)?;
        }
        Detail::Argument { setting } => fields.set_item("setting", setting)?,
        // One that is not known here says it in its text.
        _ => {}
    }
    Ok(fields)
}

/// The exception of an error's kind, with its text and fields.
pub(crate) fn to_py(error: Error) -> PyErr {
    Python::attach(|py| {
        let raise = || -> PyResult<PyErr> {
            let class = errors_by_kind(py)?.as_any().get_item(error.kind().as_str())?;
            let fields = error.detail().map(|detail| fields(py, detail)).transpose()?;
            Ok(PyErr::from_value(class.call((error.to_string(),), fields.as_ref())?))
        };
        raise().unwrap_or_else(|failure| failure)
    })
}

/// An argument that cannot be.
pub(crate) fn invalid_argument(message: impl Into<String>) -> PyErr {
    to_py(Error::new(ErrorKind::InvalidArgument, message))
}

/// A value of another type than what it is for.
pub(crate) fn type_mismatch(message: impl Into<String>) -> PyErr {
    to_py(Error::new(ErrorKind::TypeMismatch, message))
}

/// Arrays of one batch that differ in length.
pub(crate) fn length_mismatch(message: impl Into<String>) -> PyErr {
    to_py(Error::new(ErrorKind::LengthMismatch, message))
}

/// A name that does not exist.
pub(crate) fn unknown_name(message: impl Into<String>) -> PyErr {
    to_py(Error::new(ErrorKind::UnknownName, message))
}
