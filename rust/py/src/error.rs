//! Errors of the core as the exceptions of `onceflow.exceptions`, found by their kind.

use onceflow_core::{Error, ErrorKind};
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

/// The exception of an error's kind, with its text.
pub(crate) fn to_py(error: Error) -> PyErr {
    Python::attach(|py| {
        let raise = || -> PyResult<PyErr> {
            let class = errors_by_kind(py)?.as_any().get_item(error.kind().as_str())?;
            Ok(PyErr::from_value(class.call1((error.to_string(),))?))
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
